package export

import (
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Invoice is a finalised invoice with its current state.
type Invoice struct {
	event.Invoice
	Tenant      event.TenantID
	TenantName  string // "" if it has none
	State       string
	FinalisedAt time.Time
	Position    eventstore.Position // of its finalisation
	Void        *CreditNote         // nil: not voided
}

// CreditNote reverses the lines of an invoice.
type CreditNote struct {
	Number   string
	At       time.Time
	Rebilled bool // the usage is invoiced again; otherwise it is forgiven
}

var invoiceColumns = []Column{
	{Name: "tenantId"}, {Name: "invoiceId"}, {Name: "number"}, {Name: "state"}, {Name: "currency"},
	{Name: "periodStart", Type: Instant}, {Name: "periodEnd", Type: Instant}, {Name: "finalisedAt", Type: Instant},
	{Name: "voidedAt", Type: Instant, Nullable: true}, {Name: "creditNote", Nullable: true},
	{Name: "invoiceTotal", Type: Money}, {Name: "position"},
	// Of the line. The number is null for a credit; an invoice without lines has only the amount.
	{Name: "line", Type: Count, Nullable: true}, {Name: "kind", Nullable: true}, {Name: "price", Nullable: true}, {Name: "description", Nullable: true},
	{Name: "grantId", Nullable: true}, {Name: "planVersion", Nullable: true}, {Name: "meter", Nullable: true},
	{Name: "quantity", Type: Quantity, Nullable: true}, {Name: "included", Type: Quantity, Nullable: true}, {Name: "unit", Type: Money, Nullable: true},
	{Name: "linePeriodStart", Type: Instant, Nullable: true}, {Name: "linePeriodEnd", Type: Instant, Nullable: true},
	{Name: "events", Type: Count, Nullable: true}, {Name: "amount", Type: Money},
}

// The kinds of lines that only exports have: what grants pay of an invoice, and what is returned to them.
const (
	creditLine   event.LineKind = "credit"
	returnedLine event.LineKind = "credit_returned"
)

// item is a line of an invoice or a credit that was applied to it. The amounts of all items sum to the invoice's total.
type item struct {
	event.InvoiceLine
	number int // from 1; 0 for a credit
	grant  event.GrantID
}

func itemsOf(inv *Invoice) (items []item) {
	for i := range inv.Lines {
		items = append(items, item{InvoiceLine: inv.Lines[i], number: i + 1})
	}
	start, end := inv.period()
	for _, c := range []struct {
		kind  event.LineKind
		words string
		uses  []event.CreditUse
	}{{creditLine, "Credit: ", inv.Drawn}, {returnedLine, "Credit returned: ", inv.Returned}} {
		for _, u := range c.uses {
			l := event.InvoiceLine{Kind: c.kind, Description: c.words + string(u.Grant), PeriodStart: start, PeriodEnd: end, Amount: u.Amount}
			if c.kind == creditLine {
				l.Amount = u.Amount.Neg()
			}
			items = append(items, item{InvoiceLine: l, grant: u.Grant})
		}
	}
	return items
}

// period of the invoice. If it has only fees in advance, it is the cycle that starts.
func (inv *Invoice) period() (start, end time.Time) {
	if inv.PeriodStart.Before(inv.PeriodEnd) {
		return inv.PeriodStart, inv.PeriodEnd
	}
	return inv.CycleStart, inv.CycleEnd
}

// InvoiceRows are the lines of an invoice and the credits that were applied to it. An invoice without any is one row without a
// line.
func InvoiceRows(inv *Invoice) (rows []Row) {
	head := Row{
		text(string(inv.Tenant)), text(string(inv.ID)), text(inv.Number), text(inv.State), text(inv.Currency),
		instant(inv.PeriodStart), instant(inv.PeriodEnd), instant(inv.FinalisedAt), {}, {},
		amount(inv.Total, inv.Decimals), text(inv.Position.String()),
	}
	if v := inv.Void; v != nil {
		head[8], head[9] = instant(v.At), text(v.Number)
	}
	items := itemsOf(inv)
	if len(items) == 0 {
		row := make(Row, len(invoiceColumns))
		copy(row, head)
		row[len(row)-1] = amount(money.Decimal{}, inv.Decimals)
		return []Row{row}
	}
	for i := range items {
		l := &items[i]
		var number, used, included, unit, events Value
		if l.number > 0 {
			number, used, included, events = count(int64(l.number)), quantity(l.Quantity), quantity(l.Included), count(l.Events)
		}
		if l.Unit.Sign() != 0 { // otherwise there are tiers or a prorated fee
			unit = amount(l.Unit, 0)
		}
		row := append(make(Row, 0, len(invoiceColumns)), head...)
		rows = append(rows, append(row, number, text(string(l.Kind)), optional(l.Price), text(l.Description), optional(string(l.grant)), optional(l.PlanVersion), optional(l.Meter),
			used, included, unit, instant(l.PeriodStart), instant(l.PeriodEnd), events, amount(l.Amount, inv.Decimals)))
	}
	return rows
}
