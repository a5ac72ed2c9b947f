package readmodels

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/projections"
)

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

// catchUp applies what was recorded since, up to the targets, in the way in which the live read models do it.
func (b *build) catchUp(ctx context.Context, targets map[shard]int64) error {
	for p := range b.log.Partitions() {
		for {
			from, to := int64(-1), int64(0)
			for _, name := range b.names() {
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
			for _, name := range b.names() {
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

// compare compares both generations. The serving one waits only until a snapshot of both is taken.
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
		for _, m := range b.models {
			name := m.name()
			hash, err := definitionHash(name)
			if err != nil {
				return err
			}
			for _, t := range m.tables() {
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
