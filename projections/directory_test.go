package projections_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/projections"
)

func TestDirectoryKeepsTheNewestOfEach(t *testing.T) {
	at := func(revision eventstore.Revision, payload any) event.Decoded {
		return event.Decoded{Recorded: eventstore.Recorded{Revision: revision, RecordedAt: noon.Add(time.Duration(revision) * time.Hour)}, Payload: payload}
	}
	events := []event.Decoded{
		at(0, event.TenantDefined{Tenant: "b", Name: "Old"}),
		at(0, event.TenantDefined{Tenant: "a", Name: "A"}),
		at(1, event.TenantDefined{Tenant: "b", Name: "New"}),
		at(0, event.KeyCreated{ID: "k2", Kind: "admin", Name: "two", Hash: make([]byte, 32)}),
		at(0, event.KeyCreated{ID: "k1", Kind: "tenant", Tenant: "a", Name: "one", Hash: []byte{31: 9}, By: "cli"}),
		at(1, event.KeyRevoked{ID: "k1", Tenant: "a", By: "system"}),
		at(3, event.CatalogApplied{Catalog: []byte(`{}`), Versions: map[string]int{"pro": 2}}),
		at(2, event.CatalogApplied{Catalog: []byte(`{"old":1}`)}),
		at(0, event.UsageRecorded{}),
	}
	for range 20 {
		change := projections.FoldDirectory(events)
		require.Len(t, change.Tenants, 2)
		require.EqualValues(t, "a", change.Tenants[0].ID)
		require.Equal(t, "New", change.Tenants[1].Name)
		require.EqualValues(t, 1, change.Tenants[1].Revision)
		require.Len(t, change.Keys, 2)
		require.EqualValues(t, "k1", change.Keys[0].ID)
		require.EqualValues(t, "a", change.Keys[0].Tenant)
		require.EqualValues(t, 9, change.Keys[0].Hash[31])
		require.Equal(t, []projections.Revocation{{ID: "k1", At: noon.Add(time.Hour), By: "system"}}, change.Revocations)
		require.EqualValues(t, 3, change.Catalog.Revision)
		require.Equal(t, map[string]int{"pro": 2}, change.Catalog.Versions)
		require.False(t, change.IsEmpty())
		// The order in which streams arrive does not matter.
		events = append(events[1:], events[0])
		slices.Reverse(events[:2])
	}
	require.True(t, projections.FoldDirectory([]event.Decoded{at(0, event.UsageRecorded{})}).IsEmpty())
}

func TestDirectoryKeepsTheLastWordOfASubscription(t *testing.T) {
	at := func(revision eventstore.Revision, of event.TenantID, payload any) event.Decoded {
		return event.Decoded{Payload: payload, Recorded: eventstore.Recorded{
			Tenant: string(of), Revision: revision, RecordedAt: noon.Add(time.Duration(revision) * time.Hour)}}
	}
	events := []event.Decoded{
		at(0, "a", event.PlanAssigned{Tenant: "a", Plan: "free", EffectiveAt: noon, BillingAnchor: noon}),
		at(1, "a", event.PlanAssigned{Tenant: "a", Plan: "pro", EffectiveAt: noon, BillingAnchor: noon, By: "cli"}),
		at(2, "a", event.PlanAssigned{Tenant: "a", Plan: "free", EffectiveAt: noon.Add(1e9), BillingAnchor: noon}),
		at(3, "a", event.LimitOverridden{Tenant: "a", Limit: "x", Max: money.Int(1), Reason: "r", By: "cli"}),
		at(4, "a", event.LimitOverrideRemoved{Tenant: "a", Limit: "x", By: "key:1"}),
		at(5, "a", event.LimitOverridden{Tenant: "a", Limit: "w", Max: money.Int(2), From: noon, Until: noon.Add(1e9), Reason: "r", By: "cli"}),
		at(0, "b", event.LimitOverridden{Tenant: "b", Limit: "x", Max: money.Int(3), Reason: "r", By: "cli"}),
	}
	for range 20 {
		change := projections.FoldDirectory(events)
		require.False(t, change.IsEmpty())
		require.Len(t, change.Assignments, 2)
		require.Equal(t, projections.AssignmentRow{Tenant: "a", Revision: 1, AssignedAt: noon.Add(time.Hour), By: "cli",
			Assignment: tenant.Assignment{Plan: "pro", EffectiveAt: noon, BillingAnchor: noon}}, change.Assignments[0])
		require.EqualValues(t, "free", change.Assignments[1].Plan)
		require.Equal(t, []projections.OverrideRow{
			{Tenant: "a", Revision: 5, ChangedAt: noon.Add(5 * time.Hour),
				Override: tenant.Override{Limit: "w", Max: money.Int(2), From: noon, Until: noon.Add(1e9), Reason: "r", By: "cli"}},
			{Tenant: "a", Revision: 4, ChangedAt: noon.Add(4 * time.Hour), Removed: true, Override: tenant.Override{Limit: "x", By: "key:1"}},
			{Tenant: "b", Revision: 0, ChangedAt: noon, Override: tenant.Override{Limit: "x", Max: money.Int(3), Reason: "r", By: "cli"}},
		}, change.Overrides)
		events = append(events[1:], events[0])
		slices.Reverse(events[:2])
	}
	for _, e := range events {
		require.False(t, projections.FoldDirectory([]event.Decoded{e}).IsEmpty())
	}
}
