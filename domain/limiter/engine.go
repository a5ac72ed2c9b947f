// Package limiter owns the limit engine, which answers checks: one actor for each tenant that somebody asks about, an account
// in memory behind each actor, and one follower of each partition of the log, which keeps the accounts current. What a limit
// admits is decided by package limit, which is pure.
package limiter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/limit"
)

// AccountLoader reads what limits have to know about a tenant before its first check in this process. What it returns may be
// old: the rest is read from the log.
type AccountLoader interface {
	// Account returns the fold of the tenant's quota stream.
	Account(ctx context.Context, t event.TenantID) (limit.Snapshot, error)
	// Series returns sums of usage from an instant on; of minutes, for needs that have them, only the recent ones. The
	// result is in the order of the needs.
	Series(ctx context.Context, t event.TenantID, needs []limit.Need, since, recent time.Time) ([]limit.Loaded, error)
	// Overdue lists tenants that have holds which ended before an instant, at most so many.
	Overdue(ctx context.Context, before time.Time, most int) ([]event.TenantID, error)
}

// CreditLoader reads what a tenant can draw on.
type CreditLoader interface {
	// CreditTracker returns the tenant's credit as its billing has it now, for budgets of the policy.
	CreditTracker(ctx context.Context, t event.TenantID, p *limit.Policy) (*limit.CreditTracker, error)
}

// Config is what the limit engine works with. All but the bounds is required.
type Config struct {
	Writer    uuid.UUID // of this engine alone: a new random one each time
	Store     eventstore.Store
	Directory app.Directory
	Accounts  AccountLoader
	Catalogs  app.Catalogs
	Credit    CreditLoader // for budgets of credits
	Now       func() time.Time
	// MaxAccounts bounds the accounts in memory. 0: 20,000.
	MaxAccounts int
	// IdleAfter is when an account that nobody asks for leaves the memory. 0: ten minutes.
	IdleAfter time.Duration
	// RecentEvents bounds what is remembered of each partition of the log, for accounts that are loaded from read models which
	// are behind. 0: 50,000.
	RecentEvents int
	// CheckTimeout is how long a check may take, or less where its context ends before; then it is answered as if the log were
	// away. 0: five seconds.
	CheckTimeout time.Duration
	// Lost receives how many decisions that were given without the log will never be on it, and why. Optional.
	Lost func(n int, why string)
	// SweepEvery is how often ended holds are written down. 0: five seconds; below 0: never.
	SweepEvery time.Duration
}

const (
	defaultAccounts     = 20_000
	defaultIdle         = 10 * time.Minute
	defaultSweep        = 5 * time.Second
	defaultRecent       = 50_000
	defaultCheckTimeout = 5 * time.Second

	maxQueuedJobs = 10_000           // per tenant
	maxJobs       = 500              // decided and appended together
	maxAttempts   = 100              // at one such batch
	workTimeout   = 15 * time.Second // of one such batch
)

// Engine answers checks. Each tenant's checks go through one actor in this process, which decides all that is waiting
// against the tenant's account, appends the decisions in one batch at the revision that it has read, and answers after the
// commit. When another replica was faster it learns what that one wrote, and decides again: the tenant's quota stream is
// the only boundary of consistency, and needs neither leader nor lock.
type Engine struct {
	config    Config
	followers []*follower
	counts    Counts
	backlog   backlog

	running context.Context //nolint:containedctx // ends with the engine, not with a request
	stop    context.CancelFunc
	work    sync.WaitGroup
	closing sync.Mutex // nothing is started any more once it is closed
	closed  bool
}

// Counts is what the engine has done since it was made.
type Counts struct {
	Allowed, Denied, Replayed   atomic.Int64
	DegradedAllowed, Undecided  atomic.Int64 // while the log could not be reached
	LateRecorded, LateLost      atomic.Int64 // of those that were given without the log
	Conflicts, Loads, Evictions atomic.Int64
}

// New starts the engine. Close it before its store.
func New(c Config) *Engine {
	if c.MaxAccounts == 0 {
		c.MaxAccounts = defaultAccounts
	}
	if c.IdleAfter == 0 {
		c.IdleAfter = defaultIdle
	}
	if c.RecentEvents == 0 {
		c.RecentEvents = defaultRecent
	}
	if c.SweepEvery == 0 {
		c.SweepEvery = defaultSweep
	}
	if c.CheckTimeout <= 0 {
		c.CheckTimeout = defaultCheckTimeout
	}
	if c.Writer == uuid.Nil {
		panic("limiter: a limit engine without an id of its own")
	}
	l := &Engine{config: c, backlog: backlog{added: make(chan struct{}, 1)}}
	l.running, l.stop = context.WithCancel(context.Background())
	for p := range c.Store.Partitions() {
		f := newFollower(l, p)
		l.followers = append(l.followers, f)
		l.work.Go(f.run)
	}
	l.work.Go(l.maintain)
	l.work.Go(l.recordLate)
	return l
}

// Close ends the engine. Checks that wait are answered with eventstore.ErrUnavailable.
func (l *Engine) Close() {
	l.closing.Lock()
	l.closed = true
	l.closing.Unlock()
	l.stop()
	l.work.Wait()
}

// start runs something that Close waits for.
func (l *Engine) start(f func()) bool {
	l.closing.Lock()
	defer l.closing.Unlock()
	if !l.closed {
		l.work.Go(f)
	}
	return !l.closed
}

// Counts returns what the engine has done.
func (l *Engine) Counts() *Counts { return &l.counts }

// InMemory counts the accounts in memory.
func (l *Engine) InMemory() (n int) {
	for _, f := range l.followers {
		n += f.len()
	}
	return n
}

// Decision answers one check.
type Decision struct {
	limit.Answer
	Policy   *limit.Policy
	Position eventstore.Position // of the decision that holds now; of the usage, where it is recorded already; zero if degraded
	Degraded bool                // the log could not be reached, and the limits admit that; it is recorded when it can be
	// Err: *invalid.Error, tenant.ErrUnknown or *app.UnknownEventTypeError for input; eventstore.ErrUnavailable or ErrOverloaded
	// when there is no answer.
	Err error
}

// Check decides checks in order, each on its own; those of one tenant together, as far as the queue allows, by what any process had
// answered before the call. The result has one decision for each, in order.
func (l *Engine) Check(ctx context.Context, asks []limit.Ask) []Decision {
	waiting, cancel := context.WithTimeout(ctx, l.config.CheckTimeout)
	defer cancel()
	decisions := l.check(waiting, asks)
	for i := range decisions {
		d := &decisions[i]
		if d.Err != nil && !errors.Is(ctx.Err(), context.Canceled) { // else the caller has left, and gets no answer
			*d = undecided(l.knownPolicy(waiting, asks[i].Tenant, d.Err), &asks[i], d.Err, l.config.Now())
			if d.Degraded {
				l.remember(&asks[i], d)
			}
		}
		l.count(d)
	}
	return decisions
}

// check has checks decided until the context ends.
func (l *Engine) check(ctx context.Context, asks []limit.Ask) []Decision {
	looking, cancel := half(ctx) // what is known when it ends must be enough
	defer cancel()
	app.Refresh(looking, l.config.Directory)
	decisions := make([]Decision, len(asks))
	jobs := make([]*job, len(asks))
	for i := 0; i < len(asks); {
		if err := l.accept(looking, asks[i]); err != nil {
			decisions[i].Err = err
			i++
			continue
		}
		// A run of checks of one tenant enters its queue as one.
		var run []*job
		for first := i; i < len(asks) && asks[i].Tenant == asks[first].Tenant; i++ {
			if i > first {
				if err := l.accept(looking, asks[i]); err != nil {
					break
				}
			}
			jobs[i] = newJob()
			jobs[i].ask = &asks[i]
			run = append(run, jobs[i])
		}
		if err := l.enqueue(run[0].ask.Tenant, run); err != nil {
			for _, j := range run {
				j.finish(err)
			}
		}
	}
	for i, j := range jobs {
		if j == nil {
			continue
		}
		if err := j.wait(ctx); err != nil {
			decisions[i].Err = err
		} else {
			decisions[i] = j.decision
		}
	}
	return decisions
}

// half ends at half of the time that a context has left.
func half(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/2)
}

// knownPolicy is what is known of a tenant's policy, without asking anybody; nil where it is nothing, or not of interest.
func (l *Engine) knownPolicy(ctx context.Context, t event.TenantID, why error) *limit.Policy {
	if !errors.Is(why, eventstore.ErrUnavailable) {
		return nil
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if policy, _, err := l.policyOf(ended, t, nil, policyKey{}); err == nil {
		return policy
	}
	return l.follower(t).actor(t).lastPolicy.Load()
}

// undecided answers a check that could not be decided: while the log is away, it is let through where its limits admit that. What
// is under way may still be decided and recorded; asking again shows it.
func undecided(p *limit.Policy, ask *limit.Ask, why error, now time.Time) Decision {
	if p != nil && errors.Is(why, eventstore.ErrUnavailable) {
		if err := p.Check(ask.Check); err != nil {
			return Decision{Err: err}
		}
		if answer, ok := limit.Degraded(p, *ask, now); ok {
			return Decision{Answer: answer, Policy: p, Degraded: true}
		}
	}
	return Decision{Err: why}
}

func (l *Engine) count(d *Decision) {
	switch {
	case d.Err != nil:
		if errors.Is(d.Err, eventstore.ErrUnavailable) || errors.Is(d.Err, eventstore.ErrOverloaded) {
			l.counts.Undecided.Add(1)
		}
	case d.Degraded && d.Allowed:
		l.counts.DegradedAllowed.Add(1)
	case d.Replayed:
		l.counts.Replayed.Add(1)
	case d.Allowed:
		l.counts.Allowed.Add(1)
	default:
		l.counts.Denied.Add(1)
	}
}

// Release ends an open hold; released is false where there is none.
func (l *Engine) Release(ctx context.Context, id event.Identity, by event.Actor) (released bool, at eventstore.Position, err error) {
	j := newJob()
	j.release, j.by = &id, by
	if err := l.enqueue(id.Tenant, []*job{j}); err != nil {
		return false, at, err
	}
	if err := j.wait(ctx); err != nil {
		return false, at, err
	}
	return j.released, j.decision.Position, j.decision.Err
}

// LimitsView is how a tenant's limits, or its holds, are at an instant.
type LimitsView struct {
	Policy *limit.Policy
	Limits []limit.LimitState
	Holds  []limit.Hold // open ones, in the order in which they end
	At     eventstore.Position
	Now    time.Time
}

// View returns how the limits of a tenant are now; of those that count by data fields it has the ones that values names all
// fields of.
func (l *Engine) View(ctx context.Context, t event.TenantID, values event.Data) (LimitsView, error) {
	return l.show(ctx, t, values, false)
}

// Holds lists the open holds of a tenant.
func (l *Engine) Holds(ctx context.Context, t event.TenantID) (LimitsView, error) {
	return l.show(ctx, t, event.Data{}, true)
}

func (l *Engine) show(ctx context.Context, t event.TenantID, values event.Data, holds bool) (LimitsView, error) {
	j := newJob()
	j.show, j.values, j.holds = true, values, holds
	if err := l.enqueue(t, []*job{j}); err != nil {
		return LimitsView{}, err
	}
	if err := j.wait(ctx); err != nil {
		return LimitsView{}, err
	}
	return j.view, j.decision.Err
}

func (l *Engine) follower(t event.TenantID) *follower {
	return l.followers[eventstore.PartitionOf(string(t), len(l.followers))]
}

func (l *Engine) enqueue(t event.TenantID, jobs []*job) error {
	for {
		if err := l.follower(t).actor(t).enqueue(jobs); !errors.Is(err, errGone) {
			return err
		}
	}
}

// accept checks an intended usage event like one that happened.
func (l *Engine) accept(ctx context.Context, ask limit.Ask) error {
	config, err := l.config.Directory.Catalog(ctx)
	if err != nil {
		return fmt.Errorf("read the catalog: %w", err)
	}
	now := l.config.Now()
	u := event.Usage{Identity: ask.Identity, Quantity: ask.Quantity, OccurredAt: now, Data: ask.Data}
	if err := u.Check(now); err != nil {
		return err
	}
	if ask.TTL != 0 && (ask.TTL < limit.MinTTL || ask.TTL > limit.MaxTTL) {
		return invalid.New("/hold/ttl", invalid.CodeEvent, fmt.Sprintf("ttl must be between %s and %s", limit.MinTTL, limit.MaxTTL))
	}
	if _, err := l.config.Directory.Tenant(ctx, ask.Tenant); err != nil {
		return fmt.Errorf("tenant %q: %w", ask.Tenant, err)
	}
	return config.Countable(u)
}

// job is one thing to do for a tenant's actor.
type job struct {
	ask     *limit.Ask
	release *event.Identity
	by      event.Actor
	show    bool       // show the limits
	values  event.Data // of the limits that count by data fields
	holds   bool       // show the holds instead
	sweep   bool
	late    *late // record a decision that was given without the log

	done     chan struct{}
	decision Decision
	released bool
	view     LimitsView
	record   int // index of the job's event in the batch, plus 1
}

func newJob() *job { return &job{done: make(chan struct{})} }

func (j *job) finish(err error) {
	if err != nil {
		j.decision.Err = err
	}
	close(j.done)
}

func (j *job) wait(ctx context.Context) error {
	select {
	case <-j.done:
		return nil
	case <-ctx.Done():
		select {
		case <-j.done: // what was decided in time is answered, however long another job kept its caller
			return nil
		default:
		}
		return fmt.Errorf("%w: %w while a decision was under way", eventstore.ErrUnavailable, ctx.Err())
	}
}

// maintain lets go of accounts that are not used, and writes down the ends of holds.
func (l *Engine) maintain() {
	every := l.config.SweepEvery
	if every < 0 {
		every = defaultSweep
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-l.running.Done():
			return
		case <-tick.C:
		}
		for _, f := range l.followers {
			f.evict(l.config.Now())
		}
		if l.config.SweepEvery > 0 {
			l.Sweep(l.running)
		}
	}
}

const (
	sweepTenants = 100
	// sweepAfter lets the process that decided write the end of a hold first.
	sweepAfter   = time.Minute
	sweepTimeout = 10 * time.Second
)

// Sweep writes down the ends of holds that are over. Nothing depends on it: a hold ends by time, written down
// or not.
func (l *Engine) Sweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	tenants := map[event.TenantID]bool{}
	for _, f := range l.followers {
		for _, t := range f.overdue(l.config.Now(), sweepTenants) {
			tenants[t] = true
		}
	}
	// Tenants that are in no memory: any replica may do it.
	if others, err := l.config.Accounts.Overdue(ctx, l.config.Now().Add(-sweepAfter), sweepTenants); err == nil { // else the next time
		for _, t := range others {
			tenants[t] = true
		}
	}
	var jobs []*job
	for t := range tenants {
		j := newJob()
		j.sweep = true
		if l.enqueue(t, []*job{j}) == nil {
			jobs = append(jobs, j)
		}
	}
	for _, j := range jobs {
		_ = j.wait(ctx)
	}
}
