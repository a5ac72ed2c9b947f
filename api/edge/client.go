package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxAnswer = 64 << 10 // bytes; an answer has some hundred
	maxID     = 200      // characters of a tenant's id
	maxWord   = 200      // bytes of a plan's key and of an entity tag
)

// client asks Tollgate's GET /v1/resolve.
type client struct {
	endpoint string
	key      string
	http     *http.Client
}

func newClient(base *url.URL, key string, given *http.Client) *client {
	c := http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    2 * mostAsked,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: maxAnswer,
	}}
	if given != nil {
		c = *given
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client{base.JoinPath("v1", "resolve").String(), key, &c}
}

// resolve asks once. Errors: ErrUnknown, ErrConflict; any other means that Tollgate did not say.
func (c *client) resolve(ctx context.Context, q question) (Tenant, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.endpoint+"?"+q.query(), http.NoBody) //nolint:gosec // the address is the configuration's; only the query is the request's
	if err != nil {
		return Tenant{}, fmt.Errorf("ask Tollgate: %w", err)
	}
	r.Header.Set("Authorization", "Bearer "+c.key)
	r.Header.Set("Accept", "application/json, application/problem+json")
	r.Header.Set("User-Agent", "tollgate-edge")
	answer, err := c.http.Do(r) //nolint:gosec // likewise
	if err != nil {
		return Tenant{}, fmt.Errorf("ask Tollgate: %w", err)
	}
	defer func() { _ = answer.Body.Close() }() // it was only read
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return Tenant{}, fmt.Errorf("read Tollgate's answer: %w", err)
	case len(body) > maxAnswer:
		return Tenant{}, fmt.Errorf("Tollgate's answer has more than %d bytes", maxAnswer)
	case answer.StatusCode == http.StatusOK:
		return parseTenant(body)
	}
	var problem struct{ Code string }
	_ = json.Unmarshal(body, &problem) // without a code it says nothing that is of use here
	// A 404 without the code is of somebody else: a wrong address, or a proxy that has lost Tollgate.
	switch {
	case answer.StatusCode == http.StatusNotFound && problem.Code == "unknown_tenant":
		return Tenant{}, ErrUnknown
	case answer.StatusCode == http.StatusBadRequest && problem.Code == "tenant_conflict":
		return Tenant{}, ErrConflict
	default:
		return Tenant{}, fmt.Errorf("Tollgate answered with status %d and code %.40q", answer.StatusCode, problem.Code)
	}
}

// parseTenant reads an answer. What could not be told from another tenant, or could not be carried on in a header, is an
// error.
func parseTenant(body []byte) (Tenant, error) {
	var a struct {
		TenantID  string  `json:"tenantId"`
		Plan      *string `json:"plan"`
		Status    Status  `json:"status"`
		FlagsETag string  `json:"flagsETag"`
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return Tenant{}, fmt.Errorf("Tollgate's answer is not JSON as agreed: %w", err)
	}
	t := Tenant{ID: a.TenantID, Status: a.Status, FlagsETag: a.FlagsETag}
	if a.Plan != nil {
		t.Plan = *a.Plan
	}
	switch {
	case t.ID == "" || utf8.RuneCountInString(t.ID) > maxID || strings.TrimSpace(t.ID) != t.ID || !isPrintable(t.ID):
		return Tenant{}, fmt.Errorf("Tollgate's answer has a tenantId that no header carries: %.100q", t.ID)
	case t.Status != Active && t.Status != Suspended && t.Status != Closed:
		return Tenant{}, fmt.Errorf("Tollgate's answer has the status %.40q", string(t.Status))
	case len(t.Plan) > maxWord || len(t.FlagsETag) > maxWord || !isPrintable(t.Plan) || !isPrintable(t.FlagsETag):
		return Tenant{}, errors.New("Tollgate's answer has a plan or an entity tag that no header carries")
	}
	return t, nil
}

func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError })
}
