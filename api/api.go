// Package api owns the HTTP API of the ledger: routes, media types, strict decoding of what comes in, exact encoding of
// what goes out, who may call what, and the one table from errors to problems. It decides nothing about usage; it asks the
// use cases of domain/app.
package api

import (
	"bytes"
	"context"
	_ "embed" // the specification is served as it was written
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/time/rate"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
)

//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config oapi-codegen.yaml openapi.yaml

//go:embed openapi.yaml
var specification []byte

// Config is what the API needs. Everything without "optional" is required.
type Config struct {
	// Ledger has the base domains, too: below them a tenant's slug is its host name.
	Ledger    *app.Ledger
	Directory app.Directory
	Usage     UsageReader
	Timeline  TimelineReader
	Limits    Limits
	Billing   Billing
	Exports   Exports
	Costs     Costs
	Insights  Insights
	Keys      KeyLister
	Positions Positions
	Readiness ReadinessProbe

	Registry *prometheus.Registry // served at /metrics
	Log      *slog.Logger
	Now      func() time.Time // the real clock: network deadlines are derived from it
	Random   io.Reader        // for new keys: crypto/rand.Reader

	// TrustedProxies may say in X-Forwarded-Host and X-Forwarded-For what the client asked for and who it is. Optional: no
	// proxy may.
	TrustedProxies []netip.Prefix
	// DNS is where custom domains are verified: a *net.Resolver. Optional: none can be.
	DNS app.TXTResolver
	// Uses is told which keys are used. Optional.
	Uses KeyUses

	// SpoolDir takes the answers of streams that are too long for memory. Optional: the system's folder for temporary files.
	SpoolDir string
	// LineTimeout is how long one line of a stream may take to arrive. Optional: ReadTimeout.
	LineTimeout time.Duration
	// PartTimeout is how long one part of an export, of 64 KiB, may take to be taken. Optional: ReadTimeout.
	PartTimeout time.Duration
	// CheckTimeout and EventTimeout are how long the ledger may work for a check and for an event, or a chunk of them, key and tenant
	// included. The time that the client takes to send the body is not counted. Optional: five and fifteen seconds.
	CheckTimeout, EventTimeout time.Duration
	// MaxRequestsPerSecond bounds what this process takes on: beyond it requests are answered 503 before anything is read
	// or asked. Optional: no bound. Health and metrics are exempt.
	MaxRequestsPerSecond float64
}

// The time-outs of a connection. A stream of lines extends the read deadline with each line, and nothing else does.
const (
	ReadHeaderTimeout = 5 * time.Second
	ReadTimeout       = 30 * time.Second
	WriteTimeout      = 75 * time.Second // from the end of the headers: must cover reading, work and maxWait
	IdleTimeout       = 2 * time.Minute
	MaxHeaderBytes    = 64 << 10

	workTimeout = 20 * time.Second // of one call into the ledger or a read model

	defaultCheckTimeout = 5 * time.Second
	defaultEventTimeout = 15 * time.Second
)

// NewHTTPServer wraps a handler with the time-outs of this package.
func NewHTTPServer(addr string, h http.Handler) *http.Server {
	return &http.Server{
		Addr:              addr,
		Handler:           h,
		ReadHeaderTimeout: ReadHeaderTimeout,
		ReadTimeout:       ReadTimeout,
		WriteTimeout:      WriteTimeout,
		IdleTimeout:       IdleTimeout,
		MaxHeaderBytes:    MaxHeaderBytes,
	}
}

// Server is the HTTP API.
type Server struct {
	Config
	Resolver app.Resolver
	echo     *echo.Echo
	metrics  *metrics
	exporter http.Handler
	limiter  *rate.Limiter // nil: no bound
	throttle *keyThrottle
	large    chan struct{} // one slot for each body beyond maxEventBytes that is held in memory
	exports  exportSlots
	prefix   string // of request ids; random
	requests atomic.Uint64
}

var _ ServerInterface = (*Server)(nil)

// New builds the API. It panics when the configuration is incomplete.
func New(c Config) *Server {
	if c.Ledger == nil || c.Directory == nil || c.Usage == nil || c.Timeline == nil || c.Limits == nil || c.Billing == nil || c.Exports == nil || c.Costs == nil || c.Insights == nil || c.Keys == nil || c.Positions == nil ||
		c.Readiness == nil || c.Registry == nil || c.Log == nil || c.Now == nil || c.Random == nil {
		panic(fmt.Sprintf("api: incomplete configuration: %+v", c))
	}
	if c.LineTimeout == 0 {
		c.LineTimeout = ReadTimeout
	}
	if c.PartTimeout == 0 {
		c.PartTimeout = ReadTimeout
	}
	if c.CheckTimeout <= 0 {
		c.CheckTimeout = defaultCheckTimeout
	}
	if c.EventTimeout <= 0 {
		c.EventTimeout = defaultEventTimeout
	}
	prefix := make([]byte, 6)
	if _, err := io.ReadFull(c.Random, prefix); err != nil {
		panic(fmt.Sprintf("api: no random bits: %v", err))
	}
	s := &Server{
		Config:   c,
		Resolver: app.Resolver{Directory: c.Directory, Domains: c.Ledger.BaseDomains()},
		throttle: newKeyThrottle(),
		echo:     echo.New(),
		metrics:  newMetrics(c.Registry),
		exporter: promhttp.HandlerFor(c.Registry, promhttp.HandlerOpts{}),
		large:    make(chan struct{}, maxLargeBodies),
		exports:  exportSlots{of: map[event.TenantID]int{}},
		prefix:   hex.EncodeToString(prefix),
	}
	if c.MaxRequestsPerSecond > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(c.MaxRequestsPerSecond), int(math.Ceil(c.MaxRequestsPerSecond)))
	}
	s.echo.IPExtractor = echo.ExtractIPDirect()
	if len(c.TrustedProxies) > 0 {
		trust := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
		for _, p := range c.TrustedProxies {
			trust = append(trust, echo.TrustIPRange(&net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}))
		}
		s.echo.IPExtractor = echo.ExtractIPFromXFFHeader(trust...)
	}
	s.echo.HideBanner, s.echo.HidePort = true, true
	s.echo.HTTPErrorHandler = func(err error, c echo.Context) { s.fail(c, err) }
	s.echo.Use(s.observe, s.protect)
	RegisterHandlers(guarded{s}, s)
	// The hot routes parse their own parameters, without the reflection of the generated wrapper.
	s.echo.POST("/v1/events", s.recordEvents)
	s.echo.POST("/v1/limits/check", s.checkLimits)
	return s
}

// ServeHTTP implements http.Handler. Routes are matched on the path as it was sent: only then is each path parameter
// decoded exactly once, whatever characters an id has. A path may start with a tenant's slug: /t/{slug}/v1/...
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.URL.RawPath = r.URL.EscapedPath()
	if slug, rest, ok := splitPath(r.URL.RawPath); ok {
		url := *r.URL
		url.RawPath = rest
		r = r.WithContext(context.WithValue(r.Context(), slugContext{}, slug))
		r.URL = &url
	}
	s.echo.ServeHTTP(w, r)
}

// Routes lists what is served, for the tests that compare it with the specification.
func (s *Server) Routes() []*echo.Route { return s.echo.Routes() }

// guarded registers routes with the policy of their path. A path without a policy does not start, so that a new route
// cannot be open by mistake.
type guarded struct{ s *Server }

func (g guarded) add(method, path string, h echo.HandlerFunc, m []echo.MiddlewareFunc) *echo.Route {
	return g.s.echo.Add(method, path, g.s.policy(path)(h), m...)
}

func (s *Server) policy(path string) echo.MiddlewareFunc {
	switch {
	case path == "/healthz" || path == "/readyz" || path == "/metrics" || path == "/openapi.yaml":
		return func(h echo.HandlerFunc) echo.HandlerFunc { return h }
	case strings.HasPrefix(path, "/v1/admin/"):
		return s.forAdmins
	case path == "/v1/resolve":
		return s.forBackends
	case path == "/v1/events" || path == "/v1/limits/check": // each event or check may name its tenant
		return func(h echo.HandlerFunc) echo.HandlerFunc { return h }
	case strings.HasPrefix(path, "/v1/exports/") || strings.HasPrefix(path, "/v1/insights/"):
		return s.forOperators
	case strings.HasPrefix(path, "/v1/"):
		return s.insideTenant
	default:
		panic("api: no policy for " + path)
	}
}

func (g guarded) CONNECT(path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) *echo.Route {
	return g.add(http.MethodConnect, path, h, m)
}

func (g guarded) DELETE(path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) *echo.Route {
	return g.add(http.MethodDelete, path, h, m)
}

func (g guarded) GET(path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) *echo.Route {
	return g.add(http.MethodGet, path, h, m)
}

func (g guarded) HEAD(path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) *echo.Route {
	return g.add(http.MethodHead, path, h, m)
}

func (g guarded) OPTIONS(path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) *echo.Route {
	return g.add(http.MethodOptions, path, h, m)
}

func (g guarded) PATCH(path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) *echo.Route {
	return g.add(http.MethodPatch, path, h, m)
}

func (g guarded) POST(path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) *echo.Route {
	return g.add(http.MethodPost, path, h, m)
}

func (g guarded) PUT(path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) *echo.Route {
	return g.add(http.MethodPut, path, h, m)
}

func (g guarded) TRACE(path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) *echo.Route {
	return g.add(http.MethodTrace, path, h, m)
}

// GetHealth answers as long as the process does.
func (s *Server) GetHealth(c echo.Context) error {
	return writeJSON(c, http.StatusOK, struct {
		Status string `json:"status"`
	}{"ok"})
}

type readinessView struct {
	Status string           `json:"status"`
	Checks []readinessCheck `json:"checks"`
}

type readinessCheck struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Detail string `json:"detail"`
}

// GetReadiness says whether a load balancer may send traffic.
func (s *Server) GetReadiness(c echo.Context) error {
	ctx, cancel := work(c)
	defer cancel()
	status := http.StatusOK
	view := readinessView{Status: "ready", Checks: []readinessCheck{}}
	for _, check := range s.Readiness.Ready(ctx) {
		result := "ok"
		if !check.OK {
			result, status, view.Status = "failed", http.StatusServiceUnavailable, "unready"
		}
		view.Checks = append(view.Checks, readinessCheck{check.Name, result, check.Detail})
	}
	if status != http.StatusOK {
		c.Response().Header().Set(headerRetryAfter, "1")
	}
	return writeJSON(c, status, view)
}

// GetMetrics serves the registry.
func (s *Server) GetMetrics(c echo.Context) error {
	s.exporter.ServeHTTP(c.Response(), c.Request())
	return nil
}

// GetOpenAPI serves the specification, with its comments.
func (s *Server) GetOpenAPI(c echo.Context) error {
	return c.Stream(http.StatusOK, "application/yaml; charset=utf-8", bytes.NewReader(specification))
}

// work bounds one call into the ledger or a read model.
func work(c echo.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Request().Context(), workTimeout)
}

// allowance is how long the ledger may still work for a request.
type allowance struct {
	now  func() time.Time
	left time.Duration
}

func (s *Server) allow(d time.Duration) *allowance { return &allowance{s.Now, d} }

// part bounds a step of the work by a fraction of what is left; cancel takes off what it took.
func (a *allowance) part(c echo.Context, of time.Duration) (context.Context, context.CancelFunc) {
	began := a.now()
	ctx, cancel := context.WithTimeout(c.Request().Context(), a.left/of)
	return ctx, func() {
		cancel()
		a.left = max(0, a.left-a.now().Sub(began))
	}
}
