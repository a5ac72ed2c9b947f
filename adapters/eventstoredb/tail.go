package eventstoredb

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const (
	// searchWindow is how many events the server looks at in one go to find those of our streams; its default of 32 makes
	// catching up slow.
	searchWindow = 1000
	// checkpointWindows is how many such goes are between two checkpoints.
	checkpointWindows = 10

	keepBytes = 32 << 20 // of events in memory

	// watchEvery is how often a silent subscription is compared with the end of the log.
	watchEvery = time.Second
	// resubscribePause bounds the wait after a subscription that did not get far.
	resubscribePause = time.Second
	// confirmWithin is how long an append waits to be seen by the subscription, before it reads its answer.
	confirmWithin = 100 * time.Millisecond
)

// tail is the one reader of the log's end in this process: a subscription whose events all readers share. It subscribes
// again without end, each time after the last event it has, so that nothing is skipped; what it has already it passes over, so
// that nothing is doubled.
type tail struct {
	log *Log

	mu      sync.Mutex
	after   int64 // everything after this offset and up to head is in events
	head    int64
	events  []eventstore.Recorded
	bytes   int
	changed chan struct{} // closed and replaced when the head moves or trouble begins
	trouble error         // why there is no subscription at the moment
	awaited map[uuid.UUID]*awaited

	heard         atomic.Int64 // messages of subscriptions
	subscriptions atomic.Int64 // that were begun
}

// awaited is an append of this process whose events have not all come by.
type awaited struct {
	events []eventstore.Recorded
	want   int
	upTo   int64         // the server says that they are up to here; 0 as long as it has not answered
	done   chan struct{} // closed when they have, or when it is unclear whether they will
}

func newTail(l *Log, head int64) *tail {
	return &tail{log: l, after: head, head: head, changed: make(chan struct{}), awaited: map[uuid.UUID]*awaited{}}
}

func (t *tail) run(ctx context.Context) {
	wait := 10 * time.Millisecond
	for ctx.Err() == nil {
		before := t.at()
		err := t.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if t.at() > before {
			wait = 10 * time.Millisecond
		}
		t.fails(err)
		eventstore.Pause(ctx, wait)
		wait = min(2*wait, resubscribePause)
	}
}

func (t *tail) at() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.head
}

// follow subscribes after the head and takes what comes until the subscription is dropped.
func (t *tail) follow(ctx context.Context) error {
	ctx, drop := context.WithCancelCause(ctx)
	defer drop(nil)
	subscription, err := t.log.subscribe(ctx, t.at())
	if err != nil {
		return err
	}
	defer func() { _ = subscription.Close() }()
	t.subscriptions.Add(1)
	t.fails(nil)
	var watching sync.WaitGroup
	watching.Go(func() { t.watch(ctx, drop) })
	defer watching.Wait()
	defer drop(nil)
	for {
		e := subscription.Recv()
		t.heard.Add(1)
		switch {
		case e.SubscriptionDropped != nil:
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return fmt.Errorf("the subscription was dropped: %w", e.SubscriptionDropped.Error)
		case e.EventAppeared != nil && e.EventAppeared.Event != nil:
			r, by, err := t.log.decode(e.EventAppeared.Event)
			if err != nil {
				return err
			}
			t.take(r, by)
		}
	}
}

// watch drops a subscription that is silent although the log goes on: a connection may lead nowhere without being closed.
func (t *tail) watch(ctx context.Context, drop context.CancelCauseFunc) {
	for heard := int64(-1); eventstore.Pause(ctx, watchEvery); {
		now := t.heard.Load()
		if now != heard {
			heard = now
			continue
		}
		head, err := t.log.head(ctx)
		if err != nil || head <= t.at() || !eventstore.Pause(ctx, watchEvery) || t.heard.Load() != heard {
			continue
		}
		drop(fmt.Errorf("the subscription is silent at %d, although the log is at %d", t.at(), head))
		return
	}
}

// take appends an event that a call wrote, unless it is there already.
func (t *tail) take(r eventstore.Recorded, by uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.Position.Offset <= t.head {
		return
	}
	if a := t.awaited[by]; a != nil {
		if a.events = append(a.events, r); len(a.events) == a.want {
			t.ends(by, a)
		}
	}
	t.events = append(t.events, r)
	t.bytes += len(r.Data)
	t.head = r.Position.Offset
	for call, a := range t.awaited { // what others wrote before, as a repetition meets it, has come by without being awaited
		if a.upTo > 0 && a.upTo <= t.head {
			t.ends(call, a)
		}
	}
	if len(t.events) > t.log.config.KeepEvents || t.bytes > keepBytes {
		t.forget(max(len(t.events)/2, 1))
	}
	t.signal()
}

// await begins to look out for the events that a call is going to write.
func (t *tail) await(call uuid.UUID, events int) *awaited {
	a := &awaited{want: events, done: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.awaited[call] = a
	if t.trouble != nil {
		t.ends(call, a)
	}
	return a
}

// release ends the wait for a call's events.
func (t *tail) release(call uuid.UUID, a *awaited) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ends(call, a)
}

// ends wakes those who wait: nothing more comes; t.mu is held.
func (t *tail) ends(call uuid.UUID, a *awaited) {
	if t.awaited[call] == a {
		delete(t.awaited, call)
		close(a.done)
	}
}

// came waits for the events of a call, which the server says are up to an offset, and returns them; ok is false where they do
// not come by, as those of a repetition do not.
func (t *tail) came(ctx context.Context, a *awaited, upTo int64) (events []eventstore.Recorded, ok bool) {
	t.mu.Lock()
	a.upTo = upTo
	behind := t.head < upTo
	t.mu.Unlock()
	if behind {
		timeout := time.NewTimer(confirmWithin)
		defer timeout.Stop()
		select {
		case <-a.done:
		case <-timeout.C:
		case <-ctx.Done():
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return a.events, len(a.events) == a.want
}

// forget drops the oldest events; t.mu is held.
func (t *tail) forget(n int) {
	for i := range n {
		t.bytes -= len(t.events[i].Data)
	}
	t.after = t.events[n-1].Position.Offset
	t.events = slices.Clone(t.events[n:]) // so that the memory of the others is free
}

// signal wakes who waits; t.mu is held.
func (t *tail) signal() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *tail) fails(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trouble = err
	if err != nil {
		t.signal()
		for call, a := range t.awaited {
			t.ends(call, a)
		}
	}
}

func (t *tail) state() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.trouble
}

// view is what the tail has after an offset.
type view struct {
	kept    bool // all that is there
	events  []eventstore.Recorded
	head    int64
	trouble error
	changed <-chan struct{} // closed when it is worth looking again
}

// page returns up to limit events after an offset.
func (t *tail) page(after int64, limit int) view {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := view{kept: after >= t.after, head: t.head, trouble: t.trouble, changed: t.changed}
	if v.kept {
		start, exact := slices.BinarySearchFunc(t.events, after, compareOffset)
		if exact {
			start++
		}
		v.events = slices.Clone(t.events[start:min(len(t.events), start+limit)])
	}
	return v
}

func compareOffset(r eventstore.Recorded, offset int64) int {
	return cmp.Compare(r.Position.Offset, offset)
}

// subscribe begins a subscription to our streams after an offset. It lasts as long as the context.
func (l *Log) subscribe(ctx context.Context, after int64) (*esdb.Subscription, error) {
	options := esdb.SubscribeToAllOptions{
		From: esdb.Start{}, MaxSearchWindow: searchWindow, CheckpointInterval: checkpointWindows,
		Filter: &esdb.SubscriptionFilter{Type: esdb.StreamFilterType, Prefixes: []string{l.prefix}},
	}
	if after > 0 {
		options.From = esdb.Position{Commit: uint64(after), Prepare: uint64(after)}
	}
	// The attempt's end ends the subscription as long as nobody has it.
	lasting, end := context.WithCancel(ctx)
	attempt, cancel := context.WithTimeoutCause(ctx, l.config.Attempt, errSilent)
	defer cancel()
	s, err := call(attempt, l.conn, func(_ context.Context, db *esdb.Client) (*esdb.Subscription, error) {
		return db.SubscribeToAll(wantLeader(lasting), options)
	})
	if err != nil {
		end()
		return nil, fmt.Errorf("subscribe after %d: %w", after, explain(err))
	}
	context.AfterFunc(ctx, end)
	return s, nil
}

// Wait implements eventstore.LogReader.
func (l *Log) Wait(ctx context.Context, after eventstore.Position) error {
	if err := checkPosition(after); err != nil {
		return err
	}
	for {
		l.tail.mu.Lock()
		reached, changed := l.tail.head > after.Offset, l.tail.changed
		l.tail.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
