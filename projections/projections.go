// Package projections folds the log into read models: pure functions from a range of events to what changes. How a
// change is stored, and how ranges arrive, is the adapters' business; this package owns the ports between them.
package projections

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// CheckFollows refuses a page that does not go on directly after a position: one offset at a time where they are dense, and
// rising where they are not, which is all that can be seen there. Error: wraps eventstore.ErrHole. A hole is never skipped:
// what is missing may be somebody's money.
func CheckFollows(after eventstore.Position, page []eventstore.Recorded, dense bool) error {
	if !dense {
		return checkRises(after, len(page), func(i int) eventstore.Position { return page[i].Position })
	}
	for i := range page {
		if want := after.Offset + 1 + int64(i); page[i].Position.Partition != after.Partition || page[i].Position.Offset != want {
			return fmt.Errorf("%w: %s where %d-%d must be", eventstore.ErrHole, page[i].Position, after.Partition, want)
		}
	}
	return nil
}

func checkRises(after eventstore.Position, n int, at func(int) eventstore.Position) error {
	for i := range n {
		if p := at(i); p.Partition != after.Partition || p.Offset <= after.Offset {
			return fmt.Errorf("%w: %s where something after %s must be", eventstore.ErrHole, p, after)
		}
		after = at(i)
	}
	return nil
}

// UpTo returns those of the events, which are of one partition and in order, whose offset is not above one.
func UpTo(events []event.Decoded, offset int64) []event.Decoded {
	n := sort.Search(len(events), func(i int) bool { return events[i].Position.Offset > offset })
	return events[:n]
}

// Range is what one message carries: the events of one partition with offsets in (After, To], for one generation of one
// read model. To is the offset of an event.
type Range struct {
	ReadModel  string `json:"readModel"`
	Generation int    `json:"generation"`
	Partition  int    `json:"partition"`
	After      int64  `json:"after"`
	To         int64  `json:"to"`
	// Sparse: offsets only rise; see eventstore.LogReader.
	Sparse bool `json:"sparse,omitempty"`
}

// Check refuses an empty or negative range, and events that are not exactly those of the range: a checkpoint must never
// say more than was applied.
func (r Range) Check(events []event.Decoded) error {
	n := int64(len(events))
	if r.After < 0 || r.To <= r.After || n == 0 || !r.Sparse && n != r.To-r.After || events[n-1].Position.Offset != r.To && r.Sparse {
		return fmt.Errorf("range (%d, %d] of partition %d with %d events", r.After, r.To, r.Partition, len(events))
	}
	if r.Sparse {
		return checkRises(eventstore.Position{Partition: r.Partition, Offset: r.After}, len(events), func(i int) eventstore.Position { return events[i].Position })
	}
	for i := range events {
		if p := events[i].Position; p.Partition != r.Partition || p.Offset != r.After+1+int64(i) {
			return fmt.Errorf("%w: %s as event %d of the range after %d-%d", eventstore.ErrHole, p, i, r.Partition, r.After)
		}
	}
	return nil
}

// ErrStale: the read model is not at the range's start, because another replica was faster or another generation
// serves now. Nothing was changed; start again from the checkpoint.
var ErrStale = errors.New("range does not start at the checkpoint")

// Target stores read models, each with its checkpoint, in one transaction per range.
type Target interface {
	// ReadModels lists what is kept.
	ReadModels() []string
	// Checkpoint returns the generation of the read model that serves, and how far it is.
	Checkpoint(ctx context.Context, readModel string, partition int) (generation int, offset int64, err error)
	// Apply moves the checkpoint from r.After to r.To and applies the events, both or neither. Errors: ErrStale;
	// anything that wraps event.ErrMalformed will fail again; everything else may pass when tried again.
	Apply(ctx context.Context, r Range, events []event.Decoded) error
}

// malformed is an error of an event that can be read but not folded; it will fail again.
func malformed(e event.Decoded, err error) error {
	return fmt.Errorf("%w at %s (%s): %w", event.ErrMalformed, e.Position, e.Type, err)
}
