package projections

import (
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/timeline"
)

// TimelineModel is the name of the read model that holds where in the log each tenant's events are, by when they
// happened.
const TimelineModel = "timeline"

// TimelineRow points to one event of a tenant in the log. It is an index, not a copy: what the event says is read from
// the log when somebody looks at it.
type TimelineRow struct {
	Tenant event.TenantID
	// OccurredAt is when the fact happened, the check was decided, the hold ended; when it was recorded for all else.
	OccurredAt time.Time
	Position   eventstore.Position
	// Source and Type stand for texts of any length; a reader compares the texts once it has the event. They are 0 for
	// an event without source or usage type.
	Source int64
	Type   int32
	Kind   int16
}

// AppendTimeline appends one row for each event that has a tenant, in the order of the log.
func AppendTimeline(rows []TimelineRow, events []event.Decoded) []TimelineRow {
	for i := range events {
		e := &events[i]
		if e.Tenant == "" {
			continue
		}
		row := TimelineRow{Tenant: event.TenantID(e.Tenant), OccurredAt: e.RecordedAt, Position: e.Position}
		kind, of := timeline.About(e.Payload)
		row.Kind = kind.Number()
		if of.Source != "" {
			row.Source, row.Type = SourceHash(of.Tenant, of.Source), TypeHash(of.Type)
		}
		if !of.At.IsZero() {
			row.OccurredAt = of.At
		}
		rows = append(rows, row)
	}
	return rows
}

// SourceHash is FNV-1a (64 bit) of tenant, NUL and source.
func SourceHash(tenant event.TenantID, source event.SourceID) int64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(tenant) {
		h = (h ^ uint64(tenant[i])) * prime
	}
	h *= prime
	for i := range len(source) {
		h = (h ^ uint64(source[i])) * prime
	}
	return int64(h) //nolint:gosec // all 64 bits are wanted
}

// TypeHash is FNV-1a (32 bit) of the usage event type.
func TypeHash(t event.Type) int32 {
	const offset, prime = 2166136261, 16777619
	h := uint32(offset)
	for i := range len(t) {
		h = (h ^ uint32(t[i])) * prime
	}
	return int32(h) //nolint:gosec // all 32 bits are wanted
}
