package invoicing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/optimistic"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// Preview is the invoice of the period that is open now, as if the ones before it were closed. Errors:
// tenant.ErrUnknown; ErrNothingToBill; billing.ErrUnpriced, ErrCurrencies.
func (b *Billing) Preview(ctx context.Context, id event.TenantID) (Invoice, error) {
	a, err := b.read(ctx, id)
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

// Close finalises the invoice of a boundary, and those of the boundaries before it that are open; the answer is the last one,
// and created is false when it was there. A zero boundary is the next one. It returns when the invoice is durable. Errors:
// tenant.ErrUnknown; ErrNothingToBill; ErrNotDue; *invalid.Error where there is no such boundary; billing.ErrUnpriced,
// ErrCurrencies; those of the store.
func (b *Billing) Close(ctx context.Context, id event.TenantID, boundary time.Time, by event.Actor) (_ Invoice, created bool, err error) {
	var last *Invoice // of the boundary, once it is there
	closeNext := func() (done bool, err error) {
		a, err := b.read(ctx, id)
		if err != nil {
			return false, err
		}
		if i := slices.IndexFunc(a.book.Issued, func(i billing.Issued) bool { return i.PeriodEnd.Equal(boundary) }); i >= 0 {
			inv := a.invoice(i)
			last = &inv
			return true, nil
		}
		if len(a.book.Terms) == 0 {
			return false, fmt.Errorf("%w: the tenant has no plan", ErrNothingToBill)
		}
		p, due, ok := a.book.Due()
		switch {
		case !ok:
			return false, fmt.Errorf("%w: everything is invoiced", ErrNothingToBill)
		case boundary.IsZero():
			boundary = due
		case due.After(boundary):
			return false, invalid.New("/periodEnd", invalid.CodeRequest,
				fmt.Sprintf("no period ends at %s; the next one ends at %s", boundary.UTC().Format(time.RFC3339Nano), due.UTC().Format(time.RFC3339Nano)))
		}
		created, err = b.finalise(ctx, a, p, due, by)
		return created, err
	}
	for last == nil {
		if err := optimistic.Retry("the invoices of the tenant", closeNext); err != nil {
			return Invoice{}, false, err
		}
	}
	return *last, created, nil
}

// finalise appends the next invoice; written is false when another server was faster.
func (b *Billing) finalise(ctx context.Context, a tenantBilling, p billing.Period, due time.Time, by event.Actor) (written bool, err error) {
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
	r, _, err := optimistic.Append(ctx, b.c.Store, e.Append(a.revision))
	return r.Outcome == eventstore.Appended, err
}

// readable makes sure that what is about to be written can be read again as the same.
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

func (a *tenantBilling) invoice(i int) Invoice {
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
	a, err := b.read(ctx, id)
	if err != nil {
		return nil, err
	}
	all := make([]Invoice, 0, len(a.book.Issued))
	for i := range slices.Backward(a.book.Issued) {
		all = append(all, a.invoice(i))
	}
	return all, nil
}

// Invoice is one of a tenant's invoices. Errors: tenant.ErrUnknown; app.ErrNotFound.
func (b *Billing) Invoice(ctx context.Context, id event.TenantID, invoice event.InvoiceID) (Invoice, error) {
	a, err := b.read(ctx, id)
	if err != nil {
		return Invoice{}, err
	}
	i := slices.IndexFunc(a.book.Issued, func(i billing.Issued) bool { return i.ID == invoice })
	if i < 0 {
		return Invoice{}, fmt.Errorf("invoice %q: %w", invalid.Shorten(string(invoice)), app.ErrNotFound)
	}
	return a.invoice(i), nil
}

// Void takes an invoice back with a credit note that mirrors its lines; again is no error. With rebill, what it was about is
// owed again with the next invoice; else it is forgiven. Errors: app.ErrNotFound; *invalid.Error; app.ErrConflict, where something
// would count twice, see billing.Book.CanVoid.
func (b *Billing) Void(ctx context.Context, invoice event.InvoiceID, rebill bool, reason string, by event.Actor) (Invoice, error) {
	if err := app.CheckReason(reason); err != nil {
		return Invoice{}, err
	}
	return b.change(ctx, invoice, func(a *tenantBilling, i int) (eventstore.Append, error) {
		inv := a.book.Issued[i]
		if inv.Voided != nil {
			return eventstore.Append{}, errDone
		}
		if why := a.book.CanVoid(i, rebill); why != "" {
			return eventstore.Append{}, fmt.Errorf("%w: %s", app.ErrConflict, why)
		}
		e := event.InvoiceVoided{Tenant: a.book.Tenant, ID: invoice, CreditNote: billing.CreditNoteOf(inv.Invoice), Rebill: rebill, Reason: reason, By: by}
		return e.Append(a.revision), nil
	})
}

// Settle notes that an invoice is paid, or that it will not be. Again is no error; an invoice that was given up may
// be paid after all. Errors: app.ErrNotFound; *invalid.Error; app.ErrConflict, for an invoice that is void or paid.
func (b *Billing) Settle(ctx context.Context, e event.InvoiceSettled) (Invoice, error) {
	if e.Reference == "" || !invalid.IsText(e.Reference, app.MaxReason, "\n\r\t") {
		return Invoice{}, invalid.New("/reference", invalid.CodeRequest,
			fmt.Sprintf("reference is required, with at most %d printable characters", app.MaxReason))
	}
	return b.change(ctx, e.ID, func(a *tenantBilling, i int) (eventstore.Append, error) {
		inv := a.book.Issued[i]
		switch {
		case inv.Voided != nil:
			return eventstore.Append{}, fmt.Errorf("%w: the invoice is void", app.ErrConflict)
		case inv.Settled != nil && inv.Settled.As == e.As:
			return eventstore.Append{}, errDone
		case inv.Settled != nil && inv.Settled.As == event.Paid:
			return eventstore.Append{}, fmt.Errorf("%w: the invoice is paid", app.ErrConflict)
		}
		e.Tenant = a.book.Tenant
		return e.Append(a.revision), nil
	})
}

// change decides about an invoice.
func (b *Billing) change(ctx context.Context, invoice event.InvoiceID, decide func(a *tenantBilling, i int) (eventstore.Append, error)) (changed Invoice, err error) {
	notFound := fmt.Errorf("invoice %q: %w", invalid.Shorten(string(invoice)), app.ErrNotFound)
	id, ok := billing.TenantOf(invoice)
	if !ok {
		return changed, notFound
	}
	_, err = b.revise(ctx, id, func(a *tenantBilling) (eventstore.Append, error) {
		i := slices.IndexFunc(a.book.Issued, func(i billing.Issued) bool { return i.ID == invoice })
		if i < 0 {
			return eventstore.Append{}, notFound
		}
		changed = a.invoice(i)
		return decide(a, i)
	})
	if errors.Is(err, tenant.ErrUnknown) {
		err = notFound
	}
	if err != nil {
		return Invoice{}, err
	}
	return changed, nil
}
