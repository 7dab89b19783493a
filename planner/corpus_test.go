package planner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"        //nolint:depguard // the test asks PostgreSQL itself
	"github.com/jackc/pgx/v5/pgconn" //nolint:depguard // the test asks PostgreSQL itself
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// corpusDatabase gives a connection to a database that has all that the golden statements name: the tables of
// testdata/tables.sql, the views of the golden catalog, and bars of every series that the plans need, most of them around the
// times that the statements name and around now. A fifth of the bars is missing.
func corpusDatabase(t *testing.T) *pgx.Conn {
	t.Helper()
	if os.Getenv("TEST_DATABASE_URL") == "" {
		t.Skip("TEST_DATABASE_URL is unset")
	}
	conn, err := pgx.Connect(t.Context(), dbtest.New(t).URL)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	mustExec(t, conn, `drop table public.ohlcv cascade`)
	mustExec(t, conn, `create table public.ohlcv (symbol text not null, timeframe text not null, ts timestamptz not null, open float8, high float8,
		low float8, close float8, volume float8, primary key (symbol, timeframe, ts))`)
	makeGoldenTables(t, conn)
	for series := range corpusSeries(t) {
		step := "1 " + map[byte]string{'m': "minute", 'h': "hour", 'd': "day", 'w': "week", 'o': "month"}[series.Timeframe.String()[len(series.Timeframe.String())-1]]
		if n := strings.TrimRight(series.Timeframe.String(), "mhdwo"); n != "1" {
			step = n + step[1:] + "s"
		}
		_, err := conn.Exec(t.Context(), `insert into public.ohlcv select $1, $2, ts, abs(h % 64), abs(h % 64) + 8, abs(h % 64) - 4, abs(h % 64) + (h % 8) / 2, abs(h % 128)
			from (select ts, hashtext($1 || $2 || ts) as h from (
				select timestamptz '2023-11-01Z' + n * 31 * $3::text::interval as ts from generate_series(0, 120) n
				union select timestamptz '2024-01-01Z' + n * $3::text::interval from generate_series(-12, 90) n
				union select timestamptz '2026-10-30Z' + n * $3::text::interval from generate_series(0, 30) n
				union select date_bin($3::text::interval, now(), '2001-01-01Z') + n * $3::text::interval from generate_series(-60, 1) n where $3::text not like '%month%') x) y
			where h % 5 <> 0 on conflict do nothing`, string(series.Symbol), series.Timeframe.String(), step)
		require.NoError(t, err)
	}
	mustExec(t, conn, "analyze")
	mustExec(t, conn, "set statement_timeout = '20s'")
	return conn
}

// makeGoldenTables makes what the golden statements name beside ohlcv.
func makeGoldenTables(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	tables, err := os.ReadFile("testdata/tables.sql")
	require.NoError(t, err)
	mustExec(t, conn, string(tables))
	for _, view := range goldenViews {
		mustExec(t, conn, "create view "+view[0]+" as "+view[1])
	}
}

// corpusSeries are the series that the corpus's plans need, and for each of their timeframes one that none does.
func corpusSeries(t *testing.T) map[market.Series]bool {
	t.Helper()
	found := map[market.Series]bool{}
	for _, c := range goldenCorpus(t) {
		env, args, _ := c.setup(t)
		for _, r := range Prepare(c.sql, args.OIDs, env).Bind(args, env, goldenBracket(), nil).Requirements {
			found[r.Series] = true
			found[market.Series{Symbol: "OTHER", Timeframe: r.Series.Timeframe}] = true
		}
	}
	for _, symbol := range []market.Symbol{"A", "B", "sim:A", "sim:AX", "sim:B"} {
		found[market.Series{Symbol: symbol, Timeframe: market.D1}] = true
	}
	return found
}

func goldenCorpus(t *testing.T) []goldenCase {
	t.Helper()
	files, err := filepath.Glob("testdata/plan/*.txt")
	require.NoError(t, err)
	var list []goldenCase
	for _, path := range files {
		list = append(list, readGolden(t, path)...)
	}
	return list
}

// barkeepOptions are the options by which an EXPLAIN is barkeep's own: PostgreSQL is given the statement below it.
var barkeepOptions = regexp.MustCompile(`(?i)^explain \("?barkeep"?( true)?\) `)

// endsBlock matches statements that end a transaction, and others that cannot stand in one.
var endsBlock = regexp.MustCompile(`(?i)\b(commit|rollback|begin|abort|end;|start transaction|vacuum|checkpoint|discard all|prepare transaction)\b`)

// TestCorpus runs every golden statement on PostgreSQL, first on all bars and then on only those that its plan names: each has the
// outcome that its case says, and both answers are the same. So no golden statement is other than SQL that a client can send, and no golden plan is short of
// a bar (PLANNER 1).
func TestCorpus(t *testing.T) {
	conn := corpusDatabase(t)
	outcomes := map[differentialOutcome]int{}
	for i, c := range goldenCorpus(t) {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			outcomes[c.runs(t, conn)]++
		})
	}
	t.Logf("%d narrowed, %d planned, %d failed in PostgreSQL, %d refused", outcomes[outcomeNarrowed], outcomes[outcomePlanned], outcomes[outcomeFailed], outcomes[outcomeRefused])
	require.Greater(t, outcomes[outcomeNarrowed], 300)
}

// runs runs the case's statement, and where it has a plan, once more on the bars of the plan.
func (c goldenCase) runs(t *testing.T, conn *pgx.Conn) differentialOutcome {
	t.Helper()
	env, args, _ := c.setup(t)
	sql := barkeepOptions.ReplaceAllString(c.sql, "")
	if strings.Contains(strings.ToLower(sql), "from stdin") {
		return outcomeRefused
	}
	alone := endsBlock.MatchString(sql)
	if !alone {
		mustExec(t, conn, "begin")
	}
	defer mustExec(t, conn, "deallocate all")
	defer mustExec(t, conn, "rollback")
	sets := settingsOf(env)
	mustExec(t, conn, sets)
	if env.Hidden {
		mustExec(t, conn, "create temp table ohlcv (like public.ohlcv)")
	}
	var micros int64
	require.NoError(t, conn.QueryRow(t.Context(), "select (extract(epoch from now()) * 1000000)::bigint", pgx.QueryExecModeSimpleProtocol).Scan(&micros))
	bracket := Bracket{Lo: market.Instant(micros - 5000), Hi: market.Instant(micros + 7000)}
	if !alone {
		mustExec(t, conn, "savepoint s")
	}
	tmpl := Prepare(c.sql, args.OIDs, env)
	first := tmpl.Bind(args, env, bracket, nil)
	run := c.answer
	if tmpl.Reads() && tmpl.Statements == 1 && (first.Refusal != nil && !first.Unanswered() || len(first.Warnings) > 0) {
		run = understood // it may read all there is, more often than once
	}
	full, err := run(t, conn, sql, args)
	state := ""
	if err != nil {
		var reported *pgconn.PgError
		require.ErrorAs(t, err, &reported, c.sql)
		state = reported.Code
	}
	want, _ := c.directive("error")
	require.Equal(t, want, state, "%s: %v", c.sql, err)
	if !alone {
		mustExec(t, conn, "rollback to s")
	}
	if err != nil || alone {
		return outcomeFailed
	}
	answers := Answers{}
	args.Data = map[string]Column{}
	for rounds := 0; ; rounds++ {
		require.Less(t, rounds, 8, c.sql)
		plan := tmpl.Bind(args, env, bracket, answers)
		c.sound(t, conn, sql, args, full, plan)
		if !plan.Unanswered() {
			return outcomeOf(plan)
		}
		for _, d := range plan.Data {
			mustExec(t, conn, "savepoint s")
			args.Data[d.Key] = column(t, conn, d.SQL, d.given(args))
		}
		for _, q := range plan.Questions {
			answers[q.Key] = askUnder(t, conn, q, everySymbol, sets)
		}
	}
}

// settingsOf is the text that gives a session the settings.
func settingsOf(env Env) string {
	zone, dates, intervals := env.TimeZone, env.DateStyle, env.IntervalStyle
	if zone == "" {
		zone = "UTC"
	}
	if dates == "" {
		dates = "ISO, MDY"
	}
	if intervals == "" {
		intervals = "postgres"
	}
	return fmt.Sprintf("set timezone = %s; set datestyle = %s; set intervalstyle = %s", quote(zone), quote(dates), quote(intervals))
}

// askUnder asks a question under its own settings.
func askUnder(t *testing.T, conn *pgx.Conn, q Question, listed, back string) *string {
	t.Helper()
	mustExec(t, conn, settingsOf(Env{TimeZone: q.Under.TimeZone, DateStyle: q.Under.DateStyle, IntervalStyle: q.Under.IntervalStyle}))
	answer := ask(t, conn, q, listed)
	mustExec(t, conn, back)
	return answer
}

func outcomeOf(plan Plan) differentialOutcome {
	switch {
	case plan.Refusal != nil || len(plan.Warnings) > 0:
		return outcomeRefused
	case slices.ContainsFunc(plan.Requirements, func(r market.Requirement) bool {
		return len(r.Counts) > 0 || (len(r.Ranges) > 0 && r.Ranges[0] != market.Always)
	}):
		return outcomeNarrowed
	}
	return outcomePlanned
}

// sound runs the statement on the bars of the plan only.
func (c goldenCase) sound(t *testing.T, conn *pgx.Conn, sql string, args Args, full []string, plan Plan) {
	t.Helper()
	stored := slices.ContainsFunc(plan.Under, func(o Own) bool { return strings.EqualFold(o.Mode, modeStored) })
	if stored || plan.Refusal != nil || len(plan.Warnings) > 0 || len(plan.Data) > 0 || strings.HasPrefix(strings.ToLower(sql), "explain") {
		return
	}
	mustExec(t, conn, "savepoint s")
	mustExec(t, conn, "delete from public.ohlcv where not ("+neededBars("public.ohlcv", plan)+")")
	got, err := c.answer(t, conn, sql, args)
	require.NoError(t, err, c.sql)
	if _, ok := c.directive("unordered"); ok {
		require.Len(t, got, len(full), c.sql)
	} else {
		require.Equal(t, full, got, "%s\nplan %s", c.sql, formatPlan(Prepare(c.sql, args.OIDs, Env{}), plan))
	}
	mustExec(t, conn, "rollback to s")
}

// answer returns the rows of all statements of the text, sorted, and their command tags.
func (goldenCase) answer(t *testing.T, conn *pgx.Conn, sql string, args Args) ([]string, error) {
	t.Helper()
	mustExec(t, conn, "deallocate all")
	var results []*pgconn.Result
	if len(args.Values) > 0 {
		results = append(results, conn.PgConn().ExecParams(t.Context(), sql, args.Values, args.OIDs, args.Formats, nil).Read())
	} else {
		all, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
		if err != nil {
			return nil, err
		}
		results = all
	}
	list := []string{}
	for _, result := range results {
		if result.Err != nil {
			return nil, result.Err
		}
		list = append(list, result.CommandTag.String())
		for _, row := range result.Rows {
			list = append(list, fmt.Sprintf("%q", row))
		}
	}
	slices.Sort(list)
	return list, nil
}

// understood has PostgreSQL parse and analyse the statement, and not run it.
func understood(t *testing.T, conn *pgx.Conn, sql string, args Args) ([]string, error) {
	t.Helper()
	_, err := conn.PgConn().Prepare(t.Context(), "", sql, args.OIDs)
	return nil, err
}

// TestCorpusAnswered: of the golden statements about which the database is asked, the plans that its answers make.
func TestCorpusAnswered(t *testing.T) {
	t.Parallel()
	conn := corpusDatabase(t)
	files, err := filepath.Glob("testdata/plan/*.txt")
	require.NoError(t, err)
	asked := 0
	for _, path := range files {
		var out strings.Builder
		for _, c := range readGolden(t, path) {
			got := c.whenAnswered(t, conn)
			if got != "" {
				asked++
			}
			if !*update {
				require.Equal(t, c.answered, got, "%s%s", c.directives, c.sql)
			}
			c.answered = got
			fmt.Fprintf(&out, "%s\n\n", c)
		}
		if *update {
			require.NoError(t, os.WriteFile(path, []byte(out.String()), 0o600))
		}
	}
	require.Greater(t, asked, 20)
}

// whenAnswered is the plan once the database has answered; empty where nothing is asked.
func (c goldenCase) whenAnswered(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	env, args, given := c.setup(t)
	tmpl := Prepare(c.sql, args.OIDs, env)
	plan := tmpl.Bind(args, env, goldenBracket(), nil)
	if given != nil || len(plan.Questions) == 0 {
		return ""
	}
	mustExec(t, conn, "begin")
	defer mustExec(t, conn, "rollback")
	answers := Answers{}
	for rounds := 0; len(plan.Questions) > 0; rounds++ {
		require.Less(t, rounds, 8, c.sql)
		for _, q := range plan.Questions {
			answers[q.Key] = askUnder(t, conn, q, someSymbols, settingsOf(env))
		}
		plan = tmpl.Bind(args, env, goldenBracket(), answers)
	}
	return formatPlan(tmpl, plan) + formatUnder(env, plan)
}
