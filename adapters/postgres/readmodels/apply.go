package readmodels

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/projections"
)

const selectCheckpoint = `select m.generation, c."offset" from read_models m
	join checkpoints c on c.read_model = m.name and c.generation = m.generation
	where m.name = $1 and m.state = '` + serving + `' and c.partition = $2`

// Checkpoint implements projections.Target.
func (r *Store) Checkpoint(ctx context.Context, readModel string, partition int) (generation int, offset int64, err error) {
	err = r.pool.QueryRow(ctx, selectCheckpoint, readModel, partition).Scan(&generation, &offset)
	if err != nil {
		return 0, 0, pg.Unavailable(fmt.Sprintf("read the checkpoint of %s on partition %d", readModel, partition), err)
	}
	r.progress.reached(readModel, partition, offset)
	return generation, offset, nil
}

// moveCheckpoint is the lock and the fence of a range: nobody else can have applied it when a row was moved, and nobody
// else can apply it before this transaction ends. Its parameters are $1 to $6.
const moveCheckpoint = `update checkpoints set "offset" = $1, recorded_at = $2, updated_at = clock_timestamp()
	where read_model = $3 and generation = $4 and partition = $5 and "offset" = $6`

func moveArguments(g projections.Range, events []event.Decoded) []any {
	return []any{g.To, events[len(events)-1].RecordedAt, g.ReadModel, g.Generation, g.Partition, g.After}
}

// Apply implements projections.Target. It is one statement and one round trip, but for the rare range that changes the
// directory.
func (r *Store) Apply(ctx context.Context, g projections.Range, events []event.Decoded) error {
	err := g.Check(events)
	if err == nil {
		if n := numberOf(g.ReadModel); n >= 0 {
			err = models[n].apply(ctx, r, g, events)
		} else {
			err = errors.New("no such read model")
		}
	}
	if err != nil {
		return fmt.Errorf("apply %d events after %d-%d to %s: %w", len(events), g.Partition, g.After, schemaOf(g.ReadModel, g.Generation), applyError(err))
	}
	r.progress.reached(g.ReadModel, g.Partition, g.To)
	return nil
}

// applyError sorts the database's answers: a generation that is gone is stale, and what the tables refuse they will
// refuse again.
func applyError(err error) error {
	switch state := pg.SQLState(err); {
	case state == undefinedTable || state == undefinedSchema:
		return fmt.Errorf("%w: %w", projections.ErrStale, err)
	case pg.IsDataError(err) || strings.HasPrefix(state, "23"):
		return fmt.Errorf("%w: %w", event.ErrMalformed, err)
	}
	return err
}

const (
	undefinedTable  = "42P01"
	undefinedSchema = "3F000"
)

// applyRows moves the checkpoint and inserts rows in one statement: inserts are insert statements that take their rows
// from arrays $7 and up and contain the condition that the checkpoint was moved.
func (r *Store) applyRows(ctx context.Context, g projections.Range, events []event.Decoded, arrays []any, inserts ...string) error {
	statement := `with moved as (` + moveCheckpoint + ` returning 1)`
	for i, insert := range inserts {
		statement += fmt.Sprintf(`, written%d as (%s)`, i, insert)
	}
	var moved int
	err := r.pool.QueryRow(ctx, statement+` select count(*) from moved`, append(moveArguments(g, events), arrays...)...).Scan(&moved)
	if err == nil && moved == 0 {
		return projections.ErrStale
	}
	return err
}

// applyNothing moves the checkpoint over events that change nothing.
func (r *Store) applyNothing(ctx context.Context, g projections.Range, events []event.Decoded) error {
	tag, err := r.pool.Exec(ctx, moveCheckpoint, moveArguments(g, events)...)
	if err == nil && tag.RowsAffected() == 0 {
		return projections.ErrStale
	}
	return err
}

// inSchema names the tables of a statement.
func inSchema(statement, schema string) string { return strings.ReplaceAll(statement, "%s", schema) }
