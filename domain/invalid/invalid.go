// Package invalid owns the error for input that breaks a rule of the domain: which value, which rule, in words that
// the sender can act on. It does not know HTTP.
package invalid

import (
	"strings"
	"unicode/utf8"
)

// The codes that most rules have. A code of its own says more, such as those of the catalog.
const (
	CodeEvent   = "invalid_event"   // of usage events, their corrections and checks
	CodeRequest = "invalid_request" // of everything else: configuration and queries
)

// Field is one broken rule. Pointer is a JSON pointer (RFC 6901) into what was sent; "" is the whole.
type Field struct {
	Pointer string `json:"pointer"`
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

// Error lists every broken rule that was found. It has at least one field.
type Error struct{ Fields []Field }

// New is an error with one field.
func New(pointer, code, detail string) *Error {
	return &Error{Fields: []Field{{pointer, code, detail}}}
}

func (e *Error) Error() string {
	var b strings.Builder
	for i, f := range e.Fields {
		if i > 0 {
			b.WriteString("; ")
		}
		if f.Pointer != "" {
			b.WriteString(f.Pointer + ": ")
		}
		b.WriteString(f.Detail)
	}
	return b.String()
}

// List collects broken rules; the zero List is ready.
type List struct{ fields []Field }

// Add notes one broken rule.
func (l *List) Add(pointer, code, detail string) {
	l.fields = append(l.fields, Field{pointer, code, detail})
}

// Err is nil while nothing was added.
func (l *List) Err() error {
	if len(l.fields) == 0 {
		return nil
	}
	return &Error{Fields: l.fields}
}

var escaper = strings.NewReplacer("~", "~0", "/", "~1")

// Token escapes one member name for a JSON pointer.
func Token(name string) string { return escaper.Replace(name) }

// Clip shortens a text from outside before an error quotes it: to at most that many bytes and "...", without cutting a character.
// The text must be valid UTF-8.
func Clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	end := most
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "..."
}
