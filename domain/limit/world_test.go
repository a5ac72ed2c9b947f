package limit_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

const acme = event.TenantID("acme")

// start is a Monday, far from any change of a clock.
var start = time.Date(2026, 1, 12, 10, 0, 0, 0, time.UTC)

// meters are those of every test: of calls, the number, the quantity and a field; of jobs, the quantity.
var meters = []catalog.Meter{
	{Key: "calls", EventType: "call", Aggregation: catalog.Count},
	{Key: "jobs", EventType: "job", Aggregation: catalog.Sum},
	{Key: "tokens", EventType: "call", Value: "data.tokens", Aggregation: catalog.Sum, Dimensions: []string{"model"}},
	{Key: "units", EventType: "call", Aggregation: catalog.Sum},
}

func metersOf(t event.Type) []catalog.Meter {
	return catalog.Catalog{Meters: meters}.MetersOf(string(t))
}

func length(text string) catalog.Duration {
	d, err := catalog.ParseDuration(text)
	if err != nil {
		panic(err)
	}
	return d
}

func period(p catalog.Period) catalog.Window { return catalog.Window{Period: p} }
func sliding(text string) catalog.Window     { return catalog.Window{Length: length(text)} }

func on(types ...string) []string { return types }

func zone(t require.TestingT, name string) *time.Location {
	z, err := time.LoadLocation(name)
	require.NoError(t, err)
	return z
}

// world is one tenant with its log: what a test does to the account also stands in the log, in its encoded form.
type world struct {
	t        require.TestingT
	plan     catalog.Plan
	sub      tenant.Subscription
	zone     *time.Location
	now      time.Time
	latest   time.Time // that the account was asked about
	account  *limit.Account
	revision eventstore.Revision
	log      []limit.Entry
	needs    []limit.Need
}

func newWorld(t require.TestingT, limits ...catalog.Limit) *world {
	return &world{
		t:        t,
		plan:     catalog.Plan{Key: "pro", Currency: "USD", Limits: limits},
		sub:      tenant.Subscription{Assignments: []tenant.Assignment{{Plan: "pro", BillingAnchor: start}}},
		zone:     time.UTC,
		now:      start,
		account:  limit.NewAccount(acme, limit.Snapshot{Revision: eventstore.NoStream}),
		revision: eventstore.NoStream,
	}
}

// clock is the instant at which a decision would be made.
func (w *world) clock() time.Time {
	if w.latest.After(w.now) {
		return w.latest
	}
	return w.now
}

// policy is what holds now. The account is made to know what it looks at.
func (w *world) policyAt(at time.Time) *limit.Policy {
	return limit.NewPolicy(&catalog.Catalog{Meters: meters, Plans: []catalog.Plan{w.plan, others}}, nil, w.sub, tenant.Active, w.zone, at)
}

// others is a plan that no tenant of a test is on. Its sliding windows are remembered for whoever comes to it.
var others = catalog.Plan{Key: "others", Currency: "USD", Limits: []catalog.Limit{
	{Key: "a", Kind: catalog.Rate, On: on("call"), Max: money.Int(1), Window: sliding("1m")},
	{Key: "b", Kind: catalog.Rate, On: on("call"), Max: money.Int(1), Window: sliding("10m")},
	{Key: "c", Kind: catalog.Rate, On: on("call", "job"), Max: money.Int(1), Window: sliding("1h"), Per: []string{"user"}},
}}

func (w *world) policy() *limit.Policy {
	w.latest = w.clock()
	p := w.policyAt(w.clock())
	if w.account.Misses(p, w.latest) {
		for _, n := range p.Needs() {
			n.Minutes = true
			if !slices.ContainsFunc(w.needs, func(o limit.Need) bool { return o.Series == n.Series }) {
				w.needs = append(w.needs, n)
			}
		}
		w.account = w.fold()
		require.False(w.t, w.account.Misses(p, w.latest))
		w.account.View(p, w.latest, event.Data{}) // its time is that of the one before
	}
	return p
}

// fold is the account as the whole log makes it.
func (w *world) fold() *limit.Account {
	return w.replay(limit.NewAccount(acme, limit.Snapshot{Revision: eventstore.NoStream}), w.log)
}

func (w *world) replay(a *limit.Account, log []limit.Entry) *limit.Account {
	for _, n := range w.needs {
		a.AddSeries(limit.Loaded{Need: n})
	}
	for _, e := range log {
		require.NoError(w.t, a.Apply(e))
	}
	return a
}

func (w *world) next() eventstore.Position { return eventstore.Position{Offset: int64(len(w.log)) + 1} }

// load makes the account know the sums of the levels that data belongs to.
func (w *world) load(p *limit.Policy, data event.Data) *limit.Policy {
	for _, n := range w.account.Missing(p.NeedsOf("", data)) {
		n.Minutes = true
		w.account.AddValue(limit.Loaded{Need: n}, w.log, int64(len(w.log)))
		if !slices.ContainsFunc(w.needs, func(o limit.Need) bool { return o.Series == n.Series }) {
			w.needs = append(w.needs, n)
		}
	}
	return p
}

// check decides and, where there is something to record, records.
func (w *world) check(ask limit.Ask) limit.Answer {
	answer := w.account.Decide(w.load(w.policy(), ask.Data), ask, w.now)
	if answer.Record {
		w.append(answer.LimitDecided)
	}
	return answer
}

// ask decides and records nothing.
func (w *world) ask(ask limit.Ask, at time.Time) limit.Answer {
	return w.account.Decide(w.load(w.policy(), ask.Data), ask, at)
}

func (w *world) append(events ...event.QuotaEvent) {
	w.account.Begin()
	for _, e := range events {
		w.account.Propose(e)
	}
	w.account.Keep(events, eventstore.Result{Position: w.record(events...)})
}

// record writes events into the log, as they are read from it, and returns where the last one stands.
func (w *world) record(events ...event.QuotaEvent) eventstore.Position {
	a := event.AppendDecisions(uuid.Nil, acme, w.revision, events, nil)
	var last eventstore.Position
	for _, e := range a.Events {
		w.revision++
		last = w.next()
		payload, err := event.Decode(eventstore.Recorded{
			Position: last, Stream: a.Stream, Revision: w.revision, Tenant: a.Tenant, Type: e.Type, Data: e.Data,
		})
		require.NoError(w.t, err)
		w.log = append(w.log, limit.Entry{Position: last, Revision: w.revision, Payload: payload})
	}
	return last
}

// tell records something about a fact.
func (w *world) tell(payload any, t event.Type) {
	e := limit.Entry{Position: w.next(), Payload: payload, Meters: metersOf(t)}
	w.log = append(w.log, e)
	require.NoError(w.t, w.account.Apply(e))
}

func (w *world) use(u event.Usage) { w.tell(event.UsageRecorded{Usage: u}, u.Type) }

// settle records that a check's work was done just now.
func (w *world) settle(ask limit.Ask, quantity string) {
	w.use(event.Usage{Identity: ask.Identity, Quantity: money.MustParse(quantity), OccurredAt: w.now, Data: ask.Data})
}

func (w *world) release(s limit.Source) bool {
	e := w.account.Release(s, w.now, "test")
	if e == nil {
		return false
	}
	w.append(e)
	return true
}

func (w *world) pass(d time.Duration) { w.now = w.now.Add(d) }

func (w *world) override(key catalog.LimitKey, most string) {
	w.sub = w.sub.SetOverride(tenant.Override{Limit: key, Max: money.MustParse(most)})
}

func source(ask limit.Ask) limit.Source { return limit.Source{Type: ask.Type, Source: ask.Source} }

func identity(t event.Type, source event.SourceID) event.Identity {
	return event.Identity{Tenant: acme, Type: t, Source: source}
}

// call is a check; fields are names and values in turn.
func call(source event.SourceID, quantity string, fields ...any) limit.Ask {
	data := map[string]any{}
	for i := 0; i < len(fields); i += 2 {
		data[fields[i].(string)] = fields[i+1]
	}
	return limit.Ask{Check: event.Check{Identity: identity("call", source), Quantity: money.MustParse(quantity), Data: event.NewData(data)}}
}

// nth is a source of its own for each number.
func nth(i int) event.SourceID { return event.SourceID(fmt.Sprintf("s%d", i)) }

// part is what a limit said.
func part(t require.TestingT, e event.LimitDecided, key string) event.LimitPart {
	i := slices.IndexFunc(e.Parts, func(p event.LimitPart) bool { return p.Limit == key })
	require.GreaterOrEqual(t, i, 0, "the limit %s has nothing to say", key)
	return e.Parts[i]
}

// text is all that an account shows about itself, for comparisons: equal numbers have equal texts.
func (w *world) text(a *limit.Account) string { return w.textAt(a, w.now) }

func (w *world) textAt(a *limit.Account, at time.Time) string {
	view := a.View(w.policy(), at, event.Data{})
	parts := make([]event.LimitPart, len(view))
	for i := range view {
		parts[i] = view[i].LimitPart
	}
	text, err := json.MarshalIndent(struct {
		Parts    []event.LimitPart
		Holds    []limit.Hold
		Revision eventstore.Revision
	}{parts, a.Held(w.policy(), at), a.Revision()}, "", " ")
	require.NoError(w.t, err)
	return string(text)
}

func why(a limit.Answer) limit.Reason { return limit.Why(&a.LimitDecided) }

func text(t require.TestingT, v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	require.NoError(t, err)
	return string(b)
}

func (w *world) holds() []limit.Hold { return w.account.Held(w.policy(), w.now) }

func mustBe(t testing.TB, want, got money.Decimal, what string) {
	t.Helper()
	require.Equal(t, want.String(), got.String(), what)
}
