package app

import (
	"context"
	"fmt"
	"time"

	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

// InsightReader reads what insights are made of.
type InsightReader interface {
	// Insights gives a tally, after a reset, the cells of a complete question, as of a position of each partition that
	// the question is about. Errors: *invalid.Error of the tally; those of the store.
	Insights(ctx context.Context, q insight.Question, into *insight.Tally) (at []eventstore.Position, err error)
	// Plans are those of a tenant, or of all for "".
	Plans(ctx context.Context, t event.TenantID) (insight.Plans, error)
}

// CostBook says what providers charge; *Costs does.
type CostBook interface {
	Book(ctx context.Context) (costs.Book, error)
}

// maxOverall is how many questions about all tenants are answered at once: they are read beside the projections, which must not
// wait for them.
const maxOverall = 2

// Insights answers what operators ask over many events.
type Insights struct {
	overall   chan struct{} // one slot for each question about all tenants
	reader    InsightReader
	directory Directory
	costs     CostBook
	now       func() time.Time
}

// NewInsights makes it.
func NewInsights(reader InsightReader, directory Directory, costs CostBook, now func() time.Time) *Insights {
	return &Insights{overall: make(chan struct{}, maxOverall), reader: reader, directory: directory, costs: costs, now: now}
}

// Ask answers a question, and returns the positions that the answer reflects. Plans and what providers charge are joined as they
// are known now. Errors: *invalid.Error; tenant.ErrUnknown; those of the store.
func (i *Insights) Ask(ctx context.Context, q insight.Question) (insight.Answer, []eventstore.Position, error) {
	q, err := q.Complete(i.now())
	if err != nil {
		return insight.Answer{}, nil, err
	}
	if q.Tenant == "" {
		select {
		case i.overall <- struct{}{}:
			defer func() { <-i.overall }()
		case <-ctx.Done():
			return insight.Answer{}, nil, fmt.Errorf("wait for other questions about all tenants: %w", ctx.Err())
		}
	} else if _, err := i.directory.Tenant(ctx, q.Tenant); err != nil {
		return insight.Answer{}, nil, fmt.Errorf("tenant %q: %w", invalid.Shorten(string(q.Tenant)), err)
	}
	var (
		plans insight.Plans
		book  costs.Book
	)
	if q.Groups(insight.Plan) {
		if plans, err = i.reader.Plans(ctx, q.Tenant); err != nil {
			return insight.Answer{}, nil, fmt.Errorf("read plans: %w", err)
		}
	}
	if q.Kind == insight.Cost {
		if book, err = i.costs.Book(ctx); err != nil {
			return insight.Answer{}, nil, fmt.Errorf("read the cost book: %w", err)
		}
	}
	tally := insight.NewTally(q, plans, book)
	at, err := i.reader.Insights(ctx, q, tally)
	if err != nil {
		return insight.Answer{}, nil, fmt.Errorf("read insights: %w", err)
	}
	return tally.Answer(), at, nil
}
