// Package pg holds what the log and the read models share: how they connect, how they pack a position, and what the
// server's errors mean.
package pg

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The roles of the pools. The migrations create them and say what they may do; the user who connects must be a member.
const (
	LogRole       = "tollgate_log"       // appends to the log and reads it
	ProjectorRole = "tollgate_projector" // owns the read models: folds, rebuilds, and asks about all tenants
	ReaderRole    = "tollgate_reader"    // serves requests: sees the rows of the tenant that is set
)

// LogParameters are the settings of the log's connections. A generic plan that only follows indexes stays right from the
// first event to the last: a plan made for a small table, or for the constants of one batch, would read the whole history
// once it has grown.
var LogParameters = map[string]string{
	"application_name":                    "tollgate log",
	"plan_cache_mode":                     "force_generic_plan",
	"enable_seqscan":                      "off",
	"enable_bitmapscan":                   "off",
	"enable_mergejoin":                    "off",
	"default_transaction_isolation":       "read committed",
	"synchronous_commit":                  "on",
	"lock_timeout":                        "5s",
	"statement_timeout":                   "30s",
	"idle_in_transaction_session_timeout": "10s",
	"jit":                                 "off",
}

// ReadModelParameters are the settings of the connections of read models.
var ReadModelParameters = map[string]string{
	"application_name":                    "tollgate read models",
	"default_transaction_isolation":       "read committed",
	"synchronous_commit":                  "off",
	"lock_timeout":                        "10s",
	"statement_timeout":                   "60s",
	"idle_in_transaction_session_timeout": "30s",
	"jit":                                 "off",
}

// OpenPool connects as a role, which RESET ROLE does not leave either. It refuses a role that row level security does not
// bind.
func OpenPool(ctx context.Context, url, role string, size int32, parameters map[string]string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parse database URL: %w", err)
	}
	config.MaxConns = size
	maps.Copy(config.ConnConfig.RuntimeParams, parameters)
	config.ConnConfig.RuntimeParams["role"] = role
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		var current string
		var unbound bool
		if err := conn.QueryRow(ctx, `select rolname, rolsuper or rolbypassrls from pg_roles where rolname = current_user`).Scan(&current, &unbound); err != nil {
			return fmt.Errorf("ask for the role: %w", err)
		}
		switch {
		case current != role: // a connection pooler in between may leave the parameter out
			return fmt.Errorf("the server takes the connection as %s", current)
		case unbound:
			return errors.New("row level security does not bind the role: it is a superuser or has bypassrls")
		}
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open connections as %s: %w", role, err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect as %s: %w", role, err)
	}
	return pool, nil
}
