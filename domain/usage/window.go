// Package usage owns the question of how much a tenant used: the query, its windows and its answer. The numbers are a fold of
// the log, and package calendar owns where windows start.
package usage

import (
	"fmt"
	"time"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

// Granularity is the length of a window: an hour, a day or a month of a zone's clock. Each is the catalog.Period of its name.
type Granularity string

// The granularities.
const (
	Hour  = Granularity(catalog.Hour)
	Day   = Granularity(catalog.Day)
	Month = Granularity(catalog.Month)
)

// MaxWindows bounds one query: 10,000 hours are more than a year.
const MaxWindows = 10_000

// Valid reports whether the granularity exists.
func (g Granularity) Valid() bool { return g == Hour || g == Day || g == Month }

// Start is the first instant of the window that contains t, by the rules of package calendar. Start and End panic on an unknown
// granularity.
func (g Granularity) Start(t time.Time, zone *time.Location) time.Time {
	return g.window(t, zone).Start
}

// End is the first instant after the window that contains t: the start of the next one.
func (g Granularity) End(t time.Time, zone *time.Location) time.Time { return g.window(t, zone).End }

func (g Granularity) window(t time.Time, zone *time.Location) calendar.Window {
	return calendar.Calendar{Zone: zone}.Window(catalog.Period(g), t)
}

// Windows returns the starts of the windows that [from, to) touches and, as the last element, the end of the last one.
// Errors: *invalid.Error if there are none, or more than MaxWindows.
func (g Granularity) Windows(from, to time.Time, zone *time.Location) ([]time.Time, error) {
	if !from.Before(to) {
		return nil, invalid.New("/from", "out_of_range", "from must be before to")
	}
	first := g.window(from, zone)
	bounds := []time.Time{first.Start, first.End}
	for last := first.End; last.Before(to); {
		if len(bounds) > MaxWindows {
			return nil, invalid.New("/from", "too_large", fmt.Sprintf("from and to span more than %d windows of one %s", MaxWindows, g))
		}
		last = g.End(last, zone)
		bounds = append(bounds, last)
	}
	return bounds, nil
}
