package export_test

import (
	"bytes"
	"flag"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	encoders "github.com/tollgate-io/tollgate/adapters/export"
	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/export"
	"github.com/tollgate-io/tollgate/domain/money"
)

var update = flag.Bool("update", false, "write the golden files")

func day(n int) time.Time { return time.Date(2026, 4, n, 0, 0, 0, 0, time.UTC) }

var issuer = export.Issuer{Name: "Acme, Inc.", Service: "Interviews", Host: "Example Cloud"}

// encode writes rows as a file.
func encode(t require.TestingT, f export.Format, d *export.Dataset, rows []export.Row) []byte {
	var file bytes.Buffer
	e, err := encoders.NewEncoder(f, d, &file)
	require.NoError(t, err)
	for _, row := range rows {
		require.NoError(t, d.Check(row))
		require.NoError(t, e.Write(row))
	}
	require.NoError(t, e.Close())
	return file.Bytes()
}

// hostile is what tenants may send.
var hostile = []string{"a,b", `say "hi"`, "=1+1", "+1", "-1", "@sum", "'quoted", "＝1+1", "tenant ü 😀", "\t=1", "two\nlines", "two\r\nlines"}

// usageRows has facts and each kind of correction, about hostile texts.
func usageRows(t require.TestingT) (rows []export.Row) {
	n := int64(0)
	add := func(payload any) {
		n++
		rows = append(rows, export.UsageRows(event.Decoded{Recorded: eventstore.Recorded{Position: eventstore.Position{Partition: 1, Offset: n}, RecordedAt: day(5).Add(time.Duration(n))}, Payload: payload})...)
	}
	for i, s := range hostile {
		data := event.NewData(map[string]any{"model": s, "feature": i, "inputTokens": i, "other": s, "outputTokens": money.MustParse("0.5")})
		u := event.Usage{Identity: event.Identity{Tenant: event.TenantID(s), Type: "tokens_spent", Source: event.SourceID(s)},
			Quantity: money.MustParse("999999999999999999.999999999"), OccurredAt: day(4).Add(time.Duration(i)*time.Hour + time.Microsecond), Data: data}
		add(event.UsageRecorded{Usage: u})
		less := event.UsageAdjusted{Usage: u, Quantity: money.MustParse("0.000000001"), Data: data, Reason: s}
		add(less)
		u = less.After()
		other := event.UsageAdjusted{Usage: u, Quantity: money.Int(7), Data: event.NewData(map[string]any{"model": "gpt-4.1", "inputTokens": 3}), Reason: s}
		add(other)
		add(event.UsageVoided{Usage: other.After(), Reason: s})
	}
	return rows
}

func line(kind event.LineKind, price, meter, quantity, amount string) event.InvoiceLine {
	return event.InvoiceLine{Kind: kind, Price: price, Description: string(kind) + ": " + price, PlanVersion: "pro@3", Meter: meter,
		Quantity: money.MustParse(quantity), PeriodStart: day(1), PeriodEnd: day(30), Events: 3, Amount: money.MustParse(amount)}
}

// invoices has lines of every kind and price model, one that is void and owed again, one that is void and forgiven, one with
// fees in advance only, and one without lines.
func invoices() []*export.Invoice {
	graduated := line(event.UsageLine, "interviews", "ai_interviews", "125", "247.51") // 20 free, 80 at 2.5, 25 at 1.9002
	graduated.Included = money.Int(20)
	graduated.Tiers = []event.InvoiceTier{{To: money.Int(80), Quantity: money.Int(80), Unit: money.MustParse("2.5")}, {From: money.Int(80), Quantity: money.Int(25), Unit: money.MustParse("1.9002")}}
	perUnit := line(event.UsageLine, "minutes", "audio_minutes", "10.5", "0.13")
	perUnit.Unit = money.MustParse("0.0125")
	packages := line(event.UsageLine, "output", "output_tokens", "1001", "0.04")
	packages.Unit = money.MustParse("0.02")
	percentage := line(event.UsageLine, "share", "revenue", "200", "5")
	percentage.Unit = money.MustParse("2.5")
	free := line(event.UsageLine, "small", "small_tokens", "12", "0")
	free.Included = money.Int(12)
	fee := line(event.FeeLine, "base", "", "1", "99")
	fee.Unit = money.Int(99)
	prorated := line(event.FeeLine, "seat", "", "1", "33.33")
	all := line(event.UsageLine, "unused", "unused", "0", "0")

	full := &export.Invoice{Tenant: "=cmd|' /C calc'!A1", TenantName: `Acme "North", Ltd`, State: "finalised", FinalisedAt: day(30).Add(90 * time.Minute), Position: eventstore.Position{Offset: 7},
		Invoice: event.Invoice{ID: "inv_1", Number: "A-000001", Currency: "EUR", PeriodStart: day(1), PeriodEnd: day(30), CycleStart: day(1), CycleEnd: day(30), Decimals: 2, PlanVersion: "pro@3",
			Lines: []event.InvoiceLine{graduated, perUnit, packages, percentage, free, fee, prorated, all,
				line(event.MinimumLine, "minimum", "", "0", "12.5"), line(event.CapLine, "spend_cap", "", "0", "-1.01"),
				line(event.AdjustmentLine, "interviews", "ai_interviews", "-2", "-3.8"), line(event.AdjustmentLine, "base", "", "0", "4.2")}}}
	rebilled := &export.Invoice{Tenant: "t2", State: "void", FinalisedAt: day(28), Position: eventstore.Position{Offset: 9}, Void: &export.CreditNote{Number: "B-000001-CN", At: day(29), Rebilled: true},
		Invoice: event.Invoice{ID: "inv_2", Number: "B-000001", Currency: "JPY", PeriodStart: day(1), PeriodEnd: day(28), Lines: []event.InvoiceLine{line(event.UsageLine, "calls", "calls", "3", "300")}}}
	rebilled.Lines[0].Unit = money.Int(100)
	forgiven := &export.Invoice{Tenant: "t2", State: "void", FinalisedAt: day(29), Position: eventstore.Position{Offset: 11}, Void: &export.CreditNote{Number: "B-000002-CN", At: day(30)},
		Invoice: event.Invoice{ID: "inv_3", Number: "B-000002", Currency: "JPY", PeriodStart: day(28), PeriodEnd: day(29), Lines: []event.InvoiceLine{line(event.UsageLine, "calls", "calls", "3", "300"), line(event.FeeLine, "base", "", "1", "1000")}}}
	opening := &export.Invoice{Tenant: "t3", State: "finalised", FinalisedAt: day(1), Position: eventstore.Position{Offset: 12},
		Invoice: event.Invoice{ID: "inv_4", Number: "C-000001", Currency: "BHD", Decimals: 3, PeriodStart: day(1), PeriodEnd: day(1), CycleStart: day(1), CycleEnd: day(30), Lines: []event.InvoiceLine{line(event.FeeLine, "base", "", "1", "9.125")}}}
	empty := &export.Invoice{Tenant: "t3", State: "finalised", FinalisedAt: day(30), Position: eventstore.Position{Offset: 13},
		Invoice: event.Invoice{ID: "inv_5", Number: "C-000002", Currency: "BHD", Decimals: 3, PeriodStart: day(1), PeriodEnd: day(30)}}
	full.Drawn = []event.CreditUse{{Grant: "=welcome", Amount: money.MustParse("50.5")}, {Grant: "prepaid", Amount: money.Int(100)}}
	full.Returned = []event.CreditUse{{Grant: "prepaid", Amount: money.MustParse("1.25"), Invoice: "inv_0"}}
	full.Expired = []event.CreditUse{{Grant: "old", Amount: money.Int(7)}}
	full.Lines = append(full.Lines, line(event.HeldLine, "new_meter", "new_meter", "40", "0"))
	rebilled.Drawn = []event.CreditUse{{Grant: "g", Amount: money.Int(120)}}
	list := []*export.Invoice{full, rebilled, forgiven, opening, empty}
	for _, i := range list {
		i.Total = i.Sum().Sub(i.Credits())
	}
	return list
}

// rowsOf are the fixtures of a data set.
func rowsOf(t require.TestingT, n export.Name) (rows []export.Row) {
	switch n {
	case export.Usage:
		return usageRows(t)
	case export.Journal:
		for i, s := range hostile {
			rows = append(rows, export.JournalRow(&billing.Transfer{ID: s, Tenant: event.TenantID(s), PostedAt: day(i + 1), Kind: billing.DrawnOn, Debit: billing.GrantAccount(event.GrantID(s)), Credit: billing.Receivable,
				Grant: event.GrantID(s), Invoice: "inv_1", Amount: money.Scaled(int64(1+i), 2), Currency: "EUR", Price: s, Position: eventstore.Position{Offset: int64(i + 1)}}))
		}
	case export.Invoices:
		for _, i := range invoices() {
			rows = append(rows, export.InvoiceRows(i)...)
		}
	case export.Focus:
		for _, i := range invoices() {
			rows = append(rows, export.FocusRows(export.Query{}, issuer, i)...)
		}
	}
	return rows
}

func names(d *export.Dataset) (all []string) {
	for _, c := range d.Columns {
		all = append(all, c.Name)
	}
	return all
}

func eachDataset(t *testing.T, test func(t *testing.T, d *export.Dataset, rows []export.Row)) {
	for _, n := range export.Names() {
		t.Run(string(n), func(t *testing.T) { test(t, export.Of(n), rowsOf(t, n)) })
	}
}
