package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

// shownCost is the last version of a page, which the cursor names. Whatever is imported meanwhile, the next page begins behind
// it.
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
		b, err := base64.RawURLEncoding.DecodeString(cursor)
		if err != nil || json.Unmarshal(b, &last) != nil {
			return invalid.New("/cursor", "malformed", "the cursor is not one that was given out; start again without one")
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
	next := ""
	if len(versions) > limit {
		versions = versions[:limit]
		v := versions[limit-1]
		text, err := json.Marshal(shownCost{v.Provider, v.Model, v.From})
		if err != nil {
			return fmt.Errorf("encode a cursor: %w", err)
		}
		next = base64.RawURLEncoding.EncodeToString(text)
	}
	showPosition(c, at)
	b := []byte(`{"items":[`)
	for i, v := range versions {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendVersion(b, v)
	}
	return writeJSON(c, http.StatusOK, append(appendOptional(append(b, `],"nextCursor":`...), next), '}'))
}

func appendVersion(b []byte, v costs.Version) []byte {
	b = appendString(append(b, `{"provider":`...), v.Provider)
	b = appendString(append(b, `,"model":`...), v.Model)
	b = appendString(append(b, `,"from":`...), string(v.From))
	b = appendOptional(append(b, `,"until":`...), string(v.Until))
	b = appendPrices(append(b, ','), v.InputPerMillion, v.CachedInputPerMillion, v.OutputPerMillion)
	b = appendString(append(b, `,"currency":"USD","source":`...), v.Source)
	return append(appendOptional(append(b, `,"sha256":`...), v.Hash), '}')
}

// centDecimals are at least shown of a price.
const centDecimals = 2

func appendPrices(b []byte, input, cached, output money.Decimal) []byte {
	return fmt.Appendf(b, `"inputPerMillion":"%s","cachedInputPerMillion":"%s","outputPerMillion":"%s"`,
		input.Fixed(centDecimals), cached.Fixed(centDecimals), output.Fixed(centDecimals))
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
	return writeJSON(c, http.StatusOK, appendCostChange(nil, &change, &i))
}

func appendCostChange(b []byte, change *app.CostChange, i *app.CostImport) []byte {
	b = strconv.AppendBool(append(b, `{"applied":`...), change.Applied)
	b = strconv.AppendBool(append(b, `,"repeated":`...), change.Repeated)
	b = appendString(append(b, `,"source":`...), i.Source)
	b = appendString(append(b, `,"sha256":`...), i.List.Hash)
	b = appendString(append(b, `,"from":`...), string(change.From))
	b = strconv.AppendInt(append(b, `,"unchanged":`...), int64(change.Unchanged), 10)
	b = append(b, `,"skipped":[`...)
	for n, skip := range i.List.Skipped {
		if n > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, `{"entry":`...), skip.Entry)
		b = append(appendString(append(b, `,"reason":`...), skip.Reason), '}')
	}
	b = append(b, `],"jumps":[`...)
	var jump *costs.JumpError
	if errors.As(change.Guard(), &jump) {
		for n, text := range jump.Jumps {
			if n > 0 {
				b = append(b, ',')
			}
			b = appendString(b, text)
		}
	}
	b = append(b, `],"changes":[`...)
	for n := range change.Changes {
		if n > 0 {
			b = append(b, ',')
		}
		of := &change.Changes[n]
		b = append(append(append(b, `{"op":"`...), of.Op...), `","provider":`...)
		b = appendString(b, of.Provider)
		b = appendString(append(b, `,"model":`...), of.Model)
		b = appendModelPrices(append(b, `,"old":`...), of.Old)
		b = appendModelPrices(append(b, `,"new":`...), of.New)
		b = append(appendOptional(append(b, `,"detail":`...), of.Detail), '}')
	}
	return append(b, "]}"...)
}

// appendModelPrices appends null for nil.
func appendModelPrices(b []byte, c *event.ModelCost) []byte {
	if c == nil {
		return append(b, "null"...)
	}
	return append(appendPrices(append(b, '{'), c.Input.Decimal, c.Cached.Decimal, c.Output.Decimal), '}')
}
