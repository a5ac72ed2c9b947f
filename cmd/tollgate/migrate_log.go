package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/tollgate-io/tollgate/cmd/stack"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

type migrateLogCommand struct {
	From       string `arg:"" help:"Log to copy: a postgres:// URL, an esdb:// URL, or a data folder."`
	To         string `arg:"" help:"Where to copy it: likewise; empty, or an interrupted copy."`
	Partitions int    `default:"0" hidden:"" help:"Partitions of a new log in PostgreSQL; fixed from then on."`
}

// Help is kong's long help of the command.
func (migrateLogCommand) Help() string {
	return `Every event is copied unchanged: stream, revision, id, time and payload. An event that a client sends again is still a duplicate.
Positions are new, also those in invoices. Then both logs are read again and compared. To resume an interrupted copy, run the command
again. Nothing is ever deleted.

The log may be in use meanwhile: run the command, stop the servers, run it once more, and start them on the new log. Read models are
not copied; the servers build them from the log. A log in EventStoreDB needs an empty database for them.

  tollgate migrate-log .tollgate 'esdb://tollgate:password@a:2113,b:2113,c:2113'`
}

func (c migrateLogCommand) Run(ctx context.Context, log *slog.Logger) error {
	if filepath.Clean(c.From) == filepath.Clean(c.To) {
		return errors.New("nothing to copy: both ends are the same")
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
	switch head, err := from.Head(ctx, 0); { // the partition of the system's own events, with which every log begins
	case err != nil:
		return fmt.Errorf("read the log: %w", err)
	case head.Offset == 0:
		return fmt.Errorf("%w at %s: it has no events", stack.ErrNoLog, stack.Redacted(c.From))
	}
	bar := newBar(1, "copy")
	started := time.Now()
	report, err := app.CopyLog{From: from, To: to, Progress: func(p app.CopyProgress) {
		what := "copy"
		if p.Verifying {
			what = "verify"
		}
		bar.Describe(fmt.Sprintf("%s, %d events", what, p.Events))
		setBar(bar, p.Done, p.Total)
	}}.Run(ctx)
	_ = bar.Finish()
	if err != nil {
		if !errors.Is(err, eventstore.ErrNotACopy) {
			err = fmt.Errorf("%w\n%d events were copied; run the command again to resume", err, report.Copied)
		}
		return err
	}
	took := time.Since(started)
	printFacts(os.Stdout, []fact{{"events", report.Events}, {"copied now", report.Copied}, {"tenants", report.Tenants}, {"bytes", report.Bytes},
		{"sha256", fmt.Sprintf("%x", report.Digest)},
		{"took", fmt.Sprintf("%.1f s (%.0f events/s)", took.Seconds(), float64(report.Events)/max(took.Seconds(), 0.001))}})
	fmt.Println("the copy is equal to the log")
	return nil
}
