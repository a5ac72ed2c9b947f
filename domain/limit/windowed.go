package limit

import (
	"fmt"
	"iter"
	"time"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// measure is what a limit that counts within windows looks at.
type measure struct {
	index  int // of the limit
	series []*series
	// total is what amounts come to on top of what is used: the most that they can, while they may be used in any order and in part.
	total func(used, more amounts) money.Decimal
	// turns: what is held may come to more in the next window than in this one.
	turns bool
}

func (d *decision) quota(i int, part *event.LimitPart) {
	l := &d.policy.Limits[i]
	d.windowed(part, measure{
		index: i, series: []*series{d.series(l, Series{Meter: l.Meter}, nil)},
		total: func(used, more amounts) money.Decimal { return used[0].Add(more[0]) },
	})
}

// series is what a limit looks at, at the level of the check.
func (d *decision) series(l *Limit, of Series, where map[string]string) *series {
	n, _ := narrowed(of, where, l, d.ask.Data) // Policy.Check refuses a check without the fields
	s := d.account.series[n.Series]
	if s == nil {
		panic(fmt.Sprintf("limit: the account does not add up %s %q", n.Meter, n.Series.Where)) // Misses and Missing say so before
	}
	s.asked = d.account.reached
	return s
}

// sums are those of one window. Only the window of now is worth remembering.
func (d *decision) sums(m measure, w calendar.Window) amounts {
	sums := make(amounts, d.policy.size(&d.policy.Limits[m.index]))
	window := d.policy.Limits[m.index].Window
	current := w == d.windowAt(&d.policy.Limits[m.index], d.at)
	for i, s := range m.series {
		if current {
			sums[i] = s.used(window, w)
		} else {
			sums[i] = s.sum(window, w)
		}
	}
	return sums
}

// forever is later than any usage.
var forever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// windowAt is the window of a limit that contains an instant. A rolling window begins a whole length before the bucket of the
// instant, so a bucket counts until all of it has left, and has no end: usage that is ahead of the clock counts at once.
func (d *decision) windowAt(l *Limit, at Tick) calendar.Window {
	switch {
	case l.Rolling:
		start := at.after(-l.length()).Time().Unix()
		return calendar.Window{Start: time.Unix(floor(start, QuarterSeconds), 0).UTC(), End: forever}
	case at == d.at:
		return d.account.window(d.policy, l.Window.Period, at)
	default:
		return d.policy.Calendar.Window(l.Window.Period, at.Time())
	}
}

// windowed judges a sum within a window. A check that would take something back makes no room for others: it takes nothing.
func (d *decision) windowed(part *event.LimitPart, m measure) {
	l := d.limit(m.index)
	w := d.windowAt(l, d.at)
	used, held, takes := d.sums(m, w), d.others(m.index), d.policy.takes(l, d.ask.Check)
	nothing := make(amounts, len(used))
	part.WindowStart, part.WindowEnd = w.Start, w.End
	if l.Rolling {
		part.WindowStart, part.WindowEnd = d.at.after(-l.length()).Time(), d.at.Time()
	}
	part.Used = m.total(used, nothing)
	before := m.total(used, held)
	part.Held = before.Sub(part.Used)
	part.Requested = m.total(used, held.plus(takes)).Sub(before)
	switch {
	case d.fits(m, w, held, takes, d.at):
	case l.Soft:
		part.Soft = true
	case d.probing:
		part.Denied = true
	default:
		part.Denied, part.ResetAt = true, d.whenFits(m, w, held, takes).Time()
	}
}

// fits reports whether a check fits at an instant beside what other checks hold, or makes nothing worse: what it asks for is no
// more than it holds.
func (d *decision) fits(m measure, w calendar.Window, held, takes amounts, at Tick) bool {
	l := d.limit(m.index)
	within := func(w calendar.Window) bool {
		used, all := d.sums(m, w), held.plus(takes)
		total := m.total(used, all)
		if total.Cmp(l.Max) <= 0 {
			return true
		}
		own := d.owns(m.index, at)
		return own != nil && total.Cmp(m.total(used, held.plus(own))) <= 0
	}
	if !within(w) {
		return false
	}
	// Its usage may come in the next window, where dearer units are ahead again.
	return !m.turns || d.ask.NoHold || d.holdEnd(l, at) <= TickOf(w.End) || within(d.windowAt(l, TickOf(w.End)))
}

// holdEnd is when the check's hold would end for a limit.
func (d *decision) holdEnd(l *Limit, at Tick) Tick {
	ends := at.after(d.ttl(l.HoldTTL))
	if d.own != nil {
		ends = max(ends, d.own.ends(l))
	}
	return ends
}

// whenFits is the first instant at which the check fits if nothing else happens: leases of other checks end, and windows
// turn. Between those instants nothing changes.
func (d *decision) whenFits(m measure, w calendar.Window, held, takes amounts) Tick {
	if l := d.limit(m.index); l.kind == event.QuotaLimit && d.own == nil && takes[0].Cmp(l.Max) > 0 {
		return never // also where nothing is used
	}
	leases, stop := iter.Pull(d.leases(m.index))
	defer stop()
	next, open := leases()
	for turn := d.turn(m, w); ; {
		at := turn
		if open {
			at = min(at, next.ends)
		}
		if at == never {
			return never
		}
		for ; open && next.ends <= at; next, open = leases() {
			held.sub(next.takes)
		}
		if at == turn {
			w = d.windowAt(&d.policy.Limits[m.index], at)
			turn = d.turn(m, w)
		}
		if d.fits(m, w, held, takes, at) {
			return at
		}
	}
}

// turn is when the first window after w begins in which another quantity is used. That changes what a check costs even
// where nothing has been spent; from one window without usage to the next, nothing changes.
func (d *decision) turn(m measure, w calendar.Window) Tick {
	l, first := &d.policy.Limits[m.index], never
	for _, s := range m.series {
		first = min(first, s.next(l.Window, w.Start))
	}
	switch {
	case first == never:
		return never
	case l.Rolling: // the first bucket that counts has left
		left := time.Unix(first.Time().Unix()+QuarterSeconds, 0).Add(l.length())
		return max(TickOf(left), TickOf(w.Start.Add(l.length()))+1)
	case first < TickOf(w.End):
		return TickOf(w.End)
	default:
		return TickOf(d.policy.Calendar.Window(l.Window.Period, first.Time()).Start)
	}
}

// ownPart is what the check's hold takes of a limit beside what others hold, in the limit's unit.
func (d *decision) ownPart(i int) money.Decimal {
	own, l := d.owns(i, d.at), &d.policy.Limits[i]
	switch {
	case own == nil:
		return money.Decimal{}
	case l.kind != event.BudgetLimit:
		return own[0]
	case l.Credits:
		return d.costs(d.at, d.others(i).plus(own)).Sub(d.costs(d.at, d.others(i)))
	}
	m := d.money(i)
	used, held := d.sums(m, d.windowAt(l, d.at)), d.others(i)
	return m.total(used, held.plus(own)).Sub(m.total(used, held))
}
