package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/optimistic"
)

const (
	// costsFreshFor is how long the cost book is used without asking whether the log has more of it.
	costsFreshFor = time.Second
	// aheadDays is how far ahead a price list may begin: nothing older can follow it, so a mistyped year must not get in.
	aheadDays = 366
	costsPage = 100 // events
)

// Costs keeps the book of what providers charge us. The stream of costs is the boundary of consistency: imports append at the
// revision that they decided on.
type Costs struct {
	store     Store
	directory Directory
	now       func() time.Time

	mu   sync.Mutex
	kept keptCosts
}

// keptCosts is what is known of the stream, and the book made of it and of one revision of the catalog.
type keptCosts struct {
	imports  costs.Imports
	next     eventstore.Revision // to read
	asked    time.Time
	book     costs.Book
	combined bool
	catalog  eventstore.Revision
}

// NewCosts makes it.
func NewCosts(store Store, directory Directory, now func() time.Time) *Costs {
	return &Costs{store: store, directory: directory, now: now}
}

// Book is the cost book with the negotiated prices of the catalog over the imported ones, at most about a second old.
func (c *Costs) Book(ctx context.Context) (costs.Book, error) { return c.book(ctx, costsFreshFor) }

// Current is the book with everything that is on the log now.
func (c *Costs) Current(ctx context.Context) (costs.Book, error) { return c.book(ctx, 0) }

func (c *Costs) book(ctx context.Context, maxAge time.Duration) (costs.Book, error) {
	k, err := c.read(ctx, maxAge)
	if err != nil {
		return costs.Book{}, err
	}
	inForce, err := c.directory.Catalog(ctx)
	if err != nil {
		return costs.Book{}, fmt.Errorf("read the catalog: %w", err)
	}
	if !k.combined || k.catalog != inForce.Revision {
		k.book, k.combined, k.catalog = k.imports.Combine(inForce.Costs), true, inForce.Revision
		c.keep(k)
	}
	return k.book, nil
}

// read is what is known of the stream, where it is not too old, else what the store says. Callers at the same time may both ask.
func (c *Costs) read(ctx context.Context, maxAge time.Duration) (keptCosts, error) {
	c.mu.Lock()
	k := c.kept
	c.mu.Unlock()
	now := c.now()
	if !k.asked.IsZero() && now.Sub(k.asked) < maxAge {
		return k, nil
	}
	for {
		recorded, err := c.store.ReadStream(ctx, event.CostsStream, k.next, costsPage)
		if err != nil {
			return k, fmt.Errorf("read %s: %w", event.CostsStream, err)
		}
		imported := make([]event.CostsImported, len(recorded))
		for i, r := range recorded {
			payload, err := event.Decode(r)
			if err != nil {
				return k, err
			}
			e, ok := payload.(event.CostsImported)
			if !ok {
				return k, fmt.Errorf("%w: %T at %s", event.ErrMalformed, payload, r.Position)
			}
			imported[i] = e
		}
		if len(imported) > 0 {
			if k.imports, err = k.imports.Apply(imported...); err != nil {
				return k, err
			}
			k.next, k.combined = k.next+eventstore.Revision(len(imported)), false
		}
		if len(recorded) < costsPage {
			k.asked = now
			c.keep(k)
			return k, nil
		}
	}
}

// keep remembers what is not older than what is known.
func (c *Costs) keep(k keptCosts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.next > c.kept.next || k.next == c.kept.next && !k.asked.Before(c.kept.asked) {
		c.kept = k
	}
}

// CostImport is a price list to import.
type CostImport struct {
	List          costs.List
	Source        string // whose list it is
	costs.Options        // From "" is today
	DryRun        bool   // answer what would change, and change nothing
	AllowJumps    bool   // let through what the guard would stop
}

// CostChange answers what an import does, or would do.
type CostChange struct {
	costs.Plan
	From     catalog.Date
	Repeated bool // this list was imported from that day on before; nothing was planned
	Applied  bool
	Position eventstore.Position // of the change; zero when nothing was written
}

// ImportCosts takes a price list into the book. It returns when what changed is durable; a list that changes nothing, and one
// that was imported from the same day on before, write nothing. The change is answered also with a *costs.JumpError, which says
// that the guard stopped it; a dry run is never stopped. Errors: *costs.JumpError; *invalid.Error; ErrContended; those of the
// store.
func (c *Costs) ImportCosts(ctx context.Context, i CostImport, by event.Actor) (CostChange, error) {
	if err := c.check(&i); err != nil {
		return CostChange{}, err
	}
	change := CostChange{From: i.From}
	read := func(ctx context.Context) (keptCosts, error) { return c.read(ctx, 0) }
	done, err := optimistic.Do(ctx, c.store, "the cost book", read, func(k keptCosts) (eventstore.Append, error) {
		if change.Repeated = k.imports.Seen(i.List.Hash, i.From, i.RemoveMissing); change.Repeated {
			change.Plan = costs.Plan{}
			return optimistic.Nothing, nil
		}
		change.Plan = k.imports.Plan(i.List, i.Options)
		if i.DryRun {
			return optimistic.Nothing, nil
		}
		if err := change.Guard(); err != nil && !i.AllowJumps {
			return optimistic.Nothing, err
		}
		parts := change.Events(i.Source, i.List.Hash, i.Options, by)
		if len(parts) == 0 {
			return optimistic.Nothing, nil
		}
		return event.AppendCosts(parts, k.next-1), nil
	})
	if done.Written {
		change.Applied, change.Position = true, done.Result.Position
		_, _ = c.read(ctx, 0) // so that this process sees it at once; where that fails, within a second
	}
	if jump := (*costs.JumpError)(nil); err != nil && !errors.As(err, &jump) {
		change = CostChange{}
	}
	return change, err
}

// check completes an import, or returns what is wrong with it.
func (c *Costs) check(i *CostImport) error {
	var bad invalid.List
	if err := event.CheckID(i.Source); err != nil {
		bad.Add("/source", invalid.CodeRequest, "source "+err.Error())
	} else if i.Source == costs.CatalogSource {
		bad.Add("/source", invalid.CodeRequest, "source must be another name: this one is of the prices in the catalog")
	}
	now := c.now()
	if i.From == "" {
		i.From = catalog.DateOf(now)
	}
	switch last := catalog.DateOf(now.AddDate(0, 0, aheadDays)); {
	case !i.From.Valid():
		bad.Add("/from", invalid.CodeRequest, "from must be a day such as 2026-04-05")
	case i.From > last:
		bad.Add("/from", invalid.CodeRequest, fmt.Sprintf("from is too far ahead; the last day is %s", last))
	}
	if i.MaxJump.Sign() != 0 && i.MaxJump.Cmp(money.Int(1)) < 0 {
		bad.Add("/maxJump", invalid.CodeRequest, "maxJump is a factor of at least 1")
	}
	return bad.Err()
}
