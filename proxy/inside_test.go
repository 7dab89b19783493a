package proxy

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/catalog"
	"barkeep/internal/pgtest"
)

// concealed makes what defines something out of sight: make_it runs the SQL that is in a table. What a statement reads is hidden, or shown.
const concealed = `
create table public.defs (sql text);
create function public.make_it() returns int language plpgsql as 'declare q text; begin for q in select sql from public.defs loop execute q; end loop; return 1; end';
create procedure public.make_them() language plpgsql as 'begin perform public.make_it(); end';
create function public.obey() returns trigger language plpgsql as 'begin perform public.make_it(); return new; end';
create table public.orders (x int); create trigger obey before insert on public.orders for each row execute function public.obey();
create table public.late (x int); create constraint trigger obey after insert on public.late deferrable initially deferred for each row execute function public.obey();
create table public.plain as select symbol, timeframe, ts from public.ohlcv where false;
create view public.shown as select symbol, timeframe, ts from public.plain;
create view public.above as select * from public.shown;
create view public.daily as select symbol, timeframe, ts from public.ohlcv;
create function public.counted() returns bigint language sql as 'select count(*) from public.plain';
grant all on public.plain, public.shown, public.above, public.daily, public.defs, public.orders, public.late to public`

const (
	makesView = "create view hidden as select * from public.ohlcv"
	gapOf     = " where symbol = 'sim:LATUSD' and timeframe = '1m' and ts >= '2024-01-01 00:00Z' and ts < '2024-01-01 00:10Z'"
	readsIt   = "select count(*) from hidden" + gapOf
	readsOld  = "select count(*) from shown" + gapOf
)

// startConcealed starts a proxy with what defines something out of sight: of what is in defs.
func startConcealed(t *testing.T, defs ...string) *bar {
	t.Helper()
	b, names := startFresh(t)
	_, err := b.db.Pool.Exec(t.Context(), concealed)
	require.NoError(t, err)
	for _, sql := range defs {
		_, err := b.db.Pool.Exec(t.Context(), "insert into public.defs values ($1)", sql)
		require.NoError(t, err)
	}
	require.NoError(t, names.Refresh(t.Context()))
	return b
}

// TestRule3_WhatABlockHasDefinedOutOfSightIsKnownToIt: what a statement of a block defines by SQL of its own, which no text shows, is known
// when the next one is planned. It is filled or refused, and never answered from what is stored.
func TestRule3_WhatABlockHasDefinedOutOfSightIsKnownToIt(t *testing.T) {
	t.Parallel()
	const begin, run = "Q begin\nwait Z\n", "Q select make_it()\nwait Z\n"
	extended := func(sql string) string { return "P - " + sql + "\nB - -\nE -\n" }
	for name, c := range map[string]struct{ makes, script string }{
		"a function":             {makesView, begin + run + "Q " + readsIt + "\nwait Z"},
		"a function, extended":   {makesView, begin + extended("select make_it()") + "S\nwait Z\n" + extended(readsIt) + "S\nwait Z"},
		"a DO block":             {makesView, begin + "Q do 'begin perform make_it(); end'\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a procedure":            {makesView, begin + "Q call make_them()\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a trigger":              {makesView, begin + "Q insert into orders values (1)\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a trigger put off":      {makesView, begin + "Q insert into late values (1)\nwait Z\nQ select 1\nwait Z\nQ set constraints all immediate\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a COPY":                 {makesView, begin + "Q copy orders from stdin\nwait G\nd 1\nc\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a column's default":     {makesView, begin + "Q create table t (a int default make_it(), b int)\nwait Z\nQ insert into t (b) values (1)\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a savepoint":            {makesView, begin + "Q savepoint s\nwait Z\n" + run + "Q release s\nwait Z\nQ " + readsIt + "\nwait Z"},
		"after a rollback":       {makesView, begin + "Q savepoint s\nwait Z\n" + run + "Q rollback to s\nwait Z\n" + run + "Q " + readsIt + "\nwait Z"},
		"after a failure":        {makesView, begin + run + "Q savepoint s\nwait Z\nQ select 1/0\nwait Z\nQ rollback to s\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a block in a Query":     {makesView, "Q begin; select make_it()\nwait Z\nQ " + readsIt + "\nwait Z"},
		"pipelined Queries":      {makesView, "Q begin\nQ select make_it()\nQ " + readsIt + "\nwait Z 3"},
		"pipelined, no block":    {makesView, "Q select make_it()\nQ " + readsIt + "\nwait Z 2"},
		"pipelined segments":     {makesView, extended("begin") + "S\n" + extended("select make_it()") + "S\n" + extended(readsIt) + "S\nwait Z 3"},
		"one Query":              {makesView, "Q select make_it(); " + readsIt + "\nwait Z"},
		"one Query, committed":   {makesView, "Q select make_it(); commit; " + readsIt + "\nwait Z"},
		"one Query, in a block":  {makesView, begin + "Q insert into orders values (1); " + readsIt + "\nwait Z"},
		"one Query, a view":      {makesView, begin + "Q select make_it(); create view over as select * from hidden; select count(*) from over" + gapOf + "\nwait Z"},
		"one segment":            {makesView, extended("select make_it()") + extended(readsIt) + "S\nwait Z"},
		"one segment of a block": {makesView, extended("begin") + extended("select make_it()") + extended(readsIt) + extended("commit") + "S\nwait Z"},
		"one segment, flushed":   {makesView, begin + extended("select make_it()") + "H\nwait C\n" + extended(readsIt) + "S\nwait Z"},
		"a Query in a segment":   {makesView, begin + extended("select make_it()") + "Q " + readsIt + "\nwait Z"},
		"parsed before":          {makesView, begin + "P r select make_it()\nP v " + strings.ReplaceAll(readsOld, "shown", "above") + "\nS\nwait Z\nB - r\nE -\nS\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a portal":               {makesView, begin + "P - select make_it()\nB p -\nS\nwait Z\nQ select 1\nwait Z\nE p\nS\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a cursor":               {makesView, begin + "Q declare c cursor for select make_it()\nwait Z\nQ select 1\nwait Z\nQ fetch c\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a cursor over it":       {makesView, begin + run + "Q declare c cursor for " + readsIt + "\nwait Z\nQ fetch c\nwait Z"},
		"SQL EXECUTE":            {makesView, "Q prepare r as select make_it()\nwait Z\n" + begin + "Q execute r\nwait Z\nQ " + readsIt + "\nwait Z"},
		"SQL EXECUTE of it":      {makesView, begin + run + "Q prepare v as " + readsIt + "\nwait Z\nQ execute v\nwait Z"},
		"EXPLAIN ANALYZE":        {makesView, begin + "Q explain analyze select make_it()\nwait Z\nQ " + readsIt + "\nwait Z"},
		"CREATE TABLE AS":        {makesView, begin + "Q create table t as select make_it()\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a function of the block": {makesView, begin + "Q create function again() returns int language sql as 'select make_it()'\nwait Z\nQ select again()\nwait Z\nQ " +
			readsIt + "\nwait Z"},
		"a function of the block's own": {makesView, begin + "Q create function again() returns int language plpgsql as " +
			"'declare q text; begin select sql into q from public.defs; execute q; return 1; end'\nwait Z\nQ select again()\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a trigger of the block":  {makesView, begin + "Q create trigger o before insert on plain execute function obey()\nwait Z\nQ insert into plain values ('x')\nwait Z\nQ " + readsIt + "\nwait Z"},
		"made and run in a Query": {makesView, "Q create function again() returns int language sql as 'select make_it()'; select again(); " + readsIt + "\nwait Z"},

		"a temporary view":        {"create temp view hidden as select * from public.ohlcv", begin + run + "Q " + readsIt + "\nwait Z"},
		"a materialized view":     {"create materialized view hidden as select * from public.ohlcv with no data", begin + run + "Q refresh materialized view hidden\nwait Z\nQ " + readsIt + "\nwait Z"},
		"a view that is replaced": {"create or replace view public.shown as select symbol, timeframe, ts from public.ohlcv", begin + run + "Q " + readsOld + "\nwait Z"},
		"one that is below":       {"create or replace view public.shown as select symbol, timeframe, ts from public.ohlcv", begin + run + "Q select count(*) from above" + gapOf + "\nwait Z"},
		"parsed before it is replaced": {
			"create or replace view public.shown as select symbol, timeframe, ts from public.ohlcv",
			begin + "P v " + readsOld + "\nS\nwait Z\n" + run + "B - v\nE -\nS\nwait Z",
		},
		"prepared before it is replaced": {
			"create or replace view public.shown as select symbol, timeframe, ts from public.ohlcv",
			begin + "Q prepare v as " + readsOld + "\nwait Z\n" + run + "Q execute v\nwait Z",
		},
		"a view that is renamed":     {"alter view public.daily rename to hidden", begin + run + "Q " + readsIt + "\nwait Z"},
		"a table that is renamed":    {"alter table public.ohlcv rename to hidden", begin + run + "Q " + readsIt + "\nwait Z"},
		"a schema that is renamed":   {"alter schema public rename to old", begin + run + "Q set search_path = old\nwait Z\nQ " + strings.ReplaceAll(readsIt, "hidden", "ohlcv") + "\nwait Z"},
		"a view with another's name": {"alter view public.shown rename to x; alter view public.daily rename to shown", begin + run + "Q " + readsOld + "\nwait Z"},
		"a function that is replaced": {
			"create or replace function public.counted() returns bigint language sql as 'select count(*) from public.ohlcv" + strings.ReplaceAll(gapOf, "'", "''") + "'",
			begin + run + "Q select counted()\nwait Z",
		},
		"a rule": {"create table hidden (x bigint); create rule r as on update to hidden do instead select count(*) from public.ohlcv" + gapOf, begin + run + "Q update hidden set x = 1\nwait Z"},
		"a policy": {
			"create policy p on public.plain using ((select count(*) from public.ohlcv) > 0); alter table public.plain enable row level security; alter table public.plain force row level security",
			begin + run + "Q select count(*) from plain\nwait Z",
		},
		"a child": {"create view v as select 1; create foreign data wrapper w; create server s foreign data wrapper w; create foreign table hidden (x int) server s options (q 'select from ohlcv')", begin + run + "Q " + "select count(*) from hidden" + "\nwait Z"},
		"an operator": {
			"create function public.more(int, int) returns bigint language sql as 'select count(*) from public.ohlcv" + strings.ReplaceAll(gapOf, "'", "''") +
				"'; create operator public.=== (leftarg = int, rightarg = int, function = public.more)",
			begin + run + "Q select 1 === 2\nwait Z",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startConcealed(t, c.makes)
			got, err := pgtest.Seen(t.Context(), b.url, c.script)
			require.NoError(t, err, got)
			require.False(t, isShort(got), "an answer from what is stored: %q", got)
		})
	}
}

// isShort reports whether the last statement was answered, and not with the ten bars that there are.
func isShort(got []string) bool {
	for _, line := range got {
		if strings.HasPrefix(line, "E ERROR 0A000 ") || line == "D 10" {
			return false
		}
	}
	return true
}

// TestRule3_WhatABlockHasDefinedOutOfSightIsItsOwnAffair: what reads nothing of ohlcv is answered as PostgreSQL answers it, message by message,
// in the block and the pipeline in which it was made, and so is ohlcv itself where it is covered.
func TestRule3_WhatABlockHasDefinedOutOfSightIsItsOwnAffair(t *testing.T) {
	t.Parallel()
	const begin, run, makesTable = "Q begin\nwait Z\n", "Q select make_it()\nwait Z\n", "create table part as select 1 as x; create view over_part as select * from part; create temp table bare (x int)"
	extended := func(sql string) string { return "P - " + sql + "\nB - -\nE -\n" }
	batch := "P i insert into orders values ($1)\n" + strings.Repeat("B - i 1\nE -\n", 5)
	for name, c := range map[string]struct{ makes, script string }{
		"what was made":          {makesTable, begin + run + "Q select x from part\nwait Z\nQ insert into bare select x from over_part returning x\nwait Z\nQ commit\nwait Z\nQ select x from over_part\nwait Z"},
		"extended":               {makesTable, begin + extended("select make_it()") + "S\nwait Z\n" + extended("select x from over_part") + "S\nwait Z\nQ rollback\nwait Z\nQ select x from over_part\nwait Z"},
		"pipelined Queries":      {makesTable, "Q begin\nQ select make_it()\nQ select x from over_part\nQ commit\nwait Z 4"},
		"pipelined segments":     {makesTable, extended("begin") + "S\n" + extended("select make_it()") + "S\n" + extended("select x from over_part") + "S\n" + extended("commit") + "S\nwait Z 4"},
		"a batch":                {"", batch + extended("select count(*) from orders") + "S\nwait Z"},
		"a batch of a block":     {"", begin + batch + "S\nwait Z\n" + batch + extended("commit") + "S\nwait Z"},
		"one Query":              {"", "Q insert into orders values (1); insert into orders values (2); select count(*), max(x) from orders where x between 0 and 2; commit; select 1\nwait Z"},
		"one Query of all sorts": {"", "Q create temp table t (a int); select make_it(); insert into t select max(x)::int from orders; create index on t (a); select count(*) from t where a in (select x from orders); select make_it(); set work_mem = '5MB'; drop table t\nwait Z"},
		"a failed block":         {makesTable, begin + run + "Q select 1/0\nwait Z\nQ select 1\nwait Z\nQ rollback\nwait Z\nQ select 1\nwait Z"},
		"a failed definition":    {"create table part (x int); select 1/0", begin + run + "Q select 1\nwait Z\nQ rollback\nwait Z"},
		"savepoints": {makesTable, begin + "Q savepoint s\nwait Z\n" + run + "Q select x from part\nwait Z\nQ rollback to s\nwait Z\nQ savepoint t\nwait Z\nQ select x from part\nwait Z\nQ rollback to s\nwait Z\n" +
			run + "Q release s\nwait Z\nQ select x from part\nwait Z\nQ commit\nwait Z"},
		"a view that is taken back": {
			"create or replace view public.shown as select symbol, timeframe, ts from public.ohlcv",
			begin + "Q savepoint s\nwait Z\n" + run + "Q rollback to s\nwait Z\nQ " + readsOld + "\nwait Z\nQ rollback\nwait Z\nQ " + readsOld + "\nwait Z",
		},
		"a block that goes on": {makesTable, begin + run + "Q commit and chain\nwait Z\nQ select x from over_part\nwait Z\nQ rollback\nwait Z"},
		"read only":            {"", "Q begin read only\nwait Z\n" + run + "Q select 1\nwait Z\nQ insert into orders values (1)\nwait Z\nQ rollback\nwait Z"},
		"serializable":         {makesTable, "Q begin isolation level serializable\nwait Z\n" + run + "Q select x from over_part\nwait Z\nQ set transaction isolation level read committed\nwait Z\nQ rollback\nwait Z"},
		"settings":             {makesTable, begin + "Q set local statement_timeout = '7s'; set local search_path = public, pg_temp\nwait Z\n" + run + "Q select current_setting('statement_timeout'), current_setting('search_path'), x from part\nwait Z\nQ commit\nwait Z"},
		"a cursor":             {makesTable, begin + "Q declare c cursor for select g, make_it() * 0 from generate_series(1, 3) g limit 1\nwait Z\nQ fetch c\nwait Z\nQ select x from part\nwait Z\nQ fetch c\nwait Z\nQ commit\nwait Z"},
		"a portal":             {"", begin + "P - select g, make_it() from generate_series(1, 3) g\nB p -\nE p 1\nS\nwait Z\nQ select 1\nwait Z\nE p 1\nS\nwait Z\nQ commit\nwait Z"},
		"a COPY":               {"", begin + "Q copy orders from stdin\nwait G\nd 1\nc\nwait Z\nQ select x from orders\nwait Z\nQ copy orders to stdout\nwait Z\nQ commit\nwait Z"},
		"stored":               {makesView, "Q set barkeep.mode = stored\nwait Z\n" + begin + run + "Q " + readsIt + "\nwait Z\nQ select make_it() from hidden; " + readsIt + "\nwait Z\nQ rollback\nwait Z"},
		"prepared":             {makesTable, begin + "Q prepare r as select make_it()\nwait Z\nQ execute r\nwait Z\nQ select x from over_part\nwait Z\nQ rollback\nwait Z"},
		"a function of several statements": {"", begin + "Q create function several() returns int language plpgsql as 'begin create temp table made (x int); return 1; end'\nwait Z\n" +
			"Q select several()\nwait Z\nQ select x from made\nwait Z\nQ rollback\nwait Z"},
		"a parameter with a strange name": {"", begin + `Q create function pg_temp.square("'); drop table ""x"" --" int) returns int as 'select $1 * $1' language sql` + "\nwait Z\n" +
			"Q select * from pg_temp.square(3)\nwait Z\nQ rollback\nwait Z"},
		"a listener": {makesTable, begin + "Q listen a\nwait Z\n" + run + "Q notify a\nwait Z\nQ select x from part\nwait Z\nQ commit\nwait A"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defs := []string{c.makes}
			if c.makes == "" {
				defs = nil
			}
			direct, through := startConcealed(t, defs...), startConcealed(t, defs...)
			want, err := pgtest.Seen(t.Context(), direct.db.URL, c.script)
			require.NoError(t, err, want)
			got, err := pgtest.Seen(t.Context(), through.url, c.script)
			require.NoError(t, err, got)
			require.Equal(t, withoutNumbers(want), withoutNumbers(got))
		})
	}
}

// withoutNumbers drops what two databases number differently, and barkeep's own warnings.
func withoutNumbers(lines []string) (out []string) {
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "T "):
			out = append(out, "T")
		case !strings.HasPrefix(line, "N WARNING 01000 barkeep"):
			out = append(out, line)
		}
	}
	return out
}

// TestRule3_WhatABlockHasDefinedOutOfSightIsPlannedOnceItIsCommitted: and ohlcv is, in the block as ever.
func TestRule3_WhatABlockHasDefinedOutOfSightIsPlannedOnceItIsCommitted(t *testing.T) {
	t.Parallel()
	b := startConcealed(t, makesView)
	conn := b.connect(t, nil)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	var n int
	require.NoError(t, tx.QueryRow(t.Context(), "select make_it()").Scan(&n))
	require.NoError(t, tx.QueryRow(t.Context(), strings.Replace(readsIt, "hidden", "ohlcv", 1)).Scan(&n))
	require.Equal(t, 10, n)
	b.forget(nil)
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, conn.QueryRow(t.Context(), readsIt).Scan(&n))
	require.Equal(t, 10, n)
	require.Len(t, b.requested(), 2)
}

// TestRule3_ABlockIsAskedAsWhoeverItIs: in the session of a role that may do little, with another encoding, with a search_path and temporary
// relations that shadow those of pg_catalog, and with hardly any time for a statement.
func TestRule3_ABlockIsAskedAsWhoeverItIs(t *testing.T) {
	t.Parallel()
	b := startConcealed(t, `create temp view "häuser" as select * from public.ohlcv`, "create temp table pg_class (oid oid)")
	conn := b.connectWith(t, b.newRole(t, true), "&client_encoding=LATIN1")
	for _, sql := range []string{"set search_path = pg_temp, public", "begin", "select public.make_it()", "set local statement_timeout = '200ms'"} {
		require.NoError(t, simpleExec(conn, sql))
	}
	require.NoError(t, simpleExec(conn, "select count(*) from public.ohlcv"+gapOf))
	err := simpleExec(conn, "select count(*) from \"h\xe4user\""+gapOf)
	require.Equal(t, "0A000", code(err), "%v", err)
	require.NoError(t, simpleExec(conn, "rollback"))
}

// TestRule3_ABlockThatCannotBeAskedIsNotGuessedAt: what is not settled is refused with what kept the block from being asked, and only once
// something is asked for that is not.
func TestRule3_ABlockThatCannotBeAskedIsNotGuessedAt(t *testing.T) {
	t.Parallel()
	b := startConcealed(t, makesView)
	b.server.cfg.Catalog = unaskable{b.server.cfg.Catalog.(fresh)} //nolint:forcetypeassert // the tests' own
	conn := b.connect(t, nil)
	for _, sql := range []string{"begin", "select make_it()", "insert into plain select symbol from plain", "savepoint s"} {
		require.NoError(t, simpleExec(conn, sql), sql)
	}
	require.ErrorContains(t, simpleExec(conn, readsIt), "canceling statement")
	require.NoError(t, simpleExec(conn, "rollback to s"))
	require.ErrorContains(t, simpleExec(conn, readsOld), "canceling statement")
	require.NoError(t, simpleExec(conn, "rollback"))
	require.NoError(t, simpleExec(conn, readsOld))
}

// unaskable is a catalog whose question to a session is canceled.
type unaskable struct{ fresh }

func (u unaskable) Inside(ctx context.Context, ask catalog.Asker, _ *catalog.Own) (*catalog.Own, error) {
	_, err := ask(ctx, "select pg_catalog.convert_to(pg_catalog.pg_sleep(1)::text, 'UTF8') from (select pg_catalog.pg_cancel_backend(pg_catalog.pg_backend_pid())) canceled")
	return nil, err
}
