package readmodels_test

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A new table, key or view is entered here, with who may see it. What is on none of these lists holds the rows of
// tenants: it has a column tenant_id, which is the first of all its keys, and shows a reader the rows of one tenant.
var (
	// Nobody's rows: no tenant's data, and no policy.
	registryTables = map[string]string{
		"goose_db_version": "which migrations were made; no role has a grant",
		"log_settings":     "numbers of the log; the reader has no grant",
		"log_streams":      "streams, revisions and positions of the log; the reader has no grant",
		"log_commits":      "positions and times of the log; the reader has no grant",
		"log_types":        "names of event types; the reader has no grant",
		"read_models":      "which generation serves: every read asks",
		"checkpoints":      "how far a generation is: every read asks",
	}
	// The installation's rows, which no request of a tenant sees.
	installationTables = map[string]string{
		"rm_directory.api_keys":          "a key is looked up before it is known whose it is; tenant_id is '' for keys of no tenant",
		"rm_directory.catalogs":          "the catalog is the same for all tenants",
		"rm_directory.directory_changes": "positions only",
		"rm_directory.tenant_names":      "whose a name is, is asked before the tenant is known",
		"key_uses":                       "by key, like api_keys",
	}
	// The log is read by position. The reader has no grant; where a request needs the event at a position, its tenant is
	// compared (timeline.ReadOf).
	logTables = map[string]string{
		"log_events": "tables of a range of positions are attached and detached whole, whosever events they hold",
	}
	// Keys that do not begin with the tenant.
	otherKeys = map[string]string{
		"log_events log_events_pkey":              "position is the order of the log; the tables below it have the same key",
		"rm_directory.api_keys api_keys_pkey":     "looked up by the key's id",
		"rm_quota.quota_holds quota_holds_by_end": "the sweeper, which is the projector, asks for holds of all tenants that ended; not unique, so it tells nobody anything",
	}
)

const (
	ownRows     = `(tenant_id = current_setting('app.tenant_id'::text, true))`
	installed   = `(current_setting('app.scope'::text, true) = 'installation'::text)`
	ours        = `(n.nspname !~ '^pg_' and n.nspname <> 'information_schema')`
	rolesOfOurs = `'tollgate_log', 'tollgate_projector', 'tollgate_reader'`
)

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// relation is a table, view or whatever else can be read.
type relation struct {
	Schema, Name   string
	Kind           string // as in pg_class
	Parent         string // of a range partition
	Owner          string
	Enabled, Force bool  // row level security
	Tenant         *bool // not null; nil without a column tenant_id
	Invoker        bool  // of a view: it reads with the rights of who asks
}

var generation = regexp.MustCompile(`^(rm_[a-z]+)_[0-9]+$`)

// known is the name on the lists: the same for all generations and ranges.
func (r *relation) known() string {
	if m := generation.FindStringSubmatch(r.Schema); m != nil {
		return m[1] + "." + r.Name
	}
	return cmp.Or(r.Parent, r.Name)
}

func (r *relation) String() string { return r.Schema + "." + r.Name }

func (r *relation) isTable() bool { return r.Kind == "r" || r.Kind == "p" }

func relations(ctx context.Context, q querier) ([]*relation, error) {
	return collect(ctx, q, pgx.RowToAddrOfStructByPos[relation], `select n.nspname, c.relname, c.relkind::text, coalesce(i.inhparent::regclass::text, ''),
		c.relowner::regrole::text, c.relrowsecurity, c.relforcerowsecurity, a.attnotnull, coalesce('security_invoker=true' = any(c.reloptions), false)
		from pg_class c join pg_namespace n on n.oid = c.relnamespace
		left join pg_inherits i on i.inhrelid = c.oid and c.relispartition
		left join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
		where `+ours+` and c.relkind not in ('i', 'I', 'S', 't', 'c') order by 1, 2`)
}

func collect[T any](ctx context.Context, q querier, to pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, to)
}

// walk looks at everything in a database and says what breaks isolation.
func walk(ctx context.Context, q querier) (findings []string, err error) {
	found := func(format string, args ...any) { findings = append(findings, fmt.Sprintf(format, args...)) }
	all, err := relations(ctx, q)
	if err != nil {
		return nil, err
	}
	byName := map[string]*relation{}
	for _, r := range all {
		byName[r.String()] = r
		_, isRegistry := registryTables[r.known()]
		_, isInstallation := installationTables[r.known()]
		_, isLog := logTables[r.known()]
		switch {
		case r.Kind == "v":
			if !r.Invoker {
				found("view %s reads with its owner's rights", r)
			}
			if r.Owner != "tollgate_projector" {
				found("view %s belongs to %s", r, r.Owner)
			}
		case !r.isTable():
			found("%s is of kind %s, for which there is no rule", r, r.Kind)
		case isRegistry:
			if r.Tenant != nil {
				found("table %s is said to hold no tenant's rows, but has a tenant_id", r)
			}
		default:
			if !isInstallation && r.Tenant == nil {
				found("table %s has no tenant_id and no reason", r)
			}
			if r.Tenant != nil && !*r.Tenant {
				found("table %s has a tenant_id that may be null", r)
			}
			if !r.Enabled || !r.Force {
				found("table %s has row level security enabled %t, forced %t", r, r.Enabled, r.Force)
			}
		}
		if generation.MatchString(r.Schema) && r.Owner != "tollgate_projector" || isLog && strings.HasPrefix(r.Owner, "tollgate_") {
			found("%s belongs to %s", r, r.Owner)
		}
	}

	type policy struct {
		Schema, Table, Name, Command string
		Roles                        []string
		Using                        string
	}
	policies, err := collect(ctx, q, pgx.RowToAddrOfStructByPos[policy], `select schemaname, tablename, policyname, cmd, roles::text[], coalesce(qual, '')
		from pg_policies where permissive = 'PERMISSIVE' order by 1, 2, 3`)
	if err != nil {
		return nil, err
	}
	readable := map[string]bool{}
	for _, p := range policies {
		table := p.Schema + "." + p.Table
		r := byName[table]
		_, isInstallation := installationTables[r.known()]
		_, isLog := logTables[r.known()]
		switch roles := strings.Join(p.Roles, ", "); {
		case roles == "tollgate_projector" && !isLog, roles == "tollgate_log" && isLog:
		case roles != "tollgate_reader" || isLog:
			found("policy %s of %s is for %s", p.Name, table, roles)
		case p.Command != "SELECT":
			found("policy %s of %s lets the reader %s", p.Name, table, p.Command)
		case isInstallation && p.Using != installed, !isInstallation && p.Using != ownRows:
			found("policy %s of %s shows the reader the rows where %s", p.Name, table, p.Using)
		default:
			readable[table] = true
		}
	}
	for _, r := range all {
		if _, free := registryTables[r.known()]; !readable[r.String()] && r.isTable() && !free && logTables[r.known()] == "" {
			found("table %s has no policy for the reader", r)
		}
	}

	type key struct{ Schema, Table, Name, First string }
	first, err := collect(ctx, q, pgx.RowToStructByPos[key], `select n.nspname, t.relname, i.relname, coalesce(a.attname, 'an expression') from pg_index x
		join pg_class i on i.oid = x.indexrelid join pg_class t on t.oid = x.indrelid join pg_namespace n on n.oid = t.relnamespace
		left join pg_attribute a on a.attrelid = t.oid and a.attnum = x.indkey[0] where `+ours+`
		union all
		select n.nspname, t.relname, k.conname, a.attname from pg_constraint k
		join pg_class t on t.oid = k.conrelid join pg_namespace n on n.oid = t.relnamespace
		join pg_attribute a on a.attrelid = t.oid and a.attnum = k.conkey[1] where k.contype in ('f', 'u', 'p', 'x') and `+ours)
	if err != nil {
		return nil, err
	}
	for _, k := range first {
		r := byName[k.Schema+"."+k.Table]
		name := strings.Replace(k.Name, r.Name, cmp.Or(r.Parent, r.Name), 1)
		if r.Tenant != nil && k.First != "tenant_id" && otherKeys[r.known()+" "+name] == "" {
			found("key %s of table %s begins with %s", k.Name, r, k.First)
		}
	}

	for _, query := range []string{
		`select 'function ' || p.oid::regprocedure || ' runs with its owner''s rights' from pg_proc p join pg_namespace n on n.oid = p.pronamespace
			where p.prosecdef and ` + ours,
		`select 'role ' || rolname || ' is a superuser, bypasses row level security, makes roles or databases, replicates or logs in' from pg_roles
			where rolname in (` + rolesOfOurs + `) and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication or rolcanlogin)`,
		`select 'role ' || member::regrole || ' is a member of ' || roleid::regrole from pg_auth_members where member::regrole::text in (` + rolesOfOurs + `)`,
		`select o || ' belongs to ' || owner::regrole from (
			select oid::regclass::text, relowner from pg_class union all select nspname, nspowner from pg_namespace union all select oid::regprocedure::text, proowner from pg_proc
			) as owned (o, owner) where owner::regrole::text in ('tollgate_reader', 'tollgate_log')`,
		// Beyond tables there is nothing that a reader or the log may make.
		`select r || ' may create in schema ' || nspname from pg_namespace, unnest(array[` + rolesOfOurs + `]) r
			where has_schema_privilege(r, oid, 'create') and (r <> 'tollgate_projector' or not nspname ~ '^rm_[a-z]+_[0-9]+$' and nspname <> current_schema())`,
		`select r || ' may create schemas' from unnest(array['tollgate_reader', 'tollgate_log']) r where has_database_privilege(r, current_database(), 'create')`,
		`select r || ' may use sequence ' || c.oid::regclass from pg_class c, unnest(array['tollgate_reader', 'tollgate_log']) r
			where relkind = 'S' and (has_sequence_privilege(r, c.oid, 'usage') or has_sequence_privilege(r, c.oid, 'update'))`,
		// Grants of columns count as well, and whatever PUBLIC has.
		`select r || ' may ' || p || ' ' || c.oid::regclass from pg_class c join pg_namespace n on n.oid = c.relnamespace,
			unnest(array['tollgate_reader', 'tollgate_log']) r, unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) p
			where ` + ours + ` and c.relkind not in ('i', 'I', 'S', 't', 'c')
			and (has_table_privilege(r, c.oid, p) or p in ('select', 'insert', 'update', 'references') and has_any_column_privilege(r, c.oid, p))
			and not (r = 'tollgate_reader' and p = 'select' and c.relname not like 'log\_%' and c.relname <> 'goose_db_version')
			and not (r = 'tollgate_log' and p in ('select', 'insert') and c.relname = any(array['log_settings', 'log_events', 'log_streams', 'log_commits', 'log_types']))`,
		`select 'the projector may ' || p || ' ' || c.oid::regclass from pg_class c, unnest(array['select', 'insert', 'update', 'delete', 'truncate']) p
			where c.relkind in ('r', 'p') and c.relname like 'log\_%' and has_table_privilege('tollgate_projector', c.oid, p)`,
	} {
		more, err := collect(ctx, q, pgx.RowTo[string], query)
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, query)
		}
		findings = append(findings, more...)
	}
	return findings, nil
}
