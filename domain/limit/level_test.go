package limit_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// The sums of single values are bounded. What leaves is asked for again, also by the check that made the room.
func TestSumsOfSingleValuesLeaveTheMemory(t *testing.T) {
	perUser := quotaOf("units", "5", catalog.Day)
	perUser.Per = []string{"user"}
	w := newWorld(t, perUser)
	p := w.policy()
	needs := func(i int) []limit.Need {
		return p.NeedsOf("call", event.NewData(map[string]any{"user": fmt.Sprint("u", i)}))
	}
	const many = 20_000
	for i := range many {
		w.account.MakeRoom(1)
		require.Len(t, w.account.Missing(needs(i)), 1)
		w.account.AddValue(limit.Loaded{Need: needs(i)[0]}, nil, 0)
	}
	both := append(needs(0), needs(many)...)
	require.Len(t, w.account.Missing(both), 1, "the first one is there")
	w.account.MakeRoom(len(both))
	for _, n := range w.account.Missing(both) {
		w.account.AddValue(limit.Loaded{Need: n}, nil, 0)
	}
	require.Empty(t, w.account.Missing(both))
	left := 0
	for i := range many {
		left += 1 - len(w.account.Missing(needs(i)))
	}
	require.Less(t, left, many)
	for _, user := range []string{"u0", fmt.Sprint("u", many)} {
		require.True(t, w.account.Decide(p, call("s", "1", "user", user), w.now).Allowed)
	}
}

// A value that limits cannot count by is kept nowhere, whatever plan the tenant has.
func TestValuesThatNobodyCountsBy(t *testing.T) {
	for _, user := range []string{"", strings.Repeat("x", 201)} {
		w := newWorld(t, quotaOf("units", "5", catalog.Day))
		w.check(call("s1", "1", "user", user))
		w.check(call("s2", "1", "user", "u1"))
		var s limit.State
		for _, e := range w.log {
			d := e.Payload.(event.LimitDecided)
			require.Equal(t, []string{"user"}, d.Levels)
			s.Apply(&d)
		}
		require.Len(t, s.Admitted, 2, "of all, and of u1")

		perUser := quotaOf("units", "5", catalog.Day)
		perUser.Per = []string{"user"}
		w.plan.Limits = []catalog.Limit{perUser}
		require.Error(t, w.policy().Check(call("s3", "1", "user", user).Check))
		require.Empty(t, w.policy().NeedsOf("call", call("s3", "1", "user", user).Data))
		require.False(t, w.check(call("s3", "1", "user", user)).Allowed)
	}
}

// Overrides that change often do not make a denial look ahead without end.
func TestADenialLooksAheadSoFar(t *testing.T) {
	w := newWorld(t, quotaOf("units", "1", catalog.Day))
	for i := range 50 {
		w.sub = w.sub.SetOverride(tenant.Override{Limit: catalog.LimitKey(fmt.Sprint("other", i)), From: w.now.Add(time.Duration(i+1) * time.Minute)})
	}
	got := w.check(call("s1", "2"))
	require.False(t, got.Allowed)
	require.Equal(t, w.now.Add(33*time.Minute), got.Parts[0].ResetAt, "then it is time to ask again")
	require.Equal(t, eventstore.Revision(0), w.account.Revision())
}
