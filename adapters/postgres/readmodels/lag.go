package readmodels

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Lag is how far a read model is behind the log on one partition.
type Lag struct {
	ReadModel string
	Partition int
	Offset    int64         // the checkpoint
	Events    int64         // that are not applied yet; where offsets do not count, lagCount at most
	Age       time.Duration // of the oldest of them
}

// lagCount bounds the events that are counted one by one.
const lagCount = 1000

// Lag measures all read models on all partitions. It reads one event of the log for each partition and checkpoint that
// is behind, or those that it has to count.
func (r *Store) Lag(ctx context.Context, log eventstore.LogReader, now time.Time) ([]Lag, error) {
	rows, err := r.reads.Query(ctx, `select c.read_model, c.partition, c."offset" from read_models m
		join checkpoints c on c.read_model = m.name and c.generation = m.generation where m.state = $1 order by 1, 2`, serving)
	if err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	lags, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l Lag, err error) {
		return l, row.Scan(&l.ReadModel, &l.Partition, &l.Offset)
	})
	if err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	heads := map[int]int64{}
	next := map[eventstore.Position][]eventstore.Recorded{}
	read := 1
	if !log.DenseOffsets() {
		read = lagCount
	}
	for i := range lags {
		l := &lags[i]
		head, ok := heads[l.Partition]
		if !ok {
			h, err := log.Head(ctx, l.Partition)
			if err != nil {
				return nil, fmt.Errorf("head of partition %d: %w", l.Partition, err)
			}
			head = h.Offset
			heads[l.Partition] = head
		}
		if l.Events = max(head-l.Offset, 0); l.Events == 0 {
			continue
		}
		at := eventstore.Position{Partition: l.Partition, Offset: l.Offset}
		if _, ok := next[at]; !ok {
			oldest, err := log.ReadLog(ctx, at, read)
			if err != nil {
				return nil, fmt.Errorf("read the event after %s: %w", at, err)
			}
			next[at] = oldest
		}
		if oldest := next[at]; len(oldest) > 0 {
			l.Age = max(now.Sub(oldest[0].RecordedAt), 0)
		}
		if !log.DenseOffsets() {
			l.Events = int64(len(next[at]))
		}
	}
	return lags, nil
}
