package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

const (
	// pause is how long a question that failed is not asked again.
	pause = time.Second
	// mostAsked bounds the questions under way at the same time: this many about known names, and as many about others, so
	// that made-up names do not keep the known ones from being asked about.
	mostAsked = 32
	// warnEvery is how often the log says that Tollgate does not answer.
	warnEvery = 10 * time.Second
)

// answers remembers what Tollgate said, and asks again: each question once at a time, however many requests wait for it.
type answers struct {
	config  Config
	client  *client
	flights singleflight.Group
	known   *lru.Cache[question, answer]
	others  *lru.Cache[question, refusal]

	turns, othersTurns chan struct{} // one slot for each question under way
	warned             atomic.Int64  // when the log last said so, in Unix nanoseconds
}

type answer struct {
	tenant Tenant
	asked  time.Time // before the question was sent: the answer is no older
	retry  time.Time // zero, or until when it is not asked again after a failure
}

type refusal struct {
	err   error
	until time.Time
}

func newAnswers(c Config, client *client) (*answers, error) {
	known, err := lru.New[question, answer](c.Size)
	if err != nil {
		return nil, fmt.Errorf("edge: %w", err)
	}
	others, err := lru.New[question, refusal](c.Size)
	if err != nil {
		return nil, fmt.Errorf("edge: %w", err)
	}
	return &answers{config: c, client: client, known: known, others: others,
		turns: make(chan struct{}, mostAsked), othersTurns: make(chan struct{}, mostAsked)}, nil
}

// freshness is what is to be done about a question.
type freshness int

const (
	settled freshness = iota // what is known is the answer
	ahead                    // so it is, but it is time to ask again
	open                     // it has to be asked
)

// find returns what is known. A question that failed just now is asked again in the background while the old answer is used:
// otherwise each pause would end with a request that waits for the time-out. One that failed longer ago is not, because by
// now Tollgate may well have something else to say.
func (a *answers) find(q question, now time.Time) (freshness, Tenant, error) {
	if k, ok := a.known.Get(q); ok {
		age := now.Sub(k.asked)
		switch {
		case age >= a.config.MaxAge+a.config.StaleFor:
		case age < a.config.MaxAge/2 || now.Before(k.retry):
			return settled, k.tenant, nil
		case age < a.config.MaxAge || now.Before(k.retry.Add(pause+a.config.Timeout)):
			return ahead, k.tenant, nil
		default:
			return open, Tenant{}, nil
		}
	}
	if r, ok := a.others.Get(q); ok && now.Before(r.until) {
		return settled, Tenant{}, r.err
	}
	return open, Tenant{}, nil
}

// get answers from memory, or waits for Tollgate. The question goes on for the others when the one who asked first leaves.
func (a *answers) get(ctx context.Context, q question) (Tenant, error) {
	state, t, err := a.find(q, a.config.Now())
	if state == settled {
		return t, err
	}
	flight := a.flights.DoChan(q.String(), func() (any, error) { return a.ask(context.WithoutCancel(ctx), q) })
	if state == ahead {
		return t, nil
	}
	select {
	case r := <-flight:
		t, _ := r.Val.(Tenant)
		return t, r.Err
	case <-ctx.Done():
		return Tenant{}, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}

// ask asks Tollgate, remembers what it says, and makes do with what is known where it says nothing.
func (a *answers) ask(ctx context.Context, q question) (Tenant, error) {
	asked := a.config.Now()
	if state, t, err := a.find(q, asked); state == settled { // somebody was just faster
		return t, err
	}
	t, err := a.wait(ctx, q)
	now := a.config.Now()
	switch {
	case err == nil:
		a.known.Add(q, answer{tenant: t, asked: asked})
		return t, nil
	case errors.Is(err, ErrUnknown) || errors.Is(err, ErrConflict):
		a.known.Remove(q)
		a.others.Add(q, refusal{err, asked.Add(a.config.MaxAge)})
		return Tenant{}, err
	}
	a.warn(err, now)
	if k, ok := a.known.Peek(q); ok && now.Sub(k.asked) < a.config.MaxAge+a.config.StaleFor {
		k.retry = now.Add(pause)
		a.known.Add(q, k)
		return k.tenant, nil
	}
	err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	a.known.Remove(q)
	a.others.Add(q, refusal{err, now.Add(pause)})
	return Tenant{}, err
}

// wait asks when it is the question's turn, within the time that a question has.
func (a *answers) wait(ctx context.Context, q question) (Tenant, error) {
	ctx, cancel := context.WithTimeout(ctx, a.config.Timeout)
	defer cancel()
	turns := a.othersTurns
	if a.known.Contains(q) {
		turns = a.turns
	}
	select {
	case turns <- struct{}{}:
		defer func() { <-turns }()
	case <-ctx.Done():
		return Tenant{}, fmt.Errorf("more than %d questions are under way: %w", mostAsked, ctx.Err())
	}
	return a.client.resolve(ctx, q)
}

func (a *answers) warn(err error, now time.Time) {
	last := a.warned.Load()
	if (last == 0 || now.Sub(time.Unix(0, last)) >= warnEvery) && a.warned.CompareAndSwap(last, now.UnixNano()) {
		a.config.Log.LogAttrs(context.Background(), slog.LevelWarn,
			"Tollgate does not answer which tenants requests are about; known answers are used for a while", slog.Any("error", err))
	}
}
