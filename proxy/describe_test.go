package proxy

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"barkeep/internal/market"
)

const (
	hourFrom = "select count(*) from ohlcv where symbol = $2 and timeframe = '1m' and ts >= $1 and ts < $1 + interval '1 hour'"
	// textUse uses a parameter in a way that the planner does not understand.
	textUse = "select count(*) from ohlcv where symbol = $1 and timeframe = '1m' and ts >= '2024-01-01Z' and ts < '2024-01-02Z' and length($1) > 3"
)

var hourStart = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// asksForAnHour checks that what was asked for since the last look is the hour, and nothing else.
func (f *filler) asksForAnHour(t *testing.T, from time.Time) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	want := market.RangeSet{{Start: market.FromTime(from), End: market.FromTime(from.Add(time.Hour))}}
	require.NotEmpty(t, f.asked)
	for _, request := range f.asked {
		require.Len(t, request.Requirements, 1)
		require.Equal(t, want, request.Requirements[0].Ranges)
	}
	f.asked = nil
}

// A parameter that Parse gives no type has the one that the upstream infers: a bound made of it is exact, in every protocol of
// the driver, outside of a block and inside, for the first execution and those after it.
func TestParameterTypes_EveryProtocol(t *testing.T) {
	b := start(t, nil)
	for _, mode := range append(askModes, pgx.QueryExecModeCacheDescribe) {
		for _, block := range []bool{false, true} {
			conn := b.connect(t, nil)
			if block {
				require.NoError(t, simpleExec(conn, "begin"))
			}
			for i := range 3 {
				b.forget(nil)
				b.symbols()
				sql, from := hourFrom, hourStart.Add(time.Duration(i)*time.Minute)
				if mode == pgx.QueryExecModeSimpleProtocol {
					sql = strings.ReplaceAll(sql, "$1", "$1::timestamptz")
				}
				var n int
				require.NoError(t, conn.QueryRow(t.Context(), sql, mode, from, "sim:BTCUSD").Scan(&n), "%v", mode)
				require.Equal(t, 10-i, n, "%v", mode)
				b.asksForAnHour(t, from)
				require.NoError(t, conn.QueryRow(t.Context(), textUse, mode, "sim:ETHUSD").Scan(&n), "%v", mode)
				require.Equal(t, 10, n, "%v", mode)
				require.Equal(t, []string{"sim:ETHUSD"}, b.symbols())
			}
			require.NoError(t, simpleExec(conn, "rollback"))
		}
	}
}

// binaryTime is a time as a driver sends it that knows its type without a word to the upstream.
func binaryTime(t *testing.T, conn *pgx.Conn, at time.Time) []byte {
	t.Helper()
	raw, err := conn.TypeMap().Encode(1184, 1, at, nil)
	require.NoError(t, err)
	return raw
}

// Parse, Bind and Execute that come together, in text and in binary.
func TestParameterTypes_OneSegment(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	for i := range 4 {
		b.forget(nil)
		b.symbols()
		from := hourStart.Add(time.Duration(i) * time.Minute)
		values, formats := [][]byte{[]byte(from.Format(time.RFC3339)), []byte("sim:BTCUSD")}, []int16(nil)
		if i%2 == 1 {
			values[0], formats = binaryTime(t, conn, from), []int16{1}
		}
		result := conn.PgConn().ExecParams(t.Context(), hourFrom, values, nil, formats, nil).Read()
		require.NoError(t, result.Err)
		b.asksForAnHour(t, from)
	}
}

// A parameter that Parse declares as unknown is one without a type: it has that of its first use, wherever else it is used.
func TestParameterTypes_DeclaredUnknown(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	const unknown = 705
	for sql, values := range map[string][][]byte{
		hourFrom: {[]byte("2024-01-01T00:00:00Z"), []byte("sim:BTCUSD")},
		"select count(*) from ohlcv where symbol = 'sim:BTCUSD' and timeframe = '1m' and ts::date >= $1 and ts >= $1 and ts < '2024-01-01 01:00Z'": {[]byte("2024-01-01 00:30")},
	} {
		b.forget(nil)
		b.symbols()
		require.NoError(t, conn.PgConn().ExecParams(t.Context(), sql, values, []uint32{unknown, unknown}[:len(values)], nil, nil).Read().Err)
		b.asksForAnHour(t, hourStart)
	}
}

// A pipeline executes what was prepared before: what is upstream is described whatever comes before it.
func TestParameterTypes_Pipeline(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	for _, name := range []string{"a", "b"} {
		_, err := conn.PgConn().Prepare(t.Context(), name, hourFrom+" and '"+name+"' <> ''", nil)
		require.NoError(t, err)
	}
	b.symbols()
	from := binaryTime(t, conn, hourStart)
	batch := &pgconn.Batch{}
	for _, name := range []string{"a", "b", "a"} {
		batch.ExecPrepared(name, [][]byte{from, []byte("sim:BTCUSD")}, []int16{1, 0}, nil)
	}
	_, err := conn.PgConn().ExecBatch(t.Context(), batch).ReadAll()
	require.NoError(t, err)
	b.asksForAnHour(t, hourStart)
}

// A name that is used again has the types of what it stands for now; what cannot be parsed has the upstream's own error.
func TestParameterTypes_OfTheVeryStatement(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	run := func(values ...[]byte) error {
		formats := []int16{1}
		if len(values) > 1 {
			formats = []int16{1, 0}
		}
		return conn.PgConn().ExecPrepared(t.Context(), "p", values, formats, nil).Read().Err
	}
	prepare := func(sql string) {
		t.Helper()
		_, err := conn.PgConn().Prepare(t.Context(), "p", sql, nil)
		require.NoError(t, err)
	}
	from := binaryTime(t, conn, hourStart)
	prepare(hourFrom)
	b.symbols()
	require.NoError(t, run(from, []byte("sim:BTCUSD")))
	b.asksForAnHour(t, hourStart)
	require.NoError(t, conn.PgConn().Deallocate(t.Context(), "p"))
	prepare(textUse)
	require.NoError(t, run([]byte("sim:XRPUSD")))
	require.Equal(t, []string{"sim:XRPUSD"}, b.symbols())
	b.forget(nil)
	require.NoError(t, simpleExec(conn, "deallocate p; prepare p as "+strings.ReplaceAll(hourFrom, "$2", "'sim:BTCUSD'")))
	require.NoError(t, run(from))
	b.asksForAnHour(t, hourStart)

	err := conn.PgConn().ExecParams(context.WithoutCancel(t.Context()), "select count(*) from ohlcv where symbol = $1 and nothere < 3 and length($1) = 3", [][]byte{[]byte("x")}, nil, []int16{1}, nil).Read().Err
	var own *pgconn.PgError
	require.ErrorAs(t, err, &own)
	require.Equal(t, "42703", own.Code)
}

// What EXPLAIN (BARKEEP) shows is what the statement would need.
func TestParameterTypes_Explain(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	for _, mode := range askModes[1:] {
		lines := strings.Join(explainedLines(t, conn, "explain (barkeep) "+hourFrom, mode, hourStart, "sim:BTCUSD"), "\n")
		require.Contains(t, lines, "60 bars needed", mode)
		require.NotContains(t, lines, "not_constant", mode)
	}
}

// In a block whose first statement takes its snapshot nothing is asked: the bars that it needs come before that. More is fetched
// than it reads, and nothing less.
func TestParameterTypes_RepeatableRead(t *testing.T) {
	b := start(t, nil)
	conn := b.connect(t, nil)
	b.forget(nil)
	require.NoError(t, simpleExec(conn, "begin isolation level repeatable read"))
	b.symbols()
	var n int
	require.NoError(t, conn.QueryRow(t.Context(), hourFrom, pgx.QueryExecModeExec, hourStart, "sim:BTCUSD").Scan(&n))
	require.Equal(t, 10, n)
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Greater(t, b.asked[0].Requirements[0].Ranges[0].End, market.FromTime(hourStart.Add(time.Hour)), "wide")
}
