package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The roles of the pools. The migrations make them and say what they may do; whoever connects must be a member.
const (
	logRole       = "tollgate_log"       // appends to the log and reads it
	projectorRole = "tollgate_projector" // owns the read models: folds, rebuilds, and asks about all tenants
	readerRole    = "tollgate_reader"    // serves requests: sees the rows of the tenant that is set
)

// Pools are the connections of a process, apart by purpose: one starved pool must not starve another. Those of
// requests and of the log can do nothing else.
type Pools struct {
	Log, Apply, Read *pgxpool.Pool
}

// logPool is enough for one commit per partition, readers of the log, and the listener.
const logPool = 12

// OpenPools opens the pools; read and apply are the sizes of those of the read models.
func OpenPools(ctx context.Context, url string, read, apply int32) (*Pools, error) {
	p := &Pools{}
	for _, open := range []func() error{
		func() (err error) { p.Log, err = NewLogPool(ctx, url, logPool); return err },
		func() (err error) { p.Apply, err = NewApplyPool(ctx, url, apply); return err },
		func() (err error) { p.Read, err = NewReadPool(ctx, url, read); return err },
	} {
		if err := open(); err != nil {
			p.Close()
			return nil, err
		}
	}
	return p, nil
}

// Close waits until all connections are given back.
func (p *Pools) Close() {
	for _, pool := range []*pgxpool.Pool{p.Log, p.Apply, p.Read} {
		if pool != nil {
			pool.Close()
		}
	}
}

// NewLogPool opens the connections of a log. They are its own, so that slow readers of anything else cannot starve an
// append.
func NewLogPool(ctx context.Context, url string, size int32) (*pgxpool.Pool, error) {
	return openPool(ctx, url, logRole, size, logParameters)
}

// NewApplyPool opens the connections of the projections, which see the rows of all tenants: no request of a tenant is served
// by them.
// Commits are not waited for: after a crash of the server a checkpoint and its rows are as old as each other, and what is
// missing is applied again from the log.
func NewApplyPool(ctx context.Context, url string, size int32) (*pgxpool.Pool, error) {
	return openPool(ctx, url, projectorRole, size, readModelParameters)
}

// NewReadPool opens the connections of requests. Their statements are planned for the question: a plan for any span of time
// reads far more than a day needs.
func NewReadPool(ctx context.Context, url string, size int32) (*pgxpool.Pool, error) {
	parameters := maps.Clone(readModelParameters)
	parameters["plan_cache_mode"] = "force_custom_plan"
	return openPool(ctx, url, readerRole, size, parameters)
}

// openPool connects as a role, which RESET ROLE does not leave either. It refuses one that row level security does not bind.
func openPool(ctx context.Context, url, role string, size int32, parameters map[string]string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parse database URL: %w", err)
	}
	config.MaxConns = size
	maps.Copy(config.ConnConfig.RuntimeParams, parameters)
	config.ConnConfig.RuntimeParams["role"] = role
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		var current string
		var unbound bool
		if err := conn.QueryRow(ctx, `select rolname, rolsuper or rolbypassrls from pg_roles where rolname = current_user`).Scan(&current, &unbound); err != nil {
			return fmt.Errorf("ask for the role: %w", err)
		}
		switch {
		case current != role: // a connection pooler in between may leave the parameter out
			return fmt.Errorf("the server knows the connection as %s", current)
		case unbound:
			return errors.New("row level security does not bind the role: it is a superuser or has bypassrls")
		}
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open connections as %s: %w", role, err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect as %s: %w", role, err)
	}
	return pool, nil
}
