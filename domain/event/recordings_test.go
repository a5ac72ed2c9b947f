package event_test

import (
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// recording is one event as a log holds it, in testdata/v1. Recordings are never edited and never removed: whatever was
// written once has to be readable for ever, and derived ids have to stay what they are, since they recognise a retry.
// A new form of an event is a new kind with a recording of its own.
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
	return map[string]eventstore.Append{
		"usage_recorded.v1": u.Append(meta),
		// Every name of the dictionary. A new name needs a recording of its own.
		"usage_recorded.v1.dictionary": words.Append(event.Metadata{Catalog: -1}),
		"usage_voided.v1":              event.UsageVoided{Usage: u, Metadata: corrected, Reason: "double report", By: "key:key_1"}.Append(0),
		"usage_adjusted.v1":            event.UsageAdjusted{Usage: u, Metadata: corrected, Quantity: money.MustParse("0.000000001"), Data: other, Reason: "wrong model", By: "key:key_1"}.Append(1),
		"usage_conflicted.v1":          event.UsageConflicted{Usage: conflicted}.Append(),
		"tenant_defined.v1": event.TenantDefined{Tenant: "tenant_123", Name: "Café & Söhne", TimeZone: "Europe/Berlin", Currency: "EUR",
			Hosts: []string{"acme.product.com", "xn--bcher-kva.example"}, Slug: "acme", By: "cli"}.Append(2),
		"catalog_applied.v1": event.CatalogApplied{Catalog: json.RawMessage(`{"meters":[{"key":"a","eventType":"<a> & b","aggregation":"sum"}]}`), By: "cli"}.Append(eventstore.NoStream),
		"key_created.v1":     event.KeyCreated{ID: "key_0001020304050607", Kind: "tenant", Tenant: "tenant_123", Name: "backend", Hash: hash, By: "key:key_1"}.Append(),
		"key_revoked.v1":     event.KeyRevoked{ID: "key_0001020304050607", Tenant: "tenant_123", By: "key:key_1"}.Append(0),
		"admin_switched.v1":  event.AdminSwitched{Tenant: "tenant_123", Reason: "ticket 7", Day: "2026-04-05", By: "key:key_1"}.Append(),
	}
}

// again is the log entry of a decoded event.
func again(t require.TestingT, e any, expected eventstore.Revision) eventstore.Append {
	switch e := e.(type) {
	case event.UsageRecorded:
		return e.Usage.Append(e.Metadata)
	case event.UsageVoided:
		return e.Append(expected)
	case event.UsageAdjusted:
		return e.Append(expected)
	case event.UsageConflicted:
		return e.Append()
	case event.TenantDefined:
		return e.Append(expected)
	case event.CatalogApplied:
		return e.Append(expected)
	case event.KeyCreated:
		return e.Append()
	case event.KeyRevoked:
		return e.Append(expected)
	case event.AdminSwitched:
		return e.Append()
	default:
		require.Failf(t, "no recording covers it", "%T", e)
		return eventstore.Append{}
	}
}

// The numbers of the dictionary are part of the log's format: each stands in some recording.
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
	for _, kind := range event.Kinds() {
		require.FileExists(t, recordingFile(kind), "make one with go test ./domain/event -record, and never change it")
	}
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
		"an empty object":                    with(configured, func(r *eventstore.Recorded) { r.Data = []byte(`{}`) }),
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
