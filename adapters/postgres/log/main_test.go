package log_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
	"github.com/tollgate-io/tollgate/adapters/postgres"
	pglog "github.com/tollgate-io/tollgate/adapters/postgres/log"
	"github.com/tollgate-io/tollgate/migrations"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m, migrations.Up)) }

// openLog opens the log with its own connections and committers, as another process would.
func openLog(t testing.TB, url string, c pglog.Config) *pglog.Log {
	t.Helper()
	ctx := context.Background()
	pool, err := postgres.NewLogPool(ctx, url, 8)
	require.NoError(t, err)
	log, err := pglog.Open(ctx, pool, url, c)
	require.NoError(t, err)
	t.Cleanup(func() {
		log.Close()
		pool.Close()
	})
	return log
}

// Bounds of waiting for something that another goroutine or process does.
const (
	waitTime = 20 * time.Second
	pollTime = 5 * time.Millisecond
)
