// Package calendar owns the windows of time in a tenant's zone: minutes, hours, days, months and billing cycles. What is
// counted in them, and which zone and anchor a tenant has, is decided elsewhere.
package calendar

import (
	"fmt"
	"time"

	"github.com/tollgate-io/tollgate/domain/catalog"
)

// Window is a half-open span of time [Start, End), UTC.
type Window struct{ Start, End time.Time }

// Contains reports whether t is in the window.
func (w Window) Contains(t time.Time) bool { return !t.Before(w.Start) && t.Before(w.End) }

// Calendar cuts time into windows for one tenant. The zero Calendar is in UTC.
type Calendar struct {
	Zone   *time.Location // nil is UTC
	Anchor time.Time      // billing cycles start on this instant's date in Zone; zero: on the first of the month
}

// Window returns the window of the period that contains t. Windows of one period tile time: none is empty, each ends where
// the next one starts, and each instant is in exactly one, whatever the zone's clock does.
//
// A day, month or billing cycle starts when the clock first shows midnight of its date or, if that midnight is skipped, at the
// first instant after the gap. A day that is skipped entirely has no window. Billing cycles start on the anchor's date plus or
// minus any number of months; a month too short for the anchor's day uses its last day: 31 January, 28 February, 31 March.
//
// A minute or hour starts whenever the clock shows a full one, so an hour that the clock shows twice is two windows. If a gap
// skips a full one, the window starts at the first instant after the gap.
//
// It panics on a period that is not one of package catalog's.
func (c Calendar) Window(p catalog.Period, t time.Time) Window {
	zone := c.Zone
	if zone == nil {
		zone = time.UTC
	}
	var w Window
	switch p {
	case catalog.Minute:
		w = Window{Start: unitStart(t, zone, minute), End: unitEnd(t, zone, minute)}
	case catalog.Hour:
		w = Window{Start: unitStart(t, zone, hour), End: unitEnd(t, zone, hour)}
	case catalog.Day:
		w = dateWindow(t, zone, daily)
	case catalog.Week:
		w = weekWindow(t, zone)
	case catalog.Month:
		w = dateWindow(t, zone, 1)
	case catalog.BillingCycle:
		day := 1
		if !c.Anchor.IsZero() {
			day = c.Anchor.In(zone).Day()
		}
		w = dateWindow(t, zone, day)
	default:
		panic(fmt.Sprintf("calendar: unknown period %q", p))
	}
	if !w.Contains(t) {
		panic(fmt.Sprintf("calendar: the computed %s window of %s in %s is wrong: [%s, %s)", p, t, zone, w.Start, w.End))
	}
	return w
}

// dateWindow finds the window that contains t among those that start on this day of each month or, if day is daily, on each
// date. It is nearly always the window of the clock's date. It is a later one where the clock was set back over a midnight that
// had already passed, and where it skips a day.
func dateWindow(t time.Time, zone *time.Location, day int) Window {
	year, month, today := t.In(zone).Date()
	n := 0
	if day != daily && today < dayIn(year, month, day) {
		n = -1
	}
	start, end := first(date(year, month, today, day, n), zone), first(date(year, month, today, day, n+1), zone)
	for !end.After(t) { // this ends: each date is at least a day after the one before, and no clock is days behind
		n++
		start, end = end, first(date(year, month, today, day, n+1), zone)
	}
	return Window{Start: start, End: end}
}

// weekWindow finds the window that contains t, of those that start on each Monday.
func weekWindow(t time.Time, zone *time.Location) Window {
	local := t.In(zone)
	year, month, today := local.Date()
	const daysPerWeek = 7
	monday := today - (int(local.Weekday())+daysPerWeek-1)%daysPerWeek
	start, end := first(date(year, month, monday, daily, 0), zone), first(date(year, month, monday, daily, daysPerWeek), zone)
	for n := daysPerWeek; !end.After(t); { // as in dateWindow
		n += daysPerWeek
		start, end = end, first(date(year, month, monday, daily, n), zone)
	}
	return Window{Start: start, End: end}
}

// daily takes the place of a day of the month for windows that start each day.
const daily = 0

// date is the date on which the n-th window after that of the given date starts: its midnight, written in UTC.
func date(year int, month time.Month, today, day, n int) time.Time {
	if day == daily {
		return time.Date(year, month, today+n, 0, 0, 0, 0, time.UTC)
	}
	month += time.Month(n)
	return time.Date(year, month, dayIn(year, month, day), 0, 0, 0, 0, time.UTC)
}

// dayIn is the given day of a month, or the last day of a shorter month.
func dayIn(year int, month time.Month, day int) int {
	const shortest = 28
	if day <= shortest {
		return day
	}
	return min(day, time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day())
}
