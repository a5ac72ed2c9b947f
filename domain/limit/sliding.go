package limit

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// State is the part of an account that decisions alone determine and that stays small: the projection of the quota read
// model keeps it in one row. It counts what was asked and admitted, whatever limits there were, so that rates, retry budgets
// and cooldowns survive a change of plan.
type State struct {
	Now      Tick                  `json:"now"`                // of the last decision: the clock of an account never goes back
	Admitted map[string]Admissions `json:"admitted,omitempty"` // see admittedKey
	Swept    Tick                  `json:"swept,omitempty"`    // when values without recent admissions were dropped last
	Guard    Guard                 `json:"guard,omitzero"`
	// Observed counts, by the key of a limit in mode observe, the checks that it would have denied.
	Observed map[string]int64 `json:"observed,omitempty"`
}

// Admissions are the admitted checks of one event type. A check that was asked again while its hold was open is not counted
// again, unless it is a later attempt.
type Admissions struct {
	Firsts  Cells `json:"f,omitempty"`
	Retries Cells `json:"r,omitempty"`
}

// Guard is what abuse guards have seen of a tenant. A cooldown belongs to the tenant, whichever guard started it.
type Guard struct {
	Checks  Cells `json:"c,omitempty"`
	Denials Cells `json:"d,omitempty"`
	Until   Tick  `json:"u,omitempty"` // end of the last cooldown
	Strikes int64 `json:"s,omitempty"` // cooldowns in a row
}

// count is the guard after a check that it let pass.
func (g Guard) count(at Tick, denied bool, remember time.Duration) Guard {
	g.Checks = g.Checks.add(at, remember)
	if denied {
		g.Denials = g.Denials.add(at, remember)
	}
	return g
}

// admittedKey is under which admissions of a level are counted.
func admittedKey(t event.Type, fields string, of level) string {
	if fields == "" {
		return string(t)
	}
	return string(t) + "\x00" + string(of)
}

// latest is when something was admitted last.
func (a Admissions) latest() (at Tick) {
	for _, c := range []Cells{a.Firsts, a.Retries} {
		if n := len(c); n > 0 {
			at = max(at, c[n-1].Last)
		}
	}
	return at
}

// Apply counts a decision. A decision says how long the sliding limits of its catalog have to remember it; that keeps the
// fold free of plans and catalogs.
func (s *State) Apply(e *event.LimitDecided) { s.apply(e, func(func()) {}) }

// apply is Apply; note receives how to undo each step.
func (s *State) apply(e *event.LimitDecided, note func(undo func())) {
	at := TickOf(e.DecidedAt)
	now, guard, swept := s.Now, s.Guard, s.Swept
	note(func() { s.Now, s.Guard, s.Swept = now, guard, swept })
	s.Now = max(s.Now, at)
	repeats, retry, remember := e.Sliding()
	if e.Allowed && !repeats && remember > 0 {
		s.admit(e.Type, "", "", retry, at, remember, note)
		for _, fields := range e.Levels {
			if of, ok := levelOf(strings.Split(fields, ","), e.Data); ok {
				s.admit(e.Type, fields, of, retry, at, remember, note)
			}
		}
		s.sweep(at, remember, note)
	}
	// What is held goes on during a cooldown, and counts only when it asks for more than it gets.
	if s.Guard.Until <= at && (!repeats || !e.Allowed) {
		s.Guard = s.Guard.count(at, !e.Allowed, remember)
	}
	for i := range e.Parts {
		p := &e.Parts[i]
		switch {
		case p.Observed && p.Denied:
			if s.Observed == nil {
				s.Observed = map[string]int64{}
			}
			note(func() { s.Observed[p.Limit]-- })
			s.Observed[p.Limit]++
		case p.Kind == event.AbuseGuardLimit && !p.Until.IsZero(): // what led to a cooldown does not lead to the next one
			s.Guard = Guard{Until: max(s.Guard.Until, TickOf(p.Until)), Strikes: max(p.Strikes, s.Guard.Strikes)}
		}
	}
}

func (s *State) admit(t event.Type, fields string, of level, retry bool, at Tick, remember time.Duration, note func(undo func())) {
	if s.Admitted == nil {
		s.Admitted = map[string]Admissions{}
	}
	key := admittedKey(t, fields, of)
	before, known := s.Admitted[key]
	note(func() {
		if s.Admitted[key] = before; !known {
			delete(s.Admitted, key)
		}
	})
	a := before
	if retry {
		a.Retries = a.Retries.add(at, remember)
	} else {
		a.Firsts = a.Firsts.add(at, remember)
	}
	s.Admitted[key] = a
}

// sweep drops what no window can reach any more, once for each time that the longest one passes.
func (s *State) sweep(at Tick, remember time.Duration, note func(undo func())) {
	if at < s.Swept.after(remember) {
		return
	}
	s.Swept = at
	for key, a := range s.Admitted {
		if a.latest().after(remember) <= at {
			note(func() { s.Admitted[key] = a })
			delete(s.Admitted, key)
		}
	}
}

// admitted gives the admitted checks that a limit looks at, one list for each event type.
func (d *decision) admitted(l *Limit, of func(Admissions) Cells) []Cells {
	lists := make([]Cells, 0, len(l.On))
	for _, t := range l.On {
		if c := of(d.account.state.Admitted[admittedKey(event.Type(t), levelText(l.Per), d.level(l))]); len(c) > 0 {
			lists = append(lists, c)
		}
	}
	return lists
}

// both gives first attempts and retries.
func (d *decision) both(l *Limit) []Cells {
	return append(d.admitted(l, func(a Admissions) Cells { return a.Firsts }), d.admitted(l, func(a Admissions) Cells { return a.Retries })...)
}

func mostOf(lists []Cells, at Tick, window time.Duration) (n int64) {
	for _, c := range lists {
		n += c.most(at, window)
	}
	return n
}

// ordered are the cells that mostOf counts, in the order in which they leave the window.
func ordered(lists []Cells, at Tick, window time.Duration) Cells {
	var all Cells
	for _, c := range lists {
		all = append(all, c.within(at, window)...)
	}
	slices.SortFunc(all, func(a, b Cell) int { return cmp.Compare(a.Last, b.Last) })
	return all
}

// room is the first instant from at on at which at most n things may be within the window; never where n is negative.
func room(lists []Cells, at Tick, window time.Duration, n int64) Tick {
	if n < 0 {
		return never
	}
	left := mostOf(lists, at, window)
	if left <= n {
		return at
	}
	for _, c := range ordered(lists, at, window) {
		at, left = c.Last.after(window), left-c.N
		if left <= n {
			break
		}
	}
	return at
}

// empty is when everything has left the window; zero where nothing is in it.
func empty(lists []Cells, at Tick, window time.Duration) (last Tick) {
	for _, c := range lists {
		if n := len(c); n > 0 && c[n-1].Last.after(window) > at {
			last = max(last, c[n-1].Last.after(window))
		}
	}
	return last
}

// interval is the emission interval of max per window: nanoseconds, rounded up, which refuses rather than admits.
func interval(limit int64, window time.Duration) int64 {
	if limit <= 0 {
		return int64(window)
	}
	return (int64(window) + limit - 1) / limit
}

// passBurst is the first instant from now on at which the generic cell rate algorithm (ITU-T I.371, virtual scheduling) lets one
// check pass: where its theoretical arrival, max(TAT, now) + T, is at most burst*T later, T being the emission interval. TAT
// comes from the checks within the window: since burst is at most the limit, what came before does not reach beyond now.
func passBurst(lists []Cells, now Tick, limit, burst int64, window time.Duration) Tick {
	t := interval(limit, window)
	tat := int64(0)
	for _, c := range ordered(lists, now, window) {
		tat = max(tat, int64(c.Last)*int64(time.Millisecond)) + times(c.N, t)
	}
	earliest := tat + t - times(burst, t)
	ms := -floor(-earliest, int64(time.Millisecond)) / int64(time.Millisecond) // rounded up
	return max(now, Tick(ms))
}

// afterBurst is the first instant from now on at which passBurst lets one check pass, as checks leave the window. That is the
// answer of now unless a change of the limit left more in the window than it would have let pass.
func afterBurst(lists []Cells, now Tick, limit, burst int64, window time.Duration) Tick {
	for {
		passes, inside := passBurst(lists, now, limit, burst, window), ordered(lists, now, window)
		if len(inside) == 0 || passes <= inside[0].Last.after(window) {
			return passes
		}
		now = inside[0].Last.after(window)
	}
}

// times is a * b, or the largest number.
func times(a, b int64) int64 {
	high, low := bits.Mul64(uint64(a), uint64(b)) //nolint:gosec // both are positive
	if high > 0 || low > 1<<62 {
		return 1 << 62
	}
	return int64(low)
}

func (d *decision) rate(l *Limit, part *event.LimitPart) {
	window, limit, lists := l.length(), wholeOf(l.Max), d.both(l)
	part.WindowStart, part.WindowEnd = d.at.after(-window).Time(), d.at.Time()
	part.Burst = l.Burst
	part.Used, part.Requested = money.Int(mostOf(lists, d.at, window)), money.Int(1)
	if !d.fresh { // counted when it was asked for the first time
		return
	}
	passes := room(lists, d.at, window, limit-1)
	if l.Burst > 0 && passes != never {
		passes = afterBurst(lists, passes, limit, l.Burst, window)
	}
	if passes > d.at {
		part.Denied, part.ResetAt = true, passes.Time()
	}
}

// retries judges a check that says it is a retry: attempt above 1, or retryOf. A first attempt passes, and adds to what
// retries may come to.
func (d *decision) retries(l *Limit, part *event.LimitPart) {
	window := l.length()
	retries := d.admitted(l, func(a Admissions) Cells { return a.Retries })
	part.WindowStart, part.WindowEnd = d.at.after(-window).Time(), d.at.Time()
	part.Max, part.Used = d.allowance(l, d.at), money.Int(mostOf(retries, d.at, window))
	attempt, isRetry := attemptOf(d.ask.Data)
	if !isRetry || !d.fresh {
		return
	}
	part.Requested = money.Int(1)
	if attempt.Cmp(money.Int(l.MaxAttempts)) > 0 {
		part.Denied = true // without end: time does not make it an earlier attempt
		return
	}
	passes := func(at Tick) bool {
		return money.Int(mostOf(retries, at, window)+1).Cmp(d.allowance(l, at)) <= 0
	}
	if passes(d.at) {
		return
	}
	part.Denied = true
	for _, c := range ordered(retries, d.at, window) { // room is made when retries leave the window
		if at := c.Last.after(window); at > d.at && passes(at) {
			part.ResetAt = at.Time()
			return
		}
	}
}

// allowance is minimum + ratio * first attempts, rounded down.
func (d *decision) allowance(l *Limit, at Tick) money.Decimal {
	var firsts int64
	for _, c := range d.admitted(l, func(a Admissions) Cells { return a.Firsts }) {
		firsts += c.least(at, l.length())
	}
	return money.Int(l.Minimum).Add(l.Ratio.Mul(money.Int(firsts)).Floor())
}

// attemptOf is the number of the attempt; a check is a retry from the second on, or when it names what it retries.
func attemptOf(data event.Data) (attempt money.Decimal, isRetry bool) {
	attempt, ok := data.Get(fieldAttempt).Decimal()
	if !ok {
		attempt = money.Int(1)
	}
	of := data.Get(fieldRetryOf)
	named := of.Kind == event.Text && of.String() != ""
	if attempt.Cmp(money.Int(1)) > 0 {
		return attempt, true
	}
	return attempt, named
}

func (d *decision) guard(l *Limit, part *event.LimitPart) {
	window, guard := l.length(), d.account.state.Guard
	part.WindowStart, part.WindowEnd = d.at.after(-window).Time(), d.at.Time()
	part.Max, part.Used = money.Int(l.Denials), money.Int(guard.Denials.most(d.at, window))
	if guard.Until > d.at && d.own == nil {
		part.Denied, part.ResetAt = true, guard.Until.Time()
	}
}

// strike counts a denial, and starts a cooldown when there are too many. Strikes are forgotten when the guard had nothing
// to do for the longest cooldown.
func (d *decision) strike(l *Limit, part *event.LimitPart) {
	window, before := l.length(), d.account.state.Guard
	guard := before.count(d.at, true, d.policy.remember)
	denials, checks := guard.Denials.most(d.at, window), guard.Checks.most(d.at, window)
	if denials < l.Denials || money.Int(denials).Cmp(l.Ratio.Mul(money.Int(checks))) < 0 {
		return
	}
	part.Denied = true
	if part.Observed {
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
	part.ResetAt = part.Until // who comes back earlier is refused
}

// limitKey names what a decision said of a limit.
type limitKey struct {
	kind  event.LimitKind
	limit string
}

func keyOf(p *event.LimitPart) limitKey { return limitKey{p.Kind, p.Limit} }

func (l *Limit) key() limitKey { return limitKey{l.kind, string(l.Key)} }
