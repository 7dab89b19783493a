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

	"github.com/jackc/pgx/v5"
)

// rateSeries are the rates of one statement at each address, round by round.
type rateSeries map[string][]float64

// alone is how many times the rounds are run of select 1 with one client: what is added to it is a difference of two times that the
// machine changes by half, as it lets the three processes share a processor or not.
const alone = 3

// measureRates compares what pgbench reaches straight, through barkeep and through PgBouncer.
func (b *bench) measureRates(ctx context.Context) error {
	pgbench, err := findPgbench()
	if err != nil {
		return err
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

func findPgbench() (string, error) {
	if path := find("pgbench", "/usr/lib/postgresql/*/bin/pgbench"); path != "" {
		return path, nil
	}
	return "", errors.New("pgbench is not installed (Debian: apt-get install postgresql-client)")
}

// addresses returns where statements are sent to, and in which order.
func (b *bench) addresses() (ports map[string]uint16, order []string) {
	ports, order = map[string]uint16{"direct": b.direct.Port, "barkeep": b.barkeep.port}, []string{"direct", "barkeep"}
	if b.bouncer != nil {
		ports["PgBouncer"], order = b.bouncer.port, append(order, "PgBouncer")
	}
	return ports, order
}

// roundsOf measures the three statements in turn at each address.
func (b *bench) roundsOf(ctx context.Context, pgbench string, scripts map[string]string, mode string, clients int) (map[string]rateSeries, error) {
	addresses, order := b.addresses()
	rates := map[string]rateSeries{}
	for name := range scripts {
		rates[name] = rateSeries{}
	}
	rounds := b.rounds
	if clients == 1 {
		rounds *= alone
	}
	for round := range rounds {
		for _, name := range []string{"select 1", "ohlcv", "bars_copy", "drawn", "copy drawn"} {
			if round >= b.rounds && name != "select 1" {
				continue
			}
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
				target = 1.0
			}
			b.report.compare(fmt.Sprintf("%s, %s, to PgBouncer", name, label), "tps", r["barkeep"], "PgBouncer", r["PgBouncer"], false, target)
			if name == "select 1" && clients == 1 {
				b.report.compare(fmt.Sprintf("%s, %s, added latency", name, label), "µs", added(r["barkeep"], r["direct"]),
					"PgBouncer's", added(r["PgBouncer"], r["direct"]), true, 1/1.15)
			}
		}
	}
	b.report.compare(fmt.Sprintf("ohlcv, %s, to bars_copy", label), "tps", rates["ohlcv"]["barkeep"], "bars_copy through barkeep",
		rates["bars_copy"]["barkeep"], false, 0.9)
	if mode == "simple" {
		b.report.compare(fmt.Sprintf("ohlcv, changing literals, %s, to bars_copy", label), "tps", rates["drawn"]["barkeep"],
			"bars_copy through barkeep", rates["copy drawn"]["barkeep"], false, 0.6)
	}
}

// added returns how much longer than straight a statement takes, in µs, round by round.
func added(rates, direct []float64) []float64 {
	list := make([]float64, 0, len(rates))
	for i := range min(len(rates), len(direct)) {
		list = append(list, 1e6/rates[i]-1e6/direct[i])
	}
	return list
}

var tpsLine = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

// pgbench returns the rate that so many clients reach in the time of one run.
func (b *bench) pgbench(ctx context.Context, binary string, port uint16, script, mode string, clients int) (float64, error) {
	return b.runPgbench(ctx, binary, port, script, mode, clients, "-T", strconv.Itoa(b.seconds))
}

func (b *bench) runPgbench(ctx context.Context, binary string, port uint16, script, mode string, clients int, length ...string) (float64, error) {
	host := "127.0.0.1"
	if port == b.direct.Port {
		host = b.direct.Host
	}
	// A colon inside a literal would be taken for a variable; prepared, the variables are the statement's parameters.
	quote := ""
	if mode == "simple" {
		quote = "'"
	}
	command := exec.CommandContext(ctx, binary, append([]string{ //nolint:gosec // pgbench, with this program's own arguments.
		"-n", "-D", "symbol=" + quote + "binance:" + symbols[0] + quote,
		"-D", "from=" + quote + "2023-06-01 10:00Z" + quote, "-D", "to=" + quote + "2023-06-01 11:00Z" + quote, "-h", host, "-p", strconv.Itoa(int(port)), "-U", b.direct.User,
		"-M", mode, "-c", strconv.Itoa(clients), "-j", "1", "-f", script, b.database,
	}, length...)...)
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
