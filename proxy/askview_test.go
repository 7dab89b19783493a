package proxy

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// PLANNER 19: what a view takes from the user's data it reads with its owner's rights. It is asked with those of the session's role, who
// may be refused it, and not where the answer may be another for another role.
func TestRule19_SubqueriesOfViews(t *testing.T) {
	b := startWithLists(t)
	exec := func(sql string) {
		t.Helper()
		_, err := b.db.Pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	exec(`create view public.mine as select ts, close, timeframe from public.ohlcv where symbol in (select symbol from public.watchlist where owner = 'me');
		create view public.theirs as with w as (select * from public.watchlist where owner <> 'me') select w.added, o.* from public.ohlcv o join w on o.symbol = w.symbol::text;
		create view public.own as select timeframe, ts from public.ohlcv where symbol in (select symbol from public.watchlist where owner = current_user);
		grant select on public.mine, public.theirs, public.own to public`)
	require.NoError(t, b.server.cfg.Catalog.(interface { //nolint:forcetypeassert // the tests' own
		Refresh(ctx context.Context) error
	}).Refresh(t.Context()))
	const of = " where timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
	role := b.newRole(t, true)
	exec("insert into public.watchlist values ('sim:LTCUSD', '" + role + "')")
	conn := b.connectWith(t, role, "")
	count := func(sql string) (n int) {
		t.Helper()
		b.forget(nil)
		b.symbols()
		require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&n))
		return n
	}
	require.Equal(t, 20, count("select count(*) from mine"+of))
	require.Equal(t, []string{"sim:BTCUSD", "sim:ETHUSD"}, b.symbols())
	require.Equal(t, 20, count("select count(*) from theirs"+of))
	require.Equal(t, []string{"sim:LTCUSD", "sim:XRPUSD"}, b.symbols())
	require.Equal(t, 10, count("select count(*) from own"+of), "current_user is who asks")
	require.Equal(t, []string{"sim:LTCUSD"}, b.symbols())
	require.NoError(t, simpleExec(conn, "create temp table watchlist as select 'sim:ADAUSD' as symbol, name 'me' as owner"))
	require.Equal(t, 20, count("select count(*) from mine"+of), "a view's relation is the one that it was made with")
	require.Equal(t, []string{"sim:BTCUSD", "sim:ETHUSD"}, b.symbols())

	refused := func(why string) {
		t.Helper()
		for _, view := range []string{"mine", "theirs"} {
			err := simpleExec(conn, "select count(*) from "+view+of)
			require.Equal(t, "0A000", code(err), "%s: %v", view, err)
			require.ErrorContains(t, err, why)
		}
	}
	exec("alter table public.watchlist enable row level security; create policy p on public.watchlist using (owner = 'me')")
	refused("it is part of a view and reads watchlist, which has row security")
	exec("alter table public.watchlist disable row level security; revoke all on public.watchlist from public")
	refused("which its owner may read: permission denied for table watchlist")
	require.Empty(t, b.symbols())
}
