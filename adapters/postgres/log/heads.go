package log

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const (
	channel = "tollgate_log"
	// announceEvery bounds the notifications of a process: NOTIFY takes a lock that all commits of the server share.
	announceEvery = 20 * time.Millisecond
	// pollEvery is the fallback when a notification is lost.
	pollEvery = 500 * time.Millisecond
)

// heads holds how far each partition is, and wakes those who wait for more: at once for this process's own commits, by
// notification for those of others, by polling when all else fails.
type heads struct {
	pool    *pgxpool.Pool
	mu      sync.Mutex
	offsets []int64
	changed chan struct{} // closed and replaced when an offset grows
	pending chan struct{} // there is something to tell other processes
}

func newHeads(pool *pgxpool.Pool, partitions int) *heads {
	return &heads{pool: pool, offsets: make([]int64, partitions), changed: make(chan struct{}), pending: make(chan struct{}, 1)}
}

func (h *heads) get(partition int) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.offsets[partition]
}

func (h *heads) advance(partition int, offset int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if offset > h.offsets[partition] {
		h.offsets[partition] = offset
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

// committed is advance for a commit of this process.
func (h *heads) committed(partition int, offset int64) {
	h.advance(partition, offset)
	select {
	case h.pending <- struct{}{}:
	default:
	}
}

func (h *heads) wait(ctx context.Context, partition int, after int64) error {
	if partition < 0 || partition >= len(h.offsets) {
		return fmt.Errorf("no partition %d", partition)
	}
	for {
		h.mu.Lock()
		reached, changed := h.offsets[partition] > after, h.changed
		h.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// refresh reads all heads.
func (h *heads) refresh(ctx context.Context) error {
	rows, err := h.pool.Query(ctx, `select p, coalesce((select last_position from log_commits
		where last_position >= p::bigint << 48 and last_position < (p + 1)::bigint << 48 order by last_position desc limit 1), 0)
		from generate_series(0, $1::int - 1) p`, len(h.offsets))
	if err != nil {
		return pg.Unavailable("read the heads of the log", err)
	}
	var (
		partition int
		position  int64
	)
	if _, err := pgx.ForEachRow(rows, []any{&partition, &position}, func() error {
		h.advance(partition, pg.OffsetOf(position))
		return nil
	}); err != nil {
		return pg.Unavailable("read the heads of the log", err)
	}
	return nil
}

// announce tells other processes of commits, not more often than announceEvery. A failure does no harm: they poll.
func (h *heads) announce(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.pending:
		}
		_, _ = h.pool.Exec(ctx, `select pg_notify('`+channel+`', '')`)
		if !eventstore.Pause(ctx, announceEvery) {
			return
		}
	}
}

// follow keeps the heads fresh until the context ends. A lost connection is opened again, with a pause between tries.
func (h *heads) follow(ctx context.Context) {
	for ctx.Err() == nil {
		_ = h.listen(ctx) // the next try, or the poll in it, makes good what was missed
		eventstore.Pause(ctx, pollEvery)
	}
}

func (h *heads) listen(ctx context.Context) error {
	conn, err := h.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	// A connection that listens must not go back to work for others.
	c := conn.Hijack()
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if _, err := c.Exec(ctx, `listen `+channel); err != nil {
		return err
	}
	for {
		if err := h.refresh(ctx); err != nil {
			return err
		}
		waiting, cancel := context.WithTimeout(ctx, pollEvery)
		_, err := c.WaitForNotification(waiting)
		timedOut := waiting.Err() != nil && ctx.Err() == nil
		cancel()
		if err != nil && !timedOut {
			return err
		}
	}
}
