package readmodels

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/limiter"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/projections"
)

// applyQuota folds into accounts that were read before the checkpoint is moved: they change together with it only, so
// when it can be moved from where the range starts they are still what was read. When somebody else was faster they are
// newer than the range, which may not even fit to them.
func (r *Store) applyQuota(ctx context.Context, g projections.Range, events []event.Decoded) error {
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

// rebuildQuota folds a page into tables that nobody else looks at yet.
func rebuildQuota(ctx context.Context, pool *pgxpool.Pool, schema string, events []event.Decoded) error {
	change, err := foldQuota(ctx, pool, schema, events)
	if err != nil || change.IsEmpty() {
		return err
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return writeQuota(ctx, tx, schema, change) })
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

// AccountLoader implements limiter.AccountLoader on the read models, and on the log for what they do not keep.
type AccountLoader struct {
	readModels *Store
	log        eventstore.LogReader
}

var _ limiter.AccountLoader = (*AccountLoader)(nil)

// NewAccountLoader reads accounts.
func NewAccountLoader(r *Store, log eventstore.LogReader) *AccountLoader {
	return &AccountLoader{r, log}
}

// Account implements limiter.AccountLoader.
func (a *AccountLoader) Account(ctx context.Context, t event.TenantID) (s limit.Snapshot, err error) {
	var holds []projections.QuotaHold
	at, err := a.readModels.read(ctx, projections.QuotaModel, t, func(b *pgx.Batch, schema string) {
		s, holds = limit.Snapshot{Revision: eventstore.NoStream}, nil
		b.Queue(inSchema(`select revision, state from %s.quota_accounts where tenant_id = $1`, schema), string(t)).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var state string
				if err := rows.Scan(&s.Revision, &state); err != nil {
					return err
				}
				if err := json.Unmarshal([]byte(state), &s.State); err != nil {
					return fmt.Errorf("quota account of %s: %w", t, err)
				}
			}
			return rows.Err()
		})
		b.Queue(inSchema(`select hold_id, position, event_type, decision from %s.quota_holds where tenant_id = $1`, schema), string(t)).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				h := projections.QuotaHold{HoldKey: projections.HoldKey{Tenant: t}}
				var position int64
				if err := rows.Scan(&h.ID, &position, &h.Type, &h.Decision); err != nil {
					return err
				}
				h.Position = pg.PositionOf(position)
				holds = append(holds, h)
			}
			return rows.Err()
		})
	})
	if err != nil {
		return s, err
	}
	s.At = at.Offset
	s.Holds = make([]limit.Hold, len(holds))
	for i, h := range holds {
		if s.Holds[i], err = projections.DecodeHold(h); err != nil {
			return s, err
		}
	}
	return s, nil
}

// selectSeries sums up the buckets of a meter, of those dimensions that contain $4.
const selectSeries = `select extract(epoch from bucket)::bigint, sum(quantity)::text from %s.usage_rollups
	where tenant_id = $1 and meter = $2 and bucket >= $3 and ($4 = '{}' or dimensions::jsonb @> $4::jsonb)
	group by bucket order by bucket`

// Series implements limiter.AccountLoader.
func (a *AccountLoader) Series(ctx context.Context, t event.TenantID, needs []limit.Need, since, recent time.Time) ([]limit.Loaded, error) {
	loaded := make([]limit.Loaded, len(needs))
	at, err := a.readModels.read(ctx, projections.UsageModel, t, func(b *pgx.Batch, schema string) {
		for i, n := range needs {
			loaded[i] = limit.Loaded{Need: n}
			b.Queue(inSchema(selectSeries, schema), string(t), string(n.Meter), since, dimensionsOf(n.Where)).Query(func(rows pgx.Rows) error {
				for rows.Next() {
					var (
						bucket   limit.Bucket
						quantity string
					)
					if err := rows.Scan(&bucket.Start, &quantity); err != nil {
						return err
					}
					q, err := money.ParseNumber(quantity)
					if err != nil {
						return fmt.Errorf("quantity %q: %w", quantity, err)
					}
					bucket.Quantity = q
					loaded[i].Quarters = append(loaded[i].Quarters, bucket)
				}
				return rows.Err()
			})
		}
	})
	if err != nil {
		return nil, err
	}
	for i := range loaded {
		loaded[i].At = at.Offset
	}
	if !slices.ContainsFunc(needs, func(n limit.Need) bool { return n.Minutes }) {
		return loaded, nil
	}
	offset, err := a.facts(ctx, t, recent, func(f limit.Fact) {
		for i := range loaded {
			if loaded[i].Need.Minutes {
				loaded[i].AddMinute(f)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for i := range loaded {
		loaded[i].MinutesAt = offset
	}
	return loaded, nil
}

// facts visits the tenant's latest facts, found by the timeline. What was corrected since is among its events too: a
// correction is listed when it was recorded, which is not before its fact.
func (a *AccountLoader) facts(ctx context.Context, t event.TenantID, since time.Time, visit func(limit.Fact)) (offset int64, err error) {
	var positions []eventstore.Position
	at, err := a.readModels.read(ctx, projections.TimelineModel, t, func(b *pgx.Batch, schema string) {
		positions = nil
		b.Queue(inSchema(`select position from %s.timeline where tenant_id = $1 and occurred_at >= $2 and kind = any($3) order by position`, schema),
			string(t), since, []int16{timeline.KindUsage.Number(), timeline.KindCorrection.Number()}).Query(func(rows pgx.Rows) error {
			packed, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			for _, p := range packed {
				positions = append(positions, pg.PositionOf(p))
			}
			return err
		})
	})
	if err != nil {
		return 0, err
	}
	return at.Offset, a.factsAt(ctx, t, positions, visit)
}

// factsAt visits the facts of a tenant that stand at positions, and what corrections there change.
func (a *AccountLoader) factsAt(ctx context.Context, t event.TenantID, positions []eventstore.Position, visit func(limit.Fact)) error {
	for chunk := range slices.Chunk(positions, 5000) {
		events, err := timeline.ReadOf(ctx, a.log, t, chunk)
		if err != nil {
			return err
		}
		for _, e := range events {
			revision, usage, ok := event.CountedBy(e.Payload)
			if !ok {
				continue
			}
			c, err := a.readModels.catalogs.At(ctx, revision)
			if err != nil {
				return err
			}
			for _, f := range limit.FactsOf(e.Payload, c.MetersOf(string(usage))) {
				visit(f)
			}
		}
	}
	return nil
}

// Overdue implements limiter.AccountLoader.
func (a *AccountLoader) Overdue(ctx context.Context, before time.Time, most int) ([]event.TenantID, error) {
	// It is about all tenants, so the projections ask. Whatever generation serves: nothing depends on the answer.
	rows, err := a.readModels.pool.Query(ctx, `select distinct tenant_id from (
		select tenant_id from quota_holds where keep_until < $1 order by keep_until limit $2) h`, before, 100*most)
	if err != nil {
		return nil, pg.Unavailable("look for holds that ended", err)
	}
	tenants, err := pgx.CollectRows(rows, pgx.RowTo[event.TenantID])
	if err != nil {
		return nil, pg.Unavailable("look for holds that ended", err)
	}
	return tenants[:min(len(tenants), most)], nil
}
