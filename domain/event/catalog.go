package event

import (
	"encoding/json"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const catalogApplied kind = "catalog_applied.v1"

// CatalogApplied: this is the whole product configuration from now on.
type CatalogApplied struct {
	Catalog json.RawMessage `json:"catalog"`
	// Versions is the number of each plan's current version: 1 for a new plan, one more with each change.
	Versions map[string]int `json:"planVersions,omitempty"`
	By       Actor          `json:"by"`
}

// CatalogStream is the stream of the product configuration.
const CatalogStream eventstore.StreamName = "catalog"

func (e CatalogApplied) owner() TenantID  { return "" }
func (e CatalogApplied) wellFormed() bool { return len(e.Catalog) > 0 && e.Catalog[0] == '{' }

// Append is the log entry after revision expected.
func (e CatalogApplied) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(catalogApplied, CatalogStream, expected, e)
}
