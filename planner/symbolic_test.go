package planner

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRule9_AllQuestionsAtOnce: what can be asked is asked in the first round.
func TestRule9_AllQuestionsAtOnce(t *testing.T) {
	t.Parallel()
	env := Env{TimeZone: "America/New_York"}
	plan := Prepare(`select * from ohlcv a join ohlcv b on a.ts = b.ts where a.symbol like 'sim:%' and lower(b.symbol) = 'x' and b.symbol <> upper('y')
		and a.timeframe = left('1day', 2) and b.timeframe = '1h' and a.ts >= '2024-01-01' and b.ts < timestamp '2024-02-01' + interval '1 month'`, nil, env).
		Bind(Args{}, env, goldenBracket(), nil)
	require.True(t, plan.Unanswered())
	require.Len(t, plan.Questions, 4, "two texts, an instant, and a pattern; the other pattern waits for a constant beside it")
}

// TestRule10_WhatIsImmutable: of what is asked, what may be kept.
func TestRule10_WhatIsImmutable(t *testing.T) {
	t.Parallel()
	for where, want := range map[string]bool{
		"symbol = upper('a')":                                true,
		"symbol = 'a' || left('bc', 1)":                      true,
		"symbol = any(string_to_array('a,b', ','))":          true,
		"symbol = concat('a', 'b')":                          false,
		"symbol in ('A', 'B') and symbol like 'A%'":          true,
		"symbol in ('A', 'B') and concat(symbol, 'x') = 'y'": false,
		"symbol like 'A%'":                                   false, // what is listed changes
		"symbol = 'A' and ts > '2024-01-01'":                 false, // as the zone does
		"symbol = 'A' and ts > make_date(2024, 1, 1)":        false,
	} {
		env := Env{TimeZone: "Asia/Tokyo"}
		plan := Prepare("select * from ohlcv where timeframe = '1d' and "+where, nil, env).Bind(Args{}, env, goldenBracket(), nil)
		require.Len(t, plan.Questions, 1, where)
		require.Equal(t, want, plan.Questions[0].Immutable, where)
	}
}

// TestRule13_SymbolsThatAreNamed: a symbol without a prefix may be one that only this statement has named yet, wherever in it.
func TestRule13_SymbolsThatAreNamed(t *testing.T) {
	t.Parallel()
	array := binary.BigEndian.AppendUint32(nil, 1)
	array = append(array, 0, 0, 0, 0, 0, 0, 0, oidText, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 3, 'X', 'B', 'T')
	for _, c := range []struct {
		sql  string
		args Args
	}{
		{"select * from ohlcv where (symbol = 'XBT' or symbol like 'sim:%') and symbol <> 'X'", Args{}},
		{"select * from ohlcv where symbol = any('{A,XBT}') or lower(symbol) = 'x'", Args{}},
		{"select * from ohlcv where symbol = $1 or lower(symbol) = 'x'", Args{Values: [][]byte{[]byte("XBT")}}},
		{"select * from ohlcv where symbol = any($1) or lower(symbol) = 'x'", Args{Values: [][]byte{[]byte(`{"XBT",B}`)}}},
		{"select * from ohlcv where symbol = any($1) or lower(symbol) = 'x'", Args{Values: [][]byte{array}, Formats: []int16{1}}},
		{"prepare p as select * from ohlcv where symbol = $1 or lower(symbol) = 'x'; execute p('XBT')", Args{}},
		{"create view mine as select 1; select * from ohlcv where symbol = 'X' || 'BT' or lower(symbol) = 'x'", Args{}},
	} {
		require.Contains(t, namedBy(c.sql, c.args), "XBT", c.sql)
	}
}

// namedBy are the symbols that a listing is asked to look for; nil where none is asked for.
func namedBy(sql string, args Args) []string {
	answers := Answers{}
	tmpl := Prepare(sql, nil, Env{})
	for range 3 {
		for _, q := range tmpl.Bind(args, Env{}, goldenBracket(), answers).Questions {
			if q.Listed != nil {
				return q.Listed.Named
			}
			text := "XBT"
			answers[q.Key] = &text
		}
	}
	return nil
}

// TestRule4_BinaryTextsInOtherEncodings: what a text in binary means depends on client_encoding as that of one in text does.
func TestRule4_BinaryTextsInOtherEncodings(t *testing.T) {
	t.Parallel()
	env := Env{ClientEncoding: "LATIN1"}
	sql := "select * from ohlcv where timeframe = '1d' and symbol = $1"
	for value, planned := range map[string]bool{"A": true, "\xe9": false, "\xc3\xa9": false} {
		args := Args{Values: [][]byte{[]byte(value)}, Formats: []int16{1}, OIDs: []uint32{oidText}}
		plan := Prepare(sql, args.OIDs, env).Bind(args, env, goldenBracket(), nil)
		require.Equal(t, planned, plan.Refusal == nil, "%q", value)
	}
}
