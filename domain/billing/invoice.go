package billing

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

var (
	// ErrUnpriced: a part of the period has a plan that no catalog has, so what is owed is unknown. Apply a catalog with it.
	ErrUnpriced = errors.New("a plan of the period is not in the catalog")
	// ErrCurrencies: the plans of the invoice are in different currencies.
	ErrCurrencies = errors.New("the plans of the period are in different currencies")
)

// Issued is an invoice that was finalised, with what became of it.
type Issued struct {
	event.Invoice
	FinalisedAt time.Time
	Voided      *event.InvoiceVoided // nil: not voided
	VoidedAt    time.Time
	Settled     *event.InvoiceSettled // nil: still owed
	SettledAt   time.Time
}

// settles reports whether the lines count as invoiced. Those of a void invoice do, unless they are to be billed again.
func (i *Issued) settles() bool { return i.Voided == nil || !i.Voided.Rebill }

// Book is a tenant's agreement, its invoices in order, and its credit grants.
type Book struct {
	Tenant event.TenantID
	Agreement
	Issued   []Issued
	Grants   []Grant
	Currency catalog.Currency // of the tenant; a plan's currency takes precedence
}

// CurrencyAt is the currency that the tenant pays in at an instant.
func (b *Book) CurrencyAt(t time.Time) catalog.Currency {
	if len(b.Terms) > 0 {
		if plan := b.at(t).Plan; plan != nil {
			return plan.Currency
		}
	}
	return b.Currency
}

// Due returns the boundary of the next invoice and the period that ends there. With fees in advance the first invoice is at the
// start of the first period, and the returned period is empty. ok is false if there will be no more invoices.
func (b *Book) Due() (p Period, boundary time.Time, ok bool) {
	if n := len(b.Issued); n > 0 {
		last := b.Issued[n-1].PeriodEnd
		if b.Ended(last) {
			return Period{}, time.Time{}, false
		}
		p = b.Next(last)
		return p, p.End, true
	}
	if b.Ended(b.Start()) {
		return Period{}, time.Time{}, false
	}
	p = b.Next(b.Start())
	if len(b.ahead(p)) > 0 {
		return Period{Start: p.Start, End: p.Start, Cycle: p.Cycle}, p.Start, true
	}
	return p, p.End, true
}

// Grace is how long after its end a period waits for late usage.
func (b *Book) Grace(p Period) time.Duration {
	if !p.Start.Before(p.End) {
		return 0
	}
	segments := b.Segments(p)
	if n := len(segments); n > 0 && segments[n-1].Plan != nil {
		return segments[n-1].Plan.Grace.Value()
	}
	return 0
}

// past lists the invoiced periods as they were then, after any earlier ones: a late plan assignment can make the tenant's first
// period begin before its first invoice.
func (b *Book) past() (periods []Period) {
	if len(b.Issued) == 0 {
		return nil
	}
	for start, first := b.Start(), b.Issued[0].PeriodStart; start.Before(first); {
		p := b.Next(start)
		if p.End.After(first) {
			p.End = first
		}
		periods = append(periods, p)
		start = p.End
	}
	for i := range b.Issued {
		if inv := &b.Issued[i]; inv.PeriodStart.Before(inv.PeriodEnd) {
			periods = append(periods, Period{inv.PeriodStart, inv.PeriodEnd, calendar.Window{Start: inv.CycleStart, End: inv.CycleEnd}})
		}
	}
	return periods
}

// Measures lists the sums that Draft needs.
func (b *Book) Measures(p Period) (all []Measure) {
	for _, p := range b.past() {
		all = append(all, b.measures(p, p.End)...)
	}
	return append(all, b.openMeasures(p)...)
}

// openMeasures lists the sums for a period that is not invoiced yet: of the whole, and until each instant at which a grant
// starts or stops paying.
func (b *Book) openMeasures(p Period) (all []Measure) {
	all = b.measures(p, p.End)
	for _, cut := range b.cuts(p) {
		all = append(all, b.measures(p, cut)...)
	}
	return all
}

// measures lists the sums for a period until an instant.
func (b *Book) measures(p Period, until time.Time) (all []Measure) {
	for _, s := range b.Segments(p) {
		if s.End.After(until) {
			s.End = until
		}
		if s.Start.Before(s.End) {
			s.measures(func(_ *catalog.Price, m Measure) { all = append(all, m) })
			all = append(all, s.unpriced()...)
		}
	}
	return all
}

// ahead returns the fees in advance for a period.
func (b *Book) ahead(p Period) (lines []event.InvoiceLine) {
	for _, s := range b.Segments(p) {
		lines = append(lines, s.fees(p, func(f *catalog.Price) bool { return !f.Arrears })...)
	}
	return lines
}

// covers reports whether a line belongs to a period: it starts in it. A fee in advance for the time after the tenant was closed
// belongs to the last period.
func (b *Book) covers(p Period, l *event.InvoiceLine) bool {
	return p.Contains(l.PeriodStart) || p.End.Equal(b.Closed) && !l.PeriodStart.Before(p.End)
}

// item identifies lines of different invoices that are compared with each other.
type item struct {
	price string
	held  bool // usage without a price; price is the meter then
}

func itemOf(l *event.InvoiceLine) item { return item{l.Price, l.Kind == event.HeldLine} }

// invoiced is what was invoiced for an item in a period.
func (b *Book) invoiced(p Period, of item) (amount, quantity money.Decimal) {
	for i := range b.Issued {
		if !b.Issued[i].settles() {
			continue
		}
		for _, l := range b.Issued[i].Lines {
			if itemOf(&l) == of && b.covers(p, &l) {
				amount, quantity = amount.Add(l.Amount), quantity.Add(l.Quantity)
			}
		}
	}
	return amount, quantity
}

// forgiven is the part of that which credit notes took back and which is not billed again.
func (b *Book) forgiven(p Period, of item) (amount money.Decimal) {
	for i := range b.Issued {
		if v := b.Issued[i].Voided; v == nil || v.Rebill {
			continue
		}
		for n := range b.Issued[i].Lines {
			if l := &b.Issued[i].Lines[n]; itemOf(l) == of && b.covers(p, l) {
				amount = amount.Add(l.Amount)
			}
		}
	}
	return amount
}

// Draft computes the invoice of a period: after its end the one to finalise, before that a preview. Errors: ErrUnpriced;
// ErrCurrencies.
//
// What is owed for every period is computed again each time, from what is known now; the invoice charges it less what was
// invoiced before. So late usage, corrections and past plan changes become adjustments, all invoices together charge exactly
// what all usage costs, and nothing is invoiced twice.
func (b *Book) Draft(p Period, sums Sums) (event.Invoice, error) { return b.draft(p, b.past(), sums) }

// draft is Draft with adjustments of the given periods only.
func (b *Book) draft(p Period, past []Period, sums Sums) (event.Invoice, error) {
	inv := event.Invoice{ID: invoiceID(b.Tenant, p.End), Number: numberOf(b.Tenant, len(b.Issued)+1),
		PeriodStart: p.Start, PeriodEnd: p.End, CycleStart: p.Cycle.Start, CycleEnd: p.Cycle.End}
	for _, earlier := range past {
		if err := b.known(&inv, earlier); err != nil {
			return inv, err
		}
		inv.Lines = append(inv.Lines, b.adjustments(earlier, b.charges(earlier, sums))...)
	}
	if p.Start.Before(p.End) {
		if err := b.known(&inv, p); err != nil {
			return inv, err
		}
		lines := b.charges(p, sums)
		inv.Lines = append(inv.Lines, b.current(p, lines)...)
	}
	if !b.Ended(p.End) {
		next := b.Next(p.End)
		if err := b.known(&inv, next); err != nil {
			return inv, err
		}
		inv.Lines = append(inv.Lines, b.current(next, b.ahead(next))...)
	}
	inv.Subtotal = total(inv.Lines)
	inv.Total = inv.Subtotal
	inv.Decimals = catalog.Currency(inv.Currency).MinorUnits()
	b.settleCredits(&inv, p, sums)
	return inv, nil
}

// known checks that every plan of a period is in a catalog and has the invoice's currency.
func (b *Book) known(inv *event.Invoice, p Period) error {
	for _, s := range b.Segments(p) {
		switch {
		case s.Plan == nil:
			return fmt.Errorf("%w: %q from %s", ErrUnpriced, s.Key, s.Start.UTC().Format(time.RFC3339))
		case inv.Currency == "":
			inv.Currency = string(s.Plan.Currency)
		case inv.Currency != string(s.Plan.Currency):
			return fmt.Errorf("%w: %s and %s", ErrCurrencies, inv.Currency, s.Plan.Currency)
		}
		if s.Start.Before(inv.PeriodEnd) || inv.PlanVersion == "" {
			inv.PlanVersion = s.Version
		}
	}
	return nil
}

// current returns the lines of the period that ends or starts. Fees that were invoiced in advance appear only by their
// difference.
func (b *Book) current(p Period, owed []event.InvoiceLine) []event.InvoiceLine {
	isAhead := func(l event.InvoiceLine) bool {
		amount, quantity := b.invoiced(p, itemOf(&l))
		return l.Kind == event.FeeLine && (amount.Sign() != 0 || quantity.Sign() != 0)
	}
	var lines, before []event.InvoiceLine
	for _, l := range owed {
		if isAhead(l) {
			before = append(before, l)
		} else {
			lines = append(lines, l)
		}
	}
	return append(lines, b.adjustments(p, before)...)
}

// adjustments is what is owed for a period less what was invoiced, price by price, without those that are zero. For usage
// without a price it has the difference in quantity.
func (b *Book) adjustments(p Period, owed []event.InvoiceLine) (lines []event.InvoiceLine) {
	type sum struct{ amount, quantity money.Decimal }
	by := map[item]sum{}
	meters := map[item]string{}
	version := ""
	for i := range owed {
		l := &owed[i]
		s := by[itemOf(l)]
		by[itemOf(l)] = sum{s.amount.Add(l.Amount), s.quantity.Add(l.Quantity)}
		meters[itemOf(l)] = l.Meter
		version = l.PlanVersion
	}
	for i := range b.Issued {
		for n := range b.Issued[i].Lines {
			l := &b.Issued[i].Lines[n]
			if b.covers(p, l) {
				if _, ok := by[itemOf(l)]; !ok {
					by[itemOf(l)] = sum{} // invoiced before and no longer owed
				}
				meters[itemOf(l)] = cmp.Or(meters[itemOf(l)], l.Meter)
			}
		}
	}
	for of, s := range by {
		before, quantity := b.invoiced(p, of)
		line := event.InvoiceLine{Kind: event.AdjustmentLine, Price: of.price, PlanVersion: version, Meter: meters[of],
			Quantity: s.quantity.Sub(quantity), PeriodStart: p.Start, PeriodEnd: p.End, Amount: s.amount.Sub(before)}
		if of.held {
			line.Kind = event.HeldLine
		}
		// What was forgiven was never paid, so it is not given back.
		if forgiven := b.forgiven(p, of); forgiven.Sign() > 0 {
			line.Amount = line.Amount.Max(forgiven.Sub(before).Min(money.Decimal{}))
		}
		line.Description = describe(line.Kind, of.price)
		if line.Amount.Sign() != 0 || of.held && line.Quantity.Sign() != 0 {
			lines = append(lines, line)
		}
	}
	slices.SortFunc(lines, func(a, b event.InvoiceLine) int {
		return cmp.Or(cmp.Compare(a.Price, b.Price), cmp.Compare(a.Kind, b.Kind))
	})
	return lines
}

var invoiceSpace = uuid.MustParse("6f1b5c0e-8a53-4c0f-9f0e-2d2f6a1f7c11")

// invoiceID contains the tenant, so that an invoice can be found by its id alone.
func invoiceID(t event.TenantID, boundary time.Time) event.InvoiceID {
	return event.InvoiceID("inv_" + idText.EncodeToString([]byte(t)) + "_" + strconv.FormatInt(boundary.UnixMicro(), 36))
}

var idText = base64.RawURLEncoding

// TenantOf is the tenant of an invoice; ok is false if the id is not an invoice's.
func TenantOf(id event.InvoiceID) (t event.TenantID, ok bool) {
	text, found := strings.CutPrefix(string(id), "inv_")
	i := strings.LastIndexByte(text, '_')
	if !found || i < 0 {
		return "", false
	}
	name, err := idText.DecodeString(text[:i])
	return event.TenantID(name), err == nil && event.CheckID(string(name)) == nil
}

// numberOf is the number of a tenant's n-th invoice: a prefix of the tenant's own, and n.
func numberOf(t event.TenantID, n int) string {
	id := uuid.NewSHA1(invoiceSpace, []byte(t))
	return fmt.Sprintf("%X-%06d", id[:4], n)
}

// CreditNoteOf is the number of the credit note that takes an invoice back.
func CreditNoteOf(i event.Invoice) string { return i.Number + "-CN" }
