package catalog

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"

	"github.com/tollgate-io/tollgate/domain/invalid"
)

// Bounds of a catalog's text, so that a small hostile one cannot exhaust memory or stack.
const (
	MaxText   = 1 << 20
	MaxDepth  = 32
	maxName   = 200 // bytes of a member's name; pointers repeat it for every value beneath
	clipped   = 80
	tagText   = "!!str"
	tagInt    = "!!int"
	tagFloat  = "!!float"
	tagBool   = "!!bool"
	tagNull   = "!!null"
	tagDate   = "!!timestamp"
	separator = "\u0085\u2028\u2029"
)

// node is a parsed value, not yet interpreted. Its scalars keep the exact text of numbers.
type node = *yaml.Node

// read returns the tree of a text. If the text cannot be used, it notes why and returns nil.
func (d *decoder) read(text []byte) node {
	switch {
	case len(text) > MaxText:
		d.refuse("", "too_large", "a catalog has at most %d bytes, not %d", MaxText, len(text))
		return nil
	case !utf8.Valid(text):
		d.refuse("", "invalid_syntax", "a catalog is UTF-8 text")
		return nil
	}
	root, err := readJSON(text)
	if err != nil && !errors.Is(err, errTooDeep) {
		root, err = readYAML(text)
	}
	if err != nil {
		d.refuse("", "invalid_syntax", "%s", clip(strings.TrimPrefix(err.Error(), "yaml: ")))
		return nil
	}
	if !d.sound(root, "", 1) {
		return nil
	}
	return root
}

var (
	errTooDeep   = errors.New("nested deeper than " + strconv.Itoa(MaxDepth) + " levels")
	errEmpty     = errors.New("the catalog is empty; an empty one is written {}")
	errDocuments = errors.New("more than one document; a catalog must be one")
	errTrailing  = errors.New("text after the end of the JSON value")
	errSeparator = errors.New("YAML treats U+0085, U+2028 and U+2029 as line breaks; write them as escapes")
)

// readYAML reads exactly one document. The parser does not expand aliases.
func readYAML(text []byte) (node, error) {
	if bytes.ContainsAny(text, separator) {
		return nil, errSeparator
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, next yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, errEmpty
	case err != nil:
		return nil, err
	}
	switch err := decoder.Decode(&next); {
	case err == nil:
		return nil, errDocuments
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	return document.Content[0], nil
}

// readJSON reads a JSON text into the same nodes. YAML is nearly a superset of JSON, but refuses surrogate pairs in escapes and
// some tabs, which JSON encoders write.
func readJSON(text []byte) (node, error) {
	d := jsontext.NewDecoder(bytes.NewReader(text), jsontext.AllowDuplicateNames(true))
	root, err := readJSONValue(d, 1)
	if err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errTrailing
	}
	return root, nil
}

func readJSONValue(d *jsontext.Decoder, depth int) (node, error) {
	if depth > MaxDepth {
		return nil, errTooDeep
	}
	t, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	n := &yaml.Node{Kind: yaml.ScalarNode}
	switch t.Kind() {
	case jsontext.KindBeginObject, jsontext.KindBeginArray:
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		if t.Kind() == jsontext.KindBeginArray {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		for k := d.PeekKind(); k != jsontext.KindEndObject && k != jsontext.KindEndArray; k = d.PeekKind() {
			child, err := readJSONValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		_, err = d.ReadToken()
		return n, err
	case jsontext.KindString:
		n.Style, n.Tag = yaml.DoubleQuotedStyle, tagText
	case jsontext.KindNumber:
		n.Tag = tagFloat
	case jsontext.KindTrue, jsontext.KindFalse:
		n.Tag = tagBool
	default:
		n.Tag = tagNull
	}
	n.Value = t.String()
	return n, nil
}

// sound reports whether a tree has only what JSON has. It notes every alias, anchor, tag, merge key, name that is not text, NUL
// and excessive depth.
func (d *decoder) sound(n node, at string, depth int) bool {
	switch {
	case depth > MaxDepth:
		d.refuse(at, "too_large", "%s", errTooDeep)
		return false
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.refuse(at, "not_allowed", "anchors and aliases are not allowed; write the value out")
		return false
	case n.Style&yaml.TaggedStyle != 0:
		d.refuse(at, "not_allowed", "tags such as %s are not allowed", clip(n.Tag))
		return false
	case strings.ContainsRune(n.Value, 0):
		d.refuse(at, "malformed", "NUL is not allowed in text")
		return false
	}
	ok := true
	switch n.Kind {
	case yaml.MappingNode:
		seen := make(map[string]bool, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, value := n.Content[i], n.Content[i+1]
			switch {
			case !d.sound(name, at, depth):
				ok = false
				continue
			case name.Kind != yaml.ScalarNode || name.ShortTag() != tagText:
				d.refuse(at, "wrong_type", "the key %s is not text; write it in quotes", quoted(name.Value))
				ok = false
				continue
			case len(name.Value) > maxName:
				d.refuse(at, "too_large", "the key %s has more than %d bytes", quoted(name.Value), maxName)
				ok = false
				continue
			case seen[name.Value]:
				d.refuse(member(at, name.Value), "duplicate_key", "the key %s is given twice", quoted(name.Value))
				ok = false
			}
			seen[name.Value] = true
			ok = d.sound(value, member(at, name.Value), depth+1) && ok
		}
	case yaml.SequenceNode:
		for i, value := range n.Content {
			ok = d.sound(value, element(at, i), depth+1) && ok
		}
	}
	return ok
}

// member is the pointer to a member. Hardly any name needs escaping, so the common case must be fast: a hostile text has hundreds
// of thousands.
func member(at, name string) string {
	if strings.ContainsAny(name, "~/") {
		name = invalid.Token(name)
	}
	return at + "/" + name
}

func element(at string, i int) string { return at + "/" + strconv.Itoa(i) }

// clip shortens text from the catalog for an error.
func clip(s string) string { return invalid.Clip(s, clipped) }

func quoted(s string) string { return strconv.Quote(clip(s)) }
