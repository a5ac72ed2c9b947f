package projections_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/projections"
)

func TestDirectoryKeepsTheNewestOfEach(t *testing.T) {
	at := func(revision eventstore.Revision, payload any) projections.Event {
		return projections.Event{Recorded: eventstore.Recorded{Revision: revision, RecordedAt: noon.Add(time.Duration(revision) * time.Hour)}, Payload: payload}
	}
	events := []projections.Event{
		at(0, event.TenantDefined{Tenant: "b", Name: "Old"}),
		at(0, event.TenantDefined{Tenant: "a", Name: "A"}),
		at(1, event.TenantDefined{Tenant: "b", Name: "New"}),
		at(0, event.KeyCreated{ID: "k2", Kind: "admin", Name: "two", Hash: make([]byte, 32)}),
		at(0, event.KeyCreated{ID: "k1", Kind: "tenant", Tenant: "a", Name: "one", Hash: []byte{31: 9}, By: "cli"}),
		at(1, event.KeyRevoked{ID: "k1", Tenant: "a", By: "system"}),
		at(3, event.CatalogApplied{Catalog: []byte(`{}`)}),
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
		require.False(t, change.IsEmpty())
		// The order in which streams arrive does not matter.
		events = append(events[1:], events[0])
		slices.Reverse(events[:2])
	}
	require.True(t, projections.FoldDirectory([]projections.Event{at(0, event.UsageRecorded{})}).IsEmpty())
}
