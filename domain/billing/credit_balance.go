package billing

import (
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// CreditBalance is the credit of a tenant at an instant, after usage that is not invoiced yet has been paid from it.
type CreditBalance struct {
	Left      map[event.GrantID]money.Decimal // of each grant, also of those that do not pay now
	Available money.Decimal                   // of the grants that pay now
	Drawn     money.Decimal                   // by usage and fees that are not invoiced yet
	Unpaid    money.Decimal                   // the part of them that no grant pays
	Currency  string                          // the one that the tenant pays in now
}

// Open lists the periods that are not invoiced yet, up to the one that contains an instant. If the tenant was closed before
// it, the list ends with the tenant's last period.
func (b *Book) Open(now time.Time) (periods []Period) {
	if len(b.Terms) == 0 {
		return nil
	}
	ahead := *b
	for len(periods) <= maxOpen {
		p, boundary, ok := ahead.Due()
		if !ok {
			break
		}
		periods = append(periods, p)
		if boundary.After(now) {
			break
		}
		// The next one depends only on where this one ends.
		ahead.Issued = append(ahead.Issued[:len(ahead.Issued):len(ahead.Issued)], Issued{Invoice: event.Invoice{PeriodStart: p.Start, PeriodEnd: boundary}})
	}
	return periods
}

// maxOpen bounds the list: ten years of months.
const maxOpen = 120

// OpenMeasures lists the measures that CreditBalance needs while the open periods are these.
func (b *Book) OpenMeasures(open []Period) (all []Measure) {
	if len(open) == 0 {
		return nil
	}
	for _, p := range b.past() {
		all = append(all, b.measures(p, p.End)...)
	}
	for _, p := range open {
		all = append(all, b.openMeasures(p)...)
	}
	return all
}

// CreditBalance computes the balance at an instant. open is the result of Open for that instant or an earlier one in the same
// period. Amounts are exact here, whereas an invoice rounds each line. Late usage of invoiced periods is charged now; what is
// owed less for them comes back with the next invoice. Errors: ErrUnpriced; ErrCurrencies.
func (b *Book) CreditBalance(open []Period, now time.Time, sums Sums) (CreditBalance, error) {
	ahead := *b
	s := CreditBalance{Currency: string(b.CurrencyAt(now))}
	var last *Period
	past := b.past() // the next invoice adjusts these
	for i := range open {
		if open[i].End.After(now) {
			last = &open[i]
			break
		}
		inv, err := ahead.draft(open[i], past, sums)
		if err != nil {
			return s, err
		}
		past = nil
		ahead.Issued = append(ahead.Issued[:len(ahead.Issued):len(ahead.Issued)], Issued{Invoice: inv})
	}
	left := ahead.grantBalances()
	for i := range ahead.Issued[len(b.Issued):] {
		s.Drawn = s.Drawn.Add(ahead.Issued[len(b.Issued)+i].Credits())
	}
	if last != nil {
		if err := b.known(&event.Invoice{}, *last); err != nil {
			return s, err
		}
		slices := b.slicesUntil(*last, now, sums)
		for _, p := range past {
			if err := b.known(&event.Invoice{}, p); err != nil {
				return s, err
			}
			if late := total(b.adjustments(p, b.charges(p, sums))); late.Sign() > 0 {
				slices = append(slices, slice{start: now, end: now, amount: late})
			}
		}
		uses, unpaid := left.draw(b.burning(s.Currency), slices)
		for _, u := range uses {
			s.Drawn = s.Drawn.Add(u.Amount)
		}
		s.Unpaid = unpaid
	}
	s.Left = left
	for _, g := range b.burning(s.Currency) {
		if g.Pays(now) {
			s.Available = s.Available.Add(left[g.ID].Max(money.Decimal{}))
		}
	}
	return s, nil
}

// slicesUntil cuts the usage of a period into parts in which the same grants pay. Usage after now, which differing clocks make
// possible, counts as if it occurred now.
func (b *Book) slicesUntil(p Period, now time.Time, sums Sums) []slice {
	var slices []slice
	start := p.Start
	for _, cut := range b.cuts(p) {
		if cut.After(now) {
			break
		}
		slices = append(slices, slice{start: start, end: cut, amount: b.accrued(p, cut, now, sums, exactly)})
		start = cut
	}
	slices = append(slices, slice{start: start, end: now, amount: b.accrued(p, p.End, now, sums, exactly)})
	return difference(slices)
}
