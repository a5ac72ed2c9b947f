package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/adapters/postgres"
	"github.com/tollgate-io/tollgate/adapters/watermill"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/migrations"
	"github.com/tollgate-io/tollgate/projections"
)

// The sizes of the pools of `tollgate serve`.
const (
	readPool  = 8
	applyPool = 8
)

// ledger is an open ledger, wired as the product wires it.
type ledger struct {
	*app.Ledger
	log        *postgres.Log
	readModels *postgres.ReadModels
	directory  *postgres.Directory
	limits     *app.Limits
	closers    []func()
}

func openLedger(ctx context.Context, url string, partitions int) (_ *ledger, err error) {
	l := &ledger{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if err := migrations.Up(ctx, url); err != nil {
		return nil, err
	}
	pools, err := postgres.OpenPools(ctx, url, readPool, applyPool)
	if err != nil {
		return nil, err
	}
	l.closers = append(l.closers, pools.Close)
	if l.log, err = postgres.OpenLog(ctx, pools.Log, url, postgres.LogConfig{Partitions: partitions}); err != nil {
		return nil, err
	}
	l.closers = append(l.closers, l.log.Close)
	l.readModels = postgres.NewReadModels(pools.Apply, pools.Read, projections.NewCatalogs(l.log))
	if _, err := l.readModels.Ensure(ctx, l.log.Partitions()); err != nil {
		return nil, err
	}
	l.directory = postgres.NewDirectory(l.readModels)
	l.Ledger = app.New(l.log, l.directory, time.Now)
	l.limits = app.NewLimits(app.LimitsConfig{Writer: uuid.New(), Store: l.log, Directory: l.directory, Accounts: postgres.NewAccounts(l.readModels, l.log),
		Catalogs: projections.NewCatalogs(l.log), Now: time.Now})
	l.closers = append(l.closers, l.limits.Close)
	return l, nil
}

// fold runs the projections until the ledger is closed.
func (l *ledger) fold(ctx context.Context) error {
	runner, err := watermill.NewRunner(watermill.Config{Target: l.readModels, Log: l.log, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = runner.Run(running) // whoever waits for the read models sees that they stand still
	}()
	l.closers = append(l.closers, func() {
		cancel()
		<-done
	})
	return nil
}

func (l *ledger) close() {
	for i := len(l.closers) - 1; i >= 0; i-- {
		l.closers[i]()
	}
}

const prepareTimeout = time.Minute

// prepare creates a ledger with its catalog, tenants and a service key, and brings its read models up to date.
func prepare(ctx context.Context, url string, partitions int) (tenant.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	l, err := openLedger(ctx, url, partitions)
	if err != nil {
		return "", err
	}
	defer l.close()
	if err := l.fold(ctx); err != nil {
		return "", err
	}
	c, err := catalog.Parse([]byte(benchCatalog + benchPlan))
	if err != nil {
		return "", err
	}
	if _, err := l.ApplyCatalog(ctx, c, false, "bench"); err != nil {
		return "", err
	}
	// All at once: one by one each would wait until the directory shows it.
	var definitions []eventstore.Append
	for n := range checkedTenants {
		id := event.TenantID(tenantName(n))
		definitions = append(definitions, tenantOf(n).Append(eventstore.NoStream),
			event.PlanAssigned{Tenant: id, Plan: "bench", EffectiveAt: planned, BillingAnchor: planned, By: "bench"}.Append(eventstore.NoStream))
	}
	for _, r := range l.log.Append(ctx, definitions) {
		if r.Outcome != eventstore.Appended {
			return "", fmt.Errorf("define a tenant: %w", errors.Join(r.Err, eventstore.ErrInvalid))
		}
	}
	_, key, err := l.CreateKey(ctx, app.NewKey{Kind: tenant.Service, Name: "bench"}, rand.Reader, "bench")
	if err != nil {
		return "", err
	}
	return key, l.caughtUp(ctx)
}

// planned is since when the tenants have their plan.
var planned = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// caughtUp waits until the read models show all that is on the log.
func (l *ledger) caughtUp(ctx context.Context) error {
	for p := range l.log.Partitions() {
		head, err := l.log.Head(ctx, p)
		if err != nil {
			return err
		}
		if err := l.readModels.Await(ctx, projections.Names(), head); err != nil {
			return err
		}
	}
	return nil
}

// record records a batch in which everything is new.
func (l *ledger) record(ctx context.Context, batch []app.Submission) error {
	for i, r := range l.Record(ctx, batch) {
		if r.Status != app.Recorded {
			return fmt.Errorf("event %d of %d is %q: %w", i, len(batch), r.Status, r.Err)
		}
	}
	return nil
}

// selectLag asks the checkpoints, and not the process that writes them: how many events the read models lack, and for how
// long the oldest of them has been on the log. A position is the partition above bit 48 and the offset below.
const selectLag = `select coalesce(max(extract(epoch from clock_timestamp() - e.recorded_at)), 0)::float8, count(e.position),
		coalesce(max((select coalesce(max(h.last_position), c.partition::bigint << 48) from log_commits h
			where h.last_position >= c.partition::bigint << 48 and h.last_position < (c.partition + 1)::bigint << 48)
			- (c.partition::bigint << 48) - c."offset"), 0)::bigint
	from read_models m join checkpoints c on c.read_model = m.name and c.generation = m.generation
	left join log_events e on e.position = (c.partition::bigint << 48) + c."offset" + 1
	where m.state = 'serving'`

// lagProbe watches the read models of a database.
type lagProbe struct{ pool *pgxpool.Pool }

func (b *bench) probe(ctx context.Context, url string) (*lagProbe, error) {
	pool, err := b.pool(ctx, url, 1)
	return &lagProbe{pool}, err
}

// lag is 0 seconds when nothing is missing.
func (p *lagProbe) lag(ctx context.Context) (seconds float64, events int64, err error) {
	var behind int
	err = p.pool.QueryRow(ctx, selectLag).Scan(&seconds, &behind, &events)
	if err != nil {
		return 0, 0, fmt.Errorf("read the lag: %w", err)
	}
	if behind == 0 {
		seconds = 0
	}
	return seconds, events, nil
}

// settle waits until nothing is missing.
func (p *lagProbe) settle(ctx context.Context, atMost time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for {
		_, events, err := p.lag(ctx)
		if err != nil {
			return err
		}
		if events == 0 {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the read models still lack %d events: %w", events, ctx.Err())
		}
	}
}

// pool opens connections of our own, which are closed with the scope.
func (b *bench) pool(ctx context.Context, url string, size int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = size
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	b.onClose(pool.Close)
	return pool, nil
}
