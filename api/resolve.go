package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/api/internal/forwarded"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// A middleware may ask before each of its requests, and an answer may be a second old when it is given. One more second
// bounds what is asked to once per second and name, also for names that no tenant has. It is for the asking cache alone: what
// lies on the way must not give it to a key that could not have asked. It is not served stale after that: when the store is
// away, the directory answers instead.
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
