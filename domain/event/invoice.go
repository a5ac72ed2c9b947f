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

// InvoiceID names an invoice. It is derived from the tenant and the boundary, so that a period is invoiced once, however
// often it is tried.
type InvoiceID string

// Invoice is what a tenant owes at the boundary between two billing periods: usage and fees in arrears of the period that
// ended, fees in advance of the one that starts, and adjustments of earlier ones. It is kept as it was computed, and never
// computed again.
type Invoice struct {
	ID          InvoiceID     `json:"id"`
	Number      string        `json:"number"`
	Currency    string        `json:"currency"`
	PeriodStart time.Time     `json:"periodStart"` // equal to PeriodEnd if there are only fees in advance
	PeriodEnd   time.Time     `json:"periodEnd"`   // the boundary
	CycleStart  time.Time     `json:"cycleStart"`  // of the whole cycle; fees are prorated by its length
	CycleEnd    time.Time     `json:"cycleEnd"`
	PlanVersion string        `json:"planVersion"` // at the end of the period
	Lines       []InvoiceLine `json:"lines"`
	Subtotal    money.Decimal `json:"subtotal"`
	// Drawn is what grants pay of the invoice, Returned what goes back to grants because it is no longer owed, and Expired
	// what was left of grants that ended by the boundary. Total is Subtotal - Drawn + Returned.
	Drawn    []CreditUse   `json:"drawn,omitempty"`
	Returned []CreditUse   `json:"returned,omitempty"`
	Expired  []CreditUse   `json:"expired,omitempty"`
	Total    money.Decimal `json:"total"`
	Decimals int           `json:"decimals"` // of every amount; each line is rounded once, half to even

	// The invoice was computed from the usage up to Position and from these revisions of the tenant's subscription and of the
	// catalog.
	Position     string              `json:"position"`
	Subscription eventstore.Revision `json:"subscription"`
	Catalog      eventstore.Revision `json:"catalog"`
}

// Sum is the sum of the lines' amounts.
func (i *Invoice) Sum() (sum money.Decimal) {
	for n := range i.Lines {
		sum = sum.Add(i.Lines[n].Amount)
	}
	return sum
}

// Credits is what grants pay of the invoice, less what goes back to them; it may be negative.
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
	MinimumLine    LineKind = "minimum"    // what the period lacks to the plan's minimum
	CapLine        LineKind = "spend_cap"  // what exceeds the spend cap, as a negative amount
	AdjustmentLine LineKind = "adjustment" // what is now owed for an earlier period or fee, less what was invoiced
	HeldLine       LineKind = "held"       // usage of a priced meter that no price covers: what is owed for it is unknown
)

// InvoiceLine is what is owed for one price in a part of a period.
type InvoiceLine struct {
	Kind        LineKind      `json:"kind"`
	Price       string        `json:"price"`
	Description string        `json:"description"`
	PlanVersion string        `json:"planVersion"`
	Meter       string        `json:"meter,omitempty"`
	Quantity    money.Decimal `json:"quantity"`
	Included    money.Decimal `json:"included,omitzero"` // of the quantity, free
	Unit        money.Decimal `json:"unit,omitzero"`     // price of one unit or package, or a percentage; zero for tiers and prorated fees
	Tiers       []InvoiceTier `json:"tiers,omitempty"`
	PeriodStart time.Time     `json:"periodStart"`
	PeriodEnd   time.Time     `json:"periodEnd"`
	Events      int64         `json:"events"`
	Amount      money.Decimal `json:"amount"`
}

// InvoiceTier is the part of a line in one tier of its price. Its exact amount is Quantity times Unit; only the line is
// rounded.
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

// InvoiceVoided: the tenant no longer owes the invoice. A credit note mirrors its lines.
type InvoiceVoided struct {
	Tenant     TenantID  `json:"tenantId"`
	ID         InvoiceID `json:"id"`
	CreditNote string    `json:"creditNote"` // its number
	// Rebill: the next invoice charges the same usage again; otherwise it is forgiven.
	Rebill bool   `json:"rebill,omitempty"`
	Reason string `json:"reason"`
	By     Actor  `json:"by"`
}

// Settlement is how an invoice stops being owed.
type Settlement string

// The settlements.
const (
	Paid          Settlement = "paid"
	Uncollectible Settlement = "uncollectible" // payment is no longer expected, but may still come
)

// InvoiceSettled: the invoice is paid, or payment is no longer expected.
type InvoiceSettled struct {
	Tenant    TenantID   `json:"tenantId"`
	ID        InvoiceID  `json:"id"`
	As        Settlement `json:"as"`
	Reference string     `json:"reference"` // of the payment, or the reason
	By        Actor      `json:"by"`
}

// BillingStream is the stream of a tenant's invoices, in order, each period once, and of its credit.
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
