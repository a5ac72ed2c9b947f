package projections

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// TenantRow is a tenant's latest definition.
type TenantRow struct {
	tenant.Tenant
	Revision  eventstore.Revision
	DefinedAt time.Time
	By        event.Actor
}

// KeyRow is a newly created API key.
type KeyRow struct {
	tenant.Key
	Hash tenant.Hash
	By   event.Actor
}

// Revocation ends an API key. The key's creation may be in the same range or in an earlier one.
type Revocation struct {
	ID event.KeyID
	At time.Time
	By event.Actor
}

// CatalogRow is the catalog in force.
type CatalogRow struct {
	Revision  eventstore.Revision
	Catalog   json.RawMessage
	AppliedAt time.Time
	By        event.Actor
}

// DirectoryChange is what a range of events changes in the directory: at most one row for each tenant and key, sorted
// by id. A row replaces an older revision and never a newer one, so the order in which partitions arrive is of no
// importance.
type DirectoryChange struct {
	Tenants     []TenantRow
	Keys        []KeyRow
	Revocations []Revocation
	Catalog     *CatalogRow
}

// IsEmpty reports that nothing changes; nearly all ranges are like that.
func (c DirectoryChange) IsEmpty() bool {
	return len(c.Tenants) == 0 && len(c.Keys) == 0 && len(c.Revocations) == 0 && c.Catalog == nil
}

// FoldDirectory reads what changes from events.
func FoldDirectory(events []Event) DirectoryChange {
	var (
		tenants = map[event.TenantID]TenantRow{}
		keys    = map[event.KeyID]KeyRow{}
		revoked = map[event.KeyID]Revocation{}
		change  DirectoryChange
	)
	for i := range events {
		r := &events[i].Recorded
		switch e := events[i].Payload.(type) {
		case event.TenantDefined:
			if known, ok := tenants[e.Tenant]; ok && known.Revision >= r.Revision {
				continue
			}
			tenants[e.Tenant] = TenantRow{
				Tenant:   tenant.Tenant{ID: e.Tenant, Name: e.Name, TimeZone: e.TimeZone, Currency: e.Currency, Hosts: e.Hosts, Slug: e.Slug},
				Revision: r.Revision, DefinedAt: r.RecordedAt, By: e.By,
			}
		case event.KeyCreated:
			row := KeyRow{
				Key: tenant.Key{ID: e.ID, Kind: tenant.KeyKind(e.Kind), Tenant: e.Tenant, Name: e.Name, CreatedAt: r.RecordedAt},
				By:  e.By,
			}
			copy(row.Hash[:], e.Hash)
			keys[e.ID] = row
		case event.KeyRevoked:
			if _, ok := revoked[e.ID]; !ok {
				revoked[e.ID] = Revocation{ID: e.ID, At: r.RecordedAt, By: e.By}
			}
		case event.CatalogApplied:
			if change.Catalog == nil || change.Catalog.Revision < r.Revision {
				change.Catalog = &CatalogRow{Revision: r.Revision, Catalog: e.Catalog, AppliedAt: r.RecordedAt, By: e.By}
			}
		}
	}
	change.Tenants = slices.SortedFunc(maps.Values(tenants), func(a, b TenantRow) int { return cmp.Compare(a.ID, b.ID) })
	change.Keys = slices.SortedFunc(maps.Values(keys), func(a, b KeyRow) int { return cmp.Compare(a.ID, b.ID) })
	change.Revocations = slices.SortedFunc(maps.Values(revoked), func(a, b Revocation) int { return cmp.Compare(a.ID, b.ID) })
	return change
}
