package api_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/money"
)

// insightSource has the cells that a test says, and remembers what it was asked.
type insightSource struct {
	cells []insight.Cell
	asked insight.Question
}

func (s *insightSource) Insights(_ context.Context, q insight.Question, into *insight.Tally) ([]eventstore.Position, error) {
	s.asked = q
	into.Reset()
	for _, c := range s.cells {
		if q.Tenant != "" && c.Tenant != q.Tenant {
			continue
		}
		if err := into.Add(c); err != nil {
			return nil, err
		}
	}
	if q.Tenant != "" {
		return []eventstore.Position{{Partition: 1, Offset: 7}}, nil
	}
	return []eventstore.Position{{Offset: 3}, {Partition: 1, Offset: 7}}, nil
}

func (s *insightSource) Plans(context.Context, event.TenantID) (insight.Plans, error) {
	return insight.Plans{}, nil
}

func (h *fixture) newInsights(store app.Store, dir app.Directory) *app.Insights {
	h.operations = &insightSource{}
	now := func() time.Time { return clock }
	return app.NewInsights(h.operations, dir, app.NewCosts(store, dir, now), now)
}

func TestInsightsOverHTTP(t *testing.T) {
	h := newFixture(t)
	tokens := func(input int64) costs.Tokens { return costs.Tokens{Input: money.Int(input), Output: money.Int(2)} }
	h.operations.cells = []insight.Cell{
		{Tenant: "acme", Provider: "openai", Feature: "chat", Model: "m", Day: "2026-04-05", Events: 3, Counted: 2, Retries: 1, Failures: 2, Tokens: tokens(7),
			Latency: []insight.LatencyCount{{Bucket: 100, Count: 1}}},
		{Tenant: "other", Provider: "openai", Events: 1, Counted: 1, Tokens: tokens(5), Day: "2026-04-05"},
		{Tenant: "acme", Decisions: 3},
		{Tenant: "acme", Decisions: 1, Reason: "plan_limit"},
		{Tenant: "acme", Decisions: 1, Limit: "tokens_per_day", Reason: "plan_limit"},
	}
	ask := func(key, path string) answer {
		a := h.do(request{method: "GET", path: "/v1/insights/" + path, key: key})
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		return a
	}
	for path, want := range map[string]string{
		"cost?to=2026-04-05T00:00:01Z": `{"kind":"cost","from":"2026-03-06T00:00:00.000Z","to":"2026-04-06T00:00:00.000Z","groupBy":["tenant"],"items":[` +
			`{"dimensions":{"tenant":"acme"},"events":2,"inputTokens":7,"cachedInputTokens":0,"outputTokens":2,"cost":null,"unpriced":{"events":2,"inputTokens":7,"outputTokens":2}}],` +
			`"groups":1,"total":{"events":2,"inputTokens":7,"cachedInputTokens":0,"outputTokens":2,"cost":null,"unpriced":{"events":2,"inputTokens":7,"outputTokens":2}},` +
			`"unpriced":[{"provider":"openai","model":"m","events":2,"inputTokens":7,"outputTokens":2}]}`,
		"latency?from=2026-04-05T10:00:00Z&to=2026-04-05T10:00:01Z": `{"kind":"latency","from":"2026-04-05T00:00:00.000Z","to":"2026-04-06T00:00:00.000Z","groupBy":["plan"],"items":[` +
			`{"dimensions":{"plan":null},"events":1,"p50Ms":0.1,"p90Ms":0.1,"p95Ms":0.1,"p99Ms":0.1}],"groups":1,` +
			`"total":{"events":1,"p50Ms":0.1,"p90Ms":0.1,"p95Ms":0.1,"p99Ms":0.1},"relativeError":0.0078125}`,
		"retries?groupBy=feature,tenant&to=2026-04-05T23:59:59Z": `{"kind":"retries","from":"2026-03-06T00:00:00.000Z","to":"2026-04-06T00:00:00.000Z","groupBy":["feature","tenant"],"items":[` +
			`{"dimensions":{"feature":"chat","tenant":"acme"},"retries":1,"events":3,"share":0.333333}],"groups":1,"total":{"retries":1,"events":3,"share":0.333333}}`,
		"denials?to=2026-04-06T00:00:00Z": `{"kind":"denials","from":"2026-03-07T00:00:00.000Z","to":"2026-04-06T00:00:00.000Z","groupBy":["tenant","limit"],"items":[` +
			`{"dimensions":{"tenant":"acme","limit":"tokens_per_day"},"denials":1,"decisions":4,"share":0.25}],"groups":1,"total":{"denials":1,"decisions":4,"share":0.25}}`,
		"providers?to=2026-04-05T10:00:00Z": `{"kind":"providers","from":"2026-03-06T00:00:00.000Z","to":"2026-04-06T00:00:00.000Z","groupBy":["provider","feature"],"items":[` +
			`{"dimensions":{"provider":"openai","feature":"chat"},"failures":2,"events":3,"share":0.666667}],"groups":1,"total":{"failures":2,"events":3,"share":0.666667}}`,
	} {
		a := ask(h.acme, path)
		assert.Equal(t, want, a.Body.String(), path)
		assert.Equal(t, "1-7", a.Header().Get("Tollgate-Position"))
	}
	a := ask(h.admin, "cost")
	assert.Equal(t, "0-3,1-7", a.Header().Get("Tollgate-Position"))
	assert.Contains(t, a.Body.String(), `"groups":2,`)
	assert.Equal(t, event.TenantID(""), h.operations.asked.Tenant)
	ask(h.admin, "cost?tenantId=other")
	assert.Equal(t, event.TenantID("other"), h.operations.asked.Tenant)
	assert.Equal(t, http.StatusNotFound, h.do(request{method: "GET", path: "/v1/insights/cost?tenantId=nobody", key: h.admin}).Code)
	empty := ask(h.admin, "latency?tenantId=other")
	assert.Contains(t, empty.Body.String(), `"items":[],"groups":0,"total":{"events":0,"p50Ms":null,`)

	for path, says := range map[string]string{
		"profit":                        "",
		"cost?groupBy=region":           `by \"region\", but by tenant, provider, model, feature, promptVersion, eventType, day, plan`,
		"latency?groupBy=plan,day":      `by \"day\", but by plan, tenant,`,
		"retries?groupBy=tenant,tenant": "tenant is named twice",
		"denials?limit=501":             "between 1 and 500",
		"providers?from=yesterday":      "RFC 3339",
		"cost?from=2026-04-05T00:00:00Z&to=2026-04-05T00:00:00Z": "from must be before to",
		"cost?from=2025-01-01T00:00:00Z&to=2026-01-02T00:00:01Z": "more than 366 days",
	} {
		a := h.do(request{method: "GET", path: "/v1/insights/" + path, key: h.acme})
		assert.Equal(t, http.StatusBadRequest, a.Code, path)
		assert.Contains(t, a.Body.String(), says, path)
	}
}
