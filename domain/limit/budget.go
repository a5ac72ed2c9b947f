package limit

import (
	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/pricing"
)

// budget judges money: what the window's usage comes to at the plan's prices for usage, and what the check would add to it.
// While no other check holds anything, its usage comes next as far as is known, and it is let pass by what it adds then.
// Otherwise the usage of the others may come before it and use up what is included or cheap; then it is the most that it can
// add. That is also what it holds, since others may be let pass before its usage comes. Fees do not count; they are owed
// whatever is used.
func (d *decision) budget(l *Limit, part *event.LimitPart) {
	period := l.Window.Period
	all := make([]*series, len(d.policy.prices))
	for i := range d.policy.prices {
		all[i] = d.account.series[d.policy.prices[i].series]
	}
	d.windowed(l, part, measure{
		period:    period,
		series:    all,
		estimated: true,
		used: func(w calendar.Window) (spent money.Decimal) {
			for i := range d.policy.prices {
				p := &d.policy.prices[i]
				spent = spent.Add(pricing.Amount(&p.Price, d.sum(all[i], period, w)))
			}
			return spent
		},
		requested: func(w calendar.Window, alone bool) (money.Decimal, bool) {
			return d.cost(alone, func(i int) money.Decimal { return d.sum(all[i], period, w) })
		},
	})
}

// cost is what a check adds at the plan's prices for usage: exactly where it is alone, and else at most. used tells how much came
// before it at the price of an index. known is false where the check does not say the quantity that one of the prices is for.
func (d *decision) cost(alone bool, used func(price int) money.Decimal) (cost money.Decimal, known bool) {
	for i := range d.policy.prices {
		p := &d.policy.prices[i]
		if p.meter.EventType != string(d.ask.Type) || !matches(p.Where, d.ask.Data) {
			continue
		}
		q, ok := requested(p.meter, d.ask.Check)
		if !ok {
			return money.Decimal{}, false
		}
		cost = cost.Add(adds(&p.Price, used(i), q, alone))
	}
	return cost, true
}

// adds is what a quantity adds to the cost of what is used: exactly, while nothing can come before it, and else at most.
func adds(p *catalog.Price, before, q money.Decimal, alone bool) money.Decimal {
	var more money.Decimal
	if alone {
		more = pricing.Amount(p, before.Add(q)).Sub(pricing.Amount(p, before))
	} else {
		more = dearest(p, before, q)
	}
	return more.Max(money.Decimal{})
}

// dearest is the most that a quantity adds to what is used and to any quantity that comes in between: nothing free, all of it
// at the dearest tier still ahead, and, where a volume price rises, everything before it at the higher price.
func dearest(p *catalog.Price, used, q money.Decimal) money.Decimal {
	if p.Model != catalog.Graduated && p.Model != catalog.Volume {
		whole := *p
		whole.Included = money.Decimal{}
		return pricing.Amount(&whole, q)
	}
	reached := used.Sub(p.Included)
	var unit, rises money.Decimal
	for i, t := range p.Tiers {
		if t.Open() || t.UpTo.Cmp(reached) > 0 {
			unit = unit.Max(t.Unit)
		}
		if p.Model == catalog.Volume && !t.Open() && t.UpTo.Cmp(reached) >= 0 { // also at its end: the next unit is what rises
			rises = rises.Add(t.UpTo.Mul(p.Tiers[i+1].Unit.Sub(t.Unit).Max(money.Decimal{})))
		}
	}
	return q.Mul(unit).Add(rises)
}
