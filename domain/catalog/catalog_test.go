package catalog_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/money"
)

func parsed(t *testing.T, text string) catalog.Catalog {
	t.Helper()
	c, err := catalog.Parse([]byte(text))
	require.NoError(t, err)
	return c
}

func file(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return text
}

// The catalog of the HTTP contract, letter for letter.
func TestContractCatalog(t *testing.T) {
	c := parsed(t, string(file(t, "testdata/contract.yaml")))
	require.Len(t, c.Meters, 3)
	require.Equal(t, []string{"ai_interview_completed", "tokens_spent"}, c.EventTypes())
	require.Len(t, c.Flags, 1)
	require.JSONEq(t, "true", string(c.Flags[0].Default))
	require.Equal(t, "10", c.Flags[0].Rules[2].Percentage.String())

	pro := c.Plans[0]
	require.Equal(t, catalog.Currency("USD"), pro.Currency)
	require.Equal(t, "1h", pro.Grace.String())
	require.Equal(t, money.Int(99), pro.Minimum)
	require.Len(t, pro.Limits, 9)
	duration := func(text string) catalog.Duration {
		d, err := catalog.ParseDuration(text)
		require.NoError(t, err)
		return d
	}
	require.Equal(t, catalog.Limit{
		Key: "tokens_per_day", Kind: catalog.Quota, Meter: "tokens", Max: money.Int(200000),
		Window: catalog.Window{Period: catalog.Day}, HoldTTL: duration("15m"),
	}, pro.Limits[1])
	require.Equal(t, catalog.Limit{
		Key: "retries", Kind: catalog.RetryBudget, On: []string{"tokens_spent"}, Ratio: money.MustParse("0.2"), Minimum: 10,
		Window: catalog.Window{Length: duration("1m")}, MaxAttempts: 3,
	}, pro.Limits[6])
	require.Equal(t, catalog.Price{
		Key: "interviews", Model: catalog.Graduated, Meter: "ai_interviews", Included: money.Int(20),
		Tiers: []catalog.Tier{{UpTo: money.Int(100), Unit: money.MustParse("2.5")}, {Unit: money.Int(2)}},
	}, pro.Prices[1])
	require.True(t, pro.Prices[1].Tiers[1].Open())
	require.Equal(t, catalog.Cost{
		Provider: "openai", Model: "gpt-4.1", From: "2025-04-14", InputPerMillion: money.Int(2),
		CachedInputPerMillion: money.MustParse("0.5"), OutputPerMillion: money.Int(8),
	}, c.Costs[0])
	require.Equal(t, strings.TrimSpace(string(file(t, "testdata/contract.json"))), string(c.Canonical()))
}

func TestSampleCatalog(t *testing.T) {
	c := parsed(t, string(file(t, "../../scripts/sample/catalog.yaml")))
	require.Equal(t, []string{"ai_interview_completed", "evaluation_completed", "tokens_spent"}, c.EventTypes())
	var plans []catalog.PlanKey
	for _, p := range c.Plans {
		plans = append(plans, p.Key)
	}
	require.Equal(t, []catalog.PlanKey{"free", "pro", "scale"}, plans)
}

func TestMetersOf(t *testing.T) {
	c := parsed(t, `
meters:
  - {key: tokens, eventType: spent, aggregation: sum}
  - {key: runs, eventType: ran, aggregation: count}
  - {key: output, eventType: spent, value: data.outputTokens, aggregation: sum}
  - {key: amount, eventType: spent, value: quantity, aggregation: sum}
`)
	var keys []catalog.MeterKey
	for _, m := range c.MetersOf("spent") {
		keys = append(keys, m.Key)
	}
	require.Equal(t, []catalog.MeterKey{"amount", "output", "tokens"}, keys)
	require.Empty(t, c.MetersOf("other"))
	require.Equal(t, []string{"ran", "spent"}, c.EventTypes())

	field, ok := c.MetersOf("spent")[1].Field()
	require.True(t, ok)
	require.Equal(t, "outputTokens", field)
	for _, m := range []catalog.Meter{c.MetersOf("spent")[0], c.MetersOf("spent")[2]} {
		_, ok = m.Field()
		require.False(t, ok)
	}
}

func TestOrderHasNoMeaningWhereThereAreKeys(t *testing.T) {
	a := parsed(t, `{meters: [{key: b, eventType: e, aggregation: sum}, {key: a, eventType: e, aggregation: sum}],
  plans: [{key: y, currency: USD}, {key: x, currency: EUR}]}`)
	b := parsed(t, `{plans: [{currency: EUR, key: x}, {key: y, currency: USD, limits: []}],
  meters: [{key: a, eventType: e, aggregation: sum, dimensions: []}, {key: b, aggregation: sum, eventType: e}]}`)
	require.Equal(t, a, b)
	require.Equal(t, a.Canonical(), b.Canonical())
}

func TestCanonicalLeavesItsCatalogAlone(t *testing.T) {
	c := catalog.Catalog{Meters: []catalog.Meter{{Key: "b"}, {Key: "a"}}}
	c.Canonical()
	require.Equal(t, catalog.MeterKey("b"), c.Meters[0].Key)
}

func TestCanonicalRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := generated(t, "catalog")
		text := c.Canonical()

		fromJSON, err := catalog.Parse(text)
		require.NoError(t, err, "%s", text)
		require.Equal(t, c, fromJSON)
		require.Equal(t, string(text), string(fromJSON.Canonical()))

		// A comment in front makes it a YAML text, which must mean the same.
		fromYAML, err := catalog.Parse(append([]byte("# YAML\n"), text...))
		require.NoError(t, err, "%s", text)
		require.Equal(t, c, fromYAML)

		var decoded catalog.Catalog
		encoded, err := json.Marshal(c)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(encoded, &decoded))
		require.Equal(t, c, decoded)
	})
}

func TestDurations(t *testing.T) {
	for _, c := range []struct {
		text  string
		value string // "" means refused
	}{
		{"90s", "1m30s"}, {"15m", "15m0s"}, {"1h30m", "1h30m0s"}, {"7d", "168h0m0s"}, {"1d12h", "36h0m0s"}, {"0s", "0s"},
		{"250ms", "250ms"}, {"", ""}, {"d", ""}, {"-1h", ""}, {"+1h", ""}, {"1d-1h", ""}, {"1.5d", ""}, {"5", ""}, {"1w", ""},
		{"1dd", ""}, {"4000d", ""}, {"99999999999d", ""}, {"100000h", ""}, {"1h ", ""}, {"9999999999999999h", ""},
	} {
		t.Run(c.text, func(t *testing.T) {
			d, err := catalog.ParseDuration(c.text)
			if c.value == "" {
				require.ErrorIs(t, err, catalog.ErrDuration)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.value, d.Value().String())
			require.Equal(t, c.text, d.String())

			encoded, err := json.Marshal(d)
			require.NoError(t, err)
			var decoded catalog.Duration
			require.NoError(t, json.Unmarshal(encoded, &decoded))
			require.Equal(t, d, decoded)
		})
	}
}

func TestWindowsAsJSON(t *testing.T) {
	minute, err := catalog.ParseDuration("1m")
	require.NoError(t, err)
	for _, w := range []catalog.Window{{Period: catalog.BillingCycle}, {Length: minute}, {}} {
		encoded, err := json.Marshal(w)
		require.NoError(t, err)
		var decoded catalog.Window
		require.NoError(t, json.Unmarshal(encoded, &decoded))
		require.Equal(t, w, decoded)
	}
}

func TestCostInForce(t *testing.T) {
	c := catalog.Cost{From: "2025-04-16", Until: "2025-06-10"}
	for day, want := range map[catalog.Date]bool{"2025-04-15": false, "2025-04-16": true, "2025-06-09": true, "2025-06-10": false} {
		require.Equal(t, want, c.InForce(day), day)
	}
	c.Until = ""
	require.True(t, c.InForce("2099-01-01"))
}

// A kind whose limits must have a maximum has one, and no other.
func TestKindsWithAMaximum(t *testing.T) {
	for kind, want := range map[catalog.LimitKind][2]bool{
		catalog.Rate: {true, true}, catalog.Concurrency: {true, true}, catalog.Quota: {true, false}, catalog.Budget: {true, false}, catalog.Max: {true, false},
		catalog.Access: {}, catalog.RetryBudget: {}, catalog.AbuseGuard: {}, "": {},
	} {
		require.Equal(t, want, [2]bool{kind.HasMax(), kind.CountsChecks()}, kind)
	}
}
