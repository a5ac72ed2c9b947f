package catalog

import (
	"time"

	"github.com/tollgate-io/tollgate/domain/money"
)

// Date is a day, YYYY-MM-DD, in UTC: providers change their prices by the day. Dates compare as texts.
type Date string

// DateOf is the day of an instant.
func DateOf(t time.Time) Date { return Date(t.UTC().Format(time.DateOnly)) }

// Valid reports whether the date is a day of the calendar.
func (d Date) Valid() bool {
	_, err := time.Parse(time.DateOnly, string(d))
	return err == nil && len(d) == len(time.DateOnly)
}

// Cost is what a provider charges us for a model, in US dollars per million tokens, from a day on. What a tenant pays does not
// depend on it.
type Cost struct {
	Provider              string        `json:"provider"`
	Model                 string        `json:"model"`
	From                  Date          `json:"from"`            // the first day
	Until                 Date          `json:"until,omitempty"` // the day after the last; "": no end
	InputPerMillion       money.Decimal `json:"inputPerMillion"`
	CachedInputPerMillion money.Decimal `json:"cachedInputPerMillion"` // defaults to the input price
	OutputPerMillion      money.Decimal `json:"outputPerMillion"`
}

// InForce reports whether the cost applies on a day.
func (c Cost) InForce(on Date) bool { return c.From <= on && (c.Until == "" || on < c.Until) }

var costShape = shape{
	required: []string{"provider", "model", "from", "inputPerMillion", "outputPerMillion"},
	optional: []string{"until", "cachedInputPerMillion"},
}

// costs reads the model costs. For each provider and model the entries are ascending without overlap, so that a day has one cost.
func (d *decoder) costs(catalog object) []Cost {
	type name struct{ provider, model string }
	var costs []Cost
	before := map[name]Cost{}
	catalog.each("costs", func(n node, at string) {
		o := d.object(n, at)
		noted := d.noted
		o.only("a cost", costShape)
		c := Cost{
			Provider:              o.readable("provider"),
			Model:                 o.readable("model"),
			From:                  o.date("from"),
			Until:                 o.date("until"),
			InputPerMillion:       o.notNegative("inputPerMillion"),
			CachedInputPerMillion: o.notNegative("cachedInputPerMillion"),
			OutputPerMillion:      o.notNegative("outputPerMillion"),
		}
		if !o.has("cachedInputPerMillion") {
			c.CachedInputPerMillion = c.InputPerMillion
		}
		costs = append(costs, c)
		if o.members == nil || d.noted > noted {
			return
		}
		if c.Until != "" && c.Until <= c.From {
			o.refuse("until", "out_of_range", "until must be after from")
		}
		of := name{c.Provider, c.Model}
		switch last, ok := before[of]; {
		case !ok:
		case c.From <= last.From:
			o.refuse("from", "out_of_range", "the costs of a model must be in the order of their days; this one is not after %s", last.From)
		case last.Until == "":
			o.refuse("from", "out_of_range", "the cost from %s has no end; give it an until of at most %s", last.From, c.From)
		case c.From < last.Until:
			o.refuse("from", "out_of_range", "the cost from %s goes on until %s", last.From, last.Until)
		}
		before[of] = c
	})
	return costs
}

// date reads a day, in quotes or plain.
func (o object) date(name string) Date {
	n := o.members[name]
	if n == nil {
		return ""
	}
	t := n.Value
	if n.ShortTag() != tagDate {
		noted := o.d.noted
		if t = o.text(name); o.d.noted > noted {
			return ""
		}
	}
	if !Date(t).Valid() {
		o.refuse(name, "malformed", "%s is not a day such as 2026-04-05", quoted(t))
	}
	return Date(t)
}
