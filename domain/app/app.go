// Package app owns the use cases: what can be done with the ledger, each in one file, from input that is well-formed to
// events on the log. It knows the domain and the ports it needs, no technology.
package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/optimistic"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

var (
	// ErrNotFound: there is no such event, key or catalog.
	ErrNotFound = errors.New("not found")
	// ErrConflict: what is there does not allow it, and will not when it is tried again: a host name of another tenant, for instance.
	ErrConflict = errors.New("conflict")
	// ErrContended: others changed the same thing at the same moment, more often than this package tries again. Nothing was
	// written; trying again later is safe.
	ErrContended = optimistic.ErrContended
)

// SourceConflictError: the usage event was recorded with other content. It is refused for good.
type SourceConflictError struct {
	// Fields are those that differ, as JSON pointers into the event: /quantity, /occurredAt, /data/model. There are none where
	// the recorded event was not compared.
	Fields []string
}

// Unwrap makes it an ErrConflict.
func (e *SourceConflictError) Unwrap() error { return ErrConflict }

func (e *SourceConflictError) Error() string {
	if len(e.Fields) == 0 {
		return "the event is recorded with other content"
	}
	return "the event is recorded with another " + strings.Join(e.Fields, ", ")
}

// UnknownEventTypeError: no meter counts this type.
type UnknownEventTypeError struct {
	Type  event.Type
	Known []string
}

func (e *UnknownEventTypeError) Error() string {
	return fmt.Sprintf("no meter counts %q; known event types: %v", e.Type, e.Known)
}

// Catalog is the configuration in force, and its revision on the log (eventstore.NoStream before the first one).
type Catalog struct {
	catalog.Catalog
	Revision eventstore.Revision
	// Versions counts for each plan how often it became another one, from 1. Plans that were taken out stay in it, so that
	// no number ever means two plans.
	Versions map[catalog.PlanKey]int
}

// Directory looks up what exists. Answers may be up to a second old, and up to ten minutes while the store is
// unavailable, except that what this process changed is seen at once, and that nobody is said to be unknown who was shown to
// anybody before the question. With a context that has ended, answers are what is known, if anything is.
type Directory interface {
	// Refresh returns nil once the answers are as new as what was shown to anybody, by whatever process, before the call.
	Refresh(ctx context.Context) error
	// Tenant's error wraps tenant.ErrUnknown where there is none.
	Tenant(ctx context.Context, id event.TenantID) (tenant.Tenant, error)
	// Key's error wraps tenant.ErrUnknownKey where there is none, or it is revoked.
	Key(ctx context.Context, hash tenant.Hash) (tenant.Key, error)
	Catalog(ctx context.Context) (Catalog, error)
	// Subscription is empty for a tenant without one; whether the tenant exists is not asked.
	Subscription(ctx context.Context, id event.TenantID) (tenant.Subscription, error)
	// Holding is the zero value for a name without a holder.
	Holding(ctx context.Context, n tenant.Name) (tenant.Holding, error)
	// PlansInUse lists, in order, the plans that some tenant has at the instant or will have. It reads the store
	// as it is now.
	PlansInUse(ctx context.Context, at time.Time) ([]catalog.PlanKey, error)
	// Reached waits until the directory shows what is at the position, then forgets what is older.
	Reached(ctx context.Context, at eventstore.Position) error
}

// Refresh refreshes the directory, for half of the time that is left at most. A directory that cannot is used as it is: as long as its
// store is away, nobody is told of a change there.
func Refresh(ctx context.Context, d Directory) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	_ = d.Refresh(ctx)
}

// Catalogs reads the catalog of one revision, which never changes.
type Catalogs interface {
	At(ctx context.Context, revision eventstore.Revision) (*catalog.Catalog, error)
}

// Store is what the use cases need of the event store.
type Store interface {
	eventstore.Appender
	eventstore.StreamReader
}

// Ledger is the application: every change of the log goes through it.
type Ledger struct {
	store     Store
	directory Directory
	now       func() time.Time
	domains   tenant.Domains
}

// New makes the application.
func New(store Store, directory Directory, now func() time.Time) *Ledger {
	return &Ledger{store: store, directory: directory, now: now}
}

// WithBaseDomains says which domains are the product's own. Call it before anything else.
func (l *Ledger) WithBaseDomains(d tenant.Domains) *Ledger {
	l.domains = d
	return l
}
