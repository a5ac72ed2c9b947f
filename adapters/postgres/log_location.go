package postgres

import (
	"context"
	"errors"
	"fmt"
)

// ErrOtherLog: the read models of this database were folded from another log. Their checkpoints mean nothing on this one.
var ErrOtherLog = errors.New("the read models of this database are of another log")

// CheckHasNoLog makes sure that this database, which is to hold the read models of a log in another place, has never had a log of
// its own. Error: ErrOtherLog.
func (p *Pools) CheckHasNoLog(ctx context.Context) error {
	var own bool
	if err := p.Log.QueryRow(ctx, `select exists (select from log_settings)`).Scan(&own); err != nil {
		return fmt.Errorf("ask for a log: %w", err)
	}
	if own {
		return fmt.Errorf("%w: it has a log of its own; a log in another place needs an empty database", ErrOtherLog)
	}
	return nil
}

// CheckLogHere makes sure that the read models in this database were not folded from a log in another place. Call it before the
// log is opened.
// Error: ErrOtherLog.
func (p *Pools) CheckLogHere(ctx context.Context) error {
	if err := p.CheckHasNoLog(ctx); !errors.Is(err, ErrOtherLog) {
		if err != nil {
			return err
		}
		var folded bool
		if err := p.Apply.QueryRow(ctx, `select exists (select from checkpoints where "offset" > 0)`).Scan(&folded); err != nil {
			return fmt.Errorf("ask for checkpoints: %w", err)
		}
		if folded {
			return fmt.Errorf("%w: it never had a log of its own", ErrOtherLog)
		}
	}
	return nil
}
