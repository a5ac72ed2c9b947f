package eventstoredb_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

var torture = flag.Int("torture", 0, "make the long run this many times as long")

func one(stream string, expected eventstore.Revision, words ...string) eventstore.Append {
	a := eventstore.Append{Stream: eventstore.StreamName(stream), Tenant: "acme", Expected: expected}
	for _, w := range words {
		a.Events = append(a.Events, eventstore.NewEvent{ID: uuid.NewSHA1(uuid.NameSpaceOID, []byte(stream+"/"+w)), Type: "noted", Data: []byte(w)})
	}
	return a
}

func add(ctx context.Context, log *eventstoredb.Log, a eventstore.Append) eventstore.Result {
	return log.Append(ctx, []eventstore.Append{a})[0]
}

// misfortune draws a fault for every third call, from a seed.
func misfortune(seed uint64, stalls bool) esdbtest.Faults {
	var mu sync.Mutex
	dice := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test's dice
	return func(op esdbtest.Op) esdbtest.Fault {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == esdbtest.Subscribe {
			return esdbtest.Fault{Cut: 1 + dice.IntN(400)}
		}
		switch n := dice.IntN(30); {
		case n == 0:
			return esdbtest.Fault{Before: esdbtest.Unavailable}
		case n < 5:
			return esdbtest.Fault{After: esdbtest.Unavailable}
		case n == 5:
			return esdbtest.Fault{Before: esdbtest.Aborted}
		case n < 9:
			return esdbtest.Fault{After: esdbtest.Aborted}
		case n == 9 && stalls:
			return esdbtest.Fault{Stall: true}
		case n == 10 && stalls:
			return esdbtest.Fault{Stall: true, After: esdbtest.Unavailable}
		}
		return esdbtest.Fault{}
	}
}

// Thousands of appends meet lost answers, refusals, silence, cut subscriptions, restarts and changes of the leader. Every
// event that was acknowledged is there once, and a reader that follows the log sees each once and in order.
func TestTortureAppendsSurviveEveryFault(t *testing.T) {
	const workers = 16
	each := 25
	if *torture > 0 {
		each = 625 * *torture
	}
	seed := rand.Uint64() //nolint:gosec // a test's dice
	t.Logf("seed %d", seed)
	cluster := esdbtest.New(t, 3)
	url := cluster.Seeds() + "&discoveryInterval=10"
	config := eventstoredb.Config{URL: url, Attempt: 250 * time.Millisecond, Retry: time.Minute}
	writer, reader := open(t, config), open(t, config)
	cluster.SetFaults(misfortune(seed, true))

	total := workers * each * 2
	var seen []eventstore.Recorded
	var following sync.WaitGroup
	following.Go(func() {
		after := eventstore.Position{}
		for len(seen) < total {
			if err := reader.Wait(t.Context(), after); err != nil {
				t.Errorf("wait after %s: %v", after, err)
				return
			}
			events, err := reader.ReadLog(t.Context(), after, 100)
			if errors.Is(err, eventstore.ErrUnavailable) {
				continue
			}
			if err != nil {
				t.Errorf("read after %s: %v", after, err)
				return
			}
			if seen = append(seen, events...); len(events) > 0 {
				after = events[len(events)-1].Position
			}
		}
	})
	var done atomic.Int64
	var writing sync.WaitGroup
	for w := range workers {
		writing.Go(func() {
			for i := range each {
				stream := fmt.Sprintf("usage-%d-%d", w, i)
				for expected, a := range []eventstore.Append{one(stream, -1, "first"), one(stream, 0, "second")} {
					r := add(t.Context(), writer, a)
					for r.Outcome == eventstore.Unknown && errors.Is(r.Err, eventstore.ErrUnavailable) {
						r = add(t.Context(), writer, a) // as any caller would
					}
					if r.Outcome != eventstore.Appended && r.Outcome != eventstore.Duplicate {
						t.Errorf("%s after %d: outcome %d: %v", stream, expected, r.Outcome, r.Err)
					}
				}
				switch n := int(done.Add(1)); {
				case n%(workers*each/4) == 10:
					cluster.Lead(n % 3)
				case n%(workers*each/4) == 50:
					if err := cluster.Nodes[n%3].Restart(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	writing.Wait()
	following.Wait()
	if t.Failed() {
		return
	}
	require.Equal(t, total, cluster.Events(eventstoredb.DefaultPrefix), "seed %d", seed)
	count := map[eventstore.StreamName]eventstore.Revision{}
	last := int64(0)
	for _, r := range seen {
		require.Greater(t, r.Position.Offset, last)
		require.Equal(t, count[r.Stream], r.Revision, "%s", r.Stream)
		count[r.Stream]++
		last = r.Position.Offset
	}
	require.Len(t, count, workers*each)
}

// A call that the server acknowledged after an answer was lost is told that it wrote; a repetition is told so, too.
func TestLostAnswers(t *testing.T) {
	cluster := esdbtest.New(t, 1)
	log := open(t, eventstoredb.Config{URL: cluster.URL(), Attempt: 100 * time.Millisecond})
	for i, f := range []esdbtest.Fault{
		{After: esdbtest.Unavailable}, {After: esdbtest.Aborted}, {Before: esdbtest.Unavailable}, {Before: esdbtest.Aborted},
		{Stall: true}, {Stall: true, After: esdbtest.Unavailable},
	} {
		for _, kind := range []esdbtest.Kind{esdbtest.Append, esdbtest.ReadStream} {
			var once sync.Once
			cluster.SetFaults(func(op esdbtest.Op) (now esdbtest.Fault) {
				if op.Kind == kind {
					once.Do(func() { now = f })
				}
				return now
			})
			a := one(fmt.Sprintf("usage-%d-%d", i, kind), -1, "a", "b")
			first := add(t.Context(), log, a)
			require.Equal(t, eventstore.Appended, first.Outcome, "fault %d: %v", i, first.Err)
			again := add(t.Context(), log, a)
			require.Equal(t, eventstore.Duplicate, again.Outcome)
			require.Equal(t, first.Offsets, again.Offsets)
			require.Equal(t, eventstore.Conflict, add(t.Context(), log, one(string(a.Stream), -1, "x")).Outcome)
		}
	}
}

// Under the client's own settings an outage of a second kills it, and callers hang in it. Here they return when their
// time is over, and go on when the server is back.
func TestOutageLongerThanTheDiscovery(t *testing.T) {
	for name, settings := range map[string]string{
		"few attempts": "&maxDiscoverAttempts=2&discoveryInterval=10",
		"our own":      "&discoveryInterval=10",
	} {
		t.Run(name, func(t *testing.T) {
			cluster := esdbtest.New(t, 1)
			log := open(t, eventstoredb.Config{URL: cluster.URL() + settings, Attempt: time.Second})
			require.Equal(t, eventstore.Appended, add(t.Context(), log, one("usage-0", -1, "before")).Outcome)
			cluster.Nodes[0].Stop()
			var group sync.WaitGroup
			for i := range 24 {
				group.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
					defer cancel()
					started := time.Now()
					var err error
					switch i % 4 {
					case 0:
						err = add(ctx, log, one("usage-"+strconv.Itoa(i), -1, "during")).Err
					case 1:
						_, err = log.Head(ctx, 0)
					case 2:
						_, err = log.ReadStream(ctx, "usage-0", 0, 10)
					default:
						_, err = log.ReadLog(ctx, eventstore.Position{}, 10)
					}
					if !errors.Is(err, eventstore.ErrUnavailable) {
						t.Errorf("call %d during an outage: %v", i, err)
					}
					if took := time.Since(started); took > 2*time.Second {
						t.Errorf("call %d took %s, and had 300 ms", i, took)
					}
				})
			}
			group.Wait()
			require.Error(t, log.State())
			require.NoError(t, cluster.Nodes[0].Start())
			r := add(t.Context(), log, one("usage-0", 0, "after"))
			require.Equal(t, eventstore.Appended, r.Outcome, r.Err)
			events, err := log.ReadLog(t.Context(), eventstore.Position{}, 100)
			require.NoError(t, err)
			require.Equal(t, "after", string(events[len(events)-1].Data))
			require.NoError(t, log.Wait(t.Context(), eventstore.Position{Offset: r.Position.Offset - 1}), "the reader is back, too")
		})
	}
}

func TestCloseDuringCalls(t *testing.T) {
	cluster := esdbtest.New(t, 1)
	for round := range 30 {
		log, err := eventstoredb.Open(t.Context(), eventstoredb.Config{URL: cluster.URL()})
		require.NoError(t, err)
		var group sync.WaitGroup
		begun := make(chan struct{}, 8)
		for w := range 8 {
			group.Go(func() {
				for i := 0; ; i++ {
					r := add(t.Context(), log, one(fmt.Sprintf("usage-%d-%d-%d", round, w, i), -1, "a"))
					if i == 0 {
						begun <- struct{}{}
					}
					if r.Outcome != eventstore.Appended {
						if !errors.Is(r.Err, eventstore.ErrUnavailable) {
							t.Errorf("after close: outcome %d: %v", r.Outcome, r.Err)
						}
						return
					}
				}
			})
		}
		<-begun
		log.Close()
		group.Wait()
	}
}

// A connection may lead nowhere without being closed: the end of the log shows it.
func TestASilentSubscriptionIsReplaced(t *testing.T) {
	cluster := esdbtest.New(t, 1)
	var first sync.Once
	silenced := make(chan struct{})
	cluster.SetFaults(func(op esdbtest.Op) (f esdbtest.Fault) {
		if op.Kind == esdbtest.Subscribe {
			first.Do(func() {
				close(silenced)
				f = esdbtest.Fault{Cut: 2, Stall: true} // the confirmation, and that it has caught up
			})
		}
		return f
	})
	log := open(t, eventstoredb.Config{URL: cluster.URL()})
	<-silenced
	r := add(t.Context(), log, one("usage-1", -1, "a"))
	require.Equal(t, eventstore.Appended, r.Outcome)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, log.Wait(ctx, eventstore.Position{}))
}

// A node that does not lead may be behind. It is never asked: what was acknowledged is read, whichever node leads now.
func TestReadsAreTheLeaders(t *testing.T) {
	cluster := esdbtest.New(t, 3)
	first, second := open(t, eventstoredb.Config{URL: cluster.Seeds()}), open(t, eventstoredb.Config{URL: cluster.URL()})
	for i := range 9 {
		cluster.Lead(i % 3)
		for n, node := range cluster.Nodes {
			node.SetLag(0)
			if n != i%3 {
				node.SetLag(2)
			}
		}
		stream := "usage-" + strconv.Itoa(i)
		r := add(t.Context(), first, one(stream, -1, "a"))
		require.Equal(t, eventstore.Appended, r.Outcome, r.Err)
		for _, log := range []*eventstoredb.Log{first, second} {
			head, err := log.Head(t.Context(), 0)
			require.NoError(t, err)
			require.Equal(t, r.Position, head)
			events, err := log.ReadStream(t.Context(), eventstore.StreamName(stream), 0, 1)
			require.NoError(t, err)
			require.Len(t, events, 1)
		}
	}
}

// What others write to the same server is passed over; what they write into our streams stops readers.
func TestOthersOnTheSameServer(t *testing.T) {
	cluster := esdbtest.New(t, 1)
	log := open(t, eventstoredb.Config{URL: cluster.URL()})
	other := open(t, eventstoredb.Config{URL: cluster.URL() + "&streamPrefix=another-"})
	var written []string
	for i := range 5 {
		cluster.Noise(1500)
		require.Equal(t, eventstore.Appended, add(t.Context(), other, one("usage-1", eventstore.Revision(i)-1, strconv.Itoa(-i))).Outcome)
		require.Equal(t, eventstore.Appended, add(t.Context(), log, one("usage-1", eventstore.Revision(i)-1, strconv.Itoa(i))).Outcome)
		written = append(written, strconv.Itoa(i))
	}
	cluster.Noise(1500)
	for _, reader := range []*eventstoredb.Log{log, open(t, eventstoredb.Config{URL: cluster.URL()})} {
		events, err := reader.ReadLog(t.Context(), eventstore.Position{}, 100)
		require.NoError(t, err)
		var read []string
		for _, e := range events {
			read = append(read, string(e.Data))
		}
		require.Equal(t, written, read)
		head, err := reader.Head(t.Context(), 0)
		require.NoError(t, err)
		require.Equal(t, events[4].Position, head)
	}
	// A prefix that is too wide takes in what another program wrote.
	_, err := open(t, eventstoredb.Config{URL: cluster.URL() + "&streamPrefix=an"}).ReadLog(t.Context(), eventstore.Position{}, 10)
	require.NoError(t, err)
	cluster.Write(eventstoredb.DefaultPrefix + "usage-2")
	_, err = log.ReadLog(t.Context(), eventstore.Position{}, 10)
	require.ErrorIs(t, err, eventstore.ErrHole)
	require.ErrorContains(t, err, "not written by this program")
}
