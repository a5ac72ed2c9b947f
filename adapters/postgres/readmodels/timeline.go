package readmodels

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/projections"
)

// timelineModel is where in the log each tenant's events are, by when they happened.
type timelineModel struct{ indexedLast }

func (timelineModel) name() string { return projections.TimelineModel }

func (timelineModel) tables() []table {
	return []table{
		{"timeline", []string{"tenant_id", "occurred_at", "position"}, []string{"source_hash", "type_hash", "kind"}},
	}
}

func (timelineModel) apply(ctx context.Context, r *Store, g projections.Range, events []event.Decoded) error {
	rows := projections.AppendTimeline(make([]projections.TimelineRow, 0, len(events)), events)
	n := len(rows)
	if n == 0 {
		return r.applyNothing(ctx, g, events)
	}
	var (
		tenants   = make([]string, n)
		occurred  = make([]time.Time, n)
		positions = make([]int64, n)
		sources   = make([]int64, n)
		types     = make([]int32, n)
		kinds     = make([]int16, n)
	)
	for i := range rows {
		row := &rows[i]
		tenants[i], occurred[i], positions[i] = string(row.Tenant), row.OccurredAt, pg.Pack(row.Position)
		sources[i], types[i], kinds[i] = row.Source, row.Type, row.Kind
	}
	return r.applyRows(ctx, g, events, []any{tenants, occurred, positions, sources, types, kinds},
		insertTimeline(schemaOf(g.ReadModel, g.Generation)))
}

const timelineColumns = `(tenant_id, occurred_at, position, source_hash, type_hash, kind)`

func insertTimeline(schema string) string {
	return `insert into ` + schema + `.timeline ` + timelineColumns + `
		select d.* from unnest($7::text[], $8::timestamptz[], $9::bigint[], $10::bigint[], $11::integer[], $12::smallint[]) as d
		where exists (select from moved)`
}

// timelineFolder copies rows in. The slices are used again.
type timelineFolder struct {
	target
	page   []projections.TimelineRow
	buffer []byte
}

func (timelineModel) fold(t target) folder { return &timelineFolder{target: t} }

func (f *timelineFolder) add(ctx context.Context, events []event.Decoded) (err error) {
	f.page = projections.AppendTimeline(f.page[:0], events)
	f.buffer, err = copyTimeline(ctx, f.pool, f.schema, f.page, f.buffer)
	return err
}

func (f *timelineFolder) flush(context.Context) error { return nil }

// copyTimeline inserts rows with COPY. The binary format (PostgreSQL manual, COPY, "Binary Format") is written by hand:
// the generic way allocates for each value, and this is one of the two hot loops of a rebuild. The buffer is used again.
func copyTimeline(ctx context.Context, pool *pgxpool.Pool, schema string, rows []projections.TimelineRow, buffer []byte) ([]byte, error) {
	if len(rows) == 0 {
		return buffer, nil
	}
	b := append(buffer[:0], "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"...) //nolint:gocritic // the buffer is used again
	for i := range rows {
		r := &rows[i]
		b = binary.BigEndian.AppendUint16(b, 6)
		b = appendCopyText(b, string(r.Tenant))
		b = appendCopyInt64(b, pg.BinaryTimestamp(r.OccurredAt))
		b = appendCopyInt64(b, pg.Pack(r.Position))
		b = appendCopyInt64(b, r.Source)
		b = binary.BigEndian.AppendUint32(b, 4)
		b = binary.BigEndian.AppendUint32(b, uint32(r.Type)) //nolint:gosec // two's complement
		b = binary.BigEndian.AppendUint32(b, 2)
		b = binary.BigEndian.AppendUint16(b, uint16(r.Kind)) //nolint:gosec // two's complement
	}
	b = binary.BigEndian.AppendUint16(b, 0xffff)
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return b, fmt.Errorf("connect: %w", err)
	}
	defer conn.Release()
	tag, err := conn.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(b), `copy `+schema+`.timeline `+timelineColumns+` from stdin (format binary)`)
	if err == nil && tag.RowsAffected() != int64(len(rows)) {
		err = fmt.Errorf("%d of %d rows were copied", tag.RowsAffected(), len(rows))
	}
	return b, err
}

func appendCopyText(b []byte, text string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(text))), text...) //nolint:gosec // an id
}

func appendCopyInt64(b []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, 8), uint64(n)) //nolint:gosec // two's complement
}
