package log_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	pglog "github.com/tollgate-io/tollgate/adapters/postgres/log"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

func fact(n int, payload string) eventstore.Append {
	id := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, n))
	return eventstore.Append{Stream: eventstore.StreamName("usage-" + id.String()), Tenant: "acme", Expected: eventstore.NoStream,
		Events: []eventstore.NewEvent{{ID: uuid.NewSHA1(id, []byte(payload)), Type: "noted", Data: []byte(payload)}}}
}

func facts(from, to int, payload string) []eventstore.Append {
	batch := make([]eventstore.Append, 0, to-from)
	for n := from; n < to; n++ {
		batch = append(batch, fact(n, payload))
	}
	return batch
}

// guarded are facts that want a stream absent each, of a fact from absent on.
func guarded(from, to, absent int) []eventstore.Append {
	batch := facts(from, to, "a")
	for i := range batch {
		batch[i].Absent = []eventstore.StreamName{fact(absent+i, "a").Stream}
	}
	return batch
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// The look-up of identities is an index probe for each row, whatever the planner thinks of a batch: its cost must not grow
// with the log. The same plan is what the log's own connections get, because they force generic plans.
func TestAppendProbesTheIndex(t *testing.T) {
	url := pgtest.Database(t)
	log := openLog(t, url, pglog.Config{Partitions: 1})
	for n := 0; n < 20_000; n += 1000 {
		for _, r := range log.Append(t.Context(), facts(n, n+1000, "a")) {
			require.Equal(t, eventstore.Appended, r.Outcome)
		}
	}
	c := connect(t, url)
	_, err := c.Exec(t.Context(), "analyze log_streams, log_commits")
	require.NoError(t, err)
	for name, value := range pg.LogParameters {
		_, err := c.Exec(t.Context(), "select set_config($1, $2, false)", name, value)
		require.NoError(t, err)
	}
	_, err = c.Exec(t.Context(), "set role tollgate_log")
	require.NoError(t, err)
	for n, statement := range pglog.AppendStatements {
		parameters := "bigint, bigint, int[], bytea[], bigint[], uuid[], smallint[], text[], bytea[]"
		arguments := `0, 281474976710656, '{0}', '{"\\x01"}', '{0}', '{00000000-0000-0000-0000-000000000001}', '{1}', '{acme}', '{"\\x01"}'`
		guarded := strings.Contains(statement, "$10")
		if guarded {
			parameters += ", int[], int[], bytea[]"
			arguments += `, '{0}', '{0}', '{"\\x02"}'`
		}
		_, err := c.Exec(t.Context(), fmt.Sprintf("prepare append_%d (%s) as %s", n, parameters, statement))
		require.NoError(t, err)
		rows, err := c.Query(t.Context(), fmt.Sprintf(`explain (costs off) execute append_%d(%s)`, n, arguments), pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		plan := strings.Join(lines, "\n")
		for _, table := range []string{"log_streams", "log_commits", "log_events"} {
			require.NotContains(t, plan, "Seq Scan on "+table, plan)
			require.NotContains(t, plan, "Bitmap Heap Scan on "+table, plan)
		}
		require.Contains(t, plan, "using log_streams_pkey on log_streams s", plan)
		require.Contains(t, plan, "using log_streams_pkey on log_streams p", plan)
		require.Contains(t, plan, "using log_commits_pkey on log_commits", plan)
		require.Equal(t, guarded, strings.Contains(plan, "using log_streams_pkey on log_streams a"), plan)
		require.NotContains(t, plan, "Merge Join", plan)
		require.NotContains(t, plan, "Join Filter", plan) // a batch is never joined by comparing each row with each
	}
}

// A retry reads and writes nothing: no dead row is left behind, and the head stays.
func TestRetriesLeaveNoDeadRows(t *testing.T) {
	url := pgtest.Database(t)
	log := openLog(t, url, pglog.Config{Partitions: 1})
	log.Append(t.Context(), facts(0, 500, "a"))
	for range 5 {
		for _, r := range log.Append(t.Context(), facts(0, 500, "a")) {
			require.Equal(t, eventstore.Duplicate, r.Outcome)
		}
		for _, r := range log.Append(t.Context(), facts(0, 500, "b")) {
			require.Equal(t, eventstore.Conflict, r.Outcome)
		}
		for _, r := range log.Append(t.Context(), guarded(500, 1000, 0)) {
			require.Equal(t, eventstore.Present, r.Outcome)
		}
	}
	head, err := log.Head(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, int64(500), head.Offset)
	c := connect(t, url)
	for _, table := range []string{"log_streams", "log_commits", "log_events_0_0"} {
		var size, fresh int64
		require.NoError(t, c.QueryRow(t.Context(), "select pg_relation_size($1::regclass)", table).Scan(&size))
		_, err := c.Exec(t.Context(), "create table fresh as select * from "+table)
		require.NoError(t, err)
		require.NoError(t, c.QueryRow(t.Context(), "select pg_relation_size('fresh')").Scan(&fresh))
		_, err = c.Exec(t.Context(), "drop table fresh")
		require.NoError(t, err)
		require.Equal(t, fresh, size, "%s is larger than its live rows", table)
	}
}

// The tables of a partition follow each other while several processes append, also where one append crosses from one
// table into the next.
func TestAppendsCrossLeaves(t *testing.T) {
	url := pgtest.Database(t)
	const processes, each = 3, 3000
	var wg sync.WaitGroup
	for p := range processes {
		log := openLog(t, url, pglog.Config{Partitions: 1, LeafSize: 512})
		wg.Go(func() {
			for n := p * each; n < (p+1)*each; n += 300 {
				for _, r := range log.Append(t.Context(), facts(n, n+300, "a")) {
					if r.Outcome != eventstore.Appended {
						t.Errorf("outcome %d: %v", r.Outcome, r.Err)
					}
				}
			}
		})
	}
	wg.Wait()
	log := openLog(t, url, pglog.Config{})
	all, err := log.ReadLog(t.Context(), eventstore.Position{}, eventstore.MaxReadLimit) // checks density
	require.NoError(t, err)
	require.Len(t, all, processes*each)
}

// The primary key refuses a writer that does not take the lock, so it cannot make a reader skip; those who take it go on.
func TestThePrimaryKeyRefusesAWriterWithoutTheLock(t *testing.T) {
	url := pgtest.Database(t)
	log := openLog(t, url, pglog.Config{Partitions: 1})
	require.Equal(t, eventstore.Appended, log.Append(t.Context(), facts(0, 1, "a"))[0].Outcome)
	c := connect(t, url)
	tx, err := c.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `insert into log_events (position, recorded_at, revision, type_id, stream, tenant_id, data)
		values (2, now(), 0, 1, '\x00ff', 'acme', '')`)
	require.NoError(t, err)
	appended := make(chan eventstore.Result, 1)
	go func() { appended <- log.Append(t.Context(), facts(1, 2, "a"))[0] }()
	require.Eventually(t, func() bool { // the append waits for the intruder to end
		var waiting bool
		err := tx.QueryRow(t.Context(), `select exists (select from pg_locks where not granted)`).Scan(&waiting)
		return err == nil && waiting
	}, waitTime, pollTime)
	require.NoError(t, tx.Rollback(t.Context()))
	r := <-appended
	require.Equal(t, eventstore.Appended, r.Outcome, r.Err)
	require.Equal(t, int64(2), r.Position.Offset)
}

func TestTheLogIsAppendOnly(t *testing.T) {
	url := pgtest.Database(t)
	log := openLog(t, url, pglog.Config{Partitions: 1})
	log.Append(t.Context(), facts(0, 1, "a"))
	c := connect(t, url)
	for _, statement := range []string{
		"update log_events set data = ''", "delete from log_events", "update log_events_0_0 set data = ''", "truncate log_events_0_0",
		"delete from log_streams", "truncate log_streams", "update log_commits set last_position = 7", "truncate log_commits",
	} {
		_, err := c.Exec(t.Context(), statement)
		require.ErrorContains(t, err, "append-only", statement)
	}
}

// Connections that die in the middle of commits cost nothing: every append ends as recorded or duplicate, and the log has
// each fact once.
func TestAppendsSurviveDyingConnections(t *testing.T) {
	url := pgtest.Database(t)
	const writers, each = 8, 100
	log := openLog(t, url, pglog.Config{Partitions: 2})
	admin, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(admin.Close)
	stop, killed := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		next := time.NewTicker(40 * time.Millisecond)
		defer next.Stop()
		for {
			select {
			case <-stop:
				killed <- n
				return
			case <-next.C:
			}
			tag, err := admin.Exec(context.Background(), `select pg_terminate_backend(pid) from pg_stat_activity
				where datname = current_database() and application_name = 'tollgate log' and state = 'active' and pid <> pg_backend_pid()`)
			if err == nil {
				n += int(tag.RowsAffected())
			}
		}
	}()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				a := fact(w*each+n, "a")
				a.Tenant = fmt.Sprint("tenant", w)
				if n%2 == 0 { // what its guard names begins next
					a.Absent = []eventstore.StreamName{fact(w*each+n+1, "a").Stream}
				}
				for r := log.Append(t.Context(), []eventstore.Append{a})[0]; ; r = log.Append(t.Context(), []eventstore.Append{a})[0] {
					if r.Outcome == eventstore.Appended || r.Outcome == eventstore.Duplicate {
						break
					}
					if r.Outcome == eventstore.Conflict || r.Outcome == eventstore.Present {
						t.Errorf("a retry has outcome %d", r.Outcome)
						break
					}
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	t.Logf("%d connections were ended", <-killed)
	seen := map[eventstore.StreamName]bool{}
	for p := range log.Partitions() {
		events, err := log.ReadLog(t.Context(), eventstore.Position{Partition: p}, eventstore.MaxReadLimit)
		require.NoError(t, err)
		for _, e := range events {
			require.False(t, seen[e.Stream], "%s is there twice", e.Stream)
			seen[e.Stream] = true
		}
	}
	require.Len(t, seen, writers*each)
}
