package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
)

// largeLog is the log that size, history and rebuild measure. It is loaded once and then only grows.
type largeLog struct {
	template
	url    string
	probe  *lagProbe
	g      *generator
	events int // usage events
}

// largeLog returns the log with at least n usage events, all of them folded into the read models.
func (b *bench) largeLog(ctx context.Context, n int) (*largeLog, error) {
	if b.large == nil {
		url, key, err := b.ledgerDatabase(ctx)
		if err != nil {
			return nil, err
		}
		probe, err := b.probe(ctx, url)
		if err != nil {
			return nil, err
		}
		b.large = &largeLog{template: template{key: key}, url: url, probe: probe, g: newGenerator(7, time.Now().Add(-48*time.Hour))}
	}
	if err := b.large.load(ctx, b, n); err != nil {
		return nil, err
	}
	return b.large, b.large.foldAll(ctx)
}

// load records events in batches of 1000, with the projections paused. The connections are closed at the end: then the
// server has counted everything.
func (l *largeLog) load(ctx context.Context, b *bench, n int) error {
	const batch = 1000
	if l.events >= n {
		return nil
	}
	s, err := openStack(ctx, l.url, 0)
	if err != nil {
		return err
	}
	defer s.Close()
	started, before, reported := time.Now(), l.events, time.Now()
	group, loading := errgroup.WithContext(ctx)
	group.SetLimit(3)
	for l.events < n && loading.Err() == nil && time.Since(started) < loadLimit {
		// Made here, so that the same seed gives the same events, in whatever order they are recorded.
		part := l.g.submissions(min(batch, n-l.events))
		l.events += len(part)
		group.Go(func() error { return record(loading, s.Ledger, part) })
		if time.Since(reported) > 5*time.Second {
			reported = time.Now()
			b.say("loading: %d of %d events", l.events, n)
		}
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("load events: %w", err)
	}
	b.say("loaded %d events in %.1f s", l.events-before, time.Since(started).Seconds())
	return nil
}

// foldAll brings the read models up to date.
func (l *largeLog) foldAll(ctx context.Context) error {
	if _, missing, err := l.probe.lag(ctx); err != nil || missing == 0 {
		return err
	}
	s, err := openStack(ctx, l.url, 0)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Fold(ctx); err != nil {
		return err
	}
	return l.probe.settle(ctx, foldTimeout)
}

const (
	quickSize    = 100_000
	quickHistory = 100_000
	quickRebuild = 200_000

	// A slow machine gets a shorter log rather than a longer run: the report has the number that was reached.
	loadLimit   = 60 * time.Second
	foldTimeout = 4 * time.Minute
)

// eventsOr is how many events the large log gets: the number of -events, or the benchmark's own in a quick run.
func (b *bench) eventsOr(quick int) int {
	if b.events > 0 {
		return b.events
	}
	return quick
}

// size: bytes on disk and in the write-ahead log, rows and index entries per event.
func size(ctx context.Context, b *bench, _ []string) error {
	const target = 350
	wal := func(since string) (at string, bytes float64, err error) {
		conn, err := pgx.Connect(ctx, b.server.URL())
		if err != nil {
			return "", 0, err
		}
		defer func() { _ = conn.Close(ctx) }()
		err = conn.QueryRow(ctx, `select pg_current_wal_insert_lsn()::text, coalesce(pg_current_wal_insert_lsn() - nullif($1, '')::pg_lsn, 0)::float8`, since).Scan(&at, &bytes)
		return at, bytes, err
	}
	if _, err := b.largeLog(ctx, 0); err != nil { // creates it, so that this is not counted
		return err
	}
	before, err := costs(ctx, b.large.probe.pool)
	if err != nil {
		return err
	}
	start, _, err := wal("")
	if err != nil {
		return err
	}
	from := b.large.events
	if err := b.large.load(ctx, b, b.eventsOr(quickSize)); err != nil {
		return err
	}
	loaded, logWAL, err := wal(start)
	if err != nil {
		return err
	}
	if err := b.large.foldAll(ctx); err != nil {
		return err
	}
	_, foldWAL, err := wal(loaded)
	if err != nil {
		return err
	}
	n := float64(b.large.events - from)
	if n == 0 {
		return fmt.Errorf("the large log has %d events already", from)
	}
	after, err := costs(ctx, b.large.probe.pool)
	if err != nil {
		return err
	}
	var identity float64
	one := func(v float64) spread { return spread{v, v, v} }
	event := cost{Of: "event"}
	for i, a := range after {
		a = a.since(before[i], n)
		event.Tables = append(event.Tables, a)
		if a.Table == "log_events" || a.Table == "log_streams" {
			identity += a.HeapBytes + a.IndexBytes
		}
	}
	b.report.Costs = append(b.report.Costs, event)
	ok := identity <= target
	b.report.add(row{Name: "size of log + identity", Unit: "bytes/event", Ours: one(identity), Target: "<= 350", OK: &ok})
	b.report.add(row{Name: "WAL of an append", Unit: "bytes/event", Ours: one(logWAL / n)},
		row{Name: "WAL of the read models", Unit: "bytes/event", Ours: one(foldWAL / n)})
	b.report.note("size: %.0f events in batches of 1000, folded afterwards in the largest ranges: live ranges are smaller and update more rows", n)
	return nil
}

// selectCosts adds up all tables that go by one name: the ranges of log_events, the tables of a read model's generations.
const selectCosts = `select * from (select case when c.relname like 'log\_events%' then 'log_events' else c.relname end as name,
		sum(coalesce(s.n_tup_ins, 0))::float8, sum(coalesce(s.n_tup_upd, 0))::float8,
		sum((coalesce(s.n_tup_ins, 0) + coalesce(s.n_tup_upd, 0) - coalesce(s.n_tup_hot_upd, 0)) * (select count(*) from pg_index i where i.indrelid = c.oid))::float8,
		sum(pg_table_size(c.oid))::float8, sum(pg_indexes_size(c.oid))::float8
	from pg_class c left join pg_stat_user_tables s on s.relid = c.oid
	where c.relkind = 'r' and (c.relname like 'log\_events%' or c.relname in ('log_streams', 'log_commits', 'timeline', 'usage_rollups', 'insight_calls', 'insight_denials', 'quota_accounts', 'quota_holds', 'checkpoints'))
	group by 1) costs order by array_position(array['log_events', 'log_streams', 'log_commits', 'timeline', 'usage_rollups', 'insight_calls', 'insight_denials', 'quota_accounts', 'quota_holds', 'checkpoints'], name::text)`

// costs reads what the server has counted for the tables since they were created.
func costs(ctx context.Context, pool *pgxpool.Pool) ([]amplification, error) {
	rows, err := pool.Query(ctx, selectCosts)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (a amplification, err error) {
		return a, row.Scan(&a.Table, &a.Inserts, &a.Updates, &a.IndexEntries, &a.HeapBytes, &a.IndexBytes)
	})
}

func (a amplification) since(before amplification, events float64) amplification {
	return amplification{Table: a.Table, Inserts: (a.Inserts - before.Inserts) / events, Updates: (a.Updates - before.Updates) / events,
		IndexEntries: (a.IndexEntries - before.IndexEntries) / events, HeapBytes: (a.HeapBytes - before.HeapBytes) / events,
		IndexBytes: (a.IndexBytes - before.IndexBytes) / events}
}

// history: a log must not get slower as it grows. The short log is a fresh copy in each round, or it would soon be a long one.
func history(ctx context.Context, b *bench, _ []string) error {
	shortEvents := min(50_000, b.eventsOr(quickHistory)/3)
	long, err := b.largeLog(ctx, b.eventsOr(quickHistory)) // outlives this benchmark
	if err != nil {
		return err
	}
	defer b.scope()()
	inLong := long.events
	shortURL, key, err := b.ledgerDatabase(ctx)
	if err != nil {
		return err
	}
	origin := &largeLog{url: shortURL, g: newGenerator(8, time.Now().Add(-48*time.Hour))}
	if err := origin.load(ctx, b, shortEvents); err != nil {
		return err
	}
	originName, err := databaseName(shortURL)
	if err != nil {
		return err
	}
	longAddr, err := b.child(ctx, childConfig{Kind: childLedger, URL: long.url}, "history-long")
	if err != nil {
		return err
	}
	kinds := []struct {
		name, unit          string
		connections, events int
		onLong, onShort     series
	}{{name: "history batch/1000", unit: "events/s", connections: 4, events: 1000}, {name: "history single/32", unit: "req/s", connections: 32, events: 1}}
	d := time.Duration(b.seconds * float64(time.Second))
	measure := func(l load) (measurement, error) {
		// Filling the caches of a process, and the first write of each page after a checkpoint, do not count.
		if m, err := l.run(ctx, d/2); err != nil {
			return m, err
		}
		return l.run(ctx, d)
	}
	// The copies are dropped at the end: that makes a checkpoint, which would slow down the next measurement.
	copied := func() (addr string, stop func(), err error) {
		url, err := b.database(ctx, originName)
		if err != nil {
			return "", nil, err
		}
		stop = b.scope()
		addr, err = b.child(ctx, childConfig{Kind: childLedger, URL: url}, "history-short")
		return addr, stop, err
	}
	for round := range b.roundCount {
		addr, stop, err := copied()
		if err != nil {
			return err
		}
		for i := range kinds {
			k := &kinds[i]
			m, err := measure(newLoad(addr, key, k.connections, k.events))
			if err != nil {
				return err
			}
			k.onShort = append(k.onShort, m)
			if m, err = measure(newLoad(longAddr, long.key, k.connections, k.events)); err != nil {
				return err
			}
			k.onLong = append(k.onLong, m)
			b.say("%s round %d/%d: %.0f/s after %d events, %.0f/s after %d", k.name, round+1, b.roundCount,
				k.onShort[round].rate(), shortEvents, m.rate(), inLong)
		}
		stop()
	}
	for _, k := range kinds {
		b.report.add(compared(k.name, k.unit, k.onLong, k.onShort).atLeast(0.9))
	}
	if _, err := long.count(ctx); err != nil {
		return err
	}
	b.report.note("history: ours is a log of %d events, growing to %d in the end, the baseline one of %d", inLong, long.events, shortEvents)
	return nil
}

// count updates the number of events after something other than load has recorded some.
func (l *largeLog) count(ctx context.Context) (int, error) {
	err := l.probe.pool.QueryRow(ctx, `select count(*) - $1 from log_streams where revision = 0`, tenants+2).Scan(&l.events)
	return l.events, err
}

func databaseName(url string) (string, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return "", err
	}
	return config.Database, nil
}

// rebuild: all read models together, from the first event on.
func rebuild(ctx context.Context, b *bench, _ []string) error {
	const target = 200_000
	long, err := b.largeLog(ctx, b.eventsOr(quickRebuild)) // outlives this benchmark
	if err != nil {
		return err
	}
	defer b.scope()()
	s, err := openStack(ctx, long.url, 0)
	if err != nil {
		return err
	}
	b.onClose(s.Close)
	typed, err := b.typedTable(ctx, int64(long.events))
	if err != nil {
		return err
	}
	if err := b.admin(ctx, "checkpoint"); err != nil {
		return err
	}
	var all [2]series
	var whole []float64
	for round := range min(b.roundCount, 3) {
		m, err := typed.read(ctx)
		if err != nil {
			return err
		}
		all[0] = append(all[0], m)
		b.say("rebuild round %d typed read: %.0f/s", round+1, m.rate())
		stop := b.profile("rebuild")
		r, err := s.ReadModels.Rebuild(ctx, s.Log, readmodels.Names(), nil)
		stop()
		if err != nil {
			return err
		}
		all[1] = append(all[1], measurement{events: int(r.Events), took: r.Folded})
		whole = append(whole, float64(r.Events)/r.Took.Seconds())
		b.say("rebuild round %d: %d events folded in %.1f s, compared and switched after %.1f s", round+1, r.Events, r.Folded.Seconds(), r.Took.Seconds())
	}
	r := compared("rebuild", "events/s", all[1], all[0])
	ok := r.Ours.Median >= target
	r.Target, r.OK, r.OursLatency, r.BaselineLatency = ">= 200k/s", &ok, nil, nil
	b.report.add(r)
	b.report.note("rebuild: until all rows are in tables with indexes; with the comparison to the serving tables and the switch %s events/s", short(spreadOf(whole).Median))
	return nil
}
