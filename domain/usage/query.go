package usage

import (
	"fmt"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Bounds of a query.
const (
	DefaultLimit = 50
	MaxLimit     = 10_000
	MaxGroupBy   = 16
)

// Query asks how much a tenant used.
type Query struct {
	Tenant event.TenantID
	// From and To are extended to whole windows.
	From, To    time.Time
	Granularity Granularity
	Meter       catalog.MeterKey // "" for all
	GroupBy     []string         // dimensions; rows omit those that their meter does not have
	Location    *time.Location   // nil is UTC
	Limit       int              // rows of one page; 0 is DefaultLimit
	Cursor      string           // of the page before
}

// Row is the sum of one window, meter and group.
type Row struct {
	WindowStart time.Time
	WindowEnd   time.Time
	Meter       catalog.MeterKey
	Quantity    money.Decimal
	Events      int64             // number of facts that count
	Dimensions  map[string]string // of those asked for, the ones that the facts have
}

// Report is one page of an answer, in the order of window, meter and dimensions. Groups without usage are not listed.
type Report struct {
	Items      []Row
	NextCursor string // "" on the last page
	// Total is the exact sum over all pages if the query names one meter, else nil: sums of different meters cannot be added.
	Total *money.Decimal
}

// Plan checks the query, fills in defaults and returns the bounds of its windows (see Granularity.Windows).
// Errors: *invalid.Error.
func (q Query) Plan() (Query, []time.Time, error) {
	var l invalid.List
	if q.Granularity == "" {
		q.Granularity = Day
	}
	if !q.Granularity.Valid() {
		l.Add("/granularity", "not_allowed", fmt.Sprintf("granularity is hour, day or month, not %q", q.Granularity))
	}
	if q.Location == nil {
		q.Location = time.UTC
	}
	if q.Limit == 0 {
		q.Limit = DefaultLimit
	}
	if q.Limit < 0 || q.Limit > MaxLimit {
		l.Add("/limit", "out_of_range", fmt.Sprintf("limit must be between 1 and %d", MaxLimit))
	}
	if len(q.GroupBy) > MaxGroupBy {
		l.Add("/groupBy", "too_large", fmt.Sprintf("at most %d dimensions can be grouped by", MaxGroupBy))
	}
	for i, name := range q.GroupBy {
		switch {
		case event.CheckID(name) != nil:
			l.Add("/groupBy", "malformed", fmt.Sprintf("%q is not the name of a dimension", name))
		case slices.Contains(q.GroupBy[:i], name):
			l.Add("/groupBy", "duplicate", fmt.Sprintf("dimension %s is named twice", name))
		}
	}
	for _, t := range []struct {
		pointer string
		time    time.Time
	}{{"/from", q.From}, {"/to", q.To}} {
		if t.time.Year() < 1 || t.time.Year() > 9999 {
			l.Add(t.pointer, "out_of_range", "the time must be between the years 1 and 9999")
		}
	}
	if err := l.Err(); err != nil {
		return q, nil, err
	}
	windows, err := q.Granularity.Windows(q.From, q.To, q.Location)
	return q, windows, err
}
