package catalog_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/catalog"
)

func TestHostileTexts(t *testing.T) {
	laughs := "a: &a [lol, lol]\n"
	for i := 'b'; i < 'z'; i++ {
		laughs += string(i) + ": &" + string(i) + " [*" + string(i-1) + ", *" + string(i-1) + "]\n"
	}
	for _, c := range []struct{ name, text, problem string }{
		{"nothing", "", " invalid_syntax"},
		{"only a comment", "# nothing\n", " invalid_syntax"},
		{"null", "null", " wrong_type"},
		{"billion laughs", laughs, "/a not_allowed"},
		{"anchor", "plans: &p []", "/plans not_allowed"},
		{"anchor on a key", "&p plans: []", " not_allowed"},
		{"alias to itself", "plans: &p [*p]", "/plans not_allowed"},
		{"unknown alias", "plans: *p", " invalid_syntax"},
		{"merge key", "<<: {plans: []}", " wrong_type"},
		{"tag", "plans: !!seq []", "/plans not_allowed"},
		{"own tag", "plans: !exec []", "/plans not_allowed"},
		{"binary", flag("type: string, default: !!binary aGk="), "/flags/0/default not_allowed"},
		{"two documents", "plans: []\n---\nplans: []\n", " invalid_syntax"},
		{"two JSON values", "{} {}", " invalid_syntax"},
		{"duplicate key", "plans: []\nplans: []\n", "/plans duplicate_key"},
		{"duplicate key in JSON", `{"plans":[],"plans":[]}`, "/plans duplicate_key"},
		{"duplicate key by escape", `{"plans":[],"pl\u0061ns":[]}`, "/plans duplicate_key"},
		{"duplicate key in a value", flag("type: object, default: {a: 1, a: 2}"), "/flags/0/default/a duplicate_key"},
		{"number as a key", "1: []", " wrong_type"},
		{"list as a key", "? [a]\n: b", " wrong_type"},
		{"NUL", "plans: []\x00", " invalid_syntax"},
		{"NUL by escape", flag(`type: string, default: "a\0b"`), "/flags/0/default malformed"},
		{"NUL by escape in JSON", `{"flags":[{"key":"f","type":"string","default":"\u0000"}]}`, "/flags/0/default malformed"},
		{"NUL in a key", flag(`type: object, default: {"a\0": 1}`), "/flags/0/default malformed"},
		{"not UTF-8", "plans: [\xff]", " invalid_syntax"},
		{"UTF-16", "\xfe\xff\x00{\x00}", " invalid_syntax"},
		{"lone surrogate", `{"flags":[{"key":"f","type":"string","default":"\ud800"}]}`, " invalid_syntax"},
		{"line separator", flag("type: string, default: \"a\u2028b\""), " invalid_syntax"},
		{"tab as indentation", "plans:\n\t- key: pro\n", " invalid_syntax"},
		{"unclosed", "plans: [", " invalid_syntax"},
		{"too deep", flag("type: object, default: {a: " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "}"), "/flags/0/default/a" + strings.Repeat("/0", 28) + " too_large"},
		{"too deep in JSON", strings.Repeat("[", 40) + strings.Repeat("]", 40), " invalid_syntax"},
		{"very deep", strings.Repeat("[", 1<<19) + strings.Repeat("]", 1<<19), " invalid_syntax"},
		{"very deep in blocks", strings.Repeat("- ", 1<<19), " invalid_syntax"},
		{"deep by indentation", indented(1400), strings.Repeat("/a", 32) + " too_large"},
		{"many comments", strings.Repeat("# c\n\n", 200000) + "a: b", "/a unknown_key"},
		{"many commented elements", "a:\n" + strings.Repeat("# c\n- b # d\n", 80000), "/a unknown_key"},
		{"many keys", "{? a, " + strings.Repeat("? b,", 250000) + "}", "/b duplicate_key"},
		{"many open quotes", strings.Repeat("\"a\" ", 200000), " invalid_syntax"},
		{"many anchors", "[" + strings.Repeat("&a b,", 200000) + "]", "/0 not_allowed"},
		{"too large", strings.Repeat("#", catalog.MaxText+1), " too_large"},
		{"too large once it is JSON", flag("type: string, default: \"" + strings.Repeat(`\e`, catalog.MaxText/3) + "\""), " too_large"},
		{"key that is too long", flag("type: object, default: {? " + strings.Repeat("a", 201) + " : 1}"), "/flags/0/default too_large"},
		{"NaN", plan("minimum: .nan"), "/plans/0/minimum malformed"},
		{"NaN as text", plan("minimum: NaN"), "/plans/0/minimum malformed"},
		{"infinity", plan("minimum: .inf"), "/plans/0/minimum malformed"},
		{"minus infinity", plan("minimum: -.Inf"), "/plans/0/minimum malformed"},
		{"NaN in a flag", flag("type: number, default: .nan"), "/flags/0/default malformed"},
		{"huge exponent", plan("minimum: 1e999999"), "/plans/0/minimum out_of_range"},
		{"huge exponent in JSON", `{"plans":[{"key":"a","currency":"USD","minimum":1e999999}]}`, "/plans/0/minimum out_of_range"},
		{"huge exponent in a flag", `{"flags":[{"key":"a","type":"number","default":1e999999}]}`, "/flags/0/default malformed"},
		{"tiny exponent", plan("minimum: 1e-999999"), "/plans/0/minimum out_of_range"},
		{"many digits", plan("minimum: " + strings.Repeat("9", 100000)), "/plans/0/minimum out_of_range"},
		{"octal", plan("minimum: 010"), "/plans/0/minimum malformed"},
		{"new octal", plan("minimum: 0o10"), "/plans/0/minimum malformed"},
		{"hexadecimal", plan("minimum: 0x10"), "/plans/0/minimum malformed"},
		{"underscores", plan("minimum: 1_000"), "/plans/0/minimum malformed"},
		{"sexagesimal", plan("minimum: 1:30"), "/plans/0/minimum malformed"},
		{"plus sign", plan("minimum: +1"), "/plans/0/minimum malformed"},
		{"timestamp as a number", plan("minimum: 2025-01-01"), "/plans/0/minimum wrong_type"},
		{"timestamp as text", limit("kind: access, on: [called], field: t, values: [2025-01-01]"), "/plans/0/limits/0/values/0 wrong_type"},
		{"null as text", meter("key: m, eventType: ~, aggregation: sum"), "/meters/0/eventType wrong_type"},
		{"boolean in capitals", flag("type: object, default: {a: True}"), "/flags/0/default/a malformed"},
		{"fullwidth digits", plan("minimum: １"), "/plans/0/minimum malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			require.Equal(t, c.problem, problems(t, c.text)[0])
			// A tenth of a second where nothing is quadratic; the bound leaves room for a busy machine.
			require.Less(t, time.Since(start), 30*time.Second)
		})
	}
}

// indented nests mappings as blocks, the deepest indentation that many levels can have.
func indented(levels int) string {
	var b strings.Builder
	for i := range levels {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

// What encoders of JSON write and YAML parsers refuse.
func TestJSONThatIsNoYAML(t *testing.T) {
	c := parsed(t, "{\n\t\"flags\": [\n\t\t{\"key\":\"f\",\t\"type\":\"string\", \"default\": \"\\ud83d\\ude00\\/\u2028\"}\n\t]\n}")
	require.Equal(t, "\"😀/\u2028\"", string(c.Flags[0].Default))
	require.Equal(t, c, parsed(t, string(c.Canonical())))
}

// A text that is wrong everywhere has a bounded answer.
func TestManyProblems(t *testing.T) {
	all := problems(t, "meters:\n"+strings.Repeat("  - {a: b}\n", 50000))
	require.Len(t, all, 100)
	require.Equal(t, " too_many", all[99])
}

func FuzzParse(f *testing.F) {
	f.Add(file(f, "testdata/contract.yaml"))
	f.Add(file(f, "testdata/contract.json"))
	f.Add(file(f, "../../scripts/sample/catalog.yaml"))
	for _, text := range []string{
		"{}", "plans: &p [*p]", "<<: {}", "? a\n: b", "- \n\t-", "%YAML 1.1\n---\n{}", "a: |\n  b\n", "\xef\xbb\xbf{}", `{"a":1e999999}`,
		flag(`type: object, default: {a: "\u2028\x7f\e", b: [1e5, -0, 1.0], "<<": null}`), flag("type: string, default: >-\n  a\n\n  b\n"),
		price("model: volume, meter: calls, tiers: [{upTo: 1, unit: 2}, {unit: 1}], where: {model: a}"),
		limit("kind: rate, on: [called], max: 1, window: 1d1h"), costs("from: 2025-01-01, until: 2025-02-01; from: 2025-02-01"),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := catalog.Parse(text)
		if err != nil {
			return
		}
		canonical := c.Canonical()
		again, err := catalog.Parse(canonical)
		require.NoError(t, err, "%s", canonical)
		require.Equal(t, c, again)
		require.Empty(t, catalog.Diff(c, again))
	})
}
