package eventstoretest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

func dataExactBytes(e *env) {
	h := e.open()
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	noise := make([]byte, eventstore.MaxEventBytes)
	dice := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's dice
	for i := range noise {
		noise[i] = byte(dice.Uint32())
	}
	payloads := map[string][]byte{
		"nil":               nil,
		"empty":             {},
		"one NUL":           {0},
		"NUL inside":        []byte("before\x00after"),
		"NULs at the ends":  []byte("\x00\x00text\x00\x00"),
		"invalid UTF-8":     []byte("\xff\xfe\xc3\x28\xed\xa0\x80"),
		"lone surrogate":    []byte(`{"text":"\ud800"}`),
		"escaped NUL":       []byte(`{"text":"\u0000"}`),
		"every byte":        every,
		"spaces":            []byte("  \t\r\n  "),
		"json order":        []byte(`{"b": 1,  "a": 1.50, "a": 2e0}`),
		"backslashes":       []byte(`\x00 \\ \' '' "" $1 $$ %s`),
		"largest, noise":    noise,
		"largest, one byte": bytes.Repeat([]byte{'a'}, eventstore.MaxEventBytes),
		"unicode":           []byte("Zürich \u00e9 e\u0301 日本 \U0001F9FE"),
	}
	all := add("invoice-all", noStream)
	for what, data := range payloads {
		ev := event(what)
		ev.Data = data
		first := h.must(add(stream("invoice-"+what), noStream, ev))
		e.original(what, h.one(add(stream("invoice-"+what), noStream, ev)), first)
		got := e.streamIs(h, stream("invoice-"+what), ev)
		fromLog, err := h.ReadAt(e.ctx, []position{first.Position})
		e.noError("read at", err)
		e.same(what+", read at its position", fromLog, got)
		all.Events = append(all.Events, ev)
	}
	if e.stores.Lacks.LargeAppends != "" {
		r := h.one(all)
		if r.Outcome != eventstore.Unknown || !errors.Is(r.Err, eventstore.ErrTooLarge) {
			e.Fatalf("a large append: outcome %s (error: %v), want ErrTooLarge", named(r.Outcome), r.Err)
		}
		e.streamIs(h, all.Stream)
		all.Events = slices.DeleteFunc(all.Events, func(ev eventstore.NewEvent) bool { return len(ev.Data) == eventstore.MaxEventBytes })
	}
	h.must(all)
	e.streamIs(h, all.Stream, all.Events...)
}

// oddNames are texts that must be kept exactly and stay distinct.
func oddNames() []string {
	const id = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	names := []string{
		// A store may pack uuids and categories, but two names must never become one.
		"usage-" + id, "quota-" + id, "invoice-" + id, "Usage-" + id, "usage-" + strings.ToUpper(id),
		"usage-6BA7b810-9dad-11d1-80b4-00c04fd430c8", "usage-" + strings.ReplaceAll(id, "-", ""),
		"usage-{" + id + "}", "usage-urn:uuid:" + id, "usage-" + id + " ", "usage- " + id, " usage-" + id,
		"usage-" + id + "-", "usage--" + id, "usage_" + id, "usage" + id, "-" + id, id, "usage-x-" + id,
		"usage-" + id + "-" + id, "usage-" + id[:35], "usage-" + id + "0",
		"usage-00000000-0000-0000-0000-000000000000", "usage-ffffffff-ffff-ffff-ffff-ffffffffffff",
		"usage-6ba7b8109-dad-11d1-80b4-00c04fd430c8",
		// Separators, quotes and spaces.
		"-", "--", "---", "a", "a-", "-a", "a-b", "a-b-c", "a--b", "a-b-", "a_b", "a b", "a  b", "a\tb", "a\nb", "a/b", `a\b`, "a'b",
		`a"b`, "a''b", "a%b", "a_%", "a$b", "a:b", "a,b", "{a,b}", "(a)", "a;b", "a.b", "a#b", "a?b", "null", "NULL", "0", "00", "-1",
		// Unicode that looks alike, or is equal only after normalisation or case folding.
		"quota-Zürich", "quota-zürich", "quota-ZÜRICH", "quota-Zu\u0308rich", "quota-Zurich", "quota-straße", "quota-strasse",
		"quota-日本", "quota-\u200b", "quota-\u202e", "quota-\U0001F9FE", "quota-\ufeff", "quota-İ", "quota-i", "quota-I", "quota-ı",
		"quota-A", "quota-a", "quota-\uff41", "quota-\u0430", "quota-\ufffd", "quota-\u00a0", "quota- ", "quota-",
	}
	// The longest names, different only in the first or last byte, with one and with several bytes per letter.
	long := strings.Repeat("n", eventstore.MaxNameLength-1)
	wide := strings.Repeat("ü", (eventstore.MaxNameLength-1)/2)
	return append(names, long+"a", long+"b", "a"+long, "b"+long, long, wide+"a", wide+"b", wide)
}

func dataStreamNames(e *env) {
	h, other := e.open(), e.open()
	names := oddNames()
	var batch []eventstore.Append
	for i, name := range names {
		batch = append(batch, add(stream(name), noStream, event("of", name, i)))
	}
	first := h.Append(e.ctx, batch)
	for i, r := range first {
		e.outcome(fmt.Sprintf("stream %q", names[i]), r, eventstore.Appended)
	}
	for i, name := range names {
		e.streamIs(other, stream(name), event("of", name, i))
	}
	// The second events, one by one, each find their stream at revision 0.
	for i, name := range names {
		e.original(fmt.Sprintf("stream %q again", name), other.one(batch[i]), first[i])
		other.must(add(stream(name), 0, event("second", name)))
	}
	for i, name := range names {
		e.streamIs(h, stream(name), event("of", name, i), event("second", name))
	}
}

// Invalid text is kept exactly or refused with ErrInvalid. It is never an outage, and never affects other elements.
func dataNoText(e *env) {
	h := e.open()
	type odd struct{ stream, tenant, kind string }
	odds := []odd{
		{"quota-\x00", "", "noted"}, {"quota-a\x00b", "", "noted"}, {"quota-a", "", "noted"}, {"quota-\xff", "", "noted"},
		{"quota-\xfe", "", "noted"}, {"quota-\xed\xa0\x80", "", "noted"}, {"quota-\xc3", "", "noted"},
		{"quota-t1", "\x00", "noted"}, {"quota-t2", "a\x00", "noted"}, {"quota-t3", "\xff", "noted"}, {"quota-t4", "\xfe", "noted"},
		{"quota-k1", "", "\x00"}, {"quota-k2", "", "noted\x00"}, {"quota-k3", "", "\xff"}, {"quota-k4", "", "\xfe"},
	}
	var batch []eventstore.Append
	for i, o := range odds {
		ev := event("odd", i)
		ev.Type = o.kind
		batch = append(batch, addAs(o.tenant, stream(o.stream), noStream, ev), add(usage(i), noStream, event("good", i)))
	}
	results := h.Append(e.ctx, batch)
	for i, r := range results {
		words := string(batch[i].Stream) + batch[i].Tenant + batch[i].Events[0].Type
		text := utf8.ValidString(words) && !strings.Contains(words, "\x00")
		what := fmt.Sprintf("stream %q tenant %q type %q", batch[i].Stream, batch[i].Tenant, batch[i].Events[0].Type)
		switch {
		case text || r.Outcome != eventstore.Unknown:
			e.outcome(what, r, eventstore.Appended)
			e.streamIs(h, batch[i].Stream, batch[i].Events...)
		case !errors.Is(r.Err, eventstore.ErrInvalid):
			e.Fatalf("%s: %v, want ErrInvalid", what, r.Err)
		}
	}
	for i, a := range batch {
		if again := h.one(a); again.Outcome != eventstore.Duplicate && results[i].Outcome == eventstore.Appended {
			e.Fatalf("stream %q: repetition is %s, want Duplicate", a.Stream, named(again.Outcome))
		}
	}
}

func dataTenants(e *env) {
	h := e.open()
	var batch []eventstore.Append
	for i, name := range oddNames() {
		batch = append(batch, addAs(name, stream("quota-"+strconv.Itoa(i)), noStream, event("of", name)))
	}
	for i, r := range h.Append(e.ctx, batch) {
		e.outcome(fmt.Sprintf("tenant %q", batch[i].Tenant), r, eventstore.Appended)
		got := e.streamIs(h, batch[i].Stream, batch[i].Events...)
		if got[0].Tenant != batch[i].Tenant {
			e.Fatalf("tenant %q came back as %q", batch[i].Tenant, got[0].Tenant)
		}
	}
}

func dataTypes(e *env) {
	h, other := e.open(), e.open()
	kinds := []string{
		"a", "A", "interview.completed", "Interview.Completed", "größe.geändert", "日本.語", "\U0001F9FE", " ", "a b", "a'b", `a"b`, `a\b`,
		"{a,b}", "NULL", "null", "0",
		strings.Repeat("t", 255), strings.Repeat("t", 254) + "u", strings.Repeat("ü", 127),
	}
	for i := range 300 {
		kinds = append(kinds, "event.type."+strconv.Itoa(i))
	}
	a := add("invoice-types", noStream)
	for i, kind := range kinds {
		ev := event("type", i)
		ev.Type = kind
		a.Events = append(a.Events, ev)
	}
	// Two handles get the same new types: what they cache about types must agree.
	half := len(kinds) / 2
	h.must(add(a.Stream, noStream, a.Events[:half]...))
	other.must(add(a.Stream, revision(half)-1, a.Events[half:]...))
	for _, reader := range []*handle{h, other, e.open()} {
		e.streamIs(reader, a.Stream, a.Events...)
	}
	h.must(add("invoice-types-2", noStream, a.Events...))
	e.streamIs(other, "invoice-types-2", a.Events...)
}

// An answer, a repetition's answer and every read have the same time, and times never go back.
func dataRecordedAt(e *env) {
	handles := []*handle{e.open(), e.open()}
	var last time.Time
	for i := range 50 {
		h := handles[i%2]
		a := add(usage(i), noStream, event(i), event(i, "second"))
		r := h.must(a)
		if r.RecordedAt.Before(last) && e.stores.Lacks.SteadyClock == "" {
			e.Fatalf("append %d was recorded at %s, before its predecessor at %s", i, r.RecordedAt, last)
		}
		last = r.RecordedAt
		e.original("repetition", handles[(i+1)%2].one(a), r)
		got := e.streamIs(handles[(i+1)%2], usage(i), a.Events...)
		if !got[1].RecordedAt.Equal(r.RecordedAt) {
			e.Fatalf("append %d was recorded at %s, but is read as %s", i, r.RecordedAt, got[1].RecordedAt)
		}
	}
}
