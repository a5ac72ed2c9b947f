package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
)

// newBar shows the progress of a command on standard error and disappears at its end. A negative total is unknown.
func newBar(total int64, what string, more ...progressbar.Option) *progressbar.ProgressBar {
	return progressbar.NewOptions64(total, append([]progressbar.Option{progressbar.OptionSetDescription(what), progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionThrottle(100 * time.Millisecond), progressbar.OptionClearOnFinish()}, more...)...)
}

// setBar moves a bar whose total may change.
func setBar(bar *progressbar.ProgressBar, done, total int64) {
	bar.ChangeMax64(max(total, 1))
	_ = bar.Set64(min(done, total))
}

// fact is a line of a report.
type fact struct {
	name  string
	value any
}

// printFacts prints a report in two columns.
func printFacts(w io.Writer, facts []fact) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range facts {
		_, _ = fmt.Fprintf(t, "%s\t%v\n", f.name, f.value)
	}
	_ = t.Flush()
}

// readInput reads a file, or standard input where its name is "-", up to a bound in bytes.
func readInput(file string, most int64) ([]byte, error) {
	in := os.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, most))
}
