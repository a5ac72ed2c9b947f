package readmodels_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
	"github.com/tollgate-io/tollgate/adapters/postgres"
	pglog "github.com/tollgate-io/tollgate/adapters/postgres/log"
	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/migrations"
	"github.com/tollgate-io/tollgate/projections"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m, migrations.Up)) }

const testPartitions = 2

// openLog opens the log with its own connections and committers, as another process would.
func openLog(t testing.TB, url string, c pglog.Config) *pglog.Log {
	t.Helper()
	pool, err := postgres.NewLogPool(context.Background(), url, 8)
	require.NoError(t, err)
	log, err := pglog.Open(context.Background(), pool, url, c)
	require.NoError(t, err)
	t.Cleanup(func() {
		log.Close()
		pool.Close()
	})
	return log
}

// ledger is a log and its read models in a database of their own.
type ledger struct {
	testing.TB
	url   string
	log   *pglog.Log
	pool  *pgxpool.Pool // of the superuser, for what no adapter does
	apply *pgxpool.Pool
	*readmodels.Store
}

func newLedger(t testing.TB) *ledger {
	t.Helper()
	return openLedger(t, pgtest.Database(t))
}

// openLedger is one more replica: other connections to the same database.
func openLedger(t testing.TB, url string) *ledger {
	t.Helper()
	log := openLog(t, url, pglog.Config{Partitions: testPartitions})
	apply, err := postgres.NewApplyPool(context.Background(), url, 8)
	require.NoError(t, err)
	t.Cleanup(apply.Close)
	reads, err := postgres.NewReadPool(context.Background(), url, 8)
	require.NoError(t, err)
	t.Cleanup(reads.Close)
	pool, err := pgxpool.New(context.Background(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	l := &ledger{TB: t, url: url, log: log, pool: pool, apply: apply, Store: readmodels.New(apply, reads, app.NewCatalogRevisions(log))}
	outdated, err := l.Ensure(context.Background(), testPartitions)
	require.NoError(t, err)
	require.Empty(t, outdated)
	return l
}

// append puts new events on the log.
func (l *ledger) append(batch ...eventstore.Append) {
	l.Helper()
	for from := 0; from < len(batch); from += eventstore.MaxAppends {
		part := batch[from:min(from+eventstore.MaxAppends, len(batch))]
		for i, r := range l.log.Append(context.Background(), part) {
			require.Equal(l, eventstore.Appended, r.Outcome, "append %d: %v", i, r.Err)
		}
	}
}

// step applies the next range of a read model and reports whether there was one. It returns the error of a stale range.
func (l *ledger) step(ctx context.Context, readModel string, partition, limit int) (more bool, err error) {
	generation, offset, err := l.Checkpoint(ctx, readModel, partition)
	if err != nil {
		return false, err
	}
	recorded, err := l.log.ReadLog(ctx, eventstore.Position{Partition: partition, Offset: offset}, limit)
	if err != nil || len(recorded) == 0 {
		return false, err
	}
	events, err := event.DecodeAll(recorded)
	if err != nil {
		return false, err
	}
	r := projections.Range{ReadModel: readModel, Generation: generation, Partition: partition, After: offset, To: offset + int64(len(events))}
	return true, l.Apply(ctx, r, events)
}

// project brings all read models to the head of the log.
func (l *ledger) project() {
	l.Helper()
	for _, name := range readmodels.Names() {
		for p := range testPartitions {
			for more := true; more; {
				var err error
				more, err = l.step(context.Background(), name, p, 5000)
				if !errors.Is(err, projections.ErrStale) {
					require.NoError(l, err)
				}
			}
		}
	}
}

// exec runs a statement that no adapter would.
func (l *ledger) exec(statement string, arguments ...any) {
	l.Helper()
	_, err := l.pool.Exec(context.Background(), statement, arguments...)
	require.NoError(l, err)
}

func (l *ledger) number(query string, arguments ...any) (n int64) {
	l.Helper()
	require.NoError(l, l.pool.QueryRow(context.Background(), query, arguments...).Scan(&n))
	return n
}

const testCatalog = `
meters:
  - {key: tokens, eventType: tokens_spent, aggregation: sum, dimensions: [provider, model, feature, promptVersion]}
  - {key: output_tokens, eventType: tokens_spent, value: data.outputTokens, aggregation: sum, dimensions: [model]}
  - {key: interviews, eventType: ai_interview_completed, aggregation: count}
`

func applyTestCatalog(t testing.TB) eventstore.Append {
	t.Helper()
	c, err := catalog.Parse([]byte(testCatalog))
	require.NoError(t, err)
	return event.CatalogApplied{Catalog: c.Canonical(), By: "cli"}.Append(eventstore.NoStream)
}

var noon = time.Date(2026, 4, 5, 12, 0, 0, 0, time.UTC)

var counted = event.Metadata{Catalog: 0}

// tokens is the n-th fact of a tenant.
func tokens(tenant event.TenantID, n int) event.Usage {
	return event.Usage{
		Identity:   event.Identity{Tenant: tenant, Type: "tokens_spent", Source: event.SourceID(fmt.Sprintf("call_%d", n))},
		Quantity:   money.Int(int64(n%1000 + 1)),
		OccurredAt: noon.Add(time.Duration(n) * 100 * time.Millisecond),
		Data: event.NewData(map[string]any{
			"userId": "u1", "feature": [...]string{"interview", "search"}[n%2], "provider": "openai", "model": [...]string{"gpt-4.1", "gpt-4.1-mini", "o3"}[n%3],
			"promptVersion": "v7", "inputTokens": 812, "outputTokens": n%300 + 1, "cachedInputTokens": 0, "latencyMs": 930, "cacheHit": false,
			"safety": "passed", "status": "ok", "attempt": 1,
		}),
	}
}

func recordTokens(tenant event.TenantID, from, to int) (batch []eventstore.Append) {
	for n := from; n < to; n++ {
		batch = append(batch, tokens(tenant, n).Append(counted))
	}
	return batch
}

// tenantOf finds a tenant of a partition.
func tenantOf(partition int) event.TenantID {
	for i := 0; ; i++ {
		if name := fmt.Sprintf("tenant_%d", i); eventstore.PartitionOf(name, testPartitions) == partition {
			return event.TenantID(name)
		}
	}
}
