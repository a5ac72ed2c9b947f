package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tollgate-io/tollgate/domain/catalog"
)

type applyCommand struct {
	settings
	File   string `short:"f" required:"" placeholder:"FILE" help:"Catalog, YAML or JSON; - for standard input."`
	DryRun bool   `help:"Print what would change, and apply nothing."`
}

func (c applyCommand) Run(ctx context.Context, log *slog.Logger) error {
	next, err := readCatalog(c.File)
	if err != nil {
		return err
	}
	s, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer s.Close()
	change, err := s.Ledger.ApplyCatalog(ctx, next, c.DryRun, "cli")
	if err != nil {
		return err
	}
	for _, ch := range change.Changes {
		switch ch.Op {
		case catalog.Added:
			fmt.Printf("+ %s: %s\n", ch.Path, ch.New)
		case catalog.Removed:
			fmt.Printf("- %s: %s\n", ch.Path, ch.Old)
		default:
			fmt.Printf("~ %s: %s -> %s\n", ch.Path, ch.Old, ch.New)
		}
	}
	switch {
	case c.DryRun:
		fmt.Printf("%d changes; nothing was applied.\n", len(change.Changes))
	case change.Applied:
		fmt.Printf("%d changes; catalog revision %d is in force.\n", len(change.Changes), change.Revision)
	default:
		fmt.Printf("Nothing to change; catalog revision %d is in force.\n", change.Revision)
	}
	return nil
}

// maxCatalog bounds what is read, in bytes; the catalog itself has a smaller bound.
const maxCatalog = 8 << 20

func readCatalog(file string) (catalog.Catalog, error) {
	text, err := readInput(file, maxCatalog)
	if err != nil {
		return catalog.Catalog{}, fmt.Errorf("read the catalog: %w", err)
	}
	c, err := catalog.Parse(text)
	if err != nil {
		return catalog.Catalog{}, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}
