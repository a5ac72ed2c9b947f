package api

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/money"
)

// GetInsights is GET /v1/insights/{kind}.
func (s *Server) GetInsights(c echo.Context, kind GetInsightsParamsKind, params GetInsightsParams) error {
	q := insight.Question{Kind: insight.Kind(kind), Tenant: inside(c).tenant.ID}
	var err error
	if q.Limit, _, err = page(params.Limit, nil); err != nil {
		return err
	}
	if q.From, err = instantOf("from", params.From); err != nil {
		return err
	}
	if q.To, err = instantOf("to", params.To); err != nil {
		return err
	}
	if group := textOf(params.GroupBy); group != "" {
		for d := range strings.SplitSeq(group, ",") {
			q.GroupBy = append(q.GroupBy, insight.Dimension(clip(d, maxDimension)))
		}
	}
	if q, err = q.Complete(s.Now()); err != nil {
		return err
	}
	if err := s.await(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	a, at, err := s.Insights.Ask(ctx, q)
	if err != nil {
		return err
	}
	var positions []string
	for _, p := range at {
		positions = append(positions, p.String())
	}
	c.Response().Header()[headerPosition] = []string{strings.Join(positions, ",")}
	return writeJSON(c, http.StatusOK, appendInsights(nil, &a))
}

// maxDimension bounds the name of a dimension, which a refusal repeats.
const maxDimension = 50

func appendInsights(b []byte, a *insight.Answer) []byte {
	b = appendString(append(b, `{"kind":`...), string(a.Kind))
	b = appendTime(append(b, `,"from":`...), a.From)
	b = appendTime(append(b, `,"to":`...), a.To)
	b = append(b, `,"groupBy":[`...)
	for i, d := range a.GroupBy {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, string(d))
	}
	b = append(b, `],"items":[`...)
	for i := range a.Rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"dimensions":{`...)
		for j, d := range a.GroupBy {
			if j > 0 {
				b = append(b, ',')
			}
			b = appendOptional(append(appendString(b, string(d)), ':'), a.Rows[i].Labels[j])
		}
		b = append(appendMeasures(append(b, `},`...), a.Kind, &a.Rows[i]), '}')
	}
	b = strconv.AppendInt(append(b, `],"groups":`...), int64(a.Groups), 10)
	b = append(appendMeasures(append(b, `,"total":{`...), a.Kind, &a.Total), '}')
	switch a.Kind {
	case insight.Latency:
		b = append(append(b, `,"relativeError":`...), insight.RelativeError.String()...)
	case insight.Cost:
		b = append(b, `,"unpriced":[`...)
		for i := range a.Unpriced {
			if i > 0 {
				b = append(b, ',')
			}
			u := &a.Unpriced[i]
			b = appendOptional(append(b, `{"provider":`...), u.Provider)
			b = appendOptional(append(b, `,"model":`...), u.Model)
			b = appendUnpriced(append(b, ','), u)
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

// appendMeasures appends the members of a row that its kind of question has.
func appendMeasures(b []byte, kind insight.Kind, r *insight.Row) []byte {
	counts := func(name string, part int64, of string, whole int64) []byte {
		b = strconv.AppendInt(append(append(append(b, '"'), name...), `":`...), part, 10)
		b = strconv.AppendInt(append(append(append(b, `,"`...), of...), `":`...), whole, 10)
		share, ok := insight.Share(part, whole)
		return appendNumber(append(b, `,"share":`...), share, ok)
	}
	switch kind {
	case insight.Retries:
		return counts("retries", r.Retries, "events", r.Events)
	case insight.Denials:
		return counts("denials", r.Denials, "decisions", r.Decisions)
	case insight.Providers:
		return counts("failures", r.Failures, "events", r.Events)
	}
	b = strconv.AppendInt(append(b, `"events":`...), r.Events, 10)
	if kind == insight.Latency {
		percentiles := r.Latency.Percentiles(50, 90, 95, 99)
		for i, name := range []string{`,"p50Ms":`, `,"p90Ms":`, `,"p95Ms":`, `,"p99Ms":`} {
			if b = append(b, name...); percentiles == nil {
				b = append(b, "null"...)
			} else {
				b = append(b, percentiles[i].String()...)
			}
		}
		return b
	}
	b = append(append(b, `,"inputTokens":`...), r.Input.String()...)
	b = append(append(b, `,"cachedInputTokens":`...), r.CachedInput.String()...)
	b = append(append(b, `,"outputTokens":`...), r.Output.String()...)
	b = append(b, `,"cost":`...)
	if r.Cost == nil {
		b = append(b, "null"...)
	} else {
		b = append(append(append(b, `{"amount":"`...), r.Cost.Fixed(centDecimals)...), `","currency":"USD"}`...)
	}
	b = append(b, `,"unpriced":`...)
	if r.Unpriced.Events == 0 {
		return append(b, "null"...)
	}
	return appendUnpriced(append(b, '{'), &r.Unpriced)
}

func appendUnpriced(b []byte, u *insight.Unpriced) []byte {
	b = strconv.AppendInt(append(b, `"events":`...), u.Events, 10)
	b = append(append(b, `,"inputTokens":`...), u.Input.String()...)
	return append(append(append(b, `,"outputTokens":`...), u.Output.String()...), '}')
}

// appendNumber appends a number, or null where there is none.
func appendNumber(b []byte, n money.Decimal, ok bool) []byte {
	if !ok {
		return append(b, "null"...)
	}
	return append(b, n.String()...)
}
