package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

// tried is one thing that PLANNER.md says was tried on PostgreSQL and TimescaleDB: what is sent in turn, each a Query of its own.
type tried struct {
	rule, quote string
	// around is sent to both first.
	around []string
	steps  []string
	// answer, where not empty, is that of the last step at the database that holds every bar: it shows that the case is the one quoted.
	answer string
	// refused says that barkeep answers the last step with 0A000.
	refused bool
}

var triedRules = []tried{
	{rule: "3", quote: `FROM U&"\006fhlcv"`, steps: []string{`select count(*), sum(volume) from U&"\006fhlcv" where symbol='file:AAA' and timeframe='1h'`}},
	{rule: "3", quote: "crosstab($$select … from ohlcv$$)", around: []string{"create extension tablefunc"}, refused: true, steps: []string{
		`select * from crosstab($$select ts, symbol, close from ohlcv where symbol='file:AAA' and timeframe='1d' order by 1$$) as c(ts timestamptz, a float8)`,
	}},
	{rule: "3", quote: "query_to_xml", refused: true, steps: []string{
		`select query_to_xml('select count(*) from ohlcv where symbol=''file:AAA'' and timeframe=''1h''', true, false, '')`,
	}},
	{
		rule: "3", quote: "plpgsql functions", refused: true,
		around: []string{`create function counted() returns bigint language plpgsql as $$ begin return (select count(*) from ohlcv where symbol='file:AAA'); end $$`},
		steps:  []string{"select counted()"},
	},
	{rule: "6", quote: "WITH ohlcv AS (SELECT * FROM ohlcv …): the inner one is the table", steps: []string{
		"with ohlcv as (select * from ohlcv where symbol='file:AAA' and timeframe='1h') select count(*), sum(volume) from ohlcv",
	}},
	{rule: "6", quote: "A prepared statement follows later search_path changes", steps: []string{
		"prepare p as select count(*), sum(volume) from ohlcv where symbol='file:AAA' and timeframe='1d'", "execute p",
		"set search_path = elsewhere, public", "execute p", "reset search_path", "execute p",
	}},
	{rule: "6", quote: "and temp tables", steps: []string{
		"prepare p as select count(*), sum(volume) from ohlcv where symbol='file:AAA' and timeframe='1d'", "create temp table ohlcv as table elsewhere.rows",
		"execute p", "drop table pg_temp.ohlcv", "execute p",
	}},
	{rule: "8", quote: "SET timezone='Asia/Tokyo'; SELECT … '2024-01-01' moves nine hours", answer: "2024-03-10 00:00:00+09", steps: []string{
		"set timezone='Asia/Tokyo'; select min(ts) from ohlcv where symbol='file:AAA' and timeframe='1h' and ts >= '2024-03-10' and ts < '2024-03-11'",
	}},
	{rule: "12", quote: "the standard gap finder reads everything", steps: []string{
		`select count(*), min(g.ts) from generate_series(timestamptz '2024-03-05Z', '2024-03-12Z', '1 hour') g(ts)
			left join ohlcv o on o.ts = g.ts and o.symbol='file:GAP' and o.timeframe='1h' where o.ts is null`,
	}},
	{rule: "13", quote: "symbol::varchar(n) matches longer names", answer: "2", steps: []string{
		"select count(distinct symbol) from ohlcv where symbol in ('file:AAA', 'file:AAAX') and symbol::varchar(8) = 'file:AAA' and timeframe='1d'",
	}},
	{rule: "14", quote: "on 2024-11-03 in New York ts AT TIME ZONE z >= '01:30' matches 120 rows where the naive inverse keeps 90", answer: "120", steps: []string{
		"select count(*) from ohlcv where symbol='file:ZONE' and timeframe='1m' and ts at time zone 'America/New_York' >= '2024-11-03 01:30' and ts < '2024-11-03 08:00Z'",
	}},
	{rule: "14", quote: "time_bucket('1 hour', ts, z) can lie after ts", steps: []string{
		`select count(*), min(ts), max(ts) from ohlcv where symbol='file:ZONE' and timeframe='1m' and time_bucket('1 hour', ts, 'America/New_York') >= '2024-11-03 06:00Z'`,
		`select count(*), min(ts), max(ts) from ohlcv where symbol='file:ZONE' and timeframe='1m' and time_bucket('1 hour', ts, 'America/New_York') < '2024-11-03 06:00Z'`,
	}},
	{rule: "14", quote: "Jan 31 + 1 month = Feb 29", answer: "3", steps: []string{
		"select count(*) from ohlcv where symbol='file:LEAP' and timeframe='1d' and ts + interval '1 month' = '2024-02-29Z'",
	}},
	{rule: "14", quote: "Feb 29 − 1 month = Jan 29", answer: "2024-02-29 00:00:00+00", steps: []string{
		"select max(ts) from ohlcv where symbol='file:LEAP' and timeframe='1d' and ts - interval '1 month' <= '2024-01-29Z'",
	}},
	{rule: "17", quote: "with only the newest bars stored, a 20-row window before LIMIT 2", steps: []string{
		"select ts from ohlcv where symbol='file:AAA' and timeframe='1h' order by ts desc limit 2",
		"select ts, avg(close) over (order by ts rows 19 preceding) from ohlcv where symbol='file:AAA' and timeframe='1h' order by ts desc limit 2",
	}},
	{rule: "17", quote: "GROUP BY time_bucket … LIMIT 3", steps: []string{
		"select ts from ohlcv where symbol='file:AAA' and timeframe='1h' order by ts desc limit 3",
		"select time_bucket('1 day', ts) b, max(high), count(*) from ohlcv where symbol='file:AAA' and timeframe='1h' group by b order by b desc limit 3",
	}},
	{rule: "17", quote: "DISTINCT … LIMIT 3", steps: []string{
		"select ts from ohlcv where symbol='file:AAA' and timeframe='1h' order by ts desc limit 3",
		"select distinct ts::date as d from ohlcv where symbol='file:AAA' and timeframe='1h' order by d desc limit 3",
	}},
	{rule: "19", quote: "uncommitted rows", steps: []string{
		"begin", "insert into mine values ('file:BBB', 'none', '2000-01-01Z', 0, 'asked')",
		"select count(*), sum(volume) from ohlcv where symbol in (select symbol from mine where note = 'asked') and timeframe='1d'", "rollback",
	}},
	{rule: "19", quote: "temp tables", steps: []string{
		"create temp table wanted as select 'file:BBB' as symbol",
		"select count(*), sum(volume) from ohlcv where symbol in (select symbol from wanted) and timeframe='1d'", "drop table wanted",
	}},
	{rule: "19", quote: "row security differ", around: []string{
		"create table watched (symbol text, owner name)", "insert into watched values ('file:AAA', 'reader'), ('file:BBB', 'another')",
		"alter table watched enable row level security", "create policy own on watched using (owner = current_user)",
		"do $$ begin create role reader; exception when duplicate_object or unique_violation then null; end $$", "grant select on watched, ohlcv to reader",
	}, steps: []string{
		"set role reader", "select symbol, count(*) from ohlcv where symbol in (select symbol from watched) and timeframe='1d' group by symbol", "reset role",
	}},
}

// TestT_WhatWasTried: each [T] of PLANNER.md, through an empty barkeep and straight at a database that holds every bar.
func TestT_WhatWasTried(t *testing.T) { //nolint:tparallel // the cases share two sessions
	t.Parallel()
	c := triedMarket(t)
	for _, one := range triedRules {
		t.Run(one.rule+" "+one.quote, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for _, conn := range []*pgx.Conn{c.direct, c.through} {
				for _, sql := range one.around {
					mustExec(t, conn, sql)
				}
			}
			require.NoError(t, c.stack.emptied(ctx))
			for i, sql := range one.steps {
				want, err := query(ctx, c.direct, sql)
				require.NoError(t, err, sql)
				got, err := query(ctx, c.through, sql)
				if one.refused && i == len(one.steps)-1 {
					require.Equal(t, "0A000", sqlState(err), "%s: %v", sql, got)
					continue
				}
				require.NoError(t, err, sql)
				require.Empty(t, compareRows(want, got, false), sql)
				if one.answer != "" && i == len(one.steps)-1 {
					require.Equal(t, one.answer, strings.Join(want, ","))
				}
			}
			for _, conn := range []*pgx.Conn{c.direct, c.through} {
				mustExec(t, conn, "deallocate all; reset timezone")
			}
		})
	}
}

// TestT_OneNamespace: SQL PREPARE and protocol Parse share one namespace (PLANNER 6).
func TestT_OneNamespace(t *testing.T) {
	t.Parallel()
	c := triedMarket(t)
	const sql = "select count(*), sum(volume) from ohlcv where symbol='file:AAA' and timeframe='1h'"
	var answers [2][2]string
	for i, conn := range []*pgx.Conn{c.direct, c.through} {
		_, err := conn.PgConn().Prepare(t.Context(), "parsed", sql, nil)
		require.NoError(t, err)
		rows, err := query(t.Context(), conn, "execute parsed")
		require.NoError(t, err)
		answers[i][0] = strings.Join(rows, ",")
		require.NoError(t, c.stack.emptied(t.Context()))
		mustExec(t, conn, "prepare said as "+sql)
		result := conn.PgConn().ExecPrepared(t.Context(), "said", nil, nil, nil).Read()
		require.NoError(t, result.Err)
		answers[i][1] = string(result.Rows[0][0]) + "|" + string(result.Rows[0][1])
	}
	require.Equal(t, answers[0], answers[1])
	require.Equal(t, answers[0][0], answers[0][1])
}

// TestT_NullMakesItRead: (ts < $1) IS NOT TRUE with NULL reads everything (PLANNER 12).
func TestT_NullMakesItRead(t *testing.T) {
	t.Parallel()
	c := triedMarket(t)
	const sql = "select count(*), sum(volume) from ohlcv where symbol='file:AAA' and timeframe='1h' and (ts < $1) is not true"
	var answers [2]string
	for i, conn := range []*pgx.Conn{c.direct, c.through} {
		result := conn.PgConn().ExecParams(t.Context(), sql, [][]byte{nil}, nil, nil, nil).Read()
		require.NoError(t, result.Err)
		answers[i] = string(result.Rows[0][0]) + "|" + string(result.Rows[0][1])
	}
	require.Equal(t, answers[0], answers[1])
	require.True(t, strings.HasPrefix(answers[0], "720|"), "all of it: %s", answers[0])
}

// triedMarket holds the random market, minutes of a night in which clocks are set back, days of a leap year, and a name that begins with another.
func triedMarket(t *testing.T) *comparison {
	t.Helper()
	dir, bars := randomMarket(t, 1)
	for name, span := range map[string]struct {
		tf    market.Timeframe
		first time.Time
		count int64
	}{
		"ZONE": {market.M1, time.Date(2024, 11, 3, 0, 0, 0, 0, time.UTC), 720},
		"LEAP": {market.D1, time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), 91},
		"AAAX": {market.D1, time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), 10},
	} {
		series := market.Series{Symbol: market.Symbol("file:" + name), Timeframe: span.tf}
		for n := range span.count {
			bars[series] = append(bars[series], market.Bar{TS: span.tf.Add(market.FromTime(span.first), n), Open: 2, High: 3, Low: 1, Close: 2, Volume: float64(n)})
		}
		writeBars(t, filepath.Join(dir, name+"_"+span.tf.String()+".csv.gz"), bars[series])
	}
	return newComparison(t, "tried", dir, bars, scene{symbols: []string{"file:AAA", "file:BBB", "file:GAP"}, timeframes: []string{"1h", "1m", "1d"}, start: grammarStart})
}
