package limit

import (
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
)

// Degraded answers a check while the log cannot be reached: limits that need no memory decide as always, and the others
// pass if their onError says so. ok is false when one of them does not: then there is no answer. Rates, retry budgets and
// abuse guards pass, because they protect against bursts and not against cost; quotas, budgets and concurrency do not
// unless the plan says so.
func Degraded(p *Policy, ask Ask, now time.Time) (answer Answer, ok bool) {
	d := &decision{account: NewAccount(ask.Tenant, Snapshot{}), policy: p, ask: ask, at: TickOf(now), fresh: true, fingerprint: ask.fingerprint()}
	e := d.begin()
	for i := range p.Limits {
		l := &p.Limits[i]
		if !p.applies(l, ask.Type) {
			continue
		}
		switch l.kind {
		case event.MaxLimit, event.AccessLimit:
			part := d.judge(i)
			e.Allowed = e.Allowed && (!part.Denied || l.observes())
			e.Parts = append(e.Parts, part)
		case event.QuotaLimit, event.ConcurrencyLimit, event.BudgetLimit:
			if l.OnError != catalog.Allow && !l.observes() {
				return Answer{}, false
			}
		}
	}
	return Answer{LimitDecided: e}, true
}
