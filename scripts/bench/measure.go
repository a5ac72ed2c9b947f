package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// measurement is what one side did in one round.
type measurement struct {
	events    int
	took      time.Duration
	latencies []time.Duration // of each request or batch, sorted
}

func (m measurement) rate() float64 { return float64(m.events) / m.took.Seconds() }

// together measures several workers at the same time. The first that fails ends all.
func together(ctx context.Context, workers int, work func(ctx context.Context, i int, m *measurement) error) (measurement, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	parts := make([]measurement, workers)
	var running sync.WaitGroup
	started := time.Now()
	for i := range parts {
		running.Go(func() {
			if err := work(ctx, i, &parts[i]); err != nil {
				cancel(err)
			}
		})
	}
	running.Wait()
	m := measurement{took: time.Since(started)}
	if ctx.Err() != nil {
		return m, context.Cause(ctx)
	}
	for _, p := range parts {
		m.events += p.events
		m.latencies = append(m.latencies, p.latencies...)
	}
	return m.sorted(), nil
}

// sorted orders the latencies.
func (m measurement) sorted() measurement {
	slices.Sort(m.latencies)
	return m
}

// percentile is the smallest latency that at least the given share of all does not exceed. It is exact: all samples are kept.
func (m measurement) percentile(share float64) float64 {
	if len(m.latencies) == 0 {
		return 0
	}
	i := min(int(share*float64(len(m.latencies))), len(m.latencies)-1)
	return float64(m.latencies[i]) / float64(time.Millisecond)
}

// spread is the median of the rounds with the extremes.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return spread{}
	}
	median := sorted[n/2]
	if n%2 == 0 {
		median = (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return spread{median, sorted[0], sorted[n-1]}
}

// side is one of the things that are compared.
type side struct {
	name string
	run  func(ctx context.Context, d time.Duration) (measurement, error)
	// settle is called after each measurement, so that what one side leaves behind does not slow down the next one.
	settle func(ctx context.Context, atMost time.Duration) error
}

const settleTimeout = time.Minute

// series are the measurements of one side, one for each round.
type series []measurement

func (s series) of(value func(measurement) float64) spread {
	values := make([]float64, len(s))
	for i, m := range s {
		values[i] = value(m)
	}
	return spreadOf(values)
}

func (s series) rates() spread { return s.of(measurement.rate) }

func (s series) latency() *latency {
	return &latency{
		P50: s.of(func(m measurement) float64 { return m.percentile(0.50) }).Median,
		P99: s.of(func(m measurement) float64 { return m.percentile(0.99) }).Median,
	}
}

// ratio compares round by round: both sides of a round met the same state of the machine.
func (s series) ratio(baseline series) *spread {
	values := make([]float64, len(s))
	for i := range s {
		values[i] = s[i].rate() / baseline[i].rate()
	}
	r := spreadOf(values)
	return &r
}

// interleave measures the sides one after the other, in every round again, after a warm-up that does not count.
func (b *bench) interleave(ctx context.Context, name string, rounds int, sides ...side) ([]series, error) {
	all := make([]series, len(sides))
	d := time.Duration(b.seconds * float64(time.Second))
	for round := range rounds + 1 {
		for i, s := range sides {
			length := d
			if round == 0 {
				length = d / 4
			}
			m, err := s.run(ctx, length)
			if err != nil {
				return nil, err
			}
			if s.settle != nil {
				if err := s.settle(ctx, settleTimeout); err != nil {
					return nil, err
				}
			}
			if round == 0 {
				continue
			}
			all[i] = append(all[i], m)
			b.say("%s round %d/%d %s: %.0f/s, p50 %.1f p99 %.1f ms", name, round, rounds, s.name, m.rate(), m.percentile(0.5), m.percentile(0.99))
		}
	}
	return all, nil
}
