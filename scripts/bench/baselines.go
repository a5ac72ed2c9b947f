package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
)

const payloadBytes = 300

// committer is the baseline of single events: the simplest code that keeps one payload per request durably and quickly. It checks
// nothing, and has neither tenants nor duplicates.
type committer struct {
	pool    *pgxpool.Pool
	waiting chan pendingRow
	stop    context.CancelFunc
	done    chan struct{}
}

type pendingRow struct {
	id      uuid.UUID
	payload string
	done    chan error
}

const (
	createSingle = `create table if not exists single_rows (id uuid primary key, payload text not null)`
	insertSingle = `insert into single_rows (id, payload) select * from unnest($1::uuid[], $2::text[])`
	// maxGroup is far above what can wait with the connections of these benchmarks.
	maxGroup = 1000
)

func newCommitter(ctx context.Context, url string) (*committer, error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, createSingle); err != nil {
		pool.Close()
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &committer{pool: pool, waiting: make(chan pendingRow, maxGroup), stop: stop, done: make(chan struct{})}
	go c.run(running)
	return c, nil
}

func (c *committer) close() {
	c.stop()
	<-c.done
	c.pool.Close()
}

// run commits everything that waits in one statement, which is a transaction.
func (c *committer) run(ctx context.Context) {
	defer close(c.done)
	var (
		group    []pendingRow
		keys     []uuid.UUID
		payloads []string
	)
	for {
		group, keys, payloads = group[:0], keys[:0], payloads[:0]
		select {
		case <-ctx.Done():
			return
		case row := <-c.waiting:
			group = append(group, row)
		}
		for len(group) < maxGroup && len(c.waiting) > 0 {
			group = append(group, <-c.waiting)
		}
		for _, row := range group {
			keys, payloads = append(keys, row.id), append(payloads, row.payload)
		}
		_, err := c.pool.Exec(ctx, insertSingle, keys, payloads)
		for _, row := range group {
			row.done <- err
		}
	}
}

func (c *committer) handler() http.Handler {
	e := echo.New()
	keep := func(answer string) echo.HandlerFunc {
		return func(ctx echo.Context) error {
			body, err := io.ReadAll(ctx.Request().Body)
			if err != nil {
				return err
			}
			row := pendingRow{id: uuid.New(), payload: string(body[:min(len(body), payloadBytes)]), done: make(chan error, 1)}
			c.waiting <- row
			if err := <-row.done; err != nil {
				return err
			}
			return ctx.JSONBlob(http.StatusOK, []byte(answer))
		}
	}
	e.POST("/v1/events", keep(`{"status":"recorded"}`))
	e.POST("/v1/limits/check", keep(`{"allowed":true}`))
	return e
}

// rawTable is the baseline of batches: the insert alone, without HTTP, JSON or checks, into a table with the same keys as
// the log: the position, and the identity.
type rawTable struct {
	pool     *pgxpool.Pool
	position atomic.Int64
	payloads []string
}

const (
	createRaw = `create table raw_events (position bigint primary key, tenant text not null, event_type text not null, source text not null,
		recorded_at timestamptz not null default clock_timestamp(), payload text not null, unique (tenant, event_type, source))`
	insertRaw = `insert into raw_events (position, tenant, event_type, source, payload)
		select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[])`
)

func (b *bench) rawTable(ctx context.Context) (*rawTable, error) {
	url, err := b.database(ctx, empty)
	if err != nil {
		return nil, err
	}
	pool, err := b.pool(ctx, url, 8)
	if err != nil {
		return nil, err
	}
	t := &rawTable{pool: pool}
	g := newGenerator(0, time.Now())
	for range 1000 {
		text, _ := g.next().appendJSON(nil)
		t.payloads = append(t.payloads, string(text[len(text)-payloadBytes:]))
	}
	_, err = pool.Exec(ctx, createRaw)
	return t, err
}

// insert writes batches with a number of writers.
func (t *rawTable) insert(ctx context.Context, d time.Duration, writers, size int) (measurement, error) {
	return together(ctx, writers, func(ctx context.Context, i int, m *measurement) error {
		if err := t.write(ctx, m, time.Now().Add(d), size); err != nil {
			return fmt.Errorf("insert rows: %w", err)
		}
		return nil
	})
}

func (t *rawTable) write(ctx context.Context, m *measurement, end time.Time, size int) error {
	var (
		positions                       = make([]int64, size)
		tenant, types, source, payloads = make([]string, size), make([]string, size), make([]string, size), make([]string, size)
	)
	for i := range size {
		tenant[i], types[i] = tenantName(i%tenants), "tokens_spent"
	}
	for time.Now().Before(end) {
		last := t.position.Add(int64(size))
		for i := range size {
			positions[i] = last - int64(size) + int64(i)
			source[i] = newID()
			payloads[i] = t.payloads[int(positions[i])%len(t.payloads)]
		}
		started := time.Now()
		if _, err := t.pool.Exec(ctx, insertRaw, positions, tenant, types, source, payloads); err != nil {
			return err
		}
		m.latencies = append(m.latencies, time.Since(started))
		m.events += size
	}
	return nil
}

// typedTable is the baseline of a rebuild: events whose fields are columns of their own types, read in order and not folded.
type typedTable struct{ pool *pgxpool.Pool }

const (
	createTyped = `create table typed_events (position bigint primary key, recorded_at timestamptz not null, tenant text not null,
		event_type smallint not null, source text not null, occurred_at timestamptz not null, quantity bigint not null,
		input_tokens integer not null, output_tokens integer not null, model text not null)`
	fillTyped = `insert into typed_events select i, now(), 'tenant_' || lpad((i % 100)::text, 3, '0'), 1, 'call_' || substr(md5(i::text), 1, 13),
		now() - i * interval '86 ms', i % 2000, i % 1500, i % 500, 'gpt-4.1' from generate_series(1, $1::bigint) i`
	readTyped = `select position, recorded_at, tenant, event_type, source, occurred_at, quantity, input_tokens, output_tokens, model
		from typed_events where position > $1 order by position limit 5000`
)

func (b *bench) typedTable(ctx context.Context, events int64) (*typedTable, error) {
	url, err := b.database(ctx, empty)
	if err != nil {
		return nil, err
	}
	pool, err := b.pool(ctx, url, 1)
	if err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, createTyped); err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, fillTyped, events); err != nil {
		return nil, err
	}
	_, err = pool.Exec(ctx, `vacuum analyze typed_events`)
	return &typedTable{pool}, err
}

// read reads all.
func (t *typedTable) read(ctx context.Context) (measurement, error) {
	started := time.Now()
	m := measurement{}
	for after, more := int64(0), true; more; {
		rows, err := t.pool.Query(ctx, readTyped, after)
		if err != nil {
			return m, err
		}
		var (
			recordedAt, occurredAt time.Time
			tenant, source, model  string
			eventType              int16
			quantity               int64
			input, output          int32
		)
		tag, err := pgx.ForEachRow(rows, []any{&after, &recordedAt, &tenant, &eventType, &source, &occurredAt, &quantity, &input, &output, &model},
			func() error { return nil })
		if err != nil {
			return m, err
		}
		m.events += int(tag.RowsAffected())
		more = tag.RowsAffected() > 0
	}
	m.took = time.Since(started)
	return m, nil
}
