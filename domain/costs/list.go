package costs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/money"
)

// Bounds of a price list.
const (
	MaxText    = 16 << 20 // bytes
	maxEntries = 50_000   // including those without token prices
	maxModels  = 20_000
	maxNoted   = 20 // problems
	clipped    = 80 // characters of the list that an error quotes
)

// List is a price list: what providers charge, sorted by provider and model, each model once.
type List struct {
	Hash    string // SHA-256 of its text, lower-case hex
	Costs   []event.ModelCost
	Skipped []Skip
	// Ambiguous are the models that were skipped because entries give different prices. They do not count as missing.
	Ambiguous []event.ModelName
}

// Skip is an entry of a list without a usable cost, and the reason.
type Skip struct{ Entry, Reason string }

// Reasons to skip an entry.
const (
	NoTokenPrices = "no token prices"
	OtherUnit     = "charged by another unit than tokens"
	NoProvider    = "no provider"
	NoName        = "no name that an event can have"
	Ambiguous     = "several entries with different prices"
)

// ParseList reads a price list, a JSON text in one of two forms:
//
//   - ours: an array of {provider, model, inputPerMillion, cachedInputPerMillion?, outputPerMillion}, or an object whose member
//     "costs" is that array. Anything that could be a mistake is refused.
//   - that of the LiteLLM project, which others use too: an object with an entry for each model, whose name may start with the
//     provider and a slash, with input_cost_per_token, output_cost_per_token, cache_read_input_token_cost? and
//     litellm_provider?. Other members are ignored, such as prices for long prompts or batches. Entries without both token prices
//     are skipped (images, minutes of sound, queries), and so are models with different prices in two entries: no price is guessed.
//
// Prices are in US dollars, as numbers or decimal strings, and keep every digit; no binary floating point is involved. The price of
// cached input defaults to that of input. The error is an *invalid.Error with JSON pointers; its code is "invalid_json" if the text
// is not JSON, and "too_large" if it exceeds the bounds.
func ParseList(text []byte) (List, error) {
	if len(text) > MaxText {
		return List{}, invalid.New("", "too_large", fmt.Sprintf("a price list has at most %d bytes, not %d", MaxText, len(text)))
	}
	p := &parser{json: jsontext.NewDecoder(bytes.NewBuffer(text))}
	if err := p.read(); err != nil {
		return List{}, p.failure(err)
	}
	if err := p.bad.Err(); err != nil {
		return List{}, err
	}
	hash := sha256.Sum256(text)
	list := List{Hash: hex.EncodeToString(hash[:])}
	list.Costs, list.Ambiguous = p.unambiguous()
	list.Skipped = p.skipped
	if len(list.Costs) == 0 {
		return List{}, invalid.New("", "malformed", fmt.Sprintf("the list has no token prices; %d entries were skipped", len(list.Skipped)))
	}
	return list, nil
}

// parser reads one text.
type parser struct {
	json    *jsontext.Decoder
	bad     invalid.List
	noted   int
	entries int
	costs   []event.ModelCost
	skipped []Skip
}

// errBound: the list is too large.
var errBound = fmt.Errorf("a price list has at most %d entries and %d models", maxEntries, maxModels)

func (p *parser) refuse(at, code, format string, args ...any) {
	if p.noted++; p.noted <= maxNoted {
		p.bad.Add(at, code, fmt.Sprintf(format, args...))
	}
}

// failure turns an error of the tokenizer into ours.
func (p *parser) failure(err error) error {
	if errors.Is(err, errBound) {
		return invalid.New("", "too_large", err.Error())
	}
	at := ""
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		at = clip(string(syntax.JSONPointer))
	}
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return invalid.New(at, "duplicate_key", "the name is given twice")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return invalid.New("", "invalid_json", "the JSON text is missing or ends early")
	default:
		return invalid.New(at, "invalid_json", clip(strings.TrimPrefix(err.Error(), "jsontext: ")))
	}
}

func (p *parser) read() error {
	switch p.json.PeekKind() {
	case '[':
		if err := p.ours(""); err != nil {
			return err
		}
	case '{':
		if err := p.object(); err != nil {
			return err
		}
	default:
		p.refuse("", "wrong_type", "a price list is a JSON array or object")
		return p.json.SkipValue()
	}
	switch _, err := p.json.ReadToken(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	default:
		return errors.New("text after the end of the JSON value")
	}
}

// object reads an object of either form.
func (p *parser) object() error {
	if _, err := p.json.ReadToken(); err != nil {
		return err
	}
	inOurs := false
	for p.json.PeekKind() != '}' {
		name, err := p.json.ReadToken()
		if err != nil {
			return err
		}
		key := name.String()
		switch kind := p.json.PeekKind(); {
		case key == "costs" && kind == '[' && p.entries == 0:
			inOurs = true
			err = p.ours("/costs")
		case inOurs:
			p.refuse(pointer("", key), "unknown_key", "the only member of a list in this form is costs")
			err = p.json.SkipValue()
		case kind == '{':
			err = p.theirs(key)
		default:
			p.refuse(pointer("", key), "wrong_type", "an entry is an object with the prices of a model")
			err = p.json.SkipValue()
		}
		if err != nil {
			return err
		}
	}
	_, err := p.json.ReadToken()
	return err
}

// member is a value of an entry; text is set for strings and numbers.
type member struct {
	kind jsontext.Kind
	text string
}

// members reads one object. Members that are not wanted are skipped, or refused if strict.
func (p *parser) members(at string, wanted []string, strict bool) (map[string]member, error) {
	if p.entries++; p.entries > maxEntries {
		return nil, errBound
	}
	if p.json.PeekKind() != '{' {
		p.refuse(at, "wrong_type", "an entry is an object with the prices of a model")
		return nil, p.json.SkipValue()
	}
	if _, err := p.json.ReadToken(); err != nil {
		return nil, err
	}
	found := map[string]member{}
	for p.json.PeekKind() != '}' {
		name, err := p.json.ReadToken()
		if err != nil {
			return nil, err
		}
		key, kind := name.String(), p.json.PeekKind()
		known := slices.Contains(wanted, key)
		switch {
		case !known && strict:
			p.refuse(pointer(at, key), "unknown_key", "%s is unknown; the known names are %s", strconv.Quote(clip(key)), strings.Join(wanted, ", "))
			err = p.json.SkipValue()
		case kind == '{', kind == '[':
			err = p.json.SkipValue()
			if known {
				found[key] = member{kind: kind}
			}
		default:
			var token jsontext.Token
			if token, err = p.json.ReadToken(); err != nil {
				break
			}
			v := member{kind, token.String()}
			switch {
			case known:
				found[key] = v
			case pricesOther(key, v):
				found[otherUnit] = v
			}
		}
		if err != nil {
			return nil, err
		}
	}
	_, err := p.json.ReadToken()
	return found, err
}

var ourNames = []string{"provider", "model", "inputPerMillion", "cachedInputPerMillion", "outputPerMillion"}

// ours reads an array of our own form.
func (p *parser) ours(at string) error {
	if _, err := p.json.ReadToken(); err != nil {
		return err
	}
	seen := map[event.ModelName]bool{}
	for i := 0; p.json.PeekKind() != ']'; i++ {
		at := at + "/" + strconv.Itoa(i)
		m, err := p.members(at, ourNames, true)
		if err != nil {
			return err
		}
		if m == nil {
			continue
		}
		c := event.ModelCost{ModelName: event.ModelName{Provider: p.name(m, at, "provider"), Model: p.name(m, at, "model")}}
		c.Input = p.rate(m, at, "inputPerMillion", 0)
		c.Output = p.rate(m, at, "outputPerMillion", 0)
		if c.Cached = c.Input; m["cachedInputPerMillion"].kind != 0 {
			c.Cached = p.rate(m, at, "cachedInputPerMillion", 0)
		}
		if seen[c.ModelName] && c.Model != "" {
			p.refuse(at, "duplicate_key", "the model %s of %s is given twice", strconv.Quote(clip(c.Model)), strconv.Quote(clip(c.Provider)))
		}
		seen[c.ModelName] = true
		if err := p.add(c); err != nil {
			return err
		}
	}
	_, err := p.json.ReadToken()
	return err
}

var (
	theirNames = []string{"input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost", "litellm_provider"}
	// sampleEntry is the entry that explains the format.
	sampleEntry = "sample_spec"
)

// theirs reads the entry of one model in the other form.
func (p *parser) theirs(key string) error {
	at := pointer("", key)
	m, err := p.members(at, theirNames, false)
	if err != nil {
		return err
	}
	priced := func(name string) bool { return m[name].kind != 0 && m[name].kind != 'n' }
	provider := m["litellm_provider"]
	if provider.kind != 0 && provider.kind != '"' {
		p.refuse(at+"/litellm_provider", "wrong_type", "must be a string")
		return nil
	}
	name := modelOf(key, provider.text)
	switch {
	case key == sampleEntry, !priced("input_cost_per_token"), !priced("output_cost_per_token"):
		p.skip(key, NoTokenPrices)
		return nil
	case name.Provider == "":
		p.skip(key, NoProvider)
		return nil
	case !isName(name.Provider) || !isName(name.Model):
		p.skip(key, NoName)
		return nil
	}
	const perMillion = 6
	c := event.ModelCost{ModelName: name}
	c.Input = p.rate(m, at, "input_cost_per_token", perMillion)
	c.Output = p.rate(m, at, "output_cost_per_token", perMillion)
	if c.Cached = c.Input; priced("cache_read_input_token_cost") {
		c.Cached = p.rate(m, at, "cache_read_input_token_cost", perMillion)
	}
	if m[otherUnit].kind != 0 && c.Input.Sign() == 0 && c.Output.Sign() == 0 {
		p.skip(key, OtherUnit) // its tokens are not free; something else is charged for
		return nil
	}
	return p.add(c)
}

// isName reports whether an event can have the name.
func isName(text string) bool { return event.CheckID(text) == nil }

// otherUnit is the key for members that price something other than tokens.
const otherUnit = "*"

// pricesOther reports whether a member prices something other than tokens, such as input_cost_per_query.
func pricesOther(key string, v member) bool {
	if !strings.Contains(key, "_cost_per_") || strings.Contains(key, "token") || v.kind != '0' {
		return false
	}
	price, err := money.ParseNumber(v.text)
	return err != nil || price.Sign() != 0
}

// modelOf splits the name of an entry into provider and model. The list names some providers by family and product, such as
// vertex_ai-language-models; events name them by the family alone, and so do entries that start with it.
func modelOf(key, provider string) event.ModelName {
	prefix, rest, ok := strings.Cut(key, "/")
	if ok && prefix != "" && rest != "" && (provider == "" || provider == prefix || strings.HasPrefix(provider, prefix+"-")) {
		return event.ModelName{Provider: prefix, Model: rest}
	}
	if strings.HasPrefix(provider, "vertex_ai-") {
		provider = "vertex_ai"
	}
	return event.ModelName{Provider: provider, Model: key}
}

func (p *parser) skip(entry, reason string) {
	p.skipped = append(p.skipped, Skip{clip(entry), reason})
}

func (p *parser) add(c event.ModelCost) error {
	if p.costs = append(p.costs, c); len(p.costs) > maxModels {
		return errBound
	}
	return nil
}

// name reads the name of a provider or model; the rules are those of event ids.
func (p *parser) name(m map[string]member, at, name string) string {
	switch v := m[name]; {
	case v.kind == 0:
		p.refuse(at+"/"+name, "required", "%s is missing", name)
	case v.kind != '"':
		p.refuse(at+"/"+name, "wrong_type", "%s must be a string", name)
	default:
		if err := event.CheckID(v.text); err != nil {
			p.refuse(at+"/"+name, "malformed", "%s %s", name, err)
		}
		return v.text
	}
	return ""
}

// rate reads a price and multiplies it by 10^shift.
func (p *parser) rate(m map[string]member, at, name string, shift int) event.Rate {
	v := m[name]
	switch {
	case v.kind == 0:
		p.refuse(at+"/"+name, "required", "%s is missing", name)
		return event.Rate{}
	case v.kind != '0' && v.kind != '"':
		p.refuse(at+"/"+name, "wrong_type", "%s must be a number or a decimal string", name)
		return event.Rate{}
	}
	rate, err := money.ParseRate(v.text, shift)
	switch {
	case errors.Is(err, money.ErrRateRange):
		p.refuse(at+"/"+name, "out_of_range", "%s has, per million tokens, %s", name, money.ErrRateRange)
	case err != nil:
		p.refuse(at+"/"+name, "malformed", "%s is not a decimal number: %s", name, strconv.Quote(clip(v.text)))
	case rate.Sign() < 0:
		p.refuse(at+"/"+name, "out_of_range", "%s must be at least 0", name)
	}
	return event.Rate{Decimal: rate}
}

// unambiguous returns the costs sorted, each model once, and apart from them the models with more than one price.
func (p *parser) unambiguous() (once []event.ModelCost, ambiguous []event.ModelName) {
	slices.SortStableFunc(p.costs, func(a, b event.ModelCost) int { return byName(a.ModelName, b.ModelName) })
	for rest := p.costs; len(rest) > 0; {
		n, differ := 1, false
		for ; n < len(rest) && rest[n].ModelName == rest[0].ModelName; n++ {
			differ = differ || !samePrices(rest[n], rest[0])
		}
		if differ {
			p.skip(rest[0].Provider+"/"+rest[0].Model, Ambiguous)
			ambiguous = append(ambiguous, rest[0].ModelName)
		} else {
			once = append(once, rest[0])
		}
		rest = rest[n:]
	}
	return once, ambiguous
}

func samePrices(a, b event.ModelCost) bool {
	return a.Input.Equal(b.Input.Decimal) && a.Cached.Equal(b.Cached.Decimal) && a.Output.Equal(b.Output.Decimal)
}

func pointer(at, name string) string { return at + "/" + invalid.Token(clip(name)) }

// clip shortens text from the list for an error, without cutting a character.
func clip(text string) string {
	n := 0
	for i := range text {
		if n++; n > clipped {
			return text[:i] + "..."
		}
	}
	return text
}
