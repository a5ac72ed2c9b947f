// Package billing owns what a tenant owes: its billing periods, the terms in each part of them, the lines they lead to, the
// invoice, the tenant's credit and the journal. All of it is pure: the same usage, agreement and earlier invoices always give
// the same invoice. Where the numbers come from and how an invoice is paid is decided elsewhere.
package billing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// Terms are what a tenant pays from an instant on.
type Terms struct {
	From    time.Time
	Plan    *catalog.Plan // nil if the plan is not in the catalog: what is owed is unknown
	Key     catalog.PlanKey
	Version string // "pro@3"
	Anchor  time.Time
}

// Applied is a catalog and the instant from which it is in force.
type Applied struct {
	At       time.Time
	Catalog  *catalog.Catalog
	Versions map[catalog.PlanKey]int
}

// TermsOf returns what a tenant pays over time, from its plan assignments and the catalogs, which are in the order of their
// instants. Before the first catalog that has a plan, that catalog applies to it.
func TermsOf(s tenant.Subscription, catalogs []Applied) []Terms {
	var instants []time.Time
	for _, a := range s.Assignments {
		instants = append(instants, a.EffectiveAt)
	}
	for _, c := range catalogs {
		if len(s.Assignments) > 0 && c.At.After(s.Assignments[0].EffectiveAt) {
			instants = append(instants, c.At)
		}
	}
	slices.SortFunc(instants, time.Time.Compare)
	var all []Terms
	for _, at := range slices.CompactFunc(instants, time.Time.Equal) {
		assigned, ok := s.At(at)
		if !ok || len(catalogs) == 0 {
			continue
		}
		next := termsAt(assigned, inForce(catalogs, assigned.Plan, at), at)
		if n := len(all); n == 0 || !same(all[n-1], next) {
			all = append(all, next)
		} else {
			all[n-1].Plan = next.Plan // its grace is the newest
		}
	}
	return all
}

// inForce is the catalog at an instant, or the first one after it where that does not have the plan.
func inForce(catalogs []Applied, plan catalog.PlanKey, at time.Time) *Applied {
	c := &catalogs[0]
	for i := range catalogs {
		if !catalogs[i].At.After(at) {
			c = &catalogs[i]
		} else if c.plan(plan) == nil {
			c = &catalogs[i]
		}
	}
	return c
}

func (a *Applied) plan(key catalog.PlanKey) *catalog.Plan {
	if i := slices.IndexFunc(a.Catalog.Plans, func(p catalog.Plan) bool { return p.Key == key }); i >= 0 {
		return &a.Catalog.Plans[i]
	}
	return nil
}

func termsAt(a tenant.Assignment, c *Applied, at time.Time) Terms {
	t := Terms{From: at, Key: a.Plan, Anchor: a.BillingAnchor}
	if t.Plan = c.plan(a.Plan); t.Plan != nil {
		t.Version = fmt.Sprintf("%s@%d", a.Plan, max(c.Versions[a.Plan], 1))
	}
	return t
}

// same reports whether both charge the same: limits and grace make no difference to prices.
func same(a, b Terms) bool {
	return a.Key == b.Key && a.Anchor.Equal(b.Anchor) && (a.Plan == nil) == (b.Plan == nil) && (a.Plan == nil || bytes.Equal(pricesOf(a.Plan), pricesOf(b.Plan)))
}

func pricesOf(p *catalog.Plan) []byte {
	text, err := json.Marshal(catalog.Plan{Currency: p.Currency, Prices: p.Prices, Minimum: p.Minimum, SpendCap: p.SpendCap})
	if err != nil {
		panic(fmt.Sprintf("billing: a plan cannot be encoded: %v", err)) // the catalog encodes it in the same way
	}
	return text
}

// Period is a billing period [Start, End). It is its whole cycle, or a part of it where the tenant started, changed its anchor
// or was closed in mid-cycle.
type Period struct {
	Start, End time.Time
	Cycle      calendar.Window
}

// Contains reports whether t is in the period.
func (p Period) Contains(t time.Time) bool { return !t.Before(p.Start) && t.Before(p.End) }

// Segment is a part of a period with one set of terms.
type Segment struct {
	Terms
	Start, End time.Time
}

// Agreement is what a tenant pays over time, and the calendar that it is billed by.
type Agreement struct {
	Terms  []Terms // ascending, not empty
	Zone   *time.Location
	Closed time.Time // when the tenant was closed; zero: it is not
}

// Start is the start of the first period.
func (a *Agreement) Start() time.Time { return a.Terms[0].From }

// Ended reports whether the tenant is closed at an instant: no period starts there or later.
func (a *Agreement) Ended(at time.Time) bool { return !a.Closed.IsZero() && !at.Before(a.Closed) }

// Next is the period that starts at an instant: the end of the period before it, or Start. So periods have neither gaps nor
// overlaps, whatever happens to plans, anchors and zones in the meantime.
func (a *Agreement) Next(start time.Time) Period {
	terms := a.at(start)
	cycle := calendar.Calendar{Zone: a.Zone, Anchor: terms.Anchor}.Window(catalog.BillingCycle, start)
	end := cycle.End
	for i := range a.Terms {
		if t := &a.Terms[i]; t.From.After(start) && t.From.Before(end) && !t.Anchor.Equal(terms.Anchor) {
			end = t.From
			break
		}
	}
	if !a.Closed.IsZero() && a.Closed.After(start) && a.Closed.Before(end) {
		end = a.Closed
	}
	return Period{Start: start, End: end, Cycle: cycle}
}

// at returns the terms at an instant; before the first terms, those.
func (a *Agreement) at(t time.Time) *Terms {
	found := &a.Terms[0]
	for i := range a.Terms {
		if !a.Terms[i].From.After(t) {
			found = &a.Terms[i]
		}
	}
	return found
}

// Segments cuts a period where the terms change.
func (a *Agreement) Segments(p Period) []Segment {
	var segments []Segment
	for i := range a.Terms {
		s := Segment{Terms: a.Terms[i], Start: p.Start, End: p.End}
		if s.From.After(s.Start) {
			s.Start = s.From
		}
		if i+1 < len(a.Terms) && a.Terms[i+1].From.Before(s.End) {
			s.End = a.Terms[i+1].From
		}
		if s.Start.Before(s.End) {
			segments = append(segments, s)
		}
	}
	return segments
}
