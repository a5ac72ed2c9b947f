// Package apptest is the application on a log in memory, for the tests of the use cases: a directory that shows no more than
// was waited for, a store that loses calls and answers, and a fixture with two tenants and some meters.
package apptest

import (
	"context"
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

// Noon is when all fixtures begin.
var Noon = time.Date(2026, 4, 5, 12, 0, 0, 0, time.UTC)

// Directory folds the log only as far as somebody waited for: a use case that does not wait for its own change fails its test.
type Directory struct {
	log interface {
		Partitions() int
		ReadLog(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Recorded, error)
		Head(ctx context.Context, partition int) (eventstore.Position, error)
	}

	mu      sync.Mutex
	at      map[int]int64
	tenants map[event.TenantID]tenant.Tenant
	keys    map[tenant.Hash]tenant.Key
	plans   map[event.TenantID]tenant.Subscription
	names   map[tenant.Name]tenant.Holding
	catalog app.Catalog
	err     error
	follows bool
}

// Fail answers every question with an error from now on; nil ends that.
func (d *Directory) Fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// LoseCatalog makes the directory one that is far behind: it shows no catalog.
func (d *Directory) LoseCatalog() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at, d.catalog = map[int]int64{}, app.Catalog{Revision: eventstore.NoStream}
}

// SetCatalog shows a catalog that nobody applied.
func (d *Directory) SetCatalog(c app.Catalog) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.catalog = c
}

// Plans is what the directory shows of a tenant's subscription, also while it fails.
func (d *Directory) Plans(id event.TenantID) tenant.Subscription {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.plans[id]
}

// NewDirectory makes one that shows nothing yet.
func NewDirectory(log eventstore.Store) *Directory {
	return &Directory{log: log, at: map[int]int64{}, tenants: map[event.TenantID]tenant.Tenant{}, keys: map[tenant.Hash]tenant.Key{},
		plans: map[event.TenantID]tenant.Subscription{}, names: map[tenant.Name]tenant.Holding{}, catalog: app.Catalog{Revision: eventstore.NoStream}}
}

// Tenant implements app.Directory.
func (d *Directory) Tenant(_ context.Context, id event.TenantID) (tenant.Tenant, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.tenants[id]
	if !ok && d.err == nil {
		return t, fmt.Errorf("tenant %s: %w", id, tenant.ErrUnknown)
	}
	return t, d.err
}

// Key implements app.Directory.
func (d *Directory) Key(_ context.Context, hash tenant.Hash) (tenant.Key, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k, ok := d.keys[hash]
	if (!ok || !k.RevokedAt.IsZero()) && d.err == nil {
		return k, tenant.ErrUnknownKey
	}
	return k, d.err
}

// Catalog implements app.Directory.
func (d *Directory) Catalog(context.Context) (app.Catalog, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.catalog, d.err
}

// Subscription implements app.Directory.
func (d *Directory) Subscription(_ context.Context, id event.TenantID) (tenant.Subscription, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.plans[id], d.err
}

// Holding implements app.Directory.
func (d *Directory) Holding(_ context.Context, n tenant.Name) (tenant.Holding, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.names[n], d.err
}

// PlansInUse implements app.Directory.
func (d *Directory) PlansInUse(_ context.Context, at time.Time) ([]catalog.PlanKey, error) {
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

// Refresh implements app.Directory. It shows nothing new, unless Follow was called.
func (d *Directory) Refresh(ctx context.Context) error {
	d.mu.Lock()
	follows := d.follows
	d.mu.Unlock()
	if !follows {
		return nil
	}
	for p := range d.log.Partitions() {
		head, err := d.log.Head(ctx, p)
		if err != nil {
			return err
		}
		if err := d.Reached(ctx, head); err != nil {
			return err
		}
	}
	return nil
}

// Follow makes it the directory of another process than the one that changes things: a look shows all that is on the log.
func (d *Directory) Follow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.follows = true
}

// Reached implements app.Directory.
func (d *Directory) Reached(ctx context.Context, at eventstore.Position) error {
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

// FaultyStore loses calls and answers.
type FaultyStore struct {
	app.Store
	Fault func(eventstore.Append) Fault // what goes wrong with each element of each call; nil: nothing
}

// Fault is what goes wrong with an append.
type Fault int

// The faults.
const (
	None   Fault = iota
	Before       // nothing was written
	After        // it was written, and the answer was lost
)

// Append implements app.Store.
func (s *FaultyStore) Append(ctx context.Context, batch []eventstore.Append) []eventstore.Result {
	results := make([]eventstore.Result, len(batch))
	for i, a := range batch {
		f := None
		if s.Fault != nil {
			f = s.Fault(a)
		}
		if f != Before {
			results[i] = s.Store.Append(ctx, []eventstore.Append{a})[0]
		}
		if f != None {
			results[i] = eventstore.Result{Err: fmt.Errorf("%w: connection reset", eventstore.ErrUnavailable)}
		}
	}
	return results
}

// Fixture is the application on a log.
type Fixture struct {
	T         testing.TB
	Log       eventstore.Store
	Store     *FaultyStore // on Log
	Directory *Directory
	Ledger    *app.Ledger
	Now       time.Time // what the application's clock says
}

// Meters is the catalog of New.
const Meters = `
meters:
  - {key: interviews, eventType: interview, aggregation: sum}
  - {key: tokens, eventType: tokens, aggregation: sum, dimensions: [model]}
  - {key: input, eventType: tokens, value: data.inputTokens, aggregation: sum}
  - {key: output, eventType: tokens, value: data.outputTokens, aggregation: sum}
  - {key: calls, eventType: call, aggregation: count}
`

var ctx = context.Background()

// Empty is the application on an empty log.
func Empty(t testing.TB, log eventstore.Store) *Fixture {
	f := &Fixture{T: t, Log: log, Store: &FaultyStore{Store: log}, Directory: NewDirectory(log), Now: Noon}
	f.Ledger = app.New(f.Store, f.Directory, func() time.Time { return f.Now })
	return f
}

// New has the tenants t1 and t2 and the meters above.
func New(t testing.TB, log eventstore.Store) *Fixture {
	f := Empty(t, log)
	f.Apply(Meters)
	for _, id := range []event.TenantID{"t1", "t2"} {
		_, err := f.Ledger.DefineTenant(ctx, tenant.Tenant{ID: id}, "cli")
		require.NoError(t, err)
	}
	return f
}

// Parsed reads a catalog.
func Parsed(t require.TestingT, text string) catalog.Catalog {
	c, err := catalog.Parse([]byte(text))
	require.NoError(t, err)
	return c
}

// Apply applies a catalog.
func (f *Fixture) Apply(text string) app.CatalogChange {
	f.T.Helper()
	change, err := f.Ledger.ApplyCatalog(ctx, Parsed(f.T, text), false, "cli")
	require.NoError(f.T, err)
	return change
}

// Data reads the data of an event.
func Data(t require.TestingT, text string) event.Data {
	d, err := event.ParseData([]byte(text), "/data")
	require.NoError(t, err)
	return d
}

// Interview is one of t1's usage events, of quantity 1 at noon.
func Interview(source string) app.Submission {
	return app.Submission{Usage: event.Usage{
		Identity: event.Identity{Tenant: "t1", Type: "interview", Source: event.SourceID(source)}, Quantity: money.Int(1), OccurredAt: Noon,
	}}
}

// Tokens is one of t1's usage events, with data.
func Tokens(t require.TestingT, source, text string) app.Submission {
	s := Interview(source)
	s.Type, s.Data = "tokens", Data(t, text)
	return s
}

// Record records usage, with one receipt for each event.
func (f *Fixture) Record(submissions ...app.Submission) []app.Receipt {
	f.T.Helper()
	receipts := f.Ledger.Record(ctx, submissions)
	require.Len(f.T, receipts, len(submissions))
	return receipts
}

// All reads the whole log, by kind.
func (f *Fixture) All() map[string][]eventstore.Recorded {
	kinds := map[string][]eventstore.Recorded{}
	for p := range f.Log.Partitions() {
		page, err := f.Log.ReadLog(ctx, eventstore.Position{Partition: p}, eventstore.MaxReadLimit)
		require.NoError(f.T, err)
		for _, r := range page {
			kind, _, _ := strings.Cut(r.Type, ".")
			kinds[kind] = append(kinds[kind], r)
		}
	}
	return kinds
}
