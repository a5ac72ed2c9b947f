package api_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRecordOne(t *testing.T) {
	h := newHouse(t)
	body := usageEvent("call_1", `,"quantity":3,"data":{"model":"gpt-4.1"}`)

	first := h.post(h.acme, "application/json", body)
	require.Equal(t, http.StatusCreated, first.Code, first.Body)
	position := first.json()["position"].(string)
	assert.JSONEq(t, `{"status":"recorded","sourceId":"call_1","position":"`+position+`","recordedAt":"2026-04-05T10:31:00.000Z"}`, first.Body.String())

	again := h.post(h.acme, "application/json; charset=utf-8", body)
	require.Equal(t, http.StatusOK, again.Code)
	assert.JSONEq(t, `{"status":"duplicate","sourceId":"call_1","position":"`+position+`","recordedAt":"2026-04-05T10:31:00.000Z"}`, again.Body.String())

	other := h.post(h.acme, "application/json", usageEvent("call_1", `,"quantity":4`))
	require.Equal(t, http.StatusConflict, other.Code)
	assert.Equal(t, "source_conflict", other.code())

	got := h.do(request{method: "GET", path: "/v1/events/tokens_spent/call_1", key: h.acme})
	require.Equal(t, http.StatusOK, got.Code, got.Body)
	assert.Equal(t, position, got.Header().Get("Tollgate-Position"))
	assert.JSONEq(t, `{"tenantId":"acme","eventType":"tokens_spent","sourceId":"call_1","status":"recorded","quantity":3,
		"occurredAt":"2026-04-05T10:30:00.000Z","data":{"model":"gpt-4.1"},"position":"`+position+`","recordedAt":"2026-04-05T10:31:00.000Z",
		"emitter":null,"traceparent":null,"original":{"quantity":3,"data":{"model":"gpt-4.1"}},"corrections":[],"hold":null,"decision":null,"invoiceLines":[]}`, got.Body.String())
}
