package readmodels

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// awaitPoll is how often a waiter asks the database for what other processes applied. All waiters of a process share the
// answers.
const awaitPoll = 20 * time.Millisecond

// shard is one partition of one read model.
type shard struct {
	readModel string
	partition int
}

// progress remembers how far the serving checkpoints are at least: they never go back.
type progress struct {
	mu      sync.Mutex
	offsets map[shard]int64
	changed chan struct{} // closed and replaced when an offset grows
	polled  time.Time     // when the database was asked last
}

func newProgress() *progress {
	return &progress{offsets: map[shard]int64{}, changed: make(chan struct{})}
}

func (p *progress) reached(readModel string, partition int, offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := (shard{readModel, partition}); offset > p.offsets[k] {
		p.offsets[k] = offset
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// has reports whether all read models are at the position; changed is closed when it is worth asking again.
func (p *progress) has(readModels []string, at eventstore.Position) (reached bool, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range readModels {
		if p.offsets[shard{name, at.Partition}] < at.Offset {
			return false, p.changed
		}
	}
	return true, p.changed
}

// due lets one waiter per interval ask the database.
func (p *progress) due(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.polled) < awaitPoll/2 {
		return false
	}
	p.polled = now
	return true
}

// Await returns when the serving generations of these read models show everything up to the position. It is woken by
// what this process applies and asks the database for what others do. It ends with the context's error; the database
// being away does not end it.
func (r *Store) Await(ctx context.Context, readModels []string, at eventstore.Position) error {
	if n := int(r.partitions.Load()); at.Partition < 0 || n > 0 && at.Partition >= n {
		return fmt.Errorf("%w: no position %s in a log of %d partitions", eventstore.ErrInvalid, at, n)
	}
	tick := time.NewTicker(awaitPoll)
	defer tick.Stop()
	for {
		reached, changed := r.progress.has(readModels, at)
		if reached {
			return nil
		}
		if r.progress.due(time.Now()) {
			if err := r.poll(ctx); err == nil {
				if reached, changed = r.progress.has(readModels, at); reached {
					return nil
				}
			}
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %v at %s: %w", readModels, at, ctx.Err())
		}
	}
}

func (r *Store) poll(ctx context.Context) error {
	rows, err := r.reads.Query(ctx, `select c.read_model, c.partition, c."offset" from read_models m
		join checkpoints c on c.read_model = m.name and c.generation = m.generation where m.state = $1`, serving)
	if err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	var (
		k      shard
		offset int64
	)
	_, err = pgx.ForEachRow(rows, []any{&k.readModel, &k.partition, &offset}, func() error {
		r.progress.reached(k.readModel, k.partition, offset)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	return nil
}
