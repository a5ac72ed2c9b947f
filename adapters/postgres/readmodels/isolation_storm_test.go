package readmodels_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/postgres"
	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/domain/usage"
)

// storm asks for random tenants from many goroutines over few connections, and says what was not the tenant's own answer.
type storm struct {
	*ledger
	tenants   []event.TenantID
	positions map[eventstore.Position]event.TenantID // whose event is where

	mu       sync.Mutex
	findings map[string]string // the first of each kind
}

func newStorm(t testing.TB, tenants int) *storm {
	t.Helper()
	s := &storm{positions: map[eventstore.Position]event.TenantID{}}
	for n := range tenants {
		s.tenants = append(s.tenants, event.TenantID(fmt.Sprintf("tenant-%03d", n)))
	}
	s.ledger = settled(t, s.tenants...)
	for p := range testPartitions {
		recorded, err := s.log.ReadLog(t.Context(), eventstore.Position{Partition: p}, eventstore.MaxReadLimit)
		require.NoError(t, err)
		for _, e := range recorded {
			s.positions[e.Position] = event.TenantID(e.Tenant)
		}
	}
	return s
}

// question asks about the n-th tenant and compares the answer with what is known to be right.
type question func(ctx context.Context, s *storm, r *readmodels.Store, n int, of event.TenantID) (wrong string, err error)

func check(ok bool, format string, args ...any) string {
	if ok {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

var (
	light = []question{
		func(ctx context.Context, _ *storm, r *readmodels.Store, _ int, of event.TenantID) (string, error) {
			t, _, err := r.Tenant(ctx, of)
			if errors.Is(err, tenant.ErrUnknown) {
				return "tenant: none", nil
			}
			return check(t.ID == of && t.Name == string(of) && t.Reason == string(of) && len(t.Proofs) == 1 && t.Proofs[0].Host == string(of)+".example", "tenant: %+v", t), err
		},
		func(ctx context.Context, _ *storm, r *readmodels.Store, _ int, of event.TenantID) (string, error) {
			s, _, err := r.Subscription(ctx, of)
			return check(len(s.Assignments) == 1 && string(s.Assignments[0].Plan) == "plan_of_"+string(of) && len(s.Overrides) == 1 && s.Overrides[0].Reason == string(of), "subscription: %+v", s), err
		},
		func(ctx context.Context, _ *storm, r *readmodels.Store, _ int, of event.TenantID) (string, error) {
			a, err := readmodels.NewAccountLoader(r, nil).Account(ctx, of)
			return check(a.Revision == 0 && len(a.Holds) == 1 && a.Holds[0].Source == "check of "+event.SourceID(of), "account: %+v", a), err
		},
		func(ctx context.Context, s *storm, r *readmodels.Store, _ int, of event.TenantID) (string, error) {
			events, _, _, err := r.Timeline(ctx, timeline.Query{Tenant: of, Limit: 100})
			foreign := slices.ContainsFunc(events, func(p eventstore.Position) bool { return s.positions[p] != of })
			return check(!foreign && len(events) > settledFacts, "timeline: %v", events), err
		},
		func(ctx context.Context, _ *storm, r *readmodels.Store, _ int, of event.TenantID) (string, error) {
			k, _, err := r.KeyByHash(ctx, secretOf(of).Hash())
			if errors.Is(err, tenant.ErrUnknownKey) {
				return "key: none", nil
			}
			return check(k.Tenant == of, "key: %+v", k), err
		},
		func(ctx context.Context, _ *storm, r *readmodels.Store, _ int, of event.TenantID) (string, error) {
			h, _, err := r.Holding(ctx, tenant.Name{Kind: "slug", Name: string(of)})
			return check(h.Tenant == of, "name: %+v", h), err
		},
	}
	heavy = []question{
		func(ctx context.Context, _ *storm, r *readmodels.Store, n int, of event.TenantID) (string, error) {
			u, _, err := r.Usage(ctx, usage.Query{Tenant: of, From: noon, To: noon.Add(time.Hour), Granularity: usage.Hour, Meter: "tokens", GroupBy: []string{"model"}})
			want := fmt.Sprint((settledFacts - 1) * (n + 1))
			return check(err != nil || len(u.Items) == 1 && u.Items[0].Dimensions["model"] == string(of) && u.Items[0].Quantity.String() == want && u.Total.String() == want, "usage: %+v", u), err
		},
		func(ctx context.Context, _ *storm, r *readmodels.Store, _ int, of event.TenantID) (string, error) {
			a, _, err := ask(ctx, r, insight.Question{Kind: insight.Retries, Tenant: of, From: noon, To: noon.Add(1), GroupBy: []insight.Dimension{insight.Tenant, insight.Model}}, nil)
			return check(err != nil || len(a.Rows) == 1 && slices.Equal(a.Rows[0].Labels, []string{string(of), string(of)}) && a.Rows[0].Events == settledFacts-1, "insights: %+v", a), err
		},
		func(ctx context.Context, _ *storm, r *readmodels.Store, _ int, of event.TenantID) (string, error) {
			p, err := r.Plans(ctx, of)
			return check(err != nil || len(p) == 1 && string(p[of].Assignments[0].Plan) == "plan_of_"+string(of), "plans: %+v", p), err
		},
		func(ctx context.Context, _ *storm, r *readmodels.Store, n int, of event.TenantID) (string, error) {
			s, err := readmodels.NewAccountLoader(r, nil).Series(ctx, of, []limit.Need{{Series: limit.Series{Meter: "tokens"}}}, noon, noon)
			return check(err != nil || len(s[0].Quarters) == 1 && s[0].Quarters[0].Quantity.String() == fmt.Sprint((settledFacts-1)*(n+1)), "series: %+v", s), err
		},
	}
)

// rage asks over a pool, and looks at its connections afterwards. With faults, callers leave and connections die meanwhile.
func (s *storm) rage(reads *pgxpool.Pool, queries int, faults bool) (findings []string) {
	s.Helper()
	ctx := s.Context()
	r := readmodels.New(s.apply, reads, app.NewCatalogRevisions(s.log))
	_, err := r.Ensure(ctx, testPartitions)
	require.NoError(s, err)
	s.findings = map[string]string{}
	seed := rand.Uint64()
	var asked, answered, killed atomic.Int64
	stop := make(chan struct{})
	var killer, group sync.WaitGroup
	if faults {
		killer.Go(func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				tag, err := s.pool.Exec(ctx, `select pg_terminate_backend(pid) from (select pid from pg_stat_activity
					where datname = current_database() and application_name = 'tollgate read models' order by random() limit 1) v`)
				if err == nil {
					killed.Add(tag.RowsAffected())
				}
			}
		})
	}
	for worker := range 48 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(worker)))
			for asked.Add(1) <= int64(queries) {
				n := random.IntN(len(s.tenants))
				ask := light[random.IntN(len(light))]
				if random.IntN(10) == 0 {
					ask = heavy[random.IntN(len(heavy))]
				}
				ctx, cancel := context.WithCancel(ctx)
				if faults && random.IntN(400) == 0 {
					time.AfterFunc(time.Duration(random.IntN(8000))*time.Microsecond, cancel)
				}
				wrong, err := ask(ctx, s, r, n, s.tenants[n])
				cancel()
				switch {
				case err == nil && wrong == "":
					answered.Add(1)
				case err == nil:
					kind, what, _ := strings.Cut(wrong, ": ")
					s.found(kind, "%s was told %s", s.tenants[n], what)
				case !faults || !errors.Is(err, eventstore.ErrUnavailable):
					s.found("error", "%s: %v", s.tenants[n], err)
				}
			}
		})
	}
	group.Wait()
	close(stop)
	killer.Wait()
	s.Logf("seed %d: %d of %d answered, %d connections ended", seed, answered.Load(), queries, killed.Load())
	if faults && (killed.Load() == 0 || answered.Load() < int64(queries)*9/10) {
		s.found("weak storm", "%d of %d questions were answered, and %d connections ended", answered.Load(), queries, killed.Load())
	}
	idle := reads.AcquireAllIdle(ctx)
	looked := 0
	for _, c := range idle {
		var left string
		err := c.QueryRow(ctx, `select concat(current_setting('app.tenant_id', true), current_setting('app.scope', true))`).Scan(&left)
		ended := faults && c.Conn().IsClosed() // by the last of the killer's work: nobody gets it any more
		c.Release()
		switch {
		case ended:
			continue
		case err != nil:
			s.found("error", "an idle connection: %v", err)
		case left != "":
			s.found("left behind", "a connection still speaks of %s", left)
		}
		looked++
	}
	if looked == 0 {
		s.found("weak storm", "no connection was left to look at")
	}
	return slices.Sorted(maps.Values(s.findings))
}

func (s *storm) found(kind, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.findings[kind] == "" {
		s.findings[kind] = kind + ": " + fmt.Sprintf(format, args...)
	}
}

// reads opens a pool of few connections that sends other statements than the program says.
func (s *storm) reads(rewrite func(sql string) string) *pgxpool.Pool {
	s.Helper()
	pool, err := postgres.NewReadPool(s.Context(), s.url, 4)
	require.NoError(s, err)
	if rewrite != nil {
		config := pool.Config()
		config.ConnConfig.Tracer = rewriter(rewrite)
		pool.Close()
		pool, err = pgxpool.NewWithConfig(s.Context(), config)
		require.NoError(s, err)
	}
	s.Cleanup(pool.Close)
	return pool
}

// rewriter changes what is about to be sent.
type rewriter func(sql string) string

func (r rewriter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		q.SQL = r(q.SQL)
	}
	return ctx
}
func (rewriter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (rewriter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}
func (rewriter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (rewriter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestAHundredThousandQuestionsStayApart(t *testing.T) {
	s := newStorm(t, 40)
	require.Empty(t, s.rage(s.reads(nil), 100_000, true))
}

var tenantCondition = regexp.MustCompile(`(\w+\.)?tenant_id = \$1`)

// Each of the two layers holds without the other: the condition of every query, and the policies. Without both, or without a
// tenant that ends with the transaction, the storm sees it. So it can see.
func TestTheStormSeesWhatIsBroken(t *testing.T) {
	s := newStorm(t, 10)
	const queries = 500
	noCondition := func(sql string) string { return tenantCondition.ReplaceAllLiteralString(sql, "$1::text is not null") }
	require.Contains(t, noCondition(`where t.tenant_id = $1 and`), `where $1::text is not null and`)
	scope := func(replacement string) func(string) string {
		return func(sql string) string {
			if sql == readmodels.SetScope {
				return replacement
			}
			return sql
		}
	}
	sessionWide := strings.ReplaceAll(readmodels.SetScope, ", true)", ", false)")
	require.NotEqual(t, readmodels.SetScope, sessionWide)

	require.Empty(t, s.rage(s.reads(nil), queries, false))
	require.Empty(t, s.rage(s.reads(noCondition), queries, false), "the policies alone")
	require.Contains(t, strings.Join(s.rage(s.reads(scope(sessionWide)), queries, false), "\n"), "left behind: a connection still speaks of ")
	require.Contains(t, strings.Join(s.rage(s.reads(scope(`select $1::text`)), queries, false), "\n"), "was told")

	for _, r := range s.relations() {
		if r.Kind == "r" && strings.HasPrefix(r.Schema, "rm_") {
			s.exec(`alter table ` + r.String() + ` disable row level security`)
		}
	}
	require.Empty(t, s.rage(s.reads(nil), queries, false), "the conditions alone")
	broken := strings.Join(s.rage(s.reads(noCondition), queries, false), "\n")
	for _, what := range []string{"tenant:", "subscription:", "account:", "timeline:", "usage:", "series:"} {
		require.Contains(t, broken, what, "neither of the two")
	}
}

// Whatever somebody breaks in the catalog is found.
func TestTheWalkSeesWhatIsBroken(t *testing.T) {
	l := settled(t, alpha)
	for _, m := range []struct{ statement, finding string }{
		{`drop policy own_rows on rm_timeline_1.timeline`, "timeline has no policy for the reader"},
		{`drop policy installation on rm_directory_1.api_keys`, "api_keys has no policy for the reader"},
		{`alter table rm_usage_1.usage_rollups no force row level security`, "usage_rollups has row level security enabled true, forced false"},
		{`alter table rm_quota_1.quota_holds disable row level security`, "quota_holds has row level security enabled false"},
		{`alter policy own_rows on rm_timeline_1.timeline using (true)`, "timeline shows the reader the rows where true"},
		{`alter policy own_rows on rm_timeline_1.timeline to public`, "policy own_rows of rm_timeline_1.timeline is for public"},
		{`create policy more on rm_timeline_1.timeline for select to tollgate_reader using (kind = 1)`, "policy more of rm_timeline_1.timeline shows"},
		{`create policy more on rm_timeline_1.timeline to tollgate_reader using (tenant_id = current_setting('app.tenant_id', true))`, "lets the reader ALL"},
		{`alter policy own_rows on rm_timeline_1.timeline using (current_setting('app.scope', true) = 'installation')`, "shows the reader"},
		{`create table notes (tenant_id text not null primary key)`, "table public.notes has row level security enabled false"},
		{`create table rm_usage_1.notes (note text)`, "table rm_usage_1.notes has no tenant_id and no reason"},
		{`create table read_models_of (tenant_id text)`, "has a tenant_id that may be null"},
		{`alter table checkpoints add tenant_id text`, "checkpoints is said to hold no tenant's rows"},
		{`create materialized view copied as select * from timeline`, "copied is of kind m"},
		{`alter view timeline set (security_invoker = false)`, "view public.timeline reads with its owner's rights"},
		{`create view looks as select tenant_id from timeline`, "view public.looks reads with its owner's rights"},
		{`create function all_of() returns bigint language sql security definer as 'select count(*) from timeline'`, "function all_of() runs with its owner's rights"},
		{`alter table rm_timeline_1.timeline drop constraint timeline_pkey, alter tenant_id drop not null`, "timeline has a tenant_id that may be null"},
		{`create unique index once on rm_quota_1.quota_holds (hold_id, tenant_id)`, "key once of table rm_quota_1.quota_holds begins with hold_id"},
		{`create index later on log_events (recorded_at)`, "key later of table public.log_events begins with recorded_at"},
		{`create index often on rm_usage_1.usage_rollups (lower(meter))`, "key often of table rm_usage_1.usage_rollups begins with an expression"},
		{`alter table rm_directory_1.host_proofs add foreign key (host) references rm_directory_1.api_keys (key_id) not valid`, "begins with host"},
		{`alter role tollgate_reader bypassrls`, "role tollgate_reader is a superuser, bypasses"},
		{`alter role tollgate_projector superuser`, "role tollgate_projector is a superuser"},
		{`alter role tollgate_log createrole`, "role tollgate_log"},
		{`alter role tollgate_reader login`, "logs in"},
		{`grant tollgate_projector to tollgate_reader`, "tollgate_reader is a member of tollgate_projector"},
		{`grant insert on rm_timeline_1.timeline to tollgate_reader`, "tollgate_reader may insert rm_timeline_1.timeline"},
		{`grant update (kind) on rm_timeline_1.timeline to tollgate_reader`, "tollgate_reader may update rm_timeline_1.timeline"},
		{`grant delete on rm_timeline_1.timeline to public`, "tollgate_reader may delete rm_timeline_1.timeline"},
		{`grant truncate on checkpoints to tollgate_reader`, "tollgate_reader may truncate checkpoints"},
		{`grant select on log_events to tollgate_reader`, "tollgate_reader may select log_events"},
		{`grant select on log_streams to public`, "tollgate_reader may select log_streams"},
		{`grant select on log_events_0_0 to tollgate_log`, "tollgate_log may select log_events_0_0"},
		{`grant update on log_events to tollgate_log`, "tollgate_log may update log_events"},
		{`grant truncate on log_commits to tollgate_log`, "tollgate_log may truncate log_commits"},
		{`grant select on timeline to tollgate_log`, "tollgate_log may select timeline"},
		{`grant select on log_events to tollgate_projector`, "the projector may select log_events"},
		{`create policy seen on log_events for select to tollgate_reader using (true)`, "policy seen of public.log_events is for tollgate_reader"},
		{`alter table log_events_0_0 no force row level security`, "log_events_0_0 has row level security enabled true, forced false"},
		{`alter table log_events owner to tollgate_log`, "log_events belongs to tollgate_log"},
		{`alter table rm_timeline_1.timeline owner to tollgate_reader`, "timeline belongs to tollgate_reader"},
		{`alter schema rm_timeline_1 owner to tollgate_reader`, "rm_timeline_1 belongs to tollgate_reader"},
		{`grant create on schema public to tollgate_reader`, "tollgate_reader may create in schema public"},
		{`grant usage on sequence log_types_type_id_seq to tollgate_reader`, "tollgate_reader may use sequence"},
	} {
		tx, err := l.pool.Begin(t.Context())
		require.NoError(t, err)
		before, err := walk(t.Context(), tx)
		require.NoError(t, err)
		require.Empty(t, before)
		_, err = tx.Exec(t.Context(), m.statement)
		require.NoError(t, err, m.statement)
		after, err := walk(t.Context(), tx)
		require.NoError(t, err)
		require.Contains(t, strings.Join(after, "\n"), m.finding, m.statement)
		require.NoError(t, tx.Rollback(t.Context())) // the roles are those of all databases of the server
	}
}
