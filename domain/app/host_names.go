package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/optimistic"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// TXTResolver asks the DNS for the TXT records of a name; *net.Resolver does.
type TXTResolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// nameState is a name as its stream has it.
type nameState struct {
	tenant.Holding
	revision eventstore.Revision
	last     eventstore.Position // offset 0 for a name without a holder so far
}

func (l *Ledger) nameState(ctx context.Context, n tenant.Name) (s nameState, err error) {
	s.revision, err = event.Fold(ctx, l.store, event.NameStream(string(n.Kind), n.Name), func(r event.Decoded) (ok bool) {
		s.last = r.Position
		s.Holding, ok = tenant.HoldingAfter(r.Payload, r.Revision)
		return ok
	})
	return s, err
}

// later of two positions of names, whose streams are all in one partition.
func later(a, b eventstore.Position) eventstore.Position {
	if b.Offset > a.Offset {
		return b
	}
	return a
}

// claim makes the tenant the holder of all its names, or changes nothing where another one has one of them. When another one
// takes a name at the same moment, some others may stay claimed; they lead nowhere. last is the
// position of the newest claim that was there already.
func (l *Ledger) claim(ctx context.Context, t tenant.Tenant, by event.Actor) (last eventstore.Position, wrote bool, err error) {
	names := t.Names(l.domains)
	// All claims are made in one order: else two tenants that want the same names could get one each, and block each other.
	slices.SortFunc(names, func(a, b tenant.Name) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	err = optimistic.Retry("the names of the tenant", func() (done bool, err error) {
		var wanted []eventstore.Append
		for _, n := range names {
			s, err := l.nameState(ctx, n)
			switch {
			case err != nil:
				return false, err
			case t.Holds(s.Holding):
				last = later(last, s.last)
			case s.Open(t.ID):
				wanted = append(wanted, event.NameClaimed{Kind: string(n.Kind), Name: n.Name, Tenant: t.ID, By: by}.Append(s.revision))
			default:
				return false, taken(n, s.Holding)
			}
		}
		for _, a := range wanted {
			_, won, err := optimistic.Append(ctx, l.store, a)
			if err != nil {
				return false, err
			}
			if wrote = true; !won { // by another tenant, or by another definition of this one
				return false, nil
			}
		}
		return true, nil
	})
	return last, wrote, err
}

// taken does not say by whom: what a name is for is its holder's own affair.
func taken(n tenant.Name, h tenant.Holding) error {
	if h.Released {
		return fmt.Errorf("%w: the %s was another tenant's and is kept for it until an administrator frees it", ErrConflict, n)
	}
	return fmt.Errorf("%w: the %s belongs to another tenant", ErrConflict, n)
}

// release lets go of the names that the tenant once used and does not use any more. last is the position of the newest
// release that was there already.
func (l *Ledger) release(ctx context.Context, t tenantState, by event.Actor) (last eventstore.Position, wrote bool, err error) {
	seen := map[tenant.Name]bool{}
	for _, n := range t.Names(l.domains) {
		seen[n] = true
	}
	for _, n := range t.everUsed {
		if seen[n] {
			continue
		}
		seen[n] = true
		s, err := l.nameState(ctx, n)
		if err != nil {
			return last, wrote, err
		}
		if !t.Holds(s.Holding) {
			last = later(last, s.last)
			continue
		}
		if _, _, err := optimistic.Append(ctx, l.store, event.NameReleased{Kind: string(n.Kind), Name: n.Name, Tenant: t.ID, By: by}.Append(s.revision)); err != nil {
			return last, wrote, err
		}
		wrote = true
	}
	return last, wrote, nil
}

// settle makes the holdings what the tenant's definition in force says, and returns the position of the newest. Two
// definitions at once may claim what the other one releases: each looks again after it wrote, so the last one leaves it right.
// Error: ErrConflict, where a name was freed meanwhile and went to another tenant.
func (l *Ledger) settle(ctx context.Context, id event.TenantID, by event.Actor) (last eventstore.Position, err error) {
	err = optimistic.Retry("the names of the tenant", func() (done bool, err error) {
		t, err := l.tenantState(ctx, id)
		if err != nil {
			return false, err
		}
		newest, released, err := l.release(ctx, t, by)
		if err != nil {
			return false, err
		}
		last = later(last, newest)
		newest, claimed, err := l.claim(ctx, t.Tenant, by)
		last = later(last, newest)
		switch refused := errors.Is(err, ErrConflict) || errors.Is(err, ErrContended); {
		case err != nil && !refused:
			return false, err
		case !released && !claimed:
			return true, err
		}
		return false, nil
	})
	return last, err
}

// FreeName makes a name available to any tenant. A name that its holder still uses is not freed; a name without a holder is
// no error. A host below a base domain is its slug. Errors: *invalid.Error; ErrConflict.
func (l *Ledger) FreeName(ctx context.Context, n tenant.Name, reason string, by event.Actor) error {
	if err := CheckReason(reason); err != nil {
		return err
	}
	if n.Kind == tenant.Host {
		n = l.domains.NameOf(n.Name)
	}
	var freed eventstore.Position // offset 0 for a name without a holder so far
	err := optimistic.Retry("the "+n.String(), func() (done bool, err error) {
		s, err := l.nameState(ctx, n)
		if err != nil {
			return false, err
		}
		if s.Tenant == "" {
			freed = s.last
			return true, nil
		}
		if err := l.notInUse(ctx, n, s, by); err != nil {
			return false, err
		}
		if !s.Released {
			// The definition may be on its way. A name that is kept for its tenant can be claimed again when it comes, and then
			// this name is looked at again; to free it right away could give it to another one.
			_, _, err := optimistic.Append(ctx, l.store, event.NameReleased{Kind: string(n.Kind), Name: n.Name, Tenant: s.Tenant, By: by}.Append(s.revision))
			return false, err
		}
		r, done, err := optimistic.Append(ctx, l.store, event.NameFreed{Kind: string(n.Kind), Name: n.Name, Reason: reason, By: by}.Append(s.revision))
		freed = r.Position
		return done, err
	})
	if err != nil {
		return err
	}
	return l.namesReached(ctx, freed)
}

// notInUse refuses to free a name that its holder uses.
func (l *Ledger) notInUse(ctx context.Context, n tenant.Name, s nameState, by event.Actor) error {
	holder, err := l.tenantState(ctx, s.Tenant)
	if err != nil || !slices.Contains(holder.Names(l.domains), n) {
		return err
	}
	if s.Released { // by us, while the definition came
		if _, err := l.settle(ctx, s.Tenant, by); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: tenant %q uses the %s; take it out of its definition first", ErrConflict, s.Tenant, n)
}

// namesReached waits until this process sees what is at a position of names; offset 0 is nothing.
func (l *Ledger) namesReached(ctx context.Context, at eventstore.Position) error {
	if at.Offset == 0 {
		return nil
	}
	return l.reached(ctx, at)
}

// HostReport is the state of one host of a tenant.
type HostReport struct {
	Host      string
	State     tenant.HostState
	Challenge tenant.Challenge // for an unverified host that is claimed for the tenant
	// Detail says what is missing: that the host is not claimed, or what was found in the DNS instead, after a
	// verification that failed.
	Detail string
}

// Hosts returns the state of each host of a tenant. Error: tenant.ErrUnknown.
func (l *Ledger) Hosts(ctx context.Context, id event.TenantID) ([]HostReport, error) {
	t, err := l.directory.Tenant(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("tenant %q: %w", id, err)
	}
	all := make([]HostReport, len(t.Hosts))
	for i, host := range t.Hosts {
		h, err := l.directory.Holding(ctx, l.domains.NameOf(host))
		if err != nil {
			return nil, err
		}
		all[i] = l.hostReport(t, host, h)
	}
	return all, nil
}

func (l *Ledger) hostReport(t tenant.Tenant, host string, h tenant.Holding) HostReport {
	s := HostReport{Host: host, State: t.StateOf(host, h, l.domains)}
	switch {
	case s.State != tenant.HostUnverified:
	case !t.Holds(h): // the challenge would be another tenant's, who could then verify the host
		s.Detail = notClaimed
	default:
		s.Challenge = tenant.ChallengeOf(host, h)
	}
	return s
}

// notClaimed: a version that did not claim names yet defined the tenant, or the name went to another one.
const notClaimed = "The host is not claimed for the tenant. Define the tenant again."

// VerifyHost looks for the challenge of a host in the DNS. What it finds is in the answer: an unverified host is no error.
// Errors: tenant.ErrUnknown; ErrNotFound where the tenant has no such host; ErrConflict.
func (l *Ledger) VerifyHost(ctx context.Context, id event.TenantID, host string, dns TXTResolver, by event.Actor) (HostReport, error) {
	canonical, err := tenant.CanonicalHost(host)
	if err != nil {
		return HostReport{}, invalid.New("/host", invalid.CodeRequest, err.Error())
	}
	s, err := l.tenantState(ctx, id)
	switch {
	case err != nil:
		return HostReport{}, err
	case !s.defined:
		return HostReport{}, fmt.Errorf("tenant %q: %w", id, tenant.ErrUnknown)
	case !slices.Contains(s.Hosts, canonical):
		return HostReport{}, fmt.Errorf("host %q of tenant %q: %w", canonical, id, ErrNotFound)
	}
	name := l.domains.NameOf(canonical)
	asked, err := l.nameState(ctx, name)
	if err != nil {
		return HostReport{}, err
	}
	answer := l.hostReport(s.Tenant, canonical, asked.Holding)
	switch {
	case !s.Holds(asked.Holding):
		return HostReport{}, fmt.Errorf("%w: the host %s is not claimed for the tenant; define the tenant again", ErrConflict, canonical)
	case answer.State != tenant.HostUnverified:
		return answer, l.reached(ctx, s.last)
	}
	found, err := dns.LookupTXT(ctx, answer.Challenge.Record)
	if !slices.Contains(found, answer.Challenge.Value) {
		answer.Detail = missing(answer.Challenge, found, err)
		return answer, ctx.Err()
	}
	change, err := l.changeTenant(ctx, id, func(s tenantState) (eventstore.Append, error) {
		if s.StateOf(canonical, asked.Holding, l.domains) != tenant.HostUnverified {
			return optimistic.Nothing, nil // another call was faster
		}
		now, err := l.nameState(ctx, name)
		if err != nil {
			return optimistic.Nothing, err
		}
		if now.Holding != asked.Holding { // the proof would take the place of that of the new claim
			return optimistic.Nothing, fmt.Errorf("%w: the host %s was changed while its DNS was asked", ErrConflict, canonical)
		}
		return event.HostVerified{Tenant: id, Host: canonical, Claim: asked.Claim, By: by}.Append(s.revision), nil
	})
	if err != nil {
		return HostReport{}, err
	}
	return l.hostReport(change.Tenant, canonical, asked.Holding), l.reached(ctx, change.Position)
}

// missing says what to do about a challenge that was not found.
func missing(c tenant.Challenge, found []string, err error) string {
	const shown = 3
	switch {
	case err != nil || len(found) == 0:
		return fmt.Sprintf("The DNS has no TXT record %s yet, or did not answer. Records can take hours to be seen everywhere.", c.Record)
	case len(found) > shown:
		found = found[:shown]
		fallthrough
	default:
		quoted := make([]string, len(found))
		for i, text := range found {
			quoted[i] = fmt.Sprintf("%q", invalid.Shorten(text))
		}
		return fmt.Sprintf("The TXT record %s says %s, and should say %q.", c.Record, strings.Join(quoted, ", "), c.Value)
	}
}
