package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var torture = flag.Int("torture", 2, "how many rounds the torture tests have; more than 2: their long form")

// trace writes a CSV of model calls and returns the sums of its columns.
func trace(t *testing.T, rows int) (file string, input, output int) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	b.WriteString("TIMESTAMP,ContextTokens,GeneratedTokens\n")
	at := time.Date(2023, 11, 16, 18, 15, 46, 680_590_000, time.UTC)
	for range rows {
		in, out := 1+random.IntN(4000), 1+random.IntN(500)
		at = at.Add(time.Duration(random.IntN(400)) * time.Millisecond)
		_, _ = fmt.Fprintf(&b, "%s,%d,%d\n", at.Format("2006-01-02 15:04:05.0000000"), in, out)
		input, output = input+in, output+out
	}
	file = filepath.Join(t.TempDir(), "trace.csv")
	require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o600))
	return file, input, output
}

func importArgs(file, tenant string, more ...string) []string {
	return append([]string{"import", file, "--tenant", tenant, "--event-type", "tokens_spent", "--source-id", "{file}-{line}",
		"--map", "occurredAt=TIMESTAMP,data.inputTokens=ContextTokens,data.outputTokens=GeneratedTokens",
		"--quantity", "ContextTokens+GeneratedTokens"}, more...)
}

var counted = regexp.MustCompile(`(\d+) (recorded|duplicates|conflicts|rejected)`)

// summary reads what an import printed.
func summary(t *testing.T, out string) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, m := range counted.FindAllStringSubmatch(out, -1) {
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		counts[m[2]] = n
	}
	require.Len(t, counts, 4, out)
	return counts
}

func TestDataSurvivesARestart(t *testing.T) {
	onEveryStoreIn(t, installation, testDataSurvivesARestart)
}

func testDataSurvivesARestart(t *testing.T, dir string) {
	p := serve(t, dir)
	p.putTenant("acme")
	file, input, output := trace(t, 3000)
	out, err := run(t, dir, importArgs(file, "acme")...)
	require.NoError(t, err, out)
	require.Equal(t, map[string]int{"recorded": 3000, "duplicates": 0, "conflicts": 0, "rejected": 0}, summary(t, out))

	out, err = run(t, dir, importArgs(file, "acme")...)
	require.NoError(t, err, out)
	require.Equal(t, map[string]int{"recorded": 0, "duplicates": 3000, "conflicts": 0, "rejected": 0}, summary(t, out))
	p.interrupt()

	p = serve(t, dir)
	key := p.serviceKey()
	out, err = run(t, dir, "verify")
	require.NoError(t, err, out)
	total, events := p.usageTotal(key, "acme", "input_tokens", "")
	require.Equal(t, strconv.Itoa(input), total)
	require.Equal(t, 3000, events)
	total, _ = p.usageTotal(key, "acme", "output_tokens", "")
	require.Equal(t, strconv.Itoa(output), total)
}

// A power cut at any moment of an import loses nothing: what was acknowledged is recorded, and running the import again completes
// it.
func TestTortureOfAnImport(t *testing.T) {
	if *torture > 2 { // the long run
		onEveryStoreIn(t, installation, testTortureOfAnImport)
		return
	}
	testTortureOfAnImport(t, installation(t))
}

func testTortureOfAnImport(t *testing.T, dir string) {
	const rows = 20_000
	file, input, output := trace(t, rows)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	p := serve(t, dir)
	p.putTenant("acme")
	for n := range *torture {
		ended := make(chan string, 1)
		go func() {
			out, _ := run(t, dir, importArgs(file, "acme", "--wait", "500ms")...)
			ended <- out
		}()
		cut := time.NewTimer(time.Duration(200+random.IntN(1500)) * time.Millisecond)
		select {
		case <-cut.C:
			p.killAll(dir)
			t.Logf("cut %d: %q", n, <-ended)
		case out := <-ended:
			t.Logf("cut %d came after the end: %q", n, out)
			p.killAll(dir)
		}
		p = serve(t, dir)
	}
	out, err := run(t, dir, importArgs(file, "acme")...)
	require.NoError(t, err, out)
	counts := summary(t, out)
	require.Equal(t, rows, counts["recorded"]+counts["duplicates"], out)

	out, err = run(t, dir, importArgs(file, "acme")...)
	require.NoError(t, err, out)
	require.Equal(t, map[string]int{"recorded": 0, "duplicates": rows, "conflicts": 0, "rejected": 0}, summary(t, out))
	out, err = run(t, dir, "verify")
	require.NoError(t, err, out)

	key := p.serviceKey()
	total, events := p.usageTotal(key, "acme", "input_tokens", "")
	require.Equal(t, strconv.Itoa(input), total)
	require.Equal(t, rows, events)
	total, _ = p.usageTotal(key, "acme", "output_tokens", "")
	require.Equal(t, strconv.Itoa(output), total)
}

// 32 clients post the same events in random order, some with a changed payload, to two servers on one database. Each identity is
// recorded once; each payload that differs from the recorded one is answered 409.
func TestManyClientsOneTruth(t *testing.T) { onEveryStore(t, testManyClientsOneTruth) }

func testManyClientsOneTruth(t *testing.T, dir string) {
	const clients = 32
	identities := fewer(dir, 1000)
	first := serve(t, dir)
	first.putTenant("acme")
	key := first.serviceKey()
	server, err := pgserverURL(t, dir)
	require.NoError(t, err)
	second := serve(t, dir, "TOLLGATE_DATABASE_URL="+server)

	var (
		mu        sync.Mutex
		recorded  = map[string]int{} // sourceId -> the quantity that won
		positions = map[string]string{}
		last      string
		wg        sync.WaitGroup
	)
	for c := range clients {
		wg.Go(func() {
			base := []string{first.url, second.url}[c%2]
			random := rand.New(rand.NewPCG(uint64(c), 7))
			for _, i := range random.Perm(identities) {
				quantity := 1
				if random.IntN(4) == 0 {
					quantity = 2 + random.IntN(3)
				}
				id := fmt.Sprintf("call_%d", i)
				var answer struct{ Status, Position string }
				err := call(t.Context(), http.MethodPost, base+"/v1/events", key, map[string]any{"tenantId": "acme", "eventType": "tokens_spent",
					"quantity": quantity, "sourceId": id, "occurredAt": "2026-04-05T10:30:00Z"}, &answer)
				mu.Lock()
				won, known := recorded[id]
				switch {
				case err == nil && answer.Status == "recorded":
					if known {
						t.Errorf("%s was recorded twice", id)
					}
					recorded[id], positions[id], last = quantity, answer.Position, answer.Position
				case err == nil && answer.Status == "duplicate":
					if known && (won != quantity || positions[id] != answer.Position) {
						t.Errorf("%s: quantity %d at %s is called a duplicate of %d at %s", id, quantity, answer.Position, won, positions[id])
					}
				case err != nil && strings.Contains(err.Error(), "source_conflict"):
					if known && won == quantity {
						t.Errorf("%s: the recorded payload is called a conflict", id)
					}
				default:
					t.Errorf("%s: %v %+v", id, err, answer)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, recorded, identities)
	sum := 0
	for _, q := range recorded {
		sum += q
	}
	for _, p := range []*process{first, second} {
		total, events := p.usageTotal(key, "acme", "tokens", last)
		require.Equal(t, strconv.Itoa(sum), total)
		require.Equal(t, identities, events)
	}
}

// A rebuild ends equal to the live read models, although events keep coming.
func TestReplayWhileEventsKeepComing(t *testing.T) { onEveryStore(t, testReplayWhileEventsKeepComing) }

func testReplayWhileEventsKeepComing(t *testing.T, dir string) {
	rows := fewer(dir, 20_000)
	p := serve(t, dir)
	p.putTenant("acme")
	p.putTenant("globex")
	file, input, _ := trace(t, rows)
	_, err := run(t, dir, importArgs(file, "acme")...)
	require.NoError(t, err)
	imported := make(chan error, 1)
	go func() {
		_, err := run(t, dir, importArgs(file, "globex")...)
		imported <- err
	}()
	out, err := run(t, dir, "replay")
	require.NoError(t, err, out)
	require.Contains(t, out, "rebuilt and switched")
	require.NoError(t, <-imported)
	out, err = run(t, dir, "verify")
	require.NoError(t, err, out)
	key := p.serviceKey()
	for _, tenant := range []string{"acme", "globex"} {
		total, events := p.usageTotal(key, tenant, "input_tokens", "")
		require.Equal(t, strconv.Itoa(input), total, tenant)
		require.Equal(t, rows, events, tenant)
	}
}
