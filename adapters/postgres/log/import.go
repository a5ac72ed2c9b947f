package log

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

var _ eventstore.Copyable = (*Log)(nil)

// selectIDs looks up the events at places, in their order; null where there is none.
const selectIDs = `select s.event_id from unnest($1::bytea[], $2::bigint[]) with ordinality as t (stream, revision, ord)
	left join lateral (select event_id from log_streams s where s.stream = t.stream and s.revision = t.revision limit 1) s on true order by ord`

// places are the arguments of selectIDs.
func places(n int, at func(i int) *eventstore.Recorded) (streams [][]byte, revisions []int64) {
	streams, revisions = make([][]byte, n), make([]int64, n)
	for i := range n {
		e := at(i)
		streams[i], revisions[i] = packStream(e.Stream), int64(e.Revision)
	}
	return streams, revisions
}

// ReadOriginals implements eventstore.Copyable.
func (l *Log) ReadOriginals(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Original, error) {
	events, err := l.ReadLog(ctx, after, limit)
	if err != nil || len(events) == 0 {
		return nil, err
	}
	streams, revisions := places(len(events), func(i int) *eventstore.Recorded { return &events[i] })
	rows, err := l.pool.Query(ctx, selectIDs, streams, revisions)
	if err != nil {
		return nil, pg.Unavailable("read ids", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[*uuid.UUID])
	if err != nil {
		return nil, pg.Unavailable("read ids", err)
	}
	originals := make([]eventstore.Original, len(events))
	for i, e := range events {
		if ids[i] == nil {
			return nil, fmt.Errorf("%w: %s is not in the index of streams", eventstore.ErrHole, e.Position)
		}
		originals[i] = eventstore.Original{Recorded: e, ID: *ids[i]}
	}
	return originals, nil
}

// Import implements eventstore.Copyable. A transaction takes as many events of a partition as a commit does.
func (l *Log) Import(ctx context.Context, events []eventstore.Original) error {
	if err := eventstore.CheckImport(events); err != nil {
		return err
	}
	var newTypes []string
	partitions := make([][]eventstore.Original, l.partitions)
	for i := range events {
		p := eventstore.PartitionOf(events[i].Tenant, l.partitions)
		partitions[p] = append(partitions[p], events[i])
		if _, known := l.types.id(events[i].Type); !known {
			newTypes = append(newTypes, events[i].Type)
		}
	}
	if err := l.types.learn(ctx, newTypes); err != nil {
		return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	for p, rest := range partitions {
		for len(rest) > 0 {
			n, bytes := 0, 0
			for n < len(rest) && n < maxCommitEvents && (n == 0 || bytes+len(rest[n].Data) <= maxCommitBytes) {
				bytes += len(rest[n].Data)
				n++
			}
			if err := l.importCommit(ctx, p, rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
	}
	return nil
}

const (
	insertImported = `insert into log_events (position, recorded_at, revision, type_id, stream, tenant_id, data)
		select * from unnest($1::bigint[], $2::timestamptz[], $3::bigint[], $4::smallint[], $5::bytea[], $6::text[], $7::bytea[])`
	insertImportedStreams = `insert into log_streams (stream, revision, position, event_id)
		select * from unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::uuid[])`
	insertImportedCommits = `insert into log_commits (last_position, recorded_at) select * from unnest($1::bigint[], $2::timestamptz[])`
	selectLastCommit      = `select last_position, recorded_at from log_commits where last_position >= $1 and last_position < $2
		order by last_position desc limit 1`
)

// importCommit writes events of one partition in one transaction.
func (l *Log) importCommit(ctx context.Context, partition int, events []eventstore.Original) error {
	if err := l.ensureFromHead(ctx, partition); err != nil {
		return err
	}
	head := int64(0)
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockPartition, lockClass, partition); err != nil {
			return err
		}
		fresh, err := missing(ctx, tx, events)
		if err != nil || len(fresh) == 0 {
			return err
		}
		last, at := pg.Base(partition), time.Time{}
		if err := tx.QueryRow(ctx, selectLastCommit, pg.Base(partition), pg.Base(partition+1)).Scan(&last, &at); err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		head = last + int64(len(fresh))
		return l.importAfter(ctx, tx, fresh, last, at)
	})
	switch {
	case err == nil && head > 0:
		l.heads.committed(partition, pg.OffsetOf(head))
		return nil
	case err == nil || errors.Is(err, eventstore.ErrNotACopy):
		return err
	case pg.IsDataError(err):
		return fmt.Errorf("%w: %w", eventstore.ErrInvalid, err)
	}
	return pg.Unavailable("import", err)
}

// missing are the events whose places are free, each with the one before it there or among them.
func missing(ctx context.Context, tx pgx.Tx, events []eventstore.Original) ([]*eventstore.Original, error) {
	streams, revisions := places(len(events), func(i int) *eventstore.Recorded { return &events[i].Recorded })
	before := slices.Clone(revisions)
	for i := range before {
		before[i]--
	}
	var there [2][]*uuid.UUID // at the places, and before them
	for i, of := range [][]int64{revisions, before} {
		rows, err := tx.Query(ctx, selectIDs, streams, of)
		if err == nil {
			there[i], err = pgx.CollectRows(rows, pgx.RowTo[*uuid.UUID])
		}
		if err != nil {
			return nil, err
		}
	}
	var fresh []*eventstore.Original
	next := make(map[eventstore.StreamName]eventstore.Revision, len(events)) // after those among them
	for i := range events {
		e := &events[i]
		follows := e.Revision == 0 || there[1][i] != nil || next[e.Stream] == e.Revision
		switch id := there[0][i]; {
		case id != nil && *id == e.ID:
			continue
		case id != nil || !follows || next[e.Stream] > e.Revision:
			return nil, fmt.Errorf("%w: event %d of %s", eventstore.ErrNotACopy, e.Revision, e.Stream)
		}
		next[e.Stream] = e.Revision + 1
		fresh = append(fresh, e)
	}
	return fresh, nil
}

// importAfter writes events after a position and an instant of the log.
func (l *Log) importAfter(ctx context.Context, tx pgx.Tx, events []*eventstore.Original, last int64, at time.Time) error {
	n := len(events)
	var (
		positions, revisions = make([]int64, n), make([]int64, n)
		instants             = make([]time.Time, n)
		types                = make([]int16, n)
		streams, data        = make([][]byte, n), make([][]byte, n)
		tenants              = make([]string, n)
		ids                  = make([][16]byte, n)
		commits              []int64 // ends of runs that were recorded together
		committed            []time.Time
	)
	for i, e := range events {
		if e.RecordedAt.After(at) {
			at = e.RecordedAt
		}
		typeID, ok := l.types.id(e.Type)
		if !ok {
			return fmt.Errorf("event type %q was not learned", e.Type)
		}
		positions[i], revisions[i], instants[i], types[i] = last+int64(i)+1, int64(e.Revision), at, typeID
		streams[i], tenants[i], ids[i], data[i] = packStream(e.Stream), e.Tenant, e.ID, e.Data
		if data[i] == nil {
			data[i] = []byte{}
		}
		if i > 0 && instants[i-1].Equal(at) {
			commits[len(commits)-1] = positions[i]
		} else {
			commits, committed = append(commits, positions[i]), append(committed, at)
		}
	}
	b := &pgx.Batch{}
	b.Queue(insertImported, positions, instants, revisions, types, streams, tenants, data)
	b.Queue(insertImportedStreams, streams, revisions, positions, ids)
	b.Queue(insertImportedCommits, commits, committed)
	return tx.SendBatch(ctx, b).Close()
}
