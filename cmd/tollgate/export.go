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
	"text/tabwriter"
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
	From    string        `placeholder:"TIME" help:"From this day (2026-04-01, UTC) or RFC 3339 instant on; empty: from the beginning."`
	To      string        `placeholder:"TIME" help:"Before this day or instant; empty: without end."`
	Tenant  string        `help:"Tenant; empty: all."`
	Format  export.Format `enum:"csv,jsonl,parquet" default:"csv" help:"csv, jsonl or parquet."`
	Out     string        `short:"o" default:"." placeholder:"FILE|DIR" help:"Where to write."`
}

// Help is kong's long help of the command.
func (exportCommand) Help() string {
	return `The file is there when it is whole, and after it FILE.manifest.json, with the number of rows, control totals, the position
of the log and the SHA-256 of the file.

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
	bar := progressbar.NewOptions64(-1, progressbar.OptionSetDescription("export "+filepath.Base(path)), progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
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

// path is the file, in a folder under a name that says what it is.
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

// writeWhole writes a file that is there under its name only when it is whole and on the disk.
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
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name string, value any) { _, _ = fmt.Fprintf(t, "%s\t%v\n", name, value) }
	line("file", path)
	line("rows", m.Rows)
	line("bytes", m.Bytes)
	line("sha256", m.SHA256)
	line("position", m.Position)
	for _, by := range slices.Sorted(maps.Keys(m.Totals)) {
		line("total "+by, m.Totals[by])
	}
	line("took", fmt.Sprintf("%.1f s", took.Seconds()))
	_ = t.Flush()
}

// dayOrInstant reads a day in UTC, or an RFC 3339 time; the zero time from "".
func dayOrInstant(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%q is no day such as 2026-04-01, and no RFC 3339 time", text)
	}
	return t.UTC(), nil
}
