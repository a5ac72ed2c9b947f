package app

import (
	"slices"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// CheckHistory is what was decided about a fact before it happened.
type CheckHistory struct {
	Decision  *event.LimitDecided // the latest; nil where there is none
	At        eventstore.Position // of Decision
	Hold      *event.LimitDecided // what kept something last; nil where nothing did
	HoldState HoldState           // of Hold
}

// HoldState is what became of a hold.
type HoldState string

// The states. A hold whose fact is recorded is never open.
const (
	HoldOpen     HoldState = "open"
	HoldSettled  HoldState = "settled" // the fact ended it
	HoldReleased HoldState = "released"
	HoldExpired  HoldState = "expired"
)

// Checks folds the events of the fact's checks, newest first, as far as they are known.
func (h History) Checks(decided []event.Decoded) CheckHistory {
	var s CheckHistory
	for _, e := range slices.Backward(decided) {
		if e.Position.Offset > h.Position.Offset { // a process that did not know the fact yet wrote what was over already
			break
		}
		switch p := e.Payload.(type) {
		case event.LimitDecided:
			s.Decision, s.At = &p, e.Position
			if p.Keeps { // asking again without a hold leaves the one that is there
				s.Hold, s.HoldState = &p, HoldOpen
			}
		case event.HoldReleased:
			s.HoldState = HoldReleased
		case event.HoldExpired:
			s.HoldState = HoldExpired
		}
	}
	if s.HoldState == HoldOpen { // the fact ended it, or came too late for that
		s.HoldState = HoldSettled
		if !h.RecordedAt.Before(s.Hold.KeepUntil) {
			s.HoldState = HoldExpired
		}
	}
	return s
}
