package main

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/tenant"
)

const pricesCatalog = `
meters:
  - {key: interviews, eventType: interview, aggregation: sum}
  - {key: tokens, eventType: tokens, aggregation: sum, dimensions: [model]}
plans:
  - key: pro
    currency: EUR
    prices:
      - {key: base, model: flat, amount: "90.00"}
      - {key: interviews, model: graduated, meter: interviews, included: 2, tiers: [{upTo: 3, unit: "2.50"}, {unit: "2.00"}]}
      - {key: small_tokens, model: package, meter: tokens, size: 1000, unit: "0.02", where: {model: small}}
  - key: max
    currency: EUR
    prices:
      - {key: base, model: flat, amount: "300.00"}
      - {key: interviews, model: per_unit, meter: interviews, unit: "1.00"}
`

type invoiceLine struct {
	Kind, Price, PlanVersion string
	Quantity                 json64
	Events                   int
	Amount                   struct{ Amount, Currency string }
}

type invoice struct {
	ID, Number, State, PeriodStart, PeriodEnd, PlanVersion string
	Lines                                                  []invoiceLine
	Total                                                  struct{ Amount, Currency string }
	CreditNote                                             *struct{ Number string }
}

func (i invoice) line(kind, price, plan string) invoiceLine {
	for _, l := range i.Lines {
		if l.Kind == kind && l.Price == price && l.PlanVersion == plan {
			return l
		}
	}
	return invoiceLine{}
}

// From facts to invoices: a plan change within a cycle and within a quarter of an hour, a correction, late usage and a void.
// Each boundary has one invoice, however often it is closed and by how many servers.
func TestInvoices(t *testing.T) { onEveryStore(t, testInvoices) }

func testInvoices(t *testing.T, dir string) {
	catalog := catalogFile(t, pricesCatalog)
	p := serveCatalog(t, dir, catalog)
	database, err := pgserverURL(t, dir)
	require.NoError(t, err)
	second := serveCatalog(t, dir, catalog, "TOLLGATE_DATABASE_URL="+database)
	key := p.serviceKey()
	for _, id := range []string{"acme", "other"} {
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id, adminKey, map[string]any{"timeZone": "Europe/Berlin", "currency": "EUR"}, nil))
	}
	plan := func(plan, at string) {
		t.Helper()
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/acme/plan", adminKey, map[string]any{"plan": plan, "effectiveAt": at}, nil))
	}
	use := func(event, source string, quantity int, at string) {
		t.Helper()
		require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events", key, "acme", map[string]any{"eventType": event, "sourceId": source,
			"quantity": quantity, "occurredAt": at, "data": map[string]any{"model": "small"}}, nil))
	}
	closing := func(at *process, end string) (inv invoice, err error) {
		err = call(t.Context(), http.MethodPost, at.url+"/v1/admin/tenants/acme/invoices/close", adminKey, map[string]any{"periodEnd": end}, &inv)
		return inv, err
	}
	amount := func(want string, got invoiceLine) {
		t.Helper()
		require.Equal(t, want, got.Amount.Amount, "%+v", got)
		require.Equal(t, "EUR", got.Amount.Currency)
	}

	_, err = closing(p, "2026-02-01T00:00:00Z")
	require.ErrorContains(t, err, "has no plan")

	// Cycles begin on the 31st at midnight in Berlin, or on the last day: 31 January, 28 February, 31 March.
	plan("pro", "2026-01-30T23:00:00Z")
	opening, err := closing(p, "2026-01-30T23:00:00Z")
	require.NoError(t, err)
	require.Len(t, opening.Lines, 1)
	amount("90.00", opening.line("fee", "base", "pro@1"))

	// 6 interviews on pro, the last of them a moment before the change; 4 on max, the first a moment after it.
	plan("max", "2026-02-14T10:07:30.500Z")
	use("interview", "a", 3, "2026-02-01T08:00:00Z")
	use("interview", "b", 3, "2026-02-14T10:07:30.499Z")
	use("interview", "c", 1, "2026-02-14T10:07:30.500Z")
	use("interview", "d", 3, "2026-02-20T08:00:00Z")
	use("tokens", "e", 1001, "2026-02-02T08:00:00Z")
	// Taken back: it must not count on either side of the change.
	use("interview", "wrong", 50, "2026-02-14T10:07:30.400Z")
	require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events/interview/wrong/void", key, "acme", map[string]any{"reason": "a test"}, nil))

	var preview invoice
	require.NoError(t, callAs(t.Context(), http.MethodGet, second.url+"/v1/invoices/preview", key, "acme", nil, &preview))
	require.Equal(t, "draft", preview.State)
	require.Equal(t, "300.00", preview.line("fee", "base", "max@1").Amount.Amount, "what comes after the open cycle, in advance")
	require.Empty(t, preview.line("usage", "interviews", "pro@1"), "that was in an earlier cycle")

	const february = "2026-02-27T23:00:00Z"
	var (
		wait   sync.WaitGroup
		closed [8]invoice
		failed [8]error
	)
	for i := range closed {
		wait.Go(func() { closed[i], failed[i] = closing([]*process{p, second}[i%2], february) })
	}
	wait.Wait()
	for i := range closed {
		require.NoError(t, failed[i])
		require.Equal(t, closed[0], closed[i], "one boundary, one invoice")
	}
	feb := closed[0]
	require.Equal(t, "2026-01-30T23:00:00.000Z", feb.PeriodStart)
	amount("9.50", feb.line("usage", "interviews", "pro@1"))   // 6 - 2 included = 4: 3 * 2.50 + 1 * 2.00
	amount("0.04", feb.line("usage", "small_tokens", "pro@1")) // 2 started packages
	amount("4.00", feb.line("usage", "interviews", "max@1"))   // 4 * 1.00
	require.Equal(t, json64("6"), feb.line("usage", "interviews", "pro@1").Quantity)
	require.Equal(t, 2, feb.line("usage", "interviews", "pro@1").Events)
	require.Equal(t, 2, feb.line("usage", "interviews", "max@1").Events)
	// The cycle has 28 days = 2,419,200 s; pro had 1,249,650.5 s of it, max 1,169,549.5 s.
	// 90 * 1249650.5 / 2419200 = 46.49 and 300 * 1169549.5 / 2419200 = 145.03; 90.00 were paid: 101.52 are missing.
	amount("101.52", feb.line("adjustment", "base", "max@1"))
	amount("300.00", feb.line("fee", "base", "max@1")) // March, in advance
	require.Equal(t, "415.06", feb.Total.Amount)

	// Late: two more interviews of the time on pro are 2 * 2.00.
	use("interview", "late", 2, "2026-02-03T08:00:00Z")
	march, err := closing(p, "2026-03-30T22:00:00Z") // summer time has begun
	require.NoError(t, err)
	amount("4.00", march.line("adjustment", "interviews", "max@1"))
	amount("300.00", march.line("fee", "base", "max@1"))
	require.Equal(t, "304.00", march.Total.Amount)

	_, err = closing(p, "2026-04-02T00:00:00Z")
	require.ErrorContains(t, err, "no period ends at")
	_, err = closing(p, "2099-12-30T23:00:00Z")
	require.ErrorContains(t, err, "not_due")

	var void invoice
	for range 2 {
		require.NoError(t, call(t.Context(), http.MethodPost, second.url+"/v1/admin/invoices/"+march.ID+"/void", adminKey, map[string]any{"reason": "wrong address", "rebill": true}, &void))
	}
	require.Equal(t, "void", void.State)
	require.Equal(t, march.Number+"-CN", void.CreditNote.Number)

	// What was closed on the way to the last error, and what was voided, is in the list, newest first.
	var list struct{ Items []invoice }
	require.NoError(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/invoices", key, "acme", nil, &list))
	seen := map[string]bool{}
	for i, inv := range list.Items {
		require.False(t, seen[inv.PeriodEnd], "one invoice for each boundary")
		seen[inv.PeriodEnd] = true
		if i > 0 {
			require.Equal(t, inv.PeriodEnd, list.Items[i-1].PeriodStart, "periods tile")
		}
	}
	require.Equal(t, opening.ID, list.Items[len(list.Items)-1].ID)
	require.NoError(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/invoices/"+feb.ID, key, "acme", nil, &void))
	require.Equal(t, feb, void)
	require.ErrorContains(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/invoices/"+feb.ID, key, "other", nil, nil), "not_found")
	require.ErrorContains(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/invoices/"+fmt.Sprint(tenant.Active), key, "acme", nil, nil), "not_found")

	out, err := run(t, dir, "verify")
	require.NoError(t, err, out)
}
