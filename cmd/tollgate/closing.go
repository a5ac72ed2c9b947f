package main

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
)

// newClosing closes periods by itself, and tells operators of it.
func (h *house) newClosing(delay time.Duration, log *slog.Logger) *app.Closing {
	factory := promauto.With(h.metrics)
	closed := factory.NewCounter(prometheus.CounterOpts{Name: "tollgate_invoices_finalised_total", Help: "Invoices that this process finalised by itself."})
	failed := factory.NewCounter(prometheus.CounterOpts{Name: "tollgate_billing_failures_total", Help: "Attempts to close a period that failed; they are made again."})
	held := factory.NewCounter(prometheus.CounterOpts{Name: "tollgate_invoice_lines_held_total", Help: "Lines of these invoices whose usage no price is for."})
	return app.NewClosing(app.ClosingConfig{Billing: h.billing, Tenants: h.readModels, Backfill: delay, Report: func(t event.TenantID, inv app.Invoice, err error) {
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
	}})
}
