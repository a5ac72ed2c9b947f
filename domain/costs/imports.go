package costs

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
)

// Imports is the content of all imported price lists: the fold of the stream of costs. It is an immutable value.
type Imports struct {
	versions map[event.ModelName][]Version // ascending, without overlap
	seen     map[repetition]bool
}

// repetition identifies an import that was made before.
type repetition struct {
	hash, from    string
	removeMissing bool
}

// Seen reports whether a list was already imported from that day on. An import with removeMissing includes one without it.
func (i Imports) Seen(hash string, from catalog.Date, removeMissing bool) bool {
	return i.seen[repetition{hash, string(from), true}] || !removeMissing && i.seen[repetition{hash, string(from), false}]
}

// Apply folds events. It fails with event.ErrMalformed on an event that would change the past, which no import may do.
func (i Imports) Apply(events ...event.CostsImported) (Imports, error) {
	next := Imports{versions: maps.Clone(i.versions), seen: maps.Clone(i.seen)}
	if next.versions == nil {
		next.versions, next.seen = map[event.ModelName][]Version{}, map[repetition]bool{}
	}
	for n := range events {
		e := &events[n]
		from := catalog.Date(e.From)
		next.seen[repetition{e.Hash, e.From, e.RemoveMissing}] = true
		for _, c := range e.Costs {
			ended, err := until(next.versions[c.ModelName], from)
			if err != nil {
				return i, fmt.Errorf("%w: %s/%s: %w", event.ErrMalformed, c.Provider, c.Model, err)
			}
			next.versions[c.ModelName] = append(ended, Version{Source: e.Source, Hash: e.Hash, Cost: catalog.Cost{
				Provider: c.Provider, Model: c.Model, From: from,
				InputPerMillion: c.Input.Decimal, CachedInputPerMillion: c.Cached.Decimal, OutputPerMillion: c.Output.Decimal}})
		}
		for _, m := range e.Removed {
			ended, err := until(next.versions[m], from)
			if err != nil {
				return i, fmt.Errorf("%w: %s/%s: %w", event.ErrMalformed, m.Provider, m.Model, err)
			}
			if next.versions[m] = ended; len(ended) == 0 {
				delete(next.versions, m)
			}
		}
	}
	return next, nil
}

// said is the last day that any import was about: the end of the newest version or, if it is open, its start.
func said(versions []Version) catalog.Date {
	if len(versions) == 0 {
		return ""
	}
	newest := versions[len(versions)-1]
	if newest.Until != "" {
		return newest.Until
	}
	return newest.From
}

// until is a copy of versions that ends at a day, which must not be before the last day that an import was about. A version that
// starts on that day is dropped, so that a wrong list can be corrected on the same day.
func until(versions []Version, day catalog.Date) ([]Version, error) {
	if last := said(versions); day < last {
		return nil, fmt.Errorf("a cost from %s follows one from %s", day, last)
	}
	ended := slices.Clone(versions)
	if n := len(ended); n > 0 && ended[n-1].Until == "" {
		if ended[n-1].From == day {
			return ended[:n-1], nil
		}
		ended[n-1].Until = day
	}
	return ended, nil
}

// Combine puts the negotiated costs of a catalog over the imported ones: the catalog applies on the days that its entries cover,
// the imports on all other days.
func (i Imports) Combine(negotiated []catalog.Cost) Book {
	b := Book{versions: maps.Clone(i.versions)}
	if b.versions == nil {
		b.versions = map[event.ModelName][]Version{}
	}
	over := map[event.ModelName][]Version{}
	for _, c := range negotiated {
		name := event.ModelName{Provider: c.Provider, Model: c.Model}
		over[name] = append(over[name], Version{Cost: c, Source: CatalogSource})
	}
	for name, above := range over {
		b.versions[name] = cover(b.versions[name], above)
	}
	return b
}

// cover puts versions over others. Both are ascending without overlap, and so is the result.
func cover(below, above []Version) []Version {
	all := slices.Clone(above)
	for _, v := range below {
		for _, a := range above {
			if a.Until != "" && a.Until <= v.From {
				continue
			}
			if v.Until != "" && v.Until <= a.From {
				break
			}
			if v.From < a.From {
				head := v
				head.Until = a.From
				all = append(all, head)
			}
			v.From = a.Until
			if a.Until == "" || v.Until != "" && v.Until <= a.Until {
				v.From = "" // nothing is left
				break
			}
		}
		if v.From != "" {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b Version) int {
		if a.From < b.From {
			return -1
		}
		return 1
	})
	return all
}
