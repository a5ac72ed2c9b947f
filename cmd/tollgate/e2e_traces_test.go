package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// tracePlans are the plans of the two tenants. The computation beside Tollgate reads the same text.
const tracePlans = `{
 "team":  {"key": "team", "currency": "EUR", "minimum": "900.00", "prices": [
   {"key": "base", "model": "flat", "amount": "40.00"},
   {"key": "input", "model": "graduated", "meter": "input_tokens", "included": "1000000", "tiers": [{"upTo": "5000000", "unit": "0.0000127"}, {"unit": "0.0000093"}]},
   {"key": "output", "model": "package", "meter": "output_tokens", "size": "1000", "unit": "0.031"}]},
 "team2": {"key": "team2", "currency": "EUR", "prices": [
   {"key": "base", "model": "flat", "amount": "77.77"},
   {"key": "input", "model": "per_unit", "meter": "input_tokens", "unit": "0.00000811"},
   {"key": "output", "model": "package", "meter": "output_tokens", "size": "500", "unit": "0.0173"}]},
 "scale": {"key": "scale", "currency": "USD", "spendCap": "60.00", "prices": [
   {"key": "support", "model": "flat", "amount": "25.50", "arrears": true},
   {"key": "input", "model": "volume", "meter": "input_tokens", "tiers": [{"upTo": "10000000", "unit": "0.000003"}, {"unit": "0.0000021"}]},
   {"key": "share", "model": "percentage", "meter": "tokens", "percent": "0.00037"},
   {"key": "output", "model": "per_unit", "meter": "output_tokens", "unit": "0.0000131"}]}
}`

const traceMeters = `[
 {"key": "tokens", "eventType": "tokens_spent", "aggregation": "sum"},
 {"key": "input_tokens", "eventType": "tokens_spent", "value": "data.inputTokens", "aggregation": "sum"},
 {"key": "output_tokens", "eventType": "tokens_spent", "value": "data.outputTokens", "aggregation": "sum"}]`

// traceTenant is one tenant, as that computation reads it.
type traceTenant struct {
	ID       string           `json:"id"`
	Zone     string           `json:"zone"`
	Day      int              `json:"day"` // of the billing anchor
	Trace    string           `json:"trace"`
	Plans    []tracePlan      `json:"plans"`
	Extra    []traceEvent     `json:"extra"`
	Grants   []map[string]any `json:"grants"`
	Void     *traceVoid       `json:"void"`
	Invoices []map[string]any `json:"invoices"`
}

// After is how many invoices were finalised when something became known.
type (
	tracePlan struct {
		Plan  string `json:"plan"`
		From  string `json:"from"`
		After int    `json:"after"`
	}
	traceEvent struct {
		At     string `json:"at"`
		Input  string `json:"input"`
		Output string `json:"output"`
		After  int    `json:"after"`
	}
	traceVoid struct {
		Invoice int `json:"invoice"`
		After   int `json:"after"`
	}
)

// traces is the folder with the two traces of LLM calls: the real ones in TOLLGATE_TRACES, else random ones of the same shape.
func traces(t *testing.T) string {
	if dir := os.Getenv("TOLLGATE_TRACES"); dir != "" {
		return dir
	}
	dir := t.TempDir()
	for i, name := range []string{"code", "conv"} {
		random := rand.New(rand.NewPCG(2023, uint64(i)))
		var b strings.Builder
		b.WriteString("TIMESTAMP,ContextTokens,GeneratedTokens\n")
		for at := time.Date(2023, 11, 16, 18, 15, 0, 0, time.UTC); at.Before(time.Date(2023, 11, 16, 19, 15, 0, 0, time.UTC)); {
			at = at.Add(time.Duration(random.ExpFloat64() * float64(1200*time.Millisecond)))
			fmt.Fprintf(&b, "%s0,%d,%d\n", at.Format("2006-01-02 15:04:05.000000"), 20+random.IntN(9000), 1+random.IntN(700))
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, "azure_llm_trace_2023_"+name+".csv"), []byte(b.String()), 0o600))
	}
	return dir
}

// Two traces of LLM calls are imported for two tenants on different plans: an independent computation leads to the same lines of every
// invoice from the raw files. Meanwhile a plan changes within a cycle, an event comes late, an invoice is voided and billed again,
// and credit is granted; each has its effect on the right invoice. A rebuild of the read models changes nothing.
func TestTracesToInvoices(t *testing.T) {
	folder := traces(t)
	byStore := map[string]string{}
	onEveryStore(t, func(t *testing.T, dir string) { byStore[t.Name()] = tracesToInvoices(t, dir, folder) })
	if os.Getenv(esdbtest.Variable) != "" {
		return // that is the only store
	}
	invoices := slices.Collect(maps.Values(byStore))
	require.Len(t, invoices, 2)
	require.Equal(t, invoices[0], invoices[1], "the same invoices on every store")
}

// tracesToInvoices returns all invoices, without what depends on where the log is and on when they were made.
func tracesToInvoices(t *testing.T, dir, folder string) string {
	catalog := filepath.Join(t.TempDir(), "catalog.json")
	var plans map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(tracePlans), &plans))
	var all []json.RawMessage
	for _, key := range slices.Sorted(maps.Keys(plans)) {
		all = append(all, plans[key])
	}
	text, err := json.Marshal(map[string]any{"meters": json.RawMessage(traceMeters), "plans": all})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(catalog, text, 0o600))
	p := serveCatalog(t, dir, catalog)
	key := p.serviceKey()

	// Midnight in Karachi is at 19:00 in UTC, in Calcutta at 18:30: cycles end in the middle of the traces.
	code := &traceTenant{ID: "code", Zone: "Asia/Karachi", Day: 17, Trace: filepath.Join(folder, "azure_llm_trace_2023_code.csv"), Extra: []traceEvent{}, Grants: []map[string]any{}}
	conv := &traceTenant{ID: "conv", Zone: "Asia/Kolkata", Day: 17, Trace: filepath.Join(folder, "azure_llm_trace_2023_conv.csv"), Extra: []traceEvent{}, Grants: []map[string]any{}}
	for _, of := range []*traceTenant{code, conv} {
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+of.ID, adminKey, map[string]any{"timeZone": of.Zone}, nil))
	}
	closed := map[*traceTenant]int{}
	assign := func(of *traceTenant, plan, from string) {
		t.Helper()
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+of.ID+"/plan", adminKey,
			map[string]any{"plan": plan, "effectiveAt": from, "billingAnchor": "2023-10-17"}, nil))
		of.Plans = append(of.Plans, tracePlan{plan, from, closed[of]})
	}
	closes := func(of *traceTenant, end string) {
		t.Helper()
		var inv map[string]any
		require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/admin/tenants/"+of.ID+"/invoices/close", adminKey, map[string]any{"periodEnd": end}, &inv))
		closed[of]++
	}
	use := func(of *traceTenant, source, at string, input, output int) {
		t.Helper()
		require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events", key, of.ID, map[string]any{"eventType": "tokens_spent", "sourceId": source, "quantity": input + output,
			"occurredAt": at, "data": map[string]any{"inputTokens": input, "outputTokens": output}}, nil))
		of.Extra = append(of.Extra, traceEvent{at, fmt.Sprint(input), fmt.Sprint(output), closed[of]})
	}
	assign(code, "team", "2023-11-01T00:00:00.000Z")
	assign(conv, "scale", "2023-11-10T06:07:08.900Z")
	closes(code, "2023-11-01T00:00:00Z") // the fee in advance
	for _, of := range []*traceTenant{code, conv} {
		out, err := run(t, dir, "import", of.Trace, "--tenant", of.ID, "--event-type", "tokens_spent", "--quantity", "ContextTokens+GeneratedTokens",
			"--map", "occurredAt=TIMESTAMP,data.inputTokens=ContextTokens,data.outputTokens=GeneratedTokens")
		require.NoError(t, err, out)
		t.Log(strings.TrimSpace(out))
	}
	assign(code, "team2", "2023-11-16T18:40:00.500Z") // in the middle of the cycle, and of a quarter of an hour
	grant := map[string]any{"grantId": "order-1", "amount": "20.00", "kind": "prepaid"}
	conv.Grants = append(conv.Grants, grant)
	require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/admin/tenants/conv/credits", adminKey, grant, nil))
	closes(code, "2023-11-16T19:00:00Z")
	closes(conv, "2023-11-16T18:30:00Z")
	use(code, "late", "2023-11-16T18:39:59.999Z", 123_457, 1001)
	use(conv, "late", "2023-11-16T18:29:59.999999Z", 7_654_321, 12_345)
	closes(code, "2023-12-16T19:00:00Z")
	closes(conv, "2023-12-16T18:30:00Z")
	conv.Void = &traceVoid{Invoice: 0, After: closed[conv]}
	list := func(of *traceTenant) {
		t.Helper()
		var page struct{ Items []map[string]any }
		require.NoError(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/invoices", key, of.ID, nil, &page))
		slices.Reverse(page.Items)
		of.Invoices = page.Items
	}
	list(conv)
	require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/admin/invoices/"+conv.Invoices[0]["id"].(string)+"/void", adminKey, map[string]any{"reason": "the wrong customer", "rebill": true}, nil))
	closes(code, "2024-01-16T19:00:00Z")
	closes(conv, "2024-01-16T18:30:00Z")
	for _, of := range []*traceTenant{code, conv} {
		list(of)
		require.Len(t, of.Invoices, closed[of])
	}

	// Each thing in its place.
	lines := func(of *traceTenant, invoice int) (found []string) {
		for _, l := range of.Invoices[invoice]["lines"].([]any) {
			l := l.(map[string]any)
			found = append(found, fmt.Sprint(l["kind"], " ", l["price"], " ", l["planVersion"], " ", l["periodStart"]))
		}
		return found
	}
	require.Contains(t, lines(code, 1), "usage input team@1 2023-11-01T00:00:00.000Z", "before the change")
	require.Contains(t, lines(code, 1), "usage input team2@1 2023-11-16T18:40:00.500Z", "after it")
	require.Contains(t, lines(code, 2), "adjustment input team2@1 2023-11-01T00:00:00.000Z", "late, with the next invoice")
	require.Contains(t, lines(conv, 1), "adjustment input scale@1 2023-11-10T06:07:08.900Z")
	require.Equal(t, "void", conv.Invoices[0]["state"])
	require.Contains(t, lines(conv, 2), "adjustment support scale@1 2023-11-10T06:07:08.900Z", "billed again")
	require.Equal(t, "drawn", conv.Invoices[0]["grants"].([]any)[0].(map[string]any)["use"])

	var kinds []string
	for _, l := range append(lines(code, 1), lines(conv, 0)...) {
		kind, _, _ := strings.Cut(l, " ")
		kinds = append(kinds, kind)
	}
	require.Subset(t, kinds, []string{"usage", "fee", "minimum", "spend_cap", "adjustment"})
	for of, want := range map[*traceTenant]map[string]int{code: {"plan": 2, "invoice": closed[code]}, conv: {"plan": 1, "grant": 1, "invoice": closed[conv] + 1}} {
		for kind, n := range want {
			var page struct{ Items []struct{ Kind string } }
			require.Eventually(t, func() bool { // the timeline may be a moment behind
				require.NoError(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/timeline?limit=100&type="+kind, key, of.ID, nil, &page))
				return len(page.Items) >= n
			}, 30*time.Second, 20*time.Millisecond, "%s of %s", kind, of.ID)
			require.Len(t, page.Items, n, "%s of %s: each plan, grant and invoice once, and the void", kind, of.ID)
			for _, i := range page.Items {
				require.Equal(t, kind, i.Kind)
			}
		}
	}

	written := func() []byte {
		scenario, err := json.Marshal(map[string]any{"plans": json.RawMessage(tracePlans), "tenants": []*traceTenant{code, conv}})
		require.NoError(t, err)
		return scenario
	}
	t.Run("computed_again", func(t *testing.T) {
		out, problems, err := recompute(written())
		require.NoError(t, err)
		require.Empty(t, problems)
		t.Log(out)

		// It refuses a wrong figure.
		line := conv.Invoices[1]["lines"].([]any)[1].(map[string]any)
		for what, in := range map[string]map[string]any{"quantity": line, "included": line, "events": line, "amount": line["amount"].(map[string]any), "subtotal": conv.Invoices[1], "total": conv.Invoices[1], "periodEnd": code.Invoices[1]} {
			before := in[what]
			switch v := before.(type) {
			case float64:
				in[what] = v + 1
			case string:
				in[what] = map[string]string{"amount": "1" + v, "periodEnd": "2023-11-16T19:00:00.001Z"}[what]
			default:
				in[what] = map[string]any{"amount": "1.23", "currency": "USD"}
			}
			_, problems, err := recompute(written())
			require.NoError(t, err)
			require.Contains(t, strings.Join(problems, "\n"), "instead of", what)
			in[what] = before
		}
	})

	// A rebuild changes nothing.
	before := map[string]string{}
	for _, of := range []*traceTenant{code, conv} {
		before[of.ID] = p.text(key, of.ID, "/v1/invoices") + p.text(key, of.ID, "/v1/invoices/preview")
	}
	out, err := run(t, dir, "replay")
	require.NoError(t, err, out)
	out, err = run(t, dir, "verify")
	require.NoError(t, err, out)
	for _, of := range []*traceTenant{code, conv} {
		require.Equal(t, before[of.ID], p.text(key, of.ID, "/v1/invoices")+p.text(key, of.ID, "/v1/invoices/preview"))
	}
	for _, of := range []*traceTenant{code, conv} {
		for _, inv := range of.Invoices {
			delete(inv, "position")
			delete(inv, "finalisedAt")
			if note, ok := inv["creditNote"].(map[string]any); ok {
				delete(note, "at")
			}
		}
	}
	return string(written())
}

// text is an answer as it is.
func (p *process) text(key tenant.Secret, of, path string) string {
	p.t.Helper()
	var raw json.RawMessage
	require.NoError(p.t, callAs(p.t.Context(), http.MethodGet, p.url+path, key, of, nil, &raw))
	return string(raw)
}
