package app_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

func TestCheckHistory(t *testing.T) {
	denied := event.LimitDecided{}
	allowed := event.LimitDecided{Allowed: true}
	held := event.LimitDecided{Allowed: true, Keeps: true, KeepUntil: noon}
	longer := held
	longer.KeepUntil = noon.Add(time.Hour)
	released, expired := event.HoldReleased{}, event.HoldExpired{}
	for name, c := range map[string]struct {
		events   []any // oldest first, at the offsets 1, 2 ...
		fact     int64 // its offset
		recorded time.Time
		at       int64 // of the latest decision; 0 is none
		state    app.HoldState
	}{
		"never asked":                   {nil, 1, noon, 0, ""},
		"denied":                        {[]any{denied}, 2, noon, 1, ""},
		"allowed without a hold":        {[]any{allowed}, 2, noon, 1, ""},
		"settled":                       {[]any{held}, 2, noon.Add(-1), 1, app.HoldSettled},
		"came with the end of the hold": {[]any{held}, 2, noon, 1, app.HoldExpired},
		"held for longer":               {[]any{held, longer}, 3, noon, 2, app.HoldSettled},
		"released":                      {[]any{held, released}, 3, noon.Add(-1), 1, app.HoldReleased},
		"expired":                       {[]any{held, expired}, 3, noon.Add(1), 1, app.HoldExpired},
		"held again":                    {[]any{held, released, longer}, 4, noon, 3, app.HoldSettled},
		"asked again without a hold":    {[]any{held, allowed}, 3, noon.Add(-1), 2, app.HoldSettled},
		"asked for too much meanwhile":  {[]any{held, denied}, 3, noon.Add(-1), 2, app.HoldSettled},
		"told after the fact":           {[]any{held, expired, denied}, 1, noon.Add(-1), 1, app.HoldSettled},
		"not asked before it happened":  {[]any{denied}, 0, noon, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var decided []event.Decoded
			for i, e := range c.events {
				decided = append(decided, event.Decoded{Recorded: eventstore.Recorded{Position: eventstore.Position{Offset: int64(i + 1)}}, Payload: e})
			}
			slices.Reverse(decided)
			s := app.History{Position: eventstore.Position{Offset: c.fact}, RecordedAt: c.recorded}.Checks(decided)
			require.Equal(t, c.at, s.At.Offset)
			require.Equal(t, c.at == 0, s.Decision == nil)
			require.Equal(t, c.state, s.HoldState)
			require.Equal(t, c.state == "", s.Hold == nil)
		})
	}
}
