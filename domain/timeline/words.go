package timeline

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
)

func until(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return ", until " + stamp(t)
}

// object is a JSON object of names and values in turn, in this order.
func object(members ...any) json.RawMessage {
	b := []byte{'{'}
	for i := 0; i < len(members); i += 2 {
		if i > 0 {
			b = append(b, ',')
		}
		for j, m := range members[i : i+2] {
			text, err := json.Marshal(m)
			if err != nil {
				panic(fmt.Sprintf("timeline: %T cannot be written: %v", m, err)) // only plain values are given
			}
			b = append(b, text...)
			if j == 0 {
				b = append(b, ':')
			}
		}
	}
	return append(b, '}')
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// details names what a person would ask about first.
func details(d event.Data) string {
	var parts []string
	for _, f := range [...]struct{ name, word string }{{"model", "model"}, {"feature", "feature"}, {"status", "status"}} {
		v := d.Get(f.name)
		if v.Kind != event.Text || v.String() == "" || f.name == "status" && v.String() == "ok" {
			continue
		}
		parts = append(parts, f.word+" "+v.String())
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func hosts(h []string) string {
	switch len(h) {
	case 0:
		return ""
	case 1:
		return ", host " + h[0]
	default:
		return ", hosts " + strings.Join(h, ", ")
	}
}

func actor(a event.Actor) string {
	if id, ok := strings.CutPrefix(string(a), "key:"); ok {
		return "API key " + id
	}
	switch a {
	case "cli":
		return "an operator on the command line"
	case "", "system":
		return "the system"
	}
	return string(a)
}

// sentence closes a text that somebody wrote.
func sentence(text string) string {
	text = strings.TrimSpace(text)
	if text == "" || strings.ContainsRune(".!?", rune(text[len(text)-1])) {
		return text
	}
	return text + "."
}
