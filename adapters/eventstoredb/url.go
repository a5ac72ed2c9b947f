package eventstoredb

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
)

// ErrURL: the URL of an EventStoreDB cannot be used. The text says why, without credentials.
var ErrURL = errors.New("the EventStoreDB URL")

// DefaultPrefix begins the name of every stream of the log, so that the server itself leaves out what is not ours.
const DefaultPrefix = "tollgate-"

// settings are those of the client that make sense here, in lower case; the client warns about others and goes on.
var settings = []string{
	"tls", "tlsverifycert", "tlscafile", "usercertfile", "userkeyfile", "nodepreference", "discoveryinterval", "gossiptimeout",
	"maxdiscoverattempts", "keepaliveinterval", "keepalivetimeout", "defaultdeadline",
}

// IsURL reports whether this is an EventStoreDB's URL: esdb://host, esdb://a,b,c or esdb+discover://name.
func IsURL(raw string) bool {
	return strings.HasPrefix(raw, "esdb://") || strings.HasPrefix(raw, "esdb+discover://")
}

// ParseURL reads a URL with the client's settings and one of our own, streamPrefix. What the client would pass over in
// silence is refused: unknown settings, settings that do not parse, credentials that would not be sent because TLS is off,
// and nodes other than the leader, which may be behind. Error: ErrURL.
func ParseURL(raw string) (c *esdb.Configuration, prefix string, err error) {
	refuse := func(format string, args ...any) (*esdb.Configuration, string, error) {
		return nil, "", fmt.Errorf("%w: %s", ErrURL, fmt.Sprintf(format, args...))
	}
	if !IsURL(raw) {
		return refuse("must begin with esdb:// or esdb+discover://")
	}
	address, query, _ := strings.Cut(raw, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return refuse("its settings cannot be read")
	}
	prefix = DefaultPrefix
	seen := map[string]bool{}
	for name, value := range values {
		key := strings.ToLower(name)
		if len(value) != 1 || seen[key] {
			return refuse("%s is set twice", name)
		}
		seen[key] = true
		switch {
		case key == "streamprefix":
			prefix = value[0]
			values.Del(name)
		case !slices.Contains(settings, key):
			return refuse("there is no setting %s", name)
		case key == "defaultdeadline": // the client takes what it cannot read for zero: every call would fail at once
			if n, err := strconv.Atoi(value[0]); err != nil || n < 1 {
				return refuse("defaultDeadline is in milliseconds, a positive whole number")
			}
		case key == "nodepreference" && !strings.EqualFold(value[0], "leader"):
			return refuse("nodePreference must be leader: another node may be behind what was acknowledged")
		}
	}
	if prefix == "" || strings.HasPrefix(prefix, "$") || len(prefix) > 64 || strings.ContainsFunc(prefix, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return refuse("streamPrefix is up to 64 printable ASCII characters and does not begin with $")
	}
	if len(values) > 0 {
		address += "?" + values.Encode()
	}
	if c, err = esdb.ParseConnectionString(address); err != nil {
		// The client's text may repeat the URL, and with it a password.
		var text *url.Error
		if errors.As(err, &text) {
			return refuse("it cannot be read: %s", text.Err)
		}
		return refuse("%s", err)
	}
	if err := c.Validate(); err != nil {
		return refuse("%s", err)
	}
	if c.DisableTLS && (c.Username != "" || c.Password != "") {
		return refuse("credentials are not sent over plain text: remove tls=false, or the credentials")
	}
	if !seen["maxdiscoverattempts"] {
		c.MaxDiscoverAttempts = math.MaxInt32 // a client that has given up never recovers
	}
	return c, prefix, nil
}
