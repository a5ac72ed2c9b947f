package billing_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// burnt is the reference for credits: at a price in whole cents for each unit, events pay one by one, in the order of time, from
// a list of grants that is sorted anew each time.
type burnt struct {
	left map[event.GrantID]money.Decimal
	of   map[event.GrantID]money.Decimal // drawn
	owed money.Decimal
}

func (a *account) burn(left map[event.GrantID]money.Decimal, unit money.Decimal, from, to time.Time) burnt {
	b := burnt{left: left, of: map[event.GrantID]money.Decimal{}}
	events := slices.Clone(a.usage)
	slices.SortStableFunc(events, func(x, y used) int { return x.at.Compare(y.at) })
	for _, u := range events {
		if u.at.Before(from) || !u.at.Before(to) {
			continue
		}
		owed := u.quantity.Mul(unit)
		for owed.Sign() > 0 {
			var best *billing.Grant
			for i := range a.grants {
				g := &a.grants[i]
				alive := (g.EffectiveAt.IsZero() || !u.at.Before(g.EffectiveAt)) && (g.ExpiresAt.IsZero() || u.at.Before(g.ExpiresAt))
				if alive && b.left[g.ID].Sign() > 0 && (best == nil || sooner(g, best)) {
					best = g
				}
			}
			if best == nil {
				break
			}
			part := owed
			if b.left[best.ID].Cmp(part) < 0 {
				part = b.left[best.ID]
			}
			b.left[best.ID] = b.left[best.ID].Sub(part)
			b.of[best.ID] = b.of[best.ID].Add(part)
			owed = owed.Sub(part)
		}
		b.owed = b.owed.Add(owed)
	}
	return b
}

// sooner says in words of its own which of two grants is drawn on first.
func sooner(a, b *billing.Grant) bool {
	far := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	key := func(g *billing.Grant) string {
		end, since, paid := far, g.GrantedAt, 1
		if !g.ExpiresAt.IsZero() {
			end = g.ExpiresAt
		}
		if !g.EffectiveAt.IsZero() {
			since = g.EffectiveAt
		}
		if g.Kind == event.Promotional {
			paid = 0
		}
		return fmt.Sprintf("%05d %s %d %s %s", g.Priority+1000, end.UTC().Format("2006-01-02T15:04:05.000000"), paid, since.UTC().Format("2006-01-02T15:04:05.000000"), g.ID)
	}
	return key(a) < key(b)
}

// Credits are burnt as if each event paid for itself when it occurred, whatever the grants; at every instant before an invoice,
// the balance says so too; what has expired is written off once; and the journal has the same on the accounts of the grants.
func TestCreditsBurnEventByEvent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		unit := money.Scaled(rapid.Int64Range(1, 300).Draw(t, "cents"), 2)
		a := &account{tenant: "acme", zone: time.UTC, catalogs: []billing.Applied{{At: begin, Catalog: &catalog.Catalog{Plans: []catalog.Plan{{Key: "pro", Currency: "USD",
			Prices: []catalog.Price{{Key: "calls", Model: catalog.PerUnit, Meter: "calls", Unit: unit}}}}}}}}
		a.subscription = a.subscription.Assign(tenant.Assignment{Plan: "pro", EffectiveAt: begin, BillingAnchor: begin})
		moment := func(name string, days int) time.Time {
			return begin.Add(time.Duration(rapid.IntRange(0, days*24).Draw(t, name)) * time.Hour)
		}
		var entries []billing.Entry
		post := func(at time.Time, payload any) {
			entries = append(entries, billing.Entry{Position: eventstore.Position{Offset: int64(len(entries) + 1)}, RecordedAt: at, Payload: payload})
		}
		left := map[event.GrantID]money.Decimal{}
		for i := range rapid.IntRange(0, 6).Draw(t, "grants") {
			g := billing.Grant{GrantedAt: moment("granted", 10), CreditGranted: event.CreditGranted{Tenant: "acme", ID: event.GrantID(fmt.Sprintf("g%d", i)),
				Kind: choose(t, "kind", event.Prepaid, event.Promotional), Amount: money.Scaled(rapid.Int64Range(1, 40_000).Draw(t, "amount"), 2),
				Currency: choose(t, "currency", "USD", "USD", "USD", "EUR"), Priority: rapid.IntRange(-1, 1).Draw(t, "priority")}}
			if chance(t, "has a start", 40) {
				g.EffectiveAt = moment("effective", 80)
			}
			if chance(t, "has an end", 50) {
				g.ExpiresAt = moment("expires", 100)
				if !g.EffectiveAt.Before(g.ExpiresAt) {
					g.ExpiresAt = g.EffectiveAt.Add(time.Hour)
				}
			}
			a.grants = append(a.grants, g)
			post(begin, g.CreditGranted)
			left[g.ID] = g.Amount
			if g.Currency != "USD" {
				left[g.ID] = money.Decimal{} // pays for nothing here
			}
		}
		for range rapid.IntRange(0, 25).Draw(t, "events") {
			a.usage = append(a.usage, used{meter: "calls", at: moment("at", 88), quantity: money.Int(rapid.Int64Range(1, 60).Draw(t, "quantity"))})
		}
		written := map[event.GrantID]bool{}
		for range 3 {
			book := a.book()
			p, _, ok := book.Due()
			require.True(t, ok)

			// The balance at an instant of the period.
			now := p.Start.Add(time.Duration(rapid.Int64Range(0, int64(p.End.Sub(p.Start)/time.Hour)-1).Draw(t, "now")) * time.Hour)
			sofar := a.copied()
			sofar.usage = slices.DeleteFunc(sofar.usage, func(u used) bool { return u.at.After(now) })
			before := map[event.GrantID]money.Decimal{}
			for id, amount := range left {
				before[id] = amount
			}
			want := sofar.burn(before, unit, p.Start, p.End)
			open := book.Open(now)
			balance, err := book.CreditBalance(open, now, sofar.sums)
			require.NoError(t, err)
			var available money.Decimal
			for i := range a.grants {
				g := &a.grants[i]
				if g.Currency == "USD" && !written[g.ID] {
					require.Equal(t, want.left[g.ID].String(), balance.Left[g.ID].String(), "%s at %s", g.ID, now)
				}
				if g.Currency == "USD" && !g.EffectiveAt.After(now) && (g.ExpiresAt.IsZero() || g.ExpiresAt.After(now)) {
					available = available.Add(want.left[g.ID])
				}
			}
			require.Equal(t, available.String(), balance.Available.String())
			require.Equal(t, want.owed.String(), balance.Unpaid.String())

			// The invoice of the period.
			want = a.burn(left, unit, p.Start, p.End)
			inv, ok := a.close(t)
			require.True(t, ok)
			post(inv.PeriodEnd, event.InvoiceFinalised{Tenant: "acme", Invoice: inv})
			require.Equal(t, want.owed.String(), inv.Total.String())
			got := map[event.GrantID]money.Decimal{}
			for _, u := range inv.Drawn {
				require.Positive(t, u.Amount.Sign())
				got[u.Grant] = u.Amount
			}
			for i := range a.grants {
				require.Equal(t, want.of[a.grants[i].ID].String(), got[a.grants[i].ID].String(), a.grants[i].ID)
			}
			for _, u := range inv.Expired {
				require.False(t, written[u.Grant], "once")
				written[u.Grant] = true
			}
			for i := range a.grants {
				g := &a.grants[i]
				ended := !g.ExpiresAt.IsZero() && !g.ExpiresAt.After(inv.PeriodEnd)
				used := left[g.ID].Sign() == 0 && g.Currency == "USD"
				require.Equal(t, ended && !used, written[g.ID], "%s", g.ID)
			}
		}
		balances := map[billing.JournalAccount]money.Decimal{}
		for _, transfer := range billing.Journal("acme", entries) {
			require.Positive(t, transfer.Amount.Sign())
			balances[transfer.Debit] = balances[transfer.Debit].Sub(transfer.Amount)
			balances[transfer.Credit] = balances[transfer.Credit].Add(transfer.Amount)
		}
		var receivable money.Decimal
		for _, i := range a.issued {
			receivable = receivable.Add(i.Total)
		}
		require.Equal(t, receivable.Neg().String(), balances[billing.Receivable].String())
		for i := range a.grants {
			g := &a.grants[i]
			rest := left[g.ID]
			if g.Currency != "USD" {
				rest = g.Amount
			}
			if written[g.ID] {
				rest = money.Decimal{}
			}
			require.Equal(t, rest.String(), balances[billing.GrantAccount(g.ID)].String(), g.ID)
		}
	})
}

// Whatever becomes of invoices and grants, the journal sums to zero in each currency, each grant's account has what the book
// says is left of it, and what is receivable is what is open.
func TestJournalIsTheBook(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newScenario(t, false)
		for i := range s.catalogs[0].Catalog.Plans {
			s.catalogs[0].Catalog.Plans[i].Currency = "USD"
		}
		var entries []billing.Entry
		post := func(payload any) {
			entries = append(entries, billing.Entry{Position: eventstore.Position{Offset: int64(len(entries) + 1)}, RecordedAt: s.boundary(), Payload: payload})
		}
		for i := range rapid.IntRange(1, 4).Draw(t, "grants") {
			id := fmt.Sprintf("g%d", i)
			until := ""
			if rapid.Bool().Draw(t, "ends") {
				until = s.moment("until", s.start, 120).Format(time.RFC3339Nano)
			}
			s.grant(t, id, choose(t, "kind", "prepaid", "promotional"), decimal(t, "amount", 1, 40_000, 2).Round(2).Add(money.Int(1)).String(), "", s.start.Format(time.RFC3339Nano), "", until)
			post(s.grants[i].CreditGranted)
		}
		for range rapid.IntRange(2, 12).Draw(t, "steps") {
			switch n := even.Draw(t, "step"); {
			case n < 45:
				if inv, ok := s.close(t); ok {
					post(event.InvoiceFinalised{Tenant: s.tenant, Invoice: inv})
				}
			case n < 75:
				s.uses()
			case n < 85 && len(s.issued) > 0:
				i := rapid.IntRange(0, len(s.issued)-1).Draw(t, "voided")
				if s.issued[i].Voided == nil {
					s.void(i, rapid.Bool().Draw(t, "rebill"))
					post(*s.issued[i].Voided)
				}
			case len(s.issued) > 0:
				i := rapid.IntRange(0, len(s.issued)-1).Draw(t, "settled")
				inv := &s.issued[i]
				as := choose(t, "as", event.Paid, event.Uncollectible)
				if inv.Voided == nil && (inv.Settled == nil || inv.Settled.As == event.Uncollectible && as == event.Paid) {
					inv.Settled = &event.InvoiceSettled{Tenant: s.tenant, ID: inv.ID, As: as, Reference: "r"}
					post(*inv.Settled)
				}
			}
		}
		balances := map[billing.JournalAccount]money.Decimal{}
		ids := map[string]bool{}
		for _, transfer := range billing.Journal(s.tenant, entries) {
			require.Positive(t, transfer.Amount.Sign())
			require.Equal(t, "USD", transfer.Currency, "%+v", transfer)
			require.False(t, ids[transfer.ID], "ids are unique")
			ids[transfer.ID] = true
			balances[transfer.Debit] = balances[transfer.Debit].Sub(transfer.Amount)
			balances[transfer.Credit] = balances[transfer.Credit].Add(transfer.Amount)
		}
		var sum, open, gone money.Decimal
		for _, balance := range balances {
			sum = sum.Add(balance)
		}
		require.Zero(t, sum.Sign())
		for _, inv := range s.issued {
			paid := inv.Settled != nil && inv.Settled.As == event.Paid
			switch {
			case inv.Voided != nil && paid:
				open = open.Sub(inv.Total) // is paid back
			case inv.Voided != nil || paid:
			case inv.Settled != nil:
				gone = gone.Add(inv.Total)
			default:
				open = open.Add(inv.Total)
			}
		}
		require.Equal(t, open.Neg().String(), balances[billing.Receivable].String())
		require.Equal(t, gone.Neg().String(), balances[billing.BadDebt].String())
		book := s.book()
		now := s.boundary()
		balance, err := book.CreditBalance(nil, now, s.sums)
		require.NoError(t, err)
		for _, g := range s.grants {
			require.Equal(t, balance.Left[g.ID].String(), balances[billing.GrantAccount(g.ID)].String(), g.ID)
		}
		require.True(t, slices.IsSortedFunc(entries, func(a, b billing.Entry) int { return cmp.Compare(a.Position.Offset, b.Position.Offset) }))
	})
}
