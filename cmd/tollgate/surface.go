package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-io/tollgate/adapters/watermill"
	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/projections"
)

// surface fits what is open to the ports of the API.
type surface struct {
	projections.TimelineReader
	house  *house
	maxLag time.Duration
}

func newSurface(h *house, maxLag time.Duration) *surface {
	return &surface{TimelineReader: projections.TimelineReader{Index: h.readModels, Log: h.log}, house: h, maxLag: maxLag}
}

func (s *surface) Keys(ctx context.Context, limit int, cursor string) (api.Keys, eventstore.Position, error) {
	keys, next, at, err := s.house.readModels.Keys(ctx, limit, cursor)
	return api.Keys{Items: keys, NextCursor: next}, at, err
}

// Await waits for all read models: a caller does not know which of them answers.
func (s *surface) Await(ctx context.Context, at eventstore.Position) error {
	return s.house.readModels.Await(ctx, projections.Names(), at)
}

func (s *surface) Shown(ctx context.Context, of event.TenantID) (eventstore.Position, error) {
	partition := eventstore.PartitionOf(string(of), s.house.log.Partitions())
	_, offset, err := s.house.readModels.Checkpoint(ctx, projections.DirectoryModel, partition)
	return eventstore.Position{Partition: partition, Offset: offset}, err
}

// probeTimeout is shorter than the time-outs of those who probe.
const probeTimeout = 2 * time.Second

// Ready checks the store and each projection.
func (s *surface) Ready(ctx context.Context) []api.Check {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	checks := []api.Check{{Name: "store", OK: true, Detail: "reachable"}}
	lags, err := s.house.readModels.Lag(ctx, s.house.log, time.Now())
	if log, ok := s.house.log.(interface{ State() error }); ok {
		if state := log.State(); state != nil { // a log elsewhere knows what is wrong with it
			return []api.Check{{Name: "store", Detail: "the log is not reachable: " + state.Error()}}
		}
	}
	if err != nil {
		return []api.Check{{Name: "store", Detail: "not reachable"}}
	}
	states := map[string]watermill.State{}
	if s.house.runner != nil {
		for _, p := range s.house.runner.Health() {
			states[fmt.Sprintf("%s/%d", p.ReadModel, p.Partition)] = p.State
		}
	}
	for _, l := range lags {
		name := fmt.Sprintf("%s/%d", l.ReadModel, l.Partition)
		check := api.Check{Name: "projection " + name, OK: l.Age <= s.maxLag,
			Detail: fmt.Sprintf("%d events behind, the oldest for %.1f s", l.Events, l.Age.Seconds())}
		if state := states[name]; state == watermill.Halted {
			check.OK, check.Detail = false, "halted at an event that it cannot read; "+check.Detail
		}
		checks = append(checks, check)
	}
	return checks
}

// lagCollector measures the lag when the metrics are asked for.
type lagCollector struct {
	house  *house
	events *prometheus.Desc
	age    *prometheus.Desc
	up     *prometheus.Desc
}

func newLagCollector(h *house) *lagCollector {
	labels := []string{"read_model", "partition"}
	return &lagCollector{house: h,
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
	lags, err := c.house.readModels.Lag(ctx, c.house.log, time.Now())
	if err != nil { // an outage is when the other metrics are needed most
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

// limitCollector reads what the limit engine counts when the metrics are asked for.
type limitCollector struct {
	limits                      *app.Limits
	decisions                   *prometheus.Desc
	conflicts, loads, evictions *prometheus.Desc
	accounts                    *prometheus.Desc
}

func newLimitCollector(l *app.Limits) *limitCollector {
	return &limitCollector{limits: l,
		decisions: prometheus.NewDesc("tollgate_limit_decisions_total", "Checks by their answer; undecided ones have none.", []string{"result"}, nil),
		conflicts: prometheus.NewDesc("tollgate_limit_conflicts_total", "Batches of decisions that were decided again, because another process was faster.", nil, nil),
		loads:     prometheus.NewDesc("tollgate_limit_account_loads_total", "Accounts that were read into memory.", nil, nil),
		evictions: prometheus.NewDesc("tollgate_limit_account_evictions_total", "Accounts that left the memory.", nil, nil),
		accounts:  prometheus.NewDesc("tollgate_limit_accounts", "Accounts in memory.", nil, nil)}
}

func (c *limitCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.decisions, c.conflicts, c.loads, c.evictions, c.accounts} {
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
	out <- prometheus.MustNewConstMetric(c.accounts, prometheus.GaugeValue, float64(c.limits.InMemory()))
}
