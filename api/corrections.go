package api

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
)

// VoidEvent is POST /v1/events/{eventType}/{sourceId}/void.
func (s *Server) VoidEvent(c echo.Context, eventType EventType, sourceID SourceId, _ VoidEventParams) error {
	var reason string
	err := readObjectAs(c, codeInvalidEvent, []string{"reason"}, func(d *decoder, v []jsontext.Value) {
		if !absent(v[0]) {
			reason, _ = d.str(v[0], "/reason")
		}
	})
	if err != nil {
		return err
	}
	return s.correct(c, eventType, sourceID, func(ctx context.Context, id event.Identity, by event.Actor) (app.Receipt, error) {
		return s.Ledger.Void(ctx, id, reason, by)
	})
}

// AdjustEvent is POST /v1/events/{eventType}/{sourceId}/adjust.
func (s *Server) AdjustEvent(c echo.Context, eventType EventType, sourceID SourceId, _ AdjustEventParams) error {
	var a app.Adjustment
	err := readObjectAs(c, codeInvalidEvent, []string{"quantity", "data", "reason"}, func(d *decoder, v []jsontext.Value) {
		if absent(v[0]) {
			d.refuse("/quantity", "quantity is required")
		} else if a.Quantity = d.quantity(v[0], "/quantity"); a.Quantity.Sign() < 0 {
			d.refuse("/quantity", "quantity must be greater than 0")
		}
		if !absentOrNull(v[1]) {
			data := d.data(v[1], "/data")
			a.Data = &data
		}
		if !absent(v[2]) {
			a.Reason, _ = d.str(v[2], "/reason")
		}
	})
	if err != nil {
		return err
	}
	return s.correct(c, eventType, sourceID, func(ctx context.Context, id event.Identity, by event.Actor) (app.Receipt, error) {
		return s.Ledger.Adjust(ctx, id, a, by)
	})
}

func (s *Server) correct(c echo.Context, eventType, sourceID string, do func(context.Context, event.Identity, event.Actor) (app.Receipt, error)) error {
	in := inside(c)
	id, err := identity(in, eventType, sourceID)
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	receipt, err := do(ctx, id, in.actor)
	if err != nil {
		return err
	}
	return writeBody(c, statusOf(receipt), appendReceipt(nil, receipt, sourceID))
}
