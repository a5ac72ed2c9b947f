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

// UsageReader answers how much a tenant used, and up to which position. Errors: *invalid.Error.
type UsageReader interface {
	Usage(ctx context.Context, q usage.Query) (usage.Report, eventstore.Position, error)
}

// TimelineReader tells a tenant's story, newest first, and up to which position. Errors: *invalid.Error.
type TimelineReader interface {
	Timeline(ctx context.Context, q timeline.Query) (timeline.Page, eventstore.Position, error)
	// Decisions tells what was decided about the checks of one identity: event.LimitDecided, HoldReleased and HoldExpired,
	// newest first and not without bound.
	Decisions(ctx context.Context, id event.Identity) ([]event.Decoded, eventstore.Position, error)
}

// Limits answers checks, and tells how limits stand; *limiter.Engine does.
type Limits interface {
	// Check decides in order, and has one decision for each. It may read the asks longer than it is waited for.
	Check(ctx context.Context, asks []limit.Ask) []limiter.Decision
	Release(ctx context.Context, id event.Identity, by event.Actor) (released bool, at eventstore.Position, err error)
	// View returns how the limits are, and Holds what is held: with everything that was acknowledged before.
	View(ctx context.Context, t event.TenantID) (limiter.LimitsView, error)
	Holds(ctx context.Context, t event.TenantID) (limiter.LimitsView, error)
}

// Billing makes invoices; *invoicing.Billing does.
type Billing interface {
	Preview(ctx context.Context, t event.TenantID) (invoicing.Invoice, error)
	Close(ctx context.Context, t event.TenantID, boundary time.Time, by event.Actor) (inv invoicing.Invoice, created bool, err error)
	Invoices(ctx context.Context, t event.TenantID) ([]invoicing.Invoice, error)
	Invoice(ctx context.Context, t event.TenantID, id event.InvoiceID) (invoicing.Invoice, error)
	Void(ctx context.Context, id event.InvoiceID, rebill bool, reason string, by event.Actor) (invoicing.Invoice, error)
	LineEvents(ctx context.Context, t event.TenantID, id event.InvoiceID, line, most int, cursor string) (invoicing.LineEvents, error)
	LinesOf(ctx context.Context, id event.Identity) ([]invoicing.InvoiceLine, error)
	Settle(ctx context.Context, e event.InvoiceSettled) (invoicing.Invoice, error)
	Credits(ctx context.Context, t event.TenantID) (invoicing.Credits, error)
	Grant(ctx context.Context, g event.CreditGranted) (grant billing.Grant, created bool, err error)
	// Refund takes back what is neither used nor held.
	Refund(ctx context.Context, r event.CreditRefunded, currency string, held money.Decimal) (billing.Grant, error)
}

// Exports opens exports; *app.Exports does. Errors: *invalid.Error; tenant.ErrUnknown.
type Exports interface {
	Open(ctx context.Context, q export.Query) (*app.Export, error)
}

// Costs keeps the book of what providers charge; *app.Costs does.
type Costs interface {
	Current(ctx context.Context) (costs.Book, error)
	ImportCosts(ctx context.Context, i app.CostImport, by event.Actor) (app.CostChange, error)
}

// Insights answers what operators ask over many events; *app.Insights does.
type Insights interface {
	Ask(ctx context.Context, q insight.Question) (insight.Answer, []eventstore.Position, error)
}

// Keys is one page of API keys, newest first, with the revoked ones. NextCursor is "" at the end.
type Keys struct {
	Items      []tenant.Key
	NextCursor string
}

// KeyLister lists API keys, and up to which position. Errors: *invalid.Error.
type KeyLister interface {
	Keys(ctx context.Context, limit int, cursor string) (Keys, eventstore.Position, error)
}

// KeyUses remembers when keys were used last. It is called with every request, so it must be quick.
type KeyUses interface {
	Used(id event.KeyID, at time.Time)
}

// Positions knows how far the reads are.
type Positions interface {
	// Await returns nil once every read shows what stands at the position, or the context's error. It may refuse a position
	// that cannot exist with an *invalid.Error.
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
