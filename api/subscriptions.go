package api

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// PutPlan is PUT /v1/admin/tenants/{tenantId}/plan.
func (s *Server) PutPlan(c echo.Context, tenantID Id) error {
	var (
		p     app.PlanAssignment
		date  time.Time // of the billing anchor
		dated bool      // it was sent as a date
	)
	err := readObject(c, []string{"plan", "effectiveAt", "billingAnchor"}, func(d *decoder, v []jsontext.Value) {
		if absent(v[0]) {
			d.refuse("/plan", "plan is required")
		} else {
			text, _ := d.str(v[0], "/plan")
			p.Plan = catalog.PlanKey(text)
		}
		p.EffectiveAt = d.optionalInstant(v[1], "/effectiveAt", "effectiveAt")
		if date, dated = d.date(v[2], "/billingAnchor", "billingAnchor"); !dated {
			p.BillingAnchor = d.optionalInstant(v[2], "/billingAnchor", "billingAnchor")
		}
	})
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	id := event.TenantID(tenantID)
	if dated {
		t, err := s.Directory.Tenant(ctx, id)
		if err != nil {
			return fmt.Errorf("tenant %q: %w", clip(tenantID, event.MaxIDLength), err)
		}
		if p.BillingAnchor, err = midnight(date, t); err != nil {
			return err
		}
	}
	assigned, err := s.Ledger.AssignPlan(ctx, id, p, admin(c))
	if err != nil {
		return err
	}
	showPosition(c, assigned.Position)
	return writeJSON(c, http.StatusOK, assignedPlanView{tenantID, assigned.Plan, string(assigned.Plan) + "@" + strconv.Itoa(assigned.Version),
		instant(assigned.EffectiveAt), instant(assigned.BillingAnchor), position(assigned.Position)})
}

type assignedPlanView struct {
	Tenant        string          `json:"tenantId"`
	Plan          catalog.PlanKey `json:"plan"`
	PlanVersion   string          `json:"planVersion"`
	EffectiveAt   instant         `json:"effectiveAt"`
	BillingAnchor instant         `json:"billingAnchor"`
	Position      position        `json:"position"`
}

// midnight is when a date begins on the clock of the tenant, or with the first instant after it where the clock skips that.
func midnight(date time.Time, t tenant.Tenant) (time.Time, error) {
	zone, err := t.Location()
	if err != nil {
		return time.Time{}, err // it was checked when the tenant was defined
	}
	noon := time.Date(date.Year(), date.Month(), date.Day(), 12, 0, 0, 0, zone)
	return calendar.Calendar{Zone: zone}.Window(catalog.Day, noon).Start, nil
}
