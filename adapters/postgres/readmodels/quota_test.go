package readmodels_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

const quotaPlan = testCatalog + `
plans:
  - key: pro
    currency: USD
    limits:
      - {key: calls_a_second, kind: rate, on: [tokens_spent], max: 20, window: 1s, burst: 5}
      - {key: tokens_per_day, kind: quota, meter: tokens, max: 2500, window: day}
      - {key: output_per_minute, kind: quota, meter: output_tokens, max: 2000, window: minute}
      - {key: sessions, kind: concurrency, on: [tokens_spent], max: 3, holdTTL: 3s}
      - {key: retries, kind: retry_budget, on: [tokens_spent], ratio: 0.2, minimum: 2, window: 1m, maxAttempts: 3}
      - {key: spend, kind: budget, max: "1000.00", window: month}
      - {key: abuse, kind: abuse_guard, denials: 25, ratio: 0.7, window: 5s, cooldown: 1s, maxCooldown: 8s}
    prices:
      - {key: tokens, model: per_unit, meter: tokens, unit: "0.001"}
      - {key: o3, model: per_unit, meter: tokens, unit: "0.01", where: {model: o3}}
`

func policyOf(t *testing.T) *limit.Policy {
	t.Helper()
	c, err := catalog.Parse([]byte(quotaPlan))
	require.NoError(t, err)
	s := tenant.Subscription{Assignments: []tenant.Assignment{{Plan: "pro", EffectiveAt: noon.AddDate(-1, 0, 0), BillingAnchor: noon}}}
	return limit.NewPolicy(&c, nil, s, tenant.Active, time.UTC, noon)
}

// tell folds everything that the log has of a tenant after an offset.
func tell(l *ledger, a *limit.Account, of event.TenantID, c *catalog.Catalog, after int64) {
	l.Helper()
	at := eventstore.Position{Partition: eventstore.PartitionOf(string(of), testPartitions), Offset: after}
	for {
		page, err := l.log.ReadLog(context.Background(), at, 1000)
		require.NoError(l, err)
		if len(page) == 0 {
			return
		}
		at = page[len(page)-1].Position
		events, err := event.DecodeAll(page)
		require.NoError(l, err)
		for _, e := range events {
			if e.Tenant != string(of) {
				continue
			}
			told := limit.Entry{Position: e.Position, Revision: e.Revision, Payload: e.Payload}
			switch p := e.Payload.(type) {
			case event.UsageRecorded:
				told.Meters = c.MetersOf(string(p.Type))
			case event.UsageVoided:
				told.Meters = c.MetersOf(string(p.Type))
			case event.UsageAdjusted:
				told.Meters = c.MetersOf(string(p.Type))
			}
			require.NoError(l, a.Apply(told))
		}
	}
}

// loaded is the account as a process would load it: what the read models say, and the rest of the log.
func loaded(l *ledger, of event.TenantID, p *limit.Policy, c *catalog.Catalog, now time.Time) *limit.Account {
	l.Helper()
	accounts := readmodels.NewAccountLoader(l.Store, l.log)
	snapshot, err := accounts.Account(context.Background(), of)
	require.NoError(l, err)
	a := limit.NewAccount(of, snapshot)
	low := snapshot.At
	series, err := accounts.Series(context.Background(), of, p.Needs(), now.Add(-limit.History), now.Add(-limit.RecentMinutes))
	require.NoError(l, err)
	for _, s := range series {
		a.AddSeries(s)
		low = min(low, s.At)
		if s.Need.Minutes {
			low = min(low, s.MinutesAt)
		}
	}
	tell(l, a, of, c, low)
	return a
}

// Whatever each read model has seen of the log: with the rest of it, the account is the fold of the whole log. And a rebuild
// gives the same tables.
func TestAccountsAreFoldsOfTheLog(t *testing.T) {
	l := newLedger(t)
	ctx := context.Background()
	c, err := catalog.Parse([]byte(quotaPlan))
	require.NoError(t, err)
	l.append(event.CatalogApplied{Catalog: c.Canonical(), By: "cli"}.Append(eventstore.NoStream))
	p := policyOf(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	now := noon
	tenants := []event.TenantID{tenantOf(0), tenantOf(1), "other"}
	live := map[event.TenantID]*limit.Account{}
	for _, of := range tenants {
		live[of] = limit.NewAccount(of, limit.Snapshot{Revision: eventstore.NoStream})
		for _, n := range p.Needs() {
			live[of].AddSeries(limit.Loaded{Need: n})
		}
	}
	read := map[event.TenantID]int64{} // how far the live accounts were told
	corrections := map[event.SourceID]eventstore.Revision{}
	kinds := map[string]int{}
	for step := range 400 {
		of := tenants[random.IntN(len(tenants))]
		account := live[of]
		now = now.Add(time.Duration(random.IntN(400)) * time.Millisecond)
		n := random.IntN(150)
		u := tokens(of, n)
		u.OccurredAt = now
		check := event.Check{Identity: u.Identity, Quantity: u.Quantity, Data: u.Data}
		var proposed []event.QuotaEvent
		account.Begin()
		switch random.IntN(10) {
		case 0, 1:
			r := l.log.Append(ctx, []eventstore.Append{u.Append(counted)})[0]
			require.NoError(t, r.Err)
		case 2:
			recorded, err := l.log.ReadStream(ctx, u.Stream(), 0, 100)
			require.NoError(t, err)
			if len(recorded) == 1 {
				payload, err := event.Decode(recorded[0])
				require.NoError(t, err)
				corrected := event.UsageAdjusted{Usage: payload.(event.UsageRecorded).Usage, Metadata: counted, Quantity: money.Int(7), Data: u.Data, Reason: "wrong", By: "cli"}
				l.append(corrected.Append(corrections[u.Source]))
			}
		case 3:
			if e := account.Release(limit.Source{Type: u.Type, Source: u.Source}, now, "cli"); e != nil {
				account.Propose(e)
				proposed = append(proposed, e)
			}
		case 4:
			for _, e := range account.Expired(now, 3) {
				account.Propose(e)
				proposed = append(proposed, e)
			}
		default:
			ask := limit.Ask{Check: check, NoHold: random.IntN(5) == 0}
			if random.IntN(4) == 0 {
				ask.Data = event.NewData(map[string]any{"model": "o3", "outputTokens": 3, "attempt": 2, "retryOf": "call_1"})
			}
			if answer := account.Decide(p, ask, now); answer.Record {
				account.Propose(answer.LimitDecided)
				proposed = append(proposed, answer.LimitDecided)
				kinds[fmt.Sprint("allowed ", answer.Allowed)]++
				for _, part := range answer.Parts {
					if part.Denied {
						kinds[part.Limit]++
					}
				}
			}
		}
		if len(proposed) > 0 {
			r := l.log.Append(ctx, []eventstore.Append{event.AppendDecisions(uuid.Nil, of, account.Revision()-eventstore.Revision(len(proposed)), proposed, nil)})[0]
			require.Equal(t, eventstore.Appended, r.Outcome, "step %d: %v", step, r.Err)
			account.Keep(proposed, r)
		} else {
			account.Keep(nil, eventstore.Result{})
		}
		tell(l, account, of, &c, read[of])
		head, err := l.log.Head(ctx, eventstore.PartitionOf(string(of), testPartitions))
		require.NoError(t, err)
		read[of] = head.Offset
		if random.IntN(4) == 0 { // each read model goes its own way
			_, err := l.step(ctx, readmodels.Names()[random.IntN(models)], random.IntN(testPartitions), 1+random.IntN(40))
			require.NoError(t, err)
		}
		if step%25 == 0 || step == 399 {
			again := loaded(l, of, p, &c, now)
			require.Equal(t, account.Revision(), again.Revision(), "step %d", step)
			require.Equal(t, account.View(p, now, event.Data{}), again.View(p, now, event.Data{}), "step %d", step)
			require.Equal(t, account.Held(p, now), again.Held(p, now), "step %d", step)
		}
	}
	t.Logf("decisions %v", kinds)
	require.Greater(t, kinds["allowed true"], 15)
	require.Greater(t, kinds["allowed false"], 15)
	l.project()
	for _, of := range tenants {
		again := loaded(l, of, p, &c, now)
		require.Equal(t, live[of].View(p, now, event.Data{}), again.View(p, now, event.Data{}))
		require.Equal(t, live[of].Held(p, now), again.Held(p, now))
	}
	require.Positive(t, l.number(`select count(*) from quota_holds`))
	_, err = l.Rebuild(ctx, l.log, nil, nil)
	require.NoError(t, err)

	overdue, err := readmodels.NewAccountLoader(l.Store, l.log).Overdue(ctx, now.Add(time.Hour), 10)
	require.NoError(t, err)
	require.ElementsMatch(t, tenants, overdue)
	overdue, err = readmodels.NewAccountLoader(l.Store, l.log).Overdue(ctx, noon, 10)
	require.NoError(t, err)
	require.Empty(t, overdue)
}
