package insight

import (
	"math/bits"
	"slices"

	"github.com/tollgate-io/tollgate/domain/money"
)

// Bucket is a range of latencies. Buckets are log-linear: each power of two of microseconds is cut into 64 of equal width, and
// below 128 microseconds each has its own. That is the layout of HdrHistogram (Gil Tene, hdrhistogram.org) and, with the
// logarithm interpolated linearly between powers of two, of DDSketch (Masson, Rim and Lee, VLDB 2019). The DDSketch library uses
// binary floating point and cannot remove a value. Here buckets and counts are whole numbers, so that a correction leaves no
// trace and two folds of the same events are equal, however the events were batched.
type Bucket int16

const (
	subBits = 6 // 64 buckets for each power of two

	microScale = 3 // decimals of a microsecond in milliseconds

	// maxLatency is in milliseconds, about 31 years: a longer one is not a latency.
	maxLatency = 1_000_000_000_000
)

// RelativeError bounds the error of a percentile: half a bucket, 1/128 of its value. Latencies are cut to whole microseconds.
var RelativeError = money.MustParse("0.0078125")

var (
	perMilli = money.Int(1000)
	longest  = money.Int(maxLatency)
)

// BucketOf is the bucket of a latency in milliseconds; ok is false if it is negative or above maxLatency.
func BucketOf(latency money.Decimal) (b Bucket, ok bool) {
	if latency.Sign() < 0 || latency.Cmp(longest) > 0 {
		return 0, false
	}
	micros, scale, ok := latency.Coefficient()
	if !ok || scale > microScale {
		micros, _, ok = latency.Mul(perMilli).Floor().Coefficient()
		scale = microScale
	}
	for ; scale < microScale; scale++ {
		micros *= 10
	}
	return bucketOf(uint64(micros)), ok //nolint:gosec // not negative
}

// bucketOf: with s = max(0, floor(log2 v) - 6), the bucket of v is 64 s + floor(v / 2^s).
func bucketOf(micros uint64) Bucket {
	shift := max(bits.Len64(micros)-subBits-1, 0)
	return Bucket(shift<<subBits + int(micros>>shift)) //nolint:gosec // at most 2879 within maxLatency
}

// Micros is the middle of the bucket, in microseconds.
func (b Bucket) Micros() int64 {
	shift := max(int64(b)>>subBits-1, 0)
	return (int64(b)-shift<<subBits)<<shift + 1<<shift>>1
}

// Histogram counts latencies by bucket.
type Histogram map[Bucket]int64

// Count is the number of latencies.
func (h Histogram) Count() (n int64) {
	for _, c := range h {
		n += c
	}
	return n
}

// Percentiles returns percentiles in milliseconds, by nearest rank: the latency at rank ceil(percent / 100 * count), counted from
// the lowest, within RelativeError. The percents must be ascending. The result is nil for an empty histogram.
func (h Histogram) Percentiles(percents ...int64) []money.Decimal {
	n := h.Count()
	if n <= 0 {
		return nil
	}
	buckets := make([]Bucket, 0, len(h))
	for b := range h {
		buckets = append(buckets, b)
	}
	slices.Sort(buckets)
	found := make([]money.Decimal, 0, len(percents))
	seen, at := int64(0), -1
	for _, p := range percents {
		rank := n/100*p + (n%100*p+99)/100 // without overflow
		for seen < rank {
			at++
			seen += h[buckets[at]]
		}
		found = append(found, money.Scaled(buckets[at].Micros(), microScale))
	}
	return found
}
