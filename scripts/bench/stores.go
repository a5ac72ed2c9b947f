package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// stores compares the two adapters of the port: EventStoreDB against PostgreSQL. EventStoreDB is the imitation of the tests, in a
// process of its own, which keeps its log in memory; esdbtest.Variable names a real one instead.
func stores(ctx context.Context, b *bench, _ []string) error {
	defer b.scope()()
	url, _, err := b.ledgerDatabase(ctx)
	if err != nil {
		return err
	}
	s, err := openStack(ctx, url, 0)
	if err != nil {
		return err
	}
	b.onClose(s.Close)
	server := os.Getenv(esdbtest.Variable)
	if server == "" {
		addr, err := b.child(ctx, childConfig{Kind: childServer}, "stores-eventstoredb")
		if err != nil {
			return err
		}
		server = "esdb://" + addr + "?tls=false"
		b.report.note("stores: the EventStoreDB is the imitation of the tests, which writes to no disk")
	} else {
		server = esdbtest.WithPrefix(server, "bench-"+uuid.NewString()+"-")
		b.report.note("stores: the EventStoreDB is the one of %s", esdbtest.Variable)
	}
	// The adapter keeps as few events in memory as possible, so that reading reads from the server.
	log, err := eventstoredb.Open(ctx, eventstoredb.Config{URL: server, KeepEvents: 1})
	if err != nil {
		return err
	}
	b.onClose(log.Close)
	defer b.profile("stores")()
	for _, load := range []struct {
		name            string
		writers, events int
	}{{"stores/append/1", 1, 1}, {"stores/append/32", 32, 1}, {"stores/append/batch of 1000", 2, 1000}} {
		appends := func(to eventstore.Appender) func(context.Context, time.Duration) (measurement, error) {
			return func(ctx context.Context, d time.Duration) (measurement, error) {
				return appendFor(ctx, d, to, load.writers, load.events)
			}
		}
		all, err := b.interleave(ctx, load.name, b.roundCount, side{name: "postgres", run: appends(s.Log)}, side{name: "eventstoredb", run: appends(log)})
		if err != nil {
			return err
		}
		b.report.add(compared(load.name, "events/s", all[1], all[0]))
	}
	all, err := b.interleave(ctx, "stores/read", b.roundCount, side{name: "postgres", run: readsOf(s.Log)}, side{name: "eventstoredb", run: readsOf(log)})
	if err != nil {
		return err
	}
	b.report.add(compared("stores/read", "events/s", all[1], all[0]))
	return nil
}

// appendFor records usage in streams of its own, as the application does.
func appendFor(ctx context.Context, d time.Duration, to eventstore.Appender, writers, size int) (measurement, error) {
	return together(ctx, writers, func(ctx context.Context, i int, m *measurement) error {
		started := time.Now()
		g := newGenerator(uint64(i), started)
		batch := make([]eventstore.Append, size)
		for time.Since(started) < d && ctx.Err() == nil {
			for n := range batch {
				batch[n] = g.next().submission().Append(event.Metadata{})
			}
			before := time.Now()
			for _, r := range to.Append(ctx, batch) {
				if r.Outcome != eventstore.Appended {
					return fmt.Errorf("the outcome of an append is %d: %w", r.Outcome, r.Err)
				}
			}
			m.latencies = append(m.latencies, time.Since(before))
			m.events += size
		}
		return nil
	})
}

// readsOf reads a log in order, in the pages of a rebuild, from its beginning and again.
func readsOf(log eventstore.LogReader) func(context.Context, time.Duration) (measurement, error) {
	const page = 5000
	return func(ctx context.Context, d time.Duration) (m measurement, err error) {
		at, started := eventstore.Position{}, time.Now()
		for time.Since(started) < d {
			before := time.Now()
			events, err := log.ReadLog(ctx, at, page)
			if err != nil {
				return m, err
			}
			m.latencies = append(m.latencies, time.Since(before))
			m.events += len(events)
			if at = (eventstore.Position{}); len(events) == page {
				at = events[page-1].Position
			}
		}
		m.took = time.Since(started)
		return m.sorted(), nil
	}
}

// serveEventStore runs the imitation until the context ends.
func serveEventStore(ctx context.Context) error {
	cluster, err := esdbtest.Start(1)
	defer cluster.Stop()
	if err != nil {
		return err
	}
	fmt.Println(cluster.Nodes[0].Address())
	<-ctx.Done()
	return nil
}
