package event

import (
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const (
	tenantDefined       kind = "tenant_defined.v1"
	tenantStatusChanged kind = "tenant_status_changed.v1"
	hostVerified        kind = "host_verified.v1"
	adminSwitched       kind = "admin_switched.v1"
)

// TenantDefined: a tenant exists and is configured like this. It replaces the definition before it.
type TenantDefined struct {
	Tenant   TenantID `json:"tenantId"`
	Name     string   `json:"name"`
	TimeZone string   `json:"timeZone"`
	Currency string   `json:"currency"`
	Hosts    []string `json:"hosts"`
	Slug     string   `json:"slug"`
	By       Actor    `json:"by"`
}

// TenantStatusChanged: the tenant may do more or less than before.
type TenantStatusChanged struct {
	Tenant TenantID `json:"tenantId"`
	Status string   `json:"status"` // active, suspended or closed
	Reason string   `json:"reason"`
	By     Actor    `json:"by"`
}

// HostVerified: the DNS of the host confirmed the tenant's claim of it.
type HostVerified struct {
	Tenant TenantID            `json:"tenantId"`
	Host   string              `json:"host"`
	Claim  eventstore.Revision `json:"claim"` // of the claim in the name's stream
	By     Actor               `json:"by"`
}

// AdminSwitched: an administrator acted inside a tenant, for a reason. One event per key, reason and UTC day.
type AdminSwitched struct {
	Tenant TenantID `json:"tenantId"`
	Reason string   `json:"reason"`
	Day    string   `json:"day"` // 2006-01-02
	By     Actor    `json:"by"`
}

// TenantStream is the stream of a tenant's configuration, status and verified hosts.
func TenantStream(t TenantID) eventstore.StreamName { return streamOf("tenant", string(t)) }

func (e TenantDefined) owner() TenantID       { return e.Tenant }
func (e TenantStatusChanged) owner() TenantID { return e.Tenant }
func (e HostVerified) owner() TenantID        { return e.Tenant }
func (e AdminSwitched) owner() TenantID       { return e.Tenant }

func (e TenantDefined) wellFormed() bool       { return e.Tenant != "" }
func (e TenantStatusChanged) wellFormed() bool { return e.Tenant != "" && e.Status != "" }
func (e HostVerified) wellFormed() bool        { return e.Tenant != "" && e.Host != "" && e.Claim >= 0 }
func (e AdminSwitched) wellFormed() bool       { return e.Tenant != "" }

// Append is the log entry after revision expected of the tenant's stream.
func (e TenantDefined) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(tenantDefined, TenantStream(e.Tenant), expected, e)
}

// Append is the log entry after revision expected of the tenant's stream.
func (e TenantStatusChanged) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(tenantStatusChanged, TenantStream(e.Tenant), expected, e)
}

// Append is the log entry after revision expected of the tenant's stream.
func (e HostVerified) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(hostVerified, TenantStream(e.Tenant), expected, e)
}

// Append is the log entry, on a stream of its own: written once for the same key, reason and day.
func (e AdminSwitched) Append() eventstore.Append {
	return appendJSON(adminSwitched, streamOf("switch", string(encodeJSON(e))), eventstore.NoStream, e)
}
