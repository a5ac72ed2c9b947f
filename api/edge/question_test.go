package edge

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/tenant"
)

func TestCanonicalHost(t *testing.T) {
	long := strings.Repeat("a", 63)
	for name, c := range map[string]struct {
		sent, want string // "": it is no host name
	}{
		"as it is":                {"acme.product.com", "acme.product.com"},
		"capitals":                {"ACME.Product.COM", "acme.product.com"},
		"a port":                  {"acme.product.com:8443", "acme.product.com"},
		"a colon alone":           {"acme.product.com:", "acme.product.com"},
		"a trailing dot":          {"acme.product.com.", "acme.product.com"},
		"all of it":               {"Acme.Product.com.:443", "acme.product.com"},
		"an international name":   {"XN--bcher-kva.example", "xn--bcher-kva.example"},
		"a single label":          {"localhost:3000", "localhost"},
		"an address":              {"127.0.0.1:8080", "127.0.0.1"},
		"the longest":             {long + "." + long + "." + long + "." + long[:61], long + "." + long + "." + long + "." + long[:61]},
		"a longer one":            {long + "." + long + "." + long + "." + long[:62], ""},
		"a longer label":          {long + "a.product.com", ""},
		"two trailing dots":       {"acme.product.com..", ""},
		"an empty label":          {"acme..com", ""},
		"nothing":                 {"", ""},
		"a dot":                   {".", ""},
		"not a port":              {"acme.product.com:99999", ""},
		"a port with a name":      {"acme.product.com:80@evil.com", ""},
		"two ports":               {"acme.product.com:80:80", ""},
		"an IPv6 address":         {"[::1]:80", ""},
		"a Cyrillic a":            {"\u0430cme.product.com", ""},
		"a Kelvin sign":           {"\u212Aiwi.product.com", ""},
		"a Turkish capital":       {"acme.\u0130nc.com", ""},
		"full width":              {"\uff41cme.product.com", ""},
		"another full stop":       {"acme\u3002product.com", ""},
		"an underscore":           {"ac_me.product.com", ""},
		"a percent sign":          {"%61cme.product.com", ""},
		"a slash":                 {"acme.product.com/x", ""},
		"a space":                 {" acme.product.com", ""},
		"a NUL":                   {"acme.product.com\x00.evil.com", ""},
		"bytes that are no UTF-8": {"acme\xff.product.com", ""},
		"much too long":           {strings.Repeat("a.", 5000) + "com", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := canonicalHost(c.sent)
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.want != "", ok)
		})
	}
}

// What is asked about is, to Tollgate, the same name as what the client sent: neither does the middleware ask about another
// tenant, nor does it turn something else into a name.
func TestCanonicalHostMeansTheSameToTollgate(t *testing.T) {
	piece := rapid.SampledFrom([]string{"acme", "ACME", "aCme-1", "xn--bcher-kva", "XN--Bcher-kva", "xn--a", "xn--", "-a", "a-", "ab--c", ".", ".", ".", ":", ":80", ":443",
		":99999", ":65536", "1", "0x7f", "127", "[::1]", "@", "/", "_", " ", "k", "K", "\u212a", "\u0130", "\u00df", "\u3002", "\u0430", "\xff", "\u200d", "%2e"})
	rapid.Check(t, func(t *rapid.T) {
		sent := strings.Join(rapid.SliceOfN(piece, 1, 8).Draw(t, "pieces"), "")
		asked, ok := canonicalHost(sent)
		if !ok {
			return
		}
		want, wantErr := tenant.CanonicalHost(sent)
		got, err := tenant.CanonicalHost(asked)
		assert.Equal(t, wantErr == nil, err == nil, "%q was sent, %q is asked about", sent, asked)
		assert.Equal(t, want, got, "%q was sent, %q is asked about", sent, asked)
		again, ok := canonicalHost(asked)
		assert.True(t, ok)
		assert.Equal(t, asked, again)
	})
}

func TestSlugIn(t *testing.T) {
	for name, c := range map[string]struct {
		path, prefix, want string
		err                error
	}{
		"the segment after the prefix":    {"/t/acme/reports", "/t/", "acme", nil},
		"nothing after it":                {"/t/acme", "/t/", "acme", nil},
		"the first segment":               {"/acme/reports", "/", "acme", nil},
		"the root":                        {"/", "/", "", nil},
		"another path":                    {"/reports", "/t/", "", nil},
		"the prefix without its slash":    {"/t", "/t/", "", nil},
		"no slug":                         {"/t/", "/t/", "", ErrUnknown},
		"an empty segment":                {"/t//acme", "/t/", "", ErrUnknown},
		"a doubled slash before it":       {"//t/acme", "/t/", "", nil},
		"capitals":                        {"/t/Acme/", "/t/", "", ErrUnknown},
		"an escaped letter":               {"/t/%61cme/", "/t/", "", ErrUnknown},
		"an escaped slash":                {"/t/acme%2Fx/", "/t/", "", ErrUnknown},
		"two dots":                        {"/t/acme/../globex/", "/t/", "", ErrUnknown},
		"two dots, escaped":               {"/t/acme/%2e%2E/globex/", "/t/", "", ErrUnknown},
		"two dots behind a backslash":     {`/t/acme/x\..\..\globex/`, "/t/", "", ErrUnknown},
		"two dots between escapes":        {"/t/acme/x%2f..%5cy", "/t/", "", ErrUnknown},
		"one dot with a parameter":        {"/t/acme/.;x/y", "/t/", "", ErrUnknown},
		"dots elsewhere":                  {"/t/acme/a..b/.well-known", "/t/", "acme", nil},
		"two dots in another path":        {"/x/../t/acme", "/t/", "", ErrUnknown},
		"a slug that is longer than most": {"/t/" + strings.Repeat("a", 64), "/t/", "", ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := slugIn(c.path, c.prefix)
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.err, err)
		})
	}
}
