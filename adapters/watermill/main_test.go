package watermill_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
	"github.com/tollgate-io/tollgate/adapters/postgres"
	pglog "github.com/tollgate-io/tollgate/adapters/postgres/log"
	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/adapters/watermill"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/migrations"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m, migrations.Up)) }

const partitions = 2

// within bounds every wait of a test.
const within = time.Minute

// fixture is a log and its read models in a database of their own.
type fixture struct {
	url  string
	log  *pglog.Log
	pool *pgxpool.Pool
	read *readmodels.Store
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return openFixture(t, pgtest.Database(t))
}

// openFixture is another replica: its own connections to the same database.
func openFixture(t *testing.T, url string) *fixture {
	t.Helper()
	ctx := t.Context()
	logPool, err := postgres.NewLogPool(context.Background(), url, 8)
	require.NoError(t, err)
	log, err := pglog.Open(context.Background(), logPool, url, pglog.Config{Partitions: partitions})
	require.NoError(t, err)
	pool, err := postgres.NewApplyPool(context.Background(), url, 8)
	require.NoError(t, err)
	reads, err := postgres.NewReadPool(context.Background(), url, 8)
	require.NoError(t, err)
	t.Cleanup(func() {
		log.Close()
		logPool.Close()
		pool.Close()
		reads.Close()
	})
	h := &fixture{url: url, log: log, pool: pool, read: readmodels.New(pool, reads, app.NewCatalogRevisions(log))}
	_, err = h.read.Ensure(ctx, partitions)
	require.NoError(t, err)
	return h
}

// run runs the projections until the test ends.
func (h *fixture) run(t *testing.T, c watermill.Config) *watermill.Runner {
	t.Helper()
	if c.Target == nil {
		c.Target = h.read
	}
	if c.Log == nil {
		c.Log = h.log
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	runner, err := watermill.NewRunner(c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return runner
}

// append puts events on the log and returns the last position of each partition.
func (h *fixture) append(t *testing.T, batch ...eventstore.Append) map[int]eventstore.Position {
	t.Helper()
	last := map[int]eventstore.Position{}
	for i, r := range h.log.Append(t.Context(), batch) {
		require.Equal(t, eventstore.Appended, r.Outcome, "append %d: %v", i, r.Err)
		if r.Position.Offset > last[r.Position.Partition].Offset {
			last[r.Position.Partition] = r.Position
		}
	}
	return last
}

func (h *fixture) await(t *testing.T, at map[int]eventstore.Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for _, p := range at {
		require.NoError(t, h.read.Await(ctx, readmodels.Names(), p))
	}
}

const catalogText = `
meters:
  - {key: tokens, eventType: tokens_spent, aggregation: sum, dimensions: [model, feature]}
  - {key: output_tokens, eventType: tokens_spent, value: data.outputTokens, aggregation: sum, dimensions: [model]}
  - {key: calls, eventType: tokens_spent, aggregation: count}
`

func applyCatalog(t testing.TB) eventstore.Append {
	t.Helper()
	c, err := catalog.Parse([]byte(catalogText))
	require.NoError(t, err)
	return event.CatalogApplied{Catalog: c.Canonical(), By: "system"}.Append(eventstore.NoStream)
}

var noon = time.Date(2026, 4, 5, 12, 0, 0, 0, time.UTC)

func fact(tenant string, n int) event.Usage {
	return event.Usage{
		Identity:   event.Identity{Tenant: event.TenantID(tenant), Type: "tokens_spent", Source: event.SourceID(fmt.Sprintf("call_%d", n))},
		Quantity:   money.Int(int64(n%7 + 1)),
		OccurredAt: noon.Add(time.Duration(n) * time.Second),
		Data:       event.NewData(map[string]any{"model": fmt.Sprintf("model-%d", n%3), "outputTokens": n % 11}),
	}
}

func recorded(tenant string, from, to int) []eventstore.Append {
	var batch []eventstore.Append
	for n := from; n < to; n++ {
		batch = append(batch, fact(tenant, n).Append(event.Metadata{Catalog: 0}))
	}
	return batch
}

// malformed is an event that nobody can decode.
func malformed(tenant string) eventstore.Append {
	id := uuid.NewSHA1(uuid.NameSpaceURL, []byte(tenant))
	return eventstore.Append{Stream: eventstore.StreamName("usage-" + id.String()), Tenant: tenant, Expected: eventstore.NoStream,
		Events: []eventstore.NewEvent{{ID: id, Type: "usage_recorded.v1:tokens_spent", Data: []byte{0xff}}}}
}

// tenantIn finds a tenant of a partition.
func tenantIn(partition int) string {
	for i := 0; ; i++ {
		if name := fmt.Sprintf("tenant_%d", i); eventstore.PartitionOf(name, partitions) == partition {
			return name
		}
	}
}
