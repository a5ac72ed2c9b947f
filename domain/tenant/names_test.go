package tenant_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// What a request may send as its host to be taken for another one, beyond the vectors of TestCanonicalHost.
func TestCanonicalHostOfHostileRequests(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	host253 := strings.Repeat(label63+".", 3) + strings.Repeat("b", 61)
	for name, c := range map[string]struct{ host, want string }{
		"port 0":                                   {"acme.product.com:0", "acme.product.com"},
		"the last port":                            {"acme.product.com:65535", "acme.product.com"},
		"port 99999":                               {"acme.product.com:99999", ""},
		"a port with a sign":                       {"acme.product.com:+80", ""},
		"a negative port":                          {"acme.product.com:-1", ""},
		"a port in hexadecimal":                    {"acme.product.com:0x50", ""},
		"a port in full-width digits":              {"acme.product.com:８０", ""},
		"a port after a full-width colon":          {"acme.product.com：80", ""},
		"a port and a dot after it":                {"acme.product.com:80.", ""},
		"a trailing dot, twice, and a port":        {"acme.product.com..:80", ""},
		"two trailing dots of other scripts":       {"acme.product.com。．", ""},
		"a list of hosts":                          {"acme.product.com, evil.com", ""},
		"a list of hosts without space":            {"acme.product.com,evil.com", ""},
		"two hosts":                                {"acme.product.com evil.com", ""},
		"a line break and a header":                {"acme.product.com\r\nX-Tenant-Id: t2", ""},
		"a line break behind":                      {"acme.product.com\r\n", "acme.product.com"},
		"a tab in it":                              {"acme\t.product.com", ""},
		"a space before the dot":                   {"acme .product.com", ""},
		"a no-break space":                         {"acme\u00a0.product.com", ""},
		"a user and a host":                        {"acme@evil", ""},
		"a user and a full host":                   {"acme.product.com@evil.com", ""},
		"a full-width at sign":                     {"acme＠product.com", ""},
		"a fragment":                               {"evil.com#.product.com", ""},
		"a query":                                  {"evil.com?.product.com", ""},
		"a backslash":                              {`evil.com\.product.com`, ""},
		"a slash that only NFKC makes":             {"evil.com℀.product.com", ""},
		"a fraction slash is no slash":             {"evil.com\u2044.product.com", "evil.xn--com-qt0a.product.com"},
		"a dot in percent":                         {"acme%2eproduct.com", ""},
		"NUL in percent":                           {"acme%00.product.com", ""},
		"NUL behind":                               {"acme.product.com\x00", ""},
		"NUL and another host":                     {"acme.product.com\x00.evil.com", ""},
		"an underscore in front":                   {"_tollgate.acme.product.com", ""},
		"an asterisk":                              {"*.product.com", ""},
		"a quote":                                  {"acme'.product.com", ""},
		"a mixed case of letters":                  {"aCmE.pRoDuCt.CoM", "acme.product.com"},
		"the Kelvin sign is a k":                   {"boo\u212a.example", "book.example"},
		"the long s is an s":                       {"\u017fhop.example", "shop.example"},
		"a ligature is two letters":                {"\ufb01sh.example", "fish.example"},
		"letters in circles":                       {"ⓐⓒⓜⓔ.example", "acme.example"},
		"superscripts":                             {"acme².example", "acme2.example"},
		"mathematical letters":                     {"𝐚𝐜𝐦𝐞.example", "acme.example"},
		"a Roman numeral":                          {"henryⅧ.example", "henryviii.example"},
		"a full-width dot":                         {"acme．product．com", "acme.product.com"},
		"a half-width ideographic dot":             {"acme｡product｡com", "acme.product.com"},
		"a one-dot leader":                         {"acme\u2024product.com", ""},
		"a whole Cyrillic homograph":               {"\u0430\u0440\u0440\u04cf\u0435.example", "xn--80ak6aa92e.example"},
		"a Greek omicron":                          {"g\u03bfogle.example", "xn--gogle-rce.example"},
		"a zero-width space disappears":            {"ac\u200bme.example", "acme.example"},
		"a right-to-left override":                 {"acme\u202e.example", ""},
		"a byte order mark in front":               {"\ufeffacme.example", "acme.example"},
		"a homograph in ASCII form":                {"xn--cme-5cd.example", "xn--cme-5cd.example"},
		"an ASCII form that is not in normal form": {"xn--bcher-kva\u0301.example", ""},
		"an unassigned character":                  {"a\u0378.example", ""},
		"253 bytes, a dot and a port":              {host253 + ".:65535", host253},
		"254 bytes of which one is the dot":        {host253 + ".", host253},
		"254 bytes of four labels":                 {host253 + "b", ""},
		"a label of 64 at the end":                 {"acme." + label63 + "a", ""},
		"an empty label of a port":                 {"acme.:80.example", ""},
		"an IPv6 address with a zone":              {"[fe80::1%25eth0]:80", ""},
		"an IPv6 zone that is a host":              {"fe80::1%acme.product.com", ""},
		"a host in brackets":                       {"[acme.product.com]", ""},
		"an IPv4 address with a dot and a port":    {"192.0.2.1.:80", ""},
		"an IPv4 address of five parts":            {"192.0.2.1.5", ""},
		"a last label that is hexadecimal":         {"acme.0xff", ""},
		"a last label that is 0x":                  {"acme.0x", ""},
		"a last label that begins with 0x":         {"acme.0xfg", "acme.0xfg"},
		"a last label that begins with a digit":    {"acme.1com", "acme.1com"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tenant.CanonicalHost(c.host)
			require.Equal(t, c.want == "", err != nil, "%q %v", got, err)
			require.Equal(t, c.want, got)
		})
	}
}

// spelling is another way to write a host.
func spelling(t *rapid.T, host string) string {
	random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "case"), 0))
	b := []rune(host)
	for i, r := range b {
		switch n := random.IntN(4); {
		case r >= 'a' && r <= 'z' && n == 0:
			b[i] = r - 'a' + 'A'
		case r > ' ' && r <= '~' && n == 1 && r != '-':
			b[i] = r - ' ' + '\uff00' // full width
		}
	}
	return string(b) + rapid.SampledFrom([]string{"", ".", "。", ".:443", ":1", ":", ":65535"}).Draw(t, "end")
}

var someHost = rapid.Custom(func(t *rapid.T) string {
	return strings.Join(rapid.SliceOfN(rapid.StringMatching(`[a-z]([a-z0-9]{0,8}[a-z0-9])?`), 2, 5).Draw(t, "labels"), ".")
})

// However a host is written, it is the same host.
func TestSpellingsOfAHost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host := someHost.Draw(t, "host")
		for range 2 {
			sent := spelling(t, host)
			got, err := tenant.CanonicalHost(sent)
			require.NoError(t, err, sent)
			require.Equal(t, host, got, sent)
			require.False(t, tenant.IsLocal(sent), sent)
			n, err := tenant.ParseName("host", sent)
			require.NoError(t, err)
			require.Equal(t, tenant.Name{Kind: tenant.Host, Name: host}, n)
		}
	})
}

func TestIsLocal(t *testing.T) {
	for name, c := range map[string]struct {
		sent string
		want bool
	}{
		"nothing":                            {"", true},
		"a port alone":                       {":80", true},
		"localhost":                          {"localhost", true},
		"localhost with a port":              {"localhost:8080", true},
		"a container":                        {"tollgate-1:8080", true},
		"a container with an underscore":     {"toll_gate:8080", true},
		"a single label with a bad port":     {"localhost:99999", true},
		"an IPv4 address":                    {"192.0.2.1", true},
		"an IPv4 address with a port":        {"192.0.2.1:8080", true},
		"an IPv6 address":                    {"[2001:db8::1]", true},
		"an IPv6 address with a port":        {"[2001:db8::1]:8080", true},
		"an IPv6 address without brackets":   {"2001:db8::1", true},
		"the IPv6 loopback":                  {"::1", true},
		"the IPv6 loopback with a port":      {"[::1]:80", true},
		"an IPv4 address in IPv6":            {"[::ffff:192.0.2.1]:80", true},
		"an IPv6 address with a zone":        {"[fe80::1%eth0]:80", true},
		"a host":                             {"acme.product.com", false},
		"a host with a port":                 {"acme.product.com:80", false},
		"a host with a bad port":             {"acme.product.com:99999", false},
		"below localhost":                    {"acme.localhost:8080", false},
		"a host that begins with an address": {"192.0.2.1.product.com", false},
		"a host in brackets":                 {"[acme.product.com]", false},
		"full-width dots":                    {"acme．product．com", false},
		"an ideographic dot":                 {"acme。com", false},
		"a single label beyond ASCII":        {"bücher", false}, // left to CanonicalHost, which knows other dots
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, tenant.IsLocal(c.sent)) })
	}
}

// What is local is no tenant's host: IsLocal only saves work.
func TestLocalIsNoHost(t *testing.T) {
	parts := rapid.OneOf(rapid.StringMatching(`[a-z0-9:.\[\]%_-]{0,6}`), rapid.SampledFrom([]string{"::1", "192.0.2.1", "[", "]", ":80", "localhost", ".", "。", "％"}))
	rapid.Check(t, func(t *rapid.T) {
		sent := strings.Join(rapid.SliceOfN(parts, 0, 4).Draw(t, "parts"), "")
		if tenant.IsLocal(sent) {
			host, err := tenant.CanonicalHost(sent)
			require.Error(t, err, "%q is local, and %s", sent, host)
		}
	})
}

func domains(t require.TestingT, bases ...string) tenant.Domains {
	d, err := tenant.NewDomains(bases...)
	require.NoError(t, err)
	return d
}

func TestNewDomains(t *testing.T) {
	for name, base := range map[string]string{
		"nothing": "", "an address": "192.0.2.1", "an IPv6 address": "::1", "a scheme": "https://product.com", "a wildcard": "*.product.com",
		"a leading dot": ".product.com", "an underscore": "a_b", "a label of 64": strings.Repeat("a", 64), "two": "product.com,product.io",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tenant.NewDomains("product.com", base)
			require.ErrorContains(t, err, "base domain")
		})
	}
	require.Equal(t, domains(t, "product.com", "localhost"), domains(t, "Product.COM.", "product.com:443", "LOCALHOST", "product.com"))
}

func TestDomains(t *testing.T) {
	d := domains(t, "product.com", "product.io", "eu.product.com", "localhost", "bücher.example")
	for host, c := range map[string]struct {
		label string
		below bool
	}{
		"acme.product.com":            {"acme", true},
		"acme.product.io":             {"acme", true},
		"acme.localhost":              {"acme", true},
		"acme.eu.product.com":         {"acme", true}, // the base domain that is nearest
		"acme.xn--bcher-kva.example":  {"acme", true},
		"xn--bcher-kva.product.com":   {"xn--bcher-kva", true},
		"1.product.com":               {"1", true},
		"a.acme.product.com":          {"", true},
		"a.acme.eu.product.com":       {"", true},
		"product.com":                 {"", false}, // the product itself
		"eu.product.com":              {"", false}, // likewise, though a base domain is above it
		"evilproduct.com":             {"", false},
		"evil-product.com":            {"", false},
		"acme.evilproduct.com":        {"", false},
		"acme.product.com.evil.com":   {"", false},
		"product.com.evil.com":        {"", false},
		"acme.product.co":             {"", false},
		"acme.product.comm":           {"", false},
		"acme.product":                {"", false},
		"com":                         {"", false},
		"localhost":                   {"", false},
		"acme.notlocalhost":           {"", false},
		"acme.localhost.evil.com":     {"", false},
		"acme.xn--cher-kva.example":   {"", false},
		"acme.de.product.com.product": {"", false},
	} {
		t.Run(host, func(t *testing.T) {
			label, ok := d.Label(host)
			require.Equal(t, c.label, label)
			require.Equal(t, c.label != "", ok)
			require.Equal(t, c.below, d.IsSubdomain(host))
			want := tenant.Name{Kind: tenant.Host, Name: host}
			if c.label != "" {
				want = tenant.Name{Kind: tenant.Slug, Name: c.label}
			}
			require.Equal(t, want, d.NameOf(host))

			none := tenant.Domains{}
			require.False(t, none.IsSubdomain(host))
			require.Equal(t, tenant.Name{Kind: tenant.Host, Name: host}, none.NameOf(host))
		})
	}
}

// A label is only what stands directly below: the host can be put together again from it.
func TestLabelsStandBelowABase(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bases := rapid.SliceOfN(someHost, 1, 3).Draw(t, "bases")
		d := domains(t, bases...)
		host := someHost.Draw(t, "host") + rapid.SampledFrom([]string{"", "."}).Draw(t, "boundary") + rapid.SampledFrom(append(bases, "")).Draw(t, "end")
		host, err := tenant.CanonicalHost(host)
		if err != nil {
			return
		}
		label, ok := d.Label(host)
		require.Equal(t, ok, slices.ContainsFunc(bases, func(base string) bool {
			return host == label+"."+base && !strings.Contains(label, ".") && !slices.Contains(bases, host)
		}), "%s below %s", host, bases)
		require.True(t, !ok || d.IsSubdomain(host))
		require.Equal(t, d.IsSubdomain(host), !slices.Contains(bases, host) && slices.ContainsFunc(bases, func(base string) bool {
			return len(host) > len(base) && host[len(host)-len(base)-1:] == "."+base
		}))
	})
}

func TestParseName(t *testing.T) {
	for name, c := range map[string]struct {
		kind, name string
		want       tenant.Name
	}{
		"a slug":              {"slug", "acme-1", tenant.Name{Kind: tenant.Slug, Name: "acme-1"}},
		"a slug of 63":        {"slug", strings.Repeat("a", 63), tenant.Name{Kind: tenant.Slug, Name: strings.Repeat("a", 63)}},
		"a host":              {"host", "Acme.Example:80", tenant.Name{Kind: tenant.Host, Name: "acme.example"}},
		"an empty slug":       {"slug", "", tenant.Name{}},
		"a slug in capitals":  {"slug", "Acme", tenant.Name{}},
		"a slug with a dot":   {"slug", "acme.example", tenant.Name{}},
		"a slug beyond ASCII": {"slug", "\u0430cme", tenant.Name{}},
		"a slug of 64":        {"slug", strings.Repeat("a", 64), tenant.Name{}},
		"a slug with a slash": {"slug", "acme/..", tenant.Name{}},
		"a slug with NUL":     {"slug", "acme\x00", tenant.Name{}},
		"an address":          {"host", "192.0.2.1", tenant.Name{}},
		"a single label":      {"host", "acme", tenant.Name{}},
		"an empty host":       {"host", "", tenant.Name{}},
		"no kind":             {"", "acme", tenant.Name{}},
		"another kind":        {"Slug", "acme", tenant.Name{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tenant.ParseName(c.kind, c.name)
			if c.want == (tenant.Name{}) {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestHoldings(t *testing.T) {
	const kind, name = "slug", "acme"
	for what, c := range map[string]struct {
		e    any
		want tenant.Holding
		open [3]bool // to nobody, to a, to b
	}{
		"claimed":  {event.NameClaimed{Kind: kind, Name: name, Tenant: "a", By: "cli"}, tenant.Holding{Tenant: "a", Claim: 7}, [3]bool{}},
		"released": {event.NameReleased{Kind: kind, Name: name, Tenant: "a", By: "cli"}, tenant.Holding{Tenant: "a", Released: true}, [3]bool{false, true, false}},
		"freed":    {event.NameFreed{Kind: kind, Name: name, Reason: "r", By: "cli"}, tenant.Holding{}, [3]bool{true, true, true}},
	} {
		t.Run(what, func(t *testing.T) {
			h, ok := tenant.HoldingAfter(c.e, 7)
			require.True(t, ok)
			require.Equal(t, c.want, h)
			for i, to := range []event.TenantID{"", "a", "b"} {
				require.Equal(t, c.open[i], h.Open(to), to)
			}
			n, by, ok := tenant.NameIn(c.e)
			require.True(t, ok)
			require.Equal(t, tenant.Name{Kind: tenant.Slug, Name: name}, n)
			require.Equal(t, event.Actor("cli"), by)
		})
	}
	_, ok := tenant.HoldingAfter(event.TenantDefined{Tenant: "a"}, 0)
	require.False(t, ok)
	_, _, ok = tenant.NameIn(event.HostVerified{Tenant: "a", Host: "a.example"})
	require.False(t, ok)
}

func TestNames(t *testing.T) {
	slug := func(s string) tenant.Name { return tenant.Name{Kind: tenant.Slug, Name: s} }
	host := func(s string) tenant.Name { return tenant.Name{Kind: tenant.Host, Name: s} }
	for name, c := range map[string]struct {
		t           tenant.Tenant
		below, none []tenant.Name // with base domains, and without
	}{
		"nothing": {tenant.Tenant{}, nil, nil},
		"a slug":  {tenant.Tenant{Slug: "acme"}, []tenant.Name{slug("acme")}, []tenant.Name{slug("acme")}},
		"a host":  {tenant.Tenant{Hosts: []string{"acme.example"}}, []tenant.Name{host("acme.example")}, []tenant.Name{host("acme.example")}},
		"a slug and its host": {tenant.Tenant{Slug: "acme", Hosts: []string{"acme.product.com", "acme.product.io"}},
			[]tenant.Name{slug("acme")}, []tenant.Name{slug("acme"), host("acme.product.com"), host("acme.product.io")}},
		"a slug and the host of another": {tenant.Tenant{Slug: "acme", Hosts: []string{"beta.product.com"}},
			[]tenant.Name{slug("acme"), slug("beta")}, []tenant.Name{slug("acme"), host("beta.product.com")}},
		"deep below": {tenant.Tenant{Slug: "acme", Hosts: []string{"a.acme.product.com"}},
			[]tenant.Name{slug("acme"), host("a.acme.product.com")}, []tenant.Name{slug("acme"), host("a.acme.product.com")}},
		"a base domain": {tenant.Tenant{Hosts: []string{"product.com"}}, []tenant.Name{host("product.com")}, []tenant.Name{host("product.com")}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.below, c.t.Names(domains(t, "product.com", "product.io")))
			require.Equal(t, c.none, c.t.Names(tenant.Domains{}))
		})
	}
}

// Each name is there once, and there is one for the slug and one for each host.
func TestNamesAreDistinct(t *testing.T) {
	few := rapid.SampledFrom([]string{"acme.product.com", "ACME.product.io", "b.product.com:80", "acme.example", "b.example", "a.b.product.com", "product.com"})
	rapid.Check(t, func(t *rapid.T) {
		d := domains(t, rapid.SliceOfN(rapid.SampledFrom([]string{"product.com", "product.io", "b.product.com"}), 0, 3).Draw(t, "bases")...)
		defined, err := tenant.New(tenant.Tenant{ID: "a", Slug: rapid.SampledFrom([]string{"", "acme", "b"}).Draw(t, "slug"), Hosts: rapid.SliceOfN(few, 0, 20).Draw(t, "hosts")})
		require.NoError(t, err)
		names := defined.Names(d)
		seen := map[tenant.Name]bool{}
		for _, n := range names {
			require.False(t, seen[n], n)
			seen[n] = true
			_, err := tenant.ParseName(string(n.Kind), n.Name)
			require.NoError(t, err)
		}
		require.Equal(t, defined.Slug != "", seen[tenant.Name{Kind: tenant.Slug, Name: defined.Slug}] && defined.Slug != "")
		for _, host := range defined.Hosts {
			require.True(t, seen[d.NameOf(host)], host)
		}
		require.LessOrEqual(t, len(names), 1+len(defined.Hosts))
	})
}

func TestStateOfAHost(t *testing.T) {
	const custom, own = "acme.example", "acme.product.com"
	held := tenant.Holding{Tenant: "a", Claim: 2}
	proof := func(host string, claim eventstore.Revision) []tenant.HostProof {
		return []tenant.HostProof{{Host: host, Claim: claim}}
	}
	below := domains(t, "product.com")
	for name, c := range map[string]struct {
		host string
		t    tenant.Tenant
		h    tenant.Holding
		d    tenant.Domains
		want tenant.HostState
	}{
		"no proof":                            {custom, tenant.Tenant{}, held, below, tenant.HostUnverified},
		"its proof":                           {custom, tenant.Tenant{Proofs: proof(custom, 2)}, held, below, tenant.HostVerified},
		"the proof of an older claim":         {custom, tenant.Tenant{Proofs: proof(custom, 0)}, held, below, tenant.HostUnverified},
		"the proof of another host":           {custom, tenant.Tenant{Proofs: proof("b.example", 2)}, held, below, tenant.HostUnverified},
		"a proof, and another tenant has it":  {custom, tenant.Tenant{Proofs: proof(custom, 2)}, tenant.Holding{Tenant: "b", Claim: 2}, below, tenant.HostUnverified},
		"a proof of claim 0, and it is freed": {custom, tenant.Tenant{Proofs: proof(custom, 0)}, tenant.Holding{}, below, tenant.HostUnverified},
		"a proof of claim 0, and it is kept":  {custom, tenant.Tenant{Proofs: proof(custom, 0)}, tenant.Holding{Tenant: "a", Released: true}, below, tenant.HostUnverified},
		"below a base domain":                 {own, tenant.Tenant{}, held, below, tenant.HostOwn},
		"below one, under another's label":    {own, tenant.Tenant{Slug: "b"}, held, below, tenant.HostOwn},
		"below one, and another has it":       {own, tenant.Tenant{Slug: "acme"}, tenant.Holding{Tenant: "b"}, below, tenant.HostUnverified},
		"deep below one":                      {"a." + own, tenant.Tenant{Slug: "a"}, held, below, tenant.HostUnverified},
		"the base domain":                     {"product.com", tenant.Tenant{Slug: "product"}, held, below, tenant.HostUnverified},
		"beside the base domains, its slug":   {custom, tenant.Tenant{Slug: "acme"}, held, below, tenant.HostUnverified},
		"no base domains, its slug":           {own, tenant.Tenant{Slug: "acme"}, held, tenant.Domains{}, tenant.HostOwn},
		"no base domains, no slug":            {own, tenant.Tenant{}, held, tenant.Domains{}, tenant.HostUnverified},
		"no base domains, another slug":       {own, tenant.Tenant{Slug: "acm"}, held, tenant.Domains{}, tenant.HostUnverified},
		"no base domains, another has it":     {own, tenant.Tenant{Slug: "acme"}, tenant.Holding{Tenant: "b"}, tenant.Domains{}, tenant.HostUnverified},
		"no base domains, its proof":          {own, tenant.Tenant{Proofs: proof(own, 2)}, held, tenant.Domains{}, tenant.HostVerified},
	} {
		t.Run(name, func(t *testing.T) {
			c.t.ID, c.t.Hosts = "a", []string{c.host}
			require.Equal(t, c.want, c.t.StateOf(c.host, c.h, c.d))
			require.Equal(t, c.want != tenant.HostUnverified, c.t.Answers(c.d.NameOf(c.host), c.h, c.d))
			c.t.Hosts = nil
			if n := c.d.NameOf(c.host); n.Name != c.t.Slug {
				require.False(t, c.t.Answers(n, c.h, c.d), "not in the definition")
			}
		})
	}
	slug := tenant.Name{Kind: tenant.Slug, Name: "acme"}
	acme := tenant.Tenant{ID: "a", Slug: "acme"}
	require.True(t, acme.Answers(slug, held, below), "a slug needs no proof")
	require.False(t, acme.Answers(slug, tenant.Holding{Tenant: "b"}, below))
	require.False(t, acme.Answers(slug, tenant.Holding{Tenant: "a", Released: true}, below))
	require.False(t, acme.Answers(slug, tenant.Holding{}, below))
	require.False(t, tenant.Tenant{}.Holds(tenant.Holding{}))
	require.False(t, tenant.Tenant{}.Answers(tenant.Name{Kind: tenant.Slug}, tenant.Holding{}, below), "nobody has no slug")
}

// A record proves one claim by one tenant of one host.
func TestChallenges(t *testing.T) {
	// A challenge stands in the DNS of others: it never changes.
	require.Equal(t, tenant.Challenge{Record: "_tollgate.acme.example", Value: "tollgate-verification=bmx5yzpxc5jxlod25g2dycc7o4"},
		tenant.ChallengeOf("acme.example", tenant.Holding{Tenant: "a", Claim: 1}))

	claims := rapid.Custom(func(t *rapid.T) challenged {
		return challenged{someHost.Draw(t, "host"), tenant.Holding{
			Tenant: event.TenantID(rapid.StringMatching(`[a-z0-9]{1,3}`).Draw(t, "tenant")),
			Claim:  eventstore.Revision(rapid.Int64Range(0, 30).Draw(t, "claim")),
		}}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := claims.Draw(t, "a"), claims.Draw(t, "b")
		for _, other := range []challenged{
			b, {a.host, b.h}, {b.host, a.h}, {a.host, tenant.Holding{Tenant: a.h.Tenant, Claim: b.h.Claim}}, {a.host, tenant.Holding{Tenant: b.h.Tenant, Claim: a.h.Claim}},
		} {
			one, another := tenant.ChallengeOf(a.host, a.h), tenant.ChallengeOf(other.host, other.h)
			require.Equal(t, a == other, one.Value == another.Value)
			require.Equal(t, a.host == other.host, one.Record == another.Record)
			require.Regexp(t, `^tollgate-verification=[a-z2-7]{26}$`, one.Value)
		}
	})
}

type challenged struct {
	host string
	h    tenant.Holding
}

func TestApply(t *testing.T) {
	var none tenant.Tenant
	defined, ok := none.Apply(event.TenantDefined{Tenant: "a", Name: "A", TimeZone: "UTC", Currency: "USD", Hosts: []string{"a.example"}, Slug: "acme"})
	require.True(t, ok)
	require.Equal(t, tenant.Tenant{ID: "a", Name: "A", TimeZone: "UTC", Currency: "USD", Hosts: []string{"a.example"}, Slug: "acme", Status: tenant.Active}, defined)

	suspended, ok := defined.Apply(event.TenantStatusChanged{Tenant: "a", Status: "suspended", Reason: "unpaid"})
	require.True(t, ok)
	proven, ok := suspended.Apply(event.HostVerified{Tenant: "a", Host: "a.example", Claim: 0})
	require.True(t, ok)
	more, ok := proven.Apply(event.HostVerified{Tenant: "a", Host: "b.example", Claim: 0})
	require.True(t, ok)
	again, ok := more.Apply(event.HostVerified{Tenant: "a", Host: "a.example", Claim: 2})
	require.True(t, ok)
	require.ElementsMatch(t, []tenant.HostProof{{Host: "a.example", Claim: 2}, {Host: "b.example", Claim: 0}}, again.Proofs, "each host once")
	require.Equal(t, []tenant.HostProof{{Host: "a.example", Claim: 0}}, proven.Proofs, "what was there before stays as it was")
	require.Equal(t, []tenant.HostProof{{Host: "a.example", Claim: 0}, {Host: "b.example", Claim: 0}}, more.Proofs)
	require.Empty(t, suspended.Proofs)

	redefined, ok := again.Apply(event.TenantDefined{Tenant: "a", Name: "B", TimeZone: "UTC", Currency: "EUR"})
	require.True(t, ok)
	require.Equal(t, tenant.Tenant{ID: "a", Name: "B", TimeZone: "UTC", Currency: "EUR", Status: tenant.Suspended, Reason: "unpaid", Proofs: again.Proofs}, redefined,
		"a definition says nothing about the status and the proofs")
	same, ok := redefined.Apply(event.NameClaimed{Kind: "slug", Name: "acme", Tenant: "a"})
	require.False(t, ok)
	require.Equal(t, redefined, same)
}

func TestStatusValid(t *testing.T) {
	for status, want := range map[tenant.Status]bool{tenant.Active: true, tenant.Suspended: true, tenant.Closed: true, "": false, "Active": false, "deleted": false} {
		require.Equal(t, want, status.Valid(), status)
	}
}

func TestKeyValidAt(t *testing.T) {
	now := time.Date(2026, 4, 5, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		key  tenant.Key
		want bool
	}{
		"without an expiry":            {tenant.Key{}, true},
		"ends later":                   {tenant.Key{ExpiresAt: now.Add(time.Nanosecond)}, true},
		"ends now":                     {tenant.Key{ExpiresAt: now}, false},
		"ends now, elsewhere":          {tenant.Key{ExpiresAt: now.In(time.FixedZone("east", 3600))}, false},
		"ended":                        {tenant.Key{ExpiresAt: now.Add(-time.Nanosecond)}, false},
		"revoked":                      {tenant.Key{RevokedAt: now.Add(-time.Hour)}, false},
		"revoked, and would end later": {tenant.Key{RevokedAt: now, ExpiresAt: now.Add(time.Hour)}, false},
		"revoked by a clock that is ahead of ours": {tenant.Key{RevokedAt: now.Add(time.Hour)}, false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, c.key.ValidAt(now)) })
	}
}
