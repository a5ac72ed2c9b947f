// Package eventstore is the port to the log: streams with optimistic concurrency, and one ordered log per partition.
// It owns what every store must promise (the contract suite in eventstoretest says it in tests); it knows neither what
// the events mean nor how they are kept.
package eventstore

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Bounds of one call. A store refuses more with ErrTooLarge, before anything is written.
const (
	MaxAppends     = 10_000    // streams in one call
	MaxStreamBatch = 1_000     // events of one Append, and streams that it wants absent
	MaxEventBytes  = 512 << 10 // payload of one event
	MaxReadLimit   = 50_000    // events of one read, and of one import
	MaxNameLength  = 255       // bytes of a stream name

	MaxTenantLength = 1_000 // bytes
	MaxTypeLength   = 1_000 // bytes
)

var (
	// ErrUnavailable: the store could not be reached or did not answer in time. The outcome of an append is unknown;
	// sending the same append again is safe and tells.
	ErrUnavailable = errors.New("event store unavailable")
	// ErrOverloaded: the queue in front of the store is full. Nothing was written; try again later.
	ErrOverloaded = errors.New("event store overloaded")
	// ErrTooLarge: a bound of this package is exceeded. Nothing was written.
	ErrTooLarge = errors.New("too large for the event store")
	// ErrInvalid: the call itself makes no sense (an empty stream name, no events). Nothing was written.
	ErrInvalid = errors.New("invalid call of the event store")
	// ErrHole: a position below the head is missing. The log is damaged; a reader must stop, never skip.
	ErrHole = errors.New("hole in the log")
)

// StreamName names one stream, "<category>-<id>". A stream belongs to one tenant, whose id its name is derived from.
type StreamName string

// Revision counts the events of one stream: 0, 1, 2 ...
type Revision int64

// NoStream is the expected revision of a stream that must not exist yet.
const NoStream Revision = -1

// Position is a place in the log. Offsets of a partition rise from 1 on; offset 0 is before everything. Where DenseOffsets of
// the log says so they have no holes, and count.
type Position struct {
	Partition int
	Offset    int64
}

// String is the form that API users see and send back: opaque to them, "<partition>-<offset>".
func (p Position) String() string {
	return strconv.Itoa(p.Partition) + "-" + strconv.FormatInt(p.Offset, 10)
}

// ParsePosition reads what String wrote.
func ParsePosition(text string) (Position, error) {
	partition, offset, ok := strings.Cut(text, "-")
	p, err1 := strconv.ParseUint(partition, 10, 15)
	o, err2 := strconv.ParseInt(offset, 10, 64)
	at := Position{int(p), o} //nolint:gosec // 15 bits were parsed
	if !ok || err1 != nil || err2 != nil || o < 0 || at.String() != text {
		return Position{}, fmt.Errorf("not a position: %q", text)
	}
	return at, nil
}

// NewEvent is an event to append. ID is derived from the cause of the event, never random: the same ID at the same
// place is how a store recognises a repetition.
type NewEvent struct {
	ID   uuid.UUID
	Type string // low cardinality: stores may keep a dictionary of types
	Data []byte
}

// Append is what one stream is to receive: all events or none, directly after revision Expected.
type Append struct {
	Stream   StreamName
	Tenant   string // decides the partition; "" is the system's own
	Expected Revision
	Events   []NewEvent
	// Absent guards the append: streams of the same tenant that must not exist. Where one does, nothing is written and the
	// outcome is Present. A store keeps the guard exactly when it can read the Absent streams and write this one in one
	// transaction, as those in PostgreSQL and in memory do. A store that has no transaction over two streams may look
	// before it writes: there, a stream that appears during the call may be missed.
	Absent []StreamName
}

// isText: stores keep names as text, which has neither NUL nor malformed UTF-8.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// Outcome of one Append. The first that is true counts, of Duplicate, Conflict, Present and Appended, in this order: so an
// append that is sent again is recognised also when one of its Absent streams exists by now.
type Outcome uint8

const (
	// Unknown: see Result.Err.
	Unknown Outcome = iota
	// Appended: the events are durable and visible.
	Appended
	// Duplicate: exactly these events (by ID) already stand at this place; nothing was written.
	Duplicate
	// Conflict: the stream is not at the expected revision, because something else stands at this place or because it is
	// not that long yet; nothing was written.
	Conflict
	// Present: one of the Absent streams exists; nothing was written.
	Present
)

// Result answers one Append.
type Result struct {
	Outcome    Outcome
	Position   Position  // of the last event: the new one, or the original of a Duplicate
	RecordedAt time.Time // likewise
	Offsets    []int64   // of all events of the append, where the store's offsets are not dense; see PositionOf
	Present    []int     // with Present: the indexes into Absent of those that exist, ascending
	Err        error     // with Unknown: ErrUnavailable, ErrOverloaded, ErrTooLarge or ErrInvalid, wrapped
}

// PositionOf is where event i, from 0, of the n events of an Append stands that was appended or is a duplicate.
func (r Result) PositionOf(i, n int) Position {
	if len(r.Offsets) == n {
		return Position{r.Position.Partition, r.Offsets[i]}
	}
	return Position{r.Position.Partition, r.Position.Offset - int64(n-1-i)}
}

// Recorded is an event as the log holds it.
type Recorded struct {
	Position   Position
	Stream     StreamName
	Revision   Revision
	Tenant     string
	Type       string
	RecordedAt time.Time // never goes back within a partition
	Data       []byte    // shared: do not change
}

// Appender writes.
type Appender interface {
	// Append writes each stream's events atomically and independently of the other streams, and returns one result per
	// element, in order, after what succeeded is durable. Elements for the same stream take effect in order, and so do those
	// of the same tenant as far as Absent tells: it sees what elements before it created, and not what those after it do.
	Append(ctx context.Context, batch []Append) []Result
}

// StreamReader reads one thing's history.
type StreamReader interface {
	// ReadStream returns up to limit events from revision from on; none for an unknown stream.
	ReadStream(ctx context.Context, stream StreamName, from Revision, limit int) ([]Recorded, error)
}

// LogReader reads everything, in order.
type LogReader interface {
	// Partitions is fixed for the life of the log; partitions are 0 .. Partitions-1.
	Partitions() int
	// DenseOffsets tells whether the offsets of a partition are 1, 2, 3 ... A store where they only rise cannot show that an
	// event is missing, and a difference of offsets is no number of events there.
	DenseOffsets() bool
	// Head is the last visible position of a partition.
	Head(ctx context.Context, partition int) (Position, error)
	// ReadLog returns up to limit events directly after a position, without holes (else ErrHole). Whatever was acknowledged
	// before the call is among them, if the limit allows.
	ReadLog(ctx context.Context, after Position, limit int) ([]Recorded, error)
	// ReadAt returns the events at exactly these positions, in the order asked; a missing one is ErrHole.
	ReadAt(ctx context.Context, at []Position) ([]Recorded, error)
	// Wait returns nil once there is an event after the position, or the context's error.
	Wait(ctx context.Context, after Position) error
}

// Store is a whole event store.
type Store interface {
	Appender
	StreamReader
	LogReader
}

// PartitionOf places a tenant: FNV-1a (64 bit) of the id over the number of partitions; the system itself is in 0.
// It is part of the log's format and must never change.
func PartitionOf(tenant string, partitions int) int {
	if tenant == "" || partitions == 1 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(tenant))
	return int(h.Sum64() % uint64(partitions)) //nolint:gosec // below partitions
}

// Check refuses a call that is out of bounds; every store calls it first.
func (a Append) Check() error {
	switch {
	case a.Stream == "" || len(a.Stream) > MaxNameLength:
		return fmt.Errorf("%w: stream name of %d bytes", ErrInvalid, len(a.Stream))
	case len(a.Tenant) > MaxTenantLength || !isText(string(a.Stream)) || !isText(a.Tenant):
		return fmt.Errorf("%w: the stream's or tenant's name is too long or no text", ErrInvalid)
	case len(a.Events) == 0:
		return fmt.Errorf("%w: no events for %s", ErrInvalid, a.Stream)
	case a.Expected < NoStream:
		return fmt.Errorf("%w: expected revision %d", ErrInvalid, a.Expected)
	case len(a.Events) > MaxStreamBatch:
		return fmt.Errorf("%w: %d events for one stream", ErrTooLarge, len(a.Events))
	case len(a.Absent) > MaxStreamBatch:
		return fmt.Errorf("%w: %d streams that must be absent", ErrTooLarge, len(a.Absent))
	}
	for _, s := range a.Absent {
		if s == "" || len(s) > MaxNameLength || !isText(string(s)) {
			return fmt.Errorf("%w: the name of a stream that must be absent is empty, too long or no text", ErrInvalid)
		}
	}
	for _, e := range a.Events {
		if e.Type == "" || len(e.Type) > MaxTypeLength || !isText(e.Type) || e.ID == uuid.Nil {
			return fmt.Errorf("%w: event without id, or with a bad type, for %s", ErrInvalid, a.Stream)
		}
		if len(e.Data) > MaxEventBytes {
			return fmt.Errorf("%w: event of %d bytes", ErrTooLarge, len(e.Data))
		}
	}
	return nil
}

// Refuse answers every element of a batch with the same error.
func Refuse(n int, err error) []Result {
	results := make([]Result, n)
	for i := range results {
		results[i].Err = err
	}
	return results
}
