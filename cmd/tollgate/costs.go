package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/catalog"
	"github.com/tollgate-io/tollgate/domain/costs"
	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/money"
)

type costsCommand struct {
	Import importCostsCommand `cmd:"" help:"Import a price list into the cost book, and print what changed."`
	List   listCostsCommand   `cmd:"" help:"List what providers charge."`
}

type importCostsCommand struct {
	settings
	File          string `arg:"" help:"Price list, JSON; - for standard input."`
	Source        string `placeholder:"NAME" help:"Name of the list; default: the file's name."`
	From          string `placeholder:"DATE" help:"First day of the prices, such as 2026-04-05, UTC; default: today."`
	DryRun        bool   `help:"Print what would change, and import nothing."`
	AllowJumps    bool   `help:"Import even if prices jump, drop to zero or most models vanish."`
	MaxJump       string `default:"3" placeholder:"N" help:"Largest factor by which a price may change at once."`
	RemoveMissing bool   `help:"End the prices of models that are missing from the list, for the providers in it."`
}

// Help is kong's long help of the command.
func (importCostsCommand) Help() string {
	return `Prices are in US dollars and are read exactly. Two forms of list are supported:

  [{"provider": "openai", "model": "gpt-4.1", "inputPerMillion": "2.00", "cachedInputPerMillion": "0.50", "outputPerMillion": "8.00"}]
  {"openai/gpt-4.1": {"input_cost_per_token": 2e-06, "cache_read_input_token_cost": 5e-07, "output_cost_per_token": 8e-06}}

A line for each model says what changed: + added, ~ changed, ! jumps, - removed, x refused because a newer price is known.
Prices that are not in the list stay as they are. Costs in the catalog, which are negotiated, take precedence over the list.`
}

func (c importCostsCommand) Run(ctx context.Context, log *slog.Logger) error {
	list, err := readPriceList(c.File)
	if err != nil {
		return err
	}
	i := app.CostImport{List: list, Source: c.Source, DryRun: c.DryRun, AllowJumps: c.AllowJumps,
		Options: costs.Options{From: catalog.Date(c.From), RemoveMissing: c.RemoveMissing}}
	if i.Source == "" {
		i.Source = filepath.Base(c.File)
		if c.File == "-" {
			i.Source = "stdin"
		}
	}
	if i.MaxJump, err = money.ParseQuantity(c.MaxJump); err != nil || i.MaxJump.Cmp(money.Int(1)) < 0 {
		return fmt.Errorf("--max-jump %s: must be a number of at least 1", c.MaxJump)
	}
	s, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer s.Close()
	change, err := s.Costs.ImportCosts(ctx, i, "cli")
	var jump *costs.JumpError
	if err != nil && !errors.As(err, &jump) {
		return err
	}
	printCostChange(os.Stdout, change, list)
	switch refused := change.Counts[costs.Refused]; {
	case jump != nil:
		return fmt.Errorf("nothing was imported: %w; check the lines with !, and use --allow-jumps if they are right", jump)
	case c.DryRun:
		fmt.Println("Nothing was imported.")
		if err := change.Guard(); err != nil && !c.AllowJumps {
			fmt.Printf("Without --allow-jumps the import would be refused: %s.\n", err)
		}
	case change.Repeated:
		fmt.Printf("This list was imported from %s on before; nothing to change.\n", change.From)
	case refused > 0:
		return fmt.Errorf("%d models were refused, because the list is older than their newest prices; all others were imported", refused)
	case !change.Applied:
		fmt.Println("Nothing to change.")
	default:
		fmt.Printf("Imported from %s on, sha256 %s.\n", change.From, list.Hash)
	}
	return nil
}

func readPriceList(file string) (costs.List, error) {
	text, err := readInput(file, costs.MaxText+1)
	if err != nil {
		return costs.List{}, fmt.Errorf("read the price list: %w", err)
	}
	list, err := costs.ParseList(text)
	if err != nil {
		return costs.List{}, fmt.Errorf("%s: %w", file, err)
	}
	return list, nil
}

// printCostChange prints a line for each model that changes, and totals.
func printCostChange(out io.Writer, change app.CostChange, list costs.List) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	marks := map[costs.Op]string{costs.Added: "+", costs.Changed: "~", costs.Removed: "-", costs.Refused: "x"}
	var unlisted []string
	for i := range change.Changes {
		c := &change.Changes[i]
		name := c.Provider + "/" + c.Model
		if c.Op == costs.Unlisted {
			unlisted = append(unlisted, name)
			continue
		}
		mark, note := marks[c.Op], c.Detail
		if c.Jump != "" {
			mark, note = "!", c.Jump
		}
		_, _ = fmt.Fprintf(w, "%s %s\t%s\n", mark, name, strings.TrimRight(priceCells(c.Old, c.New)+"\t"+note, "\t"))
	}
	_ = w.Flush()
	if change.Repeated {
		return
	}
	_, _ = fmt.Fprintf(out, "%d added, %d changed, %d removed, %d unchanged, %d refused\n", change.Counts[costs.Added], change.Counts[costs.Changed],
		change.Counts[costs.Removed], change.Unchanged, change.Counts[costs.Refused])
	if len(unlisted) > 0 {
		_, _ = fmt.Fprintf(out, "%d not in the list keep their price: %s\n", len(unlisted), some(unlisted))
	}
	for _, reason := range []string{costs.NoTokenPrices, costs.OtherUnit, costs.NoProvider, costs.NoName, costs.Ambiguous} {
		var entries []string
		for _, s := range list.Skipped {
			if s.Reason == reason {
				entries = append(entries, s.Entry)
			}
		}
		if len(entries) > 0 {
			_, _ = fmt.Fprintf(out, "%d skipped, %s: %s\n", len(entries), reason, some(entries))
		}
	}
}

// some lists the first few names of a list that may be long.
func some(names []string) string {
	const shown = 5
	text := strings.Join(names[:min(shown, len(names))], ", ")
	if len(names) > shown {
		text += ", ..."
	}
	return text
}

// priceCells are the prices of a model as columns; a price that changes has the old and the new one.
func priceCells(before, now *event.ModelCost) string {
	cell := func(name string, of func(*event.ModelCost) money.Decimal) string {
		switch {
		case before == nil:
			return name + " " + of(now).Fixed(2)
		case now == nil || of(before).Equal(of(now)):
			return name + " " + of(before).Fixed(2)
		default:
			return name + " " + of(before).Fixed(2) + " -> " + of(now).Fixed(2)
		}
	}
	return cell("in", func(c *event.ModelCost) money.Decimal { return c.Input.Decimal }) + "\t" +
		cell("cached", func(c *event.ModelCost) money.Decimal { return c.Cached.Decimal }) + "\t" +
		cell("out", func(c *event.ModelCost) money.Decimal { return c.Output.Decimal })
}

type listCostsCommand struct {
	settings
	Provider string `help:"Only this provider."`
	Model    string `help:"Only this model."`
	On       string `placeholder:"DATE" help:"Only prices of this day; default: all versions."`
}

func (c listCostsCommand) Run(ctx context.Context, log *slog.Logger) error {
	on := catalog.Date(c.On)
	if on != "" && !on.Valid() {
		return fmt.Errorf("--on %s: must be a day such as %s", c.On, time.DateOnly)
	}
	s, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer s.Close()
	book, err := s.Costs.Current(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	versions := book.Versions(costs.Query{Provider: c.Provider, Model: c.Model, On: on})
	for _, v := range versions {
		until := string(v.Until)
		if until == "" {
			until = "open"
		}
		_, _ = fmt.Fprintf(w, "%s/%s\t%s .. %s\tin %s\tcached %s\tout %s\t%s\n", v.Provider, v.Model, v.From, until, v.InputPerMillion.Fixed(2),
			v.CachedInputPerMillion.Fixed(2), v.OutputPerMillion.Fixed(2), strings.TrimSpace(v.Source+" "+v.Hash[:min(12, len(v.Hash))]))
	}
	if len(versions) == 0 {
		_, _ = fmt.Fprintln(w, "No cost is known for that.")
	}
	return w.Flush()
}
