package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
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

	"github.com/tollgate-io/tollgate/api"
)

// The servers under load are processes of their own, as in production: this program again, with childVariable in its environment.
const childVariable = "TOLLGATE_BENCH_CHILD"

// childConfig says what a child serves.
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
	cmd := exec.Command(program) // ends with its input, which we close: it must not be killed before it has closed its files
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
		kill := time.AfterFunc(cleanupTimeout, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
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

// runChild is the whole life of a server. It ends with its standard input, so no server outlives its parent. Ctrl-C reaches the
// whole process group; the parent handles it.
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

// gcPercent is as in tollgate serve, for our server and for the baselines.
const gcPercent = 400

func (c childConfig) serve(ctx context.Context) error {
	debug.SetGCPercent(gcPercent)
	if c.Kind == childServer {
		return serveEventStore(ctx)
	}
	var handler http.Handler
	switch c.Kind {
	case childLedger:
		s, err := openStack(ctx, c.URL, 0)
		if err != nil {
			return err
		}
		defer s.Close()
		if c.Fold {
			if err := s.Fold(ctx); err != nil {
				return err
			}
		}
		s.Background(ctx, s.KeyUses.Run)
		handler = api.New(s.API())
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
