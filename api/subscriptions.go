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
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
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

const outOfYears = " must be between the years 1970 and 9999"

// date reads a date without a time, as if it were in UTC; ok is false for anything else.
func (d *decoder) date(v jsontext.Value, pointer, name string) (date time.Time, ok bool) {
	if len(v) != len(`"2006-01-02"`) || v[0] != '"' {
		return date, false
	}
	if date, ok = parseTime(string(v[1:len(v)-1]) + "T00:00:00Z"); ok && date.Year() < 1970 {
		d.refuse(pointer, name+outOfYears)
	}
	return date, ok
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

// optionalInstant reads an RFC 3339 time; absent and null are the zero time, which nobody can name. What is agreed with
// tenants happens since there are computers, and in years that every calendar can write.
func (d *decoder) optionalInstant(v jsontext.Value, pointer, name string) time.Time {
	if absentOrNull(v) {
		return time.Time{}
	}
	noted := d.count
	t := d.instant(v, pointer, name)
	if y := t.UTC().Year(); d.count == noted && (y < 1970 || y > 9999) {
		d.refuse(pointer, name+outOfYears)
	}
	return t
}

// PutLimit is PUT /v1/admin/tenants/{tenantId}/limits/{limit}.
func (s *Server) PutLimit(c echo.Context, tenantID Id, limit string) error {
	o := app.Override{Limit: catalog.LimitKey(limit)}
	err := readObject(c, []string{"max", "from", "until", "reason"}, func(d *decoder, v []jsontext.Value) {
		if absent(v[0]) {
			d.refuse("/max", "max is required")
		} else {
			o.Max = d.decimal(v[0], "/max", "max")
		}
		o.From = d.optionalInstant(v[1], "/from", "from")
		o.Until = d.optionalInstant(v[2], "/until", "until")
		if !absent(v[3]) {
			o.Reason, _ = d.str(v[3], "/reason")
		}
	})
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	overridden, err := s.Ledger.OverrideLimit(ctx, event.TenantID(tenantID), o, admin(c))
	if err != nil {
		return err
	}
	showPosition(c, overridden.Position)
	return writeJSON(c, http.StatusOK, overriddenLimitView{tenantID, overridden.Limit, overridden.Max, instant(overridden.From), instant(overridden.Until),
		overridden.Reason, position(overridden.Position)})
}

type overriddenLimitView struct {
	Tenant   string           `json:"tenantId"`
	Limit    catalog.LimitKey `json:"limit"`
	Max      money.Decimal    `json:"max"`
	From     instant          `json:"from"`
	Until    instant          `json:"until"`
	Reason   string           `json:"reason"`
	Position position         `json:"position"`
}

// RemoveLimit is DELETE /v1/admin/tenants/{tenantId}/limits/{limit}.
func (s *Server) RemoveLimit(c echo.Context, tenantID Id, limit string) error {
	ctx, cancel := work(c)
	defer cancel()
	_, at, err := s.Ledger.RemoveOverride(ctx, event.TenantID(tenantID), catalog.LimitKey(limit), admin(c))
	if err != nil {
		return err
	}
	if at != (eventstore.Position{}) {
		showPosition(c, at)
	}
	return c.NoContent(http.StatusNoContent)
}
