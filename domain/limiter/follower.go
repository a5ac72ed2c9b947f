package limiter

import (
	"context"
	"errors"
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
	// recentBytes bounds what a follower remembers of the log, like Config.RecentEvents.
	recentBytes = 32 << 20
)

// follower reads one partition of the log, in order, and delivers its events to the accounts in memory. It
// reads at once when a check needs everything that is on the log now, and otherwise when the log has grown and a moment has
// passed. It reads nothing while there are no accounts.
type follower struct {
	limits    *Engine
	partition int

	mu     sync.Mutex
	actors map[event.TenantID]*actor
	at     int64 // everything up to this offset was delivered
	parked bool  // there are no accounts: at is old

	// Rounds of reading are counted: one that began after a check asked has seen all that was there when it did.
	asked, begun, done int64
	moved              chan struct{} // closed and replaced when done or parked changes
	wanted             chan struct{} // closed and replaced when asked changes

	recent      [][]eventstore.Recorded // what was read last, after recentFrom and up to at
	recentFrom  int64
	recentCount int
	recentSize  int
	back        chan struct{} // held while what comes before that is read
}

func newFollower(l *Engine, partition int) *follower {
	return &follower{limits: l, partition: partition, actors: map[event.TenantID]*actor{}, parked: true,
		moved: make(chan struct{}), wanted: make(chan struct{}), back: make(chan struct{}, 1)}
}

func (f *follower) position(offset int64) eventstore.Position {
	return eventstore.Position{Partition: f.partition, Offset: offset}
}

// signal wakes those that wait; f.mu is held.
func (f *follower) signal() {
	close(f.moved)
	f.moved = make(chan struct{})
}

func (f *follower) run() {
	ctx := f.limits.running
	for ctx.Err() == nil {
		f.mu.Lock()
		parked, at, urgent, moved, wanted := f.parked, f.at, f.asked > f.begun, f.moved, f.wanted
		f.mu.Unlock()
		switch {
		case parked:
			select {
			case <-moved:
			case <-ctx.Done():
			}
			continue
		case !urgent:
			f.idle(ctx, at, wanted)
		}
		if err := f.round(ctx); err != nil {
			eventstore.Pause(ctx, followPause)
		}
	}
}

// idle waits until the log has grown and a moment more, or until a check asks.
func (f *follower) idle(ctx context.Context, at int64, wanted <-chan struct{}) {
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	grown := make(chan struct{})
	go func() {
		defer close(grown)
		if f.limits.config.Store.Wait(waiting, f.position(at)) == nil {
			eventstore.Pause(waiting, followGather)
		}
	}()
	select {
	case <-wanted:
	case <-grown:
	}
	stop()
	<-grown
}

// round reads and delivers everything that is on the log when it begins.
func (f *follower) round(ctx context.Context) error {
	f.mu.Lock()
	f.begun++
	n := f.begun
	f.mu.Unlock()
	for more := true; more; {
		var err error
		if more, err = f.advance(ctx); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = n
	if len(f.actors) == 0 {
		f.parked = true
		f.recent, f.recentCount, f.recentSize = nil, 0, 0
	}
	f.signal()
	return nil
}

// advance reads the next page and delivers it; more is false at the end of the log.
func (f *follower) advance(ctx context.Context) (more bool, err error) {
	f.mu.Lock()
	at := f.at
	f.mu.Unlock()
	page, err := f.limits.config.Store.ReadLog(ctx, f.position(at), followPage)
	if err != nil || len(page) == 0 {
		return false, err
	}
	// Events are decoded, and catalogs looked up, without the lock. An account gets all of a page or nothing.
	decoded := make([]*limit.Entry, len(page))
	for complete := false; !complete; {
		for i := range page {
			a := f.find(event.TenantID(page[i].Tenant))
			if a == nil || decoded[i] != nil || a.decided(&page[i]) {
				continue
			}
			if decoded[i], err = f.limits.decode(ctx, page[i]); errors.Is(err, event.ErrMalformed) {
				a.breaks() // loading it again meets the same event, and fails the checks of this tenant
				decoded[i] = &limit.Entry{Position: page[i].Position}
			} else if err != nil {
				return false, err
			}
		}
		f.mu.Lock()
		complete = true
		for i := range page { // actors may have come while the page was decoded
			a := f.actors[event.TenantID(page[i].Tenant)]
			complete = complete && (a == nil || decoded[i] != nil || a.decided(&page[i]))
		}
		if !complete {
			f.mu.Unlock()
		}
	}
	defer f.mu.Unlock()
	for i := range page {
		if a := f.actors[event.TenantID(page[i].Tenant)]; a != nil && decoded[i] != nil {
			a.deliver(*decoded[i])
		}
	}
	f.remember(page)
	f.at = page[len(page)-1].Position.Offset
	return len(page) == followPage, nil
}

// remember keeps a page that follows at, and forgets the oldest ones when there are too many; f.mu is held.
func (f *follower) remember(page []eventstore.Recorded) {
	if len(f.recent) == 0 {
		f.recentFrom = f.at
	}
	f.recentCount += len(page)
	f.recentSize += sizeOf(page)
	if last := len(f.recent) - 1; last >= 0 && len(f.recent[last])+len(page) <= followPage {
		f.recent[last] = append(f.recent[last], page...)
	} else {
		f.recent = append(f.recent, slices.Clip(page))
	}
	for len(f.recent) > 1 && (f.recentCount > f.limits.config.RecentEvents || f.recentSize > recentBytes) {
		f.recentCount -= len(f.recent[0])
		f.recentSize -= sizeOf(f.recent[0])
		f.recentFrom = f.recent[0][len(f.recent[0])-1].Position.Offset
		f.recent[0] = nil
		f.recent = f.recent[1:]
	}
}

// sizeOf is about what a page keeps in memory.
func sizeOf(page []eventstore.Recorded) (n int) {
	const each = 200 // what is not data
	for i := range page {
		n += len(page[i].Data) + each
	}
	return n
}

// since is the offset after which everything is remembered; f.mu is held.
func (f *follower) since() int64 {
	if len(f.recent) == 0 {
		return f.at
	}
	return f.recentFrom
}

// between returns the tenant's events after one offset and up to another one that was delivered already.
func (f *follower) between(ctx context.Context, t event.TenantID, after, to int64) (events []eventstore.Recorded, err error) {
	for after < to {
		f.mu.Lock()
		since := f.since()
		if after >= since {
			for _, page := range f.recent {
				for i := range page {
					if o := page[i].Position.Offset; o > after && o <= to && page[i].Tenant == string(t) {
						events = append(events, page[i])
					}
				}
			}
			f.mu.Unlock()
			return events, nil
		}
		f.mu.Unlock()
		// What is remembered may move on meanwhile.
		older, to, err := f.before(ctx, t, after, since)
		if err != nil {
			return nil, err
		}
		events, after = append(events, older...), to
	}
	return events, nil
}

// before reads what comes after an offset and is not remembered, up to since, unless that has moved meanwhile; it returns how
// far it came. What it reads is remembered if there is room: many accounts are loaded at the same time, from the same read
// models.
func (f *follower) before(ctx context.Context, t event.TenantID, after, since int64) (events []eventstore.Recorded, to int64, err error) {
	select {
	case f.back <- struct{}{}:
		defer func() { <-f.back }()
	case <-ctx.Done():
		return nil, after, fmt.Errorf("%w: %w", eventstore.ErrUnavailable, ctx.Err())
	}
	f.mu.Lock()
	moved, room := f.since() != since, f.limits.config.RecentEvents-f.recentCount
	f.mu.Unlock()
	if moved {
		return nil, after, nil
	}
	var pages [][]eventstore.Recorded
	count, size := 0, 0
	for from := after; from < since; {
		page, err := f.limits.config.Store.ReadLog(ctx, f.position(from), int(min(since-from, followPage)))
		if err != nil {
			return nil, after, err
		}
		if len(page) == 0 {
			return nil, after, fmt.Errorf("%w: nothing after %s", eventstore.ErrHole, f.position(from))
		}
		from = page[len(page)-1].Position.Offset
		// Where offsets do not count, the last page may go on.
		page = slices.DeleteFunc(page, func(r eventstore.Recorded) bool { return r.Position.Offset > since })
		if count += len(page); count <= room {
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
	if count > 0 && count <= room && f.since() == since && f.recentSize+size <= recentBytes {
		f.recent = append(pages, f.recent...)
		f.recentFrom = after
		f.recentCount += count
		f.recentSize += size
	}
	return events, since, nil
}

// decode reads an event as accounts want to have it.
func (l *Engine) decode(ctx context.Context, r eventstore.Recorded) (*limit.Entry, error) {
	payload, err := event.Decode(r)
	if err != nil {
		return nil, err
	}
	e := &limit.Entry{Position: r.Position, Revision: r.Revision, Payload: payload}
	if revision, t, ok := event.CountedBy(payload); ok {
		e.Meters, err = l.meters(ctx, revision, t)
	}
	return e, err
}

func (l *Engine) meters(ctx context.Context, revision eventstore.Revision, t event.Type) ([]catalog.Meter, error) {
	c, err := l.config.Catalogs.At(ctx, revision)
	if err != nil {
		return nil, fmt.Errorf("meters of %s: %w", t, err)
	}
	return c.MetersOf(string(t)), nil
}

// listen has everything after the offset that it returns delivered to the actor.
func (f *follower) listen(ctx context.Context, a *actor) (from int64, err error) {
	f.mu.Lock()
	parked := f.parked
	f.mu.Unlock()
	var head eventstore.Position
	if parked {
		if head, err = f.limits.config.Store.Head(ctx, f.partition); err != nil {
			return 0, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.parked {
		if !parked {
			panic("limiter: a follower has parked although an actor is at work")
		}
		f.parked, f.at = false, head.Offset
		f.signal()
	}
	a.listen()
	return f.at, nil
}

// sync waits until everything is delivered that is on the log now, from all replicas. Checks that ask while a round is under
// way share the next one.
func (f *follower) sync(ctx context.Context) error {
	f.mu.Lock()
	round := f.begun + 1
	if f.asked < round {
		f.asked = round
		close(f.wanted)
		f.wanted = make(chan struct{})
	}
	f.mu.Unlock()
	for {
		f.mu.Lock()
		done, moved := f.done >= round, f.moved
		f.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("%w: the log is not read to its end: %w", eventstore.ErrUnavailable, ctx.Err())
		}
	}
}

// here is the position up to which everything was delivered.
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
	now := f.limits.config.Now()
	a := f.actors[t]
	if a == nil {
		if len(f.actors) >= f.most()*5/4 { // maintain comes too late for a crowd
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
		if now.Sub(a.asked) <= f.limits.config.IdleAfter && len(oldest)-i <= f.most() {
			return
		}
		if a.idle() {
			delete(f.actors, a.tenant)
			f.limits.counts.Evictions.Add(1)
		}
	}
}

// most is this follower's part of the accounts that may be in memory.
func (f *follower) most() int { return f.limits.config.MaxAccounts/len(f.limits.followers) + 1 }

// overdue lists tenants whose accounts have holds that ended, at most so many.
func (f *follower) overdue(now time.Time, most int) (tenants []event.TenantID) {
	f.mu.Lock()
	actors := slices.Collect(maps.Values(f.actors))
	f.mu.Unlock()
	for _, a := range actors {
		if len(tenants) < most && a.overdue(now) {
			tenants = append(tenants, a.tenant)
		}
	}
	return tenants
}
