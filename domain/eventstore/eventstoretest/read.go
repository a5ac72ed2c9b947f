package eventstoretest

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// fill writes n events of the system in batches, three per stream, and returns them in the order of partition 0.
func fill(e *env, h *handle, n int) []recorded {
	e.Helper()
	var batch []eventstore.Append
	for i := range n {
		batch = append(batch, add(stream("invoice-"+strconv.Itoa(i/3)), revision(i%3)-1, event(i)))
	}
	for i, r := range h.Append(e.ctx, batch) {
		e.outcome(fmt.Sprintf("event %d", i), r, eventstore.Appended)
	}
	all := e.readAll(h, 0, eventstore.MaxReadLimit)
	if len(all) != n {
		e.Fatalf("%d events were written, the log has %d", n, len(all))
	}
	return all
}

func readEmptyLog(e *env) {
	h := e.open()
	for p := range h.Partitions() {
		if head := e.head(h, p); head.Offset != 0 {
			e.Fatalf("the head of an empty partition is %s", head)
		}
		events, err := h.ReadLog(e.ctx, position{Partition: p}, 10)
		e.noError("read an empty log", err)
		if len(events) != 0 {
			e.Fatalf("an empty log has %d events", len(events))
		}
	}
	e.streamIs(h, "invoice-unknown")
	e.streamIs(h, usage(1))
	events, err := h.ReadAt(e.ctx, nil)
	e.noError("read at no position", err)
	if len(events) != 0 {
		e.Fatalf("no position has %d events", len(events))
	}
}

func readStreamPages(e *env) {
	h := e.open()
	for _, name := range []stream{"invoice-1", usage(1)} {
		a := add(name, noStream)
		for i := range 25 {
			a.Events = append(a.Events, event(name, i))
		}
		h.must(a)
		h.must(add(name+"x", noStream, event("neighbour", name)))
		all := e.streamIs(h, name, a.Events...)
		for from := range 27 {
			for _, limit := range []int{1, 2, 7, 24, 25, 26, eventstore.MaxReadLimit} {
				got, err := h.ReadStream(e.ctx, name, revision(from), limit)
				e.noError("read stream", err)
				e.same(fmt.Sprintf("%s from %d, limit %d", name, from, limit), got, window(all, from, limit))
			}
		}
		for _, from := range []revision{1 << 31, 1 << 40, math.MaxInt64} {
			got, err := h.ReadStream(e.ctx, name, from, 10)
			e.noError("read stream far behind its end", err)
			e.same(fmt.Sprintf("%s from %d", name, from), got, nil)
		}
	}
}

func readLogPages(e *env) {
	h := e.open()
	all := fill(e, h, 50)
	for after := range 51 {
		start := position{}
		if after > 0 {
			start = all[after-1].Position
		}
		for _, limit := range []int{1, 2, 7, 49, 50, 51, eventstore.MaxReadLimit} {
			got, err := h.ReadLog(e.ctx, start, limit)
			e.noError("read log", err)
			e.follows(start, got)
			e.same(fmt.Sprintf("log after %s, limit %d", start, limit), got, window(all, after, limit))
		}
	}
	for _, page := range []int{1, 3, 50, 1000} {
		e.same(fmt.Sprintf("log in pages of %d", page), e.readAll(h, 0, page), all)
	}
}

// window is the required result of a read from an index with a limit.
func window(all []recorded, from, limit int) []recorded {
	from = min(from, len(all))
	return all[from:min(len(all), from+limit)]
}

// A reader may have a position that this log does not have yet: there is nothing after it, which is not an error.
func readLogAfterHead(e *env) {
	h := e.open()
	all := fill(e, h, 10)
	head := all[len(all)-1].Position
	for _, after := range []position{head, {Offset: head.Offset + 1}, {Offset: head.Offset + 1000}, {Offset: math.MaxInt64}} {
		got, err := h.ReadLog(e.ctx, after, 10)
		e.noError("read log after "+after.String(), err)
		e.same("log after "+after.String(), got, nil)
	}
	r := h.must(add("invoice-new", noStream, event("new")))
	got, err := h.ReadLog(e.ctx, head, 10)
	e.noError("read log after "+head.String(), err)
	if len(got) != 1 || got[0].Position != r.Position {
		e.Fatalf("after the old head there are %d events, want the new one at %s", len(got), r.Position)
	}
}

func readAt(e *env) {
	h := e.open()
	all := fill(e, h, 30)
	partition, tenant := 0, ""
	if h.Partitions() > 1 {
		partition, tenant = 1, tenantOf(1, h.Partitions())
	}
	elsewhere := h.must(addAs(tenant, "quota-elsewhere", noStream, event("elsewhere")))
	if elsewhere.Position.Partition != partition {
		e.Fatalf("tenant %s is at %s, want partition %d", tenant, elsewhere.Position, partition)
	}
	other := e.readAll(h, partition, 100)
	pick := []recorded{all[20], all[3], other[len(other)-1], all[29], all[0], all[4], all[5], all[3]}
	at := make([]position, len(pick))
	for i, r := range pick {
		at[i] = r.Position
	}
	got, err := h.ReadAt(e.ctx, at)
	e.noError("read at", err)
	e.same("read at, in the order asked", got, pick)
	got, err = e.open().ReadAt(e.ctx, at)
	e.noError("read at on another handle", err)
	e.same("read at on another handle", got, pick)

	head := e.head(h, 0)
	for _, missing := range []position{{Offset: head.Offset + 1}, {Offset: 0}, {Offset: math.MaxInt64}} {
		for _, at := range [][]position{{missing}, {at[0], missing, at[1]}, {at[0], at[1], missing}} {
			if got, err := h.ReadAt(e.ctx, at); !errors.Is(err, eventstore.ErrHole) {
				e.Fatalf("read at %v without %s: %d events, error %v, want ErrHole", at, missing, len(got), err)
			}
		}
	}
}

func readHead(e *env) {
	h, other := e.open(), e.open()
	last := position{}
	for i := range 10 {
		r := h.must(add(usage(i), noStream, event(i), event(i, "second")))
		e.follows(last, e.readFrom(h, last))
		last = r.Position
		for _, reader := range []*handle{h, other} {
			if head := e.head(reader, 0); head != last {
				e.Fatalf("the head is %s after an append at %s", head, last)
			}
		}
		e.outcome("conflict", h.one(add(usage(i), noStream, event("x"))), eventstore.Conflict)
		if head := e.head(h, 0); head != last {
			e.Fatalf("a conflict moved the head from %s to %s", last, head)
		}
	}
}

func (e *env) readFrom(h *handle, after position) []recorded {
	e.Helper()
	events, err := h.ReadLog(e.ctx, after, 1000)
	e.noError("read log after "+after.String(), err)
	return events
}

func readBounds(e *env) {
	h := e.open()
	all := fill(e, h, 5)
	_, err := h.ReadLog(e.ctx, position{}, eventstore.MaxReadLimit+1)
	e.isTooLarge("a log read over the limit", err)
	_, err = h.ReadStream(e.ctx, all[0].Stream, 0, eventstore.MaxReadLimit+1)
	e.isTooLarge("a stream read over the limit", err)
	at := make([]position, eventstore.MaxReadLimit+1)
	for i := range at {
		at[i] = all[i%len(all)].Position
	}
	_, err = h.ReadAt(e.ctx, at)
	e.isTooLarge("a read of too many positions", err)
	// A limit of zero or less returns nothing, with or without ErrInvalid, and never everything.
	for _, limit := range []int{0, -1} {
		got, err := h.ReadLog(e.ctx, position{}, limit)
		e.nothing(fmt.Sprintf("log, limit %d", limit), got, err)
		got, err = h.ReadStream(e.ctx, all[0].Stream, 0, limit)
		e.nothing(fmt.Sprintf("stream, limit %d", limit), got, err)
	}
	for _, partition := range []int{-1, h.Partitions()} {
		if _, err := h.Head(e.ctx, partition); err == nil {
			e.Fatalf("a log of %d partitions has a head for number %d", h.Partitions(), partition)
		}
		if _, err := h.ReadLog(e.ctx, position{Partition: partition}, 1); err == nil {
			e.Fatalf("a log of %d partitions can be read at number %d", h.Partitions(), partition)
		}
	}
}

func (e *env) isTooLarge(what string, err error) {
	e.Helper()
	if !errors.Is(err, eventstore.ErrTooLarge) {
		e.Fatalf("%s: %v, want ErrTooLarge", what, err)
	}
}

func (e *env) nothing(what string, got []recorded, err error) {
	e.Helper()
	if len(got) != 0 || err != nil && !errors.Is(err, eventstore.ErrInvalid) {
		e.Fatalf("%s: %d events, error %v", what, len(got), err)
	}
}

// An acknowledged event is visible to every reader on every handle, in every way to read.
func readOtherHandle(e *env) {
	writer, reader := e.open(), e.open()
	tenant := tenantOf(writer.Partitions()-1, writer.Partitions())
	for i := range 30 {
		r := writer.must(addAs(tenant, usage(i), noStream, event(i)))
		if head := e.head(reader, r.Position.Partition); head != r.Position {
			e.Fatalf("the other handle has its head at %s after an append at %s", head, r.Position)
		}
		e.streamIs(reader, usage(i), event(i))
		got, err := reader.ReadAt(e.ctx, []position{r.Position})
		e.noError("read at "+r.Position.String(), err)
		if len(got) != 1 || got[0].Stream != usage(i) {
			e.Fatalf("the other handle does not have %s at %s", usage(i), r.Position)
		}
		e.original("repetition on the other handle", reader.one(addAs(tenant, usage(i), noStream, event(i))), r)
		writer.must(addAs(tenant, usage(i), 0, event("correction", i)))
		e.outcome("a late append on the other handle", reader.one(addAs(tenant, usage(i), 0, event("x"))), eventstore.Conflict)
		e.streamIs(reader, usage(i), event(i), event("correction", i))
	}
}

// A handle that is opened later continues where the others are: a handle keeps nothing important in memory.
func readNewHandle(e *env) {
	var last position
	for i := range 5 {
		h := e.open()
		if head := e.head(h, 0); head.Offset != last.Offset {
			e.Fatalf("a new handle has its head at %s, want offset %d", head, last.Offset)
		}
		for j := range i {
			e.outcome("repetition", h.one(add("invoice-1", revision(j)-1, event(j))), eventstore.Duplicate)
		}
		r := h.must(add("invoice-1", revision(i)-1, event(i)))
		e.follows(last, []recorded{{Position: r.Position}})
		last = r.Position
	}
	e.streamIs(e.open(), "invoice-1", event(0), event(1), event(2), event(3), event(4))
}
