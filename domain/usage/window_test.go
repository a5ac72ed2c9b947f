package usage_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/usage"
)

var granularities = []usage.Granularity{usage.Hour, usage.Day, usage.Month}

// The rules of windows are package calendar's; these are a few zones whose clocks do odd things.
var odd = []string{"UTC", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "Africa/Monrovia"}

func zone(t require.TestingT, name string) *time.Location {
	z, err := time.LoadLocation(name)
	require.NoError(t, err)
	return z
}

func TestGranularitiesAreWindowsOfTheCalendar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := calendar.Calendar{Zone: zone(t, rapid.SampledFrom(odd).Draw(t, "zone"))}
		at := time.Unix(rapid.Int64Range(-1e9, 3e9).Draw(t, "at"), 0)
		for g, p := range map[usage.Granularity]catalog.Period{usage.Hour: catalog.Hour, usage.Day: catalog.Day, usage.Month: catalog.Month} {
			require.Equal(t, c.Window(p, at), calendar.Window{Start: g.Start(at, c.Zone), End: g.End(at, c.Zone)})
		}
	})
}

func TestWindowsOfASpan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone := zone(t, rapid.SampledFrom(odd).Draw(t, "zone"))
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
