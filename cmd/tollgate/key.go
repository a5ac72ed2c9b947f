package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

type keyCommand struct {
	settings
	Kind   tenant.KeyKind `enum:"admin,service,tenant" default:"admin" help:"admin, service or tenant."`
	Tenant string         `help:"Tenant, for a tenant key."`
	Name   string         `default:"made by tollgate key" help:"Name of the key: what it is for."`
}

// Run creates a key without needing one: a process that may open the database could write to the log anyway. It is the way back
// in when the last admin key is lost.
func (c keyCommand) Run(ctx context.Context, log *slog.Logger) error {
	s, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer s.Close()
	id, secret, err := s.Ledger.CreateKey(ctx, app.NewKey{Kind: c.Kind, Tenant: event.TenantID(c.Tenant), Name: c.Name}, rand.Reader, "cli")
	if err != nil {
		return err
	}
	fmt.Printf("id   %s\nkey  %s\n\nThe key is shown only once.\n", id, secret)
	return nil
}
