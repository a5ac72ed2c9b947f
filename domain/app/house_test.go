package app_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

var noon = time.Date(2026, 4, 5, 12, 0, 0, 0, time.UTC)

// directory folds the log as far as somebody asked it to, and not a bit further: a use case that forgets to wait for its
// own change is seen in the tests.
type directory struct {
	log interface {
		Partitions() int
		ReadLog(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Recorded, error)
	}

	mu      sync.Mutex
	at      map[int]int64
	tenants map[event.TenantID]tenant.Tenant
	keys    map[tenant.Hash]tenant.Key
	plans   map[event.TenantID]tenant.Subscription
	names   map[tenant.Name]tenant.Holding
	catalog app.Catalog
	err     error // what every question is answered with, when set
}

func newDirectory(log eventstore.Store) *directory {
	return &directory{log: log, at: map[int]int64{}, tenants: map[event.TenantID]tenant.Tenant{}, keys: map[tenant.Hash]tenant.Key{},
		plans: map[event.TenantID]tenant.Subscription{}, names: map[tenant.Name]tenant.Holding{}, catalog: app.Catalog{Revision: eventstore.NoStream}}
}

func (d *directory) Tenant(_ context.Context, id event.TenantID) (tenant.Tenant, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.tenants[id]
	if !ok && d.err == nil {
		return t, fmt.Errorf("tenant %s: %w", id, tenant.ErrUnknown)
	}
	return t, d.err
}

func (d *directory) Key(_ context.Context, hash tenant.Hash) (tenant.Key, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k, ok := d.keys[hash]
	if (!ok || !k.RevokedAt.IsZero()) && d.err == nil {
		return k, tenant.ErrUnknownKey
	}
	return k, d.err
}

func (d *directory) Catalog(context.Context) (app.Catalog, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.catalog, d.err
}

func (d *directory) Subscription(_ context.Context, id event.TenantID) (tenant.Subscription, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.plans[id], d.err
}

func (d *directory) Holding(_ context.Context, n tenant.Name) (tenant.Holding, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.names[n], d.err
}

func (d *directory) PlansInUse(_ context.Context, at time.Time) ([]catalog.PlanKey, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	used := map[catalog.PlanKey]bool{}
	for _, s := range d.plans {
		inForce, ok := s.At(at)
		used[inForce.Plan] = used[inForce.Plan] || ok
		for _, a := range s.Assignments {
			used[a.Plan] = used[a.Plan] || a.EffectiveAt.After(at)
		}
	}
	maps.DeleteFunc(used, func(_ catalog.PlanKey, in bool) bool { return !in })
	return slices.Sorted(maps.Keys(used)), d.err
}

func (d *directory) Reached(ctx context.Context, at eventstore.Position) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
	}
	for d.at[at.Partition] < at.Offset {
		page, err := d.log.ReadLog(ctx, eventstore.Position{Partition: at.Partition, Offset: d.at[at.Partition]}, 1000)
		if err != nil || len(page) == 0 {
			return fmt.Errorf("nothing at %s: %w", at, err)
		}
		for _, r := range page {
			d.at[at.Partition] = r.Position.Offset
			e, err := event.Decode(r)
			if err != nil {
				return err
			}
			switch e := e.(type) {
			case event.TenantDefined, event.TenantStatusChanged, event.HostVerified:
				id := event.TenantID(r.Tenant)
				d.tenants[id], _ = d.tenants[id].Apply(e)
			case event.NameClaimed, event.NameReleased, event.NameFreed:
				n, _, _ := tenant.NameIn(e)
				d.names[n], _ = tenant.HoldingAfter(e, r.Revision)
			case event.KeyCreated:
				d.keys[tenant.Hash(e.Hash)] = tenant.Key{ID: e.ID, Kind: tenant.KeyKind(e.Kind), Tenant: e.Tenant, Name: e.Name, CreatedAt: r.RecordedAt, ExpiresAt: e.ExpiresAt}
			case event.KeyRevoked:
				for hash, k := range d.keys {
					if k.ID == e.ID {
						k.RevokedAt = r.RecordedAt
						d.keys[hash] = k
					}
				}
			case event.CatalogApplied:
				if d.catalog, err = app.NewCatalog(e, r.Revision); err != nil {
					return err
				}
			case event.PlanAssigned, event.LimitOverridden, event.LimitOverrideRemoved:
				id := event.TenantID(r.Tenant)
				d.plans[id], _ = d.plans[id].Apply(e)
			}
		}
	}
	return nil
}

// faultyStore loses calls and answers: fault says for each element of each call what goes wrong.
type faultyStore struct {
	app.Store
	fault func(eventstore.Append) fault
}

type fault int

const (
	none   fault = iota
	before       // nothing was written
	after        // it was written, and the answer was lost
)

func (s *faultyStore) Append(ctx context.Context, batch []eventstore.Append) []eventstore.Result {
	results := make([]eventstore.Result, len(batch))
	for i, a := range batch {
		f := none
		if s.fault != nil {
			f = s.fault(a)
		}
		if f != before {
			results[i] = s.Store.Append(ctx, []eventstore.Append{a})[0]
		}
		if f != none {
			results[i] = eventstore.Result{Err: fmt.Errorf("%w: connection reset", eventstore.ErrUnavailable)}
		}
	}
	return results
}

// house is the application on a log in memory.
type house struct {
	t         testing.TB
	log       eventstore.Store
	store     *faultyStore
	directory *directory
	ledger    *app.Ledger
	now       time.Time
}

const meters = `
meters:
  - {key: interviews, eventType: interview, aggregation: sum}
  - {key: tokens, eventType: tokens, aggregation: sum, dimensions: [model]}
  - {key: input, eventType: tokens, value: data.inputTokens, aggregation: sum}
  - {key: output, eventType: tokens, value: data.outputTokens, aggregation: sum}
  - {key: calls, eventType: call, aggregation: count}
`

var ctx = context.Background()

func emptyHouse(t testing.TB) *house {
	log := newStore(t)
	h := &house{t: t, log: log, store: &faultyStore{Store: log}, directory: newDirectory(log), now: noon}
	h.ledger = app.New(h.store, h.directory, func() time.Time { return h.now })
	return h
}

// newHouse has the tenants t1 and t2 and the meters above.
func newHouse(t testing.TB) *house {
	h := emptyHouse(t)
	h.apply(meters)
	for _, id := range []event.TenantID{"t1", "t2"} {
		_, err := h.ledger.DefineTenant(ctx, tenant.Tenant{ID: id}, "cli")
		require.NoError(t, err)
	}
	return h
}

func parsed(t require.TestingT, text string) catalog.Catalog {
	c, err := catalog.Parse([]byte(text))
	require.NoError(t, err)
	return c
}

func (h *house) apply(text string) app.CatalogChange {
	h.t.Helper()
	change, err := h.ledger.ApplyCatalog(ctx, parsed(h.t, text), false, "cli")
	require.NoError(h.t, err)
	return change
}

func data(t require.TestingT, text string) event.Data {
	d, err := event.ParseData([]byte(text), "/data")
	require.NoError(t, err)
	return d
}

func interview(source string) app.Submission {
	return app.Submission{Usage: event.Usage{
		Identity: event.Identity{Tenant: "t1", Type: "interview", Source: event.SourceID(source)}, Quantity: money.Int(1), OccurredAt: noon,
	}}
}

func tokens(t require.TestingT, source, text string) app.Submission {
	s := interview(source)
	s.Type, s.Data = "tokens", data(t, text)
	return s
}

func (h *house) record(submissions ...app.Submission) []app.Receipt {
	h.t.Helper()
	receipts := h.ledger.Record(ctx, submissions)
	require.Len(h.t, receipts, len(submissions))
	return receipts
}

func statuses(receipts []app.Receipt) string {
	names := make([]string, len(receipts))
	for i, r := range receipts {
		if names[i] = string(r.Status); r.Status == "" {
			names[i] = "unknown"
		}
	}
	return strings.Join(names, " ")
}

// all reads the whole log, by kind.
func (h *house) all() map[string][]eventstore.Recorded {
	kinds := map[string][]eventstore.Recorded{}
	for p := range h.log.Partitions() {
		page, err := h.log.ReadLog(ctx, eventstore.Position{Partition: p}, eventstore.MaxReadLimit)
		require.NoError(h.t, err)
		for _, r := range page {
			kind, _, _ := strings.Cut(r.Type, ".")
			kinds[kind] = append(kinds[kind], r)
		}
	}
	return kinds
}

var errDown = errors.New("the read models are down")
