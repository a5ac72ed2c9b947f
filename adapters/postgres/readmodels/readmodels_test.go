package readmodels_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/domain/usage"
	"github.com/tollgate-io/tollgate/projections"
)

func TestNamesAreSorted(t *testing.T) {
	require.True(t, slices.IsSorted(readmodels.Names()))
}

func TestEnsureBySeveralProcesses(t *testing.T) {
	url := pgtest.Database(t)
	openLog(t, url, postgresConfig)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() { openLedger(t, url) })
	}
	group.Wait()
	l := openLedger(t, url)
	require.EqualValues(t, len(readmodels.Names()), l.number(`select count(*) from read_models where state = 'serving'`))
	require.EqualValues(t, len(readmodels.Names())*testPartitions, l.number(`select count(*) from checkpoints`))
	require.EqualValues(t, 5, l.number(`select count(*) from pg_views where viewname in ('usage_rollups', 'timeline', 'tenants', 'api_keys', 'catalogs')`))
	_, err := l.Ensure(t.Context(), testPartitions+1)
	require.Error(t, err, "the log's partitions never change")
}

func TestApplyTakesEffectExactlyOnce(t *testing.T) {
	url := pgtest.Database(t)
	replicas := []*ledger{openLedger(t, url), openLedger(t, url)}
	l := replicas[0]
	l.append(applyTestCatalog(t))
	const facts = 3000
	for p := range testPartitions {
		l.append(recordTokens(tenantOf(p), 0, facts)...)
		l.append(event.UsageVoided{Usage: tokens(tenantOf(p), 5), Metadata: counted, Reason: "test", By: "cli"}.Append(0))
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	errInjected := errors.New("injected")
	var group sync.WaitGroup
	for _, replica := range replicas {
		for _, name := range readmodels.Names() {
			for p := range testPartitions {
				random := rand.New(rand.NewPCG(seed, uint64(p)))
				group.Go(func() {
					for more := true; more; {
						ctx, cancel := context.WithCancelCause(t.Context())
						if random.IntN(5) == 0 { // a failure before, during or after the commit
							go cancel(errInjected)
						}
						var err error
						more, err = replica.step(ctx, name, p, 1+random.IntN(200))
						if err == nil && more && random.IntN(5) == 0 {
							_, err = replica.step(ctx, name, p, 1) // no wait for anything
						}
						if err != nil {
							if ctx.Err() == nil && !errors.Is(err, projections.ErrStale) {
								t.Errorf("%s on %d: %v", name, p, err)
								more = false
							} else {
								more = true
							}
						}
						cancel(nil)
					}
				})
			}
		}
	}
	group.Wait()
	_, err := l.Verify(t.Context(), l.log, nil, nil)
	require.NoError(t, err)
	for p := range testPartitions {
		report, at, err := l.Usage(t.Context(), usage.Query{Tenant: tenantOf(p), From: noon, To: noon.AddDate(0, 0, 1), Meter: "tokens"})
		require.NoError(t, err)
		require.Positive(t, at.Offset)
		want := int64(0)
		for n := range facts {
			if n != 5 {
				want += int64(n%1000 + 1)
			}
		}
		require.Equal(t, money.Int(want).String(), report.Total.String())
		require.EqualValues(t, facts+1, l.number(`select count(*) from timeline where tenant_id = $1`, tenantOf(p)))
	}
}

func TestTheSameRangeTwiceIsStale(t *testing.T) {
	l := newLedger(t)
	l.append(applyTestCatalog(t))
	l.append(recordTokens(tenantOf(0), 0, 10)...)
	recorded, err := l.log.ReadLog(t.Context(), eventstore.Position{}, 100)
	require.NoError(t, err)
	events, err := event.DecodeAll(recorded)
	require.NoError(t, err)
	for _, name := range readmodels.Names() {
		r := projections.Range{ReadModel: name, Generation: 1, To: int64(len(events))}
		require.NoError(t, l.Apply(t.Context(), r, events))
		require.ErrorIs(t, l.Apply(t.Context(), r, events), projections.ErrStale)
		r.Generation = 7
		require.ErrorIs(t, l.Apply(t.Context(), r, events), projections.ErrStale, "a generation that does not exist")
		r.Generation, r.To = 1, r.To+1
		require.Error(t, l.Apply(t.Context(), r, events), "a checkpoint must not say more than was applied")
	}
	require.EqualValues(t, 10, l.number(`select sum(events) from usage_rollups where meter = 'tokens'`))
}

func TestAPoisonousEventIsMalformed(t *testing.T) {
	l := newLedger(t)
	u := tokens(tenantOf(0), 1)
	l.append(u.Append(event.Metadata{Catalog: 42})) // a revision that nobody applied
	_, err := l.step(t.Context(), projections.UsageModel, 0, 10)
	require.ErrorIs(t, err, event.ErrMalformed)
	_, offset, err := l.Checkpoint(t.Context(), projections.UsageModel, 0)
	require.NoError(t, err)
	require.Zero(t, offset)
	_, err = l.step(t.Context(), projections.TimelineModel, 0, 10)
	require.NoError(t, err, "the other read models go on")
}

func TestUsageInZones(t *testing.T) {
	l := newLedger(t)
	l.append(applyTestCatalog(t))
	acme := tenantOf(1)
	at := func(n int, instant string, quantity string) eventstore.Append {
		u := tokens(acme, n)
		occurred, err := time.Parse(time.RFC3339, instant)
		require.NoError(t, err)
		u.OccurredAt, u.Quantity = occurred.UTC(), money.MustParse(quantity)
		return u.Append(counted)
	}
	l.append(
		at(0, "2026-03-28T23:59:59+01:00", "1"),  // the day before the clock goes forward
		at(3, "2026-03-29T00:00:00+01:00", "2"),  // a day of 23 hours
		at(6, "2026-03-29T23:59:59+02:00", "4"),  //
		at(9, "2026-03-30T00:00:00+02:00", "8"),  //
		at(12, "2026-10-25T02:30:00+02:00", "1"), // an hour that the clock shows twice
		at(15, "2026-10-25T02:30:00+01:00", "2"),
		at(18, "2026-07-01T00:00:00+05:45", "100"),
		at(21, "2026-06-30T23:59:59+05:45", "0.5"),
	)
	l.project()
	rows := func(zone string, g usage.Granularity, from, to string) (rows []string) {
		location, err := time.LoadLocation(zone)
		require.NoError(t, err)
		parse := func(text string) time.Time {
			instant, err := time.ParseInLocation("2006-01-02T15:04", text, location)
			require.NoError(t, err)
			return instant
		}
		report, position, err := l.Usage(t.Context(), usage.Query{Tenant: acme, From: parse(from), To: parse(to), Granularity: g, Meter: "tokens", Location: location})
		require.NoError(t, err)
		require.Equal(t, 1, position.Partition)
		require.EqualValues(t, 8, position.Offset)
		total := money.Decimal{}
		for _, r := range report.Items {
			rows = append(rows, fmt.Sprintf("%s %s %s", r.WindowStart.In(location).Format("2006-01-02T15:04Z07:00"), r.WindowEnd.Sub(r.WindowStart), r.Quantity))
			total = total.Add(r.Quantity)
		}
		require.Equal(t, total.String(), report.Total.String())
		return rows
	}
	require.Equal(t, []string{"2026-03-28T00:00+01:00 24h0m0s 1", "2026-03-29T00:00+01:00 23h0m0s 6", "2026-03-30T00:00+02:00 24h0m0s 8"},
		rows("Europe/Berlin", usage.Day, "2026-03-28T12:00", "2026-03-31T00:00"))
	require.Equal(t, []string{"2026-10-25T02:00+02:00 1h0m0s 1", "2026-10-25T02:00+01:00 1h0m0s 2"},
		rows("Europe/Berlin", usage.Hour, "2026-10-25T00:00", "2026-10-26T00:00"))
	require.Equal(t, []string{"2026-10-25T00:00+02:00 25h0m0s 3"}, rows("Europe/Berlin", usage.Day, "2026-10-25T00:00", "2026-10-25T00:01"))
	require.Equal(t, []string{"2026-06-01T00:00+05:45 720h0m0s 0.5", "2026-07-01T00:00+05:45 744h0m0s 100"},
		rows("Asia/Kathmandu", usage.Month, "2026-06-10T00:00", "2026-07-10T00:00"))
	require.Equal(t, []string{"2026-06-30T23:00+05:45 1h0m0s 0.5", "2026-07-01T00:00+05:45 1h0m0s 100"},
		rows("Asia/Kathmandu", usage.Hour, "2026-06-30T00:00", "2026-07-02T00:00"))
}

func TestUsageGroupsAndPages(t *testing.T) {
	l := newLedger(t)
	l.append(applyTestCatalog(t))
	acme := tenantOf(0)
	l.append(recordTokens(acme, 0, 60)...)
	unlabelled := tokens(acme, 60)
	unlabelled.Data = event.NewData(map[string]any{"outputTokens": 5, "feature": ""})
	l.append(unlabelled.Append(counted))
	voided := tokens(acme, 61)
	voided.Data = event.NewData(map[string]any{"model": "never"})
	l.append(voided.Append(counted), event.UsageVoided{Usage: voided, Metadata: counted, Reason: "test", By: "cli"}.Append(0))
	l.append(recordTokens(tenantOf(0)+"_other", 0, 5)...)
	l.project()

	ask := usage.Query{Tenant: acme, From: noon.Add(-time.Hour), To: noon.Add(time.Hour), Granularity: usage.Hour, GroupBy: []string{"model", "feature"}}
	whole, _, err := l.Usage(t.Context(), ask)
	require.NoError(t, err)
	require.Nil(t, whole.Total, "two meters do not add up")
	require.Empty(t, whole.NextCursor)
	var lines []string
	for _, r := range whole.Items {
		require.Equal(t, noon, r.WindowStart)
		lines = append(lines, fmt.Sprintf("%s %v %s %d", r.Meter, r.Dimensions, r.Quantity, r.Events))
	}
	require.Equal(t, []string{
		"output_tokens map[model:gpt-4.1] 590 20", "output_tokens map[model:gpt-4.1-mini] 610 20", "output_tokens map[model:o3] 630 20", "output_tokens map[] 5 1",
		"tokens map[feature:interview model:gpt-4.1] 280 10", "tokens map[feature:search model:gpt-4.1] 310 10",
		"tokens map[feature:interview model:gpt-4.1-mini] 320 10", "tokens map[feature:search model:gpt-4.1-mini] 290 10",
		"tokens map[feature:interview model:o3] 300 10", "tokens map[feature:search model:o3] 330 10", "tokens map[feature:] 61 1",
	}, lines)

	for limit := 1; limit <= 4; limit++ {
		paged := ask
		paged.Limit = limit
		var items []usage.Row
		for {
			page, _, err := l.Usage(t.Context(), paged)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page.Items), limit)
			items = append(items, page.Items...)
			if paged.Cursor = page.NextCursor; paged.Cursor == "" {
				break
			}
		}
		require.Equal(t, whole.Items, items)
	}

	ask.GroupBy, ask.Meter = nil, "tokens"
	one, _, err := l.Usage(t.Context(), ask)
	require.NoError(t, err)
	require.Len(t, one.Items, 1)
	require.Equal(t, "1891", one.Items[0].Quantity.String())
	require.Equal(t, "1891", one.Total.String())
	require.Empty(t, one.Items[0].Dimensions)

	ask.Tenant = "nobody"
	none, _, err := l.Usage(t.Context(), ask)
	require.NoError(t, err)
	require.Empty(t, none.Items)
	require.Equal(t, "0", none.Total.String())
}

func TestTimelinePagesAndFilters(t *testing.T) {
	l := newLedger(t)
	l.append(applyTestCatalog(t))
	acme := tenantOf(1)
	l.append(event.TenantDefined{Tenant: acme, Name: "Acme", TimeZone: "UTC", Currency: "USD", By: "cli"}.Append(eventstore.NoStream))
	l.append(recordTokens(acme, 0, 30)...)
	same := tokens(acme, 30)
	same.OccurredAt = tokens(acme, 29).OccurredAt // the position decides
	l.append(same.Append(counted))
	conflict := tokens(acme, 7)
	conflict.Quantity = money.Int(9999)
	l.append(event.UsageConflicted{Usage: conflict}.Append(),
		event.UsageVoided{Usage: tokens(acme, 7), Metadata: counted, Reason: "test", By: "cli"}.Append(0))
	l.append(recordTokens(tenantOf(1)+"_other", 0, 5)...)
	l.project()

	items := func(q timeline.Query) (items []timeline.Item) {
		q.Tenant = acme
		for {
			positions, next, at, err := l.Timeline(t.Context(), q)
			require.NoError(t, err)
			require.Equal(t, 1, at.Partition)
			recorded, err := l.log.ReadAt(t.Context(), positions)
			require.NoError(t, err)
			events, err := event.DecodeAll(recorded)
			require.NoError(t, err)
			for _, e := range events {
				items = append(items, timeline.Describe(e))
			}
			if next == "" {
				return items
			}
			q.Cursor = next
		}
	}
	everything := items(timeline.Query{Limit: 500})
	require.Len(t, everything, 34)
	for i := 1; i < len(everything); i++ {
		a, b := everything[i-1], everything[i]
		require.False(t, a.OccurredAt.Before(b.OccurredAt))
		if a.OccurredAt.Equal(b.OccurredAt) {
			require.Greater(t, a.Position.Offset, b.Position.Offset)
		}
	}
	for _, limit := range []int{1, 2, 7, 33, 34} {
		require.Equal(t, everything, items(timeline.Query{Limit: limit}))
	}
	require.Len(t, items(timeline.Query{Type: "tokens_spent"}), 33)
	require.Len(t, items(timeline.Query{Type: "usage"}), 31)
	require.Len(t, items(timeline.Query{Type: "correction"}), 1)
	require.Len(t, items(timeline.Query{Type: "tenant"}), 1)
	require.Empty(t, items(timeline.Query{Type: "nothing"}))
	for limit := 1; limit < 4; limit++ {
		require.Len(t, items(timeline.Query{Source: "call_7", Limit: limit}), 3)
	}
	require.Len(t, items(timeline.Query{Source: "call_7", Type: "usage"}), 1)
	require.Len(t, items(timeline.Query{From: noon, To: noon.Add(time.Second)}), 10)

	_, next, _, err := l.Timeline(t.Context(), timeline.Query{Tenant: acme, Limit: 1})
	require.NoError(t, err)
	for name, q := range map[string]timeline.Query{
		"of another tenant": {Tenant: "other", Cursor: next},
		"garbage":           {Tenant: acme, Cursor: "garbage"},
		"cut":               {Tenant: acme, Cursor: next[:len(next)-4]},
		"limit":             {Tenant: acme, Limit: 501},
	} {
		_, _, _, err := l.Timeline(t.Context(), q)
		var bad *invalid.Error
		require.ErrorAs(t, err, &bad, name)
	}
}

func TestDirectory(t *testing.T) {
	l := newLedger(t)
	for _, id := range []event.TenantID{"acme", "", "a\x00b", "a\xff"} {
		_, _, err := l.Tenant(t.Context(), id)
		require.ErrorIs(t, err, tenant.ErrUnknown)
	}
	none, _, err := l.Catalog(t.Context())
	require.NoError(t, err)
	require.Equal(t, app.Catalog{Revision: eventstore.NoStream}, none)

	l.append(applyTestCatalog(t))
	define := event.TenantDefined{Tenant: "acme", Name: "Acme", TimeZone: "UTC", Currency: "USD", Hosts: []string{"a.example"}, Slug: "acme", By: "cli"}
	l.append(define.Append(eventstore.NoStream))
	define.Name = "Acme Inc."
	l.append(define.Append(0))
	var hashes []tenant.Hash
	for i := range 7 {
		hash := tenant.Secret(fmt.Sprintf("key_%d", i)).Hash()
		hashes = append(hashes, hash)
		k := event.KeyCreated{ID: hash.KeyID(), Kind: "admin", Name: "backend", Hash: hash[:], By: "cli"}
		if i%2 == 1 {
			k.Kind, k.Tenant = "tenant", "acme"
		}
		l.append(k.Append())
	}
	l.append(event.KeyRevoked{ID: hashes[1].KeyID(), Tenant: "acme", By: "cli"}.Append(0))
	for range 3 { // one event at a time as well as all at once
		_, err = l.step(t.Context(), projections.DirectoryModel, 0, 1)
		require.NoError(t, err)
	}
	l.project()
	l.append(event.KeyRevoked{ID: hashes[2].KeyID(), By: "cli"}.Append(0)) // in a later range than its creation
	l.project()

	acme, at, err := l.Tenant(t.Context(), "acme")
	require.NoError(t, err)
	require.Equal(t, tenant.Tenant{ID: "acme", Name: "Acme Inc.", TimeZone: "UTC", Currency: "USD", Hosts: []string{"a.example"}, Slug: "acme",
		Status: tenant.Active, Proofs: []tenant.HostProof{}}, acme)
	require.Equal(t, eventstore.PartitionOf("acme", testPartitions), at.Partition)
	k, _, err := l.KeyByHash(t.Context(), hashes[3])
	require.NoError(t, err)
	require.Equal(t, hashes[3].KeyID(), k.ID)
	require.EqualValues(t, "acme", k.Tenant)
	require.Equal(t, tenant.Scoped, k.Kind)
	require.False(t, k.CreatedAt.IsZero())
	for _, revoked := range []int{1, 2} {
		_, _, err = l.KeyByHash(t.Context(), hashes[revoked])
		require.ErrorIs(t, err, tenant.ErrUnknownKey)
	}
	var ids []event.KeyID
	revoked := 0
	for cursor := ""; ; {
		page, next, _, err := l.Keys(t.Context(), 3, cursor)
		require.NoError(t, err)
		for _, k := range page {
			ids = append(ids, k.ID)
			if !k.RevokedAt.IsZero() {
				revoked++
			}
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	require.Len(t, ids, 7)
	require.Equal(t, hashes[6].KeyID(), ids[0], "newest first")
	require.Equal(t, 2, revoked)
	c, _, err := l.Catalog(t.Context())
	require.NoError(t, err)
	require.Zero(t, c.Revision)
	require.Len(t, c.Meters, 3)
	require.Empty(t, c.Versions)
	l.append(event.CatalogApplied{Catalog: []byte(`{"plans":[{"key":"pro","currency":"USD"},{"key":"old","currency":"USD"}]}`), Versions: map[string]int{"pro": 7, "gone": 2}, By: "cli"}.Append(0))
	l.project()
	c, _, err = l.Catalog(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[catalog.PlanKey]int{"pro": 7, "gone": 2, "old": 1}, c.Versions)
}

// A subscription reads as the fold of its stream says, whether its events come one by one or all at once.
func TestSubscription(t *testing.T) {
	for _, limit := range []int{1, 100} {
		l := newLedger(t)
		acme, globex := tenantOf(0), tenantOf(1)
		empty, _, err := l.Subscription(t.Context(), acme)
		require.NoError(t, err)
		require.Equal(t, tenant.Subscription{}, empty)
		at := func(hours int) time.Time { return noon.Add(time.Duration(hours)*time.Hour + time.Millisecond) }
		want := map[event.TenantID]tenant.Subscription{}
		for of, events := range map[event.TenantID][]interface {
			Append(eventstore.Revision) eventstore.Append
		}{
			acme: {
				event.PlanAssigned{Tenant: acme, Plan: "free", EffectiveAt: at(0), BillingAnchor: at(-100), By: "cli"},
				event.PlanAssigned{Tenant: acme, Plan: "pro", EffectiveAt: at(2), BillingAnchor: at(-100), By: "cli"},
				event.LimitOverridden{Tenant: acme, Limit: "y", Max: money.MustParse("0.000000001"), From: at(1), Until: at(3), Reason: "r", By: "key:1"},
				event.LimitOverridden{Tenant: acme, Limit: "x", Max: money.MustParse("999999999999999999.999999999"), Reason: "é", By: "key:1"},
				event.PlanAssigned{Tenant: acme, Plan: "scale", EffectiveAt: at(2), BillingAnchor: at(2), By: "cli"},
				event.PlanAssigned{Tenant: acme, Plan: "free", EffectiveAt: at(1), BillingAnchor: at(1), By: "cli"},
				event.LimitOverrideRemoved{Tenant: acme, Limit: "y", By: "cli"},
				event.LimitOverridden{Tenant: acme, Limit: "z", Max: money.Int(1), Reason: "r", By: "cli"},
				event.LimitOverridden{Tenant: acme, Limit: "z", Max: money.Int(0), Until: at(5), Reason: "r2", By: "cli"},
			},
			globex: {event.LimitOverrideRemoved{Tenant: globex, Limit: "y", By: "cli"}, event.PlanAssigned{Tenant: globex, Plan: "pro", EffectiveAt: at(9), BillingAnchor: at(9), By: "cli"}},
		} {
			for i, e := range events {
				l.append(e.Append(eventstore.Revision(i - 1)))
				want[of], _ = want[of].Apply(e)
			}
		}
		for p := range testPartitions {
			for more := true; more; {
				more, err = l.step(t.Context(), projections.DirectoryModel, p, limit)
				require.NoError(t, err)
			}
		}
		for of, s := range want {
			got, position, err := l.Subscription(t.Context(), of)
			require.NoError(t, err)
			require.Equal(t, s, got)
			require.Equal(t, eventstore.PartitionOf(string(of), testPartitions), position.Partition)
		}
		// Whatever comes late changes nothing.
		l.exec(`update rm_directory_1.limit_overrides set revision = 100, removed = true where limit_key = 'x'`)
		l.append(event.LimitOverridden{Tenant: acme, Limit: "x", Max: money.Int(1), Reason: "late", By: "cli"}.Append(8))
		l.project()
		got, _, err := l.Subscription(t.Context(), acme)
		require.NoError(t, err)
		require.Equal(t, want[acme].RemoveOverride("x", ""), got)
	}
}

// A plan is in use as long as no later assignment has replaced it.
func TestPlansInUse(t *testing.T) {
	l := newLedger(t)
	at := func(hours int) time.Time { return noon.Add(time.Duration(hours) * time.Hour) }
	used := func(hours int) []catalog.PlanKey {
		t.Helper()
		plans, err := l.PlansInUse(t.Context(), at(hours))
		require.NoError(t, err)
		return plans
	}
	require.Empty(t, used(0))
	for p, plans := range [testPartitions][]string{{"free", "pro", "scale"}, {"b", "pro", "B"}} {
		for i, plan := range plans {
			of := tenantOf(p)
			l.append(event.PlanAssigned{Tenant: of, Plan: plan, EffectiveAt: at(i), BillingAnchor: noon, By: "cli"}.Append(eventstore.Revision(i - 1)))
		}
	}
	l.project()
	require.Equal(t, []catalog.PlanKey{"B", "b", "free", "pro", "scale"}, used(-1), "none has begun")
	require.Equal(t, []catalog.PlanKey{"B", "b", "free", "pro", "scale"}, used(0))
	require.Equal(t, []catalog.PlanKey{"B", "pro", "scale"}, used(1))
	require.Equal(t, []catalog.PlanKey{"B", "scale"}, used(2))
	require.Equal(t, []catalog.PlanKey{"B", "scale"}, used(1000), "the last stays")
	l.append(event.PlanAssigned{Tenant: tenantOf(0), Plan: "free", EffectiveAt: at(2), BillingAnchor: noon, By: "cli"}.Append(2))
	l.project()
	require.Equal(t, []catalog.PlanKey{"B", "free"}, used(3), "instead of scale")
	directory := readmodels.NewDirectory(l.Store)
	plans, err := directory.PlansInUse(t.Context(), at(3))
	require.NoError(t, err)
	require.Equal(t, used(3), plans)
	l.exec(`delete from rm_directory_1.plan_assignments where tenant_id = $1`, string(tenantOf(1)))
	plans, err = directory.PlansInUse(t.Context(), at(3))
	require.NoError(t, err)
	require.Equal(t, []catalog.PlanKey{"free"}, plans, "it is read at every question")
}

// A version stays while nothing changes, and is another one after each change and each rebuild: what was kept of a damaged
// directory must not outlive its repair.
func TestDirectoryVersion(t *testing.T) {
	l := newLedger(t)
	seen := map[string]bool{}
	changed := func(want bool, why string) {
		t.Helper()
		version, err := l.DirectoryVersion(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, !seen[version], why)
		seen[version] = true
	}
	changed(true, "the first")
	l.everyKind()
	l.project()
	changed(true, "a change")
	l.append(recordTokens(tenantOf(0), 1000, 1005)...)
	l.project()
	changed(false, "facts are no change of the directory")
	_, err := l.Rebuild(t.Context(), l.log, []string{projections.DirectoryModel}, nil)
	require.NoError(t, err)
	changed(true, "a rebuild")
	changed(false, "nothing")
}

func TestAwait(t *testing.T) {
	url := pgtest.Database(t)
	l, other := openLedger(t, url), openLedger(t, url)
	l.append(recordTokens(tenantOf(0), 0, 5)...)
	at := eventstore.Position{Offset: 5}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, l.Await(ctx, readmodels.Names(), at), context.DeadlineExceeded)

	waiting := make(chan error, 3)
	for _, replica := range []*ledger{l, other, other} {
		go func() { waiting <- replica.Await(t.Context(), readmodels.Names(), at) }()
	}
	l.append(applyTestCatalog(t))
	l.append(recordTokens(tenantOf(0), 5, 6)...)
	for _, name := range readmodels.Names() {
		if name == projections.UsageModel {
			continue // stops at facts without a catalog
		}
		_, err := l.step(t.Context(), name, 0, 100)
		require.NoError(t, err)
	}
	require.Empty(t, waiting, "one read model is missing")
	_, err := l.step(t.Context(), projections.UsageModel, 0, 100)
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, <-waiting)
	}
	require.Error(t, l.Await(t.Context(), nil, eventstore.Position{Partition: 99}))
}

func TestLag(t *testing.T) {
	l := newLedger(t)
	l.append(applyTestCatalog(t))
	l.append(recordTokens(tenantOf(1), 0, 9)...)
	_, err := l.step(t.Context(), projections.TimelineModel, 1, 4)
	require.NoError(t, err)
	oldest, err := l.log.ReadLog(t.Context(), eventstore.Position{Partition: 1, Offset: 4}, 1)
	require.NoError(t, err)
	lags, err := l.Lag(t.Context(), l.log, oldest[0].RecordedAt.Add(time.Minute))
	require.NoError(t, err)
	require.Len(t, lags, len(readmodels.Names())*testPartitions)
	for _, lag := range lags {
		if lag.ReadModel == projections.TimelineModel && lag.Partition == 1 {
			require.EqualValues(t, 4, lag.Offset)
			require.EqualValues(t, 5, lag.Events)
			require.Equal(t, time.Minute, lag.Age)
		}
	}
	l.project()
	lags, err = l.Lag(t.Context(), l.log, time.Now())
	require.NoError(t, err)
	for _, lag := range lags {
		require.Zero(t, lag.Events)
		require.Zero(t, lag.Age)
	}
}

// sparse is a log that does not say how many events lie between two positions.
type sparse struct{ eventstore.LogReader }

func (sparse) DenseOffsets() bool { return false }

// Where offsets do not count, what is behind is counted by reading it.
func TestLagOfALogWhoseOffsetsDoNotCount(t *testing.T) {
	l := newLedger(t)
	l.append(applyTestCatalog(t))
	l.append(recordTokens(tenantOf(1), 0, 9)...)
	_, err := l.step(t.Context(), projections.TimelineModel, 1, 4)
	require.NoError(t, err)
	lags, err := l.Lag(t.Context(), sparse{l.log}, time.Now())
	require.NoError(t, err)
	for _, lag := range lags {
		if lag.ReadModel == projections.TimelineModel && lag.Partition == 1 {
			require.EqualValues(t, 5, lag.Events)
			require.Positive(t, lag.Age)
		}
	}
}
