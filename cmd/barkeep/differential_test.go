package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/backfill/source/sim"
	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// TestDifferential is promise 1 of DESIGN §1: a statement through an empty barkeep returns what it returns straight at a
// database that holds every bar. Each market has a barkeep of its own; a check draws a statement for each of them, which run side by
// side, so that the time in which one waits for its bars is the others'. The test prints the markets' seed, and rapid's, the shrunk
// statement, what it requires and the rows that differ. BARKEEP_TEST_SEED sets the markets' seed, and
// rapid's where -rapid.seed does not.
func TestDifferential(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("BARKEEP_TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		if drawn := flag.Lookup("rapid.seed"); drawn != nil && drawn.Value.String() == drawn.DefValue {
			require.NoError(t, flag.Set("rapid.seed", text))
			t.Cleanup(func() { _ = flag.Set("rapid.seed", drawn.DefValue) })
		}
	}
	t.Logf("BARKEEP_TEST_SEED=%d", seed)
	var all []*comparison
	for n := range uint64(2) {
		dir, bars := randomMarket(t, seed+n)
		all = append(all, newComparison(t, fmt.Sprintf("random market %d", n), dir, bars, scene{
			symbols: []string{"file:AAA", "file:BBB", "file:GAP"}, timeframes: []string{"1h", "1m", "1d"}, start: grammarStart,
		}))
	}
	all = append(append(all, simulated(t), derived(t, seed)), recorded(t, seed)...)
	if checks := flag.Lookup("rapid.checks"); checks != nil && checks.Value.String() == checks.DefValue {
		require.NoError(t, flag.Set("rapid.checks", strconv.Itoa(comparedStatements/len(all)+1)))
		t.Cleanup(func() { _ = flag.Set("rapid.checks", checks.DefValue) })
	}
	rapid.Check(t, func(rt *rapid.T) { compareAll(t.Context(), rt, all) })
	refused, total := 0, 0
	for _, c := range all {
		refused, total = refused+c.refused, total+c.same+c.failed+c.refused
		t.Logf("%s: %d statements the same, %d failed on both, %d refused, %d refused or warned of as they should", c.name, c.same, c.failed, c.refused, c.lax)
	}
	require.LessOrEqual(t, refused*4, total, "too many refusals: nothing is shown by them")
}

// simulated is the simulated market, around the hour at which one of its coins is listed.
func simulated(t *testing.T) *comparison {
	t.Helper()
	start := time.Date(2023, 6, 14, 0, 0, 0, 0, time.UTC)
	window := market.Range{Start: market.FromTime(start.AddDate(0, 0, -1)), End: market.FromTime(start.AddDate(0, 0, 4))}
	at := scene{
		timeframes: []string{"1h", "1m", "1d"}, start: start, window: fmt.Sprintf("between '%s' and '%s'", window.Start, window.End-1),
	}
	bars := map[market.Series][]market.Bar{}
	for _, coin := range sim.Coins() { // all of them: a condition on symbol may fit any
		if slices.Contains([]string{"BTCUSD", "GAPUSD", "NEWUSD", "OLDUSD"}, coin.Symbol()) {
			at.symbols = append(at.symbols, "sim:"+coin.Symbol())
		}
		for _, tf := range []market.Timeframe{market.M1, market.H1, market.D1} {
			series := market.Series{Symbol: market.Symbol("sim:" + coin.Symbol()), Timeframe: tf}
			bars[series] = coin.Bars(nil, tf, window)
		}
	}
	return newComparison(t, "simulated market", t.TempDir(), bars, at)
}

// recorded are bars that an exchange has recorded, with the holes and prices that they have, another one for another seed; none where there
// are no recordings.
func recorded(t *testing.T, seed uint64) []*comparison {
	t.Helper()
	data := os.Getenv("BARKEEP_TEST_DATA")
	if data == "" {
		t.Log("no recordings: nothing is compared on them")
		return nil
	}
	recordings := []struct {
		tf    market.Timeframe
		files map[string]string
		start time.Time
	}{
		{market.M1, map[string]string{
			"BTCUSDC": "binanceus/BTCUSDC_1m_20230301_20230321.csv.gz", "BTCUSD": "binanceus/BTCUSD_1m_20230301_20230321.csv.gz",
		}, time.Date(2023, 3, 1, 0, 0, 0, 0, time.UTC)},
		{market.M1, map[string]string{"KRAKEN": "kraken_archive/BTCUSDC_1m_2023Q1.csv.gz"}, time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)},
		{market.M5, map[string]string{"ETHBTC": "freqtrade/ETH_BTC-5m.csv.gz"}, time.Date(2018, 1, 10, 0, 0, 0, 0, time.UTC)},
	}
	c := recordings[seed%uint64(len(recordings))]
	dir, bars := t.TempDir(), map[market.Series][]market.Bar{}
	at := scene{timeframes: []string{c.tf.String()}, start: c.start}
	names := slices.Sorted(maps.Keys(c.files))
	for _, name := range names {
		series := market.Series{Symbol: market.Symbol("file:" + name), Timeframe: c.tf}
		at.symbols = append(at.symbols, string(series.Symbol))
		bars[series] = copyRecording(t, filepath.Join(data, c.files[name]), filepath.Join(dir, name+"_"+c.tf.String()+".csv.gz"))
	}
	return []*comparison{newComparison(t, strings.Join(names, ","), dir, bars, at)}
}

// comparison is a database that holds every bar of a market beside an empty barkeep, with a session at each.
type comparison struct {
	name            string
	stack           *stack
	direct, through *pgx.Conn
	warned          bool // the session through barkeep got a WARNING
	at              scene
	// same, failed and refused count statements, lax those that were refused or warned of as they should.
	same, failed, refused, lax int
}

// newComparison starts a barkeep over the files in dir, and fills a database with bars.
func newComparison(t *testing.T, name, dir string, bars map[market.Series][]market.Bar, at scene) *comparison {
	t.Helper()
	full := dbtest.New(t)
	fill(t, full.Pool, bars)
	c := &comparison{name: name, stack: startStack(t, dir, func(cfg *Config) {
		if !strings.HasPrefix(at.symbols[0], "sim:") {
			no := false
			cfg.Sources["sim"] = Source{Enabled: &no} // whose symbols a condition may fit, and the other database has not
		}
	}), at: at}
	var err error
	c.direct, err = pgx.Connect(t.Context(), full.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.direct.Close(context.Background()) })
	config, err := pgx.ParseConfig(c.stack.clientURL())
	require.NoError(t, err)
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { c.warned = c.warned || n.Severity == "WARNING" }
	c.through, err = pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.through.Close(context.Background()) })
	for conn, pool := range map[*pgx.Conn]*pgxpool.Pool{c.direct: full.Pool, c.through: c.stack.db.Pool} {
		_, err := pool.Exec(t.Context(), elsewhere(at))
		require.NoError(t, err)
		for _, view := range views(at) {
			mustExec(t, conn, view)
		}
	}
	return c
}

// compareAll draws a statement for each market and runs them side by side.
func compareAll(ctx context.Context, rt *rapid.T, all []*comparison) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute) // a hang is to name its statement
	defer cancel()
	differences := make([]string, len(all))
	compares := make([]func(), 0, len(all))
	for i, c := range all {
		if rapid.IntRange(0, 24).Draw(rt, c.name) == 0 {
			continue // so that what fails is shrunk to one of them
		}
		s := drawStatement(rt, c.at)
		empty := rapid.IntRange(0, 2).Draw(rt, "empty first") > 0
		compares = append(compares, func() { differences[i] = c.compare(ctx, s, empty) })
	}
	// Nothing runs before all is drawn: where rapid shrinks, a draw may be the end of the check.
	var running sync.WaitGroup
	for _, compare := range compares {
		running.Go(compare)
	}
	running.Wait()
	for i, difference := range differences {
		if difference != "" {
			rt.Fatalf("%s: %s", all[i].name, difference)
		}
	}
}

// compare says how the answers to a statement differ, nothing where they do not.
func (c *comparison) compare(ctx context.Context, s statement, empty bool) string {
	if empty {
		if err := c.stack.emptied(ctx); err != nil {
			return err.Error()
		}
	}
	want, wantErr := inBlock(ctx, c.direct, s)
	c.warned = false
	got, gotErr := inBlock(ctx, c.through, s)
	switch code := sqlState(gotErr); {
	case wantErr != nil:
		if code != sqlState(wantErr) && code != "0A000" {
			return fmt.Sprintf("%s\ndirect fails with %v, through barkeep: %v%s", s, wantErr, gotErr, c.needs(ctx, s))
		}
		c.failed++
	case s.lax && (code == "0A000" || gotErr == nil && c.warned):
		c.lax++
	case code == "0A000":
		c.refused++
	case gotErr != nil:
		return fmt.Sprintf("%s\nthrough barkeep: %v%s", s, gotErr, c.needs(ctx, s))
	default:
		if difference := compareRows(want, got, s.ordered); difference != "" {
			return fmt.Sprintf("%s\n%s%s", s, difference, c.needs(ctx, s))
		}
		c.same++
	}
	return ""
}

// needs is what barkeep says that a statement requires, outside of its block.
func (c *comparison) needs(ctx context.Context, s statement) string {
	s.sql, s.way = "explain (barkeep) "+s.sql, asExtended
	rows, err := executeWay(ctx, c.through, s)
	if err != nil {
		return fmt.Sprintf("\n%s: %v", s.sql, err)
	}
	return "\nrequirement:\n  " + strings.Join(rows, "\n  ")
}

func fill(tb testing.TB, pool *pgxpool.Pool, bars map[market.Series][]market.Bar) {
	tb.Helper()
	for series, all := range bars {
		_, err := pool.CopyFrom(tb.Context(), pgx.Identifier{"public", "ohlcv"},
			[]string{"symbol", "timeframe", "ts", "open", "high", "low", "close", "volume"},
			pgx.CopyFromSlice(len(all), func(i int) ([]any, error) {
				b := all[i]
				return []any{string(series.Symbol), series.Timeframe.String(), b.TS.Time(), b.Open, b.High, b.Low, b.Close, b.Volume}, nil
			}))
		require.NoError(tb, err)
	}
	_, err := pool.Exec(tb.Context(), "analyze public.ohlcv")
	require.NoError(tb, err)
}

// snapshotTries bounds how often a block is tried whose snapshot is older than the fill. The first try has it filled, and the second
// succeeds, unless the fill took longer than a tail stays fresh: then it is read once more, as on a loaded machine.
const snapshotTries = 10

// inBlock executes s in its block. What is told to be tried again (40001) is tried again.
func inBlock(ctx context.Context, conn *pgx.Conn, s statement) (rows []string, err error) {
	zone := s.zone
	if s.zoneInside {
		zone = "Pacific/Apia"
	}
	do := func(sql string) error { return conn.PgConn().Exec(ctx, sql).Close() }
	if err := do("set timezone = '" + zone + "'; set datestyle = '" + s.dateStyle + "'"); err != nil {
		return nil, err
	}
	if s.block == noBlock {
		rows, err = execute(ctx, conn, s)
		if conn.PgConn().TxStatus() != 'I' { // it failed behind a BEGIN of its own Query
			err = errors.Join(err, do("rollback"))
		}
		return rows, errors.Join(err, do("deallocate all"))
	}
	for range snapshotTries {
		begin := "begin isolation level read committed"
		if s.block != readCommitted {
			begin = "begin isolation level repeatable read"
		}
		if err := do(begin); err != nil {
			return nil, err
		}
		if s.block == snapshotAlready {
			if err := do("select count(*) from pg_class"); err != nil {
				return nil, err
			}
		}
		if err = s.before(do); err == nil {
			rows, err = execute(ctx, conn, s)
		}
		if failure := errors.Join(do("rollback"), do("deallocate all")); failure != nil { // a PREPARE outlives its block
			return nil, failure
		}
		if sqlState(err) != "40001" {
			break
		}
	}
	return rows, err
}

// before sends the prelude, where it is not part of the Query.
func (s statement) before(do func(string) error) error {
	if s.together {
		return nil
	}
	for _, sql := range s.prelude {
		if err := do(sql); err != nil {
			return err
		}
	}
	return nil
}

// execute runs s in the session and returns its rows as text.
func execute(ctx context.Context, conn *pgx.Conn, s statement) ([]string, error) {
	rows, err := executeWay(ctx, conn, s)
	if err == nil && s.writes {
		var more []string
		more, err = query(ctx, conn, "select * from mine")
		rows = append(rows, more...)
	}
	return rows, err
}

func executeWay(ctx context.Context, conn *pgx.Conn, s statement) ([]string, error) {
	switch s.way {
	case asExtended:
		values, oids, formats := make([][]byte, len(s.args)), make([]uint32, len(s.args)), make([]int16, len(s.args))
		for i, a := range s.args {
			values[i], oids[i] = a.value, a.oid
			if a.binary {
				formats[i] = 1
			}
		}
		result := conn.PgConn().ExecParams(ctx, s.sql, values, oids, formats, nil).Read()
		return rowsOf([]*pgconn.Result{result}), result.Err
	case asCopy:
		var out strings.Builder
		if _, err := conn.PgConn().CopyTo(ctx, &out, "copy ("+s.sql+") to stdout"); err != nil {
			return nil, err
		}
		return strings.Split(out.String(), "\n"), nil
	case asSteps:
		back := "; fetch backward 2 from c"
		if !s.ordered {
			back = "" // which two is not part of the answer
		}
		return query(ctx, conn, "declare c scroll cursor for "+s.sql, "fetch 3 from c", "fetch 20 from c"+back, "fetch all from c", "close c")
	case asPreparedArgs:
		return query(ctx, conn, "prepare p"+s.types()+" as "+s.sql, "execute p"+s.values())
	case asExplain:
		if _, err := query(ctx, conn, "explain "+s.sql); err != nil {
			return nil, err
		}
		return query(ctx, conn, s.sql)
	case asAnalyze:
		if _, err := query(ctx, conn, "explain (analyze, buffers false) "+s.sql); err != nil {
			return nil, err
		}
		defer func() { _ = conn.PgConn().Exec(ctx, "reset barkeep.mode").Close() }()
		return query(ctx, conn, "set barkeep.mode = 'stored'", s.sql)
	default:
		return query(ctx, conn, s.text())
	}
}

// query runs texts in turn and returns the rows of all.
func query(ctx context.Context, conn *pgx.Conn, texts ...string) ([]string, error) {
	var rows []string
	for _, text := range texts {
		results, err := conn.PgConn().Exec(ctx, text).ReadAll()
		if err != nil {
			return nil, err
		}
		rows = append(rows, rowsOf(results)...)
	}
	return rows, nil
}

func rowsOf(results []*pgconn.Result) []string {
	var rows []string
	for _, result := range results {
		for _, row := range result.Rows {
			fields := make([]string, len(row))
			for i, value := range row {
				fields[i] = "NULL"
				if value != nil {
					fields[i] = string(value)
				}
			}
			rows = append(rows, strings.Join(fields, "|"))
		}
	}
	return rows
}

func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// compareRows says how the two answers differ, nothing where they do not.
func compareRows(want, got []string, ordered bool) string {
	if !ordered {
		want, got = slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))
	}
	if slices.Equal(want, got) {
		return ""
	}
	i := 0
	for i < len(want) && i < len(got) && want[i] == got[i] {
		i++
	}
	at := func(rows []string) string {
		if i < len(rows) {
			return rows[i]
		}
		return "(no more rows)"
	}
	return fmt.Sprintf("%d rows expected, %d came; row %d\n  expected %s\n  came     %s", len(want), len(got), i, at(want), at(got))
}
