package app_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/adapters/memory"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/export"
	"github.com/tollgate-io/tollgate/domain/invoicing"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

var exportDay = time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)

// finalised is the n-th invoice of a tenant, over n units.
func finalised(t event.TenantID, n int) event.InvoiceFinalised {
	amount := money.Int(int64(n))
	return event.InvoiceFinalised{Tenant: t, By: "cli", Invoice: event.Invoice{ID: event.InvoiceID(fmt.Sprintf("inv_%s_%d", t, n)), Number: fmt.Sprintf("%s-%d", t, n), Currency: "EUR", Decimals: 2,
		PeriodStart: exportDay, PeriodEnd: exportDay.AddDate(0, n, 0), CycleStart: exportDay, CycleEnd: exportDay.AddDate(0, n, 0), Subtotal: amount, Total: amount,
		Lines: []event.InvoiceLine{{Kind: event.FeeLine, Price: "base", Quantity: money.Int(1), PlanVersion: "pro@1", PeriodStart: exportDay, PeriodEnd: exportDay.AddDate(0, 1, 0), Amount: amount}}}}
}

func recorded(t *testing.T, store *memory.Store, batch ...eventstore.Append) (last eventstore.Position) {
	t.Helper()
	for _, r := range store.Append(t.Context(), batch) {
		require.Equal(t, eventstore.Appended, r.Outcome, "%v", r.Err)
		last = r.Position
	}
	return last
}

// Invoices are listed as they stood: one that was voided later is not void, and one that was made later is not there.
func TestInvoicesAtAPosition(t *testing.T) {
	store := memory.NewStore(1, func() time.Time { return exportDay })
	first := recorded(t, store, finalised("acme", 1).Append(eventstore.NoStream))
	voided := recorded(t, store, event.InvoiceVoided{Tenant: "acme", ID: "inv_acme_1", CreditNote: "acme-1-CN", Reason: "r", By: "cli"}.Append(0))
	second := recorded(t, store, finalised("acme", 2).Append(1))
	b := invoicing.New(invoicing.Config{Store: store})
	for _, c := range []struct {
		at   eventstore.Position
		want []invoicing.InvoiceState
	}{
		{eventstore.Position{}, nil},
		{first, []invoicing.InvoiceState{invoicing.InvoiceFinalised}},
		{voided, []invoicing.InvoiceState{invoicing.InvoiceVoid}},
		{second, []invoicing.InvoiceState{invoicing.InvoiceVoid, invoicing.InvoiceFinalised}},
	} {
		all, err := b.InvoicesAt(t.Context(), "acme", c.at)
		require.NoError(t, err)
		var got []invoicing.InvoiceState
		for _, i := range all {
			got = append(got, invoicing.InvoiceState(i.State))
		}
		require.Equal(t, c.want, got, c.at)
	}
	none, err := b.InvoicesAt(t.Context(), "nobody", second)
	require.NoError(t, err)
	require.Empty(t, none)
}

// many is a ledger of many tenants with one invoice and one transfer each, in several partitions.
type many struct {
	app.Directory
	*memory.Store
	count int
}

func (m many) name(n int) event.TenantID { return event.TenantID(fmt.Sprintf("tenant_%04d", n)) }

func (m many) Tenant(_ context.Context, id event.TenantID) (tenant.Tenant, error) {
	if id < m.name(0) || id >= m.name(m.count) {
		return tenant.Tenant{}, tenant.ErrUnknown
	}
	return tenant.Tenant{ID: id}, nil
}

func (m many) Tenants(_ context.Context, after event.TenantID, limit int) (page []event.TenantID, _ error) {
	for n := range m.count {
		if id := m.name(n); id > after && len(page) < limit {
			page = append(page, id)
		}
	}
	return page, nil
}

func (m many) FactsShown(_ context.Context, p int) (eventstore.Position, error) {
	return eventstore.Position{Partition: p, Offset: 3}, nil
}

func (m many) Facts(context.Context, event.TenantID, time.Time, time.Time, eventstore.Position, func(event.Decoded) error) error {
	return nil
}

// lines writes one short line for each row.
type lines struct{ w io.Writer }

func (l lines) Write(row export.Row) error {
	_, err := fmt.Fprintln(l.w, row[0].String())
	return err
}

func (l lines) Close() error {
	_, err := fmt.Fprintln(l.w, "end")
	return err
}

func manyExports(m many) *app.Exports {
	return app.NewExports(app.ExportsConfig{Log: m, Directory: m, Tenants: m, Facts: m, Books: invoicing.New(invoicing.Config{Store: m.Store}),
		NewEncoder: func(_ export.Format, _ *export.Dataset, w io.Writer) (app.Encoder, error) { return lines{w}, nil },
		Issuer:     export.Issuer{Name: "T", Service: "T", Host: "T"}, Now: func() time.Time { return exportDay }})
}

// All tenants are exported, each once, over several pages of them, and the manifest says what was written.
func TestExportOfManyTenants(t *testing.T) {
	m := many{Store: memory.NewStore(3, func() time.Time { return exportDay }), count: 1100}
	for n := range m.count {
		recorded(t, m.Store, finalised(m.name(n), n+1).Append(eventstore.NoStream))
	}
	added := 0
	for _, c := range []struct {
		query export.Query
		rows  int64
		total string
	}{
		{export.Query{Dataset: export.Invoices}, 1100, "605550"}, // 1100 * 1101 / 2
		{export.Query{Dataset: export.Focus}, 1101, "606651"},    // and the one that was added
		{export.Query{Dataset: export.Invoices, From: exportDay.Add(1)}, 0, "0"},
		{export.Query{Dataset: export.Invoices, Tenant: m.name(7)}, 4, "3314"}, // 8 + 1101 + 1102 + 1103
		{export.Query{Dataset: export.Journal}, 1104, "609960"},                // and 1101 to 1104
		{export.Query{Dataset: export.Journal, From: exportDay.Add(1)}, 0, "0"},
	} {
		c.query.Format = export.CSV
		e, err := manyExports(m).Open(t.Context(), c.query)
		require.NoError(t, err)
		// What comes after it was opened is not in it.
		added++
		recorded(t, m.Store, finalised(m.name(7), m.count+added).Append(eventstore.Revision(added-1)))
		var file bytes.Buffer
		var told int64
		got, err := e.Write(t.Context(), &file, func(rows, _ int64) { told = rows })
		require.NoError(t, err)
		require.Equal(t, c.rows, got.Rows)
		require.Equal(t, c.rows, told)
		require.Equal(t, c.total, got.Totals["EUR"].String())
		sum := sha256.Sum256(file.Bytes())
		require.Equal(t, hex.EncodeToString(sum[:]), got.SHA256)
		require.EqualValues(t, file.Len(), got.Bytes)
		require.EqualValues(t, c.rows+1, bytes.Count(file.Bytes(), []byte("\n")))
	}
	_, err := manyExports(m).Open(t.Context(), export.Query{Dataset: export.Usage, Format: export.CSV, Tenant: "nobody"})
	require.ErrorIs(t, err, tenant.ErrUnknown)
}

type broken struct{ error }

func (b broken) Write([]byte) (int, error) { return 0, b.error }

func TestExportSaysThatItsFileIsNotWhole(t *testing.T) {
	m := many{Store: memory.NewStore(1, func() time.Time { return exportDay }), count: 1}
	e, err := manyExports(m).Open(t.Context(), export.Query{Dataset: export.Journal, Format: export.CSV})
	require.NoError(t, err)
	full := errors.New("no space left")
	_, err = e.Write(t.Context(), broken{full}, nil)
	require.ErrorIs(t, err, full)
}
