package projections

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/usage"
)

// UsageModel is the name of the read model that holds how much each tenant used, per quarter of an hour.
const UsageModel = "usage"

// Catalogs gives the catalog of one revision. A revision never changes, so a fold over the same events always gives
// the same result, whatever the catalog says today.
type Catalogs interface {
	// At returns the catalog as it was applied; the empty one for eventstore.NoStream. The caller must not change it.
	// Errors: app.ErrNotFound; those of the store.
	At(ctx context.Context, revision eventstore.Revision) (*catalog.Catalog, error)
}

// isUnknownRevision tells an event that names a catalog nobody applied from a store that cannot be asked.
func isUnknownRevision(err error) bool { return errors.Is(err, app.ErrNotFound) }

// BucketSeconds is the width of a usage bucket. The offset of every time zone since 1980 is a multiple of it, so that
// an hour, day or month of any zone is a sum of whole buckets.
const BucketSeconds = 15 * 60

// UsageDelta is how much a range of events adds to one row of the usage read model.
type UsageDelta struct {
	Tenant event.TenantID
	Meter  catalog.MeterKey
	// Bucket is the start of the quarter of an hour in which the facts occurred: seconds since 1970-01-01 UTC.
	Bucket int64
	// Dimensions is a JSON object from the meter's dimensions that are present to their values as text, sorted by name.
	Dimensions string
	// Hash stands for Dimensions in keys, because values can be longer than an index entry may be.
	Hash     [16]byte
	Quantity money.Decimal
	// Events is the number of facts that count; corrections count with the fact that they change.
	Events int64
}

// UsageFold sums up events to one delta per row. It is not safe for concurrent use. It needs memory for the rows that
// its events touch since the last Take, never for the events.
type UsageFold struct {
	catalogs Catalogs
	plans    map[planKey]*plan
	meters   map[catalog.MeterKey]uint32 // small numbers for keys
	cells    map[string]*cell
	values   []event.Value // of the event at hand
	key      []byte

	last     *plan // events of one kind come in runs
	lastPlan planKey
}

type planKey struct {
	revision eventstore.Revision
	usage    event.Type
}

// maxPlans bounds what is kept between events; a product has dozens of event types.
const maxPlans = 4096

// plan is what the meters of one event type look at, so that an event's data is walked once.
type plan struct {
	fields []string // sorted
	meters []meterPlan
}

type meterPlan struct {
	number     uint32
	key        catalog.MeterKey
	count      bool
	value      int // index in fields, or -1 for the event's quantity
	dimensions []dimension
}

type dimension struct {
	field int
	label []byte // `"name":`
}

// cell is one row in the making.
type cell struct {
	delta UsageDelta
	sum   sum
}

// sum adds up whole numbers, nearly all there are, without allocation.
type sum struct {
	whole int64
	exact money.Decimal // what did not fit
}

// NewUsageFold makes an empty fold.
func NewUsageFold(c Catalogs) *UsageFold {
	return &UsageFold{
		catalogs: c, plans: map[planKey]*plan{}, meters: map[catalog.MeterKey]uint32{}, cells: map[string]*cell{},
		lastPlan: planKey{revision: math.MinInt64},
	}
}

// Add folds events. After an error the fold must not be used any more. Errors: event.ErrMalformed, wrapped, for an event
// that names a catalog revision that does not exist; those of Catalogs.
func (f *UsageFold) Add(ctx context.Context, events []event.Decoded) error {
	for i := range events {
		var err error
		switch e := events[i].Payload.(type) {
		case event.UsageRecorded:
			err = f.count(ctx, e.Catalog, e.Usage, 1)
		case event.UsageVoided:
			err = f.count(ctx, e.Catalog, e.Usage, -1)
		case event.UsageAdjusted:
			if err = f.count(ctx, e.Catalog, e.Usage, -1); err == nil {
				err = f.count(ctx, e.Catalog, e.After(), 1)
			}
		}
		if isUnknownRevision(err) {
			return malformed(events[i], err)
		}
		if err != nil {
			return fmt.Errorf("fold usage at %s: %w", events[i].Position, err)
		}
	}
	return nil
}

// Len is the number of rows that the events since the last Take touch.
func (f *UsageFold) Len() int { return len(f.cells) }

// Take returns the deltas in the order of their rows' keys and starts again with none. A row that events touched is
// there even when they cancel out: whether a row exists must not depend on how the log was cut into ranges.
func (f *UsageFold) Take() []UsageDelta {
	deltas := make([]UsageDelta, 0, len(f.cells))
	for _, c := range f.cells {
		c.delta.Quantity = c.sum.value()
		deltas = append(deltas, c.delta)
	}
	clear(f.cells)
	slices.SortFunc(deltas, func(a, b UsageDelta) int {
		return cmp.Or(
			cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Meter, b.Meter), cmp.Compare(a.Bucket, b.Bucket),
			slices.Compare(a.Hash[:], b.Hash[:]))
	})
	return deltas
}

// count adds (sign 1) or takes back (sign -1) one fact.
func (f *UsageFold) count(ctx context.Context, revision eventstore.Revision, u event.Usage, sign int64) error {
	p, err := f.plan(ctx, revision, u.Type)
	if err != nil || len(p.meters) == 0 {
		return err
	}
	f.read(p, u.Data)
	bucket := floor(u.OccurredAt.Unix(), BucketSeconds)
	for i := range p.meters {
		m := &p.meters[i]
		quantity, counts := m.quantity(u, f.values)
		if !counts {
			continue
		}
		c := f.cell(u.Tenant, m, bucket)
		c.delta.Events += sign
		c.sum.add(quantity, sign)
	}
	return nil
}

// read sets f.values to the plan's fields of the data. Both are sorted by name, so one walk finds all.
func (f *UsageFold) read(p *plan, data event.Data) {
	f.values = slices.Grow(f.values[:0], len(p.fields))[:len(p.fields)]
	clear(f.values)
	at := 0
	for name, v := range data.All() {
		for at < len(p.fields) && p.fields[at] < name {
			at++
		}
		if at == len(p.fields) {
			return
		}
		if p.fields[at] == name {
			f.values[at] = v
			at++
		}
	}
}

var one = money.Int(1)

// quantity is what the fact adds to the meter; counts is false when the field that the meter adds up is missing or is no
// number that the ledger keeps.
func (m *meterPlan) quantity(u event.Usage, values []event.Value) (q money.Decimal, counts bool) {
	switch {
	case m.count:
		return one, true
	case m.value < 0:
		return u.Quantity, true
	}
	return usage.Countable(values[m.value])
}

// cell finds the row of the read model that a fact counts in.
func (f *UsageFold) cell(tenant event.TenantID, m *meterPlan, bucket int64) *cell {
	k := binary.LittleEndian.AppendUint32(f.key[:0], m.number)
	k = binary.LittleEndian.AppendUint64(k, uint64(bucket)) //nolint:gosec // only a key
	k = append(append(k, tenant...), 0)                     // an id has no NUL
	dimensions := len(k)
	k = append(k, '{')
	for _, d := range m.dimensions {
		v := f.values[d.field]
		if v.Kind == event.Absent || v.Kind == event.Null {
			continue
		}
		if len(k) > dimensions+1 {
			k = append(k, ',')
		}
		k = appendQuoted(append(k, d.label...), v.String())
	}
	k = append(k, '}')
	f.key = k
	if c := f.cells[string(k)]; c != nil {
		return c
	}
	hash := sha256.Sum256(k[dimensions:])
	c := &cell{delta: UsageDelta{Tenant: tenant, Meter: m.key, Bucket: bucket, Dimensions: string(k[dimensions:]), Hash: [16]byte(hash[:16])}}
	// The id is a part of a larger string of the log's page, which a row in the making must not keep alive.
	c.delta.Tenant = event.TenantID(strings.Clone(string(tenant)))
	f.cells[string(k)] = c
	return c
}

func (s *sum) value() money.Decimal { return s.exact.Add(money.Int(s.whole)) }

func (s *sum) add(q money.Decimal, sign int64) {
	if n, scale, ok := q.Coefficient(); ok && scale == 0 && n > -1<<61 && n < 1<<61 {
		whole := s.whole + sign*n
		if whole > -1<<61 && whole < 1<<61 {
			s.whole = whole
			return
		}
	}
	if sign < 0 {
		s.exact = s.exact.Sub(q)
	} else {
		s.exact = s.exact.Add(q)
	}
}

// plan prepares the meters that count events of a type at a catalog revision.
func (f *UsageFold) plan(ctx context.Context, revision eventstore.Revision, usage event.Type) (*plan, error) {
	key := planKey{revision, usage}
	if key == f.lastPlan {
		return f.last, nil
	}
	p := f.plans[key]
	if p == nil {
		c, err := f.catalogs.At(ctx, revision)
		if err != nil {
			return nil, err
		}
		p = f.newPlan(c.MetersOf(string(usage)))
		if len(f.plans) >= maxPlans {
			clear(f.plans)
		}
		// The type is a part of a string of the log's page.
		key.usage = event.Type(strings.Clone(string(usage)))
		f.plans[key] = p
	}
	f.last, f.lastPlan = p, key
	return p, nil
}

func (f *UsageFold) newPlan(meters []catalog.Meter) *plan {
	p := &plan{}
	for _, m := range meters {
		p.fields = append(p.fields, m.Dimensions...)
		if field, ok := m.Field(); ok {
			p.fields = append(p.fields, field)
		}
	}
	slices.Sort(p.fields)
	p.fields = slices.Compact(p.fields)
	for _, m := range meters {
		number, ok := f.meters[m.Key]
		if !ok {
			number = uint32(len(f.meters)) //nolint:gosec // a product has hundreds
			f.meters[m.Key] = number
		}
		mp := meterPlan{number: number, key: m.Key, count: m.Aggregation == catalog.Count, value: -1}
		if field, ok := m.Field(); ok {
			mp.value, _ = slices.BinarySearch(p.fields, field)
		}
		dimensions := slices.Sorted(slices.Values(m.Dimensions))
		for _, name := range slices.Compact(dimensions) {
			at, _ := slices.BinarySearch(p.fields, name)
			mp.dimensions = append(mp.dimensions, dimension{at, append(appendQuoted(nil, name), ':')})
		}
		p.meters = append(p.meters, mp)
	}
	return p
}

// appendQuoted writes a JSON string; text that needs no escapes, nearly all there is, is copied.
func appendQuoted(dst []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := jsontext.AppendQuote(dst, text)
			if err != nil {
				panic(fmt.Sprintf("projections: text was not checked: %v", err))
			}
			return quoted
		}
	}
	dst = append(dst, '"')
	dst = append(dst, text...)
	return append(dst, '"')
}

// floor is the largest multiple of step that is not above n.
func floor(n, step int64) int64 {
	rest := n % step
	if rest < 0 {
		rest += step
	}
	return n - rest
}
