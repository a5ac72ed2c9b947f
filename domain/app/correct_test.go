package app_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

func (h *fixture) history(id event.Identity) app.History {
	h.T.Helper()
	history, err := h.Ledger.Event(ctx, id)
	require.NoError(h.T, err)
	return history
}

func to(quantity, reason string) app.Adjustment {
	return app.Adjustment{Quantity: money.MustParse(quantity), Reason: reason}
}

func TestVoid(t *testing.T) {
	h := newFixture(t)
	id := interview("a").Identity
	_, err := h.Ledger.Void(ctx, id, "test", "cli")
	require.ErrorIs(t, err, app.ErrNotFound)

	s := interview("a")
	s.Emitter = "/e"
	recorded := h.Record(s)[0]
	h.Now = noon.AddDate(3, 0, 0)
	first, err := h.Ledger.Void(ctx, id, "double report", "key:1")
	require.NoError(t, err)
	require.Equal(t, app.Recorded, first.Status)

	again, err := h.Ledger.Void(ctx, id, "double report", "key:2")
	require.NoError(t, err)
	require.Equal(t, app.Receipt{Status: app.Duplicate, Position: first.Position, RecordedAt: first.RecordedAt}, again)

	_, err = h.Ledger.Void(ctx, id, "another reason", "key:1")
	require.ErrorIs(t, err, app.ErrConflict)
	require.ErrorContains(t, err, "double report")

	_, err = h.Ledger.Adjust(ctx, id, to("2", "too late"), "key:1")
	require.ErrorIs(t, err, app.ErrConflict)

	require.Equal(t, app.History{
		Original: event.UsageRecorded{Usage: s.Usage, Metadata: event.Metadata{Emitter: "/e"}}, Position: recorded.Position, RecordedAt: recorded.RecordedAt,
		Corrections: []app.Correction{{Kind: "void", Reason: "double report", By: "key:1", Position: first.Position, RecordedAt: first.RecordedAt}},
		Current:     s.Usage, Voided: true,
	}, h.history(id))

	// A voided fact is still the fact: sent again, it is a duplicate and stays voided.
	require.Equal(t, []app.Receipt{{Status: app.Duplicate, Position: recorded.Position, RecordedAt: recorded.RecordedAt}}, h.Record(s))
	require.True(t, h.history(id).Voided)
}

func TestAdjust(t *testing.T) {
	h := newFixture(t)
	s := tokens(t, "a", `{"model":"o3","inputTokens":5}`)
	id := s.Identity
	_, err := h.Ledger.Adjust(ctx, id, to("2", "r"), "cli")
	require.ErrorIs(t, err, app.ErrNotFound)
	h.Record(s)

	first, err := h.Ledger.Adjust(ctx, id, to("2.50", "wrong"), "key:1")
	require.NoError(t, err)
	require.Equal(t, app.Recorded, first.Status)
	other := data(t, `{"model":"o4","inputTokens":7}`)
	second, err := h.Ledger.Adjust(ctx, id, app.Adjustment{Quantity: money.Int(3), Data: &other, Reason: "wrong model"}, "key:1")
	require.NoError(t, err)
	require.Equal(t, app.Recorded, second.Status)

	history := h.history(id)
	require.Equal(t, s.Usage, history.Original.Usage)
	require.False(t, history.Voided)
	want := s.Usage
	want.Quantity, want.Data = money.Int(3), other
	require.Equal(t, want, history.Current)
	require.Equal(t, []app.Correction{
		{Kind: "adjust", Reason: "wrong", By: "key:1", Quantity: money.MustParse("2.5"), Data: s.Data, Position: first.Position, RecordedAt: first.RecordedAt},
		{Kind: "adjust", Reason: "wrong model", By: "key:1", Quantity: money.Int(3), Data: other, Position: second.Position, RecordedAt: second.RecordedAt},
	}, history.Corrections)

	// A late retry of the older adjustment is recognised and does not bring the old value back.
	late, err := h.Ledger.Adjust(ctx, id, to("2.5", "wrong"), "key:1")
	require.NoError(t, err)
	require.Equal(t, app.Receipt{Status: app.Duplicate, Position: first.Position, RecordedAt: first.RecordedAt}, late)
	require.Equal(t, want, h.history(id).Current)

	// To bring it back is another adjustment, with a reason of its own.
	back, err := h.Ledger.Adjust(ctx, id, to("2.5", "it was right"), "key:1")
	require.NoError(t, err)
	require.Equal(t, app.Recorded, back.Status)
	want.Quantity = money.MustParse("2.5")
	require.Equal(t, want, h.history(id).Current, "data that was not named stays as it was last")

	// With the same quantity and reason but other data, or no data where there was some, it is another one.
	third := data(t, `{"inputTokens":1}`)
	r, err := h.Ledger.Adjust(ctx, id, app.Adjustment{Quantity: money.MustParse("2.5"), Data: &third, Reason: "wrong"}, "key:1")
	require.NoError(t, err)
	require.Equal(t, app.Recorded, r.Status)
	r, err = h.Ledger.Adjust(ctx, id, to("3", "wrong model"), "key:1")
	require.NoError(t, err)
	require.Equal(t, app.Recorded, r.Status, "the one before changed the data, this one does not")
	require.Equal(t, third, h.history(id).Current.Data)

	_, err = h.Ledger.Void(ctx, id, "never happened", "key:1")
	require.NoError(t, err)
	r, err = h.Ledger.Adjust(ctx, id, to("2.5", "it was right"), "key:1")
	require.NoError(t, err)
	require.Equal(t, app.Receipt{Status: app.Duplicate, Position: back.Position, RecordedAt: back.RecordedAt}, r, "also when it is void by now")
	require.True(t, h.history(id).Voided)
}

func TestCorrectionBounds(t *testing.T) {
	h := newFixture(t)
	h.Record(tokens(t, "a", `{}`))
	id := tokens(t, "a", `{}`).Identity
	bad := data(t, `{"inputTokens":-1,"outputTokens":"x"}`)
	for name, c := range map[string]struct {
		adjustment app.Adjustment
		pointer    string
	}{
		"nothing":                {to("0", "r"), "/quantity"},
		"less than nothing":      {to("-1", "r"), "/quantity"},
		"19 digits":              {to("1e18", "r"), "/quantity"},
		"10 digits of fraction":  {to("1e-10", "r"), "/quantity"},
		"no reason":              {to("1", ""), "/reason"},
		"a reason of 501":        {to("1", strings.Repeat("é", 501)), "/reason"},
		"NUL in a reason":        {to("1", "a\x00"), "/reason"},
		"invalid UTF-8":          {to("1", "a\xff"), "/reason"},
		"data of no use":         {app.Adjustment{Quantity: money.Int(1), Data: &bad, Reason: "r"}, "/data/inputTokens"},
		"a reason in two lines":  {to("1", "a\nb"), ""},
		"a reason of 500":        {to("1", strings.Repeat("é", 500)), ""},
		"the most digits":        {to("999999999999999999.999999999", "r"), ""},
		"the least there can be": {to("0.000000001", "r"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.Ledger.Adjust(ctx, id, c.adjustment, "cli")
			if c.pointer == "" {
				require.NoError(t, err)
				return
			}
			var refused *invalid.Error
			require.ErrorAs(t, err, &refused)
			require.Equal(t, c.pointer, refused.Fields[0].Pointer)
			if c.pointer == "/reason" {
				_, err := h.Ledger.Void(ctx, id, c.adjustment.Reason, "cli")
				require.ErrorAs(t, err, &refused)
			}
		})
	}
}

// An adjustment is judged by the meters that count the fact, those of the time when it was recorded.
func TestAdjustUsesTheMetersOfTheFact(t *testing.T) {
	h := newFixture(t)
	h.Record(interview("a"))
	h.Apply("meters:\n  - {key: minutes, eventType: interview, value: data.minutes, aggregation: sum}\n")
	text := data(t, `{"minutes":"many"}`)
	_, err := h.Ledger.Adjust(ctx, interview("a").Identity, app.Adjustment{Quantity: money.Int(2), Data: &text, Reason: "r"}, "cli")
	require.NoError(t, err)
	h.Apply("meters: []\n")
	_, err = h.Ledger.Adjust(ctx, interview("a").Identity, to("3", "r"), "cli")
	require.NoError(t, err)
}

// A fact takes a bounded number of corrections, and its whole history can still be read.
func TestCorrectionsAreBounded(t *testing.T) {
	h := newFixture(t)
	h.Record(interview("a"))
	id := interview("a").Identity
	u := interview("a").Usage
	for i := range 1000 {
		a := event.UsageAdjusted{Usage: u, Quantity: money.Int(int64(i + 2)), Reason: "r"}
		u = a.After()
		require.Equal(t, eventstore.Appended, h.Log.Append(ctx, []eventstore.Append{a.Append(eventstore.Revision(i))})[0].Outcome)
	}
	var refused *invalid.Error
	_, err := h.Ledger.Adjust(ctx, id, to("5000", "r"), "cli")
	require.ErrorAs(t, err, &refused)
	_, err = h.Ledger.Void(ctx, id, "r", "cli")
	require.ErrorAs(t, err, &refused)
	r, err := h.Ledger.Adjust(ctx, id, to("1001", "r"), "cli")
	require.NoError(t, err)
	require.Equal(t, app.Duplicate, r.Status)
	require.Len(t, h.history(id).Corrections, 1000)
	require.Equal(t, "1001", h.history(id).Current.Quantity.String())
}

// All who correct the same fact at the same time come through, one after the other, each on what the one before left.
func TestConcurrentCorrections(t *testing.T) {
	h := newFixture(t)
	h.Record(interview("a"))
	id := interview("a").Identity
	const people = 24
	receipts := make([]app.Receipt, 2*people)
	var wg sync.WaitGroup
	for i := range 2 * people {
		wg.Go(func() {
			var err error
			receipts[i], err = h.Ledger.Adjust(ctx, id, to(strconv.Itoa(i/2+2), fmt.Sprint("person ", i/2)), "cli") // everyone twice
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	history := h.history(id)
	require.Len(t, history.Corrections, people)
	for i := 0; i < len(receipts); i += 2 {
		require.Equal(t, receipts[i].Position, receipts[i+1].Position)
		require.ElementsMatch(t, []app.Status{app.Recorded, app.Duplicate}, []app.Status{receipts[i].Status, receipts[i+1].Status})
	}
	before := history.Original.Usage
	for _, r := range h.All()["usage_adjusted"] {
		e, err := event.Decode(r)
		require.NoError(t, err)
		require.Equal(t, before, e.(event.UsageAdjusted).Usage, "it carries the fact as it stood before")
		before = e.(event.UsageAdjusted).After()
	}
	require.Equal(t, before, history.Current)

	// Of those who void it for different reasons, one comes through.
	voided := make([]error, people)
	for i := range people {
		wg.Go(func() { _, voided[i] = h.Ledger.Void(ctx, id, fmt.Sprint("person ", i), "cli") })
	}
	wg.Wait()
	won := 0
	for _, err := range voided {
		if err == nil {
			won++
			continue
		}
		require.ErrorIs(t, err, app.ErrConflict)
	}
	require.Equal(t, 1, won)
}

// A lost answer: the same correction again tells what became of it.
func TestCorrectionWithUnknownOutcome(t *testing.T) {
	for _, f := range []fault{before, after} {
		h := newFixture(t)
		h.Record(interview("a"))
		id := interview("a").Identity
		for _, correct := range []func() (app.Receipt, error){
			func() (app.Receipt, error) { return h.Ledger.Adjust(ctx, id, to("2", "r"), "cli") },
			func() (app.Receipt, error) { return h.Ledger.Void(ctx, id, "r", "cli") },
		} {
			h.Store.Fault = func(eventstore.Append) fault { return f }
			_, err := correct()
			require.ErrorIs(t, err, eventstore.ErrUnavailable)
			h.Store.Fault = nil
			r, err := correct()
			require.NoError(t, err)
			require.Equal(t, map[fault]app.Status{before: app.Recorded, after: app.Duplicate}[f], r.Status)
		}
		require.Len(t, h.history(id).Corrections, 2)
	}
}

func TestEventOfAnotherTenant(t *testing.T) {
	h := newFixture(t)
	_, err := h.Ledger.Event(ctx, interview("a").Identity)
	require.ErrorIs(t, err, app.ErrNotFound)
	h.Record(interview("a"))
	for _, id := range []event.Identity{{Tenant: "t2", Type: "interview", Source: "a"}, {Tenant: "t1", Type: "call", Source: "a"}, {Tenant: "t1", Type: "interview", Source: "b"}} {
		_, err := h.Ledger.Event(ctx, id)
		require.ErrorIs(t, err, app.ErrNotFound)
	}
	stray := event.TenantDefined{Tenant: "t1"}.Append(0)
	stray.Stream = interview("a").Stream()
	require.Equal(t, eventstore.Appended, h.Log.Append(ctx, []eventstore.Append{stray})[0].Outcome)
	_, err = h.Ledger.Event(ctx, interview("a").Identity)
	require.ErrorIs(t, err, event.ErrMalformed)
}

// adjustment and fact are the naive model of a fact with its corrections.
type adjustment struct {
	quantity, reason string
	left             string // data before it
	data             string // data after it
}

type fact struct {
	original, current submission
	adjustments       []adjustment
	voided            bool
	reason            string
}

type submission struct{ quantity, data string }

// Random commands, some of them lost on the way, against a model that knows nothing of streams: every answer and every
// fact's state is the model's after each command, and what a reader folds from the log at the end is the model as well.
func TestLedgerAgainstModel(t *testing.T) {
	whole := t
	rapid.Check(t, func(t *rapid.T) {
		h := newFixture(failer{TB: whole, t: t})
		model := map[event.Identity]*fact{}
		id := rapid.Map(rapid.SampledFrom([]string{"t1/a", "t1/b", "t2/a"}), func(s string) event.Identity {
			return event.Identity{Tenant: event.TenantID(s[:2]), Type: "tokens", Source: event.SourceID(s[3:])}
		})
		quantity, reason := rapid.SampledFrom([]string{"1", "2", "3"}), rapid.SampledFrom([]string{"r", "s"})
		payload := rapid.SampledFrom([]string{`{}`, `{"inputTokens":1}`, `{"inputTokens":2}`})
		lost := func(t *rapid.T) fault {
			f := rapid.SampledFrom([]fault{none, none, none, before, after}).Draw(t, "fault")
			h.Store.Fault = func(eventstore.Append) fault { return f }
			return f
		}
		// outcome compares an answer with the model's; a lost one tells nothing, and changes something or not.
		outcome := func(t *rapid.T, want app.Status, got app.Status, err error, f fault, change func()) {
			if want == app.Recorded && f != none {
				require.ErrorIs(t, err, eventstore.ErrUnavailable)
				if f == after {
					change()
				}
				return
			}
			if want == app.Conflict {
				require.ErrorIs(t, err, app.ErrConflict)
				return
			}
			require.NoError(t, err)
			require.Equal(t, want, got)
			if want == app.Recorded {
				change()
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"record": func(t *rapid.T) {
				i, s := id.Draw(t, "id"), submission{quantity.Draw(t, "quantity"), payload.Draw(t, "data")}
				known, want, f := model[i], app.Recorded, none
				if known == nil {
					f = lost(t)
				} else if want = app.Conflict; known.original == s {
					want = app.Duplicate
				}
				r := h.Record(app.Submission{Usage: event.Usage{Identity: i, Quantity: money.MustParse(s.quantity), OccurredAt: noon, Data: data(t, s.data)}})[0]
				outcome(t, want, r.Status, r.Err, f, func() { model[i] = &fact{original: s, current: s} })
			},
			"void": func(t *rapid.T) {
				i, why := id.Draw(t, "id"), reason.Draw(t, "reason")
				known := model[i]
				f := lost(t)
				r, err := h.Ledger.Void(ctx, i, why, "cli")
				switch {
				case known == nil:
					require.ErrorIs(t, err, app.ErrNotFound)
				case !known.voided:
					outcome(t, app.Recorded, r.Status, err, f, func() { known.voided, known.reason = true, why })
				case known.reason == why:
					outcome(t, app.Duplicate, r.Status, err, f, nil)
				default:
					outcome(t, app.Conflict, r.Status, err, f, nil)
				}
			},
			"adjust": func(t *rapid.T) {
				i, a := id.Draw(t, "id"), adjustment{quantity: quantity.Draw(t, "quantity"), reason: reason.Draw(t, "reason")}
				var given *event.Data
				if rapid.Bool().Draw(t, "with data") {
					a.data = payload.Draw(t, "data")
					d := data(t, a.data)
					given = &d
				}
				known := model[i]
				f := lost(t)
				r, err := h.Ledger.Adjust(ctx, i, app.Adjustment{Quantity: money.MustParse(a.quantity), Data: given, Reason: a.reason}, "cli")
				if known == nil {
					require.ErrorIs(t, err, app.ErrNotFound)
					return
				}
				want := app.Recorded
				if known.voided {
					want = app.Conflict
				}
				for _, earlier := range known.adjustments {
					same := earlier.data == earlier.left
					if given != nil {
						same = earlier.data == a.data
					}
					if same && earlier.quantity == a.quantity && earlier.reason == a.reason {
						want = app.Duplicate
					}
				}
				outcome(t, want, r.Status, err, f, func() {
					if a.left = known.current.data; given == nil {
						a.data = a.left
					}
					known.adjustments = append(known.adjustments, a)
					known.current = submission{a.quantity, a.data}
				})
			},
			"": func(t *rapid.T) {
				h.Store.Fault = nil
				for i, f := range model {
					history := h.history(i)
					require.Equal(t, f.current, submission{history.Current.Quantity.String(), string(history.Current.Data.AppendJSON(nil))})
					require.Equal(t, f.original, submission{history.Original.Usage.Quantity.String(), string(history.Original.Data.AppendJSON(nil))})
					require.Equal(t, f.voided, history.Voided)
					n := len(f.adjustments)
					if f.voided {
						n++
					}
					require.Len(t, history.Corrections, n)
				}
			},
		})

		folded := map[event.Identity]submission{}
		for p := range h.Log.Partitions() {
			page, err := h.Log.ReadLog(ctx, eventstore.Position{Partition: p}, eventstore.MaxReadLimit)
			require.NoError(t, err)
			for _, r := range page {
				e, err := event.Decode(r)
				require.NoError(t, err)
				said := func(u event.Usage) submission {
					return submission{u.Quantity.String(), string(u.Data.AppendJSON(nil))}
				}
				switch e := e.(type) {
				case event.UsageRecorded:
					folded[e.Identity] = said(e.Usage)
				case event.UsageVoided:
					require.Equal(t, folded[e.Identity], said(e.Usage))
					delete(folded, e.Identity)
				case event.UsageAdjusted:
					require.Equal(t, folded[e.Identity], said(e.Usage))
					folded[e.Identity] = said(e.After())
				}
			}
		}
		want := map[event.Identity]submission{}
		for i, f := range model {
			if !f.voided {
				want[i] = f.current
			}
		}
		require.Equal(t, want, folded)
	})
}

// failer lets the fixture fail a property.
type failer struct {
	testing.TB
	t *rapid.T
}

func (f failer) Helper()                           {}
func (f failer) Errorf(format string, args ...any) { f.t.Errorf(format, args...) }
func (f failer) FailNow()                          { f.t.FailNow() }
