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
	Source        string `placeholder:"NAME" help:"Whose list it is; the file's name where none is given."`
	From          string `placeholder:"DATE" help:"First day that the prices hold for, such as 2026-04-05, UTC; today where none is given."`
	DryRun        bool   `help:"Only print what would change."`
	AllowJumps    bool   `help:"Import it although prices jump, drop to zero or most models vanish."`
	MaxJump       string `default:"3" placeholder:"N" help:"Factor by which a price may change at once."`
	RemoveMissing bool   `help:"End the cost of models that the list lacks, of the providers that it names."`
}

// Help is kong's long help of the command.
func (importCostsCommand) Help() string {
	return `Prices are in US dollars, and read to the last digit. Two forms are known:

  [{"provider": "openai", "model": "gpt-4.1", "inputPerMillion": "2.00", "cachedInputPerMillion": "0.50", "outputPerMillion": "8.00"}]
  {"openai/gpt-4.1": {"input_cost_per_token": 2e-06, "cache_read_input_token_cost": 5e-07, "output_cost_per_token": 8e-06}}

A line for each model says what changed: + added, ~ changed, ! jumps, - removed, x refused because a newer price is known.
Prices that are not in the list stay what they are. The catalog's costs, which are negotiated ones, go before the list's.`
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
		return fmt.Errorf("--max-jump %s: a number of at least 1 is needed", c.MaxJump)
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
		return fmt.Errorf("nothing was imported: %w; look at the lines with !, and use --allow-jumps if they are right", jump)
	case c.DryRun:
		fmt.Println("Nothing was imported.")
		if err := change.Guard(); err != nil && !c.AllowJumps {
			fmt.Printf("Without --allow-jumps it would be refused: %s.\n", err)
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
	in := os.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return costs.List{}, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, costs.MaxText+1))
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

// some are the first names of a list that may be long.
func some(names []string) string {
	const shown = 5
	text := strings.Join(names[:min(shown, len(names))], ", ")
	if len(names) > shown {
		text += ", ..."
	}
	return text
}

// priceCells are the prices of a model as columns; those that change have both.
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
	Provider string `help:"Only of this provider."`
	Model    string `help:"Only of this model."`
	On       string `placeholder:"DATE" help:"Only what holds on this day; all versions where none is given."`
}

func (c listCostsCommand) Run(ctx context.Context, log *slog.Logger) error {
	on := catalog.Date(c.On)
	if on != "" && !on.Valid() {
		return fmt.Errorf("--on %s: no day such as %s", c.On, time.DateOnly)
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
