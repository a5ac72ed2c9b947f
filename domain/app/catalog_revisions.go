package app

import (
	"context"
	"sync"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// maxCatalogs bounds what is kept in memory. A log with more revisions than this reads some of them twice.
const maxCatalogs = 256

// CatalogRevisions reads catalogs from the log, each as it was applied, and keeps them in memory.
type CatalogRevisions struct {
	log eventstore.StreamReader

	mu   sync.RWMutex
	kept map[eventstore.Revision]*catalog.Catalog
}

// NewCatalogRevisions keeps none yet.
func NewCatalogRevisions(log eventstore.StreamReader) *CatalogRevisions {
	return &CatalogRevisions{log: log, kept: map[eventstore.Revision]*catalog.Catalog{}}
}

// At returns the catalog of a revision; the empty one for eventstore.NoStream. The caller must not change it. Two callers who
// miss at the same time both read: the answer is the same. Errors: ErrNotFound; those of the store.
func (c *CatalogRevisions) At(ctx context.Context, revision eventstore.Revision) (*catalog.Catalog, error) {
	c.mu.RLock()
	kept := c.kept[revision]
	c.mu.RUnlock()
	if kept != nil {
		return kept, nil
	}
	read, err := ReadCatalog(ctx, c.log, revision)
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
