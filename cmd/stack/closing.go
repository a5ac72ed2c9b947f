package stack

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invoicing"
)

// CloseInvoices closes periods that have ended until the context ends. It looks for them at an interval, keeps past periods
// of a tenant open for a delay after it gets its plan, and reports each invoice in the metrics and to the logger.
func (s *Stack) CloseInvoices(ctx context.Context, every, delay time.Duration) {
	log, factory := s.config.Logger, promauto.With(s.registerer())
	closed := factory.NewCounter(prometheus.CounterOpts{Name: "tollgate_invoices_finalised_total", Help: "Invoices that this process finalised automatically."})
	failed := factory.NewCounter(prometheus.CounterOpts{Name: "tollgate_billing_failures_total", Help: "Attempts to close a period that failed; they are retried."})
	held := factory.NewCounter(prometheus.CounterOpts{Name: "tollgate_invoice_lines_held_total", Help: "Lines of these invoices for usage without a price."})
	invoicing.NewClosing(invoicing.ClosingConfig{Now: time.Now, Billing: s.Billing, Tenants: s.ReadModels, Backfill: delay, Report: func(t event.TenantID, inv invoicing.Invoice, err error) {
		if err != nil {
			failed.Inc()
			log.Warn("a period could not be closed", "tenant", t, "error", err)
			return
		}
		closed.Inc()
		log.Info("invoice finalised", "tenant", t, "invoice", inv.ID, "number", inv.Number, "total", inv.Total, "currency", inv.Currency)
		for i := range inv.Lines {
			if l := &inv.Lines[i]; l.Kind == event.HeldLine {
				held.Inc()
				log.Warn("usage without a price is held", "tenant", t, "invoice", inv.ID, "meter", l.Meter, "quantity", l.Quantity)
			}
		}
	}}).Run(ctx, every)
}
