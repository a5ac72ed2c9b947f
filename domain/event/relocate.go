package event

import (
	"bytes"
	"fmt"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Relocate gives an event that goes to another log the positions there of what it mentions by position. An invoice says up to where
// usage is in it; no other event speaks of the log's coordinates, and those are returned as they are. Errors: ErrMalformed; that
// of move.
func Relocate(r eventstore.Recorded, move func(eventstore.Position) (eventstore.Position, error)) ([]byte, error) {
	if r.Type != string(invoiceFinalised) {
		return r.Data, nil
	}
	var e InvoiceFinalised
	if err := jsonv2.Unmarshal(r.Data, &e, jsonv2.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w at %s (%s): %w", ErrMalformed, r.Position, r.Type, err)
	}
	if !bytes.Equal(encodeJSON(e), r.Data) { // else more than the position would change
		return nil, fmt.Errorf("%w at %s (%s): it is not written as it is read", ErrMalformed, r.Position, r.Type)
	}
	at, err := eventstore.ParsePosition(e.Invoice.Position)
	if err != nil {
		return nil, fmt.Errorf("%w at %s (%s): %w", ErrMalformed, r.Position, r.Type, err)
	}
	if at, err = move(at); err != nil {
		return nil, err
	}
	e.Invoice.Position = at.String()
	return encodeJSON(e), nil
}
