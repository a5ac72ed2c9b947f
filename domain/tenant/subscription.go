package tenant

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Subscription is a tenant's plans over time and the overrides of their limits. It is a fold of the tenant's subscription
// stream and an immutable value; the zero Subscription is for a tenant without a plan.
type Subscription struct {
	Assignments []Assignment // ascending by EffectiveAt, one per instant
	Overrides   []Override   // ascending by Limit and Per, one for each
}

// Assignment gives a tenant a plan from EffectiveAt on, until the next one takes effect.
type Assignment struct {
	Plan          catalog.PlanKey
	EffectiveAt   time.Time
	BillingAnchor time.Time // billing cycles start on its date in the tenant's zone
}

// Override is a tenant's own maximum of a limit, in place of the plan's.
type Override struct {
	Limit  catalog.LimitKey
	Per    Values // of a limit that counts by data fields; "" is the limit itself
	Max    money.Decimal
	From   time.Time // zero: no start
	Until  time.Time // exclusive; zero: no end
	Reason string
	By     event.Actor
}

// Values are data fields with their values, as a JSON object whose members are sorted; "" is none.
type Values string

// ValuesOf writes values.
func ValuesOf(values map[string]string) Values {
	if len(values) == 0 {
		return ""
	}
	text, err := json.Marshal(values)
	if err != nil {
		panic("tenant: texts cannot be written: " + err.Error())
	}
	return Values(text)
}

// Map reads what ValuesOf wrote; nil for none.
func (v Values) Map() (values map[string]string) {
	if v != "" && json.Unmarshal([]byte(v), &values) != nil {
		panic("tenant: values that ValuesOf did not write: " + string(v))
	}
	return values
}

// Equal reports whether both are the same, except for By.
func (o Override) Equal(other Override) bool {
	return o.Limit == other.Limit && o.Per == other.Per && o.Max.Equal(other.Max) && o.From.Equal(other.From) && o.Until.Equal(other.Until) && o.Reason == other.Reason
}

// At is the assignment in force at t: the last one with EffectiveAt <= t.
func (s Subscription) At(t time.Time) (Assignment, bool) {
	after, _ := slices.BinarySearchFunc(s.Assignments, t, func(a Assignment, t time.Time) int {
		if a.EffectiveAt.After(t) {
			return 1
		}
		return -1
	})
	if after == 0 {
		return Assignment{}, false
	}
	return s.Assignments[after-1], true
}

// InForce reports whether the override holds at t.
func (o Override) InForce(t time.Time) bool {
	return !t.Before(o.From) && (o.Until.IsZero() || t.Before(o.Until))
}

// Override is the override of a limit itself that is in force at t.
func (s Subscription) Override(l catalog.LimitKey, t time.Time) (Override, bool) {
	o, ok := s.Overriding(l, "")
	if !ok || !o.InForce(t) {
		return Override{}, false
	}
	return o, true
}

// Overriding is the override of a limit, or of single values of it, whether or not it is in force.
func (s Subscription) Overriding(l catalog.LimitKey, per Values) (Override, bool) {
	i, ok := slices.BinarySearchFunc(s.Overrides, Override{Limit: l, Per: per}, compareLimit)
	if !ok {
		return Override{}, false
	}
	return s.Overrides[i], true
}

// Assign is the subscription with one more assignment, which replaces one at the same instant.
func (s Subscription) Assign(a Assignment) Subscription {
	i, ok := slices.BinarySearchFunc(s.Assignments, a.EffectiveAt, func(b Assignment, t time.Time) int { return b.EffectiveAt.Compare(t) })
	s.Assignments = with(s.Assignments, i, ok, a)
	return s
}

// SetOverride is the subscription with the override, which replaces one of the same limit and values.
func (s Subscription) SetOverride(o Override) Subscription {
	i, ok := slices.BinarySearchFunc(s.Overrides, o, compareLimit)
	s.Overrides = with(s.Overrides, i, ok, o)
	return s
}

// RemoveOverride is the subscription without an override of the limit, or of single values of it.
func (s Subscription) RemoveOverride(l catalog.LimitKey, per Values) Subscription {
	if i, ok := slices.BinarySearchFunc(s.Overrides, Override{Limit: l, Per: per}, compareLimit); ok {
		s.Overrides = slices.Concat(s.Overrides[:i], s.Overrides[i+1:])
	}
	return s
}

// Apply folds one event of the subscription stream; for other events it changes nothing and ok is false.
func (s Subscription) Apply(payload any) (_ Subscription, ok bool) {
	switch e := payload.(type) {
	case event.PlanAssigned:
		return s.Assign(AssignmentOf(e)), true
	case event.LimitOverridden:
		return s.SetOverride(OverrideOf(e)), true
	case event.LimitOverrideRemoved:
		return s.RemoveOverride(catalog.LimitKey(e.Limit), ValuesOf(e.Per)), true
	}
	return s, false
}

// AssignmentOf is the assignment in an event.
func AssignmentOf(e event.PlanAssigned) Assignment {
	return Assignment{Plan: catalog.PlanKey(e.Plan), EffectiveAt: e.EffectiveAt.UTC(), BillingAnchor: e.BillingAnchor.UTC()}
}

// OverrideOf is the override in an event.
func OverrideOf(e event.LimitOverridden) Override {
	return Override{Limit: catalog.LimitKey(e.Limit), Per: ValuesOf(e.Per), Max: e.Max, From: e.From.UTC(), Until: e.Until.UTC(), Reason: e.Reason, By: e.By}
}

func compareLimit(a, b Override) int {
	return cmp.Or(cmp.Compare(a.Limit, b.Limit), cmp.Compare(a.Per, b.Per))
}

// with is a new list that has v at index i: it replaces the element there, or is inserted before it.
func with[T any](list []T, i int, replace bool, v T) []T {
	rest := list[i:]
	if replace {
		rest = rest[1:]
	}
	return slices.Concat(list[:i], []T{v}, rest)
}

// Equal reports whether both are the same, except for the By of overrides.
func (s Subscription) Equal(other Subscription) bool {
	return slices.EqualFunc(s.Assignments, other.Assignments, func(a, b Assignment) bool {
		return a.Plan == b.Plan && a.EffectiveAt.Equal(b.EffectiveAt) && a.BillingAnchor.Equal(b.BillingAnchor)
	}) && slices.EqualFunc(s.Overrides, other.Overrides, Override.Equal)
}
