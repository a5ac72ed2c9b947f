// Package pgtest gives tests real PostgreSQL databases: one private server for
// each test process and a fresh, migrated database for each test. It owns both;
// it does not own the migrations.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/adapters/pgserver"
)

// ServerVariable names the environment variable that points to a server to use
// instead of a private one: a URL of a superuser, or of a user who may create databases.
const ServerVariable = "TOLLGATE_TEST_DATABASE_URL"

const (
	setupTimeout    = 3 * time.Minute
	databaseTimeout = time.Minute
	folderPrefix    = "tollgate-pgtest-"
	// abandonedAfter is the age from which a folder without an owner was left
	// behind by a killed test process, and is not one that just begins.
	abandonedAfter = 5 * time.Minute
)

// What the first test that needs a database set up; written once.
var (
	server   *pgserver.Server // nil when TOLLGATE_TEST_DATABASE_URL points to another one
	adminURL string
	template string
	prepare  func(ctx context.Context, url string) error
	undo     []func(context.Context) error

	ready = sync.OnceValue(func() error { return errors.New("it needs pgtest.Run in TestMain") })
)

// Run runs the tests and removes everything. The server is started when the
// first of them needs it, and then the template database is prepared with migrate
// (which may be nil, must have closed its connections when it returns, and is
// called again for each copy). It returns the code for os.Exit. When there is no
// server to be had, the tests that need one fail; they are never skipped.
func Run(m *testing.M, migrate func(ctx context.Context, url string) error) (code int) {
	ready = sync.OnceValue(func() error { return setUp(migrate) })
	defer func() {
		if err := tearDown(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = max(code, 1)
		}
	}()
	return m.Run()
}

// Database creates a database from the template and returns its URL. The
// database is dropped when the test ends, even if somebody is still connected.
func Database(t testing.TB) string {
	t.Helper()
	if err := ready(); err != nil {
		t.Fatal("pgtest: set up:", err)
	}
	name := newName()
	ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
	defer cancel()
	if err := execute(ctx, "create database "+name+" template "+template); err != nil {
		t.Fatal("pgtest: create a database:", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
		defer cancel()
		if err := execute(ctx, "drop database if exists "+name+" with (force)"); err != nil {
			t.Error("pgtest: drop the database:", err)
		}
	})
	// What was granted on the template itself was not granted on its copy.
	if prepare != nil {
		if err := prepare(ctx, urlFor(name)); err != nil {
			t.Fatal("pgtest: migrate a database:", err)
		}
	}
	return urlFor(name)
}

// tearDown has its own time: a set-up that ran out of it still cleans up.
func tearDown() error {
	ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
	defer cancel()
	var errs []error
	for _, f := range undo {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

func setUp(migrate func(ctx context.Context, url string) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	if adminURL = os.Getenv(ServerVariable); adminURL == "" {
		removeAbandoned(ctx)
		dir, err := os.MkdirTemp("", folderPrefix)
		if err != nil {
			return err
		}
		undo = append(undo, func(ctx context.Context) error {
			return errors.Join(pgserver.Remove(ctx, dir), os.RemoveAll(dir))
		})
		// The user that root hands the server to has to get through.
		if err := os.Chmod(dir, 0o711); err != nil {
			return err
		}
		server, err = pgserver.Start(ctx, pgserver.Config{Dir: dir})
		if err != nil {
			return err
		}
		undo = append([]func(context.Context) error{server.Stop}, undo...)
		adminURL = server.URL()
	}
	name := newName()
	if err := execute(ctx, "create database "+name+" template template0"); err != nil {
		return fmt.Errorf("create the template database: %w", err)
	}
	template = name
	if server == nil {
		undo = append(undo, func(ctx context.Context) error {
			return execute(ctx, "drop database if exists "+name+" with (force)")
		})
	}
	if prepare = migrate; migrate != nil {
		if err := migrate(ctx, urlFor(name)); err != nil {
			return fmt.Errorf("migrate the template database: %w", err)
		}
	}
	return nil
}

// removeAbandoned clears what killed test processes left behind, servers
// included. It is a courtesy: what cannot be removed does not fail the tests.
func removeAbandoned(ctx context.Context) {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+"*"))
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < abandonedAfter {
			continue
		}
		if pgserver.Remove(ctx, dir) == nil {
			_ = os.RemoveAll(dir)
		}
	}
}

// newName is unique on a server that several test processes share.
func newName() string { return "tollgate_test_" + strings.ToLower(rand.Text()[:12]) }

func urlFor(database string) string {
	if server != nil {
		return server.URLFor(database)
	}
	u, err := url.Parse(adminURL)
	if err != nil {
		panic(fmt.Sprintf("pgtest: %s was accepted once and is no URL now: %v", ServerVariable, err))
	}
	u.Path = "/" + database
	return u.String()
}

func execute(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, adminURL)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}
