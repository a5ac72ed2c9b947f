package event

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/text/unicode/norm"

	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

// aliases maps OpenTelemetry GenAI names (semantic conventions, gen_ai registry) to ours. gen_ai.usage.input_tokens includes
// cached tokens; ParseData subtracts them.
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

// ParseData reads a JSON object strictly: no duplicate names, no names at the top that differ only in case, no NUL, valid
// UTF-8 without lone surrogates, names in normalisation form C, numbers within bounds. Names of the OpenTelemetry GenAI
// conventions become ours. Parsing the canonical form of the result gives the same data. The error is an *invalid.Error
// whose pointers start with pointer.
func ParseData(raw []byte, pointer string) (Data, error) {
	if len(raw) > MaxDataBytes {
		return Data{}, invalid.New(pointer, "too_large", fmt.Sprintf("data has %d bytes; at most %d are allowed", len(raw), MaxDataBytes))
	}
	r := readers.Get().(*reader)
	defer r.release()
	r.input.Reset(raw)
	r.decoder.Reset(&r.input)
	r.text, r.pointer = string(raw), pointer
	if r.decoder.PeekKind() != '{' {
		return Data{}, invalid.New(pointer, invalid.CodeEvent, "data must be a JSON object")
	}
	if err := r.readMembers(); err != nil {
		return Data{}, err
	}
	if err := r.translate(); err != nil {
		return Data{}, err
	}
	if a, b, ok := caseVariants(r.members); ok {
		return Data{}, r.refuseMember(b, fmt.Sprintf("%q and %q differ in case only", a, b))
	}
	r.wire = appendMembers(r.wire[:0], r.members)
	d := Data{string(r.wire)}
	// 1e63 is short as it is sent and long as it is kept. Nothing else grows.
	if len(raw) > MaxDataBytes/maxNumberLength && len(d.AppendJSON(nil)) > MaxDataBytes {
		return Data{}, invalid.New(pointer, "too_large", fmt.Sprintf("data has more than %d bytes when its numbers are written out", MaxDataBytes))
	}
	return d, nil
}

// maxNumberLength bounds a number in plain notation, as it is kept; money.ParseNumber has the same bound.
const maxNumberLength = 64

// reader reads one object. Names and texts without escapes are substrings of text, without a copy.
type reader struct {
	decoder *jsontext.Decoder
	input   bytes.Reader
	text    string
	pointer string
	members []member
	wire    []byte
}

var readers = sync.Pool{New: func() any { return &reader{decoder: jsontext.NewDecoder(bytes.NewReader(nil))} }}

// release returns the buffers to the pool, without the data of this object.
func (r *reader) release() {
	clear(r.members)
	r.members, r.text, r.pointer = r.members[:0], "", ""
	r.input.Reset(nil)
	if cap(r.members) <= 1024 {
		readers.Put(r)
	}
}

func (r *reader) readMembers() error {
	if _, err := r.decoder.ReadToken(); err != nil {
		return r.syntaxError(err)
	}
	for r.decoder.PeekKind() != '}' {
		name, err := r.readName()
		if err != nil {
			return err
		}
		v, err := r.readValue()
		if err != nil {
			return err
		}
		r.members = append(r.members, newMember(name, v))
	}
	if _, err := r.decoder.ReadToken(); err != nil {
		return r.syntaxError(err)
	}
	if _, err := r.decoder.ReadToken(); !errors.Is(err, io.EOF) {
		return invalid.New(r.pointer, "invalid_json", "there is more after the data object")
	}
	return nil
}

// readRaw returns the source text of the next name or scalar value.
func (r *reader) readRaw() (string, error) {
	v, err := r.decoder.ReadValue()
	if err != nil {
		return "", r.syntaxError(err)
	}
	end := r.decoder.InputOffset()
	return r.text[end-int64(len(v)) : end], nil
}

// unquote reads a JSON string that the decoder accepted.
func unquote(raw string) (string, error) {
	if strings.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1], nil
	}
	b, err := jsontext.AppendUnquote(nil, raw)
	return string(b), err
}

func (r *reader) readName() (string, error) {
	raw, err := r.readRaw()
	if err != nil {
		return "", err
	}
	if raw[0] != '"' { // unreachable: the decoder checks it
		return "", r.refuse("a member name must be a string")
	}
	name, err := unquote(raw)
	if err != nil {
		return "", r.syntaxError(err)
	}
	if wireNumbers[name] != 0 {
		return name, nil
	}
	switch {
	case name == "" || len(name) > MaxIDLength:
		return "", r.refuse(fmt.Sprintf("a member name must have 1-%d bytes", MaxIDLength))
	case strings.IndexByte(name, 0) >= 0:
		return "", r.refuse("a member name must not contain NUL")
	case !norm.NFC.IsNormalString(name):
		return "", r.refuse("a member name must be in Unicode normalisation form C")
	}
	return name, nil
}

func (r *reader) readValue() (Value, error) {
	switch r.decoder.PeekKind() {
	case '{', '[':
		nested, err := r.appendNested(nil)
		return Value{Kind: Nested, s: string(nested)}, err
	default:
		return r.readScalar()
	}
}

func (r *reader) readScalar() (Value, error) {
	raw, err := r.readRaw()
	if err != nil {
		return Value{}, err
	}
	switch raw[0] {
	case 'n':
		return Value{Kind: Null}, nil
	case 't':
		return Value{Kind: True}, nil
	case 'f':
		return Value{Kind: False}, nil
	case '"':
		text, err := unquote(raw)
		if err != nil {
			return Value{}, r.syntaxError(err)
		}
		if strings.IndexByte(text, 0) >= 0 {
			return Value{}, r.refuse("a string must not contain NUL")
		}
		return Value{Kind: Text, s: text}, nil
	}
	if n, ok := smallInteger(raw); ok {
		return Value{Kind: Integer, n: n}, nil
	}
	n, err := money.ParseNumber(raw)
	v := Value{}
	if err == nil {
		v = number(n)
	}
	if err != nil || len(v.s) > maxNumberLength {
		return Value{}, r.refuse(fmt.Sprintf("the number is out of bounds: at most %d characters, also when it is written without exponent", maxNumberLength))
	}
	return v, nil
}

// smallInteger reads up to 18 digits; nearly every measure is that short.
func smallInteger(raw string) (n int64, ok bool) {
	if len(raw) > 18 {
		return 0, false
	}
	for i := range len(raw) {
		c := raw[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// appendNested copies an object or array in canonical form: members sorted by name, canonical numbers, no white space.
func (r *reader) appendNested(dst []byte) ([]byte, error) {
	switch kind := r.decoder.PeekKind(); {
	case kind != '{' && kind != '[':
		v, err := r.readScalar()
		return v.AppendJSON(dst), err
	case r.decoder.StackDepth() >= MaxDataDepth:
		return nil, r.refuse(fmt.Sprintf("data is nested deeper than %d", MaxDataDepth))
	case kind == '{':
		return r.appendObject(dst)
	}
	if _, err := r.decoder.ReadToken(); err != nil {
		return nil, r.syntaxError(err)
	}
	dst = append(dst, '[')
	for i := 0; r.decoder.PeekKind() != ']'; i++ {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = r.appendNested(dst); err != nil {
			return nil, err
		}
	}
	if _, err := r.decoder.ReadToken(); err != nil {
		return nil, r.syntaxError(err)
	}
	return append(dst, ']'), nil
}

func (r *reader) appendObject(dst []byte) ([]byte, error) {
	if _, err := r.decoder.ReadToken(); err != nil {
		return nil, r.syntaxError(err)
	}
	type part struct {
		name string
		json []byte // with its name
	}
	var parts []part
	for r.decoder.PeekKind() != '}' {
		name, err := r.readName()
		if err != nil {
			return nil, err
		}
		json, err := r.appendNested(append(appendString(nil, name), ':'))
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{name, json})
	}
	if _, err := r.decoder.ReadToken(); err != nil {
		return nil, r.syntaxError(err)
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.name, b.name) })
	dst = append(dst, '{')
	for i, p := range parts {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, p.json...)
	}
	return append(dst, '}'), nil
}

// refuse returns an error about the value that was read last.
func (r *reader) refuse(detail string) error {
	return invalid.New(r.pointer+clip(string(r.decoder.StackPointer())), invalid.CodeEvent, detail)
}

func (r *reader) refuseMember(name, detail string) error {
	return invalid.New(r.pointer+"/"+clip(invalid.Token(name)), invalid.CodeEvent, detail)
}

// syntaxError describes the error without repeating the input, which may be long.
func (r *reader) syntaxError(err error) error {
	at, where := "", ""
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		at, where, err = clip(string(syntax.JSONPointer)), fmt.Sprintf(" after offset %d", syntax.ByteOffset), syntax.Err
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return invalid.New(r.pointer+at, invalid.CodeEvent, "the name occurs twice in its object")
	}
	return invalid.New(r.pointer+at, "invalid_json", clip(strings.TrimPrefix(err.Error(), "jsontext: "))+where)
}

// maxQuoted bounds, in bytes, what an error quotes of the input.
const maxQuoted = 500

func clip(s string) string { return invalid.Clip(s, maxQuoted) }

const (
	otelInputTokens  = "gen_ai.usage.input_tokens"
	otelCachedTokens = "gen_ai.usage.cache_read.input_tokens"
)

// translate renames OpenTelemetry members. Their input tokens include the cached ones, ours do not.
func (r *reader) translate() error {
	if !slices.ContainsFunc(r.members, func(m member) bool { return m.number == 0 && aliases[m.name] != "" }) {
		return nil
	}
	var aliased []member
	own := r.members[:0]
	var cached, otelCached Value
	for _, m := range r.members {
		if m.name == "cachedInputTokens" {
			cached = m.value
		}
		if m.name == otelCachedTokens {
			otelCached = m.value
		}
		if aliases[m.name] != "" {
			aliased = append(aliased, m)
		} else {
			own = append(own, m)
		}
	}
	r.members = own
	if otelCached.Kind != Absent {
		cached = otelCached
	}
	for _, m := range aliased {
		name, v := aliases[m.name], m.value
		if m.name == otelInputTokens && cached.Kind > Null && v.Kind > Null {
			var ok bool
			if v, ok = uncached(v, cached); !ok {
				return r.refuseMember(m.name, "input tokens and cached input tokens must be quantities, and the cached ones are a part of all")
			}
		}
		i := slices.IndexFunc(r.members, func(o member) bool { return o.name == name })
		switch {
		case i < 0:
			r.members = append(r.members, newMember(name, v))
		case r.members[i].value != v:
			return r.refuseMember(m.name, fmt.Sprintf("%s and %s say different things", m.name, name))
		}
	}
	return nil
}

// uncached is total - cached. Both must be quantities: the difference of other numbers may have too many digits for exact
// arithmetic.
func uncached(total, cached Value) (Value, bool) {
	all, err1 := money.ParseQuantity(total.String())
	part, err2 := money.ParseQuantity(cached.String())
	if err1 != nil || err2 != nil || total.Kind == Text || cached.Kind == Text || part.Sign() < 0 || all.Cmp(part) < 0 {
		return Value{}, false
	}
	return number(all.Sub(part)), true
}

// caseVariants finds two names that differ only in case. No two names of the dictionary do, so only others are compared.
func caseVariants(members []member) (a, b string, found bool) {
	others := 0
	for i := range members {
		if members[i].number == 0 {
			others++
		}
	}
	if others > 16 { // a map beats comparing each with each
		seen := make(map[string]string, len(members))
		for i := range members {
			folded := strings.Map(fold, members[i].name)
			if other, ok := seen[folded]; ok {
				return other, members[i].name, true
			}
			seen[folded] = members[i].name
		}
		return "", "", false
	}
	for i := range members {
		if members[i].number != 0 {
			continue
		}
		for j := range members {
			if i != j && strings.EqualFold(members[i].name, members[j].name) {
				return members[min(i, j)].name, members[max(i, j)].name, true
			}
		}
	}
	return "", "", false
}

// fold maps all runes that strings.EqualFold treats as equal to the smallest of them.
func fold(r rune) rune {
	switch {
	case 'a' <= r && r <= 'z':
		return r - 'a' + 'A'
	case r < utf8.RuneSelf:
		return r
	}
	least := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		least = min(least, next)
	}
	return least
}
