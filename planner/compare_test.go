package planner

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"        //nolint:depguard // the test asks PostgreSQL itself
	"github.com/jackc/pgx/v5/pgconn" //nolint:depguard // likewise
	"github.com/stretchr/testify/require"

	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// TestDifferential runs random statements twice on PostgreSQL: on all bars, and on only those that the plan names. The
// answers must be the same (DESIGN §1). PLANNER_SEED makes a run anew, PLANNER_STATEMENTS makes it longer; where a statement
// differs it is made smaller first, by as many tries as PLANNER_SHRINK allows.
func TestDifferential(t *testing.T) {
	t.Parallel()
	conn := barsConn(t)
	seed := setting("PLANNER_SEED", uint64(time.Now().UnixNano()))
	statements := setting("PLANNER_STATEMENTS", 1500)
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	outcomes := map[differentialOutcome]int{}
	for n := range statements {
		g := &grammar{Rand: r}
		zone := g.pick("UTC", "America/New_York", "Asia/Tokyo")
		declared := uint32(r.IntN(4)/3) * oidUnknown
		d := trial{sql: g.statement(), params: g.params, zone: zone, declared: declared, others: r.Uint64(), escapes: g.escapes}.renumbered()
		outcome, difference := d.run(t, conn)
		if difference != "" {
			small, difference := d.shrink(t, conn, difference, int(setting("PLANNER_SHRINK", 2000)))
			require.FailNow(t, "an answer from the planned bars differs", "PLANNER_SEED=%d statement %d\n%s\nthe smallest found:\n%s\n%s", seed, n+1, d, small, difference)
		}
		outcomes[outcome]++
	}
	planned := outcomes[outcomePlanned] + outcomes[outcomeNarrowed]
	t.Logf("%d planned, %d of them narrower than everything, %d failed in PostgreSQL, %d refused", planned, outcomes[outcomeNarrowed],
		outcomes[outcomeFailed], outcomes[outcomeRefused])
	require.Greater(t, outcomes[outcomeNarrowed]*5, int(statements), "too few are narrowed to show anything")
}

// setting is a number from the environment.
func setting(name string, otherwise uint64) uint64 {
	_, _ = fmt.Sscan(os.Getenv(name), &otherwise)
	return otherwise
}

// postgresConn gives a connection to the database that the tests are given, to ask PostgreSQL what something is.
func postgresConn(t *testing.T) *pgx.Conn {
	t.Helper()
	url := os.Getenv("TEST_DATABASE_URL")
	if url == "" {
		t.Skip("TEST_DATABASE_URL is unset")
	}
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	return conn
}

// barsConn gives a connection to a TimescaleDB of the test's own, with bars in a temporary table.
func barsConn(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dbtest.New(t).URL)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	fillBars(t, conn)
	fillPicks(t, conn)
	fillViews(t, conn)
	fillTurned(t, conn)
	return conn
}

// fillBars makes the table that the statements are run on: B has gaps, C is listed later, what AA's name begins with is another symbol, and
// a symbol is called as a timeframe is.
func fillBars(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	mustExec(t, conn, `create temp table ohlcv (symbol text, timeframe text, ts timestamptz, open float8, high float8, low float8,
		close float8, volume float8, primary key (symbol, timeframe, ts))`)
	for timeframe, step := range map[string]string{"1h": "1 hour", "1d": "1 day"} {
		mustExec(t, conn, `insert into ohlcv select s, '`+timeframe+`', g, 1, 2, 0, abs(hashtext(s || g) % 24), abs(hashtext(s || g) % 7)
			from unnest(array['A','AA','B','C','1h']) s, generate_series(case s when 'C' then '2026-10-31Z' else timestamptz '2026-10-30Z' end, '2026-11-04Z', interval '`+step+`') g
			where (s <> '1h' or g > '2026-11-02Z') and (s <> 'B' or abs(hashtext(g::text) % 10) < 8)`)
	}
}

func mustExec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	require.NoError(t, err, sql)
}

type differentialOutcome int

const (
	outcomePlanned differentialOutcome = iota
	outcomeNarrowed
	outcomeFailed
	outcomeRefused
)

// trial is a statement with its parameters in a session with that TimeZone.
type trial struct {
	sql, zone string
	params    []string // values; "\x00" is NULL
	declared  uint32   // what their types are declared as
	others    uint64   // the seed of the constants of the text whose template it shares, of how well the clock is known, and of what "= NULL" and '{NULL}' are
	escapes   bool     // standard_conforming_strings is off
}

// renumbered has only the parameters that the statement names: the grammar draws more than it uses. Those of a PREPARE are its own.
func (d trial) renumbered() trial {
	if strings.HasPrefix(d.sql, "prepare p(") {
		d.params = nil
		return d
	}
	numbers := map[string]string{}
	var kept []string
	d.sql = regexp.MustCompile(`\$\d+`).ReplaceAllStringFunc(d.sql, func(name string) string {
		if _, known := numbers[name]; !known {
			n, _ := strconv.Atoi(name[1:])
			kept = append(kept, d.params[n-1])
			numbers[name] = "$" + strconv.Itoa(len(kept))
		}
		return numbers[name]
	})
	d.params = kept
	return d
}

func (d trial) String() string {
	return fmt.Sprintf("timezone %s, parameters %q\n%s", d.zone, d.params, d.sql)
}

// run compares, for the plan before and after each round of questions, and says how the answers differ.
func (d trial) run(t *testing.T, conn *pgx.Conn) (_ differentialOutcome, difference string) {
	t.Helper()
	values := make([][]byte, len(d.params))
	for i, p := range d.params {
		if p != "\x00" {
			values[i] = []byte(p)
		}
	}
	mustExec(t, conn, "begin")
	defer mustExec(t, conn, "rollback")
	mustExec(t, conn, "set local timezone = '"+d.zone+"'")
	if d.escapes {
		mustExec(t, conn, "set local standard_conforming_strings = off")
	}
	if d.others%5 == 0 {
		mustExec(t, conn, "set local transform_null_equals = on")
	}
	if d.others%7 == 0 {
		mustExec(t, conn, "set local array_nulls = off")
	}
	var nowMicros int64
	require.NoError(t, conn.QueryRow(t.Context(), "select (extract(epoch from now()) * 1000000)::bigint").Scan(&nowMicros))
	env := Env{TimeZone: d.zone, Catalog: closure, NonStandardStrings: d.escapes}
	at := market.Instant(nowMicros)
	bracket := Bracket{Lo: at.Shift(-time.Duration(d.others%3) * time.Hour), Hi: at.Shift(time.Duration(d.others%4) * time.Hour)}
	args := Args{Values: values}
	cache := NewCache(10)
	oids := slices.Repeat([]uint32{d.declared}, len(d.params))
	cache.Prepare(otherConstants(rand.New(rand.NewPCG(d.others, 0)), d.sql), oids, env)
	tmpl := cache.Prepare(d.sql, oids, env)
	_ = tmpl.Bind(args, env, Bracket{Lo: 0, Hi: 0}, nil) // long ago
	plan := tmpl.Bind(args, env, bracket, nil)
	mustExec(t, conn, "savepoint s")
	mustExec(t, conn, "set local statement_timeout = '5s'") // some joins are too large
	full, err := rows(t, conn, d.sql, values)
	if err != nil {
		return outcomeFailed, ""
	}
	mustExec(t, conn, "rollback to s")
	different := func() bool {
		difference = onPlanned(t, conn, d.sql, values, full, plan)
		return difference != ""
	}
	answers := Answers{}
	for rounds := 0; !different() && len(plan.Questions) > 0 && len(plan.Data) == 0 && rounds < maxAskedAgain; rounds++ {
		for _, q := range plan.Questions {
			answers[q.Key] = ask(t, conn, q, everySymbol)
		}
		plan = tmpl.Bind(args, env, bracket, answers)
	}
	if len(plan.Data) > 0 {
		if plan, difference = askData(t, conn, tmpl, args, env, bracket, answers); difference == "" {
			_ = different()
		}
	}
	if difference != "" {
		return outcomePlanned, difference + "\nplan " + formatPlan(tmpl, plan)
	}
	switch {
	case plan.Refusal != nil || len(plan.Warnings) > 0:
		return outcomeRefused, ""
	case slices.ContainsFunc(plan.Requirements, func(r market.Requirement) bool {
		return len(r.Counts) > 0 || (len(r.Ranges) > 0 && r.Ranges[0] != market.Always)
	}):
		return outcomeNarrowed, ""
	}
	return outcomePlanned, ""
}

// everySymbol and someSymbols list symbols for questions about them: every one that has bars, and one that has none; and some, for plans
// to be written down.
const (
	everySymbol = "select symbol from ohlcv union select 'E'"
	someSymbols = "select unnest(array['A', 'B', 'BTCUSD', 'ETHUSD', 'sim:A', 'sim:AX', 'sim:B'])"
)

func ask(t *testing.T, conn *pgx.Conn, q Question, listed string) *string {
	t.Helper()
	mustExec(t, conn, "savepoint q")
	defer mustExec(t, conn, "rollback to q")
	mustExec(t, conn, "reset array_nulls") // another session is asked
	mustExec(t, conn, "reset transform_null_equals")
	var text *string
	sql := q.SQL
	if q.Listed != nil {
		sql = "with listed (symbol) as (select s from (" + listed + ") l(s) where starts_with(s, " + quote(q.Listed.Prefix) + ")) " + sql
	}
	if err := conn.QueryRow(t.Context(), sql, pgx.QueryExecModeSimpleProtocol).Scan(&text); err != nil {
		return Failed("XX000")
	}
	return text
}

// onPlanned runs the statement on the planned bars only, and says how its answer differs from the full one.
func onPlanned(t *testing.T, conn *pgx.Conn, sql string, values [][]byte, full []string, plan Plan) string {
	t.Helper()
	if plan.Refusal != nil || len(plan.Warnings) > 0 || len(plan.Data) > 0 {
		return ""
	}
	mustExec(t, conn, "delete from ohlcv where not ("+neededBars("ohlcv", plan)+")")
	defer mustExec(t, conn, "rollback to s")
	got, err := rows(t, conn, sql, values)
	switch {
	case err != nil:
		return err.Error()
	case slices.Equal(full, got):
		return ""
	}
	return fmt.Sprintf("%d rows on all bars, %d on those planned\nonly on all bars: %.300v\nonly on those planned: %.300v", len(full), len(got), without(full, got), without(got, full))
}

// without returns what of a list another one lacks, the first few of it.
func without(list, other []string) []string {
	const shown = 5
	lacking := slices.DeleteFunc(slices.Clone(list), func(row string) bool { _, found := slices.BinarySearch(other, row); return found })
	return lacking[:min(shown, len(lacking))]
}

func rows(t *testing.T, conn *pgx.Conn, sql string, values [][]byte) ([]string, error) {
	t.Helper()
	results := []*pgconn.Result{}
	if strings.Contains(sql, "; ") {
		_ = conn.PgConn().Exec(t.Context(), "savepoint d; deallocate p").Close() // it outlives its transaction
		mustExec(t, conn, "rollback to d")
		var err error
		if results, err = conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			return nil, fmt.Errorf("run the statements: %w", err)
		}
	} else {
		results = append(results, conn.PgConn().ExecParams(t.Context(), sql, values, nil, nil, nil).Read())
	}
	list := []string{}
	for i, result := range results {
		if result.Err != nil {
			return nil, result.Err
		}
		for _, row := range result.Rows {
			list = append(list, fmt.Sprintf("%d %q", i, row))
		}
	}
	slices.Sort(list)
	return list, nil
}
