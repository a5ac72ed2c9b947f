package pgtest_test

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Run(m, func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }()
		_, err = conn.Exec(ctx, "create table if not exists migrated (n int)")
		return err
	}))
}

func TestDatabaseIsMigratedAndFreshAndDroppedInTheEnd(t *testing.T) {
	urls := map[string]bool{}
	var left *pgx.Conn
	for range 2 {
		t.Run("one", func(t *testing.T) {
			url := pgtest.Database(t)
			require.False(t, urls[url], "a URL was given out twice")
			urls[url] = true
			conn, err := pgx.Connect(t.Context(), url)
			require.NoError(t, err)
			left = conn // a forgotten connection must not keep the database alive
			_, err = conn.Exec(t.Context(), "insert into migrated (n) values (1)")
			require.NoError(t, err)
			var rows int
			require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from migrated").Scan(&rows))
			require.Equal(t, 1, rows, "rows of another test are here")
		})
		require.Error(t, left.Ping(t.Context()), "the database outlived its test")
	}
}

func TestDatabasesInParallel(t *testing.T) {
	for range 8 {
		t.Run("one", func(t *testing.T) {
			t.Parallel()
			conn, err := pgx.Connect(t.Context(), pgtest.Database(t))
			require.NoError(t, err)
			require.NoError(t, conn.Close(t.Context()))
		})
	}
}
