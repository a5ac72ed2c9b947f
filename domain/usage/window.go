// Package usage owns the question how much a tenant used: the query, the windows that it touches and its answer. It does
// not own the numbers, which are a fold of the log, nor where windows start, which package calendar does.
package usage

import (
	"fmt"
	"time"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

// Granularity is the length of a window: an hour, a day or a month of a zone's clock. Each is the period of its name.
type Granularity string

// The granularities.
const (
	Hour  = Granularity(catalog.Hour)
	Day   = Granularity(catalog.Day)
	Month = Granularity(catalog.Month)
)

// MaxWindows bounds one question: 10,000 hours are more than a year.
const MaxWindows = 10_000

// Valid reports whether the granularity exists.
func (g Granularity) Valid() bool { return g == Hour || g == Day || g == Month }

// Start is the first instant of the window that contains t. Package calendar says where windows start. It panics, as End
// does, on a granularity that does not exist.
func (g Granularity) Start(t time.Time, zone *time.Location) time.Time {
	return g.window(t, zone).Start
}

// End is the first instant after the window that contains t, which is the start of the next one.
func (g Granularity) End(t time.Time, zone *time.Location) time.Time { return g.window(t, zone).End }

func (g Granularity) window(t time.Time, zone *time.Location) calendar.Window {
	return calendar.Calendar{Zone: zone}.Window(catalog.Period(g), t)
}

// Windows returns the starts of the windows that [from, to) touches and, as the last element, the end of the last one.
// Errors: *invalid.Error when there are none or more than MaxWindows.
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
