package event_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// recording is one event as a log holds it, in testdata/v1. Recordings are never edited or removed: what was written once
// must stay readable, and derived ids must not change, since a retry is recognised by them. A new form of an event is a new
// kind with a recording of its own.
type recording struct {
	Type     string `json:"type"`
	Tenant   string `json:"tenant"`
	Stream   string `json:"stream"`
	Expected int64  `json:"expectedRevision"`
	ID       string `json:"id"`
	Payload  string `json:"payload"` // hex
	Meaning  any    `json:"meaning"` // of the payload, for people; the test compares it too
}

var record = flag.Bool("record", false, "write the recordings in testdata/v1 that are missing")

// samples are what the recordings were made from: each field of each kind has a value that nothing else has.
func samples(t *testing.T) map[string]eventstore.Append {
	data, err := event.ParseData([]byte(contractData), "")
	require.NoError(t, err)
	other, err := event.ParseData([]byte(`{"model":"o3","inputTokens":-1,"retryOf":null,"cacheHit":true,"tags":["a",{"z":1e3,"b":"é"}],
		"score":0.25,"note":"say \"hi\"\n","provider":7.5,"costCenter":"R&D <eu>","big":9223372036854775807}`), "")
	require.NoError(t, err)
	u := event.Usage{
		Identity:   event.Identity{Tenant: "tenant_123", Type: "ai_interview_completed", Source: "interview_456"},
		Quantity:   money.MustParse("1.5"),
		OccurredAt: time.Date(2026, 4, 5, 10, 30, 0, 123456000, time.UTC),
		Data:       data,
	}
	meta := event.Metadata{Catalog: 41, Emitter: "/interviews/eu", TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	corrected := event.Metadata{Catalog: 41}
	conflicted := u
	conflicted.Quantity, conflicted.Data = money.MustParse("123456789012345678.123456789"), other
	words := event.Usage{Identity: event.Identity{Tenant: "t", Type: "a", Source: "s"}, Quantity: money.Int(1), OccurredAt: time.UnixMicro(-1).UTC()}
	words.Data = event.NewData(map[string]any{"userId": "text 2", "feature": "text 3", "provider": "text 4", "model": "text 5", "promptVersion": "text 6",
		"inputTokens": 7, "outputTokens": 8, "cachedInputTokens": 9, "latencyMs": 10, "cacheHit": true, "safety": "text 12", "status": "text 13",
		"attempt": 14, "retryOf": nil, "modelTier": "text 16", "audioSeconds": 17, "sessionId": "text 18", "requestId": "text 19", "error": "text 20",
		"region": "text 21", "operation": "text 22"})
	hash := make([]byte, 32)
	for i := range hash {
		hash[i] = byte(i)
	}
	at := func(ms int64) time.Time {
		return u.OccurredAt.Truncate(time.Millisecond).Add(time.Duration(ms) * time.Millisecond)
	}
	invoice := event.Invoice{ID: "inv_7d444840-9dc0-51d1-b245-5ffdce74fad2", Number: "ABCD1234-000001", Currency: "KWD",
		PeriodStart: at(1), PeriodEnd: at(2), CycleStart: at(-3), CycleEnd: at(4), PlanVersion: "pro@3",
		Subtotal: money.MustParse("9.25"), Total: money.MustParse("9.125"), Decimals: 3, Position: "0-1042", Subscription: 5, Catalog: 6,
		Lines: []event.InvoiceLine{
			{Kind: event.UsageLine, Price: "tokens", Description: "Usage: tokens <in> & out", PlanVersion: "pro@2", Meter: "input_tokens",
				Quantity: money.MustParse("123456789012345678.123456789"), Included: money.Int(7), Unit: money.MustParse("0.000000001"),
				Tiers: []event.InvoiceTier{{To: money.Int(8), Quantity: money.Int(8), Unit: money.MustParse("0.5")},
					{From: money.Int(8), Quantity: money.MustParse("0.000000001"), Unit: money.MustParse("0.25")}},
				PeriodStart: at(1), PeriodEnd: at(3), Events: 9007199254740993, Amount: money.MustParse("10.375")},
			{Kind: event.FeeLine, Price: "base", Description: "Fee: base", PlanVersion: "pro@3", Quantity: money.Int(1), Unit: money.Int(11),
				PeriodStart: at(5), PeriodEnd: at(6), Amount: money.Int(11)},
			{Kind: event.MinimumLine, Price: "minimum", Description: "Minimum commitment", PlanVersion: "pro@3", PeriodStart: at(7), PeriodEnd: at(8), Amount: money.MustParse("0.125")},
			{Kind: event.CapLine, Price: "spend_cap", Description: "Spend cap", PlanVersion: "pro@3", PeriodStart: at(7), PeriodEnd: at(8), Amount: money.MustParse("-12")},
			{Kind: event.AdjustmentLine, Price: "calls", Description: "Adjustment: calls", PeriodStart: at(9), PeriodEnd: at(10), Quantity: money.MustParse("-1.5"), Amount: money.MustParse("-0.25")},
		}}
	rate := func(text string) event.Rate {
		r, err := money.ParseRate(text, 0)
		require.NoError(t, err)
		return event.Rate{Decimal: r}
	}
	one := func(e event.QuotaEvent) eventstore.Append {
		return event.AppendDecisions(uuid.Nil, "tenant_123", 41, []event.QuotaEvent{e}, []event.Identity{u.Identity})
	}
	// Numbers of all four, and instants, are different in each part; some parts lack what their kind does not have.
	number := func(part int, n int64) money.Decimal { return money.Int(int64(part)*10 + n) }
	parts := make([]event.LimitPart, 8)
	for i := range parts {
		n := int64(i) * 1000
		parts[i] = event.LimitPart{Limit: "limit_" + event.LimitKind(i+1).String(), Kind: event.LimitKind(i + 1),
			Max: number(i, 1), Used: number(i, 2), Held: number(i, 3), Requested: number(i, 4),
			WindowStart: at(-n - 1), WindowEnd: at(n + 2), ResetAt: at(n + 3), ExpiresAt: at(n + 4), Until: at(n + 5), Strikes: n + 6, Burst: n + 7}
	}
	parts[0].Taken, parts[1].Overridden, parts[2].Soft, parts[3].Denied = true, true, true, true
	parts[4] = event.LimitPart{Limit: "limit_access", Kind: event.AccessLimit}
	parts[5].ResetAt, parts[5].WindowEnd = at(0), time.Time{}
	parts[6].Max, parts[6].Used, parts[6].Held = money.MustParse("500"), money.MustParse("12.345678901"), money.MustParse("-0.5")
	// Where one of the numbers does not fit, all four are written as text.
	parts[7].Max, parts[7].Used, parts[7].Held = money.MustParse("999999999999999999.999999999"), money.MustParse("-123456789012345678901234567890"), money.MustParse("0.000000000000000001")
	decided := event.LimitDecided{Identity: u.Identity, Quantity: u.Quantity, DecidedAt: at(0), Allowed: true, Keeps: true, KeepUntil: at(900_000),
		PlanVersion: "pro@3", Fingerprint: 0x0102030405060708, Parts: parts}
	asked := decided
	asked.Asked, asked.Repeats, asked.Retry, asked.Remember, asked.Data = true, true, true, 61*time.Second, data
	asked.Levels = []string{"teamId,userId", "userId"}
	asked.Parts = []event.LimitPart{{Limit: "tried_out", Per: event.NewData(map[string]any{"userId": "u1", "teamId": 7}), Kind: event.RateLimit, Denied: true, Observed: true, Max: money.Int(0), ResetAt: at(1)}}
	degraded := decided
	degraded.Asked, degraded.Data, degraded.Parts, degraded.GivenAt = true, data, nil, at(-61_001)
	denied := event.LimitDecided{Identity: u.Identity, Quantity: money.MustParse("123456789012345678.123456789"), DecidedAt: at(1), Fingerprint: 9, Data: data,
		Parts: []event.LimitPart{{Limit: "tokens_per_day", Kind: event.QuotaLimit, Denied: true, Max: money.MustParse("9223372036854775807"), Requested: money.MustParse("0.1"), ResetAt: at(2)}}}
	withCredits := invoice
	withCredits.Drawn = []event.CreditUse{{Grant: "g1", Amount: money.MustParse("1.5")}, {Grant: "g2", Amount: money.Int(2)}}
	withCredits.Returned = []event.CreditUse{{Grant: "g1", Amount: money.MustParse("0.25"), Invoice: "inv_before"}}
	withCredits.Expired = []event.CreditUse{{Grant: "g3", Amount: money.Int(7)}}
	withCredits.Total = invoice.Subtotal.Sub(withCredits.Credits())
	return map[string]eventstore.Append{
		"usage_recorded.v1": u.Append(meta),
		// Every name of the dictionary. A new name needs a recording of its own.
		"usage_recorded.v1.dictionary": words.Append(event.Metadata{Catalog: -1}),
		"usage_voided.v1":              event.UsageVoided{Usage: u, Metadata: corrected, Reason: "double report", By: "key:key_1"}.Append(0),
		"usage_adjusted.v1":            event.UsageAdjusted{Usage: u, Metadata: corrected, Quantity: money.MustParse("0.000000001"), Data: other, Reason: "wrong model", By: "key:key_1"}.Append(1),
		"usage_conflicted.v1":          event.UsageConflicted{Usage: conflicted}.Append(),
		"tenant_defined.v1": event.TenantDefined{Tenant: "tenant_123", Name: "Café & Söhne", TimeZone: "Europe/Berlin", Currency: "EUR",
			Hosts: []string{"acme.product.com", "xn--bcher-kva.example"}, Slug: "acme", By: "cli"}.Append(2),
		"catalog_applied.v1":       event.CatalogApplied{Catalog: json.RawMessage(`{"meters":[{"key":"a","eventType":"<a> & b","aggregation":"sum"}]}`), By: "cli"}.Append(eventstore.NoStream),
		"key_created.v1":           event.KeyCreated{ID: "key_0001020304050607", Kind: "tenant", Tenant: "tenant_123", Name: "backend", Hash: hash, By: "key:key_1"}.Append(),
		"key_created.v1.expiring":  event.KeyCreated{ID: "key_0001020304050607", Kind: "service", Name: "job", Hash: hash, By: "cli", ExpiresAt: at(7)}.Append(),
		"tenant_status_changed.v1": event.TenantStatusChanged{Tenant: "tenant_123", Status: "suspended", Reason: "a <late> & open invoice", By: "key:key_1"}.Append(8),
		"host_verified.v1":         event.HostVerified{Tenant: "tenant_123", Host: "xn--bcher-kva.example", Claim: 2, By: "key:key_1"}.Append(9),
		"name_claimed.v1":          event.NameClaimed{Kind: "host", Name: "xn--bcher-kva.example", Tenant: "tenant_123", By: "key:key_1"}.Append(1),
		"name_released.v1":         event.NameReleased{Kind: "host", Name: "xn--bcher-kva.example", Tenant: "tenant_123", By: "key:key_2"}.Append(2),
		"name_freed.v1":            event.NameFreed{Kind: "slug", Name: "acme", Reason: "the company <was> sold", By: "cli"}.Append(3),
		"key_revoked.v1":           event.KeyRevoked{ID: "key_0001020304050607", Tenant: "tenant_123", By: "key:key_1"}.Append(0),
		"catalog_applied.v1.versions": event.CatalogApplied{Catalog: json.RawMessage(`{"plans":[{"key":"pro","currency":"USD"}]}`),
			Versions: map[string]int{"pro": 3, "gone": 2, "free": 1}, By: "cli"}.Append(7),
		"costs_imported.v1": event.AppendCosts([]event.CostsImported{{Source: "a <list> & more", Hash: strings.Repeat("0123456789abcdef", 4), From: "2026-04-05", By: "key:key_1",
			Costs: []event.ModelCost{
				{ModelName: event.ModelName{Provider: "openai", Model: "gpt-4.1"}, Input: rate("2"), Cached: rate("0.5"), Output: rate("8.25")},
				{ModelName: event.ModelName{Provider: "bücher", Model: "a \"b\"/c"}, Input: rate("999999999999.000000000000000000000001"), Cached: rate("0"), Output: rate("0.10000000000000001")},
			}}}, 3),
		"costs_imported.v1.removed": event.AppendCosts([]event.CostsImported{{Source: "prices.json", Hash: strings.Repeat("0", 64), From: "2026-04-06", RemoveMissing: true, By: "cli",
			Removed: []event.ModelName{{Provider: "openai", Model: "gpt-3"}}}}, eventstore.NoStream),
		"plan_assigned.v1": event.PlanAssigned{Tenant: "tenant_123", Plan: "pro", EffectiveAt: at(0), BillingAnchor: at(-86_400_001), By: "key:key_1"}.Append(3),
		"limit_overridden.v1": event.LimitOverridden{Tenant: "tenant_123", Limit: "tokens_per_day", Max: money.MustParse("999999999999999999.999999999"),
			From: at(1), Until: at(2), Reason: "a <trial> & more", By: "key:key_1"}.Append(4),
		"limit_overridden.v1.open":   event.LimitOverridden{Tenant: "tenant_123", Limit: "tokens_per_day", Max: money.Int(0), Reason: "blocked", By: "cli"}.Append(5),
		"limit_override_removed.v1":  event.LimitOverrideRemoved{Tenant: "tenant_123", Limit: "tokens_per_day", By: "key:key_1"}.Append(6),
		"limit_decided.v1":           one(decided),
		"limit_decided.v1.denied":    one(denied),
		"limit_decided.v1.degraded":  one(degraded),
		"limit_decided.v1.asked":     one(asked),
		"limit_decided.v1.unlimited": one(event.LimitDecided{Identity: u.Identity, Quantity: money.Int(1), DecidedAt: time.UnixMilli(-1).UTC(), Allowed: true}),
		"hold_released.v1":           one(event.HoldReleased{Identity: u.Identity, ReleasedAt: at(1), By: "key:key_1"}),
		"hold_expired.v1":            one(event.HoldExpired{Identity: u.Identity, ExpiredAt: at(2)}),
		"invoice_finalised.v1":       event.InvoiceFinalised{Tenant: "tenant_123", Invoice: invoice, By: "key:key_1"}.Append(3),
		"invoice_voided.v1": event.InvoiceVoided{Tenant: "tenant_123", ID: invoice.ID, CreditNote: "ABCD1234-000001-CN", Rebill: true,
			Reason: "wrong <plan> & price", By: "key:key_1"}.Append(4),
		"invoice_voided.v1.forgiven":   event.InvoiceVoided{Tenant: "tenant_123", ID: invoice.ID, CreditNote: "ABCD1234-000001-CN", Reason: "goodwill", By: "cli"}.Append(4),
		"invoice_finalised.v1.credits": event.InvoiceFinalised{Tenant: "tenant_123", Invoice: withCredits, By: "system"}.Append(5),
		"invoice_settled.v1":           event.InvoiceSettled{Tenant: "tenant_123", ID: invoice.ID, As: event.Paid, Reference: "wire <42>", By: "key:key_1"}.Append(6),
		"credit_granted.v1": event.CreditGranted{Tenant: "tenant_123", ID: "promo & more", Kind: event.Promotional, Amount: money.MustParse("50.25"),
			Currency: "USD", Priority: -3, EffectiveAt: at(1), ExpiresAt: at(7), By: "key:key_1"}.Append(7),
		"credit_granted.v1.open": event.CreditGranted{Tenant: "tenant_123", ID: "g1", Kind: event.Prepaid, Amount: money.Int(100), Currency: "JPY", By: "cli"}.Append(8),
		"credit_refunded.v1":     event.CreditRefunded{Tenant: "tenant_123", ID: "g1", Refund: "r1", Amount: money.Int(40), Reason: "left <us>", By: "cli"}.Append(9),
		"admin_switched.v1":      event.AdminSwitched{Tenant: "tenant_123", Reason: "ticket 7", Day: "2026-04-05", By: "key:key_1"}.Append(),
	}
}

// again is the log entry of a decoded event.
func again(t require.TestingT, e any, expected eventstore.Revision) eventstore.Append {
	switch e := e.(type) {
	case event.UsageRecorded:
		return e.Usage.Append(e.Metadata)
	case event.CostsImported:
		return event.AppendCosts([]event.CostsImported{e}, expected)
	case event.QuotaEvent:
		return event.AppendDecisions(uuid.Nil, quotaTenant(e), expected, []event.QuotaEvent{e}, nil)
	case interface {
		Append(expected eventstore.Revision) eventstore.Append
	}:
		return e.Append(expected)
	case interface{ Append() eventstore.Append }:
		return e.Append()
	default:
		require.Failf(t, "no log entry", "%T", e)
		return eventstore.Append{}
	}
}

func quotaTenant(e event.QuotaEvent) event.TenantID {
	switch e := e.(type) {
	case event.LimitDecided:
		return e.Tenant
	case event.HoldReleased:
		return e.Tenant
	case event.HoldExpired:
		return e.Tenant
	}
	return ""
}

// The numbers of the dictionary are part of the log's format: some recording has each of them.
func TestEveryNameOfTheDictionaryHasARecording(t *testing.T) {
	recorded := map[string]bool{}
	for _, r := range recordings(t) {
		if e, err := event.Decode(r.event(t)); err == nil {
			if u, ok := e.(event.UsageRecorded); ok {
				for name := range u.Data.All() {
					recorded[name] = true
				}
			}
		}
	}
	for _, name := range event.WireNames {
		require.True(t, name == "" || recorded[name], "%s: add a sample and run go test ./domain/event -record", name)
	}
}

// meaning spells out the fields that an adjustment has twice.
func meaning(e any) any {
	if a, ok := e.(event.UsageAdjusted); ok {
		return map[string]any{"before": a.Usage, "metadata": a.Metadata, "quantity": a.Quantity, "data": a.Data, "reason": a.Reason, "by": a.By}
	}
	return e
}

func recordingFile(kind string) string { return filepath.Join("testdata", "v1", kind+".json") }

func TestEveryKindHasARecording(t *testing.T) {
	for kind, a := range samples(t) {
		if _, err := os.Stat(recordingFile(kind)); *record && os.IsNotExist(err) {
			e, err := event.Decode(recorded(a))
			require.NoError(t, err)
			text, err := json.MarshalIndent(recording{
				Type: a.Events[0].Type, Tenant: a.Tenant, Stream: string(a.Stream), Expected: int64(a.Expected),
				ID: a.Events[0].ID.String(), Payload: hex.EncodeToString(a.Events[0].Data), Meaning: meaning(e),
			}, "", "  ")
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(recordingFile(kind), append(text, '\n'), 0o600))
		}
	}
	kinds := event.Kinds()
	files := recordings(t)
	for _, kind := range kinds {
		r, ok := files[kind+".json"]
		require.True(t, ok, "%s has no recording: add a sample, run go test ./domain/event -record, and never change what it writes", kind)
		name, _, _ := strings.Cut(r.Type, ":")
		require.Equal(t, kind, name, "the recording is of another kind")
	}
	for file, r := range files {
		name, _, _ := strings.Cut(r.Type, ":")
		require.Contains(t, kinds, name, "%s is of a kind that is no longer registered", file)
	}
	slices.Sort(kinds)
	require.Len(t, slices.Compact(kinds), len(event.Kinds()), "a kind is registered twice")
}

func recordings(tb testing.TB) map[string]recording {
	tb.Helper()
	files, err := filepath.Glob(recordingFile("*"))
	require.NoError(tb, err)
	all := map[string]recording{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(tb, err)
		var r recording
		require.NoError(tb, json.Unmarshal(text, &r), file)
		all[filepath.Base(file)] = r
	}
	return all
}

func (r recording) event(tb testing.TB) eventstore.Recorded {
	tb.Helper()
	payload, err := hex.DecodeString(r.Payload)
	require.NoError(tb, err)
	return eventstore.Recorded{Stream: eventstore.StreamName(r.Stream), Type: r.Type, Tenant: r.Tenant, Data: payload}
}

// A recording is read as what it meant when it was made, and written again as the same bytes under the same ids.
func TestRecordings(t *testing.T) {
	for file, r := range recordings(t) {
		t.Run(file, func(t *testing.T) {
			e, err := event.Decode(r.event(t))
			require.NoError(t, err)
			got, err := json.Marshal(meaning(e))
			require.NoError(t, err)
			want, err := json.Marshal(r.Meaning)
			require.NoError(t, err)
			require.JSONEq(t, string(want), string(got))

			a := again(t, e, eventstore.Revision(r.Expected))
			require.NoError(t, a.Check())
			require.Equal(t, r.Payload, hex.EncodeToString(a.Events[0].Data))
			require.Equal(t, r.Type, a.Events[0].Type)
			require.Equal(t, r.Tenant, a.Tenant)
			require.Equal(t, r.Stream, string(a.Stream))
			require.Equal(t, r.ID, a.Events[0].ID.String())
			require.Equal(t, r.Expected, int64(a.Expected))
		})
	}
}

// Events that this version cannot understand as a whole are refused as malformed: to count half of one would be wrong.
func TestDecodeRefuses(t *testing.T) {
	usage := recordings(t)["usage_recorded.v1.json"].event(t)
	configured := recordings(t)["tenant_defined.v1.json"].event(t)
	decided, overridden := recordings(t)["limit_decided.v1.denied.json"].event(t), recordings(t)["limit_overridden.v1.open.json"].event(t)
	imported := recordings(t)["costs_imported.v1.json"].event(t)
	assigned, released := recordings(t)["plan_assigned.v1.json"].event(t), recordings(t)["hold_released.v1.json"].event(t)
	// field is a field of a decision, behind those that the recording has.
	field := func(r eventstore.Recorded, number int, value string) eventstore.Recorded {
		r.Data = append(append([]byte(nil), r.Data...), byte(number<<3|2), byte(len(value)))
		r.Data = append(r.Data, value...)
		return r
	}
	// head is a decision at 1970 with these fields behind.
	head := func(fields string) eventstore.Recorded {
		return eventstore.Recorded{Type: "limit_decided.v1:a", Tenant: "t", Data: []byte("\x0a\x01s\x10\x02\x28\x00" + fields)}
	}
	const mark = "\x52\x0812345678"
	_, err := event.Decode(head(mark + "\x62\x05\x0a\x01l\x10\x01"))
	require.NoError(t, err)
	with := func(r eventstore.Recorded, change func(*eventstore.Recorded)) eventstore.Recorded {
		r.Data = append([]byte(nil), r.Data...)
		change(&r)
		return r
	}
	for name, r := range map[string]eventstore.Recorded{
		"an unknown kind":                    with(usage, func(r *eventstore.Recorded) { r.Type = "usage_recorded.v2:a" }),
		"no time":                            with(usage, func(r *eventstore.Recorded) { r.Data = []byte("\x0a\x01s\x10\x02") }),
		"no usage type":                      with(usage, func(r *eventstore.Recorded) { r.Type = "usage_recorded.v1" }),
		"an empty usage type":                with(usage, func(r *eventstore.Recorded) { r.Type = "usage_recorded.v1:" }),
		"an empty payload":                   with(usage, func(r *eventstore.Recorded) { r.Data = nil }),
		"an unknown field":                   with(usage, func(r *eventstore.Recorded) { r.Data = append(r.Data, 0x80, 0x01, 0x01) }),
		"a field of another kind":            with(usage, func(r *eventstore.Recorded) { r.Data = append(r.Data, 10<<3|2, 1, 'x') }),
		"a field twice":                      with(usage, func(r *eventstore.Recorded) { r.Data = append(r.Data, 9<<3|2, 1, 'x') }),
		"a conflict with metadata":           with(usage, func(r *eventstore.Recorded) { r.Type = "usage_conflicted.v1:a" }),
		"an adjustment without new quantity": with(usage, func(r *eventstore.Recorded) { r.Type = "usage_adjusted.v1:a" }),
		"a type behind a configuration":      with(configured, func(r *eventstore.Recorded) { r.Type += ":a" }),
		"another tenant inside than outside": with(configured, func(r *eventstore.Recorded) { r.Tenant = "tenant_9" }),
		"an unknown member":                  with(configured, func(r *eventstore.Recorded) { r.Data = []byte(`{"tenantId":"tenant_123","colour":1}`) }),
		"a member in another case":           with(configured, func(r *eventstore.Recorded) { r.Data = []byte(`{"TenantId":"tenant_123"}`) }),
		"a member twice":                     with(configured, func(r *eventstore.Recorded) { r.Data = []byte(`{"tenantId":"tenant_123","tenantId":"tenant_123"}`) }),
		"null":                               with(configured, func(r *eventstore.Recorded) { r.Data = []byte(`null`) }),
		"a decision without fingerprint":     head(""),
		"a short fingerprint":                head("\x52\x071234567"),
		"a decision without time":            {Type: "limit_decided.v1:a", Tenant: "t", Data: []byte("\x0a\x01s\x10\x02" + mark)},
		"a decision without quantity":        {Type: "limit_decided.v1:a", Tenant: "t", Data: []byte("\x0a\x01s\x28\x00" + mark)},
		"a decision without type":            with(decided, func(r *eventstore.Recorded) { r.Type = "limit_decided.v1" }),
		"a decision with an actor":           head(mark + "\x5a\x01x"),
		"unknown flags":                      head("\x38\x40" + mark),
		"held, and not allowed":              head("\x38\x02\x40\x02" + mark),
		"held for no time":                   head("\x38\x03" + mark),
		"an invalid instant":                 head("\x38\x03\x40\x00" + mark),
		"an instant beyond all calendars":    head("\x38\x03\x40\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + mark),
		"a part of no kind":                  field(decided, 12, "\x0a\x01l"),
		"a part of an unknown kind":          field(decided, 12, "\x0a\x01l\x10\x09"),
		"a part without limit":               field(decided, 12, "\x10\x01"),
		"unknown flags of a part":            field(decided, 12, "\x0a\x01l\x10\x01\x18\x20"),
		"an unknown field of a part":         field(decided, 12, "\x0a\x01l\x10\x01\xa0\x01\x01"),
		"a field of a part twice":            field(decided, 12, "\x0a\x01l\x10\x01\x10\x01"),
		"a number with an exponent":          field(decided, 12, "\x0a\x01l\x10\x01\x82\x01\x031e2"),
		"a part with an invalid number":      field(decided, 12, "\x0a\x01l\x10\x01\x82\x01\x01x"),
		"a scale beyond all numbers":         field(decided, 12, "\x0a\x01l\x10\x01\x20\x02\x40\x41"),
		"too many parts":                     head(mark + strings.Repeat("\x62\x05\x0a\x01l\x10\x01", 1001)),
		"a release with parts":               field(released, 12, "\x0a\x01l\x10\x01"),
		"a release with a quantity":          {Type: "hold_released.v1:a", Tenant: "t", Data: []byte("\x0a\x01s\x10\x02\x28\x00")},
		"an expiry with an actor":            with(released, func(r *eventstore.Recorded) { r.Type = "hold_expired.v1:a" }),
		"an expiry without time":             {Type: "hold_expired.v1:a", Tenant: "t", Data: []byte("\x0a\x01s")},
		"a plan without a name":              with(assigned, func(r *eventstore.Recorded) { r.Data = bytes.Replace(r.Data, []byte(`"pro"`), []byte(`""`), 1) }),
		"a plan from no instant on":          with(assigned, func(r *eventstore.Recorded) { r.Data = bytes.Replace(r.Data, []byte("effective"), []byte("e"), 1) }),
		"a maximum below 0":                  with(overridden, func(r *eventstore.Recorded) { r.Data = bytes.Replace(r.Data, []byte(`"max":0`), []byte(`"max":-1`), 1) }),
		"an endless maximum": with(overridden, func(r *eventstore.Recorded) {
			r.Data = bytes.Replace(r.Data, []byte(`"max":0`), []byte(`"max":1e99`), 1)
		}),
		"costs of no list": with(imported, func(r *eventstore.Recorded) {
			r.Data = bytes.Replace(r.Data, []byte(`"sha256":"01`), []byte(`"sha256":"`), 1)
		}),
		"costs from no day": with(imported, func(r *eventstore.Recorded) {
			r.Data = bytes.Replace(r.Data, []byte(`2026-04-05`), []byte(`2026-02-30`), 1)
		}),
		"a cost below 0":                with(imported, func(r *eventstore.Recorded) { r.Data = bytes.Replace(r.Data, []byte(`:8.25`), []byte(`:-8.25`), 1) }),
		"an endless cost":               with(imported, func(r *eventstore.Recorded) { r.Data = bytes.Replace(r.Data, []byte(`:8.25`), []byte(`:8e25`), 1) }),
		"a cost that is a text":         with(imported, func(r *eventstore.Recorded) { r.Data = bytes.Replace(r.Data, []byte(`:8.25`), []byte(`:"8"`), 1) }),
		"costs of a tenant":             with(imported, func(r *eventstore.Recorded) { r.Tenant = "tenant_9" }),
		"an override of another tenant": with(overridden, func(r *eventstore.Recorded) { r.Tenant = "tenant_9" }),
		"an empty object":               with(configured, func(r *eventstore.Recorded) { r.Data = []byte(`{}`) }),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := event.Decode(r)
			require.ErrorIs(t, err, event.ErrMalformed)
		})
	}
}

func TestIsUsage(t *testing.T) {
	for _, kind := range event.Kinds() {
		of := kind == "usage_recorded.v1" || kind == "usage_voided.v1" || kind == "usage_adjusted.v1"
		require.Equal(t, of, event.IsUsage(kind+":a"), kind)
		require.False(t, event.IsUsage("x"+kind))
	}
}

func TestIsDecision(t *testing.T) {
	for _, kind := range event.Kinds() {
		of := kind == "limit_decided.v1" || kind == "hold_released.v1" || kind == "hold_expired.v1"
		require.Equal(t, of, event.IsDecision(kind+":a"), kind)
		require.False(t, event.IsDecision("x"+kind))
	}
}
