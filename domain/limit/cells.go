package limit

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Cell is a number of things that happened from First to Last.
type Cell struct {
	First, Last Tick
	N           int64
}

// Cells is what happened within the longest sliding window that anybody looks at, ascending.
//
// A window that ends between First and Last of a cell does not know how many of its things are inside. Counting them all
// refuses rather than admits, so a cell is never wider than a 64th of its age: at most a 64th of any window is given away.
// A value of Cells never changes; add returns the next one, which shares memory with it. Of two next ones only the latter counts.
type Cells []Cell

const (
	// exactCells is up to how many cells are kept apart, however old they are.
	exactCells = 256
	// mergeEvery is how many cells more there are before neighbours are merged again.
	mergeEvery = 64
	// perAge is which part of its age a cell may span.
	perAge = 64
)

// add counts one thing at an instant that is not before the last one, and forgets what is older than remembered. Where nothing
// is to be remembered, it counts nothing.
func (c Cells) add(at Tick, remember time.Duration) Cells {
	if remember == 0 {
		return nil
	}
	next := append(c, Cell{at, at, 1}) //nolint:gocritic // it shares memory on purpose
	if len(next) < exactCells || len(next)%mergeEvery != 0 {
		return next
	}
	var merged Cells
	for _, cell := range next {
		if cell.Last.after(remember) <= at {
			continue
		}
		if i := len(merged) - 1; i >= 0 && cell.Last-merged[i].First <= (at-cell.Last)/perAge {
			merged[i].Last, merged[i].N = cell.Last, merged[i].N+cell.N
			continue
		}
		merged = append(merged, cell)
	}
	return merged
}

// most is the number of things of which some may still be within the window that ends at an instant (inclusive): a cell
// counts until its last one has left.
func (c Cells) most(at Tick, window time.Duration) (n int64) {
	for i := len(c) - 1; i >= 0 && c[i].Last.after(window) > at; i-- {
		n += c[i].N
	}
	return n
}

// least is the number of things that are surely within the window: a cell counts until its first one leaves.
func (c Cells) least(at Tick, window time.Duration) (n int64) {
	for i := len(c) - 1; i >= 0 && c[i].First.after(window) > at; i-- {
		n += c[i].N
	}
	return n
}

// within is the part that most counts.
func (c Cells) within(at Tick, window time.Duration) Cells {
	i := len(c)
	for i > 0 && c[i-1].Last.after(window) > at {
		i--
	}
	return c[i:]
}

// MarshalJSON writes three numbers for each cell: First after the Last of the cell before, Last after First, and N.
func (c Cells) MarshalJSON() ([]byte, error) {
	numbers, before := make([]int64, 0, 3*len(c)), Tick(0)
	for _, cell := range c {
		numbers = append(numbers, int64(cell.First-before), int64(cell.Last-cell.First), cell.N)
		before = cell.Last
	}
	return json.Marshal(numbers)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Cells) UnmarshalJSON(text []byte) error {
	var numbers []int64
	if err := json.Unmarshal(text, &numbers); err != nil {
		return err
	}
	if len(numbers)%3 != 0 {
		return fmt.Errorf("%d numbers are no cells", len(numbers))
	}
	*c = nil
	before := Tick(0)
	for n := range slices.Chunk(numbers, 3) {
		first := before + Tick(n[0])
		before = first + Tick(n[1])
		*c = append(*c, Cell{first, before, n[2]})
	}
	return nil
}
