package readmodels

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/projections"
)

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
