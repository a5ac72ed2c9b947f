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
	d.freshness = newFreshness(r.DirectoryVersion, d.forget, d.drop, time.Now)
	d.tenants.away, d.keys.away, d.catalogs.away = d.freshness.isAway, d.freshness.isAway, d.freshness.isAway
	d.subscriptions.away, d.names.away = d.freshness.isAway, d.freshness.isAway
	return d
}

// Refresh implements app.Directory.
func (d *Directory) Refresh(ctx context.Context) error { return d.freshness.look(ctx) }

// Tenant implements app.Directory.
func (d *Directory) Tenant(ctx context.Context, id event.TenantID) (tenant.Tenant, error) {
	return confirmed(ctx, d.freshness, d.tenants, id)
}

// Key implements app.Directory.
func (d *Directory) Key(ctx context.Context, hash tenant.Hash) (tenant.Key, error) {
	return confirmed(ctx, d.freshness, d.keys, hash)
}

// confirmed looks something up. That there is none would be a refusal for good, so it is said only after a look at the store.
func confirmed[K comparable, V any](ctx context.Context, f *freshness, c *cache[K, V], key K) (V, error) {
	f.check(ctx)
	epoch := c.epoch.Load()
	v, err := c.get(ctx, key)
	if err == nil || !errors.Is(err, c.absent) {
		return v, err
	}
	if unsure := f.confirm(ctx); unsure != nil {
		return v, unsure
	}
	if c.epoch.Load() == epoch {
		return v, err
	}
	return c.get(ctx, key)
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
	d.freshness.answered()
	d.forget()
	return nil
}

// forget has everything read again before it is used, unless it cannot be read.
func (d *Directory) forget() {
	d.tenants.forget()
	d.keys.forget()
	d.catalogs.forget()
	d.subscriptions.forget()
	d.names.forget()
}

// drop forgets everything for good.
func (d *Directory) drop() {
	d.tenants.drop()
	d.keys.drop()
	d.catalogs.drop()
	d.subscriptions.drop()
	d.names.drop()
}

// freshness asks whether the directory changed, once for everything that is kept of it: now and then, and for those who must see
// everything that was answered to anybody.
type freshness struct {
	version func(context.Context) (string, error)
	changed func() // what is kept is from before a change
	expired func() // what is kept is too old for anything
	now     func() time.Time
	looks   rounds
	// refusals are looks for those who would be refused for good. They are rarer, so that a flood of unknown keys costs little.
	refusals rounds

	mu    sync.Mutex
	known string
	asked time.Time // when the last answer was asked for
	next  time.Time // when what is kept must not be used without another answer, or a try
	away  bool      // the last try had no answer: nobody waits long for the next one
}

const (
	// refusalsApart is the least time between looks for refusals.
	refusalsApart = 50 * time.Millisecond
	// awayPatience is how long a look waits for a store that did not answer the last one: time enough for one that is back.
	awayPatience = 100 * time.Millisecond
)

func newFreshness(version func(context.Context) (string, error), changed, expired func(), now func() time.Time) *freshness {
	f := &freshness{version: version, changed: changed, expired: expired, now: now}
	f.looks.do = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
		defer cancel()
		return f.ask(ctx)
	}
	f.refusals.do = func() error {
		r := f.looks.next()
		<-r.done
		return r.err
	}
	f.refusals.apart = refusalsApart
	return f
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
	r := f.looks.current()
	if now.Before(next) || away {
		return
	}
	select {
	case <-r.done:
	case <-ctx.Done():
	}
}

// look returns nil once what is kept is as new as the store was when look was called, or later.
func (f *freshness) look(ctx context.Context) error {
	if f.isAway() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, awayPatience)
		defer cancel()
	}
	return f.looks.next().wait(ctx)
}

// confirm is look for a refusal.
func (f *freshness) confirm(ctx context.Context) error {
	return f.refusals.next().wait(ctx)
}

func (f *freshness) ask(ctx context.Context) error {
	asked := f.now() // before the query: what it says is never older
	version, err := f.version(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		if version != f.known || f.asked.IsZero() {
			f.changed()
		}
		f.known, f.asked, f.next, f.away = version, asked, asked.Add(freshFor), false
		return nil
	}
	now := f.now()
	if now.Sub(f.asked) > staleFor {
		f.expired()
	}
	f.next, f.away = now.Add(freshFor), true // a store that does not answer is not asked by every request
	return err
}

// rounds do something for all who ask at once. One round runs at a time; those who need one that begins after they asked share the
// next one.
type rounds struct {
	do    func() error
	apart time.Duration // at least, from the start of a round to that of the next one

	mu      sync.Mutex
	running *round
	queued  *round
	started time.Time
}

// round is done when done is closed; err is its result.
type round struct {
	done chan struct{}
	err  error
}

func (r *round) wait(ctx context.Context) error {
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("%w: nobody knows whether the directory has changed: %w", eventstore.ErrUnavailable, ctx.Err())
	}
}

// current is the round under way, or a new one.
func (rs *rounds) current() *round {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.running == nil {
		return rs.start()
	}
	return rs.running
}

// next is a round that begins after the call.
func (rs *rounds) next() *round {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.running == nil && time.Since(rs.started) >= rs.apart {
		return rs.start()
	}
	if rs.queued == nil {
		rs.queued = &round{done: make(chan struct{})}
		if rs.running == nil {
			time.AfterFunc(rs.apart-time.Since(rs.started), rs.startQueued)
		}
	}
	return rs.queued
}

// start begins a round; rs.mu is held.
func (rs *rounds) start() *round {
	r := rs.queued
	if r == nil {
		r = &round{done: make(chan struct{})}
	}
	rs.running, rs.queued, rs.started = r, nil, time.Now()
	go rs.run(r)
	return r
}

func (rs *rounds) startQueued() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.running == nil && rs.queued != nil {
		rs.start()
	}
}

func (rs *rounds) run(r *round) {
	r.err = rs.do()
	rs.mu.Lock()
	rs.running = nil
	if rs.queued != nil {
		if wait := rs.apart - time.Since(rs.started); wait > 0 {
			time.AfterFunc(wait, rs.startQueued)
		} else {
			rs.start()
		}
	}
	rs.mu.Unlock()
	close(r.done)
}

// isAway reports whether the store did not answer when it was asked last.
func (f *freshness) isAway() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.away
}

// answered says that the store has answered somebody else.
func (f *freshness) answered() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = false
}

// cache keeps answers, and that there is none (the error absent), until they are forgotten. Many who ask at once cause one query.
// What is forgotten is read again before it is used; where that fails the old answer is given, for staleFor at most. That there is
// none is not said on old knowledge: it would be a refusal for good.
type cache[K comparable, V any] struct {
	load    func(context.Context, K) (V, error)
	absent  error
	away    func() bool // the store did not answer just now: nobody waits for it who has an old answer
	entries *lru.Cache[K, cached[V]]
	flights singleflight.Group
	epoch   atomic.Int64 // counts the forgetting: an answer from before it is old

	mu      sync.Mutex
	endings []ending // of the epochs that ended less than staleFor ago, in order
	gone    int64    // the last epoch whose answers are too old for anything
}

// ending is when all epochs up to one had ended, at the latest, and since the one before.
type ending struct {
	epoch int64
	at    time.Time
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
	return &cache[K, V]{load: load, absent: absent, away: func() bool { return false }, entries: entries, gone: -1}
}

// endingsApart bounds how many endings are remembered: epochs that end within it count as ended when the first of them did.
const endingsApart = time.Second

func (c *cache[K, V]) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, epoch := time.Now(), c.epoch.Load()
	if n := len(c.endings); n > 0 && now.Sub(c.endings[n-1].at) < endingsApart {
		c.endings[n-1].epoch = epoch
	} else {
		c.endings = append(c.endings, ending{epoch, now})
	}
	c.age(now)
	c.epoch.Add(1)
}

// age gives up epochs that ended too long ago; c.mu is held.
func (c *cache[K, V]) age(now time.Time) {
	for len(c.endings) > 0 && now.Sub(c.endings[0].at) > staleFor {
		c.gone, c.endings = c.endings[0].epoch, c.endings[1:]
	}
}

func (c *cache[K, V]) drop() {
	c.epoch.Add(1)
	c.entries.Purge()
}

// old is the answer from before a change, where there is one that may still be used.
func (c *cache[K, V]) old(e cached[V], found bool) bool {
	if !found || e.err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.age(time.Now())
	return e.epoch > c.gone
}

// get is the answer. With a context that has ended it is what is known, if anything is.
func (c *cache[K, V]) get(ctx context.Context, key K) (V, error) {
	epoch := c.epoch.Load()
	e, found := c.entries.Get(key)
	if found && e.epoch == epoch {
		return e.value, e.err
	}
	if c.away() && c.old(e, found) {
		return e.value, nil
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
	var (
		v   V
		err error
	)
	select {
	case r := <-flight:
		v, _ = r.Val.(V)
		err = r.Err
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", eventstore.ErrUnavailable, ctx.Err())
	}
	if err != nil && (c.absent == nil || !errors.Is(err, c.absent)) && c.old(e, found) {
		return e.value, nil
	}
	return v, err
}

const loadTimeout = 5 * time.Second
