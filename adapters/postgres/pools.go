// Package postgres opens the connections to PostgreSQL and checks where the log is. The log itself is in package log, the
// read models in package readmodels: neither depends on the other's tables, so the log may be elsewhere.
package postgres

import (
	"context"
	"maps"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
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
	return pg.OpenPool(ctx, url, pg.LogRole, size, pg.LogParameters)
}

// NewApplyPool opens the connections of the projections, which see the rows of all tenants: no request of a tenant is served
// by them.
// Commits are not waited for: after a crash of the server a checkpoint and its rows are as old as each other, and what is
// missing is applied again from the log.
func NewApplyPool(ctx context.Context, url string, size int32) (*pgxpool.Pool, error) {
	return pg.OpenPool(ctx, url, pg.ProjectorRole, size, pg.ReadModelParameters)
}

// NewReadPool opens the connections of requests. Their statements are planned for the question: a plan for any span of time
// reads far more than a day needs.
func NewReadPool(ctx context.Context, url string, size int32) (*pgxpool.Pool, error) {
	parameters := maps.Clone(pg.ReadModelParameters)
	parameters["plan_cache_mode"] = "force_custom_plan"
	return pg.OpenPool(ctx, url, pg.ReaderRole, size, parameters)
}
