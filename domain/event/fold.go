package event

import (
	"context"
	"fmt"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Fold reads a whole short stream and gives its events to apply, in order; apply reports whether an event belongs there. The
// revision is that of the last one, eventstore.NoStream where there is none. Errors: ErrMalformed; those of the store.
func Fold(ctx context.Context, store eventstore.StreamReader, name eventstore.StreamName, apply func(Decoded) bool) (eventstore.Revision, error) {
	recorded, err := eventstore.ReadAll(ctx, store, name)
	if err != nil {
		return eventstore.NoStream, err
	}
	for _, r := range recorded {
		payload, err := Decode(r)
		if err != nil {
			return eventstore.NoStream, err
		}
		if !apply(Decoded{r, payload}) {
			return eventstore.NoStream, fmt.Errorf("%w at %s: %T does not belong into %s", ErrMalformed, r.Position, payload, name)
		}
	}
	return eventstore.Revision(len(recorded)) - 1, nil
}
