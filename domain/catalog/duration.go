package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// maxDuration keeps sums of a duration and any date of the ledger far from overflow.
const maxDuration = 3660 * day

// ErrDuration: the text is not a duration between 0 and ten years.
var ErrDuration = errors.New(`not a duration such as 90s, 15m, 1h30m or 7d`)

// Duration is a length of time that prints as it was written, so that an operator who wrote 24h does not read 1d. The zero
// Duration is one that was left out, and prints as "".
type Duration struct {
	text  string
	value time.Duration
}

// ParseDuration reads Go's syntax, optionally after whole days of 24 hours: 90s, 15m, 7d, 1d12h. Errors: ErrDuration.
func ParseDuration(text string) (Duration, error) {
	days, rest, hasDays := strings.Cut(text, "d")
	var value time.Duration
	if hasDays {
		n, err := strconv.ParseUint(days, 10, 12)
		if err != nil {
			return Duration{}, fmt.Errorf("%w: %q", ErrDuration, text)
		}
		value = time.Duration(n) * day //nolint:gosec // 12 bits
	} else {
		rest = text
	}
	if rest != "" || !hasDays {
		d, err := time.ParseDuration(rest)
		if err != nil || rest[0] == '-' || rest[0] == '+' || d > maxDuration {
			return Duration{}, fmt.Errorf("%w: %q", ErrDuration, text)
		}
		value += d
	}
	if value > maxDuration || len(text) > 32 {
		return Duration{}, fmt.Errorf("%w: %q", ErrDuration, text)
	}
	return Duration{text, value}, nil
}

// Value is the length.
func (d Duration) Value() time.Duration { return d.value }

// String is the text as it was written.
func (d Duration) String() string { return d.text }

// MarshalJSON writes the text as it was written.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.text) }

// UnmarshalJSON reads what MarshalJSON writes; "" is the zero Duration. Errors: ErrDuration.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return fmt.Errorf("%w: %w", ErrDuration, err)
	}
	if text == "" {
		*d = Duration{}
		return nil
	}
	parsed, err := ParseDuration(text)
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}
