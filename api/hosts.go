package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/invalid"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

// ListHosts is GET /v1/admin/tenants/{tenantId}/hosts.
func (s *Server) ListHosts(c echo.Context, tenantID Id, params ListHostsParams) error {
	if _, err := s.awaitDirectory(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	id := event.TenantID(tenantID)
	at, err := s.Positions.Shown(ctx, id)
	if err != nil {
		return fmt.Errorf("read the position: %w", err)
	}
	hosts, err := s.Ledger.Hosts(ctx, id)
	if err != nil {
		return err
	}
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, listOf(hosts, "", viewHost))
}

// VerifyHost is POST /v1/admin/tenants/{tenantId}/hosts/{host}/verify.
func (s *Server) VerifyHost(c echo.Context, tenantID Id, host string) error {
	ctx, cancel := work(c)
	defer cancel()
	id := event.TenantID(tenantID)
	h, err := s.Ledger.VerifyHost(ctx, id, host, impatient{s.DNS}, admin(c))
	if err != nil {
		return err
	}
	at, err := s.Positions.Shown(ctx, id)
	if err != nil {
		return fmt.Errorf("read the position: %w", err)
	}
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, viewHost(&h))
}

// impatient gives up on a DNS that does not answer, so that there is time to say so.
type impatient struct{ dns app.TXTResolver }

const dnsTimeout = 5 * time.Second

var errNoDNS = errors.New("no DNS is configured")

func (i impatient) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if i.dns == nil {
		return nil, errNoDNS
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	return i.dns.LookupTXT(ctx, name)
}

type hostView struct {
	Host   string           `json:"host"`
	State  tenant.HostState `json:"state"`
	Record *dnsRecordView   `json:"record"`
	Detail optional         `json:"detail"`
}

// dnsRecordView is the record that verifies a host.
type dnsRecordView struct {
	Type  string `json:"type"`
	Name  string `json:"name"`
	Value string `json:"value"`
}

func viewHost(h *app.HostReport) hostView {
	view := hostView{Host: h.Host, State: h.State, Detail: optional(h.Detail)}
	if h.Challenge != (tenant.Challenge{}) {
		view.Record = &dnsRecordView{"TXT", h.Challenge.Record, h.Challenge.Value}
	}
	return view
}

// FreeName is POST /v1/admin/names/{kind}/{name}/free.
func (s *Server) FreeName(c echo.Context, kind NameKind, name string) error {
	var reason string
	err := readObject(c, []string{"reason"}, func(d *decoder, v []jsontext.Value) {
		if !absent(v[0]) {
			reason, _ = d.str(v[0], "/reason")
		}
	})
	if err != nil {
		return err
	}
	n, err := tenant.ParseName(kind, name)
	switch k := tenant.NameKind(kind); {
	case err != nil && k != tenant.Slug && k != tenant.Host:
		return invalid.New("/kind", codeInvalidRequest, err.Error())
	case err != nil:
		return invalid.New("/name", codeInvalidRequest, err.Error())
	}
	ctx, cancel := work(c)
	defer cancel()
	if err := s.Ledger.FreeName(ctx, n, reason, admin(c)); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
