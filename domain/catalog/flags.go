package catalog

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"

	"github.com/tollgate-io/tollgate/domain/money"
)

// FlagType is the type that all values of a flag have.
type FlagType string

// The types.
const (
	Boolean FlagType = "boolean"
	String  FlagType = "string"
	Number  FlagType = "number"
	Object  FlagType = "object"
)

var flagTypes = []string{string(Boolean), string(String), string(Number), string(Object)}

// Flag is a product setting that can differ per tenant. Its value is that of the first rule that matches, or else the default.
type Flag struct {
	Key     FlagKey         `json:"key"`
	Type    FlagType        `json:"type"`
	Default json.RawMessage `json:"default"` // canonical JSON: no blanks, members sorted, numbers as written
	Rules   []Rule          `json:"rules,omitempty"`
}

// Rule gives a flag's value to the tenants that meet all of its conditions. It has at least one.
type Rule struct {
	Tenants    []string        `json:"tenants,omitempty"` // tenant ids
	Plans      []PlanKey       `json:"plans,omitempty"`
	Percentage *money.Decimal  `json:"percentage,omitempty"` // of all tenants, 0..100; nil: no such condition
	Value      json.RawMessage `json:"value"`
}

var (
	flagShape = shape{required: []string{"key", "type", "default"}, optional: []string{"rules"}}
	ruleShape = shape{required: []string{"value"}, optional: []string{"tenants", "plans", "percentage"}}
)

func (d *decoder) flag(n node, at string, seen unique) Flag {
	o := d.object(n, at)
	o.only("a flag", flagShape)
	f := Flag{Key: FlagKey(o.key("key", seen)), Type: FlagType(o.oneOf("type", flagTypes...))}
	f.Default = o.flagValue("default", f.Type)
	o.each("rules", func(n node, at string) { f.Rules = append(f.Rules, d.rule(n, at, f.Type)) })
	return f
}

func (d *decoder) rule(n node, at string, t FlagType) Rule {
	o := d.object(n, at)
	o.only("a rule", ruleShape)
	o.some("tenants")
	o.some("plans")
	r := Rule{Tenants: o.texts("tenants", "malformed", unreadable), Value: o.flagValue("value", t)}
	// A rule may name a plan that this catalog no longer has: tenants stay on it until they are moved.
	for _, p := range o.texts("plans", "malformed", malformedPlanKey) {
		r.Plans = append(r.Plans, PlanKey(p))
	}
	if percentage, ok := o.decimal("percentage"); ok {
		if percentage.Sign() < 0 || percentage.Cmp(money.Int(100)) > 0 {
			o.refuse("percentage", "out_of_range", "percentage is from 0 to 100")
		}
		r.Percentage = &percentage
	}
	if o.members != nil && !o.has("tenants") && !o.has("plans") && !o.has("percentage") {
		d.refuse(at, "missing", "a rule needs tenants, plans or percentage; use the default for everyone")
	}
	return r
}

// malformedPlanKey is why a text is not a plan key; "" if it is one.
func malformedPlanKey(t string) string {
	if !wellFormedKey(t) {
		return quoted(t) + " is not a plan key"
	}
	return ""
}

// flagValue reads a value of the flag's type.
func (o object) flagValue(name string, t FlagType) json.RawMessage {
	n := o.members[name]
	if n == nil {
		return nil
	}
	if is := typeOf(n); is != t && slices.Contains(flagTypes, string(t)) {
		o.refuse(name, "wrong_type", "must be of the flag's type, %s", t)
		return nil
	}
	return o.d.appendValue(nil, n, member(o.at, name))
}

// typeOf is the flag type of a node; "" if it has none.
func typeOf(n node) FlagType {
	switch {
	case n.Kind == yaml.MappingNode:
		return Object
	case n.Kind != yaml.ScalarNode:
		return ""
	}
	switch n.ShortTag() {
	case tagText:
		return String
	case tagInt, tagFloat:
		return Number
	case tagBool:
		return Boolean
	}
	return ""
}

// appendValue writes a node as canonical JSON. It refuses what YAML has and JSON does not (dates, octal numbers, infinities),
// since every reader would understand it differently.
func (d *decoder) appendValue(b []byte, n node, at string) []byte {
	switch n.Kind {
	case yaml.MappingNode:
		o := d.object(n, at)
		b = append(b, '{')
		for i, name := range slices.Sorted(maps.Keys(o.members)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendQuoted(b, name)
			b = append(b, ':')
			b = d.appendValue(b, o.members[name], member(at, name))
		}
		return append(b, '}')
	case yaml.SequenceNode:
		b = append(b, '[')
		for i, e := range n.Content {
			if i > 0 {
				b = append(b, ',')
			}
			b = d.appendValue(b, e, element(at, i))
		}
		return append(b, ']')
	}
	switch n.ShortTag() {
	case tagText:
		return appendQuoted(b, n.Value)
	case tagNull:
		return append(b, "null"...)
	case tagBool:
		value, ok := truth(n)
		if !ok {
			d.refuse(at, "malformed", "write %s as %s", quoted(n.Value), strings.ToLower(n.Value))
		}
		return strconv.AppendBool(b, value)
	case tagInt, tagFloat:
		if _, err := money.ParseNumber(n.Value); err != nil {
			d.refuse(at, "malformed", "%s is not a JSON number of at most 64 characters", quoted(n.Value))
		}
		return append(b, n.Value...)
	}
	d.refuse(at, "wrong_type", "write %s in quotes", quoted(n.Value))
	return append(b, "null"...)
}

// appendQuoted writes a JSON string. The text must be valid UTF-8, so it cannot fail.
func appendQuoted(b []byte, s string) []byte {
	b, err := jsontext.AppendQuote(b, s)
	if err != nil {
		panic("catalog: " + err.Error())
	}
	return b
}
