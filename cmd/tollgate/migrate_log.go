package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/tollgate-io/tollgate/cmd/stack"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

type migrateLogCommand struct {
	From       string `arg:"" help:"The log: a postgres:// URL, an esdb:// URL, or a data folder."`
	To         string `arg:"" help:"Where it is to be: likewise, and empty or a copy that was interrupted."`
	Partitions int    `default:"0" hidden:"" help:"Partitions of a new log in PostgreSQL; fixed from then on."`
}

// Help is kong's long help of the command.
func (migrateLogCommand) Help() string {
	return `Every event is copied as it was: stream, revision, id, instant and payload; a client that repeats an event is told that it is known.
Positions are new, and so are those that invoices mention. Then both logs are read again and compared. An interrupted copy goes
on when the command is run again. Nothing is ever deleted.

The log may be in use meanwhile: run the command, stop the servers, run it once more, and start them on the new log. Read models are
not copied; the servers build them from the log, beside a log in EventStoreDB in an empty database.

  tollgate migrate-log .tollgate 'esdb://tollgate:password@a:2113,b:2113,c:2113'`
}

func (c migrateLogCommand) Run(ctx context.Context, log *slog.Logger) error {
	if filepath.Clean(c.From) == filepath.Clean(c.To) {
		return errors.New("the log is there already: both ends are the same")
	}
	from, closeFrom, err := stack.OpenLog(ctx, stack.LogConfig{At: c.From, MustExist: true, Logger: log})
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer closeFrom()
	to, closeTo, err := stack.OpenLog(ctx, stack.LogConfig{At: c.To, Partitions: c.Partitions, Logger: log})
	if err != nil {
		return fmt.Errorf("open the copy: %w", err)
	}
	defer closeTo()
	switch head, err := from.Head(ctx, 0); { // where the system has its events, with which every log begins
	case err != nil:
		return fmt.Errorf("read the log: %w", err)
	case head.Offset == 0:
		return fmt.Errorf("%w at %s: it has no events", stack.ErrNoLog, stack.Redacted(c.From))
	}
	bar := progressbar.NewOptions64(1, progressbar.OptionSetDescription("copy"), progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	started := time.Now()
	report, err := app.Move{From: from, To: to, Progress: func(p app.MoveProgress) {
		what := "copy"
		if p.Verifying {
			what = "verify"
		}
		bar.Describe(fmt.Sprintf("%s, %d events", what, p.Events))
		bar.ChangeMax64(max(p.Total, 1))
		_ = bar.Set64(min(p.Done, p.Total))
	}}.Run(ctx)
	_ = bar.Finish()
	if err != nil {
		if !errors.Is(err, eventstore.ErrNotACopy) {
			err = fmt.Errorf("%w\n%d events were copied; run the command again to go on", err, report.Copied)
		}
		return err
	}
	took := time.Since(started)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	line := func(name string, value any) { _, _ = fmt.Fprintf(w, "%s\t%v\n", name, value) }
	line("events", report.Events)
	line("copied now", report.Copied)
	line("tenants", report.Tenants)
	line("bytes", report.Bytes)
	line("sha256", fmt.Sprintf("%x", report.Digest))
	line("took", fmt.Sprintf("%.1f s (%.0f events/s)", took.Seconds(), float64(report.Events)/max(took.Seconds(), 0.001)))
	_ = w.Flush()
	fmt.Println("the copy is equal to the log")
	return nil
}
