package api

import (
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/labstack/echo/v4"
	"golang.org/x/time/rate"

	"github.com/tollgate-io/tollgate/domain/tenant"
)

// The throttle's bounds. An address may send so many unknown keys at once, and one more each unknownKeyEvery.
const (
	unknownKeys     = 200
	unknownKeyEvery = time.Second / 2
	// unseenKeysPerSecond is how many keys a second are looked up all the same, for all throttled addresses together: a new key
	// gets through after a few tries, and the store is not asked more often.
	unseenKeysPerSecond = 20
	// What is remembered at most, in entries.
	throttledAddresses = 10_000
	seenKeys           = 20_000
)

var errThrottled = &problem{status: http.StatusTooManyRequests, code: codeOverloaded,
	detail: "Too many unknown API keys came from this address. Try again later."}

// keyThrottle slows down addresses that send unknown keys. Nobody can guess 256 bits, but each guess would cost a look-up in
// the store. A key that was valid before is never throttled: others may share the address.
type keyThrottle struct {
	unseen    *rate.Limiter
	addresses *lru.Cache[netip.Prefix, *rate.Limiter]
	seen      *lru.Cache[tenant.Hash, struct{}]
	any       atomic.Bool // an unknown key was sent
}

func newKeyThrottle() *keyThrottle {
	addresses, err := lru.New[netip.Prefix, *rate.Limiter](throttledAddresses)
	if err != nil {
		panic(err) // the size is a constant above 0
	}
	seen, err := lru.New[tenant.Hash, struct{}](seenKeys)
	if err != nil {
		panic(err)
	}
	return &keyThrottle{addresses: addresses, seen: seen, unseen: rate.NewLimiter(unseenKeysPerSecond, 1)}
}

// refuses reports whether a key is not even looked up.
func (t *keyThrottle) refuses(hash tenant.Hash, c echo.Context, now time.Time) bool {
	if !t.any.Load() || t.seen.Contains(hash) {
		return false
	}
	limiter, ok := t.addresses.Get(address(c))
	return ok && limiter.TokensAt(now) < 1 && !t.unseen.AllowN(now, 1)
}

// unknown counts a key that does not exist, or no longer.
func (t *keyThrottle) unknown(hash tenant.Hash, c echo.Context, now time.Time) {
	t.any.Store(true)
	t.seen.Remove(hash)
	from := address(c)
	limiter, ok := t.addresses.Get(from)
	if !ok {
		limiter = rate.NewLimiter(rate.Every(unknownKeyEvery), unknownKeys)
		if earlier, there, _ := t.addresses.PeekOrAdd(from, limiter); there {
			limiter = earlier
		}
	}
	limiter.AllowN(now, 1)
}

// valid remembers a key that exists.
func (t *keyThrottle) valid(hash tenant.Hash) {
	if !t.seen.Contains(hash) {
		t.seen.Add(hash, struct{}{})
	}
}

// address is what counts as one sender: an IPv4 address, or the 64 bits of IPv6 that one subscriber has.
func address(c echo.Context) netip.Prefix {
	ip, err := netip.ParseAddr(c.RealIP())
	if err != nil {
		return netip.Prefix{} // addresses that cannot be parsed count as one
	}
	bits := 64
	if ip = ip.Unmap(); ip.Is4() {
		bits = 32
	}
	p, _ := ip.WithZone("").Prefix(bits)
	return p
}
