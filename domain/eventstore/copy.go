package eventstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// ErrNotACopy: an event of the other log cannot be imported, because this log has another event in its place or lacks the one
// before it.
var ErrNotACopy = errors.New("this log is not a copy of the other one")

// Original is an event with the ID it was appended with: all that a copy needs.
type Original struct {
	Recorded
	ID uuid.UUID
}

// Copyable is a store whose log can be copied into another store.
type Copyable interface {
	Store
	// ReadOriginals is ReadLog with event IDs.
	ReadOriginals(ctx context.Context, after Position, limit int) ([]Original, error)
	// Import writes events of another log with their streams, revisions, IDs and RecordedAt. The events of a tenant are written
	// in the given order, at the next positions of this log; their Position is ignored. Events that are already there are
	// skipped, so an import can be repeated. RecordedAt never goes back within a partition: an earlier one is replaced by that
	// of the event before.
	//
	// After an error some of the events may have been written. Errors: ErrNotACopy; ErrTooLarge, for more than MaxReadLimit
	// events or too large ones; ErrInvalid; ErrUnavailable.
	Import(ctx context.Context, events []Original) error
}

// CheckImport returns an error for an import that is out of bounds: ErrInvalid or ErrTooLarge. Every store calls it first.
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
			return fmt.Errorf("%w: event %d of %s has no RecordedAt", ErrInvalid, e.Revision, e.Stream)
		}
	}
	return nil
}
