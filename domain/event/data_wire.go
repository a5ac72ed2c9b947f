package event

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-io/tollgate/domain/money"
)

// wireNames is the log's dictionary of member names, by field number. It is part of the log's format: numbers are never
// reused or changed. Number 1 is for every other name. A number below 16 costs one byte.
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

// member is one name and its value on the way into the wire form.
type member struct {
	name   string
	number protowire.Number // of the dictionary, 0 for a name that is not in it
	value  Value
}

func newMember(name string, v Value) member { return member{name, wireNumbers[name], v} }

// appendMembers sorts the members by name and writes the compact form: one protocol buffer field each. A known name with an
// integer or a constant is a varint, and with a string it is bytes. Everything else is field 1: the name, then canonical JSON.
func appendMembers(w []byte, members []member) []byte {
	slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.name, b.name) })
	var scratch []byte
	for i := range members {
		m := &members[i]
		switch {
		case m.number != 0 && m.value.Kind == Text:
			w = protowire.AppendTag(w, m.number, protowire.BytesType)
			w = protowire.AppendString(w, m.value.s)
		case m.number != 0 && m.value.Kind <= Integer:
			w = protowire.AppendTag(w, m.number, protowire.VarintType)
			w = protowire.AppendVarint(w, m.value.varint())
		default:
			scratch = protowire.AppendString(scratch[:0], m.name)
			scratch = m.value.AppendJSON(scratch)
			w = protowire.AppendTag(w, otherName, protowire.BytesType)
			w = protowire.AppendBytes(w, scratch)
		}
	}
	return w
}

// varint packs a constant or an integer. The lowest bit is 1 for an integer; the rest is the constant or the zig-zag integer.
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

// nextMember reads the first member of a wire form that check accepted.
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

// consumeVarint is protowire.ConsumeVarint for valid strings, with the one-byte case first.
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

// checkVarint is consumeVarint for strings that may be invalid.
func checkVarint(w string) (u uint64, rest string, ok bool) {
	if len(w) > 0 && w[0] < 0x80 {
		return uint64(w[0]), w[1:], true
	}
	for i := 0; i < len(w) && i < 10; i++ {
		if i == 9 && w[i] > 1 { // the tenth byte has room for one bit
			break
		}
		u |= uint64(w[i]&0x7f) << (7 * i)
		if w[i] < 0x80 {
			return u, w[i+1:], true
		}
	}
	return 0, "", false
}

// checkBytes reads a length and as many bytes.
func checkBytes(w string) (body, rest string, ok bool) {
	n, w, ok := checkVarint(w)
	if !ok || n > uint64(len(w)) {
		return "", "", false
	}
	return w[:n], w[n:], true
}

var (
	errDataField = errors.New("data: an unknown or broken field")
	errDataOrder = errors.New("data: the names are out of order")
	errDataText  = errors.New("data: a text is not valid")
	errDataJSON  = errors.New("data: a value is not valid JSON")
)

// check verifies that a wire form can be walked, that its names are in order and that its values are valid JSON: bytes from
// the log are not trusted either. A name may be spelled out although the dictionary has it, since it may have been written
// before it was added.
func (d Data) check() error {
	last := ""
	for w := d.wire; w != ""; {
		tag, rest, ok := checkVarint(w)
		number := tag >> 3
		if !ok || number < 1 || number >= uint64(len(wireNames)) {
			return errDataField
		}
		name := wireNames[number]
		switch protowire.Type(tag & 7) { //nolint:gosec // three bits
		case protowire.VarintType:
			var u uint64
			u, rest, ok = checkVarint(rest)
			if !ok || name == "" || u&1 == 0 && (u>>1 == uint64(Absent) || u>>1 > uint64(True)) {
				return errDataField
			}
		case protowire.BytesType:
			var body string
			if body, rest, ok = checkBytes(rest); !ok {
				return errDataField
			}
			if name != "" {
				if !isText(body) {
					return errDataText
				}
				break
			}
			if name, body, ok = checkBytes(body); !ok || name == "" || !isText(name) {
				return errDataText
			}
			if !isValueJSON(body) {
				return errDataJSON
			}
		default:
			return errDataField
		}
		if name <= last {
			return errDataOrder
		}
		last, w = name, rest
	}
	return nil
}

// isText reports whether a text can be stored: valid UTF-8 without NUL.
func isText(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c == 0:
			return false
		case c >= utf8.RuneSelf:
			return utf8.ValidString(s[i:]) && strings.IndexByte(s[i:], 0) < 0
		}
	}
	return true
}

// isValueJSON reports whether fromJSON can read the text. Constants and plain texts need no parser.
func isValueJSON(s string) bool {
	switch {
	case s == "":
		return false
	case s == "null" || s == "true" || s == "false":
		return true
	case s[0] == '"':
		if len(s) >= 2 && s[len(s)-1] == '"' && isPlain(s[1:len(s)-1]) {
			return true
		}
		text, err := jsontext.AppendUnquote(nil, s)
		return err == nil && isText(string(text))
	case s[0] == '{' || s[0] == '[':
		return jsontext.Value(s).IsValid()
	}
	n, err := money.ParseNumber(s)
	return err == nil && string(number(n).AppendJSON(nil)) == s
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
