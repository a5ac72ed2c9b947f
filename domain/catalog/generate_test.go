package catalog_test

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Few names, so that two generated catalogs share some of their parts.
var (
	names   = rapid.SampledFrom([]string{"a", "b", "c.d", "e-f_1"})
	strange = rapid.StringOf(rapid.RuneFrom([]rune("ab /~,:{}\"'<>&é😀0-#")))
	label   = rapid.SampledFrom([]string{"gpt-4.1", "a/b~c", "4.1", "true", "with space", "{x}", "é", "null", "a, b"})
	lengths = rapid.SampledFrom([]string{"1s", "90s", "15m", "1h30m", "7d", "24h", "1d12h"})
)

func positive(t *rapid.T, name string) money.Decimal {
	return money.Scaled(rapid.Int64Range(1, 1_000_000_000).Draw(t, name), rapid.IntRange(0, 9).Draw(t, name+" scale"))
}

func notNegative(t *rapid.T, name string) money.Decimal {
	if rapid.Bool().Draw(t, name+" is zero") {
		return money.Decimal{}
	}
	return positive(t, name)
}

func length(t *rapid.T, name string) catalog.Duration {
	d, err := catalog.ParseDuration(lengths.Draw(t, name))
	if err != nil {
		panic(err)
	}
	return d
}

func optional[V any](t *rapid.T, name string, draw func(*rapid.T, string) V) V {
	var none V
	if rapid.Bool().Draw(t, "no "+name) {
		return none
	}
	return draw(t, name)
}

// keyed draws a list whose keys differ, in any order.
func keyed[V any](t *rapid.T, name string, draw func(t *rapid.T, key string) V) []V {
	keys := rapid.SliceOfNDistinct(names, 0, 3, rapid.ID).Draw(t, name)
	var all []V
	for _, k := range keys {
		all = append(all, draw(t, k))
	}
	return all
}

// sorted is keyed for the lists that a parsed catalog has in the order of their keys.
func sorted[V any](t *rapid.T, name string, draw func(t *rapid.T, key string) V) []V {
	keys := rapid.SliceOfNDistinct(names, 0, 3, rapid.ID).Draw(t, name)
	slices.Sort(keys)
	var all []V
	for _, k := range keys {
		all = append(all, draw(t, k))
	}
	return all
}

func generated(t *rapid.T, name string) catalog.Catalog {
	var c catalog.Catalog
	c.Meters = sorted(t, name+" meters", func(t *rapid.T, key string) catalog.Meter {
		m := catalog.Meter{Key: catalog.MeterKey(key), EventType: label.Draw(t, "event type"), Aggregation: catalog.Count}
		if rapid.Bool().Draw(t, "is a sum") {
			m.Aggregation = catalog.Sum
			m.Value = rapid.SampledFrom([]string{"", "quantity", "data.tokens"}).Draw(t, "value")
		}
		m.Dimensions = optional(t, "dimensions", func(*rapid.T, string) []string { return []string{"model", "feature"} })
		return m
	})
	c.Plans = sorted(t, name+" plans", func(t *rapid.T, key string) catalog.Plan {
		p := catalog.Plan{
			Key: catalog.PlanKey(key), Currency: rapid.SampledFrom([]catalog.Currency{"USD", "EUR", "JPY"}).Draw(t, "currency"),
			Tier: optional(t, "tier", func(t *rapid.T, name string) string { return names.Draw(t, name) }), Grace: optional(t, "grace", length),
		}
		p.Limits = keyed(t, "limits", func(t *rapid.T, key string) catalog.Limit { return generatedLimit(t, key, c) })
		p.Prices = keyed(t, "prices", func(t *rapid.T, key string) catalog.Price { return generatedPrice(t, key, c) })
		p.Minimum = notNegative(t, "minimum")
		if rapid.Bool().Draw(t, "has a spend cap") {
			p.SpendCap = p.Minimum.Add(money.Int(1))
		}
		return p
	})
	c.Flags = sorted(t, name+" flags", generatedFlag)
	for i := range rapid.IntRange(0, 3).Draw(t, name+" costs") {
		cost := catalog.Cost{
			Provider: label.Draw(t, "provider"), Model: fmt.Sprintf("%s %d", label.Draw(t, "model"), i), From: "2025-01-01",
			InputPerMillion: notNegative(t, "input"), CachedInputPerMillion: notNegative(t, "cached"), OutputPerMillion: notNegative(t, "output"),
		}
		if rapid.Bool().Draw(t, "is followed") {
			cost.Until = "2025-03-01"
			c.Costs = append(c.Costs, cost)
			cost.From, cost.Until = "2025-03-01", ""
		}
		c.Costs = append(c.Costs, cost)
	}
	return c
}

func generatedLimit(t *rapid.T, key string, c catalog.Catalog) catalog.Limit {
	l := catalog.Limit{Key: catalog.LimitKey(key)}
	kinds := []catalog.LimitKind{catalog.Budget, catalog.AbuseGuard}
	if len(c.Meters) > 0 {
		kinds = append(kinds, catalog.Rate, catalog.Quota, catalog.Concurrency, catalog.Max, catalog.Access, catalog.RetryBudget)
	}
	l.Kind = rapid.SampledFrom(kinds).Draw(t, "kind")
	on := c.EventTypes
	period := func() catalog.Window {
		return catalog.Window{Period: rapid.SampledFrom([]catalog.Period{"minute", "hour", "day", "month", "billing_cycle"}).Draw(t, "period")}
	}
	sliding := func() catalog.Window { return catalog.Window{Length: length(t, "window")} }
	onError := rapid.SampledFrom([]catalog.OnError{"", catalog.Deny, catalog.Allow}).Draw(t, "onError")
	ratio := money.Scaled(rapid.Int64Range(1, 1000).Draw(t, "ratio"), 3)
	count := rapid.Int64Range(1, 1000).Draw(t, "count")
	switch l.Kind {
	case catalog.Rate:
		l.On, l.Window, l.Max = on(), sliding(), money.Int(count)
		l.Burst = rapid.Int64Range(0, count).Draw(t, "burst")
	case catalog.Quota:
		l.Meter, l.Window, l.Max = rapid.SampledFrom(c.Meters).Draw(t, "meter").Key, period(), positive(t, "max")
		l.HoldTTL, l.Soft, l.OnError = optional(t, "holdTTL", length), rapid.Bool().Draw(t, "soft"), onError
	case catalog.Concurrency:
		l.On, l.Max, l.HoldTTL, l.OnError = on(), money.Int(count), length(t, "holdTTL"), onError
	case catalog.Max:
		l.On, l.Max = on(), positive(t, "max")
		l.Field = rapid.SampledFrom([]string{"", "audioSeconds"}).Draw(t, "field")
	case catalog.Access:
		l.On, l.Field = on(), "modelTier"
		l.Values = rapid.SliceOfNDistinct(label, 1, 3, rapid.ID).Draw(t, "values")
	case catalog.RetryBudget:
		l.On, l.Ratio, l.Window, l.MaxAttempts = on(), ratio, sliding(), count
		l.Minimum = rapid.Int64Range(0, 5).Draw(t, "minimum")
	case catalog.Budget:
		l.Max, l.Window, l.HoldTTL, l.OnError = positive(t, "max"), period(), optional(t, "holdTTL", length), onError
	case catalog.AbuseGuard:
		l.Denials, l.Ratio, l.Window = count, ratio, sliding()
		l.Cooldown, l.MaxCooldown = length(t, "cooldown"), length(t, "maxCooldown")
		if l.Cooldown.Value() > l.MaxCooldown.Value() {
			l.Cooldown, l.MaxCooldown = l.MaxCooldown, l.Cooldown
		}
	}
	return l
}

func generatedPrice(t *rapid.T, key string, c catalog.Catalog) catalog.Price {
	p := catalog.Price{Key: catalog.PriceKey(key), Model: catalog.Flat}
	if len(c.Meters) == 0 || rapid.Bool().Draw(t, "is flat") {
		p.Amount, p.Arrears = notNegative(t, "amount"), rapid.Bool().Draw(t, "arrears")
		return p
	}
	meter := rapid.SampledFrom(c.Meters).Draw(t, "meter")
	p.Meter, p.Included = meter.Key, notNegative(t, "included")
	for _, d := range meter.Dimensions {
		if rapid.Bool().Draw(t, "filters") {
			if p.Where == nil {
				p.Where = map[string]string{}
			}
			p.Where[d] = label.Draw(t, "where")
		}
	}
	p.Model = rapid.SampledFrom([]catalog.PriceModel{catalog.PerUnit, catalog.Package, catalog.Graduated, catalog.Volume, catalog.Percentage}).Draw(t, "model")
	switch p.Model {
	case catalog.PerUnit:
		p.Unit = notNegative(t, "unit")
	case catalog.Package:
		p.Unit, p.Size = notNegative(t, "unit"), positive(t, "size")
	case catalog.Percentage:
		p.Percent = positive(t, "percent")
	default:
		var upTo money.Decimal
		for range rapid.IntRange(0, 3).Draw(t, "tiers") {
			upTo = upTo.Add(positive(t, "step"))
			p.Tiers = append(p.Tiers, catalog.Tier{UpTo: upTo, Unit: notNegative(t, "unit")})
		}
		p.Tiers = append(p.Tiers, catalog.Tier{Unit: notNegative(t, "unit")})
	}
	return p
}

func generatedFlag(t *rapid.T, key string) catalog.Flag {
	f := catalog.Flag{Key: catalog.FlagKey(key)}
	f.Type = rapid.SampledFrom([]catalog.FlagType{catalog.Boolean, catalog.String, catalog.Number, catalog.Object}).Draw(t, "type")
	value := func() json.RawMessage {
		switch f.Type {
		case catalog.Boolean:
			return json.RawMessage(rapid.SampledFrom([]string{"true", "false"}).Draw(t, "value"))
		case catalog.String:
			return json.RawMessage(quote(strange.Draw(t, "value")))
		case catalog.Number:
			return json.RawMessage(rapid.SampledFrom([]string{"0", "-1.50", "1e5", "1E-30", "123456789012345678901234567890"}).Draw(t, "value"))
		default:
			return json.RawMessage(`{"<<":[1,null,true,{}],"a":` + quote(strange.Draw(t, "value")) + `,"é":{"x":1.0}}`)
		}
	}
	f.Default = value()
	for range rapid.IntRange(0, 3).Draw(t, "rules") {
		percentage := money.Scaled(rapid.Int64Range(0, 1000).Draw(t, "percentage"), 1)
		r := catalog.Rule{Value: value()}
		r.Tenants = optional(t, "tenants", func(t *rapid.T, name string) []string {
			return rapid.SliceOfNDistinct(label, 1, 3, rapid.ID).Draw(t, name)
		})
		r.Plans = optional(t, "plans", func(*rapid.T, string) []catalog.PlanKey { return []catalog.PlanKey{"pro"} })
		r.Percentage = optional(t, "percentage", func(*rapid.T, string) *money.Decimal { return &percentage })
		if r.Tenants == nil && r.Plans == nil {
			r.Percentage = &percentage
		}
		f.Rules = append(f.Rules, r)
	}
	return f
}

func quote(s string) string {
	b, err := jsontext.AppendQuote(nil, s)
	if err != nil {
		panic(err)
	}
	return string(b)
}
