package money_test

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/money"
)

func TestParseQuantity(t *testing.T) {
	for _, c := range []struct {
		text, want string
		err        error
	}{
		{"1", "1", nil},
		{"0", "0", nil},
		{"-0", "0", nil},
		{"1.50", "1.5", nil},
		{"0.000000001", "0.000000001", nil},
		{"999999999999999999.999999999", "999999999999999999.999999999", nil},
		{"1e3", "1000", nil},
		{"12E-2", "0.12", nil},
		{"1000000000000000000", "", money.ErrRange},
		{"0.0000000001", "", money.ErrRange},
		{"1e18", "", money.ErrRange},
		{"1e10000000", "", money.ErrRange},
		{"1e-10000000", "", money.ErrRange},
		{"1e99999999999999999999", "", money.ErrRange},
		{strings.Repeat("9", 65), "", money.ErrRange},
		{"", "", money.ErrSyntax},
		{"NaN", "", money.ErrSyntax},
		{"Infinity", "", money.ErrSyntax},
		{"+1", "", money.ErrSyntax},
		{"01", "", money.ErrSyntax},
		{".5", "", money.ErrSyntax},
		{"1.", "", money.ErrSyntax},
		{"1e", "", money.ErrSyntax},
		{"0x10", "", money.ErrSyntax},
		{"1_000", "", money.ErrSyntax},
		{" 1", "", money.ErrSyntax},
		{"١", "", money.ErrSyntax},
	} {
		t.Run(c.text, func(t *testing.T) {
			got, err := money.ParseQuantity(c.text)
			require.ErrorIs(t, err, c.err)
			if c.err == nil {
				require.Equal(t, c.want, got.String())
			}
		})
	}
}

// Against big.Rat, which cannot round.
func TestArithmeticIsExact(t *testing.T) {
	number := rapid.StringMatching(`-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,9})?`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := number.Draw(t, "a"), number.Draw(t, "b")
		x, y := money.MustParse(a), money.MustParse(b)
		rx, _ := new(big.Rat).SetString(a)
		ry, _ := new(big.Rat).SetString(b)

		sum, ok := new(big.Rat).SetString(x.Add(y).String())
		require.True(t, ok)
		require.Zero(t, sum.Cmp(new(big.Rat).Add(rx, ry)))
		require.Equal(t, rx.Cmp(ry), x.Cmp(y))
		require.True(t, x.Add(y).Sub(y).Equal(x))
		require.Equal(t, x.String(), money.MustParse(x.String()).String())
		if c, s, ok := x.Coefficient(); ok {
			require.True(t, money.Scaled(c, s).Equal(x))
		}
	})
}

func TestEqualNumbersHaveOneForm(t *testing.T) {
	for _, text := range []string{"100", "100.0", "1e2", "1.00E+2", "1000e-1", "100." + strings.Repeat("0", 50)} {
		require.Equal(t, money.Int(100), money.MustParse(text), text)
	}
	long := money.MustParse("1e40")
	for _, n := range []int64{1, -1} { // on the way to a sum, and back
		require.Equal(t, money.Int(n), long.Add(money.Int(n)).Sub(long))
	}
}

func FuzzParseQuantity(f *testing.F) {
	for _, s := range []string{"1", "1e5", "-0.1", "1e999999999", "00", "9.999999999", "100000000000.0001000000000000000000000000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := money.ParseQuantity(s)
		if err != nil {
			return
		}
		again, err := money.ParseQuantity(v.String())
		if err != nil || again != v {
			t.Fatalf("%q -> %s -> %s (%v)", s, v, again, err)
		}
	})
}

// Whole numbers take a short way; it must end where the long one does, also where it is not wide enough.
func TestWholeNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.Int64(), rapid.Int64Range(-100, 100), rapid.SampledFrom([]int64{1 << 62, 1<<62 - 1, -1 << 62, math.MaxInt64, math.MinInt64}))
		a, b := number.Draw(t, "a"), number.Draw(t, "b")
		x, y := big.NewInt(a), big.NewInt(b)
		require.Equal(t, new(big.Int).Add(x, y).String(), money.Int(a).Add(money.Int(b)).String())
		require.Equal(t, new(big.Int).Sub(x, y).String(), money.Int(a).Sub(money.Int(b)).String())
		require.Equal(t, new(big.Int).Mul(x, y).String(), money.Int(a).Mul(money.Int(b)).String())
		require.Equal(t, x.Cmp(y), money.Int(a).Cmp(money.Int(b)))
		require.Equal(t, strconv.FormatInt(max(a, b), 10), money.Int(a).Max(money.Int(b)).String())
		if a >= 0 && b > 0 {
			q, rest := new(big.Int).QuoRem(x, y, new(big.Int))
			if rest.Sign() > 0 {
				q.Add(q, big.NewInt(1))
			}
			require.Equal(t, q.String(), money.Int(a).Ceil(money.Int(b)).String())
		}
	})
}

func TestGrouped(t *testing.T) {
	for _, c := range [][2]string{{"0", "0"}, {"999", "999"}, {"1000", "1,000"}, {"-1000", "-1,000"}, {"-100", "-100"}, {"1234567.1234", "1,234,567.1234"},
		{"0.5", "0.5"}, {"123456789012345678", "123,456,789,012,345,678"}} {
		require.Equal(t, c[1], money.MustParse(c[0]).Grouped())
	}
}

// A rate is exactly 10^shift times what the text says, in every spelling of the number, or it is refused.
func TestRatesAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(
			rapid.StringMatching(`-?(0|[1-9][0-9]{0,13})(\.[0-9]{1,26})?([eE][+-]?[0-9]{1,2})?`),
			// As price lists have them: a binary fraction, written out.
			rapid.Map(rapid.Float64Range(0, 1e-3), func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }),
			rapid.Map(rapid.Float64Range(0, 1e6), func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }),
		).Draw(t, "text")
		shift := rapid.SampledFrom([]int{0, 6}).Draw(t, "shift")
		got, err := money.ParseRate(text, shift)
		want, ok := new(big.Rat).SetString(text)
		require.True(t, ok)
		want.Mul(want, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(shift)), nil)))
		whole := new(big.Int).Quo(want.Num(), want.Denom())
		tiny := new(big.Rat).Mul(want, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(24), nil)))
		if len(text) > 64 || len(whole.Abs(whole).String()) > 12 || !tiny.IsInt() {
			require.ErrorIs(t, err, money.ErrRateRange)
			return
		}
		require.NoError(t, err)
		read, ok := new(big.Rat).SetString(got.String())
		require.True(t, ok)
		require.Zero(t, want.Cmp(read), "%s is not %s", got, want)
	})
}

func TestParseRateRefuses(t *testing.T) {
	for text, want := range map[string]error{
		"1e999999999": money.ErrRateRange, "1e-999999999": money.ErrRateRange, "1e64": money.ErrRateRange, "1e-31": money.ErrRateRange,
		"1e6": money.ErrRateRange, "0." + strings.Repeat("1", 70): money.ErrRateRange, "": money.ErrSyntax, "NaN": money.ErrSyntax, "1e": money.ErrSyntax, "0x1": money.ErrSyntax,
	} {
		_, err := money.ParseRate(text, 6)
		require.ErrorIs(t, err, want, text)
	}
	d, err := money.ParseRate("1.5e-07", 6)
	require.NoError(t, err)
	require.Equal(t, "0.15", d.String())
}

func TestFixedPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := money.Scaled(rapid.Int64().Draw(t, "coefficient"), rapid.IntRange(0, 18).Draw(t, "scale"))
		b := v.FixedPoint(18)
		n := new(big.Int).SetBytes(b[:])
		if b[0] >= 0x80 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), 128))
		}
		require.True(t, v.Equal(money.MustParse(n.String()+"e-18")), "%s is %s", v, n)
	})
}
