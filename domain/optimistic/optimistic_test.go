package optimistic_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/optimistic"
)

// answers is a store that answers each append with the next one of these, and the last one again.
type answers struct {
	results []eventstore.Result
	asked   []eventstore.Append
}

func (s *answers) Append(_ context.Context, batch []eventstore.Append) []eventstore.Result {
	r := s.results[min(len(s.asked), len(s.results)-1)]
	s.asked = append(s.asked, batch...)
	return []eventstore.Result{r}
}

func event(expected int) eventstore.Append {
	return eventstore.Append{Stream: "thing-1", Expected: eventstore.Revision(expected), Events: []eventstore.NewEvent{{ID: uuid.New(), Type: "t"}}}
}

var (
	appended  = eventstore.Result{Outcome: eventstore.Appended, Position: eventstore.Position{Offset: 7}}
	duplicate = eventstore.Result{Outcome: eventstore.Duplicate, Position: eventstore.Position{Offset: 3}}
	conflict  = eventstore.Result{Outcome: eventstore.Conflict}
	present   = eventstore.Result{Outcome: eventstore.Present}
)

// do counts its reads, and decides on that number.
func do(t *testing.T, s *answers, decide func(n int) (eventstore.Append, error)) (optimistic.Change[int], int, error) {
	reads := 0
	c, err := optimistic.Do(t.Context(), s, "the thing", func(context.Context) (int, error) { reads++; return reads, nil }, decide)
	return c, reads, err
}

func always(n int) (eventstore.Append, error) { return event(n), nil }

func TestAConflictIsDecidedAgain(t *testing.T) {
	s := &answers{results: []eventstore.Result{conflict, present, appended}}
	c, reads, err := do(t, s, always)
	require.NoError(t, err)
	require.Equal(t, optimistic.Change[int]{State: 3, Written: true, Result: appended}, c)
	require.Equal(t, 3, reads)
	for i, a := range s.asked {
		require.EqualValues(t, i+1, a.Expected, "each attempt appends what was decided on its own state")
	}
}

func TestADuplicateIsWritten(t *testing.T) {
	c, reads, err := do(t, &answers{results: []eventstore.Result{duplicate}}, always)
	require.NoError(t, err)
	require.Equal(t, optimistic.Change[int]{State: 1, Written: true, Result: duplicate}, c)
	require.Equal(t, 1, reads)
}

func TestItGivesUp(t *testing.T) {
	s := &answers{results: []eventstore.Result{conflict}}
	c, reads, err := do(t, s, always)
	require.ErrorIs(t, err, optimistic.ErrContended)
	require.ErrorContains(t, err, "the thing")
	require.False(t, c.Written)
	require.Equal(t, optimistic.Attempts, reads)
	require.Len(t, s.asked, optimistic.Attempts)
}

func TestAnUnknownOutcomeIsReturned(t *testing.T) {
	lost := eventstore.Result{Err: fmt.Errorf("%w: connection reset", eventstore.ErrUnavailable)}
	s := &answers{results: []eventstore.Result{conflict, lost}}
	c, reads, err := do(t, s, always)
	require.ErrorIs(t, err, eventstore.ErrUnavailable)
	require.NotErrorIs(t, err, optimistic.ErrContended)
	require.False(t, c.Written)
	require.Equal(t, 2, reads)
}

func TestNothingToWrite(t *testing.T) {
	s := &answers{results: []eventstore.Result{conflict}}
	c, reads, err := do(t, s, func(n int) (eventstore.Append, error) {
		if n == 2 { // what the faster one wrote is what was to be written
			return optimistic.Nothing, nil
		}
		return event(n), nil
	})
	require.NoError(t, err)
	require.Equal(t, optimistic.Change[int]{State: 2}, c)
	require.Equal(t, 2, reads)
	require.Len(t, s.asked, 1)
}

func TestRefusalsAndFailedReadsEndIt(t *testing.T) {
	no := errors.New("no")
	s := &answers{results: []eventstore.Result{appended}}
	_, reads, err := do(t, s, func(int) (eventstore.Append, error) { return eventstore.Append{}, no })
	require.ErrorIs(t, err, no)
	require.Equal(t, 1, reads)
	_, err = optimistic.Do(t.Context(), s, "the thing", func(context.Context) (int, error) { return 0, no }, always)
	require.ErrorIs(t, err, no)
	require.Empty(t, s.asked)
}
