package limiter

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/limit"
)

func lateOf(t event.TenantID, given time.Time) late {
	return late{ask: limit.Ask{Check: event.Check{Identity: event.Identity{Tenant: t}}}, given: given}
}

// Decisions that wait for the log are taken by tenant, oldest first, and are bounded in number and age.
func TestBacklog(t *testing.T) {
	noon := time.Date(2026, 4, 5, 12, 0, 0, 0, time.UTC)
	b := backlog{added: make(chan struct{}, 1)}
	require.True(t, b.add(lateOf("t0", noon.Add(-time.Second))))
	for _, id := range []event.TenantID{"t1", "t2", "t1", "t1"} {
		require.True(t, b.add(lateOf(id, noon)))
	}
	taken, expired := b.take(noon, 2)
	require.Equal(t, 1, expired, "of t0")
	require.Equal(t, []late{lateOf("t1", noon), lateOf("t1", noon)}, taken)
	require.Equal(t, 2, b.len())
	b.putBack(taken)
	taken, _ = b.take(noon, 10)
	require.Equal(t, []late{lateOf("t2", noon)}, taken, "a tenant that could not be served keeps nobody waiting")
	taken, _ = b.take(noon, 10)
	require.Len(t, taken, 3)
	taken, expired = b.take(noon, 10)
	require.Empty(t, taken)
	require.Zero(t, expired)

	for range maxLate {
		require.True(t, b.add(lateOf("t1", noon)))
	}
	require.False(t, b.add(lateOf("t1", noon)), "there is no room")
}
