package readmodels

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/projections"
)

// directoryModel is the tenants, API keys and the catalog in force.
type directoryModel struct{ indexedFirst }

func (directoryModel) name() string { return projections.DirectoryModel }

func (directoryModel) tables() []table {
	return []table{
		{"tenants", []string{"tenant_id"}, []string{"revision", "name", "time_zone", "currency", "hosts", "slug", "defined_at", "defined_by"}},
		{"api_keys", []string{"key_id"}, []string{"kind", "tenant_id", "name", "hash", "created_at", "created_by", "expires_at", "revoked_at", "revoked_by"}},
		{"catalogs", []string{"only_row"}, []string{"revision", "catalog", "applied_at", "applied_by", "plan_versions"}},
		{"plan_assignments", []string{"tenant_id", "effective_at"}, []string{"revision", "plan", "billing_anchor", "assigned_at", "assigned_by"}},
		{"limit_overrides", []string{"tenant_id", "limit_key", "per"}, []string{"revision", "removed", "max", "valid_from", "valid_until", "reason", "changed_at", "changed_by"}},
		{"tenant_statuses", []string{"tenant_id"}, []string{"revision", "status", "reason", "changed_at", "changed_by"}},
		{"host_proofs", []string{"tenant_id", "host"}, []string{"revision", "claim", "verified_at", "verified_by"}},
		{"tenant_names", []string{"kind", "name"}, []string{"revision", "holder", "claim", "released", "changed_at", "changed_by"}},
		{"directory_changes", []string{"partition"}, []string{"position"}},
	}
}

func (directoryModel) apply(ctx context.Context, r *Store, g projections.Range, events []event.Decoded) error {
	change := projections.FoldDirectory(events)
	if change.IsEmpty() {
		return r.applyNothing(ctx, g, events)
	}
	return pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, moveCheckpoint, moveArguments(g, events)...)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return projections.ErrStale
		}
		return writeDirectory(ctx, tx, schemaOf(g.ReadModel, g.Generation), change)
	})
}

func (directoryModel) fold(t target) folder {
	return written(func(ctx context.Context, events []event.Decoded) error {
		change := projections.FoldDirectory(events)
		if change.IsEmpty() {
			return nil
		}
		return pgx.BeginFunc(ctx, t.pool, func(tx pgx.Tx) error { return writeDirectory(ctx, tx, t.schema, change) })
	})
}

const (
	upsertTenant = `insert into %s.tenants as t (tenant_id, revision, name, time_zone, currency, hosts, slug, defined_at, defined_by)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		on conflict (tenant_id) do update set revision = excluded.revision, name = excluded.name, time_zone = excluded.time_zone,
			currency = excluded.currency, hosts = excluded.hosts, slug = excluded.slug, defined_at = excluded.defined_at, defined_by = excluded.defined_by
		where t.revision < excluded.revision`
	insertKey = `insert into %s.api_keys (key_id, kind, tenant_id, name, hash, created_at, created_by, expires_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (key_id) do nothing`
	revokeKey     = `update %s.api_keys set revoked_at = $2, revoked_by = $3 where key_id = $1 and revoked_at is null`
	upsertCatalog = `insert into %s.catalogs as t (revision, catalog, applied_at, applied_by, plan_versions) values ($1, $2, $3, $4, $5)
		on conflict (only_row) do update set revision = excluded.revision, catalog = excluded.catalog,
			applied_at = excluded.applied_at, applied_by = excluded.applied_by, plan_versions = excluded.plan_versions
		where t.revision < excluded.revision`
	upsertAssignment = `insert into %s.plan_assignments as t (tenant_id, effective_at, revision, plan, billing_anchor, assigned_at, assigned_by)
		values ($1, $2, $3, $4, $5, $6, $7)
		on conflict (tenant_id, effective_at) do update set revision = excluded.revision, plan = excluded.plan,
			billing_anchor = excluded.billing_anchor, assigned_at = excluded.assigned_at, assigned_by = excluded.assigned_by
		where t.revision < excluded.revision`
	upsertOverride = `insert into %s.limit_overrides as t
			(tenant_id, limit_key, per, revision, removed, max, valid_from, valid_until, reason, changed_at, changed_by)
		values ($1, $2, $3, $4, $5, $6::text::numeric, $7, $8, $9, $10, $11)
		on conflict (tenant_id, limit_key, per) do update set revision = excluded.revision, removed = excluded.removed, max = excluded.max,
			valid_from = excluded.valid_from, valid_until = excluded.valid_until, reason = excluded.reason,
			changed_at = excluded.changed_at, changed_by = excluded.changed_by
		where t.revision < excluded.revision`
	upsertStatus = `insert into %s.tenant_statuses as t (tenant_id, revision, status, reason, changed_at, changed_by)
		values ($1, $2, $3, $4, $5, $6)
		on conflict (tenant_id) do update set revision = excluded.revision, status = excluded.status, reason = excluded.reason,
			changed_at = excluded.changed_at, changed_by = excluded.changed_by
		where t.revision < excluded.revision`
	upsertProof = `insert into %s.host_proofs as t (tenant_id, host, revision, claim, verified_at, verified_by)
		values ($1, $2, $3, $4, $5, $6)
		on conflict (tenant_id, host) do update set revision = excluded.revision, claim = excluded.claim,
			verified_at = excluded.verified_at, verified_by = excluded.verified_by
		where t.revision < excluded.revision`
	upsertName = `insert into %s.tenant_names as t (kind, name, revision, holder, claim, released, changed_at, changed_by)
		values ($1, $2, $3, $4, $5, $6, $7, $8)
		on conflict (kind, name) do update set revision = excluded.revision, holder = excluded.holder, claim = excluded.claim,
			released = excluded.released, changed_at = excluded.changed_at, changed_by = excluded.changed_by
		where t.revision < excluded.revision`
	upsertChange = `insert into %s.directory_changes as t (partition, position) values ($1, $2)
		on conflict (partition) do update set position = excluded.position where t.position < excluded.position`
)

// writeDirectory sends all rows at once, in the order of their ids.
func writeDirectory(ctx context.Context, tx pgx.Tx, schema string, change projections.DirectoryChange) error {
	b := &pgx.Batch{}
	for i := range change.Tenants {
		t := &change.Tenants[i]
		hosts := t.Hosts
		if hosts == nil {
			hosts = []string{}
		}
		b.Queue(inSchema(upsertTenant, schema), string(t.ID), int64(t.Revision), t.Name, t.TimeZone, t.Currency, hosts, t.Slug, t.DefinedAt, string(t.By))
	}
	for i := range change.Keys {
		k := &change.Keys[i]
		b.Queue(inSchema(insertKey, schema), string(k.ID), string(k.Kind), string(k.Tenant), k.Name, k.Hash[:], k.CreatedAt, string(k.By), orNull(k.ExpiresAt))
	}
	for _, k := range change.Revocations {
		b.Queue(inSchema(revokeKey, schema), string(k.ID), k.At, string(k.By))
	}
	if c := change.Catalog; c != nil {
		versions, err := json.Marshal(c.Versions)
		if err != nil {
			return fmt.Errorf("write the versions of plans: %w", err)
		}
		if c.Versions == nil {
			versions = []byte("{}")
		}
		b.Queue(inSchema(upsertCatalog, schema), int64(c.Revision), string(c.Catalog), c.AppliedAt, string(c.By), string(versions))
	}
	for i := range change.Assignments {
		a := &change.Assignments[i]
		b.Queue(inSchema(upsertAssignment, schema), string(a.Tenant), a.EffectiveAt, int64(a.Revision), string(a.Plan), a.BillingAnchor, a.AssignedAt, string(a.By))
	}
	for i := range change.Overrides {
		o := &change.Overrides[i]
		b.Queue(inSchema(upsertOverride, schema), string(o.Tenant), string(o.Limit), string(o.Per), int64(o.Revision), o.Removed, o.Max.String(),
			orNull(o.From), orNull(o.Until), o.Reason, o.ChangedAt, string(o.By))
	}
	for i := range change.Statuses {
		r := &change.Statuses[i]
		b.Queue(inSchema(upsertStatus, schema), string(r.Tenant), int64(r.Revision), string(r.Status), r.Reason, r.ChangedAt, string(r.By))
	}
	for i := range change.Proofs {
		r := &change.Proofs[i]
		b.Queue(inSchema(upsertProof, schema), string(r.Tenant), r.Host, int64(r.Revision), int64(r.Claim), r.VerifiedAt, string(r.By))
	}
	for i := range change.Names {
		r := &change.Names[i]
		b.Queue(inSchema(upsertName, schema), string(r.Kind), r.Name.Name, int64(r.Revision), string(r.Tenant), int64(r.Claim), r.Released, r.ChangedAt, string(r.By))
	}
	b.Queue(inSchema(upsertChange, schema), change.Last.Partition, pg.Pack(change.Last))
	return tx.SendBatch(ctx, b).Close()
}

// orNull is null for the zero time.
func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// orZero is the opposite of orNull, in UTC.
func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
