package readmodels_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
	pglog "github.com/tollgate-io/tollgate/adapters/postgres/log"
	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/projections"
)

// models is how many read models there are, everyTable how many tables they have.
var (
	models     = len(readmodels.Names())
	everyTable = func() (n int) {
		for _, name := range readmodels.Names() {
			n += len(readmodels.TableNames(name))
		}
		return n
	}()
)

var postgresConfig = pglog.Config{Partitions: testPartitions}

// everyKind puts one of everything on the log.
func (l *ledger) everyKind() {
	l.Helper()
	l.append(applyTestCatalog(l))
	l.append(event.AppendCosts([]event.CostsImported{{Source: "test", Hash: strings.Repeat("0", 64), From: "2026-04-05", By: "cli",
		Costs: []event.ModelCost{{ModelName: event.ModelName{Provider: "openai", Model: "gpt-4.1"}}}}}, eventstore.NoStream))
	for p := range testPartitions {
		acme := tenantOf(p)
		l.append(event.TenantDefined{Tenant: acme, Name: "Acme", TimeZone: "UTC", Currency: "USD", By: "cli"}.Append(eventstore.NoStream))
		l.append(event.KeyCreated{ID: event.KeyID("key_" + acme), Kind: "tenant", Tenant: acme, Name: "backend", Hash: make([]byte, 32), By: "cli"}.Append())
		l.append(event.KeyRevoked{ID: event.KeyID("key_" + acme), Tenant: acme, By: "cli"}.Append(0))
		l.append(recordTokens(acme, 0, 500)...)
		l.append(event.UsageVoided{Usage: tokens(acme, 1), Metadata: counted, Reason: "test", By: "cli"}.Append(0),
			event.UsageAdjusted{Usage: tokens(acme, 2), Metadata: counted, Quantity: money.MustParse("0.25"), Reason: "test", By: "cli"}.Append(0),
			event.UsageConflicted{Usage: tokens(acme, 3)}.Append(),
			event.AdminSwitched{Tenant: acme, Reason: "test", Day: "2026-04-05", By: "cli"}.Append())
		l.append(event.PlanAssigned{Tenant: acme, Plan: "pro", EffectiveAt: noon, BillingAnchor: noon, By: "cli"}.Append(eventstore.NoStream))
		l.append(event.LimitOverridden{Tenant: acme, Limit: "tokens_per_day", Max: money.Int(5), Until: noon, Reason: "test", By: "cli"}.Append(0))
		l.append(event.LimitOverridden{Tenant: acme, Limit: "spend", Max: money.MustParse("0.5"), Reason: "test", By: "cli"}.Append(1))
		l.append(event.LimitOverrideRemoved{Tenant: acme, Limit: "spend", By: "cli"}.Append(2))
		check := event.Identity{Tenant: acme, Type: "tokens_spent", Source: "check_1"}
		l.append(event.AppendDecisions(uuid.Nil, acme, eventstore.NoStream, []event.QuotaEvent{
			event.LimitDecided{Identity: check, Quantity: money.Int(5), DecidedAt: noon, Allowed: true, Keeps: true, KeepUntil: noon.Add(1e9), PlanVersion: "pro@1"},
			event.LimitDecided{Identity: event.Identity{Tenant: acme, Type: "tokens_spent", Source: "check_2"}, Quantity: money.Int(5), DecidedAt: noon,
				Parts: []event.LimitPart{{Limit: "tokens_per_day", Kind: event.QuotaLimit, Denied: true}, {Limit: "per_minute", Kind: event.RateLimit, Denied: true}}},
			event.HoldReleased{Identity: check, ReleasedAt: noon, By: "cli"},
			event.HoldExpired{Identity: check, ExpiredAt: noon},
		}, nil))
	}
}

func TestRebuildEqualsLiveWhileEventsKeepComing(t *testing.T) {
	url := pgtest.Database(t)
	l, follower, writer := openLedger(t, url), openLedger(t, url), openLedger(t, url)
	l.everyKind()
	l.project()
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { // facts keep coming
		for n := 500; ctx.Err() == nil; n += 20 {
			for p := range testPartitions {
				writer.append(recordTokens(tenantOf(p), n, n+20)...)
			}
		}
	})
	for _, name := range readmodels.Names() { // and are projected
		for p := range testPartitions {
			group.Go(func() {
				for ctx.Err() == nil {
					_, err := follower.step(t.Context(), name, p, 1000)
					if err != nil {
						require.ErrorIs(t, err, projections.ErrStale)
					}
				}
			})
		}
	}
	for i := range 3 {
		last := int64(0)
		report, err := l.Rebuild(t.Context(), l.log, nil, func(done, total int64) {
			require.Greater(t, done, last)
			require.LessOrEqual(t, done, total)
			last = done
		})
		require.NoError(t, err)
		require.Equal(t, report.Events, last)
		require.Len(t, report.Tables, everyTable)
		require.Equal(t, i+2, report.Tables[0].Generation)
	}
	stop()
	group.Wait()
	follower.project()
	_, err := l.Verify(t.Context(), l.log, nil, nil)
	require.NoError(t, err)
	require.EqualValues(t, models, l.number(`select count(*) from read_models`), "old generations are gone")
	require.EqualValues(t, models, l.number(`select count(*) from pg_namespace where nspname like 'rm_%'`))
	// The queries of a process that did not rebuild follow as well.
	positions, _, _, err := follower.Timeline(t.Context(), timeline.Query{Tenant: tenantOf(0), Limit: 5})
	require.NoError(t, err)
	require.Len(t, positions, 5)
	require.Positive(t, follower.number(`select count(*) from timeline`))
}

func TestATamperedRowIsFound(t *testing.T) {
	for name, c := range map[string]struct{ tamper, readModel, table, serving, rebuilt string }{
		"changed":  {`update rm_usage_1.usage_rollups set quantity = quantity + 0.000000001 where meter = 'tokens' and bucket = (select min(bucket) from rm_usage_1.usage_rollups)`, "usage", "usage_rollups", `"quantity":`, `"quantity":`},
		"removed":  {`delete from rm_timeline_1.timeline where position = (select max(position) from rm_timeline_1.timeline)`, "timeline", "timeline", "", `"kind":`},
		"invented": {`insert into rm_directory_1.tenants select 'zz', revision, name, time_zone, currency, hosts, slug, defined_at, defined_by from rm_directory_1.tenants limit 1`, "directory", "tenants", `"tenant_id":"zz"`, ""},
		"slower":   {`update rm_insights_1.insight_calls set latency_buckets = array[2800::smallint] where day = (select min(day) from rm_insights_1.insight_calls)`, "insights", "insight_calls", `2800]`, `"latency_buckets":[945]`},
		"admitted": {`update rm_insights_1.insight_denials set decisions = decisions + 1 where limit_key = ''`, "insights", "insight_denials", `"decisions":2`, `"decisions":1`},
		"revived":  {`update rm_directory_1.api_keys set revoked_at = null`, "directory", "api_keys", `"revoked_at":null`, `"revoked_at":"`},
		"given":    {`update rm_directory_1.limit_overrides set removed = false`, "directory", "limit_overrides", `"removed":false`, `"removed":true`},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			l.everyKind()
			l.project()
			_, err := l.Verify(t.Context(), l.log, nil, nil)
			require.NoError(t, err)
			l.exec(c.tamper)
			check := func(err error) {
				t.Helper()
				var d *readmodels.Difference
				require.ErrorAs(t, err, &d)
				require.Equal(t, c.readModel, d.ReadModel)
				require.Equal(t, c.table, d.Table)
				require.Positive(t, d.Rows)
				require.NotEmpty(t, d.Key)
				require.Contains(t, d.Serving, c.serving)
				require.Contains(t, d.Rebuilt, c.rebuilt)
				require.Equal(t, c.serving == "", d.Serving == "")
				require.Equal(t, c.rebuilt == "", d.Rebuilt == "")
			}
			_, err = l.Verify(t.Context(), l.log, []string{c.readModel}, nil)
			check(err)
			require.EqualValues(t, models, l.number(`select count(*) from read_models`), "a verification leaves nothing behind")
			_, err = l.Rebuild(t.Context(), l.log, nil, nil)
			check(err)
			generation, _, err := l.Checkpoint(t.Context(), c.readModel, 0)
			require.NoError(t, err)
			require.Equal(t, 1, generation, "nothing was switched")
			require.EqualValues(t, models, l.number(`select count(*) from read_models where state = 'building'`), "the build stays for inspection")
			l.append(recordTokens(tenantOf(0), 1000, 1010)...)
			l.project()

			accepted := 0
			_, err = l.Rebuild(t.Context(), l.log, nil, nil, readmodels.AcceptDifferences(func(d *readmodels.Difference) {
				check(d)
				accepted++
			}))
			require.NoError(t, err)
			require.Equal(t, 1, accepted)
			_, err = l.Verify(t.Context(), l.log, nil, nil)
			require.NoError(t, err)
			require.EqualValues(t, models, l.number(`select count(*) from read_models`))
		})
	}
}

// A new version of the program may want other tables than those that serve. It says so, and a rebuild replaces them,
// without comparing what cannot be compared.
func TestAnotherDefinitionIsBuiltAgain(t *testing.T) {
	for name, statements := range map[string][]string{
		"older than all definitions": {`update read_models set definition = null where name = 'directory'`},
		"a column less":              {`alter table rm_directory_1.catalogs drop column plan_versions cascade`, `update read_models set definition = 'old' where name = 'directory'`},
		"a table less":               {`drop table rm_directory_1.limit_overrides cascade`, `update read_models set definition = 'old' where name = 'directory'`},
		"other columns": {`drop view catalogs`, `create view catalogs as select applied_by, revision as old_name, catalog from rm_directory_1.catalogs`,
			`alter view catalogs owner to tollgate_projector`,
			`update read_models set definition = 'old' where name = 'directory'`},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			l.everyKind()
			l.project()
			for _, s := range statements {
				l.exec(s)
			}
			outdated, err := l.Ensure(t.Context(), testPartitions)
			require.NoError(t, err)
			require.Equal(t, []string{"directory"}, outdated)
			report, err := l.Rebuild(t.Context(), l.log, outdated, nil)
			require.NoError(t, err)
			require.Equal(t, 2, report.Tables[0].Generation)
			again := openLedger(t, l.url) // where Ensure finds nothing to do
			s, _, err := again.Subscription(t.Context(), tenantOf(0))
			require.NoError(t, err)
			require.Len(t, s.Assignments, 1)
			require.EqualValues(t, 1, l.number(`select count(*) from catalogs where plan_versions = '{}' and revision = 0`))
			require.EqualValues(t, testPartitions, l.number(`select count(*) from limit_overrides where removed`))
			_, err = l.Verify(t.Context(), l.log, nil, nil)
			require.NoError(t, err)
		})
	}
}

func TestUsageFoldedInPartsIsAddedUp(t *testing.T) {
	l := newLedger(t)
	l.everyKind()
	l.project()
	report, err := l.Rebuild(t.Context(), l.log, nil, nil, readmodels.RebuildMemory(7, 100))
	require.NoError(t, err)
	require.EqualValues(t, l.number(`select count(*) from log_events`), report.Events)
	_, err = l.Verify(t.Context(), l.log, nil, nil)
	require.NoError(t, err)

	again, err := l.Rebuild(t.Context(), sparse{l.log}, nil, nil, readmodels.RebuildMemory(7, 100))
	require.NoError(t, err, "the log's offsets need not count")
	require.Equal(t, report.Events, again.Events)
}

func TestOneRebuildAtATime(t *testing.T) {
	l := newLedger(t)
	l.everyKind()
	l.project()
	var second error
	var once sync.Once
	_, err := l.Rebuild(t.Context(), l.log, nil, func(int64, int64) {
		once.Do(func() { _, second = l.Verify(t.Context(), l.log, nil, nil) })
	})
	require.NoError(t, err)
	require.ErrorIs(t, second, readmodels.ErrRebuilding)
}

func TestAnInterruptedRebuildLeavesNothing(t *testing.T) {
	l := newLedger(t)
	l.everyKind()
	l.project()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := l.Rebuild(ctx, l.log, nil, func(int64, int64) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	require.EqualValues(t, models, l.number(`select count(*) from read_models`))
	// A process that was killed could not clean up.
	l.exec(`insert into read_models (name, generation, state) values ('usage', 2, 'building')`)
	l.exec(`create schema rm_usage_2 authorization tollgate_projector`)
	l.exec(`create table rm_usage_2.half (done int)`)
	_, err = l.Rebuild(t.Context(), l.log, []string{"usage"}, nil)
	require.NoError(t, err)
	require.EqualValues(t, models, l.number(`select count(*) from pg_namespace where nspname like 'rm_%'`))
	_, err = l.Rebuild(t.Context(), l.log, []string{"usages"}, nil)
	require.ErrorContains(t, err, "usages")
}

func TestARebuildStopsAtAHole(t *testing.T) {
	l := newLedger(t)
	l.everyKind()
	l.project()
	l.exec(`alter table log_events disable trigger all`)
	var leaf string
	require.NoError(t, l.pool.QueryRow(t.Context(), `select tableoid::regclass::text from log_events where position & ((1::bigint << 48) - 1) = 100 limit 1`).Scan(&leaf))
	l.exec(`alter table ` + leaf + ` disable trigger all`)
	l.exec(`delete from ` + leaf + ` where position & ((1::bigint << 48) - 1) = 100`)
	_, err := l.Rebuild(t.Context(), l.log, nil, nil)
	require.ErrorIs(t, err, eventstore.ErrHole)
}
