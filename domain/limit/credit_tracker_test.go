package limit_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// wallet is a tenant whose only limit is its credit.
type wallet struct {
	t       require.TestingT
	book    billing.Book
	policy  *limit.Policy
	account *limit.Account
	now     time.Time
	log     []limit.Entry
}

var began = time.Date(2026, 1, 12, 0, 0, 0, 0, time.UTC)

func newWallet(t require.TestingT, price catalog.Price, grants ...event.CreditGranted) *wallet {
	price.Key, price.Meter = "jobs", "jobs"
	plan := catalog.Plan{Key: "pro", Currency: "USD", Limits: []catalog.Limit{{Key: "credit", Kind: catalog.Budget, Credits: true, HoldTTL: length("10m")}}, Prices: []catalog.Price{price}}
	c := &catalog.Catalog{Meters: meters, Plans: []catalog.Plan{plan}}
	sub := tenant.Subscription{Assignments: []tenant.Assignment{{Plan: "pro", EffectiveAt: began, BillingAnchor: began}}}
	w := &wallet{t: t, now: began.Add(10 * time.Hour)}
	w.policy = limit.NewPolicy(c, nil, sub, tenant.Active, time.UTC, w.now)
	w.book = billing.Book{Tenant: acme, Agreement: billing.Agreement{Terms: billing.TermsOf(sub, []billing.Applied{{At: began, Catalog: c}}), Zone: time.UTC}}
	for _, g := range grants {
		g.Tenant, g.Kind, g.Currency = acme, event.Prepaid, "USD"
		w.book.Grants = append(w.book.Grants, billing.Grant{CreditGranted: g, GrantedAt: began})
	}
	w.account = w.fold()
	require.False(t, w.account.Misses(w.policy, w.now))
	return w
}

// fold is the account as the log makes it.
func (w *wallet) fold() *limit.Account {
	a := limit.NewAccount(acme, limit.Snapshot{Revision: eventstore.NoStream})
	open := w.book.Open(began.Add(10 * time.Hour))
	a.SetCredit(limit.NewCreditTracker(w.policy, &w.book, 0, open, make([]billing.Sum, len(w.book.OpenMeasures(open))), 0))
	for _, e := range w.log {
		require.NoError(w.t, a.Apply(e))
	}
	return a
}

func (w *wallet) next() eventstore.Position {
	return eventstore.Position{Offset: int64(len(w.log)) + 1}
}

func (w *wallet) job(source event.SourceID, quantity string) limit.Ask {
	return limit.Ask{Check: event.Check{Identity: identity("job", source), Quantity: money.MustParse(quantity), Data: event.NewData(nil)}}
}

func (w *wallet) check(ask limit.Ask) limit.Answer {
	a := w.account.Decide(w.policy, ask, w.now)
	if a.Record {
		w.account.Begin()
		w.account.Propose(a.LimitDecided)
		w.account.Keep([]event.QuotaEvent{a.LimitDecided}, eventstore.Result{Position: w.next()})
		w.log = append(w.log, limit.Entry{Position: w.next(), Revision: w.account.Revision(), Payload: a.LimitDecided})
	}
	return a
}

func (w *wallet) use(source event.SourceID, quantity string) {
	w.tell(limit.Entry{Position: w.next(), Meters: metersOf("job"),
		Payload: event.UsageRecorded{Usage: event.Usage{Identity: identity("job", source), Quantity: money.MustParse(quantity), OccurredAt: w.now}}})
}

func (w *wallet) tell(e limit.Entry) {
	w.log = append(w.log, e)
	require.NoError(w.t, w.account.Apply(e))
}

func TestCreditsAreHeldAndSpent(t *testing.T) {
	w := newWallet(t, catalog.Price{Model: catalog.PerUnit, Unit: money.MustParse("0.50")},
		event.CreditGranted{ID: "a", Amount: money.Int(3)}, event.CreditGranted{ID: "b", Amount: money.Int(2), EffectiveAt: began.Add(12 * time.Hour)})
	first := w.check(w.job("one", "4")) // 2.00
	require.True(t, first.Allowed)
	require.Equal(t, "3", part(t, first.LimitDecided, "credit").Max.String())
	second := w.check(w.job("two", "4"))
	require.False(t, second.Allowed)
	require.Equal(t, limit.PlanLimit, why(second))
	require.Equal(t, "This workspace has 1 USD of credit left, and this needs 2 USD. More at 2026-01-12 10:10 UTC.", limit.Explain(w.policy, &second.LimitDecided))
	require.True(t, w.check(w.job("two", "2")).Allowed)

	// More than was held is a fact, and then there is nothing left; the second grant brings what is missing.
	w.use("one", "5")
	third := w.check(w.job("three", "1"))
	require.False(t, third.Allowed)
	require.Equal(t, w.now.Add(10*time.Minute), part(t, third.LimitDecided, "credit").ResetAt, "a hold of 1.00 ends")
	w.use("two", "2")
	fourth := w.check(w.job("three", "1"))
	require.False(t, fourth.Allowed)
	require.Equal(t, began.Add(12*time.Hour), part(t, fourth.LimitDecided, "credit").ResetAt, "the second grant is effective")
	never := w.check(w.job("five", "5"))
	require.True(t, part(t, never.LimitDecided, "credit").ResetAt.IsZero(), "there will never be so much")

	// Whatever the log says about billing asks for another look.
	w.tell(limit.Entry{Position: w.next(), Revision: 1, Payload: event.CreditGranted{Tenant: acme, ID: "c"}})
	require.True(t, w.account.Misses(w.policy, w.now))
}

// Grants, prices, holds and time at random: what is admitted never costs more than the grants pay for, in whatever order it is used, as
// long as nobody uses more than was asked for; and a denied check passes at its resetAt and not before.
func TestCreditIsNeverBelowZeroByACheck(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cents := func(name string, most int64) money.Decimal {
			return money.Scaled(rapid.Int64Range(1, most).Draw(t, name), 2)
		}
		price := catalog.Price{Model: rapid.SampledFrom([]catalog.PriceModel{catalog.PerUnit, catalog.Graduated, catalog.Volume, catalog.Package}).Draw(t, "model"),
			Unit: cents("unit", 200), Size: money.Int(3)}
		if price.Model == catalog.Graduated || price.Model == catalog.Volume {
			price.Tiers = []catalog.Tier{{UpTo: money.Int(5), Unit: cents("first", 200)}, {Unit: cents("second", 200)}}
		}
		if rapid.Bool().Draw(t, "has free units") {
			price.Included = money.Int(rapid.Int64Range(1, 6).Draw(t, "included"))
		}
		short := rapid.Bool().Draw(t, "short") // neither a grant nor a hold ends
		passes := 900
		if short {
			passes = 20
		}
		var grants []event.CreditGranted
		for i := range rapid.IntRange(0, 3).Draw(t, "grants") {
			g := event.CreditGranted{ID: event.GrantID(nth(i)), Amount: cents("amount", 2000)}
			if rapid.Bool().Draw(t, "later") {
				g.EffectiveAt = began.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "from")) * time.Hour)
			}
			if !short && rapid.Bool().Draw(t, "ends") {
				g.ExpiresAt = g.EffectiveAt
				if g.ExpiresAt.IsZero() {
					g.ExpiresAt = began
				}
				g.ExpiresAt = g.ExpiresAt.Add(time.Duration(rapid.IntRange(11, 400).Draw(t, "until")) * time.Hour)
			}
			grants = append(grants, g)
		}
		w := newWallet(t, price, grants...)
		held := map[event.SourceID]string{}
		for i := range rapid.IntRange(1, 25).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, passes).Draw(t, "passes")) * time.Second)
			case 1:
				if open := slices.Sorted(maps.Keys(held)); len(open) > 0 { // in any order
					source := rapid.SampledFrom(open).Draw(t, "used")
					w.use(source, held[source])
					delete(held, source)
				}
			default:
				q, source := fmt.Sprint(rapid.IntRange(1, 8).Draw(t, "quantity")), nth(i)
				if open := slices.Sorted(maps.Keys(held)); len(open) > 0 && rapid.IntRange(0, 3).Draw(t, "once more") == 0 {
					source = rapid.SampledFrom(open).Draw(t, "asked before") // for more or for less
				}
				a := w.check(w.job(source, q))
				if a.Allowed {
					held[source] = q
					break
				}
				p := part(t, a.LimitDecided, "credit")
				again := func(at time.Time) limit.Answer {
					return w.fold().Decide(w.policy, w.job(source, q), at)
				}
				if p.ResetAt.IsZero() {
					for _, ahead := range []time.Duration{time.Hour, 30 * 24 * time.Hour, 80 * 24 * time.Hour} {
						require.False(t, again(w.now.Add(ahead)).Allowed, "after %s", ahead)
					}
					break
				}
				require.True(t, again(p.ResetAt).Allowed, "at %s", p.ResetAt)
				require.False(t, again(p.ResetAt.Add(-time.Millisecond)).Allowed, "before %s", p.ResetAt)
			}
			for source := range held { // those that have ended hold nothing any more
				if _, open := w.account.Hold(limit.Source{Type: "job", Source: source}, w.now); !open {
					delete(held, source)
				}
			}
		}
		if !short {
			return
		}
		for _, source := range slices.Sorted(maps.Keys(held)) {
			w.use(source, held[source])
		}
		balance, err := w.book.CreditBalance(w.book.Open(w.now), w.now, func(m billing.Measure) (sum billing.Sum) {
			for _, e := range w.log {
				if u, ok := e.Payload.(event.UsageRecorded); ok && !u.OccurredAt.Before(m.From) && u.OccurredAt.Before(m.To) {
					sum.Quantity = sum.Quantity.Add(u.Quantity)
				}
			}
			return sum
		})
		require.NoError(t, err)
		require.Equal(t, "0", balance.Unpaid.String(), "everything that was admitted is used, and paid")
	})
}
