package catalog

import (
	"strings"

	"github.com/tollgate-io/tollgate/domain/money"
)

// Aggregation is how a meter turns the values of its events into one number.
type Aggregation string

// The aggregations. A void can undo both exactly, from the event and the total alone.
const (
	Sum   Aggregation = "sum"
	Count Aggregation = "count"
)

// Meter is a named number derived from usage events.
type Meter struct {
	Key       MeterKey `json:"key"`
	EventType string   `json:"eventType"`
	// Value is what is summed: "" or "quantity" for the event's quantity, "data.<field>" for a top-level data field.
	Value       string      `json:"value,omitempty"`
	Aggregation Aggregation `json:"aggregation"`
	// Dimensions are the top-level data fields by which the number can be split and priced.
	Dimensions []string `json:"dimensions,omitempty"`
	// Estimate is what a check counts that leaves the data field out; zero: such a check is refused.
	Estimate money.Decimal `json:"estimate,omitzero"`
}

const (
	quantity  = "quantity"
	dataField = "data."

	maxDimensions = 16
)

// Field is the data field that the meter sums; ok is false for a meter of quantities or counts.
func (m Meter) Field() (name string, ok bool) { return strings.CutPrefix(m.Value, dataField) }

var meterShape = shape{
	required: []string{"key", "eventType", "aggregation"},
	optional: []string{"value", "dimensions", "estimate"},
}

func (d *decoder) meter(n node, at string, seen unique) Meter {
	o := d.object(n, at)
	o.only("a meter", meterShape)
	m := Meter{
		Key:         MeterKey(o.key("key", seen)),
		EventType:   o.readable("eventType"),
		Value:       o.text("value"),
		Aggregation: Aggregation(o.text("aggregation")),
		Dimensions:  o.texts("dimensions", "malformed", malformedField),
		Estimate:    o.positive("estimate"),
	}

	if o.has("aggregation") && m.Aggregation != Sum && m.Aggregation != Count {
		o.refuse("aggregation", "not_allowed",
			"%s cannot be undone exactly when an event is voided; a meter aggregates by sum or count", quoted(string(m.Aggregation)))
	}
	field, isField := m.Field()
	switch {
	case !o.has("value"):
	case m.Aggregation == Count:
		o.refuse("value", "not_allowed", "a count has no value; leave it out or aggregate by sum")
	case isField:
		if problem := malformedField(field); problem != "" {
			o.refuse("value", "malformed", "%s; only top-level fields of data can be metered", problem)
		}
	case m.Value != quantity:
		o.refuse("value", "malformed", "a meter's value is quantity or data.<field>, not %s", quoted(m.Value))
	}
	if o.has("estimate") && !isField {
		o.refuse("estimate", "not_allowed", "an estimate is for a meter of a data field; a check always has a quantity")
	}
	if len(m.Dimensions) > maxDimensions {
		o.refuse("dimensions", "out_of_range", "a meter has at most %d dimensions", maxDimensions)
	}

	d.eventTypes[m.EventType] = true
	d.meters[m.Key] = m
	return m
}
