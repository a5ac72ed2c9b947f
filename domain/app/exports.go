package app

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/tollgate-io/tollgate/domain/billing"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/export"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

// Encoder writes the rows of one file.
type Encoder interface {
	Write(row export.Row) error
	Close() error // writes the end of the file
}

// NewEncoder begins a file. An encoder keeps no row for longer than the call, and bounded memory.
type NewEncoder func(f export.Format, d *export.Dataset, w io.Writer) (Encoder, error)

// Facts reads what tenants used.
type Facts interface {
	// FactsShown is how far the facts of a partition can be read.
	FactsShown(ctx context.Context, partition int) (eventstore.Position, error)
	// Facts visits a tenant's facts and corrections at a position or before it: facts that occurred, and corrections
	// that were recorded, in [from, to), in the order of these instants. Zero is no bound.
	Facts(ctx context.Context, t event.TenantID, from, to time.Time, at eventstore.Position, visit func(event.Decoded) error) error
}

// TenantLister lists tenants in the order of their ids, after one of them.
type TenantLister interface {
	Tenants(ctx context.Context, after event.TenantID, limit int) ([]event.TenantID, error)
}

// tenantsPage is how many tenants are listed at once.
const tenantsPage = 500

// EachTenant visits all tenants, until a visit fails.
func EachTenant(ctx context.Context, lister TenantLister, visit func(event.TenantID) error) error {
	for after := event.TenantID(""); ; {
		page, err := lister.Tenants(ctx, after, tenantsPage)
		if err != nil {
			return fmt.Errorf("list tenants: %w", err)
		}
		for _, t := range page {
			if err := visit(t); err != nil {
				return err
			}
		}
		if len(page) < tenantsPage {
			return nil
		}
		after = page[len(page)-1]
	}
}

// Books lists what was invoiced and posted up to a position, oldest first; nothing for a tenant that does not exist.
type Books interface {
	// InvoicesAt leaves out the tenant's name.
	InvoicesAt(ctx context.Context, t event.TenantID, at eventstore.Position) ([]export.Invoice, error)
	JournalAt(ctx context.Context, t event.TenantID, at eventstore.Position) ([]billing.Transfer, error)
}

// LogHeads is the length of the log.
type LogHeads interface {
	Partitions() int
	Head(ctx context.Context, partition int) (eventstore.Position, error)
}

// ExportsConfig is what exports work with. All of it is required.
type ExportsConfig struct {
	Log        LogHeads
	Directory  Directory
	Tenants    TenantLister
	Facts      Facts
	Books      Books
	NewEncoder NewEncoder
	Issuer     export.Issuer
	Now        func() time.Time
}

// Exports writes data sets for finance.
type Exports struct{ c ExportsConfig }

// NewExports makes it.
func NewExports(c ExportsConfig) *Exports { return &Exports{c} }

// Export is one that was asked for. What it has is fixed: the ledger as of a position of each partition.
type Export struct {
	c     *ExportsConfig
	query export.Query
	at    map[int]eventstore.Position
}

// Open fixes what an export has. Errors: *invalid.Error; tenant.ErrUnknown; those of the store.
func (x *Exports) Open(ctx context.Context, q export.Query) (*Export, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	e := &Export{c: &x.c, query: q, at: map[int]eventstore.Position{}}
	first, last := 0, x.c.Log.Partitions()-1
	if q.Tenant != "" {
		if _, err := x.c.Directory.Tenant(ctx, q.Tenant); err != nil {
			return nil, fmt.Errorf("tenant %q: %w", invalid.Shorten(string(q.Tenant)), err)
		}
		first = e.partition(q.Tenant)
		last = first
	}
	for p := first; p <= last; p++ {
		shown := x.c.Log.Head
		if q.Dataset == export.Usage {
			shown = x.c.Facts.FactsShown
		}
		at, err := shown(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("the position of an export: %w", err)
		}
		e.at[p] = at
	}
	return e, nil
}

func (e *Export) partition(t event.TenantID) int {
	return eventstore.PartitionOf(string(t), e.c.Log.Partitions())
}

// Position is that of the manifest.
func (e *Export) Position() string {
	var all []string
	for p := range e.c.Log.Partitions() {
		if at, ok := e.at[p]; ok {
			all = append(all, at.String())
		}
	}
	return strings.Join(all, ",")
}

// exportBuffer is how much is given to the writer at once.
const exportBuffer = 64 << 10

// Write writes the file, and says what it has written: with an error the file is not whole. Nothing is written before the first
// part of it is complete. progress, which may be nil, gets the rows and bytes so far.
func (e *Export) Write(ctx context.Context, w io.Writer, progress func(rows, bytes int64)) (export.Manifest, error) {
	dataset := export.Of(e.query.Dataset)
	m := export.Manifest{Query: e.query, Position: e.Position(), CreatedAt: e.c.Now()}
	m.Totals = export.Totals{}
	out := &sealed{w: bufio.NewWriterSize(w, exportBuffer), hash: sha256.New()}
	encoder, err := e.c.NewEncoder(e.query.Format, dataset, out)
	if err != nil {
		return m, fmt.Errorf("begin the file: %w", err)
	}
	err = e.rows(ctx, func(row export.Row) error {
		if err := dataset.Check(row); err != nil {
			return err
		}
		m.Add(dataset, row)
		if progress != nil && m.Rows%1000 == 0 {
			progress(m.Rows, out.bytes)
		}
		return encoder.Write(row)
	})
	if err != nil {
		return m, fmt.Errorf("export of %s: %w", e.query.Dataset, err)
	}
	if err := encoder.Close(); err != nil {
		return m, fmt.Errorf("end the file: %w", err)
	}
	if err := out.w.Flush(); err != nil {
		return m, fmt.Errorf("end the file: %w", err)
	}
	if progress != nil {
		progress(m.Rows, out.bytes)
	}
	m.Bytes, m.SHA256 = out.bytes, hex.EncodeToString(out.hash.Sum(nil))
	return m, nil
}

// sealed counts and hashes what goes through.
type sealed struct {
	w     *bufio.Writer
	hash  hash.Hash
	bytes int64
}

func (s *sealed) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.hash.Write(b[:n])
	s.bytes += int64(n)
	return n, err
}

// rows visits all rows, tenant by tenant.
func (e *Export) rows(ctx context.Context, visit func(export.Row) error) error {
	if e.query.Tenant != "" {
		return e.rowsOf(ctx, e.query.Tenant, visit)
	}
	return EachTenant(ctx, e.c.Tenants, func(t event.TenantID) error {
		if err := e.rowsOf(ctx, t, visit); err != nil {
			return fmt.Errorf("tenant %q: %w", invalid.Shorten(string(t)), err)
		}
		return nil
	})
}

func (e *Export) rowsOf(ctx context.Context, t event.TenantID, visit func(export.Row) error) error {
	at := e.at[e.partition(t)]
	switch e.query.Dataset {
	case export.Usage:
		return e.c.Facts.Facts(ctx, t, e.query.From, e.query.To, at, func(fact event.Decoded) error {
			return visitAll(export.UsageRows(fact), visit)
		})
	case export.Journal:
		all, err := e.c.Books.JournalAt(ctx, t, at)
		if err != nil {
			return err
		}
		for i := range all {
			if !e.query.Covers(all[i].PostedAt) {
				continue
			}
			if err := visit(export.JournalRow(&all[i])); err != nil {
				return err
			}
		}
		return nil
	default:
		return e.invoiceRows(ctx, t, at, visit)
	}
}

func (e *Export) invoiceRows(ctx context.Context, t event.TenantID, at eventstore.Position, visit func(export.Row) error) error {
	all, err := e.c.Books.InvoicesAt(ctx, t, at)
	if err != nil || len(all) == 0 {
		return err
	}
	of, err := e.c.Directory.Tenant(ctx, t)
	if err != nil {
		return err
	}
	for i := range all {
		inv := &all[i]
		inv.TenantName = of.Name
		var rows []export.Row
		if e.query.Dataset == export.Focus {
			rows = export.FocusRows(e.query, e.c.Issuer, inv)
		} else if e.query.Covers(inv.FinalisedAt) {
			rows = export.InvoiceRows(inv)
		}
		if err := visitAll(rows, visit); err != nil {
			return err
		}
	}
	return nil
}

func visitAll(rows []export.Row, visit func(export.Row) error) error {
	for _, row := range rows {
		if err := visit(row); err != nil {
			return err
		}
	}
	return nil
}
