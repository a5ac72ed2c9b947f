package app_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

func TestDefineTenant(t *testing.T) {
	h := emptyFixture(t)
	d := tenant.Tenant{ID: "t1", Name: "Acme", Hosts: []string{"Acme.example:443"}, Slug: "acme"}
	first, err := h.Ledger.DefineTenant(ctx, d, "key:1")
	require.NoError(t, err)
	require.True(t, first.Created)
	require.Equal(t, tenant.Tenant{ID: "t1", Name: "Acme", TimeZone: "UTC", Currency: "USD", Hosts: []string{"acme.example"}, Slug: "acme", Status: tenant.Active}, first.Tenant)
	seen, err := h.Directory.Tenant(ctx, "t1")
	require.NoError(t, err)
	require.Equal(t, first.Tenant, seen, "seen at once")

	again, err := h.Ledger.DefineTenant(ctx, first.Tenant, "key:2")
	require.NoError(t, err)
	require.Equal(t, app.TenantChange{Tenant: first.Tenant, Position: first.Position}, again)

	d.Name = "Acme & Sons"
	changed, err := h.Ledger.DefineTenant(ctx, d, "key:1")
	require.NoError(t, err)
	require.False(t, changed.Created)
	require.NotEqual(t, first.Position, changed.Position)

	// What was in force once can be in force again.
	d.Name = "Acme"
	back, err := h.Ledger.DefineTenant(ctx, d, "key:1")
	require.NoError(t, err)
	require.NotEqual(t, first.Position, back.Position)
	require.Len(t, h.All()["tenant_defined"], 3)

	var refused *invalid.Error
	_, err = h.Ledger.DefineTenant(ctx, tenant.Tenant{ID: "t1", Currency: "x"}, "key:1")
	require.ErrorAs(t, err, &refused)
}

// The same definition from many callers at once is written once; different definitions all succeed.
func TestDefineTenantConcurrently(t *testing.T) {
	const people, each = 16, 2
	h := emptyFixture(t)
	created := make([]bool, people*each)
	together(people*each, func(i int) {
		change, err := h.Ledger.DefineTenant(ctx, tenant.Tenant{ID: "same"}, "cli")
		if err != nil {
			t.Error(err)
		}
		created[i] = change.Created
		if _, err := h.Ledger.DefineTenant(ctx, tenant.Tenant{ID: "other", Name: fmt.Sprint(i)}, "cli"); err != nil {
			t.Error(err)
		}
	})
	n := 0
	for _, c := range created {
		if c {
			n++
		}
	}
	require.Equal(t, 1, n)
	require.Len(t, h.All()["tenant_defined"], 1+people*each)
}

func together(n int, do func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
}

// An answer that was lost, or a directory that was late: the same again is no second definition, and returns when the
// definition is seen.
func TestChangesAreSeenAfterARetry(t *testing.T) {
	secret := tenant.Secret("0123456789abcdef")
	for name, change := range map[string]func(*fixture) error{
		"tenant": func(h *fixture) error {
			_, err := h.Ledger.DefineTenant(ctx, tenant.Tenant{ID: "t1"}, "cli")
			return err
		},
		"catalog": func(h *fixture) error {
			_, err := h.Ledger.ApplyCatalog(ctx, parsed(h.T, meters), false, "cli")
			return err
		},
		"key": func(h *fixture) error { _, err := h.Ledger.RegisterAdminKey(ctx, secret, "admin"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			h := emptyFixture(t)
			h.Store.Fault = func(eventstore.Append) fault { return after }
			require.ErrorIs(t, change(h), eventstore.ErrUnavailable)
			h.Store.Fault = nil
			require.NoError(t, change(h))
			h.seen(t, name, secret)

			h = emptyFixture(t)
			down := &lateDirectory{directory: h.Directory, err: errDown}
			h.Ledger = app.New(h.Store, down, func() time.Time { return noon })
			require.ErrorIs(t, change(h), errDown)
			down.err = nil
			require.NoError(t, change(h))
			h.seen(t, name, secret)
			for kind, events := range h.All() {
				require.Len(t, events, 1, kind)
			}
		})
	}
}

func (h *fixture) seen(t *testing.T, what string, secret tenant.Secret) {
	t.Helper()
	var err error
	switch what {
	case "tenant":
		_, err = h.Directory.Tenant(ctx, "t1")
	case "key":
		_, err = h.Directory.Key(ctx, secret.Hash())
	default:
		c, _ := h.Directory.Catalog(ctx)
		require.Equal(t, eventstore.Revision(0), c.Revision)
	}
	require.NoError(t, err)
}

// lateDirectory answers, but does not get further.
type lateDirectory struct {
	*directory
	err error
}

func (d *lateDirectory) Reached(ctx context.Context, at eventstore.Position) error {
	if d.err != nil {
		return d.err
	}
	return d.directory.Reached(ctx, at)
}

func TestApplyCatalog(t *testing.T) {
	h := emptyFixture(t)
	next := parsed(t, meters)
	dry, err := h.Ledger.ApplyCatalog(ctx, next, true, "cli")
	require.NoError(t, err)
	require.False(t, dry.Applied)
	require.Equal(t, eventstore.NoStream, dry.Revision)
	require.Equal(t, catalog.Diff(catalog.Catalog{}, next), dry.Changes)
	require.Empty(t, h.All())

	first, err := h.Ledger.ApplyCatalog(ctx, next, false, "cli")
	require.NoError(t, err)
	require.True(t, first.Applied)
	require.Equal(t, eventstore.Revision(0), first.Revision)
	require.Equal(t, dry.Changes, first.Changes)
	require.NotZero(t, first.Position)
	seen, err := h.Directory.Catalog(ctx)
	require.NoError(t, err)
	require.Equal(t, app.Catalog{Catalog: next, Revision: 0, Versions: map[catalog.PlanKey]int{}}, seen)

	same, err := h.Ledger.ApplyCatalog(ctx, parsed(t, string(next.Canonical())), false, "key:1")
	require.NoError(t, err)
	require.Equal(t, app.CatalogChange{}, same)

	h.Apply("meters: []\n")
	back, err := h.Ledger.ApplyCatalog(ctx, next, false, "cli")
	require.NoError(t, err)
	require.True(t, back.Applied, "what was in force once can be in force again")
	require.Equal(t, eventstore.Revision(2), back.Revision)

	for revision, want := range map[eventstore.Revision]catalog.Catalog{-1: {}, 0: next, 1: parsed(t, "meters: []\n"), 2: next} {
		got, err := app.ReadCatalog(ctx, h.Log, revision)
		require.NoError(t, err)
		require.Equal(t, string(want.Canonical()), string(got.Canonical()))
	}
	_, err = app.ReadCatalog(ctx, h.Log, 3)
	require.ErrorIs(t, err, app.ErrNotFound)
}

// An empty catalog is one, and differs from none: events are refused for it, but by a revision.
func TestApplyAnEmptyCatalog(t *testing.T) {
	h := emptyFixture(t)
	require.True(t, h.Apply("{}").Applied)
	require.False(t, h.Apply("{}").Applied)
}

// The log keeps the very bytes of the canonical form, whatever is in them.
func TestCatalogIsKeptAsItIs(t *testing.T) {
	h := emptyFixture(t)
	next := parsed(t, `meters: [{key: a, eventType: "<a> & b \u00e9", aggregation: sum}]`)
	_, err := h.Ledger.ApplyCatalog(ctx, next, false, "cli")
	require.NoError(t, err)
	e, err := event.Decode(h.All()["catalog_applied"][0])
	require.NoError(t, err)
	require.Equal(t, string(next.Canonical()), string(e.(event.CatalogApplied).Catalog))
}

// A catalog may have more bytes than an event of the log.
func TestCatalogTooLargeForTheLog(t *testing.T) {
	h := emptyFixture(t)
	big := parsed(t, `flags: [{key: a, type: string, default: "`+strings.Repeat("x", eventstore.MaxEventBytes-60)+`"}]`)
	_, err := h.Ledger.ApplyCatalog(ctx, big, false, "cli")
	var refused *invalid.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "too_large", refused.Fields[0].Code)
	require.Empty(t, h.All())
	require.True(t, h.Apply(`flags: [{key: a, type: string, default: "`+strings.Repeat("x", eventstore.MaxEventBytes-200)+`"}]`).Applied)
}

// Each of many different catalogs is in force once, whatever the directory knows; the differences are to the one before.
func TestApplyCatalogConcurrently(t *testing.T) {
	const people = 24
	h := emptyFixture(t)
	changes := make([]app.CatalogChange, people)
	together(people, func(i int) {
		var err error
		c := parsed(t, fmt.Sprintf("meters: [{key: m%d, eventType: a, aggregation: sum}]", i))
		if changes[i], err = h.Ledger.ApplyCatalog(ctx, c, false, "cli"); err != nil {
			t.Error(err)
		}
	})
	byRevision := map[eventstore.Revision]app.CatalogChange{}
	for _, c := range changes {
		require.True(t, c.Applied)
		byRevision[c.Revision] = c
	}
	require.Len(t, byRevision, people)
	before := catalog.Catalog{}
	for r := range eventstore.Revision(people) {
		c, err := app.ReadCatalog(ctx, h.Log, r)
		require.NoError(t, err)
		require.Equal(t, catalog.Diff(before, c.Catalog), byRevision[r].Changes)
		before = c.Catalog
	}
	h.Directory.LoseCatalog() // it is far behind
	change, err := h.Ledger.ApplyCatalog(ctx, before, false, "cli")
	require.NoError(t, err)
	require.False(t, change.Applied)
	require.Equal(t, eventstore.Revision(people-1), change.Revision)
	shown, err := h.Directory.Catalog(ctx)
	require.NoError(t, err)
	require.Equal(t, change.Revision, shown.Revision, "an unchanged one is waited for as well")
}

// The number of a plan counts how often it became another one: a plan that stays has the same, and no number ever stands
// for two plans.
func TestPlanVersions(t *testing.T) {
	h := emptyFixture(t)
	plan := func(key, tier string) string {
		return fmt.Sprintf("  - {key: %s, currency: USD, tier: %s}\n", key, tier)
	}
	for i, step := range []struct {
		plans    string
		versions map[catalog.PlanKey]int
	}{
		{plan("free", "a") + plan("pro", "a"), map[catalog.PlanKey]int{"free": 1, "pro": 1}},
		{plan("free", "a") + plan("pro", "b"), map[catalog.PlanKey]int{"free": 1, "pro": 2}},
		{plan("pro", "b") + plan("free", "a") + plan("scale", "a"), map[catalog.PlanKey]int{"free": 1, "pro": 2, "scale": 1}},
		{plan("free", "b") + plan("scale", "a"), map[catalog.PlanKey]int{"free": 2, "pro": 2, "scale": 1}},
		{plan("free", "b"), map[catalog.PlanKey]int{"free": 2, "pro": 2, "scale": 1}},
		{plan("pro", "b"), map[catalog.PlanKey]int{"free": 2, "pro": 3, "scale": 1}},
		{plan("pro", "a"), map[catalog.PlanKey]int{"free": 2, "pro": 4, "scale": 1}},
	} {
		require.True(t, h.Apply("plans:\n"+step.plans).Applied)
		seen, err := h.Directory.Catalog(ctx)
		require.NoError(t, err)
		require.Equal(t, step.versions, seen.Versions, "step %d", i)
		read, err := app.ReadCatalog(ctx, h.Log, seen.Revision)
		require.NoError(t, err)
		require.Equal(t, seen, read)
	}
}

// Catalogs were applied before their plans had numbers.
func TestPlansWithoutAVersionAreTheFirst(t *testing.T) {
	h := emptyFixture(t)
	old := parsed(t, "plans: [{key: pro, currency: USD}, {key: free, currency: USD}]")
	r := h.Log.Append(ctx, []eventstore.Append{event.CatalogApplied{Catalog: old.Canonical(), By: "cli"}.Append(eventstore.NoStream)})[0]
	require.Equal(t, eventstore.Appended, r.Outcome)
	require.NoError(t, h.Directory.Reached(ctx, r.Position))
	seen, err := h.Directory.Catalog(ctx)
	require.NoError(t, err)
	require.Equal(t, map[catalog.PlanKey]int{"pro": 1, "free": 1}, seen.Versions)
	require.False(t, h.Apply(string(old.Canonical())).Applied)
	h.Apply("plans: [{key: pro, currency: EUR}, {key: free, currency: USD}]")
	seen, err = h.Directory.Catalog(ctx)
	require.NoError(t, err)
	require.Equal(t, map[catalog.PlanKey]int{"pro": 2, "free": 1}, seen.Versions)
}

func TestKeys(t *testing.T) {
	h := newFixture(t)
	random := strings.NewReader(strings.Repeat("0123456789abcdefghijklmnopqrstuv", 2) + strings.Repeat("x", 32))
	for kind, of := range map[tenant.KeyKind]event.TenantID{tenant.Admin: "", tenant.Service: "", tenant.Scoped: "t1"} {
		random.Reset(strings.Repeat(string(kind), 32))
		id, secret, err := h.Ledger.CreateKey(ctx, app.NewKey{Kind: kind, Tenant: of, Name: "backend"}, random, "key:1")
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(secret), "tg_"+string(kind)+"_"))
		k, err := h.Directory.Key(ctx, secret.Hash())
		require.NoError(t, err)
		require.Equal(t, tenant.Key{ID: id, Kind: kind, Tenant: of, Name: "backend", CreatedAt: noon}, k)
		for _, r := range h.All()["key_created"] {
			require.NotContains(t, string(r.Data), string(secret), "the secret is kept nowhere")
		}

		require.NoError(t, h.Ledger.RevokeKey(ctx, id, "key:1"))
		_, err = h.Directory.Key(ctx, secret.Hash())
		require.ErrorIs(t, err, tenant.ErrUnknownKey)
		require.NoError(t, h.Ledger.RevokeKey(ctx, id, "key:2"), "again is no error")
	}
	require.Len(t, h.All()["key_revoked"], 3)
	require.ErrorIs(t, h.Ledger.RevokeKey(ctx, "key_unknown", "cli"), app.ErrNotFound)
}

func TestCreateKeyRefuses(t *testing.T) {
	h := newFixture(t)
	for name, c := range map[string]struct {
		key     app.NewKey
		pointer string
	}{
		"no kind":                  {app.NewKey{Name: "a"}, "/kind"},
		"another kind":             {app.NewKey{Kind: "root", Name: "a"}, "/kind"},
		"no name":                  {app.NewKey{Kind: tenant.Admin}, "/name"},
		"a long name":              {app.NewKey{Kind: tenant.Admin, Name: strings.Repeat("é", 201)}, "/name"},
		"NUL":                      {app.NewKey{Kind: tenant.Admin, Name: "a\x00"}, "/name"},
		"invalid UTF-8":            {app.NewKey{Kind: tenant.Admin, Name: "a\xff"}, "/name"},
		"a tenant key without one": {app.NewKey{Kind: tenant.Scoped, Name: "a"}, "/tenantId"},
		"an admin key with one":    {app.NewKey{Kind: tenant.Admin, Tenant: "t1", Name: "a"}, "/tenantId"},
	} {
		t.Run(name, func(t *testing.T) {
			_, secret, err := h.Ledger.CreateKey(ctx, c.key, strings.NewReader(strings.Repeat("x", 32)), "cli")
			var refused *invalid.Error
			require.ErrorAs(t, err, &refused)
			require.Equal(t, c.pointer, refused.Fields[0].Pointer)
			require.Empty(t, secret)
		})
	}
	_, _, err := h.Ledger.CreateKey(ctx, app.NewKey{Kind: tenant.Scoped, Tenant: "t9", Name: "a"}, strings.NewReader(strings.Repeat("x", 32)), "cli")
	require.ErrorIs(t, err, tenant.ErrUnknown)
	_, _, err = h.Ledger.CreateKey(ctx, app.NewKey{Kind: tenant.Admin, Name: "a"}, strings.NewReader("few"), "cli")
	require.Error(t, err)
	require.Empty(t, h.All()["key_created"])
}

func TestRegisterAdminKey(t *testing.T) {
	h := newFixture(t)
	secret := tenant.Secret("chosen-by-the-operator")
	id, err := h.Ledger.RegisterAdminKey(ctx, secret, "bootstrap")
	require.NoError(t, err)
	for _, name := range []string{"bootstrap", "another name", ""} {
		again, err := h.Ledger.RegisterAdminKey(ctx, secret, name)
		require.NoError(t, err)
		require.Equal(t, id, again)
	}
	require.Len(t, h.All()["key_created"], 1)
	k, err := h.Directory.Key(ctx, secret.Hash())
	require.NoError(t, err)
	require.Equal(t, tenant.Admin, k.Kind)

	require.NoError(t, h.Ledger.RevokeKey(ctx, id, "cli"))
	_, err = h.Ledger.RegisterAdminKey(ctx, secret, "bootstrap")
	require.NoError(t, err)
	_, err = h.Directory.Key(ctx, secret.Hash())
	require.ErrorIs(t, err, tenant.ErrUnknownKey, "revoked stays revoked, also over a restart")

	var refused *invalid.Error
	_, err = h.Ledger.RegisterAdminKey(ctx, "short", "bootstrap")
	require.ErrorAs(t, err, &refused)
	require.NotContains(t, err.Error(), "short\"")
	_, err = h.Ledger.RegisterAdminKey(ctx, secret, "a\x00")
	require.ErrorAs(t, err, &refused)

	// A key that a tenant has does not become an admin key, and the operator is not told that it is one.
	_, scoped, err := h.Ledger.CreateKey(ctx, app.NewKey{Kind: tenant.Scoped, Tenant: "t1", Name: "a"}, strings.NewReader(strings.Repeat("x", 32)), "cli")
	require.NoError(t, err)
	_, err = h.Ledger.RegisterAdminKey(ctx, scoped, "bootstrap")
	require.ErrorIs(t, err, app.ErrConflict)
	_, service, err := h.Ledger.CreateKey(ctx, app.NewKey{Kind: tenant.Service, Name: "a"}, strings.NewReader(strings.Repeat("y", 32)), "cli")
	require.NoError(t, err)
	_, err = h.Ledger.RegisterAdminKey(ctx, service, "bootstrap")
	require.ErrorIs(t, err, app.ErrConflict)
}

func TestKeysConcurrently(t *testing.T) {
	h := newFixture(t)
	secret := tenant.Secret("chosen-by-the-operator")
	together(16, func(i int) {
		id, err := h.Ledger.RegisterAdminKey(ctx, secret, fmt.Sprint("replica ", i))
		if err != nil || id != secret.KeyID() {
			t.Error(id, err)
		}
	})
	require.Len(t, h.All()["key_created"], 1)
	together(16, func(i int) {
		if err := h.Ledger.RevokeKey(ctx, secret.KeyID(), event.Actor(fmt.Sprint("key:", i))); err != nil {
			t.Error(err)
		}
	})
	require.Len(t, h.All()["key_revoked"], 1)
}

func TestSwitchTenant(t *testing.T) {
	h := newFixture(t)
	together(8, func(int) {
		if err := h.Ledger.SwitchTenant(ctx, "t1", "ticket 7", "key:1"); err != nil {
			t.Error(err)
		}
	})
	require.Len(t, h.All()["admin_switched"], 1, "once")
	require.NoError(t, h.Ledger.SwitchTenant(ctx, "t1", "ticket 7", "key:2"))
	require.Len(t, h.All()["admin_switched"], 2, "for each key")
	require.NoError(t, h.Ledger.SwitchTenant(ctx, "t1", "ticket 8", "key:1"))
	require.Len(t, h.All()["admin_switched"], 3, "for each reason")
	require.NoError(t, h.Ledger.SwitchTenant(ctx, "t2", "ticket 7", "key:1"))
	require.Len(t, h.All()["admin_switched"], 4, "for each tenant")
	h.Now = time.Date(2026, 4, 6, 0, 30, 0, 0, time.FixedZone("east", 3600)) // still the 5th in UTC
	require.NoError(t, h.Ledger.SwitchTenant(ctx, "t1", "ticket 7", "key:1"))
	require.Len(t, h.All()["admin_switched"], 4)
	h.Now = time.Date(2026, 4, 6, 0, 0, 0, 0, time.UTC)
	require.NoError(t, h.Ledger.SwitchTenant(ctx, "t1", "ticket 7", "key:1"))
	require.Len(t, h.All()["admin_switched"], 5, "for each day")

	require.ErrorIs(t, h.Ledger.SwitchTenant(ctx, "t9", "ticket 7", "key:1"), tenant.ErrUnknown)
	var refused *invalid.Error
	require.ErrorAs(t, h.Ledger.SwitchTenant(ctx, "t1", "", "key:1"), &refused)
	require.ErrorAs(t, h.Ledger.SwitchTenant(ctx, "t1", "a\x00", "key:1"), &refused)
	h.Store.Fault = func(eventstore.Append) fault { return before }
	require.ErrorIs(t, h.Ledger.SwitchTenant(ctx, "t1", "ticket 9", "key:1"), eventstore.ErrUnavailable, "no switch without a record")
}

// A plan stays in the catalog as long as a tenant has it or will have it.
func TestPlansInUseStay(t *testing.T) {
	h := newFixture(t)
	plan := func(keys ...string) string {
		text := meters + "plans:\n"
		for _, key := range keys {
			text += fmt.Sprintf("  - {key: %s, currency: USD}\n", key)
		}
		return text
	}
	h.Apply(plan("free", "pro", "scale", "unused"))
	h.assign(app.PlanAssignment{Plan: "free", EffectiveAt: noon.Add(-time.Hour)})
	h.assign(app.PlanAssignment{Plan: "pro", EffectiveAt: noon.Add(-time.Minute)}) // free is history
	h.assign(app.PlanAssignment{Plan: "scale", EffectiveAt: noon.Add(time.Hour)})
	for _, dry := range []bool{true, false} {
		_, err := h.Ledger.ApplyCatalog(ctx, parsed(t, plan("free")), dry, "cli")
		var refused *invalid.Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, []invalid.Field{{Pointer: "/plans", Code: "in_use",
			Detail: "the catalog lacks plans that tenants have or will have, or has them in another currency: pro, scale; assign other plans first"}}, refused.Fields)
	}
	require.Len(t, h.All()["catalog_applied"], 2)
	require.True(t, h.Apply(plan("pro", "scale")).Applied)
	h.Now = noon.Add(time.Hour)
	require.True(t, h.Apply(plan("scale")).Applied, "pro is history now")

	// A catalog that lacks such a plan already, from before there was this rule, can be changed.
	lost := event.CatalogApplied{Catalog: parsed(t, meters).Canonical(), By: "cli"}.Append(3)
	r := h.Log.Append(ctx, []eventstore.Append{lost})[0]
	require.Equal(t, eventstore.Appended, r.Outcome)
	require.NoError(t, h.Directory.Reached(ctx, r.Position))
	require.True(t, h.Apply(plan("free")).Applied)

	down := &usedDirectory{directory: h.Directory}
	h.Ledger = app.New(h.Store, down, func() time.Time { return noon })
	_, err := h.Ledger.ApplyCatalog(ctx, parsed(t, meters), false, "cli")
	require.ErrorIs(t, err, errDown, "what cannot be known is not done")
	require.Len(t, h.All()["catalog_applied"], 6)
}

// usedDirectory cannot tell which plans are in use.
type usedDirectory struct{ *directory }

func (usedDirectory) PlansInUse(context.Context, time.Time) ([]catalog.PlanKey, error) {
	return nil, errDown
}
