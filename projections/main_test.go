package projections_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/adapters/memory"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/projections"
)

// Two revisions of a catalog: the second counts the same events in another way.
var catalogTexts = []string{`
meters:
  - {key: calls, eventType: tokens_spent, aggregation: count}
  - {key: interviews, eventType: interview, aggregation: sum}
  - {key: output_tokens, eventType: tokens_spent, value: data.outputTokens, aggregation: sum, dimensions: [model]}
  - {key: tokens, eventType: tokens_spent, aggregation: sum, dimensions: [model, feature, tier]}
`, `
meters:
  - {key: calls, eventType: tokens_spent, aggregation: count, dimensions: [feature]}
  - {key: tokens, eventType: tokens_spent, aggregation: sum}
`}

var noon = time.Date(2026, 4, 5, 12, 0, 0, 0, time.UTC)

func newStore(t require.TestingT, partitions int) (*memory.Store, projections.Catalogs) {
	now := noon
	store := memory.NewStore(partitions, func() time.Time {
		now = now.Add(time.Second)
		return now
	})
	var batch []eventstore.Append
	for i, text := range catalogTexts {
		c, err := catalog.Parse([]byte(text))
		require.NoError(t, err)
		batch = append(batch, event.CatalogApplied{Catalog: c.Canonical(), By: "cli"}.Append(eventstore.Revision(i-1)))
	}
	add(t, store, batch...)
	return store, app.NewCatalogRevisions(store)
}

func add(t require.TestingT, store *memory.Store, batch ...eventstore.Append) {
	for i, r := range store.Append(context.Background(), batch) {
		require.Equal(t, eventstore.Appended, r.Outcome, "append %d: %v", i, r.Err)
	}
}

// all reads and decodes the whole log, one partition after the other.
func all(t require.TestingT, store *memory.Store) []event.Decoded {
	var events []event.Decoded
	for p := range store.Partitions() {
		recorded, err := store.ReadLog(context.Background(), eventstore.Position{Partition: p}, eventstore.MaxReadLimit)
		require.NoError(t, err)
		require.NoError(t, projections.CheckFollows(eventstore.Position{Partition: p}, recorded, true))
		decoded, err := event.DecodeAll(recorded)
		require.NoError(t, err)
		events = append(events, decoded...)
	}
	return events
}

func source(n int) event.SourceID { return event.SourceID(fmt.Sprintf("call_%d", n)) }

// data draws an event's data with the fields that the meters look at, present or not, of the right kind or not.
func data(t *rapid.T) event.Data {
	fields := map[string]any{}
	field := func(name string, values ...any) {
		if i := rapid.IntRange(-1, len(values)-1).Draw(t, name); i >= 0 {
			fields[name] = values[i]
		}
	}
	field("model", "gpt-4.1", "claude", "", nil, 7)
	field("feature", "interview", `a "quoted" \ name`, "naïve ✓")
	field("tier", true, false)
	field("outputTokens", 3, 1000, money.MustParse("0.25"), "no number", nil, money.MustParse("1e30"), -5)
	field("other", "ignored")
	return event.NewData(fields)
}

func quantity(t *rapid.T) money.Decimal {
	return rapid.SampledFrom([]money.Decimal{
		money.Int(1), money.Int(2), money.MustParse("0.5"), money.MustParse("0.000000001"), money.MustParse("999999999999999999.999999999"),
	}).Draw(t, "quantity")
}

// history draws facts and corrections of them, in an order in which they can be appended.
func history(t *rapid.T) []eventstore.Append {
	var batch []eventstore.Append
	facts := rapid.IntRange(0, 12).Draw(t, "facts")
	for n := range facts {
		u := event.Usage{
			Identity: event.Identity{
				Tenant: rapid.SampledFrom([]event.TenantID{"acme", "globex", "tenant-\u00e9"}).Draw(t, "tenant"),
				Type:   rapid.SampledFrom([]event.Type{"tokens_spent", "interview", "unknown"}).Draw(t, "type"),
				Source: source(n),
			},
			Quantity: quantity(t), Data: data(t),
			OccurredAt: noon.Add(time.Duration(rapid.IntRange(-4000, 4000).Draw(t, "seconds")) * time.Second),
		}
		m := event.Metadata{Catalog: eventstore.Revision(rapid.IntRange(-1, 1).Draw(t, "catalog"))}
		batch = append(batch, u.Append(m))
		corrections := rapid.IntRange(0, 2).Draw(t, "corrections")
		for i := range corrections {
			a := event.UsageAdjusted{Usage: u, Metadata: m, Quantity: quantity(t), Data: data(t), Reason: "r", By: "cli"}
			batch = append(batch, a.Append(eventstore.Revision(i)))
			u = a.After()
		}
		if rapid.Bool().Draw(t, "void") {
			batch = append(batch, event.UsageVoided{Usage: u, Metadata: m, Reason: "r", By: "cli"}.Append(eventstore.Revision(corrections)))
		}
		if rapid.Bool().Draw(t, "conflict") {
			c := u
			c.Quantity = money.Int(7)
			batch = append(batch, event.UsageConflicted{Usage: c}.Append())
		}
	}
	return batch
}

type fataler interface {
	require.TestingT
	Helper()
}

func foldUsage(t fataler, catalogs projections.Catalogs, ranges ...[]event.Decoded) []projections.UsageDelta {
	t.Helper()
	fold := projections.NewUsageFold(catalogs)
	for _, events := range ranges {
		require.NoError(t, fold.Add(context.Background(), events))
	}
	n := fold.Len()
	deltas := fold.Take()
	require.Len(t, deltas, n)
	require.Zero(t, fold.Len())
	return deltas
}

func TestDecodeReturnsWhatStandsBeforeAMalformedEvent(t *testing.T) {
	good := eventstore.Recorded{Position: eventstore.Position{Offset: 1}, Type: "catalog_applied.v1", Data: []byte(`{"catalog":{},"by":"cli"}`)}
	bad := eventstore.Recorded{Position: eventstore.Position{Offset: 2}, Type: "never_heard_of.v1"}
	events, err := event.DecodeAll([]eventstore.Recorded{good, bad, good})
	require.ErrorIs(t, err, event.ErrMalformed)
	require.Len(t, events, 1)
}

func TestCheckFollows(t *testing.T) {
	page := func(offsets ...int64) (p []eventstore.Recorded) {
		for _, o := range offsets {
			p = append(p, eventstore.Recorded{Position: eventstore.Position{Partition: 1, Offset: o}})
		}
		return p
	}
	at := eventstore.Position{Partition: 1, Offset: 3}
	require.NoError(t, projections.CheckFollows(at, nil, true))
	require.NoError(t, projections.CheckFollows(at, page(4, 5, 6), true))
	for _, offsets := range [][]int64{{3}, {5}, {4, 6}, {4, 4}, {4, 5, 5}} {
		require.ErrorIs(t, projections.CheckFollows(at, page(offsets...), true), eventstore.ErrHole, "%v", offsets)
	}
	require.ErrorIs(t, projections.CheckFollows(eventstore.Position{Offset: 3}, page(4), true), eventstore.ErrHole)
}

func TestRangeCheck(t *testing.T) {
	events := []event.Decoded{{Recorded: eventstore.Recorded{Position: eventstore.Position{Offset: 5}}}, {Recorded: eventstore.Recorded{Position: eventstore.Position{Offset: 6}}}}
	require.NoError(t, projections.Range{After: 4, To: 6}.Check(events))
	for _, r := range []projections.Range{{After: 4, To: 7}, {After: 3, To: 5}, {After: 4, To: 4}, {After: 4, To: 5}, {After: -1, To: 1}, {After: 4, To: 6, Partition: 1}} {
		require.Error(t, r.Check(events), "%+v", r)
	}
}

// Where offsets only rise, a range is what lies between two of them.
func TestSparseRanges(t *testing.T) {
	var events []event.Decoded
	var page []eventstore.Recorded
	for _, offset := range []int64{110, 250, 251, 900} {
		r := eventstore.Recorded{Position: eventstore.Position{Offset: offset}}
		events, page = append(events, event.Decoded{Recorded: r}), append(page, r)
	}
	require.NoError(t, projections.CheckFollows(eventstore.Position{Offset: 7}, page, false))
	require.ErrorIs(t, projections.CheckFollows(eventstore.Position{Offset: 110}, page, false), eventstore.ErrHole, "not after the position")
	require.ErrorIs(t, projections.CheckFollows(eventstore.Position{Offset: 7, Partition: 1}, page, false), eventstore.ErrHole)
	page[1], page[2] = page[2], page[1]
	require.ErrorIs(t, projections.CheckFollows(eventstore.Position{Offset: 7}, page, false), eventstore.ErrHole, "not in order")

	require.NoError(t, projections.Range{After: 7, To: 900, Sparse: true}.Check(events))
	require.NoError(t, projections.Range{After: 110, To: 251, Sparse: true}.Check(events[1:3]))
	for _, r := range []projections.Range{{After: 7, To: 899}, {After: 7, To: 901}, {After: 110, To: 900}, {After: 900, To: 900}, {After: 7, To: 900, Partition: 1}} {
		r.Sparse = true
		require.Error(t, r.Check(events), "%+v", r)
	}
	require.Error(t, projections.Range{After: 7, To: 900, Sparse: true}.Check(nil))
	for offset, want := range map[int64]int{0: 0, 109: 0, 110: 1, 250: 2, 899: 3, 900: 4, 5000: 4} {
		require.Len(t, projections.UpTo(events, offset), want, "up to %d", offset)
	}
}
