package timeline_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/timeline"
	"github.com/tollgate-io/tollgate/projections"
)

var noon = time.Date(2026, 4, 5, 12, 0, 0, 0, time.UTC)

func TestDescribe(t *testing.T) {
	usage := event.Usage{
		Identity: event.Identity{Tenant: "acme", Type: "tokens_spent", Source: "call_789"}, Quantity: money.MustParse("1234567.5"),
		OccurredAt: noon.Add(-time.Hour), Data: event.NewData(map[string]any{"model": "gpt-4.1", "status": "ok"}),
	}
	plain := usage
	plain.Quantity, plain.Data = money.Int(1), event.Data{}
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	check := usage.Identity
	quota := event.LimitPart{Limit: "tokens_per_day", Kind: event.QuotaLimit, Max: money.Int(200_000), Used: money.Int(199_000), Held: money.Int(600),
		Requested: money.Int(3000), WindowStart: at(-720), WindowEnd: at(720), ResetAt: at(720)}
	denied := quota
	denied.Denied, denied.Overridden = true, true
	holding := quota
	holding.ExpiresAt, holding.Max = at(15), money.MustParse("1e6")
	over := holding
	over.Soft, over.ExpiresAt = true, at(15).Add(59*time.Second)
	decision := func(allowed bool, parts ...event.LimitPart) event.LimitDecided {
		d := event.LimitDecided{Identity: check, Quantity: money.Int(3000), DecidedAt: at(-1), Allowed: allowed, PlanVersion: "pro@3", Fingerprint: 7, Parts: parts}
		if d.Keeps = allowed; d.Keeps {
			d.KeepUntil = at(120)
		}
		return d
	}
	failed := usage
	failed.Data = event.NewData(map[string]any{"feature": "interview", "status": "failed"})
	for _, c := range []struct {
		name    string
		payload any
		kind    timeline.Kind
		summary string
		data    string
	}{
		{"usage", event.UsageRecorded{Usage: usage}, timeline.KindUsage,
			"1,234,567.5 tokens_spent reported for call_789 (model gpt-4.1).", `{"model":"gpt-4.1","status":"ok"}`},
		{"usage without data", event.UsageRecorded{Usage: plain}, timeline.KindUsage, "1 tokens_spent reported for call_789.", `{}`},
		{"usage that failed", event.UsageRecorded{Usage: failed}, timeline.KindUsage,
			"1,234,567.5 tokens_spent reported for call_789 (feature interview, status failed).", `{"feature":"interview","status":"failed"}`},
		{"void", event.UsageVoided{Usage: plain, Reason: "sent twice", By: "key:key_1"}, timeline.KindCorrection,
			"1 tokens_spent reported for call_789 taken back by API key key_1: sent twice.",
			`{"reason":"sent twice","by":"key:key_1","occurredAt":"2026-04-05T11:00:00.000Z","data":{}}`},
		{"adjustment", event.UsageAdjusted{Usage: plain, Quantity: money.Int(1000), Reason: "wrong unit!", By: "cli"}, timeline.KindCorrection,
			"tokens_spent for call_789 changed from 1 to 1,000 by an operator on the command line: wrong unit!",
			`{"reason":"wrong unit!","by":"cli","occurredAt":"2026-04-05T11:00:00.000Z","data":{},"before":{"quantity":1,"data":{}}}`},
		{"adjustment of data", event.UsageAdjusted{Usage: plain, Quantity: money.Int(1), Data: usage.Data, Reason: "model", By: "system"}, timeline.KindCorrection,
			"Details of 1 tokens_spent for call_789 changed by the system: model.",
			`{"reason":"model","by":"system","occurredAt":"2026-04-05T11:00:00.000Z","data":{"model":"gpt-4.1","status":"ok"},"before":{"quantity":1,"data":{}}}`},
		{"conflict", event.UsageConflicted{Usage: plain}, timeline.KindConflict,
			"1 tokens_spent reported for call_789 again with other content; it was refused and nothing changed.",
			`{"occurredAt":"2026-04-05T11:00:00.000Z","data":{}}`},
		{"tenant", event.TenantDefined{Tenant: "acme", Name: "Acme", TimeZone: "Europe/Berlin", Currency: "EUR", Hosts: []string{"a.example", "b.example"}, By: "cli"},
			timeline.KindTenant, "Acme was set up by an operator on the command line: time zone Europe/Berlin, currency EUR, hosts a.example, b.example.",
			`{"name":"Acme","timeZone":"Europe/Berlin","currency":"EUR","hosts":["a.example","b.example"],"slug":"","by":"cli"}`},
		{"key", event.KeyCreated{ID: "key_2", Kind: "tenant", Tenant: "acme", Name: "backend", Hash: []byte("secret"), By: "key:key_1"}, timeline.KindKey,
			`API key "backend" was created by API key key_1.`, `{"id":"key_2","kind":"tenant","name":"backend","expiresAt":null,"by":"key:key_1"}`},
		{"revocation", event.KeyRevoked{ID: "key_2", Tenant: "acme", By: "cli"}, timeline.KindKey,
			"API key key_2 was revoked by an operator on the command line.", `{"id":"key_2","by":"cli"}`},
		{"denied check", decision(false, denied), timeline.KindDecision,
			"Check of 3,000 tokens_spent for call_789 denied by tokens_per_day: 199,000 used and 600 held of 200,000.",
			`{"allowed":false,"planVersion":"pro@3","holdExpiresAt":null,"limits":[{"limit":"tokens_per_day","kind":"quota","allowed":false,` +
				`"max":200000,"used":199000,"held":600,"requested":3000,"overage":false,"overridden":true,"windowStart":"2026-04-05T00:00:00.000Z",` +
				`"windowEnd":"2026-04-06T00:00:00.000Z","resetAt":"2026-04-06T00:00:00.000Z","planVersion":"pro@3"}],"data":{}}`},
		{"allowed check", decision(true, holding), timeline.KindDecision,
			"Check of 3,000 tokens_spent for call_789 allowed; 3,000 held until 2026-04-05 12:15 UTC.",
			`{"allowed":true,"planVersion":"pro@3","holdExpiresAt":"2026-04-05T12:15:00.000Z","limits":[{"limit":"tokens_per_day","kind":"quota","allowed":true,` +
				`"max":1000000,"used":199000,"held":600,"requested":3000,"overage":false,"overridden":false,"windowStart":"2026-04-05T00:00:00.000Z",` +
				`"windowEnd":"2026-04-06T00:00:00.000Z","resetAt":"2026-04-06T00:00:00.000Z","holdExpiresAt":"2026-04-05T12:15:00.000Z","planVersion":"pro@3"}],"data":{}}`},
		{"check of a tenant without a plan", event.LimitDecided{Identity: check, Quantity: money.Int(1), DecidedAt: at(-1), Allowed: true}, timeline.KindDecision,
			"Check of 1 tokens_spent for call_789 allowed.", `{"allowed":true,"planVersion":null,"holdExpiresAt":null,"limits":[],"data":{}}`},
		{"cooldown", decision(false, event.LimitPart{Limit: "abuse", Kind: event.AbuseGuardLimit, Denied: true, Max: money.Int(50), Used: money.Int(49), ResetAt: at(5)}),
			timeline.KindDecision, "Check of 3,000 tokens_spent for call_789 denied by abuse: too many checks were denied; all are refused until 2026-04-05 12:05 UTC.",
			`{"allowed":false,"planVersion":"pro@3","holdExpiresAt":null,"limits":[{"limit":"abuse","kind":"abuse_guard","allowed":false,"max":50,"used":49,"held":0,"requested":0,` +
				`"overage":false,"overridden":false,"resetAt":"2026-04-05T12:05:00.000Z","planVersion":"pro@3"}],"data":{}}`},
		{"release", event.HoldReleased{Identity: check, ReleasedAt: at(-1), By: "key:key_1"}, timeline.KindHold,
			"Hold for call_789 (tokens_spent) was released by API key key_1.", `{"by":"key:key_1"}`},
		{"expiry", event.HoldExpired{Identity: check, ExpiredAt: at(-1)}, timeline.KindHold,
			"Hold for call_789 (tokens_spent) expired.", `{"expiredAt":"2026-04-05T11:59:00.000Z"}`},
		{"plan", event.PlanAssigned{Tenant: "acme", Plan: "pro", EffectiveAt: at(-720), BillingAnchor: at(-1), By: "key:key_1"}, timeline.KindPlan,
			"Plan pro was assigned by API key key_1, from 2026-04-05 on.",
			`{"plan":"pro","effectiveAt":"2026-04-05T00:00:00.000Z","billingAnchor":"2026-04-05T11:59:00.000Z","by":"key:key_1"}`},
		{"plan from now on", event.PlanAssigned{Tenant: "acme", Plan: "pro", EffectiveAt: noon, BillingAnchor: noon, By: "cli"}, timeline.KindPlan,
			"Plan pro was assigned by an operator on the command line, from 2026-04-05 12:00 UTC on.",
			`{"plan":"pro","effectiveAt":"2026-04-05T12:00:00.000Z","billingAnchor":"2026-04-05T12:00:00.000Z","by":"cli"}`},
		{"override", event.LimitOverridden{Tenant: "acme", Limit: "tokens_per_day", Max: money.Int(300_000), Reason: "ticket 7", By: "key:key_1"}, timeline.KindLimit,
			"Limit tokens_per_day was set to 300,000 for this workspace by API key key_1: ticket 7.",
			`{"limit":"tokens_per_day","max":300000,"from":null,"until":null,"reason":"ticket 7","by":"key:key_1"}`},
		{"override for a while", event.LimitOverridden{Tenant: "acme", Limit: "spend", Max: money.MustParse("0.5"), From: noon, Until: at(720), Reason: "ticket 7", By: "cli"},
			timeline.KindLimit, "Limit spend was set to 0.5 for this workspace by an operator on the command line from 2026-04-05 12:00 UTC until 2026-04-06: ticket 7.",
			`{"limit":"spend","max":0.5,"from":"2026-04-05T12:00:00.000Z","until":"2026-04-06T00:00:00.000Z","reason":"ticket 7","by":"cli"}`},
		{"override removed", event.LimitOverrideRemoved{Tenant: "acme", Limit: "spend", By: "cli"}, timeline.KindLimit,
			"Limit spend was set back to what the plan says by an operator on the command line.", `{"limit":"spend","by":"cli"}`},
		{"switch", event.AdminSwitched{Tenant: "acme", Reason: "ticket 7", Day: "2026-04-05", By: "key:key_1"}, timeline.KindSwitch,
			"An administrator (API key key_1) acted in this workspace: ticket 7.", `{"reason":"ticket 7","by":"key:key_1"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := event.Decoded{Recorded: eventstore.Recorded{Position: eventstore.Position{Partition: 1, Offset: 2}, Tenant: "acme", RecordedAt: noon}, Payload: c.payload}
			item := timeline.Describe(e)
			require.Equal(t, c.summary, item.Summary)
			require.Equal(t, c.kind, item.Kind)
			require.Equal(t, c.data, string(item.Data))
			require.Equal(t, noon, item.RecordedAt)
			want := noon
			switch c.kind {
			case timeline.KindUsage:
				want = noon.Add(-time.Hour)
			case timeline.KindDecision, timeline.KindHold:
				want = at(-1)
			}
			require.Equal(t, want, item.OccurredAt)
			counted := slices.Contains([]timeline.Kind{timeline.KindUsage, timeline.KindCorrection, timeline.KindConflict, timeline.KindDecision}, c.kind)
			require.Equal(t, counted, item.Quantity != nil)
			about := counted || c.kind == timeline.KindHold
			require.Equal(t, about, item.SourceID == "call_789" && item.EventType == "tokens_spent")
			rows := projections.AppendTimeline(nil, []event.Decoded{e})
			require.Equal(t, want, rows[0].OccurredAt, "the index and the item agree")
			require.Equal(t, about, rows[0].Source == projections.SourceHash("acme", "call_789") && rows[0].Type == projections.TypeHash("tokens_spent"))
		})
	}
	for summary, d := range map[string]event.LimitDecided{
		"allowed beyond tokens_per_day; 3,000 held until 2026-04-05 12:15:59 UTC.": decision(true, over),
		"denied by tokens_per_day: 199,000 used and 600 held of 200,000; by sessions: 5 held of 5.": decision(false, denied,
			event.LimitPart{Limit: "model_tier", Kind: event.AccessLimit},
			event.LimitPart{Limit: "sessions", Kind: event.ConcurrencyLimit, Denied: true, Max: money.Int(5), Held: money.Int(5), Requested: money.Int(1)}),
		"denied by tier: the plan does not include it.": decision(false, event.LimitPart{Limit: "tier", Kind: event.AccessLimit, Denied: true}),
		"denied by seconds: 1,900 asked for, and at most 1,800 is allowed.": decision(false, event.LimitPart{Limit: "seconds", Kind: event.MaxLimit, Denied: true,
			Max: money.Int(1800), Requested: money.Int(1900)}),
		"denied by rpm: 60 used of 60.": decision(false, event.LimitPart{Limit: "rpm", Kind: event.RateLimit, Denied: true, Burst: 20,
			Max: money.Int(60), Used: money.Int(60), Requested: money.Int(1)}),
		"denied by rpm: too many at once, and at most 20 are allowed.": decision(false, event.LimitPart{Limit: "rpm", Kind: event.RateLimit, Denied: true, Burst: 20,
			Max: money.Int(60), Used: money.Int(20), Requested: money.Int(1)}),
		"denied by retries: it was tried too often.": decision(false, event.LimitPart{Limit: "retries", Kind: event.RetryBudgetLimit, Denied: true,
			Max: money.Int(10), Requested: money.Int(1)}),
		"denied by abuse: too many checks were denied; all are refused until 2026-04-05 12:05:01 UTC.": decision(false,
			event.LimitPart{Limit: "abuse", Kind: event.AbuseGuardLimit, Denied: true, ResetAt: at(5).Add(time.Millisecond)}),
		"allowed; 3,000 held until 2026-04-05 14:00 UTC.": decision(true, event.LimitPart{Limit: "rpm", Kind: event.RateLimit, Taken: true, Max: money.Int(60)}),
		"denied by spend: 499.5 used of 500. After so many denials, all checks are refused until 2026-04-05 12:05 UTC (abuse).": decision(false,
			event.LimitPart{Limit: "spend", Kind: event.BudgetLimit, Denied: true, Max: money.Int(500), Used: money.MustParse("499.5"), Requested: money.Int(1)},
			event.LimitPart{Limit: "abuse", Kind: event.AbuseGuardLimit, Max: money.Int(50), Used: money.Int(50), Until: at(5), Strikes: 1}),
	} {
		item := timeline.Describe(event.Decoded{Recorded: eventstore.Recorded{Tenant: "acme", RecordedAt: noon}, Payload: d})
		require.Equal(t, "Check of 3,000 tokens_spent for call_789 "+summary, item.Summary)
		require.NotContains(t, string(item.Data), "ingerprint")
		require.True(t, json.Valid(item.Data))
	}
}

func TestItemIs(t *testing.T) {
	item := timeline.Item{Kind: timeline.KindCorrection, EventType: "tokens_spent", SourceID: "call_1"}
	require.True(t, item.Is("", ""))
	require.True(t, item.Is("tokens_spent", "call_1"))
	require.True(t, item.Is("correction", ""))
	require.False(t, item.Is("usage", ""))
	require.False(t, item.Is("", "call_2"))
}

func TestAnImportOfCostsIsDescribed(t *testing.T) {
	item := timeline.Describe(event.Decoded{Recorded: eventstore.Recorded{RecordedAt: noon}, Payload: event.CostsImported{
		Source: "prices.json", Hash: "00ff", From: "2026-04-05", Costs: make([]event.ModelCost, 2), Removed: make([]event.ModelName, 1), By: "cli"}})
	require.Equal(t, "What providers charge was changed by an operator on the command line for 3 models, from 2026-04-05 on, by the price list prices.json.", item.Summary)
	require.JSONEq(t, `{"source":"prices.json","sha256":"00ff","from":"2026-04-05","changed":2,"removed":1,"by":"cli"}`, string(item.Data))
}

// unlisted are the kinds of events that are on no timeline, because they are about no tenant or about what tenants share.
var unlisted = []string{"catalog_applied.v1", "costs_imported.v1", "name_claimed.v1", "name_released.v1", "name_freed.v1"}

// Every kind of event that the log can hold has an entry: without one, it would be on the timeline as a bare name.
func TestEveryKindOfEventHasAnEntry(t *testing.T) {
	for _, kind := range event.Kinds() {
		t.Run(kind, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("..", "event", "testdata", "v1", kind+".json"))
			require.NoError(t, err)
			var recording struct{ Type, Tenant, Stream, Payload string }
			require.NoError(t, json.Unmarshal(text, &recording))
			data, err := hex.DecodeString(recording.Payload)
			require.NoError(t, err)
			events, err := event.DecodeAll([]eventstore.Recorded{{
				Position: eventstore.Position{Offset: 1}, Stream: eventstore.StreamName(recording.Stream), Type: recording.Type,
				Tenant: recording.Tenant, RecordedAt: noon, Data: data,
			}})
			require.NoError(t, err)
			item := timeline.Describe(events[0])
			require.NotEmpty(t, item.Summary)
			require.NotContains(t, item.Summary, recording.Type, "it has no entry")
			require.True(t, json.Valid(item.Data))
			listed := item.Kind.Number() > 0
			require.Equal(t, !slices.Contains(unlisted, kind), listed)
			require.Equal(t, listed, item.Kind != timeline.KindInstallation)
			for _, row := range projections.AppendTimeline(nil, events) {
				require.Positive(t, row.Kind)
				require.Equal(t, item.Kind.Number(), row.Kind)
			}
		})
	}
}
