package eventstoretest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// waiting starts a Wait. When it returns, the call has begun. Whether it already sleeps cannot be observed, so the cases below
// repeat often enough to cover both.
func (e *env) waiting(ctx context.Context, h *handle, after position) <-chan error {
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		close(begun)
		ended <- h.Wait(ctx, after)
	}()
	<-begun
	for range 3 { // some work, so that the other goroutine can proceed
		_, _ = h.Head(ctx, after.Partition)
	}
	return ended
}

// within returns the result of a call, and ends the case unless the call ends within the limit.
func (e *env) within(limit time.Duration, what string, ended <-chan error) error {
	e.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		e.Fatalf("%s: did not return within %s", what, limit)
		return nil
	}
}

func waitAlreadyThere(e *env) {
	h, other := e.open(), e.open()
	all := fill(e, h, 10)
	for _, reader := range []*handle{h, other} {
		for i := range all {
			after := position{}
			if i > 0 {
				after = all[i-1].Position
			}
			err := e.within(e.limits.wake, "wait after "+after.String(), e.waiting(e.ctx, reader, after))
			e.noError("wait for what is already there", err)
		}
	}
}

func waitThisHandle(e *env) {
	h := e.open()
	wakes(e, h, h)
}

func waitOtherHandle(e *env) {
	wakes(e, e.open(), e.open())
}

// wakes checks that appends on one handle end waits on another, in every partition, with several waiters each.
func wakes(e *env, writer, waiter *handle) {
	e.Helper()
	partitions := writer.Partitions()
	for round := range 10 {
		partition := (round * 7) % partitions
		after := e.head(waiter, partition)
		waits := []<-chan error{e.waiting(e.ctx, waiter, after), e.waiting(e.ctx, waiter, after)}
		tenant := tenantOf(partition, partitions)
		r := writer.must(addAs(tenant, usage(round), noStream, event(round)))
		for _, ended := range waits {
			err := e.within(e.limits.wake, fmt.Sprintf("round %d: wait after %s, when %s was appended", round, after, r.Position), ended)
			e.noError("wait", err)
		}
		e.follows(after, e.readFrom(waiter, after))
	}
	// One batch ends the waits of all partitions.
	var waits []<-chan error
	var batch []eventstore.Append
	for p := range min(partitions, 32) {
		waits = append(waits, e.waiting(e.ctx, waiter, e.head(waiter, p)))
		batch = append(batch, addAs(tenantOf(p, partitions), stream("quota-"+strconv.Itoa(p)), noStream, event(p)))
	}
	writer.Append(e.ctx, batch)
	for p, ended := range waits {
		e.noError("wait", e.within(e.limits.wake, "wait in partition "+strconv.Itoa(p), ended))
	}
}

// stillWaits cancels a wait and checks that it had not ended before.
func (e *env) stillWaits(what string, cancel context.CancelFunc, ended <-chan error) {
	e.Helper()
	cancel()
	if err := e.within(e.limits.end, what, ended); !errors.Is(err, context.Canceled) {
		e.Fatalf("%s: wait returned %v, want the context's error", what, err)
	}
}

func waitFurtherAhead(e *env) {
	if e.stores.Lacks.DenseOffsets != "" {
		return // without dense offsets, how far ahead a position is cannot be known
	}
	h := e.open()
	h.must(add("invoice-1", noStream, event(0)))
	after := e.head(h, 0)
	after.Offset += 2
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	ended := e.waiting(ctx, h, after)
	h.must(add("invoice-1", 0, event(1)))
	h.must(add("invoice-1", 1, event(2)))
	e.stillWaits("a wait for the third event, after two", cancel, ended)
	ended = e.waiting(e.ctx, h, after)
	h.must(add("invoice-1", 2, event(3)))
	e.noError("wait for the third event", e.within(e.limits.wake, "wait for the third event", ended))
}

func waitOnlyItsPartition(e *env) {
	h := e.open()
	partitions := h.Partitions()
	if partitions == 1 {
		return
	}
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	ended := e.waiting(ctx, h, position{Partition: 1})
	for p := range min(partitions, 16) {
		if p != 1 {
			h.must(addAs(tenantOf(p, partitions), usage(p), noStream, event(p)))
		}
	}
	e.stillWaits("appends to other partitions", cancel, ended)
	short, stop := context.WithTimeout(e.ctx, 50*time.Millisecond)
	defer stop()
	err := e.within(e.limits.end, "wait", e.waiting(short, h, position{Partition: 1}))
	if !errors.Is(err, context.DeadlineExceeded) {
		e.Fatalf("a wait in an empty partition returned %v, want the context's error", err)
	}
}

func waitNotForRefused(e *env) {
	h := e.open()
	h.must(add("invoice-1", noStream, event(0)))
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	ended := e.waiting(ctx, h, e.head(h, 0))
	e.outcome("repetition", h.one(add("invoice-1", noStream, event(0))), eventstore.Duplicate)
	e.outcome("conflict", h.one(add("invoice-1", noStream, event("x"))), eventstore.Conflict)
	e.present("present", h.one(unless(add("invoice-2", noStream, event("x")), "invoice-1")), 0)
	e.outcome("no events", h.one(add("invoice-1", 0)), eventstore.Unknown)
	e.stillWaits("duplicates, conflicts, present and refused appends", cancel, ended)
}

// Two handles take turns: every turn needs a wake-up from the other side.
func waitPingPong(e *env) {
	handles := []*handle{e.open(), e.open()}
	const turns = 10
	var players sync.WaitGroup
	for side, h := range handles {
		players.Go(func() {
			var after position
			for turn := range turns {
				if turn%2 != side {
					err := e.withinQuiet(h, after)
					if err != nil {
						e.Errorf("turn %d: %v", turn, err)
						return
					}
				} else if r := h.one(add("invoice-game", revision(turn)-1, event(turn))); r.Outcome != eventstore.Appended {
					e.Errorf("turn %d: %s (%v), want Appended", turn, named(r.Outcome), r.Err)
					return
				}
				// One event only: the other side may have answered already.
				events, err := h.ReadLog(e.ctx, after, 1)
				if err != nil || len(events) != 1 {
					e.Errorf("turn %d: %d events after %s, want one (error: %v)", turn, len(events), after, err)
					return
				}
				after = events[0].Position
			}
		})
	}
	players.Wait()
}

// withinQuiet is a wait that must end soon; it may be used outside the goroutine of the case.
func (e *env) withinQuiet(h *handle, after position) error {
	ctx, cancel := context.WithTimeout(e.ctx, 2*e.limits.wake)
	defer cancel()
	if err := h.Wait(ctx, after); err != nil {
		return fmt.Errorf("wait after %s: %w", after, err)
	}
	return nil
}

func contextEndedBefore(e *env) {
	h := e.open()
	first := h.must(add("invoice-1", noStream, event(0)))
	ended, cancel := context.WithCancel(e.ctx)
	cancel()
	batch := []eventstore.Append{
		add("invoice-1", noStream, event(0)), add("invoice-2", noStream, event(1)), add("invoice-3", noStream, event(2), event(3)),
	}
	done := make(chan []result, 1)
	go func() { done <- h.Append(ended, batch) }()
	select {
	case results := <-done:
		for i, r := range results {
			e.unknownIsUnavailable(fmt.Sprintf("element %d", i), r)
		}
	case <-time.After(e.limits.end):
		e.Fatalf("an append with an ended context did not return within %s", e.limits.end)
	}
	for i, r := range h.Append(e.ctx, batch) {
		if r.Outcome != eventstore.Appended && r.Outcome != eventstore.Duplicate {
			e.Fatalf("element %d after an unknown outcome: %s (%v)", i, named(r.Outcome), r.Err)
		}
	}
	e.original("the append before", h.one(batch[0]), first)
	e.streamIs(h, "invoice-2", event(1))
	e.streamIs(h, "invoice-3", event(2), event(3))

	head := e.head(h, 0)
	if err := e.within(e.limits.end, "wait", e.waiting(ended, h, head)); !errors.Is(err, context.Canceled) {
		e.Fatalf("a wait with an ended context returned %v", err)
	}
	// A read may still succeed, but its answer must be right.
	if events, err := h.ReadLog(ended, position{}, 100); err == nil {
		e.same("log, read with an ended context", events, e.readAll(h, 0, 100))
	}
	if events, err := h.ReadStream(ended, "invoice-3", 0, 10); err == nil && len(events) != 2 {
		e.Fatalf("a stream of two events has %d when read with an ended context", len(events))
	}
	if events, err := h.ReadAt(ended, []position{first.Position}); err == nil && len(events) != 1 {
		e.Fatalf("one position has %d events when read with an ended context", len(events))
	}
	if got, err := h.Head(ended, 0); err == nil && got != head {
		e.Fatalf("the head is %s when asked with an ended context, want %s", got, head)
	}
}

// unknownIsUnavailable ends the case if a valid append got an unknown outcome with an error other than an outage.
func (e *env) unknownIsUnavailable(what string, r result) {
	e.Helper()
	if r.Outcome == eventstore.Unknown &&
		!errors.Is(r.Err, eventstore.ErrUnavailable) && !errors.Is(r.Err, eventstore.ErrOverloaded) {
		e.Errorf("%s: %v, want ErrUnavailable or ErrOverloaded", what, r.Err)
	}
}

func contextEndsWait(e *env) {
	h := e.open()
	h.must(add("invoice-1", noStream, event(0)))
	head := e.head(h, 0)
	for range 5 {
		ctx, cancel := context.WithCancel(e.ctx)
		e.stillWaits("wait at the head", cancel, e.waiting(ctx, h, head))
	}
	ctx, cancel := context.WithTimeout(e.ctx, 20*time.Millisecond)
	defer cancel()
	if err := e.within(e.limits.end, "wait with a deadline", e.waiting(ctx, h, head)); !errors.Is(err, context.DeadlineExceeded) {
		e.Fatalf("wait with a deadline: %v, want the context's error", err)
	}
	ended := e.waiting(e.ctx, h, head)
	h.must(add("invoice-1", 0, event(1)))
	e.noError("wait after others were ended", e.within(e.limits.wake, "wait after others were ended", ended))
}

// A caller that gives up does not learn the outcome; sending the same append again returns it, and never writes it twice.
func contextEndsDuringAppend(e *env) {
	handles := []*handle{e.open(), e.open()}
	const workers, rounds = 4, 25
	var group sync.WaitGroup
	answers := make([][][]result, workers)
	batches := make([][][]eventstore.Append, workers)
	for w := range workers {
		group.Go(func() {
			h := handles[w%len(handles)]
			dice := rand.New(rand.NewPCG(uint64(w), 1)) //nolint:gosec // a test's dice
			for round := range rounds {
				var batch []eventstore.Append
				for i := range 4 {
					n := (w*rounds+round)*4 + i
					batch = append(batch, addAs("tenant-"+strconv.Itoa(n%5), usage(n), noStream, event(n), event(n, "second")))
				}
				// From already over to long enough, so that with fast and slow stores the context ends at every point of the call.
				ctx, cancel := context.WithTimeout(e.ctx, time.Duration(dice.IntN(1+round*round*5))*time.Microsecond)
				begun := time.Now()
				results := h.Append(ctx, batch)
				if took := time.Since(begun); took > e.limits.end {
					e.Errorf("an append returned %s after its context had ended", took)
				}
				cancel()
				batches[w], answers[w] = append(batches[w], batch), append(answers[w], results)
			}
		})
	}
	group.Wait()
	h := e.open()
	for w := range workers {
		for round, batch := range batches[w] {
			again := h.Append(e.ctx, batch)
			for i, r := range again {
				what := fmt.Sprintf("writer %d, batch %d, element %d", w, round, i)
				switch before := answers[w][round][i]; before.Outcome {
				case eventstore.Appended:
					e.original(what, r, before)
				case eventstore.Unknown:
					e.unknownIsUnavailable(what, before)
					if r.Outcome != eventstore.Appended && r.Outcome != eventstore.Duplicate {
						e.Fatalf("%s, sent again: %s (%v)", what, named(r.Outcome), r.Err)
					}
				default:
					e.Fatalf("%s: %s, want Appended or Unknown", what, named(before.Outcome))
				}
				e.streamIs(h, batch[i].Stream, batch[i].Events...)
			}
		}
	}
}
