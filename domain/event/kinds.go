package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// ErrMalformed: an event on the log cannot be read. A projection stops at it and never skips it.
var ErrMalformed = errors.New("malformed event")

// kind is the first part of an event's type on the log: what happened, and the version of its form. Kinds are never
// renamed and never removed; a changed form is a new version with an upcaster to the newest.
type kind string

const (
	usageRecorded   kind = "usage_recorded.v1"
	usageVoided     kind = "usage_voided.v1"
	usageAdjusted   kind = "usage_adjusted.v1"
	usageConflicted kind = "usage_conflicted.v1"
	tenantDefined   kind = "tenant_defined.v1"
	catalogApplied  kind = "catalog_applied.v1"
	costsImported   kind = "costs_imported.v1"
	keyCreated      kind = "key_created.v1"
	keyRevoked      kind = "key_revoked.v1"
	adminSwitched   kind = "admin_switched.v1"

	tenantStatusChanged kind = "tenant_status_changed.v1"
	hostVerified        kind = "host_verified.v1"
	nameClaimed         kind = "name_claimed.v1"
	nameReleased        kind = "name_released.v1"
	nameFreed           kind = "name_freed.v1"

	invoiceFinalised kind = "invoice_finalised.v1"
	invoiceVoided    kind = "invoice_voided.v1"
	invoiceSettled   kind = "invoice_settled.v1"
	creditGranted    kind = "credit_granted.v1"
	creditRefunded   kind = "credit_refunded.v1"

	planAssigned         kind = "plan_assigned.v1"
	limitOverridden      kind = "limit_overridden.v1"
	limitOverrideRemoved kind = "limit_override_removed.v1"

	limitDecided kind = "limit_decided.v1"
	holdReleased kind = "hold_released.v1"
	holdExpired  kind = "hold_expired.v1"
)

// Kinds lists every kind that the log can hold, for the tests that keep one recording of each.
func Kinds() []string {
	return []string{string(usageRecorded), string(usageVoided), string(usageAdjusted), string(usageConflicted),
		string(tenantDefined), string(catalogApplied), string(costsImported), string(keyCreated), string(keyRevoked), string(adminSwitched),
		string(tenantStatusChanged), string(hostVerified), string(nameClaimed), string(nameReleased), string(nameFreed),
		string(invoiceFinalised), string(invoiceVoided), string(invoiceSettled), string(creditGranted), string(creditRefunded),
		string(planAssigned), string(limitOverridden), string(limitOverrideRemoved),
		string(limitDecided), string(holdReleased), string(holdExpired)}
}

// typeName is an event's type on the log. Events about a fact carry the fact's own type behind a colon, so that neither
// a store nor a reader has to open the payload to know it.
func typeName(k kind, t Type) string {
	if t == "" {
		return string(k)
	}
	return string(k) + ":" + string(t)
}

// TenantDefined: a tenant exists and is configured like this. It replaces what was said before.
type TenantDefined struct {
	Tenant   TenantID `json:"tenantId"`
	Name     string   `json:"name"`
	TimeZone string   `json:"timeZone"`
	Currency string   `json:"currency"`
	Hosts    []string `json:"hosts"`
	Slug     string   `json:"slug"`
	By       Actor    `json:"by"`
}

// CatalogApplied: the product configuration as a whole, from here on.
type CatalogApplied struct {
	Catalog json.RawMessage `json:"catalog"`
	// Versions counts for each plan how often it became another one: 1 for a new plan.
	Versions map[string]int `json:"planVersions,omitempty"`
	By       Actor          `json:"by"`
}

// KeyCreated: an API key exists. The log holds only the hash.
type KeyCreated struct {
	ID     KeyID    `json:"id"`
	Kind   string   `json:"kind"`
	Tenant TenantID `json:"tenantId,omitempty"`
	Name   string   `json:"name"`
	Hash   []byte   `json:"hash"` // SHA-256 of the key
	By     Actor    `json:"by"`
	// ExpiresAt is when the key ends by itself; zero: never.
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
}

// KeyRevoked: the key is refused from here on.
type KeyRevoked struct {
	ID     KeyID    `json:"id"`
	Tenant TenantID `json:"tenantId,omitempty"`
	By     Actor    `json:"by"`
}

// AdminSwitched: an administrator acted inside a tenant, for a reason. One event per key, reason and UTC day.
type AdminSwitched struct {
	Tenant TenantID `json:"tenantId"`
	Reason string   `json:"reason"`
	Day    string   `json:"day"` // 2006-01-02
	By     Actor    `json:"by"`
}

// CatalogStream is the stream of the product configuration.
const CatalogStream eventstore.StreamName = "catalog"

// TenantStream is the stream of a tenant's configuration.
func TenantStream(t TenantID) eventstore.StreamName {
	return eventstore.StreamName("tenant-" + uuid.NewSHA1(eventSpace, []byte(t)).String())
}

// KeyStream is the stream of a key.
func KeyStream(k KeyID) eventstore.StreamName {
	return eventstore.StreamName("key-" + uuid.NewSHA1(eventSpace, []byte(k)).String())
}

// Decoded is an event of the log together with what it says: the struct of its kind.
type Decoded struct {
	eventstore.Recorded
	Payload any
}

// Decode reads an event of the log into the struct of its kind: UsageRecorded, UsageVoided ... Errors wrap ErrMalformed.
func Decode(r eventstore.Recorded) (any, error) {
	name, usageType, named := strings.Cut(r.Type, ":")
	var (
		e   any
		err error
	)
	switch kind(name) {
	case usageRecorded, usageVoided, usageAdjusted, usageConflicted:
		e, err = decodeUsageEvent(kind(name), Identity{Tenant: TenantID(r.Tenant), Type: Type(usageType)}, r.Data)
	case tenantDefined:
		e, err = decodeConfiguration[TenantDefined](r, named)
	case catalogApplied:
		e, err = decodeConfiguration[CatalogApplied](r, named)
	case costsImported:
		e, err = decodeConfiguration[CostsImported](r, named)
	case keyCreated:
		e, err = decodeConfiguration[KeyCreated](r, named)
	case keyRevoked:
		e, err = decodeConfiguration[KeyRevoked](r, named)
	case adminSwitched:
		e, err = decodeConfiguration[AdminSwitched](r, named)
	case tenantStatusChanged:
		e, err = decodeConfiguration[TenantStatusChanged](r, named)
	case hostVerified:
		e, err = decodeConfiguration[HostVerified](r, named)
	case nameClaimed:
		e, err = decodeConfiguration[NameClaimed](r, named)
	case nameReleased:
		e, err = decodeConfiguration[NameReleased](r, named)
	case invoiceFinalised:
		e, err = decodeConfiguration[InvoiceFinalised](r, named)
	case invoiceVoided:
		e, err = decodeConfiguration[InvoiceVoided](r, named)
	case invoiceSettled:
		e, err = decodeConfiguration[InvoiceSettled](r, named)
	case creditGranted:
		e, err = decodeConfiguration[CreditGranted](r, named)
	case creditRefunded:
		e, err = decodeConfiguration[CreditRefunded](r, named)
	case nameFreed:
		e, err = decodeConfiguration[NameFreed](r, named)
	case planAssigned:
		e, err = decodeConfiguration[PlanAssigned](r, named)
	case limitOverridden:
		e, err = decodeConfiguration[LimitOverridden](r, named)
	case limitOverrideRemoved:
		e, err = decodeConfiguration[LimitOverrideRemoved](r, named)
	case limitDecided, holdReleased, holdExpired:
		e, err = decodeQuotaEvent(kind(name), Identity{Tenant: TenantID(r.Tenant), Type: Type(usageType)}, r.Data)
	default:
		err = errors.New("unknown kind")
	}
	if err != nil {
		return nil, fmt.Errorf("%w at %s (%s): %w", ErrMalformed, r.Position, r.Type, err)
	}
	return e, nil
}

// IsUsage reports whether the event is a recorded fact or a correction of one.
func IsUsage(logType string) bool {
	name, _, _ := strings.Cut(logType, ":")
	return kind(name) == usageRecorded || kind(name) == usageVoided || kind(name) == usageAdjusted
}

// IsDecision reports whether the event is of a quota stream.
func IsDecision(logType string) bool {
	name, _, _ := strings.Cut(logType, ":")
	return kind(name) == limitDecided || kind(name) == holdReleased || kind(name) == holdExpired
}

// configuration is an event that is kept as JSON; missing tells what it must say and does not.
type configuration interface {
	of() TenantID
	missing() bool
}

func (e TenantDefined) of() TenantID  { return e.Tenant }
func (e CatalogApplied) of() TenantID { return "" }
func (e KeyCreated) of() TenantID     { return e.Tenant }
func (e KeyRevoked) of() TenantID     { return e.Tenant }
func (e AdminSwitched) of() TenantID  { return e.Tenant }

func (e TenantDefined) missing() bool  { return e.Tenant == "" }
func (e CatalogApplied) missing() bool { return len(e.Catalog) == 0 || e.Catalog[0] != '{' }
func (e KeyCreated) missing() bool     { return e.ID == "" || e.Kind == "" || len(e.Hash) != sha256.Size }
func (e KeyRevoked) missing() bool     { return e.ID == "" }
func (e AdminSwitched) missing() bool  { return e.Tenant == "" }

// decodeConfiguration is as strict as the form of the facts: no unknown, repeated or missing member, and the same tenant
// inside as outside.
func decodeConfiguration[T configuration](r eventstore.Recorded, suffix bool) (any, error) {
	var e T
	if suffix {
		return nil, errors.New("a usage type on an event about no fact")
	}
	if err := jsonv2.Unmarshal(r.Data, &e, jsonv2.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	if e.missing() || string(e.of()) != r.Tenant {
		return nil, errors.New("what it is about is missing or not the stream's")
	}
	return e, nil
}

// encodeJSON does not escape <, > and & as json.Marshal does: a catalog must stay the bytes that it was.
func encodeJSON(e any) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(e); err != nil {
		panic(fmt.Sprintf("event: %T cannot be encoded: %v", e, err)) // only plain fields are marshalled here
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// command is an event that something decided: it is appended at an expected revision, and its ID comes from the stream,
// the revision and the content, so that a repeated attempt is recognised.
func command(stream eventstore.StreamName, tenant TenantID, expected eventstore.Revision, logType string, data []byte) eventstore.Append {
	seed := append(fmt.Appendf(nil, "%s\x00%d\x00%s\x00", stream, expected, logType), data...)
	return eventstore.Append{
		Stream:   stream,
		Tenant:   string(tenant),
		Expected: expected,
		Events:   []eventstore.NewEvent{{ID: uuid.NewSHA1(eventSpace, seed), Type: logType, Data: data}},
	}
}

// Append is the log entry after revision expected.
func (e TenantDefined) Append(expected eventstore.Revision) eventstore.Append {
	return command(TenantStream(e.Tenant), e.Tenant, expected, string(tenantDefined), encodeJSON(e))
}

// Append is the log entry after revision expected.
func (e CatalogApplied) Append(expected eventstore.Revision) eventstore.Append {
	return command(CatalogStream, "", expected, string(catalogApplied), encodeJSON(e))
}

// Append is the log entry: the first of the key's stream.
func (e KeyCreated) Append() eventstore.Append {
	return command(KeyStream(e.ID), e.Tenant, eventstore.NoStream, string(keyCreated), encodeJSON(e))
}

// Append is the log entry after revision expected.
func (e KeyRevoked) Append(expected eventstore.Revision) eventstore.Append {
	return command(KeyStream(e.ID), e.Tenant, expected, string(keyRevoked), encodeJSON(e))
}

// Append is the log entry after revision expected of the fact's stream.
func (e UsageVoided) Append(expected eventstore.Revision) eventstore.Append {
	return command(e.Stream(), e.Tenant, expected, typeName(usageVoided, e.Type), e.encode())
}

// Append is the log entry after revision expected of the fact's stream.
func (e UsageAdjusted) Append(expected eventstore.Revision) eventstore.Append {
	return command(e.Stream(), e.Tenant, expected, typeName(usageAdjusted, e.Type), e.encode())
}

// Append is the log entry: once for the same key, reason and day.
func (e AdminSwitched) Append() eventstore.Append {
	data := encodeJSON(e)
	stream := eventstore.StreamName("switch-" + uuid.NewSHA1(eventSpace, data).String())
	return command(stream, e.Tenant, eventstore.NoStream, string(adminSwitched), data)
}

// Instant normalises a time to what the log keeps: UTC, microseconds.
func Instant(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
