package projections

import (
	"context"
	"errors"
	"sync"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Catalogs gives the catalog of one revision. A revision never changes, so that a fold over the same events gives the
// same result for ever, whatever the catalog says today.
type Catalogs interface {
	// At returns the catalog as it was applied; the empty one for eventstore.NoStream. The caller must not change it.
	// Errors: app.ErrNotFound; those of the store.
	At(ctx context.Context, revision eventstore.Revision) (*catalog.Catalog, error)
}

// maxCatalogs bounds what is kept in memory. A log with more revisions than this reads some of them twice.
const maxCatalogs = 256

type catalogs struct {
	log eventstore.StreamReader

	mu   sync.RWMutex
	kept map[eventstore.Revision]*catalog.Catalog
}

// NewCatalogs reads catalogs from the log and keeps them.
func NewCatalogs(log eventstore.StreamReader) Catalogs {
	return &catalogs{log: log, kept: map[eventstore.Revision]*catalog.Catalog{}}
}

// At implements Catalogs. Two callers who miss at the same time both read: the answer is the same.
func (c *catalogs) At(ctx context.Context, revision eventstore.Revision) (*catalog.Catalog, error) {
	c.mu.RLock()
	kept := c.kept[revision]
	c.mu.RUnlock()
	if kept != nil {
		return kept, nil
	}
	read, err := app.ReadCatalog(ctx, c.log, revision)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.kept) >= maxCatalogs {
		clear(c.kept)
	}
	c.kept[revision] = &read.Catalog
	return &read.Catalog, nil
}

// isUnknownRevision tells an event that names a catalog nobody applied from a store that cannot be asked.
func isUnknownRevision(err error) bool { return errors.Is(err, app.ErrNotFound) }
