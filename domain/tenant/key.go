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

// ErrUnknownKey: the key never existed, was revoked or has expired.
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
	ExpiresAt time.Time // from then on the key is refused; zero: never
	LastUsed  time.Time // to about a minute; zero: never, or not yet known
}

// ValidAt reports whether the key is neither revoked nor expired.
func (k Key) ValidAt(now time.Time) bool {
	return k.RevokedAt.IsZero() && (k.ExpiresAt.IsZero() || now.Before(k.ExpiresAt))
}

// Actor names the key as the cause of an event.
func (k Key) Actor() event.Actor { return event.Actor("key:" + string(k.ID)) }

// Hash is the SHA-256 of a key's secret; only it is stored.
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

// Hash of the whole secret. A plain hash is enough: no dictionary helps against 256 random bits.
func (s Secret) Hash() Hash { return sha256.Sum256([]byte(s)) }

// KeyID is the id of the secret's hash.
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
