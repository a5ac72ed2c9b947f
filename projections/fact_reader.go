package projections

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/timeline"
)

// FactMark is a place in the list of a tenant's facts and corrections.
type FactMark struct {
	ListedAt time.Time
	Position eventstore.Position
}

// FactIndex tells where the facts and corrections of a tenant are in the log.
type FactIndex interface {
	// FactsAfter lists those after a mark that are listed before an instant and stand at a position or before it, in order. Zero
	// instants are no bounds.
	FactsAfter(ctx context.Context, t event.TenantID, after FactMark, before time.Time, at eventstore.Position, limit int) ([]FactMark, error)
	// Checkpoint tells how far a read model is.
	Checkpoint(ctx context.Context, readModel string, partition int) (generation int, offset int64, err error)
}

// FactReader reads all facts of a tenant, page by page.
type FactReader struct {
	Index FactIndex
	Log   eventstore.LogReader
}

// Bounds of what is in memory at once: a fact has up to 64 KiB.
const (
	factsPage  = 5000 // entries of the index
	factsChunk = 250  // events
)

// FactsShown is how far the facts of a partition can be read.
func (r FactReader) FactsShown(ctx context.Context, partition int) (eventstore.Position, error) {
	_, offset, err := r.Index.Checkpoint(ctx, TimelineModel, partition)
	return eventstore.Position{Partition: partition, Offset: offset}, err
}

// Facts visits a tenant's facts and corrections that stand at a position or before it: facts that occurred, and corrections that
// were recorded, in [from, to), in this order. Nothing of it can change meanwhile: the index is only added to, and what is
// added stands after the position.
func (r FactReader) Facts(ctx context.Context, t event.TenantID, from, to time.Time, at eventstore.Position, visit func(timeline.Event) error) error {
	after := FactMark{ListedAt: from}
	for {
		page, err := r.Index.FactsAfter(ctx, t, after, to, at, factsPage)
		if err != nil {
			return err
		}
		for chunk := range slices.Chunk(page, factsChunk) {
			positions := make([]eventstore.Position, len(chunk))
			for i := range chunk {
				positions[i] = chunk[i].Position
			}
			events, err := ReadOf(ctx, r.Log, t, positions)
			if err != nil {
				return fmt.Errorf("read facts: %w", err)
			}
			for _, e := range events {
				if err := visit(timeline.Event{Position: e.Position, RecordedAt: e.RecordedAt, Payload: e.Payload}); err != nil {
					return err
				}
			}
		}
		if len(page) < factsPage {
			return nil
		}
		after = page[len(page)-1]
	}
}
