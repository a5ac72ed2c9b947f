package app_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/adapters/memory"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// clumsy imports as a store may: tenants in any order among each other; and it fails in the middle when it is told to.
type clumsy struct {
	*memory.Store
	pick func(n int) int // one of n
	fail func() bool     // after this event
}

func (c *clumsy) Import(ctx context.Context, events []eventstore.Original) error {
	tenants := map[string][]eventstore.Original{}
	var names []string
	for _, e := range events {
		if tenants[e.Tenant] == nil {
			names = append(names, e.Tenant)
		}
		tenants[e.Tenant] = append(tenants[e.Tenant], e)
	}
	for len(names) > 0 {
		i := c.pick(len(names))
		of := tenants[names[i]]
		if err := c.Store.Import(ctx, of[:1]); err != nil {
			return err
		}
		if tenants[names[i]] = of[1:]; len(of) == 1 {
			names = slices.Delete(names, i, i+1)
		}
		if c.fail() {
			return fmt.Errorf("%w: connection reset", eventstore.ErrUnavailable)
		}
	}
	return nil
}

// written is a log to be moved, with invoices that mention positions.
type written struct {
	t        require.TestingT
	log      *memory.Store
	n        int
	invoices map[event.TenantID]int64
	now      time.Time
}

func newWritten(t require.TestingT, partitions int) *written {
	w := &written{t: t, invoices: map[event.TenantID]int64{}, now: noon}
	w.log = memory.NewStore(partitions, func() time.Time { return w.now })
	return w
}

func (w *written) append(a eventstore.Append) {
	r := w.log.Append(ctx, []eventstore.Append{a})[0]
	require.Equal(w.t, eventstore.Appended, r.Outcome, "%v", r.Err)
}

func (w *written) use(id event.TenantID) {
	w.n++
	w.append(event.Usage{Identity: event.Identity{Tenant: id, Type: "interview", Source: event.SourceID(nth(w.n))}, Quantity: money.Int(1), OccurredAt: w.now}.Append(event.Metadata{}))
}

// claim is an event of the system, which belongs to no tenant.
func (w *written) claim(id event.TenantID) {
	w.n++
	w.append(event.NameClaimed{Kind: "slug", Name: nth(w.n), Tenant: id, By: "system"}.Append(eventstore.NoStream))
}

// invoice is one of the usage up to an offset.
func (w *written) invoice(id event.TenantID, upTo int64) {
	at := eventstore.Position{Partition: eventstore.PartitionOf(string(id), w.log.Partitions()), Offset: upTo}
	w.append(event.InvoiceFinalised{Tenant: id, By: "system", Invoice: event.Invoice{ID: event.InvoiceID(fmt.Sprint(id, w.invoices[id])), Number: "1", Currency: "EUR",
		PeriodStart: noon, PeriodEnd: noon, CycleStart: noon, CycleEnd: noon, Lines: []event.InvoiceLine{}, Position: at.String()}}.Append(eventstore.Revision(w.invoices[id] - 1)))
	w.invoices[id]++
}

func nth(n int) string { return fmt.Sprintf("source-%d", n) }

func tenantNames(n int) (names []event.TenantID) {
	for i := range n {
		names = append(names, event.TenantID(fmt.Sprint("tenant-", i)))
	}
	return names
}

// originals are all events by tenant, in their order.
func originals(t require.TestingT, log eventstore.Copyable) map[string][]eventstore.Original {
	all := map[string][]eventstore.Original{}
	for p := range log.Partitions() {
		events, err := log.ReadOriginals(ctx, eventstore.Position{Partition: p}, eventstore.MaxReadLimit)
		require.NoError(t, err)
		for _, e := range events {
			all[e.Tenant] = append(all[e.Tenant], e)
		}
	}
	return all
}

// Whatever the log has, however many partitions either store has, and wherever it is interrupted: in the end the copy is equal, and
// every invoice is of the usage that it was of.
func TestAMovedLogIsEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWritten(t, rapid.IntRange(1, 4).Draw(t, "partitions"))
		to := &clumsy{Store: memory.NewStore(rapid.IntRange(1, 4).Draw(t, "partitions of the copy"), func() time.Time { return noon }),
			pick: func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "tenant") }}
		write := func() {
			for range rapid.IntRange(0, 40).Draw(t, "events") {
				id := rapid.SampledFrom(tenantNames(4)).Draw(t, "of")
				if rapid.Bool().Draw(t, "passes") {
					w.now = w.now.Add(time.Second)
				}
				switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
				case kind < 7:
					w.use(id)
					continue
				case kind == 7:
					w.claim(id)
					continue
				}
				head, err := w.log.Head(ctx, eventstore.PartitionOf(string(id), w.log.Partitions()))
				require.NoError(t, err)
				w.invoice(id, rapid.Int64Range(max(0, head.Offset-6), head.Offset).Draw(t, "up to"))
			}
		}
		var report app.CopyReport
		for range rapid.IntRange(1, 2).Draw(t, "moves") { // what was written since comes with the next one
			write()
			to.fail = func() bool { return rapid.IntRange(0, 15).Draw(t, "fails") == 0 }
			for tries := 0; ; tries++ {
				if tries > 5 {
					to.fail = func() bool { return false }
				}
				var err error
				if report, err = (app.CopyLog{From: w.log, To: to}).Run(ctx); err == nil {
					break
				}
				require.ErrorIs(t, err, eventstore.ErrUnavailable)
			}
		}
		from, copied := originals(t, w.log), originals(t, to)
		require.Equal(t, len(from), len(copied))
		tenants, events := len(from), 0
		if from[""] != nil {
			tenants--
		}
		require.Equal(t, tenants, report.Tenants)
		for id, want := range from {
			got := copied[id]
			require.Equal(t, len(want), len(got), id)
			events += len(want)
			for i := range want {
				require.Equal(t, want[i].ID, got[i].ID)
				require.False(t, got[i].RecordedAt.Before(want[i].RecordedAt), "it is later only where it would go back")
				a, err := event.Decode(want[i].Recorded)
				require.NoError(t, err)
				b, err := event.Decode(got[i].Recorded)
				require.NoError(t, err)
				was, ok := a.(event.InvoiceFinalised)
				if !ok {
					require.Equal(t, want[i].Data, got[i].Data)
					continue
				}
				is := b.(event.InvoiceFinalised)
				counted := func(all []eventstore.Original, position string) (n int) {
					at, err := eventstore.ParsePosition(position)
					require.NoError(t, err)
					for j := range all {
						if all[j].Position.Offset <= at.Offset {
							n++
						}
					}
					return n
				}
				require.Equal(t, counted(want, was.Invoice.Position), counted(got, is.Invoice.Position), "usage of the invoice up to %s and %s", was.Invoice.Position, is.Invoice.Position)
				was.Invoice.Position = is.Invoice.Position
				require.Equal(t, was, is)
			}
		}
		require.EqualValues(t, events, report.Events)
	})
}

// A log that is not a copy is refused, with what is wrong, and is left as it is.
func TestWhatIsNoCopyIsRefused(t *testing.T) {
	w := newWritten(t, 1)
	for i := range 30 {
		w.use(tenantNames(3)[i%3])
	}
	w.invoice("tenant-0", 12)
	for i := range 5 {
		w.use(tenantNames(3)[i%3])
	}
	copyWith := func(change func(*[]eventstore.Original)) *memory.Store {
		all, err := w.log.ReadOriginals(ctx, eventstore.Position{}, 100)
		require.NoError(t, err)
		change(&all)
		to := memory.NewStore(1, func() time.Time { return noon.Add(time.Hour) })
		require.NoError(t, to.Import(ctx, all))
		return to
	}
	for what, change := range map[string]func(*[]eventstore.Original){
		"another payload":    func(all *[]eventstore.Original) { (*all)[3].Data = (*all)[4].Data },
		"another id":         func(all *[]eventstore.Original) { (*all)[3].ID = (*all)[4].ID },
		"another recordedAt": func(all *[]eventstore.Original) { (*all)[35].RecordedAt = noon.Add(time.Minute) },
		"another type":       func(all *[]eventstore.Original) { (*all)[3].Type = "usage_recorded.v1:other" },
		"another order": func(all *[]eventstore.Original) {
			(*all)[3], (*all)[6] = (*all)[6], (*all)[3] // of one tenant
		},
		"something missing in the middle": func(all *[]eventstore.Original) { *all = slices.Delete(*all, 3, 4) },
		"another position in an invoice": func(all *[]eventstore.Original) {
			data, err := event.Relocate((*all)[30].Recorded, func(eventstore.Position) (eventstore.Position, error) { return eventstore.Position{Offset: 9}, nil })
			require.NoError(t, err)
			(*all)[30].Data = data
		},
		"something more": func(all *[]eventstore.Original) {
			more := (*all)[35]
			more.Stream, more.ID[0] = "usage-more", more.ID[0]+1
			*all = append(*all, more)
		},
	} {
		to := copyWith(change)
		before := originals(t, to)
		_, err := app.CopyLog{From: w.log, To: to}.Run(ctx)
		require.ErrorIs(t, err, eventstore.ErrNotACopy, what)
		if what != "something missing in the middle" {
			require.Equal(t, before, originals(t, to), what)
		}
	}
	to := copyWith(func(*[]eventstore.Original) {})
	report, err := app.CopyLog{From: w.log, To: to}.Run(ctx)
	require.NoError(t, err)
	require.Zero(t, report.Copied)
	again, err := app.CopyLog{From: to, To: copyWith(func(all *[]eventstore.Original) { *all = (*all)[:7] })}.Run(ctx)
	require.NoError(t, err)
	require.Equal(t, report.Digest, again.Digest)
	require.EqualValues(t, 29, again.Copied)
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	_, err = app.CopyLog{From: w.log, To: to}.Run(canceled)
	require.True(t, errors.Is(err, context.Canceled), err)
}

// Another log, or a copy in which somebody has gone on while the log has gone on as well, is refused before anything is
// written to it.
func TestALogOfOthersIsLeftAsItIs(t *testing.T) {
	w := newWritten(t, 1)
	for i := range 30 {
		w.use(tenantNames(3)[i%3])
	}
	for what, to := range map[string]*written{"another log": newWritten(t, 1), "a copy in use": newWritten(t, 1)} {
		if what == "a copy in use" {
			_, err := app.CopyLog{From: w.log, To: to.log}.Run(ctx)
			require.NoError(t, err)
			w.use("tenant-0")
		}
		to.n = 1000
		for range 5 {
			to.use("tenant-0")
		}
		before := originals(t, to.log)
		_, err := app.CopyLog{From: w.log, To: to.log}.Run(ctx)
		require.ErrorIs(t, err, eventstore.ErrNotACopy, what)
		require.Equal(t, before, originals(t, to.log), what)
	}
}

// busy is a log to which something is appended each time that it is read.
type busy struct {
	*memory.Store
	w    *written
	left int
}

func (b *busy) ReadOriginals(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Original, error) {
	if b.left--; b.left > 0 {
		b.w.use("tenant-0")
	}
	return b.Store.ReadOriginals(ctx, after, limit)
}

// What is appended while it is read is for the next move: else a busy log would never end.
func TestABusyLogIsMovedUpToWhereItWas(t *testing.T) {
	w := newWritten(t, 1)
	for range 30 {
		w.use("tenant-0")
	}
	from := &busy{w.log, w, 500}
	report, err := app.CopyLog{From: from, To: memory.NewStore(1, w.now.UTC)}.Run(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 30, report.Events)
	require.Positive(t, from.left)
}
