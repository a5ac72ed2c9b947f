package insight_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/insight"
	"github.com/tollgate-io/tollgate/domain/money"
)

func micros(n int64) money.Decimal { return money.Scaled(n, 3) }

func bucketOf(t require.TestingT, latency money.Decimal) insight.Bucket {
	b, ok := insight.BucketOf(latency)
	require.True(t, ok, "%s", latency)
	return b
}

func TestBuckets(t *testing.T) {
	for latency, want := range map[string]insight.Bucket{
		"0": 0, "0.0009": 0, "0.001": 1, "0.127": 127, "0.128": 128, "0.129": 128, "0.13": 129, "0.255": 191, "0.256": 192, "0.2599999": 192, "0.26": 193,
		"930": 945, "1000000000000": 2865,
	} {
		require.Equal(t, want, bucketOf(t, money.MustParse(latency)), latency)
	}
	for _, latency := range []string{"-0.001", "-5", "1000000000000.001", "1e30"} {
		_, ok := insight.BucketOf(money.MustParse(latency))
		require.False(t, ok, latency)
	}
}

// Buckets rise with what they hold, none is left out, and each one's middle is within the error of all that it holds.
func TestBucketsRise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scale := rapid.IntRange(0, 49).Draw(t, "scale")
		n := rapid.Int64Range(0, 1<<scale).Draw(t, "microseconds")
		b := bucketOf(t, micros(n))
		require.Contains(t, []insight.Bucket{b, b + 1}, bucketOf(t, micros(n+1)))
		require.LessOrEqual(t, 128*abs(b.Micros()-n), n, "the middle of bucket %d is %d", b, b.Micros())
		require.Equal(t, b, bucketOf(t, micros(b.Micros())), "the middle is in the bucket")
	})
}

func abs(n int64) int64 { return max(n, -n) }

func TestPercentilesAreThoseOfASortedList(t *testing.T) {
	percents := []int64{1, 50, 90, 95, 99, 100}
	rapid.Check(t, func(t *rapid.T) {
		scale := rapid.IntRange(1, 48).Draw(t, "scale")
		list := rapid.SliceOfN(rapid.Int64Range(0, 1<<scale), 1, 300).Draw(t, "latencies")
		h := insight.Histogram{}
		for _, n := range list {
			h[bucketOf(t, micros(n))]++
		}
		require.EqualValues(t, len(list), h.Count())
		slices.Sort(list)
		found := h.Percentiles(percents...)
		for i, p := range percents {
			exact := micros(list[(int64(len(list))*p+99)/100-1]) // the nearest rank
			bound := exact.Mul(insight.RelativeError)
			off := found[i].Sub(exact)
			require.LessOrEqual(t, off.Max(off.Neg()).Cmp(bound), 0, "p%d is %s, not %s", p, found[i], exact)
		}
	})
	require.Nil(t, insight.Histogram{}.Percentiles(50))
	const many = 1 << 62 // ranks of so many do not overflow
	require.Equal(t, []money.Decimal{micros(5), micros(5), micros(7)}, insight.Histogram{5: many / 2, 7: many / 2}.Percentiles(1, 50, 51))
}

// What is added and taken back leaves no trace: counts are all that a histogram knows.
func TestHistogramsAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOf(rapid.Int64Range(0, 1e7)).Draw(t, "latencies")
		cut := rapid.IntRange(0, len(list)).Draw(t, "cut")
		whole, rest := insight.Histogram{}, insight.Histogram{}
		for i, n := range list {
			b := bucketOf(t, micros(n))
			whole[b]++
			if i >= cut {
				rest[b]++
			}
		}
		for _, n := range list[:cut] {
			whole[bucketOf(t, micros(n))]--
		}
		require.Equal(t, rest.Count(), whole.Count())
		require.Equal(t, rest.Percentiles(50, 99), whole.Percentiles(50, 99))
	})
}
