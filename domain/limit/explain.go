package limit

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Reason is why a check is denied.
type Reason string

// The reasons, in the order in which they are named when several limits deny.
const (
	AbuseGuard Reason = "abuse_guard"
	PlanLimit  Reason = "plan_limit"
	BurstLimit Reason = "burst_limit"
)

var reasons = []Reason{AbuseGuard, PlanLimit, BurstLimit}

// ReasonOf is the reason that a kind of limit denies for.
func ReasonOf(k event.LimitKind) Reason {
	switch k {
	case event.AbuseGuardLimit:
		return AbuseGuard
	case event.RateLimit, event.RetryBudgetLimit:
		return BurstLimit
	default:
		return PlanLimit
	}
}

// denies reports whether a limit denied the check; one in mode observe only says that it would have.
func denies(p *event.LimitPart) bool { return p.Denied && !p.Observed }

// Why is the reason of a denied check; "" of an allowed one.
func Why(e *event.LimitDecided) Reason {
	for _, r := range reasons {
		for i := range e.Parts {
			if denies(&e.Parts[i]) && ReasonOf(e.Parts[i].Kind) == r {
				return r
			}
		}
	}
	return ""
}

// Remaining is what a limit has left after the decision, never below zero; ok is false for limits that nothing is taken
// from.
func Remaining(p *event.LimitPart) (left money.Decimal, ok bool) {
	left = p.Max.Sub(p.Used)
	switch p.Kind {
	case event.QuotaLimit, event.BudgetLimit, event.ConcurrencyLimit:
		left = left.Sub(p.Held)
		if !p.ExpiresAt.IsZero() {
			left = left.Sub(p.Requested)
		}
	case event.RateLimit, event.RetryBudgetLimit:
		if p.Taken {
			left = left.Sub(p.Requested)
		}
	default:
		return money.Decimal{}, false
	}
	return left.Max(money.Decimal{}), true
}

// Binding is the index of the part that decided: of a denied check the violated limit that passes last (never is the
// latest; then in the order of the reasons, then of the plan); of an allowed one the limit with the smallest fraction
// left. It is -1 where no limit applies that could be used up.
func Binding(e *event.LimitDecided) int {
	best := -1
	for i := range e.Parts {
		p := &e.Parts[i]
		if e.Allowed {
			if _, ok := Remaining(p); ok && !p.Observed && (best < 0 || emptier(p, &e.Parts[best])) {
				best = i
			}
		} else if denies(p) && (best < 0 || later(p, &e.Parts[best])) {
			best = i
		}
	}
	return best
}

func emptier(a, b *event.LimitPart) bool {
	left, _ := Remaining(a)
	other, _ := Remaining(b)
	if a.Max.Sign() <= 0 || b.Max.Sign() <= 0 {
		return a.Max.Sign() <= 0 && b.Max.Sign() > 0
	}
	return left.Mul(b.Max).Cmp(other.Mul(a.Max)) < 0
}

func later(a, b *event.LimitPart) bool {
	if a.ResetAt.Equal(b.ResetAt) {
		return rank(a) < rank(b)
	}
	return a.ResetAt.IsZero() || !b.ResetAt.IsZero() && a.ResetAt.After(b.ResetAt)
}

func rank(p *event.LimitPart) int { return slices.Index(reasons, ReasonOf(p.Kind)) }

// Explain says in a sentence or two, for a person who uses the product, why a check was denied or that it went over a soft
// limit; "" for any other. Instants are in the tenant's time zone.
//
// A limit that counts by data fields is not about the workspace, but about their values.
func Explain(p *Policy, e *event.LimitDecided) string {
	i, text := explain(p, e)
	if i < 0 || e.Parts[i].Per.IsEmpty() {
		return text
	}
	var subject []string
	for field, v := range e.Parts[i].Per.All() {
		subject = append(subject, field+" "+invalid.Shorten(v.String()))
	}
	return strings.ReplaceAll(strings.ReplaceAll(text, "This workspace", strings.Join(subject, ", ")), "this workspace", strings.Join(subject, ", "))
}

// explain is Explain for the workspace, with the part that it is about; -1 where there is none.
func explain(p *Policy, e *event.LimitDecided) (i int, text string) {
	i = Binding(e)
	if e.Allowed {
		for i = range e.Parts {
			if e.Parts[i].Soft && !e.Parts[i].Observed {
				part := &e.Parts[i]
				return i, fmt.Sprintf("This workspace is over its %s. The work goes on.", p.amountOf(part))
			}
		}
		return -1, ""
	}
	if i < 0 {
		return -1, ""
	}
	part := &e.Parts[i]
	switch part.Kind {
	case event.RateLimit:
		text = fmt.Sprintf("This workspace may make %s requests in %s.", part.Max.Grouped(), span(part))
	case event.QuotaLimit, event.BudgetLimit:
		text = p.overdrawn(part)
	case event.ConcurrencyLimit:
		text = fmt.Sprintf("This workspace has %s of %s running at the same time.", part.Held.Grouped(), part.Max.Grouped())
	case event.MaxLimit:
		what := "quantity"
		if l := p.find(part.Limit); l != nil && l.Field != "" {
			what = l.Field
		}
		text = fmt.Sprintf("The %s of %s is more than this plan allows: at most %s.", what, part.Requested.Grouped(), part.Max.Grouped())
	case event.AccessLimit:
		text = "This plan does not include what was asked for."
		if part.Limit == string(StatusLimit) {
			text = fmt.Sprintf("This workspace is %s.", p.Status)
		} else if l := p.find(part.Limit); l != nil {
			text = fmt.Sprintf("This plan does not include that %s; it has %s.", l.Field, strings.Join(l.Values, ", "))
		}
	case event.RetryBudgetLimit:
		text = "There are too many retries at the moment."
		if part.ResetAt.IsZero() {
			text = "This was retried too often."
		}
	case event.AbuseGuardLimit:
		text = "Requests of this workspace are paused for a while, because too many were refused."
	}
	if part.ResetAt.IsZero() {
		return i, text
	}
	return i, text + " More at " + p.clock(part.ResetAt) + "."
}

// index is the place of a limit; -1 where the policy does not have it.
func (p *Policy) index(key string) int {
	return slices.IndexFunc(p.Limits, func(l Limit) bool { return string(l.Key) == key })
}

func (p *Policy) find(key string) *Limit {
	if i := p.index(key); i >= 0 {
		return &p.Limits[i]
	}
	return nil
}

// overdrawn explains a sum: it is used up, or what is left is too little.
func (p *Policy) overdrawn(part *event.LimitPart) string {
	when := map[catalog.Period]string{catalog.Minute: "this minute", catalog.Hour: "this hour", catalog.Day: "today",
		catalog.Week: "this week", catalog.Month: "this month", catalog.BillingCycle: "this billing cycle"}
	period := "this period" // of a limit that is not in the plan any more
	if l := p.find(part.Limit); l != nil && l.Rolling {
		period = "any " + l.Window.Length.String()
	} else if l != nil {
		period = when[l.Window.Period]
	}
	left, _ := Remaining(part)
	if l := p.find(part.Limit); l != nil && l.Credits {
		if left.Sign() == 0 {
			return "This workspace has no credit left."
		}
		return fmt.Sprintf("This workspace has %s of credit left, and this needs %s.", p.units(part, left), p.units(part, part.Requested))
	}
	switch {
	case part.Requested.Cmp(part.Max) > 0:
		return fmt.Sprintf("%s is more than the %s that this workspace has.", p.units(part, part.Requested), p.amountOf(part))
	case left.Sign() == 0 && part.Held.Sign() == 0:
		return fmt.Sprintf("This workspace has used its %s for %s.", p.amountOf(part), period)
	case left.Sign() == 0:
		return fmt.Sprintf("This workspace has used or reserved its %s for %s.", p.amountOf(part), period)
	default:
		return fmt.Sprintf("This workspace has %s left of its %s for %s, and this needs %s.",
			p.units(part, left), p.amountOf(part), period, p.units(part, part.Requested))
	}
}

func (p *Policy) amountOf(part *event.LimitPart) string { return p.units(part, part.Max) }

// units names what a limit counts.
func (p *Policy) units(part *event.LimitPart, n money.Decimal) string {
	l := p.find(part.Limit)
	switch {
	case part.Kind == event.BudgetLimit:
		return n.Grouped() + " " + string(p.Currency)
	case l != nil && l.Meter != "":
		return n.Grouped() + " " + strings.ReplaceAll(string(l.Meter), "_", " ")
	default:
		return n.Grouped()
	}
}

func span(part *event.LimitPart) string {
	switch d := part.WindowEnd.Sub(part.WindowStart); d {
	case time.Second:
		return "a second"
	case time.Minute:
		return "a minute"
	case time.Hour:
		return "an hour"
	case 24 * time.Hour:
		return "a day"
	default:
		return d.String()
	}
}

// clock writes an instant as the tenant's clock shows it, rounded up to what is shown: too early would be wrong.
func (p *Policy) clock(t time.Time) string {
	zone := p.Calendar.Zone
	if zone == nil {
		zone = time.UTC
	}
	if t.Truncate(time.Minute).Equal(t) {
		return t.In(zone).Format("2006-01-02 15:04 MST")
	}
	return t.Add(time.Second - 1).In(zone).Format("2006-01-02 15:04:05 MST")
}
