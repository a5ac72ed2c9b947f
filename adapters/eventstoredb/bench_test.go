package eventstoredb_test

import (
	"fmt"
	"testing"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// What a batch costs against the server in this process, which costs as much as the client.
func BenchmarkAppend(b *testing.B) {
	url := esdbtest.URL(b)
	for _, size := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			log, err := eventstoredb.Open(b.Context(), eventstoredb.Config{URL: url})
			if err != nil {
				b.Fatal(err)
			}
			defer log.Close()
			run := 0
			for b.Loop() {
				run++
				var batch []eventstore.Append
				for i := range size {
					batch = append(batch, one(fmt.Sprintf("usage-%d-%d-%d", size, run, i), -1, "a"))
				}
				for _, r := range log.Append(b.Context(), batch) {
					if r.Outcome != eventstore.Appended && r.Outcome != eventstore.Duplicate {
						b.Fatal(r.Err)
					}
				}
			}
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
