package event

import (
	"time"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

const (
	invoiceFinalised kind = "invoice_finalised.v1"
	invoiceVoided    kind = "invoice_voided.v1"
	invoiceSettled   kind = "invoice_settled.v1"
)

// InvoiceID names an invoice. It is derived from tenant and boundary, so that a period is invoiced once however often it is
// tried.
type InvoiceID string

// Invoice is what a tenant owes at a boundary between two of its billing periods: usage and arrears of the one that ended,
// fees in advance of the one that starts, and what became known about earlier ones. It is kept as it was computed, and never
// computed again.
type Invoice struct {
	ID          InvoiceID     `json:"id"`
	Number      string        `json:"number"`
	Currency    string        `json:"currency"`
	PeriodStart time.Time     `json:"periodStart"` // equal to PeriodEnd where there is nothing but fees in advance
	PeriodEnd   time.Time     `json:"periodEnd"`   // the boundary
	CycleStart  time.Time     `json:"cycleStart"`  // of the whole cycle, which fees are prorated by
	CycleEnd    time.Time     `json:"cycleEnd"`
	PlanVersion string        `json:"planVersion"` // at the end of the period
	Lines       []InvoiceLine `json:"lines"`
	Subtotal    money.Decimal `json:"subtotal"`
	// Drawn is what grants pay of it, Returned what goes back to grants that paid for what is not owed any more, and Expired
	// what was left of grants that ended by the boundary. Total is the subtotal, less what is drawn, plus what is returned.
	Drawn    []CreditUse   `json:"drawn,omitempty"`
	Returned []CreditUse   `json:"returned,omitempty"`
	Expired  []CreditUse   `json:"expired,omitempty"`
	Total    money.Decimal `json:"total"`
	Decimals int           `json:"decimals"` // of every amount; rounded once for each line, half to even

	// What it was made from: usage up to the position, and these revisions of the tenant's subscription and of the catalog.
	Position     string              `json:"position"`
	Subscription eventstore.Revision `json:"subscription"`
	Catalog      eventstore.Revision `json:"catalog"`
}

// Sum is that of the lines.
func (i *Invoice) Sum() (sum money.Decimal) {
	for n := range i.Lines {
		sum = sum.Add(i.Lines[n].Amount)
	}
	return sum
}

// Credits is what grants pay of the invoice, in all; below zero where more goes back to them.
func (i *Invoice) Credits() (sum money.Decimal) {
	for _, u := range i.Drawn {
		sum = sum.Add(u.Amount)
	}
	for _, u := range i.Returned {
		sum = sum.Sub(u.Amount)
	}
	return sum
}

// LineKind is why something is owed.
type LineKind string

// The kinds of lines.
const (
	UsageLine      LineKind = "usage"
	FeeLine        LineKind = "fee"
	MinimumLine    LineKind = "minimum"    // what is missing to the least that a period comes to
	CapLine        LineKind = "spend_cap"  // what is above the most, taken off
	AdjustmentLine LineKind = "adjustment" // what is owed for an earlier period or fee by now, less what was invoiced
	HeldLine       LineKind = "held"       // usage of a priced meter that no price is for: nobody knows what is owed for it
)

// InvoiceLine is one thing that is owed, for its part of a period.
type InvoiceLine struct {
	Kind        LineKind      `json:"kind"`
	Price       string        `json:"price"`
	Description string        `json:"description"`
	PlanVersion string        `json:"planVersion"`
	Meter       string        `json:"meter,omitempty"`
	Quantity    money.Decimal `json:"quantity"`
	Included    money.Decimal `json:"included,omitzero"` // of the quantity, free
	Unit        money.Decimal `json:"unit,omitzero"`     // price of one, of a package, or per cent; zero where tiers or a proration say it
	Tiers       []InvoiceTier `json:"tiers,omitempty"`
	PeriodStart time.Time     `json:"periodStart"`
	PeriodEnd   time.Time     `json:"periodEnd"`
	Events      int64         `json:"events"`
	Amount      money.Decimal `json:"amount"`
}

// InvoiceTier is the part of a line that falls in one tier of its price. Its exact amount is quantity times unit; only the
// line rounds.
type InvoiceTier struct {
	From     money.Decimal `json:"from"`
	To       money.Decimal `json:"to,omitzero"` // zero: no end
	Quantity money.Decimal `json:"quantity"`
	Unit     money.Decimal `json:"unit"`
}

// InvoiceFinalised: the tenant owes this from now on.
type InvoiceFinalised struct {
	Tenant  TenantID `json:"tenantId"`
	Invoice Invoice  `json:"invoice"`
	By      Actor    `json:"by"`
}

// InvoiceVoided: the tenant does not owe it any more. Its lines are taken back by a credit note that mirrors them.
type InvoiceVoided struct {
	Tenant     TenantID  `json:"tenantId"`
	ID         InvoiceID `json:"id"`
	CreditNote string    `json:"creditNote"` // its number
	// Rebill: what it was about is owed again, and comes with the next invoice; else it is forgiven.
	Rebill bool   `json:"rebill,omitempty"`
	Reason string `json:"reason"`
	By     Actor  `json:"by"`
}

// Settlement is how an invoice that is owed comes to its end.
type Settlement string

// The settlements.
const (
	Paid          Settlement = "paid"
	Uncollectible Settlement = "uncollectible" // nobody expects it to be paid any more; it may be, all the same
)

// InvoiceSettled: the invoice is paid, or nobody expects that any more.
type InvoiceSettled struct {
	Tenant    TenantID   `json:"tenantId"`
	ID        InvoiceID  `json:"id"`
	As        Settlement `json:"as"`
	Reference string     `json:"reference"` // of the payment, or why
	By        Actor      `json:"by"`
}

// BillingStream is the stream of a tenant's invoices: in order, each period once.
func BillingStream(t TenantID) eventstore.StreamName {
	return streamOf("billing", string(t))
}

func (e InvoiceFinalised) owner() TenantID { return e.Tenant }
func (e InvoiceVoided) owner() TenantID    { return e.Tenant }
func (e InvoiceSettled) owner() TenantID   { return e.Tenant }

func (e InvoiceFinalised) wellFormed() bool {
	i := &e.Invoice
	return e.Tenant != "" && i.ID != "" && i.Currency != "" && !i.PeriodEnd.IsZero() && !i.PeriodEnd.Before(i.PeriodStart)
}
func (e InvoiceVoided) wellFormed() bool { return e.Tenant != "" && e.ID != "" }
func (e InvoiceSettled) wellFormed() bool {
	return e.Tenant != "" && e.ID != "" && (e.As == Paid || e.As == Uncollectible)
}

// Append is the log entry after revision expected.
func (e InvoiceFinalised) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(invoiceFinalised, BillingStream(e.Tenant), expected, e)
}

// Append is the log entry after revision expected.
func (e InvoiceVoided) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(invoiceVoided, BillingStream(e.Tenant), expected, e)
}

// Append is the log entry after revision expected.
func (e InvoiceSettled) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(invoiceSettled, BillingStream(e.Tenant), expected, e)
}
