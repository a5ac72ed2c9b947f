package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// lockClass is the first key of the advisory locks of this package ("tg").
const lockClass = 0x7467

// Bounds of one transaction. More events add latency and no throughput.
const (
	maxCommitEvents = 2000
	maxCommitBytes  = 8 << 20
)

// lockPartition is a statement of its own: a statement sees what was committed before it began, so the append has to
// begin after the lock is held.
const lockPartition = `select pg_advisory_xact_lock($1, $2)`

// appendEvents decides every event and writes the new ones, in one statement and without a dead row. An element of the
// batch is a run of rows with the same op. For each row it looks up who stands at that revision of that stream (resident),
// by an index probe per row, whatever the size of the log; an element is
//
//	a(ppended)   if all its places are free and the revision before the first one exists,
//	d(uplicate)  if exactly its events stand there already,
//	c(onflict)   otherwise.
//
// Only the holder of the partition's lock runs this, so what it has read cannot change before it commits; the primary
// keys refuse whoever goes without the lock. recorded_at never goes back, also when the clock does.
const appendEvents = appendInput + verdictPerElement + appendPlaced + `left join (select op, max(position) as position, max(now) as now from placed group by op) p using (op)`

// appendSingles is appendEvents for a batch whose elements have one event each, as nearly all have: a row is an element, and
// nothing has to be grouped.
const appendSingles = appendInput + verdictPerRow + appendPlaced + `left join placed p using (op)`

const appendInput = `
with input as materialized (
    select op, stream, revision, event_id, type_id, tenant_id, data, ord, revision > 0 and op is distinct from lag(op) over (order by ord) as follows
    from unnest($3::int[], $4::bytea[], $5::bigint[], $6::uuid[], $7::smallint[], $8::text[], $9::bytea[])
         with ordinality as t(op, stream, revision, event_id, type_id, tenant_id, data, ord)
), seen as materialized (
    select i.op, r.position, r.event_id,
           r.event_id is null and (not i.follows or exists (select from log_streams p where p.stream = i.stream and p.revision = i.revision - 1)) as free,
           coalesce(r.event_id = i.event_id, false) as same
    from input i
    left join lateral (select s.position, s.event_id from log_streams s where s.stream = i.stream and s.revision = i.revision limit 1) r on true
), verdict as materialized (`

const verdictPerElement = `
    select op, case when bool_and(free) then 'a' when bool_and(same) then 'd' else 'c' end as outcome,
           max(position) as position, (array_agg(event_id))[1] as resident
    from seen group by op`

const verdictPerRow = `
    select op, case when free then 'a' when same then 'd' else 'c' end as outcome, position, event_id as resident
    from seen`

const appendPlaced = `
), head as materialized (
    select coalesce(max(h.last_position), $1) as position, greatest(clock_timestamp(), max(h.recorded_at)) as now
    from (select last_position, recorded_at from log_commits where last_position >= $1 and last_position < $2 order by last_position desc limit 1) h
), placed as materialized (
    select i.*, head.position + row_number() over (order by i.ord) as position, head.now
    from input i join verdict v using (op) cross join head where v.outcome = 'a'
), events as (
    insert into log_events (position, recorded_at, revision, type_id, stream, tenant_id, data)
    select position, now, revision, type_id, stream, tenant_id, data from placed
), streams as (
    insert into log_streams (stream, revision, position, event_id)
    select stream, revision, position, event_id from placed
), commits as (
    insert into log_commits (last_position, recorded_at)
    select max(position), max(now) from placed having count(*) > 0
)
select v.op, v.outcome, coalesce(p.position, v.position), v.resident,
       coalesce(p.now, (select c.recorded_at from log_commits c where c.last_position >= v.position order by c.last_position limit 1))
from verdict v `

// call is one Append of a caller: its entries may be spread over several commits.
type call struct {
	pending int64
	done    chan struct{}
}

// finish answers entries of the call; the last one lets the caller go.
func (c *call) finish(entries []*entry, r eventstore.Result) {
	for _, e := range entries {
		e.result = r
	}
	if atomic.AddInt64(&c.pending, -int64(len(entries))) == 0 {
		close(c.done)
	}
}

// entry is one stream's part of a call, on its way through a committer.
type entry struct {
	eventstore.Append
	packed []byte
	call   *call
	result eventstore.Result
	// followers wait for this entry's answer, because they want the same place of the same stream.
	followers []*entry
	resident  uuid.UUID // who stands at the place after the commit
	op        int32     // the entry's number in its commit
}

func (e *entry) bytes() int {
	n := 0
	for i := range e.Events {
		n += len(e.Events[i].Data)
	}
	return n
}

// committer is the one writer of a partition in this process: it collects what is waiting and commits it together. While
// a commit is under way the next one fills up, so that batches are as large as the load, and nothing waits for a timer.
type committer struct {
	log       *Log
	partition int
	limit     int
	retry     time.Duration

	mu      sync.Mutex
	queue   []*entry
	queued  int // events
	closed  bool
	arrived chan struct{}
}

func newCommitter(l *Log, partition int, c LogConfig) *committer {
	return &committer{log: l, partition: partition, limit: c.QueueLimit, retry: c.Retry, arrived: make(chan struct{}, 1)}
}

// enqueue takes all entries or none.
func (c *committer) enqueue(entries []*entry) bool {
	events := 0
	for _, e := range entries {
		events += len(e.Events)
	}
	c.mu.Lock()
	// An empty queue takes any batch, so that the bound can never refuse the same call for ever.
	if c.closed || (c.queued > 0 && c.queued+events > c.limit) {
		c.mu.Unlock()
		return false
	}
	c.queue = append(c.queue, entries...)
	c.queued += events
	c.mu.Unlock()
	select {
	case c.arrived <- struct{}{}:
	default:
	}
	return true
}

// take removes the next commit's entries from the queue, in order. A stream is in a commit once: an entry for the same
// place becomes a follower of the first, anything else for the stream waits for the next commit.
func (c *committer) take() []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var (
		taken         []*entry
		rest          []*entry
		events, bytes int
		leaders       = make(map[eventstore.StreamName]*entry, min(len(c.queue), maxCommitEvents))
		blocked       map[eventstore.StreamName]bool
	)
	for i, e := range c.queue {
		size := e.bytes()
		if len(taken) > 0 && (events+len(e.Events) > maxCommitEvents || bytes+size > maxCommitBytes) {
			rest = append(rest, c.queue[i:]...)
			break
		}
		leader, present := leaders[e.Stream]
		switch {
		case !present:
			leaders[e.Stream] = e
			taken = append(taken, e)
			events, bytes = events+len(e.Events), bytes+size
			c.queued -= len(e.Events)
		case !blocked[e.Stream] && leader.Expected == e.Expected && len(leader.Events) == 1 && len(e.Events) == 1:
			leader.followers = append(leader.followers, e)
			c.queued -= len(e.Events)
		default:
			if blocked == nil {
				blocked = make(map[eventstore.StreamName]bool)
			}
			blocked[e.Stream] = true
			rest = append(rest, e)
		}
	}
	if len(rest) == 0 {
		c.queue = c.queue[:0]
	} else {
		c.queue = rest
	}
	return taken
}

func (c *committer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			c.close()
			return
		case <-c.arrived:
		}
		for {
			batch := c.take()
			if len(batch) == 0 {
				break
			}
			c.commit(ctx, batch)
		}
	}
}

func (c *committer) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	for batch := c.take(); len(batch) > 0; batch = c.take() {
		c.answer(batch, eventstore.Result{Err: fmt.Errorf("%w: the log is closed", eventstore.ErrUnavailable)})
	}
}

// commit writes a batch and answers it. A commit whose outcome is unknown is sent again: the events' ids make that safe.
// A batch that the database refuses for its data is halved until the guilty entry is alone.
func (c *committer) commit(ctx context.Context, batch []*entry) {
	deadline := time.Now().Add(c.retry)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := c.tryCommit(context.WithoutCancel(ctx), batch)
		if err == nil {
			return
		}
		if isDataError(err) {
			if len(batch) == 1 {
				c.answer(batch, eventstore.Result{Err: fmt.Errorf("%w: %w", eventstore.ErrInvalid, err)})
				return
			}
			c.commit(ctx, batch[:len(batch)/2])
			c.commit(ctx, batch[len(batch)/2:])
			return
		}
		if time.Now().Add(wait).After(deadline) || !pause(ctx, wait) {
			c.answer(batch, eventstore.Result{Err: fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)})
			return
		}
	}
}

// answer gives all entries, and who follows them, the same result.
func (c *committer) answer(batch []*entry, r eventstore.Result) {
	for _, e := range batch {
		for _, f := range e.followers {
			f.call.finish([]*entry{f}, r)
		}
		e.call.finish([]*entry{e}, r)
	}
}

// commitTimeout bounds one try: longer than the server's own statement and lock time-outs.
const commitTimeout = 40 * time.Second

func (c *committer) tryCommit(ctx context.Context, batch []*entry) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	args, err := c.arguments(batch)
	if err != nil {
		return err
	}
	head := int64(0)
	b := &pgx.Batch{} // one round trip and one implicit transaction, which commits at its end
	b.Queue(lockPartition, lockClass, c.partition)
	statement := appendSingles
	for _, e := range batch {
		if len(e.Events) > 1 {
			statement = appendEvents
			break
		}
	}
	b.Queue(statement, args...).Query(func(rows pgx.Rows) error {
		head, err = readVerdicts(rows, batch)
		return err
	})
	if err := c.log.pool.SendBatch(ctx, b).Close(); err != nil {
		if sqlState(err) == noPartition {
			return errors.Join(err, c.log.ensureFromHead(ctx, c.partition))
		}
		return err
	}
	for _, e := range batch {
		follow(e)
		e.call.finish([]*entry{e}, e.result)
	}
	if head > 0 {
		before := c.log.heads.get(c.partition)
		c.log.heads.committed(c.partition, head)
		if before/c.log.leafSize != head/c.log.leafSize {
			// The leaf after the next one is made now; should that fail, the commit that needs it makes it.
			_ = c.log.ensureLeaves(ctx, c.partition, head)
		}
	}
	return nil
}

// noPartition is check_violation: the only check that an append can break is that a leaf exists for the position.
const noPartition = "23514"

// follow answers who wanted the same place: the same event is a duplicate of what stands there, another one a conflict.
func follow(e *entry) {
	for _, f := range e.followers {
		r := eventstore.Result{Outcome: eventstore.Conflict}
		if f.Events[0].ID == e.resident {
			r = eventstore.Result{Outcome: eventstore.Duplicate, Position: e.result.Position, RecordedAt: e.result.RecordedAt}
		}
		f.call.finish([]*entry{f}, r)
	}
}

func (c *committer) arguments(batch []*entry) ([]any, error) {
	n := 0
	for _, e := range batch {
		n += len(e.Events)
	}
	var (
		ops       = make([]int32, 0, n)
		streams   = make([][]byte, 0, n)
		revisions = make([]int64, 0, n)
		ids       = make([][16]byte, 0, n)
		types     = make([]int16, 0, n)
		tenants   = make([]string, 0, n)
		data      = make([][]byte, 0, n)
	)
	for i, e := range batch {
		e.op = int32(i) //nolint:gosec // bounded by maxCommitEvents
		for j := range e.Events {
			typeID, ok := c.log.types.id(e.Events[j].Type)
			if !ok {
				return nil, fmt.Errorf("event type %q was not learned", e.Events[j].Type)
			}
			payload := e.Events[j].Data
			if payload == nil {
				payload = []byte{}
			}
			ops = append(ops, e.op)
			streams = append(streams, e.packed)
			// Nobody stands near the largest revision: an absurd expectation is a conflict, not an overflow.
			revisions = append(revisions, min(int64(e.Expected), math.MaxInt64-eventstore.MaxStreamBatch)+1+int64(j))
			ids = append(ids, e.Events[j].ID)
			types = append(types, typeID)
			tenants = append(tenants, e.Tenant)
			data = append(data, payload)
		}
	}
	return []any{base(c.partition), base(c.partition + 1), ops, streams, revisions, ids, types, tenants, data}, nil
}

// readVerdicts puts the results into the entries and returns the partition's new head, 0 if nothing was written. They
// count only once the batch has been closed without an error: that is the commit.
func readVerdicts(rows pgx.Rows, batch []*entry) (head int64, err error) {
	var (
		op       int32
		outcome  string
		position *int64
		resident *uuid.UUID
		at       *time.Time
	)
	answered := 0
	_, err = pgx.ForEachRow(rows, []any{&op, &outcome, &position, &resident, &at}, func() error {
		e := batch[op]
		answered++
		e.result, e.resident = eventstore.Result{}, uuid.Nil
		if resident != nil {
			e.resident = *resident
		}
		if position != nil && at != nil {
			e.result.Position, e.result.RecordedAt = positionOf(*position), at.UTC()
		}
		switch outcome {
		case "a":
			e.result.Outcome = eventstore.Appended
			e.resident = e.Events[0].ID
			head = max(head, e.result.Position.Offset)
		case "d":
			e.result.Outcome = eventstore.Duplicate
		default:
			e.result.Outcome = eventstore.Conflict
		}
		return nil
	})
	if err == nil && answered != len(batch) {
		err = fmt.Errorf("the append answered %d of %d streams", answered, len(batch))
	}
	return head, err
}
