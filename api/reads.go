package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

const (
	defaultLimit  = 50
	maxLimit      = 500
	maxCursor     = 48 << 10 // below MaxHeaderBytes; a cursor of usage carries the labels of its last row
	defaultWait   = 2 * time.Second
	maxWait       = 30 * time.Second
	defaultPeriod = 30 * 24 * time.Hour // of a usage report without from
)

// await makes a read wait until it reflects what its caller has written.
func (s *Server) await(c echo.Context, minPosition *string, waitMs *int) error {
	wait := defaultWait
	if waitMs != nil {
		if *waitMs < 0 || *waitMs > int(maxWait.Milliseconds()) {
			return invalidParameter("waitMs", fmt.Sprintf("must be between 0 and %d", maxWait.Milliseconds()))
		}
		wait = time.Duration(*waitMs) * time.Millisecond
	}
	if minPosition == nil {
		return nil
	}
	at, err := eventstore.ParsePosition(*minPosition)
	if err != nil {
		return invalidParameter("minPosition", "must be a position from an earlier answer")
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), wait)
	defer cancel()
	err = s.Positions.Await(ctx, at)
	var bad *invalid.Error
	if err != nil && ctx.Err() != nil && !errors.As(err, &bad) {
		return &problem{status: http.StatusGatewayTimeout, code: codeUnavailable,
			detail: fmt.Sprintf("The answer does not reflect position %s yet. Read again, or wait longer with waitMs.", at)}
	}
	if errors.Is(err, eventstore.ErrInvalid) {
		return invalidParameter("minPosition", "names a partition that this log does not have")
	}
	if err != nil {
		return fmt.Errorf("wait for position %s: %w", at, err)
	}
	return nil
}

// awaitDirectory is await for answers that come from the directory, which may keep for a second what it read before. It
// returns the position that was waited for, if any.
func (s *Server) awaitDirectory(c echo.Context, minPosition *string, waitMs *int) (at eventstore.Position, err error) {
	if err := s.await(c, minPosition, waitMs); err != nil || minPosition == nil {
		return at, err
	}
	if at, err = eventstore.ParsePosition(*minPosition); err != nil {
		return at, err // await has read it
	}
	ctx, cancel := work(c)
	defer cancel()
	if err := s.Directory.Reached(ctx, at); err != nil {
		return at, fmt.Errorf("wait for position %s: %w", at, err)
	}
	return at, nil
}

// page reads limit and cursor.
func page(limit *Limit, cursor *Cursor) (int, string, error) {
	n, after := defaultLimit, ""
	if limit != nil {
		n = *limit
	}
	if n < 1 || n > maxLimit {
		return 0, "", invalidParameter("limit", fmt.Sprintf("must be between 1 and %d", maxLimit))
	}
	if cursor != nil {
		after = *cursor
	}
	if len(after) > maxCursor || !isPlain(after) {
		return 0, "", invalidParameter("cursor", "must be the nextCursor of the page before")
	}
	return n, after, nil
}

// firstPage cuts what follows a cursor to one page; next is the cursor behind its last item, "" where nothing follows.
func firstPage[T any](items []T, most int, cursorOf func(*T) string) (page []T, next string) {
	if len(items) <= most {
		return items, ""
	}
	return items[:most], cursorOf(&items[most-1])
}

// newCursor makes the opaque text of a cursor.
func newCursor(cursor any) string {
	b, err := json.Marshal(cursor)
	if err != nil {
		panic("api: a cursor cannot be written: " + err.Error()) // only plain fields
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// openCursor reads what newCursor wrote.
func openCursor(text string, into any) error {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("read a cursor: %w", err)
	}
	return json.Unmarshal(b, into)
}

// errForeignCursor refuses a cursor that names nothing that was listed.
func errForeignCursor() error {
	return invalid.New("/cursor", "malformed", "the cursor was never given out; start again without one")
}

// instantOf reads a time of the query; the zero time where it is absent.
func instantOf(name string, value *string) (time.Time, error) {
	if value == nil {
		return time.Time{}, nil
	}
	t, ok := parseTime(*value)
	if !ok {
		return time.Time{}, invalidParameter(name, "must be an RFC 3339 time with offset, such as 2026-04-05T10:30:00.000Z; a plus sign is written %2B")
	}
	return t, nil
}

func textOf(value *string) string {
	if value == nil {
		return ""
	}
	return *value
}

func showPosition(c echo.Context, at eventstore.Position) {
	c.Response().Header()[headerPosition] = []string{at.String()}
}

func invalidParameter(name, detail string) error {
	return invalid.New("/"+name, codeInvalidRequest, name+" "+detail)
}
