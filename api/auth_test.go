package api_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// named is a fixture in which acme and other have slugs below product.com, and a proxy of ours is at 10.0.0.1.
func named(t *testing.T, change ...func(*api.Config)) *fixture {
	domains, err := tenant.NewDomains("product.com")
	require.NoError(t, err)
	h := newFixture(t, append(change, func(c *api.Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}
		c.Ledger.WithBaseDomains(domains)
	})...)
	for _, slug := range []string{"acme", "other"} {
		_, err := h.ledger.DefineTenant(context.Background(), tenant.Tenant{ID: event.TenantID(slug), Slug: slug, TimeZone: "Europe/Berlin"}, "cli")
		require.NoError(t, err)
	}
	return h
}

// Each signal is heard where it may speak, and nowhere else; all that speak must agree.
func TestSignals(t *testing.T) {
	h := named(t)
	const proxy, client = "10.0.0.1:4711", "203.0.113.9:4711"
	for _, c := range []struct {
		name, key, peer, host, path string
		headers                     []string
		status                      int
		code                        string
	}{
		{name: "service, nothing", key: h.service, status: 400, code: "tenant_required"},
		{name: "service, header", key: h.service, headers: []string{"X-Tenant-Id", "acme"}, status: 200},
		{name: "service, host", key: h.service, host: "acme.product.com", status: 200},
		{name: "service, host with port", key: h.service, host: "acme.product.com:8443", status: 200},
		{name: "service, host with trailing dot", key: h.service, host: "acme.product.com.", status: 200},
		{name: "service, host in capitals", key: h.service, host: "ACME.Product.COM", status: 200},
		{name: "service, homograph", key: h.service, host: "xn--cme-5cd.product.com", status: 404, code: "unknown_tenant"},
		{name: "service, nobody's subdomain", key: h.service, host: "nobody.product.com", status: 404, code: "unknown_tenant"},
		{name: "service, nobody's subdomain with an underscore", key: h.service, host: "a_b.product.com:80", status: 404, code: "unknown_tenant"},
		{name: "service, deeper subdomain", key: h.service, host: "a.acme.product.com", status: 404, code: "unknown_tenant"},
		{name: "service, base domain", key: h.service, host: "product.com", status: 400, code: "tenant_required"},
		{name: "service, foreign host", key: h.service, host: "evil.example", status: 400, code: "tenant_required"},
		{name: "service, host behind another", key: h.service, host: "acme.product.com.evil.example", status: 400, code: "tenant_required"},
		{name: "service, address", key: h.service, host: "[::1]:8080", status: 400, code: "tenant_required"},
		{name: "service, path", key: h.service, path: "/t/acme", status: 200},
		{name: "service, nobody's path", key: h.service, path: "/t/nobody", status: 404, code: "unknown_tenant"},
		{name: "service, path with an escaped slash", key: h.service, path: "/t/acme%2f..", status: 404, code: "unknown_tenant"},
		{name: "service, host and path agree", key: h.service, host: "acme.product.com", path: "/t/acme", status: 200},
		{name: "service, host and path disagree", key: h.service, host: "acme.product.com", path: "/t/other", status: 400, code: "tenant_conflict"},
		{name: "service, host and header disagree", key: h.service, host: "acme.product.com", headers: []string{"X-Tenant-Id", "other"}, status: 400, code: "tenant_conflict"},
		{name: "service, two headers agree", key: h.service, headers: []string{"X-Tenant-Id", "acme", "X-Tenant-Id", "acme"}, status: 200},
		{name: "service, two headers disagree", key: h.service, headers: []string{"X-Tenant-Id", "acme", "X-Tenant-Id", "other"}, status: 400, code: "tenant_conflict"},
		{name: "service, a list in a header", key: h.service, headers: []string{"X-Tenant-Id", "acme, other"}, status: 404, code: "unknown_tenant"},
		{name: "tenant, own host", key: h.acme, host: "acme.product.com", status: 200},
		{name: "tenant, another's host", key: h.acme, host: "other.product.com", status: 403, code: "tenant_mismatch"},
		{name: "tenant, another's path", key: h.acme, path: "/t/other", status: 403, code: "tenant_mismatch"},
		{name: "tenant, another's header", key: h.acme, headers: []string{"X-Tenant-Id", "other"}, status: 403, code: "tenant_mismatch"},
		{name: "proxy says the host", key: h.service, peer: proxy, headers: []string{"X-Forwarded-Host", "acme.product.com"}, status: 200},
		{name: "proxy says another host", key: h.acme, peer: proxy, headers: []string{"X-Forwarded-Host", "other.product.com"}, status: 403, code: "tenant_mismatch"},
		{name: "proxy says the host in place of its own", key: h.service, peer: proxy, host: "other.product.com", headers: []string{"X-Forwarded-Host", "acme.product.com"}, status: 200},
		{name: "proxy says two hosts", key: h.service, peer: proxy, headers: []string{"X-Forwarded-Host", "acme.product.com", "X-Forwarded-Host", "acme.product.com"}, status: 400, code: "tenant_conflict"},
		{name: "proxy says a list of hosts", key: h.service, peer: proxy, headers: []string{"X-Forwarded-Host", "acme.product.com, other.product.com"}, status: 400, code: "tenant_conflict"},
		{name: "a client says a host", key: h.service, peer: client, headers: []string{"X-Forwarded-Host", "acme.product.com"}, status: 400, code: "tenant_required"},
		{name: "a client says another host", key: h.acme, peer: client, headers: []string{"X-Forwarded-Host", "other.product.com"}, status: 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, c.path+"/v1/limits", nil)
			r.Header.Set("Authorization", "Bearer "+c.key)
			for i := 0; i < len(c.headers); i += 2 {
				r.Header.Add(c.headers[i], c.headers[i+1])
			}
			if r.Host = "127.0.0.1:8080"; c.host != "" {
				r.Host = c.host
			}
			if c.peer != "" {
				r.RemoteAddr = c.peer
			}
			w := httptest.NewRecorder()
			h.server.ServeHTTP(w, r)
			assert.Equal(t, c.status, w.Code, w.Body)
			if c.code != "" {
				assert.Contains(t, w.Body.String(), `"code":"`+c.code+`"`)
			}
		})
	}
}

// countingDirectory counts how often a key is looked up.
type countingDirectory struct {
	app.Directory
	keys int
}

func (d *countingDirectory) Key(ctx context.Context, hash tenant.Hash) (tenant.Key, error) {
	d.keys++
	return d.Directory.Key(ctx, hash)
}

// Who sends many keys that do not exist is not looked at for a while; keys that opened before go on to, other addresses too,
// and time heals it.
func TestGuessing(t *testing.T) {
	now := time.Now()
	var directory *countingDirectory
	h := named(t, func(c *api.Config) {
		directory = &countingDirectory{Directory: c.Directory}
		c.Directory = directory
		c.Now = func() time.Time { return now }
	})
	try := func(from, forwarded, key string) int {
		r := httptest.NewRequest(http.MethodGet, "/v1/limits", nil)
		r.RemoteAddr = from
		if forwarded != "" {
			r.Header.Set("X-Forwarded-For", forwarded)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		w := httptest.NewRecorder()
		h.server.ServeHTTP(w, r)
		if w.Code == http.StatusTooManyRequests {
			assert.NotEmpty(t, w.Header().Get("Retry-After"))
		}
		return w.Code
	}
	const guesser, neighbour, stranger = "203.0.113.9:1", "203.0.113.9:2", "203.0.113.10:1"
	require.Equal(t, http.StatusOK, try(neighbour, "", h.acme))
	refused := 0
	for i := range 400 {
		if try(guesser, "", fmt.Sprintf("tg_admin_%043d", i)) == http.StatusTooManyRequests {
			refused++
		}
	}
	assert.Equal(t, 199, refused, "one more is looked up than the address may get wrong")
	assert.Equal(t, 202, directory.keys, "what is refused is not looked up")
	assert.Equal(t, http.StatusOK, try(neighbour, "", h.acme))
	assert.Equal(t, http.StatusTooManyRequests, try(neighbour, "", h.service), "it never opened, so nobody knows")
	assert.Equal(t, http.StatusBadRequest, try(stranger, "", h.service), "another address")
	assert.Equal(t, http.StatusTooManyRequests, try(guesser, "198.51.100.1", "tg_admin_x"), "not a proxy of ours")
	assert.Equal(t, http.StatusUnauthorized, try("10.0.0.1:1", "198.51.100.1", "tg_admin_x"))

	for i := range 400 { // IPv6: one address comes with 2^64 of them
		try(fmt.Sprintf("[2001:db8::%x]:1", i+1), "", fmt.Sprintf("tg_admin_6%042d", i))
	}
	assert.Equal(t, http.StatusTooManyRequests, try("[2001:db8::ffff]:1", "", "tg_admin_x"))
	assert.Equal(t, http.StatusUnauthorized, try("[2001:db8:0:1::1]:1", "", "tg_admin_x"))
	now = now.Add(time.Second / 20)
	assert.Equal(t, http.StatusBadRequest, try(neighbour, "", h.service), "a key that is new here gets through sooner or later")
	assert.Equal(t, http.StatusBadRequest, try(neighbour, "", h.service), "and then always")
	now = now.Add(time.Minute)
	assert.Equal(t, http.StatusUnauthorized, try(guesser, "", "tg_admin_x"))
}

// recorder notes which keys are used.
type recorder struct{ ids []string }

func (r *recorder) Used(id event.KeyID, _ time.Time) { r.ids = append(r.ids, string(id)) }

func TestUsesOfKeysAreNoted(t *testing.T) {
	noted := &recorder{}
	h := newFixture(t, func(c *api.Config) { c.Uses = noted })
	h.do(request{method: "GET", path: "/v1/limits", key: h.acme})
	h.do(request{method: "GET", path: "/v1/limits", key: "tg_admin_wrong"})
	assert.Equal(t, []string{string(tenant.Secret(h.acme).KeyID())}, noted.ids)
}
