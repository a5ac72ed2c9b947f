package api_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invoicing"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/limiter"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/domain/usage"
)

const sampleCatalog = `
meters:
  - {key: ai_interviews, eventType: ai_interview_completed, aggregation: sum}
  - {key: tokens, eventType: tokens_spent, aggregation: sum, dimensions: [provider, model]}
  - {key: output_tokens, eventType: tokens_spent, value: data.outputTokens, aggregation: sum}
`

// The clock of the ledger; what is sent says times around it.
var clock = time.Date(2026, 4, 5, 10, 31, 0, 0, time.UTC)

// directory is an app.Directory that reads the log at every question.
type directory struct{ store eventstore.Store }

func (d directory) last(ctx context.Context, name eventstore.StreamName) (any, eventstore.Revision, error) {
	recorded, err := d.store.ReadStream(ctx, name, 0, 1000)
	if err != nil || len(recorded) == 0 {
		return nil, eventstore.NoStream, err
	}
	e, err := event.Decode(recorded[len(recorded)-1])
	return e, eventstore.Revision(len(recorded)) - 1, err
}

func (d directory) Tenant(ctx context.Context, id event.TenantID) (t tenant.Tenant, err error) {
	recorded, err := d.store.ReadStream(ctx, event.TenantStream(id), 0, 1000)
	if err != nil {
		return t, err
	}
	for _, r := range recorded {
		e, err := event.Decode(r)
		if err != nil {
			return t, err
		}
		t, _ = t.Apply(e)
	}
	if t.ID == "" {
		return t, tenant.ErrUnknown
	}
	return t, nil
}

func (d directory) Holding(ctx context.Context, n tenant.Name) (tenant.Holding, error) {
	e, revision, err := d.last(ctx, event.NameStream(string(n.Kind), n.Name))
	if err != nil {
		return tenant.Holding{}, err
	}
	h, _ := tenant.HoldingAfter(e, revision)
	return h, nil
}

func (d directory) Key(ctx context.Context, hash tenant.Hash) (tenant.Key, error) {
	e, _, err := d.last(ctx, event.KeyStream(event.KeyID("key_"+hex.EncodeToString(hash[:8]))))
	if err != nil {
		return tenant.Key{}, err
	}
	k, ok := e.(event.KeyCreated)
	if !ok {
		return tenant.Key{}, tenant.ErrUnknownKey
	}
	return tenant.Key{ID: k.ID, Kind: tenant.KeyKind(k.Kind), Tenant: k.Tenant, Name: k.Name, ExpiresAt: k.ExpiresAt}, nil
}

func (directory) Refresh(context.Context) error { return nil } // it always reads the log

func (d directory) Catalog(ctx context.Context) (app.Catalog, error) {
	e, revision, err := d.last(ctx, event.CatalogStream)
	if e == nil {
		return app.Catalog{Revision: eventstore.NoStream}, err
	}
	return app.NewCatalog(e.(event.CatalogApplied), revision)
}

func (d directory) Subscription(ctx context.Context, id event.TenantID) (s tenant.Subscription, err error) {
	recorded, err := d.store.ReadStream(ctx, event.SubscriptionStream(id), 0, 1000)
	for _, r := range recorded {
		e, err := event.Decode(r)
		if err != nil {
			return s, err
		}
		s, _ = s.Apply(e)
	}
	return s, err
}

func (d directory) PlansInUse(ctx context.Context, at time.Time) (plans []catalog.PlanKey, err error) {
	for _, id := range []event.TenantID{"acme", "other"} {
		s, err := d.Subscription(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, a := range s.Assignments {
			if inForce, _ := s.At(at); a == inForce || a.EffectiveAt.After(at) {
				plans = append(plans, a.Plan)
			}
		}
	}
	slices.Sort(plans)
	return slices.Compact(plans), nil
}

func (d directory) Reached(context.Context, eventstore.Position) error { return nil }

// noBilling has no invoices: they are tested on the real read models.
type noBilling struct{ api.Billing }

func (noBilling) LinesOf(context.Context, event.Identity) ([]invoicing.InvoiceLine, error) {
	return nil, nil
}

// cached keeps what the directory said, as the real one does; for benchmarks.
type cached struct {
	app.Directory
	mu     sync.RWMutex
	values map[any]any
}

func (d *cached) get(key any, load func() (any, error)) (any, error) {
	d.mu.RLock()
	v, ok := d.values[key]
	d.mu.RUnlock()
	if ok {
		return v, nil
	}
	v, err := load()
	if err == nil {
		d.mu.Lock()
		d.values[key] = v
		d.mu.Unlock()
	}
	return v, err
}

func (d *cached) Tenant(ctx context.Context, id event.TenantID) (tenant.Tenant, error) {
	v, err := d.get(id, func() (any, error) { return d.Directory.Tenant(ctx, id) })
	if err != nil {
		return tenant.Tenant{}, err
	}
	return v.(tenant.Tenant), nil
}

func (d *cached) Key(ctx context.Context, hash tenant.Hash) (tenant.Key, error) {
	v, err := d.get(hash, func() (any, error) { return d.Directory.Key(ctx, hash) })
	if err != nil {
		return tenant.Key{}, err
	}
	return v.(tenant.Key), nil
}

func (d *cached) Catalog(ctx context.Context) (app.Catalog, error) {
	v, err := d.get("", func() (any, error) { return d.Directory.Catalog(ctx) })
	if err != nil {
		return app.Catalog{}, err
	}
	return v.(app.Catalog), nil
}

// reads answers what a test puts there, and remembers what it was asked.
type reads struct {
	store    eventstore.Store
	report   usage.Report
	page     timeline.Page
	keys     api.Keys
	checks   []api.Check
	err      error
	asked    usage.Query
	askedFor timeline.Query
}

func (r *reads) Usage(_ context.Context, q usage.Query) (usage.Report, eventstore.Position, error) {
	r.asked = q
	return r.report, eventstore.Position{Partition: 1, Offset: 7}, r.err
}

func (r *reads) Timeline(_ context.Context, q timeline.Query) (timeline.Page, eventstore.Position, error) {
	r.askedFor = q
	return r.page, eventstore.Position{Partition: 1, Offset: 7}, r.err
}

func (r *reads) Keys(context.Context, int, string) (api.Keys, eventstore.Position, error) {
	return r.keys, eventstore.Position{Partition: 0, Offset: 3}, r.err
}

func (r *reads) Ready(context.Context) []api.Check { return r.checks }

func (r *reads) Await(ctx context.Context, at eventstore.Position) error {
	return r.store.Wait(ctx, eventstore.Position{Partition: at.Partition, Offset: at.Offset - 1})
}

func (r *reads) Shown(ctx context.Context, of event.TenantID) (eventstore.Position, error) {
	return r.store.Head(ctx, eventstore.PartitionOf(string(of), r.store.Partitions()))
}

// Decisions reads the whole log.
func (r *reads) Decisions(ctx context.Context, id event.Identity) (all []event.Decoded, at eventstore.Position, err error) {
	at.Partition = eventstore.PartitionOf(string(id.Tenant), r.store.Partitions())
	recorded, err := r.store.ReadLog(ctx, at, 50_000)
	if err != nil || r.err != nil {
		return nil, at, errors.Join(err, r.err)
	}
	for _, e := range recorded {
		at = e.Position
		payload, err := event.Decode(e)
		if err != nil {
			return nil, at, err
		}
		var of event.Identity
		switch p := payload.(type) {
		case event.LimitDecided:
			of = p.Identity
		case event.HoldReleased:
			of = p.Identity
		case event.HoldExpired:
			of = p.Identity
		}
		if of == id {
			all = append(all, event.Decoded{Recorded: eventstore.Recorded{Position: e.Position, RecordedAt: e.RecordedAt}, Payload: payload})
		}
	}
	slices.Reverse(all)
	return all, at, nil
}

// noAccounts keeps nothing: everything is read from the log.
type noAccounts struct{}

func (noAccounts) Account(context.Context, event.TenantID) (limit.Snapshot, error) {
	return limit.Snapshot{Revision: eventstore.NoStream}, nil
}

func (noAccounts) Series(_ context.Context, _ event.TenantID, needs []limit.Need, _, _ time.Time) ([]limit.Loaded, error) {
	all := make([]limit.Loaded, len(needs))
	for i, n := range needs {
		all[i].Need = n
	}
	return all, nil
}

func (noAccounts) Overdue(context.Context, time.Time, int) ([]event.TenantID, error) { return nil, nil }

// catalogs reads the log at every question.
type catalogs struct{ store eventstore.Store }

func (c catalogs) At(ctx context.Context, revision eventstore.Revision) (*catalog.Catalog, error) {
	read, err := app.ReadCatalog(ctx, c.store, revision)
	return &read.Catalog, err
}

// fixture is the API on a log in memory, with two tenants and a key of each kind.
type fixture struct {
	t          testing.TB
	store      eventstore.Store
	faults     *faultyStore
	ledger     *app.Ledger
	limits     *limiter.Engine
	reads      *reads
	source     *exportSource
	operations *insightSource
	server     *api.Server
	admin      string
	service    string
	acme       string // a key of the tenant acme
	spec       routers.Router

	registry *prometheus.Registry
}

// faultyStore fails appends where a test says so.
type faultyStore struct {
	eventstore.Store
	mu       sync.Mutex
	fail     func(eventstore.Append) error
	after    func() // each call
	forgets  bool   // answers without keeping anything
	answered int64
}

func (f *faultyStore) Append(ctx context.Context, batch []eventstore.Append) []eventstore.Result {
	f.mu.Lock()
	fail, after, forgets := f.fail, f.after, f.forgets
	f.mu.Unlock()
	results := make([]eventstore.Result, len(batch))
	var good []eventstore.Append
	var at []int
	for i, a := range batch {
		if fail != nil {
			if results[i].Err = fail(a); results[i].Err != nil {
				continue
			}
		}
		good, at = append(good, a), append(at, i)
	}
	if forgets {
		for _, i := range at {
			f.answered++
			results[i] = eventstore.Result{Outcome: eventstore.Appended, Position: eventstore.Position{Offset: f.answered}, RecordedAt: clock}
		}
	} else {
		for i, r := range f.Store.Append(ctx, good) {
			results[at[i]] = r
		}
	}
	if after != nil {
		after()
	}
	return results
}

func (f *faultyStore) failWith(fail func(eventstore.Append) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *faultyStore) onAppend(after func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.after = after
}

func (f *faultyStore) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgets = true
}

func newFixture(t testing.TB, change ...func(*api.Config)) *fixture {
	t.Helper()
	ctx := context.Background()
	store := newStore(t)
	faults := &faultyStore{Store: store}
	dir := directory{store}
	h := &fixture{t: t, store: store, faults: faults, reads: &reads{store: store}, source: &exportSource{store: store}}
	h.ledger = app.New(faults, dir, func() time.Time { return clock })
	for _, id := range []event.TenantID{"acme", "other"} {
		_, err := h.ledger.DefineTenant(ctx, tenant.Tenant{ID: id, TimeZone: "Europe/Berlin"}, "cli")
		require.NoError(t, err)
	}
	c, err := catalog.Parse([]byte(sampleCatalog))
	require.NoError(t, err)
	_, err = h.ledger.ApplyCatalog(ctx, c, false, "cli")
	require.NoError(t, err)
	for _, k := range []struct {
		kind tenant.KeyKind
		id   event.TenantID
		into *string
	}{{tenant.Admin, "", &h.admin}, {tenant.Service, "", &h.service}, {tenant.Scoped, "acme", &h.acme}} {
		_, secret, err := h.ledger.CreateKey(ctx, app.NewKey{Kind: k.kind, Tenant: k.id, Name: "test"}, rand.Reader, "cli")
		require.NoError(t, err)
		*k.into = string(secret)
	}
	h.limits = limiter.New(limiter.Config{Writer: uuid.New(), Store: faults, Directory: dir, Accounts: noAccounts{}, Catalogs: catalogs{store},
		Now: func() time.Time { return clock }, SweepEvery: -1})
	t.Cleanup(h.limits.Close)
	config := api.Config{
		Ledger: h.ledger, Limits: h.limits, Billing: noBilling{}, Exports: h.source.exports(dir), Costs: app.NewCosts(faults, dir, func() time.Time { return clock }), Insights: h.newInsights(faults, dir), Directory: dir, Usage: h.reads, Timeline: h.reads, Keys: h.reads, Positions: h.reads, Readiness: h.reads,
		Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), Now: time.Now, Random: rand.Reader, SpoolDir: t.TempDir(),
	}
	for _, f := range change {
		f(&config)
	}
	if _, ok := config.Directory.(*cached); ok {
		h.ledger = app.New(faults, config.Directory, func() time.Time { return clock })
		config.Ledger = h.ledger
	}
	h.registry = config.Registry
	h.server = api.New(config)
	h.spec = router(t)
	return h
}

var loadSpec = sync.OnceValues(func() (routers.Router, error) {
	doc, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	if err != nil {
		return nil, err
	}
	doc.Servers = nil
	if err := doc.Validate(context.Background()); err != nil {
		return nil, err
	}
	return legacy.NewRouter(doc)
})

func router(t testing.TB) routers.Router {
	r, err := loadSpec()
	require.NoError(t, err)
	return r
}

// request is sent to the API.
type request struct {
	method  string
	path    string
	key     string
	headers []string // name, value, name, value
	body    string
}

type answer struct {
	*httptest.ResponseRecorder
	t testing.TB
}

func (a answer) json() map[string]any {
	a.t.Helper()
	d := json.NewDecoder(bytes.NewReader(a.Body.Bytes()))
	d.UseNumber()
	var v map[string]any
	require.NoError(a.t, d.Decode(&v), a.Body.String())
	return v
}

func (a answer) code() string {
	a.t.Helper()
	code, _ := a.json()["code"].(string)
	return code
}

// pointers are those of the listed errors.
func (a answer) pointers() (pointers []string) {
	a.t.Helper()
	listed, _ := a.json()["errors"].([]any)
	for _, e := range listed {
		pointers = append(pointers, e.(map[string]any)["pointer"].(string))
	}
	return pointers
}

func (h *fixture) do(r request) answer {
	h.t.Helper()
	req := httptest.NewRequest(r.method, r.path, strings.NewReader(r.body))
	if r.key != "" {
		req.Header.Set("Authorization", "Bearer "+r.key)
	}
	for i := 0; i < len(r.headers); i += 2 {
		req.Header.Add(r.headers[i], r.headers[i+1])
	}
	return h.send(req)
}

// send serves a request and checks the answer against the specification.
func (h *fixture) send(req *http.Request) answer {
	h.t.Helper()
	w := httptest.NewRecorder()
	h.server.ServeHTTP(w, req)
	h.conforms(req, w.Code, w.Header(), w.Body.Bytes())
	return answer{w, h.t}
}

func (h *fixture) conforms(req *http.Request, status int, header http.Header, body []byte) {
	h.t.Helper()
	plain := req.Clone(context.Background())
	plain.Body = http.NoBody
	plain.URL = &url.URL{Path: req.URL.EscapedPath()} // an encoded slash is no separator for this router either
	route, params, err := h.spec.FindRoute(plain)
	if err != nil {
		require.Contains(h.t, []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNoContent}, status, "%s: %v", req.URL, err)
		return
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: plain, Route: route, PathParams: params},
		Status:                 status, Header: header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: !strings.Contains(header.Get("Content-Type"), "json")},
	}
	require.NoError(h.t, openapi3filter.ValidateResponse(context.Background(), input), "%s %s: %d %s", req.Method, req.URL, status, body)
}

func (h *fixture) post(key, contentType, body string, headers ...string) answer {
	h.t.Helper()
	return h.do(request{"POST", "/v1/events", key, append([]string{"Content-Type", contentType}, headers...), body})
}

func (h *fixture) events() int {
	n := 0
	for p := range h.store.Partitions() {
		recorded, err := h.store.ReadLog(context.Background(), eventstore.Position{Partition: p}, 50_000)
		require.NoError(h.t, err)
		for _, r := range recorded {
			if event.IsUsage(r.Type) {
				n++
			}
		}
	}
	return n
}

func usageEvent(source string, more ...string) string {
	return fmt.Sprintf(`{"eventType":"tokens_spent","sourceId":%q,"occurredAt":"2026-04-05T10:30:00.000Z"%s}`, source, strings.Join(more, ""))
}
