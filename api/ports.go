package api

import (
	"context"
	"time"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/export"
	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/invoicing"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/limiter"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/domain/usage"
)

// The ports of the API. Each says what it is asked, what holds of its answers, and its errors; those of the store
// (eventstore.ErrUnavailable, ErrOverloaded) and of the context come on top everywhere.

// UsageReader reads how much a tenant used, and the position up to which the report counts. Errors: *invalid.Error.
type UsageReader interface {
	Usage(ctx context.Context, q usage.Query) (usage.Report, eventstore.Position, error)
}

// TimelineReader reads what happened to a tenant.
type TimelineReader interface {
	// Timeline returns a page, newest first, and the position up to which it is complete. Errors: *invalid.Error.
	Timeline(ctx context.Context, q timeline.Query) (timeline.Page, eventstore.Position, error)
	// Decisions returns what was decided about the checks of one identity: event.LimitDecided, HoldReleased and HoldExpired,
	// newest first, up to a bound of its own.
	Decisions(ctx context.Context, id event.Identity) ([]event.Decoded, eventstore.Position, error)
}

// Limits is the limit engine: *limiter.Engine.
type Limits interface {
	LimitChecker
	LimitReader
}

// LimitChecker decides checks and ends their holds.
type LimitChecker interface {
	// Check decides in order and returns one decision for each ask; an error is the decision's. It may read the asks after its
	// caller has gone.
	Check(ctx context.Context, asks []limit.Ask) []limiter.Decision
	// Release ends what is held for one identity; released is false where nothing was held.
	Release(ctx context.Context, id event.Identity, by event.Actor) (released bool, at eventstore.Position, err error)
}

// LimitReader reads a tenant's limits, with everything that was acknowledged before. Errors: tenant.ErrUnknown.
type LimitReader interface {
	// View returns how each limit is; of those that count by data fields the ones that values names all fields of.
	View(ctx context.Context, t event.TenantID, values event.Data) (limiter.LimitsView, error)
	// Holds returns what is held.
	Holds(ctx context.Context, t event.TenantID) (limiter.LimitsView, error)
}

// Billing is the billing of tenants: *invoicing.Billing.
type Billing interface {
	InvoiceReader
	InvoiceTracer
	InvoiceWriter
	CreditKeeper
}

// InvoiceReader reads a tenant's invoices. Errors: tenant.ErrUnknown; app.ErrNotFound.
type InvoiceReader interface {
	// Preview returns the invoice of the open period as it would be now. More errors: billing.ErrUnpriced, ErrCurrencies.
	Preview(ctx context.Context, t event.TenantID) (invoicing.Invoice, error)
	// Invoices returns all of them, newest first.
	Invoices(ctx context.Context, t event.TenantID) ([]invoicing.Invoice, error)
	Invoice(ctx context.Context, t event.TenantID, id event.InvoiceID) (invoicing.Invoice, error)
}

// InvoiceTracer leads from invoice lines to events and back. Errors: tenant.ErrUnknown; app.ErrNotFound; *invalid.Error.
type InvoiceTracer interface {
	// LineEvents returns a page of the events that a line counts, at most so many.
	LineEvents(ctx context.Context, t event.TenantID, id event.InvoiceID, line, most int, cursor string) (invoicing.LineEvents, error)
	// LinesOf returns the lines that an event is on.
	LinesOf(ctx context.Context, id event.Identity) ([]invoicing.InvoiceLine, error)
}

// InvoiceWriter changes invoices, and returns when the change is durable. Errors: tenant.ErrUnknown; app.ErrNotFound;
// app.ErrConflict; *invalid.Error.
type InvoiceWriter interface {
	// Close makes the invoice of the period that ends at the boundary, the next one where it is zero; created is false where the
	// invoice was there. More errors: invoicing.ErrNotDue, ErrNothingToBill, ErrTooMuch; billing.ErrUnpriced, ErrCurrencies.
	Close(ctx context.Context, t event.TenantID, boundary time.Time, by event.Actor) (inv invoicing.Invoice, created bool, err error)
	// Void cancels an invoice with a credit note; with rebill its usage is owed again with the next one.
	Void(ctx context.Context, id event.InvoiceID, rebill bool, reason string, by event.Actor) (invoicing.Invoice, error)
	// Settle notes that an invoice was paid, or never will be.
	Settle(ctx context.Context, e event.InvoiceSettled) (invoicing.Invoice, error)
}

// CreditKeeper keeps tenants' credit. Errors: tenant.ErrUnknown; app.ErrNotFound; app.ErrConflict; *invalid.Error.
type CreditKeeper interface {
	// Credits returns what a tenant can draw on. More errors: billing.ErrUnpriced, ErrCurrencies.
	Credits(ctx context.Context, t event.TenantID) (invoicing.Credits, error)
	// Grant adds credit; created is false where the same grant was there.
	Grant(ctx context.Context, g event.CreditGranted) (grant billing.Grant, created bool, err error)
	// Refund takes back what is neither used nor held.
	Refund(ctx context.Context, r event.CreditRefunded, currency string, held money.Decimal) (billing.Grant, error)
}

// Exports opens exports: *app.Exports. Errors: *invalid.Error; tenant.ErrUnknown.
type Exports interface {
	Open(ctx context.Context, q export.Query) (*app.Export, error)
}

// Costs keeps the book of what providers charge: *app.Costs.
type Costs interface {
	// Current returns the book with every import so far.
	Current(ctx context.Context) (costs.Book, error)
	// ImportCosts adds a price list to the book. Errors: *invalid.Error; *costs.JumpError, where prices change so much that the
	// list may be wrong.
	ImportCosts(ctx context.Context, i app.CostImport, by event.Actor) (app.CostChange, error)
}

// Insights answers operators' questions over many events, and returns the position in each partition up to which it counted:
// *app.Insights. Errors: *invalid.Error; tenant.ErrUnknown.
type Insights interface {
	Ask(ctx context.Context, q insight.Question) (insight.Answer, []eventstore.Position, error)
}

// Keys is one page of API keys, newest first, with the revoked ones. NextCursor is "" on the last page.
type Keys struct {
	Items      []tenant.Key
	NextCursor string
}

// KeyLister lists API keys, and returns the position up to which the list is complete. Errors: *invalid.Error.
type KeyLister interface {
	Keys(ctx context.Context, limit int, cursor string) (Keys, eventstore.Position, error)
}

// KeyUses remembers when keys were used last. It is called with every request, so it must be quick.
type KeyUses interface {
	Used(id event.KeyID, at time.Time)
}

// Positions says how far the reads are.
type Positions interface {
	// Await returns nil once every read shows the event at the position. Errors: the context's; *invalid.Error and
	// eventstore.ErrInvalid for a position that cannot exist.
	Await(ctx context.Context, at eventstore.Position) error
	// Shown is how far the reads are in the partition of a tenant; "" is the system's own.
	Shown(ctx context.Context, of event.TenantID) (eventstore.Position, error)
}

// Check is one thing without which the process cannot do its work.
type Check struct {
	Name   string
	OK     bool
	Detail string // shown without a key: no addresses, no internals
}

// ReadinessProbe runs the checks; the process is ready when all of them are OK.
type ReadinessProbe interface {
	Ready(ctx context.Context) []Check
}
