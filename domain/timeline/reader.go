package timeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Index lists where the events of a page are in the log. It filters by hashes of type and source: now and then an
// event is among them that the query did not ask for.
type Index interface {
	Timeline(ctx context.Context, q Query) (events []eventstore.Position, next string, at eventstore.Position, err error)
}

// Reader reads a page of a tenant's timeline: the index says which events, the log what they are.
type Reader struct {
	Index Index
	Log   eventstore.LogReader
}

// ErrForeign: an index names an event of another tenant. That is a fault of ours, and nothing is shown.
var ErrForeign = errors.New("an index names an event of another tenant")

// ReadOf reads the events of a tenant at positions that an index names. The log serves all tenants, so each event's is
// compared. Errors: ErrForeign; those of the log; event.ErrMalformed.
func ReadOf(ctx context.Context, log eventstore.LogReader, t event.TenantID, at []eventstore.Position) ([]event.Decoded, error) {
	recorded, err := log.ReadAt(ctx, at)
	if err != nil {
		return nil, err
	}
	for i := range recorded {
		if recorded[i].Tenant != string(t) {
			return nil, fmt.Errorf("%w: %s", ErrForeign, recorded[i].Position)
		}
	}
	return event.DecodeAll(recorded)
}

// Timeline returns a page and the position that it reflects. Errors: *invalid.Error.
func (r Reader) Timeline(ctx context.Context, q Query) (Page, eventstore.Position, error) {
	positions, next, at, err := r.Index.Timeline(ctx, q)
	if err != nil {
		return Page{}, at, err
	}
	events, err := ReadOf(ctx, r.Log, q.Tenant, positions)
	if err != nil {
		return Page{}, at, fmt.Errorf("read the events of a timeline: %w", err)
	}
	page := Page{Items: make([]Item, 0, len(events)), NextCursor: next}
	for _, e := range events {
		item := Describe(e)
		if !item.Is(string(q.Type), q.Source) {
			continue
		}
		page.Items = append(page.Items, item)
	}
	return page, at, nil
}

// Bounds of what Decisions reads. Heartbeats of a long session are many, and the newest say how it is; corrections and
// conflicts of a fact come after its decisions, and are gone through.
const (
	decisionsPage  = 100
	decisionsPages = 20
)

// Decisions returns what was decided about the check of one identity: LimitDecided, HoldReleased and HoldExpired, newest
// first, back to a page with a decision that keeps something, as far as the bounds allow; and the position that this
// reflects. The order is that of the log: the timeline goes by when something happened.
func (r Reader) Decisions(ctx context.Context, id event.Identity) ([]event.Decoded, eventstore.Position, error) {
	q := Query{Tenant: id.Tenant, Type: id.Type, Source: id.Source, Limit: decisionsPage}
	var (
		all []event.Decoded
		at  eventstore.Position
	)
	for n := range decisionsPages {
		positions, next, reached, err := r.Index.Timeline(ctx, q)
		if err != nil {
			return nil, at, err
		}
		if n == 0 {
			at = reached
		}
		events, err := ReadOf(ctx, r.Log, id.Tenant, positions)
		if err != nil {
			return nil, at, fmt.Errorf("read the decisions about an event: %w", err)
		}
		decided := false
		for _, e := range events {
			switch p := e.Payload.(type) {
			case event.LimitDecided:
				if p.Identity != id { // the index compares hashes
					continue
				}
				decided = decided || p.Keeps
			case event.HoldReleased:
				if p.Identity != id {
					continue
				}
			case event.HoldExpired:
				if p.Identity != id {
					continue
				}
			default:
				continue
			}
			all = append(all, e)
		}
		if decided || next == "" {
			break
		}
		q.Cursor = next
	}
	slices.SortFunc(all, func(a, b event.Decoded) int { return cmp.Compare(b.Position.Offset, a.Position.Offset) })
	return all, at, nil
}
