package main

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/tenant"
)

const levelsCatalog = `
meters:
  - {key: interviews, eventType: interview, aggregation: sum}
  - {key: calls, eventType: call, aggregation: count}
plans:
  - key: by_day
    currency: USD
    limits:
      - {key: interviews_per_day, kind: quota, meter: interviews, max: 10, window: day}
      - {key: calls_at_once, kind: concurrency, on: [call], max: 3, holdTTL: 10m}
      - {key: calls_per_minute, kind: rate, on: [call], max: 3, window: 10m}
  - key: by_cycle
    currency: USD
    limits:
      - {key: interviews_per_cycle, kind: quota, meter: interviews, max: 10, window: billing_cycle}
      - {key: sessions, kind: concurrency, on: [call], max: 3, holdTTL: 5m}
      - {key: calls_per_hour, kind: rate, on: [call], max: 3, window: 1h}
  - key: team
    currency: USD
    limits:
      - {key: interviews_of_a_user, kind: quota, meter: interviews, max: 3, window: month, per: [userId]}
      - {key: interviews_of_a_team, kind: quota, meter: interviews, max: 5, window: month, per: [teamId]}
      - {key: calls_of_a_user, kind: rate, on: [call], max: 2, window: 1h, per: [userId]}
`

func (p *process) plan(of, plan string) {
	p.t.Helper()
	require.NoError(p.t, call(p.t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+of+"/plan", adminKey, map[string]any{"plan": plan}, nil))
}

// What is held under one plan is held under the next one, whatever its limits are called.
func TestHoldsSurviveAPlanSwitch(t *testing.T) { onEveryStore(t, testHoldsSurviveAPlanSwitch) }

func testHoldsSurviveAPlanSwitch(t *testing.T, dir string) {
	p := serveCatalog(t, dir, catalogFile(t, levelsCatalog))
	p.putTenant("acme")
	key := p.serviceKey()
	p.plan("acme", "by_day")
	require.True(t, p.check(key, `{"eventType":"interview","sourceId":"i1","quantity":10}`).Allowed)
	for i := range 3 {
		require.True(t, p.check(key, fmt.Sprintf(`{"eventType":"call","sourceId":"c%d"}`, i)).Allowed)
	}
	p.plan("acme", "by_cycle")
	denied := p.check(key, `{"eventType":"interview","sourceId":"i2","quantity":10}`)
	require.False(t, denied.Allowed, "10 of 10 are held")
	require.Equal(t, "interviews_per_cycle", *denied.Limit)
	require.False(t, p.check(key, `{"eventType":"call","sourceId":"c9"}`).Allowed, "three run, and three were admitted within the hour")
	var holds struct {
		Items []struct {
			SourceID string
			Limits   []struct {
				Limit  string
				Amount float64
			}
		}
	}
	p.get(key, "/v1/holds", &holds)
	require.Len(t, holds.Items, 4)
	for _, h := range holds.Items {
		require.Len(t, h.Limits, 1)
		if h.SourceID == "i1" {
			require.Equal(t, "interviews_per_cycle", h.Limits[0].Limit)
			require.InDelta(t, 10, h.Limits[0].Amount, 0)
		}
	}

	// Its usage settles it under the new plan.
	require.NoError(t, p.use(key, "interview", "i1", 4, map[string]any{}))
	require.True(t, p.check(key, `{"eventType":"interview","sourceId":"i3","quantity":6}`).Allowed)
	require.False(t, p.check(key, `{"eventType":"interview","sourceId":"i4","quantity":1}`).Allowed)
}

func (p *process) use(key tenant.Secret, eventType, source string, quantity int, data map[string]any) error {
	return callAs(p.t.Context(), http.MethodPost, p.url+"/v1/events", key, "acme", map[string]any{"eventType": eventType, "sourceId": source,
		"quantity": quantity, "occurredAt": time.Now().UTC().Format(time.RFC3339Nano), "data": data}, nil)
}

// A limit per user and one per team are decided together with everything else; a process that never met the user knows what it used.
func TestLimitsBelowTheTenant(t *testing.T) { onEveryStore(t, testLimitsBelowTheTenant) }

func testLimitsBelowTheTenant(t *testing.T, dir string) {
	catalog := catalogFile(t, levelsCatalog)
	p := serveCatalog(t, dir, catalog)
	p.putTenant("acme")
	p.plan("acme", "team")
	key := p.serviceKey()
	ask := func(source, user, team string) decided {
		t.Helper()
		return p.check(key, fmt.Sprintf(`{"eventType":"interview","sourceId":%q,"data":{"userId":%q,"teamId":%q}}`, source, user, team))
	}
	for i := range 3 {
		source := fmt.Sprint("a", i)
		require.True(t, ask(source, "u1", "red").Allowed)
		require.NoError(t, p.use(key, "interview", source, 1, map[string]any{"userId": "u1", "teamId": "red"}))
	}
	denied := ask("a3", "u1", "red")
	require.False(t, denied.Allowed)
	require.Equal(t, "interviews_of_a_user", *denied.Limit)
	require.True(t, ask("b0", "u2", "red").Allowed)
	require.True(t, ask("b1", "u2", "red").Allowed)
	denied = ask("b2", "u2", "red")
	require.Equal(t, "interviews_of_a_team", *denied.Limit, "three used and two held of five")
	require.True(t, ask("b3", "u2", "blue").Allowed, "another team has its own")

	p.kill()
	p = serveCatalog(t, dir, catalog)
	denied = ask("c0", "u1", "blue")
	require.False(t, denied.Allowed, "the new process has nobody in memory")
	require.Equal(t, "interviews_of_a_user", *denied.Limit)
	require.False(t, ask("c1", "u9", "red").Allowed)
	for i, want := range []bool{true, true, false} {
		require.Equal(t, want, p.check(key, fmt.Sprintf(`{"eventType":"call","sourceId":"d%d","data":{"userId":"u7"}}`, i)).Allowed)
	}
	p.kill()
	p = serveCatalog(t, dir, catalog)
	require.False(t, p.check(key, `{"eventType":"call","sourceId":"d9","data":{"userId":"u7"}}`).Allowed, "admissions are remembered too")

	var limits struct {
		Items []struct {
			Limit      string
			Per        map[string]string
			Used, Held float64
		}
	}
	p.get(key, "/v1/limits", &limits)
	require.Empty(t, limits.Items, "all of them are about somebody")
	p.get(key, "/v1/limits?per=userId:u1", &limits)
	require.Len(t, limits.Items, 2)
	require.Equal(t, map[string]string{"userId": "u1"}, limits.Items[0].Per)
	require.InDelta(t, 3, limits.Items[0].Used, 0)
	p.get(key, "/v1/limits?per=teamId:red&per=userId:u2", &limits)
	require.Len(t, limits.Items, 3)
	require.InDelta(t, 2, limits.Items[1].Held, 0)

	// One user may have more than the others.
	override := p.url + "/v1/admin/tenants/acme/limits/interviews_of_a_user"
	require.NoError(t, call(t.Context(), http.MethodPut, override, adminKey, map[string]any{"max": 4, "reason": "a pilot", "per": map[string]string{"userId": "u1"}}, nil))
	require.True(t, ask("f0", "u1", "blue").Allowed)
	require.False(t, ask("f1", "u1", "blue").Allowed)
	require.NoError(t, call(t.Context(), http.MethodDelete, override+"?per=userId:u1", adminKey, nil, nil))
	require.False(t, ask("f2", "u1", "green").Allowed)

	// A check that does not say for whom it is decides nothing.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/v1/limits/check", bytes.NewReader([]byte(`{"eventType":"call","sourceId":"e1"}`)))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+string(key))
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Tenant-Id", "acme")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	require.Equal(t, http.StatusBadRequest, response.StatusCode)
}
