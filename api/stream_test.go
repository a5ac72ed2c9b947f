package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/storetest"
	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// serve listens with the time-outs of the package, shortened where a test says so.
func serve(t *testing.T, h *fixture, change ...func(*http.Server)) *httptest.Server {
	s := httptest.NewUnstartedServer(h.server)
	s.Config = api.NewHTTPServer("", h.server)
	for _, f := range change {
		f(s.Config)
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// whole is an answer that was read to its end.
type whole struct {
	*http.Response
	text []byte
}

func (w whole) into(t *testing.T, v any) {
	require.NoError(t, json.Unmarshal(w.text, v))
}

func lines(t *testing.T, s *httptest.Server, h *fixture, query string, body io.Reader) whole {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/events"+query, body)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("Authorization", "Bearer "+h.acme)
	resp, err := s.Client().Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return whole{resp, text}
}

// generated is a stream of n lines of which every hundredth is broken, made while it is read.
func generated(n int) io.Reader {
	r, w := io.Pipe()
	go func() {
		b := bufio.NewWriter(w)
		for i := range n {
			if i%100 == 99 {
				_, _ = b.WriteString("{\"broken\n")
			} else {
				_, _ = fmt.Fprintln(b, usageEvent(fmt.Sprintf("call_%d", i)))
			}
		}
		_ = b.Flush()
		_ = w.Close()
	}()
	return r
}

func TestLongStream(t *testing.T) {
	if storetest.OnEventStoreDB() {
		return // it is about the memory of long answers, which the store does not see
	}
	h := newFixture(t)
	s := serve(t, h)
	const n = 30_000
	resp := lines(t, s, h, "", generated(n))
	require.Equal(t, http.StatusOK, resp.StatusCode)
	var got struct {
		Recorded, Duplicates, Rejected int
		Position                       string
		Items                          []struct {
			Index  int
			Status string
			Code   string
		}
	}
	resp.into(t, &got) // longer than the memory part of the list
	assert.Equal(t, n-n/100, got.Recorded)
	assert.Equal(t, n/100, got.Rejected)
	require.Len(t, got.Items, n)
	for i, item := range got.Items {
		require.Equal(t, i, item.Index)
		require.Equal(t, i%100 == 99, item.Status == "invalid")
	}

	resp = lines(t, s, h, "?items=rejected", generated(n))
	resp.into(t, &got)
	assert.Equal(t, n-n/100, got.Duplicates)
	assert.Len(t, got.Items, n/100)
	assert.Equal(t, n-n/100, h.events())
}

// Without a place to spool, the answer is bounded and says what it leaves out.
func TestLongStreamWithoutSpool(t *testing.T) {
	if storetest.OnEventStoreDB() {
		return // it is about the memory of long answers, which the store does not see
	}
	h := newFixture(t, func(c *api.Config) { c.SpoolDir = "/nonexistent/folder" })
	s := serve(t, h)
	const n = 15_000
	resp := lines(t, s, h, "", generated(n))
	require.Equal(t, http.StatusOK, resp.StatusCode)
	var got struct {
		Recorded, Rejected, ItemsOmitted int
		Items                            []any
	}
	resp.into(t, &got)
	assert.Equal(t, n, got.Recorded+got.Rejected)
	assert.Positive(t, got.ItemsOmitted)
	assert.Equal(t, n, got.ItemsOmitted+len(got.Items))
}

func TestSpoolIsRemoved(t *testing.T) {
	folder := t.TempDir()
	h := newFixture(t, func(c *api.Config) { c.SpoolDir = folder })
	lines(t, serve(t, h), h, "", generated(15_000))
	left, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Empty(t, left)
}

// Memory does not grow with the length of a stream: the store here forgets, so what remains is ours.
func TestStreamMemoryIsBounded(t *testing.T) {
	h := newFixture(t)
	s := serve(t, h)
	h.faults.failWith(nil)
	h.faults.forget()
	measure := func(n int) uint64 {
		var peak uint64
		h.faults.onAppend(func() {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		})
		resp := lines(t, s, h, "?items=rejected", generated(n))
		require.Equal(t, http.StatusOK, resp.StatusCode)
		return peak
	}
	short, long := measure(2_000), measure(60_000)
	assert.Less(t, long, short+16<<20)
}

func TestLongLinesCostOnlyThemselves(t *testing.T) {
	h := newFixture(t)
	s := serve(t, h)
	padded := strings.Replace(usageEvent("padded"), "{", "{"+strings.Repeat(" ", 1<<20-len(usageEvent("padded"))), 1)
	body := usageEvent("a") + "\n" + strings.Repeat("x", 5<<20) + "\n" + padded + "\n" + padded + " \n" + usageEvent("b") + "\n" + strings.Repeat("y", 2<<20)
	resp := lines(t, s, h, "", strings.NewReader(body))
	require.Equal(t, http.StatusOK, resp.StatusCode)
	var got struct {
		Items []struct{ Status, Code string }
	}
	resp.into(t, &got)
	codes := make([]string, 0, len(got.Items))
	for _, i := range got.Items {
		codes = append(codes, i.Status+i.Code)
	}
	assert.Equal(t, []string{"recorded", "invalidtoo_large", "recorded", "invalidtoo_large", "recorded", "invalidtoo_large"}, codes)
}

// A slow sender's event is recorded when it arrives, not when the stream ends.
func TestSlowStreamIsRecordedAtOnce(t *testing.T) {
	h := newFixture(t)
	recorded := make(chan struct{}, 1)
	s := serve(t, h)
	h.faults.onAppend(func() { recorded <- struct{}{} })
	r, w := io.Pipe()
	answered := make(chan int)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/events", r)
		req.Header.Set("Content-Type", "application/x-ndjson")
		req.Header.Set("Authorization", "Bearer "+h.acme)
		resp, err := s.Client().Do(req)
		if err != nil {
			answered <- 0
			return
		}
		_ = resp.Body.Close()
		answered <- resp.StatusCode
	}()
	for i := range 3 {
		_, err := fmt.Fprintln(w, usageEvent(strconv.Itoa(i)))
		require.NoError(t, err)
		<-recorded
	}
	require.NoError(t, w.Close())
	assert.Equal(t, http.StatusOK, <-answered)
}

// dial sends a request by hand, so that it can be left unfinished.
func dial(t *testing.T, s *httptest.Server, head string) (net.Conn, *bufio.Reader) {
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, head)
	require.NoError(t, err)
	return conn, bufio.NewReader(conn)
}

func head(key, contentType, rest string) string {
	return "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + "\r\nContent-Type: " + contentType + "\r\n" + rest + "\r\n\r\n"
}

// The stalled ones: each gets its answer or a closed connection within the time-out, and never keeps its place.
func TestSlowSendersAreCutOff(t *testing.T) {
	h := newFixture(t, func(c *api.Config) { c.LineTimeout = 50 * time.Millisecond })
	s := serve(t, h, func(s *http.Server) { s.ReadTimeout, s.ReadHeaderTimeout = 50*time.Millisecond, 50*time.Millisecond })
	for name, c := range map[string]struct {
		sent   string
		status int
	}{
		"a body that stalls":               {head(h.acme, "application/json", "Content-Length: 500") + "{", 408},
		"an array that stalls":             {head(h.acme, "application/json", "Transfer-Encoding: chunked") + "1\r\n[\r\n", 408},
		"a line that stalls":               {head(h.acme, "application/x-ndjson", "Transfer-Encoding: chunked") + "1\r\n{\r\n", 408},
		"a line that stalls after another": {head(h.acme, "application/x-ndjson", "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\n{\r\n", len(usageEvent("x"))+2, usageEvent("x")), 408},
		"headers that stall":               {"POST /v1/events HTTP/1.1\r\nHost: x\r\nX-Slow: ", 0},
		"nothing at all":                   {"", 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := dial(t, s, c.sent)
			resp, err := http.ReadResponse(r, nil)
			if c.status == 0 {
				if err == nil {
					_ = resp.Body.Close()
				}
				return // closed
			}
			require.NoError(t, err)
			defer func() { _ = resp.Body.Close() }()
			assert.Equal(t, c.status, resp.StatusCode)
			assert.True(t, resp.Close)
			_, err = io.Copy(io.Discard, r)
			assert.NoError(t, err, "the connection is closed after the answer")
		})
	}
}

// A drip of bytes without a line's end buys no time.
func TestDrippingLineIsCutOff(t *testing.T) {
	h := newFixture(t, func(c *api.Config) { c.LineTimeout = 100 * time.Millisecond })
	s := serve(t, h)
	conn, r := dial(t, s, head(h.acme, "application/x-ndjson", "Transfer-Encoding: chunked"))
	cut := make(chan struct{})
	go func() {
		defer close(cut)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := io.WriteString(conn, "1\r\n \r\n"); err != nil {
				return
			}
		}
	}()
	resp, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	_ = resp.Body.Close()
	assert.Equal(t, http.StatusRequestTimeout, resp.StatusCode)
	<-cut
}

func TestEndlessBodies(t *testing.T) {
	h := newFixture(t)
	s := serve(t, h)
	for contentType, first := range map[string]string{"application/json": "[", "application/cloudevents-batch+json": "[", "application/cloudevents+json": "{"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/events", io.MultiReader(strings.NewReader(first), endless{}))
		require.NoError(t, err)
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("Authorization", "Bearer "+h.acme)
		resp, err := s.Client().Do(req)
		if err != nil {
			continue // cut off while sending, which is as good
		}
		assert.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode, contentType)
		_ = resp.Body.Close()
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestBodyCutShort(t *testing.T) {
	h := newFixture(t)
	s := serve(t, h)
	for contentType, rest := range map[string]string{
		"application/json":     "Transfer-Encoding: chunked\r\n\r\nzz",
		"application/x-ndjson": "Transfer-Encoding: chunked\r\n\r\nzz",
	} {
		_, r := dial(t, s, head(h.acme, contentType, rest))
		resp, err := http.ReadResponse(r, nil)
		require.NoError(t, err)
		var p struct{ Code string }
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&p))
		_ = resp.Body.Close()
		assert.Equal(t, http.StatusBadRequest, resp.StatusCode)
		assert.Equal(t, "invalid_json", p.Code)
	}
	assert.Zero(t, h.events())
}

// When the store fails in the middle of a stream, the sender hears it before it has sent everything, and what was recorded
// before is a duplicate when it sends all again.
func TestStoreFailsInsideStream(t *testing.T) {
	h := newFixture(t)
	s := serve(t, h)
	first := make(chan struct{}, 1)
	h.faults.onAppend(func() {
		select {
		case first <- struct{}{}:
		default:
		}
	})
	r, w := io.Pipe()
	go func() {
		_, _ = fmt.Fprintln(w, usageEvent("a"))
		<-first
		h.faults.failWith(func(eventstore.Append) error { return eventstore.ErrUnavailable })
		// The stream stays open without more lines: a client that still writes when it is answered may see the connection
		// reset instead of the answer, and then has to send all of it again just the same.
		_, _ = fmt.Fprintln(w, usageEvent("b"))
	}()
	resp := lines(t, s, h, "", r)
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	assert.Equal(t, "1", resp.Header.Get("Retry-After"))
	_ = r.CloseWithError(errors.New("done"))

	h.faults.failWith(nil)
	resp = lines(t, s, h, "", strings.NewReader(usageEvent("a")+"\n"+usageEvent("b")))
	var got struct{ Recorded, Duplicates int }
	resp.into(t, &got)
	assert.Equal(t, 1, got.Recorded)
	assert.Equal(t, 1, got.Duplicates)
}

// Closing the server's side of a stream leaves no goroutine behind.
func TestStreamsEndWithTheirClient(t *testing.T) {
	h := newFixture(t)
	s := serve(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	recorded := make(chan struct{}, 1)
	h.faults.onAppend(func() { recorded <- struct{}{} })
	done := make(chan struct{})
	go func() {
		defer close(done)
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/v1/events", r)
		req.Header.Set("Content-Type", "application/x-ndjson")
		req.Header.Set("Authorization", "Bearer "+h.acme)
		if resp, err := s.Client().Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	_, err := fmt.Fprintln(w, usageEvent("x"))
	require.NoError(t, err)
	<-recorded
	cancel()
	_ = w.CloseWithError(context.Canceled)
	<-done
	require.NoError(t, s.Config.Shutdown(context.Background())) // waits for the handler, which waits for its reader
}

// A stream ends with its key: what comes after the revocation is not recorded.
func TestStreamEndsWithItsKey(t *testing.T) {
	h := newFixture(t)
	s := serve(t, h)
	r, w := io.Pipe()
	answered := make(chan whole, 1)
	go func() { answered <- lines(t, s, h, "", r) }()
	_, err := fmt.Fprintln(w, usageEvent("before"))
	require.NoError(t, err)
	recorded := func(source string) bool {
		return h.do(request{method: "GET", path: "/v1/events/tokens_spent/" + source, key: h.service, headers: []string{"X-Tenant-Id", "acme"}}).Code == http.StatusOK
	}
	require.Eventually(t, func() bool { return recorded("before") }, 10*time.Second, 5*time.Millisecond)
	require.Equal(t, http.StatusNoContent, h.do(request{method: "DELETE", path: "/v1/admin/keys/" + string(tenant.Secret(h.acme).KeyID()), key: h.admin}).Code)
	_, _ = fmt.Fprintln(w, usageEvent("after"))
	a := <-answered
	require.NoError(t, w.Close())
	assert.Equal(t, http.StatusUnauthorized, a.StatusCode, string(a.text))
	assert.False(t, recorded("after"))
}
