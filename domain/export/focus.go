package export

import (
	"strconv"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Issuer is the seller, in the terms of the FinOps Open Cost and Usage Specification (FOCUS).
type Issuer struct {
	Name    string // InvoiceIssuerName, ProviderName, PublisherName and ServiceProviderName
	Service string // ServiceName
	Host    string // HostProviderName: the owner of the infrastructure that the service runs on
}

// The mandatory columns of FOCUS 1.2, the conditional ones that apply, and the provider columns of 1.3. docs/focus.md has the
// mapping.
var focusColumns = []Column{
	{Name: "BillingAccountId"}, {Name: "BillingAccountName", Nullable: true}, {Name: "BillingCurrency"},
	{Name: "BillingPeriodStart", Type: Second}, {Name: "BillingPeriodEnd", Type: Second},
	{Name: "ChargePeriodStart", Type: Second}, {Name: "ChargePeriodEnd", Type: Second},
	{Name: "ChargeCategory"}, {Name: "ChargeClass", Nullable: true}, {Name: "ChargeDescription", Nullable: true}, {Name: "ChargeFrequency"},
	{Name: "BilledCost", Type: Money}, {Name: "EffectiveCost", Type: Money}, {Name: "ListCost", Type: Money}, {Name: "ContractedCost", Type: Money},
	{Name: "ListUnitPrice", Type: Money, Nullable: true}, {Name: "ContractedUnitPrice", Type: Money, Nullable: true},
	{Name: "PricingCategory", Nullable: true}, {Name: "PricingQuantity", Type: Quantity, Nullable: true}, {Name: "PricingUnit", Nullable: true},
	{Name: "ConsumedQuantity", Type: Quantity, Nullable: true}, {Name: "ConsumedUnit", Nullable: true},
	{Name: "SkuId", Nullable: true}, {Name: "SkuPriceId", Nullable: true}, {Name: "SkuMeter", Nullable: true},
	{Name: "InvoiceId"}, {Name: "InvoiceIssuerName"}, {Name: "ProviderName"}, {Name: "PublisherName"},
	{Name: "ServiceProviderName"}, {Name: "HostProviderName"},
	{Name: "ServiceCategory"}, {Name: "ServiceSubcategory"}, {Name: "ServiceName"},
	{Name: "x_LedgerInvoiceId"}, {Name: "x_InvoiceLine", Type: Count, Nullable: true}, {Name: "x_LineKind"}, {Name: "x_GrantId", Nullable: true}, {Name: "x_PlanVersion", Nullable: true},
	{Name: "x_CreditedInvoiceId", Nullable: true}, {Name: "x_IssuedAt", Type: Instant}, {Name: "x_Position"},
}

// The allowed values of FOCUS that we use.
const (
	categoryUsage      = "Usage"
	categoryPurchase   = "Purchase"
	categoryCredit     = "Credit"
	categoryAdjustment = "Adjustment"
	classCorrection    = "Correction"
	frequencyOnce      = "One-Time"
	frequencyRecurring = "Recurring"
	frequencyUsage     = "Usage-Based"
	pricingStandard    = "Standard"
)

// FocusRows are the charges of an invoice that was finalised within the query's time, and those of its credit note if it was voided
// within that time. The billed costs of all rows with one InvoiceId sum to the document's total. A line with tiers or included
// units has a row for each of them, since a row has one unit price. Held usage is not a charge yet and has no row.
func FocusRows(q Query, issuer Issuer, inv *Invoice) (rows []Row) {
	items := itemsOf(inv)
	for i := range items {
		if q.Covers(inv.FinalisedAt) && items[i].Kind != event.HeldLine {
			rows = append(rows, focusItem(issuer, inv, &items[i])...)
		}
	}
	for i := range items {
		if inv.Void != nil && q.Covers(inv.Void.At) && items[i].Kind != event.HeldLine {
			rows = append(rows, focusMirror(issuer, inv, &items[i])...)
		}
	}
	return rows
}

// charge has the columns that differ between the rows of an invoice.
type charge struct {
	document, credited string // numbers
	issuedAt           time.Time
	category, class    string
	frequency          string
	description        string
	billed, contracted money.Decimal
	priced             bool // has a quantity and a unit price
	quantity, price    money.Decimal
	unit               string
	sku                string // the part of the price: a tier or "included"; "" for all of it
	consumes           bool
	consumed           money.Decimal
}

func focusItem(issuer Issuer, inv *Invoice, l *item) (rows []Row) {
	c := charge{document: inv.Number, issuedAt: inv.FinalisedAt, category: categoryOf(l), frequency: frequencyOf(l),
		description: l.Description, billed: l.Amount, contracted: l.Amount}
	switch {
	case l.Kind == returnedLine: // an earlier invoice charged what is no longer owed
		c.class = classCorrection
		return []Row{c.row(issuer, inv, l)}
	case l.Kind == event.AdjustmentLine: // the difference to what was invoiced for the period
		c.class = classCorrection
		if l.Meter != "" {
			c.consumes, c.consumed = true, l.Quantity
		}
		return []Row{c.row(issuer, inv, l)}
	case c.category == categoryAdjustment, c.category == categoryCredit:
		return []Row{c.row(issuer, inv, l)}
	}
	parts := partsOf(&l.InvoiceLine, inv.Decimals)
	rest := l.Amount
	for n, p := range parts {
		c := c
		c.priced, c.quantity, c.price, c.unit, c.sku = true, p.quantity, p.price, p.unit, p.sku
		c.contracted = p.quantity.Mul(p.price)
		if c.billed = c.contracted; n == len(parts)-1 {
			c.billed = rest // the line is rounded once, and its last row has the rest
		}
		rest = rest.Sub(c.billed)
		if c.category == categoryUsage {
			c.consumes, c.consumed = true, p.consumed
		}
		rows = append(rows, c.row(issuer, inv, l))
	}
	return rows
}

// focusMirror reverses a line. If it is invoiced again, its quantity is reversed too; if it is forgiven, the quantity stays used.
func focusMirror(issuer Issuer, inv *Invoice, l *item) []Row {
	if l.Amount.Sign() == 0 && (!inv.Void.Rebilled || l.Quantity.Sign() == 0) {
		return nil
	}
	c := charge{document: inv.Void.Number, credited: inv.Number, issuedAt: inv.Void.At, category: categoryOf(l), class: classCorrection,
		frequency: frequencyOf(l), description: "Credit note: " + l.Description, billed: l.Amount.Neg(), contracted: l.Amount.Neg()}
	if inv.Void.Rebilled && c.category == categoryUsage {
		c.consumes, c.consumed = true, l.Quantity.Neg()
	}
	return []Row{c.row(issuer, inv, l)}
}

func categoryOf(l *item) string {
	switch {
	case l.Kind == event.UsageLine, l.Kind == event.AdjustmentLine && l.Meter != "":
		return categoryUsage
	case l.Kind == event.FeeLine:
		return categoryPurchase
	case l.grant != "":
		return categoryCredit
	default:
		return categoryAdjustment
	}
}

func frequencyOf(l *item) string {
	switch categoryOf(l) {
	case categoryUsage:
		return frequencyUsage
	case categoryPurchase:
		return frequencyRecurring
	default:
		return frequencyOnce
	}
}

// part is a part of a line with one unit price.
type part struct {
	quantity, price, consumed money.Decimal
	unit, sku                 string
}

// partsOf splits a line into parts; none for a line without usage and cost.
func partsOf(l *event.InvoiceLine, decimals int) (parts []part) {
	if l.Kind == event.FeeLine {
		return []part{{quantity: money.Int(1), price: l.Amount, unit: "Periods"}}
	}
	unit := unitOf(l.Meter)
	if l.Included.Sign() > 0 {
		parts = append(parts, part{quantity: l.Included, consumed: l.Included, unit: unit, sku: "included"})
	}
	for i, t := range l.Tiers {
		parts = append(parts, part{quantity: t.Quantity, price: t.Unit, consumed: t.Quantity, unit: unit, sku: strconv.Itoa(i + 1)})
	}
	paid := l.Quantity.Sub(l.Included)
	if len(l.Tiers) > 0 || paid.Sign() <= 0 {
		return parts
	}
	p := part{quantity: money.Int(1), price: l.Amount, unit: "Lots"} // right for any price: one lot for the whole amount
	packages := l.Amount
	if l.Unit.Sign() > 0 {
		packages = l.Amount.Ceil(l.Unit)
	}
	perCent := l.Unit.Mul(money.Scaled(1, 2))
	switch is := func(d money.Decimal) bool { return d.Round(decimals).Equal(l.Amount) }; {
	case is(paid.Mul(l.Unit)):
		p = part{quantity: paid, price: l.Unit, unit: unit}
	case is(paid.Mul(perCent)):
		p = part{quantity: paid, price: perCent, unit: unit}
	case is(packages.Mul(l.Unit)):
		p = part{quantity: packages, price: l.Unit, unit: "Packages"}
	}
	p.consumed = paid
	return append(parts, p)
}

// unitOf turns the key of a meter into a FOCUS unit: "output_tokens" is "Output Tokens".
func unitOf(meter string) string {
	words := strings.FieldsFunc(meter, func(r rune) bool { return r == '_' || r == '-' || r == '.' || r == ' ' })
	for i, w := range words {
		words[i] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, " ")
}

func (c *charge) row(issuer Issuer, inv *Invoice, l *item) Row {
	cost := func(d money.Decimal) Value { return amount(d, inv.Decimals) }
	start, end := inv.period()
	chargeStart, chargeEnd := second(l.PeriodStart), second(l.PeriodEnd)
	if !chargeStart.at.Before(chargeEnd.at) { // a segment within one second
		chargeEnd.at = chargeStart.at.Add(time.Second)
	}
	var number, pricing, price, pricingQuantity, pricingUnit, consumed, consumedUnit, sku, skuPrice Value
	if l.number > 0 {
		number = count(int64(l.number))
	}
	if c.priced {
		pricing, price, pricingQuantity, pricingUnit = text(pricingStandard), cost(c.price), quantity(c.quantity), text(c.unit)
	}
	if c.consumes {
		consumed, consumedUnit = quantity(c.consumed), text(unitOf(l.Meter))
	}
	if c.category == categoryUsage || c.category == categoryPurchase {
		plan, _, _ := strings.Cut(l.PlanVersion, "@")
		sku = text(plan + "/" + l.Price)
		name := l.PlanVersion + "/" + l.Price
		if c.sku != "" {
			name += "/" + c.sku
		}
		skuPrice = text(name)
	}
	return Row{
		text(string(inv.Tenant)), optional(inv.TenantName), text(inv.Currency), second(start), second(end), chargeStart, chargeEnd,
		text(c.category), optional(c.class), optional(c.description), text(c.frequency),
		cost(c.billed), cost(c.billed), cost(c.contracted), cost(c.contracted), price, price,
		pricing, pricingQuantity, pricingUnit, consumed, consumedUnit, sku, skuPrice, optional(unitOf(l.Meter)),
		text(c.document), text(issuer.Name), text(issuer.Name), text(issuer.Name), text(issuer.Name), text(issuer.Host),
		text("AI and Machine Learning"), text("Generative AI"), text(issuer.Service),
		text(string(inv.ID)), number, text(string(l.Kind)), optional(string(l.grant)), optional(l.PlanVersion), optional(c.credited), instant(c.issuedAt), text(inv.Position.String()),
	}
}
