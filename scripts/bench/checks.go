package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
)

// The plan of the checked tenants has the limits that products have first. None is ever reached.
const benchPlan = `plans:
  - key: bench
    currency: USD
    limits:
      - {key: requests_per_minute, kind: rate, on: [tokens_spent, ai_interview_completed], max: 1000000000, window: 1m}
      - {key: tokens_per_day, kind: quota, meter: tokens, max: 100000000000000, window: day, holdTTL: 7d}
      - {key: sessions, kind: concurrency, on: [tokens_spent, ai_interview_completed], max: 1000000000, holdTTL: 7d}
`

// checkedTenants is the number of tenants in the spread load.
const checkedTenants = 1000

// hotTenant is the tenant of all checks in the hot load.
const hotTenant = 0

// Holds that are open before a measurement of open holds.
var openHolds = []int{1, 100, 10_000}

// rowTable is the baseline of a counter per tenant in PostgreSQL: correct, durable, and one row that every check locks.
type rowTable struct{ pool *pgxpool.Pool }

const (
	createRows = `create table quotas (tenant text primary key, used bigint not null, max bigint not null) with (fillfactor = 50)`
	fillRows   = `insert into quotas select 'tenant_' || lpad(i::text, 3, '0'), 0, 1000000000000000 from generate_series(0, $1::int - 1) i`
	takeRow    = `update quotas set used = used + $2 where tenant = $1 and used + $2 <= max returning max - used`
)

func newRowTable(ctx context.Context, url string) (*rowTable, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 16
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if _, err = pool.Exec(ctx, createRows); err == nil {
		_, err = pool.Exec(ctx, fillRows, checkedTenants)
	}
	return &rowTable{pool}, err
}

func (t *rowTable) handler() http.Handler {
	e := echo.New()
	e.POST("/v1/limits/check", func(c echo.Context) error {
		check, err := readCheck(c)
		if err != nil {
			return err
		}
		a := checkAnswer{Allowed: true}
		err = t.pool.QueryRow(c.Request().Context(), takeRow, check.TenantID, check.Quantity).Scan(&a.Remaining)
		if errors.Is(err, pgx.ErrNoRows) {
			a.Allowed = false
		} else if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, a)
	})
	return e
}

// newCheckLoad builds checks of one tenant, or of all in turn. Nothing of them is kept, so that as many holds are open at the
// end as at the beginning.
func newCheckLoad(addr, key string, connections int, hot bool) load {
	l := load{addr: addr}
	for c := range connections {
		g := newGenerator(uint64(c), time.Now().Add(-15*time.Minute))
		requests := make([]*request, 32)
		for i := range requests {
			f := g.next()
			f.tenant = tenantName(hotTenant)
			if !hot {
				f.tenant = tenantName((c*len(requests) + i) % checkedTenants)
			}
			body, at := f.appendJSON(nil)
			body = append(body[:len(body)-1], `,"hold":false}`...)
			requests[i] = buildRequest("/v1/limits/check", key, body, []int{at}, `{"allowed":true`)
		}
		l.connections = append(l.connections, requests)
	}
	return l
}

// checkServers are the servers that checks are compared on.
type checkServers struct {
	ledgers
	commit, always, none, row string // addresses; the baselines, and Redis with and without its log
}

func (b *bench) checkServers(ctx context.Context, name string) (*checkServers, error) {
	l, err := b.ledgers(ctx, name)
	if err != nil {
		return nil, err
	}
	s := &checkServers{ledgers: *l}
	for _, kind := range []struct {
		addr    *string
		kind    string
		durable bool
	}{{&s.always, childRedis, true}, {&s.none, childRedis, false}, {&s.commit, childBaseline, false}, {&s.row, childRow, false}} {
		c := childConfig{Kind: kind.kind}
		if kind.kind == childRedis {
			r, err := b.redis(ctx, kind.durable)
			if err != nil {
				return nil, err
			}
			c.URL = r.addr
		} else if c.URL, err = b.database(ctx, empty); err != nil {
			return nil, err
		}
		if *kind.addr, err = b.child(ctx, c, name+"-"+kind.kind); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// checks: durable limit checks over HTTP, of one hot tenant and of a thousand.
func checks(ctx context.Context, b *bench, wanted []string) error {
	defer b.scope()()
	s, err := b.checkServers(ctx, "check")
	if err != nil {
		return err
	}
	for _, addr := range []string{s.paused, s.running} {
		if err := warm(ctx, addr, s.key); err != nil {
			return err
		}
	}
	for _, name := range wanted {
		connections := lastNumber(name)
		hot := name[:len("check/hot")] == "check/hot"
		to := func(addr string) func(context.Context, time.Duration) (measurement, error) {
			return newCheckLoad(addr, s.key, connections, hot).run
		}
		all, err := b.interleave(ctx, name, b.roundCount,
			side{name: "redis, log always", run: to(s.always)},
			side{name: "redis, no log", run: to(s.none)},
			side{name: "group commit", run: to(s.commit)},
			side{name: "row", run: to(s.row)},
			side{name: "paused", run: to(s.paused)},
			side{name: "running", run: to(s.running), settle: s.probe.settle})
		if err != nil {
			return err
		}
		paused, running := all[4], all[5]
		durable := compared(name+" / redis, log always", "req/s", paused, all[0])
		folding := compared(name+" running / redis, log always", "req/s", running, all[0])
		if connections == 32 {
			durable, folding = durable.atLeast(0.9), folding.atLeast(0.5)
		}
		b.report.add(durable, folding,
			compared(name+" / redis, no log", "req/s", paused, all[1]),
			compared(name+" / group commit", "req/s", paused, all[2]),
			compared(name+" / update of a row", "req/s", paused, all[3]))
	}
	return nil
}

// warm checks every tenant once, so that a measurement does not begin with a thousand accounts to load.
func warm(ctx context.Context, addr, key string) error {
	for seen := 0; seen < 2*checkedTenants; {
		m, err := newCheckLoad(addr, key, 32, false).run(ctx, time.Second)
		if err != nil {
			return err
		}
		seen += m.events
	}
	return nil
}

// holds: whether checks get slower with the holds that are open.
func holds(ctx context.Context, b *bench, _ []string) error {
	defer b.scope()()
	var sides []side
	for _, n := range openHolds {
		url, key, err := b.ledgerDatabase(ctx)
		if err != nil {
			return err
		}
		if err := decide(ctx, url, n, true); err != nil {
			return err
		}
		addr, err := b.child(ctx, childConfig{Kind: childLedger, URL: url}, fmt.Sprintf("holds-%d", n))
		if err != nil {
			return err
		}
		sides = append(sides, side{name: fmt.Sprintf("%d open holds", n), run: newCheckLoad(addr, key, 32, true).run})
	}
	all, err := b.interleave(ctx, "check/holds", b.roundCount, sides...)
	if err != nil {
		return err
	}
	for i := range openHolds[1:] {
		b.report.add(compared(fmt.Sprintf("check/hot/32 with %d open holds / with 1", openHolds[i+1]), "req/s", all[i+1], all[0]))
	}
	return nil
}

// shortHistory is how many decisions the tenant with the short history has.
const shortHistory = 1000

// checkHistory: whether checks of one tenant get slower with its history.
func checkHistory(ctx context.Context, b *bench, _ []string) error {
	defer b.scope()()
	long := min(b.events, 1_000_000)
	var sides []side
	for _, n := range []int{shortHistory, long} {
		url, key, err := b.ledgerDatabase(ctx)
		if err != nil {
			return err
		}
		b.say("check/history: %d decisions", n)
		if err := decide(ctx, url, n, false); err != nil {
			return err
		}
		addr, err := b.child(ctx, childConfig{Kind: childLedger, URL: url}, fmt.Sprintf("check-history-%d", n))
		if err != nil {
			return err
		}
		sides = append(sides, side{name: fmt.Sprintf("after %d", n), run: newCheckLoad(addr, key, 32, true).run})
	}
	all, err := b.interleave(ctx, "check/history", b.roundCount, sides...)
	if err != nil {
		return err
	}
	b.report.add(compared(fmt.Sprintf("check/hot/32 after %d decisions / after %d", long, shortHistory), "req/s", all[1], all[0]).atLeast(0.9))
	return nil
}

// decide makes decisions of the hot tenant and waits until the read models have them. It writes them as the engine does,
// without waiting for a commit each.
func decide(ctx context.Context, url string, n int, hold bool) error {
	s, err := openStack(ctx, url, 0)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Fold(ctx); err != nil {
		return err
	}
	for made := 0; made < n; {
		asks := make([]limit.Ask, min(2000, n-made))
		for i := range asks {
			asks[i] = limit.Ask{NoHold: !hold, Check: event.Check{Quantity: money.Int(100), Identity: event.Identity{
				Tenant: event.TenantID(tenantName(hotTenant)), Type: "tokens_spent", Source: event.SourceID(newID())}}}
		}
		for _, d := range s.Limits.Check(ctx, asks) {
			if d.Err != nil || !d.Allowed {
				return fmt.Errorf("a check was not allowed: %w", errors.Join(d.Err, eventstore.ErrInvalid))
			}
		}
		made += len(asks)
	}
	return awaitReadModels(ctx, s)
}

// checkSize: what a check costs in the tables until its usage comes, which then removes the row of the hold.
func checkSize(ctx context.Context, b *bench, _ []string) error {
	defer b.scope()()
	const n = 5000
	url, _, err := b.ledgerDatabase(ctx)
	if err != nil {
		return err
	}
	pool, err := b.pool(ctx, url, 1)
	if err != nil {
		return err
	}
	if err := decide(ctx, url, 100, true); err != nil { // what is created once does not count
		return err
	}
	before, err := costs(ctx, pool)
	if err != nil {
		return err
	}
	if err := decide(ctx, url, n, true); err != nil {
		return err
	}
	// The server counts what connections have reported; each one reports when it is closed.
	for started := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		after, err := costs(ctx, pool)
		if err != nil {
			return err
		}
		check := cost{Of: "check with a hold"}
		reported := 0
		for i, a := range after {
			if a = a.since(before[i], n); a.Inserts+a.Updates > 0 {
				check.Tables = append(check.Tables, a)
			}
			if a.Inserts >= 1 {
				reported++
			}
		}
		const rows = 4 // event, identity, timeline, hold
		if reported >= rows || time.Since(started) > 10*time.Second {
			b.report.Costs = append(b.report.Costs, check)
			return nil
		}
	}
}
