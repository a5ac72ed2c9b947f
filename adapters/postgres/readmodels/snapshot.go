package readmodels

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// setScope says what the transaction is about: the tenant in $1, or the installation when that is ”. Row level security goes
// by it. It ends with the transaction, so that nothing of it is left on the connection for the next one.
const setScope = `select set_config('app.tenant_id', $1, true), set_config('app.scope', case $1 when '' then 'installation' else '' end, true)`

// read runs a request's queries in one snapshot and returns the checkpoint of the tenant's partition in it. Without a tenant
// they are about the installation, and see the rows of none.
func (r *Store) read(ctx context.Context, readModel string, tenant event.TenantID, queue func(b *pgx.Batch, schema string)) (eventstore.Position, error) {
	return r.snapshot(ctx, r.reads, readModel, tenant, queue)
}

// readAll runs queries about all tenants, which no request may ask: they see everything.
func (r *Store) readAll(ctx context.Context, readModel string, queue func(b *pgx.Batch, schema string)) error {
	_, err := r.snapshot(ctx, r.pool, readModel, "", queue)
	return err
}

// snapshot names the tables of the serving generation by their schema: a view could be switched between the snapshot and the
// query.
func (r *Store) snapshot(ctx context.Context, pool *pgxpool.Pool, readModel string, tenant event.TenantID, queue func(b *pgx.Batch, schema string)) (eventstore.Position, error) {
	number := numberOf(readModel)
	at := eventstore.Position{Partition: eventstore.PartitionOf(string(tenant), int(max(r.partitions.Load(), 1)))}
	const attempts = 5 // a generation lives longer than a query
	for range attempts {
		generation, assumed := 0, int(r.generations[number].Load())
		b := &pgx.Batch{}
		b.Queue(`begin isolation level repeatable read read only`)
		b.Queue(setScope, string(tenant))
		b.Queue(selectCheckpoint, readModel, at.Partition).QueryRow(func(row pgx.Row) error { return row.Scan(&generation, &at.Offset) })
		queue(b, schemaOf(readModel, assumed))
		b.Queue(`commit`)
		err := pool.SendBatch(ctx, b).Close()
		state := pg.SQLState(err)
		switch {
		case err == nil && generation == assumed:
			r.progress.reached(readModel, at.Partition, at.Offset)
			return at, nil
		case err != nil && state != undefinedTable && state != undefinedSchema:
			return at, pg.Unavailable("read "+readModel, err)
		}
		// Another generation serves now.
		if err := pool.QueryRow(ctx, selectCheckpoint, readModel, at.Partition).Scan(&generation, &at.Offset); err != nil {
			return at, pg.Unavailable("read the serving generation of "+readModel, err)
		}
		r.generations[number].Store(int32(generation)) //nolint:gosec // counts rebuilds
	}
	return at, fmt.Errorf("read %s: its generation changed %d times", readModel, attempts)
}
