package timeline

import (
	"fmt"
	"reflect"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
)

// entries holds one entry for each kind of event: what the timeline lists it as, and in which words. A new kind of event
// needs an entry here and nothing else.
var entries = byPayload(
	about(KindUsage, func(p event.UsageRecorded) Subject { return Subject{p.Identity, p.OccurredAt} }, func(p event.UsageRecorded, item *Item) {
		item.Quantity = &p.Quantity
		item.Summary = fmt.Sprintf("%s %s reported for %s%s.", p.Quantity.Grouped(), p.Type, p.Source, details(p.Data))
		item.Data = p.Data.AppendJSON(nil)
	}),
	about(KindCorrection, func(p event.UsageVoided) Subject { return Subject{Identity: p.Identity} }, func(p event.UsageVoided, item *Item) {
		item.Quantity = &p.Usage.Quantity
		item.Summary = fmt.Sprintf("%s %s reported for %s taken back by %s: %s",
			p.Usage.Quantity.Grouped(), p.Type, p.Source, actor(p.By), sentence(p.Reason))
		item.Data = object("reason", p.Reason, "by", p.By, "occurredAt", stamp(p.OccurredAt), "data", p.Data)
	}),
	about(KindCorrection, func(p event.UsageAdjusted) Subject { return Subject{Identity: p.Identity} }, func(p event.UsageAdjusted, item *Item) {
		item.Quantity = &p.Quantity
		item.Summary = fmt.Sprintf("%s for %s changed from %s to %s by %s: %s",
			p.Type, p.Source, p.Usage.Quantity.Grouped(), p.Quantity.Grouped(), actor(p.By), sentence(p.Reason))
		if p.Usage.Quantity.Equal(p.Quantity) {
			item.Summary = fmt.Sprintf("Details of %s %s for %s changed by %s: %s",
				p.Quantity.Grouped(), p.Type, p.Source, actor(p.By), sentence(p.Reason))
		}
		item.Data = object("reason", p.Reason, "by", p.By, "occurredAt", stamp(p.OccurredAt), "data", p.Data,
			"before", object("quantity", p.Usage.Quantity, "data", p.Usage.Data))
	}),
	about(KindConflict, func(p event.UsageConflicted) Subject { return Subject{Identity: p.Identity} }, func(p event.UsageConflicted, item *Item) {
		item.Quantity = &p.Quantity
		item.Summary = fmt.Sprintf("%s %s reported for %s again with other content%s; it was refused and nothing changed.",
			p.Quantity.Grouped(), p.Type, p.Source, details(p.Data))
		item.Data = object("occurredAt", stamp(p.OccurredAt), "data", p.Data)
	}),
	about(KindDecision, func(p event.LimitDecided) Subject { return Subject{p.Identity, p.DecidedAt} }, func(p event.LimitDecided, item *Item) {
		item.Quantity, item.Summary, item.Data = &p.Quantity, decided(p), explanation(p)
	}),
	about(KindHold, func(p event.HoldReleased) Subject { return Subject{p.Identity, p.ReleasedAt} }, func(p event.HoldReleased, item *Item) {
		item.Summary = fmt.Sprintf("Hold for %s (%s) was released by %s.", p.Source, p.Type, actor(p.By))
		item.Data = object("by", p.By)
	}),
	about(KindHold, func(p event.HoldExpired) Subject { return Subject{p.Identity, p.ExpiredAt} }, func(p event.HoldExpired, item *Item) {
		item.Summary = fmt.Sprintf("Hold for %s (%s) expired.", p.Source, p.Type)
		item.Data = object("expiredAt", stamp(p.ExpiredAt))
	}),
	listed(KindPlan, func(p event.PlanAssigned, item *Item) {
		item.Summary = fmt.Sprintf("Plan %s was assigned by %s, from %s on.", p.Plan, actor(p.By), day(p.EffectiveAt))
		item.Data = object("plan", p.Plan, "effectiveAt", stamp(p.EffectiveAt), "billingAnchor", stamp(p.BillingAnchor), "by", p.By)
	}),
	listed(KindLimit, func(p event.LimitOverridden, item *Item) {
		item.Summary = fmt.Sprintf("Limit %s was set to %s for this workspace by %s%s: %s", p.Limit, p.Max.Grouped(), actor(p.By), span(p.From, p.Until), sentence(p.Reason))
		item.Data = object("limit", p.Limit, "max", p.Max, "from", optional(p.From), "until", optional(p.Until), "reason", p.Reason, "by", p.By)
	}),
	listed(KindLimit, func(p event.LimitOverrideRemoved, item *Item) {
		item.Summary = fmt.Sprintf("Limit %s was set back to what the plan says by %s.", p.Limit, actor(p.By))
		item.Data = object("limit", p.Limit, "by", p.By)
	}),
	listed(KindTenant, func(p event.TenantDefined, item *Item) {
		item.Summary = fmt.Sprintf("%s was set up by %s: time zone %s, currency %s%s.", p.Name, actor(p.By), p.TimeZone, p.Currency, hosts(p.Hosts))
		item.Data = object("name", p.Name, "timeZone", p.TimeZone, "currency", p.Currency, "hosts", p.Hosts, "slug", p.Slug, "by", p.By)
	}),
	listed(KindTenant, func(p event.TenantStatusChanged, item *Item) {
		item.Summary = fmt.Sprintf("The workspace was made %s by %s: %s", p.Status, actor(p.By), sentence(p.Reason))
		item.Data = object("status", p.Status, "reason", p.Reason, "by", p.By)
	}),
	listed(KindTenant, func(p event.HostVerified, item *Item) {
		item.Summary = fmt.Sprintf("Host %s was verified by its DNS for %s.", p.Host, actor(p.By))
		item.Data = object("host", p.Host, "by", p.By)
	}),
	listed(KindKey, func(p event.KeyCreated, item *Item) {
		item.Summary = fmt.Sprintf("API key %q was created by %s.", p.Name, actor(p.By))
		item.Data = object("id", p.ID, "kind", p.Kind, "name", p.Name, "expiresAt", optional(p.ExpiresAt), "by", p.By)
	}),
	listed(KindKey, func(p event.KeyRevoked, item *Item) {
		item.Summary = fmt.Sprintf("API key %s was revoked by %s.", p.ID, actor(p.By))
		item.Data = object("id", p.ID, "by", p.By)
	}),
	listed(KindSwitch, func(p event.AdminSwitched, item *Item) {
		item.Summary = fmt.Sprintf("An administrator (%s) acted in this workspace: %s", actor(p.By), sentence(p.Reason))
		item.Data = object("reason", p.Reason, "by", p.By)
	}),
	listed(KindInvoice, func(p event.InvoiceFinalised, item *Item) {
		i := &p.Invoice
		item.Summary = fmt.Sprintf("Invoice %s over %s %s for %s to %s was finalised by %s.", i.Number, i.Total.Fixed(i.Decimals), i.Currency, day(i.PeriodStart), day(i.PeriodEnd), actor(p.By))
		if c := i.Credits(); c.Sign() != 0 {
			item.Summary += fmt.Sprintf(" Credits paid %s %s.", c.Fixed(i.Decimals), i.Currency)
		}
		item.Data = object("id", i.ID, "number", i.Number, "total", i.Total, "credits", i.Credits(), "currency", i.Currency, "periodStart", stamp(i.PeriodStart), "periodEnd", stamp(i.PeriodEnd), "by", p.By)
	}),
	listed(KindInvoice, func(p event.InvoiceVoided, item *Item) {
		item.Summary = fmt.Sprintf("Invoice %s was voided by %s with credit note %s: %s", p.ID, actor(p.By), p.CreditNote, sentence(p.Reason))
		item.Data = object("id", p.ID, "creditNote", p.CreditNote, "rebill", p.Rebill, "reason", p.Reason, "by", p.By)
	}),
	listed(KindPayment, func(p event.InvoiceSettled, item *Item) {
		item.Summary = fmt.Sprintf("Invoice %s was marked %s by %s: %s", p.ID, p.As, actor(p.By), sentence(p.Reference))
		item.Data = object("id", p.ID, "as", p.As, "reference", p.Reference, "by", p.By)
	}),
	listed(KindGrant, func(p event.CreditGranted, item *Item) {
		item.Summary = fmt.Sprintf("%s %s of %s credit were granted as %q by %s%s.", p.Amount.Grouped(), p.Currency, p.Kind, p.ID, actor(p.By), until(p.ExpiresAt))
		item.Data = object("grantId", p.ID, "kind", p.Kind, "amount", p.Amount, "currency", p.Currency, "priority", p.Priority,
			"effectiveAt", optional(p.EffectiveAt), "expiresAt", optional(p.ExpiresAt), "by", p.By)
	}),
	listed(KindGrant, func(p event.CreditRefunded, item *Item) {
		item.Summary = fmt.Sprintf("%s of the credit %q were taken back by %s: %s", p.Amount.Grouped(), p.ID, actor(p.By), sentence(p.Reason))
		item.Data = object("grantId", p.ID, "refundId", p.Refund, "amount", p.Amount, "reason", p.Reason, "by", p.By)
	}),
	listed(KindInstallation, func(p event.NameClaimed, item *Item) {
		item.Summary = fmt.Sprintf("The %s %s was claimed for %s by %s.", p.Kind, p.Name, p.Tenant, actor(p.By))
		item.Data = object("kind", p.Kind, "name", p.Name, "tenantId", p.Tenant, "by", p.By)
	}),
	listed(KindInstallation, func(p event.NameReleased, item *Item) {
		item.Summary = fmt.Sprintf("The %s %s is no longer used by %s; %s took it out.", p.Kind, p.Name, p.Tenant, actor(p.By))
		item.Data = object("kind", p.Kind, "name", p.Name, "tenantId", p.Tenant, "by", p.By)
	}),
	listed(KindInstallation, func(p event.NameFreed, item *Item) {
		item.Summary = fmt.Sprintf("The %s %s was freed by %s: %s", p.Kind, p.Name, actor(p.By), sentence(p.Reason))
		item.Data = object("kind", p.Kind, "name", p.Name, "reason", p.Reason, "by", p.By)
	}),
	listed(KindInstallation, func(p event.CatalogApplied, item *Item) {
		item.Summary = fmt.Sprintf("The catalog was changed by %s.", actor(p.By))
		item.Data = object("by", p.By)
	}),
	listed(KindInstallation, func(p event.CostsImported, item *Item) {
		item.Summary = fmt.Sprintf("What providers charge was changed by %s for %d models, from %s on, by the price list %s.",
			actor(p.By), len(p.Costs)+len(p.Removed), p.From, p.Source)
		item.Data = object("source", p.Source, "sha256", p.Hash, "from", p.From, "changed", len(p.Costs), "removed", len(p.Removed), "by", p.By)
	}),
)

// entry says how the timeline lists the events of one kind.
type entry struct {
	payload reflect.Type
	kind    Kind
	subject func(payload any) Subject
	say     func(payload any, item *Item)
}

// about is the entry of an event about a fact or a check.
func about[E any](kind Kind, subject func(E) Subject, say func(E, *Item)) entry {
	return entry{
		payload: reflect.TypeFor[E](),
		kind:    kind,
		subject: func(payload any) Subject { return subject(payload.(E)) }, //nolint:forcetypeassert // found by its type
		say:     func(payload any, item *Item) { say(payload.(E), item) },  //nolint:forcetypeassert // found by its type
	}
}

// listed is the entry of an event about anything else.
func listed[E any](kind Kind, say func(E, *Item)) entry {
	return about(kind, func(E) Subject { return Subject{} }, say)
}

func byPayload(all ...entry) map[reflect.Type]entry {
	byType := make(map[reflect.Type]entry, len(all))
	for _, e := range all {
		byType[e.payload] = e
	}
	return byType
}

// Subject is the fact or check that an event is about, and when that happened; empty and zero where there is none.
type Subject struct {
	event.Identity
	At time.Time
}

// About returns the kind of an event and what it is about.
func About(payload any) (Kind, Subject) {
	e, ok := entries[reflect.TypeOf(payload)]
	if !ok {
		return KindInstallation, Subject{}
	}
	return e.kind, e.subject(payload)
}

// Describe puts an event into words.
func Describe(e event.Decoded) Item {
	kind, of := About(e.Payload)
	item := Item{Position: e.Position, RecordedAt: e.RecordedAt, OccurredAt: e.RecordedAt, Kind: kind, EventType: of.Type, SourceID: of.Source}
	if !of.At.IsZero() {
		item.OccurredAt = of.At
	}
	if known, ok := entries[reflect.TypeOf(e.Payload)]; ok {
		known.say(e.Payload, &item)
	} else {
		item.Summary, item.Data = e.Type+".", object()
	}
	return item
}
