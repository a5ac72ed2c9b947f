package limit

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
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
	// Lost is the plan that the tenant is assigned and that the catalog does not have. Its limits are unknown then, and no
	// check may be answered.
	Lost catalog.PlanKey

	prices   []pricedMeter
	needs    []Need
	remember time.Duration           // the longest sliding window of all plans
	fields   map[event.Type][]string // data fields that something in the catalog looks at, sorted
	levels   map[event.Type][]string // see levelsCounted
	next     func() *Policy          // what holds from Until on
}

// Limit is a limit of the plan with the tenant's own maximum, where it has one.
type Limit struct {
	catalog.Limit
	Overridden bool

	kind  event.LimitKind
	meter catalog.Meter           // of a quota
	own   map[level]money.Decimal // the tenant's own maximums of single values
}

// length is that of a sliding window in whole ticks.
func (l *Limit) length() time.Duration { return lengthOf(&l.Limit) }

// lengthOf is rounded up, so that a window that is no whole number of ticks never has more in it than its limit.
func lengthOf(l *catalog.Limit) time.Duration {
	return (l.Window.Length.Value() + time.Millisecond - 1).Truncate(time.Millisecond)
}

// holds reports whether an open hold takes something of the limit.
func (l *Limit) holds() bool {
	return l.kind == event.QuotaLimit || l.kind == event.ConcurrencyLimit || l.kind == event.BudgetLimit
}

// observes reports whether the limit is decided and recorded, and not enforced.
func (l *Limit) observes() bool { return l.Mode == catalog.Observe }

type pricedMeter struct {
	catalog.Price
	meter  catalog.Meter
	series Series
}

// NewPolicy puts together what holds at an instant.
func NewPolicy(c *catalog.Catalog, versions map[catalog.PlanKey]int, s tenant.Subscription, status tenant.Status, zone *time.Location, at time.Time) *Policy {
	p := &Policy{From: at, Status: status, Calendar: calendar.Calendar{Zone: zone}, remember: longestSliding(c), fields: fieldsLookedAt(c), levels: levelsCounted(c)}
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
	p.next = sync.OnceValue(func() *Policy { return NewPolicy(c, versions, s, status, zone, p.Until) })
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
		for _, o := range s.Overrides {
			if o.Limit != l.Key || o.Per == "" || !o.InForce(at) {
				continue
			}
			if values := o.Per.Map(); slices.Equal(slices.Sorted(maps.Keys(values)), l.Per) {
				if limit.own == nil {
					limit.own = map[level]money.Decimal{}
				}
				limit.own[level(whereKey(values))] = o.Max
			}
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

// longestSliding is how long an account has to remember admissions and denials. It is that of all plans, so that a tenant's next
// plan finds what was admitted under this one.
func longestSliding(c *catalog.Catalog) (longest time.Duration) {
	for i := range c.Plans {
		for j := range c.Plans[i].Limits {
			switch l := &c.Plans[i].Limits[j]; l.Kind {
			case catalog.Rate, catalog.RetryBudget, catalog.AbuseGuard:
				longest = max(longest, lengthOf(l))
			}
		}
	}
	return longest
}

// The data fields that say which attempt a check is.
const (
	fieldAttempt = "attempt"
	fieldRetryOf = "retryOf"
)

// fieldsLookedAt lists, for each event type, the data fields that a meter, limit or price of any plan looks at. A hold keeps
// them, so that it can be counted under the next plan.
func fieldsLookedAt(c *catalog.Catalog) map[event.Type][]string {
	sets := map[event.Type]map[string]bool{}
	look := func(eventType, field string) {
		if field == "" {
			return
		}
		t := event.Type(eventType)
		if sets[t] == nil {
			sets[t] = map[string]bool{fieldAttempt: true, fieldRetryOf: true}
		}
		sets[t][field] = true
	}
	for i := range c.Meters {
		m := &c.Meters[i]
		look(m.EventType, fieldAttempt)
		if field, ok := m.Field(); ok {
			look(m.EventType, field)
		}
		for _, dimension := range m.Dimensions {
			look(m.EventType, dimension)
		}
	}
	for i := range c.Plans {
		for j := range c.Plans[i].Limits {
			l := &c.Plans[i].Limits[j]
			for _, t := range l.On {
				for _, field := range append(slices.Clip(l.Per), l.Field) {
					look(t, field)
				}
			}
		}
	}
	fields := make(map[event.Type][]string, len(sets))
	for t, set := range sets {
		fields[t] = slices.Sorted(maps.Keys(set))
	}
	return fields
}

// wholeOf is a count of checks, rounded down: an override may be from when the limit counted something else.
func wholeOf(d money.Decimal) int64 {
	n, scale, ok := d.Floor().Coefficient()
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
		case len(l.Per) > 0: // see NeedsOf
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

// quantityOf is how much of a meter a check asks for: what it says, else the meter's estimate. known is false where it says
// nothing and there is no estimate.
func quantityOf(m *catalog.Meter, c event.Check) (q money.Decimal, known bool) {
	if q, known = usage.Quantity(*m, event.Usage{Identity: c.Identity, Quantity: c.Quantity, Data: c.Data}); known {
		return q, true
	}
	field, _ := m.Field()
	if v := c.Data.Get(field); v.Kind == event.Absent || v.Kind == event.Null {
		return m.Estimate, m.Estimate.Sign() > 0
	}
	return money.Decimal{}, false
}

// Check refuses a check that leaves out a field which a limit or a price of the policy looks at, or that has something else
// there: what is unknown is never zero. A tenant that is not active is denied, whatever its checks say. Error: *invalid.Error
// that names the fields.
func (p *Policy) Check(c event.Check) error {
	if p.Status != tenant.Active {
		return nil
	}
	var bad invalid.List
	seen := map[string]bool{}
	refuse := func(field, what string) {
		if seen[field] {
			return
		}
		seen[field] = true
		if v := c.Data.Get(field); v.Kind == event.Absent || v.Kind == event.Null {
			bad.Add("/data/"+invalid.Token(field), invalid.CodeEvent, fmt.Sprintf("data.%s is missing, and %s needs it", field, what))
		} else {
			bad.Add("/data/"+invalid.Token(field), invalid.CodeEvent, fmt.Sprintf("data.%s must be a number that the ledger can keep, as %s needs it", field, what))
		}
	}
	amount := func(m *catalog.Meter, what string) {
		if _, known := quantityOf(m, c); !known {
			field, _ := m.Field()
			refuse(field, what)
		}
	}
	for i := range p.Limits {
		l := &p.Limits[i]
		if !p.applies(l, c.Type) {
			continue
		}
		what := "the limit " + string(l.Key)
		for _, field := range l.Per {
			if v := c.Data.Get(field); v.Kind == event.Absent || v.Kind == event.Null {
				refuse(field, what)
			} else if _, ok := levelOf([]string{field}, c.Data); !ok {
				bad.Add("/data/"+invalid.Token(field), "invalid_event", fmt.Sprintf("data.%s must be a value of 1 to %d bytes, as %s counts by it", field, maxValue, what))
			}
		}
		switch l.kind {
		case event.QuotaLimit:
			amount(&l.meter, what)
		case event.MaxLimit:
			if l.Field == "" {
				continue
			}
			if _, ok := c.Data.Get(l.Field).Decimal(); !ok {
				refuse(l.Field, what)
			}
		case event.BudgetLimit:
			p.checkPrices(c, what, amount, refuse)
		}
	}
	return bad.Err()
}

// checkPrices looks at what the prices of a budget need: the fields that they are filtered by, and then what they are for.
func (p *Policy) checkPrices(c event.Check, what string, amount func(*catalog.Meter, string), refuse func(string, string)) {
	for i := range p.prices {
		price := &p.prices[i]
		if price.meter.EventType != string(c.Type) {
			continue
		}
		complete := true
		for _, field := range slices.Sorted(maps.Keys(price.Where)) {
			if v := c.Data.Get(field); v.Kind == event.Absent || v.Kind == event.Null {
				complete = false
				refuse(field, what)
			}
		}
		if complete && matches(price.Where, c.Data) {
			amount(&price.meter, what)
		}
	}
}
