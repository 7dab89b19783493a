package proxy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// PROTOCOL 1: which statement an EXECUTE means is found out when its portal is executed, not when that is bound: its bars are there by then.
func TestAPortalThatExecutesAnotherStatement(t *testing.T) {
	b := start(t, func(c *Config) { c.NoticeAfter = never })
	const (
		first  = "Q prepare foo as select 7::bigint\nwait Z\nQ begin\nwait Z\n"
		reads  = "select count(*) from ohlcv where symbol = 'sim:ETHUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
		takes  = "select count(*) from ohlcv where symbol = $1 and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
		again  = "Q deallocate foo\nwait Z\nQ prepare foo as " + reads + "\nwait Z\n"
		named  = "P x execute foo\nB q x\nS\nwait Z\n"
		behind = "P d deallocate foo\nB d d\nE d\nP n prepare foo as " + reads + "\nB n n\nE n\n"
	)
	back := func(fails string) string { return "Q savepoint a\nwait Z\n" + fails + "Q rollback to a\nwait Z\n" }
	for name, script := range map[string]string{
		"another":                          first + named + again + "E q\nS\nwait Z",
		"of ohlcv before":                  "Q prepare foo as " + strings.Replace(reads, "ETH", "BTC", 1) + "\nwait Z\nQ begin\nwait Z\n" + named + again + "E q\nS\nwait Z",
		"with a value":                     "Q prepare foo(text) as select 7::bigint\nwait Z\nQ begin\nwait Z\nP x execute foo('sim:ETHUSD')\nB q x\nS\nwait Z\nQ deallocate foo; prepare foo(text) as " + takes + "\nwait Z\nE q\nS\nwait Z",
		"behind a Flush":                   first + "P x execute foo\nB q x\nH\nwait 2\n" + behind + "E q\nS\nwait Z",
		"the same":                         "Q prepare foo as " + reads + "\nwait Z\nQ begin\nwait Z\n" + named + "E q\nS\nwait Z",
		"one release":                      first + "P x execute foo\nB q x\n" + behind + "E q\nS\nwait Z",
		"bound again, which fails":         first + named + back("P y select 1\nB q y\nS\nwait Z\n") + again + "E q\nS\nwait Z",
		"bound again, to execute another":  "Q prepare bar as select 8\nwait Z\n" + first + named + back("P y execute bar\nB q y\nS\nwait Z\n") + again + "E q\nS\nwait Z",
		"not executed behind an error":     first + named + back("P z select 1/0\nB - z\nE -\nE q\nS\nwait Z\n") + again + "E q\nS\nwait Z",
		"another Bind in the failed block": first + named + back("Q select 1/0\nwait Z\nP w select 1\nB - w\nS\nwait Z\n") + again + "E q\nS\nwait Z",
		"not closed behind an error":       first + named + back("P z select 1/0\nB - z\nE -\nC P q\nS\nwait Z\n") + again + "E q\nS\nwait Z",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.db.Pool.Exec(t.Context(), "delete from public.ohlcv")
			require.NoError(t, err)
			seen := b.playedToTheEnd(t, script)
			require.NotContains(t, seen, "D 0", "answered from what is stored")
			if refused := strings.Contains(seen, "E ERROR 0A000") || strings.Contains(seen, "E ERROR 40001"); !refused || name != "behind a Flush" && name != "one release" {
				require.Contains(t, seen, "D 10", seen) // in a pipeline it may be refused
			}
		})
	}
}

// Of portals that EXECUTE no more are remembered than maxExecutors says, and none that has run: one beyond that is refused, and never answered from
// what is stored. Unnamed ones, of which only the last can be executed, are bound and executed as often as one likes.
func TestPortalsThatExecuteAreBounded(t *testing.T) {
	b := start(t, func(c *Config) { c.NoticeAfter = never })
	const (
		reads = "select count(*) from ohlcv where symbol = 'sim:ETHUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
		most  = maxExecutors/executorBytes + 1

		refused = "E ERROR 54000 too many portals of EXECUTE are bound in the transaction"
	)
	each := func(script string) (all string) {
		var list strings.Builder
		for i := range most {
			list.WriteString(strings.ReplaceAll(script, "#", itoa(i)))
		}
		return list.String()
	}
	var (
		begin   = "Q prepare foo as select 7::bigint\nwait Z\nQ begin\nwait Z\nP x execute foo\nS\nwait Z\n"
		again   = "Q deallocate foo\nwait Z\nQ prepare foo as " + reads + "\nwait Z\n"
		count   = " " + itoa(most)
		unnamed = each("B - x\nS\n") + "wait Z" + count + "\n"
	)
	for name, test := range map[string]struct{ script, brings string }{
		"named":                            {begin + each("B q# x\nS\n") + "wait Z" + count + "\nQ rollback\nwait Z", refused},
		"named, executed":                  {begin + each("B q# x\nS\nE q#\nS\nwait Z 2\n") + again + "B q x\nS\nwait Z\nE q\nS\nwait Z\nQ rollback\nwait Z", "D 10\nC SELECT 1"},
		"named, in transactions":           {begin + each("B q# x\nS\nwait Z\nQ commit\nwait Z\nQ begin\nwait Z\n") + again + "B q x\nS\nwait Z\nE q\nS\nwait Z\nQ rollback\nwait Z", "D 10\nC SELECT 1"},
		"unnamed":                          {begin + each("B - x\nE -\nS\n") + "wait Z" + count + "\n" + again + "B - x\nE -\nS\nwait Z\nQ rollback\nwait Z", "D 10\nC SELECT 1"},
		"unnamed, of another segment":      {begin + unnamed + "E -\nS\nwait Z\nQ rollback\nwait Z", refused},
		"unnamed, behind those":            {begin + unnamed + again + "B - x\nE -\nS\nwait Z\nQ rollback\nwait Z", "D 10\nC SELECT 1"},
		"unnamed, in the next transaction": {begin + unnamed + "Q commit\nwait Z\nQ begin\nwait Z\nB - x\nS\nwait Z\nE -\nS\nwait Z\nQ rollback\nwait Z", "\nD 7\nC SELECT 1"},
	} {
		t.Run(name, func(t *testing.T) {
			seen := b.playedToTheEnd(t, test.script)
			require.NotContains(t, seen, "D 0", "answered from what is stored")
			last := seen[max(0, len(seen)-2000):]
			require.Contains(t, seen, test.brings)
			require.Equal(t, test.brings == refused, strings.Contains(seen, "E ERROR"), last)
		})
	}
}

// PROTOCOL 1: COPY, EXPLAIN, DECLARE and CREATE TABLE AS read a view as it is when their portal is executed, and a FETCH may be the first that
// executes one: what is read then is there, or the statement is refused.
func TestAPortalThatIsAnalysedWhenItIsExecuted(t *testing.T) {
	b := start(t, func(c *Config) { c.NoticeAfter = never })
	const (
		reads  = "select count(*) from ohlcv where symbol = 'sim:ETHUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
		view   = "Q begin\nwait Z\nQ create temp view v as select 7::bigint as count\nwait Z\n"
		again  = "Q create or replace temp view v as " + reads + "\nwait Z\n"
		end    = "S\nwait Z\n"
		execs  = "Q prepare foo as select 7::bigint\nwait Z\nQ begin\nwait Z\nP x execute foo\nB q x\nS\nwait Z\n"
		others = "Q deallocate foo\nwait Z\nQ prepare foo as " + reads + "\nwait Z\n"
	)
	for name, script := range map[string]string{
		"COPY":                view + "P x copy (select * from v) to stdout\nB q x\n" + end + again + "E q\n" + end,
		"COPY, unnamed":       view + "P x copy (select * from v) to stdout\nB - x\n" + end + "P d create or replace temp view v as " + reads + "\nB d d\nE d\n" + end + "E -\n" + end,
		"DECLARE":             view + "P x declare k cursor for select * from v\nB q x\n" + end + again + "E q\n" + end + "Q fetch 1 from k\nwait Z\n",
		"CREATE TABLE AS":     view + "P x create temp table m as select * from v\nB q x\n" + end + again + "E q\n" + end + "Q table m\nwait Z\n",
		"EXPLAIN ANALYZE":     view + "P x explain analyze select * from v\nB q x\n" + end + again + "E q\n" + end,
		"FETCH":               execs + others + "Q fetch all from q\nwait Z\n",
		"FETCH, by Execute":   execs + others + "P f fetch all from q\nB f f\nE f\n" + end,
		"MOVE":                execs + others + "Q move 0 from q\nwait Z\nQ fetch 1 from q\nwait Z\n",
		"FETCH, in a DO":      execs + others + "Q do $$ declare c refcursor := 'q'; n bigint; begin fetch c into n; raise notice 'D %', n; end $$\nwait Z\n",
		"in another's schema": "Q create schema nearer; create table nearer.ohlcv (like public.ohlcv)\nwait Z\nQ begin; set local search_path = nearer, public\nwait Z\nP x copy (" + reads + ") to stdout\nB q x\n" + end + "Q set local search_path = public\nwait Z\nE q\n" + end,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.db.Pool.Exec(t.Context(), "delete from public.ohlcv")
			require.NoError(t, err)
			seen := b.playedToTheEnd(t, strings.TrimSuffix(script, "\n"))
			for _, none := range []string{"\nD 0", "D 0\t", "\nd 300a", "rows=0"} {
				require.NotContains(t, seen, none, "answered from what is stored")
			}
			require.Regexp(t, `E ERROR 0A000|\nD 10|D 10\t|\nd 31300a|rows=1`, seen)
		})
	}
}

// A portal that has been executed goes on, whatever has become of the name that it was bound with.
func TestAPortalThatGoesOn(t *testing.T) {
	b := start(t, func(c *Config) { c.NoticeAfter = never })
	const first = "Q prepare foo as select generate_series(1, 5)\nwait Z\nQ begin\nwait Z\nP x execute foo\nB q x\n"
	const gone = "Q deallocate foo\nwait Z\n"
	for name, script := range map[string]string{
		"executed":                first + "E q 2\nS\nwait Z\n" + gone + "E q 2\nS\nwait Z",
		"fetched":                 first + "S\nwait Z\nQ fetch 2 from q\nwait Z\n" + gone + "E q 2\nS\nwait Z\nQ fetch 2 from q\nwait Z",
		"closed, bound anew":      first + "C P q\nP y select generate_series(6, 9)\nB q y\nS\nwait Z\n" + gone + "E q 2\nS\nwait Z",
		"not executed":            first + "S\nwait Z\n" + gone + "E q 2\nS\nwait Z",
		"bound alone":             "P x execute nothing\nB q x\nS\nwait Z\nP a select 8\nB - a\nE -\nB q x\nH\nwait 2\nS\nwait Z",
		"not there, executed":     "Q begin\nwait Z\nP x execute nothing\nB q x\nS\nwait Z\nE q\nS\nwait Z",
		"not reached":             first + "S\nwait Z\nQ savepoint a\nwait Z\nB - nothing\nE q 2\nS\nwait Z\nQ rollback to a\nwait Z\n" + gone + "E q 2\nS\nwait Z",
		"pipelined":               first + "E q 2\nS\nQ deallocate foo\nE q 2\nS\nwait Z 3",
		"taken back, not reached": first + "S\nwait Z\nQ savepoint a\nwait Z\nE q 2\nB - nothing\nS\nwait Z\nQ rollback to a\nwait Z\n" + gone + "E q 2\nS\nwait Z",
	} {
		t.Run(name, func(t *testing.T) {
			b.seesAlike(t, script)
		})
	}
}
