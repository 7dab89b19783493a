package proxy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	// called makes what portals call, and plain_it, which reads a table of that name as long as it is one.
	called = `
create function public.f(int) returns bigint language plpgsql as 'begin return 7; end';
create function public.g(int) returns bigint language plpgsql as 'begin return public.f($1); end';
create function public.ff(int, int) returns bigint language plpgsql as 'begin return 7; end';
create operator public.=== (leftarg = int, rightarg = int, function = public.ff);
create view public.over_f as select public.f(x) as n from generate_series(1, 5) x;
create table public.told (x int);
create function public.count_told(int) returns bigint language plpgsql as 'begin return (select count(*) from told); end'`

	readsBars  = "select count(*) from public.ohlcv where symbol = ''sim:ETHUSD'' and timeframe = ''1m'' and ts >= ''2024-01-01Z'' and ts < ''2024-01-02Z''"
	madeOver   = "create or replace function public.f(int) returns bigint language plpgsql as 'begin return (" + readsBars + "); end'"
	ffMadeOver = "create or replace function public.ff(int, int) returns bigint language plpgsql as 'begin return (" + readsBars + "); end'"
	harmless   = "create or replace function public.f(int) returns bigint language plpgsql as 'begin return 8; end'"
)

// startCalled starts a proxy with what portals call; make_it defines what is given.
func startCalled(t *testing.T, out string) *bar {
	t.Helper()
	b := startConcealed(t, out)
	_, err := b.db.Pool.Exec(t.Context(), called)
	require.NoError(t, err)
	require.NoError(t, b.server.cfg.Catalog.(fresh).Refresh(t.Context())) //nolint:forcetypeassert // the tests' own
	return b
}

// PROTOCOL 1: a function is looked up when it is called, not when the portal is bound that calls it. One that its block has made over since, so that
// it reads ohlcv, is not run without its bars.
func TestAPortalWhoseFunctionIsMadeOver(t *testing.T) {
	b := startCalled(t, madeOver)
	const (
		end    = "S\nwait Z\n"
		begin  = "Q begin\nwait Z\n"
		calls  = "select f(x) from generate_series(1, 5) x"
		again  = "Q " + madeOver + "\nwait Z\n"
		run    = "Q select make_it()\nwait Z\n"
		cursor = begin + "Q declare c cursor for " + calls + "\nwait Z\n"
		named  = begin + "P x " + calls + "\nB q x\n"
		defn   = "P d " + madeOver + "\nB d d\nE d\n"
	)
	for name, script := range map[string]string{
		"FETCH, the first":           cursor + again + "Q fetch 1 from c\nwait Z",
		"FETCH, further":             cursor + "Q fetch 1 from c\nwait Z\n" + again + "Q fetch 1 from c\nwait Z",
		"FETCH, extended":            cursor + again + "P - fetch 1 from c\nB - -\nE -\n" + end,
		"FETCH, in quotes":           strings.Replace(cursor, "declare c", `declare "C ""x"`, 1) + again + `Q fetch 1 from "C ""x"` + "\nwait Z",
		"FETCH, several in a Query":  cursor + again + "Q select 1; fetch 1 from c\nwait Z",
		"FETCH, in a DO":             cursor + again + "Q do $$ declare c refcursor := 'c'; n bigint; begin fetch c into n; raise notice 'D %', n; end $$\nwait Z",
		"FETCH, bound before":        cursor + "P x fetch 1 from c\nB q x\n" + end + again + "E q\n" + end,
		"FETCH, in the definition's": cursor + "Q " + madeOver + "; fetch 1 from c\nwait Z",
		"FETCH, all in one Query":    "Q begin; declare c cursor for " + calls + "; " + madeOver + "; fetch 1 from c\nwait Z",
		"FETCH, of a portal":         named + end + again + "Q fetch 1 from q\nwait Z",
		"FETCH, of a FETCH":          cursor + "P x fetch 1 from c\nB q x\n" + end + again + "Q fetch 1 from q\nwait Z",
		"MOVE, then FETCH":           cursor + again + "Q move 1 from c\nwait Z\nQ fetch 1 from c\nwait Z",
		"behind a savepoint":         cursor + "Q savepoint a\nwait Z\n" + again + "Q release a\nwait Z\nQ fetch 1 from c\nwait Z",
		"Execute, the first":         named + end + again + "E q\n" + end,
		"Execute, further":           named + "E q 1\n" + end + again + "E q 1\n" + end,
		"Execute, of a Bind that is not followed": named + end + again + "Q savepoint a\nwait Z\nP y select 1\nB q y\nE q\n" + end +
			"Q rollback to a\nwait Z\nE q\n" + end,
		"one segment":              begin + "P x " + calls + "\nB q x\n" + defn + "E q\n" + end,
		"one segment, unnamed":     begin + "P x " + calls + "\nB - x\n" + defn + "E -\n" + end,
		"one segment, flushed":     begin + "P x " + calls + "\nB - x\nE - 1\nH\nwait s\n" + defn + "E -\n" + end,
		"one segment, DECLARE":     begin + "P - declare c cursor for " + calls + "\nB - -\nE -\n" + defn + "P - fetch 1 from c\nB - -\nE -\n" + end,
		"another segment":          named + end + defn + end + "E q\n" + end,
		"another segment, unnamed": begin + "P x " + calls + "\nB - x\n" + end + defn + end + "E -\n" + end,
		"pipelined segments":       named + "S\n" + defn + "S\nE q\nS\nwait Z 3",
		"out of sight":             cursor + run + "Q fetch 1 from c\nwait Z",
		"out of sight, Execute":    named + "E q 1\n" + end + run + "E q 1\n" + end,
		"out of sight, one Query":  cursor + "Q select make_it(); fetch 1 from c\nwait Z",
		"out of sight, a segment":  named + end + "P m select make_it()\nB - m\nE -\nE q\n" + end,
		"out of sight, pipelined":  named + "S\nQ select make_it()\nE q\nS\nwait Z 3",
		"dropped and made":         cursor + "Q alter function f(int) rename to old; " + strings.Replace(madeOver, "or replace ", "", 1) + "\nwait Z\nQ fetch 1 from c\nwait Z",
		"behind a failure":         cursor + again + "Q savepoint a\nwait Z\nQ select 1/0\nwait Z\nQ rollback to a\nwait Z\nQ fetch 1 from c\nwait Z",
		"one segment, revived":     cursor + again + "Q savepoint a\nwait Z\nQ select 1/0\nwait Z\nP r rollback to a\nB r r\nE r\nP x fetch 1 from c\nB q x\nE q\n" + end,
		"by a function":            begin + "Q declare c cursor for select g(x) from generate_series(1, 5) x\nwait Z\n" + again + "Q fetch 1 from c\nwait Z",
		"by a view":                begin + "Q declare c cursor for select n from over_f\nwait Z\n" + again + "Q fetch 1 from c\nwait Z",
		"by an operator":           begin + "Q declare c cursor for select x === 1 from generate_series(1, 5) x\nwait Z\nQ " + ffMadeOver + "\nwait Z\nQ fetch 1 from c\nwait Z",
		"by a table's name": begin + "Q declare c cursor for select count_told(x) from generate_series(1, 5) x\nwait Z\nQ alter table told rename to old; create view told as " +
			strings.ReplaceAll(readsBars, "''", "'") + "\nwait Z\nQ fetch 1 from c\nwait Z",
		"with ohlcv":              begin + "Q declare c cursor for select f(1) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'\nwait Z\n" + again + "Q fetch 1 from c\nwait Z",
		"WITH HOLD, COMMIT":       strings.Replace(cursor, "cursor", "cursor with hold", 1) + again + "Q commit\nwait Z\nQ fetch 1 from c\nwait Z",
		"WITH HOLD, with COMMIT":  strings.Replace(cursor, "cursor", "cursor with hold", 1) + "Q " + madeOver + "; commit\nwait Z\nQ fetch 1 from c\nwait Z",
		"WITH HOLD, extended":     strings.Replace(cursor, "cursor", "cursor with hold", 1) + again + "P - commit\nB - -\nE -\n" + end + "Q fetch 1 from c\nwait Z",
		"WITH HOLD, bound before": strings.Replace(cursor, "cursor", "cursor with hold", 1) + "P e commit\nB e e\n" + end + again + "E e\n" + end + "Q fetch 1 from c\nwait Z",
		"WITH HOLD, a segment":    "P - declare c cursor with hold for " + calls + "\nB - -\nE -\n" + defn + end + "Q fetch 1 from c\nwait Z",
		"WITH HOLD, a Query":      "Q declare c cursor with hold for " + calls + "; " + madeOver + "\nwait Z\nQ fetch 1 from c\nwait Z",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.db.Pool.Exec(t.Context(), harmless) // where one was committed
			require.NoError(t, err)
			require.NoError(t, b.server.cfg.Catalog.(fresh).Refresh(t.Context())) //nolint:forcetypeassert // the tests' own
			seen := b.playedToTheEnd(t, strings.TrimSuffix(script, "\n"))
			require.NotContains(t, seen, "D 0", "answered from what is stored")
			refused := "E ERROR 0A000 " + errOvertaken.Message
			switch {
			case name == "one segment, revived":
				refused = "E ERROR 25P02"
			case strings.HasPrefix(name, "one segment"): // what else is in the way may be told first
				refused = "E ERROR 0A000"
			}
			require.Contains(t, seen, refused, seen)
		})
	}
}

// What a block defines that portals do not call, or that reads nothing of ohlcv, keeps none of them from going on.
func TestAPortalWhoseFunctionReadsNothing(t *testing.T) {
	b := startCalled(t, "create table part (x int); create or replace function public.f(int) returns bigint language plpgsql as 'begin return 9; end'")
	const (
		end    = "S\nwait Z\n"
		begin  = "Q begin\nwait Z\n"
		calls  = "select f(x) from generate_series(1, 5) x"
		run    = "Q select make_it()\nwait Z\n"
		cursor = begin + "Q declare c cursor for " + calls + "\nwait Z\nQ fetch 1 from c\nwait Z\n"
		named  = begin + "P x " + calls + "\nB q x\nE q 1\n"
		fetch  = "Q fetch 1 from c\nwait Z\n"
	)
	other := func(sql string) string { return "Q " + sql + "\nwait Z\n" }
	others := strings.ReplaceAll(madeOver, "f(int)", "h(int)")
	for name, script := range map[string]string{
		"a plain table":           cursor + other("create table part (x int)") + fetch,
		"a plain table, by E":     named + end + other("create table part (x int)") + "E q 1\n" + end,
		"one that reads nothing":  cursor + other(harmless) + fetch,
		"another, over ohlcv":     cursor + other(others) + fetch + "Q move 1 from c\nwait Z\n",
		"another, by E":           named + end + other(others) + "E q 1\n" + end + "E q 1\n" + end,
		"a view over ohlcv":       cursor + other("create view v as select * from ohlcv") + fetch,
		"out of sight":            cursor + run + fetch,
		"out of sight, by E":      named + end + run + "E q 1\n" + end,
		"out of sight, twice":     named + end + run + "E q 1\n" + end + run + "E q 1\n" + end,
		"taken back":              begin + "Q declare c cursor for " + calls + "\nwait Z\nQ savepoint a\nwait Z\n" + other(others) + "Q rollback to a\nwait Z\n" + fetch,
		"bound behind":            begin + other(others) + "P x " + calls + "\nB q x\nE q 1\n" + end + "E q 1\n" + end + "Q declare c cursor for " + calls + "\nwait Z\n" + fetch,
		"in a segment":            begin + "P x " + calls + "\nB q x\nP d " + others + "\nB d d\nE d\nE q\n" + end,
		"in a segment, unnamed":   begin + "P x " + calls + "\nB - x\nP d " + others + "\nB d d\nE d\nE -\n" + end,
		"in a segment, after":     begin + "P d " + others + "\nB d d\nE d\nP x " + calls + "\nB q x\nE q 2\nB - x\nE -\n" + end,
		"not there":               begin + other(others) + "E q\n" + end,
		"not there, FETCH":        begin + other(others) + fetch,
		"a definition's portal":   begin + "P x " + others + "\nB q x\n" + end + other("create view v as select * from ohlcv") + "E q\n" + end,
		"a column of that name":   begin + "Q declare c cursor for select h from (values (1)) v(h)\nwait Z\n" + other(others) + fetch,
		"another cursor":          cursor + "Q declare k cursor for select 1 === 2\nwait Z\n" + other(ffMadeOver) + fetch,
		"WITH HOLD":               strings.Replace(cursor, "cursor", "cursor with hold", 1) + other("create temp table part (x int)") + other(others) + "Q commit\nwait Z\n" + fetch + "Q drop function h(int)\nwait Z\n",
		"WITH HOLD, from before":  strings.Replace(cursor, "cursor", "cursor with hold", 1) + "Q commit\nwait Z\n" + begin + other(madeOver) + fetch + "Q rollback\nwait Z\n" + fetch,
		"ROLLBACK":                cursor + other(madeOver) + "Q rollback\nwait Z\n" + fetch,
		"stored":                  "Q set barkeep.mode = stored\nwait Z\n" + cursor + other(madeOver) + fetch,
		"a failed block":          cursor + other(madeOver) + "Q select 1/0\nwait Z\n" + fetch,
		"a block of serializable": strings.Replace(cursor, "begin", "begin isolation level serializable", 1) + other(others) + fetch,
	} {
		t.Run(name, func(t *testing.T) {
			b.seesAlike(t, strings.TrimSuffix(script, "\n"))
		})
	}
}

// A definition out of sight that is taken back with its savepoint is none any more.
func TestAPortalWhoseFunctionIsMadeOverAndTakenBack(t *testing.T) {
	t.Parallel()
	const run, fetch = "Q select make_it()\nwait Z\n", "Q fetch 1 from c\nwait Z\n"
	b := startCalled(t, madeOver)
	b.seesAlike(t, "Q begin\nwait Z\nQ declare c cursor for select f(x) from generate_series(1, 5) x\nwait Z\n"+fetch+
		"Q savepoint a\nwait Z\n"+run+"Q rollback to a\nwait Z\n"+fetch+"Q savepoint b\nwait Z\nP q select f(1)\nB q q\nS\nwait Z\nE q\nS\nwait Z")
}

// A cursor WITH HOLD that is declared out of sight is one, too, where the upstream can be asked before the COMMIT that keeps it.
func TestACursorDeclaredOutOfSight(t *testing.T) {
	const (
		declare = "declare c cursor with hold for select f(x) from generate_series(1, 5) x"
		begin   = "Q begin\nwait Z\n"
		run     = "Q select make_it()\nwait Z\n"
		again   = "Q " + madeOver + "\nwait Z\n"
		keep    = "Q commit\nwait Z\n"
		fetch   = "Q fetch 1 from c\nwait Z\n"
	)
	b := startCalled(t, declare)
	for name, script := range map[string]string{
		"COMMIT":           begin + run + again + keep,
		"END":              begin + run + again + "Q end\nwait Z\n",
		"COMMIT, extended": begin + run + again + "P - commit\nB - -\nE -\nS\nwait Z\n",
		"with COMMIT":      begin + run + "Q " + madeOver + "; commit\nwait Z\n",
		"several":          begin + run + again + "Q select 1; commit\nwait Z\n",
		"in a segment":     begin + run + "P d " + madeOver + "\nB d d\nE d\nP e commit\nB e e\nE e\nS\nwait Z\n",
		"a DO block":       begin + "Q do $$ begin execute '" + declare + "'; end $$\nwait Z\n" + again + keep,
		"a procedure":      begin + "Q call make_them()\nwait Z\n" + again + keep,
		"a trigger":        begin + "Q insert into orders values (1)\nwait Z\n" + again + keep,
		"a portal":         begin + "P x select make_it()\nB q x\nE q\nS\nwait Z\n" + again + keep,
	} {
		t.Run("refused, "+name, func(t *testing.T) {
			_, err := b.db.Pool.Exec(t.Context(), harmless) // where one was committed
			require.NoError(t, err)
			require.NoError(t, b.server.cfg.Catalog.(fresh).Refresh(t.Context())) //nolint:forcetypeassert // the tests' own
			seen := b.playedToTheEnd(t, strings.TrimSuffix(script+fetch, "\n"))
			require.NotContains(t, seen, "D 0", "answered from what is stored")
			require.Contains(t, seen, "E ERROR 0A000 "+errOvertaken.Message, seen)
		})
	}
	others := "Q " + strings.ReplaceAll(madeOver, "f(int)", "h(int)") + "\nwait Z\n"
	for name, script := range map[string]string{
		"nothing is made over":    begin + run + keep + fetch,
		"another is made over":    begin + run + others + keep + fetch + "Q drop function h(int)\nwait Z\n",
		"one that reads nothing":  begin + run + "Q " + harmless + "\nwait Z\n" + keep + fetch,
		"one Query":               "Q begin; select make_it(); commit\nwait Z\n" + fetch,
		"pipelined":               begin + "Q select make_it()\nQ commit\nwait Z 2\n" + fetch,
		"a segment":               "P m select make_it()\nB - m\nE -\nS\nwait Z\n" + fetch,
		"a segment with a COMMIT": begin + "P m select make_it()\nB - m\nE -\nP e commit\nB - e\nE -\nS\nwait Z\n" + fetch,
		"from before":             begin + run + keep + begin + again + fetch + "Q rollback\nwait Z\n" + fetch,
		"ROLLBACK":                begin + run + again + "Q rollback\nwait Z\n" + fetch,
		"a failed block":          begin + run + again + "Q select 1/0\nwait Z\n" + keep + fetch,
	} {
		t.Run(name, func(t *testing.T) { b.seesAlike(t, strings.TrimSuffix(script, "\n")) })
	}
}
