package readmodels

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"github.com/tollgate-io/tollgate/domain/invalid"
)

// maxCursor bounds what is decoded; the longest dimensions make a cursor of this size.
const maxCursor = 1 << 20

// cursor is opaque to users. It is bound to the question whose page it ends, the tenant first of all, by a hash.
type cursor struct {
	Scope []byte          `json:"s"`
	Last  json.RawMessage `json:"c"`
}

func scopeOf(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:12]
}

func newCursor(scope string, last any) string {
	b, err := json.Marshal(last)
	if err == nil {
		b, err = json.Marshal(cursor{scopeOf(scope), b})
	}
	if err != nil {
		panic("postgres: a cursor cannot be written: " + err.Error()) // only plain fields
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// openCursor reads what newCursor wrote for the same scope. Errors: *invalid.Error.
func openCursor(text, scope string, last any) error {
	if len(text) > maxCursor {
		return invalid.New("/cursor", "too_large", "the cursor is longer than any that was given out")
	}
	var c cursor
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err == nil && string(c.Scope) != string(scopeOf(scope)) {
		return invalid.New("/cursor", "malformed", "the cursor belongs to another question; start again without one")
	}
	if err == nil {
		err = json.Unmarshal(c.Last, last)
	}
	if err != nil {
		return invalid.New("/cursor", "malformed", "the cursor is not one that was given out; start again without one")
	}
	return nil
}
