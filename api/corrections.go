package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
)

// readObject reads a request that is one small JSON object with these members, and hands their values to read, which may
// note what is wrong with them.
func readObject(c echo.Context, names []string, read func(d *decoder, v []jsontext.Value)) error {
	f, err := formatOf(c.Request().Header)
	if err != nil {
		return err
	}
	if f != plainJSON {
		return refuse(codeUnsupported, "Send application/json.")
	}
	body, err := readOne(c.Request(), nil)
	if err != nil {
		return err
	}
	d := decoders.Get().(*decoder)
	defer d.release()
	d.begin()
	values := make([]jsontext.Value, len(names))
	if err := d.object(body, "", names, values, nil); err != nil {
		d.noteAll(err)
		return d.take()
	}
	read(d, values)
	return d.take()
}

// VoidEvent is POST /v1/events/{eventType}/{sourceId}/void.
func (s *Server) VoidEvent(c echo.Context, eventType EventType, sourceID SourceId, _ VoidEventParams) error {
	var reason string
	err := readObject(c, []string{"reason"}, func(d *decoder, v []jsontext.Value) {
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
	err := readObject(c, []string{"quantity", "data", "reason"}, func(d *decoder, v []jsontext.Value) {
		if absent(v[0]) {
			d.note("/quantity", codeInvalidEvent, "quantity is required")
		} else if a.Quantity = d.quantity(v[0], "/quantity"); a.Quantity.Sign() < 0 {
			d.note("/quantity", codeInvalidEvent, "quantity must be greater than 0")
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
	return writeJSON(c, statusOf(receipt), appendReceipt(nil, receipt, sourceID))
}

// identity reads the path. What cannot be an id names nothing.
func identity(in insider, eventType, sourceID string) (event.Identity, error) {
	if event.CheckID(eventType) != nil || event.CheckID(sourceID) != nil {
		return event.Identity{}, refuse(codeNotFound, "There is no such event.")
	}
	return event.Identity{Tenant: in.tenant.ID, Type: event.Type(eventType), Source: event.SourceID(sourceID)}, nil
}

// GetEvent is GET /v1/events/{eventType}/{sourceId}. It reads the log itself; what was decided about the fact is found by a
// read model, and may be older.
func (s *Server) GetEvent(c echo.Context, eventType EventType, sourceID SourceId, params GetEventParams) error {
	in := inside(c)
	id, err := identity(in, eventType, sourceID)
	if err != nil {
		return err
	}
	if err := s.await(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	h, err := s.Ledger.Event(ctx, id)
	if err != nil {
		return err
	}
	at := h.Position
	for _, correction := range h.Corrections {
		at = correction.Position
	}
	decided, _, err := s.Timeline.Decisions(ctx, id)
	if err != nil {
		return fmt.Errorf("read the decisions: %w", err)
	}
	lines, err := s.Billing.LinesOf(ctx, id)
	if err != nil {
		return fmt.Errorf("read the invoices: %w", err)
	}
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, append(appendInvoiceLines(append(appendHistory(nil, h, h.Story(decided)), `,"invoiceLines":`...), lines), '}'))
}

// appendHistory appends a fact without its end.
func appendHistory(b []byte, h app.History, s app.Story) []byte {
	status := "recorded"
	if h.Voided {
		status = "voided"
	}
	b = appendString(append(b, `{"tenantId":`...), string(h.Current.Tenant))
	b = appendString(append(b, `,"eventType":`...), string(h.Current.Type))
	b = appendString(append(b, `,"sourceId":`...), string(h.Current.Source))
	b = append(append(append(b, `,"status":"`...), status...), `","quantity":`...)
	b = append(b, h.Current.Quantity.String()...)
	b = appendTime(append(b, `,"occurredAt":`...), h.Current.OccurredAt)
	b = h.Current.Data.AppendJSON(append(b, `,"data":`...))
	b = appendPosition(append(b, `,"position":`...), h.Position)
	b = appendTime(append(b, `,"recordedAt":`...), h.RecordedAt)
	b = appendOptional(append(b, `,"emitter":`...), h.Original.Emitter)
	b = appendOptional(append(b, `,"traceparent":`...), h.Original.TraceParent)
	b = append(append(b, `,"original":{"quantity":`...), h.Original.Quantity.String()...)
	b = h.Original.Data.AppendJSON(append(b, `,"data":`...))
	b = append(b, `},"corrections":[`...)
	for i, correction := range h.Corrections {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendCorrection(b, correction)
	}
	return appendStory(append(b, ']'), s, h.Original.Quantity)
}

func appendStory(b []byte, s app.Story, used money.Decimal) []byte {
	b = append(b, `,"hold":`...)
	if s.Hold == nil {
		b = append(b, "null"...)
	} else {
		b = append(append(append(b, `{"state":"`...), s.HoldState...), `","quantity":`...)
		b = appendTime(append(append(b, s.Hold.Quantity.String()...), `,"expiresAt":`...), s.Hold.HoldEnds())
		b = append(strconv.AppendBool(append(b, `,"overage":`...), used.Cmp(s.Hold.Quantity) > 0), '}')
	}
	b = append(b, `,"decision":`...)
	if s.Decision == nil {
		return append(b, "null"...)
	}
	e := s.Decision
	bound := ""
	if i := limit.Binding(e); i >= 0 {
		bound = e.Parts[i].Limit
	}
	b = strconv.AppendBool(append(b, `{"allowed":`...), e.Allowed)
	b = appendOptional(append(b, `,"reason":`...), string(limit.Why(e)))
	b = appendOptional(append(b, `,"limit":`...), bound)
	b = append(append(b, `,"quantity":`...), e.Quantity.String()...)
	b = appendTime(append(b, `,"decidedAt":`...), e.DecidedAt)
	b = appendPosition(append(b, `,"position":`...), s.At)
	b = appendOptional(append(b, `,"planVersion":`...), e.PlanVersion)
	b = appendTime(append(b, `,"holdExpiresAt":`...), e.HoldEnds())
	b = strconv.AppendBool(append(b, `,"overage":`...), isOver(e))
	return append(appendParts(append(b, `,"limits":`...), e, ""), '}')
}

func appendCorrection(b []byte, correction app.Correction) []byte {
	b = appendString(append(b, `{"kind":`...), correction.Kind)
	b = appendString(append(b, `,"reason":`...), correction.Reason)
	b = appendString(append(b, `,"by":`...), string(correction.By))
	if correction.Kind == "adjust" {
		b = append(append(b, `,"quantity":`...), correction.Quantity.String()...)
		b = correction.Data.AppendJSON(append(b, `,"data":`...))
	}
	b = appendPosition(append(b, `,"position":`...), correction.Position)
	b = appendTime(append(b, `,"recordedAt":`...), correction.RecordedAt)
	return append(b, '}')
}

func showPosition(c echo.Context, at eventstore.Position) {
	c.Response().Header()[headerPosition] = []string{at.String()}
}

func invalidParameter(name, detail string) error {
	return invalid.New("/"+name, codeInvalidEvent, name+" "+detail)
}
