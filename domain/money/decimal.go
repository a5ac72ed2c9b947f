// Package money owns exact numbers: quantities of usage and amounts of money. It parses them from hostile text within
// bounds, adds and compares them without loss, and is the one place that rounds. It has no exchange rates, no prices and no
// binary floating point.
package money

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/cockroachdb/apd/v3"
)

// Bounds of a number that comes from outside. They are checked on the text, before any arithmetic, so that a short
// text such as 1e999999999 cannot make the process work for seconds.
const (
	MaxIntegerDigits  = 18
	MaxFractionDigits = 9
	maxTextLength     = 64
	maxExponent       = 64

	MaxRateIntegerDigits  = 12
	MaxRateFractionDigits = 24
)

var (
	// ErrSyntax: the text is not a number in JSON's grammar, which excludes NaN and infinities.
	ErrSyntax = errors.New("not a decimal number")
	// ErrRange: the number has more digits than the ledger keeps.
	ErrRange = fmt.Errorf("more than %d integer or %d fraction digits", MaxIntegerDigits, MaxFractionDigits)
	// ErrRateRange: the rate has more digits than the ledger keeps.
	ErrRateRange = fmt.Errorf("more than %d integer or %d fraction digits", MaxRateIntegerDigits, MaxRateFractionDigits)
)

// exact adds and multiplies without rounding: 18+9 digits leave room for 10^40 additions, far beyond any log.
var exact = apd.BaseContext.WithPrecision(80)

// Decimal is an exact decimal number and an immutable value; the zero Decimal is 0.
type Decimal struct{ d apd.Decimal }

// Int is the decimal of a whole number.
func Int(n int64) Decimal {
	var v Decimal
	if n != 0 { // zero has one form
		v.d.SetInt64(n)
	}
	return v
}

// Scaled is coefficient / 10^scale.
func Scaled(coefficient int64, scale int) Decimal {
	var v Decimal
	v.d.SetFinite(coefficient, -int32(scale)) //nolint:gosec // scale is at most maxTextLength
	return v.reduced()
}

// ParseQuantity reads a number in JSON's grammar with at most 18 integer and 9 fraction digits after the exponent is applied.
// Errors: ErrSyntax, ErrRange.
func ParseQuantity(text string) (Decimal, error) {
	n, err := ParseNumber(text)
	if err != nil {
		return Decimal{}, err
	}
	integer, fraction := n.digits()
	if integer > MaxIntegerDigits || fraction > MaxFractionDigits {
		return Decimal{}, ErrRange
	}
	return n, nil
}

// IsQuantity reports whether the number is within the bounds of ParseQuantity; arithmetic can exceed them.
func (v Decimal) IsQuantity() bool {
	const bound = 1e18 // MaxIntegerDigits
	if c, scale, ok := v.Coefficient(); ok && scale <= MaxFractionDigits && -bound < c && c < bound {
		return true
	}
	_, err := ParseQuantity(v.String())
	return err == nil
}

// ParseNumber reads any JSON number of at most 64 characters with an exponent within ±64: the bounds for numbers that are
// stored but never billed. Errors: ErrSyntax, ErrRange.
func ParseNumber(text string) (Decimal, error) {
	exponent, err := scan(text)
	if err != nil {
		return Decimal{}, err
	}
	if exponent > maxExponent {
		return Decimal{}, ErrRange
	}
	var v Decimal
	if n, ok := small(text); ok {
		v.d.SetInt64(n)
		return v.reduced(), nil
	}
	if _, _, err := v.d.SetString(text); err != nil {
		return Decimal{}, fmt.Errorf("%w: %q", ErrSyntax, text)
	}
	return v.reduced(), nil
}

// ParseRate reads the price of something small, such as a token, and returns it times 10^shift, exactly. Price lists spell out
// binary fractions, so a rate may have more digits than a quantity: at most 12 integer and 24 fraction digits. The product of a
// rate and a quantity is still exact. Errors: ErrSyntax, ErrRateRange.
func ParseRate(text string, shift int) (Decimal, error) {
	n, err := ParseNumber(text)
	switch {
	case errors.Is(err, ErrRange):
		return Decimal{}, ErrRateRange
	case err != nil:
		return Decimal{}, err
	}
	n = n.Mul(Scaled(1, -shift))
	if integer, fraction := n.digits(); integer > MaxRateIntegerDigits || fraction > MaxRateFractionDigits {
		return Decimal{}, ErrRateRange
	}
	return n, nil
}

// MustParse is ParseNumber for constants in code and tests; it panics on an error.
func MustParse(text string) Decimal {
	v, err := ParseNumber(text)
	if err != nil {
		panic(err)
	}
	return v
}

// small reads up to 18 plain digits, the form of nearly every token count.
func small(text string) (int64, bool) {
	if len(text) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(text) {
		c := text[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// scan checks JSON's number grammar (RFC 8259, section 6) and returns the absolute value of the exponent, capped.
func scan(s string) (exponent int, err error) {
	if len(s) > maxTextLength {
		return 0, ErrRange
	}
	rest := strings.TrimPrefix(s, "-")
	whole := leadingDigits(rest)
	if whole == 0 || (whole > 1 && rest[0] == '0') {
		return 0, fmt.Errorf("%w: %q", ErrSyntax, s)
	}
	rest = rest[whole:]
	if strings.HasPrefix(rest, ".") {
		n := leadingDigits(rest[1:])
		if n == 0 {
			return 0, fmt.Errorf("%w: %q", ErrSyntax, s)
		}
		rest = rest[1+n:]
	}
	if rest != "" && (rest[0] == 'e' || rest[0] == 'E') {
		rest = rest[1:]
		if rest != "" && (rest[0] == '+' || rest[0] == '-') {
			rest = rest[1:]
		}
		n := leadingDigits(rest)
		if n == 0 {
			return 0, fmt.Errorf("%w: %q", ErrSyntax, s)
		}
		for i := range n {
			exponent = min(exponent*10+int(rest[i]-'0'), maxExponent+1)
		}
		rest = rest[n:]
	}
	if rest != "" {
		return 0, fmt.Errorf("%w: %q", ErrSyntax, s)
	}
	return exponent, nil
}

func leadingDigits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// reduced drops trailing zeros of the fraction and writes whole numbers with exponent 0, so that equal numbers have
// one form.
func (v Decimal) reduced() Decimal {
	if v.d.IsZero() {
		return Decimal{}
	}
	if v.d.Exponent < 0 {
		var r apd.Decimal
		r.Reduce(&v.d)
		v.d = r
	}
	if v.d.Exponent > 0 {
		var r apd.Decimal
		if _, err := exact.WithPrecision(2*maxTextLength+maxExponent).Quantize(&r, &v.d, 0); err == nil {
			v.d = r
		}
	}
	// A coefficient that was longer than 128 bits stays on the heap when it gets shorter; a copy does not.
	var r Decimal
	r.d.Set(&v.d)
	return r
}

// digits counts the digits before and after the point.
func (v Decimal) digits() (integer, fraction int) {
	n := int(v.d.NumDigits())
	fraction = int(max(-v.d.Exponent, 0))
	return max(n-fraction, 0), fraction
}

// whole returns a whole number of at most 62 bits: nearly every quantity is one, and sums of two of them do not overflow.
func (v *Decimal) whole() (int64, bool) {
	if v.d.Exponent != 0 || v.d.Form != apd.Finite || !v.d.Coeff.IsInt64() {
		return 0, false
	}
	n := v.d.Coeff.Int64()
	if n >= 1<<62 {
		return 0, false
	}
	if v.d.Negative {
		n = -n
	}
	return n, true
}

// Add is v + w.
func (v Decimal) Add(w Decimal) Decimal {
	if a, ok := v.whole(); ok {
		if b, ok := w.whole(); ok {
			return Int(a + b)
		}
	}
	var r Decimal
	must(exact.Add(&r.d, &v.d, &w.d))
	return r.reduced()
}

// Sub is v - w.
func (v Decimal) Sub(w Decimal) Decimal {
	if a, ok := v.whole(); ok {
		if b, ok := w.whole(); ok {
			return Int(a - b)
		}
	}
	var r Decimal
	must(exact.Sub(&r.d, &v.d, &w.d))
	return r.reduced()
}

var one = Int(1)

// Mul is v * w, exact.
func (v Decimal) Mul(w Decimal) Decimal {
	var r Decimal
	must(exact.Mul(&r.d, &v.d, &w.d))
	return r.reduced()
}

// Ceil is v / w, rounded up to a whole number, for v >= 0 and w > 0.
func (v Decimal) Ceil(w Decimal) Decimal {
	var q, rest Decimal
	must(exact.QuoInteger(&q.d, &v.d, &w.d))
	must(exact.Rem(&rest.d, &v.d, &w.d))
	if rest.Sign() > 0 {
		return q.Add(Int(1))
	}
	return q.reduced()
}

// Floor is v, rounded down to a whole number, for v >= 0.
func (v Decimal) Floor() Decimal {
	var q Decimal
	must(exact.QuoInteger(&q.d, &v.d, &one.d))
	return q.reduced()
}

// Round is v with the given number of decimals, rounded half to even; v and -v round alike.
func (v Decimal) Round(decimals int) Decimal { return v.Prorate(1, 1, decimals) }

// Prorate is v * part / whole with the given number of decimals, rounded once, half to even; whole > 0.
func (v Decimal) Prorate(part, whole int64, decimals int) Decimal {
	numerator := new(big.Int).Mul(v.d.Coeff.MathBigInt(), big.NewInt(part))
	denominator := big.NewInt(whole)
	if shift := int64(v.d.Exponent) + int64(decimals); shift >= 0 {
		numerator.Mul(numerator, new(big.Int).Exp(big.NewInt(10), big.NewInt(shift), nil))
	} else {
		denominator.Mul(denominator, new(big.Int).Exp(big.NewInt(10), big.NewInt(-shift), nil))
	}
	q, r := new(big.Int).QuoRem(numerator, denominator, new(big.Int))
	if half := r.Abs(r).Lsh(r, 1).Cmp(denominator); half > 0 || half == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(int64(numerator.Sign())))
	}
	var d Decimal
	d.d.Coeff.SetMathBigInt(q.Abs(q))
	d.d.Exponent = int32(-decimals) //nolint:gosec // a few
	d.d.Negative = v.d.Negative != (part < 0) && q.Sign() != 0
	return d.reduced()
}

// Max is the larger one.
func (v Decimal) Max(w Decimal) Decimal {
	if v.Cmp(w) < 0 {
		return w
	}
	return v
}

// Min is the smaller one.
func (v Decimal) Min(w Decimal) Decimal {
	if w.Cmp(v) < 0 {
		return w
	}
	return v
}

// Neg is -v.
func (v Decimal) Neg() Decimal { return Decimal{}.Sub(v) }

// must panics on a result that was rounded. The bounds above exclude it, and a silently rounded bill would be worse than a
// crash.
func must(c apd.Condition, err error) {
	if err != nil || c.Inexact() {
		panic(fmt.Sprintf("money: inexact result (%s, %v)", c, err))
	}
}

// Cmp is -1, 0 or 1.
func (v Decimal) Cmp(w Decimal) int {
	if a, ok := v.whole(); ok {
		if b, ok := w.whole(); ok {
			return cmp.Compare(a, b)
		}
	}
	return v.d.Cmp(&w.d)
}

// Equal reports whether both are the same number.
func (v Decimal) Equal(w Decimal) bool { return v.Cmp(w) == 0 }

// Sign is -1, 0 or 1.
func (v Decimal) Sign() int { return v.d.Sign() }

// Coefficient returns the number as coefficient / 10^scale, the compact form of the log; ok is false if the coefficient does
// not fit.
func (v Decimal) Coefficient() (coefficient int64, scale int, ok bool) {
	if v.d.Exponent > 0 || !v.d.Coeff.IsInt64() {
		return 0, 0, false
	}
	n := v.d.Coeff.Int64()
	if v.d.Negative {
		n = -n
	}
	return n, int(-v.d.Exponent), true
}

// powers are the powers of ten.
var powers = func() (p [39]*big.Int) {
	p[0] = big.NewInt(1)
	for i := 1; i < len(p); i++ {
		p[i] = new(big.Int).Mul(p[i-1], big.NewInt(10))
	}
	return p
}()

// FixedBytes is the size of the fixed-point form.
const FixedBytes = 16

// FixedPoint is v * 10^scale as a two's complement number in big-endian order, for |v| < 10^(38-scale) with at most scale
// decimals.
func (v Decimal) FixedPoint(scale int) (b [FixedBytes]byte) {
	n := new(big.Int).Mul(v.d.Coeff.MathBigInt(), powers[scale+int(v.d.Exponent)])
	if v.d.Negative { // the bits of 2^128 - n
		n.Sub(new(big.Int).Lsh(big.NewInt(1), 8*FixedBytes), n)
	}
	n.FillBytes(b[:])
	return b
}

// String is the plain notation without exponent and without trailing zeros.
func (v Decimal) String() string {
	if v.d.Exponent == 0 && v.d.Coeff.IsInt64() && !v.d.Negative {
		return strconv.FormatInt(v.d.Coeff.Int64(), 10)
	}
	return v.d.Text('f')
}

// Fixed is the plain notation with the given number of decimals: 12.30. A number that has more keeps them.
func (v Decimal) Fixed(decimals int) string {
	text := v.String()
	whole, fraction, _ := strings.Cut(text, ".")
	if decimals == 0 || len(fraction) >= decimals {
		return text
	}
	return whole + "." + fraction + strings.Repeat("0", decimals-len(fraction))
}

// Grouped is the plain notation with commas between the thousands, as people read it.
func (v Decimal) Grouped() string {
	whole, fraction, hasFraction := strings.Cut(strings.TrimPrefix(v.String(), "-"), ".")
	var b strings.Builder
	if v.Sign() < 0 {
		b.WriteByte('-')
	}
	for i := range len(whole) {
		if i > 0 && (len(whole)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteByte(whole[i])
	}
	if hasFraction {
		b.WriteString("." + fraction)
	}
	return b.String()
}

// MarshalJSON writes a JSON number, exact to the digit.
func (v Decimal) MarshalJSON() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalJSON accepts a JSON number or a decimal string within the bounds of a quantity.
func (v *Decimal) UnmarshalJSON(b []byte) error {
	text := string(b)
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		text = text[1 : len(text)-1]
	}
	n, err := ParseQuantity(text)
	if err != nil {
		return err
	}
	*v = n
	return nil
}
