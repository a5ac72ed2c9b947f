package stack

import (
	"context"
	"fmt"
	"time"

	"github.com/tollgate-io/tollgate/adapters/watermill"
	"github.com/tollgate-io/tollgate/projections"
)

const (
	// FoldGrace is how long a running server gets to show that it folds the log.
	FoldGrace = time.Second
	// FoldTimeout is how long read models may take to show everything that is on the log when a command starts.
	FoldTimeout = 10 * time.Minute
	// idlePause is how often a command checks whether some process folds the log.
	idlePause = 100 * time.Millisecond
)

// OpenReady opens the ledger for a command that ends: its directory shows everything recorded so far, and this process folds
// the log whenever no server does.
func OpenReady(ctx context.Context, c Config) (*Stack, error) {
	s, err := Open(ctx, c)
	if err != nil {
		return nil, err
	}
	if err = s.foldIfIdle(ctx); err == nil {
		err = s.AwaitReadModels(ctx, FoldTimeout, projections.DirectoryModel)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// foldIfIdle starts folding here once the directory stops advancing, until the stack is closed. A directory that shows
// everything is watched too: perhaps nobody folds what this process is going to record.
func (s *Stack) foldIfIdle(ctx context.Context) error {
	runner, err := s.newRunner()
	if err != nil {
		return err
	}
	s.Background(ctx, func(ctx context.Context) {
		for s.AwaitReadModels(ctx, FoldGrace, projections.DirectoryModel) == nil {
			select {
			case <-time.After(idlePause):
			case <-ctx.Done():
			}
		}
		if ctx.Err() == nil {
			s.run(ctx, runner)
		}
	})
	return nil
}

// Fold runs the projections in this process until the stack is closed.
func (s *Stack) Fold(ctx context.Context) error {
	runner, err := s.newRunner()
	if err != nil {
		return err
	}
	s.runner = runner
	s.Background(ctx, func(ctx context.Context) { s.run(ctx, runner) })
	return nil
}

func (s *Stack) run(ctx context.Context, runner *watermill.Runner) {
	if err := runner.Run(ctx); err != nil {
		s.config.Logger.Error("projections ended", "error", err)
	}
}

func (s *Stack) newRunner() (*watermill.Runner, error) {
	return watermill.NewRunner(watermill.Config{Target: s.ReadModels, Log: s.Log, Logger: s.config.Logger, Registerer: s.registerer()})
}

// AwaitReadModels waits until the read models show everything that is on the log now.
func (s *Stack) AwaitReadModels(ctx context.Context, atMost time.Duration, readModels ...string) error {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for p := range s.Log.Partitions() {
		head, err := s.Log.Head(ctx, p)
		if err != nil {
			return err
		}
		if err := s.ReadModels.Await(ctx, readModels, head); err != nil {
			return fmt.Errorf("wait until the read models reach %s: %w", head, err)
		}
	}
	return nil
}
