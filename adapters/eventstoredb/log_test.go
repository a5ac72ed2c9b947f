package eventstoredb_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
)

func open(t *testing.T, c eventstoredb.Config) *eventstoredb.Log {
	t.Helper()
	log, err := eventstoredb.Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(log.Close)
	return log
}

func TestLogKeepsTheContract(t *testing.T) {
	esdbtest.Contract(t)
}

// The server that the tests imitate keeps its own rules: on a real one, this is where the imitation is held against it.
func TestServerKeepsItsRules(t *testing.T) {
	url := os.Getenv(esdbtest.Variable)
	if url == "" {
		url = esdbtest.New(t, 1).URL()
	}
	esdbtest.Conformance(t, url)
}
