package app

import (
	"context"
	"fmt"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/optimistic"
)

// SwitchTenant notes on the tenant's timeline that an administrator acts inside the tenant, before it does. Errors:
// *invalid.Error, tenant.ErrUnknown.
func (l *Ledger) SwitchTenant(ctx context.Context, to event.TenantID, reason string, by event.Actor) error {
	if err := CheckReason(reason); err != nil {
		return err
	}
	if _, err := l.directory.Tenant(ctx, to); err != nil {
		return fmt.Errorf("tenant %q: %w", to, err)
	}
	e := event.AdminSwitched{Tenant: to, Reason: reason, Day: l.now().UTC().Format(time.DateOnly), By: by}
	_, _, err := optimistic.Append(ctx, l.store, e.Append())
	return err
}
