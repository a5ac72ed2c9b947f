package watermill

import (
	"context"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/projections"
)

// Bounds of what is kept for the other read models of a partition.
const (
	maxRecent      = 10_000 // decoded events
	maxRecentBytes = 16 << 20
)

// pages reads and decodes the log once for all read models that are about as far as each other. Those that are far
// behind read for themselves, so that they do not displace what the others share.
type pages struct {
	log        eventstore.LogReader
	partitions []recent
}

// recent are the last decoded events of one partition after an offset, without holes.
type recent struct {
	turn   chan struct{} // holds one token: a lock that a context can give up waiting for
	after  int64
	events []event.Decoded
	bytes  int
}

func newPages(log eventstore.LogReader) *pages {
	p := &pages{log: log, partitions: make([]recent, log.Partitions())}
	for i := range p.partitions {
		p.partitions[i].turn = make(chan struct{}, 1)
		p.partitions[i].turn <- struct{}{}
	}
	return p
}

// read returns up to limit events after a position; none when the position is the head. When an event cannot be read, the
// events before it are returned with the error.
func (p *pages) read(ctx context.Context, after eventstore.Position, limit int) ([]event.Decoded, error) {
	r := &p.partitions[after.Partition]
	select {
	case <-r.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if n := len(r.events); n > 0 && after.Offset < r.after {
		r.turn <- struct{}{}
		return p.load(ctx, after, limit)
	} else if n > 0 && after.Offset < r.events[n-1].Position.Offset {
		defer func() { r.turn <- struct{}{} }()
		start := len(projections.UpTo(r.events, after.Offset))
		return r.events[start:min(n, start+limit):min(n, start+limit)], nil
	}
	defer func() { r.turn <- struct{}{} }()
	events, err := p.load(ctx, after, limit)
	if len(events) == 0 {
		return events, err
	}
	size := sizeOf(events)
	if n := len(r.events); n == 0 || r.events[n-1].Position.Offset != after.Offset || n+len(events) > maxRecent || r.bytes+size > maxRecentBytes {
		r.events, r.bytes, r.after = events[:len(events):len(events)], size, after.Offset // pages in flight keep their own part
	} else {
		r.events, r.bytes = append(r.events, events...), r.bytes+size
	}
	return events, err
}

func sizeOf(events []event.Decoded) (bytes int) {
	for i := range events {
		bytes += len(events[i].Data)
	}
	return bytes
}

func (p *pages) load(ctx context.Context, after eventstore.Position, limit int) ([]event.Decoded, error) {
	recorded, err := p.log.ReadLog(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	if err := projections.CheckFollows(after, recorded, p.log.DenseOffsets()); err != nil {
		return nil, err
	}
	return event.DecodeAll(recorded)
}
