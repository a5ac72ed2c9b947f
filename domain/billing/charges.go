package billing

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/pricing"
)

// Measure asks for a sum: of a meter, or of its part with certain dimensions, over the usage that occurred in [From, To).
type Measure struct {
	Meter    catalog.MeterKey
	Where    map[string]string
	Except   []map[string]string // without usage that has all dimensions of one of these
	From, To time.Time
}

// Equal reports whether both ask for the same sum.
func (m Measure) Equal(other Measure) bool {
	return m.Meter == other.Meter && m.From.Equal(other.From) && m.To.Equal(other.To) && maps.Equal(m.Where, other.Where) &&
		slices.EqualFunc(m.Except, other.Except, maps.Equal)
}

// Sum is the answer to a measure.
type Sum struct {
	Quantity money.Decimal
	Events   int64
}

// Sums answers measures.
type Sums func(Measure) Sum

// MissingSum is what SumsOf does with a measure that it has no sum for.
type MissingSum bool

// The two answers.
const (
	MissingIsZero MissingSum = true  // there is no usage: zero
	MissingPanics MissingSum = false // panic
)

// SumsOf answers measures from a list of them and their sums, in the same order.
func SumsOf(measures []Measure, sums []Sum, missing MissingSum) Sums {
	next := 0
	return func(m Measure) Sum {
		// They are asked for in about the order of the list.
		for i := range measures {
			if at := (next + i) % len(measures); measures[at].Equal(m) {
				next = at + 1
				return sums[at]
			}
		}
		if missing == MissingIsZero {
			return Sum{}
		}
		panic(fmt.Sprintf("billing: %+v is not among the measures", m))
	}
}

// measures lists the sums that are needed to charge for a segment.
func (s *Segment) measures(visit func(*catalog.Price, Measure)) {
	if s.Plan == nil {
		return
	}
	for i := range s.Plan.Prices {
		if p := &s.Plan.Prices[i]; p.Model != catalog.Flat {
			visit(p, Measure{Meter: p.Meter, Where: p.Where, From: s.Start, To: s.End})
		}
	}
}

// Counts returns the measures that a line of an invoice sums up: none for fees, minimum and cap.
func (a *Agreement) Counts(l *event.InvoiceLine) (measures []Measure) {
	for _, s := range a.Segments(Period{Start: l.PeriodStart, End: l.PeriodEnd}) {
		switch l.Kind {
		case event.UsageLine, event.AdjustmentLine:
			s.measures(func(p *catalog.Price, m Measure) {
				if string(p.Key) == l.Price {
					measures = append(measures, m)
				}
			})
		case event.HeldLine:
			for _, m := range s.unpriced() {
				if string(m.Meter) == l.Meter {
					measures = append(measures, m)
				}
			}
		}
	}
	return measures
}

// unpriced lists the usage that no price covers, of meters that have prices for other parts of it.
func (s *Segment) unpriced() (measures []Measure) {
	if s.Plan == nil {
		return nil
	}
	for i := range s.Plan.Prices {
		p := &s.Plan.Prices[i]
		if p.Model == catalog.Flat || slices.ContainsFunc(s.Plan.Prices[:i], func(q catalog.Price) bool { return q.Meter == p.Meter }) {
			continue
		}
		m := Measure{Meter: p.Meter, From: s.Start, To: s.End}
		for j := range s.Plan.Prices {
			if q := &s.Plan.Prices[j]; q.Meter == p.Meter {
				m.Except = append(m.Except, q.Where)
			}
		}
		if !slices.ContainsFunc(m.Except, func(where map[string]string) bool { return len(where) == 0 }) {
			measures = append(measures, m)
		}
	}
	return measures
}

// held are the lines for usage without a price: they charge nothing and show that a price is missing.
func (s *Segment) held(sums Sums) (lines []event.InvoiceLine) {
	for _, m := range s.unpriced() {
		if sum := sums(m); sum.Quantity.Sign() != 0 || sum.Events != 0 {
			line := s.line(event.HeldLine, string(m.Meter), money.Decimal{})
			line.Meter, line.Quantity, line.Events = string(m.Meter), sum.Quantity, sum.Events
			lines = append(lines, line)
		}
	}
	return lines
}

// charges is everything that is owed for a period, segment by segment: usage, fees, and the lines for minimum and cap.
// Included units, tiers, packages, minimum and cap apply to each segment on its own; fees, minimum and cap are prorated by
// its share of the whole cycle.
func (a *Agreement) charges(p Period, sums Sums) []event.InvoiceLine {
	var lines []event.InvoiceLine
	for _, s := range a.Segments(p) {
		if s.Plan == nil {
			continue
		}
		first := len(lines)
		lines = append(lines, s.usage(sums)...)
		lines = append(lines, s.fees(p, func(*catalog.Price) bool { return true })...)
		lines = append(lines, s.bounds(p, total(lines[first:]))...)
		lines = append(lines, s.held(sums)...)
	}
	return lines
}

// usage returns the lines for metered usage.
func (s *Segment) usage(sums Sums) (lines []event.InvoiceLine) {
	decimals := s.Plan.Currency.MinorUnits()
	s.measures(func(p *catalog.Price, m Measure) {
		sum := sums(m)
		c := pricing.Rate(p, sum.Quantity)
		line := s.line(event.UsageLine, string(p.Key), c.Amount.Round(decimals))
		line.Meter, line.Quantity, line.Included, line.Events = string(p.Meter), c.Quantity, c.Included, sum.Events
		switch p.Model {
		case catalog.PerUnit, catalog.Package:
			line.Unit = p.Unit
		case catalog.Percentage:
			line.Unit = p.Percent
		}
		for _, t := range c.Tiers {
			line.Tiers = append(line.Tiers, event.InvoiceTier{From: t.From, To: t.To, Quantity: t.Quantity, Unit: t.Unit})
		}
		lines = append(lines, line)
	})
	return lines
}

// fees returns the lines of the matching flat prices, for the segment's share of the cycle.
func (s *Segment) fees(p Period, match func(*catalog.Price) bool) (lines []event.InvoiceLine) {
	if s.Plan == nil {
		return nil
	}
	for i := range s.Plan.Prices {
		f := &s.Plan.Prices[i]
		if f.Model != catalog.Flat || !match(f) {
			continue
		}
		line := s.line(event.FeeLine, string(f.Key), s.share(p, f.Amount))
		line.Quantity = money.Int(1)
		if s.Start.Equal(p.Cycle.Start) && s.End.Equal(p.Cycle.End) {
			line.Unit = f.Amount
		}
		lines = append(lines, line)
	}
	return lines
}

// bounds returns the line that raises what is owed to the segment's minimum, or lowers it to its cap.
func (s *Segment) bounds(p Period, owed money.Decimal) []event.InvoiceLine {
	if least := s.share(p, s.Plan.Minimum); owed.Cmp(least) < 0 {
		return []event.InvoiceLine{s.line(event.MinimumLine, "minimum", least.Sub(owed))}
	}
	if most := s.share(p, s.Plan.SpendCap); s.Plan.SpendCap.Sign() > 0 && owed.Cmp(most) > 0 {
		return []event.InvoiceLine{s.line(event.CapLine, "spend_cap", most.Sub(owed))}
	}
	return nil
}

// share is the segment's part, by time, of an amount for the whole cycle: amount * segment / cycle, rounded once.
func (s *Segment) share(p Period, amount money.Decimal) money.Decimal {
	return amount.Prorate(s.End.Sub(s.Start).Microseconds(), p.Cycle.End.Sub(p.Cycle.Start).Microseconds(), s.Plan.Currency.MinorUnits())
}

func (s *Segment) line(kind event.LineKind, price string, amount money.Decimal) event.InvoiceLine {
	return event.InvoiceLine{Kind: kind, Price: price, Description: describe(kind, price), PlanVersion: s.Version,
		PeriodStart: s.Start, PeriodEnd: s.End, Amount: amount}
}

func describe(kind event.LineKind, price string) string {
	words := strings.ReplaceAll(price, "_", " ")
	switch kind {
	case event.MinimumLine:
		return "Minimum commitment"
	case event.CapLine:
		return "Spend cap"
	case event.HeldLine:
		return "Held, no price is for it: " + words
	case event.AdjustmentLine:
		return "Adjustment: " + words
	case event.FeeLine:
		return "Fee: " + words
	default:
		return "Usage: " + words
	}
}

func total(lines []event.InvoiceLine) (sum money.Decimal) {
	for i := range lines {
		sum = sum.Add(lines[i].Amount)
	}
	return sum
}
