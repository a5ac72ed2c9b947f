package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

const maxKeyName = 200

// NewKey is a key to be made.
type NewKey struct {
	Kind   tenant.KeyKind
	Tenant event.TenantID // of a tenant key
	Name   string
	// ExpiresAt is when the key ends by itself; zero: never.
	ExpiresAt time.Time
}

// CreateKey makes a key; the secret is returned this once and kept nowhere. Errors: *invalid.Error, tenant.ErrUnknown.
func (l *Ledger) CreateKey(ctx context.Context, k NewKey, random io.Reader, by event.Actor) (event.KeyID, tenant.Secret, error) {
	if err := l.checkKey(ctx, k); err != nil {
		return "", "", err
	}
	secret, err := tenant.NewSecret(k.Kind, random)
	if err != nil {
		return "", "", err
	}
	id, err := l.registerKey(ctx, k, secret, by)
	return id, secret, err
}

func (l *Ledger) checkKey(ctx context.Context, k NewKey) error {
	var bad invalid.List
	if !k.Kind.Valid() {
		bad.Add("/kind", "invalid_event", "kind must be admin, service or tenant")
	}
	if k.Name == "" || !invalid.IsText(k.Name, maxKeyName, "") {
		bad.Add("/name", "invalid_event", fmt.Sprintf("name is required, with at most %d printable characters", maxKeyName))
	}
	if !k.ExpiresAt.IsZero() && (!k.ExpiresAt.After(l.now()) || k.ExpiresAt.Year() > 9999) {
		bad.Add("/expiresAt", "invalid_event", "expiresAt must be after now, and before the year 10000")
	}
	if (k.Kind == tenant.Scoped) != (k.Tenant != "") {
		bad.Add("/tenantId", "invalid_event", "a tenant key needs a tenantId; other keys must not have one")
	}
	if err := bad.Err(); err != nil || k.Tenant == "" {
		return err
	}
	if _, err := l.directory.Tenant(ctx, k.Tenant); err != nil {
		return fmt.Errorf("tenant %q: %w", k.Tenant, err)
	}
	return nil
}

// RegisterAdminKey makes a secret that the operator chose a valid admin key. Registering it again changes nothing, also
// not when it was revoked since. Errors: *invalid.Error; ErrConflict when it is a key of another kind.
func (l *Ledger) RegisterAdminKey(ctx context.Context, secret tenant.Secret, name string) (event.KeyID, error) {
	if err := secret.Check(); err != nil {
		return "", invalid.New("", "invalid_event", err.Error())
	}
	if !invalid.IsText(name, maxKeyName, "") {
		return "", invalid.New("/name", "invalid_event", fmt.Sprintf("name must have at most %d printable characters", maxKeyName))
	}
	return l.registerKey(ctx, NewKey{Kind: tenant.Admin, Name: name}, secret, "system")
}

// registerKey relies on the id being derived from the secret: the stream of a key has one creation. The same secret under
// another name changes nothing; where it is a key of another kind or tenant, to answer that it is valid would be wrong.
func (l *Ledger) registerKey(ctx context.Context, k NewKey, secret tenant.Secret, by event.Actor) (event.KeyID, error) {
	hash := secret.Hash()
	e := event.KeyCreated{ID: secret.KeyID(), Kind: string(k.Kind), Tenant: k.Tenant, Name: k.Name, Hash: hash[:], By: by, ExpiresAt: event.Instant(k.ExpiresAt)}
	for range maxAttempts {
		first, err := l.store.ReadStream(ctx, event.KeyStream(e.ID), 0, 1)
		if err != nil {
			return "", fmt.Errorf("read key %s: %w", e.ID, err)
		}
		if len(first) > 0 {
			payload, err := event.Decode(first[0])
			if err != nil {
				return "", err
			}
			there, ok := payload.(event.KeyCreated)
			if !ok || !bytes.Equal(there.Hash, e.Hash) || there.Kind != e.Kind || there.Tenant != e.Tenant {
				return "", fmt.Errorf("%w: this secret is a key of another kind already", ErrConflict)
			}
			return e.ID, l.reached(ctx, first[0].Position)
		}
		r, err := l.appendOne(ctx, e.Append())
		if err != nil {
			return "", err
		}
		if r.Outcome != eventstore.Conflict {
			return e.ID, l.reached(ctx, r.Position)
		}
	}
	return "", fmt.Errorf("%w: the key is being registered by others at the same time", ErrConflict)
}

// RevokeKey refuses the key from now on; again is no error. Error: ErrNotFound.
func (l *Ledger) RevokeKey(ctx context.Context, id event.KeyID, by event.Actor) error {
	for range maxAttempts {
		recorded, err := eventstore.ReadAll(ctx, l.store, event.KeyStream(id))
		if err != nil {
			return err
		}
		if len(recorded) == 0 {
			return fmt.Errorf("key %q: %w", id, ErrNotFound)
		}
		last, err := event.Decode(recorded[len(recorded)-1])
		if err != nil {
			return err
		}
		if _, revoked := last.(event.KeyRevoked); revoked {
			return l.reached(ctx, recorded[len(recorded)-1].Position) // the caller may rely on it as after the first time
		}
		revoke := event.KeyRevoked{ID: id, Tenant: event.TenantID(recorded[0].Tenant), By: by}
		r, err := l.appendOne(ctx, revoke.Append(eventstore.Revision(len(recorded))-1))
		if err != nil {
			return err
		}
		if r.Outcome != eventstore.Conflict {
			return l.reached(ctx, r.Position)
		}
	}
	return fmt.Errorf("%w: the key is being changed by others at the same time", ErrConflict)
}
