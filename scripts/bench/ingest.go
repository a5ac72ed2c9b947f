package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
)

// ledgers are two servers on two databases: the one with projections must not fold the events of the one without.
type ledgers struct {
	paused, running string // addresses
	key             string
	probe           *lagProbe
}

func (b *bench) ledgers(ctx context.Context, name string) (*ledgers, error) {
	l := &ledgers{}
	pausedURL, key, err := b.ledgerDatabase(ctx)
	if err != nil {
		return nil, err
	}
	runningURL, _, err := b.ledgerDatabase(ctx)
	if err != nil {
		return nil, err
	}
	l.key = key
	if l.probe, err = b.probe(ctx, runningURL); err != nil {
		return nil, err
	}
	if l.paused, err = b.child(ctx, childConfig{Kind: childLedger, URL: pausedURL}, name+"-paused"); err != nil {
		return nil, err
	}
	l.running, err = b.child(ctx, childConfig{Kind: childLedger, URL: runningURL, Fold: true}, name+"-running")
	return l, err
}

// ingestSingle: one event per request, as a product sends them when something happens.
func ingestSingle(ctx context.Context, b *bench, wanted []string) error {
	defer b.scope()()
	baselineURL, err := b.database(ctx, empty)
	if err != nil {
		return err
	}
	baseline, err := b.child(ctx, childConfig{Kind: childBaseline, URL: baselineURL}, "ingest-single-baseline")
	if err != nil {
		return err
	}
	l, err := b.ledgers(ctx, "ingest-single")
	if err != nil {
		return err
	}
	for _, name := range wanted {
		connections := lastNumber(name)
		all, err := b.interleave(ctx, name, b.roundCount,
			side{name: "baseline", run: newLoad(baseline, l.key, connections, 1).run},
			side{name: "paused", run: newLoad(l.paused, l.key, connections, 1).run},
			side{name: "running", run: newLoad(l.running, l.key, connections, 1).run, settle: l.probe.settle})
		if err != nil {
			return err
		}
		paused, running := compared(name+" paused", "req/s", all[1], all[0]), compared(name+" running", "req/s", all[2], all[0])
		if connections == 32 {
			paused, running = paused.atLeast(0.8), running.atLeast(0.5)
		}
		b.report.add(paused, running)
	}
	return nil
}

// ingestBatch: arrays, as queues and importers send them.
func ingestBatch(ctx context.Context, b *bench, wanted []string) error {
	defer b.scope()()
	const connections = 4
	raw, err := b.rawTable(ctx)
	if err != nil {
		return err
	}
	l, err := b.ledgers(ctx, "ingest-batch")
	if err != nil {
		return err
	}
	for _, name := range wanted {
		events := lastNumber(name)
		writers := 4
		if events == 1000 {
			writers = 2 // more would only wait for each other
		}
		all, err := b.interleave(ctx, name, b.roundCount,
			side{name: "raw insert", run: func(ctx context.Context, d time.Duration) (measurement, error) {
				return raw.insert(ctx, d, writers, events)
			}},
			side{name: "paused", run: newLoad(l.paused, l.key, connections, events).run},
			side{name: "running", run: newLoad(l.running, l.key, connections, events).run, settle: l.probe.settle})
		if err != nil {
			return err
		}
		paused, running := compared(name+" paused", "events/s", all[1], all[0]), compared(name+" running", "events/s", all[2], all[0])
		if events == 1000 {
			paused, running = paused.atLeast(0.8), running.atLeast(0.5)
		}
		b.report.add(paused, running)
	}
	return nil
}

func lastNumber(name string) (n int) {
	_, _ = fmt.Sscan(name[strings.LastIndexByte(name, '/')+1:], &n)
	return n
}

// importRows: what `tollgate import` does after it has read a line of a trace: one batch after the other, of one tenant.
func importRows(ctx context.Context, b *bench, _ []string) error {
	defer b.scope()()
	const batch = 2000
	raw, err := b.rawTable(ctx)
	if err != nil {
		return err
	}
	url, _, err := b.ledgerDatabase(ctx)
	if err != nil {
		return err
	}
	s, err := openStack(ctx, url, 0)
	if err != nil {
		return err
	}
	b.onClose(s.Close)
	// A trace has a time and two counts in each line.
	rows := newGenerator(1, time.Now().Add(-24*time.Hour)).submissions(50_000)
	for i := range rows {
		f := fact{tenant: tenantName(0), eventType: "tokens_spent", quantity: int64(100 + i%3000), occurredAt: rows[i].OccurredAt,
			data: fmt.Appendf(nil, `{"inputTokens":%d,"outputTokens":%d}`, 90+i%2500, 10+i%500)}
		rows[i] = f.submission()
		rows[i].Emitter = "import:trace.csv"
	}
	at := 0
	defer b.profile("import")()
	all, err := b.interleave(ctx, "import", b.roundCount,
		side{name: "raw insert", run: func(ctx context.Context, d time.Duration) (measurement, error) { return raw.insert(ctx, d, 2, 1000) }},
		side{name: "import", run: func(ctx context.Context, d time.Duration) (m measurement, err error) {
			started := time.Now()
			for time.Since(started) < d {
				if at+batch > len(rows) {
					at = 0
				}
				part := rows[at : at+batch]
				at += batch
				for i := range part {
					part[i].Source = event.SourceID(newID())
				}
				before := time.Now()
				if err := record(ctx, s.Ledger, part); err != nil {
					return m, err
				}
				m.latencies = append(m.latencies, time.Since(before))
				m.events += batch
			}
			m.took = time.Since(started)
			return m.sorted(), nil
		}})
	if err != nil {
		return err
	}
	b.report.add(compared("import", "events/s", all[1], all[0]))
	return nil
}

// partitionCounts compares logs of several numbers of partitions with a log of one.
func partitionCounts(ctx context.Context, b *bench, _ []string) error {
	defer b.scope()()
	counts := []int{1, 2, 4, 8}
	rounds := min(b.roundCount, 3) // eight measurements in each
	var single, batch []side
	for _, n := range counts {
		t, err := b.ledgerTemplate(ctx, n)
		if err != nil {
			return err
		}
		url, err := b.database(ctx, t.name)
		if err != nil {
			return err
		}
		addr, err := b.child(ctx, childConfig{Kind: childLedger, URL: url}, fmt.Sprintf("partitions-%d", n))
		if err != nil {
			return err
		}
		name := fmt.Sprintf("of %d", n)
		single = append(single, side{name: name, run: newLoad(addr, t.key, 32, 1).run})
		batch = append(batch, side{name: name, run: newLoad(addr, t.key, 4, 1000).run})
	}
	for _, kind := range []struct {
		name, unit string
		sides      []side
	}{{"single/32", "req/s", single}, {"batch/1000", "events/s", batch}} {
		all, err := b.interleave(ctx, "partitions "+kind.name, rounds, kind.sides...)
		if err != nil {
			return err
		}
		for i, n := range counts {
			r := compared(fmt.Sprintf("partitions %d %s", n, kind.name), kind.unit, all[i], all[0])
			if i == 0 {
				r = row{Name: r.Name, Unit: r.Unit, Ours: r.Ours, OursLatency: r.OursLatency}
			}
			b.report.add(r)
		}
	}
	return nil
}

// lag: whether the read models keep up with half of what the log can take.
func lag(ctx context.Context, b *bench, _ []string) error {
	defer b.scope()()
	const (
		connections = 4
		events      = 1000
		most        = 5.0 // seconds
	)
	l, err := b.ledgers(ctx, "lag")
	if err != nil {
		return err
	}
	// The peak is that of a log without projections, which makes its half the hardest load.
	peak := series{}
	for i := range 4 {
		m, err := newLoad(l.paused, l.key, connections, events).run(ctx, time.Duration(b.seconds*float64(time.Second)))
		if err != nil {
			return err
		}
		if i > 0 { // the first one warms up
			peak = append(peak, m)
		}
	}
	rate := peak.rates().Median / 2
	b.say("lag: the peak is %.0f events/s", 2*rate)
	length := time.Duration(10 * b.seconds * float64(time.Second))
	paced := newLoad(l.running, l.key, connections, events)
	paced.every = time.Duration(float64(connections*events) / rate * float64(time.Second))
	sampling, stop := context.WithCancel(ctx)
	defer stop()
	type sample struct {
		worst float64
		most  int64
		err   error
	}
	sampled := make(chan sample, 1)
	go func() {
		var s sample
		for s.err == nil && sampling.Err() == nil {
			seconds, events, err := l.probe.lag(sampling)
			s.worst, s.most = max(s.worst, seconds), max(s.most, events)
			if sampling.Err() == nil {
				s.err = err
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-sampling.Done():
			}
		}
		sampled <- s
	}()
	m, err := paced.run(ctx, length)
	stop()
	s := <-sampled
	if err != nil || s.err != nil {
		return firstError(err, s.err)
	}
	ok := s.worst < most
	b.report.add(row{Name: "lag at half of the peak", Unit: "s at most", Ours: spread{s.worst, s.worst, s.worst}, Target: "< 5 s", OK: &ok,
		OursLatency: series{m}.latency()})
	b.report.note("lag: %s events/s for %.0f s, half of a peak of %s; at most %d events behind", short(m.rate()), m.took.Seconds(), short(2*rate), s.most)
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// profile profiles this process, where something is measured in it. Only one profile can be under way.
func (b *bench) profile(name string) (stop func()) {
	if b.profiles == "" {
		return func() {}
	}
	f, err := os.Create(filepath.Join(b.profiles, name+".pprof"))
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		b.say("profile: %v", err)
		return func() {}
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}
}
