package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/domain/usage"
)

func TestUsage(t *testing.T) {
	h := newFixture(t)
	total := money.MustParse("123456789012345678.000000001")
	h.reads.report = usage.Report{
		Items: []usage.Row{{
			WindowStart: time.Date(2026, 4, 4, 22, 0, 0, 0, time.UTC), WindowEnd: time.Date(2026, 4, 5, 22, 0, 0, 0, time.UTC),
			Meter: "tokens", Quantity: total, Events: 2, Dimensions: map[string]string{"model": "gpt-4.1", "feature": `a "b"`},
		}},
		NextCursor: "more", Total: &total,
	}
	a := h.do(request{method: "GET", key: h.acme, path: "/v1/usage?from=2026-04-05T00:00:00%2B02:00&to=2026-04-06T00:00:00%2B02:00&granularity=day&meter=tokens&groupBy=model,feature&limit=7&cursor=abc"})
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	assert.Equal(t, "1-7", a.Header().Get("Tollgate-Position"))
	// Compared as text: every digit counts.
	assert.Equal(t, `{"items":[{"windowStart":"2026-04-04T22:00:00.000Z","windowEnd":"2026-04-05T22:00:00.000Z","meter":"tokens",`+
		`"quantity":123456789012345678.000000001,"events":2,"dimensions":{"feature":"a \"b\"","model":"gpt-4.1"}}],"nextCursor":"more","total":123456789012345678.000000001}`, a.Body.String())

	q := h.reads.asked
	assert.Equal(t, "Europe/Berlin", q.Location.String())
	assert.True(t, q.From.Equal(time.Date(2026, 4, 4, 22, 0, 0, 0, time.UTC)))
	q.From, q.To, q.Location = time.Time{}, time.Time{}, nil
	assert.Equal(t, usage.Query{Tenant: "acme", Granularity: usage.Day, Meter: "tokens", GroupBy: []string{"model", "feature"}, Limit: 7, Cursor: "abc"}, q)

	h.reads.report = usage.Report{}
	a = h.do(request{method: "GET", key: h.acme, path: "/v1/usage"})
	assert.JSONEq(t, `{"items":[],"nextCursor":null,"total":null}`, a.Body.String())
	assert.Equal(t, 30*24*time.Hour, h.reads.asked.To.Sub(h.reads.asked.From))
	assert.Equal(t, 50, h.reads.asked.Limit)
}

func TestTimeline(t *testing.T) {
	h := newFixture(t)
	two := money.Int(2)
	h.reads.page = timeline.Page{Items: []timeline.Item{
		{Position: eventstore.Position{Partition: 1, Offset: 9}, RecordedAt: clock, OccurredAt: clock.Add(-time.Minute), Kind: "usage", EventType: "tokens_spent",
			SourceID: "x", Quantity: &two, Summary: "2 tokens_spent were used.", Data: json.RawMessage(`{"model":"m"}`)},
		{Position: eventstore.Position{Partition: 1, Offset: 8}, RecordedAt: clock, Kind: "switch", Summary: "Support looked around."},
	}}
	a := h.do(request{method: "GET", key: h.acme, path: "/v1/timeline?from=2026-04-01T00:00:00Z&to=2026-05-01T00:00:00Z&type=tokens_spent&sourceId=x%2Fy&limit=500"})
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	assert.Equal(t, "1-7", a.Header().Get("Tollgate-Position"))
	assert.JSONEq(t, `{"items":[
		{"position":"1-9","recordedAt":"2026-04-05T10:31:00.000Z","occurredAt":"2026-04-05T10:30:00.000Z","kind":"usage","eventType":"tokens_spent","sourceId":"x","quantity":2,"summary":"2 tokens_spent were used.","data":{"model":"m"}},
		{"position":"1-8","recordedAt":"2026-04-05T10:31:00.000Z","occurredAt":null,"kind":"switch","eventType":null,"sourceId":null,"quantity":null,"summary":"Support looked around.","data":null}],"nextCursor":null}`, a.Body.String())
	assert.Equal(t, timeline.Query{Tenant: "acme", From: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC),
		Type: "tokens_spent", Source: "x/y", Limit: 500}, h.reads.askedFor)
}

func TestReadersErrors(t *testing.T) {
	h := newFixture(t)
	for err, status := range map[error]int{
		invalid.New("/cursor", "malformed", "the cursor is of another question"): 400,
		fmt.Errorf("query: %w", eventstore.ErrUnavailable):                       503,
		fmt.Errorf("column secret does not exist"):                               500,
	} {
		h.reads.err = err
		for path, key := range map[string]string{"/v1/usage": h.acme, "/v1/timeline": h.acme, "/v1/admin/keys": h.admin} {
			a := h.do(request{method: "GET", path: path, key: key})
			assert.Equal(t, status, a.Code, a.Body)
			assert.NotContains(t, a.Body.String(), "secret")
		}
	}
}

// A read that is told to wait answers as soon as the position is there.
func TestReadsWaitForPosition(t *testing.T) {
	h := newFixture(t)
	first := h.post(h.acme, "application/json", usageEvent("a")).json()["position"].(string)
	at, err := eventstore.ParsePosition(first)
	require.NoError(t, err)
	at.Offset++
	answered := make(chan answer)
	go func() {
		answered <- h.do(request{method: "GET", key: h.acme, path: "/v1/usage?waitMs=30000&minPosition=" + at.String()})
	}()
	require.Equal(t, http.StatusCreated, h.post(h.acme, "application/json", usageEvent("b")).Code)
	assert.Equal(t, http.StatusOK, (<-answered).Code)
	assert.Equal(t, http.StatusBadRequest, h.do(request{method: "GET", key: h.acme, path: "/v1/usage?minPosition=99-1"}).Code)
}

func TestTenants(t *testing.T) {
	h := newFixture(t)
	put := func(id, body string) answer {
		return h.do(request{"PUT", "/v1/admin/tenants/" + id, h.admin, []string{"Content-Type", "application/json"}, body})
	}
	a := put("t%2F1", `{"name":"Acme","timeZone":"Europe/Berlin","currency":"EUR","hosts":["Acme.Product.com."],"slug":"acme"}`)
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	const want = `{"tenantId":"t/1","name":"Acme","timeZone":"Europe/Berlin","currency":"EUR","hosts":["acme.product.com"],"slug":"acme","status":"active","statusReason":null}`
	assert.JSONEq(t, want, a.Body.String())
	at := a.Header().Get("Tollgate-Position")
	require.NotEmpty(t, at)

	got := h.do(request{method: "GET", path: "/v1/admin/tenants/t%2F1?minPosition=" + at, key: h.admin})
	require.Equal(t, http.StatusOK, got.Code, got.Body)
	assert.JSONEq(t, want, got.Body.String())
	assert.Equal(t, at, got.Header().Get("Tollgate-Position"))

	// What GET answers can be sent back, without the id and the status; it changes nothing.
	same := put("t%2F1", strings.NewReplacer(`"tenantId":"t/1",`, "", `,"status":"active","statusReason":null`, "").Replace(want))
	require.Equal(t, http.StatusOK, same.Code, same.Body)
	assert.Equal(t, at, same.Header().Get("Tollgate-Position"))

	assert.JSONEq(t, `{"tenantId":"t2","name":"t2","timeZone":"UTC","currency":"USD","hosts":[],"slug":null,"status":"active","statusReason":null}`, put("t2", `{"slug":null}`).Body.String())
	for _, bad := range []string{`{"hosts":"x"}`, `{"hosts":[1]}`, `{"hosts":["127.0.0.1"]}`, `{"name":"a\u0000"}`, `{"Name":"a"}`, `{"currency":"eur"}`, `{"name":1}`, `[]`} {
		assert.Equal(t, http.StatusBadRequest, put("t2", bad).Code, bad)
	}
	assert.Equal(t, http.StatusNotFound, h.do(request{method: "GET", path: "/v1/admin/tenants/nobody", key: h.admin}).Code)
	assert.Equal(t, http.StatusBadRequest, put("a%00b", "{}").Code)
}

func TestKeys(t *testing.T) {
	h := newFixture(t)
	h.reads.keys = api.Keys{Items: []tenant.Key{
		{ID: "key_1", Kind: tenant.Scoped, Tenant: "acme", Name: "backend", CreatedAt: clock},
		{ID: "key_2", Kind: tenant.Admin, Name: "ops", CreatedAt: clock, RevokedAt: clock.Add(time.Hour), ExpiresAt: clock.Add(2 * time.Hour), LastUsed: clock.Add(time.Minute)},
	}, NextCursor: "more"}
	a := h.do(request{method: "GET", path: "/v1/admin/keys", key: h.admin})
	require.Equal(t, http.StatusOK, a.Code)
	assert.Equal(t, "0-3", a.Header().Get("Tollgate-Position"))
	assert.JSONEq(t, `{"items":[
		{"id":"key_1","kind":"tenant","tenantId":"acme","name":"backend","createdAt":"2026-04-05T10:31:00.000Z","expiresAt":null,"lastUsedAt":null,"revokedAt":null},
		{"id":"key_2","kind":"admin","tenantId":null,"name":"ops","createdAt":"2026-04-05T10:31:00.000Z","expiresAt":"2026-04-05T12:31:00.000Z","lastUsedAt":"2026-04-05T10:32:00.000Z","revokedAt":"2026-04-05T11:31:00.000Z"}],"nextCursor":"more"}`, a.Body.String())
	for _, bad := range []string{`{"kind":"root","name":"x"}`, `{"kind":"service","name":""}`, `{"kind":"tenant","name":"x"}`, `{"kind":"admin","tenantId":"acme","name":"x"}`, `{}`, `{"kind":"admin","name":"x","key":"mine"}`} {
		assert.Equal(t, http.StatusBadRequest, h.do(request{"POST", "/v1/admin/keys", h.admin, []string{"Content-Type", "application/json"}, bad}).Code, bad)
	}
}

func TestCatalog(t *testing.T) {
	h := newFixture(t)
	put := func(query, contentType, body string) answer {
		return h.do(request{"PUT", "/v1/admin/catalog" + query, h.admin, []string{"Content-Type", contentType}, body})
	}
	got := h.do(request{method: "GET", path: "/v1/admin/catalog", key: h.admin})
	require.Equal(t, http.StatusOK, got.Code, got.Body)
	assert.Equal(t, "0", got.Header().Get("Tollgate-Catalog-Revision"))

	same := put("", "application/json", got.Body.String())
	require.Equal(t, http.StatusOK, same.Code, same.Body)
	assert.JSONEq(t, `{"applied":false,"revision":0,"changes":[]}`, same.Body.String())

	const next = "meters:\n  - {key: tokens, eventType: tokens_spent, aggregation: count}\n"
	dry := put("?dryRun=true", "application/yaml", next)
	require.Equal(t, http.StatusOK, dry.Code, dry.Body)
	assert.Equal(t, false, dry.json()["applied"])
	assert.NotEmpty(t, dry.json()["changes"])
	assert.Equal(t, got.Body.String(), h.do(request{method: "GET", path: "/v1/admin/catalog", key: h.admin}).Body.String())

	done := put("", "application/yaml", next)
	require.Equal(t, http.StatusOK, done.Code)
	assert.Equal(t, dry.json()["changes"], done.json()["changes"])
	assert.Equal(t, json.Number("1"), done.json()["revision"])
	assert.NotEmpty(t, done.Header().Get("Tollgate-Position"))

	bad := put("", "application/yaml", "meters:\n  - {key: tokens, eventType: t, aggregation: median}\n  - {key: x}\n")
	require.Equal(t, http.StatusBadRequest, bad.Code)
	assert.Equal(t, "invalid_request", bad.code())
	assert.Greater(t, len(bad.json()["errors"].([]any)), 1)
	assert.Equal(t, http.StatusBadRequest, put("?dryRun=perhaps", "application/yaml", next).Code)
	assert.Equal(t, http.StatusUnsupportedMediaType, put("", "text/plain", next).Code)
}
