package app

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// Resolver finds the tenant of a host name or a slug. Which tenant a request is about is decided by tenant.Resolve, from all that
// names one.
type Resolver struct {
	Directory Directory
	Domains   tenant.Domains
}

// AtSlug is the tenant of a slug. Error: tenant.ErrUnknown.
func (r Resolver) AtSlug(ctx context.Context, slug string) (event.TenantID, error) {
	n, err := tenant.ParseName(string(tenant.Slug), slug)
	if err != nil {
		return "", fmt.Errorf("slug %q: %w", invalid.Shorten(slug), tenant.ErrUnknown)
	}
	return r.at(ctx, n)
}

// AtHost is the tenant of a host name as a request sent it, with or without port: "" where the host is no tenant's, such as
// an address, the name of this server, or a domain that is not verified. Error: tenant.ErrUnknown for a name below a base
// domain that no tenant has.
func (r Resolver) AtHost(ctx context.Context, sent string) (event.TenantID, error) {
	if tenant.IsLocal(sent) {
		return "", nil
	}
	host, err := tenant.CanonicalHost(sent)
	if err != nil {
		name, _, _ := strings.Cut(sent, ":")
		if r.Domains.IsSubdomain(strings.ToLower(strings.TrimRight(name, "."))) { // such as one with an underscore
			return "", fmt.Errorf("host %q: %w", invalid.Shorten(sent), tenant.ErrUnknown)
		}
		return "", nil
	}
	id, err := r.at(ctx, r.Domains.NameOf(host))
	if errors.Is(err, tenant.ErrUnknown) && !r.Domains.IsSubdomain(host) {
		return "", nil
	}
	return id, err
}

// at is the tenant that a name leads to. Error: tenant.ErrUnknown, which is said only after a look at the store.
func (r Resolver) at(ctx context.Context, n tenant.Name) (event.TenantID, error) {
	id, err := r.known(ctx, n)
	if !errors.Is(err, tenant.ErrUnknown) || n.Kind != tenant.Slug && !r.Domains.IsSubdomain(n.Name) {
		return id, err
	}
	if err := r.Directory.Refresh(ctx); err != nil {
		return "", fmt.Errorf("look up the %s: %w", n, err)
	}
	return r.known(ctx, n)
}

// known is the tenant that a name leads to, as far as is known. Error: tenant.ErrUnknown.
func (r Resolver) known(ctx context.Context, n tenant.Name) (event.TenantID, error) {
	h, err := r.Directory.Holding(ctx, n)
	if err != nil {
		return "", fmt.Errorf("look up the %s: %w", n, err)
	}
	if h.Tenant != "" {
		t, err := r.Directory.Tenant(ctx, h.Tenant)
		if err != nil && !errors.Is(err, tenant.ErrUnknown) {
			return "", fmt.Errorf("tenant %q: %w", h.Tenant, err)
		}
		if err == nil && t.Answers(n, h, r.Domains) {
			return t.ID, nil
		}
	}
	return "", fmt.Errorf("the %s: %w", n, tenant.ErrUnknown)
}

// BaseDomains are those that WithBaseDomains was given.
func (l *Ledger) BaseDomains() tenant.Domains { return l.domains }
