package readmodels_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
	"github.com/tollgate-io/tollgate/adapters/postgres"
	"github.com/tollgate-io/tollgate/adapters/postgres/internal/pg"
	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// settled is a ledger in which every table has rows of each tenant, and every row names its tenant.
func settled(t testing.TB, tenants ...event.TenantID) *ledger {
	t.Helper()
	l := newLedger(t)
	l.append(applyTestCatalog(t))
	for n, of := range tenants {
		l.settle(n, of)
	}
	l.project()
	l.exec(`insert into key_uses (key_id, last_used_at) select key_id, created_at from api_keys`)
	return l
}

// The facts of the n-th tenant have quantity n+1, and one of them is void.
const settledFacts = 8

func secretOf(of event.TenantID) tenant.Secret {
	return tenant.Secret("a key of a test, long enough, of " + of)
}

func (l *ledger) settle(n int, of event.TenantID) {
	l.Helper()
	hash := secretOf(of).Hash()
	host := string(of) + ".example"
	batch := []eventstore.Append{
		event.KeyCreated{ID: hash.KeyID(), Kind: "tenant", Tenant: of, Name: string(of), Hash: hash[:], By: event.Actor(of)}.Append(),
		event.NameClaimed{Kind: "host", Name: host, Tenant: of, By: event.Actor(of)}.Append(eventstore.NoStream),
		event.NameClaimed{Kind: "slug", Name: string(of), Tenant: of, By: event.Actor(of)}.Append(eventstore.NoStream),
	}
	for i := range settledFacts {
		u := tokens(of, i)
		u.Quantity = money.Int(int64(n + 1))
		u.Data = event.NewData(map[string]any{"model": string(of), "outputTokens": 1})
		batch = append(batch, u.Append(counted))
		if i == 0 {
			defer func() {
				l.append(event.UsageVoided{Usage: u, Metadata: counted, Reason: string(of), By: event.Actor(of)}.Append(0))
			}()
		}
	}
	l.append(batch...)
	l.append(event.TenantDefined{Tenant: of, Name: string(of), TimeZone: "UTC", Currency: "USD", Hosts: []string{host}, Slug: string(of), By: event.Actor(of)}.Append(eventstore.NoStream))
	l.append(event.TenantStatusChanged{Tenant: of, Status: "suspended", Reason: string(of), By: event.Actor(of)}.Append(0))
	l.append(event.HostVerified{Tenant: of, Host: host, By: event.Actor(of)}.Append(1))
	l.append(event.PlanAssigned{Tenant: of, Plan: "plan_of_" + string(of), EffectiveAt: noon, BillingAnchor: noon, By: event.Actor(of)}.Append(eventstore.NoStream))
	l.append(event.LimitOverridden{Tenant: of, Limit: "spend", Max: money.Int(5), Reason: string(of), By: event.Actor(of)}.Append(0))
	l.append(event.AppendDecisions(uuid.Nil, of, eventstore.NoStream, []event.QuotaEvent{event.LimitDecided{
		Identity: event.Identity{Tenant: of, Type: "tokens_spent", Source: "check of " + event.SourceID(of)}, Quantity: money.Int(int64(n + 1)), DecidedAt: noon,
		Allowed: true, Keeps: true, KeepUntil: noon.AddDate(10, 0, 0), PlanVersion: "pro@1"}}, nil))
}

const (
	alpha event.TenantID = "tenant-alpha"
	beta  event.TenantID = "tenant-beta"
)

// as connects in a role.
func (l *ledger) as(role string) *pgx.Conn {
	l.Helper()
	config, err := pgx.ParseConfig(l.url)
	require.NoError(l, err)
	config.RuntimeParams["role"] = role
	c, err := pgx.ConnectConfig(context.Background(), config)
	require.NoError(l, err)
	l.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func refused(err error) bool { return err != nil && strings.Contains(err.Error(), "SQLSTATE 42501") }

// relations are all tables and views of the ledger.
func (l *ledger) relations() []*relation {
	l.Helper()
	all, err := relations(context.Background(), l.pool)
	require.NoError(l, err)
	require.Greater(l, len(all), 30)
	return all
}

func TestTheCatalogIsolates(t *testing.T) {
	l := settled(t, alpha, beta)
	findings, err := walk(t.Context(), l.pool)
	require.NoError(t, err)
	require.Empty(t, findings)
	_, err = l.Rebuild(t.Context(), l.log, nil, nil)
	require.NoError(t, err)
	findings, err = walk(t.Context(), l.pool)
	require.NoError(t, err)
	require.Empty(t, findings, "a generation that was built again")
	l.exec(`update read_models set definition = null`)
	_, err = l.Rebuild(t.Context(), l.log, nil, nil)
	require.NoError(t, err)
	findings, err = walk(t.Context(), l.pool)
	require.NoError(t, err)
	require.Empty(t, findings)
}

// Without a tenant that exists, and without the installation's scope, there is nothing to be seen anywhere.
func TestNoTenantSeesNothing(t *testing.T) {
	l := settled(t, alpha, beta)
	for _, r := range l.relations() {
		if r.Parent == "" {
			require.Positive(t, l.number(`select count(*) from `+r.String()), "%s has no rows: this test says nothing about it", r)
		}
		if _, ok := installationTables[r.known()]; r.Tenant != nil && !ok && r.Parent == "" && r.Name != "api_keys" {
			require.EqualValues(t, 2, l.number(`select count(distinct tenant_id) from `+r.String()+` where tenant_id in ($1, $2)`, alpha, beta), r)
		}
	}
	for name, settings := range map[string][]string{
		"nothing set": nil,
		"empty":       {"", ""},
		"garbage":     {"' or true --", "all"},
		"a stranger":  {"nobody", "installation "},
		"patterns":    {"%", "*"},
	} {
		t.Run(name, func(t *testing.T) {
			c := l.as("tollgate_reader")
			if settings != nil {
				_, err := c.Exec(t.Context(), `select set_config('app.tenant_id', $1, false), set_config('app.scope', $2, false)`, settings[0], settings[1])
				require.NoError(t, err)
			}
			for _, r := range l.relations() {
				if r.Name == "read_models" || r.Name == "checkpoints" {
					continue // on the list
				}
				var rows int
				if err := c.QueryRow(t.Context(), `select count(*) from `+r.String()).Scan(&rows); !refused(err) {
					require.NoError(t, err, r)
					require.Zero(t, rows, r)
				}
			}
		})
	}
}

// One tenant's reader gets nothing of another's, however it asks, and changes nothing at all.
func TestAReaderSeesOneTenant(t *testing.T) {
	l := settled(t, alpha, beta)
	c := l.as("tollgate_reader")
	_, err := c.Exec(t.Context(), `select set_config('app.tenant_id', $1, false)`, alpha)
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, r := range l.relations() {
		name := r.String()
		var all bytes.Buffer
		_, err := c.PgConn().CopyTo(t.Context(), &all, `copy (select * from `+name+`) to stdout`)
		if strings.HasPrefix(r.Name, "log_") || r.Name == "goose_db_version" {
			require.True(t, refused(err), "%s: %v", name, err)
		} else {
			require.NoError(t, err, name)
		}
		require.NotContains(t, all.String(), string(beta), name)
		seen[r.Name] = strings.Contains(all.String(), string(alpha))
		if r.isTable() {
			all.Reset()
			_, err = c.PgConn().CopyTo(t.Context(), &all, `copy `+name+` to stdout`)
			require.True(t, err == nil || refused(err), "%s: %v", name, err)
			require.NotContains(t, all.String(), string(beta), name)
		}
		if r.Tenant != nil || r.Kind == "v" && r.Name != "catalogs" && r.Name != "directory_changes" && r.Name != "tenant_names" {
			for _, query := range []string{
				`select count(*) from %s where tenant_id <> 'tenant-alpha'`,
				`select count(*) from %s where tenant_id = 'tenant-beta'`,
				`select count(*) from %s where tenant_id like '%%beta'`,
				`select count(*) from %s a join %[1]s b on a.tenant_id <> b.tenant_id`,
				`select count(*) from tenants t left join %s b on b.tenant_id = 'tenant-beta' where b.tenant_id is not null`,
				`with recursive b as materialized (select tenant_id from %s union select tenant_id from %[1]s) select count(*) from b where tenant_id > 'tenant-alpha'`,
				`select count(*) from (select set_config('app.scope', 'nothing', true)) s, lateral (select from %s where tenant_id <> 'tenant-alpha') b`,
				`select count(*) from %s x where x::text like '%%tenant-beta%%'`,
			} {
				var rows int
				query = fmt.Sprintf(query, name)
				if err := c.QueryRow(t.Context(), query).Scan(&rows); !refused(err) {
					require.NoError(t, err, query)
					require.Zero(t, rows, query)
				}
			}
		}
		for _, change := range []string{
			`select from %s for update`, `select from %s for share`, `insert into %s overriding system value select * from %[1]s`, `insert into %s default values on conflict do nothing`,
			`delete from %s`, `truncate %s`, `create trigger t before insert on %s execute function log_is_append_only()`,
			`alter table %s disable row level security`, `copy %s from stdin`,
		} {
			_, err := c.Exec(t.Context(), fmt.Sprintf(change, name))
			require.Error(t, err, change)
			if r.isTable() { // views that cannot be written to say so first
				require.True(t, refused(err), "%s: %v", fmt.Sprintf(change, name), err)
			}
		}
		var column string
		require.NoError(t, l.pool.QueryRow(t.Context(), `select attname from pg_attribute where attrelid = $1::regclass and attnum = 1`, name).Scan(&column))
		_, err = c.Exec(t.Context(), fmt.Sprintf(`update %s set "%s" = default`, name, column))
		require.True(t, refused(err), "%s: %v", name, err)
	}
	for _, readModel := range readmodels.Names() {
		for _, table := range readmodels.TableNames(readModel) {
			if _, ok := installationTables["rm_"+readModel+"."+table]; !ok {
				require.True(t, seen[table], "%s shows the tenant its own rows", table)
			}
		}
	}
}

// The log's role appends, reads, and nothing else; nobody goes past the parent table.
func TestTheLogsRoleOnlyAppends(t *testing.T) {
	l := settled(t, alpha, beta)
	c := l.as("tollgate_log")
	for _, r := range l.relations() {
		_, err := c.Exec(t.Context(), `select from `+r.String())
		require.Equal(t, !strings.HasPrefix(r.Name, "log_") || r.Parent != "", refused(err), "%s: %v", r, err)
		for _, change := range []string{`update %s set position = 1`, `delete from %s`, `truncate %s`, `drop table %s`, `alter table %s disable trigger all`} {
			if !strings.HasPrefix(r.Name, "log_") {
				break
			}
			_, err := c.Exec(t.Context(), fmt.Sprintf(change, r))
			require.True(t, refused(err) || strings.Contains(err.Error(), `column "position"`), "%s of %s: %v", change, r, err)
		}
	}
}

// What row level security does not bind must not serve.
func TestAPoolOfAPowerfulRoleIsRefused(t *testing.T) {
	url := pgtest.Database(t)
	c, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { _ = c.Close(context.Background()) }()
	role := fmt.Sprintf("tollgate_test_%d", time.Now().UnixNano())
	for _, attributes := range []string{"bypassrls", "superuser"} {
		_, err := c.Exec(t.Context(), `create role `+role+` `+attributes)
		require.NoError(t, err)
		_, err = pg.OpenPool(t.Context(), url, role, 1, nil)
		require.ErrorContains(t, err, role)
		require.ErrorContains(t, err, "row level security does not bind the role")
		_, err = c.Exec(t.Context(), `drop role `+role)
		require.NoError(t, err)
	}
	_, err = pg.OpenPool(t.Context(), url, role, 1, nil)
	require.ErrorContains(t, err, role)
	pool, err := postgres.NewReadPool(t.Context(), url, 1)
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), `reset role`)
	require.NoError(t, err)
	var current string
	require.NoError(t, pool.QueryRow(t.Context(), `select current_user`).Scan(&current))
	require.Equal(t, "tollgate_reader", current)
}
