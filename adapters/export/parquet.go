package export

import (
	"io"
	"reflect"

	"github.com/parquet-go/parquet-go"

	"github.com/tollgate-io/tollgate/domain/export"
	"github.com/tollgate-io/tollgate/domain/money"
)

// A row group is kept in memory until it is written, so it is bounded by rows, and by bytes for rows that are large.
const (
	groupRows  = 20_000
	groupBytes = 16 << 20
	batchRows  = 256
)

// parquetEncoder writes Parquet: decimals as DECIMAL(38,18), times as timestamps of microseconds in UTC, objects as JSON.
type parquetEncoder struct {
	dataset *export.Dataset
	w       *parquet.GenericWriter[any]

	batch []parquet.Row
	rows  int // of the row group
	bytes int // likewise, of what is not of fixed size
}

func newParquet(d *export.Dataset, w io.Writer) *parquetEncoder {
	var root columns
	for i := range d.Columns {
		root.fields = append(root.fields, &column{Node: nodeOf(&d.Columns[i]), name: d.Columns[i].Name})
	}
	return &parquetEncoder{dataset: d, w: parquet.NewGenericWriter[any](w, parquet.NewSchema(string(d.Name), &root), parquet.Compression(&parquet.Snappy),
		parquet.CreatedBy("tollgate", "1", "0"), parquet.WriteBufferSize(64<<10), parquet.PageBufferSize(64<<10))}
}

// columns is a group that keeps its columns in order: parquet.Group sorts them.
type columns struct {
	parquet.Group
	fields []parquet.Field
}

func (c *columns) Fields() []parquet.Field { return c.fields }

// column of the group. Rows are given as values, so there is no Go struct to read from.
type column struct {
	parquet.Node
	name string
}

func (c *column) Name() string                      { return c.name }
func (c *column) Value(reflect.Value) reflect.Value { return reflect.Value{} }

func nodeOf(c *export.Column) (n parquet.Node) {
	switch c.Type {
	case export.Instant, export.Second:
		n = parquet.Timestamp(parquet.Microsecond)
	case export.Count:
		n = parquet.Int(64)
	case export.Quantity, export.Money:
		n = parquet.Decimal(export.Scale, export.Precision, parquet.FixedLenByteArrayType(money.FixedBytes))
	case export.Object:
		n = parquet.JSON()
	default:
		n = parquet.String()
	}
	if c.Nullable {
		n = parquet.Optional(n)
	}
	return n
}

// Write implements app.Encoder.
func (e *parquetEncoder) Write(row export.Row) error {
	if len(e.batch) < cap(e.batch) {
		e.batch = e.batch[:len(e.batch)+1]
	} else {
		e.batch = append(e.batch, make(parquet.Row, 0, len(row)))
	}
	values := e.batch[len(e.batch)-1][:0]
	for i := range row {
		level := 0
		if e.dataset.Columns[i].Nullable && !row[i].IsNull() {
			level = 1
		}
		v, size := valueOf(&e.dataset.Columns[i], &row[i])
		values = append(values, v.Level(0, level, i))
		e.bytes += size
	}
	e.batch[len(e.batch)-1] = values
	e.rows++
	switch {
	case e.rows >= groupRows || e.bytes >= groupBytes:
		if err := e.flush(); err != nil {
			return err
		}
		e.rows, e.bytes = 0, 0
		return e.w.Flush()
	case len(e.batch) == batchRows:
		return e.flush()
	}
	return nil
}

func (e *parquetEncoder) flush() error {
	_, err := e.w.WriteRows(e.batch)
	e.batch = e.batch[:0]
	return err
}

func valueOf(c *export.Column, v *export.Value) (value parquet.Value, size int) {
	if v.IsNull() {
		return parquet.NullValue(), 0
	}
	switch c.Type {
	case export.Instant, export.Second:
		return parquet.Int64Value(v.Time().UnixMicro()), 8
	case export.Count:
		return parquet.Int64Value(v.Count()), 8
	case export.Quantity, export.Money:
		fixed := v.Decimal().FixedPoint(export.Scale)
		return parquet.FixedLenByteArrayValue(fixed[:]), len(fixed)
	default:
		text := v.Text()
		return parquet.ByteArrayValue([]byte(text)), len(text)
	}
}

// Close implements app.Encoder.
func (e *parquetEncoder) Close() error {
	if err := e.flush(); err != nil {
		return err
	}
	return e.w.Close()
}
