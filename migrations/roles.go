package migrations

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ensureRoles makes what a database does not contain, so that no copy and no dump of it brings it along: the roles, which
// belong to the server, and the right to create schemas, which belongs to the database. Other databases of the server may
// do the same at the same time. An administrator may have done it beforehand: then nothing is changed, and the user who
// connects needs no privilege for it. Otherwise the error says what the administrator has to run.
func ensureRoles(ctx context.Context, config *pgx.ConnConfig) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var (
		user, database, schema string
		version                int
	)
	if err := conn.QueryRow(ctx, `select quote_ident(session_user), quote_ident(current_database()), quote_ident(current_schema()),
		current_setting('server_version_num')::int`).Scan(&user, &database, &schema, &version); err != nil {
		return fmt.Errorf("ask who connects where: %w", err)
	}
	membership := "set" // to become the role
	if version < 160000 {
		membership = "member"
	}
	type need struct{ holds, statement string }
	var needs []need
	for _, role := range []string{"tollgate_log", "tollgate_projector", "tollgate_reader"} {
		needs = append(needs,
			need{`exists (select from pg_roles where rolname = '` + role + `')`, `create role ` + role},
			need{`pg_has_role(session_user, '` + role + `', '` + membership + `')`, `grant ` + role + ` to ` + user},
			need{`has_schema_privilege('` + role + `', current_schema(), 'usage')`, `grant usage on schema ` + schema + ` to ` + role},
		)
	}
	needs = append(needs,
		need{`has_schema_privilege('tollgate_projector', current_schema(), 'create')`, `grant create on schema ` + schema + ` to tollgate_projector`},
		need{`has_database_privilege('tollgate_projector', current_database(), 'create')`, `grant create on database ` + database + ` to tollgate_projector`},
	)
	var missing []string
	var refused error
	for range attempts {
		missing, refused = nil, nil
		for _, n := range needs {
			var holds bool
			ask := func() bool { return conn.QueryRow(ctx, `select `+n.holds).Scan(&holds) == nil && holds }
			if ask() {
				continue
			}
			_, err := conn.Exec(ctx, n.statement)
			if ask() {
				continue
			}
			missing = append(missing, n.statement)
			if refused == nil {
				refused = err
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if conn.IsClosed() {
			return fmt.Errorf("prepare the database: %w", refused)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return &unpreparedError{user, database, missing, refused}
}

// Another process that does the same makes statements fail, and is seen a moment later.
const (
	attempts = 5
	pause    = 20 * time.Millisecond
)

// unpreparedError: the user who connects may not run the statements.
type unpreparedError struct {
	user, database string // quoted
	statements     []string
	first          error // may be nil
}

func (e *unpreparedError) Error() string {
	text := fmt.Sprintf("%s may not prepare the database; let an administrator run in database %s: %s", e.user, e.database, strings.Join(e.statements, "; "))
	if e.first != nil {
		text += " (" + e.first.Error() + ")"
	}
	return text
}

func (e *unpreparedError) Unwrap() error { return e.first }
