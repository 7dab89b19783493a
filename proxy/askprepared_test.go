package proxy

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// A question is asked of a prepared statement each time, with the types that the upstream has inferred.
func TestRule19_PreparedStatements(t *testing.T) {
	b := startWithLists(t)
	conn := b.connect(t, nil)
	_, err := conn.Prepare(t.Context(), "p", fromData("select symbol from watchlist where owner = $1 and length(symbol) > $2"))
	require.NoError(t, err)
	require.Empty(t, b.symbols())
	for owner, want := range map[string][]string{"me": {"sim:BTCUSD", "sim:ETHUSD"}, "you": {"sim:XRPUSD"}} {
		b.forget(nil)
		var n int
		require.NoError(t, conn.QueryRow(t.Context(), "p", owner, 3).Scan(&n))
		require.Equal(t, 10*len(want), n)
		require.Equal(t, want, b.symbols())
	}
	require.NoError(t, simpleExec(conn, "prepare q as "+fromData("select symbol from watchlist where owner = 'you'")))
	b.forget(nil)
	require.NoError(t, simpleExec(conn, "execute q"))
	require.Equal(t, []string{"sim:XRPUSD"}, b.symbols())
}

// EXECUTE's arguments stand in a question as what EXECUTE makes of them: as the types that PREPARE declares, or that the upstream has
// inferred.
func TestRule19_ArgumentsOfExecute(t *testing.T) {
	b := startWithLists(t)
	conn := b.connect(t, nil)
	of := fromData("select symbol from watchlist where owner = $1")
	for name, prepare := range map[string]string{"declared": "prepare p(name) as " + of, "inferred": "prepare p as " + of} {
		for _, block := range []bool{false, true} {
			require.NoError(t, simpleExec(conn, prepare), name)
			if block {
				require.NoError(t, simpleExec(conn, "begin"))
			}
			for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
				for owner, want := range map[string][]string{"'me'": {"sim:BTCUSD", "sim:ETHUSD"}, "lower('YOU')": {"sim:XRPUSD"}} {
					b.forget(nil)
					b.symbols()
					var n int
					require.NoError(t, conn.QueryRow(t.Context(), "execute p("+owner+")", mode).Scan(&n), name)
					require.Equal(t, 10*len(want), n)
					require.Equal(t, want, b.symbols())
				}
			}
			require.Equal(t, "0A000", code(simpleExec(conn, "execute p(random()::text)")))
			if block {
				require.NoError(t, simpleExec(conn, "rollback"))
			}
			require.NoError(t, simpleExec(conn, "deallocate p"))
		}
	}
	b.forget(nil)
	b.symbols()
	require.NoError(t, simpleExec(conn, "prepare q(text[]) as "+fromData("select symbol from watchlist where symbol = any($1)")+"; execute q(array['sim:XRPUSD'])"))
	require.Equal(t, []string{"sim:XRPUSD"}, b.symbols())
	err := simpleExec(conn, "execute gone('me')")
	require.Equal(t, "26000", code(err), "%v", err)
}

// PLANNER 19: a join with the user's own table bounds symbols and times by what the table holds, under the conditions on it alone;
// so do EXISTS and a correlated IN.
func TestRule19_JoinsWithTheUsersTable(t *testing.T) {
	b := startWithLists(t)
	_, err := b.db.Pool.Exec(t.Context(), `create table public.fills (symbol text, at timestamptz, size int);
		insert into public.fills values ('sim:BTCUSD', '2024-01-01 00:03Z', 1), ('sim:BTCUSD', '2024-01-01 00:06Z', 1), ('sim:ETHUSD', '2024-01-01 00:02Z', 2)`)
	require.NoError(t, err)
	const day = " o.timeframe = '1m' and o.ts >= '2024-01-01Z' and o.ts < '2024-01-02Z' and "
	for name, each := range map[string]struct {
		sql     string
		want    int
		symbols []string
	}{
		"join":       {"select count(*) from watchlist w join ohlcv o on o.symbol = w.symbol where" + day + "w.owner = 'me'", 20, []string{"sim:BTCUSD", "sim:ETHUSD"}},
		"using":      {"select count(*) from watchlist join ohlcv o using (symbol) where" + day + "owner = 'you'", 10, []string{"sim:XRPUSD"}},
		"left join":  {"select count(o.ts) from watchlist w left join ohlcv o on" + day + "o.symbol = w.symbol where w.owner = 'you'", 10, []string{"sim:XRPUSD"}},
		"exists":     {"select count(*) from ohlcv o where" + day + "exists (select from watchlist w where w.symbol = o.symbol and w.owner = 'you')", 10, []string{"sim:XRPUSD"}},
		"correlated": {"select count(*) from ohlcv o where" + day + "o.symbol in (select w.symbol from watchlist w where w.added <= o.ts and w.owner = 'you')", 5, []string{"sim:XRPUSD"}},
		"unnest":     {"select count(*) from unnest(array['sim:XRPUSD']) s(symbol) join ohlcv o on o.symbol = s.symbol where" + day + "true", 10, []string{"sim:XRPUSD"}},
		"char(n)":    {"select count(*) from ohlcv o where" + day + "o.symbol in (select w.symbol::char(20) from watchlist w where w.owner = 'you')", 10, []string{"sim:XRPUSD"}},
		"an expression": {
			"select count(*) from watchlist w join ohlcv o on o.symbol = replace(w.symbol, 'XRP', 'LTC') where" + day + "w.owner = 'you'",
			10,
			[]string{"sim:LTCUSD"},
		},
		"distinct on": {
			"select count(*) from (select distinct on (symbol) symbol, size from fills order by symbol, size desc) f join ohlcv o using (symbol) where" + day + "f.size = 2",
			10,
			[]string{"sim:ETHUSD"},
		},
		"row_number": {
			"select count(*) from ohlcv o where" + day + "symbol in (select symbol from (select symbol, row_number() over (order by at desc) as n from fills) f where n = 1)",
			10,
			[]string{"sim:BTCUSD"},
		},
		"three tables": {"select count(*) from watchlist join (select distinct symbol from fills) f using (symbol) join ohlcv o using (symbol) where" + day + "owner = 'me'", 20, []string{"sim:BTCUSD", "sim:ETHUSD"}},
		"around them":  {"select count(*) from fills f join ohlcv o on o.symbol = f.symbol and o.timeframe = '1m' and o.ts between f.at - interval '1 minute' and f.at where f.size = 1", 4, []string{"sim:BTCUSD"}},
		"asof": {
			"select count(*) from fills f cross join lateral (select o.close from ohlcv o where o.symbol = f.symbol and o.timeframe = '1m' and o.ts <= f.at order by o.ts desc limit 1) l",
			3,
			[]string{"sim:BTCUSD", "sim:ETHUSD"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, mode := range askModes {
				b.forget(nil)
				b.symbols()
				var n int
				require.NoError(t, b.connect(t, nil).QueryRow(t.Context(), each.sql, mode).Scan(&n))
				require.Equal(t, each.want, n)
				b.mu.Lock()
				if name == "around them" {
					ranges := b.asked[0].Requirements[0].Ranges
					require.Equal(t, "[2024-01-01T00:02:00Z, 2024-01-01T00:07:00Z)", ranges.String())
				}
				b.mu.Unlock()
				require.Equal(t, each.symbols, b.symbols())
			}
		})
	}
}
