package api

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

const headerCatalogRevision = "Tollgate-Catalog-Revision"

// PutTenant is PUT /v1/admin/tenants/{tenantId}.
func (s *Server) PutTenant(c echo.Context, tenantID Id) error {
	t := tenant.Tenant{ID: event.TenantID(tenantID)}
	err := readObject(c, []string{"name", "timeZone", "currency", "hosts", "slug"}, func(d *decoder, v []jsontext.Value) {
		for i, into := range []*string{&t.Name, &t.TimeZone, &t.Currency} {
			if name := [...]string{"name", "timeZone", "currency"}[i]; !absent(v[i]) {
				*into, _ = d.str(v[i], "/"+name)
			}
		}
		if !absent(v[3]) {
			t.Hosts = d.strings(v[3], "/hosts")
		}
		if !absentOrNull(v[4]) { // as GET answers it
			t.Slug, _ = d.str(v[4], "/slug")
		}
	})
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	change, err := s.Ledger.DefineTenant(ctx, t, admin(c))
	if err != nil {
		return err
	}
	showPosition(c, change.Position)
	return writeJSON(c, http.StatusOK, viewTenant(change.Tenant))
}

// strings reads an array of strings.
func (d *decoder) strings(v jsontext.Value, pointer string) []string {
	if v.Kind() != '[' {
		d.refuse(pointer, "must be an array of strings")
		return nil
	}
	elements, err := splitArray(v, 1000)
	if err != nil {
		d.refuse(pointer, "must be an array of at most 1000 strings")
		return nil
	}
	texts := make([]string, len(elements))
	for i, e := range elements {
		texts[i], _ = d.str(e, pointer+"/"+strconv.Itoa(i))
	}
	return texts
}

// GetTenant is GET /v1/admin/tenants/{tenantId}.
func (s *Server) GetTenant(c echo.Context, tenantID Id, params GetTenantParams) error {
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
	t, err := s.Directory.Tenant(ctx, id)
	if err != nil {
		return fmt.Errorf("tenant %q: %w", clip(tenantID, event.MaxIDLength), err)
	}
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, viewTenant(t))
}

type tenantView struct {
	ID           event.TenantID `json:"tenantId"`
	Name         string         `json:"name"`
	TimeZone     string         `json:"timeZone"`
	Currency     string         `json:"currency"`
	Hosts        []string       `json:"hosts"`
	Slug         optional       `json:"slug"`
	Status       tenant.Status  `json:"status"`
	StatusReason optional       `json:"statusReason"`
}

func viewTenant(t tenant.Tenant) tenantView {
	return tenantView{t.ID, t.Name, t.TimeZone, t.Currency, t.Hosts, optional(t.Slug), t.Status, optional(t.Reason)}
}

type createdKeyView struct {
	ID  event.KeyID   `json:"id"`
	Key tenant.Secret `json:"key"`
}

// CreateKey is POST /v1/admin/keys.
func (s *Server) CreateKey(c echo.Context) error {
	var k app.NewKey
	err := readObject(c, []string{"kind", "tenantId", "name", "expiresAt"}, func(d *decoder, v []jsontext.Value) {
		if !absent(v[0]) {
			kind, _ := d.str(v[0], "/kind")
			k.Kind = tenant.KeyKind(kind)
		}
		if !absentOrNull(v[1]) {
			id, _ := d.str(v[1], "/tenantId")
			k.Tenant = event.TenantID(id)
		}
		if !absent(v[2]) {
			k.Name, _ = d.str(v[2], "/name")
		}
		k.ExpiresAt = d.optionalInstant(v[3], "/expiresAt", "expiresAt")
	})
	if err != nil {
		return err
	}
	if err := about(c, k.Tenant); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	id, secret, err := s.Ledger.CreateKey(ctx, k, s.Random, admin(c))
	if err != nil {
		return err
	}
	c.Response().Header().Set("Cache-Control", "no-store") // the only time that the secret travels
	return writeJSON(c, http.StatusCreated, createdKeyView{id, secret})
}

// ListKeys is GET /v1/admin/keys.
func (s *Server) ListKeys(c echo.Context, params ListKeysParams) error {
	limit, cursor, err := page(params.Limit, params.Cursor)
	if err != nil {
		return err
	}
	if err := s.await(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	keys, at, err := s.Keys.Keys(ctx, limit, cursor)
	if err != nil {
		return fmt.Errorf("list keys: %w", err)
	}
	showPosition(c, at)
	return writeJSON(c, http.StatusOK, listOf(keys.Items, keys.NextCursor, viewKey))
}

type keyView struct {
	ID         event.KeyID    `json:"id"`
	Kind       tenant.KeyKind `json:"kind"`
	Tenant     optional       `json:"tenantId"`
	Name       string         `json:"name"`
	CreatedAt  instant        `json:"createdAt"`
	ExpiresAt  instant        `json:"expiresAt"`
	LastUsedAt instant        `json:"lastUsedAt"`
	RevokedAt  instant        `json:"revokedAt"`
}

func viewKey(k *tenant.Key) keyView {
	return keyView{k.ID, k.Kind, optional(k.Tenant), k.Name, instant(k.CreatedAt), instant(k.ExpiresAt), instant(k.LastUsed), instant(k.RevokedAt)}
}

// RevokeKey is DELETE /v1/admin/keys/{id}.
func (s *Server) RevokeKey(c echo.Context, id string) error {
	ctx, cancel := work(c)
	defer cancel()
	if err := s.Ledger.RevokeKey(ctx, event.KeyID(id), admin(c)); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// PutCatalog is PUT /v1/admin/catalog.
func (s *Server) PutCatalog(c echo.Context, params PutCatalogParams) error {
	f, err := formatOf(c.Request().Header)
	if err != nil {
		return err
	}
	if f != plainJSON && f != yamlText {
		return refuse(codeUnsupported, "A catalog is sent as application/yaml or application/json.")
	}
	body, err := readOne(c.Request(), nil)
	if err != nil {
		return err
	}
	next, err := catalog.Parse(body)
	if err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	change, err := s.Ledger.ApplyCatalog(ctx, next, params.DryRun != nil && *params.DryRun, admin(c))
	if err != nil {
		return err
	}
	at := change.Position
	if !change.Applied {
		if at, err = s.Positions.Shown(ctx, ""); err != nil {
			return fmt.Errorf("read the position: %w", err)
		}
	}
	showPosition(c, at)
	view := catalogChangeView{Applied: change.Applied, Changes: change.Changes}
	if change.Revision != eventstore.NoStream {
		view.Revision = &change.Revision
	}
	return writeJSON(c, http.StatusOK, view)
}

type catalogChangeView struct {
	Applied  bool                 `json:"applied"`
	Revision *eventstore.Revision `json:"revision"`
	Changes  []catalog.Change     `json:"changes"`
}

// GetCatalog is GET /v1/admin/catalog.
func (s *Server) GetCatalog(c echo.Context, params GetCatalogParams) error {
	if _, err := s.awaitDirectory(c, params.MinPosition, params.WaitMs); err != nil {
		return err
	}
	ctx, cancel := work(c)
	defer cancel()
	at, err := s.Positions.Shown(ctx, "")
	if err != nil {
		return fmt.Errorf("read the position: %w", err)
	}
	current, err := s.Directory.Catalog(ctx)
	if err != nil {
		return err
	}
	if current.Revision == eventstore.NoStream {
		return refuse(codeNotFound, "No catalog is applied yet.")
	}
	showPosition(c, at)
	c.Response().Header().Set(headerCatalogRevision, strconv.FormatInt(int64(current.Revision), 10))
	return writeBody(c, http.StatusOK, current.Canonical())
}
