package edge_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/api/edge"
)

const serviceKey = "tg_service_secret"

// tollgate is a fake of GET /v1/resolve. It is an http.RoundTripper too, so that a test in a bubble needs no network.
type tollgate struct {
	mu        sync.Mutex
	questions []string          // query strings, in order
	tenants   map[string]string // host or slug to tenant
	statuses  map[string]string // of tenants; else active
	instead   http.HandlerFunc  // answers all questions
	hold      chan struct{}     // questions wait for it to be closed, or for the end of their context
}

func newTollgate() *tollgate {
	return &tollgate{
		tenants:  map[string]string{"acme.product.com": "tenant_acme", "globex.product.com": "tenant_globex", "acme": "tenant_acme", "globex": "tenant_globex"},
		statuses: map[string]string{},
	}
}

func (f *tollgate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.questions = append(f.questions, r.URL.RawQuery)
	instead, hold := f.instead, f.hold
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case instead != nil:
		instead(w, r)
	case r.Method != http.MethodGet || r.URL.Path != "/v1/resolve":
		problem(w, http.StatusNotFound, "not_found")
	case r.Header.Get("Authorization") != "Bearer "+serviceKey:
		problem(w, http.StatusUnauthorized, "unauthorized") //nolint:misspell // the contract spells it so
	default:
		f.resolve(w, r.URL.Query())
	}
}

func (f *tollgate) resolve(w http.ResponseWriter, q url.Values) {
	f.mu.Lock()
	defer f.mu.Unlock()
	host, slug := f.tenants[q.Get("host")], f.tenants[q.Get("slug")]
	id := host
	switch {
	case q.Get("slug") != "" && slug == "", host == "" && slug == "":
		problem(w, http.StatusNotFound, "unknown_tenant")
		return
	case host != "" && slug != "" && host != slug:
		problem(w, http.StatusBadRequest, "tenant_conflict")
		return
	case id == "":
		id = slug
	}
	status := f.statuses[id]
	if status == "" {
		status = "active"
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"tenantId":%q,"plan":"pro","status":%q,"flagsETag":"\"zV2m\""}`, id, status)
}

func problem(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type":"urn:tollgate:problem:%s","title":"x","status":%d,"detail":"x","code":%q}`, code, status, code)
}

func (f *tollgate) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// set changes the fake under its lock.
func (f *tollgate) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *tollgate) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.questions)
}

func (f *tollgate) down(is bool) {
	f.set(func() {
		f.instead = nil
		if is {
			f.instead = func(w http.ResponseWriter, _ *http.Request) {
				problem(w, http.StatusServiceUnavailable, "store_unavailable")
			}
		}
	})
}

// product answers with what the middleware said about the request.
var product = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	t, ok := edge.FromContext(r.Context())
	if !ok {
		panic("a request without a tenant has come through")
	}
	_ = json.NewEncoder(w).Encode(seen{t, r.Header})
})

type seen struct {
	Tenant  edge.Tenant
	Headers http.Header
}

func middleware(t *testing.T, c edge.Config) *edge.Middleware {
	t.Helper()
	if c.BaseURL == "" {
		c.BaseURL = "http://tollgate.test"
	}
	c.ServiceKey = serviceKey
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	m, err := edge.New(c)
	require.NoError(t, err)
	return m
}

// inBubble runs a test with a fake clock and a fake Tollgate. ask sends a request to a host and returns the answer's status.
func inBubble(t *testing.T, c edge.Config, test func(t *testing.T, f *tollgate, ask func(host string) int)) {
	synctest.Test(t, func(t *testing.T) {
		f := newTollgate()
		c.HTTPClient = &http.Client{Transport: f}
		h := middleware(t, c).Handler(product)
		test(t, f, func(host string) int {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+host+"/", nil))
			return w.Code
		})
		synctest.Wait() // for questions in the background
	})
}

const (
	acme   = "acme.product.com"
	nobody = "nobody.product.com"
)

func TestTheTenantIsInTheContextAndInTheHeader(t *testing.T) {
	f := newTollgate()
	h := middleware(t, edge.Config{HTTPClient: &http.Client{Transport: f}}).Handler(product)
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://Acme.Product.com.:8080/reports", nil)
	r.Header.Set("Accept", "text/html")
	h.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code)
	var got seen
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	assert.Equal(t, edge.Tenant{ID: "tenant_acme", Plan: "pro", Status: edge.Active, FlagsETag: `"zV2m"`}, got.Tenant)
	assert.Equal(t, http.Header{"X-Tenant-Id": {"tenant_acme"}, "Accept": {"text/html"}}, got.Headers)
	assert.Equal(t, http.Header{"Accept": {"text/html"}}, r.Header, "the request of the caller is not changed")
	assert.Equal(t, []string{"host=acme.product.com"}, f.questions)
}

func TestWithoutTheMiddlewareThereIsNoTenant(t *testing.T) {
	_, ok := edge.FromContext(t.Context())
	assert.False(t, ok)
	got, ok := edge.FromContext(edge.NewContext(t.Context(), edge.Tenant{ID: "a"}))
	assert.True(t, ok)
	assert.Equal(t, edge.Tenant{ID: "a"}, got)
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		host   string
		status string // of tenant_acme
		config edge.Config
		want   int
		code   string
	}{
		"an unknown host":                     {host: nobody, want: 404, code: "unknown_tenant"},
		"an address":                          {host: "127.0.0.1", want: 404, code: "unknown_tenant"},
		"a closed tenant":                     {host: acme, status: "closed", want: 403, code: "tenant_closed"},
		"a suspended tenant passes":           {host: acme, status: "suspended", want: 200},
		"a suspended tenant that is unwanted": {host: acme, status: "suspended", config: edge.Config{RefuseSuspended: true}, want: 403, code: "tenant_suspended"},
		"a status of the future":              {host: acme, status: "frozen", want: 503, code: "tenant_unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTollgate()
			f.statuses["tenant_acme"] = c.status
			c.config.HTTPClient = &http.Client{Transport: f}
			w := httptest.NewRecorder()
			middleware(t, c.config).Handler(product).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+c.host+"/", nil))
			require.Equal(t, c.want, w.Code)
			if c.want == http.StatusOK {
				assert.Contains(t, w.Body.String(), `"Status":"suspended"`)
				return
			}
			var p struct {
				Status int
				Code   string
				Title  string
			}
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
			assert.Equal(t, c.want, p.Status)
			assert.Equal(t, c.code, p.Code)
			assert.NotEmpty(t, p.Title)
			assert.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
			assert.Equal(t, c.want == 503, w.Header().Get("Retry-After") == "1")
		})
	}
}

func TestTheProductCanRefuseInItsOwnWords(t *testing.T) {
	var got error
	f := newTollgate()
	h := middleware(t, edge.Config{HTTPClient: &http.Client{Transport: f}, Refuse: func(w http.ResponseWriter, _ *http.Request, err error) {
		got = err
		w.WriteHeader(http.StatusTeapot)
	}}).Handler(product)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+nobody+"/", nil))
	assert.Equal(t, http.StatusTeapot, w.Code)
	assert.ErrorIs(t, got, edge.ErrUnknown)
}

func TestAnAnswerIsKeptForItsAge(t *testing.T) {
	for host, want := range map[string]int{acme: 200, nobody: 404} {
		t.Run(host, func(t *testing.T) {
			inBubble(t, edge.Config{MaxAge: 4 * time.Second}, func(t *testing.T, f *tollgate, ask func(string) int) {
				for range 3 {
					assert.Equal(t, want, ask(host))
				}
				time.Sleep(2*time.Second - 1)
				assert.Equal(t, want, ask(host))
				assert.Equal(t, 1, f.asked())
				time.Sleep(2*time.Second + 1)
				assert.Equal(t, want, ask(host))
				assert.Equal(t, 2, f.asked())
			})
		})
	}
}

func TestAChangeIsSeenAtTheLatestAfterTheAge(t *testing.T) {
	inBubble(t, edge.Config{}, func(t *testing.T, f *tollgate, ask func(string) int) {
		assert.Equal(t, 200, ask(acme))
		assert.Equal(t, 404, ask(nobody))
		f.set(func() {
			f.statuses["tenant_acme"] = "closed"
			f.tenants[nobody] = "tenant_new"
		})
		time.Sleep(time.Second)
		assert.Equal(t, 403, ask(acme))
		assert.Equal(t, 200, ask(nobody))
		f.set(func() { delete(f.tenants, acme) })
		time.Sleep(time.Second)
		assert.Equal(t, 404, ask(acme))
	})
}

func TestABusyNameIsAskedAboutAheadOfTime(t *testing.T) {
	inBubble(t, edge.Config{}, func(t *testing.T, f *tollgate, ask func(string) int) {
		assert.Equal(t, 200, ask(acme))
		hold := make(chan struct{})
		f.set(func() { f.hold = hold })
		time.Sleep(600 * time.Millisecond)
		for range 10 {
			assert.Equal(t, 200, ask(acme)) // does not wait
		}
		synctest.Wait()
		assert.Equal(t, 2, f.asked())
		f.set(func() { f.hold = nil })
		close(hold)
		synctest.Wait()
		time.Sleep(450 * time.Millisecond) // the first answer is too old now
		assert.Equal(t, 200, ask(acme))
		assert.Equal(t, 2, f.asked())
	})
}

func TestManyAtOnceAskOnce(t *testing.T) {
	for host, want := range map[string]int{acme: 200, nobody: 404} {
		t.Run(host, func(t *testing.T) {
			inBubble(t, edge.Config{}, func(t *testing.T, f *tollgate, ask func(string) int) {
				hold := make(chan struct{})
				f.hold = hold
				var all sync.WaitGroup
				for range 500 {
					all.Go(func() { assert.Equal(t, want, ask(host)) })
				}
				synctest.Wait()
				assert.Equal(t, 1, f.asked())
				close(hold)
				all.Wait()
				assert.Equal(t, 1, f.asked())
			})
		})
	}
}

// However the requests interleave with the end of a question, none starts another one.
func TestManyAtOnceAskOnceOnTheNetworkToo(t *testing.T) {
	const names, requests = 200, 16
	f := newTollgate()
	server := httptest.NewServer(f)
	defer server.Close()
	now := time.Date(2026, 4, 5, 10, 31, 0, 0, time.UTC)
	m := middleware(t, edge.Config{BaseURL: server.URL, Now: func() time.Time { return now }})
	for i := range names {
		host := fmt.Sprintf("t%d.product.com", i)
		f.set(func() { f.tenants[host] = "tenant_" + host })
		var all sync.WaitGroup
		for range requests {
			all.Go(func() {
				got, err := m.Find(httptest.NewRequest(http.MethodGet, "http://"+host+"/", nil))
				assert.NoError(t, err)
				assert.Equal(t, "tenant_"+host, got.ID)
			})
		}
		all.Wait()
	}
	assert.Equal(t, names, f.asked())
}

func TestQuestionsThatDifferInThePathAreTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTollgate()
		hold := make(chan struct{})
		f.hold = hold
		m := middleware(t, edge.Config{HTTPClient: &http.Client{Transport: f}, PathPrefix: "/t/", OwnHosts: []string{"app.product.com"}})
		var all sync.WaitGroup
		for _, slug := range []string{"acme", "globex"} {
			all.Go(func() {
				got, err := m.Find(httptest.NewRequest(http.MethodGet, "http://app.product.com/t/"+slug+"/", nil))
				assert.NoError(t, err)
				assert.Equal(t, "tenant_"+slug, got.ID)
			})
		}
		synctest.Wait()
		close(hold)
		all.Wait()
		assert.ElementsMatch(t, []string{"slug=acme", "slug=globex"}, f.questions)
	})
}

func TestWhoLeavesDoesNotSpoilItForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTollgate()
		hold := make(chan struct{})
		f.hold = hold
		m := middleware(t, edge.Config{HTTPClient: &http.Client{Transport: f}})
		find := func(ctx context.Context) error {
			_, err := m.Find(httptest.NewRequestWithContext(ctx, http.MethodGet, "http://"+acme+"/", nil))
			return err
		}
		first, leave := context.WithCancel(t.Context())
		left, stayed := make(chan error, 1), make(chan error, 1)
		go func() { left <- find(first) }()
		synctest.Wait()
		go func() { stayed <- find(t.Context()) }()
		synctest.Wait()
		leave()
		err := <-left
		assert.ErrorIs(t, err, edge.ErrUnavailable)
		assert.ErrorIs(t, err, context.Canceled)
		synctest.Wait()
		assert.Empty(t, stayed, "the other one waits on")
		close(hold)
		assert.NoError(t, <-stayed)
		assert.Equal(t, 1, f.asked())
	})
}

func TestKnownTenantsOutlastAnOutage(t *testing.T) {
	inBubble(t, edge.Config{StaleFor: time.Minute}, func(t *testing.T, f *tollgate, ask func(string) int) {
		assert.Equal(t, 200, ask(acme))
		assert.Equal(t, 404, ask(nobody))
		f.down(true)
		time.Sleep(2 * time.Second)
		assert.Equal(t, 200, ask(acme))
		assert.Equal(t, 503, ask("globex.product.com"), "it was never known")
		assert.Equal(t, 503, ask(nobody), "it may be somebody's by now")
		time.Sleep(time.Minute - time.Second - 1)
		assert.Equal(t, 200, ask(acme))
		synctest.Wait()
		time.Sleep(time.Nanosecond)
		assert.Equal(t, 503, ask(acme))
		f.down(false)
		time.Sleep(time.Second)
		assert.Equal(t, 200, ask(acme))
		assert.Equal(t, 404, ask(nobody))
	})
}

// Who is known to be nobody's is not somebody's again because Tollgate is away.
func TestAnOutageBringsNothingBack(t *testing.T) {
	inBubble(t, edge.Config{}, func(t *testing.T, f *tollgate, ask func(string) int) {
		assert.Equal(t, 200, ask(acme))
		f.set(func() { delete(f.tenants, acme) })
		time.Sleep(time.Second)
		assert.Equal(t, 404, ask(acme))
		f.down(true)
		time.Sleep(time.Second)
		assert.Equal(t, 503, ask(acme))
	})
}

func TestNoAnswerStandsInWhereNoneIsWanted(t *testing.T) {
	inBubble(t, edge.Config{StaleFor: -1}, func(t *testing.T, f *tollgate, ask func(string) int) {
		assert.Equal(t, 200, ask(acme))
		f.down(true)
		time.Sleep(time.Second)
		assert.Equal(t, 503, ask(acme))
	})
}

func TestAnOutageIsNotAskedAboutByEveryRequest(t *testing.T) {
	inBubble(t, edge.Config{}, func(t *testing.T, f *tollgate, ask func(string) int) {
		assert.Equal(t, 200, ask(acme))
		f.down(true)
		time.Sleep(time.Second)
		before := f.asked()
		for range 10 {
			assert.Equal(t, 200, ask(acme))
			assert.Equal(t, 503, ask("globex.product.com"))
		}
		assert.Equal(t, before+2, f.asked())
	})
}

// A Tollgate that hangs costs one request its time-out; while it goes on, none.
func TestASilentTollgateIsWaitedForOnce(t *testing.T) {
	inBubble(t, edge.Config{}, func(t *testing.T, f *tollgate, ask func(string) int) {
		assert.Equal(t, 200, ask(acme))
		f.set(func() { f.hold = make(chan struct{}) }) // never answers
		time.Sleep(time.Second)
		start := time.Now()
		assert.Equal(t, 200, ask(acme))
		assert.Equal(t, 2*time.Second, time.Since(start))
		for range 100 {
			start := time.Now()
			assert.Equal(t, 200, ask(acme))
			assert.Zero(t, time.Since(start))
			time.Sleep(100 * time.Millisecond)
		}
		start = time.Now()
		assert.Equal(t, 503, ask("globex.product.com"))
		assert.Equal(t, 2*time.Second, time.Since(start))
	})
}

// What stood in during an outage does not after it, however rarely somebody comes.
func TestAfterAnOutageOldAnswersAreNotUsed(t *testing.T) {
	inBubble(t, edge.Config{}, func(t *testing.T, f *tollgate, ask func(string) int) {
		assert.Equal(t, 200, ask(acme))
		f.down(true)
		time.Sleep(time.Second)
		assert.Equal(t, 200, ask(acme))
		f.down(false)
		f.set(func() { f.statuses["tenant_acme"] = "closed" })
		time.Sleep(5 * time.Second)
		assert.Equal(t, 403, ask(acme))
	})
}

func TestMadeUpNamesDoNotPushOutKnownOnes(t *testing.T) {
	inBubble(t, edge.Config{Size: 10}, func(t *testing.T, f *tollgate, ask func(string) int) {
		assert.Equal(t, 200, ask(acme))
		for i := range 100 {
			assert.Equal(t, 404, ask(fmt.Sprintf("no%d.product.com", i)))
		}
		assert.Equal(t, 101, f.asked())
		assert.Equal(t, 200, ask(acme))
		assert.Equal(t, 101, f.asked())
		assert.Equal(t, 404, ask("no0.product.com"), "it was forgotten, and is asked about again")
		assert.Equal(t, 102, f.asked())
	})
}

// A flood of made-up names keeps its questions within bounds, and known names have turns of their own.
func TestMadeUpNamesDoNotKeepKnownOnesFromBeingAsked(t *testing.T) {
	inBubble(t, edge.Config{}, func(t *testing.T, f *tollgate, ask func(string) int) {
		assert.Equal(t, 200, ask(acme))
		time.Sleep(time.Second)
		hold := make(chan struct{})
		f.set(func() { f.hold = hold })
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() { assert.Contains(t, []int{404, 503}, ask(fmt.Sprintf("no%d.product.com", i))) })
		}
		synctest.Wait()
		assert.Equal(t, 1+32, f.asked())
		all.Go(func() { assert.Equal(t, 200, ask(acme)) })
		synctest.Wait()
		assert.Equal(t, 1+32+1, f.asked())
		f.set(func() { f.hold = nil })
		close(hold)
		all.Wait()
	})
}

func TestTheLogHearsOfAnOutageNowAndThen(t *testing.T) {
	var log strings.Builder
	inBubble(t, edge.Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, f *tollgate, ask func(string) int) {
		f.down(true)
		for range 15 {
			assert.Equal(t, 503, ask(acme))
			time.Sleep(time.Second)
		}
	})
	assert.Equal(t, 2, strings.Count(log.String(), "level=WARN"))
	assert.Contains(t, log.String(), "store_unavailable")
	assert.NotContains(t, log.String(), serviceKey)
}

// What is not as agreed is no answer: not "no such tenant", and above all not a tenant.
func TestAnswersThatAreNone(t *testing.T) {
	says := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect was followed, with Authorization %q", r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"garbage":                            says(200, "<html>It works!</html>"),
		"nothing":                            says(200, ""),
		"another JSON":                       says(200, `[]`),
		"null":                               says(200, `null`),
		"an empty object":                    says(200, `{}`),
		"no tenant":                          says(200, `{"tenantId":"","plan":null,"status":"active","flagsETag":"x"}`),
		"a tenant of another type":           says(200, `{"tenantId":7,"plan":null,"status":"active","flagsETag":"x"}`),
		"no status":                          says(200, `{"tenantId":"a","plan":null,"flagsETag":"x"}`),
		"something after it":                 says(200, `{"tenantId":"a","plan":null,"status":"active","flagsETag":"x"}{"tenantId":"b"}`),
		"half of it":                         says(200, `{"tenantId":"a","plan":null,"status":"act`),
		"an id with a line break":            says(200, `{"tenantId":"a\r\nX-Admin: 1","plan":null,"status":"active","flagsETag":"x"}`),
		"an id that a header would trim":     says(200, `{"tenantId":" a","plan":null,"status":"active","flagsETag":"x"}`),
		"an id that is too long":             says(200, `{"tenantId":"`+strings.Repeat("a", 201)+`","plan":null,"status":"active","flagsETag":"x"}`),
		"an id that is no UTF-8":             says(200, "{\"tenantId\":\"a\xff\",\"plan\":null,\"status\":\"active\",\"flagsETag\":\"x\"}"),
		"a plan with a NUL":                  says(200, `{"tenantId":"a","plan":"\u0000","status":"active","flagsETag":"x"}`),
		"a 404 of somebody else":             says(404, "404 page not found"),
		"a 404 of another route":             says(404, `{"code":"not_found"}`),
		"a 400":                              says(400, `{"code":"tenant_required"}`),
		"a key that is not accepted":         says(401, `{"code":"unauthorized"}`), //nolint:misspell // the contract spells it so
		"a key of another kind":              says(403, `{"code":"forbidden"}`),
		"too many":                           says(429, `{"code":"overloaded"}`),
		"a fault":                            says(500, `{"code":"internal"}`),
		"unknown_tenant with another status": says(500, `{"code":"unknown_tenant"}`),
		"no content":                         says(204, ""),
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
		"more than an answer has": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"tenantId":"a","plan":null,"status":"active","flagsETag":"x"}`)
			for _, err := io.WriteString(w, " "); err == nil; _, err = io.WriteString(w, strings.Repeat(" ", 4096)) { // until nobody reads it
			}
		},
		"a broken connection": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newTollgate()
			f.instead = answer
			server := httptest.NewServer(f)
			defer server.Close()
			h := middleware(t, edge.Config{BaseURL: server.URL}).Handler(product)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+acme+"/", nil))
			assert.Equal(t, http.StatusServiceUnavailable, w.Code, "%s", w.Body)
		})
	}
}

func TestATenantMayHaveNoPlanAndAnyName(t *testing.T) {
	f := newTollgate()
	f.instead = func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"tenantId":"Müller & Söhne","plan":null,"status":"active","flagsETag":"\"x\"","region":"eu"}`)
	}
	server := httptest.NewServer(middleware(t, edge.Config{HTTPClient: &http.Client{Transport: f}}).Handler(product))
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	require.NoError(t, err)
	r.Host = acme
	answer, err := server.Client().Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	var got seen
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&got))
	assert.Equal(t, edge.Tenant{ID: "Müller & Söhne", Status: edge.Active, FlagsETag: `"x"`}, got.Tenant)
	assert.Equal(t, []string{"Müller & Söhne"}, got.Headers["X-Tenant-Id"])
}

// slowBody says what it will send, and never does.
type slowBody struct{ ctx context.Context }

func (s slowBody) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(slowBody{r.Context()}), Request: r}, nil
}

func (s slowBody) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func TestABodyThatNeverEndsIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := middleware(t, edge.Config{HTTPClient: &http.Client{Transport: slowBody{}}, Timeout: 300 * time.Millisecond})
		start := time.Now()
		_, err := m.Find(httptest.NewRequest(http.MethodGet, "http://"+acme+"/", nil))
		assert.ErrorIs(t, err, edge.ErrUnavailable)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 300*time.Millisecond, time.Since(start))
	})
}

// Requests as they come over the wire, byte by byte: net/http's own client would not send most of them, and its server
// refuses some before the middleware sees them.
func TestHostileRequests(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	elsewhere := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	paths := edge.Config{PathPrefix: "/t/", OwnHosts: []string{"app.product.com"}}
	for name, c := range map[string]struct {
		config edge.Config
		lines  string // after the request line "GET / HTTP/1.1"
		path   string // "": /
		status int
		tenant string
	}{
		"a plain request":                     {lines: "Host: acme.product.com", status: 200, tenant: "tenant_acme"},
		"capitals, a dot and a port":          {lines: "Host: ACME.product.COM.:8443", status: 200, tenant: "tenant_acme"},
		"no host":                             {lines: "Accept: */*", status: 400},
		"an empty host":                       {lines: "Host:", status: 404},
		"two hosts":                           {lines: "Host: acme.product.com\r\nHost: globex.product.com", status: 400},
		"two hosts in one":                    {lines: "Host: acme.product.com,globex.product.com", status: 404},
		"a homograph":                         {lines: "Host: \u0430cme.product.com", status: 400},
		"a Kelvin sign":                       {lines: "Host: \u212Aiwi.product.com", status: 400},
		"user info":                           {lines: "Host: acme.product.com:80@globex.product.com", status: 400},
		"another name with the same end":      {lines: "Host: evilacme.product.com", status: 404},
		"another name with the same start":    {lines: "Host: acme.product.com.evil.com", status: 404},
		"an absolute target beats the header": {path: "http://globex.product.com/", lines: "Host: acme.product.com", status: 200, tenant: "tenant_globex"},

		"a client that names a tenant":       {lines: "Host: acme.product.com\r\nX-Tenant-Id: tenant_globex", status: 200, tenant: "tenant_acme"},
		"in small letters":                   {lines: "Host: acme.product.com\r\nx-tenant-id: tenant_globex", status: 200, tenant: "tenant_acme"},
		"twice":                              {lines: "Host: acme.product.com\r\nX-Tenant-Id: tenant_globex\r\nX-TENANT-ID: tenant_acme", status: 200, tenant: "tenant_acme"},
		"with underscores":                   {lines: "Host: acme.product.com\r\nX_Tenant_Id: tenant_globex\r\nX-Tenant_ID: tenant_globex", status: 200, tenant: "tenant_acme"},
		"a client at nobody's host":          {lines: "Host: nobody.product.com\r\nX-Tenant-Id: tenant_globex", status: 404},
		"a client that wants it dropped":     {lines: "Host: acme.product.com\r\nConnection: close, x-tenant-id", status: 200, tenant: "tenant_acme"},
		"a client that wants only that":      {lines: "Host: acme.product.com\r\nConnection: X-Tenant-Id", status: 200, tenant: "tenant_acme"},
		"dropped by a connection of its own": {lines: "Host: acme.product.com\r\nConnection: close\r\nConnection: X-TENANT-ID", status: 200, tenant: "tenant_acme"},

		"a forwarded host from anybody":               {lines: "Host: acme.product.com\r\nX-Forwarded-Host: globex.product.com", status: 200, tenant: "tenant_acme"},
		"a forwarded host from another network":       {config: edge.Config{TrustedProxies: elsewhere}, lines: "Host: acme.product.com\r\nX-Forwarded-Host: globex.product.com", status: 200, tenant: "tenant_acme"},
		"a forwarded host from a trusted proxy":       {config: edge.Config{TrustedProxies: loopback}, lines: "Host: backend:80\r\nX-Forwarded-Host: GLOBEX.product.com:443", status: 200, tenant: "tenant_globex"},
		"a trusted proxy that forwards none":          {config: edge.Config{TrustedProxies: loopback}, lines: "Host: acme.product.com", status: 200, tenant: "tenant_acme"},
		"two forwarded hosts":                         {config: edge.Config{TrustedProxies: loopback}, lines: "Host: backend\r\nX-Forwarded-Host: acme.product.com\r\nX-Forwarded-Host: acme.product.com", status: 400},
		"two forwarded hosts in one":                  {config: edge.Config{TrustedProxies: loopback}, lines: "Host: backend\r\nX-Forwarded-Host: evil.com, acme.product.com", status: 400},
		"an empty forwarded host":                     {config: edge.Config{TrustedProxies: loopback}, lines: "Host: acme.product.com\r\nX-Forwarded-Host:", status: 404},
		"a forwarded homograph":                       {config: edge.Config{TrustedProxies: loopback}, lines: "Host: acme.product.com\r\nX-Forwarded-Host: \u0430cme.product.com", status: 404},
		"Forwarded is not what proxies are asked for": {config: edge.Config{TrustedProxies: loopback}, lines: "Host: acme.product.com\r\nForwarded: host=globex.product.com", status: 200, tenant: "tenant_acme"},

		"a path at the product's own host":        {config: paths, path: "/t/globex/reports", lines: "Host: App.product.com", status: 200, tenant: "tenant_globex"},
		"no path at the product's own host":       {config: paths, path: "/reports", lines: "Host: app.product.com", status: 404},
		"host and path agree":                     {config: paths, path: "/t/acme/reports", lines: "Host: acme.product.com", status: 200, tenant: "tenant_acme"},
		"host and path differ":                    {config: paths, path: "/t/globex/reports", lines: "Host: acme.product.com", status: 400},
		"a path that climbs":                      {config: paths, path: "/t/acme/../globex/", lines: "Host: app.product.com", status: 404},
		"an unknown slug at a known host":         {config: paths, path: "/t/nobody/", lines: "Host: acme.product.com", status: 404},
		"paths name nobody unless they are asked": {path: "/t/globex/", lines: "Host: acme.product.com", status: 200, tenant: "tenant_acme"},
	} {
		t.Run(name, func(t *testing.T) {
			// The product passes requests on to an upstream that has only headers to go by.
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				named := http.Header{}
				for name, values := range r.Header {
					if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), "x-tenant-id") {
						named[name] = values
					}
				}
				w.Header().Set("Upstream-Saw", fmt.Sprint(map[string][]string(named)))
			}))
			defer upstream.Close()
			to, err := url.Parse(upstream.URL)
			require.NoError(t, err)
			c.config.HTTPClient = &http.Client{Transport: newTollgate()}
			server := httptest.NewServer(middleware(t, c.config).Handler(httputil.NewSingleHostReverseProxy(to)))
			defer server.Close()
			if c.path == "" {
				c.path = "/"
			}
			status, saw := send(t, server.Listener.Addr().String(), "GET "+c.path+" HTTP/1.1\r\n"+c.lines+"\r\n\r\n")
			assert.Equal(t, c.status, status)
			want := ""
			if c.status == http.StatusOK {
				want = fmt.Sprint(map[string][]string{"X-Tenant-Id": {c.tenant}})
			}
			assert.Equal(t, want, saw)
		})
	}
}

// send returns the answer's status, and what the upstream saw.
func send(t *testing.T, addr, request string) (status int, saw string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, request)
	require.NoError(t, err)
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	defer answer.Body.Close()
	return answer.StatusCode, answer.Header.Get("Upstream-Saw")
}

func TestNewRefusesBadConfigurations(t *testing.T) {
	good := func() edge.Config {
		return edge.Config{BaseURL: "https://tollgate.internal:8080/ledger/", ServiceKey: serviceKey}
	}
	_, err := edge.New(good())
	require.NoError(t, err)
	for name, spoil := range map[string]func(*edge.Config){
		"no address":                    func(c *edge.Config) { c.BaseURL = "" },
		"an address without a scheme":   func(c *edge.Config) { c.BaseURL = "tollgate.internal:8080" },
		"an address without a host":     func(c *edge.Config) { c.BaseURL = "http:///v1" },
		"another scheme":                func(c *edge.Config) { c.BaseURL = "ftp://tollgate.internal" },
		"an address with a query":       func(c *edge.Config) { c.BaseURL = "http://tollgate.internal?x" },
		"an address with a password":    func(c *edge.Config) { c.BaseURL = "http://a:secret@tollgate.internal" },
		"no address at all":             func(c *edge.Config) { c.BaseURL = "http://tollgate.internal:port" },
		"no key":                        func(c *edge.Config) { c.ServiceKey = "" },
		"a key with its line break":     func(c *edge.Config) { c.ServiceKey = serviceKey + "\n" },
		"a negative time-out":           func(c *edge.Config) { c.Timeout = -1 },
		"a negative age":                func(c *edge.Config) { c.MaxAge = -1 },
		"an age of hours":               func(c *edge.Config) { c.MaxAge = time.Hour },
		"a negative size":               func(c *edge.Config) { c.Size = -1 },
		"a zero network":                func(c *edge.Config) { c.TrustedProxies = []netip.Prefix{{}} },
		"a network that matches nobody": func(c *edge.Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")} },
		"a prefix without its slash":    func(c *edge.Config) { c.PathPrefix = "/t" },
		"a prefix that is relative":     func(c *edge.Config) { c.PathPrefix = "t/" },
		"own hosts that nobody is at":   func(c *edge.Config) { c.OwnHosts = []string{"app.product.com"} },
		"an own host that is a URL":     func(c *edge.Config) { c.PathPrefix, c.OwnHosts = "/t/", []string{"https://app.product.com"} },
	} {
		t.Run(name, func(t *testing.T) {
			c := good()
			spoil(&c)
			_, err := edge.New(c)
			require.Error(t, err)
			assert.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestTheBaseURLMayHaveAPath(t *testing.T) {
	var asked []string
	m := middleware(t, edge.Config{BaseURL: "https://tollgate.internal:8080/ledger/", HTTPClient: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		asked = append(asked, r.URL.String())
		return nil, errors.New("nobody is there")
	})}})
	_, err := m.Find(httptest.NewRequest(http.MethodGet, "http://"+acme+"/", nil))
	assert.ErrorIs(t, err, edge.ErrUnavailable)
	assert.Equal(t, []string{"https://tollgate.internal:8080/ledger/v1/resolve?host=acme.product.com"}, asked)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Many clients, names and moments at once, for the race detector: nobody ever gets another's tenant.
func TestNobodyGetsAnothersTenant(t *testing.T) {
	f := newTollgate()
	f.tenants = map[string]string{}
	for i := range 20 {
		f.tenants[fmt.Sprintf("t%d.product.com", i)] = fmt.Sprintf("tenant_%d", i)
	}
	tenants := maps.Clone(f.tenants)
	tick := time.Date(2026, 4, 5, 10, 31, 0, 0, time.UTC)
	var mu sync.Mutex
	now := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		tick = tick.Add(7 * time.Millisecond)
		return tick
	}
	h := middleware(t, edge.Config{HTTPClient: &http.Client{Transport: f}, Now: now, Size: 5}).Handler(product)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 500 {
				host := fmt.Sprintf("t%d.product.com", (i*7+worker*13)%25) // five of them are nobody's
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+host+"/", nil))
				want, known := tenants[host]
				if !known {
					assert.Equal(t, http.StatusNotFound, w.Code)
					continue
				}
				var got seen
				assert.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
				assert.Equal(t, want, got.Tenant.ID)
				assert.Equal(t, []string{want}, got.Headers["X-Tenant-Id"])
			}
		})
	}
	all.Wait()
}
