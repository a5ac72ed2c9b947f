package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/api/internal/forwarded"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// A middleware may ask before each of its requests, and an answer may be a second old when it is given. One more second
// bounds what is asked to once per second and name, also for names that nobody has. It is for the asking cache alone: what
// lies on the way must not give it to a key that could not have asked. It is not served stale after that: when the store is
// away, the directory stands in for it.
const resolvedFor = "private, max-age=1"

// ResolveTenant is GET /v1/resolve. It says no position of its own: that would ask the store each time, and fail with it.
func (s *Server) ResolveTenant(c echo.Context, params ResolveTenantParams) error {
	reached, err := s.awaitDirectory(c, params.MinPosition, params.WaitMs)
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	id, err := s.lookUp(ctx, textOf(params.Host), textOf(params.Path), textOf(params.Slug))
	switch {
	case errors.Is(err, tenant.ErrRequired):
		return refuse(codeTenantRequired, "Give the host, the path or the slug that tells tenants apart.")
	case errors.Is(err, tenant.ErrConflict):
		return refuse(codeTenantConflict, "The host, the path and the slug lead to different tenants.")
	case errors.Is(err, tenant.ErrUnknown):
		c.Response().Header().Set("Cache-Control", resolvedFor)
		return refuse(codeUnknownTenant, "The host, path or slug leads to no tenant. A custom domain leads nowhere before it is verified.")
	case err != nil:
		return err
	}
	t, err := s.Directory.Tenant(ctx, id)
	if err != nil {
		return fmt.Errorf("tenant %q: %w", id, err)
	}
	subscription, err := s.Directory.Subscription(ctx, id)
	if err != nil {
		return fmt.Errorf("subscription of tenant %q: %w", id, err)
	}
	current, err := s.Directory.Catalog(ctx)
	if err != nil {
		return err
	}
	assigned, _ := subscription.At(s.Now())
	if params.MinPosition != nil {
		showPosition(c, reached)
	}
	c.Response().Header().Set("Cache-Control", resolvedFor)
	return writeJSON(c, http.StatusOK, resolvedTenantView{id, optional(assigned.Plan), t.Status, flagsETag(current.Revision, id, assigned.Plan)})
}

type resolvedTenantView struct {
	Tenant    event.TenantID `json:"tenantId"`
	Plan      optional       `json:"plan"`
	Status    tenant.Status  `json:"status"`
	FlagsETag string         `json:"flagsETag"`
}

// lookUp finds the tenant that all of a host, a path and a slug lead to; "" is not given. Errors: tenant.ErrRequired where
// nothing is given; tenant.ErrUnknown; tenant.ErrConflict.
func (s *Server) lookUp(ctx context.Context, host, path, slug string) (id event.TenantID, err error) {
	if host == "" && path == "" && slug == "" {
		return "", tenant.ErrRequired
	}
	var found tenant.Signals
	if host != "" {
		if found.Host, err = s.Resolver.AtHost(ctx, host); err != nil {
			return "", err
		}
	}
	if path != "" && path != "/" {
		if found.Path, err = s.Resolver.AtSlug(ctx, slugIn(path)); err != nil {
			return "", err
		}
	}
	if slug != "" {
		if found.Body, err = s.Resolver.AtSlug(ctx, slug); err != nil {
			return "", err
		}
	}
	id, err = tenant.Resolve(found)
	if errors.Is(err, tenant.ErrRequired) { // a host that says nothing
		err = tenant.ErrUnknown
	}
	return id, err
}

// slugIn is the slug that a path of the product starts with, as /t/{slug} or as its first segment. A path with dot segments
// has none.
func slugIn(path string) string {
	if forwarded.HasDotSegments(path) {
		return ""
	}
	first, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if first == "t" {
		first, _, _ = strings.Cut(rest, "/")
	}
	return first
}

// flagsETag changes with everything that decides what the tenant's flags say.
func flagsETag(revision eventstore.Revision, id event.TenantID, plan catalog.PlanKey) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "flags\x00%d\x00%s\x00%s", revision, id, plan))
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
}

// awaitDirectory is await for answers that come from the directory, which may keep for a second what it read before. It
// returns the position that was waited for, if any.
func (s *Server) awaitDirectory(c echo.Context, minPosition *string, waitMs *int) (at eventstore.Position, err error) {
	if err := s.await(c, minPosition, waitMs); err != nil || minPosition == nil {
		return at, err
	}
	if at, err = eventstore.ParsePosition(*minPosition); err != nil {
		return at, err // await has read it
	}
	ctx, cancel := work(c)
	defer cancel()
	if err := s.Directory.Reached(ctx, at); err != nil {
		return at, fmt.Errorf("wait for position %s: %w", at, err)
	}
	return at, nil
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

// ListHosts is GET /v1/admin/tenants/{tenantId}/hosts.
func (s *Server) ListHosts(c echo.Context, tenantID Id, params ListHostsParams) error {
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
	hosts, err := s.Ledger.Hosts(ctx, id)
	if err != nil {
		return err
	}
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, listOf(hosts, "", viewHost))
}

// VerifyHost is POST /v1/admin/tenants/{tenantId}/hosts/{host}/verify.
func (s *Server) VerifyHost(c echo.Context, tenantID Id, host string) error {
	ctx, cancel := work(c)
	defer cancel()
	id := event.TenantID(tenantID)
	h, err := s.Ledger.VerifyHost(ctx, id, host, impatient{s.DNS}, admin(c))
	if err != nil {
		return err
	}
	at, err := s.Positions.Shown(ctx, id)
	if err != nil {
		return fmt.Errorf("read the position: %w", err)
	}
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, viewHost(&h))
}

// impatient gives up on a DNS that does not answer, so that there is time to say so.
type impatient struct{ dns app.TXTResolver }

const dnsTimeout = 5 * time.Second

var errNoDNS = errors.New("no DNS is configured")

func (i impatient) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if i.dns == nil {
		return nil, errNoDNS
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	return i.dns.LookupTXT(ctx, name)
}

type hostView struct {
	Host   string           `json:"host"`
	State  tenant.HostState `json:"state"`
	Record *dnsRecordView   `json:"record"`
	Detail optional         `json:"detail"`
}

// dnsRecordView is the record that verifies a host.
type dnsRecordView struct {
	Type  string `json:"type"`
	Name  string `json:"name"`
	Value string `json:"value"`
}

func viewHost(h *app.HostReport) hostView {
	view := hostView{Host: h.Host, State: h.State, Detail: optional(h.Detail)}
	if h.Challenge != (tenant.Challenge{}) {
		view.Record = &dnsRecordView{"TXT", h.Challenge.Record, h.Challenge.Value}
	}
	return view
}

// FreeName is POST /v1/admin/names/{kind}/{name}/free.
func (s *Server) FreeName(c echo.Context, kind NameKind, name string) error {
	var reason string
	err := readObject(c, []string{"reason"}, func(d *decoder, v []jsontext.Value) {
		if !absent(v[0]) {
			reason, _ = d.str(v[0], "/reason")
		}
	})
	if err != nil {
		return err
	}
	n, err := tenant.ParseName(kind, name)
	switch k := tenant.NameKind(kind); {
	case err != nil && k != tenant.Slug && k != tenant.Host:
		return invalid.New("/kind", codeInvalidRequest, err.Error())
	case err != nil:
		return invalid.New("/name", codeInvalidRequest, err.Error())
	}
	ctx, cancel := work(c)
	defer cancel()
	if err := s.Ledger.FreeName(ctx, n, reason, admin(c)); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
