package billing_test

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// used is a usage event of one meter.
type used struct {
	meter    catalog.MeterKey
	data     map[string]string
	at       time.Time
	quantity money.Decimal
}

func (u used) matches(meter catalog.MeterKey, where map[string]string) bool {
	return u.meter == meter && u.has(where)
}

func (u used) has(where map[string]string) bool {
	for name, value := range where {
		if got, ok := u.data[name]; !ok || got != value {
			return false
		}
	}
	return true
}

// grant gives credit; an empty text is left out.
func (a *account) grant(t require.TestingT, id, kind, amount, priority, at, from, until string) {
	g := billing.Grant{GrantedAt: instant(t, at), CreditGranted: event.CreditGranted{Tenant: a.tenant, ID: event.GrantID(id),
		Kind: event.GrantKind(kind), Amount: money.MustParse(amount), Currency: "USD"}}
	if priority != "" {
		n, err := strconv.Atoi(priority)
		require.NoError(t, err)
		g.Priority = n
	}
	if from != "" {
		g.EffectiveAt = instant(t, from)
	}
	if until != "" {
		g.ExpiresAt = instant(t, until)
	}
	a.grants = append(a.grants, g)
}

// account is all that the invoices of a tenant are made from, and those that were made.
type account struct {
	tenant       event.TenantID
	zone         *time.Location
	closed       time.Time
	subscription tenant.Subscription
	catalogs     []billing.Applied
	usage        []used
	issued       []billing.Issued
	grants       []billing.Grant
}

func (a *account) book() billing.Book {
	return billing.Book{Tenant: a.tenant, Issued: a.issued, Grants: a.grants,
		Agreement: billing.Agreement{Terms: billing.TermsOf(a.subscription, a.catalogs), Zone: a.zone, Closed: a.closed}}
}

func (a *account) sums(m billing.Measure) (s billing.Sum) {
	for _, u := range a.usage {
		other := slices.ContainsFunc(m.Except, u.has)
		if !other && u.matches(m.Meter, m.Where) && !u.at.Before(m.From) && u.at.Before(m.To) {
			s.Quantity, s.Events = s.Quantity.Add(u.quantity), s.Events+1
		}
	}
	return s
}

// draft is the next invoice, after what holds for each: the measures say all that it asks for, twice is the same, the lines
// sum to the total in whole minor units, and what the log keeps of it is what it is.
func (a *account) draft(t require.TestingT) (event.Invoice, bool) {
	b := a.book()
	p, boundary, ok := b.Due()
	if !ok {
		return event.Invoice{}, false
	}
	require.Equal(t, p.End, boundary)
	measures := b.Measures(p)
	inv, err := b.Draft(p, func(m billing.Measure) billing.Sum {
		for i := range measures {
			if measures[i].Equal(m) {
				return a.sums(m)
			}
		}
		require.Failf(t, "not among the measures", "%+v", m)
		return billing.Sum{}
	})
	require.NoError(t, err)
	other := a.book()
	twice, err := other.Draft(p, a.sums)
	require.NoError(t, err)
	require.Equal(t, encoded(t, inv), encoded(t, twice))

	require.True(t, inv.Sum().Equal(inv.Subtotal) && inv.Total.Equal(inv.Subtotal.Sub(inv.Credits())))
	require.False(t, inv.Subtotal.Sign() > 0 && inv.Total.Sign() < 0, "credits pay at most what is owed")
	require.Equal(t, catalog.Currency(inv.Currency).MinorUnits(), inv.Decimals)
	for _, l := range inv.Lines {
		require.Equal(t, l.Amount, l.Amount.Round(inv.Decimals), "%+v", l)
		require.True(t, l.PeriodStart.Before(l.PeriodEnd), "%+v", l)
	}

	e := event.InvoiceFinalised{Tenant: a.tenant, Invoice: inv, By: "test"}
	entry := e.Append(eventstore.Revision(len(a.issued)) - 1)
	require.NoError(t, entry.Check())
	again, err := event.Decode(eventstore.Recorded{Stream: entry.Stream, Tenant: entry.Tenant, Type: entry.Events[0].Type, Data: entry.Events[0].Data})
	require.NoError(t, err)
	require.Equal(t, e, again)
	return inv, true
}

// close finalises the next invoice.
func (a *account) close(t require.TestingT) (event.Invoice, bool) {
	inv, ok := a.draft(t)
	if !ok {
		return inv, false
	}
	if n := len(a.issued); n > 0 {
		last := a.issued[n-1].Invoice
		require.Equal(t, last.PeriodEnd, inv.PeriodStart, "periods tile time")
		require.True(t, last.PeriodEnd.Before(inv.PeriodEnd), "boundaries rise")
		require.NotEqual(t, last.ID, inv.ID)
		require.NotEqual(t, last.Number, inv.Number)
	}
	a.issued = append(a.issued, billing.Issued{Invoice: inv})
	return inv, true
}

func (a *account) void(i int, rebill bool) {
	inv := a.issued[i].Invoice
	a.issued[i].Voided = &event.InvoiceVoided{Tenant: a.tenant, ID: inv.ID, CreditNote: billing.CreditNoteOf(inv), Rebill: rebill}
}

// copied is an account that can go another way from here.
func (a account) copied() *account {
	a.catalogs = append([]billing.Applied(nil), a.catalogs...)
	a.usage = append([]used(nil), a.usage...)
	a.issued = append([]billing.Issued(nil), a.issued...)
	return &a
}

func encoded(t require.TestingT, inv event.Invoice) string {
	text, err := json.Marshal(inv)
	require.NoError(t, err)
	return string(text)
}
