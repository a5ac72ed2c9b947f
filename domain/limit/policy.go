package limit

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/domain/usage"
)

// StatusLimit is the limit that denies every check of a tenant that is not active. No plan has one of this name.
const StatusLimit = catalog.StatusLimit

// Policy is what holds for one tenant from From on and before Until. It is immutable.
type Policy struct {
	Status      tenant.Status
	PlanVersion string // "pro@3"; "" for a tenant without a plan: nothing of it is limited
	Currency    catalog.Currency
	Limits      []Limit // in the order of the plan
	Calendar    calendar.Calendar
	From, Until time.Time // zero Until: until something is changed
	// Lost is the plan that the tenant is assigned and that the catalog does not have. Nobody knows its limits then, and no
	// check may be answered.
	Lost catalog.PlanKey

	prices []pricedMeter
	needs  []Need
	next   func() *Policy // what holds from Until on
}

// Limit is a limit of the plan with the tenant's own maximum, where it has one.
type Limit struct {
	catalog.Limit
	Overridden bool

	kind  event.LimitKind
	meter catalog.Meter // of a quota
}

// length is that of a sliding window in whole ticks, rounded up, so that a window that is no whole number of them never
// has more in it than its limit.
func (l *Limit) length() time.Duration {
	return (l.Window.Length.Value() + time.Millisecond - 1).Truncate(time.Millisecond)
}

type pricedMeter struct {
	catalog.Price
	meter  catalog.Meter
	series Series
}

// NewPolicy puts together what holds at an instant.
func NewPolicy(c *catalog.Catalog, versions map[catalog.PlanKey]int, s tenant.Subscription, status tenant.Status, zone *time.Location, at time.Time) *Policy {
	p := &Policy{From: at, Status: status, Calendar: calendar.Calendar{Zone: zone}}
	if status != tenant.Active {
		p.Limits = append(p.Limits, Limit{Limit: catalog.Limit{Key: StatusLimit, Kind: catalog.Access}, kind: event.AccessLimit})
	}
	change := func(t time.Time) {
		if t.After(at) && (p.Until.IsZero() || t.Before(p.Until)) {
			p.Until = t
		}
	}
	for _, a := range s.Assignments {
		change(a.EffectiveAt)
	}
	for _, o := range s.Overrides {
		change(o.From)
		change(o.Until)
	}
	p.next = func() *Policy { return NewPolicy(c, versions, s, status, zone, p.Until) }
	assigned, ok := s.At(at)
	if !ok {
		return p
	}
	p.Calendar.Anchor = assigned.BillingAnchor
	i := slices.IndexFunc(c.Plans, func(plan catalog.Plan) bool { return plan.Key == assigned.Plan })
	if i < 0 {
		p.Lost = assigned.Plan
		return p
	}
	plan := &c.Plans[i]
	p.PlanVersion = fmt.Sprintf("%s@%d", plan.Key, max(versions[plan.Key], 1))
	p.Currency = plan.Currency
	meter := func(key catalog.MeterKey) catalog.Meter {
		i := slices.IndexFunc(c.Meters, func(m catalog.Meter) bool { return m.Key == key })
		return c.Meters[i] // the catalog refuses references to what it does not have
	}
	for _, l := range plan.Limits {
		limit := Limit{Limit: l, kind: event.ParseLimitKind(string(l.Kind))}
		if o, ok := s.Override(l.Key, at); ok && l.HasMax() {
			limit.Max, limit.Overridden = o.Max, true
			limit.Burst = min(limit.Burst, wholeOf(o.Max))
		}
		if l.Meter != "" {
			limit.meter = meter(l.Meter)
		}
		p.Limits = append(p.Limits, limit)
	}
	for _, price := range plan.Prices {
		if price.Meter != "" {
			p.prices = append(p.prices, pricedMeter{price, meter(price.Meter), Series{price.Meter, whereKey(price.Where)}})
		}
	}
	p.needs = p.findNeeds()
	return p
}

// wholeOf is a count of checks; the catalog makes sure that it is one.
func wholeOf(d money.Decimal) int64 {
	n, scale, ok := d.Coefficient()
	if !ok || scale != 0 {
		return 0
	}
	return n
}

// Series is what an account adds up: the quantities of a meter, or the part of them that has these dimensions.
type Series struct {
	Meter catalog.MeterKey
	Where string // see whereKey; "" is all
}

// Need is a series that a policy looks at.
type Need struct {
	Series
	Where   map[string]string
	Minutes bool // by the minute; else by the quarter of an hour
}

// Needs lists the series that the policy looks at, each once. Do not change them.
func (p *Policy) Needs() []Need { return p.needs }

func (p *Policy) findNeeds() []Need {
	needs := map[Series]Need{}
	add := func(s Series, where map[string]string, minutes bool) {
		needs[s] = Need{s, where, needs[s].Minutes || minutes}
	}
	for i := range p.Limits {
		l := &p.Limits[i]
		minutes := l.Window.Period == catalog.Minute
		switch {
		case l.Credits: // the credit tracker counts
		case l.kind == event.QuotaLimit:
			add(Series{Meter: l.Meter}, nil, minutes)
		case l.kind == event.BudgetLimit:
			for _, price := range p.prices {
				add(price.series, price.Where, minutes)
			}
		}
	}
	return slices.SortedFunc(maps.Values(needs), func(a, b Need) int { return compareSeries(a.Series, b.Series) })
}

// Credits reports whether a limit looks at the credit of the tenant.
func (p *Policy) Credits() bool {
	return slices.ContainsFunc(p.Limits, func(l Limit) bool { return l.Credits })
}

// applies reports whether the limit looks at checks of this type.
func (p *Policy) applies(l *Limit, t event.Type) bool {
	if l.Key == StatusLimit {
		return true
	}
	switch l.kind {
	case event.QuotaLimit:
		return l.meter.EventType == string(t)
	case event.BudgetLimit:
		return slices.ContainsFunc(p.prices, func(price pricedMeter) bool { return price.meter.EventType == string(t) })
	case event.AbuseGuardLimit:
		return true
	default:
		return slices.Contains(l.On, string(t))
	}
}

// requested is how much of a meter a check asks for; known is false when the data does not say.
func requested(m catalog.Meter, c event.Check) (q money.Decimal, known bool) {
	return usage.Quantity(m, event.Usage{Identity: c.Identity, Quantity: c.Quantity, Data: c.Data})
}
