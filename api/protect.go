package api

import (
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
)

var errTooMany = &problem{status: http.StatusServiceUnavailable, code: codeOverloaded, expected: true,
	detail: "This server has more requests than it takes on. Nothing was read or written. Try again later."}

// protect refuses what is beyond the bound of this process, before the key is looked at and the body is read.
func (s *Server) protect(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		path := c.Request().URL.RawPath // as it was sent, like the routes
		if s.limiter == nil || !strings.HasPrefix(path, "/v1/") && !strings.HasPrefix(path, "/ofrep/") || s.limiter.AllowN(s.Now(), 1) {
			return next(c)
		}
		s.metrics.refused.Inc()
		return errTooMany
	}
}
