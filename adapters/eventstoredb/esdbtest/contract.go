package esdbtest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/eventstore/eventstoretest"
)

// lacks is what the documentation of the log says it cannot promise.
var lacks = eventstoretest.Features{
	DenseOffsets: "an offset is a position in bytes in the server's log, which others write to as well",
	LargeAppends: "a server takes a mebibyte in one append, up to version 25.0",
	SteadyClock:  "the node that leads stamps events with its own clock",
	ExactAbsence: "there is no transaction over two streams: a stream is looked for before the append",
}

// Contract checks that the log is an event store, on a real server or on this one.
func Contract(t *testing.T) {
	eventstoretest.Run(t, func(t *testing.T) eventstoretest.Stores {
		url := URL(t)
		return eventstoretest.Stores{Lacks: lacks, Open: func(t *testing.T) eventstore.Store {
			log, err := eventstoredb.Open(t.Context(), eventstoredb.Config{URL: url})
			require.NoError(t, err)
			t.Cleanup(log.Close)
			return log
		}}
	})
}
