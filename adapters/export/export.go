// Package export writes rows of a data set as CSV, JSON lines or Parquet, to anything that takes bytes, in memory that does not
// grow with the number of rows. What the columns are is decided by domain/export.
package export

import (
	"fmt"
	"io"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/export"
)

// NewEncoder implements app.NewEncoder.
func NewEncoder(f export.Format, d *export.Dataset, w io.Writer) (app.Encoder, error) {
	switch f {
	case export.CSV:
		return newCSV(d, w)
	case export.JSONL:
		return newJSONL(d, w), nil
	case export.Parquet:
		return newParquet(d, w), nil
	default:
		return nil, fmt.Errorf("no export as %q", f)
	}
}

var _ app.NewEncoder = NewEncoder
