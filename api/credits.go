package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invoicing"
	"github.com/tollgate-io/tollgate/domain/money"
)

// GetCredits is GET /v1/credits.
func (s *Server) GetCredits(c echo.Context, params GetCreditsParams) error {
	if err := s.await(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	id := inside(c).tenant.ID
	credits, err := s.Billing.Credits(ctx, id)
	if err != nil {
		return err
	}
	held, err := s.heldCredit(ctx, id)
	if err != nil {
		return err
	}
	showPosition(c, credits.At)
	return writeJSON(c, http.StatusOK, creditsView{
		Balance:   amountOf(credits.Available, credits.Currency),
		Held:      amountOf(held, credits.Currency),
		Available: amountOf(credits.Available.Sub(held).Max(money.Decimal{}), credits.Currency),
		Unpaid:    amountOf(credits.Unpaid, credits.Currency),
		Grants: viewsOf(credits.Grants, func(g *billing.Grant) heldGrantView {
			return heldGrantView{viewGrant(g), amountOf(credits.Left[g.ID].Max(money.Decimal{}), g.Currency), grantState(g, &credits)}
		}),
	})
}

type creditsView struct {
	Balance   amount          `json:"balance"`
	Held      amount          `json:"held"`
	Available amount          `json:"available"`
	Unpaid    amount          `json:"unpaid"`
	Grants    []heldGrantView `json:"grants"`
}

// heldGrantView is a grant with what is left of it.
type heldGrantView struct {
	grantView
	Remaining amount `json:"remaining"`
	State     string `json:"state"`
}

func grantState(g *billing.Grant, c *invoicing.Credits) string {
	switch {
	case g.Expired(c.Now):
		return "expired"
	case g.EffectiveAt.After(c.Now):
		return "pending"
	case c.Left[g.ID].Sign() <= 0:
		return "used"
	default:
		return "active"
	}
}

// heldCredit is what open checks hold of the tenant's credit.
func (s *Server) heldCredit(ctx context.Context, id event.TenantID) (held money.Decimal, err error) {
	view, err := s.Limits.View(ctx, id, event.Data{})
	if err != nil {
		return held, err
	}
	for i := range view.Limits {
		if l := &view.Limits[i]; l.Limit.Credits {
			held = held.Max(l.Held)
		}
	}
	return held, nil
}

type grantView struct {
	ID          event.GrantID   `json:"grantId"`
	Kind        event.GrantKind `json:"kind"`
	Amount      amount          `json:"amount"`
	Priority    int             `json:"priority"`
	GrantedAt   instant         `json:"grantedAt"`
	EffectiveAt instant         `json:"effectiveAt"`
	ExpiresAt   instant         `json:"expiresAt"`
	Refunded    amount          `json:"refunded"`
}

func viewGrant(g *billing.Grant) grantView {
	var refunded money.Decimal
	for _, r := range g.Refunded {
		refunded = refunded.Add(r.Amount)
	}
	return grantView{g.ID, g.Kind, amountOf(g.Amount, g.Currency), g.Priority, instant(g.GrantedAt), instant(g.EffectiveAt), instant(g.ExpiresAt),
		amountOf(refunded, g.Currency)}
}

// GrantCredit is POST /v1/admin/tenants/{tenantId}/credits.
func (s *Server) GrantCredit(c echo.Context, tenantID Id) error {
	g := event.CreditGranted{Tenant: event.TenantID(tenantID), Kind: event.Prepaid, By: admin(c)}
	err := readObject(c, []string{"grantId", "amount", "kind", "priority", "effectiveAt", "expiresAt"}, func(d *decoder, v []jsontext.Value) {
		if !absent(v[0]) {
			id, _ := d.str(v[0], "/grantId")
			g.ID = event.GrantID(id)
		}
		g.Amount, g.Currency = d.money(v[1], "/amount")
		if !absent(v[2]) {
			kind, _ := d.str(v[2], "/kind")
			g.Kind = event.GrantKind(kind)
		}
		if !absentOrNull(v[3]) {
			n, err := strconv.Atoi(string(v[3]))
			if err != nil {
				d.refuse("/priority", "priority must be a whole number")
			}
			g.Priority = n
		}
		g.EffectiveAt = d.optionalInstant(v[4], "/effectiveAt", "effectiveAt")
		g.ExpiresAt = d.optionalInstant(v[5], "/expiresAt", "expiresAt")
	})
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	grant, created, err := s.Billing.Grant(ctx, g)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return writeJSON(c, status, viewGrant(&grant))
}

// RefundCredit is POST /v1/admin/tenants/{tenantId}/credits/{grantId}/refund.
func (s *Server) RefundCredit(c echo.Context, tenantID Id, grantID string) error {
	r := event.CreditRefunded{Tenant: event.TenantID(tenantID), ID: event.GrantID(grantID), By: admin(c)}
	currency := ""
	err := readObject(c, []string{"refundId", "amount", "reason"}, func(d *decoder, v []jsontext.Value) {
		if !absent(v[0]) {
			r.Refund, _ = d.str(v[0], "/refundId")
		}
		r.Amount, currency = d.money(v[1], "/amount")
		if !absent(v[2]) {
			r.Reason, _ = d.str(v[2], "/reason")
		}
	})
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	held, err := s.heldCredit(ctx, r.Tenant)
	if err != nil {
		return err
	}
	grant, err := s.Billing.Refund(ctx, r, currency, held)
	if err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, viewGrant(&grant))
}
