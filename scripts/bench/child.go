package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/projections"
)

// The servers under load are processes of their own, as in reality: this program again, told by its environment to be one.
const childVariable = "TOLLGATE_BENCH_CHILD"

// childConfig is what a child needs to know.
type childConfig struct {
	Kind    string // childLedger or childBaseline
	URL     string // of the database
	Fold    bool   // runs the projections
	Profile string // file for a processor profile; "" for none
}

const (
	childLedger   = "ledger"
	childBaseline = "baseline"
	childRedis    = "redis" // URL is its address
	childRow      = "row"
	childServer   = "eventstoredb" // the one of the tests
)

func isChild() bool { return os.Getenv(childVariable) != "" }

// child starts a server and returns its address. It is stopped with the scope.
func (b *bench) child(ctx context.Context, c childConfig, name string) (addr string, err error) {
	if b.profiles != "" {
		file, err := filepath.Abs(filepath.Join(b.profiles, strings.ReplaceAll(name, "/", "-")+".pprof"))
		if err != nil {
			return "", err
		}
		c.Profile = file
	}
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(program) // ends with its input, which is ours: it must not be killed before it has closed its files
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stderr = b.progress
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start a server: %w", err)
	}
	b.onClose(func() {
		_ = in.Close()
		impatient := time.AfterFunc(cleanupTimeout, func() { _ = cmd.Process.Kill() })
		defer impatient.Stop()
		_ = cmd.Wait()
	})
	abandon := context.AfterFunc(ctx, func() { _ = in.Close() })
	defer abandon()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the server %q did not start", name)
	}
	return strings.TrimSpace(line), nil
}

// runChild is the whole life of a server. It ends when its standard input does: whatever becomes of the parent, no server
// stays behind. Ctrl-C reaches the whole group and is the parent's to handle.
func runChild() (code int) {
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	var c childConfig
	err := json.Unmarshal([]byte(os.Getenv(childVariable)), &c)
	if err == nil {
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
		err = c.serve(ctx)
		cancel()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		return 1
	}
	return 0
}

// garbage is as in tollgate serve, for our server and for the baselines.
const garbage = 400

func (c childConfig) serve(ctx context.Context) error {
	debug.SetGCPercent(garbage)
	if c.Kind == childServer {
		return serveEventStore(ctx)
	}
	var handler http.Handler
	switch c.Kind {
	case childLedger:
		l, err := openLedger(ctx, c.URL, 0)
		if err != nil {
			return err
		}
		defer l.close()
		if c.Fold {
			if err := l.fold(ctx); err != nil {
				return err
			}
		}
		handler = l.handler()
	case childBaseline:
		committer, err := newCommitter(ctx, c.URL)
		if err != nil {
			return err
		}
		defer committer.close()
		handler = committer.handler()
	case childRedis:
		var done func()
		handler, done = redisHandler(c.URL)
		defer done()
	case childRow:
		rows, err := newRowTable(ctx, c.URL)
		if err != nil {
			return err
		}
		defer rows.pool.Close()
		handler = rows.handler()
	default:
		return fmt.Errorf("no server of kind %q", c.Kind)
	}
	if c.Profile != "" {
		f, err := os.Create(c.Profile)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := api.NewHTTPServer("", handler) // the same time-outs for both
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	fmt.Println(listener.Addr())
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

// handler is the API with all that costs time in production: metrics, keys, the tenant directory.
func (l *ledger) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s := surface{TimelineReader: projections.TimelineReader{Index: l.readModels, Log: l.log}, ledger: l}
	return api.New(api.Config{
		Ledger: l.Ledger, Limits: l.limits, Directory: l.directory, Usage: l.readModels, Timeline: s, Keys: s, Positions: s, Readiness: s,
		Billing:  app.NewBilling(app.BillingConfig{}), // no benchmark makes invoices
		Exports:  app.NewExports(app.ExportsConfig{}), // nor exports
		Costs:    app.NewCosts(l.log, l.directory, time.Now),
		Insights: app.NewInsights(l.readModels, l.directory, app.NewCosts(l.log, l.directory, time.Now), time.Now),
		Registry: registry, Log: slog.New(slog.DiscardHandler), Now: time.Now, Random: rand.Reader,
	})
}

// surface fills the ports that no benchmark calls.
type surface struct {
	projections.TimelineReader
	ledger *ledger
}

func (s surface) Keys(context.Context, int, string) (api.Keys, eventstore.Position, error) {
	return api.Keys{}, eventstore.Position{}, nil
}

func (s surface) Await(ctx context.Context, at eventstore.Position) error {
	return s.ledger.readModels.Await(ctx, projections.Names(), at)
}

func (s surface) Shown(context.Context, event.TenantID) (eventstore.Position, error) {
	return eventstore.Position{}, nil
}

func (s surface) Ready(context.Context) []api.Check { return nil }
