package planner

import (
	"fmt"
	"slices"
	"strings"
)

// layerColumn is one that a layer gives: of what type, and what it is called.
type layerColumn struct{ kind, name string }

// layer is a relation that the grammar makes of others, as SQL that stands in parentheses.
type layer struct {
	sql     string
	columns []layerColumn
}

func (l layer) of(kinds ...string) []string {
	var list []string
	for _, c := range l.columns {
		if slices.Contains(kinds, c.kind) {
			list = append(list, c.name)
		}
	}
	return list
}

func (l layer) names() []string {
	var list []string
	for _, c := range l.columns {
		list = append(list, c.name)
	}
	return list
}

// layers are subqueries within subqueries, joined, grouped, limited and renamed in any order: a condition outside is one on ohlcv only
// where all that lies between lets it pass (PLANNER 15 and 16).
func (g *grammar) layers() string {
	l := g.bottom()
	for range 2 + g.IntN(4) {
		l = g.above(l)
	}
	if g.IntN(2) == 0 {
		return "select * from (" + l.sql + ") z where " + g.test("z.", l)
	}
	return l.sql
}

// bottom is a scan of ohlcv, seldom another relation.
func (g *grammar) bottom() layer {
	if g.IntN(12) == 0 {
		return layer{"select symbol, tf, at, day, n from picks", []layerColumn{{"s", "symbol"}, {"f", "tf"}, {"t", "at"}, {"d", "day"}, {"n", "n"}}}
	}
	all := layer{"", []layerColumn{{"s", "symbol"}, {"f", "timeframe"}, {"t", "ts"}, {"n", "close"}}}
	where := g.pick(g.series(""), g.series(""), g.series(""), g.series(""), g.series(""), "timeframe = "+g.pick("'1h'", "'1d'"), "symbol in ('A', 'B') and timeframe in ('1h', '1d')", "true")
	switch g.IntN(6) {
	case 0:
		return layer{"select symbol as s, ts, timeframe, ts::date as d, close from ohlcv where " + where, []layerColumn{{"s", "s"}, {"t", "ts"}, {"f", "timeframe"}, {"d", "d"}, {"n", "close"}}}
	case 1:
		return layer{"select ts as symbol, symbol as ts, timeframe from ohlcv where " + where, []layerColumn{{"t", "symbol"}, {"s", "ts"}, {"f", "timeframe"}}}
	}
	all.sql = "select symbol, timeframe, ts, close from ohlcv where " + where + g.pick("", "", " and ts "+g.pick(">= ", "< ")+g.time())
	return all
}

// test is a condition on the columns of a layer.
func (g *grammar) test(q string, l layer) string {
	c := l.columns[g.IntN(len(l.columns))]
	name := q + c.name
	op := g.pick(" = ", " < ", " >= ", " > ", " <= ", " <> ", " is distinct from ")
	out := map[string]string{
		"s": g.pick(name+" = 'A'", name+" in ('A', 'B')", name+" <> 'A'", name+" = any (array['B', 'C', null])", name+" is null", name+" like 'A%'"),
		"f": g.pick(name+" = '1h'", name+" = '1d'", name+" in ('1h', '1d')", name+" is not null"),
		"t": name + op + g.time(), "d": name + op + "date '2026-11-0" + g.pick("1", "2") + "'", "w": name + op + "timestamp '2026-11-01 " + g.pick("00:00", "05:00") + "'",
		"n": g.pick(name+" > 3", name+" < 2", name+" is null", name+" = 1"),
	}[c.kind]
	switch g.IntN(8) {
	case 0:
		return "not (" + out + ")"
	case 1:
		return "(" + out + ") is " + g.pick("not true", "unknown", "not false")
	case 2:
		return "(" + out + g.pick(" or ", " and ", " and ") + g.test(q, l) + ")"
	}
	return out
}

// renamedAs gives the layer's columns other names under an alias, some left out.
func (g *grammar) renamedAs(q string, l layer, prefix string) (string, []layerColumn) {
	var targets []string
	var columns []layerColumn
	for i, c := range l.columns {
		if len(l.columns) > 4 && g.IntN(4) == 0 {
			continue
		}
		name := fmt.Sprintf("%s%d", prefix, i)
		if g.IntN(3) > 0 && prefix == "c" {
			name = c.name
		}
		expression, kind := q+c.name, c.kind
		if g.IntN(6) == 0 {
			switch kind {
			case "t":
				expression, kind = g.pick(expression+" + interval '5 hours'\tt", expression+"::date\td", expression+"::timestamp\tw", "date_trunc('day', "+expression+")\tt", "coalesce("+expression+", '2026-11-01Z')\tt"), ""
			case "s":
				expression, kind = g.pick(expression+"::varchar\ts", "coalesce("+expression+", 'B')\ts", "nullif("+expression+", 'B')\ts", "'A'\ts"), ""
			}
		}
		if text, k, cut := strings.Cut(expression, "\t"); cut {
			expression, kind = text, k
		}
		if slices.ContainsFunc(columns, func(o layerColumn) bool { return o.name == name }) {
			continue
		}
		targets, columns = append(targets, expression+" as "+name), append(columns, layerColumn{kind, name})
	}
	if len(columns) == 0 {
		return "1 as one", []layerColumn{{"n", "one"}}
	}
	return strings.Join(targets, ", "), columns
}

// above puts a layer over another one.
func (g *grammar) above(l layer) layer {
	names := l.names()
	all := strings.Join(names, ", ")
	one := names[g.IntN(len(names))]
	from := " from (" + l.sql + ") x"
	order := " order by " + one + g.pick("", " desc", " desc nulls last", " nulls first") + ", " + all
	switch g.IntN(16) {
	case 0, 1, 2:
		l.sql = "select *" + from + " where " + g.test("x.", l)
	case 3:
		l.sql = "select *" + from + g.pick(order, "") + " limit " + g.pick("all", "null offset 0", "100000")
		if g.IntN(2) == 0 {
			l.sql = "select *" + from + order + " limit " + g.pick("1", "4", "20 offset 3")
		}
	case 4:
		l.sql = "select distinct" + g.pick(" *", " on ("+one+") *") + from + " order by " + one + ", " + all
	case 5:
		l.sql = "select " + one + " as g, count(*) as n" + from + " group by " + g.pick(one, "rollup ("+one+")", one+", "+names[0]) + g.pick("", " having count(*) > 1")
		l.columns = []layerColumn{{l.columns[slices.Index(names, one)].kind, "g"}, {"n", "n"}}
	case 6:
		if list := l.of("t", "d", "w"); len(list) > 0 {
			at := list[g.IntN(len(list))]
			kind := l.columns[slices.Index(names, at)].kind
			l.sql = "select " + one + " as g, " + g.pick("max", "min") + "(" + at + ") as m" + from + " group by " + one
			l.columns = []layerColumn{{l.columns[slices.Index(names, one)].kind, "g"}, {kind, "m"}}
		}
	case 7:
		over := "(partition by " + one + " order by " + all + g.pick("", " rows 2 preceding") + ")"
		if list := l.of("t"); len(list) > 0 && g.IntN(3) == 0 {
			over = "(" + g.pick("", "partition by "+one) + " order by " + list[0] + " range between interval '3 hours' preceding and " + g.pick("current row", "interval '1 hour' following") + ")"
		}
		number := fmt.Sprintf("w%d", g.IntN(1000))
		l.sql = "select *, " + g.pick("count(*)", "rank()") + " over " + over + " as " + number + from
		l.columns = append(slices.Clone(l.columns), layerColumn{"n", number})
	case 8, 9:
		targets, columns := g.renamedAs("x.", l, "c")
		l = layer{"select " + targets + from, columns}
	case 10:
		l.sql = "(" + l.sql + ")" + g.pick(" union all ", " union ", " intersect ", " except ") + "(select *" + from + " where " + g.test("x.", l) + ")"
	default:
		return g.combined(l, g.bottom())
	}
	return l
}

// combined joins two layers, or asks the one whether it has a row for the other.
func (g *grammar) combined(l, r layer) layer {
	if g.IntN(3) == 0 {
		r = g.above(r)
	}
	on := []string{}
	for _, kind := range []string{"s", "t", "t", "f"} {
		a, b := l.of(kind), r.of(kind)
		if len(a) == 0 || len(b) == 0 || g.IntN(3) == 0 {
			continue
		}
		op := " = "
		if kind == "t" {
			op = g.pick(" = ", " = ", " <= ", " > ", " is not distinct from ")
		}
		on = append(on, "a."+a[g.IntN(len(a))]+op+"b."+b[g.IntN(len(b))])
	}
	if g.IntN(3) == 0 || len(on) == 0 {
		on = append(on, g.pick(g.test("a.", l), g.test("b.", r), "true"))
	}
	if t := r.of("t"); len(t) > 0 && !slices.ContainsFunc(on, func(c string) bool { return strings.Contains(c, "b."+t[0]) && strings.Contains(c, " = b.") }) {
		on = append(on, "b."+t[0]+" >= '2026-11-01Z' and b."+t[0]+" < '2026-11-01 03:00Z'") // a few only, for each row of the other
	}
	condition := strings.Join(on, " and ")
	join := g.pick(" join ", " join ", " left join ", " right join ", " full join ")
	switch g.IntN(6) {
	case 0:
		return layer{"select * from (" + l.sql + ") a where " + g.pick("", "not ") + "exists (select 1 from (" + r.sql + ") b where " + condition + ")", l.columns}
	case 1:
		return layer{"select a.*, (select count(*) from (" + r.sql + ") b where " + condition + ") as k from (" + l.sql + ") a", append(slices.Clone(l.columns), layerColumn{"n", "k"})}
	case 2:
		if i := slices.IndexFunc(r.columns, func(c layerColumn) bool { return len(l.of(c.kind)) > 0 }); i >= 0 {
			of := l.of(r.columns[i].kind)
			return layer{"select * from (" + l.sql + ") a where a." + of[0] + g.pick(" in ", " not in ", " = any ", " <> all ") + "(select b." + r.columns[i].name + " from (" + r.sql + ") b where " + g.test("b.", r) + ")", l.columns}
		}
	case 3:
		with := "with a as " + g.pick("", "materialized ", "not materialized ") + "(" + l.sql + ") "
		left, columns := g.renamedAs("a.", l, "l")
		if t := l.of("t"); len(t) > 0 {
			return layer{with + "select " + left + " from a" + join + "a b on a." + t[0] + " = b." + t[0] + g.pick("", " + interval '1 day'") + " and " + g.test("b.", l), columns}
		}
		return layer{with + "select " + left + " from a where " + g.test("a.", l), columns}
	}
	if strings.Contains(condition, "<=") || strings.Contains(condition, ">") || strings.Contains(condition, "is ") {
		join = g.pick(" join ", " left join ", " right join ")
	}
	left, columns := g.renamedAs("a.", l, "l")
	right, more := g.renamedAs("b.", r, "r")
	return layer{"select " + left + ", " + right + " from (" + l.sql + ") a" + join + "(" + r.sql + ") b on " + condition, append(columns, more...)}
}
