package stack

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tollgate-io/tollgate/adapters/pgserver"
)

const (
	startTimeout = 5 * time.Minute // of a private server that this process owns
	stopTimeout  = 30 * time.Second
	restartPause = time.Second
)

// openPrivateServer uses the PostgreSQL of the data folder.
func (s *Stack) openPrivateServer(ctx context.Context) (err error) {
	if s.config.Supervise {
		s.URL, err = s.superviseServer(ctx, s.config.DataDir, s.config.Logger)
		return err
	}
	s.URL, err = s.useServer(ctx, s.config.DataDir, s.config.Logger)
	return err
}

// useServer uses the server that runs in the folder, or starts one.
func (c *closers) useServer(ctx context.Context, dir string, log *slog.Logger) (url string, err error) {
	server, err := pgserver.Attach(ctx, dir)
	if errors.Is(err, pgserver.ErrNotRunning) {
		server, err = pgserver.Start(ctx, pgserver.Config{Dir: dir, Log: log, Fsync: true})
	}
	if err != nil {
		return "", err
	}
	c.add(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		_ = server.Stop(ctx) // the next start recovers, however it ended
	})
	return server.URL(), nil
}

// superviseServer starts the server of the folder, and starts it again when it dies; the pools reconnect by themselves.
func (s *Stack) superviseServer(ctx context.Context, dir string, log *slog.Logger) (url string, err error) {
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	server, err := pgserver.Start(starting, pgserver.Config{Dir: dir, Log: log, Fsync: true})
	if err != nil {
		return "", err
	}
	s.add(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			log.Warn("the private Postgres did not stop in order; its next start recovers", "error", err)
		}
	})
	s.Background(ctx, func(ctx context.Context) {
		for {
			select {
			case <-ctx.Done():
				return
			case <-server.Done():
			}
			if ctx.Err() != nil {
				return
			}
			log.Error("the private Postgres ended; starting it again")
			if err := server.Restart(ctx); err != nil {
				log.Error("the private Postgres does not start", "error", err)
			}
			select {
			case <-time.After(restartPause):
			case <-ctx.Done():
				return
			}
		}
	})
	return server.URL(), nil
}
