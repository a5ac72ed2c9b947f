package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

// The operations of a change.
const (
	Added   = "added"
	Removed = "removed"
	Changed = "changed"
)

// Change is one difference between two catalogs, for people to read. Old and New are in the catalog's own short form
// ({kind: rate, max: 60}); text is quoted only if it could be mistaken for another value.
type Change struct {
	Op   string `json:"op"`
	Path string `json:"path"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// Diff lists the changes from an old catalog to a new one, sorted by path. A meter, plan, limit, price, flag or cost that is only
// in one of them is one change; in one that both have, each differing field is a change. A new order of limits, prices or costs
// is a change of their list. There are no changes if, and only if, the catalogs are equal.
func Diff(old, new Catalog) []Change { //nolint:predeclared // the pair of words that says it
	before, after := outline(old), outline(new)
	var changes []Change
	note := func(path string, b, a string, inOld, inNew bool) {
		switch {
		case inOld && !inNew:
			changes = append(changes, Change{Op: Removed, Path: path, Old: b})
		case !inOld && inNew:
			changes = append(changes, Change{Op: Added, Path: path, New: a})
		case b != a:
			changes = append(changes, Change{Op: Changed, Path: path, Old: b, New: a})
		}
	}
	for _, path := range union(before.parts, after.parts) {
		b, inOld := before.parts[path]
		a, inNew := after.parts[path]
		if !inOld || !inNew {
			note(path, b.String(), a.String(), inOld, inNew)
			continue
		}
		for _, name := range union(b.fields, a.fields) {
			fb, hadField := b.fields[name]
			fa, hasField := a.fields[name]
			note(path+"/"+name, fb, fa, hadField, hasField)
		}
	}
	for _, path := range union(before.orders, after.orders) {
		b, a := common(before.orders[path], after.orders[path])
		note(path, b, a, true, true)
	}
	slices.SortFunc(changes, func(x, y Change) int { return strings.Compare(x.Path, y.Path) })
	return changes
}

// outlined is a catalog as its keyed parts by path, and the order of the parts in each list.
type outlined struct {
	parts  map[string]part
	orders map[string][]string
}

// part has, as text, the fields of a keyed part that are not lists of keyed parts themselves.
type part struct {
	names  []string
	fields map[string]string
}

func (p part) String() string {
	fields := make([]string, len(p.names))
	for i, name := range p.names {
		fields[i] = name + ": " + p.fields[name]
	}
	return "{" + strings.Join(fields, ", ") + "}"
}

// identities names the members that identify the elements of each list of keyed parts.
var identities = map[string][]string{
	"meters": {"key"}, "plans": {"key"}, "flags": {"key"}, "limits": {"key"}, "prices": {"key"},
	"costs": {"provider", "model", "from"},
}

func outline(c Catalog) outlined {
	root, err := readJSON(c.Canonical())
	if err != nil {
		panic(fmt.Sprintf("catalog: the canonical form is not JSON: %v", err))
	}
	o := outlined{map[string]part{}, map[string][]string{}}
	o.visit("", root, nil)
	return o
}

// visit adds one part and the parts in it. Deeper levels have no keyed parts.
func (o outlined) visit(path string, n node, identity []string) {
	p := part{fields: map[string]string{}}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i].Value, n.Content[i+1]
		if of, keyed := identities[name]; keyed {
			list := strings.TrimPrefix(path+"/"+name, "/")
			for _, e := range value.Content {
				key := keyOf(e, of)
				o.orders[list] = append(o.orders[list], key)
				o.visit(list+"/"+key, e, of)
			}
		} else if !slices.Contains(identity, name) {
			p.names = append(p.names, name)
			p.fields[name] = short(value)
		}
	}
	if path != "" {
		o.parts[path] = p
	}
}

// keyOf joins the values that identify an element to the tail of its path.
func keyOf(n node, identity []string) string {
	values := make([]string, 0, len(identity))
	for i := 0; i+1 < len(n.Content); i += 2 {
		if slices.Contains(identity, n.Content[i].Value) {
			values = append(values, invalid.Token(n.Content[i+1].Value))
		}
	}
	return strings.Join(values, "/")
}

// short is a value in the catalog's short form. Different values have different texts.
func short(n node) string {
	var parts []string
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			parts = append(parts, short(n.Content[i])+": "+short(n.Content[i+1]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case yaml.SequenceNode:
		for _, e := range n.Content {
			parts = append(parts, short(e))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	if n.ShortTag() == tagText && ambiguous(n.Value) {
		return string(appendQuoted(nil, n.Value))
	}
	return n.Value
}

// ambiguous reports whether a text without quotes could be mistaken for another value.
func ambiguous(s string) bool {
	if s == "" || s == "true" || s == "false" || s == "null" || strings.TrimSpace(s) != s || strings.ContainsAny(s, `,:{}[]"`) {
		return true
	}
	if _, err := money.ParseNumber(s); err == nil {
		return true
	}
	return strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// common joins two lists of keys, each without the keys that the other does not have.
func common(old, new []string) (before, after string) { //nolint:predeclared // as in Diff
	without := func(keys, other []string) string {
		return strings.Join(slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return !slices.Contains(other, k) }), ", ")
	}
	return without(old, new), without(new, old)
}

// union is the keys of both maps, sorted.
func union[V any](a, b map[string]V) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}
