package catalog

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/money"
)

// LimitKind is the rule by which a limit decides.
type LimitKind string

// The kinds of limits, with the fields that each uses.
const (
	// Rate: never more than Max checks of On in any Window.Length; at most Burst of them at one instant.
	Rate LimitKind = "rate"
	// Quota: the sum of Meter within each Window.Period is at most Max; a Soft one admits more and marks the overage.
	Quota LimitKind = "quota"
	// Concurrency: at most Max open holds of On, each of which ends by itself after HoldTTL.
	Concurrency LimitKind = "concurrency"
	// Max: the Field (or the quantity) of one check of On is at most Max.
	Max LimitKind = "max"
	// Access: the Field of a check of On is one of Values.
	Access LimitKind = "access"
	// RetryBudget: retries of On are at most Minimum + Ratio of the first attempts within Window.Length, and no source
	// has more than MaxAttempts attempts.
	RetryBudget LimitKind = "retry_budget"
	// Budget: the money spent within each Window.Period is at most Max, in the plan's currency. A budget of Credits has neither
	// field: the money spent is at most what the tenant's grants can pay.
	Budget LimitKind = "budget"
	// AbuseGuard: a Cooldown starts when, within Window.Length, at least Denials checks were denied and they are at least Ratio of
	// all checks. Repeated cooldowns double up to MaxCooldown.
	AbuseGuard LimitKind = "abuse_guard"
)

// StatusLimit is the limit that every tenant has without configuration; see domain/limit.
const StatusLimit LimitKey = "tenant_status"

// HasMax reports whether limits of this kind have a maximum, which a tenant can override.
func (k LimitKind) HasMax() bool { return slices.Contains(limitShapes[k].required, "max") }

// HasMax reports whether the limit has a maximum, which a tenant can override.
func (l *Limit) HasMax() bool { return l.Kind.HasMax() && !l.Credits }

// CountsChecks reports whether the maximum is a number of checks and therefore whole.
func (k LimitKind) CountsChecks() bool { return k == Rate || k == Concurrency }

// Period is a window of the calendar, in the tenant's time zone or by its billing anchor.
type Period string

// The periods.
const (
	Minute       Period = "minute"
	Hour         Period = "hour"
	Day          Period = "day"
	Week         Period = "week" // from Monday
	Month        Period = "month"
	BillingCycle Period = "billing_cycle"
)

var periods = []Period{Minute, Hour, Day, Week, Month, BillingCycle}

// Window is the time over which a limit counts. Quotas and budgets have a Period, or a Length where they are
// rolling; the sliding kinds have a Length. Exactly one is set; the zero Window is for kinds without a window.
type Window struct {
	Period Period
	Length Duration
}

func (w Window) String() string {
	if w.Period != "" {
		return string(w.Period)
	}
	return w.Length.String()
}

// MarshalJSON writes the name of the period or the length.
func (w Window) MarshalJSON() ([]byte, error) { return json.Marshal(w.String()) }

// UnmarshalJSON reads what MarshalJSON writes. Errors: ErrDuration.
func (w *Window) UnmarshalJSON(b []byte) error {
	var period Period
	if err := json.Unmarshal(b, &period); err == nil && slices.Contains(periods, period) {
		*w = Window{Period: period}
		return nil
	}
	*w = Window{}
	return w.Length.UnmarshalJSON(b)
}

// OnError is a limit's answer while the log cannot be reached; "" is the default of its kind.
type OnError string

// The answers.
const (
	Deny  OnError = "deny"
	Allow OnError = "allow"
)

// Mode says what a limit's decisions are for; "" is enforce.
type Mode string

// The modes.
const (
	Enforce Mode = "enforce"
	Observe Mode = "observe" // decided, recorded and counted, never enforced
)

// Limit is one limit of a plan. The kind determines which fields are set; all others are zero.
type Limit struct {
	Key         LimitKey      `json:"key"`
	Kind        LimitKind     `json:"kind"`
	On          []string      `json:"on,omitempty"` // event types of the checks that it applies to
	Meter       MeterKey      `json:"meter,omitempty"`
	Field       string        `json:"field,omitempty"` // a top-level data field; "" is the quantity where the kind allows it
	Max         money.Decimal `json:"max,omitzero"`    // 0 lets nothing pass
	Burst       int64         `json:"burst,omitempty"`
	Values      []string      `json:"values,omitempty"`
	Denials     int64         `json:"denials,omitempty"`
	Ratio       money.Decimal `json:"ratio,omitzero"` // 0 < ratio <= 1
	Minimum     int64         `json:"minimum,omitempty"`
	Window      Window        `json:"window,omitzero"`
	Per         []string      `json:"per,omitempty"`     // data fields: the limit counts for each of their values on its own
	Rolling     bool          `json:"rolling,omitempty"` // the window always ends now
	MaxAttempts int64         `json:"maxAttempts,omitempty"`
	HoldTTL     Duration      `json:"holdTTL,omitzero"` // zero: the engine's default
	Cooldown    Duration      `json:"cooldown,omitzero"`
	MaxCooldown Duration      `json:"maxCooldown,omitzero"`
	Soft        bool          `json:"soft,omitempty"`
	Credits     bool          `json:"credits,omitempty"` // of a budget: the maximum is what is left of the tenant's grants
	OnError     OnError       `json:"onError,omitempty"`
	Mode        Mode          `json:"mode,omitempty"`
}

// MarshalJSON writes the fields that the kind takes. A maximum of zero is written, because nothing is not the same as forgotten.
func (l Limit) MarshalJSON() ([]byte, error) {
	type fields Limit
	if !l.HasMax() || l.Max.Sign() != 0 {
		return json.Marshal(fields(l))
	}
	return json.Marshal(struct {
		fields
		Max int `json:"max"`
	}{fields: fields(l)})
}

// limitShapes is the one list of each kind's fields besides key and kind.
var limitShapes = map[LimitKind]shape{
	Rate:        {required: []string{"on", "max", "window"}, optional: []string{"burst", "per"}},
	Quota:       {required: []string{"meter", "max", "window"}, optional: []string{"holdTTL", "soft", "onError", "rolling", "per"}},
	Concurrency: {required: []string{"on", "max", "holdTTL"}, optional: []string{"onError", "per"}},
	Max:         {required: []string{"on", "max"}, optional: []string{"field"}},
	Access:      {required: []string{"on", "field", "values"}},
	RetryBudget: {required: []string{"on", "ratio", "window", "maxAttempts"}, optional: []string{"minimum", "per"}},
	Budget:      {required: []string{"max", "window"}, optional: []string{"holdTTL", "onError", "rolling", "per"}},
	AbuseGuard:  {required: []string{"denials", "ratio", "window", "cooldown", "maxCooldown"}},
}

// creditShape has the fields of a budget of credits.
var creditShape = shape{required: []string{"credits"}, optional: []string{"holdTTL", "onError"}}

const (
	minWindow  = time.Millisecond
	maxWindow  = 31 * day
	minHoldTTL = time.Second
	maxHoldTTL = 7 * day
	maxCount   = 1_000_000_000
	// minRolling keeps the quarter of an hour in which usage is added up small beside a rolling window.
	minRolling = day
)

func (d *decoder) limit(n node, at string, seen unique) Limit {
	o := d.object(n, at)
	l := Limit{Key: LimitKey(o.key("key", seen)), Kind: LimitKind(o.text("kind"))}
	if l.Key == StatusLimit {
		d.refuse(at+"/key", "reserved", "%s is the limit that denies checks of tenants that are not active", StatusLimit)
	}
	s, known := limitShapes[l.Kind]
	if !known {
		o.need("key", "a limit")
		o.choose("kind", "a limit", kindNames(limitShapes))
		return l
	}
	if l.Kind == Budget && o.has("credits") {
		if s, l.Credits = creditShape, o.boolean("credits"); !l.Credits {
			o.refuse("credits", "out_of_range", "credits is true, or left out for a budget with max and window")
		}
	}
	s.optional = append(slices.Clip(s.optional), "mode")
	o.only("a limit of kind "+string(l.Kind), s.with("key", "kind"))

	l.On = o.meteredTypes("on")
	l.Meter = o.meter("meter")
	l.Field = o.dataField("field")
	l.Max = o.notNegative("max")
	l.Burst = o.count("burst", 1)
	o.some("values")
	l.Values = o.texts("values", "malformed", unreadable)
	l.Denials = o.count("denials", 1)
	l.Ratio = o.positive("ratio")
	l.Minimum = o.count("minimum", 0)
	l.MaxAttempts = o.count("maxAttempts", 1)
	l.HoldTTL = o.duration("holdTTL", minHoldTTL, maxHoldTTL)
	l.Cooldown = o.duration("cooldown", minWindow, maxWindow)
	l.MaxCooldown = o.duration("maxCooldown", minWindow, maxWindow)
	l.Soft = o.boolean("soft")
	l.OnError = OnError(o.oneOf("onError", string(Deny), string(Allow)))
	l.Mode = Mode(o.oneOf("mode", string(Enforce), string(Observe)))
	l.Rolling = o.boolean("rolling")
	o.some("per")
	l.Per = o.texts("per", "malformed", malformedPer)
	slices.Sort(l.Per)
	switch {
	case l.Credits:
	case l.Rolling:
		l.Window.Length = o.duration("window", minRolling, maxWindow)
	case l.Kind == Quota || l.Kind == Budget:
		l.Window.Period = o.period("window")
	default:
		l.Window.Length = o.duration("window", minWindow, maxWindow)
	}

	if _, scale, ok := l.Max.Coefficient(); l.Kind.CountsChecks() && (!ok || scale > 0) {
		o.refuse("max", "out_of_range", "%s counts checks, so max must be a whole number", l.Kind)
	}
	if l.Burst > 0 && money.Int(l.Burst).Cmp(l.Max) > 0 {
		o.refuse("burst", "out_of_range", "burst must be at most max, since a whole burst is within one window")
	}
	if l.Ratio.Cmp(money.Int(1)) > 0 {
		o.refuse("ratio", "out_of_range", "ratio is a part of the whole: more than 0 and at most 1")
	}
	if o.has("maxCooldown") && l.MaxCooldown.value > 0 && l.Cooldown.value > l.MaxCooldown.value {
		o.refuse("maxCooldown", "out_of_range", "maxCooldown must be at least cooldown, which doubles up to it")
	}
	return l
}

// malformedPer says what is wrong with a field of per. Commas and semicolons separate fields on the log.
func malformedPer(field string) string {
	if strings.ContainsAny(field, ",;") {
		return "a field that a limit counts by has no comma or semicolon in its name"
	}
	if field == "key" {
		return "limits cannot count by API key yet; name a data field"
	}
	return malformedField(field)
}

// addDimensions gives meters the fields that limits count them by: sums are kept by dimension.
func (c *Catalog) addDimensions() {
	add := func(of MeterKey, fields []string) {
		i := slices.IndexFunc(c.Meters, func(m Meter) bool { return m.Key == of })
		for _, field := range fields {
			if !slices.Contains(c.Meters[i].Dimensions, field) {
				c.Meters[i].Dimensions = append(slices.Clip(c.Meters[i].Dimensions), field)
			}
		}
	}
	for i := range c.Plans {
		for _, l := range c.Plans[i].Limits {
			switch l.Kind {
			case Quota:
				add(l.Meter, l.Per)
			case Budget:
				for _, p := range c.Plans[i].Prices {
					if p.Meter != "" {
						add(p.Meter, l.Per)
					}
				}
			}
		}
	}
}

// period reads one of the periods.
func (o object) period(name string) Period {
	names := make([]string, len(periods))
	for i, p := range periods {
		names[i] = string(p)
	}
	return Period(o.oneOf(name, names...))
}
