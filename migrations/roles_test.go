package migrations

import (
	"context"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/pgserver"
)

// cluster is a server of the test's own: roles are global to one.
type cluster struct {
	*testing.T
	server *pgserver.Server
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = d[:strings.LastIndex(d, "/")] { // the user whom root hands the server to has to get through
		require.NoError(t, os.Chmod(d, 0o711))
	}
	s, err := pgserver.Start(t.Context(), pgserver.Config{Dir: dir})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.Stop(context.Background()))
		require.NoError(t, pgserver.Remove(context.Background(), dir))
	})
	return &cluster{t, s}
}

func (c *cluster) exec(url string, statements ...string) {
	c.Helper()
	conn, err := pgx.Connect(c.Context(), url)
	require.NoError(c, err)
	defer func() { _ = conn.Close(c.Context()) }()
	for _, s := range statements {
		_, err := conn.Exec(c.Context(), s)
		require.NoError(c, err, s)
	}
}

func (c *cluster) text(url, query string) (text string) {
	c.Helper()
	conn, err := pgx.Connect(c.Context(), url)
	require.NoError(c, err)
	defer func() { _ = conn.Close(c.Context()) }()
	require.NoError(c, conn.QueryRow(c.Context(), query).Scan(&text), query)
	return text
}

// as is the address of a database for a user who is not a superuser.
func (c *cluster) as(user, database string) string {
	u, err := url.Parse(c.server.URLFor(database))
	require.NoError(c, err)
	u.User = url.UserPassword(user, "secret")
	return u.String()
}

// clean removes what a case left behind.
func (c *cluster) clean(users string, databases ...string) {
	for _, d := range databases {
		c.exec(c.server.URL(), `drop database `+d)
	}
	c.exec(c.server.URL(), `drop role tollgate_log, tollgate_projector, tollgate_reader`+users)
}

// works checks that a user can act as each role, and that no role can do more than it should.
func (c *cluster) works(url string) {
	c.Helper()
	for _, role := range []string{"tollgate_log", "tollgate_projector", "tollgate_reader"} {
		conn, err := pgx.ParseConfig(url)
		require.NoError(c, err)
		conn.RuntimeParams["role"] = role
		as, err := pgx.ConnectConfig(c.Context(), conn)
		require.NoError(c, err)
		for statement, allowed := range map[string][]string{
			`reset role`: {"tollgate_log", "tollgate_projector", "tollgate_reader"}, // which stays in the role
			`insert into log_types (name) values (current_user)`: {"tollgate_log"},
			`select from log_events`:                             {"tollgate_log"},
			`select from read_models, checkpoints`:               {"tollgate_projector", "tollgate_reader"},
			`delete from read_models`:                            {"tollgate_projector"},
			`create schema rm_usage_9`:                           {"tollgate_projector"},
			`create view looks as select 1`:                      {"tollgate_projector"},
			`create role other`:                                  nil,
			`create table log_events_0_0 partition of log_events for values from (1) to (2)`: nil,
			`update log_types set name = 'x'`:                                                nil,
			`delete from log_types`:                                                          nil,
			`truncate log_types`:                                                             nil,
			`select from goose_db_version`:                                                   nil,
		} {
			_, err := as.Exec(c.Context(), statement)
			if strings.Contains(strings.Join(allowed, " "), role) {
				require.NoError(c, err, "%s: %s", role, statement)
			} else {
				require.ErrorContains(c, err, "SQLSTATE 42501", "%s: %s", role, statement)
			}
		}
		require.NoError(c, as.Close(c.Context()))
	}
	require.Equal(c, "0", c.text(url, `select count(*)::text from pg_roles where rolname like 'tollgate\_%' and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolcanlogin or rolreplication)`))
}

func TestRoles(t *testing.T) {
	c := newCluster(t)
	admin := c.server.URL()

	t.Run("databases of one server at the same time", func(*testing.T) {
		names := strings.Fields("a b c d e f g h")
		var group sync.WaitGroup
		for _, name := range names {
			c.exec(admin, `create database `+name)
		}
		for _, name := range append(names, names...) {
			group.Go(func() {
				if err := Up(t.Context(), c.server.URLFor(name)); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		for _, name := range names {
			c.works(c.server.URLFor(name))
		}
		c.clean("", names...)
	})

	t.Run("databases of a user who may create roles", func(*testing.T) {
		names := strings.Fields("a b c d")
		c.exec(admin, `create role app login createrole password 'secret'`)
		var group sync.WaitGroup
		for _, name := range names {
			c.exec(admin, `create database `+name+` owner app`)
		}
		for _, name := range append(names, names...) {
			group.Go(func() {
				if err := Up(t.Context(), c.as("app", name)); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		for _, name := range names {
			c.works(c.as("app", name))
		}
		c.clean(", app", names...)
	})

	t.Run("an administrator made the roles", func(*testing.T) {
		c.exec(admin, `create role app login password 'secret'`, `create database a`,
			`create role tollgate_log`, `create role tollgate_projector`, `create role tollgate_reader`,
			`grant tollgate_log, tollgate_projector, tollgate_reader to app`,
			`grant create on database a to tollgate_projector`)
		c.exec(c.server.URLFor("a"), `grant create on schema public to app, tollgate_projector`)
		require.NoError(t, Up(t.Context(), c.as("app", "a")))
		c.works(c.as("app", "a"))
		c.clean(", app", "a")
	})

	t.Run("the error says what an administrator has to run", func(*testing.T) {
		c.exec(admin, `create role "an app" login password 'secret'`, `create database a`)
		c.exec(c.server.URLFor("a"), `grant create on schema public to "an app"`)
		err := Up(t.Context(), c.as("an app", "a"))
		var unprepared *unpreparedError
		require.ErrorAs(t, err, &unprepared)
		require.ErrorContains(t, err, `let an administrator run in database a: create role tollgate_log; grant tollgate_log to "an app"; `)
		c.exec(c.server.URLFor("a"), unprepared.statements...)
		require.NoError(t, Up(t.Context(), c.as("an app", "a")))
		c.works(c.as("an app", "a"))
		c.clean(`, "an app"`, "a")
	})

	// What was made by a version without roles: the projections have to replace its views and remove its tables.
	t.Run("an earlier installation", func(*testing.T) {
		c.exec(admin, `create role app login createrole password 'secret'`, `create database a owner app`)
		app := c.as("app", "a")
		config, err := pgx.ParseConfig(app)
		require.NoError(t, err)
		db := stdlib.OpenDB(*config)
		provider, err := goose.NewProvider(goose.DialectPostgres, db, files)
		require.NoError(t, err)
		_, err = provider.UpTo(t.Context(), 3)
		require.NoError(t, err)
		require.NoError(t, db.Close())
		c.exec(app, `create table log_events_0_0 partition of log_events for values from (1) to (100)`,
			`create schema rm_usage_1`, `create table rm_usage_1.usage_rollups (tenant_id text)`,
			`create view usage_rollups with (security_invoker = true) as select tenant_id from rm_usage_1.usage_rollups`)
		require.NoError(t, Up(t.Context(), app))
		require.NoError(t, Up(t.Context(), app))
		require.Equal(t, "log_events log_events_0_0", c.text(app, `select string_agg(relname, ' ' order by relname) from pg_class where relname like 'log\_%' and relrowsecurity and relforcerowsecurity`))
		projector := app + "?role=tollgate_projector"
		if strings.Contains(app, "?") {
			projector = app + "&role=tollgate_projector"
		}
		c.exec(projector, `create or replace view usage_rollups with (security_invoker = true) as select 'a'::text as tenant_id`, `drop schema rm_usage_1 cascade`)
		c.clean(", app", "a")
	})
}
