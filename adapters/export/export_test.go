package export_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/export"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Text files are compared byte for byte with recorded ones.
func TestGoldenFiles(t *testing.T) {
	eachDataset(t, func(t *testing.T, d *export.Dataset, rows []export.Row) {
		for _, f := range []export.Format{export.CSV, export.JSONL} {
			file, got := filepath.Join("testdata", string(d.Name)+"."+string(f)), encode(t, f, d, rows)
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(file, got, 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Equal(t, string(want), string(got), file)
		}
	})
}

// What is read back is what was written, to the digit and the character, in every format.
func TestEveryFormatKeepsTheValues(t *testing.T) {
	eachDataset(t, func(t *testing.T, d *export.Dataset, rows []export.Row) {
		readBack(t, d, rows)
	})
}

func readBack(t require.TestingT, d *export.Dataset, rows []export.Row) {
	want := make([][]*string, len(rows))
	for i, row := range rows {
		for c := range row {
			var value *string
			if !row[c].IsNull() {
				text := row[c].String()
				value = &text
			}
			want[i] = append(want[i], value)
		}
	}
	require.Equal(t, want, fromJSONL(t, d, encode(t, export.JSONL, d, rows)))
	for i, row := range fromParquet(t, d, encode(t, export.Parquet, d, rows)) {
		for c := range row {
			if k := d.Columns[c].Type; k == export.Money && row[c] != nil { // without trailing zeros
				require.Equal(t, money.MustParse(*want[i][c]).String(), *row[c])
				continue
			}
			require.Equal(t, want[i][c], row[c], "row %d, %s", i, d.Columns[c].Name)
		}
	}
	for i, row := range fromCSV(t, d, encode(t, export.CSV, d, rows)) {
		for c := range row {
			wanted := ""
			if want[i][c] != nil {
				wanted = strings.ReplaceAll(*want[i][c], "\r\n", "\n") // as the reader of the library does
			}
			require.Equal(t, wanted, row[c], "row %d, %s", i, d.Columns[c].Name)
		}
	}
}

func fromCSV(t require.TestingT, d *export.Dataset, file []byte) [][]string {
	records, err := csv.NewReader(bytes.NewReader(file)).ReadAll()
	require.NoError(t, err)
	require.Equal(t, names(d), records[0])
	for _, record := range records[1:] {
		for c, cell := range record {
			switch d.Columns[c].Type {
			case export.Text, export.Object:
				require.NotContains(t, "=+-@\t\r＝＋－＠", firstOf(cell), "a spreadsheet computes %q", cell)
				record[c] = strings.TrimPrefix(cell, "'")
			default:
				require.NotContains(t, cell, "'")
			}
		}
	}
	return records[1:]
}

func firstOf(s string) string {
	for _, r := range s {
		return string(r)
	}
	return "nothing"
}

func fromJSONL(t require.TestingT, d *export.Dataset, file []byte) (rows [][]*string) {
	for line := range bytes.Lines(file) {
		var object map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(line, &object))
		require.Len(t, object, len(d.Columns))
		var row []*string
		for _, c := range d.Columns {
			raw := string(object[c.Name])
			switch {
			case raw == "null":
				row = append(row, nil)
				continue
			case c.Type == export.Count, c.Type == export.Quantity, c.Type == export.Object:
				require.NotEqual(t, byte('"'), raw[0], c.Name)
			default:
				var text string
				require.NoError(t, json.Unmarshal(object[c.Name], &text))
				raw = text
			}
			row = append(row, &raw)
		}
		rows = append(rows, row)
	}
	return rows
}

func fromParquet(t require.TestingT, d *export.Dataset, file []byte) (rows [][]*string) {
	f, err := parquet.OpenFile(bytes.NewReader(file), int64(len(file)))
	require.NoError(t, err)
	for i, field := range f.Schema().Fields() {
		require.Equal(t, d.Columns[i].Name, field.Name())
		require.Equal(t, d.Columns[i].Nullable, field.Optional())
	}
	r := parquet.NewReader(f)
	buffer := make([]parquet.Row, 100)
	for {
		n, err := r.ReadRows(buffer)
		for _, values := range buffer[:n] {
			var row []*string
			for i, v := range values {
				if v.IsNull() {
					row = append(row, nil)
					continue
				}
				text := ""
				switch d.Columns[i].Type {
				case export.Instant:
					text = time.UnixMicro(v.Int64()).UTC().Format("2006-01-02T15:04:05.000000Z")
				case export.Second:
					text = time.UnixMicro(v.Int64()).UTC().Format("2006-01-02T15:04:05Z")
				case export.Quantity, export.Money:
					unscaled := new(big.Int).SetBytes(v.ByteArray())
					if v.ByteArray()[0] >= 0x80 {
						unscaled.Sub(unscaled, new(big.Int).Lsh(big.NewInt(1), 128))
					}
					text = money.MustParse(unscaled.String() + "e-18").String()
				case export.Count:
					text = v.String()
				default:
					text = string(v.ByteArray())
				}
				row = append(row, &text)
			}
			rows = append(rows, row)
		}
		if errors.Is(err, io.EOF) {
			return rows
		}
		require.NoError(t, err)
	}
}

// Any fact, adjusted any number of times and then voided, in any format: what is read is what was written, and what is left
// of it is nothing.
func TestFactsInEveryFormat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.OneOf(rapid.SampledFrom(hostile), rapid.String())
		quantities := rapid.Custom(func(t *rapid.T) money.Decimal {
			return money.Scaled(rapid.Int64Range(1, 1<<62).Draw(t, "coefficient"), rapid.IntRange(1, 9).Draw(t, "scale"))
		})
		data := rapid.Custom(func(t *rapid.T) event.Data {
			return event.NewData(map[string]any{"model": texts.Draw(t, "model"), "outputTokens": rapid.Int64Range(-10, 1<<40).Draw(t, "tokens"), "any": quantities.Draw(t, "number")})
		})
		u := event.Usage{Identity: event.Identity{Tenant: "t", Type: event.Type("e" + texts.Draw(t, "type")), Source: event.SourceID("s" + texts.Draw(t, "source"))},
			Quantity: quantities.Draw(t, "quantity"), Data: data.Draw(t, "data"), OccurredAt: time.UnixMicro(rapid.Int64Range(-1e15, 4e15).Draw(t, "at")).UTC()}
		var rows []export.Row
		add := func(payload any) {
			rows = append(rows, export.UsageRows(event.Decoded{Recorded: eventstore.Recorded{Position: eventstore.Position{Offset: int64(len(rows) + 1)}, RecordedAt: day(9)}, Payload: payload})...)
		}
		add(event.UsageRecorded{Usage: u})
		for range rapid.IntRange(0, 3).Draw(t, "adjustments") {
			a := event.UsageAdjusted{Usage: u, Quantity: quantities.Draw(t, "new quantity"), Data: u.Data, Reason: texts.Draw(t, "reason")}
			if rapid.Bool().Draw(t, "other data") {
				a.Data = data.Draw(t, "new data")
			}
			add(a)
			u = a.After()
			var tally export.Tally
			for _, row := range rows {
				tally.Add(export.Of(export.Usage), row)
			}
			require.True(t, tally.Totals[string(u.Type)].Equal(u.Quantity), "the rows of a fact sum to what it is now")
		}
		add(event.UsageVoided{Usage: u, Reason: "r"})
		readBack(t, export.Of(export.Usage), rows)
		left, tokens := map[string]money.Decimal{}, map[string]int64{} // by model
		for _, row := range rows {
			left[row[9].Text()] = left[row[9].Text()].Add(row[7].Decimal())
			tokens[row[9].Text()] += row[14].Count()
		}
		for model := range left {
			require.Zero(t, left[model].Sign(), model)
			require.Zero(t, tokens[model], model)
		}
	})
}

// Row groups end by size too: large rows are not kept.
func TestParquetRowGroupsAreBounded(t *testing.T) {
	d := export.Of(export.Usage)
	big := event.NewData(map[string]any{"text": strings.Repeat("x", 60<<10)})
	var rows []export.Row
	for n := range 700 { // 42 MB
		rows = append(rows, export.UsageRows(event.Decoded{Recorded: eventstore.Recorded{Position: eventstore.Position{Offset: int64(n + 1)}, RecordedAt: day(1)}, Payload: event.UsageRecorded{Usage: event.Usage{
			Identity: event.Identity{Tenant: "t", Type: "e", Source: "s"}, Quantity: money.Int(1), OccurredAt: day(1), Data: big}}})...)
	}
	file := encode(t, export.Parquet, d, rows)
	f, err := parquet.OpenFile(bytes.NewReader(file), int64(len(file)))
	require.NoError(t, err)
	require.Len(t, f.RowGroups(), 3)
	require.EqualValues(t, len(rows), f.NumRows())
}

// A row that does not fit is refused before anything of it is written.
func TestCheckRefusesARowThatDoesNotFit(t *testing.T) {
	d := export.Of(export.Usage)
	good := usageRows(t)[0]
	require.NoError(t, d.Check(good))
	other := append(export.Row{}, good...)
	other[7] = good[12] // a count where a quantity is
	missing := append(export.Row{}, good...)
	missing[0] = export.Value{}
	long := export.UsageRows(event.Decoded{Recorded: eventstore.Recorded{RecordedAt: day(1)}, Payload: event.UsageRecorded{Usage: event.Usage{Identity: event.Identity{Tenant: "t", Type: "e", Source: "s"},
		OccurredAt: day(1), Quantity: money.MustParse("100000000000000000000")}}})[0]
	fine := export.UsageRows(event.Decoded{Recorded: eventstore.Recorded{RecordedAt: day(1)}, Payload: event.UsageRecorded{Usage: event.Usage{Identity: event.Identity{Tenant: "t", Type: "e", Source: "s"},
		OccurredAt: day(1), Quantity: money.MustParse("0.0000000000000000001")}}})[0]
	for _, row := range []export.Row{other, missing, long, fine, good[1:]} {
		require.ErrorIs(t, d.Check(row), export.ErrRow)
	}
}
