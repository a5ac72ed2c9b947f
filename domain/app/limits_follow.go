package app

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
)

const (
	followPage  = 2000
	followPause = 200 * time.Millisecond // between tries when the log cannot be read
	// followGather is how long events gather while nobody waits for them.
	followGather = 20 * time.Millisecond
	// Bounds of what a follower remembers of the log, for accounts that are loaded from read models which are behind.
	recentEvents = 50_000
	recentBytes  = 32 << 20
)

// follower reads one partition of the log, in order, and tells the accounts in memory what happened to their tenants. It
// reads nothing while there are none.
type follower struct {
	limits    *Limits
	partition int

	mu     sync.Mutex
	actors map[event.TenantID]*actor
	at     int64         // everything up to this offset was told
	want   int64         // somebody waits for everything up to this offset
	parked bool          // nobody listens: at is old
	moved  chan struct{} // closed and replaced when at or parked changes
	wanted chan struct{} // closed and replaced when want changes

	recent      [][]eventstore.Recorded // what was read last, up to at
	recentCount int
	recentSize  int
	back        sync.Mutex // who reads what stands before that
}

func newFollower(l *Limits, partition int) *follower {
	return &follower{limits: l, partition: partition, actors: map[event.TenantID]*actor{}, parked: true,
		moved: make(chan struct{}), wanted: make(chan struct{})}
}

func (f *follower) position(offset int64) eventstore.Position {
	return eventstore.Position{Partition: f.partition, Offset: offset}
}

// signal wakes who waits; f.mu is held.
func (f *follower) signal() {
	close(f.moved)
	f.moved = make(chan struct{})
}

func (f *follower) run() {
	ctx := f.limits.running
	for ctx.Err() == nil {
		f.mu.Lock()
		parked, at, moved := f.parked, f.at, f.moved
		f.mu.Unlock()
		if parked {
			select {
			case <-moved:
			case <-ctx.Done():
			}
			continue
		}
		if err := f.advance(ctx, at); err != nil {
			sleep(ctx, followPause)
		}
	}
}

// advance reads the next page and tells it.
func (f *follower) advance(ctx context.Context, at int64) error {
	if err := f.limits.Store.Wait(ctx, f.position(at)); err != nil {
		return err
	}
	f.gather(ctx, at)
	page, err := f.limits.Store.ReadLog(ctx, f.position(at), followPage)
	if err != nil || len(page) == 0 {
		return err
	}
	// Decoding, and looking up catalogs, does not keep anybody from the lock.
	told := make([]*limit.Event, len(page))
	for i := range page {
		if a := f.find(event.TenantID(page[i].Tenant)); a != nil && !a.knows(&page[i]) {
			if told[i], err = f.limits.decode(ctx, page[i]); err != nil {
				return err
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range page {
		a := f.actors[event.TenantID(page[i].Tenant)]
		if a == nil || a.knows(&page[i]) {
			continue
		}
		if told[i] == nil { // the actor came while the page was decoded
			if told[i], err = f.limits.decode(ctx, page[i]); err != nil {
				return err
			}
		}
		a.tell(*told[i])
	}
	f.at = page[len(page)-1].Position.Offset
	f.remember(page)
	if len(f.actors) == 0 {
		f.parked = true
		f.recent, f.recentCount, f.recentSize = nil, 0, 0
	}
	f.signal()
	return nil
}

// gather waits a moment for more events, unless somebody waits for those that are there.
func (f *follower) gather(ctx context.Context, at int64) {
	f.mu.Lock()
	urgent, wanted := f.want > at, f.wanted
	f.mu.Unlock()
	if urgent {
		return
	}
	t := time.NewTimer(followGather)
	defer t.Stop()
	select {
	case <-wanted:
	case <-t.C:
	case <-ctx.Done():
	}
}

// remember keeps a page, and forgets the oldest ones when there are too many; f.mu is held.
func (f *follower) remember(page []eventstore.Recorded) {
	f.recent = append(f.recent, page)
	f.recentCount += len(page)
	f.recentSize += sizeOf(page)
	for len(f.recent) > 1 && (f.recentCount > recentEvents || f.recentSize > recentBytes) {
		f.recentCount -= len(f.recent[0])
		f.recentSize -= sizeOf(f.recent[0])
		f.recent[0] = nil
		f.recent = f.recent[1:]
	}
}

func sizeOf(page []eventstore.Recorded) (n int) {
	for i := range page {
		n += len(page[i].Data)
	}
	return n
}

// since is the offset after which everything is remembered; f.mu is held.
func (f *follower) since() int64 {
	if len(f.recent) == 0 {
		return f.at
	}
	return f.recent[0][0].Position.Offset - 1
}

// between returns the tenant's events after one offset and up to another one that was told already.
func (f *follower) between(ctx context.Context, t event.TenantID, after, to int64) (events []eventstore.Recorded, err error) {
	if after >= to {
		return nil, nil
	}
	if older, err := f.before(ctx, t, after); err != nil {
		return nil, err
	} else if len(older) > 0 {
		events = older
		after = older[len(older)-1].Position.Offset
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, page := range f.recent {
		if page[len(page)-1].Position.Offset <= after {
			continue
		}
		for i := range page {
			if o := page[i].Position.Offset; o > after && o <= to && page[i].Tenant == string(t) {
				events = append(events, page[i])
			}
		}
	}
	return events, nil
}

// before reads what stands after an offset and is not remembered. It is remembered from then on if there is room: many
// accounts are loaded at the same time, from the same read models.
func (f *follower) before(ctx context.Context, t event.TenantID, after int64) (events []eventstore.Recorded, err error) {
	f.back.Lock()
	defer f.back.Unlock()
	f.mu.Lock()
	since, room := f.since(), recentEvents-f.recentCount
	f.mu.Unlock()
	var pages [][]eventstore.Recorded
	size := 0
	for from := after; from < since; {
		page, err := f.limits.Store.ReadLog(ctx, f.position(from), int(min(since-from, followPage)))
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return nil, fmt.Errorf("%w: nothing after %s", eventstore.ErrHole, f.position(from))
		}
		if from = page[len(page)-1].Position.Offset; since-after <= int64(room) {
			pages = append(pages, page)
			size += sizeOf(page)
		}
		for i := range page {
			if page[i].Tenant == string(t) {
				events = append(events, page[i])
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(pages) > 0 && f.since() == since && f.recentSize+size <= recentBytes {
		f.recent = append(pages, f.recent...)
		f.recentCount += int(since - after)
		f.recentSize += size
	}
	return events, nil
}

// decode reads an event as accounts want to have it.
func (l *Limits) decode(ctx context.Context, r eventstore.Recorded) (*limit.Event, error) {
	payload, err := event.Decode(r)
	if err != nil {
		return nil, err
	}
	e := &limit.Event{Position: r.Position, Revision: r.Revision, Payload: payload}
	switch p := payload.(type) {
	case event.UsageRecorded:
		e.Meters, err = l.meters(ctx, p.Catalog, p.Type)
	case event.UsageVoided:
		e.Meters, err = l.meters(ctx, p.Catalog, p.Type)
	case event.UsageAdjusted:
		e.Meters, err = l.meters(ctx, p.Catalog, p.Type)
	}
	return e, err
}

func (l *Limits) meters(ctx context.Context, revision eventstore.Revision, t event.Type) ([]catalog.Meter, error) {
	c, err := l.Catalogs.At(ctx, revision)
	if err != nil {
		return nil, fmt.Errorf("meters of %s: %w", t, err)
	}
	return c.MetersOf(string(t)), nil
}

// listen makes the actor be told everything after the offset that it returns.
func (f *follower) listen(ctx context.Context, a *actor) (from int64, err error) {
	f.mu.Lock()
	parked := f.parked
	f.mu.Unlock()
	var head eventstore.Position
	if parked {
		if head, err = f.limits.Store.Head(ctx, f.partition); err != nil {
			return 0, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.parked {
		if !parked { // it was parked in between; the caller tries again
			return 0, fmt.Errorf("%w: the log is not followed yet", eventstore.ErrUnavailable)
		}
		f.parked, f.at = false, head.Offset
		f.signal()
	}
	a.listen()
	return f.at, nil
}

// reach waits until everything up to the offset was told.
func (f *follower) reach(ctx context.Context, offset int64) error {
	for {
		f.mu.Lock()
		reached, moved := f.at >= offset, f.moved
		if !reached && f.want < offset {
			f.want = offset
			close(f.wanted)
			f.wanted = make(chan struct{})
		}
		f.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("%w: the log is not read up to %s: %w", eventstore.ErrUnavailable, f.position(offset), ctx.Err())
		}
	}
}

// sync waits until everything was told that is on the log now.
func (f *follower) sync(ctx context.Context) error {
	head, err := f.limits.Store.Head(ctx, f.partition)
	if err != nil {
		return err
	}
	return f.reach(ctx, head.Offset)
}

// here is how far the accounts were told.
func (f *follower) here() eventstore.Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.position(f.at)
}

func (f *follower) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.actors)
}

func (f *follower) find(t event.TenantID) *actor {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.actors[t]
}

// actor finds the tenant's actor, or makes it.
func (f *follower) actor(t event.TenantID) *actor {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.limits.Now()
	a := f.actors[t]
	if a == nil {
		if len(f.actors) >= f.most()*5/4 { // the housekeeper comes too late for a crowd
			f.letGo(now)
		}
		a = &actor{limits: f.limits, follower: f, tenant: t}
		f.actors[t] = a
	}
	a.asked = now
	return a
}

// evict lets go of accounts that nobody asked for, and of those that were asked for longest ago while there are too many.
// What is busy stays.
func (f *follower) evict(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.letGo(now)
}

// letGo is evict; f.mu is held.
func (f *follower) letGo(now time.Time) {
	oldest := slices.SortedFunc(maps.Values(f.actors), func(a, b *actor) int { return a.asked.Compare(b.asked) })
	for i, a := range oldest {
		if now.Sub(a.asked) <= f.limits.IdleAfter && len(oldest)-i <= f.most() {
			return
		}
		if a.idle() {
			delete(f.actors, a.tenant)
			f.limits.counts.Evictions.Add(1)
		}
	}
}

// most is this follower's part of the accounts that may be in memory.
func (f *follower) most() int { return f.limits.MaxAccounts/len(f.limits.followers) + 1 }

// overdue lists tenants whose accounts have holds that ended.
func (f *follower) overdue(now time.Time) (tenants []event.TenantID) {
	f.mu.Lock()
	actors := make([]*actor, 0, len(f.actors))
	for _, a := range f.actors {
		actors = append(actors, a)
	}
	f.mu.Unlock()
	for _, a := range actors {
		if a.overdue(now) {
			tenants = append(tenants, a.tenant)
		}
	}
	return tenants
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
