package limit

import (
	"iter"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/calendar"
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
// less lowers it. What is asked again is not counted again by sliding limits, and never needs more room than it adds.
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

// Status is how one limit stands, whatever is asked of it.
type Status struct {
	event.LimitPart
	Limit *Limit
}

// View tells how every limit of the policy stands.
func (a *Account) View(p *Policy, now time.Time) []Status {
	at := a.advance(now)
	all := make([]Status, 0, len(p.Limits))
	for i := range p.Limits {
		l := &p.Limits[i]
		d := &decision{account: a, policy: p, at: at}
		part := d.judge(l)
		part.Denied, part.Soft, part.Requested = false, false, money.Decimal{}
		if l.kind != event.AbuseGuardLimit {
			part.ResetAt = time.Time{}
			d.replenished(l, &part)
		}
		all = append(all, Status{part, l})
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

// hasWithin is has for a hold of the most that a check can come to. Such a hold may be larger than the room there was for it,
// where the check was let pass by what it comes to next: then it shows nothing.
func (d *decision) hasWithin(room money.Decimal, limit limitKey, q money.Decimal, at Tick) bool {
	return d.has(limit, q, at) && d.own.part(limit, at).Cmp(room) <= 0
}

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

func (d *decision) rate(l *Limit, part *event.LimitPart) {
	window := l.length()
	slide := d.account.state.Slides[keyOf(part)]
	limit := wholeOf(l.Max)
	part.WindowStart, part.WindowEnd = d.at.after(-window).Time(), d.at.Time()
	part.Burst = l.Burst
	part.Used, part.Requested = money.Int(slide.Taken.most(d.at, window)), money.Int(1)
	if d.own != nil { // counted when it was asked for the first time
		return
	}
	passes := slide.Taken.room(d.at, window, limit-1)
	if l.Burst > 0 && passes != never {
		passes = max(passes, slide.passBurst(d.at, limit, l.Burst, window))
	}
	if passes > d.at {
		part.Denied, part.ResetAt = true, passes.Time()
	}
}

// retries judges a check that says it is a retry: attempt above 1, and retryOf. A first attempt passes, and adds to what
// retries may come to.
func (d *decision) retries(l *Limit, part *event.LimitPart) {
	window := l.length()
	slide := d.account.state.Slides[keyOf(part)]
	part.WindowStart, part.WindowEnd = d.at.after(-window).Time(), d.at.Time()
	part.Max, part.Used = d.allowance(l, slide, d.at), money.Int(slide.Taken.most(d.at, window))
	attempt, isRetry := attemptOf(d.ask.Data)
	if !isRetry || d.own != nil {
		return
	}
	part.Requested = money.Int(1)
	if attempt.Cmp(money.Int(l.MaxAttempts)) > 0 {
		part.Denied = true // for ever: time does not make it an earlier attempt
		return
	}
	passes := func(at Tick) bool {
		return money.Int(slide.Taken.most(at, window)+1).Cmp(d.allowance(l, slide, at)) <= 0
	}
	if passes(d.at) {
		return
	}
	part.Denied = true
	for _, c := range slide.Taken { // room is made when retries leave the window
		if at := c.Last.after(window); at > d.at && passes(at) {
			part.ResetAt = at.Time()
			return
		}
	}
}

// allowance is minimum + ratio * first attempts, rounded down.
func (d *decision) allowance(l *Limit, slide Slide, at Tick) money.Decimal {
	firsts := money.Int(slide.Firsts.least(at, l.length()))
	return money.Int(l.Minimum).Add(l.Ratio.Mul(firsts).Floor())
}

// attemptOf is the number of the attempt; a check is a retry from the second on, or when it names what it retries.
func attemptOf(data event.Data) (attempt money.Decimal, isRetry bool) {
	attempt, ok := data.Get("attempt").Decimal()
	if !ok {
		attempt = money.Int(1)
	}
	of := data.Get("retryOf")
	named := of.Kind == event.Text && of.String() != ""
	if attempt.Cmp(money.Int(1)) > 0 {
		return attempt, true
	}
	return attempt, named
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

func (d *decision) guard(l *Limit, part *event.LimitPart) {
	window := l.length()
	guard := d.account.state.Guards[keyOf(part)]
	part.WindowStart, part.WindowEnd = d.at.after(-window).Time(), d.at.Time()
	part.Max, part.Used = money.Int(l.Denials), money.Int(guard.Denials.most(d.at, window))
	if guard.Until > d.at && d.own == nil {
		part.Denied, part.ResetAt = true, guard.Until.Time()
	}
}

// strike counts a denial, and starts a cooldown when there are too many. Strikes are forgotten when the guard had nothing
// to do for the longest cooldown.
func (d *decision) strike(l *Limit, part *event.LimitPart) {
	window := l.length()
	before := d.account.state.Guards[keyOf(part)]
	guard := before.count(d.at, true, window)
	denials, checks := guard.Denials.most(d.at, window), guard.Checks.most(d.at, window)
	if denials < l.Denials || money.Int(denials).Cmp(l.Ratio.Mul(money.Int(checks))) < 0 {
		return
	}
	strikes := before.Strikes
	if d.at >= before.Until.after(l.MaxCooldown.Value()) {
		strikes = 0
	}
	cooldown := l.Cooldown.Value()
	for i := int64(0); i < strikes && cooldown < l.MaxCooldown.Value(); i++ {
		cooldown *= 2
	}
	part.Strikes = strikes + 1
	part.Until = d.at.after(min(cooldown, l.MaxCooldown.Value())).Time()
	part.Denied, part.ResetAt = true, part.Until // whoever comes back earlier is refused
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
