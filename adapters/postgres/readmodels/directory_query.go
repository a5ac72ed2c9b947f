package readmodels

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/projections"
)

// DirectoryVersion is a text that stays the same as long as nothing in the directory changes. A rebuilt directory is another
// one: it may say something else although it is as far.
func (r *Store) DirectoryVersion(ctx context.Context) (version string, err error) {
	_, err = r.read(ctx, projections.DirectoryModel, "", func(b *pgx.Batch, schema string) {
		b.Queue(inSchema(`select '%s ' || coalesce(string_agg(position::text, ' ' order by partition), '') from %s.directory_changes`, schema)).
			QueryRow(func(row pgx.Row) error { return row.Scan(&version) })
	})
	return version, err
}

// Tenant returns a tenant's latest definition and the position that the answer reflects. Error: tenant.ErrUnknown,
// wrapped.
func (r *Store) Tenant(ctx context.Context, id event.TenantID) (tenant.Tenant, eventstore.Position, error) {
	var (
		t     tenant.Tenant
		found bool
	)
	if event.CheckID(string(id)) != nil { // such as one with NUL, which the database does not take
		return t, eventstore.Position{}, fmt.Errorf("tenant %q: %w", id, tenant.ErrUnknown)
	}
	at, err := r.read(ctx, projections.DirectoryModel, id, func(b *pgx.Batch, schema string) {
		found = false
		b.Queue(inSchema(`select t.tenant_id, t.name, t.time_zone, t.currency, t.hosts, t.slug, coalesce(s.status, $2), coalesce(s.reason, '')
			from %s.tenants t left join %s.tenant_statuses s on s.tenant_id = t.tenant_id where t.tenant_id = $1`, schema), string(id), string(tenant.Active)).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					found = true
					if err := rows.Scan(&t.ID, &t.Name, &t.TimeZone, &t.Currency, &t.Hosts, &t.Slug, &t.Status, &t.Reason); err != nil {
						return err
					}
				}
				return rows.Err()
			})
		b.Queue(inSchema(`select host, claim from %s.host_proofs where tenant_id = $1 order by host`, schema), string(id)).
			Query(func(rows pgx.Rows) (err error) {
				t.Proofs, err = pgx.CollectRows(rows, pgx.RowToStructByPos[tenant.HostProof])
				return err
			})
	})
	if err == nil && !found {
		err = fmt.Errorf("tenant %q: %w", id, tenant.ErrUnknown)
	}
	return t, at, err
}

// Holding returns who has a name, and the position that the answer reflects.
func (r *Store) Holding(ctx context.Context, n tenant.Name) (h tenant.Holding, at eventstore.Position, err error) {
	at, err = r.read(ctx, projections.DirectoryModel, "", func(b *pgx.Batch, schema string) {
		h = tenant.Holding{}
		b.Queue(inSchema(`select holder, claim, released from %s.tenant_names where kind = $1 and name = $2`, schema), string(n.Kind), n.Name).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					if err := rows.Scan(&h.Tenant, &h.Claim, &h.Released); err != nil {
						return err
					}
				}
				return rows.Err()
			})
	})
	return h, at, err
}

const keyColumns = `key_id, kind, tenant_id, name, created_at, revoked_at, expires_at`

// scanKey reads keyColumns, and more after them.
func scanKey(rows pgx.Rows, more ...any) (k tenant.Key, err error) {
	var revoked, expires *time.Time
	err = rows.Scan(append([]any{&k.ID, &k.Kind, &k.Tenant, &k.Name, &k.CreatedAt, &revoked, &expires}, more...)...)
	k.CreatedAt, k.RevokedAt, k.ExpiresAt = k.CreatedAt.UTC(), orZero(revoked), orZero(expires)
	return k, err
}

// KeyByHash returns the API key with this hash, and the position that the answer reflects. It is found by its id, which is a
// part of the hash, and the whole is compared in constant time. Error: tenant.ErrUnknownKey, wrapped, where there is none or
// it is revoked.
func (r *Store) KeyByHash(ctx context.Context, hash tenant.Hash) (tenant.Key, eventstore.Position, error) {
	var (
		k     tenant.Key
		found bool
	)
	at, err := r.read(ctx, projections.DirectoryModel, "", func(b *pgx.Batch, schema string) {
		found = false
		b.Queue(inSchema(`select `+keyColumns+`, hash from %s.api_keys where key_id = $1 and revoked_at is null`, schema), string(hash.KeyID())).
			Query(func(rows pgx.Rows) (err error) {
				for rows.Next() {
					var kept []byte
					if k, err = scanKey(rows, &kept); err != nil {
						return err
					}
					found = subtle.ConstantTimeCompare(kept, hash[:]) == 1
				}
				return rows.Err()
			})
	})
	if err == nil && !found {
		return tenant.Key{}, at, fmt.Errorf("look up an API key: %w", tenant.ErrUnknownKey)
	}
	return k, at, err
}

type keyCursor struct {
	Created int64  `json:"t"` // microseconds since 1970
	ID      string `json:"k"`
}

// Keys lists all API keys, revoked ones too, newest first. It returns the cursor of the next page, "" on the last.
// Errors: *invalid.Error.
func (r *Store) Keys(ctx context.Context, limit int, from string) (keys []tenant.Key, next string, at eventstore.Position, err error) {
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
		b.Queue(inSchema(`select `+keyColumns+`, (select u.last_used_at from key_uses u where u.key_id = k.key_id) from %s.api_keys k
			where $1::timestamptz is null or (created_at, key_id) < ($1, $2)
			order by created_at desc, key_id desc limit $3`, schema), after, c.ID, limit+1).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					var used *time.Time
					k, err := scanKey(rows, &used)
					if err != nil {
						return err
					}
					k.LastUsed = orZero(used)
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

// Catalog returns the catalog in force: the empty one of eventstore.NoStream before the first.
func (r *Store) Catalog(ctx context.Context) (c app.Catalog, at eventstore.Position, err error) {
	var (
		revision       eventstore.Revision
		text, versions string
	)
	at, err = r.read(ctx, projections.DirectoryModel, "", func(b *pgx.Batch, schema string) {
		revision = eventstore.NoStream
		b.Queue(inSchema(`select revision, catalog, plan_versions from %s.catalogs`, schema)).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				if err := rows.Scan(&revision, &text, &versions); err != nil {
					return err
				}
			}
			return rows.Err()
		})
	})
	if err != nil || revision == eventstore.NoStream {
		return app.Catalog{Revision: eventstore.NoStream}, at, err
	}
	e := event.CatalogApplied{Catalog: json.RawMessage(text)}
	if err := json.Unmarshal([]byte(versions), &e.Versions); err != nil {
		return app.Catalog{}, at, fmt.Errorf("read the versions of plans: %w", err)
	}
	c, err = app.NewCatalog(e, revision)
	return c, at, err
}

// Subscription returns what a tenant is entitled to, and the position that the answer reflects. It is empty for a tenant
// without one.
func (r *Store) Subscription(ctx context.Context, id event.TenantID) (s tenant.Subscription, at eventstore.Position, err error) {
	at, err = r.read(ctx, projections.DirectoryModel, id, func(b *pgx.Batch, schema string) {
		s = tenant.Subscription{}
		b.Queue(inSchema(`select plan, effective_at, billing_anchor from %s.plan_assignments where tenant_id = $1 order by effective_at`, schema), string(id)).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					var a tenant.Assignment
					if err := rows.Scan(&a.Plan, &a.EffectiveAt, &a.BillingAnchor); err != nil {
						return err
					}
					a.EffectiveAt, a.BillingAnchor = a.EffectiveAt.UTC(), a.BillingAnchor.UTC()
					s.Assignments = append(s.Assignments, a)
				}
				return rows.Err()
			})
		b.Queue(inSchema(`select limit_key, per, max::text, valid_from, valid_until, reason, changed_by from %s.limit_overrides
			where tenant_id = $1 and not removed order by limit_key, per`, schema), string(id)).
			Query(func(rows pgx.Rows) error {
				for rows.Next() {
					o, err := scanOverride(rows)
					if err != nil {
						return err
					}
					s.Overrides = append(s.Overrides, o)
				}
				return rows.Err()
			})
	})
	return s, at, err
}

// PlansInUse lists, in order, the plans that a tenant has at an instant or will have: those of the assignments that no later
// one has replaced by then.
func (r *Store) PlansInUse(ctx context.Context, at time.Time) (plans []catalog.PlanKey, err error) {
	err = r.readAll(ctx, projections.DirectoryModel, func(b *pgx.Batch, schema string) {
		b.Queue(inSchema(`select distinct plan collate "C" as plan from %s.plan_assignments a where not exists (
				select from %s.plan_assignments later
				where later.tenant_id = a.tenant_id and later.effective_at > a.effective_at and later.effective_at <= $1)
			order by plan`, schema), at).
			Query(func(rows pgx.Rows) (err error) {
				plans, err = pgx.CollectRows(rows, pgx.RowTo[catalog.PlanKey])
				return err
			})
	})
	return plans, err
}

func scanOverride(rows pgx.Rows) (o tenant.Override, err error) {
	var (
		most        string
		from, until *time.Time
	)
	if err := rows.Scan(&o.Limit, &o.Per, &most, &from, &until, &o.Reason, &o.By); err != nil {
		return o, err
	}
	o.From, o.Until = orZero(from), orZero(until)
	o.Max, err = money.ParseNumber(most)
	return o, err
}
