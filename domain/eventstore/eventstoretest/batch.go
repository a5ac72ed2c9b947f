package eventstoretest

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Elements for the same stream take effect in order: each sees what the ones before it wrote.
func batchOneStream(e *env) {
	for _, name := range []stream{usage(1), "quota-acme"} {
		for _, several := range []bool{false, true} {
			h := e.open()
			name := name
			if several { // the same with two events per append
				name += "s"
			}
			at := func(r revision) revision {
				if several {
					return 2*r + 1
				}
				return r
			}
			events := func(words ...any) []eventstore.NewEvent {
				if several {
					return []eventstore.NewEvent{event(append(words, "a")...), event(append(words, "b")...)}
				}
				return []eventstore.NewEvent{event(words...)}
			}
			steps := []struct {
				append eventstore.Append
				want   eventstore.Outcome
				as     int // the element that a duplicate repeats
			}{
				{add(name, 5, event("too early")), eventstore.Conflict, 0},
				{add(name, noStream, events(0)...), eventstore.Appended, 0},
				{add(name, noStream, events(0)...), eventstore.Duplicate, 1},
				{add(name, noStream, events("x")...), eventstore.Conflict, 0},
				{add("invoice-between", noStream, event("between", name, several)), eventstore.Appended, 0},
				{add(name, at(0), events(1)...), eventstore.Appended, 0},
				{add(name, at(0), events(1)...), eventstore.Duplicate, 5},
				{add(name, noStream, events(0)...), eventstore.Duplicate, 1},
				{add(name, at(0), events("x")...), eventstore.Conflict, 0},
				{add(name, at(0)), eventstore.Unknown, 0},
				{add(name, at(1), events(2)...), eventstore.Appended, 0},
				{add(name, at(1), events(2)...), eventstore.Duplicate, 10},
				{add(name, noStream, append(events(0), events(1)...)...), eventstore.Duplicate, 5},
				{add(name, noStream, append(events(0), events("x")...)...), eventstore.Conflict, 0},
			}
			steps[4].append.Stream += name
			batch := make([]eventstore.Append, len(steps))
			for i, s := range steps {
				batch[i] = s.append
			}
			results := h.Append(e.ctx, batch)
			for i, s := range steps {
				what := fmt.Sprintf("%s, element %d", name, i)
				e.outcome(what, results[i], s.want)
				if s.want == eventstore.Duplicate {
					e.original(what, results[i], results[s.as])
				}
			}
			e.streamIs(h, name, append(append(events(0), events(1)...), events(2)...)...)
		}
	}
}

func batchElementsFailAlone(e *env) {
	h := e.open()
	first := h.must(add("invoice-known", noStream, event(0)))
	large := event("large")
	large.Data = make([]byte, eventstore.MaxEventBytes+1)
	long := add("invoice-long", noStream)
	for i := range eventstore.MaxStreamBatch + 1 {
		long.Events = append(long.Events, event(i))
	}
	bad := map[string]eventstore.Append{
		"conflict":        add("invoice-known", noStream, event("x")),
		"wrong revision":  add("invoice-known", 3, event("x")),
		"duplicate":       add("invoice-known", noStream, event(0)),
		"present":         unless(add("invoice-bad", noStream, event("x")), "invoice-free", "invoice-known"),
		"too large":       add("invoice-large", noStream, large),
		"too many events": long,
	}
	for what, a := range invalid() {
		bad[what] = a
	}
	n := 0
	good := func() eventstore.Append {
		n++
		return addAs("tenant-"+strconv.Itoa(n%5), usage(n), noStream, event("good", n))
	}
	check := func(what string, a eventstore.Append, r result) {
		e.Helper()
		switch what {
		case "good":
			e.outcome(fmt.Sprintf("%s beside bad ones", a.Stream), r, eventstore.Appended)
		case "conflict", "wrong revision":
			e.outcome(what, r, eventstore.Conflict)
		case "duplicate":
			e.original(what, r, first)
		case "present":
			e.present(what, r, 1)
		default:
			e.outcome(what, r, eventstore.Unknown)
			want := eventstore.ErrInvalid
			if what == "too large" || what == "too many events" {
				want = eventstore.ErrTooLarge
			}
			if !errors.Is(r.Err, want) {
				e.Fatalf("%s: %v, want %v", what, r.Err, want)
			}
		}
	}
	var all []eventstore.Append
	var whats []string
	for what, a := range bad {
		// Each kind alone between two valid ones, then all kinds in one batch.
		batch := []eventstore.Append{good(), a, good()}
		for i, r := range h.Append(e.ctx, batch) {
			check([]string{"good", what, "good"}[i], batch[i], r)
		}
		all, whats = append(all, good(), a), append(whats, "good", what)
	}
	for i, r := range h.Append(e.ctx, all) {
		check(whats[i], all[i], r)
	}
	e.streamIs(h, "invoice-known", event(0))
	e.streamIs(h, "invoice-bad")
}

func batchResultsInOrder(e *env) {
	h := e.open()
	partitions := h.Partitions()
	var batch []eventstore.Append
	for i := range 200 {
		// Tenants and names are in opposite orders, so that sorting the batch would be noticed.
		a := addAs("tenant-"+strconv.Itoa(i*7%13), usage(1000-i), noStream, event(i))
		if i%4 == 0 {
			a.Events = append(a.Events, event(i, "second"))
		}
		batch = append(batch, a)
	}
	results := h.Append(e.ctx, batch)
	for i, r := range results {
		e.outcome(fmt.Sprintf("element %d", i), r, eventstore.Appended)
		got, err := h.ReadAt(e.ctx, []position{r.Position})
		e.noError("read at "+r.Position.String(), err)
		if len(got) != 1 || got[0].Stream != batch[i].Stream {
			e.Fatalf("result %d is at %s, which does not have %s", i, r.Position, batch[i].Stream)
		}
		if want := eventstore.PartitionOf(batch[i].Tenant, partitions); r.Position.Partition != want {
			e.Fatalf("result %d is at %s, want partition %d", i, r.Position, want)
		}
	}
	// New, duplicate and conflict, one after the other: each answer at its own place.
	var mixed []eventstore.Append
	for i, a := range batch {
		switch i % 3 {
		case 0:
			a = addAs(a.Tenant, usage(2000-i), noStream, event("new", i))
		case 1:
			a = addAs(a.Tenant, a.Stream, noStream, event("other", i))
		}
		mixed = append(mixed, a)
	}
	for i, r := range h.Append(e.ctx, mixed) {
		what := fmt.Sprintf("element %d of the mixed batch", i)
		switch i % 3 {
		case 0:
			e.outcome(what, r, eventstore.Appended)
		case 1:
			e.outcome(what, r, eventstore.Conflict)
		case 2:
			e.original(what, r, results[i])
		}
	}
}

func batchAllPartitions(e *env) {
	h := e.open()
	partitions := h.Partitions()
	if partitions < 1 {
		e.Fatalf("a log of %d partitions", partitions)
	}
	batch := []eventstore.Append{add("tenant-system", noStream, event("system"))}
	for p := range min(partitions, 256) {
		tenant := tenantOf(p, partitions)
		batch = append(batch, addAs(tenant, stream("quota-"+tenant), noStream, event(p)))
	}
	for i := range 300 {
		tenant := "company-" + strconv.Itoa(i)
		batch = append(batch, addAs(tenant, stream("quota-"+tenant), noStream, event(tenant)),
			addAs(tenant, stream("quota-"+tenant), 0, event(tenant, "second")))
	}
	count := map[int]int64{}
	for i, r := range h.Append(e.ctx, batch) {
		e.outcome(fmt.Sprintf("element %d", i), r, eventstore.Appended)
		count[eventstore.PartitionOf(batch[i].Tenant, partitions)]++
	}
	for p := range partitions {
		events := e.readAll(h, p, 100)
		if int64(len(events)) != count[p] {
			e.Fatalf("partition %d has %d events, want %d", p, len(events), count[p])
		}
	}
	if got := e.streamIs(h, "tenant-system", event("system")); got[0].Position.Partition != 0 {
		e.Fatalf("the system's own event is at %s, want partition 0", got[0].Position)
	}
	if again := e.open().Partitions(); again != partitions {
		e.Fatalf("a log of %d partitions has %d on another handle", partitions, again)
	}
}

// A caller that got no answer sends the whole batch again; by then a part of it was written.
func batchRepeated(e *env) {
	h := e.open()
	var batch []eventstore.Append
	for i := range 40 {
		batch = append(batch, addAs("tenant-"+strconv.Itoa(i%6), usage(i), noStream, event(i), event(i, "second")))
	}
	first := h.Append(e.ctx, batch[:25])
	for i, r := range h.Append(e.ctx, batch) {
		what := fmt.Sprintf("element %d", i)
		if i < len(first) {
			e.original(what, r, first[i])
		} else {
			e.outcome(what, r, eventstore.Appended)
			first = append(first, r)
		}
	}
	for i, r := range e.open().Append(e.ctx, batch) {
		e.original(fmt.Sprintf("element %d, third time", i), r, first[i])
	}
}
