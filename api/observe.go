package api

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-io/tollgate/domain/app"
)

const headerRequestID = "X-Request-Id"

type metrics struct {
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	events    map[app.Status]prometheus.Counter
	refused   prometheus.Counter

	unauthenticated, throttled prometheus.Counter
}

func newMetrics(registry *prometheus.Registry) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_http_requests_total", Help: "Requests by route and status.",
		}, []string{"method", "route", "status"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tollgate_http_request_duration_seconds", Help: "Time from the headers to the end of the answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"method", "route"}),
		events: map[app.Status]prometheus.Counter{},
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tollgate_http_refused_total", Help: "Requests beyond the requests per second that this process takes on.",
		}),
		unauthenticated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tollgate_http_unknown_keys_total", Help: "Requests with an API key that is unknown, revoked or expired.",
		}),
		throttled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tollgate_http_throttled_total", Help: "Requests that were refused unseen, because too many unknown keys came from their address.",
		}),
	}
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tollgate_events_total", Help: "Usage events that were sent, by their answer.",
	}, []string{"status"})
	for _, s := range []app.Status{app.Recorded, app.Duplicate, app.Conflict, app.Invalid} {
		m.events[s] = events.WithLabelValues(string(s))
	}
	registry.MustRegister(m.requests, m.durations, events, m.refused, m.unauthenticated, m.throttled)
	return m
}

// observe is around every request: it gives it an id, turns its error or panic into a problem, counts and times it.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		started := s.Now()
		id := s.requestID(c.Request())
		c.Response().Header()[headerRequestID] = []string{id}
		defer func() {
			if r := recover(); r != nil {
				if r == http.ErrAbortHandler { //nolint:errorlint // the value itself is the signal
					panic(r)
				}
				s.Log.Error("a request panicked", "request", id, "panic", r, "stack", string(debug.Stack()))
				if c.Response().Committed {
					panic(http.ErrAbortHandler) // the client must not take half an answer for a whole one
				}
				s.fail(c, errPanicked)
			}
			s.account(c, id, started)
		}()
		if err := next(c); err != nil {
			s.fail(c, err)
		}
		return nil
	}
}

func (s *Server) account(c echo.Context, id string, started time.Time) {
	method, route, status := c.Request().Method, c.Path(), c.Response().Status
	if route == "" || status == http.StatusMethodNotAllowed {
		method, route = "other", "unmatched" // both are the client's words, without bound
	}
	took := s.Now().Sub(started)
	s.metrics.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	s.metrics.durations.WithLabelValues(method, route).Observe(took.Seconds())
	if ctx := c.Request().Context(); s.Log.Enabled(ctx, slog.LevelDebug) {
		s.Log.DebugContext(ctx, "request", "request", id, "method", c.Request().Method, "path", c.Request().URL.Path,
			"status", status, "took", took, "bytes", c.Response().Size)
	}
}

// requestID takes over the caller's request id where it is short and harmless.
func (s *Server) requestID(r *http.Request) string {
	if given := r.Header[headerRequestID]; len(given) == 1 && len(given[0]) > 0 && len(given[0]) <= 64 && isPlain(given[0]) {
		return given[0]
	}
	b := make([]byte, 0, 32)
	b = append(append(b, s.prefix...), '-')
	return string(strconv.AppendUint(b, s.requests.Add(1), 36))
}

func isPlain(text string) bool {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}
