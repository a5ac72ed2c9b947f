package invoicing

import (
	"context"

	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/export"
)

// InvoicesAt implements app.Books.
func (b *Billing) InvoicesAt(ctx context.Context, t event.TenantID, at eventstore.Position) ([]export.Invoice, error) {
	a, err := b.billed(ctx, t, at)
	all := make([]export.Invoice, len(a.book.Issued))
	for i := range all {
		all[i] = a.exported(i)
	}
	return all, err
}

// JournalAt implements app.Books.
func (b *Billing) JournalAt(ctx context.Context, t event.TenantID, at eventstore.Position) ([]billing.Transfer, error) {
	a, err := b.billed(ctx, t, at)
	return billing.Journal(t, a.entries), err
}

// billed is what the billing stream of a tenant says up to a position, without what was agreed.
func (b *Billing) billed(ctx context.Context, t event.TenantID, at eventstore.Position) (tenantBilling, error) {
	a := tenantBilling{book: billing.Book{Tenant: t}}
	_, err := event.Fold(ctx, b.c.Store, event.BillingStream(t), func(r event.Decoded) bool {
		return r.Position.Offset > at.Offset || a.apply(r)
	})
	return a, err
}

func (a *tenantBilling) exported(i int) export.Invoice {
	inv := a.invoice(i)
	e := export.Invoice{Invoice: inv.Invoice, Tenant: inv.Tenant, State: string(inv.State), FinalisedAt: inv.FinalisedAt, Position: inv.At}
	if v := inv.Voided; v != nil {
		e.Void = &export.CreditNote{Number: v.CreditNote, At: inv.VoidedAt, Rebilled: v.Rebill}
	}
	return e
}
