// Package pricing owns what a quantity costs by a price of a plan: exactly, tier by tier. Which quantity that is, and how
// amounts become lines of an invoice, is decided elsewhere.
package pricing

import (
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Charge is what a quantity costs and how it was computed. Amounts are exact, not rounded.
type Charge struct {
	Quantity money.Decimal
	Included money.Decimal // the free part of the quantity
	Amount   money.Decimal
	Tiers    []Part // of a graduated price, each tier that is reached; of a volume price, the one that applies; else nil
}

// Part is what one tier costs. Included units do not count; the tier covers units after From, up to and including To.
type Part struct {
	From, To money.Decimal // To is 0 for a tier without end
	Quantity money.Decimal
	Unit     money.Decimal
	Amount   money.Decimal
}

// Rate applies a price of any model but flat to a quantity of its meter, by the rules of catalog.PriceModel. A negative
// quantity, which corrections can cause, costs nothing.
func Rate(p *catalog.Price, quantity money.Decimal) Charge {
	c := Charge{Quantity: quantity}
	q := quantity.Sub(p.Included)
	if q.Sign() <= 0 {
		c.Included = quantity.Max(money.Decimal{})
		return c
	}
	c.Included = p.Included
	from := money.Decimal{}
	for i := range p.Tiers {
		t := &p.Tiers[i]
		last := t.Open() || q.Cmp(t.UpTo) <= 0
		part := Part{From: from, To: t.UpTo, Unit: t.Unit}
		switch {
		case p.Model == catalog.Volume && last:
			part.Quantity = q
		case p.Model == catalog.Volume:
			from = t.UpTo
			continue
		case last:
			part.Quantity = q.Sub(from)
		default:
			part.Quantity = t.UpTo.Sub(from)
		}
		part.Amount = part.Quantity.Mul(part.Unit)
		c.Tiers = append(c.Tiers, part)
		if last {
			break
		}
		from = t.UpTo
	}
	c.Amount = Amount(p, quantity)
	return c
}

// Amount is Rate(p, quantity).Amount, without the details.
func Amount(p *catalog.Price, quantity money.Decimal) money.Decimal {
	q := quantity.Sub(p.Included)
	if q.Sign() <= 0 {
		return money.Decimal{}
	}
	switch p.Model {
	case catalog.PerUnit:
		return q.Mul(p.Unit)
	case catalog.Package:
		return q.Ceil(p.Size).Mul(p.Unit)
	case catalog.Percentage:
		return q.Mul(p.Percent).Mul(money.Scaled(1, 2))
	case catalog.Volume:
		for _, t := range p.Tiers {
			if t.Open() || q.Cmp(t.UpTo) <= 0 {
				return q.Mul(t.Unit)
			}
		}
	case catalog.Graduated:
		var sum, from money.Decimal
		for _, t := range p.Tiers {
			if t.Open() || q.Cmp(t.UpTo) <= 0 {
				return sum.Add(q.Sub(from).Mul(t.Unit))
			}
			sum, from = sum.Add(t.UpTo.Sub(from).Mul(t.Unit)), t.UpTo
		}
	}
	return money.Decimal{}
}
