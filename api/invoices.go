package api

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

// ListInvoices is GET /v1/invoices.
func (s *Server) ListInvoices(c echo.Context, params ListInvoicesParams) error {
	limit, cursor, err := page(params.Limit, params.Cursor)
	if err != nil {
		return err
	}
	if err := s.await(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	at, err := s.Positions.Shown(ctx, inside(c).tenant.ID)
	if err != nil {
		return fmt.Errorf("read the position: %w", err)
	}
	all, err := s.Billing.Invoices(ctx, inside(c).tenant.ID)
	if err != nil {
		return err
	}
	if cursor != "" { // the id of the last one that was shown
		i := slices.IndexFunc(all, func(i app.Invoice) bool { return string(i.ID) == cursor })
		if i < 0 {
			return invalid.New("/cursor", "malformed", "the cursor is not one that was given out; start again without one")
		}
		all = all[i+1:]
	}
	next := ""
	if len(all) > limit {
		all = all[:limit]
		next = string(all[limit-1].ID)
	}
	showPosition(c, at)
	b := []byte(`{"items":[`)
	for i := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendInvoice(b, &all[i])
	}
	return writeJSON(c, http.StatusOK, append(appendOptional(append(b, `],"nextCursor":`...), next), '}'))
}

// PreviewInvoice is GET /v1/invoices/preview.
func (s *Server) PreviewInvoice(c echo.Context, params PreviewInvoiceParams) error {
	if err := s.await(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	inv, err := s.Billing.Preview(ctx, inside(c).tenant.ID)
	if err != nil {
		return err
	}
	return writeInvoice(c, http.StatusOK, &inv)
}

// GetInvoice is GET /v1/invoices/{id}.
func (s *Server) GetInvoice(c echo.Context, id string, params GetInvoiceParams) error {
	if err := s.await(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	inv, err := s.Billing.Invoice(ctx, inside(c).tenant.ID, event.InvoiceID(id))
	if err != nil {
		return err
	}
	return writeInvoice(c, http.StatusOK, &inv)
}

// ClosePeriod is POST /v1/admin/tenants/{tenantId}/invoices/close.
func (s *Server) ClosePeriod(c echo.Context, tenantID Id) error {
	var boundary time.Time
	err := readObject(c, []string{"periodEnd"}, func(d *decoder, v []jsontext.Value) {
		boundary = d.optionalInstant(v[0], "/periodEnd", "periodEnd")
	})
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	inv, created, err := s.Billing.Close(ctx, event.TenantID(tenantID), boundary, admin(c))
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return writeInvoice(c, status, &inv)
}

// VoidInvoice is POST /v1/admin/invoices/{id}/void.
func (s *Server) VoidInvoice(c echo.Context, id string) error {
	var (
		reason string
		rebill bool
	)
	err := readObject(c, []string{"reason", "rebill"}, func(d *decoder, v []jsontext.Value) {
		if !absent(v[0]) {
			reason, _ = d.str(v[0], "/reason")
		}
		switch {
		case absent(v[1]):
		case v[1].Kind() == 't' || v[1].Kind() == 'f':
			rebill = v[1].Kind() == 't'
		default:
			d.note("/rebill", codeInvalidEvent, "rebill must be true or false")
		}
	})
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	owner, _ := billing.TenantOf(event.InvoiceID(id)) // an id of no invoice is not found
	if err := about(c, owner); err != nil {
		return err
	}
	inv, err := s.Billing.Void(ctx, event.InvoiceID(id), rebill, reason, admin(c))
	if err != nil {
		return err
	}
	return writeInvoice(c, http.StatusOK, &inv)
}

func writeInvoice(c echo.Context, status int, inv *app.Invoice) error {
	at := inv.At
	if used, err := eventstore.ParsePosition(inv.Position); err == nil && at == (eventstore.Position{}) {
		at = used // of a draft
	}
	showPosition(c, at)
	return writeJSON(c, status, appendInvoice(nil, inv))
}

func appendInvoice(b []byte, inv *app.Invoice) []byte {
	amount := func(b []byte, d money.Decimal) []byte {
		b = append(append(append(b, `{"amount":"`...), d.Fixed(inv.Decimals)...), `","currency":`...)
		return append(appendString(b, inv.Currency), '}')
	}
	b = appendString(append(b, `{"id":`...), string(inv.ID))
	b = appendString(append(b, `,"number":`...), inv.Number)
	b = appendString(append(b, `,"tenantId":`...), string(inv.Tenant))
	b = appendString(append(b, `,"state":`...), string(inv.State))
	b = appendString(append(b, `,"currency":`...), inv.Currency)
	b = appendTime(append(b, `,"periodStart":`...), inv.PeriodStart)
	b = appendTime(append(b, `,"periodEnd":`...), inv.PeriodEnd)
	b = appendString(append(b, `,"planVersion":`...), inv.PlanVersion)
	b = append(b, `,"lines":[`...)
	for i := range inv.Lines {
		l := &inv.Lines[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = amount(append(appendLine(b, l), `,"amount":`...), l.Amount)
		b = append(b, '}')
	}
	b = amount(append(b, `],"subtotal":`...), inv.Subtotal)
	b = amount(append(b, `,"credits":`...), inv.Credits())
	b = amount(append(b, `,"total":`...), inv.Total)
	b = appendString(append(b, `,"position":`...), inv.Position)
	b = appendTime(append(b, `,"finalisedAt":`...), inv.FinalisedAt)
	b = append(b, `,"grants":[`...)
	first := true
	uses := func(what string, all []event.CreditUse) {
		for _, u := range all {
			if !first {
				b = append(b, ',')
			}
			first = false
			b = appendString(append(b, `{"grantId":`...), string(u.Grant))
			b = appendString(append(b, `,"use":`...), what)
			b = append(amount(append(b, `,"amount":`...), u.Amount), '}')
		}
	}
	uses("drawn", inv.Drawn)
	uses("returned", inv.Returned)
	uses("expired", inv.Expired)
	b = append(b, `],"settlement":`...)
	if e := inv.Settled; e == nil {
		b = append(b, "null"...)
	} else {
		b = appendString(append(b, `{"as":`...), string(e.As))
		b = appendTime(append(b, `,"at":`...), inv.SettledAt)
		b = append(appendString(append(b, `,"reference":`...), e.Reference), '}')
	}
	b = append(b, `,"creditNote":`...)
	if v := inv.Voided; v == nil {
		b = append(b, "null"...)
	} else {
		b = appendString(append(b, `{"number":`...), v.CreditNote)
		b = appendTime(append(b, `,"at":`...), inv.VoidedAt)
		b = strconv.AppendBool(append(b, `,"rebill":`...), v.Rebill)
		b = append(appendString(append(b, `,"reason":`...), v.Reason), '}')
	}
	return append(b, `,"stripe":{}}`...)
}

// appendLine appends a line without its amount and its end.
func appendLine(b []byte, l *event.InvoiceLine) []byte {
	b = appendString(append(b, `{"kind":`...), string(l.Kind))
	b = appendString(append(b, `,"price":`...), l.Price)
	b = appendString(append(b, `,"description":`...), l.Description)
	b = appendString(append(b, `,"planVersion":`...), l.PlanVersion)
	b = appendOptional(append(b, `,"meter":`...), l.Meter)
	b = append(append(b, `,"quantity":`...), l.Quantity.String()...)
	b = append(append(b, `,"included":`...), l.Included.String()...)
	unit := ""
	if l.Unit.Sign() != 0 {
		unit = l.Unit.String()
	}
	b = appendOptional(append(b, `,"unit":`...), unit)
	b = append(b, `,"tiers":[`...)
	for i, t := range l.Tiers {
		if i > 0 {
			b = append(b, ',')
		}
		to := "null"
		if t.To.Sign() != 0 {
			to = t.To.String()
		}
		b = fmt.Appendf(b, `{"from":%s,"to":%s,"quantity":%s,"unit":"%s","amount":"%s"}`, t.From, to, t.Quantity, t.Unit, t.Quantity.Mul(t.Unit))
	}
	b = appendTime(append(b, `],"periodStart":`...), l.PeriodStart)
	b = appendTime(append(b, `,"periodEnd":`...), l.PeriodEnd)
	return strconv.AppendInt(append(b, `,"events":`...), l.Events, 10)
}
