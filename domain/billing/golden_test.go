package billing_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// golden is the history of a tenant and its invoices. The amounts were worked out by hand, and the arithmetic stands beside
// each; no program wrote them.
type golden struct {
	About string
	Zone  string
	Steps []struct { // one of these each
		Catalog *struct {
			At       string
			Versions map[catalog.PlanKey]int
			Meters   yaml.Node
			Plans    yaml.Node
		}
		Assign *struct{ Plan, At, Anchor string }
		Usage  []struct {
			Meter    string
			At       string
			Quantity string
			Data     map[string]string
		}
		Grant  *struct{ ID, Kind, Amount, At, From, Until, Priority string }
		Closed string // the tenant, at this instant
		Void   *struct {
			Invoice int // 1 is the first
			Rebill  bool
		}
		Invoice *struct { // the next one is finalised, and has exactly this
			Period string
			Lines  []struct{ Line, Why string }
			Grants []struct{ Grant, Why string } // what the invoice does to them
			Total  string
		}
		NothingDue bool `yaml:"nothingDue"`
	}
}

func TestGoldenInvoices(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "golden", "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			var g golden
			d := yaml.NewDecoder(bytes.NewReader(text))
			d.KnownFields(true)
			require.NoError(t, d.Decode(&g))
			g.play(t)
		})
	}
}

func (g *golden) play(t *testing.T) {
	zone, err := time.LoadLocation(g.Zone)
	require.NoError(t, err)
	a := account{tenant: "acme", zone: zone}
	for n, s := range g.Steps {
		switch {
		case s.Catalog != nil:
			text, err := yaml.Marshal(map[string]*yaml.Node{"meters": &s.Catalog.Meters, "plans": &s.Catalog.Plans})
			require.NoError(t, err)
			c, err := catalog.Parse(text)
			require.NoError(t, err)
			a.catalogs = append(a.catalogs, billing.Applied{At: instant(t, s.Catalog.At), Catalog: &c, Versions: s.Catalog.Versions})
		case s.Assign != nil:
			a.subscription = a.subscription.Assign(tenant.Assignment{Plan: catalog.PlanKey(s.Assign.Plan),
				EffectiveAt: instant(t, s.Assign.At), BillingAnchor: instant(t, s.Assign.Anchor)})
		case s.Usage != nil:
			for _, u := range s.Usage {
				a.usage = append(a.usage, used{catalog.MeterKey(u.Meter), u.Data, instant(t, u.At), money.MustParse(u.Quantity)})
			}
		case s.Grant != nil:
			a.grant(t, s.Grant.ID, s.Grant.Kind, s.Grant.Amount, s.Grant.Priority, s.Grant.At, s.Grant.From, s.Grant.Until)
		case s.Closed != "":
			a.closed = instant(t, s.Closed)
		case s.Void != nil:
			a.void(s.Void.Invoice-1, s.Void.Rebill)
		case s.Invoice != nil:
			inv, ok := a.close(t)
			require.True(t, ok, "step %d: an invoice is due", n+1)
			require.Equal(t, s.Invoice.Period, span(inv.PeriodStart, inv.PeriodEnd), "step %d", n+1)
			var want, got []string
			for _, l := range s.Invoice.Lines {
				require.NotEmpty(t, l.Why, "step %d: the arithmetic of %q", n+1, l.Line)
				want = append(want, l.Line)
			}
			for _, l := range inv.Lines {
				got = append(got, written(l))
			}
			require.Equal(t, want, got, "step %d", n+1)
			want, got = nil, nil
			for _, g := range s.Invoice.Grants {
				require.NotEmpty(t, g.Why, "step %d: the arithmetic of %q", n+1, g.Grant)
				want = append(want, g.Grant)
			}
			for what, uses := range map[string][]event.CreditUse{"drawn": inv.Drawn, "returned": inv.Returned, "expired": inv.Expired} {
				for _, u := range uses {
					got = append(got, fmt.Sprintf("%s %s %s", what, u.Grant, u.Amount))
				}
			}
			require.ElementsMatch(t, want, got, "step %d", n+1)
			require.Equal(t, s.Invoice.Total, inv.Total.String(), "step %d", n+1)
		case s.NothingDue:
			_, ok := a.close(t)
			require.False(t, ok, "step %d", n+1)
		default:
			require.Failf(t, "an empty step", "%d", n+1)
		}
	}
}

// written is a whole line in one: kind, price and plan, the time that it is about, then the quantity with its meter, what of
// it is free, the unit price, the tiers and the number of events, as far as it has them, and the amount.
func written(l event.InvoiceLine) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s %s: %s", l.Kind, l.Price, l.PlanVersion, span(l.PeriodStart, l.PeriodEnd), l.Quantity)
	if l.Meter != "" {
		b.WriteString(" " + l.Meter)
	}
	if l.Included.Sign() != 0 {
		fmt.Fprintf(&b, " - %s free", l.Included)
	}
	if l.Unit.Sign() != 0 {
		fmt.Fprintf(&b, " @ %s", l.Unit)
	}
	for _, t := range l.Tiers {
		to := ""
		if t.To.Sign() != 0 {
			to = t.To.String()
		}
		fmt.Fprintf(&b, " [%s..%s: %s @ %s]", t.From, to, t.Quantity, t.Unit)
	}
	if l.Events != 0 {
		fmt.Fprintf(&b, ", %d events", l.Events)
	}
	return fmt.Sprintf("%s = %s", b.String(), l.Amount)
}

// span writes midnights of UTC as dates.
func span(from, to time.Time) string { return day(from) + ".." + day(to) }

func day(t time.Time) string {
	if t.Equal(t.UTC().Truncate(24 * time.Hour)) {
		return t.UTC().Format(time.DateOnly)
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func instant(t require.TestingT, s string) time.Time {
	if len(s) == len(time.DateOnly) {
		s += "T00:00:00Z"
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	require.NoError(t, err)
	return at.UTC()
}
