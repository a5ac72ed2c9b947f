package eventstoredb

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const (
	// So many events are read back at once from the end of the log, to find the last one of ours.
	firstScan, laterScan = 1, 1000
	// catchUp is how long a read waits for the tail to have what the log has, before it reads for itself.
	catchUp = time.Second
	// nearby is how many events are read at once where positions are asked for: they are often close to each other.
	nearby = 16
)

// headMemory remembers how far the end of the log was searched: up to seen, the last event of ours is at head. What others
// write to the same server is looked at once.
type headMemory struct {
	mu         sync.Mutex
	seen, head int64
}

func (m *headMemory) get() (seen, head int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen, m.head
}

func (m *headMemory) learn(seen, head int64) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen, m.head = max(m.seen, seen), max(m.head, head)
	return m.head
}

// head is the offset of the last event of ours; 0 when there is none.
func (l *Log) head(ctx context.Context) (int64, error) {
	known, head := l.heads.get()
	end := int64(0) // of the whole log, with what others wrote
	from := esdb.AllPosition(esdb.End{})
	for count := firstScan; ; count = laterScan {
		events, err := retry(ctx, l, "read the end of the log", func(ctx context.Context, db *esdb.Client) ([]*esdb.RecordedEvent, error) {
			stream, err := db.ReadAll(ctx, esdb.ReadAllOptions{Direction: esdb.Backwards, From: from}, uint64(count)) //nolint:gosec // positive
			if err != nil {
				return nil, err
			}
			return receive(stream, count)
		})
		if err != nil {
			return 0, err
		}
		for _, e := range events {
			at := int64(min(e.Position.Commit, math.MaxInt64)) //nolint:gosec // bounded
			end = max(end, at)
			if at <= known {
				return l.heads.learn(end, head), nil
			}
			if strings.HasPrefix(e.StreamID, l.prefix) {
				return l.heads.learn(end, at), nil
			}
		}
		if len(events) < count {
			return l.heads.learn(end, head), nil
		}
		from = events[len(events)-1].Position
	}
}

// Head implements eventstore.LogReader.
func (l *Log) Head(ctx context.Context, partition int) (eventstore.Position, error) {
	if err := checkPosition(eventstore.Position{Partition: partition}); err != nil {
		return eventstore.Position{}, err
	}
	head, err := l.head(ctx)
	return eventstore.Position{Offset: head}, err
}

// ReadLog implements eventstore.LogReader. It asks the server where the log ends, so that nothing is missing that was
// acknowledged before, and takes the events from the tail; who is far behind reads with a subscription of its own, from where
// it is and no further than it needs.
func (l *Log) ReadLog(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Recorded, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("read log after %s: %w", after, err)
	}
	if err := checkPosition(after); err != nil {
		return nil, err
	}
	if v := l.tail.page(after.Offset, limit); len(v.events) == limit {
		return v.events, nil
	}
	head, err := l.head(ctx)
	if err != nil || head <= after.Offset {
		return nil, err
	}
	if events, ok := l.fromTail(ctx, after.Offset, head, limit); ok {
		return events, nil
	}
	return l.fetch(ctx, after.Offset, head, limit, func(*esdb.RecordedEvent) {})
}

// fromTail waits until the tail has everything up to head; ok is false when it does not keep what is asked for, or does not
// get there soon.
func (l *Log) fromTail(ctx context.Context, after, head int64, limit int) (events []eventstore.Recorded, ok bool) {
	soon, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	for {
		v := l.tail.page(after, limit)
		switch {
		case !v.kept:
			return nil, false
		case len(v.events) == limit:
			return v.events, true
		case v.head >= head:
			// The tail may be further than the caller knows; what it has may be returned.
			return v.events, true
		case v.trouble != nil:
			return nil, false
		}
		select {
		case <-v.changed:
		case <-soon.Done():
			return nil, false
		}
	}
}

// fetch reads up to limit events after an offset, up to and including head, which is there, and shows each as the server has it.
// A dropped subscription starts again after the last event it has.
func (l *Log) fetch(ctx context.Context, after, head int64, limit int, seen func(*esdb.RecordedEvent)) ([]eventstore.Recorded, error) {
	events := make([]eventstore.Recorded, 0, min(limit, 1024))
	deadline := time.Now().Add(l.config.Retry)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		got, err := l.fetchSome(ctx, after, head, limit-len(events), seen)
		if events = append(events, got...); len(got) > 0 {
			after = got[len(got)-1].Position.Offset
			deadline = time.Now().Add(l.config.Retry)
		}
		switch {
		case err == nil:
			return events, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%w: read log after 0-%d: %w", eventstore.ErrUnavailable, after, ctx.Err())
		case isDamage(err):
			return nil, err
		case hopeless(err) || time.Now().Add(wait).After(deadline):
			return nil, fmt.Errorf("%w: read log after 0-%d: %w", eventstore.ErrUnavailable, after, err)
		}
		l.retries.Add(1)
		eventstore.Pause(ctx, wait)
	}
}

// fetchSome is one subscription of fetch. An error comes with what was read before it.
func (l *Log) fetchSome(ctx context.Context, after, head int64, limit int, seen func(*esdb.RecordedEvent)) ([]eventstore.Recorded, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s, err := l.subscribe(ctx, after)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	silence := time.AfterFunc(l.config.Attempt, func() { cancel(errSilent) })
	defer silence.Stop()
	var events []eventstore.Recorded
	for {
		e := s.Recv()
		silence.Reset(l.config.Attempt)
		switch {
		case e.SubscriptionDropped != nil:
			if cause := context.Cause(ctx); cause != nil {
				return events, cause
			}
			return events, e.SubscriptionDropped.Error
		case e.EventAppeared != nil && e.EventAppeared.Event != nil:
			r, _, err := l.decode(e.EventAppeared.Event)
			if err != nil {
				return events, err
			}
			if r.Position.Offset <= after {
				continue
			}
			if r.Position.Offset > head {
				return events, fmt.Errorf("%w: %s follows 0-%d, but the log was at 0-%d", eventstore.ErrHole, r.Position, after, head)
			}
			after = r.Position.Offset
			seen(e.EventAppeared.Event)
			if events = append(events, r); len(events) == limit || after >= head {
				return events, nil
			}
		}
	}
}

// ReadAt implements eventstore.LogReader.
func (l *Log) ReadAt(ctx context.Context, at []eventstore.Position) ([]eventstore.Recorded, error) {
	if len(at) > eventstore.MaxReadLimit {
		return nil, fmt.Errorf("%w: %d positions in one read", eventstore.ErrTooLarge, len(at))
	}
	found := make(map[int64]eventstore.Recorded, len(at))
	var missing []int64
	highest := int64(0)
	for _, p := range at {
		if p.Partition != 0 || p.Offset < 1 {
			return nil, fmt.Errorf("%w: nothing at %s", eventstore.ErrHole, p)
		}
		if _, twice := found[p.Offset]; twice {
			continue
		}
		if r, ok := l.tail.event(p.Offset); ok {
			found[p.Offset] = r
			continue
		}
		missing = append(missing, p.Offset)
		highest = max(highest, p.Offset)
	}
	if head := l.tail.at(); highest > head { // the server is not asked for what cannot be there
		head, err := l.head(ctx)
		if err != nil {
			return nil, err
		}
		if highest > head {
			return nil, fmt.Errorf("%w: nothing at 0-%d", eventstore.ErrHole, highest)
		}
	}
	if err := l.readMissing(ctx, missing, found); err != nil {
		return nil, err
	}
	events := make([]eventstore.Recorded, len(at))
	for i, p := range at {
		r, ok := found[p.Offset]
		if !ok {
			return nil, fmt.Errorf("%w: nothing at %s", eventstore.ErrHole, p)
		}
		events[i] = r
	}
	return events, nil
}

func (t *tail) event(offset int64) (eventstore.Recorded, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, ok := slices.BinarySearchFunc(t.events, offset, compareOffset)
	if !ok {
		return eventstore.Recorded{}, false
	}
	return t.events[i], true
}

// readMissing reads the events at offsets, several runs of them at the same time.
func (l *Log) readMissing(ctx context.Context, offsets []int64, found map[int64]eventstore.Recorded) error {
	if len(offsets) == 0 {
		return nil
	}
	slices.Sort(offsets)
	offsets = slices.Compact(offsets)
	var (
		mu    sync.Mutex
		first error
		group sync.WaitGroup
	)
	for run := range slices.Chunk(offsets, (len(offsets)+lookups-1)/lookups) {
		group.Go(func() {
			for len(run) > 0 {
				events, err := l.readAll(ctx, run[0], min(nearby, len(run)))
				mu.Lock()
				if err != nil && first == nil {
					first = err
				}
				stop := first != nil
				next := 1
				for _, r := range events {
					if i, wanted := slices.BinarySearch(run, r.Position.Offset); wanted {
						found[r.Position.Offset], next = r, max(next, i+1)
					}
				}
				mu.Unlock()
				if stop {
					return
				}
				run = run[next:]
			}
		})
	}
	group.Wait()
	return first
}

// readAll reads count events of the server's log from an offset on, and returns those of ours.
func (l *Log) readAll(ctx context.Context, from int64, count int) (events []eventstore.Recorded, err error) {
	read, err := retry(ctx, l, fmt.Sprintf("read at 0-%d", from), func(ctx context.Context, db *esdb.Client) ([]*esdb.RecordedEvent, error) {
		at := esdb.Position{Commit: uint64(from), Prepare: uint64(from)}             //nolint:gosec // positive
		stream, err := db.ReadAll(ctx, esdb.ReadAllOptions{From: at}, uint64(count)) //nolint:gosec // positive
		if err != nil {
			return nil, err
		}
		return receive(stream, count)
	})
	if err != nil {
		return nil, err
	}
	for _, e := range read {
		if !strings.HasPrefix(e.StreamID, l.prefix) {
			continue
		}
		r, _, err := l.decode(e)
		if err != nil {
			return nil, err
		}
		events = append(events, r)
	}
	return events, nil
}
