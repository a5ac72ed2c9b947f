package limit

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/btree"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// ErrGap: a decision is missing between the last one in the account and the one to apply. Load the account again.
var ErrGap = errors.New("a decision is missing")

// Source names a check, and the usage event that it announces, within a tenant.
type Source struct {
	Type   event.Type
	Source event.SourceID
}

func compareSources(a, b Source) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Source, b.Source))
}

// Account is what limits know about one tenant: a fold of its decisions and usage events. It is not safe for concurrent
// use.
type Account struct {
	tenant   event.TenantID
	revision eventstore.Revision // of the last decision
	state    State
	holds    map[Source]*Hold
	endings  *btree.BTreeG[lease] // of whole holds
	held     []*heldUnder         // of the policies that were asked for, the latest last
	series   map[Series]*series
	shapes   map[shape]int  // how many series there are of each
	values   int            // series of single values among them
	credit   *CreditTracker // nil where no limit looks at credit
	applied  int64          // offset of the last event that was applied
	reached  Tick           // the latest instant that the account was asked about: what had ended by then is gone
	forgot   Tick           // when buckets were dropped last

	windows  map[catalog.Period]calendar.Window // the ones asked for last
	calendar calendar.Calendar

	// journal undoes what was done since Begin, last first.
	journal   []func()
	recording bool
}

// Snapshot is an account as the quota read model has it.
type Snapshot struct {
	Revision eventstore.Revision // of the last decision in it; eventstore.NoStream if none
	State    State
	Holds    []Hold
	At       int64 // offset of the last event in it
}

// NewAccount makes an account from a snapshot. Apply what happened after it.
func NewAccount(t event.TenantID, s Snapshot) *Account {
	a := &Account{
		tenant: t, revision: s.Revision, state: s.State, holds: make(map[Source]*Hold, len(s.Holds)), endings: newTree(),
		series: map[Series]*series{}, shapes: map[shape]int{}, windows: map[catalog.Period]calendar.Window{},
	}
	for i := range s.Holds {
		a.put(&s.Holds[i])
	}
	return a
}

// Revision is that of the last decision.
func (a *Account) Revision() eventstore.Revision { return a.revision }

// AddSeries makes the account add up a series. Apply the facts that the log has after what is loaded.
func (a *Account) AddSeries(l Loaded) { a.addSeries(newSeries(l)) }

// SetCredit makes the account follow its tenant's credit. Apply the events after credit.At afterwards.
func (a *Account) SetCredit(c *CreditTracker) { a.credit = c }

// Misses reports whether the account does not know something that the policy looks at.
func (a *Account) Misses(p *Policy, now time.Time) bool {
	return p.Credits() && (a.credit == nil || a.credit.outdated(p, now)) || slices.ContainsFunc(p.needs, func(n Need) bool {
		s := a.series[n.Series]
		return s == nil || n.Minutes && !s.Need.Minutes
	})
}

// Entry is something that happened to the tenant, as the log has it.
type Entry struct {
	Position eventstore.Position
	Revision eventstore.Revision
	Payload  any
	Meters   []catalog.Meter // that count it, where it is about a fact
}

// Apply folds an event; events come in the order of the log. What is in the account already is skipped: events that were
// applied before, and decisions of its own. Error: ErrGap.
func (a *Account) Apply(e Entry) error {
	switch p := e.Payload.(type) {
	case event.LimitDecided, event.HoldReleased, event.HoldExpired:
		if e.Revision <= a.revision {
			break
		}
		if e.Revision != a.revision+1 {
			return fmt.Errorf("%w: revision %d of %s follows %d", ErrGap, e.Revision, a.tenant, a.revision)
		}
		a.decided(p, e.Position)
	case event.CreditGranted, event.CreditRefunded, event.InvoiceFinalised, event.InvoiceVoided:
		if a.credit != nil && e.Revision > a.credit.revision {
			a.credit.changed = true
		}
	case event.UsageRecorded:
		// A snapshot may be ahead of what is applied: then its hold was decided after the usage, and is not settled by it.
		if h := a.holds[Source{p.Type, p.Source}]; h != nil && h.Position.Offset < e.Position.Offset {
			a.drop(h.source())
		}
	}
	if e.Position.Offset <= a.applied {
		return nil
	}
	a.applied = e.Position.Offset
	for _, f := range FactsOf(e.Payload, e.Meters) {
		if a.credit != nil {
			a.credit.add(e.Position.Offset, f)
		}
		a.count(e.Position.Offset, f)
	}
	return nil
}

// decided folds the next event of the quota stream.
func (a *Account) decided(payload any, at eventstore.Position) {
	a.note(func(revision eventstore.Revision) func() { return func() { a.revision = revision } }(a.revision))
	a.revision++
	switch p := payload.(type) {
	case event.LimitDecided:
		a.state.apply(&p, a.note)
		if p.Keeps {
			a.drop(Source{p.Type, p.Source})
			a.put(&Hold{LimitDecided: p, Position: at})
		}
	case event.HoldReleased:
		a.drop(Source{p.Type, p.Source})
	case event.HoldExpired:
		a.drop(Source{p.Type, p.Source})
	}
}

func (a *Account) put(h *Hold) {
	source := h.source()
	a.holds[source] = h
	a.endings.ReplaceOrInsert(lease{ends: TickOf(h.KeepUntil), source: source})
	for _, of := range a.held {
		of.put(h)
	}
	a.note(func() { a.drop(source) })
}

func (a *Account) drop(source Source) {
	h := a.holds[source]
	if h == nil {
		return
	}
	delete(a.holds, source)
	a.endings.Delete(lease{ends: TickOf(h.KeepUntil), source: source})
	for _, of := range a.held {
		of.drop(h)
	}
	a.note(func() { a.put(h) })
}

func (a *Account) note(undo func()) {
	if a.recording {
		a.journal = append(a.journal, undo)
	}
}

// Begin starts to record, so that decisions which could not be appended can be taken back. Between Begin and Keep or
// Undo, nothing but Propose may change the account.
func (a *Account) Begin() { a.recording, a.journal = true, a.journal[:0] }

// Propose folds an event of the quota stream that is about to be appended.
func (a *Account) Propose(e event.QuotaEvent) { a.decided(e, eventstore.Position{}) }

// Keep confirms what was proposed; at is the answer to the append of these events.
func (a *Account) Keep(events []event.QuotaEvent, at eventstore.Result) {
	a.recording = false
	clear(a.journal)
	for i, e := range slices.Backward(events) { // a check that was decided twice is where it was decided last
		if d, ok := e.(event.LimitDecided); ok && d.Keeps {
			if h := a.holds[Source{d.Type, d.Source}]; h != nil && h.Position == (eventstore.Position{}) {
				h.Position = at.PositionOf(i, len(events))
			}
		}
	}
}

// Undo takes back what was proposed.
func (a *Account) Undo() {
	a.recording = false
	for i := len(a.journal) - 1; i >= 0; i-- {
		a.journal[i]()
	}
	clear(a.journal)
}

// clock is the account's own: never before an instant that it was asked about or decided at.
func (a *Account) clock(now time.Time) Tick { return max(TickOf(now), a.state.Now, a.reached) }

// advance lets time pass and returns the instant at which a decision is made: never before an earlier one.
func (a *Account) advance(now time.Time) Tick {
	at := a.clock(now)
	a.reached = at
	if at >= a.forgot.after(forgetEvery) {
		a.forgot = at
		for _, s := range a.series {
			s.forget(at)
		}
	}
	return at
}

// Hold returns an open hold.
func (a *Account) Hold(s Source, now time.Time) (Hold, bool) {
	h := a.open(s, a.clock(now))
	if h == nil {
		return Hold{}, false
	}
	return *h, true
}

func (a *Account) open(s Source, at Tick) *Hold {
	h := a.holds[s]
	if h == nil || TickOf(h.KeepUntil) <= at {
		return nil
	}
	return h
}

// Expired returns holds that have ended without anybody having said so, at most so many.
func (a *Account) Expired(now time.Time, most int) []event.QuotaEvent {
	at := a.clock(now)
	var ended []event.QuotaEvent
	a.endings.Ascend(func(l lease) bool {
		if l.ends > at || len(ended) == most {
			return false
		}
		ended = append(ended, event.HoldExpired{
			Identity:  event.Identity{Tenant: a.tenant, Type: l.source.Type, Source: l.source.Source},
			ExpiredAt: l.ends.Time(),
		})
		return true
	})
	return ended
}

// Release is the event that ends an open hold; nil where there is none.
func (a *Account) Release(s Source, now time.Time, by event.Actor) event.QuotaEvent {
	at := a.clock(now)
	if a.open(s, at) == nil {
		return nil
	}
	return event.HoldReleased{Identity: event.Identity{Tenant: a.tenant, Type: s.Type, Source: s.Source}, ReleasedAt: at.Time(), By: by}
}

// window is the period that contains an instant. The last answers are kept: nearly all checks fall into them.
func (a *Account) window(p *Policy, period catalog.Period, at Tick) calendar.Window {
	if a.calendar != p.Calendar {
		a.calendar = p.Calendar
		clear(a.windows)
	}
	t := at.Time()
	w := a.windows[period]
	if !w.Contains(t) {
		w = p.Calendar.Window(period, t)
		a.windows[period] = w
	}
	return w
}
