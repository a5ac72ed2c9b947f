// Package memory keeps a log in the memory of one process, for domain tests and examples. It owns the simplest correct
// reading of the port eventstore.Store; it does not own durability: what it acknowledges ends with the process.
package memory

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Store is an eventstore.Store. One Store is one log: every user of it sees the same events. It is safe for concurrent
// use.
type Store struct {
	now func() time.Time

	mu         sync.Mutex
	partitions []partition
	streams    map[eventstore.StreamName]*stream
}

// partition is one ordered log; the event with offset n is events[n-1], so that density holds by construction.
type partition struct {
	events []eventstore.Recorded
	last   time.Time     // RecordedAt of the newest event
	grown  chan struct{} // closed, and replaced, when events are added
}

// stream remembers where its events are and under which ids; both slices are indexed by revision.
type stream struct {
	tenant  string
	ids     []uuid.UUID
	offsets []int64
}

var _ eventstore.Store = (*Store)(nil)

// NewStore makes an empty log. The number of partitions is at least 1; now is asked once per Append call.
func NewStore(partitions int, now func() time.Time) *Store {
	if partitions < 1 {
		panic(fmt.Sprintf("memory: a log of %d partitions", partitions))
	}
	s := &Store{now: now, partitions: make([]partition, partitions), streams: map[eventstore.StreamName]*stream{}}
	for i := range s.partitions {
		s.partitions[i].grown = make(chan struct{})
	}
	return s
}

// Append implements eventstore.Appender. A stream belongs to the tenant of its first event: an element that names
// another tenant is refused with eventstore.ErrInvalid, because its events would be in another partition's order.
func (s *Store) Append(ctx context.Context, batch []eventstore.Append) []eventstore.Result {
	if err := ctx.Err(); err != nil {
		return eventstore.Refuse(len(batch), fmt.Errorf("append: %w: %w", eventstore.ErrUnavailable, err))
	}
	if len(batch) > eventstore.MaxAppends {
		return eventstore.Refuse(len(batch), fmt.Errorf("%w: %d appends in one call", eventstore.ErrTooLarge, len(batch)))
	}
	results := make([]eventstore.Result, len(batch))
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.now()
	for i, a := range batch {
		results[i] = s.append(a, at)
	}
	return results
}

func (s *Store) append(a eventstore.Append, at time.Time) eventstore.Result {
	if err := a.Check(); err != nil {
		return eventstore.Result{Err: err}
	}
	st := s.streams[a.Stream]
	if st == nil {
		st = &stream{tenant: a.Tenant}
	} else if st.tenant != a.Tenant {
		return eventstore.Result{Err: fmt.Errorf("%w: stream %s belongs to another tenant", eventstore.ErrInvalid, a.Stream)}
	}
	number := eventstore.PartitionOf(a.Tenant, len(s.partitions))
	p := &s.partitions[number]

	if head := eventstore.Revision(len(st.ids)) - 1; a.Expected != head {
		if a.Expected > head || !st.holds(a) {
			return eventstore.Result{Outcome: eventstore.Conflict}
		}
		original := p.events[st.offsets[int(a.Expected)+len(a.Events)]-1]
		return eventstore.Result{
			Outcome: eventstore.Duplicate, Position: original.Position, RecordedAt: original.RecordedAt,
		}
	}

	if present := s.present(a.Absent); len(present) > 0 {
		return eventstore.Result{Outcome: eventstore.Present, Present: present}
	}

	s.streams[a.Stream] = st
	s.place(st, a.Stream, a.Tenant, a.Events, at)
	newest := p.events[len(p.events)-1]
	return eventstore.Result{Outcome: eventstore.Appended, Position: newest.Position, RecordedAt: newest.RecordedAt}
}

// place writes the next events of a stream.
func (s *Store) place(st *stream, name eventstore.StreamName, tenant string, events []eventstore.NewEvent, at time.Time) {
	number := eventstore.PartitionOf(tenant, len(s.partitions))
	p := &s.partitions[number]
	// The wall clock may step back; the log's time may not.
	if at = at.UTC().Truncate(time.Microsecond); at.After(p.last) {
		p.last = at
	}
	for _, e := range events {
		offset := int64(len(p.events)) + 1
		p.events = append(p.events, eventstore.Recorded{
			Position:   eventstore.Position{Partition: number, Offset: offset},
			Stream:     name,
			Revision:   eventstore.Revision(len(st.ids)),
			Tenant:     tenant,
			Type:       e.Type,
			RecordedAt: p.last,
			Data:       bytes.Clone(e.Data),
		})
		st.ids = append(st.ids, e.ID)
		st.offsets = append(st.offsets, offset)
	}
	close(p.grown)
	p.grown = make(chan struct{})
}

// present returns the indexes of the streams that exist.
func (s *Store) present(names []eventstore.StreamName) []int {
	var present []int
	for i, name := range names {
		if s.streams[name] != nil {
			present = append(present, i)
		}
	}
	return present
}

// holds reports whether exactly the events of a come directly after its expected revision, which the stream has reached.
func (st *stream) holds(a eventstore.Append) bool {
	there := st.ids[a.Expected+1:]
	if len(there) < len(a.Events) {
		return false
	}
	for i, e := range a.Events {
		if there[i] != e.ID {
			return false
		}
	}
	return true
}

// ReadStream implements eventstore.StreamReader.
func (s *Store) ReadStream(
	ctx context.Context, name eventstore.StreamName, from eventstore.Revision, limit int,
) ([]eventstore.Recorded, error) {
	if err := checkRead(ctx, limit); err != nil {
		return nil, fmt.Errorf("read stream %s: %w", name, err)
	}
	if from < 0 {
		return nil, fmt.Errorf("read stream %s: %w: from revision %d", name, eventstore.ErrInvalid, from)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.streams[name]
	if st == nil || from >= eventstore.Revision(len(st.offsets)) {
		return nil, nil
	}
	p := s.partitions[eventstore.PartitionOf(st.tenant, len(s.partitions))]
	offsets := st.offsets[from:]
	offsets = offsets[:min(limit, len(offsets))]
	events := make([]eventstore.Recorded, len(offsets))
	for i, offset := range offsets {
		events[i] = own(p.events[offset-1])
	}
	return events, nil
}

// Partitions implements eventstore.LogReader.
func (s *Store) Partitions() int { return len(s.partitions) }

// DenseOffsets implements eventstore.LogReader.
func (s *Store) DenseOffsets() bool { return true }

// Head implements eventstore.LogReader; an empty partition has its head at offset 0.
func (s *Store) Head(ctx context.Context, partition int) (eventstore.Position, error) {
	if err := ctx.Err(); err != nil {
		return eventstore.Position{}, fmt.Errorf("head of partition %d: %w", partition, err)
	}
	if err := s.checkPosition(eventstore.Position{Partition: partition}); err != nil {
		return eventstore.Position{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return eventstore.Position{Partition: partition, Offset: int64(len(s.partitions[partition].events))}, nil
}

// ReadLog implements eventstore.LogReader. A position after the head has nothing after it: no events, no error.
func (s *Store) ReadLog(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Recorded, error) {
	if err := checkRead(ctx, limit); err != nil {
		return nil, fmt.Errorf("read log after %s: %w", after, err)
	}
	if err := s.checkPosition(after); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.partitions[after.Partition].events
	if after.Offset >= int64(len(events)) {
		return nil, nil
	}
	events = events[after.Offset:]
	events = slices.Clone(events[:min(limit, len(events))])
	for i := range events {
		events[i] = own(events[i])
	}
	return events, nil
}

// ReadAt implements eventstore.LogReader.
func (s *Store) ReadAt(ctx context.Context, at []eventstore.Position) ([]eventstore.Recorded, error) {
	if err := checkRead(ctx, max(1, len(at))); err != nil {
		return nil, fmt.Errorf("read %d positions: %w", len(at), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	events := make([]eventstore.Recorded, len(at))
	for i, p := range at {
		if p.Partition < 0 || p.Partition >= len(s.partitions) ||
			p.Offset < 1 || p.Offset > int64(len(s.partitions[p.Partition].events)) {
			return nil, fmt.Errorf("%w: nothing at %s", eventstore.ErrHole, p)
		}
		events[i] = own(s.partitions[p.Partition].events[p.Offset-1])
	}
	return events, nil
}

// Wait implements eventstore.LogReader.
func (s *Store) Wait(ctx context.Context, after eventstore.Position) error {
	if err := s.checkPosition(after); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		p := s.partitions[after.Partition]
		s.mu.Unlock()
		if int64(len(p.events)) > after.Offset {
			return nil
		}
		select {
		case <-p.grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// own gives a reader its own bytes: whatever it does with them, the log stays as it is.
func own(r eventstore.Recorded) eventstore.Recorded {
	r.Data = bytes.Clone(r.Data)
	return r
}

func checkRead(ctx context.Context, limit int) error {
	switch {
	case limit < 1:
		return fmt.Errorf("%w: limit %d", eventstore.ErrInvalid, limit)
	case limit > eventstore.MaxReadLimit:
		return fmt.Errorf("%w: limit %d", eventstore.ErrTooLarge, limit)
	}
	return ctx.Err()
}

func (s *Store) checkPosition(p eventstore.Position) error {
	if p.Partition < 0 || p.Partition >= len(s.partitions) || p.Offset < 0 {
		return fmt.Errorf("%w: no position %s in a log of %d partitions", eventstore.ErrInvalid, p, len(s.partitions))
	}
	return nil
}
