package catalog

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/planner"
)

// TestRule3_WhatRunsUnnamed: a table or type whose default, trigger, rule, check, index, key or cast runs something that reads
// ohlcv is in the closure, temporary or not, and soon after it was made.
func TestRule3_WhatRunsUnnamed(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	c := New(db.Pool, nil, "")
	conn, err := db.Pool.Acquire(ctx) // temporary tables are a session's
	require.NoError(t, err)
	defer conn.Release()
	do := func(list ...string) {
		t.Helper()
		for _, sql := range list {
			_, err := conn.Exec(ctx, sql)
			require.NoError(t, err, sql)
		}
	}
	do(`create table public.plain (x int, s text)`,
		`create function public.bars() returns bigint language sql as $$select count(*) from public.ohlcv$$`,
		`create function public.ok(anyelement) returns boolean language plpgsql immutable as $$begin return public.bars() >= 0; end$$`,
		`create function public.fire() returns trigger language plpgsql as $$begin perform public.bars(); return new; end$$`,
		`create function public.harmless() returns bigint language sql as $$select 1::bigint$$`)
	require.NoError(t, c.Refresh(ctx))

	for _, each := range []struct{ name, sql string }{
		{"kept_default", `create table public.kept_default (x int, n bigint default public.bars())`},
		{"late_default", `create table public.late_default (x int, n bigint); alter table public.late_default alter n set default public.bars()`},
		{"passing_default", `create temp table passing_default (x int, n bigint default public.bars())`},
		{"passing_check", `create temp table passing_check (x int check (public.ok(x)))`},
		{"passing_trigger", `create temp table passing_trigger (x int); create trigger fire before insert on passing_trigger for each row execute function public.fire()`},
		{"passing_when", `create temp table passing_when (x int); create function public.nop() returns trigger language plpgsql as 'begin return new; end';
			create trigger nop before insert on passing_when for each row when (public.ok(new.x)) execute function public.nop()`},
		{"passing_rule", `create temp table passing_rule (x int); create rule r as on insert to passing_rule do also select public.bars()`},
		{"made_column", `create table public.made_column (x int, n boolean generated always as (public.ok(x)) stored)`},
		{"indexed", `create table public.indexed (x int); create index on public.indexed (public.ok(x))`},
		{"partly", `create table public.partly (x int); create index on public.partly (x) where public.ok(x)`},
		{"parted", `create table public.parted (x int) partition by list (public.ok(x))`},
		{"guarded_rows", `create table public.guarded_rows (x int); create policy p on public.guarded_rows using (public.ok(x))`},
		{"checked", `create domain public.checked as int check (public.ok(value))`},
		{"filled", `create domain public.filled as bigint default public.bars()`},
		{"of_checked", `create table public.of_checked (x public.checked)`},
		{"of_many", `create temp table of_many (x public.checked[])`},
		{"pair", `create type public.pair as (a int, b public.checked)`},
		{"takes", `create function public.takes(public.checked) returns int language sql as 'select 1'`},
		{"total", `create function public.adds(bigint, int) returns bigint language sql as 'select $1 + public.bars()'; create aggregate public.total(int) (sfunc = public.adds, stype = bigint)`},
		{"preset", `create function public.preset(n bigint default public.bars()) returns bigint language sql as 'select $1'`},
		{"coin", `create type public.coin as (cents int); create function public.mint(text) returns public.coin language sql as 'select row(public.bars()::int)::public.coin';
			create cast (text as public.coin) with function public.mint(text)`},
		{"upper_half", `create table public.upper_half (x int) partition by range (x);
			create table public.lower_half partition of public.upper_half for values from (0) to (10);
			create trigger fire before insert on public.lower_half for each row execute function public.fire()`},
		{"by_text", `create table public.by_text (x int, n xml default query_to_xml('select count(*) from ohlcv', true, true, ''))`},
		{"handed", `create function public.reads_any() returns trigger language plpgsql as $$begin execute format('select count(*) from %I', tg_argv[0]); return new; end$$;
			create table public.handed (x int); create trigger h before insert on public.handed for each row execute function public.reads_any('ohlcv')`},
		{"ranked", `create type public.rank as (n int); create function public.above(public.rank, public.rank) returns boolean language sql as 'select public.bars() > 0';
			create operator public.> (leftarg = public.rank, rightarg = public.rank, function = public.above); create table public.ranked (r public.rank)`},
		{"pulls", `create table public.pulls (x int primary key); create temp table unused (x int);
			create table public.pulled (x int references public.pulls on delete cascade); create trigger fire before delete on public.pulled for each row execute function public.fire()`},
	} {
		require.NotContains(t, c.Current().Names, each.name)
		do(each.sql)
		require.NoError(t, c.Refresh(ctx))
		require.Contains(t, c.Current().Names, each.name, each.sql)
	}

	for _, name := range []string{
		"kept_default", "late_default", "passing_default", "passing_check", "passing_trigger", "passing_when", "passing_rule", "made_column",
		"indexed", "partly", "upper_half", "lower_half", "by_text", "handed", "pulls", "pulled",
	} {
		require.Contains(t, c.Current().Written, name)
	}
	for _, name := range []string{"parted", "guarded_rows", "checked", "filled", "of_checked", "pair", "bars", "ok", "fire", "takes", "total", "coin"} {
		require.NotContains(t, c.Current().Written, name)
	}

	do(`create temp table harmless_one (x int, n bigint default public.harmless(), s text default 'text', d timestamptz default now())`,
		`create temp table legitimate as select * from public.ohlcv`,
		`create domain public.positive as int check (value > 0)`,
		`create table public.of_positive (x public.positive)`,
		`create table public.labels (kind text default 'ohlcv' check (kind in ('ohlcv', 'trades')))`,
		`create function public.colour(public.ohlcv) returns text language sql as $$select 'red'$$`)
	require.NoError(t, c.Refresh(ctx))
	for _, name := range []string{"plain", "harmless", "harmless_one", "legitimate", "positive", "of_positive", "labels", "colour", "int4", "text"} {
		require.NotContains(t, c.Current().Names, name)
	}

	do(`create function public.aged(bigint) returns interval language sql as 'select interval ''1 s'' * public.bars()'`,
		`create cast (bigint as interval) with function public.aged(bigint)`)
	require.NoError(t, c.Refresh(ctx))
	require.Contains(t, c.Current().Names, "interval", "any cast to it may run the function")

	do(`create view public.seen as select * from public.ohlcv`, `create temp table seen (x int)`)
	require.NoError(t, c.Refresh(ctx))
	require.Contains(t, c.Current().Views, "seen", "a temporary table of that name says nothing about what others read")
	do(`drop table seen`, `create temp table seen (x int, n bigint default public.bars())`)
	require.NoError(t, c.Refresh(ctx))
	require.NotContains(t, c.Current().Views, "seen", "one through which ohlcv is read does")
}

// TestRule3_DynamicFunctions: functions of users that make SQL of their arguments are known with the places of these, and
// views that call one are looked into.
func TestRule3_DynamicFunctions(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	c := New(db.Pool, nil, "")
	for _, sql := range []string{
		`create function public.dyn(since timestamptz, name text) returns bigint language plpgsql as $$declare n bigint; begin execute format('select count(*) from %I', name) into n; return n; end$$`,
		`create function public.by_oid(int, regclass) returns xml language sql as $$select table_to_xml($2, true, true, '')$$`,
		`create function public.spread(int, variadic text[]) returns int language plpgsql as $$begin execute $2[1]; return 1; end$$`,
		`create function public.passes_on(text) returns bigint language sql as $$select public.dyn(now(), $1)$$`,
		`create function public.parsed_on(a text) returns bigint begin atomic select public.dyn(now(), a); end`,
		`create function public."Odd-Name"(text) returns int language plpgsql as $$begin execute $1; return 1; end$$`,
		`create function public.numbers(int, interval, text) returns int language plpgsql as $$begin return length($3); end$$`,
		`create function public.counts_only(int, timestamptz[]) returns int language plpgsql as $$begin execute 'select $1' using $1; return 1; end$$`,
		`create function public.every_table() returns bigint language plpgsql as $$declare t text; n bigint; begin
			for t in select relname from pg_class where relkind = 'r' loop execute format('select count(*) from %I', t) into n; end loop; return n; end$$`,
		`create function public.by_default(name text default 'ohlcv') returns int language plpgsql as $$begin execute 'table ' || name; return 1; end$$`,
		`create function public.by_kind(kind text default 'ohlcv') returns int language plpgsql as $$begin return length(kind); end$$`,
		`create function public.escaped() returns bigint language plpgsql as $$begin return (select count(*) from U&"\006fhlcv"); end$$`,
		`create function public.each_fires() returns trigger language plpgsql as $$begin execute 'select 1'; return new; end$$`,
		`create table public.my_tables (name text)`,
		`create view public.sizes as select name, public.dyn(now(), name) from public.my_tables`,
		`create function public.of_table(public.my_tables) returns bigint language plpgsql as $$declare n bigint; begin execute 'select count(*) from ' || $1.name into n; return n; end$$`,
		`create function public.of_bars(public.my_tables) returns bigint language sql as 'select count(*) from public.ohlcv'`,
		`create view public.over_sizes as select * from public.sizes`,
	} {
		_, err := db.Pool.Exec(ctx, sql)
		require.NoError(t, err, sql)
	}
	require.NoError(t, c.Refresh(ctx))
	got := c.Current()
	require.Equal(t, map[string]uint64{"dyn": 0b10, "by_oid": 0b10, "spread": ^uint64(1), "passes_on": 1, "parsed_on": 1, "of_table": 1}, got.Dynamic)
	require.Equal(t, map[string]struct{}{"of_table": {}, "of_bars": {}}, got.Rows)
	for _, name := range []string{"sizes", "over_sizes"} {
		require.Contains(t, got.Views, name)
		require.Contains(t, got.Names, name)
	}
	require.Contains(t, got.Names, "odd-name", "a scan for words does not find it")
	require.Contains(t, got.Names, "every_table", "it finds ohlcv by itself")
	require.Contains(t, got.Names, "by_default")
	require.Contains(t, got.Names, "escaped")
	for _, name := range []string{"dyn", "by_kind", "numbers", "counts_only", "each_fires", "my_tables"} {
		require.NotContains(t, got.Names, name)
	}
	for sql, refused := range map[string]bool{
		`select * from over_sizes`: true, `select dyn(now(), 'my_tables')`: false, `select "Odd-Name"('x')`: true, `select m.of_bars from my_tables m`: true, `select (m).of_table from my_tables m`: true, `select m.name from my_tables m`: false, `select numbers(1, '1 s', x) from y`: false,
	} {
		env := planner.Env{Catalog: got}
		require.Equal(t, refused, planner.Prepare(sql, nil, env).Bind(planner.Args{}, env, planner.Bracket{}, nil).Refusal != nil, sql)
	}
}

// TestRule3_TimescaleRunsByName: TimescaleDB's procedures that run what is named elsewhere are in the closure.
func TestRule3_TimescaleRunsByName(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	c := New(db.Pool, nil, "")
	do := func(list ...string) {
		t.Helper()
		for _, sql := range list {
			_, err := db.Pool.Exec(ctx, sql)
			require.NoError(t, err, sql)
		}
		require.NoError(t, c.Refresh(ctx))
	}
	do(`create procedure public.tidy(int, jsonb) language sql as 'select 1'`)
	require.NotContains(t, c.Current().Names, "run_job")
	require.NotContains(t, c.Current().Dynamic, "refresh_continuous_aggregate")
	do(`create procedure public.sums(int, jsonb) language sql as 'select count(*) from public.ohlcv'`)
	require.Contains(t, c.Current().Names, "run_job")

	var licence *string
	require.NoError(t, db.Pool.QueryRow(ctx, `select current_setting('timescaledb.license', true)`).Scan(&licence))
	if licence == nil || *licence != "timescale" {
		return
	}
	do(`create materialized view public.days with (timescaledb.continuous) as
		select time_bucket('1 day', ts), symbol, max(high) from public.ohlcv group by 1, 2 with no data`)
	require.Contains(t, c.Current().Dynamic, "refresh_continuous_aggregate")
}

// TestRule3_EventTriggers: where an event trigger reads ohlcv each definition may, and nothing else.
func TestRule3_EventTriggers(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	c := New(db.Pool, nil, "")
	_, err := db.Pool.Exec(ctx, `create function public.watch() returns event_trigger language plpgsql as $$begin perform count(*) from public.ohlcv; end$$`)
	require.NoError(t, err)
	refused := func(sql string) bool {
		t.Helper()
		env := planner.Env{Catalog: c.Current()}
		return planner.Prepare(sql, nil, env).Bind(planner.Args{}, env, planner.Bracket{}, nil).Refusal != nil
	}
	definitions := []string{
		"create table x (a int)", "select 1 as a into x", "create temp table x as select 1", "drop table x", "comment on table x is 'y'",
		"grant select on x to public", "explain analyze create table x as select 1",
	}
	require.NoError(t, c.Refresh(ctx))
	for _, sql := range definitions {
		require.False(t, refused(sql), sql)
	}
	_, err = db.Pool.Exec(ctx, `create event trigger watch on ddl_command_end execute function public.watch()`)
	require.NoError(t, err)
	require.NoError(t, c.Refresh(ctx))
	for _, sql := range definitions {
		require.True(t, refused(sql), sql)
	}
	for _, sql := range []string{"select 1", "insert into x values (1)", "begin", "set timezone = 'UTC'", "explain create table x as select 1", "drop event trigger watch", "truncate x"} {
		require.False(t, refused(sql), sql)
	}
	_, err = db.Pool.Exec(ctx, `alter event trigger watch disable`)
	require.NoError(t, err)
	require.NoError(t, c.Refresh(ctx))
	require.False(t, refused("create table x (a int)"))
}

// TestRule3_AnOperatorForBuiltinTypes: where an operator of a user's may be taken for PostgreSQL's own, nothing is known of a comparison.
func TestRule3_AnOperatorForBuiltinTypes(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	c := New(db.Pool, nil, "")
	const sql = "select * from ohlcv where symbol = 'sim:BTCUSD'::varchar and timeframe = '1d' and ts = '2024-01-01Z'"
	refused := func() bool {
		t.Helper()
		require.NoError(t, c.Refresh(ctx))
		env := planner.Env{TimeZone: "UTC", Catalog: c.Current()}
		return planner.Prepare(sql, nil, env).Bind(planner.Args{}, env, planner.Bracket{}, nil).Refusal != nil
	}
	require.False(t, refused())
	for _, each := range []string{
		`create function public.other(text, varchar) returns boolean language sql as 'select $1 <> $2::text'`,
		`create operator public.### (leftarg = text, rightarg = varchar, function = public.other)`,
		`create type public.pair2 as (a int); create function public.same(public.pair2, public.pair2) returns boolean language sql as 'select true';
		 create operator public.= (leftarg = public.pair2, rightarg = public.pair2, function = public.same)`,
	} {
		_, err := db.Pool.Exec(ctx, each)
		require.NoError(t, err)
		require.False(t, refused(), each)
	}
	_, err := db.Pool.Exec(ctx, `create operator public.= (leftarg = text, rightarg = varchar, function = public.other)`)
	require.NoError(t, err)
	require.True(t, refused())
	_, err = db.Pool.Exec(ctx, `drop operator public.= (text, varchar)`)
	require.NoError(t, err)
	require.False(t, refused())
}

// TestRule9_AFunctionOfAComputedName: where a function of a user's may be taken for one that the planner computes with, or for one of one row
// that is an aggregate or gives several, nothing is known of its calls; the time_bucket that stands in for TimescaleDB's is none of a user's.
func TestRule9_AFunctionOfAComputedName(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	c := New(db.Pool, nil, "")
	known := func(name string) bool {
		t.Helper()
		require.NoError(t, c.Refresh(ctx))
		_, taken := c.Current().Names[name]
		return !taken
	}
	require.True(t, known("time_bucket"))
	for name, each := range map[string]string{
		"time_bucket":  `create function public.time_bucket(text, timestamptz) returns timestamptz immutable language sql as $$select $2 - interval '1 year'$$`,
		"to_timestamp": `create function public.to_timestamp(bigint) returns timestamptz immutable language sql as 'select pg_catalog.to_timestamp($1 / 1000.0)'`,
		"abs":          `create aggregate public.abs(text) (sfunc = textcat, stype = text)`,
		"upper":        `create function public.upper(int) returns setof int language sql as 'select 1'`,
	} {
		_, err := db.Pool.Exec(ctx, each)
		require.NoError(t, err, each)
		require.False(t, known(name), name)
	}
	_, err := db.Pool.Exec(ctx, `create function public.round(float8, int) returns float8 language sql as 'select $1'`)
	require.NoError(t, err)
	require.True(t, known("round"))
}

// TestRule13_FoldingCollations: a collation under which different texts are equal is seen when it is made.
func TestRule13_FoldingCollations(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	c := New(db.Pool, nil, "")
	require.NoError(t, c.Refresh(ctx))
	require.False(t, c.Current().Folds)
	_, err := db.Pool.Exec(ctx, `create collation public.folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`)
	require.NoError(t, err)
	require.NoError(t, c.Refresh(ctx))
	require.True(t, c.Current().Folds)
}

// TestSettersAreKnown: what may change settings of the session is known with everything by which it is called, in a database of
// either kind; there is no such thing before a user makes it.
func TestSettersAreKnown(t *testing.T) {
	t.Parallel()
	for kind, open := range map[string]func(testing.TB) *dbtest.DB{"hypertable": dbtest.New, "plain": dbtest.NewPlain} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := open(t)
			c := New(db.Pool, nil, "")
			require.NoError(t, c.Refresh(t.Context()))
			require.Empty(t, c.Current().Setters)
			for _, sql := range []string{
				"create function public.sets() returns void language plpgsql as $$ begin set search_path = x; end $$",
				"create function public.calls() returns int language sql as $$ select public.sets(); select 1 $$",
				"create function public.parsed() returns text language sql begin atomic select set_config('a.b', 'c', false); end",
				"create view public.shows as select public.parsed()",
				"create table public.filled (x int, y text default set_config('a.b', 'c', false))",
				"create function public.fires() returns trigger language plpgsql as $$ begin perform public.calls(); return new; end $$",
				"create table public.fired (x int)",
				"create trigger t before insert on public.fired for each row execute function public.fires()",
				"create function public.updates() returns trigger language plpgsql as $$ begin update public.still set x = 1; return new; end $$",
				"create table public.still (x int)",
				"create trigger t before insert on public.still for each row execute function public.updates()",
			} {
				_, err := db.Pool.Exec(t.Context(), sql)
				require.NoError(t, err, sql)
			}
			require.NoError(t, c.Refresh(t.Context()))
			require.ElementsMatch(t, []string{"sets", "calls", "parsed", "shows", "filled", "fires", "fired"}, slices.Collect(maps.Keys(c.Current().Setters)))
		})
	}
}
