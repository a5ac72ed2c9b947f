package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// Three servers close the periods of several tenants, automatically and for clients that ask all the time, and are killed with
// kill -9 at any moment. Each tenant has one invoice for each boundary, with its usage, and the same at every server.
func TestTortureOfClosing(t *testing.T) { onEveryStore(t, testTortureOfClosing) }

func testTortureOfClosing(t *testing.T, dir string) {
	const tenants, months = 4, 5
	f := newFleet(t, dir, "TOLLGATE_BILLING_EVERY=50ms", "TOLLGATE_BILLING_DELAY=1s")
	database, err := pgserverURL(t, f.dir)
	require.NoError(t, err)
	log, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	defer func() { _ = log.Close(context.Background()) }()
	inPostgres := eventStoreOf(dir) == "postgres"
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	start := time.Date(2025, 10, 31, 0, 0, 0, 0, time.UTC)
	ends := []string{"2025-11-30T00:00:00.000Z", "2025-12-31T00:00:00.000Z", "2026-01-31T00:00:00.000Z", "2026-02-28T00:00:00.000Z", "2026-03-31T00:00:00.000Z"}
	for round := range rounds(dir) {
		random := rand.New(rand.NewPCG(seed, uint64(round)))
		ids := make([]string, tenants)
		used := map[string][]int{}
		for i := range ids {
			ids[i] = fmt.Sprintf("tenant-%d-%d", round, i)
			f.members[0].putTenant(ids[i])
			var batch []map[string]any
			for month := range months {
				used[ids[i]] = append(used[ids[i]], 1+random.IntN(40))
				batch = append(batch, map[string]any{"tenantId": ids[i], "eventType": "interview", "sourceId": fmt.Sprint("m", month), "quantity": used[ids[i]][month],
					"occurredAt": start.AddDate(0, 0, 3+30*month).Format(time.RFC3339)})
			}
			require.NoError(t, callAs(t.Context(), http.MethodPost, f.members[0].url+"/v1/events", f.key, "", batch, nil))
			require.NoError(t, call(t.Context(), http.MethodPost, f.members[0].url+"/v1/admin/tenants/"+ids[i]+"/credits", adminKey, map[string]any{"grantId": "g", "amount": "7.50"}, nil))
			require.NoError(t, call(t.Context(), http.MethodPut, f.members[0].url+"/v1/admin/tenants/"+ids[i]+"/plan", adminKey, map[string]any{"plan": "prepaid", "effectiveAt": start.Format(time.RFC3339)}, nil))
		}
		var work, faults sync.WaitGroup
		stop := make(chan struct{})
		kills := 0
		for client := range 12 {
			work.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(1000*round+client)))
				for _, end := range ends {
					for _, n := range random.Perm(tenants) {
						if _, err := f.postAs(random, adminKey, "/v1/admin/tenants/"+ids[n]+"/invoices/close", fmt.Appendf(nil, `{"periodEnd":%q}`, end)); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		faults.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(5+min(n, 1)*random.IntN(400)) * time.Millisecond):
					f.restart(n%3, syscall.SIGKILL)
					kills++
				}
			}
		})
		work.Wait()
		close(stop)
		faults.Wait()
		require.Positive(t, kills, "everything was closed before a server was killed")
		t.Logf("round %d: %d invoices, %d kills", round, tenants*months, kills)

		for _, id := range ids {
			var answers []string
			for i := range f.members {
				text := f.member(i).text(f.key, id, "/v1/invoices?limit=500")
				// Later boundaries are closed meanwhile; those of this test are the oldest.
				_, oldest, found := strings.Cut(text, `"periodEnd":"`+ends[months-1]+`"`)
				require.True(t, found, "server %d lacks invoices of %s, seed %d", i, id, seed)
				answers = append(answers, oldest)
			}
			require.Equal(t, answers[0], answers[1])
			require.Equal(t, answers[0], answers[2])
			var page struct {
				Items []struct {
					invoice
					Credits struct{ Amount string }
				}
			}
			require.NoError(t, callAs(t.Context(), http.MethodGet, f.member(0).url+"/v1/invoices?limit=500", f.key, id, nil, &page))
			slices.Reverse(page.Items)
			require.GreaterOrEqual(t, len(page.Items), months, "%s, seed %d", id, seed)
			for _, end := range ends {
				var again []string
				for i := range f.members {
					var raw json.RawMessage
					require.NoError(t, call(t.Context(), http.MethodPost, f.member(i).url+"/v1/admin/tenants/"+id+"/invoices/close", adminKey, map[string]any{"periodEnd": end}, &raw))
					again = append(again, string(raw))
				}
				require.Equal(t, again[0], again[1], "%s, %s, seed %d", id, end, seed)
				require.Equal(t, again[0], again[2], "%s, %s, seed %d", id, end, seed)
			}
			left := 30 // units of 0.25 that the grant pays for
			from := start.Format("2006-01-02T15:04:05.000Z")
			for n, inv := range page.Items {
				require.Equal(t, from, inv.PeriodStart, "%s, seed %d", id, seed)
				from = inv.PeriodEnd
				require.True(t, strings.HasSuffix(inv.Number, fmt.Sprintf("-%06d", n+1)), inv.Number)
				if n >= months {
					continue
				}
				require.Equal(t, ends[n], inv.PeriodEnd)
				if inPostgres {
					var inLog int
					require.NoError(t, log.QueryRow(t.Context(), `select count(*) from log_events join log_types using (type_id)
						where name = 'invoice_finalised.v1' and tenant_id = $1 and position(convert_to($2, 'UTF8') in data) > 0`, id, inv.ID).Scan(&inLog))
					require.Equal(t, 1, inLog, "%s, invoice %d in the billing stream, seed %d", id, n+1, seed)
				}
				units := used[id][n]
				paid := min(units, left)
				left -= paid
				require.Equal(t, fmt.Sprintf("%d.%02d", paid/4, paid%4*25), inv.Credits.Amount, "%s, invoice %d, seed %d", id, n+1, seed)
				require.Equal(t, fmt.Sprintf("%d.%02d", (units-paid)/4, (units-paid)%4*25), inv.Total.Amount, "%s, invoice %d, seed %d", id, n+1, seed)
			}
		}
	}
	out, err := run(t, f.dir, "verify")
	require.NoError(t, err, out)
}
