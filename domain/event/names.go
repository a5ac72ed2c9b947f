package event

import (
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const (
	nameClaimed  kind = "name_claimed.v1"
	nameReleased kind = "name_released.v1"
	nameFreed    kind = "name_freed.v1"
)

// NameClaimed: the name leads to the tenant from now on. Names belong to the installation, not to a tenant, since tenants
// compete for them: a name has one holder.
type NameClaimed struct {
	Kind   string   `json:"kind"` // slug or host
	Name   string   `json:"name"` // canonical
	Tenant TenantID `json:"tenantId"`
	By     Actor    `json:"by"`
}

// NameReleased: the tenant no longer uses the name. It stays reserved for that tenant.
type NameReleased struct {
	Kind   string   `json:"kind"`
	Name   string   `json:"name"`
	Tenant TenantID `json:"tenantId"`
	By     Actor    `json:"by"`
}

// NameFreed: any tenant may claim the name next.
type NameFreed struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Reason string `json:"reason"`
	By     Actor  `json:"by"`
}

// NameStream is the stream of a name.
func NameStream(kind, name string) eventstore.StreamName {
	return streamOf("name", kind+"\x00"+name)
}

func (e NameClaimed) owner() TenantID  { return "" }
func (e NameReleased) owner() TenantID { return "" }
func (e NameFreed) owner() TenantID    { return "" }

func (e NameClaimed) wellFormed() bool  { return e.Kind != "" && e.Name != "" && e.Tenant != "" }
func (e NameReleased) wellFormed() bool { return e.Kind != "" && e.Name != "" && e.Tenant != "" }
func (e NameFreed) wellFormed() bool    { return e.Kind != "" && e.Name != "" }

// Append is the log entry after revision expected.
func (e NameClaimed) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(nameClaimed, NameStream(e.Kind, e.Name), expected, e)
}

// Append is the log entry after revision expected.
func (e NameReleased) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(nameReleased, NameStream(e.Kind, e.Name), expected, e)
}

// Append is the log entry after revision expected.
func (e NameFreed) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(nameFreed, NameStream(e.Kind, e.Name), expected, e)
}
