// Command bench measures barkeep side by side with PostgreSQL, PgBouncer and COPY on one machine, prints a table of
// ratios and writes bench.json. Everything that is compared is measured in turn, round by round, and the median of the
// rounds' ratios is told, so that a load that comes and goes falls on both sides.
//
// It needs TEST_DATABASE_URL (a server where databases may be created), bin/barkeep and pgbench; PgBouncer is left out,
// and this is said, where it is not installed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// options are the flags.
type options struct {
	binary, out, only string
	rounds, seconds   int
	keep              bool
}

func main() {
	var o options
	flag.StringVar(&o.binary, "barkeep", "bin/barkeep", "the binary that is measured")
	flag.StringVar(&o.out, "out", "bench.json", "file that the figures are written to")
	flag.StringVar(&o.only, "only", "", "comma-separated: plan, backfill, many, gap, shared, live, index, stream, connect, rates, cost; empty: all")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of everything that is compared")
	flag.IntVar(&o.seconds, "seconds", 2, "seconds of each run of pgbench")
	flag.BoolVar(&o.keep, "keep", false, "keep the database and the logs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run's ground: a database, the barkeep before it, the stand-in for the exchange.
type bench struct {
	options
	folder   string
	database string
	direct   *pgx.ConnConfig
	exchange *exchange
	barkeep  *process
	bouncer  *process
	through  *pgx.ConnConfig
	report   report
	// postmaster is the process of the database server; 0 where processor time cannot be read: elsewhere than on Linux, and of a server on
	// another machine.
	postmaster int
}

func run(ctx context.Context, o options) (err error) {
	url := os.Getenv("TEST_DATABASE_URL")
	if url == "" {
		return errors.New("TEST_DATABASE_URL is not set; `make bench` starts a server and sets it")
	}
	b := &bench{options: o}
	if b.folder, err = os.MkdirTemp("", "barkeep-bench-"); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	drop, err := b.createDatabase(ctx, url)
	if err != nil {
		return err
	}
	defer func() {
		b.stop()
		if !o.keep {
			drop()
			_ = os.RemoveAll(b.folder)
		}
	}()
	if err := b.start(ctx); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"plan", b.measurePlan},
		{"backfill", b.measureBackfill},
		{"many", b.measureMany},
		{"gap", b.measureGap},
		{"shared", b.measureShared},
		{"live", b.measureLive},
		{"index", b.measureIndex},
		{"stream", b.measureStream},
		{"connect", b.measureConnect},
		{"rates", b.measureRates},
		{"cost", b.measureCost},
	} {
		if o.only != "" && !strings.Contains(","+o.only+",", ","+part.name+",") {
			continue
		}
		began := time.Now()
		if err := part.run(ctx); err != nil {
			b.report.print(os.Stdout) // what was measured before is worth reading
			return fmt.Errorf("measure %s: %w", part.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %.0f s\n", part.name, time.Since(began).Seconds())
	}
	b.report.print(os.Stdout)
	return b.report.write(o.out)
}

// createDatabase makes the database that barkeep serves and returns what drops it.
func (b *bench) createDatabase(ctx context.Context, url string) (drop func(), err error) {
	if b.direct, err = pgx.ParseConfig(url); err != nil {
		return nil, fmt.Errorf("read TEST_DATABASE_URL: %w", err)
	}
	admin, err := pgx.ConnectConfig(ctx, b.direct)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	b.database = fmt.Sprintf("bench_%d", os.Getpid())
	b.direct = b.direct.Copy()
	b.direct.Database = b.database
	if _, err := admin.Exec(ctx, "create database "+b.database+" template template0"); err != nil {
		return nil, fmt.Errorf("create the database: %w", err)
	}
	return func() {
		ctx := context.WithoutCancel(ctx)
		if _, err := admin.Exec(ctx, "drop database "+b.database+" with (force)"); err != nil {
			fmt.Fprintln(os.Stderr, "bench: drop the database:", err)
		}
		_ = admin.Close(ctx)
	}, nil
}

// command runs one statement straight at the database.
func (b *bench) command(ctx context.Context, statement string) error {
	conn, err := pgx.ConnectConfig(ctx, b.direct)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

// withConns calls f with one connection straight to the database and one through barkeep.
func (b *bench) withConns(ctx context.Context, f func(direct, through *pgx.Conn) error) error {
	direct, err := pgx.ConnectConfig(ctx, b.direct)
	if err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	defer func() { _ = direct.Close(ctx) }()
	through, err := pgx.ConnectConfig(ctx, b.through)
	if err != nil {
		return fmt.Errorf("connect to barkeep: %w", err)
	}
	defer func() { _ = through.Close(ctx) }()
	return f(direct, through)
}
