// Package export owns what leaves the ledger for finance: the data sets with their columns, the rows of facts, invoices and
// transfers, and the manifest that describes a file. It is pure: reading the ledger and writing files is done elsewhere.
package export

import (
	"errors"
	"fmt"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

// ErrRow: a row does not fit its data set. This is a bug of ours, and the export stops.
var ErrRow = errors.New("a row does not fit its data set")

// Name is the name of a data set.
type Name string

// The data sets.
const (
	Usage    Name = "usage"
	Invoices Name = "invoices"
	Journal  Name = "journal"
	Focus    Name = "focus"
)

// Names lists the data sets.
func Names() []Name { return []Name{Usage, Invoices, Journal, Focus} }

// Format is the format of a file.
type Format string

// The formats.
const (
	CSV     Format = "csv"
	JSONL   Format = "jsonl"
	Parquet Format = "parquet"
)

// Formats lists the formats.
func Formats() []Format { return []Format{CSV, JSONL, Parquet} }

// Query asks for an export.
type Query struct {
	Dataset  Name
	Format   Format
	Tenant   event.TenantID // "" for all tenants
	From, To time.Time      // [From, To); zero: no bound
}

// Check returns an *invalid.Error with everything that is wrong with the query.
func (q Query) Check() error {
	var l invalid.List
	if _, ok := datasets[q.Dataset]; !ok {
		l.Add("/dataset", invalid.CodeRequest, fmt.Sprintf("dataset is one of %v", Names()))
	}
	switch q.Format {
	case CSV, JSONL, Parquet:
	default:
		l.Add("/format", invalid.CodeRequest, fmt.Sprintf("format is one of %v", Formats()))
	}
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		l.Add("/to", invalid.CodeRequest, "to must be after from")
	}
	return l.Err()
}

// Covers reports whether an instant is in [From, To).
func (q Query) Covers(t time.Time) bool {
	return (q.From.IsZero() || !t.Before(q.From)) && (q.To.IsZero() || t.Before(q.To))
}

// Type is the type of a column.
type Type uint8

// The types. Every format keeps their values exactly.
const (
	Text     Type = iota
	Instant       // UTC, microseconds
	Second        // UTC, whole seconds, as FOCUS requires
	Count         // a 64-bit integer
	Quantity      // an exact number with at most 20 integer and 18 fraction digits
	Money         // likewise, in the row's currency
	Object        // a JSON object
)

// Column of a data set.
type Column struct {
	Name     string
	Type     Type
	Nullable bool
}

// Dataset describes a data set for all formats.
type Dataset struct {
	Name    Name
	Columns []Column
	// By and Sum are column indexes: a control total is the exact sum of column Sum for one value of column By.
	By, Sum int
}

var datasets = map[Name]*Dataset{
	Usage:    newDataset(Usage, usageColumns, "eventType", "quantity"),
	Invoices: newDataset(Invoices, invoiceColumns, "currency", "amount"),
	Journal:  newDataset(Journal, journalColumns, "currency", "amount"),
	Focus:    newDataset(Focus, focusColumns, "BillingCurrency", "BilledCost"),
}

// Of returns the data set with a name that Query.Check accepts.
func Of(n Name) *Dataset { return datasets[n] }

func newDataset(n Name, columns []Column, by, sum string) *Dataset {
	d := &Dataset{Name: n, Columns: columns, By: -1, Sum: -1}
	for i, c := range columns {
		switch c.Name {
		case by:
			d.By = i
		case sum:
			d.Sum = i
		}
	}
	if d.By < 0 || d.Sum < 0 {
		panic(fmt.Sprintf("export: %s has no columns %s and %s", n, by, sum))
	}
	return d
}

// Value is the value of one column; the zero Value is null.
type Value struct {
	set    bool
	typ    Type
	places int // of Money: the least number of decimals to show
	text   string
	number money.Decimal
	count  int64
	at     time.Time
}

// Row has one value for each column, in the columns' order.
type Row []Value

func text(s string) Value { return Value{set: true, typ: Text, text: s} }

// optional is null for "".
func optional(s string) Value { return Value{set: s != "", typ: Text, text: s} }

// instant is null for the zero time.
func instant(t time.Time) Value { return Value{set: !t.IsZero(), typ: Instant, at: t.UTC()} }

func second(t time.Time) Value {
	return Value{set: !t.IsZero(), typ: Second, at: t.UTC().Truncate(time.Second)}
}

func count(n int64) Value { return Value{set: true, typ: Count, count: n} }

func quantity(d money.Decimal) Value { return Value{set: true, typ: Quantity, number: d} }

func amount(d money.Decimal, places int) Value {
	return Value{set: true, typ: Money, number: d, places: places}
}

func object(json []byte) Value { return Value{set: true, typ: Object, text: string(json)} }

// IsNull reports whether there is no value.
func (v Value) IsNull() bool { return !v.set }

// Text of a Text, or the JSON of an Object.
func (v Value) Text() string { return v.text }

// Decimal of a Quantity or Money.
func (v Value) Decimal() money.Decimal { return v.number }

// Count of a Count.
func (v Value) Count() int64 { return v.count }

// Time of an Instant or Second.
func (v Value) Time() time.Time { return v.at }

// String is the value as text, exact to the digit; "" for null.
func (v Value) String() string {
	if !v.set {
		return ""
	}
	switch v.typ {
	case Instant:
		return v.at.Format("2006-01-02T15:04:05.000000Z")
	case Second:
		return v.at.Format("2006-01-02T15:04:05Z")
	case Count:
		return fmt.Sprint(v.count)
	case Quantity:
		return v.number.String()
	case Money:
		return v.number.Fixed(v.places)
	default:
		return v.text
	}
}

// The digits of a Quantity or Money: in all, and after the point.
const (
	Precision = 38
	Scale     = 18
)

var bound = money.MustParse("100000000000000000000") // 10^(Precision-Scale)

func fits(d money.Decimal) bool {
	if _, scale, ok := d.Coefficient(); ok {
		return scale <= Scale
	}
	return d.Max(d.Neg()).Cmp(bound) < 0 && d.Round(Scale).Equal(d)
}

// Check verifies that a row fits the data set, before any of it is written. Error: ErrRow.
func (d *Dataset) Check(row Row) error {
	if len(row) != len(d.Columns) {
		return fmt.Errorf("%w: %s: %d values", ErrRow, d.Name, len(row))
	}
	for i := range row {
		c, v := &d.Columns[i], &row[i]
		switch {
		case !v.set && c.Nullable:
		case !v.set:
			return fmt.Errorf("%w: %s.%s is null", ErrRow, d.Name, c.Name)
		case v.typ != c.Type:
			return fmt.Errorf("%w: %s.%s has another type", ErrRow, d.Name, c.Name)
		case (c.Type == Quantity || c.Type == Money) && !fits(v.number):
			return fmt.Errorf("%w: %s.%s is %s", ErrRow, d.Name, c.Name, v.number)
		}
	}
	return nil
}
