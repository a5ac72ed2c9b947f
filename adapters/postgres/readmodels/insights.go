package readmodels

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/projections"
)

// insightsModel is what operators ask over many events, per day.
type insightsModel struct{ indexedFirst }

func (insightsModel) name() string { return projections.InsightsModel }

func (insightsModel) tables() []table {
	return []table{
		{"insight_calls", []string{"tenant_id", "day", "event_type", "labels_hash"}, []string{"provider", "model", "feature", "prompt_version", "events", "counted",
			"retries", "failures", "input_tokens", "cached_tokens", "output_tokens", "latency_buckets", "latency_counts"}},
		{"insight_denials", []string{"tenant_id", "day", "event_type", "limit_key", "reason"}, []string{"decisions"}},
	}
}

func (insightsModel) apply(ctx context.Context, r *Store, g projections.Range, events []event.Decoded) error {
	fold := projections.NewInsightsFold()
	fold.Add(events)
	if fold.Len() == 0 {
		return r.applyNothing(ctx, g, events)
	}
	change := fold.Take()
	schema := schemaOf(g.ReadModel, g.Generation)
	calls, first := callsArrays(change.Calls), len(moveArguments(g, events))+1
	return r.applyRows(ctx, g, events, slices.Concat(calls, decisionsArrays(change.Decisions)),
		insertCalls(schema, first), insertDecisions(schema, first+len(calls)))
}

const (
	callsColumns = `(tenant_id, day, event_type, labels_hash, provider, model, feature, prompt_version, events, counted, retries, failures,
		input_tokens, cached_tokens, output_tokens, latency_buckets, latency_counts)`
	decisionsColumns = `(tenant_id, day, event_type, limit_key, reason, decisions)`
)

// insertCalls takes its arrays from $first on. Rows come in the order of their keys. Arrays do not fit into an array, so
// histograms come as texts; what is left of a bucket that was taken back is nothing, so that equal histograms are equal arrays.
func insertCalls(schema string, first int) string {
	return `insert into ` + schema + `.insight_calls as t ` + callsColumns + `
		select d.tenant_id, d.day, d.event_type, d.labels_hash, d.provider, d.model, d.feature, d.prompt_version, d.events, d.counted, d.retries, d.failures,
			d.input_tokens::numeric, d.cached_tokens::numeric, d.output_tokens::numeric, d.latency_buckets::smallint[], d.latency_counts::bigint[]
		from unnest(` + parameters(first, "text", "date", "text", "bytea", "text", "text", "text", "text", "bigint", "bigint", "bigint", "bigint",
		"text", "text", "text", "text", "text") + `) as d ` + callsColumns + `
		where exists (select from moved)
		on conflict (tenant_id, day, event_type, labels_hash) do update
			set events = t.events + excluded.events, counted = t.counted + excluded.counted, retries = t.retries + excluded.retries,
				failures = t.failures + excluded.failures, input_tokens = t.input_tokens + excluded.input_tokens,
				cached_tokens = t.cached_tokens + excluded.cached_tokens, output_tokens = t.output_tokens + excluded.output_tokens,
				(latency_buckets, latency_counts) = (
					select coalesce(array_agg(s.bucket order by s.bucket), '{}'), coalesce(array_agg(s.latencies order by s.bucket), '{}') from (
						select b.bucket, sum(b.latencies)::bigint as latencies from (
							select * from unnest(t.latency_buckets, t.latency_counts)
							union all
							select * from unnest(excluded.latency_buckets, excluded.latency_counts)
						) as b (bucket, latencies) group by b.bucket having sum(b.latencies) <> 0
					) as s)`
}

// insertDecisions is the same for decisions.
func insertDecisions(schema string, first int) string {
	return `insert into ` + schema + `.insight_denials as t ` + decisionsColumns + `
		select d.* from unnest(` + parameters(first, "text", "date", "text", "text", "text", "bigint") + `) as d ` + decisionsColumns + `
		where exists (select from moved)
		on conflict (tenant_id, day, event_type, limit_key, reason) do update set decisions = t.decisions + excluded.decisions`
}

// parameters lists arrays of types, numbered from first on.
func parameters(first int, types ...string) string {
	all := make([]string, len(types))
	for i, t := range types {
		all[i] = "$" + strconv.Itoa(first+i) + "::" + t + "[]"
	}
	return strings.Join(all, ", ")
}

// callsArrays are deltas as the columns of an insert.
func callsArrays(deltas []projections.CallsDelta) []any {
	n := len(deltas)
	text := func() []string { return make([]string, n) }
	number := func() []int64 { return make([]int64, n) }
	days, hashes := make([]time.Time, n), make([][]byte, n)
	tenants, types, providers, models, features, prompts := text(), text(), text(), text(), text(), text()
	input, cached, output, buckets, counts := text(), text(), text(), text(), text()
	events, counted, retries, failures := number(), number(), number(), number()
	for i := range deltas {
		d := &deltas[i]
		tenants[i], days[i], types[i], hashes[i] = string(d.Tenant), time.Unix(d.Day, 0).UTC(), string(d.Type), d.Hash[:]
		providers[i], models[i], features[i], prompts[i] = d.Provider, d.Model, d.Feature, d.PromptVersion
		events[i], counted[i], retries[i], failures[i] = d.Events, d.Counted, d.Retries, d.Failures
		input[i], cached[i], output[i] = d.Input.String(), d.CachedInput.String(), d.Output.String()
		bs, ns := []byte("{"), []byte("{")
		for j, l := range d.Latency {
			if j > 0 {
				bs, ns = append(bs, ','), append(ns, ',')
			}
			bs, ns = strconv.AppendInt(bs, int64(l.Bucket), 10), strconv.AppendInt(ns, l.Count, 10)
		}
		buckets[i], counts[i] = string(append(bs, '}')), string(append(ns, '}'))
	}
	return []any{tenants, days, types, hashes, providers, models, features, prompts, events, counted, retries, failures, input, cached, output, buckets, counts}
}

func decisionsArrays(deltas []projections.DecisionsDelta) []any {
	n := len(deltas)
	days, decisions := make([]time.Time, n), make([]int64, n)
	tenants, types, limits, reasons := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i := range deltas {
		d := &deltas[i]
		tenants[i], days[i], types[i], limits[i], reasons[i], decisions[i] = string(d.Tenant), time.Unix(d.Day, 0).UTC(), string(d.Type), d.Limit, d.Reason, d.Decisions
	}
	return []any{tenants, days, types, limits, reasons, decisions}
}

// insightsFolder adds to tables that nobody else reads yet.
type insightsFolder struct {
	target
	cells *projections.InsightsFold
}

func (insightsModel) fold(t target) folder {
	return &insightsFolder{target: t, cells: projections.NewInsightsFold()}
}

func (f *insightsFolder) add(ctx context.Context, events []event.Decoded) error {
	if f.cells.Add(events); f.cells.Len() > f.rows {
		return f.flush(ctx)
	}
	return nil
}

func (f *insightsFolder) flush(ctx context.Context) error {
	if f.cells.Len() == 0 {
		return nil
	}
	const moved = `with moved as (select) `
	change := f.cells.Take()
	for part := range slices.Chunk(change.Calls, rebuildChunk) {
		if _, err := f.pool.Exec(ctx, moved+insertCalls(f.schema, 1), callsArrays(part)...); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(change.Decisions, rebuildChunk) {
		if _, err := f.pool.Exec(ctx, moved+insertDecisions(f.schema, 1), decisionsArrays(part)...); err != nil {
			return err
		}
	}
	return nil
}
