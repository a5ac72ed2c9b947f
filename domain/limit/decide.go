package limit

import (
	"iter"
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
	UpTo   bool          // admit the largest quantity that passes, where the whole does not
	DryRun bool          // only say what would be decided: keep nothing, count nothing, record nothing
}

// fingerprint is equal for equal asks of one identity, and hardly ever for different ones.
func (a *Ask) fingerprint() uint64 {
	if a.UpTo {
		return ^a.Fingerprint()
	}
	return a.Fingerprint()
}

// Answer is the answer to a check.
type Answer struct {
	event.LimitDecided
	// Replayed: the check was allowed before and its hold is open, or its usage is recorded. Nothing is taken again.
	Replayed bool
	// Record: the decision is new and has to be appended before it is answered.
	Record bool
	// Hold is the open hold of a replayed answer, and of one that was asked again without a hold.
	Hold *Hold
}

// HoldEnds is when the first part of what is held for the check ends; zero where nothing is.
func (a *Answer) HoldEnds() time.Time {
	if !a.Keeps && a.Hold != nil {
		return a.Hold.HoldEnds()
	}
	return a.LimitDecided.HoldEnds()
}

// Decide answers a check that Policy.Check accepts. All limits that apply are decided together: all pass and everything is
// taken, or nothing is. The account is left as it is; Propose the decision to make it count.
//
// An open hold of the same check is the check's own: asking again for the same renews it, for more tries to raise it, for
// less lowers it. What is asked again is not counted again by sliding limits, unless it is a later attempt, and it never needs
// more room than it adds.
func (a *Account) Decide(p *Policy, ask Ask, now time.Time) Answer {
	at := a.advance(now)
	ask.NoHold = ask.NoHold || ask.DryRun
	d := &decision{account: a, policy: p, ask: ask, at: at, own: a.open(Source{ask.Type, ask.Source}, at), fresh: true, fingerprint: ask.fingerprint()}
	if d.own != nil {
		attempt, _ := attemptOf(ask.Data)
		before, _ := attemptOf(d.own.Data)
		d.fresh = attempt.Cmp(before) > 0
		if d.renews() {
			return d.renew()
		}
	}
	e := d.judgeAll()
	if !e.Allowed && ask.UpTo {
		if granted := d.largest(); granted.Sign() > 0 {
			d.ask.Quantity = granted
			e = d.judgeAll()
		}
	}
	for i := range e.Parts {
		if part := &e.Parts[i]; part.Denied {
			d.lookAhead(part)
		}
	}
	d.settle(&e)
	answer := Answer{LimitDecided: e, Record: !ask.DryRun}
	if e.Allowed && ask.NoHold {
		answer.Hold = d.own
	}
	return answer
}

// Renews reports whether a check asks again for what its open hold was asked for, so that Decide renews it, whatever the policy
// looks at by now.
func (a *Account) Renews(p *Policy, ask Ask, now time.Time) bool {
	d := &decision{account: a, policy: p, ask: ask, at: a.clock(now), fingerprint: ask.fingerprint()}
	d.own = a.open(Source{ask.Type, ask.Source}, d.at)
	return d.own != nil && d.renews()
}

// Recorded answers a check whose usage is on the log already: it was allowed, and there is nothing left to hold.
func (a *Account) Recorded(p *Policy, ask Ask, now time.Time) Answer {
	d := &decision{account: a, policy: p, ask: ask, at: a.advance(now), fingerprint: ask.fingerprint()}
	return Answer{LimitDecided: d.view(), Replayed: true}
}

// decision is one check on its way through the limits.
type decision struct {
	account *Account
	policy  *Policy
	ask     Ask
	at      Tick
	own     *Hold // the check's open hold
	fresh   bool  // sliding limits count the check: it is asked for the first time, or as a later attempt
	// fingerprint is that of what was asked, also where less is granted.
	fingerprint uint64
	probing     bool // only whether it passes is of interest
	ahead       int  // policies between the one in force and this one
}

// begin is a decision about the check that nobody has judged.
func (d *decision) begin() event.LimitDecided {
	return event.LimitDecided{
		Identity: d.ask.Identity, Quantity: d.ask.Quantity, DecidedAt: d.at.Time(), Allowed: true, PlanVersion: d.policy.PlanVersion,
		Fingerprint: d.fingerprint,
		Asked:       true, Data: d.ask.Data.Only(d.policy.fields[d.ask.Type]...), Remember: d.policy.remember, Levels: d.policy.levels[d.ask.Type],
	}
}

// judgeAll asks all limits.
func (d *decision) judgeAll() event.LimitDecided {
	e := d.begin()
	for i := range d.policy.Limits {
		if l := &d.policy.Limits[i]; d.policy.applies(l, d.ask.Type) {
			part := d.judge(i)
			e.Allowed = e.Allowed && (!part.Denied || l.observes())
			if e.Parts == nil {
				e.Parts = make([]event.LimitPart, 0, len(d.policy.Limits)-i)
			}
			e.Parts = append(e.Parts, part)
		}
	}
	return e
}

// largest is the most of the quantity that all limits let pass, in units of its last decimal place; zero where they let nothing
// pass. Whatever passes at a quantity passes at a smaller one.
func (d *decision) largest() money.Decimal {
	n, scale, ok := d.ask.Quantity.Coefficient()
	if !ok {
		return money.Decimal{}
	}
	whole := d.ask.Quantity
	d.probing = true
	defer func() { d.probing = false }()
	passes := func(n int64) bool {
		d.ask.Quantity = money.Scaled(n, scale)
		return d.judgeAll().Allowed
	}
	low, high := int64(0), n // low passes or is nothing, high does not
	if !passes(1) {          // another limit denies
		high = 1
	}
	for high-low > 1 {
		if middle := low + (high-low)/2; passes(middle) {
			low = middle
		} else {
			high = middle
		}
	}
	d.ask.Quantity = whole
	return money.Scaled(low, scale)
}

// renews reports whether the check asks for exactly what it holds, of every limit.
func (d *decision) renews() bool {
	if d.own.Fingerprint != d.fingerprint || d.policy.Status != tenant.Active {
		return false
	}
	for i := range d.policy.Limits {
		if l := &d.policy.Limits[i]; l.holds() && d.policy.applies(l, d.ask.Type) && d.own.ends(l) <= d.at {
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

// limit is the limit of an index, with the maximum of the check's level where the tenant has one.
func (d *decision) limit(i int) *Limit {
	l := &d.policy.Limits[i]
	most, ok := l.own[d.level(l)]
	if !ok {
		return l
	}
	own := *l
	own.Max, own.Overridden, own.Burst = most, true, min(l.Burst, wholeOf(most))
	return &own
}

// judge asks the limit of an index.
func (d *decision) judge(i int) event.LimitPart {
	l := d.limit(i)
	part := event.LimitPart{Limit: string(l.Key), Kind: l.kind, Max: l.Max, Overridden: l.Overridden, Observed: l.observes()}
	if len(l.Per) > 0 {
		part.Per = d.ask.Data.Only(l.Per...)
		if !d.placed(l) { // it is unknown for whom it would count
			part.Denied = true
			return part
		}
	}
	switch l.kind {
	case event.RateLimit:
		d.rate(l, &part)
	case event.QuotaLimit:
		d.quota(i, &part)
	case event.ConcurrencyLimit:
		d.concurrency(i, &part)
	case event.MaxLimit:
		d.ceiling(l, &part)
	case event.AccessLimit:
		d.access(l, &part)
	case event.RetryBudgetLimit:
		d.retries(l, &part)
	case event.BudgetLimit:
		if l.Credits {
			d.credits(i, &part)
		} else {
			d.budget(i, &part)
		}
	case event.AbuseGuardLimit:
		d.guard(l, &part)
	}
	return part
}

// maxAhead bounds the changes of policy that a denial looks past.
const maxAhead = 32

// lookAhead corrects when a limit that denies will let the check pass, where the policy changes before that: what holds then
// decides.
func (d *decision) lookAhead(part *event.LimitPart) {
	if d.policy.Until.IsZero() || !part.ResetAt.IsZero() && part.ResetAt.Before(d.policy.Until) {
		return
	}
	part.ResetAt = d.policy.Until
	if d.ahead == maxAhead {
		return // later ones are looked at when the check comes back
	}
	then := &decision{account: d.account, policy: d.policy.next(), ask: d.ask, at: TickOf(d.policy.Until), own: d.own, fresh: d.fresh, ahead: d.ahead + 1}
	if d.own != nil && TickOf(d.own.KeepUntil) <= then.at {
		then.own, then.fresh = nil, true
	}
	if i := then.policy.index(part.Limit); i >= 0 && then.policy.applies(&then.policy.Limits[i], d.ask.Type) && then.placed(&then.policy.Limits[i]) && !d.account.Misses(then.policy, then.at.Time()) &&
		len(d.account.Missing(then.policy.NeedsOf(d.ask.Type, d.ask.Data))) == 0 {
		if next := then.judge(i); next.Denied {
			then.lookAhead(&next)
			part.ResetAt = next.ResetAt
		}
	}
}

// settle ends a decision: what is taken, held and counted depends on whether all limits pass.
func (d *decision) settle(e *event.LimitDecided) {
	if !e.Allowed {
		e.Data = d.ask.Data
	}
	e.Repeats = d.own != nil && !d.fresh
	_, e.Retry = attemptOf(d.ask.Data)
	keep := e.Allowed && !d.ask.NoHold
	until := d.at.after(d.ttl(catalog.Duration{}))
	if d.own != nil {
		until = max(until, TickOf(d.own.KeepUntil))
	}
	for i := range e.Parts {
		part := &e.Parts[i]
		l := d.policy.find(part.Limit)
		switch part.Kind {
		case event.RateLimit, event.RetryBudgetLimit:
			part.Taken = e.Allowed && d.fresh && !d.ask.DryRun
			if part.Taken && !part.Denied {
				d.replenished(l, part)
			}
		case event.QuotaLimit, event.ConcurrencyLimit, event.BudgetLimit:
			if keep {
				ends := d.at.after(d.ttl(l.HoldTTL))
				if d.own != nil { // asking for more or less does not end it earlier
					ends = max(ends, d.own.ends(l))
				}
				part.ExpiresAt = ends.Time()
				until = max(until, ends)
			}
			if e.Allowed && !part.Denied {
				d.replenished(l, part)
			}
		case event.AbuseGuardLimit:
			part.Taken = d.account.state.Guard.Until <= d.at && (!e.Repeats || !e.Allowed) && !d.ask.DryRun
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
	d.fresh = false
	d.ask.Quantity = d.own.Quantity // of an ask for up to so much: what was granted
	e := d.view()
	moved := false
	until := TickOf(d.own.KeepUntil)
	move := func(ends Tick, ttl time.Duration) Tick {
		next := max(ends, d.at.after(ttl))
		moved = moved || next > ends.after(min(time.Second, ttl/10))
		return next
	}
	for i := range e.Parts {
		if part := &e.Parts[i]; !part.ExpiresAt.IsZero() {
			ends := move(TickOf(part.ExpiresAt), d.ttl(d.policy.find(part.Limit).HoldTTL))
			part.ExpiresAt = ends.Time()
			until = max(until, ends)
		}
	}
	until = max(until, move(TickOf(d.own.KeepUntil), d.ttl(catalog.Duration{})))
	if d.ask.NoHold || !moved {
		e = d.view()
		e.Keeps, e.KeepUntil = true, d.own.KeepUntil
		return Answer{LimitDecided: e, Replayed: true, Hold: d.own}
	}
	e.Keeps, e.KeepUntil = true, until.Time()
	return Answer{LimitDecided: e, Replayed: true, Record: true, Hold: d.own}
}

// view is how the limits are for a check that was allowed before, and what its hold takes of them.
func (d *decision) view() event.LimitDecided {
	e := d.begin()
	e.Repeats = true
	for i := range d.policy.Limits {
		l := &d.policy.Limits[i]
		if !d.policy.applies(l, d.ask.Type) {
			continue
		}
		if !d.placed(l) { // it was asked, or used, before the limit counted by the field
			continue
		}
		part := d.judge(i)
		part.Denied, part.Taken, part.ResetAt = false, false, time.Time{}
		if d.own == nil {
			part.Requested, part.Soft = money.Decimal{}, false
		} else if ends := d.own.ends(l); l.holds() && ends > d.at {
			part.Requested, part.ExpiresAt = d.ownPart(i), ends.Time()
		} else {
			part.Requested, part.Soft = money.Decimal{}, false
		}
		d.replenished(l, &part)
		e.Parts = append(e.Parts, part)
	}
	return e
}

// LimitState is how one limit is at an instant, whatever is asked of it.
type LimitState struct {
	event.LimitPart
	Limit     *Limit
	WouldDeny int64 // checks that a limit in mode observe would have denied
}

// View is how every limit of the policy is. Of limits that count by data fields it has those that values name all fields of; the
// account must not miss the series that NeedsOf lists for them.
func (a *Account) View(p *Policy, now time.Time, values event.Data) []LimitState {
	at := a.advance(now)
	all := make([]LimitState, 0, len(p.Limits))
	for i := range p.Limits {
		l := &p.Limits[i]
		if _, ok := levelOf(l.Per, values); !ok {
			continue
		}
		d := &decision{account: a, policy: p, at: at, ask: Ask{Check: event.Check{Data: values}}}
		part := d.judge(i)
		part.Denied, part.Soft, part.Requested = false, false, money.Decimal{}
		if l.kind != event.AbuseGuardLimit {
			part.ResetAt = time.Time{}
			d.replenished(l, &part)
		}
		all = append(all, LimitState{LimitPart: part, Limit: l, WouldDeny: a.state.Observed[part.Limit]})
	}
	return all
}

// others is what other checks hold of the limit of an index, at the level of the check.
func (d *decision) others(i int) amounts {
	l := &d.policy.Limits[i]
	sum, leases := d.account.under(d.policy).at(i, d.level(l), min(d.at, d.account.reached))
	leases.Ascend(func(l lease) bool { // only of an instant that has not come are there any that end before it
		if l.ends > d.at {
			return false
		}
		sum.sub(l.takes)
		return true
	})
	if own := d.owns(i, d.at); own != nil {
		sum.sub(own)
	}
	return sum
}

// owns is what the check's own hold takes at an instant; nil where it takes nothing of the limit any more, or nothing at the
// level of the check.
func (d *decision) owns(i int, at Tick) amounts {
	l := &d.policy.Limits[i]
	if d.own == nil || !d.policy.applies(l, d.own.Type) || d.own.ends(l) <= at {
		return nil
	}
	if of, ok := levelOf(l.Per, d.own.Data); !ok || of != d.level(l) {
		return nil
	}
	return d.policy.takenBy(l, d.own)
}

// leases are those of other checks at the level of the check, in the order in which they end.
func (d *decision) leases(i int) iter.Seq[lease] {
	return func(yield func(lease) bool) {
		_, leases := d.account.under(d.policy).at(i, d.level(&d.policy.Limits[i]), min(d.at, d.account.reached))
		leases.AscendGreaterOrEqual(lease{ends: d.at + 1}, func(l lease) bool {
			return d.own != nil && l.source == d.own.source() || yield(l)
		})
	}
}

func (d *decision) concurrency(i int, part *event.LimitPart) {
	l, one := d.limit(i), money.Int(1)
	part.Held, part.Requested = d.others(i)[0], one
	if part.Held.Add(one).Cmp(l.Max) <= 0 || d.owns(i, d.at) != nil {
		return
	}
	part.Denied = true
	if l.Max.Sign() <= 0 {
		return
	}
	excess := part.Held.Add(one).Sub(l.Max)
	for next := range d.leases(i) {
		excess = excess.Sub(next.takes[0])
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
	part.Denied = v.Kind != event.Absent && v.Kind != event.Null // whatever it is, it is not known to be small enough
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
	set := func(t Tick) {
		if t > 0 {
			part.ResetAt = t.Time()
		}
	}
	switch part.Kind {
	case event.RateLimit:
		if part.Taken {
			set(d.at.after(l.length()))
		} else {
			set(empty(d.both(l), d.at, l.length()))
		}
	case event.RetryBudgetLimit:
		if part.Taken && part.Requested.Sign() > 0 {
			set(d.at.after(l.length()))
		} else {
			set(empty(d.admitted(l, func(a Admissions) Cells { return a.Retries }), d.at, l.length()))
		}
	case event.QuotaLimit, event.BudgetLimit:
		part.ResetAt = part.WindowEnd
	case event.ConcurrencyLimit:
		last := Tick(0)
		if !part.ExpiresAt.IsZero() {
			last = TickOf(part.ExpiresAt)
		}
		_, leases := d.account.under(d.policy).at(d.policy.index(part.Limit), d.level(l), min(d.at, d.account.reached))
		if l, ok := leases.Max(); ok {
			last = max(last, l.ends)
		}
		set(last)
	}
}
