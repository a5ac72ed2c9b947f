package timeline

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// decided puts a decision into words: whether the check was allowed, what stood in its way, what is held for it.
func decided(e event.LimitDecided) string {
	check := fmt.Sprintf("Check of %s %s for %s", e.Quantity.Grouped(), e.Type, e.Source)
	if e.Allowed {
		return check + " allowed" + overage(e.Parts) + held(e) + "."
	}
	var reasons []string
	for i := range e.Parts {
		if p := &e.Parts[i]; p.Denied && !p.Observed {
			reasons = append(reasons, "by "+p.Limit+": "+why(p))
		}
	}
	text := check + " denied."
	if len(reasons) > 0 {
		text = check + " denied " + strings.Join(reasons, "; ") + "."
	}
	for i := range e.Parts {
		if p := &e.Parts[i]; !p.Until.IsZero() && !p.Observed {
			text += fmt.Sprintf(" After so many denials, all checks are refused until %s (%s).", clock(p.Until), p.Limit)
		}
	}
	return text
}

// why says what a limit has against a check.
func why(p *event.LimitPart) string {
	fits := p.Used.Add(p.Held).Add(p.Requested).Cmp(p.Max) <= 0
	switch {
	case p.Kind == event.AbuseGuardLimit && p.ResetAt.IsZero():
		return "too many checks were denied"
	case p.Kind == event.AbuseGuardLimit:
		return "too many checks were denied; all are refused until " + clock(p.ResetAt)
	case p.Limit == string(catalog.StatusLimit):
		return "the workspace is not active"
	case p.Kind == event.AccessLimit:
		return "the plan does not include it"
	case p.Kind == event.MaxLimit:
		return fmt.Sprintf("%s asked for, and at most %s is allowed", p.Requested.Grouped(), p.Max.Grouped())
	case p.Kind == event.RetryBudgetLimit && fits:
		return "it was tried too often"
	case p.Kind == event.RateLimit && fits && p.Burst > 0:
		return fmt.Sprintf("too many at once, and at most %s are allowed", money.Int(p.Burst).Grouped())
	}
	used := p.Used.Grouped() + " used"
	switch {
	case p.Held.Sign() == 0:
	case p.Used.Sign() == 0:
		used = p.Held.Grouped() + " held"
	default:
		used += " and " + p.Held.Grouped() + " held"
	}
	return used + " of " + p.Max.Grouped()
}

// overage names the limits that were exceeded and admit it.
func overage(parts []event.LimitPart) string {
	var over []string
	for i := range parts {
		if parts[i].Soft && !parts[i].Observed {
			over = append(over, parts[i].Limit)
		}
	}
	if len(over) == 0 {
		return ""
	}
	return " beyond " + strings.Join(over, " and ")
}

// held says until when the whole quantity is held.
func held(e event.LimitDecided) string {
	until := e.HoldEnds()
	if until.IsZero() {
		return ""
	}
	return fmt.Sprintf("; %s held until %s", e.Quantity.Grouped(), clock(until))
}

// explanation is everything that a decision says, but for the fingerprint, which says nothing to people. Its members have
// the names of the API's answer to the check.
func explanation(e event.LimitDecided) json.RawMessage {
	var plan any // null for a tenant without one
	if e.PlanVersion != "" {
		plan = e.PlanVersion
	}
	parts := make([]json.RawMessage, len(e.Parts))
	for i := range e.Parts {
		p := &e.Parts[i]
		members := []any{"limit", p.Limit, "kind", p.Kind.String(), "allowed", !p.Denied}
		if p.Observed {
			members = append(members, "mode", "observe")
		}
		if p.Kind != event.AccessLimit {
			members = append(members, "max", p.Max, "used", p.Used, "held", p.Held, "requested", p.Requested)
		}
		members = append(members, "overage", p.Soft, "overridden", p.Overridden)
		for _, t := range []struct {
			name string
			at   time.Time
		}{{"windowStart", p.WindowStart}, {"windowEnd", p.WindowEnd}, {"resetAt", p.ResetAt}, {"holdExpiresAt", p.ExpiresAt}, {"until", p.Until}} {
			if !t.at.IsZero() {
				members = append(members, t.name, stamp(t.at))
			}
		}
		if p.Burst > 0 {
			members = append(members, "burst", p.Burst)
		}
		if p.Strikes > 0 {
			members = append(members, "strikes", p.Strikes)
		}
		parts[i] = object(append(members, "planVersion", plan)...)
	}
	return object("allowed", e.Allowed, "planVersion", plan, "holdExpiresAt", optional(e.HoldEnds()), "limits", parts, "data", e.Data)
}

// clock is an instant for people, who need no seconds unless there are some. It is rounded up to what is shown: a caller who
// comes back then must not be early.
func clock(t time.Time) string {
	if t = t.UTC(); t.Equal(t.Truncate(time.Minute)) {
		return t.Format("2006-01-02 15:04 UTC")
	}
	return t.Add(time.Second - 1).Format("2006-01-02 15:04:05 UTC")
}

// day is the date of a midnight, and clock of any other instant.
func day(t time.Time) string {
	if t = t.UTC(); t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return clock(t)
}

// span says from when until when an override holds.
func span(from, until time.Time) string {
	text := ""
	if !from.IsZero() {
		text += " from " + day(from)
	}
	if !until.IsZero() {
		text += " until " + day(until)
	}
	return text
}

// optional is null for the zero time.
func optional(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return stamp(t)
}
