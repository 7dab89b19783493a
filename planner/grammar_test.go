package planner

import (
	"fmt"
	"strconv"
	"strings"
)

// more draws the forms that single rules are about, close to where they are easily got wrong.
func (g *grammar) more() string {
	switch g.IntN(21) {
	case 20:
		return g.layers()
	case 19:
		return g.reused()
	case 14, 15:
		return g.common()
	case 9, 13, 17:
		return g.ranged()
	case 8, 12, 18:
		return g.chosen()
	case 10, 11, 16:
		return "select symbol, ts from ohlcv where " + g.series("") + " and " + g.pick("", "", "not ") + "(" + g.counts("ts", g.pick(" = ", " < ", " <= ", " > ", " >= ", " <> ")) + ")"
	case 7:
		return g.computed()
	case 0:
		return g.zoned()
	case 1:
		return g.shifted()
	case 2:
		return g.nullSide()
	case 3:
		return g.grouped()
	case 4:
		return g.lists()
	case 5:
		return g.counted()
	default:
		return g.made()
	}
}

// series names one series, sometimes two.
func (g *grammar) series(q string) string {
	return q + "symbol " + g.pick("= 'A'", "= 'A'", "in ('A', 'AA')", "in ('B', 'C')") + " and " + q + "timeframe = " + g.pick("'1h'", "'1h'", "'1d'")
}

// reused has one parameter in several places, whose type is that of the first of them (PLANNER 9).
func (g *grammar) reused() string {
	g.params = []string{g.pick("2026-11-01 23:00:00-05", "2026-11-01 03:30", "2026-11-02", "2026-10-31T20:00:00Z")}
	use := func() string {
		cast := g.pick("", "", "::timestamptz", "::timestamp", "::date", "::text::timestamptz", "::varchar::date")
		switch g.IntN(8) {
		case 0:
			return "$1" + cast + " is " + g.pick("not ", "") + "null"
		case 1:
			return "date_trunc('day', ts) " + g.pick("=", ">=", "<") + " date_trunc('day', $1" + g.pick("::timestamp", "::timestamptz") + ")"
		case 2:
			return "ts >= " + g.pick("coalesce($1, '2026-11-03')", "nullif($1, '')", "greatest($1, '2026-10-31')", "coalesce($1, now())") + g.pick("", "::timestamptz", "::date")
		case 3:
			return "ts " + g.pick("<", ">=") + " " + g.pick("(select $1::date)", "all (values ($1"+g.pick("", "::date", "::timestamp")+"))", "any (array[$1, now()])", "date '2026-10-31' + ($1::date - date '2026-10-31')")
		}
		return g.pick("ts", "ts", "ts::date", "ts::timestamp", "(ts at time zone 'Asia/Tokyo')", "(ts - interval '1 day')") + g.pick(" >= ", " < ", " = ", " <= ", " is distinct from ") + "$1" + cast
	}
	where := use() + g.pick(" and ", " and ", " or ") + use() + g.pick("", " and "+use())
	if g.IntN(3) == 0 {
		return "select * from (select symbol, ts, $1" + g.pick("", "::date", "::timestamp") + " as x from ohlcv where " + g.series("") + ") o where " + where
	}
	return "select symbol, ts from ohlcv where " + g.series("") + " and (" + where + ")"
}

// zoned compares functions of ts with clocks near the night in which New York's is set back (PLANNER 14).
func (g *grammar) zoned() string {
	zone := g.pick("'America/New_York'", "'America/New_York'", "'America/New_York'", "'Asia/Tokyo'", "'EST'", "'XXX-23'", "interval '20 hours'", "'-18:30'")
	clock := "'2026-11-01 " + g.pick("00:00", "00:30", "01:00", "01:30", "02:00", "03:00") + "'"
	op := g.pick("=", "<", "<=", ">", ">=", "<>")
	wall := g.pick("ts at time zone "+zone, "ts at time zone "+zone, "ts::timestamp", "(ts - interval '1 hour') at time zone "+zone)
	condition := "(" + wall + ") " + op + " timestamp " + clock
	switch g.IntN(5) {
	case 0:
		condition = "date_trunc('" + g.pick("hour", "hours", "h", "d", "week", "qtr") + "', " + wall + ") " + op + " " + clock
	case 1:
		condition = "date_trunc('" + g.pick("hour", "day", "days", "Hrs", "mons", "m") + "', ts, " + g.pick("'America/New_York'", "'Europe/London'", "'Asia/Tokyo'") + ") " + op + " timestamptz '2026-11-01 " + g.pick("04:00Z", "05:00Z", "15:00Z", "06:00Z") + "'"
	case 2:
		condition = "((" + wall + ") at time zone 'America/New_York') " + op + " timestamptz '2026-11-01 " + g.pick("05:00Z", "05:30Z", "06:00Z", "07:00Z") + "'"
	case 3:
		condition = "ts " + op + " timestamp " + clock + " at time zone " + zone
	}
	return "select symbol, ts from ohlcv where " + g.series("") + " and " + g.pick("", "not ") + "(" + condition + ")"
}

// shifted compares ts with an interval added, where months end and clocks change (PLANNER 14).
func (g *grammar) shifted() string {
	op := g.pick("=", "<", "<=", ">", ">=")
	clock := " " + g.pick("00:00", "01:00", "05:00", "05:30", "23:00") + g.pick("Z", "Z", "")
	if g.IntN(2) == 0 {
		return "select symbol, ts from ohlcv where " + g.series("") + " and (ts + interval '" + g.pick("1 month", "13 months", "1 month -1 day") + "') " + op + " '" +
			g.pick("2026-11-30", "2026-12-01", "2026-11-29", "2027-11-30") + clock + "'"
	}
	return "select symbol, ts from ohlcv where " + g.series("") + " and (ts " + g.pick("-", "+") + " interval '" + g.pick("1 month", "1 day", "1 day", "2 days") + "') " + op + " '" +
		g.pick("2026-09-30", "2026-10-01", "2026-10-31", "2026-11-01", "2026-11-02", "2026-10-03") + clock + "'"
}

// nullSide is an outer join with conditions above it on the side that may be null (PLANNER 12).
func (g *grammar) nullSide() string {
	side := func() string {
		return "(select * from ohlcv where " + g.series("") + g.pick("", " and "+g.leaf("")) + ")"
	}
	item := func() string { return g.pick("ohlcv", side()) }
	left, right := side(), item()
	join := g.pick("left join", "right join", "full join")
	if join == "right join" {
		left, right = right, left
	}
	q := g.pick("a.", "b.")
	test := func() string {
		return g.pick(q+"ts is null", q+"ts is distinct from "+g.time(), "not ("+q+"ts is not null and "+q+"symbol = 'A')", "("+q+"ts > "+g.time()+") is not true",
			"("+q+"ts < "+g.time()+") is unknown", "coalesce("+q+"ts, "+g.time()+"::timestamptz) > "+g.time(), "not ("+q+"ts is distinct from "+g.time()+")",
			q+"symbol <> all (array['B'])", q+"symbol not in ('A', 'B')", "("+q+"ts = any (array["+g.time()+"::timestamptz])) is not true", q+"ts >= "+g.time(), g.leaf(q))
	}
	on := g.pick("a.ts = b.ts", "a.ts = b.ts and a.symbol = b.symbol", "a.ts = b.ts - interval '1 hour'", "a.ts <= b.ts and b.ts < a.ts + interval '3 hours'") +
		g.pick(" and a.timeframe = b.timeframe", " and "+g.series("a."), " and "+g.series("b."), " and "+g.series("b.")+" and "+g.leaf("b."), " and "+g.series("b.")+" and "+g.leaf("a."))
	where := test() + g.pick("", " or "+test(), " and "+test())
	if right == "ohlcv" || left == "ohlcv" {
		where = "(" + where + ")" + g.pick("", " and "+g.series(g.pick("a.", "b.")))
	}
	return "select a.symbol, a.ts, b.symbol, b.ts from " + left + " a " + join + " " + right + " b on " + on + " where " + where
}

// grouped groups by several sets, with conditions above them (PLANNER 12 and 16).
func (g *grammar) grouped() string {
	switch g.IntN(5) {
	case 0:
		return "select * from (select symbol, ts, rank() over (partition by symbol order by ts), count(*) over (partition by " + g.pick("ts", "timeframe", "symbol") + ") from ohlcv where " + g.series("") +
			") x where symbol " + g.pick("= ", "<> ") + g.pick("'A'", "'B'")
	case 1:
		return "select * from (select distinct on (symbol) symbol, ts, close from ohlcv where " + g.series("") + " order by symbol, ts" + g.pick("", " desc") + ") x where " +
			g.pick("ts < ", "ts >= ") + g.time()
	}
	sets := g.pick("grouping sets ((symbol), ())", "grouping sets ((symbol, timeframe), (timeframe), ())", "rollup (symbol)", "cube (symbol, timeframe)",
		"symbol", "symbol, ts", "symbol, rollup (timeframe)", "()")
	columns := "count(*) as n, max(ts) as m, grouping(symbol) as q"
	if sets == "()" {
		columns = "count(*) as n, max(ts) as m, 0 as q"
	} else {
		columns = "symbol, " + columns
	}
	inner := "select " + columns + " from ohlcv where " + g.series("") + g.pick("", " and "+g.leaf("")) + " group by " + sets +
		g.pick("", "", " having symbol is null", " having count(*) > 20", " having symbol = 'A'", " having max(ts) > "+g.time(), " having (symbol = 'A') is not true")
	return "select * from (" + inner + ") x where " + g.pick("true", "symbol is null", "symbol = 'A'", "(symbol = 'A') is not true", "m > "+g.time(), "n > 10", "symbol is distinct from 'A'")
}

// lists compares with arrays, NULL among their elements (PLANNER 11 and 12), and with a name that a cast has made shorter (PLANNER 13).
func (g *grammar) lists() string {
	at := g.pick("timestamptz '2026-11-01 05:00Z'", "timestamptz '2026-11-02Z'", "timestamptz '2026-10-31 00:00Z'")
	op := g.pick("=", "<>", "<", "<=", ">", ">=")
	whether := " is " + g.pick("", "not ") + g.pick("true", "false", "unknown", "unknown")
	var condition string
	switch g.IntN(4) {
	case 0:
		list := g.pick("in (null, "+at+")", "not in (null, "+at+")", "= any (array[null, "+at+"])", "<> all (array["+at+", null])", op+" any (array[null, "+at+"])",
			op+" all ('{2026-11-01 05:00Z, NULL}')", op+" any (null::timestamptz[])", op+" all ('{}')")
		condition = "(ts " + list + ")" + whether
	case 1:
		condition = "ts " + op + g.pick(" any ", " all ") + "(" + g.pick("array["+at+", timestamptz '2026-11-01 07:00Z']", "'{2026-11-01 05:00Z, 2026-11-02 03:00Z}'", "array["+at+"]") + ")"
	case 2:
		condition = g.pick("symbol::varchar(1) = 'A'", "symbol::varchar(1) = 'A'", "symbol::char(1) = 'A'", "symbol::varchar = 'A'", "symbol <> all ('{A}')", "(symbol = any ('{A,NULL}'))"+whether, "(symbol <> all ('{A,NULL}'))"+whether)
	default:
		condition = "(ts is " + g.pick("not ", "") + "distinct from " + g.pick("null", "null::timestamptz", at) + ")" + g.pick("", whether)
	}
	return "select symbol, timeframe, ts from ohlcv where " + g.series("") + " and " + g.pick("", "", "not ") + "(" + condition + g.pick("", "", " and "+g.leaf("")) + ")"
}

// counted reads so many bars from an end, or does not (PLANNER 17).
func (g *grammar) counted() string {
	series := g.series("") + g.pick("", " and ts "+g.pick(">=", "<")+" "+g.time())
	direction := g.pick("", " desc")
	limit := g.pick(" limit 3", " limit 2 offset 3", " limit 1", " limit all", " fetch first 2 rows only")
	switch g.IntN(11) {
	case 8: // how many there are says whether what is counted are bars
		return "select count(*) from (select " + g.pick("distinct ts::date", "distinct close, timeframe") + " from ohlcv where " + series + g.pick(" limit 5", " limit 3 offset 3") + ") x"
	case 9:
		return "select count(*) from (select " + g.pick("ts::date", "date_trunc('day', ts)", "close", "timeframe") + " as d from ohlcv where " + series + " group by 1" + g.pick(" limit 5", " limit 3 offset 3") + ") x"
	case 0:
		return "select symbol, ts from ohlcv tablesample bernoulli (40) repeatable (7) where " + series + " order by ts" + direction + ", symbol" + limit
	case 1:
		return "select ts from ohlcv where " + series + " order by " + g.pick("ts", "date_trunc('day', ts)", "timeframe, date_trunc('day', ts)") + direction + " fetch first 3 rows with ties"
	case 2:
		by := g.pick("close", "volume", "volume", "ts")
		return "select " + g.pick("", "symbol, ") + g.pick("first", "last") + "(close, " + by + ")" + g.pick("", "", "", "", "", "", ", count(*)", ", max(close)") + " from ohlcv where " + strings.ReplaceAll(series, "in ('B', 'C')", "= 'A'") +
			g.pick(" group by symbol", " group by symbol", " group by symbol, timeframe", " group by symbol, timeframe", " group by symbol, close")
	case 3:
		return "select time_bucket('" + g.pick("1 day", "6 hours") + "', ts) as b, max(high) from ohlcv where " + series + " group by b order by b" + direction + limit
	case 4:
		return "select distinct " + g.pick("date_trunc('day', ts) as ts", "ts::date as ts", "ts") + " from ohlcv where " + series + " order by ts" + direction + limit
	case 5:
		return "select ts, avg(close) over (order by ts rows " + g.pick("2", "5") + " preceding) from ohlcv where " + series + " and symbol = 'A' order by ts" + direction + limit
	case 6:
		return "select " + g.pick("count(*)", "sum(close)", "max(ts)", "min(ts), max(close)") + " from ohlcv where " + series + limit
	case 7:
		return "select ts, close from (select * from ohlcv where " + series + g.pick("", " and close > 5", " order by ts") + ") x where symbol = 'A'" + g.pick("", " and close < 20", " and extract(dow from ts) <> 0") +
			" order by ts" + direction + limit
	default:
		return "select o.ts, l.ts from ohlcv o cross join lateral (select i.ts from ohlcv i where i.symbol = 'B' and i.timeframe = '1h' and i.ts " + g.pick("<=", "<", ">=", ">", "=") +
			" o.ts" + g.pick("", " - interval '1 hour'") + " order by i.ts" + direction + " limit " + g.pick("1", "2", "3 offset 1") + ") l where " + strings.ReplaceAll(g.series("o."), "in ('A', 'AA')", "= 'A'") +
			" and o.ts " + g.pick(">=", "<", "=") + " " + g.time()
	}
}

// made joins with constants in every order, and with what set operations and recursion make (PLANNER 15).
func (g *grammar) made() string {
	series := strings.ReplaceAll(g.series("o."), "'1d'", "'1h'")
	op := g.pick("=", "=", "<=", ">=", "<", ">")
	switch g.IntN(5) {
	case 0:
		return "select g.t, o.ts from generate_series(timestamptz '2026-11-02Z', timestamptz '2026-11-01Z', interval '-" + g.pick("1 hour", "5 hours") + "') g(t) join ohlcv o on o.ts " + op + " g.t where " + series
	case 1:
		rows := g.pick("(timestamptz '2026-11-01 05:00Z'), ('2026-11-03Z')", "(timestamptz '2026-11-03Z'), (null), ('2026-10-31 07:00Z')", "(timestamptz '-infinity'), ('2026-11-01 05:00Z')", "(timestamptz 'infinity')")
		return "select v.t, o.ts from (values " + rows + ") v(t) " + g.pick("join", "left join") + " ohlcv o on o.ts " + op + " v.t and " + series
	case 2:
		return "select u.ts, o.ts, o.symbol from (select ts, symbol from ohlcv where symbol = 'A' and timeframe = '1d' and ts < " + g.time() + " " + g.pick("union all", "union", "except", "intersect") +
			" select ts, symbol from ohlcv where symbol = 'B' and timeframe = '1h' and ts >= " + g.time() + ") u join ohlcv o on o.ts " + op + " u.ts" + g.pick("", " - interval '1 day'") + g.pick("", " and o.symbol = u.symbol") + " where " + series
	case 3:
		return "with recursive r(t, n) as (select max(ts), 0 from ohlcv where symbol = 'A' and timeframe = '1h' and ts < " + g.time() + " union all select t - interval '1 hour', n + 1 from r where n < " +
			g.pick("3", "10") + ") select r.t, o.ts, o.close from r " + g.pick("join", "left join") + " ohlcv o on o.ts " + op + " r.t and " + series
	default:
		return "select a.ts, o.ts from ohlcv a join ohlcv o on " + g.pick("(a.ts = o.ts or a.close > o.close)", "(a.ts "+op+" o.ts or a.symbol = o.symbol)", "a.ts "+op+" o.ts + interval '1 day'", "a.symbol = o.timeframe or a.ts "+op+" o.ts",
			"a.symbol = o.timeframe", "a.symbol = o.timeframe", "a.symbol = o.timeframe", "a.timeframe = o.symbol or o.ts = a.ts") + " where " + series + " and a.symbol = " + g.pick("'B'", "'1h'") + " and a.timeframe = '1d' and a.ts " + g.pick("<", ">=", "=") + " " + g.time()
	}
}

// computed has conditions on columns that subqueries compute of ts (PLANNER 14 and 16).
func (g *grammar) computed() string {
	column := g.pick("date_trunc('day', ts)", "date_trunc('day', ts)", "ts::date", "time_bucket('7 hours', ts)", "date_trunc('day', ts)::date", "ts at time zone 'America/New_York'",
		"ts::timestamp", "ts - interval '1 day'", "extract(epoch from ts)", "extract(epoch from ts)::bigint", "date_trunc('day', ts at time zone 'America/New_York') at time zone 'America/New_York'")
	where := " where " + g.series("") + g.pick("", "", " and "+g.leaf(""))
	var inner string
	switch g.IntN(7) {
	case 0:
		inner = "select symbol, " + column + " as d, count(*) as n, max(close) as h from ohlcv" + where + " group by " + g.pick("1, 2", "symbol, d", "symbol, "+column, "symbol, ts", "symbol, rollup (d)", "symbol, grouping sets ((d), ())")
	case 1:
		inner = "select distinct " + g.pick("", "on (d) ", "on (symbol, ts) ") + "symbol, " + column + " as d, 1 as n from ohlcv" + where + " order by " + g.pick("d, symbol, ts", "symbol, ts, d")
	case 2:
		inner = "select symbol, " + column + " as d, count(*) over (partition by " + g.pick("symbol", "ts", "symbol, date_trunc('day', ts)") + ") as n from ohlcv" + where
	case 3:
		inner = "select symbol, " + column + " as d, 1 as n from ohlcv" + where + " union all select symbol, " + g.pick("ts", column) + ", 2 from ohlcv" + where
	case 4:
		inner = "select symbol, " + g.pick("d", "d::date", "date_trunc('day', d)", "d + interval '6 hours'") + " as d, 1 as n from (select symbol, " + column + " as d from ohlcv" + where + ") y"
	case 5:
		inner = "select symbol, " + column + " as d, ts as n from ohlcv" + where + " order by ts" + g.pick("", " desc") + ", symbol" + g.pick("", " limit 5")
	default:
		inner = "select symbol, " + column + " as d, 1 as n from ohlcv" + where
	}
	value := "'2026-11-01" + g.pick("'", " 05:00Z'", " 00:30'", "'::date", " 05:00Z'::timestamptz", " 01:30'::timestamp")
	if strings.HasPrefix(column, "extract(epoch from ts)") {
		value = g.pick("1793509200", "1793581200", "'1793509200'")
	}
	op := g.pick(">=", "<", "=", "<=", ">", "<>", "is distinct from")
	condition := g.pick("d", "d", "d", "d::date", "d::timestamptz", "date_trunc('month', d)", "(d + interval '1 day')") + " " + op + " " + value
	if g.IntN(8) == 0 {
		return "select x.symbol, ts, x.n from (select symbol, d as ts, n from (" + inner + ") y) x " + g.pick("join", "left join") + " ohlcv o using (" + g.pick("ts", "ts, symbol") + ") where o.symbol = 'A' and o.timeframe = '1h' and ts " + op + " " + value
	}
	if g.IntN(6) == 0 {
		return "select x.*, o.ts from (" + inner + ") x " + g.pick("join", "left join") + " ohlcv o on o.ts = x.d and " + g.series("o.") + " where " + g.pick("not ", "") + "(" + condition + ")"
	}
	return "select * from (" + inner + ") x where " + g.pick("", "", "not ") + "(" + condition + ")" + g.pick("", " and symbol = 'A'", " or d is null")
}

// common has columns that are computed below what gives them another type, or NULL: a set operation, a cast, several grouping sets.
func (g *grammar) common() string {
	column := g.pick("ts::date", "ts::date", "ts::timestamp", "date_trunc('day', ts)")
	rows := " from ohlcv where " + g.series("")
	inner := "select symbol, " + column + " as d, count(*) as n" + rows + " group by " + g.pick("symbol, rollup (d)", "symbol, rollup ("+column+")", "grouping sets ((symbol, 2), (symbol))")
	column = "d"
	switch g.IntN(3) {
	case 0:
		inner = "select symbol, " + g.pick("ts::date", "ts::date", "ts::timestamp") + " as d, 1 as n" + rows + " union all select 'X', " + g.pick("timestamp '2026-11-01'", "timestamptz '2026-11-01'", "date '2026-11-01'") + ", 2"
	case 1:
		inner = "select symbol, ts::date as d, 1 as n" + rows
		column = g.pick("d::timestamptz", "d::timestamp", "d::timestamp::date")
	}
	condition := column + g.pick(" < ", " <= ", " > ", " >= ", " = ") + "'2026-11-01 " + g.pick("00:00", "05:00", "05:00Z") + "'"
	return "select * from (" + inner + ") x where " + g.pick(condition, "not ("+condition+")", condition+" or d is null", "("+condition+") is not true")
}

// chosen compares ts with a choice among constants, NULL among them (PLANNER 11).
func (g *grammar) chosen() string {
	point := func() string {
		return g.pick("'2026-11-01 05:00Z'", "timestamptz '2026-11-01 05:00Z'", "timestamptz '2026-11-02Z'", "'2026-10-31 00:00'::timestamp", "date '2026-11-01'", "'2026-11-01'",
			"null", "null::timestamptz", "null::date", "date '2026-11-03'", "timestamp '2026-11-01 00:00'")
	}
	condition := g.pick("true", "false", "null", "1 = 1", "'a' = 'A'", "1 > 2 or null", "date '2026-11-01' = timestamptz '2026-11-01 05:00Z'", "not (null::int is null)", "symbol = 'A'", "close > 5",
		"timestamp '2026-11-01 00:00' < timestamptz '2026-11-01 02:00Z'", "null::int <> 3", "length('ab') = 2",
		"timestamptz '2026-11-01 05:00Z' >= '2026-11-01 05:00Z'", "not (timestamptz '2026-11-01 05:00Z' < '2026-11-01 05:00Z')", "date '2026-11-01' >= timestamp '2026-11-01 00:00'")
	choice := g.pick("coalesce", "greatest", "least") + "(" + point() + ", " + point() + ", " + point() + ")"
	switch g.IntN(4) {
	case 0:
		choice = "nullif(" + point() + ", " + point() + ")"
		if g.IntN(2) == 0 {
			choice = g.pick("nullif(timestamptz '2026-11-01 05:00Z', '2026-11-01 05:00Z')", "nullif(date '2026-11-01', '2026-11-01')", "nullif(timestamptz '2026-11-01Z', '2026-11-02Z')")
		}
	case 1:
		choice = "case when " + condition + " then " + point() + g.pick("", " when "+condition+" then "+point()) + g.pick("", " else "+point(), " else "+point()) + " end"
	case 2:
		choice = "coalesce(nullif(" + g.pick("''", "' '", "'2026-11-01 05:00Z'") + ", '')::timestamptz, " + point() + ")"
	}
	return "select symbol, ts from ohlcv where " + g.series("") + " and (ts " + g.pick(">=", "<", "=", "<=", ">", "<>", "is distinct from") + " " + choice + ")" + g.pick("", "", "", " is not true", " is unknown", " is false", " or close > 12")
}

// ranged has ts in ranges of points in time, with bounds that are NULL, alike, or in the wrong order (PLANNER 11).
func (g *grammar) ranged() string {
	point := func() string {
		return g.pick("'2026-11-01 05:00Z'", "timestamptz '2026-11-02Z'", "'2026-10-31 00:00'::timestamp", "date '2026-11-01'", "null", "'-infinity'", "'infinity'", "'2026-11-03 05:00Z'", "now() - interval '2 days'")
	}
	literal := func() string {
		return g.pick("", "", "2026-11-01 05:00Z", " 2026-11-01 ", `"2026-11-02 00:00"`, "2026-11-03 05:00Z", "infinity", "-infinity")
	}
	span := "tstzrange(" + point() + ", " + point() + g.pick("", ", '[]'", ", '(]'", ", '()'", ", '[)'::text", ", null") + ")"
	if g.IntN(2) == 0 {
		span = "'" + g.pick("[", "(", " [") + literal() + "," + literal() + g.pick(")", "]", "] ") + "'::tstzrange"
	}
	if g.IntN(8) == 0 {
		span = g.pick("'empty'::tstzrange", "null::tstzrange")
	}
	element := g.pick("ts", "ts", "ts", "date_trunc('day', ts)", "(ts + interval '1 day')")
	condition := g.pick(element+" <@ "+span, span+" @> "+element)
	if g.IntN(2) == 0 {
		condition = g.overlapping()
	}
	return "select symbol, ts from ohlcv where " + g.series("") + " and " + g.pick("", "", "not ") + "(" + condition + ")" + g.pick("", "", " is not true", " is unknown", " is false", " or close > 12") +
		g.pick("", "", " and symbol = 'A' order by ts limit 3", " and symbol = 'A' order by ts desc limit 3")
}

// counts compares numbers that ts is counted in, whole and rounded, with numbers of every type (PLANNER 14).
func (g *grammar) counts(ts, op string) string {
	seconds := 1793404800 + 3600*g.IntN(72)
	if g.IntN(8) == 0 {
		seconds += 1800
	}
	at := strconv.Itoa(seconds)
	if g.IntN(2) == 0 {
		return g.rounded(ts, op, seconds)
	}
	epoch := g.pick("extract(epoch from "+ts+")", "date_part('epoch', "+ts+")")
	cast := g.pick("", "", "::numeric", "::float8", "::bigint")
	switch g.IntN(9) {
	case 0:
		return epoch + " * 1000" + op + at + g.pick("000", "000", "000.5", "001", "000.0000004") + g.pick("", "::numeric", "::float8")
	case 1:
		return "(" + epoch + g.pick(" * 1000", " * 1000.0") + ")::bigint" + op + at + "000" + cast
	case 2:
		return epoch + g.pick("::bigint", "::int") + op + at + g.pick(cast, ".5")
	case 3:
		width := g.pick("60", "3600", "60.0", "7200")
		return "floor(" + epoch + " / " + width + ") * " + width + op + at
	case 4:
		return epoch + op + g.pick("-"+at, "- ("+at+"::numeric)", "- ("+at+"::bigint)")
	case 7:
		return epoch + g.pick(op, " = ", " <= ") + "(" + strconv.Itoa(seconds-1) + ".5)::bigint"
	case 8:
		return "extract(epoch from " + ts + ")" + g.pick(op, " < ", " <> ") + at + ".0000004"
	case 5:
		return epoch + g.pick("", " * 1000") + op + g.constant(at+g.pick("", "000", "000.0000004"))
	default:
		return "floor(1000 * extract(epoch from " + ts + ") / 3600000) * 3600000" + op + at + "000"
	}
}

// rounded compares numbers with a fraction, which are cast to whole ones, or not quite what float8 can hold (PLANNER 14).
func (g *grammar) rounded(ts, op string, seconds int) string {
	if g.IntN(2) == 0 {
		shifted := ts + g.pick(" + interval '600 milliseconds'", " + interval '500 milliseconds'")
		if g.IntN(2) == 0 {
			shifted = ts + g.pick(" - interval '500 milliseconds'", " - interval '400 milliseconds'")
		} else {
			seconds++
		}
		return g.pick("extract(epoch from "+shifted+")", "date_part('epoch', "+shifted+")") + g.pick("::bigint", "::int") + g.pick(op, " = ", " >= ") + strconv.Itoa(seconds+g.IntN(3)/2-g.IntN(3)/2)
	}
	fraction := fmt.Sprintf("%03d.%03d", g.IntN(1000), g.IntN(1000))
	return "date_part('epoch', " + ts + " + interval '00:00:00." + strings.ReplaceAll(fraction, ".", "") + "') * 1000" + g.pick(op, " < ", " > ") + strconv.Itoa(seconds) + fraction + g.pick("", "::float8", "::numeric")
}

// overlapping has ts in one of two pairs (PLANNER 11).
func (g *grammar) overlapping() string {
	length := func() string { return "interval '" + g.pick("1 hour", "1 day", "-1 day", "0 s", "1 month") + "'" }
	own := "(" + g.pick("ts", "ts", "ts - "+length(), "ts::timestamp", "date_trunc('day', ts)") + ", " + g.pick("ts", "ts + "+length(), length()) + ")"
	other := "(" + g.pick("timestamptz '2026-11-01 05:00Z'", "'2026-11-01 05:00Z'", "timestamp '2026-11-01 00:00'", "null", "now() - interval '2 days'", "date '2026-11-02'") + ", " +
		g.pick("'2026-11-02 05:00Z'", "timestamptz '2026-11-01 05:00Z'", "null", "now()", length(), "timestamp '2026-10-31 07:00'") + ")"
	return g.pick(own+" overlaps "+other, other+" overlaps "+own)
}
