package main

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
)

// The adapter's own tests check the contract and the rules. They are checked here too when a server is named, so that one test
// binary is enough for it.
func TestNamedServerKeepsTheContract(t *testing.T) {
	namedServer(t)
	esdbtest.Contract(t)
}

func TestNamedServerKeepsItsRules(t *testing.T) { esdbtest.Conformance(t, namedServer(t)) }

func namedServer(t *testing.T) string {
	t.Helper()
	url := os.Getenv(esdbtest.Variable)
	if url == "" {
		t.Skipf("%s names no server; without one this is tested in adapters/eventstoredb", esdbtest.Variable)
	}
	return url
}

// page reads a page of a running server.
func (p *process) page(path string) (status int, body string) {
	p.t.Helper()
	resp, err := http.Get(p.url + path)
	require.NoError(p.t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	require.NoError(p.t, err)
	return resp.StatusCode, string(b)
}

// While the log is unreachable, /readyz and the metrics say so; once it is back, the server works again.
func TestLogUnreachable(t *testing.T) {
	dir, cluster := dataFolder(t), esdbtest.New(t, 1)
	eventStores.Store(dir, cluster.URL()+"&discoveryInterval=10")
	p := serve(t, dir)
	p.putTenant("acme")
	status, body := p.page("/readyz")
	require.Equal(t, http.StatusOK, status, body)
	_, metrics := p.page("/metrics")
	require.Contains(t, metrics, "tollgate_eventstore_up 1")

	cluster.Nodes[0].Stop()
	status, body = p.page("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status, body)
	require.Contains(t, body, "the log is not reachable")
	_, metrics = p.page("/metrics")
	require.Contains(t, metrics, "tollgate_eventstore_up 0")
	require.Contains(t, metrics, "tollgate_store_up 0")

	require.NoError(t, cluster.Nodes[0].Start())
	p.putTenant("globex") // answered when the log is back
	for status != http.StatusOK {
		status, body = p.page("/readyz")
		require.NoError(t, t.Context().Err(), body)
	}
}

// The URL is checked before anything starts, and messages do not show its credentials.
func TestEventStoreURLs(t *testing.T) {
	for url, why := range map[string]string{
		"esdb://admin:secret@localhost:2113?tls=false":      "credentials are not sent over plain text",
		"kurrentdb://admin:secret@localhost:2113":           "neither postgres nor the URL of an EventStoreDB",
		"esdb://admin:secret@localhost:2113?connection=yes": "no setting connection",
	} {
		dir := dataFolder(t)
		eventStores.Store(dir, url)
		said := messageOf(t, dir, "serve", "--addr", "127.0.0.1:0")
		require.Contains(t, said, why)
		require.NotContains(t, said, "secret")
	}
}

// Read models of one log are never continued from another.
func TestReadModelsOfAnotherLog(t *testing.T) {
	dir, cluster := dataFolder(t), esdbtest.New(t, 1)
	eventStores.Delete(dir)
	apply := []string{"apply", "-f", sampleCatalog(t)}
	out, err := run(t, dir, apply...)
	require.NoError(t, err, out)
	eventStores.Store(dir, cluster.URL())
	require.Contains(t, messageOf(t, dir, apply...), "it has a log of its own")

	other := dataFolder(t)
	eventStores.Store(other, cluster.URL())
	out, err = run(t, other, apply...)
	require.NoError(t, err, out)
	eventStores.Delete(other)
	require.Contains(t, messageOf(t, other, apply...), "it never had a log of its own")
	require.Positive(t, cluster.Events("tollgate-catalog"), strings.Join(apply, " "))
}
