package limit_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
)

func rateOf(most, burst int64, window string) catalog.Limit {
	return catalog.Limit{Key: "rate", Kind: catalog.Rate, On: on("call"), Max: money.Int(most), Burst: burst, Window: sliding(window)}
}

// within counts instants in (at - window, at].
func within(instants []time.Time, at time.Time, window time.Duration) (n int64) {
	for _, i := range instants {
		if !i.After(at) && i.After(at.Add(-window)) {
			n++
		}
	}
	return n
}

// Far more instants than are kept apart, and a limit that is changed in between. What is refused because instants are kept
// together is at most what a 64th of a window more would refuse.
func TestNoWindowHasMoreThanItsRate(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		random := rand.New(rand.NewPCG(seed, 1))
		window := []time.Duration{100 * time.Millisecond, time.Second, 6 * time.Second, time.Minute}[seed%4]
		most := int64(20 + random.IntN(280))
		w := newWorld(t, rateOf(most, 0, window.String()))
		var admitted []time.Time
		for i := range 1500 {
			if random.IntN(200) == 0 {
				most = int64(1 + random.IntN(300))
				w.override("rate", money.Int(most).String())
			}
			ask := call(nth(i), "1")
			ask.NoHold = true
			got := w.check(ask)
			used := within(admitted, w.now, window)
			if got.Allowed {
				admitted = append(admitted, w.now)
				require.Less(t, used, most, "seed %d", seed)
			} else {
				require.GreaterOrEqual(t, within(admitted, w.now, window+window/64+time.Millisecond), most, "seed %d: refused for less than a 64th of a window", seed)
				if random.IntN(20) == 0 {
					w.tightRate(t, ask, got)
				}
			}
			switch random.IntN(60) {
			case 0:
				w.pass((window / 3).Truncate(time.Millisecond))
			default:
				w.pass(time.Duration(random.Int64N(int64(4*window)/most+1) / 3).Truncate(time.Millisecond))
			}
		}
		require.Greater(t, len(admitted), 100)
	}
}

func (w *world) tightRate(t *testing.T, ask limit.Ask, got limit.Answer) {
	reset := part(t, got.LimitDecided, "rate").ResetAt
	if reset.IsZero() {
		return
	}
	a, p := w.fold(), w.policy()
	if earlier := reset.Add(-time.Millisecond); earlier.After(w.now) {
		require.False(t, a.Decide(p, ask, earlier).Allowed)
	}
	require.True(t, a.Decide(p, ask, reset).Allowed)
}

// A window that is no whole number of milliseconds has no more in it either.
func TestARateOfAFractionOfATick(t *testing.T) {
	for _, window := range []string{"1500us", "2001us", "1ms"} {
		w := newWorld(t, rateOf(2, 1, window))
		var admitted []time.Time
		for i := range 200 {
			if w.check(call(nth(i), "1")).Allowed {
				admitted = append(admitted, w.now)
			}
			if i%3 == 0 {
				w.pass(time.Millisecond)
			}
		}
		for _, at := range admitted {
			require.LessOrEqual(t, within(admitted, at, w.plan.Limits[0].Window.Length.Value()), int64(2), window)
		}
	}
}

// In any interval there are at most a burst and what has come in since, which the algorithm promises (ITU-T I.371), as well
// as at most what the window lets pass.
func TestABurstIsBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.Int64Range(1, 12).Draw(t, "max")
		burst := rapid.Int64Range(1, most).Draw(t, "burst")
		window := rapid.SampledFrom([]time.Duration{7 * time.Millisecond, time.Second, time.Minute}).Draw(t, "window")
		w := newWorld(t, rateOf(most, burst, window.String()))
		var admitted []time.Time
		for i, step := range rapid.SliceOfN(rapid.Int64Range(0, 3*window.Milliseconds()/most+1), 1, 80).Draw(t, "steps") {
			ask := call(nth(i), "1")
			if got := w.check(ask); got.Allowed {
				admitted = append(admitted, w.now)
			} else {
				reset := part(t, got.LimitDecided, "rate").ResetAt
				a, p := w.fold(), w.policy()
				require.False(t, a.Decide(p, ask, reset.Add(-time.Millisecond)).Allowed)
				require.True(t, a.Decide(p, ask, reset).Allowed)
			}
			w.pass(time.Duration(step) * time.Millisecond)
		}
		for i := range admitted {
			for j := i; j < len(admitted); j++ {
				span := admitted[j].Sub(admitted[i])
				require.LessOrEqual(t, int64(j-i+1), burst+int64(span)*most/int64(window), "in %s", span)
				if span < window {
					require.LessOrEqual(t, int64(j-i+1), most)
				}
			}
		}
	})
}

// A steady client that keeps to the rate is never refused, however long it goes on.
func TestASteadyRateAlwaysPasses(t *testing.T) {
	for _, most := range []int64{1, 7, 100, 1000} {
		w := newWorld(t, rateOf(most, 1, "1m"))
		every := (time.Minute/time.Duration(most) + time.Millisecond - 1).Truncate(time.Millisecond)
		every += time.Minute / 64 / time.Duration(most) * 2 // what is given away when instants are kept together
		for i := range 2 * int(most) {
			ask := call(nth(i), "1")
			ask.NoHold = true
			require.True(t, w.check(ask).Allowed, "%d of %d", i, most)
			w.pass(every)
		}
	}
}

func retriesOf(minimum int64, ratio string, attempts int64) catalog.Limit {
	return catalog.Limit{Key: "retries", Kind: catalog.RetryBudget, On: on("call"), Minimum: minimum, Ratio: money.MustParse(ratio), Window: sliding("10s"), MaxAttempts: attempts}
}

// Whenever a retry is admitted, the retries of the window up to then are within the budget that its first attempts make.
// Between retries a window may lose first attempts, which takes back nothing that was admitted.
func TestRetriesStayWithinTheirBudget(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 2))
		minimum, ratio := int64(random.IntN(3)), int64(1+random.IntN(10))
		w := newWorld(t, retriesOf(minimum, money.Scaled(ratio, 1).String(), 3))
		var firsts, retries []time.Time
		for i := range 600 {
			ask := call(nth(i), "1")
			retry := random.IntN(2) == 0
			if retry {
				ask = call(nth(i), "1", "attempt", 1+random.IntN(3), "retryOf", "s0")
			}
			got := w.check(ask)
			require.True(t, got.Allowed || retry, "a first attempt passes")
			require.Equal(t, got.Parts[0].Max.Floor().String(), got.Parts[0].Max.String(), "retries are whole")
			switch {
			case got.Allowed && retry:
				retries = append(retries, w.now)
				require.LessOrEqual(t, 10*within(retries, w.now, 10*time.Second), 10*minimum+ratio*within(firsts, w.now, 10*time.Second), "seed %d", seed)
			case got.Allowed:
				firsts = append(firsts, w.now)
			case got.Parts[0].ResetAt.IsZero():
				require.Zero(t, minimum, "there is something to wait for")
			}
			w.check(ask) // again, while its hold is open: no second retry
			w.pass(time.Duration(random.IntN([]int{20, 60, 400}[seed%3])) * time.Millisecond)
		}
		if minimum > 0 {
			require.NotEmpty(t, retries)
		}
	}
}

func TestTooManyAttemptsAreDeniedForEver(t *testing.T) {
	w := newWorld(t, retriesOf(100, "1", 3))
	for attempt, allowed := range map[string]bool{"2": true, "3": true, "3.5": false, "4": false, "1e18": false} {
		got := w.check(call("s1", "1", "attempt", money.MustParse(attempt), "retryOf", "s0"))
		require.Equal(t, allowed, got.Allowed, attempt)
		if !allowed {
			require.Equal(t, limit.BurstLimit, why(got))
			require.Zero(t, got.Parts[0].ResetAt)
		}
		w.release(limit.Source{Type: "call", Source: "s1"})
		w.pass(time.Hour)
	}
}

func TestWhatARetryIs(t *testing.T) {
	for _, c := range []struct {
		name   string
		fields []any
		retry  bool
	}{
		{"nothing is said", nil, false},
		{"the first attempt", []any{"attempt", 1}, false},
		{"the second attempt", []any{"attempt", 2}, true},
		{"it says of what", []any{"retryOf", "s0"}, true},
		{"the first attempt, but of something", []any{"attempt", 1, "retryOf", "s0"}, true},
		{"of nothing", []any{"retryOf", ""}, false},
		{"of null", []any{"retryOf", nil}, false},
		{"an attempt that is no number", []any{"attempt", "2"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, retriesOf(0, "0.5", 3))
			require.Equal(t, c.retry, !w.check(call("s1", "1", c.fields...)).Allowed)
		})
	}
}

func guardOf(denials int64, ratio string) catalog.Limit {
	return catalog.Limit{Key: "abuse", Kind: catalog.AbuseGuard, Denials: denials, Ratio: money.MustParse(ratio), Window: sliding("1m"), Cooldown: length("10s"), MaxCooldown: length("45s")}
}

var only = catalog.Limit{Key: "models", Kind: catalog.Access, On: on("call"), Field: "model", Values: []string{"small"}}

// bad is denied by only, good is not.
func bad(i int) limit.Ask  { return call(nth(i), "1", "model", "huge") }
func good(i int) limit.Ask { return call(nth(i), "1", "model", "small") }

func TestACooldownEndsWhenItWasSaid(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, guardOf(3, "0.5"), only)
		ends := w.now.Add(10 * time.Second)
		for i, want := range []limit.Reason{limit.PlanLimit, limit.PlanLimit, limit.AbuseGuard} {
			require.Equal(t, want, why(w.check(bad(i))), "the denial that is too many knows of the cooldown")
		}
		for i, step := range rapid.SliceOfN(rapid.Int64Range(0, 4000), 1, 20).Draw(t, "steps") {
			w.pass(time.Duration(step) * time.Millisecond)
			ask := rapid.SampledFrom([]limit.Ask{good(100 + i), bad(100 + i)}).Draw(t, "ask")
			got := w.check(ask)
			if !w.now.Before(ends) {
				require.Equal(t, ask.Data.Get("model").String() == "small", got.Allowed)
				break // denials start to count again
			}
			require.Equal(t, limit.AbuseGuard, why(got))
			require.Equal(t, ends, part(t, got.LimitDecided, "abuse").ResetAt)
		}
	})
}

func TestCooldownsDoubleUpToTheLongestAndAreForgotten(t *testing.T) {
	w := newWorld(t, guardOf(2, "0.1"), only)
	i := 0
	strike := func() time.Duration {
		for _, want := range []limit.Reason{limit.PlanLimit, limit.AbuseGuard} {
			require.Equal(t, want, why(w.check(bad(i))))
			i++
		}
		got := w.check(good(i))
		i++
		require.Equal(t, limit.AbuseGuard, why(got))
		return part(t, got.LimitDecided, "abuse").ResetAt.Sub(w.now)
	}
	for _, long := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 45 * time.Second, 45 * time.Second} {
		require.Equal(t, long, strike())
		w.pass(long)
	}
	w.pass(45*time.Second - time.Millisecond)
	require.Equal(t, 45*time.Second, strike(), "within the longest cooldown, nothing is forgotten")
	w.pass(90 * time.Second)
	require.Equal(t, 10*time.Second, strike(), "after it, all is")
}

func TestAGuardLooksAtTheRatioToo(t *testing.T) {
	w := newWorld(t, guardOf(2, "0.5"), only)
	for i := range 5 {
		require.True(t, w.check(good(i)).Allowed)
	}
	for i := 5; i < 9; i++ { // 4 of 9
		w.check(bad(i))
	}
	require.True(t, w.check(good(10)).Allowed) // 4 of 10
	w.check(bad(11))                           // 5 of 11
	require.True(t, w.check(good(12)).Allowed) // 5 of 12
	w.check(bad(13))                           // 6 of 13
	w.check(bad(14))                           // 7 of 14
	require.False(t, w.check(good(15)).Allowed)
}

// Usage, releases and asking again are of work that was allowed before, so a cooldown has nothing to do with them.
func TestACooldownLeavesRunningWorkAlone(t *testing.T) {
	quota := catalog.Limit{Key: "units", Kind: catalog.Quota, Meter: "units", Max: money.Int(10), Window: period(catalog.Day)}
	w := newWorld(t, guardOf(2, "0.1"), only, quota)
	work := call("work", "2", "model", "small")
	require.True(t, w.check(work).Allowed)
	require.True(t, w.check(good(1)).Allowed)
	w.check(bad(2))
	w.check(bad(3))
	w.pass(2 * time.Second)
	require.False(t, w.check(good(4)).Allowed)

	got := w.check(work)
	require.True(t, got.Allowed && got.Replayed && got.Record, "renewed")
	more := call("work", "5", "model", "small")
	require.True(t, w.check(more).Allowed, "raised")
	require.False(t, w.check(call("work", "50", "model", "small")).Allowed, "the quota still counts")
	require.True(t, w.release(source(good(1))))
	w.settle(more, "5")
	mustBe(t, money.Int(5), part(t, w.check(good(4)).LimitDecided, "units").Used, "used")
	require.Empty(t, w.holds())
}

func TestAnInstantHasNoOrder(t *testing.T) {
	w := newWorld(t, rateOf(3, 0, "1s"))
	for i := range 5 {
		require.Equal(t, i < 3, w.check(call(nth(i), "1")).Allowed)
	}
	w.pass(time.Second - time.Millisecond)
	require.False(t, w.check(call("later", "1")).Allowed)
	w.pass(time.Millisecond)
	require.True(t, w.check(call("later", "1")).Allowed)
}
