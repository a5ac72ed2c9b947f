package stack_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
	"github.com/tollgate-io/tollgate/cmd/stack"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/limiter"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/migrations"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m, migrations.Up)) }

// replica is one server without its HTTP.
func replica(t *testing.T, url string) *stack.Stack {
	t.Helper()
	s, err := stack.Open(t.Context(), stack.Config{DatabaseURL: url, EventStore: stack.InPostgres, Partitions: 3, MaxLag: time.Minute, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	require.NoError(t, s.Fold(context.WithoutCancel(t.Context())))
	s.StartLimits()
	return s
}

// Once one server has answered an administrator, no other one refuses, records or decides by what was before.
func TestReplicasAgreeOnceAnAdministratorIsAnswered(t *testing.T) {
	url := pgtest.Database(t)
	replicas := []*stack.Stack{replica(t, url), replica(t, url)}
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // which server does what
	pick := func() *stack.Stack { return replicas[random.IntN(len(replicas))] }
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()

	types := []string{"calls"}
	apply := func() app.CatalogChange {
		t.Helper()
		var meters strings.Builder
		for _, typ := range types {
			_, _ = fmt.Fprintf(&meters, "\n  - {key: %s, eventType: %s, aggregation: sum}", typ, typ)
		}
		c, err := catalog.Parse([]byte("meters:" + meters.String() + `
plans:
  - key: pro
    currency: USD
    limits: [{key: calls_per_day, kind: quota, meter: calls, max: 1000000, window: day}]
`))
		require.NoError(t, err)
		change, err := pick().Ledger.ApplyCatalog(ctx, c, false, "cli")
		require.NoError(t, err)
		return change
	}
	n := 0
	check := func(on *stack.Stack, id event.TenantID) limiter.Decision {
		t.Helper()
		n++
		d := on.Limits.Check(ctx, []limit.Ask{{Check: event.Check{
			Identity: event.Identity{Tenant: id, Type: "calls", Source: event.SourceID(fmt.Sprint("check-", n))}, Quantity: money.Int(10)}}})[0]
		require.NoError(t, d.Err)
		return d
	}
	record := func(on *stack.Stack, id event.TenantID, typ string) app.Receipt {
		n++
		return on.Ledger.Record(ctx, []app.Submission{{Usage: event.Usage{
			Identity: event.Identity{Tenant: id, Type: event.Type(typ), Source: event.SourceID(fmt.Sprint("fact-", n))}, Quantity: money.Int(1), OccurredAt: time.Now()}}})[0]
	}
	apply()
	tenants := []event.TenantID{}
	define := func() event.TenantID {
		t.Helper()
		id := event.TenantID(fmt.Sprint("t", len(tenants)))
		_, err := pick().Ledger.DefineTenant(ctx, tenant.Tenant{ID: id}, "cli")
		require.NoError(t, err)
		tenants = append(tenants, id)
		return id
	}
	assign := func(id event.TenantID) {
		t.Helper()
		_, err := pick().Ledger.AssignPlan(ctx, id, app.PlanAssignment{Plan: "pro"}, "cli")
		require.NoError(t, err)
	}
	assign(define())
	const steps = 150
	for step := range steps {
		id := tenants[random.IntN(len(tenants))]
		for _, r := range replicas { // both know what was before
			require.True(t, check(r, id).Allowed, "step %d", step)
			require.Equal(t, app.Recorded, record(r, id, types[len(types)-1]).Status)
		}
		switch random.IntN(5) {
		case 0:
			require.ErrorIs(t, record(pick(), event.TenantID(fmt.Sprint("t", len(tenants))), "calls").Err, tenant.ErrUnknown) // is remembered
			r, fresh := pick(), define()
			require.Equal(t, app.Recorded, record(r, fresh, "calls").Status, "step %d: a new tenant", step)
			assign(fresh)
			require.NotEmpty(t, check(pick(), fresh).Parts, "step %d: a new plan", step)
		case 1:
			types = append(types, fmt.Sprint("type", step))
			r, change := pick(), apply()
			receipt := record(r, id, types[len(types)-1])
			require.NoError(t, receipt.Err, "step %d: a new event type", step)
			page, err := r.Log.ReadLog(ctx, eventstore.Position{Partition: receipt.Position.Partition, Offset: receipt.Position.Offset - 1}, 1)
			require.NoError(t, err)
			e, err := event.Decode(page[0])
			require.NoError(t, err)
			require.Equal(t, change.Revision, e.(event.UsageRecorded).Catalog, "step %d: the catalog in force", step)
		case 2:
			_, err := pick().Ledger.SetStatus(ctx, id, tenant.Suspended, "unpaid", "cli")
			require.NoError(t, err)
			require.False(t, check(pick(), id).Allowed, "step %d: a suspended tenant", step)
			_, err = pick().Ledger.SetStatus(ctx, id, tenant.Active, "paid", "cli")
			require.NoError(t, err)
			require.True(t, check(pick(), id).Allowed, "step %d: an active tenant", step)
		case 3:
			_, err := pick().Ledger.OverrideLimit(ctx, id, app.Override{Limit: "calls_per_day", Max: money.Int(1), Reason: "abuse"}, "cli")
			require.NoError(t, err)
			require.False(t, check(pick(), id).Allowed, "step %d: a lowered maximum", step)
			_, _, err = pick().Ledger.RemoveOverride(ctx, id, "calls_per_day", nil, "cli")
			require.NoError(t, err)
		case 4:
			if len(types) == 1 {
				continue
			}
			gone := types[len(types)-1]
			types = types[:len(types)-1]
			apply()
			var unknown *app.UnknownEventTypeError
			require.ErrorAs(t, record(pick(), id, gone).Err, &unknown, "step %d: a meter that is gone", step)
		}
	}
}
