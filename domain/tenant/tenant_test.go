package tenant_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

func TestCanonicalHost(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	for name, c := range map[string]struct{ host, want string }{
		"canonical already":                      {"acme.product.com", "acme.product.com"},
		"upper case":                             {"ACME.Product.COM", "acme.product.com"},
		"with a port":                            {"acme.product.com:8443", "acme.product.com"},
		"with an empty port":                     {"acme.product.com:", "acme.product.com"},
		"with a trailing dot":                    {"acme.product.com.", "acme.product.com"},
		"with a trailing dot and a port":         {"acme.product.com.:443", "acme.product.com"},
		"with space around it":                   {" acme.product.com\t", "acme.product.com"},
		"digits and hyphens":                     {"1-2.3com.example", "1-2.3com.example"},
		"a subdomain of digits":                  {"127.0.0.1.example", "127.0.0.1.example"},
		"an internationalised name":              {"Bücher.example", "xn--bcher-kva.example"},
		"its ASCII form":                         {"XN--BCHER-KVA.example", "xn--bcher-kva.example"},
		"the same letters, decomposed":           {"bu\u0308cher.example", "xn--bcher-kva.example"},
		"full-width letters":                     {"ａｃｍｅ．example", "acme.example"},
		"an ideographic full stop":               {"acme。example。", "acme.example"},
		"sharp s is a letter of its own":         {"straße.example", "xn--strae-oqa.example"},
		"a capital I with a dot":                 {"\u0130.example", "xn--i-9bb.example"},
		"a Cyrillic a is not a Latin one":        {"\u0430cme.example", "xn--cme-5cd.example"},
		"right to left":                          {"אבג.example", "xn--4dbcd.example"},
		"labels of 63 characters":                {label63 + ".example", label63 + ".example"},
		"253 characters":                         {strings.Repeat(label63+".", 3) + strings.Repeat("b", 61), strings.Repeat(label63+".", 3) + strings.Repeat("b", 61)},
		"nothing":                                {"", ""},
		"a dot":                                  {".", ""},
		"a port alone":                           {":80", ""},
		"a single label":                         {"localhost", ""},
		"a single label with a trailing dot":     {"localhost.", ""},
		"a port that is no number":               {"acme.example:http", ""},
		"a port beyond all ports":                {"acme.example:65536", ""},
		"a long port":                            {"acme.example:00000000000000000000080", ""},
		"two ports":                              {"acme.example:80:80", ""},
		"a scheme":                               {"https://acme.example", ""},
		"a path":                                 {"acme.example/a", ""},
		"a user":                                 {"user@acme.example", ""},
		"a wildcard":                             {"*.acme.example", ""},
		"an underscore":                          {"a_b.example", ""},
		"a space":                                {"a b.example", ""},
		"a percent sign":                         {"a%2eb.example", ""},
		"NUL":                                    {"acme\x00.example", ""},
		"invalid UTF-8":                          {"acme\xff.example", ""},
		"an empty label":                         {"acme..example", ""},
		"a leading dot":                          {".acme.example", ""},
		"two trailing dots":                      {"acme.example..", ""},
		"a hyphen in front":                      {"-a.example", ""},
		"a hyphen behind":                        {"a-.example", ""},
		"a broken ASCII form":                    {"xn--a.example", ""},
		"an ASCII form of plain ASCII":           {"xn--abc-.example", ""},
		"a zero-width joiner":                    {"a\u200db.example", ""},
		"a soft hyphen disappears":               {"ac\u00adme.example", "acme.example"},
		"a label of 64 characters":               {label63 + "a.example", ""},
		"254 characters":                         {strings.Repeat(label63+".", 3) + strings.Repeat("b", 62), ""},
		"a kilobyte":                             {strings.Repeat("a.", 500) + "b", ""},
		"a label that is too long as ASCII":      {strings.Repeat("ü", 60) + ".example", ""},
		"an IPv4 address":                        {"192.0.2.1", ""},
		"an IPv4 address with port":              {"192.0.2.1:80", ""},
		"an IPv4 address with a trailing dot":    {"192.0.2.1.", ""},
		"an IPv4 address in full-width digits":   {"１９２.0.2.1", ""},
		"a short IPv4 address":                   {"127.1", ""},
		"an IPv4 address with hexadecimal parts": {"0x7f.0.0.0x1", ""},
		"an IPv4 address with octal parts":       {"0300.0.2.1", ""},
		"an IPv6 address":                        {"2001:db8::1", ""},
		"an IPv6 address in brackets":            {"[2001:db8::1]", ""},
		"an IPv6 address with port":              {"[2001:db8::1]:443", ""},
		"an IPv6 address of an IPv4 address":     {"::ffff:192.0.2.1", ""},
		"an IPv6 address that looks like a port": {"::1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tenant.CanonicalHost(c.host)
			require.Equal(t, c.want == "", err != nil, "%q %v", got, err)
			require.Equal(t, c.want, got)
			if err != nil {
				require.Less(t, len(err.Error()), 400)
			}
		})
	}
}

// The canonical form is its own canonical form, and ASCII whatever came in.
func TestCanonicalHostIsCanonical(t *testing.T) {
	parts := rapid.OneOf(rapid.StringMatching(`[a-zA-Z0-9-]{1,10}`), rapid.StringN(0, 5, -1), rapid.SampledFrom([]string{"bücher", "日本", "ａ", "xn--bcher-kva", ""}))
	ends := rapid.SampledFrom([]string{"", "", ".", "。", ":80", ".:80", "..", ":", " "})
	rapid.Check(t, func(t *rapid.T) {
		host := strings.Join(rapid.SliceOfN(parts, 1, 4).Draw(t, "labels"), rapid.SampledFrom([]string{".", "。", "．"}).Draw(t, "dot")) + ends.Draw(t, "end")
		got, err := tenant.CanonicalHost(host)
		if err != nil {
			require.Empty(t, got)
			return
		}
		require.LessOrEqual(t, len(got), 253)
		require.Empty(t, strings.Trim(got, "abcdefghijklmnopqrstuvwxyz0123456789-."), got)
		for label := range strings.SplitSeq(got, ".") {
			require.NotEmpty(t, label, got)
			require.LessOrEqual(t, len(label), 63)
		}
		for _, again := range []string{got, strings.ToUpper(got), got + ".", got + ":65535", got + ".:1"} {
			same, err := tenant.CanonicalHost(again)
			require.NoError(t, err, again)
			require.Equal(t, got, same)
		}
	})
}

func TestNew(t *testing.T) {
	good := tenant.Tenant{ID: "t1", Name: "Acme", TimeZone: "Europe/Berlin", Currency: "EUR", Hosts: []string{"Acme.example:80"}, Slug: "acme"}
	many := make([]string, 51)
	for i := range many {
		many[i] = strings.Repeat("a", i+1) + ".example"
	}
	for name, c := range map[string]struct {
		change   func(*tenant.Tenant)
		pointers string
	}{
		"good":                             {func(*tenant.Tenant) {}, ""},
		"no id":                            {func(d *tenant.Tenant) { d.ID = "" }, "/tenantId"},
		"an id with a line break":          {func(d *tenant.Tenant) { d.ID = "a\nb" }, "/tenantId"},
		"a name of 200 characters":         {func(d *tenant.Tenant) { d.Name = strings.Repeat("é", 200) }, ""},
		"a name of 201 characters":         {func(d *tenant.Tenant) { d.Name = strings.Repeat("é", 201) }, "/name"},
		"a name with wide spaces":          {func(d *tenant.Tenant) { d.Name = "株式会社\u3000東京" }, ""},
		"NUL in a name":                    {func(d *tenant.Tenant) { d.Name = "a\x00" }, "/name"},
		"DEL in a name":                    {func(d *tenant.Tenant) { d.Name = "a\x7f" }, "/name"},
		"a control character beyond ASCII": {func(d *tenant.Tenant) { d.Name = "a\u0085" }, "/name"},
		"invalid UTF-8 in a name":          {func(d *tenant.Tenant) { d.Name = "a\xff" }, "/name"},
		"UTC":                              {func(d *tenant.Tenant) { d.TimeZone = "UTC" }, ""},
		"a zone with two slashes":          {func(d *tenant.Tenant) { d.TimeZone = "America/Argentina/Ushuaia" }, ""},
		"the zone of the machine":          {func(d *tenant.Tenant) { d.TimeZone = "Local" }, "/timeZone"},
		"the zone of the machine as file":  {func(d *tenant.Tenant) { d.TimeZone = "localtime" }, "/timeZone"},
		"a zone with leap seconds":         {func(d *tenant.Tenant) { d.TimeZone = "right/Europe/Berlin" }, "/timeZone"},
		"a zone of the system's folders":   {func(d *tenant.Tenant) { d.TimeZone = "posix/Europe/Berlin" }, "/timeZone"},
		"the zone of an unset machine":     {func(d *tenant.Tenant) { d.TimeZone = "Factory" }, "/timeZone"},
		"an unknown zone":                  {func(d *tenant.Tenant) { d.TimeZone = "Europe/Atlantis" }, "/timeZone"},
		"a zone in another case":           {func(d *tenant.Tenant) { d.TimeZone = "europe/berlin" }, "/timeZone"},
		"a zone that leaves the folder":    {func(d *tenant.Tenant) { d.TimeZone = "../etc/passwd" }, "/timeZone"},
		"a zone that is an offset":         {func(d *tenant.Tenant) { d.TimeZone = "+01:00" }, "/timeZone"},
		"a currency in lower case":         {func(d *tenant.Tenant) { d.Currency = "usd" }, "/currency"},
		"a currency of two letters":        {func(d *tenant.Tenant) { d.Currency = "US" }, "/currency"},
		"a code that is no currency":       {func(d *tenant.Tenant) { d.Currency = "XXX" }, "/currency"},
		"a currency beyond ASCII":          {func(d *tenant.Tenant) { d.Currency = "€" }, "/currency"},
		"a slug with capitals":             {func(d *tenant.Tenant) { d.Slug = "Acme" }, "/slug"},
		"a slug with an underscore":        {func(d *tenant.Tenant) { d.Slug = "a_b" }, "/slug"},
		"a slug of hyphens":                {func(d *tenant.Tenant) { d.Slug = "-" }, "/slug"},
		"a slug of 63 characters":          {func(d *tenant.Tenant) { d.Slug = strings.Repeat("a", 63) }, ""},
		"a slug of 64 characters":          {func(d *tenant.Tenant) { d.Slug = strings.Repeat("a", 64) }, "/slug"},
		"no slug":                          {func(d *tenant.Tenant) { d.Slug = "" }, ""},
		"50 hosts":                         {func(d *tenant.Tenant) { d.Hosts = many[:50] }, ""},
		"51 hosts":                         {func(d *tenant.Tenant) { d.Hosts = many }, "/hosts"},
		"two bad hosts":                    {func(d *tenant.Tenant) { d.Hosts = []string{"localhost", "a.example", "::1"} }, "/hosts/0 /hosts/2"},
		"everything": {func(d *tenant.Tenant) {
			*d = tenant.Tenant{Name: "\n", TimeZone: "x", Currency: "x", Slug: "X", Hosts: []string{""}}
		}, "/tenantId /name /timeZone /currency /slug /hosts/0"},
	} {
		t.Run(name, func(t *testing.T) {
			d := good
			c.change(&d)
			_, err := tenant.New(d)
			var bad *invalid.Error
			var pointers []string
			if errors.As(err, &bad) {
				for _, f := range bad.Fields {
					pointers = append(pointers, f.Pointer)
				}
			}
			require.Equal(t, c.pointers, strings.Join(pointers, " "), "%v", err)
			require.Equal(t, c.pointers == "", err == nil)
		})
	}
}

func TestNewIsCanonical(t *testing.T) {
	got, err := tenant.New(tenant.Tenant{ID: "t1"})
	require.NoError(t, err)
	require.Equal(t, tenant.Tenant{ID: "t1", Name: "t1", TimeZone: "UTC", Currency: "USD", Hosts: []string{}}, got)

	sent := tenant.Tenant{ID: "t1", Hosts: []string{"B.example:80", "a.example.", "b.example", "A.EXAMPLE"}}
	got, err = tenant.New(sent)
	require.NoError(t, err)
	require.Equal(t, []string{"b.example", "a.example"}, got.Hosts, "each host once, in the order of the definition")
	require.Equal(t, "B.example:80", sent.Hosts[0], "what was sent stays as it is")
	again, err := tenant.New(got)
	require.NoError(t, err)
	require.Equal(t, got, again)
}

func TestSecret(t *testing.T) {
	for _, kind := range []tenant.KeyKind{tenant.Admin, tenant.Service, tenant.Scoped} {
		require.True(t, kind.Valid())
		s, err := tenant.NewSecret(kind, strings.NewReader(strings.Repeat("k", 40)))
		require.NoError(t, err)
		require.Regexp(t, `^tg_`+string(kind)+`_[A-Za-z0-9_-]{43}$`, string(s), "43 characters of base64 are 256 bits and a little")
		require.NoError(t, s.Check())
		require.Regexp(t, `^key_[0-9a-f]{16}$`, string(s.KeyID()))
		require.NoError(t, event.CheckID(string(s.KeyID())))
	}
	require.False(t, tenant.KeyKind("root").Valid())
	require.False(t, tenant.KeyKind("").Valid())

	// The hash and the id of a secret are on the log and never change.
	s := tenant.Secret("tg_admin_0123456789abcdef")
	hash := s.Hash()
	require.Equal(t, "key_e948374ff2c258e7", string(s.KeyID()))
	require.Equal(t, byte(0xe9), hash[0])
	require.Equal(t, event.Actor("key:key_1"), tenant.Key{ID: "key_1"}.Actor())

	_, err := tenant.NewSecret(tenant.Admin, strings.NewReader("too few bits"))
	require.Error(t, err)
}

// Every bit of the random source is in the secret: two sources that differ anywhere give different keys.
func TestSecretKeepsAllBits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "bits")
		a, err := tenant.NewSecret(tenant.Service, strings.NewReader(string(bits)))
		require.NoError(t, err)
		bits[rapid.IntRange(0, 31).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		b, err := tenant.NewSecret(tenant.Service, strings.NewReader(string(bits)))
		require.NoError(t, err)
		require.NotEqual(t, a, b)
		require.NotEqual(t, a.Hash(), b.Hash())
		require.NotEqual(t, a.KeyID(), b.KeyID())
	})
}

func TestSecretCheck(t *testing.T) {
	for secret, ok := range map[string]bool{
		strings.Repeat("x", 15): false, strings.Repeat("x", 16): true, strings.Repeat("x", 200): true, strings.Repeat("x", 201): false,
		"0123456789 abcdef": false, "0123456789\x00abcdef": false, "0123456789éabcdef": false, "": false, "0123456789~!abcdef": true,
	} {
		require.Equal(t, ok, tenant.Secret(secret).Check() == nil, "%q", secret)
	}
}
