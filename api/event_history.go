package api

import (
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invoicing"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
)

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
	checks := h.Checks(decided)
	return writeJSON(c, http.StatusOK, viewEvent(&h, &checks, lines))
}

// identity reads the path. What cannot be an id names nothing.
func identity(in tenantCaller, eventType, sourceID string) (event.Identity, error) {
	if event.CheckID(eventType) != nil || event.CheckID(sourceID) != nil {
		return event.Identity{}, refuse(codeNotFound, "There is no such event.")
	}
	return event.Identity{Tenant: in.tenant.ID, Type: event.Type(eventType), Source: event.SourceID(sourceID)}, nil
}

type eventView struct {
	Tenant       event.TenantID   `json:"tenantId"`
	Type         event.Type       `json:"eventType"`
	Source       event.SourceID   `json:"sourceId"`
	Status       string           `json:"status"`
	Quantity     money.Decimal    `json:"quantity"`
	OccurredAt   instant          `json:"occurredAt"`
	Data         event.Data       `json:"data"`
	Position     position         `json:"position"`
	RecordedAt   instant          `json:"recordedAt"`
	Emitter      optional         `json:"emitter"`
	TraceParent  optional         `json:"traceparent"`
	Original     originalView     `json:"original"`
	Corrections  []correctionView `json:"corrections"`
	Hold         *eventHoldView   `json:"hold"`
	Decision     *decisionView    `json:"decision"`
	InvoiceLines []eventLineView  `json:"invoiceLines"`
}

// originalView is what was sent before any correction.
type originalView struct {
	Quantity money.Decimal `json:"quantity"`
	Data     event.Data    `json:"data"`
}

type correctionView struct {
	Kind       string         `json:"kind"`
	Reason     string         `json:"reason"`
	By         event.Actor    `json:"by"`
	Quantity   *money.Decimal `json:"quantity,omitzero"` // of an adjustment, as data
	Data       *event.Data    `json:"data,omitzero"`
	Position   position       `json:"position"`
	RecordedAt instant        `json:"recordedAt"`
}

type eventHoldView struct {
	State     app.HoldState `json:"state"`
	Quantity  money.Decimal `json:"quantity"`
	ExpiresAt instant       `json:"expiresAt"`
	Overage   bool          `json:"overage"`
}

// decisionView is what was decided about the check of an event.
type decisionView struct {
	Allowed       bool           `json:"allowed"`
	Reason        optional       `json:"reason"`
	Limit         optional       `json:"limit"`
	Quantity      money.Decimal  `json:"quantity"`
	DecidedAt     instant        `json:"decidedAt"`
	Position      position       `json:"position"`
	PlanVersion   optional       `json:"planVersion"`
	HoldExpiresAt instant        `json:"holdExpiresAt"`
	Overage       bool           `json:"overage"`
	Limits        jsontext.Value `json:"limits"` // as in the answer to the check
}

func viewEvent(h *app.History, s *app.CheckHistory, lines []invoicing.InvoiceLine) eventView {
	view := eventView{
		Tenant: h.Current.Tenant, Type: h.Current.Type, Source: h.Current.Source, Status: "recorded", Quantity: h.Current.Quantity,
		OccurredAt: instant(h.Current.OccurredAt), Data: h.Current.Data, Position: position(h.Position), RecordedAt: instant(h.RecordedAt),
		Emitter: optional(h.Original.Emitter), TraceParent: optional(h.Original.TraceParent),
		Original:    originalView{h.Original.Quantity, h.Original.Data},
		Corrections: viewsOf(h.Corrections, viewCorrection), InvoiceLines: viewsOf(lines, viewEventLine),
	}
	if h.Voided {
		view.Status = "voided"
	}
	if s.Hold != nil {
		view.Hold = &eventHoldView{s.HoldState, s.Hold.Quantity, instant(s.Hold.HoldEnds()), h.Original.Quantity.Cmp(s.Hold.Quantity) > 0}
	}
	if e := s.Decision; e != nil {
		bound := ""
		if i := limit.Binding(e); i >= 0 {
			bound = e.Parts[i].Limit
		}
		view.Decision = &decisionView{e.Allowed, optional(limit.Why(e)), optional(bound), e.Quantity, instant(e.DecidedAt), position(s.At),
			optional(e.PlanVersion), instant(e.HoldEnds()), isOver(e), appendParts(nil, e, "")}
	}
	return view
}

func viewCorrection(c *app.Correction) correctionView {
	view := correctionView{Kind: c.Kind, Reason: c.Reason, By: c.By, Position: position(c.Position), RecordedAt: instant(c.RecordedAt)}
	if c.Kind == "adjust" {
		view.Quantity, view.Data = &c.Quantity, &c.Data
	}
	return view
}
