package main

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// TestRule3_NothingReadsUnseen: a statement that makes the database read ohlcv by what is not named in it is refused, as soon as
// what it runs was made and in the transaction that makes it; others pass.
func TestRule3_NothingReadsUnseen(t *testing.T) {
	t.Parallel()
	s := startStack(t, t.TempDir())
	conn := connect(t, s.clientURL())
	do := func(sql string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err, sql)
	}
	refused := func(sql string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		var told *pgconn.PgError
		require.ErrorAs(t, err, &told, sql)
		require.Equal(t, "0A000", told.Code, "%s: %v", sql, err)
	}
	do(`create function bars() returns bigint language sql as $$select count(*) from ohlcv where symbol='sim:BTCUSD' and timeframe='1d' and ts >= '2024-01-01Z' and ts < '2024-02-13Z'$$`)
	do(`create function sound(int) returns boolean language sql immutable as $$select bars() > 0$$`)
	do(`create function fire() returns trigger language plpgsql as $$begin new.n := bars(); return new; end$$`)
	do(`create table kept (x int, n bigint)`)
	do(`insert into kept values (1, 1)`)
	for _, each := range []struct{ make, run string }{
		{`create temp table a (x int, n bigint default bars())`, `insert into a (x) values (1) returning n`},
		{`create temp table b (x int, n bigint); create trigger fire before insert on b for each row execute function fire()`, `insert into b values (1) returning n`},
		{`create temp table c (x int); create rule r as on insert to c do instead select bars()`, `insert into c values (1)`},
		{`create domain d as int check (sound(value))`, `select 1::d`},
		{`create domain e as int check (sound(value)); create temp table e1 (x e)`, `insert into e1 values (1)`},
		{`create temp table f (x int check (sound(x)))`, `insert into f values (1)`},
		{`create temp table g (x int, n boolean generated always as (sound(x)) stored)`, `insert into g values (1) returning n`},
		{`create table h (x int, n bigint default bars())`, `insert into h (x) values (1) returning n`},
		{`select 1`, `alter table kept add column m bigint default bars()`},
		{`select 1`, `alter table kept add check (sound(x))`},
		{`select 1`, `create index on kept (sound(x))`},
	} {
		do("begin")
		do(each.make)
		refused(each.run)
		do("rollback")
		do(each.make)
		refused(each.run)
		do("set barkeep.mode = stored")
		_, err := conn.Exec(t.Context(), "begin; "+each.run, pgx.QueryExecModeSimpleProtocol)
		require.False(t, err != nil && strings.Contains(err.Error(), "0A000"), "%s: %v", each.run, err)
		do("rollback")
		do("reset barkeep.mode")
	}
	// What is read of these is not ohlcv's.
	do(`create table orders (x int, n bigint); create trigger fire before insert or update on orders for each row execute function fire()`)
	refused(`insert into orders values (1)`)
	refused(`with o as (update orders set x = 2 returning *) select * from o`)
	refused(`copy orders from stdin`)
	do(`select * from orders o join a on a.x = o.x left join b on b.x = o.x where exists (select from f) or o.n = (select max(n) from h)`)
	do(`select * from orders for update; copy orders to stdout; declare c cursor with hold for select * from orders; create temp table copied as select * from orders`)
	do(`create view open_orders as select * from orders where n > 0`)
	do(`select count(*) from open_orders`)
	refused(`insert into open_orders values (1)`)
	do(`create function place(int) returns int language sql as $$insert into orders values ($1); select 1$$`)
	refused(`select place(1)`)
	do(`create temp table mine (like ohlcv); insert into mine select * from ohlcv where symbol='sim:BTCUSD' and timeframe='1d' and ts = '2024-01-01Z'`)
	do(`create domain positive as int check (value > 0); create temp table free (x positive default 1, d timestamptz default now()); insert into free default values`)
}

// TestRule3_NamesThatAreBuilt: a function that makes SQL of the name it is handed is refused where that may be ohlcv, and
// is not where it is something else.
func TestRule3_NamesThatAreBuilt(t *testing.T) {
	t.Parallel()
	s := startStack(t, t.TempDir())
	conn := connect(t, s.clientURL())
	_, err := conn.Exec(t.Context(), `create function dyn(t text, kind text) returns bigint language plpgsql as $$declare n bigint; begin
		execute format('select count(*) from %I where symbol = $1', t) into n using kind; return n; end$$;
		create table trades (symbol text); insert into trades values ('sim:BTCUSD'); create table labels (t text); insert into labels values ('trades')`)
	require.NoError(t, err)
	run := func(sql string, args ...any) (n int64, err error) {
		err = conn.QueryRow(t.Context(), sql, args...).Scan(&n)
		return n, err
	}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec} {
		for _, sql := range []string{
			`select dyn('oh'||'lcv', 'sim:BTCUSD')`, `select dyn(lower('OHLCV'), 'sim:BTCUSD')`, `select dyn('ohlcv', 'sim:BTCUSD')`,
			`select dyn(t, 'sim:BTCUSD') from labels`,
		} {
			_, err := run(sql, mode)
			require.ErrorContains(t, err, "0A000", sql)
		}
		_, err := run(`select dyn($1, 'sim:BTCUSD')`, mode, "ohlcv")
		require.ErrorContains(t, err, "0A000")
		n, err := run(`select dyn($1, 'sim:BTCUSD')`, mode, "trades")
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
		n, err = run(`select dyn('trades', 'sim:BTCUSD') + dyn(kind => 'x', t => 'trades')`, mode)
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	}
}
