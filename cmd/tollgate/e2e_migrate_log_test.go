package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

const movedCatalog = `
meters:
  - {key: input_tokens, eventType: tokens_spent, value: data.inputTokens, aggregation: sum}
  - {key: interviews, eventType: interview, aggregation: sum}
plans:
  - key: pro
    currency: EUR
    limits: [{key: interviews_per_cycle, kind: quota, meter: interviews, max: 100, window: billing_cycle, holdTTL: 1h}]
    prices:
      - {key: interviews, model: per_unit, meter: interviews, unit: "1.00"}
      - {key: base, model: flat, amount: "10.00"}
`

// position matches what differs between a log and its copy.
var position = regexp.MustCompile(`"position": ?"\d+-\d+"`)

// portrait is everything that the API answers about a tenant, without positions.
func (p *process) portrait(key tenant.Secret, of string) string {
	p.t.Helper()
	var b strings.Builder
	get := func(path string) (answer json.RawMessage) {
		p.t.Helper()
		require.NoError(p.t, callAs(p.t.Context(), http.MethodGet, p.url+path, key, of, nil, &answer))
		b.WriteString(path + " " + position.ReplaceAllString(string(answer), `"position":"?"`) + "\n")
		return answer
	}
	var invoices struct {
		Items []struct {
			ID    string
			Lines []json.RawMessage
		}
	}
	require.NoError(p.t, json.Unmarshal(get("/v1/invoices"), &invoices))
	for _, inv := range invoices.Items {
		get("/v1/invoices/" + inv.ID)
		for line := range inv.Lines {
			get(fmt.Sprintf("/v1/invoices/%s/events?line=%d&limit=100", inv.ID, line))
		}
	}
	get("/v1/timeline?limit=100")
	get("/v1/holds")
	get("/v1/usage?" + url.Values{"meter": {"interviews"}, "from": {"2026-01-01T00:00:00Z"}, "to": {"2027-01-01T00:00:00Z"}, "granularity": {"day"}}.Encode())
	return b.String()
}

// A log is copied from Postgres to an EventStoreDB and back, while the command is killed again and again. Invoices, their
// events, holds and usage stay the same; a repeated event is a duplicate; and the ledger records new events.
func TestMigrateLog(t *testing.T) {
	const rows = 12_000
	dir, catalog := dataFolder(t), filepath.Join(t.TempDir(), "catalog.yaml")
	eventStores.Delete(dir)
	require.NoError(t, os.WriteFile(catalog, []byte(movedCatalog), 0o600))
	p := serveCatalog(t, dir, catalog)
	key := p.serviceKey()
	file, input, _ := trace(t, rows)
	for _, id := range []string{"acme", "imported"} {
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id, adminKey, map[string]any{"currency": "EUR"}, nil))
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id+"/plan", adminKey, map[string]any{"plan": "pro", "effectiveAt": "2026-01-01T00:00:00Z"}, nil))
	}
	use := func(p *process, source, at string) (status string) {
		t.Helper()
		var answer struct{ Status string }
		require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events", key, "acme", map[string]any{"eventType": "interview", "sourceId": source, "occurredAt": at}, &answer))
		return answer.Status
	}
	closes := func(p *process, end string) {
		t.Helper()
		require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/admin/tenants/acme/invoices/close", adminKey, map[string]any{"periodEnd": end}, nil))
	}
	// settled waits until the read models show everything.
	settled := func(p *process) {
		t.Helper()
		require.Eventually(t, func() bool {
			total, _ := p.usageTotal(key, "imported", "input_tokens", "")
			var newest struct{ Items []struct{ SourceID string } }
			require.NoError(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/timeline?limit=1", key, "acme", nil, &newest))
			return total == fmt.Sprint(input) && newest.Items[0].SourceID == "held"
		}, time.Minute, 20*time.Millisecond)
	}
	for i := range 5 {
		use(p, fmt.Sprint("january-", i), "2026-01-15T12:00:00Z")
	}
	closes(p, "2026-02-01T00:00:00Z")
	use(p, "late", "2026-01-20T12:00:00Z")
	use(p, "later", "2026-01-21T12:00:00Z")
	use(p, "february", "2026-02-20T12:00:00Z")
	out, err := run(t, dir, importArgs(file, "imported")...)
	require.NoError(t, err, out)
	require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events/interview/january-1/void", key, "acme", map[string]any{"reason": "a test"}, nil))
	closes(p, "2026-03-01T00:00:00Z")
	use(p, "march", "2026-03-20T12:00:00Z")
	require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/limits/check", key, "acme", map[string]any{"eventType": "interview", "sourceId": "held", "quantity": 2}, nil))
	settled(p)
	want := p.portrait(key, "acme")
	p.interrupt()

	migrate := func(from, to string) string {
		t.Helper()
		random := rand.New(rand.NewPCG(1, 1))
		for range *torture {
			cmd := exec.Command(binary, "migrate-log", from, to)
			cmd.Env = environment(dir)
			require.NoError(t, cmd.Start())
			time.Sleep(time.Duration(500+random.IntN(1500)) * time.Millisecond)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		out, err := run(t, dir, "migrate-log", from, to)
		require.NoError(t, err, out)
		require.Contains(t, out, "the copy is equal to the log")
		return regexp.MustCompile(`sha256 +(\S+)`).FindStringSubmatch(out)[1]
	}
	database := func(dir string) string {
		url, err := pgserverURL(t, dir)
		require.NoError(t, err)
		return url
	}
	there := dataFolder(t)
	eventStores.Store(there, esdbtest.URL(t))
	digest := migrate(database(dir), eventStoreOf(there))
	p = serveCatalog(t, there, catalog)
	settled(p)
	require.Equal(t, want, p.portrait(key, "acme"))
	require.Equal(t, "duplicate", use(p, "late", "2026-01-20T12:00:00Z"))
	p.interrupt()

	back := dataFolder(t)
	eventStores.Delete(back)
	require.Equal(t, digest, migrate(eventStoreOf(there), database(back)))
	p = serveCatalog(t, back, catalog)
	settled(p)
	require.Equal(t, want, p.portrait(key, "acme"))
	require.Equal(t, "duplicate", use(p, "late", "2026-01-20T12:00:00Z"))
	require.Equal(t, "recorded", use(p, "april", "2026-04-20T12:00:00Z"))
	closes(p, "2026-04-01T00:00:00Z")
	out, err = run(t, back, "verify")
	require.NoError(t, err, out)

	// The copy has events of its own now, so the command refuses to overwrite it.
	require.Contains(t, messageOf(t, dir, "migrate-log", eventStoreOf(there), database(back)), "not a copy")
}

func TestMigrateLogRefusals(t *testing.T) {
	dir, beside, cluster := installation(t), installation(t), esdbtest.New(t, 1)
	empty := t.TempDir()
	for _, c := range []struct{ from, to, says string }{
		{dir, dir, "both ends are the same"},
		{filepath.Join(dir, "nowhere"), dir, "there is no log"},
		{empty, cluster.URL(), "there is no log"},
		{cluster.URL(), "kurrentdb://admin:secret@localhost:2113", "neither a postgres:// nor an esdb:// URL"},
		{cluster.URL(), "esdb://admin:secret@localhost:2113?tls=false", "credentials are not sent over plain text"},
		{"postgres://admin:secret@127.0.0.1:1/x", cluster.URL(), "refused"},
		{cluster.URL() + "&streamPrefix=mistyped-", dir, "there is no log"},
	} {
		said := messageOf(t, dir, "migrate-log", c.from, c.to)
		require.Contains(t, said, c.says)
		require.NotContains(t, said, "secret")
	}
	left, err := os.ReadDir(empty)
	require.NoError(t, err)
	require.Empty(t, left, "no database is created just to find that there is no log")
	if databaseOf(beside) != "" { // a named Postgres is not a data folder
		return
	}
	// A folder with read models, whose log is in an EventStoreDB.
	eventStores.Store(beside, cluster.URL())
	out, err := run(t, beside, "apply", "-f", sampleCatalog(t))
	require.NoError(t, err, out)
	require.Contains(t, messageOf(t, dir, "migrate-log", cluster.URL(), beside), "of another log")
	require.Contains(t, messageOf(t, dir, "migrate-log", beside, cluster.URL()), "there is no log")
	// An empty folder.
	out, err = run(t, dir, "migrate-log", cluster.URL(), dir)
	require.NoError(t, err, out)
	require.Contains(t, out, "the copy is equal to the log")
}
