package tenant_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

var start = time.Date(2026, 4, 5, 0, 0, 0, 0, time.UTC)

func hour(n int) time.Time { return start.Add(time.Duration(n) * time.Hour) }

func TestTheLastAssignmentThatTookEffectIsInForce(t *testing.T) {
	var s tenant.Subscription
	_, ok := s.At(start)
	require.False(t, ok)
	s = s.Assign(tenant.Assignment{Plan: "pro", EffectiveAt: hour(2)}).
		Assign(tenant.Assignment{Plan: "free", EffectiveAt: hour(0)}).
		Assign(tenant.Assignment{Plan: "scale", EffectiveAt: hour(2)}) // instead of pro
	require.Len(t, s.Assignments, 2)
	for at, plan := range map[time.Time]catalog.PlanKey{
		hour(0).Add(-1): "", hour(0): "free", hour(2).Add(-1): "free", hour(2): "scale", hour(2).Add(1): "scale", hour(1000): "scale",
	} {
		a, ok := s.At(at)
		require.Equal(t, plan != "", ok, at)
		require.Equal(t, plan, a.Plan, at)
	}
}

func TestAnOverrideHoldsFromAndBefore(t *testing.T) {
	s := tenant.Subscription{}.
		SetOverride(tenant.Override{Limit: "b", Max: money.Int(1), From: hour(1), Until: hour(3)}).
		SetOverride(tenant.Override{Limit: "a", Max: money.Int(2)}).
		SetOverride(tenant.Override{Limit: "c", Max: money.Int(3), From: hour(1)}).
		SetOverride(tenant.Override{Limit: "d", Max: money.Int(4), Until: hour(1)})
	for _, c := range []struct {
		limit catalog.LimitKey
		at    time.Time
		ok    bool
	}{
		{"a", time.Time{}, true}, {"a", hour(1000), true},
		{"b", hour(1).Add(-1), false}, {"b", hour(1), true}, {"b", hour(3).Add(-1), true}, {"b", hour(3), false},
		{"c", hour(1).Add(-1), false}, {"c", hour(1000), true},
		{"d", time.Time{}, true}, {"d", hour(1).Add(-1), true}, {"d", hour(1), false},
		{"e", hour(1), false}, {"", hour(1), false},
	} {
		o, ok := s.Override(c.limit, c.at)
		require.Equal(t, c.ok, ok, "%s at %s", c.limit, c.at)
		if ok {
			require.Equal(t, c.limit, o.Limit)
		}
		known, ok := s.Overriding(c.limit, "")
		require.Equal(t, c.limit != "e" && c.limit != "", ok)
		require.Equal(t, known.Limit != "", ok)
	}
}

// Whatever is said in whatever order, the lists are sorted, say the last word of each instant and limit, and the values
// before a change stay as they were.
func TestSubscriptionIsAFold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s tenant.Subscription
		plans, overrides := map[time.Time]tenant.Assignment{}, map[catalog.LimitKey]tenant.Override{}
		for n := range rapid.IntRange(0, 30).Draw(t, "events") {
			at, limit := hour(rapid.IntRange(0, 5).Draw(t, "hour")), fmt.Sprintf("limit_%d", rapid.IntRange(0, 4).Draw(t, "limit"))
			before := fmt.Sprint(s)
			keep := s
			var e any
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				e = event.PlanAssigned{Plan: fmt.Sprint(n), EffectiveAt: at, BillingAnchor: at}
				plans[at] = tenant.Assignment{Plan: catalog.PlanKey(fmt.Sprint(n)), EffectiveAt: at, BillingAnchor: at}
			case 1:
				e = event.LimitOverridden{Limit: limit, Max: money.Int(int64(n)), From: at, Reason: "r", By: "cli"}
				overrides[catalog.LimitKey(limit)] = tenant.Override{Limit: catalog.LimitKey(limit), Max: money.Int(int64(n)), From: at, Reason: "r", By: "cli"}
			default:
				e = event.LimitOverrideRemoved{Limit: limit}
				delete(overrides, catalog.LimitKey(limit))
			}
			var ok bool
			s, ok = s.Apply(e)
			require.True(t, ok)
			require.Equal(t, before, fmt.Sprint(keep))
		}
		require.Len(t, s.Assignments, len(plans))
		require.Len(t, s.Overrides, len(overrides))
		for _, a := range s.Assignments {
			require.Equal(t, plans[a.EffectiveAt], a)
		}
		for _, o := range s.Overrides {
			require.Equal(t, overrides[o.Limit], o)
		}
		require.True(t, slices.IsSortedFunc(s.Assignments, func(a, b tenant.Assignment) int { return a.EffectiveAt.Compare(b.EffectiveAt) }))
		require.True(t, slices.IsSortedFunc(s.Overrides, func(a, b tenant.Override) int {
			if a.Limit < b.Limit {
				return -1
			}
			return 1
		}))
		_, ok := s.Apply(event.TenantDefined{})
		require.False(t, ok)
	})
}

func TestEqualSubscriptionsSayTheSame(t *testing.T) {
	a := tenant.Assignment{Plan: "pro", EffectiveAt: hour(1), BillingAnchor: hour(0)}
	o := tenant.Override{Limit: "a", Max: money.Int(1), From: hour(1), Until: hour(2), Reason: "r", By: "cli"}
	s := tenant.Subscription{}.Assign(a).SetOverride(o)
	other := o
	other.Max, other.From, other.By = money.MustParse("1.0"), o.From.In(time.FixedZone("", 3600)), "key:1"
	require.True(t, o.Equal(other), "the actor does not matter")
	require.True(t, s.Equal(s.SetOverride(other)))
	for name, change := range map[string]func(o *tenant.Override){
		"limit":  func(o *tenant.Override) { o.Limit = "b" },
		"max":    func(o *tenant.Override) { o.Max = money.Int(2) },
		"from":   func(o *tenant.Override) { o.From = hour(0) },
		"until":  func(o *tenant.Override) { o.Until = time.Time{} },
		"reason": func(o *tenant.Override) { o.Reason = "s" },
	} {
		other := o
		change(&other)
		require.False(t, o.Equal(other), name)
		require.False(t, s.Equal(s.RemoveOverride("a", "").SetOverride(other)), name)
	}
	require.False(t, s.Equal(s.Assign(tenant.Assignment{Plan: "pro", EffectiveAt: hour(1), BillingAnchor: hour(1)})))
	require.False(t, s.Equal(s.RemoveOverride("a", "")))
}
