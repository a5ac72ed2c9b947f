package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

var exportRows = flag.Int("export-rows", 200_000, "how many facts the test of the memory of exports has")

// maxExportMemory is what an export may take in bytes, however many rows it has.
const maxExportMemory = 200 << 20

type exportManifest struct {
	Dataset, Format, SHA256, Position string
	TenantID                          *string
	Rows, Bytes                       int
	ControlTotals                     map[string]string
}

// export downloads a data set and checks it against its trailers.
func (p *process) export(key tenant.Secret, query string, to io.Writer) exportManifest {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.url+"/v1/exports/"+query, nil)
	require.NoError(p.t, err)
	r.Header.Set("Authorization", "Bearer "+string(key))
	a, err := http.DefaultClient.Do(r)
	require.NoError(p.t, err)
	defer func() { _ = a.Body.Close() }()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(sum, to), a.Body)
	require.NoError(p.t, err)
	require.Equal(p.t, http.StatusOK, a.StatusCode)
	var m exportManifest
	require.NoError(p.t, json.Unmarshal([]byte(a.Trailer.Get("Tollgate-Export-Manifest")), &m))
	require.Equal(p.t, hex.EncodeToString(sum.Sum(nil)), m.SHA256)
	require.EqualValues(p.t, n, m.Bytes)
	return m
}

// exportFile runs the command and checks the file against its manifest.
func exportFile(t *testing.T, dir, file string, args ...string) ([]byte, exportManifest) {
	t.Helper()
	out, err := run(t, dir, append([]string{"export"}, args...)...)
	require.NoError(t, err, out)
	text, err := os.ReadFile(file + ".manifest.json")
	require.NoError(t, err, out)
	var m exportManifest
	require.NoError(t, json.Unmarshal(text, &m))
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	sum := sha256.Sum256(content)
	require.Equal(t, hex.EncodeToString(sum[:]), m.SHA256)
	require.Len(t, content, m.Bytes)
	require.Contains(t, out, m.SHA256)
	return content, m
}

// column sums up a column of a CSV file for each value of another, and counts the rows.
func column(t *testing.T, file []byte, by, of string) (sums map[string]money.Decimal, rows int) {
	t.Helper()
	records, err := csv.NewReader(bytes.NewReader(file)).ReadAll()
	require.NoError(t, err)
	sums = map[string]money.Decimal{}
	at := func(name string) int {
		for i, c := range records[0] {
			if c == name {
				return i
			}
		}
		t.Fatalf("no column %s", name)
		return 0
	}
	key, value := at(by), at(of)
	for _, record := range records[1:] {
		sums[record[key]] = sums[record[key]].Add(money.MustParse(record[value]))
	}
	return sums, len(records) - 1
}

// Exports over HTTP and from the command line have the same bytes, and their sums agree with the ledger.
func TestExports(t *testing.T) { onEveryStore(t, testExports) }

func testExports(t *testing.T, dir string) {
	catalog := catalogFile(t, pricesCatalog)
	p := serveCatalog(t, dir, catalog, "TOLLGATE_ISSUER=Acme GmbH")
	key := p.serviceKey()
	totals := map[string]string{}
	var last struct{ Position string }
	for i, id := range []string{"acme", "other"} {
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id, adminKey, map[string]any{"name": "Name of " + id, "timeZone": "Europe/Berlin", "currency": "EUR"}, nil))
		require.NoError(t, call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id+"/plan", adminKey, map[string]any{"plan": "pro", "effectiveAt": "2026-01-30T23:00:00Z"}, nil))
		require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/admin/tenants/"+id+"/credits", adminKey, map[string]any{"grantId": "welcome", "amount": "93.00", "kind": "promotional"}, nil))
		for n := range 10 * (i + 1) {
			require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events", key, id, map[string]any{"eventType": "interview", "sourceId": fmt.Sprint("=call", n), "quantity": "0.7",
				"occurredAt": "2026-02-01T08:00:00Z", "data": map[string]any{"model": "small, \"new\"", "outputTokens": n}}, nil))
		}
		require.NoError(t, callAs(t.Context(), http.MethodPost, p.url+"/v1/events/interview/=call1/adjust", key, id, map[string]any{"quantity": 3, "reason": "a test"}, &last))
		require.NoError(t, callAs(t.Context(), http.MethodGet, p.url+"/v1/usage?waitMs=20000&minPosition="+last.Position, key, id, nil, nil))
		for {
			var inv invoice
			if err := call(t.Context(), http.MethodPost, p.url+"/v1/admin/tenants/"+id+"/invoices/close", adminKey, map[string]any{}, &inv); err != nil {
				require.ErrorContains(t, err, "not_due")
				break
			}
			totals[inv.Number] = inv.Total.Amount
			if inv.PeriodEnd == "2026-02-27T23:00:00.000Z" {
				require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/admin/invoices/"+inv.ID+"/void", adminKey, map[string]any{"reason": "a test", "rebill": true}, &inv))
				totals[inv.CreditNote.Number] = "-" + inv.Total.Amount
			}
		}
	}

	folder := t.TempDir()
	for _, c := range []struct{ dataset, format, by, of string }{
		{"usage", "csv", "eventType", "quantity"}, {"usage", "jsonl", "", ""}, {"usage", "parquet", "", ""},
		{"invoices", "csv", "currency", "amount"}, {"journal", "csv", "currency", "amount"}, {"focus", "csv", "BillingCurrency", "BilledCost"},
	} {
		// The command waits until everything that was recorded can be read.
		file, fromFile := exportFile(t, dir, filepath.Join(folder, "tollgate-"+c.dataset+"."+c.format), c.dataset, "--format", c.format, "-o", folder)
		var streamed bytes.Buffer
		m := p.export(adminKey, c.dataset+"?format="+c.format, &streamed)
		if c.format != "parquet" && c.dataset != "focus" { // the command has no issuer's name
			require.Equal(t, streamed.String(), string(file))
			require.Equal(t, m, fromFile)
		}
		if c.by == "" {
			continue
		}
		sums, rows := column(t, file, c.by, c.of)
		require.Equal(t, m.Rows, rows)
		require.Len(t, m.ControlTotals, len(sums))
		for by, sum := range sums {
			require.Equal(t, m.ControlTotals[by], sum.String())
		}
	}

	var file bytes.Buffer
	m := p.export(key, "usage?tenantId=other", &file)
	require.Equal(t, 21, m.Rows)
	require.Equal(t, map[string]string{"interview": "16.3"}, m.ControlTotals) // 20 * 0.7 + 2.3
	require.NotContains(t, file.String(), "acme")

	file.Reset()
	p.export(adminKey, "focus", &file)
	require.Contains(t, file.String(), "Acme GmbH")
	sums, _ := column(t, file.Bytes(), "InvoiceId", "BilledCost")
	require.Len(t, sums, len(totals))
	for number, total := range totals {
		require.True(t, money.MustParse(total).Equal(sums[number]), "%s: %s", number, sums[number])
	}

	file.Reset()
	p.export(adminKey, "invoices", &file)
	require.Contains(t, file.String(), ",Credit: welcome,")
	sums, _ = column(t, file.Bytes(), "number", "amount")
	for number := range sums {
		require.True(t, money.MustParse(totals[number]).Equal(sums[number]), "%s: %s", number, sums[number])
	}

	// The balance of the receivables is the sum of all documents.
	file.Reset()
	p.export(adminKey, "journal", &file)
	debits, _ := column(t, file.Bytes(), "debit", "amount")
	credits, _ := column(t, file.Bytes(), "credit", "amount")
	owed := money.Decimal{}
	for _, total := range totals {
		owed = owed.Add(money.MustParse(total))
	}
	require.True(t, debits["receivable"].Sub(credits["receivable"]).Equal(owed))

	// A failed export leaves no file.
	_, err := run(t, dir, "export", "usage", "--tenant", "nobody", "-o", filepath.Join(folder, "nobody.csv"))
	require.Error(t, err)
	left, err := filepath.Glob(filepath.Join(folder, "*nobody*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// peak is the most memory that a process has used, in bytes.
func peak(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(text), "VmHWM:")
	require.True(t, ok)
	kilobytes, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return kilobytes << 10
}

// raced is whether the tests are built with the race detector.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// An export takes a bounded amount of memory, however many rows it has: the whole command, and what a server takes in addition.
func TestExportMemory(t *testing.T) {
	if raced() {
		t.Skip("the race detector, which is in the program as well, takes memory of its own")
	}
	dir := dataFolder(t)
	p := serve(t, dir)
	p.putTenant("acme")
	trace := filepath.Join(t.TempDir(), "trace.csv")
	f, err := os.Create(trace)
	require.NoError(t, err)
	w := bufio.NewWriter(f)
	_, _ = fmt.Fprintln(w, "TIMESTAMP,in,out,model,feature,user")
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for n := range *exportRows {
		_, _ = fmt.Fprintf(w, "%s,%d,%d,gpt-4.1,interview,user %d\n", start.Add(time.Duration(n)*time.Second/10).Format(time.RFC3339Nano), n%4000, n%300, n%5000)
	}
	require.NoError(t, w.Flush())
	require.NoError(t, f.Close())
	importing, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(importing, binary, "import", trace, "--tenant", "acme", "--event-type", "tokens_spent", "--quantity", "1+in+out",
		"--map", "occurredAt=TIMESTAMP,data.inputTokens=in,data.outputTokens=out,data.model=model,data.feature=feature,data.userId=user")
	cmd.Env = environment(dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)

	folder := t.TempDir()
	for _, format := range []string{"csv", "jsonl", "parquet"} {
		cmd := exec.CommandContext(importing, binary, "export", "usage", "--format", format, "-o", folder)
		cmd.Env = environment(dir)
		started := time.Now()
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		took := time.Since(started)
		most := int(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) << 10
		require.Less(t, most, maxExportMemory, "tollgate export as %s", format)

		before := peak(t, p.cmd.Process.Pid)
		m := p.export(adminKey, "usage?format="+format, io.Discard)
		require.Equal(t, *exportRows, m.Rows)
		after := peak(t, p.cmd.Process.Pid)
		require.Less(t, after-before, maxExportMemory, "the server as %s", format)
		t.Logf("%d rows, %s: %d MB in %.1f s; the command's peak is %d MB in all, the server's went from %d to %d MB",
			m.Rows, format, m.Bytes>>20, took.Seconds(), most>>20, before>>20, after>>20)
	}
}
