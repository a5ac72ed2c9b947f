package readmodels

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/projections"
)

// quotaModel is what limits have to know about each tenant.
type quotaModel struct{ indexedFirst }

func (quotaModel) name() string { return projections.QuotaModel }

func (quotaModel) tables() []table {
	return []table{
		{"quota_accounts", []string{"tenant_id"}, []string{"revision", "state"}},
		{"quota_holds", []string{"tenant_id", "hold_id"}, []string{"position", "keep_until", "event_type", "decision"}},
	}
}

// apply folds into accounts that were read before the checkpoint is moved: they change together with it only, so
// when it can be moved from where the range starts they are still what was read. When somebody else was faster they are
// newer than the range, which may not even fit to them.
func (quotaModel) apply(ctx context.Context, r *Store, g projections.Range, events []event.Decoded) error {
	schema := schemaOf(g.ReadModel, g.Generation)
	change, err := foldQuota(ctx, r.pool, schema, events)
	if errors.Is(err, event.ErrMalformed) {
		var there bool
		at := r.pool.QueryRow(ctx, `select exists (select from checkpoints where read_model = $1 and generation = $2 and partition = $3 and "offset" = $4)`,
			g.ReadModel, g.Generation, g.Partition, g.After)
		if at.Scan(&there) == nil && !there {
			return projections.ErrStale
		}
	}
	if err != nil {
		return err
	}
	if change.IsEmpty() {
		return r.applyNothing(ctx, g, events)
	}
	return pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, moveCheckpoint, moveArguments(g, events)...)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return projections.ErrStale
		}
		return writeQuota(ctx, tx, schema, change)
	})
}

func (quotaModel) fold(t target) folder {
	return written(func(ctx context.Context, events []event.Decoded) error {
		change, err := foldQuota(ctx, t.pool, t.schema, events)
		if err != nil || change.IsEmpty() {
			return err
		}
		return pgx.BeginFunc(ctx, t.pool, func(tx pgx.Tx) error { return writeQuota(ctx, tx, t.schema, change) })
	})
}

func foldQuota(ctx context.Context, pool *pgxpool.Pool, schema string, events []event.Decoded) (projections.QuotaChange, error) {
	tenants := projections.QuotaTenants(events)
	if len(tenants) == 0 {
		return projections.QuotaChange{}, nil
	}
	rows, err := pool.Query(ctx, inSchema(`select tenant_id, revision, state from %s.quota_accounts where tenant_id = any($1)`, schema), texts(tenants))
	if err != nil {
		return projections.QuotaChange{}, err
	}
	before := map[event.TenantID]projections.QuotaAccount{}
	var (
		a     projections.QuotaAccount
		state string
	)
	if _, err := pgx.ForEachRow(rows, []any{&a.Tenant, &a.Revision, &state}, func() error {
		a.State = json.RawMessage(state)
		before[a.Tenant] = a
		return nil
	}); err != nil {
		return projections.QuotaChange{}, err
	}
	return projections.FoldQuota(events, before)
}

func texts[S ~string](ids []S) []string {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = string(id)
	}
	return all
}

const (
	upsertAccounts = `insert into %s.quota_accounts as t (tenant_id, revision, state)
		select * from unnest($1::text[], $2::bigint[], $3::text[])
		on conflict (tenant_id) do update set revision = excluded.revision, state = excluded.state`
	upsertHolds = `insert into %s.quota_holds as t (tenant_id, hold_id, position, keep_until, event_type, decision)
		select * from unnest($1::text[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::text[], $6::bytea[])
		on conflict (tenant_id, hold_id) do update set position = excluded.position, keep_until = excluded.keep_until,
			event_type = excluded.event_type, decision = excluded.decision`
	deleteHolds = `delete from %s.quota_holds t using unnest($1::text[], $2::uuid[]) as g (tenant_id, hold_id)
		where t.tenant_id = g.tenant_id and t.hold_id = g.hold_id`
)

// writeQuota sends all rows at once, in the order of their keys.
func writeQuota(ctx context.Context, tx pgx.Tx, schema string, change projections.QuotaChange) error {
	b := &pgx.Batch{}
	if n := len(change.Accounts); n > 0 {
		tenants, revisions, states := make([]string, n), make([]int64, n), make([]string, n)
		for i, a := range change.Accounts {
			tenants[i], revisions[i], states[i] = string(a.Tenant), int64(a.Revision), string(a.State)
		}
		b.Queue(inSchema(upsertAccounts, schema), tenants, revisions, states)
	}
	if n := len(change.Gone); n > 0 {
		tenants, ids := make([]string, n), make([]uuid.UUID, n)
		for i, k := range change.Gone {
			tenants[i], ids[i] = string(k.Tenant), k.ID
		}
		b.Queue(inSchema(deleteHolds, schema), tenants, ids)
	}
	if n := len(change.Holds); n > 0 {
		tenants, ids, positions := make([]string, n), make([]uuid.UUID, n), make([]int64, n)
		ends, types, decisions := make([]time.Time, n), make([]string, n), make([][]byte, n)
		for i, h := range change.Holds {
			tenants[i], ids[i], positions[i] = string(h.Tenant), h.ID, pg.Pack(h.Position)
			ends[i], types[i], decisions[i] = h.KeepUntil, string(h.Type), h.Decision
		}
		b.Queue(inSchema(upsertHolds, schema), tenants, ids, positions, ends, types, decisions)
	}
	return tx.SendBatch(ctx, b).Close()
}
