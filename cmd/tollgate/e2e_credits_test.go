package main

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const creditsCatalog = `
meters:
  - {key: interviews, eventType: interview, aggregation: sum}
plans:
  - key: prepaid
    currency: EUR
    limits: [{key: credit, kind: budget, credits: true, holdTTL: 10m}]
    prices: [{key: interviews, model: per_unit, meter: interviews, unit: "1.00"}]
`

type credits struct {
	Balance, Held, Available, Unpaid struct{ Amount, Currency string }
	Grants                           []struct {
		GrantID, Kind, State string
		Remaining, Refunded  struct{ Amount, Currency string }
	}
}

// Two servers check against one credit balance at once: they admit exactly what it pays for. Usage, corrections, refunds, expiry
// and new grants count at once, and the invoice names the grants that paid.
func TestCreditIsSpentOnce(t *testing.T) { onEveryStore(t, testCreditIsSpentOnce) }

func testCreditIsSpentOnce(t *testing.T, dir string) {
	catalog := catalogFile(t, creditsCatalog)
	p := serveCatalog(t, dir, catalog)
	database, err := pgserverURL(t, dir)
	require.NoError(t, err)
	second := serveCatalog(t, dir, catalog, "TOLLGATE_DATABASE_URL="+database)
	servers := []*process{p, second}
	key := p.serviceKey()
	for _, id := range []string{"acme", "other"} {
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id, adminKey, map[string]any{"currency": "EUR"}, nil))
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id+"/plan", adminKey, map[string]any{"plan": "prepaid", "effectiveAt": "2026-01-01T00:00:00Z"}, nil))
	}
	grant := func(body map[string]any) error {
		return call(t.Context(), http.MethodPost, p.url+"/v1/admin/tenants/acme/credits", adminKey, body, nil)
	}
	credit := func(at *process) (c credits) {
		t.Helper()
		require.NoError(t, callAs(t.Context(), http.MethodGet, at.url+"/v1/credits", key, "acme", nil, &c))
		return c
	}
	// burst asks for n units in n checks at both servers, and returns the sources of those that were allowed.
	burst := func(prefix string, n int) (allowed []string) {
		t.Helper()
		var (
			wait sync.WaitGroup
			mu   sync.Mutex
			bad  atomic.Int64
		)
		for i := range n {
			wait.Go(func() {
				var d struct{ Allowed bool }
				source := fmt.Sprintf("%s-%d", prefix, i)
				if callAs(t.Context(), http.MethodPost, servers[i%2].url+"/v1/limits/check", key, "acme", map[string]any{"eventType": "interview", "sourceId": source, "quantity": 1}, &d) != nil {
					bad.Add(1)
				} else if d.Allowed {
					mu.Lock()
					allowed = append(allowed, source)
					mu.Unlock()
				}
			})
		}
		wait.Wait()
		require.Zero(t, bad.Load())
		return allowed
	}
	use := func(source string, quantity int, at time.Time) {
		t.Helper()
		require.NoError(t, callAs(t.Context(), http.MethodPost, second.url+"/v1/events", key, "acme",
			map[string]any{"eventType": "interview", "sourceId": source, "quantity": quantity, "occurredAt": at.UTC().Format(time.RFC3339Nano)}, nil))
	}

	require.Empty(t, burst("broke", 3), "no credit, no work")
	require.NoError(t, grant(map[string]any{"grantId": "order-1", "amount": "10.00", "kind": "prepaid"}))
	require.NoError(t, grant(map[string]any{"grantId": "order-1", "amount": 10, "kind": "prepaid"}), "the same again")
	require.ErrorContains(t, grant(map[string]any{"grantId": "order-1", "amount": 11, "kind": "prepaid"}), "409")
	require.ErrorContains(t, grant(map[string]any{"grantId": "order-2", "amount": "0.001", "kind": "prepaid"}), "decimals")

	// A grant without a currency is in the one that the tenant paid in at that time, also when it is sent again.
	early := func() error {
		return call(t.Context(), http.MethodPost, p.url+"/v1/admin/tenants/early/credits", adminKey, map[string]any{"grantId": "order-1", "amount": "10.00", "kind": "prepaid"}, nil)
	}
	require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/early", adminKey, map[string]any{"currency": "USD"}, nil))
	require.NoError(t, early())
	require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/early", adminKey, map[string]any{"currency": "EUR"}, nil))
	require.NoError(t, early())

	allowed := burst("first", 60)
	require.Len(t, allowed, 10)
	c := credit(second)
	require.Equal(t, "10.00", c.Balance.Amount)
	require.Equal(t, "10.00", c.Held.Amount)
	require.Equal(t, "0.00", c.Available.Amount)

	// Usage settles the holds; one used twice what it had asked for, which counts as it is.
	use(allowed[0], 2, time.Now())
	for _, source := range allowed[1:] {
		use(source, 1, time.Now())
	}
	require.Empty(t, burst("second", 10))
	require.Eventually(t, func() bool { return credit(p).Unpaid.Amount == "1.00" }, 10*time.Second, 20*time.Millisecond)
	require.Equal(t, "0.00", credit(p).Balance.Amount)

	// A promotion pays for what is used between its beginning and its end.
	ends := time.Now().Add(3 * time.Second)
	require.NoError(t, grant(map[string]any{"grantId": "promo", "amount": map[string]any{"amount": "3.00", "currency": "EUR"}, "kind": "promotional",
		"effectiveAt": time.Now().UTC().Format(time.RFC3339Nano), "expiresAt": ends.UTC().Format(time.RFC3339Nano)}))
	require.Len(t, burst("third", 20), 3)
	require.Equal(t, "1.00", credit(second).Unpaid.Amount, "the promotion does not pay for earlier usage")
	require.Eventually(t, func() bool { return credit(p).Balance.Amount == "0.00" }, 10*time.Second, 50*time.Millisecond)
	require.Empty(t, burst("fourth", 10), "the promotion has ended")

	// A refund takes what is neither used nor held.
	require.NoError(t, grant(map[string]any{"grantId": "order-3", "amount": "20.00", "kind": "prepaid"}))
	refund := func(id, amount string) error {
		return call(t.Context(), http.MethodPost, p.url+"/v1/admin/tenants/acme/credits/order-3/refund", adminKey, map[string]any{"refundId": id, "amount": amount, "reason": "asked for"}, nil)
	}
	require.Len(t, burst("fifth", 4), 4)
	free := credit(p).Available.Amount
	require.ErrorContains(t, refund("r1", "19.00"), "neither used nor held")
	require.NoError(t, refund("r1", free))
	require.NoError(t, refund("r1", free), "the refund is not made twice")
	require.Empty(t, burst("sixth", 5))

	// January is closed with the credit that pays for it. A later correction gives credit back in the next invoice.
	january := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)
	use("january", 7, january)
	var inv struct {
		invoice
		Credits struct{ Amount string }
		Grants  []struct {
			GrantID, Use string
			Amount       struct{ Amount string }
		}
	}
	require.NoError(t, grant(map[string]any{"grantId": "order-4", "amount": "5.00", "kind": "prepaid", "priority": -1}))
	closeUntil := func(end string) {
		t.Helper()
		inv.Grants = nil
		require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/admin/tenants/acme/invoices/close", adminKey, map[string]any{"periodEnd": end}, &inv))
	}
	closeUntil("2026-02-01T00:00:00Z")
	require.Equal(t, "7.00", inv.Credits.Amount)
	require.Equal(t, "order-4", inv.Grants[0].GrantID, "its priority is lower")
	require.Equal(t, "5.00", inv.Grants[0].Amount.Amount)
	require.Equal(t, "order-1", inv.Grants[1].GrantID)
	require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events/interview/january/adjust", key, "acme", map[string]any{"quantity": 4, "reason": "it was cut short"}, nil))
	closeUntil("2026-03-01T00:00:00Z")
	require.NotEmpty(t, inv.Grants)
	require.Equal(t, "-3.00", inv.Credits.Amount)
	require.Equal(t, "returned", inv.Grants[0].Use)
	require.Equal(t, "order-1", inv.Grants[0].GrantID, "the grant that paid last")
	require.Equal(t, "0.00", inv.Total.Amount)

	var page struct {
		Items []struct{ Kind, Summary string }
	}
	require.Eventually(t, func() bool {
		require.NoError(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/timeline?type=grant", key, "acme", nil, &page))
		return len(page.Items) == 5
	}, 10*time.Second, 20*time.Millisecond, "four grants and a refund")
	require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/admin/invoices/"+inv.ID+"/settle", adminKey, map[string]any{"as": "paid", "reference": "wire 7"}, &inv))
	require.Equal(t, "paid", inv.State)
	var none credits
	require.NoError(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/credits", key, "other", nil, &none))
	require.Empty(t, none.Grants, "the other tenant was granted nothing")
}
