package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// shownCost is the last version of a page, which the cursor names. The next page begins behind it, also when a list was imported
// in between.
type shownCost struct {
	Provider string       `json:"p"`
	Model    string       `json:"m"`
	From     catalog.Date `json:"f"`
}

// isBehind reports whether a version comes after the last one that was shown.
func (last shownCost) isBehind(v costs.Version) bool {
	return slices.Compare([]string{v.Provider, v.Model, string(v.From)}, []string{last.Provider, last.Model, string(last.From)}) > 0
}

// ListCosts is GET /v1/admin/costs.
func (s *Server) ListCosts(c echo.Context, params ListCostsParams) error {
	limit, cursor, err := page(params.Limit, params.Cursor)
	if err != nil {
		return err
	}
	q := costs.Query{Provider: textOf(params.Provider), Model: textOf(params.Model), On: catalog.Date(textOf(params.On))}
	if q.On != "" && !q.On.Valid() {
		return invalidParameter("on", "must be a day such as 2026-04-05")
	}
	var last shownCost
	if cursor != "" {
		if err := openCursor(cursor, &last); err != nil {
			return errForeignCursor()
		}
	}
	if _, err := s.awaitDirectory(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	at, err := s.Positions.Shown(ctx, "")
	if err != nil {
		return fmt.Errorf("read the position: %w", err)
	}
	book, err := s.Costs.Current(ctx)
	if err != nil {
		return fmt.Errorf("read the cost book: %w", err)
	}
	versions := book.Versions(q)
	if cursor != "" {
		versions = slices.DeleteFunc(versions, func(v costs.Version) bool { return !last.isBehind(v) })
	}
	versions, next := firstPage(versions, limit, func(v *costs.Version) string { return newCursor(shownCost{v.Provider, v.Model, v.From}) })
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, listOf(versions, next, viewCostVersion))
}

type costVersionView struct {
	Provider string       `json:"provider"`
	Model    string       `json:"model"`
	From     catalog.Date `json:"from"`
	Until    optional     `json:"until"`
	pricesView
	Currency string   `json:"currency"`
	Source   string   `json:"source"`
	SHA256   optional `json:"sha256"`
}

func viewCostVersion(v *costs.Version) costVersionView {
	return costVersionView{v.Provider, v.Model, v.From, optional(v.Until),
		viewPrices(v.InputPerMillion, v.CachedInputPerMillion, v.OutputPerMillion), "USD", v.Source, optional(v.Hash)}
}

// pricesView are what a million tokens cost, in US dollars.
type pricesView struct {
	Input       string `json:"inputPerMillion"`
	CachedInput string `json:"cachedInputPerMillion"`
	Output      string `json:"outputPerMillion"`
}

// centDecimals are at least shown of a price.
const centDecimals = 2

func viewPrices(input, cached, output money.Decimal) pricesView {
	return pricesView{input.Fixed(centDecimals), cached.Fixed(centDecimals), output.Fixed(centDecimals)}
}

// ImportCosts is POST /v1/admin/costs.
func (s *Server) ImportCosts(c echo.Context, params ImportCostsParams) error {
	is := func(flag *bool) bool { return flag != nil && *flag }
	i := app.CostImport{Source: params.Source, DryRun: is(params.DryRun), AllowJumps: is(params.AllowJumps),
		Options: costs.Options{From: catalog.Date(textOf(params.From)), RemoveMissing: is(params.RemoveMissing)}}
	if params.MaxJump != nil {
		var err error
		if i.MaxJump, err = money.ParseQuantity(*params.MaxJump); err != nil || i.MaxJump.Cmp(money.Int(1)) < 0 {
			return invalidParameter("maxJump", "must be a decimal number of at least 1")
		}
	}
	f, err := formatOf(c.Request().Header)
	if err != nil {
		return err
	}
	if f != plainJSON {
		return refuse(codeUnsupported, "A price list is sent as application/json.")
	}
	body, free, err := s.readMany(c.Request(), nil, func([]byte) bool { return true })
	defer free()
	if err != nil {
		return err
	}
	if i.List, err = costs.ParseList(body); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	change, err := s.Costs.ImportCosts(ctx, i, admin(c))
	if err != nil {
		return err
	}
	at := change.Position
	if !change.Applied {
		if at, err = s.Positions.Shown(ctx, ""); err != nil {
			return fmt.Errorf("read the position: %w", err)
		}
	}
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, viewCostChange(&change, &i))
}

type costChangeView struct {
	Applied   bool                   `json:"applied"`
	Repeated  bool                   `json:"repeated"`
	Source    string                 `json:"source"`
	SHA256    string                 `json:"sha256"`
	From      catalog.Date           `json:"from"`
	Unchanged int                    `json:"unchanged"`
	Skipped   []skippedCostView      `json:"skipped"`
	Jumps     []string               `json:"jumps"`
	Changes   []modelCostsChangeView `json:"changes"`
}

type skippedCostView struct {
	Entry  string `json:"entry"`
	Reason string `json:"reason"`
}

type modelCostsChangeView struct {
	Op       costs.Op    `json:"op"`
	Provider string      `json:"provider"`
	Model    string      `json:"model"`
	Old      *pricesView `json:"old"`
	New      *pricesView `json:"new"`
	Detail   optional    `json:"detail"`
}

func viewCostChange(change *app.CostChange, i *app.CostImport) costChangeView {
	view := costChangeView{
		Applied: change.Applied, Repeated: change.Repeated, Source: i.Source, SHA256: i.List.Hash, From: change.From, Unchanged: change.Unchanged,
		Skipped: viewsOf(i.List.Skipped, func(s *costs.Skip) skippedCostView { return skippedCostView{s.Entry, s.Reason} }),
		Changes: viewsOf(change.Changes, func(of *costs.Change) modelCostsChangeView {
			return modelCostsChangeView{of.Op, of.Provider, of.Model, viewModelCost(of.Old), viewModelCost(of.New), optional(of.Detail)}
		}),
	}
	if jump := (*costs.JumpError)(nil); errors.As(change.Guard(), &jump) {
		view.Jumps = jump.Jumps
	}
	return view
}

func viewModelCost(c *event.ModelCost) *pricesView {
	if c == nil {
		return nil
	}
	prices := viewPrices(c.Input.Decimal, c.Cached.Decimal, c.Output.Decimal)
	return &prices
}
