package limit_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
)

// loaded is a tenant with five limits, so many open holds, and a month of usage in every quarter of an hour.
func loaded(b *testing.B, holds int, most int64) (*world, *limit.Policy) {
	w := newWorld(b,
		rateOf(1_000_000_000, 0, "1m"), quotaOf("units", money.Int(most).String(), catalog.Day), quotaOf("tokens", "1000000000000", catalog.Month),
		running(1_000_000_000, "2h"), budgetOf("1000000000000", catalog.BillingCycle))
	w.plan.Prices = []catalog.Price{{Key: "p", Model: catalog.Graduated, Meter: "tokens", Tiers: stairs}}
	p := w.policy()
	for i := range 31 * 96 {
		u := event.Usage{Identity: identity("call", nth(i)), Quantity: money.Int(1), OccurredAt: start.Add(-time.Duration(i) * 15 * time.Minute), Data: event.NewData(map[string]any{"tokens": 100})}
		if err := w.account.Apply(limit.Entry{Position: w.next(), Payload: event.UsageRecorded{Usage: u}, Meters: metersOf("call")}); err != nil {
			b.Fatal(err)
		}
	}
	w.account.Begin()
	for i := range holds {
		ask := call(event.SourceID(fmt.Sprintf("hold%d", i)), "1", "tokens", 100)
		ask.TTL = time.Hour + time.Duration(i)*time.Second
		got := w.account.Decide(p, ask, w.now)
		if !got.Allowed {
			b.Fatal("the holds do not fit")
		}
		w.account.Propose(got.LimitDecided)
	}
	w.account.Keep(nil, eventstore.Result{})
	return w, p
}

var holdCounts = []int{1, 100, 10_000}

// A check that is allowed, its decision kept, and its usage: the number of open holds stays the same.
func BenchmarkDecideAndKeep(b *testing.B) {
	for _, holds := range holdCounts {
		b.Run(fmt.Sprintf("holds=%d", holds), func(b *testing.B) {
			w, p := loaded(b, holds, 1_000_000_000)
			ask := call("s1", "1", "tokens", 100)
			last := eventstore.Position{Offset: 1 << 40}
			release := event.HoldReleased{Identity: ask.Identity}
			b.ReportAllocs()
			for b.Loop() {
				got := w.account.Decide(p, ask, w.now)
				if !got.Allowed || !got.Record {
					b.Fatal("denied")
				}
				w.account.Begin()
				w.account.Propose(got.LimitDecided)
				w.account.Propose(release)
				w.account.Keep([]event.QuotaEvent{got.LimitDecided, release}, eventstore.Result{Position: last})
				w.pass(time.Millisecond)
			}
		})
	}
}

// A client that asks again at once, which has nothing to write.
func BenchmarkDecideAgain(b *testing.B) {
	w, p := loaded(b, 100, 1_000_000_000)
	ask := call("hold1", "1", "tokens", 100)
	ask.TTL = time.Hour
	b.ReportAllocs()
	for b.Loop() {
		if got := w.account.Decide(p, ask, w.now); got.Record || !got.Allowed {
			b.Fatal("not replayed")
		}
	}
}

// A denial has to find when the check will pass: the worst case, in which only the last of all leases makes room.
func BenchmarkDecideDenied(b *testing.B) {
	for _, holds := range holdCounts {
		b.Run(fmt.Sprintf("holds=%d", holds), func(b *testing.B) {
			w, p := loaded(b, holds, int64(holds)+96)
			w.now = start.Truncate(24 * time.Hour).Add(24 * time.Hour).Add(-time.Hour) // before the window turns, no lease has ended
			ask := call("s1", money.Int(int64(holds)+96).String(), "tokens", 100)
			b.ReportAllocs()
			for b.Loop() {
				if got := w.account.Decide(p, ask, start); got.Allowed {
					b.Fatal("allowed")
				}
			}
		})
	}
}
