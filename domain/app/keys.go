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
	"github.com/tollgate-io/tollgate/domain/optimistic"
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
		bad.Add("/kind", invalid.CodeRequest, "kind must be admin, service or tenant")
	}
	if k.Name == "" || !invalid.IsText(k.Name, maxKeyName, "") {
		bad.Add("/name", invalid.CodeRequest, fmt.Sprintf("name is required, with at most %d printable characters", maxKeyName))
	}
	if !k.ExpiresAt.IsZero() && (!k.ExpiresAt.After(l.now()) || k.ExpiresAt.Year() > 9999) {
		bad.Add("/expiresAt", invalid.CodeRequest, "expiresAt must be after now, and before the year 10000")
	}
	if (k.Kind == tenant.Scoped) != (k.Tenant != "") {
		bad.Add("/tenantId", invalid.CodeRequest, "a tenant key needs a tenantId; other keys must not have one")
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
		return "", invalid.New("", invalid.CodeRequest, err.Error())
	}
	if !invalid.IsText(name, maxKeyName, "") {
		return "", invalid.New("/name", invalid.CodeRequest, fmt.Sprintf("name must have at most %d printable characters", maxKeyName))
	}
	return l.registerKey(ctx, NewKey{Kind: tenant.Admin, Name: name}, secret, "system")
}

// registerKey relies on the id being derived from the secret: the stream of a key has one creation. The same secret under
// another name changes nothing; where it is a key of another kind or tenant, to answer that it is valid would be wrong.
func (l *Ledger) registerKey(ctx context.Context, k NewKey, secret tenant.Secret, by event.Actor) (event.KeyID, error) {
	hash := secret.Hash()
	e := event.KeyCreated{ID: secret.KeyID(), Kind: string(k.Kind), Tenant: k.Tenant, Name: k.Name, Hash: hash[:], By: by, ExpiresAt: event.Instant(k.ExpiresAt)}
	return e.ID, l.changeKey(ctx, e.ID, func(s keyState) (eventstore.Append, error) {
		switch there := s.created; {
		case s.revision < 0:
			return e.Append(), nil
		case !bytes.Equal(there.Hash, e.Hash) || there.Kind != e.Kind || there.Tenant != e.Tenant:
			return optimistic.Nothing, fmt.Errorf("%w: this secret is a key of another kind already", ErrConflict)
		}
		return optimistic.Nothing, nil
	})
}

// RevokeKey refuses the key from now on; again is no error. Error: ErrNotFound.
func (l *Ledger) RevokeKey(ctx context.Context, id event.KeyID, by event.Actor) error {
	return l.changeKey(ctx, id, func(s keyState) (eventstore.Append, error) {
		switch {
		case s.revision < 0:
			return optimistic.Nothing, fmt.Errorf("key %q: %w", id, ErrNotFound)
		case s.revoked:
			return optimistic.Nothing, nil
		}
		return event.KeyRevoked{ID: id, Tenant: s.created.Tenant, By: by}.Append(s.revision), nil
	})
}

// keyState is a key as its stream has it.
type keyState struct {
	created  event.KeyCreated
	revoked  bool
	revision eventstore.Revision
	last     eventstore.Position
}

// changeKey changes a key, and returns when this process sees it as decided, also where it was so before: the caller may rely
// on that as after the first time.
func (l *Ledger) changeKey(ctx context.Context, id event.KeyID, decide func(keyState) (eventstore.Append, error)) error {
	read := func(ctx context.Context) (s keyState, err error) {
		s.revision, err = event.Fold(ctx, l.store, event.KeyStream(id), func(r event.Decoded) bool {
			s.last = r.Position
			switch e := r.Payload.(type) {
			case event.KeyCreated:
				s.created = e
			case event.KeyRevoked:
				s.revoked = true
			default:
				return false
			}
			return true
		})
		return s, err
	}
	c, err := optimistic.Do(ctx, l.store, "the key", read, decide)
	switch {
	case err != nil:
		return err
	case c.Written:
		return l.reached(ctx, c.Result.Position)
	}
	return l.reached(ctx, c.State.last)
}
