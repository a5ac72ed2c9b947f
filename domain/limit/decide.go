package limit

import (
	"iter"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// How long a hold is kept.
const (
	DefaultTTL = 15 * time.Minute // where neither the check nor the limit says
	MinTTL     = time.Second
	MaxTTL     = 7 * 24 * time.Hour
)

// Ask is a check with what it wants to be kept.
type Ask struct {
	event.Check
	NoHold bool          // decide and record, keep nothing
	TTL    time.Duration // of the hold; 0: as the limits say
}

// Answer is what a check is told.
type Answer struct {
	event.LimitDecided
	// Replayed: the check was allowed before and its hold is open, or its usage is recorded. Nothing is taken again.
	Replayed bool
	// Record: the decision is new and has to be appended before anybody is told.
	Record bool
	// Hold is the open hold of a replayed answer.
	Hold *Hold
}

// Decide answers a check. All limits that apply are decided together: all pass and everything is taken, or nothing is. The
// account is left as it is; Propose the decision to make it count.
//
// An open hold of the same check is the check's own: asking again for the same renews it, for more tries to raise it, for
// less lowers it. What is asked again is not counted again by sliding limits, and never needs more room than it adds; but a budget
// decides it anew where the hold is larger than the room there is.
func (a *Account) Decide(p *Policy, ask Ask, now time.Time) Answer {
	at := a.advance(now)
	own := a.open(Source{ask.Type, ask.Source}, at)
	d := &decision{account: a, policy: p, ask: ask, at: at, own: own}
	fingerprint := ask.Fingerprint()
	if own != nil && own.Fingerprint == fingerprint && d.whole() && p.Status == tenant.Active {
		return d.renew()
	}
	e := event.LimitDecided{
		Identity: ask.Identity, Quantity: ask.Quantity, DecidedAt: at.Time(), Allowed: true, PlanVersion: p.PlanVersion, Fingerprint: fingerprint,
		Parts: make([]event.LimitPart, 0, len(p.Limits)),
	}
	var limits [16]*Limit
	asked := limits[:0]
	for i := range p.Limits {
		l := &p.Limits[i]
		if !p.applies(l, ask.Type) {
			continue
		}
		part := d.judge(l)
		if part.Denied {
			e.Allowed = false
			d.lookAhead(&part)
		}
		e.Parts, asked = append(e.Parts, part), append(asked, l)
	}
	d.settle(&e, asked)
	return Answer{LimitDecided: e, Record: true}
}

// Recorded answers a check whose usage is on the log already: it was allowed, and there is nothing left to hold.
func (a *Account) Recorded(p *Policy, ask Ask, now time.Time) Answer {
	d := &decision{account: a, policy: p, ask: ask, at: a.advance(now)}
	return Answer{LimitDecided: d.view(), Replayed: true}
}

// decision is one check on its way through the limits.
type decision struct {
	account *Account
	policy  *Policy
	ask     Ask
	at      Tick
	own     *Hold // the check's open hold
}

// whole reports whether every part of the check's hold is open.
func (d *decision) whole() bool {
	for i := range d.own.Parts {
		if e := d.own.Parts[i].ExpiresAt; !e.IsZero() && TickOf(e) <= d.at {
			return false
		}
	}
	return true
}

// ttl is how long a part of the hold lasts.
func (d *decision) ttl(l catalog.Duration) time.Duration {
	switch {
	case d.ask.TTL > 0:
		return d.ask.TTL
	case l.Value() > 0:
		return l.Value()
	default:
		return DefaultTTL
	}
}

// judge asks one limit.
func (d *decision) judge(l *Limit) event.LimitPart {
	part := event.LimitPart{Limit: string(l.Key), Kind: l.kind, Max: l.Max, Overridden: l.Overridden}
	switch l.kind {
	case event.RateLimit:
		d.rate(l, &part)
	case event.QuotaLimit:
		d.quota(l, &part)
	case event.ConcurrencyLimit:
		d.concurrency(l, &part)
	case event.MaxLimit:
		d.ceiling(l, &part)
	case event.AccessLimit:
		d.access(l, &part)
	case event.RetryBudgetLimit:
		d.retries(l, &part)
	case event.BudgetLimit:
		if l.Credits {
			d.credits(&part)
		} else {
			d.budget(l, &part)
		}
	case event.AbuseGuardLimit:
		d.guard(l, &part)
	}
	return part
}

// lookAhead corrects when a limit that denies will let the check pass, where the policy changes before that: what holds then
// decides.
func (d *decision) lookAhead(part *event.LimitPart) {
	if d.policy.Until.IsZero() || !part.ResetAt.IsZero() && part.ResetAt.Before(d.policy.Until) {
		return
	}
	then := &decision{account: d.account, policy: d.policy.next(), ask: d.ask, at: TickOf(d.policy.Until), own: d.own}
	if d.own != nil && TickOf(d.own.KeepUntil) <= then.at {
		then.own = nil
	}
	part.ResetAt = d.policy.Until
	if l := then.policy.find(part.Limit); l != nil && then.policy.applies(l, d.ask.Type) && !d.account.Misses(then.policy, then.at.Time()) {
		if next := then.judge(l); next.Denied {
			then.lookAhead(&next)
			part.ResetAt = next.ResetAt
		}
	}
}

// settle ends a decision: what is taken, held and counted depends on whether all limits pass.
func (d *decision) settle(e *event.LimitDecided, limits []*Limit) {
	if !e.Allowed {
		e.Data = d.ask.Data
	}
	keep := e.Allowed && !d.ask.NoHold && len(e.Parts) > 0
	until := d.at.after(d.ttl(catalog.Duration{}))
	if d.own != nil {
		until = max(until, TickOf(d.own.KeepUntil))
	}
	for i := range e.Parts {
		part, l := &e.Parts[i], limits[i]
		switch part.Kind {
		case event.RateLimit, event.RetryBudgetLimit:
			part.Taken = e.Allowed && d.own == nil
			if part.Taken {
				d.replenished(l, part)
			}
		case event.QuotaLimit, event.ConcurrencyLimit, event.BudgetLimit:
			if keep {
				ends := d.at.after(d.ttl(l.HoldTTL))
				if d.own != nil { // asking for more or less does not end it earlier
					if before := d.own.expires(keyOf(part)); !before.IsZero() {
						ends = max(ends, TickOf(before))
					}
				}
				part.ExpiresAt = ends.Time()
				until = max(until, ends)
			}
			if e.Allowed {
				d.replenished(l, part)
			}
		case event.AbuseGuardLimit:
			// What is held goes on during a cooldown, and counts only when it asks for more than it gets.
			part.Taken = d.account.state.Guards[keyOf(part)].Until <= d.at && (d.own == nil || !e.Allowed)
			if part.Taken && !e.Allowed {
				d.strike(l, part)
			}
		}
	}
	if keep {
		e.Keeps, e.KeepUntil = true, until.Time()
	}
}

// renew answers a check that asks for exactly what it holds. It moves the ends of the hold ahead, but writes so only when
// that makes a difference: a client that asks twice within a moment has one decision.
func (d *decision) renew() Answer {
	e := d.view()
	moved := false
	until := TickOf(d.own.KeepUntil)
	move := func(ends time.Time, ttl time.Duration) Tick {
		next := max(TickOf(ends), d.at.after(ttl))
		moved = moved || next > TickOf(ends).after(min(time.Second, ttl/10))
		return next
	}
	for i := range e.Parts {
		if part := &e.Parts[i]; !part.ExpiresAt.IsZero() {
			var ttl catalog.Duration
			if l := d.policy.find(part.Limit); l != nil {
				ttl = l.HoldTTL
			}
			ends := move(part.ExpiresAt, d.ttl(ttl))
			part.ExpiresAt = ends.Time()
			until = max(until, ends)
		}
	}
	until = max(until, move(d.own.KeepUntil, d.ttl(catalog.Duration{})))
	if d.ask.NoHold || !moved {
		e.Keeps, e.KeepUntil = true, d.own.KeepUntil
		for i := range e.Parts {
			e.Parts[i].ExpiresAt = d.own.expires(keyOf(&e.Parts[i]))
		}
		return Answer{LimitDecided: e, Replayed: true, Hold: d.own}
	}
	e.Keeps, e.KeepUntil = true, until.Time()
	return Answer{LimitDecided: e, Replayed: true, Record: true, Hold: d.own}
}

// expires is when the hold's part of a limit ends; zero where it has none.
func (h *Hold) expires(limit limitKey) time.Time {
	for i := range h.Parts {
		if keyOf(&h.Parts[i]) == limit {
			return h.Parts[i].ExpiresAt
		}
	}
	return time.Time{}
}

// soft reports whether the hold went over a soft limit.
func (h *Hold) soft(limit limitKey) bool {
	return slices.ContainsFunc(h.Parts, func(p event.LimitPart) bool { return keyOf(&p) == limit && p.Soft })
}

// view is how the limits stand for a check that was allowed before. Parts of its hold keep what they hold.
func (d *decision) view() event.LimitDecided {
	e := event.LimitDecided{
		Identity: d.ask.Identity, Quantity: d.ask.Quantity, DecidedAt: d.at.Time(), Allowed: true, PlanVersion: d.policy.PlanVersion,
		Fingerprint: d.ask.Fingerprint(),
	}
	for i := range d.policy.Limits {
		l := &d.policy.Limits[i]
		if !d.policy.applies(l, d.ask.Type) {
			continue
		}
		part := d.judge(l)
		part.Denied, part.Soft, part.Taken = false, false, false
		part.Requested, part.ResetAt = money.Decimal{}, time.Time{}
		if d.own != nil {
			part.Requested, part.ExpiresAt = d.own.part(keyOf(&part), d.at), d.own.expires(keyOf(&part))
			part.Soft = d.own.soft(keyOf(&part))
		}
		d.replenished(l, &part)
		e.Parts = append(e.Parts, part)
	}
	if d.own == nil {
		return e
	}
	for _, part := range d.own.Parts { // limits that are gone from the plan go on being held
		gone := !slices.ContainsFunc(e.Parts, func(p event.LimitPart) bool { return keyOf(&p) == keyOf(&part) })
		if gone && !part.ExpiresAt.IsZero() {
			part.Taken = false
			e.Parts = append(e.Parts, part)
		}
	}
	return e
}

// LimitState is how one limit is at an instant, whatever is asked of it.
type LimitState struct {
	event.LimitPart
	Limit *Limit
}

// View tells how every limit of the policy stands.
func (a *Account) View(p *Policy, now time.Time) []LimitState {
	at := a.advance(now)
	all := make([]LimitState, 0, len(p.Limits))
	for i := range p.Limits {
		l := &p.Limits[i]
		d := &decision{account: a, policy: p, at: at}
		part := d.judge(l)
		part.Denied, part.Soft, part.Requested = false, false, money.Decimal{}
		if l.kind != event.AbuseGuardLimit {
			part.ResetAt = time.Time{}
			d.replenished(l, &part)
		}
		all = append(all, LimitState{part, l})
	}
	return all
}

// others is what other checks hold of a limit.
func (d *decision) others(limit limitKey) money.Decimal {
	of := d.account.pools[limit]
	if of == nil {
		return money.Decimal{}
	}
	sum := of.sum
	of.leases.Ascend(func(l lease) bool { // only of an instant that has not come are there any that end before it
		if l.ends > d.at {
			return false
		}
		sum = sum.Sub(l.amount)
		return true
	})
	if d.own == nil {
		return sum
	}
	return sum.Sub(d.own.part(limit, d.at))
}

// has reports whether the check's own hold is open at an instant and has no less of a limit than this: then it asks for
// nothing more.
func (d *decision) has(limit limitKey, q money.Decimal, at Tick) bool {
	return d.own != nil && TickOf(d.own.KeepUntil) > at && q.Cmp(d.own.part(limit, at)) <= 0
}

// hasWithin is like has, where a hold is of the most that a check can come to. Such a hold may be larger than the room there was
// for it, as a check that is alone passes by less: then it shows nothing.
func (d *decision) hasWithin(room money.Decimal, limit limitKey, q money.Decimal, at Tick) bool {
	return d.has(limit, q, at) && d.own.part(limit, at).Cmp(room) <= 0
}

// alone reports whether no other check has a lease.
func (d *decision) alone(limit limitKey) bool {
	for range d.leases(limit) {
		return false
	}
	return true
}

// leases are those of other checks, in the order in which they end.
func (d *decision) leases(limit limitKey) iter.Seq[lease] {
	return func(yield func(lease) bool) {
		of := d.account.pools[limit]
		if of == nil {
			return
		}
		of.leases.AscendGreaterOrEqual(lease{ends: d.at + 1}, func(l lease) bool {
			return d.own != nil && l.source == d.own.source() || yield(l)
		})
	}
}

func (d *decision) concurrency(l *Limit, part *event.LimitPart) {
	one := money.Int(1)
	part.Held, part.Requested = d.others(keyOf(part)), one
	if part.Held.Add(one).Cmp(l.Max) <= 0 || d.has(keyOf(part), one, d.at) {
		return
	}
	part.Denied = true
	if l.Max.Sign() <= 0 {
		return
	}
	excess := part.Held.Add(one).Sub(l.Max)
	for next := range d.leases(keyOf(part)) {
		excess = excess.Sub(next.amount)
		if excess.Sign() <= 0 {
			part.ResetAt = next.ends.Time()
			return
		}
	}
}

func (d *decision) ceiling(l *Limit, part *event.LimitPart) {
	q, ok := d.ask.Quantity, true
	if l.Field != "" {
		q, ok = d.ask.Data.Get(l.Field).Decimal()
	}
	if ok {
		part.Requested = q
		part.Denied = q.Cmp(l.Max) > 0
		return
	}
	v := d.ask.Data.Get(l.Field)
	part.Denied = v.Kind != event.Absent && v.Kind != event.Null // whatever it is, nobody knows that it is small enough
}

func (d *decision) access(l *Limit, part *event.LimitPart) {
	v := d.ask.Data.Get(l.Field)
	for _, allowed := range l.Values {
		if v.Kind != event.Absent && v.Kind != event.Null && v.String() == allowed {
			return
		}
	}
	part.Denied = true
}

// replenished sets when a limit will be as good as new after an allowed check.
func (d *decision) replenished(l *Limit, part *event.LimitPart) {
	slide := d.account.state.Slides[keyOf(part)]
	window := l.length()
	set := func(t Tick) {
		if t > 0 {
			part.ResetAt = t.Time()
		}
	}
	switch part.Kind {
	case event.RateLimit:
		if part.Taken {
			set(d.at.after(window))
		} else {
			set(slide.Taken.empty(d.at, window))
		}
	case event.RetryBudgetLimit:
		if part.Taken && part.Requested.Sign() > 0 {
			set(d.at.after(window))
		} else {
			set(slide.Taken.empty(d.at, window))
		}
	case event.QuotaLimit, event.BudgetLimit:
		part.ResetAt = part.WindowEnd
	case event.ConcurrencyLimit:
		last := Tick(0)
		if !part.ExpiresAt.IsZero() {
			last = TickOf(part.ExpiresAt)
		}
		if of := d.account.pools[keyOf(part)]; of != nil {
			if l, ok := of.leases.Max(); ok {
				last = max(last, l.ends)
			}
		}
		set(last)
	}
}
