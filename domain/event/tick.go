package event

import "time"

// Tick cuts a time to milliseconds in UTC: the ticks of the limits' clock, and of what answers say about plans.
func Tick(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
