package proxy

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// PLANNER 19: the table that a statement changes says which symbols it reads, as one that it only reads does; but not where a rule of
// it has the statement's subqueries executed anew.
func TestRule19_TheTableThatIsWritten(t *testing.T) {
	b := startWithLists(t)
	exec := func(sql string) {
		t.Helper()
		_, err := b.db.Pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	exec(`create table public.positions (symbol text, owner name, bars int); grant all on public.positions to public;
		create view public.mine as select * from public.positions where owner = 'me'; grant all on public.mine to public`)
	const of = "o.timeframe = '1m' and o.ts >= '2024-01-01Z' and o.ts < '2024-01-02Z'"
	for name, each := range map[string]struct {
		sql     string
		rows    int64
		symbols []string
	}{
		"update":      {"update positions p set bars = 1 from ohlcv o where o.symbol = p.symbol and p.owner = 'me' and " + of, 2, []string{"sim:BTCUSD", "sim:ETHUSD"}},
		"set":         {"update positions set bars = (select count(*) from ohlcv o where o.symbol = positions.symbol and " + of + ")", 3, []string{"sim:BTCUSD", "sim:ETHUSD", "sim:XRPUSD"}},
		"a view":      {"update mine set bars = 1 from ohlcv o where o.symbol = mine.symbol and " + of, 2, []string{"sim:BTCUSD", "sim:ETHUSD"}},
		"delete":      {"delete from positions p using ohlcv o where o.symbol = p.symbol and p.owner = 'you' and " + of, 1, []string{"sim:XRPUSD"}},
		"exists":      {"delete from positions p where not exists (select from ohlcv o where o.symbol = p.symbol and " + of + ")", 0, []string{"sim:BTCUSD", "sim:ETHUSD", "sim:XRPUSD"}},
		"merge":       {"merge into positions p using ohlcv o on o.symbol = p.symbol and p.owner = 'you' and o.ts = '2024-01-01 00:05Z' and " + of + " when matched then update set bars = 1", 1, []string{"sim:XRPUSD"}},
		"not matched": {"merge into positions p using ohlcv o on o.symbol = p.symbol and o.ts = '2024-01-01 00:05Z' and " + of + " when not matched by source then delete", 0, []string{"sim:BTCUSD", "sim:ETHUSD", "sim:XRPUSD"}},
		"with":        {"with gone as (delete from positions p using ohlcv o where o.symbol = p.symbol and p.owner = 'me' and " + of + " returning 1) select * from gone", 2, []string{"sim:BTCUSD", "sim:ETHUSD"}},
	} {
		t.Run(name, func(t *testing.T) {
			conn := b.connectWith(t, b.newRole(t, true), "")
			for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement} {
				exec("truncate public.positions; insert into public.positions select symbol, owner from public.watchlist where symbol is not null; delete from public.ohlcv")
				b.forget(nil)
				b.symbols()
				tag, err := conn.Exec(t.Context(), each.sql, mode)
				require.NoError(t, err)
				require.Equal(t, each.rows, tag.RowsAffected())
				require.Equal(t, each.symbols, b.symbols())
			}
		})
	}
	exec("create rule again as on update to public.positions do also insert into public.watchlist values ('sim:LTCUSD', 'me')")
	for _, table := range []string{"positions", "mine"} {
		err := simpleExec(b.connect(t, nil), "update "+table+" p set bars = 1 from ohlcv o where o.symbol = p.symbol and "+of)
		require.Equal(t, "0A000", code(err), "%v", err)
		require.ErrorContains(t, err, "the statement writes positions, which has a rule")
	}
	require.Empty(t, b.symbols())
}
