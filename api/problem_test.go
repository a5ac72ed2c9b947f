package api

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/optimistic"
)

// The codes that the API has are those that its description lists, and the other way round.
func TestCodesAreDescribed(t *testing.T) {
	text, err := os.ReadFile("openapi.yaml")
	require.NoError(t, err)
	var described struct {
		Components struct {
			Schemas struct {
				Code struct {
					Enum []string `yaml:"enum"`
				} `yaml:"Code"`
			} `yaml:"schemas"`
		} `yaml:"components"`
	}
	require.NoError(t, yaml.Unmarshal(text, &described))
	enum := described.Components.Schemas.Code.Enum
	require.ElementsMatch(t, slices.Collect(maps.Keys(codes)), enum)
	for code, c := range codes {
		require.NotEmpty(t, c.title, code)
		require.GreaterOrEqual(t, c.status, http.StatusBadRequest, code)
	}
}

// What cannot be done says whether to try again.
func TestConflictsAndContention(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{fmt.Errorf("%w: the slug acme belongs to another tenant", app.ErrConflict), http.StatusConflict, "conflict"},
		{fmt.Errorf("record: %w", &app.SourceConflictError{Fields: []string{"/quantity"}}), http.StatusConflict, "source_conflict"},
		{fmt.Errorf("%w: the catalog", app.ErrContended), http.StatusServiceUnavailable, "overloaded"},
		{optimistic.Retry("it", func() (bool, error) { return false, nil }), http.StatusServiceUnavailable, "overloaded"},
		{invalid.New("/quantity", invalid.CodeEvent, "d"), http.StatusBadRequest, "invalid_event"},
		{invalid.New("/meters", "unknown_field", "d"), http.StatusBadRequest, "invalid_request"},
	} {
		p := problemOf(c.err)
		require.Equal(t, c.status, p.status, c.err)
		require.Equal(t, c.code, p.code, c.err)
	}
	s, e, w := &Server{Config: Config{Log: slog.New(slog.DiscardHandler)}}, echo.New(), httptest.NewRecorder()
	s.fail(e.NewContext(httptest.NewRequest(http.MethodPost, "/", nil), w), app.ErrContended)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
}
