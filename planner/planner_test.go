package planner

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

func TestMayRead(t *testing.T) {
	t.Parallel()
	c := goldenCatalog()
	for text, want := range map[string]bool{
		"":                          false,
		"select 1":                  false,
		"select * from OHLCV":       true,
		`select * from "ohlcv"`:     true,
		`select U&"\006fhlcv"`:      true,
		"select U&'x'":              true,
		"execute q":                 true,
		"select * from daily":       true,
		`select * from "Daily"`:     true,
		"select 'from daily'":       true,
		"select * from dailyx":      false,
		"select $x$ daily $x$":      true,
		"select * from d /* daily ": false,
		"select schema_to_xml('public', true, true, '')": true,
		"select crosstab('…')":                           true,
	} {
		require.Equal(t, want, MayRead(text, c), text)
	}
	require.False(t, MayRead("select * from daily", nil))
	require.True(t, MayRead("select * from mine", c.With(8, "Mine")))
}

func TestEffects(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"select 1": false, "select 'set x'": false, "SET x = 1": true, "select set_config('a','b',true)": true, "begin": true,
		"-- set\nselect 1": false, "select 1; rollback": true, `select "set_config"('a','b',false)`: true,
		"insert into t values (1)": false, "update t set x = 1": false,
		"select case when true then 1 end": false, "select 1;\n set x = 1": true, "explain analyze execute q": true, "select pg_catalog.SET_CONFIG('a','b',true)": true,
	} {
		require.Equal(t, want, Effects(text, nil).Settings, text)
	}
	c := &Catalog{Setters: map[string]struct{}{"tenant": {}, "=>>": {}, "odd name": {}}}
	for text, want := range map[string]bool{
		"select Tenant(1)": true, `select "tenant"(1)`: true, "select tenants(1)": false, "select 1 =>> 2": true, "select 'select tenant(1)'": true,
		`select "Odd name"()`: true, "select odd, name": false,
	} {
		require.Equal(t, want, Effects(text, c.With(1)).Settings, text)
	}
}

func TestSetsInside(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		"begin set x = 1; end": true, "begin if a then set local x = 1; end if; end": true, "begin update t set x = 1; return new; end": false,
		"begin update t\n set x = 1; end": false, "begin -- so\n reset all; end": true, "begin insert into t values (1) on conflict do update set x = 1; end": false,
		"select set_config('a', 'b', false)": true, "set x = 1": true, "begin execute 'select 1'; end": true, "begin loop discard all; end loop; end": true,
		"begin else /* */ set x = 1; end": true, "update pg_settings set setting = 1": true, "select 'set x'": false, "<<a>> begin perform b(); end": false,
	} {
		require.Equal(t, want, SetsInside(body), body)
	}
}

func TestDefinesInside(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		"begin create view v as select 1; end": true, "begin execute 'ALTER view v rename to w'; end": true, "begin execute $1; end": true,
		"begin execute 'cre' || 'ate view v as select 1'; end": true, "begin execute format('%s view v', a); end": true,
		"begin execute format('insert into %I values (1)', a) using b; end": false, "begin execute 'delete from ' || quote_ident(a); end": false,
		"begin execute 'insert into t values (1);' || a; end": true, "begin execute 'update t set a = 1'; execute a; end": true, "begin execute": true,
		"begin execute 'insert into created select 1'; end": false, "begin insert into t(created_at) values (now()); return new; end": false,
		"select 'drop it'": true, "<<a>> begin perform b(); end": false, "": false,
	} {
		require.Equal(t, want, DefinesInside(body), body)
	}
}

// TestRule3_WhatATextMakes: the names under which what a block has defined is read before others see it.
func TestRule3_WhatATextMakes(t *testing.T) {
	t.Parallel()
	c := (&Catalog{Version: 1}).With(2, "reads")
	for text, want := range map[string][]string{
		"create cast (coin as int) with function reads(coin)":                     {"coin", "int4"},
		"create cast (text as coin) with function reads(text)":                    {"coin", "text"},
		"create event trigger e on ddl_command_end execute function reads()":      {eventsName},
		"create event trigger e on ddl_command_end execute function reads_none()": nil,
	} {
		require.ElementsMatch(t, want, Prepare(text, nil, Env{Catalog: c}).Creates(), text)
	}
	own := c.With(3, eventsName)
	require.True(t, MayRead("comment on table t is 'x'", own))
	require.False(t, MayRead("comment on table t is 'x'", c))
}

func TestCheckText(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkText("select 1"))
	require.NoError(t, checkText("select * from ohlcv where symbol in ("+strings.Repeat("-1,", 20000)+"1)"))
	for name, text := range map[string]string{
		"chain":  "select 1" + strings.Repeat("+1", 30000),
		"and":    "select * from ohlcv where true" + strings.Repeat(" and true", 30000),
		"not":    "select " + strings.Repeat("not ", 30000) + "true",
		"parens": "select " + strings.Repeat("(", 10000) + "1" + strings.Repeat(")", 10000),
		"unions": "select 1,2" + strings.Repeat(" union all select 1,2", 30000),
		"case":   "select " + strings.Repeat("case when true then ", 10000) + "1" + strings.Repeat(" end", 10000),
		"cast":   "select 1" + strings.Repeat("::int", 30000),
		"index":  "select a" + strings.Repeat("[1]", 1) + strings.Repeat(".b", 30000),
		"nul":    "select 1\x00", "bytes": "select '\xff'",
		"joins": "select * from a" + strings.Repeat(" join a on true", 30000),
	} {
		require.ErrorIs(t, checkText(text), errUnreadable, name)
		tmpl := Prepare(text+" -- ohlcv", nil, Env{})
		require.Error(t, tmpl.ParseErr, name)
		require.True(t, tmpl.Reads())
		require.Equal(t, "0A000", tmpl.Bind(Args{}, Env{}, Bracket{}, nil).Refusal.SQLState)
	}
}

// TestRule5_TheProcessSurvives: what would overflow the parser's C stack is refused before it.
func TestRule5_TheProcessSurvives(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"100,000 terms":    "select ts, 1" + strings.Repeat("+1", 100_000) + " from ohlcv where symbol='A' and timeframe='1d'",
		"nested selects":   "select * from " + strings.Repeat("(select * from ", 5_000) + "ohlcv" + strings.Repeat(" x)", 5_000) + " x",
		"nested functions": "select " + strings.Repeat("abs(", 50_000) + "close" + strings.Repeat(")", 50_000) + " from ohlcv",
		"nested arrays":    "select " + strings.Repeat("array[", 50_000) + "1" + strings.Repeat("]", 50_000) + " from ohlcv",
		"ctes":             strings.Repeat("with a as (", 5_000) + "select * from ohlcv" + strings.Repeat(") select * from a", 5_000),
		"signs":            "select " + strings.Repeat("- ", 100_000) + "close from ohlcv",
	} {
		plan := Prepare(text, nil, Env{}).Bind(Args{}, Env{}, goldenBracket(), nil)
		require.NotNil(t, plan.Refusal, name)
		require.Equal(t, "0A000", plan.Refusal.SQLState, name)
	}
}

func TestBinaryParameters(t *testing.T) {
	t.Parallel()
	at := market.FromTime(goldenBracket().Lo.Time())
	tstz := binary.BigEndian.AppendUint64(nil, uint64(at-pgEpoch))
	date := binary.BigEndian.AppendUint32(nil, uint32(8766)) // 2024-01-01
	text := []byte("A")
	array := binary.BigEndian.AppendUint32(nil, 1)
	array = binary.BigEndian.AppendUint32(array, 0)
	array = binary.BigEndian.AppendUint32(array, oidText)
	array = binary.BigEndian.AppendUint32(array, 2)
	array = binary.BigEndian.AppendUint32(array, 1)
	for _, s := range []string{"A", "B"} {
		array = append(binary.BigEndian.AppendUint32(array, 1), s...)
	}
	limit := binary.BigEndian.AppendUint64(nil, 5)
	for _, c := range []struct {
		sql    string
		oids   []uint32
		values [][]byte
		want   string
	}{
		{"symbol = $1 and ts < $2", nil, [][]byte{text, tstz}, "A 1h [-infinity, 2024-03-15T12:00:00Z)"},
		{"symbol = $1 and ts < $2", []uint32{oidVarchar, oidTimestamptz}, [][]byte{text, tstz}, "A 1h [-infinity, 2024-03-15T12:00:00Z)"},
		{"symbol = $1 and ts < $2", []uint32{oidText, oidDate}, [][]byte{text, date}, "A 1h [-infinity, 2024-01-01T00:00:00Z)"},
		{"symbol = $1 and ts < $2::date", nil, [][]byte{text, date}, "A 1h [-infinity, 2024-01-01T00:00:00Z)"},
		{
			"symbol = any($1) and ts = $2", nil,
			[][]byte{array, tstz},
			"A 1h [2024-03-15T12:00:00Z, 2024-03-15T13:00:00Z)\nB 1h [2024-03-15T12:00:00Z, 2024-03-15T13:00:00Z)",
		},
		{"symbol = $1 and ts = $2", nil, [][]byte{text, nil}, "needs nothing"},
		{"symbol = $1 order by ts desc limit $2", nil, [][]byte{text, limit}, "A 1h ∅\nA 1h newest 5 of [-infinity, infinity)"},
	} {
		tmpl := Prepare("select * from ohlcv where timeframe = '1h' and "+c.sql, c.oids, Env{})
		plan := tmpl.Bind(Args{OIDs: c.oids, Formats: []int16{1}, Values: c.values}, Env{}, goldenBracket(), nil)
		require.Equal(t, c.want, formatPlan(tmpl, plan), c.sql)
	}
}

func TestExecute(t *testing.T) {
	t.Parallel()
	p := Prepare("PREPARE q (text, timestamptz) AS select * from ohlcv where symbol = $1 and timeframe = '1h' and ts < $2;", nil, Env{})
	require.False(t, p.Reads())
	require.Len(t, p.Names(), 1)
	registered := p.Names()[0].Prepared
	require.Equal(t, []uint32{oidText, oidTimestamptz}, registered.OIDs)
	inner := Prepare(registered.Text, registered.OIDs, Env{})
	x := Prepare("execute q('A', '2024-01-01')", nil, Env{})
	require.Equal(t, []string{"q"}, x.Executes())
	args := Args{Prepared: func(name string) ([]Candidate, bool) { return []Candidate{{Template: inner}}, name == "q" }}
	require.Equal(t, "A 1h [-infinity, 2024-01-01T00:00:00Z)", formatPlan(x, x.Bind(args, Env{}, goldenBracket(), nil)))
}

func TestColumns(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string][]string{
		"select ts, close from ohlcv where symbol = 'A'": {"close", "symbol", "ts"},
		"select * from ohlcv":                            nil,
		"select o from ohlcv o":                          nil,
		"select count(*) from ohlcv":                     {},
		"select 1 from ohlcv a natural join ohlcv b":     nil,
	} {
		require.Equal(t, want, Prepare(sql, nil, Env{}).Columns(), sql)
	}
}

// TestTimesAgainstPostgreSQL reads the same texts here and in PostgreSQL.
func TestTimesAgainstPostgreSQL(t *testing.T) {
	t.Parallel()
	conn := postgresConn(t)
	mustExec(t, conn, "set timezone = 'UTC'")
	var texts []string
	for _, day := range []string{"2024-02-29", "1999-12-31", "2026-11-01", "9999-12-31", "2023-02-29", "1000-01-01"} {
		for _, clock := range []string{"", " 00:00", "T23:59:59.999999", " 12:34:56.5", "T07:08:09", " 24:00", " 1:02", " 10:00:60", " 10:00:00.1234567"} {
			for _, zone := range []string{"", "Z", "z", " Z", "+00", "-05", "+05:30", "+0530", " -08", "+15:59", "UTC", " utc", "+5", "+05:3"} {
				texts = append(texts, day+clock+zone, "  "+day+clock+zone+" ")
			}
		}
	}
	read := 0
	for _, text := range texts {
		for _, typ := range []string{"timestamptz", "timestamp", "date"} {
			z, ok := parseTime(text)
			if !ok {
				continue
			}
			read++
			var micros int64
			err := conn.QueryRow(t.Context(), fmt.Sprintf("select (extract(epoch from (%s::%s)::timestamptz) * 1000000)::bigint", quote(text), typ)).Scan(&micros)
			require.NoError(t, err, text)
			e := &evaluator{env: settings{zoneKnown: true}}
			k := map[string]kind{"timestamptz": kindTimestamptz, "timestamp": kindTimestamp, "date": kindDate}[typ]
			v := e.convertTime(e.parseText(text, k), kindTimestamptz)
			require.Equal(t, market.Instant(micros), v.lo, "%s %s %+v", text, typ, z)
		}
	}
	require.Greater(t, read, 200)
	for _, text := range []string{
		"1 day", "-1 day", "2 hours 30 minutes", "1 mon", "1 year 2 mons", "90m", "1 day 02:03:04", "3 weeks", "1.5 hours",
		"-1 day 2 hours", "1 day -2 hours", "5 s", "10 ms", "7 us", "1 M", "+3 d", "1h30m", "P1D", "1-2", "04:05", "1 day 04:05:06.5",
	} {
		s, ok := parseSpan(text)
		if !ok {
			continue
		}
		var micros int64
		require.NoError(t, conn.QueryRow(t.Context(), "select (extract(epoch from timestamptz '2024-01-31 10:00Z' + "+quote(text)+"::interval) * 1000000)::bigint").Scan(&micros), text)
		base, _ := parseTime("2024-01-31 10:00Z")
		require.Equal(t, market.Instant(micros), addSpan(base.local, s), text)
	}
}

func FuzzPlan(f *testing.F) {
	files, err := filepath.Glob("testdata/plan/*.txt")
	require.NoError(f, err)
	for _, path := range files {
		raw, err := os.ReadFile(path)
		require.NoError(f, err)
		for block := range strings.SplitSeq(string(raw), "\n\n") {
			input, _, _ := strings.Cut(block, "\n----")
			f.Add(input, "2024-01-01")
		}
	}
	c := goldenCatalog()
	f.Fuzz(func(t *testing.T, sql, param string) {
		for _, env := range []Env{{}, {TimeZone: "Asia/Tokyo", Catalog: c}} {
			tmpl := Prepare(sql, nil, env)
			args := Args{Values: [][]byte{[]byte(param), nil, []byte(param)}}
			plan := tmpl.Bind(args, env, goldenBracket(), nil)
			tmpl.Columns()
			for _, r := range plan.Requirements {
				require.True(t, r.Series.Timeframe.Valid())
			}
			args.Formats = []int16{1}
			tmpl.Bind(args, env, goldenBracket(), nil)
		}
	})
}

const benchSQL = "select ts, open, high, low, close from ohlcv where symbol = $1 and timeframe = '1m' and ts >= $2 and ts < $3 order by ts"

func BenchmarkPrepare(b *testing.B) {
	for b.Loop() {
		Prepare(benchSQL, nil, Env{})
	}
}

func BenchmarkPrepareDashboard(b *testing.B) {
	text := `SELECT time_bucket('900s', ts) AS "time", symbol AS metric, avg(close) AS value, max(high) AS high, min(low) AS low, sum(volume) AS volume ` +
		`FROM ohlcv WHERE symbol IN ('BTCUSD', 'ETHUSD') AND timeframe = '1m' AND ts BETWEEN '2024-01-01T00:00:00Z' AND '2024-01-01T06:00:00Z' GROUP BY 1, 2 ORDER BY 1, 2`
	b.ReportAllocs()
	for b.Loop() {
		Prepare(text, nil, Env{}).Bind(Args{}, Env{}, goldenBracket(), nil)
	}
}

func BenchmarkCachedBind(b *testing.B) {
	c := NewCache(100)
	args := Args{Values: [][]byte{[]byte("BTCUSD"), []byte("2024-01-01"), []byte("2024-01-02")}}
	b.ReportAllocs()
	for b.Loop() {
		c.Prepare(benchSQL, nil, Env{}).Bind(args, Env{}, goldenBracket(), nil)
	}
}

func BenchmarkConstantBind(b *testing.B) {
	c := NewCache(100)
	text := "select ts from ohlcv where symbol = 'BTCUSD' and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z'"
	b.ReportAllocs()
	for b.Loop() {
		c.Prepare(text, nil, Env{}).Bind(Args{}, Env{}, goldenBracket(), nil)
	}
}

func BenchmarkMayRead(b *testing.B) {
	catalog := goldenCatalog()
	for b.Loop() {
		MayRead("select a.id, b.name from accounts a join branches b on a.bid = b.bid where a.id = $1", catalog)
	}
}

// A text in another client_encoding is planned as what it means (PLANNER 4), what it prepares too.
func TestRule4_ClientEncodings(t *testing.T) {
	t.Parallel()
	sql := "select * from ohlcv where symbol = 'é' and timeframe = '1d' and ts = '2024-01-01Z' -- ü"
	latin1 := "select * from ohlcv where symbol = '\xe9' and timeframe = '1d' and ts = '2024-01-01Z' -- \xfc"
	want := Prepare(sql, nil, Env{}).Bind(Args{}, Env{}, goldenBracket(), nil)
	require.Len(t, want.Requirements, 1)
	for _, name := range []string{"LATIN1", "latin9", "WIN1252"} {
		env := Env{ClientEncoding: name}
		require.Equal(t, want, Prepare(latin1, nil, env).Bind(Args{}, env, goldenBracket(), nil), name)
		prepared := Prepare("prepare x as "+latin1, nil, env).Names()[0].Prepared.Text
		require.Equal(t, " "+latin1, prepared, name)
		require.Equal(t, want, Prepare(prepared, nil, env).Bind(Args{}, env, goldenBracket(), nil), name)
	}
	for _, env := range []Env{{}, {ClientEncoding: "MULE_INTERNAL"}, {ClientEncoding: "SQL_ASCII"}, {ClientEncoding: "EUC_JP"}} {
		require.Error(t, Prepare(latin1, nil, env).ParseErr, env.ClientEncoding)
	}
	require.Equal(t, want, Prepare(sql, nil, Env{ClientEncoding: "SQL_ASCII"}).Bind(Args{}, Env{ClientEncoding: "SQL_ASCII"}, goldenBracket(), nil))
}

// PLANNER 5: a list of 50,000 constants is planned.
func TestRule5_ALongList(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("select * from ohlcv where timeframe = '1d' and ts >= '2024-01-01Z' and symbol in ('S0'")
	for i := range 50_000 {
		fmt.Fprintf(&b, ", 'SYMBOL%d'", i)
	}
	b.WriteString(")")
	plan := Prepare(b.String(), nil, Env{}).Bind(Args{}, Env{}, goldenBracket(), nil)
	require.Len(t, plan.Requirements, 50_001)
}

// A value in binary that is handed to a function which makes SQL of it: texts and arrays of them are looked into, an oid may be
// that of ohlcv (PLANNER 3).
func TestRule3_HandedInBinary(t *testing.T) {
	t.Parallel()
	env := Env{Catalog: goldenCatalog()}
	array := func(elements ...string) []byte {
		b := []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, oidText, 0, 0, 0, byte(len(elements)), 0, 0, 0, 1}
		for _, each := range elements {
			b = append(append(b, 0, 0, 0, byte(len(each))), each...)
		}
		return b
	}
	for _, each := range []struct {
		value   []byte
		refused bool
	}{
		{[]byte("trade_log"), false},
		{[]byte("OHLCV"), true},
		{[]byte{0, 0, 64, 1}, true},
		{array("a", "trade_log"), false},
		{array("a", "ohlcv"), true},
		{array("daily"), true},
		{[]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 26, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 64, 1}, true},
	} {
		args := Args{Formats: []int16{1}, Values: [][]byte{each.value}}
		plan := Prepare("select many($1)", nil, env).Bind(args, env, goldenBracket(), nil)
		require.Equal(t, each.refused, plan.Refusal != nil, "%q", each.value)
	}
}

func TestLacks(t *testing.T) {
	t.Parallel()
	const from = "from ohlcv where symbol = 'A' and timeframe = '1h'"
	for text, most := range map[string]int{
		"select * " + from:                  0,
		"select '$1' " + from + " -- $2":    0,
		"select * " + from + " and ts > $1": 1,
		"select * " + from + " and ts > (select max(ts) from ohlcv where symbol = $3)": 3,
		"insert into other select ts, $2 " + from:                                      2,
		"prepare p as select * " + from + " and ts > $1":                               0, // asked for by nobody
		"execute p ($1)":              0,
		"select $1; select * " + from: 0,
	} {
		template := Prepare(text, nil, Env{})
		if most > 0 {
			require.True(t, template.Lacks(most-1), text)
		}
		require.False(t, template.Lacks(most), text)
	}
}

// What a catalog knows beyond another: further names, those through which ohlcv is read now not only by writing to them, and further arguments of
// which SQL is made.
func TestBeyond(t *testing.T) {
	t.Parallel()
	set := func(names ...string) map[string]struct{} {
		out := map[string]struct{}{}
		for _, name := range names {
			out[name] = struct{}{}
		}
		return out
	}
	base := &Catalog{Names: set("v", "w", "x"), Written: set("w", "x"), Dynamic: map[string]uint64{"d": 1, "e": 3}}
	for name, c := range map[string]struct {
		known, other *Catalog
		want         map[string]struct{}
	}{
		"nothing":         {nil, base, set()},
		"the same":        {base, base, set()},
		"of nothing":      {base, nil, set("v", "w", "x", "d", "e")},
		"a name":          {base.With(2, "New"), base, set("new")},
		"one less":        {&Catalog{Names: set("v")}, base, set()},
		"read, by now":    {base.With(2, "w"), base, set("w")},
		"a name anew":     {base.With(2, "v"), base, set()},
		"other arguments": {&Catalog{Dynamic: map[string]uint64{"d": 3, "e": 1, "f": 1}}, base, set("d", "f")},
	} {
		require.Equal(t, c.want, c.known.Beyond(c.other), name)
	}
}
