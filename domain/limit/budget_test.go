package limit_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
)

func budgetOf(most string, p catalog.Period) catalog.Limit {
	return catalog.Limit{Key: "spend", Kind: catalog.Budget, Max: money.MustParse(most), Window: period(p)}
}

var stairs = []catalog.Tier{
	{UpTo: money.Int(10), Unit: money.MustParse("1.00")}, {UpTo: money.Int(20), Unit: money.MustParse("0.50")}, {Unit: money.MustParse("0.25")},
}

// What the prices come to by hand, for so much used and for a check of so much more, of which any part may be used.
func TestPricesOfABudget(t *testing.T) {
	for _, c := range []struct {
		name            string
		price           catalog.Price
		used, requested string
		spent, cost     string
	}{
		{"per unit", catalog.Price{Model: catalog.PerUnit, Unit: money.MustParse("2.50")}, "4", "2", "10", "5"},
		{"within what is included", catalog.Price{Model: catalog.PerUnit, Unit: money.Int(2), Included: money.Int(10)}, "4", "6", "0", "0"},
		{"beyond what is included", catalog.Price{Model: catalog.PerUnit, Unit: money.Int(2), Included: money.Int(10)}, "4", "8", "0", "4"},
		{"a package is begun", catalog.Price{Model: catalog.Package, Size: money.Int(1000), Unit: money.MustParse("0.02")}, "1", "1", "0.02", "0"},
		{"a package is filled", catalog.Price{Model: catalog.Package, Size: money.Int(1000), Unit: money.MustParse("0.02")}, "999", "1", "0.02", "0"},
		{"the next package", catalog.Price{Model: catalog.Package, Size: money.Int(1000), Unit: money.MustParse("0.02")}, "1000", "0.000000001", "0.02", "0.02"},
		{"graduated within a tier", catalog.Price{Model: catalog.Graduated, Tiers: stairs}, "3", "4", "3", "4"},
		{"graduated to the end of a tier", catalog.Price{Model: catalog.Graduated, Tiers: stairs}, "3", "7", "3", "7"},
		{"graduated over two ends", catalog.Price{Model: catalog.Graduated, Tiers: stairs}, "8", "16", "8", "8"},
		{"graduated after what is included", catalog.Price{Model: catalog.Graduated, Tiers: stairs, Included: money.Int(5)}, "15", "1", "10", "0.5"},
		{"volume within a tier", catalog.Price{Model: catalog.Volume, Tiers: stairs}, "3", "4", "3", "4"},
		{"volume becomes cheaper", catalog.Price{Model: catalog.Volume, Tiers: stairs}, "10", "1", "10", "0"},
		{"volume becomes cheaper but more", catalog.Price{Model: catalog.Volume, Tiers: stairs}, "2", "9", "2", "8"},
		{"a percentage", catalog.Price{Model: catalog.Percentage, Percent: money.MustParse("2.5")}, "200", "40", "5", "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.price.Key, c.price.Meter = "p", "units"
			w := newWorld(t, budgetOf("1000", catalog.Day))
			w.plan.Prices = []catalog.Price{{Key: "base", Model: catalog.Flat, Amount: money.Int(5000)}, c.price}
			w.policy()
			w.settle(call("u1", c.used), c.used)
			got := w.check(call("s1", c.requested)).Parts[0]
			mustBe(t, money.MustParse(c.spent), got.Used, "spent")
			mustBe(t, money.MustParse(c.cost), got.Requested, "held")

			// It fits into a budget of exactly what it costs next, and not into a smaller one.
			cost := money.MustParse(c.cost)
			for _, short := range []string{"0", "0.000000001"} {
				w := newWorld(t, budgetOf(money.MustParse(c.spent).Add(cost).Sub(money.MustParse(short)).String(), catalog.Day))
				w.plan.Prices = []catalog.Price{c.price}
				w.policy()
				w.settle(call("u1", c.used), c.used)
				got := w.check(call("s1", c.requested)).Parts[0]
				require.Equal(t, short != "0", got.Denied, "a budget that is %s short", short)
				if got.Denied {
					mustBe(t, cost, got.Requested, "cost")
				}
			}
		})
	}
}

func TestAPriceIsOfWhatItsFilterLetsThrough(t *testing.T) {
	w := newWorld(t, budgetOf("10", catalog.Month))
	w.plan.Prices = []catalog.Price{
		{Key: "large", Model: catalog.PerUnit, Meter: "tokens", Unit: money.Int(2), Where: map[string]string{"model": "large"}},
		{Key: "all", Model: catalog.PerUnit, Meter: "calls", Unit: money.Int(1)},
	}
	w.policy()
	w.settle(call("u1", "1", "tokens", 2, "model", "large"), "1") // 4 and 1
	w.settle(call("u2", "1", "tokens", 9, "model", "small"), "1") // 1
	got := w.check(call("s1", "1", "tokens", 9, "model", "small"))
	mustBe(t, money.Int(6), got.Parts[0].Used, "spent")
	mustBe(t, money.Int(1), got.Parts[0].Requested, "cost")
	got = w.check(call("s2", "1", "tokens", 1, "model", "large"))
	require.True(t, got.Allowed)
	mustBe(t, money.Int(3), got.Parts[0].Requested, "cost")
	require.False(t, w.check(call("s3", "1", "tokens", 1, "model", "large")).Allowed)
}

// Nothing has been spent, since all of it was included; yet the same check fits into the next window, where more is left of
// what is included, also while another check is open.
func TestABudgetWaitsForWhatIsIncluded(t *testing.T) {
	for _, leased := range []bool{false, true} {
		t.Run(fmt.Sprint(leased), func(t *testing.T) {
			w := newWorld(t, budgetOf("5", catalog.Hour))
			w.plan.Prices = []catalog.Price{{Key: "p", Model: catalog.PerUnit, Meter: "units", Unit: money.Int(1), Included: money.Int(10)}}
			w.policy()
			w.settle(call("u1", "10"), "10")
			resets := start.Add(time.Hour)
			if leased {
				lease := call("u2", "1")
				lease.TTL = 3 * time.Hour
				require.True(t, w.check(lease).Allowed)
			}
			ask := call("s1", "12")
			got := w.check(ask)
			require.False(t, got.Allowed)
			require.Equal(t, resets, got.Parts[0].ResetAt)
			w.now = resets.Add(-time.Millisecond)
			require.False(t, w.check(ask).Allowed)
			w.pass(time.Millisecond)
			require.True(t, w.check(ask).Allowed)
		})
	}
}

// Fractions of quantities and prices, against arithmetic with fractions.
func TestBudgetsAreExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, budgetOf("1000000", catalog.Month))
		w.plan.Prices = drawPrices(t)
		decimal := func(name string) string {
			return money.Scaled(rapid.Int64Range(1, 20_000).Draw(t, name), rapid.IntRange(0, 4).Draw(t, name+" scale")).String()
		}
		w.policy()
		m := model{meters: meters}
		for i := range rapid.IntRange(0, 4).Draw(t, "facts") {
			quantity := decimal("used")
			ask := call(nth(i), quantity, "tokens", money.MustParse(decimal("tokens")), "model", rapid.SampledFrom([]string{"large", "small"}).Draw(t, "model"))
			ask.Quantity = money.MustParse(quantity).Floor().Max(money.Int(1))
			w.settle(ask, quantity)
			u := &fact{}
			u.Identity, u.Quantity, u.Data, u.OccurredAt = ask.Identity, money.MustParse(quantity), ask.Data, w.now
			m.facts = append(m.facts, u)
		}
		ask := call("s1", decimal("requested"), "tokens", money.MustParse(decimal("tokens")), "model", "large")
		got := w.check(ask)
		if len(got.Parts) == 0 {
			return // no price is of calls
		}
		of := terms{prices: w.plan.Prices}
		spent := m.total(of, w.plan.Limits[0], ask.Data, nil, w.now.UnixMilli())
		cost := m.total(of, w.plan.Limits[0], ask.Data, []limit.Ask{ask}, w.now.UnixMilli())
		require.Zero(t, spent.Cmp(rat(got.Parts[0].Used)), "spent %s, not %s", got.Parts[0].Used, spent)
		require.Zero(t, cost.Sub(cost, spent).Cmp(rat(got.Parts[0].Requested)), "holds %s, not %s", got.Parts[0].Requested, cost)
	})
}

// Checks that are open at the same time cannot each count on what is included or cheap: whatever they come to together,
// it is within the budget, in whatever order they are used.
func TestOpenChecksStayWithinTheBudgetTogether(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.Int64Range(5, 50).Draw(t, "budget")
		w := newWorld(t, budgetOf(money.Int(most).String(), catalog.Month))
		falling := rapid.Bool().Draw(t, "falling")
		units := []string{"1.00", "2.50", "0.50"}
		if falling {
			units = []string{"2.50", "1.00", "0.50"}
		}
		price := catalog.Price{Key: "p", Meter: "units", Included: money.Int(rapid.Int64Range(0, 12).Draw(t, "included"))}
		switch rapid.IntRange(0, 3).Draw(t, "model") {
		case 0:
			price.Model, price.Unit = catalog.PerUnit, money.MustParse("1.25")
		case 1:
			price.Model, price.Unit, price.Size = catalog.Package, money.Int(3), money.Int(4)
		case 2:
			price.Model = catalog.Graduated
		default:
			price.Model = catalog.Volume
		}
		if price.Model == catalog.Graduated || price.Model == catalog.Volume {
			price.Tiers = []catalog.Tier{{UpTo: money.Int(8), Unit: money.MustParse(units[0])}, {UpTo: money.Int(20), Unit: money.MustParse(units[1])}, {Unit: money.MustParse(units[2])}}
		}
		w.plan.Prices = []catalog.Price{price}
		w.policy()
		open, total := map[string]int64{}, int64(0)
		use := func(source string) {
			q := open[source]
			total += q
			w.settle(call(event.SourceID(source), money.Int(q).String()), money.Int(q).String())
			delete(open, source)
		}
		for i := range rapid.IntRange(1, 25).Draw(t, "checks") {
			q := rapid.Int64Range(1, 12).Draw(t, "quantity")
			source := string(nth(i))
			if len(open) > 0 && rapid.IntRange(0, 3).Draw(t, "again") == 0 { // for more or for less
				source = rapid.SampledFrom(slices.Sorted(maps.Keys(open))).Draw(t, "which")
			}
			if w.check(call(event.SourceID(source), money.Int(q).String())).Allowed {
				open[source] = q
			}
			if len(open) > 0 && rapid.Bool().Draw(t, "use one") {
				use(rapid.SampledFrom(slices.Sorted(maps.Keys(open))).Draw(t, "which"))
			}
		}
		for source := range open {
			use(source)
		}
		spent := w.check(call("last", "1")).Parts[0].Used
		require.LessOrEqual(t, spent.Cmp(money.Int(most)), 0, "%d units come to %s", total, spent)
	})
}
