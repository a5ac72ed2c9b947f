// Package edge is a middleware for product backends written in Go: it asks Tollgate which tenant a request is about, and
// hands the answer to the product in the context. What a tenant may do and see is not decided here, and who the user is
// neither.
//
// It is for other programs and therefore imports nothing else of Tollgate but the few rules about proxies that both must share.
// The canonical form of host names, above all, is up to Tollgate: an answer is kept under exactly what was asked, so two
// spellings of a name cost two questions at worst, and never share an answer.
package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Why a request goes no further; Config.Refuse is given one of these, possibly wrapped.
var (
	// ErrUnknown: the host and the path lead to no tenant.
	ErrUnknown = errors.New("the request leads to no tenant")
	// ErrConflict: the host and the path lead to different tenants, or a proxy named more than one host.
	ErrConflict = errors.New("the request leads to different tenants")
	// ErrClosed: the tenant is closed.
	ErrClosed = errors.New("the tenant is closed")
	// ErrSuspended: the tenant is suspended, and the product does not want its requests.
	ErrSuspended = errors.New("the tenant is suspended")
	// ErrUnavailable: Tollgate did not say, and nothing recent enough is known. Trying again later may help.
	ErrUnavailable = errors.New("the tenant of the request cannot be found out now")
)

// Status is what a tenant may do.
type Status string

// The statuses.
const (
	Active    Status = "active"
	Suspended Status = "suspended" // limit checks are denied; what is there can be read
	Closed    Status = "closed"    // the middleware lets nothing pass
)

// Tenant is whom a request is about.
type Tenant struct {
	ID        string
	Plan      string // key of the plan in force; "" for none
	Status    Status // Active or Suspended in a context
	FlagsETag string // an entity tag with its quotes; another one means that the tenant's flags may say something else
}

// Config says whom to ask and whom to believe. BaseURL and ServiceKey are required.
type Config struct {
	// BaseURL is where Tollgate is, such as https://tollgate.internal:8080.
	BaseURL string
	// ServiceKey is an API key of kind service.
	ServiceKey string
	// HTTPClient asks. Redirects are not followed, whatever it says: the key is for Tollgate alone. Optional: a client with
	// connections of its own.
	HTTPClient *http.Client
	// Timeout of one question, with the wait for its turn. Optional: 2 s.
	Timeout time.Duration
	// MaxAge is how long an answer is used, also one that there is no such tenant; at most a minute. Optional: 1 s, which is what
	// Tollgate allows for its answers: a suspension or a moved host is then seen about as fast as by Tollgate's own servers,
	// for one question per second and busy name (two, since it is asked ahead of time, so that no request has to wait).
	MaxAge time.Duration
	// StaleFor is how much longer a known tenant is used while Tollgate does not answer. That there is no such tenant is not
	// used longer: there may be one by now. Optional: 10 minutes, as long as Tollgate itself does without its store; negative:
	// no longer.
	StaleFor time.Duration
	// Size is how many tenants' names are remembered, in entries of a few hundred bytes; as many unknown names are, apart,
	// so that made-up ones do not push out known ones. Optional: 10,000.
	Size int

	// TrustedProxies are the peers that may say in X-Forwarded-Host which host the client asked for. Optional: nobody may.
	TrustedProxies []netip.Prefix
	// PathPrefix is where a path names a tenant too: its slug is the segment that follows, for "/t/" in /t/acme/reports. Host
	// and path must then agree. Optional: paths name nobody.
	PathPrefix string
	// OwnHosts are the product's own names, such as app.product.com, which name no tenant: there only the path does.
	OwnHosts []string

	// RefuseSuspended keeps out requests of suspended tenants, too. Optional: the product decides by Tenant.Status.
	RefuseSuspended bool
	// Refuse answers a request that goes no further; its error is one of this package's. Optional: problem details (RFC 9457)
	// with status 404 for ErrUnknown, 400 for ErrConflict, 403 for ErrClosed and ErrSuspended, 503 for ErrUnavailable.
	Refuse func(w http.ResponseWriter, r *http.Request, err error)

	// Log says when Tollgate does not answer, at most every ten seconds. Optional: slog.Default().
	Log *slog.Logger
	// Now is the clock. Optional: time.Now.
	Now func() time.Time
}

const (
	defaultTimeout  = 2 * time.Second
	defaultMaxAge   = time.Second
	mostMaxAge      = time.Minute // a closed tenant must not stay open for longer
	defaultStaleFor = 10 * time.Minute
	defaultSize     = 10_000
)

// Middleware finds the tenants of requests. It is safe for concurrent use. One is enough for a program: each remembers by
// itself.
type Middleware struct {
	config   Config
	ownHosts []string // canonical form
	answers  *answers
}

// New checks the configuration; its error says what is wrong with it. Tollgate is not asked yet.
func New(c Config) (*Middleware, error) {
	base, err := url.Parse(c.BaseURL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("edge: BaseURL: %w", err)
	case base.Scheme != "http" && base.Scheme != "https" || base.Hostname() == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("edge: BaseURL %q is not like https://tollgate.internal:8080", base.Redacted())
	case c.ServiceKey == "" || strings.ContainsFunc(c.ServiceKey, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, errors.New("edge: ServiceKey is empty, or has characters that no key has")
	case c.Timeout < 0:
		return nil, fmt.Errorf("edge: Timeout is %s", c.Timeout)
	case c.MaxAge < 0 || c.MaxAge > mostMaxAge:
		return nil, fmt.Errorf("edge: MaxAge is %s; at most %s is allowed", c.MaxAge, mostMaxAge)
	case c.Size < 0:
		return nil, fmt.Errorf("edge: Size is %d", c.Size)
	case c.PathPrefix != "" && (c.PathPrefix[0] != '/' || c.PathPrefix[len(c.PathPrefix)-1] != '/'):
		return nil, fmt.Errorf("edge: PathPrefix %q is not like /t/", c.PathPrefix)
	case len(c.OwnHosts) > 0 && c.PathPrefix == "":
		return nil, errors.New("edge: OwnHosts without a PathPrefix: nothing would name a tenant there")
	}
	for _, p := range c.TrustedProxies {
		if !p.IsValid() || p.Addr().Is4In6() { // peers are compared as plain IPv4: it would match nobody
			return nil, fmt.Errorf("edge: %q in TrustedProxies is not a network such as 10.0.0.0/8", p)
		}
	}
	m := &Middleware{config: c}
	for _, own := range c.OwnHosts {
		host, ok := canonicalHost(own)
		if !ok {
			return nil, fmt.Errorf("edge: %q in OwnHosts is not a host name", own)
		}
		m.ownHosts = append(m.ownHosts, host)
	}
	c = c.withDefaults()
	m.config = c
	m.answers, err = newAnswers(c, newClient(base, c.ServiceKey, c.HTTPClient))
	return m, err
}

func (c Config) withDefaults() Config {
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.MaxAge == 0 {
		c.MaxAge = defaultMaxAge
	}
	switch {
	case c.StaleFor == 0:
		c.StaleFor = defaultStaleFor
	case c.StaleFor < 0:
		c.StaleFor = 0
	}
	if c.Size == 0 {
		c.Size = defaultSize
	}
	if c.Refuse == nil {
		c.Refuse = refuse
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Handler lets through requests of tenants: the tenant is in their context, and in their one X-Tenant-Id header for what
// they are passed on to. An X-Tenant-Id that the client sent is never seen by next. All other requests are refused.
func (m *Middleware) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, err := m.Find(r)
		if err == nil && t.Status == Suspended && m.config.RefuseSuspended {
			err = ErrSuspended
		}
		if err != nil {
			m.config.Refuse(w, r, err)
			return
		}
		r = r.WithContext(NewContext(r.Context(), t)) // a copy, so that the caller keeps its headers
		r.Header = named(r.Header, t)
		next.ServeHTTP(w, r)
	})
}

// Find is the tenant of a request, for callers that are no http.Handler. A suspended tenant is no error. Errors: ErrUnknown,
// ErrConflict, ErrClosed, ErrUnavailable, also when the context of the request ends.
func (m *Middleware) Find(r *http.Request) (Tenant, error) {
	q, err := m.question(r)
	if err != nil {
		return Tenant{}, err
	}
	t, err := m.answers.get(r.Context(), q)
	if err == nil && t.Status == Closed {
		err = ErrClosed
	}
	if err != nil {
		return Tenant{}, err
	}
	return t, nil
}

type contextKey struct{}

// FromContext is the tenant that the request of this context is about. ok is false where no middleware found one: the
// product must then not guess.
func FromContext(ctx context.Context) (t Tenant, ok bool) {
	t, ok = ctx.Value(contextKey{}).(Tenant)
	return t, ok
}

// NewContext is what FromContext reads. Tests of a product's handlers use it in place of the middleware.
func NewContext(ctx context.Context, t Tenant) context.Context {
	return context.WithValue(ctx, contextKey{}, t)
}

const headerTenant = "X-Tenant-Id"

// named copies headers and names the tenant in them. Spellings with underscores go too: CGI and its heirs take them for the
// same name. So does the client's wish that the next proxy drop the header as one of the connection.
func named(sent http.Header, t Tenant) http.Header {
	h := sent.Clone()
	if h == nil {
		h = http.Header{}
	}
	for name := range h {
		if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), headerTenant) {
			delete(h, name)
		}
	}
	h[headerTenant] = []string{t.ID}
	if options := h["Connection"]; len(options) > 0 {
		kept := slices.DeleteFunc(strings.Split(strings.Join(options, ","), ","), func(option string) bool {
			return strings.EqualFold(strings.TrimSpace(option), headerTenant)
		})
		if h["Connection"] = []string{strings.Join(kept, ",")}; len(kept) == 0 {
			delete(h, "Connection")
		}
	}
	return h
}
