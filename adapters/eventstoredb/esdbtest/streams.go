package esdbtest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
)

const jsonType = "application/json"

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// stalled waits until either side gives up.
func (n *Node) stalled(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-n.life():
		return errRestart
	}
}

// Append implements the Streams service. A follower forwards to the leader, so it writes as well.
func (n *Node) Append(call streams.Streams_AppendServer) error {
	if err := n.admit(call.Context(), call.SetTrailer); err != nil {
		return err
	}
	first, err := call.Recv()
	if err != nil {
		return err
	}
	options := first.GetOptions()
	stream := string(options.GetStreamIdentifier().GetStreamName())
	fault := n.cluster.fault(Op{Append, stream})
	if fault.Before != nil {
		return fault.Before
	}
	if fault.Stall && fault.After == nil {
		return n.stalled(call.Context())
	}
	events, err := receive(call)
	if err != nil {
		return err
	}
	expected := int64(anyRevision)
	switch o := options.GetExpectedStreamRevision().(type) {
	case *streams.AppendReq_Options_NoStream:
		expected = noStream
	case *streams.AppendReq_Options_StreamExists:
		expected = streamExists
	case *streams.AppendReq_Options_Revision:
		expected = int64(min(o.Revision, math.MaxInt64)) //nolint:gosec // bounded
	}
	done, current, err := n.cluster.ledger.append(stream, expected, events)
	switch {
	case errors.Is(err, errDeleted):
		return streamDeleted(stream, call.SetTrailer)
	case fault.Stall:
		return n.stalled(call.Context())
	case fault.After != nil:
		return fault.After
	case err != nil:
		return call.SendAndClose(conflict(expected, current))
	}
	success := &streams.AppendResp_Success{
		CurrentRevisionOption: &streams.AppendResp_Success_CurrentRevision{CurrentRevision: uint64(done.revision)},
		PositionOption:        &streams.AppendResp_Success_Position{Position: &streams.AppendResp_Position{CommitPosition: done.position, PreparePosition: done.position}},
	}
	return call.SendAndClose(&streams.AppendResp{Result: &streams.AppendResp_Success_{Success: success}})
}

func receive(call streams.Streams_AppendServer) (events []proposed, err error) {
	size := 0
	for {
		r, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return nil, err
		}
		m := r.GetProposedMessage()
		id := uuid.UUID{}
		if s := m.GetId().GetStructured(); s != nil {
			if id, err = esdb.ParseUUIDFromInt64(s.MostSignificantBits, s.LeastSignificantBits); err != nil {
				return nil, status.Error(codes.InvalidArgument, err.Error())
			}
		}
		e := proposed{id: id, kind: m.GetMetadata()["type"], contentType: m.GetMetadata()["content-type"], data: m.GetData(), meta: m.GetCustomMetadata()}
		if size += 2*len(e.kind) + len(e.data) + len(e.meta); size > MaxAppendSize {
			call.SetTrailer(metadata.Pairs("exception", "maximum-append-size-exceeded", "maximum-append-size", strconv.Itoa(MaxAppendSize)))
			return nil, status.Error(codes.InvalidArgument, "Maximum Append Size of "+strconv.Itoa(MaxAppendSize)+" Exceeded.")
		}
		events = append(events, e)
	}
}

func streamDeleted(stream string, trailer func(metadata.MD)) error {
	trailer(metadata.Pairs("exception", "stream-deleted", "stream-name", stream))
	return status.Error(codes.FailedPrecondition, "Event stream '"+stream+"' is deleted.")
}

func conflict(expected, current int64) *streams.AppendResp {
	wrong := &streams.AppendResp_WrongExpectedVersion{}
	if current < 0 {
		wrong.CurrentRevisionOption = &streams.AppendResp_WrongExpectedVersion_CurrentNoStream{CurrentNoStream: &shared.Empty{}}
	} else {
		wrong.CurrentRevisionOption = &streams.AppendResp_WrongExpectedVersion_CurrentRevision{CurrentRevision: uint64(current)}
	}
	switch {
	case expected == noStream:
		wrong.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedNoStream{ExpectedNoStream: &shared.Empty{}}
	case expected == streamExists:
		wrong.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedStreamExists{ExpectedStreamExists: &shared.Empty{}}
	case expected == anyRevision:
		wrong.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedAny{ExpectedAny: &shared.Empty{}}
	default:
		wrong.ExpectedRevisionOption = &streams.AppendResp_WrongExpectedVersion_ExpectedRevision{ExpectedRevision: uint64(expected)} //nolint:gosec // not negative
	}
	return &streams.AppendResp{Result: &streams.AppendResp_WrongExpectedVersion_{WrongExpectedVersion: wrong}}
}

// Delete implements the Streams service: softly.
func (n *Node) Delete(_ context.Context, r *streams.DeleteReq) (*streams.DeleteResp, error) {
	expected := int64(anyRevision)
	switch o := r.GetOptions().GetExpectedStreamRevision().(type) {
	case *streams.DeleteReq_Options_NoStream:
		expected = noStream
	case *streams.DeleteReq_Options_StreamExists:
		expected = streamExists
	case *streams.DeleteReq_Options_Revision:
		expected = int64(o.Revision) //nolint:gosec // a test's own
	}
	stream := string(r.GetOptions().GetStreamIdentifier().GetStreamName())
	if err := n.cluster.ledger.remove(stream, expected, false); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &streams.DeleteResp{PositionOption: &streams.DeleteResp_Position_{Position: &streams.DeleteResp_Position{}}}, nil
}

// Tombstone implements the Streams service: the stream can never begin again.
func (n *Node) Tombstone(_ context.Context, r *streams.TombstoneReq) (*streams.TombstoneResp, error) {
	stream := string(r.GetOptions().GetStreamIdentifier().GetStreamName())
	if err := n.cluster.ledger.remove(stream, anyRevision, true); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &streams.TombstoneResp{PositionOption: &streams.TombstoneResp_Position_{Position: &streams.TombstoneResp_Position{}}}, nil
}

// answer is a read on its way to the client, with the fault that befalls it.
type answer struct {
	node  *Node
	call  streams.Streams_ReadServer
	fault Fault
	sent  int
}

func (a *answer) send(r *streams.ReadResp) error {
	if a.sent++; a.fault.Cut > 0 && a.sent > a.fault.Cut {
		if a.fault.Stall {
			return a.node.stalled(a.call.Context())
		}
		return Unavailable
	}
	return a.call.Send(r)
}

func (a *answer) event(r record) error {
	e := &streams.ReadResp_ReadEvent_RecordedEvent{
		Id: &shared.UUID{Value: &shared.UUID_String_{String_: r.id.String()}}, StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(r.stream)},
		StreamRevision: uint64(r.number), PreparePosition: r.position, CommitPosition: r.position, //nolint:gosec // not negative
		Metadata: map[string]string{
			"type": r.kind, "content-type": r.contentType,
			"created": strconv.FormatInt(r.created.UnixNano()/100, 10),
		},
		CustomMetadata: r.meta, Data: r.data,
	}
	return a.send(&streams.ReadResp{Content: &streams.ReadResp_Event{Event: &streams.ReadResp_ReadEvent{
		Event: e, Position: &streams.ReadResp_ReadEvent_CommitPosition{CommitPosition: r.position},
	}}})
}

// Read implements the Streams service: reads of one stream and of all, and subscriptions to all.
func (n *Node) Read(r *streams.ReadReq, call streams.Streams_ReadServer) error {
	if err := n.admit(call.Context(), call.SetTrailer); err != nil {
		return err
	}
	o := r.GetOptions()
	op := Op{Kind: ReadAll}
	switch {
	case o.GetStream() != nil:
		op = Op{ReadStream, string(o.GetStream().GetStreamIdentifier().GetStreamName())}
	case o.GetSubscription() != nil:
		op.Kind = Subscribe
	}
	a := &answer{node: n, call: call, fault: n.cluster.fault(op)}
	if a.fault.Before != nil {
		return a.fault.Before
	}
	if a.fault.Stall && a.fault.Cut == 0 {
		return n.stalled(call.Context())
	}
	switch op.Kind {
	case ReadStream:
		return n.readStream(a, op.Stream, o)
	case ReadAll:
		return n.readAll(a, o)
	default:
		return n.subscribe(a, o)
	}
}

func (n *Node) readStream(a *answer, stream string, o *streams.ReadReq_Options) error {
	backwards := o.GetReadDirection() == streams.ReadReq_Options_Backwards
	from := int64(0)
	switch at := o.GetStream().GetRevisionOption().(type) {
	case *streams.ReadReq_Options_StreamOptions_Revision:
		from = int64(min(at.Revision, math.MaxInt64)) //nolint:gosec // bounded
	case *streams.ReadReq_Options_StreamOptions_End:
		from = math.MaxInt64
	}
	n.cluster.ledger.mu.Lock()
	hidden := uint64(math.MaxUint64)
	if v := n.visible(); v < len(n.cluster.ledger.records) {
		hidden = n.cluster.ledger.records[v].position
	}
	n.cluster.ledger.mu.Unlock()
	events, ok, err := n.cluster.ledger.stream(stream, from, backwards, o.GetCount())
	if err != nil {
		return streamDeleted(stream, a.call.SetTrailer)
	}
	events = slices.DeleteFunc(events, func(r record) bool { return r.position >= hidden })
	if !ok {
		return a.send(&streams.ReadResp{Content: &streams.ReadResp_StreamNotFound_{StreamNotFound: &streams.ReadResp_StreamNotFound{
			StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(stream)},
		}}})
	}
	for _, r := range events {
		if err := a.event(r); err != nil {
			return err
		}
	}
	return nil
}

// start is the index at which a read of all begins.
func (n *Node) start(o *streams.ReadReq_Options) (int, error) {
	l := n.cluster.ledger
	switch at := o.GetAll().GetAllOption().(type) {
	case *streams.ReadReq_Options_AllOptions_Position:
		index, exact := l.at(at.Position.GetCommitPosition())
		if !exact && index < len(l.records) {
			return 0, status.Error(codes.Unknown, fmt.Sprintf("%s: %d", errNoPosition, at.Position.GetCommitPosition()))
		}
		if exact && o.GetSubscription() != nil {
			index++ // a subscription goes on after what it has
		}
		return index, nil
	case *streams.ReadReq_Options_AllOptions_End:
		return len(l.records), nil
	}
	return 0, nil
}

func (n *Node) readAll(a *answer, o *streams.ReadReq_Options) error {
	l := n.cluster.ledger
	l.mu.Lock()
	start, err := n.start(o)
	if err != nil {
		l.mu.Unlock()
		return err
	}
	events := l.all(start, o.GetReadDirection() == streams.ReadReq_Options_Backwards, o.GetCount(), n.visible())
	l.mu.Unlock()
	for _, r := range events {
		if err := a.event(r); err != nil {
			return err
		}
	}
	return nil
}

// page is how many records a subscription looks at in one go.
const page = 100

func (n *Node) subscribe(a *answer, o *streams.ReadReq_Options) error {
	matches, every, err := filter(o.GetFilter())
	if err != nil {
		return err
	}
	l := n.cluster.ledger
	l.mu.Lock()
	next, err := n.start(o)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	confirmation := &streams.ReadResp_SubscriptionConfirmation{SubscriptionId: uuid.NewString()}
	if err := a.send(&streams.ReadResp{Content: &streams.ReadResp_Confirmation{Confirmation: confirmation}}); err != nil {
		return err
	}
	considered, caughtUp := uint32(0), false
	for {
		l.mu.Lock()
		events, changed := l.all(next, false, page, n.visible()), l.changed
		l.mu.Unlock()
		next += len(events)
		for _, r := range events {
			if matches(r) {
				if err := a.event(r); err != nil {
					return err
				}
			}
			if considered++; every > 0 && considered%every == 0 {
				checkpoint := &streams.ReadResp_Checkpoint{CommitPosition: r.position, PreparePosition: r.position}
				if err := a.send(&streams.ReadResp{Content: &streams.ReadResp_Checkpoint_{Checkpoint: checkpoint}}); err != nil {
					return err
				}
			}
		}
		if len(events) > 0 {
			continue
		}
		if !caughtUp {
			caughtUp = true
			if err := a.send(&streams.ReadResp{Content: &streams.ReadResp_CaughtUp_{CaughtUp: &streams.ReadResp_CaughtUp{}}}); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-a.call.Context().Done():
			return a.call.Context().Err()
		case <-n.life():
			return errRestart
		}
	}
}

// filter makes a predicate, and says after how many records a checkpoint is told; 0 is never.
func filter(o *streams.ReadReq_Options_FilterOptions) (matches func(record) bool, every uint32, err error) {
	if o == nil {
		return func(record) bool { return true }, 0, nil
	}
	expression, of := o.GetStreamIdentifier(), func(r record) string { return r.stream }
	if e := o.GetEventType(); e != nil {
		expression, of = e, func(r record) string { return r.kind }
	}
	every = o.GetCheckpointIntervalMultiplier() * max(o.GetMax(), 1)
	if expression.GetRegex() != "" {
		pattern, err := regexp.Compile(expression.GetRegex())
		if err != nil {
			return nil, 0, status.Error(codes.InvalidArgument, err.Error())
		}
		return func(r record) bool { return pattern.MatchString(of(r)) }, every, nil
	}
	return func(r record) bool {
		return slices.ContainsFunc(expression.GetPrefix(), func(p string) bool { return strings.HasPrefix(of(r), p) })
	}, every, nil
}
