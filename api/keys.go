package api

import (
	"fmt"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/tenant"
)

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
