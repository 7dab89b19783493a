// Command barkeep is a datastore for market bars that is asked in plain SQL; `barkeep serve` runs all of it, the other
// commands its parts.
package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"runtime"

	"github.com/alecthomas/kong"
)

// cli is the command line.
type cli struct {
	globals

	Serve    serveCmd    `cmd:"" help:"Run all of barkeep in one process; with no database or broker configured, those too."`
	Proxy    proxyCmd    `cmd:"" help:"Run the part that clients connect to: sessions and the coordinator."`
	Producer producerCmd `cmd:"" help:"Run the part that fetches bars from sources and publishes them."`
	Consumer consumerCmd `cmd:"" help:"Run the part that writes published bars to the database."`
	Migrate  migrateCmd  `cmd:"" help:"Bring the database to the newest schema, and exit."`
	Backfill backfillCmd `cmd:"" help:"Fetch bars ahead, behind all for which somebody waits."`
	Coverage coverageCmd `cmd:"" help:"Show which stretches of which series are known, and how."`
	Audit    auditCmd    `cmd:"" help:"Read a sample of final pages again from their sources, and say what differs."`
	Forget   forgetCmd   `cmd:"" help:"Forget bars of a symbol: who asks for them has them fetched again."`
	Doctor   doctorCmd   `cmd:"" help:"Look at database, broker, sources and clocks, and say what to do."`
	Version  versionCmd  `cmd:"" help:"Print the version, and exit."`
}

// globals are the flags of every command. Each overrules the file and the environment.
type globals struct {
	Config       string            `help:"Configuration file, YAML." env:"BARKEEP_CONFIG" type:"existingfile" short:"c"`
	Set          map[string]string `help:"Set any key of the configuration: --set holds.max=50." placeholder:"KEY=VALUE" mapsep:"none"`
	Listen       *string           `help:"Address and port for clients."`
	UpstreamURL  *string           `help:"The database, postgres://user:password@host:port/name."`
	Brokers      *string           `help:"Kafka brokers, comma separated."`
	DataDir      *string           `help:"Folder for the database and the broker that barkeep runs itself."`
	StatusListen *string           `help:"Address and port of the status page; empty for none."`
	LogLevel     *string           `help:"debug, info, warn or error."`
	LogFormat    *string           `help:"text or json."`
}

func main() {
	var c cli
	parsed := kong.Parse(&c, kong.Name("barkeep"), kong.UsageOnError(),
		kong.Description("Market bars in plain SQL: a PostgreSQL proxy that fetches what a statement on ohlcv is missing."))
	if command := parsed.Command(); command == "serve" || command == "proxy" {
		widen()
	}
	if err := parsed.Run(&c.globals); err != nil {
		fmt.Fprintf(os.Stderr, "barkeep: %v\n", err)
		code := 1
		if coded, ok := errors.AsType[*exitError](err); ok {
			code = coded.ExitCode()
		}
		os.Exit(code)
	}
}

// widen lets twice as many goroutines run at one time as there are processors. The proxy has an event loop for each processor then,
// and a loop that is busy keeps its place among those that run while it waits (package netloop): the other half is for all else, which
// would wait behind the loops for up to 10 ms. Changes of the processors that a container may use are not followed any more.
func widen() { runtime.GOMAXPROCS(2 * runtime.GOMAXPROCS(0)) }

// load returns the configuration that the flags, the environment and the file make.
func (g *globals) load() (Config, error) {
	flags := make(map[string]string, len(g.Set))
	maps.Copy(flags, g.Set)
	for key, value := range map[string]*string{
		"listen": g.Listen, "upstream.url": g.UpstreamURL, "brokers": g.Brokers, "data_dir": g.DataDir,
		"status.listen": g.StatusListen, "log.level": g.LogLevel, "log.format": g.LogFormat,
	} {
		if value == nil {
			continue
		}
		if _, twice := flags[key]; twice {
			return Config{}, fmt.Errorf("%s: given twice on the command line", key)
		}
		flags[key] = *value
	}
	return Load(Layers{File: g.Config, Environ: os.Environ(), Flags: flags})
}

// readable writes durations with their unit, in JSON too.
func readable(_ []string, attr slog.Attr) slog.Attr {
	if attr.Value.Kind() == slog.KindDuration {
		attr.Value = slog.StringValue(attr.Value.Duration().String())
	}
	return attr
}

// newLogger returns a logger whose level can be set anew.
func newLogger(cfg LogConfig, out io.Writer) (*slog.Logger, *slog.LevelVar, error) {
	level := &slog.LevelVar{}
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		return nil, nil, errors.New("log.level: not a level")
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: readable}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(out, options)), level, nil
	}
	return slog.New(slog.NewTextHandler(out, options)), level, nil
}
