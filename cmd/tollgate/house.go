package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-io/tollgate/adapters/pgserver"
	"github.com/tollgate-io/tollgate/adapters/postgres"
	"github.com/tollgate-io/tollgate/adapters/watermill"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/migrations"
	"github.com/tollgate-io/tollgate/projections"
)

// database says where the ledger is. All commands share it.
type database struct {
	DatabaseURL string `env:"TOLLGATE_DATABASE_URL" placeholder:"URL" help:"PostgreSQL to use; empty: a private server in the data folder."`
	DataDir     string `env:"TOLLGATE_DATA_DIR" default:".tollgate" placeholder:"DIR" help:"Data folder."`
	EventStore  string `env:"TOLLGATE_EVENT_STORE" default:"postgres" help:"Where the log is: postgres."`
	Partitions  int    `env:"TOLLGATE_PARTITIONS" default:"0" hidden:"" help:"Partitions of a new log; fixed from then on."`
}

const (
	stopTimeout = 30 * time.Second
	// readPool serves the API's reads, applyPool the projections: a slow reader of one kind cannot starve the others.
	readPool  = 8
	applyPool = 8
)

// house is everything that is open: the database, the log and the read models on it, and the application on top.
type house struct {
	url        string
	log        *postgres.Log
	readModels *postgres.ReadModels
	directory  *postgres.Directory
	ledger     *app.Ledger
	runner     *watermill.Runner    // nil while this process does not fold the log
	metrics    *prometheus.Registry // nil for commands that end
	closers    []func()
}

// open opens the ledger, starting its Postgres when none runs, and brings the schema up to date.
func (d database) open(ctx context.Context, log *slog.Logger) (_ *house, err error) {
	if d.EventStore != "postgres" {
		return nil, fmt.Errorf("TOLLGATE_EVENT_STORE is %q; this version keeps the log in postgres", redacted(d.EventStore))
	}
	h := &house{url: d.DatabaseURL}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if h.url == "" {
		if err := h.openPrivateServer(ctx, d.DataDir, log); err != nil {
			return nil, err
		}
	}
	if err := migrations.Up(ctx, h.url); err != nil {
		return nil, err
	}
	pools, err := postgres.OpenPools(ctx, h.url, readPool, applyPool)
	if err != nil {
		return nil, err
	}
	h.closers = append(h.closers, pools.Close)
	if h.log, err = postgres.OpenLog(ctx, pools.Log, postgres.LogConfig{Partitions: d.Partitions}); err != nil {
		return nil, err
	}
	h.closers = append(h.closers, h.log.Close)
	h.readModels = postgres.NewReadModels(pools.Apply, projections.NewCatalogs(h.log)).ReadFrom(pools.Read)
	if err := h.readModels.Ensure(ctx, h.log.Partitions()); err != nil {
		return nil, err
	}
	h.directory = postgres.NewDirectory(h.readModels)
	h.ledger = app.New(h.log, h.directory, time.Now)
	return h, nil
}

// openPrivateServer uses the server of the data folder: the one that runs, else one of its own.
func (h *house) openPrivateServer(ctx context.Context, dir string, log *slog.Logger) error {
	server, err := pgserver.Attach(ctx, dir)
	if errors.Is(err, pgserver.ErrNotRunning) {
		server, err = pgserver.Start(ctx, pgserver.Config{Dir: dir, Log: log, Fsync: true})
	}
	if err != nil {
		return err
	}
	h.use(server)
	return nil
}

func (h *house) use(server *pgserver.Server) {
	h.url = server.URL()
	h.closers = append(h.closers, func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		_ = server.Stop(ctx) // it reuses the folder next time, however it ended
	})
}

// openReady opens the ledger with a directory that shows everything recorded so far. Where no server folds the log at the
// moment, this process does.
func (d database) openReady(ctx context.Context, log *slog.Logger) (*house, error) {
	h, err := d.open(ctx, log)
	if err != nil {
		return nil, err
	}
	if err := h.caughtUp(ctx, patience, projections.DirectoryModel); err == nil {
		return h, nil
	}
	if err := h.fold(ctx, log); err != nil {
		h.close()
		return nil, err
	}
	if err := h.caughtUp(ctx, catchUpTimeout, projections.DirectoryModel); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

const (
	// patience is how long a running server gets to show that it folds the log.
	patience       = time.Second
	catchUpTimeout = 10 * time.Minute
)

// caughtUp waits until read models show all that is on the log now.
func (h *house) caughtUp(ctx context.Context, atMost time.Duration, readModels ...string) error {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for p := range h.log.Partitions() {
		head, err := h.log.Head(ctx, p)
		if err != nil {
			return err
		}
		if err := h.readModels.Await(ctx, readModels, head); err != nil {
			return fmt.Errorf("wait until the read models reach %s: %w", head, err)
		}
	}
	return nil
}

// fold runs the projections in this process until the house is closed.
func (h *house) fold(ctx context.Context, log *slog.Logger) error {
	runner, err := watermill.NewRunner(watermill.Config{Target: h.readModels, Log: h.log, Logger: log, Registerer: h.metrics})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := runner.Run(running); err != nil {
			log.Error("projections ended", "error", err)
		}
	}()
	h.runner = runner
	h.closers = append(h.closers, func() {
		stop()
		<-done
	})
	return nil
}

// close closes in the reverse order of opening.
func (h *house) close() {
	for i := len(h.closers) - 1; i >= 0; i-- {
		h.closers[i]()
	}
}

// redacted hides the credentials of a URL.
func redacted(url string) string {
	scheme, rest, ok := strings.Cut(url, "://")
	if _, host, has := strings.Cut(rest, "@"); ok && has {
		return scheme + "://***@" + host
	}
	return url
}
