package readmodels

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invoicing"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/projections"
)

var (
	_ timeline.FactIndex = (*Store)(nil)
	_ app.TenantLister   = (*Store)(nil)
	_ app.Facts          = timeline.FactReader{}
	_ invoicing.FactList = timeline.FactReader{}
)

// The primary key is walked forwards, from one page to the next.
const selectFacts = `select occurred_at, position from %s.timeline
	where tenant_id = $1 and (occurred_at, position) > ($2, $3) and occurred_at < $4 and position <= $5 and kind = any($6)
		and position > $8
	order by occurred_at, position limit $7`

// FactsAfter implements timeline.FactIndex.
func (r *Store) FactsAfter(ctx context.Context, t event.TenantID, p timeline.FactPage) (marks []timeline.Mark, err error) {
	from, before, packed, since := p.After.ListedAt, p.Before, int64(0), int64(0) // no position is 0
	if from.IsZero() {
		from = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if p.After.Position.Offset > 0 {
		packed = pg.Pack(p.After.Position)
	}
	if p.Since.Offset > 0 {
		since = pg.Pack(p.Since)
	}
	if before.IsZero() {
		before = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	_, err = r.read(ctx, projections.TimelineModel, t, func(b *pgx.Batch, schema string) {
		marks = make([]timeline.Mark, 0, p.Limit)
		b.Queue(inSchema(selectFacts, schema), string(t), from, packed, before, pg.Pack(p.At),
			[]int16{timeline.KindUsage.Number(), timeline.KindCorrection.Number()}, p.Limit, since).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var (
					listed   time.Time
					position int64
				)
				if err := rows.Scan(&listed, &position); err != nil {
					return err
				}
				marks = append(marks, timeline.Mark{ListedAt: listed, Position: pg.PositionOf(position)})
			}
			return rows.Err()
		})
	})
	return marks, err
}

// FactsShown implements timeline.FactIndex.
func (r *Store) FactsShown(ctx context.Context, partition int) (eventstore.Position, error) {
	_, offset, err := r.Checkpoint(ctx, projections.TimelineModel, partition)
	return eventstore.Position{Partition: partition, Offset: offset}, err
}

// CorrectionsOf implements timeline.FactIndex.
func (r *Store) CorrectionsOf(ctx context.Context, t event.TenantID, sources []event.SourceID, at eventstore.Position) (positions []eventstore.Position, err error) {
	hashes := make([]int64, len(sources))
	for i, s := range sources {
		hashes[i] = projections.SourceHash(t, s)
	}
	_, err = r.read(ctx, projections.TimelineModel, t, func(b *pgx.Batch, schema string) {
		positions = nil
		b.Queue(inSchema(selectCorrections, schema)+` and position <= $4 order by position`, string(t), hashes, timeline.KindCorrection.Number(), pg.Pack(at)).
			Query(func(rows pgx.Rows) error {
				packed, err := pgx.CollectRows(rows, pgx.RowTo[int64])
				for _, p := range packed {
					positions = append(positions, pg.PositionOf(p))
				}
				return err
			})
	})
	return positions, err
}

// Tenants implements app.TenantLister. It is about all tenants, so the projections ask.
func (r *Store) Tenants(ctx context.Context, after event.TenantID, limit int) (ids []event.TenantID, err error) {
	err = r.readAll(ctx, projections.DirectoryModel, func(b *pgx.Batch, schema string) {
		b.Queue(inSchema(`select tenant_id from %s.tenants where tenant_id > $1 order by tenant_id limit $2`, schema), string(after), limit).
			Query(func(rows pgx.Rows) (err error) {
				ids, err = pgx.CollectRows(rows, pgx.RowTo[event.TenantID])
				return err
			})
	})
	return ids, err
}
