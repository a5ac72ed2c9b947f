package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/tenant"
)

const limitsCatalog = `
meters:
  - {key: tokens, eventType: tokens_spent, aggregation: sum}
  - {key: pings, eventType: ping, aggregation: sum}
plans:
  - key: pro
    currency: USD
    limits:
      - {key: tokens_per_month, kind: quota, meter: tokens, max: 1000, window: month, holdTTL: 15m}
      - {key: pings_at_once, kind: rate, on: [ping], max: 1, window: 2s}
`

// decided is the answer to a check.
type decided struct {
	Allowed       bool
	Remaining     *float64
	ResetAt       *time.Time
	Reason, Limit *string
	Position      string
	Replayed      bool
	HoldExpiresAt *time.Time
	header        http.Header
}

func (p *process) check(key tenant.Secret, body string) decided {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.url+"/v1/limits/check", strings.NewReader(body))
	require.NoError(p.t, err)
	request.Header.Set("Authorization", "Bearer "+string(key))
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Tenant-Id", "acme")
	response, err := http.DefaultClient.Do(request)
	require.NoError(p.t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	require.Equal(p.t, http.StatusOK, response.StatusCode, string(text))
	d := decided{header: response.Header}
	require.NoError(p.t, json.NewDecoder(bytes.NewReader(text)).Decode(&d))
	return d
}

// get reads as the tenant acme.
func (p *process) get(key tenant.Secret, path string, answer any) {
	p.t.Helper()
	require.NoError(p.t, callAs(p.t.Context(), http.MethodGet, p.url+path, key, "acme", nil, answer))
}

// A check holds, the usage event settles it, and what is left is right at once.
func TestACheckFromHoldToUsage(t *testing.T) { onEveryStore(t, testACheckFromHoldToUsage) }

func testACheckFromHoldToUsage(t *testing.T, dir string) {
	catalog := catalogFile(t, limitsCatalog)
	p := serveCatalog(t, dir, catalog)
	p.putTenant("acme")
	require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/acme/plan", adminKey, map[string]any{"plan": "pro"}, nil))
	key := p.serviceKey()
	left := func() float64 {
		t.Helper()
		var answer struct {
			Items []struct {
				Limit           string
				Remaining, Held float64
			}
		}
		p.get(key, "/v1/limits", &answer)
		require.Equal(t, "tokens_per_month", answer.Items[0].Limit)
		return answer.Items[0].Remaining
	}
	holds := func() int {
		t.Helper()
		var answer struct{ Items []struct{ SourceID string } }
		p.get(key, "/v1/holds", &answer)
		return len(answer.Items)
	}
	require.InDelta(t, 1000, left(), 0)

	first := p.check(key, `{"eventType":"tokens_spent","sourceId":"call_1","quantity":600}`)
	require.True(t, first.Allowed)
	require.InDelta(t, 400, *first.Remaining, 0)
	require.InDelta(t, 400, left(), 0)
	require.Equal(t, 1, holds())

	again := p.check(key, `{"eventType":"tokens_spent","sourceId":"call_1","quantity":600,"hold":{"ttl":"1m"}}`)
	require.True(t, again.Allowed && again.Replayed)
	require.Equal(t, first.Position, again.Position, "nothing was written")
	require.Equal(t, first.HoldExpiresAt, again.HoldExpiresAt, "a hold does not become shorter")
	require.InDelta(t, 400, left(), 0)

	renewed := p.check(key, `{"eventType":"tokens_spent","sourceId":"call_1","quantity":600,"hold":{"ttl":"1h"}}`)
	require.True(t, renewed.Allowed && renewed.Replayed)
	require.NotEqual(t, first.Position, renewed.Position)
	require.True(t, renewed.HoldExpiresAt.After(first.HoldExpiresAt.Add(40*time.Minute)))
	require.InDelta(t, 400, left(), 0)

	denied := p.check(key, `{"eventType":"tokens_spent","sourceId":"call_2","quantity":500}`)
	require.False(t, denied.Allowed)
	require.Equal(t, "plan_limit", *denied.Reason)
	require.Equal(t, renewed.HoldExpiresAt, denied.ResetAt)
	require.NotEmpty(t, denied.header.Get("Retry-After"))
	require.Contains(t, denied.header.Get("RateLimit"), `"tokens_per_month";r=400;t=`)

	var receipt struct{ Status, Position string }
	require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events", key, "acme", map[string]any{"eventType": "tokens_spent", "sourceId": "call_1",
		"quantity": 450, "occurredAt": time.Now().UTC().Format(time.RFC3339Nano)}, &receipt))
	require.Equal(t, "recorded", receipt.Status)
	require.InDelta(t, 550, left(), 0)
	require.Zero(t, holds())
	require.True(t, p.check(key, `{"eventType":"tokens_spent","sourceId":"call_2","quantity":500}`).Allowed)
	require.InDelta(t, 50, left(), 0)
	over := p.check(key, `{"eventType":"tokens_spent","sourceId":"call_1","quantity":600}`)
	require.True(t, over.Allowed && over.Replayed, "the usage was recorded before")
	require.Equal(t, receipt.Position, over.Position)

	var release struct{ Released bool }
	for _, want := range []bool{true, false} {
		require.NoError(t, callAs(t.Context(), http.MethodDelete, p.url+"/v1/holds/tokens_spent/call_2", key, "acme", nil, &release))
		require.Equal(t, want, release.Released)
	}
	require.InDelta(t, 550, left(), 0)

	var got struct {
		Hold struct {
			State    string
			Quantity float64
			Overage  bool
		}
		Decision struct {
			Allowed  bool
			Position string
		}
	}
	p.get(key, "/v1/events/tokens_spent/call_1?minPosition="+receipt.Position, &got)
	require.Equal(t, "settled", got.Hold.State)
	require.InDelta(t, 600, got.Hold.Quantity, 0)
	require.False(t, got.Hold.Overage)
	require.Equal(t, renewed.Position, got.Decision.Position)

	// Another process on the same database sees the same, and this one sees what the other did.
	server, err := pgserverURL(t, dir)
	require.NoError(t, err)
	second := serveCatalog(t, dir, catalog, "TOLLGATE_DATABASE_URL="+server)
	require.False(t, second.check(key, `{"eventType":"tokens_spent","sourceId":"call_3","quantity":551}`).Allowed)
	require.True(t, second.check(key, `{"eventType":"tokens_spent","sourceId":"call_3","quantity":550}`).Allowed)
	require.False(t, p.check(key, `{"eventType":"tokens_spent","sourceId":"call_4"}`).Allowed)

	response, err := http.Get(p.url + "/metrics")
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	for _, line := range []string{`tollgate_limit_decisions_total{result="allowed"} 2`, `tollgate_limit_decisions_total{result="denied"} 2`,
		`tollgate_limit_decisions_total{result="replayed"} 3`, "tollgate_limit_accounts 1", "tollgate_limit_account_loads_total 1"} {
		require.Contains(t, string(text), line+"\n")
	}

	// A denied check says when to come back; the same check is then allowed.
	require.True(t, p.check(key, `{"eventType":"ping","sourceId":"1"}`).Allowed)
	denied = p.check(key, `{"eventType":"ping","sourceId":"2"}`)
	require.False(t, denied.Allowed)
	require.Equal(t, "burst_limit", *denied.Reason)
	require.Equal(t, "pings_at_once", *denied.Limit)
	require.Contains(t, []string{"1", "2"}, denied.header.Get("Retry-After"))
	require.LessOrEqual(t, time.Until(*denied.ResetAt), 2*time.Second)
	<-time.After(time.Until(*denied.ResetAt))
	require.True(t, p.check(key, `{"eventType":"ping","sourceId":"2"}`).Allowed)
}

// Beyond its bound a process answers 503 at once; its health is still answered.
func TestRequestsBeyondTheBound(t *testing.T) {
	dir := dataFolder(t)
	p := serve(t, dir, "TOLLGATE_MAX_REQUESTS=1")
	get := func(path string) int {
		response, err := http.Get(p.url + path)
		require.NoError(t, err)
		_ = response.Body.Close()
		if response.StatusCode == http.StatusServiceUnavailable {
			require.Equal(t, "1", response.Header.Get("Retry-After"))
		}
		return response.StatusCode
	}
	statuses := map[int]int{}
	for range 20 {
		statuses[get("/v1/usage")]++
	}
	require.Positive(t, statuses[http.StatusUnauthorized])
	require.Positive(t, statuses[http.StatusServiceUnavailable])
	require.Equal(t, 20, statuses[http.StatusUnauthorized]+statuses[http.StatusServiceUnavailable])
	for range 5 {
		require.Equal(t, http.StatusOK, get("/healthz"))
	}
}
