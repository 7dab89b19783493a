package planner

import (
	"bytes"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5" //nolint:depguard // the test asks PostgreSQL itself
	"github.com/stretchr/testify/require"
)

// fillPicks makes the user's own tables.
func fillPicks(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	mustExec(t, conn, "create temp table picks (symbol text, tf varchar(5), at timestamptz, day date, n int, owner name, code char(4))")
	mustExec(t, conn, `insert into picks values ('A', '1h', '2026-11-01 03:00Z', '2026-11-01', 1, 'me'), ('B', '1d', '2026-11-02Z', '2026-11-02', 2, 'me'),
		('D', '1h', '2026-10-31 05:30Z', null, 2, 'you'), ('C', '1h', null, '2026-10-31', 3, 'you'), (null, null, 'infinity', null, 4, 'you')`)
	mustExec(t, conn, "update picks set code = symbol")
}

// fillTurned makes copies of the tables, in the schema turned, whose rows lie the other way round: of rows that tie PostgreSQL picks others
// there, as it may any time.
func fillTurned(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	mustExec(t, conn, "create schema turned")
	for _, table := range []string{"ohlcv", "picks"} {
		mustExec(t, conn, "create table turned."+table+" as select * from "+table+" order by ctid desc")
	}
}

// askData answers the plan's questions about the user's data, as the session does, until there are none. What a question reads of
// ohlcv must be planned as any statement's.
func askData(t *testing.T, conn *pgx.Conn, tmpl *Template, args Args, env Env, b Bracket, answers Answers) (_ Plan, difference string) {
	t.Helper()
	args.Data = map[string]Column{}
	plan := askConstants(t, conn, tmpl, args, env, b, answers)
	for rounds := 0; len(plan.Data) > 0 && plan.Refusal == nil; rounds++ {
		require.Less(t, rounds, 8, tmpl.Text)
		for _, d := range plan.Data {
			values := d.given(args)
			if d.Reads {
				full, err := rows(t, conn, d.SQL, values)
				mustExec(t, conn, "rollback to s")
				inner := Prepare(d.SQL, nil, env)
				own, difference := askData(t, conn, inner, Args{Values: values}, env, b, Answers{})
				if err == nil && difference == "" {
					difference = onPlanned(t, conn, d.SQL, values, full, own)
				}
				if difference != "" {
					return own, d.SQL + ": " + difference
				}
			}
			args.Data[d.Key] = columnTurned(t, conn, d.SQL, values)
		}
		plan = askConstants(t, conn, tmpl, args, env, b, answers)
	}
	return plan, ""
}

// maxAskedAgain bounds the rounds of questions, as the proxy's maxQuestions does. Each answer may move a bound by little, and bring another question: the
// plan holds what is needed at any time.
const maxAskedAgain = 8

func askConstants(t *testing.T, conn *pgx.Conn, tmpl *Template, args Args, env Env, b Bracket, answers Answers) Plan {
	t.Helper()
	plan := tmpl.Bind(args, env, b, answers)
	for rounds := 0; len(plan.Questions) > 0 && rounds < maxAskedAgain; rounds++ {
		for _, q := range plan.Questions {
			answers[q.Key] = ask(t, conn, q, everySymbol)
		}
		plan = tmpl.Bind(args, env, b, answers)
	}
	return plan
}

// given are the values of the question's parameters.
func (d Data) given(args Args) [][]byte {
	values := make([][]byte, len(d.Params))
	for i, n := range d.Params {
		values[i] = args.Values[n-1]
	}
	return values
}

// columnTurned asks the tables whose rows lie the other way round.
func columnTurned(t *testing.T, conn *pgx.Conn, sql string, values [][]byte) Column {
	t.Helper()
	mustExec(t, conn, "set local search_path = turned, public, pg_temp")
	answer := column(t, conn, sql, values)
	mustExec(t, conn, "rollback to s")
	return answer
}

func column(t *testing.T, conn *pgx.Conn, sql string, values [][]byte) Column {
	t.Helper()
	reader := conn.PgConn().ExecParams(t.Context(), sql, values, nil, nil, []int16{1})
	var out Column
	for reader.NextRow() {
		row := reader.Values()
		if len(row) > 1 {
			require.Equal(t, []byte{1}, row[1], "the collations of the test tell texts apart")
		}
		out.Values = append(out.Values, bytes.Clone(row[0]))
	}
	for _, field := range reader.FieldDescriptions()[:min(1, len(reader.FieldDescriptions()))] {
		out.OID = field.DataTypeOID
	}
	if _, err := reader.Close(); err != nil {
		mustExec(t, conn, "rollback to s")
		return Column{Unknown: err.Error()}
	}
	return out
}

// picked is a subquery over the user's data, or ohlcv, that gives symbols, timeframes or times.
func (g *grammar) picked(col string) string {
	where := g.pick("", " where n < 3", " where owner = 'me'", " where n = "+g.constant(g.pick("1", "2", "3")), " where symbol is not null", " where at >= "+g.time(), " where false")
	last := g.pick("", "", "", " order by n limit 1", " order by n desc limit 2", " order by at nulls first limit 1", " limit 1", " order by n limit 2 offset 1", " order by n limit 1 offset 4")
	switch col {
	case "symbol":
		return g.pick("select symbol from picks"+where+last, "select symbol from picks"+where+last, "select distinct symbol from picks"+where,
			"select max(symbol) from picks"+where, "select "+g.pick("max", "min")+"(symbol) from (select symbol from picks"+where+g.pick(" limit 2", " order by n desc limit 1", " order by owner limit 1")+") x", "select upper(p.symbol) from picks p", "select symbol from ohlcv where "+g.where("")+" group by symbol order by "+
				g.pick("sum(close)", "count(*) desc", "max(ts) desc, symbol")+" limit "+g.pick("1", "2"), "select 'A' union select symbol from picks"+where,
			"select o.symbol from ohlcv o join picks p using (symbol) where "+g.where("o."), "select symbol from picks where at > (select min(ts) from ohlcv where "+g.where("")+")")
	case "timeframe":
		return g.pick("select tf from picks"+where+last, "select '1h' from picks", "select max(tf) from picks"+where)
	}
	return g.pick("select max(at) from picks"+where, "select min(at) from picks"+where, "select at from picks"+where+last, "select day from picks"+where+last,
		"select at::timestamp from picks"+where+last, "select max(ts) from ohlcv where "+g.where(""), "select ts from ohlcv where "+g.where("")+" order by close desc, ts limit 1")
}

// joinedToData joins ohlcv to the user's own tables, or asks whether they have a row for it.
func (g *grammar) joinedToData() string {
	item := g.pick("picks", "picks", "(select * from picks where n < 4)", "(select symbol, at, n, owner, day from picks order by n, symbol limit 3)", "(select distinct symbol, at, n, owner, day from picks)",
		"(select distinct on (owner) symbol, at, n, owner, day from picks order by owner, at"+g.pick("", " desc", ", n")+")", "(select distinct on (n > 1) * from picks"+g.pick("", " order by n > 1, owner")+")",
		"(select symbol, at, n, owner, day from (select *, row_number() over ("+g.pick("", "partition by owner ", "partition by n ")+g.pick("order by n", "order by owner", "order by at desc")+") as r from picks) x where "+g.pick("r = 1", "r = 2", "r <= 2", "2 > r", "r > 1")+")",
		"(select symbol, max(ts) as at, 1 as n, 'me' as owner, date '2026-11-01' as day from ohlcv where "+g.where("")+" group by symbol)")
	filter := g.pick("", "", " and p.n < 3", " and p.owner = 'me'", " and n = "+g.constant("2"), " and p.at > "+g.time(), " and (p.n = 1 or p.n = 2)", " and p.n between 1 and 2", " and p.day is null")
	symbol := g.pick("p.symbol = o.symbol", "o.symbol = p.symbol", "o.symbol = p.symbol", "o.symbol = 'A'", "o.symbol = "+g.pick("upper(p.symbol)", "lower(p.symbol)", "coalesce(p.symbol, 'AA')", "trim(p.symbol || ' ')",
		"p.symbol::text", "replace(p.symbol, 'D', 'AA')", "p.owner || ''"), "o.symbol::text = p.symbol", "p.symbol = o.symbol::varchar")
	ts := g.pick("", "", " and o.ts >= p.at", " and o.ts between p.at - interval '3 hours' and p.at", " and o.ts::date = p.day", " and o.ts < p.day", " and o.ts = p.at", " and p.at::date = o.ts::date",
		" and o.ts > p.at - interval '1 day' and o.ts <= p.at + interval '1 day'")
	tf := g.pick("o.timeframe = '1h'", "o.timeframe = '1d'", "o.timeframe in ('1h', '1d')", g.where("o."))
	more := g.pick("", "", " and "+g.leaf("o."))
	switch g.IntN(10) {
	case 9:
		return "select symbol, o.ts, p.n from " + item + " p " + g.pick("join", "left join", "right join", "full join") + " picks q using (symbol) " + g.pick("join", "left join") + " ohlcv o using (symbol) where " + tf + g.pick(filter, " and q.n < 3", "")
	case 0, 1:
		return "select o.symbol, o.ts, p.n from " + item + " p " + g.pick("join", "join", "left join", "right join", "full join") + " ohlcv o on " + symbol + ts + g.pick(filter, "") + " and " + tf + more +
			g.pick("", " where true"+filter, " where "+tf, " where o.ts is null", " where p.n is not null")
	case 2:
		return "select o.symbol, o.ts, p.n from ohlcv o " + g.pick("join", "left join", "right join") + " " + item + " p on " + symbol + ts + " where " + tf + filter + more
	case 3:
		return "select o.symbol, o.ts, p.n from ohlcv o, " + item + " p where " + symbol + ts + " and " + tf + filter + more
	case 4:
		return "select symbol, o.ts, p.n from " + item + " p " + g.pick("join", "left join", "right join") + " ohlcv o using (symbol) where " + tf + g.pick(filter, "") + more
	case 5:
		return "select o.symbol, o.ts from ohlcv o where " + g.pick("", "", "not ") + "exists (select 1 from " + item + " p where " + symbol + ts + filter + ") and " + tf + more
	case 6:
		return "select o.symbol, o.ts from ohlcv o where o.symbol " + g.pick("in", "in", "not in") + " (select p.symbol from " + item + " p where p.n is not null" + ts + filter + ") and " + tf + more
	case 7:
		join, on := " p cross join lateral", ""
		if g.IntN(2) == 0 {
			join, on = " p left join lateral", " on true"
		}
		return "select p.n, p.at, l.ts, l.symbol from " + item + join + " (select o.ts, o.symbol from ohlcv o where " + symbol + " and " + tf + g.pick("", more) +
			" and o.ts " + g.pick("<=", "<", ">=") + " p.at order by o.ts " + g.pick("desc", "asc") + ", o.symbol, o.timeframe limit 2) l" + on + " where true" + filter
	}
	cte := "with w as (select symbol, at, n, owner, day from " + item + " p where true" + filter + g.pick("", " order by n desc, symbol limit 2") + ") "
	return cte + g.pick("select o.symbol, o.ts from ohlcv o join w p on "+symbol+ts+" where "+tf, "select o.symbol, o.ts from ohlcv o where o.symbol in (select symbol from w) and "+tf,
		"select o.symbol, o.ts from ohlcv o where (o.symbol, o.timeframe) in (select symbol, "+g.pick("'1h'", "'1d'")+" from w) and "+tf)
}

// pickedWithNull compares symbol or timeframe, several of them at once, with a subquery that has NULL among its values, or picks some of
// those that tie (PLANNER 12 and 19).
func (g *grammar) pickedWithNull() string {
	if g.IntN(6) == 0 {
		return g.perhapsNone()
	}
	of, null := g.pick("symbol", "symbol", "tf"), ""
	if g.IntN(2) == 0 {
		null = " or symbol is null"
	}
	sub := "select " + of + " from picks where n = " + g.pick("1", "2", "3") + null + g.pick("", "", " order by owner", " order by n", " order by n desc")
	if g.IntN(3) == 0 {
		sub = "select " + of + " from picks where " + of + " is not null" + g.pick(" order by n", " order by owner", " order by owner, n", "") + " limit " + g.pick("1", "2")
	}
	if g.IntN(2) == 0 {
		of, sub = "symbol", g.limitedBelow()
	}
	col := map[string]string{"symbol": "symbol", "tf": "timeframe"}[of]
	condition := "(" + col + g.pick(" in ", " not in ", " = any ", " <> all ", " <> any ", " = all ") + "(" + sub + "))" +
		g.pick("", "", " is null", " is unknown", " is not true", " is not false", " is true")
	return "select symbol, timeframe, ts from ohlcv where symbol in ('A', 'AA', 'B') and timeframe in ('1h', '1d') and ts < '2026-10-30 02:00Z' and " + g.pick("", "", "not ") + condition
}

// perhapsNone compares ts with a time of the user's data of which an OFFSET may leave none, or symbol or timeframe with a text of it: where
// there is none they are compared with NULL.
func (g *grammar) perhapsNone() string {
	if g.IntN(2) == 0 {
		return "select symbol, timeframe, ts from ohlcv where symbol in ('A', 'AA', 'B') and timeframe in ('1h', '1d') and ts < '2026-10-30 02:00Z' and (" +
			g.pick("symbol = (select symbol", "symbol <> (select symbol", "timeframe = (select tf") + " from picks where n = " + g.pick("1", "4", "7", "7") + "))" +
			g.pick("", " is not true", " is unknown", " is not false")
	}
	one := "(select at from picks where n < 3 order by " + g.pick("n", "n desc", "at") + " limit 1 offset " + g.pick("0", "1", "20", "20") + ")"
	return "select symbol, timeframe, ts from ohlcv where " + g.series("") + " and (ts " + g.pick("<", "<=", ">", ">=") + " " + one + ")" +
		g.pick("", " is not true", " is unknown", " is not false")
}

// executed has a subquery depend on the arguments of EXECUTE, as written where they are not of the parameters' own types.
func (g *grammar) executed() string {
	where := g.pick("n = $1", "n <= $1", "symbol = any ($3)", "symbol = $2", "owner = $2", "at > $4", "at::date = $4", "n = $1 or symbol = $2", "symbol <> all ($3) and n > $1") +
		g.pick("", "", " order by n limit $1", " order by owner desc limit $1")
	condition := g.pick("symbol in (select symbol from picks where "+where+")", "symbol not in (select symbol from picks where symbol is not null and "+where+")",
		"symbol = any(array(select symbol from picks where "+where+"))", "symbol = any ($3)", "symbol <> all ($3)", "ts >= (select max(at) from picks where n < 4 and "+where+")")
	of := "select symbol, timeframe, ts from ohlcv where " + g.pick("", "symbol in ('A', 'AA', 'B', 'C') and ") + "timeframe in ('1h', '1d') and ts < '2026-10-30 06:00Z' and " + condition
	n := g.pick("1", "2", "1 + 1", "2.4", "null", "'3'", "length('ab')")
	text := g.pick("'A'", "'me'", "upper('b')", "'you'::varchar(2)", "null", "'C '::char(3)", "7")
	list := g.pick("'{A,B}'", "array['A', 'C']", "'{}'", "null", "'{B,NULL}'", "string_to_array('A,C', ',')")
	at := g.pick("'2026-11-01 03:00Z'", "'2026-11-01'", "date '2026-11-01'", "'2026-11-01 03:00'::timestamp", "now() - interval '2 years'")
	return "prepare p(int, " + g.pick("text", "varchar(1)", "name") + ", " + g.pick("text[]", "varchar[]") + ", timestamptz) as " + of + "; execute p(" + n + ", " + text + ", " + list + ", " + at + ")"
}

// limitedBelow has a LIMIT, or another pick among rows that tie, somewhere below what a subquery gives.
func (g *grammar) limitedBelow() string {
	known := "from picks where symbol is not null"
	few := "select symbol, n, owner " + known + " order by " + g.pick("n", "n desc", "owner", "owner desc") + " limit " + g.pick("1", "2", "3")
	switch g.IntN(17) {
	case 16:
		return "select unnest(array_agg(" + g.pick("symbol", "distinct symbol", "symbol order by n") + ")) from picks" + g.pick("", " where n < 3", " group by owner", " where false") + g.pick("", " limit 1")
	case 11:
		return "select code from picks where n <> 2 or code is null" + g.pick("", " order by owner limit 1")
	case 12:
		return "select distinct on (" + g.pick("owner", "1", "n, owner") + ") " + g.pick("symbol", "upper(symbol) as owner", "symbol as n") + " " + known + g.pick("", " order by 1, n", " order by owner, n")
	case 13, 14:
		return "select symbol from (select symbol, owner, row_number() over (" + g.pick("", "partition by owner ") + "order by " + g.pick("owner", "n", "n desc") + ") as r " + known + ") x where " +
			g.pick("r = 1", "r = 2", "r < 3", "1 >= r", "r = 1 and owner = 'me'", "r >= 2", "r <= 1 or owner = 'me'") + g.pick("", "", " limit 1")
	case 15:
		return "with r as (select *, row_number() over (order by " + g.pick("owner", "n") + ") from picks where symbol is not null) select r.symbol from r " + g.pick("", "join picks q on q.n = r.n ") + "where row_number = " + g.pick("1", "2")
	case 0:
		return "select symbol " + known + " order by " + g.pick("n", "n desc", "owner") + " limit 1 offset " + g.pick("1", "2")
	case 1:
		return "select " + g.pick("max", "min") + "(symbol) from (" + few + ") x"
	case 9, 10: // the greatest of those that tie is another one
		return "select max(symbol) from (select symbol, n " + known + g.pick(" order by owner limit 1", " order by n limit 2") + ") x"
	case 2:
		return "select symbol " + known + " except select symbol from (" + few + ") x"
	case 3:
		return "select p.symbol from picks p left join (" + few + ") x on x.symbol = p.symbol where p.symbol is not null and x.symbol is null"
	case 4:
		return "select symbol from (" + few + ") x order by " + g.pick("owner", "owner desc", "n") + " limit 1"
	case 5:
		return "select symbol from (select distinct on (owner) owner, symbol " + known + " order by owner) x"
	case 6:
		return "select symbol from picks tablesample bernoulli (60) repeatable (" + g.pick("3", "4") + ") where symbol is not null"
	case 7:
		return "select p.symbol from picks p join (" + few + ") x on x.symbol = p.symbol"
	default:
		return "select symbol from (" + few + ") x"
	}
}

// fromData bounds ohlcv by what the user's own tables hold (PLANNER 19).
func (g *grammar) fromData() string {
	switch g.IntN(12) {
	case 0, 1, 2, 3, 4, 5:
		return g.pickedWithNull()
	case 6:
		return g.executed()
	case 7:
		array := g.pick("select array_agg(symbol"+g.pick("", " order by n")+") from picks"+g.pick("", " where n < 3", " where false"), "select array[symbol, 'AA'] from picks where n = "+g.pick("1", "3", "9"),
			"select '{A,B}' from picks where n = 1", "select array_agg(symbol) from picks group by owner order by owner"+g.pick("", " desc")+" limit 1")
		return "select symbol, timeframe, ts from ohlcv where " + g.pick("", "symbol in ('A', 'AA', 'C') and ") + "timeframe = '1d' and " + g.pick("", "not ") + "symbol " + g.pick("= any", "<> all", "<> any") + " ((" + array + ")::" +
			g.pick("text[]", "varchar[]") + ")" + g.pick("", " is not true", " is unknown")
	}
	leaf := func() string {
		col := g.pick("symbol", "symbol", "timeframe", "ts", "ts")
		sub := "(" + g.picked(col) + ")"
		switch {
		case col == "ts" && g.IntN(4) > 0:
			return "ts" + g.pick(" >= ", " < ", " = ", " > ", " <> ", " <= ") + sub + g.pick("", "", " - interval '1 day'", " + interval '3 hours'")
		case g.IntN(3) == 0:
			return col + g.pick(" = ", " = ", " <> ", " is distinct from ") + sub
		}
		return g.pick("", "", "", "not ") + "(" + col + g.pick(" in ", " in ", " not in ", " = any ", " <> all ", " <> any ", " = all ") + sub + ")"
	}
	list := []string{leaf()}
	for range g.IntN(3) {
		list = append(list, g.pick(" and ", " and ", " or ")+g.pick(leaf(), "("+leaf()+") is "+g.pick("not true", "true", "unknown", "not false"), g.leaf("")))
	}
	where := strings.Join(list, "")
	if g.IntN(3) > 0 {
		where = "symbol in ('A', 'B', 'C', 'D') and timeframe in ('1h', '1d') and (" + where + ")"
	}
	switch g.IntN(3) {
	case 0:
		return "select * from (select symbol, timeframe, ts, close from ohlcv) x where " + where
	case 1:
		return "with w as (select * from picks where n <> 3) select symbol, timeframe, ts from ohlcv where " + where + g.pick("", " and symbol in (select symbol from w)")
	}
	return "select symbol, timeframe, ts, close from ohlcv where " + where
}
