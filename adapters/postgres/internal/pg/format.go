package pg

import (
	"encoding/binary"
	"time"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// A packed position has the partition above this bit.
const partitionShift = 48

// Base is the packed position before the first of a partition.
func Base(partition int) int64 { return int64(partition) << partitionShift }

// Pack writes a position as the number that the tables hold.
func Pack(p eventstore.Position) int64 { return Base(p.Partition) + p.Offset }

// OffsetOf is the offset in a packed position.
func OffsetOf(packed int64) int64 { return packed & (1<<partitionShift - 1) }

// PositionOf is the opposite of Pack.
func PositionOf(packed int64) eventstore.Position {
	return eventstore.Position{Partition: int(packed >> partitionShift), Offset: OffsetOf(packed)}
}

// epoch is the zero of PostgreSQL's binary timestamps, in microseconds since 1970.
const epoch = 946_684_800_000_000

// Timestamp reads a timestamp in binary format.
func Timestamp(b []byte) time.Time {
	return time.UnixMicro(int64(binary.BigEndian.Uint64(b)) + epoch).UTC() //nolint:gosec // two's complement
}

// BinaryTimestamp is the opposite of Timestamp, before it is written as eight bytes.
func BinaryTimestamp(t time.Time) int64 { return t.UnixMicro() - epoch }
