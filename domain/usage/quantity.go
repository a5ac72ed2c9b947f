package usage

import (
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Quantity is what a usage event adds to a meter of its type; counts is false if the field that the meter sums is missing or
// is not a number within the bounds of money.ParseQuantity.
func Quantity(m catalog.Meter, u event.Usage) (q money.Decimal, counts bool) {
	if m.Aggregation == catalog.Count {
		return money.Int(1), true
	}
	field, ok := m.Field()
	if !ok {
		return u.Quantity, true
	}
	return Countable(u.Data.Get(field))
}

// Countable is the number that a meter sums in a data field; ok is false if the value is not a number within the bounds of
// money.ParseQuantity.
func Countable(v event.Value) (q money.Decimal, ok bool) {
	if q, ok = v.Decimal(); !ok || !q.IsQuantity() {
		return money.Decimal{}, false
	}
	return q, true
}
