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

	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/cmd/stack"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

type serveCommand struct {
	settings
	Addr           string         `env:"TOLLGATE_ADDR" default:"127.0.0.1:8080" help:"Address to listen on."`
	AdminKey       string         `env:"TOLLGATE_ADMIN_KEY" placeholder:"KEY" help:"Admin key to register at start; default: the first start creates one and prints it once."`
	Catalog        string         `env:"TOLLGATE_CATALOG" placeholder:"FILE" help:"Catalog to apply at start."`
	Projections    bool           `env:"TOLLGATE_PROJECTIONS" default:"true" negatable:"" help:"Fold the log into the read models in this process."`
	BillingEvery   time.Duration  `env:"TOLLGATE_BILLING_EVERY" default:"1m" help:"How often to look for periods that have ended and close them; 0: only administrators close periods."`
	BillingDelay   time.Duration  `env:"TOLLGATE_BILLING_DELAY" default:"1h" help:"How long past periods of a tenant stay open after it gets its plan, so that its history can be imported."`
	CheckTimeout   time.Duration  `env:"TOLLGATE_CHECK_TIMEOUT" default:"5s" help:"How long a check may take, its key and tenant included; after that, onError of the limits decides."`
	EventTimeout   time.Duration  `env:"TOLLGATE_EVENT_TIMEOUT" default:"15s" help:"How long an event may take, its key and tenant included; after that it is answered 503, to be sent again."`
	MaxLag         time.Duration  `env:"TOLLGATE_MAX_LAG" default:"30s" help:"Age of the oldest unfolded event at which /readyz fails."`
	TrustedProxies []netip.Prefix `env:"TOLLGATE_TRUSTED_PROXIES" placeholder:"CIDR" help:"Networks of proxies whose X-Forwarded-Host and X-Forwarded-For are trusted."`
	DNSServer      string         `env:"TOLLGATE_DNS_SERVER" placeholder:"HOST:PORT" help:"DNS server that verifies custom domains; default: the machine's."`
	MaxRequests    float64        `env:"TOLLGATE_MAX_REQUESTS" default:"0" help:"Requests per second that this process accepts; more are answered 503. 0: no bound."`
}

const (
	startTimeout    = 5 * time.Minute // of what follows the opening
	shutdownTimeout = 20 * time.Second
)

// gcPercent is how much the heap may grow before it is collected, in percent of what is alive: requests leave much garbage, and
// little of it is alive.
const gcPercent = 400

func (c serveCommand) Run(ctx context.Context, log *slog.Logger) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	// A port in use is the most common failure, so it is tried first. Clients can connect once they can be served.
	probe, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	_ = probe.Close()
	s, key, err := c.start(ctx, log)
	if err != nil {
		return err
	}
	defer s.Close()
	listener, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}

	s.Background(ctx, s.KeyUses.Run)
	if c.BillingEvery > 0 {
		s.Background(ctx, func(ctx context.Context) { s.CloseInvoices(ctx, c.BillingEvery, c.BillingDelay) })
	}
	config := s.API()
	config.MaxRequestsPerSecond, config.TrustedProxies, config.DNS = c.MaxRequests, c.TrustedProxies, c.dns()
	server := api.NewHTTPServer(c.Addr, api.New(config))
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

// dns asks the configured server, or the machine's.
func (c serveCommand) dns() *net.Resolver {
	if c.DNSServer == "" {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, c.DNSServer)
	}}
}

// start opens everything and does what the first start needs. The key is "" unless it created one.
func (c serveCommand) start(ctx context.Context, log *slog.Logger) (_ *stack.Stack, key tenant.Secret, err error) {
	config := c.config(log)
	config.Supervise, config.Metrics = true, prometheus.NewRegistry()
	config.CheckTimeout, config.EventTimeout, config.MaxLag = c.CheckTimeout, c.EventTimeout, c.MaxLag
	s, err := stack.Open(ctx, config) // without a time-out: it may have to build read models again
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s.StartLimits()
	if c.Projections {
		if err := s.Fold(ctx); err != nil {
			return nil, "", err
		}
	}
	if key, err = c.bootstrap(ctx, s); err != nil {
		return nil, "", err
	}
	if c.Catalog == "" {
		return s, key, nil
	}
	next, err := readCatalog(c.Catalog)
	if err != nil {
		return nil, "", err
	}
	change, err := s.Ledger.ApplyCatalog(ctx, next, false, "system")
	if err != nil {
		return nil, "", fmt.Errorf("apply %s: %w", c.Catalog, err)
	}
	if change.Applied {
		log.Info("catalog applied", "file", c.Catalog, "revision", change.Revision, "changes", len(change.Changes))
	}
	return s, key, nil
}

// bootstrap makes sure that there is an admin key: the operator's, or one that the first start creates.
func (c serveCommand) bootstrap(ctx context.Context, s *stack.Stack) (tenant.Secret, error) {
	if c.AdminKey != "" {
		if _, err := s.Ledger.RegisterAdminKey(ctx, tenant.Secret(c.AdminKey), "TOLLGATE_ADMIN_KEY"); err != nil {
			return "", fmt.Errorf("TOLLGATE_ADMIN_KEY: %w", err)
		}
		return "", nil
	}
	for p := range s.Log.Partitions() {
		head, err := s.Log.Head(ctx, p)
		if err != nil {
			return "", err
		}
		if head.Offset > 0 { // not the first start
			return "", nil
		}
	}
	_, secret, err := s.Ledger.CreateKey(ctx, app.NewKey{Kind: tenant.Admin, Name: "made on first start"}, rand.Reader, "system")
	return secret, err
}

// greet prints where the server listens and a first request to try.
func (c serveCommand) greet(addr string, key tenant.Secret) {
	shown := string(key)
	fmt.Printf("\nTollgate listens on http://%s\n", addr)
	switch {
	case key != "":
		fmt.Printf("\n  admin key: %s\n  It is shown only once. If it is lost: bin/tollgate key\n", key)
	case c.AdminKey != "":
		shown = "$TOLLGATE_ADMIN_KEY"
	default:
		shown = "$KEY"
		fmt.Print("\n  The admin key was shown on the first start. If it is lost: export KEY=... from bin/tollgate key\n")
	}
	fmt.Printf("\nTry it: create a tenant\n\n  curl -X PUT http://%s/v1/admin/tenants/tenant_123 -H \"Authorization: Bearer %s\" \\\n"+
		"    -H 'Content-Type: application/json' -d '{\"name\":\"Acme\",\"timeZone\":\"Europe/Berlin\"}'\n\n", addr, shown)
	_ = os.Stdout.Sync()
}
