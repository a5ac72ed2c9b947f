package catalog

import "github.com/tollgate-io/tollgate/domain/money"

// Plan is what a tenant may use and what it pays.
type Plan struct {
	Key      PlanKey       `json:"key"`
	Currency Currency      `json:"currency"`
	Tier     string        `json:"tier,omitempty"` // a label for reports and flags, without effect here
	Limits   []Limit       `json:"limits,omitempty"`
	Prices   []Price       `json:"prices,omitempty"`
	Minimum  money.Decimal `json:"minimum,omitzero"`  // the least that is charged for a cycle
	SpendCap money.Decimal `json:"spendCap,omitzero"` // the most that is charged for a cycle; zero: no cap
	Grace    Duration      `json:"grace,omitzero"`    // how long a closed period waits for late usage
}

var planShape = shape{
	required: []string{"key", "currency"},
	optional: []string{"tier", "limits", "prices", "minimum", "spendCap", "grace"},
}

func (d *decoder) plan(n node, at string, seen unique) Plan {
	o := d.object(n, at)
	o.only("a plan", planShape)
	p := Plan{
		Key:      PlanKey(o.key("key", seen)),
		Currency: Currency(o.text("currency")),
		Tier:     o.key("tier", unique{}),
		Minimum:  o.notNegative("minimum"),
		SpendCap: o.positive("spendCap"),
		Grace:    o.duration("grace", 0, maxWindow),
	}
	if o.has("currency") && !p.Currency.Active() {
		o.refuse("currency", "not_allowed", "%s is not an active ISO 4217 currency", quoted(string(p.Currency)))
	}
	if o.has("spendCap") && p.Minimum.Cmp(p.SpendCap) > 0 {
		o.refuse("spendCap", "out_of_range", "spendCap must be at least minimum, which is paid in any case")
	}
	limits, prices := unique{}, unique{}
	o.each("limits", func(n node, at string) { p.Limits = append(p.Limits, d.limit(n, at, limits)) })
	o.each("prices", func(n node, at string) { p.Prices = append(p.Prices, d.price(n, at, prices)) })
	return p
}
