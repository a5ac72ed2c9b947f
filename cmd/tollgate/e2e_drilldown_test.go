package main

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/tenant"
)

type lineEvent struct {
	Kind, SourceID, OccurredAt string
	Quantity                   json64
}

// lineEvents reads all pages of what a line counts.
func (p *process) lineEvents(key tenant.Secret, of, invoice string, line, limit int) (all []lineEvent) {
	p.t.Helper()
	for cursor := ""; ; {
		var page struct {
			Items      []lineEvent
			NextCursor *string
		}
		q := url.Values{"line": {fmt.Sprint(line)}, "limit": {fmt.Sprint(limit)}}
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		require.NoError(p.t, callAs(p.t.Context(), http.MethodGet, p.url+"/v1/invoices/"+invoice+"/events?"+q.Encode(), key, of, nil, &page))
		all = append(all, page.Items...)
		if page.NextCursor == nil {
			return all
		}
		cursor = *page.NextCursor
	}
}

// Every line leads to its events, and every event to its lines: filtered, held, on both sides of a plan change within a quarter of
// an hour, late, corrected, and page by page.
func TestFromLinesToEventsAndBack(t *testing.T) { onEveryStore(t, testFromLinesToEventsAndBack) }

func testFromLinesToEventsAndBack(t *testing.T, dir string) {
	catalog := catalogFile(t, pricesCatalog)
	p := serveCatalog(t, dir, catalog)
	key := p.serviceKey()
	for _, id := range []string{"acme", "other"} {
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id, adminKey, map[string]any{"currency": "EUR"}, nil))
	}
	plan := func(plan, at string) {
		t.Helper()
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/acme/plan", adminKey, map[string]any{"plan": plan, "effectiveAt": at}, nil))
	}
	use := func(of, event, source string, quantity int, at, model string) {
		t.Helper()
		require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events", key, of, map[string]any{"eventType": event, "sourceId": source,
			"quantity": quantity, "occurredAt": at, "data": map[string]any{"model": model}}, nil))
	}
	correct := func(source, what string, body map[string]any) {
		t.Helper()
		require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events/tokens/"+source+"/"+what, key, "acme", body, nil))
	}
	closes := func(end string) (inv invoice) {
		t.Helper()
		require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/admin/tenants/acme/invoices/close", adminKey, map[string]any{"periodEnd": end}, &inv))
		return inv
	}
	find := func(inv invoice, kind, price, plan string) int {
		t.Helper()
		for i, l := range inv.Lines {
			if l.Kind == kind && l.Price == price && (plan == "" || l.PlanVersion == plan) {
				return i
			}
		}
		t.Fatalf("no %s line of %s in %+v", kind, price, inv)
		return -1
	}

	plan("pro", "2026-01-01T00:00:00Z")
	plan("max", "2026-01-14T10:07:30.500Z")
	for i := range 23 {
		use("acme", "interview", fmt.Sprintf("i%02d", i), 1+i, fmt.Sprintf("2026-01-%02dT10:07:30.499Z", i+1), "small")
	}
	use("acme", "interview", "change", 100, "2026-01-14T10:07:30.500Z", "small")
	use("acme", "tokens", "small", 500, "2026-01-05T00:00:00Z", "small")
	use("acme", "tokens", "large", 700, "2026-01-05T00:00:00Z", "large")
	use("acme", "tokens", "turned", 40, "2026-01-06T00:00:00Z", "large")
	correct("turned", "adjust", map[string]any{"quantity": 30, "data": map[string]any{"model": "small"}, "reason": "the model was another one"})
	use("acme", "tokens", "gone", 50, "2026-01-07T00:00:00Z", "small")
	correct("gone", "void", map[string]any{"reason": "a test"})
	use("other", "tokens", "foreign", 50, "2026-01-07T00:00:00Z", "small")

	january := closes("2026-02-01T00:00:00Z")
	pro := p.lineEvents(key, "acme", january.ID, find(january, "usage", "interviews", "pro@1"), 4)
	require.Len(t, pro, 14, "the 1st to the 14th, the last one a moment before the change")
	require.Equal(t, lineEvent{"usage", "i13", "2026-01-14T10:07:30.499Z", "14"}, pro[13])
	after := p.lineEvents(key, "acme", january.ID, find(january, "usage", "interviews", "max@1"), 500)
	require.Len(t, after, 10)
	require.Equal(t, "change", after[0].SourceID)
	tokens := find(january, "usage", "small_tokens", "pro@1")
	require.Equal(t, []lineEvent{
		{"usage", "small", "2026-01-05T00:00:00.000Z", "500"},
		{"correction", "turned", "2026-01-06T00:00:00.000Z", "30"},
		{"usage", "gone", "2026-01-07T00:00:00.000Z", "50"}, {"correction", "gone", "2026-01-07T00:00:00.000Z", "-50"},
	}, p.lineEvents(key, "acme", january.ID, tokens, 2))
	require.Equal(t, json64("530"), january.Lines[tokens].Quantity)
	held := find(january, "held", "tokens", "pro@1")
	require.Equal(t, []lineEvent{{"usage", "large", "2026-01-05T00:00:00.000Z", "700"}, {"usage", "turned", "2026-01-06T00:00:00.000Z", "40"}, {"correction", "turned", "2026-01-06T00:00:00.000Z", "-40"}},
		p.lineEvents(key, "acme", january.ID, held, 500))
	require.Empty(t, p.lineEvents(key, "acme", january.ID, find(january, "fee", "base", ""), 500))
	sum := 0
	for _, e := range pro {
		n := 0
		_, err := fmt.Sscan(string(e.Quantity), &n)
		require.NoError(t, err)
		sum += n
	}
	require.Equal(t, json64(fmt.Sprint(sum)), january.Lines[find(january, "usage", "interviews", "pro@1")].Quantity)

	// What becomes known later is on the next invoice; the first one stays as it was.
	use("acme", "tokens", "late", 3000, "2026-01-08T00:00:00Z", "small")
	correct("small", "void", map[string]any{"reason": "twice"})
	february := closes("2026-03-01T00:00:00Z")
	adjusted := find(february, "adjustment", "small_tokens", "")
	require.Equal(t, []lineEvent{{"usage", "late", "2026-01-08T00:00:00.000Z", "3000"}, {"correction", "small", "2026-01-05T00:00:00.000Z", "-500"}},
		p.lineEvents(key, "acme", february.ID, adjusted, 1))
	require.Equal(t, json64("2500"), february.Lines[adjusted].Quantity)
	require.Len(t, p.lineEvents(key, "acme", january.ID, tokens, 500), 4)

	var seen struct {
		InvoiceLines []struct {
			InvoiceID, Number, Price, State string
			Line                            int
		}
	}
	lines := func(source string) (found []string) {
		t.Helper()
		seen.InvoiceLines = nil
		require.NoError(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/events/tokens/"+source, key, "acme", nil, &seen))
		for _, l := range seen.InvoiceLines {
			found = append(found, fmt.Sprint(l.InvoiceID == january.ID, l.InvoiceID == february.ID, " ", l.Line, " ", l.State))
		}
		return found
	}
	require.Equal(t, []string{fmt.Sprint("true false ", tokens, " finalised"), fmt.Sprint("false true ", adjusted, " finalised")}, lines("small"))
	require.Equal(t, []string{fmt.Sprint("false true ", adjusted, " finalised")}, lines("late"))
	require.ElementsMatch(t, []string{fmt.Sprint("true false ", tokens, " finalised"), fmt.Sprint("true false ", held, " finalised")}, lines("turned"))

	for _, bad := range []string{"?line=99", "?line=-1", "", "?line=x", "?line=0&cursor=f.1.x"} {
		require.ErrorContains(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/invoices/"+january.ID+"/events"+bad, key, "acme", nil, nil), "400", bad)
	}
	require.ErrorContains(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/invoices/"+january.ID+"/events?line=0", key, "other", nil, nil), "404")
}
