package event

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tollgate-io/tollgate/domain/money"
)

// Bounds of an event's data.
const (
	MaxDataBytes = 64 << 10
	MaxDataDepth = 8 // the object itself is depth 1
)

// Data is the free JSON object of an event: immutable, its members sorted by name, its numbers exact. It is held in the
// compact form of the log, so that reading one field decodes no other.
type Data struct{ wire string }

// Kind of a Value.
type Kind uint8

// The kinds of JSON values; objects and arrays are Nested.
const (
	Absent Kind = iota
	Null
	False
	True
	Integer // fits in 62 bits; the form of nearly every measure
	Number  // any other number
	Text
	Nested
)

// Value is one member of Data. The zero Value is Absent.
type Value struct {
	Kind Kind
	n    int64  // Integer
	s    string // Number: canonical text; Text: the string; Nested: canonical JSON
}

// NewData builds data from scalar members: string, bool, nil, int, int64 or money.Decimal values. It panics on other types.
func NewData(fields map[string]any) Data {
	members := make([]member, 0, len(fields))
	for name, f := range fields {
		var v Value
		switch f := f.(type) {
		case nil:
			v.Kind = Null
		case bool:
			v.Kind = False
			if f {
				v.Kind = True
			}
		case int:
			v = number(money.Int(int64(f)))
		case int64:
			v = number(money.Int(f))
		case money.Decimal:
			v = number(f)
		case string:
			v = Value{Kind: Text, s: f}
		default:
			panic(fmt.Sprintf("event: no data value of type %T", f))
		}
		members = append(members, newMember(name, v))
	}
	return Data{string(appendMembers(nil, members))}
}

func number(n money.Decimal) Value {
	const bound = 1 << 61
	if c, scale, ok := n.Coefficient(); ok && scale == 0 && c > -bound && c < bound {
		return Value{Kind: Integer, n: c}
	}
	return Value{Kind: Number, s: n.String()}
}

// all walks the members in the order of their names.
func (d Data) all(yield func(name string, v Value) bool) {
	for w := d.wire; w != ""; {
		name, v, rest := nextMember(w)
		if !yield(name, v) {
			return
		}
		w = rest
	}
}

// All iterates over the members, sorted by name.
func (d Data) All() iter.Seq2[string, Value] { return d.all }

// Get returns one member; Absent where there is none.
func (d Data) Get(name string) Value {
	for w := d.wire; w != ""; {
		n, v, rest := nextMember(w)
		if n == name {
			return v
		}
		w = rest
	}
	return Value{}
}

// Only keeps the members of these names, which are sorted.
func (d Data) Only(names ...string) Data {
	var kept []member
	for name, v := range d.all {
		if _, found := slices.BinarySearch(names, name); found {
			kept = append(kept, newMember(name, v))
		}
	}
	return Data{string(appendMembers(nil, kept))}
}

// Decimal returns a number; ok is false for any other kind.
func (v Value) Decimal() (d money.Decimal, ok bool) {
	switch v.Kind {
	case Integer:
		return money.Int(v.n), true
	case Number:
		n, err := money.ParseNumber(v.s)
		return n, err == nil
	default:
		return money.Decimal{}, false
	}
}

// String is the value as dimensions and people use it: a text without quotes, anything else as JSON, "" for null and absent.
func (v Value) String() string {
	switch v.Kind {
	case Text:
		return v.s
	case Absent, Null:
		return ""
	default:
		return string(v.AppendJSON(nil))
	}
}

// AppendJSON appends the canonical JSON of the value.
func (v Value) AppendJSON(dst []byte) []byte {
	switch v.Kind {
	case False:
		return append(dst, "false"...)
	case True:
		return append(dst, "true"...)
	case Integer:
		return strconv.AppendInt(dst, v.n, 10)
	case Text:
		return appendString(dst, v.s)
	case Number, Nested:
		return append(dst, v.s...)
	default:
		return append(dst, "null"...)
	}
}

func appendString(dst []byte, s string) []byte {
	if isPlain(s) {
		return append(append(append(dst, '"'), s...), '"')
	}
	dst, err := jsontext.AppendQuote(dst, s)
	if err != nil {
		panic(fmt.Sprintf("event: text was not checked: %v", err))
	}
	return dst
}

// isPlain reports whether the text needs no escapes in JSON: printable ASCII without quotes and backslashes. Nearly every
// text is.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// AppendJSON appends the canonical JSON object.
func (d Data) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	first := true
	for w := d.wire; w != ""; {
		name, v, rest := nextMember(w)
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(appendString(dst, name), ':')
		dst = v.AppendJSON(dst)
		w = rest
	}
	return append(dst, '}')
}

// MarshalJSON writes the canonical JSON object.
func (d Data) MarshalJSON() ([]byte, error) { return d.AppendJSON(nil), nil }

// UnmarshalJSON reads an object as ParseData does.
func (d *Data) UnmarshalJSON(b []byte) (err error) {
	*d, err = ParseData(b, "")
	return err
}

// Equal reports whether both have the same members. Comparing with == is not enough: one may have been written before the
// log's dictionary had one of the names.
func (d Data) Equal(other Data) bool {
	return d.wire == other.wire || bytes.Equal(d.AppendJSON(nil), other.AppendJSON(nil))
}

// IsEmpty reports whether there are no members.
func (d Data) IsEmpty() bool { return d.wire == "" }
