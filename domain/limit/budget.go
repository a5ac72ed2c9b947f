package limit

import (
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/pricing"
)

// budget judges money: what the usage of the window, of open holds and of the check comes to at the plan's prices for usage.
// Holds are quantities, and what they cost is computed from all of them together, so their order is of no importance: units
// that are included or cheap are counted once, and a hold costs what it costs in the window that it is looked at in. Fees do
// not count; they are owed whatever is used.
func (d *decision) budget(i int, part *event.LimitPart) { d.windowed(part, d.money(i)) }

func (d *decision) money(i int) measure {
	p := d.policy
	m := measure{index: i, series: make([]*series, len(p.prices)), turns: true}
	for j := range p.prices {
		m.series[j] = d.series(&p.Limits[i], p.prices[j].series, p.prices[j].Where)
	}
	m.total = total(p)
	return m
}

// total is what quantities for each price come to on top of what is used.
func total(p *Policy) func(used, more amounts) money.Decimal {
	return func(used, more amounts) (sum money.Decimal) {
		for j := range p.prices {
			sum = sum.Add(peak(&p.prices[j].Price, used[j], more[j]))
		}
		return sum.Add(more[len(more)-1])
	}
}

// peak is the most that a price can come to while any part of more is used on top of used. Only a volume price can come to
// less for more units: then the most is just before a cheaper tier.
func peak(p *catalog.Price, used, more money.Decimal) money.Decimal {
	all := used.Add(more)
	most := pricing.Amount(p, all)
	if p.Model != catalog.Volume || more.Sign() == 0 {
		return most
	}
	most = most.Max(pricing.Amount(p, used))
	for _, t := range p.Tiers {
		if top := t.UpTo.Add(p.Included); !t.Open() && top.Cmp(used) > 0 && top.Cmp(all) < 0 {
			most = most.Max(pricing.Amount(p, top))
		}
	}
	return most
}
