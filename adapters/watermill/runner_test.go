package watermill_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/postgres"
	"github.com/tollgate-io/tollgate/adapters/watermill"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/domain/usage"
)

func TestEventsReachEveryReadModel(t *testing.T) {
	h := newHouse(t)
	h.run(t, watermill.Config{})
	h.await(t, h.append(t, applyCatalog(t)))
	acme := tenantIn(1)
	secret := tenant.Secret("a key of a test, long enough")
	hash := secret.Hash()
	h.await(t, h.append(t, event.TenantDefined{Tenant: event.TenantID(acme), Name: "Acme", TimeZone: "Europe/Berlin", Currency: "EUR", By: "system"}.Append(eventstore.NoStream),
		event.KeyCreated{ID: "key_1", Kind: "tenant", Tenant: event.TenantID(acme), Name: "backend", Hash: hash[:], By: "system"}.Append()))
	batch := recorded(acme, 0, 1000)
	h.await(t, h.append(t, batch...))
	before := fact(acme, 3)
	h.await(t, h.append(t, event.UsageVoided{Usage: before, Metadata: event.Metadata{Catalog: 0}, Reason: "test", By: "system"}.Append(0)))

	report, at, err := h.read.Usage(t.Context(), usage.Query{Tenant: event.TenantID(acme), From: noon, To: noon.Add(time.Hour), Granularity: usage.Hour, Meter: "tokens", GroupBy: []string{"model"}})
	require.NoError(t, err)
	require.EqualValues(t, 1003, at.Offset)
	var want, events int64
	for n := range 1000 {
		if n != 3 {
			want += int64(n%7 + 1)
			events++
		}
	}
	require.Equal(t, strconv.FormatInt(want, 10), report.Total.String())
	require.Len(t, report.Items, 3)
	for _, row := range report.Items {
		events -= row.Events
	}
	require.Zero(t, events)

	positions, next, _, err := h.read.Timeline(t.Context(), postgres.TimelineQuery{Tenant: event.TenantID(acme), Limit: 10})
	require.NoError(t, err)
	require.Len(t, positions, 10)
	require.NotEmpty(t, next)

	got, _, err := h.read.Tenant(t.Context(), event.TenantID(acme))
	require.NoError(t, err)
	require.Equal(t, "Acme", got.Name)
	key, _, err := h.read.KeyByHash(t.Context(), hash)
	require.NoError(t, err)
	require.EqualValues(t, "key_1", key.ID)
	revision, text, _, err := h.read.Catalog(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 0, revision)
	require.NotEmpty(t, text)
}
