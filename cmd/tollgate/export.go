package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/tollgate-io/tollgate/cmd/stack"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/export"
	"github.com/tollgate-io/tollgate/projections"
)

type exportCommand struct {
	settings
	Dataset export.Name   `arg:"" enum:"usage,invoices,journal,focus" help:"usage, invoices, journal or focus."`
	From    string        `placeholder:"TIME" help:"First day (2026-04-01, UTC) or RFC 3339 time; default: the beginning."`
	To      string        `placeholder:"TIME" help:"Before this day or time; default: no end."`
	Tenant  string        `help:"Tenant; default: all."`
	Format  export.Format `enum:"csv,jsonl,parquet" default:"csv" help:"csv, jsonl or parquet."`
	Out     string        `short:"o" default:"." placeholder:"FILE|DIR" help:"File or folder to write to."`
}

// Help is kong's long help of the command.
func (exportCommand) Help() string {
	return `The file appears when it is complete. FILE.manifest.json follows, with the number of rows, control totals, the position of the
log and the SHA-256 of the file.

  tollgate export usage --from 2026-04-01 --to 2026-05-01 --format parquet -o exports/`
}

func (c exportCommand) Run(ctx context.Context, log *slog.Logger) error {
	q := export.Query{Dataset: c.Dataset, Format: c.Format, Tenant: event.TenantID(c.Tenant)}
	var err error
	if q.From, err = dayOrInstant(c.From); err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	if q.To, err = dayOrInstant(c.To); err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	if err := q.Check(); err != nil {
		return err
	}
	s, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.AwaitReadModels(ctx, stack.FoldTimeout, projections.DirectoryModel, projections.TimelineModel); err != nil {
		return err
	}
	e, err := s.Exports.Open(ctx, q)
	if err != nil {
		return err
	}
	path := c.path(q)
	bar := newBar(-1, "export "+filepath.Base(path), progressbar.OptionShowBytes(true))
	started := time.Now()
	var m export.Manifest
	err = writeWhole(path, func(w io.Writer) (err error) {
		m, err = e.Write(ctx, w, func(rows, bytes int64) {
			bar.Describe(fmt.Sprintf("export %s, %d rows", filepath.Base(path), rows))
			_ = bar.Set64(bytes)
		})
		return err
	})
	_ = bar.Finish()
	if err != nil {
		return err
	}
	if err := writeWhole(path+".manifest.json", func(w io.Writer) error {
		_, err := w.Write(append(m.AppendJSON(nil), '\n'))
		return err
	}); err != nil {
		return err
	}
	printManifest(os.Stdout, path, &m, time.Since(started))
	return nil
}

// path is the file; in a folder its name says what the export is.
func (c exportCommand) path(q export.Query) string {
	if info, err := os.Stat(c.Out); (err != nil || !info.IsDir()) && !strings.HasSuffix(c.Out, string(filepath.Separator)) {
		return c.Out
	}
	name := "tollgate-" + string(q.Dataset)
	for _, t := range []time.Time{q.From, q.To} {
		switch {
		case t.IsZero():
		case t.Equal(t.Truncate(24 * time.Hour)):
			name += t.UTC().Format("-2006-01-02")
		default:
			name += t.UTC().Format("-20060102T150405.999999Z")
		}
	}
	return filepath.Join(c.Out, name+"."+string(q.Format))
}

// writeWhole writes a file that has its name only once it is complete and on the disk.
func writeWhole(path string, write func(io.Writer) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func printManifest(w io.Writer, path string, m *export.Manifest, took time.Duration) {
	facts := []fact{{"file", path}, {"rows", m.Rows}, {"bytes", m.Bytes}, {"sha256", m.SHA256}, {"position", m.Position}}
	for _, by := range slices.Sorted(maps.Keys(m.Totals)) {
		facts = append(facts, fact{"total " + by, m.Totals[by]})
	}
	printFacts(w, append(facts, fact{"took", fmt.Sprintf("%.1f s", took.Seconds())}))
}

// dayOrInstant reads a day in UTC or an RFC 3339 time; "" is the zero time.
func dayOrInstant(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%q is neither a day such as 2026-04-01 nor an RFC 3339 time", text)
	}
	return t.UTC(), nil
}
