package eventstoretest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Short names for the port's types, which the cases use all the time.
type (
	stream   = eventstore.StreamName
	revision = eventstore.Revision
	position = eventstore.Position
	result   = eventstore.Result
	recorded = eventstore.Recorded
)

const noStream = eventstore.NoStream

// env is the environment of one case.
type env struct {
	TB
	ctx    context.Context //nolint:containedctx // it lives as long as the case, as in testing.T
	test   *testing.T
	stores Stores
	limits deadlines

	mu           sync.Mutex
	acknowledged []acknowledgement
}

// acknowledgement is an append that was acknowledged as durable.
type acknowledgement struct {
	append eventstore.Append
	result result
}

// open returns a new handle on the case's log.
func (e *env) open() *handle {
	e.Helper()
	return &handle{Store: e.stores.Open(e.test), env: e}
}

// handle is a store under test. It checks the form of every answer and records what was acknowledged.
type handle struct {
	eventstore.Store
	env *env
}

// Append always returns one result per element, whatever the store did, so that the case can continue.
func (h *handle) Append(ctx context.Context, batch []eventstore.Append) []result {
	e := h.env
	sent := copyOf(batch)
	results := h.Store.Append(ctx, batch)
	if len(results) != len(batch) {
		e.Errorf("an append of %d elements was answered by %d results", len(batch), len(results))
		results = append(results, make([]result, len(batch))...)[:len(batch)]
	}
	for i, r := range results {
		what := fmt.Sprintf("element %d of %d (%s after %d)", i, len(batch), clip(string(sent[i].Stream)), sent[i].Expected)
		if r.Outcome != eventstore.Present && len(r.Present) > 0 {
			e.Errorf("%s: outcome %s, but present streams %v", what, named(r.Outcome), r.Present)
		}
		switch r.Outcome {
		case eventstore.Appended, eventstore.Duplicate:
			if r.Err != nil {
				e.Errorf("%s: outcome %s with an error: %v", what, named(r.Outcome), r.Err)
			}
			if want := eventstore.PartitionOf(sent[i].Tenant, h.Partitions()); r.Position.Partition != want {
				e.Errorf("%s: position %s, but tenant %q is in partition %d", what, r.Position, sent[i].Tenant, want)
			}
			if r.Position.Offset < 1 {
				e.Errorf("%s: position %s; offsets start at 1", what, r.Position)
			}
			if r.RecordedAt.IsZero() || !r.RecordedAt.Equal(r.RecordedAt.Truncate(time.Microsecond)) {
				e.Errorf("%s: recorded at %s, which is not in whole microseconds", what, r.RecordedAt)
			}
		case eventstore.Conflict:
			if r.Err != nil {
				e.Errorf("%s: outcome %s with an error: %v", what, named(r.Outcome), r.Err)
			}
		case eventstore.Present:
			if r.Err != nil {
				e.Errorf("%s: outcome %s with an error: %v", what, named(r.Outcome), r.Err)
			}
			if problem := noIndexes(r.Present, len(sent[i].Absent)); problem != "" {
				e.Errorf("%s: present streams %v of %d: %s", what, r.Present, len(sent[i].Absent), problem)
			}
		case eventstore.Unknown:
			if r.Err == nil {
				e.Errorf("%s: outcome unknown without an error", what)
			}
		default:
			e.Errorf("%s: outcome %d does not exist", what, r.Outcome)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, r := range results {
		if r.Outcome == eventstore.Appended {
			e.acknowledged = append(e.acknowledged, acknowledgement{sent[i], r})
		}
	}
	return results
}

// noIndexes is why these are not ascending indexes into n streams; "" if they are.
func noIndexes(present []int, n int) string {
	if len(present) == 0 {
		return "none"
	}
	last := -1
	for _, i := range present {
		if i <= last {
			return "not ascending"
		}
		last = i
	}
	if last >= n {
		return "out of range"
	}
	return ""
}

// one appends a single element.
func (h *handle) one(a eventstore.Append) result {
	return h.Append(h.env.ctx, []eventstore.Append{a})[0]
}

// must appends a single element, which must be new.
func (h *handle) must(a eventstore.Append) result {
	h.env.Helper()
	r := h.one(a)
	h.env.outcome("append of "+clip(string(a.Stream)), r, eventstore.Appended)
	return r
}

// outcome ends the case unless an append had the outcome.
func (e *env) outcome(what string, got result, want eventstore.Outcome) {
	e.Helper()
	if got.Outcome != want {
		e.Fatalf("%s: outcome %s (error: %v), want %s", what, named(got.Outcome), got.Err, named(want))
	}
}

// present ends the case unless the outcome is Present with exactly these Absent streams.
func (e *env) present(what string, got result, want ...int) {
	e.Helper()
	e.outcome(what, got, eventstore.Present)
	if !slices.Equal(got.Present, want) {
		e.Fatalf("%s: present streams %v, want %v", what, got.Present, want)
	}
}

// original ends the case unless got is a duplicate with the position and time of the first append.
func (e *env) original(what string, got, first result) {
	e.Helper()
	e.outcome(what, got, eventstore.Duplicate)
	if got.Position != first.Position || !got.RecordedAt.Equal(first.RecordedAt) {
		e.Fatalf("%s: duplicate at %s of %s, want the original %s of %s",
			what, got.Position, got.RecordedAt, first.Position, first.RecordedAt)
	}
}

// streamIs ends the case unless the stream has exactly these events.
func (e *env) streamIs(h *handle, name stream, want ...eventstore.NewEvent) []recorded {
	e.Helper()
	got, err := h.ReadStream(e.ctx, name, 0, eventstore.MaxReadLimit)
	e.noError("read stream "+clip(string(name)), err)
	if len(got) != len(want) {
		e.Fatalf("stream %s has %d events, want %d", clip(string(name)), len(got), len(want))
	}
	for i, r := range got {
		if problem := differs(r, name, revision(i), want[i]); problem != "" {
			e.Fatalf("stream %s: %s", clip(string(name)), problem)
		}
	}
	return got
}

// differs is how an event that was read differs from the one that was sent; "" if it does not.
func differs(r recorded, name stream, at revision, sent eventstore.NewEvent) string {
	switch {
	case r.Stream != name:
		return fmt.Sprintf("event is in stream %q, want %q", clip(string(r.Stream)), clip(string(name)))
	case r.Revision != at:
		return fmt.Sprintf("event has revision %d, want %d", r.Revision, at)
	case r.Type != sent.Type:
		return fmt.Sprintf("event %d has type %q, want %q", at, clip(r.Type), clip(sent.Type))
	case !bytes.Equal(r.Data, sent.Data):
		return fmt.Sprintf("event %d has %d bytes %q, want %d bytes %q",
			at, len(r.Data), clip(string(r.Data)), len(sent.Data), clip(string(sent.Data)))
	}
	return ""
}

func (e *env) noError(what string, err error) {
	e.Helper()
	if err != nil {
		e.Fatalf("%s: %v", what, err)
	}
}

// head is the last position of a partition.
func (e *env) head(h *handle, partition int) position {
	e.Helper()
	p, err := h.Head(e.ctx, partition)
	e.noError(fmt.Sprintf("head of partition %d", partition), err)
	if p.Partition != partition {
		e.Fatalf("head of partition %d is %s", partition, p)
	}
	return p
}

// readAll reads one partition in pages. Each page must continue where the one before it ended.
func (e *env) readAll(h *handle, partition, page int) []recorded {
	e.Helper()
	var all []recorded
	after := position{Partition: partition}
	for {
		events, err := h.ReadLog(e.ctx, after, page)
		e.noError("read log after "+after.String(), err)
		if len(events) > page {
			e.Fatalf("read log after %s: %d events, limit %d", after, len(events), page)
		}
		if len(events) == 0 {
			return all
		}
		e.follows(after, events)
		after = events[len(events)-1].Position
		all = append(all, events...)
	}
}

// follows ends the case unless the events are directly after a position, in order and without holes.
func (e *env) follows(after position, events []recorded) {
	e.Helper()
	for _, r := range events {
		want := position{Partition: after.Partition, Offset: after.Offset + 1}
		if e.stores.Lacks.DenseOffsets != "" && r.Position.Partition == want.Partition && r.Position.Offset > want.Offset {
			want = r.Position
		}
		if r.Position != want {
			e.Fatalf("the log has %s directly after %s, want %s", r.Position, after, want)
		}
		after = want
	}
}

// same ends the case unless two reads returned the same events.
func (e *env) same(what string, got, want []recorded) {
	e.Helper()
	if len(got) != len(want) {
		e.Fatalf("%s: %d events, want %d", what, len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		if g.Position != w.Position || g.Stream != w.Stream || g.Revision != w.Revision || g.Tenant != w.Tenant ||
			g.Type != w.Type || !g.RecordedAt.Equal(w.RecordedAt) || !bytes.Equal(g.Data, w.Data) {
			e.Fatalf("%s: event %d is %s, want %s", what, i, describe(g), describe(w))
		}
	}
}

// audit reads the whole log through a new handle and checks it against every rule and every acknowledgement.
func (e *env) audit() {
	e.Helper()
	h := e.open()
	if dense := e.stores.Lacks.DenseOffsets == ""; h.DenseOffsets() != dense {
		e.Fatalf("audit: DenseOffsets is %t, but the store's features say %t", h.DenseOffsets(), dense)
	}
	streams := map[stream][]recorded{}
	for p := range h.Partitions() {
		log := e.readAll(h, p, 5000)
		var last position
		var clock time.Time
		for _, r := range log {
			last = r.Position
			if want := eventstore.PartitionOf(r.Tenant, h.Partitions()); want != p {
				e.Fatalf("audit: %s is in partition %d, want %d", describe(r), p, want)
			}
			if r.RecordedAt.Before(clock) && e.stores.Lacks.SteadyClock == "" {
				e.Fatalf("audit: %s was recorded before its predecessor, at %s", describe(r), clock)
			}
			clock = r.RecordedAt
			if want := revision(len(streams[r.Stream])); r.Revision != want {
				e.Fatalf("audit: %s, want revision %d", describe(r), want)
			}
			streams[r.Stream] = append(streams[r.Stream], r)
		}
		if head := e.head(h, p); head.Offset != last.Offset {
			e.Fatalf("audit: head of partition %d is %s, its last event is at %s", p, head, last)
		}
		// The first, the last and some events between are enough to compare the two ways to read.
		var at []position
		var want []recorded
		for i := 0; i < len(log); i += 1 + len(log)/100 {
			at, want = append(at, log[i].Position), append(want, log[i])
		}
		got, err := h.ReadAt(e.ctx, at)
		e.noError("audit: read at", err)
		e.same("audit: read at", got, want)
	}
	for name, want := range sample(streams, 200) {
		got, err := h.ReadStream(e.ctx, name, 0, eventstore.MaxReadLimit)
		e.noError("audit: read stream", err)
		e.same("audit: stream "+clip(string(name)), got, want)
	}
	e.auditAcknowledged(streams)
}

func (e *env) auditAcknowledged(streams map[stream][]recorded) {
	e.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	type place struct {
		stream   stream
		revision revision
	}
	taken := map[place]bool{}
	for _, a := range e.acknowledged {
		events := streams[a.append.Stream]
		for i, sent := range a.append.Events {
			at := a.append.Expected + 1 + revision(i)
			if at >= revision(len(events)) {
				e.Fatalf("audit: event %d of %s was acknowledged and lost", at, clip(string(a.append.Stream)))
			}
			if taken[place{a.append.Stream, at}] {
				e.Fatalf("audit: event %d of %s was acknowledged twice as new", at, clip(string(a.append.Stream)))
			}
			taken[place{a.append.Stream, at}] = true
			if problem := differs(events[at], a.append.Stream, at, sent); problem != "" {
				e.Fatalf("audit: acknowledged %s, but %s", clip(string(a.append.Stream)), problem)
			}
			if got := a.result.PositionOf(i, len(a.append.Events)); got != events[at].Position {
				e.Fatalf("audit: acknowledged event %d of %s at %s, but the log has %s", i, clip(string(a.append.Stream)), got, describe(events[at]))
			}
			if events[at].Tenant != a.append.Tenant {
				e.Fatalf("audit: tenant is %q, want %q", clip(events[at].Tenant), clip(a.append.Tenant))
			}
		}
		last := events[a.append.Expected+revision(len(a.append.Events))]
		if last.Position != a.result.Position || !last.RecordedAt.Equal(a.result.RecordedAt) {
			e.Fatalf("audit: acknowledged at %s of %s, but the log has %s",
				a.result.Position, a.result.RecordedAt, describe(last))
		}
	}
}

// sample is up to n entries of a map.
func sample[K comparable, V any](m map[K]V, n int) map[K]V {
	some := make(map[K]V, n)
	for k, v := range m {
		if len(some) == n {
			break
		}
		some[k] = v
	}
	return some
}

// event makes an event with an id derived from the words: the same words give the same event.
func event(words ...any) eventstore.NewEvent {
	text := fmt.Sprintf("%q", words)
	return eventstore.NewEvent{ID: uuid.NewSHA1(uuid.NameSpaceOID, []byte(text)), Type: "noted", Data: []byte(text)}
}

// add is an append for the system itself.
func add(name stream, expected revision, events ...eventstore.NewEvent) eventstore.Append {
	return eventstore.Append{Stream: name, Expected: expected, Events: events}
}

// addAs is an append for a tenant.
func addAs(tenant string, name stream, expected revision, events ...eventstore.NewEvent) eventstore.Append {
	return eventstore.Append{Stream: name, Tenant: tenant, Expected: expected, Events: events}
}

// unless adds Absent streams to an append.
func unless(a eventstore.Append, absent ...stream) eventstore.Append {
	a.Absent = absent
	return a
}

// tenantOf finds a tenant of a partition.
func tenantOf(partition, partitions int) string {
	for i := 0; ; i++ {
		if tenant := "tenant-" + strconv.Itoa(i); eventstore.PartitionOf(tenant, partitions) == partition {
			return tenant
		}
	}
}

// usage is the name of the n-th usage stream; stores may keep these names in a compact form.
func usage(n int) stream {
	return stream("usage-" + uuid.NewSHA1(uuid.NameSpaceURL, []byte(strconv.Itoa(n))).String())
}

func copyOf(batch []eventstore.Append) []eventstore.Append {
	batch = slices.Clone(batch)
	for i := range batch {
		batch[i].Absent = slices.Clone(batch[i].Absent)
		batch[i].Events = slices.Clone(batch[i].Events)
		for j := range batch[i].Events {
			batch[i].Events[j].Data = bytes.Clone(batch[i].Events[j].Data)
		}
	}
	return batch
}

func describe(r recorded) string {
	return fmt.Sprintf("%s %s@%d of %q type %q at %s (%d bytes %q)", r.Position, clip(string(r.Stream)), r.Revision,
		clip(r.Tenant), clip(r.Type), r.RecordedAt.Format(time.RFC3339Nano), len(r.Data), clip(string(r.Data)))
}

// clip keeps messages readable: some cases use very long names and payloads.
func clip(text string) string {
	if len(text) > 60 {
		return text[:60] + "..."
	}
	return text
}

func named(o eventstore.Outcome) string {
	switch o {
	case eventstore.Unknown:
		return "Unknown"
	case eventstore.Appended:
		return "Appended"
	case eventstore.Duplicate:
		return "Duplicate"
	case eventstore.Conflict:
		return "Conflict"
	case eventstore.Present:
		return "Present"
	}
	return strconv.Itoa(int(o))
}
