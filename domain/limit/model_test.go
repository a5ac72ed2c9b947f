package limit_test

import (
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// model answers checks from the complete list of what happened, by going through all of it every time. It keeps no sums,
// and numbers are fractions. Instants are milliseconds.
type model struct {
	meters []catalog.Meter
	checks []*past
	facts  []*fact
	latest int64 // of all decisions
}

// past is a check that was decided.
type past struct {
	asked   limit.Ask
	ask     limit.Ask // with the quantity that was granted
	at      int64
	allowed bool
	repeats bool // its hold was open when it was asked, and it is no later attempt
	parts   map[catalog.LimitKey]*pastPart
	until   int64 // keeps its hold until then; 0: keeps nothing
	over    bool  // used, released, or asked again since
	guarded bool  // abuse guards count the check
}

type pastPart struct {
	kind     catalog.LimitKind
	ends     int64 // 0: holds nothing
	cooldown int64 // of an abuse guard: until then
	strikes  int
}

type fact struct {
	event.Usage
	void bool
}

// terms are what the plan says for a tenant.
type terms struct {
	limits []catalog.Limit   // with overrides
	own    []tenant.Override // of single users
	prices []catalog.Price
	cal    calendar.Calendar
	// What holds at another instant, and when that changes.
	later   func(time.Time) terms
	changes []int64
}

func rat(d money.Decimal) *big.Rat {
	r, ok := new(big.Rat).SetString(d.String())
	if !ok {
		panic(d.String())
	}
	return r
}

func whole(n int64) *big.Rat { return new(big.Rat).SetInt64(n) }

func plus(a, b *big.Rat) *big.Rat { return new(big.Rat).Add(a, b) }

func instant(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// of is a limit as it is for the user of a check.
func (t terms) of(l catalog.Limit, data event.Data) catalog.Limit {
	for _, o := range t.own {
		if o.Limit == l.Key && len(l.Per) > 0 && o.Per.Map()["user"] == data.Get("user").String() {
			l.Max, l.Burst = o.Max, min(l.Burst, rat(o.Max).Num().Int64())
		}
	}
	return l
}

// verdict is what a limit says to a check at an instant.
type verdict struct {
	denied, soft          bool
	used, held, requested *big.Rat
	resets                int64 // 0: never
}

// own is the open hold of a check.
func (m *model) own(s limit.Source, at int64) *past {
	for _, p := range m.checks {
		if source(p.ask) == s && !p.over && p.until > at {
			return p
		}
	}
	return nil
}

// alike says whether two checks belong to the same level of a limit.
func alike(l catalog.Limit, a, b event.Data) bool {
	for _, field := range l.Per {
		if v := a.Get(field); v.Kind == event.Absent || v.String() != b.Get(field).String() {
			return false
		}
	}
	return true
}

// endsFor is when a hold ends for a limit.
func (p *past) endsFor(l catalog.Limit) int64 {
	if part := p.parts[l.Key]; part != nil && part.kind == l.Kind && part.ends > 0 {
		return part.ends
	}
	latest := int64(0)
	for _, part := range p.parts {
		latest = max(latest, part.ends)
	}
	if latest == 0 {
		return p.until
	}
	return latest
}

// open are the asks of the holds that are open for a limit at the level of a check, but for that check.
func (m *model) open(t terms, l catalog.Limit, of limit.Ask, at int64) (asks []limit.Ask) {
	for _, p := range m.checks {
		if !p.over && p.until > at && source(p.ask) != source(of) && m.applies(t, l, p.ask.Type) && p.endsFor(l) > at && alike(l, p.ask.Data, of.Data) {
			asks = append(asks, p.ask)
		}
	}
	return asks
}

// ofOwn is the hold of a check, as long as it is open for a limit.
func (m *model) ofOwn(t terms, l catalog.Limit, of limit.Ask, at int64) []limit.Ask {
	own := m.own(source(of), at)
	if own == nil || !alike(l, own.ask.Data, of.Data) || !m.applies(t, l, own.ask.Type) || own.endsFor(l) <= at {
		return nil
	}
	return []limit.Ask{own.ask}
}

// measure is what a meter counts; nil where the data does not say.
func measure(m catalog.Meter, quantity money.Decimal, data event.Data) *big.Rat {
	switch {
	case m.Aggregation == catalog.Count:
		return whole(1)
	case m.Value == "":
		return rat(quantity)
	}
	d, ok := data.Get("tokens").Decimal()
	if !ok {
		return nil
	}
	return rat(d)
}

// usedIn is what was used of a meter within a window.
func (m *model) usedIn(of catalog.Meter, where map[string]string, l catalog.Limit, like event.Data, w calendar.Window) *big.Rat {
	sum := new(big.Rat)
	for _, f := range m.facts {
		if f.void || !alike(l, f.Data, like) || string(f.Type) != of.EventType || f.OccurredAt.Before(w.Start) || !f.OccurredAt.Before(w.End) || !fitsFilter(where, f.Data) {
			continue
		}
		if q := measure(of, f.Quantity, f.Data); q != nil {
			sum.Add(sum, q)
		}
	}
	return sum
}

func fitsFilter(where map[string]string, data event.Data) bool {
	for name, v := range where {
		if data.Get(name).String() != v {
			return false
		}
	}
	return true
}

// price is what a quantity costs.
func price(p catalog.Price, quantity *big.Rat) *big.Rat {
	q := new(big.Rat).Sub(quantity, rat(p.Included))
	cost := new(big.Rat)
	if q.Sign() <= 0 {
		return cost
	}
	switch p.Model {
	case catalog.PerUnit:
		cost.Mul(q, rat(p.Unit))
	case catalog.Package:
		for left := new(big.Rat).Set(q); left.Sign() > 0; left.Sub(left, rat(p.Size)) {
			cost.Add(cost, rat(p.Unit))
		}
	case catalog.Percentage:
		cost.Mul(q, rat(p.Percent))
		cost.Quo(cost, whole(100))
	case catalog.Volume:
		for i := len(p.Tiers) - 1; i >= 0; i-- { // the first one that is large enough is set last
			if t := p.Tiers[i]; t.Open() || q.Cmp(rat(t.UpTo)) <= 0 {
				cost.Mul(q, rat(t.Unit))
			}
		}
	case catalog.Graduated:
		from := new(big.Rat)
		for _, t := range p.Tiers { // what of q lies within each tier
			to := q
			if !t.Open() && rat(t.UpTo).Cmp(q) < 0 {
				to = rat(t.UpTo)
			}
			if to.Cmp(from) > 0 {
				cost.Add(cost, new(big.Rat).Mul(new(big.Rat).Sub(to, from), rat(t.Unit)))
				from = to
			}
		}
	}
	return cost
}

// dearest is the most that a price can come to while any part of more is used: found by trying each tenth of a unit and, as the
// cost of a volume price falls there, each end of a tier.
func dearest(p catalog.Price, used, more *big.Rat) *big.Rat {
	most := price(p, plus(used, more))
	if p.Model != catalog.Volume {
		return most
	}
	try := func(part *big.Rat) {
		if cost := price(p, plus(used, part)); part.Sign() >= 0 && part.Cmp(more) < 0 && cost.Cmp(most) > 0 {
			most = cost
		}
	}
	for part := new(big.Rat); part.Cmp(more) < 0; part = plus(part, big.NewRat(1, 10)) {
		try(part)
	}
	for _, t := range p.Tiers {
		try(new(big.Rat).Sub(plus(rat(t.UpTo), rat(p.Included)), used))
	}
	return most
}

func (m *model) meter(key catalog.MeterKey) catalog.Meter {
	return m.meters[slices.IndexFunc(m.meters, func(of catalog.Meter) bool { return of.Key == key })]
}

func (m *model) applies(t terms, l catalog.Limit, of event.Type) bool {
	switch l.Kind {
	case catalog.Quota:
		return m.meter(l.Meter).EventType == string(of)
	case catalog.Budget:
		return slices.ContainsFunc(t.prices, func(p catalog.Price) bool {
			return p.Meter != "" && m.meter(p.Meter).EventType == string(of)
		})
	case catalog.AbuseGuard:
		return true
	}
	return slices.Contains(l.On, string(of))
}

// total is what the usage of the window that an instant is in and these asks come to, at most.
func (m *model) total(t terms, l catalog.Limit, like event.Data, asks []limit.Ask, at int64) *big.Rat {
	w := t.window(l, at)
	amount := func(of catalog.Meter, where map[string]string) *big.Rat {
		sum := new(big.Rat)
		for _, ask := range asks {
			if of.EventType != string(ask.Type) || !fitsFilter(where, ask.Data) {
				continue
			}
			if q := measure(of, ask.Quantity, ask.Data); q != nil {
				sum.Add(sum, q)
			}
		}
		return sum
	}
	if l.Kind == catalog.Quota {
		of := m.meter(l.Meter)
		return plus(m.usedIn(of, nil, l, like, w), amount(of, nil))
	}
	sum := new(big.Rat)
	for _, p := range t.prices {
		if p.Meter != "" {
			of := m.meter(p.Meter)
			sum.Add(sum, dearest(p, m.usedIn(of, p.Where, l, like, w), amount(of, p.Where)))
		}
	}
	return sum
}

// window is that of a limit which contains an instant. A rolling one begins with a whole quarter of an hour.
func (t terms) window(l catalog.Limit, at int64) calendar.Window {
	if !l.Rolling {
		return t.cal.Window(l.Window.Period, instant(at))
	}
	const quarter = 15 * time.Minute
	return calendar.Window{
		Start: instant(at).Add(-l.Window.Length.Value()).Truncate(quarter),
		End:   instant(at).AddDate(1000, 0, 0),
	}
}

// missing are the fields that a check leaves out and a limit or price looks at.
func (m *model) missing(t terms, ask limit.Ask) bool {
	lacks := func(of catalog.Meter) bool { return measure(of, ask.Quantity, ask.Data) == nil }
	for _, l := range t.limits {
		lacksLevel := !alike(l, ask.Data, ask.Data)
		switch {
		case !m.applies(t, l, ask.Type):
		case lacksLevel:
			return true
		case l.Kind == catalog.Quota:
			if lacks(m.meter(l.Meter)) {
				return true
			}
		case l.Kind == catalog.Max && l.Field != "":
			if _, ok := ask.Data.Get(l.Field).Decimal(); !ok {
				return true
			}
		case l.Kind == catalog.Budget:
			for _, p := range t.prices {
				if p.Meter == "" || m.meter(p.Meter).EventType != string(ask.Type) {
					continue
				}
				for field := range p.Where {
					if ask.Data.Get(field).Kind == event.Absent {
						return true
					}
				}
				if fitsFilter(p.Where, ask.Data) && lacks(m.meter(p.Meter)) {
					return true
				}
			}
		}
	}
	return false
}

// admitted are the instants of admitted checks that a sliding limit looks at, within the window that ends at an instant.
func (m *model) admitted(l catalog.Limit, like event.Data, at int64, which func(p *past) bool) (instants []int64) {
	for _, p := range m.checks {
		if slices.Contains(l.On, string(p.ask.Type)) && alike(l, p.ask.Data, like) && p.allowed && !p.repeats && p.at > at-l.Window.Length.Value().Milliseconds() && which(p) {
			instants = append(instants, p.at)
		}
	}
	return instants
}

func anyCheck(*past) bool { return true }

// arrival is when the burst of a rate has all come in, in nanoseconds.
func (m *model) arrival(l catalog.Limit, like event.Data, at int64) (full int64) {
	for _, came := range m.admitted(l, like, at, anyCheck) {
		full = max(full, came*1e6) + emission(rat(l.Max).Num().Int64(), l.Window.Length.Value().Nanoseconds())
	}
	return full
}

// emission is the time between two checks of a steady rate, rounded up.
func emission(limit, nanos int64) int64 {
	n := nanos / limit
	if n*limit < nanos {
		n++
	}
	return n
}

func isRetry(data event.Data) (attempt *big.Rat, retry bool) {
	attempt = whole(1)
	if d, ok := data.Get("attempt").Decimal(); ok {
		attempt = rat(d)
	}
	return attempt, attempt.Cmp(whole(1)) > 0 || data.Get("retryOf").Kind == event.Text && data.Get("retryOf").String() != ""
}

// cooldown is the last one of the tenant: when it was started, until when, and how many there were in a row.
func (m *model) cooldown() (index int, until int64, strikes int) {
	index = -1
	for i, p := range m.checks {
		for _, part := range p.parts {
			if part.cooldown > 0 {
				index, until, strikes = i, part.cooldown, part.strikes
			}
		}
	}
	return index, until, strikes
}

// fresh reports whether sliding limits count a check: it has no open hold, or is a later attempt of it.
func (m *model) fresh(ask limit.Ask, at int64) bool {
	own := m.own(source(ask), at)
	if own == nil {
		return true
	}
	now, _ := isRetry(ask.Data)
	before, _ := isRetry(own.ask.Data)
	return now.Cmp(before) > 0
}

// judge says how a limit would answer at an instant, if nothing else had happened until then.
func (m *model) judge(t terms, l catalog.Limit, ask limit.Ask, at int64) (v verdict) {
	l = t.of(l, ask.Data)
	own := m.own(source(ask), at)
	one := whole(1)
	v.used, v.held, v.requested = new(big.Rat), new(big.Rat), new(big.Rat)
	switch l.Kind {
	case catalog.Quota, catalog.Budget:
		others := m.open(t, l, ask, at)
		v.used = m.total(t, l, ask.Data, nil, at)
		before := m.total(t, l, ask.Data, others, at)
		v.held = new(big.Rat).Sub(before, v.used)
		v.requested = new(big.Rat).Sub(m.total(t, l, ask.Data, append(slices.Clone(others), ask), at), before)
		fits := func(when int64) bool {
			total := m.total(t, l, ask.Data, append(slices.Clone(others), ask), when)
			mine := m.ofOwn(t, l, ask, at)
			return total.Cmp(rat(l.Max)) <= 0 || mine != nil && total.Cmp(m.total(t, l, ask.Data, append(slices.Clone(others), mine...), when)) <= 0
		}
		full := !fits(at)
		if l.Kind == catalog.Budget && !ask.NoHold {
			ends := at + ttlOf(ask, l.HoldTTL)
			if own != nil {
				ends = max(ends, own.endsFor(l))
			}
			if turn := t.window(l, at).End.UnixMilli(); ends > turn {
				full = full || !fits(turn)
			}
		}
		v.denied, v.soft = full && !l.Soft, full && l.Soft
	case catalog.Concurrency:
		v.held, v.requested = whole(int64(len(m.open(t, l, ask, at)))), one
		v.denied = plus(v.held, one).Cmp(rat(l.Max)) > 0 && m.ofOwn(t, l, ask, at) == nil
	case catalog.Rate:
		n := int64(len(m.admitted(l, ask.Data, at, anyCheck)))
		v.used, v.requested = whole(n), one
		v.denied = whole(n+1).Cmp(rat(l.Max)) > 0
		if most := rat(l.Max); l.Burst > 0 && most.Sign() > 0 {
			every := emission(most.Num().Int64(), l.Window.Length.Value().Nanoseconds())
			v.denied = v.denied || max(m.arrival(l, ask.Data, at), at*1e6)+every-at*1e6 > l.Burst*every
		}
		v.denied = v.denied && m.fresh(ask, at)
	case catalog.RetryBudget:
		of := func(p *past) bool { _, retry := isRetry(p.ask.Data); return retry }
		retries := int64(len(m.admitted(l, ask.Data, at, of)))
		firsts := int64(len(m.admitted(l, ask.Data, at, func(p *past) bool { return !of(p) })))
		v.used = whole(retries)
		attempt, retry := isRetry(ask.Data)
		if !retry || !m.fresh(ask, at) {
			break
		}
		v.requested = one
		may := plus(whole(l.Minimum), new(big.Rat).Mul(rat(l.Ratio), whole(firsts)))
		v.denied = attempt.Cmp(whole(l.MaxAttempts)) > 0 || whole(retries+1).Cmp(may) > 0
	case catalog.Max:
		q, ok := ask.Quantity, true
		if l.Field != "" {
			q, ok = ask.Data.Get(l.Field).Decimal()
		}
		if ok {
			v.requested = rat(q)
			v.denied = q.Cmp(l.Max) > 0
		}
	case catalog.Access:
		has := ask.Data.Get(l.Field)
		v.denied = has.Kind == event.Absent || !slices.Contains(l.Values, has.String())
	case catalog.AbuseGuard:
		index, until, _ := m.cooldown()
		denials, _ := m.denials(l, index, at)
		v.used = whole(denials)
		v.denied = until > at && own == nil
	}
	return v
}

// denials counts what a guard has seen since its last cooldown.
func (m *model) denials(l catalog.Limit, after int, at int64) (denials, all int64) {
	for i, p := range m.checks {
		if i <= after || !p.guarded || p.at <= at-l.Window.Length.Value().Milliseconds() {
			continue
		}
		all++
		if !p.allowed {
			denials++
		}
	}
	return denials, all
}

// resets is the first instant at which a limit that denies does so no longer: one of those at which anything can change.
func (m *model) resets(t terms, l catalog.Limit, ask limit.Ask, at int64) int64 {
	l = t.of(l, ask.Data)
	changes := slices.Clone(t.changes)
	for _, p := range m.checks {
		changes = append(changes, p.at+l.Window.Length.Value().Milliseconds())
		changes = append(changes, p.until)
		for _, part := range p.parts {
			changes = append(changes, part.ends, part.cooldown)
		}
	}
	switch l.Kind {
	case catalog.Rate:
		if most := rat(l.Max); l.Burst > 0 && most.Sign() > 0 {
			every := emission(most.Num().Int64(), l.Window.Length.Value().Nanoseconds())
			earliest := m.arrival(l, ask.Data, at) + every - l.Burst*every
			changes = append(changes, (earliest+999_999)/1_000_000)
		}
	case catalog.Quota, catalog.Budget:
		if l.Rolling {
			for _, f := range m.facts {
				left := f.OccurredAt.Truncate(15 * time.Minute).Add(15*time.Minute + l.Window.Length.Value())
				changes = append(changes, left.UnixMilli())
			}
			break
		}
		w := t.cal.Window(l.Window.Period, instant(at))
		changes = append(changes, w.End.UnixMilli(), t.cal.Window(l.Window.Period, w.End).End.UnixMilli())
		for _, f := range m.facts {
			w := t.cal.Window(l.Window.Period, f.OccurredAt)
			changes = append(changes, w.Start.UnixMilli(), w.End.UnixMilli())
		}
	}
	slices.Sort(changes)
	for _, c := range changes {
		if c <= at {
			continue
		}
		then := t.later(instant(c))
		i := slices.IndexFunc(then.limits, func(of catalog.Limit) bool { return of.Key == l.Key })
		if !m.judge(then, then.limits[i], ask, c).denied {
			return c
		}
	}
	return 0
}

func ttlOf(ask limit.Ask, l catalog.Duration) int64 {
	switch {
	case ask.TTL > 0:
		return ask.TTL.Milliseconds()
	case l.Value() > 0:
		return l.Value().Milliseconds()
	}
	return limit.DefaultTTL.Milliseconds()
}

func sameCheck(a, b limit.Ask) bool {
	return a.Quantity.Equal(b.Quantity) && a.Data.Equal(b.Data) && a.UpTo == b.UpTo
}

// decide answers a check and remembers it. Renewed is true where the check's own hold answers it; written, where that is
// recorded.
func (m *model) decide(t terms, ask limit.Ask, now int64) (answer *past, verdicts map[catalog.LimitKey]verdict, renewed, written bool) {
	at := max(now, m.latest)
	own := m.own(source(ask), at)
	if own != nil && sameCheck(own.asked, ask) && m.allOpen(t, own, at) {
		written = m.renew(t, own, ask, at)
		return m.own(source(ask), at), nil, true, written
	}
	m.latest = at
	asked := ask
	judge := func(ask limit.Ask) bool {
		answer = &past{asked: asked, ask: ask, at: at, allowed: true, repeats: !m.fresh(ask, at), parts: map[catalog.LimitKey]*pastPart{}}
		verdicts = map[catalog.LimitKey]verdict{}
		for _, l := range t.limits {
			if m.applies(t, l, ask.Type) {
				v := m.judge(t, l, ask, at)
				verdicts[l.Key], answer.parts[l.Key] = v, &pastPart{kind: l.Kind}
				answer.allowed = answer.allowed && (!v.denied || l.Mode == catalog.Observe)
			}
		}
		return answer.allowed
	}
	if !judge(ask) && ask.UpTo {
		_, scale, _ := ask.Quantity.Coefficient()
		less := ask
		for less.Quantity = ask.Quantity.Sub(money.Scaled(1, scale)); less.Quantity.Sign() > 0 && !judge(less); {
			less.Quantity = less.Quantity.Sub(money.Scaled(1, scale))
		}
		if !answer.allowed {
			judge(ask)
		}
	}
	ask.Quantity = answer.ask.Quantity
	for _, l := range t.limits {
		if v, ok := verdicts[l.Key]; ok && v.denied {
			v.resets = m.resets(t, l, ask, at)
			verdicts[l.Key] = v
		}
	}
	if answer.allowed && !ask.NoHold {
		if own != nil {
			own.over = true
		}
		answer.until = at + ttlOf(ask, catalog.Duration{})
		if own != nil {
			answer.until = max(answer.until, own.until)
		}
		for _, l := range t.limits {
			if part := answer.parts[l.Key]; part != nil && (l.Kind == catalog.Quota || l.Kind == catalog.Budget || l.Kind == catalog.Concurrency) {
				part.ends = at + ttlOf(ask, l.HoldTTL)
				if own != nil {
					part.ends = max(part.ends, own.endsFor(l))
				}
				answer.until = max(answer.until, part.ends)
			}
		}
	}
	// What is held goes on during a cooldown; outside of one it counts when it asks for more than it gets.
	_, until, _ := m.cooldown()
	answer.guarded = until <= at && (!answer.repeats || !answer.allowed)
	m.checks = append(m.checks, answer)
	for _, l := range t.limits {
		if part := answer.parts[l.Key]; part != nil && l.Kind == catalog.AbuseGuard && answer.guarded && !answer.allowed {
			if m.strike(l, part, at) {
				v := verdicts[l.Key]
				v.denied, v.resets = true, part.cooldown
				verdicts[l.Key] = v
			}
		}
	}
	return answer, verdicts, false, true
}

// strike starts a cooldown if there are too many denials; the one of now is among them. A guard in mode observe only says so.
func (m *model) strike(l catalog.Limit, part *pastPart, at int64) bool {
	index, until, strikes := m.cooldown()
	denials, all := m.denials(l, index, at)
	if denials < l.Denials || new(big.Rat).SetFrac64(denials, all).Cmp(rat(l.Ratio)) < 0 {
		return false
	}
	if l.Mode == catalog.Observe {
		return true
	}
	longest := l.MaxCooldown.Value().Milliseconds()
	if at >= until+longest {
		strikes = 0
	}
	long := l.Cooldown.Value().Milliseconds()
	for range strikes {
		long = min(2*long, longest)
	}
	part.strikes, part.cooldown = strikes+1, at+long
	return true
}

func holds(k catalog.LimitKind) bool {
	return k == catalog.Quota || k == catalog.Budget || k == catalog.Concurrency
}

// allOpen says whether a hold is open for every limit.
func (m *model) allOpen(t terms, p *past, at int64) bool {
	for _, l := range t.limits {
		if holds(l.Kind) && m.applies(t, l, p.ask.Type) && p.endsFor(l) <= at {
			return false
		}
	}
	return true
}

// renew moves the ends of a hold ahead, unless that makes no difference.
func (m *model) renew(t terms, own *past, ask limit.Ask, at int64) (written bool) {
	moved := false
	next := func(ends, ttl int64) int64 {
		moved = moved || at+ttl > ends+min(1000, ttl/10)
		return max(ends, at+ttl)
	}
	until, parts := next(own.until, ttlOf(ask, catalog.Duration{})), map[catalog.LimitKey]*pastPart{}
	for _, l := range t.limits {
		if holds(l.Kind) && m.applies(t, l, ask.Type) {
			parts[l.Key] = &pastPart{kind: l.Kind, ends: next(own.endsFor(l), ttlOf(ask, l.HoldTTL))}
			until = max(until, parts[l.Key].ends)
		}
	}
	if ask.NoHold || !moved {
		return false
	}
	m.latest = at
	// The hold is what was said last; what was counted when it was decided stays where it is.
	own.over = true
	renewed := &past{asked: own.asked, ask: own.ask, at: at, allowed: true, repeats: true, parts: parts, until: until}
	m.checks = append(m.checks, renewed)
	return true
}

// end ends a hold, whatever the reason; false where there is none.
func (m *model) end(s limit.Source, at int64) bool {
	own := m.own(s, at)
	if own != nil {
		own.over = true
	}
	return own != nil
}

func (p *past) String() string {
	return fmt.Sprintf("%s/%s %s %s at %s", p.ask.Type, p.ask.Source, p.ask.Quantity, p.ask.Data.AppendJSON(nil), instant(p.at).Format(time.RFC3339Nano))
}
