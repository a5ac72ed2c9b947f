package insight

import (
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
	"github.com/tollgate-io/tollgate/domain/usage"
)

// Call is what a usage event contains about the AI call behind it. A text that is missing, null or empty is "".
type Call struct {
	Provider, Model, Feature, PromptVersion string

	Retried bool // attempt is greater than 1, or retryOf is set
	Failed  bool // status is set, and neither ok nor success

	Counted bool // there is a token count of some kind
	costs.Tokens

	Timed   bool // there is a latency
	Latency Bucket
}

// CallOf reads an event. Counts and latencies that are negative or out of bounds count as missing.
func CallOf(u event.Usage) (c Call) {
	for name, v := range u.Data.All() {
		switch name {
		case "provider":
			c.Provider = v.String()
		case "model":
			c.Model = v.String()
		case "feature":
			c.Feature = v.String()
		case "promptVersion":
			c.PromptVersion = v.String()
		case "attempt":
			if n, ok := v.Decimal(); ok && n.Cmp(money.Int(1)) > 0 {
				c.Retried = true
			}
		case "retryOf":
			c.Retried = c.Retried || v.String() != ""
		case "status":
			s := v.String()
			c.Failed = s != "" && s != "ok" && s != "success"
		case "inputTokens":
			c.tokens(&c.Input, v)
		case "cachedInputTokens":
			c.tokens(&c.CachedInput, v)
		case "outputTokens":
			c.tokens(&c.Output, v)
		case "latencyMs":
			if n, ok := v.Decimal(); ok {
				c.Latency, c.Timed = BucketOf(n)
			}
		}
	}
	return c
}

func (c *Call) tokens(into *money.Decimal, v event.Value) {
	if n, ok := usage.Countable(v); ok && n.Sign() >= 0 {
		*into, c.Counted = n, true
	}
}
