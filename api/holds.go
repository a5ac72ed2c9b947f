package api

import (
	"cmp"
	"crypto/sha256"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
)

// ListHolds is GET /v1/holds.
func (s *Server) ListHolds(c echo.Context, params ListHoldsParams) error {
	most, cursor, err := page(params.Limit, params.Cursor)
	if err != nil {
		return err
	}
	t := inside(c).tenant.ID
	last, err := openHoldCursor(cursor, t)
	if err != nil {
		return err
	}
	view, err := s.readLimits(c, params.MinPosition, params.WaitMs, s.Limits.Holds)
	if err != nil {
		return err
	}
	showPosition(c, view.At)
	holds := view.Holds // in the order of holdCursor
	if cursor != "" {
		first, found := slices.BinarySearchFunc(holds, last, func(h limit.Hold, last holdCursor) int { return cursorOf(&h).compare(last) })
		if found {
			first++
		}
		holds = holds[first:]
	}
	holds, next := firstPage(holds, most, func(h *limit.Hold) string { return newHoldCursor(cursorOf(h), t) })
	return writeJSON(c, http.StatusOK, listOf(holds, next, viewHold))
}

type holdView struct {
	Type        event.Type     `json:"eventType"`
	Source      event.SourceID `json:"sourceId"`
	Quantity    money.Decimal  `json:"quantity"`
	Position    position       `json:"position"`
	DecidedAt   instant        `json:"decidedAt"`
	ExpiresAt   instant        `json:"expiresAt"`
	KeepUntil   instant        `json:"keepUntil"`
	PlanVersion optional       `json:"planVersion"`
	Limits      []holdPartView `json:"limits"`
}

// holdPartView is what is held of one limit.
type holdPartView struct {
	Limit     string        `json:"limit"`
	Amount    money.Decimal `json:"amount"`
	ExpiresAt instant       `json:"expiresAt"`
}

func viewHold(h *limit.Hold) holdView {
	view := holdView{
		Type: h.Type, Source: h.Source, Quantity: h.Quantity, Position: position(h.Position), DecidedAt: instant(h.DecidedAt),
		ExpiresAt: instant(h.HoldEnds()), KeepUntil: instant(h.KeepUntil), PlanVersion: optional(h.PlanVersion),
	}
	for i := range h.Parts {
		if p := &h.Parts[i]; !p.ExpiresAt.IsZero() { // else nothing is held of it
			view.Limits = append(view.Limits, holdPartView{p.Limit, p.Requested, instant(p.ExpiresAt)})
		}
	}
	return view
}

// holdCursor is the place of a hold among those of its tenant: it stays the same when others come and go. It is bound
// to the tenant by a hash, and opaque to users.
type holdCursor struct {
	Scope  []byte         `json:"s"`
	Ends   int64          `json:"t"` // milliseconds since 1970
	Type   event.Type     `json:"e"`
	Source event.SourceID `json:"i"`
}

func cursorOf(h *limit.Hold) holdCursor {
	return holdCursor{Ends: h.KeepUntil.UnixMilli(), Type: h.Type, Source: h.Source}
}

// compare is the order in which the engine lists holds: as they are forgotten, then by type and source. A page that was in
// another order would skip some.
func (c holdCursor) compare(other holdCursor) int {
	return cmp.Or(cmp.Compare(c.Ends, other.Ends), cmp.Compare(c.Type, other.Type), cmp.Compare(c.Source, other.Source))
}

func holdScope(t event.TenantID) []byte {
	sum := sha256.Sum256([]byte("holds\x00" + string(t)))
	return sum[:12]
}

func newHoldCursor(c holdCursor, t event.TenantID) string {
	c.Scope = holdScope(t)
	return newCursor(c)
}

func openHoldCursor(text string, t event.TenantID) (c holdCursor, err error) {
	if text == "" {
		return c, nil
	}
	if err := openCursor(text, &c); err != nil || string(c.Scope) != string(holdScope(t)) {
		return c, invalidParameter("cursor", "must be the nextCursor of the page before")
	}
	return c, nil
}

// ReleaseHold is DELETE /v1/holds/{eventType}/{sourceId}.
func (s *Server) ReleaseHold(c echo.Context, eventType EventType, sourceID SourceId, _ ReleaseHoldParams) error {
	in := inside(c)
	ctx, cancel := work(c)
	defer cancel()
	var (
		released bool
		at       eventstore.Position
	)
	if id, err := identity(in, eventType, sourceID); err == nil { // what cannot be an id holds nothing
		if released, at, err = s.Limits.Release(ctx, id, in.actor); err != nil {
			return err
		}
	}
	view := releaseView{Released: released}
	if released {
		view.Position = (*position)(&at)
	}
	return writeJSON(c, http.StatusOK, view)
}

type releaseView struct {
	Released bool      `json:"released"`
	Position *position `json:"position"`
}
