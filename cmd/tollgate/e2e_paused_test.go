package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/tenant"
)

const pausedCatalog = `
meters:
  - {key: calls, eventType: call, aggregation: sum}
plans:
  - key: pro
    currency: USD
    limits: [{key: calls_per_day, kind: quota, meter: calls, max: 1000, window: day, onError: allow}]
`

// pausePostgres stops every process of the private Postgres, as a machine that swaps or a disk that hangs does.
func pausePostgres(t *testing.T, dir string) (resume func()) {
	t.Helper()
	postmaster := postmasterPID(dir)
	require.Positive(t, postmaster)
	var paused []int
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		_, after, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(after)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if pid == postmaster || len(fields) > 1 && fields[1] == strconv.Itoa(postmaster) {
			paused = append(paused, pid)
		}
	}
	for _, pid := range paused {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	resume = func() {
		for _, pid := range paused {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	t.Cleanup(resume)
	return resume
}

// While Postgres hangs, a check and an event are answered within their bounds, whatever is known: with a policy that is known the
// limits decide, although somebody changed something unrelated a moment ago.
func TestAHangingPostgresCostsNoMoreThanTheBounds(t *testing.T) {
	dir := t.TempDir()
	const checks, events, noise = time.Second, 2 * time.Second, 700 * time.Millisecond // of a loaded machine
	p := serveCatalog(t, dir, catalogFile(t, pausedCatalog), "TOLLGATE_DATABASE_URL=", "TOLLGATE_EVENT_STORE=postgres",
		"TOLLGATE_CHECK_TIMEOUT="+checks.String(), "TOLLGATE_EVENT_TIMEOUT="+events.String())
	p.putTenant("acme")
	p.putTenant("never_asked")
	require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/acme/plan", adminKey, map[string]any{"plan": "pro"}, nil))
	key := p.serviceKey()
	post := func(path, of string, key tenant.Secret, body string, within time.Duration) (status int, degraded bool) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+path, strings.NewReader(body))
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+string(key))
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("X-Tenant-Id", of)
		began := time.Now()
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.Less(t, time.Since(began), within+200*time.Millisecond+noise, "%s: %s", path, text)
		var answer struct{ Degraded bool }
		_ = json.NewDecoder(bytes.NewReader(text)).Decode(&answer)
		return response.StatusCode, answer.Degraded
	}
	check := func(of string, key tenant.Secret, source string) (status int, degraded bool) {
		t.Helper()
		return post("/v1/limits/check", of, key, `{"eventType":"call","sourceId":"`+source+`"}`, checks)
	}
	status, degraded := check("acme", key, "a")
	require.Equal(t, http.StatusOK, status)
	require.False(t, degraded)

	p.putTenant("unrelated") // what is known of acme is old now
	resume := pausePostgres(t, dir)
	for _, source := range []string{"b", "c"} {
		status, degraded = check("acme", key, source)
		require.Equal(t, http.StatusOK, status)
		require.True(t, degraded)
	}
	event := `{"eventType":"call","sourceId":"b","occurredAt":"` + time.Now().UTC().Format(time.RFC3339) + `"}`
	status, _ = post("/v1/events", "acme", key, event, events)
	require.Equal(t, http.StatusServiceUnavailable, status)
	status, _ = check("never_asked", key, "d")
	require.Equal(t, http.StatusServiceUnavailable, status, "its limits are not known")
	status, _ = check("acme", "tg_service_unknown", "e")
	require.Equal(t, http.StatusServiceUnavailable, status, "nobody knows whether there is such a key")
	status, _ = post("/v1/events", "acme", "tg_service_unknown", event, events)
	require.Equal(t, http.StatusServiceUnavailable, status)

	resume()
	require.Eventually(t, func() bool {
		status, degraded := check("acme", key, "f")
		return status == http.StatusOK && !degraded
	}, time.Minute, 50*time.Millisecond)
	require.Eventually(t, func() bool { // what was answered meanwhile is on the log, too
		var holds struct{ Items []struct{ SourceID string } }
		p.get(key, "/v1/holds", &holds)
		return slices.ContainsFunc(holds.Items, func(h struct{ SourceID string }) bool { return h.SourceID == "c" })
	}, time.Minute, 50*time.Millisecond)
}
