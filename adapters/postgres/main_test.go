package postgres_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
	"github.com/tollgate-io/tollgate/adapters/postgres"
	"github.com/tollgate-io/tollgate/migrations"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m, migrations.Up)) }

// openLog opens a log of its own process, so to speak: with its own connections and committers.
func openLog(t testing.TB, url string, c postgres.LogConfig) *postgres.Log {
	t.Helper()
	ctx := context.Background()
	pool, err := postgres.NewLogPool(ctx, url, 8)
	require.NoError(t, err)
	log, err := postgres.OpenLog(ctx, pool, url, c)
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
