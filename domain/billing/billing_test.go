package billing_test

import (
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// scenario is a tenant to whom anything may occur, in any order, and what the reference knows about it.
type scenario struct {
	*rapid.T
	account
	start   time.Time
	periods []stretch // that were closed
	tame    bool      // what was closed once stays the same period: the tenant began when it did, and its cycle moves only from now on
}

func choose[V any](t *rapid.T, name string, values ...V) V {
	return rapid.SampledFrom(values).Draw(t, name)
}

func chance(t *rapid.T, name string, percent int) bool {
	return even.Draw(t, name) < percent
}

// even is a number below 100, each as often as any other; integers of rapid are mostly small ones.
var even = rapid.Custom(func(t *rapid.T) (n int) {
	for range 6 {
		n *= 2
		if rapid.Bool().Draw(t, "bit") {
			n++
		}
	}
	return n * 100 / 64
})

var zones = func() (zones []*time.Location) {
	// Half-hour clocks, both hemispheres, and clocks that skip or repeat a midnight.
	for _, name := range []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Havana", "Asia/Beirut", "Pacific/Auckland"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			panic(err)
		}
		zones = append(zones, zone)
	}
	return zones
}()

func newScenario(t *rapid.T, tame bool) *scenario {
	s := &scenario{T: t, tame: tame, account: account{tenant: "acme", zone: choose(t, "zone", zones...)}}
	s.start = s.moment("start", time.Date(2023, 12, 25, 0, 0, 0, 0, time.UTC), 100)
	currency := choose[catalog.Currency](t, "currency", "USD", "USD", "JPY", "KWD")
	c := &catalog.Catalog{}
	for i := range rapid.IntRange(2, 3).Draw(t, "plans") {
		c.Plans = append(c.Plans, plan(t, catalog.PlanKey(fmt.Sprintf("plan_%d", i+1)), currency))
	}
	s.catalogs = []billing.Applied{{At: s.start.Add(time.Duration(rapid.IntRange(-20, 2).Draw(t, "first catalog")) * 24 * time.Hour), Catalog: c}}
	s.assign(s.start, s.anchor())
	return s
}

// moment is at most so many days after an instant: on a day's or hour's start, or at any microsecond.
func (s *scenario) moment(name string, from time.Time, days int) time.Time {
	at := from.Add(time.Duration(rapid.IntRange(0, days).Draw(s.T, name)) * 24 * time.Hour)
	switch choose(s.T, name+" of the day", 'd', 'd', 'h', 'u') {
	case 'h':
		at = at.Add(time.Duration(rapid.IntRange(1, 23).Draw(s.T, name+" hour")) * time.Hour)
	case 'u':
		at = at.Add(time.Duration(rapid.Int64Range(1, 86_399_999_999).Draw(s.T, name+" micros")) * time.Microsecond)
	}
	return at
}

// near is a moment that is often one which something else is at, or just before it.
func (s *scenario) near(name string, from time.Time, days int) time.Time {
	if !chance(s.T, name+" is special", 30) {
		return s.moment(name, from, days)
	}
	special := []time.Time{s.start, s.boundary()}
	for _, a := range s.subscription.Assignments {
		special = append(special, a.EffectiveAt)
	}
	for _, c := range s.catalogs {
		special = append(special, c.At)
	}
	for _, p := range s.periods {
		special = append(special, p.end)
	}
	special = append(special, s.stretchFrom(s.boundary()).end)
	at := choose(s.T, name, special...)
	if chance(s.T, name+" is just before", 30) {
		at = at.Add(-time.Microsecond)
	}
	if at.Before(from) {
		return from
	}
	return at
}

func (s *scenario) anchor() time.Time {
	return time.Date(2024, 1, rapid.IntRange(1, 31).Draw(s.T, "anchor"), 12, 0, 0, 0, time.UTC)
}

// boundary is the last one, or the start.
func (s *scenario) boundary() time.Time {
	if n := len(s.issued); n > 0 {
		return s.issued[n-1].PeriodEnd
	}
	return s.subscription.Assignments[0].EffectiveAt
}

func (s *scenario) assign(at, anchor time.Time) {
	plans := s.catalogs[0].Catalog.Plans
	s.subscription = s.subscription.Assign(tenant.Assignment{Plan: plans[rapid.IntRange(0, len(plans)-1).Draw(s.T, "plan")].Key, EffectiveAt: at, BillingAnchor: anchor})
}

var keys = []catalog.PriceKey{"base", "calls", "tokens", "extra", "minimum", "spend_cap"}

func plan(t *rapid.T, key catalog.PlanKey, currency catalog.Currency) catalog.Plan {
	p := catalog.Plan{Key: key, Currency: currency}
	for _, k := range rapid.Permutation(keys).Draw(t, "prices")[:rapid.IntRange(0, 4).Draw(t, "number of prices")] {
		p.Prices = append(p.Prices, price(t, k))
	}
	if chance(t, "has a minimum", 30) {
		p.Minimum = decimal(t, "minimum", 0, 9000, 2)
	}
	if chance(t, "has a cap", 30) {
		p.SpendCap = p.Minimum.Add(decimal(t, "cap", 1, 9000, 2))
	}
	return p
}

func price(t *rapid.T, key catalog.PriceKey) catalog.Price {
	p := catalog.Price{Key: key, Model: choose(t, "model", catalog.Flat, catalog.Flat, catalog.PerUnit, catalog.Package, catalog.Graduated, catalog.Volume, catalog.Percentage)}
	if p.Model == catalog.Flat {
		p.Amount, p.Arrears = decimal(t, "amount", 0, 9000, 3), chance(t, "in arrears", 40)
		return p
	}
	p.Meter = choose[catalog.MeterKey](t, "meter", "calls", "calls", "spend")
	if chance(t, "is filtered", 30) {
		p.Where = map[string]string{"model": choose(t, "where", "a", "b")}
	}
	if chance(t, "has free units", 40) {
		p.Included = decimal(t, "included", 0, 500, 1)
	}
	switch p.Model {
	case catalog.Percentage:
		p.Percent = decimal(t, "percent", 1, 500, 2)
	case catalog.Package:
		p.Size = decimal(t, "size", 1, 500, 1)
		p.Unit = decimal(t, "unit", 0, 500, 4)
	case catalog.PerUnit:
		p.Unit = decimal(t, "unit", 0, 500, 4)
	default:
		var upTo money.Decimal
		for range rapid.IntRange(0, 3).Draw(t, "tiers") {
			upTo = upTo.Add(decimal(t, "step", 1, 300, 1))
			p.Tiers = append(p.Tiers, catalog.Tier{UpTo: upTo, Unit: decimal(t, "unit", 0, 500, 4)})
		}
		p.Tiers = append(p.Tiers, catalog.Tier{Unit: decimal(t, "unit", 0, 500, 4)})
	}
	return p
}

func decimal(t *rapid.T, name string, least, most int64, scale int) money.Decimal {
	return money.Scaled(rapid.Int64Range(least, most).Draw(t, name), rapid.IntRange(0, scale).Draw(t, name+" scale"))
}

// uses records some usage, in time or late, and corrections that take some back.
func (s *scenario) uses() {
	for range rapid.IntRange(1, 4).Draw(s.T, "events") {
		u := used{meter: choose[catalog.MeterKey](s.T, "meter", "calls", "calls", "spend"), quantity: decimal(s.T, "quantity", -50, 1000, 2)}
		u.at = s.near("occurs", s.start.AddDate(0, 0, -10), int(s.boundary().Sub(s.start).Hours()/24)+50)
		if chance(s.T, "has a model", 60) {
			u.data = map[string]string{"model": choose(s.T, "model", "a", "b")}
		}
		s.usage = append(s.usage, u)
	}
}

// changesPlan assigns a plan from any instant on: in the past, before the start, at the same as another one, or to come.
func (s *scenario) changesPlan() {
	from, days := s.start.AddDate(0, 0, -20), 40
	if s.tame {
		from = s.start
	}
	if chance(s.T, "to come", 40) {
		from = s.boundary()
	}
	at := s.near("effective", from, int(s.boundary().Sub(from).Hours()/24)+days)
	anchor := s.assignedAt(at).BillingAnchor
	if anchor.IsZero() || chance(s.T, "moves the cycle", 25) && (!s.tame || !at.Before(s.boundary())) {
		anchor = s.anchor()
	}
	s.assign(at, anchor)
	s.start = s.subscription.Assignments[0].EffectiveAt
}

// changesCatalog applies another catalog: other prices, or only other limits.
func (s *scenario) changesCatalog() {
	last := s.catalogs[len(s.catalogs)-1]
	c := &catalog.Catalog{Plans: slices.Clone(last.Catalog.Plans)}
	i := rapid.IntRange(0, len(c.Plans)-1).Draw(s.T, "changed")
	if p := &c.Plans[i]; chance(s.T, "other prices", 70) {
		*p = plan(s.T, p.Key, p.Currency)
	} else {
		p.Limits = []catalog.Limit{{Key: "l", Max: decimal(s.T, "max", 0, 9, 0)}}
		p.Grace, _ = catalog.ParseDuration(choose(s.T, "grace", "6h", "1d"))
	}
	s.catalogs = append(s.catalogs, billing.Applied{At: s.near("applied", last.At, 30), Catalog: c})
}

// closes finalises the next invoice, and compares everything that was invoiced so far with what the reference owes.
func (s *scenario) closes() {
	ended := func(at time.Time) bool { return !s.closed.IsZero() && !at.Before(s.closed) }
	inv, ok := s.close(s.T)
	before := s.subscription.Assignments[0].EffectiveAt // of the period that is due
	if n := len(s.issued); ok && n > 1 {
		before = s.issued[n-2].PeriodEnd
	} else if !ok && n > 0 {
		before = s.issued[n-1].PeriodEnd
	}
	require.Equal(s.T, !ended(before), ok, "something is due until the tenant is closed")
	if !ok {
		return
	}
	p := s.stretchFrom(before)
	if starts := inv.PeriodEnd.Equal(before); starts {
		require.Len(s.T, s.issued, 1)
	} else {
		require.Equal(s.T, p, stretch{inv.PeriodStart, inv.PeriodEnd, inv.CycleStart, inv.CycleEnd})
		s.periods = append(s.periods, p)
	}
	if len(s.issued) == 1 {
		ahead := s.owed(nil, &p)
		require.Equal(s.T, len(ahead) > 0, inv.PeriodEnd.Equal(before), "who pays in advance has an invoice at the start")
	}
	s.compares(inv)
}

// compares shows that all invoices together are what is owed, price by price and period by period.
func (s *scenario) compares(last event.Invoice) {
	past := append(s.begun(s.issued[0].PeriodStart), s.periods...)
	known, until := past, time.Time{}
	var next *stretch
	if s.closed.IsZero() || last.PeriodEnd.Before(s.closed) {
		p := s.stretchFrom(last.PeriodEnd)
		next, until = &p, p.end
		known = append(slices.Clone(past), p)
	}
	invoiced, forgiven := amounts{}, amounts{}
	for _, i := range s.issued {
		if i.Voided != nil && i.Voided.Rebill {
			continue
		}
		for _, l := range i.Lines {
			if next != nil && !l.PeriodStart.Before(until) && !until.Equal(s.closed) {
				continue // paid ahead in a cycle that has moved since: it counts for a period that is to come
			}
			n := slices.IndexFunc(known, func(p stretch) bool { return !l.PeriodStart.Before(p.start) && l.PeriodStart.Before(p.end) })
			if n < 0 {
				n = len(known) - 1 // after the tenant is closed
			}
			invoiced.add(entry{n, l.Price}, rat(l.Amount))
			if i.Voided != nil {
				forgiven.add(entry{n, l.Price}, rat(l.Amount))
			}
		}
	}
	owed := s.owed(past, next)
	for e, amount := range invoiced {
		if owed[e] == nil {
			owed[e] = new(big.Rat)
		}
		if f := forgiven[e]; f != nil && f.Sign() > 0 && amount.Cmp(owed[e]) > 0 {
			continue // what was forgiven is not owed back
		}
		require.Zero(s.T, owed[e].Cmp(amount), "%+v: owed %s, invoiced %s", e, owed[e].FloatString(4), amount.FloatString(4))
	}
	for e, amount := range owed {
		require.True(s.T, amount.Sign() == 0 || invoiced[e] != nil, "%+v: owed %s, not invoiced", e, amount.FloatString(4))
	}
	for _, l := range last.Lines {
		// Adjustments are of what was on an invoice before, or of a time before all invoices.
		if l.Kind == event.AdjustmentLine {
			before := slices.ContainsFunc(s.issued[:len(s.issued)-1], func(i billing.Issued) bool {
				return slices.ContainsFunc(i.Lines, func(other event.InvoiceLine) bool { return !other.PeriodStart.Before(l.PeriodStart) })
			})
			require.True(s.T, l.PeriodStart.Before(last.PeriodStart) || before, "%+v", l)
		}
	}
}

// voids takes an invoice back. The next invoices are then the same as if nothing had been, where it is forgiven and nothing is
// owed back; else it has
// once more what was on the void one, and none after it has.
func (s *scenario) voids() {
	var open []int
	for i := range s.issued {
		if s.issued[i].Voided == nil {
			open = append(open, i)
		}
	}
	if len(open) == 0 {
		return
	}
	i, rebill := choose(s.T, "voided", open...), rapid.Bool().Draw(s.T, "rebill")
	kept, voided := s.copied(), s.copied()
	voided.void(i, rebill)
	s.void(i, rebill)
	for n := range 3 {
		as, ok := kept.close(s.T)
		again, same := voided.close(s.T)
		require.Equal(s.T, ok, same)
		if !ok {
			return
		}
		if !rebill {
			if slices.ContainsFunc(as.Lines, func(l event.InvoiceLine) bool { return l.Kind == event.AdjustmentLine && l.Amount.Sign() < 0 }) {
				require.GreaterOrEqual(s.T, again.Total.Cmp(as.Total), 0, "less may come back: what was forgiven does not")
				return
			}
			require.Equal(s.T, encoded(s.T, as), encoded(s.T, again))
			continue
		}
		if slices.ContainsFunc(s.issued, func(i billing.Issued) bool { return i.Voided != nil && !i.Voided.Rebill }) {
			continue // what the void invoice gave back of something that was forgiven is not given back again
		}
		more := again.Total.Sub(as.Total)
		if n == 0 && !slices.ContainsFunc(s.issued[i].Lines, func(l event.InvoiceLine) bool { return l.PeriodStart.After(as.PeriodEnd) }) {
			require.True(s.T, more.Equal(s.issued[i].Total), "%s more, of %s", more, s.issued[i].Total)
		} else if n > 0 && !slices.ContainsFunc(s.issued[i].Lines, func(l event.InvoiceLine) bool { return l.PeriodStart.After(as.PeriodStart) }) {
			require.Zero(s.T, more.Sign(), "%s once more", more)
		}
	}
}

// ends closes the tenant after what was invoiced, or opens it again.
func (s *scenario) ends() {
	if s.closed.IsZero() {
		s.closed = s.near("closed", s.boundary().Add(time.Microsecond), 30)
	} else if chance(s.T, "opens again", 30) {
		s.closed = time.Time{}
	}
}

// All invoices of a tenant together are what it owes, after each of them, whatever occurred in whatever order. What holds for
// each invoice by itself is checked where it is drafted.
func TestInvoicesTogetherAreWhatIsOwed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newScenario(t, false)
		for range rapid.IntRange(2, 14).Draw(t, "steps") {
			switch n := even.Draw(t, "step"); {
			case n < 35:
				s.closes()
			case n < 60:
				s.uses()
			case n < 76:
				s.changesPlan()
			case n < 88:
				s.changesCatalog()
			case n < 92:
				s.voids()
			default:
				s.ends()
			}
		}
		s.closes()
		s.closes()
	})
}

// Who closes late owes the same as who closes each period in time, and learns of late usage and changed plans afterwards;
// and the order in which usage is known does not matter.
func TestClosingLateOwesTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newScenario(t, true)
		for range rapid.IntRange(2, 12).Draw(t, "steps") {
			switch n := even.Draw(t, "step"); {
			case n < 35:
				s.closes()
			case n < 70:
				s.uses()
			case n < 85:
				s.changesPlan()
			default:
				s.changesCatalog()
			}
		}
		s.closes()
		late := s.copied()
		late.issued = nil
		late.usage = rapid.Permutation(s.usage).Draw(t, "usage in another order")
		for ok := true; ok && (len(late.issued) == 0 || late.issued[len(late.issued)-1].PeriodEnd.Before(s.boundary())); {
			_, ok = late.close(t)
		}
		// Fees ahead for a cycle that has moved since stand on the invoices that were made in time; the next one counts them.
		_, ok := s.close(t)
		_, lateOK := late.close(t)
		require.Equal(t, ok, lateOK)
		until := s.stretchFrom(s.boundary()).end
		total := func(a *account) (sum money.Decimal) {
			for _, i := range a.issued {
				for _, l := range i.Lines {
					if l.PeriodStart.Before(until) {
						sum = sum.Add(l.Amount)
					}
				}
			}
			return sum
		}
		require.Equal(t, s.boundary(), late.issued[len(late.issued)-1].PeriodEnd)
		require.Equal(t, total(&s.account).String(), total(late).String())
	})
}

// The order in which usage is known does not change a byte of an invoice.
func TestOrderOfUsageDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newScenario(t, false)
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			s.uses()
			s.closes()
		}
		s.uses()
		s.changesPlan()
		other := s.copied()
		other.usage = rapid.Permutation(s.usage).Draw(t, "usage in another order")
		one, ok := s.draft(t)
		two, same := other.draft(t)
		require.Equal(t, ok, same)
		if ok {
			require.Equal(t, encoded(t, one), encoded(t, two))
		}
	})
}
