package limiter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// errGone: the actor left the memory; there is, or will be, another one.
var errGone = errors.New("the actor is gone")

// actor decides for one tenant. A goroutine of its own runs while there are jobs; between jobs the follower applies
// events to the account.
type actor struct {
	limits   *Engine
	follower *follower
	tenant   event.TenantID
	asked    time.Time    // last; guarded by the follower's lock
	known    atomic.Int64 // so many of the tenant's decisions are in the account already

	mu      sync.Mutex
	queue   []*job
	running bool // the goroutine is at work and owns the account: what is delivered waits in the inbox
	gone    bool
	loading bool
	account *limit.Account // nil while it is not loaded
	broken  bool           // the account cannot be trusted any more
	inbox   []limit.Entry

	lastPolicy atomic.Pointer[limit.Policy] // for those who do not wait any longer

	// Owned by the goroutine.
	policy   *limit.Policy
	policyOf policyKey
}

// policyKey is what a policy was made of.
type policyKey struct {
	catalog      eventstore.Revision
	zone         string
	status       tenant.Status
	subscription tenant.Subscription
}

func (k policyKey) equal(other policyKey) bool {
	return k.catalog == other.catalog && k.zone == other.zone && k.status == other.status && k.subscription.Equal(other.subscription)
}

// enqueue takes all jobs or none.
func (a *actor) enqueue(jobs []*job) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.gone:
		return errGone
	case len(a.queue) > 0 && len(a.queue)+len(jobs) > maxQueuedJobs:
		return fmt.Errorf("%w: more than %d checks of one tenant wait", eventstore.ErrOverloaded, maxQueuedJobs)
	}
	if !a.running {
		if !a.limits.start(a.run) {
			return fmt.Errorf("%w: the limit engine is closed", eventstore.ErrUnavailable)
		}
		a.running = true
	}
	a.queue = append(a.queue, jobs...)
	return nil
}

// listen makes room for what is delivered from now on.
func (a *actor) listen() {
	a.mu.Lock()
	a.loading, a.account, a.broken, a.inbox = true, nil, false, nil
	a.known.Store(0)
	a.mu.Unlock()
}

// decided reports whether an event is in the account already, because this actor decided it.
func (a *actor) decided(r *eventstore.Recorded) bool {
	return int64(r.Revision) < a.known.Load() && event.IsDecision(r.Type)
}

// deliver gives an event to the account, at once or as soon as the goroutine is done with it.
func (a *actor) deliver(e limit.Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.running && (a.loading || a.account != nil):
		a.inbox = append(a.inbox, e)
	case a.account != nil:
		a.apply(e)
	}
}

// apply folds an event; a.mu is held.
func (a *actor) apply(e limit.Entry) {
	if !a.broken && a.account.Apply(e) != nil {
		a.broken = true // it is loaded again before the next decision
	}
}

// breaks makes the account one that cannot be trusted: it is loaded again before the next decision.
func (a *actor) breaks() {
	a.mu.Lock()
	a.broken = true
	a.mu.Unlock()
}

// receive folds what was delivered in the meantime; ok is false when the account cannot be trusted any more.
func (a *actor) receive() (ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drain()
	return !a.broken
}

func (a *actor) drain() {
	if a.account == nil {
		return
	}
	for i := range a.inbox {
		a.apply(a.inbox[i])
	}
	clear(a.inbox)
	a.inbox = a.inbox[:0]
}

// idle reports whether the actor may leave the memory, and if so makes sure that it is not used any more.
func (a *actor) idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.running {
		a.gone = true
	}
	return a.gone
}

func (a *actor) overdue(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.running && a.account != nil && len(a.account.Expired(now, 1)) > 0
}

func (a *actor) run() {
	for {
		a.mu.Lock()
		n := min(len(a.queue), maxJobs)
		if n == 0 {
			a.drain()
			a.running = false
			a.mu.Unlock()
			return
		}
		jobs := slices.Clone(a.queue[:n])
		a.queue = slices.Delete(a.queue, 0, n)
		a.mu.Unlock()
		a.work(jobs)
	}
}

// work does jobs together: as often as other replicas are faster, it learns what they did and decides again.
func (a *actor) work(jobs []*job) {
	ctx, cancel := context.WithTimeout(a.limits.running, workTimeout)
	defer cancel()
	b := &batch{actor: a, jobs: jobs, recorded: map[limit.Source]eventstore.Position{}}
	for range maxAttempts {
		done, err := b.decide(ctx)
		if err != nil {
			b.fail(err)
			return
		}
		if done {
			for _, j := range jobs {
				j.finish(nil)
			}
			return
		}
	}
	b.fail(fmt.Errorf("%w: other replicas decide for %s all the time", eventstore.ErrOverloaded, a.tenant))
}

// prepare finds out what holds for the tenant now, and has the account know everything that is on the log: what was
// acknowledged before, by whatever process, counts.
func (a *actor) prepare(ctx context.Context) error {
	if err := a.refreshPolicy(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	load := a.account == nil || a.broken || a.account.Misses(a.policy, a.limits.config.Now())
	a.mu.Unlock()
	if load {
		if err := a.load(ctx); err != nil {
			return fmt.Errorf("load the account of %s: %w", a.tenant, err)
		}
	}
	return a.follower.sync(ctx)
}

// refreshPolicy reads what makes the tenant's policy, and makes it again where that has changed.
func (a *actor) refreshPolicy(ctx context.Context) error {
	policy, key, err := a.limits.policyOf(ctx, a.tenant, a.policy, a.policyOf)
	if err != nil {
		return err
	}
	a.policy, a.policyOf = policy, key
	a.lastPolicy.Store(policy)
	return nil
}

// policyOf is the policy of a tenant now, and what it was made of: the one that was made of the same before, where there is one.
func (l *Engine) policyOf(ctx context.Context, id event.TenantID, before *limit.Policy, madeOf policyKey) (*limit.Policy, policyKey, error) {
	d := l.config.Directory
	config, err := d.Catalog(ctx)
	if err != nil {
		return nil, policyKey{}, fmt.Errorf("read the catalog: %w", err)
	}
	t, err := d.Tenant(ctx, id)
	if err != nil {
		return nil, policyKey{}, fmt.Errorf("tenant %q: %w", id, err)
	}
	s, err := d.Subscription(ctx, id)
	if err != nil {
		return nil, policyKey{}, fmt.Errorf("subscription of tenant %q: %w", id, err)
	}
	key := policyKey{config.Revision, t.TimeZone, t.Status, s}
	now := l.config.Now()
	if p := before; p != nil && key.equal(madeOf) && !now.Before(p.From) && (p.Until.IsZero() || now.Before(p.Until)) {
		return p, madeOf, nil
	}
	zone, err := t.Location()
	if err != nil {
		return nil, policyKey{}, err
	}
	policy := limit.NewPolicy(&config.Catalog, config.Versions, s, t.Status, zone, now)
	if policy.Lost != "" {
		return nil, policyKey{}, fmt.Errorf("%w: tenant %q has the plan %q, which is not in the catalog", app.ErrNotFound, id, policy.Lost)
	}
	return policy, key, nil
}

// load makes the account: what the read models say, and what the log has after that.
func (a *actor) load(ctx context.Context) (err error) {
	a.limits.counts.Loads.Add(1)
	defer func() {
		if err != nil { // nothing need be delivered
			a.mu.Lock()
			a.loading, a.inbox = false, nil
			a.mu.Unlock()
		}
	}()
	from, err := a.follower.listen(ctx, a)
	if err != nil {
		return err
	}
	l := a.limits
	snapshot, err := l.config.Accounts.Account(ctx, a.tenant)
	if err != nil {
		return err
	}
	account := limit.NewAccount(a.tenant, snapshot)
	low := snapshot.At
	needs := a.policy.Needs()
	if len(needs) > 0 {
		now := l.config.Now()
		series, err := l.config.Accounts.Series(ctx, a.tenant, needs, now.Add(-limit.History), now.Add(-limit.RecentMinutes))
		if err != nil {
			return err
		}
		for _, s := range series {
			account.AddSeries(s)
			low = min(low, s.At)
			if s.Need.Minutes {
				low = min(low, s.MinutesAt)
			}
		}
	}
	if a.policy.Credits() {
		credit, err := l.config.Credit.CreditTracker(ctx, a.tenant, a.policy)
		if err != nil {
			return err
		}
		account.SetCredit(credit)
		low = min(low, credit.At())
	}
	missed, err := a.follower.between(ctx, a.tenant, low, from)
	if err != nil {
		return err
	}
	for i := range missed {
		e, err := l.decode(ctx, missed[i])
		if err != nil {
			return err
		}
		if err := account.Apply(*e); err != nil {
			return err
		}
	}
	a.mu.Lock()
	a.account, a.loading = account, false
	a.mu.Unlock()
	return nil
}

// loadValues makes the account add up sums of single values, as the read models have them and with what the log has since.
func (a *actor) loadValues(ctx context.Context, needs []limit.Need) error {
	a.account.MakeRoom(len(needs))
	missing := a.account.Missing(needs)
	if len(missing) == 0 {
		return nil
	}
	l, now := a.limits, a.limits.config.Now()
	series, err := l.config.Accounts.Series(ctx, a.tenant, missing, now.Add(-limit.History), now.Add(-limit.RecentMinutes))
	if err != nil {
		return fmt.Errorf("load sums of %s: %w", a.tenant, err)
	}
	low := series[0].At
	for _, s := range series {
		low = min(low, s.At)
		if s.Need.Minutes {
			low = min(low, s.MinutesAt)
		}
	}
	here := a.follower.here().Offset // the account has everything up to it: nothing is added twice
	recorded, err := a.follower.between(ctx, a.tenant, low, here)
	if err != nil {
		return err
	}
	missed := make([]limit.Entry, len(recorded))
	for i := range recorded {
		e, err := l.decode(ctx, recorded[i])
		if err != nil {
			return err
		}
		missed[i] = *e
	}
	for _, s := range series {
		a.account.AddValue(s, missed, here)
	}
	return nil
}

// batch is jobs on their way to one append.
type batch struct {
	actor    *actor
	jobs     []*job
	recorded map[limit.Source]eventstore.Position // checks whose usage turned out to be on the log
	events   []event.QuotaEvent
	guarded  []event.Identity    // of the checks and releases in events
	at       eventstore.Position // up to which everything was delivered
}

// decide decides all jobs and appends what they have to say; done is false when it has to be tried again.
func (b *batch) decide(ctx context.Context) (done bool, err error) {
	a := b.actor
	now := a.limits.config.Now() // before the log is read: usage of holds that have ended by now is known then
	if err := a.prepare(ctx); err != nil {
		return false, err
	}
	b.at = a.follower.here()
	if !a.receive() || a.account.Misses(a.policy, now) { // what was delivered may make it necessary to load again
		return false, nil
	}
	if err := a.loadValues(ctx, b.needs()); err != nil {
		return false, err
	}
	b.propose(now)
	if len(b.events) == 0 {
		a.account.Keep(nil, eventstore.Result{})
		b.show(now)
		return true, nil
	}
	expected := a.account.Revision() - eventstore.Revision(len(b.events))
	result := a.limits.config.Store.Append(ctx, []eventstore.Append{event.AppendDecisions(a.limits.config.Writer, a.tenant, expected, b.events, b.guarded)})[0]
	switch result.Outcome {
	case eventstore.Appended, eventstore.Duplicate:
		a.account.Keep(b.events, result)
		a.known.Store(int64(a.account.Revision()) + 1)
		b.place(result)
		b.show(now)
		return true, nil
	case eventstore.Present:
		a.account.Undo()
		for _, i := range result.Present {
			id := b.guarded[i]
			if b.recorded[limit.Source{Type: id.Type, Source: id.Source}], err = a.usageAt(ctx, id); err != nil {
				return false, err
			}
		}
		return false, nil
	case eventstore.Conflict:
		a.limits.counts.Conflicts.Add(1)
		a.account.Undo()
		return false, nil
	default:
		a.account.Undo()
		return false, fmt.Errorf("append decisions of %s: %w", a.tenant, result.Err)
	}
}

// usageAt is the position of a recorded fact.
func (a *actor) usageAt(ctx context.Context, id event.Identity) (eventstore.Position, error) {
	recorded, err := a.limits.config.Store.ReadStream(ctx, id.Stream(), 0, 1)
	if err != nil {
		return eventstore.Position{}, err
	}
	if len(recorded) == 0 {
		return eventstore.Position{}, fmt.Errorf("%w: %s/%s was there a moment ago", eventstore.ErrHole, id.Type, id.Source)
	}
	return recorded[0].Position, nil
}

// needs are the sums of single values that the jobs look at.
func (b *batch) needs() (needs []limit.Need) {
	for _, j := range b.jobs {
		switch {
		case j.ask != nil:
			needs = append(needs, b.actor.policy.NeedsOf(j.ask.Type, j.ask.Data)...)
		case j.late != nil:
			needs = append(needs, b.actor.policy.NeedsOf(j.late.ask.Type, j.late.ask.Data)...)
		case j.show:
			needs = append(needs, b.actor.policy.NeedsOf("", j.values)...)
		}
	}
	slices.SortFunc(needs, limit.CompareNeeds)
	return slices.CompactFunc(needs, func(x, y limit.Need) bool { return x.Series == y.Series && x.Minutes == y.Minutes })
}

// propose decides every job, each on what the ones before it take.
func (b *batch) propose(now time.Time) {
	account, policy := b.actor.account, b.actor.policy
	account.Begin()
	b.events, b.guarded = b.events[:0], b.guarded[:0]
	holding := map[limit.Source]int{} // the event that keeps a check, plus 1
	add := func(j *job, e event.QuotaEvent) {
		account.Propose(e)
		b.events = append(b.events, e)
		if j != nil {
			j.record = len(b.events)
		}
	}
	for _, j := range b.jobs {
		j.record, j.released, j.decision = 0, false, Decision{Policy: policy}
		switch {
		case j.ask != nil:
			source := limit.Source{Type: j.ask.Type, Source: j.ask.Source}
			if at, ok := b.recorded[source]; ok {
				j.decision.Answer, j.decision.Position = account.Recorded(policy, *j.ask, now), at
				continue
			}
			if err := policy.Check(j.ask.Check); err != nil && !account.Renews(policy, *j.ask, now) {
				j.decision.Err = err
				continue
			}
			j.decision.Answer = account.Decide(policy, *j.ask, now)
			switch {
			case j.decision.Record:
				add(j, j.decision.LimitDecided)
				b.guarded = append(b.guarded, j.ask.Identity)
				if j.decision.Keeps {
					holding[source] = j.record
				}
			case j.decision.Hold != nil: // of this batch, or of an earlier one
				j.record, j.decision.Position = holding[source], j.decision.Hold.Position
			}
		case j.release != nil:
			source := limit.Source{Type: j.release.Type, Source: j.release.Source}
			if _, ok := b.recorded[source]; ok {
				continue
			}
			if e := account.Release(source, now, j.by); e != nil {
				j.released = true
				add(j, e)
				b.guarded = append(b.guarded, *j.release)
			}
		case j.late != nil:
			ask := j.late.ask
			_, settled := b.recorded[limit.Source{Type: ask.Type, Source: ask.Source}]
			ask.NoHold = ask.NoHold || settled
			e, ok := account.Late(policy, ask, j.late.allowed, j.late.given, now)
			if !ok {
				continue
			}
			add(j, e)
			if !settled {
				b.guarded = append(b.guarded, ask.Identity)
			}
		case j.sweep:
			for _, e := range account.Expired(now, max(0, eventstore.MaxStreamBatch-len(b.jobs)-len(b.events))) {
				add(nil, e)
			}
		}
	}
}

// place gives each job the position of its event; at is the answer to the append.
func (b *batch) place(at eventstore.Result) {
	for _, j := range b.jobs {
		if j.record > 0 {
			j.decision.Position = at.PositionOf(j.record-1, len(b.events))
		}
	}
}

// show answers those who asked how the limits or holds are.
func (b *batch) show(now time.Time) {
	account, policy := b.actor.account, b.actor.policy
	for _, j := range b.jobs {
		switch {
		case !j.show:
		case j.holds:
			j.view = LimitsView{Policy: policy, Holds: account.Held(policy, now), At: b.at, Now: now}
		default:
			j.view = LimitsView{Policy: policy, Limits: account.View(policy, now, j.values), At: b.at, Now: now}
		}
	}
}

// fail answers all jobs with an error.
func (b *batch) fail(err error) {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	for _, j := range b.jobs {
		j.decision = Decision{}
		j.finish(err)
	}
}
