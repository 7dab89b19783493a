package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// measureStream compares a SELECT of a year of minutes, all columns, straight and through barkeep: as text by the simple
// protocol, in binary by the extended one. The rows are read, not decoded.
func (b *bench) measureStream(ctx context.Context) error {
	return b.withConns(ctx, func(direct, through *pgx.Conn) error {
		text := "select * from ohlcv where " + fmt.Sprintf(yearOf, symbols[0]) + " order by ts"
		if _, _, err := b.cold(ctx, through, symbols[0]); err != nil {
			return err
		}
		for _, kind := range []struct {
			name string
			read func(context.Context, *pgconn.PgConn, string) error
		}{{"text", readText}, {"binary", readBinary}} {
			var straight, proxied []float64
			timed := func(conn *pgx.Conn, into *[]float64) func() error {
				return func() error {
					began := time.Now()
					err := kind.read(ctx, conn.PgConn(), text)
					*into = append(*into, millis(time.Since(began)))
					return err
				}
			}
			for round := range 1 + 3*b.rounds {
				if err := inTurn(round, []func() error{timed(direct, &straight), timed(through, &proxied)}); err != nil {
					return fmt.Errorf("read a year: %w", err)
				}
			}
			b.report.compare("select of 525,600 rows, "+kind.name, "ms", proxied[1:], "direct", straight[1:], true, 0.9)
		}
		return nil
	})
}

func readText(ctx context.Context, conn *pgconn.PgConn, text string) error {
	rows := conn.Exec(ctx, text)
	count := 0
	for rows.NextResult() {
		for result := rows.ResultReader(); result.NextRow(); {
			count++
		}
	}
	return checkCount(count, rows.Close())
}

func readBinary(ctx context.Context, conn *pgconn.PgConn, text string) error {
	rows := conn.ExecParams(ctx, text, nil, nil, nil, []int16{1})
	count := 0
	for rows.NextRow() {
		count++
	}
	_, err := rows.Close()
	return checkCount(count, err)
}

func checkCount(count int, err error) error {
	if err == nil && count != barCount {
		err = fmt.Errorf("%d rows, want %d", count, barCount)
	}
	return err
}

// rateSeries are the rates of one statement at each address, round by round.
type rateSeries map[string][]float64

// measureRates compares what pgbench reaches straight, through barkeep and through PgBouncer.
func (b *bench) measureRates(ctx context.Context) error {
	pgbench := find("pgbench", "/usr/lib/postgresql/*/bin/pgbench")
	if pgbench == "" {
		return errors.New("pgbench is not installed (Debian: apt-get install postgresql-client)")
	}
	scripts, err := b.prepareRates(ctx)
	if err != nil {
		return err
	}
	for _, mode := range []string{"simple", "prepared"} {
		for _, clients := range []int{1, 8, 32} {
			rates, err := b.roundsOf(ctx, pgbench, scripts, mode, clients)
			if err != nil {
				return fmt.Errorf("%s, %d clients: %w", mode, clients, err)
			}
			b.reportRates(rates, mode, clients)
		}
	}
	return nil
}

// roundsOf measures the three statements in turn at each address.
func (b *bench) roundsOf(ctx context.Context, pgbench string, scripts map[string]string, mode string, clients int) (map[string]rateSeries, error) {
	addresses := map[string]uint16{"direct": b.direct.Port, "barkeep": b.barkeep.port}
	order := []string{"direct", "barkeep"}
	if b.bouncer != nil {
		addresses["PgBouncer"], order = b.bouncer.port, append(order, "PgBouncer")
	}
	rates := map[string]rateSeries{}
	for name := range scripts {
		rates[name] = rateSeries{}
	}
	for round := range b.rounds {
		for _, name := range []string{"select 1", "ohlcv", "bars_copy", "drawn", "copy drawn"} {
			var runs []func() error
			for _, address := range order {
				if name != "select 1" && name != "ohlcv" && address != "barkeep" || strings.Contains(name, "drawn") && mode != "simple" {
					continue
				}
				runs = append(runs, func() error {
					rate, err := b.pgbench(ctx, pgbench, addresses[address], scripts[name], mode, clients)
					rates[name][address] = append(rates[name][address], rate)
					return err
				})
			}
			if err := inTurn(round, runs); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return rates, nil
}

// prepareRates fills the covered hours and their copy, and writes pgbench's scripts.
func (b *bench) prepareRates(ctx context.Context) (scripts map[string]string, err error) {
	err = b.withConns(ctx, func(direct, through *pgx.Conn) error {
		if _, _, err := b.cold(ctx, through, symbols[0]); err != nil {
			return err
		}
		if err := b.createLike(ctx, direct, "bars_copy"); err != nil {
			return err
		}
		_, err := direct.Exec(ctx, "insert into bars_copy select * from ohlcv on conflict do nothing; analyze bars_copy; analyze ohlcv; checkpoint",
			pgx.QueryExecModeSimpleProtocol)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fill the covered bars: %w", err)
	}
	const (
		hour = " where symbol = :symbol and timeframe = '1m' and ts >= :from and ts < :to order by ts;\n"
		// drawn begins at another minute of the year in each text, which never comes again.
		drawn = " where symbol = :symbol and timeframe = '1m' and ts >= timestamptz '2023-01-01Z' + interval ':at minutes' " +
			"and ts < timestamptz '2023-01-01Z' + interval ':end minutes' order by ts;\n"
		draw = "\\set at random(0, 500000)\n\\set end :at + 60\n"
	)
	scripts = map[string]string{}
	for name, text := range map[string]string{
		"select 1":   "select 1;\n",
		"ohlcv":      "select ts, open, high, low, close, volume from ohlcv" + hour,
		"bars_copy":  "select ts, open, high, low, close, volume from bars_copy" + hour,
		"drawn":      draw + "select ts, open, high, low, close, volume from ohlcv" + drawn,
		"copy drawn": draw + "select ts, open, high, low, close, volume from bars_copy" + drawn,
	} {
		scripts[name] = filepath.Join(b.folder, name+".sql")
		if err := os.WriteFile(scripts[name], []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("write a script: %w", err)
		}
	}
	return scripts, nil
}

func (b *bench) reportRates(rates map[string]rateSeries, mode string, clients int) {
	label := fmt.Sprintf("%s, %d clients", mode, clients)
	for _, name := range []string{"select 1", "ohlcv"} {
		r := rates[name]
		b.report.measure(fmt.Sprintf("%s, %s, direct", name, label), "tps", median(r["direct"]), 0)
		if len(r["PgBouncer"]) > 0 {
			b.report.compare(fmt.Sprintf("%s, %s, PgBouncer", name, label), "tps", r["PgBouncer"], "direct", r["direct"], false, 0)
		}
		b.report.compare(fmt.Sprintf("%s, %s", name, label), "tps", r["barkeep"], "direct", r["direct"], false, 0)
		if len(r["PgBouncer"]) > 0 {
			target := 0.0
			if name == "select 1" && clients > 1 {
				target = 0.85
			}
			b.report.compare(fmt.Sprintf("%s, %s, to PgBouncer", name, label), "tps", r["barkeep"], "PgBouncer", r["PgBouncer"], false, target)
		}
	}
	b.report.compare(fmt.Sprintf("ohlcv, %s, to bars_copy", label), "tps", rates["ohlcv"]["barkeep"], "bars_copy through barkeep",
		rates["bars_copy"]["barkeep"], false, 0.9)
	if mode == "simple" {
		b.report.compare(fmt.Sprintf("ohlcv, changing literals, %s, to bars_copy", label), "tps", rates["drawn"]["barkeep"],
			"bars_copy through barkeep", rates["copy drawn"]["barkeep"], false, 0.6)
	}
}

var tpsLine = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

func (b *bench) pgbench(ctx context.Context, binary string, port uint16, script, mode string, clients int) (float64, error) {
	host := "127.0.0.1"
	if port == b.direct.Port {
		host = b.direct.Host
	}
	// A colon inside a literal would be taken for a variable; prepared, the variables are the statement's parameters.
	quote := ""
	if mode == "simple" {
		quote = "'"
	}
	command := exec.CommandContext(ctx, binary, //nolint:gosec // pgbench, with this program's own arguments.
		"-n", "-D", "symbol="+quote+"binance:"+symbols[0]+quote,
		"-D", "from="+quote+"2023-06-01 10:00Z"+quote, "-D", "to="+quote+"2023-06-01 11:00Z"+quote, "-h", host, "-p", strconv.Itoa(int(port)), "-U", b.direct.User,
		"-M", mode, "-c", strconv.Itoa(clients), "-j", "1", "-T", strconv.Itoa(b.seconds), "-f", script, b.database)
	command.Env = append(os.Environ(), "PGPASSWORD="+b.direct.Password, "PGSSLMODE=disable", "PGGSSENCMODE=disable")
	out, err := command.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("run pgbench: %w\n%s", err, out)
	}
	match := tpsLine.FindSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("run pgbench: no rate in\n%s", out)
	}
	return strconv.ParseFloat(string(match[1]), 64)
}
