package api

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/eventstore"
)

const headerCatalogRevision = "Tollgate-Catalog-Revision"

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
