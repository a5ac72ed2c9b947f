// Package tenant owns what a tenant is: its definition and status, the names and credentials that lead to it, and its
// subscription. Storing any of it is decided elsewhere.
package tenant

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // the time zones, for a machine that has none
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

// ErrUnknown: there is no such tenant.
var ErrUnknown = errors.New("unknown tenant")

const (
	maxNameLength = 200
	maxHosts      = 50
)

// Tenant is a customer company of the product.
type Tenant struct {
	ID       event.TenantID
	Name     string
	TimeZone string   // IANA name; windows and billing periods are in it
	Currency string   // ISO 4217
	Hosts    []string // canonical form
	Slug     string

	Status Status
	Reason string      // of the status; "" for a tenant that was always active
	Proofs []HostProof // one per verified host
}

// Status is what a tenant may do. Facts are recorded in any status, because they happened.
type Status string

// The statuses.
const (
	Active    Status = "active"
	Suspended Status = "suspended" // checks are denied; data can still be read
	Closed    Status = "closed"    // like suspended, and the tenant's own keys can no longer read
)

// Valid reports whether the status exists.
func (s Status) Valid() bool { return s == Active || s == Suspended || s == Closed }

// Apply folds an event of the tenant's stream; ok is false for one that does not belong there.
func (t Tenant) Apply(e any) (_ Tenant, ok bool) {
	switch e := e.(type) {
	case event.TenantDefined:
		t.ID, t.Name, t.TimeZone, t.Currency, t.Hosts, t.Slug = e.Tenant, e.Name, e.TimeZone, e.Currency, e.Hosts, e.Slug
		if t.Status == "" {
			t.Status = Active
		}
	case event.TenantStatusChanged:
		t.Status, t.Reason = Status(e.Status), e.Reason
	case event.HostVerified:
		t.Proofs = slices.DeleteFunc(slices.Clone(t.Proofs), func(p HostProof) bool { return p.Host == e.Host })
		t.Proofs = append(t.Proofs, HostProof{e.Host, e.Claim})
	default:
		return t, false
	}
	return t, true
}

var locations sync.Map // name to *time.Location; there are about six hundred

// Location is the tenant's time zone.
func (t Tenant) Location() (*time.Location, error) {
	if known, ok := locations.Load(t.TimeZone); ok {
		return known.(*time.Location), nil
	}
	zone, err := time.LoadLocation(t.TimeZone)
	if err != nil {
		return nil, fmt.Errorf("time zone of tenant %s: %w", t.ID, err)
	}
	locations.Store(t.TimeZone, zone)
	return zone, nil
}

// New checks a definition and brings it into canonical form. Defaults: UTC, USD, and the id as the name. Hosts are lower-case
// ASCII without port and trailing dot, each once. Error: *invalid.Error.
func New(t Tenant) (Tenant, error) {
	var l invalid.List
	if err := event.CheckID(string(t.ID)); err != nil {
		l.Add("/tenantId", invalid.CodeRequest, "tenantId "+err.Error())
	}
	if t.Name == "" {
		t.Name = string(t.ID)
	}
	if n := utf8.RuneCountInString(t.Name); n > maxNameLength || !utf8.ValidString(t.Name) || strings.ContainsFunc(t.Name, unicode.IsControl) {
		l.Add("/name", invalid.CodeRequest, fmt.Sprintf("name must have at most %d printable characters", maxNameLength))
	}
	if t.TimeZone == "" {
		t.TimeZone = "UTC"
	}
	if !isZone(t.TimeZone) {
		l.Add("/timeZone", invalid.CodeRequest, fmt.Sprintf("timeZone %q is not an IANA time zone such as Europe/Berlin", shorten(t.TimeZone)))
	}
	if t.Currency == "" {
		t.Currency = "USD"
	}
	if !catalog.Currency(t.Currency).Active() {
		l.Add("/currency", invalid.CodeRequest, fmt.Sprintf("currency %q is not an ISO 4217 code in circulation, such as USD", shorten(t.Currency)))
	}
	if t.Slug != "" && !isLabel(t.Slug) {
		l.Add("/slug", invalid.CodeRequest, "slug must have "+labelRule)
	}
	if t.Slug == "t" {
		l.Add("/slug", invalid.CodeRequest, "slug t is taken: paths of tenants start with /t/")
	}
	if len(t.Hosts) > maxHosts {
		l.Add("/hosts", invalid.CodeRequest, fmt.Sprintf("at most %d hosts are allowed", maxHosts))
		t.Hosts = nil
	}
	hosts := make([]string, 0, len(t.Hosts))
	for i, h := range t.Hosts {
		host, err := CanonicalHost(h)
		if err != nil {
			l.Add(fmt.Sprintf("/hosts/%d", i), invalid.CodeRequest, err.Error())
		} else if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	t.Hosts = hosts
	return t, l.Err()
}

// isZone accepts the zones that mean the same everywhere. Many machines have more names in the same folder: their own
// zone, copies that count leap seconds, a placeholder.
func isZone(name string) bool {
	switch folder, _, _ := strings.Cut(name, "/"); folder {
	case "Local", "localtime", "posixrules", "Factory", "posix", "right":
		return false
	}
	_, err := time.LoadLocation(name)
	return err == nil
}

const labelRule = "1-63 characters a-z, 0-9 and -, not at the ends"

func isLabel(s string) bool {
	return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-' && s[len(s)-1] != '-'
}

// hostNames is the look-up profile of UTS 46 with the length limits of the DNS, which idna.Lookup does not check. It also maps
// capitals: strings.ToLower would turn the Turkish capital dotted I into a plain i, which is another name.
var hostNames = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(true), idna.CheckHyphens(true),
	idna.CheckJoiners(true), idna.BidiRule(), idna.VerifyDNSLength(true))

// CanonicalHost returns a host name in the form in which they are compared: lower case, without port and trailing dot,
// internationalised names in ASCII (UTS 46, look-up profile).
func CanonicalHost(host string) (string, error) {
	const most = 1000 // bytes; a longer one cannot shrink to the 253 that are allowed
	h := strings.TrimSpace(host)
	if len(h) > most {
		return "", fmt.Errorf("a host name of %d bytes is too long", len(h))
	}
	if name, port, ok := strings.Cut(h, ":"); ok && isPort(port) {
		h = name
	}
	ascii, err := hostNames.ToASCII(h)
	ascii = strings.TrimSuffix(ascii, ".") // after the mapping, which turns other full stops into ours
	last := ascii[strings.LastIndexByte(ascii, '.')+1:]
	switch {
	case err != nil || !utf8.ValidString(host) || len(last) == len(ascii):
		return "", fmt.Errorf("%q is not a host name", shorten(host))
	case isNumber(last):
		return "", fmt.Errorf("%q is an address, not a host name", shorten(host))
	}
	return ascii, nil
}

// IsLocal reports whether a request's host, with or without port, cannot be a tenant's: it is an IP address or a single label,
// such as localhost or the name of a container. It is much cheaper than CanonicalHost.
func IsLocal(sent string) bool {
	name := sent
	if i := strings.LastIndexByte(sent, ':'); i >= 0 && isPort(sent[i+1:]) {
		name = sent[:i]
	}
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return true
	}
	return isASCII(name) && !strings.Contains(name, ".")
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII })
}

func isPort(s string) bool {
	if s == "" {
		return true
	}
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil && len(s) <= 5
}

// isNumber reports whether browsers treat a name with this last label as an IPv4 address (WHATWG URL, "ends in a number"), even
// with fewer than four parts or in another base.
func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// shorten limits how much of the input an error repeats.
func shorten(s string) string {
	if runes := []rune(s); len(runes) > 100 {
		return string(runes[:100]) + "..."
	}
	return s
}
