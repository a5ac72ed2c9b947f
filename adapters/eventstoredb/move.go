package eventstoredb

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

var _ eventstore.Copyable = (*Log)(nil)

// ReadOriginals implements eventstore.Copyable. It reads from the server, up to where the log ends now.
func (l *Log) ReadOriginals(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Original, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("read log after %s: %w", after, err)
	}
	if err := checkPosition(after); err != nil {
		return nil, err
	}
	head, err := l.head(ctx)
	if err != nil || head <= after.Offset {
		return nil, err
	}
	var ids []uuid.UUID
	events, err := l.fetch(ctx, after.Offset, head, limit, func(e *esdb.RecordedEvent) { ids = append(ids, e.EventID) })
	if err != nil {
		return nil, err
	}
	originals := make([]eventstore.Original, len(events))
	for i, e := range events {
		originals[i] = eventstore.Original{Recorded: e, ID: ids[i]}
	}
	return originals, nil
}

// importing is an event on its way into the log.
type importing struct {
	*eventstore.Original
	data esdb.EventData
}

// Import implements eventstore.Copyable. Tenants are written at the same time, and the events of each one after the other, those
// of one stream that follow each other together.
func (l *Log) Import(ctx context.Context, events []eventstore.Original) error {
	if err := eventstore.CheckImport(events); err != nil {
		return err
	}
	tenants := map[string][]importing{}
	call := uuid.New()
	for i := range events {
		e := &events[i]
		meta, err := json.Marshal(eventMetadata{Tenant: e.Tenant, Append: call, RecordedAt: e.RecordedAt.UTC()})
		if err != nil {
			return fmt.Errorf("%w: metadata: %w", eventstore.ErrInvalid, err)
		}
		data := eventData(&eventstore.NewEvent{ID: e.ID, Type: e.Type, Data: e.Data}, meta)
		if size := sizeOf(&data); size > maxAppendSize {
			return fmt.Errorf("%w: event %d of %s has %d bytes; a server takes %d", eventstore.ErrTooLarge, e.Revision, e.Stream, size, maxAppendSize)
		}
		tenants[e.Tenant] = append(tenants[e.Tenant], importing{e, data})
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, rest := range tenants {
		group.Go(func() error {
			for len(rest) > 0 {
				n := together(rest)
				if err := l.copyTo(ctx, rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return nil
		})
	}
	return group.Wait()
}

// together counts the events that one append takes: those that follow the first one in its stream, as far as there is room.
func together(events []importing) int {
	size := 0
	for n := range events {
		e, first := &events[n], &events[0]
		size += sizeOf(&e.data)
		follows := e.Stream == first.Stream && e.Revision == first.Revision+eventstore.Revision(n)
		if n == eventstore.MaxStreamBatch || n > 0 && (!follows || size > maxAppendSize) {
			return n
		}
	}
	return len(events)
}

// copyTo writes events that follow each other in one stream.
func (l *Log) copyTo(ctx context.Context, copied []importing) error {
	stream, from := copied[0].Stream, copied[0].Revision
	events := make([]esdb.EventData, len(copied))
	for i := range copied {
		events[i] = copied[i].data
	}
	select {
	case l.turns <- struct{}{}:
		defer func() { <-l.turns }()
	case <-ctx.Done():
		return fmt.Errorf("%w: import to %s: %w", eventstore.ErrUnavailable, stream, ctx.Err())
	}
	_, err := l.write(ctx, stream, from-1, events)
	if codeOf(err) != esdb.ErrorCodeWrongExpectedVersion {
		return err
	}
	// Some of them are there, or others are.
	there, err := l.readStream(ctx, stream, uint64(from), len(events)) //nolint:gosec // not negative
	if err != nil {
		return err
	}
	for i, e := range there {
		if e.EventID != events[i].EventID {
			return fmt.Errorf("%w: event %d of %s", eventstore.ErrNotACopy, e.EventNumber, stream)
		}
	}
	if len(there) == len(events) {
		return nil
	}
	if _, err = l.write(ctx, stream, from-1+eventstore.Revision(len(there)), events[len(there):]); codeOf(err) == esdb.ErrorCodeWrongExpectedVersion {
		return fmt.Errorf("%w: event %d of %s", eventstore.ErrNotACopy, from, stream)
	}
	return err
}
