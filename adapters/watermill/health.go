package watermill

import (
	"errors"
	"sync"

	"github.com/tollgate-io/tollgate/projections"
)

// State is what a projection does on one partition.
type State string

// The states.
const (
	Starting State = "starting"
	Running  State = "running" // applying events
	Waiting  State = "waiting" // at the head of the log
	// Following: another replica applies the events at the moment.
	Following State = "following"
	// Failing: the store or the target cannot be reached, or refuses; it is tried again.
	Failing State = "failing"
	// Halted: an event cannot be read or folded. The projection stops before it and never skips it.
	Halted  State = "halted"
	Stopped State = "stopped"
)

// Health is one projection on one partition.
type Health struct {
	ReadModel  string
	Partition  int
	Generation int
	Offset     int64 // applied as far as this process has seen
	State      State
	Err        error // of the states Following, Failing and Halted
}

// status is the Health that a loop keeps up to date.
type status struct {
	mu     sync.Mutex
	health Health
}

func newStatus(readModel string, partition int) *status {
	return &status{health: Health{ReadModel: readModel, Partition: partition, State: Starting}}
}

func (s *status) get() Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health
}

func (s *status) at(generation int, offset int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health.Generation, s.health.Offset = generation, offset
}

func (s *status) set(state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health.State, s.health.Err = state, nil
}

// failed notes why the loop does not advance, and reports whether that is another state than before.
func (s *status) failed(err error) (changed bool) {
	state := Failing
	switch {
	case isPermanent(err):
		state = Halted
	case errors.Is(err, projections.ErrStale):
		state = Following
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = s.health.State != state
	s.health.State, s.health.Err = state, err
	return changed
}
