package memory

import (
	"context"
	"fmt"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

var _ eventstore.Copyable = (*Store)(nil)

// ReadOriginals implements eventstore.Copyable.
func (s *Store) ReadOriginals(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Original, error) {
	events, err := s.ReadLog(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	originals := make([]eventstore.Original, len(events))
	for i, e := range events {
		originals[i] = eventstore.Original{Recorded: e, ID: s.streams[e.Stream].ids[e.Revision]}
	}
	return originals, nil
}

// Import implements eventstore.Copyable.
func (s *Store) Import(ctx context.Context, events []eventstore.Original) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("import: %w: %w", eventstore.ErrUnavailable, err)
	}
	if err := eventstore.CheckImport(events); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range events {
		if err := s.take(&events[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) take(e *eventstore.Original) error {
	st := s.streams[e.Stream]
	if st == nil {
		st = &stream{tenant: e.Tenant}
	}
	next := eventstore.Revision(len(st.ids))
	switch {
	case e.Revision < next && st.ids[e.Revision] == e.ID && st.tenant == e.Tenant:
		return nil
	case e.Revision != next || st.tenant != e.Tenant:
		return fmt.Errorf("%w: event %d of %s", eventstore.ErrNotACopy, e.Revision, e.Stream)
	}
	s.streams[e.Stream] = st
	s.place(st, e.Stream, e.Tenant, []eventstore.NewEvent{{ID: e.ID, Type: e.Type, Data: e.Data}}, e.RecordedAt)
	return nil
}
