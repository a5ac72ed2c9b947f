package billing

import (
	"cmp"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/pricing"
)

// Grant is credit that a tenant was given, and its refunds.
type Grant struct {
	event.CreditGranted
	GrantedAt time.Time
	Refunded  []event.CreditRefunded
}

// Refundable is the part of a grant that was neither refunded nor drawn by an invoice, net of what invoices returned. The balance
// of the grant may be larger: voiding an invoice that was corrected before can leave more in it.
func (b *Book) Refundable(g *Grant) money.Decimal {
	rest := g.Amount
	for _, r := range g.Refunded {
		rest = rest.Sub(r.Amount)
	}
	for i := range b.Issued {
		if inv := &b.Issued[i]; inv.Voided == nil {
			for _, u := range inv.Drawn {
				if u.Grant == g.ID {
					rest = rest.Sub(u.Amount).Add(returned(b.Issued, inv.ID, g.ID))
				}
			}
		}
	}
	return rest
}

// Grant finds a grant; nil if there is none with this id.
func (b *Book) Grant(id event.GrantID) *Grant {
	if i := slices.IndexFunc(b.Grants, func(g Grant) bool { return g.ID == id }); i >= 0 {
		return &b.Grants[i]
	}
	return nil
}

// effective is the time that orders the grant among others: EffectiveAt, or when it was granted.
func (g *Grant) effective() time.Time {
	if g.EffectiveAt.IsZero() {
		return g.GrantedAt
	}
	return g.EffectiveAt
}

// pays reports whether the grant pays for charges in [from, to), or at from if both are equal.
func (g *Grant) pays(from, to time.Time) bool {
	if g.EffectiveAt.After(from) {
		return false
	}
	return g.ExpiresAt.IsZero() || g.ExpiresAt.After(from) && !g.ExpiresAt.Before(to)
}

// Pays reports whether the grant pays for charges at an instant.
func (g *Grant) Pays(at time.Time) bool { return g.pays(at, at) }

// Expired reports whether the grant has expired at an instant.
func (g *Grant) Expired(at time.Time) bool { return !g.ExpiresAt.IsZero() && !g.ExpiresAt.After(at) }

// compareGrants is the order in which grants are used: priority, expiry (none last), promotional before prepaid, effective
// time, id.
func compareGrants(a, b *Grant) int {
	expiry := a.ExpiresAt.Compare(b.ExpiresAt)
	if a.ExpiresAt.IsZero() != b.ExpiresAt.IsZero() {
		expiry = -expiry
	}
	promotional := func(g *Grant) int {
		if g.Kind == event.Promotional {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), expiry, cmp.Compare(promotional(a), promotional(b)),
		a.effective().Compare(b.effective()), cmp.Compare(a.ID, b.ID))
}

// grantBalances is what is left of each grant.
type grantBalances map[event.GrantID]money.Decimal

// grantBalances is what invoices and refunds have left of each grant. Void invoices do not count.
func (b *Book) grantBalances() grantBalances {
	left := make(grantBalances, len(b.Grants))
	for i := range b.Grants {
		g := &b.Grants[i]
		left[g.ID] = g.Amount
		for _, r := range g.Refunded {
			left.take(g.ID, r.Amount)
		}
	}
	for i := range b.Issued {
		if inv := &b.Issued[i]; inv.Voided == nil {
			left.takeAll(inv.Drawn)
			left.takeAll(inv.Expired)
			for _, u := range inv.Returned {
				left.take(u.Grant, u.Amount.Neg())
			}
		}
	}
	return left
}

func (p grantBalances) take(g event.GrantID, amount money.Decimal) { p[g] = p[g].Sub(amount) }

func (p grantBalances) takeAll(uses []event.CreditUse) {
	for _, u := range uses {
		p.take(u.Grant, u.Amount)
	}
}

// burning lists the grants of a currency in the order in which they are used.
func (b *Book) burning(currency string) (grants []*Grant) {
	for i := range b.Grants {
		if g := &b.Grants[i]; g.Currency == currency {
			grants = append(grants, g)
		}
	}
	slices.SortFunc(grants, compareGrants)
	return grants
}

// slice is an amount that is charged in [start, end), or at start if both are equal.
type slice struct {
	start, end time.Time
	amount     money.Decimal
}

// draw lets grants pay for slices, which are in the order of time. It returns what each grant pays and what none does.
func (p grantBalances) draw(grants []*Grant, slices []slice) (uses []event.CreditUse, unpaid money.Decimal) {
	drawn := grantBalances{}
	for _, s := range slices {
		owed := s.amount
		for _, g := range grants {
			if part := owed.Min(p[g.ID]); part.Sign() > 0 && g.pays(s.start, s.end) {
				p.take(g.ID, part)
				drawn.take(g.ID, part.Neg())
				owed = owed.Sub(part)
			}
		}
		unpaid = unpaid.Add(owed)
	}
	for _, g := range grants {
		if amount, ok := drawn[g.ID]; ok {
			uses = append(uses, event.CreditUse{Grant: g.ID, Amount: amount})
		}
	}
	return uses, unpaid
}

// cuts are the instants within a period at which a grant starts or stops paying.
func (b *Book) cuts(p Period) (cuts []time.Time) {
	for i := range b.Grants {
		for _, t := range [...]time.Time{b.Grants[i].EffectiveAt, b.Grants[i].ExpiresAt} {
			if t.After(p.Start) && t.Before(p.End) {
				cuts = append(cuts, t)
			}
		}
	}
	slices.SortFunc(cuts, time.Time.Compare)
	return slices.CompactFunc(cuts, time.Time.Equal)
}

// rounding rounds the amount of a line.
type rounding func(amount money.Decimal, c catalog.Currency) money.Decimal

func toMinorUnits(amount money.Decimal, c catalog.Currency) money.Decimal {
	return amount.Round(c.MinorUnits())
}

func exactly(amount money.Decimal, _ catalog.Currency) money.Decimal { return amount }

// accrued is the amount owed for a period's usage until an instant, plus the fees in arrears of segments that have ended by
// now, within the spend cap. Fees in advance were charged before.
func (b *Book) accrued(p Period, until, now time.Time, sums Sums, round rounding) (sum money.Decimal) {
	for _, s := range b.Segments(p) {
		if s.Plan == nil || !s.Start.Before(until) {
			continue
		}
		part, owed := s, money.Decimal{}
		if part.End.After(until) {
			part.End = until
		}
		part.measures(func(price *catalog.Price, m Measure) {
			owed = owed.Add(round(pricing.Amount(price, sums(m).Quantity), s.Plan.Currency))
		})
		ahead := total(s.fees(p, func(f *catalog.Price) bool { return !f.Arrears }))
		if !s.End.After(until) && !s.End.After(now) {
			owed = owed.Add(total(s.fees(p, func(f *catalog.Price) bool { return f.Arrears })))
		}
		if s.Plan.SpendCap.Sign() > 0 {
			owed = owed.Min(s.share(p, s.Plan.SpendCap).Sub(ahead).Max(money.Decimal{}))
		}
		sum = sum.Add(owed)
	}
	return sum
}

// slices cuts the amount that an invoice charges into parts of the period in which the same grants pay: usage when it occurred,
// everything else at the end. The parts never exceed the whole amount.
func (b *Book) slices(p Period, all money.Decimal, sums Sums) []slice {
	if all.Sign() <= 0 {
		return nil
	}
	var slices []slice
	start := p.Start
	if p.Start.Before(p.End) {
		for _, cut := range append(b.cuts(p), p.End) {
			slices = append(slices, slice{start: start, end: cut, amount: b.accrued(p, cut, cut, sums, toMinorUnits)})
			start = cut
		}
	}
	slices = append(slices, slice{start: p.End, end: p.End, amount: all})
	return difference(slices)
}

// difference turns running totals into the amounts of each slice; a total that is above a later one is lowered to it.
func difference(slices []slice) []slice {
	for i := len(slices) - 2; i >= 0; i-- {
		slices[i].amount = slices[i].amount.Min(slices[i+1].amount)
	}
	for i := len(slices) - 1; i > 0; i-- {
		slices[i].amount = slices[i].amount.Sub(slices[i-1].amount)
	}
	return slices
}

// settleCredits lets grants pay for an invoice: first, what is no longer owed goes back to the grants that paid it; then grants
// pay what is owed; then the rest of expired grants is written off.
func (b *Book) settleCredits(inv *event.Invoice, p Period, sums Sums) {
	if len(b.Grants) == 0 {
		return
	}
	left := b.grantBalances()
	owed := inv.Subtotal
	// The adjustments of one period are adjacent and count together: late usage may lower the line for its minimum.
	for i := 0; i < len(inv.Lines); i++ {
		l := &inv.Lines[i]
		if l.Kind != event.AdjustmentLine {
			continue
		}
		sum := l.Amount
		for i+1 < len(inv.Lines) && inv.Lines[i+1].Kind == event.AdjustmentLine && inv.Lines[i+1].PeriodStart.Equal(l.PeriodStart) && inv.Lines[i+1].PeriodEnd.Equal(l.PeriodEnd) {
			i++
			sum = sum.Add(inv.Lines[i].Amount)
		}
		inv.Returned = append(inv.Returned, b.unwind(l.PeriodStart, l.PeriodEnd, sum.Neg(), inv.Returned)...)
	}
	for _, u := range inv.Returned {
		left.take(u.Grant, u.Amount.Neg())
		owed = owed.Add(u.Amount)
	}
	inv.Drawn, _ = left.draw(b.burning(inv.Currency), b.slices(p, owed, sums))
	inv.Total = inv.Subtotal.Sub(inv.Credits())
	for i := range b.Grants {
		if g := &b.Grants[i]; g.Expired(inv.PeriodEnd) && left[g.ID].Sign() > 0 {
			inv.Expired = append(inv.Expired, event.CreditUse{Grant: g.ID, Amount: left[g.ID]})
		}
	}
}

// unwind returns to grants, up to an amount, what they paid of the invoices that charged a period, except what was returned
// before. The newest invoice and the last grant come first.
func (b *Book) unwind(start, end time.Time, amount money.Decimal, sofar []event.CreditUse) (back []event.CreditUse) {
	for i := range slices.Backward(b.Issued) {
		inv := &b.Issued[i]
		about := slices.ContainsFunc(inv.Lines, func(l event.InvoiceLine) bool { return !l.PeriodStart.Before(start) && l.PeriodStart.Before(end) })
		if inv.Voided != nil || !about {
			continue
		}
		for _, drawn := range slices.Backward(inv.Drawn) {
			rest := drawn.Amount.Sub(returned(b.Issued[i:], inv.ID, drawn.Grant)).Sub(sumOf(sofar, inv.ID, drawn.Grant))
			if part := rest.Min(amount); part.Sign() > 0 {
				back = append(back, event.CreditUse{Grant: drawn.Grant, Amount: part, Invoice: inv.ID})
				amount = amount.Sub(part)
			}
		}
	}
	return back
}

// CanVoid returns why an invoice cannot be voided now; "" if it can.
func (b *Book) CanVoid(i int, rebill bool) (why string) {
	inv := &b.Issued[i]
	if rebill && b.Ended(b.Issued[len(b.Issued)-1].PeriodEnd) {
		return "the tenant is closed and has its last invoice, so nothing would bill it again"
	}
	for j := i + 1; j < len(b.Issued) && !rebill; j++ {
		later := &b.Issued[j]
		corrects := slices.ContainsFunc(later.Lines, func(l event.InvoiceLine) bool {
			return l.Kind == event.AdjustmentLine && slices.ContainsFunc(inv.Lines, func(mine event.InvoiceLine) bool {
				return !mine.PeriodStart.Before(l.PeriodStart) && mine.PeriodStart.Before(l.PeriodEnd)
			})
		})
		if later.Voided == nil && corrects {
			return "invoice " + later.Number + " corrects it, and would count once more: void that one first, or bill again with rebill"
		}
	}
	without := *b
	without.Issued = slices.Clone(b.Issued)
	without.Issued[i].Voided = &event.InvoiceVoided{Rebill: rebill}
	for _, left := range without.grantBalances() {
		if left.Sign() < 0 {
			return "credit that it gave back has been drawn since: void the invoices that drew it first"
		}
	}
	return ""
}

// returned is what invoices returned to a grant of what invoice id had drawn.
func returned(issued []Issued, id event.InvoiceID, g event.GrantID) (sum money.Decimal) {
	for i := range issued {
		if issued[i].Voided == nil {
			sum = sum.Add(sumOf(issued[i].Returned, id, g))
		}
	}
	return sum
}

func sumOf(uses []event.CreditUse, id event.InvoiceID, g event.GrantID) (sum money.Decimal) {
	for _, u := range uses {
		if u.Invoice == id && u.Grant == g {
			sum = sum.Add(u.Amount)
		}
	}
	return sum
}
