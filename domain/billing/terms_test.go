package billing_test

import (
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

func date(month time.Month, day int) time.Time {
	return time.Date(2026, month, day, 0, 0, 0, 0, time.UTC)
}

// assigned is an account in UTC whose plans are these from these days of 2026 on, all with cycles from the first.
func assigned(plans map[time.Time]catalog.PlanKey, catalogs ...billing.Applied) *account {
	a := &account{tenant: "acme", zone: time.UTC, catalogs: catalogs}
	for at, plan := range plans {
		a.subscription = a.subscription.Assign(tenant.Assignment{Plan: plan, EffectiveAt: at, BillingAnchor: date(1, 1)})
	}
	return a
}

func applied(at time.Time, plans ...catalog.Plan) billing.Applied {
	return billing.Applied{At: at, Catalog: &catalog.Catalog{Plans: plans}}
}

func fee(key catalog.PlanKey, c catalog.Currency, amount int64) catalog.Plan {
	return catalog.Plan{Key: key, Currency: c, Prices: []catalog.Price{{Key: "base", Model: catalog.Flat, Amount: money.Int(amount)}}}
}

// An invoice that nobody can know is refused, also where only the period before or after it is in the dark.
func TestDraftRefuses(t *testing.T) {
	usd, eur := fee("usd", "USD", 30), fee("eur", "EUR", 30)
	start := date(1, 1)
	for name, c := range map[string]struct {
		account *account
		closes  int // so many boundaries first
		change  func(*account)
		want    error
	}{
		"a plan that no catalog has":               {assigned(map[time.Time]catalog.PlanKey{start: "gone"}, applied(start, usd)), 0, nil, billing.ErrUnpriced},
		"a plan that comes later in the period":    {assigned(map[time.Time]catalog.PlanKey{start: "usd", date(1, 9): "gone"}, applied(start, usd)), 0, nil, billing.ErrUnpriced},
		"a plan of the next period":                {assigned(map[time.Time]catalog.PlanKey{start: "usd", date(2, 9): "gone"}, applied(start, usd)), 1, nil, billing.ErrUnpriced},
		"a plan that the catalog has no more":      {assigned(map[time.Time]catalog.PlanKey{start: "usd"}, applied(start, usd), applied(date(1, 9), eur)), 0, nil, billing.ErrUnpriced},
		"a plan in a closed period":                {assigned(map[time.Time]catalog.PlanKey{start: "usd"}, applied(start, usd)), 3, func(a *account) { a.assign("gone", date(1, 9)) }, billing.ErrUnpriced},
		"two currencies in a period":               {assigned(map[time.Time]catalog.PlanKey{start: "usd", date(1, 9): "eur"}, applied(start, usd, eur)), 0, nil, billing.ErrCurrencies},
		"another currency in the next":             {assigned(map[time.Time]catalog.PlanKey{start: "usd", date(2, 1): "eur"}, applied(start, usd, eur)), 1, nil, billing.ErrCurrencies},
		"another currency than in a closed period": {assigned(map[time.Time]catalog.PlanKey{start: "usd"}, applied(start, usd, eur)), 3, func(a *account) { a.assign("eur", date(3, 1)) }, billing.ErrCurrencies},
	} {
		t.Run(name, func(t *testing.T) {
			for range c.closes {
				_, ok := c.account.close(t)
				require.True(t, ok)
			}
			if c.change != nil {
				c.change(c.account)
			}
			b := c.account.book()
			p, _, ok := b.Due()
			require.True(t, ok)
			_, err := b.Draft(p, c.account.sums)
			require.ErrorIs(t, err, c.want)
		})
	}
}

func (a *account) assign(plan catalog.PlanKey, at time.Time) {
	a.subscription = a.subscription.Assign(tenant.Assignment{Plan: plan, EffectiveAt: at, BillingAnchor: date(1, 1)})
}

// Late usage is waited for as long as the plan at the end of the period says, by the newest catalog that has these prices.
func TestGrace(t *testing.T) {
	waits := func(p catalog.Plan, grace string) catalog.Plan {
		p.Grace, _ = catalog.ParseDuration(grace)
		return p
	}
	start := date(1, 1)
	one, two := fee("one", "USD", 30), fee("two", "USD", 60)
	for name, c := range map[string]struct {
		account *account
		closes  int
		want    time.Duration
	}{
		"at the start there is nothing to wait for": {assigned(map[time.Time]catalog.PlanKey{start: "one"}, applied(start, waits(one, "6h"))), 0, 0},
		"as the plan says":                          {assigned(map[time.Time]catalog.PlanKey{start: "one"}, applied(start, waits(one, "6h"))), 1, 6 * time.Hour},
		"as the plan at the end says":               {assigned(map[time.Time]catalog.PlanKey{start: "one", date(1, 9): "two"}, applied(start, waits(one, "6h"), waits(two, "2d"))), 1, 48 * time.Hour},
		"as the newest catalog says":                {assigned(map[time.Time]catalog.PlanKey{start: "one"}, applied(start, waits(one, "6h")), applied(date(1, 9), waits(one, "3d"))), 1, 72 * time.Hour},
		"not at all by a plan that nobody has":      {assigned(map[time.Time]catalog.PlanKey{start: "gone"}, applied(start, one)), 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			for range c.closes {
				c.account.close(t)
			}
			b := c.account.book()
			p, _, ok := b.Due()
			require.True(t, ok)
			require.Equal(t, c.want, b.Grace(p))
		})
	}
}

// Without a plan or a catalog there are no terms.
func TestTermsOfNothing(t *testing.T) {
	require.Empty(t, billing.TermsOf(tenant.Subscription{}, []billing.Applied{applied(date(1, 1))}))
	require.Empty(t, billing.TermsOf(tenant.Subscription{}.Assign(tenant.Assignment{Plan: "one", EffectiveAt: date(1, 1)}), nil))
}

// A tenant that is closed before its plan takes effect owes nothing.
func TestClosedBeforeItBegan(t *testing.T) {
	a := assigned(map[time.Time]catalog.PlanKey{date(2, 1): "one"}, applied(date(1, 1), fee("one", "USD", 30)))
	a.closed = date(1, 20)
	_, ok := a.close(t)
	require.False(t, ok)
}

// The id of an invoice leads to its tenant, and two boundaries or two tenants never share one.
func TestTenantOfInvoice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seen := map[event.InvoiceID]event.TenantID{}
		for _, id := range rapid.SliceOfNDistinct(rapid.StringMatching(`[A-Za-z0-9_.:-]{1,40}`), 1, 3, rapid.ID).Draw(t, "tenants") {
			if event.CheckID(id) != nil {
				continue
			}
			a := assigned(map[time.Time]catalog.PlanKey{time.UnixMicro(rapid.Int64Range(-1e15, 4e15).Draw(t, "start")).UTC(): "one"},
				applied(date(1, 1), fee("one", "USD", 30)))
			a.tenant = event.TenantID(id)
			for range 3 {
				inv, ok := a.close(t)
				require.True(t, ok)
				require.NotContains(t, seen, inv.ID)
				require.NoError(t, event.CheckID(string(inv.ID)))
				seen[inv.ID] = a.tenant
			}
		}
		for id, want := range seen {
			got, ok := billing.TenantOf(id)
			require.True(t, ok)
			require.Equal(t, want, got)
		}
	})
	for _, id := range []event.InvoiceID{"", "inv_", "inv__", "inv_YWNtZQ", "YWNtZQ_0", "inv_*_0", "inv__0", "inv_AA_0"} {
		_, ok := billing.TenantOf(id)
		require.False(t, ok, id)
	}
}
