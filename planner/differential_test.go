package planner

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// grammar makes random statements over ohlcv.
type grammar struct {
	*rand.Rand
	params []string // values; "\x00" is NULL
	// escapes says that backslashes in strings are escapes.
	escapes bool
}

func (g *grammar) pick(list ...string) string { return list[g.IntN(len(list))] }

// constant writes a value as a literal or as a parameter.
func (g *grammar) constant(text string) string {
	if g.IntN(4) == 0 {
		if g.IntN(12) == 0 {
			text = "\x00"
		}
		g.params = append(g.params, text)
		return fmt.Sprintf("$%d", len(g.params))
	}
	if g.IntN(25) == 0 {
		return "null"
	}
	return quote(text)
}

func (g *grammar) time() string {
	day := g.pick("2026-10-30", "2026-10-31", "2026-11-01", "2026-11-02", "2026-11-03")
	clock := g.pick("00:00", "01:30:00", "02:00", "12:00:00.5", "23:59:59")
	zone := g.pick("Z", "+00", "-05", "+0530", "-04:00")
	switch g.IntN(12) {
	case 0:
		return g.constant(day)
	case 1:
		return g.constant(day + " " + clock)
	case 2, 3, 4:
		return g.constant(day + g.pick(" ", "T") + clock + zone)
	case 5:
		return g.constant(day+g.pick("", " "+clock, " "+clock+zone)) + "::" + g.pick("timestamptz", "timestamp", "date")
	case 6:
		return "date '" + day + "' " + g.pick("+ 1", "- 1", "+ interval '1 day'", "- interval '5 hours'")
	case 7:
		return g.constant(day+" "+clock+zone) + "::timestamptz " + g.pick("+", "-") + " interval '" +
			g.pick("1 day", "2 hours", "1 month", "1 day 03:00:00", "90 minutes", "1 week") + "'"
	case 8:
		return g.ago()
	case 9:
		return "date_trunc('" + g.pick("day", "hour", "week", "month") + "', " + g.constant(day+" "+clock+zone) + "::timestamptz)"
	case 10:
		days := strconv.Itoa(g.daysAgo())
		return g.pick("current_date - "+days, "date_trunc('month', now())", "date_trunc('day', now()) - interval '"+days+" days'",
			"localtimestamp - interval '"+days+" days'", "current_date - interval '"+days+" days'", "'infinity'", "'-infinity'")
	default:
		return "timestamptz '" + day + " " + clock + g.pick("", zone) + "'"
	}
}

// ago is a point in time among those of the bars, by the clock.
func (g *grammar) ago() string {
	days := g.daysAgo()
	return "now() - " + g.pick("interval '"+strconv.Itoa(days)+g.pick(" days", " days 5 hours", " days -5 hours")+"'", "interval '"+strconv.Itoa(24*days-2)+" hours'", "interval '1 month'",
		"make_interval("+g.pick("days => "+strconv.Itoa(days), "days => "+g.constant(strconv.Itoa(days)), "weeks => 1, days => "+strconv.Itoa(days-7)+", secs => 5400", "0, 0, 0, "+strconv.Itoa(days)+", 3",
			"mins => "+strconv.Itoa(1440*days-90), "months => 1, hours => -30")+")")
}

// daysAgo is how many days ago one of the bars' was.
func (g *grammar) daysAgo() int {
	first := time.Date(2026, time.October, 31, 0, 0, 0, 0, time.UTC)
	return int(time.Since(first).Hours()/24) - g.IntN(4)
}

// leaf is a condition on the columns of an item with that alias.
func (g *grammar) leaf(q string) string {
	ts, symbol, tf := q+"ts", q+"symbol", q+"timeframe"
	one := g.pick("A", "B", "C", "D")
	switch g.IntN(28) {
	case 24, 25, 26, 27:
		return g.symbolic(symbol)
	case 20, 21, 22, 23:
		return g.derived(ts)
	case 0, 1, 2:
		return symbol + " = " + g.constant(one)
	case 3:
		return symbol + g.pick(" in ", " not in ") + "('A', " + g.constant(one) + ")"
	case 4:
		return tf + " = " + g.constant(g.pick("1h", "1d"))
	case 5:
		return g.pick(symbol+" = any(array['A','B'])", symbol+" <> all('{A,C}')", tf+" = any('{1h,NULL}')", symbol+"::text <> 'B'")
	case 6:
		return "(" + symbol + ", " + tf + ") in (('A','1h'), (" + g.constant(one) + ",'1d'))"
	case 7, 8, 9, 10, 11:
		return ts + g.pick(" = ", " < ", " <= ", " > ", " >= ", " <> ", " >= ", " < ") + g.time()
	case 12:
		return g.time() + g.pick(" < ", " <= ", " > ", " >= ") + ts
	case 13:
		return ts + g.pick(" between ", " not between ", " between symmetric ") + g.time() + " and " + g.time()
	case 14:
		return "(" + ts + ", " + symbol + ")" + g.pick(" < ", " >= ", " > ", " = ", " <> ") + "('2026-11-01 00:00Z', 'B')"
	case 15:
		return g.pick(ts, symbol, tf) + g.pick(" is null", " is not null", " = null")
	case 16:
		return ts + g.pick(" is distinct from ", " is not distinct from ") + g.time()
	case 17:
		return ts + g.pick(" in ", " not in ") + "(" + g.time() + ", '2026-11-01 05:00Z')"
	case 18:
		return q + "close " + g.pick("> 5", "< 3", "is null")
	default:
		return g.pick("true", "false", "null")
	}
}

// symbolic is a condition on symbol that only the database decides (PLANNER 13).
func (g *grammar) symbolic(symbol string) string {
	one := g.pick("A", "B", "C", "D", "a", "%", "A%", "_", "[AB]", "(A|C)", "")
	like := g.pick(" like ", " not like ", " ilike ", " not ilike ", " ~ ", " !~ ", " ~* ", " similar to ", " not similar to ", " ~~ ", " ^@ ")
	op := g.pick(" = ", " <> ", " < ", " <= ", " > ", " >= ")
	of := g.pick("lower("+symbol+")", "upper("+symbol+")", "left("+symbol+", 1)", "split_part("+symbol+", 'A', 1)", "("+symbol+" || 'x')",
		"reverse("+symbol+")", "replace("+symbol+", 'A', 'B')", "nullif("+symbol+", 'B')", symbol+"::varchar(1)", symbol+"::char(3)", symbol+"::name",
		"md5("+symbol+")", "coalesce(nullif("+symbol+", 'A'), 'C')", "substring("+symbol+" from 1 for 1)", "("+symbol+` collate "C")`)
	switch g.IntN(14) {
	case 12:
		return "(nullif(" + symbol + ", " + quote(g.pick("A", "B")) + ")" + op + g.constant(one) + ") is " + g.pick("unknown", "unknown", "not unknown", "not true", "not false")
	case 0, 1:
		return symbol + like + g.constant(one)
	case 2, 3:
		return symbol + op + g.constant(one)
	case 4, 5:
		return of + op + g.constant(one)
	case 6:
		return of + g.pick(" in ", " not in ") + "('a', " + g.constant(one) + ", 'B')"
	case 7:
		return symbol + g.pick(" between ", " not between ", " between symmetric ") + g.constant(g.pick("A", "B")) + " and " + g.constant(g.pick("A", "C", "b"))
	case 8:
		return g.pick("starts_with("+symbol+", 'A')", "length("+of+") = 1", of+" is null", of+" is not null",
			"case when "+symbol+" = 'A' then true when "+symbol+" > 'B' then null else false end", "hashtext("+symbol+") % 2 = 0")
	case 9:
		return symbol + op + g.pick("lower('A')", "upper('b')", "'A' || ''", "substr('xB', 2)", "left('CA', 1)", "'B '::char(2)", "'AB'::varchar(1)", `'B' collate "C"`)
	case 10:
		return symbol + g.pick(" = any(", " <> all(") + g.pick("string_to_array('A,C', ',')", "regexp_split_to_array('B', ',')", "array['A', lower('B')]", "array[upper('b'), null]") + ")"
	case 11:
		return symbol + g.pick(" < any", " like any", " >= all", " not like all", " ilike any") + "(array['A', " + g.constant(one) + "])"
	default:
		return of + g.pick(" is distinct from ", " is not distinct from ") + g.constant(one)
	}
}

// derived compares a function of ts with a constant of the function's type.
func (g *grammar) derived(ts string) string {
	zone := g.pick("'UTC'", "'America/New_York'", "'Asia/Tokyo'", "'Europe/London'", "'Australia/Lord_Howe'")
	unit := g.pick("'minute'", "'hour'", "'day'", "'week'", "'month'", "'quarter'", "'year'", "'second'")
	width := "interval '" + g.pick("1 hour", "7 hours", "1 day", "45 minutes", "3 days") + "'"
	span := g.pick("+", "-") + " interval '" + g.pick("1 day", "5 hours", "1 month", "1 month 2 days 03:00:00", "2 weeks") + "'"
	wall := g.pick(ts+" at time zone "+zone, ts+"::timestamp", "("+ts+" "+span+") at time zone "+zone)
	op := g.pick(" = ", " < ", " <= ", " > ", " >= ", " <> ", " >= ", " < ")
	day := g.pick("2026-10-31", "2026-11-01", "2026-11-02")
	moment := day + " " + g.pick("00:00", "01:00", "01:30", "02:00", "12:00")
	switch g.IntN(17) {
	case 15:
		return "time_bucket(" + width + ", " + ts + ", " + g.pick("", "timezone => ") + zone + ")" + op + g.pick("timestamptz '", "'") + moment + g.pick("'", "Z'")
	case 16:
		return "time_bucket(" + width + ", " + ts + ", " + g.pick("", "origin => ") + "timestamptz '" + g.pick("2026-10-30 03:00Z", "1999-01-01Z", "2030-01-01 00:30Z") + "')" + op + "'" + moment + "Z'"
	case 13, 14:
		return g.counts(ts, op)
	case 12:
		months := "interval '" + g.pick("1 month", "2 months", "5 months", "1 year", "1 week", "10 days") + "'"
		return "time_bucket(" + months + ", " + g.pick(ts, "("+ts+" "+span+")") + ")" + op + g.pick("'2026-11-01Z'", "'2026-10-01Z'", "timestamptz '2026-11-03'", g.time())
	case 0, 1:
		return g.pick(g.pick(ts, wall)+"::date", "date("+g.pick(ts, wall)+")") + op + g.constant(day)
	case 2:
		return "(" + wall + ")" + op + g.pick("", "timestamp ") + "'" + moment + "'"
	case 3:
		return "date_trunc(" + unit + ", " + g.pick(ts, wall) + ")" + op + g.pick("'", "timestamp '", "timestamptz '", "date '") + moment + "'"
	case 4:
		return "date_trunc(" + unit + ", " + ts + ", " + zone + ")" + op + g.pick("'", "timestamptz '") + moment + "'"
	case 5:
		return "date_bin(" + width + ", " + g.pick(ts+", timestamptz '2001-01-01Z'", wall+", timestamp '2001-01-01'") + ")" + op + "'" + moment + "'"
	case 6:
		return "(" + ts + " " + span + ")" + op + g.time()
	case 7:
		return "extract(epoch from " + g.pick(ts, wall) + ")" + op + strconv.Itoa(1793404800+3600*g.IntN(72))
	case 8:
		n := g.pick("300", "3600", "86400", "7")
		return "floor(extract(epoch from " + ts + ") / " + n + ") * " + n + op + strconv.Itoa(1793404800+300*g.IntN(800))
	case 9:
		return "(date_trunc(" + unit + ", " + wall + ") at time zone " + zone + ")" + op + g.time()
	case 10:
		return "to_timestamp(floor(extract(epoch from " + ts + ") / 3600) * 3600)" + op + g.time()
	default:
		return ts + "::date" + g.pick(" between ", " not between ") + "'" + day + "' and " + g.pick("'2026-11-02'", "timestamptz '2026-11-02 03:00Z'", "date '2026-11-02' + 1") +
			g.pick("", " or "+ts+"::date in ('2026-10-31', '"+day+"')")
	}
}

func (g *grammar) condition(q string, depth int) string {
	if depth == 0 {
		return g.leaf(q)
	}
	switch g.IntN(6) {
	case 0, 1:
		return "(" + g.condition(q, depth-1) + " and " + g.condition(q, depth-1) + ")"
	case 2:
		return "(" + g.condition(q, depth-1) + " or " + g.condition(q, depth-1) + ")"
	case 3:
		return "not (" + g.condition(q, depth-1) + ")"
	case 4:
		return "(" + g.condition(q, depth-1) + ") is " + g.pick("", "not ") + g.pick("true", "false", "unknown")
	}
	return g.leaf(q)
}

// where is a condition that most often names symbol and timeframe.
func (g *grammar) where(q string) string {
	c := g.condition(q, g.IntN(3))
	switch g.IntN(12) {
	case 0:
		return c
	case 1, 2:
		return g.symbolic(q+"symbol") + " and " + q + "timeframe = '" + g.pick("1h", "1d") + "' and " + c
	}
	return q + "symbol in ('" + g.pick("A", "B") + "','" + g.pick("A", "C") + "') and " + q + "timeframe = '" + g.pick("1h", "1d") + "' and " + c
}

// joins is a join of three, nested one way or the other.
func (g *grammar) joins() string {
	item := func() string { return g.pick("ohlcv", "(select * from ohlcv where "+g.where("")+")") }
	join := func() string { return g.pick(" join ", " left join ", " right join ", " full join ") }
	compared := func(l, r string) string {
		return " on " + l + g.pick("ts = ", "ts = ", "ts = ", "ts >= ", "ts < ") + r + "ts and "
	}
	ab := compared("a.", "b.") + g.pick("a.symbol = b.symbol", g.condition("b.", 0), g.condition("a.", 1))
	bc := compared("b.", "c.") + g.pick("b.symbol = c.symbol", g.condition("c.", 0), g.condition("b.", 1))
	source := item() + " a " + join() + item() + " b" + ab + join() + item() + " c" + bc
	if g.IntN(2) == 0 {
		source = item() + " a " + join() + "(" + item() + " b " + join() + item() + " c" + bc + ")" + ab
	}
	where := []string{g.where(g.pick("a.", "b.", "c."))}
	for range g.IntN(3) {
		where = append(where, g.pick(g.where("a."), g.where("b."), g.where("c."), "a.ts is null", "b.ts is null", "b.ts = null", "c.symbol is null"))
	}
	return "select a.ts, b.ts, c.ts, a.symbol, b.symbol, c.symbol from " + source + " where " + strings.Join(where, " and ")
}

// correlated is an asof join, and its kin: what is read of one scan depends on the rows of another.
func (g *grammar) correlated() string {
	key := g.pick("i.symbol = o.symbol", "i.symbol = 'B'", "i.symbol in ('A', 'C')", g.leaf("i.")) + " and i.timeframe = " +
		g.pick("'1h'", "'1d'", "o.timeframe")
	on := "i.ts " + g.pick("<=", "<=", "<", ">", ">=", "=") + " o.ts" + g.pick("", "", "", " - interval '1 hour'", " + interval '1 day'", "::date")
	if g.IntN(4) == 0 {
		on += " and " + g.leaf("i.")
	}
	order := " order by i.ts " + g.pick("desc", "desc", "asc") + g.pick("", ", i.symbol") + " limit " + g.pick("1", "3", "2 offset 1")
	from := g.pick("ohlcv o", "(select * from ohlcv where "+g.where("")+") o", "(select ts, symbol, timeframe from ohlcv where "+g.where("")+" order by ts, symbol limit 4) o")
	where := " where " + g.where("o.")
	switch g.IntN(6) {
	case 5:
		outer := "(select " + g.pick("count(o.close)", "sum(o.close)", "max(o.ts)", "count(i.close)", "count(*)", "sum(close)") + g.pick("", " from ohlcv i where "+key) + ")"
		return "select " + outer + " from " + from + where + g.pick("", " order by o.ts") + " limit " + g.pick("1", "5")
	case 0:
		return "select o.ts, o.symbol, (select i.close from ohlcv i where " + key + " and " + on + " order by i.ts desc, i.symbol limit 1) from " + from + where
	case 1:
		return "select o.ts, o.symbol, (select " + g.pick("max(i.close)", "count(*)", "min(i.ts)") + " from ohlcv i where " + key + " and " + on + ") from " + from + where
	case 2:
		return "select o.ts, o.symbol from " + from + where + " and " + g.pick("", "not ") + "exists (select 1 from ohlcv i where " + key + " and " + on + ")"
	case 3:
		return "select o.ts, o.symbol from " + from + where + " and o.ts " + g.pick("in", "not in", ">= all", "< any") + " (select i.ts from ohlcv i where " + key +
			" and " + on + ")"
	default:
		join, on2 := " cross join", ""
		if g.IntN(2) == 0 {
			join, on2 = " left join", " on true"
		}
		return "select o.ts, o.symbol, l.n, l.t from " + from + join + " lateral (select count(*) as n, min(w.ts) as t from " +
			"(select i.ts from ohlcv i where " + key + " and " + on + order + ") w) l" + on2 + where
	}
}

// edges reads the first or last bar of each series.
func (g *grammar) edges() string {
	from := g.pick("ohlcv", "ohlcv", "(select * from ohlcv where "+g.where("")+")", "(select ts, symbol, timeframe, close from ohlcv)") + " o"
	where := " where " + g.where("o.")
	if g.IntN(2) == 0 {
		where = " where o.symbol in ('A', 'C') and o.timeframe = " + g.pick("'1h'", "'1d'") + g.pick("", " and o.ts "+g.pick("<", ">=", "<>", "=")+" "+g.time())
	}
	value := func() string {
		return g.pick("max(o.ts)", "max(o.ts)", "min(o.ts)", "max(o.ts) - interval '1 day'", "count(*)", "max(o.close)", "date_trunc('day', max(o.ts))", "'x'", "max(o.ts) filter (where o.close > "+g.pick("3", "12", "18")+")", "min(o.ts) filter (where o.close > 12)")
	}
	switch g.IntN(6) {
	case 0:
		return "select " + value() + g.pick("", ", "+value()) + " from " + from + where + g.pick("", "", " having count(*) > 2")
	case 1:
		by := g.pick("o.symbol", "o.symbol, o.timeframe", "o.timeframe", "rollup (o.symbol)", "o.symbol, o.ts", "o.symbol, o.close")
		return "select o.symbol, " + value() + " from " + from + where + " group by " + by + g.pick("", " having max(o.close) > 3")
	case 2:
		on := g.pick("o.symbol", "o.symbol, o.timeframe", "o.timeframe", "o.ts")
		return "select distinct on (" + on + ") " + on + ", " + g.pick("o.ts, o.close", "o.close", "o.symbol") + " from " + from + where + " order by " + on + ", o.ts " + g.pick("desc", "asc") +
			g.pick("", ", o.symbol, o.timeframe")
	case 3:
		return "select o.ts, (select " + g.pick("max(i.ts)", "min(i.ts)") + " from ohlcv i where i.symbol = " + g.pick("o.symbol", "'B'") + " and i.timeframe = '1h' and i.ts " +
			g.pick("<=", "<", ">", ">=", "=") + " o.ts) from " + from + where
	case 4:
		return "select * from (select o.symbol as s, max(o.ts) as m from " + from + where + " group by o.symbol) x join ohlcv j on j.symbol = x.s and j.ts " +
			g.pick("=", "<", ">=") + " x.m and j.timeframe = '1h'"
	default:
		return "select ts, close from ohlcv where symbol = 'A' and timeframe = '1h' and ts " + g.pick("=", ">=", "<") + " (select " +
			g.pick("max(o.ts)", "min(o.ts)", "max(o.ts) - interval '5 hours'") + " from " + from + where + ")"
	}
}

// given joins with constants: series, VALUES, parameters in a CTE.
func (g *grammar) given() string {
	kind := g.pick("timestamptz", "timestamptz", "timestamp")
	series := "generate_series(" + kind + " '2026-10-31 12:00', " + kind + " '2026-11-0" + g.pick("1", "2") + " 06:00', interval '" + g.pick("1 hour", "30 minutes", "1 day") + "')"
	more := g.pick("o.symbol = 'A' and o.timeframe = '1h'", g.where("o."))
	op := g.pick("=", "=", "<=", ">", "<>")
	join := g.pick("join", "left join", "right join", "full join")
	switch g.IntN(6) {
	case 0, 1:
		from := g.pick(series+" g(t)", "(select "+series+" as t) g", "(select distinct t from "+series+" x(t)) g")
		return "select g.t, o.ts, o.symbol from " + from + " " + join + " ohlcv o on " + g.pick("o.ts", "o.ts", "o.ts::date", "date_trunc('day', o.ts)") + " " + op + " g.t" + g.pick("", "", "::date", " + interval '1 day'") + " and " + more + g.pick("", " where o.ts is null", " where "+g.where("o."))
	case 2:
		return "select ts, o.symbol from " + series + " g(ts) " + join + " ohlcv o using (ts) where " + more
	case 3:
		values := "(values ('" + g.pick("A", "B", "D") + "', " + g.pick("null", "timestamptz '2026-11-01 03:00Z'") + "), ('C', timestamptz '" + g.pick("2026-10-31", "infinity") + "')) v" +
			g.pick("(s, t)", "(s, t)", "")
		if !strings.HasSuffix(values, ")") {
			values = strings.TrimSuffix(values, " v") + " v"
			return "select v.column1, o.ts from " + values + " " + join + " ohlcv o on o.symbol = v.column1 and o.ts " + op + " v.column2 and o.timeframe = '1d'"
		}
		return "select v.s, o.ts, o.close from " + values + " " + join + " ohlcv o on o.symbol = v.s and o.ts " + op + " v.t and o.timeframe = '1h'" + g.pick("", " where "+g.leaf("o."))
	case 4:
		other := g.pick("p.a", "p.n", "p.w", "p.w at time zone 'America/New_York'", "date_bin('1 day', p.w, '2001-01-01')", "p.x::timestamp", "p.x::date", "p.d",
			"p.d at time zone 'Asia/Tokyo'", "p.w + interval '5 hours'")
		return "with p as (select " + g.time() + "::timestamptz as a, 'B' as s, " + g.pick("'1h'", "'1h'", "null::text") + " as f, now() - interval '22 days' as n, timestamp '2026-11-01 00:30' as w, " +
			"date '2026-11-01' as d, '2026-11-01 01:00+05' as x) select o.ts, o.symbol from ohlcv o" + g.pick(", p", " cross join p", " join p on true") + " where o.ts " +
			g.pick(op, ">=", "<") + " " + other + " and o.symbol = p.s and o.timeframe = " + g.pick("p.f", "'1h'") + g.pick("", " and "+g.leaf("o."))
	default:
		return "with p as (select 'A' as s union all select 'B' " + g.pick("", "union select symbol from ohlcv where symbol = 'C' and timeframe = '1d' ") +
			") select o.ts, o.symbol from ohlcv o join p on o.symbol = p.s where o.timeframe = '1d' and o.ts > " + g.time() + g.pick("", " and exists (select 1 from p q where q.s = o.symbol)")
	}
}

func (g *grammar) statement() string {
	columns := "symbol, timeframe, ts, close"
	plain := func() string { return "select " + columns + " from ohlcv where " + g.where("") }
	switch g.IntN(90) {
	case 79, 80, 81, 82, 83, 84:
		return g.fromData()
	case 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 85, 86, 87, 88:
		return g.more()
	case 60, 61:
		return g.kinds()
	case 62, 63, 64:
		return g.spelled()
	case 65, 66, 67, 68, 89:
		return g.segments()
	case 54, 55, 56, 57, 58, 59:
		return g.joinedToData()
	case 50, 51, 52, 53:
		return g.fromData()
	case 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49:
		return g.more()
	case 32, 33, 34, 35:
		return g.edges()
	case 28, 29, 30, 31:
		return g.given()
	case 24, 25, 26, 27:
		return g.correlated()
	case 0, 1, 2:
		return plain()
	case 16, 17, 18:
		return g.joins()
	case 19:
		return "with x as (" + plain() + ") select p.ts, q.ts, p.symbol from x p " + g.pick("", "left ", "full ") + "join x q on p.ts " + g.pick("=", "<=", ">") + " q.ts and " +
			g.condition("q.", 1) + " where " + g.condition("p.", 1)
	case 20:
		if g.IntN(3) == 0 {
			return "select * from (select distinct on (" + g.pick("symbol", "symbol, timeframe", "ts") + ") symbol, timeframe, ts, rank() over (partition by " + g.pick("symbol", "timeframe", "symbol, timeframe") +
				" order by ts, symbol, timeframe) from ohlcv where " + g.where("") + " order by " + g.pick("symbol, timeframe, ts", "symbol, timeframe, ts desc", "ts, symbol, timeframe") + ") x where " +
				g.pick("symbol = 'A'", "symbol <> 'A'", "timeframe = '1h'", "ts > "+g.time(), "symbol in ('A', 'B') and ts < "+g.time())
		}
		return "select * from (select " + g.pick("distinct symbol, ts", "distinct on (ts) symbol, ts", "symbol, ts, count(*) over (partition by symbol)",
			"symbol, ts, row_number() over (order by ts, symbol)",
			"symbol, ts, lag(close) over (partition by symbol, timeframe order by ts), count(*) over (partition by "+g.pick("symbol", "ts", "symbol, ts")+")") + " from ohlcv where " + g.where("") + g.pick("", " order by ts, symbol") + ") x where " +
			g.pick("ts >= ", "ts < ") + g.time() + " and symbol <> 'C'"
	case 21:
		return "select o.ts, l.* from ohlcv o left join lateral (select i.ts, i.close from ohlcv i where " + g.where("i.") +
			" and i.ts <= o.ts order by i.ts desc, i.symbol limit 2) l on true where " + g.where("o.")
	case 22:
		return "select * from (select symbol as s, timeframe as f, ts as t from ohlcv) x(a, b, c) where a = 'A' and b = '1d' and c > " + g.time()
	case 23:
		return "select * from (select ts, symbol from ohlcv where " + g.where("") + " union all (select ts, symbol from ohlcv where " + g.where("") +
			" order by ts desc, symbol limit 5) order by 1 desc, 2 limit 7) u " +
			g.pick("", "join ohlcv j on j.ts = u.ts and j.symbol = u.symbol and j.timeframe = '1h' ", "left join ohlcv j on j.ts < u.ts and j.symbol = 'B' ") +
			"where " + g.pick("u.symbol <> 'A'", "u.ts > "+g.time())
	case 3:
		return "select count(*), min(ts), max(close) from ohlcv o where " + g.where("o.")
	case 4:
		return "select * from (" + plain() + ") x where " + g.condition("x.", 1)
	case 5:
		return "with x as (" + plain() + "), y as (select ts as t, symbol, close c from x) select * from y where t >= " + g.time()
	case 6:
		return "select * from (" + plain() + g.pick(" union ", " union all ", " intersect ", " except ") + plain() + ") u where " + g.condition("u.", 1)
	case 7, 8, 9:
		join := g.pick("join", "left join", "right join", "full join")
		zone := g.pick("UTC", "America/New_York", "Asia/Tokyo")
		f := g.pick("date_trunc('day', %s)", "date_trunc('month', %s, '"+zone+"')", "%s::date", "(%s at time zone '"+zone+"')", "%s + interval '1 day'", "%s - interval '3 hours'",
			"%s - interval '1 month'", "extract(epoch from %s)", "extract(epoch from %s) * 1000", "extract(epoch from %s)::bigint", "date_bin('6 hours', %s, '2001-01-01Z'::timestamptz)", "date_trunc('week', %s at time zone '"+zone+"')::date")
		side := func(ts string) string {
			return strings.ReplaceAll(g.pick(f, f, "%s", "%s::date", "%s - interval '1 day'"), "%s", ts)
		}
		on := g.pick("on "+side("a.ts")+g.pick(" = ", " = ", " <= ", " > ")+side("b.ts"), "on "+side("b.ts")+" = "+side("a.ts")+" and b.symbol = a.symbol", "on a.ts = b.ts", "on a.ts = b.ts and a.symbol = b.symbol", "on b.ts >= a.ts and a.timeframe = b.timeframe and b.symbol = a.symbol",
			"on a.ts > b.ts and a.timeframe <> b.timeframe", "on extract(epoch from a.ts) < extract(epoch from b.ts) * 1000", "on extract(epoch from a.ts) < extract(epoch from b.ts) * 1000 and b.ts < "+g.time(), "on extract(epoch from a.ts) > extract(epoch from b.ts)::bigint", "on a.ts = b.ts and "+g.condition("b.", 1),
			"on a.ts = b.ts and "+g.condition("a.", 1), "using (ts, symbol)")
		left := g.pick("ohlcv", "(select * from ohlcv where "+g.where("")+")")
		right := g.pick("ohlcv", "(select * from ohlcv where "+g.where("")+")")
		return "select a.ts, b.ts, a.symbol, b.symbol, a.close, b.close from " + left + " a " + join + " " + right + " b " + on +
			" where " + g.where("a.") + g.pick("", " and "+g.where("b."), " and b.symbol is null", " or b.ts is null")
	case 10:
		return "select symbol, timeframe, count(*) from ohlcv where " + g.where("") + " group by symbol, timeframe" +
			g.pick("", " having symbol <> 'A'", " having count(*) > 3 and "+"symbol = 'A'")
	case 15:
		return "select * from (select symbol, max(ts) as ts from ohlcv where " + g.where("") + " group by " + g.pick("symbol", "rollup (symbol)") +
			") x " + g.pick("", "left ", "full ") + "join (select ts, symbol, timeframe, close from ohlcv where " + g.where("") + ") y on y.symbol = x.symbol and y.ts " +
			g.pick("=", "<=", ">") + " x.ts where " + g.condition("y.", 1)
	case 11:
		return "select * from (select symbol, ts, sum(close) from ohlcv where " + g.where("") + " group by 1, 2) x where " +
			g.pick("ts >= ", "ts < ") + g.time() + " and symbol <> 'C'"
	case 12:
		return "select ts, close, symbol from ohlcv where symbol = '" + g.pick("A", "B") + "' and timeframe = '" + g.pick("1h", "1d") + "' and " +
			g.condition("", 1) + " order by " + g.pick("ts", "ts desc", "symbol, ts desc", "timeframe, ts") + " limit " +
			g.pick("3", "1", "10", "0") + g.pick("", " offset 2")
	case 13:
		return "select * from (select symbol, ts t from (" + plain() + ") i) x order by t " + g.pick("asc", "desc") + ", symbol limit 4"
	case 14:
		return "select * from (select symbol, ts from ohlcv where " + g.where("") + " order by ts desc, symbol limit 3) x where ts " +
			g.pick("<", ">=") + g.time()
	default:
		return "select o.ts, o.symbol, (select max(i.close) from ohlcv i where " + g.where("i.") + " and i.ts <= o.ts) from ohlcv o where " +
			g.where("o.") + " and exists (select 1 from ohlcv e where " + g.where("e.") + " and e.ts = o.ts)"
	}
}
