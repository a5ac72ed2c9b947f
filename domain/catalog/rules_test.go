package catalog_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

// Each function puts one part into a catalog that is valid around it.
const someMeters = "meters:\n" +
	"  - {key: calls, eventType: called, aggregation: sum, dimensions: [model, feature]}\n" +
	"  - {key: tests, eventType: tested, aggregation: count}\n"

func whole(text string) string   { return text }
func meter(text string) string   { return "meters:\n  - {" + text + "}\n" }
func meterOf(text string) string { return meter("key: m, eventType: e, aggregation: sum, " + text) }
func plan(text string) string {
	return someMeters + "plans:\n  - {key: pro, currency: USD, " + text + "}\n"
}
func planOf(text string) string { return someMeters + "plans:\n  - {" + text + "}\n" }
func limit(text string) string  { return plan("limits: [{key: l, " + text + "}]") }
func price(text string) string  { return plan("prices: [{key: p, " + text + "}]") }
func flag(text string) string   { return "flags:\n  - {key: f, " + text + "}\n" }
func rule(text string) string   { return flag("type: boolean, default: true, rules: [{" + text + "}]") }

// costs are the entries of one model, separated by semicolons.
func costs(entries string) string {
	const entry = "\n  - {provider: p, model: m, inputPerMillion: 1, outputPerMillion: 2, "
	return "costs:" + entry + strings.ReplaceAll(entries, "; ", "}"+entry) + "}\n"
}
func cost(text string) string { return "costs:\n  - {" + text + "}\n" }

// Every rule with what it allows and what it refuses, where and as what.
func TestRules(t *testing.T) {
	const (
		l   = "/plans/0/limits/0"
		p   = "/plans/0/prices/0"
		f   = "/flags/0"
		r   = "/flags/0/rules/0"
		c0  = "/costs/0"
		c1  = "/costs/1"
		x64 = "x234567890123456789012345678901234567890123456789012345678901234"
	)
	for _, c := range []struct {
		name          string
		in            func(string) string
		good, bad     string
		pointer, code string
	}{
		{"catalog keys are known", whole, "{}", "{plan: []}", "/plan", "unknown_key"},
		{"catalog keys have their case", whole, "{plans: []}", "{Plans: []}", "/Plans", "unknown_key"},
		{"catalog is a mapping", whole, "{}", "[]", "", "wrong_type"},
		{"lists are lists", whole, "plans: []", "plans: {}", "/plans", "wrong_type"},
		{"null is no list", whole, "plans: []", "plans:", "/plans", "wrong_type"},
		{"elements are mappings", whole, "meters: []", "meters: [a]", "/meters/0", "wrong_type"},

		{"meter has a key", meter, "key: m, eventType: e, aggregation: sum", "eventType: e, aggregation: sum", "/meters/0/key", "missing"},
		{"meter has an event type", meter, "key: m, eventType: e, aggregation: sum", "key: m, aggregation: sum", "/meters/0/eventType", "missing"},
		{"meter has an aggregation", meter, "key: m, eventType: e, aggregation: count", "key: m, eventType: e", "/meters/0/aggregation", "missing"},
		{"key starts with a letter", meter, "key: a1_.-, eventType: e, aggregation: sum", "key: _a, eventType: e, aggregation: sum", "/meters/0/key", "malformed"},
		{"key is lower case", meter, "key: ab, eventType: e, aggregation: sum", "key: aB, eventType: e, aggregation: sum", "/meters/0/key", "malformed"},
		{"key has at most 64 characters", meter, "key: " + x64 + ", eventType: e, aggregation: sum", "key: " + x64 + "x, eventType: e, aggregation: sum", "/meters/0/key", "malformed"},
		{"key is text", meter, "key: 'no', eventType: e, aggregation: sum", "key: 7, eventType: e, aggregation: sum", "/meters/0/key", "wrong_type"},
		{"event type is printable", meter, "key: m, eventType: 'a b/ü', aggregation: sum", `key: m, eventType: "a\u0007", aggregation: sum`, "/meters/0/eventType", "malformed"},
		{"event type is normalised", meter, "key: m, eventType: \"\\u00e9\", aggregation: sum", `key: m, eventType: "e\u0301", aggregation: sum`, "/meters/0/eventType", "malformed"},
		{"event type is not too long", meter, "key: m, eventType: " + strings.Repeat("e", 200) + ", aggregation: sum", "key: m, eventType: " + strings.Repeat("e", 201) + ", aggregation: sum", "/meters/0/eventType", "malformed"},
		{"event type is not empty", meter, "key: m, eventType: e, aggregation: sum", "key: m, eventType: '', aggregation: sum", "/meters/0/eventType", "malformed"},
		{"aggregation can be undone", meter, "key: m, eventType: e, aggregation: sum", "key: m, eventType: e, aggregation: max", "/meters/0/aggregation", "not_allowed"},
		{"value is the quantity or a field", meterOf, "value: quantity", "value: inputTokens", "/meters/0/value", "malformed"},
		{"value is a top-level field", meterOf, "value: data.inputTokens", "value: data.a.b", "/meters/0/value", "malformed"},
		{"value names a field", meterOf, "value: data._", "value: data.", "/meters/0/value", "malformed"},
		{"count has no value", meter, "key: m, eventType: e, aggregation: count", "key: m, eventType: e, aggregation: count, value: quantity", "/meters/0/value", "not_allowed"},
		{"dimensions are fields", meterOf, "dimensions: [model, a-b]", "dimensions: [model, 'a b']", "/meters/0/dimensions/1", "malformed"},
		{"dimensions differ", meterOf, "dimensions: [a, b]", "dimensions: [a, b, a]", "/meters/0/dimensions/2", "duplicate"},
		{"dimensions are few", meterOf, "dimensions: [a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p]", "dimensions: [a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q]", "/meters/0/dimensions", "out_of_range"},

		{"plan has a currency", planOf, "key: pro, currency: EUR", "key: pro", "/plans/0/currency", "missing"},
		{"currency is active", planOf, "key: pro, currency: JPY", "key: pro, currency: DEM", "/plans/0/currency", "not_allowed"},
		{"currency is upper case", planOf, "key: pro, currency: USD", "key: pro, currency: usd", "/plans/0/currency", "not_allowed"},
		{"currency can be billed", planOf, "key: pro, currency: XCG", "key: pro, currency: XAU", "/plans/0/currency", "not_allowed"},
		{"tier is a label", plan, "tier: growth", "tier: Growth!", "/plans/0/tier", "malformed"},
		{"minimum is not negative", plan, "minimum: 0", "minimum: -1", "/plans/0/minimum", "out_of_range"},
		{"spend cap is positive", plan, "spendCap: '0.01'", "spendCap: 0", "/plans/0/spendCap", "out_of_range"},
		{"spend cap is at least the minimum", plan, "minimum: 10, spendCap: 10", "minimum: 10, spendCap: '9.99'", "/plans/0/spendCap", "out_of_range"},
		{"grace is a duration", plan, "grace: 0s", "grace: soon", "/plans/0/grace", "malformed"},
		{"grace is bounded", plan, "grace: 31d", "grace: 32d", "/plans/0/grace", "out_of_range"},
		{"money is a number", plan, "minimum: 99.50", "minimum: true", "/plans/0/minimum", "wrong_type"},
		{"money has nine fraction digits", plan, "minimum: 0.000000001", "minimum: 0.0000000001", "/plans/0/minimum", "out_of_range"},

		{"limit has a key", plan, "limits: [{key: a, kind: budget, max: 1, window: day}]", "limits: [{kind: budget, max: 1, window: day}]", l + "/key", "missing"},
		{"limit has a kind", limit, "kind: budget, max: 1, window: day", "max: 1, window: day", l + "/kind", "missing"},
		{"limit kind is known", limit, "kind: budget, max: 1, window: day", "kind: ceiling, max: 1", l + "/kind", "not_allowed"},
		{"limit kind is text", limit, "kind: budget, max: 1, window: day", "kind: [budget]", l + "/kind", "wrong_type"},
		{"rate is complete", limit, "kind: rate, on: [called], max: 60, window: 1m", "kind: rate, on: [called], max: 60", l + "/window", "missing"},
		{"rate takes its fields only", limit, "kind: rate, on: [called], max: 60, window: 1m, burst: 60", "kind: rate, on: [called], max: 60, window: 1m, holdTTL: 1m", l + "/holdTTL", "unknown_key"},
		{"rate slides", limit, "kind: rate, on: [called], max: 60, window: 90s", "kind: rate, on: [called], max: 60, window: day", l + "/window", "malformed"},
		{"rate max is not negative", limit, "kind: rate, on: [called], max: 0, window: 1m", "kind: rate, on: [called], max: -1, window: 1m", l + "/max", "out_of_range"},
		{"rate max is whole", limit, "kind: rate, on: [called], max: '2.0', window: 1m", "kind: rate, on: [called], max: 2.5, window: 1m", l + "/max", "out_of_range"},
		{"burst is at most max", limit, "kind: rate, on: [called], max: 5, window: 1m, burst: 5", "kind: rate, on: [called], max: 5, window: 1m, burst: 6", l + "/burst", "out_of_range"},
		{"burst is positive", limit, "kind: rate, on: [called], max: 5, window: 1m, burst: 1", "kind: rate, on: [called], max: 5, window: 1m, burst: 0", l + "/burst", "out_of_range"},
		{"window is positive", limit, "kind: rate, on: [called], max: 5, window: 1ms", "kind: rate, on: [called], max: 5, window: 0s", l + "/window", "out_of_range"},
		{"window is bounded", limit, "kind: rate, on: [called], max: 5, window: 31d", "kind: rate, on: [called], max: 5, window: 745h", l + "/window", "out_of_range"},
		{"on has a meter", limit, "kind: max, on: [called, tested], max: 5", "kind: max, on: [called, typo], max: 5", l + "/on/1", "unknown_reference"},
		{"on is not empty", limit, "kind: max, on: [called], max: 5", "kind: max, on: [], max: 5", l + "/on", "out_of_range"},
		{"on is a list", limit, "kind: max, on: [called], max: 5", "kind: max, on: called, max: 5", l + "/on", "wrong_type"},
		{"on lists each once", limit, "kind: max, on: [called], max: 5", "kind: max, on: [called, called], max: 5", l + "/on/1", "duplicate"},
		{"quota is complete", limit, "kind: quota, meter: calls, max: 1.5, window: billing_cycle, holdTTL: 15m, soft: true, onError: allow", "kind: quota, max: 1, window: day", l + "/meter", "missing"},
		{"quota meter exists", limit, "kind: quota, meter: calls, max: 1, window: minute", "kind: quota, meter: typo, max: 1, window: minute", l + "/meter", "unknown_reference"},
		{"quota window is a period", limit, "kind: quota, meter: calls, max: 1, window: hour", "kind: quota, meter: calls, max: 1, window: 24h", l + "/window", "not_allowed"},
		{"quota max is not negative", limit, "kind: quota, meter: calls, max: 1, window: month", "kind: quota, meter: calls, max: -1, window: month", l + "/max", "out_of_range"},
		{"soft is a boolean", limit, "kind: quota, meter: calls, max: 1, window: month, soft: false", "kind: quota, meter: calls, max: 1, window: month, soft: yes", l + "/soft", "wrong_type"},
		{"onError is deny or allow", limit, "kind: quota, meter: calls, max: 1, window: month, onError: deny", "kind: quota, meter: calls, max: 1, window: month, onError: ignore", l + "/onError", "not_allowed"},
		{"hold lasts a second", limit, "kind: quota, meter: calls, max: 1, window: day, holdTTL: 1s", "kind: quota, meter: calls, max: 1, window: day, holdTTL: 999ms", l + "/holdTTL", "out_of_range"},
		{"hold lasts a week at most", limit, "kind: quota, meter: calls, max: 1, window: day, holdTTL: 7d", "kind: quota, meter: calls, max: 1, window: day, holdTTL: 7d1s", l + "/holdTTL", "out_of_range"},
		{"hold is in text", limit, "kind: quota, meter: calls, max: 1, window: day, holdTTL: 60s", "kind: quota, meter: calls, max: 1, window: day, holdTTL: 60", l + "/holdTTL", "wrong_type"},
		{"concurrency needs its hold", limit, "kind: concurrency, on: [called], max: 5, holdTTL: 2h, onError: allow", "kind: concurrency, on: [called], max: 5", l + "/holdTTL", "missing"},
		{"concurrency is whole", limit, "kind: concurrency, on: [called], max: 5, holdTTL: 2h", "kind: concurrency, on: [called], max: 0.5, holdTTL: 2h", l + "/max", "out_of_range"},
		{"concurrency has no window", limit, "kind: concurrency, on: [called], max: 5, holdTTL: 2h", "kind: concurrency, on: [called], max: 5, holdTTL: 2h, window: 1m", l + "/window", "unknown_key"},
		{"max is complete", limit, "kind: max, on: [called], field: audioSeconds, max: 0.5", "kind: max, on: [called], field: audioSeconds", l + "/max", "missing"},
		{"field is a name", limit, "kind: max, on: [called], field: a_b, max: 1", "kind: max, on: [called], field: data.a, max: 1", l + "/field", "malformed"},
		{"access is complete", limit, "kind: access, on: [called], field: modelTier, values: [standard]", "kind: access, on: [called], values: [standard]", l + "/field", "missing"},
		{"access has values", limit, "kind: access, on: [called], field: t, values: [a, b]", "kind: access, on: [called], field: t, values: []", l + "/values", "out_of_range"},
		{"access values are text", limit, "kind: access, on: [called], field: t, values: ['4.1']", "kind: access, on: [called], field: t, values: [4.1]", l + "/values/0", "wrong_type"},
		{"retry budget is complete", limit, "kind: retry_budget, on: [called], ratio: 0.2, window: 1m, maxAttempts: 3", "kind: retry_budget, on: [called], ratio: 0.2, window: 1m", l + "/maxAttempts", "missing"},
		{"ratio is at most 1", limit, "kind: retry_budget, on: [called], ratio: 1, minimum: 0, window: 1m, maxAttempts: 3", "kind: retry_budget, on: [called], ratio: 1.01, window: 1m, maxAttempts: 3", l + "/ratio", "out_of_range"},
		{"ratio is positive", limit, "kind: retry_budget, on: [called], ratio: 0.000001, window: 1m, maxAttempts: 3", "kind: retry_budget, on: [called], ratio: 0, window: 1m, maxAttempts: 3", l + "/ratio", "out_of_range"},
		{"retry minimum is not negative", limit, "kind: retry_budget, on: [called], ratio: 1, minimum: 10, window: 1m, maxAttempts: 3", "kind: retry_budget, on: [called], ratio: 1, minimum: -1, window: 1m, maxAttempts: 3", l + "/minimum", "out_of_range"},
		{"attempts are whole", limit, "kind: retry_budget, on: [called], ratio: 1, window: 1m, maxAttempts: 1", "kind: retry_budget, on: [called], ratio: 1, window: 1m, maxAttempts: 1.5", l + "/maxAttempts", "out_of_range"},
		{"budget is complete", limit, `kind: budget, max: "500.00", window: billing_cycle, holdTTL: 1h, onError: deny`, "kind: budget, window: day", l + "/max", "missing"},
		{"budget has no meter", limit, "kind: budget, max: 500, window: day", "kind: budget, max: 500, window: day, meter: calls", l + "/meter", "unknown_key"},
		{"abuse guard is complete", limit, "kind: abuse_guard, denials: 50, ratio: 0.5, window: 1m, cooldown: 5m, maxCooldown: 1h", "kind: abuse_guard, denials: 50, ratio: 0.5, window: 1m, cooldown: 5m", l + "/maxCooldown", "missing"},
		{"cooldown is at most its cap", limit, "kind: abuse_guard, denials: 50, ratio: 1, window: 1m, cooldown: 1h, maxCooldown: 60m", "kind: abuse_guard, denials: 50, ratio: 1, window: 1m, cooldown: 2h, maxCooldown: 1h", l + "/maxCooldown", "out_of_range"},
		{"denials are positive", limit, "kind: abuse_guard, denials: 1, ratio: 1, window: 1m, cooldown: 1m, maxCooldown: 1m", "kind: abuse_guard, denials: 0, ratio: 1, window: 1m, cooldown: 1m, maxCooldown: 1m", l + "/denials", "out_of_range"},
		{"limit keys are unique in a plan", limit, "kind: budget, max: 1, window: day}, {key: l2, kind: budget, max: 1, window: day", "kind: budget, max: 1, window: day}, {key: l, kind: budget, max: 1, window: day", "/plans/0/limits/1/key", "duplicate"},

		{"price has a model", price, "model: flat, amount: 1", "amount: 1", p + "/model", "missing"},
		{"price model is known", price, "model: flat, amount: 1", "model: tiered, amount: 1", p + "/model", "not_allowed"},
		{"flat is complete", price, "model: flat, amount: 0, arrears: true", "model: flat", p + "/amount", "missing"},
		{"flat is not negative", price, "model: flat, amount: '0.00'", "model: flat, amount: '-0.01'", p + "/amount", "out_of_range"},
		{"flat has no meter", price, "model: flat, amount: 1", "model: flat, amount: 1, meter: calls", p + "/meter", "unknown_key"},
		{"per unit is complete", price, "model: per_unit, meter: calls, unit: 0, included: 5", "model: per_unit, meter: calls", p + "/unit", "missing"},
		{"unit is not negative", price, "model: per_unit, meter: calls, unit: '0.000001'", "model: per_unit, meter: calls, unit: -1", p + "/unit", "out_of_range"},
		{"included is not negative", price, "model: per_unit, meter: calls, unit: 1, included: 0", "model: per_unit, meter: calls, unit: 1, included: -5", p + "/included", "out_of_range"},
		{"price meter exists", price, "model: per_unit, meter: calls, unit: 1", "model: per_unit, meter: typo, unit: 1", p + "/meter", "unknown_reference"},
		{"package is complete", price, "model: package, meter: calls, size: 1000, unit: '0.02'", "model: package, meter: calls, unit: '0.02'", p + "/size", "missing"},
		{"size is positive", price, "model: package, meter: calls, size: 0.5, unit: 1", "model: package, meter: calls, size: 0, unit: 1", p + "/size", "out_of_range"},
		{"percentage is complete", price, "model: percentage, meter: calls, percent: 2.5", "model: percentage, meter: calls", p + "/percent", "missing"},
		{"percentage is positive", price, "model: percentage, meter: calls, percent: 120", "model: percentage, meter: calls, percent: 0", p + "/percent", "out_of_range"},
		{"graduated is complete", price, "model: graduated, meter: calls, tiers: [{upTo: 10, unit: 2}, {unit: 1}]", "model: graduated, meter: calls", p + "/tiers", "missing"},
		{"tiers are not empty", price, "model: volume, meter: calls, tiers: [{unit: 1}]", "model: volume, meter: calls, tiers: []", p + "/tiers", "out_of_range"},
		{"tiers rise", price, "model: volume, meter: calls, tiers: [{upTo: 1, unit: 2}, {upTo: 2, unit: 1}, {unit: 0}]", "model: volume, meter: calls, tiers: [{upTo: 2, unit: 2}, {upTo: 2, unit: 1}, {unit: 0}]", p + "/tiers/1/upTo", "out_of_range"},
		{"last tier is open", price, "model: volume, meter: calls, tiers: [{upTo: 1, unit: 2}, {unit: 1}]", "model: volume, meter: calls, tiers: [{upTo: 1, unit: 2}, {upTo: 2, unit: 1}]", p + "/tiers/1/upTo", "not_allowed"},
		{"only the last tier is open", price, "model: volume, meter: calls, tiers: [{upTo: 1, unit: 2}, {unit: 1}]", "model: volume, meter: calls, tiers: [{unit: 2}, {unit: 1}]", p + "/tiers/0/upTo", "missing"},
		{"tier bound is positive", price, "model: volume, meter: calls, tiers: [{upTo: 1, unit: 2}, {unit: 1}]", "model: volume, meter: calls, tiers: [{upTo: 0, unit: 2}, {unit: 1}]", p + "/tiers/0/upTo", "out_of_range"},
		{"tier has a unit", price, "model: volume, meter: calls, tiers: [{unit: 0}]", "model: volume, meter: calls, tiers: [{}]", p + "/tiers/0/unit", "missing"},
		{"tier has its fields only", price, "model: volume, meter: calls, tiers: [{unit: 1}]", "model: volume, meter: calls, tiers: [{unit: 1, flat: 2}]", p + "/tiers/0/flat", "unknown_key"},
		{"where is on dimensions", price, "model: per_unit, meter: calls, unit: 1, where: {model: gpt-4.1, feature: chat}", "model: per_unit, meter: calls, unit: 1, where: {user: u1}", p + "/where/user", "unknown_reference"},
		{"where is text", price, "model: per_unit, meter: calls, unit: 1, where: {model: '4.1'}", "model: per_unit, meter: calls, unit: 1, where: {model: 4.1}", p + "/where/model", "wrong_type"},
		{"price keys are unique in a plan", price, "model: flat, amount: 1}, {key: p2, model: flat, amount: 1", "model: flat, amount: 1}, {key: p, model: flat, amount: 1", "/plans/0/prices/1/key", "duplicate"},

		{"flag is complete", flag, "type: boolean, default: false", "type: boolean", f + "/default", "missing"},
		{"flag type is known", flag, "type: string, default: ''", "type: text, default: ''", f + "/type", "not_allowed"},
		{"boolean is a boolean", flag, "type: boolean, default: true", "type: boolean, default: 'true'", f + "/default", "wrong_type"},
		{"string is a string", flag, "type: string, default: '1'", "type: string, default: 1", f + "/default", "wrong_type"},
		{"number is a number", flag, "type: number, default: 1.50e3", "type: number, default: '1'", f + "/default", "wrong_type"},
		{"number is JSON", flag, "type: number, default: -0.5", "type: number, default: 0x1F", f + "/default", "malformed"},
		{"object is an object", flag, "type: object, default: {b: [1, null], a: {}}", "type: object, default: [1]", f + "/default", "wrong_type"},
		{"object is JSON", flag, "type: object, default: {on: '2025-01-01'}", "type: object, default: {on: 2025-01-01}", f + "/default/on", "wrong_type"},
		{"null is no default", flag, "type: object, default: {}", "type: object, default: null", f + "/default", "wrong_type"},
		{"rule has a value", rule, "tenants: [t], value: false", "tenants: [t]", r + "/value", "missing"},
		{"rule value has the type", rule, "tenants: [t], value: false", "tenants: [t], value: 0", r + "/value", "wrong_type"},
		{"rule has a condition", rule, "percentage: 0, value: false", "value: false", r, "missing"},
		{"rule percentage is at most 100", rule, "percentage: 100, value: false", "percentage: 100.1, value: false", r + "/percentage", "out_of_range"},
		{"rule percentage is not negative", rule, "percentage: 0.1, value: false", "percentage: -1, value: false", r + "/percentage", "out_of_range"},
		{"rule plans are keys", rule, "plans: [free], value: false", "plans: [Free], value: false", r + "/plans/0", "malformed"},
		{"rule plans are not empty", rule, "plans: [free], value: false", "plans: [], value: false", r + "/plans", "out_of_range"},
		{"rule tenants are ids", rule, "tenants: ['Tenant 9'], value: false", "tenants: [''], value: false", r + "/tenants/0", "malformed"},
		{"rule takes its fields only", rule, "tenants: [t], value: false", "tenants: [t], value: false, users: [u]", r + "/users", "unknown_key"},

		{"cost is complete", cost, "provider: p, model: m, from: 2025-01-01, inputPerMillion: 1, outputPerMillion: 0", "provider: p, model: m, from: 2025-01-01, inputPerMillion: 1", c0 + "/outputPerMillion", "missing"},
		{"cost is not negative", cost, "provider: p, model: m, from: 2025-01-01, inputPerMillion: 0, outputPerMillion: 0", "provider: p, model: m, from: 2025-01-01, inputPerMillion: -1, outputPerMillion: 0", c0 + "/inputPerMillion", "out_of_range"},
		{"cost day is a day", costs, "from: '2024-02-29'", "from: '2025-02-29'", c0 + "/from", "malformed"},
		{"cost day has no time", costs, "from: 2025-01-01", "from: 2025-01-01T00:00:00Z", c0 + "/from", "malformed"},
		{"cost day has all digits", costs, "from: '2025-01-01'", "from: 2025-1-1", c0 + "/from", "malformed"},
		{"until is after from", costs, "from: 2025-01-01, until: 2025-01-02", "from: 2025-01-01, until: 2025-01-01", c0 + "/until", "out_of_range"},
		{"costs follow each other", costs, "from: 2025-01-01, until: 2025-02-01; from: 2025-02-01", "from: 2025-01-01, until: 2025-02-02; from: 2025-02-01", c1 + "/from", "out_of_range"},
		{"an open cost is the last", costs, "from: 2025-01-01}\n  - {provider: p, model: other, inputPerMillion: 1, outputPerMillion: 2, from: 2025-01-01", "from: 2025-01-01; from: 2025-02-01", c1 + "/from", "out_of_range"},
		{"costs rise", costs, "from: 2025-02-01", "from: 2025-02-01; from: 2025-01-01, until: 2025-02-01", c1 + "/from", "out_of_range"},
	} {
		t.Run(c.name, func(t *testing.T) {
			good, err := catalog.Parse([]byte(c.in(c.good)))
			require.NoError(t, err)
			again, err := catalog.Parse(good.Canonical())
			require.NoError(t, err, "%s", good.Canonical())
			require.Equal(t, good, again)
			require.Equal(t, []string{c.pointer + " " + c.code}, problems(t, c.in(c.bad)))
		})
	}
}

// problems are the pointers and codes of what is wrong with a text.
func problems(t *testing.T, text string) []string {
	t.Helper()
	_, err := catalog.Parse([]byte(text))
	var e *invalid.Error
	require.ErrorAs(t, err, &e)
	var all []string
	for _, f := range e.Fields {
		require.NotEmpty(t, f.Detail)
		all = append(all, f.Pointer+" "+f.Code)
	}
	return all
}

func TestKeysAreUniqueInTheirList(t *testing.T) {
	require.Equal(t, []string{"/meters/1/key duplicate", "/plans/1/key duplicate", "/flags/1/key duplicate"}, problems(t, `
meters: [{key: a, eventType: e, aggregation: sum}, {key: a, eventType: f, aggregation: sum}]
plans: [{key: a, currency: USD}, {key: a, currency: USD}]
flags: [{key: a, type: boolean, default: true}, {key: a, type: boolean, default: true}]
`))
}

// Who mends a catalog sees all that is wrong, in the order of the text, and one mistake once.
func TestEveryProblemIsFound(t *testing.T) {
	require.Equal(t, []string{
		"/meters/0/Key unknown_key",
		"/meters/0/key missing",
		"/meters/1/aggregation not_allowed",
		"/plans/0/currency not_allowed",
		"/plans/0/limits/0/max wrong_type",
		"/plans/0/limits/1/meter unknown_reference",
		"/plans/0/limits/1/max out_of_range",
		"/plans/0/prices/0/unit missing",
		"/plans/0/prices/0/where/user unknown_reference",
		"/flags/0/rules/0 missing",
		"/costs/0/from missing",
	}, problems(t, `
meters:
  - {Key: a, eventType: e, aggregation: sum}
  - {key: b, eventType: f, aggregation: unique, dimensions: [model]}
plans:
  - key: pro
    currency: XXX
    limits:
      - {key: one, kind: rate, on: [f], max: [1], window: 1m}
      - {key: two, kind: quota, meter: c, max: -1, window: day}
    prices:
      - {key: one, model: per_unit, meter: b, where: {user: u}}
flags:
  - {key: f, type: boolean, default: true, rules: [{value: false}]}
costs:
  - {provider: p, model: m, inputPerMillion: 1, outputPerMillion: 1}
`))
}

func TestSentences(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{meterOf("aggregation: max"), `"aggregation" is given twice`},
		{meter("key: m, eventType: e, aggregation: max"), `"max" cannot be undone exactly when an event is voided; a meter aggregates by sum or count`},
		{meter("key: m, EventType: e, aggregation: sum"), `a meter has no key "EventType"; it is written eventType`},
		{limit("kind: rate, on: [called], max: 1, window: 1m, soft: true"), `a limit of kind rate has no key "soft"; it has key, kind, on, max, window, burst`},
		{limit("kind: rate, on: [other], max: 1, window: 1m"), `no meter counts the event type "other"`},
		{limit("max: 1"), "a limit needs kind: one of abuse_guard, access, "},
		{costs("from: 2025-01-01; from: 2025-02-01"), "the cost from 2025-01-01 has no end; give it an until of at most 2025-02-01"},
	} {
		_, err := catalog.Parse([]byte(c.text))
		require.ErrorContains(t, err, c.want)
	}
}
