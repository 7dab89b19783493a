package planner

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5" //nolint:depguard // the test asks PostgreSQL itself
	pg "github.com/pganalyze/pg_query_go/v6"
	"github.com/stretchr/testify/require"
)

var stringConstant = regexp.MustCompile(`'([^']*)'`)

// FuzzLiteral reads texts as points in time and as intervals, here and in PostgreSQL, under several settings: what is read here is what
// PostgreSQL reads, or lies about it.
func FuzzLiteral(f *testing.F) {
	url := os.Getenv("TEST_DATABASE_URL")
	if url == "" {
		f.Skip("TEST_DATABASE_URL is unset")
	}
	for _, name := range []string{"literals", "time", "where", "functions", "grafana"} {
		raw, err := os.ReadFile("testdata/plan/" + name + ".txt")
		require.NoError(f, err)
		for _, found := range stringConstant.FindAllStringSubmatch(string(raw), -1) {
			f.Add(found[1])
		}
	}
	for _, text := range []string{
		"1 day", "-1 day", "2 hours 30 minutes", "1 mon", "1 year 2 mons", "90m", "1 day 02:03:04", "-1 day 2 hours", "+3 d", "1h30m", "P1D", "1-2",
		"04:05", "1 day 04:05:06.5", "2024-02-29 23:59:59.999999+15:59", "0001-01-01", "9999-12-31T23:59:59Z", "2024-01-01 00:00:00 -08",
	} {
		f.Add(text)
	}
	conn, err := pgx.Connect(f.Context(), url)
	require.NoError(f, err)
	f.Cleanup(func() { _ = conn.Close(f.Context()) })
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsAny(text, "\x00\\") || checkText("select '"+text+"'") != nil || clockWord(text) {
			return // no literal, or one that goes by the clock
		}
		for _, env := range []Env{
			{TimeZone: "UTC", DateStyle: "ISO, MDY", IntervalStyle: "postgres"},
			{TimeZone: "America/New_York", DateStyle: "SQL, DMY", IntervalStyle: "sql_standard"},
			{TimeZone: "Asia/Kolkata", DateStyle: "German, DMY", IntervalStyle: "iso_8601"},
			{TimeZone: "UTC", DateStyle: "ISO, YMD", IntervalStyle: "postgres_verbose"},
		} {
			mustExec(t, conn, settingsOf(env))
			literalIn(t, conn, text, env)
		}
	})
}

func literalIn(t *testing.T, conn *pgx.Conn, text string, env Env) {
	t.Helper()
	scan := func(sql string, into ...any) bool {
		return conn.QueryRow(t.Context(), sql, pgx.QueryExecModeSimpleProtocol).Scan(into...) == nil
	}
	e := &evaluator{env: settings{Env: env, zoneKnown: true}, start: &start{}}
	for name, k := range map[string]kind{"timestamptz": kindTimestamptz, "timestamp": kindTimestamp, "date": kindDate} {
		v := e.parseText(text, k)
		if v.kind != k {
			continue
		}
		point := quote(text) + "::" + name
		if k != kindTimestamptz {
			point = "(" + point + "::timestamp at time zone 'UTC')"
		}
		var answer string
		if !scan("select (extract(epoch from "+point+") * 1000000)::text", &answer) {
			continue // the statement fails in PostgreSQL
		}
		at, ok := parseMicros(answer)
		require.True(t, ok, answer)
		require.True(t, v.lo <= at && at <= v.hi, "%q as %s under %+v: read as %s to %s, is %s", text, name, env, v.lo, v.hi, at)
	}
	s, ok := parseSpan(text)
	if !ok {
		return
	}
	var months, days, micros int64
	if scan(fmt.Sprintf(`select (extract(year from i) * 12 + extract(month from i))::bigint, extract(day from i)::bigint,
		(extract(epoch from make_interval(secs => 0) + i - make_interval(months => (extract(year from i) * 12 + extract(month from i))::int, days => extract(day from i)::int)) * 1000000)::bigint
		from (select %s::interval as i) x`, quote(text)), &months, &days, &micros) {
		require.Equal(t, []int64{s.months, s.days, s.rest.Microseconds()}, []int64{months, days, micros}, "%q under %+v", text, env)
	}
}

// A storm of texts that nobody sent before: each costs one parse, also once it is bound, and the cache keeps no more than it may.
func TestRule5_AStormOfMisses(t *testing.T) {
	t.Parallel()
	const size = 100
	cache := NewCache(size)
	parses := 0
	cache.parser = func(text string) (*pg.ParseResult, error) {
		parses++
		return pg.Parse(text)
	}
	shape := func(i int) string {
		return fmt.Sprintf("select ts, close as c%d from ohlcv where symbol = 'A' and timeframe = '1d' and ts > '2024-01-01Z'", i)
	}
	var last *Template
	for i := range 20 * size {
		last = cache.Prepare(shape(i), nil, Env{})
		require.NotEmpty(t, last.Bind(Args{}, Env{}, goldenBracket(), nil).Requirements)
	}
	require.Equal(t, 20*size, parses)
	require.Equal(t, size, cache.templates.Len())
	require.LessOrEqual(t, cache.outlines.Len(), size/4)
	require.Same(t, last, cache.Prepare(shape(20*size-1), nil, Env{}))
	parses = 0
	for i := range 20 * size { // of one shape, with other constants
		text := fmt.Sprintf("select ts from ohlcv where symbol = 'A%d' and timeframe = '1d' and ts > '2024-01-01Z'", i)
		require.Len(t, cache.Prepare(text, nil, Env{}).Bind(Args{}, Env{}, goldenBracket(), nil).Requirements, 1)
	}
	require.Equal(t, 1, parses)
	parses = 0
	for i := range 20 * size { // likewise, where the plan is made of the text's own parse tree
		text := fmt.Sprintf("select ts from ohlcv where symbol in (select symbol from watchlist where n = %d) and timeframe = '1d'", i)
		require.Len(t, cache.Prepare(text, nil, Env{}).Bind(Args{}, Env{}, goldenBracket(), nil).Data, 1)
	}
	require.LessOrEqual(t, parses, 20*size)
	require.Equal(t, size, cache.templates.Len())
	for _, key := range cache.outlines.Keys() {
		list, _ := cache.outlines.Peek(key)
		require.LessOrEqual(t, len(list), maxSharings)
	}
	huge := "select " + strings.Repeat("1,", maxCachedText) + "1 from ohlcv"
	before := cache.templates.Len()
	cache.Prepare(huge, nil, Env{})
	require.Equal(t, before, cache.templates.Len(), "long texts are not kept")
}

// PLANNER 5: a storm of long texts takes no more memory than one of short texts.
func TestRule5_AStormOfLongMisses(t *testing.T) {
	t.Parallel()
	cache := NewCache(1000)
	cache.parser = func(string) (*pg.ParseResult, error) { return pg.Parse("select 1") }
	long := strings.Repeat("x", maxCachedText-100)
	for i := range 1000 {
		cache.Prepare(fmt.Sprintf("select * from ohlcv where symbol = 'A' or close = %d /* %s */", i, long), nil, Env{})
		require.LessOrEqual(t, cache.texts.Load(), int64(maxCachedBytes))
		require.LessOrEqual(t, cache.shapes.Load(), int64(maxCachedBytes))
	}
	require.Less(t, cache.templates.Len(), maxCachedBytes/len(long)+1)
	require.Greater(t, cache.templates.Len(), 100)
	for i := range 3000 {
		cache.Prepare(fmt.Sprintf("select ts, close as c%d from ohlcv", i), nil, Env{})
	}
	require.Equal(t, 1000, cache.templates.Len(), "the long ones are gone")
	require.Less(t, cache.texts.Load(), int64(64<<10))
	require.Less(t, cache.shapes.Load(), int64(maxSharings*64<<10))
}
