package app_test

import (
	"context"
	"errors"
	"math/rand"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

func TestRecordMixture(t *testing.T) {
	h := newFixture(t)
	first := h.Record(interview("a"))[0]
	require.Equal(t, app.Recorded, first.Status)
	require.Equal(t, noon, first.RecordedAt)

	changed := interview("a")
	changed.Quantity = money.Int(2)
	otherTime := interview("a")
	otherTime.OccurredAt = noon.Add(time.Microsecond)
	emitter := interview("a")
	emitter.Emitter, emitter.TraceParent = "/another", "00-1-2-01"
	spelled := interview("a")
	spelled.Quantity = money.MustParse("1.00")
	nothing := interview("c")
	nothing.Quantity = money.Int(0)
	stranger := interview("d")
	stranger.Tenant = "t9"
	unknown := interview("e")
	unknown.Type = "seance"
	neighbour := interview("a")
	neighbour.Tenant = "t2"

	receipts := h.Record(interview("a"), changed, interview("b"), nothing, stranger, unknown, interview("b"), emitter, otherTime, spelled, neighbour)
	require.Equal(t, "duplicate conflict recorded invalid invalid invalid duplicate duplicate conflict duplicate recorded", statuses(receipts))
	for _, i := range []int{0, 7, 9} {
		require.Equal(t, first.Position, receipts[i].Position)
		require.Equal(t, first.RecordedAt, receipts[i].RecordedAt)
	}
	require.Equal(t, receipts[2].Position, receipts[6].Position, "twice in one batch")
	require.ErrorIs(t, receipts[1].Err, app.ErrConflict)
	require.Equal(t, []string{"/quantity"}, conflicting(t, receipts[1]))
	require.Equal(t, []string{"/occurredAt"}, conflicting(t, receipts[8]))
	var bad *invalid.Error
	require.ErrorAs(t, receipts[3].Err, &bad)
	require.ErrorIs(t, receipts[4].Err, tenant.ErrUnknown)
	var unknownType *app.UnknownEventTypeError
	require.ErrorAs(t, receipts[5].Err, &unknownType)
	require.Equal(t, &app.UnknownEventTypeError{Type: "seance", Known: []string{"call", "interview", "tokens"}}, unknownType)
	require.ErrorContains(t, unknownType, "seance")

	require.Len(t, h.All()["usage_recorded"], 3)
	require.Len(t, h.All()["usage_conflicted"], 2)
	require.Empty(t, h.Record())
}

// conflicting are the fields in which an event differs from the recorded one.
func conflicting(t *testing.T, r app.Receipt) []string {
	t.Helper()
	var differs *app.SourceConflictError
	require.ErrorAs(t, r.Err, &differs)
	return differs.Fields
}

func TestAConflictNamesWhatDiffers(t *testing.T) {
	h := newFixture(t)
	first := tokens(t, "a", `{"model":"m","inputTokens":1,"a/b":{"c":[1]},"same":true,"gone":null}`)
	require.Equal(t, "recorded", statuses(h.Record(first)))
	id := first.Identity
	_, err := h.Ledger.Adjust(ctx, id, app.Adjustment{Quantity: money.Int(7), Reason: "r"}, "cli")
	require.NoError(t, err)

	again := first
	again.Quantity = money.Int(7)
	require.Equal(t, []string{"/quantity"}, conflicting(t, h.Record(again)[0]), "it is compared with what was sent, not with a correction")
	again = tokens(t, "a", `{"model":"n","inputTokens":1,"a/b":{"c":[2]},"same":true,"new":null}`)
	again.OccurredAt = again.OccurredAt.Add(time.Second)
	require.ElementsMatch(t, []string{"/occurredAt", "/data/model", "/data/a~1b", "/data/new", "/data/gone"}, conflicting(t, h.Record(again)[0]))
	require.ErrorContains(t, h.Record(again)[0].Err, "/data/model")

	// Many conflicts in one call are not all compared, and nothing else about them changes.
	many := make([]app.Submission, 100)
	for i := range many {
		many[i] = again
		many[i].Quantity = money.Int(int64(i + 2))
	}
	named := 0
	for _, r := range h.Record(many...) {
		require.Equal(t, app.Conflict, r.Status)
		if len(conflicting(t, r)) > 0 {
			named++
		}
	}
	require.Equal(t, 20, named)
}

// Support sees each payload that was refused, once however often it comes, and the fact stays what it was.
func TestConflictsAreNotedOnce(t *testing.T) {
	h := newFixture(t)
	h.Record(interview("a"))
	changed, more := interview("a"), interview("a")
	changed.Quantity, more.Quantity = money.Int(2), money.Int(3)
	for range 3 {
		require.Equal(t, "conflict conflict conflict", statuses(h.Record(changed, more, changed)))
	}
	noted := h.All()["usage_conflicted"]
	require.Len(t, noted, 2)
	e, err := event.Decode(noted[0])
	require.NoError(t, err)
	require.Equal(t, changed.Usage, e.(event.UsageConflicted).Usage)
	history, err := h.Ledger.Event(ctx, changed.Identity)
	require.NoError(t, err)
	require.Equal(t, interview("a").Usage, history.Current)
	require.Empty(t, history.Corrections)
}

// The note is for support: where it cannot be written, the refusal is the same, and the next try writes it.
func TestConflictWithoutNote(t *testing.T) {
	h := newFixture(t)
	h.Record(interview("a"))
	changed := interview("a")
	changed.Quantity = money.Int(2)
	h.Store.Fault = func(a eventstore.Append) fault {
		if strings.HasPrefix(string(a.Stream), "conflict-") {
			return before
		}
		return none
	}
	require.Equal(t, "conflict", statuses(h.Record(changed)))
	require.Empty(t, h.All()["usage_conflicted"])
	h.Store.Fault = nil
	require.Equal(t, "conflict", statuses(h.Record(changed)))
	require.Len(t, h.All()["usage_conflicted"], 1)
}

// What a meter adds up must be a number that a projection can add up; a missing field and null are none.
func TestMeteredFields(t *testing.T) {
	for text, pointers := range map[string]string{
		`{}`:                  "",
		`{"inputTokens":0}`:   "",
		`{"inputTokens":1.5}`: "",
		`{"inputTokens":null,"outputTokens":null}`:        "",
		`{"inputTokens":999999999999999999.999999999}`:    "",
		`{"latencyMs":-1,"cachedInputTokens":"many"}`:     "",
		`{"inputTokens":-1}`:                              "/data/inputTokens",
		`{"inputTokens":"12"}`:                            "/data/inputTokens",
		`{"inputTokens":true}`:                            "/data/inputTokens",
		`{"inputTokens":[1]}`:                             "/data/inputTokens",
		`{"inputTokens":1e18}`:                            "/data/inputTokens",
		`{"inputTokens":1e63}`:                            "/data/inputTokens",
		`{"inputTokens":1e-10}`:                           "/data/inputTokens",
		`{"inputTokens":-1,"outputTokens":"x"}`:           "/data/inputTokens /data/outputTokens",
		`{"gen_ai.usage.input_tokens":{"a":1}}`:           "/data/inputTokens",
		`{"outputTokens":0.0000000001,"model":[1,2,"3"]}`: "/data/outputTokens",
	} {
		t.Run(text, func(t *testing.T) {
			h := newFixture(t)
			r := h.Record(interview("a"), tokens(t, "x", text), interview("b"))
			require.Equal(t, app.Recorded, r[0].Status)
			require.Equal(t, app.Recorded, r[2].Status)
			var bad *invalid.Error
			var got []string
			if errors.As(r[1].Err, &bad) {
				for _, f := range bad.Fields {
					got = append(got, f.Pointer)
				}
			}
			require.Equal(t, pointers, strings.Join(got, " "))
			require.Equal(t, pointers == "", r[1].Status == app.Recorded)
			require.Equal(t, pointers != "", r[1].Status == app.Invalid)
		})
	}
}

// What is beside the fact must be what a store takes, or one sender's event could never be recorded and would be retried
// endlessly, with its whole batch.
func TestOriginIsChecked(t *testing.T) {
	h := newFixture(t)
	for i, origin := range []string{"a\x00", "a\xff", "a\nb", strings.Repeat("é", 1001)} {
		a, b := interview("a"), interview("b")
		a.Emitter, b.TraceParent = origin, origin
		require.Equal(t, "invalid invalid recorded", statuses(h.Record(a, b, interview("good "+strconv.Itoa(i)))))
	}
	long := interview("long")
	long.Emitter = strings.Repeat("é", 1000)
	require.Equal(t, "recorded", statuses(h.Record(long)))
}

func TestRecordWithoutCatalog(t *testing.T) {
	for name, text := range map[string]string{"none": "", "without meters": "flags: [{key: a, type: boolean, default: true}]"} {
		t.Run(name, func(t *testing.T) {
			h := emptyFixture(t)
			if text != "" {
				h.Apply(text)
			}
			_, err := h.Ledger.DefineTenant(ctx, tenant.Tenant{ID: "t1"}, "cli")
			require.NoError(t, err)
			r := h.Record(interview("a"))[0]
			var unknown *app.UnknownEventTypeError
			require.ErrorAs(t, r.Err, &unknown)
			require.Empty(t, unknown.Known)
			require.Equal(t, app.Invalid, r.Status)
		})
	}
}

// The revision of the catalog that counts an event is kept with it.
func TestRecordKeepsTheCatalogInForce(t *testing.T) {
	h := newFixture(t)
	h.Record(interview("a"))
	h.Apply(meters + "  - {key: more, eventType: interview, aggregation: count}\n")
	s := interview("b")
	s.Emitter, s.TraceParent = "/e", "t"
	h.Record(s)
	for source, want := range map[event.SourceID]event.Metadata{"a": {}, "b": {Catalog: 1, Emitter: "/e", TraceParent: "t"}} {
		id := interview(string(source)).Identity
		history, err := h.Ledger.Event(ctx, id)
		require.NoError(t, err)
		require.Equal(t, want, history.Original.Metadata)
	}
}

// A store or a directory that cannot tell is said so, one by one; the same again tells.
func TestRecordUnknownOutcomes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newFixture(t)
		faults := map[eventstore.StreamName]fault{}
		var all []app.Submission
		var want []string
		for i := range 20 {
			s := interview(strconv.Itoa(i))
			all = append(all, s)
			f := rapid.SampledFrom([]fault{none, before, after}).Draw(rt, "fault")
			faults[s.Stream()] = f
			want = append(want, map[fault]string{none: "recorded", before: "unknown", after: "unknown"}[f])
		}
		h.Store.Fault = func(a eventstore.Append) fault { return faults[a.Stream] }
		receipts := h.Record(all...)
		require.Equal(rt, strings.Join(want, " "), statuses(receipts))
		for _, r := range receipts {
			if r.Status == "" {
				require.ErrorIs(rt, r.Err, eventstore.ErrUnavailable)
				require.Equal(rt, app.Receipt{Err: r.Err}, r)
			}
		}
		original := map[eventstore.StreamName]eventstore.Position{}
		for _, r := range h.All()["usage_recorded"] {
			original[r.Stream] = r.Position
		}
		h.Store.Fault = nil
		for i, r := range h.Record(all...) {
			if faults[all[i].Stream()] == before {
				require.Equal(rt, app.Recorded, r.Status)
				continue
			}
			require.Equal(rt, app.Duplicate, r.Status)
			require.Equal(rt, original[all[i].Stream()], r.Position)
		}
		require.Len(rt, h.All()["usage_recorded"], len(all))
	})
}

func TestRecordWithoutDirectory(t *testing.T) {
	h := newFixture(t)
	h.Directory.Fail(errDown)
	r := h.Record(interview("a"), interview("b"))
	require.Equal(t, "unknown unknown", statuses(r))
	require.ErrorIs(t, r[1].Err, errDown)
	h.Directory.Fail(nil)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	r = h.Ledger.Record(cancelled, []app.Submission{interview("a")})
	require.ErrorIs(t, r[0].Err, eventstore.ErrUnavailable)
	require.Empty(t, h.All()["usage_recorded"])
}

// Many senders send the same facts, in any order and any batches: each is recorded once, every sender gets its one position,
// and a different event is refused.
func TestRecordConcurrently(t *testing.T) {
	const senders, facts = 32, 1000
	h := newFixture(t)
	positions := make([]sync.Map, facts) // position -> times
	var wg sync.WaitGroup
	recorded := make([][]int, senders)
	var liars sync.Map // payloads refused
	for sender := range senders {
		wg.Go(func() {
			r := rand.New(rand.NewSource(int64(sender)))
			recorded[sender] = make([]int, facts)
			order := r.Perm(facts)
			for len(order) > 0 {
				n := min(1+r.Intn(100), len(order))
				batch := make([]app.Submission, n)
				lies := make([]bool, n)
				for i, f := range order[:n] {
					batch[i] = interview(strconv.Itoa(f))
					if lies[i] = sender > 0 && r.Intn(20) == 0; lies[i] {
						batch[i].Quantity = money.Int(int64(2 + r.Intn(3)))
					}
				}
				for i, receipt := range h.Ledger.Record(ctx, batch) {
					f := order[i]
					switch receipt.Status {
					case app.Recorded:
						recorded[sender][f]++
						positions[f].Store(receipt.Position, batch[i].Quantity.String())
					case app.Duplicate:
						positions[f].Store(receipt.Position, batch[i].Quantity.String())
					case app.Conflict:
						liars.Store(batch[i].Identity, true)
					default:
						t.Errorf("%s: %v", receipt.Status, receipt.Err)
					}
				}
				order = order[n:]
			}
		})
	}
	wg.Wait()
	log := h.All()
	require.Len(t, log["usage_recorded"], facts)
	kept := map[event.SourceID]string{}
	for _, r := range log["usage_recorded"] {
		e, err := event.Decode(r)
		require.NoError(t, err)
		u := e.(event.UsageRecorded)
		f, err := strconv.Atoi(string(u.Source))
		require.NoError(t, err)
		kept[u.Source] = u.Usage.Quantity.String()
		times := 0
		for sender := range senders {
			times += recorded[sender][f]
		}
		require.Equal(t, 1, times, "recorded once")
		positions[f].Range(func(at, quantity any) bool {
			require.Equal(t, r.Position, at, "one position for all")
			require.Equal(t, u.Usage.Quantity.String(), quantity, "a duplicate said the same")
			return true
		})
	}
	require.Len(t, kept, facts)
	noted := map[string]bool{}
	for _, r := range log["usage_conflicted"] {
		e, err := event.Decode(r)
		require.NoError(t, err)
		c := e.(event.UsageConflicted)
		key := string(c.Source) + " " + c.Quantity.String()
		require.False(t, noted[key], "noted once")
		require.NotEqual(t, kept[c.Source], c.Quantity.String())
		noted[key] = true
		_, refused := liars.Load(c.Identity)
		require.True(t, refused)
	}
	require.NotEmpty(t, noted)
}
