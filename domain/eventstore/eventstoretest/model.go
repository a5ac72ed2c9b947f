package eventstoretest

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// model is the port in a few lines, in memory: every store must give the same answers.
type model struct {
	streams map[stream][]fact
	heads   map[int]position // the positions up to which the tenants' partitions were read back
	read    map[stream]int   // the number of a stream's events up to there
}

var modelTenants = []string{"", "acme", "globex"}

// fact is one event of the model.
type fact struct {
	tenant string
	event  eventstore.NewEvent
	at     result // where and when the store recorded it
	known  bool   // at is set: by an answer for the last event of an append, by a read for all
}

// verdict is the required answer.
type verdict struct {
	outcome  eventstore.Outcome
	original *fact // of a Duplicate
	present  []int
}

// judge returns the required answer, and adds the events of a new append to the model.
func (m *model) judge(a eventstore.Append) verdict {
	if a.Check() != nil {
		return verdict{outcome: eventstore.Unknown}
	}
	there := m.streams[a.Stream]
	head := revision(len(there)) - 1
	switch {
	case a.Expected == head:
		var present []int
		for i, name := range a.Absent {
			if len(m.streams[name]) > 0 {
				present = append(present, i)
			}
		}
		if len(present) > 0 {
			return verdict{outcome: eventstore.Present, present: present}
		}
		for _, ev := range a.Events {
			there = append(there, fact{tenant: a.Tenant, event: ev})
		}
		m.streams[a.Stream] = there
		return verdict{outcome: eventstore.Appended}
	case a.Expected > head || int(a.Expected)+len(a.Events) >= len(there):
		return verdict{outcome: eventstore.Conflict}
	}
	for i, ev := range a.Events {
		if there[int(a.Expected)+1+i].event.ID != ev.ID {
			return verdict{outcome: eventstore.Conflict}
		}
	}
	return verdict{outcome: eventstore.Duplicate, original: &there[int(a.Expected)+len(a.Events)]}
}

// modelRandomBatches sends random batches through changing handles and compares every answer and every read with the model. All
// runs share the log, each with its own streams, so that the log also gets longer.
func modelRandomBatches(e *env) {
	shared := []eventstore.Store{e.stores.Open(e.test), e.stores.Open(e.test), e.stores.Open(e.test)}
	opened := len(shared)
	run := 0
	rapid.Check(e.TB, func(rt *rapid.T) {
		run++
		sub := &env{TB: rt, ctx: e.ctx, test: e.test, stores: e.stores, limits: e.limits}
		handles := make([]*handle, len(shared))
		for i, s := range shared {
			handles[i] = &handle{Store: s, env: sub}
		}
		m := &model{streams: map[stream][]fact{}, heads: map[int]position{}, read: map[stream]int{}}
		for _, tenant := range modelTenants {
			p := eventstore.PartitionOf(tenant, handles[0].Partitions())
			m.heads[p] = sub.head(handles[0], p)
		}
		for step := range rapid.IntRange(1, 8).Draw(rt, "batches") {
			which := rapid.IntRange(0, len(handles)-1).Draw(rt, "handle")
			// Each handle stays open until the case ends, so only a few are reopened.
			if opened < 10 && rapid.IntRange(0, 9).Draw(rt, "reopen") == 0 {
				opened++
				shared[which] = e.stores.Open(e.test)
				handles[which] = &handle{Store: shared[which], env: sub}
			}
			batch := m.draw(rt, run)
			m.compare(sub, fmt.Sprintf("batch %d", step), batch, handles[which].Append(e.ctx, batch))
			m.readBack(sub, handles[rapid.IntRange(0, len(handles)-1).Draw(rt, "reader")])
		}
		e.mu.Lock()
		e.acknowledged = append(e.acknowledged, sub.acknowledged...)
		e.mu.Unlock()
	})
}

// modelStreams is the number of streams of a run: few, so that appends collide.
const modelStreams = 6

func modelStream(run, n int) stream {
	if n%2 == 0 {
		return usage(run*10 + n)
	}
	return stream(fmt.Sprintf("quota-%d-%d", run, n))
}

// draw makes a batch in which all kinds of outcomes are likely, even among elements of one stream.
func (m *model) draw(rt *rapid.T, run int) []eventstore.Append {
	lengths := map[stream]int{} // the streams' lengths if the elements drawn so far succeed
	for name, facts := range m.streams {
		lengths[name] = len(facts)
	}
	batch := make([]eventstore.Append, rapid.IntRange(1, 10).Draw(rt, "elements"))
	for i := range batch {
		n := rapid.IntRange(0, modelStreams-1).Draw(rt, "stream")
		name := modelStream(run, n)
		a := addAs(modelTenants[n%len(modelTenants)], name, 0)
		count := rapid.IntRange(1, 3).Draw(rt, "events")
		switch rapid.IntRange(0, 9).Draw(rt, "kind") {
		case 0, 1, 2, 3: // directly after the end
			a.Expected = revision(lengths[name]) - 1
			lengths[name] += count
		case 4, 5, 6: // at a place that may be taken
			a.Expected = revision(rapid.IntRange(-1, max(0, lengths[name]-1)).Draw(rt, "expected"))
		case 7:
			a.Expected = revision(rapid.SampledFrom([]int64{-2, 0, 3, 7, 1 << 33, math.MaxInt64}).Draw(rt, "odd expected"))
		case 8:
			a.Expected = noStream
		case 9:
			a.Expected = revision(lengths[name])
		}
		for j := range count {
			// Each place has a usual event with its own id, so that repetitions are likely; variants differ from it.
			variant := 0
			if rapid.IntRange(0, 5).Draw(rt, "variant") == 0 {
				variant = rapid.IntRange(1, 2).Draw(rt, "which")
			}
			ev := event(run, int64(a.Expected)+int64(j), variant)
			ev.Type = "type." + strconv.Itoa(variant)
			a.Events = append(a.Events, ev)
		}
		if rapid.IntRange(0, 19).Draw(rt, "empty") == 0 {
			a.Events = nil
		}
		if rapid.IntRange(0, 3).Draw(rt, "guarded") == 0 {
			for range rapid.IntRange(1, 3).Draw(rt, "absent") {
				// A stream of the same tenant, possibly this one, or a stream that never exists.
				other := n + len(modelTenants)*rapid.IntRange(0, 3).Draw(rt, "which stream")
				a.Absent = append(a.Absent, modelStream(run, other%(modelStreams+len(modelTenants))))
			}
		}
		batch[i] = a
	}
	return batch
}

// compare compares the answers to a batch with the model's.
func (m *model) compare(e *env, what string, batch []eventstore.Append, results []result) {
	e.Helper()
	for i, r := range results {
		what := fmt.Sprintf("%s, element %d: %s after %d, %d events, absent %q", what, i,
			batch[i].Stream, batch[i].Expected, len(batch[i].Events), batch[i].Absent)
		want := m.judge(batch[i])
		e.outcome(what, r, want.outcome)
		switch {
		case want.outcome == eventstore.Unknown && !errors.Is(r.Err, eventstore.ErrInvalid):
			e.Fatalf("%s: %v, want ErrInvalid", what, r.Err)
		case want.outcome == eventstore.Present:
			e.present(what, r, want.present...)
		case want.outcome == eventstore.Appended:
			facts := m.streams[batch[i].Stream]
			facts[len(facts)-1].at, facts[len(facts)-1].known = r, true
		case want.outcome == eventstore.Duplicate && want.original.known:
			e.original(what, r, want.original.at)
		}
	}
}

// readBack reads all streams of the model and everything that is new in the log. After that the model has the position of each
// event, so that it can also judge a duplicate of a part of an append.
func (m *model) readBack(e *env, h *handle) {
	e.Helper()
	fresh := map[stream][]recorded{}
	for p, head := range m.heads {
		events := e.readFrom(h, head)
		e.follows(head, events)
		for _, r := range events {
			fresh[r.Stream] = append(fresh[r.Stream], r)
			m.heads[p] = r.Position
		}
	}
	for name, facts := range m.streams {
		want := make([]eventstore.NewEvent, len(facts))
		for i, f := range facts {
			want[i] = f.event
		}
		got := e.streamIs(h, name, want...)
		for i, f := range facts {
			if got[i].Tenant != f.tenant {
				e.Fatalf("stream %s: tenant %q, want %q", name, got[i].Tenant, f.tenant)
			}
			now := result{Position: got[i].Position, RecordedAt: got[i].RecordedAt}
			if f.known && (got[i].Position != f.at.Position || !got[i].RecordedAt.Equal(f.at.RecordedAt)) {
				e.Fatalf("stream %s: %s, acknowledged at %s of %s", name, describe(got[i]), f.at.Position, f.at.RecordedAt)
			}
			facts[i].at, facts[i].known = now, true
		}
		e.same("new in the log of "+string(name), fresh[name], got[m.read[name]:])
		m.read[name] = len(got)
		delete(fresh, name)
	}
	for name := range fresh {
		e.Fatalf("the log has new events of %s, where nothing was appended", name)
	}
}
