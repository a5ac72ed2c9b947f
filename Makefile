# `make` prints the targets. Tools run at an exact version through Go modules; nothing has to be installed by hand.
GOLANGCI  := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
CATALOG   ?= scripts/sample/catalog.yaml
FUZZTIME  ?= 60s
BENCH     ?= .

.DEFAULT_GOAL := help
.PHONY: help build run demo test race lint generate bench fuzz torture eventstore-test-binary clean

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/tollgate
	@go build -o bin/tollgate ./cmd/tollgate

run: build ## build and serve on a private Postgres, with the sample catalog
	@TOLLGATE_CATALOG=$${TOLLGATE_CATALOG:-$(CATALOG)} exec ./bin/tollgate serve

demo: build ## send the running server a realistic day of several tenants
	@./bin/tollgate demo

test: ## run all tests; needs only Go
	@go test -timeout 18m ./...

race: ## run all tests under the race detector
	@go test -race -timeout 30m ./...

lint: ## run golangci-lint
	@$(GOLANGCI) run ./...

generate: ## regenerate the generated code
	@go generate ./...

bench: ## measure speed and size as ratios to baselines of the same run; BENCH=regexp selects
	@go run ./scripts/bench -run '$(BENCH)'

fuzz: ## fuzz every parser for FUZZTIME (60s) each
	@./scripts/fuzz.sh $(FUZZTIME)

torture: ## long runs: kill -9 of servers and Postgres, EventStoreDB faults, 100,000 random accounts against the billing reference
	@go test -count=1 -timeout 60m ./domain/billing -rapid.checks=100000
	@go test -count=1 -timeout 60m -run Torture ./cmd/tollgate -args -torture=10
	@go test -count=1 -timeout 60m -run Torture ./adapters/eventstoredb -args -torture=1

eventstore-test-binary: ## build bin/eventstore.test, which runs all suites on the EventStoreDB at TOLLGATE_TEST_EVENTSTORE_URL
	@CGO_ENABLED=0 go test -c -trimpath -ldflags '-s -w' -o bin/eventstore.test ./cmd/tollgate

clean: ## remove what was built; keep the data folder
	@rm -rf bin
