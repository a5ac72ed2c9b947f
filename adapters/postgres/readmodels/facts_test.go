package readmodels_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/timeline"
)

// Facts are visited once each, in order, over several pages; as of a position, whatever is added meanwhile; within a time;
// and of one tenant.
func TestFacts(t *testing.T) {
	l := newLedger(t)
	ctx := context.Background()
	const n = 5100 // more than a page
	batch := append([]eventstore.Append{applyTestCatalog(t)}, recordTokens("acme", 0, n)...)
	same := tokens("acme", n)
	same.OccurredAt = tokens("acme", n-1).OccurredAt // two facts of one instant
	batch = append(batch, same.Append(counted))
	batch = append(batch, recordTokens("other", 0, 3)...)
	batch = append(batch, event.UsageAdjusted{Usage: tokens("acme", 0), Metadata: counted, Quantity: money.Int(5), Data: tokens("acme", 0).Data, Reason: "r", By: "cli"}.Append(0))
	batch = append(batch, event.UsageVoided{Usage: tokens("acme", 1), Metadata: counted, Reason: "r", By: "cli"}.Append(0))
	batch = append(batch, event.UsageConflicted{Usage: tokens("acme", 2)}.Append())
	l.append(batch...)
	l.project()
	reader := timeline.FactReader{Index: l.Store, Log: l.log}
	at, err := reader.FactsShown(ctx, eventstore.PartitionOf("acme", testPartitions))
	require.NoError(t, err)
	head, err := l.log.Head(ctx, at.Partition)
	require.NoError(t, err)
	require.Equal(t, head, at)

	type visited struct {
		source event.SourceID
		kind   string
	}
	read := func(from, to time.Time, at eventstore.Position, visit func(visited) error) (all []visited) {
		t.Helper()
		require.NoError(t, reader.Facts(ctx, "acme", from, to, at, func(e event.Decoded) error {
			var v visited
			switch p := e.Payload.(type) {
			case event.UsageRecorded:
				require.EqualValues(t, "acme", p.Tenant)
				v = visited{p.Source, "usage"}
			case event.UsageAdjusted:
				v = visited{p.Source, "adjust"}
			case event.UsageVoided:
				v = visited{p.Source, "void"}
			default:
				t.Errorf("%T", p)
			}
			all = append(all, v)
			return visit(v)
		}))
		return all
	}
	nothing := func(visited) error { return nil }
	everything := read(time.Time{}, time.Time{}, at, nothing)
	require.Len(t, everything, n+1+2)
	for i := range n + 1 {
		require.Equal(t, visited{tokens("acme", i).Source, "usage"}, everything[i])
	}
	require.Equal(t, []visited{{"call_0", "adjust"}, {"call_1", "void"}}, everything[n+1:], "when they were recorded, which is now")

	// What comes while it is read is not in it, also when it is among what is read next.
	added := false
	again := read(time.Time{}, time.Time{}, at, func(visited) error {
		if !added {
			added = true
			late := tokens("acme", n+1)
			late.OccurredAt = noon.Add(10 * time.Second)
			l.append(late.Append(counted))
			l.project()
		}
		return nil
	})
	require.Equal(t, everything, again)
	require.Len(t, read(time.Time{}, time.Time{}, eventstore.Position{Partition: at.Partition, Offset: at.Offset + 1}, nothing), n+1+2+1)

	// [from, to)
	require.Equal(t, everything[3:7], read(tokens("", 3).OccurredAt, tokens("", 7).OccurredAt, at, nothing))
	require.Empty(t, read(noon.Add(-time.Hour), noon, at, nothing))

	stop := errors.New("enough")
	require.ErrorIs(t, reader.Facts(ctx, "acme", time.Time{}, time.Time{}, at, func(event.Decoded) error { return stop }), stop)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, reader.Facts(ended, "acme", time.Time{}, time.Time{}, at, func(event.Decoded) error { return nil }), context.Canceled)
}

func TestTenants(t *testing.T) {
	l := newLedger(t)
	for _, id := range []event.TenantID{"b", "a", "Z", "ä", "a b"} {
		l.append(event.TenantDefined{Tenant: id, Name: string(id), TimeZone: "UTC", Currency: "EUR", By: "cli"}.Append(eventstore.NoStream))
	}
	l.project()
	var all []event.TenantID
	for after := event.TenantID(""); ; {
		page, err := l.Tenants(context.Background(), after, 2)
		require.NoError(t, err)
		all = append(all, page...)
		if len(page) < 2 {
			break
		}
		after = page[len(page)-1]
	}
	require.Equal(t, []event.TenantID{"Z", "a", "a b", "b", "ä"}, all)
}
