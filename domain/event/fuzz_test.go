package event_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

// reading is JSON as encoding/json reads it, with what ParseData may refuse it for.
type reading struct {
	value    any // maps, slices, texts, bools, nil and *big.Rat
	problems []string
}

// read goes through the tokens, because encoding/json itself drops duplicates without a word.
func read(raw []byte) (reading, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var r reading
	value, err := r.next(d, 0)
	if err != nil {
		return r, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return r, errors.New("more behind it")
	}
	r.value = value
	return r, nil
}

func (r *reading) problem(text string) { r.problems = append(r.problems, text) }

func (r *reading) next(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	if depth > 1000 {
		return nil, errors.New("deep")
	}
	switch t := t.(type) {
	case json.Delim:
		if depth >= event.MaxDataDepth {
			r.problem("depth")
		}
		if t == '[' {
			list := []any{}
			for d.More() {
				v, err := r.next(d, depth+1)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err := d.Token()
			return list, err
		}
		object := map[string]any{}
		for d.More() {
			token, err := d.Token()
			if err != nil {
				return nil, err
			}
			name := token.(string)
			r.text(name)
			if name == "" || len(name) > event.MaxIDLength {
				r.problem("name")
			}
			if !norm.NFC.IsNormalString(name) {
				r.problem("NFC")
			}
			if _, ok := object[name]; ok {
				r.problem("duplicate")
			}
			for other := range object {
				if depth == 0 && other != name && strings.EqualFold(other, name) {
					r.problem("case")
				}
			}
			if object[name], err = r.next(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := d.Token()
		return object, err
	case json.Number:
		return r.number(string(t)), nil
	case string:
		r.text(t)
		return t, nil
	default:
		return t, nil
	}
}

func (r *reading) text(s string) {
	if strings.Contains(s, "\x00") {
		r.problem("NUL")
	}
	if strings.ContainsRune(s, utf8.RuneError) {
		r.problem("perhaps a surrogate")
	}
}

var exponent = regexp.MustCompile(`[eE][+-]?0*([0-9]*)$`)

// number is exact, or nil where it would be too long.
func (r *reading) number(s string) *big.Rat {
	if e := exponent.FindStringSubmatch(s); len(s) > 64 || e != nil && len(e[1]) > 0 && (len(e[1]) > 2 || must(strconv.Atoi(e[1])) > 64) {
		r.problem("number")
		return nil
	}
	n, _ := new(big.Rat).SetString(s)
	plain := strings.TrimSuffix(strings.TrimRight(n.FloatString(200), "0"), ".")
	if len(plain) > 64 {
		r.problem("number")
	}
	return n
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// same compares exactly, numbers as numbers.
func same(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		o, ok := b.(map[string]any)
		if !ok || len(a) != len(o) {
			return false
		}
		for name, v := range a {
			w, ok := o[name]
			if !ok || !same(v, w) {
				return false
			}
		}
		return true
	case []any:
		o, ok := b.([]any)
		if !ok || len(a) != len(o) {
			return false
		}
		for i := range a {
			if !same(a[i], o[i]) {
				return false
			}
		}
		return true
	case *big.Rat:
		o, ok := b.(*big.Rat)
		return ok && a != nil && o != nil && a.Cmp(o) == 0
	default:
		return a == b
	}
}

func requireSameJSON(t require.TestingT, a, b []byte) {
	x, err := read(a)
	require.NoError(t, err)
	y, err := read(b)
	require.NoError(t, err)
	require.True(t, same(x.value, y.value), "%s\n%s", a, b)
}

var surrogate = regexp.MustCompile(`\\u[dD][89a-fA-F]`)

// FuzzParseData has encoding/json as its oracle: what ParseData accepts means the same there, and what it refuses breaks
// one of its own rules.
func FuzzParseData(f *testing.F) {
	for _, raw := range []string{
		contractData, `{}`, `{"a":1e63}`, `{"a":[1,2,{"b":"\ud83d\ude42"}],"A":2}`, `{"a":"\u0000"}`, `{"gen_ai.usage.input_tokens":5,"cachedInputTokens":2}`,
		`{"model":"x","provider":-0.50E+1,"x":null}`, `{"a":[[[[[[[]]]]]]]}`, `{"a":{"b":1,"b":2}}`, "{\"\u017f\":1,\"s\":2}", "{\"e\u0301\":1}", `{"a":"\udead"}`,
		`{"a":1} x`, `{"a":01}`, `{"a":-}`, `{"\u0061":1,"a":2}`,
	} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := event.ParseData(raw, "")
		sent, readErr := read(raw)
		object, isObject := sent.value.(map[string]any)
		translated := false
		for name := range object {
			translated = translated || strings.HasPrefix(name, "gen_ai.")
		}
		if err != nil {
			var bad *invalid.Error
			require.ErrorAs(t, err, &bad)
			require.Less(t, len(err.Error()), 4000)
			excused := readErr != nil || !isObject || len(raw) > event.MaxDataBytes || !utf8.Valid(raw) || translated || len(sent.problems) > 0 ||
				surrogate.Match(raw) && len(sent.problems) > 0 || bad.Fields[0].Code == "too_large"
			require.True(t, excused, "%q was refused: %v", raw, err)
			return
		}
		require.NoError(t, readErr)
		require.True(t, utf8.Valid(raw))
		canonical := d.AppendJSON(nil)
		require.LessOrEqual(t, len(canonical), event.MaxDataBytes)
		back, err := event.ParseData(canonical, "")
		require.NoError(t, err)
		require.Equal(t, d, back)
		kept, err := read(canonical)
		require.NoError(t, err)
		for _, p := range kept.problems {
			require.Equal(t, "perhaps a surrogate", p) // U+FFFD itself is a character like others
		}
		if !translated {
			require.True(t, same(sent.value, kept.value), "%s\n%s", raw, canonical)
		}
		e, err := event.Decode(recorded(usageWith(d).Append(event.Metadata{})))
		require.NoError(t, err)
		require.Equal(t, d, e.(event.UsageRecorded).Usage.Data)
	})
}

// walk uses everything of a decoded event that a projection could use.
func walk(t require.TestingT, e any, expected eventstore.Revision) {
	var usages []event.Usage
	switch e := e.(type) {
	case event.UsageRecorded:
		usages = []event.Usage{e.Usage}
	case event.UsageVoided:
		usages = []event.Usage{e.Usage}
	case event.UsageAdjusted:
		usages = []event.Usage{e.Usage, e.After()}
	case event.UsageConflicted:
		usages = []event.Usage{e.Usage}
	case event.LimitDecided:
		require.Positive(t, e.Quantity.Sign())
		require.True(t, json.Valid(e.Data.AppendJSON(nil)), "%q", e.Data.AppendJSON(nil))
		for i := range e.Parts {
			p := &e.Parts[i]
			require.Equal(t, p.Kind, event.ParseLimitKind(p.Kind.String()))
			for _, at := range []time.Time{e.DecidedAt, e.KeepUntil, p.WindowStart, p.WindowEnd, p.ResetAt, p.ExpiresAt, p.Until} {
				_, err := at.MarshalJSON()
				require.NoError(t, err)
			}
		}
	}
	for _, u := range usages {
		require.Positive(t, u.Quantity.Sign())
		_ = u.ID()
		require.True(t, json.Valid(u.Data.AppendJSON(nil)), "%q", u.Data.AppendJSON(nil))
		_, err := u.OccurredAt.MarshalJSON()
		require.NoError(t, err)
		last := ""
		for name, v := range u.Data.All() {
			require.Less(t, last, name)
			last = name
			_, _ = v.Decimal()
			require.True(t, utf8.ValidString(v.String()))
			require.Equal(t, v, u.Data.Get(name))
		}
	}
	_ = expected
}

// decodeAnything is what FuzzDecode and the mutations demand of any bytes: they are refused as malformed, or they are an
// event that can be used like every other and is written again so that it means the same.
func decodeAnything(t *testing.T, r eventstore.Recorded) {
	t.Helper()
	e, err := event.Decode(r)
	if err != nil {
		require.ErrorIs(t, err, event.ErrMalformed)
		return
	}
	walk(t, e, 0)
	a := again(t, e, 0)
	a.Tenant = r.Tenant
	back, err := event.Decode(recorded(a))
	require.NoError(t, err)
	require.Equal(t, a.Events[0].Data, again(t, back, 0).Events[0].Data)
}

func FuzzDecode(f *testing.F) {
	kinds := event.Kinds()
	byKind := map[string]byte{}
	for i, k := range kinds {
		byKind[k] = byte(i)
	}
	for _, r := range recordings(f) {
		kind, _, _ := strings.Cut(r.Type, ":")
		f.Add(byKind[kind], r.event(f).Data)
	}
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		name := kinds[int(kind)%len(kinds)]
		if strings.HasPrefix(name, "usage_") || name == "limit_decided.v1" || strings.HasPrefix(name, "hold_") {
			name += ":a"
		}
		decodeAnything(t, eventstore.Recorded{Type: name, Tenant: "tenant_123", Data: payload})
		decodeAnything(t, eventstore.Recorded{Type: name, Data: payload})
	})
}

// Every truncation and every changed byte of every recording.
func TestDecodeSurvivesDamage(t *testing.T) {
	for file, r := range recordings(t) {
		t.Run(file, func(t *testing.T) {
			whole := r.event(t)
			for n := range whole.Data {
				cut := whole
				cut.Data = whole.Data[:n]
				decodeAnything(t, cut)
				for _, b := range []byte{0, 1, 0x7f, 0x80, 0xff, whole.Data[n] ^ 1, whole.Data[n] ^ 8, whole.Data[n] + 1} {
					changed := whole
					changed.Data = bytes.Clone(whole.Data)
					changed.Data[n] = b
					decodeAnything(t, changed)
				}
			}
		})
	}
}
