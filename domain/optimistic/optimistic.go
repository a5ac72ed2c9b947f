// Package optimistic owns the one loop of the use cases: read what a stream says, fold it, decide on it, and append at the
// revision that was read. When somebody else appended first, all of that happens again. It does not know what is decided.
package optimistic

import (
	"context"
	"errors"
	"fmt"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Attempts bounds one loop. Each attempt that is lost is somebody else's success.
const Attempts = 100

// ErrContended: others changed the same thing again and again while it was to be changed. Trying again later is safe.
var ErrContended = errors.New("changed by others at the same time")

// Nothing is what a decision appends that has nothing to write.
var Nothing = eventstore.Append{}

// Change is what Do did.
type Change[S any] struct {
	State   S                 // that was decided on last
	Written bool              // false: there was nothing to write
	Result  eventstore.Result // of the append, where it was written: Appended, or Duplicate, when an earlier call wrote it
}

// Do decides on a state and appends what was decided, at the revision that decide puts into it. It returns when that is
// durable. what names the thing in errors, such as "the catalog". Errors: ErrContended; those of read and decide; those of the
// store, after which the outcome is unknown.
func Do[S any](ctx context.Context, store eventstore.Appender, what string,
	read func(context.Context) (S, error), decide func(S) (eventstore.Append, error),
) (c Change[S], err error) {
	err = Retry(what, func() (done bool, err error) {
		if c.State, err = read(ctx); err != nil {
			return false, err
		}
		a, err := decide(c.State)
		if err != nil || len(a.Events) == 0 {
			return true, err
		}
		r, written, err := Append(ctx, store, a)
		if written {
			c.Result, c.Written = r, true
		}
		return written, err
	})
	return c, err
}

// Append appends to one stream; written is false when somebody else was faster. Error: the outcome is unknown.
func Append(ctx context.Context, store eventstore.Appender, a eventstore.Append) (r eventstore.Result, written bool, err error) {
	r = store.Append(ctx, []eventstore.Append{a})[0]
	switch r.Outcome {
	case eventstore.Unknown:
		return r, false, fmt.Errorf("append to %s: %w", a.Stream, r.Err)
	case eventstore.Appended, eventstore.Duplicate:
		return r, true, nil
	default:
		return r, false, nil
	}
}

// Retry makes attempts until one is done or fails. Do is made of it; use it by itself where an attempt appends more than once.
// Errors: ErrContended; those of the attempts.
func Retry(what string, attempt func() (done bool, err error)) error {
	for range Attempts {
		if done, err := attempt(); done || err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: %s", ErrContended, what)
}
