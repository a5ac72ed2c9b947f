package api_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const priceList = `[{"provider":"openai","model":"gpt-4.1","inputPerMillion":"2.00","cachedInputPerMillion":0.5,"outputPerMillion":8},
	{"provider":"anthropic","model":"claude <x> & \"y\"","inputPerMillion":"0.037500000000000003","outputPerMillion":15}]`

func (h *fixture) importCosts(query, body string, headers ...string) answer {
	h.t.Helper()
	return h.do(request{"POST", "/v1/admin/costs?" + query, h.admin, append([]string{"Content-Type", "application/json"}, headers...), body})
}

func (h *fixture) costs(query string) answer {
	h.t.Helper()
	return h.do(request{method: "GET", path: "/v1/admin/costs?" + query, key: h.admin})
}

func sha256Of(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// imported counts the events of the cost book.
func (h *fixture) imported() int {
	recorded, err := h.store.ReadStream(h.t.Context(), event.CostsStream, 0, 1000)
	require.NoError(h.t, err)
	return len(recorded)
}

func TestCosts(t *testing.T) {
	h := newFixture(t)
	assert.Equal(t, `{"items":[],"nextCursor":null}`, h.costs("").Body.String())

	dry := h.importCosts("source=prices&from=2026-01-01&dryRun=true", priceList)
	require.Equal(t, http.StatusOK, dry.Code, dry.Body)
	require.Zero(t, h.imported())
	a := h.importCosts("source=prices&from=2026-01-01", priceList)
	sum := sha256Of(priceList)
	want := `{"applied":true,"repeated":false,"source":"prices","sha256":"` + sum + `","from":"2026-01-01","unchanged":0,"skipped":[],"jumps":[],"changes":[` +
		`{"op":"added","provider":"anthropic","model":"claude <x> & \"y\"","old":null,"new":{"inputPerMillion":"0.037500000000000003","cachedInputPerMillion":"0.037500000000000003","outputPerMillion":"15.00"},"detail":null},` +
		`{"op":"added","provider":"openai","model":"gpt-4.1","old":null,"new":{"inputPerMillion":"2.00","cachedInputPerMillion":"0.50","outputPerMillion":"8.00"},"detail":null}]}`
	assert.Equal(t, want, a.Body.String())
	assert.Equal(t, strings.Replace(want, `"applied":true`, `"applied":false`, 1), dry.Body.String(), "a dry run tells the same")
	assert.NotEmpty(t, a.Header().Get("Tollgate-Position"))
	require.Equal(t, 1, h.imported())

	again := h.importCosts("source=another&from=2026-01-01", priceList)
	assert.Equal(t, true, again.json()["repeated"])
	assert.Equal(t, false, again.json()["applied"])
	require.Equal(t, 1, h.imported(), "the same list is imported once")

	theirs := `{"sample_spec":{},"openai/gpt-4.1":{"input_cost_per_token":2.5e-06,"cache_read_input_token_cost":5E-7,"output_cost_per_token":"0.000008","litellm_provider":"openai","mode":"chat"},` +
		`"dall-e-3":{"mode":"image_generation","litellm_provider":"openai"}}`
	a = h.importCosts("source=list&from=2026-02-01", theirs)
	sum2 := sha256Of(theirs)
	assert.Equal(t, `{"applied":true,"repeated":false,"source":"list","sha256":"`+sum2+`","from":"2026-02-01","unchanged":0,`+
		`"skipped":[{"entry":"sample_spec","reason":"no token prices"},{"entry":"dall-e-3","reason":"no token prices"}],"jumps":[],"changes":[`+
		`{"op":"changed","provider":"openai","model":"gpt-4.1","old":{"inputPerMillion":"2.00","cachedInputPerMillion":"0.50","outputPerMillion":"8.00"},`+
		`"new":{"inputPerMillion":"2.50","cachedInputPerMillion":"0.50","outputPerMillion":"8.00"},"detail":null}]}`, a.Body.String())

	last := a.Header().Get("Tollgate-Position")

	late := h.importCosts("source=prices&from=2026-01-31", priceList)
	refused := late.json()["changes"].([]any)
	require.Empty(t, refused, "what was so then is known")
	late = h.importCosts("source=prices&from=2025-12-31", priceList)
	assert.Equal(t, false, late.json()["applied"])
	assert.Contains(t, late.Body.String(), `"op":"refused"`)
	assert.Contains(t, late.Body.String(), `history is not rewritten`)

	item := func(from, until, input, source, sum string) string {
		return `{"provider":"openai","model":"gpt-4.1","from":"` + from + `","until":` + until + `,"inputPerMillion":"` + input +
			`","cachedInputPerMillion":"0.50","outputPerMillion":"8.00","currency":"USD","source":"` + source + `","sha256":` + sum + `}`
	}
	first, second := item("2026-01-01", `"2026-02-01"`, "2.00", "prices", `"`+sum+`"`), item("2026-02-01", "null", "2.50", "list", `"`+sum2+`"`)
	a = h.costs("provider=openai&model=gpt-4.1")
	assert.Equal(t, `{"items":[`+first+","+second+`],"nextCursor":null}`, a.Body.String())
	assert.Equal(t, last, a.Header().Get("Tollgate-Position"))
	assert.Equal(t, `{"items":[`+first+`],"nextCursor":null}`, h.costs("provider=openai&on=2026-01-31").Body.String())
	assert.Equal(t, `{"items":[`+second+`],"nextCursor":null}`, h.costs("model=gpt-4.1&on=2026-02-01").Body.String())
	assert.Equal(t, `{"items":[],"nextCursor":null}`, h.costs("on=2025-12-31").Body.String())

	// Pages are the whole, whatever their size.
	whole := h.costs("").json()["items"].([]any)
	require.Len(t, whole, 3)
	var paged []any
	for cursor := ""; ; {
		a := h.costs("limit=1&cursor=" + cursor)
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		paged = append(paged, a.json()["items"].([]any)...)
		next, more := a.json()["nextCursor"].(string)
		if !more {
			break
		}
		cursor = next
	}
	assert.Equal(t, whole, paged)

	// What was negotiated goes before what a list says.
	c, err := catalog.Parse([]byte(sampleCatalog + "\ncosts:\n  - {provider: openai, model: gpt-4.1, from: 2026-02-10, until: 2026-02-20, inputPerMillion: 1.99, cachedInputPerMillion: 0.5, outputPerMillion: 8}\n"))
	require.NoError(t, err)
	_, err = h.ledger.ApplyCatalog(t.Context(), c, false, "cli")
	require.NoError(t, err)
	assert.Equal(t, `{"items":[`+item("2026-02-10", `"2026-02-20"`, "1.99", "catalog", "null")+`],"nextCursor":null}`, h.costs("model=gpt-4.1&on=2026-02-19").Body.String())
	assert.Equal(t, `{"items":[`+item("2026-02-20", "null", "2.50", "list", `"`+sum2+`"`)+`],"nextCursor":null}`, h.costs("model=gpt-4.1&on=2026-02-20").Body.String())
}

func TestTheGuardOverHTTP(t *testing.T) {
	h := newFixture(t)
	require.Equal(t, http.StatusOK, h.importCosts("source=a&from=2026-01-01", priceList).Code)
	jumps := strings.NewReplacer(`"2.00"`, "7", "8}", "0}").Replace(priceList)
	a := h.importCosts("source=a&from=2026-02-01", jumps)
	assert.Equal(t, http.StatusConflict, a.Code)
	assert.JSONEq(t, `{"type":"urn:tollgate:problem:price_jump","title":"Prices change so much that the list may be wrong","status":409,"code":"price_jump",
		"detail":"Nothing was imported. If the list is right, send it again with allowJumps=true. openai/gpt-4.1: input 2 -> 7 is more than a factor of 3, output drops from 8 to zero",
		"errors":[{"pointer":"","code":"price_jump","detail":"openai/gpt-4.1: input 2 -> 7 is more than a factor of 3, output drops from 8 to zero"}]}`, a.Body.String())
	assert.Equal(t, http.StatusConflict, h.importCosts("source=a&from=2026-02-01&removeMissing=true", `[{"provider":"openai","model":"x","inputPerMillion":1,"outputPerMillion":1}]`).Code)
	require.Equal(t, 1, h.imported())
	a = h.importCosts("source=a&from=2026-02-01&dryRun=true", jumps)
	assert.Equal(t, http.StatusOK, a.Code)
	assert.Len(t, a.json()["jumps"], 1)
	assert.Equal(t, http.StatusConflict, h.importCosts("source=a&from=2026-02-01&maxJump=3.49", jumps).Code)
	a = h.importCosts("source=a&from=2026-02-01&allowJumps=true", jumps)
	assert.Equal(t, http.StatusOK, a.Code, a.Body)
	assert.Equal(t, true, a.json()["applied"])
	require.Equal(t, 2, h.imported())
}

func TestHostilePriceLists(t *testing.T) {
	h := newFixture(t)
	for _, c := range []struct {
		name, query, body string
		status            int
		code              string
	}{
		{"nothing", "source=a", "", 400, "invalid_json"},
		{"null", "source=a", "null", 400, "invalid_request"},
		{"cut off", "source=a", priceList[:40], 400, "invalid_json"},
		{"more behind it", "source=a", priceList + "1", 400, "invalid_json"},
		{"very deep", "source=a", strings.Repeat("[", 1<<19), 400, "invalid_json"},
		{"very deep in an entry", "source=a", `{"m":{"x":` + strings.Repeat("[", 1<<18) + "}}", 400, "invalid_json"},
		{"an exponent bomb", "source=a", `{"m":{"litellm_provider":"p","input_cost_per_token":1e999999999,"output_cost_per_token":1}}`, 400, "invalid_request"},
		{"a long number", "source=a", `{"m":{"litellm_provider":"p","input_cost_per_token":0.` + strings.Repeat("1", 1<<19) + `,"output_cost_per_token":1}}`, 400, "invalid_request"},
		{"a name twice", "source=a", `{"m":{},"m":{}}`, 400, "invalid_request"},
		{"a price twice", "source=a", `{"m":{"input_cost_per_token":1,"input_cost_per_token":2}}`, 400, "invalid_request"},
		{"a negative price", "source=a", strings.Replace(priceList, "15", "-15", 1), 400, "invalid_request"},
		{"a word for a price", "source=a", strings.Replace(priceList, "15", `"NaN"`, 1), 400, "invalid_request"},
		{"not UTF-8", "source=a", strings.Replace(priceList, "claude", "\xff", 1), 400, "invalid_json"},
		{"a lone surrogate", "source=a", strings.Replace(priceList, "claude", `\ud800`, 1), 400, "invalid_json"},
		{"NUL", "source=a", strings.Replace(priceList, "claude", `\u0000`, 1), 400, "invalid_request"},
		{"a long name", "source=a", strings.Replace(priceList, "claude", strings.Repeat("x", 1<<19), 1), 400, "invalid_request"},
		{"too many entries", "source=a", "{" + entries(60_000) + "}", 413, "too_large"},
		{"too many bytes", "source=a", "[" + strings.Repeat(" ", 16<<20) + "]", 413, "too_large"},
		{"no source", "", priceList, 400, "invalid_request"},
		{"an empty source", "source=", priceList, 400, "invalid_request"},
		{"the catalog's source", "source=catalog", priceList, 400, "invalid_request"},
		{"a source with a line break", "source=a%0Ab", priceList, 400, "invalid_request"},
		{"no day", "source=a&from=tomorrow", priceList, 400, "invalid_request"},
		{"a day that does not exist", "source=a&from=2026-02-30", priceList, 400, "invalid_request"},
		{"a mistyped year", "source=a&from=2206-02-03", priceList, 400, "invalid_request"},
		{"an endless factor", "source=a&maxJump=1e999999999", priceList, 400, "invalid_request"},
		{"a factor below 1", "source=a&maxJump=0.5", priceList, 400, "invalid_request"},
		{"not a flag", "source=a&dryRun=maybe", priceList, 400, "invalid_request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := h.importCosts(c.query, c.body)
			assert.Equal(t, c.status, a.Code, a.Body)
			assert.Equal(t, c.code, a.code())
			assert.Less(t, a.Body.Len(), 20_000)
		})
	}
	assert.Equal(t, http.StatusUnsupportedMediaType, h.do(request{"POST", "/v1/admin/costs?source=a", h.admin, []string{"Content-Type", "application/yaml"}, priceList}).Code)
	assert.Equal(t, http.StatusUnsupportedMediaType, h.importCosts("source=a", priceList, "Content-Encoding", "gzip").Code)
	require.Zero(t, h.imported())
	for _, query := range []string{"on=yesterday", "cursor=x", "cursor=" + url.QueryEscape("a b"), "limit=0", "limit=501"} {
		assert.Equal(t, http.StatusBadRequest, h.costs(query).Code, query)
	}
}

func TestCostsWithoutAStore(t *testing.T) {
	h := newFixture(t)
	h.faults.fail = func(eventstore.Append) error { return eventstore.ErrUnavailable }
	a := h.importCosts("source=a", priceList)
	assert.Equal(t, http.StatusServiceUnavailable, a.Code)
	assert.Equal(t, "store_unavailable", a.code())
}

func entries(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"m%d":{}`, i)
	}
	return strings.Join(all, ",")
}

// A list as long as those that people share is answered whole.
func TestALongPriceList(t *testing.T) {
	h := newFixture(t)
	list := make([]map[string]any, 3000)
	for i := range list {
		list[i] = map[string]any{"provider": "openai", "model": fmt.Sprintf("model %d", i), "inputPerMillion": i, "outputPerMillion": "0.1"}
	}
	body, err := json.Marshal(list)
	require.NoError(t, err)
	a := h.importCosts("source=long", string(body))
	require.Equal(t, http.StatusOK, a.Code)
	require.Len(t, a.json()["changes"], 3000)
	require.Equal(t, 30, h.imported())
	require.Len(t, h.costs("limit=500").json()["items"], 500)
}
