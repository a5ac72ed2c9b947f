package catalog_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
)

func TestDiff(t *testing.T) {
	before := parsed(t, `
meters:
  - {key: tokens, eventType: spent, aggregation: sum}
plans:
  - key: pro
    currency: USD
    limits:
      - {key: per_day, kind: quota, meter: tokens, max: 200000, window: day}
      - {key: spend, kind: budget, max: "500.00", window: billing_cycle}
    prices:
      - {key: base, model: flat, amount: 99}
flags:
  - {key: voice, type: string, default: "on"}
costs:
  - {provider: meta, model: meta/llama, from: 2025-01-01, inputPerMillion: 1, outputPerMillion: 2}
`)
	after := parsed(t, `
meters:
  - {key: tokens, eventType: spent, aggregation: sum, dimensions: [model]}
  - {key: runs, eventType: ran, aggregation: count}
plans:
  - key: pro
    currency: USD
    limits:
      - {key: spend, kind: budget, max: "500.00", window: billing_cycle}
      - {key: per_day, kind: quota, meter: tokens, max: 300000, window: day, soft: true}
    prices: [{key: used, model: graduated, meter: tokens, tiers: [{upTo: 10, unit: "0.02"}, {unit: "0.010"}]}]
  - {key: free, currency: USD, limits: [{key: spend, kind: budget, max: 1, window: day}]}
flags:
  - {key: voice, type: string, default: "true"}
costs:
  - {provider: meta, model: meta/llama, from: 2025-01-01, until: 2026-01-01, inputPerMillion: 1, outputPerMillion: 2}
`)
	require.Equal(t, []catalog.Change{
		{Op: "added", Path: "costs/meta/meta~1llama/2025-01-01/until", New: "2026-01-01"},
		{Op: "changed", Path: "flags/voice/default", Old: "on", New: `"true"`},
		{Op: "added", Path: "meters/runs", New: "{eventType: ran, aggregation: count}"},
		{Op: "added", Path: "meters/tokens/dimensions", New: "[model]"},
		{Op: "added", Path: "plans/free", New: "{currency: USD}"},
		{Op: "added", Path: "plans/free/limits/spend", New: "{kind: budget, max: 1, window: day}"},
		{Op: "changed", Path: "plans/pro/limits", Old: "per_day, spend", New: "spend, per_day"},
		{Op: "changed", Path: "plans/pro/limits/per_day/max", Old: "200000", New: "300000"},
		{Op: "added", Path: "plans/pro/limits/per_day/soft", New: "true"},
		{Op: "removed", Path: "plans/pro/prices/base", Old: "{model: flat, amount: 99}"},
		{Op: "added", Path: "plans/pro/prices/used", New: "{model: graduated, meter: tokens, tiers: [{upTo: 10, unit: 0.02}, {unit: 0.01}]}"},
	}, catalog.Diff(before, after))
}

func TestDiffOfGeneratedCatalogs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := generated(t, "a"), generated(t, "b")
		require.Empty(t, catalog.Diff(a, a))

		changes := catalog.Diff(a, b)
		require.Equal(t, bytes.Equal(a.Canonical(), b.Canonical()), len(changes) == 0)
		back := catalog.Diff(b, a)
		for i := range back {
			back[i].Old, back[i].New = back[i].New, back[i].Old
			switch back[i].Op {
			case catalog.Added:
				back[i].Op = catalog.Removed
			case catalog.Removed:
				back[i].Op = catalog.Added
			}
		}
		require.Equal(t, changes, back)
		require.True(t, slices.IsSortedFunc(changes, func(x, y catalog.Change) int { return bytes.Compare([]byte(x.Path), []byte(y.Path)) }))
	})
}
