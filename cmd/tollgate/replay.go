package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/cmd/stack"
)

type replayCommand struct {
	settings
	ReadModels []string `arg:"" optional:"" help:"Read models to rebuild (directory, insights, quota, timeline, usage); default: all."`
	Accept     bool     `name:"accept-differences" help:"Switch even if the rebuilt read model differs from the live one, after a fold was corrected."`
}

// Help is kong's long help of the command.
func (replayCommand) Help() string {
	return `The live read models go on serving and following the log. The new ones are built beside them, compared at the same position, and
replace them in one transaction. When they differ, nothing is replaced and the first difference is printed.`
}

func (c replayCommand) Run(ctx context.Context, log *slog.Logger) error {
	var options []readmodels.RebuildOption
	if c.Accept {
		options = append(options, readmodels.AcceptDifferences(func(d *readmodels.Difference) { fmt.Println("accepted:", d) }))
	}
	return c.rebuild(ctx, log, "rebuilt and switched", func(s *stack.Stack, progress func(done, total int64)) (readmodels.RebuildReport, error) {
		return s.ReadModels.Rebuild(ctx, s.Log, c.ReadModels, progress, options...)
	})
}

type verifyCommand struct {
	settings
	ReadModels []string `arg:"" optional:"" help:"Read models to verify (directory, insights, quota, timeline, usage); default: all."`
}

func (c verifyCommand) Run(ctx context.Context, log *slog.Logger) error {
	return c.rebuild(ctx, log, "equal to the log", func(s *stack.Stack, progress func(done, total int64)) (readmodels.RebuildReport, error) {
		if err := showWholeLog(ctx, s); err != nil {
			return readmodels.RebuildReport{}, err
		}
		return s.ReadModels.Verify(ctx, s.Log, c.ReadModels, progress)
	})
}

// behindTimeout is how long read models may take to show what is on the log before a verification fails.
const behindTimeout = time.Minute

// showWholeLog makes sure that the read models show the whole log: one that has stopped may be right up to its position,
// and is still wrong.
func showWholeLog(ctx context.Context, s *stack.Stack) error {
	if err := s.AwaitReadModels(ctx, stack.FoldGrace, readmodels.Names()...); err == nil {
		return nil
	}
	if err := s.Fold(ctx); err != nil {
		return err
	}
	behind := s.AwaitReadModels(ctx, behindTimeout, readmodels.Names()...)
	if behind == nil {
		return nil
	}
	lags, err := s.ReadModels.Lag(ctx, s.Log, time.Now())
	if err != nil {
		return err
	}
	for _, l := range lags {
		if l.Events > 0 {
			behind = fmt.Errorf("read model %s is %d events behind on partition %d, at offset %d: %w", l.ReadModel, l.Events, l.Partition, l.Offset, behind)
		}
	}
	return behind
}

// rebuild shows the progress of a rebuild or a verification, and its report.
func (c settings) rebuild(ctx context.Context, log *slog.Logger, done string, run func(*stack.Stack, func(done, total int64)) (readmodels.RebuildReport, error)) error {
	s, err := stack.Open(ctx, c.config(log))
	if err != nil {
		return err
	}
	defer s.Close()
	bar := newBar(1, "events", progressbar.OptionShowCount(), progressbar.OptionShowIts())
	started := time.Now()
	report, err := run(s, func(done, total int64) { setBar(bar, done, total) })
	_ = bar.Finish()
	var difference *readmodels.Difference
	if err != nil && !errors.As(err, &difference) {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, t := range report.Tables {
		_, _ = fmt.Fprintf(w, "%s\t%s\tgeneration %d\t%d rows\n", t.ReadModel, t.Table, t.Generation, t.Rows)
	}
	_ = w.Flush()
	fmt.Printf("%d events folded in %.1f s (%.0f/s), %.1f s in all\n", report.Events, report.Folded.Seconds(),
		float64(report.Events)/max(report.Folded.Seconds(), 0.001), time.Since(started).Seconds())
	if err != nil {
		return err
	}
	fmt.Println(done)
	return nil
}
