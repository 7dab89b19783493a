package planner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5" //nolint:depguard // the test asks PostgreSQL itself
	pg "github.com/pganalyze/pg_query_go/v6"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// measured is how tight the plan of one statement of the golden corpus is.
type measured struct {
	sql, file string
	required  int // bars that the plan needs
	own       int // bars that match the own bounds of the statement's scans
	joined    bool
}

// ratio is 1 where the plan needs just what the scans' own bounds leave.
func (m measured) ratio() float64 {
	if m.required == m.own {
		return 1
	}
	return float64(m.required) / float64(max(m.own, 1))
}

// TestRule2_GoldenPlansAreTight: for each statement of the golden corpus, the bars that its plan needs, over the bars that match the
// own bounds of its scans: the conditions on symbol, timeframe and ts, without what another scan's rows decide, that PostgreSQL
// filters each scan of ohlcv by. Both are counted on a database that holds a random market. Joins on ts with
// tables of the user's are counted apart: what they leave is not the statement's to say.
func TestRule2_GoldenPlansAreTight(t *testing.T) {
	t.Parallel()
	conn := goldenMarket(t)
	files, err := filepath.Glob("testdata/plan/*.txt")
	require.NoError(t, err)
	var alone, joined []measured
	unexplained := map[string]int{}
	for _, path := range files {
		for _, c := range readGolden(t, path) {
			m, why := measure(t, conn, c)
			switch m.file = filepath.Base(path); {
			case why != "":
				unexplained[why]++
			case m.joined:
				joined = append(joined, m)
			default:
				alone = append(alone, m)
			}
		}
	}
	median, p90 := reportTightness(t, "own conditions", alone)
	reportTightness(t, "joined on ts to tables of the user's", joined)
	for _, why := range slices.Sorted(maps.Keys(unexplained)) {
		t.Logf("%d not counted: %s", unexplained[why], why)
	}
	require.Greater(t, len(alone), 120, "too few are counted to show anything")
	require.InDelta(t, 1, median, 1e-9)
	require.LessOrEqual(t, p90, 1.2)
}

// reportTightness prints median, p90 and the worst ten.
func reportTightness(t *testing.T, what string, list []measured) (median, p90 float64) {
	t.Helper()
	if len(list) == 0 {
		return 0, 0
	}
	slices.SortStableFunc(list, func(a, b measured) int {
		switch x, y := a.ratio(), b.ratio(); {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return strings.Compare(a.sql, b.sql)
	})
	at := func(share float64) float64 {
		return list[len(list)-1-int(math.Ceil(share*float64(len(list))))+1].ratio()
	}
	median, p90 = at(0.5), at(0.9)
	t.Logf("%s: %d statements, bars required ÷ bars within the scans' own bounds: median %.3f, p90 %.3f", what, len(list), median, p90)
	for _, m := range list[:min(10, len(list))] {
		t.Logf("  %8.2f = %d / %d  %s: %.300s", m.ratio(), m.required, m.own, m.file, m.sql)
	}
	return median, p90
}

// goldenMarket gives a connection to a database whose ohlcv, a plain table so that EXPLAIN shows its conditions once, holds about
// four fifths of the bars that the corpus's series can have around the corpus's clock: those that a plan needs, and of an hour and more all of every symbol.
func goldenMarket(t *testing.T) *pgx.Conn {
	t.Helper()
	db := dbtest.New(t)
	conn, err := pgx.Connect(t.Context(), db.URL)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	mustExec(t, conn, `drop table public.ohlcv cascade`)
	mustExec(t, conn, `create table public.ohlcv (symbol text not null, timeframe text not null, ts timestamptz not null, open float8, high float8,
		low float8, close float8, volume float8)`)
	series, symbols := goldenSeries(t)
	for _, span := range []struct{ timeframe, from, to, step string }{
		{"1m", "2023-12-28", "2024-03-16", "1 minute"},
		{"5m", "2023-12-28", "2024-03-16", "5 minutes"},
		{"15m", "2023-12-28", "2024-03-16", "15 minutes"},
		{"30m", "2023-12-28", "2024-03-16", "30 minutes"},
		{"1h", "2023-11-01", "2024-06-01", "1 hour"},
		{"1h", "2026-10-20", "2026-11-20", "1 hour"},
		{"4h", "2023-11-01", "2024-06-01", "4 hours"},
		{"1d", "2022-01-01", "2027-01-01", "1 day"},
		{"1w", "2022-01-03", "2025-01-01", "7 days"},
		{"1mo", "2020-01-01", "2025-01-01", "1 month"},
	} {
		of := symbols
		if strings.HasSuffix(span.step, "minute") || strings.HasSuffix(span.step, "minutes") {
			of = series[span.timeframe]
		}
		_, err := conn.Exec(t.Context(), `insert into public.ohlcv select s, $1, g, 2, 3, 1, 2, 1
			from unnest($2::text[]) s, generate_series($3::timestamptz, $4, $5::interval, 'UTC') g where abs(hashtext(s || $1 || g)) % 10 < 8`,
			span.timeframe, of, span.from, span.to, span.step)
		require.NoError(t, err)
	}
	mustExec(t, conn, `create index on public.ohlcv (symbol, timeframe, ts)`)
	mustExec(t, conn, `analyze public.ohlcv`)
	makeGoldenTables(t, conn)
	for _, definition := range []string{
		`create schema golden`, `create function golden.now() returns timestamptz immutable return timestamptz '2024-03-15 12:00Z'`,
		`set max_parallel_workers_per_gather = 0`,
	} {
		mustExec(t, conn, definition)
	}
	return conn
}

// goldenSeries are the symbols that the corpus's plans need, of each timeframe and of all.
func goldenSeries(t *testing.T) (byTimeframe map[string][]string, all []string) {
	t.Helper()
	files, err := filepath.Glob("testdata/plan/*.txt")
	require.NoError(t, err)
	byTimeframe = map[string][]string{}
	for _, path := range files {
		for _, c := range readGolden(t, path) {
			env, args, _ := c.setup(t)
			for _, r := range Prepare(c.sql, args.OIDs, env).Bind(args, env, goldenBracket(), nil).Requirements {
				name := r.Series.Timeframe.String()
				byTimeframe[name] = append(byTimeframe[name], string(r.Series.Symbol))
			}
		}
	}
	for name, symbols := range byTimeframe {
		slices.Sort(symbols)
		byTimeframe[name] = slices.Compact(symbols)
		all = append(all, symbols...)
	}
	slices.Sort(all)
	return byTimeframe, slices.Compact(all)
}

// measure counts for one statement; why says for what reason that cannot be done.
func measure(t *testing.T, conn *pgx.Conn, c goldenCase) (m measured, why string) {
	t.Helper()
	env, args, _ := c.setup(t)
	tmpl := Prepare(c.sql, args.OIDs, env)
	mustExec(t, conn, "begin")
	defer mustExec(t, conn, "rollback")
	zone := env.TimeZone
	if zone == "" {
		zone = "UTC"
	}
	mustExec(t, conn, "set local timezone = "+quote(zone))
	plan := tmpl.Bind(args, env, goldenBracket(), nil)
	answers := Answers{}
	for rounds := 0; len(plan.Questions) > 0 && plan.Unanswered(); rounds++ {
		require.Less(t, rounds, 8, c.sql)
		for _, q := range plan.Questions {
			mustExec(t, conn, "savepoint s")
			answers[q.Key] = ask(t, conn, q, everySymbol)
		}
		plan = tmpl.Bind(args, env, goldenBracket(), answers)
	}
	_, fails := c.directive("error")
	switch {
	case fails:
		return measured{}, "refused by PostgreSQL"
	case plan.Refusal != nil || len(plan.Warnings) > 0:
		return measured{}, "refused or warned of"
	case len(plan.Data) > 0:
		return measured{}, "asks the user's data"
	case len(plan.Requirements) == 0:
		return measured{}, "needs nothing"
	}
	mustExec(t, conn, "savepoint s")
	mustExec(t, conn, "set local enable_indexscan = off; set local enable_indexonlyscan = off; set local enable_bitmapscan = off")
	tree, err := explain(t, conn, c.sql, args)
	mustExec(t, conn, "rollback to s")
	mustExec(t, conn, "deallocate all")
	if err != nil {
		return measured{}, "not to be explained by PostgreSQL"
	}
	scans, joined := tree.scans(t)
	if len(scans) == 0 {
		return measured{}, "scans nothing"
	}
	m = measured{sql: c.sql, joined: joined}
	m.required = countOf(t, conn, "select * from public.ohlcv where "+neededBars("public.ohlcv", plan))
	m.own = countOf(t, conn, strings.Join(scans, " union "))
	return m, ""
}

// explain returns PostgreSQL's plan of the last statement of a text; those before it are run.
func explain(t *testing.T, conn *pgx.Conn, sql string, args Args) (explained, error) {
	t.Helper()
	parsed, err := pg.Parse(sql)
	require.NoError(t, err, sql)
	stmts := parsed.GetStmts()
	for _, s := range stmts[:len(stmts)-1] {
		switch {
		case s.GetStmt().GetTransactionStmt() != nil, s.GetStmt().GetCallStmt() != nil, s.GetStmt().GetUpdateStmt() != nil:
			return explained{}, errors.New("it changes what comes after it")
		}
		before, err := pg.Deparse(&pg.ParseResult{Version: parsed.GetVersion(), Stmts: []*pg.RawStmt{s}})
		require.NoError(t, err, sql)
		mustExec(t, conn, before)
	}
	last := stmts[len(stmts)-1].GetStmt()
	if e := last.GetExplainStmt(); e != nil {
		last = e.GetQuery()
	}
	if copied := last.GetCopyStmt(); copied.GetQuery() != nil {
		last = copied.GetQuery()
	}
	if last != stmts[0].GetStmt() {
		sql, err = pg.Deparse(&pg.ParseResult{Version: parsed.GetVersion(), Stmts: []*pg.RawStmt{{Stmt: last}}})
		require.NoError(t, err, sql)
	}
	result := conn.PgConn().ExecParams(t.Context(), "explain (verbose, costs off, format json) "+sql, args.Values, args.OIDs, args.Formats, nil).Read()
	if result.Err != nil {
		return explained{}, result.Err
	}
	var trees []struct{ Plan explained }
	require.NoError(t, json.Unmarshal(result.Rows[0][0], &trees))
	return trees[0].Plan, nil
}

func countOf(t *testing.T, conn *pgx.Conn, sql string) (n int) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from ("+sql+") q", pgx.QueryExecModeSimpleProtocol).Scan(&n), sql)
	return n
}

// explained is a node of PostgreSQL's plan.
type explained struct {
	Relation   string `json:"Relation Name"`
	Schema     string `json:"Schema"`
	Alias      string `json:"Alias"`
	Filter     string `json:"Filter"`
	JoinFilter string `json:"Join Filter"`
	HashCond   string `json:"Hash Cond"`
	MergeCond  string `json:"Merge Cond"`
	Plans      []explained
}

// scans returns a query of the bars within the own bounds of each scan of ohlcv, and whether ts is joined with a table of the user's.
func (n explained) scans(t *testing.T) (queries []string, joined bool) {
	t.Helper()
	var users []string
	var conditions []string
	var visit func(explained)
	visit = func(n explained) {
		conditions = append(conditions, n.Filter, n.JoinFilter, n.HashCond, n.MergeCond)
		switch {
		case n.Relation == ohlcvName && n.Schema == "public":
			query := "select symbol, timeframe, ts from public.ohlcv " + pgx.Identifier{n.Alias}.Sanitize()
			if own := ownBounds(t, n); len(own) > 0 {
				query += " where " + strings.Join(own, " and ")
			}
			queries = append(queries, query)
		case n.Relation != "":
			users = append(users, n.Alias+".")
		}
		for _, kid := range n.Plans {
			visit(kid)
		}
	}
	visit(n)
	for _, c := range conditions {
		joined = joined || strings.Contains(c, ".ts") && slices.ContainsFunc(users, func(u string) bool { return strings.Contains(c, u) })
	}
	return queries, joined
}

var clock = strings.NewReplacer("::cstring", "", "now()", "golden.now()", "CURRENT_TIMESTAMP", "golden.now()", "CURRENT_DATE", "golden.now()::date",
	"LOCALTIMESTAMP", "golden.now()::timestamp", "statement_timestamp()", "golden.now()", "clock_timestamp()", "golden.now()", "transaction_timestamp()", "golden.now()")

// ownBounds returns the conditions of a scan on symbol, timeframe and ts that nothing but constants decides, at the corpus's clock.
func ownBounds(t *testing.T, n explained) []string {
	t.Helper()
	if n.Filter == "" {
		return nil
	}
	var own []string
	for _, condition := range topConjuncts(n.Filter) {
		if strings.Contains(condition, "SubPlan") || strings.Contains(condition, "InitPlan") {
			continue
		}
		tree, err := pg.Parse("select " + condition)
		require.NoError(t, err, condition)
		decided := true
		walk(tree.GetStmts()[0].GetStmt().GetSelectStmt(), func(m proto.Message) bool {
			switch x := m.(type) {
			case *pg.ColumnRef:
				fields := x.GetFields()
				name := lastName(fields)
				decided = decided && len(fields) == 2 && fields[0].GetString_().GetSval() == n.Alias && slices.Contains(ohlcvColumns[:3], name)
			case *pg.ParamRef:
				decided = false
			}
			return true
		})
		if decided {
			own = append(own, clock.Replace(condition))
		}
	}
	return own
}

// topConjuncts cuts a condition as EXPLAIN writes it, with each part in parentheses, at its outermost ANDs.
func topConjuncts(filter string) []string {
	inner, ok := strings.CutPrefix(filter, "(")
	if !ok {
		return []string{filter}
	}
	inner = strings.TrimSuffix(inner, ")")
	var parts []string
	depth, start, quoted := 0, 0, false
	for i := range len(inner) {
		switch c := inner[i]; {
		case c == '\'':
			quoted = !quoted
		case quoted:
		case c == '(' || c == '[':
			depth++
		case c == ')' || c == ']':
			depth--
			if depth < 0 {
				return []string{filter} // "(a) = (b)"
			}
		case depth == 0 && strings.HasPrefix(inner[i:], " OR "):
			return []string{filter}
		case depth == 0 && strings.HasPrefix(inner[i:], " AND "):
			parts, start = append(parts, inner[start:i]), i+len(" AND ")
		}
	}
	return append(parts, inner[start:])
}

// neededBars is the condition for a bar of the table to be one that the plan needs.
func neededBars(table string, plan Plan) string {
	keep := []string{"false"}
	for _, r := range plan.Requirements {
		series := fmt.Sprintf("symbol = %s and timeframe = '%s'", quote(string(r.Series.Symbol)), r.Series.Timeframe)
		within := func(rg market.Range) string {
			return fmt.Sprintf("%s and ts >= '%s' and ts < '%s'", series, inEra(rg.Start), inEra(rg.End))
		}
		for _, rg := range r.Ranges {
			keep = append(keep, "("+within(rg)+")")
		}
		for _, c := range r.Counts {
			order := "asc"
			if c.Newest {
				order = "desc"
			}
			keep = append(keep, fmt.Sprintf("(%s and ts in (select ts from %s where %s order by ts %s limit %d))", series, table, within(c.Within), order, c.N))
		}
	}
	return strings.Join(keep, " or ")
}

// inEra is the instant, or where PostgreSQL would write it with BC, the infinity before all bars.
func inEra(i market.Instant) market.Instant {
	if !i.IsInf() && i.Time().Year() < 1 {
		return market.NegInf
	}
	return i
}
