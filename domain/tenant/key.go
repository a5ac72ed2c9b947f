package tenant

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
)

// ErrUnknownKey: no such key was ever made, or it was revoked, or has expired.
var ErrUnknownKey = errors.New("unknown, revoked or expired API key")

// KeyKind says what a key may do.
type KeyKind string

// The kinds of keys.
const (
	Admin   KeyKind = "admin"   // everything
	Service KeyKind = "service" // a product backend: acts for any tenant, which it names with each request
	Scoped  KeyKind = "tenant"  // one tenant's own data
)

// Valid reports whether the kind exists.
func (k KeyKind) Valid() bool { return k == Admin || k == Service || k == Scoped }

// Key is an API key without its secret.
type Key struct {
	ID        event.KeyID
	Kind      KeyKind
	Tenant    event.TenantID // of a Scoped key
	Name      string
	CreatedAt time.Time
	RevokedAt time.Time // zero while it is not
	ExpiresAt time.Time // from when on it ends by itself; zero: never
	LastUsed  time.Time // to the minute or so; zero: never, or not yet known
}

// ValidAt reports whether the key opens anything.
func (k Key) ValidAt(now time.Time) bool {
	return k.RevokedAt.IsZero() && (k.ExpiresAt.IsZero() || now.Before(k.ExpiresAt))
}

// Actor is the key as the cause of an event.
func (k Key) Actor() event.Actor { return event.Actor("key:" + string(k.ID)) }

// Hash is what is kept of a key's secret.
type Hash [sha256.Size]byte

// Secret is a whole key, shown once. It starts with "tg_<kind>_", so that secret scanners can find it.
type Secret string

const secretBytes = 32 // 256 bits

// NewSecret makes a key of 256 random bits.
func NewSecret(kind KeyKind, random io.Reader) (Secret, error) {
	b := make([]byte, secretBytes)
	if _, err := io.ReadFull(random, b); err != nil {
		return "", fmt.Errorf("random bits for a key: %w", err)
	}
	return Secret("tg_" + string(kind) + "_" + base64.RawURLEncoding.EncodeToString(b)), nil
}

// Hash of the whole secret. A plain hash is enough for 256 random bits; there is nothing to guess from a dictionary.
func (s Secret) Hash() Hash { return sha256.Sum256([]byte(s)) }

// KeyID is that of its hash.
func (s Secret) KeyID() event.KeyID { return s.Hash().KeyID() }

// KeyID is derived from the hash: the same secret is the same key, however often it is registered.
func (h Hash) KeyID() event.KeyID { return event.KeyID("key_" + hex.EncodeToString(h[:8])) }

// Check refuses a bootstrap key that is too short to be safe.
func (s Secret) Check() error {
	if len(s) < 16 || len(s) > 200 || strings.ContainsFunc(string(s), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("an API key must have 16-200 printable ASCII characters")
	}
	return nil
}
