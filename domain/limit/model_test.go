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
	ask     limit.Ask
	at      int64
	allowed bool
	again   bool // its hold was open when it was asked
	parts   map[catalog.LimitKey]*pastPart
	until   int64 // keeps its hold until then; 0: keeps nothing
	over    bool  // used, released, or asked again since
}

type pastPart struct {
	kind        catalog.LimitKind
	denied      bool
	retry       bool
	holds       *big.Rat
	ends        int64 // 0: holds nothing
	max, burst  int64 // of a rate
	cooldown    int64 // of an abuse guard: until then
	strikes     int
	guarded     bool // an abuse guard counts the check
	widthMillis int64
}

type fact struct {
	event.Usage
	void bool
}

// terms are what the plan says for a tenant.
type terms struct {
	limits []catalog.Limit // with overrides
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

// verdict is what a limit says to a check at an instant.
type verdict struct {
	denied, soft          bool
	used, held, requested *big.Rat
	resets                int64 // 0: never
	retry                 bool
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

func (p *past) holdsOf(key catalog.LimitKey, at int64) *big.Rat {
	if p != nil && p.parts[key] != nil && p.parts[key].ends > at {
		return p.parts[key].holds
	}
	return new(big.Rat)
}

// held is what checks other than this one hold.
func (m *model) held(key catalog.LimitKey, except limit.Source, at int64) *big.Rat {
	sum := new(big.Rat)
	for _, p := range m.checks {
		if !p.over && p.until > 0 && source(p.ask) != except {
			sum.Add(sum, p.holdsOf(key, at))
		}
	}
	return sum
}

// alone says whether no other open check has a part in a limit.
func (m *model) alone(key catalog.LimitKey, except limit.Source, at int64) bool {
	for _, p := range m.checks {
		if part := p.parts[key]; !p.over && p.until > 0 && source(p.ask) != except && part != nil && part.ends > at {
			return false
		}
	}
	return true
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
func (m *model) usedIn(of catalog.Meter, where map[string]string, w calendar.Window) *big.Rat {
	sum := new(big.Rat)
	for _, f := range m.facts {
		if f.void || string(f.Type) != of.EventType || f.OccurredAt.Before(w.Start) || !f.OccurredAt.Before(w.End) || !fitsFilter(where, f.Data) {
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

// most is the largest amount that a quantity can add when others come before it: the dearest tier that is still to come for
// all of it, and nothing free.
func most(p catalog.Price, before, q *big.Rat) *big.Rat {
	p.Included, before = money.Decimal{}, new(big.Rat).Sub(before, rat(p.Included))
	if before.Sign() < 0 {
		before = new(big.Rat)
	}
	if p.Model != catalog.Graduated && p.Model != catalog.Volume {
		return price(p, q)
	}
	unit := new(big.Rat)
	for _, t := range p.Tiers {
		if (t.Open() || rat(t.UpTo).Cmp(before) > 0) && rat(t.Unit).Cmp(unit) > 0 {
			unit = rat(t.Unit)
		}
	}
	dearest := new(big.Rat).Mul(q, unit)
	for i := range len(p.Tiers) - 1 { // what comes before gets dearer with each step up that is still ahead
		step := new(big.Rat).Sub(rat(p.Tiers[i+1].Unit), rat(p.Tiers[i].Unit))
		if p.Model == catalog.Volume && rat(p.Tiers[i].UpTo).Cmp(before) >= 0 && step.Sign() > 0 {
			dearest.Add(dearest, step.Mul(step, rat(p.Tiers[i].UpTo)))
		}
	}
	return dearest
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

// sum is what a quota or budget looks at in the window that an instant is in: what is asked for, nil where it is not known, and
// what is held of it.
func (m *model) sum(t terms, l catalog.Limit, ask limit.Ask, at int64) (used, requested, holds *big.Rat) {
	w := t.cal.Window(l.Window.Period, instant(at))
	if l.Kind == catalog.Quota {
		of := m.meter(l.Meter)
		q := measure(of, ask.Quantity, ask.Data)
		return m.usedIn(of, nil, w), q, q
	}
	used, requested, holds = new(big.Rat), new(big.Rat), new(big.Rat)
	for _, p := range t.prices {
		if p.Meter == "" {
			continue
		}
		of := m.meter(p.Meter)
		before := m.usedIn(of, p.Where, w)
		used.Add(used, price(p, before))
		if requested == nil || of.EventType != string(ask.Type) || !fitsFilter(p.Where, ask.Data) {
			continue
		}
		q := measure(of, ask.Quantity, ask.Data)
		if q == nil {
			requested = nil
			continue
		}
		more := new(big.Rat).Sub(price(p, plus(before, q)), price(p, before))
		if !m.alone(l.Key, source(ask), at) {
			more = most(p, before, q)
		}
		if more.Sign() > 0 {
			requested.Add(requested, more)
		}
		holds.Add(holds, most(p, before, q))
	}
	return used, requested, holds
}

// counted counts what a sliding limit has seen within the window that ends at an instant.
func (m *model) counted(l catalog.Limit, at int64, which func(p *past, part *pastPart) bool) (n int64) {
	for _, p := range m.checks {
		part := p.parts[l.Key]
		if part != nil && p.at > at-l.Window.Length.Value().Milliseconds() && which(p, part) {
			n++
		}
	}
	return n
}

func admitted(p *past, _ *pastPart) bool { return p.allowed && !p.again }

// arrival is when the burst of a rate has all come in, in nanoseconds, if one more were let pass at an instant.
func (m *model) arrival(key catalog.LimitKey) int64 {
	var full int64
	for _, p := range m.checks {
		if part := p.parts[key]; part != nil && admitted(p, part) && part.burst > 0 {
			full = max(full, p.at*1e6) + emission(part.max, part.widthMillis*1e6)
		}
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

// cooldown is the last one of a guard: when it was started, until when, and how many there were in a row.
func (m *model) cooldown(key catalog.LimitKey) (index int, until int64, strikes int) {
	index = -1
	for i, p := range m.checks {
		if part := p.parts[key]; part != nil && part.cooldown > 0 {
			index, until, strikes = i, part.cooldown, part.strikes
		}
	}
	return index, until, strikes
}

// judge says how a limit would answer at an instant, if nothing else had happened until then.
func (m *model) judge(t terms, l catalog.Limit, ask limit.Ask, at int64) (v verdict) {
	own := m.own(source(ask), at)
	one := whole(1)
	v.used, v.held, v.requested = new(big.Rat), new(big.Rat), new(big.Rat)
	switch l.Kind {
	case catalog.Quota, catalog.Budget:
		var requested, holds *big.Rat
		v.used, requested, holds = m.sum(t, l, ask, at)
		v.held = m.held(l.Key, source(ask), at)
		taken := plus(v.used, v.held)
		full := taken.Cmp(rat(l.Max)) >= 0
		if requested != nil {
			v.requested = requested
			full = plus(taken, requested).Cmp(rat(l.Max)) > 0
			if own != nil && holds.Cmp(own.holdsOf(l.Key, at)) <= 0 {
				// It asks for no more than it has, unless it has more than there is room for.
				full = l.Kind == catalog.Budget && full && plus(taken, own.holdsOf(l.Key, at)).Cmp(rat(l.Max)) > 0
			}
		}
		v.denied, v.soft = full && !l.Soft, full && l.Soft
		if requested != nil && !v.denied {
			v.requested = holds
		}
	case catalog.Concurrency:
		v.held, v.requested = m.held(l.Key, source(ask), at), one
		v.denied = plus(v.held, one).Cmp(rat(l.Max)) > 0 && own.holdsOf(l.Key, at).Sign() == 0
	case catalog.Rate:
		n := m.counted(l, at, admitted)
		v.used, v.requested = whole(n), one
		v.denied = whole(n+1).Cmp(rat(l.Max)) > 0
		if most := rat(l.Max); l.Burst > 0 && most.Sign() > 0 {
			every := emission(most.Num().Int64(), l.Window.Length.Value().Nanoseconds())
			v.denied = v.denied || max(m.arrival(l.Key), at*1e6)+every-at*1e6 > l.Burst*every
		}
		v.denied = v.denied && own == nil
	case catalog.RetryBudget:
		retries := m.counted(l, at, func(p *past, part *pastPart) bool { return admitted(p, part) && part.retry })
		firsts := m.counted(l, at, func(p *past, part *pastPart) bool { return admitted(p, part) && !part.retry })
		v.used = whole(retries)
		attempt, retry := isRetry(ask.Data)
		if !retry || own != nil {
			break
		}
		v.retry, v.requested = true, one
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
		index, until, _ := m.cooldown(l.Key)
		denials, _ := m.denials(l, index, at)
		v.used = whole(denials)
		v.denied = until > at && own == nil
	}
	return v
}

// denials counts what a guard has seen since its last cooldown.
func (m *model) denials(l catalog.Limit, after int, at int64) (denials, all int64) {
	for i, p := range m.checks {
		part := p.parts[l.Key]
		if i <= after || part == nil || !part.guarded || p.at <= at-l.Window.Length.Value().Milliseconds() {
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
	changes := slices.Clone(t.changes)
	for _, p := range m.checks {
		changes = append(changes, p.at+l.Window.Length.Value().Milliseconds())
		if part := p.parts[l.Key]; part != nil {
			changes = append(changes, part.ends, part.cooldown)
		}
	}
	switch l.Kind {
	case catalog.Rate:
		if most := rat(l.Max); l.Burst > 0 && most.Sign() > 0 {
			every := emission(most.Num().Int64(), l.Window.Length.Value().Nanoseconds())
			earliest := m.arrival(l.Key) + every - l.Burst*every
			changes = append(changes, (earliest+999_999)/1_000_000)
		}
	case catalog.Quota, catalog.Budget:
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

func sameCheck(a, b limit.Ask) bool { return a.Quantity.Equal(b.Quantity) && a.Data.Equal(b.Data) }

// decide answers a check and remembers it. Renewed is true where the check's own hold answers it; written, where that is
// recorded.
func (m *model) decide(t terms, ask limit.Ask, now int64) (answer *past, verdicts map[catalog.LimitKey]verdict, renewed, written bool) {
	at := max(now, m.latest)
	own := m.own(source(ask), at)
	if own != nil && sameCheck(own.ask, ask) && own.allOpen(at) {
		written = m.renew(t, own, ask, at)
		return own, nil, true, written
	}
	m.latest = at
	verdicts = map[catalog.LimitKey]verdict{}
	answer = &past{ask: ask, at: at, allowed: true, again: own != nil, parts: map[catalog.LimitKey]*pastPart{}}
	for _, l := range t.limits {
		if !m.applies(t, l, ask.Type) {
			continue
		}
		v := m.judge(t, l, ask, at)
		if v.denied {
			v.resets = m.resets(t, l, ask, at)
			answer.allowed = false
		}
		verdicts[l.Key] = v
		answer.parts[l.Key] = &pastPart{kind: l.Kind, denied: v.denied, retry: v.retry, burst: l.Burst, widthMillis: l.Window.Length.Value().Milliseconds()}
		if l.Kind == catalog.Rate {
			answer.parts[l.Key].max = rat(l.Max).Num().Int64()
		}
	}
	if answer.allowed {
		if !ask.NoHold && len(answer.parts) > 0 {
			if own != nil {
				own.over = true
			}
			answer.until = at + ttlOf(ask, catalog.Duration{})
			if own != nil {
				answer.until = max(answer.until, own.until)
			}
			for _, l := range t.limits {
				if part := answer.parts[l.Key]; part != nil && (l.Kind == catalog.Quota || l.Kind == catalog.Budget || l.Kind == catalog.Concurrency) {
					part.holds, part.ends = verdicts[l.Key].requested, at+ttlOf(ask, l.HoldTTL)
					if own != nil && own.parts[l.Key] != nil {
						part.ends = max(part.ends, own.parts[l.Key].ends)
					}
					answer.until = max(answer.until, part.ends)
				}
			}
		}
	}
	// What is held goes on during a cooldown; outside of one it counts when it asks for more than it gets.
	for _, l := range t.limits {
		if part := answer.parts[l.Key]; part != nil && l.Kind == catalog.AbuseGuard {
			_, until, _ := m.cooldown(l.Key)
			part.guarded = until <= at && (own == nil || !answer.allowed)
		}
	}
	m.checks = append(m.checks, answer)
	for _, l := range t.limits {
		if part := answer.parts[l.Key]; part != nil && part.guarded && !answer.allowed {
			m.strike(l, part, at)
			if v := verdicts[l.Key]; part.cooldown > 0 {
				v.denied, v.resets = true, part.cooldown
				verdicts[l.Key] = v
			}
		}
	}
	return answer, verdicts, false, true
}

// strike starts a cooldown if there are too many denials; the one of now is among them.
func (m *model) strike(l catalog.Limit, part *pastPart, at int64) {
	index, until, strikes := m.cooldown(l.Key)
	denials, all := m.denials(l, index, at)
	if denials < l.Denials || new(big.Rat).SetFrac64(denials, all).Cmp(rat(l.Ratio)) < 0 {
		return
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
}

func (p *past) allOpen(at int64) bool {
	for _, part := range p.parts {
		if part.ends > 0 && part.ends <= at {
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
	until, ends := next(own.until, ttlOf(ask, catalog.Duration{})), map[catalog.LimitKey]int64{}
	for key, part := range own.parts {
		if part.ends == 0 {
			continue
		}
		ttl := catalog.Duration{}
		for _, l := range t.limits {
			if l.Key == key && m.applies(t, l, ask.Type) {
				ttl = l.HoldTTL
			}
		}
		ends[key] = next(part.ends, ttlOf(ask, ttl))
		until = max(until, ends[key])
	}
	if ask.NoHold || !moved {
		return false
	}
	m.latest = at
	own.until = until
	for key, at := range ends {
		own.parts[key].ends = at
	}
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
