package tenant

import (
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// NameKind says how a name leads to its tenant.
type NameKind string

// The kinds of names.
const (
	Slug NameKind = "slug" // a label below a base domain, and the first part of a path
	Host NameKind = "host" // a custom domain
)

// Name leads to a tenant. It is in canonical form, and has at most one holder in the whole installation.
type Name struct {
	Kind NameKind
	Name string
}

func (n Name) String() string { return string(n.Kind) + " " + n.Name }

// ParseName reads a name in any spelling and returns its canonical form.
func ParseName(kind, name string) (Name, error) {
	switch k := NameKind(kind); {
	case k == Slug && isLabel(name):
		return Name{k, name}, nil
	case k == Host:
		host, err := CanonicalHost(name)
		return Name{k, host}, err
	case k == Slug:
		return Name{}, errors.New("a slug has " + labelRule)
	default:
		return Name{}, fmt.Errorf("a name is a %s or a %s", Slug, Host)
	}
}

// Holding says which tenant holds a name. The zero Holding is for a name that was never claimed, or was freed.
type Holding struct {
	Tenant   event.TenantID
	Claim    eventstore.Revision // of the claim in the name's stream; a new claim must be verified again
	Released bool                // there is no claim: it leads nowhere, and only this tenant may claim it
}

// NameIn returns the name that an event of a name's stream is about, and the actor; ok is false for other events.
func NameIn(e any) (n Name, by event.Actor, ok bool) {
	switch e := e.(type) {
	case event.NameClaimed:
		return Name{NameKind(e.Kind), e.Name}, e.By, true
	case event.NameReleased:
		return Name{NameKind(e.Kind), e.Name}, e.By, true
	case event.NameFreed:
		return Name{NameKind(e.Kind), e.Name}, e.By, true
	default:
		return Name{}, "", false
	}
}

// HoldingAfter is the holding after an event of the name's stream, whatever came before it; ok is false for events of other
// streams.
func HoldingAfter(e any, at eventstore.Revision) (_ Holding, ok bool) {
	switch e := e.(type) {
	case event.NameClaimed:
		return Holding{Tenant: e.Tenant, Claim: at}, true
	case event.NameReleased:
		return Holding{Tenant: e.Tenant, Released: true}, true
	case event.NameFreed:
		return Holding{}, true
	default:
		return Holding{}, false
	}
}

// Open reports whether a tenant may claim the name.
func (h Holding) Open(to event.TenantID) bool {
	return h.Tenant == "" || h.Released && h.Tenant == to
}

// HostProof records that the DNS of a host confirmed a claim of it.
type HostProof struct {
	Host  string
	Claim eventstore.Revision
}

// Domains are the base domains of the product: the label below one of them is a tenant's slug.
type Domains struct{ bases []string }

// NewDomains accepts host names and single labels such as localhost.
func NewDomains(bases ...string) (d Domains, err error) {
	for _, base := range bases {
		canonical := strings.ToLower(base)
		if !isLabel(canonical) {
			if canonical, err = CanonicalHost(base); err != nil {
				return Domains{}, fmt.Errorf("base domain: %w", err)
			}
		}
		if !slices.Contains(d.bases, canonical) {
			d.bases = append(d.bases, canonical)
		}
	}
	return d, nil
}

// Label returns the slug of a canonical host: the one label below a base domain. ok is false for a base domain, even if it is
// below another one.
func (d Domains) Label(host string) (slug string, ok bool) {
	if slices.Contains(d.bases, host) {
		return "", false
	}
	for _, base := range d.bases {
		if label, found := strings.CutSuffix(host, "."+base); found && isLabel(label) {
			return label, true
		}
	}
	return "", false
}

// IsSubdomain reports whether a canonical host is below a base domain, at any depth, and not a base domain itself. There, a name
// without a holder is an error; elsewhere it just names no tenant.
func (d Domains) IsSubdomain(host string) bool {
	return !slices.Contains(d.bases, host) &&
		slices.ContainsFunc(d.bases, func(base string) bool { return strings.HasSuffix(host, "."+base) })
}

// NameOf is the name that a canonical host belongs to.
func (d Domains) NameOf(host string) Name {
	if label, ok := d.Label(host); ok {
		return Name{Slug, label}
	}
	return Name{Host, host}
}

// Names lists the names that the tenant wants to be found by, each once.
func (t Tenant) Names(d Domains) []Name {
	var names []Name
	if t.Slug != "" {
		names = append(names, Name{Slug, t.Slug})
	}
	for _, host := range t.Hosts {
		if name := d.NameOf(host); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// HostState says whether a tenant's host can be used.
type HostState string

// The states of a host.
const (
	HostOwn        HostState = "own"        // below a base domain: nothing to verify
	HostVerified   HostState = "verified"   // its DNS confirmed the claim
	HostUnverified HostState = "unverified" // it leads nowhere yet, or the tenant does not hold its name
)

// Holds reports whether this holding is the tenant's.
func (t Tenant) Holds(h Holding) bool { return h.Tenant == t.ID && t.ID != "" && !h.Released }

// StateOf is the state of a tenant's host, whose name has this holding. Without configured base domains it is unknown which
// domains are the product's; a host that begins with the tenant's slug is then assumed to be below one.
func (t Tenant) StateOf(host string, h Holding, d Domains) HostState {
	_, below := d.Label(host)
	label, _, _ := strings.Cut(host, ".")
	switch {
	case !t.Holds(h): // a proof does not cover another tenant's claim
		return HostUnverified
	case below || len(d.bases) == 0 && label == t.Slug && t.Slug != "":
		return HostOwn
	case slices.Contains(t.Proofs, HostProof{host, h.Claim}):
		return HostVerified
	default:
		return HostUnverified
	}
}

// Answers reports whether a name with this holding leads to the tenant.
func (t Tenant) Answers(n Name, h Holding, d Domains) bool {
	if !t.Holds(h) || !slices.Contains(t.Names(d), n) {
		return false
	}
	return n.Kind == Slug || t.StateOf(n.Name, h, d) != HostUnverified
}

// Challenge is the DNS record that proves a claim of a host.
type Challenge struct {
	Record string // name of the TXT record
	Value  string
}

// ChallengeOf is the challenge for a claim. It differs for each tenant and claim, so that an old record proves nothing. It is not
// secret: only the host's DNS can show it.
func ChallengeOf(host string, h Holding) Challenge {
	id := uuid.NewSHA1(uuid.NameSpaceDNS, fmt.Appendf(nil, "tollgate\x00%s\x00%s\x00%d", host, h.Tenant, h.Claim))
	token := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(id[:]))
	return Challenge{Record: "_tollgate." + host, Value: "tollgate-verification=" + token}
}
