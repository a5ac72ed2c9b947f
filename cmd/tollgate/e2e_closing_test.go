package main

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Periods that have ended are closed automatically, once for each boundary on any number of servers. Usage without a price is
// on the invoice as held.
func TestPeriodsCloseAutomatically(t *testing.T) { onEveryStore(t, testPeriodsCloseAutomatically) }

func testPeriodsCloseAutomatically(t *testing.T, dir string) {
	catalog := catalogFile(t, pricesCatalog)
	p := serveCatalog(t, dir, catalog) // closes nothing: it would look again much later at a tenant that it saw before its plan
	key := p.serviceKey()
	start := time.Now().UTC().AddDate(0, -2, 0).Truncate(24 * time.Hour)
	for _, id := range []string{"acme", "other"} {
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id, adminKey, map[string]any{"currency": "EUR"}, nil))
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id+"/plan", adminKey, map[string]any{"plan": "pro", "effectiveAt": start.Format(time.RFC3339)}, nil))
		for model, quantity := range map[string]int{"small": 1500, "unheard": 70} {
			require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events", key, id, map[string]any{"eventType": "tokens", "sourceId": model, "quantity": quantity,
				"occurredAt": start.Add(time.Hour).Format(time.RFC3339), "data": map[string]any{"model": model}}, nil))
		}
	}
	database, err := pgserverURL(t, dir)
	require.NoError(t, err)
	for range 2 {
		serveCatalog(t, dir, catalog, "TOLLGATE_DATABASE_URL="+database, "TOLLGATE_BILLING_EVERY=100ms", "TOLLGATE_BILLING_DELAY=2s")
	}
	for _, id := range []string{"acme", "other"} {
		var page struct{ Items []invoice }
		require.Eventually(t, func() bool {
			require.NoError(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/invoices", key, id, nil, &page))
			return len(page.Items) >= 3
		}, 30*time.Second, 50*time.Millisecond, "the fee in advance, and two periods that have ended")
		slices.Reverse(page.Items)
		for i, inv := range page.Items {
			if i > 0 {
				require.Equal(t, page.Items[i-1].PeriodEnd, inv.PeriodStart)
			}
		}
		first := page.Items[1]
		require.Equal(t, "0.04", first.line("usage", "small_tokens", "pro@1").Amount.Amount)
		held := first.line("held", "tokens", "pro@1")
		require.Equal(t, json64("70"), held.Quantity)
		require.Equal(t, "0.00", held.Amount.Amount)
	}
}
