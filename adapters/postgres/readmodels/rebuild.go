package readmodels

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/projections"
)

const (
	// rebuildPage is how many events are read, decoded and copied at a time, for all read models together.
	rebuildPage = 20_000
	// rebuildPageBytes is from how many bytes of events on the next page gets smaller.
	rebuildPageBytes = 32 << 20
	// rebuildRows bounds the usage rows that a partition keeps in memory before it writes them out.
	rebuildRows = 200_000
	// closeEnough is how many events a build may be behind when the serving read models are made to wait for it.
	closeEnough = 2_000
	// cleanupTimeout bounds the removal of a build after an error.
	cleanupTimeout = time.Minute
)

// ErrRebuilding: another process rebuilds or verifies read models of this database. Wait for it.
var ErrRebuilding = errors.New("another rebuild is running")

// Difference is an error: a read model is not the fold of the log up to its checkpoint.
type Difference struct {
	ReadModel string
	Table     string
	Rows      int64  // that differ
	Key       string // of the first of them, as JSON
	Serving   string // the row that serves, as JSON; "" where there is none
	Rebuilt   string // the row as the log says; "" where there is none
}

func (d *Difference) Error() string {
	or := func(row string) string {
		if row == "" {
			return "no row"
		}
		return row
	}
	return fmt.Sprintf("read model %s differs from the log in %d rows of %s; the first is %s: serving %s, from the log %s",
		d.ReadModel, d.Rows, d.Table, d.Key, or(d.Serving), or(d.Rebuilt))
}

// RebuildReport tells what a rebuild or a verification did.
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
	names  []string
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
	if names, err = checkNames(names); err != nil {
		return report, err
	}
	pool, err := r.rebuildPool(ctx, log.Partitions())
	if err != nil {
		return report, err
	}
	defer pool.Close()
	b := &build{
		Store: &Store{pool: pool, catalogs: r.catalogs, progress: newProgress()},
		log:   log, names: names, rows: rebuildRows, page: rebuildPage, generations: map[string]int{}, offsets: map[shard]int64{}, progress: progress,
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
		for i, name := range Names() {
			if generation, ok := b.generations[name]; ok {
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

func checkNames(names []string) ([]string, error) {
	if len(names) == 0 {
		return Names(), nil
	}
	for _, name := range names {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("no read model %q; there are %s", name, strings.Join(Names(), ", "))
		}
	}
	names = slices.Sorted(slices.Values(names))
	return slices.Compact(names), nil
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

// isIndexedFirst reports whether a read model has its indexes from the start of a build: its rows are few, and what is written
// later replaces them or is added to them.
func isIndexedFirst(name string) bool {
	return name == projections.DirectoryModel || name == projections.QuotaModel || name == projections.InsightsModel
}

// begin removes what an interrupted rebuild left behind and creates the new generations.
func (b *build) begin(ctx context.Context) error {
	if err := b.removeUnserved(ctx); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		for _, name := range b.names {
			generation, err := create(ctx, tx, name, b.log.Partitions())
			if err != nil {
				return fmt.Errorf("read model %s: %w", name, err)
			}
			b.generations[name] = generation
			switch {
			case isIndexedFirst(name):
				err = index(ctx, tx, name, generation)
			case name == projections.UsageModel:
				_, err = tx.Exec(ctx, inSchema(createStage, schemaOf(name, generation)))
			}
			if err != nil {
				return fmt.Errorf("read model %s: %w", name, err)
			}
		}
		return nil
	})
}

// The stage takes usage that was folded in parts; the parts are added up when all are there.
const (
	createStage = `create table %s.stage (like %s.usage_rollups)`
	insertStage = `insert into %s.stage ` + usageColumns + `
		select d.tenant_id, d.meter, d.bucket, d.dimensions_hash, d.dimensions, d.quantity::numeric, d.events
		from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bytea[], $5::text[], $6::text[], $7::bigint[]) as d ` + usageColumns
	sumStage = `insert into %s.usage_rollups ` + usageColumns + `
		select tenant_id, meter, bucket, dimensions_hash, min(dimensions), sum(quantity), sum(events)
		from %s.stage group by tenant_id, meter, bucket, dimensions_hash`
)

// targets are the serving checkpoints.
func (b *build) targets(ctx context.Context, q interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, lock string) (map[shard]int64, error) {
	rows, err := q.Query(ctx, `select c.read_model, c.partition, c."offset" from read_models m
		join checkpoints c on c.read_model = m.name and c.generation = m.generation
		where m.state = $1 and m.name = any($2) order by c.read_model, c.partition `+lock, serving, b.names)
	if err != nil {
		return nil, fmt.Errorf("read the serving checkpoints: %w", err)
	}
	targets := map[shard]int64{}
	var (
		at     shard
		offset int64
	)
	if _, err := pgx.ForEachRow(rows, []any{&at.readModel, &at.partition, &offset}, func() error {
		targets[at] = offset
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read the serving checkpoints: %w", err)
	}
	if want := len(b.names) * b.log.Partitions(); len(targets) != want {
		return nil, fmt.Errorf("there are %d serving checkpoints, want %d: the read models were never created", len(targets), want)
	}
	return targets, nil
}

// fold builds everything up to the checkpoints that serve now, partitions in parallel, and then the indexes. It never
// goes beyond what serves: the comparison needs both at the same position.
func (b *build) fold(ctx context.Context) error {
	targets, err := b.targets(ctx, b.pool, "")
	if err != nil {
		return err
	}
	for p := range b.log.Partitions() {
		b.total += b.farthest(targets, p)
	}
	parts := make([]*part, b.log.Partitions())
	group, folding := errgroup.WithContext(ctx)
	group.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	for p := range parts {
		parts[p] = b.newPart(p, targets)
		group.Go(func() error {
			if err := parts[p].run(folding); err != nil {
				return fmt.Errorf("partition %d: %w", p, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return b.finish(ctx, parts, targets)
}

func (b *build) farthest(targets map[shard]int64, partition int) (offset int64) {
	for _, name := range b.names {
		offset = max(offset, targets[shard{name, partition}])
	}
	return offset
}

// finish adds up usage, builds the indexes (each read model's at the same time as the others') and moves the checkpoints.
func (b *build) finish(ctx context.Context, parts []*part, targets map[shard]int64) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range b.names {
		schema := schemaOf(name, b.generations[name])
		group.Go(func() error {
			err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
				if name == projections.UsageModel {
					if slices.ContainsFunc(parts, func(p *part) bool { return p.staged }) {
						if _, err := tx.Exec(ctx, inSchema(sumStage, schema)); err != nil {
							return fmt.Errorf("add up: %w", err)
						}
					}
					if _, err := tx.Exec(ctx, inSchema(`drop table %s.stage`, schema)); err != nil {
						return err
					}
				}
				if !isIndexedFirst(name) {
					if err := index(ctx, tx, name, b.generations[name]); err != nil {
						return err
					}
				}
				for p := range parts {
					if _, err := tx.Exec(ctx, `update checkpoints set "offset" = $4, recorded_at = $5, updated_at = clock_timestamp()
						where read_model = $1 and generation = $2 and partition = $3`,
						name, b.generations[name], p, targets[shard{name, p}], parts[p].recorded[name]); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("finish %s: %w", schema, err)
			}
			for _, t := range tables[name] {
				if _, err := b.pool.Exec(ctx, `analyze `+schema+`.`+t.name); err != nil {
					return fmt.Errorf("analyze %s.%s: %w", schema, t.name, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for at, offset := range targets {
		b.offsets[at] = offset
	}
	return nil
}

// part folds one partition into tables that nobody else looks at yet: an error leaves rows behind, but no generation
// that counts.
type part struct {
	*build
	partition int
	to        int64
	targets   map[string]int64
	fold      *projections.UsageFold
	staged    bool
	insights  *projections.InsightsFold
	recorded  map[string]*time.Time // of the last event of each read model
	timeline  []projections.TimelineRow
	buffer    []byte
}

func (b *build) newPart(partition int, targets map[shard]int64) *part {
	p := &part{build: b, partition: partition, to: b.farthest(targets, partition), targets: map[string]int64{},
		fold: projections.NewUsageFold(b.catalogs), insights: projections.NewInsightsFold(), recorded: map[string]*time.Time{}}
	for _, name := range b.names {
		p.targets[name] = targets[shard{name, partition}]
	}
	return p
}

// run reads and decodes the next page while one is written.
func (p *part) run(ctx context.Context) error {
	pages := make(chan []event.Decoded, 1)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(pages)
		return p.read(ctx, func(events []event.Decoded) error {
			select {
			case pages <- events:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	group.Go(func() error {
		before := int64(0)
		for events := range pages {
			if err := p.add(ctx, events); err != nil {
				return err
			}
			last := events[len(events)-1].Position.Offset
			p.advance(len(events), last-before)
			before = last
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := p.flush(ctx, false); err != nil {
			return err
		}
		return p.flushInsights(ctx)
	})
	return group.Wait()
}

func (p *part) read(ctx context.Context, yield func([]event.Decoded) error) error {
	page := p.page
	for after := int64(0); after < p.to; {
		events, err := p.readPage(ctx, eventstore.Position{Partition: p.partition, Offset: after}, p.to, page)
		if err != nil {
			return err
		}
		size := 0
		for i := range events {
			size += len(events[i].Data)
		}
		switch {
		case size > rebuildPageBytes:
			page = max(page/2, 1)
		case size < rebuildPageBytes/2:
			page = min(page*2, p.page)
		}
		if err := yield(events); err != nil {
			return err
		}
		after = events[len(events)-1].Position.Offset
	}
	return nil
}

// readPage reads and decodes up to limit events after a position, and none after offset to, which is that of an event.
func (b *build) readPage(ctx context.Context, after eventstore.Position, to int64, limit int) ([]event.Decoded, error) {
	recorded, err := b.log.ReadLog(ctx, after, int(min(int64(limit), to-after.Offset)))
	if err != nil {
		return nil, fmt.Errorf("read events after %s: %w", after, err)
	}
	if len(recorded) == 0 {
		return nil, fmt.Errorf("%w: nothing after %s, but a checkpoint is at offset %d", eventstore.ErrHole, after, to)
	}
	if err := projections.CheckFollows(after, recorded, b.log.DenseOffsets()); err != nil {
		return nil, err
	}
	// Where offsets do not count, the page may go on after what was asked for.
	recorded = slices.DeleteFunc(recorded, func(r eventstore.Recorded) bool { return r.Position.Offset > to })
	if len(recorded) == 0 {
		return nil, fmt.Errorf("%w: nothing after %s up to offset %d, where a checkpoint is", eventstore.ErrHole, after, to)
	}
	return event.DecodeAll(recorded)
}

// advance counts events, and the offsets that they take, and tells.
func (b *build) advance(n int, offsets int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events += int64(n)
	b.done += offsets
	if b.progress != nil {
		b.progress(b.done, b.total)
	}
}

// add folds a page into each read model, up to its own target.
func (p *part) add(ctx context.Context, events []event.Decoded) error {
	for _, name := range p.names {
		part := projections.UpTo(events, p.targets[name])
		if len(part) == 0 {
			continue
		}
		p.recorded[name] = &part[len(part)-1].RecordedAt
		schema := schemaOf(name, p.generations[name])
		var err error
		switch name {
		case projections.UsageModel:
			if err = p.fold.Add(ctx, part); err == nil && p.fold.Len() > p.rows {
				err = p.flush(ctx, true)
			}
		case projections.InsightsModel:
			if p.insights.Add(part); p.insights.Len() > p.rows {
				err = p.flushInsights(ctx)
			}
		case projections.TimelineModel:
			p.timeline = projections.AppendTimeline(p.timeline[:0], part)
			p.buffer, err = copyTimeline(ctx, p.pool, schema, p.timeline, p.buffer)
		case projections.QuotaModel:
			err = rebuildQuota(ctx, p.pool, schema, part)
		case projections.DirectoryModel:
			if change := projections.FoldDirectory(part); !change.IsEmpty() {
				err = pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error { return writeDirectory(ctx, tx, schema, change) })
			}
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", schema, err)
		}
	}
	return nil
}

// flush writes usage out. Tenants have one partition, so what a partition folded in one go are rows already; what it
// folds in parts has to be added up later.
func (p *part) flush(ctx context.Context, more bool) error {
	generation, ok := p.generations[projections.UsageModel]
	if !ok || p.fold.Len() == 0 {
		return nil
	}
	p.staged = p.staged || more
	statement := insertStage
	if !p.staged {
		statement = strings.Replace(insertStage, ".stage", ".usage_rollups", 1)
	}
	deltas := p.fold.Take()
	for chunk := range slices.Chunk(deltas, 20_000) {
		if _, err := p.pool.Exec(ctx, inSchema(statement, schemaOf(projections.UsageModel, generation)), newUsageRows(chunk).arrays()...); err != nil {
			return fmt.Errorf("write usage: %w", err)
		}
	}
	return nil
}

// flushInsights writes out what was folded since the last time.
func (p *part) flushInsights(ctx context.Context) error {
	if p.insights.Len() == 0 {
		return nil
	}
	if err := rebuildInsights(ctx, p.pool, schemaOf(projections.InsightsModel, p.generations[projections.InsightsModel]), p.insights.Take()); err != nil {
		return fmt.Errorf("write insights: %w", err)
	}
	return nil
}

// catchUp applies what was recorded since, up to the targets, in the way in which the live read models do it.
func (b *build) catchUp(ctx context.Context, targets map[shard]int64) error {
	for p := range b.log.Partitions() {
		for {
			from, to := int64(-1), int64(0)
			for _, name := range b.names {
				at := shard{name, p}
				if offset := b.offsets[at]; offset < targets[at] && (from < 0 || offset < from) {
					from, to = offset, targets[at]
				}
			}
			if from < 0 {
				break
			}
			events, err := b.readPage(ctx, eventstore.Position{Partition: p, Offset: from}, to, b.page)
			if err != nil {
				return err
			}
			for _, name := range b.names {
				at := shard{name, p}
				if err := b.applyPart(ctx, at, events, targets[at]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// applyPart applies those of the events, which begin where the read model that lacks most does, that this one still lacks.
func (b *build) applyPart(ctx context.Context, at shard, events []event.Decoded, target int64) error {
	offset := b.offsets[at]
	part := projections.UpTo(events, target)
	part = part[len(projections.UpTo(part, offset)):]
	if len(part) == 0 {
		return nil
	}
	end := part[len(part)-1].Position.Offset
	g := projections.Range{ReadModel: at.readModel, Generation: b.generations[at.readModel], Partition: at.partition,
		After: offset, To: end, Sparse: !b.log.DenseOffsets()}
	if err := b.Apply(ctx, g, part); err != nil {
		return err
	}
	b.offsets[at] = end
	return nil
}

// approach catches up until little is missing, so that the serving read models do not have to wait for long. It gives up
// approaching when they are faster: the rest is done while they wait.
func (b *build) approach(ctx context.Context) error {
	const rounds = 10
	for range rounds {
		targets, err := b.targets(ctx, b.pool, "")
		if err != nil {
			return err
		}
		missing := int64(0)
		for at, target := range targets {
			missing += target - b.offsets[at]
		}
		if missing <= closeEnough {
			return nil
		}
		if err := b.catchUp(ctx, targets); err != nil {
			return err
		}
	}
	return nil
}

// freeze stops the serving checkpoints for as long as the transaction lasts, and brings the build exactly to them.
func (b *build) freeze(ctx context.Context, tx pgx.Tx) error {
	targets, err := b.targets(ctx, tx, "for update of c")
	if err != nil {
		return err
	}
	return b.catchUp(ctx, targets)
}

// compare holds both generations against each other. They stand still only until a snapshot of them is taken.
func (b *build) compare(ctx context.Context, report *RebuildReport) (*Difference, error) {
	if err := b.approach(ctx); err != nil {
		return nil, err
	}
	var different *Difference
	err := pgx.BeginTxFunc(ctx, b.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(snapshot pgx.Tx) error {
		served := map[string]origin{}
		err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
			if err := b.freeze(ctx, tx); err != nil {
				return err
			}
			rows, err := snapshot.Query(ctx, `select name, generation, coalesce(definition, '') from read_models where state = $1`, serving)
			if err != nil {
				return err
			}
			var (
				name string
				from origin
			)
			_, err = pgx.ForEachRow(rows, []any{&name, &from.generation, &from.definition}, func() error {
				served[name] = from
				return nil
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("take a snapshot: %w", err)
		}
		for _, name := range b.names {
			hash, err := definitionHash(name)
			if err != nil {
				return err
			}
			for _, t := range tables[name] {
				old, built := schemaOf(name, served[name].generation), schemaOf(name, b.generations[name])
				rows := TableReport{ReadModel: name, Generation: b.generations[name], Table: t.name}
				if err := snapshot.QueryRow(ctx, `select count(*) from `+built+`.`+t.name).Scan(&rows.Rows); err != nil {
					return fmt.Errorf("count %s.%s: %w", built, t.name, err)
				}
				report.Tables = append(report.Tables, rows)
				if served[name].definition != hash {
					continue
				}
				d, err := t.differs(ctx, snapshot, name, old, built)
				if err != nil {
					return fmt.Errorf("compare %s.%s with %s.%s: %w", old, t.name, built, t.name, err)
				}
				if different == nil {
					different = d
				}
			}
		}
		return nil
	})
	return different, err
}

// origin is a generation with the hash of what it was made from.
type origin struct {
	generation int
	definition string
}

// differs compares all columns of all rows, and names the first row that differs in the order of the key.
func (t table) differs(ctx context.Context, tx pgx.Tx, readModel, old, built string) (*Difference, error) {
	var key, left, right []string
	for _, c := range t.key {
		key = append(key, fmt.Sprintf("'%s', coalesce(a.%s, b.%s)", c, c, c))
	}
	for _, c := range t.rest {
		left, right = append(left, "a."+c), append(right, "b."+c)
	}
	rows, err := tx.Query(ctx, fmt.Sprintf(`select count(*) over (), json_build_object(%s)::text, to_json(a)::text, to_json(b)::text
		from %s.%s a full join %s.%s b using (%s) where (%s) is distinct from (%s) order by %s limit 1`,
		strings.Join(key, ", "), old, t.name, built, t.name, strings.Join(t.key, ", "),
		strings.Join(left, ", "), strings.Join(right, ", "), strings.Join(t.key, ", ")))
	if err != nil {
		return nil, err
	}
	d := &Difference{ReadModel: readModel, Table: t.name}
	var a, b *string
	_, err = pgx.ForEachRow(rows, []any{&d.Rows, &d.Key, &a, &b}, func() error {
		if a != nil {
			d.Serving = *a
		}
		if b != nil {
			d.Rebuilt = *b
		}
		return nil
	})
	if err != nil || d.Rows == 0 {
		return nil, err
	}
	return d, nil
}

// swap makes the new generations serve, all at once. The old checkpoints are deleted in the same transaction: whoever
// still wants to move one is told that it is stale.
func (b *build) swap(ctx context.Context) error {
	const attempts = 5 // a reader of a view may be slow
	for attempt := 1; ; attempt++ {
		if err := b.approach(ctx); err != nil {
			return err
		}
		err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `set local lock_timeout = '5s'`); err != nil {
				return err
			}
			if err := b.freeze(ctx, tx); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `delete from checkpoints c using read_models m
				where m.name = c.read_model and m.generation = c.generation and m.state = $1 and m.name = any($2)`, serving, b.names); err != nil {
				return fmt.Errorf("fence the old generation: %w", err)
			}
			if _, err := tx.Exec(ctx, `update read_models set state = 'retired' where state = $1 and name = any($2)`, serving, b.names); err != nil {
				return fmt.Errorf("retire the old generation: %w", err)
			}
			for _, name := range b.names {
				if err := publish(ctx, tx, name, b.generations[name]); err != nil {
					return err
				}
			}
			return nil
		})
		const lockNotAvailable = "55P03"
		if err == nil || attempt == attempts || pg.SQLState(err) != lockNotAvailable {
			return err
		}
	}
}

// unserved lists the schemas of generations that do not serve.
func (b *build) unserved(ctx context.Context) (schemas []string) {
	rows, err := b.pool.Query(ctx, `select name, generation from read_models where state <> $1 and name = any($2)`, serving, b.names)
	if err != nil {
		return nil
	}
	var (
		name       string
		generation int
	)
	_, _ = pgx.ForEachRow(rows, []any{&name, &generation}, func() error {
		schemas = append(schemas, schemaOf(name, generation))
		return nil
	})
	return schemas
}

// removeUnserved drops every generation that does not serve. Nobody but the holder of the lock makes any.
func (b *build) removeUnserved(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `set local lock_timeout = '10s'`); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `delete from read_models where state <> $1 and name = any($2) returning name, generation`, serving, b.names)
		if err != nil {
			return err
		}
		schemas, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
			var (
				name       string
				generation int
			)
			err := row.Scan(&name, &generation)
			return schemaOf(name, generation), err
		})
		if err != nil {
			return err
		}
		for _, schema := range schemas {
			if _, err := tx.Exec(ctx, `drop schema if exists `+schema+` cascade`); err != nil {
				return fmt.Errorf("drop %s: %w", schema, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove generations that do not serve: %w", err)
	}
	return nil
}
