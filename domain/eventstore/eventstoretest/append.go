package eventstoretest

import (
	"errors"
	"fmt"
	"math"
	"reflect"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

func appendNew(e *env) {
	h := e.open()
	before := e.head(h, 0)
	first := h.must(add("invoice-1", noStream, event(0)))
	e.follows(before, []recorded{{Position: first.Position}})
	second := h.must(add("invoice-1", 0, event(1), event(2), event(3)))
	if second.Position.Offset < first.Position.Offset+3 {
		e.Fatalf("three events after %s end at %s", first.Position, second.Position)
	}
	events := e.streamIs(h, "invoice-1", event(0), event(1), event(2), event(3))
	if last := events[3]; last.Position != second.Position || !last.RecordedAt.Equal(second.RecordedAt) {
		e.Fatalf("the answer has %s of %s, the stream has %s", second.Position, second.RecordedAt, describe(last))
	}
	h.must(add("invoice-2", noStream, event("other", 0), event("other", 1)))
	e.streamIs(h, "invoice-2", event("other", 0), event("other", 1))
}

func appendDuplicate(e *env) {
	h, other := e.open(), e.open()
	single, several := add(usage(1), noStream, event(0)), add("invoice-1", noStream, event(1), event(2), event(3))
	later := add("invoice-1", 2, event(4), event(5))
	first := []result{h.must(single), h.must(several), h.must(later)}
	for i, again := range []eventstore.Append{single, several, later} {
		for round := range 3 {
			what := fmt.Sprintf("append %d, repetition %d", i, round)
			e.original(what, h.one(again), first[i])
			e.original(what+" on another handle", other.one(again), first[i])
		}
	}
	e.streamIs(h, usage(1), event(0))
	e.streamIs(h, "invoice-1", event(1), event(2), event(3), event(4), event(5))
	e.follows(first[2].Position, []recorded{{Position: h.must(add("invoice-2", noStream, event(6))).Position}})
}

// A repetition may come months later. Later events, in the same stream or others, must not change the answer.
func appendDuplicateLongAfter(e *env) {
	h := e.open()
	start := add(usage(0), noStream, event("start"), event("more"))
	first := h.must(start)
	for i := range 20 {
		h.must(add(usage(0), revision(i)+1, event("correction", i)))
		var batch []eventstore.Append
		for j := range 50 {
			batch = append(batch, add(usage(1+50*i+j), noStream, event(i, j)))
		}
		for j, r := range h.Append(e.ctx, batch) {
			e.outcome(fmt.Sprintf("neighbour %d in batch %d", j, i), r, eventstore.Appended)
		}
	}
	e.original("the first append, after others", h.one(start), first)
	e.original("the first append, on a new handle", e.open().one(start), first)
}

// Where the payload matters, the ID contains its fingerprint. So the store compares only IDs, and keeps what it had.
func appendDuplicateByIDAlone(e *env) {
	h := e.open()
	kept := event("kept")
	first := h.must(add("invoice-1", noStream, kept))
	again := kept
	again.Type, again.Data = "renamed", []byte("another payload")
	e.original("same id, other payload", h.one(add("invoice-1", noStream, again)), first)
	e.streamIs(h, "invoice-1", kept)
}

func appendDuplicateOfAPart(e *env) {
	h := e.open()
	h.must(add("invoice-1", noStream, event(0), event(1), event(2), event(3)))
	events := e.streamIs(h, "invoice-1", event(0), event(1), event(2), event(3))
	for _, part := range [][2]int{{0, 1}, {0, 3}, {1, 2}, {1, 3}, {2, 4}, {3, 4}} {
		a := add("invoice-1", revision(part[0])-1)
		for i := part[0]; i < part[1]; i++ {
			a.Events = append(a.Events, event(i))
		}
		last := events[part[1]-1]
		e.original(fmt.Sprintf("events %d to %d again", part[0], part[1]-1), h.one(a),
			result{Position: last.Position, RecordedAt: last.RecordedAt})
	}
	e.streamIs(h, "invoice-1", event(0), event(1), event(2), event(3))
}

// An ID counts only at its place: the same ID elsewhere is not a repetition.
func appendSameIDElsewhere(e *env) {
	h := e.open()
	h.must(add("invoice-1", noStream, event(0)))
	h.must(add("invoice-2", noStream, event(0)))
	h.must(addAs("acme", "invoice-3", noStream, event(0)))
	h.must(add("invoice-1", 0, event(1)))
	h.must(add("invoice-1", 1, event(0)))
	e.streamIs(h, "invoice-1", event(0), event(1), event(0))
	e.streamIs(h, "invoice-2", event(0))
	e.streamIs(h, "invoice-3", event(0))
}

func appendConflict(e *env) {
	h, other := e.open(), e.open()
	h.must(add(usage(1), noStream, event(0)))
	last := h.must(add("invoice-1", noStream, event(1), event(2)))
	for what, a := range map[string]eventstore.Append{
		"another first event":      add(usage(1), noStream, event("x")),
		"another only event":       add("invoice-1", noStream, event("x")),
		"other events":             add("invoice-1", noStream, event("x"), event("y")),
		"another second event":     add("invoice-1", 0, event("x")),
		"the same events, swapped": add("invoice-1", noStream, event(2), event(1)),
		"the first event, second":  add("invoice-1", 0, event(1)),
		"the second event, first":  add("invoice-1", noStream, event(2)),
	} {
		e.outcome(what, h.one(a), eventstore.Conflict)
		e.outcome(what+", again", h.one(a), eventstore.Conflict)
		e.outcome(what+", on another handle", other.one(a), eventstore.Conflict)
	}
	e.streamIs(h, usage(1), event(0))
	e.streamIs(h, "invoice-1", event(1), event(2))
	e.follows(last.Position, []recorded{{Position: h.must(add("invoice-2", noStream, event(3))).Position}})
}

func appendPartialOverlap(e *env) {
	h := e.open()
	h.must(add("invoice-1", noStream, event(0), event(1)))
	for what, a := range map[string]eventstore.Append{
		"what is there and one more":   add("invoice-1", noStream, event(0), event(1), event(2)),
		"the last one and one more":    add("invoice-1", 0, event(1), event(2)),
		"one the same, one other":      add("invoice-1", noStream, event(0), event("x")),
		"one other, one the same":      add("invoice-1", noStream, event("x"), event(1)),
		"other events, more than ours": add("invoice-1", noStream, event("x"), event("y"), event("z")),
	} {
		e.outcome(what, h.one(a), eventstore.Conflict)
		e.streamIs(h, "invoice-1", event(0), event(1))
	}
}

func appendWrongRevision(e *env) {
	h := e.open()
	// A stream that does not exist has no revision. Numbers beyond smaller integer types must be plain conflicts as well.
	beyond := []revision{1, 2, 1000, 1 << 31, 1 << 32, 1 << 40, math.MaxInt64 - 1, math.MaxInt64}
	for _, expected := range append([]revision{0}, beyond...) {
		e.outcome(fmt.Sprintf("no stream, expected %d", expected),
			h.one(add("invoice-1", expected, event("x"))), eventstore.Conflict)
		e.outcome(fmt.Sprintf("no usage stream, expected %d", expected),
			h.one(add(usage(1), expected, event("x"), event("y"))), eventstore.Conflict)
	}
	e.streamIs(h, "invoice-1")
	e.streamIs(h, usage(1))
	h.must(add("invoice-1", noStream, event(0), event(1)))
	for _, expected := range append(beyond[1:], noStream, 0) {
		e.outcome(fmt.Sprintf("at revision 1, expected %d", expected),
			h.one(add("invoice-1", expected, event("x"))), eventstore.Conflict)
		e.outcome(fmt.Sprintf("at revision 1, expected %d, several", expected),
			h.one(add("invoice-1", expected, event("x"), event("y"))), eventstore.Conflict)
	}
	// The right events at the wrong place are not a repetition either.
	e.outcome("the first event, expected 5", h.one(add("invoice-1", 5, event(0))), eventstore.Conflict)
	e.streamIs(h, "invoice-1", event(0), event(1))
	h.must(add("invoice-1", 1, event(2)))
}

func appendAtomicPerStream(e *env) {
	h := e.open()
	large := event("large")
	large.Data = make([]byte, eventstore.MaxEventBytes+1)
	nameless := event("nameless")
	nameless.Type = ""
	for what, bad := range map[string]eventstore.NewEvent{
		"too large": large, "without type": nameless, "without id": {Type: "noted"},
	} {
		r := h.one(add("invoice-1", noStream, event(0), event(1), bad))
		e.outcome("two good events and one "+what, r, eventstore.Unknown)
		e.streamIs(h, "invoice-1")
	}
	h.must(add("invoice-1", noStream, event(0), event(1)))
	e.outcome("a conflict of three", h.one(add("invoice-1", 0, event("x"), event("y"), event("z"))), eventstore.Conflict)
	e.streamIs(h, "invoice-1", event(0), event(1))
}

func appendCommitOrder(e *env) {
	handles := []*handle{e.open(), e.open()}
	partitions := handles[0].Partitions()
	last := map[int]position{}
	for i := range 60 {
		partition := i % min(partitions, 8)
		tenant := ""
		if partition > 0 {
			tenant = tenantOf(partition, partitions)
		}
		h := handles[i/3%2]
		if last[partition] == (position{}) {
			last[partition] = e.head(h, partition)
			if last[partition].Offset != 0 {
				e.Fatalf("the head of an empty partition is %s", last[partition])
			}
		}
		r := h.must(addAs(tenant, usage(i), noStream, event(i)))
		e.follows(last[partition], []recorded{{Position: r.Position}})
		last[partition] = r.Position
		if head := e.head(handles[1], partition); head != r.Position {
			e.Fatalf("the head of partition %d is %s after an append at %s", partition, head, r.Position)
		}
	}
}

func appendNothing(e *env) {
	h := e.open()
	if results := h.Append(e.ctx, nil); len(results) != 0 {
		e.Fatalf("an empty batch was answered by %d results", len(results))
	}
	if head := e.head(h, 0); head.Offset != 0 {
		e.Fatalf("an empty batch moved the head to %s", head)
	}
}

// invalid lists appends that a store must refuse, each with ErrInvalid.
func invalid() map[string]eventstore.Append {
	long := make([]byte, eventstore.MaxNameLength+1)
	for i := range long {
		long[i] = 'n'
	}
	return map[string]eventstore.Append{
		"no stream name":         add("", noStream, event("bad")),
		"a long stream name":     add(stream(long), noStream, event("bad")),
		"no events":              add("invoice-bad", noStream),
		"an expected revision":   add("invoice-bad", noStream-1, event("bad")),
		"an impossible revision": add("invoice-bad", math.MinInt64, event("bad")),
		"an event without type":  add("invoice-bad", noStream, eventstore.NewEvent{ID: event("bad").ID}),
		"an event without id":    add("invoice-bad", noStream, eventstore.NewEvent{ID: uuid.Nil, Type: "noted"}),
		"a nameless absence":     unless(add("invoice-bad", noStream, event("bad")), "invoice-free", ""),
		"an absence of a long":   unless(add("invoice-bad", noStream, event("bad")), stream(long)),
		"an absence with NUL":    unless(add("invoice-bad", noStream, event("bad")), "invoice-\x00"),
		"an absence of no text":  unless(add("invoice-bad", noStream, event("bad")), "invoice-free", "invoice-\xff"),
	}
}

func appendInvalid(e *env) {
	h := e.open()
	for what, a := range invalid() {
		r := h.one(a)
		e.outcome(what, r, eventstore.Unknown)
		if !errors.Is(r.Err, eventstore.ErrInvalid) {
			e.Fatalf("%s: %v, want ErrInvalid", what, r.Err)
		}
	}
	e.streamIs(h, "invoice-bad")
	h.must(add("invoice-bad", noStream, event(0)))
}

func appendTooLarge(e *env) {
	h := e.open()
	refused := func(what string, r result) {
		e.Helper()
		e.outcome(what, r, eventstore.Unknown)
		if !errors.Is(r.Err, eventstore.ErrTooLarge) {
			e.Fatalf("%s: %v, want ErrTooLarge", what, r.Err)
		}
	}
	large := event("large")
	large.Data = make([]byte, eventstore.MaxEventBytes+1)
	refused("an event of one byte too many", h.one(add("invoice-1", noStream, large)))
	many := add("invoice-1", noStream)
	for i := range eventstore.MaxStreamBatch + 1 {
		many.Events = append(many.Events, event(i))
	}
	refused("one event too many", h.one(many))
	free := add("invoice-1", noStream, event(0))
	for i := range eventstore.MaxStreamBatch + 1 {
		free.Absent = append(free.Absent, usage(i))
	}
	refused("one absent stream too many", h.one(free))
	e.streamIs(h, "invoice-1")
	batch := make([]eventstore.Append, eventstore.MaxAppends+1)
	for i := range batch {
		batch[i] = add(usage(i), noStream, event(i))
	}
	for i, r := range h.Append(e.ctx, batch) {
		refused(fmt.Sprintf("element %d of a batch of one element too many", i), r)
	}
	for p := range h.Partitions() {
		if head := e.head(h, p); head.Offset != 0 {
			e.Fatalf("refused appends moved the head to %s", head)
		}
	}
}

func appendLargest(e *env) {
	h := e.open()
	many := add("invoice-1", noStream)
	for i := range eventstore.MaxStreamBatch {
		many.Events = append(many.Events, event(i))
	}
	first := h.must(many)
	e.original("the largest append again", h.one(many), first)
	e.streamIs(h, "invoice-1", many.Events...)
	many.Stream = "invoice-2"
	for i := range eventstore.MaxStreamBatch {
		many.Absent = append(many.Absent, usage(i))
	}
	h.must(many)
	many.Stream = "invoice-3"
	many.Absent[len(many.Absent)-1] = "invoice-2"
	e.present("the last of the most absent streams", h.one(many), len(many.Absent)-1)
	e.streamIs(h, "invoice-3")
	batch := make([]eventstore.Append, eventstore.MaxAppends)
	for i := range batch {
		batch[i] = add(usage(i), noStream, event(i))
	}
	for i, r := range h.Append(e.ctx, batch) {
		e.outcome(fmt.Sprintf("element %d of the largest batch", i), r, eventstore.Appended)
	}
}

func appendCallersMemory(e *env) {
	h := e.open()
	batch := []eventstore.Append{
		add("invoice-1", noStream, event(0), event(1)), add("invoice-2", noStream, event(2)),
		add("invoice-2", 7, event(3)), add("invoice-0", noStream, event(4)),
		unless(add("invoice-3", noStream, event(5)), "invoice-9", usage(1), "invoice-2"),
	}
	sent := copyOf(batch)
	h.Append(e.ctx, batch)
	if !reflect.DeepEqual(batch, sent) {
		e.Fatalf("the store changed the batch of its caller")
	}
	// A caller may use its buffers again as soon as it has the answer.
	for _, a := range batch {
		for i := range a.Events {
			for j := range a.Events[i].Data {
				a.Events[i].Data[j] = '!'
			}
			a.Events[i].Type = "changed"
		}
	}
	e.streamIs(h, "invoice-1", sent[0].Events...)
	e.streamIs(h, "invoice-2", sent[1].Events...)
	e.streamIs(h, "invoice-0", sent[3].Events...)
}
