package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/invoicing"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// The stable codes. Clients decide by them, so they are never renamed.
const (
	codeInvalidJSON      = "invalid_json"
	codeInvalidEvent     = invalid.CodeEvent
	codeInvalidRequest   = invalid.CodeRequest
	codeUnknownEventType = "unknown_event_type"
	codeSourceConflict   = "source_conflict"
	codeConflict         = "conflict"
	codeTenantRequired   = "tenant_required"
	codeTenantConflict   = "tenant_conflict"
	codeTenantMismatch   = "tenant_mismatch"
	codeUnknownTenant    = "unknown_tenant"
	codeUnauthorized     = "unauthorized" //nolint:misspell // the contract spells it so
	codeForbidden        = "forbidden"
	codeNotFound         = "not_found"
	codeTooLarge         = "too_large"
	codeUnsupported      = "unsupported_media_type"
	codeOverloaded       = "overloaded"
	codeUnavailable      = "store_unavailable"
	codeNotDue           = "not_due"
	codeUnpriced         = "unpriced"
	codePriceJump        = "price_jump"
	codeInternal         = "internal"
)

// codes gives each code its usual status and its title.
var codes = map[string]struct {
	status int
	title  string
}{
	codeInvalidJSON:      {http.StatusBadRequest, "The body is not valid JSON"},
	codeInvalidEvent:     {http.StatusBadRequest, "The event breaks a rule"},
	codeInvalidRequest:   {http.StatusBadRequest, "The request breaks a rule"},
	codeUnknownEventType: {http.StatusBadRequest, "No meter counts this event type"},
	codeSourceConflict:   {http.StatusConflict, "The event is recorded with other content"},
	codeConflict:         {http.StatusConflict, "What is there does not allow it"},
	codeTenantRequired:   {http.StatusBadRequest, "The request names no tenant"},
	codeTenantConflict:   {http.StatusBadRequest, "The request names different tenants"},
	codeTenantMismatch:   {http.StatusForbidden, "The key belongs to another tenant"},
	codeUnknownTenant:    {http.StatusNotFound, "There is no such tenant"},
	codeUnauthorized:     {http.StatusUnauthorized, "A valid API key is needed"},
	codeForbidden:        {http.StatusForbidden, "The key may not do this"},
	codeNotFound:         {http.StatusNotFound, "There is no such thing"},
	codeTooLarge:         {http.StatusRequestEntityTooLarge, "The request is too large"},
	codeUnsupported:      {http.StatusUnsupportedMediaType, "The media type is not supported"},
	codeOverloaded:       {http.StatusServiceUnavailable, "The server is overloaded"},
	codeUnavailable:      {http.StatusServiceUnavailable, "The ledger does not answer"},
	codeNotDue:           {http.StatusConflict, "The period cannot be closed yet"},
	codeUnpriced:         {http.StatusConflict, "Nobody knows what is owed"},
	codePriceJump:        {http.StatusConflict, "Prices change so much that the list may be wrong"},
	codeInternal:         {http.StatusInternalServerError, "The server failed"},
}

const (
	headerRetryAfter = "Retry-After"
	problemType      = "application/problem+json"
	maxErrors        = 20  // listed in one problem
	maxDetail        = 600 // bytes
)

var errPanicked = errors.New("the handler panicked")

// problem is an answer that says what went wrong (RFC 9457), and an error, so that the HTTP rules of this package can be
// returned like those of the domain.
type problem struct {
	status int
	code   string
	detail string
	errors []invalid.Field
	// expected problems are counted and not logged: there is one for each of too many requests.
	expected bool
}

func (p *problem) Error() string { return p.code + ": " + p.detail }

// refuse is a problem with the usual status of its code.
func refuse(code, detail string) *problem {
	return &problem{status: codes[code].status, code: code, detail: detail}
}

// problemOf is the only table from errors to HTTP. What it does not know is a fault of ours, and its words stay inside.
func problemOf(err error) *problem {
	var (
		known   *problem
		bad     *invalid.Error
		differs *app.SourceConflictError
		unknown *app.UnknownEventTypeError
		jump    *costs.JumpError
		routed  *echo.HTTPError
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &bad):
		return invalidProblem(bad)
	case errors.As(err, &differs):
		return conflictProblem(differs.Fields)
	case errors.As(err, &unknown):
		p := refuse(codeUnknownEventType, fmt.Sprintf("No meter counts %q; known event types: %s", clip(string(unknown.Type), 100), knownTypes(unknown.Known)))
		p.errors = []invalid.Field{{Pointer: "/eventType", Code: codeUnknownEventType, Detail: "no meter counts this event type"}}
		return p
	case errors.As(err, &jump):
		p := refuse(codePriceJump, clip("Nothing was imported. If the list is right, send it again with allowJumps=true. "+jump.Error(), maxDetail))
		for _, j := range jump.Jumps[:min(len(jump.Jumps), maxErrors)] {
			p.errors = append(p.errors, invalid.Field{Code: codePriceJump, Detail: j})
		}
		return p
	case errors.Is(err, tenant.ErrRequired):
		return refuse(codeTenantRequired, "Name the tenant: with X-Tenant-Id, by the host or the path, or in the event.")
	case errors.Is(err, tenant.ErrConflict):
		return refuse(codeTenantConflict, "X-Tenant-Id, X-Tenant-Switch, the host, the path and the event must name the same tenant, where they name one.")
	case errors.Is(err, tenant.ErrMismatch):
		return refuse(codeTenantMismatch, "A tenant key can only name its own tenant, also by the host and the path.")
	case errors.Is(err, tenant.ErrUnknown):
		return refuse(codeUnknownTenant, "The tenant that the request names does not exist.")
	case errors.Is(err, tenant.ErrUnknownKey):
		return refuse(codeUnauthorized, "The API key is unknown, revoked or expired.")
	case errors.Is(err, invoicing.ErrNotDue):
		return refuse(codeNotDue, err.Error())
	case errors.Is(err, billing.ErrUnpriced), errors.Is(err, billing.ErrCurrencies), errors.Is(err, invoicing.ErrTooMuch):
		return refuse(codeUnpriced, err.Error())
	case errors.Is(err, invoicing.ErrNothingToBill):
		return refuse(codeNotFound, err.Error())
	case errors.Is(err, app.ErrNotFound):
		return refuse(codeNotFound, err.Error())
	case errors.Is(err, app.ErrConflict):
		return refuse(codeConflict, strings.TrimPrefix(err.Error(), app.ErrConflict.Error()+": "))
	case errors.Is(err, app.ErrContended):
		return refuse(codeOverloaded, "Other requests keep changing the same thing. Nothing was written. Try again later.")
	case errors.Is(err, eventstore.ErrOverloaded):
		return refuse(codeOverloaded, "Nothing was written. Try again later.")
	case errors.Is(err, eventstore.ErrTooLarge):
		return refuse(codeTooLarge, "The event is too large for the event store.")
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return refuse(codeUnavailable, "The outcome is unknown. Sending the same request again is safe, and its answer says what happened.")
	case errors.As(err, &routed):
		return routingProblem(routed)
	default:
		return refuse(codeInternal, "The fault is on our side. X-Request-Id names the request.")
	}
}

// conflictProblem names the fields of an event that differ from the recorded one, as pointers into what was sent.
func conflictProblem(fields []string) *problem {
	p := refuse(codeSourceConflict, "An event with this tenant, event type and sourceId is recorded with other content. Nothing was changed.")
	if len(fields) > 0 {
		p.detail = clip("An event with this tenant, event type and sourceId is recorded already. Nothing was changed. These fields differ: "+strings.Join(fields, ", "), maxDetail)
	}
	for _, f := range fields[:min(len(fields), maxErrors)] {
		p.errors = append(p.errors, invalid.Field{Pointer: f, Code: codeSourceConflict, Detail: "differs from what is recorded"})
	}
	return p
}

// invalidProblem takes its code from the first rule that has one of the stable codes. A body that cannot be read is more than
// any other rule.
func invalidProblem(bad *invalid.Error) *problem {
	code := codeInvalidRequest
	for _, f := range bad.Fields {
		if f.Code == codeInvalidJSON || f.Code == codeTooLarge {
			code = f.Code
			break
		}
		if f.Code == codeInvalidEvent {
			code = f.Code
		}
	}
	p := refuse(code, clip(bad.Error(), maxDetail))
	p.errors = bad.Fields[:min(len(bad.Fields), maxErrors)]
	return p
}

// routingProblem translates what the router and the generated parameter code say.
func routingProblem(e *echo.HTTPError) *problem {
	switch e.Code {
	case http.StatusNotFound:
		return refuse(codeNotFound, "There is no such route.")
	case http.StatusMethodNotAllowed:
		return &problem{status: e.Code, code: codeNotFound, detail: "The route exists, but not with this method; Allow names those it has."}
	case http.StatusBadRequest:
		detail, _, _ := strings.Cut(fmt.Sprint(e.Message), ": ") // what follows are words of the library
		return refuse(codeInvalidRequest, clip(detail, maxDetail))
	default:
		return refuse(codeInternal, "The fault is on our side. X-Request-Id names the request.")
	}
}

func knownTypes(known []string) string {
	const most = 50
	if len(known) == 0 {
		return "none, because no catalog with meters is applied"
	}
	list := strings.Join(known[:min(len(known), most)], ", ")
	if len(known) > most {
		list += fmt.Sprintf(" and %d more", len(known)-most)
	}
	return list
}

// clip bounds a text that contains the sender's words, without cutting a character.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// fail answers an error. It is the only place where errors of requests are logged.
func (s *Server) fail(c echo.Context, err error) {
	p := problemOf(err)
	switch p.status {
	case http.StatusInternalServerError:
		s.Log.Error("a request failed", "request", c.Response().Header().Get(headerRequestID), "route", c.Path(), "error", err)
	case http.StatusServiceUnavailable:
		if p.expected {
			break
		}
		s.Log.Warn("a request could not be served", "request", c.Response().Header().Get(headerRequestID), "route", c.Path(), "error", err)
	}
	if c.Response().Committed {
		return // the answer had begun; its writer has broken the connection
	}
	h := c.Response().Header()
	switch p.status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="tollgate"`)
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
		h.Set(headerRetryAfter, "1")
	case http.StatusRequestTimeout, http.StatusRequestEntityTooLarge:
		h.Set("Connection", "close") // the rest of the body is not read
	}
	h.Set(echo.HeaderContentType, problemType)
	c.Response().WriteHeader(p.status)
	if c.Request().Method != http.MethodHead {
		_, _ = c.Response().Write(p.appendJSON(nil)) // nobody is left to hear of a broken connection
	}
}

func (p *problem) appendJSON(b []byte) []byte {
	b = append(append(b, `{"type":"urn:tollgate:problem:`...), p.code...)
	b = appendString(append(b, `","title":`...), codes[p.code].title)
	b = strconv.AppendInt(append(b, `,"status":`...), int64(p.status), 10)
	b = appendString(append(b, `,"detail":`...), p.detail)
	b = append(append(append(b, `,"code":"`...), p.code...), '"')
	return append(p.appendErrors(b), '}')
}

// appendErrors appends the member that lists broken rules, where there are any.
func (p *problem) appendErrors(b []byte) []byte {
	if len(p.errors) == 0 {
		return b
	}
	b = append(b, `,"errors":[`...)
	for i, f := range p.errors {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, `{"pointer":`...), clip(f.Pointer, maxDetail))
		b = appendString(append(b, `,"code":`...), f.Code)
		b = append(appendString(append(b, `,"detail":`...), clip(f.Detail, maxDetail)), '}')
	}
	return append(b, ']')
}
