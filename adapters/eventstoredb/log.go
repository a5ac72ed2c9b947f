// Package eventstoredb keeps the log in an EventStoreDB: a stream per stream, in one partition. It owns the client and its
// hazards, which nobody else has to know; it does not know what events mean.
//
// What it cannot promise, because the server cannot: offsets are positions in the server's log and rise by the size of what
// stands between, so that a hole cannot be seen by counting; recorded_at is the server's clock, which may step back, and
// does when a node with another clock begins to lead; and a stream that must be absent is looked for before the append.
// Streams of the log must never be deleted or truncated: a deleted stream would take its first event once more.
package eventstoredb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Config is how a log is opened. What is zero, other than the URL, has its default.
type Config struct {
	// URL is esdb://host, esdb://a,b,c for a cluster or esdb+discover://name; see ParseURL.
	URL string
	// Concurrency bounds the appends of this process that are under way: 64 by default.
	Concurrency int
	// QueueLimit bounds the appends that have not been answered, where each stream of a batch is one; more is refused as overloaded:
	// 50,000 by default.
	QueueLimit int
	// Attempt bounds one try of a call, and Retry all tries together, before the caller gets ErrUnavailable, as the outcome is unknown: 5 s and
	// 15 s by default.
	Attempt, Retry time.Duration
	// KeepEvents is how many of the latest events are kept in memory, for all readers of this process: 20,000 by default.
	KeepEvents int
}

const (
	defaultConcurrency = 64
	defaultQueueLimit  = 50_000
	defaultAttempt     = 5 * time.Second
	defaultRetry       = 15 * time.Second
	defaultKeepEvents  = 20_000

	// maxAppendSize is what a server takes in one append up to version 25.0.
	maxAppendSize = 1 << 20
	// lookups bounds the streams that one append looks for at the same time.
	lookups = 16
)

// Log is the event store on EventStoreDB. It is safe for concurrent use.
type Log struct {
	config  Config
	prefix  string
	conn    *connection
	turns   chan struct{} // holds a token for each append under way
	waiting atomic.Int64  // appends that have not been answered
	tail    *tail
	heads   headMemory

	stop    context.CancelFunc
	running sync.WaitGroup

	retries atomic.Int64
}

var _ eventstore.Store = (*Log)(nil)

// Open opens the log. It returns once the end of the log is known. Errors: ErrURL; ErrUnavailable.
func Open(ctx context.Context, c Config) (*Log, error) {
	config, prefix, err := ParseURL(c.URL)
	if err != nil {
		return nil, err
	}
	config.Logger = esdb.NoopLogging() // what it has to say comes back as errors
	c.Concurrency = cmp.Or(c.Concurrency, defaultConcurrency)
	c.QueueLimit = cmp.Or(c.QueueLimit, defaultQueueLimit)
	c.Attempt = cmp.Or(c.Attempt, defaultAttempt)
	c.Retry = cmp.Or(c.Retry, defaultRetry)
	c.KeepEvents = cmp.Or(c.KeepEvents, defaultKeepEvents)
	l := &Log{config: c, prefix: prefix, conn: newConnection(config), turns: make(chan struct{}, c.Concurrency)}
	head, err := l.head(ctx)
	if err != nil {
		l.conn.close()
		return nil, fmt.Errorf("open the log: %w", err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	l.tail = newTail(l, head)
	l.running.Go(func() { l.tail.run(running) })
	return l, nil
}

// Close ends the reader and lets no more calls begin. Calls that are under way end as their contexts say.
func (l *Log) Close() {
	l.stop()
	l.running.Wait()
	l.conn.close()
}

// Partitions implements eventstore.LogReader: the server's log is one.
func (l *Log) Partitions() int { return 1 }

// DenseOffsets implements eventstore.LogReader: offsets are bytes.
func (l *Log) DenseOffsets() bool { return false }

// State is nil while the server answers, and otherwise says what the last call met.
func (l *Log) State() error {
	if err := l.conn.state(); err != nil {
		return explain(err)
	}
	return l.tail.state()
}

// explain says what an operator can do about it.
func explain(err error) error {
	switch codeOf(err) {
	case esdb.ErrorCodeUnauthenticated:
		return fmt.Errorf("the server does not accept the credentials: %w", err)
	case esdb.ErrorCodeAccessDenied:
		return fmt.Errorf("the user may not read or write the log's streams: %w", err)
	case esdb.ErrorCodeNotLeader:
		return fmt.Errorf("the node that answers does not lead: %w", err)
	default:
		return err
	}
}

// retry calls f until it succeeds or the server has given an answer that will stay the same. Whatever else happens, f is
// tried again until the context ends or Retry has passed; then the error is ErrUnavailable.
func retry[T any](ctx context.Context, l *Log, tried string, f func(context.Context, *esdb.Client) (T, error)) (T, error) {
	deadline := time.Now().Add(l.config.Retry)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		attempt, cancel := context.WithTimeoutCause(ctx, l.config.Attempt, errSilent)
		result, err := call(attempt, l.conn, f)
		cancel()
		switch {
		case definite(err):
			return result, err
		case isDamage(err) || errors.Is(err, eventstore.ErrTooLarge):
			return result, err
		case ctx.Err() != nil:
			return result, fmt.Errorf("%w: %s: %w", eventstore.ErrUnavailable, tried, ctx.Err())
		case hopeless(err) || time.Now().Add(wait).After(deadline):
			return result, fmt.Errorf("%w: %s: %w", eventstore.ErrUnavailable, tried, explain(err))
		}
		l.retries.Add(1)
		if !eventstore.Pause(ctx, wait) {
			return result, fmt.Errorf("%w: %s: %w", eventstore.ErrUnavailable, tried, ctx.Err())
		}
	}
}

func isDamage(err error) bool { return errors.Is(err, eventstore.ErrHole) }

// receive reads an answer to its end.
func receive(stream *esdb.ReadStream, sizeHint int) ([]*esdb.RecordedEvent, error) {
	defer stream.Close()
	events := make([]*esdb.RecordedEvent, 0, sizeHint)
	for {
		e, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return events, nil
		case err != nil:
			return nil, err
		case e.Event != nil:
			events = append(events, e.Event)
		}
	}
}

// readStream returns up to count events of a stream, as the server has them; none for an unknown stream.
func (l *Log) readStream(ctx context.Context, name eventstore.StreamName, from uint64, count int) ([]*esdb.RecordedEvent, error) {
	events, err := retry(ctx, l, "read stream "+string(name), func(ctx context.Context, db *esdb.Client) ([]*esdb.RecordedEvent, error) {
		stream, err := db.ReadStream(ctx, l.prefix+string(name), esdb.ReadStreamOptions{From: esdb.Revision(from)}, uint64(count)) //nolint:gosec // positive
		if err != nil {
			return nil, err
		}
		return receive(stream, min(count, 64))
	})
	switch {
	case isMissing(err):
		return nil, nil
	case codeOf(err) == esdb.ErrorCodeStreamDeleted:
		return nil, fmt.Errorf("%w: stream %s was deleted", eventstore.ErrHole, name)
	default:
		return events, err
	}
}

// ReadStream implements eventstore.StreamReader.
func (l *Log) ReadStream(ctx context.Context, name eventstore.StreamName, from eventstore.Revision, limit int) ([]eventstore.Recorded, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("read stream %s: %w", name, err)
	}
	read, err := l.readStream(ctx, name, uint64(max(from, 0)), limit)
	if err != nil {
		return nil, err
	}
	events, _, err := l.decodeAll(read)
	return events, err
}

func checkLimit(limit int) error {
	switch {
	case limit < 1:
		return fmt.Errorf("%w: limit %d", eventstore.ErrInvalid, limit)
	case limit > eventstore.MaxReadLimit:
		return fmt.Errorf("%w: limit %d", eventstore.ErrTooLarge, limit)
	}
	return nil
}

func checkPosition(p eventstore.Position) error {
	if p.Partition != 0 || p.Offset < 0 {
		return fmt.Errorf("%w: no position %s in a log of one partition", eventstore.ErrInvalid, p)
	}
	return nil
}
