// Package readmodels keeps the read models in PostgreSQL, folds the log into them, rebuilds them, and answers from them.
package readmodels

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/projections"
)

// Store keeps the read models. Each generation of one has tables of its own; the checkpoint moves in the same
// transaction as the rows, so a range takes effect exactly once, even if several processes apply it.
type Store struct {
	pool     *pgxpool.Pool // of the projections: writes, and sees all tenants
	reads    *pgxpool.Pool // of requests: sees the tenant that is set
	catalogs projections.Catalogs
	progress *progress

	partitions  atomic.Int32
	generations []atomic.Int32 // that serve, as far as is known; in the order of models
}

var _ projections.Target = (*Store)(nil)

// New works on a migrated database, with pools of NewApplyPool and NewReadPool. Call Ensure before anything else.
func New(apply, reads *pgxpool.Pool, catalogs projections.Catalogs) *Store {
	return &Store{pool: apply, reads: reads, catalogs: catalogs, progress: newProgress(), generations: make([]atomic.Int32, len(models))}
}

// readModel is one read model: its tables, and how events change them. Each is a value in a file of its own.
type readModel interface {
	// name is part of the names of schemas and checkpoints. migrations/readmodels/<name>.sql defines the tables.
	name() string
	// tables are published as views of the same names, and compared with the serving ones after a rebuild.
	tables() []table
	// apply moves the checkpoint over a range and changes the rows, both in one transaction. Errors: projections.ErrStale
	// where the checkpoint is not at the range's start; those of the fold and of the database.
	apply(ctx context.Context, s *Store, g projections.Range, events []event.Decoded) error
	// fold begins to fold one partition into the tables of a build, which nobody else reads yet.
	fold(t target) folder
	// stage returns the statements that begin a build, after the tables, and that end it, before their indexes.
	stage() (begin, end []string)
	// isIndexedFirst reports whether the indexes exist from the start of a build: there are few rows, and later ones replace
	// them or are added to them.
	isIndexedFirst() bool
}

// models is the one list of the read models, in the order of their names.
var models = []readModel{directoryModel{}, insightsModel{}, quotaModel{}, timelineModel{}, usageModel{}}

// Names lists the read models, in the order in which reports name them.
func Names() []string {
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = m.name()
	}
	return names
}

// numberOf is the place of a read model in models; -1 where there is none of that name.
func numberOf(name string) int {
	return slices.IndexFunc(models, func(m readModel) bool { return m.name() == name })
}

// table is a table of a read model with the columns of its primary key and the others.
type table struct {
	name string
	key  []string
	rest []string
}

// target is where a fold of one partition writes to.
type target struct {
	pool     *pgxpool.Pool
	schema   string
	catalogs projections.Catalogs
	rows     int // as many may be kept in memory
}

// folder folds the events of one partition, page by page. An error leaves rows behind, but no generation that counts.
type folder interface {
	add(ctx context.Context, events []event.Decoded) error
	// flush writes what is still in memory, after the last page.
	flush(ctx context.Context) error
}

// indexedFirst is a read model that is built with its indexes, indexedLast one whose indexes are built once all rows are
// there. Neither has a stage.
type (
	indexedFirst struct{}
	indexedLast  struct{}
)

func (indexedFirst) isIndexedFirst() bool         { return true }
func (indexedFirst) stage() (begin, end []string) { return nil, nil }
func (indexedLast) isIndexedFirst() bool          { return false }
func (indexedLast) stage() (begin, end []string)  { return nil, nil }

// written is a folder that keeps nothing in memory: each page is written at once.
type written func(ctx context.Context, events []event.Decoded) error

func (w written) add(ctx context.Context, events []event.Decoded) error { return w(ctx, events) }
func (w written) flush(context.Context) error                           { return nil }

// ReadModels implements projections.Target.
func (r *Store) ReadModels() []string { return Names() }
