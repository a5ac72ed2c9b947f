package readmodels

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/domain/event"
)

const (
	// usePrecision is how exactly the last use of a key is known.
	usePrecision = time.Minute
	useFlush     = 10 * time.Second
	flushTimeout = 5 * time.Second
	// rememberedUses bounds what is kept in memory; beyond it, what is written already is forgotten.
	rememberedUses = 50_000
)

// KeyUses remembers when keys were used last, and writes it down now and then: at most once a minute for each key, all of
// them in one statement. What a process that is killed had not written is lost, and the next use makes up for it.
type KeyUses struct {
	pool *pgxpool.Pool

	mu      sync.Mutex
	last    map[event.KeyID]time.Time
	pending map[event.KeyID]time.Time
}

// NewKeyUses writes with the connections of the projections. Run it.
func NewKeyUses(pool *pgxpool.Pool) *KeyUses {
	return &KeyUses{pool: pool, last: map[event.KeyID]time.Time{}, pending: map[event.KeyID]time.Time{}}
}

// Used notes a use.
func (k *KeyUses) Used(id event.KeyID, at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if at.Sub(k.last[id]) < usePrecision {
		return
	}
	if len(k.last) >= rememberedUses {
		clear(k.last)
	}
	k.last[id], k.pending[id] = at, at
}

// Run writes uses down until the context ends, and what is left then.
func (k *KeyUses) Run(ctx context.Context) {
	tick := time.NewTicker(useFlush)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = k.Flush(ctx) // the next one tries again
		case <-ctx.Done():
			_ = k.Flush(context.WithoutCancel(ctx))
			return
		}
	}
}

// The order of the keys keeps two processes from waiting for each other in a circle.
const upsertUses = `insert into key_uses as u (key_id, last_used_at) select * from unnest($1::text[], $2::timestamptz[])
	on conflict (key_id) do update set last_used_at = excluded.last_used_at where u.last_used_at < excluded.last_used_at`

// Flush writes down what was noted since the last time.
func (k *KeyUses) Flush(ctx context.Context) error {
	k.mu.Lock()
	pending := k.pending
	k.pending = map[event.KeyID]time.Time{}
	k.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	ids, times := make([]string, 0, len(pending)), make([]time.Time, 0, len(pending))
	for _, id := range slices.Sorted(maps.Keys(pending)) {
		ids, times = append(ids, string(id)), append(times, pending[id])
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if _, err := k.pool.Exec(ctx, upsertUses, ids, times); err != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		for id, at := range pending {
			if at.After(k.pending[id]) {
				k.pending[id] = at
			}
		}
		return fmt.Errorf("write down the uses of %d keys: %w", len(ids), err)
	}
	return nil
}
