package eventstoredb

import "github.com/prometheus/client_golang/prometheus"

var (
	upMetric       = prometheus.NewDesc("tollgate_eventstore_up", "1 while the server answers and the reader of the log's end is subscribed.", nil, nil)
	waitingMetric  = prometheus.NewDesc("tollgate_eventstore_appends_waiting", "Appends that have not been answered.", nil, nil)
	headMetric     = prometheus.NewDesc("tollgate_eventstore_reader_offset", "Offset up to which the reader of the log's end has come.", nil, nil)
	retriesMetric  = prometheus.NewDesc("tollgate_eventstore_retries_total", "Calls that were made again, because their outcome was unknown.", nil, nil)
	replacedMetric = prometheus.NewDesc("tollgate_eventstore_clients_replaced_total", "Clients that were given up after an outage.", nil, nil)
	beganMetric    = prometheus.NewDesc("tollgate_eventstore_subscriptions_total", "Subscriptions of the reader of the log's end; each but the first is after a drop.", nil, nil)
)

var _ prometheus.Collector = (*Log)(nil)

// Describe implements prometheus.Collector.
func (l *Log) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{upMetric, waitingMetric, headMetric, retriesMetric, replacedMetric, beganMetric} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (l *Log) Collect(out chan<- prometheus.Metric) {
	up := 1.0
	if l.State() != nil {
		up = 0
	}
	out <- prometheus.MustNewConstMetric(upMetric, prometheus.GaugeValue, up)
	out <- prometheus.MustNewConstMetric(waitingMetric, prometheus.GaugeValue, float64(l.waiting.Load()))
	out <- prometheus.MustNewConstMetric(headMetric, prometheus.GaugeValue, float64(l.tail.at()))
	out <- prometheus.MustNewConstMetric(retriesMetric, prometheus.CounterValue, float64(l.retries.Load()))
	out <- prometheus.MustNewConstMetric(replacedMetric, prometheus.CounterValue, float64(l.conn.replaced.Load()))
	out <- prometheus.MustNewConstMetric(beganMetric, prometheus.CounterValue, float64(l.tail.subscriptions.Load()))
}
