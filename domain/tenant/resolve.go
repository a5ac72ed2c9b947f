package tenant

import (
	"errors"

	"github.com/tollgate-io/tollgate/domain/event"
)

var (
	// ErrRequired: nothing in the request names a tenant.
	ErrRequired = errors.New("the request names no tenant")
	// ErrConflict: the request names more than one tenant.
	ErrConflict = errors.New("the request names different tenants")
	// ErrMismatch: a tenant's own key names another tenant.
	ErrMismatch = errors.New("a tenant key can only name its own tenant")
)

// Signals are the places of a request that may name its tenant; "" names none.
type Signals struct {
	Credential event.TenantID // of a Scoped key; it decides, and the others must agree
	Headers    []string       // every value of X-Tenant-Id
	Host       event.TenantID // the tenant of the host name that the request was sent to
	Path       event.TenantID // the tenant whose slug starts the path, or whose id is in it
	Body       event.TenantID // tenantId of an event, subject of a CloudEvent
	Switch     event.TenantID // the tenant that an administrator switched to
}

// Resolve is the one rule by which every route finds its tenant: all signals that are present must agree. It does not check
// whether the tenant exists, nor whether the credential may act for it. Errors: ErrMismatch, ErrConflict,
// ErrRequired.
func Resolve(s Signals) (event.TenantID, error) {
	named, disagree := s.Credential, false
	name := func(t event.TenantID) {
		switch {
		case t == "":
		case named == "":
			named = t
		case named != t:
			disagree = true
		}
	}
	for _, h := range s.Headers {
		name(event.TenantID(h))
	}
	name(s.Host)
	name(s.Path)
	name(s.Body)
	name(s.Switch)
	switch {
	case disagree && s.Credential != "":
		return "", ErrMismatch
	case disagree:
		return "", ErrConflict
	case named == "":
		return "", ErrRequired
	default:
		return named, nil
	}
}
