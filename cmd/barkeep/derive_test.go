package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"barkeep/backfill/source/sourcetest"
	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

// minutesOnly writes a folder of minutes alone, and returns what a database holds that has every timeframe of them. The first
// minute of each lies in the middle of an hour, a day and a week; HOLES has hours and days without any.
func minutesOnly(tb testing.TB, seed uint64) (dir string, bars map[market.Series][]market.Bar) {
	tb.Helper()
	dir, bars = tb.TempDir(), map[market.Series][]market.Bar{}
	rng := rand.New(rand.NewPCG(seed, 20))
	for i, name := range []string{"DDD", "HOLES"} {
		series := market.Series{Symbol: market.Symbol("file:" + name), Timeframe: market.M1}
		start := market.FromTime(grammarStart).Shift(time.Duration(347+60*i) * time.Minute)
		price := float64(64 * (i + 1))
		for n := range int64(4 * 1440) {
			ts := market.M1.Add(start, n)
			if name == "HOLES" && (rng.IntN(2) == 0 || n/200%3 == 1) {
				continue
			}
			b := market.Bar{TS: ts, Open: price, Volume: float64(rng.IntN(1024)) / 64}
			price += float64(rng.IntN(65)-32) / 32
			b.Close = price
			b.High, b.Low = max(b.Open, b.Close)+float64(rng.IntN(8))/32, min(b.Open, b.Close)-float64(rng.IntN(8))/32
			bars[series] = append(bars[series], b)
		}
		writeBars(tb, filepath.Join(dir, name+"_1m.csv.gz"), bars[series])
	}
	for series, minutes := range maps.Clone(bars) {
		for _, tf := range market.Timeframes()[1:] {
			bars[market.Series{Symbol: series.Symbol, Timeframe: tf}] = sourcetest.RollUp(minutes, tf)
		}
	}
	return dir, bars
}

// derived is a market whose source has minutes only, beside a database that has every timeframe of them.
func derived(t *testing.T, seed uint64) *comparison {
	t.Helper()
	dir, bars := minutesOnly(t, seed)
	return newComparison(t, "derived timeframes", dir, bars, scene{
		symbols: []string{"file:DDD", "file:HOLES"}, timeframes: []string{"1h", "1m", "5m", "4h", "1d", "1w"}, start: grammarStart,
	})
}

func barsOf(ctx context.Context, t *testing.T, conn *pgx.Conn, sql string, args ...any) (bars []market.Bar) {
	t.Helper()
	rows, err := conn.Query(ctx, sql, args...)
	require.NoError(t, err)
	bars, err = collectBars(rows)
	require.NoError(t, err)
	return bars
}

func collectBars(rows pgx.Rows) (bars []market.Bar, err error) {
	var ts time.Time
	var b market.Bar
	_, err = pgx.ForEachRow(rows, []any{&ts, &b.Open, &b.High, &b.Low, &b.Close, &b.Volume}, func() error {
		b.TS = market.FromTime(ts)
		bars = append(bars, b)
		return nil
	})
	return bars, err
}

const derivedBars = `select ts, open, high, low, close, volume from ohlcv where symbol = $1 and timeframe = $2 `

// A folder of minutes answers for every timeframe, the whole of it and n bars of it, and says what it is made of.
func TestRule20_AFolderOfMinutes(t *testing.T) {
	t.Parallel()
	dir, bars := minutesOnly(t, 1)
	s := startStack(t, dir)
	conn := connect(t, s.clientURL())
	for _, symbol := range []market.Symbol{"file:DDD", "file:HOLES"} {
		for _, tf := range slices.Backward(market.Timeframes()) {
			want := bars[market.Series{Symbol: symbol, Timeframe: tf}]
			require.NotEmpty(t, want)
			last := barsOf(t.Context(), t, conn, derivedBars+`and ts < '2024-03-12Z' order by ts desc limit 3`, string(symbol), tf.String())
			slices.Reverse(last)
			var before []market.Bar
			for _, b := range want {
				if b.TS < market.FromTime(time.Date(2024, 3, 12, 0, 0, 0, 0, time.UTC)) {
					before = append(before, b)
				}
			}
			require.Equal(t, before[max(len(before)-3, 0):], last, "%s %s", symbol, tf)
			require.Equal(t, want, barsOf(t.Context(), t, conn, derivedBars+`order by ts`, string(symbol), tf.String()), "%s %s", symbol, tf)
		}
	}
	var plan []string
	rows, err := conn.Query(t.Context(), `explain (barkeep) select * from ohlcv where symbol = 'file:DDD' and timeframe = '4h' and ts >= '2024-03-10Z' and ts < '2024-03-11Z'`)
	require.NoError(t, err)
	plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, plan, "  derived from 1m")
	_, err = conn.Exec(t.Context(), `select * from ohlcv where symbol = 'file:DDD' and timeframe = '7m'`)
	refused, found := errors.AsType[*pgconn.PgError](err)
	require.True(t, found, "%v", err)
	require.Equal(t, "22023", refused.Code)
	require.Contains(t, refused.Message, `unknown timeframe "7m"`)
	require.Contains(t, refused.Hint, market.TimeframeNames())
}

// Coinbase has neither 4h nor weeks: they are its hours' and its days', and each page of these is asked for once.
func TestRule20_AnExchangeThatHasFewTimeframes(t *testing.T) {
	t.Parallel()
	vendor := exchange.New(exchange.Config{})
	server := httptest.NewServer(vendor)
	t.Cleanup(server.Close)
	yes := true
	s := startStack(t, t.TempDir(), func(c *Config) {
		c.Sources["coinbase"] = Source{Enabled: &yes, URL: server.URL, Rate: 1000, Burst: 1000}
	})
	conn := connect(t, s.clientURL())
	r := market.Range{Start: market.W1.Floor(market.FromTime(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)))}
	r.End = market.W1.Add(r.Start, 6)
	explain := func(tf string) []string {
		rows, err := conn.Query(t.Context(), fmt.Sprintf(`explain (barkeep) select * from ohlcv where symbol = 'coinbase:BTCUSD' and timeframe = '%s'
		  and ts >= '%s' and ts < '%s'`, tf, r.Start, r.End))
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return lines
	}
	require.Eventually(t, func() bool {
		return strings.Contains(strings.Join(explain("4h"), "\n"), "  derived from 1h: missing: 1,008 bars "+r.String())
	}, 10*time.Second, 50*time.Millisecond, "once the list is read")
	for tf, base := range map[market.Timeframe]market.Timeframe{market.H4: market.H1, market.W1: market.D1} {
		want := sourcetest.RollUp(exchange.Truth("BTC", "USD", base, r), tf)
		for range 2 {
			got := barsOf(t.Context(), t, conn, derivedBars+`and ts >= $3 and ts < $4 order by ts`, "coinbase:BTCUSD", tf.String(), r.Start.Time(), r.End.Time())
			require.Equal(t, want, got, "%s", tf)
		}
		require.Contains(t, explain(tf.String()), "  derived from "+base.String())
	}
	for page, times := range vendor.Asked() { // minutes are what it finds the listing by
		require.Contains(t, []market.Timeframe{market.M1, market.H1, market.D1}, page.Timeframe)
		require.Equal(t, 1, times, "%v", page)
	}

	// The newest bars are those of the hours so far, the one that forms among them.
	for asked := (market.Range{}); asked.Empty(); {
		began := market.FromTime(time.Now())
		got := barsOf(t.Context(), t, conn, derivedBars+`order by ts desc limit 3`, "coinbase:BTCUSD", "4h")
		if market.FromTime(time.Now()) >= market.H1.Next(began) {
			continue // an hour began meanwhile
		}
		asked = market.Range{Start: market.H4.Add(began, -2), End: market.H1.Next(began)}
		want := sourcetest.RollUp(exchange.Truth("BTC", "USD", market.H1, asked), market.H4)
		slices.Reverse(want)
		require.Equal(t, want, got)
	}
	var states []string
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), `select array_agg(state) from barkeep.segments where symbol = 'coinbase:BTCUSD'
	  and timeframe = '4h' and range_end > now()`).Scan(&states))
	require.Equal(t, []string{"provisional"}, states, "the bar that forms is never vouched for")
}

// The consumer is killed in the middle of a roll-up: the next one does it, and the base is not fetched again. Two proxies ask at
// once.
func TestRule9_ConsumerKilledWhileItRollsUp(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first, second, _, consumer := s.start("proxy"), s.start("proxy"), s.start("producer"), s.start("consumer")
	r := market.Range{Start: market.D3.Floor(market.FromTime(time.Date(2018, 1, 1, 0, 0, 0, 0, time.UTC)))}
	r.End = market.D3.Add(r.Start, 500)
	days := barsOf(t.Context(), t, s.connect(first), derivedBars+`and ts >= $3 and ts < $4 order by ts`, "binance:BTCUSDT", "1d", r.Start.Time(), r.End.Time())
	require.Equal(t, exchange.Truth("BTC", "USDT", market.D1, r), days)
	lock, err := s.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = lock.Exec(t.Context(), `select from barkeep.symbol where symbol = 'binance:BTCUSDT' for update`)
	require.NoError(t, err)
	got := make(chan []market.Bar, 2)
	for _, proxy := range []*process{first, second} {
		conn := s.connect(proxy)
		go func() {
			rows, err := conn.Query(t.Context(), derivedBars+`and ts >= $3 and ts < $4 order by ts`, "binance:BTCUSDT", "3d", r.Start.Time(), r.End.Time())
			if err != nil {
				t.Errorf("ask: %v", err)
			}
			bars, err := collectBars(rows)
			if err != nil {
				t.Errorf("ask: %v", err)
			}
			got <- bars
		}()
	}
	s.until("the roll-up waits for the symbol", func() bool {
		var waiting int
		err := s.db.Pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = current_database()
		  and wait_event_type = 'Lock' and query like '%barkeep.symbol%FOR UPDATE%'`).Scan(&waiting)
		return err == nil && waiting > 0
	})
	consumer.kill()
	var derived int
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), `select count(*) from public.ohlcv where timeframe = '3d'`).Scan(&derived))
	require.Zero(t, derived)
	require.NoError(t, lock.Rollback(t.Context()))
	s.start("consumer")
	want := sourcetest.RollUp(exchange.Truth("BTC", "USDT", market.D1, r), market.D3)
	for range 2 {
		select {
		case bars := <-got:
			require.Equal(t, want, bars)
		case <-time.After(60 * time.Second):
			require.Fail(t, "no answer")
		}
	}
	for page, times := range s.exchange.Asked() {
		if page.Timeframe == market.D1 && page.Range.Overlaps(r) {
			require.Equal(t, 1, times, "%v", page)
		}
	}
}
