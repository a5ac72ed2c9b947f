package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
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

// BillingConfig is what billing works with. All of it is required.
type BillingConfig struct {
	Store     eventstore.Store
	Directory Directory
	Metering  Metering
	Catalogs  Catalogs
	Facts     FactList
	Now       func() time.Time
}

// Billing makes invoices. The tenant's billing stream is the boundary of consistency: whoever closes a period appends at the
// revision that it decided on, so each boundary has one invoice whatever the number of servers, retries and crashes.
type Billing struct{ c BillingConfig }

// NewBilling makes it.
func NewBilling(c BillingConfig) *Billing { return &Billing{c} }

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

// Invoice is an invoice, or how one stands.
type Invoice struct {
	billing.Issued
	Tenant event.TenantID
	State  InvoiceState
	At     eventstore.Position // where it is finalised; zero for a draft
}

// defaultCurrency is that of tenants that have none, and no plan.
const defaultCurrency = "USD"

// account is what is known of a tenant's billing.
type account struct {
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

// account reads what the log says, not what read models say: an invoice must know every plan change that came before it.
func (b *Billing) account(ctx context.Context, id event.TenantID) (account, error) {
	a := account{book: billing.Book{Tenant: id}}
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
	a.subscription, err = b.fold(ctx, event.SubscriptionStream(id), func(r eventstore.Recorded, e any) bool {
		var ok bool
		if _, is := e.(event.PlanAssigned); is {
			a.assigned = r.RecordedAt
		}
		s, ok = s.Apply(e)
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
	a.revision, err = b.fold(ctx, event.BillingStream(id), a.apply)
	return a, err
}

// apply folds an event of the billing stream; false for one that cannot be there.
func (a *account) apply(r eventstore.Recorded, e any) bool {
	issued := func(id event.InvoiceID) *billing.Issued {
		if i := slices.IndexFunc(a.book.Issued, func(i billing.Issued) bool { return i.ID == id }); i >= 0 {
			return &a.book.Issued[i]
		}
		return nil
	}
	switch e := e.(type) {
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
	a.entries = append(a.entries, billing.Entry{Position: r.Position, RecordedAt: r.RecordedAt, Payload: e})
	return true
}

// fold reads a stream; apply says whether an event belongs there.
func (b *Billing) fold(ctx context.Context, name eventstore.StreamName, apply func(eventstore.Recorded, any) bool) (eventstore.Revision, error) {
	recorded, err := readStream(ctx, b.c.Store, name)
	if err != nil {
		return 0, err
	}
	for _, r := range recorded {
		payload, err := event.Decode(r)
		if err != nil {
			return 0, err
		}
		if !apply(r, payload) {
			return 0, fmt.Errorf("%w: %T at %s", event.ErrMalformed, payload, r.Position)
		}
	}
	return eventstore.Revision(len(recorded)) - 1, nil
}

// closed is when a tenant that is closed was closed; zero otherwise.
func (b *Billing) closed(ctx context.Context, id event.TenantID) (at time.Time, err error) {
	_, err = b.fold(ctx, event.TenantStream(id), func(r eventstore.Recorded, e any) bool {
		if s, ok := e.(event.TenantStatusChanged); ok {
			if at = (time.Time{}); tenant.Status(s.Status) == tenant.Closed {
				at = tick(r.RecordedAt)
			}
		}
		return true
	})
	return at, err
}

// catalogs is the history of the configuration.
func (b *Billing) catalogs(ctx context.Context) (applied []billing.Applied, revision eventstore.Revision, err error) {
	recorded, err := readStream(ctx, b.c.Store, event.CatalogStream)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range recorded {
		payload, err := event.Decode(r)
		if err != nil {
			return nil, 0, err
		}
		c, err := b.c.Catalogs.At(ctx, r.Revision)
		if err != nil {
			return nil, 0, err
		}
		applied = append(applied, billing.Applied{At: tick(r.RecordedAt), Catalog: c, Versions: planVersions(payload.(event.CatalogApplied))})
	}
	return applied, eventstore.Revision(len(recorded)) - 1, nil
}

// Preview is the invoice of the period that is open now, as it stands, as if the ones before it were closed. Errors:
// tenant.ErrUnknown; ErrNothingToBill; billing.ErrUnpriced, ErrCurrencies.
func (b *Billing) Preview(ctx context.Context, id event.TenantID) (Invoice, error) {
	a, err := b.account(ctx, id)
	if err != nil {
		return Invoice{}, err
	}
	if len(a.book.Terms) == 0 {
		return Invoice{}, fmt.Errorf("%w: the tenant has no plan", ErrNothingToBill)
	}
	now := b.c.Now()
	open, err := a.open(now)
	if err != nil {
		return Invoice{}, err
	}
	if len(open) == 0 {
		return Invoice{}, fmt.Errorf("%w: everything is invoiced", ErrNothingToBill)
	}
	for _, p := range open {
		inv, err := b.draft(ctx, a, p, eventstore.Position{})
		if err != nil {
			return Invoice{}, err
		}
		a.book.Issued = append(a.book.Issued, billing.Issued{Invoice: inv})
	}
	return Invoice{Issued: a.book.Issued[len(a.book.Issued)-1], Tenant: id, State: InvoiceDraft}, nil
}

// open lists the periods that are not invoiced. Error: ErrNotDue, where there are too many to say how they stand.
func (a *account) open(now time.Time) ([]billing.Period, error) {
	open := a.book.Open(now)
	if n := len(open); n > 0 && !a.book.Ended(open[n-1].End) && !open[n-1].End.After(now) {
		return nil, fmt.Errorf("%w: more than %d periods of tenant %q are open; close some", ErrNotDue, n, a.book.Tenant)
	}
	return open, nil
}

// draft computes an invoice as of a position that is not before the given one.
func (b *Billing) draft(ctx context.Context, a account, p billing.Period, atLeast eventstore.Position) (event.Invoice, error) {
	measures := a.book.Measures(p)
	sums, at, err := b.c.Metering.Sums(ctx, a.book.Tenant, measures, atLeast)
	if err != nil {
		return event.Invoice{}, fmt.Errorf("what tenant %q used: %w", a.book.Tenant, err)
	}
	inv, err := a.book.Draft(p, billing.SumsOf(measures, sums, billing.NeverElsewhere))
	inv.Position, inv.Subscription, inv.Catalog = at.String(), a.subscription, a.catalog
	return inv, err
}

// Close finalises the invoice of a boundary, and those of the boundaries before it that are open; the answer is the last one,
// and created is false when it was there. A zero boundary is the next one. It returns when the invoice is durable. Errors:
// tenant.ErrUnknown; ErrNothingToBill; ErrNotDue; *invalid.Error where there is no such boundary; billing.ErrUnpriced,
// ErrCurrencies; those of the store.
func (b *Billing) Close(ctx context.Context, id event.TenantID, boundary time.Time, by event.Actor) (_ Invoice, created bool, err error) {
	for {
		a, err := b.account(ctx, id)
		if err != nil {
			return Invoice{}, false, err
		}
		if i := slices.IndexFunc(a.book.Issued, func(i billing.Issued) bool { return i.PeriodEnd.Equal(boundary) }); i >= 0 {
			return a.invoice(i), created, nil
		}
		if len(a.book.Terms) == 0 {
			return Invoice{}, false, fmt.Errorf("%w: the tenant has no plan", ErrNothingToBill)
		}
		p, due, ok := a.book.Due()
		switch {
		case !ok:
			return Invoice{}, false, fmt.Errorf("%w: everything is invoiced", ErrNothingToBill)
		case boundary.IsZero():
			boundary = due
		case due.After(boundary):
			return Invoice{}, false, invalid.New("/periodEnd", "invalid_event",
				fmt.Sprintf("no period ends at %s; the next one ends at %s", boundary.UTC().Format(time.RFC3339Nano), due.UTC().Format(time.RFC3339Nano)))
		}
		inv, err := b.finalise(ctx, a, p, due, by)
		if err != nil {
			return Invoice{}, false, err
		}
		created = inv
	}
}

// finalise appends the next invoice; written is false when somebody else was faster.
func (b *Billing) finalise(ctx context.Context, a account, p billing.Period, due time.Time, by event.Actor) (written bool, err error) {
	now := b.c.Now()
	if cutOff := due.Add(a.book.Grace(p)); now.Before(cutOff) {
		return false, fmt.Errorf("%w: it ends at %s, and late usage is waited for until %s", ErrNotDue, due.UTC().Format(time.RFC3339), cutOff.UTC().Format(time.RFC3339))
	}
	// Whatever is recorded from now on is late: the log's time never goes back.
	head, err := b.c.Store.Head(ctx, eventstore.PartitionOf(string(a.book.Tenant), b.c.Store.Partitions()))
	if err != nil {
		return false, err
	}
	inv, err := b.draft(ctx, a, p, head)
	if err != nil {
		return false, err
	}
	e := event.InvoiceFinalised{Tenant: a.book.Tenant, Invoice: inv, By: by}
	if err := readable(e); err != nil {
		return false, err
	}
	r := b.c.Store.Append(ctx, []eventstore.Append{e.Append(a.revision)})[0]
	if r.Outcome == eventstore.Unknown {
		return false, fmt.Errorf("finalise the invoice of %q at %s: %w", a.book.Tenant, due, r.Err)
	}
	return r.Outcome == eventstore.Appended, nil
}

// readable makes sure that what is about to be written for ever can be read again as the same.
func readable(e event.InvoiceFinalised) error {
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write invoice %s: %w", e.Invoice.ID, err)
	}
	var again event.InvoiceFinalised
	if err := json.Unmarshal(text, &again); err != nil {
		return fmt.Errorf("%w: %s", ErrTooMuch, e.Invoice.ID)
	}
	if e.Invoice.Sum().Cmp(again.Invoice.Subtotal) != 0 {
		return fmt.Errorf("%w: the lines of invoice %s do not sum to its subtotal", event.ErrMalformed, e.Invoice.ID)
	}
	if !again.Invoice.Subtotal.Sub(again.Invoice.Credits()).Equal(again.Invoice.Total) {
		return fmt.Errorf("%w: invoice %s is not its subtotal less credits", event.ErrMalformed, e.Invoice.ID)
	}
	return nil
}

func (a *account) invoice(i int) Invoice {
	inv := Invoice{Issued: a.book.Issued[i], Tenant: a.book.Tenant, State: InvoiceFinalised, At: a.at[i]}
	switch {
	case inv.Voided != nil:
		inv.State = InvoiceVoid
	case inv.Settled != nil:
		inv.State = InvoiceState(inv.Settled.As)
	}
	return inv
}

// Invoices lists the invoices of a tenant, newest first. Error: tenant.ErrUnknown.
func (b *Billing) Invoices(ctx context.Context, id event.TenantID) ([]Invoice, error) {
	a, err := b.account(ctx, id)
	if err != nil {
		return nil, err
	}
	all := make([]Invoice, 0, len(a.book.Issued))
	for i := range slices.Backward(a.book.Issued) {
		all = append(all, a.invoice(i))
	}
	return all, nil
}

// Invoice is one of a tenant's invoices. Errors: tenant.ErrUnknown; ErrNotFound.
func (b *Billing) Invoice(ctx context.Context, id event.TenantID, invoice event.InvoiceID) (Invoice, error) {
	a, err := b.account(ctx, id)
	if err != nil {
		return Invoice{}, err
	}
	i := slices.IndexFunc(a.book.Issued, func(i billing.Issued) bool { return i.ID == invoice })
	if i < 0 {
		return Invoice{}, fmt.Errorf("invoice %q: %w", shorten(string(invoice)), ErrNotFound)
	}
	return a.invoice(i), nil
}

// Void takes an invoice back with a credit note that mirrors its lines; again is no error. With rebill, what it was about is
// owed again with the next invoice; else it is forgiven. Errors: ErrNotFound; *invalid.Error; ErrConflict, where something
// would count twice, see billing.Book.CanVoid.
func (b *Billing) Void(ctx context.Context, invoice event.InvoiceID, rebill bool, reason string, by event.Actor) (Invoice, error) {
	if err := checkReason(reason); err != nil {
		return Invoice{}, err
	}
	return b.change(ctx, invoice, func(a *account, i int) (eventstore.Append, error) {
		inv := a.book.Issued[i]
		if inv.Voided != nil {
			return eventstore.Append{}, errDone
		}
		if why := a.book.CanVoid(i, rebill); why != "" {
			return eventstore.Append{}, fmt.Errorf("%w: %s", ErrConflict, why)
		}
		e := event.InvoiceVoided{Tenant: a.book.Tenant, ID: invoice, CreditNote: billing.CreditNoteOf(inv.Invoice), Rebill: rebill, Reason: reason, By: by}
		return e.Append(a.revision), nil
	})
}
