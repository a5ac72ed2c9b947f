package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/projections"
)

var (
	_ projections.FactIndex = (*ReadModels)(nil)
	_ app.TenantLister      = (*ReadModels)(nil)
	_ app.Facts             = projections.FactReader{}
)

// The primary key is walked forwards, from one page to the next.
const selectFacts = `select occurred_at, position from %s.timeline
	where tenant_id = $1 and (occurred_at, position) > ($2, $3) and occurred_at < $4 and position <= $5 and kind = any($6)
	order by occurred_at, position limit $7`

// FactsAfter implements projections.FactIndex.
func (r *ReadModels) FactsAfter(ctx context.Context, t event.TenantID, after projections.FactMark, before time.Time, at eventstore.Position, limit int) (marks []projections.FactMark, err error) {
	from, packed := after.ListedAt, int64(0) // no position is 0
	if from.IsZero() {
		from = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if after.Position.Offset > 0 {
		packed = pack(after.Position)
	}
	if before.IsZero() {
		before = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	_, err = r.read(ctx, projections.TimelineModel, t, func(b *pgx.Batch, schema string) {
		marks = make([]projections.FactMark, 0, limit)
		b.Queue(inSchema(selectFacts, schema), string(t), from, packed, before, pack(at),
			[]int16{projections.KindUsage.Number(), projections.KindCorrection.Number()}, limit).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var (
					listed   time.Time
					position int64
				)
				if err := rows.Scan(&listed, &position); err != nil {
					return err
				}
				marks = append(marks, projections.FactMark{ListedAt: listed, Position: positionOf(position)})
			}
			return rows.Err()
		})
	})
	return marks, err
}

// Tenants implements app.TenantLister. It is about all tenants, so the projections ask.
func (r *ReadModels) Tenants(ctx context.Context, after event.TenantID, limit int) (ids []event.TenantID, err error) {
	err = r.readAll(ctx, projections.DirectoryModel, func(b *pgx.Batch, schema string) {
		b.Queue(inSchema(`select tenant_id from %s.tenants where tenant_id > $1 order by tenant_id limit $2`, schema), string(after), limit).
			Query(func(rows pgx.Rows) (err error) {
				ids, err = pgx.CollectRows(rows, pgx.RowTo[event.TenantID])
				return err
			})
	})
	return ids, err
}
