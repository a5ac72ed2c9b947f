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

// Late is a decision that Degraded gave at an instant, as it goes on the log afterwards. It stays what the caller was told: a limit
// that is exceeded by now shows overage. What it holds lasts as long as if it were decided now. ok is false where the check holds
// something already: then it was decided on the log, too.
func (a *Account) Late(p *Policy, ask Ask, allowed bool, given, now time.Time) (e event.LimitDecided, ok bool) {
	at := a.advance(now)
	if a.open(Source{ask.Type, ask.Source}, at) != nil {
		return e, false
	}
	d := &decision{account: a, policy: p, ask: ask, at: at, fresh: true, fingerprint: ask.fingerprint()}
	e = d.judgeAll()
	e.Allowed = allowed
	for i := range e.Parts {
		if part := &e.Parts[i]; allowed && part.Denied && !part.Observed {
			part.Denied, part.Soft, part.ResetAt = false, true, time.Time{}
		}
	}
	d.settle(&e)
	e.GivenAt = TickOf(given).Time()
	return e, true
}
