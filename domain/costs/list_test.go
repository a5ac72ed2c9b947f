package costs_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

// lines are the costs of a list, one to the line.
func lines(of []event.ModelCost) string {
	text := make([]string, len(of))
	for i, c := range of {
		text[i] = fmt.Sprintf("%s|%s %s %s %s", c.Provider, c.Model, c.Input, c.Cached, c.Output)
	}
	return strings.Join(text, "\n")
}

func TestParseList(t *testing.T) {
	for _, c := range []struct{ name, text, costs, skipped string }{
		{"ours", `[{"provider":"b","model":"m","inputPerMillion":2,"outputPerMillion":"8.50"},{"outputPerMillion":1e1,"inputPerMillion":0,"provider":"a","model":"m","cachedInputPerMillion":0.25}]`,
			"a|m 0 0.25 10\nb|m 2 2 8.5", ""},
		{"ours in an object", ` {"costs" : [{"provider":"a","model":"m","inputPerMillion":1,"outputPerMillion":2}]} `, "a|m 1 1 2", ""},
		{"theirs", `{"gpt":{"input_cost_per_token":1.5e-07,"output_cost_per_token":6E-7,"cache_read_input_token_cost":7.5e-08,"litellm_provider":"openai","mode":"chat","supports_vision":true}}`,
			"openai|gpt 0.15 0.075 0.6", ""},
		{"the digits of a binary fraction stay", `{"gpt":{"input_cost_per_token":3.7500000000000003e-08,"output_cost_per_token":1.0000000000000001e-07,"litellm_provider":"openai"}}`,
			"openai|gpt 0.037500000000000003 0.037500000000000003 0.10000000000000001", ""},
		{"names with providers", `{"azure/gpt":{"input_cost_per_token":1,"output_cost_per_token":1,"litellm_provider":"azure"},
			"openrouter/anthropic/claude":{"input_cost_per_token":2,"output_cost_per_token":1,"litellm_provider":"openrouter"},
			"vertex_ai/claude":{"input_cost_per_token":3,"output_cost_per_token":1,"litellm_provider":"vertex_ai-anthropic_models"},
			"gemini":{"input_cost_per_token":4,"output_cost_per_token":1,"litellm_provider":"vertex_ai-language-models"},
			"us.anthropic.claude":{"input_cost_per_token":5,"output_cost_per_token":1,"litellm_provider":"bedrock_converse"},
			"ft/gpt":{"input_cost_per_token":6,"output_cost_per_token":1,"litellm_provider":"openai"},
			"groq/llama":{"input_cost_per_token":7,"output_cost_per_token":1}}`,
			"azure|gpt 1000000 1000000 1000000\nbedrock_converse|us.anthropic.claude 5000000 5000000 1000000\ngroq|llama 7000000 7000000 1000000\nopenai|ft/gpt 6000000 6000000 1000000\n" +
				"openrouter|anthropic/claude 2000000 2000000 1000000\nvertex_ai|claude 3000000 3000000 1000000\nvertex_ai|gemini 4000000 4000000 1000000", ""},
		{"skipped", `{"sample_spec":{"input_cost_per_token":0.0,"output_cost_per_token":"a number","litellm_provider":"one of"},"image":{"output_cost_per_image":0.04,"litellm_provider":"openai"},
			"half":{"input_cost_per_token":1,"litellm_provider":"openai"},"null":{"input_cost_per_token":1,"output_cost_per_token":null,"litellm_provider":"openai"},
			"nobody":{"input_cost_per_token":1,"output_cost_per_token":1},"e\u0301":{"input_cost_per_token":1,"output_cost_per_token":1,"litellm_provider":"openai"},
			"free":{"input_cost_per_token":0.0,"output_cost_per_token":0,"litellm_provider":"openai"}}`,
			"openai|free 0 0 0", "sample_spec no token prices, image no token prices, half no token prices, null no token prices, nobody no provider, e\u0301 no name that an event can have"},
		{"charged by another unit", `{"rerank":{"input_cost_per_query":0.002,"input_cost_per_token":0.0,"output_cost_per_token":0,"litellm_provider":"cohere"},
			"both":{"input_cost_per_image":0.002,"input_cost_per_token":1e-6,"output_cost_per_token":0,"litellm_provider":"cohere"},
			"neither":{"input_cost_per_image":0.0,"input_cost_per_token":0,"output_cost_per_token":0,"output_cost_per_reasoning_token":1,"litellm_provider":"cohere"}}`,
			"cohere|both 1 1 0\ncohere|neither 0 0 0", "rerank charged by another unit than tokens"},
		{"two entries of one model", `{"gpt":{"input_cost_per_token":1,"output_cost_per_token":1,"litellm_provider":"openai"},"openai/gpt":{"input_cost_per_token":1.0,"output_cost_per_token":1e0,"litellm_provider":"openai"},
			"o3":{"input_cost_per_token":1,"output_cost_per_token":1,"litellm_provider":"openai"},"openai/o3":{"input_cost_per_token":1,"output_cost_per_token":2,"litellm_provider":"openai"}}`,
			"openai|gpt 1000000 1000000 1000000", "openai/o3 several entries with different prices"},
		{"a model that is called costs", `{"costs":{"input_cost_per_token":1e-6,"output_cost_per_token":2e-6,"litellm_provider":"openai"}}`, "openai|costs 1 1 2", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, err := costs.ParseList([]byte(c.text))
			require.NoError(t, err)
			require.Equal(t, c.costs, lines(list.Costs))
			var skipped []string
			for _, s := range list.Skipped {
				skipped = append(skipped, s.Entry+" "+s.Reason)
			}
			require.Equal(t, c.skipped, strings.Join(skipped, ", "))
		})
	}
}

// The form that others use, with what stands beside the prices there.
func TestSamplePriceList(t *testing.T) {
	sample, err := os.ReadFile("testdata/prices.json")
	require.NoError(t, err)
	list, err := costs.ParseList(sample)
	require.NoError(t, err)
	require.Equal(t, "azure|gpt-4.1 2 0.5 8\nopenai|gpt-4.1 2 0.5 8\nopenai|text-embedding-3-small 0.02 0.02 0\nvertex_ai|claude-3-5-haiku 0.80000000000000007 0.80000000000000007 4", lines(list.Costs))
	require.Equal(t, []costs.Skip{{Entry: "sample_spec", Reason: costs.NoTokenPrices}, {Entry: "dall-e-3", Reason: costs.NoTokenPrices}}, list.Skipped)
	sum := sha256.Sum256(sample)
	require.Equal(t, hex.EncodeToString(sum[:]), list.Hash)
}

func TestParseListRefuses(t *testing.T) {
	entry := func(members string) string { return `[{"provider":"a","model":"m",` + members + `}]` }
	theirs := func(members string) string {
		return `{"m":{"litellm_provider":"p","output_cost_per_token":1,` + members + `}}`
	}
	for _, c := range []struct{ name, text, problem string }{
		{"nothing", "", " invalid_json"},
		{"white space", " \n", " invalid_json"},
		{"null", "null", " wrong_type"},
		{"a text", `"x"`, " wrong_type"},
		{"a broken text", `"x`, " invalid_json"},
		{"an empty list", "[]", " malformed"},
		{"an empty object", "{}", " malformed"},
		{"only skipped entries", `{"image":{}}`, " malformed"},
		{"cut off", `[{"provider":"a"`, " invalid_json"},
		{"two values", "[] []", " invalid_json"},
		{"a comma too many", `[{"provider":"a",}]`, "/0 invalid_json"},
		{"a member twice", entry(`"inputPerMillion":1,"inputPerMillion":2,"outputPerMillion":1`), "/0/inputPerMillion duplicate_key"},
		{"a member twice by escape", entry(`"inputPerMillion":1,"inputPerMillio\u006e":2,"outputPerMillion":1`), "/0/inputPerMillion duplicate_key"},
		{"an entry twice", `{"m":{},"m":{}}`, "/m duplicate_key"},
		{"a member twice beside the prices", theirs(`"x":{"a":1,"a":2}`), "/m/x/a duplicate_key"},
		{"a model twice", `[` + entry(`"inputPerMillion":1,"outputPerMillion":1`)[1:len(entry(`"inputPerMillion":1,"outputPerMillion":1`))-1] + `,` + entry(`"inputPerMillion":1,"outputPerMillion":1`)[1:], "/1 duplicate_key"},
		{"an unknown member", entry(`"inputPerMillion":1,"outputPerMillion":1,"until":"x"`), "/0/until unknown_key"},
		{"a member in another case", entry(`"InputPerMillion":1,"inputPerMillion":1,"outputPerMillion":1`), "/0/InputPerMillion unknown_key"},
		{"no output price", entry(`"inputPerMillion":1`), "/0/outputPerMillion required"},
		{"no provider", `[{"model":"m","inputPerMillion":1,"outputPerMillion":1}]`, "/0/provider required"},
		{"a provider that is a number", `[{"provider":1,"model":"m","inputPerMillion":1,"outputPerMillion":1}]`, "/0/provider wrong_type"},
		{"an empty model", `[{"provider":"a","model":"","inputPerMillion":1,"outputPerMillion":1}]`, "/0/model malformed"},
		{"a null price", entry(`"inputPerMillion":null,"outputPerMillion":1`), "/0/inputPerMillion wrong_type"},
		{"a null cached price", entry(`"inputPerMillion":1,"cachedInputPerMillion":null,"outputPerMillion":1`), "/0/cachedInputPerMillion wrong_type"},
		{"a list for a price", entry(`"inputPerMillion":[1],"outputPerMillion":1`), "/0/inputPerMillion wrong_type"},
		{"a negative price", entry(`"inputPerMillion":-1e-9,"outputPerMillion":1`), "/0/inputPerMillion out_of_range"},
		{"a word", entry(`"inputPerMillion":"free","outputPerMillion":1`), "/0/inputPerMillion malformed"},
		{"hexadecimal", entry(`"inputPerMillion":"0x1","outputPerMillion":1`), "/0/inputPerMillion malformed"},
		{"an exponent bomb", entry(`"inputPerMillion":1e999999999,"outputPerMillion":1`), "/0/inputPerMillion out_of_range"},
		{"an exponent bomb downwards", entry(`"inputPerMillion":"1e-999999999","outputPerMillion":1`), "/0/inputPerMillion out_of_range"},
		{"too many digits", entry(`"inputPerMillion":1234567890123,"outputPerMillion":1`), "/0/inputPerMillion out_of_range"},
		{"too many digits once it is per million", theirs(`"input_cost_per_token":1000000`), "/m/input_cost_per_token out_of_range"},
		{"their negative price", theirs(`"input_cost_per_token":-1`), "/m/input_cost_per_token out_of_range"},
		{"their word", theirs(`"input_cost_per_token":"a"`), "/m/input_cost_per_token malformed"},
		{"their truth", theirs(`"input_cost_per_token":true`), "/m/input_cost_per_token wrong_type"},
		{"their object", theirs(`"input_cost_per_token":{"a":1}`), "/m/input_cost_per_token wrong_type"},
		{"a provider that is no text", `{"m":{"litellm_provider":["p"]}}`, "/m/litellm_provider wrong_type"},
		{"an entry that is no object", `{"a/b~c":1}`, "/a~1b~0c wrong_type"},
		{"an element that is no object", `[1]`, "/0 wrong_type"},
		{"both forms", `{"costs":[],"m":{}}`, "/m unknown_key"},
		{"both forms the other way round", `{"m":{},"costs":[]}`, "/costs wrong_type"},
		{"deep", `{"m":{"x":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}}", "/m/x/0 invalid_json"},
		{"not UTF-8", "{\"m\xff\":{}}", " invalid_json"},
		{"a lone surrogate", `{"m\ud800":{}}`, " invalid_json"},
		{"too many entries", "[" + strings.Repeat("1,", 50_000) + "1]", " too_large"},
		{"too many models", "{" + manyModels(20_001) + "}", " too_large"},
		{"too many bytes", strings.Repeat(" ", costs.MaxText+1), " too_large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := costs.ParseList([]byte(c.text))
			var bad *invalid.Error
			require.ErrorAs(t, err, &bad)
			require.LessOrEqual(t, len(bad.Fields), 20)
			at := bad.Fields[0].Pointer
			if c.name == "deep" {
				at = at[:min(len(at), len("/m/x/0"))]
			}
			require.Equal(t, c.problem, at+" "+bad.Fields[0].Code, bad.Error())
		})
	}
}

func manyModels(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"a/%d":{"input_cost_per_token":1,"output_cost_per_token":1}`, i)
	}
	return strings.Join(all, ",")
}

// Whatever way a number is written, it is read as exactly that, in both forms.
func TestPricesAreReadExactly(t *testing.T) {
	number := rapid.OneOf(
		rapid.StringMatching(`(0|[1-9][0-9]{0,4})(\.[0-9]{1,17})?([eE][+-]?[0-9])?`),
		rapid.Map(rapid.Float64Range(0, 1e-4), func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		texts := [3]string{number.Draw(t, "input"), number.Draw(t, "cached"), number.Draw(t, "output")}
		quote := rapid.SampledFrom([]string{"", `"`}).Draw(t, "quote")
		perToken := rapid.Bool().Draw(t, "theirs")
		form, factor := `[{"provider":"p","model":"m","inputPerMillion":%[1]s%[2]s%[1]s,"cachedInputPerMillion":%[1]s%[3]s%[1]s,"outputPerMillion":%[1]s%[4]s%[1]s}]`, big.NewRat(1, 1)
		if perToken {
			form, factor = `{"p/m":{"input_cost_per_token":%[1]s%[2]s%[1]s,"cache_read_input_token_cost":%[1]s%[3]s%[1]s,"output_cost_per_token":%[1]s%[4]s%[1]s}}`, big.NewRat(1_000_000, 1)
		}
		list, err := costs.ParseList(fmt.Appendf(nil, form, quote, texts[0], texts[1], texts[2]))
		if err != nil {
			tooBig := slices.ContainsFunc(texts[:], func(text string) bool {
				r := new(big.Rat).Mul(rat(text), factor)
				scaled := new(big.Rat).Mul(r, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(24), nil)))
				return r.Cmp(big.NewRat(1_000_000_000_000, 1)) >= 0 || !scaled.IsInt()
			})
			require.True(t, tooBig, err)
			return
		}
		for i, got := range []event.Rate{list.Costs[0].Input, list.Costs[0].Cached, list.Costs[0].Output} {
			want := new(big.Rat).Mul(rat(texts[i]), factor)
			require.Zero(t, want.Cmp(rat(got.String())), "%s was read as %s", texts[i], got)
		}
	})
}

func rat(text string) *big.Rat {
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		panic(text)
	}
	return r
}

// A list that is accepted is JSON for others too, names each model once and in order, and can be recorded and read again as the
// same; every price of the other form is a million times one that encoding/json reads in it.
func FuzzParseList(f *testing.F) {
	for _, text := range []string{
		`[{"provider":"a","model":"m","inputPerMillion":1.5e-7,"outputPerMillion":"2"}]`,
		`{"costs":[{"provider":"a","model":"m","inputPerMillion":1,"cachedInputPerMillion":0,"outputPerMillion":1e999999999}]}`,
		`{"a/m":{"input_cost_per_token":3.7500000000000003e-08,"output_cost_per_token":0,"litellm_provider":"a-b"},"m":{"input_cost_per_token":1,"output_cost_per_token":0,"litellm_provider":"a"}}`,
		`{"m":{"litellm_provider":"\ud800"}}`, `[[[[`, `{"a":{"a":1,"a":2}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := costs.ParseList(text)
		if err != nil {
			var bad *invalid.Error
			if !errors.As(err, &bad) || len(bad.Fields) == 0 || len(bad.Fields) > 20 {
				t.Fatalf("an error without a place: %v", err)
			}
			return
		}
		require.True(t, json.Valid(text))
		require.NotEmpty(t, list.Costs)
		require.True(t, slices.IsSortedFunc(list.Costs, func(a, b event.ModelCost) int {
			if byName := strings.Compare(a.Provider, b.Provider); byName != 0 {
				return byName
			}
			return strings.Compare(a.Model, b.Model)
		}))
		names := map[event.ModelName]bool{}
		for _, c := range list.Costs {
			require.NoError(t, event.CheckID(c.Provider))
			require.NoError(t, event.CheckID(c.Model))
			names[c.ModelName] = true
			for _, price := range []event.Rate{c.Input, c.Cached, c.Output} {
				require.GreaterOrEqual(t, price.Sign(), 0)
			}
		}
		require.Len(t, names, len(list.Costs))
		plan := costs.Imports{}.Plan(list, costs.Options{From: "2026-04-05"})
		var again []event.ModelCost
		a := event.AppendCosts(plan.Events("fuzz", list.Hash, costs.Options{From: "2026-04-05"}, "cli"), eventstore.NoStream)
		require.NoError(t, a.Check())
		for _, e := range a.Events {
			decoded, err := event.Decode(eventstore.Recorded{Stream: a.Stream, Type: e.Type, Data: e.Data})
			require.NoError(t, err)
			again = append(again, decoded.(event.CostsImported).Costs...)
		}
		require.Equal(t, lines(list.Costs), lines(again))

		if first := bytes.TrimLeft(text, " \t\r\n"); first[0] == '[' {
			return
		}
		var entries map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(text, &entries))
		if raw, ok := entries["costs"]; ok && bytes.TrimLeft(raw, " \t\r\n")[0] == '[' {
			return
		}
		said := map[string]bool{}
		for _, raw := range entries {
			var members map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(raw, &members))
			input, err := money.ParseNumber(strings.Trim(string(members["input_cost_per_token"]), `"`))
			if err != nil {
				continue // with escapes, or no number: not looked at here
			}
			said[input.Mul(money.Int(1_000_000)).String()] = true
		}
		for _, c := range list.Costs {
			if !said[c.Input.String()] && !bytes.ContainsRune(text, '\\') {
				t.Fatalf("%s costs %s, which no entry says", c.Model, c.Input)
			}
		}
	})
}
