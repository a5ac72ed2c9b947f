package api

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/usage"
)

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
