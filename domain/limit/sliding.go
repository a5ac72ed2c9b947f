package limit

import (
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// exactCells is up to how many different instants a sliding window keeps apart. With more, instants of the same 64th of the
// window are kept together, on the side of refusing: memory is bounded, and at most a 64th of the window is given away.
const exactCells = 64

// Cell is a number of things that happened from First to Last.
type Cell struct {
	First Tick  `json:"f"`
	Last  Tick  `json:"l"`
	N     int64 `json:"n"`
}

// Cells is what happened within a sliding window, ascending. It is immutable: add makes another one.
type Cells []Cell

// add counts one thing at an instant that is not before the last one, and drops what has left the window.
func (c Cells) add(at Tick, window time.Duration) Cells {
	keep := 0
	for keep < len(c) && c[keep].Last.after(window) <= at {
		keep++
	}
	next := make(Cells, len(c)-keep, len(c)-keep+1)
	copy(next, c[keep:])
	if i := len(next) - 1; i >= 0 {
		width := max(Tick(window.Milliseconds())/exactCells, 1)
		if last := &next[i]; last.Last >= at || len(next) >= exactCells && last.First/width == at/width {
			last.Last, last.N = max(last.Last, at), last.N+1
			return next
		}
	}
	return append(next, Cell{at, at, 1})
}

// most is the number of things of which some may still be within the window that ends at an instant (inclusive): a cell
// counts until its last one has left.
func (c Cells) most(at Tick, window time.Duration) (n int64) {
	for i := len(c) - 1; i >= 0 && c[i].Last.after(window) > at; i-- {
		n += c[i].N
	}
	return n
}

// least is the number of things that are surely within the window: a cell counts until its first one leaves.
func (c Cells) least(at Tick, window time.Duration) (n int64) {
	for i := len(c) - 1; i >= 0 && c[i].First.after(window) > at; i-- {
		n += c[i].N
	}
	return n
}

// room is the first instant from at on at which most is at most n; never where n is negative.
func (c Cells) room(at Tick, window time.Duration, n int64) Tick {
	if n < 0 {
		return never
	}
	left := c.most(at, window)
	for i := range c {
		leaves := c[i].Last.after(window)
		if left <= n {
			break
		}
		if leaves > at {
			left -= c[i].N
			at = leaves
		}
	}
	return at
}

// empty is when everything has left the window; zero where nothing is in it.
func (c Cells) empty(at Tick, window time.Duration) Tick {
	if len(c) == 0 || c[len(c)-1].Last.after(window) <= at {
		return 0
	}
	return c[len(c)-1].Last.after(window)
}

// Slide is the state of a rate or retry budget.
type Slide struct {
	Taken  Cells `json:"t,omitempty"` // checks of a rate; retries of a retry budget
	Firsts Cells `json:"f,omitempty"` // first attempts of a retry budget
	// Full is the theoretical arrival time of the generic cell rate algorithm, which bounds a burst: nanoseconds since
	// 1970-01-01 UTC.
	Full int64 `json:"g,omitempty"`
}

// interval is the emission interval of max per window: nanoseconds, rounded up, which refuses rather than admits.
func interval(limit int64, window time.Duration) int64 {
	if limit <= 0 {
		return int64(window)
	}
	return (int64(window) + limit - 1) / limit
}

// The generic cell rate algorithm (ITU-T I.371, virtual scheduling): a check may pass at now if its theoretical arrival,
// max(Full, now) + T, is at most burst*T after now, where T is the emission interval.

// passBurst is the first instant from now on at which the algorithm lets one check pass.
func (s Slide) passBurst(now Tick, limit, burst int64, window time.Duration) Tick {
	t := interval(limit, window)
	earliest := s.Full + t - times(burst, t)
	ms := -floor(-earliest, int64(time.Millisecond)) / int64(time.Millisecond) // rounded up
	return max(now, Tick(ms))
}

// takeBurst lets one check pass.
func (s Slide) takeBurst(now Tick, limit int64, window time.Duration) int64 {
	return max(s.Full, int64(now)*int64(time.Millisecond)) + interval(limit, window)
}

// times is a * b, or the largest number.
func times(a, b int64) int64 {
	high, low := bits.Mul64(uint64(a), uint64(b)) //nolint:gosec // both are positive
	if high > 0 || low > 1<<62 {
		return 1 << 62
	}
	return int64(low)
}

// Guard is the state of an abuse guard.
type Guard struct {
	Checks  Cells `json:"c,omitempty"`
	Denials Cells `json:"d,omitempty"`
	Until   Tick  `json:"u,omitempty"` // end of the last cooldown
	Strikes int64 `json:"s,omitempty"` // cooldowns in a row
}

// count is the guard after a check that it let pass.
func (g Guard) count(at Tick, denied bool, window time.Duration) Guard {
	g.Checks = g.Checks.add(at, window)
	if denied {
		g.Denials = g.Denials.add(at, window)
	}
	return g
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

// State is the part of an account that decisions alone determine and that stays small: the projection of the quota read
// model keeps it in one row.
type State struct {
	Now    Tick               `json:"now"` // of the last decision: the clock of an account never goes back
	Slides map[limitKey]Slide `json:"slides,omitempty"`
	Guards map[limitKey]Guard `json:"guards,omitempty"`
}

// limitKey names what an account keeps of a limit. A limit that becomes one of another kind starts from nothing: tokens are
// no sessions.
type limitKey struct {
	kind  event.LimitKind
	limit string
}

func keyOf(p *event.LimitPart) limitKey { return limitKey{p.Kind, p.Limit} }

func (l *Limit) key() limitKey { return limitKey{l.kind, string(l.Key)} }

// MarshalText writes "rate:requests_per_minute".
func (k limitKey) MarshalText() ([]byte, error) { return []byte(k.kind.String() + ":" + k.limit), nil }

// UnmarshalText reads what MarshalText writes.
func (k *limitKey) UnmarshalText(text []byte) error {
	kind, limit, ok := strings.Cut(string(text), ":")
	*k = limitKey{event.ParseLimitKind(kind), limit}
	if !ok || k.kind == 0 {
		return fmt.Errorf("%q names no limit", text)
	}
	return nil
}

// Apply counts what a decision took. A decision says so itself; that keeps the fold free of plans and catalogs.
func (s *State) Apply(e event.LimitDecided) {
	at := TickOf(e.DecidedAt)
	s.Now = max(s.Now, at)
	for i := range e.Parts {
		p := &e.Parts[i]
		if !p.Taken {
			continue
		}
		window := p.WindowEnd.Sub(p.WindowStart)
		switch p.Kind {
		case event.RateLimit:
			slide := s.Slides[keyOf(p)]
			slide.Taken = slide.Taken.add(at, window)
			if p.Burst > 0 {
				slide.Full = slide.takeBurst(at, wholeOf(p.Max), window)
			}
			s.setSlide(keyOf(p), slide)
		case event.RetryBudgetLimit:
			slide := s.Slides[keyOf(p)]
			if p.Requested.Sign() > 0 {
				slide.Taken = slide.Taken.add(at, window)
			} else {
				slide.Firsts = slide.Firsts.add(at, window)
			}
			s.setSlide(keyOf(p), slide)
		case event.AbuseGuardLimit:
			guard := s.Guards[keyOf(p)].count(at, !e.Allowed, window)
			if !p.Until.IsZero() { // what led to a cooldown does not lead to the next one
				guard = Guard{Until: TickOf(p.Until), Strikes: p.Strikes}
			}
			if s.Guards == nil {
				s.Guards = map[limitKey]Guard{}
			}
			s.Guards[keyOf(p)] = guard
		}
	}
}

func (s *State) setSlide(limit limitKey, slide Slide) {
	if s.Slides == nil {
		s.Slides = map[limitKey]Slide{}
	}
	s.Slides[limit] = slide
}
