package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/adapters/export"
	"github.com/tollgate-io/tollgate/adapters/pgserver"
	"github.com/tollgate-io/tollgate/adapters/postgres"
	"github.com/tollgate-io/tollgate/adapters/watermill"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/migrations"
	"github.com/tollgate-io/tollgate/projections"
)

// database says where the ledger is. All commands share it.
type database struct {
	DatabaseURL string   `env:"TOLLGATE_DATABASE_URL" placeholder:"URL" help:"PostgreSQL to use; empty: a private server in the data folder."`
	DataDir     string   `env:"TOLLGATE_DATA_DIR" default:".tollgate" placeholder:"DIR" help:"Data folder."`
	EventStore  string   `env:"TOLLGATE_EVENT_STORE" default:"postgres" placeholder:"postgres|URL" help:"Where the log is: in postgres, or the URL of an EventStoreDB, such as esdb://user:password@host:2113."`
	BaseDomains []string `env:"TOLLGATE_BASE_DOMAINS" placeholder:"DOMAIN" help:"Domains of the product, such as product.com: a tenant's slug is its host name below them."`
	issuerNames
	Partitions int `env:"TOLLGATE_PARTITIONS" default:"0" hidden:"" help:"Partitions of a new log; fixed from then on."`
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
	log        eventstore.Store
	readModels *postgres.ReadModels
	directory  *postgres.Directory
	ledger     *app.Ledger
	catalogs   projections.Catalogs
	domains    tenant.Domains
	keyUses    *postgres.KeyUses
	billing    *app.Billing
	exports    *app.Exports
	costs      *app.Costs
	insights   *app.Insights
	limits     *app.Limits          // nil for commands that answer no checks
	runner     *watermill.Runner    // nil while this process does not fold the log
	metrics    *prometheus.Registry // nil for commands that end
	closers    []func()
}

// open opens the ledger, starting its Postgres when none runs, and brings the schema up to date.
func (d database) open(ctx context.Context, log *slog.Logger) (_ *house, err error) {
	if err := d.checkEventStore(); err != nil {
		return nil, err
	}
	domains, err := tenant.NewDomains(d.BaseDomains...)
	if err != nil {
		return nil, fmt.Errorf("TOLLGATE_BASE_DOMAINS: %w", err)
	}
	h := &house{url: d.DatabaseURL, domains: domains}
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
	if err := h.openLog(ctx, d, pools); err != nil {
		return nil, err
	}
	h.catalogs = projections.NewCatalogs(h.log)
	h.readModels = postgres.NewReadModels(pools.Apply, pools.Read, h.catalogs)
	if err := h.ensureReadModels(ctx, log); err != nil {
		return nil, err
	}
	h.directory = postgres.NewDirectory(h.readModels)
	h.ledger = app.New(h.log, h.directory, time.Now).Below(h.domains)
	h.billing = app.NewBilling(app.BillingConfig{Store: h.log, Directory: h.directory, Catalogs: h.catalogs, Now: time.Now,
		Metering: postgres.NewMetering(postgres.NewAccounts(h.readModels, h.log)), Facts: projections.FactReader{Index: h.readModels, Log: h.log}})
	h.exports = app.NewExports(app.ExportsConfig{Log: h.log, Directory: h.directory, Tenants: h.readModels, Books: h.billing, Now: time.Now,
		Facts: projections.FactReader{Index: h.readModels, Log: h.log}, NewEncoder: export.NewEncoder, Issuer: d.issuer()})
	h.costs = app.NewCosts(h.log, h.directory, time.Now)
	h.insights = app.NewInsights(h.readModels, h.directory, h.costs, time.Now)
	h.keyUses = postgres.NewKeyUses(pools.Apply)
	return h, nil
}

// checkEventStore refuses what cannot be a log, before anything is started.
func (d database) checkEventStore() (err error) {
	switch {
	case d.EventStore == "postgres":
	case eventstoredb.IsURL(d.EventStore):
		_, _, err = eventstoredb.ParseURL(d.EventStore)
	default:
		err = fmt.Errorf("%q is neither postgres nor the URL of an EventStoreDB", redacted(d.EventStore))
	}
	if err != nil {
		return fmt.Errorf("TOLLGATE_EVENT_STORE: %w", err)
	}
	return nil
}

// openLog opens the log where it is. A log elsewhere leaves the read models to Postgres.
func (h *house) openLog(ctx context.Context, d database, pools *postgres.Pools) error {
	if d.EventStore != "postgres" {
		if err := pools.CheckLogElsewhere(ctx); err != nil {
			return err
		}
		log, err := eventstoredb.Open(ctx, eventstoredb.Config{URL: d.EventStore})
		if err != nil {
			return fmt.Errorf("TOLLGATE_EVENT_STORE: %w", err)
		}
		h.log, h.closers = log, append(h.closers, log.Close)
		return nil
	}
	if err := pools.CheckLogHere(ctx); err != nil {
		return err
	}
	log, err := postgres.OpenLog(ctx, pools.Log, h.url, postgres.LogConfig{Partitions: d.Partitions})
	if err != nil {
		return err
	}
	h.log, h.closers = log, append(h.closers, log.Close)
	return nil
}

// rebuildPause is how often a process asks whether another one is done with the read models.
const rebuildPause = 200 * time.Millisecond

// ensureReadModels makes sure that the read models have the tables of this version, before anything reads them: those of
// another version are built again from the log, which takes as long as a replay. Where another process does that already,
// it is waited for.
func (h *house) ensureReadModels(ctx context.Context, log *slog.Logger) error {
	for {
		outdated, err := h.readModels.Ensure(ctx, h.log.Partitions())
		if err != nil || len(outdated) == 0 {
			return err
		}
		log.Info("this version has other tables; building read models again from the log", "readModels", outdated)
		report, err := h.readModels.Rebuild(ctx, h.log, outdated, nil)
		switch {
		case err == nil:
			log.Info("read models built", "readModels", outdated, "events", report.Events, "took", report.Took)
			return nil
		case !errors.Is(err, postgres.ErrRebuilding):
			return fmt.Errorf("build the read models of this version: %w", err)
		}
		select {
		case <-time.After(rebuildPause):
		case <-ctx.Done():
			return fmt.Errorf("wait for another process that builds the read models: %w", ctx.Err())
		}
	}
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

// openReady opens the ledger with a directory that shows everything recorded so far. Whenever no server folds the log, this
// process does.
func (d database) openReady(ctx context.Context, log *slog.Logger) (*house, error) {
	h, err := d.open(ctx, log)
	if err != nil {
		return nil, err
	}
	if err = h.stepIn(ctx, log); err == nil {
		err = h.caughtUp(ctx, catchUpTimeout, projections.DirectoryModel)
	}
	if err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

const (
	// patience is how long a running server gets to show that it folds the log.
	patience       = time.Second
	catchUpTimeout = 10 * time.Minute
	// watchPause is how often a command that ends looks whether somebody folds the log.
	watchPause = 100 * time.Millisecond
)

// stepIn folds the log in this process from when on it stands still in the directory, until the house is closed. A directory
// that shows everything says nothing: it may be that nobody folds what this process will record.
func (h *house) stepIn(ctx context.Context, log *slog.Logger) error {
	runner, err := h.newRunner(log)
	if err != nil {
		return err
	}
	h.background(ctx, func(ctx context.Context) {
		for h.caughtUp(ctx, patience, projections.DirectoryModel) == nil {
			select {
			case <-time.After(watchPause):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err := runner.Run(ctx); err != nil {
			log.Error("projections ended", "error", err)
		}
	})
	return nil
}

// background runs until the house is closed, which waits for it.
func (h *house) background(ctx context.Context, run func(context.Context)) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(running)
	}()
	h.closers = append(h.closers, func() {
		stop()
		<-done
	})
}

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
func (h *house) fold(ctx context.Context, log *slog.Logger) (err error) {
	if h.runner, err = h.newRunner(log); err != nil {
		return err
	}
	h.background(ctx, func(ctx context.Context) {
		if err := h.runner.Run(ctx); err != nil {
			log.Error("projections ended", "error", err)
		}
	})
	return nil
}

func (h *house) newRunner(log *slog.Logger) (*watermill.Runner, error) {
	c := watermill.Config{Target: h.readModels, Log: h.log, Logger: log}
	if h.metrics != nil { // a nil registry would be a Registerer that is not nil
		c.Registerer = h.metrics
	}
	return watermill.NewRunner(c)
}

// limit starts the limit engine, which runs until the house is closed.
func (h *house) limit(checkTimeout time.Duration) {
	h.limits = app.NewLimits(app.LimitsConfig{Writer: uuid.New(),
		Store: h.log, Directory: h.directory, Accounts: postgres.NewAccounts(h.readModels, h.log), Catalogs: h.catalogs,
		Billing: h.billing, Now: time.Now, CheckTimeout: checkTimeout,
	})
	h.closers = append(h.closers, h.limits.Close)
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
