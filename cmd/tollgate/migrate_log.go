package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/adapters/pgserver"
	"github.com/tollgate-io/tollgate/adapters/postgres"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/migrations"
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
	var h house
	defer h.close()
	from, err := h.openMovable(ctx, c.From, true, 0, log)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	to, err := h.openMovable(ctx, c.To, false, c.Partitions, log)
	if err != nil {
		return fmt.Errorf("open the copy: %w", err)
	}
	switch head, err := from.Head(ctx, 0); { // where the system has its events, with which every log begins
	case err != nil:
		return fmt.Errorf("read the log: %w", err)
	case head.Offset == 0:
		return fmt.Errorf("%w at %s: it has no events", errNoLog, redacted(c.From))
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
		if !errors.Is(err, eventstore.ErrForeign) {
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

var errNoLog = errors.New("there is no log")

// openMovable opens a log by itself, without read models. One that exists is not made.
func (h *house) openMovable(ctx context.Context, where string, exists bool, partitions int, log *slog.Logger) (eventstore.Movable, error) {
	url := where
	switch scheme, _, isURL := strings.Cut(where, "://"); {
	case eventstoredb.IsURL(where):
		l, err := eventstoredb.Open(ctx, eventstoredb.Config{URL: where})
		if err != nil {
			return nil, err
		}
		h.closers = append(h.closers, l.Close)
		return l, nil
	case !isURL:
		switch found, err := pgserver.Exists(where); {
		case err != nil:
			return nil, err
		case exists && !found:
			return nil, fmt.Errorf("%w in the folder %s", errNoLog, where)
		}
		if err := h.openPrivateServer(ctx, where, log); err != nil {
			return nil, err
		}
		url = h.url
	case scheme != "postgres" && scheme != "postgresql":
		return nil, fmt.Errorf("%q is neither a postgres:// nor an esdb:// URL, nor a folder", redacted(where))
	}
	if err := migrations.Up(ctx, url); err != nil {
		return nil, err
	}
	pools, err := postgres.OpenPools(ctx, url, 1, 1)
	if err != nil {
		return nil, err
	}
	h.closers = append(h.closers, pools.Close)
	if exists {
		switch err := pools.CheckLogElsewhere(ctx); {
		case err == nil:
			return nil, errNoLog
		case !errors.Is(err, postgres.ErrOtherLog):
			return nil, err
		}
	}
	if err := pools.CheckLogHere(ctx); err != nil {
		return nil, err
	}
	l, err := postgres.OpenLog(ctx, pools.Log, url, postgres.LogConfig{Partitions: partitions})
	if err != nil {
		return nil, err
	}
	h.closers = append(h.closers, l.Close)
	return l, nil
}
