package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/tollgate-io/tollgate/domain/tenant"
)

// nameServer answers questions for TXT records from its records.
type nameServer struct {
	mu      sync.Mutex
	records map[string]string
}

func (n *nameServer) set(name, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records = map[string]string{strings.ToLower(name) + ".": text}
}

func (n *nameServer) start(t *testing.T) (address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if answer := n.answer(b[:size]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
	return conn.LocalAddr().String()
}

func (n *nameServer) answer(question []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m = dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true}, Questions: m.Questions}
	n.mu.Lock()
	text, ok := n.records[strings.ToLower(q.Name.String())]
	n.mu.Unlock()
	switch {
	case !ok:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeTXT:
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}, Body: &dnsmessage.TXTResource{TXT: []string{"v=spf1 -all"}}},
			{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}, Body: &dnsmessage.TXTResource{TXT: []string{text}}}}
	}
	answer, err := m.Pack()
	if err != nil {
		return nil
	}
	return answer
}

type hostItem struct {
	Host, State string
	Record      *struct{ Name, Value string }
}

// A custom domain resolves to its tenant once its DNS shows the challenge, and to another tenant only after it was released,
// freed, claimed and verified again.
func TestCustomDomainFromClaimToTakeover(t *testing.T) {
	onEveryStore(t, testCustomDomainFromClaimToTakeover)
}

func testCustomDomainFromClaimToTakeover(t *testing.T, dir string) {
	dns := &nameServer{}
	p := serve(t, dir, "TOLLGATE_BASE_DOMAINS=product.com", "TOLLGATE_DNS_SERVER="+dns.start(t))
	service := p.serviceKey()
	put := func(id string, body map[string]any) error {
		return call(t.Context(), http.MethodPut, p.url+"/v1/admin/tenants/"+id, adminKey, body, nil)
	}
	resolve := func(host string) (found struct{ TenantID, Status string }, err error) {
		var text json.RawMessage
		if err := call(t.Context(), http.MethodGet, p.url+"/v1/resolve?host="+url.QueryEscape(host), service, nil, &text); err != nil {
			return found, err
		}
		return found, json.Unmarshal(text, &found)
	}
	verify := func(id string) hostItem {
		t.Helper()
		var item hostItem
		require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/admin/tenants/"+id+"/hosts/interviews.acme.com/verify", adminKey, nil, &item))
		return item
	}
	require.NoError(t, put("acme", map[string]any{"slug": "acme", "hosts": []string{"Acme.product.com:443", "interviews.acme.com"}}))
	require.NoError(t, put("other", map[string]any{"slug": "other"}))

	for _, host := range []string{"acme.product.com", "ACME.Product.com.", "acme.product.com:8080"} {
		found, err := resolve(host)
		require.NoError(t, err, host)
		require.Equal(t, "acme", found.TenantID)
	}
	for _, host := range []string{"interviews.acme.com", "xcme.product.com", "evilproduct.com", "acme.product.com.evil.com", "\u0430cme.product.com"} {
		_, err := resolve(host)
		require.ErrorContains(t, err, "unknown_tenant", host)
	}

	item := verify("acme")
	require.Equal(t, string(tenant.HostUnverified), item.State)
	dns.set(item.Record.Name, "tollgate-verification=something")
	require.Equal(t, string(tenant.HostUnverified), verify("acme").State)
	dns.set(item.Record.Name, item.Record.Value)
	require.Equal(t, string(tenant.HostVerified), verify("acme").State)
	found, err := resolve("Interviews.Acme.com:443")
	require.NoError(t, err)
	require.Equal(t, "acme", found.TenantID)

	// Requests may come by that host.
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/v1/limits", nil)
	require.NoError(t, err)
	r.Host = "interviews.acme.com"
	r.Header.Set("Authorization", "Bearer "+string(service))
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)

	takeover := map[string]any{"slug": "other", "hosts": []string{"interviews.acme.com"}}
	require.ErrorContains(t, put("other", takeover), "belongs to another tenant")
	require.NoError(t, put("acme", map[string]any{"slug": "acme"}))
	_, err = resolve("interviews.acme.com")
	require.ErrorContains(t, err, "unknown_tenant")
	require.ErrorContains(t, put("other", takeover), "kept for it")
	require.NoError(t, call(t.Context(), http.MethodPost, p.url+"/v1/admin/names/host/interviews.acme.com/free", adminKey, map[string]any{"reason": "the domain was sold"}, nil))
	require.NoError(t, put("other", takeover))
	again := verify("other")
	require.Equal(t, string(tenant.HostUnverified), again.State, "the old record proves nothing about the new tenant")
	dns.set(again.Record.Name, again.Record.Value)
	require.Equal(t, string(tenant.HostVerified), verify("other").State)
	found, err = resolve("interviews.acme.com")
	require.NoError(t, err)
	require.Equal(t, "other", found.TenantID)
}
