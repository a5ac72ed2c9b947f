package api

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/limit"
	"github.com/tollgate-io/tollgate/domain/money"
)

func TestRateLimitHeaders(t *testing.T) {
	at := decodeClock
	after := at.Add
	n := money.MustParse
	for name, c := range map[string]struct {
		allowed                   bool
		part                      event.LimitPart
		policy, limit, retryAfter string
	}{
		"quota": {true, event.LimitPart{Limit: "tokens_per_day", Kind: event.QuotaLimit, Max: n("200000"), Used: n("199600"), WindowStart: after(-23 * time.Hour), WindowEnd: after(time.Hour), ResetAt: after(time.Hour)},
			`"tokens_per_day";q=200000;w=86400`, `"tokens_per_day";r=400;t=3600`, ""},
		"denied": {false, event.LimitPart{Limit: "a", Kind: event.RateLimit, Denied: true, Max: n("2"), Used: n("2"), WindowStart: after(-2 * time.Second), WindowEnd: at, ResetAt: after(1001 * time.Millisecond)},
			`"a";q=2;w=2`, `"a";r=0;t=2`, "2"},
		"denied for a moment": {false, event.LimitPart{Limit: "a", Kind: event.RateLimit, Denied: true, Max: n("2"), Used: n("2"), WindowStart: after(-500 * time.Millisecond), WindowEnd: at, ResetAt: after(time.Millisecond)},
			`"a";q=2;w=1`, `"a";r=0;t=1`, "1"},
		"denied for ever": {false, event.LimitPart{Limit: "a", Kind: event.QuotaLimit, Denied: true, Max: n("2"), WindowStart: at, WindowEnd: after(time.Minute)},
			`"a";q=2;w=60`, `"a";r=2`, ""},
		"fractions are rounded down": {true, event.LimitPart{Limit: "a", Kind: event.BudgetLimit, Max: n("10.99"), Used: n("0.01"), WindowStart: at, WindowEnd: after(1500 * time.Millisecond)},
			`"a";q=10;w=2`, `"a";r=10`, ""},
		"more than an integer of the format": {true, event.LimitPart{Limit: "a", Kind: event.QuotaLimit, Max: n("999999999999999999"), WindowStart: at, WindowEnd: after(time.Minute)},
			`"a";q=999999999999999;w=60`, `"a";r=999999999999999`, ""},
		"more than a machine word": {true, event.LimitPart{Limit: "a", Kind: event.QuotaLimit, Max: n("999999999999999999.999999999"), WindowStart: at, WindowEnd: after(time.Minute)},
			`"a";q=999999999999999;w=60`, `"a";r=999999999999999`, ""},
		"nothing is left":     {true, event.LimitPart{Limit: "a", Kind: event.QuotaLimit, Max: n("1"), Used: n("5"), WindowStart: at, WindowEnd: after(time.Minute)}, `"a";q=1;w=60`, `"a";r=0`, ""},
		"concurrency":         {true, event.LimitPart{Limit: "s", Kind: event.ConcurrencyLimit, Max: n("5"), Held: n("1")}, `"s";q=5;qu="concurrent-requests"`, `"s";r=4`, ""},
		"quotes":              {true, event.LimitPart{Limit: "a\"\\\né", Kind: event.ConcurrencyLimit, Max: n("5")}, `"a\"\\___";q=5;qu="concurrent-requests"`, `"a\"\\___";r=5`, ""},
		"access":              {false, event.LimitPart{Limit: "a", Kind: event.AccessLimit, Denied: true}, "", "", ""},
		"observed":            {true, event.LimitPart{Limit: "a", Kind: event.QuotaLimit, Observed: true, Denied: true, Max: n("5"), WindowStart: at, WindowEnd: after(time.Minute)}, "", "", ""},
		"abuse has no number": {false, event.LimitPart{Limit: "a", Kind: event.AbuseGuardLimit, Denied: true, ResetAt: after(time.Minute)}, "", "", "60"},
	} {
		e := event.LimitDecided{DecidedAt: at, Allowed: c.allowed, Parts: []event.LimitPart{c.part}}
		h := http.Header{}
		setRateLimits(h, &e, limit.Binding(&e))
		assert.Equal(t, c.policy, h.Get("RateLimit-Policy"), name)
		assert.Equal(t, c.limit, h.Get("RateLimit"), name)
		assert.Equal(t, c.retryAfter, h.Get("Retry-After"), name)
	}
}

func TestHostileHolds(t *testing.T) {
	for hold, pointer := range map[string]string{
		`"15m"`: "/hold", `900`: "/hold", `[]`: "/hold", `{"TTL":"15m"}`: "/hold/TTL", `{"ttl":"15m","ttl":"16m"}`: "/hold/ttl", `{"ttl":900}`: "/hold/ttl",
		`{"ttl":""}`: "/hold/ttl", `{"ttl":"0s"}`: "/hold/ttl", `{"ttl":"999ms"}`: "/hold/ttl", `{"ttl":"-15m"}`: "/hold/ttl", `{"ttl":"7d1s"}`: "/hold/ttl",
		`{"ttl":"15"}`: "/hold/ttl", `{"ttl":"9999999h"}`: "/hold/ttl", `{"ttl":"\ud800"}`: "/hold/ttl", `{"ttl":"15m","until":"x"}`: "/hold/until", `{"ttl":false}`: "/hold/ttl",
	} {
		var ask limit.Ask
		err := new(decoder).check([]byte(`{"eventType":"t","sourceId":"s","quantity":-1,"hold":`+hold+`}`), "/3", decodeClock, &ask)
		var bad *invalid.Error
		if assert.ErrorAs(t, err, &bad, hold) {
			assert.Equal(t, "/3"+pointer, bad.Fields[0].Pointer, hold)
			assert.Equal(t, "/3/quantity", bad.Fields[len(bad.Fields)-1].Pointer, "all is said at once")
		}
	}
	for hold, want := range map[string]limit.Ask{
		`true`: {}, `null`: {}, `{}`: {}, `{"ttl":null}`: {}, `false`: {NoHold: true}, `{"ttl":"15m"}`: {TTL: 15 * time.Minute}, `{"ttl":"1s"}`: {TTL: time.Second},
		`{ "ttl" : "7d" }`: {TTL: 7 * 24 * time.Hour}, `{"ttl":"1h30m"}`: {TTL: 90 * time.Minute},
	} {
		var ask limit.Ask
		require.NoError(t, new(decoder).check([]byte(`{"eventType":"t","sourceId":"s","hold":`+hold+`}`), "", decodeClock, &ask), hold)
		assert.Equal(t, want.NoHold, ask.NoHold, hold)
		assert.Equal(t, want.TTL, ask.TTL, hold)
	}
}

func TestHostileFlags(t *testing.T) {
	for _, name := range []string{"upTo", "dryRun"} {
		for text, want := range map[string]bool{`true`: true, `false`: false} {
			var ask limit.Ask
			require.NoError(t, new(decoder).check([]byte(`{"eventType":"t","sourceId":"s","`+name+`":`+text+`}`), "", decodeClock, &ask))
			assert.Equal(t, want, map[string]bool{"upTo": ask.UpTo, "dryRun": ask.DryRun}[name])
		}
		for _, text := range []string{`null`, `1`, `0`, `"true"`, `{}`, `[true]`, `true,"` + name + `":true`} {
			var ask limit.Ask
			err := new(decoder).check([]byte(`{"eventType":"t","sourceId":"s","`+name+`":`+text+`}`), "/3", decodeClock, &ask)
			var bad *invalid.Error
			if assert.ErrorAs(t, err, &bad, text) {
				assert.Equal(t, "/3/"+name, bad.Fields[0].Pointer, text)
				assert.Equal(t, codeInvalidEvent, bad.Fields[0].Code, text)
			}
		}
	}
}

func TestCheckNeedsNoTime(t *testing.T) {
	for at, ok := range map[string]bool{
		``: true, `,"occurredAt":null`: true, `,"occurredAt":"2026-04-05T10:30:00Z"`: true, `,"occurredAt":"2999-01-01T00:00:00Z"`: true,
		`,"occurredAt":"soon"`: false, `,"occurredAt":1775385000`: false, `,"occurredAt":"2026-04-05T10:30:00"`: false,
	} {
		var ask limit.Ask
		err := new(decoder).check([]byte(`{"eventType":"t","sourceId":"s"`+at+`}`), "", decodeClock, &ask)
		assert.Equal(t, ok, err == nil, at)
	}
}

// FuzzCheck: nothing makes the decoder fail, and every event is a check of the same.
func FuzzCheck(f *testing.F) {
	f.Add(`{"eventType":"t","sourceId":"s","occurredAt":"2026-04-05T10:30:00Z"}`)
	f.Add(`{"tenantId":"t","eventType":"t","quantity":"1.50","sourceId":"s","data":{"gen_ai.usage.input_tokens":5},"hold":{"ttl":"15m"}}`)
	f.Add(`{"eventType":"t","sourceId":"s","hold":false}`)
	f.Fuzz(func(t *testing.T, text string) {
		var (
			s   app.Submission
			ask limit.Ask
		)
		err := new(decoder).check([]byte(text), "", decodeClock, &ask)
		if err == nil && ask.TTL != 0 && (ask.TTL < limit.MinTTL || ask.TTL > limit.MaxTTL) {
			t.Fatalf("%q holds for %s", text, ask.TTL)
		}
		if decodeErr := new(decoder).event([]byte(text), "", decodeClock, &s); decodeErr != nil {
			return
		}
		if err != nil || ask.Identity != s.Identity || !ask.Quantity.Equal(s.Quantity) || !ask.Data.Equal(s.Data) {
			t.Fatalf("the event %q is not the same check: %v", text, err)
		}
	})
}

// A fact went over its hold when more happened than was held.
func TestHoldOfAnEvent(t *testing.T) {
	format := func(used int64, s app.CheckHistory) string {
		var h app.History
		h.Original.Quantity = money.Int(used)
		text, err := json.Marshal(viewEvent(&h, &s, nil), viewOptions)
		require.NoError(t, err)
		return string(text)
	}
	assert.Contains(t, format(7, app.CheckHistory{}), `,"hold":null,"decision":null,`)
	held := event.LimitDecided{Quantity: money.Int(7), Allowed: true, Keeps: true, KeepUntil: decodeClock}
	for used, over := range map[int64]bool{6: false, 7: false, 8: true} {
		text := format(used, app.CheckHistory{Decision: &held, Hold: &held, HoldState: app.HoldSettled})
		assert.Contains(t, text, fmt.Sprintf(`,"hold":{"state":"settled","quantity":7,"expiresAt":"%s","overage":%t},"decision":{`,
			decodeClock.UTC().Format("2006-01-02T15:04:05.000Z"), over))
	}
}
