package projections

import (
	"context"
	"fmt"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/timeline"
)

// TimelineIndex tells where the events of a page are in the log. It filters by hashes of type and source: now and then an
// event is among them that the query did not ask for.
type TimelineIndex interface {
	Timeline(ctx context.Context, q timeline.Query) (events []eventstore.Position, next string, at eventstore.Position, err error)
}

// TimelineReader reads a page of a tenant's timeline: the index says which events, the log what they are.
type TimelineReader struct {
	Index TimelineIndex
	Log   eventstore.LogReader
}

// Timeline returns a page and the position that it reflects. Errors: *invalid.Error.
func (r TimelineReader) Timeline(ctx context.Context, q timeline.Query) (timeline.Page, eventstore.Position, error) {
	positions, next, at, err := r.Index.Timeline(ctx, q)
	if err != nil {
		return timeline.Page{}, at, err
	}
	recorded, err := r.Log.ReadAt(ctx, positions)
	if err != nil {
		return timeline.Page{}, at, fmt.Errorf("read the events of a timeline: %w", err)
	}
	events, err := Decode(recorded)
	if err != nil {
		return timeline.Page{}, at, err
	}
	page := timeline.Page{Items: make([]timeline.Item, 0, len(events)), NextCursor: next}
	for _, e := range events {
		item := Describe(e)
		if !item.Is(string(q.Type), q.Source) {
			continue
		}
		page.Items = append(page.Items, timeline.Item{Position: item.Position, RecordedAt: item.RecordedAt, OccurredAt: item.OccurredAt,
			Kind: string(item.Kind), EventType: item.EventType, SourceID: item.Source, Quantity: item.Quantity, Summary: item.Summary, Data: item.Data})
	}
	return page, at, nil
}
