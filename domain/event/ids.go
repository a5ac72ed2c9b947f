// Package event owns what the log can hold: the typed ids, every kind of event, and the format of each kind.
// It decides what a well-formed event is; whether a tenant or an event type exists is decided elsewhere.
package event

import (
	"fmt"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/tollgate-io/tollgate/domain/invalid"
)

// MaxIDLength bounds every id that comes from outside, in characters.
const MaxIDLength = 200

// TenantID names a customer company of the product. "" is the system itself, and never comes from outside.
type TenantID string

// Type is what was used, in the product's words: "ai_interview_completed".
type Type string

// SourceID is the product's own id of the thing that was used. With tenant and type it identifies a usage event.
type SourceID string

// KeyID names an API key.
type KeyID string

// Actor is who caused an event: "key:<id>", "cli" or "system".
type Actor string

// CheckID returns an error unless the text can be an id: 1-200 printable characters in Unicode normalisation form C.
// Otherwise two spellings that look the same would be two identities.
func CheckID(text string) error {
	switch n := utf8.RuneCountInString(text); {
	case n == 0:
		return fmt.Errorf("must not be empty")
	case len(text) > MaxIDLength*utf8.UTFMax || n > MaxIDLength:
		return fmt.Errorf("has %d characters; at most %d are allowed", n, MaxIDLength)
	case !utf8.ValidString(text):
		return fmt.Errorf("is not valid UTF-8")
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("contains the unprintable character %U", r)
		}
	}
	if !norm.NFC.IsNormalString(text) {
		return fmt.Errorf("is not in Unicode normalisation form C")
	}
	return nil
}

// checkID adds a bad id to the list, under its name in the request.
func checkID(l *invalid.List, name, text string) {
	if err := CheckID(text); err != nil {
		l.Add("/"+name, invalid.CodeEvent, name+" "+err.Error())
	}
}
