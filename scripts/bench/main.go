// Command bench measures how fast and how large the ledger is, as ratios against baselines that it runs itself on the same
// machine, on the same PostgreSQL server and in turns: A B A B, so that a noisy neighbour slows down both sides.
//
// It owns the baselines and the arithmetic; what is measured is the product's own packages, wired as `tollgate serve`
// wires them. docs/benchmarks.md says what each benchmark and each baseline is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

func main() {
	if isChild() {
		os.Exit(runChild())
	}
	// The first Ctrl-C ends the run in order; the second one kills, because then the defaults are back.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options say what to run and for how long.
type options struct {
	only       *regexp.Regexp
	quick      bool
	events     int // in the large log
	seconds    float64
	roundCount int
	jsonFile   string
	profiles   string // folder for processor profiles; "" for none
}

func parse(args []string, progress io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(progress)
	only := flags.String("run", ".", "run the benchmarks whose names match the `regexp`")
	flags.BoolVar(&o.quick, "quick", false, "a first impression in less than 90 s; its figures are rough")
	flags.IntVar(&o.events, "events", 0, "events in the large log of history, size and rebuild (default 1,000,000)")
	flags.Float64Var(&o.seconds, "seconds", 0, "length of one measurement (default 2)")
	flags.IntVar(&o.roundCount, "rounds", 0, "interleaved rounds of each comparison (default 5)")
	flags.StringVar(&o.jsonFile, "json", "", "also write the results to a `file`")
	flags.StringVar(&o.profiles, "profiles", "", "write processor profiles of our side into a `folder`")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("-run: %w", err)
	}
	if o.events < 0 || o.seconds < 0 || o.roundCount < 0 {
		return o, errors.New("-events, -seconds and -rounds must not be negative")
	}
	defaults := options{events: 1_000_000, seconds: 2, roundCount: 5}
	if o.quick {
		defaults = options{events: 0, seconds: 0.4, roundCount: 2} // each benchmark of the large log has its own number
	}
	if o.events == 0 {
		o.events = defaults.events
	}
	if o.seconds == 0 {
		o.seconds = defaults.seconds
	}
	if o.roundCount == 0 {
		o.roundCount = defaults.roundCount
	}
	if o.profiles != "" {
		return o, os.MkdirAll(o.profiles, 0o750)
	}
	return o, nil
}

func command(ctx context.Context, args []string, out, progress io.Writer) error {
	o, err := parse(args, progress)
	if err != nil {
		return err
	}
	r, err := run(ctx, o, progress)
	if len(r.Rows) == 0 && len(r.Costs) == 0 {
		return err
	}
	if o.jsonFile != "" {
		err = errors.Join(err, r.writeJSON(o.jsonFile))
	}
	return errors.Join(err, r.print(out))
}

// benchmark measures one thing and adds rows to the report. What it runs may have several names.
type benchmark struct {
	names []string
	run   func(ctx context.Context, b *bench, wanted []string) error
}

// benchmarks are in the order in which they run: size first looks at the large log, then history and rebuild let it grow.
var benchmarks = []benchmark{
	{[]string{"ingest/single/1", "ingest/single/32", "ingest/single/256"}, ingestSingle},
	{[]string{"ingest/batch/100", "ingest/batch/1000"}, ingestBatch},
	{[]string{"check/hot/1", "check/hot/32", "check/hot/256", "check/spread/1", "check/spread/32", "check/spread/256"}, checks},
	{[]string{"check/holds"}, holds},
	{[]string{"check/history"}, checkHistory},
	{[]string{"check/size"}, checkSize},
	{[]string{"stores"}, stores},
	{[]string{"import"}, importRows},
	{[]string{"partitions"}, partitionCounts},
	{[]string{"lag"}, lag},
	{[]string{"size"}, size},
	{[]string{"history"}, history},
	{[]string{"rebuild"}, rebuild},
}

// run runs what is wanted. When it ends early the report has what was measured until then.
func run(ctx context.Context, o options, progress io.Writer) (*report, error) {
	b, err := start(ctx, o, progress)
	if err != nil {
		return &report{}, err
	}
	defer b.close()
	busy := loadAverage()
	err = b.runAll(ctx)
	b.report.Run = fmt.Sprintf("%d rounds of %g s each, %.0f s in all, started %s%s", o.roundCount, o.seconds,
		time.Since(b.started).Seconds(), b.started.UTC().Format("2006-01-02 15:04 MST"), busy)
	b.report.Machine = fmt.Sprintf("%d cores, PostgreSQL %s, %s %s/%s", runtime.NumCPU(), b.version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return &b.report, err
}

func (b *bench) runAll(ctx context.Context) error {
	matches := 0
	for _, benchmark := range benchmarks {
		var wanted []string
		for _, name := range benchmark.names {
			if b.only.MatchString(name) {
				wanted = append(wanted, name)
			}
		}
		if len(wanted) == 0 {
			continue
		}
		matches++
		// Neither the checkpoint that is due after an earlier benchmark nor its garbage must fall into this one.
		if err := b.admin(ctx, "checkpoint"); err != nil {
			return err
		}
		debug.FreeOSMemory()
		b.say("%v", wanted)
		if err := benchmark.run(ctx, b, wanted); err != nil {
			return fmt.Errorf("%v: %w", wanted, err)
		}
	}
	if matches == 0 {
		return errors.New("no benchmark has a name that matches -run")
	}
	return nil
}

// loadAverage is how busy the machine was before the run; "" when the system does not say.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	var minute float64
	if _, err := fmt.Sscan(string(text), &minute); err != nil {
		return ""
	}
	return fmt.Sprintf(", load average then %.1f", minute)
}
