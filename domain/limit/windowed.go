package limit

import (
	"iter"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// measure is what a limit that counts in windows of the calendar looks at.
type measure struct {
	period catalog.Period
	series []*series
	used   func(calendar.Window) money.Decimal
	// estimated: requested depends on whether no other check holds anything at that time.
	estimated bool
	requested func(w calendar.Window, alone bool) (q money.Decimal, known bool)
}

func (d *decision) quota(l *Limit, part *event.LimitPart) {
	of := d.account.series[Series{l.Meter, ""}]
	q, known := requested(l.meter, d.ask.Check)
	d.windowed(l, part, measure{
		period:    l.Window.Period,
		series:    []*series{of},
		used:      func(w calendar.Window) money.Decimal { return d.sum(of, l.Window.Period, w) },
		requested: func(calendar.Window, bool) (money.Decimal, bool) { return q, known },
	})
}

// sum is that of one window of a series. Only the window of now is worth remembering.
func (d *decision) sum(s *series, period catalog.Period, w calendar.Window) money.Decimal {
	if w.Contains(d.at.Time()) {
		return s.used(period, w)
	}
	return s.sum(period, w)
}

// windowed judges a sum within a window of the calendar. Where it is not known how much the check will add, it passes as
// long as there is something left. A check that would take back something makes no room for others: it requests nothing.
func (d *decision) windowed(l *Limit, part *event.LimitPart, m measure) {
	w := d.account.window(d.policy, m.period, d.at)
	part.WindowStart, part.WindowEnd = w.Start, w.End
	part.Used, part.Held = m.used(w), d.others(keyOf(part))
	alone, taken := d.alone(keyOf(part)), part.Used.Add(part.Held)
	switch {
	case d.passes(l, m, w, taken, alone, d.at):
	case l.Soft:
		part.Soft = true
	default:
		q, _ := m.requested(w, alone)
		part.Denied, part.Requested = true, q.Max(money.Decimal{})
		part.ResetAt = d.whenFits(l, part, m).Time()
		return
	}
	// Others may come before its usage and take what is included or cheap: then it costs more, and that is what it holds.
	most, _ := m.requested(w, false)
	part.Requested = most.Max(money.Decimal{})
}

// passes reports whether the check fits beside what is taken, or asks for no more than it holds.
func (d *decision) passes(l *Limit, m measure, w calendar.Window, taken money.Decimal, alone bool, at Tick) bool {
	q, known := m.requested(w, alone)
	switch q = q.Max(money.Decimal{}); {
	case fits(taken, q, known, l.Max):
		return true
	case !known:
		return false
	case !m.estimated:
		return d.has(l.key(), q, at)
	}
	most, _ := m.requested(w, false)
	return d.hasWithin(l.Max.Sub(taken), l.key(), most.Max(money.Decimal{}), at)
}

func fits(taken, requested money.Decimal, known bool, limit money.Decimal) bool {
	if !known {
		return taken.Cmp(limit) < 0
	}
	return taken.Add(requested).Cmp(limit) <= 0
}

// whenFits is the first instant at which the check fits if nothing else happens: leases of other checks end, and windows
// turn. Between those instants nothing changes.
func (d *decision) whenFits(l *Limit, part *event.LimitPart, m measure) Tick {
	w, used, held := calendar.Window{Start: part.WindowStart, End: part.WindowEnd}, part.Used, part.Held
	leases, stop := iter.Pull(d.leases(keyOf(part)))
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
			held = held.Sub(next.amount)
		}
		if at == turn {
			w = d.policy.Calendar.Window(m.period, at.Time())
			used, turn = m.used(w), d.turn(m, w)
		}
		if d.passes(l, m, w, used.Add(held), !open, at) {
			return at
		}
	}
}

// turn is when the first window after w begins in which another quantity is used. That changes what a check costs even
// where nothing has been spent; from one window without usage to the next, nothing changes.
func (d *decision) turn(m measure, w calendar.Window) Tick {
	first := never
	for _, s := range m.series {
		first = min(first, s.next(m.period, w.Start))
	}
	switch {
	case first == never:
		return never
	case first < TickOf(w.End):
		return TickOf(w.End)
	default:
		return TickOf(d.policy.Calendar.Window(m.period, first.Time()).Start)
	}
}
