package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/storetest"
	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

func TestRecordOne(t *testing.T) {
	h := newFixture(t)
	body := usageEvent("call_1", `,"quantity":3,"data":{"model":"gpt-4.1"}`)

	first := h.post(h.acme, "application/json", body)
	require.Equal(t, http.StatusCreated, first.Code, first.Body)
	position := first.json()["position"].(string)
	assert.JSONEq(t, `{"status":"recorded","sourceId":"call_1","position":"`+position+`","recordedAt":"2026-04-05T10:31:00.000Z"}`, first.Body.String())

	again := h.post(h.acme, "application/json; charset=utf-8", body)
	require.Equal(t, http.StatusOK, again.Code)
	assert.JSONEq(t, `{"status":"duplicate","sourceId":"call_1","position":"`+position+`","recordedAt":"2026-04-05T10:31:00.000Z"}`, again.Body.String())

	other := h.post(h.acme, "application/json", usageEvent("call_1", `,"quantity":4`))
	require.Equal(t, http.StatusConflict, other.Code)
	assert.Equal(t, "source_conflict", other.code())
	assert.Equal(t, []string{"/quantity", "/data/model"}, other.pointers())
	assert.Contains(t, other.json()["detail"], "/quantity, /data/model")
	other = h.post(h.acme, "application/cloudevents+json", `{"specversion":"1.0","id":"call_1","source":"/s","type":"tokens_spent","time":"2026-04-05T10:30:01Z","data":{"quantity":4,"model":"gpt-4.1"}}`)
	assert.Equal(t, []string{"/data/quantity", "/time"}, other.pointers())

	got := h.do(request{method: "GET", path: "/v1/events/tokens_spent/call_1", key: h.acme})
	require.Equal(t, http.StatusOK, got.Code, got.Body)
	assert.Equal(t, position, got.Header().Get("Tollgate-Position"))
	assert.JSONEq(t, `{"tenantId":"acme","eventType":"tokens_spent","sourceId":"call_1","status":"recorded","quantity":3,
		"occurredAt":"2026-04-05T10:30:00.000Z","data":{"model":"gpt-4.1"},"position":"`+position+`","recordedAt":"2026-04-05T10:31:00.000Z",
		"emitter":null,"traceparent":null,"original":{"quantity":3,"data":{"model":"gpt-4.1"}},"corrections":[],"hold":null,"decision":null,"invoiceLines":[]}`, got.Body.String())
}

const cloud = `{"specversion":"1.0","id":%q,"source":"/backend","type":"tokens_spent","time":"2026-04-05T10:30:00Z"%s}`

// Every media type records the same fact: what the first one recorded is a duplicate for the others.
func TestContentTypesAgree(t *testing.T) {
	h := newFixture(t)
	plain := usageEvent("same", `,"quantity":2.50,"data":{"model":"m"}`)
	event := fmt.Sprintf(cloud, "same", `,"data":{"quantity":"2.5","model":"m"}`)
	require.Equal(t, http.StatusCreated, h.post(h.acme, "application/json", plain).Code)

	attributes := []string{"ce-specversion", "1.0", "ce-id", "same", "ce-source", "/backend", "ce-type", "tokens_spent", "ce-time", "2026-04-05T10:30:00Z"}
	for name, a := range map[string]answer{
		"object":           h.post(h.acme, "application/json", plain),
		"CloudEvent":       h.post(h.acme, "application/cloudevents+json; charset=UTF-8", event),
		"binary":           h.post(h.acme, "application/json", `{"quantity":2.5,"model":"m"}`, attributes...),
		"base 64":          h.post(h.acme, "application/cloudevents+json", fmt.Sprintf(cloud, "same", `,"datacontenttype":"application/json","data_base64":"eyJxdWFudGl0eSI6Mi41LCJtb2RlbCI6Im0ifQ=="`)),
		"escaped names":    h.post(h.acme, "application/json", strings.Replace(plain, "eventType", `event\u0054ype`, 1)),
		"service key":      h.post(h.service, "application/json", plain, "X-Tenant-Id", "acme"),
		"tenant in body":   h.post(h.service, "application/json", strings.Replace(plain, "{", `{"tenantId":"acme",`, 1)),
		"subject":          h.post(h.service, "application/cloudevents+json", strings.Replace(event, "{", `{"subject":"acme",`, 1)),
		"null is absent":   h.post(h.acme, "application/json", strings.Replace(plain, "{", `{"tenantId":null,`, 1)),
		"an admin inside":  h.post(h.admin, "application/json", plain, "X-Tenant-Switch", "acme", "X-Switch-Reason", "support"),
		"another offset":   h.post(h.acme, "application/json", strings.Replace(plain, "10:30:00.000Z", "12:30:00+02:00", 1)),
		"extensions":       h.post(h.acme, "application/cloudevents+json", strings.Replace(event, "{", `{"partitionkey":"x","sequence":1,`, 1)),
		"percent in ce-id": h.post(h.acme, "application/json", `{"quantity":2.5,"model":"m"}`, append(attributes[:3:3], append([]string{"%73ame"}, attributes[4:]...)...)...),
	} {
		assert.Equal(t, http.StatusOK, a.Code, "%s: %s", name, a.Body)
		assert.Equal(t, "duplicate", a.json()["status"], name)
	}
	for name, a := range map[string]answer{
		"array":  h.post(h.acme, "application/json", "["+plain+"]"),
		"lines":  h.post(h.acme, "application/x-ndjson", "\n"+plain+"\r\n\n"),
		"clouds": h.post(h.acme, "application/cloudevents-batch+json", " [ "+event+" ] "),
	} {
		require.Equal(t, http.StatusOK, a.Code, "%s: %s", name, a.Body)
		position := a.json()["position"].(string)
		assert.JSONEq(t, `{"recorded":0,"duplicates":1,"rejected":0,"position":"`+position+`","items":[{"index":0,"sourceId":"same","status":"duplicate","position":"`+position+`"}]}`, a.Body.String(), name)
	}
	assert.Equal(t, 1, h.events())
}

func TestBatchItemsStandAlone(t *testing.T) {
	h := newFixture(t)
	require.Equal(t, http.StatusCreated, h.post(h.acme, "application/json", usageEvent("there")).Code)
	events := []string{
		usageEvent("new"), usageEvent("there"), usageEvent("there", `,"quantity":9`), usageEvent("zero", `,"quantity":0`),
		strings.Replace(usageEvent("type"), "tokens_spent", "unheard_of", 1), `{"quantity":NaN}`, `{"sourceId":"x` + "\xff" + `"}`, "5",
		usageEvent("unknown", `,"colour":"red"`), usageEvent("new"), usageEvent("away", `,"tenantId":"other"`), usageEvent("last"),
		usageEvent("words", `,"data":{"outputTokens":"many"}`),
	}
	want := []struct{ status, code string }{
		{"recorded", ""}, {"duplicate", ""}, {"conflict", "source_conflict"}, {"invalid", "invalid_event"},
		{"invalid", "unknown_event_type"}, {"invalid", "invalid_json"}, {"invalid", "invalid_json"}, {"invalid", "invalid_event"},
		{"invalid", "invalid_event"}, {"duplicate", ""}, {"invalid", "tenant_mismatch"}, {"recorded", ""}, {"invalid", "invalid_event"},
	}
	for name, body := range map[string]string{"application/json": "[" + strings.Join(events, " , ") + "]", "application/x-ndjson": strings.Join(events, "\n")} {
		t.Run(name, func(t *testing.T) {
			h := newFixture(t)
			require.Equal(t, http.StatusCreated, h.post(h.acme, "application/json", usageEvent("there")).Code)
			a := h.post(h.acme, name, body)
			require.Equal(t, http.StatusOK, a.Code, a.Body)
			got := a.json()
			assert.Equal(t, json.Number("2"), got["recorded"])
			assert.Equal(t, json.Number("2"), got["duplicates"])
			assert.Equal(t, json.Number("9"), got["rejected"])
			items := got["items"].([]any)
			require.Len(t, items, len(want))
			for i, w := range want {
				item := items[i].(map[string]any)
				assert.Equal(t, json.Number(strconv.Itoa(i)), item["index"])
				assert.Equal(t, w.status, item["status"], "%d: %v", i, item)
				if w.code == "" {
					assert.NotContains(t, item, "code")
					assert.Contains(t, item, "position")
				} else {
					assert.Equal(t, w.code, item["code"], "%d: %v", i, item)
					assert.NotContains(t, item, "position")
				}
			}
			if !storetest.OnEventStoreDB() { // where the appends of a batch overtake each other
				assert.Equal(t, items[11].(map[string]any)["position"], got["position"])
			}
			assert.Contains(t, items[2].(map[string]any)["detail"], "differ: /2/quantity")
			assert.Contains(t, items[3].(map[string]any)["detail"], "/3/quantity: ")
			assert.Contains(t, items[8].(map[string]any)["detail"], "/8/colour: ")
			assert.Contains(t, items[12].(map[string]any)["detail"], "/12/data/outputTokens: ")
			assert.Contains(t, items[4].(map[string]any)["detail"], "tokens_spent")
			assert.Equal(t, "zero", items[3].(map[string]any)["sourceId"])
			assert.Nil(t, items[5].(map[string]any)["sourceId"])

			only := h.do(request{"POST", "/v1/events?items=rejected", h.acme, []string{"Content-Type", name}, body})
			require.Equal(t, http.StatusOK, only.Code)
			assert.Len(t, only.json()["items"], 9)
			assert.Equal(t, json.Number("4"), only.json()["duplicates"])
		})
	}
}

func TestEmptyBatches(t *testing.T) {
	h := newFixture(t)
	for _, c := range [][2]string{{"application/json", "[]"}, {"application/json", " [ \n] "}, {"application/x-ndjson", ""}, {"application/x-ndjson", "\n\n"}, {"application/cloudevents-batch+json", "[]"}} {
		a := h.post(h.acme, c[0], c[1])
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		assert.JSONEq(t, `{"recorded":0,"duplicates":0,"rejected":0,"position":null,"items":[]}`, a.Body.String())
	}
}

// A service key's batch may be about several tenants; each event finds its own.
func TestBatchOverTenants(t *testing.T) {
	h := newFixture(t)
	body := "[" + strings.Join([]string{usageEvent("a", `,"tenantId":"acme"`), usageEvent("b", `,"tenantId":"other"`), usageEvent("c"), usageEvent("d", `,"tenantId":"nobody"`)}, ",") + "]"
	a := h.post(h.service, "application/json", body)
	require.Equal(t, http.StatusOK, a.Code)
	codes := func(a answer) []any {
		items := a.json()["items"].([]any)
		codes := make([]any, len(items))
		for i, item := range items {
			codes[i] = item.(map[string]any)["code"]
		}
		return codes
	}
	assert.Equal(t, []any{nil, nil, "tenant_required", "unknown_tenant"}, codes(a))

	a = h.post(h.service, "application/json", body, "X-Tenant-Id", "other")
	assert.Equal(t, []any{"tenant_conflict", nil, nil, "tenant_conflict"}, codes(a))
}

const unauthorised = "unauthorized" //nolint:misspell // the contract spells it so

func TestProblems(t *testing.T) {
	h := newFixture(t)
	require.Equal(t, http.StatusCreated, h.post(h.acme, "application/json", usageEvent("there")).Code)
	const js = "application/json"
	post := func(key, contentType, body string, headers ...string) request {
		return request{"POST", "/v1/events", key, append([]string{"Content-Type", contentType}, headers...), body}
	}
	get := func(key, path string, headers ...string) request { return request{"GET", path, key, headers, ""} }
	for name, c := range map[string]struct {
		request request
		status  int
		code    string
	}{
		"no JSON":                         {post(h.acme, js, `{"eventType":`), 400, "invalid_json"},
		"empty body":                      {post(h.acme, js, ``), 400, "invalid_json"},
		"something after the event":       {post(h.acme, js, usageEvent("x")+"{}"), 400, "invalid_json"},
		"something after the array":       {post(h.acme, js, "["+usageEvent("x")+"]]"), 400, "invalid_json"},
		"array cut short":                 {post(h.acme, js, "["+usageEvent("x")), 400, "invalid_json"},
		"array with an empty element":     {post(h.acme, js, "["+usageEvent("x")+",]"), 400, "invalid_json"},
		"not an object":                   {post(h.acme, js, `"x"`), 400, "invalid_event"},
		"missing fields":                  {post(h.acme, js, `{}`), 400, "invalid_event"},
		"unknown type":                    {post(h.acme, js, strings.Replace(usageEvent("x"), "tokens_spent", "y", 1)), 400, "unknown_event_type"},
		"other payload":                   {post(h.acme, js, usageEvent("there", `,"quantity":2`)), 409, "source_conflict"},
		"no tenant":                       {post(h.service, js, usageEvent("x")), 400, "tenant_required"},
		"two tenants":                     {post(h.service, js, usageEvent("x", `,"tenantId":"acme"`), "X-Tenant-Id", "other"), 400, "tenant_conflict"},
		"two headers":                     {post(h.service, js, usageEvent("x"), "X-Tenant-Id", "other", "X-Tenant-Id", "acme"), 400, "tenant_conflict"},
		"two headers on a read":           {get(h.service, "/v1/usage", "X-Tenant-Id", "other", "X-Tenant-Id", "acme"), 400, "tenant_conflict"},
		"another's tenant":                {post(h.acme, js, usageEvent("x", `,"tenantId":"other"`)), 403, "tenant_mismatch"},
		"another's tenant on a read":      {get(h.acme, "/v1/usage", "X-Tenant-Id", "other"), 403, "tenant_mismatch"},
		"no such tenant":                  {post(h.service, js, usageEvent("x"), "X-Tenant-Id", "nobody"), 404, "unknown_tenant"},
		"no such tenant on a read":        {get(h.service, "/v1/usage", "X-Tenant-Id", "nobody"), 404, "unknown_tenant"},
		"no key":                          {post("", js, usageEvent("x")), 401, unauthorised},
		"unknown key":                     {post("tg_tenant_nope", js, usageEvent("x")), 401, unauthorised},
		"another scheme":                  {post("", js, usageEvent("x"), "Authorization", "Basic "+h.acme), 401, unauthorised},
		"two keys":                        {post(h.acme, js, usageEvent("x"), "Authorization", "Bearer "+h.service), 401, unauthorised},
		"admin without switch":            {post(h.admin, js, usageEvent("x"), "X-Tenant-Id", "acme"), 403, "forbidden"},
		"admin without reason":            {post(h.admin, js, usageEvent("x"), "X-Tenant-Switch", "acme"), 403, "forbidden"},
		"admin with an empty reason":      {get(h.admin, "/v1/usage", "X-Tenant-Switch", "acme", "X-Switch-Reason", " "), 403, "forbidden"},
		"admin inside an unknown tenant":  {get(h.admin, "/v1/usage", "X-Tenant-Switch", "nobody", "X-Switch-Reason", "y"), 404, "unknown_tenant"},
		"admin inside one, naming other":  {get(h.admin, "/v1/usage", "X-Tenant-Switch", "acme", "X-Switch-Reason", "y", "X-Tenant-Id", "other"), 400, "tenant_conflict"},
		"a service key cannot switch":     {post(h.service, js, usageEvent("x"), "X-Tenant-Switch", "acme", "X-Switch-Reason", "y"), 403, "forbidden"},
		"a tenant key is no admin":        {get(h.acme, "/v1/admin/keys"), 403, "forbidden"},
		"a service key is no admin":       {get(h.service, "/v1/admin/keys"), 403, "forbidden"},
		"no such event":                   {get(h.acme, "/v1/events/tokens_spent/nope"), 404, "not_found"},
		"no such route":                   {get(h.acme, "/v1/nope"), 404, "not_found"},
		"not with this method":            {request{"PATCH", "/v1/events", h.acme, nil, ""}, 405, "not_found"},
		"no content type":                 {request{"POST", "/v1/events", h.acme, nil, usageEvent("x")}, 415, "unsupported_media_type"},
		"text":                            {post(h.acme, "text/plain", usageEvent("x")), 415, "unsupported_media_type"},
		"YAML is for the catalog":         {post(h.acme, "application/yaml", usageEvent("x")), 415, "unsupported_media_type"},
		"another charset":                 {post(h.acme, "application/json; charset=latin1", usageEvent("x")), 415, "unsupported_media_type"},
		"compressed":                      {post(h.acme, js, usageEvent("x"), "Content-Encoding", "gzip"), 415, "unsupported_media_type"},
		"binary mode with text":           {post(h.acme, "text/plain", "x", "ce-id", "x"), 415, "unsupported_media_type"},
		"data beyond its bound":           {post(h.acme, js, usageEvent("x", `,"data":{"a":"`+strings.Repeat("x", 64<<10)+`"}`)), 413, "too_large"},
		"one event beyond its bound":      {post(h.acme, js, strings.Repeat(" ", 1<<20)+usageEvent("x")), 413, "too_large"},
		"one CloudEvent beyond its bound": {post(h.acme, "application/cloudevents+json", strings.Repeat(" ", 1<<20)+"{}"), 413, "too_large"},
		"batch beyond its bound":          {post(h.acme, js, "["+strings.Repeat(" ", 16<<20)+"]"), 413, "too_large"},
		"batch of too many":               {post(h.acme, js, "["+strings.Repeat("0,", 10_000)+"0]"), 413, "too_large"},
		"a word for limit":                {get(h.acme, "/v1/usage?limit=ten"), 400, "invalid_request"},
		"a limit beyond its bound":        {get(h.acme, "/v1/usage?limit=501"), 400, "invalid_request"},
		"a limit of zero":                 {get(h.acme, "/v1/timeline?limit=0"), 400, "invalid_request"},
		"not a position":                  {get(h.acme, "/v1/usage?minPosition=x"), 400, "invalid_request"},
		"a wait beyond its bound":         {get(h.acme, "/v1/usage?waitMs=30001"), 400, "invalid_request"},
		"a time without offset":           {get(h.acme, "/v1/usage?from=2026-04-05T10:30:00"), 400, "invalid_request"},
		"an unknown granularity":          {get(h.acme, "/v1/usage?granularity=week"), 400, "invalid_request"},
		"an unknown items":                {request{"POST", "/v1/events?items=some", h.acme, []string{"Content-Type", js}, "[]"}, 400, "invalid_request"},
		"a position not reached":          {get(h.acme, "/v1/usage?minPosition=0-999999&waitMs=1"), 504, "store_unavailable"},
		"not reached, for an event":       {get(h.acme, "/v1/events/tokens_spent/there?minPosition=0-999999&waitMs=0"), 504, "store_unavailable"},
		"void without reason":             {request{"POST", "/v1/events/tokens_spent/there/void", h.acme, []string{"Content-Type", js}, "{}"}, 400, "invalid_event"},
		"void of nothing":                 {request{"POST", "/v1/events/tokens_spent/nope/void", h.acme, []string{"Content-Type", js}, `{"reason":"x"}`}, 404, "not_found"},
		"adjust without quantity":         {request{"POST", "/v1/events/tokens_spent/there/adjust", h.acme, []string{"Content-Type", js}, `{"reason":"x"}`}, 400, "invalid_event"},
		"adjust with more":                {request{"POST", "/v1/events/tokens_spent/there/adjust", h.acme, []string{"Content-Type", js}, `{"quantity":1,"reason":"x","Reason":"x"}`}, 400, "invalid_event"},
		"adjust as text":                  {request{"POST", "/v1/events/tokens_spent/there/adjust", h.acme, []string{"Content-Type", "text/plain"}, `{}`}, 415, "unsupported_media_type"},
		"a tenant of no zone":             {request{"PUT", "/v1/admin/tenants/t", h.admin, []string{"Content-Type", js}, `{"timeZone":"Mars/Base"}`}, 400, "invalid_request"},
		"a catalog with a typo":           {request{"PUT", "/v1/admin/catalog", h.admin, []string{"Content-Type", "application/yaml"}, "metres: []"}, 400, "invalid_request"},
		"a key for nobody":                {request{"POST", "/v1/admin/keys", h.admin, []string{"Content-Type", js}, `{"kind":"tenant","tenantId":"nobody","name":"x"}`}, 404, "unknown_tenant"},
		"no such key":                     {request{"DELETE", "/v1/admin/keys/nope", h.admin, nil, ""}, 404, "not_found"},
	} {
		t.Run(name, func(t *testing.T) {
			a := h.do(c.request)
			require.Equal(t, c.status, a.Code, a.Body)
			assert.Equal(t, "application/problem+json", a.Header().Get("Content-Type"))
			got := a.json()
			assert.Equal(t, c.code, got["code"], got)
			assert.Equal(t, "urn:tollgate:problem:"+c.code, got["type"])
			assert.Equal(t, json.Number(strconv.Itoa(c.status)), got["status"])
			assert.NotEmpty(t, got["title"])
			assert.NotEmpty(t, got["detail"])
			if c.status == 401 {
				assert.Equal(t, `Bearer realm="tollgate"`, a.Header().Get("WWW-Authenticate"))
			}
			if c.status >= 503 {
				assert.Equal(t, "1", a.Header().Get("Retry-After"))
			}
			if c.status == 405 {
				assert.Contains(t, a.Header().Get("Allow"), "POST")
			}
		})
	}
	assert.Equal(t, 1, h.events())
}

func TestStoreFailures(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		code   string
	}{
		"overloaded":  {fmt.Errorf("queue: %w", eventstore.ErrOverloaded), 503, "overloaded"},
		"unavailable": {fmt.Errorf("dial tcp 10.0.0.1: %w", eventstore.ErrUnavailable), 503, "store_unavailable"},
		"too large":   {eventstore.ErrTooLarge, 413, "too_large"},
		"unknown":     {errors.New("a secret of the inside"), 500, "internal"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFixture(t)
			h.faults.failWith(func(eventstore.Append) error { return c.err })
			for _, a := range []answer{
				h.post(h.acme, "application/json", usageEvent("x")),
				h.post(h.acme, "application/json", "["+usageEvent("x")+"]"),
				h.post(h.acme, "application/x-ndjson", usageEvent("x")),
				h.do(request{"PUT", "/v1/admin/tenants/new", h.admin, []string{"Content-Type", "application/json"}, `{}`}),
			} {
				assert.Equal(t, c.status, a.Code, a.Body)
				assert.Equal(t, c.code, a.code())
				assert.NotContains(t, a.Body.String(), "secret")
				assert.NotContains(t, a.Body.String(), "10.0.0.1")
				assert.Equal(t, c.status == 503, a.Header().Get("Retry-After") != "")
			}
		})
	}
}

// A batch of which some events may be recorded and some not is answered as a whole: it must be sent again.
func TestPartlyUnknownBatch(t *testing.T) {
	h := newFixture(t)
	failed := false
	h.faults.failWith(func(eventstore.Append) error {
		if !failed {
			failed = true
			return eventstore.ErrUnavailable
		}
		return nil
	})
	body := "[" + usageEvent("a") + "," + usageEvent("b") + "]"
	a := h.post(h.acme, "application/json", body)
	require.Equal(t, http.StatusServiceUnavailable, a.Code)
	assert.Contains(t, a.json()["detail"], "whole batch again")

	a = h.post(h.acme, "application/json", body)
	require.Equal(t, http.StatusOK, a.Code)
	assert.Equal(t, json.Number("1"), a.json()["recorded"])
	assert.Equal(t, json.Number("1"), a.json()["duplicates"])
	assert.Equal(t, 2, h.events())
}

func TestEveryBrokenRuleIsListed(t *testing.T) {
	h := newFixture(t)
	a := h.post(h.acme, "application/json", `{"TENANTID":"other","eventType":"","quantity":-1,"quantity":2,"sourceId":"a\u0000b","occurredAt":"yesterday","data":{"a":1,"A":2},"extra":null}`)
	require.Equal(t, http.StatusBadRequest, a.Code)
	pointers := map[string]bool{}
	for _, e := range a.json()["errors"].([]any) {
		pointers[e.(map[string]any)["pointer"].(string)] = true
	}
	assert.Equal(t, map[string]bool{"/TENANTID": true, "/eventType": true, "/quantity": true, "/sourceId": true, "/occurredAt": true, "/data/A": true, "/extra": true}, pointers)

	a = h.post(h.acme, "application/cloudevents+json", `{"specversion":"0.3","id":"","type":"tokens_spent","source":"","time":"2026-04-05T10:30:00Z","Upper":1,"data":{"quantity":0}}`)
	require.Equal(t, http.StatusBadRequest, a.Code)
	pointers = map[string]bool{}
	for _, e := range a.json()["errors"].([]any) {
		pointers[e.(map[string]any)["pointer"].(string)] = true
	}
	assert.Equal(t, map[string]bool{"/specversion": true, "/id": true, "/source": true, "/Upper": true, "/data/quantity": true}, pointers)

	// What the ledger finds has its place in the CloudEvent, too.
	a = h.post(h.acme, "application/cloudevents+json", fmt.Sprintf(cloud, "x", `,"data":{"quantity":0}`))
	assert.Equal(t, "/data/quantity", a.json()["errors"].([]any)[0].(map[string]any)["pointer"])
}

// Ids with characters that mean something in a URL are decoded exactly once.
func TestPathsAreDecodedOnce(t *testing.T) {
	h := newFixture(t)
	for id, path := range map[string]string{
		"a/b":            "a%2Fb",
		"100%":           "100%25",
		"%41":            "%2541",
		"../../admin":    "..%2F..%2Fadmin",
		"..":             "%2E%2E",
		"x/void":         "x%2Fvoid",
		"a+b c":          "a+b%20c",
		"größe:日本":       "gr%C3%B6%C3%9Fe:%E6%97%A5%E6%9C%AC",
		"?q=1#f;a=b,c&d": "%3Fq=1%23f;a=b,c&d",
	} {
		quoted, err := json.Marshal(id)
		require.NoError(t, err)
		require.Equal(t, http.StatusCreated, h.post(h.acme, "application/json", strings.Replace(usageEvent("x"), `"x"`, string(quoted), 1)).Code, id)
		a := h.do(request{method: "GET", path: "/v1/events/tokens_spent/" + path, key: h.acme})
		require.Equal(t, http.StatusOK, a.Code, "%s: %s", id, a.Body)
		assert.Equal(t, id, a.json()["sourceId"])
		a = h.do(request{"POST", "/v1/events/tokens_spent/" + path + "/void", h.acme, []string{"Content-Type", "application/json"}, `{"reason":"x"}`})
		require.Equal(t, http.StatusCreated, a.Code, "%s: %s", id, a.Body)
		assert.Equal(t, id, a.json()["sourceId"])
	}
	for _, path := range []string{"%FF", "%00", "a%0Ab", "e%CC%81", "%C3"} {
		a := h.do(request{method: "GET", path: "/v1/events/tokens_spent/" + path, key: h.acme})
		assert.Equal(t, http.StatusNotFound, a.Code, path)
	}
}

func TestCorrections(t *testing.T) {
	h := newFixture(t)
	require.Equal(t, http.StatusCreated, h.post(h.acme, "application/json", usageEvent("c", `,"quantity":5,"data":{"model":"m","outputTokens":7}`)).Code)
	correct := func(what, body string) answer {
		return h.do(request{"POST", "/v1/events/tokens_spent/c/" + what, h.acme, []string{"Content-Type", "application/json"}, body})
	}
	a := correct("adjust", `{"quantity":"4.25","reason":"counted twice"}`)
	require.Equal(t, http.StatusCreated, a.Code, a.Body)
	assert.Equal(t, "recorded", a.json()["status"])
	b := correct("adjust", `{"reason":"counted twice","quantity":4.250,"data":null}`)
	require.Equal(t, http.StatusOK, b.Code)
	assert.Equal(t, a.json()["position"], b.json()["position"])
	assert.Equal(t, "duplicate", b.json()["status"])
	require.Equal(t, http.StatusBadRequest, correct("adjust", `{"quantity":0,"reason":"x"}`).Code)
	require.Equal(t, http.StatusBadRequest, correct("adjust", `{"quantity":null,"reason":"x"}`).Code)
	require.Equal(t, http.StatusBadRequest, correct("adjust", `{"quantity":1,"data":{"outputTokens":"x"},"reason":"x"}`).Code)

	require.Equal(t, http.StatusCreated, correct("void", `{"reason":"outage"}`).Code)
	require.Equal(t, http.StatusOK, correct("void", `{"reason":"outage"}`).Code)
	other := correct("void", `{"reason":"another"}`)
	require.Equal(t, http.StatusConflict, other.Code)
	assert.Equal(t, "conflict", other.code())

	got := h.do(request{method: "GET", path: "/v1/events/tokens_spent/c?minPosition=" + a.json()["position"].(string), key: h.acme})
	require.Equal(t, http.StatusOK, got.Code)
	v := got.json()
	assert.Equal(t, "voided", v["status"])
	assert.Equal(t, json.Number("4.25"), v["quantity"])
	assert.Equal(t, json.Number("5"), v["original"].(map[string]any)["quantity"])
	require.Len(t, v["corrections"], 2)
	last := v["corrections"].([]any)[1].(map[string]any)
	assert.Equal(t, last["position"], got.Header().Get("Tollgate-Position"))
	assert.Contains(t, last["by"], "key:")

	// Another tenant sees nothing of it.
	a = h.do(request{method: "GET", path: "/v1/events/tokens_spent/c", key: h.service, headers: []string{"X-Tenant-Id", "other"}})
	assert.Equal(t, http.StatusNotFound, a.Code)
}

// An administrator's presence is on the tenant's timeline before the deed, once a day for each reason.
func TestSwitchIsNoted(t *testing.T) {
	h := newFixture(t)
	for range 2 {
		a := h.do(request{method: "GET", path: "/v1/usage", key: h.admin, headers: []string{"X-Tenant-Switch", "acme", "X-Switch-Reason", "ticket 7"}})
		require.Equal(t, http.StatusOK, a.Code, a.Body)
	}
	switches := 0
	p := eventstore.Position{Partition: eventstore.PartitionOf("acme", h.store.Partitions())}
	recorded, err := h.store.ReadLog(t.Context(), p, 100)
	require.NoError(t, err)
	for _, r := range recorded {
		if strings.HasPrefix(r.Type, "admin_switched") {
			switches++
		}
	}
	assert.Equal(t, 1, switches)
}

func TestEmitterAndTraceParentAreKept(t *testing.T) {
	h := newFixture(t)
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	require.Equal(t, http.StatusCreated, h.post(h.acme, "application/cloudevents+json", fmt.Sprintf(cloud, "s", `,"traceparent":"`+trace+`"`)).Code)
	require.Equal(t, http.StatusCreated, h.post(h.acme, "application/json", "", "ce-specversion", "1.0", "ce-id", "b%20%E2%82%AC", "ce-source", `"/backend"`, "ce-type", "tokens_spent",
		"ce-time", "2026-04-05T10:30:00Z", "ce-traceparent", "garbage").Code)
	v := h.do(request{method: "GET", path: "/v1/events/tokens_spent/s", key: h.acme}).json()
	assert.Equal(t, "/backend", v["emitter"])
	assert.Equal(t, trace, v["traceparent"])
	v = h.do(request{method: "GET", path: "/v1/events/tokens_spent/b%20%E2%82%AC", key: h.acme}).json()
	assert.Equal(t, "/backend", v["emitter"])
	assert.Nil(t, v["traceparent"])
}

func TestKeyErrorsAreNotAnswers(t *testing.T) {
	h := newFixture(t, func(c *api.Config) { c.Directory = brokenDirectory{c.Directory} })
	a := h.post(h.acme, "application/json", usageEvent("x"))
	assert.Equal(t, http.StatusServiceUnavailable, a.Code, a.Body)
	assert.Equal(t, "store_unavailable", a.code())
}
