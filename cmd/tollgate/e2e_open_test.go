package main

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/cmd/stack"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// lines collects what is logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// An installation of an earlier version has other tables. The first process that opens it builds them again before anything
// reads them; others that open it at the same time wait.
func TestAnEarlierInstallationIsBuiltAgain(t *testing.T) {
	dir := installation(t)
	config := stack.Config{DataDir: dir, DatabaseURL: databaseOf(dir), EventStore: eventStoreOf(dir), Logger: slog.New(slog.DiscardHandler)}
	s, err := stack.OpenReady(t.Context(), config)
	require.NoError(t, err)
	defer s.Close()
	_, err = s.Ledger.DefineTenant(t.Context(), tenant.Tenant{ID: "acme", Name: "Acme"}, "cli")
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), s.URL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	for _, statement := range []string{
		`drop table rm_directory_1.limit_overrides cascade`,
		`alter table rm_directory_1.catalogs drop column plan_versions cascade`,
		`update read_models set definition = null where name = 'directory'`,
	} {
		_, err = conn.Exec(t.Context(), statement)
		require.NoError(t, err)
	}

	var log lines
	config.DatabaseURL, config.Logger = s.URL, slog.New(slog.NewTextHandler(&log, nil))
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			opened, err := stack.Open(t.Context(), config)
			if err != nil {
				t.Error(err)
				return
			}
			defer opened.Close()
			if _, err := opened.Directory.Tenant(t.Context(), "acme"); err != nil {
				t.Error(err)
			}
			if _, err := opened.Directory.Subscription(t.Context(), "acme"); err != nil {
				t.Error(err)
			}
			if _, err := opened.Directory.Catalog(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.Contains(t, log.String(), "building read models again")
	require.Contains(t, log.String(), "read models built")
	require.Contains(t, log.String(), "directory")
	require.NotContains(t, log.String(), "timeline")
	var generation int
	require.NoError(t, conn.QueryRow(t.Context(), `select generation from read_models where name = 'directory' and state = 'serving'`).Scan(&generation))
	require.GreaterOrEqual(t, generation, 2)
}

// Commands that change something need no server: they fold what they record, even when everything before it is folded
// already.
func TestCommandsWithoutAServer(t *testing.T) {
	onEveryStoreIn(t, installation, testCommandsWithoutAServer)
}

func testCommandsWithoutAServer(t *testing.T, dir string) {
	catalog := sampleCatalog(t)
	for _, want := range []string{"catalog revision 0 is in force", "Nothing to change"} {
		out, err := run(t, dir, "apply", "-f", catalog)
		require.NoError(t, err, out)
		require.Contains(t, out, want)
	}
	out, err := run(t, dir, "key")
	require.NoError(t, err, out)
	require.Contains(t, out, "key_")
	out, err = run(t, dir, "verify")
	require.NoError(t, err, out)
	require.Contains(t, out, "equal to the log")
}
