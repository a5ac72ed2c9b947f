package calendar_test

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
)

var periods = []catalog.Period{catalog.Minute, catalog.Hour, catalog.Day, catalog.Week, catalog.Month, catalog.BillingCycle}

// The properties are held to from 1980, when the last clock with odd seconds was gone, to 2100.
var (
	earliest = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2101, 1, 1, 0, 0, 0, 0, time.UTC)
)

// zones are all zones of Go's own copy of the IANA database; of those that are equal in all but the name, the first.
func zones(t testing.TB) []*time.Location {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(runtime.GOROOT(), "lib", "time", "zoneinfo.zip")) //nolint:staticcheck // a test runs where it was built
	require.NoError(t, err)
	archive, err := zip.NewReader(bytes.NewReader(text), int64(len(text)))
	require.NoError(t, err)
	var all []*time.Location
	seen := map[string]bool{}
	for _, f := range archive.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		file, err := f.Open()
		require.NoError(t, err)
		rules, err := io.ReadAll(file)
		require.NoError(t, err)
		if seen[string(rules)] {
			continue
		}
		seen[string(rules)] = true
		zone, err := time.LoadLocationFromTZData(f.Name, rules)
		require.NoError(t, err)
		all = append(all, zone)
	}
	require.Greater(t, len(all), 300)
	return all
}

func zone(t require.TestingT, name string) *time.Location {
	z, err := time.LoadLocation(name)
	require.NoError(t, err)
	return z
}

func instant(t require.TestingT, text string) time.Time {
	at, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return at
}

// anchored is the calendar of a zone whose billing cycles start on that day of the month, as far as months have it.
func anchored(zone *time.Location, day int) calendar.Calendar {
	return calendar.Calendar{Zone: zone, Anchor: time.Date(2020, 1, day, 12, 0, 0, 0, zone)}
}

// nextChange is when the zone's clock is changed next, or the end of a year; zero where it never is.
func nextChange(at time.Time, zone *time.Location) time.Time {
	_, end := at.In(zone).ZoneBounds()
	if !end.IsZero() && !end.After(at) {
		return time.Date(at.UTC().Year()+1, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return end
}

// changes are all of a zone's changes within the span.
func changes(zone *time.Location, from, to time.Time) (all []time.Time) {
	for at := nextChange(from, zone); !at.IsZero() && at.Before(to); at = nextChange(at, zone) {
		all = append(all, at)
	}
	return all
}

// tiles says what is wrong with the windows around t; "" if nothing is.
func tiles(c calendar.Calendar, p catalog.Period, t time.Time) string {
	w := c.Window(p, t)
	if !w.Contains(t) || w.Start.Location() != time.UTC || w.End.Location() != time.UTC {
		return fmt.Sprintf("%s: the %s of %s is [%s, %s)", c.Zone, p, t.In(c.Zone), w.Start.In(c.Zone), w.End.In(c.Zone))
	}
	if first := c.Window(p, w.Start); first != w {
		return fmt.Sprintf("%s: the %s of %s is [%s, %s), that of its start [%s, %s)", c.Zone, p, t.In(c.Zone), w.Start, w.End, first.Start, first.End)
	}
	if last := c.Window(p, w.End.Add(-1)); last != w {
		return fmt.Sprintf("%s: the %s of %s is [%s, %s), that of its last instant [%s, %s)", c.Zone, p, t.In(c.Zone), w.Start, w.End, last.Start, last.End)
	}
	if next := c.Window(p, w.End); !next.Start.Equal(w.End) {
		return fmt.Sprintf("%s: after the %s [%s, %s) comes [%s, %s)", c.Zone, p, w.Start, w.End, next.Start, next.End)
	}
	if previous := c.Window(p, w.Start.Add(-1)); !previous.End.Equal(w.Start) {
		return fmt.Sprintf("%s: before the %s [%s, %s) is [%s, %s)", c.Zone, p, w.Start, w.End, previous.Start, previous.End)
	}
	return ""
}

// startsOn says why at is not when the zone's clock first reads midnight of the date or, where it skips that, more; "" if
// it is. It asks only what the clock reads, so it shares nothing with what it checks.
func startsOn(year int, month time.Month, day int, at time.Time, zone *time.Location) string {
	label := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	reads := func(at time.Time) time.Time {
		l := at.In(zone)
		return time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), l.Second(), l.Nanosecond(), time.UTC)
	}
	if reads(at).Before(label) {
		return fmt.Sprintf("%s: %s is before %s", zone, at.In(zone), label.Format(time.DateOnly))
	}
	for _, earlier := range []time.Duration{1, time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour, 24 * time.Hour} {
		if before := at.Add(-earlier); !reads(before).Before(label) {
			return fmt.Sprintf("%s: %s is not the first of %s, %s is as well", zone, at.In(zone), label.Format(time.DateOnly), before.In(zone))
		}
	}
	if !reads(at).Equal(label) && reads(at).Sub(reads(at.Add(-1))) == 1 {
		return fmt.Sprintf("%s: %s is not midnight, and the clock skips nothing there", zone, at.In(zone))
	}
	return ""
}

func TestWindows(t *testing.T) {
	for _, c := range []struct {
		name, zone string
		period     catalog.Period
		at         string
		start, end string
	}{
		{"a day of 23 hours", "Europe/Berlin", catalog.Day, "2026-03-29T12:00:00+02:00", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"},
		{"a day of 25 hours", "Europe/Berlin", catalog.Day, "2026-10-25T12:00:00+01:00", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"},
		{"the first of two equal hours", "Europe/Berlin", catalog.Hour, "2026-10-25T02:30:00+02:00", "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"},
		{"the second of two equal hours", "Europe/Berlin", catalog.Hour, "2026-10-25T02:30:00+01:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"},
		{"the hour before a gap", "Europe/Berlin", catalog.Hour, "2026-03-29T01:30:00+01:00", "2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"},
		{"the minute before a gap", "Europe/Berlin", catalog.Minute, "2026-03-29T01:59:59.999+01:00", "2026-03-29T01:59:00+01:00", "2026-03-29T03:00:00+02:00"},
		{"the last minute of the first of two equal hours", "Europe/Berlin", catalog.Minute, "2026-10-25T02:59:01+02:00", "2026-10-25T02:59:00+02:00", "2026-10-25T02:00:00+01:00"},
		{"midnight is skipped in Santiago", "America/Santiago", catalog.Day, "2026-09-06T12:00:00-03:00", "2026-09-06T01:00:00-03:00", "2026-09-07T00:00:00-03:00"},
		{"the day before a skipped midnight", "America/Santiago", catalog.Day, "2026-09-05T23:59:59-04:00", "2026-09-05T00:00:00-04:00", "2026-09-06T01:00:00-03:00"},
		{"midnight is skipped in Cairo", "Africa/Cairo", catalog.Day, "2026-04-24T12:00:00+03:00", "2026-04-24T01:00:00+03:00", "2026-04-25T00:00:00+03:00"},
		{"midnight is skipped in Beirut", "Asia/Beirut", catalog.Day, "2026-03-29T12:00:00+03:00", "2026-03-29T01:00:00+03:00", "2026-03-30T00:00:00+03:00"},
		{"midnight is skipped in São Paulo", "America/Sao_Paulo", catalog.Day, "2018-11-04T12:00:00-02:00", "2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"},
		{"midnight comes twice", "America/Havana", catalog.Day, "2026-11-01T00:30:00-05:00", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"},
		{"a month whose first midnight comes twice", "America/Havana", catalog.Month, "2026-11-01T00:30:00-05:00", "2026-11-01T00:00:00-04:00", "2026-12-01T00:00:00-05:00"},
		{"back over midnight", "America/Sao_Paulo", catalog.Day, "2018-02-17T23:30:00-03:00", "2018-02-17T00:00:00-02:00", "2018-02-18T00:00:00-03:00"},
		{"back over a midnight that was read", "America/St_Johns", catalog.Day, "2010-11-06T23:30:00-03:30", "2010-11-07T00:00:00-02:30", "2010-11-08T00:00:00-03:30"},
		{"the day before a skipped one", "Pacific/Apia", catalog.Day, "2011-12-29T12:00:00-10:00", "2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00"},
		{"the day after a skipped one", "Pacific/Apia", catalog.Day, "2011-12-31T00:00:00+14:00", "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00"},
		{"a month that lacks a day", "Pacific/Apia", catalog.Month, "2011-12-31T00:00:00+14:00", "2011-12-01T00:00:00-10:00", "2012-01-01T00:00:00+14:00"},
		{"half an hour forward", "Australia/Lord_Howe", catalog.Hour, "2026-10-04T02:40:00+11:00", "2026-10-04T02:30:00+11:00", "2026-10-04T03:00:00+11:00"},
		{"half an hour back", "Australia/Lord_Howe", catalog.Hour, "2026-04-05T01:45:00+10:30", "2026-04-05T01:00:00+11:00", "2026-04-05T02:00:00+10:30"},
		{"a day of 23 and a half hours", "Australia/Lord_Howe", catalog.Day, "2026-10-04T12:00:00+11:00", "2026-10-04T00:00:00+10:30", "2026-10-05T00:00:00+11:00"},
		{"a day of 24 and a half hours", "Australia/Lord_Howe", catalog.Day, "2026-04-05T12:00:00+10:30", "2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30"},
		{"an hour of quarters", "Asia/Kathmandu", catalog.Hour, "2026-04-05T12:34:56+05:45", "2026-04-05T12:00:00+05:45", "2026-04-05T13:00:00+05:45"},
		{"a day of quarters", "Asia/Kathmandu", catalog.Day, "2026-04-04T18:15:00Z", "2026-04-05T00:00:00+05:45", "2026-04-06T00:00:00+05:45"},
		{"a month of quarters", "Asia/Kathmandu", catalog.Month, "2026-02-10T00:00:00+05:45", "2026-02-01T00:00:00+05:45", "2026-03-01T00:00:00+05:45"},
		{"a minute", "Asia/Kathmandu", catalog.Minute, "2026-04-05T12:34:56.789+05:45", "2026-04-05T12:34:00+05:45", "2026-04-05T12:35:00+05:45"},
		{"a minute of a clock with odd seconds", "Africa/Monrovia", catalog.Minute, "1970-01-01T00:00:00Z", "1969-12-31T23:59:30Z", "1970-01-01T00:00:30Z"},
		{"the minute after such a clock was put right", "Africa/Monrovia", catalog.Minute, "1972-01-07T00:44:31Z", "1972-01-07T00:44:30Z", "1972-01-07T00:45:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := zone(t, c.zone)
			w := calendar.Calendar{Zone: z}.Window(c.period, instant(t, c.at))
			require.Equal(t, calendar.Window{Start: instant(t, c.start).UTC(), End: instant(t, c.end).UTC()}, w, "[%s, %s)", w.Start.In(z), w.End.In(z))
		})
	}
}

func TestBillingCycles(t *testing.T) {
	for _, c := range []struct {
		name, zone, anchor string
		at                 string
		starts             []string // of the cycle of at and of those after it
	}{
		{"the 31st", "UTC", "2026-01-31T15:04:05Z", "2026-01-31T00:00:00Z",
			[]string{"2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z", "2026-04-30T00:00:00Z", "2026-05-31T00:00:00Z"}},
		{"the 31st in a leap year", "UTC", "2026-01-31T15:04:05Z", "2028-02-15T00:00:00Z",
			[]string{"2028-01-31T00:00:00Z", "2028-02-29T00:00:00Z", "2028-03-31T00:00:00Z"}},
		{"before the anchor", "UTC", "2026-01-31T15:04:05Z", "2025-11-29T23:59:59.999Z",
			[]string{"2025-10-31T00:00:00Z", "2025-11-30T00:00:00Z", "2025-12-31T00:00:00Z", "2026-01-31T00:00:00Z"}},
		{"long before the anchor", "UTC", "2026-01-31T15:04:05Z", "1904-03-01T00:00:00Z",
			[]string{"1904-02-29T00:00:00Z", "1904-03-31T00:00:00Z"}},
		{"29 February", "Europe/Berlin", "2024-02-29T10:00:00Z", "2025-02-01T00:00:00Z",
			[]string{"2025-01-29T00:00:00+01:00", "2025-02-28T00:00:00+01:00", "2025-03-29T00:00:00+01:00", "2025-04-29T00:00:00+02:00"}},
		{"29 February in a leap year", "Europe/Berlin", "2024-02-29T10:00:00Z", "2028-02-28T23:59:59+01:00",
			[]string{"2028-01-29T00:00:00+01:00", "2028-02-29T00:00:00+01:00", "2028-03-29T00:00:00+02:00"}},
		{"the date is the zone's", "Asia/Kathmandu", "2026-01-30T18:15:00Z", "2026-02-28T00:00:00+05:45",
			[]string{"2026-02-28T00:00:00+05:45", "2026-03-31T00:00:00+05:45"}},
		{"midnight is skipped in Santiago", "America/Santiago", "2026-01-06T12:00:00Z", "2026-09-05T23:59:59-04:00",
			[]string{"2026-08-06T00:00:00-04:00", "2026-09-06T01:00:00-03:00", "2026-10-06T00:00:00-03:00"}},
		{"midnight is skipped in Cairo", "Africa/Cairo", "2026-04-24T12:00:00Z", "2026-04-24T01:00:00+03:00",
			[]string{"2026-04-24T01:00:00+03:00", "2026-05-24T00:00:00+03:00"}},
		{"midnight is skipped in Beirut", "Asia/Beirut", "2025-05-29T12:00:00Z", "2026-03-28T23:59:59+02:00",
			[]string{"2026-02-28T00:00:00+02:00", "2026-03-29T01:00:00+03:00", "2026-04-29T00:00:00+03:00"}},
		{"midnight comes twice", "America/Havana", "2026-01-01T12:00:00-05:00", "2026-11-01T00:30:00-05:00",
			[]string{"2026-11-01T00:00:00-04:00", "2026-12-01T00:00:00-05:00"}},
		{"the day is skipped", "Pacific/Apia", "2011-08-30T12:00:00-11:00", "2011-12-29T23:59:59-10:00",
			[]string{"2011-11-30T00:00:00-10:00", "2011-12-31T00:00:00+14:00", "2012-01-30T00:00:00+14:00"}},
		{"the day after the skipped one", "Pacific/Apia", "2011-08-31T12:00:00-11:00", "2011-12-29T23:59:59-10:00",
			[]string{"2011-11-30T00:00:00-10:00", "2011-12-31T00:00:00+14:00", "2012-01-31T00:00:00+14:00"}},
		{"half hours", "Australia/Lord_Howe", "2026-04-05T12:00:00Z", "2026-04-05T01:45:00+10:30",
			[]string{"2026-04-05T00:00:00+11:00", "2026-05-05T00:00:00+10:30"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := zone(t, c.zone)
			cal := calendar.Calendar{Zone: z, Anchor: instant(t, c.anchor)}
			w := cal.Window(catalog.BillingCycle, instant(t, c.at))
			require.True(t, w.Contains(instant(t, c.at)))
			for _, start := range c.starts {
				require.Equal(t, start, w.Start.In(z).Format(time.RFC3339))
				w = cal.Window(catalog.BillingCycle, w.End)
			}
		})
	}
}

func TestWindowsAreHalfOpen(t *testing.T) {
	at := time.Date(2026, 4, 5, 0, 0, 0, 0, time.UTC)
	w := calendar.Calendar{}.Window(catalog.Day, at)
	require.Equal(t, calendar.Window{Start: at, End: at.AddDate(0, 0, 1)}, w)
	for d, in := range map[time.Duration]bool{-1: false, 0: true, 24*time.Hour - 1: true, 24 * time.Hour: false} {
		require.Equal(t, in, w.Contains(at.Add(d)), d)
	}
}

func TestWithoutAnAnchorACycleIsAMonth(t *testing.T) {
	all := zones(t)
	rapid.Check(t, func(t *rapid.T) {
		c := calendar.Calendar{Zone: rapid.SampledFrom(all).Draw(t, "zone")}
		at := time.Unix(rapid.Int64Range(earliest.Unix(), latest.Unix()).Draw(t, "at"), 0)
		require.Equal(t, c.Window(catalog.Month, at), c.Window(catalog.BillingCycle, at))
	})
}

func TestUnknownPeriodsPanic(t *testing.T) {
	require.PanicsWithValue(t, `calendar: unknown period "fortnight"`, func() { calendar.Calendar{}.Window("fortnight", earliest) })
}

// Around every change of every zone's clock, and some way from any. The cycle's anchors are those that have a boundary
// there; away from changes, one offset is like any other.
func TestWindowsTileTimeInEveryZone(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for _, z := range zones(t) {
		around := changes(z, time.Date(1840, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2041, 1, 1, 0, 0, 0, 0, time.UTC))
		around = append(around,
			time.Date(2026, 1, 1, 0, 0, 0, 0, z),
			time.Date(1, 1, 3, 0, 0, 0, 0, time.UTC),
			time.Date(2040, 12, 31, 6, 0, 0, 0, time.UTC), // a leap year's last day: see span
			time.Date(2100, 3, 1, 0, 0, 0, 0, z),          // not a leap year
			time.Date(9999, 12, 1, 0, 0, 0, 0, time.UTC))
		for _, change := range around {
			for _, d := range []time.Duration{-25 * time.Hour, -1, 0, 31 * time.Minute, 25 * time.Hour, time.Duration(random.Int64N(int64(40 * 24 * time.Hour)))} {
				at := change.Add(d)
				c := anchored(z, at.In(z).Day())
				for _, p := range periods {
					if wrong := tiles(c, p, at); wrong != "" {
						t.Fatalf("%s (anchor %s)", wrong, c.Anchor)
					}
				}
			}
		}
	}
}

// cycleOf says what is wrong with the billing cycle that starts in that month, in a calendar that is anchored on that day;
// "" if nothing is.
func cycleOf(c calendar.Calendar, day, year int, month time.Month) string {
	length := func(month time.Month) int { return time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day() }
	on, next := min(day, length(month)), min(day, length(month+1))
	inside := time.Date(year, month, on+2, 12, 0, 0, 0, time.UTC) // wherever it is noon then, the date is over
	w := c.Window(catalog.BillingCycle, inside)
	switch {
	case !w.Contains(inside):
		return fmt.Sprintf("%s: [%s, %s) does not contain %s", c.Zone, w.Start, w.End, inside)
	case c.Window(catalog.BillingCycle, c.Window(catalog.BillingCycle, w.Start.Add(-1)).End) != w:
		return fmt.Sprintf("%s: [%s, %s) is not what follows the cycle before it", c.Zone, w.Start, w.End)
	case w.Start.Unix()%900 != 0:
		return fmt.Sprintf("%s: a cycle starts at %s", c.Zone, w.Start)
	}
	if wrong := startsOn(year, month, on, w.Start, c.Zone); wrong != "" {
		return wrong
	}
	return startsOn(year, month+1, next, w.End, c.Zone)
}

// Wherever a clock is changed, the cycles of all anchors that start near the change do so on their dates. Between changes,
// one offset is like any other; from 2040 on clocks follow rules that do not change, and every seventh change will do.
func TestCyclesStartOnTheirDatesAtEveryChange(t *testing.T) {
	t.Parallel()
	for _, z := range zones(t) {
		for i, change := range changes(z, earliest, latest) {
			if change.Year() >= 2040 && i%7 != 0 {
				continue
			}
			for d := -1; d <= 1; d++ {
				year, month, date := change.In(z).AddDate(0, 0, d).Date()
				for day := date; day <= 31; day++ { // 31 starts on the 28th in some months
					if wrong := cycleOf(anchored(z, day), day, year, month); wrong != "" {
						t.Fatalf("%s (anchor on %d)", wrong, day)
					}
					if time.Date(year, month, date+1, 0, 0, 0, 0, time.UTC).Month() == month {
						break
					}
				}
			}
		}
	}
}

// Any zone, any anchor, and any ten years in a row.
func TestCyclesAreThoseOfTheAnchor(t *testing.T) {
	t.Parallel()
	all := zones(t)
	rapid.Check(t, func(t *rapid.T) {
		z := rapid.SampledFrom(all).Draw(t, "zone")
		c := calendar.Calendar{Zone: z, Anchor: time.Unix(rapid.Int64Range(earliest.Unix(), latest.Unix()).Draw(t, "anchor"), 0)}
		if rapid.Bool().Draw(t, "late in its month") {
			year, month, _ := c.Anchor.In(z).Date()
			c.Anchor = time.Date(year, month, rapid.IntRange(28, 31).Draw(t, "day"), 12, 0, 0, 0, z)
		}
		first := rapid.IntRange(earliest.Year(), latest.Year()-10).Draw(t, "year")
		for month := range time.Month(120) {
			if wrong := cycleOf(c, c.Anchor.In(z).Day(), first, 1+month); wrong != "" {
				t.Fatal(wrong)
			}
		}
		year, month, day := c.Anchor.In(z).Date()
		require.Empty(t, startsOn(year, month, day, c.Window(catalog.BillingCycle, c.Anchor).Start, z))
	})
}

// Counts by quarter of an hour can be added up to windows. This is what makes that exact, and where it is not.
func TestWindowsAreWholeQuartersOfAnHour(t *testing.T) {
	t.Parallel()
	// Clocks that were changed at one minute past midnight: an hour of that night is off by minutes.
	inexact := map[string]bool{"America/St_Johns": true, "Canada/Newfoundland": true, "America/Goose_Bay": true, "America/Moncton": true,
		"Antarctica/Casey": true, "Asia/Gaza": true, "Asia/Hebron": true}
	for _, z := range zones(t) {
		for _, change := range changes(z, earliest, latest) {
			c := anchored(z, change.In(z).Day())
			for _, p := range periods[1:] {
				at, before := c.Window(p, change), c.Window(p, change.Add(-1))
				for _, bound := range []time.Time{before.Start, at.Start, at.End} {
					if bound.Unix()%900 != 0 && (p != catalog.Hour || !inexact[z.String()]) {
						t.Fatalf("%s: the %s of a change starts at %s", z, p, bound.In(z))
					}
				}
			}
		}
	}
}

func TestWindowDoesNotAllocate(t *testing.T) {
	c := anchored(zone(t, "America/Santiago"), 31)
	at := time.Date(2041, 9, 6, 12, 0, 0, 0, time.UTC)
	for _, p := range periods {
		require.Zero(t, testing.AllocsPerRun(100, func() { c.Window(p, at) }), p)
	}
}

func BenchmarkWindow(b *testing.B) {
	c := anchored(zone(b, "America/Santiago"), 31)
	at := time.Date(2026, 9, 6, 12, 0, 0, 0, time.UTC)
	for _, p := range periods {
		b.Run(string(p), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Window(p, at)
			}
		})
	}
}
