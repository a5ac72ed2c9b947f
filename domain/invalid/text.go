package invalid

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// IsText reports whether a text has at most so many characters and is valid UTF-8 without control characters, except
// those that are allowed. Stores of texts take no NUL, and a line break does not belong into a name.
func IsText(s string, most int, allowed string) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= most &&
		!strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune(allowed, r) })
}

// Shorten keeps an answer from repeating all that was sent.
func Shorten(s string) string {
	if runes := []rune(s); len(runes) > 100 {
		return string(runes[:100]) + "..."
	}
	return s
}
