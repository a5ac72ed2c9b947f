// Package stack owns the wiring: it opens the database, the log and the read models, puts the application on top and closes
// everything again. The commands, the benchmarks and the tests use it. It decides nothing.
package stack

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tollgate-io/tollgate/adapters/export"
	"github.com/tollgate-io/tollgate/adapters/postgres"
	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/adapters/watermill"
	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	domainexport "github.com/tollgate-io/tollgate/domain/export"
	"github.com/tollgate-io/tollgate/domain/invoicing"
	"github.com/tollgate-io/tollgate/domain/limiter"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/migrations"
	"github.com/tollgate-io/tollgate/projections"
)

// Config says where the ledger is and how this process serves it.
type Config struct {
	DatabaseURL string              // PostgreSQL to use; "": a private server in DataDir
	DataDir     string              // folder of the private server
	Supervise   bool                // own the private server, and start it again when it dies; false: use a running one, else start one
	EventStore  string              // where the log is: InPostgres, or the URL of an EventStoreDB
	Partitions  int                 // of a new log in PostgreSQL; fixed from then on; 0: the default
	BaseDomains []string            // domains of the product: a tenant's slug is its host name below them
	Issuer      domainexport.Issuer // who sells, as exports name it

	CheckTimeout time.Duration // how long a check may take, key and tenant included; 0: the default of the API
	EventTimeout time.Duration // the same for an event, or a chunk of a batch
	MaxLag       time.Duration // age of the oldest event that is not folded at which the process is not ready

	Logger  *slog.Logger
	Metrics *prometheus.Registry // nil: nothing is measured
}

const (
	// readPool serves the API's reads, applyPool the projections: a slow reader of one kind cannot starve the others.
	readPool  = 8
	applyPool = 8
)

// Stack is everything that is open. Close it.
type Stack struct {
	URL        string                // of the database; it contains the password
	Domains    tenant.Domains        // of the product
	Log        eventstore.Store      // in PostgreSQL or on an EventStoreDB
	ReadModels *readmodels.Store     // usage, timeline, quotas, insights and the directory, in PostgreSQL
	Directory  *readmodels.Directory // tenants, keys, host names and catalogs
	KeyUses    *readmodels.KeyUses   // when keys were last used; written while its Run runs
	Ledger     *app.Ledger           // records and corrects usage; tenants, keys, plans and catalogs
	Billing    *invoicing.Billing    // invoices and credits
	Exports    *app.Exports
	Costs      *app.Costs      // what providers charge
	Insights   *app.Insights   // what operators ask over many events
	Limits     *limiter.Engine // answers checks; nil before StartLimits

	config   Config
	catalogs projections.Catalogs
	runner   *watermill.Runner // nil while this process does not fold the log
	closers
}

// Open opens the ledger, starting its private PostgreSQL where none runs, and brings the schema and the read models up to
// the tables of this version. Building read models again takes as long as a replay. Errors of a setting name its variable
// in the environment.
func Open(ctx context.Context, c Config) (_ *Stack, err error) {
	if err := checkEventStore(c.EventStore); err != nil {
		return nil, err
	}
	s := &Stack{config: c, URL: c.DatabaseURL}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.Domains, err = tenant.NewDomains(c.BaseDomains...); err != nil {
		return nil, fmt.Errorf("TOLLGATE_BASE_DOMAINS: %w", err)
	}
	if s.URL == "" {
		if err := s.openPrivateServer(ctx); err != nil {
			return nil, err
		}
	}
	if err := migrations.Up(ctx, s.URL); err != nil {
		return nil, err
	}
	pools, err := postgres.OpenPools(ctx, s.URL, readPool, applyPool)
	if err != nil {
		return nil, err
	}
	s.add(pools.Close)
	if err := s.openLog(ctx, pools); err != nil {
		return nil, err
	}
	s.catalogs = app.NewCatalogRevisions(s.Log)
	s.ReadModels = readmodels.New(pools.Apply, pools.Read, s.catalogs)
	if err := s.ensureReadModels(ctx); err != nil {
		return nil, err
	}
	s.Directory = readmodels.NewDirectory(s.ReadModels)
	s.KeyUses = readmodels.NewKeyUses(pools.Apply)
	s.openApplication()
	if r := s.registerer(); r != nil {
		s.registerMetrics(r)
	}
	return s, nil
}

// openApplication puts the use cases on top of the log and the read models.
func (s *Stack) openApplication() {
	facts := timeline.FactReader{Index: s.ReadModels, Log: s.Log}
	s.Ledger = app.New(s.Log, s.Directory, time.Now).WithBaseDomains(s.Domains)
	s.Billing = invoicing.New(invoicing.Config{Store: s.Log, Directory: s.Directory, Catalogs: s.catalogs, Now: time.Now,
		Metering: readmodels.NewMetering(readmodels.NewAccountLoader(s.ReadModels, s.Log)), Facts: facts})
	s.Exports = app.NewExports(app.ExportsConfig{Log: s.Log, Directory: s.Directory, Tenants: s.ReadModels, Books: s.Billing, Now: time.Now,
		Facts: facts, NewEncoder: export.NewEncoder, Issuer: s.config.Issuer})
	s.Costs = app.NewCosts(s.Log, s.Directory, time.Now)
	s.Insights = app.NewInsights(s.ReadModels, s.Directory, s.Costs, time.Now)
}

// registerer is nil where nothing is measured; a nil registry would be a Registerer that is not nil.
func (s *Stack) registerer() prometheus.Registerer {
	if s.config.Metrics == nil {
		return nil
	}
	return s.config.Metrics
}

func (s *Stack) registerMetrics(r prometheus.Registerer) {
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newLagCollector(s))
	if log, ok := s.Log.(prometheus.Collector); ok { // EventStoreDB measures its connections
		r.MustRegister(log)
	}
}

// StartLimits starts the limit engine, which answers checks until the stack is closed.
func (s *Stack) StartLimits() {
	s.Limits = limiter.New(limiter.Config{Writer: uuid.New(),
		Store: s.Log, Directory: s.Directory, Accounts: readmodels.NewAccountLoader(s.ReadModels, s.Log), Catalogs: s.catalogs,
		Credit: s.Billing, Now: time.Now, CheckTimeout: s.config.CheckTimeout,
		Lost: func(n int, why string) {
			s.config.Logger.Error("decisions given without the log will never be on it", "decisions", n, "reason", why)
		},
	})
	s.add(s.Limits.Close)
	if r := s.registerer(); r != nil {
		r.MustRegister(newLimitCollector(s.Limits))
	}
}

// API is what the API needs of the stack, after StartLimits. The caller adds what is about HTTP: proxies, DNS and bounds.
func (s *Stack) API() api.Config {
	ports := httpPorts{Reader: timeline.Reader{Index: s.ReadModels, Log: s.Log}, stack: s}
	return api.Config{
		Ledger: s.Ledger, Directory: s.Directory, Usage: s.ReadModels, Timeline: ports, Limits: s.Limits, Billing: s.Billing,
		Exports: s.Exports, Costs: s.Costs, Insights: s.Insights, Keys: ports, Positions: ports, Readiness: ports,
		Uses:         s.KeyUses,
		CheckTimeout: s.config.CheckTimeout, EventTimeout: s.config.EventTimeout,
		Registry: s.config.Metrics, Log: s.config.Logger, Now: time.Now, Random: rand.Reader,
	}
}

// rebuildPause is how often a process asks whether another one has finished building the read models.
const rebuildPause = 200 * time.Millisecond

// ensureReadModels makes sure that the read models have the tables of this version before anything reads them. Those of
// another version are built again from the log. When another process does that already, this one waits for it.
func (s *Stack) ensureReadModels(ctx context.Context) error {
	log := s.config.Logger
	for {
		outdated, err := s.ReadModels.Ensure(ctx, s.Log.Partitions())
		if err != nil || len(outdated) == 0 {
			return err
		}
		log.Info("this version has other tables; building read models again from the log", "readModels", outdated)
		report, err := s.ReadModels.Rebuild(ctx, s.Log, outdated, nil)
		switch {
		case err == nil:
			log.Info("read models built", "readModels", outdated, "events", report.Events, "took", report.Took)
			return nil
		case !errors.Is(err, readmodels.ErrRebuilding):
			return fmt.Errorf("build the read models of this version: %w", err)
		}
		select {
		case <-time.After(rebuildPause):
		case <-ctx.Done():
			return fmt.Errorf("wait for another process that builds the read models: %w", ctx.Err())
		}
	}
}

// Background runs until the stack is closed; Close waits for it.
func (s *Stack) Background(ctx context.Context, run func(context.Context)) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(running)
	}()
	s.add(func() {
		stop()
		<-done
	})
}

// closers closes in the reverse order of opening.
type closers struct{ list []func() }

func (c *closers) add(f func()) { c.list = append(c.list, f) }

// Close closes everything in the reverse order of opening. It may be called once more.
func (c *closers) Close() {
	for i := len(c.list) - 1; i >= 0; i-- {
		c.list[i]()
	}
	c.list = nil
}
