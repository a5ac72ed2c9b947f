package api

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invoicing"
	"github.com/tollgate-io/tollgate/domain/money"
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
	return writeJSON(c, http.StatusOK, listOf(events.Items, events.Next, viewLineEvent))
}

type lineEventView struct {
	Position   position       `json:"position"`
	Kind       string         `json:"kind"`
	RecordedAt instant        `json:"recordedAt"`
	OccurredAt instant        `json:"occurredAt"`
	Type       event.Type     `json:"eventType"`
	Source     event.SourceID `json:"sourceId"`
	Quantity   money.Decimal  `json:"quantity"`
	Data       event.Data     `json:"data"`
}

func viewLineEvent(e *invoicing.LineEvent) lineEventView {
	kind := "usage"
	if e.Correction {
		kind = "correction"
	}
	return lineEventView{position(e.Position), kind, instant(e.RecordedAt), instant(e.Usage.OccurredAt), e.Usage.Type, e.Usage.Source, e.Quantity, e.Usage.Data}
}

// eventLineView is an invoice line that an event is on.
type eventLineView struct {
	Invoice event.InvoiceID        `json:"invoiceId"`
	Number  string                 `json:"number"`
	Line    int                    `json:"line"`
	Price   string                 `json:"price"`
	State   invoicing.InvoiceState `json:"state"`
}

func viewEventLine(l *invoicing.InvoiceLine) eventLineView {
	return eventLineView{l.Invoice.ID, l.Invoice.Number, l.Line, l.Invoice.Lines[l.Line].Price, l.Invoice.State}
}
