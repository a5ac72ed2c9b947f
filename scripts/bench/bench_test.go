package main

import (
	"bytes"
	"context"
	"math"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The servers are this program again, in the tests as well.
func TestMain(m *testing.M) {
	if isChild() {
		os.Exit(runChild())
	}
	os.Exit(m.Run())
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

// The benchmarks that between them use every baseline, server and read model run for a moment: the figures mean nothing,
// but it works. The others start the same things again, and more servers take longer than a unit test may.
func TestBenchmarks(t *testing.T) {
	var out bytes.Buffer
	o := options{only: regexp.MustCompile("single/32|import|size|rebuild"), events: 3000, seconds: 0.02, roundCount: 1}
	r, err := run(context.Background(), o, logWriter{t})
	require.NoError(t, err)
	require.NoError(t, r.print(&out))
	t.Log(out.String())
	for _, row := range r.Rows {
		assert.Positive(t, row.Ours.Median, row.Name)
		if row.Ratio != nil {
			assert.False(t, math.IsNaN(row.Ratio.Median) || math.IsInf(row.Ratio.Median, 0), row.Name)
		}
	}
	require.NotEmpty(t, r.Costs)
	assert.InDelta(t, 1, r.Costs[0].Tables[0].Inserts, 0.001, "each event is one row of log_events")
	assert.InDelta(t, 1, r.Costs[0].Tables[1].Inserts, 0.001, "and one of log_streams")
}

func TestSpreadOf(t *testing.T) {
	assert.Equal(t, spread{2, 1, 9}, spreadOf([]float64{9, 1, 2}))
	assert.Equal(t, spread{2.5, 1, 9}, spreadOf([]float64{9, 1, 2, 3}))
}

func TestPercentile(t *testing.T) {
	m := measurement{}
	for i := range 100 {
		m.latencies = append(m.latencies, time.Duration(i+1)*time.Millisecond)
	}
	assert.InDelta(t, 51, m.percentile(0.50), 1e-9)
	assert.InDelta(t, 100, m.percentile(0.99), 1e-9)
	assert.Zero(t, measurement{}.percentile(0.5))
}

// An id must be new each time, and of the length that was left for it.
func TestIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 100_000 {
		id := newID()
		require.Len(t, id, idLength)
		require.False(t, seen[id])
		seen[id] = true
	}
}
