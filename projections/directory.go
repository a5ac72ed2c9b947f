package projections

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// DirectoryModel is the name of the read model that holds tenants, API keys and the catalog in force.
const DirectoryModel = "directory"

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
	Versions  map[string]int // of the plans; nil for a catalog from before they were counted
	AppliedAt time.Time
	By        event.Actor
}

// AssignmentRow is what was said last about a tenant's plan from one instant on.
type AssignmentRow struct {
	tenant.Assignment
	Tenant     event.TenantID
	Revision   eventstore.Revision // of the subscription stream
	AssignedAt time.Time
	By         event.Actor
}

// OverrideRow is what was said last about a tenant's own maximum of a limit. A removed one keeps its row, which says that
// older revisions are void, whenever they arrive.
type OverrideRow struct {
	tenant.Override
	Tenant    event.TenantID
	Removed   bool
	Revision  eventstore.Revision // of the subscription stream
	ChangedAt time.Time
}

// StatusRow is a tenant's latest status.
type StatusRow struct {
	Tenant    event.TenantID
	Status    tenant.Status
	Reason    string
	Revision  eventstore.Revision // of the tenant's stream
	ChangedAt time.Time
	By        event.Actor
}

// ProofRow is the latest verification of a tenant's host.
type ProofRow struct {
	tenant.HostProof
	Tenant     event.TenantID
	Revision   eventstore.Revision // of the tenant's stream
	VerifiedAt time.Time
	By         event.Actor
}

// NameRow is who has a name.
type NameRow struct {
	tenant.Name
	tenant.Holding
	Revision  eventstore.Revision // of the name's stream
	ChangedAt time.Time
	By        event.Actor
}

// DirectoryChange is what a range of events changes in the directory: at most one row for each thing,
// sorted by id. A row replaces an older revision and never a newer one, so partitions may arrive in any order.
type DirectoryChange struct {
	Tenants     []TenantRow
	Keys        []KeyRow
	Revocations []Revocation
	Catalog     *CatalogRow
	Assignments []AssignmentRow
	Overrides   []OverrideRow
	Statuses    []StatusRow
	Proofs      []ProofRow
	Names       []NameRow
	Last        eventstore.Position // of the last event that changes something
}

// IsEmpty reports that nothing changes; nearly all ranges are like that.
func (c DirectoryChange) IsEmpty() bool {
	return len(c.Tenants) == 0 && len(c.Keys) == 0 && len(c.Revocations) == 0 && c.Catalog == nil &&
		len(c.Assignments) == 0 && len(c.Overrides) == 0 && len(c.Statuses) == 0 && len(c.Proofs) == 0 && len(c.Names) == 0
}

// FoldDirectory reads what changes from events.
func FoldDirectory(events []event.Decoded) DirectoryChange {
	var (
		tenants = map[event.TenantID]TenantRow{}
		keys    = map[event.KeyID]KeyRow{}
		revoked = map[event.KeyID]Revocation{}
		plans   = map[assignmentKey]AssignmentRow{}
		limits  = map[overrideKey]OverrideRow{}
		states  = map[event.TenantID]StatusRow{}
		proofs  = map[proofKey]ProofRow{}
		names   = map[tenant.Name]NameRow{}
		change  DirectoryChange
	)
	override := func(r *eventstore.Recorded, o tenant.Override, removed bool) {
		k := overrideKey{event.TenantID(r.Tenant), o.Limit, o.Per}
		if known, ok := limits[k]; !ok || known.Revision < r.Revision {
			limits[k] = OverrideRow{Override: o, Tenant: k.tenant, Removed: removed, Revision: r.Revision, ChangedAt: r.RecordedAt}
		}
	}
	for i := range events {
		r := &events[i].Recorded
		switch e := events[i].Payload.(type) {
		case event.TenantDefined:
			if known, ok := tenants[e.Tenant]; !ok || known.Revision < r.Revision {
				tenants[e.Tenant] = TenantRow{
					Tenant:   tenant.Tenant{ID: e.Tenant, Name: e.Name, TimeZone: e.TimeZone, Currency: e.Currency, Hosts: e.Hosts, Slug: e.Slug},
					Revision: r.Revision, DefinedAt: r.RecordedAt, By: e.By,
				}
			}
		case event.KeyCreated:
			row := KeyRow{
				Key: tenant.Key{ID: e.ID, Kind: tenant.KeyKind(e.Kind), Tenant: e.Tenant, Name: e.Name, CreatedAt: r.RecordedAt, ExpiresAt: e.ExpiresAt},
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
				change.Catalog = &CatalogRow{Revision: r.Revision, Catalog: e.Catalog, Versions: e.Versions, AppliedAt: r.RecordedAt, By: e.By}
			}
		case event.PlanAssigned:
			a := tenant.AssignmentOf(e)
			k := assignmentKey{e.Tenant, a.EffectiveAt.UnixMicro()}
			if known, ok := plans[k]; !ok || known.Revision < r.Revision {
				plans[k] = AssignmentRow{Assignment: a, Tenant: e.Tenant, Revision: r.Revision, AssignedAt: r.RecordedAt, By: e.By}
			}
		case event.LimitOverridden:
			override(r, tenant.OverrideOf(e), false)
		case event.LimitOverrideRemoved:
			override(r, tenant.Override{Limit: catalog.LimitKey(e.Limit), Per: tenant.ValuesOf(e.Per), By: e.By}, true)
		case event.TenantStatusChanged: // from here on the last of a stream wins: ranges are in order, and streams in one partition
			states[e.Tenant] = StatusRow{Tenant: e.Tenant, Status: tenant.Status(e.Status), Reason: e.Reason, Revision: r.Revision, ChangedAt: r.RecordedAt, By: e.By}
		case event.HostVerified:
			proofs[proofKey{e.Tenant, e.Host}] = ProofRow{HostProof: tenant.HostProof{Host: e.Host, Claim: e.Claim}, Tenant: e.Tenant,
				Revision: r.Revision, VerifiedAt: r.RecordedAt, By: e.By}
		case event.NameClaimed, event.NameReleased, event.NameFreed:
			n, by, _ := tenant.NameIn(e)
			holding, _ := tenant.HoldingAfter(e, r.Revision)
			names[n] = NameRow{Name: n, Holding: holding, Revision: r.Revision, ChangedAt: r.RecordedAt, By: by}
		default:
			continue
		}
		change.Last = r.Position
	}
	change.Tenants = slices.SortedFunc(maps.Values(tenants), func(a, b TenantRow) int { return cmp.Compare(a.ID, b.ID) })
	change.Keys = slices.SortedFunc(maps.Values(keys), func(a, b KeyRow) int { return cmp.Compare(a.ID, b.ID) })
	change.Revocations = slices.SortedFunc(maps.Values(revoked), func(a, b Revocation) int { return cmp.Compare(a.ID, b.ID) })
	change.Assignments = slices.SortedFunc(maps.Values(plans), func(a, b AssignmentRow) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), a.EffectiveAt.Compare(b.EffectiveAt))
	})
	change.Overrides = slices.SortedFunc(maps.Values(limits), func(a, b OverrideRow) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Limit, b.Limit), cmp.Compare(a.Per, b.Per))
	})
	change.Statuses = slices.SortedFunc(maps.Values(states), func(a, b StatusRow) int { return cmp.Compare(a.Tenant, b.Tenant) })
	change.Proofs = slices.SortedFunc(maps.Values(proofs), func(a, b ProofRow) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Host, b.Host))
	})
	change.Names = slices.SortedFunc(maps.Values(names), func(a, b NameRow) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name.Name, b.Name.Name))
	})
	return change
}

type proofKey struct {
	tenant event.TenantID
	host   string
}

type assignmentKey struct {
	tenant event.TenantID
	at     int64 // microseconds, which is what the tables keep
}

type overrideKey struct {
	tenant event.TenantID
	limit  catalog.LimitKey
	per    tenant.Values
}
