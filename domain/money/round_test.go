package money_test

import (
	"math/big"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/money"
)

func TestRound(t *testing.T) {
	for _, c := range []struct {
		in       string
		decimals int
		want     string
	}{
		{"2.345", 2, "2.34"}, {"2.355", 2, "2.36"}, {"2.3450000001", 2, "2.35"}, {"-2.345", 2, "-2.34"}, {"-2.355", 2, "-2.36"},
		{"0.5", 0, "0"}, {"1.5", 0, "2"}, {"2.5", 0, "2"}, {"-0.5", 0, "0"}, {"-1.5", 0, "-2"}, {"0.004", 2, "0"}, {"-0.004", 2, "0"},
		{"1.0005", 3, "1"}, {"1.0015", 3, "1.002"}, {"123", 2, "123"}, {"999999999999999999.995", 2, "1000000000000000000"},
	} {
		n, err := money.ParseNumber(c.in)
		require.NoError(t, err)
		assert.Equal(t, c.want, n.Round(c.decimals).String(), c.in)
	}
	assert.Equal(t, "33.33", money.MustParse("100").Prorate(1, 3, 2).String())
	assert.Equal(t, "66.67", money.MustParse("100").Prorate(2, 3, 2).String())
	assert.Equal(t, "-66.67", money.MustParse("100").Neg().Prorate(2, 3, 2).String())
}

// Prorate is the one exact quotient, rounded half to even, as rational numbers have it; and it is the same for a negative
// amount.
func TestProrateRoundsTheExactQuotientOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := money.Scaled(rapid.Int64Range(-1e15, 1e15).Draw(t, "coefficient"), rapid.IntRange(0, 9).Draw(t, "scale"))
		part, whole := rapid.Int64Range(-1e9, 1e9).Draw(t, "part"), rapid.Int64Range(1, 1e9).Draw(t, "whole")
		decimals := rapid.IntRange(0, 4).Draw(t, "decimals")
		exact, ok := new(big.Rat).SetString(v.String())
		require.True(t, ok)
		exact.Mul(exact, big.NewRat(part, whole))
		got, ok := new(big.Rat).SetString(v.Prorate(part, whole, decimals).String())
		require.True(t, ok)
		unit := new(big.Rat).SetFrac(big.NewInt(1), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(decimals)), nil))
		units := new(big.Rat).Quo(got, unit)
		require.True(t, units.IsInt(), "it has %d decimals", decimals)
		off := new(big.Rat).Sub(exact, got)
		off.Abs(off).Quo(off, unit)
		half := off.Cmp(big.NewRat(1, 2))
		require.LessOrEqual(t, half, 0)
		require.True(t, half < 0 || units.Num().Bit(0) == 0, "a half goes to the even one")
		require.True(t, v.Neg().Prorate(part, whole, decimals).Equal(v.Prorate(part, whole, decimals).Neg()))
	})
}
