package readmodels

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/projections"
)

// begin removes what an interrupted rebuild left behind and creates the new generations.
func (b *build) begin(ctx context.Context) error {
	if err := b.removeUnserved(ctx); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		for _, m := range b.models {
			if err := b.beginModel(ctx, tx, m); err != nil {
				return fmt.Errorf("read model %s: %w", m.name(), err)
			}
		}
		return nil
	})
}

func (b *build) beginModel(ctx context.Context, tx pgx.Tx, m readModel) error {
	generation, err := create(ctx, tx, m.name(), b.log.Partitions())
	if err != nil {
		return err
	}
	b.generations[m.name()] = generation
	if m.isIndexedFirst() {
		if err := index(ctx, tx, m.name(), generation); err != nil {
			return err
		}
	}
	begin, _ := m.stage()
	return b.run(ctx, tx, m, begin)
}

// run runs statements of a stage.
func (b *build) run(ctx context.Context, tx pgx.Tx, m readModel, statements []string) error {
	for _, statement := range statements {
		if _, err := tx.Exec(ctx, inSchema(statement, b.schemaOf(m))); err != nil {
			return err
		}
	}
	return nil
}

// schemaOf is the schema of the generation that is built.
func (b *build) schemaOf(m readModel) string { return schemaOf(m.name(), b.generations[m.name()]) }

// targets are the serving checkpoints.
func (b *build) targets(ctx context.Context, q interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, lock string) (map[shard]int64, error) {
	rows, err := q.Query(ctx, `select c.read_model, c.partition, c."offset" from read_models m
		join checkpoints c on c.read_model = m.name and c.generation = m.generation
		where m.state = $1 and m.name = any($2) order by c.read_model, c.partition `+lock, serving, b.names())
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
	if want := len(b.models) * b.log.Partitions(); len(targets) != want {
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
			if err := parts[p].fold(folding); err != nil {
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
	for _, name := range b.names() {
		offset = max(offset, targets[shard{name, partition}])
	}
	return offset
}

// finish ends the stages, builds the indexes (each read model's at the same time as the others') and moves the checkpoints.
func (b *build) finish(ctx context.Context, parts []*part, targets map[shard]int64) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, m := range b.models {
		group.Go(func() error {
			if err := pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error { return b.finishModel(ctx, tx, m, parts, targets) }); err != nil {
				return fmt.Errorf("finish %s: %w", b.schemaOf(m), err)
			}
			for _, t := range m.tables() {
				if _, err := b.pool.Exec(ctx, `analyze `+b.schemaOf(m)+`.`+t.name); err != nil {
					return fmt.Errorf("analyze %s.%s: %w", b.schemaOf(m), t.name, err)
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

func (b *build) finishModel(ctx context.Context, tx pgx.Tx, m readModel, parts []*part, targets map[shard]int64) error {
	_, end := m.stage()
	if err := b.run(ctx, tx, m, end); err != nil {
		return err
	}
	name := m.name()
	if !m.isIndexedFirst() {
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
}

// part folds one partition into tables that nobody else reads yet: an error leaves rows behind, but no generation that
// counts.
type part struct {
	*build
	partition int
	to        int64
	targets   map[string]int64
	folders   []folder              // in the order of the build's read models
	recorded  map[string]*time.Time // of the last event of each read model
}

func (b *build) newPart(partition int, targets map[shard]int64) *part {
	p := &part{build: b, partition: partition, to: b.farthest(targets, partition), targets: map[string]int64{}, recorded: map[string]*time.Time{}}
	for _, m := range b.models {
		p.targets[m.name()] = targets[shard{m.name(), partition}]
		p.folders = append(p.folders, m.fold(target{pool: b.pool, schema: b.schemaOf(m), catalogs: b.catalogs, rows: b.rows}))
	}
	return p
}

// fold reads and decodes the next page while one is written.
func (p *part) fold(ctx context.Context) error {
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
		return p.flush(ctx)
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

// advance counts events and the offsets that they take, and reports the progress.
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
	for i, m := range p.models {
		part := projections.UpTo(events, p.targets[m.name()])
		if len(part) == 0 {
			continue
		}
		p.recorded[m.name()] = &part[len(part)-1].RecordedAt
		if err := p.folders[i].add(ctx, part); err != nil {
			return fmt.Errorf("write %s: %w", p.schemaOf(m), err)
		}
	}
	return nil
}

func (p *part) flush(ctx context.Context) error {
	for i, m := range p.models {
		if err := p.folders[i].flush(ctx); err != nil {
			return fmt.Errorf("write %s: %w", p.schemaOf(m), err)
		}
	}
	return nil
}
