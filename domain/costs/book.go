// Package costs owns the cost book: what providers charge us for each model, in versions by day. They come from imported price
// lists and from the catalog, which has the negotiated prices. What a tenant pays is decided elsewhere. A model that is not in
// the book has no cost, which never means a cost of zero.
package costs

import (
	"cmp"
	"maps"
	"slices"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// CatalogSource is the source of versions from the catalog. No price list may have this name.
const CatalogSource = "catalog"

// Version is a cost and its source.
type Version struct {
	catalog.Cost
	Source string
	Hash   string // SHA-256 of the price list, lower-case hex; "" for the catalog's own
}

// Book holds what each model costs on a day. It is an immutable value; the zero Book has no models.
type Book struct {
	versions map[event.ModelName][]Version // ascending, without overlap
}

// Cost is what the provider charges for the model on a day (UTC). It returns false if the book has no cost for that day: report
// it as unknown, never as zero.
func (b Book) Cost(provider, model string, day catalog.Date) (catalog.Cost, bool) {
	v, ok := at(b.versions[event.ModelName{Provider: provider, Model: model}], day)
	return v.Cost, ok
}

// at finds the version of a day.
func at(versions []Version, day catalog.Date) (Version, bool) {
	after, _ := slices.BinarySearchFunc(versions, day, func(v Version, day catalog.Date) int {
		if v.From <= day {
			return -1
		}
		return 1
	})
	if after == 0 || !versions[after-1].InForce(day) {
		return Version{}, false
	}
	return versions[after-1], true
}

// Query selects versions; an empty field selects all.
type Query struct {
	Provider, Model string
	On              catalog.Date
}

// Versions lists the selected versions, sorted by provider, model and day.
func (b Book) Versions(q Query) []Version {
	var found []Version
	for _, name := range slices.SortedFunc(maps.Keys(b.versions), byName) {
		if q.Provider != "" && name.Provider != q.Provider || q.Model != "" && name.Model != q.Model {
			continue
		}
		for _, v := range b.versions[name] {
			if q.On == "" || v.InForce(q.On) {
				found = append(found, v)
			}
		}
	}
	return found
}

func byName(a, b event.ModelName) int {
	return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Model, b.Model))
}

// Tokens are the token counts of some calls.
type Tokens struct {
	Input       money.Decimal // excluding cached ones
	CachedInput money.Decimal
	Output      money.Decimal
}

var perToken = money.Scaled(1, 6)

// Amount is what the provider charges for the tokens, in US dollars, exact and not rounded:
//
//	(input * inputPerMillion + cached * cachedInputPerMillion + output * outputPerMillion) / 1,000,000
//
// Input excludes cached tokens, as in usage events.
func Amount(c catalog.Cost, t Tokens) money.Decimal {
	sum := t.Input.Mul(c.InputPerMillion).Add(t.CachedInput.Mul(c.CachedInputPerMillion)).Add(t.Output.Mul(c.OutputPerMillion))
	return sum.Mul(perToken)
}
