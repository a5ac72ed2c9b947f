package main

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/tenant"
)

// A provider lowers its prices at midnight, and one model has no cost.
const insightsCatalog = `
meters:
  - {key: tokens, eventType: tokens_spent, aggregation: sum}
  - {key: interviews, eventType: interview, aggregation: sum}
plans:
  - key: free
    currency: USD
    limits:
      - {key: tokens_per_day, kind: quota, meter: tokens, max: 10, window: day}
      - {key: model_tier, kind: access, on: [tokens_spent], field: modelTier, values: [standard]}
  - {key: pro, currency: USD}
costs:
  - {provider: openai, model: gpt-4.1, from: "2026-04-01", until: "2026-04-06", inputPerMillion: "2.00", cachedInputPerMillion: "0.50", outputPerMillion: "8.00"}
  - {provider: openai, model: gpt-4.1, from: "2026-04-06", inputPerMillion: "1.00", outputPerMillion: "4.00"}
`

// insights asks a question and returns the raw answer with the position of its header.
func (p *process) insights(key tenant.Secret, query string, headers ...string) (status int, body, position string) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.url+"/v1/insights/"+query, nil)
	require.NoError(p.t, err)
	r.Header.Set("Authorization", "Bearer "+string(key))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	a, err := http.DefaultClient.Do(r)
	require.NoError(p.t, err)
	defer func() { _ = a.Body.Close() }()
	b, err := io.ReadAll(a.Body)
	require.NoError(p.t, err)
	return a.StatusCode, string(b), a.Header.Get("Tollgate-Position")
}

// Events, corrections and checks lead to what operators see of all tenants, and to what a tenant sees of itself.
func TestInsights(t *testing.T) { onEveryStore(t, testInsights) }

func testInsights(t *testing.T, dir string) {
	catalog := catalogFile(t, insightsCatalog)
	p := serveCatalog(t, dir, catalog)
	service := p.serviceKey()
	keys := map[string]tenant.Secret{}
	for id, plan := range map[string]string{"acme": "pro", "beta": "free"} {
		p.putTenant(id)
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id+"/plan", adminKey, map[string]any{"plan": plan, "effectiveAt": "2026-04-05T15:00:00Z"}, nil))
		keys[id] = p.tenantKey(id, "of "+id)
	}
	event := func(of, source, at string, data map[string]any) map[string]any {
		return map[string]any{"tenantId": of, "eventType": "tokens_spent", "sourceId": source, "occurredAt": at, "data": data}
	}
	spent := func(model, prompt string, input, cached, output, latency, attempt int, status string) map[string]any {
		return map[string]any{"provider": "openai", "model": model, "feature": "chat", "promptVersion": prompt, "inputTokens": input, "cachedInputTokens": cached,
			"outputTokens": output, "latencyMs": latency, "attempt": attempt, "status": status}
	}
	require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/events", service, []any{
		event("acme", "1", "2026-04-05T23:59:59.999Z", spent("gpt-4.1", "v7", 1000, 400, 100, 930, 1, "ok")), // 0.003: 1000 * 2 + 400 * 0.5 + 100 * 8
		event("acme", "2", "2026-04-06T00:00:00Z", spent("gpt-4.1", "v8", 1000, 400, 100, 930, 2, "ok")),     // 0.0018: 1000 * 1 + 400 * 1 + 100 * 4
		event("acme", "3", "2026-04-06T00:00:00Z", spent("gpt-4.1", "v8", 9999, 0, 9999, 9000, 1, "timeout")),
		event("acme", "4", "2026-04-06T12:00:00Z", spent("gpt-4.1", "v8", 9999, 0, 9999, 9000, 3, "timeout")),
		event("beta", "1", "2026-04-06T12:00:00Z", spent("gpt-4.1", "v7", 0, 0, 1, 100, 1, "timeout")), // 0.000004
		event("beta", "2", "2026-04-06T12:00:00Z", spent("o9", "v7", 5, 0, 6, 200, 1, "ok")),
	}, nil))
	var last struct{ Position string }
	require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events/tokens_spent/3/void", service, "acme", map[string]any{"reason": "a test"}, nil))
	require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events/tokens_spent/4/adjust", service, "acme",
		map[string]any{"quantity": 1, "reason": "a test", "data": spent("gpt-4.1", "v8", 1, 0, 0, 930, 3, "timeout")}, &last)) // 0.000001
	positions := []string{last.Position}
	for source, check := range map[string]map[string]any{
		"a": {"quantity": 1, "data": map[string]any{"modelTier": "standard"}}, "b": {"quantity": 11, "data": map[string]any{"modelTier": "premium"}},
		"c": {"quantity": 1, "data": map[string]any{"modelTier": "premium"}},
	} {
		check["eventType"], check["sourceId"] = "tokens_spent", source
		require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/limits/check", service, "beta", check, &last))
	}
	positions = append(positions, last.Position)
	for _, at := range positions {
		status, body, _ := p.insights(adminKey, "cost?waitMs=20000&minPosition="+at)
		require.Equal(t, http.StatusOK, status, body)
	}

	const (
		days  = "?from=2026-04-05T08:00:00Z&to=2026-04-06T08:00:00Z"
		begin = `"from":"2026-04-05T00:00:00.000Z","to":"2026-04-07T00:00:00.000Z",`
	)
	acmeCost := `{"dimensions":{"tenant":"acme"},"events":3,"inputTokens":2001,"cachedInputTokens":800,"outputTokens":200,"cost":{"amount":"0.004801","currency":"USD"},"unpriced":null}`
	betaCost := `{"dimensions":{"tenant":"beta"},"events":2,"inputTokens":5,"cachedInputTokens":0,"outputTokens":7,"cost":{"amount":"0.000004","currency":"USD"},"unpriced":{"events":1,"inputTokens":5,"outputTokens":6}}`
	for query, want := range map[string]string{
		"cost" + days: `{"kind":"cost",` + begin + `"groupBy":["tenant"],"items":[` + acmeCost + `,` + betaCost + `],"groups":2,` +
			`"total":{"events":5,"inputTokens":2006,"cachedInputTokens":800,"outputTokens":207,"cost":{"amount":"0.004805","currency":"USD"},"unpriced":{"events":1,"inputTokens":5,"outputTokens":6}},` +
			`"unpriced":[{"provider":"openai","model":"o9","events":1,"inputTokens":5,"outputTokens":6}]}`,
		"latency" + days: `{"kind":"latency",` + begin + `"groupBy":["plan"],"items":[` +
			`{"dimensions":{"plan":"pro"},"events":3,"p50Ms":929.792,"p90Ms":929.792,"p95Ms":929.792,"p99Ms":929.792},` +
			`{"dimensions":{"plan":"free"},"events":2,"p50Ms":99.84,"p90Ms":199.68,"p95Ms":199.68,"p99Ms":199.68}],"groups":2,` +
			`"total":{"events":5,"p50Ms":929.792,"p90Ms":929.792,"p95Ms":929.792,"p99Ms":929.792},"relativeError":0.0078125}`,
		"retries" + days: `{"kind":"retries",` + begin + `"groupBy":["promptVersion"],"items":[` +
			`{"dimensions":{"promptVersion":"v8"},"retries":2,"events":2,"share":1},{"dimensions":{"promptVersion":"v7"},"retries":0,"events":3,"share":0}],"groups":2,` +
			`"total":{"retries":2,"events":5,"share":0.4}}`,
		"providers" + days + "&groupBy=provider,day": `{"kind":"providers",` + begin + `"groupBy":["provider","day"],"items":[` +
			`{"dimensions":{"provider":"openai","day":"2026-04-06"},"failures":2,"events":4,"share":0.5},` +
			`{"dimensions":{"provider":"openai","day":"2026-04-05"},"failures":0,"events":1,"share":0}],"groups":2,"total":{"failures":2,"events":5,"share":0.4}}`,
	} {
		status, body, position := p.insights(adminKey, query)
		require.Equal(t, http.StatusOK, status, body)
		require.Equal(t, want, body, query)
		require.NotEmpty(t, position)
	}
	_, body, _ := p.insights(adminKey, "denials")
	require.Contains(t, body, `"items":[{"dimensions":{"tenant":"beta","limit":"model_tier"},"denials":2,"decisions":3,"share":0.666667},`+
		`{"dimensions":{"tenant":"beta","limit":"tokens_per_day"},"denials":1,"decisions":3,"share":0.333333}],"groups":2,"total":{"denials":2,"decisions":3,"share":0.666667}}`)

	// A tenant's answer shows only its own, with every kind of key.
	for name, c := range map[string]struct {
		key     tenant.Secret
		query   string
		headers []string
	}{
		"its key":               {keys["acme"], "", nil},
		"a service":             {service, "", []string{"X-Tenant-Id", "acme"}},
		"an admin":              {adminKey, "&tenantId=acme", nil},
		"an admin by header":    {adminKey, "", []string{"X-Tenant-Id", "acme"}},
		"an admin who switched": {adminKey, "", []string{"X-Tenant-Switch", "acme", "X-Switch-Reason", "a test"}},
	} {
		status, body, _ := p.insights(c.key, "cost"+days+c.query, c.headers...)
		require.Equal(t, http.StatusOK, status, name)
		require.Contains(t, body, `"items":[`+acmeCost+`],"groups":1,`, name)
		for _, kind := range []string{"cost", "latency", "retries", "denials", "providers"} {
			status, body, _ := p.insights(c.key, kind+days+c.query+fmt.Sprintf("&groupBy=%s", map[bool]string{true: "tenant,limit", false: "tenant"}[kind == "denials"]), c.headers...)
			require.Equal(t, http.StatusOK, status, name)
			require.NotContains(t, body, "beta", "%s of %s", kind, name)
			require.NotContains(t, body, "o9", "%s of %s", kind, name)
		}
	}
	status, body, _ := p.insights(keys["acme"], "cost?tenantId=beta")
	require.Equal(t, http.StatusForbidden, status, body)
	status, body, _ = p.insights(service, "cost")
	require.Equal(t, http.StatusBadRequest, status, body)

	out, err := run(t, dir, "verify", "insights")
	require.NoError(t, err, out)
}
