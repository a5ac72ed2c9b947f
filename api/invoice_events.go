package api

import (
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
)

// ListInvoiceEvents is GET /v1/invoices/{id}/events.
func (s *Server) ListInvoiceEvents(c echo.Context, id string, params ListInvoiceEventsParams) error {
	limit, cursor, err := page(params.Limit, params.Cursor)
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	events, err := s.Billing.LineEvents(ctx, inside(c).tenant.ID, event.InvoiceID(id), params.Line, limit, cursor)
	if err != nil {
		return err
	}
	b := []byte(`{"items":[`)
	for i := range events.Items {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendLineEvent(b, &events.Items[i])
	}
	return writeJSON(c, http.StatusOK, append(appendOptional(append(b, `],"nextCursor":`...), events.Next), '}'))
}

func appendLineEvent(b []byte, e *app.LineEvent) []byte {
	kind := "usage"
	if e.Correction {
		kind = "correction"
	}
	b = appendPosition(append(b, `{"position":`...), e.Position)
	b = appendString(append(b, `,"kind":`...), kind)
	b = appendTime(append(b, `,"recordedAt":`...), e.RecordedAt)
	b = appendTime(append(b, `,"occurredAt":`...), e.Usage.OccurredAt)
	b = appendString(append(b, `,"eventType":`...), string(e.Usage.Type))
	b = appendString(append(b, `,"sourceId":`...), string(e.Usage.Source))
	b = append(append(b, `,"quantity":`...), e.Quantity.String()...)
	return append(e.Usage.Data.AppendJSON(append(b, `,"data":`...)), '}')
}

// appendInvoiceLines appends the lines that an event is on.
func appendInvoiceLines(b []byte, lines []app.InvoiceLine) []byte {
	b = append(b, '[')
	for i := range lines {
		if i > 0 {
			b = append(b, ',')
		}
		l := &lines[i]
		b = appendString(append(b, `{"invoiceId":`...), string(l.Invoice.ID))
		b = appendString(append(b, `,"number":`...), l.Invoice.Number)
		b = strconv.AppendInt(append(b, `,"line":`...), int64(l.Line), 10)
		b = appendString(append(b, `,"price":`...), l.Invoice.Lines[l.Line].Price)
		b = append(appendString(append(b, `,"state":`...), string(l.Invoice.State)), '}')
	}
	return append(b, ']')
}
