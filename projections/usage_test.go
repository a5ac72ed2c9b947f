package projections_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/projections"
)

// naive folds one event at a time with the plainest means.
func naive(t require.TestingT, catalogs projections.Catalogs, events []event.Decoded) map[string]projections.UsageDelta {
	rows := map[string]projections.UsageDelta{}
	count := func(revision eventstore.Revision, u event.Usage, sign int64) {
		c, err := catalogs.At(context.Background(), revision)
		require.NoError(t, err)
		for _, m := range c.MetersOf(string(u.Type)) {
			q := u.Quantity
			if field, ok := m.Field(); ok {
				v := u.Data.Get(field)
				n, isNumber := v.Decimal()
				if !isNumber {
					continue
				}
				if q, err = money.ParseQuantity(n.String()); err != nil {
					continue
				}
			}
			if m.Aggregation == catalog.Count {
				q = money.Int(1)
			}
			dimensions := map[string]string{}
			for _, name := range m.Dimensions {
				if v := u.Data.Get(name); v.Kind != event.Absent && v.Kind != event.Null {
					dimensions[name] = v.String()
				}
			}
			text, err := json.Marshal(dimensions) // sorts by name
			require.NoError(t, err)
			bucket := u.OccurredAt.Truncate(15 * time.Minute).Unix()
			key := fmt.Sprint(u.Tenant, "|", m.Key, "|", bucket, "|", string(text))
			row := rows[key]
			row.Tenant, row.Meter, row.Bucket, row.Dimensions = u.Tenant, m.Key, bucket, string(text)
			if sign < 0 {
				q = q.Neg()
			}
			row.Quantity, row.Events = row.Quantity.Add(q), row.Events+sign
			rows[key] = row
		}
	}
	for _, e := range events {
		switch p := e.Payload.(type) {
		case event.UsageRecorded:
			count(p.Catalog, p.Usage, 1)
		case event.UsageVoided:
			count(p.Catalog, p.Usage, -1)
		case event.UsageAdjusted:
			count(p.Catalog, p.Usage, -1)
			count(p.Catalog, p.After(), 1)
		}
	}
	return rows
}

// same compares deltas with rows of the naive model. JSON texts may differ in escapes, which mean the same.
func same(t fataler, want map[string]projections.UsageDelta, got []projections.UsageDelta) {
	t.Helper()
	require.Len(t, got, len(want))
	byKey := map[string]projections.UsageDelta{}
	for _, d := range got {
		sum := sha256.Sum256([]byte(d.Dimensions))
		require.Equal(t, sum[:16], d.Hash[:])
		var dimensions map[string]string
		require.NoError(t, json.Unmarshal([]byte(d.Dimensions), &dimensions))
		text, err := json.Marshal(dimensions)
		require.NoError(t, err)
		byKey[fmt.Sprint(d.Tenant, "|", d.Meter, "|", d.Bucket, "|", string(text))] = d
	}
	for key, w := range want {
		g, ok := byKey[key]
		require.True(t, ok, "no row %s", key)
		require.Equal(t, w.Quantity.String(), g.Quantity.String(), key)
		require.Equal(t, w.Events, g.Events, key)
	}
}

func TestUsageIsTheNaiveFold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, catalogs := newStore(t, 1)
		add(t, store, history(t)...)
		events := all(t, store)
		same(t, naive(t, catalogs, events), foldUsage(t, catalogs, events))
	})
}

func TestUsageDoesNotDependOnOrderOrRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, catalogs := newStore(t, 1)
		add(t, store, history(t)...)
		events := all(t, store)
		whole := foldUsage(t, catalogs, events)

		shuffled := rapid.Permutation(events).Draw(t, "order")
		cut := rapid.IntRange(0, len(events)).Draw(t, "cut")
		require.Equal(t, texts(whole), texts(foldUsage(t, catalogs, shuffled[:cut], shuffled[cut:])))

		// Applied one range after the other, the rows are the same too.
		rows := map[string]projections.UsageDelta{}
		for _, part := range [][]event.Decoded{shuffled[:cut], shuffled[cut:]} {
			for _, d := range foldUsage(t, catalogs, part) {
				key := fmt.Sprint(d.Tenant, d.Meter, d.Bucket, d.Hash)
				row, ok := rows[key]
				if ok {
					d.Quantity, d.Events = row.Quantity.Add(d.Quantity), row.Events+d.Events
				}
				rows[key] = d
			}
		}
		var sum []projections.UsageDelta
		for _, d := range whole {
			key := fmt.Sprint(d.Tenant, d.Meter, d.Bucket, d.Hash)
			sum = append(sum, rows[key])
			delete(rows, key)
		}
		require.Empty(t, rows)
		require.Equal(t, texts(whole), texts(sum))
	})
}

// texts makes deltas comparable: equal numbers may be held in different ways.
func texts(deltas []projections.UsageDelta) []string {
	var all []string
	for _, d := range deltas {
		all = append(all, fmt.Sprintf("%s %s %d %s %x %s %d", d.Tenant, d.Meter, d.Bucket, d.Dimensions, d.Hash, d.Quantity, d.Events))
	}
	return all
}

func TestVoidUndoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, catalogs := newStore(t, 1)
		u := event.Usage{Identity: event.Identity{Tenant: "acme", Type: "tokens_spent", Source: "s"}, Quantity: quantity(t), Data: data(t), OccurredAt: noon}
		m := event.Metadata{Catalog: 0}
		add(t, store, u.Append(m), event.UsageVoided{Usage: u, Metadata: m, Reason: "r", By: "cli"}.Append(0))
		deltas := foldUsage(t, catalogs, all(t, store))
		require.NotEmpty(t, deltas, "the rows that were touched exist")
		for _, d := range deltas {
			require.Zero(t, d.Quantity.Sign())
			require.Zero(t, d.Events)
		}
	})
}

func TestUsageRows(t *testing.T) {
	store, catalogs := newStore(t, 1)
	fact := func(source event.SourceID, at string, q string, fields map[string]any) eventstore.Append {
		occurred, err := time.Parse(time.RFC3339, at)
		require.NoError(t, err)
		return event.Usage{Identity: event.Identity{Tenant: "acme", Type: "tokens_spent", Source: source}, Quantity: money.MustParse(q),
			OccurredAt: occurred.UTC(), Data: event.NewData(fields)}.Append(event.Metadata{Catalog: 0})
	}
	add(t, store,
		fact("a", "2026-04-05T12:14:59Z", "1200", map[string]any{"model": "gpt-4.1", "outputTokens": 7}),
		fact("b", "2026-04-05T12:00:00Z", "0.5", map[string]any{"model": "gpt-4.1", "outputTokens": nil}),
		fact("c", "2026-04-05T12:15:00Z", "1", map[string]any{"model": "gpt-4.1", "tier": true, "feature": "x"}),
		fact("d", "1969-12-31T23:59:59Z", "1", nil),
	)
	require.Equal(t, []string{
		"calls -900 {} 1 1",
		"calls 1775390400 {} 2 2",
		"calls 1775391300 {} 1 1",
		`output_tokens 1775390400 {"model":"gpt-4.1"} 7 1`,
		"tokens -900 {} 1 1",
		`tokens 1775390400 {"model":"gpt-4.1"} 1200.5 2`,
		`tokens 1775391300 {"feature":"x","model":"gpt-4.1","tier":"true"} 1 1`,
	}, func() (rows []string) {
		for _, d := range foldUsage(t, catalogs, all(t, store)) {
			rows = append(rows, fmt.Sprintf("%s %d %s %s %d", d.Meter, d.Bucket, d.Dimensions, d.Quantity, d.Events))
		}
		return rows
	}())
}

func TestUsageOfAnUnknownCatalogIsMalformed(t *testing.T) {
	store, catalogs := newStore(t, 1)
	u := event.Usage{Identity: event.Identity{Tenant: "acme", Type: "tokens_spent", Source: "s"}, Quantity: money.Int(1), OccurredAt: noon}
	add(t, store, u.Append(event.Metadata{Catalog: 99}))
	err := projections.NewUsageFold(catalogs).Add(context.Background(), all(t, store))
	require.ErrorIs(t, err, event.ErrMalformed)
}

type brokenCatalogs struct{}

func (brokenCatalogs) At(context.Context, eventstore.Revision) (*catalog.Catalog, error) {
	return nil, fmt.Errorf("%w: no connection", eventstore.ErrUnavailable)
}

func TestAnOutageIsNotAMalformedEvent(t *testing.T) {
	store, _ := newStore(t, 1)
	u := event.Usage{Identity: event.Identity{Tenant: "acme", Type: "tokens_spent", Source: "s"}, Quantity: money.Int(1), OccurredAt: noon}
	add(t, store, u.Append(event.Metadata{Catalog: 0}))
	err := projections.NewUsageFold(brokenCatalogs{}).Add(context.Background(), all(t, store))
	require.ErrorIs(t, err, eventstore.ErrUnavailable)
	require.False(t, errors.Is(err, event.ErrMalformed))
}

func TestDeltasComeInTheOrderOfTheirKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, catalogs := newStore(t, 1)
		add(t, store, history(t)...)
		deltas := foldUsage(t, catalogs, all(t, store))
		require.True(t, slices.IsSortedFunc(deltas, func(a, b projections.UsageDelta) int {
			return slices.Compare([]string{string(a.Tenant), string(a.Meter), fmt.Sprintf("%020d", a.Bucket+1<<40), string(a.Hash[:])},
				[]string{string(b.Tenant), string(b.Meter), fmt.Sprintf("%020d", b.Bucket+1<<40), string(b.Hash[:])})
		}))
	})
}

func BenchmarkUsageFold(b *testing.B) {
	store, catalogs := newStore(b, 1)
	var batch []eventstore.Append
	for n := range 5000 {
		batch = append(batch, event.Usage{
			Identity: event.Identity{Tenant: event.TenantID(fmt.Sprintf("tenant_%d", n%100)), Type: "tokens_spent", Source: source(n)},
			Quantity: money.Int(int64(n)), OccurredAt: noon.Add(time.Duration(n) * time.Millisecond),
			Data: event.NewData(map[string]any{"userId": "u1", "feature": "interview", "provider": "openai", "model": "gpt-4.1", "promptVersion": "v7",
				"inputTokens": 812, "outputTokens": 164, "cachedInputTokens": 0, "latencyMs": 930, "cacheHit": false, "safety": "passed", "status": "ok", "attempt": 1}),
		}.Append(event.Metadata{Catalog: 0}))
	}
	add(b, store, batch...)
	events := all(b, store)
	fold := projections.NewUsageFold(catalogs)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		if err := fold.Add(context.Background(), events); err != nil {
			b.Fatal(err)
		}
		fold.Take()
	}
	b.ReportMetric(float64(b.N)*float64(len(events))/b.Elapsed().Seconds(), "events/s")
}
