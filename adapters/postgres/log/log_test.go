package log_test

import (
	"testing"

	"github.com/tollgate-io/tollgate/adapters/pgserver/pgtest"
	pglog "github.com/tollgate-io/tollgate/adapters/postgres/log"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/eventstore/eventstoretest"
)

func TestLogKeepsTheContract(t *testing.T) {
	eventstoretest.Run(t, func(t *testing.T) eventstoretest.Stores {
		url := pgtest.Database(t)
		return eventstoretest.Stores{Open: func(t *testing.T) eventstore.Store {
			return openLog(t, url, pglog.Config{Partitions: 3, LeafSize: 4096})
		}}
	})
}
