package projections

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Kind groups what happened, in the words of the timeline.
type Kind string

// The kinds of timeline items.
const (
	KindUsage      Kind = "usage"
	KindCorrection Kind = "correction"
	KindConflict   Kind = "conflict"
	KindTenant     Kind = "tenant"
	KindKey        Kind = "key"
	KindSwitch     Kind = "admin_switch"
	KindPlan       Kind = "plan"
	KindLimit      Kind = "limit"    // a tenant's own maximum
	KindDecision   Kind = "decision" // of a check
	KindHold       Kind = "hold"
	KindInvoice    Kind = "invoice"
	KindPayment    Kind = "payment"
	KindGrant      Kind = "grant"
	kindCatalog    Kind = "catalog" // of the installation, so on no timeline
)

// kindNumbers are the kinds in the read model. Numbers are never reused.
var kindNumbers = map[Kind]int16{KindUsage: 1, KindCorrection: 2, KindConflict: 3, KindTenant: 4, KindKey: 5, KindSwitch: 6,
	KindPlan: 7, KindLimit: 8, KindDecision: 9, KindHold: 10, KindInvoice: 11, KindPayment: 12, KindGrant: 13}

// Number is the kind in the read model; 0 for what is no kind.
func (k Kind) Number() int16 { return kindNumbers[k] }

// TimelineRow points to one event of a tenant in the log. It is an index, not a copy: what the event says is read from
// the log when somebody looks at it.
type TimelineRow struct {
	Tenant event.TenantID
	// OccurredAt is when the fact happened, the check was decided, the hold ended; when it was recorded for all else.
	OccurredAt time.Time
	Position   eventstore.Position
	// Source and Type stand for texts of any length; a reader compares the texts once it has the event. They are 0 for
	// an event without source or usage type.
	Source int64
	Type   int32
	Kind   int16
}

// AppendTimeline appends one row for each event that has a tenant, in the order of the log.
func AppendTimeline(rows []TimelineRow, events []Event) []TimelineRow {
	for i := range events {
		e := &events[i]
		if e.Tenant == "" {
			continue
		}
		row := TimelineRow{Tenant: event.TenantID(e.Tenant), OccurredAt: e.RecordedAt, Position: e.Position}
		kind, of := about(e.Payload)
		row.Kind = kind.Number()
		if of.Source != "" {
			row.Source, row.Type = SourceHash(of.Tenant, of.Source), TypeHash(of.Type)
		}
		if !of.at.IsZero() {
			row.OccurredAt = of.at
		}
		rows = append(rows, row)
	}
	return rows
}

// subject is the fact or check that an event is about, and when that happened; empty and zero where there is none.
type subject struct {
	event.Identity
	at time.Time
}

// about tells the kind of an event and what it is about.
func about(payload any) (Kind, subject) {
	switch e := payload.(type) {
	case event.UsageRecorded:
		return KindUsage, subject{e.Identity, e.OccurredAt}
	case event.UsageVoided:
		return KindCorrection, subject{Identity: e.Identity}
	case event.UsageAdjusted:
		return KindCorrection, subject{Identity: e.Identity}
	case event.UsageConflicted:
		return KindConflict, subject{Identity: e.Identity}
	case event.LimitDecided:
		return KindDecision, subject{e.Identity, e.DecidedAt}
	case event.HoldReleased:
		return KindHold, subject{e.Identity, e.ReleasedAt}
	case event.HoldExpired:
		return KindHold, subject{e.Identity, e.ExpiredAt}
	case event.PlanAssigned:
		return KindPlan, subject{}
	case event.LimitOverridden, event.LimitOverrideRemoved:
		return KindLimit, subject{}
	case event.TenantDefined, event.TenantStatusChanged, event.HostVerified:
		return KindTenant, subject{}
	case event.InvoiceFinalised, event.InvoiceVoided:
		return KindInvoice, subject{}
	case event.InvoiceSettled:
		return KindPayment, subject{}
	case event.CreditGranted, event.CreditRefunded:
		return KindGrant, subject{}
	case event.KeyCreated, event.KeyRevoked:
		return KindKey, subject{}
	case event.AdminSwitched:
		return KindSwitch, subject{}
	default:
		return kindCatalog, subject{}
	}
}

// SourceHash is FNV-1a (64 bit) of tenant, NUL and source.
func SourceHash(tenant event.TenantID, source event.SourceID) int64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(tenant) {
		h = (h ^ uint64(tenant[i])) * prime
	}
	h *= prime
	for i := range len(source) {
		h = (h ^ uint64(source[i])) * prime
	}
	return int64(h) //nolint:gosec // all 64 bits are wanted
}

// TypeHash is FNV-1a (32 bit) of the usage event type.
func TypeHash(t event.Type) int32 {
	const offset, prime = 2166136261, 16777619
	h := uint32(offset)
	for i := range len(t) {
		h = (h ^ uint32(t[i])) * prime
	}
	return int32(h) //nolint:gosec // all 32 bits are wanted
}

// Item is one event as a tenant's timeline shows it.
type Item struct {
	Position   eventstore.Position
	RecordedAt time.Time
	OccurredAt time.Time
	Kind       Kind
	EventType  event.Type     // "" when it is not about a fact or a check
	Source     event.SourceID // likewise
	Quantity   *money.Decimal // nil where there is none; of an adjustment the new one, of a void the one that is taken back
	Summary    string         // a sentence that a support person can read out
	Data       json.RawMessage
}

// Is reports whether the item passes the filters of a timeline query: typ is a usage event type or a kind, and "" is no
// filter.
func (i Item) Is(typ string, source event.SourceID) bool {
	return (typ == "" || string(i.EventType) == typ || string(i.Kind) == typ) && (source == "" || i.Source == source)
}

// Describe puts an event into words.
func Describe(e Event) Item {
	kind, of := about(e.Payload)
	item := Item{Position: e.Position, RecordedAt: e.RecordedAt, OccurredAt: e.RecordedAt, Kind: kind, EventType: of.Type, Source: of.Source}
	if !of.at.IsZero() {
		item.OccurredAt = of.at
	}
	switch p := e.Payload.(type) {
	case event.UsageRecorded:
		item.Quantity = &p.Quantity
		item.Summary = fmt.Sprintf("%s %s reported for %s%s.", p.Quantity.Grouped(), p.Type, p.Source, details(p.Data))
		item.Data = p.Data.AppendJSON(nil)
	case event.UsageVoided:
		item.Quantity = &p.Usage.Quantity
		item.Summary = fmt.Sprintf("%s %s reported for %s taken back by %s: %s",
			p.Usage.Quantity.Grouped(), p.Type, p.Source, actor(p.By), sentence(p.Reason))
		item.Data = object("reason", p.Reason, "by", p.By, "occurredAt", stamp(p.OccurredAt), "data", p.Data)
	case event.UsageAdjusted:
		item.Quantity = &p.Quantity
		item.Summary = fmt.Sprintf("%s for %s changed from %s to %s by %s: %s",
			p.Type, p.Source, p.Usage.Quantity.Grouped(), p.Quantity.Grouped(), actor(p.By), sentence(p.Reason))
		if p.Usage.Quantity.Equal(p.Quantity) {
			item.Summary = fmt.Sprintf("Details of %s %s for %s changed by %s: %s",
				p.Quantity.Grouped(), p.Type, p.Source, actor(p.By), sentence(p.Reason))
		}
		item.Data = object("reason", p.Reason, "by", p.By, "occurredAt", stamp(p.OccurredAt), "data", p.Data,
			"before", object("quantity", p.Usage.Quantity, "data", p.Usage.Data))
	case event.UsageConflicted:
		item.Quantity = &p.Quantity
		item.Summary = fmt.Sprintf("%s %s reported for %s again with other content%s; it was refused and nothing changed.",
			p.Quantity.Grouped(), p.Type, p.Source, details(p.Data))
		item.Data = object("occurredAt", stamp(p.OccurredAt), "data", p.Data)
	case event.LimitDecided:
		item.Quantity, item.Summary, item.Data = &p.Quantity, decided(p), explanation(p)
	case event.HoldReleased:
		item.Summary = fmt.Sprintf("Hold for %s (%s) was released by %s.", p.Source, p.Type, actor(p.By))
		item.Data = object("by", p.By)
	case event.HoldExpired:
		item.Summary = fmt.Sprintf("Hold for %s (%s) expired.", p.Source, p.Type)
		item.Data = object("expiredAt", stamp(p.ExpiredAt))
	case event.PlanAssigned:
		item.Summary = fmt.Sprintf("Plan %s was assigned by %s, from %s on.", p.Plan, actor(p.By), day(p.EffectiveAt))
		item.Data = object("plan", p.Plan, "effectiveAt", stamp(p.EffectiveAt), "billingAnchor", stamp(p.BillingAnchor), "by", p.By)
	case event.LimitOverridden:
		item.Summary = fmt.Sprintf("Limit %s was set to %s for this workspace by %s%s: %s", p.Limit, p.Max.Grouped(), actor(p.By), span(p.From, p.Until), sentence(p.Reason))
		item.Data = object("limit", p.Limit, "max", p.Max, "from", optional(p.From), "until", optional(p.Until), "reason", p.Reason, "by", p.By)
	case event.LimitOverrideRemoved:
		item.Summary = fmt.Sprintf("Limit %s was set back to what the plan says by %s.", p.Limit, actor(p.By))
		item.Data = object("limit", p.Limit, "by", p.By)
	case event.TenantDefined:
		item.Summary = fmt.Sprintf("%s was set up by %s: time zone %s, currency %s%s.", p.Name, actor(p.By), p.TimeZone, p.Currency, hosts(p.Hosts))
		item.Data = object("name", p.Name, "timeZone", p.TimeZone, "currency", p.Currency, "hosts", p.Hosts, "slug", p.Slug, "by", p.By)
	case event.TenantStatusChanged:
		item.Summary = fmt.Sprintf("The workspace was made %s by %s: %s", p.Status, actor(p.By), sentence(p.Reason))
		item.Data = object("status", p.Status, "reason", p.Reason, "by", p.By)
	case event.HostVerified:
		item.Summary = fmt.Sprintf("Host %s was verified by its DNS for %s.", p.Host, actor(p.By))
		item.Data = object("host", p.Host, "by", p.By)
	case event.KeyCreated:
		item.Summary = fmt.Sprintf("API key %q was created by %s.", p.Name, actor(p.By))
		item.Data = object("id", p.ID, "kind", p.Kind, "name", p.Name, "expiresAt", optional(p.ExpiresAt), "by", p.By)
	case event.KeyRevoked:
		item.Summary = fmt.Sprintf("API key %s was revoked by %s.", p.ID, actor(p.By))
		item.Data = object("id", p.ID, "by", p.By)
	case event.AdminSwitched:
		item.Summary = fmt.Sprintf("An administrator (%s) acted in this workspace: %s", actor(p.By), sentence(p.Reason))
		item.Data = object("reason", p.Reason, "by", p.By)
	case event.InvoiceFinalised:
		i := &p.Invoice
		item.Summary = fmt.Sprintf("Invoice %s over %s %s for %s to %s was finalised by %s.", i.Number, i.Total.Fixed(i.Decimals), i.Currency, day(i.PeriodStart), day(i.PeriodEnd), actor(p.By))
		if c := i.Credits(); c.Sign() != 0 {
			item.Summary += fmt.Sprintf(" Credits paid %s %s.", c.Fixed(i.Decimals), i.Currency)
		}
		item.Data = object("id", i.ID, "number", i.Number, "total", i.Total, "credits", i.Credits(), "currency", i.Currency, "periodStart", stamp(i.PeriodStart), "periodEnd", stamp(i.PeriodEnd), "by", p.By)
	case event.InvoiceVoided:
		item.Summary = fmt.Sprintf("Invoice %s was voided by %s with credit note %s: %s", p.ID, actor(p.By), p.CreditNote, sentence(p.Reason))
		item.Data = object("id", p.ID, "creditNote", p.CreditNote, "rebill", p.Rebill, "reason", p.Reason, "by", p.By)
	case event.InvoiceSettled:
		item.Summary = fmt.Sprintf("Invoice %s was marked %s by %s: %s", p.ID, p.As, actor(p.By), sentence(p.Reference))
		item.Data = object("id", p.ID, "as", p.As, "reference", p.Reference, "by", p.By)
	case event.CreditGranted:
		item.Summary = fmt.Sprintf("%s %s of %s credit were granted as %q by %s%s.", p.Amount.Grouped(), p.Currency, p.Kind, p.ID, actor(p.By), until(p.ExpiresAt))
		item.Data = object("grantId", p.ID, "kind", p.Kind, "amount", p.Amount, "currency", p.Currency, "priority", p.Priority,
			"effectiveAt", optional(p.EffectiveAt), "expiresAt", optional(p.ExpiresAt), "by", p.By)
	case event.CreditRefunded:
		item.Summary = fmt.Sprintf("%s of the credit %q were taken back by %s: %s", p.Amount.Grouped(), p.ID, actor(p.By), sentence(p.Reason))
		item.Data = object("grantId", p.ID, "refundId", p.Refund, "amount", p.Amount, "reason", p.Reason, "by", p.By)
	case event.NameClaimed:
		item.Summary = fmt.Sprintf("The %s %s was claimed for %s by %s.", p.Kind, p.Name, p.Tenant, actor(p.By))
		item.Data = object("kind", p.Kind, "name", p.Name, "tenantId", p.Tenant, "by", p.By)
	case event.NameReleased:
		item.Summary = fmt.Sprintf("The %s %s is no longer used by %s; %s took it out.", p.Kind, p.Name, p.Tenant, actor(p.By))
		item.Data = object("kind", p.Kind, "name", p.Name, "tenantId", p.Tenant, "by", p.By)
	case event.NameFreed:
		item.Summary = fmt.Sprintf("The %s %s was freed by %s: %s", p.Kind, p.Name, actor(p.By), sentence(p.Reason))
		item.Data = object("kind", p.Kind, "name", p.Name, "reason", p.Reason, "by", p.By)
	case event.CatalogApplied:
		item.Summary = fmt.Sprintf("The catalog was changed by %s.", actor(p.By))
		item.Data = object("by", p.By)
	case event.CostsImported:
		item.Summary = fmt.Sprintf("What providers charge was changed by %s for %d models, from %s on, by the price list %s.",
			actor(p.By), len(p.Costs)+len(p.Removed), p.From, p.Source)
		item.Data = object("source", p.Source, "sha256", p.Hash, "from", p.From, "changed", len(p.Costs), "removed", len(p.Removed), "by", p.By)
	default:
		item.Summary = e.Type + "."
		item.Data = object()
	}
	return item
}

func until(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return ", until " + stamp(t)
}

// object is a JSON object of names and values in turn, in this order.
func object(members ...any) json.RawMessage {
	b := []byte{'{'}
	for i := 0; i < len(members); i += 2 {
		if i > 0 {
			b = append(b, ',')
		}
		for j, m := range members[i : i+2] {
			text, err := json.Marshal(m)
			if err != nil {
				panic(fmt.Sprintf("projections: %T cannot be written: %v", m, err)) // only plain values are given
			}
			b = append(b, text...)
			if j == 0 {
				b = append(b, ':')
			}
		}
	}
	return append(b, '}')
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// details names what a person would ask about first.
func details(d event.Data) string {
	var parts []string
	for _, f := range [...]struct{ name, word string }{{"model", "model"}, {"feature", "feature"}, {"status", "status"}} {
		v := d.Get(f.name)
		if v.Kind != event.Text || v.String() == "" || f.name == "status" && v.String() == "ok" {
			continue
		}
		parts = append(parts, f.word+" "+v.String())
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func hosts(h []string) string {
	switch len(h) {
	case 0:
		return ""
	case 1:
		return ", host " + h[0]
	default:
		return ", hosts " + strings.Join(h, ", ")
	}
}

func actor(a event.Actor) string {
	if id, ok := strings.CutPrefix(string(a), "key:"); ok {
		return "API key " + id
	}
	switch a {
	case "cli":
		return "an operator on the command line"
	case "", "system":
		return "the system"
	}
	return string(a)
}

// sentence closes a text that somebody wrote.
func sentence(text string) string {
	text = strings.TrimSpace(text)
	if text == "" || strings.ContainsRune(".!?", rune(text[len(text)-1])) {
		return text
	}
	return text + "."
}
