package catalog

import (
	"encoding/json"
	"slices"
	"strconv"

	"github.com/tollgate-io/tollgate/domain/money"
)

// PriceModel is the rule by which a price turns a quantity into an amount.
type PriceModel string

// The models, with the fields that each uses. All but Flat charge the quantity of Meter that matches Where, less Included.
const (
	// Flat is Amount per billing cycle, in advance unless Arrears.
	Flat PriceModel = "flat"
	// PerUnit is Unit times the quantity.
	PerUnit PriceModel = "per_unit"
	// Package is Unit for every started Size of the quantity.
	Package PriceModel = "package"
	// Graduated rates each unit at the tier it falls in.
	Graduated PriceModel = "graduated"
	// Volume rates all units at the tier that the whole quantity falls in.
	Volume PriceModel = "volume"
	// Percentage is Percent of the quantity, which is an amount of money.
	Percentage PriceModel = "percentage"
)

// Price is one line of a plan's price list, in the plan's currency. The model determines which fields are set; all others are
// zero.
type Price struct {
	Key      PriceKey          `json:"key"`
	Model    PriceModel        `json:"model"`
	Meter    MeterKey          `json:"meter,omitempty"`
	Where    map[string]string `json:"where,omitempty"` // dimension of the meter -> the value it must have
	Included money.Decimal     `json:"included,omitzero"`
	Size     money.Decimal     `json:"size,omitzero"`
	Amount   money.Decimal     `json:"amount"`
	Unit     money.Decimal     `json:"unit"`
	Percent  money.Decimal     `json:"percent,omitzero"` // 2.5 is 2.5 %
	Tiers    []Tier            `json:"tiers,omitempty"`  // ascending; the last has no end
	Arrears  bool              `json:"arrears,omitempty"`
}

// Tier is a step of a graduated or volume price.
type Tier struct {
	UpTo money.Decimal `json:"upTo,omitzero"` // inclusive; zero on the last tier, which has no end
	Unit money.Decimal `json:"unit"`
}

// Open reports whether the tier has no end.
func (t Tier) Open() bool { return t.UpTo.Sign() == 0 }

// priceShapes is the one list of each model's fields besides key and model.
var priceShapes = map[PriceModel]shape{
	Flat:       {required: []string{"amount"}, optional: []string{"arrears"}},
	PerUnit:    {required: []string{"meter", "unit"}, optional: []string{"included", "where"}},
	Package:    {required: []string{"meter", "size", "unit"}, optional: []string{"included", "where"}},
	Graduated:  {required: []string{"meter", "tiers"}, optional: []string{"included", "where"}},
	Volume:     {required: []string{"meter", "tiers"}, optional: []string{"included", "where"}},
	Percentage: {required: []string{"meter", "percent"}, optional: []string{"included", "where"}},
}

// MarshalJSON writes the fields of the model. A price of zero is written: free is not the same as forgotten.
func (p Price) MarshalJSON() ([]byte, error) {
	type fields Price
	out := struct {
		fields
		Amount *money.Decimal `json:"amount,omitempty"`
		Unit   *money.Decimal `json:"unit,omitempty"`
	}{fields: fields(p)}
	if slices.Contains(priceShapes[p.Model].required, "amount") {
		out.Amount = &p.Amount
	}
	if slices.Contains(priceShapes[p.Model].required, "unit") {
		out.Unit = &p.Unit
	}
	return json.Marshal(out)
}

func (d *decoder) price(n node, at string, seen unique) Price {
	o := d.object(n, at)
	p := Price{Key: PriceKey(o.key("key", seen)), Model: PriceModel(o.text("model"))}
	s, known := priceShapes[p.Model]
	if !known {
		o.need("key", "a price")
		o.choose("model", "a price", kindNames(priceShapes))
		return p
	}
	o.only("a price of model "+string(p.Model), s.with("key", "model"))

	p.Meter = o.meter("meter")
	p.Where = o.where("where", p.Meter)
	p.Included = o.notNegative("included")
	p.Size = o.positive("size")
	p.Amount = o.notNegative("amount")
	p.Unit = o.notNegative("unit")
	p.Percent = o.positive("percent")
	p.Tiers = o.tiers("tiers")
	p.Arrears = o.boolean("arrears")
	return p
}

// where reads the filter of a price: dimensions of its meter and the values they must have.
func (o object) where(name string, of MeterKey) map[string]string {
	if !o.has(name) {
		return nil
	}
	w := o.d.object(o.members[name], member(o.at, name))
	meter, known := o.d.meters[of]
	var where map[string]string
	for _, dimension := range w.names {
		if known && !slices.Contains(meter.Dimensions, dimension) {
			w.refuse(dimension, "unknown_reference", "%s is not a dimension of the meter %s", quoted(dimension), quoted(string(of)))
		}
		if where == nil {
			where = map[string]string{}
		}
		where[dimension] = w.readable(dimension)
	}
	return where
}

// tiers reads tiers with ascending bounds, of which only the last has none, so that every quantity has one price.
func (o object) tiers(name string) []Tier {
	o.some(name)
	count := 0
	if o.has(name) {
		count = len(o.members[name].Content)
	}
	var tiers []Tier
	var below money.Decimal
	o.each(name, func(n node, at string) {
		t := o.d.object(n, at)
		t.only("a tier", shape{required: []string{"unit"}, optional: []string{"upTo"}})
		tier := Tier{UpTo: t.positive("upTo"), Unit: t.notNegative("unit")}
		last := at == element(member(o.at, name), count-1)
		switch {
		case t.members == nil:
		case last && t.has("upTo"):
			t.refuse("upTo", "not_allowed", "the last tier has no upTo, so that every quantity has a price")
		case !last && !t.has("upTo"):
			t.refuse("upTo", "missing", "only the last tier has no upTo; this is tier %s of %d",
				strconv.Itoa(len(tiers)+1), count)
		case !last && tier.UpTo.Sign() > 0 && tier.UpTo.Cmp(below) <= 0:
			t.refuse("upTo", "out_of_range", "upTo must rise from tier to tier; this one is not above %s", below)
		}
		below = tier.UpTo
		tiers = append(tiers, tier)
	})
	return tiers
}
