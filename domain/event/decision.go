package event

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

const (
	limitDecided kind = "limit_decided.v1"
	holdReleased kind = "hold_released.v1"
	holdExpired  kind = "hold_expired.v1"
)

// Check is an intended usage event: the same identity and fields, with an estimated quantity.
type Check struct {
	Identity
	Quantity money.Decimal // > 0
	Data     Data
}

// Fingerprint tells two checks of one identity apart: the first 8 bytes of SHA-256 over quantity and data.
func (c Check) Fingerprint() uint64 {
	buf := make([]byte, 0, 512)
	q := c.Quantity.String()
	buf = binary.AppendUvarint(buf, uint64(len(q)))
	buf = append(buf, q...)
	buf = c.Data.AppendJSON(buf)
	sum := sha256.Sum256(buf)
	return binary.BigEndian.Uint64(sum[:8])
}

// LimitDecided: a check was answered. It says what was asked and what each limit that applied saw, which is both the explanation
// for people and all that the tenant's account has to know; so folding it needs no catalog.
type LimitDecided struct {
	Identity
	Quantity    money.Decimal
	DecidedAt   time.Time // UTC, milliseconds: the ticks of the limits' clock
	Allowed     bool
	Keeps       bool      // the check holds what its parts say, until KeepUntil at the latest
	KeepUntil   time.Time // when the decision is forgotten; zero unless Keeps
	PlanVersion string    // "pro@3"; "" for a tenant without a plan
	Fingerprint uint64    // of the check
	// Data is all that a denied check said; of an allowed one, whose usage event brings its own, the fields that the catalog looks at.
	Data  Data
	Parts []LimitPart
	// Asked: Data is there. Decisions of before 2026-12 did not keep the data of an allowed check.
	Asked bool `json:",omitzero"`
	// Repeats: the check had an open hold, and is no later attempt of it. Sliding limits do not count it again.
	Repeats bool `json:",omitzero"`
	Retry   bool `json:",omitzero"` // the check said that it retries another one
	// Levels are the sets of data fields, joined by commas, for whose values sliding limits of the catalog count the check.
	Levels []string `json:",omitempty"`
	// Remember is how long sliding limits have to remember the check: the longest of their windows in the catalog.
	Remember time.Duration `json:",omitzero"`
	// GivenAt is when a decision that was made without the log (degraded) was given; zero for any other. It was recorded at
	// DecidedAt, by the account's clock, once the log was back.
	GivenAt time.Time `json:",omitzero"`
}

// HoldEnds is when the first part of what the decision keeps ends: each has its own end. Where no limit holds anything it is
// when the decision is forgotten; zero where it keeps nothing.
func (e *LimitDecided) HoldEnds() time.Time {
	if !e.Keeps {
		return time.Time{}
	}
	var first time.Time
	for i := range e.Parts {
		if t := e.Parts[i].ExpiresAt; !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	if first.IsZero() {
		return e.KeepUntil
	}
	return first
}

// LimitPart is what one limit had to say to a check. Times are UTC in milliseconds; zero is none.
type LimitPart struct {
	Limit      string // key of the limit in the plan
	Kind       LimitKind
	Per        Data `json:",omitzero"` // the fields that the limit counts by, with the check's values
	Denied     bool
	Soft       bool // the limit was exceeded and admits it: overage
	Overridden bool // Max is the tenant's own, not the plan's
	Observed   bool `json:",omitzero"` // the limit is in mode observe: a denial of it was not enforced
	Taken      bool // of a sliding limit: this decision counts; false when an earlier one of the same check did
	Burst      int64
	Max        money.Decimal
	Used       money.Decimal // before the check, without holds
	Held       money.Decimal // by other checks
	// Requested is what the check adds to Used and Held: of a budget what its usage costs at most beside theirs.
	Requested money.Decimal
	// WindowStart and WindowEnd are the period, or the length of the sliding window up to the decision.
	WindowStart, WindowEnd time.Time
	ResetAt                time.Time
	ExpiresAt              time.Time // of this part of the hold
	Until                  time.Time // abuse guard: end of the cooldown
	Strikes                int64     // abuse guard: cooldowns so far, as far as they still count
}

// LimitKind is the rule of a limit as the log knows it. The numbers are part of the log's format.
type LimitKind uint8

// The kinds of limits.
const (
	RateLimit        LimitKind = 1
	QuotaLimit       LimitKind = 2
	ConcurrencyLimit LimitKind = 3
	MaxLimit         LimitKind = 4
	AccessLimit      LimitKind = 5
	RetryBudgetLimit LimitKind = 6
	BudgetLimit      LimitKind = 7
	AbuseGuardLimit  LimitKind = 8
)

var limitKindNames = [...]string{"", "rate", "quota", "concurrency", "max", "access", "retry_budget", "budget", "abuse_guard"}

// String is the kind's name in the catalog.
func (k LimitKind) String() string {
	if int(k) < len(limitKindNames) {
		return limitKindNames[k]
	}
	return fmt.Sprintf("limit kind %d", uint8(k))
}

// ParseLimitKind reads what String writes; 0 for any other text.
func ParseLimitKind(name string) LimitKind {
	for k := RateLimit; int(k) < len(limitKindNames); k++ {
		if limitKindNames[k] == name {
			return k
		}
	}
	return 0
}

// HoldReleased: the product gave back what a check held.
type HoldReleased struct {
	Identity
	ReleasedAt time.Time // UTC, milliseconds
	By         Actor
}

// HoldExpired: a hold ended by itself at ExpiredAt. The hold was over at that instant whether or not this is on the log.
type HoldExpired struct {
	Identity
	ExpiredAt time.Time // UTC, milliseconds
}

// QuotaStream is the stream of a tenant's decisions, in the order in which they were made.
func QuotaStream(t TenantID) eventstore.StreamName {
	return streamOf("quota", string(t))
}

// QuotaEvent is an event of a quota stream: LimitDecided, HoldReleased or HoldExpired.
type QuotaEvent interface {
	quotaEvent() (logType string, data []byte)
}

func (e LimitDecided) quotaEvent() (string, []byte) {
	return typeName(limitDecided, e.Type), e.encode()
}
func (e HoldReleased) quotaEvent() (string, []byte) {
	return typeName(holdReleased, e.Type), e.encode()
}
func (e HoldExpired) quotaEvent() (string, []byte) { return typeName(holdExpired, e.Type), e.encode() }

// AppendDecisions is the log entry of a tenant's decisions after revision expected. Where usage of one of the identities
// unless is recorded already, nothing is written. The ids of the events are those of one writer: what another one wrote at
// the same place is a conflict even if it says the same, because more may stand behind it that this writer does not know.
func AppendDecisions(writer uuid.UUID, t TenantID, expected eventstore.Revision, events []QuotaEvent, unless []Identity) eventstore.Append {
	a := eventstore.Append{Stream: QuotaStream(t), Tenant: string(t), Expected: expected, Events: make([]eventstore.NewEvent, len(events))}
	seed := append(append(append(make([]byte, 0, 512), eventSpace[:]...), writer[:]...), a.Stream...)
	fixed := len(seed)
	for i, e := range events {
		logType, data := e.quotaEvent()
		seed = binary.BigEndian.AppendUint64(seed[:fixed], uint64(expected)+uint64(i)) //nolint:gosec // only to be hashed
		seed = append(append(append(seed, logType...), 0), data...)
		a.Events[i] = eventstore.NewEvent{ID: derive(seed), Type: logType, Data: data}
	}
	for _, id := range unless {
		a.Absent = append(a.Absent, id.Stream())
	}
	return a
}

// Decisions are kept as protocol buffers, like facts:
//
//	message Decision {
//	  string source_id = 1;  sint64 quantity = 2;  uint32 quantity_scale = 3;  string quantity_text = 4;
//	  sint64 at = 5;                 // milliseconds since 1970-01-01 UTC
//	  bytes  data = 6;               // see wireNames
//	  uint32 flags = 7;              // 1 allowed, 2 keeps, 4 asked, 8 repeats, 16 retry, 32 degraded
//	  sint64 keep_until = 8;         // milliseconds after at
//	  string plan_version = 9;
//	  bytes fingerprint = 10;        // 8, big-endian
//	  string by = 11;                // of a release
//	  repeated Part parts = 12;
//	  uint64 remember = 13;          // milliseconds
//	  string levels = 14;            // separated by semicolons
//	  sint64 given = 15;             // milliseconds before at, of a degraded one
//	}
//	message Part {
//	  string limit = 1;  uint32 kind = 2;
//	  uint32 flags = 3;              // 1 denied, 2 soft, 4 overridden, 8 taken, 16 observed
//	  sint64 max = 4;  sint64 used = 5;  sint64 held = 6;  sint64 requested = 7;   // coefficients
//	  uint32 scale = 8;              // of all four
//	  sint64 window_start = 9;  sint64 window_end = 10;  sint64 reset_at = 11;     // milliseconds after at, plus 1
//	  sint64 expires_at = 12;  sint64 until = 13;                                  // likewise
//	  uint64 strikes = 14;  uint64 burst = 15;
//	  string max_text = 16;  string used_text = 17;  string held_text = 18;  string requested_text = 19;  // instead of 4 to 8
//	  bytes per = 20;                // data
//	}
//
// Zero and empty fields are left out. An instant at or after the decision is written plus one, so that zero is none.
const (
	fieldFlags       protowire.Number = 7
	fieldKeepUntil   protowire.Number = 8
	fieldPlanVersion protowire.Number = 9
	fieldFingerprint protowire.Number = 10
	fieldParts       protowire.Number = 12
	fieldRemember    protowire.Number = 13
	fieldLevels      protowire.Number = 14
	fieldGiven       protowire.Number = 15

	fieldPer protowire.Number = 20 // of a part
)

const (
	flagAllowed, flagKeeps, flagAsked, flagRepeats, flagRetry     = 1, 2, 4, 8, 16
	flagDegraded                                                  = 32
	flagDenied, flagSoft, flagOverridden, flagTaken, flagObserved = 1, 2, 4, 8, 16
)

// maxRemember is a year in milliseconds; no window is so long.
const maxRemember = 366 * 24 * 60 * 60 * 1000

// maxParts bounds the limits of one decision; a plan has a dozen.
const maxParts = 1000

func appendUint(b []byte, n protowire.Number, u uint64) []byte {
	if u == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), u)
}

func appendInt(b []byte, n protowire.Number, i int64) []byte {
	return appendUint(b, n, protowire.EncodeZigZag(i))
}

// appendInstant writes the distance from a decision in milliseconds.
func appendInstant(b []byte, n protowire.Number, at, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	distance := t.UnixMilli() - at.UnixMilli()
	if distance >= 0 {
		distance++
	}
	return appendInt(b, n, distance)
}

func instantAfter(at time.Time, distance int64) time.Time {
	switch {
	case distance == 0:
		return time.Time{}
	case distance > 0:
		distance--
	}
	return time.UnixMilli(at.UnixMilli() + distance).UTC()
}

func flag(set bool, bit uint64) uint64 {
	if set {
		return bit
	}
	return 0
}

func appendHead(b []byte, source SourceID, quantity *money.Decimal, at time.Time) []byte {
	b = appendText(b, fieldSource, string(source))
	if quantity != nil {
		b = appendDecimal(b, fieldQuantity, *quantity)
	}
	return protowire.AppendVarint(protowire.AppendTag(b, fieldOccurredAt, protowire.VarintType), protowire.EncodeZigZag(at.UnixMilli()))
}

func (e LimitDecided) encode() []byte {
	b := appendHead(make([]byte, 0, 64+48*len(e.Parts)), e.Source, &e.Quantity, e.DecidedAt)
	b = appendText(b, fieldData, e.Data.wire)
	b = appendUint(b, fieldFlags, flag(e.Allowed, flagAllowed)|flag(e.Keeps, flagKeeps)|flag(e.Asked, flagAsked)|flag(e.Repeats, flagRepeats)|flag(e.Retry, flagRetry)|flag(!e.GivenAt.IsZero(), flagDegraded))
	b = appendInstant(b, fieldKeepUntil, e.DecidedAt, e.KeepUntil)
	b = appendText(b, fieldPlanVersion, e.PlanVersion)
	b = appendText(b, fieldFingerprint, string(binary.BigEndian.AppendUint64(nil, e.Fingerprint)))
	var part []byte
	for i := range e.Parts {
		part = e.Parts[i].append(part[:0], e.DecidedAt)
		b = protowire.AppendBytes(protowire.AppendTag(b, fieldParts, protowire.BytesType), part)
	}
	b = appendUint(b, fieldRemember, uint64(e.Remember.Milliseconds())) //nolint:gosec // positive
	b = appendText(b, fieldLevels, strings.Join(e.Levels, ";"))
	if !e.GivenAt.IsZero() {
		b = appendUint(b, fieldGiven, protowire.EncodeZigZag(e.DecidedAt.Sub(e.GivenAt).Milliseconds()))
	}
	return b
}

func (e HoldReleased) encode() []byte {
	return appendText(appendHead(nil, e.Source, nil, e.ReleasedAt), fieldBy, string(e.By))
}

func (e HoldExpired) encode() []byte { return appendHead(nil, e.Source, nil, e.ExpiredAt) }

func (p *LimitPart) append(b []byte, at time.Time) []byte {
	b = appendText(b, 1, p.Limit)
	b = appendUint(b, 2, uint64(p.Kind))
	b = appendUint(b, 3, flag(p.Denied, flagDenied)|flag(p.Soft, flagSoft)|flag(p.Overridden, flagOverridden)|flag(p.Taken, flagTaken)|flag(p.Observed, flagObserved))
	numbers := [...]money.Decimal{p.Max, p.Used, p.Held, p.Requested}
	coefficients, scale, fits := commonScale(numbers)
	if fits {
		for i, c := range coefficients {
			b = appendInt(b, protowire.Number(4+i), c) //nolint:gosec // at most 7
		}
		b = appendUint(b, 8, uint64(scale)) //nolint:gosec // positive
	}
	b = appendInstant(b, 9, at, p.WindowStart)
	b = appendInstant(b, 10, at, p.WindowEnd)
	b = appendInstant(b, 11, at, p.ResetAt)
	b = appendInstant(b, 12, at, p.ExpiresAt)
	b = appendInstant(b, 13, at, p.Until)
	b = appendUint(b, 14, uint64(p.Strikes)) //nolint:gosec // counts
	b = appendUint(b, 15, uint64(p.Burst))   //nolint:gosec // counts
	if !fits {
		for i, n := range numbers {
			b = appendText(b, protowire.Number(16+i), n.String()) //nolint:gosec // at most 19
		}
	}
	return appendText(b, fieldPer, p.Per.wire)
}

// commonScale writes numbers as whole numbers of one unit, where they fit.
func commonScale(numbers [4]money.Decimal) (coefficients [4]int64, scale int, ok bool) {
	var scales [4]int
	for i, n := range numbers {
		if coefficients[i], scales[i], ok = n.Coefficient(); !ok {
			return coefficients, 0, false
		}
		scale = max(scale, scales[i])
	}
	for i := range coefficients {
		for ; scales[i] < scale; scales[i]++ {
			if c := coefficients[i]; c > math.MaxInt64/10 || c < math.MinInt64/10 {
				return coefficients, 0, false
			}
			coefficients[i] *= 10
		}
	}
	return coefficients, scale, true
}

// decisionMessage is the union of the fields of all events of a quota stream.
type decisionMessage struct {
	LimitDecided
	kind     kind
	by       Actor
	quantity decimalFields
	marked   bool // has a fingerprint
	dated    bool
}

func decodeQuotaEvent(k kind, id Identity, payload []byte) (any, error) {
	m := decisionMessage{LimitDecided: LimitDecided{Identity: id}}
	if err := m.unmarshal(string(payload), k); err != nil {
		return nil, err
	}
	if m.Source == "" || m.Type == "" {
		return nil, errIdentity
	}
	if !m.dated || !isInstant(m.DecidedAt) {
		return nil, errTime
	}
	switch k {
	case holdReleased:
		return HoldReleased{Identity: m.Identity, ReleasedAt: m.DecidedAt, By: m.by}, nil
	case holdExpired:
		return HoldExpired{Identity: m.Identity, ExpiredAt: m.DecidedAt}, nil
	}
	var err error
	if m.Quantity, err = m.quantity.decimal(); err != nil {
		return nil, err
	}
	if err := m.Data.check(); err != nil {
		return nil, err
	}
	if !m.marked || m.Keeps && (!m.Allowed || m.KeepUntil.IsZero()) {
		return nil, errors.New("the decision contradicts itself")
	}
	return m.LimitDecided, nil
}

// DecodeDecision reads the payload of a LimitDecided, kept apart from its log entry. Errors wrap ErrMalformed.
func DecodeDecision(t TenantID, of Type, payload []byte) (LimitDecided, error) {
	e, err := decodeQuotaEvent(limitDecided, Identity{Tenant: t, Type: of}, payload)
	if err != nil {
		return LimitDecided{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return e.(LimitDecided), nil
}

// lastQuotaField is the highest field of each kind.
func lastQuotaField(k kind) protowire.Number {
	switch k {
	case holdExpired:
		return fieldOccurredAt
	case holdReleased:
		return fieldBy
	default:
		return fieldGiven
	}
}

func (m *decisionMessage) unmarshal(w string, k kind) error {
	m.kind = k
	return walkFields(w, lastQuotaField(k), fieldParts, m)
}

// belongs reports whether events of the message's kind have the field.
func (m *decisionMessage) belongs(n protowire.Number) bool {
	if m.kind == limitDecided {
		return n != fieldBy
	}
	return n == fieldSource || n == fieldOccurredAt || n == fieldBy
}

func (m *decisionMessage) setVarint(n protowire.Number, u uint64) error {
	switch {
	case !m.belongs(n):
		return errForeign
	case n == fieldQuantity:
		m.quantity.coefficient, m.quantity.set = protowire.DecodeZigZag(u), true
	case n == fieldQuantity+1:
		m.quantity.scale = u
	case n == fieldOccurredAt:
		m.DecidedAt, m.dated = time.UnixMilli(protowire.DecodeZigZag(u)).UTC(), true
	case n == fieldFlags && u <= flagAllowed|flagKeeps|flagAsked|flagRepeats|flagRetry|flagDegraded:
		if u&flagDegraded != 0 {
			m.GivenAt = m.DecidedAt
		}
		m.Allowed, m.Keeps, m.Asked = u&flagAllowed != 0, u&flagKeeps != 0, u&flagAsked != 0
		m.Repeats, m.Retry = u&flagRepeats != 0, u&flagRetry != 0
	case n == fieldKeepUntil:
		return setInstant(&m.KeepUntil, m.DecidedAt, u)
	case n == fieldGiven && !m.GivenAt.IsZero() && u > 0 && u <= 2*maxRemember:
		m.GivenAt = m.DecidedAt.Add(-time.Duration(protowire.DecodeZigZag(u)) * time.Millisecond)
	case n == fieldRemember && u > 0 && u <= maxRemember:
		m.Remember = time.Duration(u) * time.Millisecond //nolint:gosec // bounded
	default:
		return errForeign
	}
	return nil
}

func (m *decisionMessage) setText(n protowire.Number, s string) error {
	switch {
	case !m.belongs(n):
		return errForeign
	case n == fieldData:
		m.Data = Data{s}
		return nil
	case n == fieldFingerprint && len(s) == 8:
		m.Fingerprint, m.marked = binary.BigEndian.Uint64([]byte(s)), true
		return nil
	case n == fieldParts:
		if len(m.Parts) >= maxParts {
			return errors.New("too many parts")
		}
		part, err := decodePart(s, m.DecidedAt)
		m.Parts = append(m.Parts, part)
		return err
	case !isText(s):
		return errText
	}
	switch n {
	case fieldSource:
		m.Source = SourceID(s)
	case fieldQuantity + 2:
		m.quantity.text = s
	case fieldPlanVersion:
		m.PlanVersion = s
	case fieldLevels:
		m.Levels = strings.Split(s, ";")
	case fieldBy:
		m.by = Actor(s)
	default:
		return errForeign
	}
	return nil
}

// Sliding is what sliding limits have to know: whether they count the check again, as a retry or a first attempt, and for how
// long. A decision that did not keep what was asked shows it in its parts.
func (e *LimitDecided) Sliding() (repeats, retry bool, remember time.Duration) {
	if e.Asked {
		return e.Repeats, e.Retry, e.Remember
	}
	sliding, taken := false, false
	for i := range e.Parts {
		p := &e.Parts[i]
		if p.Kind != RateLimit && p.Kind != RetryBudgetLimit && p.Kind != AbuseGuardLimit {
			continue
		}
		sliding, taken = true, taken || p.Taken
		remember = max(remember, p.WindowEnd.Sub(p.WindowStart))
		retry = retry || p.Kind == RetryBudgetLimit && p.Requested.Sign() > 0
	}
	return sliding && !taken, retry, remember
}

var errForeign = errors.New("a field or value that the message does not have")

func setInstant(t *time.Time, at time.Time, u uint64) error {
	*t = instantAfter(at, protowire.DecodeZigZag(u))
	if u == 0 || !isInstant(*t) {
		return errTime
	}
	return nil
}

// partMessage is a part in the making.
type partMessage struct {
	LimitPart
	at           time.Time
	coefficients [4]int64
	texts        [4]string
	scale        int
}

func (p *partMessage) setVarint(n protowire.Number, u uint64) error {
	switch {
	case n == 2 && u < uint64(len(limitKindNames)):
		p.Kind = LimitKind(u)
	case n == 3 && u <= flagDenied|flagSoft|flagOverridden|flagTaken|flagObserved:
		p.Denied, p.Soft, p.Overridden, p.Taken = u&flagDenied != 0, u&flagSoft != 0, u&flagOverridden != 0, u&flagTaken != 0
		p.Observed = u&flagObserved != 0
	case n >= 4 && n <= 7:
		p.coefficients[n-4] = protowire.DecodeZigZag(u)
	case n == 8 && u <= 64:
		p.scale = int(u) //nolint:gosec // at most 64
	case n >= 9 && n <= 13:
		return setInstant([...]*time.Time{&p.WindowStart, &p.WindowEnd, &p.ResetAt, &p.ExpiresAt, &p.Until}[n-9], p.at, u)
	case n == 14 && u <= math.MaxInt64:
		p.Strikes = int64(u)
	case n == 15 && u <= math.MaxInt64:
		p.Burst = int64(u)
	default:
		return errForeign
	}
	return nil
}

func (p *partMessage) setText(n protowire.Number, s string) error {
	switch {
	case n == fieldPer:
		p.Per = Data{s}
		return p.Per.check()
	case !isText(s):
		return errText
	case n == 1:
		p.Limit = s
	case n >= 16:
		p.texts[n-16] = s
	default:
		return errForeign
	}
	return nil
}

func decodePart(w string, at time.Time) (LimitPart, error) {
	p := partMessage{at: at}
	err := walkFields(w, fieldPer, 0, &p)
	if err == nil && (p.Limit == "" || p.Kind == 0) {
		err = errors.New("a part without limit or kind")
	}
	if err != nil {
		return LimitPart{}, err
	}
	for i, number := range [...]*money.Decimal{&p.Max, &p.Used, &p.Held, &p.Requested} {
		if p.texts[i] == "" {
			*number = money.Scaled(p.coefficients[i], p.scale)
		} else if *number, err = money.ParseNumber(p.texts[i]); err != nil || number.String() != p.texts[i] {
			return LimitPart{}, errQuantity // another spelling could have no form that is short enough
		}
	}
	return p.LimitPart, nil
}
