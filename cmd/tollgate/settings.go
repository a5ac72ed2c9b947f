package main

import (
	"cmp"
	"context"
	"log/slog"

	"github.com/tollgate-io/tollgate/cmd/stack"
	"github.com/tollgate-io/tollgate/domain/export"
)

// settings say where the ledger is. All commands share them.
type settings struct {
	DatabaseURL string   `env:"TOLLGATE_DATABASE_URL" placeholder:"URL" help:"PostgreSQL to use; default: a private server in the data folder."`
	DataDir     string   `env:"TOLLGATE_DATA_DIR" default:".tollgate" placeholder:"DIR" help:"Data folder."`
	EventStore  string   `env:"TOLLGATE_EVENT_STORE" default:"postgres" placeholder:"postgres|URL" help:"Where the log is: in postgres, or the URL of an EventStoreDB, such as esdb://user:password@host:2113."`
	BaseDomains []string `env:"TOLLGATE_BASE_DOMAINS" placeholder:"DOMAIN" help:"Domains of the product, such as product.com: slug.product.com is the host name of a tenant."`
	issuerNames
	Partitions int `env:"TOLLGATE_PARTITIONS" default:"0" hidden:"" help:"Partitions of a new log; fixed from then on."`
}

// issuerNames are the names of the seller and the host in exports.
type issuerNames struct {
	Issuer       string `env:"TOLLGATE_ISSUER" default:"Tollgate" help:"Issuer of the invoices in exports."`
	ServiceName  string `env:"TOLLGATE_SERVICE_NAME" help:"Service that is sold, in FOCUS exports; default: the issuer."`
	HostProvider string `env:"TOLLGATE_HOST_PROVIDER" help:"Owner of the infrastructure, in FOCUS exports; default: the issuer."`
}

func (n issuerNames) issuer() export.Issuer {
	name := cmp.Or(n.Issuer, "Tollgate")
	return export.Issuer{Name: name, Service: cmp.Or(n.ServiceName, name), Host: cmp.Or(n.HostProvider, name)}
}

func (c settings) config(log *slog.Logger) stack.Config {
	return stack.Config{DatabaseURL: c.DatabaseURL, DataDir: c.DataDir, EventStore: c.EventStore, Partitions: c.Partitions,
		BaseDomains: c.BaseDomains, Issuer: c.issuer(), Logger: log}
}

// open opens the ledger for a command that ends; its directory shows everything recorded so far.
func (c settings) open(ctx context.Context, log *slog.Logger) (*stack.Stack, error) {
	return stack.OpenReady(ctx, c.config(log))
}
