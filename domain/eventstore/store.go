// Package eventstore is the port to the log: streams with optimistic concurrency, and one ordered log per partition.
// It owns what every store must promise; the contract suite in eventstoretest tests it. What the events mean and how they
// are stored is decided elsewhere.
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
	MaxStreamBatch = 1_000     // events of one Append, and streams in its Absent
	MaxEventBytes  = 512 << 10 // payload of one event
	MaxReadLimit   = 50_000    // events of one read, and of one import
	MaxNameLength  = 255       // bytes of a stream name

	MaxTenantLength = 1_000 // bytes
	MaxTypeLength   = 1_000 // bytes
)

var (
	// ErrUnavailable: the store could not be reached or did not answer in time. The outcome of an append is unknown;
	// sending the same append again is safe and returns it.
	ErrUnavailable = errors.New("event store unavailable")
	// ErrOverloaded: the queue in front of the store is full. Nothing was written; try again later.
	ErrOverloaded = errors.New("event store overloaded")
	// ErrTooLarge: a bound of this package is exceeded. Nothing was written.
	ErrTooLarge = errors.New("too large for the event store")
	// ErrInvalid: the call is wrong in itself (an empty stream name, no events). Nothing was written.
	ErrInvalid = errors.New("invalid call of the event store")
	// ErrHole: a position below the head is missing. The log is damaged; a reader must stop, never skip.
	ErrHole = errors.New("hole in the log")
)

// StreamName names one stream, "<category>-<id>". A stream belongs to one tenant, and the id is derived from the tenant's.
type StreamName string

// Revision counts the events of one stream: 0, 1, 2 ...
type Revision int64

// NoStream is the expected revision of a stream that must not exist yet.
const NoStream Revision = -1

// Position is a place in the log. The offsets of a partition start at 1 and rise; offset 0 is before everything. They have no
// holes where the log's DenseOffsets is true.
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

// NewEvent is an event to append. ID is derived from the cause of the event, never random: a store recognises a repetition
// by the same ID at the same place.
type NewEvent struct {
	ID   uuid.UUID
	Type string // low cardinality: stores may keep a dictionary of types
	Data []byte
}

// Append asks to write events to one stream, all or none, directly after revision Expected.
type Append struct {
	Stream   StreamName
	Tenant   string // decides the partition; "" is the system's own
	Expected Revision
	Events   []NewEvent
	// Absent lists streams of the same tenant that must not exist. If one does, nothing is written and the outcome is
	// Present. The guard is exact where the store reads the Absent streams and writes this one in one transaction, as
	// PostgreSQL and memory do. A store without transactions over two streams checks before it writes, and may miss a
	// stream that appears during the call.
	Absent []StreamName
}

// isText reports whether a store can keep a name as text: valid UTF-8 without NUL.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// Outcome of one Append. Stores check Duplicate, Conflict, Present, then Appended, and return the first that holds. So a
// repeated append is recognised even if one of its Absent streams exists by now.
type Outcome uint8

const (
	// Unknown: see Result.Err.
	Unknown Outcome = iota
	// Appended: the events are durable and visible.
	Appended
	// Duplicate: exactly these events (by ID) are already at this place; nothing was written.
	Duplicate
	// Conflict: the stream is not at the expected revision: it has other events at this place, or is not that long yet.
	// Nothing was written.
	Conflict
	// Present: one of the Absent streams exists; nothing was written.
	Present
)

// Result answers one Append.
type Result struct {
	Outcome    Outcome
	Position   Position  // of the last event; of the original for a Duplicate
	RecordedAt time.Time // likewise
	Offsets    []int64   // of all events of the append, where the store's offsets are not dense; see PositionOf
	Present    []int     // with Present: indexes into Absent of the streams that exist, ascending
	Err        error     // with Unknown: ErrUnavailable, ErrOverloaded, ErrTooLarge or ErrInvalid, wrapped
}

// PositionOf is the position of event i, counted from 0, of an Append with n events that was appended or is a duplicate.
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
	// Append writes each stream's events atomically and independently of the other streams. It returns one result per
	// element, in order, once everything that succeeded is durable. Elements for the same stream take effect in order.
	// Absent sees the streams of the same tenant that earlier elements created, and not those that later elements create.
	Append(ctx context.Context, batch []Append) []Result
}

// StreamReader reads one stream.
type StreamReader interface {
	// ReadStream returns up to limit events, starting at revision from; none for an unknown stream.
	ReadStream(ctx context.Context, stream StreamName, from Revision, limit int) ([]Recorded, error)
}

// LogReader reads everything, in order.
type LogReader interface {
	// Partitions is fixed for the life of the log; partitions are 0 .. Partitions-1.
	Partitions() int
	// DenseOffsets reports whether the offsets of a partition are 1, 2, 3 ... Where they only rise, a missing event cannot be
	// noticed, and the difference of two offsets is not a number of events.
	DenseOffsets() bool
	// Head is the last visible position of a partition.
	Head(ctx context.Context, partition int) (Position, error)
	// ReadLog returns up to limit events directly after a position; a hole is ErrHole. Every event acknowledged before the
	// call is included, if the limit allows.
	ReadLog(ctx context.Context, after Position, limit int) ([]Recorded, error)
	// ReadAt returns the events at exactly these positions, in the same order; a missing one is ErrHole.
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

// PartitionOf is the partition of a tenant: FNV-1a (64 bit) of its id, modulo the number of partitions; 0 for the system
// itself. It is part of the log's format and must never change.
func PartitionOf(tenant string, partitions int) int {
	if tenant == "" || partitions == 1 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(tenant))
	return int(h.Sum64() % uint64(partitions)) //nolint:gosec // below partitions
}

// Check returns an error for an append that is out of bounds: ErrInvalid or ErrTooLarge. Every store calls it first.
func (a Append) Check() error {
	switch {
	case a.Stream == "" || len(a.Stream) > MaxNameLength:
		return fmt.Errorf("%w: stream name of %d bytes", ErrInvalid, len(a.Stream))
	case len(a.Tenant) > MaxTenantLength || !isText(string(a.Stream)) || !isText(a.Tenant):
		return fmt.Errorf("%w: the name of the stream or tenant is too long or not valid text", ErrInvalid)
	case len(a.Events) == 0:
		return fmt.Errorf("%w: no events for %s", ErrInvalid, a.Stream)
	case a.Expected < NoStream:
		return fmt.Errorf("%w: expected revision %d", ErrInvalid, a.Expected)
	case len(a.Events) > MaxStreamBatch:
		return fmt.Errorf("%w: %d events for one stream", ErrTooLarge, len(a.Events))
	case len(a.Absent) > MaxStreamBatch:
		return fmt.Errorf("%w: %d streams in Absent", ErrTooLarge, len(a.Absent))
	}
	for _, s := range a.Absent {
		if s == "" || len(s) > MaxNameLength || !isText(string(s)) {
			return fmt.Errorf("%w: the name of a stream in Absent is empty, too long or not valid text", ErrInvalid)
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
