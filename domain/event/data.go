package event

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/text/unicode/norm"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Bounds of the free JSON object that rides with an event.
const (
	MaxDataBytes = 64 << 10
	MaxDataDepth = 8 // the object itself is depth 1
)

// Data is the free JSON object of an event: immutable, its members sorted by name, its numbers exact. It is held in the
// compact form of the log, so that reading one field decodes nothing else.
type Data struct{ wire string }

// Kind of a Value.
type Kind uint8

// The kinds of JSON values; objects and arrays are Nested.
const (
	Absent Kind = iota
	Null
	False
	True
	Integer // fits in 62 bits; the form of nearly every measure
	Number  // any other number
	Text
	Nested
)

// Value is one member of Data. The zero Value is Absent.
type Value struct {
	Kind Kind
	n    int64  // Integer
	s    string // Number: canonical text; Text: the string; Nested: canonical JSON
}

// wireNames is the dictionary of member names of the log's format, by field number. Numbers are never reused or
// changed; 1 is for every other name. Below 16 a name costs one byte.
var wireNames = [...]string{
	2: "userId", 3: "feature", 4: "provider", 5: "model", 6: "promptVersion", 7: "inputTokens", 8: "outputTokens",
	9: "cachedInputTokens", 10: "latencyMs", 11: "cacheHit", 12: "safety", 13: "status", 14: "attempt", 15: "retryOf",
	16: "modelTier", 17: "audioSeconds", 18: "sessionId", 19: "requestId", 20: "error", 21: "region", 22: "operation",
}

const otherName protowire.Number = 1

var wireNumbers = func() map[string]protowire.Number {
	m := make(map[string]protowire.Number, len(wireNames))
	for n, name := range wireNames {
		if name != "" {
			m[name] = protowire.Number(n) //nolint:gosec // a small table
		}
	}
	return m
}()

// aliases are the OpenTelemetry GenAI names (semantic conventions, gen_ai registry) for members that have a meaning here.
// gen_ai.usage.input_tokens counts cached tokens too and is converted by ParseData.
var aliases = map[string]string{
	"gen_ai.provider.name":                 "provider",
	"gen_ai.system":                        "provider",
	"gen_ai.request.model":                 "model",
	"gen_ai.operation.name":                "operation",
	"gen_ai.conversation.id":               "sessionId",
	"gen_ai.usage.output_tokens":           "outputTokens",
	"gen_ai.usage.cache_read.input_tokens": "cachedInputTokens",
	"gen_ai.usage.input_tokens":            "inputTokens",
}

type member struct {
	name  string
	value Value
}

// ParseData reads a JSON object strictly: no duplicate names, none that differ from another only in case, no NUL, valid
// UTF-8 without lone surrogates, numbers within bounds. Names of the OpenTelemetry GenAI conventions become ours. The
// error is an *invalid.Error whose pointers start with pointer.
func ParseData(raw []byte, pointer string) (Data, error) {
	if len(raw) > MaxDataBytes {
		return Data{}, invalid.New(pointer, "too_large", fmt.Sprintf("data has %d bytes; at most %d are allowed", len(raw), MaxDataBytes))
	}
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	if d.PeekKind() != '{' {
		return Data{}, invalid.New(pointer, "invalid_event", "data must be a JSON object")
	}
	members, err := readMembers(d, pointer)
	if err != nil {
		return Data{}, err
	}
	return newData(members, pointer)
}

// NewData builds data from scalar members: string, bool, nil, int, int64 or money.Decimal values. It is for code that
// makes events itself, and panics on other types.
func NewData(fields map[string]any) Data {
	members := make([]member, 0, len(fields))
	for name, f := range fields {
		var v Value
		switch f := f.(type) {
		case nil:
			v.Kind = Null
		case bool:
			v.Kind = False
			if f {
				v.Kind = True
			}
		case int:
			v = number(money.Int(int64(f)))
		case int64:
			v = number(money.Int(f))
		case money.Decimal:
			v = number(f)
		case string:
			v = Value{Kind: Text, s: f}
		default:
			panic(fmt.Sprintf("event: no data value of type %T", f))
		}
		members = append(members, member{name, v})
	}
	return encodeMembers(members)
}

func readMembers(d *jsontext.Decoder, pointer string) ([]member, error) {
	if _, err := d.ReadToken(); err != nil {
		return nil, syntaxError(pointer, err)
	}
	var members []member
	for d.PeekKind() != '}' {
		t, err := d.ReadToken()
		if err != nil {
			return nil, syntaxError(pointer, err)
		}
		name := t.String()
		at := pointer + "/" + invalid.Token(name)
		if err := checkName(name); err != nil {
			return nil, invalid.New(at, "invalid_event", err.Error())
		}
		v, err := readValue(d, at)
		if err != nil {
			return nil, err
		}
		members = append(members, member{name, v})
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, syntaxError(pointer, err)
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, invalid.New(pointer, "invalid_json", "there is more after the data object")
	}
	return members, nil
}

func checkName(name string) error {
	switch {
	case name == "" || len(name) > MaxIDLength:
		return fmt.Errorf("a member name must have 1-%d bytes", MaxIDLength)
	case strings.ContainsRune(name, 0):
		return errors.New("a member name must not contain NUL")
	case !norm.NFC.IsNormalString(name):
		return errors.New("a member name must be in Unicode normalisation form C")
	}
	return nil
}

func syntaxError(pointer string, err error) error {
	return invalid.New(pointer, "invalid_json", strings.TrimPrefix(err.Error(), "jsontext: "))
}

func readValue(d *jsontext.Decoder, pointer string) (Value, error) {
	switch d.PeekKind() {
	case '{', '[':
		nested, err := appendCanonical(nil, d, pointer)
		if err != nil {
			return Value{}, err
		}
		return Value{Kind: Nested, s: string(nested)}, nil
	default:
		t, err := d.ReadToken()
		if err != nil {
			return Value{}, syntaxError(pointer, err)
		}
		return scalar(t, pointer)
	}
}

func scalar(t jsontext.Token, pointer string) (Value, error) {
	switch t.Kind() {
	case 'n':
		return Value{Kind: Null}, nil
	case 't':
		return Value{Kind: True}, nil
	case 'f':
		return Value{Kind: False}, nil
	case '"':
		s := t.String()
		if strings.ContainsRune(s, 0) {
			return Value{}, invalid.New(pointer, "invalid_event", "a string must not contain NUL")
		}
		return Value{Kind: Text, s: s}, nil
	default:
		n, err := money.ParseNumber(t.String())
		if err != nil {
			return Value{}, invalid.New(pointer, "invalid_event", "the number is out of bounds: at most 64 characters and an exponent within ±64")
		}
		return number(n), nil
	}
}

func number(n money.Decimal) Value {
	const bound = 1 << 61
	if c, scale, ok := n.Coefficient(); ok && scale == 0 && c > -bound && c < bound {
		return Value{Kind: Integer, n: c}
	}
	return Value{Kind: Number, s: n.String()}
}

// appendCanonical copies one nested value in canonical form: members sorted by name, canonical numbers, no white space.
func appendCanonical(dst []byte, d *jsontext.Decoder, pointer string) ([]byte, error) {
	if d.StackDepth() >= MaxDataDepth && (d.PeekKind() == '{' || d.PeekKind() == '[') {
		return nil, invalid.New(pointer, "invalid_event", fmt.Sprintf("data is nested deeper than %d", MaxDataDepth))
	}
	t, err := d.ReadToken()
	if err != nil {
		return nil, syntaxError(pointer, err)
	}
	switch t.Kind() {
	case '[':
		dst = append(dst, '[')
		for i := 0; d.PeekKind() != ']'; i++ {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendCanonical(dst, d, pointer+"/"+strconv.Itoa(i)); err != nil {
				return nil, err
			}
		}
		if _, err = d.ReadToken(); err != nil {
			return nil, syntaxError(pointer, err)
		}
		return append(dst, ']'), nil
	case '{':
		return appendCanonicalObject(dst, d, pointer)
	default:
		v, err := scalar(t, pointer)
		if err != nil {
			return nil, err
		}
		return v.AppendJSON(dst), nil
	}
}

func appendCanonicalObject(dst []byte, d *jsontext.Decoder, pointer string) ([]byte, error) {
	type nested struct {
		name string
		json []byte
	}
	var members []nested
	for d.PeekKind() != '}' {
		t, err := d.ReadToken()
		if err != nil {
			return nil, syntaxError(pointer, err)
		}
		name := t.String()
		at := pointer + "/" + invalid.Token(name)
		if err := checkName(name); err != nil {
			return nil, invalid.New(at, "invalid_event", err.Error())
		}
		value, err := appendCanonical(nil, d, at)
		if err != nil {
			return nil, err
		}
		members = append(members, nested{name, value})
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, syntaxError(pointer, err)
	}
	slices.SortFunc(members, func(a, b nested) int { return cmp.Compare(a.name, b.name) })
	dst = append(dst, '{')
	for i, m := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, m.name), ':')
		dst = append(dst, m.json...)
	}
	return append(dst, '}'), nil
}

// newData applies the aliases and refuses names that only differ in case.
func newData(members []member, pointer string) (Data, error) {
	aliased := false
	for _, m := range members {
		aliased = aliased || strings.HasPrefix(m.name, "gen_ai.")
	}
	if aliased {
		var err error
		if members, err = translate(members, pointer); err != nil {
			return Data{}, err
		}
	}
	if a, b, ok := caseVariants(members); ok {
		return Data{}, invalid.New(pointer+"/"+invalid.Token(b), "invalid_event", fmt.Sprintf("%q and %q differ in case only", a, b))
	}
	return encodeMembers(members), nil
}

// translate renames OpenTelemetry members. Input tokens there include the cached ones, ours do not.
func translate(members []member, pointer string) ([]member, error) {
	byName := make(map[string]Value, len(members))
	for _, m := range members {
		byName[m.name] = m.value
	}
	out := members[:0:0]
	for _, m := range members {
		if _, ok := aliases[m.name]; !ok {
			out = append(out, m)
		}
	}
	for _, m := range members {
		name, ok := aliases[m.name]
		if !ok {
			continue
		}
		v := m.value
		if m.name == "gen_ai.usage.input_tokens" {
			cached := byName["gen_ai.usage.cache_read.input_tokens"]
			if cached.Kind == Absent {
				cached = byName["cachedInputTokens"]
			}
			total, isNumber := v.Decimal()
			part, cachedIsNumber := cached.Decimal()
			if isNumber && cachedIsNumber {
				if total.Cmp(part) < 0 {
					return nil, invalid.New(pointer+"/"+invalid.Token(m.name), "invalid_event", "there are more cached input tokens than input tokens")
				}
				v = number(total.Sub(part))
			}
		}
		i := slices.IndexFunc(out, func(o member) bool { return o.name == name })
		switch {
		case i < 0:
			out = append(out, member{name, v})
		case out[i].value != v:
			return nil, invalid.New(pointer+"/"+invalid.Token(m.name), "invalid_event", fmt.Sprintf("%s and %s say different things", m.name, name))
		}
	}
	return out, nil
}

func caseVariants(members []member) (a, b string, found bool) {
	for i := range members {
		for j := range i {
			if len(members[i].name) == len(members[j].name) && strings.EqualFold(members[i].name, members[j].name) {
				return members[j].name, members[i].name, true
			}
			if i > 64 { // many members: a map beats comparing each with each
				return caseVariantsByMap(members)
			}
		}
	}
	return "", "", false
}

func caseVariantsByMap(members []member) (a, b string, found bool) {
	seen := make(map[string]string, len(members))
	for _, m := range members {
		folded := strings.ToLower(m.name)
		if other, ok := seen[folded]; ok {
			return other, m.name, true
		}
		seen[folded] = m.name
	}
	return "", "", false
}

// encodeMembers writes the compact form: protocol buffer fields in the order of the names. A known name is its field
// number; a varint holds an integer or a constant, bytes hold a string; everything else is field 1 with the name and the
// canonical JSON.
func encodeMembers(members []member) Data {
	slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.name, b.name) })
	var w, scratch []byte
	for _, m := range members {
		n, known := wireNumbers[m.name]
		switch {
		case known && m.value.Kind == Text:
			w = protowire.AppendTag(w, n, protowire.BytesType)
			w = protowire.AppendString(w, m.value.s)
		case known && m.value.Kind <= Integer:
			w = protowire.AppendTag(w, n, protowire.VarintType)
			w = protowire.AppendVarint(w, m.value.varint())
		default:
			scratch = protowire.AppendString(scratch[:0], m.name)
			scratch = m.value.AppendJSON(scratch)
			w = protowire.AppendTag(w, otherName, protowire.BytesType)
			w = protowire.AppendBytes(w, scratch)
		}
	}
	return Data{string(w)}
}

// varint packs a constant or an integer: the lowest bit tells which, the rest is the constant or the zig-zag integer.
func (v Value) varint() uint64 {
	if v.Kind == Integer {
		return protowire.EncodeZigZag(v.n)<<1 | 1
	}
	return uint64(v.Kind) << 1
}

func fromVarint(u uint64) Value {
	if u&1 == 1 {
		return Value{Kind: Integer, n: protowire.DecodeZigZag(u >> 1)}
	}
	return Value{Kind: Kind(u >> 1)} //nolint:gosec // checked when the event is decoded
}

// all walks the members in the order of their names.
func (d Data) all(yield func(name string, v Value) bool) {
	for w := d.wire; w != ""; {
		name, v, rest := nextMember(w)
		if !yield(name, v) {
			return
		}
		w = rest
	}
}

// All iterates over the members, sorted by name.
func (d Data) All() iter.Seq2[string, Value] { return d.all }

// Get returns one member; Absent where there is none.
func (d Data) Get(name string) Value {
	for w := d.wire; w != ""; {
		n, v, rest := nextMember(w)
		if n == name {
			return v
		}
		w = rest
	}
	return Value{}
}

// nextMember reads the first member of a valid wire form (check established that).
func nextMember(w string) (name string, v Value, rest string) {
	tag, w := consumeVarint(w)
	number, wireType := protowire.Number(tag>>3), protowire.Type(tag&7) //nolint:gosec // checked when decoded
	if wireType == protowire.VarintType {
		u, rest := consumeVarint(w)
		return wireNames[number], fromVarint(u), rest
	}
	n, w := consumeVarint(w)
	body, rest := w[:n], w[n:]
	if number != otherName {
		return wireNames[number], Value{Kind: Text, s: body}, rest
	}
	n, body = consumeVarint(body)
	return body[:n], fromJSON(body[n:]), rest
}

// consumeVarint is protowire.ConsumeVarint for strings, with the one-byte case first.
func consumeVarint(w string) (uint64, string) {
	if w[0] < 0x80 {
		return uint64(w[0]), w[1:]
	}
	var u uint64
	for i := 0; ; i++ {
		u |= uint64(w[i]&0x7f) << (7 * i)
		if w[i] < 0x80 {
			return u, w[i+1:]
		}
	}
}

// check establishes that a wire form can be walked: the log's bytes are data from outside as well.
func (d Data) check() error {
	w := []byte(d.wire)
	for len(w) > 0 {
		n, t, size := protowire.ConsumeTag(w)
		if size < 0 || n < 1 || int(n) >= len(wireNames) {
			return fmt.Errorf("data: unknown field %d", n)
		}
		w = w[size:]
		switch t {
		case protowire.VarintType:
			u, size := protowire.ConsumeVarint(w)
			if size < 0 || n == otherName || (u&1 == 0 && (u>>1 == uint64(Absent) || u>>1 > uint64(True))) {
				return fmt.Errorf("data: bad value of field %d", n)
			}
			w = w[size:]
		case protowire.BytesType:
			body, size := protowire.ConsumeBytes(w)
			if size < 0 {
				return fmt.Errorf("data: bad value of field %d", n)
			}
			if n == otherName {
				if _, named := protowire.ConsumeBytes(body); named < 0 || named == len(body) {
					return fmt.Errorf("data: bad member")
				}
			}
			w = w[size:]
		default:
			return fmt.Errorf("data: bad type of field %d", n)
		}
	}
	return nil
}

// fromJSON reads what AppendJSON wrote.
func fromJSON(s string) Value {
	switch s[0] {
	case 'n':
		return Value{Kind: Null}
	case 't':
		return Value{Kind: True}
	case 'f':
		return Value{Kind: False}
	case '{', '[':
		return Value{Kind: Nested, s: s}
	case '"':
		text, err := jsontext.AppendUnquote(nil, s)
		if err != nil {
			return Value{Kind: Text, s: s}
		}
		return Value{Kind: Text, s: string(text)}
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n > -1<<61 && n < 1<<61 {
		return Value{Kind: Integer, n: n}
	}
	return Value{Kind: Number, s: s}
}

// Decimal returns the value of a number.
func (v Value) Decimal() (money.Decimal, bool) {
	switch v.Kind {
	case Integer:
		return money.Int(v.n), true
	case Number:
		n, err := money.ParseNumber(v.s)
		return n, err == nil
	default:
		return money.Decimal{}, false
	}
}

// String is the value as a dimension or a person reads it: text as it is, everything else as JSON, "" for null and
// absent.
func (v Value) String() string {
	switch v.Kind {
	case Text:
		return v.s
	case Absent, Null:
		return ""
	default:
		return string(v.AppendJSON(nil))
	}
}

// AppendJSON appends the canonical JSON of the value.
func (v Value) AppendJSON(dst []byte) []byte {
	switch v.Kind {
	case False:
		return append(dst, "false"...)
	case True:
		return append(dst, "true"...)
	case Integer:
		return strconv.AppendInt(dst, v.n, 10)
	case Text:
		return appendString(dst, v.s)
	case Number, Nested:
		return append(dst, v.s...)
	default:
		return append(dst, "null"...)
	}
}

func appendString(dst []byte, s string) []byte {
	dst, err := jsontext.AppendQuote(dst, s)
	if err != nil {
		panic(fmt.Sprintf("event: text was not checked: %v", err))
	}
	return dst
}

// AppendJSON appends the canonical JSON object.
func (d Data) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	first := true
	for name, v := range d.all {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(appendString(dst, name), ':')
		dst = v.AppendJSON(dst)
	}
	return append(dst, '}')
}

// MarshalJSON writes the canonical JSON object.
func (d Data) MarshalJSON() ([]byte, error) { return d.AppendJSON(nil), nil }

// UnmarshalJSON reads an object as ParseData does.
func (d *Data) UnmarshalJSON(b []byte) (err error) {
	*d, err = ParseData(b, "")
	return err
}

// IsEmpty reports whether there are no members.
func (d Data) IsEmpty() bool { return d.wire == "" }
