// Package migrations owns the database schema: forward-only SQL files and what applies them.
package migrations

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed 0*.sql
var files embed.FS

// ReadModels holds the tables of each read model, by file name <read model>.sql. They are created once per generation,
// in a schema of their own.
//
//go:embed readmodels
var readModels embed.FS

// ReadModel returns the DDL of one read model, to be run with its generation's schema as search_path.
func ReadModel(name string) (string, error) {
	b, err := fs.ReadFile(readModels, "readmodels/"+name+".sql")
	return string(b), err
}

// Up brings the database to the newest schema, with the roles that work on it. Several processes may call it at once: a
// session lock lets one work and the others wait.
func Up(ctx context.Context, databaseURL string) error {
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return fmt.Errorf("parse database URL: %w", err)
	}
	if err := ensureRoles(ctx, config); err != nil {
		return fmt.Errorf("make the database's roles: %w", err)
	}
	db := stdlib.OpenDB(*config)
	defer func() { _ = db.Close() }()
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300)) // a look each second, for five minutes
	if err != nil {
		return fmt.Errorf("migration lock: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
