package export

import (
	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/catalog"
)

var journalColumns = []Column{
	{Name: "id"}, {Name: "tenantId"}, {Name: "postedAt", Type: Instant}, {Name: "kind"},
	{Name: "debit"}, {Name: "credit"}, {Name: "amount", Type: Money}, {Name: "currency"},
	{Name: "invoiceId", Nullable: true}, {Name: "grantId", Nullable: true}, {Name: "price", Nullable: true},
	{Name: "position"}, // of the event: transfers with the same position were posted together
}

// JournalRow is a transfer. A row has both the debit and the credit, so any part of the journal balances.
func JournalRow(t *billing.Transfer) Row {
	return Row{text(t.ID), text(string(t.Tenant)), instant(t.PostedAt), text(string(t.Kind)), text(string(t.Debit)), text(string(t.Credit)),
		amount(t.Amount, catalog.Currency(t.Currency).MinorUnits()), text(t.Currency),
		optional(string(t.Invoice)), optional(string(t.Grant)), optional(t.Price), text(t.Position.String())}
}
