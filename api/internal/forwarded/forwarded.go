// Package forwarded owns what this server and the middleware for products must read alike in a request that came through
// proxies: which host the client asked for, and whether a path can be taken for another one on its way. If they differed, a
// request could be one tenant's to the one and another tenant's to the other.
package forwarded

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// ErrManyHosts is returned where X-Forwarded-Host names more than one host.
var ErrManyHosts = errors.New("X-Forwarded-Host names more than one host")

// Host is the host that the client asked for, as it was sent. One of the proxies may give it in X-Forwarded-Host; from any
// other peer the header is ignored. Error: ErrManyHosts.
func Host(r *http.Request, proxies []netip.Prefix) (string, error) {
	given := r.Header["X-Forwarded-Host"]
	if len(given) == 0 || !contains(proxies, r.RemoteAddr) {
		return r.Host, nil
	}
	if len(given) > 1 || strings.Contains(given[0], ",") {
		return "", ErrManyHosts
	}
	return given[0], nil
}

// contains reports whether a peer, as an address with a port, is in one of the networks.
func contains(networks []netip.Prefix, peer string) bool {
	from, err := netip.ParseAddrPort(peer)
	return err == nil && slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(from.Addr().Unmap()) })
}

// HasDotSegments reports whether an escaped path has a segment . or .., however it is spelled. Whatever removes such segments
// on the way may turn the path into another tenant's.
func HasDotSegments(path string) bool {
	for segment := range strings.FieldsFuncSeq(decodeDots.Replace(path), func(r rune) bool { return r == '/' || r == '\\' }) {
		if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
			return true
		}
	}
	return false
}

// decodeDots decodes what dot segments are made of and leaves everything else, because a path may be decoded already.
var decodeDots = strings.NewReplacer("%2e", ".", "%2E", ".", "%2f", "/", "%2F", "/", "%5c", `\`, "%5C", `\`)
