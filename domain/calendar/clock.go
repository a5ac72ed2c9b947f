package calendar

import "time"

// The units of a clock, in seconds.
const (
	minute = 60
	hour   = 3600
)

// first is the first instant at which the zone's clock shows the label's date and time, or a later one. The label is written in
// UTC.
func first(label time.Time, zone *time.Location) time.Time {
	const farthest = 26 * time.Hour // more than the offset of any zone
	at := label.Add(-farthest)
	for {
		reads := label.Add(-time.Duration(offsetAt(at.Unix(), zone)) * time.Second)
		_, ends := span(at, zone)
		if reads.Before(at) {
			reads = at
		}
		if ends.IsZero() || reads.Before(ends) {
			return reads.UTC()
		}
		at = ends
	}
}

// unitStart is the start of the minute or hour that contains t. It searches backwards from t, through the spans between changes
// of the zone's clock.
func unitStart(t time.Time, zone *time.Location, unit int64) time.Time {
	at := t.Unix()
	for {
		offset := offsetAt(at, zone)
		began, _ := span(time.Unix(at, 0), zone)
		start := floor(at+offset, unit) - offset
		if began.IsZero() || start >= began.Unix() {
			return time.Unix(start, 0).UTC()
		}
		if startsUnit(began, zone, unit) {
			return began.UTC()
		}
		at = began.Unix() - 1
	}
}

// unitEnd is the end of the minute or hour that contains t. It searches forwards in the same way.
func unitEnd(t time.Time, zone *time.Location, unit int64) time.Time {
	at := t.Unix()
	for {
		offset := offsetAt(at, zone)
		_, ends := span(time.Unix(at, 0), zone)
		end := floor(at+offset, unit) - offset + unit
		if ends.IsZero() || end < ends.Unix() {
			return time.Unix(end, 0).UTC()
		}
		if startsUnit(ends, zone, unit) {
			return ends.UTC()
		}
		at = ends.Unix()
	}
}

// startsUnit reports whether a minute or hour starts at a change of the clock: the clock then shows a full one, or skipped one.
func startsUnit(change time.Time, zone *time.Location, unit int64) bool {
	at := change.Unix()
	before, after := at+offsetAt(at-1, zone), at+offsetAt(at, zone)
	return floor(after, unit) == after || before < after && floor(after, unit) > floor(before-1, unit)
}

// span returns the changes of the zone's clock around t: began is at or before t, ends is after it, and either is zero if there
// is no such change. On the last day of a leap year after 2037, time.Time.ZoneBounds returns an end before t; the end of the
// year replaces it, so that a walk from span to span always advances.
func span(t time.Time, zone *time.Location) (began, ends time.Time) {
	began, ends = t.In(zone).ZoneBounds()
	if !ends.IsZero() && !ends.After(t) {
		ends = time.Date(t.UTC().Year()+1, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return began, ends
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
