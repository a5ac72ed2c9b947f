package eventstore

import (
	"context"
	"time"
)

// Pause waits between two tries, or two looks, at a store. It reports whether the context is still alive.
func Pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
