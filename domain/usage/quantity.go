package usage

import (
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Quantity is what a usage event adds to a meter of its type; counts is false when the field that the meter adds up is
// missing or is no number that the ledger keeps.
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

// Countable is the number of a data field as a meter adds it up; ok is false for what is no number that the ledger keeps.
func Countable(v event.Value) (q money.Decimal, ok bool) {
	if q, ok = v.Decimal(); !ok {
		return q, false
	}
	const bound = 1e18 // money.MaxIntegerDigits
	if n, scale, fits := q.Coefficient(); fits && scale == 0 && -bound < n && n < bound {
		return q, true
	}
	q, err := money.ParseQuantity(q.String())
	return q, err == nil
}
