package stack

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-io/tollgate/domain/limiter"
)

// lagCollector measures the lag of the read models when the metrics are read.
type lagCollector struct {
	stack  *Stack
	events *prometheus.Desc
	age    *prometheus.Desc
	up     *prometheus.Desc
}

func newLagCollector(s *Stack) *lagCollector {
	labels := []string{"read_model", "partition"}
	return &lagCollector{stack: s,
		events: prometheus.NewDesc("tollgate_projection_lag_events", "Events on the log that the read model does not show yet.", labels, nil),
		age:    prometheus.NewDesc("tollgate_projection_lag_seconds", "Age of the oldest of them.", labels, nil),
		up:     prometheus.NewDesc("tollgate_store_up", "Whether the store answered when the lag was measured.", nil, nil)}
}

func (c *lagCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.events
	out <- c.age
	out <- c.up
}

func (c *lagCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	lags, err := c.stack.ReadModels.Lag(ctx, c.stack.Log, time.Now())
	if err != nil { // the other metrics are needed most during an outage
		out <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, 0)
		return
	}
	out <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, 1)
	for _, l := range lags {
		labels := []string{l.ReadModel, strconv.Itoa(l.Partition)}
		out <- prometheus.MustNewConstMetric(c.events, prometheus.GaugeValue, float64(l.Events), labels...)
		out <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, l.Age.Seconds(), labels...)
	}
}

// limitCollector reads the counts of the limit engine when the metrics are read.
type limitCollector struct {
	limits                      *limiter.Engine
	decisions                   *prometheus.Desc
	conflicts, loads, evictions *prometheus.Desc
	accounts, waiting, late     *prometheus.Desc
}

func newLimitCollector(l *limiter.Engine) *limitCollector {
	return &limitCollector{limits: l,
		decisions: prometheus.NewDesc("tollgate_limit_decisions_total", "Checks by result; undecided ones got no decision in time.", []string{"result"}, nil),
		conflicts: prometheus.NewDesc("tollgate_limit_conflicts_total", "Batches of decisions that were made again, because another process had appended first.", nil, nil),
		loads:     prometheus.NewDesc("tollgate_limit_account_loads_total", "Accounts loaded into memory.", nil, nil),
		evictions: prometheus.NewDesc("tollgate_limit_account_evictions_total", "Accounts dropped from memory.", nil, nil),
		accounts:  prometheus.NewDesc("tollgate_limit_accounts", "Accounts in memory.", nil, nil),
		waiting:   prometheus.NewDesc("tollgate_limit_degraded_waiting", "Decisions given without the log that are not recorded yet.", nil, nil),
		late:      prometheus.NewDesc("tollgate_limit_degraded_total", "Decisions given without the log: recorded later, or lost.", []string{"result"}, nil)}
}

func (c *limitCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.decisions, c.conflicts, c.loads, c.evictions, c.accounts, c.waiting, c.late} {
		out <- d
	}
}

func (c *limitCollector) Collect(out chan<- prometheus.Metric) {
	n := c.limits.Counts()
	count := func(d *prometheus.Desc, value int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	count(c.decisions, n.Allowed.Load(), "allowed")
	count(c.decisions, n.Denied.Load(), "denied")
	count(c.decisions, n.Replayed.Load(), "replayed")
	count(c.decisions, n.DegradedAllowed.Load(), "degraded_allowed")
	count(c.decisions, n.Undecided.Load(), "undecided")
	count(c.conflicts, n.Conflicts.Load())
	count(c.loads, n.Loads.Load())
	count(c.evictions, n.Evictions.Load())
	count(c.late, n.LateRecorded.Load(), "recorded")
	count(c.late, n.LateLost.Load(), "lost")
	out <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(c.limits.Waiting()))
	out <- prometheus.MustNewConstMetric(c.accounts, prometheus.GaugeValue, float64(c.limits.InMemory()))
}
