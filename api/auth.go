package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/api/internal/forwarded"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// The headers that name a tenant, in canonical form.
const (
	headerTenant       = "X-Tenant-Id"
	headerSwitch       = "X-Tenant-Switch"
	headerSwitchReason = "X-Switch-Reason"
)

// caller is who acts, and what the request around its body says about where.
type caller struct {
	key     tenant.Key
	signals tenant.Signals
	reason  string // of a switch
}

// tenantCaller is a caller inside a tenant that exists.
type tenantCaller struct {
	tenant tenant.Tenant
	actor  event.Actor
}

const (
	callerContext       = "tollgate.caller"
	tenantCallerContext = "tollgate.tenantCaller"
)

// bearer is the hash of the key that the request carries.
func bearer(r *http.Request) (tenant.Hash, error) {
	values := r.Header[echo.HeaderAuthorization]
	const scheme = "Bearer "
	if len(values) != 1 || len(values[0]) <= len(scheme) || !strings.EqualFold(values[0][:len(scheme)], scheme) {
		return tenant.Hash{}, refuse(codeUnauthorized, "Send the API key as Authorization: Bearer <key>.")
	}
	return tenant.Secret(strings.TrimSpace(values[0][len(scheme):])).Hash(), nil
}

// key is the key with this hash, as long as it opens anything. Error: tenant.ErrUnknownKey.
func (s *Server) key(ctx context.Context, hash tenant.Hash) (tenant.Key, error) {
	key, err := s.Directory.Key(ctx, hash)
	if err == nil && !key.ValidAt(s.Now()) {
		err = tenant.ErrUnknownKey
	}
	return key, err
}

// authenticate finds the key that the request carries.
func (s *Server) authenticate(ctx context.Context, c echo.Context) (tenant.Key, error) {
	hash, err := bearer(c.Request())
	if err != nil {
		return tenant.Key{}, err
	}
	now := s.Now()
	if s.throttle.refuses(hash, c, now) {
		s.metrics.throttled.Inc()
		return tenant.Key{}, errThrottled
	}
	key, err := s.key(ctx, hash)
	switch {
	case errors.Is(err, tenant.ErrUnknownKey):
		s.metrics.unauthenticated.Inc()
		s.throttle.unknown(hash, c, now)
		return tenant.Key{}, err
	case err != nil:
		return tenant.Key{}, fmt.Errorf("look up the API key: %w", err)
	}
	s.throttle.valid(hash)
	if s.Uses != nil {
		s.Uses.Used(key.ID, now)
	}
	return key, nil
}

// identify authenticates and reads everything around the body that names a tenant.
func (s *Server) identify(ctx context.Context, c echo.Context) (caller, error) {
	key, err := s.authenticate(ctx, c)
	if err != nil {
		return caller{}, err
	}
	r := c.Request()
	who := caller{key: key, signals: tenant.Signals{Credential: key.Tenant, Headers: r.Header[headerTenant]}}
	host, err := forwarded.Host(r, s.TrustedProxies)
	if err != nil {
		return caller{}, refuse(codeTenantConflict, err.Error()+".")
	}
	if who.signals.Host, err = s.Resolver.AtHost(ctx, host); err != nil {
		return caller{}, err
	}
	slug, hasSlug := ctx.Value(slugContext{}).(string)
	if who.signals.Host == "" && !hasSlug && key.Kind == tenant.Service && who.signals.Headers == nil && !tenant.IsLocal(host) {
		// Perhaps nothing names a tenant, which would be refused for good: the host may have been verified a moment ago.
		if s.Directory.Refresh(ctx) == nil {
			if who.signals.Host, err = s.Resolver.AtHost(ctx, host); err != nil {
				return caller{}, err
			}
		}
	}
	if hasSlug {
		if who.signals.Path, err = s.Resolver.AtSlug(ctx, slug); err != nil {
			return caller{}, err
		}
	}
	return who, nil
}

// slugContext is where the slug of a path /t/{slug}/v1/... is kept.
type slugContext struct{}

// splitPath takes the tenant's slug off an escaped path.
func splitPath(path string) (slug, rest string, ok bool) {
	after, ok := strings.CutPrefix(path, "/t/")
	if !ok {
		return "", path, false
	}
	slug, rest, ok = strings.Cut(after, "/")
	rest = "/" + rest
	if !ok || !strings.HasPrefix(rest, "/v1/") && !strings.HasPrefix(rest, "/ofrep/") || strings.HasPrefix(rest, "/v1/admin/") {
		return "", path, false
	}
	return slug, rest, true
}

// identifyInTenant is identify for events and checks, which may each name their tenant: an admin key says with headers where it
// acts, and why. It takes half of the allowance at most, so that what is known can still be decided on.
func (s *Server) identifyInTenant(c echo.Context, a *allowance) (caller, error) {
	ctx, cancel := a.part(c, 2)
	defer cancel()
	who, err := s.identify(ctx, c)
	if err != nil {
		return caller{}, err
	}
	return who.switching(c.Request().Header)
}

// switching reads the headers that switch an admin key into a tenant, and refuses them with any other key.
func (c caller) switching(h http.Header) (caller, error) {
	to, reason := h[headerSwitch], h[headerSwitchReason]
	switch {
	case c.key.Kind != tenant.Admin && (to != nil || reason != nil):
		return caller{}, refuse(codeForbidden, "Only an admin key can switch tenants; leave out X-Tenant-Switch and X-Switch-Reason.")
	case c.key.Kind != tenant.Admin:
		return c, nil
	case len(to) != 1 || len(reason) != 1 || to[0] == "" || strings.TrimSpace(reason[0]) == "":
		return caller{}, refuse(codeForbidden, "An admin key acts inside a tenant with X-Tenant-Switch: <tenantId> and X-Switch-Reason: <why>, both once.")
	}
	c.signals.Switch, c.reason = event.TenantID(to[0]), reason[0]
	return c, nil
}

// tenantOf resolves the tenant for an event that names it like this; "" where it does not.
func (c caller) tenantOf(body event.TenantID) (event.TenantID, error) {
	signals := c.signals
	signals.Body = body
	return tenant.Resolve(signals)
}

// noteSwitch puts an administrator's presence on the tenant's timeline before anything is done there.
func (s *Server) noteSwitch(ctx context.Context, c caller) error {
	if c.key.Kind != tenant.Admin {
		return nil
	}
	return s.Ledger.SwitchTenant(ctx, c.signals.Switch, c.reason, c.key.Actor())
}

// noteBatchSwitch is noteSwitch for a whole batch, with a time-out of its own.
func (s *Server) noteBatchSwitch(c echo.Context, who caller) error {
	ctx, cancel := work(c)
	defer cancel()
	return s.noteSwitch(ctx, who)
}

// forAdmins guards a route of the installation. Where something names a tenant, it must be the one that the route is about.
func (s *Server) forAdmins(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		ctx, cancel := work(c)
		defer cancel()
		who, err := s.identify(ctx, c)
		if err != nil {
			return err
		}
		if who.key.Kind != tenant.Admin {
			return refuse(codeForbidden, "This needs an admin key.")
		}
		about, err := url.PathUnescape(c.Param("tenantId"))
		if err != nil {
			return refuse(codeInvalidRequest, "The path is malformed.")
		}
		who.signals.Path = event.TenantID(about)
		if to := c.Request().Header[headerSwitch]; len(to) > 0 {
			who.signals.Headers = slices.Concat(who.signals.Headers, to)
		}
		if _, err := who.tenantOf(""); err != nil && !errors.Is(err, tenant.ErrRequired) {
			return err
		}
		c.Set(callerContext, who)
		return next(c)
	}
}

// forBackends guards a route that answers product backends about any tenant. What the request itself is sent to says nothing
// there: a backend must not lose all tenants because the ledger has an address that looks like one of them.
func (s *Server) forBackends(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		ctx, cancel := work(c)
		defer cancel()
		key, err := s.authenticate(ctx, c)
		if err != nil {
			return err
		}
		if key.Kind == tenant.Scoped {
			return refuse(codeForbidden, "This needs a service key.")
		}
		return next(c)
	}
}

// insideTenant guards a route of one tenant: when the handler runs, the tenant exists and the key may act there.
func (s *Server) insideTenant(next echo.HandlerFunc) echo.HandlerFunc {
	return s.admitting(next, func(ctx context.Context, c echo.Context, who caller) (tenantCaller, error) {
		return s.admit(ctx, c, who, "")
	})
}

// forOperators guards exports and insights: an admin key may read all tenants, or the one that the request names; any other key,
// and an administrator who switches, is inside a tenant as on any other route.
func (s *Server) forOperators(next echo.HandlerFunc) echo.HandlerFunc {
	return s.admitting(next, s.admitOperator)
}

// admitting runs the handler for a caller that was let into a tenant.
func (s *Server) admitting(next echo.HandlerFunc, admit func(context.Context, echo.Context, caller) (tenantCaller, error)) echo.HandlerFunc {
	enter := func(c echo.Context) (in tenantCaller, err error) {
		ctx, cancel := work(c)
		defer cancel()
		who, err := s.identify(ctx, c)
		if err != nil {
			return in, err
		}
		return admit(ctx, c, who)
	}
	return func(c echo.Context) error {
		in, err := enter(c)
		if err != nil {
			return err
		}
		c.Set(tenantCallerContext, in)
		// All values agree now; the generated code wants one.
		if values := c.Request().Header[headerTenant]; len(values) > 1 {
			c.Request().Header[headerTenant] = values[:1]
		}
		return next(c)
	}
}

// admit lets a caller into a tenant, which the body, or a parameter in its place, may name too.
func (s *Server) admit(ctx context.Context, c echo.Context, who caller, body event.TenantID) (tenantCaller, error) {
	who, err := who.switching(c.Request().Header)
	if err != nil {
		return tenantCaller{}, err
	}
	id, err := who.tenantOf(body)
	if err != nil {
		return tenantCaller{}, err
	}
	t, err := s.Directory.Tenant(ctx, id)
	if err != nil {
		return tenantCaller{}, fmt.Errorf("tenant %q: %w", clip(string(id), event.MaxIDLength), err)
	}
	if t.Status == tenant.Closed && who.key.Kind == tenant.Scoped && c.Request().Method == http.MethodGet {
		return tenantCaller{}, refuse(codeForbidden, "This workspace is closed. Its own keys report usage and release holds, and read nothing any more.")
	}
	if err := s.noteSwitch(ctx, who); err != nil {
		return tenantCaller{}, err
	}
	return tenantCaller{t, who.key.Actor()}, nil
}

// admitOperator lets an administrator who does not switch into all tenants, or into the one that tenantId names.
func (s *Server) admitOperator(ctx context.Context, c echo.Context, who caller) (tenantCaller, error) {
	named := c.QueryParams()["tenantId"]
	if len(named) > 1 || len(named) == 1 && named[0] == "" {
		return tenantCaller{}, invalidParameter("tenantId", "must name one tenant")
	}
	var body event.TenantID
	if len(named) == 1 {
		body = event.TenantID(named[0])
	}
	h := c.Request().Header
	if who.key.Kind != tenant.Admin || h[headerSwitch] != nil || h[headerSwitchReason] != nil {
		return s.admit(ctx, c, who, body)
	}
	id, err := who.tenantOf(body)
	if err != nil && !errors.Is(err, tenant.ErrRequired) {
		return tenantCaller{}, err
	}
	return tenantCaller{tenant.Tenant{ID: id}, who.key.Actor()}, nil // "" is all of them
}

// about refuses an administrator's request that names another tenant than the one that the thing belongs to.
func about(c echo.Context, owner event.TenantID) error {
	if _, err := c.Get(callerContext).(caller).tenantOf(owner); !errors.Is(err, tenant.ErrRequired) {
		return err
	}
	return nil
}

// admin is the administrator of a route behind forAdmins.
func admin(c echo.Context) event.Actor { return c.Get(callerContext).(caller).key.Actor() }

// inside is the caller of a route behind insideTenant or forOperators.
func inside(c echo.Context) tenantCaller { return c.Get(tenantCallerContext).(tenantCaller) }
