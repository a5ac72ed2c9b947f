package event

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

const costsImported kind = "costs_imported.v1"

// CostsStream is the stream of the prices that providers charge the installation.
const CostsStream eventstore.StreamName = "costs"

// MaxCostsPerEvent bounds the models of one CostsImported. Even with names of 200 characters such an event is smaller than
// eventstore.MaxEventBytes.
const MaxCostsPerEvent = 100

// Rate is a price in US dollars per million tokens, with every digit of the price list.
type Rate struct{ money.Decimal }

// UnmarshalJSON accepts a JSON number within the bounds of money.ParseRate.
func (r *Rate) UnmarshalJSON(b []byte) (err error) {
	r.Decimal, err = money.ParseRate(string(b), 0)
	return err
}

// ModelName names a model as the data of usage events does.
type ModelName struct {
	Provider string `json:"provider"`
	Model    string `json:"model"`
}

// ModelCost is what a provider charges for a model.
type ModelCost struct {
	ModelName
	Input  Rate `json:"inputPerMillion"`
	Cached Rate `json:"cachedInputPerMillion"`
	Output Rate `json:"outputPerMillion"`
}

// CostsImported: a price list changed what providers charge from a day on. It holds only the changes; a long import is
// several events, appended together.
type CostsImported struct {
	Source string `json:"source"` // the list's origin, in the operator's words
	Hash   string `json:"sha256"` // of the list, lower-case hex
	From   string `json:"from"`   // 2006-01-02, UTC
	// RemoveMissing: models that the list lacks were removed, for the providers that it names.
	RemoveMissing bool        `json:"removeMissing,omitempty"`
	Costs         []ModelCost `json:"costs,omitempty"`
	Removed       []ModelName `json:"removed,omitempty"`
	By            Actor       `json:"by"`
}

func (e CostsImported) owner() TenantID { return "" }

func (e CostsImported) wellFormed() bool {
	hash, err := hex.DecodeString(e.Hash)
	day, dayErr := time.Parse(time.DateOnly, e.From)
	if err != nil || len(hash) != sha256.Size || dayErr != nil || day.Format(time.DateOnly) != e.From || e.Source == "" || len(e.Costs)+len(e.Removed) == 0 {
		return false
	}
	for _, c := range e.Costs {
		if c.Provider == "" || c.Model == "" || c.Input.Sign() < 0 || c.Cached.Sign() < 0 || c.Output.Sign() < 0 {
			return false
		}
	}
	for _, m := range e.Removed {
		if m.Provider == "" || m.Model == "" {
			return false
		}
	}
	return true
}

// AppendCosts is the log entry of one import after revision expected: all its parts or none.
func AppendCosts(parts []CostsImported, expected eventstore.Revision) eventstore.Append {
	a := eventstore.Append{Stream: CostsStream, Expected: expected}
	for i, e := range parts {
		a.Events = append(a.Events, appendJSON(costsImported, CostsStream, expected+eventstore.Revision(i), e).Events...)
	}
	return a
}
