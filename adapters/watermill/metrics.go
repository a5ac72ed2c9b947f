package watermill

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-io/tollgate/projections"
)

var (
	offsetMetric = prometheus.NewDesc("tollgate_projection_offset",
		"Offset up to which the read model is applied, as far as this process has seen.", []string{"read_model", "partition"}, nil)
	haltedMetric = prometheus.NewDesc("tollgate_projection_halted",
		"1 when the read model has stopped before an event that it cannot apply.", []string{"read_model", "partition"}, nil)
	failingMetric = prometheus.NewDesc("tollgate_projection_failing",
		"1 when the store or the read model cannot be reached or refuses.", []string{"read_model", "partition"}, nil)
)

type metrics struct {
	events *prometheus.CounterVec
	ranges *prometheus.CounterVec
	took   *prometheus.HistogramVec
}

func newMetrics() *metrics {
	return &metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_projection_events_total", Help: "Events applied by this process.",
		}, []string{"read_model", "partition"}),
		ranges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_projection_ranges_total", Help: "Ranges handled by this process, by outcome: applied, stale or failed.",
		}, []string{"read_model", "partition", "outcome"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tollgate_projection_apply_seconds", Help: "Time to apply one range.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 30},
		}, []string{"read_model"}),
	}
}

func (m *metrics) applied(g projections.Range, events int, took time.Duration, err error) {
	partition, outcome := strconv.Itoa(g.Partition), "applied"
	switch {
	case err == nil:
		m.events.WithLabelValues(g.ReadModel, partition).Add(float64(events))
	case errors.Is(err, projections.ErrStale):
		outcome = "stale"
	default:
		outcome = "failed"
	}
	m.ranges.WithLabelValues(g.ReadModel, partition, outcome).Inc()
	m.took.WithLabelValues(g.ReadModel).Observe(took.Seconds())
}

// Describe implements prometheus.Collector.
func (r *Runner) Describe(out chan<- *prometheus.Desc) {
	out <- offsetMetric
	out <- haltedMetric
	out <- failingMetric
	r.metrics.events.Describe(out)
	r.metrics.ranges.Describe(out)
	r.metrics.took.Describe(out)
}

// Collect implements prometheus.Collector.
func (r *Runner) Collect(out chan<- prometheus.Metric) {
	for _, h := range r.Health() {
		partition := strconv.Itoa(h.Partition)
		gauge := func(d *prometheus.Desc, value float64) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, h.ReadModel, partition)
		}
		gauge(offsetMetric, float64(h.Offset))
		gauge(haltedMetric, truth(h.State == Halted))
		gauge(failingMetric, truth(h.State == Failing))
	}
	r.metrics.events.Collect(out)
	r.metrics.ranges.Collect(out)
	r.metrics.took.Collect(out)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
