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

// What an address may get wrong: so many unknown keys at once, and one more each guessEvery.
const (
	guesses    = 200
	guessEvery = time.Second / 2
	// strangers is how many keys a second are looked up all the same, of all addresses beyond that together: a key that nobody
	// has seen yet gets through after a few tries, and the store is not asked more often.
	strangers = 20
	// Bounds of what is remembered, in entries.
	guessingAddresses = 10_000
	openedKeys        = 20_000
)

var errGuessing = &problem{status: http.StatusTooManyRequests, code: codeOverloaded,
	detail: "Too many unknown API keys came from this address. Try again later."}

// guessers slows down addresses that send keys which do not exist. Nobody can guess 256 bits, but each guess would cost a
// look-up in the store. Keys that opened before go on to do so from any address: others may share it.
type guessers struct {
	strangers *rate.Limiter
	addresses *lru.Cache[netip.Prefix, *rate.Limiter]
	opens     *lru.Cache[tenant.Hash, struct{}]
	any       atomic.Bool // somebody guessed
}

func newGuessers() *guessers {
	addresses, err := lru.New[netip.Prefix, *rate.Limiter](guessingAddresses)
	if err != nil {
		panic(err) // the size is a constant above 0
	}
	opens, err := lru.New[tenant.Hash, struct{}](openedKeys)
	if err != nil {
		panic(err)
	}
	return &guessers{addresses: addresses, opens: opens, strangers: rate.NewLimiter(strangers, 1)}
}

// refuses reports whether a key is not even looked up.
func (g *guessers) refuses(hash tenant.Hash, c echo.Context, now time.Time) bool {
	if !g.any.Load() || g.opens.Contains(hash) {
		return false
	}
	limiter, ok := g.addresses.Get(address(c))
	return ok && limiter.TokensAt(now) < 1 && !g.strangers.AllowN(now, 1)
}

// guessed notes that a key does not exist, or no longer.
func (g *guessers) guessed(hash tenant.Hash, c echo.Context, now time.Time) {
	g.any.Store(true)
	g.opens.Remove(hash)
	from := address(c)
	limiter, ok := g.addresses.Get(from)
	if !ok {
		limiter = rate.NewLimiter(rate.Every(guessEvery), guesses)
		if earlier, there, _ := g.addresses.PeekOrAdd(from, limiter); there {
			limiter = earlier
		}
	}
	limiter.AllowN(now, 1)
}

// opened notes that a key exists.
func (g *guessers) opened(hash tenant.Hash) {
	if !g.opens.Contains(hash) {
		g.opens.Add(hash, struct{}{})
	}
}

// address is what counts as one sender: an IPv4 address, or the 64 bits of IPv6 that one subscriber has.
func address(c echo.Context) netip.Prefix {
	ip, err := netip.ParseAddr(c.RealIP())
	if err != nil {
		return netip.Prefix{} // all that cannot be told apart
	}
	bits := 64
	if ip = ip.Unmap(); ip.Is4() {
		bits = 32
	}
	p, _ := ip.WithZone("").Prefix(bits)
	return p
}
