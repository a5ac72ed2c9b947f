package postgres

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
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
