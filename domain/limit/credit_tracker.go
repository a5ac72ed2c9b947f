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
	"github.com/tollgate-io/tollgate/domain/pricing"
)

// CreditTracker keeps a tenant's credit balance current: its billing as of when the tracker was made, and the usage since the
// last invoice, to which facts are added. When anything else about billing changes, a new tracker is needed.
type CreditTracker struct {
	book     *billing.Book
	revision eventstore.Revision // of the billing stream
	of       *Policy
	open     []billing.Period
	measures []billing.Measure
	sums     []billing.Sum
	at       int64 // offset of the last event in the sums
	changed  bool

	// The last answer, and from when until when it is right.
	asked   Tick
	until   Tick // exclusive
	balance billing.CreditBalance
	known   bool
}

// NewCreditTracker makes a tracker from what was used in the open periods, up to an offset of the log; the sums are those of
// book.OpenMeasures(open).
func NewCreditTracker(of *Policy, book *billing.Book, revision eventstore.Revision, open []billing.Period, sums []billing.Sum, at int64) *CreditTracker {
	return &CreditTracker{of: of, book: book, revision: revision, open: open, measures: book.OpenMeasures(open), sums: slices.Clone(sums), at: at}
}

// At is the offset of the last event that the tracker counts.
func (c *CreditTracker) At() int64 { return c.at }

// outdated reports whether a new tracker is needed at an instant.
func (c *CreditTracker) outdated(policy *Policy, now time.Time) bool {
	return c.changed || c.of != policy || len(c.open) > 0 && !c.book.Ended(c.ends()) && !now.Before(c.ends())
}

// ends is the end of the open period.
func (c *CreditTracker) ends() time.Time { return c.open[len(c.open)-1].End }

// add counts the fact at an offset of the log.
func (c *CreditTracker) add(offset int64, f Fact) {
	if offset <= c.at {
		return
	}
	for i := range c.measures {
		if q, counts := Measured(&c.measures[i], f); counts {
			c.sums[i].Quantity = c.sums[i].Quantity.Add(q)
			c.known = false
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

// balanceAt is the balance at an instant if nothing else happens until then. Where what is owed is unknown, there is no credit.
func (c *CreditTracker) balanceAt(at Tick) billing.CreditBalance {
	if c.known && c.asked <= at && at < c.until {
		return c.balance
	}
	now, open := at.Time(), c.open
	if len(open) > 0 && !now.Before(c.ends()) {
		open = c.book.Open(now)
	}
	balance, err := c.book.CreditBalance(open, now, billing.SumsOf(c.measures, c.sums, billing.MissingIsZero))
	if err != nil {
		balance = billing.CreditBalance{}
	}
	c.asked, c.balance, c.known = at, balance, true
	// Until the next of these, nothing changes by itself.
	c.until = never
	change := func(t time.Time) {
		if t.After(now) {
			c.until = min(c.until, TickOf(t))
		}
	}
	for i := range c.book.Grants {
		change(c.book.Grants[i].EffectiveAt)
		change(c.book.Grants[i].ExpiresAt)
	}
	for i := range c.book.Terms {
		change(c.book.Terms[i].From)
	}
	if len(open) > 0 {
		change(open[len(open)-1].End)
	}
	return balance
}

// endAfter is when the billing period of an instant ends; ok is false where no other one follows it.
func (c *CreditTracker) endAfter(at Tick) (end Tick, ok bool) {
	if len(c.open) == 0 {
		return 0, false
	}
	ends := c.ends()
	for !c.book.Ended(ends) {
		if TickOf(ends) > at {
			return TickOf(ends), true
		}
		ends = c.book.Next(ends).End
	}
	return 0, false
}

// used is what was used by a price in the part of the period that contains an instant.
func (c *CreditTracker) used(price *catalog.Price, at Tick) (q money.Decimal) {
	now, end := at.Time(), time.Time{}
	for i := range c.measures {
		m := &c.measures[i]
		if m.Meter == price.Meter && len(m.Except) == 0 && maps.Equal(m.Where, price.Where) && !now.Before(m.From) && now.Before(m.To) && m.To.After(end) {
			q, end = c.sums[i].Quantity, m.To // the longest one: others end where a grant does
		}
	}
	return q
}

// costs is what amounts will draw on the credit at an instant, at most. The spend cap of the plan is left out: beyond it usage
// costs nothing, and a check is still asked for its price.
func (d *decision) costs(at Tick, takes amounts) (cost money.Decimal) {
	for i := range d.policy.prices {
		if p := &d.policy.prices[i].Price; takes[i].Sign() > 0 {
			used := d.account.credit.used(p, at)
			cost = cost.Add(peak(p, used, takes[i]).Sub(pricing.Amount(p, used)))
		}
	}
	return cost.Add(takes[len(takes)-1])
}

// credits judges what a check will cost against what the tenant's grants leave. Max is what they pay for since the last
// invoice, used or not.
func (d *decision) credits(i int, part *event.LimitPart) {
	l := &d.policy.Limits[i]
	balance := d.account.credit.balanceAt(d.at)
	held, takes := d.others(i), d.policy.takes(l, d.ask.Check)
	part.Used, part.Max, part.Held = balance.Drawn, balance.Drawn.Add(balance.Available), d.costs(d.at, held)
	part.Requested = d.costs(d.at, held.plus(takes)).Sub(part.Held)
	if d.covers(i, held, takes, d.at) {
		return
	}
	if part.Denied = true; !d.probing {
		part.ResetAt = d.whenCovered(i, held, takes).Time()
	}
}

// covers reports whether grants pay at an instant for what is held and requested, or the check asks for no more than it holds.
func (d *decision) covers(i int, held, takes amounts, at Tick) bool {
	l, credit := &d.policy.Limits[i], d.account.credit
	pays := func(at Tick) bool {
		cost := d.costs(at, held.plus(takes))
		if cost.Sign() == 0 || cost.Cmp(credit.balanceAt(at).Available) <= 0 {
			return true
		}
		own := d.owns(i, at)
		return own != nil && cost.Cmp(d.costs(at, held.plus(own))) <= 0
	}
	if !pays(at) {
		return false
	}
	// Its usage may come in the next period, where dearer units are ahead again.
	ends, open := credit.endAfter(at)
	return !open || d.ask.NoHold || d.holdEnd(l, at) <= ends || pays(ends)
}

// whenCovered is the first instant at which the check passes if nothing else happens: leases of other checks end, grants become
// effective, and in another period there are included units again. Between those instants nothing gets better.
func (d *decision) whenCovered(i int, held, takes amounts) Tick {
	changes := d.account.credit.changes(d.at)
	var ends []lease
	for l := range d.leases(i) {
		ends = append(ends, l)
		changes = append(changes, l.ends)
	}
	slices.Sort(changes)
	for _, at := range slices.Compact(changes) {
		for len(ends) > 0 && ends[0].ends <= at {
			held.sub(ends[0].takes)
			ends = ends[1:]
		}
		if d.covers(i, held, takes, at) {
			return at
		}
	}
	return never
}

// changes are the instants to come from which on there may be more credit, or usage may cost less: beyond the second boundary
// each period is like the one before.
func (c *CreditTracker) changes(after Tick) (changes []Tick) {
	for i := range c.book.Grants {
		if at := TickOf(c.book.Grants[i].EffectiveAt); at > after {
			changes = append(changes, at)
		}
	}
	if len(c.open) == 0 {
		return changes
	}
	end := c.ends()
	for range 2 {
		if at := TickOf(end); at > after && !c.book.Ended(end) {
			changes = append(changes, at)
			end = c.book.Next(end).End
		}
	}
	return changes
}
