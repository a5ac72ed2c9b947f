package readmodels

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/migrations"
)

// The states of a generation.
const (
	building = "building"
	serving  = "serving"
)

// schemaOf is the schema of a generation. The registry admits only names that need no quotes.
func schemaOf(readModel string, generation int) string {
	return "rm_" + readModel + "_" + strconv.Itoa(generation)
}

// lockReadModels is the advisory lock for creating and removing generations: Ensure holds it for a moment, a rebuild for as
// long as it lasts.
const lockReadModels int64 = 0x746f_6c6c_726d

// Ensure creates the first generation of every read model and the checkpoints for the log's partitions where they are
// missing. Several processes may call it at once. It returns the read models whose serving generation was made from another
// definition than this program's, so that statements may not fit its tables: Rebuild them before anything reads or applies.
func (r *Store) Ensure(ctx context.Context, partitions int) (outdated []string, err error) {
	err = pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		// A transaction lock of the second kind, so that a running rebuild does not keep new processes from starting.
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, lockReadModels+1); err != nil {
			return err
		}
		outdated = nil
		for i, m := range models {
			generation, fits, err := ensure(ctx, tx, m, partitions)
			if err != nil {
				return fmt.Errorf("read model %s: %w", m.name(), err)
			}
			if !fits {
				outdated = append(outdated, m.name())
			}
			r.generations[i].Store(int32(generation)) //nolint:gosec // counts rebuilds
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("create the read models: %w", err)
	}
	r.partitions.Store(int32(partitions)) //nolint:gosec // at most 1024
	return outdated, nil
}

// ensure also reports whether the serving generation fits this program's definition.
func ensure(ctx context.Context, tx pgx.Tx, m readModel, partitions int) (generation int, fits bool, err error) {
	name := m.name()
	hash, err := definitionHash(name)
	if err != nil {
		return 0, false, err
	}
	var known int
	err = tx.QueryRow(ctx, `select m.generation, count(c.partition), m.definition is not distinct from $3 from read_models m left join checkpoints c
		on c.read_model = m.name and c.generation = m.generation where m.name = $1 and m.state = $2 group by m.name, m.generation`,
		name, serving, hash).Scan(&generation, &known, &fits)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		if generation, err = create(ctx, tx, name, partitions); err != nil {
			return 0, false, err
		}
		if err := index(ctx, tx, name, generation); err != nil {
			return 0, false, err
		}
		return generation, true, publish(ctx, tx, m, generation)
	case err != nil:
		return 0, false, err
	case known != partitions:
		return 0, false, fmt.Errorf("it has %d checkpoints, but the log has %d partitions", known, partitions)
	}
	return generation, fits, nil
}

// create adds an empty generation, in state building, with its tables but without their indexes.
func create(ctx context.Context, tx pgx.Tx, name string, partitions int) (generation int, err error) {
	hash, err := definitionHash(name)
	if err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, `insert into read_models (name, generation, state, definition)
		select $1, coalesce(max(generation), 0) + 1, $2, $3 from read_models where name = $1 returning generation`, name, building, hash).Scan(&generation)
	if err != nil {
		return 0, fmt.Errorf("register a generation: %w", err)
	}
	if _, err := tx.Exec(ctx, `insert into checkpoints (read_model, generation, partition) select $1, $2, generate_series(0, $3::int - 1)`,
		name, generation, partitions); err != nil {
		return 0, fmt.Errorf("create checkpoints: %w", err)
	}
	if _, err := tx.Exec(ctx, `create schema `+schemaOf(name, generation)); err != nil {
		return 0, fmt.Errorf("create schema: %w", err)
	}
	if _, err := tx.Exec(ctx, `grant usage on schema `+schemaOf(name, generation)+` to `+pg.ReaderRole); err != nil {
		return 0, fmt.Errorf("open the schema: %w", err)
	}
	tables, _, err := definition(name)
	if err != nil {
		return 0, err
	}
	return generation, within(ctx, tx, schemaOf(name, generation), tables)
}

// index adds the keys and indexes, and lets readers in: nobody but the projections sees a table before its policies are there.
func index(ctx context.Context, tx pgx.Tx, name string, generation int) error {
	_, indexes, err := definition(name)
	if err != nil {
		return err
	}
	return within(ctx, tx, schemaOf(name, generation), indexes)
}

// definition splits the DDL of a read model: a rebuild fills tables first and builds their indexes at the end.
func definition(name string) (tables, indexes string, err error) {
	text, err := migrations.ReadModel(name)
	if err != nil {
		return "", "", fmt.Errorf("definition of read model %s: %w", name, err)
	}
	tables, indexes, ok := strings.Cut(text, "\n-- indexes\n")
	if !ok {
		return "", "", fmt.Errorf("definition of read model %s has no line \"-- indexes\"", name)
	}
	return tables, indexes, nil
}

// definitionHash is what the registry keeps of the definition.
func definitionHash(name string) (string, error) {
	text, err := migrations.ReadModel(name)
	if err != nil {
		return "", fmt.Errorf("definition of read model %s: %w", name, err)
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:]), nil
}

// within runs statements with a schema as search path and leaves the search path as it was.
func within(ctx context.Context, tx pgx.Tx, schema, statements string) error {
	var path string
	if err := tx.QueryRow(ctx, `select current_setting('search_path')`).Scan(&path); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `select set_config('search_path', $1, true)`, schema); err != nil {
		return err
	}
	if _, err := tx.Conn().PgConn().Exec(ctx, statements).ReadAll(); err != nil {
		return fmt.Errorf("define tables of %s: %w", schema, err)
	}
	_, err := tx.Exec(ctx, `select set_config('search_path', $1, true)`, path)
	return err
}

// publish makes a generation the one that serves, and points the views in the default schema to it.
func publish(ctx context.Context, tx pgx.Tx, m readModel, generation int) error {
	name := m.name()
	if _, err := tx.Exec(ctx, `update read_models set state = $2 where name = $1 and generation = $3`, name, serving, generation); err != nil {
		return fmt.Errorf("register the serving generation: %w", err)
	}
	for _, t := range m.tables() {
		columns := strings.Join(slices.Concat(t.key, t.rest), ", ")
		create := fmt.Sprintf(`create or replace view %s with (security_invoker = true) as select %s from %s.%s`,
			t.name, columns, schemaOf(name, generation), t.name)
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, create)
			return err
		})
		// A view whose columns are others cannot be replaced, so those who may read it have to be told again.
		if pg.SQLState(err) == invalidTableDefinition {
			if _, err = tx.Exec(ctx, `drop view `+t.name+` cascade`); err == nil {
				_, err = tx.Exec(ctx, create)
			}
		}
		if err == nil {
			_, err = tx.Exec(ctx, `grant select on `+t.name+` to `+pg.ReaderRole)
		}
		if err != nil {
			return fmt.Errorf("publish view %s: %w", t.name, err)
		}
	}
	return nil
}

const invalidTableDefinition = "42P16"
