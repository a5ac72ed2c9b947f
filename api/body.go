package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"
)

// Bounds of what is read. A large body waits for one of few slots, so that memory stays bounded.
const (
	maxEventBytes  = 1 << 20
	maxBatchBytes  = 16 << 20
	maxBatchEvents = 10_000
	maxLineBytes   = maxEventBytes
	maxLargeBodies = 16
	maxSlotWait    = 10 * time.Second
)

// format is a media type that can carry events.
type format uint8

const (
	unsupported format = iota
	plainJSON
	jsonLines
	cloudEvent
	cloudEventBatch
	yamlText
)

var formats = map[string]format{
	"application/json":                   plainJSON,
	"application/x-ndjson":               jsonLines,
	"application/cloudevents+json":       cloudEvent,
	"application/cloudevents-batch+json": cloudEventBatch,
	"application/yaml":                   yamlText,
	"application/x-yaml":                 yamlText,
	"text/yaml":                          yamlText,
}

// formatOf reads Content-Type. Parameters are ignored, except that a charset must be UTF-8.
func formatOf(h http.Header) (format, error) {
	for _, encoding := range h["Content-Encoding"] {
		if !strings.EqualFold(encoding, "identity") {
			return unsupported, refuse(codeUnsupported, "Compressed bodies are not accepted; send without Content-Encoding.")
		}
	}
	values := h[echo.HeaderContentType]
	if len(values) != 1 {
		return unsupported, refuse(codeUnsupported, "Send one Content-Type.")
	}
	if values[0] == "application/json" {
		return plainJSON, nil
	}
	name, parameters, _ := strings.Cut(values[0], ";")
	f, ok := formats[strings.ToLower(strings.TrimSpace(name))]
	if !ok {
		return unsupported, refuse(codeUnsupported, "This route does not accept the Content-Type.")
	}
	for _, p := range strings.Split(parameters, ";") {
		key, value, _ := strings.Cut(p, "=")
		value = strings.Trim(strings.TrimSpace(value), `"`)
		if strings.EqualFold(strings.TrimSpace(key), "charset") && !strings.EqualFold(value, "utf-8") && !strings.EqualFold(value, "utf8") {
			return unsupported, refuse(codeUnsupported, "Only the charset UTF-8 is accepted.")
		}
	}
	return f, nil
}

// isJSON reports whether a media type says that the content is JSON.
func isJSON(mediaType string) bool {
	name, _, _ := strings.Cut(mediaType, ";")
	name = strings.ToLower(strings.TrimSpace(name))
	return name == "application/json" || name == "text/json" || strings.HasSuffix(name, "+json")
}

var errEventTooLarge = refuse(codeTooLarge, "The body has more than 1 MiB, the most for one event.")

// readOne reads a body of at most 1 MiB into the buffer, which it may replace by a larger one.
func readOne(r *http.Request, buf []byte) ([]byte, error) {
	if r.ContentLength > maxEventBytes {
		return buf, errEventTooLarge
	}
	if n := int(r.ContentLength); n >= cap(buf) {
		buf = make([]byte, 0, n+1) // one more, so that the end is seen without growing
	}
	buf, err := readUpTo(r.Body, buf[:0], maxEventBytes+1)
	if err == nil && len(buf) > maxEventBytes {
		err = errEventTooLarge
	}
	return buf, err
}

// readMany reads a body that may be a batch: at most 16 MiB where isBatch says so of its beginning, else 1 MiB. The
// function returned frees the slot of a large body.
func (s *Server) readMany(r *http.Request, buf []byte, isBatch func(head []byte) bool) ([]byte, func(), error) {
	free := func() {}
	if r.ContentLength > maxBatchBytes {
		return buf, free, refuse(codeTooLarge, "The body has more than 16 MiB, the most for a batch.")
	}
	buf, err := readUpTo(r.Body, buf[:0], maxEventBytes+1)
	switch {
	case err != nil || len(buf) <= maxEventBytes:
		return buf, free, err
	case !isBatch(buf):
		return buf, free, errEventTooLarge
	}
	if err := s.takeSlot(r.Context()); err != nil {
		return buf, free, err
	}
	free = func() { <-s.large }
	buf, err = readUpTo(r.Body, buf, maxBatchBytes+1)
	if err == nil && len(buf) > maxBatchBytes {
		err = refuse(codeTooLarge, "The body has more than 16 MiB, the most for a batch.")
	}
	return buf, free, err
}

func (s *Server) takeSlot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxSlotWait)
	defer cancel()
	select {
	case s.large <- struct{}{}:
		return nil
	case <-ctx.Done():
		return refuse(codeOverloaded, "Too many large bodies at the same time. Nothing was written. Try again later, or send a stream of lines.")
	}
}

// readUpTo appends to buf until the body ends or buf has n bytes.
func readUpTo(body io.Reader, buf []byte, n int) ([]byte, error) {
	for len(buf) < n {
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(max(2*cap(buf), 4096), n))
			copy(grown, buf)
			buf = grown
		}
		read, err := body.Read(buf[len(buf):min(cap(buf), n)])
		buf = buf[:len(buf)+read]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return buf, brokenBody(err)
		}
	}
	return buf, nil
}

// brokenBody distinguishes a body that came too slowly from one that ended early.
func brokenBody(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &problem{status: http.StatusRequestTimeout, code: codeInvalidJSON, detail: "The body did not arrive in time."}
	}
	return refuse(codeInvalidJSON, "The body ended early, or its transfer coding is broken.")
}

// startsArray looks at the first character that is not white space.
func startsArray(body []byte) bool {
	body = bytes.TrimLeft(body, " \t\r\n")
	return len(body) > 0 && body[0] == '['
}

// readObject reads a request that is one small JSON object with these members, and hands their values to read, which may
// note what is wrong with them.
func readObject(c echo.Context, names []string, read func(d *decoder, v []jsontext.Value)) error {
	return readObjectAs(c, codeInvalidRequest, names, read)
}

// readObjectAs is readObject where broken rules have another code.
func readObjectAs(c echo.Context, code string, names []string, read func(d *decoder, v []jsontext.Value)) error {
	f, err := formatOf(c.Request().Header)
	if err != nil {
		return err
	}
	if f != plainJSON {
		return refuse(codeUnsupported, "Send application/json.")
	}
	body, err := readOne(c.Request(), nil)
	if err != nil {
		return err
	}
	d := decoders.Get().(*decoder)
	defer d.release()
	d.begin(code)
	values := make([]jsontext.Value, len(names))
	if err := d.object(body, "", names, values, nil); err != nil {
		d.noteAll(err)
		return d.take()
	}
	read(d, values)
	return d.take()
}
