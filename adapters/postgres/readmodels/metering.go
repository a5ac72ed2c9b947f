package readmodels

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invoicing"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/projections"
)

// Metering implements invoicing.Metering on the read models, and on the log where a span of time begins or ends within one of
// their quarters of an hour.
type Metering struct{ accounts *AccountLoader }

var _ invoicing.Metering = (*Metering)(nil)

// NewMetering reads usage.
func NewMetering(a *AccountLoader) *Metering { return &Metering{a} }

// quarter is the bucket of the usage read model.
const quarter = 15 * time.Minute

// selectSum sums up whole buckets of a meter, of those dimensions that contain $5.
const selectSum = `select coalesce(sum(quantity), 0)::text, coalesce(sum(events), 0)::bigint from %s.usage_rollups u
	where tenant_id = $1 and meter = $2 and bucket >= $3 and bucket < $4 and ($5 = '{}' or dimensions::jsonb @> $5::jsonb)`

// selectOtherSum sums up what has none of the dimensions $6.
const selectOtherSum = selectSum + ` and not exists (select from unnest($6::text[]) e (dimensions) where u.dimensions::jsonb @> e.dimensions::jsonb)`

// Sums implements invoicing.Metering.
func (m *Metering) Sums(ctx context.Context, t event.TenantID, measures []billing.Measure, atLeast eventstore.Position) ([]billing.Sum, eventstore.Position, error) {
	r := m.accounts.readModels
	if atLeast.Offset > 0 {
		if err := r.Await(ctx, []string{projections.UsageModel}, atLeast); err != nil {
			return nil, eventstore.Position{}, err
		}
	}
	sums := make([]billing.Sum, len(measures))
	at, err := r.read(ctx, projections.UsageModel, t, func(b *pgx.Batch, schema string) {
		clear(sums)
		for i := range measures {
			q := &measures[i]
			statement, arguments := selectSum, []any{string(t), string(q.Meter), roundUp(q.From), q.To.Truncate(quarter), dimensionsOf(q.Where)}
			if len(q.Except) > 0 {
				except := make([]string, len(q.Except))
				for i, where := range q.Except {
					except[i] = dimensionsOf(where)
				}
				statement, arguments = selectOtherSum, append(arguments, except)
			}
			b.Queue(inSchema(statement, schema), arguments...).QueryRow(func(row pgx.Row) error {
				var quantity string
				if err := row.Scan(&quantity, &sums[i].Events); err != nil {
					return err
				}
				n, err := money.ParseNumber(quantity)
				sums[i].Quantity = n
				return err
			})
		}
	})
	if err != nil {
		return nil, at, err
	}
	edges := map[time.Time]bool{}
	for _, q := range measures {
		for _, edge := range []time.Time{q.From, q.To} {
			if start := edge.Truncate(quarter); !start.Equal(edge) {
				edges[start.UTC()] = true
			}
		}
	}
	for start := range edges {
		if err := m.edge(ctx, t, start, at, measures, sums); err != nil {
			return nil, at, fmt.Errorf("usage from %s: %w", start, err)
		}
	}
	return sums, at, nil
}

// dimensionsOf is the JSON object of dimensions.
func dimensionsOf(where map[string]string) string {
	text, err := json.Marshal(where)
	if err != nil || where == nil {
		return "{}"
	}
	return string(text)
}

func roundUp(t time.Time) time.Time { return t.Add(quarter - 1).Truncate(quarter) }

// The facts of a quarter, and the corrections of the same sources, which are listed when they were recorded.
const (
	selectQuarter = `select position, source_hash from %s.timeline
		where tenant_id = $1 and occurred_at >= $2 and occurred_at < $3 and kind = $4`
	selectCorrections = `select position from %s.timeline where tenant_id = $1 and source_hash = any($2) and kind = $3`
)

// edge adds the facts of one quarter of an hour, as of a position, to the measures that have a part of it.
func (m *Metering) edge(ctx context.Context, t event.TenantID, start time.Time, at eventstore.Position, measures []billing.Measure, sums []billing.Sum) error {
	r := m.accounts.readModels
	if err := r.Await(ctx, []string{projections.TimelineModel}, at); err != nil {
		return err
	}
	var positions []eventstore.Position
	var sources []int64
	collect := func(rows pgx.Rows, withSource bool) error {
		for rows.Next() {
			var packed, source int64
			into := []any{&packed}
			if withSource {
				into = append(into, &source)
			}
			if err := rows.Scan(into...); err != nil {
				return err
			}
			if p := pg.PositionOf(packed); p.Offset <= at.Offset {
				positions = append(positions, p)
				if withSource {
					sources = append(sources, source)
				}
			}
		}
		return rows.Err()
	}
	_, err := r.read(ctx, projections.TimelineModel, t, func(b *pgx.Batch, schema string) {
		positions, sources = nil, nil
		b.Queue(inSchema(selectQuarter, schema), string(t), start, start.Add(quarter), timeline.KindUsage.Number()).
			Query(func(rows pgx.Rows) error { return collect(rows, true) })
	})
	if err != nil {
		return err
	}
	if len(positions) == 0 {
		return nil
	}
	facts := positions
	_, err = r.read(ctx, projections.TimelineModel, t, func(b *pgx.Batch, schema string) {
		positions = slices.Clone(facts)
		b.Queue(inSchema(selectCorrections, schema), string(t), sources, timeline.KindCorrection.Number()).
			Query(func(rows pgx.Rows) error { return collect(rows, false) })
	})
	if err != nil {
		return err
	}
	slices.SortFunc(positions, func(a, b eventstore.Position) int { return int(a.Offset - b.Offset) })
	return m.accounts.factsAt(ctx, t, positions, func(f limit.Fact) {
		for i := range measures {
			q := &measures[i]
			if !f.OccurredAt.Truncate(quarter).Equal(start) {
				continue
			}
			if whole := !start.Before(roundUp(q.From)) && !start.Add(quarter).After(q.To.Truncate(quarter)); whole {
				continue // it is in the sum already
			}
			if quantity, counts := limit.Measured(q, f); counts {
				sums[i].Quantity = sums[i].Quantity.Add(quantity)
				if f.Back {
					sums[i].Events--
				} else {
					sums[i].Events++
				}
			}
		}
	})
}
