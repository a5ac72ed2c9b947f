package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

const (
	chunkEvents = 1000    // recorded in one call: larger ones only add latency
	chunkBytes  = 4 << 20 // of lines that wait to be recorded

	listMemory = 1 << 20   // of a batch's answer; the rest is spooled
	listBytes  = 256 << 20 // of the whole list; beyond it only rejected events are listed, up to twice as much
)

// item is one event of a batch on its way to the ledger.
type item struct {
	index      int
	submission app.Submission
	err        error // why it cannot be submitted
	cloud      bool
	bytes      int
}

// settle finds the tenant of an event that was decoded.
func (i *item) settle(who caller) {
	if i.err == nil {
		i.submission.Tenant, i.err = who.tenantOf(i.submission.Tenant)
	}
}

// recorder records the items of one batch, chunk by chunk, and gathers the answer.
type recorder struct {
	server *Server
	list   itemList

	recorded, duplicates, rejected int
	position                       eventstore.Position
	line                           []byte
	pending                        []app.Submission
}

func (s *Server) newRecorder(onlyRejected bool) *recorder {
	return &recorder{server: s, list: itemList{onlyRejected: onlyRejected, folder: s.SpoolDir}}
}

// record submits a chunk. An error says that the outcome of some event is unknown: then the whole batch is to be sent
// again, and what was recorded is a duplicate then.
func (r *recorder) record(ctx context.Context, items []item) error {
	r.pending = r.pending[:0]
	for i := range items {
		if items[i].err == nil {
			r.pending = append(r.pending, items[i].submission)
		}
	}
	var receipts []app.Receipt
	if len(r.pending) > 0 {
		ctx, cancel := context.WithTimeout(ctx, r.server.EventTimeout)
		defer cancel()
		receipts = r.server.Ledger.Record(ctx, r.pending)
		for i := range receipts {
			if receipts[i].Status == "" {
				return sendAgain(receipts[i].Err)
			}
		}
	}
	for i := range items {
		receipt := app.Receipt{Status: app.Invalid, Err: items[i].err}
		if items[i].err == nil {
			receipt, receipts = receipts[0], receipts[1:]
		} else if p := problemOf(items[i].err); p.status >= http.StatusInternalServerError {
			return items[i].err
		}
		r.add(&items[i], receipt)
	}
	return nil
}

func sendAgain(err error) error {
	p := *problemOf(err)
	if p.status == http.StatusServiceUnavailable {
		p.detail = "The outcome of some events is unknown. Send the whole batch again: what was recorded is answered as a duplicate."
		return &p
	}
	return err
}

func (r *recorder) add(i *item, receipt app.Receipt) {
	r.server.metrics.events[receipt.Status].Inc()
	b := strconv.AppendInt(append(r.line[:0], `,{"index":`...), int64(i.index), 10)
	b = append(b, `,"sourceId":`...)
	if source := string(i.submission.Source); event.CheckID(source) == nil {
		b = appendString(b, source)
	} else {
		b = append(b, "null"...)
	}
	b = append(append(append(b, `,"status":"`...), receipt.Status...), '"')
	switch receipt.Status {
	case app.Recorded, app.Duplicate:
		b = appendPosition(append(b, `,"position":`...), receipt.Position)
		r.advance(receipt.Position)
		if receipt.Status == app.Recorded {
			r.recorded++
		} else {
			r.duplicates++
		}
	default:
		r.rejected++
		p := i.problem(receipt)
		b = append(append(append(b, `,"code":"`...), p.code...), '"')
		b = appendString(append(b, `,"detail":`...), p.detail)
	}
	b = append(b, '}')
	r.line = b
	r.list.add(r.line, receipt.Status != app.Recorded && receipt.Status != app.Duplicate)
}

// problem of a rejected item; its pointers start with the place in the batch.
func (i *item) problem(receipt app.Receipt) *problem {
	err := receipt.Err
	if i.err != nil {
		return problemOf(err)
	}
	// It was found by the ledger, which never saw the batch.
	if i.cloud {
		err = inCloudEvent(err)
	}
	var bad *invalid.Error
	var differs *app.SourceConflictError
	switch {
	case errors.As(err, &bad):
		return invalidProblem(moved(bad, i.index))
	case errors.As(err, &differs):
		fields := make([]string, len(differs.Fields))
		for n, f := range differs.Fields {
			fields[n] = itemPointer(i.index) + f
		}
		return conflictProblem(fields)
	}
	return problemOf(err)
}

// moved prefixes the pointers of an error with the place of its event or check in the batch.
func moved(bad *invalid.Error, index int) *invalid.Error {
	to := &invalid.Error{Fields: slices.Clone(bad.Fields)}
	for i := range to.Fields {
		to.Fields[i].Pointer = itemPointer(index) + to.Fields[i].Pointer
	}
	return to
}

// advance keeps the last position. Batches over tenants in several partitions show that of the last item.
func (r *recorder) advance(p eventstore.Position) {
	if p.Partition != r.position.Partition || p.Offset > r.position.Offset {
		r.position = p
	}
}

// answer writes the whole answer; extend is called before each part of it.
func (r *recorder) answer(c echo.Context, extend func()) error {
	b := strconv.AppendInt([]byte(`{"recorded":`), int64(r.recorded), 10)
	b = strconv.AppendInt(append(b, `,"duplicates":`...), int64(r.duplicates), 10)
	b = strconv.AppendInt(append(b, `,"rejected":`...), int64(r.rejected), 10)
	b = append(b, `,"position":`...)
	if r.position.Offset == 0 {
		b = append(b, "null"...)
	} else {
		b = appendPosition(b, r.position)
	}
	b = append(b, `,"items":[`...)
	tail := []byte("]}")
	if r.list.omitted > 0 {
		tail = append(strconv.AppendInt([]byte(`],"itemsOmitted":`), int64(r.list.omitted), 10), '}')
	}
	c.Response().Header()[echo.HeaderContentType] = jsonType
	c.Response().WriteHeader(http.StatusOK)
	extend()
	if err := r.list.writeTo(c.Response(), b, tail, extend); err != nil {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
	return nil
}

// itemList holds the items of an answer: a part in memory, the rest in a file without a name. The text is a sequence of
// ",{...}".
type itemList struct {
	onlyRejected bool
	folder       string

	file    *os.File
	filed   int64 // bytes of file that count
	memory  []byte
	full    bool // the disk takes no more
	omitted int
}

func (l *itemList) add(text []byte, rejected bool) {
	if l.onlyRejected && !rejected {
		return
	}
	most := int64(listBytes)
	if rejected {
		most *= 2
	}
	if l.filed+int64(len(l.memory)+len(text)) > most {
		l.omitted++
		return
	}
	if len(l.memory)+len(text) > listMemory && !l.spool() {
		l.omitted++
		return
	}
	l.memory = append(l.memory, text...)
}

// spool moves the memory part to the file.
func (l *itemList) spool() bool {
	if l.full {
		return false
	}
	if l.file == nil {
		f, err := os.CreateTemp(l.folder, "tollgate-answer-*")
		if err != nil {
			l.full = true
			return false
		}
		l.file = f
		_ = os.Remove(f.Name()) // where an open file cannot be removed, close does it
	}
	if _, err := l.file.WriteAt(l.memory, l.filed); err != nil {
		l.full = true
		return false
	}
	l.filed += int64(len(l.memory))
	l.memory = l.memory[:0]
	return true
}

func (l *itemList) writeTo(w io.Writer, head, tail []byte, extend func()) error {
	if l.filed == 0 {
		body := l.memory
		if len(body) > 0 {
			body = body[1:]
		}
		_, err := w.Write(append(append(head, body...), tail...))
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	part := make([]byte, 64<<10)
	for at := int64(1); at < l.filed; { // without the first comma
		extend()
		n, err := l.file.ReadAt(part[:min(int64(len(part)), l.filed-at)], at)
		if n == 0 {
			return err
		}
		if _, err := w.Write(part[:n]); err != nil {
			return err
		}
		at += int64(n)
	}
	extend()
	if _, err := w.Write(l.memory); err != nil {
		return err
	}
	_, err := w.Write(tail)
	return err
}

func (l *itemList) close() {
	if l.file != nil {
		_ = l.file.Close()
		_ = os.Remove(l.file.Name()) // usually gone already
	}
}

// queue is between the goroutine that reads and decodes a stream and the one that records it. The recorder takes all
// that waits, so that batches grow with the load and a slow sender's events are recorded at once.
type queue struct {
	mu      sync.Mutex
	changed sync.Cond
	items   []item
	bytes   int
	done    bool  // nothing more comes
	err     error // why
	stopped bool  // nothing more is taken
}

func newQueue() *queue {
	q := &queue{}
	q.changed.L = &q.mu
	return q
}

// put waits for room. It reports false when nothing more is taken.
func (q *queue) put(i item) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopped && len(q.items) > 0 && (len(q.items) >= chunkEvents || q.bytes+i.bytes > chunkBytes) {
		q.changed.Wait()
	}
	if q.stopped {
		return false
	}
	q.items = append(q.items, i)
	q.bytes += i.bytes
	q.changed.Broadcast()
	return true
}

func (q *queue) finish(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.done, q.err = true, err
	q.changed.Broadcast()
}

func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.changed.Broadcast()
}

// take waits for items and returns all of them, and gives the next ones the space of used. At the end there are none, and
// the error says how it ended.
func (q *queue) take(used []item) ([]item, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.done {
		q.changed.Wait()
	}
	if len(q.items) == 0 {
		return nil, q.err
	}
	clear(used)
	items := q.items
	q.items, q.bytes = used[:0], 0
	q.changed.Broadcast()
	return items, nil
}

func itemPointer(index int) string {
	var b strings.Builder
	b.WriteByte('/')
	b.WriteString(strconv.Itoa(index))
	return b.String()
}
