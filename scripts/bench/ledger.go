package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/cmd/stack"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// openStack opens the ledger in a database, with the limit engine. Nothing folds its log until the caller asks for it.
func openStack(ctx context.Context, url string, partitions int) (*stack.Stack, error) {
	s, err := stack.Open(ctx, stack.Config{DatabaseURL: url, EventStore: stack.InPostgres, Partitions: partitions,
		Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		return nil, err
	}
	s.StartLimits()
	return s, nil
}

const prepareTimeout = time.Minute

// prepare creates a ledger with its catalog, tenants and a service key, and brings its read models up to date.
func prepare(ctx context.Context, url string, partitions int) (tenant.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	s, err := openStack(ctx, url, partitions)
	if err != nil {
		return "", err
	}
	defer s.Close()
	if err := s.Fold(ctx); err != nil {
		return "", err
	}
	c, err := catalog.Parse([]byte(benchCatalog + benchPlan))
	if err != nil {
		return "", err
	}
	if _, err := s.Ledger.ApplyCatalog(ctx, c, false, "bench"); err != nil {
		return "", err
	}
	// All at once: one by one, each would wait until the directory shows it.
	var definitions []eventstore.Append
	for n := range checkedTenants {
		id := event.TenantID(tenantName(n))
		definitions = append(definitions, tenantOf(n).Append(eventstore.NoStream),
			event.PlanAssigned{Tenant: id, Plan: "bench", EffectiveAt: planned, BillingAnchor: planned, By: "bench"}.Append(eventstore.NoStream))
	}
	for _, r := range s.Log.Append(ctx, definitions) {
		if r.Outcome != eventstore.Appended {
			return "", fmt.Errorf("define a tenant: %w", errors.Join(r.Err, eventstore.ErrInvalid))
		}
	}
	_, key, err := s.Ledger.CreateKey(ctx, app.NewKey{Kind: tenant.Service, Name: "bench"}, rand.Reader, "bench")
	if err != nil {
		return "", err
	}
	return key, awaitReadModels(ctx, s)
}

// planned is when the plans of the tenants begin.
var planned = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// awaitReadModels waits until the read models show all that is on the log.
func awaitReadModels(ctx context.Context, s *stack.Stack) error {
	return s.AwaitReadModels(ctx, foldTimeout, readmodels.Names()...)
}

// record records a batch in which everything is new.
func record(ctx context.Context, ledger *app.Ledger, batch []app.Submission) error {
	for i, r := range ledger.Record(ctx, batch) {
		if r.Status != app.Recorded {
			return fmt.Errorf("event %d of %d is %q: %w", i, len(batch), r.Status, r.Err)
		}
	}
	return nil
}

// selectLag reads the checkpoints, independently of the process that writes them: how many events the read models lack, and for
// how long the oldest of them has been on the log. A position is the partition above bit 48 and the offset below.
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
