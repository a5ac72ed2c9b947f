package limit

import (
	"maps"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Purse is the credit of a tenant and what draws on it: its billing as it stood when the purse was made, and the usage since
// the last invoice, which is kept up to date by facts. When something else about billing changes, another purse is needed.
type Purse struct {
	book     *billing.Book
	revision eventstore.Revision // of the billing stream
	of       *Policy
	open     []billing.Period
	measures []billing.Measure
	sums     []billing.Sum
	at       int64 // offset of the last event in the sums
	changed  bool

	// The last answer, and from when until when it is right.
	asked    Tick
	until    Tick // exclusive
	standing billing.Standing
	known    bool
}

// NewPurse makes a purse from what was used in the open periods, up to an offset of the log; the sums are those of
// book.OpenMeasures(open).
func NewPurse(of *Policy, book *billing.Book, revision eventstore.Revision, open []billing.Period, sums []billing.Sum, at int64) *Purse {
	return &Purse{of: of, book: book, revision: revision, open: open, measures: book.OpenMeasures(open), sums: slices.Clone(sums), at: at}
}

// At is the offset of the last event in the purse.
func (p *Purse) At() int64 { return p.at }

// outdated reports whether another purse is needed at an instant.
func (p *Purse) outdated(policy *Policy, now time.Time) bool {
	return p.changed || p.of != policy || len(p.open) > 0 && !p.book.Ended(p.ends()) && !now.Before(p.ends())
}

// ends is the end of the open period.
func (p *Purse) ends() time.Time { return p.open[len(p.open)-1].End }

// add counts a fact that stands at an offset of the log.
func (p *Purse) add(offset int64, f Fact) {
	if offset <= p.at {
		return
	}
	for i := range p.measures {
		if q, counts := Measured(&p.measures[i], f); counts {
			p.sums[i].Quantity = p.sums[i].Quantity.Add(q)
			p.known = false
		}
	}
}

// Measured is what a fact adds to a measure of billing; counts is false where it adds nothing.
func Measured(m *billing.Measure, f Fact) (q money.Decimal, counts bool) {
	if f.OccurredAt.Before(m.From) || !f.OccurredAt.Before(m.To) ||
		slices.ContainsFunc(m.Except, func(where map[string]string) bool { return matches(where, f.Data) }) {
		return q, false
	}
	return Need{Series: Series{Meter: m.Meter}, Where: m.Where}.Quantity(f)
}

// stands is how the credit stands at an instant if nothing else happens until then. Where nobody knows what is owed, there is no
// credit.
func (p *Purse) stands(at Tick) billing.Standing {
	if p.known && p.asked <= at && at < p.until {
		return p.standing
	}
	now, open := at.Time(), p.open
	if len(open) > 0 && !now.Before(p.ends()) {
		open = p.book.Open(now)
	}
	standing, err := p.book.Standing(open, now, billing.SumsOf(p.measures, p.sums, billing.ZeroElsewhere))
	if err != nil {
		standing = billing.Standing{}
	}
	p.asked, p.standing, p.known = at, standing, true
	// Until the next of these, nothing changes by itself.
	p.until = never
	change := func(t time.Time) {
		if t.After(now) {
			p.until = min(p.until, TickOf(t))
		}
	}
	for i := range p.book.Grants {
		change(p.book.Grants[i].EffectiveAt)
		change(p.book.Grants[i].ExpiresAt)
	}
	for i := range p.book.Terms {
		change(p.book.Terms[i].From)
	}
	if len(open) > 0 {
		change(open[len(open)-1].End)
	}
	return standing
}

// used is what was used by a price in the part of the period that contains an instant.
func (p *Purse) used(price *catalog.Price, at Tick) (q money.Decimal) {
	now, end := at.Time(), time.Time{}
	for i := range p.measures {
		m := &p.measures[i]
		if m.Meter == price.Meter && len(m.Except) == 0 && maps.Equal(m.Where, price.Where) && !now.Before(m.From) && now.Before(m.To) && m.To.After(end) {
			q, end = p.sums[i].Quantity, m.To // the longest one: others end where a grant does
		}
	}
	return q
}

// draws is what a check will draw on the credit at an instant. The spend cap of the plan is left out: beyond it usage costs nothing,
// and a check is still asked for its price.
func (d *decision) draws(at Tick, alone bool) (cost money.Decimal, known bool) {
	return d.cost(alone, func(i int) money.Decimal { return d.account.purse.used(&d.policy.prices[i].Price, at) })
}

// credits judges what a check will cost against what the tenant's grants leave. Max is what they pay for since the last
// invoice, used or not.
func (d *decision) credits(part *event.LimitPart) {
	limit := keyOf(part)
	s := d.account.purse.stands(d.at)
	part.Used, part.Max, part.Held = s.Drawn, s.Drawn.Add(s.Available), d.others(limit)
	if d.covers(limit, part.Held, d.alone(limit), d.at) {
		// Others may come before its usage and take what is free or cheap: then it costs more, and that is held.
		part.Requested, _ = d.draws(d.at, false)
		return
	}
	part.Requested, _ = d.draws(d.at, d.alone(limit))
	part.Denied, part.ResetAt = true, d.whenCovered(limit, part.Held).Time()
}

// covers reports whether grants pay at an instant for what is held and requested, or the check holds that much already.
func (d *decision) covers(limit limitKey, held money.Decimal, alone bool, at Tick) bool {
	q, known := d.draws(at, alone)
	available := d.account.purse.stands(at).Available
	if fits(held, q, known, available) {
		return true
	}
	most, _ := d.draws(at, false)
	return known && d.hasWithin(available.Sub(held), limit, most, at)
}

// whenCovered is the first instant at which the check passes if nothing else happens: leases of other checks end, grants become
// effective, and in another period there are included units again. Between those instants nothing gets better.
func (d *decision) whenCovered(limit limitKey, held money.Decimal) Tick {
	changes := d.account.purse.changes(d.at)
	var ends []lease
	for l := range d.leases(limit) {
		ends = append(ends, l)
		changes = append(changes, l.ends)
	}
	slices.Sort(changes)
	for _, at := range slices.Compact(changes) {
		for len(ends) > 0 && ends[0].ends <= at {
			held, ends = held.Sub(ends[0].amount), ends[1:]
		}
		if d.covers(limit, held, len(ends) == 0, at) {
			return at
		}
	}
	return never
}

// changes are the instants to come from which on there may be more credit, or usage may cost less: beyond the second boundary
// each period is like the one before.
func (p *Purse) changes(after Tick) (changes []Tick) {
	for i := range p.book.Grants {
		if at := TickOf(p.book.Grants[i].EffectiveAt); at > after {
			changes = append(changes, at)
		}
	}
	if len(p.open) == 0 {
		return changes
	}
	end := p.ends()
	for range 2 {
		if at := TickOf(end); at > after && !p.book.Ended(end) {
			changes = append(changes, at)
			end = p.book.Next(end).End
		}
	}
	return changes
}
