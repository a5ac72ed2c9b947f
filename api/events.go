package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

// scratch is what one request for a single event needs, kept for the next one.
type scratch struct {
	body   []byte
	answer []byte
	one    [1]app.Submission
}

var scratches = sync.Pool{New: func() any { return &scratch{body: make([]byte, 0, 4096), answer: make([]byte, 0, 512)} }}

func (s *scratch) release() {
	const most = 64 << 10 // a few large bodies must not stay in the pool
	if cap(s.body) > most {
		s.body = make([]byte, 0, 4096)
	}
	s.one[0] = app.Submission{}
	scratches.Put(s)
}

// RecordEvents implements ServerInterface.
func (s *Server) RecordEvents(c echo.Context, _ RecordEventsParams) error { return s.recordEvents(c) }

// recordEvents is POST /v1/events.
func (s *Server) recordEvents(c echo.Context) error {
	allowed := s.allow(s.EventTimeout)
	who, err := s.identifyInTenant(c, allowed)
	if err != nil {
		return err
	}
	r := c.Request()
	onlyRejected, err := onlyRejectedItems(r.URL)
	if err != nil {
		return err
	}
	binary := isBinary(r.Header)
	f, err := formatOf(r.Header)
	if err != nil && binary && r.ContentLength == 0 && r.Header[echo.HeaderContentType] == nil {
		f, err = plainJSON, nil // an event without data has no type of data
	}
	if err != nil {
		return err
	}
	switch {
	case f == jsonLines:
		return s.recordLines(c, who, onlyRejected)
	case f == cloudEventBatch:
		return s.recordMany(c, who, allowed, f, onlyRejected)
	case f == cloudEvent:
		return s.recordOne(c, who, allowed, func(d *decoder, body []byte, into *app.Submission) error {
			return d.cloudEvent(body, "", s.Now(), into)
		}, true)
	case f == plainJSON && binary:
		return s.recordOne(c, who, allowed, func(d *decoder, body []byte, into *app.Submission) error {
			return d.binaryEvent(r.Header, body, s.Now(), into)
		}, true)
	case f == plainJSON:
		return s.recordMany(c, who, allowed, f, onlyRejected)
	default:
		return refuse(codeUnsupported, "Events are sent as application/json, application/x-ndjson, application/cloudevents+json, "+
			"application/cloudevents-batch+json, or as a CloudEvent in binary mode with application/json.")
	}
}

func isBinary(h http.Header) bool {
	return h["Ce-Specversion"] != nil || h["Ce-Id"] != nil || h["Ce-Type"] != nil || h["Ce-Source"] != nil
}

func onlyRejectedItems(u *url.URL) (bool, error) {
	if u.RawQuery == "" {
		return false, nil
	}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return false, refuse(codeInvalidRequest, "The query is malformed.")
	}
	switch items := values["items"]; {
	case len(items) == 0 || len(items) == 1 && items[0] == "all":
		return false, nil
	case len(items) == 1 && items[0] == "rejected":
		return true, nil
	default:
		return false, invalid.New("/items", codeInvalidRequest, "items is all or rejected")
	}
}

type decodeFunc func(d *decoder, body []byte, into *app.Submission) error

// recordOne records a body that is a single event.
func (s *Server) recordOne(c echo.Context, who caller, allowed *allowance, decode decodeFunc, cloud bool) error {
	sc := scratches.Get().(*scratch)
	defer sc.release()
	var err error
	if sc.body, err = readOne(c.Request(), sc.body); err != nil {
		return err
	}
	d := decoders.Get().(*decoder)
	err = decode(d, sc.body, &sc.one[0])
	d.release()
	if err != nil {
		return err
	}
	return s.submit(c, who, allowed, sc, cloud)
}

// submit records the one decoded event and answers.
func (s *Server) submit(c echo.Context, who caller, allowed *allowance, sc *scratch, cloud bool) error {
	e := &sc.one[0]
	var err error
	if e.Tenant, err = who.tenantOf(e.Tenant); err != nil {
		return err
	}
	ctx, cancel := allowed.part(c, 1) // the body may have taken its time
	defer cancel()
	if err := s.noteSwitch(ctx, who); err != nil {
		return err
	}
	receipt := s.Ledger.Record(ctx, sc.one[:])[0]
	if counter := s.metrics.events[receipt.Status]; counter != nil {
		counter.Inc()
	}
	switch receipt.Status {
	case app.Recorded, app.Duplicate:
		sc.answer = appendReceipt(sc.answer[:0], receipt, string(e.Source))
		return writeBody(c, statusOf(receipt), sc.answer)
	default:
		if cloud {
			return inCloudEvent(receipt.Err)
		}
		return receipt.Err
	}
}

func statusOf(r app.Receipt) int {
	if r.Status == app.Recorded {
		return http.StatusCreated
	}
	return http.StatusOK
}

func appendReceipt(b []byte, r app.Receipt, source string) []byte {
	b = append(append(b, `{"status":"`...), r.Status...)
	b = appendString(append(b, `","sourceId":`...), source)
	b = appendPosition(append(b, `,"position":`...), r.Position)
	b = appendTime(append(b, `,"recordedAt":`...), r.RecordedAt)
	return append(b, '}')
}

// recordMany records a body that is an array, or, in our own form, perhaps a single event.
func (s *Server) recordMany(c echo.Context, who caller, allowed *allowance, f format, onlyRejected bool) error {
	sc := scratches.Get().(*scratch)
	defer sc.release()
	body, free, err := s.readMany(c.Request(), sc.body, func(head []byte) bool { return f == cloudEventBatch || startsArray(head) })
	defer free()
	sc.body = body
	if err != nil {
		return err
	}
	d := decoders.Get().(*decoder)
	defer d.release()
	if f == plainJSON && !startsArray(body) {
		if err := d.event(body, "", s.Now(), &sc.one[0]); err != nil {
			return err
		}
		return s.submit(c, who, allowed, sc, false)
	}
	elements, err := splitArray(body, maxBatchEvents)
	if err != nil {
		return err
	}
	if err := s.noteBatchSwitch(c, who); err != nil {
		return err
	}
	rec := s.newRecorder(onlyRejected)
	defer rec.list.close()
	items := make([]item, 0, min(len(elements), chunkEvents))
	for index, text := range elements {
		items = append(items, item{index: index})
		s.decodeItem(d, text, f, who, &items[len(items)-1])
		if len(items) == chunkEvents || index == len(elements)-1 {
			if err := rec.record(c.Request().Context(), items); err != nil {
				return err
			}
			items = items[:0]
		}
	}
	return rec.answer(c, func() {})
}

func (s *Server) decodeItem(d *decoder, text []byte, f format, who caller, i *item) {
	if len(text) > maxEventBytes {
		i.err = refuse(codeTooLarge, "The event has more than 1 MiB.")
		return
	}
	i.bytes = len(text)
	if f == cloudEventBatch {
		i.cloud = true
		i.err = d.cloudEvent(text, itemPointer(i.index), s.Now(), &i.submission)
	} else {
		i.err = d.event(text, itemPointer(i.index), s.Now(), &i.submission)
	}
	i.settle(who)
}

// recordLines records a stream of lines while it arrives. The answer comes after the last line, because most clients do not
// read before they have written everything.
func (s *Server) recordLines(c echo.Context, who caller, onlyRejected bool) error {
	ctx := c.Request().Context()
	if err := s.noteBatchSwitch(c, who); err != nil {
		return err
	}
	control := http.NewResponseController(c.Response())
	// A connection without deadlines (a recorder in a test) is as good without longer ones.
	extend := func() { _ = control.SetReadDeadline(s.Now().Add(s.LineTimeout)) }
	q := newQueue()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		q.finish(s.readLines(newLineReader(c.Request().Body, extend), who, q))
	}()
	rec := s.newRecorder(onlyRejected)
	defer rec.list.close()
	err := rec.drain(ctx, q, func() error { return s.stillValid(c) })
	if err != nil {
		q.stop()
		_ = control.SetReadDeadline(s.Now().Add(-ReadTimeout)) // wakes the reader
	}
	extendWrite := func() { _ = control.SetWriteDeadline(s.Now().Add(WriteTimeout)) }
	<-ended
	extendWrite()
	if err != nil {
		return err
	}
	return rec.answer(c, extendWrite)
}

// stillValid refuses to go on with a stream whose key was revoked, or has expired, since it began.
func (s *Server) stillValid(c echo.Context) error {
	hash, err := bearer(c.Request())
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	_, err = s.key(ctx, hash)
	return err
}

// drain records what the queue gives until it ends, as long as it is allowed.
func (r *recorder) drain(ctx context.Context, q *queue, allowed func() error) error {
	var items []item
	for {
		var err error
		if items, err = q.take(items); err != nil || len(items) == 0 {
			return err
		}
		if err := allowed(); err != nil {
			return err
		}
		if err := r.record(ctx, items); err != nil {
			return err
		}
	}
}

// readLines decodes lines into the queue until the stream ends, which is no error. A panic would take the process down
// from here, so it becomes an error.
func (s *Server) readLines(lines *lineReader, who caller, q *queue) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errPanicked, r)
		}
	}()
	d := decoders.Get().(*decoder)
	for index := 0; ; {
		line, tooLong, err := lines.next()
		switch {
		case errors.Is(err, io.EOF):
			d.release()
			return nil
		case err != nil:
			p := *problemOf(brokenBody(err))
			p.detail += " What was received before, " + strconv.Itoa(index) + " lines, may be recorded; send the whole stream again."
			return &p
		}
		i := item{index: index}
		if tooLong {
			i.err = refuse(codeTooLarge, "The line has more than 1 MiB.")
		} else if line = bytes.Trim(line, whiteSpace); len(line) == 0 {
			continue
		} else {
			s.decodeItem(d, line, jsonLines, who, &i)
		}
		index++
		if !q.put(i) {
			return nil
		}
	}
}
