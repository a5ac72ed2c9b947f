package invoicing

import (
	"context"
	"errors"
	"time"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

const (
	closingTimeout = time.Minute // for one tenant
	// lookAgain is when a tenant is looked at again at the latest: plans may have changed what is due when.
	lookAgain = 15 * time.Minute
)

// Closing closes the periods of all tenants when they are due. Any number of servers may do it at the same time: each boundary
// has one invoice. It is not safe for concurrent use.
type Closing struct {
	ClosingConfig
	next map[event.TenantID]time.Time // when a tenant is looked at again
}

// ClosingConfig is what closing works with. All of it is required.
type ClosingConfig struct {
	Now     func() time.Time
	Billing *Billing
	Tenants app.TenantLister
	// Backfill is how long a tenant is left alone after a plan was assigned to it: usage of a plan that begins in the past is
	// being imported then. An administrator may close earlier.
	Backfill time.Duration
	// Report is called for each invoice that this process finalised, with a nil error, and for each tenant whose period could not
	// be closed; the tenant is "" where none could be listed.
	Report func(event.TenantID, Invoice, error)
}

// NewClosing makes it.
func NewClosing(c ClosingConfig) *Closing {
	return &Closing{ClosingConfig: c, next: map[event.TenantID]time.Time{}}
}

// Run makes a pass at once and then every so often, until the context ends.
func (c *Closing) Run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := c.Pass(ctx); err != nil && ctx.Err() == nil {
			c.Report("", Invoice{}, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Pass looks at every tenant once and closes what is due. What fails for one tenant is reported and does not keep the others
// waiting. Error: the tenants cannot be listed.
func (c *Closing) Pass(ctx context.Context) error {
	seen := map[event.TenantID]time.Time{}
	err := app.EachTenant(ctx, c.Tenants, func(t event.TenantID) error {
		at, known := c.next[t]
		if now := c.Now(); !known || !now.Before(at) {
			at = c.close(ctx, t, now)
		}
		seen[t] = at
		return ctx.Err()
	})
	if err == nil {
		c.next = seen
	}
	return err
}

// close closes what is due of one tenant, and returns when it is worth looking again.
func (c *Closing) close(ctx context.Context, t event.TenantID, now time.Time) time.Time {
	ctx, cancel := context.WithTimeout(ctx, closingTimeout)
	defer cancel()
	again := now.Add(lookAgain)
	for {
		boundary, due, ok, err := c.Billing.due(ctx, t, c.Backfill)
		if err != nil || !ok {
			if err != nil {
				c.Report(t, Invoice{}, err)
			}
			return again
		}
		if due.After(now) {
			if due.Before(again) {
				return due
			}
			return again
		}
		inv, created, err := c.Billing.Close(ctx, t, boundary, "system") // another server may have been faster
		if err != nil {
			c.Report(t, Invoice{}, err)
			return now // with the next pass
		}
		if created {
			c.Report(t, inv, nil)
		}
	}
}

// due is the next boundary of a tenant, and when it is to be closed by itself; ok is false where there is none.
func (b *Billing) due(ctx context.Context, id event.TenantID, backfill time.Duration) (boundary, due time.Time, ok bool, err error) {
	a, err := b.read(ctx, id)
	if errors.Is(err, tenant.ErrUnknown) || err == nil && len(a.book.Terms) == 0 {
		return boundary, due, false, nil
	}
	if err != nil {
		return boundary, due, false, err
	}
	p, boundary, ok := a.book.Due()
	if !ok {
		return boundary, due, false, nil
	}
	due = boundary.Add(a.book.Grace(p))
	if filled := a.assigned.Add(backfill); filled.After(due) {
		due = filled
	}
	return boundary, due, true, nil
}
