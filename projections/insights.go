package projections

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/limit"
)

// InsightsModel is the name of the read model that holds what operators ask over many events, per day.
const InsightsModel = "insights"

// DaySeconds is the width of a row of the insights: a day in UTC, since providers change their prices by it.
const DaySeconds = 24 * 60 * 60

// CallsDelta is how much a range of events adds to one row of calls.
type CallsDelta struct {
	Tenant event.TenantID
	// Day is the start of the day in which the facts occurred: seconds since 1970-01-01 UTC.
	Day  int64
	Type event.Type
	// Hash stands for the four texts in keys, because they can be longer than an index entry may be.
	Hash                                    [16]byte
	Provider, Model, Feature, PromptVersion string

	Events   int64
	Counted  int64 // that say how many tokens were used
	Retries  int64
	Failures int64
	costs.Tokens
	// Latency counts by bucket, in the order of buckets, those whose count changes.
	Latency []insight.LatencyCount
}

// DecisionsDelta is how many decisions a range of events adds to one row of denials.
type DecisionsDelta struct {
	Tenant event.TenantID
	Day    int64 // in which they were made; as in CallsDelta
	Type   event.Type
	// Limit is one that denied, with its reason; several may have denied one check. Without a limit it is about whole decisions,
	// and Reason is what they were denied for, "" for those that allowed.
	Limit, Reason string
	Decisions     int64
}

// InsightsChange is what a range of events adds, in the order of the rows' keys. A row that events touched is there even when
// they cancel out: whether a row exists must not depend on how the log was cut into ranges.
type InsightsChange struct {
	Calls     []CallsDelta
	Decisions []DecisionsDelta
}

// InsightsFold sums up events to one delta per row. It is not safe for concurrent use. It needs memory for the rows that its
// events touch since the last Take, never for the events.
type InsightsFold struct {
	calls     map[string]*callsCell
	decisions map[DecisionsDelta]int64 // by their keys
	buckets   int                      // of all histograms
	key       []byte
}

// callsCell is one row in the making.
type callsCell struct {
	delta                 CallsDelta
	input, cached, output sum
	latency               insight.Histogram // nil without latencies
}

// NewInsightsFold makes an empty fold.
func NewInsightsFold() *InsightsFold {
	return &InsightsFold{calls: map[string]*callsCell{}, decisions: map[DecisionsDelta]int64{}}
}

// Add folds events.
func (f *InsightsFold) Add(events []event.Decoded) {
	for i := range events {
		switch e := events[i].Payload.(type) {
		case event.UsageRecorded:
			f.call(e.Usage, 1)
		case event.UsageVoided:
			f.call(e.Usage, -1)
		case event.UsageAdjusted:
			f.call(e.Usage, -1)
			f.call(e.After(), 1)
		case event.LimitDecided:
			f.decision(&e)
		}
	}
}

// Len is how much the events since the last Take touch: rows, and buckets of their histograms.
func (f *InsightsFold) Len() int { return len(f.calls) + len(f.decisions) + f.buckets }

// call adds (sign 1) or takes back (sign -1) one fact.
func (f *InsightsFold) call(u event.Usage, sign int64) {
	call := insight.CallOf(u)
	c := f.cell(&u, &call)
	c.delta.Events += sign
	if call.Retried {
		c.delta.Retries += sign
	}
	if call.Failed {
		c.delta.Failures += sign
	}
	if call.Counted {
		c.delta.Counted += sign
		c.input.add(call.Input, sign)
		c.cached.add(call.CachedInput, sign)
		c.output.add(call.Output, sign)
	}
	if call.Timed {
		if c.latency == nil {
			c.latency = insight.Histogram{}
		}
		f.buckets -= len(c.latency)
		c.latency[call.Latency] += sign
		f.buckets += len(c.latency)
	}
}

// cell finds the row of the read model that a fact counts in.
func (f *InsightsFold) cell(u *event.Usage, call *insight.Call) *callsCell {
	day := floor(u.OccurredAt.Unix(), DaySeconds)
	k := f.key[:0]
	for _, text := range []string{call.Provider, call.Model, call.Feature, call.PromptVersion} {
		k = append(binary.AppendUvarint(k, uint64(len(text))), text...)
	}
	labels := len(k)
	k = binary.LittleEndian.AppendUint64(k, uint64(day)) //nolint:gosec // only a key
	k = append(append(k, u.Tenant...), 0)                // an id has no NUL
	k = append(k, u.Type...)
	f.key = k
	if c := f.calls[string(k)]; c != nil {
		return c
	}
	hash := sha256.Sum256(k[:labels])
	c := &callsCell{delta: CallsDelta{
		// These are parts of larger strings of the log's page, which a row in the making must not keep alive.
		Tenant: event.TenantID(strings.Clone(string(u.Tenant))), Day: day, Type: event.Type(strings.Clone(string(u.Type))), Hash: [16]byte(hash[:16]),
		Provider: strings.Clone(call.Provider), Model: strings.Clone(call.Model), Feature: strings.Clone(call.Feature), PromptVersion: strings.Clone(call.PromptVersion),
	}}
	f.calls[string(k)] = c
	return c
}

func (f *InsightsFold) decision(e *event.LimitDecided) {
	of := DecisionsDelta{Tenant: e.Tenant, Day: floor(e.DecidedAt.Unix(), DaySeconds), Type: e.Type}
	if !e.Allowed {
		for i := range e.Parts {
			if p := &e.Parts[i]; p.Denied {
				of.Limit, of.Reason = p.Limit, string(limit.ReasonOf(p.Kind))
				f.decide(of)
			}
		}
		of.Limit, of.Reason = "", string(limit.Why(e))
	}
	f.decide(of)
}

func (f *InsightsFold) decide(of DecisionsDelta) {
	if n, ok := f.decisions[of]; ok {
		f.decisions[of] = n + 1
		return
	}
	of.Tenant, of.Type, of.Limit = event.TenantID(strings.Clone(string(of.Tenant))), event.Type(strings.Clone(string(of.Type))), strings.Clone(of.Limit)
	f.decisions[of] = 1
}

// Take returns what the events add, and starts again with none.
func (f *InsightsFold) Take() InsightsChange {
	change := InsightsChange{Calls: make([]CallsDelta, 0, len(f.calls)), Decisions: make([]DecisionsDelta, 0, len(f.decisions))}
	for _, c := range f.calls {
		d := &c.delta
		d.Input, d.CachedInput, d.Output = c.input.value(), c.cached.value(), c.output.value()
		for b, n := range c.latency {
			if n != 0 {
				d.Latency = append(d.Latency, insight.LatencyCount{Bucket: b, Count: n})
			}
		}
		slices.SortFunc(d.Latency, func(a, b insight.LatencyCount) int { return cmp.Compare(a.Bucket, b.Bucket) })
		change.Calls = append(change.Calls, *d)
	}
	for d, n := range f.decisions {
		d.Decisions = n
		change.Decisions = append(change.Decisions, d)
	}
	clear(f.calls)
	clear(f.decisions)
	f.buckets = 0
	slices.SortFunc(change.Calls, func(a, b CallsDelta) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Day, b.Day), cmp.Compare(a.Type, b.Type), slices.Compare(a.Hash[:], b.Hash[:]))
	})
	slices.SortFunc(change.Decisions, func(a, b DecisionsDelta) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Day, b.Day), cmp.Compare(a.Type, b.Type),
			cmp.Compare(a.Limit, b.Limit), cmp.Compare(a.Reason, b.Reason))
	})
	return change
}
