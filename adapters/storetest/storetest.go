// Package storetest gives tests of what is above the log an empty one, and runs them once for each kind of log: with dense
// offsets in several partitions, and with offsets that only rise in one.
package storetest

import (
	"context"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
	"github.com/tollgate-io/tollgate/adapters/memory"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

var onEventStoreDB bool

// OnEventStoreDB reports whether logs are those of an EventStoreDB now, instead of memory.
func OnEventStoreDB() bool { return onEventStoreDB }

// Main runs the tests of a package twice; call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if onEventStoreDB = true; code == 0 {
		// Each log is a server of its own there: a property is shown by fewer of them.
		if flag.Lookup("rapid.checks") != nil {
			if err := flag.Set("rapid.checks", "5"); err != nil {
				panic(err)
			}
		}
		code = m.Run()
	}
	os.Exit(code)
}

// New makes an empty log with so many partitions, where its kind can have more than one.
func New(t testing.TB, partitions int, now func() time.Time) eventstore.Store {
	t.Helper()
	if !onEventStoreDB {
		return memory.NewStore(partitions, now)
	}
	cluster := esdbtest.New(t, 1)
	cluster.SetClock(now)
	log, err := eventstoredb.Open(context.Background(), eventstoredb.Config{URL: cluster.URL()})
	require.NoError(t, err)
	t.Cleanup(log.Close)
	return log
}
