package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	encoders "github.com/tollgate-io/tollgate/adapters/export"
	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/export"
	"github.com/tollgate-io/tollgate/domain/money"
)

// exportSource reads the log in memory, and after each fact does what a test wants.
type exportSource struct {
	store eventstore.Store
	// more makes facts of its own for a tenant, until visit fails or it has enough. nil: none.
	more func(ctx context.Context, visit func(event.Decoded) error) error
}

func (s *exportSource) exports(d app.Directory) *app.Exports {
	return app.NewExports(app.ExportsConfig{Log: s.store, Directory: d, Tenants: s, Facts: s, Books: s,
		NewEncoder: encoders.NewEncoder, Issuer: export.Issuer{Name: "Tollgate", Service: "Tollgate", Host: "Tollgate"}, Now: func() time.Time { return clock }})
}

func (s *exportSource) Tenants(_ context.Context, after event.TenantID, _ int) (ids []event.TenantID, err error) {
	for _, id := range []event.TenantID{"acme", "other"} {
		if id > after {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *exportSource) InvoicesAt(context.Context, event.TenantID, eventstore.Position) ([]export.Invoice, error) {
	return nil, nil
}

func (s *exportSource) JournalAt(context.Context, event.TenantID, eventstore.Position) ([]billing.Transfer, error) {
	return nil, nil
}

func (s *exportSource) FactsShown(ctx context.Context, partition int) (eventstore.Position, error) {
	return s.store.Head(ctx, partition)
}

func (s *exportSource) Facts(ctx context.Context, t event.TenantID, from, to time.Time, at eventstore.Position, visit func(event.Decoded) error) error {
	recorded, err := s.store.ReadLog(ctx, eventstore.Position{Partition: at.Partition}, 50_000)
	if err != nil {
		return err
	}
	for _, r := range recorded {
		if r.Tenant != string(t) || !event.IsUsage(r.Type) || r.Position.Offset > at.Offset {
			continue
		}
		payload, err := event.Decode(r)
		if err != nil {
			return err
		}
		if u, ok := payload.(event.UsageRecorded); ok && !(export.Query{From: from, To: to}).Covers(u.OccurredAt) {
			continue
		}
		if err := visit(event.Decoded{Recorded: eventstore.Recorded{Position: r.Position, RecordedAt: r.RecordedAt}, Payload: payload}); err != nil {
			return err
		}
	}
	if s.more != nil {
		return s.more(ctx, visit)
	}
	return nil
}

// madeUp is a fact that is on no log.
func madeUp(n int64) event.Decoded {
	return event.Decoded{Recorded: eventstore.Recorded{Position: eventstore.Position{Offset: n + 1}, RecordedAt: clock}, Payload: event.UsageRecorded{Usage: event.Usage{
		Identity: event.Identity{Tenant: "acme", Type: "tokens_spent", Source: event.SourceID(fmt.Sprint("made-up-", n))}, Quantity: money.Int(1), OccurredAt: clock}}}
}

// listen serves the fixture as `tollgate serve` does.
func (h *fixture) listen(change ...func(*http.Server)) string {
	h.t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.Config = api.NewHTTPServer("", h.server)
	for _, f := range change {
		f(s.Config)
	}
	s.Start()
	h.t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

// download is an answer that is closed with the test.
type download struct{ *http.Response }

func (h *fixture) export(ctx context.Context, url, path, key string, headers ...string) download {
	h.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/exports/"+path, nil)
	require.NoError(h.t, err)
	r.Header.Set("Authorization", "Bearer "+key)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	a, err := http.DefaultClient.Do(r)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = a.Body.Close() })
	return download{a}
}

type manifest struct {
	Dataset, Format, SHA256, Position string
	From, To, TenantID                *string
	Rows, Bytes                       int
	ControlTotals                     map[string]string
}

// wholeExport reads an answer to its end and checks its trailers against it.
func wholeExport(t *testing.T, a download) (body []byte, m manifest) {
	t.Helper()
	body, err := io.ReadAll(a.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, a.StatusCode, "%s", body)
	require.NoError(t, json.Unmarshal([]byte(a.Trailer.Get("Tollgate-Export-Manifest")), &m), "%v", a.Trailer)
	sum := sha256.Sum256(body)
	assert.Equal(t, hex.EncodeToString(sum[:]), m.SHA256)
	assert.Len(t, body, m.Bytes)
	assert.Equal(t, m.SHA256, a.Trailer.Get("Tollgate-Export-Sha256"))
	assert.Equal(t, fmt.Sprint(m.Rows), a.Trailer.Get("Tollgate-Export-Rows"))
	assert.Equal(t, m.Position, a.Trailer.Get("Tollgate-Export-Position"))
	assert.Equal(t, m.Position, a.Header.Get("Tollgate-Position"))
	var totals map[string]string
	require.NoError(t, json.Unmarshal([]byte(a.Trailer.Get("Tollgate-Export-Control-Totals")), &totals))
	assert.Equal(t, m.ControlTotals, totals)
	return body, m
}

func TestExportHasItsManifestInTrailers(t *testing.T) {
	h := newFixture(t)
	url := h.listen()
	for n := range 3 {
		require.Equal(t, http.StatusCreated, h.post(h.acme, "application/json", usageEvent(fmt.Sprint("call_", n), `,"quantity":0.1`)).Code)
	}
	require.Equal(t, http.StatusCreated, h.post(h.service, "application/json", usageEvent("call_x"), "X-Tenant-Id", "other").Code)
	void := request{"POST", "/v1/events/tokens_spent/call_2/void", h.acme, []string{"Content-Type", "application/json"}, `{"reason":"=twice"}`}
	require.Equal(t, http.StatusCreated, h.do(void).Code)

	body, m := wholeExport(t, h.export(t.Context(), url, "usage", h.acme))
	records, err := csv.NewReader(bytes.NewReader(body)).ReadAll()
	require.NoError(t, err)
	require.Len(t, records, 5)
	assert.Equal(t, 4, m.Rows)
	assert.Equal(t, map[string]string{"tokens_spent": "0.2"}, m.ControlTotals)
	assert.Equal(t, "acme", *m.TenantID)
	assert.Nil(t, m.From)
	assert.Equal(t, "void", records[4][3])
	assert.Equal(t, "-0.1", records[4][7])
	assert.Equal(t, "'=twice", records[4][15])

	body, m = wholeExport(t, h.export(t.Context(), url, "usage?format=jsonl&from=2026-04-05T10:00:00Z&to=2026-04-05T10:30:00Z", h.acme))
	assert.Equal(t, 1, m.Rows, "the void alone")
	assert.Equal(t, "2026-04-05T10:30:00.000000Z", *m.To)
	assert.Contains(t, string(body), `"quantity":-0.1,`)

	_, m = wholeExport(t, h.export(t.Context(), url, "usage?format=parquet", h.admin))
	assert.Equal(t, 5, m.Rows, "an administrator's is of all tenants")
	assert.Nil(t, m.TenantID)
	assert.Equal(t, map[string]string{"tokens_spent": "1.2"}, m.ControlTotals)
}

func TestWhoMayExportWhat(t *testing.T) {
	h := newFixture(t)
	url := h.listen()
	h.post(h.acme, "application/json", usageEvent("of acme"))
	h.post(h.service, "application/json", usageEvent("of other"), "X-Tenant-Id", "other")
	inOther := []string{"X-Tenant-Switch", "other", "X-Switch-Reason", "a test"}
	for _, c := range []struct {
		name, path, key string
		headers         []string
		tenants         string // or
		code            string
	}{
		{"own", "usage", h.acme, nil, "acme", ""},
		{"own, named", "usage?tenantId=acme", h.acme, nil, "acme", ""},
		{"another's", "usage?tenantId=other", h.acme, nil, "", "tenant_mismatch"},
		{"another's by header", "usage", h.acme, []string{"X-Tenant-Id", "other"}, "", "tenant_mismatch"},
		{"a tenant key switches", "usage", h.acme, inOther, "", "forbidden"},
		{"a service names none", "usage", h.service, nil, "", "tenant_required"},
		{"a service names one", "usage?tenantId=other", h.service, nil, "other", ""},
		{"a service names two", "usage?tenantId=other", h.service, []string{"X-Tenant-Id", "acme"}, "", "tenant_conflict"},
		{"nobody", "usage?tenantId=nobody", h.service, nil, "", "unknown_tenant"},
		{"an admin names none", "usage", h.admin, nil, "acme other", ""},
		{"an admin names one", "usage?tenantId=other", h.admin, nil, "other", ""},
		{"an admin names nobody", "usage?tenantId=nobody", h.admin, nil, "", "unknown_tenant"},
		{"an admin names two", "usage?tenantId=other", h.admin, []string{"X-Tenant-Id", "acme"}, "", "tenant_conflict"},
		{"an admin switches", "usage", h.admin, inOther, "other", ""},
		{"an admin switches elsewhere", "usage?tenantId=acme", h.admin, inOther, "", "tenant_conflict"},
		{"an admin switches without a reason", "usage", h.admin, inOther[:2], "", "forbidden"},
		{"two tenants", "usage?tenantId=acme&tenantId=other", h.admin, nil, "", "invalid_request"},
		{"no data set", "costs", h.admin, nil, "", "invalid_request"},
		{"no format", "usage?format=xls", h.admin, nil, "", "invalid_request"},
		{"no time", "usage?from=yesterday", h.admin, nil, "", "invalid_request"},
		{"backwards", "usage?from=2026-04-02T00:00:00Z&to=2026-04-01T00:00:00Z", h.admin, nil, "", "invalid_request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := h.export(t.Context(), url, c.path, c.key, c.headers...)
			body, err := io.ReadAll(a.Body)
			require.NoError(t, err)
			if c.code != "" {
				assert.Contains(t, string(body), `"code":"`+c.code+`"`)
				assert.Empty(t, a.Trailer)
				return
			}
			var seen []string
			for _, id := range []string{"acme", "other"} {
				if strings.Contains(string(body), "of "+id) {
					seen = append(seen, id)
				}
			}
			assert.Equal(t, c.tenants, strings.Join(seen, " "), "%s", body)
		})
	}
}

// What fails before the first part is a problem; after it, the connection breaks.
func TestExportThatFailsDoesNotLookWhole(t *testing.T) {
	h := newFixture(t)
	url := h.listen()
	facts := int64(10)
	h.source.more = func(_ context.Context, visit func(event.Decoded) error) error {
		for n := range facts {
			if err := visit(madeUp(n)); err != nil {
				return err
			}
		}
		return fmt.Errorf("read: %w", eventstore.ErrUnavailable)
	}
	for _, format := range []string{"csv", "jsonl", "parquet"} {
		facts = 10
		a := h.export(t.Context(), url, "usage?format="+format, h.acme)
		body, err := io.ReadAll(a.Body)
		require.NoError(t, err)
		assert.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
		assert.Contains(t, string(body), "store_unavailable")

		facts = 50_000
		a = h.export(t.Context(), url, "usage?format="+format, h.acme)
		assert.Equal(t, http.StatusOK, a.StatusCode)
		_, err = io.ReadAll(a.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, format)
		assert.Empty(t, a.Trailer.Get("Tollgate-Export-Manifest"))
	}
}

// endlessExport makes facts until it is stopped, and says why.
func endlessExport(h *fixture) (stopped chan error) {
	stopped = make(chan error, 1)
	h.source.more = func(ctx context.Context, visit func(event.Decoded) error) error {
		for n := int64(0); ; n++ {
			err := ctx.Err()
			if err == nil {
				err = visit(madeUp(n))
			}
			if err != nil {
				stopped <- err
				return err
			}
		}
	}
	return stopped
}

func within(t *testing.T, stopped chan error) error {
	t.Helper()
	select {
	case err := <-stopped:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the export goes on")
		return nil
	}
}

func TestExportEndsWithItsClient(t *testing.T) {
	h := newFixture(t)
	url := h.listen()
	stopped := endlessExport(h)
	ctx, cancel := context.WithCancel(t.Context())
	a := h.export(ctx, url, "usage", h.acme)
	_, err := io.ReadFull(a.Body, make([]byte, 1000))
	require.NoError(t, err)
	cancel()
	require.Error(t, within(t, stopped))
}

func TestExportEndsWithItsKey(t *testing.T) {
	h := newFixture(t)
	url := h.listen()
	made := h.do(request{"POST", "/v1/admin/keys", h.admin, []string{"Content-Type", "application/json"}, `{"kind":"tenant","tenantId":"acme","name":"new"}`})
	stopped := endlessExport(h)
	a := h.export(t.Context(), url, "usage", made.json()["key"].(string))
	_, err := io.ReadFull(a.Body, make([]byte, 1000))
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, h.do(request{method: "DELETE", path: "/v1/admin/keys/" + made.json()["id"].(string), key: h.admin}).Code)
	_, err = io.Copy(io.Discard, a.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Error(t, within(t, stopped))
}

func TestClientThatStopsReadingIsCutOff(t *testing.T) {
	h := newFixture(t, func(c *api.Config) { c.PartTimeout = 100 * time.Millisecond })
	url := h.listen()
	stopped := endlessExport(h)
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "GET /v1/exports/usage HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", h.acme)
	require.NoError(t, err)
	var timeout net.Error
	require.ErrorAs(t, within(t, stopped), &timeout)
	require.True(t, timeout.Timeout())
}

// An export may take longer than any request: the time-outs of the connection are for parts of it.
func TestExportOutlivesTheTimeOutsOfARequest(t *testing.T) {
	const timeOut = 50 * time.Millisecond
	h := newFixture(t)
	url := h.listen(func(s *http.Server) { s.ReadTimeout, s.WriteTimeout = timeOut, timeOut })
	h.source.more = func(ctx context.Context, visit func(event.Decoded) error) error {
		for n := range int64(2000) {
			if n%500 == 0 { // a slow database
				select {
				case <-time.After(2 * timeOut):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if err := visit(madeUp(n)); err != nil {
				return err
			}
		}
		return nil
	}
	_, m := wholeExport(t, h.export(t.Context(), url, "usage", h.acme))
	assert.Equal(t, 2000, m.Rows)
}

func TestExportsAtOnceAreBounded(t *testing.T) {
	h := newFixture(t)
	url := h.listen()
	var inside atomic.Int32
	entered, release := make(chan struct{}, 10), make(chan struct{})
	h.source.more = func(context.Context, func(event.Decoded) error) error {
		inside.Add(1)
		entered <- struct{}{}
		<-release
		return nil
	}
	ended := make(chan error, 2)
	for range 2 {
		go func() {
			r, err := http.NewRequest(http.MethodGet, url+"/v1/exports/usage", nil)
			r.Header.Set("Authorization", "Bearer "+h.acme)
			if err == nil {
				var a *http.Response
				if a, err = http.DefaultClient.Do(r); err == nil {
					_, err = io.Copy(io.Discard, a.Body)
					_ = a.Body.Close()
				}
			}
			ended <- err
		}()
		<-entered
	}
	a := h.export(t.Context(), url, "usage", h.acme)
	assert.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
	assert.Equal(t, "1", a.Header.Get("Retry-After"))
	close(release)
	require.NoError(t, errors.Join(<-ended, <-ended))
	wholeExport(t, h.export(t.Context(), url, "usage", h.acme))
	assert.EqualValues(t, 3, inside.Load())
}

func TestExportNeedsHTTP11(t *testing.T) {
	h := newFixture(t)
	r := httptest.NewRequest(http.MethodGet, "/v1/exports/usage", nil)
	r.Header.Set("Authorization", "Bearer "+h.acme)
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.0", 1, 0
	assert.Equal(t, "invalid_request", h.send(r).code())
}

// A client keeps 4 KiB for trailers: with thousands of event types, all of them but the totals arrive.
func TestTrailersFit(t *testing.T) {
	h := newFixture(t)
	url := h.listen()
	h.source.more = func(_ context.Context, visit func(event.Decoded) error) error {
		for n := range int64(2000) {
			e := madeUp(n)
			u := e.Payload.(event.UsageRecorded)
			u.Type = event.Type(fmt.Sprintf("prüfung_%d_%s", n, strings.Repeat("😀", 20)))
			e.Payload = u
			if err := visit(e); err != nil {
				return err
			}
		}
		return nil
	}
	_, m := wholeExport(t, h.export(t.Context(), url, "usage?tenantId=acme", h.acme))
	assert.Equal(t, 2000, m.Rows)
	assert.Nil(t, m.ControlTotals)
}
