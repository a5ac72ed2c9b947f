// Package timeline owns the story of one tenant, newest first, in sentences that a support person can read out. It says
// what an entry is; which events become entries, and how they are kept, is decided elsewhere.
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

// Item is one entry.
type Item struct {
	Position   eventstore.Position
	RecordedAt time.Time
	OccurredAt time.Time // of the fact, the decision or the end of a hold; everything else occurs when it is recorded
	Kind       string    // usage, correction, conflict, decision, hold, plan, limit, tenant, key, admin_switch
	EventType  event.Type
	SourceID   event.SourceID
	Quantity   *money.Decimal  // nil where nothing was counted
	Summary    string          // a sentence
	Data       json.RawMessage // a JSON object, or nil
}

// Event is an entry as the log has it: the payload is the struct of its kind, of package event.
type Event struct {
	Position   eventstore.Position
	RecordedAt time.Time
	Payload    any
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
