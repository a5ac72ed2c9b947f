package event_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// contractData is the data of the event in the HTTP contract, letter for letter: the typical event of the figures.
const contractData = `{"userId":"u1","feature":"interview","provider":"openai","model":"gpt-4.1","promptVersion":"v7","inputTokens":812,"outputTokens":164,
         "cachedInputTokens":0,"latencyMs":930,"cacheHit":false,"safety":"passed","status":"ok","attempt":1,"retryOf":null}`

func contractUsage(tb testing.TB) event.Usage {
	tb.Helper()
	data, err := event.ParseData([]byte(contractData), "/data")
	if err != nil {
		tb.Fatal(err)
	}
	return event.Usage{
		Identity:   event.Identity{Tenant: "tenant_123", Type: "ai_interview_completed", Source: "interview_456"},
		Quantity:   money.Int(1),
		OccurredAt: time.Date(2026, 4, 5, 10, 30, 0, 0, time.UTC),
		Data:       data,
	}
}

// recorded puts what an append writes on a log of one event.
func recorded(a eventstore.Append) eventstore.Recorded {
	return eventstore.Recorded{
		Position: eventstore.Position{Partition: 0, Offset: 1}, Stream: a.Stream, Revision: a.Expected + 1, Tenant: a.Tenant,
		Type: a.Events[0].Type, Data: a.Events[0].Data,
	}
}

func BenchmarkParseData(b *testing.B) {
	raw := []byte(contractData)
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := event.ParseData(raw, "/data"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUsageAppend(b *testing.B) {
	u := contractUsage(b)
	b.ReportAllocs()
	for b.Loop() {
		if a := u.Append(event.Metadata{Catalog: 3}); a.Events[0].ID == uuid.Nil {
			b.Fatal("no id")
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	r := recorded(contractUsage(b).Append(event.Metadata{Catalog: 3}))
	b.ReportAllocs()
	b.ReportMetric(float64(len(r.Data)), "payload-bytes")
	for b.Loop() {
		if _, err := event.Decode(r); err != nil {
			b.Fatal(err)
		}
	}
}
