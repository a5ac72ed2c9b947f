// Command tollgate is the usage and billing ledger. It owns the commands, their flags and what they print; package stack opens
// what they work on.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

type commands struct {
	Serve  serveCommand  `cmd:"" help:"Serve the API and run the projections."`
	Apply  applyCommand  `cmd:"" help:"Apply a catalog file as the configuration in force."`
	Import importCommand `cmd:"" help:"Import usage events from a CSV file."`
	Export exportCommand `cmd:"" help:"Export usage, invoices, the journal or FOCUS charges to a file with a manifest."`
	Costs  costsCommand  `cmd:"" help:"Import a price list of providers, or list what they charge."`
	Demo   demoCommand   `cmd:"" help:"Feed a realistic day of several tenants and print queries to try."`
	Key    keyCommand    `cmd:"" help:"Create an API key; opening the database is all it needs."`
	Replay replayCommand `cmd:"" help:"Rebuild read models from the log beside the live ones, compare and switch."`
	Verify verifyCommand `cmd:"" help:"Recompute read models from the log and name the first difference."`

	MigrateLog migrateLogCommand `cmd:"" help:"Copy the log into another store and verify the copy."`

	LogLevel slog.Level `env:"TOLLGATE_LOG_LEVEL" default:"info" help:"Least severe messages to log: debug, info, warn or error."`
}

func main() {
	var cli commands
	k := kong.Parse(&cli,
		kong.Name("tollgate"),
		kong.Description("The usage and billing ledger for multi-tenant AI products."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: cli.LogLevel}))
	// The first signal ends the work in order; a second one ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop()
	}()
	k.BindTo(ctx, (*context.Context)(nil))
	err := k.Run(log)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "interrupted")
		os.Exit(130)
	}
	k.FatalIfErrorf(err)
}
