package api_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/api"
)

// The store forgets what it is given, so that what is measured is the API, the use case and the event's form.
// Figures of one run on two cores that others use as well, go1.26:
//
//	PostEvent        10.9 µs   38 allocations    BareEcho          1.5 µs    6 allocations
//	PostEventHTTP    65 µs    129 allocations    BareEchoHTTP     50 µs     92 allocations   (with the client's part)
//	PostBatch         9.1 ms for 1000 events     PostLines         8.8 ms for 1000 events

const benchEvent = `{"tenantId":"acme","eventType":"tokens_spent","quantity":976,"sourceId":"call_%012d","occurredAt":"2026-04-05T10:30:00.000Z",` +
	`"data":{"userId":"u1","feature":"interview","provider":"openai","model":"gpt-4.1","promptVersion":"v7","inputTokens":812,"outputTokens":164,` +
	`"cachedInputTokens":0,"latencyMs":930,"cacheHit":false,"safety":"passed","status":"ok","attempt":1,"retryOf":null}}`

func benchFixture(b *testing.B) *fixture {
	h := newFixture(b, func(c *api.Config) { c.Directory = &cached{Directory: c.Directory, values: map[any]any{}} })
	h.faults.forget()
	return h
}

// blank is a ResponseWriter that costs nothing.
type blank struct {
	header http.Header
	status int
}

func (w *blank) Header() http.Header         { return w.header }
func (w *blank) WriteHeader(s int)           { w.status = s }
func (w *blank) Write(p []byte) (int, error) { return len(p), nil }

type body struct{ bytes.Reader }

func (*body) Close() error { return nil }

func drive(b *testing.B, handler http.Handler, key, contentType string, want int, texts func(i int) []byte) {
	b.ReportAllocs()
	r := httptest.NewRequest(http.MethodPost, "/v1/events", nil)
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", contentType)
	var from body
	r.Body = &from
	w := &blank{}
	for i := 0; b.Loop(); i++ {
		text := texts(i)
		from.Reset(text)
		r.ContentLength = int64(len(text))
		w.header = http.Header{}
		handler.ServeHTTP(w, r)
		if w.status != want {
			b.Fatalf("status %d", w.status)
		}
	}
}

func oneEvent(i int) []byte { return fmt.Appendf(nil, benchEvent, i) }

// BenchmarkPostEvent is the handler of one event, without the network.
func BenchmarkPostEvent(b *testing.B) {
	h := benchFixture(b)
	drive(b, h.server, h.acme, "application/json", http.StatusCreated, oneEvent)
}

// BenchmarkBareEcho is what the framework takes for reading a body of the same size and writing an answer.
func BenchmarkBareEcho(b *testing.B) {
	e := echo.New()
	e.POST("/v1/events", func(c echo.Context) error {
		if _, err := io.Copy(io.Discard, c.Request().Body); err != nil {
			return err
		}
		return c.JSONBlob(http.StatusCreated, []byte(`{"status":"recorded","sourceId":"call_000000000000","position":"0-1","recordedAt":"2026-04-05T10:31:00.000Z"}`))
	})
	drive(b, e, "x", "application/json", http.StatusCreated, oneEvent)
}

// BenchmarkPostBatch is a batch of 1000; divide by 1000 for one event.
func BenchmarkPostBatch(b *testing.B) {
	h := benchFixture(b)
	batch := func(i int) []byte {
		texts := make([]string, 1000)
		for n := range texts {
			texts[n] = fmt.Sprintf(benchEvent, i*1000+n)
		}
		return []byte("[" + strings.Join(texts, ",") + "]")
	}
	first := batch(0)
	b.SetBytes(int64(len(first)))
	drive(b, h.server, h.acme, "application/json", http.StatusOK, func(int) []byte { return first })
}

// BenchmarkPostLines is the same 1000 events as a stream of lines.
func BenchmarkPostLines(b *testing.B) {
	h := benchFixture(b)
	var lines []byte
	for n := range 1000 {
		lines = append(fmt.Appendf(lines, benchEvent, n), '\n')
	}
	b.SetBytes(int64(len(lines)))
	drive(b, h.server, h.acme, "application/x-ndjson", http.StatusOK, func(int) []byte { return lines })
}

// BenchmarkPostEventHTTP is one event over a real connection, 32 of them at a time, beside bare Echo.
func BenchmarkPostEventHTTP(b *testing.B) {
	h := benchFixture(b)
	overHTTP(b, h.server, h.acme)
}

// BenchmarkBareEchoHTTP is the framework's part of it.
func BenchmarkBareEchoHTTP(b *testing.B) {
	e := echo.New()
	e.POST("/v1/events", func(c echo.Context) error {
		if _, err := io.Copy(io.Discard, c.Request().Body); err != nil {
			return err
		}
		return c.JSONBlob(http.StatusCreated, []byte(`{"status":"recorded","sourceId":"call_000000000000","position":"0-1","recordedAt":"2026-04-05T10:31:00.000Z"}`))
	})
	overHTTP(b, e, "x")
}

func overHTTP(b *testing.B, handler http.Handler, key string) {
	s := httptest.NewServer(handler)
	defer s.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			req, _ := http.NewRequest(http.MethodPost, s.URL+"/v1/events", bytes.NewReader(oneEvent(i)))
			req.Header.Set("Authorization", "Bearer "+key)
			req.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusCreated {
				b.Errorf("status %d", resp.StatusCode)
				return
			}
		}
	})
}
