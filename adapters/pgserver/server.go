// Package pgserver owns a private PostgreSQL server for one machine: it finds
// (or fetches) the binaries, creates the cluster, starts and stops the
// postmaster, and says how to connect. It does not own what is inside the
// databases: schemas, migrations and roles belong to those who connect.
//
// The server listens on the loopback interface only, on a port chosen at each
// start, and lets nobody in without the password that lies in the data folder.
// A Unix socket would save the port, but the server may run as another user
// than ours and the length of a socket's path is limited to about 100 bytes.
package pgserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	role = "tollgate" // the superuser, and the name of the first database

	// startTimeout bounds one start. It is long because a server that was
	// killed replays up to max_wal_size of log before it lets anyone in.
	startTimeout  = 5 * time.Minute
	attachTimeout = 30 * time.Second
	stopTimeout   = time.Minute
	pingTimeout   = 5 * time.Second
	pollInterval  = 25 * time.Millisecond
)

var (
	// ErrNotRunning says that no server runs on the folder. Start one.
	ErrNotRunning = errors.New("pgserver: no server is running on this folder")
	// ErrInUse says that another live process owns the folder's server. Stop
	// that process, or use Attach.
	ErrInUse = errors.New("pgserver: another process owns the server of this folder")
)

// Config says where the server lives and how it runs.
type Config struct {
	// Dir is the data folder; it is created when missing. The cluster lives in
	// Dir/postgres, which is a link to a folder elsewhere when the user whom
	// the server runs as cannot get into Dir.
	Dir string
	Log *slog.Logger
	// Fsync off makes commits fast and a crash of the machine fatal to the
	// data: for tests only.
	Fsync bool
	// Settings are further server settings, name to value. They win over the
	// package's own, except over those that keep the server private and known to us.
	Settings map[string]string
}

// Server is a running server. It is safe for concurrent use.
type Server struct {
	log      *slog.Logger
	cluster  *cluster
	password string
	port     int
	lock     *os.File      // nil when attached, and after Stop
	turn     chan struct{} // held by the one Stop or Restart at work

	mu         sync.Mutex
	postmaster *postmaster
}

// Start makes sure that a server runs on the data folder and returns it, ready
// for connections. It creates the cluster at first use, takes over a server
// that outlived its owner, and clears what a killed server left behind. It
// returns ErrInUse when another live Server owns the folder. The caller owns
// the server until Stop; without Stop it outlives the process.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout+installTimeout)
	defer cancel()
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("pgserver: data folder: %w", err)
	}
	if err := makeFolder(dir); err != nil {
		return nil, err
	}
	lock, err := lockOwner(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = lock.Close()
		}
	}()
	c, err := openCluster(ctx, log, dir)
	if err != nil {
		return nil, err
	}
	password, err := c.ensureInitialised(ctx, log, cfg.Fsync)
	if err != nil {
		return nil, err
	}
	if c.settings, err = c.chooseSettings(ctx, cfg); err != nil {
		return nil, err
	}
	s := &Server{log: log, cluster: c, password: password, lock: lock, turn: make(chan struct{}, 1)}
	if adopted, err := s.adopt(ctx); err != nil {
		return nil, err
	} else if adopted {
		return s, nil
	}
	if s.password == "" {
		if err := s.renewPassword(ctx); err != nil {
			return nil, err
		}
	}
	// Between our choice of a free port and the server's bind another process
	// may take it; a few tries with other ports make that harmless.
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		s.port = port
		err = s.launch(ctx)
		if err == nil {
			return s, nil
		}
		if try == 3 || !errors.Is(err, errPortTaken) {
			return nil, err
		}
	}
}

// Attach returns the running server of the folder, or ErrNotRunning. It waits
// for a server that is still starting. The caller does not own the server: Stop
// leaves it running.
func Attach(ctx context.Context, dir string) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("pgserver: data folder: %w", err)
	}
	c := &cluster{dir: dir}
	found, err := c.locate()
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%w: %s", ErrNotRunning, dir)
	}
	p, err := findPostmaster(c.data)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotRunning, dir)
	}
	password, err := c.readPassword()
	if err == nil && password == "" {
		err = fmt.Errorf("pgserver: %s is missing; the server's owner makes a new one when it starts again", c.passwordFile())
	}
	if err != nil {
		p.unwatch()
		return nil, err
	}
	s := &Server{cluster: c, password: password, postmaster: p, turn: make(chan struct{}, 1)}
	if s.port, err = s.awaitReady(ctx, p); err != nil {
		p.unwatch()
		if errors.Is(err, errExited) || errors.Is(err, errStopping) {
			return nil, fmt.Errorf("%w: %s: %w", ErrNotRunning, dir, err)
		}
		return nil, err
	}
	return s, nil
}

// Exists reports whether the folder has a server, whether or not it runs.
func Exists(dir string) (bool, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false, fmt.Errorf("pgserver: data folder: %w", err)
	}
	return (&cluster{dir: dir}).locate()
}

// Remove stops the server that may have been left running on the folder and
// deletes everything this package keeps for it: all its data. It returns
// ErrInUse when a live process owns the server.
func Remove(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("pgserver: data folder: %w", err)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := lockOwner(dir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	c := &cluster{dir: dir}
	found, err := c.locate()
	if err != nil {
		return err
	}
	if found {
		if err := clearProcesses(ctx, c.data); err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(c.data), removeUnfinished(c.data)); err != nil {
			return fmt.Errorf("pgserver: remove the cluster: %w", err)
		}
	}
	if err := removeUnfinished(c.link()); err != nil {
		return err
	}
	for _, path := range []string{c.link(), c.logFile(), c.logFile() + oldLogSuffix, c.passwordFile(), filepath.Join(dir, ownerLock)} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("pgserver: remove the server's files: %w", err)
		}
	}
	return nil
}

// URL addresses the database "tollgate" as the superuser. It stays the same
// across Restart. It contains the password.
func (s *Server) URL() string { return s.URLFor(role) }

// URLFor addresses another database of the server as the superuser.
func (s *Server) URLFor(database string) string { return s.address(s.port, database) }

func (s *Server) address(port int, database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(role, s.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// PID is the process id of the postmaster.
func (s *Server) PID() int { return s.current().process.Pid }

// Done is closed when the postmaster of now has exited, for whatever reason.
// After Restart, ask again: there is a new postmaster.
func (s *Server) Done() <-chan struct{} { return s.current().done }

// Stop shuts the server down and gives the folder free. Open transactions are
// rolled back. When ctx nears its end the shutdown becomes an immediate one:
// nothing that was committed is lost, but the next start has log to replay. Stop may
// outlast ctx by a few seconds rather than leave the server behind. After an
// error the caller still owns the server and may call Stop again. On an attached
// server it only ends the watch behind Done.
func (s *Server) Stop(ctx context.Context) error {
	if err := s.takeTurn(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	p := s.current()
	if s.lock == nil {
		p.unwatch()
		return nil
	}
	if err := p.stop(ctx); err != nil {
		return err
	}
	s.log.Info("postgres stopped", "pid", p.process.Pid)
	err := s.lock.Close()
	s.lock = nil
	return err
}

// Restart starts the server again on the same port, so that pools that point to
// it connect again. It is the answer to Done; a server that still runs is
// stopped first. After an error the caller may call it again.
func (s *Server) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.takeTurn(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	if s.lock == nil {
		return errors.New("pgserver: restart: only the owner of a server that was not stopped may restart it")
	}
	if err := s.current().stop(ctx); err != nil {
		return err
	}
	return s.launch(ctx)
}

// takeTurn waits until no other Stop or Restart is at work. A turn that is free
// is taken whatever ctx says, so that a Stop with a spent ctx still stops.
func (s *Server) takeTurn(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("pgserver: another Stop or Restart is at work: %w", ctx.Err())
	}
}

func (s *Server) current() *postmaster {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.postmaster
}

func (s *Server) use(p *postmaster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.postmaster = p
}

// adopt takes over a server that outlived its owner. A server that runs with
// other settings than this process would give it, or that does not answer, is
// stopped instead: the caller then starts its own.
func (s *Server) adopt(ctx context.Context) (bool, error) {
	p, err := findPostmaster(s.cluster.data)
	if err != nil || p == nil {
		return false, err
	}
	reason := errors.New("its settings are not ours")
	if s.password == "" {
		reason = errPassword
	} else if s.cluster.startedWith(s.cluster.arguments(p.port)) {
		s.port, reason = s.awaitReady(ctx, p)
	}
	if errors.Is(reason, errPassword) {
		s.password = ""
	}
	if reason == nil {
		s.log.Info("postgres outlived its owner; taking it over", "pid", p.process.Pid, "port", s.port)
		s.use(p)
		return true, nil
	}
	s.log.Info("postgres outlived its owner; stopping it", "pid", p.process.Pid, "why", reason)
	err = p.stop(ctx)
	p.unwatch()
	return false, err
}

// launch starts a postmaster on our port and waits until it serves.
func (s *Server) launch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := clearProcesses(ctx, s.cluster.data); err != nil {
		return err
	}
	p, err := s.cluster.launch(s.port)
	if err != nil {
		return err
	}
	if _, err := s.awaitReady(ctx, p); err != nil {
		tail := s.cluster.logTail(p.logOffset)
		if strings.Contains(tail, "could not bind") {
			err = errPortTaken
		}
		err = fmt.Errorf("pgserver: start on port %d: %w; the end of %s:\n%s", s.port, err, s.cluster.logFile(), tail)
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quitReserve)
		defer cancel()
		return errors.Join(err, p.stop(stopCtx))
	}
	s.use(p)
	s.log.Info("postgres started", "pid", p.process.Pid, "port", s.port, "cluster", s.cluster.data)
	return nil
}

// awaitReady returns the port once the server lets us in there, or the reason
// why it will not.
func (s *Server) awaitReady(ctx context.Context, p *postmaster) (port int, _ error) {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	var refused error
	var refusedSince time.Time
	for {
		// The server's own note says when to knock, so its log stays free of
		// refused connections.
		note, err := readPIDFile(s.cluster.data)
		switch {
		case err != nil || note.pid != p.process.Pid: // the note is still to be written
		case note.status == "stopping":
			return 0, errStopping
		case note.status == "ready":
			if refused == nil {
				refusedSince = time.Now()
			}
			if refused = s.ping(ctx, note.port); refused == nil {
				return note.port, nil
			}
			var pgErr *pgconn.PgError
			if errors.As(refused, &pgErr) && pgErr.Code == "28P01" {
				return 0, fmt.Errorf("%w (%s); remove the file and start again to have a new one made", errPassword, s.cluster.passwordFile())
			}
			if time.Since(refusedSince) > attachTimeout {
				return 0, fmt.Errorf("the server lets nobody in: %w", refused)
			}
		}
		select {
		case <-p.done:
			return 0, errExited
		case <-ctx.Done():
			return 0, errors.Join(fmt.Errorf("not ready: %w", ctx.Err()), refused)
		case <-poll.C:
		}
	}
}

func (s *Server) ping(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.address(port, role))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// renewPassword replaces a password whose file was lost.
func (s *Server) renewPassword(ctx context.Context) error {
	if err := clearProcesses(ctx, s.cluster.data); err != nil {
		return err
	}
	password := rand.Text()
	if err := s.cluster.single(ctx, s.cluster.data, "alter role "+role+" password '"+password+"'"); err != nil {
		return err
	}
	s.password = password
	return s.cluster.writePassword(password)
}

const ownerLock = "owner.lock"

// lockOwner takes the folder for this process. The kernel gives it free when
// the process ends, however it ends.
func lockOwner(dir string) (*os.File, error) {
	path := filepath.Join(dir, ownerLock)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("pgserver: owner lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("pgserver: lock %s: %w", path, err)
		}
		holder := make([]byte, 20)
		n, _ := f.Read(holder)
		pid := cmp.Or(strings.TrimSpace(string(holder[:n])), "unknown")
		return nil, fmt.Errorf("%w: %s belongs to process %s; stop that process first, or choose another data folder", ErrInUse, dir, pid)
	}
	// The number is for the reader of the message above; the lock does not need it.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
	}
	return f, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("pgserver: find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}
