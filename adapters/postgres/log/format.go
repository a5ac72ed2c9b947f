package log

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// A packed stream name starts with a byte that says how to read the rest: a whole name, or the 16 bytes of the UUID in a
// name of a frequent category. Nearly all streams are of facts, and 17 bytes instead of 42 are kept three times each.
const wholeName = 0

var packedCategories = []string{1: "usage-", 2: "conflict-", 3: "quota-"}

func packStream(name eventstore.StreamName) []byte {
	for code := 1; code < len(packedCategories); code++ {
		id, ok := strings.CutPrefix(string(name), packedCategories[code])
		if !ok || len(id) != 36 {
			continue
		}
		if u, err := uuid.Parse(id); err == nil && u.String() == id {
			return append([]byte{byte(code)}, u[:]...)
		}
	}
	return append([]byte{wholeName}, name...)
}

func unpackStream(b []byte) (eventstore.StreamName, error) {
	switch {
	case len(b) > 1 && b[0] == wholeName:
		return eventstore.StreamName(b[1:]), nil
	case len(b) == 17 && int(b[0]) < len(packedCategories):
		return eventstore.StreamName(packedCategories[b[0]] + uuid.UUID(b[1:]).String()), nil
	default:
		return "", fmt.Errorf("malformed stream name %x", b)
	}
}

// collect reads rows of eventColumns. It decodes the binary format by hand: this is the hottest loop of a rebuild, and the
// generic scan costs as much as the rest of it.
func (l *Log) collect(ctx context.Context, rows pgx.Rows, sizeHint int) ([]eventstore.Recorded, error) {
	defer rows.Close()
	recorded := make([]eventstore.Recorded, 0, max(min(sizeHint, 1024), 0))
	var unknown []int // rows whose type is not in the dictionary yet
	var unknownIDs []int16
	tenants := make(map[string]string)
	var arena []byte
	for rows.Next() {
		v := rows.RawValues()
		if len(v[0]) != 8 || len(v[1]) != 8 || len(v[2]) != 8 || len(v[3]) != 2 {
			return nil, fmt.Errorf("row of %d columns is not in binary format", len(v))
		}
		stream, err := unpackStream(v[4])
		if err != nil {
			return nil, err
		}
		tenant, ok := tenants[string(v[5])]
		if !ok {
			tenant = string(v[5])
			tenants[tenant] = tenant
		}
		if len(v[6]) > cap(arena)-len(arena) {
			arena = make([]byte, 0, max(min(64<<10, (sizeHint-len(recorded))*256), len(v[6])))
		}
		start := len(arena)
		arena = append(arena, v[6]...)
		typeID := int16(binary.BigEndian.Uint16(v[3])) //nolint:gosec // two's complement
		name, ok := l.types.name(typeID)
		if !ok {
			unknown, unknownIDs = append(unknown, len(recorded)), append(unknownIDs, typeID)
		}
		recorded = append(recorded, eventstore.Recorded{
			Position:   pg.PositionOf(int64(binary.BigEndian.Uint64(v[0]))), //nolint:gosec // two's complement
			Stream:     stream,
			Revision:   eventstore.Revision(binary.BigEndian.Uint64(v[2])), //nolint:gosec // two's complement
			Tenant:     tenant,
			Type:       name,
			RecordedAt: pg.Timestamp(v[1]),
			Data:       arena[start:len(arena):len(arena)],
		})
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(unknown) > 0 {
		if err := l.types.reload(ctx); err != nil {
			return nil, err
		}
	}
	for i, n := range unknown {
		name, ok := l.types.name(unknownIDs[i])
		if !ok {
			return nil, fmt.Errorf("event type %d is not in the dictionary", unknownIDs[i])
		}
		recorded[n].Type = name
	}
	return recorded, nil
}

// dictionary keeps log_types in memory: rows of events hold two bytes instead of a name.
type dictionary struct {
	pool  *pgxpool.Pool
	mu    sync.RWMutex
	ids   map[string]int16
	names map[int16]string
}

func newDictionary(pool *pgxpool.Pool) *dictionary {
	return &dictionary{pool: pool, ids: map[string]int16{}, names: map[int16]string{}}
}

func (d *dictionary) id(name string) (int16, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	id, ok := d.ids[name]
	return id, ok
}

func (d *dictionary) name(id int16) (string, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	name, ok := d.names[id]
	return name, ok
}

// learn gives ids to new types. It is a rare event and costs a round trip of its own.
func (d *dictionary) learn(ctx context.Context, missing []string) error {
	if len(missing) == 0 {
		return nil
	}
	_, err := d.pool.Exec(ctx, `insert into log_types (name) select distinct n from unnest($1::text[]) n
		where not exists (select from log_types t where t.name = n) on conflict do nothing`, missing)
	if err != nil {
		return fmt.Errorf("add event types: %w", err)
	}
	return d.reload(ctx)
}

func (d *dictionary) reload(ctx context.Context) error {
	rows, err := d.pool.Query(ctx, `select type_id, name from log_types`)
	if err != nil {
		return fmt.Errorf("read event types: %w", err)
	}
	var (
		id   int16
		name string
	)
	ids, names := map[string]int16{}, map[int16]string{}
	if _, err := pgx.ForEachRow(rows, []any{&id, &name}, func() error {
		ids[name], names[id] = id, name
		return nil
	}); err != nil {
		return fmt.Errorf("read event types: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ids, d.names = ids, names
	return nil
}
