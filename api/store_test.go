package api_test

import (
	"regexp"
	"testing"
	"time"

	"github.com/tollgate-io/tollgate/adapters/storetest"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// TestMain runs everything twice: with dense offsets in several partitions, and with offsets that only rise in one.
func TestMain(m *testing.M) { storetest.Main(m) }

// newStore makes an empty log.
func newStore(t testing.TB) eventstore.Store {
	return storetest.New(t, 4, func() time.Time { return clock })
}

var position = regexp.MustCompile(`"position":"\d+-\d+"`)

// placed leaves out positions where they depend on the size of events.
func placed(answer string) string {
	if storetest.OnEventStoreDB() {
		return position.ReplaceAllString(answer, `"position":"?"`)
	}
	return answer
}
