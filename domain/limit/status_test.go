package limit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// A tenant that is not active gets no check through, whatever its plan: also not by renewing what it holds.
func TestStatusDeniesEveryCheck(t *testing.T) {
	now := time.Date(2026, 4, 5, 10, 0, 0, 0, time.UTC)
	plan := catalog.Plan{Key: "pro", Limits: []catalog.Limit{{Key: "sessions", Kind: catalog.Concurrency, On: []string{"call"}, Max: money.Int(5)}}}
	subscribed := tenant.Subscription{Assignments: []tenant.Assignment{{Plan: "pro", EffectiveAt: now.Add(-time.Hour), BillingAnchor: now}}}
	ask := limit.Ask{Check: event.Check{Identity: event.Identity{Tenant: "t", Type: "call", Source: "s"}, Quantity: money.Int(1)}}
	for _, sub := range []tenant.Subscription{{}, subscribed} {
		policy := func(s tenant.Status) *limit.Policy {
			return limit.NewPolicy(&catalog.Catalog{Plans: []catalog.Plan{plan}}, nil, sub, s, time.UTC, now)
		}
		account := limit.NewAccount("t", limit.Snapshot{Revision: -1})
		account.Begin()
		before := account.Decide(policy(tenant.Active), ask, now)
		require.True(t, before.Allowed)
		account.Propose(before.LimitDecided)
		for _, s := range []tenant.Status{tenant.Suspended, tenant.Closed} {
			p := policy(s)
			a := account.Decide(p, ask, now.Add(time.Minute))
			require.False(t, a.Allowed)
			require.True(t, a.Record)
			assert.False(t, a.Keeps)
			binding := a.Parts[limit.Binding(&a.LimitDecided)]
			assert.Equal(t, string(limit.StatusLimit), binding.Limit)
			assert.True(t, binding.ResetAt.IsZero(), "time does not help")
			assert.Equal(t, limit.PlanLimit, limit.Why(&a.LimitDecided))
			assert.Equal(t, "This workspace is "+string(s)+".", limit.Explain(p, &a.LimitDecided))
			degraded, ok := limit.Degraded(policy(s), ask, now)
			assert.False(t, ok && degraded.Allowed)
		}
		again := account.Decide(policy(tenant.Active), ask, now.Add(2*time.Minute))
		assert.True(t, again.Allowed)
		assert.True(t, again.Replayed, "the hold outlived the suspension")
	}
}
