package esdbtest

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// any, noStream and streamExists are the expected revisions that are no number.
const (
	anyRevision  = -2
	noStream     = -1
	streamExists = -4
)

// recentEvents is how many event ids an append without an exact expectation is held against; the real server bounds that
// memory by bytes.
const recentEvents = 1000

var (
	errDeleted    = errors.New("the stream is deleted")
	errWrong      = errors.New("wrong expected version")
	errNoPosition = errors.New("there is no record at this position")
)

// record is one event as the log has it. Positions are offsets in bytes, so they are not dense; each event of an append has
// its own, which is its commit position and its prepare position.
type record struct {
	position    uint64
	stream      string
	number      int64
	id          uuid.UUID
	kind        string
	contentType string
	data, meta  []byte
	created     time.Time
}

// history is one stream: the indexes of its records, from the one with number 0 on.
type history struct {
	records   []int
	truncated int64 // events before this number cannot be read any more
	deleted   bool  // finally
}

// ledger is what all nodes of a cluster agree on.
type ledger struct {
	mu      sync.Mutex
	now     func() time.Time
	records []record
	streams map[string]*history
	recent  map[uuid.UUID]int // record by event id, of the latest events only
	order   []uuid.UUID       // of recent
	end     uint64            // where the next record begins
	changed chan struct{}     // closed and replaced when records are added
}

// newLedger makes a log that begins as a real one does: with records of the system's own.
func newLedger() *ledger {
	l := &ledger{now: time.Now, streams: map[string]*history{}, recent: map[uuid.UUID]int{}, changed: make(chan struct{})}
	l.write("$$$stats", []proposed{{id: uuid.New(), kind: "$metadata", contentType: jsonType, data: []byte("{}")}})
	return l
}

// proposed is an event to append.
type proposed struct {
	id          uuid.UUID
	kind        string
	contentType string
	data, meta  []byte
}

// appended is what a successful append answers.
type appended struct {
	revision int64
	position uint64
}

// append does what the server's own check does: an expectation that was met long ago is an idempotent write when exactly
// these ids are there, and a conflict otherwise.
func (l *ledger) append(stream string, expected int64, events []proposed) (appended, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.streams[stream]
	current := int64(noStream)
	if h != nil {
		if h.deleted {
			return appended{}, current, errDeleted
		}
		current = int64(len(h.records)) - 1
	}
	switch {
	case expected == streamExists && (h == nil || h.truncated > current):
		return appended{}, current, errWrong
	case expected == anyRevision || expected == streamExists:
		if last, known := l.recently(stream, events); known == len(events) {
			return appended{l.records[last].number, l.records[last].position}, current, nil
		} else if known > 0 {
			return appended{}, current, errWrong
		}
	case expected > current:
		return appended{}, current, errWrong
	case expected < current:
		for i, e := range events {
			at := expected + 1 + int64(i)
			if at <= current && l.records[h.records[at]].id == e.id {
				continue
			}
			// A stream that was deleted softly is as good as none, and goes on where it ended.
			if i == 0 && expected == noStream && h.truncated > current {
				return l.write(stream, events), current, nil
			}
			return appended{}, current, errWrong
		}
		if len(events) == 0 {
			return appended{}, current, errWrong
		}
		last := l.records[h.records[expected+int64(len(events))]]
		return appended{last.number, last.position}, current, nil
	}
	return l.write(stream, events), current, nil
}

// recently counts how many of the events, from the first on, were appended to the stream lately, and which was the last.
func (l *ledger) recently(stream string, events []proposed) (last, known int) {
	for i, e := range events {
		at, ok := l.recent[e.id]
		if !ok || l.records[at].stream != stream {
			return last, i
		}
		last = at
	}
	return last, len(events)
}

func (l *ledger) write(stream string, events []proposed) appended {
	h := l.streams[stream]
	if h == nil {
		h = &history{}
		l.streams[stream] = h
	}
	var last record
	for _, e := range events {
		last = record{
			position: l.end, stream: stream, number: int64(len(h.records)), id: e.id, kind: e.kind, contentType: e.contentType,
			data: slices.Clone(e.data), meta: slices.Clone(e.meta), created: l.now(),
		}
		l.end += uint64(100 + len(stream) + len(e.kind) + len(e.data) + len(e.meta))
		if l.recent[e.id] = len(l.records); len(l.order) == recentEvents {
			delete(l.recent, l.order[0])
			l.order = l.order[1:]
		}
		l.order = append(l.order, e.id)
		h.records = append(h.records, len(l.records))
		l.records = append(l.records, last)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return appended{last.number, last.position}
}

// remove deletes a stream: softly, so that it can begin again, or finally.
func (l *ledger) remove(stream string, expected int64, forEver bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.streams[stream]
	current := int64(noStream)
	if h != nil {
		current = int64(len(h.records)) - 1
	}
	switch {
	case h != nil && h.deleted:
		return errDeleted
	case expected != anyRevision && expected != current && (expected != streamExists || h == nil):
		return errWrong
	case forEver:
		l.write(stream, []proposed{{id: uuid.New(), kind: "$streamDeleted", contentType: jsonType, data: []byte("{}")}})
		l.streams[stream].deleted = true
	case h != nil:
		h.truncated = current + 1
		l.write("$$"+stream, []proposed{{id: uuid.New(), kind: "$metadata", contentType: jsonType, data: []byte(`{"$tb":9223372036854775807}`)}})
	}
	return nil
}

// stream returns up to count events of a stream in a direction; ok is false when there is no such stream.
func (l *ledger) stream(name string, from int64, backwards bool, count uint64) (events []record, ok bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.streams[name]
	if h == nil || len(h.records) == 0 {
		return nil, false, nil
	}
	if h.deleted {
		return nil, false, errDeleted
	}
	last := int64(len(h.records)) - 1
	if h.truncated > last {
		return nil, false, nil
	}
	step := int64(1)
	if backwards {
		step, from = -1, min(from, last)
	} else {
		from = max(from, h.truncated)
	}
	for at := from; at >= h.truncated && at <= last && uint64(len(events)) < count; at += step {
		events = append(events, l.records[h.records[at]])
	}
	return events, true, nil
}

// at is the index of the first record that does not begin before a position.
func (l *ledger) at(position uint64) (index int, exact bool) {
	return slices.BinarySearchFunc(l.records, position, func(r record, p uint64) int {
		switch {
		case r.position < p:
			return -1
		case r.position > p:
			return 1
		}
		return 0
	})
}

// all returns up to count records before or from an index on, of the first visible ones.
func (l *ledger) all(index int, backwards bool, count uint64, visible int) []record {
	visible = min(visible, len(l.records))
	if backwards {
		index = min(index, visible)
		events := slices.Clone(l.records[index-int(min(count, uint64(index))) : index])
		slices.Reverse(events)
		return events
	}
	index = min(index, visible)
	return slices.Clone(l.records[index : index+int(min(count, uint64(visible-index)))])
}
