package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/tollgate-io/tollgate/"

// mayImport is the direction of dependencies: domain <- projections <- adapters <- cmd, domain <- api <- cmd.
var mayImport = map[string][]string{
	"domain":      {"domain"},
	"projections": {"projections", "domain"},
	"migrations":  {"migrations"},
	"adapters":    {"adapters", "projections", "domain", "migrations"},
	"api":         {"api", "domain"},
	"cmd":         {"cmd", "adapters", "api", "projections", "domain", "migrations"},
	"scripts":     {"scripts", "cmd", "adapters", "api", "projections", "domain", "migrations"},
}

// useCases are the rooms of the domain that have ports. No other room of the domain imports them, and they import each other
// only as said here.
var useCases = map[string][]string{
	"domain/app":       nil,
	"domain/limiter":   {"domain/app"},
	"domain/invoicing": {"domain/app"},
}

// loop is what the use cases share: it may import none of them.
const loop = "domain/optimistic"

// anyLog gives tests a log of each kind, and imports the adapters for it.
const anyLog = "adapters/storetest"

// rooms are the packages that the rules above and below are about. Each of them must exist: a renamed room would have no rule.
var rooms = []string{"domain/app", "domain/limiter", "domain/invoicing", loop, "cmd/stack", "cmd/tollgate",
	"adapters/postgres/log", "adapters/postgres/readmodels", "adapters/postgres/internal/pg", anyLog}

// domainLibraries are the only modules from outside that the domain may import: exact numbers, text and encodings.
var domainLibraries = []string{
	"github.com/cockroachdb/apd/", "github.com/go-json-experiment/json", "github.com/google/btree", "github.com/google/uuid", "go.yaml.in/yaml/",
	"golang.org/x/net/idna", "golang.org/x/text/", "google.golang.org/protobuf/encoding/protowire",
}

// inTree is whether the tests run where the source is, and not only the file with them on another machine.
func inTree() bool {
	_, err := os.Stat("../../go.mod")
	return err == nil
}

func TestDependenciesPointInwards(t *testing.T) {
	if !inTree() {
		t.Skip("this test reads the source, which is not here")
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, module+"...").Output()
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var packages []string
	for _, line := range lines {
		pkg, imports, _ := strings.Cut(line, " ")
		from := strings.TrimPrefix(pkg, module)
		packages = append(packages, from)
		for _, imported := range strings.Fields(imports) {
			if reason := forbidden(from, imported); reason != "" {
				t.Errorf("%s imports %s: %s", from, strings.TrimPrefix(imported, module), reason)
			}
		}
	}
	require.Subset(t, packages, rooms)
}

// forbidden says why a package must not import another one; "" when it may.
func forbidden(from, imported string) string {
	room := first(from)
	allowed, known := mayImport[room]
	to, ours := strings.CutPrefix(imported, module)
	switch {
	case !known:
		return "the package is in no room that mayImport names"
	case !ours:
		if room == "domain" && strings.Contains(first(imported), ".") && !strings.Contains(from, "test") && !startsWithAny(imported, domainLibraries) {
			return "it is not one of the libraries of the domain"
		}
	case !slices.Contains(allowed, first(to)):
		return "dependencies point inwards"
	case room == "adapters" && first(to) == "adapters" && firstTwo(from) != firstTwo(to) && from != anyLog:
		return "adapters do not import each other"
	case to == "cmd/stack" && from != "cmd/tollgate" && !strings.HasPrefix(from, "scripts/"):
		return "only the commands and the scripts open a stack"
	case room == "domain":
		return forbiddenInDomain(firstTwo(from), firstTwo(to))
	}
	return ""
}

func forbiddenInDomain(from, to string) string {
	if from == to {
		return ""
	}
	mayUse, isUseCase := useCases[from]
	if _, useCase := useCases[to]; useCase && !slices.Contains(mayUse, to) {
		return "no room of the domain imports these use cases"
	}
	if to == loop && !isUseCase {
		return "the optimistic loop is for use cases"
	}
	return ""
}

func TestForbiddenImports(t *testing.T) {
	for _, c := range []struct {
		from, to string
		allowed  bool
	}{
		{"domain/limiter", "domain/app", true},
		{"domain/invoicing", "domain/app", true},
		{"domain/app", "domain/limiter", false},
		{"domain/app", "domain/invoicing", false},
		{"domain/limiter", "domain/invoicing", false},
		{"domain/invoicing", "domain/limiter", false},
		{"domain/limiter", "domain/limit", true},
		{"domain/limit", "domain/limiter", false},
		{"domain/billing", "domain/app", false},
		{"domain/app", loop, true},
		{loop, "domain/eventstore", true},
		{loop, "domain/app", false},
		{"domain/billing", loop, false},
		{"domain/app", "projections", false},
		{"adapters/postgres/log", "adapters/postgres/internal/pg", true},
		{"adapters/postgres/readmodels", "adapters/postgres/log", true},
		{"adapters/postgres/readmodels", "adapters/postgresql", false},
		{"adapters/postgres/log", "adapters/eventstoredb", false},
		{anyLog, "adapters/eventstoredb", true},
		{"adapters/export", "api", false},
		{"api", "adapters/postgres/log", false},
		{"cmd/stack", "adapters/postgres/log", true},
		{"cmd/tollgate", "cmd/stack", true},
		{"scripts/bench", "cmd/stack", true},
		{"api", "cmd/stack", false},
		{"unheard", "domain/app", false},
	} {
		require.Equal(t, c.allowed, forbidden(c.from, module+c.to) == "", "%s imports %s", c.from, c.to)
	}
	require.Empty(t, forbidden("domain/money", "github.com/cockroachdb/apd/v3"))
	require.NotEmpty(t, forbidden("domain/money", "github.com/jackc/pgx/v5"))
}

func first(path string) string {
	head, _, _ := strings.Cut(path, "/")
	return head
}

func firstTwo(path string) string {
	parts := strings.SplitN(path, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

func startsWithAny(s string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}
