package readmodels

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/projections"
)

const (
	// freshFor is how long the directory may be used without asking whether it changed: what another replica changed is seen
	// after it. It is asked ahead of time, so that nobody waits for the answer.
	freshFor = time.Second
	askAfter = freshFor / 2
	// staleFor is how long old answers are used while the store is unavailable: limits that fail open must still be
	// known then.
	staleFor = 10 * time.Minute
	// Bounds of the caches, in entries.
	cachedTenants       = 20_000
	cachedKeys          = 20_000
	cachedSubscriptions = 20_000
	cachedNames         = 20_000
)

// Directory answers every request's questions (whose key, which tenant and plan, which catalog) from memory.
type Directory struct {
	readModels    *Store
	tenants       *cache[event.TenantID, tenant.Tenant]
	keys          *cache[tenant.Hash, tenant.Key]
	catalogs      *cache[struct{}, app.Catalog]
	subscriptions *cache[event.TenantID, tenant.Subscription]
	names         *cache[tenant.Name, tenant.Holding]
	freshness     *freshness
}

var _ app.Directory = (*Directory)(nil)

// NewDirectory reads from the directory's read model.
func NewDirectory(r *Store) *Directory {
	d := &Directory{readModels: r}
	d.tenants = newCache(cachedTenants, func(ctx context.Context, id event.TenantID) (tenant.Tenant, error) {
		t, _, err := r.Tenant(ctx, id)
		return t, err
	}, tenant.ErrUnknown)
	d.keys = newCache(cachedKeys, func(ctx context.Context, h tenant.Hash) (tenant.Key, error) {
		k, _, err := r.KeyByHash(ctx, h)
		return k, err
	}, tenant.ErrUnknownKey)
	d.catalogs = newCache(1, func(ctx context.Context, _ struct{}) (app.Catalog, error) {
		c, _, err := r.Catalog(ctx)
		return c, err
	}, nil)
	d.subscriptions = newCache(cachedSubscriptions, func(ctx context.Context, id event.TenantID) (tenant.Subscription, error) {
		s, _, err := r.Subscription(ctx, id)
		return s, err
	}, nil)
	d.names = newCache(cachedNames, func(ctx context.Context, n tenant.Name) (tenant.Holding, error) {
		h, _, err := r.Holding(ctx, n)
		return h, err
	}, nil)
	d.freshness = &freshness{version: r.DirectoryVersion, changed: d.forget, now: time.Now}
	return d
}

// Tenant implements app.Directory.
func (d *Directory) Tenant(ctx context.Context, id event.TenantID) (tenant.Tenant, error) {
	d.freshness.check(ctx)
	return d.tenants.get(ctx, id)
}

// Key implements app.Directory.
func (d *Directory) Key(ctx context.Context, hash tenant.Hash) (tenant.Key, error) {
	d.freshness.check(ctx)
	return d.keys.get(ctx, hash)
}

// Catalog implements app.Directory.
func (d *Directory) Catalog(ctx context.Context) (app.Catalog, error) {
	d.freshness.check(ctx)
	return d.catalogs.get(ctx, struct{}{})
}

// Subscription implements app.Directory.
func (d *Directory) Subscription(ctx context.Context, id event.TenantID) (tenant.Subscription, error) {
	d.freshness.check(ctx)
	return d.subscriptions.get(ctx, id)
}

// Holding implements app.Directory.
func (d *Directory) Holding(ctx context.Context, n tenant.Name) (tenant.Holding, error) {
	d.freshness.check(ctx)
	return d.names.get(ctx, n)
}

// PlansInUse implements app.Directory. It is not kept: who asks is about to decide on the answer.
func (d *Directory) PlansInUse(ctx context.Context, at time.Time) ([]catalog.PlanKey, error) {
	return d.readModels.PlansInUse(ctx, at)
}

// Reached implements app.Directory.
func (d *Directory) Reached(ctx context.Context, at eventstore.Position) error {
	if err := d.readModels.Await(ctx, []string{projections.DirectoryModel}, at); err != nil {
		return err
	}
	d.forget()
	return nil
}

func (d *Directory) forget() {
	d.tenants.forget()
	d.keys.forget()
	d.catalogs.forget()
	d.subscriptions.forget()
	d.names.forget()
}

// freshness asks now and then whether the directory changed, once for everything that is kept of it.
type freshness struct {
	version func(context.Context) (string, error)
	changed func()
	now     func() time.Time
	flights singleflight.Group

	mu    sync.Mutex
	known string
	asked time.Time // when the last answer was asked for
	next  time.Time // when what is kept must not be used without another answer, or a try
	away  bool      // the last try had no answer: nobody waits for the next one
}

// check returns when what is kept may be used.
func (f *freshness) check(ctx context.Context) {
	now := f.now()
	f.mu.Lock()
	next, away := f.next, f.away
	f.mu.Unlock()
	if now.Before(next.Add(askAfter - freshFor)) {
		return
	}
	flight := f.flights.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		f.ask(ctx)
		return nil, nil //nolint:nilnil // there is nothing to tell
	})
	if now.Before(next) || away {
		return
	}
	select {
	case <-flight:
	case <-ctx.Done():
	}
}

func (f *freshness) ask(ctx context.Context) {
	asked := f.now() // before the query: what it says is never older
	version, err := f.version(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		if version != f.known || f.asked.IsZero() {
			f.changed()
		}
		f.known, f.asked, f.next, f.away = version, asked, asked.Add(freshFor), false
		return
	}
	now := f.now()
	if now.Sub(f.asked) > staleFor {
		f.changed()
	}
	f.next, f.away = now.Add(freshFor), true // a store that does not answer is not asked by every request
}

// cache keeps answers, and that there is none (the error absent), until it has to forget. Many who ask at once cause one
// query.
type cache[K comparable, V any] struct {
	load    func(context.Context, K) (V, error)
	absent  error
	entries *lru.Cache[K, cached[V]]
	flights singleflight.Group
	epoch   atomic.Int64 // counts the forgetting: an answer from before it must not be given after it
}

type cached[V any] struct {
	value V
	err   error
	epoch int64
}

func newCache[K comparable, V any](size int, load func(context.Context, K) (V, error), absent error) *cache[K, V] {
	entries, err := lru.New[K, cached[V]](size)
	if err != nil {
		panic(err) // the size is a constant above 0
	}
	return &cache[K, V]{load: load, absent: absent, entries: entries}
}

func (c *cache[K, V]) forget() {
	c.epoch.Add(1)
	c.entries.Purge()
}

func (c *cache[K, V]) get(ctx context.Context, key K) (V, error) {
	epoch := c.epoch.Load()
	if e, ok := c.entries.Get(key); ok && e.epoch == epoch {
		return e.value, e.err
	}
	// The query goes on for the others when the one who started it leaves.
	flight := c.flights.DoChan(fmt.Sprintf("%d %v", epoch, key), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		v, err := c.load(ctx, key)
		if err == nil || c.absent != nil && errors.Is(err, c.absent) {
			c.entries.Add(key, cached[V]{v, err, epoch})
		}
		return v, err
	})
	select {
	case r := <-flight:
		v, _ := r.Val.(V)
		return v, r.Err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

const loadTimeout = 5 * time.Second
