package edge

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tollgate-io/tollgate/api/internal/forwarded"
)

// question is what names the tenant in a request, in canonical form; at least one of its parts is set.
type question struct{ host, slug string }

// String is another one for each question: no host has a slash.
func (q question) String() string { return q.host + "/" + q.slug }

func (q question) query() string {
	values := url.Values{}
	if q.host != "" {
		values.Set("host", q.host)
	}
	if q.slug != "" {
		values.Set("slug", q.slug)
	}
	return values.Encode()
}

// question reads a request. What cannot be a tenant's is ErrUnknown at once, without asking.
func (m *Middleware) question(r *http.Request) (q question, err error) {
	sent, err := forwarded.Host(r, m.config.TrustedProxies)
	if err != nil {
		return q, ErrConflict
	}
	host, ok := canonicalHost(sent)
	if !ok {
		return q, ErrUnknown
	}
	if !slices.Contains(m.ownHosts, host) {
		q.host = host
	}
	if m.config.PathPrefix != "" {
		if q.slug, err = slugIn(r.URL.EscapedPath(), m.config.PathPrefix); err != nil {
			return question{}, err
		}
	}
	if q == (question{}) {
		return q, ErrUnknown
	}
	return q, nil
}

const (
	maxHost  = 253 // bytes of a name in the DNS
	maxLabel = 63
)

// canonicalHost is the form in which hosts are asked about and kept: lower case, without port and one trailing dot. ok is
// false for what no client sends as the name of a host: clients send internationalised names in their ASCII form, so a
// letter beyond ASCII is an attempt to be taken for another name. Capitals of ASCII only are mapped, because the Kelvin sign
// has a plain k as its lower case.
func canonicalHost(sent string) (host string, ok bool) {
	if len(sent) > maxHost+len(".:65535") {
		return "", false
	}
	name := sent
	if i := strings.LastIndexByte(name, ':'); i >= 0 {
		if !isPort(name[i+1:]) {
			return "", false
		}
		name = name[:i]
	}
	name = strings.TrimSuffix(name, ".")
	if len(name) > maxHost {
		return "", false
	}
	lower := []byte(name)
	for i, c := range lower {
		switch {
		case 'A' <= c && c <= 'Z':
			lower[i] = c + 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.':
		default:
			return "", false
		}
	}
	host = string(lower)
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > maxLabel {
			return "", false
		}
	}
	return host, true
}

// isPort accepts none, too: RFC 3986 allows a colon alone.
func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return s == "" || err == nil && len(s) <= len("65535")
}

// slugIn is the slug that an escaped path names after the prefix; "" where it does not start with it. Error: ErrUnknown for
// what is no slug, and for a path with dot segments.
func slugIn(path, prefix string) (string, error) {
	if forwarded.HasDotSegments(path) {
		return "", ErrUnknown
	}
	after, ok := strings.CutPrefix(path, prefix)
	if !ok || after == "" && prefix == "/" {
		return "", nil
	}
	slug, _, _ := strings.Cut(after, "/")
	if slug == "" || len(slug) > maxLabel || strings.Trim(slug, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return "", ErrUnknown
	}
	return slug, nil
}
