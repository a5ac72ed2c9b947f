package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tollgate-io/tollgate/adapters/pgserver"
	pglog "github.com/tollgate-io/tollgate/adapters/postgres/log"
)

// bench is one run: a PostgreSQL server of its own in a folder of its own, and what was measured so far.
type bench struct {
	options
	progress  io.Writer
	started   time.Time
	dir       string
	server    *pgserver.Server
	version   string
	templates map[int]template // by the number of partitions
	databases int
	large     *largeLog // of history, size and rebuild; nil until it is needed
	closers   []func()
	report    report
}

// template is a database that others are copied from: a ledger with its catalog, its tenants and a key, without events.
type template struct {
	name string
	key  string
}

func start(ctx context.Context, o options, progress io.Writer) (_ *bench, err error) {
	b := &bench{options: o, progress: progress, started: time.Now(), templates: map[int]template{}}
	if b.dir, err = os.MkdirTemp("", "tollgate-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	b.say("starting PostgreSQL in %s", b.dir)
	// With fsync, as in production: the time of a commit that does not reach the disk means nothing.
	if b.server, err = pgserver.Start(ctx, pgserver.Config{Dir: b.dir, Fsync: true}); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, b.server.URL())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	return b, conn.QueryRow(ctx, `select split_part(current_setting('server_version'), ' ', 1)`).Scan(&b.version)
}

const cleanupTimeout = 60 * time.Second

// close stops and removes everything, also after an interrupted run.
func (b *bench) close() {
	b.closeTo(0)
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	var err error
	if b.server != nil {
		err = b.server.Stop(ctx)
	}
	// The cluster may be outside the folder, where its user has access.
	err = errors.Join(err, pgserver.Remove(ctx, b.dir), os.RemoveAll(b.dir))
	if err != nil {
		b.say("cleaning up: %v", err)
	}
}

// closeTo closes everything opened after the first n, last first.
func (b *bench) closeTo(n int) {
	for i := len(b.closers) - 1; i >= n; i-- {
		b.closers[i]()
		b.closers = b.closers[:i]
	}
}

// scope returns a function that closes all that is opened from now on.
func (b *bench) scope() (end func()) {
	n := len(b.closers)
	return func() { b.closeTo(n) }
}

func (b *bench) onClose(f func()) { b.closers = append(b.closers, f) }

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, "%5.1f s  "+format+"\n", append([]any{time.Since(b.started).Seconds()}, args...)...)
}

// admin runs a statement outside of the databases that are measured.
func (b *bench) admin(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, b.server.URL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, statement)
	return err
}

// database creates a database and returns its URL. It is dropped when the scope ends: the next
// checkpoint would still write tables that are no longer used.
func (b *bench) database(ctx context.Context, from string) (url string, err error) {
	b.databases++
	name := fmt.Sprintf("bench_%d", b.databases)
	if err := b.admin(ctx, "create database "+name+" template "+from); err != nil {
		return "", fmt.Errorf("create a database: %w", err)
	}
	b.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		_ = b.admin(ctx, "drop database "+name+" with (force)") // the whole folder is removed at the end
	})
	return b.server.URLFor(name), nil
}

// empty is the template of databases for baselines.
const empty = "template1"

// ledgerTemplate makes the template for a number of partitions, once.
func (b *bench) ledgerTemplate(ctx context.Context, partitions int) (template, error) {
	if t, ok := b.templates[partitions]; ok {
		return t, nil
	}
	t := template{name: fmt.Sprintf("ledger_%d", partitions)}
	if err := b.admin(ctx, "create database "+t.name); err != nil {
		return t, err
	}
	key, err := prepare(ctx, b.server.URLFor(t.name), partitions)
	if err != nil {
		return t, fmt.Errorf("prepare a ledger: %w", err)
	}
	t.key = string(key)
	b.templates[partitions] = t
	return t, nil
}

// ledgerDatabase is a database with an empty ledger of the default number of partitions.
func (b *bench) ledgerDatabase(ctx context.Context) (url, key string, err error) {
	t, err := b.ledgerTemplate(ctx, pglog.DefaultPartitions)
	if err != nil {
		return "", "", err
	}
	url, err = b.database(ctx, t.name)
	return url, t.key, err
}
