package invoicing

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
)

const (
	maxGrants   = 1000 // of a tenant
	maxPriority = 1000
)

// Credits is a tenant's credit balance, with its grants.
type Credits struct {
	billing.CreditBalance
	Grants []billing.Grant
	At     eventstore.Position // of the usage that is in it
	Now    time.Time
}

// Credits returns what the tenant can draw on. Errors: tenant.ErrUnknown; billing.ErrUnpriced, ErrCurrencies.
func (b *Billing) Credits(ctx context.Context, id event.TenantID) (Credits, error) {
	a, err := b.read(ctx, id)
	if err != nil {
		return Credits{}, err
	}
	return b.credits(ctx, &a, eventstore.Position{})
}

// credits is the credit balance with all usage up to a position.
func (b *Billing) credits(ctx context.Context, a *tenantBilling, atLeast eventstore.Position) (Credits, error) {
	c := Credits{Grants: a.book.Grants, Now: b.c.Now()}
	open, err := a.open(c.Now)
	if err != nil {
		return c, err
	}
	measures := a.book.OpenMeasures(open)
	sums, at, err := b.c.Metering.Sums(ctx, a.book.Tenant, measures, atLeast)
	if err != nil {
		return c, fmt.Errorf("what tenant %q used: %w", a.book.Tenant, err)
	}
	c.At = at
	c.CreditBalance, err = a.book.CreditBalance(open, c.Now, billing.SumsOf(measures, sums, billing.MissingPanics))
	return c, err
}

// CreditTracker is the credit of a tenant as its billing has it now, for the limit engine to keep current.
func (b *Billing) CreditTracker(ctx context.Context, id event.TenantID, of *limit.Policy) (*limit.CreditTracker, error) {
	a, err := b.read(ctx, id)
	if err != nil {
		return nil, err
	}
	open, err := a.open(b.c.Now())
	if err != nil {
		return nil, err
	}
	sums, at, err := b.c.Metering.Sums(ctx, id, a.book.OpenMeasures(open), eventstore.Position{})
	if err != nil {
		return nil, fmt.Errorf("what tenant %q used: %w", id, err)
	}
	return limit.NewCreditTracker(of, &a.book, a.revision, open, sums, at.Offset), nil
}

// Grant gives a tenant credit. A grant without a currency is in the one that the tenant pays in. Granting the same again is
// no error: created is false then. Errors: tenant.ErrUnknown; *invalid.Error; app.ErrConflict, where the id was used for another
// grant.
func (b *Billing) Grant(ctx context.Context, g event.CreditGranted) (_ billing.Grant, created bool, err error) {
	g.EffectiveAt, g.ExpiresAt = event.Tick(g.EffectiveAt), event.Tick(g.ExpiresAt)
	var granted billing.Grant
	created, err = b.revise(ctx, g.Tenant, func(a *tenantBilling) (eventstore.Append, error) {
		now := b.c.Now()
		before := a.book.Grant(g.ID)
		switch {
		case g.Currency != "":
		case before != nil: // the tenant may pay in another one by now
			g.Currency = before.Currency
		default:
			g.Currency = string(a.book.CurrencyAt(now))
		}
		if before != nil {
			if !sameGrant(before.CreditGranted, g) {
				return eventstore.Append{}, fmt.Errorf("%w: %q is the id of another grant, of %s %s",
					app.ErrConflict, invalid.Shorten(string(g.ID)), before.Amount, before.Currency)
			}
			granted = *before
			return eventstore.Append{}, errDone
		}
		if err := checkGrant(g, now); err != nil {
			return eventstore.Append{}, err
		}
		if len(a.book.Grants) >= maxGrants {
			return eventstore.Append{}, invalid.New("", invalid.CodeRequest, fmt.Sprintf("a tenant has at most %d grants", maxGrants))
		}
		return g.Append(a.revision), nil
	})
	return granted, created, err
}

func sameGrant(a, b event.CreditGranted) bool {
	return a.Kind == b.Kind && a.Amount.Equal(b.Amount) && a.Currency == b.Currency && a.Priority == b.Priority &&
		a.EffectiveAt.Equal(b.EffectiveAt) && a.ExpiresAt.Equal(b.ExpiresAt)
}

func checkGrant(g event.CreditGranted, now time.Time) error {
	bad := &invalid.Error{}
	refuse := func(pointer, detail string) {
		bad.Fields = append(bad.Fields, invalid.Field{Pointer: pointer, Code: invalid.CodeRequest, Detail: detail})
	}
	if err := event.CheckID(string(g.ID)); err != nil {
		refuse("/grantId", "grantId "+err.Error())
	}
	if g.Kind != event.Prepaid && g.Kind != event.Promotional {
		refuse("/kind", "kind must be prepaid or promotional")
	}
	c := catalog.Currency(g.Currency)
	switch {
	case !c.Active():
		refuse("/amount/currency", "currency must be a code of ISO 4217")
	case g.Amount.Sign() <= 0:
		refuse("/amount", "amount must be above 0")
	case !payable(g.Amount, c):
		refuse("/amount", unpayable(c))
	}
	if g.Priority < -maxPriority || g.Priority > maxPriority {
		refuse("/priority", fmt.Sprintf("priority must be between %d and %d", -maxPriority, maxPriority))
	}
	if !g.ExpiresAt.IsZero() && !g.ExpiresAt.After(now) {
		refuse("/expiresAt", "expiresAt must be in the future")
	}
	if !g.ExpiresAt.IsZero() && !g.EffectiveAt.Before(g.ExpiresAt) {
		refuse("/effectiveAt", "effectiveAt must be before expiresAt")
	}
	if len(bad.Fields) > 0 {
		return bad
	}
	return nil
}

// payable reports whether an amount is a whole number of the currency's minor units.
func payable(amount money.Decimal, c catalog.Currency) bool {
	return amount.Round(c.MinorUnits()).Equal(amount)
}

func unpayable(c catalog.Currency) string {
	return fmt.Sprintf("an amount of %s has at most %d decimals", c, c.MinorUnits())
}

// Refund takes back what is left of a grant, or a part of it: nothing that is used, or held by checks. A currency is optional,
// and must be that of the grant. Of a refund id the first one counts; refunding the same again is no error. Errors:
// tenant.ErrUnknown; app.ErrNotFound; *invalid.Error; app.ErrConflict.
//
// A check that is decided at another server in the same moment may have counted on what is taken back.
func (b *Billing) Refund(ctx context.Context, r event.CreditRefunded, currency string, held money.Decimal) (billing.Grant, error) {
	if err := app.CheckReason(r.Reason); err != nil {
		return billing.Grant{}, err
	}
	if err := event.CheckID(r.Refund); err != nil {
		return billing.Grant{}, invalid.New("/refundId", invalid.CodeRequest, "refundId "+err.Error())
	}
	var granted billing.Grant
	_, err := b.revise(ctx, r.Tenant, func(a *tenantBilling) (eventstore.Append, error) {
		g := a.book.Grant(r.ID)
		if g == nil {
			return eventstore.Append{}, fmt.Errorf("grant %q: %w", invalid.Shorten(string(r.ID)), app.ErrNotFound)
		}
		if currency != "" && currency != g.Currency {
			return eventstore.Append{}, invalid.New("/amount/currency", invalid.CodeRequest, "the grant is in "+g.Currency)
		}
		if i := slices.IndexFunc(g.Refunded, func(before event.CreditRefunded) bool { return before.Refund == r.Refund }); i >= 0 {
			if !g.Refunded[i].Amount.Equal(r.Amount) {
				return eventstore.Append{}, fmt.Errorf("%w: %q is the id of another refund", app.ErrConflict, invalid.Shorten(r.Refund))
			}
			granted = *g
			return eventstore.Append{}, errDone
		}
		left, err := b.refundable(ctx, a, g, held)
		if err != nil {
			return eventstore.Append{}, err
		}
		if r.Amount.Sign() <= 0 || r.Amount.Cmp(left) > 0 {
			return eventstore.Append{}, invalid.New("/amount", invalid.CodeRequest,
				fmt.Sprintf("amount must be above 0 and at most the %s %s that is neither used nor held", left.Max(money.Decimal{}), g.Currency))
		}
		if c := catalog.Currency(g.Currency); !payable(r.Amount, c) {
			return eventstore.Append{}, invalid.New("/amount", invalid.CodeRequest, unpayable(c))
		}
		return r.Append(a.revision), nil
	})
	return granted, err
}

// refundable is what is left of a grant, where everything that was acknowledged counts as used.
func (b *Billing) refundable(ctx context.Context, a *tenantBilling, g *billing.Grant, held money.Decimal) (left money.Decimal, err error) {
	head, err := b.c.Store.Head(ctx, eventstore.PartitionOf(string(a.book.Tenant), b.c.Store.Partitions()))
	if err != nil {
		return left, err
	}
	c, err := b.credits(ctx, a, head)
	if err != nil {
		return left, err
	}
	left = c.Left[g.ID].Min(a.book.Refundable(g))
	if g.Currency == c.Currency && g.Pays(c.Now) { // checks count on it
		left = left.Min(c.Available.Sub(held))
	}
	return left, nil
}
