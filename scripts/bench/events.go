package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// The catalog has the meters of the contract's example, no more: each meter is one more row to keep up to date.
const benchCatalog = `meters:
  - {key: ai_interviews, eventType: ai_interview_completed, aggregation: sum}
  - {key: tokens, eventType: tokens_spent, aggregation: sum, dimensions: [provider, model, feature, promptVersion]}
  - {key: output_tokens, eventType: tokens_spent, value: data.outputTokens, aggregation: sum, dimensions: [model]}
`

const (
	tenants = 100
	// eventsPerDay spreads the facts over time, so that as many fall into one row of a read model as in production.
	eventsPerDay = 1_000_000
	// idLength is the length of every source id: they are patched in place in requests that were built before.
	idLength = 18
)

var (
	features = []string{"interview", "screening", "summary"}
	models   = []struct{ provider, name string }{
		{"openai", "gpt-4.1"}, {"openai", "gpt-4.1-mini"}, {"openai", "o4-mini"}, {"anthropic", "claude-sonnet-4"}, {"google", "gemini-2.5-flash"},
	}
)

func tenantName(n int) string { return fmt.Sprintf("tenant_%03d", n) }

func tenantOf(n int) event.TenantDefined {
	return event.TenantDefined{Tenant: event.TenantID(tenantName(n)), Name: "Tenant " + strconv.Itoa(n), TimeZone: "Europe/Berlin",
		Currency: "USD", By: "bench"}
}

// ids hands out source ids. No two events of a run have the same one, in any database.
var ids atomic.Uint64

// putID writes id number n. The number is multiplied by an odd constant, which maps the numbers one to one and leaves
// nothing of their order: identities reach the indexes at random, as they do in production.
func putID(b []byte, n uint64) {
	const letters = "0123456789abcdefghijklmnopqrstuv"
	copy(b, "call_")
	n *= 0x9e3779b97f4a7c15
	for i := 5; i < idLength; i++ {
		b[i] = letters[n&31]
		n >>= 5
	}
}

func newID() string {
	b := make([]byte, idLength)
	putID(b, ids.Add(1))
	return string(b)
}

// generator makes typical events: the contract's example with variation. Nine in ten are calls of a model, the rest are
// completed interviews. The same seed gives the same events, but for their ids.
type generator struct {
	random *rand.Rand
	at     time.Time
	step   time.Duration
}

func newGenerator(seed uint64, start time.Time) *generator {
	return &generator{random: rand.New(rand.NewPCG(seed, 1)), at: start.UTC(), step: 24 * time.Hour / eventsPerDay}
}

// fact is one event before it gets the form that a benchmark needs.
type fact struct {
	tenant, eventType string
	quantity          int64
	occurredAt        time.Time
	data              []byte // JSON
}

func (g *generator) next() fact {
	r := g.random
	g.at = g.at.Add(g.step)
	input, output := 200+int64(r.ExpFloat64()*900), 20+int64(r.ExpFloat64()*180)
	m := models[r.IntN(len(models))]
	f := fact{tenant: tenantName(r.IntN(tenants)), eventType: "tokens_spent", quantity: input + output,
		occurredAt: g.at.Add(-time.Duration(r.Int64N(int64(2 * time.Second)))).Truncate(time.Millisecond)}
	if r.IntN(10) == 0 {
		f.eventType, f.quantity = "ai_interview_completed", 1
	}
	status, attempt, retryOf := "ok", 1, "null"
	if r.IntN(50) == 0 {
		status = "error"
	}
	if r.IntN(30) == 0 {
		attempt, retryOf = 2, `"call_0123456789abc"`
	}
	f.data = fmt.Appendf(nil, `{"userId":"u%d","feature":"%s","provider":"%s","model":"%s","promptVersion":"v%d","inputTokens":%d,"outputTokens":%d,`+
		`"cachedInputTokens":%d,"latencyMs":%d,"cacheHit":%t,"safety":"passed","status":"%s","attempt":%d,"retryOf":%s}`,
		r.IntN(5000), features[r.IntN(len(features))], m.provider, m.name, 6+r.IntN(2), input, output,
		r.Int64N(2)*input/2, 300+int(r.ExpFloat64()*700), r.IntN(10) == 0, status, attempt, retryOf)
	return f
}

// appendJSON writes the event as a client sends it, and returns where its source id stands.
func (f fact) appendJSON(b []byte) (_ []byte, id int) {
	b = fmt.Appendf(b, `{"tenantId":"%s","eventType":"%s","quantity":%d,"sourceId":"`, f.tenant, f.eventType, f.quantity)
	id = len(b)
	b = append(b, "call_0123456789abc"...)
	b = append(b, `","occurredAt":"`...)
	b = f.occurredAt.AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","data":`...)
	b = append(b, f.data...)
	return append(b, '}'), id
}

// submission is the event as the application takes it.
func (f fact) submission() app.Submission {
	data, err := event.ParseData(f.data, "/data")
	if err != nil {
		panic(err) // the generator writes only what the contract allows
	}
	return app.Submission{Usage: event.Usage{
		Identity: event.Identity{Tenant: event.TenantID(f.tenant), Type: event.Type(f.eventType), Source: event.SourceID(newID())},
		Quantity: money.Int(f.quantity), OccurredAt: event.Instant(f.occurredAt), Data: data,
	}}
}

func (g *generator) submissions(n int) []app.Submission {
	batch := make([]app.Submission, n)
	for i := range batch {
		batch[i] = g.next().submission()
	}
	return batch
}
