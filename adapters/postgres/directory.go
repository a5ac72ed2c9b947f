package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/projections"
)

// inSchema names the tables of a statement.
func inSchema(statement, schema string) string { return strings.ReplaceAll(statement, "%s", schema) }

const (
	upsertTenant = `insert into %s.tenants as t (tenant_id, revision, name, time_zone, currency, hosts, slug, defined_at, defined_by)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		on conflict (tenant_id) do update set revision = excluded.revision, name = excluded.name, time_zone = excluded.time_zone,
			currency = excluded.currency, hosts = excluded.hosts, slug = excluded.slug, defined_at = excluded.defined_at, defined_by = excluded.defined_by
		where t.revision < excluded.revision`
	insertKey = `insert into %s.api_keys (key_id, kind, tenant_id, name, hash, created_at, created_by)
		values ($1, $2, $3, $4, $5, $6, $7) on conflict (key_id) do nothing`
	revokeKey     = `update %s.api_keys set revoked_at = $2, revoked_by = $3 where key_id = $1 and revoked_at is null`
	upsertCatalog = `insert into %s.catalogs as t (revision, catalog, applied_at, applied_by) values ($1, $2, $3, $4)
		on conflict (only_row) do update set revision = excluded.revision, catalog = excluded.catalog,
			applied_at = excluded.applied_at, applied_by = excluded.applied_by
		where t.revision < excluded.revision`
)

func (r *ReadModels) applyDirectory(ctx context.Context, g projections.Range, events []projections.Event) error {
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
		b.Queue(inSchema(insertKey, schema), string(k.ID), string(k.Kind), string(k.Tenant), k.Name, k.Hash[:], k.CreatedAt, string(k.By))
	}
	for _, k := range change.Revocations {
		b.Queue(inSchema(revokeKey, schema), string(k.ID), k.At, string(k.By))
	}
	if c := change.Catalog; c != nil {
		b.Queue(inSchema(upsertCatalog, schema), int64(c.Revision), string(c.Catalog), c.AppliedAt, string(c.By))
	}
	return tx.SendBatch(ctx, b).Close()
}

// Tenant returns a tenant's latest definition and the position that the answer reflects. Error: tenant.ErrUnknown,
// wrapped.
func (r *ReadModels) Tenant(ctx context.Context, id event.TenantID) (tenant.Tenant, eventstore.Position, error) {
	var (
		t     tenant.Tenant
		found bool
	)
	at, err := r.read(ctx, projections.DirectoryModel, id, func(b *pgx.Batch, schema string) {
		found = false
		b.Queue(inSchema(`select tenant_id, name, time_zone, currency, hosts, slug from %s.tenants where tenant_id = $1`, schema), string(id)).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					found = true
					if err := rows.Scan(&t.ID, &t.Name, &t.TimeZone, &t.Currency, &t.Hosts, &t.Slug); err != nil {
						return err
					}
				}
				return rows.Err()
			})
	})
	if err == nil && !found {
		err = fmt.Errorf("tenant %q: %w", id, tenant.ErrUnknown)
	}
	return t, at, err
}

const keyColumns = `key_id, kind, tenant_id, name, created_at, revoked_at`

func scanKey(rows pgx.Rows) (k tenant.Key, err error) {
	var revoked *time.Time
	err = rows.Scan(&k.ID, &k.Kind, &k.Tenant, &k.Name, &k.CreatedAt, &revoked)
	k.CreatedAt = k.CreatedAt.UTC()
	if revoked != nil {
		k.RevokedAt = revoked.UTC()
	}
	return k, err
}

// KeyByHash returns the valid API key with this hash, and the position that the answer reflects. Error:
// tenant.ErrUnknownKey, wrapped, where there is none or it is revoked.
func (r *ReadModels) KeyByHash(ctx context.Context, hash tenant.Hash) (tenant.Key, eventstore.Position, error) {
	var (
		k     tenant.Key
		found bool
	)
	at, err := r.read(ctx, projections.DirectoryModel, "", func(b *pgx.Batch, schema string) {
		found = false
		b.Queue(inSchema(`select `+keyColumns+` from %s.api_keys where hash = $1 and revoked_at is null order by created_at limit 1`, schema), hash[:]).
			Query(func(rows pgx.Rows) (err error) {
				for rows.Next() {
					found = true
					if k, err = scanKey(rows); err != nil {
						return err
					}
				}
				return rows.Err()
			})
	})
	if err == nil && !found {
		err = fmt.Errorf("look up an API key: %w", tenant.ErrUnknownKey)
	}
	return k, at, err
}

type keyCursor struct {
	Created int64  `json:"t"` // microseconds since 1970
	ID      string `json:"k"`
}

// Keys lists all API keys, revoked ones too, newest first. It returns the cursor of the next page, "" on the last.
// Errors: *invalid.Error.
func (r *ReadModels) Keys(ctx context.Context, limit int, from string) (keys []tenant.Key, next string, at eventstore.Position, err error) {
	if limit, err = pageLimit(limit); err != nil {
		return nil, "", at, err
	}
	const scope = "keys"
	var after *time.Time
	var c keyCursor
	if from != "" {
		if err := openCursor(from, scope, &c); err != nil {
			return nil, "", at, err
		}
		t := time.UnixMicro(c.Created).UTC()
		after = &t
	}
	at, err = r.read(ctx, projections.DirectoryModel, "", func(b *pgx.Batch, schema string) {
		keys, next = nil, ""
		b.Queue(inSchema(`select `+keyColumns+` from %s.api_keys
			where $1::timestamptz is null or (created_at, key_id) < ($1, $2)
			order by created_at desc, key_id desc limit $3`, schema), after, c.ID, limit+1).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					k, err := scanKey(rows)
					if err != nil {
						return err
					}
					if len(keys) == limit {
						last := keys[limit-1]
						next = newCursor(scope, keyCursor{last.CreatedAt.UnixMicro(), string(last.ID)})
						continue
					}
					keys = append(keys, k)
				}
				return rows.Err()
			})
	})
	return keys, next, at, err
}

// Catalog returns the catalog in force as it was applied, with its revision: eventstore.NoStream and nil before the
// first one.
func (r *ReadModels) Catalog(ctx context.Context) (revision eventstore.Revision, catalog json.RawMessage, at eventstore.Position, err error) {
	at, err = r.read(ctx, projections.DirectoryModel, "", func(b *pgx.Batch, schema string) {
		revision, catalog = eventstore.NoStream, nil
		b.Queue(inSchema(`select revision, catalog from %s.catalogs`, schema)).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var text string
				if err := rows.Scan(&revision, &text); err != nil {
					return err
				}
				catalog = json.RawMessage(text)
			}
			return rows.Err()
		})
	})
	return revision, catalog, at, err
}
