package api

import (
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// PutTenant is PUT /v1/admin/tenants/{tenantId}.
func (s *Server) PutTenant(c echo.Context, tenantID Id) error {
	t := tenant.Tenant{ID: event.TenantID(tenantID)}
	err := readObject(c, []string{"name", "timeZone", "currency", "hosts", "slug"}, func(d *decoder, v []jsontext.Value) {
		for i, into := range []*string{&t.Name, &t.TimeZone, &t.Currency} {
			if name := [...]string{"name", "timeZone", "currency"}[i]; !absent(v[i]) {
				*into, _ = d.str(v[i], "/"+name)
			}
		}
		if !absent(v[3]) {
			t.Hosts = d.strings(v[3], "/hosts")
		}
		if !absentOrNull(v[4]) { // as GET answers it
			t.Slug, _ = d.str(v[4], "/slug")
		}
	})
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	change, err := s.Ledger.DefineTenant(ctx, t, admin(c))
	if err != nil {
		return err
	}
	showPosition(c, change.Position)
	return writeJSON(c, http.StatusOK, viewTenant(change.Tenant))
}

// GetTenant is GET /v1/admin/tenants/{tenantId}.
func (s *Server) GetTenant(c echo.Context, tenantID Id, params GetTenantParams) error {
	if _, err := s.awaitDirectory(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	id := event.TenantID(tenantID)
	at, err := s.Positions.Shown(ctx, id)
	if err != nil {
		return fmt.Errorf("read the position: %w", err)
	}
	t, err := s.Directory.Tenant(ctx, id)
	if err != nil {
		return fmt.Errorf("tenant %q: %w", clip(tenantID, event.MaxIDLength), err)
	}
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, viewTenant(t))
}

type tenantView struct {
	ID           event.TenantID `json:"tenantId"`
	Name         string         `json:"name"`
	TimeZone     string         `json:"timeZone"`
	Currency     string         `json:"currency"`
	Hosts        []string       `json:"hosts"`
	Slug         optional       `json:"slug"`
	Status       tenant.Status  `json:"status"`
	StatusReason optional       `json:"statusReason"`
}

func viewTenant(t tenant.Tenant) tenantView {
	return tenantView{t.ID, t.Name, t.TimeZone, t.Currency, t.Hosts, optional(t.Slug), t.Status, optional(t.Reason)}
}

// PutStatus is PUT /v1/admin/tenants/{tenantId}/status.
func (s *Server) PutStatus(c echo.Context, tenantID Id) error {
	var status, reason string
	err := readObject(c, []string{"status", "reason"}, func(d *decoder, v []jsontext.Value) {
		if absent(v[0]) {
			d.refuse("/status", "status is required")
		} else {
			status, _ = d.str(v[0], "/status")
		}
		if !absent(v[1]) {
			reason, _ = d.str(v[1], "/reason")
		}
	})
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	change, err := s.Ledger.SetStatus(ctx, event.TenantID(tenantID), tenant.Status(status), reason, admin(c))
	if err != nil {
		return err
	}
	showPosition(c, change.Position)
	return writeJSON(c, http.StatusOK, viewTenant(change.Tenant))
}
