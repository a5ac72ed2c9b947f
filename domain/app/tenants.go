package app

import (
	"context"
	"fmt"
	"slices"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// TenantChange answers a change of a tenant.
type TenantChange struct {
	Tenant   tenant.Tenant
	Created  bool
	Position eventstore.Position // of what is in force
}

// DefineTenant creates a tenant or replaces its definition; the definition in force again writes nothing. Its names are
// claimed before, and those that it does not use any more are released after. Errors: *invalid.Error; ErrConflict, also
// where another tenant has one of the names.
func (l *Ledger) DefineTenant(ctx context.Context, definition tenant.Tenant, by event.Actor) (TenantChange, error) {
	t, err := tenant.New(definition)
	if err != nil {
		return TenantChange{}, err
	}
	next := event.TenantDefined{Tenant: t.ID, Name: t.Name, TimeZone: t.TimeZone, Currency: t.Currency, Hosts: t.Hosts, Slug: t.Slug, By: by}
	if _, _, err := l.claim(ctx, t, by); err != nil {
		return TenantChange{}, err
	}
	change, err := l.changeTenant(ctx, t.ID, func(s tenantState) (*eventstore.Append, error) {
		if s.defined && sameDefinition(s.Tenant, t) {
			return nil, nil //nolint:nilnil // nothing to write
		}
		a := next.Append(s.revision)
		return &a, nil
	})
	if err != nil {
		return TenantChange{}, err
	}
	names, err := l.settle(ctx, t.ID, by)
	if err == nil {
		err = l.namesReached(ctx, names)
	}
	if err == nil {
		err = l.reached(ctx, change.Position)
	}
	if err != nil {
		return TenantChange{}, err
	}
	return change, nil
}

// sameDefinition ignores what a definition does not say.
func sameDefinition(a, b tenant.Tenant) bool {
	return a.Name == b.Name && a.TimeZone == b.TimeZone && a.Currency == b.Currency && a.Slug == b.Slug && slices.Equal(a.Hosts, b.Hosts)
}

// SetStatus lets a tenant do more or less than before; the status in force again writes nothing. Errors: *invalid.Error;
// tenant.ErrUnknown; ErrConflict.
func (l *Ledger) SetStatus(ctx context.Context, id event.TenantID, status tenant.Status, reason string, by event.Actor) (TenantChange, error) {
	if !status.Valid() {
		return TenantChange{}, invalid.New("/status", "invalid_event", fmt.Sprintf("status must be %s, %s or %s", tenant.Active, tenant.Suspended, tenant.Closed))
	}
	if err := CheckReason(reason); err != nil {
		return TenantChange{}, err
	}
	change, err := l.changeTenant(ctx, id, func(s tenantState) (*eventstore.Append, error) {
		switch {
		case !s.defined:
			return nil, fmt.Errorf("tenant %q: %w", id, tenant.ErrUnknown)
		case s.Status == status:
			return nil, nil //nolint:nilnil // nothing to write
		}
		a := event.TenantStatusChanged{Tenant: id, Status: string(status), Reason: reason, By: by}.Append(s.revision)
		return &a, nil
	})
	if err != nil {
		return TenantChange{}, err
	}
	return change, l.reached(ctx, change.Position)
}

// tenantState is a tenant as its stream has it.
type tenantState struct {
	tenant.Tenant
	defined  bool
	revision eventstore.Revision
	last     eventstore.Position
	everUsed []tenant.Name // of all definitions, the latest too
}

func (l *Ledger) tenantState(ctx context.Context, id event.TenantID) (tenantState, error) {
	recorded, err := eventstore.ReadAll(ctx, l.store, event.TenantStream(id))
	s := tenantState{revision: eventstore.Revision(len(recorded)) - 1}
	if err != nil {
		return s, err
	}
	for _, r := range recorded {
		payload, err := event.Decode(r)
		if err != nil {
			return s, err
		}
		var ok bool
		if s.Tenant, ok = s.Apply(payload); !ok {
			return s, fmt.Errorf("%w: %T in the stream of a tenant", event.ErrMalformed, payload)
		}
		s.last = r.Position
		if _, defines := payload.(event.TenantDefined); defines {
			s.defined = true
			s.everUsed = append(s.everUsed, s.Names(l.domains)...)
		}
	}
	return s, nil
}

// changeTenant decides on a tenant as the log has it and appends at its revision; nil is nothing to write. When somebody was
// faster, it decides again.
func (l *Ledger) changeTenant(ctx context.Context, id event.TenantID, decide func(tenantState) (*eventstore.Append, error)) (TenantChange, error) {
	for range maxAttempts {
		s, err := l.tenantState(ctx, id)
		if err != nil {
			return TenantChange{}, err
		}
		a, err := decide(s)
		if err != nil {
			return TenantChange{}, err
		}
		if a == nil {
			return TenantChange{Tenant: s.Tenant, Position: s.last}, nil
		}
		r, err := l.appendOne(ctx, *a)
		if err != nil {
			return TenantChange{}, err
		}
		if r.Outcome == eventstore.Conflict {
			continue
		}
		changed, err := l.tenantState(ctx, id)
		return TenantChange{Tenant: changed.Tenant, Created: !s.defined && r.Outcome == eventstore.Appended, Position: r.Position}, err
	}
	return TenantChange{}, fmt.Errorf("%w: the tenant is being changed by others at the same time", ErrConflict)
}
