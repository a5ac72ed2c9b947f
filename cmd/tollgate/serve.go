package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tollgate-io/tollgate/adapters/pgserver"
	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

type serveCommand struct {
	database
	Addr           string         `env:"TOLLGATE_ADDR" default:"127.0.0.1:8080" help:"Address to listen on."`
	AdminKey       string         `env:"TOLLGATE_ADMIN_KEY" placeholder:"KEY" help:"Bootstrap admin key; else one is made on first start and printed once."`
	Catalog        string         `env:"TOLLGATE_CATALOG" placeholder:"FILE" help:"Catalog to apply at start."`
	Projections    bool           `env:"TOLLGATE_PROJECTIONS" default:"true" negatable:"" help:"Fold the log in this process."`
	BillingEvery   time.Duration  `env:"TOLLGATE_BILLING_EVERY" default:"1m" help:"How often periods that have ended are looked for and closed; 0: only administrators close."`
	BillingDelay   time.Duration  `env:"TOLLGATE_BILLING_DELAY" default:"1h" help:"How long periods of a tenant stay open after it was given a plan, so that its past can be imported."`
	CheckTimeout   time.Duration  `env:"TOLLGATE_CHECK_TIMEOUT" default:"5s" help:"How long a check waits for its decision; then onError of the limits decides."`
	MaxLag         time.Duration  `env:"TOLLGATE_MAX_LAG" default:"30s" help:"Age of the oldest event that is not folded yet at which /readyz says no."`
	TrustedProxies []netip.Prefix `env:"TOLLGATE_TRUSTED_PROXIES" placeholder:"CIDR" help:"Networks of proxies that may say in X-Forwarded-Host and X-Forwarded-For what the client asked for and who it is."`
	DNSServer      string         `env:"TOLLGATE_DNS_SERVER" placeholder:"HOST:PORT" help:"Where custom domains are verified; empty: what the machine uses."`
	MaxRequests    float64        `env:"TOLLGATE_MAX_REQUESTS" default:"0" help:"Requests per second that this process takes on; beyond it they are answered 503. 0: no bound."`
}

const (
	startTimeout    = 5 * time.Minute
	shutdownTimeout = 20 * time.Second
	restartPause    = time.Second
)

// garbage is how much a heap may grow before it is collected, in percent of what lives: requests leave a lot behind, and
// little of it lives.
const garbage = 400

func (c serveCommand) Run(ctx context.Context, log *slog.Logger) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	// A taken port is the commonest reason to fail, so it is tried first. Clients are let in when they can be served.
	probe, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	_ = probe.Close()
	h, key, err := c.start(ctx, log)
	if err != nil {
		return err
	}
	defer h.close()
	listener, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}

	h.background(ctx, h.keyUses.Run)
	if c.BillingEvery > 0 {
		h.background(ctx, func(ctx context.Context) { h.newClosing(c.BillingDelay, log).Run(ctx, c.BillingEvery) })
	}
	surface := newSurface(h, c.MaxLag)
	server := api.NewHTTPServer(c.Addr, api.New(api.Config{
		Ledger: h.ledger, Directory: h.directory, Usage: h.readModels, Timeline: surface, Limits: h.limits, Billing: h.billing, Exports: h.exports, Costs: h.costs, Insights: h.insights, Keys: surface, Positions: surface,
		Readiness: surface, Registry: h.metrics, Log: log, Now: time.Now, Random: rand.Reader,
		MaxRequestsPerSecond: c.MaxRequests, Domains: h.domains, TrustedProxies: c.TrustedProxies, DNS: c.dns(), Uses: h.keyUses,
	}))
	server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	c.greet(listener.Addr().String(), key)

	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	log.Info("stopping")
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(closing); err != nil && !errors.Is(err, context.Canceled) {
		log.Warn("requests were cut off", "error", err)
	}
	return nil
}

// dns asks the configured server, or those that the machine uses.
func (c serveCommand) dns() *net.Resolver {
	if c.DNSServer == "" {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, c.DNSServer)
	}}
}

// start opens everything and does what the first start needs. The key is "" when it was there already.
func (c serveCommand) start(ctx context.Context, log *slog.Logger) (_ *house, key tenant.Secret, err error) {
	d := c.database
	var server *pgserver.Server
	if err := d.checkEventStore(); err != nil {
		return nil, "", err
	}
	if d.DatabaseURL == "" {
		starting, cancel := context.WithTimeout(ctx, startTimeout)
		server, err = pgserver.Start(starting, pgserver.Config{Dir: d.DataDir, Log: log, Fsync: true})
		cancel()
		if err != nil {
			return nil, "", err
		}
		d.DatabaseURL = server.URL()
	}
	h, err := d.open(ctx, log) // without a time-out: it may have to build read models again
	if err != nil {
		if server != nil {
			err = errors.Join(err, server.Stop(ctx))
		}
		return nil, "", err
	}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if server != nil {
		h.supervise(server, log)
	}
	h.limit(c.CheckTimeout)
	h.metrics = prometheus.NewRegistry()
	h.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newLagCollector(h), newLimitCollector(h.limits))
	if log, ok := h.log.(prometheus.Collector); ok { // a store elsewhere has a life of its own
		h.metrics.MustRegister(log)
	}
	if c.Projections {
		if err := h.fold(ctx, log); err != nil {
			return nil, "", err
		}
	}
	if key, err = c.bootstrap(ctx, h); err != nil {
		return nil, "", err
	}
	if c.Catalog == "" {
		return h, key, nil
	}
	next, err := readCatalog(c.Catalog)
	if err != nil {
		return nil, "", err
	}
	change, err := h.ledger.ApplyCatalog(ctx, next, false, "system")
	if err != nil {
		return nil, "", fmt.Errorf("apply %s: %w", c.Catalog, err)
	}
	if change.Applied {
		log.Info("catalog applied", "file", c.Catalog, "revision", change.Revision, "changes", len(change.Changes))
	}
	return h, key, nil
}

// bootstrap makes sure that there is an admin key: the operator's, or one that is made on the first start.
func (c serveCommand) bootstrap(ctx context.Context, h *house) (tenant.Secret, error) {
	if c.AdminKey != "" {
		if _, err := h.ledger.RegisterAdminKey(ctx, tenant.Secret(c.AdminKey), "TOLLGATE_ADMIN_KEY"); err != nil {
			return "", fmt.Errorf("TOLLGATE_ADMIN_KEY: %w", err)
		}
		return "", nil
	}
	for p := range h.log.Partitions() {
		head, err := h.log.Head(ctx, p)
		if err != nil {
			return "", err
		}
		if head.Offset > 0 { // not the first start
			return "", nil
		}
	}
	_, secret, err := h.ledger.CreateKey(ctx, app.NewKey{Kind: tenant.Admin, Name: "made on first start"}, rand.Reader, "system")
	return secret, err
}

// greet says where the ledger is and what to try first.
func (c serveCommand) greet(addr string, key tenant.Secret) {
	shown := string(key)
	fmt.Printf("\nTollgate listens on http://%s\n", addr)
	switch {
	case key != "":
		fmt.Printf("\n  admin key: %s\n  It is shown this once. Should it get lost: bin/tollgate key\n", key)
	case c.AdminKey != "":
		shown = "$TOLLGATE_ADMIN_KEY"
	default:
		shown = "$KEY"
		fmt.Print("\n  The admin key was shown on the first start. Should it be lost: export KEY=... from bin/tollgate key\n")
	}
	fmt.Printf("\nTry it: create a tenant\n\n  curl -X PUT http://%s/v1/admin/tenants/tenant_123 -H \"Authorization: Bearer %s\" \\\n"+
		"    -H 'Content-Type: application/json' -d '{\"name\":\"Acme\",\"timeZone\":\"Europe/Berlin\"}'\n\n", addr, shown)
	_ = os.Stdout.Sync()
}

// supervise starts the private server again when it dies under us; the pools reconnect by themselves.
func (h *house) supervise(server *pgserver.Server, log *slog.Logger) {
	watching, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-watching.Done():
				return
			case <-server.Done():
			}
			if watching.Err() != nil {
				return
			}
			log.Error("the private Postgres ended; starting it again")
			if err := server.Restart(watching); err != nil {
				log.Error("the private Postgres does not start", "error", err)
			}
			select {
			case <-time.After(restartPause):
			case <-watching.Done():
				return
			}
		}
	}()
	// Closed last, that is, first in the list: everything else needs the server until it is closed itself.
	h.closers = append([]func(){func() {
		stop()
		<-done
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			log.Warn("the private Postgres did not stop in order; its next start recovers", "error", err)
		}
	}}, h.closers...)
}
