package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	commands "os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/coverage"
	"barkeep/internal/dbtest"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

// ran is a command that has ended.
type ran struct {
	code           int
	stdout, stderr string
}

// tool runs a command for people, as a process, until it ends.
func (s *site) tool(args ...string) ran {
	s.t.Helper()
	args = append(args, "--upstream-url="+s.databaseURL, "--brokers="+s.brokers)
	for _, vendor := range onlineVendors {
		if slices.Contains(s.vendors, vendor) {
			args = append(args, "--set=sources."+vendor+".url="+s.exchangeURL)
		} else {
			args = append(args, "--set=sources."+vendor+".enabled=false")
		}
	}
	return runToolIn(s.t, s.environment(), args...)
}

func runTool(t *testing.T, args ...string) ran {
	t.Helper()
	return runToolIn(t, append(os.Environ(), asCommand+"=1"), args...)
}

func runToolIn(t *testing.T, environment []string, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := commands.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = environment
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer func() { _ = stdin.Close() }()
	var out, failure bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failure
	err = cmd.Run()
	var exit *commands.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	t.Logf("barkeep %v: %d\n%s%s", args, cmd.ProcessState.ExitCode(), out.String(), failure.String())
	return ran{code: cmd.ProcessState.ExitCode(), stdout: out.String(), stderr: failure.String()}
}

const exitUsage = 80 // kong's

// TestToolsRefuseWhatCannotBe: each wrong argument is told with the command's usage, before anything is connected to.
func TestToolsRefuseWhatCannotBe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"forget"}, "symbol"},
		{[]string{"forget", "binance:"}, "not a symbol"},
		{[]string{"forget", "BTCUSD", "7m"}, "1m, 3m"},
		{[]string{"forget", "BTCUSD", "1m", "yesterday", "today"}, "not a time"},
		{[]string{"forget", "BTCUSD", "1m", "2024-01-01"}, "an end too"},
		{[]string{"forget", "BTCUSD", "1m", "2024-01-02", "2024-01-01"}, "after the start"},
		{[]string{"forget", "BTCUSD", "1m", "--source=coinbase"}, "all of it"},
		{[]string{"coverage", "BTCUSD", "1x"}, "1m, 3m"},
		{[]string{"coverage", "BTCUSD", "1m", "more"}, "unexpected"},
		{[]string{"backfill", "BTCUSD", "1m"}, "from"},
		{[]string{"backfill", "BTCUSD", "1m", "2024-01-02", "2024-01-02"}, "after the start"},
		{[]string{"audit", "BTCUSD", "--pages=0"}, "must be positive"},
	} {
		got := runTool(t, c.args...)
		require.Equal(t, exitUsage, got.code, c.args)
		require.Contains(t, got.stderr, c.want, c.args)
		require.Contains(t, got.stdout+got.stderr, "Usage: barkeep "+c.args[0], c.args)
	}
}

// TestToolsSayWhatIsNotThere: no database, none configured, one that was never migrated.
func TestToolsSayWhatIsNotThere(t *testing.T) {
	t.Parallel()
	got := runTool(t, "coverage", "--data-dir="+t.TempDir())
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "start barkeep serve")
	got = runTool(t, "forget", "BTCUSD", "--upstream-url=postgres://postgres@127.0.0.1:1/x?sslmode=disable")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "connect to the database")
	got = runTool(t, "coverage", "--upstream-url="+dbtest.Empty(t))
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "run barkeep migrate")
}

// TestRule8_ForgetHasBarsFetchedAgain: what the exchange says now is what is answered after forget, and not before.
func TestRule8_ForgetHasBarsFetchedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.Equal(t, 1, s.tool("forget", symbol).code, "nobody has asked for it yet")
	proxy := s.start("proxy")
	s.start("producer")
	s.start("consumer")
	conn := s.connect(proxy)
	r := minutes("2024-01-01T00:00:00Z", 2)
	s.right(r, s.asking(conn, r))
	got := s.tool("coverage", symbol, "1m")
	require.Zero(t, got.code)
	require.Contains(t, got.stdout, "final")
	require.Contains(t, got.stdout, r.Start.String())
	got = s.tool("coverage", symbol, "1m", "--json")
	require.Contains(t, got.stdout, `"state":"final","range_start":"`+r.Start.String()+`"`)
	require.Equal(t, 1, s.tool("coverage", "binance:NONE").code)

	s.exchange.Forget()
	half := market.Range{Start: r.Start, End: market.M1.Add(r.Start, 1000)}
	began := time.Now()
	got = s.tool("forget", symbol, "1m", half.Start.String(), half.End.String())
	require.GreaterOrEqual(t, time.Since(began), coverage.DefaultLease, "a proxy that was told of it late vouches no more (PIPELINE 7)")
	require.Zero(t, got.code)
	require.Contains(t, got.stdout, "generation ")
	require.Contains(t, got.stdout, "1m: forgotten in "+half.String())
	require.Contains(t, s.tool("coverage", symbol, "1m").stdout, "forgotten")
	s.right(r, s.asking(conn, r))
	pages, again := s.fetched(r)
	require.Equal(t, []int{1, 0}, []int{pages, again}, "that page, once")
	require.NotContains(t, s.tool("coverage", symbol, "1m").stdout, "forgotten")
	s.holds(r)
}

// TestConsumerRemovesInTwoSteps: retention and what was forgotten, by the process that does it.
func TestConsumerRemovesInTwoSteps(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx := t.Context()
	day := func(n int64) market.Instant { return market.D1.Add(market.D1.Floor(market.FromTime(time.Now())), -n) }
	_, err := s.db.Pool.Exec(ctx, `INSERT INTO barkeep.symbol (symbol, source, vendor_id) VALUES ($1, 'binance', 'BTCUSDT')`, symbol)
	require.NoError(t, err)
	_, err = s.db.Pool.Exec(ctx, `INSERT INTO public.ohlcv SELECT $1, '1h', t, 1, 1, 1, 1, 1 FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 us', interval '1 hour') t`,
		symbol, day(40).Time(), day(10).Time())
	require.NoError(t, err)
	require.NoError(t, pgx.BeginFunc(ctx, s.db.Pool, func(tx pgx.Tx) error {
		return coverage.Apply(ctx, tx, market.Series{Symbol: symbol, Timeframe: market.H1}, coverage.Segment{
			Range: market.Range{Start: day(40), End: day(10)}, State: coverage.Final, Source: "binance", Generation: 1, FetchedAt: day(9),
		})
	}))
	s.start("consumer", "--set=retention=1h=30d", "--set=removal.grace=1ms")
	s.until("the coverage is withdrawn", func() bool {
		var n int
		err := s.db.Pool.QueryRow(ctx, `SELECT count(*) FROM barkeep.segments WHERE state = 'unavailable' AND reason = 'retention' AND range_end = $1`, day(30).Time()).Scan(&n)
		return err == nil && n == 1
	})
	var rows int
	require.NoError(t, s.db.Pool.QueryRow(ctx, `SELECT count(*) FROM public.ohlcv`).Scan(&rows))
	require.Equal(t, 30*24, rows, "not before the lease is over")
}

// TestBackfillIsBulk: the command has bars fetched behind those for whom somebody waits, shows how far it is, and fetches nothing twice.
func TestBackfillIsBulk(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start("producer")
	s.start("consumer")
	r := minutes("2024-01-01T00:00:00Z", 4)
	s.exchange.Script(exchange.Fault{Path: "klines", Delay: 300 * time.Millisecond})
	args := []string{"backfill", symbol, "1m", r.Start.String(), r.End.String()}
	got := s.tool(args...)
	require.Zero(t, got.code, got.stderr)
	require.Contains(t, got.stdout, "is there")
	require.Contains(t, got.stderr, "of 4000 bars")
	var bulk, all int
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE priority = 0), count(*) FROM barkeep.job`).Scan(&bulk, &all))
	require.Positive(t, all)
	require.Equal(t, all, bulk)
	s.holds(r)
	s.once(r)
	require.Zero(t, s.tool(args...).code)
	s.once(r)
	got = s.tool("backfill", "binance:NONE", "1m", "2024-01-01")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "unknown")
	require.Contains(t, got.stderr, "barkeep.symbols", "what to do")
	s.exchange.Heal()
	s.exchange.Script(exchange.Fault{Path: "klines", Status: 400})
	require.Equal(t, 1, s.tool("backfill", symbol, "1m", "2023-01-01", "2023-01-02").code)
}

// TestRule8_AuditFindsRowsChangedByHand: what went past the triggers, and what the source has changed, is told bar by bar; nothing is changed
// unless told to.
func TestRule8_AuditFindsRowsChangedByHand(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.Equal(t, 1, s.tool("audit").code, "nothing is final yet")
	proxy := s.start("proxy")
	s.start("producer")
	s.start("consumer")
	conn := s.connect(proxy)
	r := minutes("2024-01-01T00:00:00Z", 3)
	s.right(r, s.asking(conn, r))
	got := s.tool("audit", symbol, "1m", "--pages=2")
	require.Zero(t, got.code, got.stderr)
	require.Contains(t, got.stdout, "2 pages with 2000 bars read again: 0 differ")

	at := func(n int64) time.Time { return market.M1.Add(r.Start, n).Time() }
	_, err := s.db.Pool.Exec(t.Context(), `UPDATE public.ohlcv SET close = close + 1 WHERE symbol = $1 AND ts = $2`, symbol, at(5))
	require.NoError(t, err)
	_, err = s.db.Pool.Exec(t.Context(), `DELETE FROM public.ohlcv WHERE symbol = $1 AND ts = $2`, symbol, at(2500))
	require.NoError(t, err)
	got = s.tool("audit")
	require.Equal(t, exitFound, got.code)
	require.Contains(t, got.stdout, "3 pages with 3000 bars read again: 2 differ")
	require.Contains(t, got.stdout, "stored "+market.FromTime(at(5)).String())
	require.Contains(t, got.stdout, "stored nothing, source "+market.FromTime(at(2500)).String())
	bars, err := ask(t.Context(), conn, r)
	require.NoError(t, err)
	require.Len(t, bars, 2999, "nothing was changed")

	// Of what was forgotten before a page at which it fails, everybody knows too.
	_, err = s.db.Pool.Exec(t.Context(), `CREATE SEQUENCE public.forgotten;
	  CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS 'begin if nextval(''public.forgotten'') > 1 then raise ''not this one''; end if; return new; end';
	  CREATE TRIGGER refuse BEFORE UPDATE OF generation ON barkeep.symbol FOR EACH ROW EXECUTE FUNCTION public.refuse()`)
	require.NoError(t, err)
	began := time.Now()
	got = s.tool("audit", "--repair")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "not this one")
	require.Equal(t, 1, strings.Count(got.stdout, ": forgotten"))
	require.GreaterOrEqual(t, time.Since(began), coverage.DefaultLease)
	_, err = s.db.Pool.Exec(t.Context(), `DROP FUNCTION public.refuse() CASCADE`)
	require.NoError(t, err)

	began = time.Now()
	require.Equal(t, exitFound, s.tool("audit", "--repair").code)
	require.GreaterOrEqual(t, time.Since(began), coverage.DefaultLease, "a proxy that was told of it late vouches no more")
	s.right(r, s.asking(conn, r))
	require.Zero(t, s.tool("audit").code)
	s.exchange.Script(exchange.Fault{Path: "klines", Status: 400})
	got = s.tool("audit")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "none of 3 pages")
}

// TestDoctor: a site that is well, and one where everything is wrong.
func TestDoctor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	got := s.tool("doctor")
	require.Contains(t, got.stdout, "ok       database: PostgreSQL")
	require.Contains(t, got.stdout, "ok       clock: the database's is")
	require.Contains(t, got.stdout, "warning  broker: topics are missing")
	require.Contains(t, got.stdout, "ok       source binance:")
	s.start("consumer")
	got = s.tool("doctor", "--no-sources")
	require.Contains(t, got.stdout, "ok       broker: 1 brokers, ")
	require.NotContains(t, got.stdout, "missing")
	require.NotContains(t, got.stdout, "source")

	_, err := s.db.Pool.Exec(t.Context(), `UPDATE barkeep.deployment SET id = gen_random_uuid()`)
	require.NoError(t, err)
	s.exchange.Script(exchange.Fault{Clock: -time.Hour})
	got = s.tool("doctor")
	require.Equal(t, exitFound, got.code)
	require.Contains(t, got.stdout, "WRONG    broker: the topics belong to another deployment")
	require.Contains(t, got.stdout, "its clock is at least")
	s.exchange.Heal()
	s.exchange.Script(exchange.Fault{Status: 503})
	require.Contains(t, s.tool("doctor").stdout, "sources.binance.enabled to false")

	got = runTool(t, "doctor", "--no-sources", "--upstream-url=postgres://postgres@127.0.0.1:1/x?sslmode=disable", "--brokers=127.0.0.1:1")
	require.Equal(t, exitFound, got.code)
	require.Contains(t, got.stdout, "do: start the database")
	require.Contains(t, got.stdout, "do: start the broker")
	plain := dbtest.NewPlain(t) // a hypertable's triggers cannot be disabled
	_, err = plain.Pool.Exec(t.Context(), `ALTER TABLE public.ohlcv DISABLE TRIGGER barkeep_guard`)
	require.NoError(t, err)
	got = runTool(t, "doctor", "--no-sources", "--upstream-url="+plain.URL, "--brokers="+s.brokers)
	require.Contains(t, got.stdout, "WRONG    database: triggers that guard ohlcv are disabled")
	require.Contains(t, got.stdout, "do: ALTER TABLE public.ohlcv ENABLE TRIGGER ALL")
	got = runTool(t, "doctor", "--no-sources", "--data-dir="+t.TempDir())
	require.Equal(t, exitFound, got.code)
	require.Contains(t, got.stdout, "start barkeep serve")
	got = runTool(t, "doctor", "--no-sources", "--upstream-url="+dbtest.Empty(t), "--brokers="+s.brokers)
	require.Equal(t, exitFound, got.code)
	require.Contains(t, got.stdout, "do: run barkeep migrate")
}
