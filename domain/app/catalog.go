package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/optimistic"
)

// ReadCatalog reads the catalog of one revision from the log; the empty one of eventstore.NoStream. A revision never changes,
// so callers may keep it. Error: ErrNotFound.
func ReadCatalog(ctx context.Context, store eventstore.StreamReader, revision eventstore.Revision) (Catalog, error) {
	if revision < 0 {
		return Catalog{Revision: eventstore.NoStream}, nil
	}
	recorded, err := store.ReadStream(ctx, event.CatalogStream, revision, 1)
	if err != nil {
		return Catalog{}, fmt.Errorf("read catalog revision %d: %w", revision, err)
	}
	if len(recorded) == 0 {
		return Catalog{}, fmt.Errorf("catalog revision %d: %w", revision, ErrNotFound)
	}
	payload, err := event.Decode(recorded[0])
	if err != nil {
		return Catalog{}, err
	}
	return NewCatalog(payload.(event.CatalogApplied), revision)
}

// NewCatalog is the catalog as an event of the log says it. Plans without a version are from before there were any, and
// count as the first.
func NewCatalog(e event.CatalogApplied, revision eventstore.Revision) (Catalog, error) {
	parsed, err := catalog.Parse(e.Catalog)
	if err != nil {
		return Catalog{}, fmt.Errorf("catalog revision %d: %w", revision, err)
	}
	c := Catalog{Catalog: parsed, Revision: revision, Versions: PlanVersions(e)}
	for i := range parsed.Plans {
		if key := parsed.Plans[i].Key; c.Versions[key] == 0 {
			c.Versions[key] = 1
		}
	}
	return c, nil
}

// PlanVersions are the numbers of the plans that the event says.
func PlanVersions(e event.CatalogApplied) map[catalog.PlanKey]int {
	versions := map[catalog.PlanKey]int{}
	for key, version := range e.Versions {
		versions[catalog.PlanKey(key)] = version
	}
	return versions
}

// nextVersions numbers the plans of the next catalog: a plan that is another than the one in force, or that was taken out
// since it had its last number, gets one more.
func (c Catalog) nextVersions(next catalog.Catalog) map[string]int {
	versions := make(map[string]int, len(c.Versions)+len(next.Plans))
	for key, version := range c.Versions {
		versions[string(key)] = version
	}
	inForce := make(map[catalog.PlanKey][]byte, len(c.Plans))
	for _, p := range c.Plans {
		inForce[p.Key] = planText(p)
	}
	for _, p := range next.Plans {
		if !bytes.Equal(inForce[p.Key], planText(p)) {
			versions[string(p.Key)]++
		}
	}
	return versions
}

// planText is equal for equal plans.
func planText(p catalog.Plan) []byte {
	text, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("app: a plan cannot be written: %v", err)) // the catalog writes it in the same way
	}
	return text
}

// CatalogChange answers what applying a catalog does, or would do.
type CatalogChange struct {
	Changes  []catalog.Change
	Applied  bool
	Revision eventstore.Revision // in force afterwards
	Position eventstore.Position // of the change; zero when nothing was written
}

// ApplyCatalog makes the catalog the one in force. A catalog equal to the current one writes nothing; so does a dry run.
// A plan that a tenant has, or will have, cannot be taken out: nothing would be limited for that tenant. Errors: ErrContended;
// *invalid.Error.
func (l *Ledger) ApplyCatalog(ctx context.Context, next catalog.Catalog, dryRun bool, by event.Actor) (CatalogChange, error) {
	text := next.Canonical()
	type state struct {
		Catalog
		unseen eventstore.Position // of the newest one, when the directory does not show it yet
	}
	read := func(ctx context.Context) (s state, err error) {
		revision, unseen, err := l.catalogHead(ctx)
		if err != nil {
			return s, err
		}
		current, err := ReadCatalog(ctx, l.store, revision)
		return state{current, unseen}, err
	}
	c, err := optimistic.Do(ctx, l.store, "the catalog", read, func(s state) (eventstore.Append, error) {
		applied := event.CatalogApplied{Catalog: text, Versions: s.nextVersions(next), By: by}.Append(s.Revision)
		if n := len(applied.Events[0].Data); n > eventstore.MaxEventBytes {
			return optimistic.Nothing, invalid.New("", "too_large", fmt.Sprintf("the catalog has %d bytes as JSON; at most %d are kept", n, eventstore.MaxEventBytes))
		}
		if err := l.keepsPlans(ctx, s.Catalog.Catalog, next); err != nil {
			return optimistic.Nothing, err
		}
		if same := s.Revision >= 0 && bytes.Equal(s.Canonical(), text); same || dryRun {
			return optimistic.Nothing, nil
		}
		return applied, nil
	})
	if err != nil {
		return CatalogChange{}, err
	}
	change := CatalogChange{Changes: catalog.Diff(c.State.Catalog.Catalog, next), Revision: c.State.Revision}
	switch {
	case c.Written:
		change.Applied, change.Revision, change.Position = true, change.Revision+1, c.Result.Position
		return change, l.reached(ctx, c.Result.Position)
	case !dryRun && c.State.unseen != (eventstore.Position{}):
		return change, l.reached(ctx, c.State.unseen)
	}
	return change, nil
}

// keepsPlans refuses to take out a plan that is in use, or to change its currency: what was invoiced could not be adjusted. A
// plan that is assigned at the same time may still be lost: the two streams have no transaction, and catalogs change by hand.
func (l *Ledger) keepsPlans(ctx context.Context, current, next catalog.Catalog) error {
	kept, before := currenciesOf(next), currenciesOf(current)
	gone := slices.DeleteFunc(planKeys(current), func(key string) bool {
		return kept[catalog.PlanKey(key)] == before[catalog.PlanKey(key)]
	})
	if len(gone) == 0 {
		return nil
	}
	used, err := l.directory.PlansInUse(ctx, event.Tick(l.now()))
	if err != nil {
		return fmt.Errorf("read the plans in use: %w", err)
	}
	var missed []string
	for _, key := range used {
		if slices.Contains(gone, string(key)) {
			missed = append(missed, string(key))
		}
	}
	if len(missed) == 0 {
		return nil
	}
	const most = 50
	names := strings.Join(missed[:min(most, len(missed))], ", ")
	if more := len(missed) - most; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return invalid.New("/plans", "in_use", fmt.Sprintf("the catalog lacks plans that tenants have or will have, or has them in another currency: %s; assign other plans first", names))
}

// catalogHead is the newest revision on the log. The directory knows nearly all of it, so that old catalogs
// are not read again; unseen is the head's position while the directory does not show it yet.
func (l *Ledger) catalogHead(ctx context.Context) (head eventstore.Revision, unseen eventstore.Position, err error) {
	known, err := l.directory.Catalog(ctx)
	if err != nil {
		return 0, unseen, fmt.Errorf("read the catalog: %w", err)
	}
	const page = 10
	for next := known.Revision + 1; ; next += page {
		newer, err := l.store.ReadStream(ctx, event.CatalogStream, next, page)
		if err != nil {
			return 0, unseen, fmt.Errorf("read %s: %w", event.CatalogStream, err)
		}
		if n := len(newer); n > 0 {
			unseen = newer[n-1].Position
		}
		if len(newer) < page {
			return next + eventstore.Revision(len(newer)) - 1, unseen, nil
		}
	}
}

// reached waits until this process sees its own change.
func (l *Ledger) reached(ctx context.Context, at eventstore.Position) error {
	if err := l.directory.Reached(ctx, at); err != nil {
		return fmt.Errorf("the change is recorded at %s but not visible yet: %w", at, err)
	}
	return nil
}
