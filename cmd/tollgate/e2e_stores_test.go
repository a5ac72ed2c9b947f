package main

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
	"github.com/tollgate-io/tollgate/adapters/pgserver"
	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
)

// databases and eventStores say where the ledger of a data folder is, by folder. A folder without a database has a private
// Postgres; a folder without an event store has its log in the database.
var databases, eventStores sync.Map

func databaseOf(dir string) string {
	url, _ := databases.Load(dir)
	s, _ := url.(string)
	return s
}

func eventStoreOf(dir string) string {
	if url, ok := eventStores.Load(dir); ok {
		return url.(string)
	}
	return "postgres"
}

// dataFolder is a new data folder with a database of its own on the tests' Postgres. The log is in the same database, or on
// the real EventStoreDB when one is named.
func dataFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	databases.Store(dir, pgtest.Database(t))
	useRealStore(t, dir)
	return dir
}

// installation is a new data folder as users have it who name no database: the first command starts a Postgres in it, which
// is stopped and removed at the end of the test. When the tests run on a named Postgres, it is used here too.
func installation(t *testing.T) string {
	t.Helper()
	if os.Getenv(pgtest.ServerVariable) != "" {
		t.Logf("no private Postgres is started: %s names one", pgtest.ServerVariable)
		return dataFolder(t)
	}
	dir, err := os.MkdirTemp("", "tollgate-data-")
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, pgserver.Remove(ctx, dir))
		_ = os.RemoveAll(dir)
	})
	useRealStore(t, dir)
	return dir
}

func useRealStore(t *testing.T, dir string) {
	if os.Getenv(esdbtest.Variable) != "" {
		eventStores.Store(dir, esdbtest.URL(t))
	}
}

// onEveryStore runs a test with the log in Postgres, and with the log in an EventStoreDB and only the read models in Postgres.
func onEveryStore(t *testing.T, test func(t *testing.T, dir string)) {
	t.Helper()
	onEveryStoreIn(t, dataFolder, test)
}

// onEveryStoreIn is onEveryStore with folders of a kind: dataFolder or installation.
func onEveryStoreIn(t *testing.T, folder func(*testing.T) string, test func(t *testing.T, dir string)) {
	t.Helper()
	t.Run("postgres", func(t *testing.T) {
		if os.Getenv(esdbtest.Variable) != "" {
			t.Skipf("%s names the store that is tested", esdbtest.Variable)
		}
		test(t, folder(t))
	})
	t.Run("eventstoredb", func(t *testing.T) {
		dir := folder(t)
		eventStores.Store(dir, esdbtest.URL(t))
		test(t, dir)
	})
}

// fewer reduces the load of a test when the log is not in Postgres, because each event takes longer there.
func fewer(dir string, n int) int {
	if eventStoreOf(dir) != "postgres" {
		return n * 2 / 5
	}
	return n
}

// rounds is how many rounds a torture test has: in its short form only one when the log is not in Postgres.
func rounds(dir string) int {
	if eventStoreOf(dir) != "postgres" {
		return max(1, *torture-1)
	}
	return *torture
}
