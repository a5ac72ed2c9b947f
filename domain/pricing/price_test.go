package pricing_test

import (
	"math/big"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/pricing"
)

func d(text string) money.Decimal { return money.MustParse(text) }

var steps = []catalog.Tier{{UpTo: d("100"), Unit: d("2.50")}, {UpTo: d("200"), Unit: d("2")}, {Unit: d("1.5")}}

// Each amount is worked out by hand beside it.
func TestRate(t *testing.T) {
	for _, c := range []struct {
		name     string
		price    catalog.Price
		quantity string
		amount   string
		tiers    int
	}{
		{"per unit", catalog.Price{Model: catalog.PerUnit, Unit: d("0.01")}, "250", "2.5", 0},                                 // 250 * 0.01
		{"per unit, all included", catalog.Price{Model: catalog.PerUnit, Unit: d("0.01"), Included: d("250")}, "250", "0", 0}, // 250 - 250
		{"per unit, one more", catalog.Price{Model: catalog.PerUnit, Unit: d("0.01"), Included: d("250")}, "251", "0.01", 0},  // 1 * 0.01
		{"package, started", catalog.Price{Model: catalog.Package, Size: d("1000"), Unit: d("0.02")}, "1001", "0.04", 0},      // 2 packages
		{"package, full", catalog.Price{Model: catalog.Package, Size: d("1000"), Unit: d("0.02")}, "1000", "0.02", 0},         // 1 package
		{"package, fraction", catalog.Price{Model: catalog.Package, Size: d("0.5"), Unit: d("1")}, "0.500000001", "2", 0},     // 2 packages
		{"graduated, first", catalog.Price{Model: catalog.Graduated, Tiers: steps}, "100", "250", 1},                          // 100 * 2.5
		{"graduated, second", catalog.Price{Model: catalog.Graduated, Tiers: steps}, "150", "350", 2},                         // 250 + 50 * 2
		{"graduated, third", catalog.Price{Model: catalog.Graduated, Tiers: steps}, "300", "600", 3},                          // 250 + 200 + 100 * 1.5
		{"graduated, included", catalog.Price{Model: catalog.Graduated, Tiers: steps, Included: d("20")}, "170", "350", 2},    // 150 as above
		{"volume, first", catalog.Price{Model: catalog.Volume, Tiers: steps}, "100", "250", 1},                                // 100 * 2.5
		{"volume, second", catalog.Price{Model: catalog.Volume, Tiers: steps}, "101", "202", 1},                               // 101 * 2
		{"volume, third", catalog.Price{Model: catalog.Volume, Tiers: steps}, "300", "450", 1},                                // 300 * 1.5
		{"percentage", catalog.Price{Model: catalog.Percentage, Percent: d("2.9")}, "1234.56", "35.80224", 0},                 // 1234.56 * 0.029
		{"taken back", catalog.Price{Model: catalog.Graduated, Tiers: steps}, "0", "0", 0},                                    // nothing
	} {
		t.Run(c.name, func(t *testing.T) {
			charge := pricing.Rate(&c.price, d(c.quantity))
			assert.Equal(t, c.amount, charge.Amount.String())
			assert.Len(t, charge.Tiers, c.tiers)
			assert.True(t, pricing.Amount(&c.price, d(c.quantity)).Equal(charge.Amount))
		})
	}
}

func rat(d money.Decimal) *big.Rat {
	r, ok := new(big.Rat).SetString(d.String())
	if !ok {
		panic(d.String())
	}
	return r
}

// reference counts a graduated price in the slow way: it walks the tiers as intervals of rational numbers and measures what
// each has in common with the quantity.
func reference(p *catalog.Price, quantity money.Decimal) *big.Rat {
	q := new(big.Rat).Sub(rat(quantity), rat(p.Included))
	if q.Sign() <= 0 {
		return new(big.Rat)
	}
	switch p.Model {
	case catalog.PerUnit:
		return q.Mul(q, rat(p.Unit))
	case catalog.Percentage:
		return q.Mul(q, rat(p.Percent)).Quo(q, big.NewRat(100, 1))
	case catalog.Package:
		packages := new(big.Rat).Quo(q, rat(p.Size))
		n := new(big.Int).Quo(packages.Num(), packages.Denom())
		if !packages.IsInt() {
			n.Add(n, big.NewInt(1))
		}
		return new(big.Rat).Mul(new(big.Rat).SetInt(n), rat(p.Unit))
	}
	sum, from := new(big.Rat), new(big.Rat)
	for _, t := range p.Tiers {
		to := q
		if !t.Open() && rat(t.UpTo).Cmp(q) < 0 {
			to = rat(t.UpTo)
		}
		if to.Cmp(from) > 0 {
			sum.Add(sum, new(big.Rat).Mul(new(big.Rat).Sub(to, from), rat(t.Unit)))
			if p.Model == catalog.Volume {
				sum = new(big.Rat).Mul(q, rat(t.Unit)) // the last one that is reached counts for all
			}
			from = to
		}
	}
	return sum
}

func draw(t *rapid.T) catalog.Price {
	unit := func(name string) money.Decimal {
		return money.Scaled(rapid.Int64Range(0, 1_000_000).Draw(t, name), rapid.IntRange(0, 6).Draw(t, name+" scale"))
	}
	p := catalog.Price{Unit: unit("unit"), Included: unit("included")}
	p.Model = rapid.SampledFrom([]catalog.PriceModel{catalog.PerUnit, catalog.Package, catalog.Graduated, catalog.Volume, catalog.Percentage}).Draw(t, "model")
	p.Size, p.Percent = unit("size").Add(money.Scaled(1, 3)), unit("percent")
	if p.Model != catalog.Graduated && p.Model != catalog.Volume {
		return p
	}
	bound := money.Decimal{}
	for range rapid.IntRange(0, 4).Draw(t, "tiers") {
		bound = bound.Add(unit("step")).Add(money.Scaled(1, 6))
		p.Tiers = append(p.Tiers, catalog.Tier{UpTo: bound, Unit: unit("tier")})
	}
	p.Tiers = append(p.Tiers, catalog.Tier{Unit: unit("last")})
	return p
}

func TestRateAgreesWithTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := draw(t)
		q := money.Scaled(rapid.Int64Range(-1000, 10_000_000).Draw(t, "quantity"), rapid.IntRange(0, 9).Draw(t, "scale"))
		c := pricing.Rate(&p, q)
		require.Zero(t, reference(&p, q).Cmp(rat(c.Amount)), "%s of %+v is %s, not %s", q, p, reference(&p, q).FloatString(12), c.Amount)
		sum, quantity := money.Decimal{}, c.Included
		for _, part := range c.Tiers {
			sum, quantity = sum.Add(part.Amount), quantity.Add(part.Quantity)
			require.Positive(t, part.Quantity.Sign())
		}
		if len(c.Tiers) > 0 {
			require.True(t, sum.Equal(c.Amount), "tiers sum to the charge")
			require.True(t, quantity.Equal(q), "and to its quantity")
		}
		require.GreaterOrEqual(t, c.Amount.Sign(), 0)
	})
}
