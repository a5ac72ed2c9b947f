package readmodels

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/projections"
)

var _ app.InsightReader = (*Store)(nil)

// insightTenants lists whom a question is about: the tenant $1 or, when that is ”, all that a table has, found by jumping from
// one to the next in its primary key. The days of each are from $2 to before $3.
const insightTenants = `with recursive tenants (tenant_id) as (
		select case when $1 = '' then (select min(tenant_id) from %s.<table>) else $1::text collate "C" end
		union all
		select (select min(c.tenant_id) from %s.<table> c where c.tenant_id > t.tenant_id) from tenants t where t.tenant_id is not null and $1 = ''
	) select <columns> from tenants t cross join lateral (
		select * from %s.<table> c where c.tenant_id = t.tenant_id and c.day >= $2 and c.day < $3
	) c `

// insightLabel is a column that cells are kept apart by.
type insightLabel struct {
	dimension insight.Dimension
	column    string
	into      func(c *insight.Cell) any
}

var (
	commonLabels = []insightLabel{
		{insight.Tenant, "c.tenant_id", func(c *insight.Cell) any { return &c.Tenant }},
		{insight.Day, "to_char(c.day, 'YYYY-MM-DD')", func(c *insight.Cell) any { return &c.Day }},
		{insight.EventType, "c.event_type", func(c *insight.Cell) any { return &c.EventType }},
	}
	callLabels = slices.Concat(commonLabels, []insightLabel{
		{insight.Provider, "c.provider", func(c *insight.Cell) any { return &c.Provider }},
		{insight.Model, "c.model", func(c *insight.Cell) any { return &c.Model }},
		{insight.Feature, "c.feature", func(c *insight.Cell) any { return &c.Feature }},
		{insight.PromptVersion, "c.prompt_version", func(c *insight.Cell) any { return &c.PromptVersion }},
	})
	denialLabels = slices.Concat(commonLabels, []insightLabel{
		{insight.Limit, "c.limit_key", func(c *insight.Cell) any { return &c.Limit }},
		{insight.Reason, "c.reason", func(c *insight.Cell) any { return &c.Reason }},
	})
)

// insightQuery reads the cells of a question: a statement, and what reads a row of it.
func insightQuery(q insight.Question, schema string) (statement string, scan func(rows pgx.Rows) (insight.Cell, error)) {
	table, labels, tail := "insight_calls", callLabels, ""
	sums := []string{"sum(c.events)::bigint", "sum(c.counted)::bigint", "sum(c.retries)::bigint", "sum(c.failures)::bigint",
		"sum(c.input_tokens)::text", "sum(c.cached_tokens)::text", "sum(c.output_tokens)::text"}
	switch q.Kind {
	case insight.Denials:
		table, labels, sums = "insight_denials", denialLabels, []string{"sum(c.decisions)::bigint"}
	case insight.Latency: // histograms are added up where they are read
		sums, tail = []string{"c.latency_buckets", "c.latency_counts"}, `where c.latency_buckets <> '{}'`
	}
	keeps := q.Keeps()
	labels = slices.DeleteFunc(slices.Clone(labels), func(l insightLabel) bool { return !slices.Contains(keeps, l.dimension) })
	var columns, group []string
	for i, l := range labels {
		columns, group = append(columns, l.column), append(group, strconv.Itoa(i+1))
	}
	if q.Kind != insight.Latency {
		tail = `group by ` + strings.Join(group, ", ")
	}
	statement = strings.NewReplacer("<table>", table, "<columns>", strings.Join(append(columns, sums...), ", ")).Replace(inSchema(insightTenants, schema)) + tail
	return statement, func(rows pgx.Rows) (c insight.Cell, err error) {
		var into []any
		for _, l := range labels {
			into = append(into, l.into(&c))
		}
		var (
			tokens  [3]string
			buckets []int16
			counts  []int64
		)
		switch q.Kind {
		case insight.Denials:
			into = append(into, &c.Decisions)
		case insight.Latency:
			into = append(into, &buckets, &counts)
		default:
			into = append(into, &c.Events, &c.Counted, &c.Retries, &c.Failures, &tokens[0], &tokens[1], &tokens[2])
		}
		if err := rows.Scan(into...); err != nil {
			return c, err
		}
		for i, b := range buckets {
			c.Latency = append(c.Latency, insight.LatencyCount{Bucket: insight.Bucket(b), Count: counts[i]})
		}
		for i, sum := range []*money.Decimal{&c.Input, &c.CachedInput, &c.Output} {
			if tokens[i] == "" {
				continue
			}
			if *sum, err = money.ParseNumber(tokens[i]); err != nil {
				return c, fmt.Errorf("tokens %q: %w", tokens[i], err)
			}
		}
		return c, nil
	}
}

// Insights implements app.InsightReader. What is about all tenants no request may ask itself: the projections do.
func (r *Store) Insights(ctx context.Context, q insight.Question, tally *insight.Tally) (at []eventstore.Position, err error) {
	pool := r.reads
	if q.Tenant == "" {
		pool = r.pool
	}
	var refused error
	_, err = r.snapshot(ctx, pool, projections.InsightsModel, q.Tenant, func(b *pgx.Batch, schema string) {
		tally.Reset()
		at, refused = nil, nil
		b.Queue(`select c.partition, c."offset" from read_models m join checkpoints c on c.read_model = m.name and c.generation = m.generation
			where m.name = $1 and m.state = '`+serving+`' order by 1`, projections.InsightsModel).Query(func(rows pgx.Rows) (err error) {
			at, err = pgx.CollectRows(rows, pgx.RowToStructByPos[eventstore.Position])
			return err
		})
		statement, scan := insightQuery(q, schema)
		b.Queue(statement, string(q.Tenant), q.From, q.To).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				c, err := scan(rows)
				if err == nil {
					refused = tally.Add(c)
					err = refused
				}
				if err != nil {
					return err
				}
			}
			return rows.Err()
		})
	})
	if refused != nil {
		return nil, refused
	}
	if q.Tenant != "" && err == nil {
		own := eventstore.PartitionOf(string(q.Tenant), len(at))
		at = at[own : own+1]
	}
	return at, err
}

// Plans implements app.InsightReader.
func (r *Store) Plans(ctx context.Context, of event.TenantID) (plans insight.Plans, err error) {
	pool := r.reads
	if of == "" {
		pool = r.pool
	}
	_, err = r.snapshot(ctx, pool, projections.DirectoryModel, of, func(b *pgx.Batch, schema string) {
		plans = insight.Plans{}
		b.Queue(inSchema(`select tenant_id, plan, effective_at from %s.plan_assignments where $1 = '' or tenant_id = $1 order by tenant_id, effective_at`, schema), string(of)).
			Query(func(rows pgx.Rows) error {
				var (
					id event.TenantID
					a  tenant.Assignment
				)
				_, err := pgx.ForEachRow(rows, []any{&id, (*string)(&a.Plan), &a.EffectiveAt}, func() error {
					s := plans[id]
					s.Assignments = append(s.Assignments, a)
					plans[id] = s
					return nil
				})
				return err
			})
	})
	return plans, err
}
