package api_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// brokenDirectory cannot look up keys.
type brokenDirectory struct{ app.Directory }

func (brokenDirectory) Key(context.Context, tenant.Hash) (tenant.Key, error) {
	return tenant.Key{}, fmt.Errorf("read: %w", eventstore.ErrUnavailable)
}

// panickingDirectory has a bug.
type panickingDirectory struct{ app.Directory }

func (panickingDirectory) Key(context.Context, tenant.Hash) (tenant.Key, error) { panic("a bug") }

var open = []string{"/healthz", "/readyz", "/metrics", "/openapi.yaml"}

func operations(t *testing.T) map[string]*openapi3.Operation {
	doc, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	require.NoError(t, err)
	all := map[string]*openapi3.Operation{}
	for path, item := range doc.Paths.Map() {
		for method, o := range item.Operations() {
			all[method+" "+path] = o
		}
	}
	return all
}

func TestSpecificationAndRouterAgree(t *testing.T) {
	h := newFixture(t)
	all := operations(t)
	written := make([]string, 0, len(all))
	for route := range all {
		written = append(written, strings.NewReplacer("{", ":", "}", "").Replace(route))
	}
	served := make([]string, 0, len(all))
	for _, r := range h.server.Routes() {
		served = append(served, r.Method+" "+r.Path)
	}
	slices.Sort(written)
	slices.Sort(served)
	assert.Equal(t, written, served)
}

// No route answers without a key, except those that say so; and admin routes answer no other key.
func TestEveryRouteNeedsAKey(t *testing.T) {
	h := newFixture(t)
	for route, o := range operations(t) {
		method, path, _ := strings.Cut(route, " ")
		isOpen := slices.Contains(open, path)
		assert.Equal(t, isOpen, o.Security != nil && len(*o.Security) == 0, route)
		path = strings.NewReplacer("{eventType}", "tokens_spent", "{sourceId}", "x", "{tenantId}", "acme", "{id}", "x", "{limit}", "x",
			"/insights/{kind}", "/insights/cost", "{host}", "acme.example", "{kind}", "slug", "{name}", "acme", "{dataset}", "usage").Replace(path)
		for _, key := range []string{"", "tg_admin_wrong"} {
			a := h.do(request{method: method, path: path, key: key})
			if isOpen {
				assert.Equal(t, http.StatusOK, a.Code, route)
			} else {
				assert.Equal(t, http.StatusUnauthorized, a.Code, route)
				assert.Equal(t, unauthorised, a.code(), route)
			}
		}
		switch {
		case isOpen:
		case strings.HasPrefix(path, "/v1/admin/"):
			for _, key := range []string{h.acme, h.service} {
				assert.Equal(t, http.StatusForbidden, h.do(request{method: method, path: path, key: key}).Code, route)
			}
		case path == "/v1/resolve": // about any tenant, for those who may act for any
			assert.Equal(t, "forbidden", h.do(request{method: method, path: path, key: h.acme}).code())
			for _, key := range []string{h.service, h.admin} {
				assert.Equal(t, "tenant_required", h.do(request{method: method, path: path, key: key}).code())
			}
		case path == "/v1/exports/usage" || path == "/v1/insights/cost": // an administrator's are over tenants, without a switch
			assert.Equal(t, "tenant_mismatch", h.do(request{method: method, path: path + "?tenantId=other", key: h.acme}).code())
			assert.Equal(t, http.StatusOK, h.do(request{method: method, path: path, key: h.admin}).Code)
		default:
			a := h.do(request{method: method, path: path, key: h.acme, headers: []string{"X-Tenant-Id", "other", "Content-Type", "application/json"}, body: usageEvent("x")})
			assert.Equal(t, "tenant_mismatch", a.code(), route)
			a = h.do(request{method: method, path: path, key: h.admin, headers: []string{"Content-Type", "application/json"}, body: usageEvent("x")})
			assert.Equal(t, http.StatusForbidden, a.Code, route)
		}
	}
}

func TestRevokedKey(t *testing.T) {
	h := newFixture(t)
	made := h.do(request{"POST", "/v1/admin/keys", h.admin, []string{"Content-Type", "application/json"}, `{"kind":"tenant","tenantId":"acme","name":"new"}`})
	require.Equal(t, http.StatusCreated, made.Code, made.Body)
	assert.Equal(t, "no-store", made.Header().Get("Cache-Control"))
	key, id := made.json()["key"].(string), made.json()["id"].(string)
	require.Equal(t, http.StatusOK, h.do(request{method: "GET", path: "/v1/usage", key: key}).Code)
	for range 2 {
		require.Equal(t, http.StatusNoContent, h.do(request{method: "DELETE", path: "/v1/admin/keys/" + id, key: h.admin}).Code)
	}
	require.Equal(t, http.StatusUnauthorized, h.do(request{method: "GET", path: "/v1/usage", key: key}).Code)
}

func TestPanicsAreProblems(t *testing.T) {
	h := newFixture(t, func(c *api.Config) { c.Directory = panickingDirectory{c.Directory} })
	a := h.post(h.acme, "application/json", usageEvent("x"))
	assert.Equal(t, http.StatusInternalServerError, a.Code)
	assert.Equal(t, "internal", a.code())
	assert.NotContains(t, a.Body.String(), "a bug")
}

func TestReadiness(t *testing.T) {
	h := newFixture(t)
	h.reads.checks = []api.Check{{Name: "store", OK: true}, {Name: "usage", OK: false, Detail: "1200 events behind"}}
	a := h.do(request{method: "GET", path: "/readyz"})
	assert.Equal(t, http.StatusServiceUnavailable, a.Code)
	assert.JSONEq(t, `{"status":"unready","checks":[{"name":"store","status":"ok","detail":""},{"name":"usage","status":"failed","detail":"1200 events behind"}]}`, a.Body.String())
	h.reads.checks = h.reads.checks[:1]
	a = h.do(request{method: "GET", path: "/readyz"})
	assert.Equal(t, http.StatusOK, a.Code)
	assert.JSONEq(t, `{"status":"ready","checks":[{"name":"store","status":"ok","detail":""}]}`, a.Body.String())
}

func TestMetricsHaveNoWordsOfTheSender(t *testing.T) {
	h := newFixture(t)
	h.post(h.acme, "application/json", usageEvent("x"))
	h.do(request{method: "GET", path: "/v1/some/thing"})
	h.do(request{method: "FOO", path: "/v1/events"})
	h.do(request{method: "GET", path: "/v1/events/tokens_spent/secret", key: h.acme})
	a := h.do(request{method: "GET", path: "/metrics"})
	for _, line := range []string{
		`tollgate_http_requests_total{method="POST",route="/v1/events",status="201"} 1`,
		`tollgate_http_requests_total{method="GET",route="/v1/events/:eventType/:sourceId",status="404"} 1`,
		`tollgate_http_requests_total{method="other",route="unmatched",status="404"} 1`,
		`tollgate_http_requests_total{method="other",route="unmatched",status="405"} 1`,
		`tollgate_events_total{status="recorded"} 1`,
	} {
		assert.Contains(t, a.Body.String(), line)
	}
	assert.NotContains(t, a.Body.String(), "secret")
	assert.NotContains(t, a.Body.String(), "FOO")
	n, err := testutil.GatherAndCount(h.registry, "tollgate_http_requests_total")
	require.NoError(t, err)
	assert.GreaterOrEqual(t, n, 4)
}

func TestRequestIDs(t *testing.T) {
	h := newFixture(t)
	get := func(headers ...string) string {
		return h.do(request{method: "GET", path: "/healthz", headers: headers}).Header().Get("X-Request-Id")
	}
	assert.Equal(t, "mine-1", get("X-Request-Id", "mine-1"))
	assert.NotEqual(t, get(), get())
	assert.NotEqual(t, "two words", get("X-Request-Id", "two words"))
	assert.Less(t, len(get("X-Request-Id", strings.Repeat("x", 65))), 65)
}
