package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/adapters/storetest"
	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// nameFixture is a fixture that finds tenants by their names, and a DNS around it.
type nameFixture struct {
	*fixture
	domains  tenant.Domains
	resolver app.Resolver
	dns      zone
}

func newNameFixture(t testing.TB, bases ...string) *nameFixture {
	w := &nameFixture{fixture: emptyFixture(t), dns: zone{}}
	var err error
	w.domains, err = tenant.NewDomains(bases...)
	require.NoError(t, err)
	w.Ledger.WithBaseDomains(w.domains)
	w.resolver = app.Resolver{Directory: w.Directory, Domains: w.domains}
	return w
}

// zone is a DNS with nothing but TXT records.
type zone map[string][]string

func (z zone) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if found, ok := z[name]; ok && ctx.Err() == nil {
		return found, nil
	}
	return nil, errors.Join(&net.DNSError{Err: "no such host", Name: name, IsNotFound: true}, ctx.Err())
}

// resolve is a DNS of one answer.
type resolve func(ctx context.Context, name string) ([]string, error)

func (f resolve) LookupTXT(ctx context.Context, name string) ([]string, error) { return f(ctx, name) }

func (w *nameFixture) define(id event.TenantID, slug string, hosts ...string) error {
	_, err := w.Ledger.DefineTenant(ctx, tenant.Tenant{ID: id, Slug: slug, Hosts: hosts}, "cli")
	return err
}

func (w *nameFixture) defined(id event.TenantID, slug string, hosts ...string) {
	w.T.Helper()
	require.NoError(w.T, w.define(id, slug, hosts...))
}

func slugName(s string) tenant.Name { return tenant.Name{Kind: tenant.Slug, Name: s} }
func hostName(s string) tenant.Name { return tenant.Name{Kind: tenant.Host, Name: s} }

// at is who a request is about: the tenant of a slug, or that of a host, "" for nobody and "unknown".
func (w *nameFixture) at(name string) string {
	w.T.Helper()
	find := w.resolver.AtSlug
	if strings.Contains(name, ".") {
		find = w.resolver.AtHost
	}
	id, err := find(ctx, name)
	if errors.Is(err, tenant.ErrUnknown) {
		require.Empty(w.T, id)
		return "unknown"
	}
	require.NoError(w.T, err)
	return string(id)
}

// report is the state of a host of a tenant.
func (w *nameFixture) report(id event.TenantID, host string) app.HostReport {
	w.T.Helper()
	all, err := w.Ledger.Hosts(ctx, id)
	require.NoError(w.T, err)
	i := slices.IndexFunc(all, func(s app.HostReport) bool { return s.Host == host })
	require.GreaterOrEqual(w.T, i, 0, "%s has no host %s", id, host)
	return all[i]
}

// publish puts the challenge of a host into the DNS, beside what is there.
func (w *nameFixture) publish(id event.TenantID, host string) tenant.Challenge {
	w.T.Helper()
	c := w.report(id, host).Challenge
	require.NotEmpty(w.T, c.Value)
	w.dns[c.Record] = append(w.dns[c.Record], c.Value)
	return c
}

func (w *nameFixture) verify(id event.TenantID, host string) app.HostReport {
	w.T.Helper()
	s, err := w.Ledger.VerifyHost(ctx, id, host, w.dns, "cli")
	require.NoError(w.T, err)
	return s
}

func (w *nameFixture) verified(id event.TenantID, host string) {
	w.T.Helper()
	w.publish(id, host)
	require.Equal(w.T, tenant.HostVerified, w.verify(id, host).State)
}

// written is the log: what each stream says.
func (w *nameFixture) written() map[eventstore.StreamName][]string {
	streams := map[eventstore.StreamName][]string{}
	for p := range w.Log.Partitions() {
		page, err := w.Log.ReadLog(ctx, eventstore.Position{Partition: p}, eventstore.MaxReadLimit)
		require.NoError(w.T, err)
		for _, r := range page {
			streams[r.Stream] = append(streams[r.Stream], r.Type+" "+string(r.Data))
		}
	}
	return streams
}

// count is how many events of each kind the log has, without definitions.
func (w *nameFixture) count() string {
	var kinds []string
	for kind, events := range w.All() {
		if kind != "tenant_defined" {
			kinds = append(kinds, fmt.Sprint(kind, " ", len(events)))
		}
	}
	slices.Sort(kinds)
	return strings.Join(kinds, ", ")
}

// census is who has what, as the log says.
type census struct {
	tenants map[event.TenantID]tenant.Tenant
	used    map[event.TenantID]map[tenant.Name]bool
	names   map[tenant.Name]tenant.Holding
}

func (w *nameFixture) census() census {
	c := census{map[event.TenantID]tenant.Tenant{}, map[event.TenantID]map[tenant.Name]bool{}, map[tenant.Name]tenant.Holding{}}
	for p := range w.Log.Partitions() {
		page, err := w.Log.ReadLog(ctx, eventstore.Position{Partition: p}, eventstore.MaxReadLimit)
		require.NoError(w.T, err)
		for _, r := range page {
			e, err := event.Decode(r)
			require.NoError(w.T, err)
			if n, _, ok := tenant.NameIn(e); ok {
				if claimed, ok := e.(event.NameClaimed); ok {
					require.True(w.T, c.names[n].Open(claimed.Tenant), "%s claims the %s of %+v", claimed.Tenant, n, c.names[n])
				}
				c.names[n], _ = tenant.HoldingAfter(e, r.Revision)
				continue
			}
			id := event.TenantID(r.Tenant)
			c.tenants[id], _ = c.tenants[id].Apply(e)
			if c.used[id] == nil {
				c.used[id] = map[tenant.Name]bool{}
			}
			for _, n := range c.tenants[id].Names(w.domains) {
				c.used[id][n] = true
			}
		}
	}
	return c
}

// lacking are the names of definitions in force that their tenants do not have.
func (c census) lacking(d tenant.Domains) (names []string, by []event.TenantID) {
	for id, t := range c.tenants {
		for _, n := range t.Names(d) {
			if !t.Holds(c.names[n]) {
				names, by = append(names, fmt.Sprintf("%s: the %s, of %+v", id, n, c.names[n])), append(by, id)
			}
		}
	}
	return names, by
}

// settled demands that each tenant holds the names of its definition, and none that it used before, and that names lead where
// the log says. Tenants that were refused may lack names, and have some more.
func (w *nameFixture) settled(refused ...event.TenantID) {
	w.T.Helper()
	c := w.census()
	names, by := c.lacking(w.domains)
	require.Subset(w.T, append(refused, ""), by, names)
	for id, d := range c.tenants {
		inForce := d.Names(w.domains)
		for n := range c.used[id] {
			if !slices.Contains(inForce, n) && !slices.Contains(refused, id) {
				require.False(w.T, d.Holds(c.names[n]), "%s has the %s without using it", id, n)
			}
		}
	}
	for p := range w.Log.Partitions() {
		head, err := w.Log.Head(ctx, p)
		require.NoError(w.T, err)
		require.NoError(w.T, w.Directory.Reached(ctx, head))
	}
	for n, h := range c.names {
		want := string(h.Tenant)
		if d := c.tenants[h.Tenant]; !d.Answers(n, h, w.domains) {
			want = map[tenant.NameKind]string{tenant.Slug: "unknown", tenant.Host: ""}[n.Kind]
		}
		require.Equal(w.T, want, w.at(n.Name), n)
	}
}

func TestNamesAreClaimed(t *testing.T) {
	w := newNameFixture(t, "product.com", "product.io")
	w.defined("t1", "acme", "Acme.example:443", "acme.product.com", "beta.product.com")
	for name, want := range map[string]string{
		"acme": "t1", "beta": "t1", "acme.product.com": "t1", "ACME.Product.Com.:8443": "t1", "acme.product.io": "t1", "beta.product.io": "t1",
		"acme.example": "", "gamma": "unknown", "gamma.product.com": "unknown", "a.acme.product.com": "unknown", "other.example": "",
	} {
		require.Equal(t, want, w.at(name), name)
	}
	require.Equal(t, "name_claimed 3", w.count())
	w.settled()

	before := w.written()
	_, err := w.Ledger.DefineTenant(ctx, tenant.Tenant{ID: "t1", Slug: "acme", Hosts: []string{"acme.example", "ACME.product.com", "beta.product.com:80"}}, "key:2")
	require.NoError(t, err)
	require.Equal(t, before, w.written(), "the same again")
	w.defined("t1", "", "beta.product.com", "acme.product.io", "acme.example")
	require.Equal(t, "name_claimed 3", w.count(), "the same names in another way")
}

func TestASecondTenantIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		slug  string
		hosts []string
		names string
	}{
		"the slug":                 {"acme", nil, "slug acme"},
		"the slug and free names":  {"acme", []string{"free.example", "a.example"}, "slug acme"},
		"the host":                 {"", []string{"acme.example"}, "host acme.example"},
		"the host, last of all":    {"aaa", []string{"a.example", "aa.product.com", "acme.example"}, "host acme.example"},
		"the host, spelled":        {"", []string{"ACME.example.:443"}, "host acme.example"},
		"the host, in full width":  {"", []string{"ａｃｍｅ．example"}, "host acme.example"},
		"the host of the slug":     {"", []string{"acme.product.com"}, "slug acme"},
		"another host of the slug": {"", []string{"acme.product.io"}, "slug acme"},
		"the slug of a host":       {"beta", nil, "slug beta"},
		"a host below by a host":   {"", []string{"beta.product.io"}, "slug beta"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newNameFixture(t, "product.com", "product.io")
			w.defined("owner", "acme", "acme.example", "beta.product.com")
			w.defined("t2", "mine", "mine.example")
			before := w.written()
			for _, id := range []event.TenantID{"t2", "t3"} {
				err := w.define(id, c.slug, c.hosts...)
				require.ErrorIs(t, err, app.ErrConflict)
				require.ErrorContains(t, err, "the "+c.names+" belongs to another tenant")
				require.NotContains(t, err.Error(), "owner", "whose it is, is nobody's affair")
			}
			require.Equal(t, before, w.written(), "nothing was changed")
			_, err := w.Directory.Tenant(ctx, "t3")
			require.ErrorIs(t, err, tenant.ErrUnknown)
			require.Equal(t, []string{"owner", "owner", "t2"}, []string{w.at("acme"), w.at("beta.product.io"), w.at("mine")})
			w.settled()
		})
	}
}

// Without base domains a slug and a host have nothing to do with each other, and neither does a homograph.
func TestDifferentNamesAreForDifferentTenants(t *testing.T) {
	w := newNameFixture(t)
	w.defined("t1", "acme", "acme.example")
	w.defined("t2", "beta", "acme.product.com", "\u0430cme.example")
	require.Equal(t, "t1", w.at("acme"))
	require.Empty(t, w.at("acme.product.com"))
	w.verified("t2", "xn--cme-5cd.example")
	require.Equal(t, "t2", w.at("\u0430cme.example"))
	require.Equal(t, "t1", w.at("acme.example"), "begins with its slug")
	w.settled()
}

func TestAChangedDefinitionReleases(t *testing.T) {
	w := newNameFixture(t, "product.com")
	w.defined("t1", "acme", "a.example", "b.example", "beta.product.com")
	w.verified("t1", "a.example")
	w.verified("t1", "b.example")
	w.defined("t1", "beta", "b.example")
	require.Equal(t, "host_verified 2, name_claimed 4, name_released 2", w.count())
	require.Equal(t, []string{"unknown", "t1", "", "t1"}, []string{w.at("acme"), w.at("beta"), w.at("a.example"), w.at("b.example")})
	w.settled()

	for _, err := range []error{w.define("t2", "acme"), w.define("t2", "", "a.example"), w.define("t2", "", "acme.product.com")} {
		require.ErrorIs(t, err, app.ErrConflict)
		require.ErrorContains(t, err, "kept for it until an administrator frees it")
	}

	w.defined("t1", "acme", "a.example")
	require.Equal(t, "host_verified 2, name_claimed 6, name_released 4", w.count(), "its own names are free for it")
	require.Equal(t, []string{"t1", "unknown", "", ""}, []string{w.at("acme"), w.at("beta"), w.at("a.example"), w.at("b.example")}, "but have to be verified again")
	w.verified("t1", "a.example")
	require.Equal(t, "t1", w.at("a.example"))
	w.defined("t1", "")
	w.defined("t1", "")
	require.Equal(t, "host_verified 3, name_claimed 6, name_released 6", w.count())
	w.settled()
}

func TestFreedNames(t *testing.T) {
	w := newNameFixture(t, "product.com")
	w.defined("t1", "acme", "a.example")
	old := w.publish("t1", "a.example")
	require.Equal(t, tenant.HostVerified, w.verify("t1", "a.example").State)
	w.defined("t1", "")
	w.defined("t2", "")
	require.ErrorIs(t, w.define("t2", "acme", "a.example"), app.ErrConflict)

	require.NoError(t, w.Ledger.FreeName(ctx, hostName("a.example"), "the customer moved", "key:1"))
	require.ErrorIs(t, w.define("t2", "acme", "a.example"), app.ErrConflict, "the slug is another name")
	require.NoError(t, w.Ledger.FreeName(ctx, slugName("acme"), "the customer moved", "key:1"))
	require.Equal(t, "unknown", w.at("acme"))
	w.defined("t2", "acme", "a.example")
	require.Equal(t, []string{"t2", ""}, []string{w.at("acme"), w.at("a.example")}, "the proof of another tenant proves nothing")
	s := w.verify("t2", "a.example")
	require.Equal(t, tenant.HostUnverified, s.State, "nor does its record, which is still there")
	require.Contains(t, s.Detail, old.Value)
	require.NotEqual(t, old, s.Challenge)
	require.Equal(t, old.Record, s.Challenge.Record)
	w.verified("t2", "a.example")
	require.Equal(t, "t2", w.at("a.example"))
	require.ErrorIs(t, w.define("t1", "acme"), app.ErrConflict)
	require.ErrorIs(t, w.define("t1", "", "a.example"), app.ErrConflict)

	// It comes back the same way: neither of t1's old proof and record is worth anything.
	w.defined("t2", "")
	require.NoError(t, w.Ledger.FreeName(ctx, hostName("a.example"), "and back", "key:1"))
	w.defined("t1", "", "a.example")
	require.Equal(t, tenant.HostUnverified, w.verify("t1", "a.example").State)
	require.Empty(t, w.at("a.example"))
	w.verified("t1", "a.example")
	require.Equal(t, "t1", w.at("a.example"))
	w.settled()
}

func TestFreeName(t *testing.T) {
	for name, c := range map[string]struct {
		name    tenant.Name
		reason  string
		refused string
		writes  string
	}{
		"in use":                              {slugName("acme"), "r", `conflict: tenant "t1" uses the slug acme; take it out of its definition first`, ""},
		"in use as a host below a domain":     {slugName("beta"), "r", `uses the slug beta`, ""},
		"in use, named by its host":           {hostName("acme.product.com"), "r", `uses the slug acme`, ""},
		"in use and not verified":             {hostName("a.example"), "r", `uses the host a.example`, ""},
		"no reason":                           {slugName("old"), "", "reason is required", ""},
		"a reason with NUL":                   {slugName("old"), "a\x00", "reason is required", ""},
		"nobody ever had it":                  {slugName("never"), "r", "", ""},
		"a host that nobody ever had":         {hostName("never.example"), "r", "", ""},
		"a slug":                              {slugName("old"), "r", "", "name_freed 1"},
		"a host":                              {hostName("old.example"), "r", "", "name_freed 1"},
		"a slug by its host below a domain":   {hostName("old.product.com"), "r", "", "name_freed 1"},
		"a host that is freed already":        {hostName("freed.example"), "r", "", ""},
		"a slug by its kind in another world": {hostName("old.product.io"), "r", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newNameFixture(t, "product.com")
			w.defined("t1", "old", "old.example", "freed.example")
			w.defined("t1", "acme", "a.example", "beta.product.com")
			require.NoError(t, w.Ledger.FreeName(ctx, hostName("freed.example"), "r", "cli"))
			before := w.count()
			err := w.Ledger.FreeName(ctx, c.name, c.reason, "cli")
			if c.refused != "" {
				require.ErrorContains(t, err, c.refused)
				require.Equal(t, before, w.count())
				w.settled()
				return
			}
			require.NoError(t, err)
			require.NoError(t, w.Ledger.FreeName(ctx, c.name, c.reason, "key:2"), "again is no error")
			if c.writes == "" {
				require.Equal(t, before, w.count())
			} else {
				require.Equal(t, strings.Replace(before, "name_freed 1", "name_freed 2", 1), w.count(), "once")
			}
			w.settled()
			if n := w.domains.NameOf(c.name.Name); c.name.Kind == tenant.Slug || n.Kind == tenant.Slug {
				w.defined("t2", n.Name)
			} else {
				w.defined("t2", "", c.name.Name)
			}
		})
	}
	w := newNameFixture(t)
	var refused *invalid.Error
	require.ErrorAs(t, w.Ledger.FreeName(ctx, slugName("a"), "", "cli"), &refused)
	require.Equal(t, "/reason", refused.Fields[0].Pointer)
}

// The process ends between the claims and the definition, or the definition is refused by the store.
func TestAClaimWhoseDefinitionNeverCame(t *testing.T) {
	half := func(t *testing.T) *nameFixture {
		w := newNameFixture(t, "product.com")
		w.defined("t2", "")
		w.Store.Fault = func(a eventstore.Append) fault {
			if a.Tenant == "t1" {
				return before
			}
			return none
		}
		require.ErrorIs(t, w.define("t1", "acme", "a.example"), eventstore.ErrUnavailable)
		w.Store.Fault = nil
		require.Equal(t, "name_claimed 2", w.count())
		require.Equal(t, []string{"unknown", "", "unknown"}, []string{w.at("acme"), w.at("a.example"), w.at("acme.product.com")})
		w.settled()
		require.Equal(t, []string{"unknown", "", "unknown"}, []string{w.at("acme"), w.at("a.example"), w.at("acme.product.com")}, "also when it is known")
		require.ErrorIs(t, w.define("t2", "acme"), app.ErrConflict)
		_, err := w.Ledger.VerifyHost(ctx, "t1", "a.example", w.dns, "cli")
		require.ErrorIs(t, err, tenant.ErrUnknown)
		return w
	}
	t.Run("the same again completes it", func(t *testing.T) {
		w := half(t)
		w.defined("t1", "acme", "a.example")
		require.Equal(t, "name_claimed 2", w.count())
		require.Equal(t, "t1", w.at("acme"))
		w.verified("t1", "a.example")
		w.settled()
	})
	t.Run("another one of the tenant can have it", func(t *testing.T) {
		w := half(t)
		w.defined("t1", "other", "acme.product.com")
		require.Equal(t, []string{"t1", "t1"}, []string{w.at("acme"), w.at("other")})
		w.settled()
	})
	t.Run("it can be freed", func(t *testing.T) {
		w := half(t)
		require.NoError(t, w.Ledger.FreeName(ctx, slugName("acme"), "typing error", "cli"))
		require.NoError(t, w.Ledger.FreeName(ctx, hostName("a.example"), "typing error", "cli"))
		w.defined("t2", "acme", "a.example")
		require.Equal(t, "t2", w.at("acme"))
		require.ErrorIs(t, w.define("t1", "acme", "a.example"), app.ErrConflict)
		w.settled()
	})
}

// Whatever append fails, before or after it is written: the same again ends as if nothing had failed, and is seen at once.
func TestNamesAfterLostAnswers(t *testing.T) {
	steps := []struct {
		name string
		do   func(w *nameFixture) error
		sees map[string]string
	}{
		{"a first definition", func(w *nameFixture) error { return w.define("t1", "acme", "b.example", "a.example") },
			map[string]string{"acme": "t1", "a.example": "", "b.example": ""}},
		{"a verification", func(w *nameFixture) error {
			c := tenant.ChallengeOf("b.example", w.census().names[hostName("b.example")])
			_, err := w.Ledger.VerifyHost(ctx, "t1", "b.example", zone{c.Record: {c.Value}}, "cli")
			return err
		}, map[string]string{"b.example": "t1"}},
		{"other names", func(w *nameFixture) error { return w.define("t1", "beta", "b.example", "c.example") },
			map[string]string{"acme": "unknown", "beta": "t1", "a.example": "", "b.example": "t1"}},
		{"a status", func(w *nameFixture) error {
			_, err := w.Ledger.SetStatus(ctx, "t1", tenant.Suspended, "unpaid", "cli")
			return err
		}, map[string]string{"beta": "t1"}},
		{"names taken back", func(w *nameFixture) error { return w.define("t1", "acme", "a.example", "c.example") },
			map[string]string{"acme": "t1", "beta": "unknown", "b.example": ""}},
		{"a name freed", func(w *nameFixture) error { return w.Ledger.FreeName(ctx, slugName("beta"), "r", "cli") }, map[string]string{"beta": "unknown"}},
		{"and taken by another", func(w *nameFixture) error { return w.define("t2", "beta") }, map[string]string{"beta": "t2", "acme": "t1"}},
		{"no names", func(w *nameFixture) error { return w.define("t1", "") }, map[string]string{"acme": "unknown", "a.example": "", "beta": "t2"}},
	}
	perfect := newNameFixture(t, "product.com")
	appends := make([]int, len(steps))
	for i, s := range steps {
		perfect.Store.Fault = func(eventstore.Append) fault { appends[i]++; return none }
		require.NoError(t, s.do(perfect), s.name)
	}
	require.Equal(t, []int{4, 1, 5, 1, 5, 1, 2, 4}, appends)
	for i := range steps {
		for nth := 1; nth <= appends[i]; nth++ {
			for _, lost := range []fault{before, after} {
				w := newNameFixture(t, "product.com")
				for j, s := range steps {
					n := 0
					if j == i {
						w.Store.Fault = func(eventstore.Append) fault {
							if n++; n == nth {
								return lost
							}
							return none
						}
						require.ErrorIs(t, s.do(w), eventstore.ErrUnavailable, "%s, append %d", s.name, nth)
					}
					require.NoError(t, s.do(w), "%s, append %d of %s", s.name, nth, steps[i].name)
					for name, want := range s.sees {
						require.Equal(t, want, w.at(name), "%s after %s, append %d of %s, %d", name, s.name, nth, steps[i].name, lost)
					}
				}
				require.Equal(t, perfect.written(), w.written(), "append %d of %s, %d", nth, steps[i].name, lost)
				w.settled()
			}
		}
	}
}

func TestVerifyHost(t *testing.T) {
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		host   string
		answer func(c tenant.Challenge) ([]string, error)
		want   tenant.HostState
		detail string
	}{
		"the record": {answer: func(c tenant.Challenge) ([]string, error) { return []string{c.Value}, nil }, want: tenant.HostVerified},
		"among others": {answer: func(c tenant.Challenge) ([]string, error) {
			return []string{"v=spf1 -all", "tollgate-verification=x", c.Value, ""}, nil
		}, want: tenant.HostVerified},
		"in another spelling": {host: "A.Example.:443", answer: func(c tenant.Challenge) ([]string, error) { return []string{c.Value}, nil }, want: tenant.HostVerified},
		"a part of the answer was lost": {answer: func(c tenant.Challenge) ([]string, error) { return []string{c.Value}, errDown },
			want: tenant.HostVerified},
		"no record": {answer: func(c tenant.Challenge) ([]string, error) {
			return nil, &net.DNSError{Err: "no such host", Name: c.Record, IsNotFound: true}
		}, want: tenant.HostUnverified, detail: "has no TXT record _tollgate.a.example yet"},
		"an empty answer": {answer: func(tenant.Challenge) ([]string, error) { return nil, nil },
			want: tenant.HostUnverified, detail: "has no TXT record _tollgate.a.example yet"},
		"no DNS": {answer: func(tenant.Challenge) ([]string, error) { return nil, errDown }, want: tenant.HostUnverified, detail: "did not answer"},
		"a wrong record": {answer: func(tenant.Challenge) ([]string, error) { return []string{"tollgate-verification=x"}, nil },
			want: tenant.HostUnverified, detail: `says "tollgate-verification=x", and should say "`},
		"the record in capitals": {answer: func(c tenant.Challenge) ([]string, error) { return []string{strings.ToUpper(c.Value)}, nil },
			want: tenant.HostUnverified, detail: "says "},
		"the record and more in one": {answer: func(c tenant.Challenge) ([]string, error) { return []string{c.Value + " v=spf1"}, nil },
			want: tenant.HostUnverified, detail: "says "},
		"many and long wrong records": {answer: func(tenant.Challenge) ([]string, error) {
			return slices.Repeat([]string{strings.Repeat("\x00x", 30_000)}, 100), nil
		}, want: tenant.HostUnverified, detail: `\x00`},
		"nobody waits for it": {ctx: canceled, answer: func(tenant.Challenge) ([]string, error) { return nil, context.Canceled }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newNameFixture(t, "product.com")
			w.defined("t1", "acme", "a.example", "b.example")
			challenge := w.report("t1", "a.example").Challenge
			dns := resolve(func(_ context.Context, name string) ([]string, error) {
				require.Equal(t, "_tollgate.a.example", name)
				return c.answer(challenge)
			})
			host := "a.example"
			if c.host != "" {
				host = c.host
			}
			if c.ctx != nil {
				// The store is asked first and would refuse a context that is over: this one ends while the DNS is asked.
				ending, end := context.WithCancel(ctx)
				_, err := w.Ledger.VerifyHost(ending, "t1", host, resolve(func(ctx context.Context, name string) ([]string, error) {
					end()
					return dns(ctx, name)
				}), "cli")
				require.ErrorIs(t, err, context.Canceled)
				_, err = w.Ledger.VerifyHost(c.ctx, "t1", host, dns, "cli")
				require.ErrorIs(t, err, context.Canceled)
				require.Equal(t, "name_claimed 3", w.count())
				return
			}
			for i := range 2 {
				s, err := w.Ledger.VerifyHost(ctx, "t1", host, dns, "cli")
				require.NoError(t, err)
				require.Equal(t, c.want, s.State)
				require.Equal(t, "a.example", s.Host)
				if c.want == tenant.HostVerified {
					require.Equal(t, app.HostReport{Host: "a.example", State: tenant.HostVerified}, s, "time %d", i)
					require.Equal(t, "host_verified 1, name_claimed 3", w.count(), "once")
					require.Equal(t, "t1", w.at("a.example:8443"))
					dns = func(context.Context, string) ([]string, error) { panic("nothing to ask") }
				} else {
					require.Equal(t, challenge, s.Challenge)
					require.Contains(t, s.Detail, c.detail)
					require.Less(t, len(s.Detail), 2000)
					require.Equal(t, "name_claimed 3", w.count())
					require.Empty(t, w.at("a.example:8443"))
				}
			}
			require.Equal(t, tenant.HostUnverified, w.report("t1", "b.example").State)
			require.Empty(t, w.at("b.example"))
			w.settled()
		})
	}
}

func TestVerifyHostRefuses(t *testing.T) {
	w := newNameFixture(t, "product.com")
	w.defined("t1", "acme", "a.example")
	w.defined("t2", "beta", "b.example")
	never := resolve(func(context.Context, string) ([]string, error) { panic("nothing to ask") })
	for name, c := range map[string]struct {
		id   event.TenantID
		host string
		want error
	}{
		"an unknown tenant":          {"t9", "a.example", tenant.ErrUnknown},
		"the host of another tenant": {"t1", "b.example", app.ErrNotFound},
		"nobody's host":              {"t1", "c.example", app.ErrNotFound},
		"its slug as host":           {"t1", "acme.product.com", app.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.Ledger.VerifyHost(ctx, c.id, c.host, never, "cli")
			require.ErrorIs(t, err, c.want)
		})
	}
	var refused *invalid.Error
	_, err := w.Ledger.VerifyHost(ctx, "t1", "192.0.2.1", never, "cli")
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "/host", refused.Fields[0].Pointer)
	_, err = w.Ledger.Hosts(ctx, "t9")
	require.ErrorIs(t, err, tenant.ErrUnknown)
	w.defined("t1", "acme")
	_, err = w.Ledger.VerifyHost(ctx, "t1", "a.example", never, "cli")
	require.ErrorIs(t, err, app.ErrNotFound, "not any more")
	require.Equal(t, "name_claimed 4, name_released 1", w.count())
}

// What is the product's own needs no proof.
func TestOwnHosts(t *testing.T) {
	never := resolve(func(context.Context, string) ([]string, error) { panic("nothing to ask") })
	for name, c := range map[string]struct {
		bases []string
		want  map[string]tenant.HostState
	}{
		"base domains": {[]string{"product.com"}, map[string]tenant.HostState{
			"acme.product.com": tenant.HostOwn, "other.product.com": tenant.HostOwn, "a.acme.product.com": tenant.HostUnverified,
			"acme.example": tenant.HostUnverified, "product.com": tenant.HostUnverified, "acme.evilproduct.com": tenant.HostUnverified,
		}},
		"none": {nil, map[string]tenant.HostState{
			"acme.product.com": tenant.HostOwn, "acme.example": tenant.HostOwn, "other.product.com": tenant.HostUnverified,
			"acmex.product.com": tenant.HostUnverified, "a.acme.product.com": tenant.HostUnverified, "x.acme.com": tenant.HostUnverified,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newNameFixture(t, c.bases...)
			w.defined("t1", "acme", slices.Sorted(maps.Keys(c.want))...)
			w.defined("t2", "", "someone.example")
			for host, want := range c.want {
				s := w.report("t1", host)
				require.Equal(t, want, s.State, host)
				if want == tenant.HostUnverified {
					require.Equal(t, "_tollgate."+host, s.Challenge.Record)
					require.NotEqual(t, "t1", w.at(host), host)
					continue
				}
				require.Equal(t, app.HostReport{Host: host, State: want}, s)
				require.Equal(t, "t1", w.at(host), host)
				again, err := w.Ledger.VerifyHost(ctx, "t1", host, never, "cli")
				require.NoError(t, err)
				require.Equal(t, s, again)
			}
			require.NotContains(t, w.count(), "host_verified")
		})
	}
}

// While the DNS is asked, the tenant lets the host go, takes it back and proves that. The answer is about a claim that is
// over.
func TestVerificationOfAnOldClaim(t *testing.T) {
	w := newNameFixture(t, "product.com")
	w.defined("t1", "", "a.example")
	old := w.publish("t1", "a.example")
	_, err := w.Ledger.VerifyHost(ctx, "t1", "a.example", resolve(func(context.Context, string) ([]string, error) {
		w.defined("t1", "")
		w.defined("t1", "", "a.example")
		w.verified("t1", "a.example")
		return []string{old.Value}, nil
	}), "cli")
	require.ErrorIs(t, err, app.ErrConflict)
	require.Equal(t, "t1", w.at("a.example"), "the new proof stands")
	require.Equal(t, tenant.HostVerified, w.verify("t1", "a.example").State)
	w.settled()

	// It went to another tenant meanwhile.
	w.defined("t1", "", "a.example", "b.example")
	old = w.publish("t1", "b.example")
	_, err = w.Ledger.VerifyHost(ctx, "t1", "b.example", resolve(func(context.Context, string) ([]string, error) {
		w.defined("t1", "", "a.example")
		require.NoError(t, w.Ledger.FreeName(ctx, hostName("b.example"), "r", "cli"))
		w.defined("t2", "", "b.example")
		return []string{old.Value}, nil
	}), "cli")
	require.ErrorIs(t, err, app.ErrConflict)
	require.Empty(t, w.at("b.example"))
	w.settled()
}

// A version that did not claim names defined t1: it holds none, and is not told the challenge of the tenant that does.
func TestNamesThatWereNeverClaimed(t *testing.T) {
	w := newNameFixture(t, "product.com")
	e := event.TenantDefined{Tenant: "t1", Name: "t1", TimeZone: "UTC", Currency: "USD", Hosts: []string{"a.example", "beta.product.com"}, Slug: "acme", By: "cli"}
	r := w.Log.Append(ctx, []eventstore.Append{e.Append(eventstore.NoStream)})[0]
	require.Equal(t, eventstore.Appended, r.Outcome)
	require.NoError(t, w.Directory.Reached(ctx, r.Position))
	require.Equal(t, []string{"unknown", "unknown", ""}, []string{w.at("acme"), w.at("beta"), w.at("a.example")})
	unclaimed := func(host string) {
		t.Helper()
		s := w.report("t1", host)
		require.Equal(t, tenant.HostUnverified, s.State)
		require.Empty(t, s.Challenge)
		require.Contains(t, s.Detail, "not claimed")
		_, err := w.Ledger.VerifyHost(ctx, "t1", host, w.dns, "cli")
		require.ErrorIs(t, err, app.ErrConflict)
		require.ErrorContains(t, err, "define the tenant again")
	}
	unclaimed("a.example")
	unclaimed("beta.product.com")
	w.defined("t2", "", "a.example")
	unclaimed("a.example")
	require.ErrorIs(t, w.define("t1", "acme", "a.example", "beta.product.com"), app.ErrConflict)
	require.Equal(t, "name_claimed 1", w.count())
	w.defined("t2", "")
	require.NoError(t, w.Ledger.FreeName(ctx, hostName("a.example"), "it is t1's", "cli"))
	w.defined("t1", "acme", "a.example", "beta.product.com")
	w.verified("t1", "a.example")
	require.Equal(t, []string{"t1", "t1", "t1"}, []string{w.at("acme"), w.at("beta"), w.at("a.example")})
	w.settled()
}

func TestResolver(t *testing.T) {
	w := newNameFixture(t, "product.com", "eu.product.com", "localhost")
	w.defined("t1", "acme", "a.example", "a.acme.product.com", "product.com")
	w.defined("t2", "eu", "unverified.example")
	w.verified("t1", "a.example")
	w.verified("t1", "a.acme.product.com")
	for sent, want := range map[string]string{
		"":                                  "",
		":80":                               "",
		"localhost":                         "",
		"localhost:8080":                    "",
		"tollgate-7f9c":                     "",
		"acme":                              "", // a label is the name of a machine, also when a slug is called the same
		"192.0.2.1":                         "",
		"192.0.2.1:80":                      "",
		"192.0.2.1.":                        "",
		"[::1]:8080":                        "",
		"::1":                               "",
		"[2001:db8::1]":                     "",
		"product.com":                       "", // t1's, and not verified
		"eu.product.com":                    "", // the product's, though there is a tenant eu
		"acme.product.com":                  "t1",
		"Acme.Product.com.:443":             "t1",
		"acme．product．com":                  "t1",
		"acme.eu.product.com":               "t1",
		"acme.localhost:8080":               "t1",
		"eu.localhost":                      "t2",
		"nobody.localhost":                  "unknown",
		"nobody.product.com":                "unknown",
		"nobody.product.com:8443":           "unknown",
		"a.acme.product.com":                "t1",
		"b.acme.product.com":                "unknown",
		"a.a.acme.product.com":              "unknown",
		"www.product.com":                   "unknown",
		"no_body.product.com":               "unknown",
		"no_body.product.com:443":           "unknown",
		"No_Body.Product.COM.:443":          "unknown",
		"-.product.com":                     "unknown",
		"acme.product.com:99999":            "unknown",
		"acme.product.com..":                "unknown",
		"acme@evil.product.com":             "unknown",
		"evil.example, acme.product.com":    "unknown",
		"acme.product.com, evil.example":    "",
		"acme.product.com.evil.example":     "",
		"evilproduct.com":                   "",
		"acme.evilproduct.com":              "",
		"acme@evil":                         "",
		"acme%2eproduct.com":                "",
		"\u0430cme.product.com":             "unknown",
		"\u0430.example":                    "",
		"a.example":                         "t1",
		"A.EXAMPLE:1":                       "t1",
		"b.a.example":                       "",
		"unverified.example":                "",
		"nobody.example":                    "",
		"a.example\x00":                     "",
		"a.example:99999":                   "",
		strings.Repeat("a.", 2000) + "com":  "",
		strings.Repeat("[", 5000) + "::1":   "",
		strings.Repeat("。", 5000) + "a.com": "",
	} {
		id, err := w.resolver.AtHost(ctx, sent)
		if want == "unknown" {
			require.ErrorIs(t, err, tenant.ErrUnknown, sent)
			require.Less(t, len(err.Error()), 1000)
			want = ""
		} else {
			require.NoError(t, err, sent)
		}
		require.Equal(t, event.TenantID(want), id, sent)
	}
	for slug, want := range map[string]event.TenantID{
		"acme": "t1", "eu": "t2", "": "", "Acme": "", "acme.": "", "acme.product.com": "", "a.example": "", "nobody": "", "acme\x00": "", "ａcme": "",
		"acme%2f": "", "../acme": "", "t1": "", strings.Repeat("a", 100_000): "",
	} {
		id, err := w.resolver.AtSlug(ctx, slug)
		require.Equal(t, want == "", errors.Is(err, tenant.ErrUnknown), slug)
		require.Equal(t, want, id, slug)
		require.True(t, err == nil || len(err.Error()) < 1000)
	}

	for _, status := range []tenant.Status{tenant.Suspended, tenant.Closed} {
		_, err := w.Ledger.SetStatus(ctx, "t1", status, "r", "cli")
		require.NoError(t, err)
		require.Equal(t, []string{"t1", "t1", "t1"}, []string{w.at("acme"), w.at("acme.product.com"), w.at("a.example")}, "what it may do is asked elsewhere")
		require.ErrorIs(t, w.define("t2", "acme"), app.ErrConflict)
	}

	w.Directory.Fail(errDown)
	for _, sent := range []string{"acme.product.com", "a.example", "nobody.example"} {
		id, err := w.resolver.AtHost(ctx, sent)
		require.ErrorIs(t, err, errDown)
		require.NotErrorIs(t, err, tenant.ErrUnknown)
		require.Empty(t, id)
	}
	_, err := w.resolver.AtSlug(ctx, "acme")
	require.ErrorIs(t, err, errDown)
	require.Empty(t, w.at("192.0.2.1:80"), "nothing to look up")
	_, err = w.Ledger.Hosts(ctx, "t1")
	require.ErrorIs(t, err, errDown)
	w.Directory.Fail(nil)

	w.resolver.Directory = halfDirectory{w.Directory}
	_, err = w.resolver.AtSlug(ctx, "acme")
	require.ErrorIs(t, err, errDown, "the name is known, and its tenant is not")
}

// halfDirectory knows names and no tenants.
type halfDirectory struct{ *directory }

func (halfDirectory) Tenant(context.Context, event.TenantID) (tenant.Tenant, error) {
	return tenant.Tenant{}, errDown
}

// A name can be known before its tenant is: the streams are in different partitions.
func TestANameThatIsSeenBeforeItsTenant(t *testing.T) {
	if storetest.OnEventStoreDB() {
		return // there is one partition
	}
	w := newNameFixture(t, "product.com")
	down := &lateDirectory{directory: w.Directory, err: errDown}
	w.Ledger = app.New(w.Store, down, func() time.Time { return noon }).WithBaseDomains(w.domains)
	require.ErrorIs(t, w.define("t1", "acme"), errDown)
	require.NoError(t, w.Directory.Reached(ctx, eventstore.Position{Partition: 0, Offset: 1}))
	shown, err := w.Directory.Holding(ctx, slugName("acme"))
	require.NoError(t, err)
	require.Equal(t, "t1", string(shown.Tenant))
	require.Equal(t, []string{"unknown", "unknown"}, []string{w.at("acme"), w.at("acme.product.com")})
	down.err = nil
	w.defined("t1", "acme")
	require.Equal(t, "t1", w.at("acme"))
}

func TestSetStatus(t *testing.T) {
	h := newFixture(t)
	for name, c := range map[string]struct {
		status  tenant.Status
		reason  string
		pointer string
	}{
		"another status":     {"deleted", "r", "/status"},
		"no status":          {"", "r", "/status"},
		"no reason":          {tenant.Suspended, "", "/reason"},
		"a reason with NUL":  {tenant.Suspended, "a\x00", "/reason"},
		"a very long reason": {tenant.Suspended, strings.Repeat("a", 100_000), "/reason"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.Ledger.SetStatus(ctx, "t1", c.status, c.reason, "cli")
			var refused *invalid.Error
			require.ErrorAs(t, err, &refused)
			require.Equal(t, c.pointer, refused.Fields[0].Pointer)
		})
	}
	_, err := h.Ledger.SetStatus(ctx, "t9", tenant.Suspended, "r", "cli")
	require.ErrorIs(t, err, tenant.ErrUnknown)
	require.Empty(t, h.All()["tenant_status_changed"])

	same, err := h.Ledger.SetStatus(ctx, "t1", tenant.Active, "r", "cli")
	require.NoError(t, err)
	require.Empty(t, h.All()["tenant_status_changed"], "it is active already")
	require.Equal(t, tenant.Active, same.Tenant.Status)

	first, err := h.Ledger.SetStatus(ctx, "t1", tenant.Suspended, "unpaid", "key:1")
	require.NoError(t, err)
	require.False(t, first.Created)
	seen, err := h.Directory.Tenant(ctx, "t1")
	require.NoError(t, err)
	require.Equal(t, first.Tenant, seen, "seen at once")
	require.Equal(t, "unpaid", seen.Reason)
	again, err := h.Ledger.SetStatus(ctx, "t1", tenant.Suspended, "still unpaid", "key:2")
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Len(t, h.All()["tenant_status_changed"], 1)

	defined, err := h.Ledger.DefineTenant(ctx, tenant.Tenant{ID: "t1", Name: "Acme", Slug: "acme", Status: tenant.Closed, Reason: "x"}, "cli")
	require.NoError(t, err)
	require.Equal(t, []any{tenant.Suspended, "unpaid", "Acme"}, []any{defined.Tenant.Status, defined.Tenant.Reason, defined.Tenant.Name}, "a definition says nothing about it")
	back, err := h.Ledger.SetStatus(ctx, "t1", tenant.Active, "paid", "cli")
	require.NoError(t, err)
	require.Equal(t, []any{tenant.Active, "paid", "acme"}, []any{back.Tenant.Status, back.Tenant.Reason, back.Tenant.Slug})
	other, err := h.Directory.Tenant(ctx, "t2")
	require.NoError(t, err)
	require.Equal(t, tenant.Active, other.Status)
}

func TestSetStatusConcurrently(t *testing.T) {
	h := newFixture(t)
	together(16, func(i int) {
		_, err := h.Ledger.SetStatus(ctx, "t1", []tenant.Status{tenant.Suspended, tenant.Closed}[i%2], "r", event.Actor(fmt.Sprint("key:", i)))
		if err != nil {
			t.Error(err)
		}
		if _, err := h.Ledger.DefineTenant(ctx, tenant.Tenant{ID: "t1", Slug: fmt.Sprint("s", i)}, "cli"); err != nil {
			t.Error(err)
		}
	})
	statuses := h.All()["tenant_status_changed"]
	last := "active"
	for _, r := range statuses {
		var e event.TenantStatusChanged
		require.NoError(t, json.Unmarshal(r.Data, &e))
		require.NotEqual(t, last, e.Status, "each is a change")
		last = e.Status
	}
	seen, err := h.Directory.Tenant(ctx, "t1")
	require.NoError(t, err)
	require.Equal(t, last, string(seen.Status))
}

// turns let two use cases take turns at the store, at the calls that a test wants.
type turns struct{ app.Store }

type turnOf struct{}

// turn stops one use case before a call of the store.
type turn struct {
	at, calls     int
	stopped, goOn chan struct{}
	done          chan error
}

func (s turns) Append(ctx context.Context, batch []eventstore.Append) []eventstore.Result {
	pass(ctx)
	return s.Store.Append(ctx, batch)
}

func (s turns) ReadStream(ctx context.Context, name eventstore.StreamName, from eventstore.Revision, limit int) ([]eventstore.Recorded, error) {
	pass(ctx)
	return s.Store.ReadStream(ctx, name, from, limit)
}

func pass(ctx context.Context) {
	g, ok := ctx.Value(turnOf{}).(*turn)
	if !ok {
		return
	}
	if g.calls++; g.calls == g.at {
		close(g.stopped)
		<-g.goOn
	}
}

// start runs the use case up to its nth call; ok is false where it has ended before.
func start(nth int, do func(context.Context) error) (g *turn, ok bool) {
	g = &turn{at: nth, stopped: make(chan struct{}), goOn: make(chan struct{}), done: make(chan error, 1)}
	go func() { g.done <- do(context.WithValue(ctx, turnOf{}, g)) }()
	select {
	case <-g.stopped:
		return g, true
	case err := <-g.done:
		g.done <- err
		return g, false
	}
}

// end lets it go on.
func (g *turn) end() error {
	close(g.goOn)
	return <-g.done
}

// Two use cases at once: one runs up to each of its calls of the store, the other one up to each of its own, then the first
// goes on to the end, then the other. However they meet, holdings and definitions agree in the end, and who was told that it
// has its names has them.
func TestNamesOfTwoAtOnce(t *testing.T) {
	if storetest.OnEventStoreDB() {
		return // it goes through every order of the same calls, thousands of times
	}
	type use = func(w *nameFixture, ctx context.Context) error
	define := func(id event.TenantID, slug string, hosts ...string) use {
		return func(w *nameFixture, ctx context.Context) error {
			_, err := w.Ledger.DefineTenant(ctx, tenant.Tenant{ID: id, Slug: slug, Hosts: hosts}, "cli")
			return err
		}
	}
	free := func(n tenant.Name) use {
		return func(w *nameFixture, ctx context.Context) error { return w.Ledger.FreeName(ctx, n, "r", "cli") }
	}
	status := func(w *nameFixture, ctx context.Context) error {
		_, err := w.Ledger.SetStatus(ctx, "t1", tenant.Closed, "r", "cli")
		return err
	}
	verify := func(w *nameFixture, ctx context.Context) error {
		_, err := w.Ledger.VerifyHost(ctx, "t1", "new.example", resolve(func(context.Context, string) ([]string, error) {
			return w.dns.LookupTXT(ctx, "_tollgate.new.example")
		}), "cli")
		return err
	}
	then := func(uses ...use) use {
		return func(w *nameFixture, ctx context.Context) error {
			for _, u := range uses {
				if err := u(w, ctx); err != nil {
					return err
				}
			}
			return nil
		}
	}
	must := func(t *testing.T, p, q error) { require.NoError(t, errors.Join(p, q)) }
	either := func(t *testing.T, p, q error) { require.True(t, p == nil || q == nil, "%v, %v", p, q) }
	whatever := func(*testing.T, error, error) {}
	for name, c := range map[string]struct {
		p, q   use
		tp, tq event.TenantID // who may lack names after an error
		errs   func(t *testing.T, p, q error)
	}{
		"other names of one tenant":                 {define("t1", "new"), define("t1", "acme", "new.example"), "", "", must},
		"names and none":                            {define("t1", "acme", "new.example"), define("t1", ""), "", "", must},
		"taken back and dropped":                    {define("t1", "old"), define("t1", "acme"), "", "", must},
		"the same":                                  {define("t1", "old", "new.example"), define("t1", "old", "new.example"), "", "", must},
		"a new tenant, twice":                       {define("t3", "new", "x.example"), define("t3", "new", "x.example"), "", "", must},
		"a new tenant, in two ways":                 {define("t3", "new", "x.example"), define("t3", "newer", "x.example"), "", "", must},
		"two tenants want one name":                 {define("t1", "new"), define("t2", "new"), "", "", either},
		"two tenants want the same names":           {define("t1", "acme", "x.example", "y.example"), define("t2", "", "y.example", "x.example"), "", "", either},
		"a name that is dropped, and wanted":        {define("t1", ""), define("t2", "acme", "new.example"), "", "", whatever},
		"a new name, and it is freed":               {define("t1", "new"), free(slugName("new")), "", "", whatever},
		"a name taken back, and it is freed":        {define("t1", "old"), free(slugName("old")), "", "", whatever},
		"a name dropped, and it is freed":           {define("t1", ""), free(slugName("acme")), "", "", whatever},
		"freed twice":                               {free(slugName("old")), free(slugName("old")), "", "", must},
		"freed, and another wants it":               {free(slugName("old")), define("t2", "old"), "", "", whatever},
		"a new name, freed, and another wants it":   {define("t1", "new"), then(free(slugName("new")), define("t2", "new")), "t1", "", whatever},
		"taken back, freed, and another wants it":   {define("t1", "old"), then(free(slugName("old")), define("t2", "old")), "t1", "", whatever},
		"dropped and freed, and another wants it":   {then(define("t1", ""), free(slugName("acme"))), define("t2", "acme"), "", "", whatever},
		"verified, and it is dropped":               {verify, define("t1", "acme"), "", "", whatever},
		"verified, and it is dropped and back":      {verify, then(define("t1", "acme"), define("t1", "acme", "new.example")), "", "", whatever},
		"verified twice":                            {verify, verify, "", "", must},
		"a status and names":                        {status, define("t1", "new"), "", "", must},
		"dropped and back, and the same":            {then(define("t1", ""), define("t1", "acme")), define("t1", "acme", "new.example"), "", "", must},
		"freed while two definitions are under way": {then(define("t1", ""), define("t1", "old")), free(slugName("old")), "", "", whatever},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := func(n, m int, p, q use, tp, tq event.TenantID, errs func(t *testing.T, p, q error)) (first, second bool) {
				w := newNameFixture(t, "product.com")
				w.defined("t1", "old")
				w.defined("t1", "acme", "new.example")
				w.publish("t1", "new.example")
				w.defined("t2", "")
				w.Ledger = app.New(turns{w.Store}, w.Directory, func() time.Time { return noon }).WithBaseDomains(w.domains)
				g, first := start(n, func(ctx context.Context) error { return p(w, ctx) })
				h, second := start(m, func(ctx context.Context) error { return q(w, ctx) })
				ep, eq := g.end(), h.end()
				for _, err := range []error{ep, eq} {
					require.True(t, err == nil || errors.Is(err, app.ErrConflict) || errors.Is(err, app.ErrNotFound), "%v", err)
				}
				errs(t, ep, eq)
				var refused []event.TenantID
				if ep != nil {
					refused = append(refused, tp)
				}
				if eq != nil {
					refused = append(refused, tq)
				}
				w.settled(refused...)
				return first, second
			}
			for _, swapped := range []bool{false, true} {
				p, q, tp, tq, errs := c.p, c.q, c.tp, c.tq, c.errs
				if swapped {
					p, q, tp, tq, errs = q, p, tq, tp, func(t *testing.T, a, b error) { c.errs(t, b, a) }
				}
				for n, first := 1, true; first; n++ {
					for m, second := 2, true; first && second; m++ { // at its first call the other one has seen nothing yet
						first, second = run(n, m, p, q, tp, tq, errs)
						if t.Failed() {
							return
						}
					}
				}
			}
		})
	}
}

// Many tenants, each by two people at once, want names of a few. Nobody ever lacks a name of its definition, and those that
// lost were told so.
func TestNamesConcurrently(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			w := newNameFixture(t, "product.com")
			var succeeded atomic.Int64
			together(12, func(i int) {
				random := rand.New(rand.NewPCG(seed, uint64(i)))
				for range 6 {
					d := anyDefinition(random, event.TenantID(fmt.Sprint("t", i/2)))
					_, err := w.Ledger.DefineTenant(ctx, d, event.Actor(fmt.Sprint("key:", i)))
					switch {
					case err == nil:
						succeeded.Add(1)
					case !errors.Is(err, app.ErrConflict):
						t.Error(err)
					}
				}
			})
			require.NotZero(t, succeeded.Load())
			c := w.census()
			lacking, _ := c.lacking(w.domains)
			require.Empty(t, lacking)
			for id, d := range c.tenants { // a refused one may have claimed some names; the next that is not lets go of them
				before := len(w.All()["tenant_defined"])
				w.defined(id, d.Slug, d.Hosts...)
				require.Len(t, w.All()["tenant_defined"], before)
			}
			w.settled()
		})
	}
}

// With administrators who free what they can: a tenant whose definition succeeded has its names.
func TestNamesAreFreedConcurrently(t *testing.T) {
	const tenants, administrators = 6, 4
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			w := newNameFixture(t, "product.com")
			last := make([]error, tenants)
			together(tenants+administrators, func(i int) {
				random := rand.New(rand.NewPCG(seed, uint64(i)))
				for range 8 {
					if i >= tenants {
						for _, n := range anyDefinition(random, "any").Names(w.domains) {
							if err := w.Ledger.FreeName(ctx, n, "r", event.Actor(fmt.Sprint("key:", i))); err != nil && !errors.Is(err, app.ErrConflict) {
								t.Error(err)
							}
						}
						continue
					}
					_, last[i] = w.Ledger.DefineTenant(ctx, anyDefinition(random, event.TenantID(fmt.Sprint("t", i))), "cli")
					if last[i] != nil && !errors.Is(last[i], app.ErrConflict) {
						t.Error(last[i])
					}
				}
			})
			var refused []event.TenantID
			for i, err := range last {
				if err != nil {
					refused = append(refused, event.TenantID(fmt.Sprint("t", i)))
				}
			}
			w.settled(refused...)
		})
	}
}

// anyDefinition wants some of seven names, in any order.
func anyDefinition(random *rand.Rand, id event.TenantID) tenant.Tenant {
	d := tenant.Tenant{ID: id}
	for n := range 7 {
		switch {
		case random.IntN(3) > 0:
		case n == 0:
			d.Slug = "acme"
		case n == 1:
			d.Hosts = append(d.Hosts, "acme.product.com")
		default:
			d.Hosts = append(d.Hosts, fmt.Sprintf("n%d.example", n))
		}
	}
	random.Shuffle(len(d.Hosts), func(i, j int) { d.Hosts[i], d.Hosts[j] = d.Hosts[j], d.Hosts[i] })
	return d
}

// Tenants that want the same names at once: one of them gets all, and the others change nothing.
func TestOneOfManyGetsTheNames(t *testing.T) {
	const tenants, names = 8, 6
	for round := range 20 {
		w := newNameFixture(t, "product.com")
		errs := make([]error, tenants)
		together(tenants, func(i int) {
			hosts := make([]string, names)
			for j, n := range rand.New(rand.NewPCG(uint64(round), uint64(i))).Perm(names) {
				hosts[j] = fmt.Sprintf("n%d.example", n)
			}
			errs[i] = w.define(event.TenantID(fmt.Sprint("t", i)), "acme", hosts...)
		})
		won := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err != nil })
		require.Len(t, won, 1, "round %d: %v", round, errs)
		require.Equal(t, fmt.Sprint("name_claimed ", 1+names), w.count())
		w.settled()
	}
}

// model is who has what, kept naively.
type model struct {
	names   map[string]*modelName
	tenants map[event.TenantID]*modelTenant
}

type modelName struct {
	holder             event.TenantID // or for whom it is kept
	kept               bool
	proven, publishing bool // the present claim
}

type modelTenant struct {
	names  map[string]bool
	status tenant.Status
}

// Sequences of all that changes names, with answers that are lost and asked again, against the model.
func TestNamesAgainstModel(t *testing.T) {
	names := []string{"acme", "beta", "a.example", "b.example"}
	ids := []event.TenantID{"t1", "t2", "t3"}
	isHost := func(name string) bool { return strings.Contains(name, ".") }
	nameOf := func(name string) tenant.Name {
		if isHost(name) {
			return hostName(name)
		}
		return slugName(name)
	}
	rapid.Check(t, func(r *rapid.T) {
		w := newNameFixture(t, "product.com")
		m := model{map[string]*modelName{}, map[event.TenantID]*modelTenant{}}
		for _, n := range names {
			m.names[n] = &modelName{}
		}
		faulty := func(r *rapid.T, do func() error) error {
			nth, lost := rapid.IntRange(0, 6).Draw(r, "append that is lost"), rapid.SampledFrom([]fault{before, after}).Draw(r, "lost")
			n := 0
			w.Store.Fault = func(eventstore.Append) fault {
				if n++; n == nth {
					return lost
				}
				return none
			}
			defer func() { w.Store.Fault = nil }()
			err := do()
			if errors.Is(err, eventstore.ErrUnavailable) {
				err = do()
			}
			return err
		}
		draw := func(r *rapid.T) (event.TenantID, string) {
			return rapid.SampledFrom(ids).Draw(r, "tenant"), rapid.SampledFrom(names).Draw(r, "name")
		}
		r.Repeat(map[string]func(*rapid.T){
			"define": func(r *rapid.T) {
				id, _ := draw(r)
				d := tenant.Tenant{ID: id}
				wanted := map[string]bool{}
				for _, n := range names {
					if !rapid.Bool().Draw(r, n) {
						continue
					}
					wanted[n] = true
					switch as := rapid.IntRange(0, 2).Draw(r, "as"); {
					case isHost(n):
						d.Hosts = append(d.Hosts, spellHost(r, n))
					case d.Slug == "" && as > 0:
						d.Slug = n
						if as == 1 {
							break
						}
						fallthrough
					default:
						d.Hosts = append(d.Hosts, spellHost(r, n+".product.com"))
					}
				}
				open := true
				for n := range wanted {
					open = open && (m.names[n].holder == "" || m.names[n].holder == id)
				}
				log := w.written()
				err := faulty(r, func() error { _, err := w.Ledger.DefineTenant(ctx, d, "cli"); return err })
				if !open {
					require.ErrorIs(r, err, app.ErrConflict)
					require.Equal(r, log, w.written())
					return
				}
				require.NoError(r, err)
				for name, n := range m.names {
					switch {
					case wanted[name] && (n.holder == "" || n.kept):
						*n = modelName{holder: id}
					case !wanted[name] && n.holder == id:
						*n = modelName{holder: id, kept: true}
					}
				}
				if m.tenants[id] == nil {
					m.tenants[id] = &modelTenant{status: tenant.Active}
				}
				m.tenants[id].names = wanted
			},
			"free": func(r *rapid.T) {
				_, name := draw(r)
				n := m.names[name]
				err := faulty(r, func() error { return w.Ledger.FreeName(ctx, nameOf(name), "r", "cli") })
				if n.holder != "" && !n.kept {
					require.ErrorIs(r, err, app.ErrConflict)
					return
				}
				require.NoError(r, err)
				*n = modelName{}
			},
			"publish": func(r *rapid.T) {
				_, name := draw(r)
				if n := m.names[name]; isHost(name) && n.holder != "" && !n.kept && !n.proven {
					w.publish(n.holder, name)
					n.publishing = true
				}
			},
			"verify": func(r *rapid.T) {
				id, name := draw(r)
				n, host := m.names[name], name
				if !isHost(name) {
					host = name + ".product.com"
				}
				var s app.HostReport
				err := faulty(r, func() (err error) {
					s, err = w.Ledger.VerifyHost(ctx, id, spellHost(r, host), w.dns, "cli")
					return err
				})
				switch {
				case m.tenants[id] == nil:
					require.ErrorIs(r, err, tenant.ErrUnknown)
				case !m.tenants[id].names[name]:
					require.ErrorIs(r, err, app.ErrNotFound)
				case !isHost(name):
					if !errors.Is(err, app.ErrNotFound) { // it is in the definition as a slug only
						require.NoError(r, err)
						require.Equal(r, tenant.HostOwn, s.State)
					}
				default:
					require.NoError(r, err)
					n.proven = n.proven || n.publishing
					require.Equal(r, n.proven, s.State == tenant.HostVerified)
				}
			},
			"status": func(r *rapid.T) {
				id, _ := draw(r)
				status := rapid.SampledFrom([]tenant.Status{tenant.Active, tenant.Suspended, tenant.Closed}).Draw(r, "status")
				err := faulty(r, func() error { _, err := w.Ledger.SetStatus(ctx, id, status, "r", "cli"); return err })
				if m.tenants[id] == nil {
					require.ErrorIs(r, err, tenant.ErrUnknown)
					return
				}
				require.NoError(r, err)
				m.tenants[id].status = status
			},
			"": func(r *rapid.T) {
				for name, n := range m.names {
					leads := n.holder != "" && !n.kept && (n.proven || !isHost(name))
					want := string(n.holder)
					switch {
					case leads:
					case isHost(name):
						want = ""
					default:
						want = "unknown"
					}
					require.Equal(r, want, w.at(name), "%s: %+v", name, n)
					if !isHost(name) {
						require.Equal(r, want, w.at(name+".product.com"))
					}
					h, err := w.Directory.Holding(ctx, nameOf(name))
					require.NoError(r, err)
					require.Equal(r, n.holder, h.Tenant)
					require.Equal(r, n.kept, h.Released)
				}
				for _, id := range ids {
					seen, err := w.Directory.Tenant(ctx, id)
					if m.tenants[id] == nil {
						require.ErrorIs(r, err, tenant.ErrUnknown)
						continue
					}
					require.NoError(r, err)
					require.Equal(r, m.tenants[id].status, seen.Status)
					require.Len(r, seen.Names(w.domains), len(m.tenants[id].names))
				}
			},
		})
		w.settled()
	})
}

func spellHost(r *rapid.T, host string) string {
	return rapid.SampledFrom([]string{host, strings.ToUpper(host), host + ".", host + ":443"}).Draw(r, "spelling")
}

func TestKeysThatEnd(t *testing.T) {
	h := newFixture(t)
	for name, c := range map[string]struct {
		at   time.Time
		good bool
	}{
		"never":                   {time.Time{}, true},
		"later":                   {noon.Add(time.Hour), true},
		"in a moment":             {noon.Add(time.Microsecond), true},
		"now":                     {noon, false},
		"now, in another zone":    {noon.In(time.FixedZone("east", 3600)), false},
		"in the past":             {noon.Add(-time.Second), false},
		"the end of the calendar": {time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), true},
		"after it":                {time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), false},
	} {
		t.Run(name, func(t *testing.T) {
			id, secret, err := h.Ledger.CreateKey(ctx, app.NewKey{Kind: tenant.Service, Name: "a", ExpiresAt: c.at}, strings.NewReader(name+strings.Repeat("x", 32)), "cli")
			if !c.good {
				var refused *invalid.Error
				require.ErrorAs(t, err, &refused)
				require.Equal(t, "/expiresAt", refused.Fields[0].Pointer)
				require.Empty(t, secret)
				return
			}
			require.NoError(t, err)
			k, err := h.Directory.Key(ctx, secret.Hash())
			require.NoError(t, err)
			require.Equal(t, id, k.ID)
			require.Equal(t, c.at, k.ExpiresAt)
			require.True(t, k.ValidAt(noon))
			require.Equal(t, c.at.IsZero(), k.ValidAt(time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)))
		})
	}
}
