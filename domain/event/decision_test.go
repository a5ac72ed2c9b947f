package event_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// ticks are instants of the limits' clock, near each other and far apart.
func ticks() *rapid.Generator[time.Time] {
	first, last := time.Date(1, 1, 1, 0, 0, 0, 1e6, time.UTC).UnixMilli(), time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC).UnixMilli()
	return rapid.Map(rapid.OneOf(rapid.Int64Range(-3, 3), rapid.Int64Range(first, last), rapid.SampledFrom([]int64{first, last})),
		func(ms int64) time.Time { return time.UnixMilli(ms).UTC() })
}

func ticksOrNone() *rapid.Generator[time.Time] { return rapid.OneOf(rapid.Just(time.Time{}), ticks()) }

// amounts are what arithmetic with quantities and prices makes: products, sums and differences.
func amounts() *rapid.Generator[money.Decimal] {
	return rapid.Custom(func(t *rapid.T) money.Decimal {
		d := rapid.OneOf(rapid.Just(money.Decimal{}), rapid.Map(rapid.Int64(), money.Int), quantities()).Draw(t, "amount")
		if rapid.Bool().Draw(t, "product") {
			d = d.Mul(quantities().Draw(t, "price"))
		}
		if rapid.Bool().Draw(t, "negative") {
			d = d.Neg()
		}
		return money.MustParse(d.String()) // the same number can have several forms in memory, and one as text
	})
}

func limitParts() *rapid.Generator[event.LimitPart] {
	return rapid.Custom(func(t *rapid.T) event.LimitPart {
		flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
		count := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, math.MaxInt64))
		return event.LimitPart{
			Limit: rapid.StringMatching(`[a-z][a-z0-9_.-]{0,63}`).Draw(t, "limit"), Kind: event.LimitKind(rapid.IntRange(1, 8).Draw(t, "kind")), //nolint:gosec // small
			Denied: flag("denied"), Soft: flag("soft"), Overridden: flag("overridden"), Taken: flag("taken"), Burst: count.Draw(t, "burst"),
			Max: amounts().Draw(t, "max"), Used: amounts().Draw(t, "used"), Held: amounts().Draw(t, "held"), Requested: amounts().Draw(t, "requested"),
			WindowStart: ticksOrNone().Draw(t, "start"), WindowEnd: ticksOrNone().Draw(t, "end"), ResetAt: ticksOrNone().Draw(t, "reset"),
			ExpiresAt: ticksOrNone().Draw(t, "expires"), Until: ticksOrNone().Draw(t, "until"), Strikes: count.Draw(t, "strikes"),
		}
	})
}

func decisions() *rapid.Generator[event.LimitDecided] {
	return rapid.Custom(func(t *rapid.T) event.LimitDecided {
		d := event.LimitDecided{
			Identity: identities().Draw(t, "identity"), Quantity: quantities().Draw(t, "quantity"), DecidedAt: ticks().Draw(t, "at"),
			Allowed: rapid.Bool().Draw(t, "allowed"), PlanVersion: rapid.SampledFrom([]string{"", "pro@3"}).Draw(t, "plan"),
			Fingerprint: rapid.Uint64().Draw(t, "fingerprint"), Data: dataGen().Draw(t, "data"),
		}
		if d.Allowed && rapid.Bool().Draw(t, "keeps") {
			d.Keeps, d.KeepUntil = true, ticks().Draw(t, "keep until")
		}
		for range rapid.IntRange(0, 12).Draw(t, "parts") {
			d.Parts = append(d.Parts, limitParts().Draw(t, "part"))
		}
		return d
	})
}

// What was decided is read again as it was, to the digit and the millisecond.
func TestDecisionsSurviveTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := decisions().Draw(t, "decision")
		events := []event.QuotaEvent{d,
			event.HoldReleased{Identity: d.Identity, ReleasedAt: ticks().Draw(t, "released"), By: rapid.SampledFrom([]event.Actor{"", "key:key_1"}).Draw(t, "by")},
			event.HoldExpired{Identity: d.Identity, ExpiredAt: ticks().Draw(t, "expired")}}
		expected := eventstore.Revision(rapid.Int64Range(-1, 1000).Draw(t, "expected"))
		a := event.AppendDecisions(uuid.Nil, d.Tenant, expected, events, nil)
		require.NoError(t, a.Check())
		for i := range events {
			single := a
			single.Events = a.Events[i : i+1]
			got, err := event.Decode(recorded(single))
			require.NoError(t, err)
			require.Equal(t, events[i], got)
			require.Equal(t, a.Events[i].Data, again(t, got, expected).Events[0].Data)
		}
	})
}

// The ids of decisions come from the place and the content: the same batch again is recognised, and no two places or
// contents have the same.
func TestDecisionIDs(t *testing.T) {
	at := time.UnixMilli(0).UTC()
	seen := map[uuid.UUID]string{}
	for _, of := range []event.TenantID{"a", "b"} {
		for expected := range eventstore.Revision(3) {
			for _, source := range []event.SourceID{"s", "s2"} {
				id := event.Identity{Tenant: of, Type: "tokens", Source: source}
				events := []event.QuotaEvent{event.HoldExpired{Identity: id, ExpiredAt: at}, event.HoldExpired{Identity: id, ExpiredAt: at}, event.HoldReleased{Identity: id, ReleasedAt: at}}
				a := event.AppendDecisions(uuid.Nil, of, 10*expected, events, []event.Identity{id, {Tenant: of, Type: "x", Source: "y"}})
				require.Equal(t, a, event.AppendDecisions(uuid.Nil, of, 10*expected, events, []event.Identity{id, {Tenant: of, Type: "x", Source: "y"}}))
				require.Equal(t, event.QuotaStream(of), a.Stream)
				require.EqualValues(t, of, a.Tenant)
				require.Equal(t, []eventstore.StreamName{id.Stream(), event.Identity{Tenant: of, Type: "x", Source: "y"}.Stream()}, a.Absent)
				for i, e := range a.Events {
					what := fmt.Sprint(of, expected, source, i)
					require.Empty(t, seen[e.ID], what)
					seen[e.ID] = what
				}
			}
		}
	}
	require.NotEqual(t, event.QuotaStream("a"), event.QuotaStream("b"))
	require.NotEqual(t, event.QuotaStream("a"), event.SubscriptionStream("a"))
}

func TestFingerprint(t *testing.T) {
	check := func(quantity, data string) event.Check {
		return event.Check{Identity: event.Identity{Tenant: "t", Type: "a", Source: "s"}, Quantity: money.MustParse(quantity), Data: parse(t, data)}
	}
	one := check("1", `{"model":"x","a":1}`).Fingerprint()
	require.Equal(t, one, check("1.0", `{"a":1.0, "model":"x"}`).Fingerprint(), "another spelling")
	for _, other := range []event.Check{check("2", `{"model":"x","a":1}`), check("1", `{"model":"x","a":2}`), check("1", `{}`), check("11", `{"model":"x"}`)} {
		require.NotEqual(t, one, other.Fingerprint())
	}
}

// The kinds have the names of the catalog.
func TestLimitKinds(t *testing.T) {
	for number, name := range map[event.LimitKind]catalog.LimitKind{1: catalog.Rate, 2: catalog.Quota, 3: catalog.Concurrency, 4: catalog.Max,
		5: catalog.Access, 6: catalog.RetryBudget, 7: catalog.Budget, 8: catalog.AbuseGuard} {
		require.Equal(t, string(name), number.String())
		require.Equal(t, number, event.ParseLimitKind(string(name)))
	}
	for _, text := range []string{"", "Rate", "limit kind 9"} {
		require.Zero(t, event.ParseLimitKind(text))
	}
	require.Equal(t, "limit kind 9", event.LimitKind(9).String())
}

func TestAHoldEndsWithItsFirstPart(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 4, 5, 12, minute, 0, 0, time.UTC) }
	ending := func(ends ...time.Time) (parts []event.LimitPart) {
		for _, t := range ends {
			parts = append(parts, event.LimitPart{ExpiresAt: t})
		}
		return parts
	}
	for name, c := range map[string]struct {
		decided event.LimitDecided
		want    time.Time
	}{
		"the first":          {event.LimitDecided{Keeps: true, KeepUntil: at(30), Parts: ending(at(20), at(10), time.Time{}, at(30))}, at(10)},
		"nothing is held":    {event.LimitDecided{Keeps: true, KeepUntil: at(30), Parts: ending(time.Time{})}, at(30)},
		"nothing is kept":    {event.LimitDecided{Parts: ending(at(10))}, time.Time{}},
		"nothing is limited": {event.LimitDecided{Keeps: true, KeepUntil: at(30)}, at(30)},
	} {
		require.Equal(t, c.want, c.decided.HoldEnds(), name)
	}
}
