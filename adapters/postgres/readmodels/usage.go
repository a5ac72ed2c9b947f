package readmodels

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/projections"
)

// usageModel is how much each tenant used, per quarter of an hour.
type usageModel struct{ indexedLast }

func (usageModel) name() string { return projections.UsageModel }

func (usageModel) tables() []table {
	return []table{
		{"usage_rollups", []string{"tenant_id", "meter", "bucket", "dimensions_hash"}, []string{"dimensions", "quantity", "events"}},
	}
}

func (usageModel) apply(ctx context.Context, r *Store, g projections.Range, events []event.Decoded) error {
	fold := projections.NewUsageFold(r.catalogs)
	if err := fold.Add(ctx, events); err != nil {
		return err
	}
	if fold.Len() == 0 {
		return r.applyNothing(ctx, g, events)
	}
	return r.applyRows(ctx, g, events, newUsageRows(fold.Take()).arrays(), insertUsage(schemaOf(g.ReadModel, g.Generation)))
}

// usageRows are deltas as the columns of an insert.
type usageRows struct {
	tenants, meters, dimensions, quantities []string
	buckets                                 []time.Time
	hashes                                  [][]byte
	events                                  []int64
}

func newUsageRows(deltas []projections.UsageDelta) *usageRows {
	n := len(deltas)
	u := &usageRows{
		tenants: make([]string, n), meters: make([]string, n), dimensions: make([]string, n), quantities: make([]string, n),
		buckets: make([]time.Time, n), hashes: make([][]byte, n), events: make([]int64, n),
	}
	for i := range deltas {
		d := &deltas[i]
		u.tenants[i], u.meters[i], u.dimensions[i], u.quantities[i] = string(d.Tenant), string(d.Meter), d.Dimensions, d.Quantity.String()
		u.buckets[i], u.hashes[i], u.events[i] = time.Unix(d.Bucket, 0).UTC(), d.Hash[:], d.Events
	}
	return u
}

func (u *usageRows) arrays() []any {
	return []any{u.tenants, u.meters, u.buckets, u.hashes, u.dimensions, u.quantities, u.events}
}

const usageColumns = `(tenant_id, meter, bucket, dimensions_hash, dimensions, quantity, events)`

// insertUsage takes its arrays from $7 on. Rows come in the order of their keys, so that two writers who touch the same
// rows wait for each other and never in a circle.
func insertUsage(schema string) string {
	return `insert into ` + schema + `.usage_rollups as t ` + usageColumns + `
		select d.tenant_id, d.meter, d.bucket, d.dimensions_hash, d.dimensions, d.quantity::numeric, d.events
		from unnest($7::text[], $8::text[], $9::timestamptz[], $10::bytea[], $11::text[], $12::text[], $13::bigint[])
			as d ` + usageColumns + `
		where exists (select from moved)
		on conflict (tenant_id, meter, bucket, dimensions_hash) do update
			set quantity = t.quantity + excluded.quantity, events = t.events + excluded.events`
}

// The stage takes usage that was folded in parts; the parts are added up when all are there.
const (
	createStage = `create table %s.stage (like %s.usage_rollups)`
	insertStage = `insert into %s.stage ` + usageColumns + `
		select d.tenant_id, d.meter, d.bucket, d.dimensions_hash, d.dimensions, d.quantity::numeric, d.events
		from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bytea[], $5::text[], $6::text[], $7::bigint[]) as d ` + usageColumns
	sumStage = `insert into %s.usage_rollups ` + usageColumns + `
		select tenant_id, meter, bucket, dimensions_hash, min(dimensions), sum(quantity), sum(events)
		from %s.stage group by tenant_id, meter, bucket, dimensions_hash`
)

func (usageModel) stage() (begin, end []string) {
	return []string{createStage}, []string{sumStage, `drop table %s.stage`}
}

// usageFolder sums up a partition in memory. Tenants have one partition, so what it folded in one go are rows already; what
// it folded in parts has to be added up at the end.
type usageFolder struct {
	target
	sums   *projections.UsageFold
	staged bool
}

func (usageModel) fold(t target) folder {
	return &usageFolder{target: t, sums: projections.NewUsageFold(t.catalogs)}
}

func (f *usageFolder) add(ctx context.Context, events []event.Decoded) error {
	if err := f.sums.Add(ctx, events); err != nil {
		return err
	}
	if f.sums.Len() <= f.rows {
		return nil
	}
	f.staged = true
	return f.flush(ctx)
}

func (f *usageFolder) flush(ctx context.Context) error {
	if f.sums.Len() == 0 {
		return nil
	}
	statement := insertStage
	if !f.staged {
		statement = strings.Replace(insertStage, ".stage", ".usage_rollups", 1)
	}
	for chunk := range slices.Chunk(f.sums.Take(), rebuildChunk) {
		if _, err := f.pool.Exec(ctx, inSchema(statement, f.schema), newUsageRows(chunk).arrays()...); err != nil {
			return err
		}
	}
	return nil
}
