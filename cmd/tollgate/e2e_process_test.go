package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/pgserver"
	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/migrations"
	"github.com/tollgate-io/tollgate/scripts/sample"
)

// These tests run the program as its users do, in processes of its own. The test binary is the program too, when asProgram is
// in its environment: nothing else has to be built or copied.
const asProgram = "TOLLGATE_TEST_AS_PROGRAM"

// untilStdinEnds in the environment of a server ends it when its standard input does, which is a pipe from the test process. A
// test process that is killed or runs out of time calls no cleanups; without this its servers would stay behind.
const untilStdinEnds = "TOLLGATE_TEST_UNTIL_STDIN_ENDS"

// binary is the program under test.
var binary string

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		if os.Getenv(untilStdinEnds) != "" {
			go endWithStdin()
		}
		main() // before the arguments are parsed, which are the program's
		os.Exit(0)
	}
	var err error
	if binary, err = os.Executable(); err != nil {
		panic(err)
	}
	// Many clients of one server keep as many connections.
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 64
	os.Exit(pgtest.Run(m, migrations.Up))
}

// endWithStdin interrupts this process when its standard input ends, and kills it when it has not stopped after a minute.
func endWithStdin() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = syscall.Kill(os.Getpid(), syscall.SIGINT)
	<-time.After(time.Minute)
	os.Exit(1)
}

// adminKey is the operator's own in all tests.
const adminKey = tenant.Secret("tg_admin_for_tests_only_0123456789")

// process is a running tollgate.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	url   string
	out   *strings.Builder
	done  chan struct{} // closed when the process has ended, with err
	err   error
}

func environment(dir string, more ...string) []string {
	env := append(os.Environ(), asProgram+"=1", "TOLLGATE_DATA_DIR="+dir, "TOLLGATE_ADMIN_KEY="+string(adminKey), "TOLLGATE_LOG_LEVEL=warn", "TOLLGATE_BILLING_EVERY=0",
		"TOLLGATE_DATABASE_URL="+databaseOf(dir), "TOLLGATE_EVENT_STORE="+eventStoreOf(dir))
	return append(env, more...)
}

var listens = regexp.MustCompile(`listens on (http://\S+)`)

// serve starts a server with the sample catalog and waits until it prints its address.
func serve(t *testing.T, dir string, more ...string) *process {
	t.Helper()
	return serveCatalog(t, dir, sampleCatalog(t), more...)
}

// sampleCatalog is a file with the sample catalog.
func sampleCatalog(t *testing.T) string {
	t.Helper()
	return catalogFile(t, string(sample.Catalog))
}

// catalogFile is a file with a catalog.
func catalogFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "catalog.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func serveCatalog(t *testing.T, dir, catalog string, more ...string) *process {
	t.Helper()
	p := &process{t: t, out: &strings.Builder{}, done: make(chan struct{})}
	p.cmd = exec.Command(binary, "serve", "--addr", "127.0.0.1:0", "--catalog", catalog)
	p.cmd.Env = environment(dir, append(more, untilStdinEnds+"=1")...)
	p.cmd.Stderr = os.Stderr
	var err error
	p.stdin, err = p.cmd.StdinPipe() // open as long as this process lives; Wait closes it
	require.NoError(t, err)
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(p.kill)
	found := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			_, _ = fmt.Fprintln(p.out, lines.Text())
			if m := listens.FindStringSubmatch(lines.Text()); m != nil {
				found <- m[1]
			}
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	select {
	case p.url = <-found:
	case <-p.done:
		t.Fatalf("tollgate serve ended: %v\n%s", p.err, p.out)
	case <-time.After(2 * time.Minute):
		t.Fatal("tollgate serve does not start")
	}
	return p
}

// A server does not outlive the process that tests it, however that ends.
func TestServerEndsWithItsTest(t *testing.T) {
	onEveryStore(t, func(t *testing.T, dir string) {
		p := serveCatalog(t, dir, sampleCatalog(t))
		require.NoError(t, p.stdin.Close()) // as the kernel does for a process that is gone
		select {
		case <-p.done:
			require.NoError(t, p.err)
		case <-time.After(time.Minute):
			t.Fatal("the server goes on")
		}
	})
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// killAll kills the server and the Postgres of its folder at once, as a power cut does.
func (p *process) killAll(dir string) {
	_ = p.cmd.Process.Kill()
	if pid := postmasterPID(dir); pid > 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.done
}

func postmasterPID(dir string) int {
	text, err := os.ReadFile(filepath.Join(dir, "postgres", "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, _ := strconv.Atoi(strings.TrimSpace(first))
	return pid
}

// interrupt sends Ctrl-C; the server must end by itself and without an error.
func (p *process) interrupt() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(os.Interrupt))
	select {
	case <-p.done:
		require.NoError(p.t, p.err)
	case <-time.After(time.Minute):
		p.t.Fatal("tollgate serve does not stop")
	}
}

// run runs a command to its end and returns what it printed.
func run(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = environment(dir)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, io.Discard
	err := cmd.Run()
	return out.String(), err
}

func (p *process) putTenant(id string) {
	p.t.Helper()
	require.NoError(p.t, call(p.t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id, adminKey, map[string]any{}, nil))
}

func (p *process) serviceKey() tenant.Secret {
	p.t.Helper()
	var made struct{ Key tenant.Secret }
	require.NoError(p.t, call(p.t.Context(), http.MethodPost, p.url+"/v1/admin/keys", adminKey, map[string]any{"kind": "service", "name": "test"}, &made))
	return made.Key
}

// usageTotal is the total of a meter for a tenant over all time, once the reads show the position.
func (p *process) usageTotal(key tenant.Secret, of, meter, position string) (total string, events int) {
	p.t.Helper()
	var answer struct {
		Items []struct {
			Events int `json:"events"`
		} `json:"items"`
		Total json64 `json:"total"`
	}
	q := url.Values{"meter": {meter}, "from": {"2023-01-01T00:00:00Z"}, "to": {"2027-01-01T00:00:00Z"}, "granularity": {"month"}}
	if position != "" {
		q.Set("minPosition", position)
		q.Set("waitMs", "30000")
	}
	require.NoError(p.t, callAs(p.t.Context(), http.MethodGet, p.url+"/v1/usage?"+q.Encode(), key, of, nil, &answer))
	for _, i := range answer.Items {
		events += i.Events
	}
	return string(answer.Total), events
}

// json64 keeps a JSON number as it was written.
type json64 string

func (j *json64) UnmarshalJSON(b []byte) error {
	*j = json64(b)
	return nil
}

// pgserverURL is the address of the folder's database, for a second server on it.
func pgserverURL(t *testing.T, dir string) (string, error) {
	t.Helper()
	if database := databaseOf(dir); database != "" {
		return database, nil
	}
	server, err := pgserver.Attach(t.Context(), dir)
	if err != nil {
		return "", err
	}
	return server.URL(), nil
}

// messageOf runs a command that must fail, and returns what it printed.
func messageOf(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = environment(dir)
	out, err := cmd.CombinedOutput()
	require.Error(t, err, string(out))
	return string(out)
}
