package event_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

// node is a JSON value as a sender thinks of it; render spells it in one of many ways.
type node any

type object []struct {
	name  string
	value node
}

var dictionary = []string{"userId", "feature", "provider", "model", "promptVersion", "inputTokens", "outputTokens", "cachedInputTokens",
	"latencyMs", "cacheHit", "safety", "status", "attempt", "retryOf", "modelTier", "audioSeconds", "sessionId", "requestId", "error",
	"region", "operation"}

func texts() *rapid.Generator[string] {
	return rapid.OneOf(rapid.StringN(0, 20, -1), rapid.SampledFrom([]string{"", "gpt-4.1", "a\"b\\c", "\n\t\u0001\u007f", "é", "日本", "\u2028</script>", "🙂"})).
		Filter(func(s string) bool { return !strings.Contains(s, "\x00") && strings.ToValidUTF8(s, "") == s })
}

func numbers() *rapid.Generator[money.Decimal] {
	return rapid.Custom(func(t *rapid.T) money.Decimal {
		if rapid.Bool().Draw(t, "integer") {
			return money.Int(rapid.OneOf(rapid.Int64(), rapid.Int64Range(-5, 5), rapid.SampledFrom([]int64{1 << 61, 1<<61 - 1, -1 << 61, -1<<61 + 1})).Draw(t, "n"))
		}
		return money.MustParse(rapid.StringMatching(`-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?(e-?[0-9])?`).Draw(t, "number"))
	})
}

func nodes(depth int) *rapid.Generator[node] {
	scalars := []*rapid.Generator[node]{
		rapid.Just[node](nil), rapid.Map(rapid.Bool(), func(b bool) node { return b }),
		rapid.Map(texts(), func(s string) node { return s }), rapid.Map(numbers(), func(d money.Decimal) node { return d }),
	}
	if depth <= 1 {
		return rapid.OneOf(scalars...)
	}
	return rapid.OneOf(append(scalars,
		rapid.Map(rapid.SliceOfN(rapid.Deferred(func() *rapid.Generator[node] { return nodes(depth - 1) }), 0, 3), func(l []node) node { return l }),
		rapid.Map(objects(depth-1), func(o object) node { return o }))...)
}

// objects have no two names that differ in case only, so that they are valid at the top as well.
func objects(depth int) *rapid.Generator[object] {
	names := rapid.OneOf(rapid.SampledFrom(dictionary), rapid.StringMatching(`[a-z][a-z0-9_.]{0,8}`), rapid.SampledFrom([]string{"é", "日本", "a/b", "a~b", "\u00df", "gen_ai.other"}))
	return rapid.Custom(func(t *rapid.T) object {
		var o object
		for _, name := range rapid.SliceOfNDistinct(names, 0, 8, strings.ToLower).Draw(t, "names") {
			o = append(o, struct {
				name  string
				value node
			}{name, nodes(depth).Draw(t, "value")})
		}
		return o
	})
}

// render writes a value with the members in any order, with white space and with any spelling of numbers and texts.
func render(r *rand.Rand, n node) string {
	space := func() string { return []string{"", "", " ", "\n\t"}[r.Intn(4)] }
	quote := func(s string) string {
		var b strings.Builder
		b.WriteByte('"')
		for _, c := range s {
			switch {
			case c < ' ' || c == '"' || c == '\\' || (c < 0x10000 && r.Intn(6) == 0):
				fmt.Fprintf(&b, `\u%04x`, c)
			default:
				b.WriteRune(c)
			}
		}
		b.WriteByte('"')
		return b.String()
	}
	switch n := n.(type) {
	case object:
		parts := make([]string, len(n))
		for to, from := range r.Perm(len(n)) {
			parts[to] = space() + quote(n[from].name) + space() + ":" + space() + render(r, n[from].value) + space()
		}
		return "{" + space() + strings.Join(parts, ",") + "}"
	case []node:
		parts := make([]string, len(n))
		for i := range n {
			parts[i] = space() + render(r, n[i]) + space()
		}
		return "[" + strings.Join(parts, ",") + space() + "]"
	case string:
		return quote(n)
	case money.Decimal:
		s := n.String()
		switch r.Intn(4) {
		case 1:
			return s + "e0"
		case 2:
			if !strings.Contains(s, ".") {
				s += ".0"
			}
			return s + "0E+00"
		case 3:
			return tenfold(n) + "e-1"
		}
		return s
	default:
		b, err := json.Marshal(n)
		if err != nil {
			panic(err)
		}
		return string(b)
	}
}

// tenfold writes ten times the number.
func tenfold(n money.Decimal) string {
	sum := money.Int(0)
	for range 10 {
		sum = sum.Add(n)
	}
	return sum.String()
}

func parse(t require.TestingT, raw string) event.Data {
	d, err := event.ParseData([]byte(raw), "/data")
	require.NoError(t, err, "%s", raw)
	return d
}

// Order, white space, escapes and the spelling of numbers do not matter; what is read again from the canonical form is
// the same; and it says what was sent.
func TestDataHasOneForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := objects(6).Draw(t, "object")
		r := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		text := render(r, o)
		d := parse(t, text)
		require.Equal(t, d, parse(t, render(r, o)))

		canonical := d.AppendJSON(nil)
		require.True(t, d.Equal(parse(t, string(canonical))))
		require.Equal(t, d, parse(t, string(canonical)))
		require.Equal(t, len(o) == 0, d.IsEmpty())
		requireSameJSON(t, []byte(text), canonical)

		marshalled, err := json.Marshal(d)
		require.NoError(t, err)
		var back event.Data
		require.NoError(t, json.Unmarshal(marshalled, &back))
		require.Equal(t, d, back)

		u := usageWith(d)
		require.Equal(t, u.ID(), usageWith(back).ID())
		e, err := event.Decode(recorded(u.Append(event.Metadata{Catalog: -1})))
		require.NoError(t, err)
		require.Equal(t, u, e.(event.UsageRecorded).Usage)
	})
}

func usageWith(d event.Data) event.Usage {
	return event.Usage{Identity: event.Identity{Tenant: "t", Type: "a", Source: "s"}, Quantity: money.Int(1),
		OccurredAt: time.UnixMicro(1).UTC(), Data: d}
}

// Get and All are a look-up in, and a walk through, the object as a plain map.
func TestDataGet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := objects(3).Draw(t, "object")
		d := parse(t, render(rand.New(rand.NewSource(1)), o))
		model := map[string]node{}
		for _, m := range o {
			model[m.name] = m.value
		}
		last := ""
		seen := map[string]bool{}
		for name, v := range d.All() {
			require.Less(t, last, name)
			require.Equal(t, v, d.Get(name))
			last, seen[name] = name, true
		}
		require.Len(t, seen, len(model))
		for name, want := range model {
			v := d.Get(name)
			n, isNumber := v.Decimal()
			switch want := want.(type) {
			case nil:
				require.Equal(t, event.Null, v.Kind)
				require.Empty(t, v.String())
			case bool:
				require.Equal(t, map[bool]event.Kind{true: event.True, false: event.False}[want], v.Kind)
				require.Equal(t, fmt.Sprint(want), v.String())
			case string:
				require.Equal(t, event.Text, v.Kind)
				require.Equal(t, want, v.String())
			case money.Decimal:
				require.True(t, isNumber)
				require.True(t, want.Equal(n), "%s %s", want, n)
				require.Equal(t, want.String(), v.String())
			default:
				require.Equal(t, event.Nested, v.Kind)
			}
			_, scalar := want.(money.Decimal)
			require.Equal(t, scalar, isNumber)
		}
		for _, name := range append(dictionary, "", "absent") {
			if _, ok := model[name]; !ok {
				require.Equal(t, event.Absent, d.Get(name).Kind)
			}
		}
	})
}

func TestNewDataIsParsedData(t *testing.T) {
	made := event.NewData(map[string]any{"model": "o3", "inputTokens": 7, "latencyMs": int64(1) << 62, "retryOf": nil, "cacheHit": true,
		"ok": false, "share": money.MustParse("0.50"), "note": "é\n"})
	require.Equal(t, parse(t, `{"note":"é\n","ok":false,"share":0.5,"model":"o3","inputTokens":7,"latencyMs":4611686018427387904,"retryOf":null,"cacheHit":true}`), made)
	require.Panics(t, func() { event.NewData(map[string]any{"a": 1.5}) })
	require.Equal(t, event.Data{}, event.NewData(nil))
}

// refused is the one rule that the data breaks.
func refused(t *testing.T, raw string) invalid.Field {
	t.Helper()
	_, err := event.ParseData([]byte(raw), "/data")
	var bad *invalid.Error
	require.True(t, errors.As(err, &bad), "%.200s: %v", raw, err)
	require.Len(t, bad.Fields, 1)
	require.Less(t, len(bad.Fields[0].Pointer)+len(bad.Fields[0].Detail), 2000, "an answer does not repeat what was sent")
	return bad.Fields[0]
}

func TestHostileData(t *testing.T) {
	many := func(n int, member string) string {
		parts := make([]string, n)
		for i := range parts {
			parts[i] = strings.ReplaceAll(member, "#", strconv.Itoa(i))
		}
		return strings.Join(parts, ",")
	}
	for name, c := range map[string]struct{ raw, pointer, code string }{
		"nothing":                          {``, "/data", "invalid_event"},
		"an array":                         {`[]`, "/data", "invalid_event"},
		"null":                             {`null`, "/data", "invalid_event"},
		"more behind it":                   {`{} {}`, "/data", "invalid_json"},
		"cut off":                          {`{"a":{"b":1`, "/data/a", "invalid_json"},
		"a name without value":             {`{"a"}`, "/data/a", "invalid_json"},
		"a comma at the end":               {`{"a":1,}`, "/data", "invalid_json"},
		"a comma at the end of an array":   {`{"a":[1,]}`, "/data/a", "invalid_json"},
		"a comment":                        {`{"a":1/*x*/}`, "/data", "invalid_json"},
		"a byte order mark":                {"\ufeff{}", "/data", "invalid_event"},
		"NaN":                              {`{"a":NaN}`, "/data/a", "invalid_json"},
		"Infinity":                         {`{"a":-Infinity}`, "/data/a", "invalid_json"},
		"a plus":                           {`{"a":+1}`, "/data/a", "invalid_json"},
		"a leading zero":                   {`{"a":01}`, "/data", "invalid_json"},
		"a bare point":                     {`{"a":1.}`, "/data/a", "invalid_json"},
		"hexadecimal":                      {`{"a":0x1}`, "/data", "invalid_json"},
		"a duplicate":                      {`{"model":1,"model":1}`, "/data/model", "invalid_event"},
		"a duplicate behind an escape":     {`{"model":1,"m\u006fdel":1}`, "/data/model", "invalid_event"},
		"a duplicate below":                {`{"a":[{"b":{"c":1,"c":2}}]}`, "/data/a/0/b/c", "invalid_event"},
		"case variants of a known name":    {`{"model":1,"MODEL":1}`, "/data/MODEL", "invalid_event"},
		"case variants of other names":     {`{"costCenter":1,"costcenter":1}`, "/data/costcenter", "invalid_event"},
		"case variants beyond ASCII":       {`{"ÉT":1,"ét":1}`, "/data/ét", "invalid_event"},
		"a long s is a case variant of s":  {`{"status":1,"` + "\u017f" + `tatus":1}`, "/data/\u017ftatus", "invalid_event"},
		"case variants of sigma":           {`{"` + "\u03c3\":1,\"\u03c2" + `":1}`, "/data/\u03c2", "invalid_event"},
		"case variants among many":         {`{` + many(50, `"n#":1`) + `,"status":1,"` + "\u017f" + `tatus":1}`, "/data/\u017ftatus", "invalid_event"},
		"sigma among many":                 {`{` + many(50, `"n#":1`) + `,"` + "\u03c3\":1,\"\u03c2" + `":1}`, "/data/\u03c2", "invalid_event"},
		"NUL in a name":                    {`{"a\u0000":1}`, "/data/a\x00", "invalid_event"},
		"NUL in a text":                    {`{"a":"\u0000"}`, "/data/a", "invalid_event"},
		"NUL below":                        {`{"a":[0,{"b":"x\u0000"}]}`, "/data/a/1/b", "invalid_event"},
		"NUL in a name below":              {`{"a":{"\u0000":1}}`, "/data/a/\x00", "invalid_event"},
		"a raw NUL":                        {"{\"a\":\"\x00\"}", "/data/a", "invalid_json"},
		"a lone high surrogate":            {`{"a":"\ud83d"}`, "/data/a", "invalid_json"},
		"a lone low surrogate":             {`{"a":"\ude42x"}`, "/data/a", "invalid_json"},
		"surrogates in the wrong order":    {`{"a":"\ude42\ud83d"}`, "/data/a", "invalid_json"},
		"a lone surrogate in a name":       {`{"\ud83d":1}`, "/data", "invalid_json"},
		"a lone surrogate below":           {`{"a":[{"b":"\ud83d"}]}`, "/data/a/0/b", "invalid_json"},
		"invalid UTF-8":                    {"{\"a\":\"\xff\"}", "/data/a", "invalid_json"},
		"overlong UTF-8":                   {"{\"a\":\"\xc0\x80\"}", "/data/a", "invalid_json"},
		"a surrogate in UTF-8":             {"{\"a\":\"\xed\xa0\xbd\"}", "/data/a", "invalid_json"},
		"a name not in NFC":                {"{\"e\u0301\":1}", "/data/e\u0301", "invalid_event"},
		"a name not in NFC below":          {"{\"a\":{\"e\u0301\":1}}", "/data/a/e\u0301", "invalid_event"},
		"an empty name":                    {`{"":1}`, "/data/", "invalid_event"},
		"a long name":                      {`{"` + strings.Repeat("x", 201) + `":1}`, "/data/" + strings.Repeat("x", 201), "invalid_event"},
		"an exponent bomb":                 {`{"a":1e999999999}`, "/data/a", "invalid_event"},
		"an exponent bomb below the point": {`{"a":1e-999999999}`, "/data/a", "invalid_event"},
		"an exponent bomb in an array":     {`{"a":[[1E+99999999999999999999]]}`, "/data/a/0/0", "invalid_event"},
		"a number of 65 characters":        {`{"a":` + strings.Repeat("9", 65) + `}`, "/data/a", "invalid_event"},
		"a number of 65 characters when written out":   {`{"a":1e64}`, "/data/a", "invalid_event"},
		"a small number that is long when written out": {`{"a":-1.5e-63}`, "/data/a", "invalid_event"},
		"numbers that grow when written out":           {`{"a":[` + many(12_000, `1e63`) + `]}`, "/data", "too_large"},
		"64 KiB and a byte":                            {`{"a":"` + strings.Repeat("x", event.MaxDataBytes-7) + `"}`, "/data", "too_large"},
		"depth 9":                                      {strings.Repeat(`{"a":`, 8) + `{}` + strings.Repeat(`}`, 8), "/data" + strings.Repeat("/a", 8), "invalid_event"},
		"depth 9 in arrays":                            {`{"a":` + strings.Repeat(`[`, 8) + strings.Repeat(`]`, 8) + `}`, "/data/a" + strings.Repeat("/0", 6), "invalid_event"},
		"arrays to the end":                            {`{"a":` + strings.Repeat(`[`, 60_000), "/data/a" + strings.Repeat("/0", 6), "invalid_event"},
		"objects to the end":                           {strings.Repeat(`{"a":`, 13_000), "/data" + strings.Repeat("/a", 8), "invalid_event"},
		"an endless name":                              {`{"` + strings.Repeat("x", 60_000), "/data", "invalid_json"},
		"an endless name twice":                        {`{"` + strings.Repeat("x", 30_000) + `":1,"` + strings.Repeat("x", 30_000) + `":1}`, "", "invalid_event"},
	} {
		t.Run(name, func(t *testing.T) {
			f := refused(t, c.raw)
			require.Equal(t, c.code, f.Code, f.Detail)
			if c.pointer != "" {
				require.Equal(t, c.pointer, f.Pointer, f.Detail)
			}
		})
	}
}

func TestDataWithinBounds(t *testing.T) {
	for name, raw := range map[string]string{
		"an empty object":              ` {} `,
		"64 KiB":                       `{"a":"` + strings.Repeat("x", event.MaxDataBytes-8) + `"}`,
		"depth 8":                      strings.Repeat(`{"a":`, 7) + `{}` + strings.Repeat(`}`, 7),
		"depth 8 in arrays":            `{"a":` + strings.Repeat(`[`, 7) + strings.Repeat(`]`, 7) + `}`,
		"a number of 64 characters":    `{"a":` + strings.Repeat("9", 64) + `}`,
		"1e63":                         `{"a":1e63,"b":1e-62}`,
		"a surrogate pair":             `{"a":"\ud83d\ude42"}`,
		"a name of 200 bytes":          `{"` + strings.Repeat("x", 200) + `":1}`,
		"names that differ below only": `{"a":{"b":1,"B":2}}`,
		"a text that is not in NFC":    "{\"a\":\"e\u0301\"}",
		"minus zero":                   `{"a":-0,"b":-0.0e5}`,
		"a name that looks like JSON":  `{"\"},{":"\\u0000"}`,
	} {
		t.Run(name, func(t *testing.T) {
			d := parse(t, raw)
			require.Equal(t, d, parse(t, string(d.AppendJSON(nil))))
			_, err := event.Decode(recorded(usageWith(d).Append(event.Metadata{})))
			require.NoError(t, err)
		})
	}
	require.Equal(t, "0", parse(t, `{"a":-0.00}`).Get("a").String())
}

// Many members must not cost more than in proportion: as many as 64 KiB can hold, in an object or in an array, at the top
// or below. One run within the bound is enough, because the machine may be busy with other things; no run of a quadratic
// algorithm is.
func TestManyMembersAreCheap(t *testing.T) {
	members := make([]string, 0, 8_000)
	for i := range cap(members) {
		members = append(members, fmt.Sprintf(`"%03s":0`, strconv.FormatInt(int64(i*7919%46_656), 36)))
	}
	for name, raw := range map[string]string{
		"at the top":      `{` + strings.Join(members, ",") + `}`,
		"below":           `{"a":{` + strings.Join(members, ",") + `}}`,
		"an array":        `{"a":[0` + strings.Repeat(",0", 30_000) + `]}`,
		"of arrays":       `{"a":[[]` + strings.Repeat(",[]", 20_000) + `]}`,
		"of objects":      `{"a":[{}` + strings.Repeat(`,{"a":0}`, 8_000) + `]}`,
		"of long numbers": `{"a":[0` + strings.Repeat(",1e63", 900) + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			best := time.Hour
			for try := 0; try < 100 && best >= 50*time.Millisecond*slowdown; try++ {
				start := time.Now()
				parse(t, raw)
				best = min(best, time.Since(start))
			}
			require.Less(t, best, 50*time.Millisecond*slowdown)
		})
	}
}

// Names of the OpenTelemetry GenAI conventions become ours. Their input tokens include the cached ones.
func TestOpenTelemetryNames(t *testing.T) {
	for name, c := range map[string]struct{ raw, want string }{
		"each name": {`{"gen_ai.provider.name":"openai","gen_ai.request.model":"o3","gen_ai.operation.name":"chat","gen_ai.conversation.id":"c1","gen_ai.usage.output_tokens":5}`,
			`{"provider":"openai","model":"o3","operation":"chat","sessionId":"c1","outputTokens":5}`},
		"the older name of the provider":        {`{"gen_ai.system":"openai"}`, `{"provider":"openai"}`},
		"both names of the provider":            {`{"gen_ai.system":"openai","gen_ai.provider.name":"openai"}`, `{"provider":"openai"}`},
		"ours and theirs agree":                 {`{"model":"o3","gen_ai.request.model":"o3"}`, `{"model":"o3"}`},
		"cached tokens are taken out":           {`{"gen_ai.usage.input_tokens":100,"gen_ai.usage.cache_read.input_tokens":30}`, `{"inputTokens":70,"cachedInputTokens":30}`},
		"cached tokens first":                   {`{"gen_ai.usage.cache_read.input_tokens":30,"gen_ai.usage.input_tokens":100}`, `{"inputTokens":70,"cachedInputTokens":30}`},
		"cached tokens under our name":          {`{"gen_ai.usage.input_tokens":100,"cachedInputTokens":30}`, `{"inputTokens":70,"cachedInputTokens":30}`},
		"all are cached":                        {`{"gen_ai.usage.input_tokens":30,"gen_ai.usage.cache_read.input_tokens":30}`, `{"inputTokens":0,"cachedInputTokens":30}`},
		"nothing cached is said":                {`{"gen_ai.usage.input_tokens":100}`, `{"inputTokens":100}`},
		"null is nothing":                       {`{"gen_ai.usage.input_tokens":100,"gen_ai.usage.cache_read.input_tokens":null}`, `{"inputTokens":100,"cachedInputTokens":null}`},
		"null input":                            {`{"gen_ai.usage.input_tokens":null,"gen_ai.usage.cache_read.input_tokens":30}`, `{"inputTokens":null,"cachedInputTokens":30}`},
		"ours and theirs agree after the sum":   {`{"inputTokens":70.0,"gen_ai.usage.input_tokens":1e2,"cachedInputTokens":30}`, `{"inputTokens":70,"cachedInputTokens":30}`},
		"our names alone are not converted":     {`{"inputTokens":100,"cachedInputTokens":130}`, `{"inputTokens":100,"cachedInputTokens":130}`},
		"other names of theirs stay":            {`{"gen_ai.token.type":"input","gen_ai":1}`, `{"gen_ai.token.type":"input","gen_ai":1}`},
		"what is no alias below the top stays":  {`{"a":{"gen_ai.system":"openai"}}`, `{"a":{"gen_ai.system":"openai"}}`},
		"fractions of tokens are exact as well": {`{"gen_ai.usage.input_tokens":0.3,"gen_ai.usage.cache_read.input_tokens":0.1}`, `{"inputTokens":0.2,"cachedInputTokens":0.1}`},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, parse(t, c.want), parse(t, c.raw)) })
	}
	for name, raw := range map[string]string{
		"two models":                        `{"model":"o3","gen_ai.request.model":"o4"}`,
		"two providers":                     `{"gen_ai.system":"openai","gen_ai.provider.name":"azure"}`,
		"two numbers of output tokens":      `{"outputTokens":5,"gen_ai.usage.output_tokens":6}`,
		"text and number":                   `{"outputTokens":"5","gen_ai.usage.output_tokens":5}`,
		"null and a number":                 `{"outputTokens":null,"gen_ai.usage.output_tokens":5}`,
		"input tokens with the cached ones": `{"inputTokens":100,"gen_ai.usage.input_tokens":100,"cachedInputTokens":30}`,
		"more cached than all":              `{"gen_ai.usage.input_tokens":29,"gen_ai.usage.cache_read.input_tokens":30}`,
		"two numbers of cached tokens":      `{"gen_ai.usage.input_tokens":100,"gen_ai.usage.cache_read.input_tokens":30,"cachedInputTokens":20}`,
		"less than nothing cached":          `{"gen_ai.usage.input_tokens":100,"gen_ai.usage.cache_read.input_tokens":-30}`,
		"cached tokens as text":             `{"gen_ai.usage.input_tokens":100,"gen_ai.usage.cache_read.input_tokens":"30"}`,
		"a difference without end":          `{"gen_ai.usage.input_tokens":1e63,"gen_ai.usage.cache_read.input_tokens":1e-62}`,
		"a part beyond all digits":          `{"gen_ai.usage.input_tokens":999999999999999999,"gen_ai.usage.cache_read.input_tokens":1e-62}`,
		"a case variant of a translated":    `{"Model":"o3","gen_ai.request.model":"o3"}`,
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, "invalid_event", refused(t, raw).Code) })
	}
}
