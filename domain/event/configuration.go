package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/google/uuid"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// jsonEvent is an event that is kept as JSON.
type jsonEvent interface {
	// owner is the tenant that the event belongs to; "" is the system itself.
	owner() TenantID
	// wellFormed reports whether every required field is there and within its bounds.
	wellFormed() bool
}

// decodeJSON is as strict as the codec of facts: it accepts no unknown, repeated or missing member, and the tenant inside
// must be the one outside.
func decodeJSON[T jsonEvent](_ kind, about Identity, payload []byte) (any, error) {
	var e T
	if err := jsonv2.Unmarshal(payload, &e, jsonv2.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	switch {
	case !e.wellFormed():
		return nil, errors.New("a required field is missing or out of bounds")
	case e.owner() != about.Tenant:
		return nil, fmt.Errorf("it is about tenant %q and stored for tenant %q", e.owner(), about.Tenant)
	}
	return e, nil
}

// encodeJSON does not escape <, > and & as json.Marshal does: a catalog must keep its bytes.
func encodeJSON(e any) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(e); err != nil {
		panic(fmt.Sprintf("event: %T cannot be encoded: %v", e, err)) // only plain fields are encoded here
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// appendJSON is the log entry of one event after revision expected of a stream.
func appendJSON(k kind, stream eventstore.StreamName, expected eventstore.Revision, e jsonEvent) eventstore.Append {
	return appendDecided(stream, e.owner(), expected, string(k), encodeJSON(e))
}

// appendDecided is the log entry of an event that a use case decided. Its ID comes from the stream, the revision and the
// content, so that a repeated attempt is recognised.
func appendDecided(stream eventstore.StreamName, tenant TenantID, expected eventstore.Revision, logType string, data []byte) eventstore.Append {
	seed := append(fmt.Appendf(nil, "%s\x00%d\x00%s\x00", stream, expected, logType), data...)
	return eventstore.Append{
		Stream:   stream,
		Tenant:   string(tenant),
		Expected: expected,
		Events:   []eventstore.NewEvent{{ID: uuid.NewSHA1(eventSpace, seed), Type: logType, Data: data}},
	}
}

// streamOf is the stream of one thing: the prefix says what it is, and the hash of its key which.
func streamOf(prefix, key string) eventstore.StreamName {
	return eventstore.StreamName(prefix + "-" + uuid.NewSHA1(eventSpace, []byte(key)).String())
}
