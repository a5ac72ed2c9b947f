// Package limit owns limits: what a tenant's plan allows at an instant (Policy), what it has used and holds (Account, a fold
// of its events), and the answer to a check (Decide). Everything here is a pure function of events and of the instant that
// is passed in: no clock, no floating point, no order of a map. It does not store, queue or append anything.
//
// A limit sees a check against four numbers: what is used, what other checks hold, what this one requests and the maximum.
// It passes when used + held + requested <= max. Where usage events are counted in windows of the calendar, a hold that is
// open counts in whatever window the check falls into, since its usage may happen in any of them.
//
// All instants are whole milliseconds, the ticks of the limits' clock.
package limit

import "time"

// Tick is an instant: milliseconds since 1970-01-01 UTC.
type Tick int64

// never is later than any instant: time alone does not help.
const never = Tick(1<<63 - 1)

// TickOf is the tick that an instant is in.
func TickOf(t time.Time) Tick { return Tick(t.UnixMilli()) }

// Time is the instant; the zero time for never.
func (t Tick) Time() time.Time {
	if t == never {
		return time.Time{}
	}
	return time.UnixMilli(int64(t)).UTC()
}

func (t Tick) after(d time.Duration) Tick { return t + Tick(d.Milliseconds()) }
