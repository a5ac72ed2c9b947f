package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/tollgate-io/tollgate/adapters/eventstoredb"
	"github.com/tollgate-io/tollgate/adapters/pgserver"
	"github.com/tollgate-io/tollgate/adapters/postgres"
	pglog "github.com/tollgate-io/tollgate/adapters/postgres/log"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/migrations"
)

// InPostgres is the event store of a ledger whose log is in its database.
const InPostgres = "postgres"

// ErrNoLog says that there is no log where one was expected.
var ErrNoLog = errors.New("there is no log")

// checkEventStore refuses what cannot be a log, before anything is started.
func checkEventStore(where string) (err error) {
	switch {
	case where == InPostgres:
	case eventstoredb.IsURL(where):
		_, _, err = eventstoredb.ParseURL(where)
	default:
		err = fmt.Errorf("%q is neither postgres nor the URL of an EventStoreDB", Redacted(where))
	}
	if err != nil {
		return fmt.Errorf("TOLLGATE_EVENT_STORE: %w", err)
	}
	return nil
}

// openLog opens the log. The read models are in PostgreSQL, wherever the log is.
func (s *Stack) openLog(ctx context.Context, pools *postgres.Pools) error {
	if s.config.EventStore != InPostgres {
		if err := pools.CheckHasNoLog(ctx); err != nil {
			return err
		}
		log, err := eventstoredb.Open(ctx, eventstoredb.Config{URL: s.config.EventStore})
		if err != nil {
			return fmt.Errorf("TOLLGATE_EVENT_STORE: %w", err)
		}
		s.Log = log
		s.add(log.Close)
		return nil
	}
	if err := pools.CheckLogHere(ctx); err != nil {
		return err
	}
	log, err := pglog.Open(ctx, pools.Log, s.URL, pglog.Config{Partitions: s.config.Partitions})
	if err != nil {
		return err
	}
	s.Log = log
	s.add(log.Close)
	return nil
}

// LogConfig says where a log is that is opened by itself, without read models.
type LogConfig struct {
	At         string // a postgres:// URL, an esdb:// URL, or a data folder
	MustExist  bool   // ErrNoLog where there is none; false: it is created
	Partitions int    // of a new log in PostgreSQL; 0: the default
	Logger     *slog.Logger
}

// OpenLog opens a log by itself, to copy it or to copy into it. The caller calls close.
func OpenLog(ctx context.Context, c LogConfig) (_ eventstore.Copyable, closeLog func(), err error) {
	opened := &closers{}
	defer func() {
		if err != nil {
			opened.Close()
		}
	}()
	url := c.At
	switch scheme, _, isURL := strings.Cut(c.At, "://"); {
	case eventstoredb.IsURL(c.At):
		log, err := eventstoredb.Open(ctx, eventstoredb.Config{URL: c.At})
		if err != nil {
			return nil, nil, err
		}
		return log, log.Close, nil
	case !isURL:
		switch found, err := pgserver.Exists(c.At); {
		case err != nil:
			return nil, nil, err
		case c.MustExist && !found:
			return nil, nil, fmt.Errorf("%w in the folder %s", ErrNoLog, c.At)
		}
		if url, err = opened.useServer(ctx, c.At, c.Logger); err != nil {
			return nil, nil, err
		}
	case scheme != "postgres" && scheme != "postgresql":
		return nil, nil, fmt.Errorf("%q is neither a postgres:// nor an esdb:// URL, nor a folder", Redacted(c.At))
	}
	if err := migrations.Up(ctx, url); err != nil {
		return nil, nil, err
	}
	pools, err := postgres.OpenPools(ctx, url, 1, 1)
	if err != nil {
		return nil, nil, err
	}
	opened.add(pools.Close)
	if c.MustExist {
		switch err := pools.CheckHasNoLog(ctx); {
		case err == nil:
			return nil, nil, ErrNoLog
		case !errors.Is(err, postgres.ErrOtherLog):
			return nil, nil, err
		}
	}
	if err := pools.CheckLogHere(ctx); err != nil {
		return nil, nil, err
	}
	log, err := pglog.Open(ctx, pools.Log, url, pglog.Config{Partitions: c.Partitions})
	if err != nil {
		return nil, nil, err
	}
	opened.add(log.Close)
	return log, opened.Close, nil
}

// Redacted hides the credentials of a URL.
func Redacted(url string) string {
	scheme, rest, ok := strings.Cut(url, "://")
	if _, host, has := strings.Cut(rest, "@"); ok && has {
		return scheme + "://***@" + host
	}
	return url
}
