package app_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

func insightsNow() time.Time { return noon }

// slowInsights answers when it is let, and remembers what else was read.
type slowInsights struct {
	arrived, let chan struct{}
	read         []string
}

func (s *slowInsights) Insights(_ context.Context, _ insight.Question, into *insight.Tally) ([]eventstore.Position, error) {
	s.arrived <- struct{}{}
	<-s.let
	return []eventstore.Position{{Offset: 5}}, into.Add(insight.Cell{Tenant: "acme", Day: "2026-04-05", Counted: 1, Events: 1})
}

func (s *slowInsights) Plans(context.Context, event.TenantID) (insight.Plans, error) {
	s.read = append(s.read, "plans")
	return insight.Plans{"acme": tenant.Subscription{Assignments: []tenant.Assignment{{Plan: "pro", EffectiveAt: insightsNow().AddDate(-1, 0, 0)}}}}, nil
}

func (s *slowInsights) Book(context.Context) (costs.Book, error) {
	s.read = append(s.read, "costs")
	return costs.Book{}, nil
}

func TestInsightsReadWhatTheQuestionNeeds(t *testing.T) {
	for name, c := range map[string]struct {
		question insight.Question
		read     []string
		labels   []string
	}{
		"cost by tenant":    {insight.Question{Kind: insight.Cost}, []string{"costs"}, []string{"acme"}},
		"cost by plan":      {insight.Question{Kind: insight.Cost, GroupBy: []insight.Dimension{insight.Plan}}, []string{"plans", "costs"}, []string{"pro"}},
		"retries by tenant": {insight.Question{Kind: insight.Retries, GroupBy: []insight.Dimension{insight.Tenant}}, nil, []string{"acme"}},
	} {
		s := &slowInsights{arrived: make(chan struct{}, 1), let: make(chan struct{})}
		close(s.let)
		a, at, err := app.NewInsights(s, nil, s, insightsNow).Ask(t.Context(), c.question)
		require.NoError(t, err, name)
		require.Equal(t, c.read, s.read, name)
		require.Equal(t, c.labels, a.Rows[0].Labels, name)
		require.Equal(t, []eventstore.Position{{Offset: 5}}, at)
	}
	s := &slowInsights{}
	_, _, err := app.NewInsights(s, nil, s, insightsNow).Ask(t.Context(), insight.Question{Kind: "profit"})
	var bad *invalid.Error
	require.ErrorAs(t, err, &bad)
}

// Questions about all tenants wait for each other, two at once, and leave their place when they are answered or nobody waits.
func TestQuestionsAboutAllTenantsWait(t *testing.T) {
	s := &slowInsights{arrived: make(chan struct{}), let: make(chan struct{})}
	i := app.NewInsights(s, nil, s, insightsNow)
	answered := make(chan error)
	ask := func(ctx context.Context) {
		_, _, err := i.Ask(ctx, insight.Question{Kind: insight.Retries})
		answered <- err
	}
	for range 2 {
		go ask(t.Context())
		<-s.arrived
	}
	impatient, leave := context.WithCancel(t.Context())
	go ask(impatient)
	leave()
	require.ErrorIs(t, <-answered, context.Canceled)
	go ask(t.Context())
	s.let <- struct{}{}
	require.NoError(t, <-answered)
	<-s.arrived // the one that waited
	close(s.let)
	require.NoError(t, <-answered)
	require.NoError(t, <-answered)
}
