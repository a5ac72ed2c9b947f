package api

import (
	"context"
	"fmt"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// The headers that name a tenant, in canonical form.
const (
	headerTenant       = "X-Tenant-Id"
	headerSwitch       = "X-Tenant-Switch"
	headerSwitchReason = "X-Switch-Reason"
)

// caller is who acts, and where the headers say that it acts.
type caller struct {
	key     tenant.Key
	headers []string // X-Tenant-Id
	to      event.TenantID
	reason  string
}

// insider is a caller inside a tenant that exists.
type insider struct {
	tenant tenant.Tenant
	actor  event.Actor
}

const (
	adminContext   = "tollgate.admin"
	insiderContext = "tollgate.insider"
)

// authenticate finds the key that the request carries.
func (s *Server) authenticate(ctx context.Context, c echo.Context) (tenant.Key, error) {
	values := c.Request().Header[echo.HeaderAuthorization]
	const scheme = "Bearer "
	if len(values) != 1 || len(values[0]) <= len(scheme) || !strings.EqualFold(values[0][:len(scheme)], scheme) {
		return tenant.Key{}, refuse(codeUnauthorized, "Send the API key as Authorization: Bearer <key>.")
	}
	key, err := s.Directory.Key(ctx, tenant.Secret(strings.TrimSpace(values[0][len(scheme):])).Hash())
	if err != nil {
		return tenant.Key{}, fmt.Errorf("look up the API key: %w", err)
	}
	return key, nil
}

// call authenticates and reads the headers that name a tenant, for routes of a tenant.
func (s *Server) call(ctx context.Context, c echo.Context) (caller, error) {
	key, err := s.authenticate(ctx, c)
	if err != nil {
		return caller{}, err
	}
	h := c.Request().Header
	who := caller{key: key, headers: h[headerTenant]}
	to, reason := h[headerSwitch], h[headerSwitchReason]
	switch {
	case key.Kind != tenant.Admin && (to != nil || reason != nil):
		return caller{}, refuse(codeForbidden, "Only an admin key can switch tenants; leave out X-Tenant-Switch and X-Switch-Reason.")
	case key.Kind != tenant.Admin:
		return who, nil
	case len(to) != 1 || len(reason) != 1 || to[0] == "" || strings.TrimSpace(reason[0]) == "":
		return caller{}, refuse(codeForbidden, "An admin key acts inside a tenant with X-Tenant-Switch: <tenantId> and X-Switch-Reason: <why>, both once.")
	}
	who.to, who.reason = event.TenantID(to[0]), reason[0]
	return who, nil
}

// caller is call with its own time.
func (s *Server) caller(c echo.Context) (caller, error) {
	ctx, cancel := work(c)
	defer cancel()
	return s.call(ctx, c)
}

// tenantOf resolves the tenant for an event that names it like this; "" where it does not.
func (c caller) tenantOf(body event.TenantID) (event.TenantID, error) {
	return tenant.Resolve(tenant.Signals{Credential: c.key.Tenant, Headers: c.headers, Body: body, Switch: c.to})
}

// noteSwitch puts an administrator's presence on the tenant's timeline before anything is done there.
func (s *Server) noteSwitch(ctx context.Context, c caller) error {
	if c.key.Kind != tenant.Admin {
		return nil
	}
	return s.Ledger.SwitchTenant(ctx, c.to, c.reason, c.key.Actor())
}

// enterOnce is noteSwitch for a whole batch, with its own time.
func (s *Server) enterOnce(c echo.Context, who caller) error {
	ctx, cancel := work(c)
	defer cancel()
	return s.noteSwitch(ctx, who)
}

// forAdmins guards a route that belongs to no tenant.
func (s *Server) forAdmins(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		ctx, cancel := work(c)
		defer cancel()
		key, err := s.authenticate(ctx, c)
		if err != nil {
			return err
		}
		if key.Kind != tenant.Admin {
			return refuse(codeForbidden, "This needs an admin key.")
		}
		c.Set(adminContext, key.Actor())
		return next(c)
	}
}

// insideTenant guards a route of one tenant: when the handler runs, the tenant exists and the key may act there.
func (s *Server) insideTenant(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		in, err := s.enter(c)
		if err != nil {
			return err
		}
		c.Set(insiderContext, in)
		// All values agree now; the generated code wants one.
		if values := c.Request().Header[headerTenant]; len(values) > 1 {
			c.Request().Header[headerTenant] = values[:1]
		}
		return next(c)
	}
}

func (s *Server) enter(c echo.Context) (insider, error) {
	ctx, cancel := work(c)
	defer cancel()
	who, err := s.call(ctx, c)
	if err != nil {
		return insider{}, err
	}
	id, err := who.tenantOf("")
	if err != nil {
		return insider{}, err
	}
	t, err := s.Directory.Tenant(ctx, id)
	if err != nil {
		return insider{}, fmt.Errorf("tenant %q: %w", clip(string(id), event.MaxIDLength), err)
	}
	if err := s.noteSwitch(ctx, who); err != nil {
		return insider{}, err
	}
	return insider{t, who.key.Actor()}, nil
}

func admin(c echo.Context) event.Actor { return c.Get(adminContext).(event.Actor) }

func inside(c echo.Context) insider { return c.Get(insiderContext).(insider) }
