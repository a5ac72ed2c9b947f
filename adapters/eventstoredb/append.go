package eventstoredb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// farRevision: no stream gets near it, and the server's arithmetic ends not far behind.
const farRevision = 1 << 62

// Append implements eventstore.Appender. The server knows no batch of streams: each element is an append of its own, as many
// at a time as Concurrency says. An element waits for those before it that its answer depends on.
func (l *Log) Append(ctx context.Context, batch []eventstore.Append) []eventstore.Result {
	if len(batch) > eventstore.MaxAppends {
		return eventstore.Refuse(len(batch), fmt.Errorf("%w: %d streams in one call", eventstore.ErrTooLarge, len(batch)))
	}
	if err := ctx.Err(); err != nil {
		return eventstore.Refuse(len(batch), fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err))
	}
	// No others waiting takes any batch, so that the bound cannot refuse the same call again and again.
	n := int64(len(batch))
	if before := l.waiting.Add(n) - n; before > 0 && before+n > int64(l.config.QueueLimit) {
		l.waiting.Add(-n)
		return eventstore.Refuse(len(batch), fmt.Errorf("%w: more than %d appends wait", eventstore.ErrOverloaded, l.config.QueueLimit))
	}
	defer l.waiting.Add(-n)
	results := make([]eventstore.Result, len(batch))
	var group sync.WaitGroup
	order := newOrder(batch)
	for i := range batch {
		if err := batch[i].Check(); err != nil {
			results[i].Err = err
			continue
		}
		before, done := order.next(&batch[i])
		// Turns are taken in order, so an element waits only for one that has its turn.
		select {
		case l.turns <- struct{}{}:
		case <-ctx.Done():
			results[i].Err = fmt.Errorf("%w: append to %s: %w", eventstore.ErrUnavailable, batch[i].Stream, ctx.Err())
			close(done)
			continue
		}
		group.Go(func() {
			defer func() {
				<-l.turns
				close(done)
			}()
			for _, d := range before {
				<-d
			}
			results[i] = l.append(ctx, &batch[i])
		})
	}
	group.Wait()
	return results
}

// order says what each element of a batch has to wait for: those before it that write its stream or one that it wants
// absent, and those that want its stream absent and must not see it.
type order struct {
	trivial bool // no stream occurs twice
	streams map[eventstore.StreamName]*touched
}

type touched struct {
	written <-chan struct{}   // by the last element that writes it
	missed  []<-chan struct{} // by elements since then that want it absent
}

func newOrder(batch []eventstore.Append) *order {
	return &order{trivial: len(batch) == 1, streams: make(map[eventstore.StreamName]*touched, len(batch))}
}

func (o *order) next(a *eventstore.Append) (before []<-chan struct{}, done chan struct{}) {
	done = make(chan struct{})
	if o.trivial {
		return nil, done
	}
	of := func(name eventstore.StreamName) *touched {
		t := o.streams[name]
		if t == nil {
			t = &touched{}
			o.streams[name] = t
		}
		return t
	}
	for _, name := range a.Absent {
		if t := of(name); name != a.Stream {
			if t.written != nil {
				before = append(before, t.written)
			}
			t.missed = append(t.missed, done)
		}
	}
	t := of(a.Stream)
	if t.written != nil {
		before = append(before, t.written)
	}
	before = append(before, t.missed...)
	t.written, t.missed = done, nil
	return before, done
}

// append writes one element. An attempt whose outcome is unknown is made again with the same ids and the same expectation,
// which the server recognises.
func (l *Log) append(ctx context.Context, a *eventstore.Append) eventstore.Result {
	if err := ctx.Err(); err != nil {
		return eventstore.Result{Err: fmt.Errorf("%w: append to %s: %w", eventstore.ErrUnavailable, a.Stream, err)}
	}
	id := uuid.New()
	events, err := encode(a, id)
	if err != nil {
		return eventstore.Result{Err: err}
	}
	if len(a.Absent) > 0 {
		present, err := l.present(ctx, a.Absent)
		if err != nil {
			return eventstore.Result{Err: err}
		}
		if len(present) > 0 {
			return l.judge(ctx, a, present)
		}
	}
	seen := l.tail.await(id, len(a.Events))
	defer l.tail.release(id, seen)
	written, err := l.write(ctx, a.Stream, a.Expected, events)
	switch {
	case err == nil:
		if events, ok := l.tail.came(ctx, seen, int64(min(written.CommitPosition, math.MaxInt64))); ok { //nolint:gosec // bounded
			return answer(eventstore.Appended, events)
		}
		return l.readBack(ctx, a, id)
	case codeOf(err) == esdb.ErrorCodeWrongExpectedVersion:
		return eventstore.Result{Outcome: eventstore.Conflict}
	}
	return eventstore.Result{Err: err}
}

// write appends events to a stream directly after a revision. Where something else is there, the error is the client's, with
// ErrorCodeWrongExpectedVersion.
func (l *Log) write(ctx context.Context, stream eventstore.StreamName, after eventstore.Revision, events []esdb.EventData) (*esdb.WriteResult, error) {
	expected := esdb.ExpectedRevision(esdb.NoStream{})
	if after > eventstore.NoStream {
		expected = esdb.Revision(uint64(min(after, farRevision))) //nolint:gosec // not negative
	}
	name := l.prefix + string(stream)
	longer := 2 * l.config.Attempt // than the context, which is what ends an attempt
	written, err := retry(ctx, l, "append to "+string(stream), func(ctx context.Context, db *esdb.Client) (*esdb.WriteResult, error) {
		r, err := db.AppendToStream(ctx, name, esdb.AppendToStreamOptions{ExpectedRevision: expected, Deadline: &longer}, events...)
		if err != nil && strings.Contains(err.Error(), "Maximum Append Size") {
			err = fmt.Errorf("%w: %w", eventstore.ErrTooLarge, err)
		}
		return r, err
	})
	if codeOf(err) == esdb.ErrorCodeStreamDeleted {
		err = fmt.Errorf("%w: stream %s was deleted from the log", eventstore.ErrInvalid, stream)
	}
	return written, err
}

// readBack is for what the subscription did not show. It finds out where an append is and when it was recorded, and whether
// it was this call that wrote it: the server answers a repetition like the first time.
func (l *Log) readBack(ctx context.Context, a *eventstore.Append, id uuid.UUID) eventstore.Result {
	events, err := l.readStream(ctx, a.Stream, uint64(a.Expected+1), len(a.Events)) //nolint:gosec // not negative
	if err == nil && len(events) < len(a.Events) {
		err = fmt.Errorf("%w: %d events of %s were appended and cannot be read", eventstore.ErrUnavailable, len(a.Events), a.Stream)
	}
	if err != nil {
		return eventstore.Result{Err: err}
	}
	there, by, err := l.decodeAll(events)
	switch {
	case err != nil:
		return eventstore.Result{Err: err}
	case by == id:
		return answer(eventstore.Appended, there)
	default:
		return answer(eventstore.Duplicate, there)
	}
}

// answer is that of an append whose events these are.
func answer(o eventstore.Outcome, events []eventstore.Recorded) eventstore.Result {
	r := eventstore.Result{Outcome: o, Offsets: make([]int64, len(events))}
	for i := range events {
		r.Position, r.RecordedAt, r.Offsets[i] = events[i].Position, events[i].RecordedAt, events[i].Position.Offset
	}
	return r
}

// judge answers an append whose guard found streams: what is at its place counts first.
func (l *Log) judge(ctx context.Context, a *eventstore.Append, present []int) eventstore.Result {
	from := max(a.Expected, 0)
	ahead := int(a.Expected-from) + 1 // the event at Expected itself, where there must be one
	there, err := l.readStream(ctx, a.Stream, uint64(min(from, farRevision)), ahead+len(a.Events))
	if err != nil {
		return eventstore.Result{Err: err}
	}
	switch {
	case len(there) == ahead:
		return eventstore.Result{Outcome: eventstore.Present, Present: present}
	case len(there) < ahead+len(a.Events):
		return eventstore.Result{Outcome: eventstore.Conflict}
	}
	for i := range a.Events {
		if there[ahead+i].EventID != a.Events[i].ID {
			return eventstore.Result{Outcome: eventstore.Conflict}
		}
	}
	events, _, err := l.decodeAll(there[ahead:])
	if err != nil {
		return eventstore.Result{Err: err}
	}
	return answer(eventstore.Duplicate, events)
}

// present returns the indexes of the streams that exist.
func (l *Log) present(ctx context.Context, names []eventstore.StreamName) (present []int, err error) {
	exists, errs := make([]bool, len(names)), make([]error, len(names))
	known := make(map[eventstore.StreamName]int, len(names))
	var group sync.WaitGroup
	turns := make(chan struct{}, lookups)
	for i, name := range names {
		if _, again := known[name]; again {
			continue
		}
		known[name] = i
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			events, err := l.readStream(ctx, name, 0, 1)
			exists[i], errs[i] = len(events) > 0, err
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for i, name := range names {
		if exists[known[name]] {
			present = append(present, i)
		}
	}
	return present, nil
}
