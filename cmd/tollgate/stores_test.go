package main

import (
	"sync"
	"testing"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb/esdbtest"
)

// elsewhere says where the log of a data folder is when it is not in the folder's Postgres.
var elsewhere sync.Map

// onEveryStore runs a test with the log in Postgres, and with the log in an EventStoreDB and only the read models in Postgres.
func onEveryStore(t *testing.T, test func(t *testing.T, dir string)) {
	t.Helper()
	t.Run("postgres", func(t *testing.T) { test(t, dataFolder(t)) })
	t.Run("eventstoredb", func(t *testing.T) {
		dir := dataFolder(t)
		elsewhere.Store(dir, esdbtest.URL(t))
		test(t, dir)
	})
}

func eventStoreOf(dir string) []string {
	if url, ok := elsewhere.Load(dir); ok {
		return []string{"TOLLGATE_EVENT_STORE=" + url.(string)}
	}
	return nil
}

// rounds is how often a torture does its worst: in its short form once where the log is not in Postgres.
func rounds(dir string) int {
	if eventStoreOf(dir) != nil {
		return max(1, *torture-1)
	}
	return *torture
}
