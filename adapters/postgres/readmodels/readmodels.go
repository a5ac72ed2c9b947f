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
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/migrations"
	"github.com/tollgate-io/tollgate/projections"
)

// Store keeps the read models. Each generation of one has tables of its own; the checkpoint moves in the same
// transaction as the rows, so a range takes effect exactly once, whoever else applies it.
type Store struct {
	pool     *pgxpool.Pool // of the projections: writes, and sees all tenants
	reads    *pgxpool.Pool // of requests: sees the tenant that is set
	catalogs projections.Catalogs
	progress *progress

	partitions  atomic.Int32
	generations [5]atomic.Int32 // that serve, as far as is known; indexed like Names
}

var _ projections.Target = (*Store)(nil)

// New works on a migrated database, with pools of NewApplyPool and NewReadPool. Call Ensure before anything else.
func New(apply, reads *pgxpool.Pool, catalogs projections.Catalogs) *Store {
	return &Store{pool: apply, reads: reads, catalogs: catalogs, progress: newProgress()}
}

// table is a table of a read model with the columns of its primary key and the others.
type table struct {
	name string
	key  []string
	rest []string
}

// tables of each read model. They are published as views of the same name.
var tables = map[string][]table{
	projections.UsageModel: {
		{"usage_rollups", []string{"tenant_id", "meter", "bucket", "dimensions_hash"}, []string{"dimensions", "quantity", "events"}},
	},
	projections.QuotaModel: {
		{"quota_accounts", []string{"tenant_id"}, []string{"revision", "state"}},
		{"quota_holds", []string{"tenant_id", "hold_id"}, []string{"position", "keep_until", "event_type", "decision"}},
	},
	projections.InsightsModel: {
		{"insight_calls", []string{"tenant_id", "day", "event_type", "labels_hash"}, []string{"provider", "model", "feature", "prompt_version", "events", "counted",
			"retries", "failures", "input_tokens", "cached_tokens", "output_tokens", "latency_buckets", "latency_counts"}},
		{"insight_denials", []string{"tenant_id", "day", "event_type", "limit_key", "reason"}, []string{"decisions"}},
	},
	projections.TimelineModel: {
		{"timeline", []string{"tenant_id", "occurred_at", "position"}, []string{"source_hash", "type_hash", "kind"}},
	},
	projections.DirectoryModel: {
		{"tenants", []string{"tenant_id"}, []string{"revision", "name", "time_zone", "currency", "hosts", "slug", "defined_at", "defined_by"}},
		{"api_keys", []string{"key_id"}, []string{"kind", "tenant_id", "name", "hash", "created_at", "created_by", "expires_at", "revoked_at", "revoked_by"}},
		{"catalogs", []string{"only_row"}, []string{"revision", "catalog", "applied_at", "applied_by", "plan_versions"}},
		{"plan_assignments", []string{"tenant_id", "effective_at"}, []string{"revision", "plan", "billing_anchor", "assigned_at", "assigned_by"}},
		{"limit_overrides", []string{"tenant_id", "limit_key"}, []string{"revision", "removed", "max", "valid_from", "valid_until", "reason", "changed_at", "changed_by"}},
		{"tenant_statuses", []string{"tenant_id"}, []string{"revision", "status", "reason", "changed_at", "changed_by"}},
		{"host_proofs", []string{"tenant_id", "host"}, []string{"revision", "claim", "verified_at", "verified_by"}},
		{"tenant_names", []string{"kind", "name"}, []string{"revision", "holder", "claim", "released", "changed_at", "changed_by"}},
		{"directory_changes", []string{"partition"}, []string{"position"}},
	},
}

// The states of a generation.
const (
	building = "building"
	serving  = "serving"
)

// Names lists the read models, in the order in which reports name them.
func Names() []string {
	return []string{projections.DirectoryModel, projections.InsightsModel, projections.QuotaModel, projections.TimelineModel, projections.UsageModel}
}

// schemaOf is the schema of a generation. The registry admits only names that need no quotes.
func schemaOf(readModel string, generation int) string {
	return "rm_" + readModel + "_" + strconv.Itoa(generation)
}

// lockReadModels is the advisory lock of whoever creates or removes generations: Ensure for a moment, a rebuild for as
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
		for i, name := range Names() {
			generation, fits, err := ensure(ctx, tx, name, partitions)
			if err != nil {
				return fmt.Errorf("read model %s: %w", name, err)
			}
			if !fits {
				outdated = append(outdated, name)
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

// ensure also tells whether the serving generation fits this program's definition.
func ensure(ctx context.Context, tx pgx.Tx, name string, partitions int) (generation int, fits bool, err error) {
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
		return generation, true, publish(ctx, tx, name, generation)
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
func publish(ctx context.Context, tx pgx.Tx, name string, generation int) error {
	if _, err := tx.Exec(ctx, `update read_models set state = $2 where name = $1 and generation = $3`, name, serving, generation); err != nil {
		return fmt.Errorf("register the serving generation: %w", err)
	}
	for _, t := range tables[name] {
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

// ReadModels implements projections.Target.
func (r *Store) ReadModels() []string { return Names() }

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
		switch g.ReadModel {
		case projections.UsageModel:
			err = r.applyUsage(ctx, g, events)
		case projections.InsightsModel:
			err = r.applyInsights(ctx, g, events)
		case projections.TimelineModel:
			err = r.applyTimeline(ctx, g, events)
		case projections.DirectoryModel:
			err = r.applyDirectory(ctx, g, events)
		case projections.QuotaModel:
			err = r.applyQuota(ctx, g, events)
		default:
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

// setScope says what the transaction is about: the tenant in $1, or the installation when that is ”. Row level security goes
// by it. It ends with the transaction, so that nothing of it is left on the connection for the next one.
const setScope = `select set_config('app.tenant_id', $1, true), set_config('app.scope', case $1 when '' then 'installation' else '' end, true)`

// read runs a request's queries in one snapshot and returns the checkpoint of the tenant's partition in it. Without a tenant
// they are about the installation, and see the rows of none.
func (r *Store) read(ctx context.Context, readModel string, tenant event.TenantID, queue func(b *pgx.Batch, schema string)) (eventstore.Position, error) {
	return r.snapshot(ctx, r.reads, readModel, tenant, queue)
}

// readAll runs queries about all tenants, which no request may ask: they see everything.
func (r *Store) readAll(ctx context.Context, readModel string, queue func(b *pgx.Batch, schema string)) error {
	_, err := r.snapshot(ctx, r.pool, readModel, "", queue)
	return err
}

// snapshot names the tables of the serving generation by their schema: a view could be switched between the snapshot and the
// query.
func (r *Store) snapshot(ctx context.Context, pool *pgxpool.Pool, readModel string, tenant event.TenantID, queue func(b *pgx.Batch, schema string)) (eventstore.Position, error) {
	number := slices.Index(Names(), readModel)
	at := eventstore.Position{Partition: eventstore.PartitionOf(string(tenant), int(max(r.partitions.Load(), 1)))}
	const attempts = 5 // a generation lives longer than a query
	for range attempts {
		generation, assumed := 0, int(r.generations[number].Load())
		b := &pgx.Batch{}
		b.Queue(`begin isolation level repeatable read read only`)
		b.Queue(setScope, string(tenant))
		b.Queue(selectCheckpoint, readModel, at.Partition).QueryRow(func(row pgx.Row) error { return row.Scan(&generation, &at.Offset) })
		queue(b, schemaOf(readModel, assumed))
		b.Queue(`commit`)
		err := pool.SendBatch(ctx, b).Close()
		state := pg.SQLState(err)
		switch {
		case err == nil && generation == assumed:
			r.progress.reached(readModel, at.Partition, at.Offset)
			return at, nil
		case err != nil && state != undefinedTable && state != undefinedSchema:
			return at, pg.Unavailable("read "+readModel, err)
		}
		// Another generation serves now.
		if err := pool.QueryRow(ctx, selectCheckpoint, readModel, at.Partition).Scan(&generation, &at.Offset); err != nil {
			return at, pg.Unavailable("read the serving generation of "+readModel, err)
		}
		r.generations[number].Store(int32(generation)) //nolint:gosec // counts rebuilds
	}
	return at, fmt.Errorf("read %s: its generation changed %d times", readModel, attempts)
}

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
