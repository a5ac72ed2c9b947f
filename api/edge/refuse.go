package edge

import (
	"encoding/json"
	"errors"
	"net/http"
)

// refusals is the only table from errors to HTTP.
var refusals = []struct {
	err                 error
	status              int
	code, title, detail string
}{
	{ErrUnknown, http.StatusNotFound, "unknown_tenant", "There is no such workspace", "The address leads to no workspace. It may be misspelt, or not be set up yet."},
	{ErrConflict, http.StatusBadRequest, "tenant_conflict", "The request names different workspaces", "The host and the path must lead to the same workspace."},
	{ErrClosed, http.StatusForbidden, "tenant_closed", "This workspace is closed", "Ask those who run the product."},
	{ErrSuspended, http.StatusForbidden, "tenant_suspended", "This workspace is suspended", "Ask those who run the product."},
	{ErrUnavailable, http.StatusServiceUnavailable, "tenant_unavailable", "The workspace cannot be found out now", "Nothing was done. Try again in a moment."},
}

// refuse is the answer where the product has none of its own.
func refuse(w http.ResponseWriter, _ *http.Request, err error) {
	p := refusals[len(refusals)-1]
	for _, known := range refusals {
		if errors.Is(err, known.err) {
			p = known
			break
		}
	}
	body, _ := json.Marshal(struct { // strings and a number always encode
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Code   string `json:"code"`
	}{"urn:tollgate:problem:" + p.code, p.title, p.status, p.detail, p.code})
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store") // it can be another answer in a second
	if p.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1") // seconds
	}
	w.WriteHeader(p.status)
	_, _ = w.Write(body) // nobody is left to hear of a broken connection
}
