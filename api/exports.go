package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/export"
)

// The trailers of an export: what is known only at its end.
const (
	trailerRows     = "Tollgate-Export-Rows"
	trailerSHA256   = "Tollgate-Export-Sha256"
	trailerPosition = "Tollgate-Export-Position"
	trailerTotals   = "Tollgate-Export-Control-Totals"
	trailerManifest = "Tollgate-Export-Manifest"

	// maxTotals bounds the control totals in trailers, in bytes: clients keep little room for them (Go's 4 KiB for all), and
	// they are in two.
	maxTotals = 1 << 10
	// Bounds of the exports that are under way in one process, each of which takes some memory: in all, and of one tenant, so
	// that its slow clients do not keep out the others.
	maxExports       = 6
	maxTenantExports = 2
)

// exportSlots are taken by the exports that are under way.
type exportSlots struct {
	mu  sync.Mutex
	all int
	of  map[event.TenantID]int
}

func (e *exportSlots) take(t event.TenantID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == maxExports || e.of[t] == maxTenantExports {
		return false
	}
	e.all++
	e.of[t]++
	return true
}

func (e *exportSlots) give(t event.TenantID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all--
	if e.of[t]--; e.of[t] == 0 {
		delete(e.of, t)
	}
}

var exportTypes = map[export.Format]string{
	export.CSV:     "text/csv; charset=utf-8; header=present",
	export.JSONL:   "application/x-ndjson",
	export.Parquet: "application/vnd.apache.parquet",
}

// ExportDataset is GET /v1/exports/{dataset}.
func (s *Server) ExportDataset(c echo.Context, dataset string, params ExportDatasetParams) error {
	q := export.Query{Dataset: export.Name(dataset), Format: export.CSV, Tenant: inside(c).tenant.ID}
	if params.Format != nil {
		q.Format = export.Format(*params.Format)
	}
	var err error
	if q.From, err = instantOf("from", params.From); err != nil {
		return err
	}
	if q.To, err = instantOf("to", params.To); err != nil {
		return err
	}
	if !c.Request().ProtoAtLeast(1, 1) {
		return refuse(codeInvalidRequest, "An export needs HTTP/1.1: before that, one that was cut off looks like a whole one, and there are no trailers.")
	}
	if err := s.await(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	if !s.exports.take(q.Tenant) {
		return &problem{status: http.StatusServiceUnavailable, code: codeOverloaded, expected: true,
			detail: fmt.Sprintf("%d exports are under way, or %d of this tenant: no more are made at once. Try again later.", maxExports, maxTenantExports)}
	}
	defer s.exports.give(q.Tenant)
	e, err := s.openExport(c, q)
	if err != nil {
		return err
	}
	return s.sendExport(c, q, e)
}

func (s *Server) openExport(c echo.Context, q export.Query) (*app.Export, error) {
	ctx, cancel := work(c)
	defer cancel()
	return s.Exports.Open(ctx, q)
}

// sendExport streams the file. An answer that has begun ends with the connection when anything fails: it must not look whole.
func (s *Server) sendExport(c echo.Context, q export.Query, e *app.Export) error {
	ctx, cancel := context.WithCancel(c.Request().Context())
	defer cancel()
	out := &exportStream{server: s, c: c, control: http.NewResponseController(c.Response()), begin: func() {
		h := c.Response().Header()
		h[echo.HeaderContentType] = []string{exportTypes[q.Format]}
		h["Content-Disposition"] = []string{fmt.Sprintf(`attachment; filename="tollgate-%s.%s"`, q.Dataset, q.Format)}
		h["Cache-Control"] = []string{"no-store"}
		h[headerPosition] = []string{e.Position()}
		h["Trailer"] = []string{trailerRows, trailerSHA256, trailerPosition, trailerTotals, trailerManifest}
		c.Response().WriteHeader(http.StatusOK)
	}}
	out.extend()
	m, err := e.Write(ctx, out, nil)
	if err != nil {
		if !c.Response().Committed {
			return err
		}
		if ctx.Err() == nil && out.err == nil { // else the client is gone
			s.Log.Error("an export was broken off", "request", c.Response().Header().Get(headerRequestID), "dataset", q.Dataset, "error", err)
		}
		panic(http.ErrAbortHandler)
	}
	h := c.Response().Header()
	if totals := m.Totals.AppendJSON(nil); len(totals) > maxTotals {
		m.Totals = nil
	}
	h[trailerRows] = []string{strconv.FormatInt(m.Rows, 10)}
	h[trailerSHA256] = []string{m.SHA256}
	h[trailerPosition] = []string{m.Position}
	h[trailerTotals] = []string{string(m.Totals.AppendJSON(nil))}
	h[trailerManifest] = []string{string(m.AppendJSON(nil))}
	out.extend() // the end is written when the handler has returned
	return nil
}

// exportStream writes the parts of an export. Each has its own time to be taken, and the key must still be valid.
type exportStream struct {
	server  *Server
	c       echo.Context
	control *http.ResponseController
	begin   func() // before the first part
	err     error  // of writing
}

// extend gives the next part its time.
func (o *exportStream) extend() {
	_ = o.control.SetWriteDeadline(o.server.Now().Add(o.server.PartTimeout)) // a recorder in a test has none
}

func (o *exportStream) Write(b []byte) (n int, err error) {
	if err := o.server.stillValid(o.c); err != nil {
		return 0, err
	}
	if !o.c.Response().Committed {
		o.begin()
	}
	o.extend()
	if n, err = o.c.Response().Write(b); err == nil {
		o.c.Response().Flush()
	}
	o.err = err
	return n, err
}
