package event_test

import (
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

func ids() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.Map(rapid.StringN(1, 200, -1), norm.NFC.String),
		rapid.SampledFrom([]string{"a", "ab", "tokens_spent:x", "tenant 1", strings.Repeat("x", 200), strings.Repeat("é", 200), strings.Repeat("🙂", 200)}),
	).Filter(func(s string) bool { return event.CheckID(s) == nil })
}

func identities() *rapid.Generator[event.Identity] {
	return rapid.Custom(func(t *rapid.T) event.Identity {
		return event.Identity{Tenant: event.TenantID(ids().Draw(t, "tenant")), Type: event.Type(ids().Draw(t, "type")), Source: event.SourceID(ids().Draw(t, "source"))}
	})
}

// quantities include those whose coefficient does not fit 64 bits.
func quantities() *rapid.Generator[money.Decimal] {
	return rapid.Map(rapid.OneOf(
		rapid.StringMatching(`[1-9][0-9]{0,17}(\.[0-9]{1,9})?`),
		rapid.StringMatching(`0\.[0-9]{0,8}[1-9]`),
		rapid.SampledFrom([]string{"1", "999999999999999999.999999999", "0.000000001", "1e17", "12e-9", "9223372036.854775808", "999999999999999999"}),
	), money.MustParse)
}

func instants() *rapid.Generator[time.Time] {
	first, last := time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC).UnixMicro(), time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC).UnixMicro()
	return rapid.Map(rapid.OneOf(rapid.Int64Range(first, last), rapid.SampledFrom([]int64{first, last, 0, -1, 1})),
		func(us int64) time.Time { return time.UnixMicro(us).UTC() })
}

func dataGen() *rapid.Generator[event.Data] {
	return rapid.Custom(func(t *rapid.T) event.Data {
		return parse(t, render(rand.New(rand.NewSource(1)), objects(4).Draw(t, "data")))
	})
}

func usages() *rapid.Generator[event.Usage] {
	return rapid.Custom(func(t *rapid.T) event.Usage {
		return event.Usage{Identity: identities().Draw(t, "identity"), Quantity: quantities().Draw(t, "quantity"),
			OccurredAt: instants().Draw(t, "occurredAt"), Data: dataGen().Draw(t, "data")}
	})
}

func metadata() *rapid.Generator[event.Metadata] {
	return rapid.Custom(func(t *rapid.T) event.Metadata {
		return event.Metadata{Catalog: eventstore.Revision(rapid.Int64Range(-1, 1<<40).Draw(t, "catalog")),
			Emitter: rapid.SampledFrom([]string{"", "/a", "https://é.example"}).Draw(t, "emitter"), TraceParent: rapid.SampledFrom([]string{"", "00-a-b-01"}).Draw(t, "trace")}
	})
}

// What a well-formed event says, a store takes and the log gives back.
func TestUsageSurvivesTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u, m := usages().Draw(t, "usage"), metadata().Draw(t, "metadata")
		require.NoError(t, u.Check(u.OccurredAt))
		reason := texts().Draw(t, "reason")
		expected := eventstore.Revision(rapid.Int64Range(0, 1000).Draw(t, "expected"))
		adjusted := event.UsageAdjusted{Usage: u, Metadata: m, Quantity: quantities().Draw(t, "new quantity"), Data: dataGen().Draw(t, "new data"), Reason: reason, By: "key:a"}
		for _, c := range []struct {
			append eventstore.Append
			want   any
		}{
			{u.Append(m), event.UsageRecorded{Usage: u, Metadata: m}},
			{event.UsageVoided{Usage: u, Metadata: m, Reason: reason, By: "cli"}.Append(expected), event.UsageVoided{Usage: u, Metadata: m, Reason: reason, By: "cli"}},
			{adjusted.Append(expected), adjusted},
			{event.UsageConflicted{Usage: u}.Append(), event.UsageConflicted{Usage: u}},
		} {
			require.NoError(t, c.append.Check())
			require.Equal(t, string(u.Tenant), c.append.Tenant)
			got, err := event.Decode(recorded(c.append))
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			require.Equal(t, c.append.Events[0].Data, again(t, got, c.append.Expected).Events[0].Data)
		}
		require.Equal(t, adjusted.Data, adjusted.After().Data)
		require.Equal(t, u.Identity, adjusted.After().Identity)
	})
}

// Two identities are one stream only if all three parts are equal, however the parts are cut.
func TestIdentityIsATuple(t *testing.T) {
	cut := func(t *rapid.T, text, label string) event.Identity {
		a := rapid.IntRange(0, len(text)).Draw(t, label+" first")
		b := rapid.IntRange(a, len(text)).Draw(t, label+" second")
		return event.Identity{Tenant: event.TenantID(text[:a]), Type: event.Type(text[a:b]), Source: event.SourceID(text[b:])}
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringMatching(`[ab:\x01\x02\x03]{0,8}`), rapid.StringN(0, 300, -1)).Draw(t, "text")
		x, y := cut(t, text, "x"), cut(t, text, "y")
		require.Equal(t, x == y, x.UUID() == y.UUID())
		require.Equal(t, x == y, x.Stream() == y.Stream())
	})
	a, b := event.Identity{Tenant: "a", Type: "bc", Source: "d"}, event.Identity{Tenant: "ab", Type: "c", Source: "d"}
	require.NotEqual(t, a.UUID(), b.UUID())
}

// The derived ids are UUIDs of version 5 as every other implementation makes them.
func TestIdentityIsAUUIDv5(t *testing.T) {
	require.Equal(t, uuid.NewSHA1(uuid.MustParse("6f2d3f0c-5a0e-5d5b-9d53-1f0a6c1f7a01"), []byte("\x01t\x01a\x01s")),
		event.Identity{Tenant: "t", Type: "a", Source: "s"}.UUID())
	rapid.Check(t, func(t *rapid.T) {
		u := usages().Draw(t, "usage")
		for _, id := range []uuid.UUID{u.UUID(), u.ID()} {
			require.Equal(t, uuid.Version(5), id.Version())
			require.Equal(t, uuid.RFC4122, id.Variant())
		}
	})
}

// A retry has the same ID; a change of anything that is billed has another one; what is only kept does not count.
func TestUsageID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u, v := usages().Draw(t, "u"), usages().Draw(t, "v")
		require.Equal(t, u.ID(), u.ID())
		require.Equal(t, u.Append(metadata().Draw(t, "m")).Events[0].ID, u.Append(metadata().Draw(t, "n")).Events[0].ID)

		changed := u
		changed.Quantity = v.Quantity
		require.Equal(t, u.Quantity.Equal(v.Quantity), u.ID() == changed.ID())
		changed = u
		changed.OccurredAt = u.OccurredAt.Add(time.Duration(rapid.Int64Range(-2, 2).Draw(t, "microseconds")) * time.Microsecond)
		require.Equal(t, u.OccurredAt.Equal(changed.OccurredAt), u.ID() == changed.ID())
		changed = u
		changed.OccurredAt = u.OccurredAt.Add(999 * time.Nanosecond).In(time.FixedZone("x", 3600))
		require.Equal(t, u.ID(), changed.ID(), "the log keeps microseconds")
		changed = u
		changed.Data = v.Data
		require.Equal(t, u.Data.Equal(v.Data), u.ID() == changed.ID())
		changed = u
		changed.Identity = v.Identity
		require.Equal(t, u.Identity == v.Identity, u.ID() == changed.ID())
	})
}

// A conflict is noted once for each payload that was refused, in a stream of its own.
func TestConflictID(t *testing.T) {
	u := usageWith(parse(t, contractData))
	more := u
	more.Quantity = money.Int(2)
	a, b, c := event.UsageConflicted{Usage: u}.Append(), event.UsageConflicted{Usage: u}.Append(), event.UsageConflicted{Usage: more}.Append()
	require.Equal(t, a, b)
	require.NotEqual(t, a.Stream, c.Stream)
	require.NotEqual(t, u.Stream(), a.Stream)
}

// Streams of different things never share a name, although their keys may be equal.
func TestStreamsAreApart(t *testing.T) {
	streams := map[eventstore.StreamName]bool{event.CatalogStream: true}
	for _, s := range []eventstore.StreamName{event.TenantStream("a"), event.TenantStream("b"), event.KeyStream("a"), event.KeyStream("b"),
		event.AdminSwitched{Tenant: "a", Reason: "r", Day: "2026-01-01", By: "cli"}.Append().Stream,
		event.AdminSwitched{Tenant: "a", Reason: "r", Day: "2026-01-02", By: "cli"}.Append().Stream,
		event.AdminSwitched{Tenant: "b", Reason: "r", Day: "2026-01-01", By: "cli"}.Append().Stream} {
		require.False(t, streams[s], s)
		streams[s] = true
	}
}

func TestUsageCheck(t *testing.T) {
	now := time.Date(2026, 4, 5, 10, 30, 0, 0, time.UTC)
	good := contractUsage(t)
	for name, c := range map[string]struct {
		change   func(*event.Usage)
		pointers []string
	}{
		"good":                          {func(*event.Usage) {}, nil},
		"200 characters of four bytes":  {func(u *event.Usage) { u.Source = event.SourceID(strings.Repeat("🙂", 200)) }, nil},
		"201 characters":                {func(u *event.Usage) { u.Source = event.SourceID(strings.Repeat("x", 201)) }, []string{"/sourceId"}},
		"a megabyte":                    {func(u *event.Usage) { u.Source = event.SourceID(strings.Repeat("x", 1<<20)) }, []string{"/sourceId"}},
		"no ids":                        {func(u *event.Usage) { u.Identity = event.Identity{} }, []string{"/tenantId", "/eventType", "/sourceId"}},
		"NUL":                           {func(u *event.Usage) { u.Tenant = "a\x00" }, []string{"/tenantId"}},
		"a line break":                  {func(u *event.Usage) { u.Type = "a\nb" }, []string{"/eventType"}},
		"a mark that turns the text":    {func(u *event.Usage) { u.Type = "a\u202eb" }, []string{"/eventType"}},
		"an invisible space":            {func(u *event.Usage) { u.Type = "a\u200bb" }, []string{"/eventType"}},
		"not NFC":                       {func(u *event.Usage) { u.Type = "e\u0301" }, []string{"/eventType"}},
		"invalid UTF-8":                 {func(u *event.Usage) { u.Source = "a\xff" }, []string{"/sourceId"}},
		"the replacement character":     {func(u *event.Usage) { u.Source = "a\ufffd" }, nil},
		"nothing was used":              {func(u *event.Usage) { u.Quantity = money.Int(0) }, []string{"/quantity"}},
		"less than nothing was used":    {func(u *event.Usage) { u.Quantity = money.MustParse("-0.1") }, []string{"/quantity"}},
		"18 and 9 digits":               {func(u *event.Usage) { u.Quantity = money.MustParse("999999999999999999.999999999") }, nil},
		"19 digits":                     {func(u *event.Usage) { u.Quantity = money.MustParse("1e18") }, []string{"/quantity"}},
		"10 digits of fraction":         {func(u *event.Usage) { u.Quantity = money.MustParse("1e-10") }, []string{"/quantity"}},
		"no time":                       {func(u *event.Usage) { u.OccurredAt = time.Time{} }, []string{"/occurredAt"}},
		"5 minutes ahead":               {func(u *event.Usage) { u.OccurredAt = now.Add(event.MaxAhead) }, nil},
		"a little more":                 {func(u *event.Usage) { u.OccurredAt = now.Add(event.MaxAhead + 1) }, []string{"/occurredAt"}},
		"long ago":                      {func(u *event.Usage) { u.OccurredAt = time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC) }, nil},
		"before the first year":         {func(u *event.Usage) { u.OccurredAt = time.Date(-1, 1, 2, 0, 0, 0, 0, time.UTC) }, []string{"/occurredAt"}},
		"before it in UTC, not in zone": {func(u *event.Usage) { u.OccurredAt = time.Date(1, 1, 1, 0, 30, 0, 0, time.FixedZone("x", 3600)) }, []string{"/occurredAt"}},
		"everything": {func(u *event.Usage) { *u = event.Usage{Quantity: money.Int(-1)} },
			[]string{"/tenantId", "/eventType", "/sourceId", "/quantity", "/occurredAt"}},
	} {
		t.Run(name, func(t *testing.T) {
			u := good
			c.change(&u)
			err := u.Check(now)
			if c.pointers == nil {
				require.NoError(t, err)
				_, err := event.Decode(recorded(u.Append(event.Metadata{})))
				require.NoError(t, err)
				return
			}
			var bad *invalid.Error
			require.True(t, errors.As(err, &bad), "%v", err)
			pointers := make([]string, 0, len(bad.Fields))
			for _, f := range bad.Fields {
				pointers = append(pointers, f.Pointer)
				require.Equal(t, "invalid_event", f.Code)
				require.Less(t, len(f.Detail), 200)
			}
			require.Equal(t, c.pointers, pointers)
		})
	}
}

func TestInstant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := instants().Draw(t, "at").Add(time.Duration(rapid.IntRange(0, 999).Draw(t, "nanoseconds")))
		got := event.Instant(at.In(time.FixedZone("x", -7200)))
		require.Equal(t, time.UnixMicro(at.UnixMicro()).UTC(), got, fmt.Sprint(at))
	})
}
