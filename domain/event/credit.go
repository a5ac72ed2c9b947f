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
