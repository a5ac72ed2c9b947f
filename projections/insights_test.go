package projections_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/projections"
)

// callData draws what insights look at, present or not, of the right kind or not.
func callData(t *rapid.T) event.Data {
	fields := map[string]any{}
	all := map[string][]any{
		"provider": {"openai", "", nil}, "model": {"gpt-4.1", 7, "o3"}, "feature": {"chat", true}, "promptVersion": {"v7", "v8"},
		"status": {"ok", "success", "timeout", nil}, "attempt": {1, 2, "2"}, "retryOf": {nil, "call_1"},
		"inputTokens": {812, 0, money.MustParse("0.5"), -1, money.Int(999_999_999_999_999_999)}, "cachedInputTokens": {5, 900}, "outputTokens": {164, "x"},
		"latencyMs": {930, money.MustParse("930.25"), 0, -1, 12},
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		values := all[name]
		if i := rapid.IntRange(-1, len(values)-1).Draw(t, name); i >= 0 {
			fields[name] = values[i]
		}
	}
	return event.NewData(fields)
}

// calls draws facts around midnight with their corrections, and decisions, in an order in which they can be appended.
func calls(t *rapid.T) (batch []eventstore.Append) {
	tenants := []event.TenantID{"acme", "globex"}
	var m event.Metadata
	for n := range rapid.IntRange(0, 10).Draw(t, "facts") {
		u := event.Usage{Identity: event.Identity{Tenant: rapid.SampledFrom(tenants).Draw(t, "tenant"), Type: rapid.SampledFrom([]event.Type{"chat", "interview"}).Draw(t, "type"), Source: source(n)},
			Quantity: money.Int(1), Data: callData(t), OccurredAt: noon.Add(12*time.Hour + time.Duration(rapid.IntRange(-2, 1).Draw(t, "microseconds"))*time.Microsecond)}
		batch = append(batch, u.Append(m))
		corrections := rapid.IntRange(0, 2).Draw(t, "corrections")
		for i := range corrections {
			a := event.UsageAdjusted{Usage: u, Metadata: m, Quantity: money.Int(2), Data: callData(t), Reason: "r", By: "cli"}
			batch = append(batch, a.Append(eventstore.Revision(i)))
			u = a.After()
		}
		if rapid.Bool().Draw(t, "void") {
			batch = append(batch, event.UsageVoided{Usage: u, Metadata: m, Reason: "r", By: "cli"}.Append(eventstore.Revision(corrections)))
		}
	}
	for _, of := range tenants {
		var decided []event.QuotaEvent
		for n := range rapid.IntRange(0, 5).Draw(t, "decisions") {
			d := event.LimitDecided{Identity: event.Identity{Tenant: of, Type: "chat", Source: source(n)}, Quantity: money.Int(1), DecidedAt: noon, Allowed: true}
			for _, p := range []event.LimitPart{{Limit: "daily", Kind: event.QuotaLimit}, {Limit: "rate", Kind: event.RateLimit}} {
				p.Denied = rapid.Bool().Draw(t, "denied")
				d.Allowed = d.Allowed && !p.Denied
				d.Parts = append(d.Parts, p)
			}
			decided = append(decided, d, event.HoldReleased{Identity: d.Identity, ReleasedAt: noon, By: "cli"})
		}
		if len(decided) > 0 {
			batch = append(batch, event.AppendDecisions(uuid.Nil, of, eventstore.NoStream, decided, nil))
		}
	}
	return batch
}

// table is what rows are after changes were added to them.
type table map[string]map[string]money.Decimal

func (rows table) add(change projections.InsightsChange) {
	row := func(format string, key ...any) map[string]money.Decimal {
		k := fmt.Sprintf(format, key...)
		if rows[k] == nil {
			rows[k] = map[string]money.Decimal{}
		}
		return rows[k]
	}
	for _, d := range change.Calls {
		r := row("calls %q %d %q %x %q %q %q %q", d.Tenant, d.Day, d.Type, d.Hash, d.Provider, d.Model, d.Feature, d.PromptVersion)
		for name, n := range map[string]money.Decimal{"events": money.Int(d.Events), "counted": money.Int(d.Counted), "retries": money.Int(d.Retries),
			"failures": money.Int(d.Failures), "input": d.Input, "cached": d.CachedInput, "output": d.Output} {
			r[name] = r[name].Add(n)
		}
		for _, l := range d.Latency {
			name := fmt.Sprint("bucket ", l.Bucket)
			if r[name] = r[name].Add(money.Int(l.Count)); r[name].Sign() == 0 {
				delete(r, name)
			}
		}
	}
	for _, d := range change.Decisions {
		r := row("decisions %q %d %q %q %q", d.Tenant, d.Day, d.Type, d.Limit, d.Reason)
		r["decisions"] = r["decisions"].Add(money.Int(d.Decisions))
	}
}

func (rows table) texts() (all []string) {
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		text := key
		for _, name := range slices.Sorted(maps.Keys(rows[key])) {
			text += " " + name + "=" + rows[key][name].String()
		}
		all = append(all, text)
	}
	return all
}

func foldInsights(ranges ...[]event.Decoded) table {
	rows := table{}
	for _, events := range ranges {
		fold := projections.NewInsightsFold()
		fold.Add(events)
		rows.add(fold.Take())
	}
	return rows
}

func TestInsightsDoNotDependOnRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, _ := newStore(t, 1)
		add(t, store, calls(t)...)
		events := all(t, store)
		whole := foldInsights(events).texts()
		shuffled := rapid.Permutation(events).Draw(t, "order")
		var ranges [][]event.Decoded
		for rest := shuffled; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "range")
			ranges, rest = append(ranges, rest[:n]), rest[n:]
		}
		require.Equal(t, whole, foldInsights(ranges...).texts())

		// One fold takes up where it was left.
		fold, rows := projections.NewInsightsFold(), table{}
		for _, r := range ranges {
			if fold.Add(r); rapid.Bool().Draw(t, "take") {
				n := fold.Len()
				change := fold.Take()
				require.GreaterOrEqual(t, n, len(change.Calls)+len(change.Decisions))
				require.Zero(t, fold.Len())
				rows.add(change)
			}
		}
		rows.add(fold.Take())
		require.Equal(t, whole, rows.texts())
	})
}

// After corrections the result is that of the facts that are left.
func TestInsightsAreThoseOfTheFactsThatAreLeft(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, _ := newStore(t, 1)
		add(t, store, calls(t)...)
		left := map[event.Identity]event.Usage{}
		for _, e := range all(t, store) {
			switch p := e.Payload.(type) {
			case event.UsageRecorded:
				left[p.Identity] = p.Usage
			case event.UsageAdjusted:
				left[p.Identity] = p.After()
			case event.UsageVoided:
				delete(left, p.Identity)
			}
		}
		var plain []event.Decoded
		for _, u := range left {
			plain = append(plain, event.Decoded{Payload: event.UsageRecorded{Usage: u}})
		}
		got := foldInsights(all(t, store))
		for key, row := range got {
			zero := true
			for _, n := range row {
				zero = zero && n.Sign() == 0
			}
			if zero || key[0] == 'd' {
				delete(got, key)
			}
		}
		require.Equal(t, foldInsights(plain).texts(), got.texts())
	})
}

// One fact by hand, on both sides of midnight, and what each decision counts for.
func TestInsightsByHand(t *testing.T) {
	u := event.Usage{Identity: event.Identity{Tenant: "acme", Type: "chat", Source: "1"}, OccurredAt: time.Date(2026, 4, 5, 23, 59, 59, 999_999_000, time.UTC),
		Data: event.NewData(map[string]any{"provider": "openai", "model": "o3", "feature": "chat", "promptVersion": "v7", "inputTokens": 10, "cachedInputTokens": 12,
			"outputTokens": 3, "latencyMs": 930, "status": "timeout", "attempt": 2})}
	later := u
	later.OccurredAt = u.OccurredAt.Add(time.Microsecond)
	before := u
	before.OccurredAt = time.Date(1969, 12, 31, 23, 0, 0, 0, time.UTC)
	part := func(key string, kind event.LimitKind) event.LimitPart {
		return event.LimitPart{Limit: key, Kind: kind, Denied: true}
	}
	denied := event.LimitDecided{Identity: u.Identity, DecidedAt: noon, Parts: []event.LimitPart{part("rate", event.RateLimit), part("daily", event.QuotaLimit), {Limit: "max", Kind: event.MaxLimit}}}
	fold := projections.NewInsightsFold()
	fold.Add([]event.Decoded{{Payload: event.UsageRecorded{Usage: later}}, {Payload: event.UsageRecorded{Usage: u}}, {Payload: event.UsageRecorded{Usage: u}}, {Payload: event.UsageRecorded{Usage: before}},
		{Payload: denied}, {Payload: event.LimitDecided{Identity: u.Identity, DecidedAt: noon, Allowed: true}}})
	change := fold.Take()
	var days []int64
	for i, d := range change.Calls {
		days = append(days, d.Day/projections.DaySeconds)
		n := []int64{1, 2, 1}[i]
		require.Equal(t, []int64{n, n, n, n}, []int64{d.Events, d.Counted, d.Retries, d.Failures})
		require.Equal(t, []insight.LatencyCount{{Bucket: 945, Count: n}}, d.Latency)
		require.Equal(t, fmt.Sprint(10*n, 12*n, 3*n), fmt.Sprint(d.Input, d.CachedInput, d.Output))
		require.Equal(t, []string{"openai", "o3", "chat", "v7"}, []string{d.Provider, d.Model, d.Feature, d.PromptVersion})
	}
	require.Equal(t, []int64{-1, 20548, 20549}, days)
	day := noon.Truncate(24 * time.Hour).Unix()
	require.Equal(t, []projections.DecisionsDelta{
		{"acme", day, "chat", "", "", 1}, {"acme", day, "chat", "", "plan_limit", 1},
		{"acme", day, "chat", "daily", "plan_limit", 1}, {"acme", day, "chat", "rate", "burst_limit", 1},
	}, change.Decisions)
}
