package limiter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/storetest"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/app/apptest"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/limiter"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/projections"
)

var (
	ctx       = context.Background()
	noon      = apptest.Noon
	interview = apptest.Interview
	tokens    = apptest.Tokens
)

// TestMain runs everything twice: with dense offsets in several partitions, and with offsets that only rise in one.
func TestMain(m *testing.M) { storetest.Main(m) }

const limitPlans = apptest.Meters + `
plans:
  - key: pro
    currency: USD
    limits:
      - {key: interviews_per_day, kind: quota, meter: interviews, max: 100, window: day, holdTTL: 15m}
      - {key: tokens_per_minute, kind: quota, meter: tokens, max: 1000, window: minute}
      - {key: sessions, kind: concurrency, on: [call], max: 3, holdTTL: 1m}
  - key: open
    currency: USD
    limits:
      - {key: interviews_per_day, kind: quota, meter: interviews, max: 100, window: day, onError: allow}
      - {key: interviews_a_second, kind: rate, on: [interview], max: 10, window: 1s}
      - {key: tier, kind: access, on: [interview], field: modelTier, values: [standard]}
      - {key: tokens_per_minute, kind: quota, meter: tokens, max: 1000, window: minute}
  - key: team
    currency: USD
    limits:
      - {key: interviews_of_all, kind: quota, meter: interviews, max: 1000, window: day, onError: allow}
      - {key: interviews_of_a_user, kind: quota, meter: interviews, max: 6, window: day, per: [userId], onError: allow}
      - {key: requests_of_a_user, kind: rate, on: [interview], max: 4, window: 1m, per: [userId]}
`

// snapshots are read models that lag as far behind the log as they please.
type snapshots struct {
	log      eventstore.LogReader
	catalogs app.Catalogs
	lag      func() int64
	err      atomic.Pointer[error]
}

// fold reads the partition of a tenant up to an offset that is at most so far behind.
func (s *snapshots) fold(ctx context.Context, t event.TenantID) (events []event.Decoded, at int64, err error) {
	if p := s.err.Load(); p != nil {
		return nil, 0, *p
	}
	partition := eventstore.PartitionOf(string(t), s.log.Partitions())
	head, err := s.log.Head(ctx, partition)
	if err != nil {
		return nil, 0, err
	}
	at = max(head.Offset-s.lag(), 0)
	recorded, err := s.log.ReadLog(ctx, eventstore.Position{Partition: partition}, eventstore.MaxReadLimit)
	if err != nil {
		return nil, 0, err
	}
	events, err = event.DecodeAll(recorded[:min(at, int64(len(recorded)))])
	return events, at, err
}

func (s *snapshots) Account(ctx context.Context, t event.TenantID) (limit.Snapshot, error) {
	events, at, err := s.fold(ctx, t)
	if err != nil {
		return limit.Snapshot{}, err
	}
	change, err := projections.FoldQuota(events, nil)
	if err != nil {
		return limit.Snapshot{}, err
	}
	snapshot := limit.Snapshot{Revision: eventstore.NoStream, At: at}
	for _, a := range change.Accounts {
		if a.Tenant == t {
			snapshot.Revision = a.Revision
			if err := json.Unmarshal(a.State, &snapshot.State); err != nil {
				return snapshot, err
			}
		}
	}
	for _, h := range change.Holds {
		if h.Tenant == t {
			hold, err := projections.DecodeHold(h)
			if err != nil {
				return snapshot, err
			}
			snapshot.Holds = append(snapshot.Holds, hold)
		}
	}
	return snapshot, nil
}

func (s *snapshots) Series(ctx context.Context, t event.TenantID, needs []limit.Need, _, _ time.Time) ([]limit.Loaded, error) {
	events, at, err := s.fold(ctx, t)
	if err != nil {
		return nil, err
	}
	loaded := make([]limit.Loaded, len(needs))
	for i, n := range needs {
		loaded[i] = limit.Loaded{Need: n, At: at, MinutesAt: at}
		for _, e := range events {
			u, ok := e.Payload.(event.UsageRecorded)
			if !ok || u.Tenant != t {
				continue
			}
			c, err := s.catalogs.At(ctx, u.Catalog)
			if err != nil {
				return nil, err
			}
			one := limit.Loaded{Need: n}
			for _, f := range limit.FactsOf(u, c.MetersOf(string(u.Type))) {
				one.AddMinute(f)
			}
			for _, m := range one.Minutes {
				quarter := m
				quarter.Start -= quarter.Start % limit.QuarterSeconds
				loaded[i].Quarters = merge(loaded[i].Quarters, quarter)
				if n.Minutes {
					loaded[i].Minutes = merge(loaded[i].Minutes, m)
				}
			}
		}
	}
	return loaded, nil
}

// merge keeps buckets in order; the tests record in the order of time.
func merge(buckets []limit.Bucket, b limit.Bucket) []limit.Bucket {
	if n := len(buckets); n > 0 && buckets[n-1].Start == b.Start {
		buckets[n-1].Quantity = buckets[n-1].Quantity.Add(b.Quantity)
		return buckets
	}
	return append(buckets, b)
}

func (s *snapshots) Overdue(context.Context, time.Time, int) ([]event.TenantID, error) {
	return nil, nil
}

// slowStore lets others in before and after an append, and now and then loses the call or the answer.
type slowStore struct {
	eventstore.Store
	lose func() apptest.Fault
}

func (s *slowStore) Append(ctx context.Context, batch []eventstore.Append) []eventstore.Result {
	time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
	f := apptest.None
	if s.lose != nil {
		f = s.lose()
	}
	if f == apptest.Before {
		return eventstore.Refuse(len(batch), eventstore.ErrUnavailable)
	}
	results := s.Store.Append(ctx, batch)
	time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
	if f == apptest.After {
		return eventstore.Refuse(len(batch), eventstore.ErrUnavailable)
	}
	return results
}

// gate is a fixture with several replicas of the limit engine on one log.
type gate struct {
	*apptest.Fixture
	clock        atomic.Int64 // milliseconds since noon
	snapshots    *snapshots
	lose         atomic.Pointer[func() apptest.Fault]
	replicas     []*limiter.Engine
	checkTimeout time.Duration // of the replicas to start
}

func newGate(t testing.TB, replicas int, plan catalog.PlanKey) *gate {
	h := apptest.New(t, storetest.New(t, 3, func() time.Time { return noon }))
	h.Apply(limitPlans)
	g := &gate{Fixture: h}
	g.snapshots = &snapshots{log: h.Log, catalogs: app.NewCatalogRevisions(h.Log), lag: func() int64 { return rand.Int64N(60) }}
	for range replicas {
		g.start()
	}
	for _, id := range []event.TenantID{"t1", "t2"} {
		g.assign(id, plan)
	}
	return g
}

func (g *gate) time() time.Time { return noon.Add(time.Duration(g.clock.Load()) * time.Millisecond) }

func (g *gate) start() *limiter.Engine {
	store := &slowStore{Store: g.Log, lose: func() apptest.Fault {
		if f := g.lose.Load(); f != nil {
			return (*f)()
		}
		return apptest.None
	}}
	l := limiter.New(limiter.Config{Writer: uuid.New(), Store: store, Directory: g.Directory, Accounts: g.snapshots, Catalogs: g.snapshots.catalogs, Now: g.time, RecentEvents: 16, SweepEvery: -1,
		CheckTimeout: g.checkTimeout})
	g.T.Cleanup(l.Close)
	g.replicas = append(g.replicas, l)
	return l
}

func (g *gate) assign(id event.TenantID, plan catalog.PlanKey) {
	g.T.Helper()
	_, err := g.Ledger.AssignPlan(ctx, id, app.PlanAssignment{Plan: plan}, "cli")
	require.NoError(g.T, err)
}

// count counts the events of a kind on the log.
func (g *gate) count(kind string) (n int) {
	for _, events := range g.All() {
		for _, e := range events {
			if before, _, _ := strings.Cut(e.Type, ":"); before == kind {
				n++
			}
		}
	}
	return n
}

func ask(source string, typ event.Type, quantity int64) limit.Ask {
	return limit.Ask{Check: event.Check{
		Identity: event.Identity{Tenant: "t1", Type: typ, Source: event.SourceID(source)}, Quantity: money.Int(quantity),
	}}
}

func (g *gate) check(replica int, asks ...limit.Ask) []limiter.Decision {
	g.T.Helper()
	decisions := g.replicas[replica].Check(ctx, asks)
	require.Len(g.T, decisions, len(asks))
	return decisions
}

func (g *gate) one(replica int, a limit.Ask) limiter.Decision {
	g.T.Helper()
	d := g.check(replica, a)[0]
	require.NoError(g.T, d.Err)
	return d
}

func (g *gate) use(s app.Submission) {
	g.T.Helper()
	s.OccurredAt = g.time()
	g.Now = g.time()
	receipts := g.Record(s)
	require.NoError(g.T, receipts[0].Err)
}

// Exactly as many as there is room for are admitted, whatever replica is asked, and although each of them meets the
// tenant for the first time.
func TestReplicasAdmitExactlyTheLimit(t *testing.T) {
	for round := range 5 {
		g := newGate(t, 3, "pro")
		var admitted, denied atomic.Int64
		var wait sync.WaitGroup
		for worker := range 24 {
			wait.Go(func() {
				for i := range 20 {
					d := g.replicas[(worker+i)%3].Check(ctx, []limit.Ask{ask(fmt.Sprintf("s-%d-%d", worker, i), "interview", 1)})[0]
					switch {
					case d.Err != nil:
						t.Error(d.Err)
					case d.Allowed:
						admitted.Add(1)
					default:
						denied.Add(1)
					}
				}
			})
		}
		wait.Wait()
		require.EqualValues(t, 100, admitted.Load(), "round %d", round)
		require.EqualValues(t, 380, denied.Load())
		require.Equal(t, 480, g.count("limit_decided.v1"), "each decision is an event, once")
	}
}

// The same check sent to every replica at once is one decision, and everybody is told the same.
func TestOneCheckEverywhereIsOneDecision(t *testing.T) {
	for range 20 {
		g := newGate(t, 4, "pro")
		decisions := make([]limiter.Decision, 16)
		var wait sync.WaitGroup
		for i := range decisions {
			wait.Go(func() { decisions[i] = g.replicas[i%4].Check(ctx, []limit.Ask{ask("once", "interview", 60)})[0] })
		}
		wait.Wait()
		for _, d := range decisions {
			require.NoError(t, d.Err)
			require.True(t, d.Allowed)
			require.Equal(t, decisions[0].Position, d.Position)
		}
		require.Equal(t, 1, g.count("limit_decided.v1"))
		s, err := g.replicas[0].View(ctx, "t1", event.Data{})
		require.NoError(t, err)
		require.Equal(t, "60", s.Limits[0].Held.String())
		s, err = g.replicas[1].Holds(ctx, "t1")
		require.NoError(t, err)
		require.Len(t, s.Holds, 1)
	}
}

func TestUsageSettlesItsHold(t *testing.T) {
	g := newGate(t, 2, "pro")
	require.True(t, g.one(0, ask("a", "interview", 70)).Allowed)
	refused := g.one(1, ask("b", "interview", 31))
	require.False(t, refused.Allowed)
	require.Equal(t, limit.PlanLimit, limit.Why(&refused.LimitDecided))
	require.Equal(t, "70", refused.Parts[0].Held.String())

	used := interview("a")
	used.Quantity = money.Int(40)
	g.use(used)
	d := g.one(1, ask("b", "interview", 31))
	require.True(t, d.Allowed)
	require.Equal(t, "40", d.Parts[0].Used.String())
	require.Equal(t, "0", d.Parts[0].Held.String())

	// A check that comes late is answered like the first time, and holds nothing.
	for replica := range 2 {
		late := g.one(replica, ask("a", "interview", 70))
		require.True(t, late.Allowed)
		require.True(t, late.Replayed)
		require.False(t, late.Keeps)
	}
	s, err := g.replicas[0].Holds(ctx, "t1")
	require.NoError(t, err)
	require.Len(t, s.Holds, 1)
	require.Equal(t, 3, g.count("limit_decided.v1"))
}

// Each user has exactly what one user may have, whatever replica is asked, and also where nobody has the user in memory.
func TestLimitsOfSingleValues(t *testing.T) {
	g := newGate(t, 2, "team")
	const users = 12
	var (
		admitted [users]atomic.Int64
		using    sync.Mutex
	)
	storm := func(round int, replicas ...*limiter.Engine) {
		var wait sync.WaitGroup
		for worker := range 16 {
			wait.Go(func() {
				for i := range 3 * users {
					user := (worker + i) % users
					a := ask(fmt.Sprintf("%d-%d-%d", round, worker, i), "interview", 1)
					a.Data = event.NewData(map[string]any{"userId": fmt.Sprint("u", user)})
					d := replicas[(worker+i)%len(replicas)].Check(ctx, []limit.Ask{a})[0]
					if d.Err != nil {
						t.Error(d.Err)
					} else if d.Allowed {
						admitted[user].Add(1)
						u := interview(string(a.Source))
						u.Data = a.Data
						using.Lock()
						g.use(u)
						using.Unlock()
					}
				}
			})
		}
		wait.Wait()
	}
	of := func() (all []int64) {
		for i := range admitted {
			all = append(all, admitted[i].Load())
		}
		return all
	}
	storm(0, g.replicas...)
	require.Equal(t, slices.Repeat([]int64{4}, users), of(), "the rate")
	g.clock.Add(61_000)
	storm(1, g.start(), g.start()) // they meet every user for the first time
	require.Equal(t, slices.Repeat([]int64{6}, users), of(), "the quota")

	_, err := g.Ledger.OverrideLimit(ctx, "t1", app.Override{Limit: "interviews_of_a_user", Per: map[string]string{"userId": "u3"}, Max: money.Int(8), Reason: "more"}, "cli")
	require.NoError(t, err)
	g.clock.Add(61_000)
	storm(2, g.replicas...)
	require.Equal(t, []int64{6, 6, 6, 8, 6, 6, 6, 6, 6, 6, 6, 6}, of(), "one user has more")

	missing := g.check(0, ask("nobody", "interview", 1))[0]
	require.ErrorContains(t, missing.Err, "data.userId is missing")
	s, err := g.replicas[1].View(ctx, "t1", event.NewData(map[string]any{"userId": "u3"}))
	require.NoError(t, err)
	require.Len(t, s.Limits, 3)
	require.Equal(t, "8", s.Limits[1].Used.String())
	require.Equal(t, "8", s.Limits[1].Max.String())
	s, err = g.replicas[1].View(ctx, "t1", event.Data{})
	require.NoError(t, err)
	require.Len(t, s.Limits, 1, "of nobody in particular")
}

// What one replica acknowledged, the next one knows: usage and its corrections as well as decisions.
func TestWhatIsAcknowledgedCountsEverywhere(t *testing.T) {
	g := newGate(t, 3, "pro")
	for replica := range 3 {
		g.one(replica, ask("warm", "interview", 1))
	}
	for i := range 30 {
		used := interview(fmt.Sprint("u", i))
		used.Quantity = money.Int(3)
		g.use(used)
		d := g.one(i%3, ask(fmt.Sprint("c", i), "interview", 100))
		require.False(t, d.Allowed)
		require.EqualValues(t, fmt.Sprint(3*(i+1)), d.Parts[0].Used.String())
		if i%2 == 0 {
			_, err := g.Ledger.Adjust(ctx, used.Identity, app.Adjustment{Quantity: money.Int(4), Reason: "more"}, "cli")
			require.NoError(t, err)
			_, err = g.Ledger.Adjust(ctx, used.Identity, app.Adjustment{Quantity: money.Int(3), Reason: "as before"}, "cli")
			require.NoError(t, err)
		}
	}
}

// In one array, too, whoever is answered from a hold is told where its decision stands.
func TestReplaysWithinAnArrayHaveTheirPositions(t *testing.T) {
	g := newGate(t, 1, "pro")
	d := g.check(0, ask("a", "interview", 1), ask("a", "interview", 1), ask("a", "interview", 2), ask("a", "interview", 2), ask("b", "interview", 1))
	require.Equal(t, d[0].Position, d[1].Position)
	require.Equal(t, d[2].Position, d[3].Position)
	decisions, err := g.Log.ReadStream(t.Context(), event.QuotaStream("t1"), 0, 10)
	require.NoError(t, err)
	require.Len(t, decisions, 3)
	for i, r := range decisions {
		require.Equal(t, r.Position, d[2*i].Position)
	}
}

func TestARetriedCheckTakesNothing(t *testing.T) {
	g := newGate(t, 2, "pro")
	first := g.one(0, ask("a", "interview", 70))
	for replica := range 2 {
		again := g.one(replica, ask("a", "interview", 70))
		require.True(t, again.Replayed)
		require.Equal(t, first.Position, again.Position)
		require.Equal(t, first.KeepUntil, again.KeepUntil)
	}
	require.Equal(t, 1, g.count("limit_decided.v1"))
	g.clock.Add(time.Minute.Milliseconds())
	renewed := g.one(1, ask("a", "interview", 70))
	require.True(t, renewed.Replayed)
	require.Greater(t, renewed.Position.Offset, first.Position.Offset)
	require.Equal(t, first.KeepUntil.Add(time.Minute), renewed.KeepUntil)
	require.Equal(t, 2, g.count("limit_decided.v1"))
	s, err := g.replicas[0].Holds(ctx, "t1")
	require.NoError(t, err)
	require.Len(t, s.Holds, 1)
}

func TestReleaseFreesAndOnlyOnce(t *testing.T) {
	g := newGate(t, 2, "pro")
	require.True(t, g.one(0, ask("a", "interview", 70)).Allowed)
	id := ask("a", "interview", 1).Identity
	var released atomic.Int64
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			ok, at, err := g.replicas[i%2].Release(ctx, id, event.Actor(fmt.Sprint("key:", i)))
			if err != nil {
				t.Error(err)
			}
			if ok {
				released.Add(1)
				if at.Offset == 0 {
					t.Error("a release without a position")
				}
			}
		})
	}
	wait.Wait()
	require.EqualValues(t, 1, released.Load())
	require.True(t, g.one(1, ask("b", "interview", 100)).Allowed)
	_, at, err := g.replicas[0].Release(ctx, ask("nobody", "interview", 1).Identity, "cli")
	require.NoError(t, err)
	require.Zero(t, at)
}

// At the very tick at which a hold ends, its usage may just have been recorded by somebody else: then the room that it
// leaves is taken already.
func TestUsageAgainstExpiryAtTheSameTick(t *testing.T) {
	for range 20 {
		g := newGate(t, 2, "pro")
		d := g.one(0, ask("a", "interview", 70))
		g.one(1, ask("x", "call", 1)) // the other replica knows the tenant
		g.clock.Store(d.KeepUntil.Sub(noon).Milliseconds())
		g.Now = g.time()
		var wait sync.WaitGroup
		var other limiter.Decision
		recorded := make(chan struct{})
		wait.Go(func() {
			used := interview("a")
			used.Quantity, used.OccurredAt = money.Int(70), g.time()
			g.Ledger.Record(ctx, []app.Submission{used})
			close(recorded)
		})
		wait.Go(func() {
			<-recorded // acknowledged, but the replica was not told
			other = g.replicas[1].Check(ctx, []limit.Ask{ask("b", "interview", 31)})[0]
		})
		wait.Wait()
		require.NoError(t, other.Err)
		require.False(t, other.Allowed, "70 are used")
		require.Equal(t, "70", other.Parts[0].Used.String())
	}
}

func TestHoldsEndByThemselves(t *testing.T) {
	g := newGate(t, 2, "pro")
	for i := range 3 {
		require.True(t, g.one(i%2, ask(fmt.Sprint("c", i), "call", 1)).Allowed)
	}
	refused := g.one(1, ask("late", "call", 1))
	require.False(t, refused.Allowed)
	reset := refused.Parts[0].ResetAt
	require.Equal(t, noon.Add(time.Minute), reset)
	g.clock.Store(reset.Sub(noon).Milliseconds() - 1)
	require.False(t, g.one(0, ask("late", "call", 1)).Allowed)
	g.clock.Add(1)
	require.True(t, g.one(0, ask("late", "call", 1)).Allowed)

	// Whoever sweeps, each end is on the log once; what is remembered for longer than it holds has not ended yet.
	g.clock.Store(time.Hour.Milliseconds())
	var wait sync.WaitGroup
	for _, l := range g.replicas {
		wait.Go(func() { l.Sweep(ctx) })
	}
	wait.Wait()
	for _, l := range g.replicas {
		l.Sweep(ctx)
	}
	require.Equal(t, 4, g.count("hold_expired.v1"))
	s, err := g.replicas[1].Holds(ctx, "t1")
	require.NoError(t, err)
	require.Empty(t, s.Holds)
}

// Minutes are not in the buckets of the usage read model: they come from the facts themselves.
func TestWindowsByTheMinute(t *testing.T) {
	g := newGate(t, 1, "pro")
	used := tokens(t, "early", `{}`)
	used.Quantity = money.Int(900)
	g.use(used)
	d := g.one(0, ask("a", "tokens", 101))
	require.False(t, d.Allowed)
	require.Equal(t, noon.Add(time.Minute), d.Parts[0].ResetAt)
	g.clock.Store(time.Minute.Milliseconds() - 1)
	require.False(t, g.one(0, ask("a", "tokens", 101)).Allowed)
	g.clock.Add(1)
	require.True(t, g.one(0, ask("a", "tokens", 101)).Allowed)
	g.clock.Add(-1) // a clock that steps back does not bring the window back
	require.True(t, g.one(0, ask("b", "tokens", 101)).Allowed)
	fresh := g.start()
	s, err := fresh.View(ctx, "t1", event.Data{})
	require.NoError(t, err)
	require.Equal(t, "202", s.Limits[1].Held.String())
}

func TestChecksAreValidated(t *testing.T) {
	g := newGate(t, 1, "pro")
	bad := ask("a", "interview", 0)
	unknown := ask("a", "nothing", 1)
	stranger := ask("a", "interview", 1)
	stranger.Tenant = "nobody"
	long := ask("a", "interview", 1)
	long.TTL = 8 * 24 * time.Hour
	fraction := ask("a", "tokens", 1)
	fraction.Data = apptest.Data(t, `{"inputTokens":"many"}`)
	decisions := g.check(0, bad, unknown, stranger, long, fraction, ask("fine", "interview", 1))
	for i, d := range decisions[:5] {
		require.Error(t, d.Err, "%d", i)
	}
	var typeError *app.UnknownEventTypeError
	require.ErrorAs(t, decisions[1].Err, &typeError)
	require.ErrorIs(t, decisions[2].Err, tenant.ErrUnknown)
	require.NoError(t, decisions[5].Err)
	require.True(t, decisions[5].Allowed)
}

// An array is decided in order, each check on its own.
func TestManyChecksInOrder(t *testing.T) {
	g := newGate(t, 1, "pro")
	other := ask("x", "interview", 100)
	other.Tenant = "t2"
	decisions := g.check(0, ask("a", "interview", 60), ask("b", "interview", 60), ask("c", "interview", 40), other, ask("d", "interview", 1), ask("a", "interview", 60))
	var allowed []bool
	for _, d := range decisions {
		require.NoError(t, d.Err)
		allowed = append(allowed, d.Allowed)
	}
	require.Equal(t, []bool{true, false, true, true, false, true}, allowed)
	require.True(t, decisions[5].Replayed)
}

func TestNoPlanNoLimits(t *testing.T) {
	h := apptest.New(t, storetest.New(t, 3, func() time.Time { return noon }))
	h.Apply(limitPlans)
	g := &gate{Fixture: h}
	g.snapshots = &snapshots{log: h.Log, catalogs: app.NewCatalogRevisions(h.Log), lag: func() int64 { return 0 }}
	g.start()
	d := g.one(0, ask("a", "interview", 1_000_000))
	require.True(t, d.Allowed)
	require.Empty(t, d.Parts)
	require.Equal(t, -1, limit.Binding(&d.LimitDecided))
	require.Equal(t, 1, g.count("limit_decided.v1"))
}

// A change of plan or of an override holds for the next check, and what was used stays used.
func TestPlansAndOverridesChangeTheMaximumOnly(t *testing.T) {
	g := newGate(t, 1, "pro")
	require.True(t, g.one(0, ask("a", "interview", 80)).Allowed)
	_, err := g.Ledger.OverrideLimit(ctx, "t1", app.Override{Limit: "interviews_per_day", Max: money.Int(10), Reason: "unpaid"}, "cli")
	require.NoError(t, err)
	d := g.one(0, ask("b", "interview", 1))
	require.False(t, d.Allowed)
	require.True(t, d.Parts[0].Overridden)
	require.Equal(t, "10", d.Parts[0].Max.String())
	require.Equal(t, "80", d.Parts[0].Held.String())
	require.True(t, g.one(0, ask("a", "interview", 80)).Allowed, "what is held is held")
	_, _, err = g.Ledger.RemoveOverride(ctx, "t1", "interviews_per_day", nil, "cli")
	require.NoError(t, err)
	d = g.one(0, ask("b", "interview", 20))
	require.True(t, d.Allowed)
	require.Equal(t, "80", d.Parts[0].Held.String())
	require.Equal(t, "pro@1", d.PlanVersion)
	g.assign("t1", "open")
	d = g.one(0, ask("c", "interview", 1))
	require.False(t, d.Allowed)
	require.Equal(t, "open@1", d.PlanVersion)
	require.Equal(t, "100", d.Parts[0].Held.String())
}

// While the log is away, checks pass when all their limits say so; a limit that needs no memory goes on deciding.
func TestDegraded(t *testing.T) {
	g := newGate(t, 1, "open")
	standard := ask("a", "interview", 1)
	standard.Data = apptest.Data(t, `{"modelTier":"standard"}`)
	premium := ask("b", "interview", 1)
	premium.Data = apptest.Data(t, `{"modelTier":"premium"}`)
	require.True(t, g.one(0, standard).Allowed)
	away := func() apptest.Fault { return apptest.Before }
	g.lose.Store(&away)
	standard.Source = "c"
	d := g.one(0, standard)
	require.True(t, d.Allowed)
	require.True(t, d.Degraded)
	require.Zero(t, d.Position)
	d = g.one(0, premium)
	require.False(t, d.Allowed)
	require.True(t, d.Degraded)
	require.ErrorIs(t, g.check(0, ask("d", "tokens", 1))[0].Err, eventstore.ErrUnavailable)
	require.EqualValues(t, 1, g.replicas[0].Counts().DegradedAllowed.Load())
	require.EqualValues(t, 1, g.replicas[0].Counts().Undecided.Load())
	g.lose.Store(nil)
	d = g.one(0, standard)
	require.False(t, d.Degraded)
	require.Equal(t, "1", d.Parts[0].Held.String(), "nothing was kept in the meantime")
}

// A log that does not answer keeps nobody waiting for longer than the check timeout. What was under way is decided all the
// same, once.
func TestAHangingLog(t *testing.T) {
	g := newGate(t, 1, "open")
	standard := ask("a", "interview", 1)
	standard.Data = apptest.Data(t, `{"modelTier":"standard"}`)
	require.True(t, g.one(0, standard).Allowed)
	answers := make(chan struct{})
	hangs := func() apptest.Fault {
		<-answers
		return apptest.None
	}
	g.lose.Store(&hangs)
	g.checkTimeout = 20 * time.Millisecond
	impatient := g.start()
	t.Cleanup(func() { close(answers) })
	require.Eventually(t, func() bool { return impatient.Check(ctx, []limit.Ask{standard})[0].Replayed }, time.Minute, time.Millisecond, "this needs no append")
	standard.Source = "b"
	d := impatient.Check(ctx, []limit.Ask{standard})[0]
	require.NoError(t, d.Err)
	require.True(t, d.Allowed && d.Degraded)
	require.ErrorIs(t, impatient.Check(ctx, []limit.Ask{ask("c", "tokens", 1)})[0].Err, eventstore.ErrUnavailable)
	let := impatient.Counts().DegradedAllowed.Load()
	gone, leave := context.WithCancel(ctx)
	leave()
	require.ErrorIs(t, impatient.Check(gone, []limit.Ask{standard})[0].Err, context.Canceled, "whoever has left is told nothing")
	require.Equal(t, let, impatient.Counts().DegradedAllowed.Load())

	g.lose.Store(nil)
	answers <- struct{}{} // to the append that hangs
	require.Eventually(t, func() bool {
		d = g.one(0, standard)
		return d.Replayed && !d.Degraded
	}, time.Minute, time.Millisecond)
	require.Equal(t, "1", d.Parts[0].Held.String(), "of the other one")
}

// Whoever waits for one tenant's decision in vain is still told what was decided about the others, allowed or denied.
func TestWhatWasDecidedIsToldThoughAnotherHangs(t *testing.T) {
	g := newGate(t, 1, "open")
	g.checkTimeout = time.Second
	impatient := g.start()
	var asks []limit.Ask
	for _, id := range []event.TenantID{"t1", "t2"} {
		for i := range 30 {
			a := ask(fmt.Sprint(i), "interview", 101) // more than a day's
			a.Tenant, a.Data = id, apptest.Data(t, `{"modelTier":"standard"}`)
			asks = append(asks, a)
		}
	}
	for _, a := range []limit.Ask{asks[0], asks[30]} { // their policies are known
		a.Source = "before"
		require.False(t, impatient.Check(ctx, []limit.Ask{a})[0].Allowed)
	}
	answers, hanging := make(chan struct{}), make(chan struct{})
	first := true
	hangs := func() apptest.Fault {
		if first {
			first = false
			close(hanging)
			<-answers
		}
		return apptest.None
	}
	g.lose.Store(&hangs)
	defer close(answers)
	one := asks[0]
	one.Source = "hangs"
	go impatient.Check(ctx, []limit.Ask{one})
	<-hanging
	for _, d := range impatient.Check(ctx, asks)[30:] {
		require.NoError(t, d.Err)
		require.False(t, d.Degraded, "it was decided")
		require.False(t, d.Allowed)
	}
}

// Few accounts fit into memory; everybody's limits are right all the same.
func TestAccountsLeaveTheMemory(t *testing.T) {
	h := apptest.New(t, storetest.New(t, 3, func() time.Time { return noon }))
	h.Apply(limitPlans)
	g := &gate{Fixture: h}
	g.snapshots = &snapshots{log: h.Log, catalogs: app.NewCatalogRevisions(h.Log), lag: func() int64 { return rand.Int64N(50) }}
	var tenants []event.TenantID
	for i := range 60 {
		id := event.TenantID(fmt.Sprint("tenant-", i))
		_, err := h.Ledger.DefineTenant(ctx, tenant.Tenant{ID: id}, "cli")
		require.NoError(t, err)
		tenants = append(tenants, id)
		g.assign(id, "pro")
	}
	l := limiter.New(limiter.Config{Writer: uuid.New(), Store: &slowStore{Store: g.Log}, Directory: g.Directory, Accounts: g.snapshots, Catalogs: g.snapshots.catalogs, Now: g.time,
		MaxAccounts: 6, SweepEvery: 5 * time.Millisecond, IdleAfter: time.Hour})
	t.Cleanup(l.Close)
	admitted := make([]atomic.Int64, len(tenants))
	var wait sync.WaitGroup
	for worker := range 8 {
		wait.Go(func() {
			for i := range 300 {
				n := rand.IntN(len(tenants))
				a := ask(fmt.Sprintf("s-%d-%d", worker, i), "interview", 30)
				a.Tenant = tenants[n]
				d := l.Check(ctx, []limit.Ask{a})[0]
				if d.Err != nil {
					t.Error(d.Err)
				} else if d.Allowed {
					admitted[n].Add(1)
				}
			}
		})
	}
	wait.Wait()
	require.Eventually(t, func() bool { return l.InMemory() <= 12 }, 5*time.Second, 5*time.Millisecond)
	require.Positive(t, l.Counts().Evictions.Load())
	for i := range admitted {
		require.EqualValues(t, 3, admitted[i].Load(), "%s", tenants[i])
		s, err := l.Holds(ctx, tenants[i])
		require.NoError(t, err)
		require.Len(t, s.Holds, 3)
	}
}

// An event that cannot be read stops those whose it is, and nobody else on the same partition.
func TestABadEventStopsItsTenantOnly(t *testing.T) {
	g := newGate(t, 1, "pro")
	g.snapshots.lag = func() int64 { return 0 }
	neighbour := event.TenantID("")
	for i := 0; neighbour == ""; i++ {
		if id := fmt.Sprint("neighbour-", i); eventstore.PartitionOf(id, 3) == eventstore.PartitionOf("t1", 3) {
			neighbour = event.TenantID(id)
		}
	}
	_, err := g.Ledger.DefineTenant(ctx, tenant.Tenant{ID: neighbour}, "cli")
	require.NoError(t, err)
	g.assign(neighbour, "pro")
	beside := ask("a", "interview", 1)
	beside.Tenant = neighbour
	require.True(t, g.one(0, ask("a", "interview", 1)).Allowed)
	require.True(t, g.one(0, beside).Allowed)
	r := g.Log.Append(ctx, []eventstore.Append{{Stream: "usage-broken", Tenant: "t1", Expected: eventstore.NoStream,
		Events: []eventstore.NewEvent{{ID: uuid.New(), Type: "usage_recorded.v1:interview", Data: []byte{1}}}}})
	require.NoError(t, r[0].Err)
	require.ErrorIs(t, g.check(0, ask("b", "interview", 1))[0].Err, event.ErrMalformed)
	beside.Source = "b"
	require.True(t, g.one(0, beside).Allowed)
	_, err = g.replicas[0].View(ctx, "t1", event.Data{})
	require.ErrorIs(t, err, event.ErrMalformed)
}

// A caller of View that leaves does not meet the actor that answers.
func TestLimitsViewMayBeLeft(t *testing.T) {
	g := newGate(t, 1, "pro")
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			leaving, leave := context.WithTimeout(ctx, time.Duration(rand.IntN(300))*time.Microsecond)
			defer leave()
			s, err := g.replicas[0].View(leaving, "t1", event.Data{})
			if err == nil && len(s.Limits) != 3 {
				t.Error("half an answer")
			}
		})
	}
	wait.Wait()
}

// A tenant whose plan is gone is not a tenant without limits.
func TestALostPlanAdmitsNothing(t *testing.T) {
	g := newGate(t, 1, "pro")
	shown, err := g.Directory.Catalog(ctx)
	require.NoError(t, err)
	shown.Plans = nil
	shown.Revision++
	g.Directory.SetCatalog(shown)
	require.ErrorIs(t, g.check(0, ask("a", "interview", 1))[0].Err, app.ErrNotFound)
}

func TestClosed(t *testing.T) {
	g := newGate(t, 1, "pro")
	g.one(0, ask("a", "interview", 1))
	g.replicas[0].Close()
	require.ErrorIs(t, g.check(0, ask("b", "interview", 1))[0].Err, eventstore.ErrUnavailable)
	_, err := g.replicas[0].View(ctx, "t1", event.Data{})
	require.ErrorIs(t, err, eventstore.ErrUnavailable)
}

// The histories of many clients of three replicas, with lost calls and lost answers, are those of one counter with holds:
// a check of a new source passes exactly if there is room, and a settled hold gives back what was not used.
func TestHistoriesAreLinearizable(t *testing.T) {
	type input struct {
		op       string // check, release
		source   string
		quantity int64
	}
	type output struct{ known, allowed bool }
	const room = 100
	model := porcupine.Model{
		Init: func() any { return map[string]int64{} },
		Step: func(state, in, out any) (bool, any) {
			held, i, o := state.(map[string]int64), in.(input), out.(output)
			next := make(map[string]int64, len(held)+1)
			sum := int64(0)
			for k, v := range held {
				next[k] = v
				sum += v
			}
			own, open := held[i.source]
			if i.op == "release" {
				delete(next, i.source)
				return !o.known || o.allowed == open, next
			}
			fits := open && i.quantity <= own || sum-own+i.quantity <= room
			if fits {
				next[i.source] = i.quantity
			}
			return o.known && o.allowed == fits || !o.known, next
		},
		Equal: func(a, b any) bool { return fmt.Sprint(a) == fmt.Sprint(b) },
	}
	for round := range 8 {
		g := newGate(t, 3, "pro")
		lossy := func() apptest.Fault {
			switch rand.IntN(40) {
			case 0:
				return apptest.Before
			case 1:
				return apptest.After
			}
			return apptest.None
		}
		g.lose.Store(&lossy)
		var (
			mu         sync.Mutex
			operations []porcupine.Operation
			wait       sync.WaitGroup
			unknown    int
		)
		started := time.Now()
		for client := range 6 {
			wait.Go(func() {
				for range 12 {
					in := input{"check", fmt.Sprint("s", rand.IntN(12)), int64(1 + rand.IntN(50))}
					if rand.IntN(4) == 0 {
						in = input{"release", in.source, 0}
					}
					call := time.Since(started).Nanoseconds()
					var out output
					var err error
					if in.op == "check" {
						d := g.replicas[rand.IntN(3)].Check(ctx, []limit.Ask{ask(in.source, "interview", in.quantity)})[0]
						out, err = output{d.Err == nil, d.Allowed}, d.Err
					} else {
						var released bool
						released, _, err = g.replicas[rand.IntN(3)].Release(ctx, ask(in.source, "interview", 1).Identity, event.Actor(fmt.Sprint("key:", client)))
						out = output{err == nil, released}
					}
					back := time.Since(started).Nanoseconds()
					mu.Lock()
					if err != nil {
						if !errors.Is(err, eventstore.ErrUnavailable) {
							t.Error(err)
						}
						unknown++
						// It may take effect at any later time, or never: one that never did is one that came last.
						back = time.Hour.Nanoseconds()
					}
					operations = append(operations, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: call, Return: back})
					mu.Unlock()
				}
			})
		}
		wait.Wait()
		for i := range operations { // a client whose answer was lost is another one from then on
			if operations[i].Return == time.Hour.Nanoseconds() {
				operations[i].ClientId = 100 + i
			}
		}
		result := porcupine.CheckOperationsTimeout(model, operations, 20*time.Second)
		require.Equal(t, porcupine.Ok, result, "round %d with %d unknown outcomes", round, unknown)
	}
}

// A decision that was given without the log counts for its user afterwards.
func TestDegradedDecisionsCountForTheirUser(t *testing.T) {
	g := newGate(t, 1, "team")
	of := func(source, user string) limit.Ask {
		a := ask(source, "interview", 1)
		a.Data = event.NewData(map[string]any{"userId": user})
		return a
	}
	require.True(t, g.one(0, of("before", "u1")).Allowed)
	down := func() apptest.Fault { return apptest.Before }
	g.lose.Store(&down)
	away := eventstore.ErrUnavailable
	g.snapshots.err.Store(&away) // nothing of the user can be loaded either
	require.True(t, g.one(0, of("without", "u2")).Degraded)
	g.snapshots.err.Store(nil)
	g.lose.Store(nil)
	require.Eventually(t, func() bool { return g.replicas[0].Waiting() == 0 && g.count("limit_decided.v1") == 2 }, time.Minute, time.Millisecond)
	s, err := g.replicas[0].View(ctx, "t1", event.NewData(map[string]any{"userId": "u2"}))
	require.NoError(t, err)
	require.Equal(t, "1", s.Limits[1].Held.String())
}

// What was answered without the log goes on it when it is back: once, marked, with the instant at which it was given, holding what
// it asked for until its usage arrives.
func TestDegradedDecisionsGoOnTheLog(t *testing.T) {
	g := newGate(t, 2, "pro")
	standard := ask("before", "interview", 1)
	standard.Data = apptest.Data(t, `{"modelTier":"standard"}`)
	g.assign("t1", "open")
	g.one(0, standard) // the policy is known
	down := func() apptest.Fault { return apptest.Before }
	g.lose.Store(&down)
	given := g.time()
	for _, source := range []string{"a", "b", "a"} {
		standard.Source = event.SourceID(source)
		d := g.one(0, standard)
		require.True(t, d.Allowed && d.Degraded)
	}
	require.Positive(t, g.replicas[0].Waiting())
	used := app.Submission{Usage: event.Usage{Identity: event.Identity{Tenant: "t1", Type: "interview", Source: "b"}, Quantity: money.Int(1), Data: standard.Data}}
	g.use(used) // of b, before its decision is recorded
	g.clock.Add(1000)
	g.lose.Store(nil)
	require.Eventually(t, func() bool { return g.replicas[0].Waiting() == 0 && g.count("limit_decided.v1") == 3 }, time.Minute, time.Millisecond)
	late := map[event.SourceID]event.LimitDecided{}
	for kind, events := range g.All() {
		for _, r := range events {
			if !strings.HasPrefix(kind, "limit_decided") {
				continue
			}
			e, err := event.Decode(r)
			require.NoError(t, err)
			d := e.(event.LimitDecided)
			late[d.Source] = d
		}
	}
	require.Zero(t, late["before"].GivenAt)
	require.Equal(t, given, late["a"].GivenAt)
	require.False(t, late["a"].DecidedAt.Before(given.Add(time.Second)), "the account's clock does not go back")
	require.True(t, late["a"].Allowed && late["a"].Keeps)
	require.True(t, late["b"].Allowed && !late["b"].Keeps, "its usage has arrived")
	s, err := g.replicas[1].View(ctx, "t1", event.Data{})
	require.NoError(t, err)
	require.Equal(t, "2", s.Limits[0].Held.String(), "before and a")
	used.Source = "a"
	g.use(used)
	s, err = g.replicas[1].View(ctx, "t1", event.Data{})
	require.NoError(t, err)
	require.Equal(t, "1", s.Limits[0].Held.String())
	require.Zero(t, g.replicas[0].Counts().LateLost.Load())
}
