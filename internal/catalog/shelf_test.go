package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/planner"
)

// TestRule3_ChangesAreAllThatIsLoaded: what is kept of an earlier load and what was read for a change make the catalog that is loaded from
// nothing, after every kind of definition.
func TestRule3_ChangesAreAllThatIsLoaded(t *testing.T) {
	t.Parallel()
	for kind, open := range map[string]func(testing.TB) *dbtest.DB{"hypertable": dbtest.New, "plain": dbtest.NewPlain} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := open(t)
			ctx := t.Context()
			c := New(db.Pool, nil, "")
			require.NoError(t, c.Refresh(ctx))
			conn, err := db.Pool.Acquire(ctx) // temporary tables are a session's
			require.NoError(t, err)
			defer conn.Release()
			for _, sql := range definitions {
				_, err := conn.Exec(ctx, sql)
				require.NoError(t, err, sql)
				require.NoError(t, c.Refresh(ctx))
				whole := New(db.Pool, nil, "")
				require.NoError(t, whole.Refresh(ctx))
				require.Equal(t, said(whole), said(c), sql)
			}
		})
	}
}

// said is what a catalog tells the planner.
func said(c *Catalog) planner.Catalog {
	out := *c.Current()
	out.Version, out.Dependents, out.Known, out.Names = 0, nil, nil, maps.Clone(out.Names)
	names := slices.Sorted(maps.Keys(c.Current().Names))
	for _, name := range append(names, "plain", "later", "twin", "kept", "bare", "free", "moved") {
		// As a view would say it, so that it is compared and shown with the rest.
		out.Names[name+" by "+strings.Join(c.Current().Dependents([]string{name}), ",")] = struct{}{}
	}
	return out
}

// definitions are run one after the other: each kind alone, upon what was there before.
var definitions = []string{ //nolint:gochecknoglobals // a table
	`create table public.plain (x int primary key, s text not null)`,
	`create table public.serial (x serial primary key, s text)`,
	`create view public.daily as select symbol, ts, open, close from public.ohlcv where timeframe = '1d'`,
	`create view public.free as select x, s from public.plain`,
	`create view public.over_daily as select d.ts, d.close, p.s from public.daily d join public.plain p on p.x > 0`,
	`alter view public.daily rename column open to first`,
	`alter view public.daily rename column symbol to name`,
	`alter table public.plain rename column s to label`,
	`alter table public.plain rename to moved`,
	`alter view public.daily rename to later`,
	`alter view public.later set (security_barrier = true)`,
	`alter view public.later reset (security_barrier)`,
	`create schema other`,
	`alter view public.later set schema other`,
	`alter schema other rename to elsewhere`,
	`create table public.later (x int)`,
	`drop table public.later`,
	`create type public.twin as (a int, b text)`,
	`create view elsewhere.twin as select * from public.ohlcv`,
	`drop type public.twin`,
	`create function public.bars() returns bigint language sql as 'select count(*) from public.ohlcv'`,
	`create function public.ok(int) returns boolean language plpgsql immutable as 'begin return public.bars() > $1; end'`,
	`create temp table bare (x int, n bigint)`,
	`alter table bare alter n set default public.bars()`,
	`alter table bare add check (public.ok(x))`,
	`alter table bare alter n drop default`,
	`create index on public.moved (public.ok(x))`,
	`drop index public.moved_ok_idx`,
	`create domain public.checked as int`,
	`create type public.pair as (a int, b public.checked)`,
	`alter domain public.checked add constraint c check (public.ok(value))`,
	`alter domain public.checked set default 1`,
	`create table public.of_pair (p public.pair)`,
	`create function public.fire() returns trigger language plpgsql as 'begin perform public.bars(); return new; end'`,
	`create trigger fire before insert on public.moved for each row execute function public.fire()`,
	`alter function public.bars() rename to counted`,
	`create view public.asks as select public.counted() as n, public.ok(1) as yes`,
	`create or replace function public.ok(int) returns boolean language plpgsql immutable as 'begin return true; end'`,
	`alter function public.ok(int) rename to fine`,
	`create policy p on public.moved using (public.fine(x))`,
	`drop policy p on public.moved`,
	`create rule r as on insert to public.serial do also select public.counted()`,
	`drop rule r on public.serial`,
	`create operator public.=== (leftarg = int, rightarg = int, function = pg_catalog.int4eq)`,
	`create view public.alike as select o.symbol, 1 operator(public.===) 1 as same, null::public.pair as pair from public.ohlcv o`,
	`alter operator public.=== (int, int) set schema elsewhere`,
	`alter type public.pair rename to couple`,
	`alter domain public.checked rename to verified`,
	`create or replace view public.alike as select o.symbol, true as same, null::public.couple as pair from public.ohlcv o`,
	`create view public.cast_to as select 1::public.verified as one from public.ohlcv`,
	`alter domain public.verified rename to proven`,
	`create function public.same(text, varchar) returns boolean language sql as 'select true'`,
	`create operator public.= (leftarg = text, rightarg = varchar, function = public.same)`,
	`drop operator public.= (text, varchar)`,
	`create function public.aged(bigint) returns interval language sql as 'select interval ''1 s'' * public.counted()'`,
	`create cast (bigint as interval) with function public.aged(bigint)`,
	`drop cast (bigint as interval)`,
	`create collation public.folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`,
	`drop collation public.folding`,
	`create table public.many (x int) partition by range (x)`,
	`create table public.few partition of public.many for values from (0) to (10)`,
	`create trigger fire before insert on public.few for each row execute function public.fire()`,
	`alter table public.many detach partition public.few`,
	`create table public.child () inherits (public.few)`,
	`create table public.refers (x int references public.moved on delete cascade)`,
	`create function public.watch() returns event_trigger language plpgsql as 'begin perform public.counted(); end'`,
	`create event trigger watch on ddl_command_end execute function public.watch()`,
	`alter event trigger watch disable`,
	`drop event trigger watch`,
	`create function public.dyn(text) returns bigint language plpgsql as $$declare n bigint; begin execute 'select count(*) from ' || $1 into n; return n; end$$`,
	`create view public.sizes as select public.dyn(label) from public.moved`,
	`create function public.sets() returns text language sql begin atomic select set_config('a.b', 'c', false); end`,
	`alter table public.serial alter s set default public.sets()`,
	`create function public.date_trunc(text, date) returns date language sql immutable as 'select $2'`,
	`create materialized view public.kept as select count(*) as n from public.ohlcv`,
	`refresh materialized view public.kept`,
	`create foreign data wrapper nobody; create server nowhere foreign data wrapper nobody;
	 create foreign table public.far (x int) server nowhere options (query 'select * from ohlcv')`,
	`alter foreign table public.far options (set query 'select 1')`,
	`alter foreign table public.far options (set query 'select 1 from ohlcv')`,
	`create function public.defines() returns trigger language plpgsql as 'begin drop view if exists public.nothing; return new; end'`,
	`create table public.orders (x int); create trigger orders before insert on public.orders for each row execute function public.defines()`,
	`create table public.loaded as select * from public.ohlcv`,
	`select * into public.loaded_too from public.ohlcv`,
	`create temp view passing as select * from public.ohlcv`,
	`alter table public.ohlcv rename to bars_of_old`,
	`create table public.ohlcv (symbol text, timeframe text, ts timestamptz)`,
	`drop table public.ohlcv; alter table public.bars_of_old rename to ohlcv`,
	`drop view elsewhere.later cascade`,
	`drop function public.counted() cascade`,
	`drop table public.moved cascade`,
	`drop schema elsewhere cascade`,
	`discard temp`,
}

// TestRule3_APlainTableLoadsRelationsAlone: a table in which nothing runs leaves what is costly to read as it was.
func TestRule3_APlainTableLoadsRelationsAlone(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	ctx := t.Context()
	c := New(db.Pool, nil, "")
	require.NoError(t, c.Refresh(ctx))
	for i, sql := range []string{
		`create table public.plain (x int primary key, s text not null, unique (s))`, `create index on public.plain (s)`, `drop table public.plain`,
		`create table public.one (x serial primary key, y text)`, `create table public.two (a bigserial, b smallserial, x int references public.one)`,
		`create table public.three (x int generated always as identity, y varchar(10) collate "C")`, `drop table public.two, public.one`,
		`create table public.loaded as select 1 as one`, `alter table public.loaded rename to laden`, `truncate public.laden`,
	} {
		before := c.known
		_, err := db.Pool.Exec(ctx, sql)
		require.NoError(t, err, sql)
		require.NoError(t, c.Refresh(ctx))
		require.NotEqual(t, before.state, c.known.state, sql)
		changed := c.known.since(before)
		changed[partRelation] = false
		require.Equal(t, changes{}, changed, fmt.Sprint(i, sql))
	}
}
