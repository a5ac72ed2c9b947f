// Package timeline owns what happened to one tenant, newest first, in sentences that a support person can read out: which event
// becomes which entry, and how a page of entries or a list of facts is read. An index says where the events are in the log;
// how it is kept is decided elsewhere.
package timeline

import (
	"encoding/json"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Query asks for one page of a tenant's timeline.
type Query struct {
	Tenant event.TenantID
	From   time.Time      // occurred at this instant or later; zero: from the beginning
	To     time.Time      // occurred before this instant; zero: without end
	Type   event.Type     // only entries about this event type, or of this kind; "" is all
	Source event.SourceID // only entries about this sourceId; "" is all
	Limit  int            // items of the page; 0 is 50, at most 500
	Cursor string         // Page.NextCursor of the page before; "" is the first page
}

// Kind groups what happened, in the words of the timeline.
type Kind string

// The kinds of timeline items.
const (
	KindUsage        Kind = "usage"
	KindCorrection   Kind = "correction"
	KindConflict     Kind = "conflict"
	KindTenant       Kind = "tenant"
	KindKey          Kind = "key"
	KindSwitch       Kind = "admin_switch"
	KindPlan         Kind = "plan"
	KindLimit        Kind = "limit"    // a tenant's own maximum
	KindDecision     Kind = "decision" // of a check
	KindHold         Kind = "hold"
	KindInvoice      Kind = "invoice"
	KindPayment      Kind = "payment"
	KindGrant        Kind = "grant"
	KindInstallation Kind = "catalog" // of no tenant, so on no timeline
)

// kindNumbers are the kinds in the read model. Numbers are never reused.
var kindNumbers = map[Kind]int16{KindUsage: 1, KindCorrection: 2, KindConflict: 3, KindTenant: 4, KindKey: 5, KindSwitch: 6,
	KindPlan: 7, KindLimit: 8, KindDecision: 9, KindHold: 10, KindInvoice: 11, KindPayment: 12, KindGrant: 13}

// Number is the kind in the read model; 0 for what is no kind.
func (k Kind) Number() int16 { return kindNumbers[k] }

// Item is one entry of a timeline.
type Item struct {
	Position   eventstore.Position
	RecordedAt time.Time
	OccurredAt time.Time // of the fact, the decision or the end of a hold; everything else occurs when it is recorded
	Kind       Kind
	EventType  event.Type      // "" where it is not about a fact or a check
	SourceID   event.SourceID  // likewise
	Quantity   *money.Decimal  // nil where nothing was counted; of an adjustment the new one, of a void the one taken back
	Summary    string          // a sentence
	Data       json.RawMessage // a JSON object, or nil
}

// Is reports whether the item passes the filters of a timeline query: typ is a usage event type or a kind, and "" is no
// filter.
func (i Item) Is(typ string, source event.SourceID) bool {
	return (typ == "" || string(i.EventType) == typ || string(i.Kind) == typ) && (source == "" || i.SourceID == source)
}

// Mark is a place in the list of a tenant's facts and corrections, in the order in which they are listed.
type Mark struct {
	ListedAt time.Time
	Position eventstore.Position
}

// Page is a part of the timeline, newest first. NextCursor is "" at the end.
type Page struct {
	Items      []Item
	NextCursor string
}
