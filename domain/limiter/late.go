package limiter

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/limit"
)

const (
	maxLate     = 10_000           // decisions that wait for the log
	maxLateAge  = 10 * time.Minute // of one of them
	latePause   = 500 * time.Millisecond
	lateTimeout = 30 * time.Second // of one try
)

// late is a decision that was given without the log.
type late struct {
	ask     limit.Ask
	allowed bool
	given   time.Time
}

// backlog keeps decisions that were given without the log until they can be recorded. It is bounded in number and age.
type backlog struct {
	mu      sync.Mutex
	waiting []late
	added   chan struct{} // has room for one
}

// add takes a decision in; it returns false where there is no room.
func (b *backlog) add(d late) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) >= maxLate {
		return false
	}
	b.waiting = append(b.waiting, d)
	select {
	case b.added <- struct{}{}:
	default:
	}
	return true
}

// take removes the oldest decisions of one tenant, at most so many, and counts those that had become too old.
func (b *backlog) take(oldest time.Time, most int) (taken []late, expired int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var tenant event.TenantID
	rest := b.waiting[:0]
	for _, d := range b.waiting {
		switch {
		case d.given.Before(oldest):
			expired++
		case len(taken) == 0, d.ask.Tenant == tenant && len(taken) < most:
			tenant = d.ask.Tenant
			taken = append(taken, d)
		default:
			rest = append(rest, d)
		}
	}
	clear(b.waiting[len(rest):])
	b.waiting = rest
	return taken, expired
}

func (b *backlog) putBack(taken []late) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, taken...) // behind the others: a tenant that cannot be served keeps nobody waiting
}

func (b *backlog) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting)
}

// Waiting counts the decisions that were given without the log and are not recorded yet.
func (l *Engine) Waiting() int { return l.backlog.len() }

// remember keeps a degraded decision for the log.
func (l *Engine) remember(ask *limit.Ask, d *Decision) {
	if !ask.DryRun && !l.backlog.add(late{*ask, d.Allowed, l.config.Now()}) {
		l.lose(1, "too many wait for the log")
	}
}

// lose counts decisions that never go on the log.
func (l *Engine) lose(n int, why string) {
	if n == 0 {
		return
	}
	l.counts.LateLost.Add(int64(n))
	if l.config.Lost != nil {
		l.config.Lost(n, why)
	}
}

// recordLate puts decisions that were given without the log on it, tenant by tenant, when it is back. What is left when the engine
// closes is lost.
func (l *Engine) recordLate() {
	defer func() { l.lose(l.backlog.len(), "the process ends") }()
	for l.running.Err() == nil {
		if l.backlog.len() == 0 {
			select {
			case <-l.backlog.added:
			case <-l.running.Done():
			}
			continue
		}
		if !l.recordSome() {
			eventstore.Pause(l.running, latePause)
		}
	}
}

// recordSome records decisions of one tenant; false means that the log is still away.
func (l *Engine) recordSome() bool {
	taken, expired := l.backlog.take(l.config.Now().Add(-maxLateAge), maxJobs)
	l.lose(expired, "the log was away for too long")
	if len(taken) == 0 {
		return true
	}
	jobs := make([]*job, len(taken))
	for i := range taken {
		jobs[i] = newJob()
		jobs[i].late = &taken[i]
	}
	if l.enqueue(taken[0].ask.Tenant, jobs) != nil {
		l.backlog.putBack(taken)
		return false
	}
	ctx, cancel := context.WithTimeout(l.running, lateTimeout)
	defer cancel()
	var again []late
	for i, j := range jobs {
		err := j.wait(ctx)
		if err == nil {
			err = j.decision.Err
		}
		switch {
		case err == nil:
			l.counts.LateRecorded.Add(1)
		case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrOverloaded):
			again = append(again, taken[i]) // what was recorded after all is found out then: the check has a hold
		default:
			l.lose(1, err.Error())
		}
	}
	l.backlog.putBack(again)
	return len(again) == 0
}
