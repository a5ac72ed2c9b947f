package memory_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/memory"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/eventstore/eventstoretest"
)

func TestContract(t *testing.T) {
	for name, partitions := range map[string]int{"one partition": 1, "sixteen partitions": 16} {
		t.Run(name, func(t *testing.T) {
			eventstoretest.Run(t, func(*testing.T) eventstoretest.Stores {
				store := memory.NewStore(partitions, restlessClock())
				return eventstoretest.Stores{Open: func(*testing.T) eventstore.Store { return store }}
			})
		})
	}
}

// restlessClock jumps forth and back, in a local zone and with nanoseconds: the log must straighten all of it.
func restlessClock() func() time.Time {
	var mu sync.Mutex
	dice := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's dice
	start := time.Date(2026, 3, 29, 1, 59, 59, 123_456_789, time.FixedZone("", 7200))
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return start.Add(time.Duration(dice.Int64N(int64(time.Hour))))
	}
}

func TestRecordedAtIsTheClockInMicrosecondsAndNeverGoesBack(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 1_999, time.FixedZone("", 3600))
	readings := []time.Time{noon, noon.Add(-time.Hour), noon.Add(time.Second)}
	store := memory.NewStore(1, func() time.Time {
		now := readings[0]
		readings = readings[1:]
		return now
	})
	want := time.Date(2026, 1, 1, 11, 0, 0, 1_000, time.UTC)
	for i, recorded := range []time.Time{want, want, want.Add(time.Second)} {
		got := store.Append(t.Context(), []eventstore.Append{{
			Stream: "usage-1", Expected: eventstore.Revision(i) - 1,
			Events: []eventstore.NewEvent{{ID: uuid.NewSHA1(uuid.NameSpaceOID, []byte{byte(i)}), Type: "noted"}},
		}})
		require.Equal(t, eventstore.Appended, got[0].Outcome)
		require.Equal(t, recorded, got[0].RecordedAt)
	}
}

func TestReadersCannotChangeTheLog(t *testing.T) {
	store := memory.NewStore(1, time.Now)
	store.Append(t.Context(), []eventstore.Append{{
		Stream: "usage-1", Expected: eventstore.NoStream,
		Events: []eventstore.NewEvent{{ID: uuid.NameSpaceOID, Type: "noted", Data: []byte("kept")}},
	}})
	reads := map[string]func() ([]eventstore.Recorded, error){
		"ReadLog":    func() ([]eventstore.Recorded, error) { return store.ReadLog(t.Context(), eventstore.Position{}, 1) },
		"ReadStream": func() ([]eventstore.Recorded, error) { return store.ReadStream(t.Context(), "usage-1", 0, 1) },
		"ReadAt": func() ([]eventstore.Recorded, error) {
			return store.ReadAt(t.Context(), []eventstore.Position{{Partition: 0, Offset: 1}})
		},
	}
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			got, err := read()
			require.NoError(t, err)
			copy(got[0].Data, "lost")
			got, err = read()
			require.NoError(t, err)
			require.Equal(t, "kept", string(got[0].Data))
		})
	}
}

func TestAStreamBelongsToOneTenant(t *testing.T) {
	store := memory.NewStore(4, time.Now)
	add := func(tenant string, expected eventstore.Revision) eventstore.Result {
		return store.Append(t.Context(), []eventstore.Append{{
			Stream: "quota-1", Tenant: tenant, Expected: expected,
			Events: []eventstore.NewEvent{{ID: uuid.NewSHA1(uuid.NameSpaceOID, []byte{byte(expected + 1)}), Type: "noted"}},
		}})[0]
	}
	require.Equal(t, eventstore.Appended, add("acme", eventstore.NoStream).Outcome)
	require.ErrorIs(t, add("globex", 0).Err, eventstore.ErrInvalid)
	require.Equal(t, eventstore.Appended, add("acme", 0).Outcome)
}

func TestNoLogWithoutPartitions(t *testing.T) {
	require.Panics(t, func() { memory.NewStore(0, time.Now) })
}
