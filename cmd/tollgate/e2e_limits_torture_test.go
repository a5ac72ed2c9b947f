package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/tenant"
)

// tortureLimits has two groups of plans. Those of a group measure the same under other names and windows, so each of them has room
// for a thousand interviews, and a tenant may be moved between them at any time.
const tortureLimits = `
meters:
  - {key: interviews, eventType: interview, aggregation: sum}
plans:
  - key: pro
    currency: USD
    limits:
      - {key: %[1]sinterviews_per_cycle, kind: quota, meter: interviews, max: 1000, window: billing_cycle, holdTTL: 7d}%[2]s
  - key: team
    currency: USD
    limits:%[2]s
      - {key: %[1]sinterviews_in_30_days, kind: quota, meter: interviews, max: 1000, window: 30d, rolling: true, holdTTL: 7d}
  - key: spend
    currency: USD
    limits:
      - {key: %[1]sspend_in_30_days, kind: budget, max: "250.10", window: 30d, rolling: true, holdTTL: 7d}%[2]s
    prices:
      - {key: interviews, model: per_unit, meter: interviews, unit: "0.25"}
  - key: prepaid
    currency: USD
    limits:
      - {key: %[1]scredit, kind: budget, credits: true, holdTTL: 7d}
    prices:
      - {key: interviews, model: per_unit, meter: interviews, unit: "0.25"}
  - key: wallet
    currency: USD
    limits:%[2]s
      - {key: %[1]swallet, kind: budget, credits: true, holdTTL: 7d}
    prices:
      - {key: units, model: per_unit, meter: interviews, unit: "0.25"}
`

// addedLimits are wide, or never enforced.
const addedLimits = `
      - {key: wide, kind: quota, meter: interviews, max: 100000, window: week, holdTTL: 7d}
      - {key: open, kind: concurrency, on: [interview], max: 100000, holdTTL: 7d}
      - {key: tried, kind: rate, on: [interview], max: 0, window: 1m, mode: observe}`

var tortureCatalog = fmt.Sprintf(tortureLimits, "", "")

// tortureGroups are the plans that a tenant is moved between, round by round, with the limits of theirs that can be overridden.
var tortureGroups = []struct{ plans, limits []string }{
	{[]string{"pro", "team", "spend"}, []string{"interviews_per_cycle", "interviews_in_30_days", "spend_in_30_days"}},
	{[]string{"prepaid", "wallet"}, nil},
}

// fleet is three servers on one database, of which some are killed or stopped while clients go on asking.
type fleet struct {
	t       *testing.T
	dir     string
	catalog string
	env     []string
	client  *http.Client
	key     tenant.Secret

	mu      sync.Mutex
	members [3]*process
}

func newFleet(t *testing.T, dir string, env ...string) *fleet {
	f := &fleet{t: t, dir: dir, catalog: filepath.Join(t.TempDir(), "catalog.yaml"), env: env,
		client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	require.NoError(t, os.WriteFile(f.catalog, []byte(tortureCatalog), 0o600))
	for i := range f.members {
		f.members[i] = serveCatalog(t, dir, f.catalog, f.env...)
	}
	f.key = f.members[0].serviceKey()
	return f
}

func (f *fleet) member(i int) *process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.members[i]
}

// restart kills a server and starts another one in its place.
func (f *fleet) restart(i int, signal syscall.Signal) {
	old := f.member(i)
	_ = old.cmd.Process.Signal(signal)
	<-old.done
	next := serveCatalog(f.t, f.dir, f.catalog, f.env...)
	f.mu.Lock()
	f.members[i] = next
	f.mu.Unlock()
}

// freeze stops a server as if its machine were suspended.
func (f *fleet) freeze(i int, d time.Duration) {
	p := f.member(i)
	_ = p.cmd.Process.Signal(syscall.SIGSTOP)
	time.Sleep(d)
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
}

// awaitPlan waits until every server sees the plan of a tenant: all but the one that assigned it may answer from their cache for
// a second.
func (f *fleet) awaitPlan(id, plan string) {
	f.t.Helper()
	for i := range f.members {
		require.Eventually(f.t, func() bool {
			var answer struct {
				PlanVersion string `json:"planVersion"`
			}
			err := callAs(f.t.Context(), http.MethodGet, f.member(i).url+"/v1/limits", f.key, id, nil, &answer)
			return err == nil && strings.HasPrefix(answer.PlanVersion, plan+"@")
		}, time.Minute, 20*time.Millisecond, "server %d does not see the plan of %s", i, id)
	}
}

// check sends the same check to random servers until one answers.
func (f *fleet) check(random *rand.Rand, body []byte) (allowed bool, err error) {
	var answer struct {
		Allowed *bool `json:"allowed"`
	}
	text, err := f.post(random, "/v1/limits/check", body)
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	if err == nil && answer.Allowed == nil {
		err = fmt.Errorf("no answer: %s", text)
	}
	return err == nil && *answer.Allowed, err
}

// post sends the same request to random servers until one accepts it.
func (f *fleet) post(random *rand.Rand, path string, body []byte) ([]byte, error) {
	return f.postAs(random, f.key, path, body)
}

func (f *fleet) postAs(random *rand.Rand, key tenant.Secret, path string, body []byte) ([]byte, error) {
	for until := time.Now().Add(90 * time.Second); time.Now().Before(until); {
		request, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.member(random.IntN(3)).url+path, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		request.Header.Set("Authorization", "Bearer "+string(key))
		request.Header.Set("Content-Type", "application/json")
		response, err := f.client.Do(request)
		if err == nil {
			text, failed := io.ReadAll(response.Body)
			_ = response.Body.Close()
			switch {
			case failed == nil && response.StatusCode < 300:
				return text, nil
			case response.StatusCode < 500:
				return nil, fmt.Errorf("%s: %s", response.Status, text)
			}
		}
		time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
	}
	return nil, fmt.Errorf("no server answered")
}

// administer sends the same request as an administrator to random servers until one accepts or refuses it.
func (f *fleet) administer(random *rand.Rand, method, path, contentType, body string) (status int) {
	for until := time.Now().Add(90 * time.Second); time.Now().Before(until); {
		request, err := http.NewRequestWithContext(f.t.Context(), method, f.member(random.IntN(3)).url+path, strings.NewReader(body))
		if err != nil {
			f.t.Error(err)
			return 0
		}
		request.Header.Set("Authorization", "Bearer "+string(adminKey))
		request.Header.Set("Content-Type", contentType)
		if response, err := f.client.Do(request); err == nil {
			_ = response.Body.Close()
			if response.StatusCode < 500 {
				return response.StatusCode
			}
		}
		time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
	}
	f.t.Errorf("no server answers %s %s", method, path)
	return 0
}

// reconfigure changes what holds for a tenant, each time that there is a turn: its plan, the names and number of the limits of every
// plan, and overrides that leave less room. At the end the plans have all their room again.
func (f *fleet) reconfigure(random *rand.Rand, id string, plans, limits []string, turns <-chan struct{}) {
	at := "/v1/admin/tenants/" + id
	prefixes := []string{"", "all_"}
	changed := 0
	for range turns {
		var status int
		switch n := random.IntN(4); {
		case n == 0 || len(limits) == 0 && n == 1:
			status = f.administer(random, http.MethodPut, "/v1/admin/catalog", "application/yaml",
				fmt.Sprintf(tortureLimits, prefixes[random.IntN(2)], []string{"", addedLimits}[random.IntN(2)]))
		case n == 1:
			limit := prefixes[random.IntN(2)] + limits[random.IntN(len(limits))]
			if random.IntN(2) == 0 { // refused where the catalog has the other name now
				status = f.administer(random, http.MethodPut, at+"/limits/"+limit, "application/json", `{"max":100,"reason":"torture"}`)
			} else {
				status = f.administer(random, http.MethodDelete, at+"/limits/"+limit, "application/json", "")
			}
		default:
			status = f.administer(random, http.MethodPut, at+"/plan", "application/json", fmt.Sprintf(`{"plan":%q}`, plans[random.IntN(len(plans))]))
		}
		if status < 300 {
			changed++
		}
	}
	for _, limit := range limits {
		for _, prefix := range prefixes {
			f.administer(random, http.MethodDelete, at+"/limits/"+prefix+limit, "application/json", "")
		}
	}
	f.t.Logf("%d changes of plans, limits and overrides", changed)
}

// Three servers, 64 clients, many more checks than there is room for, each asked until it is answered; one server is killed
// and one suspended in the middle, and at the end all are restarted one after the other. Together they admit exactly as many as
// there is room for, although every server believes at first that nothing is taken. Half of what is admitted is reported at once;
// the other half stays held while the tenant's plan, the limits of the plans and overrides change all the time. The room is a quota
// or a budget, or what a grant pays for.
func TestTortureOfChecks(t *testing.T) { onEveryStore(t, testTortureOfChecks) }

func testTortureOfChecks(t *testing.T, dir string) {
	const clients, room = 64, 1000
	checks := 4000
	if *torture > 2 {
		checks = 20_000
	}
	f := newFleet(t, dir)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for round := range rounds(dir) {
		id := fmt.Sprint("tenant-", round)
		f.members[0].putTenant(id)
		group := tortureGroups[round%2]
		plan := group.plans[0]
		require.NoError(t, call(t.Context(), http.MethodPut, f.members[0].url+"/v1/admin/tenants/"+id+"/plan", adminKey, map[string]any{"plan": plan}, nil))
		require.NoError(t, call(t.Context(), http.MethodPost, f.members[0].url+"/v1/admin/tenants/"+id+"/credits", adminKey, map[string]any{"grantId": "all", "amount": "250.10"}, nil))
		f.awaitPlan(id, plan)
		var admitted, asked atomic.Int64
		var work, faults, changes sync.WaitGroup
		turns := make(chan struct{}, 1)
		changes.Go(func() {
			f.reconfigure(rand.New(rand.NewPCG(seed, uint64(round+500))), id, group.plans, group.limits, turns)
		})
		started := time.Now()
		for client := range clients {
			work.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(round*1000+client)))
				for n := client; n < checks; n += clients {
					body := fmt.Appendf(nil, `{"tenantId":%q,"eventType":"interview","sourceId":"s-%d","quantity":1}`, id, n)
					allowed, err := f.check(random, body)
					if err != nil {
						t.Error(err)
						return
					}
					if asked.Add(1)%50 == 0 {
						select {
						case turns <- struct{}{}:
						default: // the one before is under way
						}
					}
					if allowed {
						admitted.Add(1)
						if random.IntN(2) == 0 {
							if _, err := f.post(random, "/v1/events", fmt.Appendf(nil, `{"tenantId":%q,"eventType":"interview","sourceId":"s-%d","occurredAt":%q}`,
								id, n, time.Now().UTC().Format(time.RFC3339Nano))); err != nil {
								t.Error(err)
								return
							}
						}
					}
				}
			})
		}
		faults.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(round)))
			for after := int64(random.IntN(room)); asked.Load() < after; {
				time.Sleep(time.Millisecond)
			}
			victim := random.IntN(3)
			faults.Go(func() { f.freeze((victim+1)%3, time.Duration(200+random.IntN(1500))*time.Millisecond) })
			f.restart(victim, syscall.SIGKILL)
		})
		work.Wait()
		took := time.Since(started)
		faults.Wait()
		close(turns)
		changes.Wait()
		require.EqualValues(t, checks, asked.Load())
		require.LessOrEqual(t, admitted.Load(), int64(room), "round %d, seed %d", round, seed)
		// What was denied under an override is free again; all of it can be taken, and not one more.
		random := rand.New(rand.NewPCG(seed, uint64(round)))
		denied := 0
		for n := 0; denied < 20; n++ {
			allowed, err := f.check(random, fmt.Appendf(nil, `{"tenantId":%q,"eventType":"interview","sourceId":"more-%d","quantity":1}`, id, n))
			require.NoError(t, err)
			if allowed {
				admitted.Add(1)
			} else {
				denied++
			}
		}
		require.EqualValues(t, room, admitted.Load(), "round %d, seed %d", round, seed)
		t.Logf("round %d: %d of %d admitted in %.1f s", round, admitted.Load(), checks, took.Seconds())
	}
	for i := range f.members { // a rolling restart
		f.restart(i, syscall.SIGTERM)
		id := fmt.Sprint("tenant-", rounds(dir)-1)
		allowed, err := f.check(rand.New(rand.NewPCG(seed, 1)), fmt.Appendf(nil, `{"tenantId":%q,"eventType":"interview","sourceId":"late-%d","quantity":1}`, id, i))
		require.NoError(t, err)
		require.False(t, allowed)
	}
	out, err := run(t, f.dir, "verify")
	require.NoError(t, err, out)
}
