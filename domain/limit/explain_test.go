package limit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
)

func TestExplain(t *testing.T) {
	fill := func(asks ...limit.Ask) func(*world) {
		return func(w *world) {
			for _, ask := range asks {
				require.True(t, w.check(ask).Allowed)
			}
		}
	}
	use := func(quantity string) func(*world) { return func(w *world) { w.settle(call("u1", quantity), quantity) } }
	soft := quotaOf("units", "5", catalog.Day)
	soft.Soft = true
	for _, c := range []struct {
		name    string
		zone    string
		limits  []catalog.Limit
		before  func(*world)
		ask     limit.Ask
		reason  limit.Reason
		binding string
		message string
	}{
		{"allowed", "UTC", []catalog.Limit{quotaOf("units", "5", catalog.Day)}, nil, call("s1", "5"), "", "units", ""},
		{"over a soft limit", "UTC", []catalog.Limit{soft}, use("5"), call("s1", "1"), "", "units",
			"This workspace is over its 5 units. The work goes on."},
		{"used up", "UTC", []catalog.Limit{quotaOf("units", "200000", catalog.Day)}, use("200000"), call("s1", "1"), limit.PlanLimit, "units",
			"This workspace has used its 200,000 units for today. More at 2026-01-13 00:00 UTC."},
		{"used up, in Berlin", "Europe/Berlin", []catalog.Limit{quotaOf("units", "1000.5", catalog.Day)}, use("1000.5"), call("s1", "1"), limit.PlanLimit, "units",
			"This workspace has used its 1,000.5 units for today. More at 2026-01-13 00:00 CET."},
		{"used up, in Kathmandu", "Asia/Kathmandu", []catalog.Limit{quotaOf("units", "5", catalog.Month)}, use("5"), call("s1", "1"), limit.PlanLimit, "units",
			"This workspace has used its 5 units for this month. More at 2026-02-01 00:00 +0545."},
		{"reserved", "UTC", []catalog.Limit{quotaOf("units", "5", catalog.Hour)}, fill(call("s0", "5")), call("s1", "1"), limit.PlanLimit, "units",
			"This workspace has used or reserved its 5 units for this hour. More at 2026-01-12 10:15 UTC."},
		{"too little is left", "UTC", []catalog.Limit{quotaOf("units", "5", catalog.BillingCycle)}, use("3"), call("s1", "4"), limit.PlanLimit, "units",
			"This workspace has 2 units left of its 5 units for this billing cycle, and this needs 4 units. More at 2026-02-12 00:00 UTC."},
		{"this minute", "UTC", []catalog.Limit{quotaOf("units", "5", catalog.Minute)}, use("3"), call("s1", "4"), limit.PlanLimit, "units",
			"This workspace has 2 units left of its 5 units for this minute, and this needs 4 units. More at 2026-01-12 10:01 UTC."},
		{"more than all", "UTC", []catalog.Limit{quotaOf("units", "5", catalog.Day)}, nil, call("s1", "1234567"), limit.PlanLimit, "units",
			"1,234,567 units is more than the 5 units that this workspace has."},
		{"a budget", "UTC", []catalog.Limit{budgetOf("500", catalog.Month)}, use("100"), call("s1", "50"), limit.PlanLimit, "spend",
			"This workspace has 250 USD left of its 500 USD for this month, and this needs 375 USD. More at 2026-02-01 00:00 UTC."},
		{"a rate", "UTC", []catalog.Limit{rateOf(2, 0, "1m")}, fill(call("a", "1"), call("b", "1")), call("s1", "1"), limit.BurstLimit, "rate",
			"This workspace may make 2 requests in a minute. More at 2026-01-12 10:01 UTC."},
		{"a rate of an odd window", "UTC", []catalog.Limit{rateOf(1, 0, "1500ms")}, fill(call("a", "1")), call("s1", "1"), limit.BurstLimit, "rate",
			"This workspace may make 1 requests in 1.5s. More at 2026-01-12 10:00:02 UTC."},
		{"running", "UTC", []catalog.Limit{running(2, "90s")}, fill(call("a", "1"), call("b", "1")), call("s1", "1"), limit.PlanLimit, "running",
			"This workspace has 2 of 2 running at the same time. More at 2026-01-12 10:01:30 UTC."},
		{"too large", "UTC", []catalog.Limit{{Key: "most", Kind: catalog.Max, On: on("call"), Field: "tokens", Max: money.Int(1800)}}, nil,
			call("s1", "1", "tokens", 3600), limit.PlanLimit, "most", "The tokens of 3,600 is more than this plan allows: at most 1,800."},
		{"too large a quantity", "UTC", []catalog.Limit{{Key: "most", Kind: catalog.Max, On: on("call"), Max: money.Int(1)}}, nil,
			call("s1", "1.5"), limit.PlanLimit, "most", "The quantity of 1.5 is more than this plan allows: at most 1."},
		{"not included", "UTC", []catalog.Limit{only}, nil, bad(1), limit.PlanLimit, "models", "This plan does not include that model; it has small."},
		{"retries", "UTC", []catalog.Limit{retriesOf(1, "0.1", 3)}, fill(call("a", "1", "attempt", 2)), call("s1", "1", "attempt", 2), limit.BurstLimit, "retries",
			"There are too many retries at the moment. More at 2026-01-12 10:00:10 UTC."},
		{"attempts", "UTC", []catalog.Limit{retriesOf(1, "0.1", 3)}, nil, call("s1", "1", "attempt", 4), limit.BurstLimit, "retries",
			"This was retried too often."},
		{"a cooldown", "America/Santiago", []catalog.Limit{guardOf(1, "0.1"), only}, func(w *world) { w.check(bad(0)) }, good(1), limit.AbuseGuard, "abuse",
			"Requests of this workspace are paused for a while, because too many were refused. More at 2026-01-12 07:00:10 -03."},
		{"the latest of several", "UTC", []catalog.Limit{rateOf(1, 0, "1m"), quotaOf("units", "1", catalog.Day)},
			func(w *world) { fill(call("a", "1"))(w); w.settle(call("a", "1"), "1") }, call("s1", "1"), limit.PlanLimit, "units",
			"This workspace has used its 1 units for today. More at 2026-01-13 00:00 UTC."},
		{"never is the latest", "UTC", []catalog.Limit{quotaOf("units", "1", catalog.Day), only}, use("1"), bad(1), limit.PlanLimit, "models",
			"This plan does not include that model; it has small."},
		{"the reason is that of the guard, the instant that of the plan", "UTC", []catalog.Limit{guardOf(1, "0.1"), only}, func(w *world) { w.check(bad(0)) }, bad(1), limit.AbuseGuard, "models",
			"This plan does not include that model; it has small."},
		{"the fullest", "UTC", []catalog.Limit{quotaOf("units", "10", catalog.Day), running(3, "1m"), rateOf(100, 0, "1m")}, nil, call("s1", "2"), "", "running", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.limits...)
			w.zone = zone(t, c.zone)
			w.plan.Prices = []catalog.Price{{Key: "p", Model: catalog.Graduated, Meter: "units", Tiers: []catalog.Tier{{UpTo: money.Int(100), Unit: money.MustParse("2.5")}, {Unit: money.MustParse("7.5")}}}}
			w.policy()
			if c.before != nil {
				c.before(w)
			}
			got := w.check(c.ask)
			require.Equal(t, c.reason, why(got))
			require.Equal(t, c.binding, got.Parts[limit.Binding(&got.LimitDecided)].Limit)
			require.Equal(t, c.message, limit.Explain(w.policy(), &got.LimitDecided))
			logged := w.log[len(w.log)-1].Payload.(event.LimitDecided)
			require.Equal(t, c.message, limit.Explain(w.policy(), &logged), "as it is read from the log")
		})
	}
}

// An instant is never shown as earlier than it is.
func TestExplainedInstantsAreRoundedUp(t *testing.T) {
	for offset, shown := range map[time.Duration]string{
		0: "10:00:10", time.Millisecond: "10:00:11", 999 * time.Millisecond: "10:00:11", 49999 * time.Millisecond: "10:01:00", 50 * time.Second: "10:01",
	} {
		w := newWorld(t, rateOf(1, 0, "10s"))
		w.pass(offset)
		w.check(call("a", "1"))
		got := w.check(call("s1", "1"))
		require.Equal(t, "This workspace may make 1 requests in 10s. More at 2026-01-12 "+shown+" UTC.", limit.Explain(w.policy(), &got.LimitDecided))
	}
}

// A limit may be gone from the plan when an old decision is explained.
func TestExplainWithoutTheLimit(t *testing.T) {
	none := newWorld(t).policy()
	at := time.Date(2026, 1, 13, 0, 0, 0, 0, time.UTC)
	for kind, message := range map[event.LimitKind]string{
		event.QuotaLimit:       "This workspace has 2 left of its 5 for this period, and this needs 3. More at 2026-01-13 00:00 UTC.",
		event.MaxLimit:         "The quantity of 3 is more than this plan allows: at most 5. More at 2026-01-13 00:00 UTC.",
		event.AccessLimit:      "This plan does not include what was asked for. More at 2026-01-13 00:00 UTC.",
		event.ConcurrencyLimit: "This workspace has 0 of 5 running at the same time. More at 2026-01-13 00:00 UTC.",
	} {
		e := event.LimitDecided{Parts: []event.LimitPart{{Limit: "gone", Kind: kind, Denied: true, Max: money.Int(5), Used: money.Int(3), Requested: money.Int(3), ResetAt: at}}}
		require.Equal(t, message, limit.Explain(none, &e))
	}
	require.Empty(t, limit.Explain(none, &event.LimitDecided{}))
}

func TestRemaining(t *testing.T) {
	p := event.LimitPart{Max: money.Int(10), Used: money.Int(3), Held: money.Int(2), Requested: money.Int(1)}
	held, taken := p, p
	held.ExpiresAt, taken.Taken = start, true
	for _, c := range []struct {
		kind event.LimitKind
		part event.LimitPart
		want string // "" is none
	}{
		{event.QuotaLimit, p, "5"}, {event.QuotaLimit, held, "4"}, {event.BudgetLimit, held, "4"}, {event.ConcurrencyLimit, held, "4"},
		{event.RateLimit, p, "7"}, {event.RateLimit, taken, "6"}, {event.RetryBudgetLimit, taken, "6"},
		{event.MaxLimit, p, ""}, {event.AccessLimit, p, ""}, {event.AbuseGuardLimit, p, ""},
		{event.QuotaLimit, event.LimitPart{Max: money.Int(1), Used: money.Int(5)}, "0"},
	} {
		c.part.Kind = c.kind
		left, ok := limit.Remaining(&c.part)
		require.Equal(t, c.want != "", ok, c.kind)
		if ok {
			require.Equal(t, c.want, left.String(), c.kind)
		}
	}
}

func TestBindingOfEmptyMaximums(t *testing.T) {
	e := event.LimitDecided{Allowed: true, Parts: []event.LimitPart{
		{Kind: event.QuotaLimit, Max: money.Int(10), Used: money.Int(10)},
		{Kind: event.QuotaLimit, Soft: true},
		{Kind: event.QuotaLimit, Max: money.Int(10)},
	}}
	require.Equal(t, 1, limit.Binding(&e))
}
