package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

type importCommand struct {
	settings
	File      string   `arg:"" type:"existingfile" help:"CSV file with a header line."`
	Tenant    string   `required:"" help:"Tenant of the usage."`
	EventType string   `required:"" help:"Event type, such as tokens_spent."`
	SourceID  string   `default:"{file}-{line}" help:"Source id of a row: text with {file}, {line} and {COLUMN}. It must be the same in every run."`
	Map       []string `required:"" placeholder:"FIELD=COLUMN" help:"occurredAt=COLUMN and data.NAME=COLUMN, comma separated."`
	Quantity  string   `default:"1" help:"Quantity of a row: a sum of columns and numbers, such as ContextTokens+GeneratedTokens."`
	ZoneName  string   `name:"time-zone" default:"UTC" help:"Time zone of times without an offset."`
	Rejects   int      `default:"10" help:"How many rejected rows to print."`

	Wait time.Duration `default:"30s" help:"How long to wait for a database that does not answer."`
}

// Help is kong's long help of the command.
func (importCommand) Help() string {
	return `Each row becomes one usage event. Run the command again to resume: rows that are already recorded are duplicates.

  tollgate import trace.csv --tenant acme --event-type tokens_spent --source-id '{file}-{line}' \
    --map occurredAt=TIMESTAMP,data.inputTokens=ContextTokens,data.outputTokens=GeneratedTokens \
    --quantity 'ContextTokens+GeneratedTokens'`
}

// importBatch is how many rows are recorded together: large enough for full speed, small enough to show progress.
const importBatch = 2000

func (c importCommand) Run(ctx context.Context, log *slog.Logger) error {
	f, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	rows, err := newRowReader(f, c)
	if err != nil {
		return err
	}
	s, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Directory.Tenant(ctx, rows.tenant); err != nil {
		return fmt.Errorf("tenant %q: %w", rows.tenant, err)
	}
	bar := newBar(max(info.Size(), 1), "import "+filepath.Base(c.File), progressbar.OptionShowBytes(true))
	total, err := c.record(ctx, s.Ledger, rows, bar)
	_ = bar.Finish()
	total.print(os.Stdout, time.Since(total.started))
	if err != nil {
		return fmt.Errorf("%w\nRun the same command again to resume.", err) //nolint:revive,staticcheck // a sentence for a person
	}
	if bad := total.conflicts + total.rejected; bad > 0 {
		return fmt.Errorf("%d rows were not recorded", bad)
	}
	return nil
}

// record sends the rows in batches.
func (c importCommand) record(ctx context.Context, ledger *app.Ledger, rows *rowReader, bar *progressbar.ProgressBar) (importTotal, error) {
	total := importTotal{started: time.Now()}
	batch := make([]app.Submission, 0, importBatch)
	lines := make([]int, 0, importBatch)
	flush := func() error {
		receipts, err := recordAll(ctx, ledger, batch, c.Wait)
		if err != nil {
			return err
		}
		for i, r := range receipts {
			total.add(lines[i], r, c.Rejects)
		}
		batch, lines = batch[:0], lines[:0]
		return bar.Set64(rows.offset())
	}
	for {
		submission, line, err := rows.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			total.reject(line, err, c.Rejects)
			if !isRowError(err) {
				return total, err
			}
			continue
		}
		batch, lines = append(batch, submission), append(lines, line)
		if len(batch) == importBatch {
			if err := flush(); err != nil {
				return total, err
			}
		}
	}
	return total, flush()
}

// recordAll records a batch, and retries while the store does not answer: sending the same again is safe.
func recordAll(ctx context.Context, ledger *app.Ledger, batch []app.Submission, atMost time.Duration) ([]app.Receipt, error) {
	deadline := time.Now().Add(atMost)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		receipts := ledger.Record(ctx, batch)
		var failed error
		for _, r := range receipts {
			if r.Status == "" {
				failed = r.Err
			}
		}
		switch {
		case failed == nil:
			return receipts, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case time.Now().Add(wait).After(deadline):
			return nil, failed
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// importTotal is the summary.
type importTotal struct {
	started                                   time.Time
	recorded, duplicates, conflicts, rejected int
	rejects                                   []string
	last                                      eventstore.Position
}

func (t *importTotal) add(line int, r app.Receipt, show int) {
	switch r.Status {
	case app.Recorded:
		t.recorded++
		t.last = r.Position
	case app.Duplicate:
		t.duplicates++
	case app.Conflict:
		t.conflicts++
		t.note(line, "another payload is recorded for this sourceId", show)
	default:
		t.reject(line, r.Err, show)
	}
}

func (t *importTotal) reject(line int, err error, show int) {
	t.rejected++
	t.note(line, err.Error(), show)
}

func (t *importTotal) note(line int, why string, show int) {
	if len(t.rejects) < show {
		t.rejects = append(t.rejects, fmt.Sprintf("  line %d: %s", line, why))
	}
}

func (t *importTotal) print(w io.Writer, took time.Duration) {
	rows := t.recorded + t.duplicates + t.conflicts + t.rejected
	_, _ = fmt.Fprintf(w, "%9d rows in %.1f s (%.0f/s)\n%9d recorded\n%9d duplicates\n%9d conflicts\n%9d rejected\n",
		rows, took.Seconds(), float64(rows)/max(took.Seconds(), 0.001), t.recorded, t.duplicates, t.conflicts, t.rejected)
	for _, r := range t.rejects {
		_, _ = fmt.Fprintln(w, r)
	}
	if more := t.conflicts + t.rejected - len(t.rejects); more > 0 {
		_, _ = fmt.Fprintf(w, "  ... and %d more\n", more)
	}
}

// rowError is a row that cannot become an event; the import continues without it.
type rowError struct{ err error }

func (e rowError) Error() string { return e.err.Error() }
func (e rowError) Unwrap() error { return e.err }

func isRowError(err error) bool {
	var r rowError
	return errors.As(err, &r)
}

// rowReader turns CSV rows into submissions.
type rowReader struct {
	csv      *csv.Reader
	tenant   event.TenantID
	usage    event.Type
	file     string
	source   []piece
	occurred int
	data     []dataColumn
	quantity []term
	zone     *time.Location
}

// piece of a source id: plain text, the value of a column, or the line number.
type piece struct {
	text   string
	column int // or plainText or lineNumber
}

const (
	plainText  = -1
	lineNumber = -2
)

type dataColumn struct {
	name   string
	column int
}

// term of the quantity: a column or a number.
type term struct {
	column int // -1: number
	number money.Decimal
}

func newRowReader(r io.Reader, c importCommand) (*rowReader, error) {
	in := &rowReader{csv: csv.NewReader(r), tenant: event.TenantID(c.Tenant), usage: event.Type(c.EventType),
		file: strings.TrimSuffix(filepath.Base(c.File), filepath.Ext(c.File)), occurred: -1}
	in.csv.ReuseRecord = true
	header, err := in.csv.Read()
	if err != nil {
		return nil, fmt.Errorf("read the header line: %w", err)
	}
	columns := make(map[string]int, len(header))
	for i, name := range header {
		name = strings.TrimSpace(strings.TrimPrefix(name, "\ufeff"))
		if _, twice := columns[name]; twice {
			return nil, fmt.Errorf("there are two columns %q", name)
		}
		columns[name] = i
	}
	column := func(name string) (int, error) {
		i, ok := columns[name]
		if !ok {
			return 0, fmt.Errorf("there is no column %q in the header %s", name, strings.Join(header, ","))
		}
		return i, nil
	}
	if in.zone, err = time.LoadLocation(c.ZoneName); err != nil {
		return nil, fmt.Errorf("--time-zone: %w", err)
	}
	if err := in.setMap(c.Map, column); err != nil {
		return nil, fmt.Errorf("--map: %w", err)
	}
	if in.source, err = parseSource(c.SourceID, in.file, column); err != nil {
		return nil, fmt.Errorf("--source-id: %w", err)
	}
	if in.quantity, err = parseQuantity(c.Quantity, column); err != nil {
		return nil, fmt.Errorf("--quantity: %w", err)
	}
	return in, nil
}

func (in *rowReader) setMap(pairs []string, column func(string) (int, error)) error {
	for _, pair := range pairs {
		field, name, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%q is not FIELD=COLUMN", pair)
		}
		i, err := column(name)
		if err != nil {
			return err
		}
		dataName, isData := strings.CutPrefix(field, "data.")
		switch {
		case field == "occurredAt":
			in.occurred = i
		case isData && dataName != "":
			in.data = append(in.data, dataColumn{dataName, i})
		default:
			return fmt.Errorf("%q is neither occurredAt nor data.NAME", field)
		}
	}
	if in.occurred < 0 {
		return errors.New("occurredAt=COLUMN is required")
	}
	return nil
}

func parseSource(template, file string, column func(string) (int, error)) ([]piece, error) {
	var pieces []piece
	for template != "" {
		text, rest, found := strings.Cut(template, "{")
		if text != "" {
			pieces = append(pieces, piece{text, plainText})
		}
		if !found {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, errors.New("a { has no }")
		}
		switch name {
		case "file":
			pieces = append(pieces, piece{file, plainText})
		case "line":
			pieces = append(pieces, piece{"", lineNumber})
		default:
			i, err := column(name)
			if err != nil {
				return nil, err
			}
			pieces = append(pieces, piece{"", i})
		}
		template = after
	}
	return pieces, nil
}

func parseQuantity(sum string, column func(string) (int, error)) ([]term, error) {
	var terms []term
	for part := range strings.SplitSeq(sum, "+") {
		part = strings.TrimSpace(part)
		if n, err := money.ParseQuantity(part); err == nil {
			terms = append(terms, term{-1, n})
			continue
		}
		i, err := column(part)
		if err != nil {
			return nil, err
		}
		terms = append(terms, term{column: i})
	}
	return terms, nil
}

func (in *rowReader) offset() int64 { return in.csv.InputOffset() }

// next returns the event of the next row. A row that cannot become one is a rowError; the line is set for all errors.
func (in *rowReader) next() (app.Submission, int, error) {
	row, err := in.csv.Read()
	if err != nil {
		var malformed *csv.ParseError
		if errors.As(err, &malformed) {
			return app.Submission{}, malformed.Line, rowError{err}
		}
		return app.Submission{}, 0, err
	}
	line, _ := in.csv.FieldPos(0)
	u := event.Usage{Identity: event.Identity{Tenant: in.tenant, Type: in.usage, Source: in.sourceID(row, line)}}
	if u.OccurredAt, err = parseTime(row[in.occurred], in.zone); err != nil {
		return app.Submission{}, line, rowError{err}
	}
	for _, t := range in.quantity {
		n := t.number
		if t.column >= 0 {
			if n, err = money.ParseQuantity(strings.TrimSpace(row[t.column])); err != nil {
				return app.Submission{}, line, rowError{fmt.Errorf("quantity %q: %w", row[t.column], err)}
			}
		}
		u.Quantity = u.Quantity.Add(n)
	}
	if u.Data, err = in.dataOf(row); err != nil {
		return app.Submission{}, line, rowError{err}
	}
	return app.Submission{Usage: u, Emitter: "import:" + in.file}, line, nil
}

func (in *rowReader) sourceID(row []string, line int) event.SourceID {
	var b strings.Builder
	for _, p := range in.source {
		switch p.column {
		case plainText:
			b.WriteString(p.text)
		case lineNumber:
			_, _ = fmt.Fprint(&b, line)
		default:
			b.WriteString(row[p.column])
		}
	}
	return event.SourceID(b.String())
}

// dataOf maps columns to members: a number is a number, true and false are booleans, empty is left out.
func (in *rowReader) dataOf(row []string) (event.Data, error) {
	fields := make(map[string]any, len(in.data))
	for _, d := range in.data {
		text := strings.TrimSpace(row[d.column])
		switch {
		case text == "":
		case text == "true" || text == "false":
			fields[d.name] = text == "true"
		default:
			if n, err := money.ParseNumber(text); err == nil {
				fields[d.name] = n
			} else {
				fields[d.name] = text
			}
		}
	}
	b, err := json.Marshal(fields)
	if err != nil {
		return event.Data{}, err
	}
	return event.ParseData(b, "/data")
}

// timeLayouts are common forms of time in exports; those without an offset are in the zone of --time-zone.
var timeLayouts = []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999"}

func parseTime(text string, zone *time.Location) (time.Time, error) {
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, strings.TrimSpace(text), zone); err == nil {
			return event.Instant(t), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 2023-11-16 18:17:03.9799600 or an RFC 3339 time", text)
}
