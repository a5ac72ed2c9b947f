package app_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

const plans = meters + `
plans:
  - {key: free, currency: USD, limits: [{key: per_minute, kind: quota, meter: tokens, max: 10, window: minute}]}
  - key: pro
    currency: USD
    limits:
      - {key: per_minute, kind: rate, on: [tokens], max: 60, window: 1m}
      - {key: per_day, kind: quota, meter: tokens, max: 200000, window: day}
      - {key: sessions, kind: concurrency, on: [interview], max: 5, holdTTL: 2h}
      - {key: seconds, kind: max, on: [interview], field: audioSeconds, max: 1800}
      - {key: tier, kind: access, on: [tokens], field: modelTier, values: [standard]}
      - {key: spend, kind: budget, max: "500.00", window: billing_cycle}
`

func plannedFixture(t testing.TB) *fixture {
	h := newFixture(t)
	h.Apply(plans)
	return h
}

func (h *fixture) assign(p app.PlanAssignment) app.AssignedPlan {
	h.T.Helper()
	answer, err := h.Ledger.AssignPlan(ctx, "t1", p, "key:1")
	require.NoError(h.T, err)
	return answer
}

func TestAssignPlan(t *testing.T) {
	h := plannedFixture(t)
	h.Now = noon.Add(123456 * time.Microsecond)
	cut := noon.Add(123 * time.Millisecond)
	first := h.assign(app.PlanAssignment{Plan: "free"})
	require.Equal(t, tenant.Assignment{Plan: "free", EffectiveAt: cut, BillingAnchor: cut}, first.Assignment)
	require.True(t, first.Changed)
	require.Equal(t, 1, first.Version)
	seen, err := h.Directory.Subscription(ctx, "t1")
	require.NoError(t, err)
	require.Equal(t, tenant.Subscription{Assignments: []tenant.Assignment{first.Assignment}}, seen, "seen at once")
	require.Empty(t, h.Directory.Plans("t2"))

	h.Now = noon.Add(time.Hour)
	again := h.assign(app.PlanAssignment{Plan: "free"})
	require.Equal(t, first.Assignment, again.Assignment, "what is in force is not assigned again")
	require.False(t, again.Changed)
	require.Equal(t, first.Position, again.Position)

	next := h.assign(app.PlanAssignment{Plan: "pro"})
	require.True(t, next.Changed)
	require.Equal(t, tenant.Assignment{Plan: "pro", EffectiveAt: h.Now, BillingAnchor: cut}, next.Assignment, "the billing anchor stays")

	// A plan may be assigned for the past and for the future; said again, it is there already.
	for range 2 {
		later := h.assign(app.PlanAssignment{Plan: "free", EffectiveAt: noon.AddDate(0, 1, 0), BillingAnchor: noon.AddDate(0, 1, 0)})
		require.Equal(t, noon.AddDate(0, 1, 0), later.BillingAnchor)
	}
	early := h.assign(app.PlanAssignment{Plan: "pro", EffectiveAt: noon.AddDate(0, -1, 0).In(time.FixedZone("east", 7200))})
	require.Equal(t, tenant.Assignment{Plan: "pro", EffectiveAt: noon.AddDate(0, -1, 0), BillingAnchor: noon.AddDate(0, -1, 0)}, early.Assignment)
	require.Len(t, h.All()["plan_assigned"], 4)
	s := h.Directory.Plans("t1")
	require.Len(t, s.Assignments, 4)
	require.Equal(t, early.Assignment, s.Assignments[0])

	// At an instant that has one already, another plan or anchor replaces it.
	moved := h.assign(app.PlanAssignment{Plan: "pro", EffectiveAt: h.Now, BillingAnchor: noon})
	require.True(t, moved.Changed)
	require.Equal(t, noon, moved.BillingAnchor)
	require.Len(t, h.Directory.Plans("t1").Assignments, 4)
	in, ok := h.Directory.Plans("t1").At(h.Now)
	require.True(t, ok)
	require.Equal(t, moved.Assignment, in)
	require.False(t, h.assign(app.PlanAssignment{Plan: "pro", BillingAnchor: noon}).Changed)
	require.True(t, h.assign(app.PlanAssignment{Plan: "pro", BillingAnchor: noon.Add(1e6)}).Changed)
}

func TestAssignPlanRefuses(t *testing.T) {
	h := plannedFixture(t)
	_, err := h.Ledger.AssignPlan(ctx, "t9", app.PlanAssignment{Plan: "pro"}, "cli")
	require.ErrorIs(t, err, tenant.ErrUnknown)
	year := func(y int) time.Time { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC) }
	for name, c := range map[string]struct {
		assignment app.PlanAssignment
		pointers   []string
	}{
		"no plan":       {app.PlanAssignment{}, []string{"/plan"}},
		"another plan":  {app.PlanAssignment{Plan: "Pro"}, []string{"/plan"}},
		"before all":    {app.PlanAssignment{Plan: "pro", EffectiveAt: year(1969)}, []string{"/effectiveAt"}},
		"after all":     {app.PlanAssignment{Plan: "pro", EffectiveAt: year(10000)}, []string{"/effectiveAt"}},
		"everything":    {app.PlanAssignment{Plan: "x", EffectiveAt: year(2), BillingAnchor: year(2)}, []string{"/plan", "/effectiveAt", "/billingAnchor"}},
		"an old anchor": {app.PlanAssignment{Plan: "pro", BillingAnchor: year(1969)}, []string{"/billingAnchor"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.Ledger.AssignPlan(ctx, "t1", c.assignment, "cli")
			require.Equal(t, c.pointers, pointers(t, err))
		})
	}
	_, err = h.Ledger.AssignPlan(ctx, "t1", app.PlanAssignment{Plan: "gold"}, "cli")
	require.ErrorContains(t, err, "free, pro", "the known ones are named")
	require.Empty(t, h.All()["plan_assigned"])
}

func pointers(t *testing.T, err error) []string {
	t.Helper()
	var refused *invalid.Error
	require.ErrorAs(t, err, &refused)
	all := make([]string, len(refused.Fields))
	for i, f := range refused.Fields {
		all[i] = f.Pointer
	}
	return all
}

func (h *fixture) override(o app.Override) app.OverriddenLimit {
	h.T.Helper()
	answer, err := h.Ledger.OverrideLimit(ctx, "t1", o, "key:1")
	require.NoError(h.T, err)
	return answer
}

func TestOverrideLimit(t *testing.T) {
	h := plannedFixture(t)
	o := app.Override{Limit: "per_day", Max: money.MustParse("0.5"), Until: noon.Add(time.Hour).Add(1), Reason: "ticket 7"}
	want := tenant.Override{Limit: "per_day", Max: o.Max, Until: noon.Add(time.Hour), Reason: "ticket 7", By: "key:1"}
	first := h.override(o)
	require.True(t, first.Changed)
	require.Equal(t, want, first.Override)
	require.Equal(t, tenant.Subscription{Overrides: []tenant.Override{want}}, h.Directory.Plans("t1"), "seen at once")
	again, err := h.Ledger.OverrideLimit(ctx, "t1", o, "key:2")
	require.NoError(t, err)
	require.False(t, again.Changed)
	require.Equal(t, first.Position, again.Position)

	o.Max, o.From = money.Int(0), noon
	require.True(t, h.override(o).Changed, "0 blocks")
	require.True(t, h.override(app.Override{Limit: "spend", Max: money.MustParse("999999999999999999.999999999"), Reason: "r"}).Changed)
	require.Len(t, h.Directory.Plans("t1").Overrides, 2)

	removed, at, err := h.Ledger.RemoveOverride(ctx, "t1", "per_day", nil, "key:1")
	require.NoError(t, err)
	require.True(t, removed)
	require.NotZero(t, at)
	require.Len(t, h.Directory.Plans("t1").Overrides, 1)
	removed, again2, err := h.Ledger.RemoveOverride(ctx, "t1", "per_day", nil, "key:1")
	require.NoError(t, err)
	require.False(t, removed)
	require.Equal(t, at, again2)
	removed, at, err = h.Ledger.RemoveOverride(ctx, "t2", "never", nil, "key:1")
	require.NoError(t, err)
	require.False(t, removed)
	require.Zero(t, at)
	_, _, err = h.Ledger.RemoveOverride(ctx, "t9", "per_day", nil, "key:1")
	require.ErrorIs(t, err, tenant.ErrUnknown)
	require.Len(t, h.All()["limit_override_removed"], 1)

	// An override of a limit that no plan has any more can still be removed.
	h.Apply(meters)
	removed, _, err = h.Ledger.RemoveOverride(ctx, "t1", "spend", nil, "key:1")
	require.NoError(t, err)
	require.True(t, removed)
	require.Empty(t, h.Directory.Plans("t1").Overrides)
}

func TestOverrideLimitRefuses(t *testing.T) {
	h := plannedFixture(t)
	_, err := h.Ledger.OverrideLimit(ctx, "t9", app.Override{Limit: "per_day", Reason: "r"}, "cli")
	require.ErrorIs(t, err, tenant.ErrUnknown)
	good := app.Override{Limit: "per_day", Max: money.Int(1), Reason: "r"}
	for name, c := range map[string]struct {
		change   func(*app.Override)
		pointers []string
	}{
		"no such limit":         {func(o *app.Override) { o.Limit = "per_week" }, []string{"/limit"}},
		"a limit without a max": {func(o *app.Override) { o.Limit = "tier" }, []string{"/limit"}},
		"below 0":               {func(o *app.Override) { o.Max = money.Int(-1) }, []string{"/max"}},
		"too many digits":       {func(o *app.Override) { o.Max = money.MustParse("1e20") }, []string{"/max"}},
		"half a session":        {func(o *app.Override) { o.Limit, o.Max = "sessions", money.MustParse("1.5") }, []string{"/max"}},
		// per_minute counts tokens in one plan and checks in another.
		"half a check":        {func(o *app.Override) { o.Limit, o.Max = "per_minute", money.MustParse("1.5") }, []string{"/max"}},
		"over already":        {func(o *app.Override) { o.Until = noon }, []string{"/until"}},
		"over before it is":   {func(o *app.Override) { o.From, o.Until = noon.Add(2e9), noon.Add(1e9) }, []string{"/until"}},
		"empty":               {func(o *app.Override) { o.From, o.Until = noon.Add(1e9), noon.Add(1e9) }, []string{"/until"}},
		"an impossible from":  {func(o *app.Override) { o.From = noon.AddDate(9000, 0, 0) }, []string{"/from"}},
		"no reason":           {func(o *app.Override) { o.Reason = "" }, []string{"/reason"}},
		"an endless reason":   {func(o *app.Override) { o.Reason = strings.Repeat("x", 501) }, []string{"/reason"}},
		"all that can be bad": {func(o *app.Override) { *o = app.Override{Max: money.Int(-1), Until: noon} }, []string{"/limit", "/max", "/until", "/reason"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			c.change(&o)
			_, err := h.Ledger.OverrideLimit(ctx, "t1", o, "cli")
			require.Equal(t, c.pointers, pointers(t, err))
		})
	}
	_, err = h.Ledger.OverrideLimit(ctx, "t1", app.Override{Limit: "x", Reason: "r"}, "cli")
	require.ErrorContains(t, err, "per_day, per_minute, seconds, sessions, spend")
	require.Empty(t, h.All()["limit_overridden"])
}

// An answer that was lost: the same again writes nothing, also when no instant was given and time went on.
func TestSubscriptionsAreSeenAfterARetry(t *testing.T) {
	for name, change := range map[string]func(h *fixture) error{
		"plan": func(h *fixture) error {
			_, err := h.Ledger.AssignPlan(ctx, "t1", app.PlanAssignment{Plan: "pro"}, "cli")
			return err
		},
		"limit": func(h *fixture) error {
			_, err := h.Ledger.OverrideLimit(ctx, "t1", app.Override{Limit: "per_day", Reason: "r"}, "cli")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := plannedFixture(t)
			h.Store.Fault = func(eventstore.Append) fault { return after }
			require.ErrorIs(t, change(h), eventstore.ErrUnavailable)
			h.Store.Fault, h.Now = nil, noon.Add(time.Second)
			require.NoError(t, change(h))
			s := h.Directory.Plans("t1")
			require.Equal(t, 1, len(s.Assignments)+len(s.Overrides))
			require.Equal(t, 1, len(h.All()["plan_assigned"])+len(h.All()["limit_overridden"]))
		})
	}
}

// Changes of a tenant's subscription at the same time all succeed, and the same change is written once.
func TestSubscribeConcurrently(t *testing.T) {
	const people = 16
	h := plannedFixture(t)
	together(people, func(i int) {
		if _, err := h.Ledger.AssignPlan(ctx, "t1", app.PlanAssignment{Plan: "pro", EffectiveAt: noon}, "cli"); err != nil {
			t.Error(err)
		}
		o := app.Override{Limit: [...]catalog.LimitKey{"per_day", "sessions"}[i%2], Max: money.Int(int64(i)), Reason: fmt.Sprint(i)}
		if _, err := h.Ledger.OverrideLimit(ctx, "t1", o, event.Actor(fmt.Sprint("key:", i))); err != nil {
			t.Error(err)
		}
	})
	require.Len(t, h.All()["plan_assigned"], 1)
	require.Len(t, h.All()["limit_overridden"], people)
	require.Len(t, h.Directory.Plans("t1").Overrides, 2)
}

// Who pays in one currency goes on to: neither another plan nor another catalog may change it.
func TestTheCurrencyOfATenantStays(t *testing.T) {
	h := plannedFixture(t)
	euros := strings.Replace(plans, "{key: free, currency: USD", "{key: free, currency: EUR", 1)
	h.assign(app.PlanAssignment{Plan: "free"})
	change := func(text string) error {
		c, err := catalog.Parse([]byte(text))
		require.NoError(t, err)
		_, err = h.Ledger.ApplyCatalog(ctx, c, false, "key:1")
		return err
	}
	require.ErrorContains(t, change(euros), "in another currency: free")
	require.NoError(t, change(plans+"  - {key: abroad, currency: EUR}\n"))
	_, err := h.Ledger.AssignPlan(ctx, "t1", app.PlanAssignment{Plan: "abroad"}, "key:1")
	require.ErrorContains(t, err, "the tenant has a plan in USD, and this one is in EUR")
	h.assign(app.PlanAssignment{Plan: "pro"})
	_, err = h.Ledger.AssignPlan(ctx, "t2", app.PlanAssignment{Plan: "abroad"}, "key:1")
	require.NoError(t, err)
}
