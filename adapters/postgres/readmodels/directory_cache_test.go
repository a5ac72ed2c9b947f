package readmodels

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// What this process changed must be seen at once, also when a query from before the change is still under way.
func TestAQueryFromBeforeAChangeIsNotKept(t *testing.T) {
	answers, asked := make(chan int), make(chan struct{}, 2)
	c := newCache(10, func(context.Context, string) (int, error) {
		asked <- struct{}{}
		return <-answers, nil
	}, nil)
	old := make(chan int)
	go func() {
		v, _ := c.get(context.Background(), "a")
		old <- v
	}()
	<-asked
	c.forget()
	fresh := make(chan int)
	go func() {
		v, _ := c.get(context.Background(), "a")
		fresh <- v
	}()
	<-asked // asks on its own, and does not join the query from before
	answers <- 1
	answers <- 1
	<-old
	<-fresh
	go func() { answers <- 2 }()
	c.forget()
	v, err := c.get(context.Background(), "a")
	require.NoError(t, err)
	require.Equal(t, 2, v)
}

func TestAbsenceIsRememberedAndFailureIsNot(t *testing.T) {
	absent, broken := errors.New("absent"), errors.New("broken")
	calls, answer := 0, broken
	c := newCache(10, func(context.Context, string) (int, error) { calls++; return 0, answer }, absent)
	for range 2 {
		_, err := c.get(context.Background(), "a")
		require.ErrorIs(t, err, broken)
	}
	require.Equal(t, 2, calls)
	answer = absent
	for range 2 {
		_, err := c.get(context.Background(), "a")
		require.ErrorIs(t, err, absent)
	}
	require.Equal(t, 3, calls)
}

// While the store is unavailable, old answers are used, but not without end. Otherwise it is used for a second, and beyond it
// when nothing has changed.
func TestFreshness(t *testing.T) {
	down := fmt.Errorf("read: %w", eventstore.ErrUnavailable)
	now, calls, changes := time.Date(2026, 4, 5, 12, 0, 0, 0, time.UTC), 0, 0
	version, err := "1", error(nil)
	change := func() { changes++ }
	f := newFreshness(func(context.Context) (string, error) { calls++; return version, err }, change, change, func() time.Time { return now })
	check := func(wantCalls, wantChanges int, why string) {
		t.Helper()
		f.check(context.Background())
		settle(f) // a question that nobody waited for
		require.Equal(t, []int{wantCalls, wantChanges}, []int{calls, changes}, why)
	}
	check(1, 1, "nothing is known")
	now = now.Add(askAfter - 1)
	check(1, 1, "fresh")
	now = now.Add(freshFor - askAfter + 1)
	check(2, 1, "nothing has changed")
	now, version = now.Add(freshFor), "2"
	check(3, 2, "something has")
	now, err = now.Add(freshFor), down
	check(4, 2, "an outage")
	check(4, 2, "a store that is down is asked once in a while")
	now = now.Add(freshFor)
	check(5, 2, "it is still down")
	now, err = now.Add(freshFor), nil
	check(6, 2, "it is back, and nothing has changed")
	now, err = now.Add(staleFor+1), down
	check(7, 3, "too old")
	check(7, 3, "nothing is kept any more, and the store is still asked only once in a while")
	now = now.Add(freshFor)
	check(8, 4, "still too old")
	check(8, 4, "and once in a while")
	now, err = now.Add(freshFor), nil
	check(9, 4, "back for good")
}

// A store that hangs is waited for once; after that, what is known answers at once until it is back.
func TestAStoreThatHangsIsWaitedForOnce(t *testing.T) {
	now := time.Date(2026, 4, 5, 12, 0, 0, 0, time.UTC)
	hang := make(chan struct{})
	answers := make(chan error, 1)
	f := newFreshness(func(context.Context) (string, error) {
		if err := <-answers; err != nil {
			return "", err
		}
		<-hang
		return "2", nil
	}, func() {}, func() {}, func() time.Time { return now })
	answers <- fmt.Errorf("read: %w", eventstore.ErrUnavailable)
	f.check(context.Background())
	now = now.Add(freshFor)
	answers <- nil
	f.check(context.Background()) // would never return if it waited
	close(hang)
	settle(f)
	require.Equal(t, "2", f.known)
	require.False(t, f.away)
}

func TestWhatIsKeptIsKeptUntilItIsForgotten(t *testing.T) {
	calls := 0
	c := newCache(10, func(context.Context, string) (int, error) { calls++; return calls, nil }, nil)
	for range 3 {
		v, err := c.get(context.Background(), "a")
		require.NoError(t, err)
		require.Equal(t, 1, v)
	}
	c.forget()
	v, err := c.get(context.Background(), "a")
	require.NoError(t, err)
	require.Equal(t, 2, v)
}

// What was known before a change is used when it cannot be read again, and only then: a key that is revoked opens nothing as
// long as the store answers.
func TestWhatIsOldIsUsedWhenItCannotBeReadAgain(t *testing.T) {
	absent, down := errors.New("absent"), fmt.Errorf("read: %w", eventstore.ErrUnavailable)
	calls, value, answer := 0, 1, error(nil)
	c := newCache(10, func(context.Context, string) (int, error) { calls++; return value, answer }, absent)
	away := false
	c.away = func() bool { return away }
	get := func(key string) (int, error) { return c.get(context.Background(), key) }
	_, err := get("a")
	require.NoError(t, err)

	c.forget()
	value, answer = 0, down
	for range 2 {
		v, err := get("a")
		require.NoError(t, err)
		require.Equal(t, 1, v)
	}
	require.Equal(t, 3, calls, "it is tried each time")
	away = true
	v, err := get("a")
	require.NoError(t, err)
	require.Equal(t, 1, v)
	require.Equal(t, 3, calls, "nobody waits for a store that is known to be away")
	_, err = get("b")
	require.ErrorIs(t, err, down, "nothing is known")

	away, answer = false, absent
	_, err = get("a")
	require.ErrorIs(t, err, absent)
	c.forget()
	answer = down
	_, err = get("a")
	require.ErrorIs(t, err, down, "nobody is refused for good on old knowledge")

	value, answer = 2, nil
	_, err = get("a")
	require.NoError(t, err)
	c.drop()
	answer = down
	_, err = get("a")
	require.ErrorIs(t, err, down, "what was dropped is gone")
}

func TestWhatIsOldIsNotUsedWithoutEnd(t *testing.T) {
	down, answer := fmt.Errorf("read: %w", eventstore.ErrUnavailable), error(nil)
	c := newCache(10, func(context.Context, string) (int, error) { return 1, answer }, nil)
	_, err := c.get(context.Background(), "a")
	require.NoError(t, err)
	c.forget()
	answer = down
	_, err = c.get(context.Background(), "a")
	require.NoError(t, err)
	c.endings[0].at = c.endings[0].at.Add(-staleFor - 1)
	_, err = c.get(context.Background(), "a")
	require.ErrorIs(t, err, down)
}

func TestAContextThatHasEndedGetsWhatIsKnown(t *testing.T) {
	hang := make(chan struct{})
	c := newCache(10, func(context.Context, string) (int, error) { <-hang; return 2, nil }, nil)
	defer close(hang)
	c.entries.Add("a", cached[int]{value: 1})
	c.forget()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	v, err := c.get(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, 1, v)
	_, err = c.get(ctx, "b")
	require.ErrorIs(t, err, context.Canceled)
}

// settle waits for the looks that are under way.
func settle(f *freshness) {
	f.looks.mu.Lock()
	r := f.looks.running
	f.looks.mu.Unlock()
	if r != nil {
		<-r.done
	}
}

// A look never joins one that began before it: what was answered in between must be seen. All who wait share the next one.
func TestALookBeginsAfterItIsAskedFor(t *testing.T) {
	asked, answers := make(chan struct{}, 10), make(chan string)
	f := newFreshness(func(context.Context) (string, error) {
		asked <- struct{}{}
		return <-answers, nil
	}, func() {}, func() {}, time.Now)
	first := f.looks.next()
	<-asked
	second, third := f.looks.next(), f.looks.next()
	require.Same(t, second, third)
	require.NotSame(t, first, second)
	answers <- "1"
	<-first.done
	<-asked
	answers <- "2"
	require.NoError(t, third.wait(context.Background()))
	require.Equal(t, "2", f.known)
}

func TestAFloodOfRefusalsCostsFewLooks(t *testing.T) {
	var calls atomic.Int64
	f := newFreshness(func(context.Context) (string, error) { calls.Add(1); return "", nil }, func() {}, func() {}, time.Now)
	c := newCache(10, func(context.Context, int) (int, error) { return 0, eventstore.ErrHole }, eventstore.ErrHole)
	began := time.Now()
	var wait sync.WaitGroup
	for worker := range 20 {
		wait.Go(func() {
			for i := range 4 {
				_, err := confirmed(context.Background(), f, c, 100*worker+i)
				if !errors.Is(err, eventstore.ErrHole) {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	require.LessOrEqual(t, calls.Load(), 3+int64(time.Since(began)/refusalsApart))
}

// What somebody was told exists is not refused for good, however new it is.
func TestAbsenceIsConfirmed(t *testing.T) {
	absent := errors.New("absent")
	there, version, down := false, "1", error(nil)
	c := newCache(10, func(context.Context, string) (int, error) {
		if !there {
			return 0, absent
		}
		return 1, nil
	}, absent)
	f := newFreshness(func(context.Context) (string, error) { return version, down }, c.forget, c.drop, time.Now)
	get := func() error { _, err := confirmed(context.Background(), f, c, "a"); return err }
	require.ErrorIs(t, get(), absent)
	down = fmt.Errorf("read: %w", eventstore.ErrUnavailable)
	require.ErrorIs(t, get(), eventstore.ErrUnavailable, "nobody knows")
	there, version, down = true, "2", nil
	require.NoError(t, get())
}
