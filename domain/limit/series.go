package limit

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/calendar"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/usage"
)

const (
	minuteSeconds = 60
	// QuarterSeconds is the width of a usage bucket: every hour, day, month and billing cycle of every zone is a whole number
	// of them.
	QuarterSeconds = 15 * 60
	// History is how far back a series reaches: no window is longer than a month and a day of the clock's changes.
	History = 33 * 24 * time.Hour
	// RecentMinutes is how far back a series by the minute reaches: the minute in which an account is loaded, and some more
	// for clocks that differ.
	RecentMinutes = 2 * time.Minute

	forgetEvery = 15 * time.Minute
)

// whereKey is a text for a filter: equal filters have equal texts.
func whereKey(where map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(where)) {
		b.WriteString(name + "\x00" + where[name] + "\x00")
	}
	return b.String()
}

func compareSeries(a, b Series) int {
	return cmp.Or(cmp.Compare(a.Meter, b.Meter), cmp.Compare(a.Where, b.Where))
}

// matches reports whether data has these values, as the dimensions of the usage read model have them.
func matches(where map[string]string, data event.Data) bool {
	for name, value := range where {
		if v := data.Get(name); v.Kind == event.Absent || v.Kind == event.Null || v.String() != value {
			return false
		}
	}
	return true
}

// Bucket is the sum of the quantities of facts that occurred in a part of time.
type Bucket struct {
	Start    int64 // seconds since 1970-01-01 UTC
	Quantity money.Decimal
}

// Loaded is a series as a read model has it.
type Loaded struct {
	Need
	Quarters []Bucket // ascending
	At       int64    // offset of the last event that is in them
	Minutes  []Bucket // ascending, if needed
	// MinutesAt is the offset of the last event that is in Minutes.
	MinutesAt int64
}

// series adds up the facts that it is given, by parts of time.
type series struct {
	Loaded
	single bool                         // of one level, loaded when somebody asks for it
	asked  Tick                         // last
	sums   map[catalog.Window]windowSum // of the windows that were asked for last
}

type windowSum struct {
	calendar.Window
	sum money.Decimal
}

func newSeries(l Loaded) *series { return &series{Loaded: l, sums: map[catalog.Window]windowSum{}} }

// add counts the fact at an offset of the log, or takes it back with a negative quantity.
func (s *series) add(offset int64, occurred time.Time, quantity money.Decimal) {
	if offset > s.At {
		s.Quarters = addTo(s.Quarters, floor(occurred.Unix(), QuarterSeconds), quantity)
		s.count(occurred, quantity, false)
	}
	if s.Need.Minutes && offset > s.MinutesAt {
		s.Minutes = addTo(s.Minutes, floor(occurred.Unix(), minuteSeconds), quantity)
		s.count(occurred, quantity, true)
	}
}

func (s *series) count(occurred time.Time, quantity money.Decimal, minutes bool) {
	for of, w := range s.sums { // each on its own, so their order is of no importance
		if (of.Period == catalog.Minute) == minutes && w.Contains(occurred) {
			w.sum = w.sum.Add(quantity)
			s.sums[of] = w
		}
	}
}

func (s *series) buckets(of catalog.Window) []Bucket {
	if of.Period == catalog.Minute {
		return s.Minutes
	}
	return s.Quarters
}

// used is the sum of one window.
func (s *series) used(of catalog.Window, w calendar.Window) money.Decimal {
	if known, ok := s.sums[of]; ok && known.Window == w {
		return known.sum
	}
	sum := s.sum(of, w)
	s.sums[of] = windowSum{w, sum}
	return sum
}

// sum is used without remembering the answer.
func (s *series) sum(of catalog.Window, w calendar.Window) (sum money.Decimal) {
	buckets := s.buckets(of)
	from, _ := find(buckets, w.Start.Unix())
	for _, b := range buckets[from:] {
		if b.Start >= w.End.Unix() {
			break
		}
		sum = sum.Add(b.Quantity)
	}
	return sum
}

// next is the first part of time from an instant on in which something is counted; never where there is none.
func (s *series) next(of catalog.Window, from time.Time) Tick {
	buckets := s.buckets(of)
	i, _ := find(buckets, from.Unix())
	if i == len(buckets) {
		return never
	}
	return TickOf(time.Unix(buckets[i].Start, 0))
}

// forget drops what no window can reach any more.
func (s *series) forget(now Tick) {
	s.Quarters = since(s.Quarters, now.Time().Add(-History).Unix())
	s.Minutes = since(s.Minutes, now.Time().Add(-RecentMinutes).Unix())
}

func since(buckets []Bucket, start int64) []Bucket {
	from, _ := find(buckets, start)
	return slices.Clone(buckets[from:])
}

func find(buckets []Bucket, start int64) (int, bool) {
	return slices.BinarySearchFunc(buckets, start, func(b Bucket, start int64) int { return cmp.Compare(b.Start, start) })
}

func addTo(buckets []Bucket, start int64, quantity money.Decimal) []Bucket {
	i, found := find(buckets, start)
	if found {
		buckets[i].Quantity = buckets[i].Quantity.Add(quantity)
		return buckets
	}
	return slices.Insert(buckets, i, Bucket{start, quantity})
}

// floor is the largest multiple of step that is not above n.
func floor(n, step int64) int64 {
	rest := n % step
	if rest < 0 {
		rest += step
	}
	return n - rest
}

// Fact is a usage event, or the taking back of one, with the meters that count it.
type Fact struct {
	event.Usage
	Meters []catalog.Meter
	Back   bool
}

// FactsOf returns what an event adds to usage and takes back from it; nothing for an event that is not about usage.
func FactsOf(payload any, meters []catalog.Meter) []Fact {
	switch p := payload.(type) {
	case event.UsageRecorded:
		return []Fact{{p.Usage, meters, false}}
	case event.UsageVoided:
		return []Fact{{p.Usage, meters, true}}
	case event.UsageAdjusted:
		return []Fact{{p.Usage, meters, true}, {p.After(), meters, false}}
	default:
		return nil
	}
}

// AddMinute adds a fact to the minutes of a series that is being loaded.
func (l *Loaded) AddMinute(f Fact) {
	if q, counts := l.Quantity(f); counts {
		l.Minutes = addTo(l.Minutes, floor(f.OccurredAt.Unix(), minuteSeconds), q)
	}
}

// Quantity is what a fact adds to the series; counts is false for a fact of another one.
func (n Need) Quantity(f Fact) (q money.Decimal, counts bool) {
	for i := range f.Meters {
		if f.Meters[i].Key != n.Meter || f.Meters[i].EventType != string(f.Type) {
			continue
		}
		if q, counts = usage.Quantity(f.Meters[i], f.Usage); f.Back {
			q = q.Neg()
		}
		return q, counts && matches(n.Where, f.Data)
	}
	return q, false
}
