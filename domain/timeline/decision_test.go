package timeline

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// A limit in mode observe denies nothing, so no sentence says that it did; the data of the entry shows it.
func TestObservedLimitsDenyNothing(t *testing.T) {
	observed := event.LimitPart{Limit: "tight", Kind: event.QuotaLimit, Denied: true, Observed: true, Max: money.Int(10), Requested: money.Int(20)}
	e := event.LimitDecided{Identity: event.Identity{Type: "tokens_spent", Source: "a"}, Quantity: money.Int(20), Allowed: true,
		Parts: []event.LimitPart{observed, {Limit: "soft", Kind: event.QuotaLimit, Soft: true, Observed: true},
			{Limit: "guard", Kind: event.AbuseGuardLimit, Denied: true, Observed: true, Until: time.Date(2026, 4, 5, 0, 0, 0, 0, time.UTC)}}}
	assert.Equal(t, "Check of 20 tokens_spent for a allowed.", decided(e))
	assert.Contains(t, string(explanation(e)), `"limit":"tight","kind":"quota","allowed":false,"mode":"observe"`)
	e.Allowed = false
	e.Parts = append(e.Parts, event.LimitPart{Limit: "wide", Kind: event.QuotaLimit, Denied: true, Max: money.Int(15), Requested: money.Int(20)})
	assert.Equal(t, "Check of 20 tokens_spent for a denied by wide: 0 used of 15.", decided(e))
}
