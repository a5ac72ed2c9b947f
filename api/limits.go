package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/limiter"
	"github.com/tollgate-io/tollgate/domain/money"
)

// readLimits reads the limits of the caller's tenant, or its holds, at minPosition or later.
func (s *Server) readLimits(c echo.Context, minPosition *string, waitMs *int, read func(context.Context, event.TenantID) (limiter.LimitsView, error)) (limiter.LimitsView, error) {
	if err := s.await(c, minPosition, waitMs); err != nil {
		return limiter.LimitsView{}, err
	}
	ctx, cancel := work(c)
	defer cancel()
	return read(ctx, inside(c).tenant.ID)
}

// ListLimits is GET /v1/limits.
func (s *Server) ListLimits(c echo.Context, params ListLimitsParams) error {
	values, err := perValues(params.Per)
	if err != nil {
		return err
	}
	view, err := s.readLimits(c, params.MinPosition, params.WaitMs, func(ctx context.Context, t event.TenantID) (limiter.LimitsView, error) {
		return s.Limits.View(ctx, t, values)
	})
	if err != nil {
		return err
	}
	showPosition(c, view.At)
	version := view.Policy.PlanVersion
	return writeJSON(c, http.StatusOK, limitsView{
		Items:       viewsOf(view.Limits, func(l *limit.LimitState) limitView { return viewLimit(l, version, view.Policy.Currency) }),
		PlanVersion: optional(version),
	})
}

const maxPerValues = 16

// perValues reads the values of data fields that are asked for, as "field:value".
func perValues(per *[]string) (event.Data, error) {
	if per == nil {
		return event.Data{}, nil
	}
	if len(*per) > maxPerValues {
		return event.Data{}, invalidParameter("per", fmt.Sprintf("names at most %d fields", maxPerValues))
	}
	values := map[string]any{}
	for _, text := range *per {
		field, value, ok := strings.Cut(text, ":")
		if _, twice := values[field]; !ok || field == "" || twice || event.CheckID(value) != nil {
			return event.Data{}, invalidParameter("per", "must be field:value, such as userId:u1, with each field once")
		}
		values[field] = value
	}
	return event.NewData(values), nil
}

type limitsView struct {
	Items       []limitView `json:"items"`
	PlanVersion optional    `json:"planVersion"`
	NextCursor  optional    `json:"nextCursor"` // always null: there is one page
}

type limitView struct {
	Limit       string         `json:"limit"`
	Kind        string         `json:"kind"`
	Mode        catalog.Mode   `json:"mode"`
	WouldDeny   *int64         `json:"wouldDeny,omitzero"` // of mode observe: checks that it would have denied
	Per         *event.Data    `json:"per,omitzero"`       // the values that it counts for
	Max         *money.Decimal `json:"max"`                // null: access has no numbers
	Used        *money.Decimal `json:"used"`
	Held        *money.Decimal `json:"held"`
	Remaining   *money.Decimal `json:"remaining"`
	Currency    string         `json:"currency,omitzero"` // of a budget
	WindowStart instant        `json:"windowStart"`
	WindowEnd   instant        `json:"windowEnd"`
	ResetAt     instant        `json:"resetAt"`
	Soft        bool           `json:"soft"`
	Overridden  bool           `json:"overridden"`
	PlanVersion optional       `json:"planVersion"`
	definitionView
}

// definitionView is what the plan says of a limit, as the catalog spells it; what its kind does not have is left out.
type definitionView struct {
	On          []string       `json:"on,omitempty"`
	Values      []string       `json:"values,omitempty"`
	Meter       string         `json:"meter,omitzero"`
	Field       string         `json:"field,omitzero"`
	Window      string         `json:"window,omitzero"`
	Rolling     bool           `json:"rolling,omitzero"`
	HoldTTL     string         `json:"holdTTL,omitzero"`
	Cooldown    string         `json:"cooldown,omitzero"`
	MaxCooldown string         `json:"maxCooldown,omitzero"`
	OnError     string         `json:"onError,omitzero"`
	Burst       int64          `json:"burst,omitzero"`
	Denials     int64          `json:"denials,omitzero"`
	Minimum     int64          `json:"minimum,omitzero"`
	MaxAttempts int64          `json:"maxAttempts,omitzero"`
	Ratio       *money.Decimal `json:"ratio,omitzero"`
}

func viewLimit(l *limit.LimitState, version string, currency catalog.Currency) limitView {
	p := &l.LimitPart
	view := limitView{
		Limit: p.Limit, Kind: p.Kind.String(), Mode: modeOf(p), WindowStart: instant(p.WindowStart), WindowEnd: instant(p.WindowEnd), ResetAt: instant(p.ResetAt),
		Soft: l.Limit.Soft, Overridden: p.Overridden, PlanVersion: optional(version), definitionView: viewDefinition(&l.Limit.Limit),
	}
	if !p.Per.IsEmpty() {
		view.Per = &p.Per
	}
	if p.Kind != event.AccessLimit {
		view.Max, view.Used, view.Held = &p.Max, &p.Used, &p.Held
	}
	if p.Observed {
		view.WouldDeny = &l.WouldDeny
	}
	if left, ok := limit.Remaining(p); ok {
		view.Remaining = &left
	}
	if p.Kind == event.BudgetLimit {
		view.Currency = string(currency)
	}
	return view
}

func viewDefinition(l *catalog.Limit) definitionView {
	view := definitionView{
		On: l.On, Values: l.Values, Meter: string(l.Meter), Field: l.Field, Window: l.Window.String(), Rolling: l.Rolling, HoldTTL: l.HoldTTL.String(),
		Cooldown: l.Cooldown.String(), MaxCooldown: l.MaxCooldown.String(), OnError: string(l.OnError),
		Burst: l.Burst, Denials: l.Denials, Minimum: l.Minimum, MaxAttempts: l.MaxAttempts,
	}
	if l.Ratio.Sign() > 0 {
		view.Ratio = &l.Ratio
	}
	return view
}

// PutLimit is PUT /v1/admin/tenants/{tenantId}/limits/{limit}.
func (s *Server) PutLimit(c echo.Context, tenantID Id, limit string) error {
	o := app.Override{Limit: catalog.LimitKey(limit)}
	err := readObject(c, []string{"max", "from", "until", "reason", "per"}, func(d *decoder, v []jsontext.Value) {
		if absent(v[0]) {
			d.refuse("/max", "max is required")
		} else {
			o.Max = d.decimal(v[0], "/max", "max")
		}
		o.From = d.optionalInstant(v[1], "/from", "from")
		o.Until = d.optionalInstant(v[2], "/until", "until")
		if !absent(v[3]) {
			o.Reason, _ = d.str(v[3], "/reason")
		}
		if !absent(v[4]) {
			o.Per = d.texts(v[4], "/per")
		}
	})
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	overridden, err := s.Ledger.OverrideLimit(ctx, event.TenantID(tenantID), o, admin(c))
	if err != nil {
		return err
	}
	showPosition(c, overridden.Position)
	return writeJSON(c, http.StatusOK, overriddenLimitView{tenantID, overridden.Limit, overridden.Per.Map(), overridden.Max, instant(overridden.From), instant(overridden.Until),
		overridden.Reason, position(overridden.Position)})
}

type overriddenLimitView struct {
	Tenant   string            `json:"tenantId"`
	Limit    catalog.LimitKey  `json:"limit"`
	Per      map[string]string `json:"per,omitempty"`
	Max      money.Decimal     `json:"max"`
	From     instant           `json:"from"`
	Until    instant           `json:"until"`
	Reason   string            `json:"reason"`
	Position position          `json:"position"`
}

// RemoveLimit is DELETE /v1/admin/tenants/{tenantId}/limits/{limit}.
func (s *Server) RemoveLimit(c echo.Context, tenantID Id, limit string, params RemoveLimitParams) error {
	values, err := perValues(params.Per)
	if err != nil {
		return err
	}
	var per map[string]string
	for field, v := range values.All() {
		if per == nil {
			per = map[string]string{}
		}
		per[field] = v.String()
	}
	ctx, cancel := work(c)
	defer cancel()
	_, at, err := s.Ledger.RemoveOverride(ctx, event.TenantID(tenantID), catalog.LimitKey(limit), per, admin(c))
	if err != nil {
		return err
	}
	if at != (eventstore.Position{}) {
		showPosition(c, at)
	}
	return c.NoContent(http.StatusNoContent)
}
