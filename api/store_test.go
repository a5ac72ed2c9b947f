package api_test

import (
	"context"
	"flag"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
	"github.com/tollgate-io/tollgate/adapters/memory"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// onEventStoreDB makes the logs of all tests those of an EventStoreDB, instead of memory.
var onEventStoreDB bool

// TestMain runs everything twice: with dense offsets in several partitions, and with offsets that only rise in one.
func TestMain(m *testing.M) {
	code := m.Run()
	if onEventStoreDB = true; code == 0 {
		// Each log is a server of its own there: a property is shown by fewer of them.
		if err := flag.Set("rapid.checks", "5"); err != nil {
			panic(err)
		}
		code = m.Run()
	}
	os.Exit(code)
}

// newStore makes an empty log.
func newStore(t testing.TB) eventstore.Store {
	t.Helper()
	now := func() time.Time { return clock }
	if !onEventStoreDB {
		return memory.NewStore(4, now)
	}
	cluster := esdbtest.New(t, 1)
	cluster.SetClock(now)
	log, err := eventstoredb.Open(context.Background(), eventstoredb.Config{URL: cluster.URL()})
	require.NoError(t, err)
	t.Cleanup(log.Close)
	return log
}

var position = regexp.MustCompile(`"position":"\d+-\d+"`)

// placed leaves out where events stand, where that depends on their size.
func placed(answer string) string {
	if onEventStoreDB {
		return position.ReplaceAllString(answer, `"position":"?"`)
	}
	return answer
}
