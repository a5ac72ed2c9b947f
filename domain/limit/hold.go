package limit

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/btree"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Hold is an allowed check whose usage has not arrived, and the memory that makes asking again harmless. It keeps what was
// asked: event type, quantity, the data that limits and prices look at, and when it ends. What it takes of a limit is computed
// from that under the policy in force, so no change of plan, catalog or override loses it.
type Hold struct {
	event.LimitDecided
	Position eventstore.Position // of the decision
}

func (h *Hold) source() Source { return Source{h.Type, h.Source} }

func (h *Hold) check() event.Check {
	return event.Check{Identity: h.Identity, Quantity: h.Quantity, Data: h.Data}
}

// ends is when the hold ends for a limit: when the client was told for this limit or, for a limit that was not there when the
// check was decided, the latest instant that the client was told.
func (h *Hold) ends(l *Limit) Tick {
	latest := Tick(0)
	for i := range h.Parts {
		p := &h.Parts[i]
		if p.ExpiresAt.IsZero() {
			continue
		}
		end := TickOf(p.ExpiresAt)
		if keyOf(p) == l.key() {
			return end
		}
		latest = max(latest, end)
	}
	if latest == 0 {
		return TickOf(h.KeepUntil)
	}
	return latest
}

// recorded is what the decision said that the hold keeps of a limit.
func (h *Hold) recorded(l *Limit) money.Decimal {
	for i := range h.Parts {
		if p := &h.Parts[i]; keyOf(p) == l.key() && !p.ExpiresAt.IsZero() {
			return p.Requested
		}
	}
	return money.Decimal{}
}

// amounts is what something takes of a limit. A quota and a concurrency limit have one amount. A budget has a quantity for each
// price of the policy, and at the end an amount of money that no price is known for.
type amounts []money.Decimal

func (a amounts) plus(b amounts) amounts {
	sum := make(amounts, len(a))
	for i := range a {
		sum[i] = a[i].Add(b[i])
	}
	return sum
}

func (a amounts) add(b amounts) {
	for i := range a {
		a[i] = a[i].Add(b[i])
	}
}

func (a amounts) sub(b amounts) {
	for i := range a {
		a[i] = a[i].Sub(b[i])
	}
}

// size is how many amounts a limit has.
func (p *Policy) size(l *Limit) int {
	if l.kind == event.BudgetLimit {
		return len(p.prices) + 1
	}
	return 1
}

// takes is what a check takes of a limit while it is held: nothing where the limit does not apply, and never less than nothing.
// What the data leaves out counts as the meter's estimate.
func (p *Policy) takes(l *Limit, c event.Check) amounts {
	a := make(amounts, p.size(l))
	switch {
	case !p.applies(l, c.Type):
	case l.kind == event.ConcurrencyLimit:
		a[0] = money.Int(1)
	case l.kind == event.QuotaLimit:
		a[0], _ = quantityOf(&l.meter, c)
	case l.kind == event.BudgetLimit:
		for i := range p.prices {
			if price := &p.prices[i]; price.meter.EventType == string(c.Type) && matches(price.Where, c.Data) {
				a[i], _ = quantityOf(&price.meter, c)
			}
		}
	}
	for i := range a {
		a[i] = a[i].Max(money.Decimal{})
	}
	return a
}

// takenBy is what a hold takes of a limit. A decision of the first form did not keep the data: then it is what was recorded for
// the limit of the same name, as far as the quantity does not say it.
func (p *Policy) takenBy(l *Limit, h *Hold) amounts {
	c := h.check()
	if h.Asked || !p.applies(l, c.Type) {
		return p.takes(l, c)
	}
	a := make(amounts, p.size(l))
	switch before := h.recorded(l); {
	case l.kind == event.BudgetLimit && before.Sign() > 0:
		a[len(a)-1] = before
	case l.kind == event.QuotaLimit && before.Sign() > 0:
		a[0] = before
	default:
		return p.takes(l, c)
	}
	return a
}

// lease is what a hold takes of one limit, ordered by when it ends.
type lease struct {
	ends   Tick
	source Source
	takes  amounts
}

func (a lease) before(b lease) bool {
	if a.ends != b.ends {
		return a.ends < b.ends
	}
	return compareSources(a.source, b.source) < 0
}

const branching = 16 // of the trees

func newTree() *btree.BTreeG[lease] { return btree.NewG(branching, lease.before) }

// pool is what is held of one limit: the leases that have not ended, and their sum.
type pool struct {
	leases *btree.BTreeG[lease]
	sum    amounts
}

func (p *pool) put(l lease) {
	if _, replaced := p.leases.ReplaceOrInsert(l); replaced {
		panic(fmt.Sprintf("limit: two leases of %s end at %d", l.source.Source, l.ends)) // a hold is dropped before it is replaced
	}
	p.sum.add(l.takes)
}

func (p *pool) drop(l lease) {
	if gone, ok := p.leases.Delete(l); ok {
		p.sum.sub(gone.takes)
	}
}

// heldUnder is what the open holds take under one policy: a pool for each level of each limit that holds something.
type heldUnder struct {
	policy *Policy
	pools  []map[level]*pool // by the index of the limit; nil for limits that hold nothing
}

func newHeldUnder(p *Policy, holds map[Source]*Hold) *heldUnder {
	h := &heldUnder{policy: p, pools: make([]map[level]*pool, len(p.Limits))}
	for i := range p.Limits {
		if p.Limits[i].holds() {
			h.pools[i] = map[level]*pool{}
		}
	}
	for _, hold := range holds { // a sum and a tree do not depend on the order
		h.put(hold)
	}
	return h
}

// each visits the limits that a hold takes something of, with the level that it belongs to.
func (h *heldUnder) each(hold *Hold, visit func(i int, l *Limit, of level)) {
	for i := range h.pools {
		l := &h.policy.Limits[i]
		if h.pools[i] == nil || !h.policy.applies(l, hold.Type) {
			continue
		}
		if of, ok := levelOf(l.Per, hold.Data); ok { // what was held before anybody counted by the field belongs to no value of it
			visit(i, l, of)
		}
	}
}

func (h *heldUnder) put(hold *Hold) {
	h.each(hold, func(i int, l *Limit, of level) {
		at := h.pools[i][of]
		if at == nil {
			at = &pool{leases: newTree(), sum: make(amounts, h.policy.size(l))}
			h.pools[i][of] = at
		}
		at.put(lease{hold.ends(l), hold.source(), h.policy.takenBy(l, hold)})
	})
}

func (h *heldUnder) drop(hold *Hold) {
	h.each(hold, func(i int, l *Limit, of level) {
		at := h.pools[i][of]
		if at == nil {
			return
		}
		at.drop(lease{ends: hold.ends(l), source: hold.source()})
		if at.leases.Len() == 0 {
			delete(h.pools[i], of)
		}
	})
}

// noLeases are those of a level without a pool.
var noLeases = newTree()

// at is the pool of a level at an instant that has come, without the leases that have ended: what they took and the leases in
// the order in which they end. There is no pool where nothing is held.
func (h *heldUnder) at(i int, of level, now Tick) (sum amounts, leases *btree.BTreeG[lease]) {
	p := h.pools[i][of]
	if p == nil {
		return make(amounts, h.policy.size(&h.policy.Limits[i])), noLeases
	}
	for {
		first, ok := p.leases.Min()
		if !ok || first.ends > now {
			return slices.Clone(p.sum), p.leases
		}
		p.drop(first)
	}
}

// maxPolicies bounds the policies that an account computes holds for: the one in force and those that follow it when a denial
// looks ahead.
const maxPolicies = 4

// under is what is held under a policy.
func (a *Account) under(p *Policy) *heldUnder {
	for i, h := range a.held {
		if h.policy == p {
			a.held = append(append(a.held[:i], a.held[i+1:]...), h)
			return h
		}
	}
	h := newHeldUnder(p, a.holds)
	if len(a.held) == maxPolicies {
		a.held = append(a.held[:0], a.held[1:]...)
	}
	a.held = append(a.held, h)
	return h
}

// Held lists the open holds in the order in which they end, each with the parts that it takes of the limits of a policy. Of a
// budget that is what it adds to all that is used and held otherwise; of one that counts by data fields, what it costs alone.
func (a *Account) Held(p *Policy, now time.Time) []Hold {
	at := a.advance(now)
	open := make([]Hold, 0, len(a.holds))
	a.endings.AscendGreaterOrEqual(lease{ends: at + 1}, func(l lease) bool {
		h := *a.holds[l.source]
		h.Parts = a.parts(p, a.holds[l.source], at)
		open = append(open, h)
		return true
	})
	return open
}

func (a *Account) parts(p *Policy, h *Hold, at Tick) (parts []event.LimitPart) {
	d := &decision{account: a, policy: p, ask: Ask{Check: h.check()}, at: at, own: h}
	for i := range p.Limits {
		l := &p.Limits[i]
		takes := d.owns(i, at)
		if !l.holds() || takes == nil {
			continue
		}
		part := event.LimitPart{Limit: string(l.Key), Kind: l.kind, Per: h.Data.Only(l.Per...), Max: l.Max, Overridden: l.Overridden, Observed: l.observes(), ExpiresAt: h.ends(l).Time()}
		switch {
		case l.kind != event.BudgetLimit:
			part.Requested = takes[0]
		case len(l.Per) > 0:
			part.Requested = total(p)(make(amounts, len(takes)), takes)
		default:
			part.Requested = d.ownPart(i)
		}
		parts = append(parts, part)
	}
	return parts
}
