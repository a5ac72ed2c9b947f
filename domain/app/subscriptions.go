package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/optimistic"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// PlanAssignment gives a tenant a plan. Instants are cut to milliseconds, the ticks of the limits' clock and of the answers.
type PlanAssignment struct {
	Plan          catalog.PlanKey
	EffectiveAt   time.Time // zero: now
	BillingAnchor time.Time // zero: that of the assignment in force at EffectiveAt, else EffectiveAt
}

// AssignedPlan answers an assignment.
type AssignedPlan struct {
	tenant.Assignment
	Version  int // of the plan in the catalog in force
	Changed  bool
	Position eventstore.Position // from which on the assignment is seen
}

// AssignPlan gives a tenant a plan from an instant on; another assignment at the same instant replaces it. What is in
// force already, or said again, writes nothing. Errors: tenant.ErrUnknown; *invalid.Error; ErrContended.
func (l *Ledger) AssignPlan(ctx context.Context, id event.TenantID, p PlanAssignment, by event.Actor) (AssignedPlan, error) {
	if _, err := l.directory.Tenant(ctx, id); err != nil {
		return AssignedPlan{}, fmt.Errorf("tenant %q: %w", id, err)
	}
	version, err := l.checkAssignment(ctx, id, &p)
	if err != nil {
		return AssignedPlan{}, err
	}
	given := !p.EffectiveAt.IsZero()
	if !given {
		p.EffectiveAt = event.Tick(l.now())
	}
	answer := AssignedPlan{Version: version}
	answer.Changed, answer.Position, err = l.subscribe(ctx, id, func(s subscriptionState) eventstore.Append {
		before, ok := s.At(p.EffectiveAt)
		next := tenant.Assignment{Plan: p.Plan, EffectiveAt: p.EffectiveAt, BillingAnchor: p.BillingAnchor}
		switch {
		case !next.BillingAnchor.IsZero():
		case ok:
			next.BillingAnchor = before.BillingAnchor
		default:
			next.BillingAnchor = next.EffectiveAt
		}
		same := ok && before.Plan == next.Plan && before.BillingAnchor.Equal(next.BillingAnchor)
		if same && (!given || before.EffectiveAt.Equal(next.EffectiveAt)) {
			answer.Assignment = before
			return optimistic.Nothing
		}
		answer.Assignment = next
		return event.PlanAssigned{Tenant: id, Plan: string(next.Plan), EffectiveAt: next.EffectiveAt, BillingAnchor: next.BillingAnchor, By: by}.Append(s.revision)
	})
	return answer, err
}

// checkAssignment checks what was asked for, cuts its instants, and finds the plan's version.
func (l *Ledger) checkAssignment(ctx context.Context, id event.TenantID, p *PlanAssignment) (version int, err error) {
	c, err := l.directory.Catalog(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the catalog: %w", err)
	}
	s, err := l.directory.Subscription(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("subscription of tenant %q: %w", id, err)
	}
	var bad invalid.List
	if known := planKeys(c.Catalog); !slices.Contains(known, string(p.Plan)) {
		bad.Add("/plan", invalid.CodeRequest, fmt.Sprintf("there is no plan %q; %s", invalid.Shorten(string(p.Plan)), knownKeys("plans", known)))
	}
	// An invoice is in one currency, and so is everything that adjusts it.
	currencies := currenciesOf(c.Catalog)
	for _, a := range s.Assignments {
		if before, next := currencies[a.Plan], currencies[p.Plan]; before != "" && next != "" && before != next {
			bad.Add("/plan", invalid.CodeRequest, fmt.Sprintf("the tenant has a plan in %s, and this one is in %s; who pays in another currency is another tenant", before, next))
			break
		}
	}
	checkTime(&bad, "effectiveAt", &p.EffectiveAt)
	checkTime(&bad, "billingAnchor", &p.BillingAnchor)
	return max(c.Versions[p.Plan], 1), bad.Err()
}

// Override gives a tenant its own maximum of a limit. Instants are cut to milliseconds.
type Override struct {
	Limit  catalog.LimitKey
	Per    map[string]string // of a limit that counts by data fields: the values that it is about; nil: the limit itself
	Max    money.Decimal     // 0 blocks
	From   time.Time         // zero: at once
	Until  time.Time         // exclusive; zero: without end
	Reason string
}

// OverriddenLimit answers an override.
type OverriddenLimit struct {
	tenant.Override
	Changed  bool
	Position eventstore.Position // from which on the override is seen
}

// OverrideLimit gives a tenant its own maximum of a limit, in place of every plan's and of the override before it. The same
// again writes nothing. Errors: tenant.ErrUnknown; *invalid.Error; ErrContended.
func (l *Ledger) OverrideLimit(ctx context.Context, id event.TenantID, o Override, by event.Actor) (OverriddenLimit, error) {
	if _, err := l.directory.Tenant(ctx, id); err != nil {
		return OverriddenLimit{}, fmt.Errorf("tenant %q: %w", id, err)
	}
	if err := l.checkOverride(ctx, &o); err != nil {
		return OverriddenLimit{}, err
	}
	per := tenant.ValuesOf(o.Per)
	answer := OverriddenLimit{Override: tenant.Override{Limit: o.Limit, Per: per, Max: o.Max, From: o.From, Until: o.Until, Reason: o.Reason, By: by}}
	changed, at, err := l.subscribe(ctx, id, func(s subscriptionState) eventstore.Append {
		if before, ok := s.Overriding(o.Limit, per); ok && before.Equal(answer.Override) {
			return optimistic.Nothing
		}
		return event.LimitOverridden{Tenant: id, Limit: string(o.Limit), Per: o.Per, Max: o.Max, From: o.From, Until: o.Until, Reason: o.Reason, By: by}.Append(s.revision)
	})
	answer.Changed, answer.Position = changed, at
	return answer, err
}

func (l *Ledger) checkOverride(ctx context.Context, o *Override) error {
	c, err := l.directory.Catalog(ctx)
	if err != nil {
		return fmt.Errorf("read the catalog: %w", err)
	}
	var bad invalid.List
	kinds := maximums(c.Catalog)
	of, ok := kinds[o.Limit]
	if !ok {
		known := make([]string, 0, len(kinds))
		for key := range kinds {
			known = append(known, string(key))
		}
		slices.Sort(known)
		bad.Add("/limit", invalid.CodeRequest, fmt.Sprintf("no plan has a limit %q with a maximum; %s", invalid.Shorten(string(o.Limit)), knownKeys("ones", known)))
	}
	if ok && !countsBy(c.Catalog, o.Limit, o.Per) {
		bad.Add("/per", invalid.CodeRequest, fmt.Sprintf("per must name the fields by which a plan's limit %s counts, each with a value of 1 to 200 printable characters, or nothing", o.Limit))
	}
	switch _, scale, fits := o.Max.Coefficient(); {
	case o.Max.Sign() < 0:
		bad.Add("/max", invalid.CodeRequest, "max must be at least 0")
	case !o.Max.IsQuantity():
		bad.Add("/max", invalid.CodeRequest, "max has "+money.ErrRange.Error())
	case slices.ContainsFunc(of, catalog.LimitKind.CountsChecks) && (!fits || scale > 0):
		bad.Add("/max", invalid.CodeRequest, fmt.Sprintf("max must be a whole number: %s counts checks", o.Limit))
	}
	checkTime(&bad, "from", &o.From)
	checkTime(&bad, "until", &o.Until)
	switch {
	case o.Until.IsZero():
	case !o.Until.After(o.From):
		bad.Add("/until", invalid.CodeRequest, "until must be after from")
	case !o.Until.After(l.now()):
		bad.Add("/until", invalid.CodeRequest, "until must be after now")
	}
	var reason *invalid.Error
	if errors.As(CheckReason(o.Reason), &reason) {
		for _, f := range reason.Fields {
			bad.Add(f.Pointer, f.Code, f.Detail)
		}
	}
	return bad.Err()
}

// countsBy reports whether some plan has a limit of this key that counts by exactly these fields.
func countsBy(c catalog.Catalog, key catalog.LimitKey, per map[string]string) bool {
	for _, value := range per {
		if event.CheckID(value) != nil {
			return false
		}
	}
	fields := slices.Sorted(maps.Keys(per))
	return len(per) == 0 || slices.ContainsFunc(c.Plans, func(p catalog.Plan) bool {
		return slices.ContainsFunc(p.Limits, func(l catalog.Limit) bool { return l.Key == key && slices.Equal(l.Per, fields) })
	})
}

// RemoveOverride makes a limit, or single values of it, what the plan says again; removed is false when it was that already, also
// where there is no such limit. Errors: tenant.ErrUnknown; ErrContended.
func (l *Ledger) RemoveOverride(ctx context.Context, id event.TenantID, limit catalog.LimitKey, per map[string]string, by event.Actor) (removed bool, at eventstore.Position, err error) {
	if _, err := l.directory.Tenant(ctx, id); err != nil {
		return false, at, fmt.Errorf("tenant %q: %w", id, err)
	}
	return l.subscribe(ctx, id, func(s subscriptionState) eventstore.Append {
		if _, ok := s.Overriding(limit, tenant.ValuesOf(per)); !ok {
			return optimistic.Nothing
		}
		return event.LimitOverrideRemoved{Tenant: id, Limit: string(limit), Per: per, By: by}.Append(s.revision)
	})
}

// subscriptionState is a subscription as its stream has it.
type subscriptionState struct {
	tenant.Subscription
	revision eventstore.Revision
	last     eventstore.Position
}

// subscribe changes a tenant's subscription as decide says. It returns when the directory shows what was decided on, and from
// which position on it does: the zero one where nothing was ever said.
func (l *Ledger) subscribe(ctx context.Context, id event.TenantID, decide func(subscriptionState) eventstore.Append) (changed bool, at eventstore.Position, err error) {
	read := func(ctx context.Context) (s subscriptionState, err error) {
		s.revision, err = event.Fold(ctx, l.store, event.SubscriptionStream(id), func(r event.Decoded) (ok bool) {
			s.last = r.Position
			s.Subscription, ok = s.Apply(r.Payload)
			return ok
		})
		return s, err
	}
	c, err := optimistic.Do(ctx, l.store, "the subscription", read, func(s subscriptionState) (eventstore.Append, error) { return decide(s), nil })
	switch {
	case err != nil || !c.Written && c.State.revision < 0:
		return false, at, err
	case !c.Written:
		return false, c.State.last, l.reached(ctx, c.State.last)
	}
	return c.Result.Outcome == eventstore.Appended, c.Result.Position, l.reached(ctx, c.Result.Position)
}

// checkTime cuts an instant to milliseconds and bounds it: everything about plans happens since there are computers, and in
// years that every calendar can write.
func checkTime(bad *invalid.List, name string, t *time.Time) {
	if t.IsZero() {
		return
	}
	*t = event.Tick(*t)
	if y := t.Year(); y < 1970 || y > 9999 {
		bad.Add("/"+name, invalid.CodeRequest, name+" must be between the years 1970 and 9999")
	}
}

func currenciesOf(c catalog.Catalog) map[catalog.PlanKey]catalog.Currency {
	currencies := make(map[catalog.PlanKey]catalog.Currency, len(c.Plans))
	for i := range c.Plans {
		currencies[c.Plans[i].Key] = c.Plans[i].Currency
	}
	return currencies
}

func planKeys(c catalog.Catalog) []string {
	keys := make([]string, len(c.Plans))
	for i := range c.Plans {
		keys[i] = string(c.Plans[i].Key)
	}
	return keys
}

// maximums are the limits of all plans that have a maximum, with the kinds that they have.
func maximums(c catalog.Catalog) map[catalog.LimitKey][]catalog.LimitKind {
	kinds := map[catalog.LimitKey][]catalog.LimitKind{}
	for i := range c.Plans {
		for _, l := range c.Plans[i].Limits {
			if l.HasMax() {
				kinds[l.Key] = append(kinds[l.Key], l.Kind)
			}
		}
	}
	return kinds
}

// knownKeys lists what there is instead.
func knownKeys(what string, known []string) string {
	const most = 50
	switch {
	case len(known) == 0:
		return "the catalog in force has none"
	case len(known) > most:
		return fmt.Sprintf("there are %s and %d more %s", strings.Join(known[:most], ", "), len(known)-most, what)
	}
	return fmt.Sprintf("the known %s are %s", what, strings.Join(known, ", "))
}
