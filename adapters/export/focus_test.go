package export_test

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/export"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/pricing"
)

// charge is a row of a FOCUS file by column; "" is null.
type charge map[string]string

func (c charge) number(column string) money.Decimal {
	d, err := money.ParseNumber(c[column])
	if err != nil {
		return money.MustParse("-987654321.123456789") // not equal to anything; the format has a rule of its own
	}
	return d
}

func (c charge) isCorrection() bool { return c["ChargeClass"] == "Correction" }
func (c charge) isPriced() bool {
	return (c["ChargeCategory"] == "Usage" || c["ChargeCategory"] == "Purchase") && !c.isCorrection()
}

// rule is one of FOCUS 1.2, or 1.3 for the provider columns: it names the column and what is asked of it, tells what holds, and
// how a row is broken that it must refuse.
type rule struct {
	name  string
	holds func(charge) bool
	spoil func(charge)
}

// mandatory are the columns of FOCUS 1.2 that are always there, and the mandatory provider columns of 1.3.
var mandatory = []string{"BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd", "ChargeCategory",
	"ChargeClass", "ChargeDescription", "ChargePeriodStart", "ChargePeriodEnd", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity",
	"PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName", "ServiceProviderName", "HostProviderName"}

// conditional are those of the other columns of FOCUS that are there.
var conditional = []string{"ChargeFrequency", "ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice", "InvoiceId", "ListUnitPrice", "PricingCategory",
	"ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceId"}

var (
	dateTime = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$`)
	numeric  = regexp.MustCompile(`^-?\d+(\.\d+)?([eE]-?\d+)?$`)
	times    = []string{"BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"}
	costs    = []string{"BilledCost", "ContractedCost", "EffectiveCost", "ListCost"}
	numbers  = append([]string{"ContractedUnitPrice", "ListUnitPrice", "PricingQuantity", "ConsumedQuantity"}, costs...)
	nullable = []string{"BillingAccountName", "ChargeClass", "ChargeDescription", "PricingQuantity", "PricingUnit", "ConsumedQuantity", "ConsumedUnit",
		"ContractedUnitPrice", "ListUnitPrice", "PricingCategory", "SkuId", "SkuMeter", "SkuPriceId"}
)

func set(column, value string) func(charge) {
	return func(c charge) { c[column] = value }
}

func as(category, class string, more ...string) func(charge) {
	return func(c charge) {
		c["ChargeCategory"], c["ChargeClass"] = category, class
		for i := 0; i < len(more); i += 2 {
			c[more[i]] = more[i+1]
		}
	}
}

// focusRules are those of a row. spoil breaks a row of usage that is priced per unit.
func focusRules() (rules []rule) {
	add := func(name string, holds func(charge) bool, spoil func(charge)) {
		rules = append(rules, rule{name, holds, spoil})
	}
	all := append(slices.Clone(mandatory), conditional...)
	for _, column := range all {
		if !slices.Contains(nullable, column) {
			add(column+": must not be null", func(c charge) bool { return c[column] != "" }, set(column, ""))
		}
		add(column+": NullHandling, no placeholder for null", func(c charge) bool {
			return !slices.Contains([]string{"null", "none", "n/a", "na", "not applicable", "-", "unknown"}, strings.ToLower(c[column]))
		}, set(column, "N/A"))
	}
	for _, column := range times {
		add(column+": DateTimeFormat, YYYY-MM-DDTHH:mm:ssZ in UTC", func(c charge) bool {
			_, err := time.Parse(time.RFC3339, c[column])
			return dateTime.MatchString(c[column]) && err == nil
		}, set(column, "2026-04-01T00:00:00+02:00"))
	}
	for _, column := range numbers {
		add(column+": NumericFormat, decimal without sign +, comma, currency or unit", func(c charge) bool {
			return c[column] == "" || numeric.MatchString(c[column])
		}, set(column, "+1,000.5"))
	}
	allowed := func(column string, values ...string) {
		add(column+": allowed values", func(c charge) bool { return slices.Contains(values, c[column]) }, set(column, "Other Things"))
	}
	allowed("ChargeCategory", "Usage", "Purchase", "Tax", "Credit", "Adjustment")
	allowed("ChargeClass", "", "Correction")
	allowed("ChargeFrequency", "One-Time", "Recurring", "Usage-Based")
	allowed("PricingCategory", "", "Standard", "Dynamic", "Committed", "Other")
	allowed("ServiceCategory", "AI and Machine Learning")
	allowed("ServiceSubcategory", "Generative AI") // of that category
	add("BillingCurrency: CurrencyFormat, a code of ISO 4217", func(c charge) bool { return catalog.Currency(c["BillingCurrency"]).Active() }, set("BillingCurrency", "Euro"))
	add("BillingPeriodEnd: exclusive, after BillingPeriodStart", func(c charge) bool { return c["BillingPeriodStart"] < c["BillingPeriodEnd"] },
		func(c charge) { c["BillingPeriodEnd"] = c["BillingPeriodStart"] })
	add("ChargePeriodEnd: exclusive, after ChargePeriodStart", func(c charge) bool { return c["ChargePeriodStart"] < c["ChargePeriodEnd"] },
		func(c charge) { c["ChargePeriodEnd"] = c["ChargePeriodStart"] })
	add("ChargeFrequency: not Usage-Based for a purchase", func(c charge) bool {
		return c["ChargeCategory"] != "Purchase" || c["ChargeFrequency"] != "Usage-Based"
	}, as("Purchase", ""))

	for _, column := range []string{"PricingQuantity", "ContractedUnitPrice", "ListUnitPrice", "PricingCategory", "SkuPriceId", "SkuId"} {
		add(column+": must not be null for usage and purchases that correct nothing", func(c charge) bool { return !c.isPriced() || c[column] != "" }, set(column, ""))
	}
	for _, column := range []string{"PricingQuantity", "ContractedUnitPrice", "ListUnitPrice", "PricingCategory", "SkuPriceId"} {
		add(column+": must be null for taxes", func(c charge) bool { return c["ChargeCategory"] != "Tax" || c[column] == "" }, as("Tax", ""))
	}
	add("PricingUnit: null exactly where PricingQuantity is", func(c charge) bool { return (c["PricingUnit"] == "") == (c["PricingQuantity"] == "") }, set("PricingUnit", ""))
	add("ConsumedUnit: null exactly where ConsumedQuantity is", func(c charge) bool { return (c["ConsumedUnit"] == "") == (c["ConsumedQuantity"] == "") }, set("ConsumedUnit", ""))
	for _, column := range []string{"PricingUnit", "ConsumedUnit"} {
		add(column+": UnitFormat, words with capitals", func(c charge) bool {
			return !strings.Contains(c[column], "_") && c[column] == strings.ToUpper(c[column][:min(1, len(c[column]))])+c[column][min(1, len(c[column])):]
		}, set(column, "output_tokens"))
	}
	add("ConsumedQuantity: must be null unless it is usage", func(c charge) bool { return c["ChargeCategory"] == "Usage" || c["ConsumedQuantity"] == "" },
		as("Purchase", "", "ChargeFrequency", "Recurring"))
	add("ConsumedQuantity: must be positive for usage that corrects nothing", func(c charge) bool {
		return c["ChargeCategory"] != "Usage" || c.isCorrection() || c.number("ConsumedQuantity").Sign() > 0
	}, set("ConsumedQuantity", "-3"))
	for cost, price := range map[string]string{"ContractedCost": "ContractedUnitPrice", "ListCost": "ListUnitPrice"} {
		add(cost+": is "+price+" times PricingQuantity, except for corrections", func(c charge) bool {
			return c[price] == "" || c.isCorrection() || c.number(price).Mul(c.number("PricingQuantity")).Equal(c.number(cost))
		}, set(cost, "12345.6"))
		add(cost+": is BilledCost where there is no "+price, func(c charge) bool { return c[price] != "" || c.number(cost).Equal(c.number("BilledCost")) },
			as("Adjustment", "", price, "", cost, "12345.6"))
	}
	add("EffectiveCost: is BilledCost where nothing is amortised", func(c charge) bool { return c.number("EffectiveCost").Equal(c.number("BilledCost")) }, set("EffectiveCost", "12345.6"))
	add("SkuMeter: must be null where SkuId is", func(c charge) bool { return c["SkuId"] != "" || c["SkuMeter"] == "" }, set("SkuId", ""))
	return rules
}

// broken lists the rules that a row breaks.
func broken(c charge) (names []string) {
	for _, r := range focusRules() {
		if !r.holds(c) {
			names = append(names, r.name)
		}
	}
	return names
}

// headerProblems checks that the mandatory columns are there, once, and that others are of FOCUS or come after with x_.
func headerProblems(header []string) (problems []string) {
	custom := false
	seen := map[string]bool{}
	for _, column := range header {
		if seen[column] {
			problems = append(problems, column+": is there twice")
		}
		seen[column] = true
		switch isCustom := strings.HasPrefix(column, "x_"); {
		case !isCustom && !slices.Contains(mandatory, column) && !slices.Contains(conditional, column):
			problems = append(problems, column+": a custom column begins with x_")
		case !isCustom && custom:
			problems = append(problems, column+": columns of FOCUS come before custom ones")
		default:
			custom = custom || isCustom
		}
	}
	for _, column := range mandatory {
		if !seen[column] {
			problems = append(problems, column+": must be present")
		}
	}
	return problems
}

// payableProblems checks that the rows of a document sum to it.
func payableProblems(charges []charge, payable map[string]money.Decimal) (problems []string) {
	sums := map[string]money.Decimal{}
	for _, c := range charges {
		sums[c["InvoiceId"]] = sums[c["InvoiceId"]].Add(c.number("BilledCost"))
	}
	for _, document := range slices.Sorted(maps.Keys(payable)) {
		if !sums[document].Equal(payable[document]) {
			problems = append(problems, fmt.Sprintf("BilledCost: the sum of %s is %s and not %s", document, sums[document], payable[document]))
		}
		delete(sums, document)
	}
	for document := range sums {
		problems = append(problems, "InvoiceId: there is no document "+document)
	}
	return problems
}

// focusFile writes invoices and reads them back.
func focusFile(t require.TestingT, list []*export.Invoice) (header []string, charges []charge, payable map[string]money.Decimal) {
	var rows []export.Row
	payable = map[string]money.Decimal{}
	for _, i := range list {
		rows = append(rows, export.FocusRows(export.Query{}, issuer, i)...)
		if len(i.Lines) > 0 {
			payable[i.Number] = i.Total
		}
		if i.Void != nil {
			payable[i.Void.Number] = i.Total.Neg()
		}
	}
	records, err := csv.NewReader(bytes.NewReader(encode(t, export.CSV, export.Of(export.Focus), rows))).ReadAll()
	require.NoError(t, err)
	for _, record := range records[1:] {
		c := charge{}
		for i, cell := range record {
			c[records[0][i]] = cell
		}
		charges = append(charges, c)
	}
	return records[0], charges, payable
}

func TestFocus(t *testing.T) {
	header, charges, payable := focusFile(t, invoices())
	require.Empty(t, headerProblems(header))
	require.Empty(t, payableProblems(charges, payable))
	for _, c := range charges {
		require.Empty(t, broken(c), "%v", c)
	}
	for _, r := range focusRules() {
		t.Run(r.name, func(t *testing.T) {
			for _, c := range charges {
				require.True(t, r.holds(c), "%v", c)
			}
		})
	}
}

// A checker that accepts everything finds nothing: each rule refuses the row that is broken for it.
func TestFocusCheckerRefusesBrokenRows(t *testing.T) {
	header, charges, payable := focusFile(t, invoices())
	i := slices.IndexFunc(charges, func(c charge) bool { return c["SkuPriceId"] == "pro@3/minutes" })
	require.GreaterOrEqual(t, i, 0)
	for _, r := range focusRules() {
		t.Run(r.name, func(t *testing.T) {
			c := maps.Clone(charges[i])
			r.spoil(c)
			require.Contains(t, broken(c), r.name)
		})
	}
	require.Contains(t, headerProblems(header[1:]), header[0]+": must be present")
	require.Contains(t, headerProblems(append(slices.Clone(header), header[0])), header[0]+": is there twice")
	require.Contains(t, headerProblems(append(slices.Clone(header), "Discount")), "Discount: a custom column begins with x_")
	require.Contains(t, headerProblems(append([]string{"x_First"}, header...)), header[0]+": columns of FOCUS come before custom ones")
	require.NotEmpty(t, payableProblems(charges[1:], map[string]money.Decimal{"A-000001": payable["A-000001"].Add(money.Int(1))}))
	require.NotEmpty(t, payableProblems(charges, map[string]money.Decimal{}))
}

// Whatever is priced however, and rounded to whatever currency: the file keeps all rules.
func TestFocusOfAnyInvoice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		price := func(name string) money.Decimal {
			return money.Scaled(rapid.Int64Range(1, 1_000_000).Draw(t, name), rapid.IntRange(0, 9).Draw(t, name+" scale"))
		}
		inv := &export.Invoice{Tenant: "t", FinalisedAt: day(30), Invoice: event.Invoice{ID: "inv", Number: "N-1", Currency: rapid.SampledFrom([]string{"EUR", "JPY", "BHD"}).Draw(t, "currency"),
			PeriodStart: day(1), PeriodEnd: day(30)}}
		inv.Decimals = catalog.Currency(inv.Currency).MinorUnits()
		for n := range rapid.IntRange(1, 6).Draw(t, "lines") {
			p := catalog.Price{Model: rapid.SampledFrom([]catalog.PriceModel{catalog.PerUnit, catalog.Package, catalog.Graduated, catalog.Volume, catalog.Percentage}).Draw(t, "model")}
			if rapid.Bool().Draw(t, "included") {
				p.Included = price("free")
			}
			switch p.Model {
			case catalog.PerUnit:
				p.Unit = price("unit")
			case catalog.Package:
				p.Unit, p.Size = price("unit"), price("size")
			case catalog.Percentage:
				p.Percent = price("percent")
			default:
				p.Tiers = []catalog.Tier{{UpTo: money.Int(3), Unit: price("tier")}, {UpTo: money.Int(10), Unit: price("tier")}, {Unit: price("tier")}}
			}
			c := pricing.Rate(&p, rapid.SampledFrom([]money.Decimal{{}, price("quantity"), price("quantity"), price("quantity").Neg()}).Draw(t, "which"))
			l := line(event.UsageLine, fmt.Sprint("price_", n), "output_tokens", "0", "0")
			l.Quantity, l.Included, l.Amount = c.Quantity, c.Included, c.Amount.Round(inv.Decimals)
			switch p.Model {
			case catalog.PerUnit, catalog.Package:
				l.Unit = p.Unit
			case catalog.Percentage:
				l.Unit = p.Percent
			}
			for _, tier := range c.Tiers {
				l.Tiers = append(l.Tiers, event.InvoiceTier{From: tier.From, To: tier.To, Quantity: tier.Quantity, Unit: tier.Unit})
			}
			inv.Lines = append(inv.Lines, l)
		}
		for n := range rapid.IntRange(0, 2).Draw(t, "grants") {
			inv.Drawn = append(inv.Drawn, event.CreditUse{Grant: event.GrantID(fmt.Sprint("g", n)), Amount: price("drawn").Round(inv.Decimals)})
			inv.Returned = append(inv.Returned, event.CreditUse{Grant: event.GrantID(fmt.Sprint("g", n)), Amount: price("returned").Round(inv.Decimals)})
		}
		inv.Total = inv.Sum().Sub(inv.Credits())
		if rapid.Bool().Draw(t, "void") {
			inv.Void = &export.CreditNote{Number: "N-1-CN", At: day(30), Rebilled: rapid.Bool().Draw(t, "rebilled")}
		}
		header, charges, payable := focusFile(t, []*export.Invoice{inv})
		require.Empty(t, headerProblems(header))
		require.Empty(t, payableProblems(charges, payable))
		consumed, used := money.Decimal{}, money.Decimal{}
		for _, c := range charges {
			require.Empty(t, broken(c), "%v", c)
			if c["ConsumedQuantity"] != "" && !c.isCorrection() {
				consumed = consumed.Add(c.number("ConsumedQuantity"))
			}
		}
		for i := range inv.Lines {
			used = used.Add(inv.Lines[i].Quantity.Max(money.Decimal{}))
		}
		require.True(t, used.Equal(consumed), "used %s, consumed %s", used, consumed)
	})
}
