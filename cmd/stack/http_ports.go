package stack

import (
	"context"
	"fmt"
	"time"

	"github.com/tollgate-io/tollgate/adapters/postgres/readmodels"
	"github.com/tollgate-io/tollgate/adapters/watermill"
	"github.com/tollgate-io/tollgate/api"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/projections"
)

// httpPorts fits the stack to the ports of the API.
type httpPorts struct {
	timeline.Reader
	stack *Stack
}

func (p httpPorts) Keys(ctx context.Context, limit int, cursor string) (api.Keys, eventstore.Position, error) {
	keys, next, at, err := p.stack.ReadModels.Keys(ctx, limit, cursor)
	return api.Keys{Items: keys, NextCursor: next}, at, err
}

// Await waits for all read models, because callers cannot tell which of them will answer.
func (p httpPorts) Await(ctx context.Context, at eventstore.Position) error {
	return p.stack.ReadModels.Await(ctx, readmodels.Names(), at)
}

func (p httpPorts) Shown(ctx context.Context, of event.TenantID) (eventstore.Position, error) {
	partition := eventstore.PartitionOf(string(of), p.stack.Log.Partitions())
	_, offset, err := p.stack.ReadModels.Checkpoint(ctx, projections.DirectoryModel, partition)
	return eventstore.Position{Partition: partition, Offset: offset}, err
}

// probeTimeout is shorter than the usual time-outs of probes.
const probeTimeout = 2 * time.Second

// Ready checks the store and each projection.
func (p httpPorts) Ready(ctx context.Context) []api.Check {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	checks := []api.Check{{Name: "store", OK: true, Detail: "reachable"}}
	lags, err := p.stack.ReadModels.Lag(ctx, p.stack.Log, time.Now())
	if log, ok := p.stack.Log.(interface{ State() error }); ok {
		if state := log.State(); state != nil { // EventStoreDB reports what is wrong with it
			return []api.Check{{Name: "store", Detail: "the log is not reachable: " + state.Error()}}
		}
	}
	if err != nil {
		return []api.Check{{Name: "store", Detail: "not reachable"}}
	}
	states := map[string]watermill.State{}
	if p.stack.runner != nil {
		for _, h := range p.stack.runner.Health() {
			states[fmt.Sprintf("%s/%d", h.ReadModel, h.Partition)] = h.State
		}
	}
	for _, l := range lags {
		name := fmt.Sprintf("%s/%d", l.ReadModel, l.Partition)
		check := api.Check{Name: "projection " + name, OK: l.Age <= p.stack.config.MaxLag,
			Detail: fmt.Sprintf("%d events behind, the oldest for %.1f s", l.Events, l.Age.Seconds())}
		if state := states[name]; state == watermill.Halted {
			check.OK, check.Detail = false, "halted at an event that it cannot read; "+check.Detail
		}
		checks = append(checks, check)
	}
	return checks
}
