package api

import (
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/money"
)

// GetInsights is GET /v1/insights/{kind}.
func (s *Server) GetInsights(c echo.Context, kind string, params GetInsightsParams) error {
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
	return writeJSON(c, http.StatusOK, viewInsights(&a))
}

// maxDimension bounds the name of a dimension, which a refusal repeats.
const maxDimension = 50

type insightsView struct {
	Kind          insight.Kind        `json:"kind"`
	From          instant             `json:"from"`
	To            instant             `json:"to"`
	GroupBy       []insight.Dimension `json:"groupBy"`
	Items         []insightView       `json:"items"`
	Groups        int                 `json:"groups"`
	Total         measuresView        `json:"total"`
	RelativeError *money.Decimal      `json:"relativeError,omitzero"`
	Unpriced      []unpricedModelView `json:"unpriced,omitzero"`
}

type insightView struct {
	Dimensions labelsView `json:"dimensions"`
	measuresView
}

func viewInsights(a *insight.Answer) insightsView {
	view := insightsView{
		Kind: a.Kind, From: instant(a.From), To: instant(a.To), GroupBy: a.GroupBy, Groups: a.Groups, Total: viewMeasures(a.Kind, &a.Total),
		Items: viewsOf(a.Rows, func(r *insight.Row) insightView {
			return insightView{labelsView{a.GroupBy, r.Labels}, viewMeasures(a.Kind, r)}
		}),
	}
	switch a.Kind {
	case insight.Latency:
		relativeError := insight.RelativeError
		view.RelativeError = &relativeError
	case insight.Cost:
		view.Unpriced = viewsOf(a.Unpriced, func(u *insight.Unpriced) unpricedModelView {
			return unpricedModelView{optional(u.Provider), optional(u.Model), viewUnpriced(u)}
		})
	}
	return view
}

// labelsView is an object with a member for each dimension, in the order that was asked for.
type labelsView struct {
	names  []insight.Dimension
	values []string // "" is null
}

// MarshalJSONTo implements json.MarshalerTo.
func (l labelsView) MarshalJSONTo(e *jsontext.Encoder) error {
	if err := e.WriteToken(jsontext.BeginObject); err != nil {
		return err
	}
	for i, name := range l.names {
		if err := e.WriteToken(jsontext.String(string(name))); err != nil {
			return err
		}
		if err := optional(l.values[i]).MarshalJSONTo(e); err != nil {
			return err
		}
	}
	return e.WriteToken(jsontext.EndObject)
}

// measuresView has the measures of one kind of question; those of the others are nil and left out.
type measuresView struct {
	Retries   *int64                   `json:"retries,omitzero"`
	Denials   *int64                   `json:"denials,omitzero"`
	Decisions *int64                   `json:"decisions,omitzero"`
	Failures  *int64                   `json:"failures,omitzero"`
	Events    *int64                   `json:"events,omitzero"`
	Share     *nullable[money.Decimal] `json:"share,omitzero"`

	P50 *nullable[money.Decimal] `json:"p50Ms,omitzero"`
	P90 *nullable[money.Decimal] `json:"p90Ms,omitzero"`
	P95 *nullable[money.Decimal] `json:"p95Ms,omitzero"`
	P99 *nullable[money.Decimal] `json:"p99Ms,omitzero"`

	Input       *money.Decimal          `json:"inputTokens,omitzero"`
	CachedInput *money.Decimal          `json:"cachedInputTokens,omitzero"`
	Output      *money.Decimal          `json:"outputTokens,omitzero"`
	Cost        *nullable[amount]       `json:"cost,omitzero"`
	Unpriced    *nullable[unpricedView] `json:"unpriced,omitzero"`
}

func viewMeasures(kind insight.Kind, r *insight.Row) (v measuresView) {
	share := func(part, whole int64) *nullable[money.Decimal] {
		if s, ok := insight.Share(part, whole); ok {
			return &nullable[money.Decimal]{&s}
		}
		return &nullable[money.Decimal]{}
	}
	switch kind {
	case insight.Retries:
		v.Retries, v.Events, v.Share = &r.Retries, &r.Events, share(r.Retries, r.Events)
	case insight.Denials:
		v.Denials, v.Decisions, v.Share = &r.Denials, &r.Decisions, share(r.Denials, r.Decisions)
	case insight.Providers:
		v.Failures, v.Events, v.Share = &r.Failures, &r.Events, share(r.Failures, r.Events)
	case insight.Latency:
		v.Events = &r.Events
		percentiles := r.Latency.Percentiles(50, 90, 95, 99)
		for i, p := range []**nullable[money.Decimal]{&v.P50, &v.P90, &v.P95, &v.P99} {
			if *p = (&nullable[money.Decimal]{}); percentiles != nil {
				(*p).value = &percentiles[i]
			}
		}
	default:
		v.Events, v.Input, v.CachedInput, v.Output = &r.Events, &r.Input, &r.CachedInput, &r.Output
		v.Cost, v.Unpriced = &nullable[amount]{}, &nullable[unpricedView]{}
		if r.Cost != nil {
			v.Cost.value = &amount{r.Cost.Fixed(centDecimals), "USD"}
		}
		if r.Unpriced.Events > 0 {
			u := viewUnpriced(&r.Unpriced)
			v.Unpriced.value = &u
		}
	}
	return v
}

type unpricedView struct {
	Events int64         `json:"events"`
	Input  money.Decimal `json:"inputTokens"`
	Output money.Decimal `json:"outputTokens"`
}

func viewUnpriced(u *insight.Unpriced) unpricedView { return unpricedView{u.Events, u.Input, u.Output} }

// unpricedModelView is a model whose tokens had no price.
type unpricedModelView struct {
	Provider optional `json:"provider"`
	Model    optional `json:"model"`
	unpricedView
}
