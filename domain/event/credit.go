package event

import (
	"time"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

const (
	creditGranted  kind = "credit_granted.v1"
	creditRefunded kind = "credit_refunded.v1"
)

// GrantID names a grant within its tenant. The caller chooses it, so that a repeated request grants once.
type GrantID string

// GrantKind is where a grant comes from.
type GrantKind string

// The kinds of grants.
const (
	Prepaid     GrantKind = "prepaid"     // paid for: a liability until it is used
	Promotional GrantKind = "promotional" // given away
)

// CreditGranted: the tenant has this credit; its invoices draw on it before anything is owed.
type CreditGranted struct {
	Tenant      TenantID      `json:"tenantId"`
	ID          GrantID       `json:"grantId"`
	Kind        GrantKind     `json:"kind"`
	Amount      money.Decimal `json:"amount"`
	Currency    string        `json:"currency"`
	Priority    int           `json:"priority,omitempty"`   // the lowest is used first
	EffectiveAt time.Time     `json:"effectiveAt,omitzero"` // pays for charges from then on; zero: for all that is not invoiced yet
	ExpiresAt   time.Time     `json:"expiresAt,omitzero"`   // pays for charges before that; zero: it never expires
	By          Actor         `json:"by"`
}

// CreditRefunded: an unused part of a grant is taken back, and what was paid for it is paid back.
type CreditRefunded struct {
	Tenant TenantID      `json:"tenantId"`
	ID     GrantID       `json:"grantId"`
	Refund string        `json:"refundId"` // a refund is made once per id
	Amount money.Decimal `json:"amount"`
	Reason string        `json:"reason"`
	By     Actor         `json:"by"`
}

// CreditUse is an amount that an invoice draws from a grant, returns to it or writes off.
type CreditUse struct {
	Grant  GrantID       `json:"grantId"`
	Amount money.Decimal `json:"amount"` // > 0
	// Invoice is the one that drew what is returned; "" for a draw.
	Invoice InvoiceID `json:"invoiceId,omitempty"`
}

func (e CreditGranted) owner() TenantID  { return e.Tenant }
func (e CreditRefunded) owner() TenantID { return e.Tenant }

func (e CreditGranted) wellFormed() bool {
	return e.Tenant != "" && e.ID != "" && e.Currency != "" && e.Amount.Sign() > 0 && (e.Kind == Prepaid || e.Kind == Promotional)
}
func (e CreditRefunded) wellFormed() bool {
	return e.Tenant != "" && e.ID != "" && e.Refund != "" && e.Amount.Sign() > 0
}

// Append is the log entry after revision expected.
func (e CreditGranted) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(creditGranted, BillingStream(e.Tenant), expected, e)
}

// Append is the log entry after revision expected.
func (e CreditRefunded) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(creditRefunded, BillingStream(e.Tenant), expected, e)
}
