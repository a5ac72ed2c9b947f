package event

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Facts make up nearly the whole log, so they are kept as protocol buffers (proto3 encoding, written by hand because the
// free-form data needs its own dictionary). Field numbers are never reused:
//
//	message Usage {
//	  string source_id = 1;        sint64 quantity = 2;         // coefficient
//	  uint32 quantity_scale = 3;   string quantity_text = 4;    // instead of 2 and 3 where they are too small
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

// appendDecimal writes coefficient and scale into fields n and n+1, or the text into n+2.
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
}

type decimalFields struct {
	coefficient int64
	scale       uint64
	text        string
	set         bool
}

func (f decimalFields) decimal() (money.Decimal, error) {
	switch {
	case f.text != "":
		return money.ParseQuantity(f.text)
	case !f.set || f.scale > money.MaxFractionDigits:
		return money.Decimal{}, errors.New("bad quantity")
	default:
		return money.Scaled(f.coefficient, int(f.scale)), nil //nolint:gosec // at most 9
	}
}

func decodeUsageEvent(k kind, id Identity, payload []byte) (any, error) {
	m := usageMessage{}
	m.Identity, m.Catalog = id, eventstore.NoStream
	if err := m.unmarshal(payload); err != nil {
		return nil, err
	}
	quantity, err := m.quantity.decimal()
	if err != nil {
		return nil, err
	}
	m.Usage.Quantity = quantity
	if m.Source == "" || m.Type == "" {
		return nil, errors.New("no identity")
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
	default:
		if m.UsageAdjusted.Quantity, err = m.newQuantity.decimal(); err != nil {
			return nil, err
		}
		return m.UsageAdjusted, m.UsageAdjusted.Data.check()
	}
}

// unmarshal reads the fields; strings share the payload's one copy. An unknown field is an error: it was written by a
// newer version, and to count an event that is only half understood would be wrong.
func (m *usageMessage) unmarshal(b []byte) error {
	s := string(b)
	for at := 0; at < len(b); {
		n, t, size := protowire.ConsumeTag(b[at:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		at += size
		switch t {
		case protowire.VarintType:
			u, size := protowire.ConsumeVarint(b[at:])
			if size < 0 {
				return protowire.ParseError(size)
			}
			at += size
			if err := m.setVarint(n, u); err != nil {
				return err
			}
		case protowire.BytesType:
			body, size := protowire.ConsumeBytes(b[at:])
			if size < 0 {
				return protowire.ParseError(size)
			}
			at += size
			if err := m.setText(n, s[at-len(body):at]); err != nil {
				return err
			}
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
		m.OccurredAt = time.UnixMicro(protowire.DecodeZigZag(u)).UTC()
	case fieldCatalog:
		m.Catalog = eventstore.Revision(u) - 1 //nolint:gosec // written by appendMetadata
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
	switch n {
	case fieldSource:
		m.Source = SourceID(s)
	case fieldQuantity + 2:
		m.quantity.text = s
	case fieldData:
		m.Usage.Data = Data{s}
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
	case fieldNewData:
		m.UsageAdjusted.Data = Data{s}
	default:
		return fmt.Errorf("unknown field %d", n)
	}
	return nil
}
