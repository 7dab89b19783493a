package main

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"pgregory.net/rapid"
)

// elsewhere is what a user has beside ohlcv: tables of the user's own, one of them in another schema under the same name.
func elsewhere(at scene) string {
	first := at.start.Format("2006-01-02 15:04:05Z07:00")
	return fmt.Sprintf(`create schema elsewhere;
		create table elsewhere.rows (symbol text, timeframe text, ts timestamptz, open float8, high float8, low float8, close float8, volume float8);
		insert into elsewhere.rows select s, f, timestamptz '%[1]s' + i * interval '1 day', 1, 2, 0.5, 1.5, 3
			from unnest(array['%[2]s']) s, unnest(array['%[3]s']) f, generate_series(-1, 4) i;
		create table elsewhere.ohlcv as select * from elsewhere.rows;
		create table public.mine (symbol text, timeframe text, ts timestamptz, close float8, note text, primary key (symbol, timeframe, ts));
		insert into public.mine select s, f, timestamptz '%[1]s' + i * interval '1 hour', 0, 'note ' || i
			from unnest(array['%[2]s']) s, unnest(array['%[3]s']) f, generate_series(-24, 72, 3) i`,
		first, strings.Join(at.symbols, "','"), strings.Join(at.timeframes, "','"))
}

// views are defined through barkeep, as a user would.
func views(at scene) []string {
	return []string{
		"create view bars_view as select symbol, timeframe, ts, open, close, volume from ohlcv",
		"create view coarse_view as select symbol as s, ts as t, close as c from bars_view where timeframe = '" + at.timeframes[0] + "'",
	}
}

// typedInstant is an instant from parameters of the other types that drivers send.
func (g *grammar) typedInstant(at time.Time) string {
	switch rapid.IntRange(0, 6).Draw(g.t, "type") {
	case 0:
		return g.parameter(pgtype.DateOID, at)
	case 1:
		return g.parameter(pgtype.TimestampOID, at)
	case 2:
		return "now() - " + g.parameter(pgtype.IntervalOID, time.Since(at).Truncate(time.Minute))
	case 3:
		return "to_timestamp(" + g.parameter(pgtype.Float8OID, float64(at.Unix())) + ")"
	case 4:
		return g.parameter(pgtype.TextOID, at.Format("2006-01-02 15:04:05Z07:00")) + "::timestamptz"
	case 5:
		return g.parameter(pgtype.DateOID, at) + " + " + g.parameter(pgtype.Int4OID, rapid.IntRange(-2, 2).Draw(g.t, "days"))
	default:
		return g.parameter(pgtype.TimestamptzOID, at) + " + " + g.parameter(pgtype.IntervalOID, 90*time.Minute)
	}
}

// typedMap encodes parameters as pgx does. It remembers how, so that only one may use it at a time.
var (
	typedMu  sync.Mutex
	typedMap = pgtype.NewMap()
)

// parameter adds one of a declared type, in text or binary.
func (g *grammar) parameter(oid uint32, value any) string {
	a := argument{oid: oid, binary: g.chance("binary", 50)}
	format := int16(pgtype.TextFormatCode)
	if a.binary {
		format = pgtype.BinaryFormatCode
	}
	typedMu.Lock()
	encoded, err := typedMap.Encode(oid, format, value, nil)
	typedMu.Unlock()
	if err != nil {
		g.t.Fatalf("encode %v as %d: %v", value, oid, err)
	}
	a.value = encoded
	if g.chance("null", 3) {
		a.value = nil
	}
	g.args = append(g.args, a)
	return fmt.Sprintf("$%d", len(g.args))
}

// symbolArray is a list of symbols in one parameter, NULL among them.
func (g *grammar) symbolArray(column string) string {
	var list []pgtype.Text
	for range rapid.IntRange(0, 3).Draw(g.t, "elements") {
		list = append(list, pgtype.Text{String: g.pick("symbol", g.scene.symbols...), Valid: !g.chance("null element", 15)})
	}
	oid := rapid.SampledFrom([]uint32{pgtype.TextArrayOID, pgtype.VarcharArrayOID}).Draw(g.t, "oid")
	return column + " = any(" + g.parameter(oid, list) + ")"
}

// instantArray is a list of instants in one parameter.
func (g *grammar) instantArray(column string) string {
	var list []pgtype.Timestamptz
	for range rapid.IntRange(0, 3).Draw(g.t, "elements") {
		list = append(list, pgtype.Timestamptz{
			Time: g.start.Add(time.Duration(rapid.IntRange(0, 72).Draw(g.t, "hour")) * time.Hour), Valid: !g.chance("null element", 15),
		})
	}
	return column + g.pick("list", " = any(", " <> all(") + g.parameter(pgtype.TimestamptzArrayOID, list) + ")"
}

// rowLeaf compares rows, as keyset paging does. The first column is never symbol: PostgreSQL 17.12 itself, on a plain table too,
// answers (symbol, ts) > ('file:BBB', …) and symbol = 'file:AAA' and timeframe in ('1h', '1m') with rows of file:AAA where it takes
// all three for conditions of the index (symbol, timeframe, ts), and which plan it takes differs between the two databases.
func (g *grammar) rowLeaf(alias string) string {
	at := "timestamptz '" + g.moment().Format("2006-01-02 15:04:05Z07:00") + "'"
	symbol, timeframe := g.pick("symbol", g.scene.symbols...), g.pick("timeframe", g.timeframes...)
	operator := g.pick("operator", " < ", " <= ", " > ", " >= ", " = ", " <> ")
	switch rapid.IntRange(0, 4).Draw(g.t, "row") {
	case 0:
		return fmt.Sprintf("(%[1]sts, %[1]ssymbol)%[2]s(%[3]s, '%[4]s')", alias, operator, at, symbol)
	case 1:
		return fmt.Sprintf("(%[1]stimeframe, %[1]sts)%[2]s('%[4]s', %[3]s)", alias, operator, at, timeframe)
	case 2:
		return fmt.Sprintf("(%[1]sts, %[1]ssymbol) in ((%[2]s, '%[3]s'), (%[2]s - interval '1 hour', '%[3]s'))", alias, at, symbol)
	case 3:
		return fmt.Sprintf("row(%[1]sts, %[1]stimeframe, %[1]sclose)%[2]srow(%[3]s, null, 3)", alias, operator, at)
	default:
		return fmt.Sprintf("(%[1]sts, %[1]stimeframe)%[2]s(%[3]s, '%[4]s')", alias, operator, at, timeframe)
	}
}

// nullLeaf is a test of a condition that may be NULL.
func (g *grammar) nullLeaf(alias string) string {
	null := g.pick("null", "null", "null::timestamptz", "(select null::timestamptz)", "nullif(1, 1)::text::timestamptz")
	return "(" + alias + "ts " + g.pick("operator", "<", ">=", "=", "<>") + " " + null + g.pick("more", "", " or "+g.tsLeaf(alias), " and "+g.tsLeaf(alias)) +
		") is " + g.pick("test", "true", "not true", "not false", "false", "unknown", "not unknown")
}

func (g *grammar) moment() time.Time {
	return g.start.Add(time.Duration(rapid.IntRange(-10, 82).Draw(g.t, "hour")) * time.Hour)
}

// further draws the forms that are not one SELECT over ohlcv and its subqueries.
func (g *grammar) further() (sql string, ordered bool) {
	switch rapid.IntRange(0, 11).Draw(g.t, "further") {
	case 9, 10, 11:
		return g.fromData(), false
	case 0, 1:
		return g.grouped(), false
	case 2:
		return g.nullSide(), false
	case 3:
		return g.page(), true
	case 4:
		return "select s, t, c from coarse_view v where " + strings.Join(append([]string{
			g.symbolsOf("s"), g.tsOf("t"),
		}, g.boundsOf("t")...), " and "), false
	case 5:
		g.lax = true
		return g.unnamed(), false
	default:
		if g.way == asQuery || g.way == asExtended || g.way == asPreparedArgs {
			return g.write(), false
		}
		return g.grouped(), false
	}
}

// picked selects from the user's own table, in rows that are the statement's to say.
func (g *grammar) picked(columns string) string {
	at := "timestamptz '" + g.start.Add(time.Duration(rapid.IntRange(-24, 60).Draw(g.t, "hours"))*time.Hour).Format(time.RFC3339) + "'"
	return "select " + columns + " from mine m where m.timeframe = '" + g.pick("timeframe", g.timeframes...) + "'" +
		g.pick("rows", "", " and m.symbol <> '"+g.scene.symbols[0]+"'", " and m.ts < "+at, " and m.ts >= "+at, " and m.note = 'note 3'", " and false") +
		g.pick("picks", "", "", " order by m.ts, m.symbol limit 2", " order by m.note limit 3", " limit 1")
}

// fromData takes symbols, timeframes and times from the user's own table, or from ohlcv itself (PLANNER 19).
func (g *grammar) fromData() string {
	const columns = "select o.symbol, o.timeframe, o.ts, o.close from "
	rest := strings.Join(append([]string{g.timeframe("o."), g.condition("o.", 1)}, g.bounds("o.")...), " and ")
	join := g.pick("join", "join", "left join", "right join")
	switch rapid.IntRange(0, 7).Draw(g.t, "from data") {
	case 0:
		if g.chance("null", 25) {
			return columns + "ohlcv o where (o.symbol " + g.pick("null", "in", "not in", "<> all") + " (select nullif(x.symbol, '" + g.scene.symbols[0] + "') from (" + g.picked("m.symbol") + ") x)) is " +
				g.pick("test", "null", "unknown", "not true", "not false") + " and " + g.symbols("o.") + " and " + rest
		}
		if g.chance("not in", 20) {
			return columns + "ohlcv o where o.symbol not in (" + g.picked("m.symbol") + ") and " + g.symbols("o.") + " and " + rest
		}
		return columns + "ohlcv o where o.symbol " + g.pick("in", "in", "= any") + " (" + g.picked("m.symbol") + ") and " + rest
	case 1:
		return columns + "ohlcv o where o.symbol in (select symbol from (" + g.picked("m.symbol") + ") x) and o.ts " + g.pick("operator", ">=", "<", "=") + " (select " +
			g.pick("end", "max", "min") + "(ts) from mine) - interval '" + g.pick("span", "0", "1 day", "30 hours") + "' and " + rest
	case 2:
		return columns + "(" + g.picked("m.symbol, m.ts, m.note") + ") w " + join + " ohlcv o on o.symbol = w.symbol and " + rest
	case 3:
		return columns + "mine w join ohlcv o on o.symbol = w.symbol and o.ts between w.ts - interval '2 hours' and w.ts where w.note in ('note 0', 'note 9') and w.timeframe = o.timeframe and " + rest
	case 4:
		return columns + "ohlcv o where " + g.pick("not", "", "", "not ") + "exists (" + g.picked("1") + ") and exists (select from mine e where e.symbol = o.symbol and e.note = 'note 3') and " + rest
	case 5:
		return "with top as (select symbol from ohlcv where " + g.where("") + " group by symbol order by " + g.pick("order", "max(close) desc, symbol", "sum(volume), symbol", "count(*), symbol") + " limit 1) " +
			columns + "ohlcv o where o.symbol in (select symbol from top) and " + rest
	case 6:
		return columns + "ohlcv o where (o.symbol, o.timeframe) in (" + g.picked("m.symbol, m.timeframe") + ") and " + rest
	default:
		return columns + "(" + g.picked("m.symbol, m.ts") + ") w cross join lateral (select * from ohlcv b where b.symbol = w.symbol and b.timeframe = '" + g.timeframes[0] +
			"' and b.ts <= w.ts order by b.ts desc limit 2) o where " + strings.Join(append([]string{g.tsLeaf("o.")}, g.bounds("o.")...), " and ")
	}
}

// symbolsOf, tsOf and boundsOf are conditions on columns of other names.
func (g *grammar) symbolsOf(column string) string {
	return strings.ReplaceAll(g.symbols(""), "symbol", column)
}

func (g *grammar) tsOf(column string) string {
	return column + g.pick("operator", " < ", " <= ", " > ", " >= ") + g.instant()
}

func (g *grammar) boundsOf(column string) []string {
	if g.window == "" {
		return nil
	}
	return []string{column + " " + g.window}
}

// grouped groups by several sets, with conditions above them.
func (g *grammar) grouped() string {
	from, where := g.relation("o")
	sets := g.pick("sets", "grouping sets ((o.symbol), ())", "grouping sets ((o.symbol, o.timeframe), (o.timeframe), ())", "rollup (o.symbol, o.timeframe)",
		"cube (o.symbol, o.timeframe)", "o.symbol, rollup (o.timeframe)")
	inner := fmt.Sprintf("select o.symbol, o.timeframe, count(*) n, max(o.ts) ts from %s where %s group by %s", from, where, sets)
	if strings.HasPrefix(sets, "grouping sets ((o.symbol), ()") {
		inner = strings.Replace(inner, "o.timeframe, count", "'-' as timeframe, count", 1)
	}
	if g.chance("having", 30) {
		inner += " having " + g.pick("having", "o.symbol is null", "count(*) > 5", "o.symbol = '"+g.scene.symbols[0]+"'", "max(o.ts) > timestamptz '2024-03-10Z'")
	}
	return "select symbol, timeframe, n, ts from (" + inner + ") x where " +
		g.pick("above", "true", "symbol is null", "symbol is not null", "timeframe is null", g.tsLeaf("x."), g.symbols("x."))
}

// nullSide is an outer join whose condition is on the side that may be NULL.
func (g *grammar) nullSide() string {
	left, right := g.where("a."), g.where("b.")
	test := g.pick("test", "b.ts is null", "b.symbol is null", "a.ts is null", "(b.ts > timestamptz '2024-03-10Z') is not true",
		"coalesce(b.ts, a.ts) > timestamptz '2024-03-09 12:00Z'", "b.ts is distinct from a.ts", "not (b.close > 3) is not unknown", "(a.ts < b.ts) is unknown", "b is null")
	return fmt.Sprintf("select a.symbol, a.ts, b.symbol, b.ts, b.close from (select * from %s a where %s) a %s (select * from %s b where %s) b "+
		"on a.ts = b.ts and a.timeframe = b.timeframe and a.symbol %s b.symbol where %s",
		g.table(), left, g.pick("join", "left join", "right join", "full join"), g.table(), right, g.pick("on", "=", "="), test)
}

// page is one page of keyset paging.
func (g *grammar) page() string {
	at := g.moment().Format("2006-01-02 15:04:05Z07:00")
	parts := append([]string{g.symbols(""), g.timeframe("")}, g.bounds("")...)
	symbol := g.pick("symbol", g.scene.symbols...)
	limit := strconv.Itoa(rapid.IntRange(1, 30).Draw(g.t, "limit"))
	if g.bind && g.chance("limit as parameter", 50) {
		limit = g.parameter(rapid.SampledFrom([]uint32{pgtype.Int8OID, pgtype.Int4OID}).Draw(g.t, "oid"), 7)
	}
	if g.chance("descending", 50) {
		return fmt.Sprintf("select %s, close from %s where %s and (ts, symbol, timeframe) < ('%s', '%s', 'z') order by ts desc, symbol desc, timeframe desc limit %s",
			keys, g.table(), strings.Join(parts, " and "), at, symbol, limit)
	}
	return fmt.Sprintf("select %s, close from %s where %s and (ts, symbol, timeframe) > ('%s', '%s', '') order by ts, symbol, timeframe limit %s",
		keys, g.table(), strings.Join(parts, " and "), at, symbol, limit)
}

// unnamed leaves out what names the series: refused, or answered from what is stored with a WARNING (PLANNER 18).
func (g *grammar) unnamed() string {
	parts := []string{g.symbols("o.")}
	switch rapid.IntRange(0, 2).Draw(g.t, "left out") {
	case 0:
		parts = []string{g.timeframe("o.")}
	case 1:
		parts = []string{"o.symbol like 'file%'", g.timeframe("o.")}
	}
	parts = append(append(parts, g.tsLeaf("o.")), g.bounds("o.")...)
	return "select o.symbol, o.timeframe, o.ts, o.close from " + g.table() + " o where " + strings.Join(parts, " and ")
}

// write fills or changes the user's table from ohlcv.
func (g *grammar) write() string {
	g.writes = true
	from, where := g.relation("o")
	if strings.HasPrefix(from, "(select symbol") || strings.HasPrefix(from, "bars_view") {
		where = "(" + where + ")"
	}
	same := "m.symbol = o.symbol and m.timeframe = o.timeframe and m.ts = o.ts"
	switch rapid.IntRange(0, 5).Draw(g.t, "write") {
	case 0:
		return fmt.Sprintf("update mine m set close = o.close, note = 'new' from %s where %s and %s returning m.*", from, same, where)
	case 1:
		return fmt.Sprintf("delete from mine m using %s where %s and %s returning m.*, o.close", from, same, where)
	case 2:
		return fmt.Sprintf("with w as (insert into mine select %s, o.close, 'new' from %s where %s on conflict (symbol, timeframe, ts) do update "+
			"set close = excluded.close returning *) select * from w", "o.symbol, o.timeframe, o.ts", from, where)
	case 3:
		return fmt.Sprintf("merge into mine m using (select o.symbol, o.timeframe, o.ts, o.close from %s where %s) o on %s when matched then update set close = o.close "+
			"when not matched then insert values (o.symbol, o.timeframe, o.ts, o.close, 'new')", from, where, same)
	case 4:
		return fmt.Sprintf("delete from mine m where exists (select 1 from %s where %s and %s) returning m.*", from, same, where)
	default:
		return fmt.Sprintf("insert into mine select o.symbol, o.timeframe, o.ts, o.close, 'new' from %s where %s on conflict do nothing returning *", from, where)
	}
}

// prelude is what the block does before the statement: another relation of the name ohlcv, or other settings.
func (g *grammar) prelude() []string {
	switch rapid.IntRange(0, 9).Draw(g.t, "prelude") {
	case 0:
		return []string{"create temp table ohlcv on commit drop as table elsewhere.rows"}
	case 1:
		return []string{"set local search_path = elsewhere, public"}
	case 2:
		return []string{"set local search_path = pg_temp, public"}
	case 3:
		return []string{"set local barkeep.mode = 'stored'; set local barkeep.mode = 'wait'"}
	case 4:
		return []string{"set local search_path = elsewhere, public", "set local search_path = public"}
	}
	return nil
}

// types are those of PREPARE, values the arguments of EXECUTE.
func (s statement) types() string {
	list := make([]string, len(s.args))
	for i, a := range s.args {
		list[i] = "unknown"
		if a.oid != 0 {
			named, _ := typedMap.TypeForOID(a.oid)
			list[i] = strings.TrimPrefix(named.Name, "_")
			if named.Name[0] == '_' {
				list[i] += "[]"
			}
		}
	}
	if len(list) == 0 {
		return ""
	}
	return "(" + strings.Join(list, ", ") + ")"
}

func (s statement) values() string {
	list := make([]string, len(s.args))
	for i, a := range s.args {
		list[i] = "null"
		if a.value != nil {
			list[i] = "'" + a.literal() + "'"
		}
	}
	if len(list) == 0 {
		return ""
	}
	return "(" + strings.Join(list, ", ") + ")"
}

// literal is the value as text.
func (a argument) literal() string {
	typedMu.Lock()
	defer typedMu.Unlock()
	named, known := typedMap.TypeForOID(a.oid)
	if !a.binary || !known {
		return string(a.value) // a text is the same in binary
	}
	value, err := named.Codec.DecodeValue(typedMap, a.oid, pgtype.BinaryFormatCode, a.value)
	if err != nil {
		return string(a.value)
	}
	text, err := typedMap.Encode(a.oid, pgtype.TextFormatCode, value, nil)
	if err != nil {
		return string(a.value)
	}
	return string(text)
}

// patterns is a condition on symbol that only the database decides (PLANNER 13), for the symbols of the scene: by a prefix, where the
// source has no others, or by name.
func (g *grammar) patterns(column string) string {
	source, name, _ := strings.Cut(g.pick("symbol", g.scene.symbols...), ":")
	text := func(value string) string { return g.text(value, "::text") }
	of := g.pick("function", "lower("+column+")", "split_part("+column+", ':', 2)", column+"::varchar(6)", "right("+column+", 3)", "reverse("+column+")",
		"("+column+` collate "C")`, column+" || ''", "replace("+column+", 'A', 'B')", "substr("+column+", 6)")
	var more string
	switch rapid.IntRange(0, 6).Draw(g.t, "pattern") {
	case 0:
		more = column + g.pick("like", " like ", " not like ", " ilike ", " ~ ", " !~ ", " similar to ") + text(g.pick("pattern", "%"+name, "%B%", source+":_"+name[1:], name))
	case 1:
		more = column + g.pick("operator", " < ", " >= ", " <> ", " > ", " <= ") + text(source+":"+name)
	case 2:
		more = of + g.pick("operator", " = ", " <> ", " < ", " >= ") + text(g.pick("value", name, strings.ToLower(source+":"+name), source+":"+name[:1]))
	case 3:
		more = column + " between " + text(source+":B") + " and " + text(source+":"+name)
	case 4:
		more = of + g.pick("list", " in ", " not in ") + "('" + name + "', " + text(source+":"+name[:1]) + ")"
	case 5:
		more = column + " = " + text(source) + " || ':' || " + g.pick("made", "upper('"+strings.ToLower(name)+"')", "'"+name+"'")
	default:
		more = column + g.pick("array", " = any(string_to_array('", " <> all(string_to_array('") + strings.Join(g.scene.symbols[:1], ",") + "," + source + ":" + name + "', ','))"
	}
	if source == "file" && g.chance("by prefix", 60) {
		return "(" + g.pick("prefix", column+" like 'file:%'", "starts_with("+column+", 'file:')", column+" ^@ 'file:'") + " and " + more + ")"
	}
	return "(" + column + " in ('" + strings.Join(g.scene.symbols, "', '") + "') and " + more + ")"
}
