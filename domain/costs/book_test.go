package costs_test

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

const days = 12

// day is one of a few days; the last one never ends.
func day(n int) catalog.Date { return catalog.Date(fmt.Sprintf("2026-03-%02d", 10+n)) }

func model(n int) event.ModelName {
	return [...]event.ModelName{{Provider: "a", Model: "m"}, {Provider: "a", Model: "n"}, {Provider: "am", Model: ""}, {Provider: "b", Model: "m"}}[n]
}

func modelCost(n int, price int64) event.ModelCost {
	m := model(n)
	if m.Model == "" {
		m.Model = "n"
	}
	return event.ModelCost{ModelName: m, Input: event.Rate{Decimal: money.Int(price)}, Cached: event.Rate{Decimal: money.Int(price)}, Output: event.Rate{Decimal: money.Int(2 * price)}}
}

// naive is the book as a child would write it: for each model a row of days, each with the import that says its price.
type naive struct {
	by    [4][days]int // number of the import, from 1; 0: no price
	price map[[2]int]int64
	count int
}

// said is the last day on which something begins or ends.
func (n *naive) said(m int) int {
	for d := days - 1; d >= 0; d-- {
		before := 0
		if d > 0 {
			before = n.by[m][d-1]
		}
		if n.by[m][d] != before {
			return d
		}
	}
	return -1
}

func (n *naive) at(m, d int) (int64, bool) {
	by := n.by[m][d]
	return n.price[[2]int{by, m}], by > 0
}

// take imports prices by model from a day on, and answers what becomes of each model.
func (n *naive) take(prices map[int]int64, from int, removeMissing bool) map[costs.Op][]string {
	n.count++
	ops := map[costs.Op][]string{}
	set := func(m, by int) {
		for d := from; d < days; d++ {
			n.by[m][d] = by
		}
	}
	providers := map[string]bool{}
	for m := range prices {
		providers[model(m).Provider] = true
	}
	for m := range n.by {
		op := costs.Op("")
		now, known := n.at(m, from)
		price, listed := prices[m]
		switch {
		case listed && known && now == price, !listed && (!known || !providers[model(m).Provider]):
		case !listed && !removeMissing:
			op = costs.Unlisted
		case from < n.said(m):
			op = costs.Refused
		case !listed:
			op = costs.Removed
			set(m, 0)
		default:
			if op = costs.Added; known {
				op = costs.Changed
			}
			n.price[[2]int{n.count, m}] = price
			set(m, n.count)
		}
		if op != "" {
			c := modelCost(m, 0)
			ops[op] = append(ops[op], c.Provider+"/"+c.Model)
		}
	}
	return ops
}

// tiles fails unless the versions of each model rise without overlap.
func tiles(t require.TestingT, b costs.Book) {
	all := b.Versions(costs.Query{})
	for i, v := range all {
		require.True(t, v.Until == "" || v.From < v.Until, "%+v has no day", v)
		if i == 0 {
			continue
		}
		before := all[i-1]
		switch {
		case before.Provider == v.Provider && before.Model == v.Model:
			require.True(t, before.Until != "" && before.Until <= v.From, "%+v overlaps %+v", before, v)
		default:
			require.Negative(t, slices.Compare([]string{before.Provider, before.Model}, []string{v.Provider, v.Model}))
		}
	}
}

// Whatever is imported in whatever order, the book says for each model and day what the naive model says, its versions do not
// overlap, and the price of a day that was said is refused another one from an earlier day on.
func TestImportsAreTheNaiveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var imports costs.Imports
		n := naive{price: map[[2]int]int64{}}
		var log []event.CostsImported
		for i := range rapid.IntRange(1, 12).Draw(t, "imports") {
			prices := rapid.MapOfN(rapid.IntRange(0, 3), rapid.Int64Range(1, 3), 1, 4).Draw(t, "prices")
			from := rapid.IntRange(0, days-1).Draw(t, "from")
			o := costs.Options{From: day(from), RemoveMissing: rapid.Bool().Draw(t, "removeMissing")}
			list := costs.List{Hash: fmt.Sprintf("%064d", i)}
			for m := range 4 {
				if price, ok := prices[m]; ok {
					list.Costs = append(list.Costs, modelCost(m, price))
				}
			}
			plan := imports.Plan(list, o)
			ops := map[costs.Op][]string{}
			for _, c := range plan.Changes {
				ops[c.Op] = append(ops[c.Op], c.Provider+"/"+c.Model)
			}
			before := imports.Combine(nil).Versions(costs.Query{})
			require.Equal(t, n.take(prices, from, o.RemoveMissing), ops)
			events := plan.Events("source", list.Hash, o, "cli")
			next, err := imports.Apply(events...)
			require.NoError(t, err)
			require.Equal(t, before, imports.Combine(nil).Versions(costs.Query{}), "the imports before are a value")
			imports = next
			log = append(log, events...)
			require.Equal(t, len(events) > 0, imports.Seen(list.Hash, o.From, o.RemoveMissing))

			book := imports.Combine(nil)
			tiles(t, book)
			for m := range 4 {
				for d := range days {
					want, known := n.at(m, d)
					name := modelCost(m, 0)
					got, ok := book.Cost(name.Provider, name.Model, day(d))
					require.Equal(t, known, ok)
					if ok {
						require.Equal(t, money.Int(want), got.InputPerMillion)
						require.Equal(t, money.Int(2*want), got.OutputPerMillion)
					}
				}
			}
			again := imports.Plan(list, o)
			require.Zero(t, again.Counts[costs.Added]+again.Counts[costs.Changed]+again.Counts[costs.Removed], "the same again changes nothing")
		}
		folded, err := costs.Imports{}.Apply(log...)
		require.NoError(t, err)
		require.Equal(t, imports.Combine(nil).Versions(costs.Query{}), folded.Combine(nil).Versions(costs.Query{}))
	})
}

func TestAHistoryThatIsRewrittenIsMalformed(t *testing.T) {
	first := event.CostsImported{Source: "s", Hash: "h", From: "2026-03-10", Costs: []event.ModelCost{modelCost(0, 1)}}
	earlier := event.CostsImported{Source: "s", Hash: "h", From: "2026-03-09", Costs: []event.ModelCost{modelCost(0, 2)}}
	gone := event.CostsImported{Source: "s", Hash: "h", From: "2026-03-09", Removed: []event.ModelName{model(0)}}
	for _, e := range []event.CostsImported{earlier, gone} {
		_, err := costs.Imports{}.Apply(first, e)
		require.ErrorIs(t, err, event.ErrMalformed)
	}
}

// On a day that the catalog covers, it is the cost; on any other day, what was imported is.
func TestNegotiatedCostsGoFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var imports costs.Imports
		var err error
		for i, from := range slices.Sorted(slices.Values(rapid.SliceOfNDistinct(rapid.IntRange(0, days-1), 0, 4, rapid.ID).Draw(t, "imported"))) {
			e := event.CostsImported{Source: "s", Hash: "h", From: string(day(from)), Costs: []event.ModelCost{modelCost(0, int64(i+1)), modelCost(1, int64(i+1))}}
			if i == 2 {
				e.Removed, e.Costs = []event.ModelName{model(0)}, e.Costs[1:]
			}
			imports, err = imports.Apply(e)
			require.NoError(t, err)
		}
		var negotiated []catalog.Cost
		bounds := slices.Sorted(slices.Values(rapid.SliceOfNDistinct(rapid.IntRange(0, days), 0, 6, rapid.ID).Draw(t, "negotiated")))
		for i := 0; i+1 < len(bounds); i += rapid.SampledFrom([]int{1, 2}).Draw(t, "step") {
			c := catalog.Cost{Provider: "a", Model: "m", From: day(bounds[i]), Until: day(bounds[i+1]), InputPerMillion: money.Int(int64(100 + i))}
			if i+2 >= len(bounds) && rapid.Bool().Draw(t, "open") {
				c.Until = ""
			}
			negotiated = append(negotiated, c)
		}
		imported, book := imports.Combine(nil), imports.Combine(negotiated)
		tiles(t, book)
		for d := range days + 1 {
			want, known := imported.Cost("a", "m", day(d))
			for _, c := range negotiated {
				if c.InForce(day(d)) {
					want, known = c, true
				}
			}
			got, ok := book.Cost("a", "m", day(d))
			require.Equal(t, known, ok)
			require.Equal(t, want.InputPerMillion, got.InputPerMillion)
			_, ok = book.Cost("A", "m", day(d))
			require.False(t, ok)
			other, ok := book.Cost("a", "n", day(d))
			wantOther, knownOther := imported.Cost("a", "n", day(d))
			require.Equal(t, knownOther, ok)
			require.Equal(t, wantOther, other)
		}
		for _, v := range book.Versions(costs.Query{}) {
			require.Equal(t, v.InputPerMillion.Cmp(money.Int(100)) >= 0, v.Source == costs.CatalogSource)
			require.Equal(t, v.Hash == "", v.Source == costs.CatalogSource)
		}
	})
}

func TestNoBookKnowsNothing(t *testing.T) {
	_, ok := costs.Book{}.Cost("openai", "gpt-4.1", "2026-04-05")
	require.False(t, ok)
	require.Empty(t, costs.Book{}.Versions(costs.Query{}))
}

// The formula against big.Rat, which cannot round.
func TestAmountIsExact(t *testing.T) {
	count := rapid.OneOf(rapid.StringMatching(`0|[1-9][0-9]{0,17}`), rapid.StringMatching(`[1-9][0-9]{0,24}\.[0-9]{0,8}[1-9]`))
	price := rapid.StringMatching(`(0|[1-9][0-9]{0,11})(\.[0-9]{0,23}[1-9])?`)
	rapid.Check(t, func(t *rapid.T) {
		c := catalog.Cost{InputPerMillion: decimal(price.Draw(t, "input price")), CachedInputPerMillion: decimal(price.Draw(t, "cached price")), OutputPerMillion: decimal(price.Draw(t, "output price"))}
		input, cached, output := count.Draw(t, "input"), count.Draw(t, "cached"), count.Draw(t, "output")
		got := costs.Amount(c, costs.Tokens{Input: decimal(input), CachedInput: decimal(cached), Output: decimal(output)})
		want := new(big.Rat).Mul(rat(input), rat(c.InputPerMillion.String()))
		want.Add(want, new(big.Rat).Mul(rat(cached), rat(c.CachedInputPerMillion.String())))
		want.Add(want, new(big.Rat).Mul(rat(output), rat(c.OutputPerMillion.String())))
		want.Quo(want, big.NewRat(1_000_000, 1))
		require.Zero(t, want.Cmp(rat(got.String())), "%s is not %s", got, want)
	})
}

func TestAmount(t *testing.T) {
	c := catalog.Cost{InputPerMillion: decimal("2"), CachedInputPerMillion: decimal("0.5"), OutputPerMillion: decimal("8")}
	for _, of := range []struct{ input, cached, output, want string }{
		{"812", "0", "164", "0.002936"},
		{"812", "800", "164", "0.003336"}, // 812*2 + 800*0.5 + 164*8 = 3336
		{"1", "5", "0", "0.0000045"},      // cached ones are not among the input
		{"0", "0", "0", "0"},
	} {
		require.Equal(t, of.want, costs.Amount(c, costs.Tokens{Input: decimal(of.input), CachedInput: decimal(of.cached), Output: decimal(of.output)}).String())
	}
}

func decimal(text string) money.Decimal {
	d, err := money.ParseNumber(text)
	if err != nil {
		panic(text)
	}
	return d
}

func listOf(of ...event.ModelCost) costs.List {
	return costs.List{Hash: strings.Repeat("0", 64), Costs: of}
}

func TestGuard(t *testing.T) {
	cost := func(input, cached, output string) event.ModelCost {
		c := modelCost(0, 0)
		c.Input.Decimal, c.Cached.Decimal, c.Output.Decimal = decimal(input), decimal(cached), decimal(output)
		return c
	}
	for _, c := range []struct {
		name        string
		before, now event.ModelCost
		most        string
		jump        string
	}{
		{"nothing changes", cost("2", "0.5", "8"), cost("2", "0.5", "8"), "3", ""},
		{"exactly the factor", cost("2", "0.5", "8"), cost("6", "1.5", "24"), "3", ""},
		{"a digit above the factor", cost("2", "0.5", "8"), cost("6.000000000000000000000001", "0.5", "8"), "3", "input 2 -> 6.000000000000000000000001 is more than a factor of 3"},
		{"exactly the factor downwards", cost("6", "1.5", "24"), cost("2", "0.5", "8"), "3", ""},
		{"below the factor downwards", cost("6", "1.5", "24"), cost("2", "0.5", "7.99"), "3", "output 24 -> 7.99 is more than a factor of 3"},
		{"a fraction for a factor", cost("2", "0.5", "8"), cost("2.3", "0.5", "8"), "1.1", "input 2 -> 2.3 is more than a factor of 1.1"},
		{"no change is let through", cost("2", "0.5", "8"), cost("2.000001", "0.5", "8"), "1", "input 2 -> 2.000001 is more than a factor of 1"},
		{"to zero", cost("2", "0.5", "8"), cost("2", "0", "0"), "1000", "cached input drops from 0.5 to zero, output drops from 8 to zero"},
		{"from zero", cost("2", "0.5", "0"), cost("2", "0.5", "0.01"), "1000", "output 0 -> 0.01 is more than a factor of 1000"},
		{"a discount appears", cost("2", "2", "8"), cost("2", "0.1", "8"), "3", ""},
		{"a discount of everything appears", cost("2", "2", "8"), cost("2", "0", "8"), "3", "cached input drops from 2 to zero"},
		{"a discount grows", cost("2", "0.5", "8"), cost("2", "0.1", "8"), "3", "cached input 0.5 -> 0.1 is more than a factor of 3"},
		{"a discount disappears", cost("2", "0.1", "8"), cost("2", "2", "8"), "3", "cached input 0.1 -> 2 is more than a factor of 3"},
		{"all of it", cost("2", "2", "8"), cost("20", "20", "80"), "3",
			"input 2 -> 20 is more than a factor of 3, cached input 2 -> 20 is more than a factor of 3, output 8 -> 80 is more than a factor of 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, err := costs.Imports{}.Apply(costs.Imports{}.Plan(listOf(c.before), costs.Options{From: day(0)}).Events("s", "h", costs.Options{From: day(0)}, "cli")...)
			require.NoError(t, err)
			err = before.Plan(listOf(c.now), costs.Options{From: day(1), MaxJump: decimal(c.most)}).Guard()
			if c.jump == "" {
				require.NoError(t, err)
				return
			}
			var jump *costs.JumpError
			require.ErrorAs(t, err, &jump)
			require.Equal(t, []string{"a/m: " + c.jump}, jump.Jumps)
			require.NoError(t, costs.Imports{}.Plan(listOf(c.now), costs.Options{From: day(1)}).Guard(), "what is new does not jump")
			require.NoError(t, before.Plan(listOf(c.now), costs.Options{From: "2026-01-01"}).Guard(), "what is refused does not jump")
		})
	}
}

func TestMostModelsVanish(t *testing.T) {
	many := func(provider string, n int) (all []event.ModelCost) {
		for i := range n {
			all = append(all, event.ModelCost{ModelName: event.ModelName{Provider: provider, Model: fmt.Sprintf("m%03d", i)}, Input: event.Rate{Decimal: money.Int(1)}})
		}
		return all
	}
	o := costs.Options{From: day(0)}
	known, err := costs.Imports{}.Apply(costs.Imports{}.Plan(listOf(append(many("a", 250), many("b", 10)...)...), o).Events("s", "h", o, "cli")...)
	require.NoError(t, err)
	for _, c := range []struct {
		name    string
		left    int
		remove  bool
		vanish  string
		removed int
	}{
		{"half", 125, true, "", 125},
		{"more than half", 124, true, "126 of 250 models vanish", 126},
		{"nothing vanishes where they keep their price", 1, false, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := known.Plan(listOf(many("a", c.left)...), costs.Options{From: day(1), RemoveMissing: c.remove})
			require.Equal(t, c.vanish, p.Vanishing)
			require.Equal(t, c.vanish == "", p.Guard() == nil)
			require.Equal(t, c.removed, p.Counts[costs.Removed])
			require.Equal(t, c.left, p.Unchanged)
			for _, change := range p.Changes {
				require.Equal(t, "a", change.Provider, "the list does not speak for b")
			}
		})
	}
	// A model that the list has with two prices is not missing.
	list := listOf(many("a", 249)...)
	list.Ambiguous = []event.ModelName{{Provider: "a", Model: "m249"}}
	require.Empty(t, known.Plan(list, costs.Options{From: day(1), RemoveMissing: true}).Changes)
}
