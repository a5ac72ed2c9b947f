package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"golang.org/x/text/unicode/norm"

	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

// maxProblems bounds the number of problems that are listed.
const maxProblems = 100

// decoder interprets a tree and notes every problem, not only the first, so that a catalog can be fixed in one go. After a problem
// it continues with zero values, which are never used.
type decoder struct {
	problems invalid.List
	noted    int

	// What limits and prices may refer to. Meters are read first. Broken ones are included, so that a mistake is reported only
	// once.
	meters     map[MeterKey]Meter
	eventTypes map[string]bool
}

func newDecoder() *decoder {
	return &decoder{meters: map[MeterKey]Meter{}, eventTypes: map[string]bool{}}
}

func (d *decoder) refuse(at, code, format string, args ...any) {
	d.noted++
	switch {
	case d.noted < maxProblems:
		d.problems.Add(at, code, fmt.Sprintf(format, args...))
	case d.noted == maxProblems:
		d.problems.Add("", "too_many", "there are more problems; fix these first")
	}
}

func (d *decoder) err() error { return d.problems.Err() }

// unique remembers the keys of one list.
type unique map[string]bool

// object is a mapping and the pointer to it. If the node is not a mapping, members is nil: that problem is noted already, and
// reads note no more.
type object struct {
	d       *decoder
	at      string
	names   []string // in the order of the text, which is the order of problems too
	members map[string]node
}

func (d *decoder) object(n node, at string) object {
	if n.Kind != yaml.MappingNode {
		d.refuse(at, "wrong_type", "must be a mapping of keys to values")
		return object{d: d, at: at}
	}
	o := object{d: d, at: at, members: make(map[string]node, len(n.Content)/2)}
	for i := 0; i+1 < len(n.Content); i += 2 {
		o.names = append(o.names, n.Content[i].Value)
		o.members[n.Content[i].Value] = n.Content[i+1]
	}
	return o
}

func (o object) has(name string) bool { return o.members[name] != nil }

func (o object) refuse(name, code, format string, args ...any) {
	o.d.refuse(member(o.at, name), code, format, args...)
}

// shape lists the members that an object may have.
type shape struct{ required, optional []string }

// with is the shape with more required members in front.
func (s shape) with(required ...string) shape {
	return shape{append(required, s.required...), s.optional}
}

func (s shape) all() []string { return slices.Concat(s.required, s.optional) }

// only refuses members that are not in the shape, and notes required ones that are missing.
func (o object) only(what string, s shape) {
	if o.members == nil {
		return
	}
	all := s.all()
	for _, name := range o.names {
		if slices.Contains(all, name) {
			continue
		}
		for _, known := range all {
			if strings.EqualFold(known, name) {
				o.refuse(name, "unknown_key", "%s has no key %s; it is written %s", what, quoted(name), known)
			}
		}
		if !slices.ContainsFunc(all, func(known string) bool { return strings.EqualFold(known, name) }) {
			o.refuse(name, "unknown_key", "%s has no key %s; it has %s", what, quoted(name), strings.Join(all, ", "))
		}
	}
	for _, name := range s.required {
		o.need(name, what)
	}
}

// need notes that a member is missing.
func (o object) need(name, what string) {
	if o.members != nil && !o.has(name) {
		o.refuse(name, "missing", "%s needs %s", what, name)
	}
}

// choose notes that the member which selects a shape is missing or unknown.
func (o object) choose(name, what string, of []string) {
	switch {
	case o.members == nil:
	case !o.has(name):
		o.refuse(name, "missing", "%s needs %s: one of %s", what, name, strings.Join(of, ", "))
	case o.members[name].Kind == yaml.ScalarNode:
		o.oneOf(name, of...)
	}
}

// kindNames lists the names of shapes in alphabetical order.
func kindNames[K ~string](of map[K]shape) []string {
	names := make([]string, 0, len(of))
	for k := range of {
		names = append(names, string(k))
	}
	slices.Sort(names)
	return names
}

// each visits the elements of a list.
func (o object) each(name string, visit func(n node, at string)) {
	n := o.members[name]
	switch {
	case n == nil:
	case n.Kind != yaml.SequenceNode:
		o.refuse(name, "wrong_type", "must be a list")
	default:
		for i, e := range n.Content {
			visit(e, element(member(o.at, name), i))
		}
	}
}

// text reads a text: quoted, or plain if YAML reads it as text. A plain number or date is refused, since other readers would not
// keep its spelling.
func (o object) text(name string) string {
	n := o.members[name]
	if n == nil {
		return ""
	}
	return o.d.text(n, member(o.at, name))
}

func (d *decoder) text(n node, at string) string {
	switch {
	case n.Kind != yaml.ScalarNode:
		d.refuse(at, "wrong_type", "must be text")
	case n.ShortTag() != tagText:
		d.refuse(at, "wrong_type", "must be text; write %s in quotes", quoted(n.Value))
	default:
		return n.Value
	}
	return ""
}

// texts reads a list of distinct texts. check returns the problem of a text or ""; the problem gets the given code.
func (o object) texts(name, code string, check func(string) string) []string {
	var all []string
	o.each(name, func(n node, at string) {
		noted := o.d.noted
		t := o.d.text(n, at)
		switch problem := check(t); {
		case o.d.noted > noted: // not text
		case problem != "":
			o.d.refuse(at, code, "%s", problem)
		case slices.Contains(all, t):
			o.d.refuse(at, "duplicate", "%s is listed twice", quoted(t))
		default:
			all = append(all, t)
		}
	})
	return all
}

// some notes that a list is present but empty.
func (o object) some(name string) {
	if n := o.members[name]; n != nil && n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		o.refuse(name, "out_of_range", "must not be empty")
	}
}

// key reads a key of the catalog that is unique in its list.
func (o object) key(name string, seen unique) string {
	if !o.has(name) {
		return ""
	}
	noted := o.d.noted
	k := o.text(name)
	switch {
	case o.d.noted > noted: // not text
	case !wellFormedKey(k):
		o.refuse(name, "malformed", "%s is not a key: 1-64 characters of a-z, 0-9, _, . and -, the first one a letter", quoted(k))
	case seen[k]:
		o.refuse(name, "duplicate", "%s is already taken in this list", quoted(k))
	}
	seen[k] = true
	return k
}

func wellFormedKey(k string) bool {
	if len(k) < 1 || len(k) > 64 || k[0] < 'a' || k[0] > 'z' {
		return false
	}
	for i := range len(k) {
		c := k[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// readable reads a text of 1-200 printable characters.
func (o object) readable(name string) string {
	if !o.has(name) {
		return ""
	}
	noted := o.d.noted
	t := o.text(name)
	if problem := unreadable(t); problem != "" && o.d.noted == noted {
		o.refuse(name, "malformed", "%s", problem)
	}
	return t
}

// unreadable is the problem of a text that is not 1-200 printable characters in Unicode normalisation form C; "" if there is none.
// The ids and types of events have the same rule: another spelling here would match no event.
func unreadable(t string) string {
	if n := utf8.RuneCountInString(t); n < 1 || n > 200 {
		return fmt.Sprintf("must have 1-200 characters, not %d", n)
	}
	for _, r := range t {
		if !unicode.IsPrint(r) {
			return fmt.Sprintf("has the unprintable character %U", r)
		}
	}
	if !norm.NFC.IsNormalString(t) {
		return "must be in Unicode normalisation form C"
	}
	return ""
}

// malformedField is why a text cannot name a top-level data field; "" if it can.
func malformedField(t string) string {
	ok := len(t) >= 1 && len(t) <= 64
	for i := range len(t) {
		c := t[i]
		letter := (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'
		ok = ok && (letter || (i > 0 && (c == '-' || (c >= '0' && c <= '9'))))
	}
	if !ok {
		return quoted(t) + " is not a field name: 1-64 letters, digits, _ and -, the first one a letter or _"
	}
	return ""
}

// dataField reads the name of a top-level data field.
func (o object) dataField(name string) string {
	if !o.has(name) {
		return ""
	}
	noted := o.d.noted
	t := o.text(name)
	if problem := malformedField(t); problem != "" && o.d.noted == noted {
		o.refuse(name, "malformed", "%s", problem)
	}
	return t
}

// oneOf reads a text that must be one of a few.
func (o object) oneOf(name string, of ...string) string {
	if !o.has(name) {
		return ""
	}
	noted := o.d.noted
	t := o.text(name)
	if !slices.Contains(of, t) && o.d.noted == noted {
		o.refuse(name, "not_allowed", "%s is not one of %s", quoted(t), strings.Join(of, ", "))
	}
	return t
}

func (o object) boolean(name string) bool {
	n := o.members[name]
	if n == nil {
		return false
	}
	value, ok := truth(n)
	if !ok {
		o.refuse(name, "wrong_type", "must be true or false")
	}
	return value
}

// truth is the boolean of a node. It does not accept YAML's True and TRUE, which JSON does not have.
func truth(n node) (value, ok bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != tagBool || (n.Value != "true" && n.Value != "false") {
		return false, false
	}
	return n.Value == "true", true
}

// decimal reads a number or a decimal string. ok is false if it is missing, or wrong, which is then noted.
func (o object) decimal(name string) (value money.Decimal, ok bool) {
	n := o.members[name]
	if n == nil {
		return money.Decimal{}, false
	}
	if n.Kind != yaml.ScalarNode || !slices.Contains([]string{tagText, tagInt, tagFloat}, n.ShortTag()) {
		o.refuse(name, "wrong_type", "must be a number or a decimal string")
		return money.Decimal{}, false
	}
	value, err := money.ParseQuantity(n.Value)
	switch {
	case errors.Is(err, money.ErrRange):
		o.refuse(name, "out_of_range", "%s has %s", quoted(n.Value), money.ErrRange)
	case err != nil:
		o.refuse(name, "malformed", "%s is not a decimal number", quoted(n.Value))
	}
	return value, err == nil
}

// positive reads a number that must be more than 0.
func (o object) positive(name string) money.Decimal {
	value, ok := o.decimal(name)
	if ok && value.Sign() <= 0 {
		o.refuse(name, "out_of_range", "must be more than 0")
	}
	return value
}

// notNegative reads a number that must be at least 0.
func (o object) notNegative(name string) money.Decimal {
	value, ok := o.decimal(name)
	if ok && value.Sign() < 0 {
		o.refuse(name, "out_of_range", "must be at least 0")
	}
	return value
}

// count reads a whole number from lowest to maxCount.
func (o object) count(name string, lowest int64) int64 {
	value, ok := o.decimal(name)
	if !ok {
		return 0
	}
	n, scale, whole := value.Coefficient()
	if !whole || scale > 0 || n < lowest || n > maxCount {
		o.refuse(name, "out_of_range", "must be a whole number from %d to %d", lowest, maxCount)
		return 0
	}
	return n
}

// duration reads a duration within bounds.
func (o object) duration(name string, shortest, longest time.Duration) Duration {
	if !o.has(name) {
		return Duration{}
	}
	noted := o.d.noted
	t := o.text(name)
	if o.d.noted > noted {
		return Duration{}
	}
	value, err := ParseDuration(t)
	switch {
	case err != nil:
		o.refuse(name, "malformed", "%s is %s", quoted(t), ErrDuration)
	case value.value < shortest || value.value > longest:
		o.refuse(name, "out_of_range", "must be from %s to %s", shortest, longest)
	}
	return value
}

// meter reads the key of a meter of this catalog.
func (o object) meter(name string) MeterKey {
	if !o.has(name) {
		return ""
	}
	noted := o.d.noted
	key := MeterKey(o.text(name))
	if _, known := o.d.meters[key]; !known && o.d.noted == noted {
		o.refuse(name, "unknown_reference", "there is no meter %s", quoted(string(key)))
	}
	return key
}

// meteredTypes reads event types. Some meter must count each of them: events of other types can never be recorded.
func (o object) meteredTypes(name string) []string {
	o.some(name)
	return o.texts(name, "unknown_reference", func(t string) string {
		if !o.d.eventTypes[t] {
			return fmt.Sprintf("no meter counts the event type %s", quoted(t))
		}
		return ""
	})
}
