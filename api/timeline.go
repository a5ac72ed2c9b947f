package api

import (
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/timeline"
)

// GetTimeline is GET /v1/timeline.
func (s *Server) GetTimeline(c echo.Context, params GetTimelineParams) error {
	limit, cursor, err := page(params.Limit, params.Cursor)
	if err != nil {
		return err
	}
	from, err := instantOf("from", params.From)
	if err != nil {
		return err
	}
	to, err := instantOf("to", params.To)
	if err != nil {
		return err
	}
	if err := s.await(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	p, at, err := s.Timeline.Timeline(ctx, timeline.Query{
		Tenant: inside(c).tenant.ID, From: from, To: to, Type: event.Type(textOf(params.Type)),
		Source: event.SourceID(textOf(params.SourceId)), Limit: limit, Cursor: cursor,
	})
	if err != nil {
		return fmt.Errorf("read the timeline: %w", err)
	}
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, listOf(p.Items, p.NextCursor, viewTimelineItem))
}

type timelineItemView struct {
	Position   position       `json:"position"`
	RecordedAt instant        `json:"recordedAt"`
	OccurredAt instant        `json:"occurredAt"`
	Kind       string         `json:"kind"`
	Type       optional       `json:"eventType"`
	Source     optional       `json:"sourceId"`
	Quantity   *money.Decimal `json:"quantity"`
	Summary    string         `json:"summary"`
	Data       jsontext.Value `json:"data"`
}

func viewTimelineItem(i *timeline.Item) timelineItemView {
	view := timelineItemView{position(i.Position), instant(i.RecordedAt), instant(i.OccurredAt), string(i.Kind), optional(i.EventType), optional(i.SourceID),
		i.Quantity, i.Summary, nil}
	if len(i.Data) > 0 {
		view.Data = jsontext.Value(i.Data)
	}
	return view
}
