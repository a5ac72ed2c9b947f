package api_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func fact(t *testing.T, id string) cloudevents.Event {
	e := cloudevents.NewEvent()
	e.SetID(id)
	e.SetType("tokens_spent")
	e.SetSource("https://product.example/backend?x=1")
	e.SetSubject("acme")
	e.SetTime(clock.Add(-time.Minute))
	e.SetExtension("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	e.SetExtension("sequence", 7)
	require.NoError(t, e.SetData(cloudevents.ApplicationJSON, map[string]any{"quantity": 12.5, "model": "größe", "outputTokens": 3}))
	return e
}

// The product's own library speaks to us in each of its modes, and the same event is the same fact in all of them. Ids with a
// percent sign are left out: in binary mode this library does not encode it, which the HTTP binding demands.
func TestCloudEventsSDK(t *testing.T) {
	h := newFixture(t)
	s := serve(t, h)
	client, err := cloudevents.NewClientHTTP(cloudevents.WithTarget(s.URL+"/v1/events"), cloudevents.WithHeader("Authorization", "Bearer "+h.service))
	require.NoError(t, err)
	for _, id := range []string{"plain", "größe/日本", `quote "d"`} {
		e := fact(t, id)
		for i, mode := range []func() error{
			func() error { return client.Send(binding.WithForceStructured(t.Context()), e) },
			func() error { return client.Send(binding.WithForceBinary(t.Context()), e) },
			func() error { return client.Send(t.Context(), e) },
		} {
			var result *cehttp.Result
			err := mode()
			require.True(t, cloudevents.IsACK(err), "%s, mode %d: %v", id, i, err)
			require.True(t, cloudevents.ResultAs(err, &result))
			want := http.StatusOK
			if i == 0 {
				want = http.StatusCreated
			}
			assert.Equal(t, want, result.StatusCode, "%s, mode %d", id, i)
		}
	}
	assert.Equal(t, 3, h.events())

	e := fact(t, "plain")
	require.NoError(t, e.SetData(cloudevents.ApplicationJSON, map[string]any{"quantity": 13}))
	var result *cehttp.Result
	require.True(t, cloudevents.ResultAs(client.Send(t.Context(), e), &result))
	assert.Equal(t, http.StatusConflict, result.StatusCode)
}

func TestCloudEventsSDKBatch(t *testing.T) {
	h := newFixture(t)
	s := serve(t, h)
	events := []cloudevents.Event{fact(t, "a"), fact(t, "b"), fact(t, "a")}
	req, err := cloudevents.NewHTTPRequestFromEvents(t.Context(), s.URL+"/v1/events", events)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+h.acme)
	resp, err := s.Client().Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	assert.Equal(t, http.StatusOK, resp.StatusCode, fmt.Sprint(req.Header))
	assert.Equal(t, 2, h.events())
}
