package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// Submission is a usage event as it was sent.
type Submission struct {
	event.Usage
	Emitter     string // CloudEvents source
	TraceParent string
}

// Status of one submission.
type Status string

// The statuses, as the API shows them.
const (
	Recorded  Status = "recorded"
	Duplicate Status = "duplicate"
	Conflict  Status = "conflict"
	Invalid   Status = "invalid"
)

// Receipt answers one submission.
type Receipt struct {
	Status     Status
	Position   eventstore.Position // recorded, duplicate
	RecordedAt time.Time           // recorded, duplicate
	// Err says why: with Conflict a *SourceConflictError; with Invalid an *invalid.Error, an *UnknownEventTypeError or tenant.ErrUnknown; with "" the store could
	// not say (eventstore.ErrUnavailable, ErrOverloaded): send the same again.
	Err error
}

// Record appends facts: each is new, a duplicate, a conflict or invalid on its own, and what is answered recorded is
// durable. A fact is never refused because of a limit. It is judged, and stamped with the catalog, by what any process had answered
// before the call. The result has one receipt for each submission, in order.
func (l *Ledger) Record(ctx context.Context, submissions []Submission) []Receipt {
	receipts := make([]Receipt, len(submissions))
	appends := make([]eventstore.Append, 0, len(submissions))
	indexes := make([]int, 0, len(submissions))
	Refresh(ctx, l.directory)
	config, err := l.directory.Catalog(ctx)
	if err != nil {
		for i := range receipts {
			receipts[i].Err = fmt.Errorf("read the catalog: %w", err)
		}
		return receipts
	}
	now := l.now()
	for i, s := range submissions {
		if err := l.accept(ctx, s, config, now); err != nil {
			receipts[i] = refusal(err)
			continue
		}
		appends = append(appends, s.Append(event.Metadata{Catalog: config.Revision, Emitter: s.Emitter, TraceParent: s.TraceParent}))
		indexes = append(indexes, i)
	}
	if len(appends) == 0 {
		return receipts
	}
	var conflicts []eventstore.Append
	for n, r := range l.store.Append(ctx, appends) {
		receipt := &receipts[indexes[n]]
		switch r.Outcome {
		case eventstore.Appended:
			*receipt = Receipt{Status: Recorded, Position: r.Position, RecordedAt: r.RecordedAt}
		case eventstore.Duplicate:
			*receipt = Receipt{Status: Duplicate, Position: r.Position, RecordedAt: r.RecordedAt}
		case eventstore.Conflict:
			sent := submissions[indexes[n]].Usage
			*receipt = Receipt{Status: Conflict, Err: l.conflictOf(ctx, sent, len(conflicts))}
			conflicts = append(conflicts, event.UsageConflicted{Usage: sent}.Append())
		default:
			receipt.Err = fmt.Errorf("append: %w", r.Err)
		}
	}
	if len(conflicts) > 0 {
		// A note for support; the refusal holds without it, and the sender's next try writes it.
		l.store.Append(ctx, conflicts)
	}
	return receipts
}

// maxCompared bounds the conflicts of one call whose recorded events are read to say what differs.
const maxCompared = 20

// conflictOf compares an event with the recorded one, where not so many conflicts came before it in its call. A store that does
// not answer leaves the fields out: that it is a conflict is known.
func (l *Ledger) conflictOf(ctx context.Context, sent event.Usage, before int) *SourceConflictError {
	if before >= maxCompared {
		return &SourceConflictError{}
	}
	recorded, err := l.store.ReadStream(ctx, sent.Stream(), 0, 1)
	if err != nil || len(recorded) == 0 {
		return &SourceConflictError{}
	}
	payload, err := event.Decode(recorded[0])
	if err != nil {
		return &SourceConflictError{}
	}
	first, _ := payload.(event.UsageRecorded)
	return &SourceConflictError{Fields: differences(first.Usage, sent)}
}

// differences lists what makes two events of the same source different ones, as JSON pointers.
func differences(a, b event.Usage) (fields []string) {
	if !a.Quantity.Equal(b.Quantity) {
		fields = append(fields, "/quantity")
	}
	if !a.OccurredAt.Equal(b.OccurredAt) {
		fields = append(fields, "/occurredAt")
	}
	for name, v := range b.Data.All() {
		if before := a.Data.Get(name); v.Kind != before.Kind || !bytes.Equal(v.AppendJSON(nil), before.AppendJSON(nil)) {
			fields = append(fields, "/data/"+invalid.Token(name))
		}
	}
	for name := range a.Data.All() {
		if b.Data.Get(name).Kind == event.Absent {
			fields = append(fields, "/data/"+invalid.Token(name))
		}
	}
	return fields
}

// refusal separates input that is wrong from a directory that did not answer.
func refusal(err error) Receipt {
	var bad *invalid.Error
	var unknown *UnknownEventTypeError
	if errors.As(err, &bad) || errors.As(err, &unknown) || errors.Is(err, tenant.ErrUnknown) {
		return Receipt{Status: Invalid, Err: err}
	}
	return Receipt{Err: err}
}

// accept checks one fact: well-formed, of a tenant that exists, of a type that a meter counts, and countable by it.
func (l *Ledger) accept(ctx context.Context, s Submission, config Catalog, now time.Time) error {
	u := s.Usage
	if err := u.Check(now); err != nil {
		return err
	}
	if err := checkOrigin(s); err != nil {
		return err
	}
	if _, err := l.directory.Tenant(ctx, u.Tenant); err != nil {
		return fmt.Errorf("tenant %q: %w", u.Tenant, err)
	}
	return config.Countable(u)
}

const (
	maxEmitter     = 1000 // characters
	maxTraceParent = 200
)

// checkOrigin: what is kept beside a fact must not be what no store takes, or the fact could never be recorded.
func checkOrigin(s Submission) error {
	var l invalid.List
	if !invalid.IsText(s.Emitter, maxEmitter, "") {
		l.Add("/source", invalid.CodeEvent, fmt.Sprintf("the emitter must have at most %d printable characters", maxEmitter))
	}
	if !invalid.IsText(s.TraceParent, maxTraceParent, "") {
		l.Add("/traceparent", invalid.CodeEvent, fmt.Sprintf("traceparent must have at most %d printable characters", maxTraceParent))
	}
	return l.Err()
}

// Countable makes sure that what meters read from the data of an event can be added up: a projection must never meet an event
// that it cannot fold. Errors: *UnknownEventTypeError; *invalid.Error.
func (c Catalog) Countable(u event.Usage) error {
	meters := c.MetersOf(string(u.Type))
	if len(meters) == 0 {
		return &UnknownEventTypeError{Type: u.Type, Known: slices.Clone(c.EventTypes())}
	}
	var l invalid.List
	for _, m := range meters {
		field, ok := m.Field()
		if !ok {
			continue
		}
		v := u.Data.Get(field)
		if v.Kind == event.Absent || v.Kind == event.Null {
			continue
		}
		n, isNumber := v.Decimal()
		if !isNumber || n.Sign() < 0 {
			l.Add("/data/"+invalid.Token(field), invalid.CodeEvent, fmt.Sprintf("%s must be a number >= 0: the meter %s adds it up", field, m.Key))
		} else if !n.IsQuantity() {
			l.Add("/data/"+invalid.Token(field), invalid.CodeEvent, fmt.Sprintf("%s has %s", field, money.ErrRange))
		}
	}
	return l.Err()
}
