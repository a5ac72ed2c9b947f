package app

import (
	"context"
	"fmt"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/optimistic"
)

// MaxReason bounds why somebody does something, in characters.
const MaxReason = 500

const maxCorrections = 1000 // of one fact: more is a fault of the sender

// Correction is one later event of a fact.
type Correction struct {
	Kind       string // "void" or "adjust"
	Reason     string
	By         event.Actor
	Quantity   money.Decimal // adjust: the new one
	Data       event.Data    // adjust: the new one
	Position   eventstore.Position
	RecordedAt time.Time
}

// History is a fact with everything that happened to it.
type History struct {
	Original    event.UsageRecorded
	Position    eventstore.Position
	RecordedAt  time.Time
	Corrections []Correction
	Current     event.Usage // the fact with its corrections
	Voided      bool
}

func (h History) revision() eventstore.Revision { return eventstore.Revision(len(h.Corrections)) }

// Event returns a fact with its corrections. Error: ErrNotFound.
func (l *Ledger) Event(ctx context.Context, id event.Identity) (h History, err error) {
	revision, err := event.Fold(ctx, l.store, id.Stream(), func(r event.Decoded) bool {
		switch e := r.Payload.(type) {
		case event.UsageRecorded:
			h.Original, h.Current, h.Position, h.RecordedAt = e, e.Usage, r.Position, r.RecordedAt
		case event.UsageVoided:
			h.Voided = true
			h.Corrections = append(h.Corrections, Correction{Kind: "void", Reason: e.Reason, By: e.By, Position: r.Position, RecordedAt: r.RecordedAt})
		case event.UsageAdjusted:
			h.Current = e.After()
			h.Corrections = append(h.Corrections, Correction{Kind: "adjust", Reason: e.Reason, By: e.By, Quantity: e.Quantity, Data: e.Data,
				Position: r.Position, RecordedAt: r.RecordedAt})
		default:
			return false
		}
		return true
	})
	if err == nil && revision < 0 {
		err = fmt.Errorf("event %s/%s: %w", id.Type, id.Source, ErrNotFound)
	}
	return h, err
}

// Void takes a fact back. The same void again is a duplicate. Errors: ErrNotFound; ErrConflict when it was voided for
// another reason; *invalid.Error.
func (l *Ledger) Void(ctx context.Context, id event.Identity, reason string, by event.Actor) (Receipt, error) {
	if err := checkReason(invalid.CodeEvent, reason); err != nil {
		return Receipt{}, err
	}
	return l.correct(ctx, id, func(h History) (eventstore.Append, *Correction, error) {
		if h.Voided {
			last := h.Corrections[len(h.Corrections)-1]
			if last.Reason == reason {
				return eventstore.Append{}, &last, nil
			}
			return eventstore.Append{}, nil, fmt.Errorf("%w: the event was voided already, for another reason: %q", ErrConflict, last.Reason)
		}
		e := event.UsageVoided{Usage: h.Current, Metadata: event.Metadata{Catalog: h.Original.Catalog}, Reason: reason, By: by}
		return e.Append(h.revision()), nil, nil
	})
}

// Adjustment is what a fact should have said. A nil Data leaves the data as it is.
type Adjustment struct {
	Quantity money.Decimal
	Data     *event.Data
	Reason   string
}

// Adjust gives a fact another quantity or other data. The same adjustment again is a duplicate, even after later ones:
// a late retry must not bring an old value back. Errors: ErrNotFound; ErrConflict when the fact is voided; *invalid.Error.
func (l *Ledger) Adjust(ctx context.Context, id event.Identity, a Adjustment, by event.Actor) (Receipt, error) {
	if err := checkReason(invalid.CodeEvent, a.Reason); err != nil {
		return Receipt{}, err
	}
	if a.Quantity.Sign() <= 0 {
		return Receipt{}, invalid.New("/quantity", invalid.CodeEvent, "quantity must be greater than 0; to take the event back, void it")
	}
	if !a.Quantity.IsQuantity() {
		return Receipt{}, invalid.New("/quantity", invalid.CodeEvent, "quantity has "+money.ErrRange.Error())
	}
	return l.correct(ctx, id, func(h History) (eventstore.Append, *Correction, error) {
		data := h.Current.Data
		if a.Data != nil {
			data = *a.Data
		}
		before := h.Original.Data
		for i := range h.Corrections {
			c := &h.Corrections[i]
			if c.Kind != "adjust" {
				continue
			}
			said := before // what this adjustment would have said of the data at that place
			if a.Data != nil {
				said = data
			}
			if c.Quantity.Equal(a.Quantity) && c.Reason == a.Reason && c.Data.Equal(said) {
				return eventstore.Append{}, c, nil
			}
			before = c.Data
		}
		if h.Voided {
			return eventstore.Append{}, nil, fmt.Errorf("%w: the event was voided", ErrConflict)
		}
		e := event.UsageAdjusted{Usage: h.Current, Metadata: event.Metadata{Catalog: h.Original.Catalog},
			Quantity: a.Quantity, Data: data, Reason: a.Reason, By: by}
		c, err := ReadCatalog(ctx, l.store, h.Original.Catalog)
		if err != nil {
			return eventstore.Append{}, nil, err
		}
		if err := c.Countable(e.After()); err != nil {
			return eventstore.Append{}, nil, err
		}
		return e.Append(h.revision()), nil, nil
	})
}

// correct changes a fact as decide says, which returns the correction that is there already where nothing is to be written.
func (l *Ledger) correct(ctx context.Context, id event.Identity, decide func(History) (eventstore.Append, *Correction, error)) (Receipt, error) {
	var already *Correction
	c, err := optimistic.Do(ctx, l.store, "the event", func(ctx context.Context) (History, error) { return l.Event(ctx, id) },
		func(h History) (a eventstore.Append, err error) {
			a, already, err = decide(h)
			if err == nil && already == nil && len(h.Corrections) >= maxCorrections {
				err = invalid.New("", invalid.CodeEvent, fmt.Sprintf("the event has %d corrections already; no more are accepted", maxCorrections))
			}
			return a, err
		})
	switch {
	case err != nil:
		return Receipt{}, err
	case !c.Written:
		return Receipt{Status: Duplicate, Position: already.Position, RecordedAt: already.RecordedAt}, nil
	}
	receipt := Receipt{Status: Recorded, Position: c.Result.Position, RecordedAt: c.Result.RecordedAt}
	if c.Result.Outcome == eventstore.Duplicate {
		receipt.Status = Duplicate
	}
	return receipt, nil
}

// CheckReason checks why somebody changes something, as it is kept on the log. Error: *invalid.Error.
func CheckReason(reason string) error { return checkReason(invalid.CodeRequest, reason) }

func checkReason(code, reason string) error {
	if reason == "" || !invalid.IsText(reason, MaxReason, "\n\r\t") {
		return invalid.New("/reason", code, fmt.Sprintf("reason is required, with at most %d printable characters", MaxReason))
	}
	return nil
}
