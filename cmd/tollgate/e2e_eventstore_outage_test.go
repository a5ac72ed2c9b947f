package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
)

// The log becomes unreachable again and again, and then for longer than any call waits, while clients go on reporting and
// checking. No server is restarted; each one works again once the log is back, and everything acknowledged is recorded once.
func TestTortureOfOutages(t *testing.T) {
	const clients = 32
	restarting, outage := 2*time.Second, 4*time.Second
	if *torture > 2 { // the long run
		restarting, outage = time.Minute, time.Minute
	}
	dir, cluster := dataFolder(t), esdbtest.New(t, 1)
	eventStores.Store(dir, cluster.URL())
	f := newFleet(t, dir)
	f.members[0].putTenant("acme")
	node, pids := cluster.Nodes[0], [3]int{}
	for i := range f.members {
		pids[i] = f.members[i].cmd.Process.Pid
	}

	var (
		work     sync.WaitGroup
		recorded atomic.Int64
		enough   atomic.Bool
	)
	for client := range clients {
		work.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(client)))
			for n := 0; !enough.Load(); n++ {
				source := fmt.Sprintf("s-%d-%d", client, n)
				if _, err := f.check(random, fmt.Appendf(nil, `{"tenantId":"acme","eventType":"interview","sourceId":%q,"quantity":1}`, source)); err != nil {
					t.Error(err)
					return
				}
				_, err := f.post(random, "/v1/events", fmt.Appendf(nil, `{"tenantId":"acme","eventType":"interview","sourceId":%q,"occurredAt":%q}`,
					source, time.Now().UTC().Format(time.RFC3339Nano)))
				if err != nil {
					t.Error(err)
					return
				}
				recorded.Add(1)
			}
		})
	}
	random := rand.New(rand.NewPCG(2, 2))
	down := func(d time.Duration) {
		node.Stop()
		time.Sleep(d)
		require.NoError(t, node.Start())
	}
	progress := func(since int64) time.Duration {
		t.Helper()
		started := time.Now()
		require.Eventually(t, func() bool { return recorded.Load() > since+clients }, time.Minute, time.Millisecond, "nothing is recorded")
		return time.Since(started)
	}
	progress(0)
	kills, begun := 0, time.Now()
	for ; time.Since(begun) < restarting; kills++ {
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		down(time.Duration(random.IntN(300)) * time.Millisecond)
	}
	progress(recorded.Load())
	down(outage)
	back := progress(recorded.Load())
	enough.Store(true)
	work.Wait()
	t.Logf("%d events through %d restarts and %s of outage; %d more were recorded %s after its end", recorded.Load(), kills, outage, clients, back.Round(time.Millisecond))

	want := strconv.FormatInt(recorded.Load(), 10)
	for i, p := range f.members {
		require.Equal(t, pids[i], p.cmd.Process.Pid)
		require.Eventually(t, func() bool {
			total, _ := p.usageTotal(f.key, "acme", "interviews", "")
			return total == want
		}, time.Minute, 50*time.Millisecond, "server %d does not reach %s", i, want)
	}
	require.EqualValues(t, recorded.Load(), cluster.Events("tollgate-usage-"))
	out, err := run(t, dir, "verify")
	require.NoError(t, err, out)
}
