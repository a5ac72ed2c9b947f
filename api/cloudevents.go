package api

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

// CloudEvents 1.0: the attributes that mean something here, in the order of attributes.
const (
	ceSpecVersion = iota
	ceID
	ceSource
	ceType
	ceSubject
	ceTime
	ceDataContentType
	ceDataSchema
	ceTraceParent
	ceData
	ceDataBase64
	ceCount
)

var attributes = []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "traceparent", "data", "data_base64"}

const (
	maxEmitter    = 1000 // characters
	maxExtensions = 64
)

// cloudNames is where a CloudEvent says what an event of our own form says.
var cloudNames = map[string]string{
	"/tenantId": "/subject", "/eventType": "/type", "/sourceId": "/id", "/quantity": "/data/quantity", "/occurredAt": "/time",
}

// asCloudEvent moves the pointers of an error into the CloudEvent that was sent.
func asCloudEvent(bad *invalid.Error) *invalid.Error {
	moved := &invalid.Error{Fields: slices.Clone(bad.Fields)}
	for i, f := range moved.Fields {
		if p, ok := cloudNames[f.Pointer]; ok {
			moved.Fields[i].Pointer = p
		}
	}
	return moved
}

// inCloudEvent moves the pointers of what the ledger says about an event.
func inCloudEvent(err error) error {
	var bad *invalid.Error
	var differs *app.SourceConflictError
	switch {
	case errors.As(err, &bad):
		return asCloudEvent(bad)
	case errors.As(err, &differs):
		moved := &app.SourceConflictError{Fields: slices.Clone(differs.Fields)}
		for i, f := range moved.Fields {
			if p, ok := cloudNames[f]; ok {
				moved.Fields[i] = p
			}
		}
		return moved
	}
	return err
}

// cloudEvent reads a CloudEvent in the JSON format. Null says that an attribute is not set.
func (d *decoder) cloudEvent(raw []byte, pointer string, now time.Time, into *app.Submission) error {
	*into = app.Submission{}
	d.begin(codeInvalidEvent)
	var v [ceCount]jsontext.Value
	extension := func(name string, _, _ jsontext.Value) { d.extension(pointer, name) }
	if err := d.object(raw, pointer, attributes, v[:], extension); err != nil {
		d.noteAll(err)
		return d.take()
	}
	var text [ceData]string
	for i := range text {
		if !absentOrNull(v[i]) {
			text[i], _ = d.str(v[i], pointer+"/"+attributes[i])
		}
	}
	data := v[ceData]
	if !absentOrNull(v[ceDataBase64]) {
		encoded, _ := d.str(v[ceDataBase64], pointer+"/data_base64")
		decoded, err := base64.StdEncoding.DecodeString(encoded)
		switch {
		case !absentOrNull(data):
			d.refuse(pointer+"/data_base64", "data and data_base64 exclude each other")
		case err != nil:
			d.refuse(pointer+"/data_base64", "data_base64 is not base 64")
		default:
			data = decoded
		}
	}
	d.attributes(&text, data, pointer, into)
	if d.count == 0 {
		return nil
	}
	d.addRules(pointer, now, into, cloudNames)
	return d.take()
}

// binaryEvent reads a CloudEvent in the binary mode of the HTTP binding: attributes in ce-* headers, data in the body.
func (d *decoder) binaryEvent(h http.Header, body []byte, now time.Time, into *app.Submission) error {
	*into = app.Submission{}
	d.begin(codeInvalidEvent)
	var text [ceData]string
	for key, values := range h {
		name, ok := strings.CutPrefix(key, "Ce-")
		if !ok {
			continue
		}
		name = strings.ToLower(name)
		if len(values) != 1 {
			d.refuse("/"+clip(name, 100), "the header ce-"+clip(name, 100)+" occurs more than once")
			continue
		}
		i := indexOfText(attributes[:ceData], name)
		if i < 0 {
			d.extension("", name)
			continue
		}
		value, err := headerValue(values[0])
		if err != nil {
			d.refuse("/"+name, "the header ce-"+name+" "+err.Error())
			continue
		}
		text[i] = value
	}
	d.attributes(&text, body, "", into)
	if d.count == 0 {
		return nil
	}
	d.addRules("", now, into, cloudNames)
	return d.take()
}

// headerValue decodes an attribute as the HTTP binding encodes it: perhaps in double quotes, then percent-encoded.
func headerValue(s string) (string, error) {
	s = strings.TrimSpace(s)
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		var b strings.Builder
		for i := 1; i < len(s)-1; i++ {
			if s[i] == '\\' && i < len(s)-2 {
				i++
			}
			b.WriteByte(s[i])
		}
		s = b.String()
	}
	decoded, err := url.PathUnescape(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("is not percent-encoded correctly; a percent sign is written %%25")
	case !utf8.ValidString(decoded):
		return "", fmt.Errorf("is not valid UTF-8")
	case strings.IndexByte(decoded, 0) >= 0:
		return "", fmt.Errorf("must not contain NUL")
	default:
		return decoded, nil
	}
}

// extension accepts an attribute that CloudEvents does not define, under the names that CloudEvents allows.
func (d *decoder) extension(pointer, name string) {
	shown := clip(name, 100)
	at := pointer + "/" + invalid.Token(shown)
	switch {
	case name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") != "":
		d.refuse(at, fmt.Sprintf("%q cannot be an attribute: names have lower-case letters and digits only", shown))
	case d.seen[name]:
		d.refuse(at, shown+" occurs more than once")
	case len(d.seen) >= maxExtensions:
		d.refuse(at, fmt.Sprintf("there are more than %d extension attributes", maxExtensions))
	default:
		if d.seen == nil {
			d.seen = map[string]bool{}
		}
		d.seen[name] = true
	}
}

// attributes fills the submission from what both modes have in common.
func (d *decoder) attributes(text *[ceData]string, data []byte, pointer string, into *app.Submission) {
	if text[ceSpecVersion] != "1.0" {
		d.refuse(pointer+"/specversion", `specversion must be "1.0"`)
	}
	into.Source = event.SourceID(text[ceID])
	into.Type = event.Type(text[ceType])
	into.Tenant = event.TenantID(text[ceSubject])
	into.Emitter = text[ceSource]
	switch n := utf8.RuneCountInString(into.Emitter); {
	case n == 0:
		d.refuse(pointer+"/source", "source is required")
	case n > maxEmitter || strings.ContainsFunc(into.Emitter, func(r rune) bool { return !unicode.IsPrint(r) }):
		d.refuse(pointer+"/source", fmt.Sprintf("source must have at most %d printable characters", maxEmitter))
	}
	if text[ceTime] != "" {
		t, ok := parseTime(text[ceTime])
		if !ok {
			d.refuse(pointer+"/time", "time must be an RFC 3339 time with offset, such as 2026-04-05T10:30:00.000Z")
		}
		into.OccurredAt = event.Instant(t)
	}
	if isTraceParent(text[ceTraceParent]) {
		into.TraceParent = text[ceTraceParent]
	}
	if t := text[ceDataContentType]; t != "" && !isJSON(t) {
		d.refuse(pointer+"/datacontenttype", "datacontenttype must be JSON")
		return
	}
	if into.Quantity = one; len(data) == 0 || absentOrNull(data) {
		return
	}
	quantity, rest, err := d.splitQuantity(data, pointer+"/data")
	if err != nil {
		d.noteAll(err)
		return
	}
	if quantity != nil {
		into.Quantity = d.quantity(quantity, pointer+"/data/quantity")
	}
	into.Data = d.data(rest, pointer+"/data")
}

// splitQuantity takes the member quantity out of the data of a CloudEvent. One in another case is refused: it would be
// counted as 1.
func (d *decoder) splitQuantity(data []byte, pointer string) (quantity jsontext.Value, rest []byte, err error) {
	var member [1]jsontext.Value
	rest = append(make([]byte, 0, len(data)), '{')
	keep := func(name string, quoted, v jsontext.Value) {
		if strings.EqualFold(name, "quantity") {
			d.refuse(pointer+"/"+clip(name, 100), fmt.Sprintf("%q is unknown; names are case-sensitive, this one is quantity", name))
			return
		}
		if len(rest) > 1 {
			rest = append(rest, ',')
		}
		rest = append(append(append(rest, quoted...), ':'), v...)
	}
	if err := d.object(data, pointer, []string{"quantity"}, member[:], keep); err != nil {
		return nil, nil, err
	}
	return member[0], append(rest, '}'), nil
}

// isTraceParent reports whether a text is a trace parent of version 00 (W3C Trace Context). A malformed one is dropped:
// it is about the sender's telemetry, not about the fact.
func isTraceParent(s string) bool {
	const shape = "00-00000000000000000000000000000000-0000000000000000-00"
	if len(s) != len(shape) || s[:3] != "00-" {
		return false
	}
	for i := 3; i < len(shape); i++ {
		isHex := isDigit(s[i]) || s[i] >= 'a' && s[i] <= 'f'
		if (shape[i] == '-') != (s[i] == '-') || shape[i] != '-' && !isHex {
			return false
		}
	}
	return strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}
