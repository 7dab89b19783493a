package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// TestRule13_PatternsOfSymbols: conditions that only the database decides are answered for every symbol that is bound or listed, as
// a full database answers them; a file that comes later is among them soon.
func TestRule13_PatternsOfSymbols(t *testing.T) {
	t.Parallel()
	dir, bars := randomMarket(t, 3)
	full := dbtest.New(t)
	fill(t, full.Pool, bars)
	stack := startStack(t, dir)
	direct, err := pgx.Connect(t.Context(), full.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = direct.Close(context.Background()) })
	through, err := pgx.Connect(t.Context(), stack.clientURL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = through.Close(context.Background()) })
	ask := func(conn *pgx.Conn, where string, args ...any) (answer string, err error) {
		err = conn.QueryRow(t.Context(), `select coalesce(string_agg(symbol || ' ' || n || ' ' || c, ', ' order by symbol collate "C"), '') from (
			select symbol, count(*) n, sum(close) c from ohlcv where (`+where+`) and timeframe = '1h' and ts >= '2024-03-09Z' and ts < '2024-03-12Z' group by symbol) x`, args...).Scan(&answer)
		return answer, err
	}
	for _, c := range []struct {
		where string
		args  []any
	}{
		{"symbol like 'file:%'", nil},
		{"symbol like 'file:%' and symbol <> 'file:GAP'", nil},
		{"symbol like $1 || '%'", []any{"file:B"}},
		{"symbol like 'file:%' and symbol not like '%A%'", nil},
		{"starts_with(symbol, 'file:') and symbol > 'file:AAA' and symbol::varchar(6) = 'file:B'", nil},
		{"starts_with(symbol, 'file:') and lower(symbol) = any($1)", []any{[]string{"file:aaa", "file:gap", "file:none"}}},
		{`symbol collate "C" between 'file:A' and 'file:C'`, nil},
		{"split_part(symbol, ':', 2) in ('AAA', 'GAP') and symbol ^@ 'file'", nil},
		{"symbol = 'file:' || upper('bbb')", nil},
		{"symbol = any(string_to_array('file:AAA,file:GAP', ','))", nil},
		{"symbol ilike 'FILE:b%' or symbol = 'file:AAA'", nil},
		{"symbol similar to 'file:(AAA|BBB)' and not (symbol like '%B')", nil},
		{"symbol like 'nobody:%'", nil},
	} {
		require.NoError(t, stack.emptied(t.Context()))
		want, err := ask(direct, c.where, c.args...)
		require.NoError(t, err, c.where)
		got, err := ask(through, c.where, c.args...)
		require.NoError(t, err, c.where)
		require.Equal(t, want, got, c.where)
		require.Equal(t, c.where == "symbol like 'nobody:%'", got == "", c.where)
	}

	require.NoError(t, stack.emptied(t.Context()))
	late := bars[market.Series{Symbol: "file:AAA", Timeframe: market.H1}]
	writeBars(t, filepath.Join(dir, "LATE_1h.csv.gz"), late)
	require.Eventually(t, func() bool { // a list is believed for a second
		got, err := ask(through, "symbol like 'file:L%'")
		require.NoError(t, err)
		return strings.Contains(got, "file:LATE ")
	}, 10*time.Second, 100*time.Millisecond)

	rows, err := through.Query(t.Context(), "explain (barkeep) select * from ohlcv where symbol like 'file:%' and timeframe = '1h' and ts = '2024-03-09Z'", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	text := strings.Join(lines, "\n")
	require.Contains(t, text, "file:LATE 1h from file")
	require.Contains(t, text, "symbols: 4 symbols that are bound or listed for symbol LIKE 'file:%'")

	_, err = through.Exec(t.Context(), "set barkeep.max_bars = 3")
	require.NoError(t, err)
	_, err = ask(through, "symbol like 'file:%'")
	require.Equal(t, "0A000", sqlState(err), "%v", err)
	require.ErrorContains(t, err, "the conditions on symbol hold for 4 symbols, and at most 3 can be read at once")
	_, err = through.Exec(t.Context(), "reset barkeep.max_bars; create function shout(text) returns text language sql immutable return upper($1)")
	require.NoError(t, err)
	_, err = ask(through, "shout(symbol) like 'FILE:%'")
	require.Equal(t, "0A000", sqlState(err), "%v", err)
}

// TestRule13_SymbolsWithoutAPrefix: a symbol without one is there once somebody has named it.
func TestRule13_SymbolsWithoutAPrefix(t *testing.T) {
	t.Parallel()
	stack := startStack(t, t.TempDir())
	through, err := pgx.Connect(t.Context(), stack.clientURL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = through.Close(context.Background()) })
	count := func(where string) (list []string) {
		rows, err := through.Query(t.Context(), "select symbol from ohlcv where ("+where+") and timeframe = '1h' and ts >= '2023-06-14Z' and ts < '2023-06-14 02:00Z' group by 1 order by 1")
		require.NoError(t, err, where)
		list, err = pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err, where)
		return list
	}
	require.Equal(t, []string{"sim:BTCEUR", "sim:BTCUSD", "sim:BTCUSDT"}, count("symbol like 'sim:BTC%'"))
	require.Empty(t, count("symbol like 'BTC%'"), "sim is served by its prefix only")
	all := count("symbol like 'sim:%'")
	require.Greater(t, len(all), 3)
	require.Equal(t, all, count("symbol like '%:%' and symbol not like 'file:%'"))
}
