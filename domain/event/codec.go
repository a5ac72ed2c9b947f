package event

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Facts are nearly the whole log, so they are kept as protocol buffers (proto3 encoding, written by hand because the
// free-form data needs its own dictionary). Field numbers are never reused:
//
//	message Usage {
//	  string source_id = 1;        sint64 quantity = 2;         // coefficient
//	  uint32 quantity_scale = 3;   string quantity_text = 4;    // instead of 2 and 3, for numbers that do not fit
//	  sint64 occurred_at = 5;      // microseconds since 1970-01-01 UTC
//	  bytes  data = 6;             // see wireNames
//	  uint64 catalog = 7;          // revision + 1
//	  string emitter = 8;          string traceparent = 9;
//	  string reason = 10;          string by = 11;              // corrections
//	  sint64 new_quantity = 12;    uint32 new_quantity_scale = 13;  string new_quantity_text = 14;  bytes new_data = 15;
//	}
const (
	fieldSource      protowire.Number = 1
	fieldQuantity    protowire.Number = 2
	fieldOccurredAt  protowire.Number = 5
	fieldData        protowire.Number = 6
	fieldCatalog     protowire.Number = 7
	fieldEmitter     protowire.Number = 8
	fieldTraceParent protowire.Number = 9
	fieldReason      protowire.Number = 10
	fieldBy          protowire.Number = 11
	fieldNewQuantity protowire.Number = 12
	fieldNewData     protowire.Number = 15
)

func appendText(b []byte, n protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
}

// appendDecimal writes the coefficient and scale as fields n and n+1, or the text as n+2.
func appendDecimal(b []byte, n protowire.Number, d money.Decimal) []byte {
	c, scale, ok := d.Coefficient()
	if !ok {
		return appendText(b, n+2, d.String())
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), protowire.EncodeZigZag(c))
	if scale > 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, n+1, protowire.VarintType), uint64(scale)) //nolint:gosec // positive
	}
	return b
}

func appendUsage(b []byte, u Usage) []byte {
	b = appendText(b, fieldSource, string(u.Source))
	b = appendDecimal(b, fieldQuantity, u.Quantity)
	b = protowire.AppendVarint(protowire.AppendTag(b, fieldOccurredAt, protowire.VarintType), protowire.EncodeZigZag(u.OccurredAt.UnixMicro()))
	return appendText(b, fieldData, u.Data.wire)
}

func appendMetadata(b []byte, m Metadata) []byte {
	if m.Catalog >= 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, fieldCatalog, protowire.VarintType), uint64(m.Catalog)+1)
	}
	b = appendText(b, fieldEmitter, m.Emitter)
	return appendText(b, fieldTraceParent, m.TraceParent)
}

func (e UsageRecorded) encode() []byte {
	return appendMetadata(appendUsage(make([]byte, 0, 192), e.Usage), e.Metadata)
}

func (e UsageVoided) encode() []byte {
	b := appendMetadata(appendUsage(nil, e.Usage), e.Metadata)
	b = appendText(b, fieldReason, e.Reason)
	return appendText(b, fieldBy, string(e.By))
}

func (e UsageAdjusted) encode() []byte {
	b := appendMetadata(appendUsage(nil, e.Usage), e.Metadata)
	b = appendText(b, fieldReason, e.Reason)
	b = appendText(b, fieldBy, string(e.By))
	b = appendDecimal(b, fieldNewQuantity, e.Quantity)
	return appendText(b, fieldNewData, e.Data.wire)
}

// usageMessage is the union of the fields of all events about a fact.
type usageMessage struct {
	UsageAdjusted
	quantity, newQuantity decimalFields
	dated                 bool
}

type decimalFields struct {
	coefficient int64
	scale       uint64
	text        string
	set         bool
}

// decimal returns a quantity as Usage.Check demands it: any other could be neither folded nor billed.
func (f *decimalFields) decimal() (d money.Decimal, err error) {
	switch {
	case f.text != "" && !f.set && f.scale == 0:
		d, err = money.ParseQuantity(f.text)
	case f.text != "" || !f.set || f.scale > money.MaxFractionDigits:
		return d, errQuantity
	default:
		d = money.Scaled(f.coefficient, int(f.scale)) //nolint:gosec // at most 9
	}
	if err != nil || d.Sign() <= 0 || !d.IsQuantity() {
		return d, errQuantity
	}
	return d, nil
}

var (
	errQuantity = errors.New("the quantity is missing or out of bounds")
	errIdentity = errors.New("the event type or sourceId is missing")
	errTime     = errors.New("occurredAt is missing or out of bounds")
	errText     = errors.New("a text is not valid UTF-8 or contains NUL")
	errOrder    = errors.New("the fields are not in order")
	errCut      = errors.New("the payload is truncated or has a broken field")
)

// lastField is the highest field of each kind. We never write a field of another kind.
func lastField(k kind) protowire.Number {
	switch k {
	case usageConflicted:
		return fieldData
	case usageRecorded:
		return fieldTraceParent
	case usageVoided:
		return fieldBy
	default:
		return fieldNewData
	}
}

func decodeUsage(k kind, id Identity, payload []byte) (any, error) {
	m := usageMessage{}
	m.Identity, m.Catalog = id, eventstore.NoStream
	if err := m.unmarshal(string(payload), lastField(k)); err != nil {
		return nil, err
	}
	if m.Source == "" || m.Type == "" {
		return nil, errIdentity
	}
	if !m.dated || !isInstant(m.OccurredAt) {
		return nil, errTime
	}
	var err error
	if m.Usage.Quantity, err = m.quantity.decimal(); err != nil {
		return nil, err
	}
	if err := m.Usage.Data.check(); err != nil {
		return nil, err
	}
	switch k {
	case usageRecorded:
		return UsageRecorded{Usage: m.Usage, Metadata: m.Metadata}, nil
	case usageVoided:
		return UsageVoided{Usage: m.Usage, Metadata: m.Metadata, Reason: m.Reason, By: m.By}, nil
	case usageConflicted:
		return UsageConflicted{Usage: m.Usage}, nil
	}
	if m.UsageAdjusted.Quantity, err = m.newQuantity.decimal(); err != nil {
		return nil, err
	}
	if err := m.UsageAdjusted.Data.check(); err != nil {
		return nil, err
	}
	return m.UsageAdjusted, nil
}

// unmarshal reads the fields; strings share the payload's one copy.
func (m *usageMessage) unmarshal(w string, highest protowire.Number) error {
	return walkFields(w, highest, 0, m)
}

// fields receives the fields that walkFields finds.
type fields interface {
	setVarint(n protowire.Number, u uint64) error
	setText(n protowire.Number, s string) error
}

// walkFields reads a message whose fields are in ascending order, up to the highest. An unknown field is an error: a newer
// version wrote it, and an event that is only half understood must not be counted. A repeated field is ambiguous and an error
// too, except the one that may be repeated.
func walkFields(w string, highest, repeated protowire.Number, m fields) error {
	last := protowire.Number(0)
	for w != "" {
		tag, rest, ok := checkVarint(w)
		if !ok || tag>>3 > uint64(highest) { //nolint:gosec // a small constant
			return errCut
		}
		n := protowire.Number(tag >> 3) //nolint:gosec // at most highest
		if n < last || n == last && n != repeated {
			return errOrder
		}
		last = n
		switch protowire.Type(tag & 7) { //nolint:gosec // three bits
		case protowire.VarintType:
			u, after, ok := checkVarint(rest)
			if !ok {
				return errCut
			}
			if err := m.setVarint(n, u); err != nil {
				return err
			}
			w = after
		case protowire.BytesType:
			body, after, ok := checkBytes(rest)
			if !ok || body == "" { // empty fields are left out
				return errCut
			}
			if err := m.setText(n, body); err != nil {
				return err
			}
			w = after
		default:
			return fmt.Errorf("field %d has an unknown type", n)
		}
	}
	return nil
}

func (m *usageMessage) setVarint(n protowire.Number, u uint64) error {
	switch n {
	case fieldQuantity:
		m.quantity.coefficient, m.quantity.set = protowire.DecodeZigZag(u), true
	case fieldQuantity + 1:
		m.quantity.scale = u
	case fieldOccurredAt:
		m.OccurredAt, m.dated = time.UnixMicro(protowire.DecodeZigZag(u)).UTC(), true
	case fieldCatalog:
		if u < 1 || u > math.MaxInt64 {
			return errors.New("the catalog's revision is out of bounds")
		}
		m.Catalog = eventstore.Revision(u) - 1
	case fieldNewQuantity:
		m.newQuantity.coefficient, m.newQuantity.set = protowire.DecodeZigZag(u), true
	case fieldNewQuantity + 1:
		m.newQuantity.scale = u
	default:
		return fmt.Errorf("unknown field %d", n)
	}
	return nil
}

func (m *usageMessage) setText(n protowire.Number, s string) error {
	switch n { // not texts
	case fieldData:
		m.Usage.Data = Data{s}
		return nil
	case fieldNewData:
		m.UsageAdjusted.Data = Data{s}
		return nil
	}
	if !isText(s) {
		return errText
	}
	switch n {
	case fieldSource:
		m.Source = SourceID(s)
	case fieldQuantity + 2:
		m.quantity.text = s
	case fieldEmitter:
		m.Emitter = s
	case fieldTraceParent:
		m.TraceParent = s
	case fieldReason:
		m.Reason = s
	case fieldBy:
		m.By = Actor(s)
	case fieldNewQuantity + 2:
		m.newQuantity.text = s
	default:
		return fmt.Errorf("unknown field %d", n)
	}
	return nil
}
