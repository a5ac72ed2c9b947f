package event

import (
	"crypto/sha256"
	"time"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const (
	keyCreated kind = "key_created.v1"
	keyRevoked kind = "key_revoked.v1"
)

// KeyCreated: an API key exists. The log holds only its hash.
type KeyCreated struct {
	ID     KeyID    `json:"id"`
	Kind   string   `json:"kind"`
	Tenant TenantID `json:"tenantId,omitempty"`
	Name   string   `json:"name"`
	Hash   []byte   `json:"hash"` // SHA-256 of the key
	By     Actor    `json:"by"`
	// ExpiresAt is when the key stops working by itself; zero: never.
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
}

// KeyRevoked: the key is refused from now on.
type KeyRevoked struct {
	ID     KeyID    `json:"id"`
	Tenant TenantID `json:"tenantId,omitempty"`
	By     Actor    `json:"by"`
}

// KeyStream is the stream of a key.
func KeyStream(k KeyID) eventstore.StreamName { return streamOf("key", string(k)) }

func (e KeyCreated) owner() TenantID { return e.Tenant }
func (e KeyRevoked) owner() TenantID { return e.Tenant }

func (e KeyCreated) wellFormed() bool {
	return e.ID != "" && e.Kind != "" && len(e.Hash) == sha256.Size
}
func (e KeyRevoked) wellFormed() bool { return e.ID != "" }

// Append is the log entry: the first of the key's stream.
func (e KeyCreated) Append() eventstore.Append {
	return appendJSON(keyCreated, KeyStream(e.ID), eventstore.NoStream, e)
}

// Append is the log entry after revision expected.
func (e KeyRevoked) Append(expected eventstore.Revision) eventstore.Append {
	return appendJSON(keyRevoked, KeyStream(e.ID), expected, e)
}
