package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// A check that does not name its output tokens counts two, 1.00 of the budget.
var planCatalog = strings.Replace(sampleCatalog, "value: data.outputTokens,", "value: data.outputTokens, estimate: 2,", 1) + `
plans:
  - key: pro
    currency: USD
    limits:
      - {key: requests, kind: rate, on: [tokens_spent], max: 3, window: 1m}
      - {key: tokens_per_day, kind: quota, meter: tokens, max: 1000, window: day, holdTTL: 15m}
      - {key: spend, kind: budget, max: "500.00", window: month}
      - {key: sessions, kind: concurrency, on: [ai_interview_completed], max: 2, holdTTL: 2h}
      - {key: model_tier, kind: access, on: [ai_interview_completed], field: modelTier, values: [standard, premium]}
      - {key: audio, kind: max, on: [ai_interview_completed], field: audioSeconds, max: 1800}
    prices:
      - {key: output, model: per_unit, meter: output_tokens, unit: "0.5"}
`

// limited is a fixture whose tenant acme has a plan.
func limited(t testing.TB) *fixture {
	h := newFixture(t)
	h.subscribe(planCatalog, "pro")
	return h
}

func (h *fixture) subscribe(text string, plan catalog.PlanKey) {
	h.t.Helper()
	ctx := context.Background()
	c, err := catalog.Parse([]byte(text))
	require.NoError(h.t, err)
	_, err = h.ledger.ApplyCatalog(ctx, c, false, "cli")
	require.NoError(h.t, err)
	_, err = h.ledger.AssignPlan(ctx, "acme", app.PlanAssignment{Plan: plan}, "cli")
	require.NoError(h.t, err)
}

func (h *fixture) check(key, body string, headers ...string) answer {
	h.t.Helper()
	return h.do(request{"POST", "/v1/limits/check", key, append([]string{"Content-Type", "application/json"}, headers...), body})
}

const (
	requestsPart = `{"limit":"requests","kind":"rate","mode":"enforce","allowed":true,"max":3,"used":%d,"held":0,"requested":%d,"remaining":2,"windowStart":"2026-04-05T10:30:00.000Z","windowEnd":"2026-04-05T10:31:00.000Z",` +
		`"resetAt":"2026-04-05T10:32:00.000Z","reason":null,"planVersion":"pro@1","holdExpiresAt":null,"overage":false,"overridden":false}`
	heldParts = `{"limit":"tokens_per_day","kind":"quota","mode":"enforce","allowed":true,"max":1000,"used":0,"held":0,"requested":600,"remaining":400,"windowStart":"2026-04-04T22:00:00.000Z","windowEnd":"2026-04-05T22:00:00.000Z",` +
		`"resetAt":"2026-04-05T22:00:00.000Z","reason":null,"planVersion":"pro@1","holdExpiresAt":"2026-04-05T10:41:00.000Z","overage":false,"overridden":false},` +
		`{"limit":"spend","kind":"budget","mode":"enforce","allowed":true,"max":500,"used":0,"held":0,"requested":5.5,"remaining":494.5,"currency":"USD","windowStart":"2026-03-31T22:00:00.000Z","windowEnd":"2026-04-30T22:00:00.000Z",` +
		`"resetAt":"2026-04-30T22:00:00.000Z","reason":null,"planVersion":"pro@1","holdExpiresAt":"2026-04-05T10:41:00.000Z","overage":false,"overridden":false}`
)

// The answers are compared as text: the order of the members is that of the contract, and every digit counts.
func TestCheckAnswers(t *testing.T) {
	h := limited(t)
	const holding = `{"eventType":"tokens_spent","sourceId":"a","quantity":600,"data":{"gen_ai.usage.output_tokens":11},"hold":{"ttl":"10m"}}`
	for _, step := range []struct{ name, body, want, limits, policy, retryAfter string }{
		{"allowed", holding,
			`{"allowed":true,"remaining":400,"resetAt":"2026-04-05T22:00:00.000Z","reason":null,"limit":"tokens_per_day","message":null,"sourceId":"a","eventType":"tokens_spent","position":"3-4","replayed":false,` +
				`"holdExpiresAt":"2026-04-05T10:41:00.000Z","planVersion":"pro@1","overage":false,"degraded":false,"limits":[` + fmt.Sprintf(requestsPart, 0, 1) + "," + heldParts + `]}`,
			`"requests";r=2;t=60, "tokens_per_day";r=400;t=41340, "spend";r=494;t=2201340`,
			`"requests";q=3;w=60, "tokens_per_day";q=1000;w=86400, "spend";q=500;w=2592000`, ""},
		{"asked again: nothing is taken again", holding,
			`{"allowed":true,"remaining":400,"resetAt":"2026-04-05T22:00:00.000Z","reason":null,"limit":"tokens_per_day","message":null,"sourceId":"a","eventType":"tokens_spent","position":"3-4","replayed":true,` +
				`"holdExpiresAt":"2026-04-05T10:41:00.000Z","planVersion":"pro@1","overage":false,"degraded":false,"limits":[` + fmt.Sprintf(requestsPart, 1, 0) + "," + heldParts + `]}`,
			`"requests";r=2;t=60, "tokens_per_day";r=400;t=41340, "spend";r=494;t=2201340`,
			`"requests";q=3;w=60, "tokens_per_day";q=1000;w=86400, "spend";q=500;w=2592000`, ""},
		{"denied", `{"eventType":"tokens_spent","sourceId":"b","quantity":"600.5","occurredAt":"2031-01-01T00:00:00+01:00","hold":true}`,
			`{"allowed":false,"remaining":400,"resetAt":"2026-04-05T10:41:00.000Z","reason":"plan_limit","limit":"tokens_per_day",` +
				`"message":"This workspace has 400 tokens left of its 1,000 tokens for today, and this needs 600.5 tokens. More at 2026-04-05 12:41 CEST.",` +
				`"sourceId":"b","eventType":"tokens_spent","position":"3-5","replayed":false,"holdExpiresAt":null,"planVersion":"pro@1","overage":false,"degraded":false,"limits":[` +
				strings.Replace(fmt.Sprintf(requestsPart, 1, 1), `"2026-04-05T10:32:00.000Z"`, "null", 1) + `,` +
				`{"limit":"tokens_per_day","kind":"quota","mode":"enforce","allowed":false,"max":1000,"used":0,"held":600,"requested":600.5,"remaining":400,"windowStart":"2026-04-04T22:00:00.000Z","windowEnd":"2026-04-05T22:00:00.000Z",` +
				`"resetAt":"2026-04-05T10:41:00.000Z","reason":"plan_limit","planVersion":"pro@1","holdExpiresAt":null,"overage":false,"overridden":false},` +
				`{"limit":"spend","kind":"budget","mode":"enforce","allowed":true,"max":500,"used":0,"held":5.5,"requested":1,"remaining":494.5,"currency":"USD","windowStart":"2026-03-31T22:00:00.000Z","windowEnd":"2026-04-30T22:00:00.000Z",` +
				`"resetAt":null,"reason":null,"planVersion":"pro@1","holdExpiresAt":null,"overage":false,"overridden":false}]}`,
			`"requests";r=2, "tokens_per_day";r=400;t=600, "spend";r=494`,
			`"requests";q=3;w=60, "tokens_per_day";q=1000;w=86400, "spend";q=500;w=2592000`, "600"},
		{"denied for ever", `{"eventType":"ai_interview_completed","sourceId":"c","data":{"audioSeconds":3600}}`,
			`{"allowed":false,"remaining":null,"resetAt":null,"reason":"plan_limit","limit":"model_tier","message":"This plan does not include that modelTier; it has standard, premium.",` +
				`"sourceId":"c","eventType":"ai_interview_completed","position":"3-6","replayed":false,"holdExpiresAt":null,"planVersion":"pro@1","overage":false,"degraded":false,"limits":[` +
				`{"limit":"sessions","kind":"concurrency","mode":"enforce","allowed":true,"max":2,"used":0,"held":0,"requested":1,"remaining":2,"windowStart":null,"windowEnd":null,"resetAt":null,"reason":null,"planVersion":"pro@1","holdExpiresAt":null,"overage":false,"overridden":false},` +
				`{"limit":"model_tier","kind":"access","mode":"enforce","allowed":false,"max":null,"used":null,"held":null,"requested":null,"remaining":null,"windowStart":null,"windowEnd":null,"resetAt":null,"reason":"plan_limit","planVersion":"pro@1","holdExpiresAt":null,"overage":false,"overridden":false},` +
				`{"limit":"audio","kind":"max","mode":"enforce","allowed":false,"max":1800,"used":0,"held":0,"requested":3600,"remaining":null,"windowStart":null,"windowEnd":null,"resetAt":null,"reason":"plan_limit","planVersion":"pro@1","holdExpiresAt":null,"overage":false,"overridden":false}]}`,
			`"sessions";r=2`, `"sessions";q=2;qu="concurrent-requests"`, ""},
	} {
		a := h.check(h.acme, step.body)
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		assert.Equal(t, placed(step.want), placed(a.Body.String()), step.name)
		assert.Equal(t, step.limits, a.Header().Get("RateLimit"), step.name)
		assert.Equal(t, step.policy, a.Header().Get("RateLimit-Policy"), step.name)
		assert.Equal(t, step.retryAfter, a.Header().Get("Retry-After"), step.name)
	}

	a := h.check(h.service, `{"tenantId":"other","eventType":"tokens_spent","sourceId":"x","quantity":1e6}`) // has no plan
	assert.Equal(t, placed(`{"allowed":true,"remaining":null,"resetAt":null,"reason":null,"limit":null,"message":null,"sourceId":"x","eventType":"tokens_spent","position":"1-2","replayed":false,`+
		`"holdExpiresAt":"2026-04-05T10:46:00.000Z","planVersion":null,"overage":false,"degraded":false,"limits":[]}`), placed(a.Body.String()))
	assert.Empty(t, a.Header().Get("RateLimit"))
}

// What a check leaves out is not zero: it counts the estimate, or the check is refused with the names of the fields.
func TestMissingFields(t *testing.T) {
	h := newFixture(t)
	h.subscribe(strings.Replace(sampleCatalog, "value: data.outputTokens,", "value: data.outputTokens, dimensions: [model],", 1)+`
plans:
  - key: pro
    currency: USD
    limits:
      - {key: spend, kind: budget, max: "500.00", window: month}
      - {key: output, kind: quota, meter: output_tokens, max: 1000, window: day}
      - {key: depth, kind: max, on: [tokens_spent], field: depth, max: 3}
    prices:
      - {key: output, model: per_unit, meter: output_tokens, unit: "0.5", where: {model: gpt-4.1}}
`, "pro")
	for data, pointers := range map[string][]string{
		`{}`:                                             {"/data/model", "/data/outputTokens", "/data/depth"},
		`{"model":"gpt-4.1"}`:                            {"/data/outputTokens", "/data/depth"},
		`{"model":null,"depth":null}`:                    {"/data/model", "/data/outputTokens", "/data/depth"},
		`{"model":"gpt-4.1","outputTokens":5}`:           {"/data/depth"},
		`{"model":"o3","outputTokens":5}`:                {"/data/depth"},
		`{"outputTokens":5,"depth":1}`:                   {"/data/model"},
		`{"model":"o3","outputTokens":1,"depth":"deep"}`: {"/data/depth"},
		`{"model":"o3","outputTokens":1,"depth":true}`:   {"/data/depth"},
		`{"model":"o3","outputTokens":1,"depth":"2.5"}`:  {"/data/depth"},
	} {
		check := `{"eventType":"tokens_spent","sourceId":"a","data":` + data + `}`
		a := h.check(h.acme, check)
		require.Equal(t, http.StatusBadRequest, a.Code, data)
		assert.Equal(t, "invalid_event", a.code(), data)
		assert.Equal(t, pointers, pointersOf(a.json()), data)
		items := h.check(h.acme, `[{"eventType":"ai_interview_completed","sourceId":"i"},`+check+`]`).json()["items"].([]any)
		assert.Equal(t, true, items[0].(map[string]any)["allowed"])
		for i := range pointers {
			pointers[i] = "/1" + pointers[i]
		}
		assert.Equal(t, "invalid_event", items[1].(map[string]any)["code"])
		assert.Equal(t, pointers, pointersOf(items[1].(map[string]any)), data)
	}
	assert.Equal(t, json.Number("0"), h.limitStates("")["output"]["held"])
	require.Equal(t, true, h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"a","data":{"model":"o3","outputTokens":1,"depth":2.5}}`).json()["allowed"])
}

func pointersOf(body map[string]any) (pointers []string) {
	for _, e := range body["errors"].([]any) {
		pointers = append(pointers, e.(map[string]any)["pointer"].(string))
	}
	return pointers
}

// A check with upTo is told how much it got; one that is asked again keeps that.
func TestUpTo(t *testing.T) {
	h := limited(t)
	ask := func(source, rest string) map[string]any {
		t.Helper()
		a := h.check(h.acme, fmt.Sprintf(`{"eventType":"tokens_spent","sourceId":%q%s}`, source, rest))
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		return a.json()
	}
	whole := ask("a", `,"quantity":600,"upTo":true`)
	assert.Equal(t, json.Number("600"), whole["granted"])
	assert.NotContains(t, ask("plain", `,"quantity":0.5`), "granted")
	for range 2 {
		part := ask("b", `,"quantity":600.25,"upTo":true`)
		assert.Equal(t, true, part["allowed"])
		assert.Equal(t, json.Number("399.5"), part["granted"])
		assert.Equal(t, json.Number("0"), part["remaining"])
		assert.Nil(t, part["reason"])
	}
	items := h.check(h.acme, `[{"eventType":"tokens_spent","sourceId":"c","quantity":5,"upTo":true},{"eventType":"tokens_spent","sourceId":"d","quantity":5,"upTo":false}]`).json()["items"].([]any)
	assert.Equal(t, json.Number("0"), items[0].(map[string]any)["granted"])
	assert.Equal(t, false, items[0].(map[string]any)["allowed"])
	assert.NotContains(t, items[1], "granted")
	assert.Equal(t, json.Number("1000"), h.limitStates("")["tokens_per_day"]["held"])
}

// A dry run answers what would be decided, and leaves no trace.
func TestDryRun(t *testing.T) {
	h := limited(t)
	ask := func(rest string) map[string]any {
		t.Helper()
		a := h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"a"`+rest+`}`)
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		return a.json()
	}
	before := h.limitStates("")
	for range 5 {
		got := ask(`,"quantity":600,"dryRun":true`)
		assert.Equal(t, true, got["allowed"])
		assert.Equal(t, false, got["replayed"])
		assert.Nil(t, got["position"])
		assert.Nil(t, got["holdExpiresAt"])
		quota := got["limits"].([]any)[1].(map[string]any)
		assert.Equal(t, json.Number("600"), quota["requested"])
		assert.Equal(t, json.Number("1000"), quota["remaining"])
		denied := ask(`,"quantity":1001,"dryRun":true`)
		assert.Equal(t, false, denied["allowed"])
		assert.Equal(t, "tokens_per_day", denied["limit"])
		assert.Nil(t, denied["position"])
		assert.Equal(t, json.Number("1000"), ask(`,"quantity":1001,"upTo":true,"dryRun":true`)["granted"])
	}
	items := h.check(h.acme, `[{"eventType":"tokens_spent","sourceId":"x","quantity":9,"dryRun":true}]`).json()["items"].([]any)
	assert.Nil(t, items[0].(map[string]any)["position"])
	assert.Equal(t, before, h.limitStates(""))
	assert.Equal(t, 0, h.decisions())
	assert.Empty(t, h.do(request{method: "GET", path: "/v1/holds", key: h.acme}).json()["items"])

	// Of a check with an open hold it answers the hold's real state, as hold: false does.
	held := ask(`,"quantity":600`)
	for _, rest := range []string{`,"quantity":600,"dryRun":true`, `,"quantity":600,"hold":false`, `,"quantity":600,"hold":{"ttl":"2h"},"dryRun":true`} {
		got := ask(rest)
		assert.Equal(t, true, got["replayed"], rest)
		assert.Equal(t, held["holdExpiresAt"], got["holdExpiresAt"], rest)
		assert.Equal(t, json.Number("400"), got["remaining"], rest)
	}
	assert.Equal(t, held["holdExpiresAt"], ask(`,"quantity":700,"dryRun":true`)["holdExpiresAt"])
	assert.Equal(t, held["holdExpiresAt"], ask(`,"quantity":700,"hold":false`)["holdExpiresAt"])
	assert.Equal(t, 2, h.decisions())
}

// A limit in mode observe is decided and counted, and no answer depends on it.
func TestObservedLimits(t *testing.T) {
	h := newFixture(t)
	h.subscribe(sampleCatalog+`
plans:
  - key: pro
    currency: USD
    limits:
      - {key: tight, kind: quota, meter: tokens, max: 10, window: week, mode: observe}
      - {key: wide, kind: quota, meter: tokens, max: 1000, window: 30d, rolling: true, mode: enforce}
      - {key: none, kind: rate, on: [tokens_spent], max: 0, window: 1m, mode: observe}
      - {key: closed, kind: quota, meter: ai_interviews, max: 0, window: day}
`, "pro")
	a := h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"a","quantity":100}`)
	got := a.json()
	assert.Equal(t, true, got["allowed"])
	assert.Equal(t, "wide", got["limit"])
	assert.Nil(t, got["reason"])
	assert.Nil(t, got["message"])
	var said []any
	for _, p := range got["limits"].([]any) {
		part := p.(map[string]any)
		said = append(said, part["limit"], part["mode"], part["allowed"])
	}
	assert.Equal(t, []any{"tight", "observe", false, "wide", "enforce", true, "none", "observe", false}, said)
	assert.Equal(t, `"wide";q=1000;w=2592000`, a.Header().Get("RateLimit-Policy"))
	assert.NotContains(t, a.Header().Get("RateLimit"), "tight")
	denied := h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"b","quantity":1000}`)
	assert.Equal(t, "wide", denied.json()["limit"])
	assert.Equal(t, "plan_limit", denied.json()["reason"])
	assert.Equal(t, "closed", h.check(h.acme, `{"eventType":"ai_interview_completed","sourceId":"i"}`).json()["limit"])

	limits := h.limitStates("")
	assert.Equal(t, json.Number("2"), limits["tight"]["wouldDeny"])
	assert.Equal(t, "observe", limits["tight"]["mode"])
	assert.Equal(t, "week", limits["tight"]["window"])
	assert.Equal(t, "2026-03-29T22:00:00.000Z", limits["tight"]["windowStart"])
	assert.NotContains(t, limits["tight"], "rolling")
	assert.Equal(t, "enforce", limits["wide"]["mode"])
	assert.Equal(t, "30d", limits["wide"]["window"])
	assert.Equal(t, true, limits["wide"]["rolling"])
	assert.NotContains(t, limits["wide"], "wouldDeny")
	assert.Equal(t, json.Number("0"), limits["none"]["max"])
	assert.Equal(t, json.Number("0"), limits["closed"]["remaining"])
}

// The usage event settles the hold, and what is left is right at once.
func TestUsageSettlesAHold(t *testing.T) {
	h := limited(t)
	first := h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"a","quantity":600}`)
	require.Equal(t, true, first.json()["allowed"])
	require.Equal(t, http.StatusCreated, h.post(h.acme, "application/json", usageEvent("a", `,"quantity":700`)).Code)

	next := h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"b","quantity":300}`).json()
	assert.Equal(t, true, next["allowed"])
	assert.Equal(t, json.Number("0"), next["remaining"])
	again := h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"a","quantity":600}`).json()
	assert.Equal(t, true, again["allowed"])
	assert.Equal(t, true, again["replayed"])
	assert.Nil(t, again["holdExpiresAt"])

	got := h.do(request{method: "GET", path: "/v1/events/tokens_spent/a", key: h.acme}).json()
	assert.Equal(t, map[string]any{"state": "settled", "quantity": json.Number("600"), "expiresAt": "2026-04-05T10:46:00.000Z", "overage": true}, got["hold"])
	decision := got["decision"].(map[string]any)
	assert.Equal(t, first.json()["position"], decision["position"])
	assert.Equal(t, first.json()["limits"].([]any)[:2], decision["limits"].([]any)[:2])
	assert.Equal(t, "tokens_per_day", decision["limit"])
	assert.Equal(t, http.StatusNotFound, h.do(request{method: "GET", path: "/v1/events/tokens_spent/b", key: h.acme}).Code, "a check is no event")

	// A correction is known at once as well.
	require.Equal(t, http.StatusCreated, h.do(request{"POST", "/v1/events/tokens_spent/a/void", h.acme, []string{"Content-Type", "application/json"}, `{"reason":"a test"}`}).Code)
	assert.Equal(t, json.Number("700"), h.limitStates("")["tokens_per_day"]["remaining"])
}

// limitStates is what GET /v1/limits says of each limit.
func (h *fixture) limitStates(query string) map[string]map[string]any {
	h.t.Helper()
	a := h.do(request{method: "GET", path: "/v1/limits" + query, key: h.acme})
	require.Equal(h.t, http.StatusOK, a.Code, a.Body)
	all := map[string]map[string]any{}
	for _, item := range a.json()["items"].([]any) {
		l := item.(map[string]any)
		all[l["limit"].(string)] = l
	}
	return all
}

func TestReleasedAndUnheld(t *testing.T) {
	h := limited(t)
	for body, state := range map[string]any{
		`{"eventType":"tokens_spent","sourceId":"released","quantity":1}`:              "released",
		`{"eventType":"tokens_spent","sourceId":"unheld","quantity":1,"hold":false}`:   nil,
		`{"eventType":"tokens_spent","sourceId":"denied","quantity":1e9,"hold":false}`: nil,
	} {
		source := h.check(h.acme, body).json()["sourceId"].(string)
		a := h.do(request{method: "DELETE", path: "/v1/holds/tokens_spent/" + source, key: h.acme})
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		assert.Equal(t, state != nil, a.json()["released"])
		assert.Equal(t, state != nil, a.json()["position"] != nil)
		assert.Equal(t, `{"released":false,"position":null}`, h.do(request{method: "DELETE", path: "/v1/holds/tokens_spent/" + source, key: h.acme}).Body.String())
		require.Equal(t, http.StatusCreated, h.post(h.acme, "application/json", usageEvent(source)).Code)
		got := h.do(request{method: "GET", path: "/v1/events/tokens_spent/" + source, key: h.acme}).json()
		if state == nil {
			assert.Nil(t, got["hold"], source)
		} else {
			assert.Equal(t, state, got["hold"].(map[string]any)["state"])
		}
		assert.Equal(t, source != "denied", got["decision"].(map[string]any)["allowed"])
	}
	assert.Equal(t, `{"released":false,"position":null}`, h.do(request{method: "DELETE", path: "/v1/holds/tokens_spent/a%00b", key: h.acme}).Body.String())
}

// Each body is refused by both routes with the same problem.
func TestChecksAreAsStrictAsEvents(t *testing.T) {
	h := limited(t)
	for name, event := range map[string]string{
		"no JSON":        `{`,
		"a number":       `7`,
		"unknown":        usageEvent("a", `,"colour":1`),
		"case variant":   usageEvent("a", `,"Quantity":1`),
		"duplicate":      usageEvent("a", `,"sourceId":"b"`),
		"no id":          strings.Replace(usageEvent("a"), `"sourceId":"a",`, "", 1),
		"negative":       usageEvent("a", `,"quantity":-1`),
		"exponent bomb":  usageEvent("a", `,"quantity":1e999999`),
		"data":           usageEvent("a", `,"data":[]`),
		"words to count": usageEvent("a", `,"data":{"outputTokens":"many"}`),
		"no time":        strings.Replace(usageEvent("a"), "2026-04-05T10:30:00.000Z", "soon", 1),
		"unknown type":   strings.Replace(usageEvent("a"), "tokens_spent", "unheard_of", 1),
		"other tenant":   usageEvent("a", `,"tenantId":"other"`),
		"empty tenant":   usageEvent("a", `,"tenantId":""`),
		"large":          usageEvent("a", `,"data":{"a":"`+strings.Repeat("x", 1<<20)+`"}`),
	} {
		want, got := h.post(h.acme, "application/json", event), h.check(h.acme, event)
		require.GreaterOrEqual(t, want.Code, 400, name)
		assert.Equal(t, want.Code, got.Code, name)
		wanted, had := want.json(), got.json()
		if name == "unknown" || name == "case variant" { // the names that are known differ
			assert.Equal(t, wanted["code"], had["code"], name)
			continue
		}
		assert.Equal(t, wanted, had, name)
	}
	assert.Equal(t, "unknown_tenant", h.check(h.service, usageEvent("a", `,"tenantId":"nobody"`)).code())
	assert.Equal(t, "tenant_required", h.check(h.service, usageEvent("a")).code())
	for _, contentType := range []string{"application/x-ndjson", "application/cloudevents+json", "text/plain"} {
		a := h.do(request{"POST", "/v1/limits/check", h.acme, []string{"Content-Type", contentType}, usageEvent("a")})
		assert.Equal(t, "unsupported_media_type", a.code(), contentType)
	}
	assert.Equal(t, 0, h.decisions())
}

// decisions counts what is recorded about checks.
func (h *fixture) decisions() (n int) {
	h.t.Helper()
	for p := range h.store.Partitions() {
		recorded, err := h.store.ReadLog(context.Background(), eventstore.Position{Partition: p}, 50_000)
		require.NoError(h.t, err)
		for _, r := range recorded {
			if strings.HasPrefix(r.Type, "limit_decided.") {
				n++
			}
		}
	}
	return n
}

func TestAdminsCheckInsideATenant(t *testing.T) {
	h := limited(t)
	a := h.check(h.admin, `{"eventType":"tokens_spent","sourceId":"a"}`, "X-Tenant-Switch", "acme", "X-Switch-Reason", "looking into a ticket")
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	recorded, err := h.store.ReadLog(t.Context(), eventstore.Position{Partition: eventstore.PartitionOf("acme", h.store.Partitions())}, 100)
	require.NoError(t, err)
	var types []string
	for _, r := range recorded {
		types = append(types, r.Type)
	}
	assert.Equal(t, []string{"admin_switched.v1", "limit_decided.v1:tokens_spent"}, types[len(types)-2:])
}

func TestArraysOfChecks(t *testing.T) {
	h := limited(t)
	a := h.check(h.service, `[
		{"tenantId":"acme","eventType":"tokens_spent","sourceId":"a","quantity":600}, {"tenantId":"acme","eventType":"tokens_spent","sourceId":"b","quantity":600},
		{"tenantId":"acme","eventType":"tokens_spent","sourceId":"a","quantity":600}, {"tenantId":"other","eventType":"tokens_spent","sourceId":"a"},
		{"tenantId":"acme","eventType":"unheard_of","sourceId":"d"}, {"tenantId":"acme","eventType":"tokens_spent"},
		{"tenantId":"acme","eventType":"tokens_spent","sourceId":"e","data":{"outputTokens":-1}}, {"quantity":NaN}, 5,
		{"eventType":"tokens_spent","sourceId":"f"}, {"tenantId":"nobody","eventType":"tokens_spent","sourceId":"g"},
		{"tenantId":"acme","eventType":"tokens_spent","sourceId":"c","quantity":400,"hold":{"ttl":"1h"}}]`)
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	assert.Empty(t, a.Header().Get("RateLimit"))
	items := a.json()["items"].([]any)
	want := []struct {
		source, code, pointer string
		allowed, replayed     bool
	}{
		{"a", "", "", true, false}, {"b", "", "", false, false}, {"a", "", "", true, true}, {"a", "", "", true, false},
		{"d", "unknown_event_type", "/4/eventType", false, false}, {"", "invalid_event", "/5/sourceId", false, false},
		{"e", "invalid_event", "/6/data/outputTokens", false, false}, {"", "invalid_json", "/7", false, false}, {"", "invalid_event", "/8", false, false},
		{"f", "tenant_required", "", false, false}, {"g", "unknown_tenant", "", false, false},
		{"c", "", "", true, false},
	}
	require.Len(t, items, len(want))
	for i, w := range want {
		item := items[i].(map[string]any)
		if source, _ := item["sourceId"].(string); w.source != source {
			assert.Equal(t, w.source, source, i)
		}
		if w.code == "" {
			assert.Equal(t, w.allowed, item["allowed"], i)
			assert.Equal(t, w.replayed, item["replayed"], i)
			continue
		}
		assert.Equal(t, "invalid", item["status"], i)
		assert.Equal(t, w.code, item["code"], i)
		if w.pointer == "" {
			assert.NotContains(t, item, "errors", i)
		} else {
			assert.Equal(t, w.pointer, item["errors"].([]any)[0].(map[string]any)["pointer"], i)
		}
	}

	assert.Equal(t, `{"items":[]}`, h.check(h.acme, " [ ] ").Body.String())
	assert.Equal(t, "invalid_json", h.check(h.acme, "[1,").code())
	assert.Equal(t, "too_large", h.check(h.acme, "["+strings.Repeat("1,", 10_000)+"1]").code())
	assert.Equal(t, "too_large", h.check(h.acme, "["+strings.Repeat(" ", 16<<20)+"]").code())
	many := strings.Repeat(`{"eventType":"evaluation","sourceId":"x"},`, 2500) // more than one chunk
	assert.Len(t, h.check(h.acme, "["+many+"1]").json()["items"], 2501)
}

// What cannot be recorded is not answered, and an item of an array fails on its own.
func TestChecksWithoutAStore(t *testing.T) {
	h := limited(t)
	require.Equal(t, http.StatusOK, h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"a"}`).Code)
	h.faults.failWith(func(eventstore.Append) error { return fmt.Errorf("%w: gone", eventstore.ErrUnavailable) })
	a := h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"b"}`)
	assert.Equal(t, http.StatusServiceUnavailable, a.Code)
	assert.Equal(t, "store_unavailable", a.code())
	assert.Equal(t, "1", a.Header().Get("Retry-After"))
	items := h.check(h.acme, `[{"eventType":"tokens_spent","sourceId":"b"},{"eventType":"tokens_spent"}]`).json()["items"].([]any)
	assert.Equal(t, "failed", items[0].(map[string]any)["status"])
	assert.Equal(t, "store_unavailable", items[0].(map[string]any)["code"])
	assert.Equal(t, "b", items[0].(map[string]any)["sourceId"])
	assert.Equal(t, "invalid", items[1].(map[string]any)["status"])
	assert.Equal(t, http.StatusServiceUnavailable, h.do(request{method: "DELETE", path: "/v1/holds/tokens_spent/a", key: h.acme}).Code)

	h.faults.failWith(func(eventstore.Append) error { return fmt.Errorf("%w: too much", eventstore.ErrOverloaded) })
	a = h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"b"}`)
	assert.Equal(t, http.StatusServiceUnavailable, a.Code)
	assert.Equal(t, "overloaded", a.code())
	assert.Equal(t, "1", a.Header().Get("Retry-After"))
}

// Limits that admit it let work through without a log, and say so.
func TestDegradedAnswers(t *testing.T) {
	h := newFixture(t)
	h.subscribe(strings.Replace(planCatalog, "window: day, holdTTL: 15m", "window: day, onError: allow", 1), "pro")
	require.Equal(t, http.StatusOK, h.check(h.acme, `{"eventType":"ai_interview_completed","sourceId":"a","data":{"audioSeconds":60}}`).Code)
	h.faults.failWith(func(eventstore.Append) error { return fmt.Errorf("%w: gone", eventstore.ErrUnavailable) })
	assert.Equal(t, "store_unavailable", h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"b"}`).code(), "a budget denies")
	h.faults.failWith(nil)
	h.subscribe(strings.NewReplacer("window: day, holdTTL: 15m", "window: day, onError: allow", "window: month}", "window: month, onError: allow}").Replace(planCatalog), "pro")
	require.Equal(t, http.StatusOK, h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"a"}`).Code)
	h.faults.failWith(func(eventstore.Append) error { return fmt.Errorf("%w: gone", eventstore.ErrUnavailable) })
	a := h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"b"}`)
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	got := a.json()
	assert.Equal(t, true, got["allowed"])
	assert.Equal(t, true, got["degraded"])
	assert.Nil(t, got["position"])
	assert.Nil(t, got["holdExpiresAt"])
	assert.Empty(t, a.Header().Get("RateLimit"))
}

func TestListLimits(t *testing.T) {
	h := limited(t)
	require.Equal(t, true, h.check(h.acme, `{"eventType":"tokens_spent","sourceId":"a","quantity":600}`).json()["allowed"])
	require.Equal(t, http.StatusCreated, h.post(h.acme, "application/json", usageEvent("old", `,"quantity":100`)).Code)
	_, err := h.ledger.OverrideLimit(t.Context(), "acme", app.Override{Limit: "sessions", Max: money.Int(7), Reason: "a trial"}, "cli")
	require.NoError(t, err)
	a := h.do(request{method: "GET", path: "/v1/limits", key: h.acme})
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	head, err := h.store.Head(t.Context(), eventstore.PartitionOf("acme", h.store.Partitions()))
	require.NoError(t, err)
	assert.Equal(t, head.String(), a.Header().Get("Tollgate-Position"))
	assert.Equal(t, `{"items":[`+
		`{"limit":"requests","kind":"rate","mode":"enforce","max":3,"used":1,"held":0,"remaining":2,"windowStart":"2026-04-05T10:30:00.000Z","windowEnd":"2026-04-05T10:31:00.000Z","resetAt":"2026-04-05T10:32:00.000Z","soft":false,"overridden":false,"planVersion":"pro@1","on":["tokens_spent"],"window":"1m"},`+
		`{"limit":"tokens_per_day","kind":"quota","mode":"enforce","max":1000,"used":100,"held":600,"remaining":300,"windowStart":"2026-04-04T22:00:00.000Z","windowEnd":"2026-04-05T22:00:00.000Z","resetAt":"2026-04-05T22:00:00.000Z","soft":false,"overridden":false,"planVersion":"pro@1","meter":"tokens","window":"day","holdTTL":"15m"},`+
		`{"limit":"spend","kind":"budget","mode":"enforce","max":500,"used":0,"held":1,"remaining":499,"currency":"USD","windowStart":"2026-03-31T22:00:00.000Z","windowEnd":"2026-04-30T22:00:00.000Z","resetAt":"2026-04-30T22:00:00.000Z","soft":false,"overridden":false,"planVersion":"pro@1","window":"month"},`+
		`{"limit":"sessions","kind":"concurrency","mode":"enforce","max":7,"used":0,"held":0,"remaining":7,"windowStart":null,"windowEnd":null,"resetAt":null,"soft":false,"overridden":true,"planVersion":"pro@1","on":["ai_interview_completed"],"holdTTL":"2h"},`+
		`{"limit":"model_tier","kind":"access","mode":"enforce","max":null,"used":null,"held":null,"remaining":null,"windowStart":null,"windowEnd":null,"resetAt":null,"soft":false,"overridden":false,"planVersion":"pro@1","on":["ai_interview_completed"],"values":["standard","premium"],"field":"modelTier"},`+
		`{"limit":"audio","kind":"max","mode":"enforce","max":1800,"used":0,"held":0,"remaining":null,"windowStart":null,"windowEnd":null,"resetAt":null,"soft":false,"overridden":false,"planVersion":"pro@1","on":["ai_interview_completed"],"field":"audioSeconds"}`+
		`],"planVersion":"pro@1","nextCursor":null}`, a.Body.String())
	none := h.do(request{method: "GET", path: "/v1/limits", key: h.service, headers: []string{"X-Tenant-Id", "other"}})
	assert.Equal(t, `{"items":[],"planVersion":null,"nextCursor":null}`, none.Body.String())
}

// What another process wrote is awaited, as soon as it is there, and what is nowhere is not.
func TestLimitsReadYourWrites(t *testing.T) {
	h := limited(t)
	h.limitStates("")
	elsewhere := app.New(h.store, directory{h.store}, func() time.Time { return clock })
	receipt := elsewhere.Record(t.Context(), []app.Submission{{Usage: event.Usage{Identity: event.Identity{Tenant: "acme", Type: "tokens_spent", Source: "x"},
		Quantity: money.Int(250), OccurredAt: clock}}})[0]
	require.Equal(t, app.Recorded, receipt.Status)
	assert.Equal(t, json.Number("750"), h.limitStates("?minPosition=" + receipt.Position.String())["tokens_per_day"]["remaining"])
	h.limitStates("?minPosition=0-1") // another partition
	receipt.Position.Offset++
	a := h.do(request{method: "GET", path: "/v1/limits?waitMs=0&minPosition=" + receipt.Position.String(), key: h.acme})
	assert.Equal(t, http.StatusGatewayTimeout, a.Code)
	h.limitStates("") // nobody waits for what does not exist
}

func TestListHolds(t *testing.T) {
	h := limited(t)
	hold := func(source, ttl string) {
		t.Helper()
		require.Equal(t, true, h.check(h.acme, fmt.Sprintf(`{"eventType":"ai_interview_completed","sourceId":%q,"data":{"modelTier":"standard","audioSeconds":60},"hold":{"ttl":%q}}`, source, ttl)).json()["allowed"])
	}
	_, err := h.ledger.OverrideLimit(t.Context(), "acme", app.Override{Limit: "sessions", Max: money.Int(100), Reason: "a trial"}, "cli")
	require.NoError(t, err)
	for source, ttl := range map[string]string{"e": "50m", "a": "10m", "d": "40m", "c": "30m", "b": "30m"} {
		hold(source, ttl)
	}
	list := func(query string) (sources []string, next string) {
		t.Helper()
		a := h.do(request{method: "GET", path: "/v1/holds" + query, key: h.acme})
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		require.NotEmpty(t, a.Header().Get("Tollgate-Position"))
		for _, item := range a.json()["items"].([]any) {
			sources = append(sources, item.(map[string]any)["sourceId"].(string))
		}
		next, _ = a.json()["nextCursor"].(string)
		return sources, next
	}
	all, next := list("")
	assert.Equal(t, []string{"a", "b", "c", "d", "e"}, all)
	assert.Empty(t, next)
	first, next := list("?limit=2")
	assert.Equal(t, []string{"a", "b"}, first)

	// Others come and go between the pages, the last one of the page too.
	require.Equal(t, true, h.do(request{method: "DELETE", path: "/v1/holds/ai_interview_completed/b", key: h.acme}).json()["released"])
	require.Equal(t, true, h.do(request{method: "DELETE", path: "/v1/holds/ai_interview_completed/d", key: h.acme}).json()["released"])
	hold("early", "1m")
	hold("bb", "30m")
	second, last := list("?limit=3&cursor=" + next)
	assert.Equal(t, []string{"bb", "c", "e"}, second)
	assert.Empty(t, last)

	a := h.do(request{method: "GET", path: "/v1/holds?limit=1", key: h.acme})
	assert.JSONEq(t, `[{"eventType":"ai_interview_completed","sourceId":"early","quantity":1,"position":"`+a.json()["items"].([]any)[0].(map[string]any)["position"].(string)+`",
		"decidedAt":"2026-04-05T10:31:00.000Z","expiresAt":"2026-04-05T10:32:00.000Z","keepUntil":"2026-04-05T10:32:00.000Z","planVersion":"pro@1",
		"limits":[{"limit":"sessions","amount":1,"expiresAt":"2026-04-05T10:32:00.000Z"}]}]`, toJSON(t, a.json()["items"]))
	for _, bad := range []string{"?cursor=x", "?cursor=e30", "?limit=0", "?limit=501", "?cursor=" + strings.Repeat("x", 60_000)} {
		assert.Equal(t, http.StatusBadRequest, h.do(request{method: "GET", path: "/v1/holds" + bad, key: h.acme}).Code, bad)
	}
	foreign := h.do(request{method: "GET", path: "/v1/holds?cursor=" + next, key: h.service, headers: []string{"X-Tenant-Id", "other"}})
	assert.Equal(t, http.StatusBadRequest, foreign.Code)
}

func toJSON(t testing.TB, v any) string {
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// unread fails the test when somebody reads it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

func TestRequestsBeyondTheBound(t *testing.T) {
	h := newFixture(t, func(c *api.Config) {
		c.MaxRequestsPerSecond = 2
		c.Now = func() time.Time { return clock }
	})
	for range 2 {
		require.Equal(t, http.StatusOK, h.check(h.acme, usageEvent("a")).Code)
	}
	before := h.decisions()
	for _, path := range []string{"/v1/events", "/v1/limits/check", "/v1/admin/keys"} {
		req := httptest.NewRequest(http.MethodPost, path, unread{t})
		a := h.send(req)
		require.Equal(t, http.StatusServiceUnavailable, a.Code, path)
		assert.Equal(t, "overloaded", a.code())
		assert.Equal(t, "1", a.Header().Get("Retry-After"))
	}
	assert.Equal(t, before, h.decisions())
	for _, path := range open {
		assert.Equal(t, http.StatusOK, h.do(request{method: "GET", path: path}).Code, path)
	}
	assert.Contains(t, h.do(request{method: "GET", path: "/metrics"}).Body.String(), "tollgate_http_refused_total 3\n")
}
