package app_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tollgate-io/tollgate/adapters/storetest"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/app/apptest"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Short names for what most tests here use.
type (
	directory = apptest.Directory
	fault     = apptest.Fault
)

const (
	none   = apptest.None
	before = apptest.Before
	after  = apptest.After
	meters = apptest.Meters
)

var (
	ctx       = context.Background()
	noon      = apptest.Noon
	parsed    = apptest.Parsed
	data      = apptest.Data
	interview = apptest.Interview
	tokens    = apptest.Tokens
	errDown   = errors.New("the read models are down")
)

// TestMain runs everything twice: with dense offsets in several partitions, and with offsets that only rise in one.
func TestMain(m *testing.M) { storetest.Main(m) }

// fixture is the application on a log in memory.
type fixture struct{ *apptest.Fixture }

func newLog(t testing.TB) eventstore.Store {
	return storetest.New(t, 3, func() time.Time { return noon })
}

func emptyFixture(t testing.TB) *fixture { return &fixture{apptest.Empty(t, newLog(t))} }

// newFixture has the tenants t1 and t2 and the meters above.
func newFixture(t testing.TB) *fixture { return &fixture{apptest.New(t, newLog(t))} }

func statuses(receipts []app.Receipt) string {
	names := make([]string, len(receipts))
	for i, r := range receipts {
		if names[i] = string(r.Status); r.Status == "" {
			names[i] = "unknown"
		}
	}
	return strings.Join(names, " ")
}
