package readmodels

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/usage"
	"github.com/tollgate-io/tollgate/projections"
)

// usageMeters lists the meters that a question is about: the one asked for, or those that the tenant has, found by
// jumping from one to the next in the primary key.
const usageMeters = `meters as (
		select m.meter from (
			select min(meter) from %s.usage_rollups where tenant_id = $1 and $2 = ''
			union all
			select $2 where $2 <> ''
		) m (meter) where m.meter is not null
		union all
		select (select min(u.meter) from %s.usage_rollups u where u.tenant_id = $1 and u.meter > m.meter)
		from meters m where m.meter is not null and $2 = ''
	)`

// selectUsage sums up buckets to windows and groups. $3 are the starts of the windows and the end of the last, $4 the
// dimensions to group by; rows after ($5, $6, $7), at most $8. Dimensions are taken apart only after the first sum.
const selectUsage = `with recursive ` + usageMeters + `, cells as (
		select width_bucket(u.bucket, $3::timestamptz[]) as number, u.meter,
			case when cardinality($4::text[]) > 0 then u.dimensions end as dimensions, sum(u.quantity) as quantity, sum(u.events) as events
		from meters m cross join lateral (
			select * from %s.usage_rollups t
			where t.tenant_id = $1 and t.meter = m.meter and t.bucket >= ($3::timestamptz[])[1]
				and t.bucket < ($3::timestamptz[])[array_length($3::timestamptz[], 1)]
		) u
		group by 1, 2, 3
	), parts as (
		select c.number, c.meter, c.quantity, c.events, coalesce(l.labels, '{}') as labels
		from cells c cross join lateral (
			select array_agg((c.dimensions::jsonb ->> g.name) collate "C" order by g.nr) as labels
			from unnest($4::text[]) with ordinality as g (name, nr)
		) l
	)
	select number, meter, labels, sum(quantity)::text, sum(events)::bigint from parts
	where (number, meter, labels) > ($5::int, $6::text, $7::text[])
	group by number, meter, labels having sum(events) <> 0 or sum(quantity) <> 0
	order by number, meter, labels limit $8`

// selectUsageTotal is the sum over the whole time of one meter.
const selectUsageTotal = `select coalesce(sum(quantity), 0)::text from %s.usage_rollups
	where tenant_id = $1 and meter = $2 and bucket >= $3 and bucket < $4`

// usageCursor is the last row of a page. The window is named by its start, so that it means the same when the question
// is asked again with another from.
type usageCursor struct {
	Window time.Time `json:"w"`
	Meter  string    `json:"m"`
	Labels []*string `json:"l"`
}

// Usage answers a question, and returns the position that the answer reflects. A bucket belongs to the window that
// contains its start. Errors: *invalid.Error.
func (r *Store) Usage(ctx context.Context, question usage.Query) (usage.Report, eventstore.Position, error) {
	q, windows, err := question.Plan()
	if err != nil {
		return usage.Report{}, eventstore.Position{}, err
	}
	scope := fmt.Sprint("usage", q.Tenant, q.Granularity, q.Meter, q.GroupBy, q.Location)
	after, labels := usageCursor{}, []*string{}
	number := 0
	if q.Cursor != "" {
		if err := openCursor(q.Cursor, scope, &after); err != nil {
			return usage.Report{}, eventstore.Position{}, err
		}
		labels = after.Labels
		n, found := slices.BinarySearchFunc(windows, after.Window, time.Time.Compare)
		if number = n; found {
			number++
		} else {
			after.Meter = "" // the whole window before is done
		}
	}
	groupBy := q.GroupBy
	if groupBy == nil {
		groupBy = []string{}
	}
	var (
		report usage.Report
		last   usageCursor
	)
	at, err := r.read(ctx, projections.UsageModel, q.Tenant, func(b *pgx.Batch, schema string) {
		report, last = usage.Report{}, usageCursor{}
		b.Queue(inSchema(selectUsage, schema), string(q.Tenant), string(q.Meter), windows, groupBy, number, after.Meter, labels, q.Limit+1).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					var (
						n        int
						labels   []*string
						quantity string
						row      usage.Row
					)
					if err := rows.Scan(&n, &row.Meter, &labels, &quantity, &row.Events); err != nil {
						return err
					}
					if len(report.Items) == q.Limit {
						last.Labels = nonNil(last.Labels)
						report.NextCursor = newCursor(scope, last)
						continue
					}
					if row.Quantity, err = money.ParseNumber(quantity); err != nil {
						return fmt.Errorf("quantity %q: %w", quantity, err)
					}
					row.WindowStart, row.WindowEnd = windows[n-1], windows[n]
					row.Dimensions = map[string]string{}
					for i, label := range labels {
						if label != nil {
							row.Dimensions[q.GroupBy[i]] = *label
						}
					}
					report.Items = append(report.Items, row)
					last = usageCursor{row.WindowStart, string(row.Meter), labels}
				}
				return rows.Err()
			})
		if q.Meter == "" {
			return
		}
		b.Queue(inSchema(selectUsageTotal, schema), string(q.Tenant), string(q.Meter), windows[0], windows[len(windows)-1]).
			QueryRow(func(row pgx.Row) error {
				var text string
				if err := row.Scan(&text); err != nil {
					return err
				}
				total, err := money.ParseNumber(text)
				report.Total = &total
				return err
			})
	})
	return report, at, err
}

func nonNil(labels []*string) []*string {
	if labels == nil {
		return []*string{}
	}
	return labels
}
