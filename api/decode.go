package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
)

// decoder reads JSON objects strictly and without reflection. It collects every broken rule instead of stopping at the
// first. One decoder serves one request at a time.
type decoder struct {
	json   jsontext.Decoder
	source bytes.Buffer
	text   []byte // of an unquoted string
	bad    invalid.List
	code   string // of most broken rules
	count  int
	seen   map[string]bool // names of extension attributes
}

var decoders = sync.Pool{New: func() any { return new(decoder) }}

// The tokenizer checks the grammar only. Names are compared here, and strings are checked where they are used, so that one
// bad member does not hide the others.
var grammarOnly = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// refuse notes a broken rule that has no code of its own.
func (d *decoder) refuse(pointer, detail string) { d.note(pointer, d.code, detail) }

func (d *decoder) note(pointer, code, detail string) {
	if d.count++; d.count <= maxErrors {
		d.bad.Add(pointer, code, detail)
	}
}

func (d *decoder) noteAll(err error) {
	var e *invalid.Error
	if errors.As(err, &e) {
		for _, f := range e.Fields {
			d.note(f.Pointer, f.Code, f.Detail)
		}
	}
}

// begin forgets what an interrupted use may have left. The code is that of most broken rules.
func (d *decoder) begin(code string) { d.bad, d.code, d.count, d.seen = invalid.List{}, code, 0, nil }

// release gives the decoder back without what it read last: a small decoder must not keep a large body alive.
func (d *decoder) release() {
	d.source = bytes.Buffer{}
	d.json.Reset(nothing)
	decoders.Put(d)
}

var nothing = strings.NewReader("")

// take returns what was noted, and forgets it.
func (d *decoder) take() error {
	err := d.bad.Err()
	d.bad, d.count = invalid.List{}, 0
	return err
}

// object reads one JSON object that is the whole of raw. The value of names[i] is values[i], nil where it is absent.
// Other names are refused, or handed to extension where there is one. The error is not nil where the rest cannot be
// understood.
func (d *decoder) object(raw []byte, pointer string, names []string, values []jsontext.Value, extension func(name string, quoted, v jsontext.Value)) error {
	clear(values)
	d.source = *bytes.NewBuffer(raw)
	d.json.Reset(&d.source, grammarOnly...)
	switch d.json.PeekKind() {
	case '{':
	case 0:
		_, err := d.json.ReadToken()
		return syntaxError(pointer, err)
	default:
		return invalid.New(pointer, d.code, "must be a JSON object")
	}
	if _, err := d.json.ReadToken(); err != nil {
		return syntaxError(pointer, err)
	}
	for d.json.PeekKind() != '}' {
		quoted, err := d.json.ReadValue()
		if err != nil {
			return syntaxError(pointer, err)
		}
		end := d.json.InputOffset()
		quoted = raw[end-int64(len(quoted)) : end] // outlives the next read
		i := indexOf(names, quoted)
		var name string
		if i < 0 {
			name = d.nameOf(quoted)
			i = indexOfText(names, name) // written with escapes
		}
		value, err := d.json.ReadValue()
		if err != nil {
			return syntaxError(pointer, err)
		}
		end = d.json.InputOffset()
		value = raw[end-int64(len(value)) : end]
		switch {
		case i >= 0 && values[i] != nil:
			d.refuse(pointer+"/"+names[i], names[i]+" occurs more than once")
		case i >= 0:
			values[i] = value
		case extension != nil:
			extension(name, quoted, value)
		default:
			d.noteUnknown(pointer, name, names)
		}
	}
	if _, err := d.json.ReadToken(); err != nil {
		return syntaxError(pointer, err)
	}
	switch _, err := d.json.ReadToken(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return syntaxError(pointer, err)
	default:
		return invalid.New(pointer, codeInvalidJSON, "there is more after the JSON object")
	}
}

// indexOf finds a name by its quoted form, which nearly every sender writes without escapes.
func indexOf(names []string, quoted []byte) int {
	for i, name := range names {
		if len(quoted) == len(name)+2 && string(quoted[1:len(quoted)-1]) == name {
			return i
		}
	}
	return -1
}

func indexOfText(names []string, text string) int {
	for i, name := range names {
		if name == text {
			return i
		}
	}
	return -1
}

func (d *decoder) nameOf(quoted []byte) string {
	d.text, _ = jsontext.AppendUnquote(d.text[:0], quoted) // a broken name is unknown in any case
	return string(d.text)
}

func (d *decoder) noteUnknown(pointer, name string, names []string) {
	shown := clip(name, 100)
	at := pointer + "/" + invalid.Token(shown)
	for _, n := range names {
		if strings.EqualFold(n, name) {
			d.refuse(at, fmt.Sprintf("%q is unknown; names are case-sensitive, this one is %s", shown, n))
			return
		}
	}
	d.refuse(at, fmt.Sprintf("%q is unknown; the known names are %s", shown, strings.Join(names, ", ")))
}

func syntaxError(pointer string, err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid.New(pointer, codeInvalidJSON, "the JSON text ends early")
	case errors.Is(err, io.EOF):
		return invalid.New(pointer, codeInvalidJSON, "there is no JSON text")
	default:
		return invalid.New(pointer, codeInvalidJSON, clip(strings.TrimPrefix(err.Error(), "jsontext: "), 200))
	}
}

// texts reads an object whose values are strings.
func (d *decoder) texts(v jsontext.Value, pointer string) (texts map[string]string) {
	if err := jsonv2.Unmarshal(v, &texts); err != nil {
		d.refuse(pointer, "must be an object of strings, each name once")
		return nil
	}
	return texts
}

// str reads a string. It notes what is wrong with it; NUL is refused everywhere, because no store keeps it.
func (d *decoder) str(v jsontext.Value, pointer string) (string, bool) {
	if v.Kind() != '"' {
		d.refuse(pointer, "must be a string")
		return "", false
	}
	inner := v[1 : len(v)-1]
	if bytes.IndexByte(inner, '\\') >= 0 {
		var err error
		if d.text, err = jsontext.AppendUnquote(d.text[:0], v); err != nil {
			d.note(pointer, codeInvalidJSON, "the string has a lone surrogate or is not valid UTF-8")
			return "", false
		}
		inner = d.text
	} else if !utf8.Valid(inner) {
		d.note(pointer, codeInvalidJSON, "the string is not valid UTF-8")
		return "", false
	}
	if bytes.IndexByte(inner, 0) >= 0 {
		d.refuse(pointer, "must not contain NUL")
		return "", false
	}
	return string(inner), true
}

func absent(v jsontext.Value) bool { return v == nil }

// absentOrNull is for members where null says nothing, as tenantId and data.
func absentOrNull(v jsontext.Value) bool { return v == nil || v.Kind() == 'n' }

// quantity reads a JSON number or a decimal string. Its sign is checked with the other rules.
func (d *decoder) quantity(v jsontext.Value, pointer string) money.Decimal {
	return d.decimal(v, pointer, "quantity")
}

func (d *decoder) decimal(v jsontext.Value, pointer, name string) money.Decimal {
	var text string
	switch v.Kind() {
	case '0':
		text = string(v)
	case '"':
		var ok bool
		if text, ok = d.str(v, pointer); !ok {
			return money.Decimal{}
		}
	default:
		d.refuse(pointer, name+" must be a number or a decimal string")
		return money.Decimal{}
	}
	q, err := money.ParseQuantity(text)
	switch {
	case errors.Is(err, money.ErrRange):
		d.refuse(pointer, fmt.Sprintf("%s has %s", name, money.ErrRange))
	case err != nil:
		d.refuse(pointer, name+" must be a number or a decimal string")
	}
	return q
}

// instant reads an RFC 3339 time.
func (d *decoder) instant(v jsontext.Value, pointer, name string) time.Time {
	text, ok := d.str(v, pointer)
	if !ok {
		return time.Time{}
	}
	t, ok := parseTime(text)
	if !ok {
		d.refuse(pointer, name+" must be an RFC 3339 time with offset, such as 2026-04-05T10:30:00.000Z")
	}
	return t
}

func (d *decoder) data(v jsontext.Value, pointer string) event.Data {
	if absentOrNull(v) {
		return event.Data{}
	}
	data, err := event.ParseData(v, pointer)
	d.noteAll(err)
	return data
}

// parseTime is RFC 3339 to the letter: upper-case T and Z, an offset, no leap second, any number of fraction digits up to
// the nanosecond. time.Parse accepts more (a comma, one digit for the hour).
func parseTime(s string) (time.Time, bool) {
	const shape = "0000-00-00T00:00:00"
	if len(s) < len(shape)+1 || len(s) > 40 {
		return time.Time{}, false
	}
	for i := range len(shape) {
		if c := shape[i]; c == '0' && !isDigit(s[i]) || c != '0' && s[i] != c {
			return time.Time{}, false
		}
	}
	year, month, day := number(s[0:4]), number(s[5:7]), number(s[8:10])
	hour, minute, second := number(s[11:13]), number(s[14:16]), number(s[17:19])
	rest, nanos := s[len(shape):], 0
	if rest[0] == '.' {
		n := 1
		for n < len(rest) && isDigit(rest[n]) {
			n++
		}
		if n == 1 || n > 10 {
			return time.Time{}, false
		}
		nanos = number(rest[1:n])
		for range 10 - n {
			nanos *= 10
		}
		rest = rest[n:]
	}
	offset := 0
	switch {
	case rest == "Z":
	case len(rest) == 6 && (rest[0] == '+' || rest[0] == '-') && rest[3] == ':' &&
		isDigit(rest[1]) && isDigit(rest[2]) && isDigit(rest[4]) && isDigit(rest[5]):
		h, m := number(rest[1:3]), number(rest[4:6])
		if h > 23 || m > 59 {
			return time.Time{}, false
		}
		if offset = h*3600 + m*60; rest[0] == '-' {
			offset = -offset
		}
	default:
		return time.Time{}, false
	}
	if month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC)
	if t.Day() != day { // 31 April
		return time.Time{}, false
	}
	return t.Add(-time.Duration(offset) * time.Second), true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func number(digits string) int {
	n := 0
	for i := range len(digits) {
		n = n*10 + int(digits[i]-'0')
	}
	return n
}

var eventNames = []string{"tenantId", "eventType", "quantity", "sourceId", "occurredAt", "data"}

// event reads a usage event in our own form. Tenant is what the event itself says, "" for nothing. The submission is filled
// as far as it could be read, also with an error: an *invalid.Error with every broken rule, pointers starting with pointer.
func (d *decoder) event(raw []byte, pointer string, now time.Time, into *app.Submission) error {
	*into = app.Submission{}
	d.begin(codeInvalidEvent)
	var v [6]jsontext.Value
	if err := d.object(raw, pointer, eventNames, v[:], nil); err != nil {
		d.noteAll(err)
		return d.take()
	}
	d.members(&v, pointer, into)
	if d.count == 0 {
		return nil
	}
	d.addRules(pointer, now, into, nil)
	return d.take()
}

// members reads what events and checks have in common.
func (d *decoder) members(v *[6]jsontext.Value, pointer string, into *app.Submission) {
	if !absentOrNull(v[0]) {
		text, _ := d.str(v[0], pointer+"/tenantId")
		if into.Tenant = event.TenantID(text); text == "" && d.count == 0 {
			d.refuse(pointer+"/tenantId", "tenantId must not be empty; leave it out where the key or a header names the tenant")
		}
	}
	if !absent(v[1]) {
		text, _ := d.str(v[1], pointer+"/eventType")
		into.Type = event.Type(text)
	}
	if into.Quantity = one; !absent(v[2]) {
		into.Quantity = d.quantity(v[2], pointer+"/quantity")
	}
	if !absent(v[3]) {
		text, _ := d.str(v[3], pointer+"/sourceId")
		into.Source = event.SourceID(text)
	}
	if !absent(v[4]) {
		into.OccurredAt = event.Instant(d.instant(v[4], pointer+"/occurredAt", "occurredAt"))
	}
	into.Data = d.data(v[5], pointer+"/data")
}

var checkNames = append(slices.Clone(eventNames), "hold", "upTo", "dryRun")

// check reads an intended usage event: what event reads, and what is wanted of the decision. When it will occur is of no importance, so
// that an event can be sent as it is; only what is no time at all is refused. Errors are those of event.
func (d *decoder) check(raw []byte, pointer string, now time.Time, into *limit.Ask) error {
	*into = limit.Ask{}
	d.begin(codeInvalidEvent)
	var v [9]jsontext.Value
	if err := d.object(raw, pointer, checkNames, v[:], nil); err != nil {
		d.noteAll(err)
		return d.take()
	}
	if v[4].Kind() == 'n' {
		v[4] = nil
	}
	var s app.Submission
	d.members((*[6]jsontext.Value)(v[:6]), pointer, &s)
	into.Check = event.Check{Identity: s.Identity, Quantity: s.Quantity, Data: s.Data}
	d.hold(v[6], pointer+"/hold", into)
	into.UpTo = d.flag(v[7], pointer, "upTo")
	into.DryRun = d.flag(v[8], pointer, "dryRun")
	if d.count == 0 {
		return nil
	}
	s.OccurredAt = now
	d.addRules(pointer, now, &s, nil)
	return d.take()
}

// hold reads what a check wants to be kept: true, null and {} say nothing that is not the default.
func (d *decoder) hold(v jsontext.Value, pointer string, into *limit.Ask) {
	switch {
	case absentOrNull(v) || v.Kind() == 't':
	case v.Kind() == 'f':
		into.NoHold = true
	case v.Kind() == '{':
		var member [1]jsontext.Value
		if err := d.object(v, pointer, []string{"ttl"}, member[:], nil); err != nil {
			d.noteAll(err)
			return
		}
		if absentOrNull(member[0]) {
			return
		}
		text, ok := d.str(member[0], pointer+"/ttl")
		if !ok {
			return
		}
		ttl, err := catalog.ParseDuration(text)
		if into.TTL = ttl.Value(); err != nil || into.TTL < limit.MinTTL || into.TTL > limit.MaxTTL {
			d.refuse(pointer+"/ttl", fmt.Sprintf("ttl must be a duration from %s to %dd, such as 90s, 15m or 1h30m",
				limit.MinTTL, int(limit.MaxTTL.Hours()/24)))
		}
	default:
		d.refuse(pointer, `hold must be {"ttl":"15m"}, or false to keep nothing`)
	}
}

// flag reads a member that is true or false; false where it is absent.
func (d *decoder) flag(v jsontext.Value, pointer, name string) bool {
	if !absent(v) && v.Kind() != 't' && v.Kind() != 'f' {
		d.refuse(pointer+"/"+name, name+" must be true or false")
	}
	return !absent(v) && v.Kind() == 't'
}

var one = money.Int(1)

// addRules completes the list of a refused event with the rules of the domain, so that the sender sees all at once. A
// member that was refused already is not refused twice.
func (d *decoder) addRules(pointer string, now time.Time, s *app.Submission, rename map[string]string) {
	var noted *invalid.Error
	if !errors.As(d.bad.Err(), &noted) {
		return
	}
	u := s.Usage
	if u.Tenant == "" {
		u.Tenant = "-" // may still be named elsewhere
	}
	var more *invalid.Error
	if !errors.As(u.Check(now), &more) {
		return
	}
	for _, f := range more.Fields {
		if renamed, ok := rename[f.Pointer]; ok {
			f.Pointer = renamed
		}
		f.Pointer = pointer + f.Pointer
		known := false
		for _, n := range noted.Fields {
			known = known || n.Pointer == f.Pointer
		}
		if !known {
			d.note(f.Pointer, f.Code, f.Detail)
		}
	}
}

// strings reads an array of strings.
func (d *decoder) strings(v jsontext.Value, pointer string) []string {
	if v.Kind() != '[' {
		d.refuse(pointer, "must be an array of strings")
		return nil
	}
	elements, err := splitArray(v, 1000)
	if err != nil {
		d.refuse(pointer, "must be an array of at most 1000 strings")
		return nil
	}
	texts := make([]string, len(elements))
	for i, e := range elements {
		texts[i], _ = d.str(e, pointer+"/"+strconv.Itoa(i))
	}
	return texts
}

const outOfYears = " must be between the years 1970 and 9999"

// date reads a date without a time, as if it were in UTC; ok is false for anything else.
func (d *decoder) date(v jsontext.Value, pointer, name string) (date time.Time, ok bool) {
	if len(v) != len(`"2006-01-02"`) || v[0] != '"' {
		return date, false
	}
	if date, ok = parseTime(string(v[1:len(v)-1]) + "T00:00:00Z"); ok && date.Year() < 1970 {
		d.refuse(pointer, name+outOfYears)
	}
	return date, ok
}

// optionalInstant reads an RFC 3339 time between the years 1970 and 9999. Absent and null are the zero time, which is outside of
// them.
func (d *decoder) optionalInstant(v jsontext.Value, pointer, name string) time.Time {
	if absentOrNull(v) {
		return time.Time{}
	}
	noted := d.count
	t := d.instant(v, pointer, name)
	if y := t.UTC().Year(); d.count == noted && (y < 1970 || y > 9999) {
		d.refuse(pointer, name+outOfYears)
	}
	return t
}

// money reads an amount: a number, a decimal string, or an object that names the currency too.
func (d *decoder) money(v jsontext.Value, pointer string) (amount money.Decimal, currency string) {
	if absent(v) {
		d.refuse(pointer, "amount is required")
		return amount, ""
	}
	if v.Kind() != '{' {
		return d.decimal(v, pointer, "amount"), ""
	}
	members := make([]jsontext.Value, 2)
	if err := d.object(v, pointer, []string{"amount", "currency"}, members, nil); err != nil {
		d.noteAll(err)
		return amount, ""
	}
	if absent(members[0]) || absent(members[1]) {
		d.refuse(pointer, "an amount of money has amount and currency")
		return amount, ""
	}
	currency, _ = d.str(members[1], pointer+"/currency")
	return d.decimal(members[0], pointer+"/amount", "amount"), currency
}
