package eventstoretest

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Many writers on several handles report the same identities with different payloads, in different orders and batches.
// Each identity is taken once; writers with the same payload get Duplicate, the others Conflict.
func concurrentIdentities(e *env) {
	handles := []*handle{e.open(), e.open(), e.open()}
	const writers, identities, payloads, batchSize = 6, 48, 3, 7
	type answer struct {
		payload int
		result  result
	}
	var mu sync.Mutex
	answers := map[int][]answer{}
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			h := handles[w%len(handles)]
			dice := rand.New(rand.NewPCG(uint64(w), 2)) //nolint:gosec // a test's dice
			order := dice.Perm(identities)
			for len(order) > 0 {
				some := order[:min(batchSize, len(order))]
				order = order[len(some):]
				var batch []eventstore.Append
				for _, n := range some {
					batch = append(batch, addAs("tenant-"+strconv.Itoa(n%5), usage(n), noStream,
						event(n, w%payloads), event(n, "second")))
				}
				results := h.Append(e.ctx, batch)
				mu.Lock()
				for i, n := range some {
					answers[n] = append(answers[n], answer{w % payloads, results[i]})
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	for n := range identities {
		winner := -1
		for i, a := range answers[n] {
			if a.result.Outcome == eventstore.Appended {
				if winner >= 0 {
					e.Fatalf("identity %d was appended twice", n)
				}
				winner = i
			}
		}
		if winner < 0 {
			e.Fatalf("identity %d was never appended: %v", n, answers[n])
		}
		won := answers[n][winner]
		for i, a := range answers[n] {
			what := fmt.Sprintf("identity %d, answer %d", n, i)
			switch {
			case i == winner:
			case a.payload == won.payload:
				e.original(what, a.result, won.result)
			default:
				e.outcome(what, a.result, eventstore.Conflict)
			}
		}
		e.streamIs(handles[0], usage(n), event(n, won.payload), event(n, "second"))
	}
}

// The same batch arrives several times at once, as when a caller retries a request that is still running.
func concurrentSameBatch(e *env) {
	handles := []*handle{e.open(), e.open(), e.open()}
	for round := range 8 {
		var batch []eventstore.Append
		for i := range 20 {
			n := round*20 + i
			batch = append(batch, addAs("tenant-"+strconv.Itoa(i%4), usage(n), noStream, event(n)))
		}
		answers := make([][]result, 6)
		var group sync.WaitGroup
		for w := range answers {
			group.Go(func() { answers[w] = handles[w%len(handles)].Append(e.ctx, batch) })
		}
		group.Wait()
		for i := range batch {
			winner := -1
			for w, results := range answers {
				if results[i].Outcome != eventstore.Appended {
					continue
				}
				if winner >= 0 {
					e.Fatalf("round %d: element %d was appended twice", round, i)
				}
				winner = w
			}
			if winner < 0 {
				e.Fatalf("round %d: element %d was never appended", round, i)
			}
			for w, results := range answers {
				if w != winner {
					e.original(fmt.Sprintf("round %d, element %d, sender %d", round, i, w), results[i], answers[winner][i])
				}
			}
			e.streamIs(handles[round%len(handles)], batch[i].Stream, batch[i].Events...)
		}
	}
}

// Optimistic concurrency: of all appends after the same revision, exactly one wins.
func concurrentOneStream(e *env) {
	handles := []*handle{e.open(), e.open(), e.open()}
	const writers, each = 6, 12
	var mu sync.Mutex
	won := map[revision]string{}
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			h := handles[w%len(handles)]
			head := noStream
			for i := 0; i < each; {
				name := fmt.Sprintf("%d/%d", w, i)
				r := h.one(addAs("acme", "quota-acme", head, event(name)))
				switch r.Outcome {
				case eventstore.Appended:
					mu.Lock()
					if other, taken := won[head+1]; taken {
						e.Errorf("revision %d was given to %s and to %s", head+1, other, name)
					}
					won[head+1] = name
					mu.Unlock()
					head++
					i++
				case eventstore.Conflict:
					events, err := h.ReadStream(e.ctx, "quota-acme", head+1, 1000)
					if err != nil || len(events) == 0 {
						e.Errorf("a conflict at revision %d, but %d events after it (error: %v)", head, len(events), err)
						return
					}
					head += revision(len(events))
				default:
					e.Errorf("append %s: %s (%v)", name, named(r.Outcome), r.Err)
					return
				}
			}
		})
	}
	group.Wait()
	if e.Failed() {
		return
	}
	if len(won) != writers*each {
		e.Fatalf("%d revisions were won, want %d", len(won), writers*each)
	}
	var want []eventstore.NewEvent
	for at := range revision(writers * each) {
		want = append(want, event(won[at]))
	}
	e.streamIs(handles[0], "quota-acme", want...)
}

// Batches that touch all partitions and the same streams in opposite orders must neither deadlock nor disturb each other.
func concurrentCrossingBatches(e *env) {
	handles := []*handle{e.open(), e.open(), e.open()}
	partitions := handles[0].Partitions()
	width := min(partitions, 16)
	const writers, rounds = 5, 12
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			h := handles[w%len(handles)]
			for round := range rounds {
				var batch []eventstore.Append
				for i := range width {
					p := (i + w*width/writers) % width
					if w%2 == 1 {
						p = width - 1 - p
					}
					tenant := tenantOf(p, partitions)
					// One stream of its own, which must succeed, and one that all writers compete for.
					batch = append(batch,
						addAs(tenant, stream(fmt.Sprintf("own-%d-%d", w, p)), revision(round)-1, event("own", w, p, round)),
						addAs(tenant, stream(fmt.Sprintf("common-%d-%d", p, round)), noStream, event("common", w, p, round)))
				}
				for i, r := range h.Append(e.ctx, batch) {
					own := i%2 == 0
					if r.Outcome != eventstore.Appended && (own || r.Outcome != eventstore.Conflict) {
						e.Errorf("writer %d, round %d, %s: %s (%v)", w, round, batch[i].Stream, named(r.Outcome), r.Err)
						return
					}
				}
			}
		})
	}
	group.Wait()
	for p := range width {
		for round := range rounds {
			got, err := handles[0].ReadStream(e.ctx, stream(fmt.Sprintf("common-%d-%d", p, round)), 0, 10)
			e.noError("read stream", err)
			if len(got) != 1 {
				e.Fatalf("a stream that all writers competed for has %d events, want 1", len(got))
			}
		}
	}
}

// A follower that always reads after its last position sees each event once, in order, while others write. It uses only Wait
// and ReadLog.
func concurrentFollower(e *env) {
	writers := []*handle{e.open(), e.open()}
	reader := e.open()
	partitions := reader.Partitions()
	followed := min(partitions, 16)
	seen := make([][]recorded, followed)
	var followers, group sync.WaitGroup
	for p := range followed {
		followers.Go(func() { seen[p] = follow(e, reader, p, 1+p%3*5) })
	}
	for w := range 4 {
		group.Go(func() {
			h := writers[w%len(writers)]
			dice := rand.New(rand.NewPCG(uint64(w), 3)) //nolint:gosec // a test's dice
			for round := range 40 {
				var batch []eventstore.Append
				for i := range 1 + dice.IntN(10) {
					n := (w*40+round)*10 + i
					a := addAs(tenantOf(dice.IntN(followed), partitions), usage(n), noStream, event(n))
					for j := range dice.IntN(3) {
						a.Events = append(a.Events, event(n, j))
					}
					batch = append(batch, a)
				}
				for i, r := range h.Append(e.ctx, batch) {
					if r.Outcome != eventstore.Appended {
						e.Errorf("writer %d, batch %d, element %d: %s (%v)", w, round, i, named(r.Outcome), r.Err)
					}
				}
			}
		})
	}
	group.Wait()
	// The last event of each partition tells its follower to stop.
	for p := range followed {
		last := addAs(tenantOf(p, partitions), stream("last-"+strconv.Itoa(p)), noStream, event("last", p))
		if r := writers[0].one(last); r.Outcome != eventstore.Appended {
			e.Errorf("last event of partition %d: %s (%v)", p, named(r.Outcome), r.Err)
		}
	}
	followers.Wait()
	if e.Failed() {
		return
	}
	for p := range followed {
		e.same(fmt.Sprintf("what the follower of partition %d saw", p), seen[p], e.readAll(e.open(), p, 1000))
	}
}

// follow reads a partition up to the event that marks its end. It runs outside the goroutine of the case.
func follow(e *env, h *handle, partition, page int) []recorded {
	var seen []recorded
	after := position{Partition: partition}
	for {
		if err := h.Wait(e.ctx, after); err != nil {
			e.Errorf("wait after %s: %v", after, err)
			return nil
		}
		events, err := h.ReadLog(e.ctx, after, page)
		if err != nil || len(events) == 0 || len(events) > page {
			e.Errorf("after a wait for %s there are %d events, page %d (error: %v)", after, len(events), page, err)
			return nil
		}
		for _, r := range events {
			next := r.Position.Partition == partition && r.Position.Offset > after.Offset
			if !next || r.Position.Offset > after.Offset+1 && e.stores.Lacks.DenseOffsets == "" {
				e.Errorf("the follower saw %s directly after %s", r.Position, after)
				return nil
			}
			after = r.Position
			seen = append(seen, r)
			if strings.HasPrefix(string(r.Stream), "last-") {
				return seen
			}
		}
	}
}
