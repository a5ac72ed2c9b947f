package timeline_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/memory"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/timeline"
)

// everything is an index that cannot tell one source from another, as if their hashes were the same.
type everything struct{ positions []eventstore.Position } // newest first

func (x everything) Timeline(_ context.Context, q timeline.Query) ([]eventstore.Position, string, eventstore.Position, error) {
	first := 0
	if q.Cursor != "" {
		var err error
		if first, err = strconv.Atoi(q.Cursor); err != nil {
			return nil, "", eventstore.Position{}, err
		}
	}
	last, next := min(first+q.Limit, len(x.positions)), ""
	if last < len(x.positions) {
		next = strconv.Itoa(last)
	}
	return x.positions[first:last], next, eventstore.Position{Offset: int64(len(x.positions))}, nil
}

func newStore() *memory.Store {
	now := noon
	return memory.NewStore(1, func() time.Time {
		now = now.Add(time.Second)
		return now
	})
}

func add(t *testing.T, store *memory.Store, batch ...eventstore.Append) {
	t.Helper()
	for i, r := range store.Append(t.Context(), batch) {
		require.Equal(t, eventstore.Appended, r.Outcome, "append %d: %v", i, r.Err)
	}
}

// all reads the whole log.
func all(t *testing.T, store *memory.Store) []eventstore.Recorded {
	t.Helper()
	recorded, err := store.ReadLog(t.Context(), eventstore.Position{}, eventstore.MaxReadLimit)
	require.NoError(t, err)
	return recorded
}

func TestDecisionsAboutOneIdentity(t *testing.T) {
	store := newStore()
	of := func(source event.SourceID) event.Identity {
		return event.Identity{Tenant: "acme", Type: "tokens_spent", Source: source}
	}
	at := noon
	decide := func(source event.SourceID, keeps bool) event.LimitDecided {
		at = at.Add(time.Second)
		d := event.LimitDecided{Identity: of(source), Quantity: money.Int(1), DecidedAt: at, Allowed: keeps, Keeps: keeps, PlanVersion: "pro@1"}
		if keeps {
			d.KeepUntil = at.Add(time.Hour)
		}
		return d
	}
	quota := []event.QuotaEvent{decide("a", true), decide("b", true), event.HoldReleased{Identity: of("a"), ReleasedAt: at, By: "cli"}, decide("a", false)}
	add(t, store, event.AppendDecisions(uuid.Nil, "acme", eventstore.NoStream, quota, nil))
	// More corrections than fit a page came after them.
	u := event.Usage{Identity: of("a"), Quantity: money.Int(1), OccurredAt: at}
	add(t, store, u.Append(event.Metadata{}))
	for i := range 150 {
		adjusted := event.UsageAdjusted{Usage: u, Quantity: money.Int(int64(i + 2)), Reason: fmt.Sprint(i), By: "cli"}
		add(t, store, adjusted.Append(eventstore.Revision(i)))
		u = adjusted.After()
	}
	var index everything
	events := all(t, store)
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].Tenant != "" {
			index.positions = append(index.positions, events[i].Position)
		}
	}
	r := timeline.Reader{Index: index, Log: store}

	decided, shown, err := r.Decisions(t.Context(), of("a"))
	require.NoError(t, err)
	require.EqualValues(t, len(index.positions), shown.Offset)
	require.Len(t, decided, 3)
	require.Equal(t, quota[3], decided[0].Payload)
	require.Equal(t, quota[2], decided[1].Payload)
	require.Equal(t, quota[0], decided[2].Payload)
	require.Greater(t, decided[0].Position.Offset, decided[1].Position.Offset)

	decided, _, err = r.Decisions(t.Context(), of("nobody"))
	require.NoError(t, err)
	require.Empty(t, decided)
}

// An index that leads to another tenant's event shows nothing at all.
func TestAnIndexThatLeadsAstray(t *testing.T) {
	store := newStore()
	add(t, store, event.Usage{Identity: event.Identity{Tenant: "other", Type: "tokens_spent", Source: "a"}, Quantity: money.Int(1), OccurredAt: noon}.Append(event.Metadata{}))
	events := all(t, store)
	r := timeline.Reader{Index: everything{[]eventstore.Position{events[len(events)-1].Position}}, Log: store}
	_, _, err := r.Timeline(t.Context(), timeline.Query{Tenant: "acme", Limit: 10})
	require.ErrorIs(t, err, timeline.ErrForeign)
	_, _, err = r.Decisions(t.Context(), event.Identity{Tenant: "acme", Type: "tokens_spent", Source: "a"})
	require.ErrorIs(t, err, timeline.ErrForeign)
}
