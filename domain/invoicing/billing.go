// Package invoicing owns the billing of tenants, computed from the log: invoices, credit, periods that close by themselves, and
// what an invoice line counts. The rules of invoices and credit are in package billing, which is pure.
package invoicing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/optimistic"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

var (
	// ErrNotDue: the period has not ended, or late usage is still waited for. Close it later.
	ErrNotDue = errors.New("the period cannot be closed yet")
	// ErrNothingToBill: the tenant has no plan, or everything is invoiced.
	ErrNothingToBill = errors.New("there is nothing to bill")
	// ErrTooMuch: a sum is beyond the bounds of the ledger. Void the usage that is too large.
	ErrTooMuch = errors.New("an invoice has numbers beyond the bounds of the ledger")
)

// Metering answers what a tenant used.
type Metering interface {
	// Sums answers measures in their order, all as of one position of the tenant's partition, which is not before the given
	// one: it waits for that, as long as the context lets it.
	Sums(ctx context.Context, t event.TenantID, measures []billing.Measure, atLeast eventstore.Position) ([]billing.Sum, eventstore.Position, error)
}

// Config is what billing works with. All of it is required.
type Config struct {
	Store     eventstore.Store
	Directory app.Directory
	Metering  Metering
	Catalogs  app.Catalogs
	Facts     FactList
	Now       func() time.Time
}

// Billing makes invoices. The tenant's billing stream is the boundary of consistency: a period is closed by an append at the
// revision that was decided on, so each boundary has one invoice whatever the number of servers, retries and crashes.
type Billing struct{ c Config }

// New makes it.
func New(c Config) *Billing { return &Billing{c} }

// InvoiceState is what became of an invoice.
type InvoiceState string

// The states of an invoice.
const (
	InvoiceDraft         InvoiceState = "draft"
	InvoiceFinalised     InvoiceState = "finalised"
	InvoicePaid          InvoiceState = "paid"
	InvoiceUncollectible InvoiceState = "uncollectible"
	InvoiceVoid          InvoiceState = "void"
)

// Invoice is an invoice with its state, or a draft.
type Invoice struct {
	billing.Issued
	Tenant event.TenantID
	State  InvoiceState
	At     eventstore.Position // where it is finalised; zero for a draft
}

// defaultCurrency is that of tenants that have none, and no plan.
const defaultCurrency = "USD"

// tenantBilling is what is known of a tenant's billing.
type tenantBilling struct {
	book     billing.Book
	at       []eventstore.Position // of the issued invoices
	entries  []billing.Entry       // all that is on the billing stream
	revision eventstore.Revision   // of the billing stream
	// What was known at each revision of the subscription and of the catalog.
	subscriptions []tenant.Subscription
	catalogs      []billing.Applied
	assigned      time.Time // when the last plan was assigned
	subscription  eventstore.Revision
	catalog       eventstore.Revision
}

// read reads what the log says, not what read models say: an invoice must know every plan change that came before it.
func (b *Billing) read(ctx context.Context, id event.TenantID) (tenantBilling, error) {
	a := tenantBilling{book: billing.Book{Tenant: id}}
	t, err := b.c.Directory.Tenant(ctx, id)
	if err != nil {
		return a, fmt.Errorf("tenant %q: %w", id, err)
	}
	a.book.Currency = catalog.Currency(cmp.Or(t.Currency, defaultCurrency))
	if a.book.Zone, err = t.Location(); err != nil {
		return a, err
	}
	if a.book.Closed, err = b.closed(ctx, id); err != nil {
		return a, err
	}
	var s tenant.Subscription
	a.subscription, err = event.Fold(ctx, b.c.Store, event.SubscriptionStream(id), func(r event.Decoded) (ok bool) {
		if _, is := r.Payload.(event.PlanAssigned); is {
			a.assigned = r.RecordedAt
		}
		s, ok = s.Apply(r.Payload)
		a.subscriptions = append(a.subscriptions, s)
		return ok
	})
	if err != nil {
		return a, err
	}
	catalogs, revision, err := b.catalogs(ctx)
	if err != nil {
		return a, err
	}
	a.catalog, a.catalogs = revision, catalogs
	a.book.Terms = billing.TermsOf(s, catalogs)
	a.revision, err = event.Fold(ctx, b.c.Store, event.BillingStream(id), a.apply)
	return a, err
}

// apply folds an event of the billing stream; false for one that cannot be there.
func (a *tenantBilling) apply(r event.Decoded) bool {
	issued := func(id event.InvoiceID) *billing.Issued {
		if i := slices.IndexFunc(a.book.Issued, func(i billing.Issued) bool { return i.ID == id }); i >= 0 {
			return &a.book.Issued[i]
		}
		return nil
	}
	switch e := r.Payload.(type) {
	case event.InvoiceFinalised:
		a.book.Issued = append(a.book.Issued, billing.Issued{Invoice: e.Invoice, FinalisedAt: r.RecordedAt})
		a.at = append(a.at, r.Position)
	case event.InvoiceVoided:
		inv := issued(e.ID)
		if inv == nil {
			return false
		}
		inv.Voided, inv.VoidedAt = &e, r.RecordedAt
	case event.InvoiceSettled:
		inv := issued(e.ID)
		if inv == nil {
			return false
		}
		inv.Settled, inv.SettledAt = &e, r.RecordedAt
	case event.CreditGranted:
		a.book.Grants = append(a.book.Grants, billing.Grant{CreditGranted: e, GrantedAt: r.RecordedAt})
	case event.CreditRefunded:
		g := a.book.Grant(e.ID)
		if g == nil {
			return false
		}
		g.Refunded = append(g.Refunded, e)
	default:
		return false
	}
	a.entries = append(a.entries, billing.Entry{Position: r.Position, RecordedAt: r.RecordedAt, Payload: r.Payload})
	return true
}

// closed is when a tenant that is closed was closed; zero otherwise.
func (b *Billing) closed(ctx context.Context, id event.TenantID) (at time.Time, err error) {
	_, err = event.Fold(ctx, b.c.Store, event.TenantStream(id), func(r event.Decoded) bool {
		if s, ok := r.Payload.(event.TenantStatusChanged); ok {
			if at = (time.Time{}); tenant.Status(s.Status) == tenant.Closed {
				at = event.Tick(r.RecordedAt)
			}
		}
		return true
	})
	return at, err
}

// catalogs is the history of the configuration.
func (b *Billing) catalogs(ctx context.Context) (applied []billing.Applied, revision eventstore.Revision, err error) {
	revision, err = event.Fold(ctx, b.c.Store, event.CatalogStream, func(r event.Decoded) bool {
		e, ok := r.Payload.(event.CatalogApplied)
		applied = append(applied, billing.Applied{At: event.Tick(r.RecordedAt), Versions: app.PlanVersions(e)})
		return ok
	})
	if err != nil {
		return nil, 0, err
	}
	for i := range applied {
		if applied[i].Catalog, err = b.c.Catalogs.At(ctx, eventstore.Revision(i)); err != nil {
			return nil, 0, err
		}
	}
	return applied, revision, err
}

// open lists the periods that are not invoiced. Error: ErrNotDue, where there are too many to compute.
func (a *tenantBilling) open(now time.Time) ([]billing.Period, error) {
	open := a.book.Open(now)
	if n := len(open); n > 0 && !a.book.Ended(open[n-1].End) && !open[n-1].End.After(now) {
		return nil, fmt.Errorf("%w: more than %d periods of tenant %q are open; close some", ErrNotDue, n, a.book.Tenant)
	}
	return open, nil
}

// draft computes an invoice as of a position that is not before the given one.
func (b *Billing) draft(ctx context.Context, a tenantBilling, p billing.Period, atLeast eventstore.Position) (event.Invoice, error) {
	measures := a.book.Measures(p)
	sums, at, err := b.c.Metering.Sums(ctx, a.book.Tenant, measures, atLeast)
	if err != nil {
		return event.Invoice{}, fmt.Errorf("what tenant %q used: %w", a.book.Tenant, err)
	}
	inv, err := a.book.Draft(p, billing.SumsOf(measures, sums, billing.MissingPanics))
	inv.Position, inv.Subscription, inv.Catalog = at.String(), a.subscription, a.catalog
	return inv, err
}

// errDone: there is nothing to change.
var errDone = errors.New("done before")

// revise appends what is decided about a tenant's billing. It is decided again until decide returns errDone: after others were
// faster, and after it was written, so that the answer is what the log says. written is whether this call wrote.
func (b *Billing) revise(ctx context.Context, id event.TenantID, decide func(a *tenantBilling) (eventstore.Append, error)) (written bool, err error) {
	err = optimistic.Retry("the billing of the tenant", func() (done bool, err error) {
		a, err := b.read(ctx, id)
		if err != nil {
			return false, err
		}
		e, err := decide(&a)
		if errors.Is(err, errDone) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		r, _, err := optimistic.Append(ctx, b.c.Store, e)
		written = r.Outcome == eventstore.Appended
		return false, err
	})
	return written, err
}
