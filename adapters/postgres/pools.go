package postgres

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Pools are the connections of a process, apart by purpose: one starved pool must not starve another.
type Pools struct {
	Log, Apply, Read *pgxpool.Pool
}

// logPool is enough for one commit per partition, readers of the log, and the listener.
const logPool = 12

// OpenPools opens the pools; read and apply are the sizes of those of the read models.
func OpenPools(ctx context.Context, url string, read, apply int32) (*Pools, error) {
	p := &Pools{}
	for _, open := range []func() error{
		func() (err error) { p.Log, err = NewLogPool(ctx, url, logPool); return err },
		func() (err error) { p.Apply, err = NewReadModelPool(ctx, url, apply); return err },
		func() (err error) { p.Read, err = NewReadModelPool(ctx, url, read); return err },
	} {
		if err := open(); err != nil {
			p.Close()
			return nil, err
		}
	}
	return p, nil
}

// Close waits until all connections are given back.
func (p *Pools) Close() {
	for _, pool := range []*pgxpool.Pool{p.Log, p.Apply, p.Read} {
		if pool != nil {
			pool.Close()
		}
	}
}
