package api

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const headerPosition = "Tollgate-Position"

var jsonType = []string{"application/json"}

// writeJSON answers with a whole JSON text.
func writeJSON(c echo.Context, status int, body []byte) error {
	h := c.Response().Header()
	h[echo.HeaderContentType] = jsonType
	h[echo.HeaderContentLength] = []string{strconv.Itoa(len(body))} // a long answer is not cut into chunks then
	c.Response().WriteHeader(status)
	_, err := c.Response().Write(body)
	if err != nil {
		return nil //nolint:nilerr // the client is gone; there is nobody to tell
	}
	return nil
}

// appendString appends a JSON string. Text that is not valid UTF-8 gets replacement characters.
func appendString(b []byte, text string) []byte {
	b, _ = jsontext.AppendQuote(b, text)
	return b
}

// appendOptional appends null for "".
func appendOptional(b []byte, text string) []byte {
	if text == "" {
		return append(b, "null"...)
	}
	return appendString(b, text)
}

// appendTime appends a time in UTC with milliseconds, or null for the zero time.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, "null"...)
	}
	return t.UTC().AppendFormat(b, `"2006-01-02T15:04:05.000Z"`)
}

// appendPosition appends a position as the opaque text that users see.
func appendPosition(b []byte, p eventstore.Position) []byte {
	b = strconv.AppendInt(append(b, '"'), int64(p.Partition), 10)
	return append(strconv.AppendInt(append(b, '-'), p.Offset, 10), '"')
}
