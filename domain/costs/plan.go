package costs

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

// DefaultMaxJump is the factor by which a price may change at once.
var DefaultMaxJump = money.Int(3)

// Options say how a list is imported.
type Options struct {
	From          catalog.Date  // the first day that it holds for
	RemoveMissing bool          // end the cost of models that the list lacks
	MaxJump       money.Decimal // at least 1; zero is DefaultMaxJump
}

// Op is what becomes of a model.
type Op string

// What an import does to a model.
const (
	Added    Op = "added"
	Changed  Op = "changed"
	Removed  Op = "removed"
	Unlisted Op = "unlisted" // not in the list; it keeps its price
	Refused  Op = "refused"  // the list is older than what is known
)

// Change is what an import does to one model.
type Change struct {
	Op Op
	event.ModelName
	Old, New *event.ModelCost // nil where there is none
	Detail   string           // why it is refused
	Jump     string           // why the guard stops it; "" where it does not
}

// Plan is what an import would change.
type Plan struct {
	Changes   []Change // by provider and model
	Counts    map[Op]int
	Unchanged int
	// Vanishing tells that more models end than the guard lets through; "" where they do not.
	Vanishing string
}

// JumpError: prices change so much that it is rather the list that is wrong. Nothing was imported.
type JumpError struct{ Jumps []string }

func (e *JumpError) Error() string {
	const shown = 3
	text := strings.Join(e.Jumps[:min(shown, len(e.Jumps))], "; ")
	if more := len(e.Jumps) - shown; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// Guard is a *JumpError where something jumps.
func (p Plan) Guard() error {
	var jumps []string
	if p.Vanishing != "" {
		jumps = append(jumps, p.Vanishing)
	}
	for i := range p.Changes {
		if c := &p.Changes[i]; c.Jump != "" {
			jumps = append(jumps, clip(c.Provider+"/"+c.Model)+": "+c.Jump)
		}
	}
	if len(jumps) == 0 {
		return nil
	}
	return &JumpError{jumps}
}

// Plan decides what a list changes. A model whose price is the same is not touched. A changed price ends the version before it
// on the day that the list holds from; where that version began on the same day, it is replaced. History is not rewritten: a list
// from before the day on which the newest version of a model begins or ends is refused for that model, unless it says what is
// known already.
//
// A list speaks for the providers that it names. Of those, models that it lacks are unlisted, or removed where that is asked for.
func (i Imports) Plan(list List, o Options) Plan {
	if o.MaxJump.Sign() == 0 {
		o.MaxJump = DefaultMaxJump
	}
	p := Plan{Counts: map[Op]int{}}
	providers, listed := map[string]bool{}, map[event.ModelName]bool{}
	for n := range list.Costs {
		c := &list.Costs[n]
		providers[c.Provider], listed[c.ModelName] = true, true
		p.list(i.versions[c.ModelName], c, o)
	}
	for _, name := range list.Ambiguous {
		listed[name] = true
	}
	known := 0
	for _, name := range slices.SortedFunc(maps.Keys(i.versions), byName) {
		versions := i.versions[name]
		inForce, ok := at(versions, o.From)
		if !ok || !providers[name.Provider] {
			continue
		}
		if known++; listed[name] {
			continue
		}
		change := Change{Op: Unlisted, ModelName: name, Old: costOf(inForce)}
		if o.RemoveMissing {
			change.Op = Removed
			if o.From < said(versions) {
				change.Op, change.Detail = Refused, older(versions)
			}
		}
		p.add(change)
	}
	if removed := p.Counts[Removed]; 2*removed > known {
		p.Vanishing = fmt.Sprintf("%d of %d models vanish", removed, known)
	}
	slices.SortFunc(p.Changes, func(a, b Change) int { return byName(a.ModelName, b.ModelName) })
	return p
}

func (p *Plan) add(c Change) {
	p.Changes = append(p.Changes, c)
	p.Counts[c.Op]++
}

// list decides about one model of the list.
func (p *Plan) list(versions []Version, c *event.ModelCost, o Options) {
	inForce, known := at(versions, o.From)
	if known && samePrices(*costOf(inForce), *c) {
		p.Unchanged++
		return
	}
	change := Change{Op: Added, ModelName: c.ModelName, New: c}
	if known {
		change.Op, change.Old = Changed, costOf(inForce)
		change.Jump = jump(change.Old, c, o.MaxJump)
	}
	if o.From < said(versions) {
		change.Op, change.Jump, change.Detail = Refused, "", older(versions)
	}
	p.add(change)
}

func older(versions []Version) string {
	newest := versions[len(versions)-1]
	if newest.Until != "" {
		return fmt.Sprintf("its newest price ended on %s, and history is not rewritten", newest.Until)
	}
	return fmt.Sprintf("its newest price is from %s (%s), and history is not rewritten", newest.From, newest.Source)
}

func costOf(v Version) *event.ModelCost {
	return &event.ModelCost{ModelName: event.ModelName{Provider: v.Provider, Model: v.Model}, Input: event.Rate{Decimal: v.InputPerMillion},
		Cached: event.Rate{Decimal: v.CachedInputPerMillion}, Output: event.Rate{Decimal: v.OutputPerMillion}}
}

// jump tells which price changes by more than the factor, or drops to zero. A cached price that appears where none was known
// is a discount, not a jump.
func jump(before, now *event.ModelCost, most money.Decimal) string {
	var jumps []string
	for _, price := range [...]struct {
		name     string
		from, to event.Rate
	}{{"input", before.Input, now.Input}, {"cached input", before.Cached, now.Cached}, {"output", before.Output, now.Output}} {
		from, to := price.from.Decimal, price.to.Decimal
		switch {
		case from.Equal(to):
		case to.Sign() == 0:
			jumps = append(jumps, fmt.Sprintf("%s drops from %s to zero", price.name, from))
		case price.name == "cached input" && before.Cached.Equal(before.Input.Decimal) && to.Cmp(now.Input.Decimal) < 0:
		case to.Cmp(from.Mul(most)) > 0, from.Cmp(to.Mul(most)) > 0:
			jumps = append(jumps, fmt.Sprintf("%s %s -> %s is more than a factor of %s", price.name, from, to, most))
		}
	}
	return strings.Join(jumps, ", ")
}

// Events is what an import records, where it changes anything. They are one import, and appended together.
func (p Plan) Events(source, hash string, o Options, by event.Actor) []event.CostsImported {
	var events []event.CostsImported
	var part *event.CostsImported
	for i := range p.Changes {
		c := &p.Changes[i]
		if c.Op == Unlisted || c.Op == Refused {
			continue
		}
		if part == nil || len(part.Costs)+len(part.Removed) == event.MaxCostsPerEvent {
			events = append(events, event.CostsImported{Source: source, Hash: hash, From: string(o.From), RemoveMissing: o.RemoveMissing, By: by})
			part = &events[len(events)-1]
		}
		if c.Op == Removed {
			part.Removed = append(part.Removed, c.ModelName)
		} else {
			part.Costs = append(part.Costs, *c.New)
		}
	}
	return events
}
