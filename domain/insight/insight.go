// Package insight owns the questions that operators ask about many events at once: what drives cost, how long calls take, what
// is retried, denied or fails. It defines what one event contributes and how contributions become an answer. The sums are a fold
// of the log, and package costs owns what providers charge.
package insight

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

// Kind is what a question is about.
type Kind string

// The kinds of questions.
const (
	Cost      Kind = "cost"      // what providers charge for tokens
	Latency   Kind = "latency"   // percentiles of the latency of calls
	Retries   Kind = "retries"   // how many calls were retries
	Denials   Kind = "denials"   // which limits denied checks
	Providers Kind = "providers" // how many calls of providers failed
)

// Dimension is something that an answer can be grouped by.
type Dimension string

// The dimensions.
const (
	Tenant        Dimension = "tenant"
	Plan          Dimension = "plan" // of the tenant at the end of the day
	Day           Dimension = "day"  // in UTC
	EventType     Dimension = "eventType"
	Provider      Dimension = "provider"
	Model         Dimension = "model"
	Feature       Dimension = "feature"
	PromptVersion Dimension = "promptVersion"
	Limit         Dimension = "limit"  // the violated one
	Reason        Dimension = "reason" // of the denial
)

// groupings are the dimensions of each kind; the first few are the default.
var groupings = map[Kind]struct {
	defaults int
	known    []Dimension
}{
	Cost:      {1, []Dimension{Tenant, Provider, Model, Feature, PromptVersion, EventType, Day, Plan}},
	Latency:   {1, []Dimension{Plan, Tenant, Provider, Model, Feature, PromptVersion}},
	Retries:   {1, []Dimension{PromptVersion, Tenant, Model, Feature}},
	Denials:   {2, []Dimension{Tenant, Limit, Reason, EventType, Day}},
	Providers: {2, []Dimension{Provider, Feature, Model, Day, Tenant}},
}

// Bounds of a question.
const (
	DefaultLimit = 50
	MaxLimit     = 500
	MaxDays      = 366
	// MaxGroups bounds the groups that an answer's rows are chosen from.
	MaxGroups = 100_000

	defaultDays = 30
)

const day = 24 * time.Hour

// Question is about one tenant, or all.
type Question struct {
	Kind     Kind
	Tenant   event.TenantID // "" for all
	From, To time.Time      // extended to whole days in UTC; zero: 30 days before To, and now
	GroupBy  []Dimension    // none: the default of the kind
	Limit    int            // rows of the answer; 0 is DefaultLimit
}

// Complete checks the question and fills in defaults. In the result, From and To are bounds of whole days. Errors:
// *invalid.Error.
func (q Question) Complete(now time.Time) (Question, error) {
	var l invalid.List
	of, ok := groupings[q.Kind]
	if !ok {
		return q, invalid.New("/kind", "not_allowed", fmt.Sprintf("there are no insights into %q", q.Kind))
	}
	if len(q.GroupBy) == 0 {
		q.GroupBy = of.known[:of.defaults]
	}
	for i, d := range q.GroupBy {
		switch {
		case !slices.Contains(of.known, d):
			l.Add("/groupBy", "not_allowed", fmt.Sprintf("%s is not grouped by %q, but by %s", q.Kind, d, list(of.known)))
		case slices.Contains(q.GroupBy[:i], d):
			l.Add("/groupBy", "duplicate", fmt.Sprintf("%s is named twice", d))
		}
	}
	if q.Limit == 0 {
		q.Limit = DefaultLimit
	}
	if q.Limit < 0 || q.Limit > MaxLimit {
		l.Add("/limit", "out_of_range", fmt.Sprintf("limit must be between 1 and %d", MaxLimit))
	}
	if q.To.IsZero() {
		q.To = now
	}
	if q.From.IsZero() {
		q.From = q.To.Add(-defaultDays * day)
	}
	for _, t := range []struct {
		pointer string
		time    time.Time
	}{{"/from", q.From}, {"/to", q.To}} {
		if y := t.time.UTC().Year(); y < 2 || y > 9998 {
			l.Add(t.pointer, "out_of_range", "the time must be between the years 2 and 9998")
		}
	}
	if err := l.Err(); err != nil {
		return q, err
	}
	if !q.From.Before(q.To) {
		return q, invalid.New("/from", "out_of_range", "from must be before to")
	}
	q.From = q.From.UTC().Truncate(day)
	if to := q.To.UTC().Truncate(day); to.Before(q.To) {
		q.To = to.Add(day)
	} else {
		q.To = to
	}
	if q.To.Sub(q.From) > MaxDays*day {
		return q, invalid.New("/from", "out_of_range", fmt.Sprintf("from and to touch more than %d days", MaxDays))
	}
	return q, nil
}

func list(all []Dimension) string {
	names := make([]string, len(all))
	for i, d := range all {
		names[i] = string(d)
	}
	return strings.Join(names, ", ")
}

// Groups reports whether the answer is grouped by a dimension.
func (q Question) Groups(by Dimension) bool { return slices.Contains(q.GroupBy, by) }

// Keeps lists the dimensions, other than Plan, that cells must be grouped by to answer the question. Cells may be summed over all
// others beforehand.
func (q Question) Keeps() []Dimension {
	keeps := slices.DeleteFunc(slices.Clone(q.GroupBy), func(d Dimension) bool { return d == Plan })
	if q.Groups(Plan) {
		keeps = append(keeps, Tenant, Day)
	}
	switch q.Kind {
	case Cost:
		keeps = append(keeps, Provider, Model, Day)
	case Providers:
		keeps = append(keeps, Provider)
	case Denials:
		keeps = append(keeps, Limit, Reason)
	}
	slices.Sort(keeps)
	return slices.Compact(keeps)
}
