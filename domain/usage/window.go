// Package usage owns the question how much a tenant used: windows of time in the tenant's zone, the query and its answer.
// It does not own the numbers; they are a fold of the log.
package usage

import (
	"fmt"
	"time"

	"github.com/tollgate-io/tollgate/domain/invalid"
)

// Granularity is the length of a window: an hour, a day or a month of a zone's clock.
type Granularity string

// The granularities.
const (
	Hour  Granularity = "hour"
	Day   Granularity = "day"
	Month Granularity = "month"
)

// MaxWindows bounds one question: 10,000 hours are more than a year.
const MaxWindows = 10_000

// Valid reports whether the granularity exists.
func (g Granularity) Valid() bool { return g == Hour || g == Day || g == Month }

// Start is the first instant of the window that contains t. Windows tile time: each instant is in exactly one, whatever
// the zone's clock does. A day or month starts when the clock first reads its midnight; where midnight is skipped, with
// the first instant after the gap. An hour starts whenever the clock reads a full hour, so an hour that the clock shows
// twice is two windows, and with the first instant after a gap that skips a full hour.
func (g Granularity) Start(t time.Time, zone *time.Location) time.Time {
	if g == Hour {
		return hourStart(t, zone)
	}
	start, _ := g.around(t, zone)
	return start
}

// End is the first instant after the window that contains t, which is the start of the next one.
func (g Granularity) End(t time.Time, zone *time.Location) time.Time {
	if g == Hour {
		return hourEnd(t, zone)
	}
	_, end := g.around(t, zone)
	return end
}

// around finds the day or month that contains t. The clock's date is nearly always the answer; it is not where the clock
// is set back over midnight, and days that the clock skips whole have no window.
func (g Granularity) around(t time.Time, zone *time.Location) (start, end time.Time) {
	year, month, day := t.In(zone).Date()
	if g == Month {
		day = 1
	}
	next := func(i int) time.Time {
		if g == Month {
			return first(time.Date(year, month+time.Month(i), 1, 0, 0, 0, 0, time.UTC), zone)
		}
		return first(time.Date(year, month, day+i, 0, 0, 0, 0, time.UTC), zone)
	}
	start, end = next(0), next(1)
	const enough = 4 // no clock was ever moved by more than a day
	for i := 2; !end.After(t) && i < 2+enough; i++ {
		start, end = end, next(i)
	}
	return start, end
}

// first is the first instant at which the zone's clock reads the label, given as if it were UTC, or more.
func first(label time.Time, zone *time.Location) time.Time {
	const farthest = 26 * time.Hour // more than any zone is away from UTC
	at := label.Add(-farthest)
	for {
		_, offset := at.In(zone).Zone()
		_, end := span(at, zone)
		reads := label.Add(-time.Duration(offset) * time.Second)
		if reads.Before(at) {
			reads = at
		}
		if end.IsZero() || reads.Before(end) {
			return reads.UTC()
		}
		at = end
	}
}

// span is a time around t in which the zone's clock runs evenly: began is at or before t and ends after it, zero where
// there is no such change. On the last day of a leap year after 2037, time.Time.ZoneBounds gives an end that is over
// already; the year's end takes its place there, so that whoever walks from span to span always gets on.
func span(t time.Time, zone *time.Location) (began, ends time.Time) {
	began, ends = t.In(zone).ZoneBounds()
	if !ends.IsZero() && !ends.After(t) {
		ends = time.Date(t.UTC().Year()+1, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return began, ends
}

const hour = 3600

// hourStart looks back from t within the spans in which the zone's clock runs evenly.
func hourStart(t time.Time, zone *time.Location) time.Time {
	at := t.Unix()
	for {
		offset := offsetAt(at, zone)
		began, _ := span(time.Unix(at, 0), zone)
		start := floor(at+offset, hour) - offset
		if began.IsZero() || start >= began.Unix() {
			return time.Unix(start, 0).UTC()
		}
		if startsHour(began, zone) {
			return began.UTC()
		}
		at = began.Unix() - 1
	}
}

// hourEnd looks ahead in the same way.
func hourEnd(t time.Time, zone *time.Location) time.Time {
	at := t.Unix()
	for {
		offset := offsetAt(at, zone)
		_, ends := span(time.Unix(at, 0), zone)
		end := floor(at+offset, hour) - offset + hour
		if ends.IsZero() || end < ends.Unix() {
			return time.Unix(end, 0).UTC()
		}
		if startsHour(ends, zone) {
			return ends.UTC()
		}
		at = ends.Unix()
	}
}

// startsHour reports whether a change of the clock starts an hour: it reads a full hour then, or it skipped one.
func startsHour(change time.Time, zone *time.Location) bool {
	at := change.Unix()
	before, after := at+offsetAt(at-1, zone), at+offsetAt(at, zone)
	return floor(after, hour) == after || before < after && floor(after, hour) > floor(before-1, hour)
}

func offsetAt(unix int64, zone *time.Location) int64 {
	_, offset := time.Unix(unix, 0).In(zone).Zone()
	return int64(offset)
}

func floor(n, step int64) int64 {
	rest := n % step
	if rest < 0 {
		rest += step
	}
	return n - rest
}

// Windows returns the starts of the windows that [from, to) touches and, as the last element, the end of the last one.
// Errors: *invalid.Error when there are none or more than MaxWindows.
func (g Granularity) Windows(from, to time.Time, zone *time.Location) ([]time.Time, error) {
	if !from.Before(to) {
		return nil, invalid.New("/from", "out_of_range", "from must be before to")
	}
	bounds := []time.Time{g.Start(from, zone)}
	for last := bounds[0]; last.Before(to); {
		if len(bounds) > MaxWindows {
			return nil, invalid.New("/from", "too_large", fmt.Sprintf("from and to span more than %d windows of one %s", MaxWindows, g))
		}
		last = g.End(last, zone)
		bounds = append(bounds, last)
	}
	return bounds, nil
}
