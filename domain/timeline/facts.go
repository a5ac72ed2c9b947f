package timeline

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// FactIndex lists where the facts and corrections of a tenant are in the log.
type FactIndex interface {
	// FactsAfter lists a page, in order. A zero instant is no bound.
	FactsAfter(ctx context.Context, t event.TenantID, p FactPage) ([]Mark, error)
	// CorrectionsOf lists where corrections of sources are, up to a position, in the order of the log. It may list more: sources
	// are compared by a hash.
	CorrectionsOf(ctx context.Context, t event.TenantID, sources []event.SourceID, at eventstore.Position) ([]eventstore.Position, error)
	// FactsShown is how far the index of a partition is.
	FactsShown(ctx context.Context, partition int) (eventstore.Position, error)
}

// FactPage asks for a part of the list of a tenant's facts and corrections: facts are listed at the time when they occurred,
// corrections at the time when they were recorded.
type FactPage struct {
	After  Mark
	Before time.Time           // listed before this instant
	Since  eventstore.Position // and after this position of the log
	At     eventstore.Position // and at this one or before it
	Limit  int
}

// ListedFact is a fact or a correction with its place in the list.
type ListedFact struct {
	Mark
	event.Decoded
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
	return r.Index.FactsShown(ctx, partition)
}

// Facts visits a tenant's facts and corrections at a position or before it: facts that occurred, and corrections that
// were recorded, in [from, to), in this order. Nothing of it can change meanwhile: the index is only added to, and what is
// added comes after the position.
func (r FactReader) Facts(ctx context.Context, t event.TenantID, from, to time.Time, at eventstore.Position, visit func(event.Decoded) error) error {
	after := Mark{ListedAt: from}
	for {
		page, err := r.Index.FactsAfter(ctx, t, FactPage{After: after, Before: to, At: at, Limit: factsPage})
		if err != nil {
			return err
		}
		for chunk := range slices.Chunk(page, factsChunk) {
			positions := make([]eventstore.Position, len(chunk))
			for i := range chunk {
				positions[i] = chunk[i].Position
			}
			events, err := r.read(ctx, t, positions)
			if err != nil {
				return err
			}
			for _, e := range events {
				if err := visit(e); err != nil {
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

// FactPage reads one page of the list.
func (r FactReader) FactPage(ctx context.Context, t event.TenantID, p FactPage) ([]ListedFact, error) {
	marks, err := r.Index.FactsAfter(ctx, t, p)
	if err != nil || len(marks) == 0 {
		return nil, err
	}
	at := make([]eventstore.Position, len(marks))
	for i := range marks {
		at[i] = marks[i].Position
	}
	events, err := r.read(ctx, t, at)
	facts := make([]ListedFact, len(events))
	for i := range events {
		facts[i] = ListedFact{Mark: marks[i], Decoded: events[i]}
	}
	return facts, err
}

// CorrectionsOf reads the corrections of facts, in the order of the log, up to a position.
func (r FactReader) CorrectionsOf(ctx context.Context, t event.TenantID, facts []event.Identity, at eventstore.Position) ([]event.Decoded, error) {
	if len(facts) == 0 {
		return nil, nil
	}
	sources := make([]event.SourceID, len(facts))
	for i := range facts {
		sources[i] = facts[i].Source
	}
	positions, err := r.Index.CorrectionsOf(ctx, t, sources, at)
	if err != nil || len(positions) == 0 {
		return nil, err
	}
	return r.read(ctx, t, positions)
}

func (r FactReader) read(ctx context.Context, t event.TenantID, at []eventstore.Position) ([]event.Decoded, error) {
	events, err := ReadOf(ctx, r.Log, t, at)
	if err != nil {
		return nil, fmt.Errorf("read facts: %w", err)
	}
	return events, nil
}
