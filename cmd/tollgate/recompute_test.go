package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"os"
	"slices"
	"strings"
	"time"
)

// recompute computes every line of all invoices again, from the raw traces and the plans alone, in rational numbers and with a
// calendar of its own, and says where it differs. It shares nothing with Tollgate but the rules that docs/money.md states; keep it so.
func recompute(scenario []byte) (report string, problems []string, err error) {
	var s struct {
		Plans   map[string]paperPlan
		Tenants []*paperTenant
	}
	if err := json.Unmarshal(scenario, &s); err != nil {
		return "", nil, err
	}
	lines := 0
	for _, t := range s.Tenants {
		if t.zone, err = time.LoadLocation(t.Zone); err != nil {
			return "", nil, err
		}
		if err := t.readTrace(); err != nil {
			return "", nil, err
		}
		t.plans = s.Plans
		n, found := t.recompute()
		lines, problems = lines+n, append(problems, found...)
		report += fmt.Sprintf("%s: %d events, %d invoices\n", t.ID, len(t.rows), len(t.Invoices))
	}
	return report + fmt.Sprintf("%d lines", lines), problems, nil
}

// What the scenario says. Times are microseconds since 1970.
type (
	paperTenant struct {
		ID, Zone, Trace string
		Day             int
		Plans           []tracePlan
		Extra           []traceEvent
		Grants          []struct{ Amount figure }
		Void            *traceVoid
		Invoices        []paperInvoice

		zone  *time.Location
		rows  []paperRow
		plans map[string]paperPlan
		done  [][]paperLine // of each invoice so far
	}
	paperPlan struct {
		Minimum, SpendCap figure
		Prices            []paperPrice
	}
	paperPrice struct {
		Key, Model, Meter                     string
		Amount, Included, Unit, Size, Percent figure
		Arrears                               bool
		Tiers                                 []struct{ UpTo, Unit figure }
	}
	paperInvoice struct {
		PeriodStart, PeriodEnd   string
		Subtotal, Credits, Total struct{ Amount figure }
		Lines                    []struct {
			Kind, Price, PlanVersion, PeriodStart, PeriodEnd string
			Quantity, Included                               figure
			Events                                           int
			Amount                                           struct{ Amount figure }
			Tiers                                            []struct{ Quantity, Unit, Amount figure }
		}
	}
	paperRow struct {
		at            int64
		input, output *big.Rat
		after         int
	}
	paperPeriod  struct{ start, end, cycleStart, cycleEnd int64 }
	paperSegment struct {
		plan       paperPlan
		version    string
		start, end int64
	}
	// paperLine is a line that is owed.
	paperLine struct {
		kind, price, version              string
		start, end                        int64
		events                            int
		ahead                             bool
		quantity, amount, exact, included *big.Rat
	}
)

// figure is a number as it is written, with or without quotes.
type figure string

func (f *figure) UnmarshalJSON(b []byte) error {
	*f = figure(strings.Trim(string(b), `"`))
	return nil
}

// rat is the number; 0 for none.
func (f figure) rat() *big.Rat {
	r, ok := new(big.Rat).SetString(cmp.Or(string(f), "0"))
	if !ok {
		panic("no number: " + string(f))
	}
	return r
}

func whole(n int64) *big.Rat         { return new(big.Rat).SetInt64(n) }
func plus(a, b *big.Rat) *big.Rat    { return new(big.Rat).Add(a, b) }
func minus(a, b *big.Rat) *big.Rat   { return new(big.Rat).Sub(a, b) }
func times(a, b *big.Rat) *big.Rat   { return new(big.Rat).Mul(a, b) }
func over(a, b *big.Rat) *big.Rat    { return new(big.Rat).Quo(a, b) }
func smaller(a, b *big.Rat) *big.Rat { return map[bool]*big.Rat{true: a, false: b}[a.Cmp(b) < 0] }

func sumOf(lines []paperLine, of func(paperLine) *big.Rat) *big.Rat {
	sum := new(big.Rat)
	for _, l := range lines {
		sum.Add(sum, of(l))
	}
	return sum
}

func amountOf(l paperLine) *big.Rat   { return l.amount }
func quantityOf(l paperLine) *big.Rat { return l.quantity }

func floor(r *big.Rat) *big.Int { return new(big.Int).Div(r.Num(), r.Denom()) }

func ceil(r *big.Rat) *big.Rat {
	return new(big.Rat).SetInt(new(big.Int).Neg(floor(new(big.Rat).Neg(r))))
}

// cents rounds to hundredths, half to even.
func cents(r *big.Rat) *big.Rat {
	n := times(r, whole(100))
	q := floor(n)
	if half := minus(n, new(big.Rat).SetInt(q)).Cmp(big.NewRat(1, 2)); half > 0 || half == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	return new(big.Rat).SetFrac(q, big.NewInt(100))
}

func micros(text string) int64 {
	for _, layout := range []string{"2006-01-02T15:04:05Z", "2006-01-02 15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UnixMicro()
		}
	}
	panic("no time: " + text)
}

// wall is what a clock of the zone reads, as if it were UTC, to the minute.
func (t *paperTenant) wall(at int64) time.Time {
	c := time.UnixMicro(at).In(t.zone)
	return time.Date(c.Year(), c.Month(), c.Day(), c.Hour(), c.Minute(), 0, 0, time.UTC)
}

// midnight is the first quarter of an hour at which the zone's clock reads the day's midnight or later. A day that a month lacks is its last.
func (t *paperTenant) midnight(year int, month time.Month) int64 {
	last := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
	wanted := time.Date(year, month, min(t.Day, last), 0, 0, 0, 0, time.UTC)
	at := wanted.Add(-18 * time.Hour)
	for t.wall(at.UnixMicro()).Before(wanted) {
		at = at.Add(15 * time.Minute)
	}
	return at.UnixMicro()
}

// periodAt is the period from an instant on, to the end of the cycle.
func (t *paperTenant) periodAt(at int64) paperPeriod {
	now := t.wall(at)
	start := int64(0)
	for month := now.Month() - 2; ; month++ {
		end := t.midnight(now.Year(), month)
		if end > at {
			return paperPeriod{at, end, start, end}
		}
		start = end
	}
}

func (t *paperTenant) readTrace() error {
	text, err := os.ReadFile(t.Trace)
	if err != nil {
		return err
	}
	for _, line := range strings.Fields(strings.ReplaceAll(string(text), " ", "T"))[1:] {
		fields := strings.Split(line, ",")
		t.rows = append(t.rows, paperRow{micros(fields[0] + "Z"), figure(fields[1]).rat(), figure(fields[2]).rat(), 0})
	}
	for _, e := range t.Extra {
		t.rows = append(t.rows, paperRow{micros(e.At), figure(e.Input).rat(), figure(e.Output).rat(), e.After})
	}
	return nil
}

// segments are the parts of a period with one plan each, by what was agreed when so many invoices were finalised.
func (t *paperTenant) segments(p paperPeriod, known int) (found []paperSegment) {
	agreed := slices.DeleteFunc(slices.Clone(t.Plans), func(p tracePlan) bool { return p.After > known })
	for i, a := range agreed {
		s := paperSegment{t.plans[a.Plan], a.Plan + "@1", max(micros(a.From), p.start), p.end}
		if i+1 < len(agreed) {
			s.end = min(micros(agreed[i+1].From), p.end)
		}
		if s.start < s.end {
			found = append(found, s)
		}
	}
	return found
}

func (p paperPrice) of(q *big.Rat) *big.Rat {
	q = minus(q, p.Included.rat())
	if q.Sign() <= 0 {
		return new(big.Rat)
	}
	switch p.Model {
	case "per_unit":
		return times(q, p.Unit.rat())
	case "package":
		return times(ceil(over(q, p.Size.rat())), p.Unit.rat())
	case "percentage":
		return times(q, over(p.Percent.rat(), whole(100)))
	case "volume":
		for _, tier := range p.Tiers {
			if tier.UpTo == "" || q.Cmp(tier.UpTo.rat()) <= 0 {
				return times(q, tier.Unit.rat())
			}
		}
	case "graduated":
		sum, from := new(big.Rat), new(big.Rat)
		for _, tier := range p.Tiers {
			to := q
			if tier.UpTo != "" {
				to = smaller(q, tier.UpTo.rat())
			}
			if to.Cmp(from) > 0 {
				sum, from = plus(sum, times(minus(to, from), tier.Unit.rat())), to
			}
		}
		return sum
	}
	panic("no price: " + p.Model)
}

func (r paperRow) value(meter string) *big.Rat {
	return map[string]*big.Rat{"input_tokens": r.input, "output_tokens": r.output, "tokens": plus(r.input, r.output)}[meter]
}

// charges is everything that is owed for a period, when so many invoices were finalised.
func (t *paperTenant) charges(period paperPeriod, known int) (owed []paperLine) {
	for _, s := range t.segments(period, known) {
		share := func(amount figure) *big.Rat {
			return cents(times(amount.rat(), big.NewRat(s.end-s.start, period.cycleEnd-period.cycleStart)))
		}
		line := func(kind, price string, quantity, amount *big.Rat) paperLine {
			return paperLine{kind: kind, price: price, version: s.version, start: s.start, end: s.end, quantity: quantity, amount: amount, included: new(big.Rat)}
		}
		first := len(owed)
		for _, p := range s.plan.Prices {
			if p.Model == "flat" {
				continue
			}
			quantity, events := new(big.Rat), 0
			for _, r := range t.rows {
				if r.after <= known && r.at >= s.start && r.at < s.end {
					quantity.Add(quantity, r.value(p.Meter))
					events++
				}
			}
			l := line("usage", p.Key, quantity, cents(p.of(quantity)))
			l.events, l.exact, l.included = events, p.of(quantity), smaller(p.Included.rat(), quantity)
			owed = append(owed, l)
		}
		for _, p := range s.plan.Prices {
			if p.Model == "flat" {
				l := line("fee", p.Key, whole(1), share(p.Amount))
				l.ahead = !p.Arrears
				owed = append(owed, l)
			}
		}
		sum := sumOf(owed[first:], amountOf)
		if s.plan.Minimum != "" && sum.Cmp(share(s.plan.Minimum)) < 0 {
			owed = append(owed, line("minimum", "minimum", new(big.Rat), minus(share(s.plan.Minimum), sum)))
		} else if s.plan.SpendCap != "" && sum.Cmp(share(s.plan.SpendCap)) > 0 {
			owed = append(owed, line("spend_cap", "spend_cap", new(big.Rat), minus(share(s.plan.SpendCap), sum)))
		}
	}
	return owed
}

// invoiced is what invoices ask for a price in a period, but for one that is void when so many invoices were finalised.
func (t *paperTenant) invoiced(p paperPeriod, price string, known int) (lines []paperLine) {
	for i, list := range t.done {
		if t.Void != nil && t.Void.Invoice == i && t.Void.After <= known {
			continue
		}
		for _, l := range list {
			if l.price == price && l.start >= p.start && l.start < p.end {
				lines = append(lines, l)
			}
		}
	}
	return lines
}

// adjust is what is owed less what was invoiced, price by price.
func (t *paperTenant) adjust(p paperPeriod, owed []paperLine, known int) (lines []paperLine) {
	prices := map[string]bool{}
	for _, l := range owed {
		prices[l.price] = true
	}
	for _, l := range slices.Concat(t.done...) {
		if l.start >= p.start && l.start < p.end {
			prices[l.price] = true
		}
	}
	for _, price := range slices.Sorted(maps.Keys(prices)) {
		mine := slices.DeleteFunc(slices.Clone(owed), func(l paperLine) bool { return l.price != price })
		before := t.invoiced(p, price, known)
		missing := minus(sumOf(mine, amountOf), sumOf(before, amountOf))
		if missing.Sign() == 0 {
			continue
		}
		l := paperLine{kind: "adjustment", price: price, start: p.start, end: p.end, amount: missing, included: new(big.Rat),
			quantity: minus(sumOf(mine, quantityOf), sumOf(before, quantityOf))}
		if len(owed) > 0 {
			l.version = owed[len(owed)-1].version
		}
		lines = append(lines, l)
	}
	return lines
}

// current is what is owed, where fees that were invoiced ahead are there again only by what they are off.
func (t *paperTenant) current(p paperPeriod, owed []paperLine, known int) (lines []paperLine) {
	var ahead []paperLine
	for _, l := range owed {
		if l.kind == "fee" && sumOf(t.invoiced(p, l.price, known), quantityOf).Sign() != 0 {
			ahead = append(ahead, l)
		} else {
			lines = append(lines, l)
		}
	}
	if len(ahead) > 0 {
		lines = append(lines, t.adjust(p, ahead, known)...)
	}
	return lines
}

// recompute compares the tenant's invoices with what is owed, and returns how many lines they have.
func (t *paperTenant) recompute() (lines int, problems []string) {
	left := new(big.Rat) // of the grants
	for _, g := range t.Grants {
		left = plus(left, g.Amount.rat())
	}
	start := micros(t.Plans[0].From)
	var periods []paperPeriod
	for n, inv := range t.Invoices {
		fail := func(format string, args ...any) {
			problems = append(problems, fmt.Sprintf("%s, invoice %d: ", t.ID, n+1)+fmt.Sprintf(format, args...))
		}
		compare := func(what string, got figure, want *big.Rat) {
			if got.rat().Cmp(want) != 0 {
				fail("%s %s instead of %s", what, got, want.RatString())
			}
		}
		if t.Void != nil && t.Void.After == n {
			left = plus(left, t.Invoices[t.Void.Invoice].Credits.Amount.rat())
		}
		period := t.periodAt(start)
		opening := n == 0 && slices.ContainsFunc(t.charges(period, n), func(l paperLine) bool { return l.ahead })
		boundary := period.end
		if opening {
			boundary = start
		}
		if micros(inv.PeriodStart) != start || micros(inv.PeriodEnd) != boundary {
			fail("period %s to %s instead of %d to %d", inv.PeriodStart, inv.PeriodEnd, start, boundary)
		}

		var expected []paperLine
		for _, p := range periods {
			expected = append(expected, t.adjust(p, t.charges(p, n), n)...)
		}
		if !opening {
			expected = append(expected, t.current(period, t.charges(period, n), n)...)
		}
		next := t.periodAt(boundary)
		ahead := slices.DeleteFunc(t.charges(next, n), func(l paperLine) bool { return !l.ahead })
		expected = append(expected, t.current(next, ahead, n)...)
		if !opening {
			periods = append(periods, period)
		}
		t.done = append(t.done, expected)

		wanted := map[string]paperLine{}
		for _, l := range expected {
			wanted[fmt.Sprint(l.kind, " ", l.price, " ", l.version, " ", l.start, " ", l.end)] = l
		}
		for _, l := range inv.Lines {
			lines++
			key := fmt.Sprint(l.Kind, " ", l.Price, " ", l.PlanVersion, " ", micros(l.PeriodStart), " ", micros(l.PeriodEnd))
			w, ok := wanted[key]
			if !ok {
				fail("a line that is not owed: %s", key)
				continue
			}
			delete(wanted, key)
			compare(key+": quantity", l.Quantity, w.quantity)
			compare(key+": included", l.Included, w.included)
			compare(key+": amount", l.Amount.Amount, w.amount)
			if l.Events != w.events {
				fail("%s: %d events instead of %d", key, l.Events, w.events)
			}
			sum := new(big.Rat)
			for _, tier := range l.Tiers {
				amount := times(tier.Quantity.rat(), tier.Unit.rat())
				compare(key+": tier", tier.Amount, amount)
				sum = plus(sum, amount)
			}
			if len(l.Tiers) > 0 && (w.exact == nil || sum.Cmp(w.exact) != 0) {
				fail("%s: its tiers sum to %s", key, sum.RatString())
			}
		}
		for key := range wanted {
			fail("a line is missing: %s", key)
		}
		subtotal := sumOf(expected, amountOf)
		drawn := new(big.Rat)
		if subtotal.Sign() > 0 {
			drawn = smaller(left, subtotal)
		}
		left = minus(left, drawn)
		compare("subtotal", inv.Subtotal.Amount, subtotal)
		compare("credits", inv.Credits.Amount, drawn)
		compare("total", inv.Total.Amount, minus(subtotal, drawn))
		start = micros(inv.PeriodEnd)
	}
	return lines, problems
}
