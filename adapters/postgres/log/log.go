// Package log is the event store on PostgreSQL.
package log

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Config says how a log is opened.
type Config struct {
	// Partitions and LeafSize (positions per table of events) count only when the log is created; later the log says.
	Partitions int
	LeafSize   int64
	// QueueLimit bounds the events that wait for a commit, per partition, and what their guards name; more is refused as
	// overloaded.
	QueueLimit int
	// Retry is how long a commit with an unknown outcome is tried again before its callers are told.
	Retry time.Duration
}

// The defaults; benchmarks in scripts/bench justify them.
const (
	DefaultPartitions = 1
	defaultLeafSize   = 1 << 24
	defaultQueueLimit = 50_000
	defaultRetry      = 5 * time.Second
)

// Log is the event store on PostgreSQL.
type Log struct {
	pool       *pgxpool.Pool
	owner      *pgx.ConnConfig // see ensureLeaves
	partitions int
	leafSize   int64
	types      *dictionary
	heads      *heads
	committers []*committer
	stop       context.CancelFunc
	running    sync.WaitGroup
}

var _ eventstore.Store = (*Log)(nil)

var ownerParameters = map[string]string{
	"application_name":  "tollgate log tables",
	"lock_timeout":      "5s",
	"statement_timeout": "30s",
}

// Open opens the log in a migrated database, creating it with the first call ever. Close it before its pool, which is one
// of NewLogPool. The url is that of the user who migrated: the owner of the log is connected to only to make the next table
// of events, every so many million events, and serves nobody.
func Open(ctx context.Context, pool *pgxpool.Pool, url string, c Config) (*Log, error) {
	c.Partitions = cmp.Or(c.Partitions, DefaultPartitions)
	c.LeafSize = cmp.Or(c.LeafSize, defaultLeafSize)
	c.QueueLimit = cmp.Or(c.QueueLimit, defaultQueueLimit)
	c.Retry = cmp.Or(c.Retry, defaultRetry)
	owner, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parse database URL: %w", err)
	}
	maps.Copy(owner.RuntimeParams, ownerParameters)
	l := &Log{pool: pool, owner: owner, types: newDictionary(pool)}
	_, err = pool.Exec(ctx, `insert into log_settings (partitions, leaf_size) values ($1, $2) on conflict do nothing`, c.Partitions, c.LeafSize)
	if err != nil {
		return nil, fmt.Errorf("create the log: %w", err)
	}
	if err := pool.QueryRow(ctx, `select partitions, leaf_size from log_settings`).Scan(&l.partitions, &l.leafSize); err != nil {
		return nil, fmt.Errorf("read the log's settings: %w", err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	l.heads = newHeads(pool, l.partitions)
	if err := l.heads.refresh(ctx); err != nil {
		stop()
		return nil, err
	}
	for p := range l.partitions {
		if err := l.ensureLeaves(ctx, p, l.heads.get(p)); err != nil {
			stop()
			return nil, err
		}
		l.committers = append(l.committers, newCommitter(l, p, c))
	}
	for _, c := range l.committers {
		l.running.Go(func() { c.run(running) })
	}
	l.running.Go(func() { l.heads.follow(running) })
	l.running.Go(func() { l.heads.announce(running) })
	return l, nil
}

// Close waits for the commits in flight; what still waits in the queues is answered ErrUnavailable.
func (l *Log) Close() {
	l.stop()
	l.running.Wait()
}

// Partitions implements eventstore.LogReader.
func (l *Log) Partitions() int { return l.partitions }

// DenseOffsets implements eventstore.LogReader.
func (l *Log) DenseOffsets() bool { return true }

// Append implements eventstore.Appender: the batch is spread over the partitions' committers.
func (l *Log) Append(ctx context.Context, batch []eventstore.Append) []eventstore.Result {
	if len(batch) > eventstore.MaxAppends {
		return eventstore.Refuse(len(batch), fmt.Errorf("%w: %d streams in one call", eventstore.ErrTooLarge, len(batch)))
	}
	results := make([]eventstore.Result, len(batch))
	if err := ctx.Err(); err != nil {
		return eventstore.Refuse(len(batch), fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err))
	}
	call := &call{done: make(chan struct{})}
	var newTypes []string
	perPartition := make([][]*entry, l.partitions)
	entries := make([]entry, len(batch))
	for i := range batch {
		a := &batch[i]
		if err := a.Check(); err != nil {
			results[i].Err = err
			continue
		}
		p := eventstore.PartitionOf(a.Tenant, l.partitions)
		entries[i] = entry{Append: *a, packed: packStream(a.Stream), call: call}
		for _, name := range a.Absent {
			entries[i].absent = append(entries[i].absent, packStream(name))
		}
		perPartition[p] = append(perPartition[p], &entries[i])
		call.pending++
		for j := range a.Events {
			if _, known := l.types.id(a.Events[j].Type); !known {
				newTypes = append(newTypes, a.Events[j].Type)
			}
		}
	}
	if call.pending == 0 {
		return results
	}
	if err := l.types.learn(ctx, newTypes); err != nil {
		return eventstore.Refuse(len(batch), fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err))
	}
	expected := call.pending
	for p, es := range perPartition {
		if len(es) > 0 && !l.committers[p].enqueue(es) {
			call.finish(es, eventstore.Result{Err: fmt.Errorf("%w: more than %d events wait for a commit", eventstore.ErrOverloaded, l.committers[p].limit)})
		}
	}
	select {
	case <-call.done:
	case <-ctx.Done():
		// The entries stay queued, and may still be written: nobody may touch their results any more.
		return eventstore.Refuse(len(batch), fmt.Errorf("%w: %w after %d appends were queued", eventstore.ErrUnavailable, ctx.Err(), expected))
	}
	for i := range entries {
		if entries[i].call != nil {
			results[i] = entries[i].result
		}
	}
	return results
}

// Head implements eventstore.LogReader.
func (l *Log) Head(ctx context.Context, partition int) (eventstore.Position, error) {
	if partition < 0 || partition >= l.partitions {
		return eventstore.Position{}, fmt.Errorf("%w: no partition %d", eventstore.ErrInvalid, partition)
	}
	var position *int64
	err := l.pool.QueryRow(ctx, selectHead, pg.Base(partition), pg.Base(partition+1)).Scan(&position)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return eventstore.Position{}, pg.Unavailable("read the head of the log", err)
	}
	if position == nil {
		return eventstore.Position{Partition: partition}, nil
	}
	l.heads.advance(partition, pg.OffsetOf(*position))
	return pg.PositionOf(*position), nil
}

const selectHead = `select last_position from log_commits where last_position >= $1 and last_position < $2 order by last_position desc limit 1`

const eventColumns = `position, recorded_at, revision, type_id, stream, tenant_id, data`

const selectRange = `select ` + eventColumns + ` from log_events where position > $1 and position <= $2 order by position`

// ReadLog implements eventstore.LogReader. The head is read first: whatever it promises must be among the rows.
func (l *Log) ReadLog(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Recorded, error) {
	if limit > eventstore.MaxReadLimit {
		return nil, fmt.Errorf("%w: %d events in one read", eventstore.ErrTooLarge, limit)
	}
	if after.Partition < 0 || after.Partition >= l.partitions || after.Offset < 0 || limit < 1 {
		return nil, fmt.Errorf("%w: read %d events after %s", eventstore.ErrInvalid, limit, after)
	}
	var head int64
	var recorded []eventstore.Recorded
	b := &pgx.Batch{}
	b.Queue(selectHead, pg.Base(after.Partition), pg.Base(after.Partition+1)).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			if err := rows.Scan(&head); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	b.Queue(selectRange, pg.Pack(after), pg.Pack(after)+int64(limit)).Query(func(rows pgx.Rows) (err error) {
		recorded, err = l.collect(ctx, rows, int(min(max(pg.OffsetOf(head)-after.Offset, 1), int64(limit))))
		return err
	})
	if err := l.pool.SendBatch(ctx, b).Close(); err != nil {
		return nil, pg.Unavailable("read the log after "+after.String(), err)
	}
	for i := range recorded {
		if recorded[i].Position.Offset != after.Offset+int64(i)+1 {
			return nil, fmt.Errorf("%w: %s follows offset %d", eventstore.ErrHole, recorded[i].Position, after.Offset+int64(i))
		}
	}
	if promised := pg.OffsetOf(head) - after.Offset; int64(len(recorded)) < min(promised, int64(limit)) {
		return nil, fmt.Errorf("%w: %d events after %s, but the head is at offset %d", eventstore.ErrHole, len(recorded), after, pg.OffsetOf(head))
	}
	return recorded, nil
}

// ReadAt implements eventstore.LogReader.
func (l *Log) ReadAt(ctx context.Context, at []eventstore.Position) ([]eventstore.Recorded, error) {
	if len(at) > eventstore.MaxReadLimit {
		return nil, fmt.Errorf("%w: %d positions in one read", eventstore.ErrTooLarge, len(at))
	}
	wanted := make([]int64, len(at))
	for i, p := range at {
		wanted[i] = pg.Pack(p)
	}
	rows, err := l.pool.Query(ctx, `select `+eventColumns+` from log_events where position = any($1)`, wanted)
	if err != nil {
		return nil, pg.Unavailable("read positions", err)
	}
	found, err := l.collect(ctx, rows, len(at))
	if err != nil {
		return nil, pg.Unavailable("read positions", err)
	}
	byPosition := make(map[eventstore.Position]int, len(found))
	for i := range found {
		byPosition[found[i].Position] = i
	}
	ordered := make([]eventstore.Recorded, len(at))
	for i, p := range at {
		n, ok := byPosition[p]
		if !ok {
			return nil, fmt.Errorf("%w: nothing at %s", eventstore.ErrHole, p)
		}
		ordered[i] = found[n]
	}
	return ordered, nil
}

// ReadStream implements eventstore.StreamReader.
func (l *Log) ReadStream(ctx context.Context, stream eventstore.StreamName, from eventstore.Revision, limit int) ([]eventstore.Recorded, error) {
	if limit > eventstore.MaxReadLimit {
		return nil, fmt.Errorf("%w: %d events in one read", eventstore.ErrTooLarge, limit)
	}
	if limit < 1 {
		return nil, fmt.Errorf("%w: read %d events", eventstore.ErrInvalid, limit)
	}
	rows, err := l.pool.Query(ctx, `select position from log_streams where stream = $1 and revision >= $2 order by revision limit $3`,
		packStream(stream), max(from, 0), limit)
	if err != nil {
		return nil, pg.Unavailable("read stream "+string(stream), err)
	}
	packed, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, pg.Unavailable("read stream "+string(stream), err)
	}
	if len(packed) == 0 {
		return nil, nil
	}
	positions := make([]eventstore.Position, len(packed))
	for i, p := range packed {
		positions[i] = pg.PositionOf(p)
	}
	return l.ReadAt(ctx, positions)
}

// Wait implements eventstore.LogReader.
func (l *Log) Wait(ctx context.Context, after eventstore.Position) error {
	return l.heads.wait(ctx, after.Partition, after.Offset)
}

// ensureLeaves creates the tables for what can follow the offset, and one more, so that an append never waits for DDL in
// practice.
func (l *Log) ensureLeaves(ctx context.Context, partition int, offset int64) error {
	for n := offset / l.leafSize; n <= (offset+maxCommitEvents)/l.leafSize+1; n++ {
		name := fmt.Sprintf("log_events_%d_%d", partition, n)
		var exists bool
		err := l.pool.QueryRow(ctx, leafExists, name).Scan(&exists)
		if err == nil && !exists {
			err = l.createLeaf(ctx, name, pg.Base(partition)+n*l.leafSize, pg.Base(partition)+(n+1)*l.leafSize)
		}
		if err != nil {
			return fmt.Errorf("create table %s: %w", name, err)
		}
	}
	return nil
}

const leafExists = `select to_regclass($1) is not null`

// createLeaf takes the log's owner. A table is created apart and then attached: that does not lock out readers and writers of
// the others. Who goes through the parent is subject to its policies; nobody else gets in.
func (l *Log) createLeaf(ctx context.Context, name string, from, to int64) error {
	owner, err := pgx.ConnectConfig(ctx, l.owner)
	if err != nil {
		return fmt.Errorf("connect as the owner of the log: %w", err)
	}
	defer func() { _ = owner.Close(context.WithoutCancel(ctx)) }()
	return pgx.BeginFunc(ctx, owner, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1, -1)`, lockClass); err != nil {
			return err
		}
		var exists bool
		if err := tx.QueryRow(ctx, leafExists, name).Scan(&exists); err != nil || exists {
			return err
		}
		for _, statement := range []string{
			fmt.Sprintf(`create table %s (like log_events including all, check (position >= %d and position < %d))`, name, from, to),
			`alter table ` + name + ` enable row level security, force row level security`,
			fmt.Sprintf(`alter table log_events attach partition %s for values from (%d) to (%d)`, name, from, to),
			`create trigger append_only before update or delete or truncate on ` + name + ` for each statement execute function log_is_append_only()`,
		} {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
}

// ensureFromHead creates what is missing when another process has moved the head far ahead of what this one has seen.
func (l *Log) ensureFromHead(ctx context.Context, partition int) error {
	head, err := l.Head(ctx, partition)
	if err != nil {
		return err
	}
	return l.ensureLeaves(ctx, partition, head.Offset)
}
