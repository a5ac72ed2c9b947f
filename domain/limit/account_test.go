package limit_test

import (
	"errors"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

func quotaOf(meter catalog.MeterKey, most string, p catalog.Period) catalog.Limit {
	return catalog.Limit{Key: catalog.LimitKey(meter), Kind: catalog.Quota, Meter: meter, Max: money.MustParse(most), Window: period(p)}
}

func running(most int64, ttl string) catalog.Limit {
	return catalog.Limit{Key: "running", Kind: catalog.Concurrency, On: on("call"), Max: money.Int(most), HoldTTL: length(ttl)}
}

func TestATenantWithoutAPlanIsNotLimited(t *testing.T) {
	w := newWorld(t, rateOf(1, 0, "1m"))
	w.sub = tenant.Subscription{}
	got := w.check(call("s1", "1"))
	require.True(t, got.Allowed && got.Record)
	require.True(t, got.Keeps, "its next plan finds what is held")
	require.Empty(t, got.Parts)
	require.Empty(t, got.PlanVersion)
	require.Equal(t, -1, limit.Binding(&got.LimitDecided))
}

func TestAPolicyEndsWhenSomethingChanges(t *testing.T) {
	w := newWorld(t, quotaOf("units", "5", catalog.Day))
	w.sub.Assignments = append(w.sub.Assignments, tenant.Assignment{Plan: "gone", EffectiveAt: start.Add(3 * time.Hour)})
	w.sub = w.sub.SetOverride(tenant.Override{Limit: "units", Max: money.Int(7), From: start.Add(time.Hour), Until: start.Add(2 * time.Hour)})
	for _, c := range []struct {
		after, until time.Duration
		most         string
		overridden   bool
	}{{0, time.Hour, "5", false}, {time.Hour, 2 * time.Hour, "7", true}, {2 * time.Hour, 3 * time.Hour, "5", false}} {
		w.now = start.Add(c.after)
		p := w.policy()
		require.Equal(t, start.Add(c.until), p.Until)
		require.Equal(t, "pro@1", p.PlanVersion)
		require.Equal(t, c.most, p.Limits[0].Max.String())
		require.Equal(t, c.overridden, p.Limits[0].Overridden)
	}
	w.now = start.Add(3 * time.Hour)
	require.Zero(t, w.policy().Until)
	require.Empty(t, w.policy().Limits, "the plan is not in the catalog any more")
}

// A limit that is lowered and put back is as if nothing had been done.
func TestAChangeOfALimitChangesNothingElse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, quotaOf("units", "20", catalog.Day), running(5, "10m"), rateOf(8, 0, "1m"), retriesOf(1, "0.5", 3))
		for i, q := range rapid.SliceOfN(rapid.Int64Range(1, 4), 1, 12).Draw(t, "quantities") {
			ask := call(nth(i), money.Int(q).String())
			w.check(ask)
			if i%3 == 0 {
				w.settle(ask, "2")
			}
			w.pass(time.Duration(q) * time.Second)
		}
		before := w.text(w.account)
		next := text(t, w.ask(call("next", "3"), w.now))
		for _, most := range rapid.SliceOfN(rapid.SampledFrom([]string{"0", "1", "3", "1000000"}), 1, 4).Draw(t, "to") {
			for _, key := range []catalog.LimitKey{"units", "running", "rate"} {
				w.override(key, most)
			}
			w.ask(call("next", "3"), w.now)
			w.text(w.account)
		}
		w.sub.Overrides = nil
		require.Equal(t, before, w.text(w.account))
		require.Equal(t, next, text(t, w.ask(call("next", "3"), w.now)))
	})
}

// Used, released, expired or open: each hold is one of them, whatever is said how often and in which order.
func TestHoldsAreConserved(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, quotaOf("units", "1000", catalog.Day), running(100, "1m"))
		held := map[event.SourceID]bool{}
		ends := map[event.SourceID]string{}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			ask := call(nth(rapid.IntRange(0, 30).Draw(t, "source")), "2")
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				if ask = call(nth(i), "2"); !held[ask.Source] {
					require.True(t, w.check(ask).Allowed)
					held[ask.Source] = true
				}
			case 2:
				_, open := w.account.Hold(source(ask), w.now)
				if released := w.release(source(ask)); released {
					require.True(t, open)
					require.Empty(t, ends[ask.Source])
					ends[ask.Source] = "released"
				}
				require.False(t, w.release(source(ask)), "twice")
			case 3:
				if held[ask.Source] && ends[ask.Source] != "used" {
					if ends[ask.Source] == "" {
						ends[ask.Source] = "used"
						w.settle(ask, "2")
					}
				}
			case 4:
				w.pass(rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 16 * time.Minute}).Draw(t, "passes"))
				for _, e := range w.account.Expired(w.now, 100) {
					x := e.(event.HoldExpired)
					require.Empty(t, ends[x.Source])
					ends[x.Source] = "expired"
					w.append(x)
				}
				require.Empty(t, w.account.Expired(w.now, 100))
			}
			open := w.holds()
			require.Len(t, held, len(ends)+len(open))
			sum := money.Decimal{}
			for i := range open {
				require.Empty(t, ends[open[i].Source])
				for _, p := range open[i].Parts {
					if p.Limit == "units" && p.ExpiresAt.After(w.now) {
						sum = sum.Add(p.Requested)
					}
				}
			}
			require.Equal(t, sum.String(), w.account.View(w.policy(), w.now, event.Data{})[0].Held.String())
		}
	})
}

// The end of a hold may be said late, twice, and after its usage is recorded. What counts is the usage, once.
func TestTheEndsOfAHoldCommute(t *testing.T) {
	ends := map[string]func(w *world){
		"use":     func(w *world) { w.settle(call("s1", "3"), "3") },
		"release": func(w *world) { w.record(event.HoldReleased{Identity: identity("call", "s1"), ReleasedAt: w.now}) },
		"expire":  func(w *world) { w.record(event.HoldExpired{Identity: identity("call", "s1"), ExpiredAt: w.now}) },
	}
	orders := [][]string{{"use", "release"}, {"release", "use"}, {"use", "expire"}, {"expire", "use"}, {"use", "release", "release", "expire"}, {"expire", "release", "use"}, {"use"}}
	for _, order := range orders {
		w := newWorld(t, quotaOf("units", "10", catalog.Day), running(2, "10m"))
		require.True(t, w.check(call("s1", "3")).Allowed)
		require.True(t, w.check(call("s2", "1")).Allowed)
		for _, end := range order {
			ends[end](w)
		}
		view := w.fold().View(w.policy(), w.now, event.Data{})
		mustBe(t, money.Int(3), view[0].Used, "used")
		mustBe(t, money.Int(1), view[0].Held, "held")
		mustBe(t, money.Int(1), view[1].Held, "running")
	}
}

func TestAfterAGapAnAccountIsLoadedAgain(t *testing.T) {
	w := newWorld(t, quotaOf("units", "10", catalog.Day))
	w.check(call("s1", "1"))
	w.check(call("s2", "1"))
	a := limit.NewAccount(acme, limit.Snapshot{Revision: eventstore.NoStream})
	require.ErrorIs(t, a.Apply(w.log[1]), limit.ErrGap)
	require.NoError(t, a.Apply(w.log[0]))
	require.NoError(t, a.Apply(w.log[0]), "what is known is skipped")
	require.NoError(t, a.Apply(w.log[1]))
	require.Equal(t, eventstore.Revision(1), a.Revision())
	require.False(t, errors.Is(a.Apply(w.log[0]), limit.ErrGap))
}

// A work that is checked and used is, in the end, work that was only used.
func TestUsageInTheEstimatedQuantityIsUsageAlone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limits := []catalog.Limit{quotaOf("units", "30", catalog.Day), quotaOf("tokens", "12", catalog.Hour), running(9, "5m"),
			{Key: "spend", Kind: catalog.Budget, Max: money.Int(90), Window: period(catalog.Month)}}
		checked, used := newWorld(t, limits...), newWorld(t, limits...)
		for _, w := range []*world{checked, used} {
			w.plan.Prices = []catalog.Price{{Key: "p", Model: catalog.PerUnit, Meter: "units", Unit: money.Int(2)}}
			w.policy()
		}
		for i, q := range rapid.SliceOfN(rapid.Int64Range(1, 5), 1, 10).Draw(t, "quantities") {
			ask := call(nth(i), money.Int(q).String(), "tokens", i%3)
			if checked.check(ask).Allowed {
				checked.settle(ask, money.Int(q).String())
				used.settle(ask, money.Int(q).String())
			}
			checked.pass(time.Minute)
			used.pass(time.Minute)
			a, b := checked.account.View(checked.policy(), checked.now, event.Data{}), used.account.View(used.policy(), used.now, event.Data{})
			require.Equal(t, text(t, b), text(t, a))
			next := call("next", "4", "tokens", 2)
			require.Equal(t, text(t, used.ask(next, used.now)), text(t, checked.ask(next, checked.now)))
		}
	})
}

func TestACheckThatRequestsNothing(t *testing.T) {
	w := newWorld(t, quotaOf("tokens", "5", catalog.Day))
	w.settle(call("u1", "1", "tokens", 5), "1")
	got := w.check(call("s1", "1", "tokens", 0))
	require.True(t, got.Allowed, "nothing fits in where all is used")
	require.False(t, w.check(call("s2", "1", "tokens", 1)).Allowed)
	require.ErrorContains(t, w.policy().Check(call("s3", "1").Check), "data.tokens is missing, and the limit tokens needs it")
	w.settle(call("u2", "1", "tokens", 1), "1")
	require.False(t, w.check(call("s4", "1", "tokens", 0)).Allowed, "more than all is used")
}

// The estimate of an open hold may always be lowered, also to nothing and also when the limit is exceeded by now.
func TestAHoldCanAlwaysBeLowered(t *testing.T) {
	for _, to := range []int{3, 2, 0} {
		w := newWorld(t, quotaOf("tokens", "5", catalog.Day))
		require.True(t, w.check(call("s1", "1", "tokens", 3)).Allowed)
		w.settle(call("u1", "1", "tokens", 9), "1")
		got := w.check(call("s1", "2", "tokens", to))
		require.True(t, got.Allowed, "to %d", to)
		mustBe(t, money.Int(int64(to)), w.holds()[0].Parts[0].Requested, "held")
		require.False(t, w.check(call("s1", "1", "tokens", 4)).Allowed)
		mustBe(t, money.Int(int64(to)), w.holds()[0].Parts[0].Requested, "what could not be raised is kept")
	}
}

// A field may be negative. A check that has such an estimate does not make room for others, who would be over the limit when
// its hold ends.
func TestANegativeEstimateMakesNoRoom(t *testing.T) {
	w := newWorld(t, quotaOf("tokens", "5", catalog.Day), catalog.Limit{Key: "spend", Kind: catalog.Budget, Max: money.Int(50), Window: period(catalog.Day)})
	w.plan.Prices = []catalog.Price{{Key: "p", Model: catalog.PerUnit, Meter: "tokens", Unit: money.Int(10)}}
	require.True(t, w.check(call("s1", "1", "tokens", -100)).Allowed)
	require.True(t, w.check(call("s2", "1", "tokens", 5)).Allowed)
	for _, p := range w.check(call("s3", "1", "tokens", 1)).Parts {
		require.True(t, p.Denied, p.Limit)
	}
	w.settle(call("u1", "1", "tokens", -4), "1")
	mustBe(t, money.Int(-4), w.account.View(w.policy(), w.now, event.Data{})[0].Used, "what was taken back is")
}

func TestLargeQuantities(t *testing.T) {
	for _, q := range []string{"922337203685477580", "999999999999999999", "999999999999999999.999999999", "0.000000001"} {
		w := newWorld(t, quotaOf("units", "999999999999999999.999999999", catalog.Day), quotaOf("tokens", "999999999999999999", catalog.Day),
			catalog.Limit{Key: "spend", Kind: catalog.Budget, Max: money.MustParse("999999999999999999.999999999"), Window: period(catalog.Day)},
			catalog.Limit{Key: "most", Kind: catalog.Max, On: on("call"), Max: money.MustParse("999999999999999999.999999999")})
		w.plan.Prices = []catalog.Price{{Key: "p", Model: catalog.PerUnit, Meter: "units", Unit: money.MustParse("999999999999999999.999999999")}}
		for i := range 20 {
			ask := call(nth(i), q, "tokens", money.MustParse("999999999999999999"))
			got := w.check(ask)
			limit.Binding(&got.LimitDecided)
			limit.Explain(w.policy(), &got.LimitDecided)
			w.settle(ask, "999999999999999999.999999999")
		}
		want := new(big.Rat).Mul(rat(money.MustParse("999999999999999999.999999999")), whole(20))
		require.Zero(t, want.Cmp(rat(w.account.View(w.policy(), w.now, event.Data{})[0].Used)))
		require.Equal(t, w.text(w.account), w.text(w.fold()))
	}
}

// The order of a plan's limits changes neither what is decided nor why.
func TestTheOrderOfLimitsIsNoMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		keys := []catalog.LimitKey{"rate", "units", "tokens", "running", "retries", "abuse", "spend", "most_tokens"}
		limits := make([]catalog.Limit, len(keys))
		for i, key := range keys {
			limits[i] = limitsOf[key](t)
			limits[i].Key = key
		}
		shuffled := slices.Clone(limits)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		prices := drawPrices(t)
		a, b := newWorld(t, limits...), newWorld(t, shuffled...)
		for i := range 30 {
			ask := call(nth(random.IntN(20)), money.Int(1+random.Int64N(4)).String(), "tokens", random.IntN(6), "attempt", 1+random.IntN(2))
			var answers [2]limit.Answer
			for n, w := range []*world{a, b} {
				w.plan.Prices = prices
				answers[n] = w.check(ask)
			}
			require.Equal(t, answers[0].Allowed, answers[1].Allowed, "%d", i)
			require.Equal(t, why(answers[0]), why(answers[1]))
			for _, p := range answers[0].Parts {
				require.Equal(t, text(t, p), text(t, part(t, answers[1].LimitDecided, p.Limit)))
			}
			if top := limit.Binding(&answers[0].LimitDecided); !answers[0].Allowed {
				require.Equal(t, answers[0].Parts[top].ResetAt, answers[1].Parts[limit.Binding(&answers[1].LimitDecided)].ResetAt)
			}
			passes := time.Duration(random.IntN(20000)) * time.Millisecond
			a.pass(passes)
			b.pass(passes)
		}
	})
}

// As much is admitted in small pieces as fits, and a piece more is not.
func TestSmallPiecesFillALimit(t *testing.T) {
	for _, most := range []int64{1, 7, 40} {
		w := newWorld(t, quotaOf("units", money.Int(most).String(), catalog.Day))
		for i := range 60 {
			got := w.check(call(nth(i), "1"))
			require.Equal(t, int64(i) < most, got.Allowed)
			left, ok := limit.Remaining(&got.Parts[0])
			require.True(t, ok)
			mustBe(t, money.Int(max(0, most-int64(i)-1)), left, "left")
		}
		whole := newWorld(t, quotaOf("units", money.Int(most).String(), catalog.Day))
		require.False(t, whole.check(call("all", money.Int(most+1).String())).Allowed)
		require.True(t, whole.check(call("all", money.Int(most).String())).Allowed)
	}
}

// What is left can be had, and no more: the number that is shown is the truth.
func TestWhatRemainsCanBeHad(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, quotaOf("units", "10", catalog.Day))
		for i, q := range rapid.SliceOfN(rapid.Int64Range(1, 4), 0, 6).Draw(t, "quantities") {
			w.check(call(nth(i), money.Int(q).String()))
		}
		left, _ := limit.Remaining(&w.account.View(w.policy(), w.now, event.Data{})[0].LimitPart)
		require.False(t, w.ask(call("more", left.Add(money.MustParse("0.1")).String()), w.now).Allowed)
		if left.Sign() > 0 {
			require.True(t, w.ask(call("all", left.String()), w.now).Allowed)
		}
	})
}

// Several decisions are appended together; each hold stands where its last decision does.
func TestHoldsKnowWhereTheyStand(t *testing.T) {
	w := newWorld(t, quotaOf("units", "10", catalog.Day))
	p := w.policy()
	w.account.Begin()
	var events []event.QuotaEvent
	for _, ask := range []limit.Ask{call("s1", "1"), call("s2", "1"), call("s1", "2"), call("s3", "50")} {
		got := w.account.Decide(p, ask, w.now)
		events = append(events, got.LimitDecided)
		w.account.Propose(got.LimitDecided)
	}
	w.account.Keep(events, eventstore.Result{Position: w.record(events...)})
	for _, a := range []*limit.Account{w.account, w.fold()} {
		for s, offset := range map[event.SourceID]int64{"s1": 3, "s2": 2} {
			hold, ok := a.Hold(limit.Source{Type: "call", Source: s}, w.now)
			require.True(t, ok)
			require.Equal(t, offset, hold.Position.Offset, s)
		}
	}
}

// What has ended stays ended when the host's clock is put back, although nothing was decided in between.
func TestTimeDoesNotGoBack(t *testing.T) {
	w := newWorld(t, running(2, "1m"))
	require.True(t, w.check(call("s1", "1")).Allowed)
	w.pass(time.Minute)
	mustBe(t, money.Int(0), w.account.View(w.policy(), w.now, event.Data{})[0].Held, "held")
	w.pass(-30 * time.Second)
	require.True(t, w.check(call("s2", "1")).Allowed)
	got := w.check(call("s1", "1"))
	require.True(t, got.Allowed && !got.Replayed)
	mustBe(t, money.Int(1), part(t, got.LimitDecided, "running").Held, "by s2")
	require.False(t, w.check(call("s3", "1")).Allowed)
	require.Equal(t, start.Add(time.Minute), got.DecidedAt)
}

// A client that says that it is alive keeps its place, and one that comes too late has to find another.
func TestAHeartbeatDoesNotRaiseTheDead(t *testing.T) {
	w := newWorld(t, running(1, "1m"))
	require.True(t, w.check(call("s1", "1")).Allowed)
	for range 5 {
		w.pass(50 * time.Second)
		got := w.check(call("s1", "1"))
		require.True(t, got.Replayed && got.Record)
		require.Equal(t, w.now.Add(time.Minute), got.Parts[0].ExpiresAt)
	}
	w.pass(time.Second)
	again := w.check(call("s1", "1"))
	require.True(t, again.Replayed)
	require.False(t, again.Record, "twice within a moment is once")
	w.pass(time.Minute)
	require.True(t, w.check(call("s2", "1")).Allowed)
	late := w.check(call("s1", "1"))
	require.False(t, late.Allowed)
	require.Equal(t, w.now.Add(time.Minute), late.Parts[0].ResetAt)
}

func TestASoftQuotaAdmitsMore(t *testing.T) {
	soft := quotaOf("units", "5", catalog.Day)
	soft.Soft = true
	w := newWorld(t, soft)
	require.False(t, w.check(call("s1", "5")).Parts[0].Soft)
	got := w.check(call("s2", "1"))
	require.True(t, got.Allowed && got.Keeps && got.Parts[0].Soft)
	left, _ := limit.Remaining(&got.Parts[0])
	mustBe(t, money.Int(0), left, "left")
}

func TestWithoutTheLogLimitsThatRememberNothingStillDecide(t *testing.T) {
	access := catalog.Limit{Key: "models", Kind: catalog.Access, On: on("call"), Field: "model", Values: []string{"small"}}
	w := newWorld(t, access, rateOf(1, 0, "1m"))
	for range 3 {
		got, ok := limit.Degraded(w.policy(), good(1), w.now)
		require.True(t, ok && got.Allowed && !got.Record && !got.Keeps)
		got, ok = limit.Degraded(w.policy(), bad(1), w.now)
		require.True(t, ok && !got.Allowed)
	}
	w.plan.Limits = append(w.plan.Limits, quotaOf("units", "5", catalog.Day))
	_, ok := limit.Degraded(w.policy(), good(1), w.now)
	require.False(t, ok)
	w.plan.Limits[2].OnError = catalog.Allow
	_, ok = limit.Degraded(w.policy(), good(1), w.now)
	require.True(t, ok)
}

// A plan that counts by a field which an open hold does not have: asking again renews the hold, and a check that cannot be placed is
// never let pass, whoever forgot to refuse it.
func TestAHoldOfBeforeAnybodyCountedByUser(t *testing.T) {
	w := newWorld(t, quotaOf("units", "10", catalog.Day))
	ask := call("s1", "4")
	require.True(t, w.check(ask).Allowed)
	perUser := quotaOf("units", "5", catalog.Day)
	perUser.Per = []string{"user"}
	w.plan.Limits = []catalog.Limit{perUser, running(3, "10m")}
	require.ErrorContains(t, w.policy().Check(ask.Check), "data.user is missing")
	require.True(t, w.account.Renews(w.policy(), ask, w.now))
	again := w.check(ask)
	require.True(t, again.Allowed && again.Replayed)
	require.False(t, w.account.Renews(w.policy(), call("s1", "3"), w.now))
	require.False(t, w.check(call("s1", "3")).Allowed)
	require.True(t, w.check(call("s2", "5", "user", "u1")).Allowed, "the hold of nobody belongs to no user")
	require.False(t, w.check(call("s3", "1", "user", "u1")).Allowed)
}
