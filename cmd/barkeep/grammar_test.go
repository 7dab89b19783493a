package main

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"pgregory.net/rapid"
)

// argument is the value of a parameter, as a driver sends it.
type argument struct {
	value  []byte // nil is NULL
	oid    uint32 // 0 leaves the type to the server
	binary bool
}

func (a argument) String() string {
	if a.value == nil {
		return fmt.Sprintf("NULL:%d", a.oid)
	}
	return fmt.Sprintf("%q:%d:%v", a.value, a.oid, a.binary)
}

// The ways in which a statement is executed.
const (
	asQuery    = "query"    // a Query
	asExtended = "extended" // Parse, Bind and Execute
	asPrepared = "prepared" // PREPARE and EXECUTE in one Query
	asCursor   = "cursor"   // DECLARE and FETCH in one Query
	asTable    = "table"    // CREATE TEMP TABLE AS and what it holds
	asCopy     = "copy"     // COPY (…) TO STDOUT
	// Several Queries each.
	asSteps        = "steps"       // DECLARE, and FETCH in steps
	asPreparedArgs = "with values" // PREPARE with parameters, and EXECUTE with their values
	asExplain      = "explain"     // EXPLAIN, which fetches nothing, and the statement
	asAnalyze      = "analyze"     // EXPLAIN ANALYZE, which fetches all, and the statement on what is stored
)

// The blocks in which a statement is executed.
const (
	noBlock         = ""
	readCommitted   = "read committed"
	repeatableRead  = "repeatable read"
	snapshotAlready = "repeatable read, with its snapshot taken"
)

// statement is one random statement of the differential test.
type statement struct {
	sql string
	// args are the parameters of $1 …; only extended statements have any.
	args []argument
	// ordered is set where the order of the rows is part of the answer.
	ordered bool
	// zone is the session's TimeZone.
	zone string
	// dateStyle is the session's DateStyle, way how the statement goes, and block what it goes in.
	dateStyle, way, block string
	// zoneInside sets the zone in the statement's own Query; the session's is another.
	zoneInside bool
	// prelude is sent before it, in its block; joined with it to one Query where together is set.
	prelude  []string
	together bool
	// lax allows an answer from what is stored, with a WARNING.
	lax bool
	// writes says that a table of the user's is changed; show it too.
	writes bool
}

func (s statement) String() string {
	return fmt.Sprintf("zone=%s (inside: %v) datestyle=%s way=%s block=%q prelude=%q (together: %v) ordered=%v args=%v\n%s", s.zone, s.zoneInside,
		s.dateStyle, s.way, s.block, s.prelude, s.together, s.ordered, s.args, s.sql)
}

// text is the Query of a statement that is not extended.
func (s statement) text() string {
	begin, end := "begin; ", "; commit"
	if s.block != noBlock {
		begin, end = "", ""
	}
	switch s.way {
	case asPrepared:
		return "prepare p as " + s.sql + "; execute p; deallocate p"
	case asCursor:
		return begin + "declare c cursor for " + s.sql + "; fetch all from c; close c" + end
	case asTable:
		return "create temp table t as " + s.sql + "; select * from t; drop table t"
	}
	sql := s.sql
	if s.together {
		sql = strings.Join(append(slices.Clone(s.prelude), sql), "; ")
	}
	if s.zoneInside {
		return "set timezone = '" + s.zone + "'; " + sql
	}
	return sql
}

// scene is what a database holds, for statements to be drawn around.
type scene struct {
	symbols, timeframes []string
	// start is where the bars begin that the bounds of ts are drawn around.
	start time.Time
	// window bounds every statement, where the history is too long to be read whole.
	window string
}

// grammarStart is where the random market's minutes begin.
var grammarStart = time.Date(2024, 3, 9, 0, 0, 0, 0, time.UTC)

var grammarZones = []string{"UTC", "UTC", "Asia/Tokyo", "America/New_York"}

// nullParameter stands for NULL among the arguments of a statement.
const nullParameter = "\x00"

// grammar draws statements. Every form that the planner knows has a rule here.
type grammar struct {
	scene

	t    *rapid.T
	args []argument
	way  string
	bind bool
	// lax and writes are the statement's.
	lax, writes bool
	// european says that DateStyle has the day before the month.
	european bool
}

func (g *grammar) pick(label string, from ...string) string {
	return rapid.SampledFrom(from).Draw(g.t, label)
}

func (g *grammar) chance(label string, percent int) bool {
	return rapid.IntRange(0, 99).Draw(g.t, label) < percent
}

// text is a string constant: a literal, or a parameter where the statement takes them.
func (g *grammar) text(value, cast string) string {
	if g.chance("null", 3) {
		value = nullParameter
	}
	if g.bind && g.chance("as parameter", 50) {
		g.args = append(g.args, g.argument(value, cast))
		return fmt.Sprintf("$%d%s", len(g.args), cast)
	}
	quoted := "'" + value + "'"
	if value == nullParameter {
		quoted = "null"
	}
	if cast != "" && g.chance("with cast", 40) {
		return quoted + cast
	}
	return quoted
}

// argument sends a text or an instant as one of the drivers would.
func (g *grammar) argument(value, cast string) argument {
	const textOID, unknown = pgtype.TextOID, pgtype.UnknownOID
	a := argument{value: []byte(value)}
	switch {
	case value == nullParameter:
		a.value = nil
	case cast == "::text":
		a.oid = rapid.SampledFrom([]uint32{0, textOID, pgtype.VarcharOID, unknown}).Draw(g.t, "oid")
		a.binary = g.chance("binary", 40)
	case g.chance("typed", 30):
		a.oid = pgtype.TimestamptzOID
	}
	return a
}

// instantArgument sends an instant in binary.
func (g *grammar) instantArgument(at time.Time) string {
	const epoch2000 = 946684800
	micros := at.UnixMicro() - epoch2000*1_000_000
	a := argument{oid: pgtype.TimestamptzOID, binary: true, value: binary.BigEndian.AppendUint64(nil, uint64(micros))}
	switch rapid.IntRange(0, 5).Draw(g.t, "binary form") {
	case 0:
		a.oid = pgtype.TimestampOID
	case 1:
		days := (at.Unix() - epoch2000) / 86400
		a.oid, a.value = pgtype.DateOID, binary.BigEndian.AppendUint32(nil, uint32(days))
	case 2:
		a.value = nil
	}
	g.args = append(g.args, a)
	return fmt.Sprintf("$%d", len(g.args))
}

func (g *grammar) instant() string {
	minutes := rapid.IntRange(-600, 3*1440+600).Draw(g.t, "minute")
	if g.chance("on the hour", 50) {
		minutes -= minutes % 60
	}
	at := g.start.Add(time.Duration(minutes) * time.Minute)
	if g.bind && g.chance("as binary parameter", 25) {
		return g.instantArgument(at)
	}
	if g.bind && g.chance("as typed parameter", 20) {
		return g.typedInstant(at)
	}
	switch rapid.IntRange(0, 9).Draw(g.t, "instant form") {
	case 6:
		return "date '" + at.Format("2006-01-02") + "'"
	case 7:
		layout := "01/02/2006 15:04:05"
		if g.european {
			layout = "02/01/2006 15:04:05"
		}
		return g.text(at.Format(layout), "::timestamptz")
	case 8:
		return g.pick("open", "'infinity'::timestamptz", "'-infinity'::timestamptz", "timestamp '"+at.Format("2006-01-02 15:04:05")+"'")
	case 9:
		return fmt.Sprintf("now() %s interval '%d hours'", g.pick("sign", "-", "+"), rapid.IntRange(0, 24*1400).Draw(g.t, "hours"))
	case 0:
		return g.text(at.Format("2006-01-02 15:04:05"), "::timestamptz")
	case 1:
		return g.text(at.Format("2006-01-02T15:04:05Z07:00"), "::timestamptz")
	case 2:
		return g.text(at.Format("2006-01-02 15:04:05-07"), "::timestamptz")
	case 3:
		return "timestamptz '" + at.Format("2006-01-02 15:04:05+00") + "'"
	case 4:
		return g.text(at.Format("2006-01-02"), "::timestamptz")
	default:
		return fmt.Sprintf("timestamptz '%s' - interval '%d minutes'", at.Format("2006-01-02 15:04:05+00"),
			rapid.IntRange(0, 300).Draw(g.t, "interval"))
	}
}

func (g *grammar) symbols(alias string) string {
	column := alias + "symbol"
	one := func() string { return g.text(g.pick("symbol", g.scene.symbols...), "::text") }
	if g.way == asExtended && g.chance("as array", 15) {
		return g.symbolArray(column)
	}
	switch rapid.IntRange(0, 5).Draw(g.t, "symbol form") {
	case 5:
		return g.patterns(column)
	case 0:
		return column + " in (" + one() + ", " + one() + ")"
	case 1:
		return column + " = any(array[" + one() + ", " + one() + "])"
	case 2:
		return "(" + column + " = " + one() + " or " + column + " = " + one() + ")"
	default:
		return column + " = " + one()
	}
}

func (g *grammar) timeframe(alias string) string {
	one := g.text(g.pick("timeframe", g.timeframes...), "::text")
	if g.chance("timeframes", 15) {
		return alias + "timeframe in (" + one + ", '" + g.timeframes[0] + "')"
	}
	return alias + "timeframe = " + one
}

func (g *grammar) tsLeaf(alias string) string {
	column := alias + "ts"
	switch rapid.IntRange(0, 11).Draw(g.t, "ts form") {
	case 6:
		return column + g.pick("between", " between symmetric ", " not between ", " not between symmetric ") + g.instant() + " and " + g.instant()
	case 7:
		return column + g.pick("list", " not in (timestamptz '2024-03-09 05:00Z', "+g.instant()+")",
			" <> all (array[timestamptz '2024-03-09 05:00Z', "+g.instant()+"])")
	case 8:
		return g.pick("column", column, alias+"symbol", alias+"timeframe") + g.pick("null test", " is null", " is not null")
	case 9:
		return column + g.pick("distinct", " is distinct from ", " is not distinct from ") + g.instant()
	case 0:
		return column + " between " + g.instant() + " and " + g.instant()
	case 1:
		return column + " = " + g.instant()
	case 2:
		return g.instant() + " " + g.pick("operator", "<", "<=", ">", ">=") + " " + column
	case 3:
		return column + " in (" + g.instant() + ", " + g.instant() + ")"
	case 4:
		return column + " <> " + g.instant()
	case 5:
		return column + " is not null"
	default:
		return column + " " + g.pick("operator", "<", "<=", ">", ">=") + " " + g.instant()
	}
}

// condition is a boolean tree over ts, the series and columns that bound nothing.
func (g *grammar) condition(alias string, depth int) string {
	if depth <= 0 || g.chance("leaf", 40) {
		switch rapid.IntRange(0, 9).Draw(g.t, "leaf") {
		case 0:
			return alias + "close > " + alias + "open"
		case 1:
			return g.symbols(alias)
		case 2:
			return alias + "volume " + g.pick("operator", "<", ">=") + " 8"
		case 7:
			return g.rowLeaf(alias)
		case 8:
			return g.nullLeaf(alias)
		case 9:
			if g.way == asExtended {
				return g.instantArray(alias + "ts")
			}
			return g.tsLeaf(alias)
		default:
			return g.tsLeaf(alias)
		}
	}
	switch rapid.IntRange(0, 5).Draw(g.t, "node") {
	case 0:
		return "(" + g.condition(alias, depth-1) + " or " + g.condition(alias, depth-1) + ")"
	case 1:
		return "not (" + g.condition(alias, depth-1) + ")"
	case 2:
		return "(" + g.condition(alias, depth-1) + ") is " + g.pick("test", "true", "not true", "not false", "false", "unknown", "not unknown")
	default:
		return "(" + g.condition(alias, depth-1) + " and " + g.condition(alias, depth-1) + ")"
	}
}

func (g *grammar) where(alias string) string {
	parts := []string{g.symbols(alias), g.timeframe(alias)}
	for range rapid.IntRange(0, 2).Draw(g.t, "conditions") {
		parts = append(parts, g.condition(alias, 2))
	}
	if g.chance("shuffled", 30) {
		parts[0], parts[len(parts)-1] = parts[len(parts)-1], parts[0]
	}
	return strings.Join(append(parts, g.bounds(alias)...), " and ")
}

// bounds is the scene's window, where it has one.
func (g *grammar) bounds(alias string) []string {
	if g.window == "" {
		return nil
	}
	return []string{alias + "ts " + g.window}
}

func (g *grammar) table() string { return g.pick("table", "ohlcv", "public.ohlcv", "OHLCV", `"ohlcv"`) }

// relation is one bounded scan with the alias o.
func (g *grammar) relation(alias string) (from, where string) {
	switch rapid.IntRange(0, 4).Draw(g.t, "relation") {
	case 4:
		return "bars_view " + alias, g.where(alias + ".")
	case 0:
		inner := ""
		if g.chance("inner bound", 60) {
			inner = " where " + g.condition("", 1)
		}
		return fmt.Sprintf("(select * from %s%s) %s", g.table(), inner, alias), g.where(alias + ".")
	case 1:
		return fmt.Sprintf("(select symbol, timeframe, ts, open, close, volume from %s where %s) %s", g.table(), g.where(""), alias), "true"
	default:
		return g.table() + " " + alias, g.where(alias + ".")
	}
}

const keys = "symbol, timeframe, ts"

func (g *grammar) query() (sql string, ordered bool) {
	if g.chance("further form", 30) {
		return g.further()
	}
	from, where := g.relation("o")
	switch rapid.IntRange(0, 11).Draw(g.t, "query") {
	case 0:
		return fmt.Sprintf("select o.symbol, count(*), sum(o.volume::numeric), min(o.ts), max(o.close) from %s where %s group by o.symbol", from, where), false
	case 1:
		return fmt.Sprintf("select o.symbol, o.timeframe, o.ts, o.close from %s where %s order by o.symbol, o.timeframe, o.ts limit %d", from, where,
			rapid.IntRange(0, 40).Draw(g.t, "limit")), true
	case 2:
		return g.latest()
	case 3:
		return g.join()
	case 4:
		second, more := g.relation("p")
		return fmt.Sprintf("select o.symbol, o.timeframe, o.ts, o.close from %s where %s %s select p.symbol, p.timeframe, p.ts, p.close from %s where %s",
			from, where, g.pick("set", "union all", "union", "except", "intersect"), second, more), false
	case 5:
		name := g.pick("cte", "c", "ohlcv")
		return fmt.Sprintf("with %s as %s (select * from %s where %s) select %s, close from %s where %s", name,
			g.pick("materialized", "", "materialized", "not materialized"), from, where, keys, name, g.condition("", 1)), false
	case 8:
		second, more := g.relation("p")
		merge := g.pick("merge", "a join b using (symbol, timeframe, ts)", "a left join b using (ts, timeframe, symbol)",
			"a natural join b", "a natural full join b", "a full join b using (symbol, timeframe, ts)")
		return fmt.Sprintf("with a as (select o.symbol, o.timeframe, o.ts, o.open from %s where %s), b as (select p.symbol, p.timeframe, p.ts, p.close from %s where %s) "+
			"select symbol, timeframe, ts, open, close from %s where %s", from, where, second, more, merge, g.tsLeaf("")), false
	case 9:
		return fmt.Sprintf("select o.ts::time, o.close from %s where %s order by ts, close, symbol, timeframe limit 7", from, where), false
	case 6:
		return fmt.Sprintf("select %s, rn from (select o.*, row_number() over (partition by o.symbol, o.timeframe order by o.ts) rn from %s where %s) w where %s",
			keys, from, where, g.tsLeaf("")), false
	case 7:
		return fmt.Sprintf("select %s, close from (select o.* from %s where %s order by o.symbol, o.timeframe, o.ts limit 30) w where %s",
			keys, from, where, g.tsLeaf("")), false
	default:
		return fmt.Sprintf("select o.symbol, o.timeframe, o.ts, o.open, o.close, o.volume from %s where %s", from, where), false
	}
}

// latest is PLANNER 17's plain form.
func (g *grammar) latest() (sql string, ordered bool) {
	where := "symbol = " + g.text(g.pick("symbol", g.scene.symbols...), "::text") + " and timeframe = " +
		g.text(g.pick("timeframe", g.timeframes...), "::text")
	if g.chance("bounded", 60) {
		where += " and " + g.tsLeaf("")
	}
	if g.chance("filtered", 20) {
		where += " and close > open"
	}
	where = strings.Join(append([]string{where}, g.bounds("")...), " and ")
	offset := ""
	if g.chance("offset", 30) {
		offset = fmt.Sprintf(" offset %d", rapid.IntRange(0, 5).Draw(g.t, "offset"))
	}
	return fmt.Sprintf("select %s, close from %s where %s order by ts %s limit %d%s", keys, g.table(), where, g.pick("direction", "desc", "asc"),
		rapid.IntRange(1, 30).Draw(g.t, "limit"), offset), true
}

func (g *grammar) join() (sql string, ordered bool) {
	kind := g.pick("join", "join", "left join", "right join", "full join")
	left, right := g.where("a."), g.where("b.")
	columns := "a.symbol, a.ts, a.close, b.symbol, b.ts, b.close"
	on := "a.ts = b.ts and a.timeframe = b.timeframe"
	switch rapid.IntRange(0, 2).Draw(g.t, "bounds in") {
	case 0:
		return fmt.Sprintf("select %s from (select * from ohlcv a where %s) a %s (select * from ohlcv b where %s) b on %s",
			columns, left, kind, right, on), false
	case 1:
		if kind == "full join" {
			kind = "left join"
		}
		return fmt.Sprintf("select %s from ohlcv a %s ohlcv b on %s and %s and %s", columns, kind, on, left, right), false
	default:
		test := ""
		if g.chance("null side", 40) {
			test = " and b.ts is null"
			kind = "left join"
		}
		return fmt.Sprintf("select %s from ohlcv a %s (select * from ohlcv b where %s) b on %s where %s%s", columns, kind, right, on, left, test), false
	}
}

// drawStatement draws a whole statement on the scene: the way it goes, its parameters, the session's settings and its block.
func drawStatement(t *rapid.T, at scene) statement {
	g := &grammar{scene: at, t: t}
	s := statement{
		way: g.pick("way", asQuery, asQuery, asExtended, asExtended, asExtended, asExtended, asPrepared, asCursor, asTable, asCopy, asSteps, asPreparedArgs,
			asExplain, asAnalyze),
		block: g.pick("block", noBlock, noBlock, noBlock, readCommitted, repeatableRead, snapshotAlready),
		zone:  g.pick("zone", grammarZones...), dateStyle: g.pick("datestyle", "ISO, MDY", "ISO, MDY", "ISO, DMY", "SQL, DMY", "German, DMY", "Postgres, MDY"),
	}
	g.way, g.bind, g.european = s.way, s.way == asExtended || s.way == asPreparedArgs, strings.HasSuffix(s.dateStyle, "DMY")
	s.sql, s.ordered = g.query()
	s.args, s.lax, s.writes = g.args, g.lax, g.writes
	if s.way == asSteps || s.writes {
		s.block = g.pick("block", readCommitted, readCommitted, repeatableRead, snapshotAlready)
	}
	if s.block != noBlock {
		s.prelude = g.prelude()
		s.together = s.way == asQuery && g.chance("together", 50)
	}
	s.zoneInside = s.way == asQuery && g.chance("zone inside", 20)
	return s
}
