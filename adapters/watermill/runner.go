package watermill

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/projections"
)

const (
	// applyTimeout bounds one range. It outlives the end of the runner, so that a transaction in flight is finished.
	applyTimeout = 30 * time.Second
	closeTimeout = applyTimeout + 5*time.Second
)

// Config is what a Runner needs.
type Config struct {
	Target projections.Target
	Log    eventstore.LogReader
	Logger *slog.Logger // nil is slog.Default
	// Registerer receives the metrics; nil for none.
	Registerer prometheus.Registerer
	// Middleware runs around each message, outermost first.
	Middleware []message.HandlerMiddleware
}

// Runner runs every read model of a target on every partition of a log.
type Runner struct {
	config     Config
	subscriber *Subscriber
	router     *message.Router
	metrics    *metrics
}

// NewRunner prepares a Runner; Run starts it.
func NewRunner(c Config) (*Runner, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	r := &Runner{config: c, subscriber: NewSubscriber(c.Target, c.Log, c.Logger), metrics: newMetrics()}
	// The router speaks at info level about each handler at start and end: that is detail here.
	logger := watermill.NewSlogLoggerWithLevelMapping(c.Logger, map[slog.Level]slog.Level{slog.LevelInfo: slog.LevelDebug})
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: closeTimeout}, logger)
	if err != nil {
		return nil, fmt.Errorf("projection router: %w", err)
	}
	r.router = router
	router.AddMiddleware(explain)
	router.AddMiddleware(c.Middleware...)
	router.AddMiddleware(middleware.Recoverer)
	for _, readModel := range c.Target.ReadModels() {
		for p := range c.Log.Partitions() {
			topic := Topic(readModel, p)
			router.AddConsumerHandler(topic, topic, r.subscriber, r.handle)
			r.subscriber.status[topic] = newStatus(readModel, p)
		}
	}
	if c.Registerer != nil {
		if err := c.Registerer.Register(r); err != nil {
			return nil, fmt.Errorf("register projection metrics: %w", err)
		}
	}
	return r, nil
}

// Run runs the projections until the context ends, and returns when all have stopped and the ranges in flight are done.
func (r *Runner) Run(ctx context.Context) error {
	err := r.router.Run(ctx)
	if closed := r.subscriber.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("run projections: %w", err)
	}
	return nil
}

// Running is closed when all subscriptions are open.
func (r *Runner) Running() <-chan struct{} { return r.router.Running() }

// Health returns what each projection does, sorted by read model and partition.
func (r *Runner) Health() []Health {
	r.subscriber.mu.Lock()
	defer r.subscriber.mu.Unlock()
	all := make([]Health, 0, len(r.subscriber.status))
	for _, s := range r.subscriber.status {
		all = append(all, s.get())
	}
	slices.SortFunc(all, func(a, b Health) int {
		return cmp.Or(cmp.Compare(a.ReadModel, b.ReadModel), cmp.Compare(a.Partition, b.Partition))
	})
	return all
}

// explain says to the subscriber why a message was refused. It takes the error out of the router's hands, which would log
// it each time: the subscriber logs a change of state once.
func explain(next message.HandlerFunc) message.HandlerFunc {
	return func(m *message.Message) ([]*message.Message, error) {
		out, err := next(m)
		if d := deliveryOf(m); err != nil && d != nil {
			d.fail(err)
			m.Nack()
			return nil, nil
		}
		return out, err
	}
}

// handle applies one range. The events ride in the message; a message that lost them on its way has them read again.
func (r *Runner) handle(m *message.Message) error {
	var g projections.Range
	if err := json.Unmarshal(m.Payload, &g); err != nil {
		return fmt.Errorf("decode range: %w", err)
	}
	ctx, cancel := context.WithTimeout(m.Context(), applyTimeout)
	defer cancel()
	var events []event.Decoded
	if d := deliveryOf(m); d != nil {
		events = d.events
	} else {
		var err error
		if events, err = r.readRange(ctx, g); err != nil {
			return err
		}
	}
	started := time.Now()
	err := r.config.Target.Apply(ctx, g, events)
	r.metrics.applied(g, len(events), time.Since(started), err)
	return err
}

func (r *Runner) readRange(ctx context.Context, g projections.Range) ([]event.Decoded, error) {
	at := eventstore.Position{Partition: g.Partition, Offset: g.After}
	if g.To-g.After < 1 || g.To-g.After > eventstore.MaxReadLimit && !g.Sparse {
		return nil, fmt.Errorf("range (%d, %d] was never sent", g.After, g.To)
	}
	recorded, err := r.config.Log.ReadLog(ctx, at, int(min(g.To-g.After, maxEvents)))
	if err != nil {
		return nil, fmt.Errorf("read range after %s: %w", at, err)
	}
	recorded = slices.DeleteFunc(recorded, func(e eventstore.Recorded) bool { return e.Position.Offset > g.To })
	return event.DecodeAll(recorded)
}
