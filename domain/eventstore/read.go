package eventstore

import (
	"context"
	"fmt"
)

// ReadAll reads a whole stream; call it for short ones only.
func ReadAll(ctx context.Context, store StreamReader, name StreamName) ([]Recorded, error) {
	const page = 1000
	var all []Recorded
	for {
		part, err := store.ReadStream(ctx, name, Revision(len(all)), page)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		all = append(all, part...)
		if len(part) < page {
			return all, nil
		}
	}
}
