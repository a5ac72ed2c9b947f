package readmodels_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/projections"
)

var testBook = costs.Imports{}.Combine([]catalog.Cost{
	{Provider: "openai", Model: "o3", From: "2026-04-04", Until: "2026-04-05", InputPerMillion: money.Int(2), CachedInputPerMillion: money.MustParse("0.5"), OutputPerMillion: money.Int(8)},
	{Provider: "openai", Model: "o3", From: "2026-04-05", InputPerMillion: money.Int(1), CachedInputPerMillion: money.Int(1), OutputPerMillion: money.MustParse("4.25")},
})

// ask answers a question from the read models.
func ask(ctx context.Context, r *readmodels.Store, q insight.Question, plans insight.Plans) (insight.Answer, []eventstore.Position, error) {
	q, err := q.Complete(noon)
	if err != nil {
		return insight.Answer{}, nil, err
	}
	tally := insight.NewTally(q, plans, testBook)
	at, err := r.Insights(ctx, q, tally)
	return tally.Answer(), at, err
}

// calledFrom puts calls of tenants on the log, around two midnights, with corrections and decisions.
func (l *ledger) calledFrom(random *rand.Rand, tenants ...event.TenantID) {
	l.Helper()
	pick := func(values ...any) any { return values[random.IntN(len(values))] }
	for _, of := range tenants {
		var decided []event.QuotaEvent
		for n := range 150 {
			data := func() event.Data {
				return event.NewData(map[string]any{"provider": pick("openai", "openai", "mistral", nil), "model": pick("o3", "o3", "o9"), "feature": pick("chat", "search", ""),
					"promptVersion": pick("v7", "v8", nil), "inputTokens": pick(random.IntN(4000), random.IntN(400), nil), "cachedInputTokens": pick(random.IntN(400), nil),
					"outputTokens": pick(random.IntN(300), money.MustParse("0.5"), nil), "latencyMs": pick(random.IntN(20), random.IntN(5000), money.Scaled(random.Int64N(1e9), 3), nil),
					"status": pick("ok", "ok", "timeout", nil), "attempt": pick(1, 1, 2, nil), "retryOf": pick(nil, nil, "call_1")})
			}
			u := event.Usage{Identity: event.Identity{Tenant: of, Type: event.Type(pick("tokens_spent", "ai_interview_completed").(string)), Source: event.SourceID(fmt.Sprint("call_", n))},
				Quantity: money.Int(1), Data: data(), OccurredAt: noon.Add(time.Duration(random.Int64N(int64(48*time.Hour))) - 24*time.Hour)}
			l.append(u.Append(counted))
			switch random.IntN(4) {
			case 0:
				l.append(event.UsageVoided{Usage: u, Metadata: counted, Reason: "test", By: "cli"}.Append(0))
			case 1:
				a := event.UsageAdjusted{Usage: u, Metadata: counted, Quantity: money.Int(2), Data: data(), Reason: "test", By: "cli"}
				l.append(a.Append(0))
				if random.IntN(2) == 0 {
					l.append(event.UsageVoided{Usage: a.After(), Metadata: counted, Reason: "test", By: "cli"}.Append(1))
				}
			}
			if n%3 == 0 {
				d := event.LimitDecided{Identity: event.Identity{Tenant: of, Type: u.Type, Source: event.SourceID(fmt.Sprint("check_", n))}, Quantity: money.Int(1), DecidedAt: u.OccurredAt.Truncate(time.Millisecond)}
				d.Parts = []event.LimitPart{{Limit: "daily", Kind: event.QuotaLimit, Denied: random.IntN(2) == 0}, {Limit: "rate", Kind: event.RateLimit, Denied: random.IntN(3) == 0}}
				d.Allowed = !d.Parts[0].Denied && !d.Parts[1].Denied
				decided = append(decided, d)
			}
		}
		l.append(event.AppendDecisions(uuid.Nil, of, eventstore.NoStream, decided, nil))
	}
}

// cells are those of the pure fold of the log, one for each row.
func (l *ledger) cells() (cells []insight.Cell) {
	l.Helper()
	fold := projections.NewInsightsFold()
	for p := range testPartitions {
		recorded, err := l.log.ReadLog(l.Context(), eventstore.Position{Partition: p}, eventstore.MaxReadLimit)
		require.NoError(l, err)
		events, err := event.DecodeAll(recorded)
		require.NoError(l, err)
		fold.Add(events)
	}
	change := fold.Take()
	day := func(start int64) catalog.Date { return catalog.DateOf(time.Unix(start, 0)) }
	for _, d := range change.Calls {
		cells = append(cells, insight.Cell{Tenant: d.Tenant, Day: day(d.Day), EventType: d.Type, Provider: d.Provider, Model: d.Model, Feature: d.Feature, PromptVersion: d.PromptVersion,
			Events: d.Events, Counted: d.Counted, Retries: d.Retries, Failures: d.Failures, Tokens: d.Tokens, Latency: d.Latency})
	}
	for _, d := range change.Decisions {
		cells = append(cells, insight.Cell{Tenant: d.Tenant, Day: day(d.Day), EventType: d.Type, Limit: d.Limit, Reason: d.Reason, Decisions: d.Decisions})
	}
	return cells
}

// Whatever ranges the log was applied in, every question has the answer that the pure fold gives.
func TestInsightsAnswerAsTheFoldDoes(t *testing.T) {
	l := newLedger(t)
	l.append(applyTestCatalog(t))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	tenants := []event.TenantID{tenantOf(0), tenantOf(1), "zeta", "a"}
	l.calledFrom(random, tenants...)
	for i, of := range tenants[:3] {
		l.append(event.PlanAssigned{Tenant: of, Plan: []string{"free", "pro"}[i%2], EffectiveAt: noon.Add(-48 * time.Hour), BillingAnchor: noon, By: "cli"}.Append(eventstore.NoStream))
		l.append(event.PlanAssigned{Tenant: of, Plan: "scale", EffectiveAt: noon.Add(time.Duration(i) * 10 * time.Hour), BillingAnchor: noon, By: "cli"}.Append(0))
	}
	for p := range testPartitions {
		for more := true; more; {
			var err error
			more, err = l.step(t.Context(), projections.InsightsModel, p, 1+random.IntN(40))
			require.NoError(t, err)
		}
	}
	l.project()
	_, err := l.Verify(t.Context(), l.log, []string{projections.InsightsModel}, nil)
	require.NoError(t, err)

	cells := l.cells()
	groupings := map[insight.Kind][][]insight.Dimension{
		insight.Cost:      {nil, {insight.Plan}, {insight.Day, insight.Model, insight.Tenant}, {insight.EventType, insight.Feature}, {insight.PromptVersion}},
		insight.Latency:   {nil, {insight.Tenant, insight.Model}, {insight.Feature, insight.PromptVersion, insight.Plan}},
		insight.Retries:   {nil, {insight.Tenant}, {insight.Feature, insight.Model}},
		insight.Denials:   {nil, {insight.Tenant}, {insight.Reason, insight.Day}, {insight.EventType, insight.Limit}},
		insight.Providers: {nil, {insight.Model, insight.Day}, {insight.Feature}, {insight.Tenant}},
	}
	for kind, all := range groupings {
		for _, groupBy := range all {
			for _, of := range append(tenants, "", "nobody") {
				for _, q := range []insight.Question{
					{Kind: kind, GroupBy: groupBy, Tenant: of, From: noon.AddDate(0, 0, -7), To: noon.AddDate(0, 0, 7)},
					{Kind: kind, GroupBy: groupBy, Tenant: of, From: noon, To: noon.Add(1), Limit: 2},
				} {
					what := fmt.Sprintf("%s by %v of %q from %s", kind, groupBy, of, q.From)
					plans, err := l.Plans(t.Context(), of)
					require.NoError(t, err, what)
					got, at, err := ask(t.Context(), l.Store, q, plans)
					require.NoError(t, err, what)
					if of == "" {
						require.Len(t, at, testPartitions, what)
						require.Len(t, plans, 3)
					} else {
						require.Len(t, at, 1, what)
						head, err := l.log.Head(t.Context(), eventstore.PartitionOf(string(of), testPartitions))
						require.NoError(t, err)
						require.Equal(t, head, at[0], what)
					}
					want := insight.NewTally(got.Question, plans, testBook)
					for _, c := range cells {
						in := string(c.Day) >= got.From.Format(time.DateOnly) && string(c.Day) < got.To.Format(time.DateOnly)
						if in && (of == "" || c.Tenant == of) && (kind == insight.Denials) == (c.Decisions != 0) {
							require.NoError(t, want.Add(c))
						}
					}
					expected := want.Answer()
					require.Equal(t, of == "nobody", expected.Groups == 0, "%s: the question should have an answer", what)
					require.Equal(t, shownAnswer(expected), shownAnswer(got), what)
				}
			}
		}
	}
}

// shownAnswer makes answers comparable: equal numbers may be held in different ways.
func shownAnswer(a insight.Answer) (lines []string) {
	show := func(r insight.Row) string {
		cost := "null"
		if r.Cost != nil {
			cost = r.Cost.String()
		}
		return fmt.Sprint(r.Labels, " ", r.Events, r.Retries, r.Failures, r.Denials, r.Decisions, " ", r.Input, r.CachedInput, r.Output, " ", cost, " ",
			r.Unpriced.Events, r.Unpriced.Input, r.Unpriced.Output, " ", r.Latency.Percentiles(50, 90, 95, 99))
	}
	lines = append(lines, fmt.Sprint(a.Groups, show(a.Total)))
	for _, r := range a.Rows {
		lines = append(lines, show(r))
	}
	for _, u := range a.Unpriced {
		lines = append(lines, fmt.Sprint(u.Provider, u.Model, u.Events, u.Input, u.Output))
	}
	return lines
}

// A fact that is void leaves the row of its labels with nothing in it, its histogram too.
func TestAVoidTakesEverythingBack(t *testing.T) {
	l := newLedger(t)
	l.append(applyTestCatalog(t))
	of := tenantOf(0)
	l.append(recordTokens(of, 0, 4)...)
	l.project()
	require.EqualValues(t, 4, l.number(`select sum(n) from insight_calls, unnest(latency_counts) n`))
	for n := range 4 {
		l.append(event.UsageVoided{Usage: tokens(of, n), Metadata: counted, Reason: "test", By: "cli"}.Append(0))
	}
	l.project()
	require.EqualValues(t, 4, l.number(`select count(*) from insight_calls`))
	require.EqualValues(t, 4, l.number(`select count(*) from insight_calls where events = 0 and counted = 0 and retries = 0 and failures = 0
		and input_tokens = 0 and cached_tokens = 0 and output_tokens = 0 and latency_buckets = '{}' and latency_counts = '{}'`))
	_, err := l.Verify(t.Context(), l.log, nil, nil)
	require.NoError(t, err)
}

// More groups than an answer is chosen from are refused, and the connection goes on answering.
func TestTooManyGroupsAreRefused(t *testing.T) {
	l := newLedger(t)
	l.append(applyTestCatalog(t))
	of := tenantOf(0)
	l.append(recordTokens(of, 0, 4)...)
	l.project()
	l.exec(`insert into rm_insights_1.insight_calls select events, counted, retries, failures, day, decode(md5(n::text), 'hex'), tenant_id, event_type, provider, 'm' || n, feature, prompt_version,
		input_tokens, cached_tokens, output_tokens, latency_buckets, latency_counts from (select * from rm_insights_1.insight_calls limit 1) c, generate_series(1, $1::int) n`, insight.MaxGroups)
	q := insight.Question{Kind: insight.Retries, Tenant: of, From: noon, To: noon.Add(1), GroupBy: []insight.Dimension{insight.Model}}
	for range 10 {
		var bad *invalid.Error
		_, _, err := ask(t.Context(), l.Store, q, nil)
		require.ErrorAs(t, err, &bad)
		require.NotErrorIs(t, err, eventstore.ErrUnavailable)
	}
	q.GroupBy = []insight.Dimension{insight.Tenant}
	a, _, err := ask(t.Context(), l.Store, q, nil)
	require.NoError(t, err)
	require.Equal(t, 1, a.Groups)
}
