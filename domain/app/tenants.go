package app

import (
	"context"
	"fmt"
	"slices"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// TenantChange answers a definition of a tenant.
type TenantChange struct {
	Tenant   tenant.Tenant
	Created  bool
	Position eventstore.Position // of the definition in force
}

// DefineTenant creates a tenant or replaces its definition; the definition in force again writes nothing. Errors:
// *invalid.Error, ErrConflict.
func (l *Ledger) DefineTenant(ctx context.Context, definition tenant.Tenant, by event.Actor) (TenantChange, error) {
	t, err := tenant.New(definition)
	if err != nil {
		return TenantChange{}, err
	}
	next := event.TenantDefined{Tenant: t.ID, Name: t.Name, TimeZone: t.TimeZone, Currency: t.Currency, Hosts: t.Hosts, Slug: t.Slug, By: by}
	for range maxAttempts {
		recorded, err := l.readStream(ctx, event.TenantStream(t.ID))
		if err != nil {
			return TenantChange{}, err
		}
		if n := len(recorded); n > 0 {
			payload, err := event.Decode(recorded[n-1])
			if err != nil {
				return TenantChange{}, err
			}
			if last, ok := payload.(event.TenantDefined); ok && sameDefinition(last, next) {
				at := recorded[n-1].Position
				return TenantChange{Tenant: t, Position: at}, l.reached(ctx, at)
			}
		}
		r, err := l.appendOne(ctx, next.Append(eventstore.Revision(len(recorded))-1))
		if err != nil {
			return TenantChange{}, err
		}
		if r.Outcome == eventstore.Conflict {
			continue
		}
		return TenantChange{Tenant: t, Created: len(recorded) == 0 && r.Outcome == eventstore.Appended, Position: r.Position}, l.reached(ctx, r.Position)
	}
	return TenantChange{}, fmt.Errorf("%w: the tenant is being changed by others at the same time", ErrConflict)
}

// sameDefinition ignores who said it.
func sameDefinition(a, b event.TenantDefined) bool {
	return a.Name == b.Name && a.TimeZone == b.TimeZone && a.Currency == b.Currency && a.Slug == b.Slug && slices.Equal(a.Hosts, b.Hosts)
}
