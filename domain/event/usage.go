package event

import (
	"crypto/sha1" //nolint:gosec // see derive
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

const (
	usageRecorded   kind = "usage_recorded.v1"
	usageVoided     kind = "usage_voided.v1"
	usageAdjusted   kind = "usage_adjusted.v1"
	usageConflicted kind = "usage_conflicted.v1"
)

// MaxAhead is how far occurredAt may be ahead of the server's clock.
const MaxAhead = 5 * time.Minute

// The name spaces of the derived ids (UUID version 5, RFC 9562). They are part of the log's format.
var (
	usageSpace    = uuid.MustParse("6f2d3f0c-5a0e-5d5b-9d53-1f0a6c1f7a01")
	conflictSpace = uuid.MustParse("6f2d3f0c-5a0e-5d5b-9d53-1f0a6c1f7a02")
	eventSpace    = uuid.MustParse("6f2d3f0c-5a0e-5d5b-9d53-1f0a6c1f7a03")
)

// Identity is what makes two usage events the same fact.
type Identity struct {
	Tenant TenantID
	Type   Type
	Source SourceID
}

// UUID hashes the tuple. Each part is preceded by its length, so that different tuples never give the same bytes.
func (i Identity) UUID() uuid.UUID {
	buf := append(make([]byte, 0, 160), usageSpace[:]...)
	for _, part := range []string{string(i.Tenant), string(i.Type), string(i.Source)} {
		buf = binary.AppendUvarint(buf, uint64(len(part)))
		buf = append(buf, part...)
	}
	return derive(buf)
}

// derive is the UUID of version 5 (RFC 9562, section 5.5) for a name space followed by a name: uuid.NewSHA1 without its
// allocations, since each event needs two.
func derive(spaceAndName []byte) uuid.UUID {
	sum := sha1.Sum(spaceAndName) //nolint:gosec // the standard demands SHA-1, and nothing secret depends on it
	id := uuid.UUID(sum[:16])
	id[6] = id[6]&0x0f | 0x50
	id[8] = id[8]&0x3f | 0x80
	return id
}

// Stream is the stream of the fact: its first event is the usage, corrections follow.
func (i Identity) Stream() eventstore.StreamName {
	return eventstore.StreamName("usage-" + i.UUID().String())
}

// Usage is a fact: a tenant used a quantity of something at an instant.
type Usage struct {
	Identity
	Quantity   money.Decimal // > 0
	OccurredAt time.Time     // UTC, microseconds
	Data       Data
}

// Check returns an *invalid.Error with every rule that the usage breaks, with pointers into the event as the API shows it.
func (u Usage) Check(now time.Time) error {
	var l invalid.List
	checkID(&l, "tenantId", string(u.Tenant))
	checkID(&l, "eventType", string(u.Type))
	checkID(&l, "sourceId", string(u.Source))
	if u.Quantity.Sign() <= 0 {
		l.Add("/quantity", invalid.CodeEvent, "quantity must be greater than 0")
	} else if !u.Quantity.IsQuantity() {
		l.Add("/quantity", invalid.CodeEvent, "quantity has "+money.ErrRange.Error())
	}
	switch {
	case u.OccurredAt.IsZero():
		l.Add("/occurredAt", invalid.CodeEvent, "occurredAt is required, as an RFC 3339 time with offset")
	case u.OccurredAt.After(now.Add(MaxAhead)):
		l.Add("/occurredAt", invalid.CodeEvent, fmt.Sprintf("occurredAt is more than %d minutes ahead of the server's clock, which says %s",
			int(MaxAhead.Minutes()), now.UTC().Format(time.RFC3339)))
	case !isInstant(u.OccurredAt):
		l.Add("/occurredAt", invalid.CodeEvent, "occurredAt must be between the years 1 and 9999")
	}
	return l.Err()
}

// Instant is a time as the log keeps it: in UTC, cut to microseconds.
func Instant(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// isInstant reports whether the time is within the years 1 to 9999 in UTC, those that RFC 3339 can write.
func isInstant(t time.Time) bool {
	const first, last = -62135596800, 253402300799
	return first <= t.Unix() && t.Unix() <= last
}

// ID is derived from the identity and the business fields (quantity, occurredAt, data): a retry has the same ID, and a
// changed payload has another.
func (u Usage) ID() uuid.UUID { return u.idWithin(u.UUID()) }

func (u Usage) idWithin(stream uuid.UUID) uuid.UUID {
	buf := make([]byte, 0, 512)
	q := u.Quantity.String()
	buf = binary.AppendUvarint(buf, uint64(len(q)))
	buf = append(buf, q...)
	buf = binary.AppendVarint(buf, u.OccurredAt.UnixMicro())
	buf = u.Data.AppendJSON(buf)
	fingerprint := sha256.Sum256(buf)
	return derive(append(append(buf[:0], stream[:]...), fingerprint[:]...))
}

// Append is the log entry that records the usage, as the first event of its stream. The catalog revision in m decides for
// good which meters count it.
func (u Usage) Append(m Metadata) eventstore.Append {
	id := u.UUID()
	return eventstore.Append{
		Stream:   eventstore.StreamName("usage-" + id.String()),
		Tenant:   string(u.Tenant),
		Expected: eventstore.NoStream,
		Events: []eventstore.NewEvent{{
			ID:   u.idWithin(id),
			Type: typeName(usageRecorded, u.Type),
			Data: UsageRecorded{Usage: u, Metadata: m}.encode(),
		}},
	}
}

// Metadata of a usage event is kept, and is part of neither its identity nor its payload.
type Metadata struct {
	Catalog     eventstore.Revision // of the catalog in force when the event was accepted
	Emitter     string              // CloudEvents source, "" if none
	TraceParent string              // W3C trace context, "" if none
}

// UsageRecorded: the fact is on the log.
type UsageRecorded struct {
	Usage
	Metadata
}

// UsageVoided: the fact is taken back. Usage is the fact as it was before, so that a fold needs no look-up.
type UsageVoided struct {
	Usage
	Metadata
	Reason string
	By     Actor
}

// UsageAdjusted: the fact has another quantity or other data. Usage is the fact as it was before.
type UsageAdjusted struct {
	Usage
	Metadata
	Quantity money.Decimal // the new one
	Data     Data          // the new one
	Reason   string
	By       Actor
}

// After is the fact as the adjustment leaves it.
func (e UsageAdjusted) After() Usage {
	u := e.Usage
	u.Quantity, u.Data = e.Quantity, e.Data
	return u
}

// UsageConflicted: a client sent another payload for a recorded fact. The fact did not change; support sees the attempt.
type UsageConflicted struct {
	Usage // the refused payload
}

// Append is the log entry for a conflict: written once for each distinct payload that was refused.
func (c UsageConflicted) Append() eventstore.Append {
	offered := c.ID() // depends on the identity as well
	id := uuid.NewSHA1(conflictSpace, offered[:])
	return eventstore.Append{
		Stream:   eventstore.StreamName("conflict-" + id.String()),
		Tenant:   string(c.Tenant),
		Expected: eventstore.NoStream,
		Events: []eventstore.NewEvent{{
			ID:   id,
			Type: typeName(usageConflicted, c.Type),
			Data: appendUsage(nil, c.Usage),
		}},
	}
}

// Append is the log entry after revision expected of the fact's stream.
func (e UsageVoided) Append(expected eventstore.Revision) eventstore.Append {
	return appendDecided(e.Stream(), e.Tenant, expected, typeName(usageVoided, e.Type), e.encode())
}

// Append is the log entry after revision expected of the fact's stream.
func (e UsageAdjusted) Append(expected eventstore.Revision) eventstore.Append {
	return appendDecided(e.Stream(), e.Tenant, expected, typeName(usageAdjusted, e.Type), e.encode())
}

// CountedBy returns the revision of the catalog whose meters count an event about a fact; ok is false for other events.
func CountedBy(payload any) (revision eventstore.Revision, t Type, ok bool) {
	switch e := payload.(type) {
	case UsageRecorded:
		return e.Catalog, e.Type, true
	case UsageVoided:
		return e.Catalog, e.Type, true
	case UsageAdjusted:
		return e.Catalog, e.Type, true
	default:
		return 0, "", false
	}
}
