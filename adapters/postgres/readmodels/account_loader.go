package readmodels

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/limiter"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/projections"
)

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

// factsAt visits the facts of a tenant at positions, and what the corrections there change.
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
