package app

import (
	"context"
	"fmt"
	"slices"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/optimistic"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// TenantChange answers a change of a tenant.
type TenantChange struct {
	Tenant   tenant.Tenant
	Created  bool
	Position eventstore.Position // of what is in force
}

// DefineTenant creates a tenant or replaces its definition; the definition in force again writes nothing. Its names are
// claimed before, and those that it does not use any more are released after. Errors: *invalid.Error; ErrConflict
// where another tenant has one of the names; ErrContended.
func (l *Ledger) DefineTenant(ctx context.Context, definition tenant.Tenant, by event.Actor) (TenantChange, error) {
	t, err := tenant.New(definition)
	if err != nil {
		return TenantChange{}, err
	}
	next := event.TenantDefined{Tenant: t.ID, Name: t.Name, TimeZone: t.TimeZone, Currency: t.Currency, Hosts: t.Hosts, Slug: t.Slug, By: by}
	if _, _, err := l.claim(ctx, t, by); err != nil {
		return TenantChange{}, err
	}
	change, err := l.changeTenant(ctx, t.ID, func(s tenantState) (eventstore.Append, error) {
		if s.defined && sameDefinition(s.Tenant, t) {
			return optimistic.Nothing, nil
		}
		return next.Append(s.revision), nil
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
// tenant.ErrUnknown; ErrContended.
func (l *Ledger) SetStatus(ctx context.Context, id event.TenantID, status tenant.Status, reason string, by event.Actor) (TenantChange, error) {
	if !status.Valid() {
		return TenantChange{}, invalid.New("/status", invalid.CodeRequest, fmt.Sprintf("status must be %s, %s or %s", tenant.Active, tenant.Suspended, tenant.Closed))
	}
	if err := CheckReason(reason); err != nil {
		return TenantChange{}, err
	}
	change, err := l.changeTenant(ctx, id, func(s tenantState) (eventstore.Append, error) {
		switch {
		case !s.defined:
			return optimistic.Nothing, fmt.Errorf("tenant %q: %w", id, tenant.ErrUnknown)
		case s.Status == status:
			return optimistic.Nothing, nil
		}
		return event.TenantStatusChanged{Tenant: id, Status: string(status), Reason: reason, By: by}.Append(s.revision), nil
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

func (l *Ledger) tenantState(ctx context.Context, id event.TenantID) (s tenantState, err error) {
	s.revision, err = event.Fold(ctx, l.store, event.TenantStream(id), func(r event.Decoded) (ok bool) {
		if s.Tenant, ok = s.Apply(r.Payload); !ok {
			return false
		}
		s.last = r.Position
		if _, defines := r.Payload.(event.TenantDefined); defines {
			s.defined = true
			s.everUsed = append(s.everUsed, s.Names(l.domains)...)
		}
		return true
	})
	return s, err
}

// changeTenant changes a tenant as decide says.
func (l *Ledger) changeTenant(ctx context.Context, id event.TenantID, decide func(tenantState) (eventstore.Append, error)) (TenantChange, error) {
	read := func(ctx context.Context) (tenantState, error) { return l.tenantState(ctx, id) }
	c, err := optimistic.Do(ctx, l.store, "the tenant", read, decide)
	switch {
	case err != nil:
		return TenantChange{}, err
	case !c.Written:
		return TenantChange{Tenant: c.State.Tenant, Position: c.State.last}, nil
	}
	changed, err := l.tenantState(ctx, id)
	return TenantChange{Tenant: changed.Tenant, Created: !c.State.defined && c.Result.Outcome == eventstore.Appended, Position: c.Result.Position}, err
}
