package api

import (
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

const headerPosition = "Tollgate-Position"

var jsonType = []string{"application/json"}

// writeJSON answers with a view: a value whose fields are the members of the answer, in their order. It is the encoder of all
// routes but those for events and checks, which append their answers by hand.
func writeJSON(c echo.Context, status int, view any) error {
	body, err := json.Marshal(view, viewOptions)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return writeBody(c, status, body)
}

// viewOptions write text as it is: nothing is escaped for HTML, raw JSON keeps its escapes, and text that is not valid UTF-8
// gets replacement characters, as with appendString. Maps are sorted by name.
var viewOptions = json.JoinOptions(json.Deterministic(true), jsontext.AllowInvalidUTF8(true), jsontext.PreserveRawStrings(true))

// writeBody answers with a whole JSON text.
func writeBody(c echo.Context, status int, body []byte) error {
	h := c.Response().Header()
	h[echo.HeaderContentType] = jsonType
	h[echo.HeaderContentLength] = []string{strconv.Itoa(len(body))} // a long answer is not cut into chunks then
	c.Response().WriteHeader(status)
	_, err := c.Response().Write(body)
	if err != nil {
		return nil //nolint:nilerr // the client is gone
	}
	return nil
}

// list is one page of what a route lists.
type list[V any] struct {
	Items      []V      `json:"items"`
	NextCursor optional `json:"nextCursor"`
}

// listOf is a page with a view of each item; next is "" on the last page.
func listOf[T, V any](items []T, next string, view func(*T) V) list[V] {
	return list[V]{viewsOf(items, view), optional(next)}
}

func viewsOf[T, V any](items []T, view func(*T) V) []V {
	views := make([]V, len(items))
	for i := range items {
		views[i] = view(&items[i])
	}
	return views
}

// optional is text that is null where it is empty.
type optional string

// MarshalJSONTo implements json.MarshalerTo.
func (o optional) MarshalJSONTo(e *jsontext.Encoder) error {
	if o == "" {
		return e.WriteToken(jsontext.Null)
	}
	return e.WriteToken(jsontext.String(string(o)))
}

// instant is a time in UTC with milliseconds; the zero time is null.
type instant time.Time

// MarshalJSONTo implements json.MarshalerTo.
func (t instant) MarshalJSONTo(e *jsontext.Encoder) error {
	return e.WriteValue(appendTime(e.AvailableBuffer(), time.Time(t)))
}

// position is the opaque text of a position that users see.
type position eventstore.Position

// MarshalJSONTo implements json.MarshalerTo.
func (p position) MarshalJSONTo(e *jsontext.Encoder) error {
	return e.WriteValue(appendPosition(e.AvailableBuffer(), eventstore.Position(p)))
}

// amount is an amount of money, exact to the digit; numbers without a currency are a money.Decimal.
type amount struct {
	Amount   string `json:"amount"`
	Currency string `json:"currency"`
}

// amountOf shows the decimals of the currency at least, and all of those that the amount has.
func amountOf(d money.Decimal, currency string) amount {
	text := d.String()
	if decimals := catalog.Currency(currency).MinorUnits(); d.Round(decimals).Equal(d) {
		text = d.Fixed(decimals)
	}
	return amount{text, currency}
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

// nullable is a member that can be null, where a nil pointer leaves the member out.
type nullable[T any] struct{ value *T }

// MarshalJSONTo implements json.MarshalerTo.
func (n nullable[T]) MarshalJSONTo(e *jsontext.Encoder) error { return json.MarshalEncode(e, n.value) }
