package event

import (
	"time"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

const (
	planAssigned         kind = "plan_assigned.v1"
	limitOverridden      kind = "limit_overridden.v1"
	limitOverrideRemoved kind = "limit_override_removed.v1"
)

// PlanAssigned: the tenant has the plan from EffectiveAt until the next assignment takes effect. Another assignment at the
// same instant replaces this one.
type PlanAssigned struct {
	Tenant        TenantID  `json:"tenantId"`
	Plan          string    `json:"plan"`
	EffectiveAt   time.Time `json:"effectiveAt"`
	BillingAnchor time.Time `json:"billingAnchor"` // billing cycles start on its date in the tenant's zone
	By            Actor     `json:"by"`
}

// LimitOverridden: the tenant's limit has a maximum of its own instead of the plan's. It replaces the override before it.
type LimitOverridden struct {
	Tenant TenantID          `json:"tenantId"`
	Limit  string            `json:"limit"`
	Per    map[string]string `json:"per,omitempty"` // of a limit that counts by data fields: the values that it is about
	Max    money.Decimal     `json:"max"`
	From   time.Time         `json:"from,omitzero"`  // zero: at once
	Until  time.Time         `json:"until,omitzero"` // exclusive; zero: no end
	Reason string            `json:"reason"`
	By     Actor             `json:"by"`
}

// LimitOverrideRemoved: the plan's maximum applies again.
type LimitOverrideRemoved struct {
	Tenant TenantID          `json:"tenantId"`
	Limit  string            `json:"limit"`
	Per    map[string]string `json:"per,omitempty"`
	By     Actor             `json:"by"`
}

// SubscriptionStream is the stream of a tenant's plan and the overrides of its limits.
func SubscriptionStream(t TenantID) eventstore.StreamName {
	return streamOf("subscription", string(t))
}

func (e PlanAssigned) owner() TenantID         { return e.Tenant }
func (e LimitOverridden) owner() TenantID      { return e.Tenant }
func (e LimitOverrideRemoved) owner() TenantID { return e.Tenant }

func (e PlanAssigned) wellFormed() bool {
	return e.Tenant != "" && e.Plan != "" && !e.EffectiveAt.IsZero() && !e.BillingAnchor.IsZero()
}
func (e LimitOverridden) wellFormed() bool {
	return e.Tenant != "" && e.Limit != "" && e.Max.Sign() >= 0
}
func (e LimitOverrideRemoved) wellFormed() bool { return e.Tenant != "" && e.Limit != "" }

// Append is the log entry after revision expected.
func (e PlanAssigned) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(planAssigned, SubscriptionStream(e.Tenant), expected, e)
}

// Append is the log entry after revision expected.
func (e LimitOverridden) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(limitOverridden, SubscriptionStream(e.Tenant), expected, e)
}

// Append is the log entry after revision expected.
func (e LimitOverrideRemoved) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(limitOverrideRemoved, SubscriptionStream(e.Tenant), expected, e)
}
