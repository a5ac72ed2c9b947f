package eventstoredb_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
	"github.com/tollgate-io/tollgate/adapters/memory"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// An invoice of a tenant that went on while it was closed mentions a position in the middle of the log. It goes to an
// EventStoreDB, and from there on to wherever.
func TestAPositionInTheMiddleGoesThereAndBack(t *testing.T) {
	noon := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	from := memory.NewStore(1, func() time.Time { return noon })
	put := func(a eventstore.Append) { require.NoError(t, from.Append(t.Context(), []eventstore.Append{a})[0].Err) }
	for i := range 4 {
		put(event.Usage{Identity: event.Identity{Tenant: "acme", Type: "interview", Source: event.SourceID(fmt.Sprint(i))}, Quantity: money.Int(1), OccurredAt: noon}.Append(event.Metadata{}))
	}
	put(event.InvoiceFinalised{Tenant: "acme", By: "system", Invoice: event.Invoice{ID: "i", Number: "1", Currency: "EUR",
		PeriodStart: noon, PeriodEnd: noon, CycleStart: noon, CycleEnd: noon, Lines: []event.InvoiceLine{}, Position: "0-2"}}.Append(-1))
	url := esdbtest.New(t, 1).URL()
	log := open(t, eventstoredb.Config{URL: url})
	_, err := app.CopyLog{From: from, To: log}.Run(t.Context())
	require.NoError(t, err)
	log = open(t, eventstoredb.Config{URL: url, Retry: time.Second}) // by another process
	_, err = app.CopyLog{From: log, To: memory.NewStore(1, time.Now)}.Run(t.Context())
	require.NoError(t, err)
}
