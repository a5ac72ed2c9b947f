package app

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const (
	copyPage = 1_000 // events read at once, of each partition
	// copyWindow bounds what is imported at once, and with it how far tenants may be out of order among each other in the copy.
	copyWindow      = 5_000
	copyWindowBytes = 16 << 20
	markEvery       = 50 // events, of which the place is remembered
)

// CopyLog copies a log into another store, and verifies the copy. It goes on where an earlier one was interrupted: it finds what
// is left to do by comparing both logs from their beginnings, and keeps nothing else. It reads the log up to its end at the start;
// what is appended meanwhile is for the next CopyLog. Before it writes, it makes sure that the other store has nothing else.
type CopyLog struct {
	From, To eventstore.Copyable
	// Progress is called now and then; may be nil.
	Progress func(CopyProgress)
}

// CopyProgress is how far a CopyLog is in the first reading, which copies, or in the second one, which verifies.
type CopyProgress struct {
	Verifying   bool
	Events      int64 // of the log, that were read
	Done, Total int64 // offsets of the log, summed over the partitions
}

// CopyReport is what a log and its copy have.
type CopyReport struct {
	Events, Copied int64 // Copied: by this CopyLog
	Bytes          int64 // of payloads
	Tenants        int
	// Digest is the sum of the SHA-256 of all events, modulo 2^256: that of the copy is the same, in whatever order tenants are there.
	Digest [sha256.Size]byte
}

// Run copies and verifies. Errors: eventstore.ErrNotACopy where the other store has anything that is not a copy; those of the stores. After an
// error, Run goes on where it was.
func (m CopyLog) Run(ctx context.Context) (CopyReport, error) {
	until, err := m.heads(ctx)
	if err != nil {
		return CopyReport{}, err
	}
	copying := m.newPass(until)
	if err := copying.run(ctx); err != nil {
		return copying.report, err
	}
	verifying := m.newPass(until)
	verifying.verifying = true
	verifying.report.Copied = copying.report.Copied
	if err := verifying.run(ctx); err != nil {
		return verifying.report, fmt.Errorf("verify the copy: %w", err)
	}
	return verifying.report, nil
}

// pass goes once through the log, in order, and looks for each event in the copy.
type pass struct {
	CopyLog
	verifying bool
	total     int64
	source    source
	copy      copied
	window    []eventstore.Original
	bytes     int
	tenants   map[string]int64 // the offset of the last event in the copy
	report    CopyReport
}

// newPass makes a pass through the log up to offsets by partition.
func (m CopyLog) newPass(until []int64) *pass {
	p := &pass{CopyLog: m, source: newSource(m.From, until), copy: newCopied(m.To), tenants: map[string]int64{}}
	for _, offset := range until {
		p.total += offset
	}
	return p
}

// heads are the offsets at which the log ends now, by partition: a busy log has no end that a reader could reach.
func (m CopyLog) heads(ctx context.Context) (offsets []int64, err error) {
	for n := range m.From.Partitions() {
		head, err := m.From.Head(ctx, n)
		if err != nil {
			return nil, err
		}
		offsets = append(offsets, head.Offset)
	}
	return offsets, nil
}

func (p *pass) run(ctx context.Context) error {
	for {
		e, ok, err := p.source.next(ctx)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if err := p.visit(ctx, &e); err != nil {
			return err
		}
		p.report.Events++
		p.report.Bytes += int64(len(e.Data))
		if err := p.digest(&e); err != nil {
			return err
		}
		if p.Progress != nil && p.report.Events%copyPage == 0 {
			p.Progress(CopyProgress{Verifying: p.verifying, Events: p.report.Events, Done: p.source.done(), Total: p.total})
		}
	}
	if err := p.flush(ctx); err != nil {
		return err
	}
	delete(p.tenants, "") // the system's own events
	p.report.Tenants = len(p.tenants)
	return p.nothingElse(ctx, p.verifying)
}

// visit compares an event with its copy. Where the copy ends before it, it is put into the window of those to import.
func (p *pass) visit(ctx context.Context, e *eventstore.Original) error {
	c, ok, err := p.copy.find(ctx, e)
	if err != nil {
		return err
	}
	if ok {
		return p.compare(ctx, e, &c)
	}
	if p.verifying {
		return fmt.Errorf("%w: event %d of %s is missing", eventstore.ErrNotACopy, e.Revision, e.Stream)
	}
	moved := *e
	if moved.Data, err = event.Relocate(e.Recorded, func(at eventstore.Position) (eventstore.Position, error) {
		if err := p.flush(ctx); err != nil { // whatever the event is about is there then
			return at, err
		}
		return p.translate(ctx, e, at)
	}); err != nil {
		return err
	}
	p.window, p.bytes = append(p.window, moved), p.bytes+len(moved.Data)
	if len(p.window) == copyWindow || p.bytes >= copyWindowBytes {
		return p.flush(ctx)
	}
	return nil
}

func (p *pass) flush(ctx context.Context) error {
	if len(p.window) == 0 {
		return nil
	}
	if p.report.Copied == 0 { // nothing is written to a log that has anything else
		if err := p.nothingElse(ctx, true); err != nil {
			return err
		}
	}
	if err := p.To.Import(ctx, p.window); err != nil {
		return fmt.Errorf("import %d events: %w", len(p.window), err)
	}
	p.report.Copied += int64(len(p.window))
	p.window, p.bytes = p.window[:0], 0
	return nil
}

// nothingElse makes sure that what the copy has beyond what was asked for is in the log all the same: a CopyLog that was
// interrupted leaves such events, as tenants are out of order among each other. Whole: up to its end.
func (p *pass) nothingElse(ctx context.Context, whole bool) error {
	for n := range p.copy.at {
		for whole && !p.copy.ends[n] {
			if err := p.copy.read(ctx, n); err != nil {
				return err
			}
		}
	}
	others := map[place]copiedEvent{}
	for at, c := range p.copy.ahead {
		there, err := p.From.ReadStream(ctx, at.stream, at.revision, 1)
		if err != nil {
			return err
		}
		if len(there) == 0 || there[0].Tenant != c.Tenant || there[0].Type != c.Type {
			others[at] = c
			continue
		}
		data, err := unplaced(there[0])
		if err != nil {
			return err
		}
		if copied, err := unplaced(c.Recorded); err != nil || !bytes.Equal(data, copied) {
			others[at] = c
		}
	}
	if len(others) > 0 {
		return foreign(others)
	}
	return nil
}

// unplaced is the payload of an event without the positions that it mentions.
func unplaced(r eventstore.Recorded) ([]byte, error) {
	return event.Relocate(r, func(eventstore.Position) (eventstore.Position, error) { return eventstore.Position{}, nil })
}

// compare makes sure that an event and its copy are equal, and that the order within its tenant is.
func (p *pass) compare(ctx context.Context, e *eventstore.Original, c *copiedEvent) error {
	differs := func(what string) error {
		return fmt.Errorf("%w: event %d of %s has another %s", eventstore.ErrNotACopy, e.Revision, e.Stream, what)
	}
	data, err := event.Relocate(e.Recorded, func(at eventstore.Position) (eventstore.Position, error) {
		return p.check(ctx, e, c, at)
	})
	switch {
	case err != nil:
		return err
	case c.ID != e.ID:
		return differs("id")
	case c.Tenant != e.Tenant:
		return differs("tenant")
	case c.Type != e.Type:
		return differs("type")
	case !bytes.Equal(c.Data, data):
		return differs("payload")
	case !c.RecordedAt.Equal(e.RecordedAt) && (!c.RecordedAt.Equal(c.before) || c.RecordedAt.Before(e.RecordedAt)): // see eventstore.Copyable.Import
		return differs("recordedAt")
	case c.Position.Offset <= p.tenants[e.Tenant]:
		return fmt.Errorf("%w: event %d of %s is in another order", eventstore.ErrNotACopy, e.Revision, e.Stream)
	}
	p.tenants[e.Tenant] = c.Position.Offset
	return nil
}

// translate finds the place in the copy that a position of the log is for a tenant: with all of its events up to there before it,
// and all others after it. An event that mentions a position comes after it.
func (p *pass) translate(ctx context.Context, e *eventstore.Original, at eventstore.Position) (eventstore.Position, error) {
	next, err := p.nextOf(ctx, e, at)
	if err != nil {
		return at, err
	}
	if next.Position == e.Position {
		return p.To.Head(ctx, eventstore.PartitionOf(e.Tenant, p.To.Partitions()))
	}
	there, err := p.To.ReadStream(ctx, next.Stream, next.Revision, 1)
	if err != nil {
		return at, err
	}
	if len(there) == 0 {
		return at, fmt.Errorf("%w: event %d of %s is missing", eventstore.ErrNotACopy, next.Revision, next.Stream)
	}
	before := there[0].Position
	before.Offset--
	return before, nil
}

// check finds out whether the position that the copy of an event mentions is a right one, and returns it.
func (p *pass) check(ctx context.Context, e *eventstore.Original, c *copiedEvent, at eventstore.Position) (eventstore.Position, error) {
	var says eventstore.Position
	if _, err := event.Relocate(c.Recorded, func(at eventstore.Position) (eventstore.Position, error) {
		says = at
		return at, nil
	}); err != nil {
		return at, err
	}
	next, err := p.nextOf(ctx, e, at)
	switch {
	case err != nil:
		return at, err
	case next.Position != e.Position:
		return p.translate(ctx, e, at)
	case says.Partition == c.Position.Partition && says.Offset >= p.tenants[e.Tenant] && says.Offset < c.Position.Offset:
		return says, nil
	}
	return at, fmt.Errorf("%w: event %d of %s mentions the position %s", eventstore.ErrNotACopy, e.Revision, e.Stream, says)
}

// nextOf is the first event of the tenant of an event after a position of the log: that event at the latest.
func (p *pass) nextOf(ctx context.Context, e *eventstore.Original, at eventstore.Position) (eventstore.Recorded, error) {
	if at.Partition != e.Position.Partition || at.Offset >= e.Position.Offset {
		return eventstore.Recorded{}, fmt.Errorf("%w at %s: it mentions %s, which is not before it", event.ErrMalformed, e.Position, at)
	}
	from := p.source.upTo(at)
	for limit := 2 * markEvery; ; limit = copyPage {
		events, err := p.From.ReadLog(ctx, from, limit)
		if err != nil {
			return eventstore.Recorded{}, err
		}
		if i := slices.IndexFunc(events, func(r eventstore.Recorded) bool { return r.Tenant == e.Tenant && r.Position.Offset > at.Offset }); i >= 0 {
			return events[i], nil
		}
		if len(events) == 0 {
			return eventstore.Recorded{}, fmt.Errorf("%w: nothing at %s", eventstore.ErrHole, e.Position)
		}
		from = events[len(events)-1].Position
	}
}

// digest adds the hash of an event: of stream, revision, id, type, tenant, microseconds since 1970 and payload, each text with its
// length before it. Positions that it mentions count as none.
func (p *pass) digest(e *eventstore.Original) error {
	data, err := unplaced(e.Recorded)
	if err != nil {
		return err
	}
	b := make([]byte, 0, 512)
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	text(string(e.Stream))
	b = binary.AppendUvarint(b, uint64(e.Revision)) //nolint:gosec // counts events
	b = append(b, e.ID[:]...)
	text(e.Type)
	text(e.Tenant)
	b = binary.AppendVarint(b, e.RecordedAt.UnixMicro())
	b = binary.AppendUvarint(b, uint64(len(data)))
	sum := sha256.Sum256(append(b, data...))
	carry := uint64(0)
	for i := len(sum) - 8; i >= 0; i -= 8 {
		var word uint64
		word, carry = bits.Add64(binary.BigEndian.Uint64(p.report.Digest[i:]), binary.BigEndian.Uint64(sum[i:]), carry)
		binary.BigEndian.PutUint64(p.report.Digest[i:], word)
	}
	return nil
}
