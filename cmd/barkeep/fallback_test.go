package main

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"barkeep/internal/exchange"
	"barkeep/internal/market"
)

// TestRule10_Fallback: Kraken keeps 720 bars. What lies before is Bitstamp's where the setting says so, and an error that names Bitstamp where it
// does not. The coverage says whose bars they are, audit reads each from where it came from, and forget forgets both.
func TestRule10_Fallback(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.vendors = []string{"bitstamp", "kraken"}
	mixing, plain := s.start("proxy", "--set=sources.kraken.fallback=bitstamp"), s.start("proxy")
	s.start("producer")
	s.start("consumer")
	hours := market.Series{Symbol: "BTCUSD", Timeframe: market.H1}
	now := market.FromTime(time.Now())
	r := market.Range{Start: market.H1.Add(market.H1.Floor(now), -1200), End: market.H1.Add(market.H1.Floor(now), -100)}
	truth := exchange.Truth("BTC", "USD", market.H1, r)
	conn := s.connect(plain)
	_, err := askFor(t.Context(), conn, hours, r)
	require.NoError(t, err, "Bitstamp is preferred")
	got := s.tool("forget", "BTCUSD", "--source=kraken")
	require.Zero(t, got.code, got.stderr)
	s.exchange.Forget()

	require.Eventually(t, func() bool { // removals are seen within the lease
		_, err = askFor(t.Context(), conn, hours, r)
		return err != nil
	}, 30*time.Second, 50*time.Millisecond)
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "58000", refused.Code)
	require.Contains(t, refused.Hint, "bitstamp:BTCUSD")
	require.Zero(t, s.pages("bitstamp", hours.Timeframe))

	conn = s.connect(mixing)
	rows, err := conn.Query(t.Context(), `explain (barkeep) select * from ohlcv where symbol = 'BTCUSD' and timeframe = '1h' and ts >= now() - interval '40 days'`)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, lines, "BTCUSD 1h from kraken, else bitstamp")
	bars, err := askFor(t.Context(), conn, hours, r)
	require.NoError(t, err)
	s.same(truth, bars, "answer")
	once := s.pages("bitstamp", hours.Timeframe)
	require.Positive(t, once)
	bars, err = askFor(t.Context(), s.connect(plain), hours, r)
	require.NoError(t, err, "what is stored is for all")
	s.same(truth, bars, "answer")
	require.Equal(t, once, s.pages("bitstamp", hours.Timeframe), "all of it once")

	got = s.tool("coverage", "BTCUSD", "1h")
	require.Contains(t, got.stdout, "bitstamp")
	require.Contains(t, got.stdout, "kraken")
	got = s.tool("audit", "BTCUSD", "1h")
	require.Zero(t, got.code, got.stderr)
	require.Contains(t, got.stdout, "(bitstamp): as the source says")
	require.Contains(t, got.stdout, "(kraken): as the source says")

	once = s.pages("bitstamp", hours.Timeframe)
	got = s.tool("forget", "BTCUSD", "1h")
	require.Zero(t, got.code, got.stderr)
	require.Contains(t, got.stdout, "what bitstamp:BTCUSD had lent is forgotten there too")
	require.Eventually(t, func() bool {
		bars, err = askFor(t.Context(), conn, hours, r)
		require.NoError(t, err)
		s.same(truth, bars, "answer")
		return s.pages("bitstamp", hours.Timeframe) > once
	}, 30*time.Second, 50*time.Millisecond, "it is fetched again")
}

// pages returns how many pages of a timeframe a vendor was asked for, one that was asked for twice counted so.
func (s *site) pages(venue string, tf market.Timeframe) (n int) {
	for page, times := range s.exchange.Asked() {
		if page.Venue == venue && page.Timeframe == tf {
			n += times
		}
	}
	return n
}
