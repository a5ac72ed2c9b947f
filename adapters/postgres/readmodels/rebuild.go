package readmodels

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const (
	// rebuildPage is how many events are read, decoded and copied at a time, for all read models together.
	rebuildPage = 20_000
	// rebuildPageBytes is from how many bytes of events on the next page gets smaller.
	rebuildPageBytes = 32 << 20
	// rebuildRows bounds the rows of a read model that a partition keeps in memory before it writes them out.
	rebuildRows = 200_000
	// rebuildChunk is how many of them one statement writes.
	rebuildChunk = 20_000
	// closeEnough is how many events a build may be behind when the serving read models are made to wait for it.
	closeEnough = 2_000
	// cleanupTimeout bounds the removal of a build after an error.
	cleanupTimeout = time.Minute
)

// ErrRebuilding: another process rebuilds or verifies read models of this database. Wait for it.
var ErrRebuilding = errors.New("another rebuild is running")

// RebuildReport is what a rebuild or a verification did.
type RebuildReport struct {
	Events int64         // of the log, up to the checkpoints
	Folded time.Duration // until all of them were in tables with indexes
	Took   time.Duration
	Tables []TableReport
	// Replaced names the schemas of generations that no longer serve and could not be removed yet; the next rebuild does.
	Replaced []string
}

// TableReport is one table of a build.
type TableReport struct {
	ReadModel  string
	Generation int
	Table      string
	Rows       int64
}

// RebuildOption changes what a rebuild does.
type RebuildOption func(*build)

// AcceptDifferences switches to the rebuilt generation although it differs from the serving one: after a fold was
// corrected, that is what a rebuild is for. The report's error is nil then; what differs is passed to see, if not nil.
func AcceptDifferences(see func(*Difference)) RebuildOption {
	return func(b *build) { b.accept = func(d *Difference) { see(d) } }
}

// Rebuild folds the log from its beginning into new generations of the read models (all where no names are given),
// beside the live ones, which go on serving and following the log. It compares both at the same position, switches to the
// new ones in one transaction and removes the old ones. When they differ nothing is switched, and the new generation
// stays for inspection until the next rebuild. A serving generation that was made from another definition has other tables:
// it is replaced without being compared. progress, which may be nil, is called now and then with the offsets folded so far
// and those to fold, which are numbers of events where offsets are dense. Errors: *Difference; ErrRebuilding; those of the log and the database, after which nothing
// was switched.
func (r *Store) Rebuild(ctx context.Context, log eventstore.LogReader, names []string, progress func(done, total int64), options ...RebuildOption) (RebuildReport, error) {
	return r.build(ctx, log, names, progress, true, options)
}

// Verify recomputes the read models from the log up to their checkpoints and compares, without switching. Errors: those
// of Rebuild.
func (r *Store) Verify(ctx context.Context, log eventstore.LogReader, names []string, progress func(done, total int64)) (RebuildReport, error) {
	return r.build(ctx, log, names, progress, false, nil)
}

// build is one rebuild or verification.
type build struct {
	*Store // with connections of its own, and a progress that nobody waits for
	log    eventstore.LogReader
	models []readModel
	accept func(*Difference)
	rows   int // see rebuildRows
	page   int // see rebuildPage

	generations map[string]int  // that are built
	offsets     map[shard]int64 // up to which they are built

	mu       sync.Mutex
	events   int64
	done     int64 // offsets, as the total is
	total    int64
	progress func(done, total int64)
}

func (r *Store) build(ctx context.Context, log eventstore.LogReader, names []string, progress func(done, total int64), swap bool, options []RebuildOption) (report RebuildReport, err error) {
	chosen, err := modelsOf(names)
	if err != nil {
		return report, err
	}
	pool, err := r.rebuildPool(ctx, log.Partitions())
	if err != nil {
		return report, err
	}
	defer pool.Close()
	b := &build{
		Store: New(pool, nil, r.catalogs),
		log:   log, models: chosen, rows: rebuildRows, page: rebuildPage, generations: map[string]int{}, offsets: map[shard]int64{}, progress: progress,
	}
	for _, option := range options {
		option(b)
	}
	unlock, err := b.lock(ctx)
	if err != nil {
		return report, err
	}
	defer unlock()
	if err := b.begin(ctx); err != nil {
		return report, fmt.Errorf("begin a build: %w", err)
	}
	keep := false
	defer func() {
		if keep {
			return
		}
		// The caller's context may be what ended the build.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		if cleanup := b.removeUnserved(ctx); cleanup != nil && err == nil {
			err = cleanup
		}
	}()
	started := time.Now()
	if err := b.fold(ctx); err != nil {
		return report, fmt.Errorf("fold the log: %w", err)
	}
	report.Events, report.Folded = b.events, time.Since(started)
	different, err := b.compare(ctx, &report)
	if err != nil {
		return report, fmt.Errorf("compare with the serving generation: %w", err)
	}
	switch {
	case different != nil && (!swap || b.accept == nil):
		keep = swap
		return report, different
	case different != nil:
		b.accept(different)
	}
	if swap {
		if err := b.swap(ctx); err != nil {
			return report, fmt.Errorf("switch to the new generation: %w", err)
		}
		for i, m := range models {
			if generation, ok := b.generations[m.name()]; ok {
				r.generations[i].Store(int32(generation)) //nolint:gosec // counts rebuilds
			}
		}
		if err := b.removeUnserved(ctx); err != nil {
			report.Replaced = b.unserved(ctx)
		}
		keep = true
	}
	report.Took = time.Since(started)
	return report, nil
}

// modelsOf finds the read models of these names, all where none are given.
func modelsOf(names []string) (found []readModel, err error) {
	for _, name := range names {
		if numberOf(name) < 0 {
			return nil, fmt.Errorf("no read model %q; there are %s", name, strings.Join(Names(), ", "))
		}
	}
	for _, m := range models {
		if len(names) == 0 || slices.Contains(names, m.name()) {
			found = append(found, m)
		}
	}
	return found, nil
}

// names are those of the read models that are built.
func (b *build) names() []string {
	names := make([]string, len(b.models))
	for i, m := range b.models {
		names[i] = m.name()
	}
	return names
}

// rebuildPool opens connections with the same address and role as the projections' and without their bounds: an index over the
// whole history takes its time. Nothing that a build writes has to survive a crash.
func (r *Store) rebuildPool(ctx context.Context, partitions int) (*pgxpool.Pool, error) {
	config := r.pool.Config()
	config.MaxConns = int32(partitions + 4) //nolint:gosec // at most 1024
	for name, value := range map[string]string{
		"application_name":                    "tollgate rebuild",
		"synchronous_commit":                  "off",
		"lock_timeout":                        "0",
		"statement_timeout":                   "0",
		"idle_in_transaction_session_timeout": "0",
		"work_mem":                            "64MB",
		"maintenance_work_mem":                "256MB",
		"jit":                                 "off",
	} {
		config.ConnConfig.RuntimeParams[name] = value
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open connections for a rebuild: %w", err)
	}
	return pool, nil
}

// lock keeps other rebuilds out for as long as this process lives: the connection that holds it is closed at the end.
func (b *build) lock(ctx context.Context) (unlock func(), err error) {
	pooled, err := b.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	conn := pooled.Hijack()
	unlock = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		// The server notices a closed connection in its own time, and the next rebuild may be waiting. Whatever this answers, it
		// lets go of the lock then.
		_, _ = conn.Exec(ctx, `select pg_advisory_unlock($1)`, lockReadModels)
		_ = conn.Close(ctx)
	}
	var locked bool
	if err := conn.QueryRow(ctx, `select pg_try_advisory_lock($1)`, lockReadModels).Scan(&locked); err != nil {
		unlock()
		return nil, fmt.Errorf("lock the read models: %w", err)
	}
	if !locked {
		unlock()
		return nil, ErrRebuilding
	}
	return unlock, nil
}
