package export

import (
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tollgate-io/tollgate/domain/money"
)

// Totals are the control totals: exact sums by the value of the data set's By column.
type Totals map[string]money.Decimal

// add adds a row.
func (t Totals) add(d *Dataset, row Row) {
	by := row[d.By].text
	t[by] = t[by].Add(row[d.Sum].number)
}

// Tally counts the rows of an export and computes its control totals.
type Tally struct {
	Rows   int64
	Totals Totals
}

// Add adds a row.
func (t *Tally) Add(d *Dataset, row Row) {
	if t.Totals == nil {
		t.Totals = Totals{}
	}
	t.Rows++
	t.Totals.add(d, row)
}

// Manifest describes a file. With it the receiver can check that the file is complete and unchanged, and see what it came from.
type Manifest struct {
	Query
	Tally
	Bytes     int64
	SHA256    string // of the file, in hexadecimal
	Position  string // of the log: one per partition that was read, separated by commas
	CreatedAt time.Time
}

// AppendJSON appends the manifest as JSON in ASCII, so that it can be an HTTP header. Totals are decimal strings, so that no
// reader rounds them.
func (m *Manifest) AppendJSON(b []byte) []byte {
	b = append(append(append(b, `{"dataset":"`...), m.Dataset...), `","format":"`...)
	b = append(append(b, m.Format...), `","from":`...)
	b = append(appendTime(b, m.From), `,"to":`...)
	b = append(appendTime(b, m.To), `,"tenantId":`...)
	if m.Tenant == "" {
		b = append(b, "null"...)
	} else {
		b = appendASCII(b, string(m.Tenant))
	}
	b = strconv.AppendInt(append(b, `,"rows":`...), m.Rows, 10)
	b = strconv.AppendInt(append(b, `,"bytes":`...), m.Bytes, 10)
	b = append(append(append(b, `,"sha256":"`...), m.SHA256...), `","position":`...)
	b = append(appendASCII(b, m.Position), `,"controlTotals":`...)
	b = append(m.Totals.AppendJSON(b), `,"createdAt":`...)
	return append(appendTime(b, m.CreatedAt), '}')
}

// AppendJSON appends the totals as a JSON object in ASCII; nil is null.
func (t Totals) AppendJSON(b []byte) []byte {
	if t == nil {
		return append(b, "null"...)
	}
	b = append(b, '{')
	for i, by := range slices.Sorted(maps.Keys(t)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendASCII(b, by), `:"`...)
		b = append(append(b, t[by].String()...), '"')
	}
	return append(b, '}')
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, "null"...)
	}
	return t.UTC().AppendFormat(b, `"2006-01-02T15:04:05.000000Z"`)
}

// appendASCII appends a JSON string that escapes everything but printable ASCII.
func appendASCII(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	escape := func(b []byte, r rune) []byte {
		return append(b, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
	}
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r >= ' ' && r < utf8.RuneSelf-1:
			b = append(b, byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			b = escape(escape(b, high), low)
		default:
			b = escape(b, r)
		}
	}
	return append(b, '"')
}
