package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/domain/usage"
)

const (
	defaultLimit  = 50
	maxLimit      = 500
	maxCursor     = 48 << 10 // below MaxHeaderBytes; a cursor of usage carries the labels of its last row
	defaultWait   = 2 * time.Second
	maxWait       = 30 * time.Second
	defaultPeriod = 30 * 24 * time.Hour // of a usage report without from
)

// await makes a read wait until it reflects what its caller has written.
func (s *Server) await(c echo.Context, minPosition *string, waitMs *int) error {
	wait := defaultWait
	if waitMs != nil {
		if *waitMs < 0 || *waitMs > int(maxWait.Milliseconds()) {
			return invalidParameter("waitMs", fmt.Sprintf("must be between 0 and %d", maxWait.Milliseconds()))
		}
		wait = time.Duration(*waitMs) * time.Millisecond
	}
	if minPosition == nil {
		return nil
	}
	at, err := eventstore.ParsePosition(*minPosition)
	if err != nil {
		return invalidParameter("minPosition", "must be a position from an earlier answer")
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), wait)
	defer cancel()
	err = s.Positions.Await(ctx, at)
	var bad *invalid.Error
	if err != nil && ctx.Err() != nil && !errors.As(err, &bad) {
		return &problem{status: http.StatusGatewayTimeout, code: codeUnavailable,
			detail: fmt.Sprintf("The answer does not reflect position %s yet. Read again, or wait longer with waitMs.", at)}
	}
	if errors.Is(err, eventstore.ErrInvalid) {
		return invalidParameter("minPosition", "names a partition that this log does not have")
	}
	if err != nil {
		return fmt.Errorf("wait for position %s: %w", at, err)
	}
	return nil
}

// page reads limit and cursor.
func page(limit *Limit, cursor *Cursor) (int, string, error) {
	n, after := defaultLimit, ""
	if limit != nil {
		n = *limit
	}
	if n < 1 || n > maxLimit {
		return 0, "", invalidParameter("limit", fmt.Sprintf("must be between 1 and %d", maxLimit))
	}
	if cursor != nil {
		after = *cursor
	}
	if len(after) > maxCursor || !isPlain(after) {
		return 0, "", invalidParameter("cursor", "must be the nextCursor of the page before")
	}
	return n, after, nil
}

// instantOf reads a time of the query; the zero time where it is absent.
func instantOf(name string, value *string) (time.Time, error) {
	if value == nil {
		return time.Time{}, nil
	}
	t, ok := parseTime(*value)
	if !ok {
		return time.Time{}, invalidParameter(name, "must be an RFC 3339 time with offset, such as 2026-04-05T10:30:00.000Z; a plus sign is written %2B")
	}
	return t, nil
}

func textOf(value *string) string {
	if value == nil {
		return ""
	}
	return *value
}

// GetUsage is GET /v1/usage.
func (s *Server) GetUsage(c echo.Context, params GetUsageParams) error {
	q, err := s.usageQuery(inside(c), params)
	if err != nil {
		return err
	}
	if err := s.await(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	report, at, err := s.Usage.Usage(ctx, q)
	if err != nil {
		return fmt.Errorf("read usage: %w", err)
	}
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, usageView{listOf(report.Items, report.NextCursor, viewUsageRow), report.Total})
}

func (s *Server) usageQuery(in tenantCaller, params GetUsageParams) (usage.Query, error) {
	limit, cursor, err := page(params.Limit, params.Cursor)
	if err != nil {
		return usage.Query{}, err
	}
	from, err := instantOf("from", params.From)
	if err != nil {
		return usage.Query{}, err
	}
	to, err := instantOf("to", params.To)
	if err != nil {
		return usage.Query{}, err
	}
	if to.IsZero() {
		to = s.Now()
	}
	if from.IsZero() {
		from = to.Add(-defaultPeriod)
	}
	zone, err := in.tenant.Location()
	if err != nil {
		return usage.Query{}, err
	}
	q := usage.Query{
		Tenant: in.tenant.ID, From: from, To: to, Granularity: usage.Day, Meter: catalog.MeterKey(textOf(params.Meter)),
		Location: zone, Limit: limit, Cursor: cursor,
	}
	if params.Granularity != nil {
		q.Granularity = usage.Granularity(*params.Granularity)
	}
	if group := textOf(params.GroupBy); group != "" {
		q.GroupBy = strings.Split(group, ",")
	}
	_, _, err = q.Plan()
	return q, err
}

type usageView struct {
	list[usageRowView]
	Total *money.Decimal `json:"total"`
}

type usageRowView struct {
	WindowStart instant           `json:"windowStart"`
	WindowEnd   instant           `json:"windowEnd"`
	Meter       catalog.MeterKey  `json:"meter"`
	Quantity    money.Decimal     `json:"quantity"`
	Events      int64             `json:"events"`
	Dimensions  map[string]string `json:"dimensions"`
}

func viewUsageRow(r *usage.Row) usageRowView {
	return usageRowView{instant(r.WindowStart), instant(r.WindowEnd), r.Meter, r.Quantity, r.Events, r.Dimensions}
}

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
