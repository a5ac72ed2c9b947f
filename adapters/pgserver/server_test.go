package pgserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ownerVariable makes the test binary the owner of a server, for tests that
// kill an owner.
const ownerVariable = "PGSERVER_TEST_OWNER_OF"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerVariable); dir != "" {
		s, err := Start(context.Background(), Config{Dir: dir})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(s.PID(), s.URL())
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test lets go, or kills us
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestFirstStartThenLaterStartKeepsData(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	s := start(t, dir)
	execute(t, s, "create table kept (n int)", "insert into kept (n) values (7)")
	assert.Equal(t, "/tollgate", parse(t, s.URL()).Path)
	assert.Equal(t, "127.0.0.1", parse(t, s.URL()).Hostname())

	for name, want := range map[string]string{
		"shared_buffers": "256MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min", "jit": "off",
		"TimeZone": "UTC", "fsync": "off", "synchronous_commit": "on", "lc_collate": "C", "server_encoding": "UTF8",
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "work_mem": "5MB", "data_checksums": "on",
	} {
		assert.Equal(t, want, queryText(t, s, "select current_setting('"+name+"')"), name)
	}
	assert.Contains(t, []string{"lz4", "pglz", "on"}, queryText(t, s, "select current_setting('wal_compression')"))
	assert.Equal(t, "f", queryText(t, s, "select pg_is_in_recovery()::text::char"))

	info, err := os.Stat(filepath.Join(dir, "postgres.password"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	info, err = os.Stat(filepath.Join(dir, "postgres"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	group, err := syscall.Getpgid(s.PID())
	require.NoError(t, err)
	assert.NotEqual(t, syscall.Getpgrp(), group, "Ctrl-C must not reach the server")

	stop(t, s)
	closed(t, s.Done())
	_, err = Attach(t.Context(), dir)
	require.ErrorIs(t, err, ErrNotRunning)
	require.NoError(t, s.Stop(t.Context()), "a second Stop has nothing to do")

	s = start(t, dir)
	assert.Equal(t, "7", queryText(t, s, "select n::text from kept"))
}

func TestOnlyThePasswordOpens(t *testing.T) {
	t.Parallel()
	s := start(t, folder(t))
	for _, database := range []string{"tollgate", "postgres", "template1"} {
		u := parse(t, s.URLFor(database))
		u.User = url.UserPassword("tollgate", "wrong")
		_, err := pgx.Connect(t.Context(), u.String())
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused)
		assert.Equal(t, "28P01", refused.Code)
	}
	assert.Equal(t, "t", queryText(t, s, "select (rolpassword like 'SCRAM-SHA-256$%')::text::char from pg_authid where rolname = 'tollgate'"))
}

func TestPostmasterKilledThenRestart(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	s := start(t, dir)
	pool, err := pgxpool.New(t.Context(), s.URL())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), "create table kept as select 7 as n")
	require.NoError(t, err)
	// A busy child notices its postmaster's death only when it looks up.
	busy, err := pgx.Connect(t.Context(), s.URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = busy.Close(context.Background()) })
	var child int
	require.NoError(t, busy.QueryRow(t.Context(), "select pg_backend_pid()").Scan(&child))
	computed := make(chan error, 1)
	go func() {
		_, err := busy.Exec(context.Background(), "do $$ begin loop end loop; end $$")
		computed <- err
	}()
	require.Eventually(t, func() bool {
		var state string
		err := pool.QueryRow(t.Context(), "select state from pg_stat_activity where pid = $1", child).Scan(&state)
		return err == nil && state == "active"
	}, 10*time.Second, 20*time.Millisecond)

	before, address := s.PID(), s.URL()
	require.NoError(t, syscall.Kill(before, syscall.SIGKILL))
	closed(t, s.Done())
	// The children go one after the other.
	require.Eventually(t, func() bool { return pool.Ping(t.Context()) != nil }, 10*time.Second, 20*time.Millisecond)

	require.NoError(t, s.Restart(t.Context()))
	require.Error(t, <-computed)
	assert.Equal(t, address, s.URL())
	assert.NotEqual(t, before, s.PID())
	select {
	case <-s.Done():
		t.Fatal("Done speaks of the postmaster of before")
	default:
	}
	var n int
	require.NoError(t, pool.QueryRow(t.Context(), "select n from kept").Scan(&n), "the pool must connect again")

	// And once more, with Stop and Start instead of Restart.
	require.NoError(t, syscall.Kill(s.PID(), syscall.SIGKILL))
	closed(t, s.Done())
	stop(t, s)
	s = start(t, dir)
	assert.Equal(t, "7", queryText(t, s, "select n::text from kept"))
	require.NoError(t, s.Restart(t.Context()), "a running server restarts too")
	assert.Equal(t, "7", queryText(t, s, "select n::text from kept"))
}

func TestOwnerKilledThenServerIsTakenOver(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	owner, pid, address := startOwner(t, dir)
	_, err := Start(t.Context(), Config{Dir: dir})
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorContains(t, err, strconv.Itoa(owner.Process.Pid))

	kill(t, owner)
	s := start(t, dir, func(c *Config) { c.Settings = nil })
	assert.Equal(t, pid, s.PID())
	assert.Equal(t, address, s.URL())
	assert.Equal(t, "1", queryText(t, s, "select '1'"))
	done := s.Done()
	stop(t, s)
	closed(t, done)
	assert.True(t, gone(pid), "Stop must end an adopted server")
}

func TestAdoptedServerIsWatched(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	owner, pid, address := startOwner(t, dir)
	kill(t, owner)
	s := start(t, dir, func(c *Config) { c.Settings = nil })
	require.Equal(t, pid, s.PID())
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	closed(t, s.Done())
	require.NoError(t, s.Restart(t.Context()))
	assert.Equal(t, address, s.URL())
	assert.Equal(t, "1", queryText(t, s, "select '1'"))
}

func TestServerWithOtherSettingsIsNotTakenOver(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	owner, pid, _ := startOwner(t, dir)
	kill(t, owner)
	s := start(t, dir)
	assert.NotEqual(t, pid, s.PID())
	assert.Equal(t, "5MB", queryText(t, s, "show work_mem"))
}

func TestOwnerAndPostmasterKilled(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	owner, pid, _ := startOwner(t, dir)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	kill(t, owner)
	s := start(t, dir)
	assert.Equal(t, "1", queryText(t, s, "select '1'"))
}

func TestStalePIDFileNamesAnotherProcess(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	s := start(t, dir)
	file := filepath.Join(s.cluster.data, "postmaster.pid")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	stop(t, s)

	// Of the same user, because PostgreSQL itself ignores the processes of others.
	other := s.cluster.account.command(context.Background(), "cat")
	hold, err := other.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	t.Cleanup(func() { _ = hold.Close(); _ = other.Wait() })
	_, rest, _ := strings.Cut(string(text), "\n")
	require.NoError(t, os.WriteFile(file, []byte(strconv.Itoa(other.Process.Pid)+"\n"+rest), 0o600))
	require.NoError(t, s.cluster.account.own(file))

	_, err = Attach(t.Context(), dir)
	require.ErrorIs(t, err, ErrNotRunning)
	s = start(t, dir)
	assert.Equal(t, "1", queryText(t, s, "select '1'"))
	require.NoError(t, other.Process.Signal(syscall.Signal(0)), "the other process must not be harmed")
}

func TestAttach(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	_, err := Attach(t.Context(), dir)
	require.ErrorIs(t, err, ErrNotRunning)
	_, err = Attach(t.Context(), filepath.Join(dir, "nowhere"))
	require.ErrorIs(t, err, ErrNotRunning)

	s := start(t, dir, func(c *Config) { c.Fsync = true })
	assert.Equal(t, "on", queryText(t, s, "show fsync"))
	_, err = Start(t.Context(), Config{Dir: dir})
	require.ErrorIs(t, err, ErrInUse, "also within one process")
	a, err := Attach(t.Context(), dir)
	require.NoError(t, err)
	assert.Equal(t, s.URL(), a.URL())
	assert.Equal(t, s.PID(), a.PID())
	require.Error(t, a.Restart(t.Context()))
	require.NoError(t, a.Stop(t.Context()))
	assert.Equal(t, "1", queryText(t, s, "select '1'"), "Stop of an attached server must leave it running")

	a, err = Attach(t.Context(), dir)
	require.NoError(t, err)
	stop(t, s)
	closed(t, a.Done())
	require.NoError(t, a.Stop(t.Context()))
}

func TestRunningServerIsKnownAfterItsFolderMoved(t *testing.T) {
	t.Parallel()
	parent := folder(t)
	owner, pid, _ := startOwner(t, filepath.Join(parent, "before"))
	kill(t, owner)
	dir := filepath.Join(parent, "after")
	require.NoError(t, os.Rename(filepath.Join(parent, "before"), dir))
	s := start(t, dir) // with another path, so the server of before has to go first
	assert.NotEqual(t, pid, s.PID())
	assert.True(t, gone(pid))
	assert.Equal(t, "1", queryText(t, s, "select '1'"))
}

func TestLostPasswordIsReplaced(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	file := filepath.Join(dir, "postgres.password")
	owner, _, address := startOwner(t, dir)
	require.NoError(t, os.Remove(file))
	_, err := Attach(t.Context(), dir)
	require.ErrorContains(t, err, file)
	kill(t, owner)
	s := start(t, dir)
	assert.NotEqual(t, parse(t, address).User, parse(t, s.URL()).User)
	assert.Equal(t, "1", queryText(t, s, "select '1'"))

	// A wrong password is told rather than replaced: it may be the sign of a mix-up of folders.
	require.NoError(t, os.WriteFile(file, []byte("wrong\n"), 0o600))
	_, err = Attach(t.Context(), dir)
	require.ErrorIs(t, err, errPassword)
	stop(t, s)
	_, err = Start(t.Context(), Config{Dir: dir})
	require.ErrorIs(t, err, errPassword)
	require.ErrorContains(t, err, file)
}

func TestFolderThatTheServersUserCannotReach(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		// Only root hands the server to another user; for everybody else the
		// closed folder is their own and must simply work.
		s := start(t, closedFolder(t))
		assert.Equal(t, "1", queryText(t, s, "select '1'"))
		return
	}
	parent := closedFolder(t)
	dir := filepath.Join(parent, "data")
	s := start(t, dir)
	execute(t, s, "create table kept as select 7 as n")
	data := s.cluster.data
	assert.Regexp(t, `^/var/lib/tollgate/[0-9a-f]{12}$`, data)
	a, err := Attach(t.Context(), dir)
	require.NoError(t, err)
	assert.Equal(t, s.URL(), a.URL())
	require.NoError(t, a.Stop(t.Context()))
	stop(t, s)

	moved := filepath.Join(parent, "moved")
	require.NoError(t, os.Rename(dir, moved))
	s = start(t, moved)
	assert.Equal(t, "7", queryText(t, s, "select n::text from kept"), "a data folder that moves keeps its cluster")
	stop(t, s)

	// A new folder of the old name gets a cluster of its own, and the one that
	// is there is kept.
	fresh := start(t, dir)
	assert.Equal(t, "", queryText(t, fresh, "select coalesce(to_regclass('kept')::text, '')"))
	aside, err := filepath.Glob(data + ".old-*")
	require.NoError(t, err)
	require.Len(t, aside, 1)
	t.Cleanup(func() { _ = os.RemoveAll(aside[0]) })

	// The link of the moved folder leads to the new one's cluster now, or to
	// none: either way nothing is made anew behind its owner's back.
	stop(t, fresh)
	require.NoError(t, Remove(t.Context(), dir))
	_, err = os.Stat(data)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Start(t.Context(), Config{Dir: moved})
	require.ErrorContains(t, err, "cannot be found")
}

func TestRemove(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	owner, pid, _ := startOwner(t, dir)
	require.ErrorIs(t, Remove(t.Context(), dir), ErrInUse)
	kill(t, owner)
	require.NoError(t, Remove(t.Context(), dir))
	assert.True(t, gone(pid))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestStopTurnsImmediateAtTheEndOfItsTime(t *testing.T) {
	t.Parallel()
	s := start(t, folder(t))
	// A stopped child does not answer the fast shutdown.
	conn, err := pgx.Connect(t.Context(), s.URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	var child int
	require.NoError(t, conn.QueryRow(t.Context(), "select pg_backend_pid()").Scan(&child))
	require.NoError(t, syscall.Kill(child, syscall.SIGSTOP))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	require.NoError(t, s.Stop(ctx))
	assert.Less(t, time.Since(began), stopTimeout/2)
	closed(t, s.Done())
}

func TestStartThatFailsSaysWhyAndLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	_, err := Start(t.Context(), Config{Dir: dir, Settings: map[string]string{"max_connections": "none"}})
	require.ErrorContains(t, err, `invalid value for parameter "max_connections"`)
	_, err = Attach(t.Context(), dir)
	require.ErrorIs(t, err, ErrNotRunning)
	start(t, dir) // the folder is free
}

func TestRestartSaysThatThePortIsTaken(t *testing.T) {
	t.Parallel()
	s := start(t, folder(t))
	require.NoError(t, syscall.Kill(s.PID(), syscall.SIGKILL))
	closed(t, s.Done())
	var l net.Listener
	require.Eventually(t, func() (ok bool) {
		var err error
		l, err = net.Listen("tcp4", parse(t, s.URL()).Host)
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
	err := s.Restart(t.Context())
	require.ErrorIs(t, err, errPortTaken)
	require.NoError(t, l.Close())
	require.NoError(t, s.Restart(t.Context()))
}

func TestClusterOfAnotherVersion(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	s := start(t, dir)
	stop(t, s)
	require.NoError(t, os.WriteFile(filepath.Join(s.cluster.data, "PG_VERSION"), []byte("99\n"), 0o600))
	_, err := Start(t.Context(), Config{Dir: dir})
	require.ErrorContains(t, err, "the cluster was made by PostgreSQL 99")
}

func TestInterruptedCreationStartsOver(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "postgres.new123", "base"), 0o700))
	s := start(t, dir)
	assert.Equal(t, "1", queryText(t, s, "select '1'"))
	assert.NoDirExists(t, filepath.Join(dir, "postgres.new123"))
}

func TestCancelledStart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Start(ctx, Config{Dir: folder(t)})
	require.ErrorIs(t, err, context.Canceled)
}

// folder is a data folder that the server's user can reach, removed in the end.
// Unlike t.TempDir its parents are open.
func folder(t *testing.T) string {
	t.Helper()
	dir := closedFolder(t)
	require.NoError(t, os.Chmod(dir, 0o711))
	return dir
}

func closedFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgserver-test-")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func start(t *testing.T, dir string, change ...func(*Config)) *Server {
	t.Helper()
	cfg := Config{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Settings: map[string]string{"work_mem": "5MB"}}
	for _, f := range change {
		f(&cfg)
	}
	s, err := Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		assert.NoError(t, s.Stop(ctx))
		// Of two servers of one folder the last one removes it.
		if err := Remove(ctx, dir); !errors.Is(err, ErrInUse) && !strings.Contains(fmt.Sprint(err), "cannot be found") {
			assert.NoError(t, err)
		}
	})
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, s.Stop(ctx))
}

// startOwner runs a process that owns a server of the folder.
func startOwner(t *testing.T, dir string) (owner *exec.Cmd, pid int, address string) {
	t.Helper()
	owner = exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), ownerVariable+"="+dir)
	owner.Stderr = os.Stderr
	_, err := owner.StdinPipe()
	require.NoError(t, err)
	out, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	t.Cleanup(func() { _ = owner.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	_, err = fmt.Sscan(line, &pid, &address)
	require.NoError(t, err)
	return owner, pid, address
}

// kill ends the owner without giving it time for anything.
func kill(t *testing.T, owner *exec.Cmd) {
	t.Helper()
	require.NoError(t, owner.Process.Kill())
	_ = owner.Wait()
}

// gone reports whether the process runs no program any more. Its entry may
// remain: who becomes the parent of an orphan may take its time to wait for it.
func gone(pid int) bool {
	return !strings.Contains(commandLine(pid), "postgres")
}

func closed(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the server did not exit")
	}
}

func execute(t *testing.T, s *Server, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL())
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	for _, statement := range statements {
		_, err := conn.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
}

func queryText(t *testing.T, s *Server, query string) (text string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL())
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	require.NoError(t, conn.QueryRow(t.Context(), query).Scan(&text))
	return text
}

func parse(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	return u
}
