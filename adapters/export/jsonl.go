package export

import (
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tollgate-io/tollgate/domain/export"
)

// jsonEncoder writes one JSON object a line, with all members of all rows in the same order. Quantities are numbers exact to
// the digit, money is a decimal string.
type jsonEncoder struct {
	dataset *export.Dataset
	names   [][]byte // with the comma before and the colon after
	w       io.Writer
	line    []byte
}

func newJSONL(d *export.Dataset, w io.Writer) *jsonEncoder {
	e := &jsonEncoder{dataset: d, w: w}
	for i, c := range d.Columns {
		name := []byte{',', '"'}
		if i == 0 {
			name[0] = '{'
		}
		e.names = append(e.names, append(append(name, c.Name...), '"', ':'))
	}
	return e
}

// Write implements app.Encoder.
func (e *jsonEncoder) Write(row export.Row) error {
	b := e.line[:0]
	for i := range row {
		b = append(b, e.names[i]...)
		v := &row[i]
		switch t := e.dataset.Columns[i].Type; {
		case v.IsNull():
			b = append(b, "null"...)
		case t == export.Text:
			b, _ = jsontext.AppendQuote(b, v.Text())
		case t == export.Count:
			b = strconv.AppendInt(b, v.Count(), 10)
		case t == export.Quantity, t == export.Object:
			b = append(b, v.String()...)
		default: // money and times
			b = append(append(append(b, '"'), v.String()...), '"')
		}
	}
	b = append(b, '}', '\n')
	e.line = b
	_, err := e.w.Write(b)
	return err
}

// Close implements app.Encoder.
func (e *jsonEncoder) Close() error { return nil }
