package event

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// ErrMalformed: an event on the log cannot be read. A projection stops at it and never skips it.
var ErrMalformed = errors.New("malformed event")

// kind is the first part of an event's type on the log: what happened, and the version of its form. Kinds are never
// renamed or removed; a changed form is a new version with an upcaster to the newest. Each is declared in the file of its
// struct.
type kind string

// class groups the kinds by what they are about.
type class uint8

const (
	configuration class = iota // a tenant, a key, the catalog, an invoice ...: kept as JSON
	usageChange                // a fact, recorded or corrected
	usageRefusal               // a payload that contradicts a recorded fact
	quota                      // a quota stream's decisions and holds
)

// definition is how the events of one kind are read.
type definition struct {
	kind  kind
	class class
	// decode reads a payload. The type of the fact that the event is about comes from outside; "" where there is none.
	decode func(k kind, about Identity, payload []byte) (any, error)
}

// definitions is the one list of all kinds. A new kind goes at the end of its group and needs a recording in testdata.
var definitions = []definition{
	{usageRecorded, usageChange, decodeUsage},
	{usageVoided, usageChange, decodeUsage},
	{usageAdjusted, usageChange, decodeUsage},
	{usageConflicted, usageRefusal, decodeUsage},

	{tenantDefined, configuration, decodeJSON[TenantDefined]},
	{catalogApplied, configuration, decodeJSON[CatalogApplied]},
	{costsImported, configuration, decodeJSON[CostsImported]},
	{keyCreated, configuration, decodeJSON[KeyCreated]},
	{keyRevoked, configuration, decodeJSON[KeyRevoked]},
	{adminSwitched, configuration, decodeJSON[AdminSwitched]},
	{tenantStatusChanged, configuration, decodeJSON[TenantStatusChanged]},
	{hostVerified, configuration, decodeJSON[HostVerified]},
	{nameClaimed, configuration, decodeJSON[NameClaimed]},
	{nameReleased, configuration, decodeJSON[NameReleased]},
	{nameFreed, configuration, decodeJSON[NameFreed]},
	{invoiceFinalised, configuration, decodeJSON[InvoiceFinalised]},
	{invoiceVoided, configuration, decodeJSON[InvoiceVoided]},
	{invoiceSettled, configuration, decodeJSON[InvoiceSettled]},
	{creditGranted, configuration, decodeJSON[CreditGranted]},
	{creditRefunded, configuration, decodeJSON[CreditRefunded]},
	{planAssigned, configuration, decodeJSON[PlanAssigned]},
	{limitOverridden, configuration, decodeJSON[LimitOverridden]},
	{limitOverrideRemoved, configuration, decodeJSON[LimitOverrideRemoved]},

	{limitDecided, quota, decodeQuotaEvent},
	{holdReleased, quota, decodeQuotaEvent},
	{holdExpired, quota, decodeQuotaEvent},
}

var registry = index(definitions)

func index(definitions []definition) map[kind]definition {
	m := make(map[kind]definition, len(definitions))
	for _, d := range definitions {
		m[d.kind] = d
	}
	return m
}

// Kinds lists every kind that the log can hold.
func Kinds() []string {
	kinds := make([]string, len(definitions))
	for i, d := range definitions {
		kinds[i] = string(d.kind)
	}
	return kinds
}

// IsUsage reports whether an event of this type is a recorded fact or a correction of one.
func IsUsage(logType string) bool { return isOf(usageChange, logType) }

// IsDecision reports whether an event of this type is on a quota stream.
func IsDecision(logType string) bool { return isOf(quota, logType) }

func isOf(c class, logType string) bool {
	name, _, _ := strings.Cut(logType, ":")
	d, ok := registry[kind(name)]
	return ok && d.class == c
}

// typeName is an event's type on the log. Events about a fact carry the fact's own type after a colon, so that stores and
// readers can see it without opening the payload.
func typeName(k kind, t Type) string {
	if t == "" {
		return string(k)
	}
	return string(k) + ":" + string(t)
}

// Decoded is an event of the log together with what it says: the struct of its kind.
type Decoded struct {
	eventstore.Recorded
	Payload any
}

// Decode reads an event of the log into the struct of its kind: UsageRecorded, UsageVoided ... Errors wrap ErrMalformed.
func Decode(r eventstore.Recorded) (any, error) {
	e, err := decode(r)
	if err != nil {
		return nil, fmt.Errorf("%w at %s (%s): %w", ErrMalformed, r.Position, r.Type, err)
	}
	return e, nil
}

func decode(r eventstore.Recorded) (any, error) {
	name, usageType, hasType := strings.Cut(r.Type, ":")
	d, ok := registry[kind(name)]
	switch {
	case !ok:
		return nil, errors.New("unknown kind")
	case hasType && d.class == configuration:
		return nil, errors.New("this kind has no usage type")
	}
	return d.decode(d.kind, Identity{Tenant: TenantID(r.Tenant), Type: Type(usageType)}, r.Data)
}
