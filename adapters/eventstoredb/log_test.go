package eventstoredb_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/eventstore/eventstoretest"
)

// lacks is what the package's own documentation says it cannot promise.
var lacks = eventstoretest.Features{
	DenseOffsets: "an offset is a position in bytes in the server's log, which others write to as well",
	LargeAppends: "a server takes a mebibyte in one append, up to version 25.0",
	SteadyClock:  "the node that leads stamps events with its own clock",
	ExactAbsence: "there is no transaction over two streams: a stream is looked for before the append",
}

func open(t *testing.T, c eventstoredb.Config) *eventstoredb.Log {
	t.Helper()
	log, err := eventstoredb.Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(log.Close)
	return log
}

func TestLogKeepsTheContract(t *testing.T) {
	eventstoretest.Run(t, func(t *testing.T) eventstoretest.Stores {
		url := esdbtest.URL(t)
		return eventstoretest.Stores{Lacks: lacks, Open: func(t *testing.T) eventstore.Store {
			return open(t, eventstoredb.Config{URL: url})
		}}
	})
}

// The server that the tests imitate keeps its own rules: on a real one, this is where the imitation is held against it.
func TestServerKeepsItsRules(t *testing.T) {
	url := os.Getenv(esdbtest.Variable)
	if url == "" {
		url = esdbtest.New(t, 1).URL()
	}
	esdbtest.Conformance(t, url)
}
