package eventstoretest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

func absentNoneExists(e *env) {
	h := e.open()
	h.must(add("invoice-other", noStream, event("other")))
	h.must(unless(add(usage(1), noStream, event(0)), usage(2)))
	h.must(unless(add("invoice-1", noStream, event(1), event(2)), "invoice-2", usage(2), "invoice-2", "conflict-2"))
	h.must(unless(add("invoice-1", 1, event(3)), "invoice-2"))
	h.must(unless(addAs("acme", usage(3), noStream, event(4)), usage(4), "invoice-2"))
	// A guard leaves no trace on the streams it names: they may begin afterwards.
	h.must(add(usage(2), noStream, event(5)))
	h.must(add("invoice-2", noStream, event(6)))
	// A stream that does not exist yet may name itself.
	h.must(unless(add("invoice-3", noStream, event(7), event(8)), "invoice-3"))
	e.streamIs(h, usage(1), event(0))
	e.streamIs(h, "invoice-1", event(1), event(2), event(3))
	e.streamIs(h, usage(3), event(4))
	e.streamIs(h, "invoice-3", event(7), event(8))
}

func absentPresent(e *env) {
	for _, tenant := range []string{"", "acme"} {
		h, other := e.open(), e.open()
		partition := eventstore.PartitionOf(tenant, h.Partitions())
		name := func(s stream) stream { return s + stream(tenant) }
		u, several, free := usage(1+len(tenant)), name("invoice-several"), name("invoice-free")
		h.must(addAs(tenant, u, noStream, event(0, tenant)))
		h.must(addAs(tenant, several, noStream, event(1, tenant), event(2, tenant)))
		h.must(addAs(tenant, name("invoice-1"), noStream, event(3, tenant)))
		head := e.head(h, partition)
		for what, c := range map[string]struct {
			append eventstore.Append
			want   []int
		}{
			"the only one":         {unless(addAs(tenant, usage(9), noStream, event("x")), u), []int{0}},
			"one of several":       {unless(addAs(tenant, usage(9), noStream, event("x")), free, several, usage(9)), []int{1}},
			"some of several":      {unless(addAs(tenant, usage(9), noStream, event("x")), free, u, usage(9), several), []int{1, 3}},
			"all":                  {unless(addAs(tenant, usage(9), noStream, event("x")), several, u), []int{0, 1}},
			"one that is repeated": {unless(addAs(tenant, usage(9), noStream, event("x")), u, free, u), []int{0, 2}},
			"two events":           {unless(addAs(tenant, usage(9), noStream, event("x"), event("y")), free, u), []int{1}},
			"later in a stream":    {unless(addAs(tenant, name("invoice-1"), 0, event("x")), u), []int{0}},
			"two, later":           {unless(addAs(tenant, name("invoice-1"), 0, event("x"), event("y")), u, several), []int{0, 1}},
			"the stream itself":    {unless(addAs(tenant, name("invoice-1"), 0, event("x")), free, name("invoice-1")), []int{1}},
		} {
			e.present(what, h.one(c.append), c.want...)
			e.present(what+", again", h.one(c.append), c.want...)
			e.present(what+", on another handle", other.one(c.append), c.want...)
		}
		if now := e.head(h, partition); now != head {
			e.Fatalf("appends that met present streams moved the head from %s to %s", head, now)
		}
		e.streamIs(h, usage(9))
		e.streamIs(h, name("invoice-1"), event(3, tenant))
		e.follows(head, []recorded{{Position: h.must(addAs(tenant, name("invoice-1"), 0, event("x"))).Position}})
	}
}

// A caller that got no answer sends the same append again. If it was written, it is a Duplicate, even if its Absent streams exist
// by now.
func absentDuplicateFirst(e *env) {
	h, other := e.open(), e.open()
	single, several := unless(add(usage(1), noStream, event(0)), "invoice-2"), unless(add("invoice-1", noStream, event(1), event(2)), usage(2), "invoice-2")
	first := []result{h.must(single), h.must(several)}
	h.must(add("invoice-2", noStream, event(3)))
	h.must(add(usage(2), noStream, event(4)))
	h.must(add("invoice-1", 1, event(5)))
	for i, again := range []eventstore.Append{single, several} {
		e.original(fmt.Sprintf("append %d again", i), h.one(again), first[i])
		e.original(fmt.Sprintf("append %d again, on another handle", i), other.one(again), first[i])
		again.Absent = []stream{again.Stream, "invoice-2"}
		e.original(fmt.Sprintf("append %d again, with another guard", i), h.one(again), first[i])
		again.Absent = nil
		e.original(fmt.Sprintf("append %d again, without a guard", i), h.one(again), first[i])
	}
	e.streamIs(h, usage(1), event(0))
	e.streamIs(h, "invoice-1", event(1), event(2), event(5))
}

func absentConflictFirst(e *env) {
	h := e.open()
	h.must(add("invoice-1", noStream, event(0), event(1)))
	h.must(add(usage(1), noStream, event(2)))
	for what, a := range map[string]eventstore.Append{
		"another first event":    add("invoice-1", noStream, event("x")),
		"other events":           add("invoice-1", noStream, event("x"), event("y")),
		"a partial overlap":      add("invoice-1", 0, event(1), event("x")),
		"a revision too high":    add("invoice-1", 2, event("x")),
		"no such stream":         add("invoice-2", 0, event("x")),
		"no such stream, twice":  add(usage(2), 3, event("x"), event("y")),
		"another only event":     add(usage(1), noStream, event("x")),
		"an event elsewhere":     add("invoice-1", noStream, event(1)),
		"an impossible revision": add(usage(1), 1<<40, event("x")),
	} {
		e.outcome(what+" beside a present stream", h.one(unless(a, usage(1))), eventstore.Conflict)
		e.outcome(what+" beside an absent stream", h.one(unless(a, "invoice-3")), eventstore.Conflict)
	}
	e.streamIs(h, "invoice-1", event(0), event(1))
	e.streamIs(h, usage(1), event(2))
	e.streamIs(h, "invoice-2")
}

// A guard matches streams by their exact names.
func absentNamesApart(e *env) {
	h := e.open()
	names := oddNames()
	a := add("invoice-guarded", noStream, event("guarded"))
	var batch []eventstore.Append
	var want []int
	for i, name := range names {
		if i%2 == 1 {
			batch = append(batch, add(stream(name), noStream, event("of", name)))
			want = append(want, i)
		}
		a.Absent = append(a.Absent, stream(name))
	}
	for i, r := range h.Append(e.ctx, batch) {
		e.outcome(fmt.Sprintf("stream %q", batch[i].Stream), r, eventstore.Appended)
	}
	e.present("every second of many names", h.one(a), want...)
	a.Absent = slices.DeleteFunc(a.Absent, func(name stream) bool {
		return slices.ContainsFunc(batch, func(b eventstore.Append) bool { return b.Stream == name })
	})
	h.must(a)
}

// step is one element of a batch; it sees what the ones before it wrote.
type step struct {
	append  eventstore.Append
	want    eventstore.Outcome
	present []int
	as      int // the element that a duplicate repeats
}

// appendAll appends the steps in one batch, for several tenants at once.
func (e *env) appendAll(h *handle, steps func(tenant string, name func(string) stream) []step) {
	e.Helper()
	var all []step
	var batch []eventstore.Append
	for i, tenant := range []string{"", "acme", "globex", "initech"} {
		name := func(s string) stream {
			if s == "usage" {
				return usage(1000 + i)
			}
			return stream(s + "-" + tenant)
		}
		start := len(all)
		for _, s := range steps(tenant, name) {
			s.append.Tenant = tenant
			s.as += start
			all, batch = append(all, s), append(batch, s.append)
		}
	}
	results := h.Append(e.ctx, batch)
	for i, s := range all {
		what := fmt.Sprintf("element %d (%s after %d, absent %q)", i, s.append.Stream, s.append.Expected, s.append.Absent)
		switch s.want {
		case eventstore.Present:
			e.present(what, results[i], s.present...)
		case eventstore.Duplicate:
			e.original(what, results[i], results[s.as])
		default:
			e.outcome(what, results[i], s.want)
		}
	}
}

func absentSeesEarlier(e *env) {
	h := e.open()
	e.appendAll(h, func(tenant string, name func(string) stream) []step {
		ev := func(words ...any) eventstore.NewEvent { return event(append(words, tenant)...) }
		return []step{
			{append: add(name("u"), noStream, ev("u")), want: eventstore.Appended},
			{append: unless(add(name("q"), noStream, ev("q")), name("u")), want: eventstore.Present, present: []int{0}},
			{append: unless(add(name("q"), noStream, ev("q"), ev("q2")), name("free"), name("u")), want: eventstore.Present, present: []int{1}},
			{append: add(name("usage"), noStream, ev("packed"), ev("twice")), want: eventstore.Appended},
			{append: unless(add(name("q"), noStream, ev("q")), name("usage"), name("free"), name("u")), want: eventstore.Present, present: []int{0, 2}},
			// A stream that was not written cannot be present.
			{append: unless(add(name("r"), noStream, ev("r")), name("q")), want: eventstore.Appended},
			{append: add(name("s"), 5, ev("too early")), want: eventstore.Conflict},
			{append: unless(add(name("t"), noStream, ev("t")), name("s")), want: eventstore.Appended},
			{append: add(name("s"), noStream), want: eventstore.Unknown},
			{append: unless(add(name("t"), 0, ev("t2")), name("s")), want: eventstore.Appended},
			{append: unless(add(name("q"), noStream, ev("q")), name("r"), name("s"), name("t")), want: eventstore.Present, present: []int{0, 2}},
			{append: add(name("q"), noStream, ev("q")), want: eventstore.Appended},
			{append: unless(add(name("q"), 0, ev("q1")), name("free")), want: eventstore.Appended},
			{append: unless(add(name("v"), noStream, ev("v")), name("free"), name("q")), want: eventstore.Present, present: []int{1}},
		}
	})
	e.streamIs(h, "q-acme", event("q", "acme"), event("q1", "acme"))
	e.streamIs(h, "t-acme", event("t", "acme"), event("t2", "acme"))
	e.streamIs(h, "v-acme")
}

// For a guarded element, the elements after it have not happened yet, even if the guarded one has to wait for others.
func absentNotLater(e *env) {
	h := e.open()
	e.appendAll(h, func(tenant string, name func(string) stream) []step {
		ev := func(words ...any) eventstore.NewEvent { return event(append(words, tenant)...) }
		return []step{
			{append: unless(add(name("a"), noStream, ev("a")), name("b")), want: eventstore.Appended},
			{append: unless(add(name("b"), noStream, ev("b")), name("c")), want: eventstore.Appended},
			{append: add(name("c"), noStream, ev("c"), ev("c2")), want: eventstore.Appended},
			{append: unless(add(name("d"), noStream, ev("d")), name("a"), name("usage"), name("b"), name("c")), want: eventstore.Present, present: []int{0, 2, 3}},
			{append: add(name("usage"), noStream, ev("usage")), want: eventstore.Appended},
			// The first guarded element must wait for the write to w, and what follows must wait for it.
			{append: add(name("w"), 3, ev("too early")), want: eventstore.Conflict},
			{append: unless(add(name("x"), noStream, ev("x")), name("w"), name("y")), want: eventstore.Appended},
			{append: unless(add(name("y"), noStream, ev("y")), name("x"), name("z")), want: eventstore.Present, present: []int{0}},
			{append: unless(add(name("y"), noStream, ev("y")), name("w"), name("z")), want: eventstore.Appended},
			{append: add(name("z"), noStream, ev("z")), want: eventstore.Appended},
			{append: add(name("w"), noStream, ev("w")), want: eventstore.Appended},
			{append: unless(add(name("x"), 0, ev("x2")), name("v")), want: eventstore.Appended},
			{append: add(name("v"), noStream, ev("v")), want: eventstore.Appended},
			{append: unless(add(name("x"), 1, ev("x3")), name("v")), want: eventstore.Present, present: []int{0}},
			{append: add(name("x"), 1, ev("x4")), want: eventstore.Appended},
		}
	})
	e.streamIs(h, "x-globex", event("x", "globex"), event("x2", "globex"), event("x4", "globex"))
}

// Several elements compete for the same place, some of them guarded: each is judged on its own.
func absentSamePlace(e *env) {
	h := e.open()
	e.appendAll(h, func(tenant string, name func(string) stream) []step {
		ev := func(words ...any) eventstore.NewEvent { return event(append(words, tenant)...) }
		return []step{
			{append: add(name("u"), noStream, ev("u")), want: eventstore.Appended},
			// The guarded one leaves the place free for the same event or another.
			{append: unless(add(name("q"), noStream, ev("q")), name("u")), want: eventstore.Present, present: []int{0}},
			{append: unless(add(name("q"), noStream, ev("q")), name("free"), name("u")), want: eventstore.Present, present: []int{1}},
			{append: add(name("q"), noStream, ev("q")), want: eventstore.Appended},
			{append: unless(add(name("q"), noStream, ev("q")), name("u")), want: eventstore.Duplicate, as: 3},
			{append: unless(add(name("q"), noStream, ev("x")), name("u")), want: eventstore.Conflict},
			{append: unless(add(name("r"), noStream, ev("r")), name("free")), want: eventstore.Appended},
			{append: unless(add(name("r"), noStream, ev("r")), name("free")), want: eventstore.Duplicate, as: 6},
			{append: add(name("r"), noStream, ev("r")), want: eventstore.Duplicate, as: 6},
			{append: add(name("r"), noStream, ev("x")), want: eventstore.Conflict},
			{append: unless(add(name("s"), noStream, ev("s")), name("u")), want: eventstore.Present, present: []int{0}},
			{append: add(name("s"), noStream, ev("other")), want: eventstore.Appended},
			{append: unless(add(name("s"), 0, ev("s2")), name("u"), name("s")), want: eventstore.Present, present: []int{0, 1}},
			{append: unless(add(name("s"), 0, ev("s2")), name("free")), want: eventstore.Appended},
		}
	})
	e.streamIs(h, "q-initech", event("q", "initech"))
	e.streamIs(h, "s-initech", event("other", "initech"), event("s2", "initech"))
}

// A batch too large to be written at once: its guards apply across the parts that a store cuts it into.
func absentLargeBatch(e *env) {
	h := e.open()
	const n = 2000
	var batch []eventstore.Append
	for i := range n { // an even guard names a stream that began much earlier, an odd one a stream that begins much later
		batch = append(batch, add(usage(2*i), noStream, event("early", i)))
	}
	for i := range n {
		batch = append(batch, unless(add(stream("quota-"+strconv.Itoa(i)), noStream, event("guarded", i), event("second", i)),
			"quota-free", usage(2*(n-1-i)+i%2)))
	}
	for i := range n {
		batch = append(batch, add(usage(2*i+1), noStream, event("late", i)))
	}
	for i, r := range h.Append(e.ctx, batch) {
		what := fmt.Sprintf("element %d", i)
		if i/n == 1 && i%2 == 0 {
			e.present(what, r, 1)
		} else {
			e.outcome(what, r, eventstore.Appended)
		}
	}
}

// A guard is exact while others write: writers race to begin a stream and to write what must not come after it began. The log
// shows who was first. Of two streams that exclude each other, only one exists.
func concurrentAbsent(e *env) {
	handles := []*handle{e.open(), e.open(), e.open()}
	const writers, races = 6, 60
	const exclusive = 3 // every third race is of two guarded streams
	tenants := []string{"", "acme", "globex"}
	begin := func(n int) eventstore.Append {
		a := addAs(tenants[n%len(tenants)], usage(n), noStream, event("begin", n))
		if n%exclusive == 0 {
			a.Absent = []stream{stream("quota-" + strconv.Itoa(n))}
		}
		return a
	}
	guarded := func(n int) eventstore.Append {
		a := addAs(tenants[n%len(tenants)], stream("quota-"+strconv.Itoa(n)), noStream, event("guarded", n))
		return unless(a, "quota-free", usage(n))
	}
	var mu sync.Mutex
	answers := map[stream][]result{}
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			h := handles[w%len(handles)]
			side := begin
			if w%2 == 1 {
				side = guarded
			}
			dice := rand.New(rand.NewPCG(uint64(w), 4)) //nolint:gosec // a test's dice
			for n := 0; n < races; {                    // all in the same order, so that they collide
				var batch []eventstore.Append
				for range 1 + dice.IntN(3) {
					if n < races {
						batch = append(batch, side(n))
						n++
					}
				}
				results := h.Append(e.ctx, batch)
				mu.Lock()
				for i, a := range batch {
					answers[a.Stream] = append(answers[a.Stream], results[i])
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if e.Failed() {
		return
	}
	began := map[stream]position{}
	reader := e.open()
	for p := range reader.Partitions() {
		for _, r := range e.readAll(reader, p, 1000) {
			began[r.Stream] = r.Position
		}
	}
	for n := range races {
		u, q := begin(n), guarded(n)
		e.raced(u, answers[u.Stream], began)
		e.raced(q, answers[q.Stream], began)
		at, uExists := began[u.Stream]
		of, qExists := began[q.Stream]
		switch {
		case !uExists && !qExists:
			e.Fatalf("race %d: neither stream exists", n)
		case e.stores.Lacks.ExactAbsence != "":
		case n%exclusive == 0 && uExists && qExists:
			e.Fatalf("race %d: of two streams that exclude each other one begins at %s, the other at %s", n, at, of)
		case uExists && qExists && of.Offset > at.Offset:
			e.Fatalf("race %d: an append at %s needs a stream absent that began at %s", n, of, at)
		}
	}
}

// raced ends the case unless the answers to one append, sent by several writers, agree with each other and with the log.
func (e *env) raced(a eventstore.Append, answers []result, began map[stream]position) {
	e.Helper()
	appended := 0
	for i, r := range answers {
		switch {
		case r.Outcome == eventstore.Appended:
			appended++
		case r.Outcome == eventstore.Duplicate && r.Position == began[a.Stream]:
		case r.Outcome == eventstore.Present && len(a.Absent) > 0:
			e.present(fmt.Sprintf("%s, answer %d", a.Stream, i), r, len(a.Absent)-1)
		default:
			e.Fatalf("%s, answer %d: %s (%v)", a.Stream, i, named(r.Outcome), r.Err)
		}
	}
	if _, exists := began[a.Stream]; exists != (appended == 1) {
		e.Fatalf("%s was appended %d times, and is in the log: %t", a.Stream, appended, exists)
	}
}
