package eventstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// ErrNotACopy: where an event of another log belongs stands something else, or what has to stand before it is missing.
var ErrNotACopy = errors.New("this log is not a copy of the other one")

// Original is an event with the id that it was appended with: all that a copy of it needs.
type Original struct {
	Recorded
	ID uuid.UUID
}

// Copyable is a store whose log can be copied into another store.
type Copyable interface {
	Store
	// ReadOriginals is ReadLog with ids.
	ReadOriginals(ctx context.Context, after Position, limit int) ([]Original, error)
	// Import writes events of another log as they were: at their revisions of their streams, with their ids and instants. Those
	// of one tenant are written in their order; their positions are the next ones of this log, and Position is not looked at.
	// Events that stand there already are passed over, so that the same may be imported again. RecordedAt never goes back within
	// a partition: where it would, it is that of the event before.
	//
	// After an error some of the events may have been written. Errors: ErrNotACopy; ErrTooLarge, for more than MaxReadLimit
	// events or too large ones; ErrInvalid; ErrUnavailable.
	Import(ctx context.Context, events []Original) error
}

// CheckImport refuses a call of Import that is out of bounds; every store calls it first.
func CheckImport(events []Original) error {
	if len(events) > MaxReadLimit {
		return fmt.Errorf("%w: %d events in one import", ErrTooLarge, len(events))
	}
	for i := range events {
		e := &events[i]
		a := Append{Stream: e.Stream, Tenant: e.Tenant, Expected: e.Revision - 1, Events: []NewEvent{{ID: e.ID, Type: e.Type, Data: e.Data}}}
		if err := a.Check(); err != nil {
			return err
		}
		if e.RecordedAt.IsZero() {
			return fmt.Errorf("%w: event %d of %s without an instant", ErrInvalid, e.Revision, e.Stream)
		}
	}
	return nil
}
