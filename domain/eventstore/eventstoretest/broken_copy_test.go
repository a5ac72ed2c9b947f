package eventstoretest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

var faults = slices.Concat(storeFaults, copyFaults)

func (b *broken) copyable() eventstore.Copyable { return b.Store.(eventstore.Copyable) }

func (b *broken) Import(ctx context.Context, events []original) error {
	if b.imports != nil {
		return b.imports(ctx, slices.Clone(events))
	}
	return b.copyable().Import(ctx, events)
}

// ReadOriginals shows what ReadLog shows, with the ids that the store inside has.
func (b *broken) ReadOriginals(ctx context.Context, after position, limit int) ([]original, error) {
	events, err := b.ReadLog(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	inside, err := b.copyable().ReadOriginals(ctx, position{Partition: after.Partition}, eventstore.MaxReadLimit)
	if err != nil {
		return nil, err
	}
	originals := make([]original, len(events))
	for i, e := range events {
		originals[i].Recorded = e
		for _, o := range inside {
			if o.Stream == e.Stream && o.Revision == e.Revision {
				originals[i].ID = o.ID
			}
		}
	}
	if b.originals != nil {
		b.originals(originals)
	}
	return originals, nil
}

// imports breaks Import.
func imports(instead func(ctx context.Context, s eventstore.Copyable, events []original) error) func() func() eventstore.Store {
	return each(func(b *broken) {
		b.imports = func(ctx context.Context, events []original) error { return instead(ctx, b.copyable(), events) }
	})
}

// importsOther writes something else than it was given.
func importsOther(change func(*original)) func() func() eventstore.Store {
	return imports(func(ctx context.Context, s eventstore.Copyable, events []original) error {
		if err := eventstore.CheckImport(events); err != nil {
			return err
		}
		for i := range events {
			change(&events[i])
		}
		return s.Import(ctx, events)
	})
}

// length is how many events a stream has.
func length(ctx context.Context, s eventstore.Store, name stream) revision {
	there, _ := s.ReadStream(ctx, name, 0, eventstore.MaxReadLimit)
	return revision(len(there))
}

// countsDown is a log whose clock goes back. What is copied keeps its instants.
func countsDown() func() eventstore.Store {
	var copied sync.Map // their instants, by position
	open := reads(func(r recorded) recorded {
		if at, ok := copied.Load(r.Position); ok {
			r.RecordedAt = at.(time.Time)
		} else {
			r.RecordedAt = time.Unix(1_800_000_000, 0).Add(-time.Duration(r.Position.Offset) * time.Second)
		}
		return r
	})()
	return func() eventstore.Store {
		b := &broken{Store: open()}
		b.imports = func(ctx context.Context, events []original) error {
			err := b.copyable().Import(ctx, events)
			for _, e := range events {
				if there, _ := b.Store.ReadStream(ctx, e.Stream, e.Revision, 1); err == nil && len(there) == 1 {
					copied.LoadOrStore(there[0].Position, e.RecordedAt)
				}
			}
			return err
		}
		return b
	}
}

var copyFaults = []fault{
	{
		name: "imports under new ids", refusedBy: []string{"copy/import", "copy/continues"},
		log: importsOther(func(o *original) { o.ID = uuid.NewSHA1(o.ID, nil) }),
	},
	{
		name: "imports with its own clock", refusedBy: []string{"copy/import", "copy/continues"},
		log: importsOther(func(o *original) { o.RecordedAt = time.Now() }),
	},
	{
		name: "imports other payloads", refusedBy: []string{"copy/import"},
		log: importsOther(func(o *original) { o.Data = append(slices.Clone(o.Data), ' ') }),
	},
	{
		name: "imports into another tenant", refusedBy: []string{"copy/import"},
		log: importsOther(func(o *original) { o.Tenant += "-copy" }),
	},
	{
		name: "reads originals without ids", refusedBy: []string{"copy/import", "copy/import_again"},
		log: each(func(b *broken) {
			b.originals = func(events []original) {
				for i := range events {
					events[i].ID = uuid.Nil
				}
			}
		}),
	},
	{
		name: "forgets the end of an import", refusedBy: []string{"copy/import", "copy/import_again", "copy/continues"},
		log: imports(func(ctx context.Context, s eventstore.Copyable, events []original) error {
			return s.Import(ctx, events[:max(len(events)-1, 0)])
		}),
	},
	{
		name: "imports the events of a tenant in another order", refusedBy: []string{"copy/import"},
		log: imports(func(ctx context.Context, s eventstore.Copyable, events []original) error {
			slices.SortStableFunc(events, func(a, b original) int { return int(a.Revision - b.Revision) })
			return s.Import(ctx, events)
		}),
	},
	{
		name: "refuses what was imported before", refusedBy: []string{"copy/import_again"},
		log: imports(func(ctx context.Context, s eventstore.Copyable, events []original) error {
			if len(events) > 0 && events[0].Revision < length(ctx, s, events[0].Stream) {
				return eventstore.ErrNotACopy
			}
			return s.Import(ctx, events)
		}),
	},
	{
		name: "doubles what was imported before", refusedBy: []string{"copy/import_again"},
		log: imports(func(ctx context.Context, s eventstore.Copyable, events []original) error {
			if len(events) > 0 && eventstore.CheckImport(events) == nil {
				if e := events[0]; e.Revision < length(ctx, s, e.Stream) {
					e.ID, e.Revision = uuid.NewSHA1(e.ID, nil), length(ctx, s, e.Stream)
					if err := s.Import(ctx, []original{e}); err != nil {
						return err
					}
				}
			}
			return s.Import(ctx, events)
		}),
	},
	{
		name: "skips events that do not belong there", refusedBy: []string{"copy/not_a_copy"},
		log: imports(func(ctx context.Context, s eventstore.Copyable, events []original) error {
			if err := s.Import(ctx, events); !errors.Is(err, eventstore.ErrNotACopy) {
				return err
			}
			return nil
		}),
	},
	{
		name: "closes gaps", refusedBy: []string{"copy/not_a_copy"},
		log: imports(func(ctx context.Context, s eventstore.Copyable, events []original) error {
			if err := s.Import(ctx, events); !errors.Is(err, eventstore.ErrNotACopy) {
				return err
			}
			for i := range events {
				events[i].Revision = min(events[i].Revision, length(ctx, s, events[i].Stream))
			}
			return s.Import(ctx, events)
		}),
	},
	{
		name: "accepts imports that are out of bounds", refusedBy: []string{"copy/bounds"},
		log: imports(func(ctx context.Context, s eventstore.Copyable, events []original) error {
			if eventstore.CheckImport(events) != nil {
				return nil
			}
			return s.Import(ctx, events)
		}),
	},
	{
		name: "writes the valid part of an import that is out of bounds", refusedBy: []string{"copy/bounds"},
		log: imports(func(ctx context.Context, s eventstore.Copyable, events []original) error {
			err := eventstore.CheckImport(events)
			if err == nil {
				return s.Import(ctx, events)
			}
			if len(events) == 1 {
				_ = s.Import(ctx, []original{from("acme", usage(2), 0, 1)})
			}
			return err
		}),
	},
}
