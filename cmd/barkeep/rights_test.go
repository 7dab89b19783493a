package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// The keys of the locks that the hostile functions take. A lock of a session outlives what is rolled back, and says whose it is.
const (
	ranAsTheUser  = 4711
	ranWithRights = 4712
)

// hostileObjects are what a user makes of a watchlist: functions that look whether they could take barkeep's rights, and one that takes
// them, in views, in a policy, and where only their type says that they are called.
const hostileObjects = `
create table watchlist (symbol text, at timestamptz);
insert into watchlist values ('file:AAA', '2024-03-05Z');
create function look() returns boolean language plpgsql stable as $$ begin
  perform pg_advisory_lock_shared(case when pg_has_role(session_user, 'barkeep_service', 'member') then 4712 else 4711 end);
  return true;
end $$;
create function take() returns boolean language plpgsql stable as $$ begin
  perform set_config('role', 'none', true);
  perform pg_advisory_lock_shared(case when pg_has_role(current_user, 'barkeep_service', 'member') then 4712 else 4711 end);
  return true;
end $$;
create function named() returns text language sql immutable as $$ select case when look() then 'file:AAA' end $$;
create function moment() returns timestamptz language sql immutable as $$ select case when look() then timestamptz '2024-03-05Z' end $$;
create function same(text, varchar) returns boolean language sql immutable as $$ select look() $$;
create operator === (leftarg = text, rightarg = varchar, function = same);
create view looked as select * from watchlist where look();
create view taken as select * from watchlist where take();
create view nested as select * from looked;
create table guarded as table watchlist;
alter table guarded enable row level security, force row level security;
create policy own on guarded using (look());`

// TestT_NoFunctionTakesBarkeepsRights: run elsewhere under SET ROLE, a function in a view can take barkeep's rights (PLANNER 19). So none
// of a user's is run but in the user's session, whatever the mode.
func TestT_NoFunctionTakesBarkeepsRights(t *testing.T) {
	t.Parallel()
	c := triedMarket(t)
	pool := c.stack.db.Pool
	role := hostileRole(t, c)

	elsewhere, err := pgx.Connect(t.Context(), c.stack.db.URL)
	require.NoError(t, err)
	for _, view := range []string{"looked", "taken", "nested"} {
		mustExec(t, elsewhere, "set role "+role)
		mustExec(t, elsewhere, "select * from "+view)
		require.Positive(t, held(t, c, ranWithRights), "%s: what the rule was made for", view)
		mustExec(t, elsewhere, "reset role; select pg_advisory_unlock_all()")
	}
	require.NoError(t, elsewhere.Close(t.Context()))

	config, err := pgx.ParseConfig(strings.Replace(c.stack.clientURL(), pool.Config().ConnConfig.User+"@", role+"@", 1))
	require.NoError(t, err)
	user, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = user.Close(context.Background()) })
	mustExec(t, user, "select count(*) from ohlcv where symbol = 'file:AAA' and timeframe = '1d'") // so that there are rows to run them for
	for _, condition := range []string{
		"symbol in (select symbol from looked)", "symbol in (select symbol from taken)", "symbol in (select symbol from nested)",
		"symbol in (select symbol from guarded)", "symbol in (select symbol from watchlist where look())", "symbol = named()", "symbol like named()",
		"symbol === 'file:AAA'", "symbol = 'file:AAA' and ts >= moment()", "symbol = 'file:AAA' and ts >= (select max(at) from looked)",
		"symbol = 'file:AAA' and ts >= moment() - interval '1 day'", "exists (select from looked w where w.symbol = ohlcv.symbol)",
	} {
		for _, mode := range []string{"wait", "strict", "partial", "stored"} {
			mustExec(t, user, "set barkeep.mode = "+mode+"; set barkeep.timeout = '5s'; select pg_advisory_unlock_all()")
			const text = "select count(*) from ohlcv where timeframe = '1d' and "
			for _, sql := range []string{"explain (barkeep) " + text + condition, text + condition} {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				_, err := query(ctx, user, sql)
				cancel()
				require.Contains(t, []string{"", "0A000"}, sqlState(err), "%s: %v", sql, err)
				require.Zero(t, held(t, c, ranWithRights), "%s in mode %s", sql, mode)
			}
			if mode == "stored" {
				require.Positive(t, held(t, c, ranAsTheUser), "%s: the statement itself runs it", condition)
			}
		}
	}
}

// hostileRole makes a user without rights but to read ohlcv, and what the user has.
func hostileRole(t *testing.T, c *comparison) string {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), c.stack.db.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = admin.Close(context.Background()) })
	var role string
	require.NoError(t, admin.QueryRow(t.Context(), "select 'hostile_' || replace(gen_random_uuid()::text, '-', '')").Scan(&role))
	mustExec(t, admin, "create role "+role+" login; grant select on public.ohlcv to "+role+"; grant create on schema public to "+role)
	t.Cleanup(func() {
		_, err := admin.Exec(context.Background(), "reset role; drop owned by "+role+"; drop role "+role)
		require.NoError(t, err)
	})
	mustExec(t, admin, "set role "+role)
	mustExec(t, admin, hostileObjects)
	mustExec(t, admin, "reset role")
	return role
}

// held counts the sessions that hold the lock.
func held(t *testing.T, c *comparison, key int) int {
	t.Helper()
	var n int
	require.NoError(t, c.stack.db.Pool.QueryRow(t.Context(), `select count(*) from pg_locks where locktype = 'advisory' and objid = $1 and objsubid = 1
		and database = (select oid from pg_database where datname = current_database())`, key).Scan(&n))
	return n
}
