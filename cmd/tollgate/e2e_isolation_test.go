package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/tenant"
)

// walked is one of the two tenants of the walk. Both have things under the same ids. Everything else of a tenant contains its
// canary, so an answer with the canary shows something of this tenant.
type walked struct {
	id, slug, canary string
	key              tenant.Secret
	own              string // a source that only this tenant has
	invoice          string // id of an invoice
}

// area is who a route is for.
type area int

const (
	open        area = iota // everybody
	ofAdmins                // admin keys
	ofBackends              // service and admin keys
	ofTenant                // one tenant, named by what is around the body
	ofEach                  // one tenant, which the body may name too
	ofOperators             // likewise, in the query; of all tenants for an admin who names none
)

// visit is how the walk calls one route for the things of a tenant; source is one of its ids, or of the other's.
type visit struct {
	area area
	path func(w walked, source string) string
	body func(w walked, source string) any
}

func fixed(path string) func(walked, string) string {
	return func(walked, string) string { return path }
}

func aboutEvent(suffix string) func(walked, string) string {
	return func(_ walked, source string) string {
		return "/v1/events/ai_interview_completed/" + source + suffix
	}
}

func aboutTenant(suffix string) func(walked, string) string {
	return func(w walked, _ string) string { return "/v1/admin/tenants/" + w.id + suffix }
}

func reason(walked, string) any { return map[string]any{"reason": "walked"} }

// visits has a case for every route. A route without one fails the test.
var visits = map[string]visit{
	"GET /healthz":      {area: open, path: fixed("/healthz")},
	"GET /readyz":       {area: open, path: fixed("/readyz")},
	"GET /metrics":      {area: open, path: fixed("/metrics")},
	"GET /openapi.yaml": {area: open, path: fixed("/openapi.yaml")},

	"POST /v1/events": {area: ofEach, path: fixed("/v1/events"), body: func(_ walked, source string) any {
		return map[string]any{"eventType": "ai_interview_completed", "sourceId": source, "occurredAt": "2026-04-05T10:30:00Z", "data": map[string]any{"userId": "walked"}}
	}},
	"POST /v1/limits/check": {area: ofEach, path: fixed("/v1/limits/check"), body: func(_ walked, source string) any {
		return map[string]any{"eventType": "evaluation_completed", "sourceId": source, "data": map[string]any{"userId": "walked"}}
	}},
	"GET /v1/events/{eventType}/{sourceId}":         {area: ofTenant, path: aboutEvent("")},
	"POST /v1/events/{eventType}/{sourceId}/void":   {area: ofTenant, path: aboutEvent("/void"), body: reason},
	"POST /v1/events/{eventType}/{sourceId}/adjust": {area: ofTenant, path: aboutEvent("/adjust"), body: func(walked, string) any { return map[string]any{"quantity": 2, "reason": "walked"} }},
	"DELETE /v1/holds/{eventType}/{sourceId}":       {area: ofTenant, path: func(_ walked, source string) string { return "/v1/holds/evaluation_completed/" + source }},
	"GET /v1/limits":   {area: ofTenant, path: fixed("/v1/limits")},
	"GET /v1/holds":    {area: ofTenant, path: fixed("/v1/holds")},
	"GET /v1/usage":    {area: ofTenant, path: fixed("/v1/usage?from=2026-04-01T00:00:00Z&to=2026-05-01T00:00:00Z&groupBy=feature")},
	"GET /v1/timeline": {area: ofTenant, path: fixed("/v1/timeline?limit=500")},

	"GET /v1/exports/{dataset}": {area: ofOperators, path: func(w walked, source string) string {
		return "/v1/exports/" + map[string]string{"shared": "usage", "only-a": "invoices", "only-b": map[string]string{"walk_a": "focus", "walk_b": "journal"}[w.id]}[source]
	}},
	"GET /v1/insights/{kind}": {area: ofOperators, path: func(w walked, source string) string {
		kind := map[string]string{"shared": "cost?groupBy=model", "only-a": "retries?groupBy=feature", "only-b": map[string]string{"walk_a": "denials?limit=500", "walk_b": "providers?limit=500"}[w.id]}[source]
		return "/v1/insights/" + kind + "&from=2026-04-01T00:00:00Z&to=2026-12-31T00:00:00Z"
	}},

	"GET /v1/invoices":                                 {area: ofTenant, path: fixed("/v1/invoices")},
	"GET /v1/invoices/preview":                         {area: ofTenant, path: fixed("/v1/invoices/preview")},
	"GET /v1/invoices/{id}":                            {area: ofTenant, path: func(w walked, _ string) string { return "/v1/invoices/" + w.invoice }},
	"GET /v1/invoices/{id}/events":                     {area: ofTenant, path: func(w walked, _ string) string { return "/v1/invoices/" + w.invoice + "/events?line=0" }},
	"POST /v1/admin/invoices/{id}/void":                {area: ofAdmins, path: func(w walked, _ string) string { return "/v1/admin/invoices/" + w.invoice + "/void" }, body: reason},
	"POST /v1/admin/tenants/{tenantId}/invoices/close": {area: ofAdmins, path: aboutTenant("/invoices/close"), body: func(walked, string) any { return map[string]any{} }},

	"GET /v1/credits": {area: ofTenant, path: fixed("/v1/credits")},
	"POST /v1/admin/tenants/{tenantId}/credits": {area: ofAdmins, path: aboutTenant("/credits"), body: func(_ walked, source string) any {
		return map[string]any{"grantId": source, "amount": "5.00", "kind": "promotional"}
	}},
	"POST /v1/admin/tenants/{tenantId}/credits/{grantId}/refund": {area: ofAdmins, path: aboutTenant("/credits/shared/refund"), body: func(_ walked, source string) any {
		return map[string]any{"refundId": source, "amount": "0.01", "reason": "walked"}
	}},
	"POST /v1/admin/invoices/{id}/settle": {area: ofAdmins, path: func(w walked, _ string) string { return "/v1/admin/invoices/" + w.invoice + "/settle" }, body: func(walked, string) any {
		return map[string]any{"as": "uncollectible", "reference": "walked"}
	}},

	"GET /v1/resolve": {area: ofBackends, path: func(w walked, _ string) string { return "/v1/resolve?slug=" + w.slug }},

	"GET /v1/admin/tenants/{tenantId}":                      {area: ofAdmins, path: aboutTenant("")},
	"PUT /v1/admin/tenants/{tenantId}":                      {area: ofAdmins, path: aboutTenant(""), body: func(w walked, _ string) any { return w.definition() }},
	"PUT /v1/admin/tenants/{tenantId}/status":               {area: ofAdmins, path: aboutTenant("/status"), body: func(walked, string) any { return map[string]any{"status": "active", "reason": "walked"} }},
	"PUT /v1/admin/tenants/{tenantId}/plan":                 {area: ofAdmins, path: aboutTenant("/plan"), body: func(walked, string) any { return map[string]any{"plan": "pro"} }},
	"PUT /v1/admin/tenants/{tenantId}/limits/{limit}":       {area: ofAdmins, path: aboutTenant("/limits/tokens_per_day"), body: func(walked, string) any { return map[string]any{"max": 5, "reason": "walked"} }},
	"DELETE /v1/admin/tenants/{tenantId}/limits/{limit}":    {area: ofAdmins, path: aboutTenant("/limits/interviews_per_cycle")},
	"GET /v1/admin/tenants/{tenantId}/hosts":                {area: ofAdmins, path: aboutTenant("/hosts")},
	"POST /v1/admin/tenants/{tenantId}/hosts/{host}/verify": {area: ofAdmins, path: func(w walked, _ string) string { return aboutTenant("/hosts/"+w.slug+".walk.test/verify")(w, "") }},
	"POST /v1/admin/names/{kind}/{name}/free":               {area: ofAdmins, path: fixed("/v1/admin/names/slug/nobodys/free"), body: reason},
	"GET /v1/admin/keys":                                    {area: ofAdmins, path: fixed("/v1/admin/keys")},
	"POST /v1/admin/keys": {area: ofAdmins, path: fixed("/v1/admin/keys"), body: func(w walked, _ string) any {
		return map[string]any{"kind": "tenant", "tenantId": w.id, "name": "walked"}
	}},
	"DELETE /v1/admin/keys/{id}": {area: ofAdmins, path: fixed("/v1/admin/keys/key_0000000000000000")},
	"GET /v1/admin/catalog":      {area: ofAdmins, path: fixed("/v1/admin/catalog")},
	"GET /v1/admin/costs":        {area: ofAdmins, path: fixed("/v1/admin/costs")},
	"POST /v1/admin/costs": {area: ofAdmins, path: fixed("/v1/admin/costs?source=walk&from=2026-04-05"), body: func(walked, string) any {
		return []map[string]any{{"provider": "openai", "model": "walked", "inputPerMillion": 1, "outputPerMillion": 2}}
	}},
	"PUT /v1/admin/catalog": {area: ofAdmins, path: fixed("/v1/admin/catalog?dryRun=true"), body: func(walked, string) any { return map[string]any{} }},
}

func (w walked) definition() map[string]any {
	return map[string]any{"name": w.canary, "slug": w.slug, "hosts": []string{w.slug + ".walk.test"}}
}

// credential is who calls, and what the rule needs to know of it.
type credential struct {
	name string
	key  tenant.Secret
	dead bool
	of   string // of a tenant key
	kind tenant.KeyKind
	acts string // where an admin acts
}

// signals name the tenant of a request outside its body, by tenant id.
type signals struct {
	name          string
	headers       []string
	host, path    string
	forwardedHost string // from a peer that is no proxy of ours: it says nothing
}

// sent is one request of the walk with its answer.
type sent struct {
	status int
	code   string
	text   string // headers and body
}

type walk struct {
	*testing.T
	url    string
	byID   map[string]walked
	called int
}

func (w *walk) send(method, path string, body any, c credential, s signals) sent {
	w.Helper()
	w.called++
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		require.NoError(w, err)
		in = bytes.NewReader(b)
	}
	if s.path != "" {
		path = "/t/" + w.byID[s.path].slug + path
	}
	r, err := http.NewRequestWithContext(w.Context(), method, w.url+path, in)
	require.NoError(w, err)
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+string(c.key))
	}
	if c.acts != "" {
		r.Header.Set("X-Tenant-Switch", c.acts)
		r.Header.Set("X-Switch-Reason", "the walk")
	}
	for _, h := range s.headers {
		r.Header.Add("X-Tenant-Id", h)
	}
	if s.host != "" {
		r.Host = w.byID[s.host].slug + ".walk.test:443"
	}
	if s.forwardedHost != "" {
		r.Header.Set("X-Forwarded-Host", w.byID[s.forwardedHost].slug+".walk.test")
	}
	response, err := http.DefaultClient.Do(r)
	require.NoError(w, err)
	defer func() { _ = response.Body.Close() }()
	b, err := io.ReadAll(response.Body)
	require.NoError(w, err)
	var problem struct{ Code string }
	_ = json.Unmarshal(b, &problem)
	return sent{response.StatusCode, problem.Code, fmt.Sprint(response.Header, " ", string(b))}
}

// everybody is all tenants, which an admin may export at once.
const everybody = "*"

// expected is the rule: how a caller is refused, or else which tenant's things may be in the answer.
func expected(a area, c credential, s signals, body, about string) (status int, code, tenantID string) {
	named := map[string]bool{}
	for _, n := range append([]string{c.of, s.host, s.path, c.acts}, s.headers...) {
		named[n] = n != ""
	}
	if a == ofEach || a == ofOperators {
		named[body] = body != ""
	}
	if a == ofAdmins && about != "" {
		named[about] = true
	}
	maps.DeleteFunc(named, func(_ string, in bool) bool { return !in })
	switch {
	case a == open:
		return http.StatusOK, "", ""
	case c.dead:
		return http.StatusUnauthorized, "unauthorized", "" //nolint:misspell // the contract spells it so
	case a == ofAdmins && c.kind != tenant.Admin, a == ofBackends && c.kind == tenant.Scoped:
		return http.StatusForbidden, "forbidden", ""
	case a == ofBackends:
		return 0, "", "" // it answers about any tenant, and shows nothing of it but its name
	case a != ofAdmins && a != ofOperators && c.kind == tenant.Admin && c.acts == "":
		return http.StatusForbidden, "forbidden", ""
	case len(named) > 1 && c.of != "":
		return http.StatusForbidden, "tenant_mismatch", ""
	case len(named) > 1:
		return http.StatusBadRequest, "tenant_conflict", ""
	case a == ofAdmins:
		return 0, "", about
	case len(named) == 0 && a == ofOperators && c.kind == tenant.Admin:
		return http.StatusOK, "", everybody
	case len(named) == 0:
		return http.StatusBadRequest, "tenant_required", ""
	default:
		return 0, "", slices.Collect(maps.Keys(named))[0]
	}
}

// visit calls a route in every way, as each of the credentials, and compares each answer with the rule.
func (w *walk) visit(route string, v visit, credentials []credential) {
	w.Helper()
	method, _, _ := strings.Cut(route, " ")
	a, b := w.byID["walk_a"], w.byID["walk_b"]
	around := []signals{{name: "nothing"}, {name: "header a", headers: []string{a.id}}, {name: "header b", headers: []string{b.id}},
		{name: "host a", host: a.id}, {name: "host b", host: b.id}, {name: "forwarded b", forwardedHost: b.id},
		{name: "header a, host b", headers: []string{a.id}, host: b.id}, {name: "both headers", headers: []string{a.id, b.id}}}
	if v.area == ofTenant || v.area == ofEach || v.area == ofOperators {
		around = append(around, signals{name: "path a", path: a.id}, signals{name: "path b", path: b.id}, signals{name: "path a, host b", path: a.id, host: b.id})
	}
	bodies := []string{""}
	if v.area == ofEach || v.area == ofOperators {
		bodies = []string{"", a.id, b.id}
	}
	for _, c := range credentials {
		for _, s := range around {
			for _, body := range bodies {
				for _, things := range []walked{a, b} {
					for _, source := range []string{"shared", a.own, b.own} {
						path := v.path(things, source)
						var content any
						if v.body != nil {
							content = v.body(things, source)
						}
						if m, ok := content.(map[string]any); ok && body != "" {
							m["tenantId"] = body
						}
						if v.area == ofOperators && body != "" {
							separator := "?"
							if strings.Contains(path, "?") {
								separator = "&"
							}
							path += separator + "tenantId=" + body
						}
						about := ""
						if strings.Contains(route, "{tenantId}") || route == "POST /v1/admin/keys" || strings.HasPrefix(route, "POST /v1/admin/invoices/") {
							about = things.id
						}
						status, code, of := expected(v.area, c, s, body, about)
						got := w.send(method, path, content, c, s)
						what := fmt.Sprintf("%s as %s with %s, body %q, %s of %s", route, c.name, s.name, body, source, things.id)
						if c.dead && c.key != "" && got.status == http.StatusTooManyRequests {
							status, code = got.status, "overloaded" // an address that sent many unknown keys is throttled before its key is checked
						}
						if status != 0 {
							require.Equal(w, status, got.status, "%s: %s", what, got.text)
							require.Equal(w, code, got.code, what)
						} else {
							require.Less(w, got.status, 500, "%s: %s", what, got.text)
							if strings.HasPrefix(route, "GET /v1/invoices/{id}") && of != things.id {
								require.Equal(w, http.StatusNotFound, got.status, what)
							}
							require.NotContains(w, []int{http.StatusUnauthorized, http.StatusForbidden}, got.status, "%s: %s", what, got.text)
						}
						for _, other := range w.byID {
							if other.id != of && of != everybody && (v.area != ofAdmins || c.kind != tenant.Admin) {
								require.NotContains(w, got.text, other.canary, what)
							}
						}
					}
				}
			}
		}
	}
}

// Every route is called with every key about every tenant: it refuses, or answers with the caller's own. What a tenant's key does
// changes nothing of another tenant.
func TestWalkOfAllRoutes(t *testing.T) {
	dir := dataFolder(t)
	p := serve(t, dir, "TOLLGATE_BASE_DOMAINS=walk.test")
	w := &walk{T: t, url: p.url, byID: map[string]walked{}}
	service := p.serviceKey()
	for _, id := range []string{"a", "b"} {
		of := walked{id: "walk_" + id, slug: "w" + id, canary: "canary-" + strings.Repeat(id, 12), own: "only-" + id}
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+of.id, adminKey, of.definition(), nil))
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+of.id+"/plan", adminKey, map[string]any{"plan": "pro"}, nil))
		of.key = p.tenantKey(of.id, of.canary)
		var opening invoice
		require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/admin/tenants/"+of.id+"/invoices/close", adminKey, map[string]any{}, &opening))
		of.invoice = opening.ID
		w.byID[of.id] = of
		for _, source := range []string{"shared", of.own} {
			for path, body := range map[string]map[string]any{
				"/v1/events":       {"eventType": "ai_interview_completed", "sourceId": source, "occurredAt": "2026-04-05T10:30:00Z", "data": map[string]any{"userId": of.canary, "feature": of.canary, "provider": of.canary, "model": of.canary, "inputTokens": 1}},
				"/v1/limits/check": {"eventType": "evaluation_completed", "sourceId": source, "data": map[string]any{"userId": of.canary}, "hold": map[string]any{"ttl": "24h"}},
			} {
				require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+path, service, of.id, body, nil))
			}
		}
	}
	a, b := w.byID["walk_a"], w.byID["walk_b"]
	revoked := p.tenantKey(b.id, "revoked")
	p.revoke(revoked)

	text := w.send(http.MethodGet, "/openapi.yaml", nil, credential{}, signals{}).text
	_, text, _ = strings.Cut(text, "openapi: ")
	spec, err := openapi3.NewLoader().LoadFromData([]byte("openapi: " + text))
	require.NoError(t, err)
	var routes []string
	for path, item := range spec.Paths.Map() {
		for method := range item.Operations() {
			routes = append(routes, method+" "+path)
		}
	}
	slices.Sort(routes)
	require.Equal(t, routes, slices.Sorted(maps.Keys(visits)), "each route needs a case, and each case a route")

	for _, key := range []tenant.Secret{a.key, b.key} { // keys that were accepted once are not throttled with guesses from the same address
		require.NoError(t, call(t.Context(), http.MethodGet, p.url+"/v1/limits", key, nil, nil))
	}
	p.settled(service, b.id)
	before := w.state(service, b.id)
	for _, route := range routes {
		w.visit(route, visits[route], []credential{
			{name: "nobody", dead: true}, {name: "a guess", key: "tg_admin_0123456789012345678901234567890123456789012", dead: true},
			{name: "a revoked key of b", key: revoked, dead: true},
			{name: "a", key: a.key, of: a.id, kind: tenant.Scoped},
		})
	}
	p.settled(service, b.id)
	require.Equal(t, before, w.state(service, b.id), "only a acted, so b is unchanged")
	for _, route := range routes {
		w.visit(route, visits[route], []credential{
			{name: "b", key: b.key, of: b.id, kind: tenant.Scoped},
			{name: "a service", key: service, kind: tenant.Service},
			{name: "an admin", key: adminKey, kind: tenant.Admin},
			{name: "an admin in a", key: adminKey, kind: tenant.Admin, acts: a.id},
			{name: "an admin in b", key: adminKey, kind: tenant.Admin, acts: b.id},
		})
	}
	t.Logf("%d requests to %d routes", w.called, len(routes))
}

// state is everything that a tenant can read about itself.
func (w *walk) state(service tenant.Secret, id string) (all []string) {
	for _, path := range []string{"/v1/timeline?limit=500", "/v1/holds", "/v1/usage?from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z&granularity=month",
		"/v1/events/ai_interview_completed/shared", "/v1/events/ai_interview_completed/only-b"} {
		got := w.send(http.MethodGet, path, nil, credential{key: service}, signals{headers: []string{id}})
		require.Equal(w, http.StatusOK, got.status, got.text)
		_, body, _ := strings.Cut(got.text, "] ")
		_, answer, found := strings.Cut(body, "{")
		require.True(w, found, got.text)
		all = append(all, answer)
	}
	return all
}

func (p *process) tenantKey(of, name string) tenant.Secret {
	p.t.Helper()
	var made struct{ Key tenant.Secret }
	require.NoError(p.t, call(p.t.Context(), http.MethodPost, p.url+"/v1/admin/keys", adminKey, map[string]any{"kind": "tenant", "tenantId": of, "name": name}, &made))
	return made.Key
}

func (p *process) revoke(key tenant.Secret) {
	p.t.Helper()
	require.NoError(p.t, call(p.t.Context(), http.MethodDelete, p.url+"/v1/admin/keys/"+string(key.KeyID()), adminKey, nil, nil))
}

// settled waits until the reads of a tenant show what was recorded so far.
func (p *process) settled(service tenant.Secret, id string) {
	p.t.Helper()
	var last struct{ Position string }
	require.NoError(p.t, callAs(p.t.Context(), http.MethodPost, p.url+"/v1/events", service, id,
		map[string]any{"eventType": "evaluation_completed", "sourceId": "settled", "occurredAt": "2026-04-05T10:30:00Z"}, &last))
	require.NoError(p.t, callAs(p.t.Context(), http.MethodGet, p.url+"/v1/timeline?waitMs=30000&minPosition="+last.Position, service, id, nil, nil))
}

// A key that is revoked at one server is refused by the others within about a second.
func TestRevocationReachesEveryServer(t *testing.T) {
	onEveryStore(t, testRevocationReachesEveryServer)
}

func testRevocationReachesEveryServer(t *testing.T, dir string) {
	first := serve(t, dir)
	first.putTenant("acme")
	server, err := pgserverURL(t, dir)
	require.NoError(t, err)
	second := serve(t, dir, "TOLLGATE_DATABASE_URL="+server)
	for range 3 {
		key := first.tenantKey("acme", "short-lived")
		usage := second.url + "/v1/limits"
		require.Eventually(t, func() bool { return call(t.Context(), http.MethodGet, usage, key, nil, nil) == nil }, 5*time.Second, 10*time.Millisecond)
		first.revoke(key)
		revoked := time.Now()
		for call(t.Context(), http.MethodGet, usage, key, nil, nil) == nil {
			require.Less(t, time.Since(revoked), 3*time.Second, "a busy machine gets some more than the second")
		}
		t.Logf("refused after %s", time.Since(revoked))
		require.Error(t, call(t.Context(), http.MethodGet, first.url+"/v1/limits", key, nil, nil))
	}
}
