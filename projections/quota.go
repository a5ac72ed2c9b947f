package projections

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
)

// QuotaModel is the name of the read model that holds what limits have to know about each tenant.
const QuotaModel = "quota"

// QuotaAccount is the small state that a tenant's decisions make.
type QuotaAccount struct {
	Tenant   event.TenantID
	Revision eventstore.Revision
	State    json.RawMessage
}

// HoldKey names a hold: the identity of its check, hashed.
type HoldKey struct {
	Tenant event.TenantID
	ID     uuid.UUID
}

// QuotaHold is an allowed check whose usage has not arrived.
type QuotaHold struct {
	HoldKey
	Type      event.Type
	Position  eventstore.Position // of the decision
	KeepUntil time.Time
	Decision  []byte // as on the log
}

// QuotaChange is what a range of events changes, sorted by key.
type QuotaChange struct {
	Accounts []QuotaAccount
	Holds    []QuotaHold
	Gone     []HoldKey
}

// IsEmpty reports that nothing changes.
func (c QuotaChange) IsEmpty() bool {
	return len(c.Accounts) == 0 && len(c.Holds) == 0 && len(c.Gone) == 0
}

// QuotaTenants lists the tenants whose accounts FoldQuota needs, sorted.
func QuotaTenants(events []event.Decoded) []event.TenantID {
	tenants := map[event.TenantID]bool{}
	for i := range events {
		switch p := events[i].Payload.(type) {
		case event.UsageRecorded:
			tenants[p.Tenant] = true
		case event.LimitDecided:
			tenants[p.Tenant] = true
		case event.HoldReleased:
			tenants[p.Tenant] = true
		case event.HoldExpired:
			tenants[p.Tenant] = true
		}
	}
	return slices.Sorted(maps.Keys(tenants))
}

// FoldQuota folds events into the accounts as they were before. Usage of a tenant that has no account settles nothing.
// Errors: event.ErrMalformed, wrapped, for a decision that does not follow the one before it.
func FoldQuota(events []event.Decoded, before map[event.TenantID]QuotaAccount) (QuotaChange, error) {
	type account struct {
		revision eventstore.Revision
		state    limit.State
		changed  bool
	}
	accounts := make(map[event.TenantID]*account, len(before))
	for t, a := range before {
		loaded := &account{revision: a.Revision}
		if err := json.Unmarshal(a.State, &loaded.state); err != nil {
			return QuotaChange{}, fmt.Errorf("quota account of %s: %w", t, err)
		}
		accounts[t] = loaded
	}
	holds := map[HoldKey]*QuotaHold{} // nil: gone
	next := func(i int, t event.TenantID) (*account, error) {
		a := accounts[t]
		if a == nil {
			a = &account{revision: eventstore.NoStream}
			accounts[t] = a
		}
		if e := &events[i]; e.Revision != a.revision+1 {
			return nil, malformed(*e, fmt.Errorf("revision %d of the quota stream follows %d", e.Revision, a.revision))
		}
		a.revision++
		a.changed = true
		return a, nil
	}
	for i := range events {
		switch p := events[i].Payload.(type) {
		case event.UsageRecorded:
			if accounts[p.Tenant] != nil {
				holds[holdKey(p.Identity)] = nil
			}
		case event.LimitDecided:
			a, err := next(i, p.Tenant)
			if err != nil {
				return QuotaChange{}, err
			}
			a.state.Apply(&p)
			if p.Keeps {
				k := holdKey(p.Identity)
				holds[k] = &QuotaHold{HoldKey: k, Type: p.Type, Position: events[i].Position, KeepUntil: p.KeepUntil, Decision: events[i].Data}
			}
		case event.HoldReleased:
			if _, err := next(i, p.Tenant); err != nil {
				return QuotaChange{}, err
			}
			holds[holdKey(p.Identity)] = nil
		case event.HoldExpired:
			if _, err := next(i, p.Tenant); err != nil {
				return QuotaChange{}, err
			}
			holds[holdKey(p.Identity)] = nil
		}
	}
	var change QuotaChange
	for t, a := range accounts {
		if !a.changed {
			continue
		}
		state, err := json.Marshal(a.state)
		if err != nil {
			return QuotaChange{}, fmt.Errorf("quota account of %s: %w", t, err)
		}
		change.Accounts = append(change.Accounts, QuotaAccount{t, a.revision, state})
	}
	for k, h := range holds {
		if h == nil {
			change.Gone = append(change.Gone, k)
		} else {
			change.Holds = append(change.Holds, *h)
		}
	}
	slices.SortFunc(change.Accounts, func(a, b QuotaAccount) int { return cmp.Compare(a.Tenant, b.Tenant) })
	slices.SortFunc(change.Holds, func(a, b QuotaHold) int { return compareHolds(a.HoldKey, b.HoldKey) })
	slices.SortFunc(change.Gone, compareHolds)
	return change, nil
}

func holdKey(id event.Identity) HoldKey { return HoldKey{id.Tenant, id.UUID()} }

func compareHolds(a, b HoldKey) int {
	return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), bytes.Compare(a.ID[:], b.ID[:]))
}

// DecodeHold reads a row of the read model.
func DecodeHold(h QuotaHold) (limit.Hold, error) {
	payload, err := event.DecodeDecision(h.Tenant, h.Type, h.Decision)
	if err != nil {
		return limit.Hold{}, fmt.Errorf("hold at %s: %w", h.Position, err)
	}
	return limit.Hold{LimitDecided: payload, Position: h.Position}, nil
}
