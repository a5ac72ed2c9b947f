package eventstoredb

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// eventMetadata is what the log keeps beside an event's type and data.
type eventMetadata struct {
	Tenant string `json:"tenant,omitempty"`
	// Append names the call that wrote the event. The server answers a repetition as it answered the first time: by this a
	// caller learns whether it was its own append.
	Append uuid.UUID `json:"append"`
	// RecordedAt is that of the log which an event was copied from.
	RecordedAt time.Time `json:"recordedAt,omitzero"`
}

// encode makes the events of one append.
func encode(a *eventstore.Append, call uuid.UUID) ([]esdb.EventData, error) {
	meta, err := json.Marshal(eventMetadata{Tenant: a.Tenant, Append: call})
	if err != nil {
		return nil, fmt.Errorf("%w: metadata: %w", eventstore.ErrInvalid, err)
	}
	events := make([]esdb.EventData, len(a.Events))
	size := 0
	for i := range a.Events {
		events[i] = eventData(&a.Events[i], meta)
		size += sizeOf(&events[i])
	}
	if size > maxAppendSize {
		return nil, fmt.Errorf("%w: an append of %d bytes to %s; a server takes %d", eventstore.ErrTooLarge, size, a.Stream, maxAppendSize)
	}
	return events, nil
}

func eventData(e *eventstore.NewEvent, meta []byte) esdb.EventData {
	data := esdb.EventData{EventID: e.ID, EventType: e.Type, Data: e.Data, Metadata: meta}
	if json.Valid(e.Data) {
		data.ContentType = esdb.ContentTypeJson // so that the server's own tools show it
	}
	return data
}

// sizeOf is what a server counts of an event.
func sizeOf(e *esdb.EventData) int { return len(e.Data) + len(e.Metadata) + 2*len(e.EventType) } // types are counted as UTF-16

// decode reads an event of the log, and which call wrote it. What is under our prefix and was not written by us is damage: a
// reader must stop.
func (l *Log) decode(e *esdb.RecordedEvent) (r eventstore.Recorded, by uuid.UUID, err error) {
	name, ours := strings.CutPrefix(e.StreamID, l.prefix)
	var meta eventMetadata
	if err := json.Unmarshal(e.UserMetadata, &meta); !ours || err != nil || meta.Append == uuid.Nil {
		return eventstore.Recorded{}, uuid.Nil, fmt.Errorf("%w: event %d of stream %s (%s) was not written by this program",
			eventstore.ErrHole, e.EventNumber, e.StreamID, e.EventType)
	}
	if e.Position.Commit == 0 || e.Position.Commit > math.MaxInt64 {
		return eventstore.Recorded{}, uuid.Nil, fmt.Errorf("%w: the server does not say where event %d of %s is; it must be version 22.10 or later",
			eventstore.ErrUnavailable, e.EventNumber, e.StreamID)
	}
	recordedAt := e.CreatedDate
	if !meta.RecordedAt.IsZero() {
		recordedAt = meta.RecordedAt
	}
	return eventstore.Recorded{
		Position: eventstore.Position{Offset: int64(e.Position.Commit)}, Stream: eventstore.StreamName(name),
		Revision: eventstore.Revision(e.EventNumber), Tenant: meta.Tenant, Type: e.EventType, //nolint:gosec // counts events
		RecordedAt: recordedAt.UTC().Truncate(time.Microsecond), Data: e.Data,
	}, meta.Append, nil
}

// decodeAll reads events of the log, and which call wrote the last one.
func (l *Log) decodeAll(read []*esdb.RecordedEvent) (events []eventstore.Recorded, by uuid.UUID, err error) {
	events = make([]eventstore.Recorded, len(read))
	for i, e := range read {
		if events[i], by, err = l.decode(e); err != nil {
			return nil, uuid.Nil, err
		}
	}
	return events, by, nil
}
