package eventstoretest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

type original = eventstore.Original

// longAgo is the start of the other log.
var longAgo = time.Date(2024, 2, 29, 23, 59, 59, 123_456_000, time.UTC)

// from makes an event of another log, recorded the given number of seconds after its start.
func from(tenant string, name stream, at revision, second int) original {
	e := event(name, at)
	return original{ID: e.ID, Recorded: recorded{Stream: name, Revision: at, Tenant: tenant, Type: e.Type, Data: e.Data,
		RecordedAt: longAgo.Add(time.Duration(second) * time.Second)}}
}

// otherLog is a log with several tenants and kinds of streams, in its order.
func otherLog(events int) []original {
	var all []original
	next := map[stream]revision{}
	for i := range events {
		tenant := fmt.Sprintf("tenant-%d", i%5)
		name := usage(i)
		switch i % 4 {
		case 0:
			name = stream("quota-" + uuid.NewSHA1(uuid.NameSpaceURL, []byte(tenant)).String())
		case 1:
			tenant, name = "", "catalog"
		}
		all = append(all, from(tenant, name, next[name], i/3))
		next[name]++
	}
	return all
}

func (h *handle) copyable() eventstore.Copyable {
	h.env.Helper()
	m, ok := h.Store.(eventstore.Copyable)
	if !ok {
		h.env.Fatalf("the store is not copyable")
	}
	return m
}

// isCopy ends the case unless the log has exactly these events, each tenant's in this order.
func (e *env) isCopy(h *handle, want []original) {
	e.Helper()
	byTenant := map[string][]original{}
	for _, o := range want {
		byTenant[o.Tenant] = append(byTenant[o.Tenant], o)
	}
	n := 0
	for p := range h.Partitions() {
		for after := (position{Partition: p}); ; {
			page, err := h.copyable().ReadOriginals(e.ctx, after, 7)
			e.noError("read originals after "+after.String(), err)
			if len(page) == 0 {
				break
			}
			for _, got := range page {
				after = got.Position
				rest := byTenant[got.Tenant]
				if len(rest) == 0 {
					e.Fatalf("the copy has %s, but the other log has no more events of the tenant", describe(got.Recorded))
				}
				o := rest[0]
				byTenant[got.Tenant] = rest[1:]
				n++
				if problem := differs(got.Recorded, o.Stream, o.Revision, eventstore.NewEvent{Type: o.Type, Data: o.Data}); problem != "" {
					e.Fatalf("copy: %s", problem)
				}
				if got.ID != o.ID || !got.RecordedAt.Equal(o.RecordedAt) {
					e.Fatalf("copy of %s has the id %s, want %s, and %s, want %s", describe(got.Recorded), got.ID, o.ID, got.RecordedAt, o.RecordedAt)
				}
			}
		}
	}
	if n != len(want) {
		e.Fatalf("the copy has %d events, want %d", n, len(want))
	}
}

func copyImport(e *env) {
	h := e.open()
	all := otherLog(200)
	e.noError("import of nothing", h.copyable().Import(e.ctx, nil))
	for part := range slices.Chunk(all, 90) {
		e.noError("import", h.copyable().Import(e.ctx, part))
	}
	e.isCopy(h, all)
	e.isCopy(e.open(), all)
}

func copyImportAgain(e *env) {
	h, other := e.open(), e.open()
	all := otherLog(100)
	e.noError("import", h.copyable().Import(e.ctx, all[:60]))
	e.noError("the same again", other.copyable().Import(e.ctx, all[:60]))
	e.noError("some of it again, and more", other.copyable().Import(e.ctx, all[30:80]))
	e.noError("all of it", h.copyable().Import(e.ctx, all))
	e.isCopy(h, all)
}

func copyContinues(e *env) {
	h := e.open()
	all := []original{from("acme", usage(1), 0, 1), from("acme", "quota-acme", 0, 2), from("acme", "quota-acme", 1, 2), from("acme", "quota-acme", 2, 9)}
	e.noError("import", h.copyable().Import(e.ctx, all))
	again := func(o ...original) result {
		a := addAs("acme", o[0].Stream, o[0].Revision-1)
		for _, o := range o {
			a.Events = append(a.Events, eventstore.NewEvent{ID: o.ID, Type: o.Type, Data: o.Data})
		}
		return h.one(a)
	}
	for _, part := range [][]original{all[:1], all[1:2], all[1:3], all[2:4]} {
		r := again(part...)
		e.outcome("an event of the other log again", r, eventstore.Duplicate)
		last := part[len(part)-1]
		if !r.RecordedAt.Equal(last.RecordedAt) {
			e.Fatalf("a duplicate of %s@%d was recorded at %s, want %s", last.Stream, last.Revision, r.RecordedAt, last.RecordedAt)
		}
		there, err := h.ReadAt(e.ctx, []position{r.Position})
		e.noError("read at", err)
		if there[0].Stream != last.Stream || there[0].Revision != last.Revision {
			e.Fatalf("a duplicate of %s@%d is at %s, which has %s", last.Stream, last.Revision, r.Position, describe(there[0]))
		}
	}
	e.outcome("another event in its place", h.one(addAs("acme", usage(1), noStream, event("another"))), eventstore.Conflict)
	e.outcome("after a guard", h.one(unless(addAs("acme", "quota-new", noStream, event("guarded")), usage(1))), eventstore.Present)
	r := h.must(addAs("acme", "quota-acme", 2, event("next")))
	if r.RecordedAt.Before(all[3].RecordedAt) {
		e.Fatalf("the next event was recorded at %s, before the copied ones", r.RecordedAt)
	}
	// An event that is older than the end of the log is still imported.
	late := from("acme", usage(2), 0, 3)
	e.noError("import of a late event", h.copyable().Import(e.ctx, []original{late}))
	got := e.streamIs(h, usage(2), eventstore.NewEvent{ID: late.ID, Type: late.Type, Data: late.Data})[0]
	want := r.RecordedAt
	if e.stores.Lacks.SteadyClock != "" {
		want = late.RecordedAt
	}
	if !got.RecordedAt.Equal(want) {
		e.Fatalf("the late event was recorded at %s, want %s", got.RecordedAt, want)
	}
}

func copyRefusesOthers(e *env) {
	h := e.open()
	there := []original{from("acme", usage(1), 0, 1), from("acme", "quota-acme", 0, 2), from("acme", "quota-acme", 1, 2)}
	e.noError("import", h.copyable().Import(e.ctx, there))
	another := from("acme", "quota-acme", 1, 2)
	another.ID = event("another").ID
	for what, o := range map[string]original{
		"another event in its place": another,
		"a gap":                      from("acme", "quota-acme", 3, 4),
		"a stream without beginning": from("acme", usage(3), 1, 4),
	} {
		if err := h.copyable().Import(e.ctx, []original{o}); !errors.Is(err, eventstore.ErrNotACopy) {
			e.Fatalf("%s: %v, want ErrNotACopy", what, err)
		}
	}
	e.isCopy(h, there)
}

func copyBounds(e *env) {
	h := e.open()
	for what, c := range map[string]struct {
		change func(*original)
		want   error
	}{
		"no id":         {func(o *original) { o.ID = uuid.Nil }, eventstore.ErrInvalid},
		"no stream":     {func(o *original) { o.Stream = "" }, eventstore.ErrInvalid},
		"no instant":    {func(o *original) { o.RecordedAt = time.Time{} }, eventstore.ErrInvalid},
		"no revision":   {func(o *original) { o.Revision = -1 }, eventstore.ErrInvalid},
		"a large event": {func(o *original) { o.Data = make([]byte, eventstore.MaxEventBytes+1) }, eventstore.ErrTooLarge},
	} {
		o := from("acme", usage(1), 0, 1)
		c.change(&o)
		if err := h.copyable().Import(e.ctx, []original{o}); !errors.Is(err, c.want) {
			e.Fatalf("%s: %v, want %v", what, err, c.want)
		}
	}
	if err := h.copyable().Import(e.ctx, make([]original, eventstore.MaxReadLimit+1)); !errors.Is(err, eventstore.ErrTooLarge) {
		e.Fatalf("too many events: %v, want ErrTooLarge", err)
	}
	e.isCopy(h, nil)
}
