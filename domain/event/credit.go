package event

import (
	"time"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// GrantID names a grant within its tenant. Whoever grants chooses it, so that granting twice is once.
type GrantID string

// GrantKind is where a grant comes from.
type GrantKind string

// The kinds of grants.
const (
	Prepaid     GrantKind = "prepaid"     // paid for: a liability until it is used
	Promotional GrantKind = "promotional" // given away
)

// CreditGranted: the tenant has so much to draw on, before it owes anything.
type CreditGranted struct {
	Tenant      TenantID      `json:"tenantId"`
	ID          GrantID       `json:"grantId"`
	Kind        GrantKind     `json:"kind"`
	Amount      money.Decimal `json:"amount"`
	Currency    string        `json:"currency"`
	Priority    int           `json:"priority,omitempty"`   // the lowest is drawn on first
	EffectiveAt time.Time     `json:"effectiveAt,omitzero"` // what is charged from then on; zero: all that is not invoiced yet
	ExpiresAt   time.Time     `json:"expiresAt,omitzero"`   // what is charged before that; zero: it never expires
	By          Actor         `json:"by"`
}

// CreditRefunded: a part of a grant that was not used is taken back; what was paid for it is paid back.
type CreditRefunded struct {
	Tenant TenantID      `json:"tenantId"`
	ID     GrantID       `json:"grantId"`
	Refund string        `json:"refundId"` // once for each
	Amount money.Decimal `json:"amount"`
	Reason string        `json:"reason"`
	By     Actor         `json:"by"`
}

// CreditUse is what an invoice does to a grant.
type CreditUse struct {
	Grant  GrantID       `json:"grantId"`
	Amount money.Decimal `json:"amount"` // > 0
	// Invoice is the one that drew what is given back; "" of a draw.
	Invoice InvoiceID `json:"invoiceId,omitempty"`
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

func (e CreditGranted) of() TenantID  { return e.Tenant }
func (e CreditRefunded) of() TenantID { return e.Tenant }
func (e InvoiceSettled) of() TenantID { return e.Tenant }

func (e CreditGranted) missing() bool {
	return e.Tenant == "" || e.ID == "" || e.Currency == "" || e.Amount.Sign() <= 0 || e.Kind != Prepaid && e.Kind != Promotional
}
func (e CreditRefunded) missing() bool {
	return e.Tenant == "" || e.ID == "" || e.Refund == "" || e.Amount.Sign() <= 0
}
func (e InvoiceSettled) missing() bool {
	return e.Tenant == "" || e.ID == "" || e.As != Paid && e.As != Uncollectible
}

// Append is the log entry after revision expected.
func (e CreditGranted) Append(expected eventstore.Revision) eventstore.Append {
	return command(BillingStream(e.Tenant), e.Tenant, expected, string(creditGranted), encodeJSON(e))
}

// Append is the log entry after revision expected.
func (e CreditRefunded) Append(expected eventstore.Revision) eventstore.Append {
	return command(BillingStream(e.Tenant), e.Tenant, expected, string(creditRefunded), encodeJSON(e))
}

// Append is the log entry after revision expected.
func (e InvoiceSettled) Append(expected eventstore.Revision) eventstore.Append {
	return command(BillingStream(e.Tenant), e.Tenant, expected, string(invoiceSettled), encodeJSON(e))
}
