package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const plans = sampleCatalog + `
plans:
  - key: pro
    currency: USD
    limits:
      - {key: requests_per_minute, kind: rate, on: [tokens_spent], max: 60, window: 1m}
      - {key: tokens_per_day, kind: quota, meter: tokens, max: 200000, window: day}
      - {key: model_tier, kind: access, on: [tokens_spent], field: modelTier, values: [standard]}
  - {key: scale, currency: USD}
`

// planned has plans in its catalog, and calls as an administrator.
func planned(t *testing.T) (h *fixture, call func(method, path, body string) answer) {
	h = newFixture(t)
	call = func(method, path, body string) answer {
		return h.do(request{method, path, h.admin, []string{"Content-Type", "application/json"}, body})
	}
	a := h.do(request{"PUT", "/v1/admin/catalog", h.admin, []string{"Content-Type", "application/yaml"}, plans})
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	return h, call
}

// A plan that a tenant has is not taken out of the catalog, and the answer names it.
func TestPlanInUse(t *testing.T) {
	h, call := planned(t)
	require.Equal(t, http.StatusOK, call("PUT", "/v1/admin/tenants/acme/plan", `{"plan":"pro"}`).Code)
	before := h.log()
	for _, query := range []string{"", "?dryRun=true"} {
		a := h.do(request{"PUT", "/v1/admin/catalog" + query, h.admin, []string{"Content-Type", "application/yaml"}, sampleCatalog})
		require.Equal(t, http.StatusBadRequest, a.Code, a.Body)
		assert.Equal(t, []any{map[string]any{"pointer": "/plans", "code": "in_use",
			"detail": "the catalog lacks plans that tenants have or will have, or has them in another currency: pro; assign other plans first"}}, a.json()["errors"])
	}
	assert.Equal(t, before, h.log())
	a := h.do(request{"PUT", "/v1/admin/catalog", h.admin, []string{"Content-Type", "application/yaml"}, sampleCatalog + "plans: [{key: pro, currency: USD}]"})
	require.Equal(t, http.StatusOK, a.Code, a.Body)
}

func TestPlan(t *testing.T) {
	h, call := planned(t)
	const path = "/v1/admin/tenants/acme/plan"
	before := h.log()
	first := call("PUT", path, `{"plan":"pro"}`)
	require.Equal(t, http.StatusOK, first.Code, first.Body)
	at := first.Header().Get("Tollgate-Position")
	assert.JSONEq(t, `{"tenantId":"acme","plan":"pro","planVersion":"pro@1","effectiveAt":"2026-04-05T10:31:00.000Z",`+
		`"billingAnchor":"2026-04-05T10:31:00.000Z","position":"`+at+`"}`, first.Body.String())
	again := call("PUT", path, `{"plan":"pro","effectiveAt":null,"billingAnchor":null}`)
	assert.Equal(t, first.Body.String(), again.Body.String(), "it is in force already")
	// What was answered can be sent again.
	same := call("PUT", path, `{"plan":"pro","effectiveAt":"2026-04-05T10:31:00.000Z","billingAnchor":"2026-04-05T10:31:00.000Z"}`)
	assert.Equal(t, first.Body.String(), same.Body.String())
	assert.Equal(t, before+1, h.log())

	// A date is its midnight on the tenant's clock, which is Berlin's; in Santiago's zone some have none.
	for body, anchor := range map[string]string{
		`{"plan":"scale","billingAnchor":"2026-01-31"}`:                                                                 "2026-01-30T23:00:00.000Z",
		`{"plan":"scale","billingAnchor":"2026-07-31"}`:                                                                 "2026-07-30T22:00:00.000Z",
		`{"plan":"scale","effectiveAt":"2026-04-01T00:00:00+02:00","billingAnchor":"2026-01-31T00:00:00.123456+01:00"}`: "2026-01-30T23:00:00.123Z",
	} {
		a := call("PUT", path, body)
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		assert.Equal(t, anchor, a.json()["billingAnchor"], body)
		assert.Equal(t, "scale@1", a.json()["planVersion"])
	}
	require.Equal(t, http.StatusOK, call("PUT", "/v1/admin/tenants/t%2F1", `{"timeZone":"America/Santiago"}`).Code)
	a := call("PUT", "/v1/admin/tenants/t%2F1/plan", `{"plan":"pro","billingAnchor":"2026-09-06"}`)
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	assert.Equal(t, "t/1", a.json()["tenantId"])
	assert.Equal(t, "2026-09-06T04:00:00.000Z", a.json()["billingAnchor"], "the first instant of that day is 01:00")

	for body, pointer := range map[string]string{
		`{}`:              "/plan",
		`{"plan":null}`:   "/plan",
		`{"plan":"gold"}`: "/plan",
		`{"plan":"pro","effectiveAt":"2026-04-05"}`:             "/effectiveAt",
		`{"plan":"pro","effectiveAt":"0001-01-01T00:00:00Z"}`:   "/effectiveAt",
		`{"plan":"pro","effectiveAt":"1969-12-31T23:59:59Z"}`:   "/effectiveAt",
		`{"plan":"pro","effectiveAt":1}`:                        "/effectiveAt",
		`{"plan":"pro","billingAnchor":"2026-02-29"}`:           "/billingAnchor",
		`{"plan":"pro","billingAnchor":"0001-01-01"}`:           "/billingAnchor",
		`{"plan":"pro","billingAnchor":"0001-01-01T00:00:00Z"}`: "/billingAnchor",
		`{"plan":"pro","billingAnchor":["2026-01"]}`:            "/billingAnchor",
		`{"plan":"pro","Plan":"pro"}`:                           "/Plan",
		`{"plan":"pro","version":3}`:                            "/version",
	} {
		a := call("PUT", path, body)
		require.Equal(t, http.StatusBadRequest, a.Code, body)
		require.Contains(t, a.Body.String(), `"pointer":"`+pointer+`"`, body)
	}
	assert.Contains(t, call("PUT", path, `{"plan":"gold"}`).json()["detail"], "pro, scale")
	for _, body := range []string{`{"plan":"pro"}`, `{"plan":"pro","billingAnchor":"2026-01-31"}`} {
		assert.Equal(t, "unknown_tenant", call("PUT", "/v1/admin/tenants/nobody/plan", body).code())
	}
}

func TestLimitOverride(t *testing.T) {
	h, call := planned(t)
	const path = "/v1/admin/tenants/acme/limits/tokens_per_day"
	before := h.log()
	first := call("PUT", path, `{"max":"0.50","until":"2026-05-01T00:00:00+02:00","reason":"ticket 7"}`)
	require.Equal(t, http.StatusOK, first.Code, first.Body)
	at := first.Header().Get("Tollgate-Position")
	assert.Equal(t, `{"tenantId":"acme","limit":"tokens_per_day","max":0.5,"from":null,"until":"2026-04-30T22:00:00.000Z","reason":"ticket 7","position":"`+at+`"}`,
		first.Body.String())
	same := call("PUT", path, `{"max":0.5,"from":null,"until":"2026-04-30T22:00:00.000Z","reason":"ticket 7"}`)
	assert.Equal(t, first.Body.String(), same.Body.String())
	blocked := call("PUT", path, `{"max":0,"from":"2026-04-06T00:00:00Z","reason":"blocked"}`)
	require.Equal(t, http.StatusOK, blocked.Code, blocked.Body)
	assert.Equal(t, "2026-04-06T00:00:00.000Z", blocked.json()["from"])
	assert.Equal(t, before+2, h.log())

	for range 2 {
		removed := call("DELETE", path, "")
		require.Equal(t, http.StatusNoContent, removed.Code)
		require.NotEmpty(t, removed.Header().Get("Tollgate-Position"))
	}
	assert.Equal(t, before+3, h.log())
	assert.Equal(t, http.StatusNoContent, call("DELETE", "/v1/admin/tenants/other/limits/never_heard_of", "").Code)
	assert.Equal(t, "unknown_tenant", call("DELETE", "/v1/admin/tenants/nobody/limits/tokens_per_day", "").code())
	assert.Equal(t, "unknown_tenant", call("PUT", "/v1/admin/tenants/nobody/limits/tokens_per_day", `{"max":1,"reason":"r"}`).code())

	for _, c := range []struct{ limit, body, pointer string }{
		{"tokens_per_day", `{"reason":"r"}`, "/max"},
		{"tokens_per_day", `{"max":null,"reason":"r"}`, "/max"},
		{"tokens_per_day", `{"max":-1,"reason":"r"}`, "/max"},
		{"tokens_per_day", `{"max":1e20,"reason":"r"}`, "/max"},
		{"tokens_per_day", `{"max":"many","reason":"r"}`, "/max"},
		{"requests_per_minute", `{"max":1.5,"reason":"r"}`, "/max"},
		{"tokens_per_day", `{"max":1}`, "/reason"},
		{"tokens_per_day", `{"max":1,"reason":null}`, "/reason"},
		{"tokens_per_day", `{"max":1,"reason":"r","until":"2026-04-05T10:31:00Z"}`, "/until"},
		{"tokens_per_day", `{"max":1,"reason":"r","from":"2026-05-01T00:00:00Z","until":"2026-04-30T00:00:00Z"}`, "/until"},
		{"tokens_per_day", `{"max":1,"reason":"r","until":"tomorrow"}`, "/until"},
		{"tokens_per_day", `{"max":1,"reason":"r","by":"me"}`, "/by"},
		{"tokens_per_week", `{"max":1,"reason":"r"}`, "/limit"},
		{"model_tier", `{"max":1,"reason":"r"}`, "/limit"},
		{"a%00b", `{"max":1,"reason":"r"}`, "/limit"},
	} {
		a := call("PUT", strings.Replace(path, "tokens_per_day", c.limit, 1), c.body)
		require.Equal(t, http.StatusBadRequest, a.Code, c.body)
		require.Contains(t, a.Body.String(), `"pointer":"`+c.pointer+`"`, c.body)
	}
}

// log counts the events on the log.
func (h *fixture) log() (n int64) {
	for p := range h.store.Partitions() {
		events, err := h.store.ReadLog(h.t.Context(), eventstore.Position{Partition: p}, eventstore.MaxReadLimit)
		require.NoError(h.t, err)
		n += int64(len(events))
	}
	return n
}
