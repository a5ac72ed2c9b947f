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

// DefaultMaxJump is the largest factor by which an import may change a price.
var DefaultMaxJump = money.Int(3)

// Options are the options of an import.
type Options struct {
	From          catalog.Date  // the first day that the list applies to
	RemoveMissing bool          // end the costs of models that are not in the list
	MaxJump       money.Decimal // at least 1; zero is DefaultMaxJump
}

// Op is what an import does to a model.
type Op string

// The operations.
const (
	Added    Op = "added"
	Changed  Op = "changed"
	Removed  Op = "removed"
	Unlisted Op = "unlisted" // not in the list; it keeps its price
	Refused  Op = "refused"  // the list is older than the known costs
)

// Change is what an import does to one model.
type Change struct {
	Op Op
	event.ModelName
	Old, New *event.ModelCost // nil if there is none
	Detail   string           // why it was refused
	Jump     string           // why the guard stops it; "" if it does not
}

// Plan is what an import would change.
type Plan struct {
	Changes   []Change // by provider and model
	Counts    map[Op]int
	Unchanged int
	// Vanishing says that more models end than the guard allows; "" if it is fewer.
	Vanishing string
}

// JumpError: prices change so much that the list is probably wrong. Nothing was imported. The caller may import it with a larger
// MaxJump.
type JumpError struct{ Jumps []string }

func (e *JumpError) Error() string {
	const shown = 3
	text := strings.Join(e.Jumps[:min(shown, len(e.Jumps))], "; ")
	if more := len(e.Jumps) - shown; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// Guard returns a *JumpError if prices jump or too many models vanish.
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

// Plan computes what a list changes. A model with the same price is left alone. A changed price ends the version before it on the
// first day of the list; a version that starts on that same day is replaced. History is not rewritten: a list that starts before
// the newest version of a model starts or ends is refused for that model, unless its price is the known one.
//
// A list covers the providers that it names. Of those, models that it lacks are unlisted, or removed if RemoveMissing is set.
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

// list plans one model of the list.
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

// jump lists the prices that change by more than the factor or drop to zero; "" if none does. A cached price where there was none
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

// Events are the events of an import; none if it changes nothing. They must be appended together.
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
