package app

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// source reads a log in one order: that of its instants, and within a tenant that of the log. In a store whose offsets do not count,
// tenants may be out of order among each other, by as much as the window of the CopyLog that wrote them: a partition of another store
// whose time never goes back takes them in order.
type source struct {
	log    eventstore.Copyable
	until  []int64 // offsets, by partition
	parts  []sourcePart
	depth  int                  // so many are looked at to find the next one, or so many as two windows have bytes
	latest map[string]time.Time // of each tenant
}

type sourcePart struct {
	read  int64   // up to this offset
	seen  int64   // events
	marks []int64 // the offset of every so many of them, where offsets do not count
	ended bool
	ready []ordered
	bytes int // of payloads in ready
}

type ordered struct {
	eventstore.Original
	at time.Time // its instant, or that of an event of its tenant before it
}

func newSource(log eventstore.Copyable, until []int64) source {
	s := source{log: log, until: until, parts: make([]sourcePart, log.Partitions()), depth: 1}
	if !log.DenseOffsets() {
		s.depth, s.latest = 2*copyWindow, map[string]time.Time{}
	}
	return s
}

// next is the next event; ok is false at the end.
func (s *source) next(ctx context.Context) (e eventstore.Original, ok bool, err error) {
	first := -1
	for n := range s.parts {
		if err := s.fill(ctx, n); err != nil {
			return e, false, err
		}
		if ready := s.parts[n].ready; len(ready) > 0 && (first < 0 || ready[0].at.Before(s.parts[first].ready[0].at)) {
			first = n
		}
	}
	if first < 0 {
		return e, false, nil
	}
	p := &s.parts[first]
	e, p.ready = p.ready[0].Original, p.ready[1:]
	p.bytes -= len(e.Data)
	return e, true, nil
}

func (s *source) fill(ctx context.Context, n int) error {
	p := &s.parts[n]
	for !p.ended && (len(p.ready) == 0 || len(p.ready) < s.depth && p.bytes < 2*copyWindowBytes) {
		page, err := s.log.ReadOriginals(ctx, eventstore.Position{Partition: n, Offset: p.read}, copyPage)
		if err != nil {
			return err
		}
		p.ended = len(page) == 0
		for _, o := range page {
			if o.Position.Offset > s.until[n] {
				p.ended = true
				break
			}
			if p.seen++; s.latest != nil && p.seen%markEvery == 0 {
				p.marks = append(p.marks, o.Position.Offset)
			}
			p.read = o.Position.Offset
			p.ready, p.bytes = append(p.ready, ordered{o, s.instant(&o)}), p.bytes+len(o.Data)
		}
		if s.latest != nil {
			slices.SortStableFunc(p.ready, func(a, b ordered) int { return a.at.Compare(b.at) })
		}
	}
	return nil
}

func (s *source) instant(o *eventstore.Original) time.Time {
	if s.latest == nil { // it never goes back
		return o.RecordedAt
	}
	if s.latest[o.Tenant].Before(o.RecordedAt) {
		s.latest[o.Tenant] = o.RecordedAt
	}
	return s.latest[o.Tenant]
}

// upTo is a place at a position or not far before it from which the log can be read: where offsets do not count, that is only
// at an event, and the position may have been that of another log.
func (s *source) upTo(at eventstore.Position) eventstore.Position {
	if s.log.DenseOffsets() {
		return at
	}
	marks := s.parts[at.Partition].marks
	i, exact := slices.BinarySearch(marks, at.Offset)
	switch {
	case exact:
	case i == 0:
		at.Offset = 0
	default:
		at.Offset = marks[i-1]
	}
	return at
}

func (s *source) done() (sum int64) {
	for i := range s.parts {
		sum += s.parts[i].read
	}
	return sum
}

// place is an event's place in its stream.
type place struct {
	stream   eventstore.StreamName
	revision eventstore.Revision
}

// copiedEvent is an event of the copy, and when the one before it was recorded.
type copiedEvent struct {
	eventstore.Original
	before time.Time
}

// copied reads the copy as far as it is asked for, and keeps what was not asked for yet.
type copied struct {
	log   eventstore.Copyable
	at    []eventstore.Position
	last  []time.Time
	ends  []bool // what comes later was written by this CopyLog
	ahead map[place]copiedEvent
}

func newCopied(log eventstore.Copyable) copied {
	n := log.Partitions()
	c := copied{log: log, at: make([]eventstore.Position, n), last: make([]time.Time, n), ends: make([]bool, n), ahead: map[place]copiedEvent{}}
	for p := range c.at {
		c.at[p].Partition = p
	}
	return c
}

// find looks for the copy of an event; ok is false where the copy ends before it.
func (c *copied) find(ctx context.Context, e *eventstore.Original) (found copiedEvent, ok bool, err error) {
	at := place{e.Stream, e.Revision}
	for n := eventstore.PartitionOf(e.Tenant, len(c.at)); ; {
		if found, ok = c.ahead[at]; ok {
			delete(c.ahead, at)
			return found, true, nil
		}
		if c.ends[n] {
			return found, false, nil
		}
		if err := c.read(ctx, n); err != nil {
			return found, false, err
		}
	}
}

// read reads on in a partition. There is never more left over than interrupted copies leave.
func (c *copied) read(ctx context.Context, n int) error {
	if len(c.ahead) > 2*copyWindow+copyPage*len(c.at) {
		return foreign(c.ahead)
	}
	page, err := c.log.ReadOriginals(ctx, c.at[n], copyPage)
	if err != nil {
		return err
	}
	for _, o := range page {
		c.ahead[place{o.Stream, o.Revision}] = copiedEvent{o, c.last[n]}
		c.at[n], c.last[n] = o.Position, o.RecordedAt
	}
	c.ends[n] = len(page) == 0
	return nil
}

// foreign names the first event of the copy that was not asked for.
func foreign(others map[place]copiedEvent) error {
	var first *copiedEvent
	for _, o := range others {
		if first == nil || cmp.Or(o.RecordedAt.Compare(first.RecordedAt), cmp.Compare(o.Position.Offset, first.Position.Offset)) < 0 {
			first = &o
		}
	}
	return fmt.Errorf("%w: it has event %d of %s at %s, and the other one does not", eventstore.ErrNotACopy, first.Revision, first.Stream, first.Position)
}
