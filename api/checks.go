package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/limiter"
	"github.com/tollgate-io/tollgate/domain/money"
)

// CheckLimits implements ServerInterface.
func (s *Server) CheckLimits(c echo.Context, _ CheckLimitsParams) error { return s.checkLimits(c) }

// checkLimits is POST /v1/limits/check.
func (s *Server) checkLimits(c echo.Context) error {
	allowed := s.allow(s.CheckTimeout)
	who, err := s.identifyInTenant(c, allowed)
	if err != nil {
		return err
	}
	f, err := formatOf(c.Request().Header)
	if err != nil {
		return err
	}
	if f != plainJSON {
		return refuse(codeUnsupported, "Checks are sent as application/json.")
	}
	sc := scratches.Get().(*scratch)
	defer sc.release()
	body, free, err := s.readMany(c.Request(), sc.body, startsArray)
	defer free()
	sc.body = body
	if err != nil {
		return err
	}
	d := decoders.Get().(*decoder)
	defer d.release()
	if startsArray(body) {
		return s.checkMany(c, who, allowed, d, body)
	}
	asks := make([]limit.Ask, 1) // not of the scratch: the engine may look at them longer than the caller waits
	if err := d.check(body, "", s.Now(), &asks[0]); err != nil {
		return err
	}
	if asks[0].Tenant, err = who.tenantOf(asks[0].Tenant); err != nil {
		return err
	}
	ctx, cancel := allowed.part(c, 1)
	defer cancel()
	if err := s.noteSwitch(ctx, who); err != nil {
		return err
	}
	decision := &s.Limits.Check(ctx, asks)[0]
	if decision.Err != nil {
		return decision.Err
	}
	binding := limit.Binding(&decision.LimitDecided)
	setRateLimits(c.Response().Header(), &decision.LimitDecided, binding)
	sc.answer = appendDecision(sc.answer[:0], &asks[0], decision, binding)
	return writeBody(c, http.StatusOK, sc.answer)
}

// checkMany decides an array in order, chunk by chunk. The fault of an item is in its place in the answer, so the answer can
// begin before the last check is decided, and memory is bounded. Each chunk may take as long as one check; after one that took all
// of it nothing more is asked.
func (s *Server) checkMany(c echo.Context, who caller, allowed *allowance, d *decoder, body []byte) error {
	elements, err := splitArray(body, maxBatchEvents)
	if err != nil {
		return err
	}
	if err := s.noteBatchSwitch(c, who); err != nil {
		return err
	}
	c.Response().Header()[echo.HeaderContentType] = jsonType
	c.Response().WriteHeader(http.StatusOK)
	b := []byte(`{"items":[`)
	separator := ""
	first := 0
	logged := false
	for chunk := range slices.Chunk(elements, chunkEvents) {
		asks := make([]limit.Ask, len(chunk))
		faults := make([]error, len(chunk))
		for i, text := range chunk {
			faults[i] = s.decodeCheck(d, text, first+i, who, &asks[i])
		}
		ctx, cancel := allowed.part(c, 1)
		decisions := s.decide(ctx, asks, faults, first)
		late := ctx.Err() != nil
		if cancel(); late {
			allowed.left = 0
		} else {
			allowed.left = s.CheckTimeout
		}
		for i := range decisions {
			b = append(b, separator...)
			separator = ","
			if err := decisions[i].Err; err != nil {
				p := problemOf(err)
				if p.status == http.StatusInternalServerError && !logged {
					logged = true // one of each request says enough
					s.Log.Error("a check failed", "request", c.Response().Header().Get(headerRequestID), "route", c.Path(), "error", err)
				}
				b = appendUndecided(b, p, string(asks[i].Source))
				continue
			}
			b = appendDecision(b, &asks[i], &decisions[i], limit.Binding(&decisions[i].LimitDecided))
		}
		if _, err := c.Response().Write(b); err != nil {
			return nil //nolint:nilerr // the client is gone; it can ask again about what was decided last
		}
		b = b[:0]
		first += len(chunk)
	}
	if _, err := c.Response().Write(append(b, "]}"...)); err != nil {
		return nil //nolint:nilerr // the client is gone
	}
	return nil
}

// decodeCheck reads one element of an array; pointers of its error start with its place.
func (s *Server) decodeCheck(d *decoder, text []byte, index int, who caller, into *limit.Ask) error {
	if len(text) > maxEventBytes {
		return refuse(codeTooLarge, "The check has more than 1 MiB.")
	}
	err := d.check(text, itemPointer(index), s.Now(), into)
	if err == nil {
		into.Tenant, err = who.tenantOf(into.Tenant)
	}
	return err
}

// decide asks the engine about the checks without a fault. The engine never saw the array, so its pointers are moved.
func (s *Server) decide(ctx context.Context, asks []limit.Ask, faults []error, first int) []limiter.Decision {
	decisions := make([]limiter.Decision, len(asks))
	good := make([]limit.Ask, 0, len(asks))
	for i := range asks {
		switch {
		case faults[i] != nil:
			decisions[i].Err = faults[i]
		case ctx.Err() != nil: // what is late is not asked at all
			decisions[i].Err = fmt.Errorf("%w: %w", eventstore.ErrOverloaded, ctx.Err())
		default:
			good = append(good, asks[i])
		}
	}
	if len(good) == 0 {
		return decisions
	}
	decided := s.Limits.Check(ctx, good)
	for i := range decisions {
		if decisions[i].Err != nil {
			continue
		}
		decisions[i], decided = decided[0], decided[1:]
		var (
			bad     *invalid.Error
			unknown *app.UnknownEventTypeError
		)
		switch err := decisions[i].Err; {
		case errors.As(err, &bad):
			decisions[i].Err = moved(bad, first+i)
		case errors.As(err, &unknown):
			p := problemOf(err)
			p.errors = moved(&invalid.Error{Fields: p.errors}, first+i).Fields
			decisions[i].Err = p
		}
	}
	return decisions
}

// appendUndecided appends an item without a decision.
func appendUndecided(b []byte, p *problem, source string) []byte {
	b = append(b, '{')
	if event.CheckID(source) == nil {
		b = append(appendString(append(b, `"sourceId":`...), source), ',')
	}
	status := "invalid"
	if p.status >= http.StatusInternalServerError {
		status = "failed"
	}
	b = append(append(append(b, `"status":"`...), status...), `","code":"`...)
	b = appendString(append(append(b, p.code...), `","detail":`...), p.detail)
	return append(p.appendErrors(b), '}')
}

// appendDecision appends the answer to a check; binding is the place of the limit that binds, -1 where none does.
func appendDecision(b []byte, ask *limit.Ask, d *limiter.Decision, binding int) []byte {
	e := &d.LimitDecided
	var bound event.LimitPart
	if binding >= 0 {
		bound = e.Parts[binding]
	}
	b = strconv.AppendBool(append(b, `{"allowed":`...), e.Allowed)
	if ask.UpTo {
		granted := e.Quantity
		if !e.Allowed {
			granted = money.Decimal{}
		}
		b = append(append(b, `,"granted":`...), granted.String()...)
	}
	b = appendRemaining(append(b, `,"remaining":`...), &bound)
	b = appendTime(append(b, `,"resetAt":`...), bound.ResetAt)
	b = appendOptional(append(b, `,"reason":`...), string(limit.Why(e)))
	b = appendOptional(append(b, `,"limit":`...), bound.Limit)
	b = appendOptional(append(b, `,"message":`...), limit.Explain(d.Policy, e))
	b = appendString(append(b, `,"sourceId":`...), string(e.Source))
	b = appendString(append(b, `,"eventType":`...), string(e.Type))
	b = append(b, `,"position":`...)
	if d.Degraded || ask.DryRun {
		b = append(b, "null"...)
	} else {
		b = appendPosition(b, d.Position)
	}
	b = strconv.AppendBool(append(b, `,"replayed":`...), d.Replayed)
	b = appendTime(append(b, `,"holdExpiresAt":`...), d.HoldEnds())
	b = appendOptional(append(b, `,"planVersion":`...), e.PlanVersion)
	b = strconv.AppendBool(append(b, `,"overage":`...), isOver(e))
	b = strconv.AppendBool(append(b, `,"degraded":`...), d.Degraded)
	return append(appendParts(append(b, `,"limits":`...), e, d.Policy.Currency), '}')
}

// isOver reports whether a soft limit that is enforced was exceeded.
func isOver(e *event.LimitDecided) bool {
	return slices.ContainsFunc(e.Parts, func(p event.LimitPart) bool { return p.Soft && !p.Observed })
}

func modeOf(p *event.LimitPart) catalog.Mode {
	if p.Observed {
		return catalog.Observe
	}
	return catalog.Enforce
}

func appendParts(b []byte, e *event.LimitDecided, currency catalog.Currency) []byte {
	b = append(b, '[')
	for i := range e.Parts {
		p := &e.Parts[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, `{"limit":`...), p.Limit)
		b = append(append(append(b, `,"kind":"`...), p.Kind.String()...), `","mode":"`...)
		b = append(append(b, modeOf(p)...), '"')
		if !p.Per.IsEmpty() {
			b = p.Per.AppendJSON(append(b, `,"per":`...))
		}
		b = strconv.AppendBool(append(b, `,"allowed":`...), !p.Denied)
		b = appendAmount(append(b, `,"max":`...), p, p.Max)
		b = appendAmount(append(b, `,"used":`...), p, p.Used)
		b = appendAmount(append(b, `,"held":`...), p, p.Held)
		b = appendAmount(append(b, `,"requested":`...), p, p.Requested)
		b = appendRemaining(append(b, `,"remaining":`...), p)
		b = appendCurrency(b, p.Kind, currency)
		b = appendTime(append(b, `,"windowStart":`...), p.WindowStart)
		b = appendTime(append(b, `,"windowEnd":`...), p.WindowEnd)
		b = appendTime(append(b, `,"resetAt":`...), p.ResetAt)
		reason := limit.Reason("")
		if p.Denied {
			reason = limit.ReasonOf(p.Kind)
		}
		b = appendOptional(append(b, `,"reason":`...), string(reason))
		b = appendOptional(append(b, `,"planVersion":`...), e.PlanVersion)
		b = appendTime(append(b, `,"holdExpiresAt":`...), p.ExpiresAt)
		b = strconv.AppendBool(append(b, `,"overage":`...), p.Soft)
		b = append(strconv.AppendBool(append(b, `,"overridden":`...), p.Overridden), '}')
	}
	return append(b, ']')
}

// appendAmount appends a number of a limit; access has none.
func appendAmount(b []byte, p *event.LimitPart, n money.Decimal) []byte {
	if p.Kind == event.AccessLimit {
		return append(b, "null"...)
	}
	return append(b, n.String()...)
}

func appendRemaining(b []byte, p *event.LimitPart) []byte {
	left, ok := limit.Remaining(p)
	if !ok {
		return append(b, "null"...)
	}
	return append(b, left.String()...)
}

// appendCurrency appends the member that says what the numbers of a budget are, where that is known.
func appendCurrency(b []byte, k event.LimitKind, currency catalog.Currency) []byte {
	if k != event.BudgetLimit || currency == "" {
		return b
	}
	return appendString(append(b, `,"currency":`...), string(currency))
}

const (
	headerRateLimitPolicy = "Ratelimit-Policy" // in canonical form
	headerRateLimit       = "Ratelimit"
)

// setRateLimits sets RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers: lists of strings with
// parameters, RFC 9651) for the limits that something is taken from and that are enforced, and Retry-After on a denial that
// time ends.
func setRateLimits(h http.Header, e *event.LimitDecided, binding int) {
	var policy, now []byte
	for i := range e.Parts {
		p := &e.Parts[i]
		left, ok := limit.Remaining(p)
		if !ok || p.Observed {
			continue
		}
		if policy != nil {
			policy, now = append(policy, ", "...), append(now, ", "...)
		}
		policy = strconv.AppendInt(append(appendItem(policy, p.Limit), ";q="...), whole(p.Max), 10)
		if p.Kind == event.ConcurrencyLimit {
			policy = append(policy, `;qu="concurrent-requests"`...)
		} else if w := seconds(p.WindowEnd.Sub(p.WindowStart)); w > 0 {
			policy = strconv.AppendInt(append(policy, ";w="...), w, 10)
		}
		now = strconv.AppendInt(append(appendItem(now, p.Limit), ";r="...), whole(left), 10)
		if !p.ResetAt.IsZero() {
			now = strconv.AppendInt(append(now, ";t="...), seconds(p.ResetAt.Sub(e.DecidedAt)), 10)
		}
	}
	if policy != nil {
		h[headerRateLimitPolicy], h[headerRateLimit] = []string{string(policy)}, []string{string(now)}
	}
	if !e.Allowed && binding >= 0 && !e.Parts[binding].ResetAt.IsZero() {
		h.Set(headerRetryAfter, strconv.FormatInt(max(1, seconds(e.Parts[binding].ResetAt.Sub(e.DecidedAt))), 10))
	}
}

// appendItem appends a String of RFC 9651: printable ASCII, with quotes and backslashes escaped.
func appendItem(b []byte, text string) []byte {
	b = append(b, '"')
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ' && c <= '~':
			b = append(b, c)
		default:
			b = append(b, '_')
		}
	}
	return append(b, '"')
}

// largest is the most that an Integer of RFC 9651 can say.
const largest = 999_999_999_999_999

// whole is a number of units, rounded down: what is left must not look like more.
func whole(d money.Decimal) int64 {
	n, scale, ok := d.Floor().Coefficient()
	switch {
	case d.Sign() <= 0:
		return 0
	case !ok || scale != 0:
		return largest
	default:
		return min(n, largest)
	}
}

// seconds is rounded up: a client that waits that long must not be early.
func seconds(d time.Duration) int64 {
	return min(max(0, int64((d+time.Second-1)/time.Second)), largest)
}
