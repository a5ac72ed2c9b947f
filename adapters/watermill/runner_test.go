package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/adapters/watermill"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/domain/usage"
	"github.com/tollgate-io/tollgate/projections"
)

func TestEventsReachEveryReadModel(t *testing.T) {
	h := newFixture(t)
	h.run(t, watermill.Config{})
	h.await(t, h.append(t, applyCatalog(t)))
	acme := tenantIn(1)
	secret := tenant.Secret("a key of a test, long enough")
	hash := secret.Hash()
	h.await(t, h.append(t, event.TenantDefined{Tenant: event.TenantID(acme), Name: "Acme", TimeZone: "Europe/Berlin", Currency: "EUR", By: "system"}.Append(eventstore.NoStream),
		event.KeyCreated{ID: secret.KeyID(), Kind: "tenant", Tenant: event.TenantID(acme), Name: "backend", Hash: hash[:], By: "system"}.Append()))
	batch := recorded(acme, 0, 1000)
	h.await(t, h.append(t, batch...))
	before := fact(acme, 3)
	h.await(t, h.append(t, event.UsageVoided{Usage: before, Metadata: event.Metadata{Catalog: 0}, Reason: "test", By: "system"}.Append(0)))

	report, at, err := h.read.Usage(t.Context(), usage.Query{Tenant: event.TenantID(acme), From: noon, To: noon.Add(time.Hour), Granularity: usage.Hour, Meter: "tokens", GroupBy: []string{"model"}})
	require.NoError(t, err)
	require.EqualValues(t, 1003, at.Offset)
	var want, events int64
	for n := range 1000 {
		if n != 3 {
			want += int64(n%7 + 1)
			events++
		}
	}
	require.Equal(t, strconv.FormatInt(want, 10), report.Total.String())
	require.Len(t, report.Items, 3)
	for _, row := range report.Items {
		events -= row.Events
	}
	require.Zero(t, events)

	positions, next, _, err := h.read.Timeline(t.Context(), timeline.Query{Tenant: event.TenantID(acme), Limit: 10})
	require.NoError(t, err)
	require.Len(t, positions, 10)
	require.NotEmpty(t, next)

	got, _, err := h.read.Tenant(t.Context(), event.TenantID(acme))
	require.NoError(t, err)
	require.Equal(t, "Acme", got.Name)
	key, _, err := h.read.KeyByHash(t.Context(), hash)
	require.NoError(t, err)
	require.Equal(t, secret.KeyID(), key.ID)
	c, _, err := h.read.Catalog(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 0, c.Revision)
	require.NotEmpty(t, c.Meters)
}

// verify holds the read models against the log.
func (h *fixture) verify(t *testing.T) {
	t.Helper()
	_, err := h.read.Verify(t.Context(), h.log, nil, nil)
	require.NoError(t, err)
}

func TestReplicasFailuresAndDuplicates(t *testing.T) {
	h := newFixture(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for replica := range 2 {
		var mu sync.Mutex
		random := rand.New(rand.NewPCG(seed, uint64(replica)))
		roll := func() int {
			mu.Lock()
			defer mu.Unlock()
			return random.IntN(20)
		}
		faults := func(next message.HandlerFunc) message.HandlerFunc {
			return func(m *message.Message) ([]*message.Message, error) {
				switch roll() {
				case 0:
					return nil, errors.New("failure before the commit")
				case 1:
					_, err := next(m)
					return nil, errors.Join(err, errors.New("failure after the commit"))
				case 2:
					_, _ = next(m)
					panic("panic after the commit")
				case 3:
					return middleware.Duplicator(next)(m)
				case 4: // the decoded events get lost on the way, as behind a broker
					copied := m.Copy()
					return next(copied)
				}
				return next(m)
			}
		}
		other := openFixture(t, h.url)
		other.run(t, watermill.Config{Middleware: []message.HandlerMiddleware{faults}})
	}
	h.append(t, applyCatalog(t))
	last := map[int]eventstore.Position{}
	for n := 0; n < 1500; n += 50 {
		for p := range partitions {
			for k, v := range h.append(t, recorded(tenantIn(p), n, n+50)...) {
				last[k] = v
			}
		}
	}
	h.await(t, last)
	h.verify(t)
}

func TestAMalformedEventStopsOnlyItsPartition(t *testing.T) {
	h := newFixture(t)
	logs := &recorder{}
	runner := h.run(t, watermill.Config{Logger: slog.New(logs)})
	h.append(t, applyCatalog(t))
	before := h.append(t, recorded(tenantIn(0), 0, 300)...)
	h.append(t, malformed(tenantIn(0)))
	h.append(t, recorded(tenantIn(0), 300, 310)...)
	h.await(t, h.append(t, recorded(tenantIn(1), 0, 300)...))
	h.await(t, before) // what comes before the bad event is applied
	for _, name := range readmodels.Names() {
		state := halted(t, runner, name, 0)
		require.ErrorIs(t, state.Err, event.ErrMalformed)
		require.Equal(t, before[0].Offset, state.Offset)
	}
	h.await(t, h.append(t, recorded(tenantIn(1), 300, 600)...))
	for _, s := range runner.Health() {
		require.Equal(t, s.Partition == 0, s.State == watermill.Halted, "%+v", s)
	}
	require.Equal(t, len(readmodels.Names()), logs.count("halted"), "each change of state is logged once")
	registry := prometheus.NewRegistry()
	registry.MustRegister(runner)
	text, err := testutil.GatherAndCount(registry, "tollgate_projection_halted")
	require.NoError(t, err)
	require.Equal(t, len(readmodels.Names())*partitions, text)
}

func TestAnEventThatCannotBeFoldedStopsOnlyItsReadModel(t *testing.T) {
	h := newFixture(t)
	runner := h.run(t, watermill.Config{})
	h.append(t, applyCatalog(t))
	before := h.append(t, recorded(tenantIn(0), 0, 300)...)
	h.append(t, fact(tenantIn(0), 300).Append(event.Metadata{Catalog: 42}))
	after := h.append(t, recorded(tenantIn(0), 301, 600)...)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	require.NoError(t, h.read.Await(ctx, []string{projections.TimelineModel, projections.DirectoryModel}, after[0]))
	h.await(t, before)
	state := halted(t, runner, projections.UsageModel, 0)
	require.Equal(t, before[0].Offset, state.Offset, "a range with one bad event is applied up to it")
	// Somebody applies the missing revisions: the projection goes on by itself.
	for revision := range 42 {
		h.append(t, event.CatalogApplied{Catalog: []byte(`{}`), By: event.Actor(fmt.Sprint(revision))}.Append(eventstore.Revision(revision)))
	}
	h.await(t, after)
	h.verify(t)
}

// halted waits until a projection has stopped before a bad event.
func halted(t *testing.T, runner *watermill.Runner, readModel string, partition int) (found watermill.Health) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, s := range runner.Health() {
			if s.ReadModel == readModel && s.Partition == partition && s.State == watermill.Halted {
				found = s
				return true
			}
		}
		return false
	}, within, 10*time.Millisecond)
	return found
}

func TestOutagesAreSurvived(t *testing.T) {
	h := newFixture(t)
	runner := h.run(t, watermill.Config{})
	<-runner.Running()
	h.append(t, applyCatalog(t))
	kill, err := pgxpool.New(context.Background(), h.url)
	require.NoError(t, err)
	t.Cleanup(kill.Close)
	last := map[int]eventstore.Position{}
	for n := range 20 {
		for p := range partitions {
			batch := recorded(tenantIn(p), n*100, n*100+100)
			for i, r := range h.log.Append(t.Context(), batch) {
				for r.Outcome == eventstore.Unknown { // the killed connection was the committer's
					require.ErrorIs(t, r.Err, eventstore.ErrUnavailable)
					r = h.log.Append(t.Context(), batch[i:i+1])[0]
				}
				last[p] = eventstore.Position{Partition: p, Offset: max(last[p].Offset, r.Position.Offset)}
			}
		}
		_, err := kill.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
		require.NoError(t, err)
	}
	h.await(t, last)
	h.verify(t)
}

func TestARebuildIsFollowed(t *testing.T) {
	h := newFixture(t)
	runner := h.run(t, watermill.Config{})
	h.append(t, applyCatalog(t))
	h.await(t, h.append(t, recorded(tenantIn(0), 0, 500)...))
	_, err := h.read.Rebuild(t.Context(), h.log, nil, nil)
	require.NoError(t, err)
	h.await(t, h.append(t, recorded(tenantIn(0), 500, 600)...))
	h.verify(t)
	for _, s := range runner.Health() {
		if s.Partition == 0 {
			require.Equal(t, 2, s.Generation, "%+v", s)
		}
	}
}

func TestSubscriberRefusesOtherTopics(t *testing.T) {
	h := newFixture(t)
	s := watermill.NewSubscriber(h.read, h.log, slog.New(slog.DiscardHandler))
	for _, topic := range []string{"", "usage", "usage/", "usage/x", "usage/-1", "usage/2", "invoices/0"} {
		_, err := s.Subscribe(t.Context(), topic)
		require.Error(t, err, topic)
	}
	messages, err := s.Subscribe(t.Context(), watermill.Topic(projections.UsageModel, 1))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	_, open := <-messages
	require.False(t, open)
	_, err = s.Subscribe(t.Context(), watermill.Topic(projections.UsageModel, 1))
	require.Error(t, err)
	require.NoError(t, s.Close())
}

// recorder keeps what was logged.
type recorder struct {
	mu     sync.Mutex
	states []string
}

func (*recorder) Enabled(context.Context, slog.Level) bool { return true }

func (r *recorder) Handle(_ context.Context, record slog.Record) error {
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == "state" {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.states = append(r.states, a.Value.String())
		}
		return true
	})
	return nil
}

func (r *recorder) WithAttrs([]slog.Attr) slog.Handler { return r }
func (r *recorder) WithGroup(string) slog.Handler      { return r }

func (r *recorder) count(state string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.states {
		if s == state {
			n++
		}
	}
	return n
}
