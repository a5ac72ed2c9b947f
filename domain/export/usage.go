package export

import (
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

var usageColumns = []Column{
	{Name: "tenantId"}, {Name: "eventType"}, {Name: "sourceId"}, {Name: "kind"},
	{Name: "occurredAt", Type: Instant}, {Name: "recordedAt", Type: Instant}, {Name: "position"},
	{Name: "quantity", Type: Quantity},
	{Name: "provider", Nullable: true}, {Name: "model", Nullable: true}, {Name: "feature", Nullable: true}, {Name: "promptVersion", Nullable: true},
	{Name: "inputTokens", Type: Count, Nullable: true}, {Name: "cachedInputTokens", Type: Count, Nullable: true}, {Name: "outputTokens", Type: Count, Nullable: true},
	{Name: "reason", Nullable: true}, {Name: "data", Type: Object},
}

// UsageRows are the changes by a fact or a correction. Quantities and tokens are signed, so that the rows of a fact sum to what is
// left of it, in any grouping. An adjustment is one row with the difference; if it changes data, it is two: one subtracts the old
// values and one adds the new. Other events have no rows.
func UsageRows(e event.Decoded) []Row {
	switch p := e.Payload.(type) {
	case event.UsageRecorded:
		return []Row{usageRow(e, "usage", p.Usage, p.Quantity, 1, "")}
	case event.UsageVoided:
		return []Row{usageRow(e, "void", p.Usage, p.Usage.Quantity.Neg(), -1, p.Reason)}
	case event.UsageAdjusted:
		after := p.After()
		if p.Usage.Data.Equal(after.Data) {
			return []Row{usageRow(e, "adjust", after, after.Quantity.Sub(p.Usage.Quantity), 0, p.Reason)}
		}
		return []Row{usageRow(e, "adjust", p.Usage, p.Usage.Quantity.Neg(), -1, p.Reason), usageRow(e, "adjust", after, after.Quantity, 1, p.Reason)}
	default:
		return nil
	}
}

// usageRow multiplies token counts by sign.
func usageRow(e event.Decoded, kind string, u event.Usage, q money.Decimal, sign int64, reason string) Row {
	label := func(name string) Value { return optional(u.Data.Get(name).String()) }
	tokens := func(name string) Value {
		n, ok := u.Data.Get(name).Decimal()
		whole, scale, fits := n.Coefficient()
		if !ok || !fits || scale != 0 { // the data column still has the value
			return Value{}
		}
		return count(sign * whole)
	}
	return Row{
		text(string(u.Tenant)), text(string(u.Type)), text(string(u.Source)), text(kind),
		instant(u.OccurredAt), instant(e.RecordedAt), text(e.Position.String()), quantity(q),
		label("provider"), label("model"), label("feature"), label("promptVersion"),
		tokens("inputTokens"), tokens("cachedInputTokens"), tokens("outputTokens"),
		optional(reason), object(u.Data.AppendJSON(nil)),
	}
}
