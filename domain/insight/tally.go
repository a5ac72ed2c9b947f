package insight

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// Cell is the contribution of some events together. Dimensions that the question does not keep are empty.
type Cell struct {
	Tenant                                  event.TenantID
	Day                                     catalog.Date
	EventType                               event.Type
	Provider, Model, Feature, PromptVersion string
	// Limit and Reason are those of a limit that denied. A cell without Limit is about whole decisions; its Reason is why they
	// denied, or "" if they allowed.
	Limit, Reason string

	Events    int64
	Counted   int64 // events with token counts
	Retries   int64
	Failures  int64
	Decisions int64
	costs.Tokens
	Latency []LatencyCount
}

// LatencyCount is the number of latencies in a bucket.
type LatencyCount struct {
	Bucket Bucket
	Count  int64
}

// Row is one group of an answer, or its total. Only the numbers of the question's kind are set; the others are zero.
type Row struct {
	Labels []string // as in GroupBy; "" for events without the dimension

	Events   int64 // that the question is about
	Retries  int64
	Failures int64
	costs.Tokens
	Cost     *money.Decimal // in US dollars, exact, of the priced usage; nil if there is none
	Unpriced Unpriced
	Latency  Histogram
	// Denials counts decisions that denied or, if grouped by limit, limits that denied: several may deny one check.
	Denials   int64
	Decisions int64 // all decisions, denied or not, of the group without its limit and reason

	weight money.Decimal
}

// Unpriced is usage of models whose cost was unknown on the day.
type Unpriced struct {
	Provider, Model string // "" in the sum over models
	Events          int64
	Input, Output   money.Decimal
}

// Answer has the rows that matter most, in that order.
type Answer struct {
	Question
	Rows  []Row
	Total Row // over all groups, listed or not
	// Groups is the number of groups, listed or not.
	Groups int
	// Unpriced lists models without a cost on days when they were used: the most used first, at most Limit.
	Unpriced []Unpriced
}

// Share is part / whole with 6 decimals, rounded half to even; ok is false if whole is 0.
func Share(part, whole int64) (share money.Decimal, ok bool) {
	if whole <= 0 {
		return money.Decimal{}, false
	}
	return money.Int(1).Prorate(part, whole, 6), true
}

// Plans are the subscriptions of tenants.
type Plans map[event.TenantID]tenant.Subscription

// at is the plan of a tenant at the end of a day, so that a tenant has a plan on its first day.
func (p Plans) at(t event.TenantID, d catalog.Date) string {
	start, err := time.Parse(time.DateOnly, string(d))
	if err != nil {
		panic(fmt.Sprintf("insight: %q is not a day", d))
	}
	a, _ := p[t].At(start.Add(day - 1))
	return string(a.Plan)
}

// Tally sums cells into an answer. It needs memory per group, not per cell.
type Tally struct {
	question Question
	plans    Plans
	book     costs.Book

	groups    map[string]*Row
	decisions map[string]int64 // by group without limit and reason
	unpriced  map[event.ModelName]*Unpriced
	total     Row
	key       []byte
	labels    []string
}

// NewTally starts the answer to a completed question. Plans are needed if it is grouped by Plan, the book for Cost.
func NewTally(q Question, plans Plans, book costs.Book) *Tally {
	t := &Tally{question: q, plans: plans, book: book}
	t.Reset()
	return t
}

// Reset removes all cells.
func (t *Tally) Reset() {
	t.groups, t.decisions, t.unpriced = map[string]*Row{}, map[string]int64{}, map[event.ModelName]*Unpriced{}
	t.total = Row{Latency: Histogram{}}
}

// Add adds a cell. Error: *invalid.Error if there are more than MaxGroups.
func (t *Tally) Add(c Cell) error {
	switch t.question.Kind {
	case Cost:
		if c.Counted == 0 {
			return nil
		}
		c.Events = c.Counted
	case Providers:
		if c.Provider == "" {
			return nil
		}
	case Latency:
		c.Events = 0
		for _, l := range c.Latency {
			c.Events += l.Count
		}
	case Denials:
		return t.addDecisions(&c)
	}
	if c.Events == 0 {
		return nil // everything was voided
	}
	row, err := t.group(&c)
	if err != nil {
		return err
	}
	var cost catalog.Cost
	priced := false
	if t.question.Kind == Cost {
		if cost, priced = t.book.Cost(c.Provider, c.Model, c.Day); !priced {
			t.addUnpriced(&c)
		}
	}
	for _, r := range []*Row{row, &t.total} {
		r.add(t.question.Kind, &c)
		switch {
		case priced:
			amount := costs.Amount(cost, c.Tokens)
			if r.Cost != nil {
				amount = amount.Add(*r.Cost)
			}
			r.Cost = &amount
		case t.question.Kind == Cost:
			r.Unpriced.add(&c)
		}
	}
	return nil
}

func (r *Row) add(k Kind, c *Cell) {
	r.Events += c.Events
	switch k {
	case Cost:
		r.Input, r.CachedInput, r.Output = r.Input.Add(c.Input), r.CachedInput.Add(c.CachedInput), r.Output.Add(c.Output)
	case Latency:
		for _, l := range c.Latency {
			r.Latency[l.Bucket] += l.Count
		}
	case Retries:
		r.Retries += c.Retries
	case Providers:
		r.Failures += c.Failures
	}
}

func (u *Unpriced) add(c *Cell) {
	u.Events += c.Events
	u.Input, u.Output = u.Input.Add(c.Input), u.Output.Add(c.Output)
}

func (t *Tally) addUnpriced(c *Cell) {
	name := event.ModelName{Provider: c.Provider, Model: c.Model}
	u := t.unpriced[name]
	if u == nil {
		u = &Unpriced{Provider: c.Provider, Model: c.Model}
		t.unpriced[name] = u
	}
	u.add(c)
}

func (t *Tally) addDecisions(c *Cell) error {
	if c.Limit == "" {
		all := *c
		all.Reason = ""
		t.read(&all)
		t.decisions[string(t.key)] += c.Decisions
		t.total.Decisions += c.Decisions
		if c.Reason != "" {
			t.total.Denials += c.Decisions
		}
	}
	if c.Reason == "" || (c.Limit != "") != t.question.Groups(Limit) {
		return nil
	}
	row, err := t.group(c)
	if err != nil {
		return err
	}
	row.Denials += c.Decisions
	return nil
}

// read sets the labels of the cell's group, and their key.
func (t *Tally) read(c *Cell) {
	t.key, t.labels = t.key[:0], t.labels[:0]
	for _, d := range t.question.GroupBy {
		label := t.label(c, d)
		t.key = append(binary.AppendUvarint(t.key, uint64(len(label))), label...)
		t.labels = append(t.labels, label)
	}
}

func (t *Tally) label(c *Cell, d Dimension) string {
	switch d {
	case Tenant:
		return string(c.Tenant)
	case Plan:
		return t.plans.at(c.Tenant, c.Day)
	case Day:
		return string(c.Day)
	case EventType:
		return string(c.EventType)
	case Provider:
		return c.Provider
	case Model:
		return c.Model
	case Feature:
		return c.Feature
	case PromptVersion:
		return c.PromptVersion
	case Limit:
		return c.Limit
	case Reason:
		return c.Reason
	}
	panic(fmt.Sprintf("insight: unknown dimension %q", d))
}

func (t *Tally) group(c *Cell) (*Row, error) {
	t.read(c)
	if row := t.groups[string(t.key)]; row != nil {
		return row, nil
	}
	if len(t.groups) == MaxGroups {
		return nil, invalid.New("/groupBy", "out_of_range", fmt.Sprintf("there are more than %d groups; group by less, or ask about less time", MaxGroups))
	}
	row := &Row{Labels: slices.Clone(t.labels), Latency: Histogram{}}
	t.groups[string(t.key)] = row
	return row, nil
}

// Answer is the answer from the cells so far.
func (t *Tally) Answer() Answer {
	q := t.question
	a := Answer{Question: q, Total: t.total, Groups: len(t.groups)}
	rows := make([]*Row, 0, len(t.groups))
	for _, row := range t.groups {
		row.weight = row.weigh(q.Kind)
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(x, y *Row) int {
		return cmp.Or(y.weight.Cmp(x.weight), cmp.Compare(y.Events, x.Events), slices.Compare(x.Labels, y.Labels))
	})
	for _, row := range rows[:min(len(rows), q.Limit)] {
		row.Decisions = t.decisionsOf(row.Labels)
		a.Rows = append(a.Rows, *row)
	}
	for _, u := range t.unpriced {
		a.Unpriced = append(a.Unpriced, *u)
	}
	slices.SortFunc(a.Unpriced, func(x, y Unpriced) int {
		return cmp.Or(cmp.Compare(y.Events, x.Events), strings.Compare(x.Provider, y.Provider), strings.Compare(x.Model, y.Model))
	})
	a.Unpriced = a.Unpriced[:min(len(a.Unpriced), q.Limit)]
	return a
}

// decisionsOf returns the number of decisions of a group of denials.
func (t *Tally) decisionsOf(labels []string) int64 {
	t.key = t.key[:0]
	for i, d := range t.question.GroupBy {
		label := labels[i]
		if d == Limit || d == Reason {
			label = ""
		}
		t.key = append(binary.AppendUvarint(t.key, uint64(len(label))), label...)
	}
	return t.decisions[string(t.key)]
}

// weigh is the number that rows are sorted by, the largest first.
func (r *Row) weigh(k Kind) money.Decimal {
	switch {
	case k == Cost && r.Cost == nil:
		return money.Int(-1) // after usage that is free
	case k == Cost:
		return *r.Cost
	case k == Latency:
		return r.Latency.Percentiles(95)[0]
	case k == Retries:
		return money.Int(r.Retries)
	case k == Denials:
		return money.Int(r.Denials)
	default:
		return money.Int(r.Failures)
	}
}
