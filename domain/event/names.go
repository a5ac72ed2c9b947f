package event

import (
	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// NameClaimed: the name leads to the tenant from here on. The streams of names belong to the installation, since what they
// decide is between tenants: a name has one holder.
type NameClaimed struct {
	Kind   string   `json:"kind"` // slug or host
	Name   string   `json:"name"` // canonical
	Tenant TenantID `json:"tenantId"`
	By     Actor    `json:"by"`
}

// NameReleased: the tenant does not use the name any more. It stays reserved for that tenant.
type NameReleased struct {
	Kind   string   `json:"kind"`
	Name   string   `json:"name"`
	Tenant TenantID `json:"tenantId"`
	By     Actor    `json:"by"`
}

// NameFreed: whoever claims the name next may have it.
type NameFreed struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Reason string `json:"reason"`
	By     Actor  `json:"by"`
}

// HostVerified: whoever controls the host's DNS agreed to the tenant's claim of it. It is in the tenant's stream.
type HostVerified struct {
	Tenant TenantID            `json:"tenantId"`
	Host   string              `json:"host"`
	Claim  eventstore.Revision `json:"claim"` // of the claim in the name's stream
	By     Actor               `json:"by"`
}

// TenantStatusChanged: the tenant may do more or less than before. It is in the tenant's stream.
type TenantStatusChanged struct {
	Tenant TenantID `json:"tenantId"`
	Status string   `json:"status"` // active, suspended or closed
	Reason string   `json:"reason"`
	By     Actor    `json:"by"`
}

// NameStream is the stream of a name.
func NameStream(kind, name string) eventstore.StreamName {
	return eventstore.StreamName("name-" + uuid.NewSHA1(eventSpace, []byte(kind+"\x00"+name)).String())
}

func (e NameClaimed) of() TenantID         { return "" }
func (e NameReleased) of() TenantID        { return "" }
func (e NameFreed) of() TenantID           { return "" }
func (e HostVerified) of() TenantID        { return e.Tenant }
func (e TenantStatusChanged) of() TenantID { return e.Tenant }

func (e NameClaimed) missing() bool         { return e.Kind == "" || e.Name == "" || e.Tenant == "" }
func (e NameReleased) missing() bool        { return e.Kind == "" || e.Name == "" || e.Tenant == "" }
func (e NameFreed) missing() bool           { return e.Kind == "" || e.Name == "" }
func (e HostVerified) missing() bool        { return e.Tenant == "" || e.Host == "" || e.Claim < 0 }
func (e TenantStatusChanged) missing() bool { return e.Tenant == "" || e.Status == "" }

// Append is the log entry after revision expected.
func (e NameClaimed) Append(expected eventstore.Revision) eventstore.Append {
	return command(NameStream(e.Kind, e.Name), "", expected, string(nameClaimed), encodeJSON(e))
}

// Append is the log entry after revision expected.
func (e NameReleased) Append(expected eventstore.Revision) eventstore.Append {
	return command(NameStream(e.Kind, e.Name), "", expected, string(nameReleased), encodeJSON(e))
}

// Append is the log entry after revision expected.
func (e NameFreed) Append(expected eventstore.Revision) eventstore.Append {
	return command(NameStream(e.Kind, e.Name), "", expected, string(nameFreed), encodeJSON(e))
}

// Append is the log entry after revision expected of the tenant's stream.
func (e HostVerified) Append(expected eventstore.Revision) eventstore.Append {
	return command(TenantStream(e.Tenant), e.Tenant, expected, string(hostVerified), encodeJSON(e))
}

// Append is the log entry after revision expected of the tenant's stream.
func (e TenantStatusChanged) Append(expected eventstore.Revision) eventstore.Append {
	return command(TenantStream(e.Tenant), e.Tenant, expected, string(tenantStatusChanged), encodeJSON(e))
}
