package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// zone is a DNS that has what a test puts there.
type zone struct {
	txt   map[string][]string
	err   error
	asked []string
	until time.Time // the deadline of the last question
}

func (z *zone) LookupTXT(ctx context.Context, name string) ([]string, error) {
	z.asked = append(z.asked, name)
	z.until, _ = ctx.Deadline()
	if z.txt[name] == nil && z.err == nil {
		return nil, errors.New("no such host")
	}
	return z.txt[name], z.err
}

// tenancyFixture is a fixture below product.com. The tenant acme has a slug, a host below and a custom domain; other has a slug.
type tenancyFixture struct {
	*fixture
	dns *zone
	now time.Time
}

func newTenancyFixture(t *testing.T, change ...func(*api.Config)) *tenancyFixture {
	b := &tenancyFixture{dns: &zone{txt: map[string][]string{}}, now: clock}
	domains, err := tenant.NewDomains("product.com")
	require.NoError(t, err)
	b.fixture = newFixture(t, append(change, func(c *api.Config) {
		c.Ledger.WithBaseDomains(domains)
		c.DNS, c.Now = b.dns, func() time.Time { return b.now }
	})...)
	b.define("acme", `{"timeZone":"Europe/Berlin","slug":"acme","hosts":["acme.product.com","interviews.acme.com"]}`)
	b.define("other", `{"timeZone":"Europe/Berlin","slug":"other"}`)
	return b
}

func (b *tenancyFixture) admin(method, path, body string) answer {
	b.t.Helper()
	return b.do(request{method, "/v1/admin" + path, b.fixture.admin, []string{"Content-Type", "application/json"}, body})
}

// define puts a tenant, and returns the position.
func (b *tenancyFixture) define(id, body string) string {
	b.t.Helper()
	a := b.admin("PUT", "/tenants/"+id, body)
	require.Equal(b.t, http.StatusOK, a.Code, a.Body)
	return a.Header().Get("Tollgate-Position")
}

func (b *tenancyFixture) status(id, status string) {
	b.t.Helper()
	a := b.admin("PUT", "/tenants/"+id+"/status", `{"status":"`+status+`","reason":"ticket 7"}`)
	require.Equal(b.t, http.StatusOK, a.Code, a.Body)
}

// resolve asks with a query of names and values.
func (b *tenancyFixture) resolve(query ...string) answer {
	b.t.Helper()
	v := url.Values{}
	for i := 0; i < len(query); i += 2 {
		v.Add(query[i], query[i+1])
	}
	return b.do(request{method: "GET", path: "/v1/resolve?" + v.Encode(), key: b.service})
}

// verify proves acme's custom domain.
func (b *tenancyFixture) verify() {
	b.t.Helper()
	record := b.hosts("acme")[1]["record"].(map[string]any)
	b.dns.txt[record["name"].(string)] = []string{record["value"].(string)}
	a := b.admin("POST", "/tenants/acme/hosts/interviews.acme.com/verify", "")
	require.Equal(b.t, http.StatusOK, a.Code, a.Body)
	require.Equal(b.t, "verified", a.json()["state"], a.Body)
}

func (b *tenancyFixture) hosts(id string) (all []map[string]any) {
	b.t.Helper()
	a := b.admin("GET", "/tenants/"+id+"/hosts", "")
	require.Equal(b.t, http.StatusOK, a.Code, a.Body)
	for _, item := range a.json()["items"].([]any) {
		all = append(all, item.(map[string]any))
	}
	return all
}

func TestResolve(t *testing.T) {
	b := newTenancyFixture(t)
	a := b.resolve("slug", "acme")
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	tag, err := json.Marshal(a.json()["flagsETag"])
	require.NoError(t, err)
	assert.Equal(t, `{"tenantId":"acme","plan":null,"status":"active","flagsETag":`+string(tag)+`}`, a.Body.String())
	assert.Equal(t, "private, max-age=1", a.Header().Get("Cache-Control"))
	assert.Empty(t, a.Header().Get("Tollgate-Position"))

	long := strings.Repeat("a", 300)
	for _, c := range []struct {
		name  string
		query []string
		want  string // a tenant, or a code
	}{
		{"host", []string{"host", "acme.product.com"}, "acme"},
		{"host with a port", []string{"host", "acme.product.com:8443"}, "acme"},
		{"host with a trailing dot", []string{"host", "acme.product.com."}, "acme"},
		{"host with all of it", []string{"host", "ACME.Product.COM.:443"}, "acme"},
		{"host in wide letters", []string{"host", "ａｃｍｅ.product.com"}, "acme"},
		{"slug of another", []string{"slug", "other"}, "other"},
		{"path with the prefix", []string{"path", "/t/acme/interviews"}, "acme"},
		{"path with the prefix alone", []string{"path", "/t/acme"}, "acme"},
		{"path", []string{"path", "/acme/interviews/"}, "acme"},
		{"path without a slash", []string{"path", "acme"}, "acme"},
		{"path with an encoded slash behind", []string{"path", "/acme/interviews/a%2Fb..%25"}, "acme"},
		{"all agree", []string{"host", "acme.product.com", "path", "/t/acme", "slug", "acme"}, "acme"},
		{"host that all share", []string{"host", "product.com", "path", "/acme"}, "acme"},
		{"host of the server", []string{"host", "127.0.0.1:8080", "slug", "acme"}, "acme"},
		{"root path", []string{"host", "acme.product.com", "path", "/"}, "acme"},
		{"empty ones", []string{"host", "", "path", "", "slug", "acme"}, "acme"},

		{"nothing", nil, "tenant_required"},
		{"only empty ones", []string{"host", "", "path", "", "slug", ""}, "tenant_required"},
		{"host and slug", []string{"host", "acme.product.com", "slug", "other"}, "tenant_conflict"},
		{"host and path", []string{"host", "acme.product.com", "path", "/other"}, "tenant_conflict"},
		{"path and slug", []string{"path", "/t/acme/x", "slug", "other"}, "tenant_conflict"},
		{"slug twice", []string{"slug", "acme", "slug", "other"}, "invalid_request"},
		{"host twice", []string{"host", "acme.product.com", "host", "other.product.com"}, "invalid_request"},

		{"nobody's slug", []string{"slug", "nobody"}, "unknown_tenant"},
		{"slug in upper case", []string{"slug", "ACME"}, "unknown_tenant"},
		{"slug with a blank", []string{"slug", "acme "}, "unknown_tenant"},
		{"slug with a NUL", []string{"slug", "acme\x00"}, "unknown_tenant"},
		{"slug that is no UTF-8", []string{"slug", "acme\xff"}, "unknown_tenant"},
		{"slug that is a path", []string{"slug", "../acme"}, "unknown_tenant"},
		{"long slug", []string{"slug", long}, "unknown_tenant"},
		{"the id is no slug", []string{"slug", "tenant_9"}, "unknown_tenant"},
		{"nobody's host below", []string{"host", "nobody.product.com"}, "unknown_tenant"},
		{"nobody's host below and a slug", []string{"host", "nobody.product.com", "slug", "acme"}, "unknown_tenant"},
		{"host below a tenant's", []string{"host", "x.acme.product.com", "slug", "acme"}, "unknown_tenant"},
		{"homograph", []string{"host", "аcme.product.com"}, "unknown_tenant"}, // a Cyrillic a
		{"homograph of the base", []string{"host", "acme.рroduct.com"}, "unknown_tenant"},
		{"host that ends in another", []string{"host", "acme.product.com.evil.example"}, "unknown_tenant"},
		{"host that begins with another", []string{"host", "evilproduct.com"}, "unknown_tenant"},
		{"host with a user", []string{"host", "acme.product.com@evil.example"}, "unknown_tenant"},
		{"host with a path", []string{"host", "acme.product.com/x"}, "unknown_tenant"},
		{"host with a scheme", []string{"host", "https://acme.product.com"}, "unknown_tenant"},
		{"two hosts in one", []string{"host", "acme.product.com, other.product.com"}, "unknown_tenant"},
		{"host with a NUL", []string{"host", "acme.product.com\x00.evil.example"}, "unknown_tenant"},
		{"long host", []string{"host", long + ".product.com"}, "unknown_tenant"},
		{"address", []string{"host", "[::1]:443"}, "unknown_tenant"},
		{"unverified domain", []string{"host", "interviews.acme.com"}, "unknown_tenant"},
		{"root path alone", []string{"path", "/"}, "unknown_tenant"},
		{"prefix alone", []string{"path", "/t/"}, "unknown_tenant"},
		{"path of nobody, whatever the host", []string{"host", "acme.product.com", "path", "/dashboard"}, "unknown_tenant"},
		{"two slashes", []string{"path", "//acme"}, "unknown_tenant"},
		{"two slashes behind the prefix", []string{"path", "/t//acme"}, "unknown_tenant"},
		{"encoded slashes", []string{"path", "/t%2Facme"}, "unknown_tenant"},
		{"encoded slug", []string{"path", "/t/%61cme"}, "unknown_tenant"},
		{"path climbs", []string{"path", "/t/acme/../other"}, "unknown_tenant"},
		{"path climbs first", []string{"path", "/../acme"}, "unknown_tenant"},
		{"path climbs encoded", []string{"path", "/t/acme/%2e%2E/other"}, "unknown_tenant"},
		{"path climbs with encoded slashes", []string{"path", "/t/acme/..%2fother%"}, "unknown_tenant"},
		{"path climbs with backslashes", []string{"path", `/t/acme/x\..\..\beta`}, "unknown_tenant"},
		{"path climbs with a parameter", []string{"path", "/t/acme/..;x=1/other"}, "unknown_tenant"},
		{"path stays", []string{"path", "/t/acme/./x"}, "unknown_tenant"},
		{"long path", []string{"path", "/" + long}, "unknown_tenant"},
	} {
		a := b.resolve(c.query...)
		switch c.want {
		case "acme", "other":
			require.Equal(t, http.StatusOK, a.Code, "%s: %s", c.name, a.Body)
			assert.Equal(t, c.want, a.json()["tenantId"], c.name)
		default:
			require.Equal(t, c.want, a.code(), "%s: %s", c.name, a.Body)
			cached := ""
			if c.want == "unknown_tenant" {
				assert.Equal(t, http.StatusNotFound, a.Code)
				cached = "private, max-age=1"
			}
			assert.Equal(t, cached, a.Header().Get("Cache-Control"), c.name)
		}
	}

	assert.Equal(t, "forbidden", b.do(request{method: "GET", path: "/v1/resolve?slug=acme", key: b.acme}).code())
	for _, headers := range [][]string{nil, {"X-Tenant-Id", "other"}} { // it is about the query
		a := b.do(request{method: "GET", path: "/v1/resolve?slug=acme", key: b.fixture.admin, headers: headers})
		assert.Equal(t, "acme", a.json()["tenantId"])
	}
}

func TestResolveFollows(t *testing.T) {
	b := newTenancyFixture(t)
	b.verify()
	assert.Equal(t, "acme", b.resolve("host", "Interviews.Acme.com:443").json()["tenantId"])
	assert.Equal(t, "tenant_conflict", b.resolve("host", "interviews.acme.com", "slug", "other").code())

	tag := func(slug string) string {
		a := b.resolve("slug", slug)
		require.Equal(t, http.StatusOK, a.Code, a.Body)
		return a.json()["flagsETag"].(string)
	}
	tags := map[string]string{}
	see := func(what, slug string, isNew bool) {
		before, seen := tags[tag(slug)]
		assert.Equal(t, isNew, !seen, "%s: as %s", what, before)
		assert.Regexp(t, `^"[A-Za-z0-9_-]{16}"$`, tag(slug))
		tags[tag(slug)] = what
	}
	see("no plan", "acme", true)
	see("the same", "acme", false)
	see("another tenant", "other", true)
	a := b.do(request{"PUT", "/v1/admin/catalog", b.fixture.admin, []string{"Content-Type", "application/yaml"}, plans})
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	see("another catalog", "acme", true)
	require.Equal(t, http.StatusOK, b.admin("PUT", "/tenants/acme/plan", `{"plan":"pro"}`).Code)
	require.Equal(t, http.StatusOK, b.admin("PUT", "/tenants/acme/plan", `{"plan":"scale","effectiveAt":"2026-04-05T12:00:00Z"}`).Code)
	assert.Equal(t, "pro", b.resolve("slug", "acme").json()["plan"])
	see("a plan", "acme", true)
	b.now = clock.Add(2 * time.Hour)
	assert.Equal(t, "scale", b.resolve("slug", "acme").json()["plan"])
	see("the next plan", "acme", true)

	for _, status := range []string{"suspended", "closed"} {
		b.status("acme", status)
		assert.Equal(t, status, b.resolve("slug", "acme").json()["status"])
		see(status, "acme", false)
	}

	// What acme gives up leads nowhere; read where the change is known to show.
	at := b.define("acme", `{"slug":"acme"}`)
	a = b.resolve("host", "interviews.acme.com", "minPosition", at)
	assert.Equal(t, "unknown_tenant", a.code())
	a = b.resolve("host", "acme.product.com", "minPosition", at)
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	assert.Equal(t, at, a.Header().Get("Tollgate-Position"))
	assert.Equal(t, "invalid_request", b.resolve("slug", "acme", "minPosition", "yesterday").code())
	assert.Equal(t, http.StatusGatewayTimeout, b.resolve("slug", "acme", "minPosition", "0-9000000", "waitMs", "1").Code)
}

// forgetfulDirectory cannot look up names any more once it is told so.
type forgetfulDirectory struct {
	app.Directory
	forgot *bool
}

func (d forgetfulDirectory) Holding(ctx context.Context, n tenant.Name) (tenant.Holding, error) {
	if *d.forgot {
		return tenant.Holding{}, fmt.Errorf("read: %w", eventstore.ErrUnavailable)
	}
	return d.Directory.Holding(ctx, n)
}

func TestResolveWithoutAStore(t *testing.T) {
	forgot := false
	b := newTenancyFixture(t, func(c *api.Config) { c.Directory = forgetfulDirectory{c.Directory, &forgot} })
	forgot = true
	for _, query := range []string{"host=acme.product.com", "path=/acme", "slug=acme"} {
		a := b.do(request{method: "GET", path: "http://localhost/v1/resolve?" + query, key: b.service})
		assert.Equal(t, "store_unavailable", a.code())
		assert.Empty(t, a.Header().Get("Cache-Control"), "nobody keeps that")
		assert.NotEmpty(t, a.Header().Get("Retry-After"))
	}
}

func TestStatus(t *testing.T) {
	b := newTenancyFixture(t)
	before := b.log()
	const want = `{"tenantId":"acme","name":"acme","timeZone":"Europe/Berlin","currency":"USD","hosts":["acme.product.com","interviews.acme.com"],"slug":"acme",`
	first := b.admin("PUT", "/tenants/acme/status", `{"status":"suspended","reason":"invoice 42 is overdue"}`)
	require.Equal(t, http.StatusOK, first.Code, first.Body)
	assert.Equal(t, want+`"status":"suspended","statusReason":"invoice 42 is overdue"}`, first.Body.String())
	at := first.Header().Get("Tollgate-Position")
	require.NotEmpty(t, at)
	got := b.admin("GET", "/tenants/acme?minPosition="+at, "")
	assert.Equal(t, first.Body.String(), got.Body.String())

	again := b.admin("PUT", "/tenants/acme/status", `{"reason":"again","status":"suspended"}`)
	assert.Equal(t, first.Body.String(), again.Body.String(), "it is in force already")
	assert.Equal(t, at, again.Header().Get("Tollgate-Position"))
	assert.Equal(t, before+1, b.log())

	// A definition is no status.
	b.define("acme", `{"timeZone":"Europe/Berlin","slug":"acme","name":"Acme"}`)
	assert.Equal(t, "suspended", b.admin("GET", "/tenants/acme", "").json()["status"])
	assert.Contains(t, b.admin("PUT", "/tenants/acme", `{"status":"active"}`).Body.String(), `"pointer":"/status"`)

	back := b.admin("PUT", "/tenants/acme/status", `{"status":"active","reason":"paid"}`)
	assert.Equal(t, "active", back.json()["status"])
	assert.Equal(t, "paid", back.json()["statusReason"])

	before = b.log()
	for body, pointer := range map[string]string{
		`{}`:                                "/status",
		`{"status":null,"reason":"r"}`:      "/status",
		`{"status":1,"reason":"r"}`:         "/status",
		`{"status":"","reason":"r"}`:        "/status",
		`{"status":"Closed","reason":"r"}`:  "/status",
		`{"status":"deleted","reason":"r"}`: "/status",
		`{"status":"` + strings.Repeat("a", 300) + `","reason":"r"}`: "/status",
		`{"status":"closed"}`:                                                   "/reason",
		`{"status":"closed","reason":""}`:                                       "/reason",
		`{"status":"closed","reason":null}`:                                     "/reason",
		`{"status":"closed","reason":"a\u0000"}`:                                "/reason",
		`{"status":"closed","reason":"` + strings.Repeat("a", 501) + `"}`:       "/reason",
		`{"status":"closed","reason":"r","until":"2026-05-01T00:00:00Z"}`:       "/until",
		`{"status":"closed","reason":"r","tenantId":"other"}`:                   "/tenantId",
		`{"status":"active","status":"closed","reason":"r"}`:                    "/status",
		`{"status":"active","Status":"closed","reason":"r"}`:                    "/Status",
		`{"status":"active","st\u0061tus":"closed","reason":"r"}`:               "/status",
		`{"status":"closed","reason":"r","` + strings.Repeat("a", 300) + `":1}`: "/aaa",
	} {
		a := b.admin("PUT", "/tenants/acme/status", body)
		require.Equal(t, http.StatusBadRequest, a.Code, "%s: %s", body, a.Body)
		assert.Contains(t, a.Body.String(), `"pointer":"`+pointer, body)
	}
	for _, id := range []string{"nobody", "ACME", "acme%20", "acme%00", "..%2Facme", "other%2F..%2Facme", "%252e", strings.Repeat("a", 300)} {
		a := b.admin("PUT", "/tenants/"+id+"/status", `{"status":"closed","reason":"r"}`)
		assert.Equal(t, "unknown_tenant", a.code(), id)
	}
	assert.Equal(t, "not_found", b.admin("PUT", "/tenants/other/../acme/status", `{"status":"closed","reason":"r"}`).code(), "paths are not cleaned")
	assert.Equal(t, before, b.log())
}

// What a tenant may still do: facts are facts, whatever its status.
func TestStatusDenies(t *testing.T) {
	b := newTenancyFixture(t)
	a := b.do(request{"PUT", "/v1/admin/catalog", b.fixture.admin, []string{"Content-Type", "application/yaml"}, plans})
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	require.Equal(t, http.StatusOK, b.admin("PUT", "/tenants/acme/plan", `{"plan":"pro"}`).Code)
	held := func(source string) string {
		return `{"eventType":"tokens_spent","sourceId":"` + source + `","quantity":5,"data":{"modelTier":"standard"}}`
	}
	for _, source := range []string{"s1", "s2", "s3", "s4"} {
		a := b.check(b.acme, held(source))
		require.Equal(t, true, a.json()["allowed"], a.Body)
	}
	reads := []string{"/v1/usage", "/v1/timeline", "/v1/limits", "/v1/holds", "/v1/events/tokens_spent/s1"}
	for i, status := range []string{"suspended", "closed"} {
		b.status("acme", status)
		source := func(n int) string { return fmt.Sprintf("s%d", 2*i+n) }

		// Every check is denied: a new one, one that would renew its hold, and those of an array, whoever asks.
		for _, body := range []string{held("new"), held(source(1)), `{"eventType":"ai_interview_completed","sourceId":"i"}`} {
			for key, headers := range map[string][]string{b.acme: nil, b.service: {"X-Tenant-Id", "acme"}} {
				a := b.check(key, body, headers...)
				require.Equal(t, http.StatusOK, a.Code, a.Body)
				answered := a.json()
				assert.Equal(t, false, answered["allowed"])
				assert.Equal(t, "plan_limit", answered["reason"])
				assert.Equal(t, "tenant_status", answered["limit"])
				assert.Equal(t, "This workspace is "+status+".", answered["message"])
				assert.Nil(t, answered["resetAt"])
				assert.Nil(t, answered["holdExpiresAt"])
				assert.Empty(t, a.Header().Get("Retry-After"), "time does not help")
			}
		}
		a := b.check(b.acme, "["+held("x")+","+held("y")+"]")
		require.Equal(t, 2, strings.Count(a.Body.String(), `"allowed":false,"remaining"`), a.Body)

		// Facts are recorded, de-duplicated and corrected; holds are settled by them, and released.
		assert.Equal(t, http.StatusCreated, b.post(b.acme, "application/json", usageEvent(source(1))).Code)
		assert.Equal(t, http.StatusOK, b.post(b.acme, "application/json", usageEvent(source(1))).Code)
		a = b.post(b.service, "application/json", "["+usageEvent("b"+status, `,"tenantId":"acme"`)+","+usageEvent("o"+status, `,"tenantId":"other"`)+"]")
		assert.Equal(t, "2", fmt.Sprint(a.json()["recorded"]), a.Body)
		a = b.do(request{"POST", "/v1/events/tokens_spent/" + source(1) + "/void", b.acme, []string{"Content-Type", "application/json"}, `{"reason":"an outage"}`})
		assert.Equal(t, http.StatusCreated, a.Code, a.Body)
		a = b.do(request{method: "DELETE", path: "/v1/holds/tokens_spent/" + source(2), key: b.acme})
		assert.Equal(t, true, a.json()["released"], a.Body)

		// Its own keys read while it is not closed; the product and its administrators read always.
		for _, path := range reads {
			a := b.do(request{method: "GET", path: path, key: b.acme})
			if status == "closed" {
				assert.Equal(t, http.StatusForbidden, a.Code, path)
				assert.Equal(t, "forbidden", a.code(), path)
			} else {
				assert.Equal(t, http.StatusOK, a.Code, "%s: %s", path, a.Body)
			}
			a = b.do(request{method: "GET", path: path, key: b.service, headers: []string{"X-Tenant-Id", "acme"}})
			assert.Equal(t, http.StatusOK, a.Code, "%s: %s", path, a.Body)
			a = b.do(request{method: "GET", path: path, key: b.fixture.admin, headers: []string{"X-Tenant-Switch", "acme", "X-Switch-Reason", "audit"}})
			assert.Equal(t, http.StatusOK, a.Code, "%s: %s", path, a.Body)
		}
		a = b.check(b.service, held("n"+status), "X-Tenant-Id", "other")
		assert.Equal(t, true, a.json()["allowed"], "another tenant is another tenant")
	}
	b.status("acme", "active")
	assert.Equal(t, true, b.check(b.acme, held("new")).json()["allowed"])
	assert.Equal(t, http.StatusOK, b.do(request{method: "GET", path: "/v1/usage", key: b.acme}).Code)
}

func TestHosts(t *testing.T) {
	b := newTenancyFixture(t)
	a := b.admin("GET", "/tenants/acme/hosts", "")
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	require.NotEmpty(t, a.Header().Get("Tollgate-Position"))
	const (
		own    = `{"host":"acme.product.com","state":"own","record":null,"detail":null}`
		record = `{"type":"TXT","name":"_tollgate.interviews.acme.com","value":"tollgate-verification=e54pjvbharinrarb45y7oeaw7u"}`
		open   = `{"host":"interviews.acme.com","state":"unverified","record":` + record + `,"detail":`
		proved = `{"host":"interviews.acme.com","state":"verified","record":null,"detail":null}`
	)
	assert.Equal(t, `{"items":[`+own+`,`+open+`null}],"nextCursor":null}`, a.Body.String())
	assert.Equal(t, `{"items":[],"nextCursor":null}`, b.admin("GET", "/tenants/other/hosts?minPosition="+a.Header().Get("Tollgate-Position"), "").Body.String())
	assert.Equal(t, http.StatusGatewayTimeout, b.admin("GET", "/tenants/other/hosts?minPosition=0-9000000&waitMs=1", "").Code)

	verify := func(host string) answer { return b.admin("POST", "/tenants/acme/hosts/"+host+"/verify", "") }
	before := b.log()
	const absent = `"The DNS has no TXT record _tollgate.interviews.acme.com yet, or did not answer. Records can take hours to be seen everywhere."}`
	missing := verify("interviews.acme.com")
	require.Equal(t, http.StatusOK, missing.Code, missing.Body)
	assert.Equal(t, open+absent, missing.Body.String())
	assert.Equal(t, []string{"_tollgate.interviews.acme.com"}, b.dns.asked)
	assert.LessOrEqual(t, time.Until(b.dns.until), 5*time.Second)
	assert.Greater(t, time.Until(b.dns.until), 4*time.Second)
	require.NotEmpty(t, missing.Header().Get("Tollgate-Position"))

	for _, wrong := range [][]string{
		{"v=spf1 -all"},
		{"tollgate-verification=e54pjvbharinrarb45y7oeaw7u2"},
		{" tollgate-verification=e54pjvbharinrarb45y7oeaw7u"},
		{"TOLLGATE-VERIFICATION=E54PJVBHARINRARB45Y7OEAW7U"},
		{"a", "b", "c", strings.Repeat("d", 60_000)},
		{strings.Repeat("\"<script>\n", 6_000)},
	} {
		b.dns.txt["_tollgate.interviews.acme.com"] = wrong
		a := verify("interviews.acme.com")
		require.Equal(t, "unverified", a.json()["state"], wrong)
		assert.Contains(t, a.json()["detail"], `and should say "tollgate-verification=e54pjvbharinrarb45y7oeaw7u"`)
		assert.Less(t, a.Body.Len(), 2000)
	}
	b.dns.err = errors.New("lookup _tollgate.interviews.acme.com on 10.0.0.53:53: i/o timeout")
	assert.Equal(t, open+absent, verify("interviews.acme.com").Body.String(), "the words of the DNS stay inside")
	b.dns.err = nil
	assert.Equal(t, before, b.log(), "a verification that fails writes nothing")

	b.dns.txt["_tollgate.interviews.acme.com"] = []string{"v=spf1 -all", "tollgate-verification=e54pjvbharinrarb45y7oeaw7u"}
	done := verify("INTERVIEWS.Acme.com.%3A443")
	require.Equal(t, http.StatusOK, done.Code, done.Body)
	assert.Equal(t, proved, done.Body.String())
	asked := len(b.dns.asked)
	assert.Equal(t, proved, verify("interviews.acme.com").Body.String())
	assert.Equal(t, own, verify("acme.product.com:443").Body.String())
	assert.Len(t, b.dns.asked, asked, "there is nothing to verify")
	assert.Equal(t, before+1, b.log())
	assert.Equal(t, `{"items":[`+own+`,`+proved+`],"nextCursor":null}`, b.admin("GET", "/tenants/acme/hosts", "").Body.String())

	// Who takes the domain again has to prove it again: the record that was left behind proves nothing.
	b.define("acme", `{"slug":"acme"}`)
	b.define("acme", `{"slug":"acme","hosts":["interviews.acme.com"]}`)
	again := verify("interviews.acme.com").json()
	assert.Equal(t, "unverified", again["state"])
	assert.NotEqual(t, "tollgate-verification=e54pjvbharinrarb45y7oeaw7u", again["record"].(map[string]any)["value"])

	asked, before = len(b.dns.asked), b.log()
	for _, c := range []struct{ id, host, code string }{
		{"acme", "acme.com", "not_found"},
		{"acme", "other.product.com", "not_found"},
		{"other", "interviews.acme.com", "not_found"}, // another tenant's
		{"nobody", "interviews.acme.com", "unknown_tenant"},
		{"acme%00", "interviews.acme.com", "unknown_tenant"},
		{"other%2F..%2Facme", "interviews.acme.com", "unknown_tenant"},
		{strings.Repeat("a", 300), "interviews.acme.com", "unknown_tenant"},
		{"acme", "interviews.acme.соm", "not_found"}, // Cyrillic
		{"acme", "localhost", "invalid_request"},
		{"acme", "127.0.0.1", "invalid_request"},
		{"acme", "_tollgate.interviews.acme.com", "invalid_request"},
		{"acme", "..%2F..%2Fother", "invalid_request"},
		{"acme", "interviews.acme.com%2F..", "invalid_request"},
		{"acme", "interviews.acme.com%00", "invalid_request"},
		{"acme", "%20", "invalid_request"},
		{"acme", strings.Repeat("a", 300) + ".com", "invalid_request"},
		{"acme", strings.Repeat("a.", 3000) + "com", "invalid_request"},
	} {
		a := b.admin("POST", "/tenants/"+c.id+"/hosts/"+c.host+"/verify", "")
		assert.Equal(t, c.code, a.code(), "%s %s: %s", c.id, c.host, a.Body)
		if c.code == "invalid_request" {
			assert.Contains(t, a.Body.String(), `"pointer":"/host"`, c.host)
		}
		assert.Less(t, a.Body.Len(), 2000)
	}
	for _, id := range []string{"nobody", "acme%00", "..%2Facme", strings.Repeat("a", 300)} {
		assert.Equal(t, "unknown_tenant", b.admin("GET", "/tenants/"+id+"/hosts", "").code(), id)
	}
	assert.Len(t, b.dns.asked, asked)
	assert.Equal(t, before, b.log())
}

func TestHostsWithoutDNS(t *testing.T) {
	b := newTenancyFixture(t)
	h := newFixture(t)
	a := h.do(request{"PUT", "/v1/admin/tenants/acme", h.admin, []string{"Content-Type", "application/json"}, `{"hosts":["interviews.acme.com"]}`})
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	a = h.do(request{method: "POST", path: "/v1/admin/tenants/acme/hosts/interviews.acme.com/verify", key: h.admin})
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	assert.Equal(t, "unverified", a.json()["state"])
	assert.Empty(t, b.dns.asked)
}

// A name has one tenant, however it is spelt, and what is refused changes nothing.
func TestNamesHaveOneTenant(t *testing.T) {
	b := newTenancyFixture(t)
	before := b.log()
	for _, body := range []string{
		`{"hosts":["interviews.acme.com"]}`,
		`{"hosts":["INTERVIEWS.acme.com"]}`,
		`{"hosts":["interviews.acme.com."]}`,
		`{"hosts":["interviews.acme.com:8443"]}`,
		`{"hosts":["ｉnterviews.acme。com"]}`,
		`{"hosts":["new.example","interviews.acme.com"]}`,
		`{"slug":"fresh","hosts":["interviews.acme.com"]}`,
		`{"slug":"acme"}`,
		`{"hosts":["acme.product.com"]}`,
		`{"hosts":["ACME.product.com.:443"]}`,
	} {
		a := b.admin("PUT", "/tenants/other", body)
		require.Equal(t, http.StatusConflict, a.Code, body)
		assert.Equal(t, "conflict", a.code(), body)
		assert.Contains(t, a.json()["detail"], "belongs to another tenant", body)
		assert.NotContains(t, strings.ReplaceAll(fmt.Sprint(a.json()["detail"]), "interviews.acme.com", ""), `"acme"`, "not by whom")
		a = b.admin("PUT", "/tenants/new", body)
		require.Equal(t, http.StatusConflict, a.Code, body)
	}
	assert.Equal(t, before, b.log())
	assert.Equal(t, "unknown_tenant", b.admin("GET", "/tenants/new", "").code())
	assert.Equal(t, "unknown_tenant", b.resolve("slug", "fresh").code())

	// What looks the same is another name, and is shown as what it is.
	a := b.admin("PUT", "/tenants/other", `{"slug":"other","hosts":["аcme.product.com"]}`)
	require.Equal(t, http.StatusOK, a.Code, a.Body)
	assert.Equal(t, []any{"xn--cme-5cd.product.com"}, a.json()["hosts"])
	assert.Equal(t, "other", b.resolve("host", "аcme.product.com").json()["tenantId"])
	assert.Equal(t, "acme", b.resolve("host", "acme.product.com").json()["tenantId"])

	for body, pointer := range map[string]string{
		`{"slug":"ACME"}`:                                    "/slug",
		`{"slug":"acme\u0000"}`:                              "/slug",
		`{"slug":"../acme"}`:                                 "/slug",
		`{"slug":"-acme"}`:                                   "/slug",
		`{"slug":"` + strings.Repeat("a", 300) + `"}`:        "/slug",
		`{"hosts":[""]}`:                                     "/hosts/0",
		`{"hosts":["acme.com/x"]}`:                           "/hosts/0",
		`{"hosts":["*.acme.com"]}`:                           "/hosts/0",
		`{"hosts":["` + strings.Repeat("a", 300) + `.com"]}`: "/hosts/0",
		`{"hosts":["acme.com","https://acme.com"]}`:          "/hosts/1",
		`{"domains":["acme.com"]}`:                           "/domains",
		`{"Hosts":["acme.com"]}`:                             "/Hosts",
	} {
		a := b.admin("PUT", "/tenants/other", body)
		require.Equal(t, http.StatusBadRequest, a.Code, "%s: %s", body, a.Body)
		assert.Contains(t, a.Body.String(), `"pointer":"`+pointer+`"`, body)
	}
}

func TestFreeName(t *testing.T) {
	b := newTenancyFixture(t)
	free := func(kind, name string) answer {
		return b.admin("POST", "/names/"+kind+"/"+name+"/free", `{"reason":"ticket 7"}`)
	}
	before := b.log()
	for _, name := range [][2]string{{"slug", "acme"}, {"host", "interviews.acme.com"}, {"host", "ACME.product.com:443"}} {
		a := free(name[0], name[1])
		require.Equal(t, http.StatusConflict, a.Code, a.Body)
		assert.Contains(t, a.json()["detail"], "take it out of its definition first")
	}
	for _, name := range [][2]string{{"slug", "nobody"}, {"host", "nobody.example"}, {"host", "nobody.product.com"}} {
		assert.Equal(t, http.StatusNoContent, free(name[0], name[1]).Code)
	}
	assert.Equal(t, before, b.log())

	// What acme gives up is kept for it, until an administrator frees it.
	b.define("acme", `{"slug":"acme-new"}`)
	for _, body := range []string{`{"slug":"acme"}`, `{"hosts":["acme.product.com"]}`, `{"hosts":["interviews.acme.com"]}`} {
		a := b.admin("PUT", "/tenants/other", body)
		require.Equal(t, http.StatusConflict, a.Code, body)
		assert.Contains(t, a.json()["detail"], "kept for it until an administrator frees it")
	}
	before = b.log()
	require.Equal(t, http.StatusNoContent, free("host", "interviews.acme.com.").Code)
	require.Equal(t, http.StatusNoContent, free("host", "acme.product.com").Code, "which is the slug")
	assert.Equal(t, before+2, b.log())
	require.Equal(t, http.StatusNoContent, free("slug", "acme").Code)
	assert.Equal(t, before+2, b.log(), "it is free already")
	b.define("other", `{"slug":"acme","hosts":["interviews.acme.com"]}`)
	assert.Equal(t, "other", b.resolve("slug", "acme").json()["tenantId"])
	assert.Equal(t, "unknown_tenant", b.resolve("host", "interviews.acme.com").code(), "the proof was another tenant's")

	before = b.log()
	for _, c := range []struct{ kind, name, body, pointer string }{
		{"Slug", "acme", `{"reason":"r"}`, "/kind"},
		{"tenant", "acme", `{"reason":"r"}`, "/kind"},
		{"..%2Fkeys", "acme", `{"reason":"r"}`, "/kind"},
		{"slug%00", "acme", `{"reason":"r"}`, "/kind"},
		{strings.Repeat("a", 300), "acme", `{"reason":"r"}`, "/kind"},
		{"slug", "ACME", `{"reason":"r"}`, "/name"},
		{"slug", "acme%2F..", `{"reason":"r"}`, "/name"},
		{"slug", "..", `{"reason":"r"}`, "/name"},
		{"slug", "acme%00", `{"reason":"r"}`, "/name"},
		{"slug", "%20", `{"reason":"r"}`, "/name"},
		{"slug", strings.Repeat("a", 300), `{"reason":"r"}`, "/name"},
		{"host", "acme", `{"reason":"r"}`, "/name"},
		{"host", "..%2F..%2Fkeys", `{"reason":"r"}`, "/name"},
		{"host", "acme.com%2Fx", `{"reason":"r"}`, "/name"},
		{"host", strings.Repeat("a", 300) + ".com", `{"reason":"r"}`, "/name"},
		{"slug", "other", `{}`, "/reason"},
		{"slug", "other", `{"reason":""}`, "/reason"},
		{"slug", "other", `{"reason":null}`, "/reason"},
		{"slug", "other", `{"reason":"` + strings.Repeat("a", 501) + `"}`, "/reason"},
		{"slug", "other", `{"reason":"r","tenantId":"acme"}`, "/tenantId"},
	} {
		a := b.admin("POST", "/names/"+c.kind+"/"+c.name+"/free", c.body)
		require.Equal(t, http.StatusBadRequest, a.Code, "%v: %s", c, a.Body)
		assert.Contains(t, a.Body.String(), `"pointer":"`+c.pointer+`"`, "%v", c)
		assert.Less(t, a.Body.Len(), 2000)
	}
	assert.Equal(t, "unsupported_media_type", b.do(request{"POST", "/v1/admin/names/slug/other/free", b.fixture.admin, nil, `{"reason":"r"}`}).code())
	assert.Equal(t, before, b.log())
}

func TestKeysExpire(t *testing.T) {
	b := newTenancyFixture(t)
	create := func(expires string) answer {
		return b.admin("POST", "/keys", `{"kind":"tenant","tenantId":"acme","name":"contractor","expiresAt":`+expires+`}`)
	}
	made := create(`"2026-04-05T13:31:00.000+02:00"`) // in an hour
	require.Equal(t, http.StatusCreated, made.Code, made.Body)
	assert.Len(t, made.json(), 2)
	forever := create("null")
	require.Equal(t, http.StatusCreated, forever.Code, forever.Body)
	read := func(key any) answer { return b.do(request{method: "GET", path: "/v1/usage", key: key.(string)}) }

	b.now = clock.Add(time.Hour - time.Millisecond)
	require.Equal(t, http.StatusOK, read(made.json()["key"]).Code)
	b.now = clock.Add(time.Hour)
	gone := read(made.json()["key"])
	require.Equal(t, http.StatusUnauthorized, gone.Code, gone.Body)
	assert.Equal(t, "The API key is unknown, revoked or expired.", gone.json()["detail"])
	assert.Equal(t, gone.Body.String(), read("tg_tenant_never").Body.String(), "nobody learns which")
	require.Equal(t, http.StatusOK, read(forever.json()["key"]).Code)

	b.now = clock
	before := b.log()
	for _, bad := range []string{`"2026-04-05T10:31:00Z"`, `"2026-04-05T10:30:59Z"`, `"0001-01-01T00:00:00Z"`, `"9999-12-31T23:59:59-01:00"`, `"2026-05-01"`,
		`"tomorrow"`, `""`, `1790000000`, `{}`, `"` + strings.Repeat("9", 300) + `"`} {
		a := create(bad)
		require.Equal(t, http.StatusBadRequest, a.Code, "%s: %s", bad, a.Body)
		assert.Contains(t, a.Body.String(), `"pointer":"/expiresAt"`, bad)
	}
	a := b.admin("POST", "/keys", `{"kind":"admin","name":"x","ExpiresAt":"2026-05-01T00:00:00Z"}`)
	assert.Contains(t, a.Body.String(), `"pointer":"/ExpiresAt"`)
	assert.Equal(t, before, b.log())
}
