// Package watermill runs the projections with Watermill: a Subscriber that turns ranges of the log into messages, and a
// Runner that handles them on a Router. It owns the loop, its pace and its health; what a range changes, and how it
// takes effect exactly once, is the business of the target.
package watermill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/projections"
)

// The pace of a subscription.
const (
	firstPage = 256
	maxEvents = 5000
	// largePage is from how many bytes of events the next pages get smaller: what is in memory must not depend on how
	// much data events carry.
	largePage = 8 << 20
	// slowRange is how long a range may take to handle before the next ones get smaller: a transaction holds locks.
	slowRange = 200 * time.Millisecond

	// gatherFor is how long events gather at the head before the next range is applied.
	gatherFor = 20 * time.Millisecond
	// minPause and maxPause bound the wait after a failure, outages included.
	minPause = 50 * time.Millisecond
	maxPause = 5 * time.Second
	// maxStalePause bounds the wait after another replica was faster: it is how long a read model does not move when the
	// replica that leads dies.
	maxStalePause = time.Second
	// stoppedPause is between tries of an event that cannot be read: somebody has to install a version that can.
	stoppedPause = 30 * time.Second
)

// Topic names the events of one partition for one read model.
func Topic(readModel string, partition int) string { return readModel + "/" + strconv.Itoa(partition) }

func parseTopic(topic string, target projections.Target, log eventstore.LogReader) (readModel string, partition int, err error) {
	readModel, number, ok := strings.Cut(topic, "/")
	partition, err = strconv.Atoi(number)
	if !ok || err != nil || !slices.Contains(target.ReadModels(), readModel) || partition < 0 || partition >= log.Partitions() {
		return "", 0, fmt.Errorf("no topic %q: topics are <read model>/<partition>", topic)
	}
	return readModel, partition, nil
}

// Subscriber implements message.Subscriber over the log. One message is one contiguous range of one partition: its
// payload is the JSON of a projections.Range, its decoded events ride in its context. The next message is sent after the
// one before was acknowledged; after a Nack everything starts again from the durable checkpoint. Catching up and
// following live are one loop on one cursor.
type Subscriber struct {
	target projections.Target
	log    eventstore.LogReader
	pages  *pages
	logger *slog.Logger
	pause  func(ctx context.Context, d time.Duration) bool

	closing chan struct{}
	close   sync.Once
	mu      sync.Mutex
	closed  bool
	loops   sync.WaitGroup
	status  map[string]*status // by topic
}

var _ message.Subscriber = (*Subscriber)(nil)

// NewSubscriber makes a subscriber. Close it to stop its loops.
func NewSubscriber(target projections.Target, log eventstore.LogReader, logger *slog.Logger) *Subscriber {
	return &Subscriber{
		target: target, log: log, pages: newPages(log), logger: logger, pause: eventstore.Pause,
		closing: make(chan struct{}), status: map[string]*status{},
	}
}

// Subscribe implements message.Subscriber. The channel is closed when the context ends or the subscriber is closed. An
// outage of the store or the target does not end the subscription.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	readModel, partition, err := parseTopic(topic, s.target, s.log)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("the subscriber is closed")
	}
	st := s.status[topic]
	if st == nil {
		st = newStatus(readModel, partition)
		s.status[topic] = st
	}
	ctx, cancel := context.WithCancel(ctx)
	out := make(chan *message.Message)
	l := &loop{Subscriber: s, readModel: readModel, partition: partition, out: out, status: st,
		logger: s.logger.With("readModel", readModel, "partition", partition)}
	s.loops.Go(func() {
		defer cancel()
		defer close(out)
		l.run(ctx)
	})
	s.loops.Go(func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	return out, nil
}

// Close implements message.Subscriber: it stops all subscriptions and waits for the messages in flight.
func (s *Subscriber) Close() error {
	s.close.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		close(s.closing)
	})
	s.loops.Wait()
	return nil
}

// delivery rides in a message's context.
type delivery struct {
	events []event.Decoded

	mu  sync.Mutex
	err error // why the message was not acknowledged
}

func (d *delivery) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *delivery) failure() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

type deliveryKey struct{}

func deliveryOf(m *message.Message) *delivery {
	d, _ := m.Context().Value(deliveryKey{}).(*delivery)
	return d
}

// errNacked: a message was refused by something that does not say why.
var errNacked = errors.New("the message was not acknowledged")

// loop is one subscription.
type loop struct {
	*Subscriber
	readModel string
	partition int
	out       chan<- *message.Message
	status    *status
	logger    *slog.Logger

	page     int
	failures int // in a row, without progress
}

// run lasts until the context ends.
func (l *loop) run(ctx context.Context) {
	l.page = firstPage
	for ctx.Err() == nil {
		err := l.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		l.failures++
		wait := l.backOff(err)
		if l.status.failed(err) {
			l.logger.Log(ctx, level(err), "projection does not advance", "state", l.status.get().State, "error", err)
		}
		l.pauseFor(ctx, wait)
	}
	l.status.set(Stopped)
}

func (l *loop) pauseFor(ctx context.Context, d time.Duration) {
	if d > 0 {
		l.pause(ctx, d)
	}
}

func level(err error) slog.Level {
	if errors.Is(err, projections.ErrStale) {
		return slog.LevelDebug
	}
	return slog.LevelError
}

// backOff says how long to wait after a failure, with jitter so that replicas do not move in step. It makes the next
// ranges smaller: of a range with one bad event, what comes before the event is applied all the same.
func (l *loop) backOff(err error) time.Duration {
	longest := maxPause
	switch {
	case errors.Is(err, projections.ErrStale):
		longest = maxStalePause
	case isPermanent(err):
		longest = stoppedPause
		if l.page > 1 {
			l.page /= 2
			l.failures = 0
			return 0
		}
	default:
		l.page = max(l.page/4, 1)
	}
	wait := min(minPause<<min(l.failures-1, 16), longest)
	return wait/2 + rand.N(wait/2+1) //nolint:gosec // jitter
}

// isPermanent: trying again will not help until somebody does something.
func isPermanent(err error) bool {
	return errors.Is(err, event.ErrMalformed) || errors.Is(err, eventstore.ErrHole)
}

// fetched is a page, or why there is none.
type fetched struct {
	events []event.Decoded
	err    error
}

// follow starts from the durable checkpoint and continues until something fails.
func (l *loop) follow(ctx context.Context) error {
	generation, offset, err := l.target.Checkpoint(ctx, l.readModel, l.partition)
	if err != nil {
		return err
	}
	l.status.at(generation, offset)
	next := l.read(ctx, offset)
	for {
		if len(next.events) == 0 {
			if next.err != nil {
				return next.err
			}
			l.status.set(Waiting)
			if err := l.log.Wait(ctx, eventstore.Position{Partition: l.partition, Offset: offset}); err != nil {
				return fmt.Errorf("wait for events after %d-%d: %w", l.partition, offset, err)
			}
			next = l.read(ctx, offset)
			continue
		}
		events := next.events
		to := events[len(events)-1].Position.Offset
		// A full page means that there is more: it is read while this one is handled. When the loop fails meanwhile,
		// the reader is waited for all the same.
		ahead := make(chan fetched, 1)
		reading := next.err == nil && len(events) >= l.page
		if reading {
			go func() { ahead <- l.read(ctx, to) }()
		} else {
			ahead <- fetched{err: next.err}
		}
		started := time.Now()
		err := l.deliver(ctx, projections.Range{ReadModel: l.readModel, Generation: generation, Partition: l.partition, After: offset, To: to, Sparse: !l.log.DenseOffsets()}, events)
		took := time.Since(started)
		next = <-ahead
		if err != nil {
			return err
		}
		offset = to
		l.failures = 0
		l.status.at(generation, offset)
		if next.err == nil {
			l.status.set(Running)
		}
		l.adapt(events, took)
		if !reading && next.err == nil {
			// At the head a range would carry a handful of events and cost as much as one of a thousand. An event after a
			// pause is applied at once; those that follow it gather for a moment.
			if !eventstore.Pause(ctx, gatherFor) {
				return ctx.Err()
			}
			next = l.read(ctx, offset)
		}
	}
}

// adapt finds the page that takes about as long as a transaction may.
func (l *loop) adapt(events []event.Decoded, took time.Duration) {
	size := sizeOf(events)
	switch {
	case took > slowRange || size > largePage:
		l.page = max(l.page/2, 1)
	case len(events) >= l.page && size < largePage/2:
		l.page = min(l.page*2, maxEvents)
	}
}

func (l *loop) read(ctx context.Context, after int64) fetched {
	at := eventstore.Position{Partition: l.partition, Offset: after}
	events, err := l.pages.read(ctx, at, l.page)
	if err != nil {
		err = fmt.Errorf("read events after %s: %w", at, err)
	}
	return fetched{events, err}
}

// deliver sends one range and waits for its fate. A message that was sent is waited for even when the subscription ends:
// its handler is given its own time to finish.
func (l *loop) deliver(ctx context.Context, r projections.Range, events []event.Decoded) error {
	payload, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode range: %w", err)
	}
	d := &delivery{events: events}
	id := fmt.Sprintf("%s@%d:%d-%d..%d", r.ReadModel, r.Generation, r.Partition, r.After, r.To)
	m := message.NewMessageWithContext(context.WithValue(context.WithoutCancel(ctx), deliveryKey{}, d), id, payload)
	select {
	case l.out <- m:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-m.Acked():
		return nil
	case <-m.Nacked():
		if err := d.failure(); err != nil {
			return err
		}
		return errNacked
	}
}
