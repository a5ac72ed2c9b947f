package billing_test

import (
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// The reference computes what a tenant owes in another way than the package: it has its own calendar, which looks for
// midnights by trying, its own walk through time from one change to the next, its own rates in rational numbers, and it
// adds up events where they occur instead of asking for sums. It is slow, and uses nothing of billing, pricing or calendar.
//
// Cents agree exactly, because the grouping that rounds is part of what is promised: one amount per period, run of equal
// terms within it, and price; and what is missing to the minimum or above the cap of each run, from those rounded amounts.

// stretch is a period, and the cycle that it is a part of.
type stretch struct{ start, end, cycleStart, cycleEnd time.Time }

// entry is what is owed, or was invoiced, for a price in a period. The periods count from the first one.
type entry struct {
	period int
	price  string
}

type amounts map[entry]*big.Rat

func (a amounts) add(e entry, amount *big.Rat) {
	if a[e] == nil {
		a[e] = new(big.Rat)
	}
	a[e].Add(a[e], amount)
}

// run is a part of a period in which nothing changes that money depends on.
type run struct {
	plan       *catalog.Plan
	start, end time.Time
	used       []*big.Rat // for each price
}

// runs walks through a period from change to change.
func (a *account) runs(p stretch) (runs []run) {
	cuts := []time.Time{p.start, p.end}
	for _, s := range a.subscription.Assignments {
		cuts = append(cuts, s.EffectiveAt)
	}
	for _, c := range a.catalogs {
		cuts = append(cuts, c.At)
	}
	slices.SortFunc(cuts, time.Time.Compare)
	before := ""
	for i, from := range cuts[:len(cuts)-1] {
		to := cuts[i+1]
		if from.Before(p.start) || !from.Before(p.end) || !from.Before(to) {
			continue
		}
		assigned := a.assignedAt(from)
		plan := a.planAt(assigned.Plan, from)
		terms := fmt.Sprint(assigned.Plan, assigned.BillingAnchor.UnixNano(), plan.Currency, plan.Minimum, plan.SpendCap, plan.Prices)
		if terms != before {
			r := run{plan: plan, start: from}
			for range plan.Prices {
				r.used = append(r.used, new(big.Rat))
			}
			runs, before = append(runs, r), terms
		}
		runs[len(runs)-1].end = to
	}
	for _, u := range a.usage {
		for i := range runs {
			if r := &runs[i]; !u.at.Before(r.start) && u.at.Before(r.end) {
				for n, price := range r.plan.Prices {
					if u.matches(price.Meter, price.Where) {
						r.used[n].Add(r.used[n], rat(u.quantity))
					}
				}
			}
		}
	}
	return runs
}

// assignedAt is the last assignment that is not after t.
func (a *account) assignedAt(t time.Time) (found tenant.Assignment) {
	for _, s := range a.subscription.Assignments {
		if !s.EffectiveAt.After(t) {
			found = s
		}
	}
	return found
}

// planAt is what the newest catalog at t says, and before all catalogs the first.
func (a *account) planAt(key catalog.PlanKey, t time.Time) *catalog.Plan {
	for i := len(a.catalogs) - 1; i >= 0; i-- {
		if c := a.catalogs[i]; i == 0 || !c.At.After(t) {
			for n := range c.Catalog.Plans {
				if c.Catalog.Plans[n].Key == key {
					return &c.Catalog.Plans[n]
				}
			}
		}
	}
	panic("no such plan")
}

// owed is everything for these periods, and the fees in advance for the one after them.
func (a *account) owed(periods []stretch, next *stretch) amounts {
	owed := amounts{}
	for n, p := range periods {
		for _, r := range a.runs(p) {
			sum := new(big.Rat)
			charge := func(price string, amount *big.Rat) {
				owed.add(entry{n, price}, amount)
				sum.Add(sum, amount)
			}
			for i, price := range r.plan.Prices {
				if price.Model == catalog.Flat {
					charge(string(price.Key), r.share(p, price.Amount))
				} else {
					charge(string(price.Key), rounded(rate(price, r.used[i]), r.plan.Currency))
				}
			}
			least, most := r.share(p, r.plan.Minimum), r.share(p, r.plan.SpendCap)
			switch {
			case sum.Cmp(least) < 0:
				owed.add(entry{n, "minimum"}, new(big.Rat).Sub(least, sum))
			case r.plan.SpendCap.Sign() > 0 && sum.Cmp(most) > 0:
				owed.add(entry{n, "spend_cap"}, new(big.Rat).Sub(most, sum))
			}
		}
	}
	if next != nil {
		for _, r := range a.runs(*next) {
			for _, price := range r.plan.Prices {
				if price.Model == catalog.Flat && !price.Arrears {
					owed.add(entry{len(periods), string(price.Key)}, r.share(*next, price.Amount))
				}
			}
		}
	}
	return owed
}

func (r *run) share(p stretch, amount money.Decimal) *big.Rat {
	part := big.NewRat(r.end.UnixMicro()-r.start.UnixMicro(), p.cycleEnd.UnixMicro()-p.cycleStart.UnixMicro())
	return rounded(part.Mul(part, rat(amount)), r.plan.Currency)
}

// rate is the price of a quantity.
func rate(p catalog.Price, quantity *big.Rat) *big.Rat {
	q := new(big.Rat).Sub(quantity, rat(p.Included))
	if q.Sign() < 0 {
		return new(big.Rat)
	}
	unit := rat(p.Unit)
	switch p.Model {
	case catalog.Package:
		q.Quo(q, rat(p.Size))
		whole := new(big.Int).Quo(q.Num(), q.Denom())
		if !q.IsInt() {
			whole.Add(whole, big.NewInt(1))
		}
		q.SetInt(whole)
	case catalog.Percentage:
		unit = new(big.Rat).Quo(rat(p.Percent), big.NewRat(100, 1))
	case catalog.Volume:
		for i := len(p.Tiers) - 1; i >= 0; i-- {
			if i == len(p.Tiers)-1 || q.Cmp(rat(p.Tiers[i].UpTo)) <= 0 {
				unit = rat(p.Tiers[i].Unit)
			}
		}
	case catalog.Graduated:
		// Each tier's price is that of the one before it, and a difference for all that is above its start.
		sum, start, last := new(big.Rat), new(big.Rat), new(big.Rat)
		for _, t := range p.Tiers {
			if above := new(big.Rat).Sub(q, start); above.Sign() > 0 {
				sum.Add(sum, above.Mul(above, new(big.Rat).Sub(rat(t.Unit), last)))
			}
			start, last = rat(t.UpTo), rat(t.Unit)
		}
		return sum
	}
	return q.Mul(q, unit)
}

// rounded is half to even, in the currency's minor units.
func rounded(amount *big.Rat, currency catalog.Currency) *big.Rat {
	scale := big.NewRat(map[catalog.Currency]int64{"JPY": 1, "KWD": 1000, "USD": 100}[currency], 1)
	minor := new(big.Rat).Mul(amount, scale)
	down := new(big.Int).Div(minor.Num(), minor.Denom()) // Euclidean: the denominator is positive, so this is the floor
	rest := new(big.Rat).Sub(minor, new(big.Rat).SetInt(down))
	if c := rest.Cmp(big.NewRat(1, 2)); c > 0 || c == 0 && down.Bit(0) == 1 {
		down.Add(down, big.NewInt(1))
	}
	return new(big.Rat).Quo(new(big.Rat).SetInt(down), scale)
}

func rat(d money.Decimal) *big.Rat {
	r, ok := new(big.Rat).SetString(d.String())
	if !ok {
		panic(d.String())
	}
	return r
}

// stretchFrom is the period that starts at an instant.
func (a *account) stretchFrom(start time.Time) stretch {
	anchor := a.assignedAt(start).BillingAnchor
	p := stretch{start: start}
	year, month, _ := start.In(a.zone).Date()
	for n := -2; ; n++ {
		at := midnight(a.zone, year, month+time.Month(n), anchor.In(a.zone).Day())
		if at.After(start) {
			p.end, p.cycleEnd = at, at
			break
		}
		p.cycleStart = at
	}
	for i := len(a.subscription.Assignments) - 1; i >= 0; i-- { // the first one that counts is the last that is found
		if s := a.subscription.Assignments[i]; s.EffectiveAt.After(start) && s.EffectiveAt.Before(p.cycleEnd) && !s.BillingAnchor.Equal(anchor) {
			p.end = s.EffectiveAt
		}
	}
	if !a.closed.IsZero() && a.closed.Before(p.end) {
		p.end = a.closed
	}
	return p
}

// begun are the periods from the start of the tenant until the first one that was invoiced.
func (a *account) begun(first time.Time) (periods []stretch) {
	for start := a.subscription.Assignments[0].EffectiveAt; start.Before(first); {
		p := a.stretchFrom(start)
		if first.Before(p.end) {
			p.end = first
		}
		periods, start = append(periods, p), p.end
	}
	return periods
}

var midnights = map[string]time.Time{}

// midnight tries every quarter of an hour until the zone's clock reads the midnight of the day, or of the month's last, or
// more than that.
func midnight(zone *time.Location, year int, month time.Month, day int) time.Time {
	label := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	if wanted := time.Date(year, month, 1, 0, 0, 0, 0, time.UTC).Month(); label.Month() != wanted {
		label = label.AddDate(0, 0, -label.Day())
	}
	name := fmt.Sprint(zone, label.Unix())
	if at, ok := midnights[name]; ok {
		return at
	}
	at := label.Add(-16 * time.Hour)
	for {
		_, offset := at.In(zone).Zone()
		if !at.Add(time.Duration(offset) * time.Second).Before(label) {
			midnights[name] = at
			return at
		}
		at = at.Add(15 * time.Minute)
	}
}
