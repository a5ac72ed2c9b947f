package log

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

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// lockClass is the first key of the advisory locks of this package ("tg").
const lockClass = 0x7467

// Bounds of one transaction. More events add latency and no throughput. A stream that must be absent counts like an event:
// each is a probe of the index.
const (
	maxCommitEvents = 2000
	maxCommitBytes  = 8 << 20
)

// lockPartition is a statement of its own: a statement sees what was committed before it began, so the append has to
// begin after the lock is held.
const lockPartition = `select pg_advisory_xact_lock($1, $2)`

// appendEvents decides every event and writes the new ones, in one statement and without a dead row. An element of the
// batch is a run of rows with the same op. For each row it looks up the event at that revision of that stream (the resident),
// by an index probe per row, whatever the size of the log; an element is
//
//	a(ppended)   if all its places are free and the revision before the first one exists,
//	d(uplicate)  if exactly its events are there already,
//	c(onflict)   otherwise.
//
// Only the holder of the partition's lock runs this, so what it has read cannot change before it commits; the primary
// keys refuse a writer that does not take it. recorded_at never goes back, also when the clock does.
const appendEvents = appendInput + appendVerdict + verdictPerElement + appendPlaced + answerColumns + answerPerElement

const answerPerElement = ` from verdict v left join (select op, max(position) as position, max(now) as now from placed group by op) p using (op)`

// appendSingles is appendEvents for a batch whose elements have one event each, as nearly all have: a row is an element, and
// nothing has to be grouped.
const appendSingles = appendInput + appendVerdict + verdictPerRow + appendPlaced + answerColumns + ` from verdict v left join placed p using (op)`

// appendGuarded is appendEvents for a batch in which elements want streams absent. An element that would be appended is
//
//	p(resent)    if one of those streams has an event at revision 0.
//
// It is a statement of its own, so that appends without guards do not pay for it. What the batch itself writes is not yet
// there: take keeps apart what has to see it.
const appendGuarded = appendInput + appendFound + verdictPerElement + appendGuards + appendPlaced + answerColumns + `, v.present` + answerPerElement

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
), `

const appendVerdict = `verdict as materialized (`

const appendFound = `present as materialized (
    select g.op, array_agg(g.n order by g.n) as present
    from unnest($10::int[], $11::int[], $12::bytea[]) as g(op, n, stream)
    cross join lateral (select from log_streams a where a.stream = g.stream and a.revision = 0 limit 1) r
    group by g.op
), unguarded as materialized (`

const appendGuards = `
), verdict as materialized (
    select u.op, case when u.outcome = 'a' and p.present is not null then 'p' else u.outcome end as outcome, u.position, u.resident, p.present
    from unguarded u left join present p using (op)`

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
`

const answerColumns = `select v.op, v.outcome, coalesce(p.position, v.position), v.resident,
       coalesce(p.now, (select c.recorded_at from log_commits c where c.last_position >= v.position order by c.last_position limit 1))`

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
	absent [][]byte // Absent, packed
	call   *call
	result eventstore.Result
	// followers wait for this entry's answer, because they want the same place of the same stream.
	followers []*entry
	resident  uuid.UUID // the event at the place after the commit
	op        int32     // the entry's number in its commit
}

// size is what bounds count: the events to write, and the streams to look for.
func (e *entry) size() int { return len(e.Events) + len(e.absent) }

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
	queued  int // the sum of the entries' sizes
	closed  bool
	arrived chan struct{}
}

func newCommitter(l *Log, partition int, c Config) *committer {
	return &committer{log: l, partition: partition, limit: c.QueueLimit, retry: c.Retry, arrived: make(chan struct{}, 1)}
}

// enqueue takes all entries or none.
func (c *committer) enqueue(entries []*entry) bool {
	size := 0
	for _, e := range entries {
		size += e.size()
	}
	c.mu.Lock()
	// An empty queue takes any batch, so that the bound cannot refuse the same call again and again.
	if c.closed || (c.queued > 0 && c.queued+size > c.limit) {
		c.mu.Unlock()
		return false
	}
	c.queue = append(c.queue, entries...)
	c.queued += size
	c.mu.Unlock()
	select {
	case c.arrived <- struct{}{}:
	default:
	}
	return true
}

// take removes the next commit's entries from the queue, in order. A stream is in a commit once: an entry for the same
// place becomes a follower of the first, anything else for the stream waits for the next commit. A guarded entry neither
// leads, because it may leave its place free, nor follows, so that every guard is judged by the statement.
//
// A commit is judged by what was there before it. So a guarded entry also waits for what entries before it write, and
// what an entry that waits may write, or wants absent, waits behind it: it must neither see nor be seen by what comes
// later. The first entry of the queue never waits.
func (c *committer) take() []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var (
		taken       []*entry
		rest        []*entry
		size, bytes int
		leaders     = make(map[eventstore.StreamName]*entry, min(len(c.queue), maxCommitEvents))
		blocked     map[eventstore.StreamName]bool
	)
	for i, e := range c.queue {
		payload := e.bytes()
		if len(taken) > 0 && (size+e.size() > maxCommitEvents || bytes+payload > maxCommitBytes) {
			rest = append(rest, c.queue[i:]...)
			break
		}
		leader, present := leaders[e.Stream]
		switch {
		case !present && !blocked[e.Stream] && !e.waits(leaders, blocked):
			leaders[e.Stream] = e
			taken = append(taken, e)
			size, bytes = size+e.size(), bytes+payload
			c.queued -= e.size()
		case present && !blocked[e.Stream] && leader.leads(e):
			leader.followers = append(leader.followers, e)
			c.queued -= e.size()
		default:
			if blocked == nil {
				blocked = make(map[eventstore.StreamName]bool)
			}
			blocked[e.Stream] = true
			for _, name := range e.Absent {
				blocked[name] = true
			}
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

// waits reports whether the entry's guard names a stream that an entry before it may write.
func (e *entry) waits(leaders map[eventstore.StreamName]*entry, blocked map[eventstore.StreamName]bool) bool {
	for _, name := range e.Absent {
		if leaders[name] != nil || blocked[name] {
			return true
		}
	}
	return false
}

// leads reports whether the answer to the entry also answers f.
func (e *entry) leads(f *entry) bool {
	return e.Expected == f.Expected && len(e.Events) == 1 && len(f.Events) == 1 && len(e.Absent) == 0 && len(f.Absent) == 0
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
		if pg.IsDataError(err) {
			if len(batch) == 1 {
				c.answer(batch, eventstore.Result{Err: fmt.Errorf("%w: %w", eventstore.ErrInvalid, err)})
				return
			}
			c.commit(ctx, batch[:len(batch)/2])
			c.commit(ctx, batch[len(batch)/2:])
			return
		}
		if time.Now().Add(wait).After(deadline) || !eventstore.Pause(ctx, wait) {
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
	statement := statementFor(batch)
	guarded := statement == appendGuarded
	if guarded {
		args = append(args, guards(batch)...)
	}
	head := int64(0)
	b := &pgx.Batch{} // one round trip and one implicit transaction, which commits at its end
	b.Queue(lockPartition, lockClass, c.partition)
	b.Queue(statement, args...).Query(func(rows pgx.Rows) error {
		head, err = readVerdicts(rows, batch, guarded)
		return err
	})
	if err := c.log.pool.SendBatch(ctx, b).Close(); err != nil {
		if pg.SQLState(err) == noPartition {
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

// statementFor chooses the cheapest statement that can do all of a batch.
func statementFor(batch []*entry) string {
	statement := appendSingles
	for _, e := range batch {
		if len(e.Absent) > 0 {
			return appendGuarded
		}
		if len(e.Events) > 1 {
			statement = appendEvents
		}
	}
	return statement
}

// noPartition is check_violation: the only check that an append can break is that a leaf exists for the position.
const noPartition = "23514"

// follow answers the entries that wanted the same place: the same event is a duplicate of the one there, another is a conflict.
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
			// No stream gets near the largest revision: an absurd expectation is a conflict, not an overflow.
			revisions = append(revisions, min(int64(e.Expected), math.MaxInt64-eventstore.MaxStreamBatch)+1+int64(j))
			ids = append(ids, e.Events[j].ID)
			types = append(types, typeID)
			tenants = append(tenants, e.Tenant)
			data = append(data, payload)
		}
	}
	return []any{pg.Base(c.partition), pg.Base(c.partition + 1), ops, streams, revisions, ids, types, tenants, data}, nil
}

// guards are the further arguments of appendGuarded: which entry wants which stream absent.
func guards(batch []*entry) []any {
	var (
		ops, numbers []int32
		streams      [][]byte
	)
	for _, e := range batch {
		for n, name := range e.absent {
			ops, numbers, streams = append(ops, e.op), append(numbers, int32(n)), append(streams, name) //nolint:gosec // bounded by MaxStreamBatch
		}
	}
	return []any{ops, numbers, streams}
}

// readVerdicts puts the results into the entries and returns the partition's new head, 0 if nothing was written. They
// count only once the batch has been closed without an error: that is the commit.
func readVerdicts(rows pgx.Rows, batch []*entry, guarded bool) (head int64, err error) {
	var (
		op       int32
		outcome  string
		position *int64
		resident *uuid.UUID
		at       *time.Time
		present  []int
	)
	columns := []any{&op, &outcome, &position, &resident, &at}
	if guarded {
		columns = append(columns, &present)
	}
	answered := 0
	_, err = pgx.ForEachRow(rows, columns, func() error {
		e := batch[op]
		answered++
		e.result, e.resident = eventstore.Result{}, uuid.Nil
		if resident != nil {
			e.resident = *resident
		}
		if position != nil && at != nil {
			e.result.Position, e.result.RecordedAt = pg.PositionOf(*position), at.UTC()
		}
		switch outcome {
		case "a":
			e.result.Outcome = eventstore.Appended
			e.resident = e.Events[0].ID
			head = max(head, e.result.Position.Offset)
		case "d":
			e.result.Outcome = eventstore.Duplicate
		case "p":
			e.result = eventstore.Result{Outcome: eventstore.Present, Present: present}
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
