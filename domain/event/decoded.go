package event

import "github.com/tollgate-io/tollgate/domain/eventstore"

// DecodeAll decodes a range of the log. It stops at an event that cannot be read and returns what comes before it with the
// error, so that a projection gets as far as it can: it never skips one. Errors wrap ErrMalformed.
func DecodeAll(recorded []eventstore.Recorded) ([]Decoded, error) {
	events := make([]Decoded, len(recorded))
	for i, r := range recorded {
		payload, err := Decode(r)
		if err != nil {
			return events[:i], err
		}
		events[i] = Decoded{r, payload}
	}
	return events, nil
}
