package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"barkeep/internal/dbtest"
	"barkeep/internal/market"
)

// differentialStatements is how many random statements a run compares; -rapid.checks overrules it.
const differentialStatements = "600"

// TestDifferential is promise 1 of DESIGN §1: a statement through an empty barkeep returns what it returns straight at a
// database that holds every bar. It prints rapid's seed and the shrunk statement where they differ.
func TestDifferential(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks != nil && checks.Value.String() == checks.DefValue {
		require.NoError(t, flag.Set("rapid.checks", differentialStatements))
		t.Cleanup(func() { _ = flag.Set("rapid.checks", checks.DefValue) })
	}
	dir, bars := randomMarket(t, 1)
	compareDatabases(t, dir, bars)
}

// compareDatabases runs random statements through an empty barkeep over the files in dir and straight at a database
// that holds bars.
func compareDatabases(t *testing.T, dir string, bars map[market.Series][]market.Bar) {
	t.Helper()
	full := dbtest.New(t)
	fill(t, full.Pool, bars)
	direct, err := pgx.Connect(t.Context(), full.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = direct.Close(context.Background()) })
	stack := startStack(t, dir)
	through, err := pgx.Connect(t.Context(), stack.clientURL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = through.Close(context.Background()) })

	var tally struct {
		sync.Mutex
		same, refused, failed int
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := drawStatement(rt)
		if rapid.IntRange(0, 2).Draw(rt, "empty first") > 0 {
			stack.empty(t)
		}
		want, wantErr := execute(t.Context(), direct, s)
		got, gotErr := execute(t.Context(), through, s)
		tally.Lock()
		defer tally.Unlock()
		switch code := sqlState(gotErr); {
		case wantErr != nil:
			if code != sqlState(wantErr) && code != "0A000" {
				rt.Fatalf("%s\ndirect fails with %v, through barkeep: %v", s, wantErr, gotErr)
			}
			tally.failed++
		case code == "0A000":
			tally.refused++
		case gotErr != nil:
			rt.Fatalf("%s\nthrough barkeep: %v", s, gotErr)
		default:
			if difference := compareRows(want, got, s.ordered); difference != "" {
				rt.Fatalf("%s\n%s", s, difference)
			}
			tally.same++
		}
	})
	t.Logf("%d statements the same, %d failed on both, %d refused", tally.same, tally.failed, tally.refused)
	total := tally.same + tally.failed + tally.refused
	require.LessOrEqual(t, tally.refused*10, total, "too many refusals: nothing is shown by them")
}

func fill(tb testing.TB, pool *pgxpool.Pool, bars map[market.Series][]market.Bar) {
	tb.Helper()
	for series, all := range bars {
		_, err := pool.CopyFrom(tb.Context(), pgx.Identifier{"public", "ohlcv"},
			[]string{"symbol", "timeframe", "ts", "open", "high", "low", "close", "volume"},
			pgx.CopyFromSlice(len(all), func(i int) ([]any, error) {
				b := all[i]
				return []any{string(series.Symbol), series.Timeframe.String(), b.TS.Time(), b.Open, b.High, b.Low, b.Close, b.Volume}, nil
			}))
		require.NoError(tb, err)
	}
	_, err := pool.Exec(tb.Context(), "analyze public.ohlcv")
	require.NoError(tb, err)
}

// execute runs s in the session and returns its rows as text.
func execute(ctx context.Context, conn *pgx.Conn, s statement) ([]string, error) {
	if err := conn.PgConn().Exec(ctx, "set timezone = '"+s.zone+"'").Close(); err != nil {
		return nil, err
	}
	var results []*pgconn.Result
	if s.simple {
		all, err := conn.PgConn().Exec(ctx, s.sql).ReadAll()
		if err != nil {
			return nil, err
		}
		results = all
	} else {
		args := make([][]byte, len(s.args))
		for i, a := range s.args {
			args[i] = []byte(a)
		}
		result := conn.PgConn().ExecParams(ctx, s.sql, args, nil, nil, nil).Read()
		if result.Err != nil {
			return nil, result.Err
		}
		results = append(results, result)
	}
	var rows []string
	for _, result := range results {
		for _, row := range result.Rows {
			fields := make([]string, len(row))
			for i, value := range row {
				fields[i] = "NULL"
				if value != nil {
					fields[i] = string(value)
				}
			}
			rows = append(rows, strings.Join(fields, "|"))
		}
	}
	return rows, nil
}

func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// compareRows says how the two answers differ, nothing where they do not.
func compareRows(want, got []string, ordered bool) string {
	if !ordered {
		want, got = slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))
	}
	if slices.Equal(want, got) {
		return ""
	}
	i := 0
	for i < len(want) && i < len(got) && want[i] == got[i] {
		i++
	}
	at := func(rows []string) string {
		if i < len(rows) {
			return rows[i]
		}
		return "(no more rows)"
	}
	return fmt.Sprintf("%d rows expected, %d came; row %d\n  expected %s\n  came     %s", len(want), len(got), i, at(want), at(got))
}
