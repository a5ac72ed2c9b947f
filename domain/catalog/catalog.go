// Package catalog owns the product configuration as one immutable value: the meters that turn usage events into
// numbers, the plans with their limits and prices, the feature flags and the model costs. It reads the configuration
// strictly, writes it in one canonical form and lists the differences between two. Deciding limits, rating usage, evaluating
// flags and assigning plans to tenants is done elsewhere.
package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The keys of a catalog's parts: 1-64 characters of [a-z0-9_.-], the first a letter.
type (
	MeterKey string
	PlanKey  string
	LimitKey string
	PriceKey string
	FlagKey  string
)

// Catalog is the whole configuration. Only Parse makes valid ones. Do not change one: all requests share it.
type Catalog struct {
	Meters []Meter `json:"meters,omitempty"`
	Plans  []Plan  `json:"plans,omitempty"`
	Flags  []Flag  `json:"flags,omitempty"`
	Costs  []Cost  `json:"costs,omitempty"`
}

// MetersOf returns the meters that count events of the type, sorted by key; none means that the type is unknown.
func (c Catalog) MetersOf(eventType string) []Meter {
	n := 0
	for i := range c.Meters {
		if c.Meters[i].EventType == eventType {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	of := make([]Meter, 0, n)
	for i := range c.Meters {
		if c.Meters[i].EventType == eventType {
			of = append(of, c.Meters[i])
		}
	}
	return of
}

// EventTypes returns the event types that some meter counts, sorted: the ones that may be recorded.
func (c Catalog) EventTypes() []string {
	types := map[string]bool{}
	for _, m := range c.Meters {
		types[m.EventType] = true
	}
	return slices.Sorted(maps.Keys(types))
}

// Canonical is the form that the log keeps: JSON with a fixed order of members, and with meters, plans and flags sorted by key,
// since their order has no meaning. Equal catalogs have equal bytes, and Parse(c.Canonical()) equals c.
func (c Catalog) Canonical() []byte {
	type members Catalog // without MarshalJSON, which would recurse
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(members(c.ordered())); err != nil {
		panic(fmt.Sprintf("catalog: a catalog cannot be encoded: %v", err)) // only with a flag value that is not from Parse
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// MarshalJSON writes the canonical form.
func (c Catalog) MarshalJSON() ([]byte, error) { return c.Canonical(), nil }

// UnmarshalJSON is Parse.
func (c *Catalog) UnmarshalJSON(text []byte) error {
	parsed, err := Parse(text)
	if err != nil {
		return err
	}
	*c = parsed
	return nil
}

// ordered returns a copy of the catalog with those lists sorted whose order has no meaning.
func (c Catalog) ordered() Catalog {
	c.Meters, c.Plans, c.Flags = slices.Clone(c.Meters), slices.Clone(c.Plans), slices.Clone(c.Flags)
	slices.SortStableFunc(c.Meters, func(a, b Meter) int { return strings.Compare(string(a.Key), string(b.Key)) })
	slices.SortStableFunc(c.Plans, func(a, b Plan) int { return strings.Compare(string(a.Key), string(b.Key)) })
	slices.SortStableFunc(c.Flags, func(a, b Flag) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return c
}
