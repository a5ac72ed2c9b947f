package projections_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/projections"
)

func TestTimelineHasOneRowForEachEventOfATenant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, _ := newStore(t, 2)
		add(t, store, history(t)...)
		events := all(t, store)
		rows := projections.AppendTimeline(nil, events)
		for _, e := range events {
			item := projections.Describe(e)
			require.NotEmpty(t, item.Summary)
			require.Equal(t, e.Position, item.Position)
			if e.Tenant == "" {
				continue
			}
			require.NotEmpty(t, rows)
			row := rows[0]
			rows = rows[1:]
			require.Equal(t, e.Position, row.Position)
			require.EqualValues(t, e.Tenant, row.Tenant)
			require.Equal(t, item.OccurredAt, row.OccurredAt, "the index and the item agree")
			require.Equal(t, item.Kind.Number(), row.Kind)
			require.Positive(t, row.Kind)
			require.Equal(t, projections.SourceHash(row.Tenant, item.Source), row.Source)
			require.Equal(t, projections.TypeHash(item.EventType), row.Type)
		}
		require.Empty(t, rows)
	})
}

func TestDescribe(t *testing.T) {
	usage := event.Usage{
		Identity: event.Identity{Tenant: "acme", Type: "tokens_spent", Source: "call_789"}, Quantity: money.MustParse("1234567.5"),
		OccurredAt: noon.Add(-time.Hour), Data: event.NewData(map[string]any{"model": "gpt-4.1", "status": "ok"}),
	}
	plain := usage
	plain.Quantity, plain.Data = money.Int(1), event.Data{}
	failed := usage
	failed.Data = event.NewData(map[string]any{"feature": "interview", "status": "failed"})
	for _, c := range []struct {
		name    string
		payload any
		kind    projections.Kind
		summary string
		data    string
	}{
		{"usage", event.UsageRecorded{Usage: usage}, projections.KindUsage,
			"1,234,567.5 tokens_spent reported for call_789 (model gpt-4.1).", `{"model":"gpt-4.1","status":"ok"}`},
		{"usage without data", event.UsageRecorded{Usage: plain}, projections.KindUsage, "1 tokens_spent reported for call_789.", `{}`},
		{"usage that failed", event.UsageRecorded{Usage: failed}, projections.KindUsage,
			"1,234,567.5 tokens_spent reported for call_789 (feature interview, status failed).", `{"feature":"interview","status":"failed"}`},
		{"void", event.UsageVoided{Usage: plain, Reason: "sent twice", By: "key:key_1"}, projections.KindCorrection,
			"1 tokens_spent reported for call_789 taken back by API key key_1: sent twice.",
			`{"reason":"sent twice","by":"key:key_1","occurredAt":"2026-04-05T11:00:00.000Z","data":{}}`},
		{"adjustment", event.UsageAdjusted{Usage: plain, Quantity: money.Int(1000), Reason: "wrong unit!", By: "cli"}, projections.KindCorrection,
			"tokens_spent for call_789 changed from 1 to 1,000 by an operator on the command line: wrong unit!",
			`{"reason":"wrong unit!","by":"cli","occurredAt":"2026-04-05T11:00:00.000Z","data":{},"before":{"quantity":1,"data":{}}}`},
		{"adjustment of data", event.UsageAdjusted{Usage: plain, Quantity: money.Int(1), Data: usage.Data, Reason: "model", By: "system"}, projections.KindCorrection,
			"Details of 1 tokens_spent for call_789 changed by the system: model.",
			`{"reason":"model","by":"system","occurredAt":"2026-04-05T11:00:00.000Z","data":{"model":"gpt-4.1","status":"ok"},"before":{"quantity":1,"data":{}}}`},
		{"conflict", event.UsageConflicted{Usage: plain}, projections.KindConflict,
			"1 tokens_spent reported for call_789 again with other content; it was refused and nothing changed.",
			`{"occurredAt":"2026-04-05T11:00:00.000Z","data":{}}`},
		{"tenant", event.TenantDefined{Tenant: "acme", Name: "Acme", TimeZone: "Europe/Berlin", Currency: "EUR", Hosts: []string{"a.example", "b.example"}, By: "cli"},
			projections.KindTenant, "Acme was set up by an operator on the command line: time zone Europe/Berlin, currency EUR, hosts a.example, b.example.",
			`{"name":"Acme","timeZone":"Europe/Berlin","currency":"EUR","hosts":["a.example","b.example"],"slug":"","by":"cli"}`},
		{"key", event.KeyCreated{ID: "key_2", Kind: "tenant", Tenant: "acme", Name: "backend", Hash: []byte("secret"), By: "key:key_1"}, projections.KindKey,
			`API key "backend" was created by API key key_1.`, `{"id":"key_2","kind":"tenant","name":"backend","by":"key:key_1"}`},
		{"revocation", event.KeyRevoked{ID: "key_2", Tenant: "acme", By: "cli"}, projections.KindKey,
			"API key key_2 was revoked by an operator on the command line.", `{"id":"key_2","by":"cli"}`},
		{"switch", event.AdminSwitched{Tenant: "acme", Reason: "ticket 7", Day: "2026-04-05", By: "key:key_1"}, projections.KindSwitch,
			"An administrator (API key key_1) acted in this workspace: ticket 7.", `{"reason":"ticket 7","by":"key:key_1"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := projections.Event{Recorded: eventstore.Recorded{Position: eventstore.Position{Partition: 1, Offset: 2}, Tenant: "acme", RecordedAt: noon}, Payload: c.payload}
			item := projections.Describe(e)
			require.Equal(t, c.summary, item.Summary)
			require.Equal(t, c.kind, item.Kind)
			require.Equal(t, c.data, string(item.Data))
			require.Equal(t, noon, item.RecordedAt)
			want := noon
			if c.kind == projections.KindUsage {
				want = noon.Add(-time.Hour)
			}
			require.Equal(t, want, item.OccurredAt)
			about := c.kind == projections.KindUsage || c.kind == projections.KindCorrection || c.kind == projections.KindConflict
			require.Equal(t, about, item.Quantity != nil)
		})
	}
}

func TestItemIs(t *testing.T) {
	item := projections.Item{Kind: projections.KindCorrection, EventType: "tokens_spent", Source: "call_1"}
	require.True(t, item.Is("", ""))
	require.True(t, item.Is("tokens_spent", "call_1"))
	require.True(t, item.Is("correction", ""))
	require.False(t, item.Is("usage", ""))
	require.False(t, item.Is("", "call_2"))
}

// Every kind of event that the log can hold has a place on the timeline, and words: a kind that is forgotten here would
// stop the timeline of everybody.
func TestEveryKindOfEventIsDescribed(t *testing.T) {
	for _, kind := range event.Kinds() {
		t.Run(kind, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("..", "domain", "event", "testdata", "v1", kind+".json"))
			require.NoError(t, err)
			var recording struct{ Type, Tenant, Stream, Payload string }
			require.NoError(t, json.Unmarshal(text, &recording))
			data, err := hex.DecodeString(recording.Payload)
			require.NoError(t, err)
			events, err := projections.Decode([]eventstore.Recorded{{
				Position: eventstore.Position{Offset: 1}, Stream: eventstore.StreamName(recording.Stream), Type: recording.Type,
				Tenant: recording.Tenant, RecordedAt: noon, Data: data,
			}})
			require.NoError(t, err)
			item := projections.Describe(events[0])
			require.NotContains(t, item.Summary, recording.Type)
			require.True(t, json.Valid(item.Data))
			for _, row := range projections.AppendTimeline(nil, events) {
				require.Positive(t, row.Kind)
				require.Equal(t, item.Kind.Number(), row.Kind)
			}
		})
	}
}
