package pg

import (
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tollgate-io/tollgate/domain/eventstore"
)

// Unavailable wraps a failed call: whatever the database said, the caller can only try again. A hole in the log stays one.
func Unavailable(tried string, err error) error {
	if errors.Is(err, eventstore.ErrHole) {
		return fmt.Errorf("%s: %w", tried, err)
	}
	return fmt.Errorf("%w: %s: %w", eventstore.ErrUnavailable, tried, err)
}

// SQLState is the code of a server's error, "" for any other error.
func SQLState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// IsDataError reports that the statement was refused for what it was given; sending it again cannot help.
func IsDataError(err error) bool {
	state := SQLState(err)
	return len(state) == 5 && (state[:2] == "22" || slices.Contains([]string{"54000", "53400"}, state))
}
