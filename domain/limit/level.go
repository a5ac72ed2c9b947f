package limit

import (
	"maps"
	"slices"
	"strings"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
)

// level names the part of a tenant that a limit counts for: the values of the limit's per fields, as whereKey writes them. The
// zero level is the whole tenant.
type level string

// maxValue bounds the values that limits count by, in bytes: what is longer, empty or no scalar is nobody's.
const maxValue = 200

// levelOf is the level that data belongs to; ok is false where one of the fields is missing or cannot be counted by.
func levelOf(fields []string, data event.Data) (of level, ok bool) {
	if len(fields) == 0 {
		return "", true
	}
	where, ok := valuesOf(fields, data)
	return level(whereKey(where)), ok
}

// valuesOf are the values that limits count by.
func valuesOf(fields []string, data event.Data) (values map[string]string, ok bool) {
	if values, ok = dimensionsOf(fields, data); !ok {
		return nil, false
	}
	for field, value := range values {
		if value == "" || len(value) > maxValue || data.Get(field).Kind == event.Nested {
			return nil, false
		}
	}
	return values, true
}

// dimensionsOf are the values of fields as the dimensions of the usage read model have them; ok is false where one is missing.
func dimensionsOf(fields []string, data event.Data) (values map[string]string, ok bool) {
	values = make(map[string]string, len(fields))
	for _, field := range fields {
		v := data.Get(field)
		if v.Kind == event.Absent || v.Kind == event.Null {
			return nil, false
		}
		values[field] = v.String()
	}
	return values, true
}

// levelText writes fields for the log. The catalog allows no commas and semicolons in them.
func levelText(fields []string) string { return strings.Join(fields, ",") }

// levelsCounted lists, for each event type, the levels for which sliding limits of any plan count admissions.
func levelsCounted(c *catalog.Catalog) map[event.Type][]string {
	sets := map[event.Type]map[string]bool{}
	for i := range c.Plans {
		for j := range c.Plans[i].Limits {
			l := &c.Plans[i].Limits[j]
			if len(l.Per) == 0 || l.Kind != catalog.Rate && l.Kind != catalog.RetryBudget {
				continue
			}
			for _, t := range l.On {
				if sets[event.Type(t)] == nil {
					sets[event.Type(t)] = map[string]bool{}
				}
				sets[event.Type(t)][levelText(l.Per)] = true
			}
		}
	}
	levels := make(map[event.Type][]string, len(sets))
	for t, set := range sets {
		levels[t] = slices.Sorted(maps.Keys(set))
	}
	return levels
}

// placed reports whether the check names all fields that a limit counts by.
func (d *decision) placed(l *Limit) bool {
	_, ok := levelOf(l.Per, d.ask.Data)
	return ok
}

// level is the level of a limit that the check belongs to.
func (d *decision) level(l *Limit) level {
	of, _ := levelOf(l.Per, d.ask.Data) // judge and view ask placed first
	return of
}

// narrowed is a series of the policy, narrowed to the level of a limit.
func narrowed(of Series, where map[string]string, l *Limit, data event.Data) (Need, bool) {
	if len(l.Per) == 0 {
		return Need{Series: of, Where: where}, true
	}
	values, ok := valuesOf(l.Per, data)
	if !ok {
		return Need{}, false
	}
	maps.Copy(values, where)
	return Need{Series: Series{of.Meter, whereKey(values)}, Where: values}, true
}

// NeedsOf lists the series that the policy looks at for a check with this data, beyond those of Needs: the sums of its levels.
func (p *Policy) NeedsOf(t event.Type, data event.Data) (needs []Need) {
	for i := range p.Limits {
		l := &p.Limits[i]
		if len(l.Per) == 0 || t != "" && !p.applies(l, t) {
			continue
		}
		add := func(of Series, where map[string]string) {
			if n, ok := narrowed(of, where, l, data); ok {
				n.Minutes = l.Window.Period == catalog.Minute
				needs = append(needs, n)
			}
		}
		switch {
		case l.kind == event.QuotaLimit:
			add(Series{Meter: l.Meter}, nil)
		case l.kind == event.BudgetLimit && !l.Credits:
			for _, price := range p.prices {
				add(price.series, price.Where)
			}
		}
	}
	return needs
}

// CompareNeeds orders needs by their series; what looks at minutes comes last.
func CompareNeeds(a, b Need) int {
	order := compareSeries(a.Series, b.Series)
	switch {
	case order != 0 || a.Minutes == b.Minutes:
		return order
	case b.Minutes:
		return -1
	default:
		return 1
	}
}

// Missing lists those of the needs that the account does not add up.
func (a *Account) Missing(needs []Need) (missing []Need) {
	for _, n := range needs {
		if s := a.series[n.Series]; s == nil || n.Minutes && !s.Need.Minutes {
			missing = append(missing, n)
		}
	}
	return missing
}

// maxValues bounds the series of single values that an account adds up; those that were asked for least recently leave it.
const maxValues = 20_000

// AddValue makes the account add up a series of one level, as a read model has it and with what it lacks: the tenant's events
// after it, up to an offset that was applied or is about to be.
func (a *Account) AddValue(l Loaded, missed []Entry, upTo int64) {
	s := newSeries(l)
	s.single, s.asked = true, a.reached
	for i := range missed {
		for _, f := range FactsOf(missed[i].Payload, missed[i].Meters) {
			if q, counts := s.Need.Quantity(f); counts {
				s.add(missed[i].Position.Offset, f.OccurredAt, q)
			}
		}
	}
	s.At, s.MinutesAt = max(s.At, upTo), max(s.MinutesAt, upTo)
	a.addSeries(s)
}

// MakeRoom drops half of the series of single values, the ones that were asked for least recently, where so many more would be too
// many. Ask what is Missing afterwards.
func (a *Account) MakeRoom(more int) {
	if a.values+more <= maxValues {
		return
	}
	var singles []*series
	for _, s := range a.series {
		if s.single {
			singles = append(singles, s)
		}
	}
	slices.SortFunc(singles, func(x, y *series) int {
		if x.asked != y.asked {
			return int(min(max(x.asked-y.asked, -1), 1))
		}
		return compareSeries(x.Series, y.Series)
	})
	for _, s := range singles[:len(singles)/2] {
		a.dropSeries(s.Series)
	}
}

// shape is how a series filters facts: by the values of these fields. Series of one meter and shape are found by a fact's values,
// however many there are.
type shape struct {
	meter  catalog.MeterKey
	fields string
}

func shapeOf(n Need) shape {
	return shape{n.Meter, strings.Join(slices.Sorted(maps.Keys(n.Where)), "\x00")}
}

func (a *Account) addSeries(s *series) {
	a.dropSeries(s.Series)
	a.series[s.Series] = s
	a.shapes[shapeOf(s.Need)]++
	if s.single {
		a.values++
	}
}

func (a *Account) dropSeries(of Series) {
	s := a.series[of]
	if s == nil {
		return
	}
	delete(a.series, of)
	if a.shapes[shapeOf(s.Need)]--; a.shapes[shapeOf(s.Need)] == 0 {
		delete(a.shapes, shapeOf(s.Need))
	}
	if s.single {
		a.values--
	}
}

// count adds a fact to the series that it belongs to.
func (a *Account) count(offset int64, f Fact) {
	for of := range a.shapes { // each on its own, so their order is of no importance
		var fields []string
		if of.fields != "" {
			fields = strings.Split(of.fields, "\x00")
		}
		where, ok := dimensionsOf(fields, f.Data)
		if !ok {
			continue
		}
		if s := a.series[Series{of.meter, whereKey(where)}]; s != nil {
			if q, counts := s.Need.Quantity(f); counts {
				s.add(offset, f.OccurredAt, q)
			}
		}
	}
}
