package export

import (
	"encoding/csv"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/tollgate-io/tollgate/domain/export"
)

// csvEncoder writes RFC 4180 with a header line, in UTF-8, with line feeds: the library would change those within a text too,
// if lines ended otherwise. Null is an empty cell, and so is an empty text.
type csvEncoder struct {
	dataset *export.Dataset
	w       *csv.Writer
	cells   []string
}

func newCSV(d *export.Dataset, w io.Writer) (*csvEncoder, error) {
	e := &csvEncoder{dataset: d, w: csv.NewWriter(w), cells: make([]string, len(d.Columns))}
	for i, c := range d.Columns {
		e.cells[i] = c.Name
	}
	return e, e.w.Write(e.cells)
}

// Write implements app.Encoder.
func (e *csvEncoder) Write(row export.Row) error {
	for i := range row {
		e.cells[i] = row[i].String()
		if t := e.dataset.Columns[i].Type; t == export.Text || t == export.Object {
			e.cells[i] = guarded(e.cells[i])
		}
	}
	return e.w.Write(e.cells)
}

// Close implements app.Encoder.
func (e *csvEncoder) Close() error {
	e.w.Flush()
	return e.w.Error()
}

// formulas are the characters with which a spreadsheet takes a cell for a formula, as OWASP lists them ("CSV Injection"), and
// the one that makes a text of it.
const formulas = "=+-@\t\r\n＝＋－＠'"

// guarded puts an apostrophe before a text that a spreadsheet would compute. It is put before one that begins with an
// apostrophe too, so taking off a leading one always gives the text. Numbers are no texts.
func guarded(s string) string {
	first, _ := utf8.DecodeRuneInString(s)
	if s == "" || !strings.ContainsRune(formulas, first) {
		return s
	}
	return "'" + s
}
