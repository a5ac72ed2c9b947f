package api

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invoicing"
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
		i := slices.IndexFunc(all, func(i invoicing.Invoice) bool { return string(i.ID) == cursor })
		if i < 0 {
			return errForeignCursor()
		}
		all = all[i+1:]
	}
	all, next := firstPage(all, limit, func(i *invoicing.Invoice) string { return string(i.ID) })
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, listOf(all, next, viewInvoice))
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
			d.refuse("/rebill", "rebill must be true or false")
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

func writeInvoice(c echo.Context, status int, inv *invoicing.Invoice) error {
	at := inv.At
	if used, err := eventstore.ParsePosition(inv.Position); err == nil && at == (eventstore.Position{}) {
		at = used // of a draft
	}
	showPosition(c, at)
	return writeJSON(c, status, viewInvoice(inv))
}

type invoiceView struct {
	ID          event.InvoiceID        `json:"id"`
	Number      string                 `json:"number"`
	Tenant      event.TenantID         `json:"tenantId"`
	State       invoicing.InvoiceState `json:"state"`
	Currency    string                 `json:"currency"`
	PeriodStart instant                `json:"periodStart"`
	PeriodEnd   instant                `json:"periodEnd"`
	PlanVersion string                 `json:"planVersion"`
	Lines       []lineView             `json:"lines"`
	Subtotal    amount                 `json:"subtotal"`
	Credits     amount                 `json:"credits"`
	Total       amount                 `json:"total"`
	Position    string                 `json:"position"`
	FinalisedAt instant                `json:"finalisedAt"`
	Grants      []creditUseView        `json:"grants"`
	Settlement  *settlementView        `json:"settlement"`
	CreditNote  *creditNoteView        `json:"creditNote"`
	Stripe      struct{}               `json:"stripe"`
}

type lineView struct {
	Kind        event.LineKind `json:"kind"`
	Price       string         `json:"price"`
	Description string         `json:"description"`
	PlanVersion string         `json:"planVersion"`
	Meter       optional       `json:"meter"`
	Quantity    money.Decimal  `json:"quantity"`
	Included    money.Decimal  `json:"included"`
	Unit        optional       `json:"unit"`
	Tiers       []tierView     `json:"tiers"`
	PeriodStart instant        `json:"periodStart"`
	PeriodEnd   instant        `json:"periodEnd"`
	Events      int64          `json:"events"`
	Amount      amount         `json:"amount"`
}

type tierView struct {
	From     money.Decimal  `json:"from"`
	To       *money.Decimal `json:"to"` // null: no end
	Quantity money.Decimal  `json:"quantity"`
	Unit     string         `json:"unit"`
	Amount   string         `json:"amount"`
}

type creditUseView struct {
	Grant  event.GrantID `json:"grantId"`
	Use    string        `json:"use"`
	Amount amount        `json:"amount"`
}

type settlementView struct {
	As        event.Settlement `json:"as"`
	At        instant          `json:"at"`
	Reference string           `json:"reference"`
}

type creditNoteView struct {
	Number string  `json:"number"`
	At     instant `json:"at"`
	Rebill bool    `json:"rebill"`
	Reason string  `json:"reason"`
}

func viewInvoice(inv *invoicing.Invoice) invoiceView {
	in := func(d money.Decimal) amount { return amount{d.Fixed(inv.Decimals), inv.Currency} }
	view := invoiceView{
		ID: inv.ID, Number: inv.Number, Tenant: inv.Tenant, State: inv.State, Currency: inv.Currency,
		PeriodStart: instant(inv.PeriodStart), PeriodEnd: instant(inv.PeriodEnd), PlanVersion: inv.PlanVersion,
		Lines: viewsOf(inv.Lines, func(l *event.InvoiceLine) lineView {
			line := viewLine(l)
			line.Amount = in(l.Amount)
			return line
		}),
		Subtotal: in(inv.Subtotal), Credits: in(inv.Credits()), Total: in(inv.Total), Position: inv.Position, FinalisedAt: instant(inv.FinalisedAt),
	}
	for _, uses := range []struct {
		what string
		all  []event.CreditUse
	}{{"drawn", inv.Drawn}, {"returned", inv.Returned}, {"expired", inv.Expired}} {
		for _, u := range uses.all {
			view.Grants = append(view.Grants, creditUseView{u.Grant, uses.what, in(u.Amount)})
		}
	}
	if e := inv.Settled; e != nil {
		view.Settlement = &settlementView{e.As, instant(inv.SettledAt), e.Reference}
	}
	if v := inv.Voided; v != nil {
		view.CreditNote = &creditNoteView{v.CreditNote, instant(inv.VoidedAt), v.Rebill, v.Reason}
	}
	return view
}

// viewLine shows a line without its amount, whose decimals are the invoice's.
func viewLine(l *event.InvoiceLine) lineView {
	view := lineView{
		Kind: l.Kind, Price: l.Price, Description: l.Description, PlanVersion: l.PlanVersion, Meter: optional(l.Meter),
		Quantity: l.Quantity, Included: l.Included, PeriodStart: instant(l.PeriodStart), PeriodEnd: instant(l.PeriodEnd), Events: l.Events,
		Tiers: viewsOf(l.Tiers, func(t *event.InvoiceTier) tierView {
			tier := tierView{From: t.From, Quantity: t.Quantity, Unit: t.Unit.String(), Amount: t.Quantity.Mul(t.Unit).String()}
			if t.To.Sign() != 0 {
				tier.To = &t.To
			}
			return tier
		}),
	}
	if l.Unit.Sign() != 0 {
		view.Unit = optional(l.Unit.String())
	}
	return view
}

// SettleInvoice is POST /v1/admin/invoices/{id}/settle.
func (s *Server) SettleInvoice(c echo.Context, id string) error {
	e := event.InvoiceSettled{ID: event.InvoiceID(id), By: admin(c)}
	err := readObject(c, []string{"as", "reference"}, func(d *decoder, v []jsontext.Value) {
		as := ""
		if !absent(v[0]) {
			as, _ = d.str(v[0], "/as")
		}
		if e.As = event.Settlement(as); e.As != event.Paid && e.As != event.Uncollectible {
			d.refuse("/as", fmt.Sprintf("as must be %s or %s", event.Paid, event.Uncollectible))
		}
		if !absent(v[1]) {
			e.Reference, _ = d.str(v[1], "/reference")
		}
	})
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	owner, _ := billing.TenantOf(e.ID) // an id of no invoice is not found
	if err := about(c, owner); err != nil {
		return err
	}
	inv, err := s.Billing.Settle(ctx, e)
	if err != nil {
		return err
	}
	return writeInvoice(c, http.StatusOK, &inv)
}
