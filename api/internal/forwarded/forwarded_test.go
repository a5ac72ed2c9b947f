package forwarded_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tollgate-io/tollgate/api/internal/forwarded"
)

func TestHost(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for name, c := range map[string]struct {
		peer  string
		given []string
		host  string
		err   error
	}{
		"no header":          {"10.0.0.1:1", nil, "asked.example", nil},
		"a proxy":            {"10.0.0.1:1", []string{"acme.example"}, "acme.example", nil},
		"a proxy by IPv6":    {"[fd00::1]:1", []string{"acme.example"}, "acme.example", nil},
		"mapped IPv4":        {"[::ffff:10.0.0.1]:1", []string{"acme.example"}, "acme.example", nil},
		"a stranger":         {"192.0.2.1:1", []string{"acme.example"}, "asked.example", nil},
		"a stranger's list":  {"192.0.2.1:1", []string{"a", "b"}, "asked.example", nil},
		"no address":         {"@", []string{"acme.example"}, "asked.example", nil},
		"two headers":        {"10.0.0.1:1", []string{"a", "b"}, "", forwarded.ErrManyHosts},
		"a list in a header": {"10.0.0.1:1", []string{"a, b"}, "", forwarded.ErrManyHosts},
		"an empty header":    {"10.0.0.1:1", []string{""}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "http://asked.example/", http.NoBody)
			r.RemoteAddr = c.peer
			if c.given != nil {
				r.Header["X-Forwarded-Host"] = c.given
			}
			host, err := forwarded.Host(r, proxies)
			assert.Equal(t, c.host, host)
			assert.ErrorIs(t, err, c.err)
		})
	}
}

func TestHasDotSegments(t *testing.T) {
	for path, want := range map[string]bool{
		"/t/acme": false, "/a.b/..c/...": false, "": false, "/%2e%2e%2e": false,
		"/.": true, "/t/acme/..": true, "/t/acme/../other": true, "/%2e%2E/x": true, "/a%2f..%2Fb": true, `/a\..\b`: true, "/a%5c.%5Cb": true, "/..;x=1/b": true,
	} {
		assert.Equal(t, want, forwarded.HasDotSegments(path), path)
	}
}
