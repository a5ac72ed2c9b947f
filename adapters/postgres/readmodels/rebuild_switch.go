package readmodels

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
)

// swap makes the new generations serve, all at once. The old checkpoints are deleted in the same transaction: a
// process that still wants to move one gets projections.ErrStale.
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
				where m.name = c.read_model and m.generation = c.generation and m.state = $1 and m.name = any($2)`, serving, b.names()); err != nil {
				return fmt.Errorf("fence the old generation: %w", err)
			}
			if _, err := tx.Exec(ctx, `update read_models set state = 'retired' where state = $1 and name = any($2)`, serving, b.names()); err != nil {
				return fmt.Errorf("retire the old generation: %w", err)
			}
			for _, m := range b.models {
				if err := publish(ctx, tx, m, b.generations[m.name()]); err != nil {
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
	rows, err := b.pool.Query(ctx, `select name, generation from read_models where state <> $1 and name = any($2)`, serving, b.names())
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
		rows, err := tx.Query(ctx, `delete from read_models where state <> $1 and name = any($2) returning name, generation`, serving, b.names())
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
