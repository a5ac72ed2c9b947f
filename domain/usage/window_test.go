package usage_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/usage"
)

var granularities = []usage.Granularity{usage.Hour, usage.Day, usage.Month}

// zones are all zones that Go knows: those of its own copy of the IANA database.
func zones(t testing.TB) []*time.Location {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(runtime.GOROOT(), "lib", "time", "zoneinfo.zip")) //nolint:staticcheck // a test runs where it was built
	require.NoError(t, err)
	archive, err := zip.NewReader(bytes.NewReader(text), int64(len(text)))
	require.NoError(t, err)
	var all []*time.Location
	for _, f := range archive.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		zone, err := time.LoadLocation(f.Name)
		require.NoError(t, err)
		all = append(all, zone)
	}
	require.Greater(t, len(all), 400)
	return all
}

// interesting are instants around every change of a zone's clock, and some far from any.
func interesting(zone *time.Location, random *rand.Rand) (instants []time.Time) {
	near := func(t time.Time) {
		for _, d := range []time.Duration{-49 * time.Hour, -24 * time.Hour, -61 * time.Minute, -time.Minute, -time.Microsecond, 0, time.Microsecond, 31 * time.Minute, 2 * time.Hour, 25 * time.Hour} {
			instants = append(instants, t.Add(d))
		}
		instants = append(instants, t.Add(time.Duration(random.Int64N(int64(40*24*time.Hour)))))
	}
	at := time.Date(1880, 1, 1, 0, 0, 0, 0, time.UTC)
	for at.Year() < 2045 {
		end := nextChange(at, zone)
		if end.IsZero() {
			break
		}
		near(end)
		at = end
	}
	near(time.Date(2026, 1, 1, 0, 0, 0, 0, zone))
	near(time.Date(1, 1, 3, 0, 0, 0, 0, time.UTC))
	near(time.Date(2040, 12, 31, 6, 0, 0, 0, time.UTC)) // see span
	near(time.Date(9999, 12, 1, 0, 0, 0, 0, time.UTC))
	return instants
}

// nextChange is when the zone's clock is changed next, or the end of a year; zero where it never is.
func nextChange(at time.Time, zone *time.Location) time.Time {
	_, end := at.In(zone).ZoneBounds()
	if !end.IsZero() && !end.After(at) {
		return time.Date(at.UTC().Year()+1, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return end
}

func TestWindowsTileTimeInEveryZone(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, zone := range zones(t) {
		for _, at := range interesting(zone, random) {
			for _, g := range granularities {
				start, end := g.Start(at, zone), g.End(at, zone)
				if start.After(at) || !end.After(at) {
					t.Fatalf("%s: the %s of %s is [%s, %s)", zone, g, at.In(zone), start.In(zone), end.In(zone))
				}
				if again := g.Start(start, zone); !again.Equal(start) {
					t.Fatalf("%s: the %s of %s starts at %s, whose own starts at %s", zone, g, at.In(zone), start.In(zone), again.In(zone))
				}
				if e := g.End(start, zone); !e.Equal(end) {
					t.Fatalf("%s: the %s of %s ends at %s, that of its start %s at %s", zone, g, at.In(zone), end.In(zone), start.In(zone), e.In(zone))
				}
				if next := g.Start(end, zone); !next.Equal(end) {
					t.Fatalf("%s: after the %s [%s, %s) comes one that starts at %s", zone, g, start.In(zone), end.In(zone), next.In(zone))
				}
				if before := g.End(start.Add(-1), zone); !before.Equal(start) {
					t.Fatalf("%s: before the %s [%s, %s) is one that ends at %s", zone, g, start.In(zone), end.In(zone), before.In(zone))
				}
			}
		}
	}
}

// The usage read model counts in quarters of an hour. This is what makes that exact, and where it is not.
func TestWindowsAreWholeQuartersOfAnHour(t *testing.T) {
	// Clocks that were changed at one minute past midnight: an hour of that night is off by minutes.
	inexact := map[string]bool{"America/St_Johns": true, "Canada/Newfoundland": true, "America/Goose_Bay": true, "America/Moncton": true,
		"Antarctica/Casey": true, "Asia/Gaza": true, "Asia/Hebron": true}
	for _, zone := range zones(t) {
		for at := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() < 2040; {
			end := nextChange(at, zone)
			if end.IsZero() {
				break
			}
			for _, g := range granularities {
				for _, bound := range []time.Time{g.Start(end, zone), g.End(end, zone), g.Start(end.Add(-1), zone)} {
					if bound.Unix()%900 != 0 && (g != usage.Hour || !inexact[zone.String()]) {
						t.Fatalf("%s: a %s starts at %s", zone, g, bound.In(zone))
					}
				}
			}
			at = end
		}
	}
}

func TestWindowsAroundClockChanges(t *testing.T) {
	for _, c := range []struct {
		name, zone  string
		granularity usage.Granularity
		at          string
		start, end  string
	}{
		{"a day of 23 hours", "Europe/Berlin", usage.Day, "2026-03-29T12:00:00+02:00", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"},
		{"a day of 25 hours", "Europe/Berlin", usage.Day, "2026-10-25T12:00:00+01:00", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"},
		{"the first of two equal hours", "Europe/Berlin", usage.Hour, "2026-10-25T02:30:00+02:00", "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"},
		{"the second of two equal hours", "Europe/Berlin", usage.Hour, "2026-10-25T02:30:00+01:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"},
		{"the hour before a gap", "Europe/Berlin", usage.Hour, "2026-03-29T01:30:00+01:00", "2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"},
		{"midnight is skipped", "America/Sao_Paulo", usage.Day, "2018-11-04T12:00:00-02:00", "2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"},
		{"midnight comes twice", "America/Havana", usage.Day, "2026-11-01T00:30:00-05:00", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"},
		{"back over midnight", "America/Sao_Paulo", usage.Day, "2018-02-17T23:30:00-03:00", "2018-02-17T00:00:00-02:00", "2018-02-18T00:00:00-03:00"},
		{"a day is skipped", "Pacific/Apia", usage.Day, "2011-12-29T12:00:00-10:00", "2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00"},
		{"half an hour forward", "Australia/Lord_Howe", usage.Hour, "2026-10-04T02:40:00+11:00", "2026-10-04T02:30:00+11:00", "2026-10-04T03:00:00+11:00"},
		{"half an hour back", "Australia/Lord_Howe", usage.Hour, "2026-04-05T01:45:00+10:30", "2026-04-05T01:00:00+11:00", "2026-04-05T02:00:00+10:30"},
		{"quarters", "Asia/Kathmandu", usage.Hour, "2026-04-05T12:34:56+05:45", "2026-04-05T12:00:00+05:45", "2026-04-05T13:00:00+05:45"},
		{"a month", "Asia/Kathmandu", usage.Month, "2026-02-10T00:00:00+05:45", "2026-02-01T00:00:00+05:45", "2026-03-01T00:00:00+05:45"},
	} {
		t.Run(c.name, func(t *testing.T) {
			zone, err := time.LoadLocation(c.zone)
			require.NoError(t, err)
			at, err := time.Parse(time.RFC3339, c.at)
			require.NoError(t, err)
			require.Equal(t, c.start, c.granularity.Start(at, zone).In(zone).Format(time.RFC3339))
			require.Equal(t, c.end, c.granularity.End(at, zone).In(zone).Format(time.RFC3339))
		})
	}
}

func TestWindowsOfASpan(t *testing.T) {
	all := zones(t)
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom(all).Draw(t, "zone")
		g := rapid.SampledFrom(granularities).Draw(t, "granularity")
		from := time.Unix(rapid.Int64Range(-1e9, 3e9).Draw(t, "from"), 0)
		to := from.Add(time.Duration(rapid.Int64Range(1, int64(90*24*time.Hour)).Draw(t, "span")))
		bounds, err := g.Windows(from, to, zone)
		require.NoError(t, err)
		require.False(t, bounds[0].After(from))
		require.True(t, bounds[1].After(from))
		require.True(t, bounds[len(bounds)-2].Before(to))
		require.False(t, bounds[len(bounds)-1].Before(to))
		for i := range bounds[1:] {
			require.True(t, bounds[i].Before(bounds[i+1]))
			require.Equal(t, bounds[i+1], g.End(bounds[i], zone))
		}
	})
}

func TestWindowsAreBounded(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	exact := from.Add(usage.MaxWindows * time.Hour)
	bounds, err := usage.Hour.Windows(from, exact, time.UTC)
	require.NoError(t, err)
	require.Len(t, bounds, usage.MaxWindows+1)
	for _, to := range []time.Time{exact.Add(1), from, from.Add(-time.Hour), from.AddDate(5000, 0, 0)} {
		_, err := usage.Hour.Windows(from, to, time.UTC)
		var bad *invalid.Error
		require.True(t, errors.As(err, &bad), "%s", to)
	}
}

func TestPlan(t *testing.T) {
	good := usage.Query{Tenant: "acme", From: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)}
	q, windows, err := good.Plan()
	require.NoError(t, err)
	require.Equal(t, usage.Day, q.Granularity)
	require.Equal(t, usage.DefaultLimit, q.Limit)
	require.Equal(t, time.UTC, q.Location)
	require.Len(t, windows, 32)
	for pointer, change := range map[string]func(*usage.Query){
		"/granularity": func(q *usage.Query) { q.Granularity = "week" },
		"/limit":       func(q *usage.Query) { q.Limit = -1 },
		"/groupBy":     func(q *usage.Query) { q.GroupBy = []string{"model", "model"} },
		"/from":        func(q *usage.Query) { q.From = q.To },
		"/to":          func(q *usage.Query) { q.To = q.To.AddDate(9000, 0, 0) },
	} {
		bad := good
		change(&bad)
		_, _, err := bad.Plan()
		var e *invalid.Error
		require.ErrorAs(t, err, &e, pointer)
		require.Equal(t, pointer, e.Fields[0].Pointer)
	}
}
