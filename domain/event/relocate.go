package event

import (
	"bytes"
	"fmt"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Relocate returns the payload of an event for a copy of the log, where other events have other positions: translate maps a
// position to the copy's. Only a finalised invoice mentions one, that of the last usage in it; every other payload is returned
// unchanged. Errors: ErrMalformed; those of translate.
func Relocate(r eventstore.Recorded, translate func(eventstore.Position) (eventstore.Position, error)) ([]byte, error) {
	if r.Type != string(invoiceFinalised) {
		return r.Data, nil
	}
	var e InvoiceFinalised
	if err := jsonv2.Unmarshal(r.Data, &e, jsonv2.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w at %s (%s): %w", ErrMalformed, r.Position, r.Type, err)
	}
	if !bytes.Equal(encodeJSON(e), r.Data) { // otherwise more than the position would change
		return nil, fmt.Errorf("%w at %s (%s): encoding it again gives other bytes", ErrMalformed, r.Position, r.Type)
	}
	at, err := eventstore.ParsePosition(e.Invoice.Position)
	if err != nil {
		return nil, fmt.Errorf("%w at %s (%s): %w", ErrMalformed, r.Position, r.Type, err)
	}
	if at, err = translate(at); err != nil {
		return nil, err
	}
	e.Invoice.Position = at.String()
	return encodeJSON(e), nil
}
