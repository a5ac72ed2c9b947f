package readmodels_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// BenchmarkRebuild rebuilds all read models from a log of 500,000 facts of 100 tenants and three meters. It reports the
// rate of the fold with its indexes, and of everything: comparison and switch included.
func BenchmarkRebuild(b *testing.B) {
	const facts, tenants = 500_000, 100
	l := newLedger(b)
	l.append(applyTestCatalog(b))
	batch := make([]eventstore.Append, 0, eventstore.MaxAppends)
	for n := range facts {
		batch = append(batch, tokens(event.TenantID(fmt.Sprintf("tenant_%d", n%tenants)), n).Append(counted))
		if len(batch) == cap(batch) {
			l.append(batch...)
			batch = batch[:0]
		}
	}
	l.append(batch...)
	_, err := l.Rebuild(context.Background(), l.log, nil, nil) // up to the serving checkpoints, which are at 0
	require.NoError(b, err)
	started := time.Now()
	l.project()
	b.Logf("live projection of %d events: %.0f events/s", facts, facts/time.Since(started).Seconds())
	b.ResetTimer()
	var folded, took float64
	for b.Loop() {
		report, err := l.Rebuild(context.Background(), l.log, nil, nil)
		require.NoError(b, err)
		require.GreaterOrEqual(b, report.Events, int64(facts))
		folded += float64(report.Events) / report.Folded.Seconds()
		took += float64(report.Events) / report.Took.Seconds()
		b.Logf("%+v", report)
	}
	b.ReportMetric(folded/float64(b.N), "folded/s")
	b.ReportMetric(took/float64(b.N), "events/s")
}
