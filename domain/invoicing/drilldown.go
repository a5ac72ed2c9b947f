package invoicing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
	"github.com/tollgate-io/tollgate/domain/timeline"
)

// FactList reads the list.
type FactList interface {
	FactPage(ctx context.Context, t event.TenantID, p timeline.FactPage) ([]timeline.ListedFact, error)
	// CorrectionsOf reads the corrections of facts, in the order of the log, up to a position.
	CorrectionsOf(ctx context.Context, t event.TenantID, facts []event.Identity, at eventstore.Position) ([]event.Decoded, error)
}

// LineEvent is a fact or a correction that a line of an invoice counts.
type LineEvent struct {
	event.Decoded
	Usage      event.Usage // as of the event
	Correction bool
	Quantity   money.Decimal // that it adds to the line's meter
}

// LineEvents is a page of them. Facts come in the order in which they occurred, each with its corrections. Next is "" at the end.
type LineEvents struct {
	Items []LineEvent
	Next  string
}

// scanned is how many entries of the list are looked at for one page: a page may be shorter than was asked for, and have a next
// one.
const (
	scanned  = 2000
	factRead = 250 // at once
)

// LineEvents lists what a line of an invoice counts, as of the invoice. Of an adjustment it lists what became known since the
// earlier invoice of that period; of a fee nothing. Errors: tenant.ErrUnknown; app.ErrNotFound; *invalid.Error.
func (b *Billing) LineEvents(ctx context.Context, t event.TenantID, invoice event.InvoiceID, line, most int, cursor string) (LineEvents, error) {
	a, err := b.read(ctx, t)
	if err != nil {
		return LineEvents{}, err
	}
	i := slices.IndexFunc(a.book.Issued, func(i billing.Issued) bool { return i.ID == invoice })
	if i < 0 {
		return LineEvents{}, fmt.Errorf("invoice %q: %w", invalid.Shorten(string(invoice)), app.ErrNotFound)
	}
	inv := &a.book.Issued[i]
	if line < 0 || line >= len(inv.Lines) {
		return LineEvents{}, invalid.New("/line", "out_of_range", fmt.Sprintf("line is the index of one of the %d lines of the invoice, from 0", len(inv.Lines)))
	}
	d := drilldown{billing: b, tenant: t, measures: a.counts(i, line), most: most}
	if len(d.measures) == 0 {
		return LineEvents{}, nil
	}
	if d.at, err = eventstore.ParsePosition(inv.Position); err != nil {
		return LineEvents{}, fmt.Errorf("%w: position of invoice %s: %w", event.ErrMalformed, inv.ID, err)
	}
	from, to := d.measures[0].From, d.measures[0].To
	for _, m := range d.measures {
		if m.From.Before(from) {
			from = m.From
		}
		if m.To.After(to) {
			to = m.To
		}
	}
	earlier := a.earlier(i, line)
	at, err := parseCursor(cursor)
	if err != nil {
		return LineEvents{}, err
	}
	if earlier == nil {
		at.ListedAt = afterwards(at.ListedAt, from)
		err := d.facts(ctx, at.Mark, to, eventstore.Position{}, true)
		return d.page, err
	}
	since, err := eventstore.ParsePosition(earlier.Position)
	if err != nil {
		return LineEvents{}, fmt.Errorf("%w: position of invoice %s: %w", event.ErrMalformed, earlier.ID, err)
	}
	if !at.corrections {
		if err := d.facts(ctx, timeline.Mark{ListedAt: afterwards(at.ListedAt, from), Position: at.Position}, to, since, false); err != nil || d.page.Next != "" {
			return d.page, err
		}
		at = lineCursor{corrections: true}
	}
	// What was recorded after the earlier invoice's position was recorded about then, or later.
	err = d.corrections(ctx, timeline.Mark{ListedAt: afterwards(at.ListedAt, earlier.FinalisedAt.Add(-time.Hour)), Position: at.Position}, since)
	return d.page, err
}

func afterwards(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// counts are the measures of a line, by the terms that were known when its invoice was made.
func (a *tenantBilling) counts(i, line int) []billing.Measure {
	inv := &a.book.Issued[i]
	if int(inv.Subscription) >= len(a.subscriptions) || int(inv.Catalog) >= len(a.catalogs) || inv.Subscription < 0 || inv.Catalog < 0 {
		return nil
	}
	then := billing.Agreement{Terms: billing.TermsOf(a.subscriptions[inv.Subscription], a.catalogs[:inv.Catalog+1]), Zone: a.book.Zone}
	return then.Counts(&inv.Lines[line])
}

// earlier is the last invoice before this one that the same time is on; nil where there is none.
func (a *tenantBilling) earlier(i, line int) *billing.Issued {
	end := a.book.Issued[i].Lines[line].PeriodEnd
	for j := i - 1; j >= 0; j-- {
		before := &a.book.Issued[j]
		if rebilled := before.Voided != nil && before.Voided.Rebill; !rebilled && !before.PeriodEnd.Before(end) {
			return before
		}
	}
	return nil
}

// drilldown fills one page.
type drilldown struct {
	billing  *Billing
	tenant   event.TenantID
	measures []billing.Measure
	at       eventstore.Position // of the invoice
	most     int
	page     LineEvents
}

// facts adds facts, and with them their corrections.
func (d *drilldown) facts(ctx context.Context, after timeline.Mark, to time.Time, since eventstore.Position, corrected bool) error {
	return d.scan(ctx, after, to, since, false, func(page []timeline.ListedFact) error {
		corrections := map[event.Identity][]event.Decoded{}
		if corrected {
			var ids []event.Identity
			for i := range page {
				if u, ok := page[i].Payload.(event.UsageRecorded); ok {
					ids = append(ids, u.Identity)
				}
			}
			all, err := d.billing.c.Facts.CorrectionsOf(ctx, d.tenant, ids, d.at)
			if err != nil {
				return err
			}
			for _, c := range all {
				id := identityOf(c.Payload)
				corrections[id] = append(corrections[id], c)
			}
		}
		for i := range page {
			u, ok := page[i].Payload.(event.UsageRecorded)
			if !ok {
				continue
			}
			if len(d.page.Items) >= d.most {
				return d.stop(page[i-1].Mark, false)
			}
			for _, e := range append([]event.Decoded{page[i].Decoded}, corrections[u.Identity]...) {
				if err := d.add(ctx, e); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// corrections adds corrections by themselves.
func (d *drilldown) corrections(ctx context.Context, after timeline.Mark, since eventstore.Position) error {
	return d.scan(ctx, after, time.Time{}, since, true, func(page []timeline.ListedFact) error {
		for i := range page {
			if _, fact := page[i].Payload.(event.UsageRecorded); fact {
				continue
			}
			if len(d.page.Items) >= d.most {
				return d.stop(page[i-1].Mark, true)
			}
			if err := d.add(ctx, page[i].Decoded); err != nil {
				return err
			}
		}
		return nil
	})
}

var errPageFull = errors.New("the page is full")

func (d *drilldown) stop(last timeline.Mark, corrections bool) error {
	d.page.Next = lineCursor{last, corrections}.String()
	return errPageFull
}

// scan reads the list until the page is full, or long enough.
func (d *drilldown) scan(ctx context.Context, after timeline.Mark, before time.Time, since eventstore.Position, corrections bool, visit func([]timeline.ListedFact) error) error {
	for n := 0; ; n += factRead {
		if n >= scanned || len(d.page.Items) >= d.most {
			_ = d.stop(after, corrections)
			return nil
		}
		page, err := d.billing.c.Facts.FactPage(ctx, d.tenant, timeline.FactPage{After: after, Before: before, Since: since, At: d.at, Limit: factRead})
		if err != nil {
			return err
		}
		if err := visit(page); errors.Is(err, errPageFull) {
			return nil
		} else if err != nil {
			return err
		}
		if len(page) < factRead {
			return nil
		}
		after = page[len(page)-1].Mark
	}
}

// add adds an event if the line counts it.
func (d *drilldown) add(ctx context.Context, e event.Decoded) error {
	q, counted, err := d.billing.adds(ctx, d.measures, e.Payload)
	if err != nil || !counted {
		return err
	}
	item := LineEvent{Decoded: e, Quantity: q}
	switch p := e.Payload.(type) {
	case event.UsageRecorded:
		item.Usage = p.Usage
	case event.UsageVoided:
		item.Usage, item.Correction = p.Usage, true
	case event.UsageAdjusted:
		item.Usage, item.Correction = p.After(), true
	}
	d.page.Items = append(d.page.Items, item)
	return nil
}

// adds is what an event adds to measures; counted is false where it is about none of them.
func (b *Billing) adds(ctx context.Context, measures []billing.Measure, payload any) (sum money.Decimal, counted bool, err error) {
	revision, of, ok := event.CountedBy(payload)
	if !ok {
		return sum, false, nil
	}
	c, err := b.c.Catalogs.At(ctx, revision)
	if err != nil {
		return sum, false, err
	}
	for _, f := range limit.FactsOf(payload, c.MetersOf(string(of))) {
		for i := range measures {
			if q, counts := limit.Measured(&measures[i], f); counts {
				sum, counted = sum.Add(q), true
			}
		}
	}
	return sum, counted, nil
}

func identityOf(payload any) event.Identity {
	switch p := payload.(type) {
	case event.UsageVoided:
		return p.Identity
	case event.UsageAdjusted:
		return p.Identity
	default:
		return event.Identity{}
	}
}

// InvoiceLine is a line that counts an event.
type InvoiceLine struct {
	Invoice Invoice
	Line    int
}

// LinesOf lists the invoice lines that count a fact or one of its corrections, in the order of the invoices.
func (b *Billing) LinesOf(ctx context.Context, id event.Identity) (lines []InvoiceLine, err error) {
	recorded, err := eventstore.ReadAll(ctx, b.c.Store, id.Stream())
	if err != nil || len(recorded) == 0 {
		return nil, err
	}
	payloads := make([]any, len(recorded))
	for n, r := range recorded {
		if payloads[n], err = event.Decode(r); err != nil {
			return nil, err
		}
	}
	a, err := b.read(ctx, id.Tenant)
	if errors.Is(err, tenant.ErrUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for i := range a.book.Issued {
		until, err := eventstore.ParsePosition(a.book.Issued[i].Position)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", event.ErrMalformed, err)
		}
		for n := range a.book.Issued[i].Lines {
			since := eventstore.Position{}
			if earlier := a.earlier(i, n); earlier != nil {
				if since, err = eventstore.ParsePosition(earlier.Position); err != nil {
					return nil, fmt.Errorf("%w: %w", event.ErrMalformed, err)
				}
			}
			measures := a.counts(i, n)
			for k, r := range recorded {
				if len(measures) == 0 || r.Position.Offset <= since.Offset || r.Position.Offset > until.Offset {
					continue
				}
				_, counted, err := b.adds(ctx, measures, payloads[k])
				if err != nil {
					return nil, err
				}
				if counted {
					lines = append(lines, InvoiceLine{a.invoice(i), n})
					break
				}
			}
		}
	}
	return lines, nil
}

// lineCursor is the last entry of the list that was looked at; facts come first, and then corrections by themselves.
type lineCursor struct {
	timeline.Mark
	corrections bool
}

func (c lineCursor) String() string {
	list := "f"
	if c.corrections {
		list = "c"
	}
	return list + "." + strconv.FormatInt(c.ListedAt.UnixMicro(), 10) + "." + c.Position.String()
}

// parseCursor reads what String wrote; "" is the beginning. Error: *invalid.Error.
func parseCursor(text string) (c lineCursor, err error) {
	if text == "" {
		return c, nil
	}
	bad := invalid.New("/cursor", "malformed", "the cursor is not one that was given out; start again without one")
	parts := strings.SplitN(text, ".", 3)
	if len(parts) != 3 || parts[0] != "f" && parts[0] != "c" {
		return c, bad
	}
	micros, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || micros < -62_135_596_800_000_000 || micros > 253_402_300_800_000_000 { // the years 1 to 9999
		return c, bad
	}
	at, err := eventstore.ParsePosition(parts[2])
	if err != nil {
		return c, bad
	}
	return lineCursor{timeline.Mark{ListedAt: time.UnixMicro(micros).UTC(), Position: at}, parts[0] == "c"}, nil
}
