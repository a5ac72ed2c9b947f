package postgres

import (
	"context"
	"errors"
	"fmt"
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
	// freshFor is how long an answer of the directory may be used again: what another replica changed is seen after it.
	freshFor = time.Second
	// Bounds of the caches, in entries.
	cachedTenants = 20_000
	cachedKeys    = 20_000
)

// Directory answers every request's questions (whose key, which tenant, which catalog) from memory.
type Directory struct {
	readModels *ReadModels
	tenants    *cache[event.TenantID, tenant.Tenant]
	keys       *cache[tenant.Hash, tenant.Key]
	catalogs   *cache[struct{}, app.Catalog]
}

var _ app.Directory = (*Directory)(nil)

// NewDirectory reads from the directory's read model.
func NewDirectory(r *ReadModels) *Directory {
	d := &Directory{readModels: r}
	d.tenants = newCache(cachedTenants, func(ctx context.Context, id event.TenantID) (tenant.Tenant, error) {
		t, _, err := r.Tenant(ctx, id)
		return t, err
	}, tenant.ErrUnknown)
	d.keys = newCache(cachedKeys, func(ctx context.Context, h tenant.Hash) (tenant.Key, error) {
		k, _, err := r.KeyByHash(ctx, h)
		if err == nil && !k.RevokedAt.IsZero() {
			err = tenant.ErrUnknownKey
		}
		return k, err
	}, tenant.ErrUnknownKey)
	d.catalogs = newCache(1, func(ctx context.Context, _ struct{}) (app.Catalog, error) {
		revision, text, _, err := r.Catalog(ctx)
		if err != nil || revision == eventstore.NoStream {
			return app.Catalog{Revision: revision}, err
		}
		c, err := catalog.Parse(text)
		if err != nil {
			return app.Catalog{}, fmt.Errorf("catalog revision %d: %w", revision, err)
		}
		return app.Catalog{Catalog: c, Revision: revision}, nil
	}, nil)
	return d
}

// Tenant implements app.Directory.
func (d *Directory) Tenant(ctx context.Context, id event.TenantID) (tenant.Tenant, error) {
	return d.tenants.get(ctx, id)
}

// Key implements app.Directory.
func (d *Directory) Key(ctx context.Context, hash tenant.Hash) (tenant.Key, error) {
	return d.keys.get(ctx, hash)
}

// Catalog implements app.Directory.
func (d *Directory) Catalog(ctx context.Context) (app.Catalog, error) {
	return d.catalogs.get(ctx, struct{}{})
}

// Reached implements app.Directory.
func (d *Directory) Reached(ctx context.Context, at eventstore.Position) error {
	if err := d.readModels.Await(ctx, []string{projections.DirectoryModel}, at); err != nil {
		return err
	}
	d.tenants.forget()
	d.keys.forget()
	d.catalogs.forget()
	return nil
}

// cache keeps answers, and that there is none (the error absent), for freshFor. Many who ask at once cause one query.
type cache[K comparable, V any] struct {
	load    func(context.Context, K) (V, error)
	absent  error
	entries *lru.Cache[K, cached[V]]
	flights singleflight.Group
	epoch   atomic.Int64 // counts the forgetting: a query from before it must not answer or be kept after it
}

type cached[V any] struct {
	value V
	err   error
	until time.Time
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
	if e, ok := c.entries.Get(key); ok && time.Now().Before(e.until) {
		return e.value, e.err
	}
	epoch := c.epoch.Load()
	// The query goes on for the others when the one who started it leaves.
	flight := c.flights.DoChan(fmt.Sprintf("%d %v", epoch, key), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		until := time.Now().Add(freshFor) // from before the query: an answer is never older than it says
		v, err := c.load(ctx, key)
		if (err == nil || (c.absent != nil && errors.Is(err, c.absent))) && c.epoch.Load() == epoch {
			c.entries.Add(key, cached[V]{v, err, until})
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
