// Package tenant owns who a customer company is and what credentials name it.
package tenant

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	_ "time/tzdata" // a tenant's zone must mean the same on every machine
	"unicode/utf8"

	"golang.org/x/net/idna"

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
}

// New checks a definition and puts it into canonical form: an empty zone is UTC, an empty currency USD, an empty name the
// id; hosts are lower case ASCII without port and trailing dot. The error is an *invalid.Error.
func New(t Tenant) (Tenant, error) {
	var l invalid.List
	if err := event.CheckID(string(t.ID)); err != nil {
		l.Add("/tenantId", "invalid_event", "tenantId "+err.Error())
	}
	if t.Name == "" {
		t.Name = string(t.ID)
	}
	if n := utf8.RuneCountInString(t.Name); n > maxNameLength || strings.ContainsFunc(t.Name, isControl) {
		l.Add("/name", "invalid_event", fmt.Sprintf("name must have at most %d printable characters", maxNameLength))
	}
	if t.TimeZone == "" {
		t.TimeZone = "UTC"
	}
	if _, err := time.LoadLocation(t.TimeZone); err != nil || t.TimeZone == "Local" {
		l.Add("/timeZone", "invalid_event", fmt.Sprintf("timeZone %q is not an IANA time zone such as Europe/Berlin", t.TimeZone))
	}
	if t.Currency == "" {
		t.Currency = "USD"
	}
	if len(t.Currency) != 3 || strings.Trim(t.Currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		l.Add("/currency", "invalid_event", fmt.Sprintf("currency %q is not an ISO 4217 code such as USD", t.Currency))
	}
	if t.Slug != "" && !isLabel(t.Slug) {
		l.Add("/slug", "invalid_event", "slug must have 1-63 characters a-z, 0-9 and -, not at the ends")
	}
	if len(t.Hosts) > maxHosts {
		l.Add("/hosts", "invalid_event", fmt.Sprintf("at most %d hosts are allowed", maxHosts))
		t.Hosts = nil
	}
	hosts := make([]string, 0, len(t.Hosts))
	for i, h := range t.Hosts {
		host, err := CanonicalHost(h)
		if err != nil {
			l.Add(fmt.Sprintf("/hosts/%d", i), "invalid_event", err.Error())
		}
		hosts = append(hosts, host)
	}
	t.Hosts = hosts
	return t, l.Err()
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func isLabel(s string) bool {
	return len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-' && s[len(s)-1] != '-'
}

// CanonicalHost is the one form in which host names are compared: lower case, without port and trailing dot,
// internationalised names in their ASCII form (UTS 46 look-up profile).
func CanonicalHost(host string) (string, error) {
	h := strings.TrimSpace(host)
	if name, port, ok := strings.Cut(h, ":"); ok && strings.Trim(port, "0123456789") == "" {
		h = name
	}
	h = strings.TrimSuffix(h, ".")
	ascii, err := idna.Lookup.ToASCII(strings.ToLower(h))
	if err != nil || ascii == "" || len(ascii) > 253 || !strings.Contains(ascii, ".") {
		return "", fmt.Errorf("%q is not a host name", host)
	}
	if _, err := netip.ParseAddr(ascii); err == nil {
		return "", fmt.Errorf("%q is an address, not a host name", host)
	}
	return ascii, nil
}
